//! One DiskImage: a usable version on every provider, made or looked for when it is due, and what it shows.
//!
//! Which version nodes boot from is [`super::provider_image::current`]'s answer; how one is made is
//! [`super::provider_image`]'s.

mod begin;
mod builds;
mod existing;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::index::{Change, Key};
use super::provider::REPORT_EVERY;
use super::{Engine, Mark, provider_image};
use crate::api::conditions::{self, AVAILABLE, Desired, PROGRESSING, UP_TO_DATE, reason};
use crate::api::disk_image::DiskImageProviderStatus;
use crate::api::{DiskImage, DiskImageStatus, LABEL_DISK_IMAGE, LABEL_PROVIDER, LABEL_VERSION};
use crate::plan::schedule::{self, Schedule, ScheduleError};

pub use self::begin::is_beginning;
pub use self::builds::{BEGIN_EVERY, pass, wants};
pub use self::existing::note_rejection;

/// How many rejected ids are remembered on one provider; the schema's bound.
const REJECTED: usize = 100;

/// What the process remembers of images.
#[derive(Debug, Default)]
pub struct Memory {
    looks: HashMap<(Key, String), existing::Look>,
    /// Ids that were rejected by deleting their version, until the status shows them.
    rejected: HashMap<(Key, String), Vec<String>>,
    /// Versions that are made.
    builds: builds::Memory,
}

/// A DiskImage's record changed.
pub fn changed(engine: &mut Engine, change: &Change<DiskImage>) {
    let (Change::Updated(image, _) | Change::Removed(image)) = change;
    let key = Key::of(&**image);
    let same = matches!(change, Change::Updated(image, Some(before)) if before.spec == image.spec);
    if !same {
        // What is in flight may not be wanted so any more.
        let versions: Vec<Key> = engine
            .provider_images
            .iter()
            .filter(|(version, record)| version.namespace == key.namespace && *record.spec.disk_image == *key.name)
            .map(|(version, _)| version.clone())
            .collect();
        versions.into_iter().for_each(|version| engine.mark(Mark::ProviderImage(version)));
        engine.memory.images.looks.retain(|(of, _), look| *of != key || look.under_way);
        engine.mark(Mark::Allocation);
    }
    let another = matches!(change, Change::Updated(image, Some(before)) if before.metadata.uid != image.metadata.uid);
    if another || matches!(change, Change::Removed(_)) {
        builds::forget(engine, &key);
    }
    engine.mark(Mark::DiskImage(key));
}

/// Observe, plan, act, report.
pub fn reconcile(engine: &mut Engine, key: &Key) {
    let Some(image) = engine.disk_images.get(key).cloned() else { return };
    if image.metadata.deletion_timestamp.is_some() {
        return;
    }
    if let Some(selector) = &image.spec.source.existing {
        for provider in &image.spec.providers {
            existing::look(engine, key, &image, selector, provider);
        }
    } else {
        for provider in &image.spec.providers {
            builds::learn(engine, key, &image, provider);
        }
    }
    builds::retire(engine, key, &image);
    engine.mark_within(builds::BEGIN_EVERY, Mark::Builds);
    report(engine, key, &image);
}

/// The name of a version: fixed by what it is, so that twice is once.
fn version_name(image: &str, provider: &str, version: i64) -> String {
    format!("{image}-{provider}-{version}")
}

fn labels(image: &str, provider: &str, version: i64) -> BTreeMap<String, String> {
    let version = version.to_string();
    let labels = [(LABEL_DISK_IMAGE, image), (LABEL_PROVIDER, provider), (LABEL_VERSION, &version)];
    labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn recorded<'a>(image: &'a DiskImage, provider: &str) -> Option<&'a DiskImageProviderStatus> {
    image.status.as_ref()?.providers.iter().find(|status| status.name == provider)
}

fn report(engine: &mut Engine, key: &Key, image: &Arc<DiskImage>) {
    let old = image.status.clone().unwrap_or_default();
    let providers: Vec<DiskImageProviderStatus> =
        image.spec.providers.iter().map(|provider| on_provider(engine, key, image, provider)).collect();
    for status in &providers {
        // One that has passed is being looked for, or waits for its retry: both wake by themselves.
        if let Some(at) = status.next_build_time.as_ref().map(|time| time.0).filter(|at| *at > engine.now) {
            engine.wake(at, Mark::DiskImage(key.clone()));
        }
    }
    let desired = conditions_of(engine, key, image, &providers);
    let mut new = DiskImageStatus {
        observed_generation: image.metadata.generation,
        providers,
        conditions: old.conditions.clone(),
    };
    conditions::set_all(&mut new.conditions, &desired, image.metadata.generation, &Time(engine.now));
    engine.report(Mark::DiskImage(key.clone()), image, &old, &new, |engine, image: DiskImage| {
        engine.disk_images.wrote(image).into_iter().for_each(|change| changed(engine, &change));
    });
    engine.mark_within(REPORT_EVERY * 30, Mark::DiskImage(key.clone()));
}

fn on_provider(engine: &Engine, key: &Key, image: &DiskImage, provider: &str) -> DiskImageProviderStatus {
    let versions = provider_image::usable(engine, key, provider);
    let look = engine.memory.images.looks.get(&(key.clone(), provider.to_owned()));
    let recorded = recorded(image, provider);
    let current = versions.first();
    let mut status = DiskImageProviderStatus {
        name: provider.to_owned(),
        current: current.map(|version| version.name_any()),
        previous: versions.get(1).map(|version| version.name_any()),
        image_id: current.and_then(|version| version.status.as_ref()?.image_id.clone()),
        built_at: current.and_then(|version| Timestamp::from_second(version.spec.version).ok()).map(Time),
        jitter: Some(crate::api::Duration::from_secs(
            schedule::offset(image.spec.refresh.jitter.as_std(), &key.name, provider).as_secs(),
        )),
        ..DiskImageProviderStatus::default()
    };
    let mut ids = existing::rejected(engine, key, image, provider);
    let rejected_image_ids = ids.split_off(ids.len().saturating_sub(REJECTED));
    if builds::kind(image).is_some() {
        builds::show(engine, key, image, &mut status);
        return DiskImageProviderStatus { rejected_image_ids, ..status };
    }
    let next = match look.and_then(|look| look.found) {
        Some((at, _)) => next_look(image, provider, at).ok().flatten().map(Time),
        None => recorded.and_then(|status| status.next_build_time.clone()),
    };
    DiskImageProviderStatus {
        next_build_time: if image.spec.suspend { None } else { next },
        last_failure: look.and_then(|look| look.failure.clone()).or_else(|| {
            recorded
                .and_then(|status| status.last_failure.clone())
                .filter(|_| look.is_none_or(|look| look.found.is_none()))
        }),
        rejected_image_ids,
        ..status
    }
}

/// When the schedule asks for the next look, moved by the part of the jitter that is fixed for image and provider.
fn next_look(image: &DiskImage, provider: &str, after: Timestamp) -> Result<Option<Timestamp>, ScheduleError> {
    let refresh = &image.spec.refresh;
    let schedule = Schedule::parse(&refresh.schedule, Some(&refresh.time_zone))?;
    let offset = schedule::offset(refresh.jitter.as_std(), &image.name_any(), provider);
    Ok(schedule.next_after(after, offset))
}

fn conditions_of(engine: &Engine, key: &Key, image: &DiskImage, providers: &[DiskImageProviderStatus]) -> Vec<Desired> {
    if let Err(why) = next_look(image, "", engine.now) {
        let message = why.to_string();
        return vec![
            available(engine, key, image, providers),
            Desired::no(UP_TO_DATE, reason::INVALID_CONFIGURATION, message.clone()),
            Desired::no(PROGRESSING, reason::INVALID_CONFIGURATION, message),
        ];
    }
    let failing = providers.iter().find_map(|status| Some((status, status.last_failure.as_ref()?)));
    let up_to_date = match failing {
        Some((status, failure)) => {
            Desired::no(UP_TO_DATE, reason::BUILD_FAILED, format!("{}: {}", status.name, failure.message))
        }
        None if providers.iter().all(|status| status.current.is_some()) => {
            Desired::yes(UP_TO_DATE, reason::AS_EXPECTED, "")
        }
        None => Desired::unknown(UP_TO_DATE, reason::NOT_YET_KNOWN, wanted(image)),
    };
    let progressing = if image.spec.suspend {
        Desired::no(PROGRESSING, reason::PAUSED, "nothing new is looked for while suspend is true")
    } else if let Some(status) = providers.iter().find(|status| builds::in_flight(engine, key, &status.name)) {
        Desired::yes(PROGRESSING, reason::BUILDING, format!("a version is being made on {}", status.name))
    } else if providers.iter().any(|status| status.current.is_none()) {
        Desired::yes(PROGRESSING, reason::BUILDING, wanted(image))
    } else {
        Desired::no(PROGRESSING, reason::AS_EXPECTED, "")
    };
    vec![available(engine, key, image, providers), up_to_date, progressing]
}

/// What happens where there is no version yet.
fn wanted(image: &DiskImage) -> &'static str {
    if image.spec.source.existing.is_some() {
        "the image is being looked for"
    } else {
        "the first version is being made"
    }
}

/// The first provider without a usable version decides the reason.
fn available(engine: &Engine, key: &Key, image: &DiskImage, providers: &[DiskImageProviderStatus]) -> Desired {
    let Some(missing) = providers.iter().find(|status| status.current.is_none()) else {
        return Desired::yes(AVAILABLE, reason::AS_EXPECTED, "");
    };
    let provider = key.sibling(&missing.name);
    if engine.providers.get(&provider).is_none() {
        let message = format!("create the Provider {}, or correct spec.providers", missing.name);
        return Desired::no(AVAILABLE, reason::PROVIDER_NOT_FOUND, message);
    }
    if let Some(failure) = &missing.last_failure {
        let reason = match (&*failure.reason, builds::kind(image)) {
            (reason::IMAGE_NOT_FOUND, _) => reason::IMAGE_NOT_FOUND,
            (_, Some(_)) => reason::BUILD_FAILED,
            (_, None) => reason::TRANSIENT_ERROR,
        };
        return Desired::no(AVAILABLE, reason, format!("{}: {}", missing.name, failure.message));
    }
    if !engine.connections.contains_key(&provider) {
        let message = format!("the Provider {} is not connected; its condition Ready tells why", missing.name);
        return Desired::no(AVAILABLE, reason::PROVIDER_NOT_READY, message);
    }
    Desired::unknown(AVAILABLE, reason::NOT_YET_KNOWN, format!("{}: {}", missing.name, wanted(image)))
}

/// The ages of the current versions, for the metrics.
pub fn figures(engine: &Engine) {
    let ages = engine.disk_images.iter().flat_map(|(key, image)| {
        image.spec.providers.iter().filter_map(|provider| {
            let current = provider_image::current(engine, key, provider)?;
            let age = engine.now.duration_since(Timestamp::from_second(current.spec.version).ok()?);
            let labels = super::metrics::ImageLabels {
                namespace: key.namespace.to_string(),
                diskimage: key.name.to_string(),
                provider: provider.clone(),
            };
            Some((labels, Duration::try_from(age).unwrap_or_default()))
        })
    });
    engine.setup.metrics.image_ages(ages.collect::<Vec<_>>());
}
