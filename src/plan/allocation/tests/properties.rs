//! What holds for every world: limits, order, all or nothing, rest.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::reasons::*;
use super::worlds::{sane, wild};
use super::*;

/// What is there after a plan, for comparing with limits.
#[derive(Default)]
struct Tally {
    nodes: i64,
    cores: i64,
    ram_mib: i64,
    in_flight: i64,
}

fn tally<'w>(nodes: impl Iterator<Item = &'w Node>) -> Tally {
    nodes.fold(Tally::default(), |mut tally, node| {
        tally.nodes += 1;
        tally.cores += node.resources.cores;
        tally.ram_mib += node.resources.ram_mib;
        tally.in_flight += i64::from(matches!(node.state, NodeState::Creating | NodeState::Building));
        tally
    })
}

fn over(most: Option<i64>, found: i64) -> bool {
    most.is_some_and(|most| found > most)
}

/// The first limit that a provider with these nodes exceeds.
fn provider_limit(provider: &Provider, tally: &Tally) -> Option<&'static str> {
    match &provider.gate {
        Gate::Closed(_) => return Some("gate"),
        Gate::Probe(_) if tally.in_flight > 1 => return Some("probe"),
        _ => {}
    }
    let limits = [
        ("draining", provider.draining),
        ("maxServers", tally.nodes > i64::from(provider.max_servers)),
        ("instances", over(provider.max_instances, tally.nodes)),
        ("cores", over(provider.max_cores, tally.cores)),
        ("memory", over(provider.max_ram_mib, tally.ram_mib)),
    ];
    limits.into_iter().find(|(_, exceeded)| *exceeded).map(|(name, _)| name)
}

/// The first limit that an offer with these nodes exceeds.
fn offer_limit(offer: &Offer, tally: &Tally) -> Option<&'static str> {
    match &offer.gate {
        Gate::Closed(_) => return Some("offer gate"),
        Gate::Probe(_) if tally.in_flight > 1 => return Some("offer probe"),
        _ => {}
    }
    if offer.template.is_err() {
        return Some("template");
    }
    over(offer.max_nodes.map(i64::from), tally.nodes).then_some("maxNodes there")
}

/// The first limit that stands against what a world holds of a pool at an offer.
fn exceeded(world: &World, pool: usize, provider: usize) -> Option<&'static str> {
    let found = &world.pools[pool];
    let offer = found.offers.iter().find(|offer| offer.provider == provider)?;
    let all = tally(world.nodes.iter().filter(|node| node.pool == Some(pool)));
    let there = tally(world.nodes.iter().filter(|node| node.pool == Some(pool) && node.provider == provider));
    let at = tally(world.nodes.iter().filter(|node| node.provider == provider));
    if found.paused || found.draining {
        return Some("paused or deleted");
    }
    provider_limit(&world.providers[provider], &at)
        .or_else(|| offer_limit(offer, &there))
        .or_else(|| over(found.max_nodes.map(i64::from), all.nodes).then_some("maxNodes"))
}

/// Whether a step uses what it may use, and nothing twice.
fn check_steps(world: &World, plan: &Plan) -> Result<(), TestCaseError> {
    let mut nodes = BTreeSet::new();
    let mut slots: BTreeSet<(usize, u32)> = world.nodes.iter().map(|node| (node.provider, node.slot)).collect();
    for step in &plan.steps {
        match *step {
            Step::Create { provider, slot, pool } => {
                prop_assert!(slot < world.providers[provider].max_servers, "slot {slot} is above the maximum");
                prop_assert!(slots.insert((provider, slot)), "slot {slot} of {provider} is used twice");
                prop_assert!(world.pools[pool].offers.iter().any(|offer| offer.provider == provider));
            }
            Step::Claim { node, request, entry } => {
                prop_assert!(nodes.insert(node));
                prop_assert_eq!(world.nodes[node].state, NodeState::Ready);
                prop_assert_eq!(world.nodes[node].pool, world.requests[request].entries[entry].pool.clone().ok());
            }
            Step::Condemn { node, .. } => {
                prop_assert!(nodes.insert(node));
                let gone = || {
                    let pool = world.nodes[node].pool.and_then(|pool| world.pools.get(pool));
                    pool.is_some_and(|pool| pool.draining) || world.providers[world.nodes[node].provider].draining
                };
                let may_go = match world.nodes[node].state {
                    NodeState::Ready | NodeState::Building => true,
                    NodeState::Kept => gone(),
                    _ => false,
                };
                prop_assert!(may_go);
            }
        }
    }
    prop_assert_eq!(plan.verdicts.len(), world.requests.len());
    prop_assert!(plan.verdicts.iter().all(Option::is_some));
    prop_assert_eq!(plan.blocked.len(), world.pools.len());
    Ok(())
}

/// What a request still lacks, by entry, as the world stands.
fn lacking(world: &World, request: usize) -> Vec<u32> {
    let mut left: Vec<u32> = world.requests[request].entries.iter().map(|entry| entry.count).collect();
    for node in taken(world, request) {
        let entries = &world.requests[request].entries;
        let entry = (0..left.len()).find(|&entry| left[entry] > 0 && entries[entry].pool.clone().ok() == node.pool);
        if let Some(entry) = entry {
            left[entry] -= 1;
        }
    }
    left
}

fn taken(world: &World, request: usize) -> impl Iterator<Item = &Node> {
    world
        .nodes
        .iter()
        .filter(move |node| node.request == Some(request))
        .filter(|node| matches!(node.state, NodeState::Claimed | NodeState::Held))
}

/// Every request gets all that it lacks, on one provider unless spread, or nothing.
fn check_claims(world: &World, plan: &Plan) -> Result<(), TestCaseError> {
    for (index, request) in world.requests.iter().enumerate() {
        let given: Vec<_> = claims(plan).into_iter().filter(|claim| claim.1 == index).collect();
        if given.is_empty() {
            continue;
        }
        prop_assert_eq!(plan.verdicts[index].as_ref(), Some(&Verdict::Served));
        prop_assert!(request.entries.iter().all(|entry| entry.unsure.is_none()));
        for (entry, lacks) in lacking(world, index).into_iter().enumerate() {
            let got = given.iter().filter(|claim| claim.2 == entry).count();
            prop_assert_eq!(got, lacks as usize);
        }
        let providers: BTreeSet<usize> = given.iter().map(|claim| world.nodes[claim.0].provider).collect();
        if !request.spread {
            prop_assert_eq!(providers.len(), 1);
            if let Some(first) = taken(world, index).map(|node| node.provider).min() {
                prop_assert!(providers.contains(&first));
            }
        }
    }
    for (index, verdict) in plan.verdicts.iter().enumerate() {
        if verdict == &Some(Verdict::Served) {
            let lacks: u32 = lacking(world, index).iter().sum();
            let given = claims(plan).iter().filter(|claim| claim.1 == index).count();
            prop_assert_eq!(lacks as usize, given);
        }
    }
    Ok(())
}

/// The order of the queue.
fn queue(world: &World) -> Vec<usize> {
    let mut order: Vec<usize> = (0..world.requests.len()).collect();
    order.sort_by_key(|&index| {
        let request = &world.requests[index];
        let fresh = taken(world, index).next().is_none();
        (fresh, std::cmp::Reverse(request.priority), request.created, request.name.clone())
    });
    order
}

/// The first that waits could not have been served from what is ready, and positions follow the order.
fn check_order(world: &World, plan: &Plan) -> Result<(), TestCaseError> {
    let mut ahead = BTreeSet::new();
    let mut position = 0;
    for index in queue(world) {
        if let Some(Verdict::Waiting { position: found, .. }) = &plan.verdicts[index] {
            position += 1;
            prop_assert_eq!(*found, position);
            if position == 1 {
                prop_assert!(!is_ready_for(world, index, &ahead), "request {} could be served", index);
            }
        }
        ahead.extend(claims(plan).into_iter().filter(|claim| claim.1 == index).map(|claim| claim.0));
    }
    Ok(())
}

fn is_ready_for(world: &World, request: usize, ahead: &BTreeSet<usize>) -> bool {
    let wanted = &world.requests[request];
    let mut needs: BTreeMap<usize, u32> = BTreeMap::new();
    for (entry, lacks) in wanted.entries.iter().zip(lacking(world, request)) {
        let (Ok(pool), None) = (&entry.pool, &entry.unsure) else { return false };
        *needs.entry(*pool).or_default() += lacks;
    }
    let usable = |node: &Node, pool: usize| {
        node.pool == Some(pool)
            && node.state == NodeState::Ready
            && !world.pools[pool].draining
            && world.providers.get(node.provider).is_some_and(|provider| !provider.draining)
            && world.pools[pool].offers.iter().any(|offer| offer.provider == node.provider)
    };
    let count = |pool: usize, at: Option<usize>| {
        let nodes = world.nodes.iter().enumerate().filter(|(index, _)| !ahead.contains(index));
        nodes.filter(|(_, node)| usable(node, pool) && at.is_none_or(|at| node.provider == at)).count()
    };
    let enough = |at: Option<usize>| needs.iter().all(|(&pool, &lacks)| count(pool, at) >= lacks as usize);
    if wanted.spread {
        return enough(None);
    }
    let pinned = taken(world, request).map(|node| node.provider).min();
    (0..world.providers.len()).filter(|&at| pinned.is_none_or(|pinned| pinned == at)).any(|at| enough(Some(at)))
}

/// After a plan, whoever lacks nodes is stopped by a limit.
fn check_nothing_idles(world: &World, plan: &Plan) -> Result<(), TestCaseError> {
    let after = with_creates(world, plan);
    // Room is kept for a request that waits for capacity, or for the answer to a probe before the rest of its nodes.
    let kept = |blocked: &Blocked| blocked.reason == AT_CAPACITY || blocked.message.contains("more to launch");
    let in_line =
        plan.verdicts.iter().any(|verdict| matches!(verdict, Some(Verdict::Waiting { blocked, .. }) if kept(blocked)));
    for (index, pool) in after.pools.iter().enumerate() {
        if plan.blocked[index].is_none() || pool.paused || in_line {
            continue;
        }
        for offer in &pool.offers {
            if !limits_one_more(&after, index, offer) {
                return Err(TestCaseError::fail(format!("pool {index} could launch on {}", offer.provider)));
            }
        }
    }
    Ok(())
}

fn limits_one_more(after: &World, pool: usize, offer: &Offer) -> bool {
    let Ok(template) = &offer.template else { return true };
    let mut more = after.clone();
    let mut node = Lab::providers(&[1]);
    node.node(pool, 0, NodeState::Creating);
    let mut node = node.world.nodes.remove(0);
    node.provider = offer.provider;
    node.resources = template.resources;
    more.nodes.push(node);
    exceeded(&more, pool, offer.provider).is_some()
}

/// A pool is said to be blocked exactly when it stays below its standby.
fn check_blocked(world: &World, plan: &Plan) -> Result<(), TestCaseError> {
    if !world.requests.is_empty() {
        return Ok(());
    }
    let after = with_creates(world, plan);
    for (index, pool) in world.pools.iter().enumerate() {
        let offered = |node: &Node| {
            node.pool == Some(index)
                && !world.providers[node.provider].draining
                && pool.offers.iter().any(|offer| offer.provider == node.provider)
        };
        let idle = |node: &Node| matches!(node.state, NodeState::Ready | NodeState::Building | NodeState::Creating);
        let kept = |node: &Node| {
            node.pool == Some(index) && node.state == NodeState::Kept && !world.providers[node.provider].draining
        };
        let there = world.nodes.iter().filter(|node| (offered(node) && idle(node)) || kept(node)).count();
        let launched = after.nodes[world.nodes.len()..].iter().filter(|node| node.pool == Some(index)).count();
        let short = there + launched < pool.min_ready as usize && !pool.draining;
        prop_assert_eq!(plan.blocked[index].is_some(), short, "pool {}: {:?}", index, plan.blocked[index]);
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_input_breaks_it(world in wild()) {
        let plan = allocate(&world, &Fairness::default());
        check_steps(&world, &plan)?;
        let again = allocate(&world, &plan.fairness);
        check_steps(&world, &again)?;
    }

    #[test]
    fn the_same_world_gets_the_same_plan(world in sane()) {
        let (one, two) = (allocate(&world, &Fairness::default()), allocate(&world, &Fairness::default()));
        prop_assert_eq!(one.steps, two.steps);
        prop_assert_eq!(one.verdicts, two.verdicts);
    }

    #[test]
    fn no_limit_is_ever_passed(world in sane()) {
        let plan = allocate(&world, &Fairness::default());
        check_steps(&world, &plan)?;
        let after = with_creates(&world, &plan);
        for (pool, provider) in creates(&plan) {
            prop_assert_eq!(exceeded(&after, pool, provider), None, "a create of {} on {}", pool, provider);
        }
    }

    #[test]
    fn claims_are_all_or_nothing_in_order(world in sane()) {
        let plan = allocate(&world, &Fairness::default());
        check_claims(&world, &plan)?;
        check_order(&world, &plan)?;
    }

    #[test]
    fn nothing_idles_while_demand_waits(world in sane()) {
        let plan = allocate(&world, &Fairness::default());
        check_nothing_idles(&world, &plan)?;
        check_blocked(&world, &plan)?;
    }

    #[test]
    fn a_world_comes_to_rest(world in sane()) {
        let mut world = world;
        let mut fairness = Fairness::default();
        let mut last = Vec::new();
        for _ in 0..150 {
            let plan = allocate(&world, &fairness);
            check_steps(&world, &plan)?;
            apply(&mut world, &plan);
            let before: Vec<NodeState> = world.nodes.iter().map(|node| node.state).collect();
            tick(&mut world);
            let after: Vec<NodeState> = world.nodes.iter().map(|node| node.state).collect();
            if plan.steps.is_empty() && before == after {
                return Ok(());
            }
            fairness = plan.fairness;
            last = plan.steps;
        }
        prop_assert!(false, "still moving: {:?}", last);
    }
}
