//! One version of one image on one provider: which is current, how it is made, tried and shown, and how it goes.
//!
//! Observe gathers what record, nodes and process know; [`plan::image::version::decide`] answers; act does the one step
//! beside the engine. When a version is begun or retired is [`super::disk_image`]'s.

mod job;
mod output;
mod removal;
mod report;
mod servers;
mod snapshot;
mod upload;
pub mod work;

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use kube::ResourceExt;

use super::index::{Change, Key};
use super::provider::REPORT_EVERY;
use super::{Engine, Mark};
use crate::api::{DiskImage, FINALIZER_IMAGE, ImageState, NodeState, ProviderImage};
use crate::plan;
use crate::plan::image::version::{Failure, Observation, Removal, Server, Step, Trials, Work};
use crate::plan::image::{Kind, State};
use crate::plan::pressure::later;

pub use self::job::start as start_job;
pub use self::removal::retire;
pub use self::servers::{
    KeyPair, Wanted, key_pair, key_pair_to_remove, launch_ended, launch_failed, needs, tried_as, wants,
};
pub use self::upload::{address, algorithm, fetch_reason, start as start_upload};

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
    if let (Change::Removed(_), Some(uid)) = (change, version.uid()) {
        engine.memory.works.forget(&uid, &key);
    }
    let over = version.spec.rejected || version.metadata.deletion_timestamp.is_some();
    // One that is gone goes on being refused: a boot that asked before may still wait for its turn.
    engine.rejected.note(&key, over || matches!(change, Change::Removed(_)));
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
    servers::of(engine, &version.uid().unwrap_or_default())
        .filter_map(|node| node.uid())
        .collect::<Vec<_>>()
        .into_iter()
        .for_each(|node| engine.mark(Mark::Node(node)));
    engine.mark_within(super::disk_image::BEGIN_EVERY, Mark::Builds);
    engine.mark(Mark::Allocation);
}

/// A node that boots from a version changed: what waits for the end of its boots goes on (rule 7).
pub fn mark_later(engine: &mut Engine, key: Key) {
    if let Some(version) = engine.provider_images.get(&key) {
        let image = key.sibling(&version.spec.disk_image);
        engine.mark_within(REPORT_EVERY, Mark::DiskImage(image));
    }
    engine.mark_within(REPORT_EVERY, Mark::ProviderImage(key));
}

/// All versions of an image on a provider.
pub fn of<'a>(engine: &'a Engine, image: &'a Key, provider: &'a str) -> impl Iterator<Item = &'a Arc<ProviderImage>> {
    engine
        .provider_images
        .iter()
        .filter(move |(key, version)| {
            key.namespace == image.namespace
                && *version.spec.disk_image == *image.name
                && version.spec.provider == provider
        })
        .map(|(_, version)| version)
}

/// The versions of an image on a provider that nodes may be booted from, newest first (rule 8).
pub fn usable<'a>(engine: &'a Engine, image: &'a Key, provider: &'a str) -> Vec<&'a Arc<ProviderImage>> {
    let mut versions: Vec<&Arc<ProviderImage>> =
        of(engine, image, provider).filter(|version| version.is_usable()).collect();
    versions.sort_by_key(|version| Reverse(version.spec.version));
    versions
}

/// The version that nodes are booted from.
pub fn current(engine: &Engine, image: &Key, provider: &str) -> Option<Arc<ProviderImage>> {
    usable(engine, image, provider).first().map(|version| Arc::clone(version))
}

/// Observe, plan, act, report.
pub fn reconcile(engine: &mut Engine, key: &Key) {
    let Some(version) = engine.provider_images.get(key).cloned() else { return };
    let being_written = engine.memory.writing.contains(&Mark::ProviderImage(key.clone()));
    if engine.provider_images.is_unreadable(key) || being_written {
        return;
    }
    if version.metadata.deletion_timestamp.is_none() && is_orphan(engine, key, &version) {
        removal::let_go(engine, key, &version);
        return;
    }
    if !version.spec.managed {
        match version.metadata.deletion_timestamp {
            Some(_) => removal::forget(engine, key, &version),
            None => report::existing(engine, key, &version),
        }
        return;
    }
    let image = key.sibling(&version.spec.disk_image);
    if super::disk_image::is_beginning(engine, &image, &version.spec.provider) {
        // The watch was faster than the answer to our create: that decides whose work it is.
        return;
    }
    if !matches!(version.state(), ImageState::Building | ImageState::Uploading) {
        engine.memory.works.works.remove(&version.uid().unwrap_or_default());
    }
    if servers::rejects(engine, key, &version) {
        return;
    }
    job::resume(engine, key, &version);
    let step = plan::image::version::decide(&observe(engine, key, &version));
    perform(engine, key, &version, step);
}

/// Its DiskImage is gone: without it the record says nothing any more.
fn is_orphan(engine: &Engine, key: &Key, version: &ProviderImage) -> bool {
    let image = key.sibling(&version.spec.disk_image);
    engine.disk_images.get(&image).is_none() && !engine.disk_images.is_unreadable(&image)
}

fn observe(engine: &Engine, key: &Key, version: &ProviderImage) -> Observation {
    let uid = version.uid().unwrap_or_default();
    let work = engine.memory.works.works.get(&uid);
    let image = engine.disk_images.get(&key.sibling(&version.spec.disk_image));
    let made = version.status.as_ref().and_then(|status| status.made_at.clone()).or(version.creation_timestamp());
    let since = made.map_or(engine.now, |time| time.0);
    let condemned = version.metadata.deletion_timestamp.is_some();
    Observation {
        now: engine.now,
        state: state(version),
        rejected: version.spec.rejected,
        wanted: super::disk_image::wants(engine, key, version),
        condemned,
        held: version.finalizers().iter().any(|name| name == FINALIZER_IMAGE),
        work: work.map_or(Work::None, |work| work.state),
        server: server(engine, &uid),
        resumable: is_resumable(version, image.map(|image| &**image)),
        deadline: image.map_or(Timestamp::MAX, |image| later(since, image.spec.build_timeout.as_std())),
        trials: trials(engine, &uid, image.map(|image| &**image)),
        booting: condemned && is_booting(engine, key),
        removal: engine.memory.works.removals.get(&uid).map_or(Removal::Due, |removing| removing.state),
    }
}

/// Whether the cloud alone completes the image: a snapshot that it was asked for, or what an uploader has ended. The
/// bytes that a process of ours sent end with it, and what is there then may pass for a whole image.
fn is_resumable(version: &ProviderImage, image: Option<&DiskImage>) -> bool {
    let by_job = image.is_some_and(|image| image.spec.source.job.is_some());
    version.status.as_ref().is_some_and(|status| status.image_id.is_some() && (status.server_id.is_some() || by_job))
}

/// Where a version is in its life, as the plan sees it.
#[must_use]
pub fn state(version: &ProviderImage) -> State {
    match version.state() {
        ImageState::Building => State::Building,
        ImageState::Uploading => State::Uploading,
        ImageState::Validating => State::Validating,
        ImageState::Ready => State::Ready,
        ImageState::Rejected => State::Rejected,
        ImageState::Failed => State::Failed,
        ImageState::Deleting => State::Deleting,
    }
}

fn server(engine: &Engine, uid: &str) -> Server {
    if engine.memory.works.faults.contains_key(uid) {
        return Server::Failed;
    }
    let answers = servers::of(engine, uid).any(|node| node.is_build() && servers::answers(node));
    if answers { Server::Answers } else { Server::Coming }
}

fn trials(engine: &Engine, uid: &str, image: Option<&DiskImage>) -> Trials {
    let wanted = image.and_then(|image| u32::try_from(image.spec.validation.boots).ok()).unwrap_or(0);
    let good = servers::of(engine, uid).filter(|node| !node.is_build() && servers::answers(node)).count();
    // Not every launch that fails tells of the image: what does is noted as a fault (rule 3).
    let failed = engine.memory.works.faults.contains_key(uid);
    Trials { wanted, good: u32::try_from(good).unwrap_or(u32::MAX), failed }
}

/// Whether what this process does for a version is what its image is made by now.
pub fn is_made_so(engine: &Engine, version: &ProviderImage, kind: Kind) -> bool {
    let work = version.metadata.uid.as_ref().and_then(|uid| engine.memory.works.works.get(uid));
    work.is_none_or(|work| work.base_image.is_none() || kind == Kind::Snapshot)
}

/// Whether a node boots from a version right now (rule 7).
pub fn is_booting(engine: &Engine, version: &Key) -> bool {
    engine.nodes.iter().any(|(node, record)| {
        node.namespace == version.namespace
            && record.spec.provider_image.as_deref() == Some(&*version.name)
            && record.metadata.deletion_timestamp.is_none()
            && record.state() == NodeState::Building
    })
}

fn perform(engine: &mut Engine, key: &Key, version: &Arc<ProviderImage>, step: Step) {
    match step {
        Step::Wait(at) => {
            if let Some(at) = at.filter(|at| *at > engine.now && *at < Timestamp::MAX) {
                engine.wake(at, Mark::ProviderImage(key.clone()));
            }
            report::progress(engine, key, version);
        }
        Step::Make => snapshot::make(engine, key, version),
        Step::Resume => upload::resume(engine, key, version),
        Step::MarkValidating => report::state(engine, key, version, ImageState::Validating),
        Step::MarkReady => report::state(engine, key, version, ImageState::Ready),
        Step::MarkRejected => report::ended(engine, key, version, ImageState::Rejected, None),
        Step::MarkFailed(failure) => report::ended(engine, key, version, ImageState::Failed, Some(failure)),
        Step::Remove => removal::remove(engine, key, version),
        Step::Release => removal::release(engine, key, version),
    }
}
