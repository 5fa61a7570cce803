//! Whole stories: nodes come, are used and go, and everybody gets a turn.

use proptest::prelude::*;

use super::worlds::sane;
use super::*;

/// How many rounds a node is used.
const USE: u32 = 2;

/// A world in which nothing but capacity is in the way.
fn healthy(mut world: World) -> World {
    for provider in &mut world.providers {
        (provider.gate, provider.draining) = (Gate::Open, false);
    }
    for pool in &mut world.pools {
        (pool.paused, pool.draining) = (false, false);
        for offer in &mut pool.offers {
            offer.gate = Gate::Open;
            if let Err(_missing) = &offer.template {
                offer.template = Ok(Template { hash: "v1".into(), resources: SMALL });
            }
        }
    }
    for node in &mut world.nodes {
        match node.state {
            NodeState::Held => node.state = NodeState::Claimed,
            NodeState::Kept => node.state = NodeState::Ready,
            _ => {}
        }
        node.request = None;
    }
    for entry in world.requests.iter_mut().flat_map(|request| &mut request.entries) {
        entry.unsure = None;
    }
    world
}

/// Whether a request is served when it has the world to itself.
fn is_satisfiable(world: &World, request: usize) -> bool {
    let mut alone = world.clone();
    alone.nodes.clear();
    alone.requests = vec![world.requests[request].clone()];
    alone.pools.iter_mut().for_each(|pool| pool.min_ready = 0);
    for _ in 0..6 {
        let plan = allocate(&alone, &Fairness::default());
        if is_served(&plan, 0) {
            return true;
        }
        apply(&mut alone, &plan);
        tick(&mut alone);
    }
    false
}

/// A story: each served request uses its nodes for some rounds and gives them back; small ones keep coming.
struct Story {
    world: World,
    fairness: Fairness,
    /// By request: the round in which it was served.
    served: Vec<Option<u32>>,
    round: u32,
}

impl Story {
    fn play(&mut self, newcomers: u32) {
        self.round += 1;
        if self.round <= newcomers {
            self.arrive();
        }
        let plan = allocate(&self.world, &self.fairness);
        apply(&mut self.world, &plan);
        for (served, verdict) in self.served.iter_mut().zip(&plan.verdicts) {
            if verdict == &Some(Verdict::Served) && served.is_none() {
                *served = Some(self.round);
            }
        }
        self.fairness = plan.fairness;
        tick(&mut self.world);
        self.give_back();
    }

    /// A newcomer that asks for one node of some pool, younger than all.
    fn arrive(&mut self) {
        let pool = self.round as usize % self.world.pools.len();
        self.world.requests.push(Request {
            name: format!("ns/newcomer-{}", self.round),
            priority: -1,
            created: at(200_000 + i64::from(self.round)),
            spread: false,
            entries: vec![Entry { pool: Ok(pool), count: 1, unsure: None }],
        });
        self.served.push(None);
    }

    /// Requests end some rounds after they were served; claims of others that were there at first end as well.
    fn give_back(&mut self) {
        for node in &mut self.world.nodes {
            let ended = match node.request {
                Some(request) => self.served[request].is_some_and(|served| served + USE <= self.round),
                None => self.round > USE,
            };
            if node.state == NodeState::Claimed && ended {
                node.state = NodeState::Leaving;
            }
        }
        for (request, served) in self.world.requests.iter_mut().zip(&self.served) {
            if served.is_some_and(|served| served + USE <= self.round) {
                request.entries.clear();
            }
        }
    }
}

proptest! {
    #[test]
    fn every_request_that_can_be_served_is_served(world in sane().prop_map(healthy)) {
        let satisfiable: Vec<usize> =
            (0..world.requests.len()).filter(|&request| is_satisfiable(&world, request)).collect();
        let served = vec![None; world.requests.len()];
        let mut story = Story { world, fairness: Fairness::default(), served, round: 0 };
        for _ in 0..150 {
            story.play(60);
        }
        for request in satisfiable {
            prop_assert!(story.served[request].is_some(), "request {} never: {:?}", request, story.world);
        }
    }
}

#[test]
fn every_pool_gets_its_turn_at_one_slot() {
    let mut lab = Lab::providers(&[1]);
    for _ in 0..7 {
        lab.pool(1, &[0]);
    }
    let mut fairness = Fairness::default();
    let mut turns = [0; 7];
    for _ in 0..70 {
        let plan = allocate(&lab.world, &fairness);
        for (pool, _) in creates(&plan) {
            turns[pool] += 1;
        }
        fairness = plan.fairness;
    }
    assert_eq!(turns, [10; 7]);
}

#[test]
fn turns_survive_many_passes_without_a_free_slot() {
    let mut lab = Lab::providers(&[1]);
    let (x, y) = (lab.pool(1, &[0]), lab.pool(1, &[0]));
    let mut fairness = Fairness::default();
    let mut turns = Vec::new();
    for round in 0..2_000 {
        lab.world.providers[0].max_servers = u32::from(round % 500 == 499);
        let plan = allocate(&lab.world, &fairness);
        turns.extend(creates(&plan).into_iter().map(|(pool, _)| pool));
        fairness = plan.fairness;
    }
    assert_eq!(turns, [x, y, x, y]);
}

#[test]
fn a_big_request_is_served_although_small_ones_keep_coming() {
    let mut lab = Lab::providers(&[4]);
    let x = lab.pool(1, &[0]);
    lab.request(&[(x, 4)]);
    lab.world.requests[0].priority = -1;
    lab.nodes(x, 0, NodeState::Claimed, 4);
    let mut story = Story { world: lab.world, fairness: Fairness::default(), served: vec![None], round: 0 };
    for _ in 0..30 {
        story.play(30);
    }
    assert!(story.served[0].is_some());
    assert!(story.served.iter().filter(|served| served.is_some()).count() > 10);
}
