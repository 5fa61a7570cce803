//! One DiskImage: a usable version on every provider, looked for when it is due.
//!
//! Of the sources, `existing` is served: an image that others manage is found by name or id, and the newest active one
//! becomes a version. Which version nodes boot from is [`super::provider_image::current`]'s answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;

use super::index::{Change, Key};
use super::provider::REPORT_EVERY;
use super::{Engine, Mark, provider_image, records};
use crate::api::conditions::{self, AVAILABLE, Desired, PROGRESSING, UP_TO_DATE, reason};
use crate::api::disk_image::{DiskImageProviderStatus, ImageFailure, ImageSelector};
use crate::api::{
    DiskImage, DiskImageStatus, FINALIZER_IMAGE, LABEL_DISK_IMAGE, LABEL_PROVIDER, NodeState, ProviderImage,
    ProviderImageSpec,
};
use crate::cloud::{CloudError, Image};
use crate::plan::pressure::grown;
use crate::plan::schedule::{self, Schedule, ScheduleError};

/// First and longest pause between two failed look-ups.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How many rejected ids are remembered on one provider; the schema's bound.
const REJECTED: usize = 10;

/// What the process remembers of images.
#[derive(Debug, Default)]
pub struct Memory {
    looks: HashMap<(Key, String), Look>,
    /// Ids that were rejected by deleting their version, until the status shows them.
    rejected: HashMap<(Key, String), Vec<String>>,
}

/// The look for one image on one provider.
#[derive(Debug, Default)]
struct Look {
    under_way: bool,
    failures: u32,
    /// Not before then; `None` is when it is due.
    retry: Option<Timestamp>,
    failure: Option<ImageFailure>,
    /// When it last found what it looked for, and by which generation of the spec.
    found: Option<(Timestamp, Option<i64>)>,
}

/// A DiskImage's record changed.
pub fn changed(engine: &mut Engine, change: &Change<DiskImage>) {
    let (Change::Updated(image, _) | Change::Removed(image)) = change;
    let key = Key::of(&**image);
    let same = matches!(change, Change::Updated(image, Some(before)) if before.spec == image.spec);
    if !same {
        engine.memory.images.looks.retain(|(of, _), look| *of != key || look.under_way);
        engine.mark(Mark::Allocation);
    }
    if matches!(change, Change::Removed(_)) {
        let versions: Vec<Key> = engine.provider_images.iter().map(|(version, _)| version.clone()).collect();
        versions.into_iter().for_each(|version| engine.mark(Mark::ProviderImage(version)));
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
            look(engine, key, &image, selector, provider);
            retire(engine, key, &image, provider);
        }
    }
    report(engine, key, &image);
}

/// Looks for the image when the schedule says so, when the spec is new, or when the last look failed long enough ago.
fn look(engine: &mut Engine, key: &Key, image: &Arc<DiskImage>, selector: &ImageSelector, provider: &str) {
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
    let Some(cloud) = engine.connections.get(&key.sibling(provider)).map(super::provider::Connection::cloud) else {
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
    recorded.and_then(|status| status.next_build_time.as_ref()).map(|time| time.0)
}

fn observed(image: &DiskImage) -> bool {
    image.status.as_ref().and_then(|status| status.observed_generation) == image.metadata.generation
}

fn recorded<'a>(image: &'a DiskImage, provider: &str) -> Option<&'a DiskImageProviderStatus> {
    image.status.as_ref()?.providers.iter().find(|status| status.name == provider)
}

fn port(selector: &ImageSelector) -> crate::cloud::ImageSelector {
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
        memory.failure = Some(ImageFailure { time: Time(now), reason: reason.to_owned(), message });
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
    let known = engine.provider_images.iter().any(|(version, record)| {
        version.namespace == key.namespace
            && *record.spec.disk_image == *key.name
            && record.spec.provider == provider
            && record.spec.image_id.as_deref() == Some(&image.id)
    });
    if known {
        return;
    }
    let version = image.created.as_second();
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let record = ProviderImage {
        metadata: ObjectMeta {
            name: Some(format!("{}-{provider}-{version}", key.name)),
            namespace: Some(key.namespace.to_string()),
            finalizers: Some(vec![FINALIZER_IMAGE.to_owned()]),
            labels: Some([label(LABEL_DISK_IMAGE, &key.name), label(LABEL_PROVIDER, provider)].into()),
            ..ObjectMeta::default()
        },
        spec: ProviderImageSpec {
            disk_image: key.name.to_string(),
            provider: provider.to_owned(),
            version,
            image_id: Some(image.id),
            managed: false,
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

fn rejected(engine: &Engine, key: &Key, image: &DiskImage, provider: &str) -> Vec<String> {
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

/// Versions beyond `retain` go, newest kept, unless a booting node uses them (rule 7). The image itself is not ours.
fn retire(engine: &mut Engine, key: &Key, image: &DiskImage, provider: &str) {
    let keep = usize::try_from(image.spec.retain).unwrap_or(2).max(2);
    let old: Vec<Arc<ProviderImage>> =
        provider_image::usable(engine, key, provider).into_iter().skip(keep).map(Arc::clone).collect();
    for version in old {
        let name = version.name_any();
        let booting = engine.nodes.iter().any(|(node, record)| {
            node.namespace == key.namespace
                && record.spec.provider_image.as_deref() == Some(&name)
                && record.state() == NodeState::Building
        });
        if booting || version.spec.managed {
            continue;
        }
        let (client, mark) = (engine.setup.client.clone(), Mark::ProviderImage(Key::of(&*version)));
        engine.write_once(mark, async move { records::delete(&client, &*version).await }, |engine, version| {
            version
                .and_then(|version: ProviderImage| engine.provider_images.wrote(version))
                .into_iter()
                .for_each(|change| provider_image::changed(engine, &change));
        });
    }
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
    let next = match look.and_then(|look| look.found) {
        Some((at, _)) => next_look(image, provider, at).ok().flatten().map(Time),
        None => recorded.and_then(|status| status.next_build_time.clone()),
    };
    let mut ids = rejected(engine, key, image, provider);
    DiskImageProviderStatus {
        name: provider.to_owned(),
        current: current.map(|version| version.name_any()),
        previous: versions.get(1).map(|version| version.name_any()),
        image_id: current.and_then(|version| version.spec.image_id.clone()),
        built_at: current.and_then(|version| Timestamp::from_second(version.spec.version).ok()).map(Time),
        next_build_time: if image.spec.suspend { None } else { next },
        last_failure: look.and_then(|look| look.failure.clone()).or_else(|| {
            recorded
                .and_then(|status| status.last_failure.clone())
                .filter(|_| look.is_none_or(|look| look.found.is_none()))
        }),
        rejected_image_ids: ids.split_off(ids.len().saturating_sub(REJECTED)),
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
    if image.spec.source.existing.is_none() {
        let message =
            "write spec.source.existing: this version of the operator finds images, but does not build them yet";
        return vec![
            Desired::no(AVAILABLE, reason::INVALID_CONFIGURATION, message),
            Desired::no(UP_TO_DATE, reason::INVALID_CONFIGURATION, message),
            Desired::no(PROGRESSING, reason::INVALID_CONFIGURATION, message),
        ];
    }
    if let Err(why) = next_look(image, "", engine.now) {
        let message = why.to_string();
        return vec![
            available(engine, key, providers),
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
        None => Desired::unknown(UP_TO_DATE, reason::NOT_YET_KNOWN, "the image is being looked for"),
    };
    let progressing = if image.spec.suspend {
        Desired::no(PROGRESSING, reason::PAUSED, "nothing new is looked for while suspend is true")
    } else if providers.iter().any(|status| status.current.is_none()) {
        Desired::yes(PROGRESSING, reason::BUILDING, "the image is being looked for")
    } else {
        Desired::no(PROGRESSING, reason::AS_EXPECTED, "")
    };
    vec![available(engine, key, providers), up_to_date, progressing]
}

/// The first provider without a usable version decides the reason.
fn available(engine: &Engine, key: &Key, providers: &[DiskImageProviderStatus]) -> Desired {
    let Some(missing) = providers.iter().find(|status| status.current.is_none()) else {
        return Desired::yes(AVAILABLE, reason::AS_EXPECTED, "");
    };
    let provider = key.sibling(&missing.name);
    if engine.providers.get(&provider).is_none() {
        let message = format!("create the Provider {}, or correct spec.providers", missing.name);
        return Desired::no(AVAILABLE, reason::PROVIDER_NOT_FOUND, message);
    }
    if let Some(failure) = &missing.last_failure {
        let reason =
            if failure.reason == reason::IMAGE_NOT_FOUND { reason::IMAGE_NOT_FOUND } else { reason::TRANSIENT_ERROR };
        return Desired::no(AVAILABLE, reason, format!("{}: {}", missing.name, failure.message));
    }
    if !engine.connections.contains_key(&provider) {
        let message = format!("the Provider {} is not connected; its condition Ready tells why", missing.name);
        return Desired::no(AVAILABLE, reason::PROVIDER_NOT_READY, message);
    }
    Desired::unknown(AVAILABLE, reason::NOT_YET_KNOWN, format!("the image is being looked for on {}", missing.name))
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
