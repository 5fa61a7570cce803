//! Requests: table by table.

use super::super::reasons::*;
use super::*;

#[test]
fn ready_nodes_are_claimed_at_once_and_replaced_in_the_next_pass() {
    let mut lab = Lab::providers(&[10]);
    let x = lab.pool(2, &[0]);
    lab.nodes(x, 0, NodeState::Ready, 2);
    let request = lab.request(&[(x, 1)]);
    let plan = lab.plan();
    assert_eq!(claims(&plan), [(0, request, 0)], "the oldest first");
    assert!(is_served(&plan, request));
    assert_eq!(creates(&plan), [(x, 0)], "what is claimed is missing at once");
}

#[test]
fn a_claim_takes_a_ready_node_then_a_building_one_then_a_new_one() {
    let mut lab = Lab::providers(&[10]);
    let x = lab.pool(0, &[0]);
    lab.node(x, 0, NodeState::Ready);
    lab.node(x, 0, NodeState::Building);
    lab.node(x, 0, NodeState::Creating);
    for count in 1..=2 {
        lab.world.requests.clear();
        let request = lab.request(&[(x, count)]);
        let plan = lab.plan();
        assert_eq!(is_served(&plan, request), count == 1);
        assert!(creates(&plan).is_empty());
    }
    lab.world.requests.clear();
    let request = lab.request(&[(x, 5)]);
    let plan = lab.plan();
    assert_eq!(claims(&plan), [], "all or nothing");
    assert_eq!(creates(&plan), [(x, 0), (x, 0)]);
    assert_eq!(waits(&plan, request), (1, NODES_BUILDING));
    assert_eq!(condemned(&plan), [], "what it has set aside is no surplus");
}

#[test]
fn nodes_come_entry_by_entry() {
    let mut lab = Lab::providers(&[10]);
    let (x, y) = (lab.pool(0, &[0]), lab.pool(0, &[0]));
    lab.nodes(x, 0, NodeState::Ready, 3);
    lab.nodes(y, 0, NodeState::Ready, 1);
    let request = lab.request(&[(x, 1), (y, 1), (x, 2)]);
    let plan = lab.plan();
    assert_eq!(claims(&plan), [(0, request, 0), (3, request, 1), (1, request, 2), (2, request, 2)]);
}

#[test]
fn all_nodes_of_a_request_are_on_one_provider() {
    let mut lab = Lab::providers(&[10, 10]);
    let x = lab.pool(0, &[0, 1]);
    lab.node(x, 0, NodeState::Ready);
    lab.nodes(x, 1, NodeState::Ready, 2);
    let request = lab.request(&[(x, 2)]);
    assert_eq!(claims(&lab.plan()), [(1, request, 0), (2, request, 0)]);
    lab.world.requests[request].entries[0].count = 3;
    let plan = lab.plan();
    assert!(claims(&plan).is_empty());
    assert_eq!(creates(&plan), [(x, 1)], "where the fewest are missing");
    lab.world.requests[request].spread = true;
    assert_eq!(claims(&lab.plan()).len(), 3);
}

#[test]
fn the_provider_is_chosen_by_class_then_liking_then_missing_then_room() {
    use NodeState::{Building, Ready};
    type Case<'c> = (&'c str, [u32; 2], [i32; 2], &'c [(usize, NodeState)], u32, usize);
    let cases: &[Case<'_>] = &[
        ("ready beats building", [9, 9], [0, 5], &[(0, Building), (1, Ready)], 1, 1),
        ("building beats launching", [9, 9], [0, 5], &[(1, Building)], 1, 1),
        ("launching beats waiting", [1, 9], [0, 5], &[], 2, 1),
        ("liking decides between equals", [9, 9], [5, 0], &[], 1, 1),
        ("liking beats fewer missing", [9, 9], [0, 5], &[(1, Ready)], 2, 0),
        ("fewer missing", [9, 9], [0, 0], &[(1, Ready)], 2, 1),
        ("more free room, in proportion", [4, 100], [0, 0], &[(0, Building)], 2, 0),
        ("the first among equals", [9, 9], [0, 0], &[], 1, 0),
    ];
    for &(name, max, priorities, nodes, count, expected) in cases {
        let mut lab = Lab::providers(&max);
        let x = lab.pool(0, &[0, 1]);
        for (offer, priority) in lab.world.pools[x].offers.iter_mut().zip(priorities) {
            offer.priority = priority;
        }
        for &(provider, state) in nodes {
            lab.node(x, provider, state);
        }
        lab.request(&[(x, count)]);
        let plan = lab.plan();
        let used: Vec<usize> = claims(&plan)
            .iter()
            .map(|&(node, ..)| lab.world.nodes[node].provider)
            .chain(creates(&plan).iter().map(|&(_, provider)| provider))
            .collect();
        if used.is_empty() {
            assert!(condemned(&plan).iter().all(|&(node, _)| lab.world.nodes[node].provider != expected), "{name}");
        } else {
            assert!(used.iter().all(|&provider| provider == expected), "{name}: {used:?}");
        }
    }
}

#[test]
fn the_order_is_part_served_then_priority_then_age_then_name() {
    let mut lab = Lab::providers(&[4]);
    let x = lab.pool(0, &[0]);
    let claimed = lab.node(x, 0, NodeState::Claimed);
    lab.nodes(x, 0, NodeState::Ready, 1);
    let young = lab.request(&[(x, 1)]);
    let old = lab.request(&[(x, 1)]);
    let urgent = lab.request(&[(x, 1)]);
    let part = lab.request(&[(x, 2)]);
    let twin = lab.request(&[(x, 1)]);
    lab.world.requests[old].created = at(10);
    lab.world.requests[urgent].priority = 5;
    lab.world.requests[twin].created = lab.world.requests[young].created;
    lab.world.nodes[claimed].request = Some(part);
    let plan = lab.plan();
    assert!(is_served(&plan, part));
    assert_eq!(claims(&plan), [(1, part, 0)]);
    let positions: Vec<u32> = [urgent, old, young, twin].iter().map(|&request| waits(&plan, request).0).collect();
    assert_eq!(positions, [1, 2, 3, 4]);
}

#[test]
fn a_request_that_lost_a_race_stays_where_its_nodes_are() {
    let mut lab = Lab::providers(&[10, 10]);
    let x = lab.pool(0, &[0, 1]);
    let claimed = lab.node(x, 0, NodeState::Claimed);
    lab.nodes(x, 1, NodeState::Ready, 3);
    let request = lab.request(&[(x, 2)]);
    lab.world.nodes[claimed].request = Some(request);
    let plan = lab.plan();
    assert!(claims(&plan).is_empty());
    assert_eq!(creates(&plan), [(x, 0)]);
}

#[test]
fn a_held_node_still_counts_for_its_request_and_a_leaving_one_does_not() {
    for (state, served) in [(NodeState::Held, true), (NodeState::Leaving, false)] {
        let mut lab = Lab::providers(&[10]);
        let x = lab.pool(0, &[0]);
        let node = lab.node(x, 0, state);
        let request = lab.request(&[(x, 1)]);
        lab.world.nodes[node].request = Some(request);
        assert_eq!(is_served(&lab.plan(), request), served);
    }
}

#[test]
fn more_than_could_ever_fit_is_refused_with_the_limit() {
    type Change = fn(&mut World);
    let cases: &[(&str, Change)] = &[
        ("maxServers of provider ns/a is 4", |world| world.providers[0].max_servers = 4),
        ("the cloud of provider ns/a grants us 3 servers", |world| world.providers[0].max_instances = Some(3)),
        ("maxNodes is 2", |world| world.pools[0].max_nodes = Some(2)),
        ("maxNodes on provider ns/a is 1", |world| world.pools[0].offers[0].max_nodes = Some(1)),
        ("10 cores, but provider ns/a has 9", |world| world.providers[0].max_cores = Some(9)),
        ("5120 MiB of memory, but provider ns/a has 5000", |world| world.providers[0].max_ram_mib = Some(5000)),
        ("grants us 0 servers", |world| world.providers[0].max_instances = Some(-3)),
    ];
    for (sentence, change) in cases {
        let mut lab = Lab::providers(&[10]);
        let x = lab.pool(0, &[0]);
        change(&mut lab.world);
        let request = lab.request(&[(x, 5)]);
        let plan = lab.plan();
        let Some(Verdict::Impossible(Blocked { reason, message })) = &plan.verdicts[request] else {
            panic!("{sentence}: {:?}", plan.verdicts)
        };
        assert_eq!(*reason, EXCEEDS_CAPACITY);
        assert!(message.contains(sentence), "{message}");
        assert!(plan.steps.is_empty());
        lab.world.requests[request].spread = true;
        assert!(is_impossible(&lab.plan(), request), "{sentence}, spread");
    }
}

#[test]
fn what_fits_on_one_of_two_providers_is_possible() {
    let mut lab = Lab::providers(&[2, 6]);
    let x = lab.pool(0, &[0, 1]);
    let request = lab.request(&[(x, 5)]);
    assert_eq!(created(&lab.plan(), x, 1), 5);
    lab.world.requests[request].entries[0].count = 7;
    assert!(is_impossible(&lab.plan(), request));
    lab.world.requests[request].spread = true;
    assert_eq!((created(&lab.plan(), x, 0), created(&lab.plan(), x, 1)), (2, 5));
}

#[test]
fn what_somebody_must_mend_is_waited_for_and_holds_up_nobody() {
    type Change = fn(&mut World);
    let cases: &[(&'static str, Change)] = &[
        ("ImageNotReady", |world| world.pools[0].offers[0].template = Err(blocked("ImageNotReady"))),
        ("LaunchesFail", |world| world.pools[0].offers[0].gate = Gate::Closed(blocked("LaunchesFail"))),
        ("InvalidConfiguration", |world| world.providers[0].gate = Gate::Closed(blocked("InvalidConfiguration"))),
        (PAUSED, |world| world.pools[0].paused = true),
        (DRAINING, |world| world.pools[0].draining = true),
        (DRAINING, |world| world.providers[0].draining = true),
        (NO_COMMON_PROVIDER, |world| world.pools[0].offers.clear()),
        (NO_POOL, |world| world.requests[0].entries[0].pool = Err(blocked(NO_POOL))),
        (NO_POOL, |world| world.requests[0].entries[0].pool = Ok(99)),
    ];
    for spread in [false, true] {
        for (reason, change) in cases {
            let mut lab = Lab::providers(&[10, 10]);
            let x = lab.pool(0, &[0]);
            let y = lab.pool(0, &[1]);
            let big = lab.request(&[(x, 3)]);
            let other = lab.request(&[(y, 1)]);
            lab.world.requests[big].spread = spread;
            lab.node(y, 1, NodeState::Ready);
            change(&mut lab.world);
            let plan = lab.plan();
            assert_eq!(waits(&plan, big), (1, *reason));
            assert!(is_served(&plan, other), "{reason}");
            assert!(creates(&plan).is_empty(), "{reason}");
        }
    }
}

#[test]
fn ready_nodes_are_handed_out_where_nothing_can_be_launched() {
    type Change = fn(&mut World);
    let cases: &[Change] = &[
        |world| world.pools[0].offers[0].template = Err(blocked("ImageNotReady")),
        |world| world.providers[0].gate = Gate::Closed(blocked("QuotaExceeded")),
        |world| world.pools[0].paused = true,
        |world| world.providers[0].max_servers = 0,
    ];
    for change in cases {
        let mut lab = Lab::providers(&[10]);
        let x = lab.pool(0, &[0]);
        lab.nodes(x, 0, NodeState::Ready, 2);
        let request = lab.request(&[(x, 2)]);
        change(&mut lab.world);
        assert!(is_served(&lab.plan(), request));
    }
}

#[test]
fn a_request_behind_a_refusing_cloud_keeps_what_it_has_and_one_behind_a_person_does_not() {
    for (reason, kept) in [("QuotaExceeded", true), ("NoValidHost", true), ("InvalidConfiguration", false)] {
        for spread in [false, true] {
            let mut lab = Lab::providers(&[10]);
            let x = lab.pool(0, &[0]);
            lab.node(x, 0, NodeState::Ready);
            let big = lab.request(&[(x, 2)]);
            let small = lab.request(&[(x, 1)]);
            lab.world.requests[big].spread = spread;
            lab.world.providers[0].gate = Gate::Closed(blocked(reason));
            let plan = lab.plan();
            assert_eq!(waits(&plan, big), (1, reason));
            assert_eq!(is_served(&plan, small), !kept, "{reason}");
        }
    }
}

#[test]
fn a_gate_that_probes_lets_one_launch_through_at_a_time() {
    for of_provider in [true, false] {
        let mut lab = Lab::providers(&[10]);
        let x = lab.pool(0, &[0]);
        let request = lab.request(&[(x, 3)]);
        let gate = Gate::Probe(blocked("QuotaExceeded"));
        if of_provider {
            lab.world.providers[0].gate = gate;
        } else {
            lab.world.pools[x].offers[0].gate = gate;
        }
        let plan = lab.plan();
        assert_eq!(creates(&plan).len(), 1);
        assert_eq!(waits(&plan, request), (1, "QuotaExceeded"));
        lab.node(x, 0, NodeState::Building);
        assert!(lab.plan().steps.is_empty(), "one is under way");
        lab.world.nodes[0].state = NodeState::Ready;
        assert_eq!(creates(&lab.plan()).len(), 1);
    }
}

#[test]
fn a_waiting_request_keeps_room_from_those_behind_it_but_not_nodes_it_does_not_need() {
    let mut lab = Lab::providers(&[4]);
    let (x, y) = (lab.pool(0, &[0]), lab.pool(3, &[0]));
    lab.nodes(x, 0, NodeState::Claimed, 2);
    lab.node(y, 0, NodeState::Ready);
    let big = lab.request(&[(x, 3)]);
    let ready = lab.request(&[(y, 1)]);
    let launched = lab.request(&[(y, 1)]);
    let plan = lab.plan();
    assert_eq!(creates(&plan), [(x, 0)], "the only free slot goes to the first");
    assert_eq!(waits(&plan, big), (1, AT_CAPACITY));
    assert!(is_served(&plan, ready));
    assert_eq!(waits(&plan, launched), (2, AT_CAPACITY));
    assert_eq!(plan.blocked[y].as_ref().unwrap().reason, AT_CAPACITY);
    lab.world.nodes.remove(0);
    assert_eq!(creates(&lab.plan()), [(x, 0), (x, 0)], "the next one that is freed goes to it as well");
}

#[test]
fn room_that_the_first_cannot_use_is_not_kept_from_others() {
    let mut lab = Lab::providers(&[10]);
    let (x, y) = (lab.pool(0, &[0]), lab.pool(0, &[0]));
    lab.world.pools[x].max_nodes = Some(2);
    lab.nodes(x, 0, NodeState::Claimed, 2);
    let first = lab.request(&[(x, 2)]);
    let second = lab.request(&[(y, 2)]);
    let plan = lab.plan();
    assert_eq!(waits(&plan, first), (1, AT_CAPACITY));
    assert_eq!(creates(&plan), [(y, 0), (y, 0)]);
    assert_eq!(waits(&plan, second), (2, NODES_BUILDING));
}

#[test]
fn an_idle_node_of_another_pool_makes_way_the_oldest_first_and_one_at_a_time() {
    let mut lab = Lab::providers(&[3]);
    let (x, y) = (lab.pool(3, &[0]), lab.pool(0, &[0]));
    lab.nodes(x, 0, NodeState::Ready, 3);
    lab.world.nodes[1].ready_since = Some(at(5));
    let request = lab.request(&[(y, 2)]);
    let plan = lab.plan();
    assert_eq!(condemned(&plan), [(1, Condemnation::Evicted)]);
    assert_eq!(waits(&plan, request), (1, AT_CAPACITY));
    apply(&mut lab.world, &plan);
    assert!(lab.plan().steps.is_empty(), "one is leaving");
    tick(&mut lab.world);
    let plan = lab.plan();
    assert_eq!(creates(&plan), [(y, 0)]);
    assert_eq!(condemned(&plan), [(0, Condemnation::Evicted)]);
}

#[test]
fn nobody_makes_way_in_vain() {
    type Change = fn(&mut Lab);
    let cases: &[(&str, Change)] = &[
        ("for minReady", |lab| {
            lab.world.requests.clear();
            lab.world.pools[1].min_ready = 2;
        }),
        ("the gate is closed", |lab| lab.world.providers[0].gate = Gate::Closed(blocked("QuotaExceeded"))),
        ("no image", |lab| lab.world.pools[1].offers[0].template = Err(blocked("ImageNotReady"))),
        ("paused", |lab| lab.world.pools[1].paused = true),
        ("its own cap", |lab| {
            lab.world.pools[1].max_nodes = Some(1);
            lab.world.providers[0].max_servers = 4;
            lab.node(1, 0, NodeState::Claimed);
        }),
        ("all idle nodes together are too small", |lab| {
            lab.world.providers[0].max_cores = Some(6);
            lab.world.nodes[0].state = NodeState::Claimed;
            lab.world.pools[1].offers[0].template =
                Ok(Template { hash: "big".into(), resources: Resources { cores: 6, ram_mib: 1 } });
        }),
        ("it can be launched", |lab| lab.world.providers[0].max_servers = 5),
        ("only claimed nodes", |lab| lab.world.nodes.iter_mut().for_each(|node| node.state = NodeState::Claimed)),
        ("only held nodes", |lab| lab.world.nodes.iter_mut().for_each(|node| node.state = NodeState::Held)),
        ("not answered yet", |lab| lab.world.nodes.iter_mut().for_each(|node| node.state = NodeState::Creating)),
        ("another leaves", |lab| lab.world.nodes[2].state = NodeState::Leaving),
    ];
    for (name, change) in cases {
        let mut lab = Lab::providers(&[3]);
        let x = lab.pool(3, &[0]);
        let y = lab.pool(0, &[0]);
        lab.nodes(x, 0, NodeState::Ready, 3);
        lab.request(&[(y, 1)]);
        change(&mut lab);
        assert_eq!(condemned(&lab.plan()), [], "{name}");
    }
}

#[test]
fn building_nodes_make_way_when_none_is_ready() {
    let mut lab = Lab::providers(&[2]);
    let (x, y) = (lab.pool(2, &[0]), lab.pool(0, &[0]));
    lab.nodes(x, 0, NodeState::Building, 2);
    lab.request(&[(y, 1)]);
    assert_eq!(condemned(&lab.plan()), [(0, Condemnation::Evicted)]);
    lab.world.nodes[1].state = NodeState::Ready;
    assert_eq!(condemned(&lab.plan()), [(1, Condemnation::Evicted)]);
}

#[test]
fn several_small_nodes_make_way_for_a_big_one() {
    let mut lab = Lab::providers(&[10]);
    lab.world.providers[0].max_cores = Some(4);
    let (x, y) = (lab.pool(2, &[0]), lab.pool(0, &[0]));
    lab.nodes(x, 0, NodeState::Ready, 2);
    let big = Resources { cores: 4, ram_mib: 1024 };
    lab.world.pools[y].offers[0].template = Ok(Template { hash: "v1".into(), resources: big });
    let request = lab.request(&[(y, 1)]);
    for expected in [0, 0] {
        let plan = lab.plan();
        assert_eq!(condemned(&plan), [(expected, Condemnation::Evicted)]);
        assert_eq!(creates(&plan), []);
        apply(&mut lab.world, &plan);
        tick(&mut lab.world);
    }
    assert_eq!(creates(&lab.plan()), [(y, 0)]);
    assert_eq!(waits(&lab.plan(), request).1, NODES_BUILDING);
}

#[test]
fn a_pool_at_its_cap_makes_way_for_itself_elsewhere() {
    let mut lab = Lab::providers(&[10, 10]);
    let x = lab.pool(2, &[0, 1]);
    lab.world.pools[x].max_nodes = Some(2);
    lab.node(x, 0, NodeState::Ready);
    lab.node(x, 1, NodeState::Ready);
    let request = lab.request(&[(x, 2)]);
    let plan = lab.plan();
    assert_eq!(condemned(&plan), [(1, Condemnation::Evicted)]);
    for _ in 0..4 {
        let plan = lab.plan();
        apply(&mut lab.world, &plan);
        tick(&mut lab.world);
    }
    assert!(is_served(&lab.plan(), request));
}

#[test]
fn what_a_later_request_has_set_aside_makes_way_for_an_earlier_one() {
    let mut lab = Lab::providers(&[2]);
    let (x, y) = (lab.pool(0, &[0]), lab.pool(0, &[0]));
    lab.node(x, 0, NodeState::Ready);
    lab.node(x, 0, NodeState::Ready);
    lab.world.providers[0].max_servers = 3;
    lab.node(x, 0, NodeState::Claimed);
    let first = lab.request(&[(y, 2)]);
    let second = lab.request(&[(x, 3)]);
    let plan = lab.plan();
    assert_eq!((waits(&plan, first).0, waits(&plan, second).0), (1, 2));
    assert_eq!(condemned(&plan), [(0, Condemnation::Evicted)], "or both would wait for ever");
}

#[test]
fn requests_of_several_pools_need_a_provider_that_has_them_all() {
    let mut lab = Lab::providers(&[10, 10, 10]);
    let x = lab.pool(0, &[0, 1]);
    let y = lab.pool(0, &[1, 2]);
    let z = lab.pool(0, &[2]);
    lab.request(&[(x, 1), (y, 1)]);
    let apart = lab.request(&[(x, 1), (z, 1)]);
    let plan = lab.plan();
    assert_eq!(creates(&plan), [(x, 1), (y, 1)]);
    assert_eq!(waits(&plan, apart), (2, NO_COMMON_PROVIDER));
    lab.world.requests[apart].spread = true;
    assert_eq!(waits(&lab.plan(), apart), (2, NODES_BUILDING));
}

#[test]
fn spread_fills_what_is_liked_best_and_waits_for_the_rest_everywhere() {
    let mut lab = Lab::providers(&[2, 2]);
    let (x, y) = (lab.pool(0, &[0, 1]), lab.pool(0, &[0, 1]));
    lab.world.pools[x].offers[0].priority = 1;
    lab.node(y, 0, NodeState::Claimed);
    let request = lab.request(&[(x, 4)]);
    let later = lab.request(&[(y, 1)]);
    lab.world.requests[request].spread = true;
    let plan = lab.plan();
    assert_eq!(creates(&plan), [(x, 0), (x, 1), (x, 1)]);
    assert_eq!(slots(&plan), [0, 1, 1], "the liked one is filled first");
    assert_eq!(waits(&plan, request), (1, AT_CAPACITY));
    assert_eq!(waits(&plan, later), (2, AT_CAPACITY));
}

#[test]
fn spread_takes_its_victim_where_there_is_one() {
    let mut lab = Lab::providers(&[1, 1]);
    let (x, y) = (lab.pool(0, &[0, 1]), lab.pool(1, &[1]));
    lab.node(x, 0, NodeState::Claimed);
    lab.node(y, 1, NodeState::Ready);
    let request = lab.request(&[(x, 1)]);
    lab.world.requests[request].spread = true;
    assert_eq!(condemned(&lab.plan()), [(1, Condemnation::Evicted)]);
}

#[test]
fn an_empty_request_is_served() {
    let mut lab = Lab::providers(&[1]);
    let x = lab.pool(0, &[0]);
    let nothing = lab.request(&[]);
    let zero = lab.request(&[(x, 0)]);
    let plan = lab.plan();
    assert!(is_served(&plan, nothing) && is_served(&plan, zero));
}

#[test]
fn a_node_is_not_taken_from_what_is_going_away() {
    type Change = fn(&mut World);
    let cases: &[Change] = &[
        |world| world.pools[0].draining = true,
        |world| world.providers[0].draining = true,
        |world| world.nodes[0].pool = None,
        |world| world.nodes[0].provider = 7,
    ];
    for change in cases {
        let mut lab = Lab::providers(&[5]);
        let x = lab.pool(0, &[0]);
        lab.node(x, 0, NodeState::Ready);
        lab.request(&[(x, 1)]);
        change(&mut lab.world);
        let plan = lab.plan();
        assert_eq!(claims(&plan), []);
        assert_eq!(condemned(&plan), [(0, Condemnation::Drained)]);
    }
}

#[test]
fn what_a_stuck_request_waits_for_is_no_surplus() {
    for spread in [false, true] {
        let mut lab = Lab::providers(&[5]);
        let x = lab.pool(0, &[0]);
        lab.nodes(x, 0, NodeState::Building, 3);
        let request = lab.request(&[(x, 4)]);
        lab.world.requests[request].spread = spread;
        lab.world.providers[0].gate = Gate::Closed(blocked("ProviderNotReady"));
        assert!(lab.plan().steps.is_empty(), "it was made for the request, and is wanted again soon");
        lab.world.requests[request].entries[0].count = 9;
        assert!(is_impossible(&lab.plan(), request));
        assert_eq!(condemned(&lab.plan()).len(), 3);
    }
}

#[test]
fn a_waiting_request_that_no_longer_fits_is_refused() {
    let mut lab = Lab::providers(&[4]);
    let x = lab.pool(0, &[0]);
    lab.nodes(x, 0, NodeState::Claimed, 2);
    let request = lab.request(&[(x, 3)]);
    assert_eq!(waits(&lab.plan(), request), (1, AT_CAPACITY));
    lab.world.providers[0].max_servers = 2;
    assert!(is_impossible(&lab.plan(), request));
}

#[test]
fn a_request_without_hope_keeps_no_room_where_its_pools_may_not_be() {
    let mut lab = Lab::providers(&[3, 6]);
    let (x, y, z) = (lab.pool(0, &[0]), lab.pool(0, &[1, 0]), lab.pool(0, &[1]));
    lab.world.pools[y].offers[1].max_nodes = Some(0);
    let hopeless = lab.request(&[(z, 3), (y, 6)]);
    lab.world.requests[hopeless].spread = true;
    let small = lab.request(&[(x, 3)]);
    let plan = lab.plan();
    assert!(is_impossible(&plan, hopeless), "three and six, where six may be");
    assert_eq!(waits(&plan, small), (1, NODES_BUILDING));
    // With one place there it may be served when others give back, and keeps that place only from who is behind it.
    lab.world.pools[y].offers[1].max_nodes = Some(1);
    lab.world.requests[hopeless].entries[1].count = 4;
    lab.nodes(z, 1, NodeState::Claimed, 6);
    let plan = lab.plan();
    assert_eq!(waits(&plan, hopeless), (1, AT_CAPACITY));
    assert_eq!((created(&plan, y, 0), created(&plan, x, 0)), (1, 1));
}

#[test]
fn what_is_there_counts_though_its_pool_boots_larger_ones_now() {
    // Two small ones are ready on the first provider, where one of today's would fit; the second has room for the third.
    let mut lab = Lab::providers(&[10, 1]);
    lab.world.providers[0].max_cores = Some(4);
    let (x, y) = (lab.pool(0, &[0]), lab.pool(0, &[1]));
    lab.nodes(x, 0, NodeState::Ready, 2);
    let large = Template { hash: "v2".into(), resources: Resources { cores: 4, ram_mib: 1024 } };
    (lab.world.pools[x].offers[0].template, lab.world.pools[x].rolling) = (Ok(large), false);
    let request = lab.request(&[(x, 2), (y, 1)]);
    lab.world.requests[request].spread = true;
    let plan = lab.plan();
    assert_eq!((waits(&plan, request), creates(&plan)), ((1, NODES_BUILDING), vec![(y, 1)]));
}

#[test]
fn what_is_claimed_is_no_reason_to_wait_when_the_rest_fits() {
    for spread in [false, true] {
        let mut lab = Lab::providers(&[10]);
        lab.world.providers[0].max_cores = Some(8);
        let x = lab.pool(0, &[0]);
        let request = lab.request(&[(x, 3)]);
        lab.world.requests[request].spread = spread;
        for node in lab.nodes(x, 0, NodeState::Claimed, 2) {
            lab.world.nodes[node].request = Some(request);
        }
        let large = Template { hash: "v2".into(), resources: Resources { cores: 4, ram_mib: 1024 } };
        lab.world.pools[x].offers[0].template = Ok(large);
        let plan = lab.plan();
        assert_eq!((waits(&plan, request), creates(&plan)), ((1, NODES_BUILDING), vec![(x, 0)]), "{spread}");
    }
}
