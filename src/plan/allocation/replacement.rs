//! What is too old: idle nodes past `maxReadyAge`, and those made from another image or template.
//!
//! It goes on only while enough ready nodes stay, so that a bad new image cannot empty a pool. It never touches a node
//! that a request has set aside, and calls nothing outdated while the template is not known.

use jiff::Timestamp;

use super::pass::Pass;
use super::stock::{idle_since, is_outdated};
use super::world::{Condemnation, Pool};

/// Condemns what is to be replaced now, and says when age alone will change the answer.
pub(super) fn replace(pass: &mut Pass<'_>) -> Option<Timestamp> {
    let mut wake: Option<Timestamp> = None;
    for (index, pool) in pass.world.pools.iter().enumerate() {
        if pool.paused || pool.draining {
            continue;
        }
        let stand = Stand::of(pass, index, pool);
        wake = wake.into_iter().chain(stand.next_expiry).min();
        let keep = usize::try_from(pool.min_ready.saturating_sub(pool.max_unavailable)).unwrap_or(usize::MAX);
        let going = stand.ready.saturating_sub(keep);
        for (_, node, why) in stand.old.into_iter().take(going) {
            pass.condemn(node, why);
        }
    }
    wake
}

/// The ready nodes of a pool that nobody has taken.
struct Stand {
    ready: usize,
    /// Those to be replaced, oldest first.
    old: Vec<(Timestamp, usize, Condemnation)>,
    next_expiry: Option<Timestamp>,
}

impl Stand {
    fn of(pass: &Pass<'_>, index: usize, pool: &Pool) -> Self {
        let mut stand = Self { ready: 0, old: Vec::new(), next_expiry: None };
        for (offer, shelf) in pool.offers.iter().zip(pass.stock.of_pool(index)) {
            let current = offer.template.as_ref().ok().map(|template| &*template.hash);
            for &number in shelf.ready.rest() {
                let Some(node) = pass.world.nodes.get(number) else { continue };
                if pass.stock.is_removed(number) {
                    continue;
                }
                stand.ready += 1;
                let since = idle_since(node);
                let expiry = pool.max_ready_age.and_then(|age| since.checked_add(age).ok());
                if expiry.is_some_and(|expiry| expiry <= pass.world.now) {
                    stand.old.push((since, number, Condemnation::Aged));
                    continue;
                }
                stand.next_expiry = stand.next_expiry.into_iter().chain(expiry).min();
                if pool.rolling && is_outdated(node, current) {
                    stand.old.push((since, number, Condemnation::Outdated));
                }
            }
        }
        stand.old.sort_by_key(|&(since, number, _)| (since, number));
        stand
    }
}
