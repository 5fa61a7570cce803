//! Requests, in order: who is served now, who sets what aside and waits, and who can never be served.
//!
//! All or nothing: nodes are claimed only when everything a request still needs is ready. Until then it sets aside
//! what is there and has the rest made. A request never takes what one ahead of it has set aside.

use std::cmp::Reverse;

use super::pass::Pass;
use super::reasons;
use super::room::Left;
use super::world::{Blocked, NodeState, Request, Verdict, World};
use super::{spread, together};

/// What one request still needs, in the order of the queue.
pub(super) struct Demand {
    /// Index into the world's requests.
    pub(super) index: usize,
    /// Its place in the order, from 0; not its position among those that wait.
    pub(super) rank: u32,
    /// By entry: the pool, and how many are still to be claimed.
    pub(super) entries: Vec<(usize, u32)>,
    /// The same by pool, each pool once, without pools of which nothing is lacking.
    pub(super) needs: Vec<Need>,
    /// How many nodes were asked for in all.
    pub(super) whole: u64,
    /// The provider of nodes it already has.
    pub(super) pinned: Option<usize>,
    /// Why nobody can tell now whether it may use one of its pools.
    unsure: Option<Blocked>,
}

/// A demand for nodes of one pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    /// Index into the world's pools.
    pub(super) pool: usize,
    /// How many were asked for.
    pub(super) whole: u32,
    /// How many are not claimed yet.
    pub(super) left: u32,
}

/// Nodes that a request waits for and that do not fit now.
pub(super) struct Short {
    /// The rank of the request.
    pub(super) rank: u32,
    /// Index into the world's pools.
    pub(super) pool: usize,
    /// Index into the pool's offers.
    pub(super) offer: usize,
    /// What the request sees of the provider's room.
    pub(super) open: Left,
    /// What it sees of the pool's cap.
    pub(super) pool_allows: i64,
    /// What it sees of the offer's cap and gate.
    pub(super) offer_allows: i64,
    /// Pools whose nodes it would rather have on another provider than in the way here.
    pub(super) movable: Vec<usize>,
}

impl Short {
    /// What the request of this rank sees of an offer now, before it keeps room there for itself.
    pub(super) fn seen(pass: &Pass<'_>, rank: u32, pool: usize, offer: usize) -> Option<Self> {
        let provider = pass.world.pools.get(pool)?.offers.get(offer)?.provider;
        Some(Self {
            rank,
            pool,
            offer,
            open: pass.room.open(provider),
            pool_allows: pass.room.pool_allows(pool),
            offer_allows: pass.room.offer_allows(pool, offer),
            movable: Vec::new(),
        })
    }
}

/// What becomes of one request.
pub(super) enum Outcome {
    Served,
    Waiting(Blocked),
    Impossible(Blocked),
}

/// Serves the requests of a world, and says who is short of what.
pub(super) fn serve(pass: &mut Pass<'_>) -> (Vec<Option<Verdict>>, Vec<Short>) {
    let world = pass.world;
    let mut verdicts: Vec<Option<Verdict>> = world.requests.iter().map(|_| None).collect();
    let mut short = Vec::new();
    let mut position = 0_u32;
    for (rank, (index, request, taken)) in (0_u32..).zip(in_order(world)) {
        let outcome = match demand(index, request, rank, &taken, world) {
            Err(blocked) => Outcome::Waiting(blocked),
            Ok(demand) if demand.needs.is_empty() => Outcome::Served,
            Ok(Demand { unsure: Some(ref blocked), ref needs, .. }) => {
                stand_aside(pass, needs);
                Outcome::Waiting(blocked.clone())
            }
            Ok(demand) if request.spread => spread::serve(pass, &demand, &mut short),
            Ok(demand) => together::serve(pass, &demand, &mut short),
        };
        let verdict = match outcome {
            Outcome::Served => Verdict::Served,
            Outcome::Impossible(blocked) => Verdict::Impossible(blocked),
            Outcome::Waiting(blocked) => {
                position = position.saturating_add(1);
                Verdict::Waiting { position, blocked }
            }
        };
        if let Some(place) = verdicts.get_mut(index) {
            *place = Some(verdict);
        }
    }
    (verdicts, short)
}

/// The order: those that already have a part, then priority, then age. The name decides between equals.
fn in_order(world: &World) -> Vec<(usize, &Request, Vec<usize>)> {
    let mut taken: Vec<Vec<usize>> = world.requests.iter().map(|_| Vec::new()).collect();
    for (index, node) in world.nodes.iter().enumerate() {
        if !matches!(node.state, NodeState::Claimed | NodeState::Held) {
            continue;
        }
        if let Some(nodes) = node.request.and_then(|request| taken.get_mut(request)) {
            nodes.push(index);
        }
    }
    let mut order: Vec<_> =
        world.requests.iter().zip(taken).enumerate().map(|(index, (request, taken))| (index, request, taken)).collect();
    order.sort_by_key(|(index, request, taken)| {
        (taken.is_empty(), Reverse(request.priority), request.created, request.name.as_str(), *index)
    });
    order
}

/// What a request still needs; an error when it names a pool that does not exist.
fn demand(index: usize, request: &Request, rank: u32, taken: &[usize], world: &World) -> Result<Demand, Blocked> {
    let mut demand =
        Demand { index, rank, entries: Vec::new(), needs: Vec::new(), whole: 0, pinned: None, unsure: None };
    for entry in &request.entries {
        // Told like one that is not there: the first of them, whichever it is.
        let pool = entry.pool.clone().map_err(|absent| demand.unsure.clone().unwrap_or(absent))?;
        if world.pools.get(pool).is_none() {
            return Err(Blocked { reason: reasons::NO_POOL, message: "a pool of it does not exist".to_owned() });
        }
        demand.entries.push((pool, entry.count));
        demand.unsure = demand.unsure.or_else(|| entry.unsure.clone());
    }
    for &(pool, count) in &demand.entries {
        match demand.needs.iter_mut().find(|need| need.pool == pool) {
            Some(need) => need.whole = need.whole.saturating_add(count),
            None => demand.needs.push(Need { pool, whole: count, left: 0 }),
        }
    }
    for node in taken.iter().filter_map(|&node| world.nodes.get(node)) {
        demand.pinned = Some(demand.pinned.map_or(node.provider, |pinned| pinned.min(node.provider)));
        let entry = demand.entries.iter_mut().find(|(pool, left)| Some(*pool) == node.pool && *left > 0);
        if let Some((_, left)) = entry {
            *left -= 1;
        }
    }
    for &(pool, left) in &demand.entries {
        if let Some(need) = demand.needs.iter_mut().find(|need| need.pool == pool) {
            need.left = need.left.saturating_add(left);
        }
    }
    demand.whole = demand.needs.iter().map(|need| u64::from(need.whole)).sum();
    demand.needs.retain(|need| need.left > 0);
    Ok(demand)
}

impl Demand {
    /// Claims, entry by entry, the next ready node that `take` finds.
    pub(super) fn claim_all(&self, pass: &mut Pass<'_>, mut take: impl FnMut(&mut Pass<'_>, usize) -> Option<usize>) {
        for (entry, &(pool, left)) in self.entries.iter().enumerate() {
            for _ in 0..left {
                let Some(node) = take(pass, pool) else { break };
                pass.claim(node, self.index, entry);
            }
        }
    }

    /// How many nodes it still needs.
    pub(super) fn left(&self) -> u64 {
        self.needs.iter().map(|need| u64::from(need.left)).sum()
    }
}

/// Leaves what is there to others, but lets nobody call it too much.
pub(super) fn stand_aside(pass: &mut Pass<'_>, needs: &[Need]) {
    for need in needs {
        pass.await_nodes(need.pool, need.left);
    }
}

/// What is missing of the pools of a request: a provider that one of them names.
pub(super) fn missing<'n>(pass: &Pass<'_>, needs: impl IntoIterator<Item = &'n Need>) -> Option<Blocked> {
    needs.into_iter().find_map(|need| pass.world.pools.get(need.pool)?.missing.clone())
}

/// More is asked for than there could ever be. That is the end of it, unless a part of it is there already, or a
/// provider is missing that may yet be made, or opened.
pub(super) fn never(pass: &mut Pass<'_>, demand: &Demand, message: String, missing: Option<Blocked>) -> Outcome {
    let blocked = Blocked { reason: reasons::EXCEEDS_CAPACITY, message };
    let waits = match (missing, demand.pinned) {
        (Some(missing), _) => {
            Blocked { reason: missing.reason, message: format!("{}; {}", blocked.message, missing.message) }
        }
        (None, Some(_)) => blocked,
        (None, None) => return Outcome::Impossible(blocked),
    };
    stand_aside(pass, &demand.needs);
    Outcome::Waiting(waits)
}

/// The verdict on a request for which everything is being made.
pub(super) fn building(count: u64, place: &str) -> Outcome {
    Outcome::Waiting(Blocked {
        reason: reasons::NODES_BUILDING,
        message: format!("{count} of its nodes are being built{place}"),
    })
}
