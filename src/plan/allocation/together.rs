//! A request whose nodes must all be on one provider: which provider that is, and what is done there.
//!
//! Where everything is ready now comes first, then where it will be ready soonest. A provider that is full is waited
//! for in line; one that somebody must mend first is not, and holds up nobody else.

use super::pass::Pass;
use super::reasons;
use super::requests::{Demand, Need, Outcome, Short, building, missing, never, stand_aside};
use super::room::Why;
use super::world::{Blocked, Resources};

/// How well a provider could serve a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Everything is ready.
    Ready,
    /// Everything is there; some of it is still building.
    Coming,
    /// What is missing can be launched now.
    Fits,
    /// It will fit when others give back.
    Later,
    /// Something else than room is missing.
    Blocked,
}

/// A provider that every pool of the request offers.
struct Candidate<'w> {
    provider: usize,
    /// The offer of each need's pool.
    offers: Vec<usize>,
    class: Class,
    priority: i32,
    /// How many nodes are not there, or for [`Class::Coming`] not ready.
    missing: u64,
    share: (i64, i64),
    obstacle: Option<Why<'w>>,
}

/// Serves a request on one provider, as far as that goes.
pub(super) fn serve(pass: &mut Pass<'_>, demand: &Demand, short: &mut Vec<Short>) -> Outcome {
    let mut best: Option<Candidate<'_>> = None;
    let mut too_much = Vec::new();
    for (provider, offers) in common_providers(pass, demand) {
        let candidate = weigh(pass, demand, provider, offers);
        if candidate.class > Class::Fits
            && let Some(limit) = exceeded(pass, demand, &candidate)
        {
            too_much.push(limit);
            continue;
        }
        if best.as_ref().is_none_or(|best| candidate.is_better(best)) {
            best = Some(candidate);
        }
    }
    match best {
        Some(candidate) => settle(pass, demand, &candidate, short),
        None if too_much.is_empty() => {
            stand_aside(pass, &demand.needs);
            no_provider(pass, demand)
        }
        None => {
            let of = |need: &Need| pass.world.pools.get(need.pool).and_then(|pool| pool.max_nodes);
            let over = demand.needs.iter().any(|need| of(need).is_some_and(|most| need.whole > most));
            let missing = missing(pass, &demand.needs).filter(|_| !over);
            never(pass, demand, format!("it can never be served on one provider: {}", few(&too_much)), missing)
        }
    }
}

/// The first of many sentences.
pub(super) fn few(sentences: &[String]) -> String {
    let shown = sentences.get(..sentences.len().min(3)).unwrap_or_default().join("; ");
    match sentences.len().saturating_sub(3) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// The providers that every pool offers, with the offers.
fn common_providers(pass: &Pass<'_>, demand: &Demand) -> Vec<(usize, Vec<usize>)> {
    let Some(first) = demand.needs.first() else { return Vec::new() };
    let Some(pool) = pass.world.pools.get(first.pool) else { return Vec::new() };
    let mut common = Vec::new();
    for (index, offer) in pool.offers.iter().enumerate() {
        let provider = offer.provider;
        let wanted = demand.pinned.is_none_or(|pinned| pinned == provider);
        if !wanted || pass.offers.get(first.pool, provider) != Some(index) {
            continue;
        }
        let offers: Option<Vec<usize>> = demand.needs.iter().map(|need| pass.offers.get(need.pool, provider)).collect();
        common.extend(offers.map(|offers| (provider, offers)));
    }
    common
}

fn no_provider(pass: &Pass<'_>, demand: &Demand) -> Outcome {
    let names: Vec<&str> =
        demand.needs.iter().filter_map(|need| pass.world.pools.get(need.pool)).map(|pool| pool.name.as_str()).collect();
    let message = match (demand.pinned.and_then(|pinned| pass.world.providers.get(pinned)), names.as_slice()) {
        (Some(provider), _) => {
            format!("some of its nodes are on provider {}, which no longer serves it", provider.name)
        }
        (None, [pool]) => format!("pool {pool} has no provider"),
        (None, pools) => {
            format!("no provider serves all of {}; set spread: true or choose pools of one provider", pools.join(", "))
        }
    };
    Outcome::Waiting(Blocked { reason: reasons::NO_COMMON_PROVIDER, message })
}

fn weigh<'w>(pass: &Pass<'w>, demand: &Demand, provider: usize, offers: Vec<usize>) -> Candidate<'w> {
    let mut missing = Vec::new();
    let (mut absent, mut unready, mut priority, mut obstacle) = (0_u64, 0_u64, i32::MIN, None);
    for (need, &offer) in demand.needs.iter().zip(&offers) {
        let shelf = pass.stock.shelf(need.pool, offer);
        let not_ready = need.left.saturating_sub(shelf.ready.len());
        let lacking = not_ready.saturating_sub(shelf.coming.len());
        unready += u64::from(not_ready);
        absent += u64::from(lacking);
        let place = pass.world.pools.get(need.pool).and_then(|pool| pool.offers.get(offer));
        priority = priority.max(place.map_or(i32::MAX, |place| place.priority));
        if lacking > 0 {
            obstacle = obstacle.or_else(|| pass.room.obstacle(need.pool, offer));
            missing.push((need.pool, offer, lacking));
        }
    }
    let class = match (unready, absent, &obstacle) {
        (0, ..) => Class::Ready,
        (_, 0, _) => Class::Coming,
        (.., Some(_)) => Class::Blocked,
        (.., None) if fits(pass, provider, &missing) => Class::Fits,
        _ => Class::Later,
    };
    let missing = if class == Class::Coming { unready } else { absent };
    Candidate { provider, offers, class, priority, missing, share: pass.room.share(provider), obstacle }
}

/// Whether all that is missing can be launched now.
fn fits(pass: &Pass<'_>, provider: usize, missing: &[(usize, usize, u32)]) -> bool {
    let mut left = pass.room.open(provider);
    let mut launches = 0_i64;
    for &(pool, offer, count) in missing {
        if pass.room.times(pool, offer) < i64::from(count) {
            return false;
        }
        left = left.minus(pass.room.cost(pool, offer).unwrap_or_default(), i64::from(count));
        launches = launches.saturating_add(i64::from(count));
    }
    left.is_enough() && launches <= pass.room.gate_allows(provider)
}

impl Candidate<'_> {
    /// Class, then the provider that the pools like best, then the fewest nodes to wait for, then the emptiest. The
    /// first in the world stays among equals.
    fn is_better(&self, other: &Self) -> bool {
        let key = |candidate: &Self| (candidate.class, candidate.priority, candidate.missing);
        let emptier = || {
            let crosswise = |one: &Self, two: &Self| i128::from(one.share.0) * i128::from(two.share.1);
            crosswise(self, other) > crosswise(other, self)
                || (crosswise(self, other) == crosswise(other, self) && self.provider < other.provider)
        };
        key(self) < key(other) || (key(self) == key(other) && emptier())
    }
}

/// Which limit the request exceeds on a provider even if that were empty.
fn exceeded(pass: &Pass<'_>, demand: &Demand, candidate: &Candidate<'_>) -> Option<String> {
    let provider = pass.world.providers.get(candidate.provider)?;
    let whole = i64::try_from(demand.whole).unwrap_or(i64::MAX);
    if whole > i64::from(provider.max_servers) {
        return Some(format!(
            "{whole} nodes, but maxServers of provider {} is {}",
            provider.name, provider.max_servers
        ));
    }
    if let Some(most) = provider.max_instances.filter(|&most| whole > most) {
        let most = most.max(0);
        return Some(format!("{whole} nodes, but the cloud of provider {} grants us {most} servers", provider.name));
    }
    let mut total = Resources::default();
    for (need, &offer) in demand.needs.iter().zip(&candidate.offers) {
        if let Some(limit) = over_cap(pass, need, offer) {
            return Some(limit);
        }
        let cost = pass.room.cost(need.pool, offer).unwrap_or_default();
        let count = i64::from(need.whole);
        total.cores = total.cores.saturating_add(cost.cores.max(0).saturating_mul(count));
        total.ram_mib = total.ram_mib.saturating_add(cost.ram_mib.max(0).saturating_mul(count));
    }
    let over = |need: i64, most: Option<i64>, what: &str| {
        let most = most.filter(|&most| need > most)?.max(0);
        Some(format!("{need} {what}, but provider {} has {most} for us", provider.name))
    };
    over(total.cores, provider.max_cores, "cores")
        .or_else(|| over(total.ram_mib, provider.max_ram_mib, "MiB of memory"))
}

fn over_cap(pass: &Pass<'_>, need: &Need, offer: usize) -> Option<String> {
    let pool = pass.world.pools.get(need.pool)?;
    let over = |most: Option<u32>| most.filter(|&most| need.whole > most);
    if let Some(most) = over(pool.max_nodes) {
        return Some(format!("{} nodes of pool {}, but its maxNodes is {most}", need.whole, pool.name));
    }
    let place = pool.offers.get(offer)?;
    let most = over(place.max_nodes)?;
    let provider = pass.world.providers.get(place.provider).map_or("?", |provider| provider.name.as_str());
    Some(format!("{} nodes of pool {}, but its maxNodes on provider {provider} is {most}", need.whole, pool.name))
}

/// Does what can be done for a request on the provider chosen.
fn settle(pass: &mut Pass<'_>, demand: &Demand, candidate: &Candidate<'_>, short: &mut Vec<Short>) -> Outcome {
    let provider = pass.world.providers.get(candidate.provider).map_or("?", |provider| provider.name.as_str());
    match (candidate.class, &candidate.obstacle) {
        (Class::Ready, _) => {
            let at = candidate.provider;
            demand.claim_all(pass, |pass, pool| {
                let offer = pass.offers.get(pool, at)?;
                pass.stock.take_ready(pool, offer)
            });
            Outcome::Served
        }
        (Class::Blocked, Some(obstacle)) => {
            if obstacle.passes_with_time() {
                gather(pass, demand, candidate);
            } else {
                stand_aside(pass, &demand.needs);
            }
            Outcome::Waiting(obstacle.blocked())
        }
        _ => {
            let missing = gather(pass, demand, candidate);
            let why = launch(pass, demand.rank, &missing, short);
            why.unwrap_or_else(|| building(demand.left(), &format!(" on provider {provider}")))
        }
    }
}

/// Sets aside what is there, and says what is missing: pool, offer, count.
fn gather(pass: &mut Pass<'_>, demand: &Demand, candidate: &Candidate<'_>) -> Vec<(usize, usize, u32)> {
    let mut missing = Vec::new();
    for (need, &offer) in demand.needs.iter().zip(&candidate.offers) {
        let reserved = pass.stock.reserve(need.pool, offer, need.left, demand.rank);
        let lacking = need.left.saturating_sub(reserved);
        if lacking > 0 {
            missing.push((need.pool, offer, lacking));
        }
    }
    missing
}

/// Launches what fits of what is missing, keeps room for the rest, and says why there is a rest.
fn launch(pass: &mut Pass<'_>, rank: u32, missing: &[(usize, usize, u32)], short: &mut Vec<Short>) -> Option<Outcome> {
    let mut rest = Vec::new();
    for &(pool, offer, count) in missing {
        let launched = (0..count).take_while(|_| pass.create(pool, offer)).count();
        let lacking = count.saturating_sub(u32::try_from(launched).unwrap_or(u32::MAX));
        if lacking > 0 {
            rest.push((pool, offer, lacking));
        }
    }
    let &(pool, offer, _) = rest.first()?;
    let mut why = pass.room.why_not(pool, offer).map(|why| why.blocked())?;
    let total: u64 = rest.iter().map(|&(.., lacking)| u64::from(lacking)).sum();
    why.message = format!("{} ({total} more to launch)", why.message);
    short.extend(rest.iter().filter_map(|&(pool, offer, _)| Short::seen(pass, rank, pool, offer)));
    for (pool, offer, lacking) in rest {
        pass.room.promise_offer(pool, offer, lacking);
        pass.room.promise_pool(pool, lacking);
    }
    Some(Outcome::Waiting(why))
}
