//! Who makes way: one idle node at a time, the oldest first, and only for a request that cannot be launched otherwise.
//!
//! It comes last, when everything else that frees room is known. It never evicts for `minReady`, never a node that a
//! request ahead has set aside, and never while another node there is on its way out: that may be enough.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::pass::Pass;
use super::requests::Short;
use super::room::Left;
use super::stock::{ClaimOn, idle_since};
use super::world::{Condemnation, NodeState};

/// Evicts for those that are short, in the order of the queue.
pub(super) fn evict(pass: &mut Pass<'_>, short: &[Short]) {
    if short.is_empty() {
        return;
    }
    let idle = Idle::of(pass);
    let short_pools: BTreeSet<(u32, usize)> = short.iter().map(|short| (short.rank, short.pool)).collect();
    let mut helped = BTreeSet::new();
    for want in short {
        if helped.contains(&(want.rank, want.pool)) || !could_launch(pass, want) {
            continue;
        }
        let victim = if want.pool_allows <= 0 {
            elsewhere(pass, &idle, want)
        } else {
            in_the_way(pass, &idle, want, &short_pools)
        };
        if victim.is_some_and(|victim| pass.condemn(victim, Condemnation::Evicted)) {
            helped.insert((want.rank, want.pool));
        }
    }
}

/// The nodes that could make way, by provider and by pool.
struct Idle {
    at: Vec<Vec<usize>>,
    of: Vec<Vec<usize>>,
}

impl Idle {
    fn of(pass: &Pass<'_>) -> Self {
        let mut idle =
            Self { at: vec![Vec::new(); pass.world.providers.len()], of: vec![Vec::new(); pass.world.pools.len()] };
        for (index, node) in pass.world.nodes.iter().enumerate() {
            if !matches!(node.state, NodeState::Ready | NodeState::Building) || pass.stock.is_removed(index) {
                continue;
            }
            let (Some(at), Some(of)) =
                (idle.at.get_mut(node.provider), node.pool.and_then(|pool| idle.of.get_mut(pool)))
            else {
                continue;
            };
            at.push(index);
            of.push(index);
        }
        idle
    }
}

/// What makes a victim: nobody's before a later request's, ready before building, the oldest.
type Order = (ClaimOn, bool, Timestamp, usize);

fn order(pass: &Pass<'_>, index: usize, rank: u32) -> Option<Order> {
    let node = pass.world.nodes.get(index)?;
    let claim = pass.stock.claim_on(index, rank)?;
    Some((claim, node.state != NodeState::Ready, idle_since(node), index))
}

/// Where the pool's own cap is reached: an idle node of it on another provider, if all such nodes together would make
/// enough room.
fn elsewhere(pass: &Pass<'_>, idle: &Idle, want: &Short) -> Option<usize> {
    let provider = pass.world.pools.get(want.pool)?.offers.get(want.offer)?.provider;
    if pass.stock.is_leaving_pool(want.pool) {
        return None;
    }
    let mut together = want.pool_allows;
    let mut best: Option<Order> = None;
    for &index in idle.of.get(want.pool)? {
        if pass.world.nodes.get(index).is_none_or(|node| node.provider == provider) {
            continue;
        }
        let Some(order) = order(pass, index, want.rank).filter(|order| order.0 != ClaimOn::Own) else { continue };
        together = together.saturating_add(1);
        best = Some(best.map_or(order, |best| best.min(order)));
    }
    best.filter(|_| together > 0).map(|(.., index)| index)
}

/// Where the provider is full: an idle node there, if all that could go together would make enough room.
fn in_the_way(pass: &Pass<'_>, idle: &Idle, want: &Short, short_pools: &BTreeSet<(u32, usize)>) -> Option<usize> {
    let provider = pass.world.pools.get(want.pool)?.offers.get(want.offer)?.provider;
    let need = pass.room.cost(want.pool, want.offer)?;
    if pass.stock.is_leaving_provider(provider) || want.open.times(need) > 0 {
        return None;
    }
    let mut together = want.open;
    let mut best: Option<Order> = None;
    for &index in idle.at.get(provider)? {
        let Some(order) = order(pass, index, want.rank) else { continue };
        let is_short = |pool| short_pools.contains(&(want.rank, pool));
        let Some(freed) = freed(pass, want, index, order.0, is_short) else { continue };
        if want.open.is_helped(freed, need) {
            together = together.plus(freed);
            best = Some(best.map_or(order, |best| best.min(order)));
        }
    }
    best.filter(|_| together.times(need) > 0).map(|(.., index)| index)
}

/// What a request gains by a node's going. Of a pool that it is short of, nothing is destroyed. One that it has set
/// aside itself must be made again: elsewhere, or here where its pool now boots smaller ones.
fn freed(
    pass: &Pass<'_>,
    want: &Short,
    index: usize,
    claim: ClaimOn,
    is_short: impl Fn(usize) -> bool,
) -> Option<Left> {
    let node = pass.world.nodes.get(index)?;
    let pool = node.pool?;
    let freed = Left::freed_by(node.resources);
    if claim != ClaimOn::Own {
        return (!is_short(pool)).then_some(freed);
    }
    if want.movable.contains(&pool) {
        return Some(freed);
    }
    let again = pass.room.cost(pool, pass.offers.get(pool, node.provider)?)?;
    Some(freed.minus(again, 1))
}

/// Whether nothing but room is in the way: the gates let a launch through, and the pool may have more nodes there.
fn could_launch(pass: &Pass<'_>, want: &Short) -> bool {
    let provider = pass.world.pools.get(want.pool).and_then(|pool| pool.offers.get(want.offer)).map(|at| at.provider);
    want.offer_allows > 0
        && pass.room.obstacle(want.pool, want.offer).is_none()
        && provider.is_some_and(|provider| pass.room.gate_allows(provider) > 0)
}
