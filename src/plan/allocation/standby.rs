//! `minReady`: which pools get how many new nodes where, with the room that requests have left.
//!
//! Shares are handed out by [`distribute`], one tier of offers after another, then made real against sizes, caps and
//! gates. What remains unmet takes any usable room that remains: no room idles while somebody lacks nodes. Standby
//! never makes anybody leave.

use std::cmp::Reverse;

use super::distribute::{Label, Place, distribute};
use super::pass::Pass;
use super::room::Why;
use super::together::few;
use super::world::{Blocked, Fairness};

/// A pool that lacks standby.
struct Want {
    pool: usize,
    /// How many nodes are missing.
    missing: u32,
    /// How many of those it may still get in this pass: its own caps considered.
    open: u32,
    got: u32,
    /// The offers that can be used, in tiers of equal priority, with the rounds that it has waited there.
    tiers: Vec<Vec<(usize, Place)>>,
}

/// Launches standby, and says for each pool why it stays below `minReady`.
pub(super) fn replenish(pass: &mut Pass<'_>, fairness: &Fairness) -> (Vec<Option<Blocked>>, Fairness) {
    let mut wants: Vec<Want> = (0..pass.world.pools.len()).filter_map(|pool| Want::of(pass, pool, fairness)).collect();
    let rounds = wants.iter().map(|want| want.tiers.len()).max().unwrap_or(0);
    for round in 0..rounds {
        share_out(pass, &mut wants, round);
        sweep(pass, &mut wants, round);
    }
    let mut blocked: Vec<Option<Blocked>> = pass.world.pools.iter().map(|_| None).collect();
    let mut memory = Fairness::default();
    for want in &wants {
        if want.got < want.missing
            && let Some(place) = blocked.get_mut(want.pool)
        {
            *place = why_unmet(pass, want.pool);
        }
        want.remember(pass, &mut memory);
    }
    (blocked, memory)
}

impl Want {
    fn of(pass: &Pass<'_>, index: usize, fairness: &Fairness) -> Option<Self> {
        let pool = pass.world.pools.get(index)?;
        let missing = pool.min_ready.saturating_sub(pass.stock.standing(index));
        if missing == 0 || pool.draining {
            return None;
        }
        let mut usable: Vec<(i32, usize, Place)> = Vec::new();
        for (number, offer) in pool.offers.iter().enumerate() {
            let first = pass.offers.get(index, offer.provider) == Some(number);
            if !first || pass.room.obstacle(index, number).is_some() {
                continue;
            }
            let Some(provider) = pass.world.providers.get(offer.provider) else { continue };
            let wait = fairness.waits.get(&(pool.name.clone(), provider.name.clone())).copied().unwrap_or(0);
            usable.push((offer.priority, number, Place { provider: offer.provider, wait }));
        }
        usable.sort_by_key(|&(priority, number, _)| (priority, number));
        let tiers = usable
            .chunk_by(|one, other| one.0 == other.0)
            .map(|tier| tier.iter().map(|&(_, number, place)| (number, place)).collect())
            .collect();
        let allowed = u32::try_from(pass.room.pool_allows(index).max(0)).unwrap_or(u32::MAX);
        Some(Self { pool: index, missing, open: missing.min(allowed), got: 0, tiers })
    }

    fn tier(&self, round: usize) -> &[(usize, Place)] {
        self.tiers.get(round).map(Vec::as_slice).unwrap_or_default()
    }

    fn wait(&self) -> u32 {
        self.tiers.iter().flatten().map(|(_, place)| place.wait).max().unwrap_or(0)
    }

    /// Launches one node at an offer, if it is still wanted and fits.
    fn launch(&mut self, pass: &mut Pass<'_>, offer: usize) -> bool {
        let launched = self.open > 0 && pass.create(self.pool, offer);
        if launched {
            self.open -= 1;
            self.got = self.got.saturating_add(1);
        }
        launched
    }

    /// Notes one more round of waiting wherever it could have got something, unless it got anything at all.
    fn remember(&self, pass: &Pass<'_>, memory: &mut Fairness) {
        let Some(pool) = pass.world.pools.get(self.pool) else { return };
        if self.got > 0 {
            return;
        }
        for (_, place) in self.tiers.iter().flatten() {
            if let Some(provider) = pass.world.providers.get(place.provider) {
                memory.waits.insert((pool.name.clone(), provider.name.clone()), place.wait.saturating_add(1));
            }
        }
    }
}

/// One round of the allocator over the `round`-th tier of each pool.
fn share_out(pass: &mut Pass<'_>, wants: &mut [Want], round: usize) {
    let mut available = vec![0_i64; pass.world.providers.len()];
    let mut labels = Vec::with_capacity(wants.len());
    for want in wants.iter() {
        let mut allowed = 0_i64;
        let mut places = Vec::new();
        for &(offer, place) in want.tier(round) {
            let here = pass.room.offer_allows(want.pool, offer);
            if here <= 0 {
                continue;
            }
            allowed = allowed.saturating_add(here);
            places.push(place);
            if let Some(most) = available.get_mut(place.provider) {
                *most = (*most).max(pass.room.provider_allows(want.pool, offer));
            }
        }
        let amount = want.open.min(u32::try_from(allowed).unwrap_or(u32::MAX));
        labels.push(Label { amount, places: if amount > 0 { places } else { Vec::new() } });
    }
    for grant in distribute(&available, &labels) {
        let Some(want) = wants.get_mut(grant.label) else { continue };
        let offer =
            want.tier(round).iter().find(|(_, place)| place.provider == grant.provider).map(|&(offer, _)| offer);
        let Some(offer) = offer else { continue };
        for _ in 0..grant.amount {
            if !want.launch(pass, offer) {
                break;
            }
        }
    }
}

/// Lets those who still lack nodes take what room the tier has left, one node each in turn: who waited longest first,
/// then who has the fewest places to turn to.
fn sweep(pass: &mut Pass<'_>, wants: &mut [Want], round: usize) {
    let mut turns: Vec<usize> = (0..wants.len()).collect();
    turns.sort_by_key(|&turn| {
        wants.get(turn).map(|want| (Reverse(want.wait()), want.tiers.iter().map(Vec::len).sum::<usize>()))
    });
    while !turns.is_empty() {
        turns.retain(|&turn| {
            let Some(want) = wants.get_mut(turn) else { return false };
            let emptiest = want
                .tier(round)
                .iter()
                .filter(|&&(offer, _)| want.open > 0 && pass.room.times(want.pool, offer) > 0)
                .map(|&(offer, place)| (pass.room.share(place.provider), offer))
                .reduce(|best, other| {
                    let crosswise = |one: (i64, i64), two: (i64, i64)| i128::from(one.0) * i128::from(two.1);
                    if crosswise(other.0, best.0) > crosswise(best.0, other.0) { other } else { best }
                });
            emptiest.is_some_and(|(_, offer)| want.launch(pass, offer))
        });
    }
}

/// Why a pool that lacks nodes gets no more: what its favourite provider says, with what the others say.
fn why_unmet(pass: &Pass<'_>, index: usize) -> Option<Blocked> {
    let pool = pass.world.pools.get(index)?;
    if pool.paused {
        return Some(Why::PoolPaused(pool).blocked());
    }
    let mut offers: Vec<usize> = (0..pool.offers.len()).collect();
    offers.sort_by_key(|&offer| pool.offers.get(offer).map(|found| found.priority));
    let mut told: Vec<Blocked> = Vec::new();
    for blocked in offers.into_iter().filter_map(|offer| pass.room.why_not(index, offer)).map(|why| why.blocked()) {
        if !told.contains(&blocked) {
            told.push(blocked);
        }
    }
    let messages: Vec<String> = told.iter().map(|blocked| blocked.message.clone()).collect();
    let reason = told.first().map_or(super::reasons::NO_PROVIDER, |blocked| blocked.reason);
    let message = if messages.is_empty() { format!("pool {} has no provider", pool.name) } else { few(&messages) };
    Some(Blocked { reason, message })
}
