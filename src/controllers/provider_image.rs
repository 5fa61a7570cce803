//! One version of one image on one provider: which is current, what its record shows, and how it goes.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;

use super::index::{Change, Key};
use super::{Engine, Mark, records};
use crate::api::conditions::{self, Desired, READY, reason};
use crate::api::{FINALIZER_IMAGE, ImageState, ProviderImage};

/// Versions that were rejected or deleted, as the watch tells it: asked when a boot request's turn has come, which may
/// be long after the API server was asked (rule 8).
#[derive(Clone, Debug, Default)]
pub struct Rejected(Arc<RwLock<HashSet<Key>>>);

impl Rejected {
    /// Whether this version is among them.
    #[must_use]
    pub fn holds(&self, version: Option<&Key>) -> bool {
        version.is_some_and(|version| self.0.read().unwrap_or_else(PoisonError::into_inner).contains(version))
    }

    fn note(&self, version: &Key, rejected: bool) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if rejected {
            all.insert(version.clone());
        } else {
            all.remove(version);
        }
    }
}

/// A version's record changed.
pub fn changed(engine: &mut Engine, change: &Change<ProviderImage>) {
    let (Change::Updated(version, _) | Change::Removed(version)) = change;
    let key = Key::of(&**version);
    let over = version.spec.rejected || version.metadata.deletion_timestamp.is_some();
    engine.rejected.note(&key, over && matches!(change, Change::Updated(..)));
    let siblings: Vec<Key> = engine
        .provider_images
        .iter()
        .filter(|(other, record)| {
            other.namespace == key.namespace
                && record.spec.disk_image == version.spec.disk_image
                && record.spec.provider == version.spec.provider
        })
        .map(|(other, _)| other.clone())
        .collect();
    siblings.into_iter().for_each(|other| engine.mark(Mark::ProviderImage(other)));
    engine.mark(Mark::ProviderImage(key.clone()));
    engine.mark(Mark::DiskImage(key.sibling(&version.spec.disk_image)));
    engine.mark(Mark::Allocation);
}

/// The versions of an image on a provider that nodes may be booted from, newest first (rule 8).
pub fn usable<'a>(engine: &'a Engine, image: &'a Key, provider: &'a str) -> Vec<&'a Arc<ProviderImage>> {
    let mut versions: Vec<&Arc<ProviderImage>> = engine
        .provider_images
        .iter()
        .filter(|(key, version)| {
            key.namespace == image.namespace
                && *version.spec.disk_image == *image.name
                && version.spec.provider == provider
        })
        .map(|(_, version)| version)
        .filter(|version| {
            !version.spec.rejected
                && version.metadata.deletion_timestamp.is_none()
                && version.state() == ImageState::Ready
        })
        .collect();
    versions.sort_by_key(|version| Reverse(version.spec.version));
    versions
}

/// The version that nodes are booted from.
pub fn current(engine: &Engine, image: &Key, provider: &str) -> Option<Arc<ProviderImage>> {
    usable(engine, image, provider).first().map(|version| Arc::clone(version))
}

/// Observe, act, report.
pub fn reconcile(engine: &mut Engine, key: &Key) {
    let Some(version) = engine.provider_images.get(key).cloned() else { return };
    if version.metadata.deletion_timestamp.is_some() {
        remove(engine, key, &version);
        return;
    }
    let image = key.sibling(&version.spec.disk_image);
    let orphan = engine.disk_images.get(&image).is_none() && !engine.disk_images.is_unreadable(&image);
    if !version.spec.managed && orphan {
        // Nothing in the cloud is ours here: without its DiskImage the record says nothing any more.
        let (client, seen) = (engine.setup.client.clone(), Arc::clone(&version));
        engine.write_once(
            Mark::ProviderImage(key.clone()),
            async move { records::delete(&client, &*seen).await },
            |engine, version| {
                let change = version.and_then(|version: ProviderImage| engine.provider_images.wrote(version));
                change.into_iter().for_each(|change| changed(engine, &change));
            },
        );
        return;
    }
    report(engine, key, &version);
}

/// An image that others manage is only let go; before that, the DiskImage notes that it was rejected by hand, so that
/// the same version never comes back by itself.
fn remove(engine: &mut Engine, key: &Key, version: &Arc<ProviderImage>) {
    if !version.finalizers().iter().any(|name| name == FINALIZER_IMAGE)
        || !super::disk_image::note_rejection(engine, version)
    {
        return;
    }
    let rest: Vec<&String> = version.finalizers().iter().filter(|name| *name != FINALIZER_IMAGE).collect();
    let change = json!({ "metadata": { "finalizers": rest } });
    let (client, seen) = (engine.setup.client.clone(), Arc::clone(version));
    engine.write_once(
        Mark::ProviderImage(key.clone()),
        async move { records::patch(&client, &*seen, change).await },
        |engine, version: ProviderImage| {
            engine.provider_images.remove(&version).into_iter().for_each(|change| changed(engine, &change));
        },
    );
}

fn report(engine: &mut Engine, key: &Key, version: &Arc<ProviderImage>) {
    let image = key.sibling(&version.spec.disk_image);
    let old = version.status.clone().unwrap_or_default();
    let mut new = old.clone();
    new.observed_generation = version.metadata.generation;
    new.hostname = format!("{}-{}.template.{}", version.spec.disk_image, version.spec.version, version.spec.provider);
    if let Some(id) = &version.spec.image_id {
        new.image_id = Some(id.clone());
        if new.state == ImageState::Building {
            new.state = ImageState::Ready;
            new.ready_at = Some(Time(engine.now));
        }
    }
    if version.spec.rejected && new.state.may_become(ImageState::Rejected) {
        new.state = ImageState::Rejected;
    }
    new.current = current(engine, &image, &version.spec.provider).is_some_and(|current| current.uid() == version.uid());
    let desired = match new.state {
        ImageState::Ready => Desired::yes(READY, reason::AS_EXPECTED, ""),
        ImageState::Rejected => {
            Desired::no(READY, reason::REJECTED, "it was rejected; nothing is booted from it any more")
        }
        _ => Desired::no(READY, reason::BUILDING, "it is being made"),
    };
    conditions::set(&mut new.conditions, &desired, version.metadata.generation, &Time(engine.now));
    engine.report(Mark::ProviderImage(key.clone()), version, &old, &new, |engine, version: ProviderImage| {
        engine.provider_images.wrote(version).into_iter().for_each(|change| changed(engine, &change));
    });
}
