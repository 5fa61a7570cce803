//! Worlds by chance: sane ones, as the controller would build them, and wild ones, which nobody should.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

/// The reasons of gates: two that pass with time and one that does not.
fn gate() -> impl Strategy<Value = Gate> {
    let reason = prop::sample::select(vec!["QuotaExceeded", "NoValidHost", "InvalidConfiguration"]);
    (0..10_u8, reason).prop_map(|(kind, reason)| match kind {
        0 => Gate::Closed(blocked(reason)),
        1 => Gate::Probe(blocked(reason)),
        _ => Gate::Open,
    })
}

fn rarely() -> impl Strategy<Value = bool> {
    (0..12_u8).prop_map(|chance| chance == 0)
}

fn provider() -> impl Strategy<Value = Provider> {
    let limits = (0..9_u32, option::weighted(0.2, -2..9_i64), option::weighted(0.3, 0..20_i64));
    (limits, option::weighted(0.2, 0..12_i64), gate(), rarely()).prop_map(
        |((max_servers, max_instances, max_cores), max_ram_mib, gate, draining)| Provider {
            name: String::new(),
            max_servers,
            max_instances,
            max_cores,
            max_ram_mib,
            gate,
            draining,
        },
    )
}

fn template() -> impl Strategy<Value = Result<Template, Blocked>> {
    (0..9_u8, 1..4_i64, 1..3_i64).prop_map(|(kind, cores, ram_mib)| match kind {
        0 => Err(blocked("ImageNotReady")),
        1..=3 => Ok(Template { hash: "v2".into(), resources: Resources { cores, ram_mib } }),
        _ => Ok(Template { hash: "v1".into(), resources: Resources { cores, ram_mib } }),
    })
}

fn pool() -> impl Strategy<Value = Pool> {
    let offers = vec((0..4_usize, option::weighted(0.2, 0..4_u32), -1..2_i32, template(), gate()), 0..4);
    let size = (0..5_u32, option::weighted(0.3, 0..7_u32), option::weighted(0.3, 1..5_000_u64));
    (size, offers, (rarely(), rarely(), any::<bool>(), 0..3_u32, rarely())).prop_map(
        |((min_ready, max_nodes, age), offers, (paused, draining, rolling, max_unavailable, missing))| {
            let mut pool = Pool {
                name: String::new(),
                min_ready,
                max_nodes,
                max_ready_age: age.map(Duration::from_secs),
                paused,
                draining,
                rolling,
                max_unavailable,
                offers: Vec::new(),
                missing: missing.then(|| blocked("ProviderNotFound")),
            };
            for (provider, max_nodes, priority, template, gate) in offers {
                if pool.offers.iter().all(|offer| offer.provider != provider) {
                    pool.offers.push(Offer { provider, max_nodes, priority, template, gate });
                }
            }
            pool
        },
    )
}

pub(super) fn state() -> impl Strategy<Value = NodeState> {
    prop::sample::select(vec![
        NodeState::Ready,
        NodeState::Ready,
        NodeState::Ready,
        NodeState::Building,
        NodeState::Creating,
        NodeState::Claimed,
        NodeState::Held,
        NodeState::Kept,
        NodeState::Leaving,
    ])
}

/// A node, before its indexes are brought into range: provider, pool, state, request, age, old hash, cores.
type RawNode = (usize, usize, NodeState, usize, i64, bool, i64);

fn raw_node() -> impl Strategy<Value = RawNode> {
    (0..4_usize, 0..6_usize, state(), 0..9_usize, 0..9_000_i64, any::<bool>(), 1..4_i64)
}

fn request() -> impl Strategy<Value = Request> {
    let unsure = || rarely().prop_map(|unsure| unsure.then(|| blocked("PoolNotFound")));
    let entries = vec((0..6_usize, 0..4_u32, unsure()), 1..4);
    (-1..2_i32, 0..6_i64, any::<bool>(), entries).prop_map(|(priority, created, spread, entries)| Request {
        name: String::new(),
        priority,
        created: at(created),
        spread,
        entries: entries.into_iter().map(|(pool, count, unsure)| Entry { pool: Ok(pool), count, unsure }).collect(),
    })
}

fn name(world: &mut World) {
    for (index, provider) in world.providers.iter_mut().enumerate() {
        provider.name = format!("ns/provider-{index}");
    }
    for (index, pool) in world.pools.iter_mut().enumerate() {
        pool.name = format!("ns/pool-{index}");
    }
    for (index, request) in world.requests.iter_mut().enumerate() {
        request.name = format!("ns/request-{index}");
    }
}

/// A world whose indexes and slots are right.
pub(super) fn sane() -> impl Strategy<Value = World> {
    (vec(provider(), 1..4), vec(pool(), 1..5), vec(raw_node(), 0..20), vec(request(), 0..6)).prop_map(
        |(providers, pools, nodes, requests)| {
            let mut world = World { now: at(10_000), providers, pools, nodes: Vec::new(), requests };
            name(&mut world);
            let providers = world.providers.len();
            for pool in &mut world.pools {
                pool.offers.retain(|offer| offer.provider < providers);
            }
            for request in &mut world.requests {
                for entry in &mut request.entries {
                    let pool = entry.pool.clone().unwrap();
                    entry.pool = if pool < world.pools.len() { Ok(pool) } else { Err(blocked("NotFound")) };
                }
            }
            for raw in nodes {
                add(&mut world, raw);
            }
            world
        },
    )
}

fn add(world: &mut World, (provider, pool, state, request, created, old, cores): RawNode) {
    let provider = provider % world.providers.len();
    let used = world.nodes.iter().filter(|node| node.provider == provider).count();
    let has_request = state == NodeState::Claimed && request < world.requests.len();
    world.nodes.push(Node {
        provider,
        pool: (pool < world.pools.len()).then_some(pool),
        slot: u32::try_from(used * 3 % 10 + used / 10 * 10).unwrap(),
        state,
        request: has_request.then_some(request),
        hash: if old { "v0" } else { "v1" }.into(),
        created: at(created),
        ready_since: (state == NodeState::Ready).then_some(at(created + 30)),
        resources: Resources { cores, ram_mib: 1 },
    });
}

/// A world in which nothing fits together.
pub(super) fn wild() -> impl Strategy<Value = World> {
    let extreme = prop::sample::select(vec![0, 1, 3, u32::MAX - 1, u32::MAX]);
    let huge = option::of(prop::sample::select(vec![i64::MIN, -1, 0, 1, 5, i64::MAX]));
    let change = (0..40_usize, extreme, huge);
    (sane(), vec(change, 0..12), vec(raw_node(), 0..6)).prop_map(|(mut world, changes, nodes)| {
        for raw in nodes {
            let mut node = world.nodes.first().cloned();
            if let Some(node) = &mut node {
                (node.provider, node.pool, node.state, node.request) = (raw.0 * 3, Some(raw.1 * 3), raw.2, Some(raw.3));
                world.nodes.push(node.clone());
            }
        }
        for (place, number, amount) in changes {
            disturb(&mut world, place, number, amount);
        }
        world
    })
}

fn disturb(world: &mut World, place: usize, number: u32, amount: Option<i64>) {
    let (providers, pools) = (world.providers.len(), world.pools.len());
    let provider = &mut world.providers[place % providers];
    let pool = &mut world.pools[place % pools];
    match place % 10 {
        0 => provider.max_servers = number,
        1 => provider.max_instances = amount,
        2 => provider.max_cores = amount,
        3 => provider.max_ram_mib = amount,
        4 => pool.min_ready = number,
        5 => pool.max_nodes = Some(number),
        6 => pool.offers.iter_mut().for_each(|offer| offer.provider = 99),
        7 => pool.max_ready_age = Some(Duration::MAX),
        8 => {
            for offer in &mut pool.offers {
                if let (Ok(template), Some(cores)) = (&mut offer.template, amount) {
                    template.resources.cores = cores;
                }
            }
        }
        _ => {
            for entry in world.requests.iter_mut().flat_map(|request| &mut request.entries).take(2) {
                entry.count = number;
                entry.pool = Ok(usize::try_from(number % 7).unwrap());
            }
        }
    }
}
