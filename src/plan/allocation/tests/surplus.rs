//! What goes: table by table.

use super::*;

fn gone(lab: &Lab) -> Vec<(usize, Condemnation)> {
    condemned(&lab.plan())
}

#[test]
fn what_is_too_much_goes_in_order() {
    let mut lab = Lab::providers(&[20, 20]);
    let x = lab.pool(0, &[0, 1]);
    lab.world.pools[x].offers[1].priority = 9;
    let ready = lab.nodes(x, 0, NodeState::Ready, 2);
    let far = lab.nodes(x, 1, NodeState::Ready, 2);
    let building = lab.nodes(x, 0, NodeState::Building, 2);
    lab.nodes(x, 0, NodeState::Creating, 1);
    lab.nodes(x, 0, NodeState::Claimed, 1);
    lab.nodes(x, 0, NodeState::Held, 1);
    let old = lab.node(x, 0, NodeState::Ready);
    lab.world.nodes[old].hash = "v0".into();
    let order = [old, building[1], building[0], far[0], far[1], ready[0], ready[1]];
    for min_ready in 1..=8 {
        lab.world.pools[x].min_ready = min_ready;
        lab.world.pools[x].max_unavailable = 0;
        let expected: Vec<_> =
            order.iter().take(8 - min_ready as usize).map(|&node| (node, Condemnation::Surplus)).collect();
        assert_eq!(gone(&lab), expected, "minReady {min_ready}");
    }
    lab.world.pools[x].min_ready = 0;
    assert_eq!(gone(&lab).len(), 7, "scaled to zero: all idle ones, no others");
    lab.world.pools[x].paused = true;
    assert_eq!(gone(&lab), []);
}

#[test]
fn what_goes_away_is_drained_even_when_paused() {
    type Change = fn(&mut World);
    let cases: &[(&str, Change)] = &[
        ("pool deleted", |world| world.pools[0].draining = true),
        ("provider deleted", |world| world.providers[0].draining = true),
        ("pool gone", |world| world.nodes.iter_mut().for_each(|node| node.pool = None)),
        ("pool unknown", |world| world.nodes.iter_mut().for_each(|node| node.pool = Some(77))),
        ("no longer offered", |world| world.pools[0].offers.remove(0).provider = 0),
    ];
    for (name, change) in cases {
        for paused in [false, true] {
            let mut lab = Lab::providers(&[20, 20]);
            let x = lab.pool(0, &[0, 1]);
            for state in [
                NodeState::Ready,
                NodeState::Building,
                NodeState::Creating,
                NodeState::Claimed,
                NodeState::Held,
                NodeState::Leaving,
            ] {
                lab.node(x, 0, state);
            }
            lab.world.pools[x].paused = paused;
            change(&mut lab.world);
            assert_eq!(gone(&lab), [(0, Condemnation::Drained), (1, Condemnation::Drained)], "{name}");
        }
    }
}

#[test]
fn old_nodes_are_replaced_oldest_first_while_enough_stay() {
    for (min_ready, max_unavailable, ready, expected) in
        [(3, 1, 3, 1), (3, 2, 3, 2), (3, 9, 3, 3), (3, 1, 2, 0), (3, 0, 3, 0), (4, 1, 3, 0)]
    {
        let mut lab = Lab::providers(&[20]);
        let x = lab.pool(min_ready, &[0]);
        lab.world.pools[x].max_unavailable = max_unavailable;
        lab.nodes(x, 0, NodeState::Ready, ready);
        lab.world.pools[x].max_ready_age = Some(Duration::from_secs(60));
        let all: Vec<_> = (0..ready as usize).map(|node| (node, Condemnation::Aged)).collect();
        assert_eq!(gone(&lab), all[..expected], "aged {min_ready} {max_unavailable} {ready}");
        lab.world.pools[x].max_ready_age = None;
        lab.world.pools[x].offers[0].template = Ok(Template { hash: "v2".into(), resources: SMALL });
        let all: Vec<_> = all.into_iter().map(|(node, _)| (node, Condemnation::Outdated)).collect();
        assert_eq!(gone(&lab), all[..expected], "outdated {min_ready} {max_unavailable} {ready}");
    }
}

#[test]
fn a_roll_ends_with_all_nodes_new_and_never_too_few_ready() {
    let mut lab = Lab::providers(&[20]);
    let x = lab.pool(4, &[0]);
    lab.nodes(x, 0, NodeState::Ready, 4);
    lab.world.pools[x].offers[0].template = Ok(Template { hash: "v2".into(), resources: SMALL });
    for _ in 0..30 {
        let plan = lab.plan();
        apply(&mut lab.world, &plan);
        let ready = lab.world.nodes.iter().filter(|node| node.state == NodeState::Ready).count();
        assert!(ready >= 3);
        tick(&mut lab.world);
    }
    assert!(lab.world.nodes.iter().all(|node| *node.hash == *"v2" && node.state == NodeState::Ready));
    assert_eq!(lab.world.nodes.len(), 4);
    assert!(lab.plan().steps.is_empty());
}

#[test]
fn nothing_is_outdated_when_that_is_not_wanted_or_not_known() {
    type Change = fn(&mut World);
    let cases: &[(&str, Change)] = &[
        ("on replenish", |world| world.pools[0].rolling = false),
        ("paused", |world| world.pools[0].paused = true),
        ("no template", |world| world.pools[0].offers[0].template = Err(blocked("ImageNotReady"))),
        ("claimed", |world| world.nodes[0].state = NodeState::Claimed),
        ("held", |world| world.nodes[0].state = NodeState::Held),
        ("building", |world| world.nodes[0].state = NodeState::Building),
        ("set aside", |world| {
            world.nodes[0].state = NodeState::Ready;
            let entry = Entry { pool: Ok(0), count: 2, unsure: None };
            world.requests.push(Request {
                name: "ns/r".to_owned(),
                priority: 0,
                created: at(1),
                spread: false,
                entries: vec![entry],
            });
        }),
    ];
    for (name, change) in cases {
        let mut lab = Lab::providers(&[20]);
        let x = lab.pool(1, &[0]);
        lab.node(x, 0, NodeState::Ready);
        lab.world.pools[x].offers[0].template = Ok(Template { hash: "v2".into(), resources: SMALL });
        assert_eq!(gone(&lab).len(), 1);
        change(&mut lab.world);
        assert_eq!(gone(&lab), [], "{name}");
    }
}

#[test]
fn on_replenish_the_old_ones_are_used_up_first_and_while_rolling_the_new_ones() {
    for (rolling, expected) in [(false, 0), (true, 1)] {
        let mut lab = Lab::providers(&[20]);
        let x = lab.pool(2, &[0]);
        lab.nodes(x, 0, NodeState::Ready, 2);
        lab.world.nodes[0].hash = "v0".into();
        lab.world.pools[x].rolling = rolling;
        lab.request(&[(x, 1)]);
        assert_eq!(claims(&lab.plan())[0].0, expected);
    }
}

#[test]
fn age_alone_wakes() {
    let mut lab = Lab::providers(&[20]);
    let x = lab.pool(3, &[0]);
    lab.nodes(x, 0, NodeState::Ready, 3);
    assert_eq!(lab.plan().wake, None);
    lab.world.pools[x].max_ready_age = Some(Duration::from_secs(200_000));
    assert_eq!(lab.plan().wake, Some(at(201_000)));
    lab.world.now = at(201_000);
    let plan = lab.plan();
    assert_eq!(plan.wake, Some(at(201_001)));
    assert_eq!(condemned(&plan), [(0, Condemnation::Aged)]);
    lab.world.pools[x].max_ready_age = Some(Duration::MAX);
    assert_eq!(lab.plan().wake, None, "too far to be a time");
}
