//! Worlds made by hand, and what becomes of them.

mod fairness;
mod golden;
mod properties;
mod requests;
mod standby;
mod surplus;
mod unsure;
mod worlds;

use std::time::Duration;

use jiff::Timestamp;

use super::*;

/// Cost of a node unless a test says otherwise.
const SMALL: Resources = Resources { cores: 2, ram_mib: 1024 };

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn blocked(reason: &'static str) -> Blocked {
    Blocked { reason, message: format!("because of {reason}") }
}

/// A world under construction.
#[derive(Clone)]
struct Lab {
    world: World,
}

impl Lab {
    fn new() -> Self {
        let world = World { now: at(100_000), providers: vec![], pools: vec![], nodes: vec![], requests: vec![] };
        Self { world }
    }

    /// Providers named a, b, c, … with so many slots.
    fn providers(max_servers: &[u32]) -> Self {
        let mut lab = Self::new();
        for (name, &max_servers) in ('a'..='z').zip(max_servers) {
            lab.world.providers.push(Provider {
                name: format!("ns/{name}"),
                max_servers,
                max_instances: None,
                max_cores: None,
                max_ram_mib: None,
                gate: Gate::Open,
                draining: false,
            });
        }
        lab
    }

    /// A pool named x, y, z, … or numbered, offered by the providers given.
    fn pool(&mut self, min_ready: u32, providers: &[usize]) -> usize {
        let index = self.world.pools.len();
        self.world.pools.push(Pool {
            name: format!("ns/pool-{index}"),
            min_ready,
            max_nodes: None,
            max_ready_age: None,
            paused: false,
            draining: false,
            rolling: true,
            max_unavailable: 1,
            offers: providers.iter().map(|&provider| offer(provider, 0)).collect(),
            missing: None,
        });
        index
    }

    /// So many nodes of a pool on a provider, in the lowest free slots, each a second younger than the one before.
    fn nodes(&mut self, pool: usize, provider: usize, state: NodeState, count: u32) -> Vec<usize> {
        (0..count).map(|_| self.node(pool, provider, state)).collect()
    }

    fn node(&mut self, pool: usize, provider: usize, state: NodeState) -> usize {
        let index = self.world.nodes.len();
        let used: Vec<u32> = self.world.nodes.iter().filter(|n| n.provider == provider).map(|n| n.slot).collect();
        let born = at(1_000 + i64::try_from(index).unwrap());
        self.world.nodes.push(Node {
            provider,
            pool: Some(pool),
            slot: (0..).find(|slot| !used.contains(slot)).unwrap(),
            state,
            request: None,
            hash: "v1".into(),
            created: born,
            ready_since: (state == NodeState::Ready).then_some(born),
            resources: SMALL,
        });
        index
    }

    /// A request for nodes of pools, younger than those before.
    fn request(&mut self, entries: &[(usize, u32)]) -> usize {
        let index = self.world.requests.len();
        self.world.requests.push(Request {
            name: format!("ns/request-{index}"),
            priority: 0,
            created: at(50_000 + i64::try_from(index).unwrap()),
            spread: false,
            entries: entries.iter().map(|&(pool, count)| Entry { pool: Ok(pool), count, unsure: None }).collect(),
        });
        index
    }

    fn plan(&self) -> Plan {
        allocate(&self.world, &Fairness::default())
    }
}

fn offer(provider: usize, priority: i32) -> Offer {
    let template = Template { hash: "v1".into(), resources: SMALL };
    Offer { provider, max_nodes: None, priority, template: Ok(template), gate: Gate::Open }
}

/// The creates of a plan: (pool, provider), sorted.
fn creates(plan: &Plan) -> Vec<(usize, usize)> {
    let mut creates: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|step| match *step {
            Step::Create { provider, pool, .. } => Some((pool, provider)),
            _ => None,
        })
        .collect();
    creates.sort_unstable();
    creates
}

/// How many creates of a pool on a provider.
fn created(plan: &Plan, pool: usize, provider: usize) -> usize {
    creates(plan).into_iter().filter(|&found| found == (pool, provider)).count()
}

/// The slots of a plan's creates.
fn slots(plan: &Plan) -> Vec<u32> {
    plan.steps
        .iter()
        .filter_map(|step| match *step {
            Step::Create { slot, .. } => Some(slot),
            _ => None,
        })
        .collect()
}

/// The claims of a plan: (node, request, entry).
fn claims(plan: &Plan) -> Vec<(usize, usize, usize)> {
    plan.steps
        .iter()
        .filter_map(|step| match *step {
            Step::Claim { node, request, entry } => Some((node, request, entry)),
            _ => None,
        })
        .collect()
}

/// The condemned nodes of a plan, with the reason.
fn condemned(plan: &Plan) -> Vec<(usize, Condemnation)> {
    plan.steps
        .iter()
        .filter_map(|step| match *step {
            Step::Condemn { node, why } => Some((node, why)),
            _ => None,
        })
        .collect()
}

/// The reason a request waits for, and its position.
fn waits(plan: &Plan, request: usize) -> (u32, &'static str) {
    match plan.verdicts[request].as_ref().unwrap() {
        Verdict::Waiting { position, blocked } => (*position, blocked.reason),
        other => panic!("expected a wait, found {other:?}"),
    }
}

fn is_served(plan: &Plan, request: usize) -> bool {
    plan.verdicts[request] == Some(Verdict::Served)
}

fn is_impossible(plan: &Plan, request: usize) -> bool {
    matches!(plan.verdicts[request], Some(Verdict::Impossible(_)))
}

/// Performs a plan on a world as if every step succeeded: records appear, claims hold, condemned nodes leave.
fn apply(world: &mut World, plan: &Plan) {
    for step in &plan.steps {
        match *step {
            Step::Create { provider, slot, pool } => {
                let template =
                    world.pools[pool].offers.iter().find(|o| o.provider == provider).unwrap().template.clone();
                let template = template.unwrap();
                world.nodes.push(Node {
                    provider,
                    pool: Some(pool),
                    slot,
                    state: NodeState::Creating,
                    request: None,
                    hash: template.hash,
                    created: world.now,
                    ready_since: None,
                    resources: template.resources,
                });
            }
            Step::Claim { node, request, .. } => {
                world.nodes[node].state = NodeState::Claimed;
                world.nodes[node].request = Some(request);
            }
            Step::Condemn { node, .. } => world.nodes[node].state = NodeState::Leaving,
        }
    }
}

/// The world with the creates of a plan: what counts against limits as long as no step is answered.
fn with_creates(world: &World, plan: &Plan) -> World {
    let mut after = world.clone();
    let creates: Vec<Step> = plan.steps.iter().filter(|step| matches!(step, Step::Create { .. })).cloned().collect();
    apply(&mut after, &Plan { steps: creates, ..Plan::default() });
    after
}

/// One tick of the outside: records become servers, servers become ready, what leaves is gone.
fn tick(world: &mut World) {
    let now = world.now;
    world.nodes.retain(|node| node.state != NodeState::Leaving);
    for node in &mut world.nodes {
        node.state = match node.state {
            NodeState::Creating => NodeState::Building,
            NodeState::Building => NodeState::Ready,
            other => other,
        };
        if node.state == NodeState::Ready && node.ready_since.is_none() {
            node.ready_since = Some(now);
        }
    }
}
