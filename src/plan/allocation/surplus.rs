//! What there is too much of: nodes of pools and providers that are going away, and idle nodes beyond `minReady`.
//!
//! It never touches a node that a request has set aside or waits for, nor one whose creation is not answered yet.

use std::cmp::Reverse;

use super::pass::Pass;
use super::stock::{idle_since, is_outdated};
use super::world::{Condemnation, NodeState, Pool};

/// Condemns strays, and what each pool has beyond its standby.
pub(super) fn trim(pass: &mut Pass<'_>) {
    let strays = pass.stock.strays().to_vec();
    for node in strays {
        pass.condemn(node, Condemnation::Drained);
    }
    for (index, pool) in pass.world.pools.iter().enumerate() {
        if pool.paused || pool.draining {
            continue;
        }
        let awaited = pass.awaited.get(index).copied().unwrap_or(0);
        let excess = pass.stock.standing(index).saturating_sub(pool.min_ready).saturating_sub(awaited);
        if excess == 0 {
            continue;
        }
        let mut idle = idle_nodes(pass, index, pool);
        idle.sort();
        for (_, node) in idle.into_iter().take(usize::try_from(excess).unwrap_or(usize::MAX)) {
            pass.condemn(node, Condemnation::Surplus);
        }
    }
}

/// What goes first: outdated ones; those that are not ready yet, the newest first; those on providers that the pool
/// likes least; the oldest.
type Worth = (bool, bool, Reverse<i32>, Reverse<Option<jiff::Timestamp>>, Option<jiff::Timestamp>);

fn idle_nodes(pass: &Pass<'_>, index: usize, pool: &Pool) -> Vec<(Worth, usize)> {
    let mut idle = Vec::new();
    for (offer, shelf) in pool.offers.iter().zip(pass.stock.of_pool(index)) {
        let current = offer.template.as_ref().ok().map(|template| &*template.hash);
        for &number in shelf.ready.rest().iter().chain(shelf.coming.rest()) {
            let Some(node) = pass.world.nodes.get(number) else { continue };
            let fresh = !is_outdated(node, current);
            let worth = match node.state {
                NodeState::Ready => (fresh, true, Reverse(offer.priority), Reverse(None), Some(idle_since(node))),
                NodeState::Building => (fresh, false, Reverse(0), Reverse(Some(node.created)), None),
                _ => continue,
            };
            idle.push((worth, number));
        }
    }
    idle
}
