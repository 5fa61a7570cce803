//! Takes the facts of the overview from the engine: what statuses say, and nothing that they do not.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt};

use super::super::figures::is_waiting;
use super::super::index::{Key, Store};
use super::super::{Connection, Engine};
use super::{Health, ImageRow, MESSAGE, Overview, PoolRow, ProviderRow, ROWS, RequestRow, Rows, Servers, Verdict};
use crate::api::conditions::{self, AVAILABLE, FULFILLED, LAUNCH_HEALTHY, QUOTA_AVAILABLE, READY, THROTTLED, reason};
use crate::api::disk_image::DiskImageProviderStatus;
use crate::api::node_request::NodeSet;
use crate::api::provider::{LeakKind, LeakSighting};
use crate::api::{DiskImage, ImageState, NodeRequest, Pool, Provider};

/// How many Pools of one request are named.
const POOLS_NAMED: usize = 5;

/// What there is to show now.
#[must_use]
pub fn gather(engine: &Engine) -> Overview {
    let providers: Vec<ProviderRow> =
        engine.providers.iter().map(|(key, provider)| of_provider(engine, key, provider)).collect();
    let images = images(engine);
    let requests = requests(engine);
    Overview {
        at: engine.now,
        qualified: engine.setup.watch_namespaces.len() != 1,
        servers: providers.iter().fold(Servers::default(), |sum, row| sum.and(row.servers)),
        min_ready: engine.pools.iter().map(|(_, pool)| i64::from(pool.spec.min_ready)).sum(),
        oldest_image: images.iter().filter_map(|row| row.built).min(),
        oldest_request: requests.shown.first().and_then(|row| row.since),
        providers: Rows::most_urgent(providers),
        images: Rows::most_urgent(images),
        pools: Rows::most_urgent(engine.pools.iter().map(|(key, pool)| of_pool(key, pool)).collect()),
        requests,
        unreadable: unreadable(engine),
    }
}

impl Servers {
    fn and(self, other: Self) -> Self {
        Self {
            max: self.max.saturating_add(other.max),
            used: self.used.saturating_add(other.used),
            ready: self.ready.saturating_add(other.ready),
            building: self.building.saturating_add(other.building),
            in_use: self.in_use.saturating_add(other.in_use),
            held: self.held.saturating_add(other.held),
            deleting: self.deleting.saturating_add(other.deleting),
        }
    }
}

fn of_provider(engine: &Engine, key: &Key, provider: &Provider) -> ProviderRow {
    let status = provider.status.clone().unwrap_or_default();
    let counts = status.servers.unwrap_or_default();
    let conditions = &status.conditions;
    let mut verdicts = vec![of_condition(conditions, READY)];
    verdicts.extend(unless_good(conditions, QUOTA_AVAILABLE));
    if let Some(throttled) = conditions::find(conditions, THROTTLED).filter(|condition| condition.status == "True") {
        verdicts.push(said(Health::Busy, &throttled.reason, throttled));
    }
    ProviderRow {
        key: key.clone(),
        verdicts,
        servers: Servers {
            max: provider.spec.max_servers.into(),
            used: counts.used.into(),
            ready: counts.ready.into(),
            building: counts.building.into(),
            in_use: counts.in_use.into(),
            held: counts.held.into(),
            deleting: counts.deleting.into(),
        },
        listed: engine.connections.get(key).and_then(Connection::listed),
        leaks: leaks(&status.leaks),
    }
}

fn leaks(sightings: &[LeakSighting]) -> Vec<(LeakKind, usize)> {
    let count = |kind| sightings.iter().filter(|sighting| sighting.kind == kind).count();
    LeakKind::ALL.into_iter().map(|kind| (kind, count(kind))).filter(|(_, count)| *count > 0).collect()
}

fn images(engine: &Engine) -> Vec<ImageRow> {
    let mut making: HashMap<(Key, &str), (ImageState, Option<i32>)> = HashMap::new();
    for (key, version) in engine.provider_images.iter().filter(|(_, version)| version.in_flight()) {
        let progress = version.status.as_ref().and_then(|status| status.progress.as_ref()?.percent);
        making.insert((key.sibling(&version.spec.disk_image), &version.spec.provider), (version.state(), progress));
    }
    let rows = engine.disk_images.iter().flat_map(|(key, image)| {
        let making = &making;
        image.spec.providers.iter().map(move |provider| {
            let making = making.get(&(key.clone(), provider.as_str())).copied();
            of_image(key, image, provider, making)
        })
    });
    rows.collect()
}

fn of_image(key: &Key, image: &DiskImage, provider: &str, making: Option<(ImageState, Option<i32>)>) -> ImageRow {
    let status = image.status.as_ref();
    let here = status.and_then(|status| status.providers.iter().find(|on| on.name == provider));
    let here = here
        .cloned()
        .unwrap_or_else(|| DiskImageProviderStatus { name: provider.to_owned(), ..DiskImageProviderStatus::default() });
    let failed = here.last_failure.as_ref().map(|failure| Verdict {
        health: Health::Bad,
        word: cut(&failure.reason),
        message: cut(&failure.message),
        since: Some(failure.time.0),
    });
    let available = availability(image, &here, making.is_some());
    // Where there is nothing to use, the failure says why.
    let verdicts = match failed {
        Some(failed) if available.health > Health::Off => vec![failed],
        failed => [available].into_iter().chain(failed).collect(),
    };
    ImageRow {
        key: key.clone(),
        provider: here.name,
        verdicts,
        current: here.current,
        built: here.built_at.map(|time| time.0),
        next: here.next_build_time.map(|time| time.0),
        making,
        failures: here.failures,
    }
}

fn availability(image: &DiskImage, here: &DiskImageProviderStatus, making: bool) -> Verdict {
    let plain = |health, word: &str| Verdict { health, word: word.to_owned(), message: String::new(), since: None };
    if image.metadata.deletion_timestamp.is_some() {
        return plain(Health::Off, "Deleting");
    }
    if image.spec.suspend {
        return plain(Health::Off, "Suspended");
    }
    if here.current.is_some() {
        return plain(Health::Good, AVAILABLE);
    }
    if making {
        return plain(Health::Busy, reason::BUILDING);
    }
    let of_all = image.status.as_ref().map_or_else(Vec::new, |status| status.conditions.clone());
    match of_condition(&of_all, AVAILABLE) {
        // The other Providers' word is not this one's.
        verdict if verdict.health == Health::Good => plain(Health::Busy, reason::NOT_YET_KNOWN),
        verdict => verdict,
    }
}

fn of_pool(key: &Key, pool: &Pool) -> PoolRow {
    let status = pool.status.clone().unwrap_or_default();
    let mut verdicts = vec![of_condition(&status.conditions, AVAILABLE)];
    if pool.metadata.deletion_timestamp.is_some() {
        verdicts[0] = Verdict { health: Health::Off, word: "Deleting".to_owned(), message: String::new(), since: None };
    }
    verdicts
        .extend(unless_good(&status.conditions, LAUNCH_HEALTHY).filter(|launches| launches.word != verdicts[0].word));
    PoolRow {
        key: key.clone(),
        verdicts,
        servers: Servers {
            max: pool.spec.max_nodes.unwrap_or(pool.spec.min_ready).into(),
            used: status.total.into(),
            ready: status.ready.into(),
            building: status.building.into(),
            in_use: status.in_use.into(),
            held: status.held.into(),
            deleting: status.deleting.into(),
        },
        min_ready: pool.spec.min_ready,
        limited: pool.spec.max_nodes.is_some(),
        image: pool.spec.image.clone(),
    }
}

/// The oldest first; only those that are shown are looked at closely.
fn requests(engine: &Engine) -> Rows<RequestRow> {
    let waiting = engine.requests.iter().filter(|(_, request)| is_waiting(request));
    let mut waiting: Vec<_> =
        waiting.map(|(key, request)| (request.creation_timestamp().map(|time| time.0), key, request)).collect();
    waiting.sort_unstable_by(|(a, a_key, _), (b, b_key, _)| (a, a_key).cmp(&(b, b_key)));
    let total = waiting.len();
    let shown = waiting.into_iter().take(ROWS).map(|(_, key, request)| of_request(key, request)).collect();
    Rows { shown, total, bad: 0 }
}

fn of_request(key: &Key, request: &NodeRequest) -> RequestRow {
    let status = request.status.as_ref();
    let fulfilled = status.and_then(|status| conditions::find(&status.conditions, FULFILLED));
    let sets = &request.spec.nodes;
    RequestRow {
        key: key.clone(),
        since: request.creation_timestamp().map(|time| time.0),
        position: status.and_then(|status| status.position),
        wants: sets.iter().take(POOLS_NAMED).map(|set| (pool_of(set), set.count)).collect(),
        wants_more: sets.len().saturating_sub(POOLS_NAMED),
        why: fulfilled.map(|condition| said(Health::Busy, &condition.reason, condition)),
    }
}

/// The Pool as the request names it.
fn pool_of(set: &NodeSet) -> String {
    match &set.pool_namespace {
        Some(namespace) => format!("{namespace}/{}", set.pool),
        None => set.pool.clone(),
    }
}

fn unreadable(engine: &Engine) -> Rows<String> {
    fn of<K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>>(
        store: &Store<K>,
    ) -> impl Iterator<Item = String> {
        store.unreadable().map(|key| format!("{} {key}", K::kind(&())))
    }
    let mut all: Vec<String> = of(&engine.providers)
        .chain(of(&engine.disk_images))
        .chain(of(&engine.provider_images))
        .chain(of(&engine.pools))
        .chain(of(&engine.nodes))
        .chain(of(&engine.requests))
        .collect();
    all.sort_unstable();
    Rows::first(all)
}

/// What a condition says that should be True.
fn of_condition(conditions: &[Condition], type_: &str) -> Verdict {
    let Some(condition) = conditions::find(conditions, type_) else {
        let word = reason::NOT_YET_KNOWN.to_owned();
        return Verdict { health: Health::Busy, word, message: String::new(), since: None };
    };
    let health = match (condition.status.as_str(), condition.reason.as_str()) {
        (_, reason::PAUSED | reason::DRAINING | reason::SCALED_TO_ZERO) => Health::Off,
        ("True", _) => Health::Good,
        ("Unknown", _)
        | (_, reason::LAUNCHING | reason::IMAGE_NOT_READY | reason::WAITING_FOR_CAPACITY | reason::LIMIT_REACHED) => {
            Health::Busy
        }
        _ => Health::Bad,
    };
    let expected = condition.reason == reason::AS_EXPECTED;
    said(health, if expected { type_ } else { &condition.reason }, condition)
}

/// The same, if it is worth a word.
fn unless_good(conditions: &[Condition], type_: &str) -> Option<Verdict> {
    conditions::find(conditions, type_).filter(|condition| condition.status == "False")?;
    Some(of_condition(conditions, type_))
}

fn said(health: Health, word: &str, condition: &Condition) -> Verdict {
    Verdict { health, word: cut(word), message: cut(&condition.message), since: Some(condition.last_transition_time.0) }
}

/// As much of a text as is shown.
fn cut(text: &str) -> String {
    match text.char_indices().nth(MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;
    use crate::api::conditions::Desired;
    use crate::api::{DiskImageSpec, DiskImageStatus, FlavorSelector, PoolSpec, PoolStatus};

    fn time(second: i64) -> Time {
        Time(jiff::Timestamp::from_second(second).unwrap())
    }

    fn conditions(desired: &[Desired]) -> Vec<Condition> {
        let mut conditions = Vec::new();
        conditions::set_all(&mut conditions, desired, Some(1), &time(1));
        conditions
    }

    fn said_of(desired: Desired) -> (Health, String) {
        let type_ = desired.type_;
        let verdict = of_condition(&conditions(&[desired]), type_);
        (verdict.health, verdict.word)
    }

    #[test]
    fn only_what_a_person_must_mend_is_bad() {
        let of = |desired, health, word: &str| assert_eq!(said_of(desired), (health, word.to_owned()));
        of(Desired::yes(READY, reason::AS_EXPECTED, ""), Health::Good, "Ready");
        of(Desired::yes(READY, reason::PAUSED, ""), Health::Off, "Paused");
        of(Desired::no(READY, reason::AUTHENTICATION_FAILED, "x"), Health::Bad, "AuthenticationFailed");
        of(Desired::unknown(READY, reason::NOT_YET_KNOWN, "x"), Health::Busy, "NotYetKnown");
        of(Desired::yes(AVAILABLE, reason::SCALED_TO_ZERO, ""), Health::Off, "ScaledToZero");
        of(Desired::no(AVAILABLE, reason::LAUNCHING, ""), Health::Busy, "Launching");
        of(Desired::no(AVAILABLE, reason::LAUNCHES_FAILING, ""), Health::Bad, "LaunchesFailing");
        assert_eq!(of_condition(&[], READY).health, Health::Busy);
    }

    #[test]
    fn a_pool_tells_of_failing_launches_once() {
        let mut pool = Pool::new("small", PoolSpec::new("debian", FlavorSelector::default(), "a", 3));
        let failing = [
            Desired::no(AVAILABLE, reason::LAUNCHES_FAILING, "below minReady"),
            Desired::no(LAUNCH_HEALTHY, reason::LAUNCHES_FAILING, "3 of 3 failed"),
        ];
        pool.status =
            Some(PoolStatus { ready: 1, total: 2, conditions: conditions(&failing), ..PoolStatus::default() });
        let row = of_pool(&Key::new("ci", "small"), &pool);
        assert_eq!(row.verdicts.len(), 1);
        assert_eq!((row.servers.ready, row.min_ready, row.limited), (1, 3, false));
        pool.spec.max_nodes = Some(8);
        pool.metadata.deletion_timestamp = Some(time(5));
        let row = of_pool(&Key::new("ci", "small"), &pool);
        assert_eq!((row.verdicts[0].word.as_str(), row.servers.max), ("Deleting", 8));
    }

    #[test]
    fn an_image_is_judged_on_each_provider_by_itself() {
        let mut image = DiskImage::new("debian", DiskImageSpec::existing("debian", "a", "debian"));
        image.spec.providers.push("b".to_owned());
        let status = json!({
            "providers": [{"name": "a", "current": "debian-a-1", "builtAt": "2026-11-26T12:00:00Z"},
                {"name": "b", "failures": 2, "lastFailure":
                    {"time": "2026-11-26T12:00:00Z", "reason": "ImageNotFound", "message": "x".repeat(MESSAGE + 1)}}],
        });
        let mut status: DiskImageStatus = serde_json::from_value(status).unwrap();
        status.conditions = conditions(&[Desired::no(AVAILABLE, reason::IMAGE_NOT_FOUND, "b: no such image")]);
        image.status = Some(status);
        let on = |image: &DiskImage, provider, making| of_image(&Key::new("ci", "debian"), image, provider, making);
        let (a, b) = (on(&image, "a", None), on(&image, "b", None));
        assert_eq!(
            (a.verdicts.len(), a.verdicts[0].health, a.current.as_deref()),
            (1, Health::Good, Some("debian-a-1"))
        );
        assert_eq!((b.verdicts[0].word.as_str(), b.failures, b.built), ("ImageNotFound", 2, None));
        assert_eq!((b.verdicts.len(), b.verdicts[0].message.chars().count()), (1, MESSAGE + 1), "cut, and an ellipsis");
        if let Some(on) = image.status.as_mut().and_then(|status| status.providers.last_mut()) {
            on.last_failure = None;
        }
        assert_eq!(on(&image, "b", None).verdicts[0].message, "b: no such image");
        assert_eq!(on(&image, "b", Some((ImageState::Building, None))).verdicts[0].health, Health::Busy);
        image.spec.suspend = true;
        assert_eq!(on(&image, "a", None).verdicts[0].health, Health::Off);
    }
}
