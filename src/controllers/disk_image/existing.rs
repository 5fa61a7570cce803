//! Source `existing`: an image that others manage, found by name or id when it is due; the newest active one becomes a
//! version.
//!
//! Nothing in the cloud is ours here. An image whose version somebody deleted or rejected is not chosen again.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::super::index::Key;
use super::super::{Engine, Mark, provider_image, records};
use super::recorded;
use crate::api::conditions::reason;
use crate::api::disk_image::{ImageFailure, ImageSelector};
use crate::api::{DiskImage, FINALIZER_IMAGE, ProviderImage, ProviderImageSpec};
use crate::cloud::{CloudError, Image};
use crate::plan::pressure::grown;

/// First and longest pause between two failed look-ups.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The look for one image on one provider.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) under_way: bool,
    failures: u32,
    /// Not before then; `None` is when it is due.
    retry: Option<Timestamp>,
    pub(super) failure: Option<ImageFailure>,
    /// When it last found what it looked for, and by which generation of the spec.
    pub(super) found: Option<(Timestamp, Option<i64>)>,
}

/// Looks for the image when the schedule says so, when the spec is new, or when the last look failed long enough ago.
pub(super) fn look(engine: &mut Engine, key: &Key, image: &Arc<DiskImage>, selector: &ImageSelector, provider: &str) {
    let now = engine.now;
    let due = due(engine, key, image, provider);
    let place = (key.clone(), provider.to_owned());
    let memory = engine.memory.images.looks.entry(place).or_default();
    if memory.under_way {
        return;
    }
    match memory.retry.or(due) {
        Some(at) if at > now => return engine.wake(at, Mark::DiskImage(key.clone())),
        Some(_) => {}
        None => return,
    }
    let Some(cloud) = engine.connections.get(&key.sibling(provider)).map(super::super::provider::Connection::cloud)
    else {
        return;
    };
    memory.under_way = true;
    let selector = port(selector);
    let (key, provider, generation) = (key.clone(), provider.to_owned(), image.metadata.generation);
    engine.spawn(async move {
        let answer = cloud.images(&selector).await;
        move |engine: &mut Engine| looked(engine, &key, &provider, generation, answer)
    });
}

/// When to look next; `None` when nothing is to be looked for.
fn due(engine: &Engine, key: &Key, image: &DiskImage, provider: &str) -> Option<Timestamp> {
    if image.spec.suspend && provider_image::current(engine, key, provider).is_some() {
        return None;
    }
    let recorded = recorded(image, provider);
    let found = engine.memory.images.looks.get(&(key.clone(), provider.to_owned())).and_then(|look| look.found);
    let seen_this_spec = found.is_some_and(|(_, generation)| generation == image.metadata.generation)
        || (found.is_none() && observed(image) && recorded.is_some_and(|status| status.current.is_some()));
    if !seen_this_spec || provider_image::current(engine, key, provider).is_none() && found.is_none() {
        return Some(Timestamp::MIN);
    }
    // What was found a moment ago counts, also while the status does not show it yet.
    if let Some((at, _)) = found {
        return super::next_look(image, provider, at).ok().flatten();
    }
    recorded.and_then(|status| status.next_build_time.as_ref()).map(|time| time.0)
}

fn observed(image: &DiskImage) -> bool {
    image.status.as_ref().and_then(|status| status.observed_generation) == image.metadata.generation
}

pub(super) fn port(selector: &ImageSelector) -> crate::cloud::ImageSelector {
    match (&selector.id, &selector.name) {
        (Some(id), _) => crate::cloud::ImageSelector::Id(id.clone()),
        (None, name) => crate::cloud::ImageSelector::Name(name.clone().unwrap_or_default()),
    }
}

fn looked(
    engine: &mut Engine,
    key: &Key,
    provider: &str,
    generation: Option<i64>,
    answer: Result<Vec<Image>, CloudError>,
) {
    let now = engine.now;
    let place = (key.clone(), provider.to_owned());
    engine.memory.images.looks.entry(place.clone()).or_default().under_way = false;
    let Some(record) = engine.disk_images.get(key).cloned() else {
        engine.memory.images.looks.remove(&place);
        return;
    };
    if record.metadata.generation != generation {
        // It was looked for what the spec said before.
        engine.mark(Mark::DiskImage(key.clone()));
        return;
    }
    let rejected = rejected(engine, key, &record, provider);
    let found = answer.map(|images| {
        images
            .into_iter()
            .filter(|image| image.bootable() && !rejected.contains(&image.id))
            .max_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)))
    });
    let memory = engine.memory.images.looks.entry(place).or_default();
    let failure = match found {
        Ok(Some(image)) => {
            *memory = Look { found: Some((now, generation)), ..Look::default() };
            adopt(engine, key, provider, image);
            None
        }
        Ok(None) => Some((reason::IMAGE_NOT_FOUND, nothing_found(&record))),
        Err(error) if error.class == crate::cloud::ErrorClass::NotFound => {
            Some((reason::IMAGE_NOT_FOUND, nothing_found(&record)))
        }
        Err(error) => Some((reason::TRANSIENT_ERROR, error.to_string())),
    };
    if let Some((reason, message)) = failure {
        let memory = engine.memory.images.looks.entry((key.clone(), provider.to_owned())).or_default();
        memory.failures = memory.failures.saturating_add(1);
        let pause = grown(FIRST_PAUSE, memory.failures, LONGEST_PAUSE);
        memory.retry = SignedDuration::try_from(pause).ok().and_then(|pause| now.checked_add(pause).ok());
        memory.failure = Some(ImageFailure { time: Time(now), version: None, reason: reason.to_owned(), message });
    }
    engine.mark(Mark::DiskImage(key.clone()));
}

fn nothing_found(image: &DiskImage) -> String {
    let wanted = match image.spec.source.existing.as_ref().map(port) {
        Some(crate::cloud::ImageSelector::Id(id)) => format!("with the id {id}"),
        Some(crate::cloud::ImageSelector::Name(name)) => format!("named {name}"),
        None => "that matches".to_owned(),
    };
    format!("the cloud has no active image {wanted}; correct spec.source.existing, or upload one")
}

/// The found image becomes a version, unless it is one already. Its name is fixed by what was found: twice is once.
fn adopt(engine: &mut Engine, key: &Key, provider: &str, image: Image) {
    // The newest version is the one that is used: an older image that is chosen becomes a newer version.
    let newest = provider_image::of(engine, key, provider)
        .filter(|record| !record.spec.rejected && record.metadata.deletion_timestamp.is_none())
        .max_by_key(|record| record.spec.version);
    if newest.is_some_and(|newest| newest.spec.image_id.as_deref() == Some(&image.id)) {
        return;
    }
    let taken = provider_image::of(engine, key, provider).map(|record| record.spec.version).max();
    let version = taken.map_or(image.created.as_second(), |taken| image.created.as_second().max(taken + 1));
    let record = ProviderImage {
        metadata: ObjectMeta {
            name: Some(super::version_name(&key.name, provider, version)),
            namespace: Some(key.namespace.to_string()),
            finalizers: Some(vec![FINALIZER_IMAGE.to_owned()]),
            labels: Some(super::labels(&key.name, provider, version)),
            ..ObjectMeta::default()
        },
        spec: ProviderImageSpec {
            disk_image: key.name.to_string(),
            provider: provider.to_owned(),
            version,
            image_id: Some(image.id),
            managed: false,
            source_hash: None,
            disk_image_generation: None,
            digest: None,
            rejected: false,
        },
        status: None,
    };
    let client = engine.setup.client.clone();
    let image = key.clone();
    engine.spawn(async move {
        let answer = records::create(&client, &record).await;
        move |engine: &mut Engine| match answer {
            Ok(version) => {
                tracing::info!(version = %Key::of(&version), "found a version");
                engine
                    .provider_images
                    .wrote(version)
                    .into_iter()
                    .for_each(|change| provider_image::changed(engine, &change));
            }
            Err(records::WriteError::AlreadyExists) => {}
            Err(error) => {
                tracing::warn!(image = %image, %error, "version not recorded; looking again");
                engine.memory.images.looks.retain(|(of, _), _| *of != image);
                engine.wake_in(FIRST_PAUSE, Mark::DiskImage(image));
            }
        }
    });
}

pub(super) fn rejected(engine: &Engine, key: &Key, image: &DiskImage, provider: &str) -> Vec<String> {
    let mut ids = recorded(image, provider).map(|status| status.rejected_image_ids.clone()).unwrap_or_default();
    let noted = engine.memory.images.rejected.get(&(key.clone(), provider.to_owned()));
    ids.extend(noted.into_iter().flatten().filter(|id| !ids.contains(id)).cloned().collect::<Vec<_>>());
    let records = engine.provider_images.iter().filter(|(version, record)| {
        version.namespace == key.namespace
            && *record.spec.disk_image == *key.name
            && record.spec.provider == provider
            && record.spec.rejected
    });
    let newer: Vec<String> = records.filter_map(|(_, record)| record.spec.image_id.clone()).collect();
    for id in newer {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

/// A version is being deleted by hand: its image is noted in status, so that it does not come back by itself. True
/// once that is recorded, or when there is nothing to record it on.
pub fn note_rejection(engine: &mut Engine, version: &ProviderImage) -> bool {
    let key = Key::of(version).sibling(&version.spec.disk_image);
    let (Some(image), Some(id)) = (engine.disk_images.get(&key).cloned(), &version.spec.image_id) else { return true };
    let listed = image.spec.providers.contains(&version.spec.provider);
    let superseded = provider_image::current(engine, &key, &version.spec.provider)
        .is_some_and(|current| current.spec.version > version.spec.version);
    if !listed || superseded {
        return true;
    }
    if recorded(&image, &version.spec.provider).is_some_and(|status| status.rejected_image_ids.contains(id)) {
        return true;
    }
    let noted = engine.memory.images.rejected.entry((key.clone(), version.spec.provider.clone())).or_default();
    if !noted.contains(id) {
        noted.push(id.clone());
    }
    engine.mark(Mark::DiskImage(key.clone()));
    engine.wake_in(Duration::from_secs(1), Mark::ProviderImage(Key::of(version)));
    false
}
