//! What nobody can tell now begins nothing and takes nothing: table by table.

use super::super::reasons::*;
use super::*;

fn unsure(lab: &mut Lab, request: usize) {
    lab.world.requests[request].entries[0].unsure = Some(blocked("PoolNotFound"));
}

#[test]
fn nothing_is_given_to_a_request_that_may_not_use_its_pool_and_nothing_goes_that_was_made_for_it() {
    for spread in [false, true] {
        let mut lab = Lab::providers(&[10]);
        let x = lab.pool(1, &[0]);
        lab.nodes(x, 0, NodeState::Ready, 2);
        lab.nodes(x, 0, NodeState::Building, 2);
        let big = lab.request(&[(x, 4)]);
        lab.world.requests[big].spread = spread;
        unsure(&mut lab, big);
        let plan = lab.plan();
        assert_eq!(waits(&plan, big), (1, "PoolNotFound"));
        assert_eq!(plan.steps, []);
        // Who may is not kept from what is there.
        let small = lab.request(&[(x, 1)]);
        let plan = lab.plan();
        assert!(is_served(&plan, small));
        assert_eq!((claims(&plan).len(), condemned(&plan)), (1, vec![]));
        // What it does not wait for is too much as ever.
        lab.nodes(x, 0, NodeState::Ready, 3);
        assert_eq!(condemned(&lab.plan()).len(), 1);
    }
}

#[test]
fn one_part_that_nobody_can_tell_of_holds_up_the_whole_request() {
    let mut lab = Lab::providers(&[10]);
    let (x, y) = (lab.pool(0, &[0]), lab.pool(0, &[0]));
    lab.node(x, 0, NodeState::Ready);
    lab.node(y, 0, NodeState::Ready);
    let both = lab.request(&[(x, 1), (y, 1)]);
    unsure(&mut lab, both);
    let plan = lab.plan();
    assert_eq!(waits(&plan, both), (1, "PoolNotFound"));
    assert_eq!(plan.steps, []);
}

#[test]
fn a_part_that_nobody_can_tell_of_is_told_like_one_that_is_not_there() {
    let mut lab = Lab::providers(&[10]);
    let x = lab.pool(0, &[0]);
    let both = lab.request(&[(x, 1), (x, 1)]);
    let (first, second) =
        (blocked("PoolNotFound"), Blocked { message: "another".to_owned(), ..blocked("PoolNotFound") });
    lab.world.requests[both].entries[1].pool = Err(second);
    lab.world.requests[both].entries[0].pool = Err(first.clone());
    let absent = lab.plan().verdicts;
    lab.world.requests[both].entries[0] = Entry { pool: Ok(x), count: 1, unsure: Some(first) };
    assert_eq!(lab.plan().verdicts, absent);
}

#[test]
fn what_a_request_has_stays_and_all_of_it_is_enough() {
    let mut lab = Lab::providers(&[10]);
    let x = lab.pool(0, &[0]);
    let request = lab.request(&[(x, 1)]);
    let node = lab.node(x, 0, NodeState::Claimed);
    lab.world.nodes[node].request = Some(request);
    unsure(&mut lab, request);
    assert!(is_served(&lab.plan(), request));
}

/// A pool that may use provider 1, and has two nodes on provider 0, of which nobody can tell.
fn kept() -> (Lab, usize) {
    let mut lab = Lab::providers(&[4, 4]);
    let x = lab.pool(2, &[1]);
    lab.nodes(x, 0, NodeState::Kept, 2);
    lab.world.pools[x].missing = Some(blocked(NO_PROVIDER));
    (lab, x)
}

#[test]
fn what_nobody_can_tell_of_counts_and_is_given_to_nobody() {
    let (mut lab, x) = kept();
    assert_eq!(lab.plan().steps, [], "minReady is there");
    let request = lab.request(&[(x, 1)]);
    for spread in [false, true] {
        lab.world.requests[request].spread = spread;
        let plan = lab.plan();
        assert_eq!(waits(&plan, request), (1, NODES_BUILDING));
        assert_eq!(creates(&plan), [(x, 1)]);
        assert_eq!(plan.steps.len(), 1, "no claim, and none goes");
    }
}

#[test]
fn what_nobody_can_tell_of_is_neither_too_much_nor_too_old_nor_in_the_way() {
    let (mut lab, x) = kept();
    lab.world.pools[x].min_ready = 0;
    lab.world.pools[x].max_ready_age = Some(Duration::from_secs(1));
    lab.world.pools[x].max_unavailable = 9;
    assert_eq!(lab.plan().steps, []);
    // Another pool's request fills the provider.
    lab.world.providers[0].max_servers = 2;
    let y = lab.pool(0, &[0]);
    let request = lab.request(&[(y, 1)]);
    let plan = lab.plan();
    assert_eq!(waits(&plan, request), (1, AT_CAPACITY));
    assert_eq!(plan.steps, []);
}

#[test]
fn what_nobody_can_tell_of_goes_with_its_pool_or_its_provider() {
    type Change = fn(&mut World);
    let changes: [(&str, Change, usize); 3] = [
        ("the pool goes", |world| world.pools[0].draining = true, 2),
        ("the provider goes", |world| world.providers[0].draining = true, 2),
        ("the pool cannot be read", |world| world.nodes.iter_mut().for_each(|node| node.pool = None), 0),
    ];
    for (name, change, gone) in changes {
        let (mut lab, _) = kept();
        change(&mut lab.world);
        let drained: Vec<_> = (0..gone).map(|node| (node, Condemnation::Drained)).collect();
        assert_eq!(condemned(&lab.plan()), drained, "{name}");
    }
}

#[test]
fn what_may_yet_be_opened_makes_nothing_impossible() {
    for spread in [false, true] {
        let mut lab = Lab::providers(&[2]);
        let x = lab.pool(0, &[0]);
        let big = lab.request(&[(x, 3)]);
        lab.world.requests[big].spread = spread;
        assert!(is_impossible(&lab.plan(), big));
        lab.world.pools[x].missing = Some(blocked(NO_PROVIDER));
        assert_eq!(waits(&lab.plan(), big), (1, NO_PROVIDER));
        // No provider makes the pool larger.
        lab.world.pools[x].max_nodes = Some(2);
        assert!(is_impossible(&lab.plan(), big));
        // What it has was promised to it.
        lab.world.pools[x].missing = None;
        let node = lab.node(x, 0, NodeState::Claimed);
        lab.world.nodes[node].request = Some(big);
        assert_eq!(waits(&lab.plan(), big), (1, EXCEEDS_CAPACITY));
    }
}

#[test]
fn what_may_yet_be_opened_to_one_pool_is_no_hope_for_another() {
    let mut lab = Lab::providers(&[2, 2]);
    let (x, y) = (lab.pool(0, &[0]), lab.pool(0, &[1]));
    lab.world.pools[y].missing = Some(blocked(NO_PROVIDER));
    let request = lab.request(&[(x, 3), (y, 1)]);
    lab.world.requests[request].spread = true;
    assert!(is_impossible(&lab.plan(), request));
    lab.world.requests[request].entries[0].count = 2;
    lab.world.requests[request].entries[1].count = 3;
    assert_eq!(waits(&lab.plan(), request), (1, NO_PROVIDER));
}
