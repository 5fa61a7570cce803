//! What is known of one cloud while its credentials work: its servers, flavors, limits, and how willing it is.
//!
//! Lost with the process and read again; nothing rests on it. Never calls the cloud itself.

use std::collections::HashMap;
use std::sync::{Arc, RwLockReadGuard};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::api::conditions::reason;
use crate::api::{FlavorSelector, PoolNode};
use crate::cloud::poller::PollHandle;
use crate::cloud::view::{ByName, View};
use crate::cloud::{Cloud, CloudError, ErrorClass, Flavor, Limits, Ownership, Resources, Server, Usage};
use crate::plan::allocation::{Blocked, Gate};
use crate::plan::pressure::{Answer, Health, Pressure};

use super::super::Clock;
use super::super::pool_node::server_name;
use super::services::Services;

/// How long flavors and limits are believed.
const FACTS_LAST: SignedDuration = SignedDuration::from_mins(5);
/// The same while a quota refuses launches, and while one is used up: somebody may raise it.
const FACTS_LAST_REFUSED: SignedDuration = SignedDuration::from_secs(10);
const FACTS_LAST_USED_UP: SignedDuration = SignedDuration::from_secs(60);
/// How long a boot that went wrong is worth asking services for: longer than the longest pause between two probes of a
/// cloud that refuses, and not for ever, since a satisfied pool boots nothing that could show that all is well again.
const TROUBLE_LASTS: SignedDuration = SignedDuration::from_mins(10);
/// How many flavors a message names.
const FLAVORS_NAMED: usize = 10;
/// How many templates' launch results are remembered.
const HEALTHS: usize = 1000;

/// One cloud, connected.
pub struct Connection {
    /// Which credentials and settings it was made from.
    pub fingerprint: String,
    /// The project's flavors, sorted by memory and name.
    pub flavors: Vec<Flavor>,
    /// The project's limits; `None` while unknown.
    pub limits: Option<Limits>,
    /// When flavors and limits were read.
    pub facts_read: Option<Timestamp>,
    /// Why the last list failed.
    pub error: Option<CloudError>,
    /// Which of its services do not answer.
    pub services: Services,
    /// When a boot request was answered last, or given up.
    pub boot_answered: Option<Timestamp>,
    cloud: Arc<dyn Cloud>,
    identity: Identity,
    poller: PollHandle,
    clock: Clock,
    quota: Pressure,
    throttle: Pressure,
    refused: Option<(ErrorClass, String)>,
    /// When a launch was refused last.
    refused_at: Option<Timestamp>,
    /// When a boot last went wrong in a way that a service may be the cause of which nobody has asked.
    trouble_at: Option<Timestamp>,
    hosts: HashMap<String, (Pressure, String)>,
    health: HashMap<String, Health>,
}

/// Whose things in the cloud are ours, through this Provider.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The installation.
    pub owner: String,
    /// `namespace/name` of the Provider.
    pub provider: String,
}

impl Connection {
    /// A connection that has seen nothing yet.
    pub fn new(
        fingerprint: String,
        identity: Identity,
        cloud: Arc<dyn Cloud>,
        poller: PollHandle,
        clock: Clock,
    ) -> Self {
        Self {
            fingerprint,
            flavors: Vec::new(),
            limits: None,
            facts_read: None,
            error: None,
            services: Services::default(),
            boot_answered: None,
            cloud,
            identity,
            poller,
            clock,
            quota: Pressure::default(),
            throttle: Pressure::default(),
            refused: None,
            refused_at: None,
            trouble_at: None,
            hosts: HashMap::new(),
            health: HashMap::new(),
        }
    }

    /// The port to the cloud.
    pub fn cloud(&self) -> Arc<dyn Cloud> {
        Arc::clone(&self.cloud)
    }

    /// The mark on everything that is made for a record.
    pub fn ownership(&self, record: &str) -> Ownership {
        Ownership {
            owner: self.identity.owner.clone(),
            record: record.to_owned(),
            provider: self.identity.provider.clone(),
        }
    }

    /// The server of a node: by id, else by its unique name and the record's uid (rule 2).
    pub fn server_of(&self, node: &PoolNode, id: Option<&str>) -> Option<Arc<Server>> {
        let view = self.poller.view().read();
        if let Some(id) = id {
            return view.get(id).map(Arc::clone);
        }
        let uid = node.metadata.uid.as_deref()?;
        let ours = |server: &Arc<Server>| server.ownership.as_ref().is_some_and(|ownership| ownership.record == uid);
        match view.by_name(&server_name(node)) {
            ByName::One(server) => Some(server).filter(ours),
            // One request that made two: the same one is taken every time, the other is a leak.
            ByName::Several(servers) => {
                servers.into_iter().filter(ours).min_by_key(|server| (server.created, server.id.clone()))
            }
            ByName::Unknown => None,
        }
    }

    /// All servers, for one look at many: nothing else of this connection may be asked meanwhile.
    pub fn view(&self) -> RwLockReadGuard<'_, View> {
        self.poller.view().read()
    }

    /// Whether a server is proven gone.
    pub fn gone(&self, id: &str) -> bool {
        self.poller.view().read().is_gone(id)
    }

    /// A look-up by id proved that a server is gone.
    pub fn prove_gone(&self, id: &str) {
        self.poller.view().prove_gone(id);
    }

    /// The records whose servers these are.
    pub fn records_of(&self, ids: &[String]) -> Vec<String> {
        let view = self.poller.view().read();
        ids.iter().filter_map(|id| Some(view.get(id)?.ownership.as_ref()?.record.clone())).collect()
    }

    /// All servers of ours that the cloud shows.
    pub fn ours(&self) -> Vec<Arc<Server>> {
        self.poller.view().read().ours().map(Arc::clone).collect()
    }

    /// The ids of all servers of the project, whosever they are.
    pub fn server_ids(&self) -> Vec<String> {
        self.poller.view().read().ids().map(str::to_owned).collect()
    }

    /// The cloud's own time when it was last listed completely.
    pub fn cloud_time(&self) -> Option<Timestamp> {
        self.poller.view().read().last_full_at()
    }

    /// When the last complete list of any kind was asked for.
    pub fn listed(&self) -> Option<Timestamp> {
        self.poller.view().read().asked().map(|at| self.clock.at(at))
    }

    /// When the last complete full list was asked for.
    pub fn listed_full(&self) -> Option<Timestamp> {
        self.poller.view().read().full_asked().map(|at| self.clock.at(at))
    }

    /// Something of ours is on the move, or nothing is: how often to list.
    pub fn moving(&self, moving: bool) {
        self.poller.set_moving(moving);
    }

    /// Lists everything as soon as may be.
    pub fn list_all(&self) {
        self.poller.refresh_full();
    }

    /// Lists changes as soon as may be.
    pub fn list_changes(&self) {
        self.poller.refresh();
    }

    /// What others use of the project.
    pub fn others(&self) -> Resources {
        self.poller.view().read().foreign().resources
    }

    /// A boot request that was sent then was accepted: the quota has room, unless another was refused since.
    pub fn accepted(&mut self, sent: Timestamp) {
        self.list_changes();
        if self.refused_at.is_some_and(|refused| refused >= sent) {
            return;
        }
        self.quota.accepted();
        self.throttle.accepted();
        self.refused = None;
    }

    /// A boot request was not accepted (rule 3).
    pub fn boot_failed(&mut self, flavor_id: &str, error: &CloudError, now: Timestamp) {
        match error.class {
            ErrorClass::Quota => self.quota.refused(now, error.retry_after),
            ErrorClass::NoCapacity => self.no_host(flavor_id, &error.message, now),
            ErrorClass::Throttled | ErrorClass::Unavailable | ErrorClass::Auth => {
                self.throttle.refused(now, error.retry_after);
            }
            // A flavor, a network or an image may have changed under us: read them again before the next launch.
            ErrorClass::Invalid | ErrorClass::NotFound | ErrorClass::Conflict => self.facts_read = None,
            ErrorClass::Unclear => self.list_changes(),
        }
        if error.class.is_unanswered() {
            self.trouble_at = Some(now);
        }
        if error.class != ErrorClass::Unclear {
            self.refused_at = Some(now);
            self.refused = Some((error.class, error.message.clone()));
        }
        if error.class == ErrorClass::Quota {
            self.facts_read = None;
        }
    }

    /// Something beside the servers failed in the cloud: a service may be away that nothing else asks.
    pub fn service_failed(&mut self, now: Timestamp) {
        self.trouble_at = Some(now);
    }

    /// A server ended in ERROR: Nova tells "no valid host", and a quota passed in a race, only there.
    pub fn server_failed(&mut self, flavor_id: &str, class: ErrorClass, message: &str, now: Timestamp) {
        match class {
            ErrorClass::Quota => {
                self.quota.refused(now, None);
                self.refused = Some((class, message.to_owned()));
                self.facts_read = None;
            }
            ErrorClass::NoCapacity => self.no_host(flavor_id, message, now),
            _ => {}
        }
    }

    fn no_host(&mut self, flavor_id: &str, message: &str, now: Timestamp) {
        self.trouble_at = Some(now);
        let entry = self.hosts.entry(flavor_id.to_owned()).or_default();
        entry.0.refused(now, None);
        message.clone_into(&mut entry.1);
    }

    /// A server of this flavor became ACTIVE: there are hosts for it.
    pub fn host_found(&mut self, flavor_id: &str) {
        self.hosts.remove(flavor_id);
    }

    /// A launch of this template (image, flavor and settings) ended well, or did not.
    pub fn launch_ended(&mut self, template: &str, good: bool, now: Timestamp) {
        if self.health.len() > HEALTHS {
            self.health.clear();
        }
        self.health.entry(template.to_owned()).or_default().record(good, now);
    }

    /// How the recent launches of a template went. By template, not by image: what is wrong with one pool delays no
    /// other (rule 13), and a corrected template starts afresh.
    pub fn health(&self, template: &str) -> Option<&Health> {
        self.health.get(template)
    }

    /// Whether anything may be launched here now, and when to ask again.
    pub fn gate(&self, now: Timestamp) -> (Gate, Option<Timestamp>) {
        let told =
            |fallback: &str| self.refused.as_ref().map_or_else(|| fallback.to_owned(), |(_, message)| message.clone());
        let quota = gate(self.quota.answer(now), reason::QUOTA_EXCEEDED, || told("the project's quota is used up"));
        let throttle =
            gate(self.throttle.answer(now), reason::RATE_LIMITED, || told("the cloud asked for fewer requests"));
        stricter(quota, throttle)
    }

    /// Whether this flavor and template may be launched here now, and when to ask again.
    pub fn offer_gate(&self, flavor_id: &str, template: &str, now: Timestamp) -> (Gate, Option<Timestamp>) {
        if let Some((pressure, message)) = self.hosts.get(flavor_id) {
            return gate(pressure.answer(now), reason::NO_VALID_HOST, || message.clone());
        }
        let Some(health) = self.health.get(template) else { return (Gate::Open, None) };
        gate(health.answer(now), reason::LAUNCHES_FAILING, || {
            let (failed, of) = health.failed();
            format!("{failed} of the last {of} launches failed")
        })
    }

    /// The back-pressure that the Provider shows: a quota, a host that is missing, a request for silence.
    pub fn pressures(&self) -> Pressures {
        let told = |classes: &[ErrorClass]| {
            self.refused.as_ref().filter(|(seen, _)| classes.contains(seen)).map(|(_, message)| message.clone())
        };
        Pressures {
            quota: self.quota.active().then(|| told(&[ErrorClass::Quota]).unwrap_or_default()),
            no_host: self.hosts.values().next().map(|(_, message)| message.clone()),
            throttled: self
                .throttle
                .active()
                .then(|| told(&[ErrorClass::Throttled, ErrorClass::Unavailable, ErrorClass::Auth]).unwrap_or_default()),
        }
    }

    /// Whether something goes wrong that a service may be the cause of which nobody has asked.
    pub fn in_trouble(&self, now: Timestamp) -> bool {
        self.error.as_ref().is_some_and(|error| error.class.is_unanswered())
            || self.trouble_at.is_some_and(|at| now.duration_since(at) < TROUBLE_LASTS)
    }

    /// The flavor of this name or id, or the smallest with enough memory.
    pub fn flavor(&self, wanted: &FlavorSelector) -> Option<&Flavor> {
        if let Some(name) = &wanted.name {
            return self.flavors.iter().find(|flavor| flavor.name == *name || flavor.id == *name);
        }
        let least = wanted.min_ram.and_then(|quantity| i64::try_from(quantity.mib()).ok())?;
        let fits = |flavor: &&Flavor| {
            flavor.resources.ram_mib >= least
                && wanted.name_filter.as_ref().is_none_or(|filter| flavor.name.contains(filter.as_str()))
        };
        self.flavors.iter().filter(fits).min_by_key(|flavor| (flavor.resources.ram_mib, flavor.name.as_str()))
    }

    /// What to write instead of a flavor that is not there.
    pub fn missing_flavor(&self, provider: &str, wanted: &FlavorSelector) -> String {
        let known: Vec<&str> = self.flavors.iter().take(FLAVORS_NAMED).map(|flavor| flavor.name.as_str()).collect();
        let more = if self.flavors.len() > FLAVORS_NAMED { ", …" } else { "" };
        let what = match (&wanted.name, &wanted.min_ram, &wanted.name_filter) {
            (Some(name), ..) => format!("no flavor named {name}"),
            (None, Some(least), Some(filter)) => {
                format!("no flavor with {filter} in its name and at least {least} of memory")
            }
            (None, Some(least), None) => format!("no flavor with at least {least} of memory"),
            (None, None, _) => "no such flavor".to_owned(),
        };
        format!("{provider} has {what}; correct spec.flavor: it has {}{more}", known.join(", "))
    }

    /// Whether flavors and limits should be read again.
    pub fn facts_stale(&self, now: Timestamp) -> bool {
        self.facts_read.is_none_or(|read| now.duration_since(read) >= self.facts_last())
    }

    /// How long flavors and limits are believed now.
    pub fn facts_last(&self) -> SignedDuration {
        let full = |usage: Usage| usage.max.is_some_and(|max| usage.used >= max);
        let used_up = |limits: Limits| full(limits.instances) || full(limits.cores) || full(limits.ram_mib);
        match self.limits {
            _ if self.quota.active() => FACTS_LAST_REFUSED,
            Some(limits) if used_up(limits) => FACTS_LAST_USED_UP,
            _ => FACTS_LAST,
        }
    }
}

/// What the Provider shows of the cloud's unwillingness.
#[derive(Clone, Debug, Default)]
pub struct Pressures {
    /// The quota refuses.
    pub quota: Option<String>,
    /// No host can take some flavor.
    pub no_host: Option<String>,
    /// Fewer requests are asked for.
    pub throttled: Option<String>,
}

/// What back-pressure means for launches, and when it means something else.
pub fn gate(answer: Answer, reason: &'static str, message: impl FnOnce() -> String) -> (Gate, Option<Timestamp>) {
    match answer {
        Answer::Open => (Gate::Open, None),
        Answer::Probe => (Gate::Probe(Blocked { reason, message: message() }), None),
        Answer::ClosedUntil(until) => (Gate::Closed(Blocked { reason, message: message() }), Some(until)),
    }
}

/// The gate that lets fewer launches through; the first among equals.
pub fn stricter(one: (Gate, Option<Timestamp>), other: (Gate, Option<Timestamp>)) -> (Gate, Option<Timestamp>) {
    match (&one.0, &other.0) {
        (Gate::Closed(_), _) | (_, Gate::Open) | (Gate::Probe(_), Gate::Probe(_)) => one,
        _ => other,
    }
}

/// How long to wait before the credentials are tried again, and read again while they work.
pub const fn reconnect_after(works: bool) -> Duration {
    if works { Duration::from_secs(30) } else { Duration::from_secs(2) }
}
