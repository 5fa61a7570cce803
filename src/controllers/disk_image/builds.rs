//! Versions that are ours to make: which are due, which begin now, and what is remembered of attempts.
//!
//! One pass over all images decides which begin, within the bounds on how many may be in flight; the decisions are
//! [`crate::plan::image`]'s. What is remembered is written into the status, so that a restart forgets none (rule 14).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sha2::{Digest, Sha256};

use super::super::index::Key;
use super::super::{Engine, Mark, provider_image};
use super::begin;
use crate::api::conditions::reason;
use crate::api::disk_image::{DiskImageProviderStatus, ImageFailure, asked_for};
use crate::api::{DiskImage, ImageState, ProviderImage};
use crate::plan::image::{self as plan, Bounds, Candidate, Due, History, Kind, Pair, Place, Start, Version};
use crate::plan::schedule::{self, Schedule};

/// Versions begin at most so often: many records may change at once.
pub const BEGIN_EVERY: Duration = Duration::from_millis(500);

/// What the process remembers of versions that are made.
#[derive(Debug, Default)]
pub struct Memory {
    /// By image and provider: the status, with what it does not show yet.
    histories: HashMap<(Key, String), Remembered>,
    /// Where a version is being begun: its record is not answered yet.
    pub(super) beginning: HashSet<(Key, String)>,
}

/// What is remembered of one image on one provider.
#[derive(Clone, Debug, Default)]
pub(super) struct Remembered {
    history: History,
    failure: Option<ImageFailure>,
}

/// One image on one provider, with all that its plan looks at.
pub(super) struct Seen {
    versions: Vec<Version>,
    records: Vec<Arc<ProviderImage>>,
    schedule: Schedule,
    offset: Duration,
    source: String,
    remembered: Remembered,
    listed: bool,
}

impl Seen {
    /// As the plan sees it.
    pub(super) fn place<'a>(&'a self, image: &'a DiskImage, now: Timestamp) -> Place<'a> {
        Place {
            now,
            versions: &self.versions,
            retain: usize::try_from(image.spec.retain).unwrap_or(0),
            suspended: image.spec.suspend,
            listed: self.listed,
            source: &self.source,
            generation: image.metadata.generation.unwrap_or(0),
            schedule: &self.schedule,
            jitter: image.spec.refresh.jitter.as_std(),
            offset: self.offset,
            history: &self.remembered.history,
            rebuild: image.rebuild_requested(),
            answered: self.answered(),
        }
    }

    fn answered(&self) -> Option<&str> {
        let newest = self.records.iter().max_by_key(|record| record.spec.version)?;
        asked_for(&newest.metadata)
    }
}

/// How a version of the image is made; `None` for one that others manage.
pub(super) fn kind(image: &DiskImage) -> Option<Kind> {
    let source = &image.spec.source;
    match (&source.snapshot, &source.url, &source.job) {
        (Some(_), ..) => Some(Kind::Snapshot),
        (_, Some(_), _) => Some(Kind::Url),
        (.., Some(_)) => Some(Kind::Job),
        _ => None,
    }
}

/// The hash of what a version is made of: another one makes a new version at once.
pub(super) fn source_hash(image: &DiskImage) -> String {
    let text = serde_json::json!([image.spec.source, image.spec.properties]).to_string();
    Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Observes one image on one provider; `None` when its schedule cannot be read.
pub(super) fn observe(engine: &Engine, key: &Key, image: &DiskImage, provider: &str) -> Option<Seen> {
    Some(observe_by(engine, key, image, provider, schedule_of(image)?))
}

fn schedule_of(image: &DiskImage) -> Option<Schedule> {
    let refresh = &image.spec.refresh;
    Schedule::parse(&refresh.schedule, Some(&refresh.time_zone)).ok()
}

/// What a node boots from is looked for only where something may go: it takes a look at every node.
fn observe_by(engine: &Engine, key: &Key, image: &DiskImage, provider: &str, schedule: Schedule) -> Seen {
    let records: Vec<Arc<ProviderImage>> = provider_image::of(engine, key, provider).map(Arc::clone).collect();
    let place = (key.clone(), provider.to_owned());
    let remembered = engine.memory.images.builds.histories.get(&place).cloned();
    let mut remembered = remembered.unwrap_or_else(|| recorded(image, provider));
    if remembered.history.source.is_none() && records.iter().any(|record| !record.spec.managed) {
        // What is there was found: to make one is another source.
        remembered.history.source = Some(String::new());
    }
    Seen {
        versions: records.iter().map(|record| version(record)).collect(),
        records,
        schedule,
        offset: schedule::offset(image.spec.refresh.jitter.as_std(), &key.name, provider),
        source: source_hash(image),
        remembered,
        listed: image.spec.providers.iter().any(|name| name == provider)
            && image.metadata.deletion_timestamp.is_none()
            && !is_draining(engine, &key.sibling(provider)),
    }
}

fn version(record: &ProviderImage) -> Version {
    Version {
        number: record.spec.version,
        state: provider_image::state(record),
        rejected: record.spec.rejected,
        deleting: record.metadata.deletion_timestamp.is_some(),
        managed: record.spec.managed,
        booting: false,
    }
}

fn recorded(image: &DiskImage, provider: &str) -> Remembered {
    let Some(status) = super::recorded(image, provider) else { return Remembered::default() };
    Remembered {
        history: History {
            started: status.last_build_time.as_ref().map(|time| time.0),
            source: status.source_hash.clone(),
            generation: status.generation,
            failures: u32::try_from(status.failures).unwrap_or(0),
            failed_at: status.last_failure.as_ref().map(|failure| failure.time.0),
            anticipated: status.anticipated_run.as_ref().map(|time| time.0),
            rebuild: status.rebuild_requested_at.clone(),
            rebuild_pending: status.rebuild_pending,
        },
        failure: status.last_failure.clone(),
    }
}

/// Takes what the records tell of attempts into what is remembered.
pub(super) fn learn(engine: &mut Engine, key: &Key, image: &DiskImage, provider: &str) {
    let Some(seen) = observe(engine, key, image, provider) else { return };
    let mut history = plan::settled(&seen.place(image, engine.now));
    let mut failure = seen.remembered.failure.clone();
    let last = seen.records.iter().filter(|record| record.spec.managed).max_by_key(|record| record.spec.version);
    let of_last = last.filter(|last| history.started.is_none_or(|at| last.spec.version >= at.as_second()));
    match of_last.map(|last| (last, last.state())) {
        // Numbers are seconds: an attempt without a record may have begun in the second of the version before it.
        Some((last, ImageState::Ready)) if failed_since(&failure, last) => {}
        Some((last, ImageState::Ready)) if !last.spec.rejected && last.metadata.deletion_timestamp.is_none() => {
            history = history.succeeded();
            failure = None;
        }
        Some((last, _)) if last.spec.rejected => history = history.unwanted(),
        Some((last, ImageState::Failed | ImageState::Rejected)) if !is_told(&failure, last) => {
            history = history.failed(engine.now);
            // It is known to have failed since now, not since it began.
            history.failed_at = Some(engine.now);
            failure = Some(failure_of(last, engine.now));
        }
        _ => {}
    }
    let place = (key.clone(), provider.to_owned());
    engine.memory.images.builds.histories.insert(place, Remembered { history, failure });
}

/// Whether an attempt without a record failed after this version was good.
fn failed_since(failure: &Option<ImageFailure>, version: &ProviderImage) -> bool {
    let ready = version.status.as_ref().and_then(|status| status.ready_at.as_ref());
    let failed = failure.as_ref().filter(|failure| failure.version.is_none()).map(|failure| &failure.time);
    ready.zip(failed).is_some_and(|(ready, failed)| failed.0 >= ready.0)
}

fn is_told(failure: &Option<ImageFailure>, record: &ProviderImage) -> bool {
    failure.as_ref().is_some_and(|failure| failure.version == Some(record.spec.version))
}

fn failure_of(record: &ProviderImage, at: Timestamp) -> ImageFailure {
    let fault = record.status.as_ref().and_then(|status| status.fault.clone());
    let rejected = record.state() == ImageState::Rejected;
    let fallback = if rejected { reason::VALIDATION_FAILED } else { reason::BUILD_FAILED };
    ImageFailure {
        time: Time(at),
        version: Some(record.spec.version),
        reason: fault.as_ref().map(|fault| fault.reason.clone()).filter(|r| !r.is_empty()).unwrap_or(fallback.into()),
        message: fault.map_or_else(|| "it could not be made".to_owned(), |fault| fault.message),
    }
}

/// An attempt began then; with a reason when it ended before it had a record.
pub(super) fn note_attempt(
    engine: &mut Engine,
    key: &Key,
    image: &DiskImage,
    provider: &str,
    (at, failure): (Timestamp, Option<(&str, String)>),
) {
    let Some(seen) = observe(engine, key, image, provider) else { return };
    let now = engine.now;
    // As of the time that gave the version its number: by it the record is known as that of the last attempt.
    let begun = plan::begun(&seen.place(image, at));
    let (history, shown) = match failure {
        None => (begun, seen.remembered.failure.clone()),
        Some((reason, mut message)) => {
            message.truncate(message.floor_char_boundary(2048));
            let failure = ImageFailure { time: Time(now), version: None, reason: reason.to_owned(), message };
            (begun.failed(now), Some(failure))
        }
    };
    let place = (key.clone(), provider.to_owned());
    engine.memory.images.builds.histories.insert(place, Remembered { history, failure: shown });
    engine.mark(Mark::DiskImage(key.clone()));
}

/// Nothing new was there to make: as good as made.
pub(super) fn note_unchanged(engine: &mut Engine, key: &Key, image: &DiskImage, provider: &str, at: Timestamp) {
    note_attempt(engine, key, image, provider, (at, None));
    let place = (key.clone(), provider.to_owned());
    if let Some(remembered) = engine.memory.images.builds.histories.get_mut(&place) {
        remembered.history = remembered.history.succeeded();
        remembered.failure = None;
    }
}

/// A DiskImage's record is gone: a later one of its name starts afresh.
pub(super) fn forget(engine: &mut Engine, key: &Key) {
    engine.memory.images.builds.histories.retain(|(of, _), _| of != key);
}

/// What the status shows of one provider.
pub(super) fn show(engine: &Engine, key: &Key, image: &DiskImage, status: &mut DiskImageProviderStatus) {
    let Some(seen) = observe(engine, key, image, &status.name) else { return };
    let place = seen.place(image, engine.now);
    let history = plan::settled(&place);
    let scheduled = || seen.schedule.next_after(history.anticipated.max(history.started)?, seen.offset);
    let next = match plan::due(&place) {
        Due::At(at) => Some(at),
        Due::InFlight => scheduled(),
        Due::Now(_) => plan::due_since(&place).filter(|at| *at > Timestamp::MIN),
        Due::Suspended | Due::Never => None,
    };
    status.next_build_time = next.map(Time);
    status.last_build_time = history.started.map(Time);
    status.source_hash.clone_from(&history.source);
    status.generation = history.generation;
    status.failures = i32::try_from(history.failures).unwrap_or(i32::MAX);
    status.last_failure = seen.remembered.failure.clone();
    status.anticipated_run = history.anticipated.map(Time);
    status.rebuild_requested_at.clone_from(&history.rebuild);
    status.rebuild_pending = history.rebuild_pending;
}

/// Whether the image of a version is still to be on its provider.
pub fn wants(engine: &Engine, key: &Key, version: &ProviderImage) -> bool {
    let image = key.sibling(&version.spec.disk_image);
    let provider = &version.spec.provider;
    engine.disk_images.get(&image).is_none_or(|record| {
        record.spec.providers.contains(provider)
            && !is_draining(engine, &key.sibling(provider))
            && kind(record).is_some_and(|kind| provider_image::is_made_so(engine, version, kind))
    })
}

fn is_draining(engine: &Engine, provider: &Key) -> bool {
    engine.providers.get(provider).is_some_and(|provider| provider.metadata.deletion_timestamp.is_some())
}

/// Whether a version is in flight, or being begun, on a provider.
pub(super) fn in_flight(engine: &Engine, key: &Key, provider: &str) -> bool {
    engine.memory.images.builds.beginning.contains(&(key.clone(), provider.to_owned()))
        || provider_image::of(engine, key, provider).any(|record| record.in_flight())
}

/// Whether the version that is in flight on a provider only waits to be given servers, or is tried.
fn waits_for_server(engine: &Engine, key: &Key, provider: &str) -> bool {
    let waits = |record: &ProviderImage| {
        let blocked = record.metadata.uid.as_ref().is_some_and(|uid| engine.memory.allocation.images.contains_key(uid));
        blocked || record.state() == ImageState::Validating
    };
    provider_image::of(engine, key, provider).filter(|record| record.in_flight()).any(|record| waits(record))
}

/// Deletes the records of versions that nobody needs any more (rule 7).
pub(super) fn retire(engine: &mut Engine, key: &Key, image: &DiskImage) {
    for provider in providers_of(engine, key, image) {
        // Whatever the schedule says: what is not wanted any more goes.
        let fallback = || Schedule::parse("@yearly", None).ok();
        let Some(schedule) = schedule_of(image).or_else(fallback) else { continue };
        let mut seen = observe_by(engine, key, image, &provider, schedule);
        for (version, record) in seen.versions.iter_mut().zip(&seen.records) {
            version.booting = provider_image::is_booting(engine, &Key::of(&**record));
        }
        let place = seen.place(image, engine.now);
        for index in plan::retire(&place) {
            let (Some(version), Some(record)) = (seen.versions.get(index), seen.records.get(index)) else { continue };
            let staying = plan::stays_for(&place, version).into_iter().filter_map(|index| seen.records.get(index));
            provider_image::retire(engine, record, staying.map(Arc::clone).collect());
        }
    }
}

/// Where the image is wanted, and where there are versions of it.
fn providers_of(engine: &Engine, key: &Key, image: &DiskImage) -> Vec<String> {
    let mut providers = image.spec.providers.clone();
    for (version, record) in engine.provider_images.iter() {
        let of_image = version.namespace == key.namespace && *record.spec.disk_image == *key.name;
        if of_image && !providers.contains(&record.spec.provider) {
            providers.push(record.spec.provider.clone());
        }
    }
    providers
}

/// One pass: which versions begin now.
pub fn pass(engine: &mut Engine) {
    let mut images: Vec<(Key, Arc<DiskImage>)> = engine
        .disk_images
        .iter()
        .filter(|(_, image)| image.metadata.deletion_timestamp.is_none() && kind(image).is_some())
        .map(|(key, image)| (key.clone(), Arc::clone(image)))
        .collect();
    images.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let mut providers: Vec<Key> = engine.providers.iter().map(|(key, _)| key.clone()).collect();
    providers.sort_unstable();
    let (mut candidates, mut flying, mut wakes) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (key, image)) in images.iter().enumerate() {
        for name in &image.spec.providers {
            let Ok(provider) = providers.binary_search(&key.sibling(name)) else { continue };
            if in_flight(engine, key, name) {
                // What waits for a server holds up nobody else (rule 13).
                if !waits_for_server(engine, key, name) {
                    flying.push(Pair { image: number, provider });
                }
                continue;
            }
            match candidate(engine, key, image, name) {
                Wish::Due(due_since, joinable, kind) => {
                    candidates.push(Candidate { image: number, provider, due_since, kind, joinable });
                    wakes.extend(joinable.then_some(due_since));
                }
                Wish::Later(at) => wakes.push(at),
                Wish::Never => {}
            }
        }
    }
    let setup = &engine.setup;
    let bounds = Bounds { per_provider: setup.builds_per_provider, in_all: setup.builds };
    for Start { image, kind, providers: of } in plan::admit(&candidates, &flying, bounds) {
        let Some((key, image)) = images.get(image) else { continue };
        let names: Vec<String> =
            of.iter().filter_map(|&provider| providers.get(provider)).map(|key| key.name.to_string()).collect();
        begin::begin(engine, key, image, kind, &names);
    }
    let next = wakes.into_iter().filter(|at| *at > engine.now).min();
    next.into_iter().for_each(|at| engine.wake(at, Mark::Builds));
}

/// What one image wants on one provider.
enum Wish {
    Due(Timestamp, bool, Kind),
    Later(Timestamp),
    Never,
}

fn candidate(engine: &Engine, key: &Key, image: &DiskImage, provider: &str) -> Wish {
    let (Some(seen), Some(kind)) = (observe(engine, key, image, provider), kind(image)) else { return Wish::Never };
    if !can_begin(engine, &key.sibling(provider), kind) {
        return Wish::Never;
    }
    let place = seen.place(image, engine.now);
    match plan::due(&place) {
        Due::Now(_) => Wish::Due(plan::due_since(&place).unwrap_or(engine.now), false, kind),
        // One file serves all whose turn comes within the jitter: they may as well join.
        Due::At(at) => match plan::joinable(&place).filter(|_| kind != Kind::Snapshot) {
            Some(run) => Wish::Due(run, true, kind),
            None => Wish::Later(at),
        },
        Due::InFlight | Due::Suspended | Due::Never => Wish::Never,
    }
}

/// Whether anything can be begun on a provider: what would only wait there must not hold a place among those in flight.
fn can_begin(engine: &Engine, provider: &Key, kind: Kind) -> bool {
    let paused = engine.providers.get(provider).is_none_or(|record| record.spec.paused);
    let connected = engine
        .connections
        .get(provider)
        .is_some_and(|connection| connection.error.is_none() && connection.listed_full().is_some());
    connected && !(paused && kind == Kind::Snapshot)
}
