//! What a version's record says: its state, how far it is, why it failed, and whether nodes boot from it.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::super::index::Key;
use super::super::{Engine, Mark};
use super::{Failure, changed, current, servers, work};
use crate::api::conditions::{self, Desired, READY, reason};
use crate::api::provider_image::ImageFault;
use crate::api::{ImageState, ProviderImage, ProviderImageStatus};

/// What a version says that others manage.
pub(super) fn existing(engine: &mut Engine, key: &Key, version: &Arc<ProviderImage>) {
    let old = version.status.clone().unwrap_or_default();
    let mut new = old.clone();
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
    write(engine, key, version, &old, new);
}

/// What is seen of a version whose state stays, but for the way into the cloud, which is told as it begins.
pub(super) fn progress(engine: &mut Engine, key: &Key, version: &Arc<ProviderImage>) {
    let old = version.status.clone().unwrap_or_default();
    let mut new = seen(engine, version, &old);
    let uploading = version.uid().and_then(|uid| Some(engine.memory.works.works.get(&uid)?.uploading));
    if uploading == Some(true) && new.state == ImageState::Building {
        new.state = ImageState::Uploading;
    }
    if version.metadata.deletion_timestamp.is_some() && new.state.may_become(ImageState::Deleting) {
        new.state = ImageState::Deleting;
    }
    write(engine, key, version, &old, new);
}

/// A version goes on.
pub(super) fn state(engine: &mut Engine, key: &Key, version: &Arc<ProviderImage>, state: ImageState) {
    let old = version.status.clone().unwrap_or_default();
    let mut new = seen(engine, version, &old);
    new.state = state;
    new.progress = None;
    new.made_at = new.made_at.or(Some(Time(engine.now)));
    if state == ImageState::Ready {
        new.ready_at = Some(Time(engine.now));
    }
    write(engine, key, version, &old, new);
}

/// A version ends badly.
pub(super) fn ended(
    engine: &mut Engine,
    key: &Key,
    version: &Arc<ProviderImage>,
    state: ImageState,
    failure: Option<Failure>,
) {
    let old = version.status.clone().unwrap_or_default();
    let mut new = seen(engine, version, &old);
    new.state = state;
    new.progress = None;
    new.fault = new.fault.or_else(|| why(engine, version, failure));
    write(engine, key, version, &old, new);
    // Whoever still works for it stops. What it did is remembered until this is written: the write may be lost.
    if let Some(work) = version.uid().and_then(|uid| engine.memory.works.works.get(&uid)) {
        work.cancel.cancel();
    }
}

fn why(engine: &Engine, version: &ProviderImage, failure: Option<Failure>) -> Option<ImageFault> {
    let uid = version.uid()?;
    let of_server = || engine.memory.works.faults.get(&uid).cloned().or_else(|| node_fault(engine, &uid));
    match failure {
        Some(Failure::Work) => engine.memory.works.works.get(&uid).and_then(|work| work.fault.clone()).or_else(|| {
            version.spec.rejected.then(|| work::fault(reason::REJECTED, "it was rejected while it was made"))
        }),
        Some(Failure::Server) => of_server(),
        Some(Failure::Timeout) => {
            let what = if version.state() == ImageState::Validating { "tried" } else { "made" };
            let trouble = engine.memory.works.troubles.get(&uid).map(|trouble| format!("; the last launch: {trouble}"));
            let message = format!("it was not {what} within buildTimeout{}", trouble.unwrap_or_default());
            Some(work::fault(reason::BUILD_TIMEOUT, message))
        }
        Some(Failure::Interrupted) => Some(work::fault(
            reason::INTERRUPTED,
            "the operator was restarted while the version was made; a new one is made",
        )),
        Some(Failure::Unwanted) => {
            let message = "the DiskImage does not list the Provider any more, or the Provider is being deleted";
            Some(work::fault(reason::DRAINING, message))
        }
        None => of_server(),
    }
}

/// What a node tells whose launch failed before this process began.
fn node_fault(engine: &Engine, uid: &str) -> Option<ImageFault> {
    let node = servers::of(engine, uid).find(|node| node.status.as_ref().is_some_and(|s| s.fault.is_some()))?;
    let fault = node.status.as_ref()?.fault.as_ref()?;
    let message = format!("the server {} did not become reachable: {}", node.name_any(), fault.message);
    Some(ImageFault { console: fault.console.clone(), ..work::fault(reason::VALIDATION_FAILED, message) })
}

/// The status as before, with what this process saw since.
fn seen(engine: &Engine, version: &ProviderImage, old: &ProviderImageStatus) -> ProviderImageStatus {
    let mut new = old.clone();
    let uid = version.uid().unwrap_or_default();
    if let Some(server) = servers::of(engine, &uid).find(|node| node.is_build()) {
        let known = server.status.as_ref().and_then(|status| status.server_id.clone());
        new.server_id = known.or(new.server_id);
    }
    if let Some(work) = engine.memory.works.works.get(&uid) {
        new.image_id = work.image_id.clone().or(new.image_id);
        new.progress = work.progress.clone().or(new.progress);
        if !work.log.is_empty() {
            new.log = Some(work.log.clone());
        }
    }
    new
}

fn write(
    engine: &mut Engine,
    key: &Key,
    version: &Arc<ProviderImage>,
    old: &ProviderImageStatus,
    mut new: ProviderImageStatus,
) {
    new.observed_generation = version.metadata.generation;
    new.hostname = format!("{}-{}.template.{}", version.spec.disk_image, version.spec.version, version.spec.provider);
    let image = key.sibling(&version.spec.disk_image);
    let good =
        new.state == ImageState::Ready && !version.spec.rejected && version.metadata.deletion_timestamp.is_none();
    let newest = current(engine, &image, &version.spec.provider);
    new.current = good && newest.is_none_or(|newest| newest.spec.version <= version.spec.version);
    let desired = ready(engine, version, &new);
    conditions::set(&mut new.conditions, &desired, version.metadata.generation, &Time(engine.now));
    engine.report(Mark::ProviderImage(key.clone()), version, old, &new, |engine, version: ProviderImage| {
        engine.provider_images.wrote(version).into_iter().for_each(|change| changed(engine, &change));
    });
}

fn ready(engine: &Engine, version: &ProviderImage, status: &ProviderImageStatus) -> Desired {
    let uid = version.uid().unwrap_or_default();
    let waits = || {
        let blocked = engine.memory.allocation.images.get(&uid).map(|blocked| blocked.message.clone());
        let trouble = engine.memory.works.troubles.get(&uid);
        match (blocked, trouble) {
            (Some(blocked), Some(trouble)) => Some(format!("{blocked}; the last launch: {trouble}")),
            (blocked, trouble) => blocked.or_else(|| trouble.cloned()),
        }
    };
    if let Some((reason, message)) =
        engine.memory.works.removals.get(&uid).and_then(|removing| removing.refusal.clone())
    {
        return Desired::no(READY, reason, message);
    }
    if version.metadata.deletion_timestamp.is_some() {
        return Desired::no(READY, reason::DRAINING, "it is being removed from the cloud");
    }
    let fault = || status.fault.as_ref().map(|fault| fault.message.clone());
    match status.state {
        ImageState::Ready => Desired::yes(READY, reason::AS_EXPECTED, ""),
        ImageState::Rejected if version.spec.rejected && status.fault.is_none() => {
            Desired::no(READY, reason::REJECTED, "it was rejected; nothing is booted from it any more")
        }
        ImageState::Rejected => {
            let reason = if version.spec.rejected { reason::REJECTED } else { reason::VALIDATION_FAILED };
            Desired::no(READY, reason, fault().unwrap_or_else(|| "its trial boot failed".to_owned()))
        }
        ImageState::Failed => {
            Desired::no(READY, reason::BUILD_FAILED, fault().unwrap_or_else(|| "it could not be made".to_owned()))
        }
        ImageState::Building => {
            Desired::unknown(READY, reason::BUILDING, waits().unwrap_or_else(|| "it is being made".to_owned()))
        }
        ImageState::Uploading => Desired::unknown(READY, reason::BUILDING, "it is on its way into the cloud"),
        ImageState::Validating => {
            Desired::unknown(READY, reason::VALIDATING, waits().unwrap_or_else(|| "trial boots run".to_owned()))
        }
        ImageState::Deleting => Desired::no(READY, reason::DRAINING, "it is being removed from the cloud"),
    }
}
