//! `minReady`: table by table.

use super::super::reasons::*;
use super::*;

#[test]
fn exactly_what_is_missing_is_launched_and_then_nothing() {
    for (ready, building, creating, claimed, expected) in
        [(0, 0, 0, 0, 3), (1, 0, 0, 0, 2), (0, 1, 1, 0, 1), (1, 1, 1, 0, 0), (3, 0, 0, 2, 0), (0, 0, 0, 3, 3)]
    {
        let mut lab = Lab::providers(&[10]);
        let x = lab.pool(3, &[0]);
        lab.nodes(x, 0, NodeState::Ready, ready);
        lab.nodes(x, 0, NodeState::Building, building);
        lab.nodes(x, 0, NodeState::Creating, creating);
        lab.nodes(x, 0, NodeState::Claimed, claimed);
        let plan = lab.plan();
        assert_eq!(plan.steps.len(), expected, "{ready} {building} {creating} {claimed}");
        assert_eq!(creates(&plan).len(), expected);
        assert_eq!(plan.blocked[x], None);
        apply(&mut lab.world, &plan);
        for _ in 0..10 {
            assert!(lab.plan().steps.is_empty(), "a satisfied world needs no step");
            tick(&mut lab.world);
        }
    }
}

#[test]
fn no_standby_is_none() {
    let mut lab = Lab::providers(&[10]);
    lab.pool(0, &[0]);
    let plan = lab.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.blocked, [None]);
}

#[test]
fn what_keeps_a_pool_below_is_said() {
    type Change = fn(&mut World);
    let cases: &[(&'static str, &str, Change)] = &[
        (AT_CAPACITY, "provider ns/a has 1 servers; maxServers is 1", |world| world.providers[0].max_servers = 1),
        (AT_CAPACITY, "its cloud grants us 1", |world| world.providers[0].max_instances = Some(1)),
        (AT_CAPACITY, "1 cores left; a node needs 2", |world| world.providers[0].max_cores = Some(3)),
        (AT_CAPACITY, "476 MiB of memory left; a node needs 1024", |world| {
            world.providers[0].max_ram_mib = Some(1500);
        }),
        (AT_CAPACITY, "pool ns/pool-0 has 1 nodes; maxNodes is 1", |world| world.pools[0].max_nodes = Some(1)),
        (AT_CAPACITY, "its maxNodes there", |world| world.pools[0].offers[0].max_nodes = Some(1)),
        ("ImageNotReady", "because", |world| world.pools[0].offers[0].template = Err(blocked("ImageNotReady"))),
        ("NoValidHost", "because", |world| world.pools[0].offers[0].gate = Gate::Closed(blocked("NoValidHost"))),
        ("RateLimited", "because", |world| world.providers[0].gate = Gate::Closed(blocked("RateLimited"))),
        (PAUSED, "pool ns/pool-0 is paused", |world| world.pools[0].paused = true),
        (DRAINING, "provider ns/a is being deleted", |world| world.providers[0].draining = true),
        (NO_PROVIDER, "pool ns/pool-0 has no provider", |world| world.pools[0].offers.clear()),
        (NO_PROVIDER, "names a provider that does not exist", |world| world.pools[0].offers[0].provider = 9),
    ];
    for (reason, sentence, change) in cases {
        let mut lab = Lab::providers(&[10]);
        let x = lab.pool(2, &[0]);
        lab.node(x, 0, NodeState::Claimed);
        change(&mut lab.world);
        let plan = lab.plan();
        assert!(plan.steps.is_empty(), "{reason}: {:?}", plan.steps);
        let found = plan.blocked[x].as_ref().unwrap();
        assert_eq!(found.reason, *reason);
        assert!(found.message.contains(sentence), "{}", found.message);
    }
}

#[test]
fn several_reasons_are_said_in_the_order_of_liking() {
    let mut lab = Lab::providers(&[0, 5]);
    let x = lab.pool(1, &[1, 0]);
    lab.world.pools[x].offers[0].priority = 1;
    lab.world.pools[x].offers[0].template = Err(blocked("ImageNotReady"));
    let found = lab.plan().blocked[x].clone().unwrap();
    assert_eq!(found.reason, AT_CAPACITY);
    assert_eq!(found.message, "provider ns/a has 0 servers; maxServers is 0; because of ImageNotReady");
}

#[test]
fn a_liked_provider_is_filled_before_the_next() {
    let mut lab = Lab::providers(&[3, 10, 10]);
    let x = lab.pool(5, &[0, 1, 2]);
    for (offer, priority) in lab.world.pools[x].offers.iter_mut().zip([-1, 7, 7]) {
        offer.priority = priority;
    }
    let plan = lab.plan();
    assert_eq!([created(&plan, x, 0), created(&plan, x, 1), created(&plan, x, 2)], [3, 1, 1]);
}

#[test]
fn a_provider_that_cannot_launch_leaves_its_share_to_the_others() {
    let mut lab = Lab::providers(&[10, 10]);
    let x = lab.pool(4, &[0, 1]);
    lab.world.providers[0].gate = Gate::Closed(blocked("NoValidHost"));
    assert_eq!(created(&lab.plan(), x, 1), 4);
    lab.world.providers[0].gate = Gate::Probe(blocked("NoValidHost"));
    lab.world.providers[1].max_servers = 2;
    let plan = lab.plan();
    assert_eq!((created(&plan, x, 0), created(&plan, x, 1)), (1, 2));
    assert_eq!(plan.blocked[x].as_ref().unwrap().reason, "NoValidHost");
}

#[test]
fn one_probe_serves_all_pools_of_a_provider_and_one_each_offer() {
    let mut lab = Lab::providers(&[10]);
    let (x, y) = (lab.pool(2, &[0]), lab.pool(2, &[0]));
    lab.world.providers[0].gate = Gate::Probe(blocked("QuotaExceeded"));
    let plan = lab.plan();
    assert_eq!(creates(&plan).len(), 1);
    assert!(plan.blocked.iter().all(|found| found.as_ref().unwrap().reason == "QuotaExceeded"));
    lab.world.providers[0].gate = Gate::Open;
    lab.world.pools[x].offers[0].gate = Gate::Probe(blocked("LaunchesFail"));
    let plan = lab.plan();
    assert_eq!((created(&plan, x, 0), created(&plan, y, 0)), (1, 2));
    lab.node(x, 0, NodeState::Creating);
    let plan = lab.plan();
    assert_eq!((created(&plan, x, 0), created(&plan, y, 0)), (0, 2));
}

#[test]
fn caps_of_offers_move_the_rest_elsewhere() {
    let mut lab = Lab::providers(&[10, 10]);
    let x = lab.pool(6, &[0, 1]);
    lab.world.pools[x].offers[0].max_nodes = Some(1);
    let plan = lab.plan();
    assert_eq!((created(&plan, x, 0), created(&plan, x, 1)), (1, 5));
    lab.world.pools[x].max_nodes = Some(4);
    assert_eq!(creates(&lab.plan()).len(), 4);
    assert_eq!(lab.plan().blocked[x].as_ref().unwrap().reason, AT_CAPACITY);
}

#[test]
fn nothing_idles_while_somebody_lacks_nodes() {
    let mut lab = Lab::providers(&[10]);
    lab.world.providers[0].max_cores = Some(10);
    let (big, small) = (lab.pool(3, &[0]), lab.pool(3, &[0]));
    let cost = Resources { cores: 4, ram_mib: 1 };
    lab.world.pools[big].offers[0].template = Ok(Template { hash: "v1".into(), resources: cost });
    let plan = lab.plan();
    let used = 4 * created(&plan, big, 0) + 2 * created(&plan, small, 0);
    assert_eq!(used, 10);
}

#[test]
fn every_record_holds_its_slot_and_its_resources() {
    for state in [NodeState::Creating, NodeState::Building, NodeState::Claimed, NodeState::Held, NodeState::Leaving] {
        let mut lab = Lab::providers(&[3]);
        let (x, y) = (lab.pool(9, &[0]), lab.pool(0, &[0]));
        lab.node(y, 0, state);
        let slot = lab.node(y, 0, state);
        lab.world.nodes[slot].slot = 2;
        lab.world.pools[y].min_ready = 2;
        let plan = lab.plan();
        assert_eq!(slots(&plan), [1], "{state:?}: the lowest free slot");
        assert!(created(&plan, x, 0) + created(&plan, y, 0) == 1);
        lab.world.providers[0].max_servers = 9;
        lab.world.providers[0].max_cores = Some(6);
        assert_eq!(creates(&lab.plan()).len(), 1, "{state:?}");
    }
}

#[test]
fn a_lowered_maximum_kills_nothing_and_launches_nothing() {
    for max_servers in [0, 1, 2] {
        let mut lab = Lab::providers(&[5]);
        let x = lab.pool(5, &[0]);
        lab.nodes(x, 0, NodeState::Ready, 2);
        lab.nodes(x, 0, NodeState::Claimed, 3);
        lab.world.providers[0].max_servers = max_servers;
        let plan = lab.plan();
        assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    }
    let mut lab = Lab::providers(&[5]);
    let x = lab.pool(2, &[0]);
    lab.nodes(x, 0, NodeState::Claimed, 2);
    lab.world.nodes[1].slot = 4;
    lab.world.providers[0].max_servers = 3;
    assert_eq!(slots(&lab.plan()), [1], "slots above the maximum still count");
}

#[test]
fn foreign_servers_leave_less_room() {
    let mut lab = Lab::providers(&[10]);
    let x = lab.pool(8, &[0]);
    for (instances, cores, ram, expected) in
        [(Some(3), None, None, 3), (None, Some(9), None, 4), (None, None, Some(2048), 2), (Some(-4), None, None, 0)]
    {
        lab.world.providers[0].max_instances = instances;
        lab.world.providers[0].max_cores = cores;
        lab.world.providers[0].max_ram_mib = ram;
        assert_eq!(created(&lab.plan(), x, 0), expected);
    }
}

#[test]
fn requests_come_before_standby() {
    let mut lab = Lab::providers(&[3]);
    let (x, y) = (lab.pool(3, &[0]), lab.pool(0, &[0]));
    let request = lab.request(&[(y, 2)]);
    let plan = lab.plan();
    assert_eq!((created(&plan, x, 0), created(&plan, y, 0)), (1, 2));
    assert_eq!(waits(&plan, request), (1, NODES_BUILDING));
}

#[test]
fn a_node_given_back_while_building_becomes_standby() {
    let mut lab = Lab::providers(&[3]);
    let x = lab.pool(1, &[0]);
    lab.node(x, 0, NodeState::Ready);
    lab.request(&[(x, 2)]);
    let plan = lab.plan();
    apply(&mut lab.world, &plan);
    assert_eq!(lab.world.nodes.len(), 3, "one for the request, one for the standby");
    lab.world.requests.clear();
    lab.world.pools[x].min_ready = 3;
    assert!(lab.plan().steps.is_empty());
}

#[test]
fn who_waited_is_served_first_and_the_memory_ends() {
    let mut lab = Lab::providers(&[1]);
    let (x, y) = (lab.pool(1, &[0]), lab.pool(1, &[0]));
    let first = lab.plan();
    assert_eq!(creates(&first).len(), 1);
    let (pool, _) = creates(&first)[0];
    let other = if pool == x { y } else { x };
    let key = (lab.world.pools[other].name.clone(), "ns/a".to_owned());
    assert_eq!(first.fairness.waits.get(&key), Some(&1));
    assert_eq!(first.fairness.waits.len(), 1);
    let second = allocate(&lab.world, &first.fairness);
    assert_eq!(creates(&second), [(other, 0)]);
    lab.world.providers[0].max_servers = 2;
    assert!(allocate(&lab.world, &second.fairness).fairness.waits.is_empty());
}

#[test]
fn one_node_on_each_of_two_full_providers() {
    let mut lab = Lab::providers(&[1, 1]);
    let x = lab.pool(2, &[0, 1]);
    assert_eq!(creates(&lab.plan()), [(x, 0), (x, 1)]);
}
