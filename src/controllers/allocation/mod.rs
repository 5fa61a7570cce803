//! The one pass that gives slots, nodes and providers: observe the world, ask the plan, do its steps, keep its answer.
//!
//! Never chooses anything itself: what is written here follows from [`crate::plan::allocation`] alone.

mod act;
mod image_work;

use std::sync::{Arc, RwLockReadGuard};
use std::time::Instant;

use foldhash::HashMap;
use jiff::Timestamp;
use kube::ResourceExt;

use self::image_work::Work;
use super::index::Key;
use super::provider::Connection;
use super::provider::connection::{gate, stricter};
use super::runtime::{Creating, NodeRuntime};
use super::{Engine, Mark, pool, tenancy};
use crate::api::conditions::reason;
use crate::api::pool::{Probe, UpdateStrategy};
use crate::api::pool_node::ClaimRef;
use crate::api::provider::LaunchFence;
use crate::api::{ANNOTATION_HASH_VERSION, DiskImage, NodeRequest, NodeState, Pool, PoolNode, Provider, RequestState};
use crate::cloud::view::View;
use crate::cloud::{Flavor, ServerStatus};
use crate::plan::allocation as plan;
use crate::plan::allocation::{Blocked, Gate, Resources, Verdict, World};
use crate::plan::node::Boot;
use crate::plan::pressure::Answer;
use crate::plan::tenancy::Access;

/// What the last pass said, for the reports.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What becomes of each waiting request, by uid.
    pub verdicts: HashMap<String, Verdict>,
    /// Why a pool is below `minReady` and nothing (more) is launched for it.
    pub blocked: HashMap<Key, Blocked>,
    /// What a version of an image waits for, by uid.
    pub images: HashMap<String, Blocked>,
}

/// Whose a claimed node is.
#[derive(Clone, Copy, Debug)]
struct Claimer {
    /// Index into the world's requests.
    request: usize,
    /// Index into the world's pools, for what stands there as a pool of its own.
    pool: Option<usize>,
}

/// The records behind a world's positions.
struct Seen {
    providers: Vec<Key>,
    pools: Vec<Key>,
    nodes: Vec<Option<Arc<PoolNode>>>,
    requests: Vec<Arc<NodeRequest>>,
    /// Versions of images that want servers: each stands behind the pools as a pool, behind the requests as a request.
    works: Vec<Work>,
    /// When back-pressure changes by time alone.
    wake: Option<Timestamp>,
    /// Providers where something is on the move.
    moving: Vec<bool>,
}

/// Observe, plan, act, report.
pub fn reconcile(engine: &mut Engine) {
    let started = Instant::now();
    let (world, seen) = observe(engine);
    let plan = plan::allocate(&world, &engine.memory.fairness);
    engine.setup.metrics.plan_pass(started.elapsed());
    for step in &plan.steps {
        act::perform(engine, &world, &seen, step);
    }
    report(engine, &seen, plan);
}

fn observe(engine: &Engine) -> (World, Seen) {
    let mut seen = Seen {
        providers: sorted(engine.providers.iter().map(|(key, _)| key)),
        pools: sorted(engine.pools.iter().map(|(key, _)| key)),
        nodes: Vec::new(),
        requests: Vec::new(),
        works: image_work::wanted(engine),
        wake: None,
        moving: Vec::new(),
    };
    let providers: HashMap<&Key, usize> = seen.providers.iter().enumerate().map(|(at, key)| (key, at)).collect();
    let pools: HashMap<&Key, usize> = seen.pools.iter().enumerate().map(|(at, key)| (key, at)).collect();
    let mut wake = Vec::new();
    let settled = engine.memory.providers.values().filter_map(|memory| memory.met?.checked_add(SETTLE).ok());
    wake.extend(settled.filter(|at| *at > engine.now));
    let requests = waiting(engine);
    let mut uids: HashMap<String, Claimer> = requests
        .iter()
        .enumerate()
        .filter_map(|(at, request)| Some((request.uid()?, Claimer { request: at, pool: None })))
        .collect();
    for (at, work) in seen.works.iter().enumerate() {
        uids.insert(work.uid.clone(), Claimer { request: requests.len() + at, pool: Some(seen.pools.len() + at) });
    }
    let mut world = World {
        now: engine.now,
        providers: seen
            .providers
            .iter()
            .filter_map(|key| Some(provider(engine, key, engine.providers.get(key)?, &mut wake)))
            .collect(),
        pools: seen
            .pools
            .iter()
            .filter_map(|key| Some(one_pool(engine, key, engine.pools.get(key)?, &providers, &mut wake)))
            .chain(seen.works.iter().map(|work| work.pool(engine, &providers)))
            .collect(),
        nodes: Vec::with_capacity(engine.nodes.len() + engine.creating.len()),
        requests: requests
            .iter()
            .map(|request| one_request(engine, request, &pools))
            .chain((seen.pools.len()..).zip(&seen.works).map(|(pool, work)| work.request(pool)))
            .collect(),
    };
    wake.extend(seen.works.iter().filter_map(|work| work.wake(engine)));
    let mut moving = vec![false; seen.providers.len()];
    let mut nodes = Vec::with_capacity(engine.nodes.len());
    let places = places(engine, &seen.providers);
    let named = seen.pools.iter().enumerate().map(|(at, key)| ((&*key.namespace, &*key.name), at)).collect();
    for (key, record) in engine.nodes.iter() {
        let Some(place) = places.get(&(&*key.namespace, record.spec.provider.as_str())) else { continue };
        let at = place.provider;
        let node = one_node(engine, key, record, place, &named, &uids, &world.pools);
        moving[at] |= matches!(node.state, plan::NodeState::Building | plan::NodeState::Leaving);
        world.nodes.push(node);
        nodes.push(Some(Arc::clone(record)));
    }
    // The views are locked no longer than they are looked at.
    drop(places);
    for (key, creating) in &engine.creating {
        let Some(&at) = providers.get(&creating.provider) else { continue };
        if engine.nodes.get(key).is_none() {
            world.nodes.push(one_creating(creating, at, &pools, &uids, engine.now));
            nodes.push(None);
        }
    }
    seen.nodes = nodes;
    seen.requests = requests;
    seen.wake = wake.into_iter().min();
    seen.moving = moving;
    (world, seen)
}

fn sorted<'a>(keys: impl Iterator<Item = &'a Key>) -> Vec<Key> {
    let mut keys: Vec<Key> = keys.cloned().collect();
    keys.sort_unstable();
    keys
}

/// Requests that still wait, in a stable order.
fn waiting(engine: &Engine) -> Vec<Arc<NodeRequest>> {
    let mut requests: Vec<Arc<NodeRequest>> = engine
        .requests
        .iter()
        .filter(|(_, request)| {
            request.metadata.deletion_timestamp.is_none()
                && request.status.as_ref().is_none_or(|status| status.state == RequestState::Pending)
        })
        .map(|(_, request)| Arc::clone(request))
        .collect();
    requests.sort_unstable_by_key(|request| Key::of(&**request));
    requests
}

fn provider(engine: &Engine, key: &Key, record: &Provider, wake: &mut Vec<Timestamp>) -> plan::Provider {
    let connection = engine.connections.get(key);
    let (gate, until) = provider_gate(engine, key, record, connection);
    wake.extend(until);
    let limits = record.spec.limits.clone().unwrap_or_default();
    let quota = connection.and_then(|connection| connection.limits).unwrap_or_default();
    let others = connection.map(Connection::others).unwrap_or_default();
    let ours = |max: Option<i64>, others: i64| max.map(|max| max.saturating_sub(others));
    let least = |a: Option<i64>, b: Option<i64>| [a, b].into_iter().flatten().min();
    plan::Provider {
        name: key.to_string(),
        max_servers: u32::try_from(record.spec.max_servers).unwrap_or(0),
        max_instances: ours(quota.instances.max, others.instances),
        max_cores: least(limits.cores.map(i64::from), ours(quota.cores.max, others.cores)),
        max_ram_mib: least(limits.ram_mib, ours(quota.ram_mib.max, others.ram_mib)),
        gate,
        draining: record.metadata.deletion_timestamp.is_some(),
    }
}

fn provider_gate(
    engine: &Engine,
    key: &Key,
    record: &Provider,
    connection: Option<&Connection>,
) -> (Gate, Option<Timestamp>) {
    let closed = |reason, message: String| (Gate::Closed(Blocked { reason, message }), None);
    if record.metadata.deletion_timestamp.is_some() {
        return closed(reason::DRAINING, format!("the Provider {} is being deleted", key.name));
    }
    if record.spec.paused {
        return closed(reason::PAUSED, format!("the Provider {} is paused", key.name));
    }
    let Some(connection) = connection.filter(|connection| connection.error.is_none()) else {
        let failure = engine.memory.providers.get(key).and_then(|memory| memory.failure.clone());
        let why = failure.map_or_else(|| "it is not connected".to_owned(), |failure| failure.message);
        return closed(reason::PROVIDER_NOT_READY, format!("the Provider {} cannot be used now: {why}", key.name));
    };
    // Nothing is launched before the cloud was listed once: an earlier life's servers must be found first (rule 2).
    if connection.listed_full().is_none() {
        return closed(
            reason::PROVIDER_NOT_READY,
            format!("the servers of the Provider {} are being listed", key.name),
        );
    }
    let creates = engine.memory.providers.get(key).map_or(Answer::Open, |memory| memory.creates.answer(engine.now));
    let records = gate(creates, reason::TRANSIENT_ERROR, || {
        "records of nodes could not be made; the operator's log tells why".to_owned()
    });
    stricter(connection.gate(engine.now), records)
}

fn one_pool(
    engine: &Engine,
    key: &Key,
    record: &Pool,
    providers: &HashMap<&Key, usize>,
    wake: &mut Vec<Timestamp>,
) -> plan::Pool {
    let positive = |number: i32| u32::try_from(number).unwrap_or(0);
    let mut missing = None;
    let offers = record.spec.providers.iter().filter_map(|offer| {
        let provider = tenancy::provider(key, offer);
        // Like one that the pool does not name: what is idle there goes. While nobody can tell, it is kept.
        if tenancy::of_provider(engine, key, &provider) != Access::Allowed {
            missing.get_or_insert_with(|| Blocked {
                reason: reason::PROVIDER_NOT_FOUND,
                message: tenancy::no_provider(key, &provider),
            });
            return None;
        }
        let template = template(engine, key, record, &provider);
        let (gate, until) = match (&template, engine.connections.get(&provider)) {
            (Ok(launch), Some(connection)) => connection.offer_gate(&launch.flavor.id, &launch.hash, engine.now),
            _ => (Gate::Open, None),
        };
        wake.extend(until);
        Some(plan::Offer {
            provider: *providers.get(&provider)?,
            max_nodes: offer.max_nodes.map(positive),
            priority: offer.priority,
            template: template
                .map(|launch| plan::Template { resources: cost(&launch.flavor), hash: launch.hash.into() }),
            gate,
        })
    });
    let offers = offers.collect();
    plan::Pool {
        name: key.to_string(),
        min_ready: positive(record.spec.min_ready),
        max_nodes: record.spec.max_nodes.map(positive),
        max_ready_age: record.spec.max_ready_age.map(crate::api::Duration::as_std),
        // Just started: a Provider that is being connected takes its share of the pool a moment later.
        paused: record.spec.paused
            || record.spec.providers.iter().any(|offer| settling(engine, key, record, &tenancy::provider(key, offer))),
        draining: record.metadata.deletion_timestamp.is_some(),
        rolling: record.spec.update.strategy == UpdateStrategy::Rolling,
        max_unavailable: positive(record.spec.update.max_unavailable),
        offers,
        missing,
    }
}

/// How long a pool waits for all its Providers before the ones that are there take everything.
const SETTLE: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// Whether a Provider was met a moment ago, and may offer what the pool boots any moment.
pub fn settling(engine: &Engine, pool: &Key, record: &Pool, provider: &Key) -> bool {
    let Some(memory) = engine.memory.providers.get(provider) else { return false };
    let fresh = memory.met.is_some_and(|met| engine.now.duration_since(met) < SETTLE);
    let wanting = || match template(engine, pool, record, provider) {
        Err(blocked) => [reason::PROVIDER_NOT_READY, reason::IMAGE_NOT_READY].contains(&blocked.reason),
        Ok(_) => false,
    };
    // Of one that is closed a pool learns nothing, not even that it is new.
    let open = || tenancy::of_provider(engine, pool, provider) == Access::Allowed;
    fresh && memory.failure.is_none() && open() && (!memory.listed || wanting())
}

const fn cost(flavor: &Flavor) -> Resources {
    Resources { cores: flavor.resources.cores, ram_mib: flavor.resources.ram_mib }
}

/// What a pool boots on one provider, or a version of an image to be made or tried.
#[derive(Clone)]
pub struct Launch {
    /// The pool it is for.
    pub pool: Option<Key>,
    /// What has it from the start.
    pub claim: Option<ClaimRef>,
    /// The DiskImage.
    pub disk_image: String,
    /// The version of the image; none for what a version is made from.
    pub version: Option<String>,
    /// The image's id in the cloud.
    pub image_id: String,
    /// What must answer.
    pub probe: Probe,
    /// The flavor.
    pub flavor: Flavor,
    /// How nodes of it are logged into.
    pub login: crate::api::disk_image::Login,
    /// How its boot requests are fenced: nothing that a node shows, so nothing of the hash.
    pub fence: LaunchFence,
    /// The hash of all that makes a node outdated.
    pub hash: String,
}

/// Why an image has no version to boot from: what its DiskImage says, or that it says nothing of this provider.
fn not_ready(engine: &Engine, image: &Key, provider: &Key) -> String {
    let listed = engine
        .disk_images
        .get(image)
        .is_some_and(|record| record.spec.providers.iter().any(|name| **name == *provider.name));
    if listed {
        format!("the DiskImage {} has no usable version on {}; its conditions tell why", image.name, provider.name)
    } else {
        format!("add {} to spec.providers of the DiskImage {}: it is made for others only", provider.name, image.name)
    }
}

/// What a pool would boot on a provider now, or what is missing.
pub fn template(engine: &Engine, key: &Key, record: &Pool, provider: &Key) -> Result<Launch, Blocked> {
    let blocked = |reason, message| Blocked { reason, message };
    let open = |_: &&Arc<Provider>| tenancy::of_provider(engine, key, provider) == Access::Allowed;
    let spec = engine
        .providers
        .get(provider)
        .filter(open)
        .ok_or_else(|| blocked(reason::PROVIDER_NOT_FOUND, tenancy::no_provider(key, provider)))?;
    if record.spec.user_data_secret_ref.is_some() && provider.namespace != key.namespace {
        // A Secret of the Provider's namespace, named from another one, would be handed to whoever can name it.
        return Err(blocked(
            reason::INVALID_CONFIGURATION,
            format!(
                "remove userDataSecretRef, or the Provider {provider}: Secrets are read in the Provider's namespace only, \
                 and not for Pools of others"
            ),
        ));
    }
    let image = provider.sibling(&record.spec.image);
    let disk_image: &Arc<DiskImage> = engine.disk_images.get(&image).ok_or_else(|| {
        blocked(reason::DISK_IMAGE_NOT_FOUND, format!("create the DiskImage {}, or correct spec.image", image.name))
    })?;
    let version = super::provider_image::current(engine, &image, &provider.name)
        .ok_or_else(|| blocked(reason::IMAGE_NOT_READY, not_ready(engine, &image, provider)))?;
    let image_id = version.status.as_ref().and_then(|status| status.image_id.clone()).unwrap_or_default();
    let connection = engine.connections.get(provider).ok_or_else(|| {
        blocked(reason::PROVIDER_NOT_READY, format!("the Provider {} is not connected", provider.name))
    })?;
    let flavor = connection.flavor(&record.spec.flavor).cloned().ok_or_else(|| match connection.facts_read {
        None => blocked(reason::PROVIDER_NOT_READY, format!("the flavors of {} are being read", provider.name)),
        Some(_) => blocked(reason::FLAVOR_NOT_FOUND, connection.missing_flavor(&provider.name, &record.spec.flavor)),
    })?;
    let login = disk_image.spec.login.clone();
    let hash = super::pool::hash(record, spec, &image_id, &flavor.id, &login);
    Ok(Launch {
        pool: Some(key.clone()),
        claim: None,
        disk_image: record.spec.image.clone(),
        version: Some(version.name_any()),
        image_id,
        probe: record.spec.readiness.probe,
        flavor,
        login,
        fence: spec.spec.launch_fence,
        hash,
    })
}

/// A Provider, as far as each of its nodes asks: looked up once a pass, since a pass looks at every node.
struct Place<'a> {
    provider: usize,
    /// Its servers, when the cloud was listed completely.
    view: Option<RwLockReadGuard<'a, View>>,
    costs: HashMap<&'a str, Resources>,
}

/// Something by its namespace and name.
type Named<'a, T> = HashMap<(&'a str, &'a str), T>;

fn places<'a>(engine: &'a Engine, providers: &'a [Key]) -> Named<'a, Place<'a>> {
    let place = |(at, key): (usize, &'a Key)| {
        let connection = engine.connections.get(key);
        let listed = connection.filter(|connection| connection.listed_full().is_some());
        let flavors = connection.into_iter().flat_map(|connection| &connection.flavors);
        let costs = flavors.map(|flavor| (flavor.id.as_str(), cost(flavor))).collect();
        ((&*key.namespace, &*key.name), Place { provider: at, view: listed.map(Connection::view), costs })
    };
    providers.iter().enumerate().map(place).collect()
}

fn one_node(
    engine: &Engine,
    key: &Key,
    record: &Arc<PoolNode>,
    place: &Place<'_>,
    pools: &Named<'_, usize>,
    claimers: &HashMap<String, Claimer>,
    world: &[plan::Pool],
) -> plan::Node {
    let uid = record.metadata.uid.as_deref().unwrap_or_default();
    let runtime = engine.runtime.get(uid);
    let claim = record.spec.claim_ref.as_ref().map(|claim| claim.uid.as_str()).or_else(|| runtime?.claiming.as_deref());
    let provider = place.provider;
    let claimer = claim.and_then(|uid| claimers.get(uid));
    let at = record.spec.pool_namespace.as_deref().unwrap_or(&key.namespace);
    let pool = record.spec.pool.as_deref().and_then(|pool| pools.get(&(at, pool)).copied());
    let pool = pool.or_else(|| claimer?.pool);
    // Nobody has the right to boot it, so it will never be of use: it only holds its slot.
    let hopeless = |runtime: &NodeRuntime| runtime.permit.is_none() && runtime.boot == Boot::Never;
    let condemned = record.metadata.deletion_timestamp.is_some()
        || runtime.is_some_and(|runtime| runtime.condemning || hopeless(runtime));
    let state = match record.state() {
        _ if condemned || engine.nodes.is_unreadable(key) => plan::NodeState::Leaving,
        NodeState::Failed | NodeState::Deleting => plan::NodeState::Leaving,
        NodeState::Held => plan::NodeState::Held,
        _ if record.spec.hold.is_some() => plan::NodeState::Held,
        NodeState::InUse => plan::NodeState::Claimed,
        _ if claim.is_some() => plan::NodeState::Claimed,
        _ if unsure(engine, key, record, pool.is_some()) => plan::NodeState::Kept,
        NodeState::Building => plan::NodeState::Building,
        NodeState::Ready if runtime.is_some_and(|runtime| usable(place, runtime)) => plan::NodeState::Ready,
        NodeState::Ready => plan::NodeState::Building,
    };
    plan::Node {
        provider,
        pool,
        slot: u32::try_from(record.spec.slot).unwrap_or(u32::MAX),
        state,
        request: claimer.map(|claimer| claimer.request),
        hash: comparable_hash(record, pool.and_then(|pool| world.get(pool)), provider),
        created: record.creation_timestamp().map_or(engine.now, |time| time.0),
        ready_since: record.status.as_ref().and_then(|status| status.ready_at.as_ref()).map(|time| time.0),
        resources: place.costs.get(record.spec.flavor_id.as_str()).copied().unwrap_or_default(),
    }
}

/// Whether nobody can tell now what is to become of an idle node: its Pool cannot be read, or may use the Provider or not.
fn unsure(engine: &Engine, key: &Key, record: &PoolNode, is_known: bool) -> bool {
    // A pass asks for every node: most are of a Pool of their own namespace that can be read.
    if is_known && record.spec.pool_namespace.is_none() {
        return false;
    }
    let Some(pool) = tenancy::pool_of(record) else { return false };
    if !is_known {
        // One that is gone is gone, whoever might have used the Provider: nothing else would ever free the slot.
        return engine.pools.is_unreadable(&pool);
    }
    tenancy::of_provider(engine, &pool, &key.sibling(&record.spec.provider)) == Access::Unknown
}

/// A ready node whose server is not seen running now is not handed out; its own decision follows.
fn usable(place: &Place<'_>, runtime: &NodeRuntime) -> bool {
    // While the cloud does not answer the node may well, and a claim of it is no cloud write.
    let shown = || place.view.as_ref()?.get(runtime.server_id.as_deref()?);
    !runtime.gone && shown().is_none_or(|server| matches!(server.status, ServerStatus::Active | ServerStatus::Unknown))
}

/// A node hashed by an older formula is not outdated by that alone.
fn comparable_hash(record: &PoolNode, pool: Option<&plan::Pool>, provider: usize) -> Arc<str> {
    let other_formula =
        || record.annotations().get(ANNOTATION_HASH_VERSION).is_none_or(|version| version != pool::HASH_VERSION);
    let offer = pool.and_then(|pool| pool.offers.iter().find(|offer| offer.provider == provider));
    let current = offer.and_then(|offer| offer.template.as_ref().ok()).map(|template| &template.hash);
    let comparable = current.filter(|hash| ***hash == *record.spec.template_hash || other_formula());
    comparable.map_or_else(|| record.spec.template_hash.as_str().into(), Arc::clone)
}

fn one_creating(
    creating: &Creating,
    provider: usize,
    pools: &HashMap<&Key, usize>,
    claimers: &HashMap<String, Claimer>,
    now: Timestamp,
) -> plan::Node {
    let pool = || match (&creating.pool, &creating.claim) {
        (Some(pool), _) => pools.get(pool).copied(),
        (None, claim) => claimers.get(claim.as_ref()?)?.pool,
    };
    plan::Node {
        provider,
        // A name that is taken by a record we cannot see belongs to no pool that we know.
        pool: if creating.taken { None } else { pool() },
        slot: creating.slot,
        state: if creating.taken { plan::NodeState::Leaving } else { plan::NodeState::Creating },
        request: None,
        hash: creating.hash.as_str().into(),
        created: now,
        ready_since: None,
        resources: creating.resources,
    }
}

fn one_request(engine: &Engine, request: &NodeRequest, pools: &HashMap<&Key, usize>) -> plan::Request {
    let key = Key::of(request);
    let entry = |set: &crate::api::node_request::NodeSet| {
        let wanted = tenancy::pool(&key, set);
        let access = tenancy::of_pool(engine, &key, &wanted);
        let closed = || Blocked { reason: reason::POOL_NOT_FOUND, message: tenancy::no_pool(&key, &wanted) };
        plan::Entry {
            pool: pools.get(&wanted).copied().filter(|_| access != Access::Denied).ok_or_else(closed),
            count: u32::try_from(set.count).unwrap_or(0),
            unsure: (access == Access::Unknown).then(closed),
        }
    };
    plan::Request {
        name: key.to_string(),
        priority: request.spec.priority,
        created: request.creation_timestamp().map_or(Timestamp::MAX, |time| time.0),
        spread: request.spec.spread,
        entries: request.spec.nodes.iter().map(entry).collect(),
    }
}

fn report(engine: &mut Engine, seen: &Seen, plan: plan::Plan) {
    let wake = plan.wake.into_iter().chain(seen.wake).min();
    if let Some(at) = wake {
        engine.wake(at.max(engine.now), Mark::Allocation);
    }
    for (key, moving) in seen.providers.iter().zip(&seen.moving) {
        engine.connections.get(key).into_iter().for_each(|connection| connection.moving(*moving));
    }
    let mut of_requests = plan.verdicts;
    let plan_of_works = of_requests.split_off(seen.requests.len().min(of_requests.len()));
    let verdicts: HashMap<String, Verdict> = seen
        .requests
        .iter()
        .zip(of_requests)
        .filter_map(|(request, verdict)| Some((request.uid()?, verdict?)))
        .collect();
    for request in &seen.requests {
        let uid = request.uid().unwrap_or_default();
        if engine.memory.allocation.verdicts.get(&uid) != verdicts.get(&uid) {
            engine.mark(Mark::Request(Key::of(&**request)));
        }
    }
    let blocked: HashMap<Key, Blocked> =
        seen.pools.iter().zip(plan.blocked).filter_map(|(key, blocked)| Some((key.clone(), blocked?))).collect();
    for key in &seen.pools {
        if engine.memory.allocation.blocked.get(key) != blocked.get(key) {
            pool::mark_later(engine, key.clone());
        }
    }
    let images = image_work::waiting(&seen.works, plan_of_works);
    image_work::tell(engine, &seen.works, &images);
    engine.memory.fairness = plan.fairness;
    engine.memory.allocation = Outcome { verdicts, blocked, images };
}
