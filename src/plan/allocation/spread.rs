//! A request whose nodes may be anywhere: each goes where it is ready, will be ready, or fits best.
//!
//! What does not fit now is kept room for wherever it could be, and holds up nobody where somebody must mend
//! something first.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::pass::Pass;
use super::reasons;
use super::requests::{Demand, Need, Outcome, Short, building, missing, never, stand_aside};
use super::room::Why;
use super::together::few;
use super::world::{Blocked, Provider};

/// Serves a request over all providers, as far as that goes.
pub(super) fn serve(pass: &mut Pass<'_>, demand: &Demand, short: &mut Vec<Short>) -> Outcome {
    if demand.needs.iter().all(|need| ready(pass, need.pool) >= u64::from(need.left)) {
        demand.claim_all(pass, |pass, pool| {
            let offer =
                by_liking(pass, pool).into_iter().find(|&offer| pass.stock.shelf(pool, offer).ready.len() > 0)?;
            pass.stock.take_ready(pool, offer)
        });
        return Outcome::Served;
    }
    let mut needs = demand.needs.clone();
    needs.sort_by_key(|need| places(pass, need.pool));
    let lacking: Vec<&Need> = needs.iter().filter(|need| pass.stock.free(need.pool) < need.left).collect();
    if let Some((limits, missing)) = exceeded(pass, demand, &lacking) {
        return never(pass, demand, format!("it can never be served: {limits}"), missing);
    }
    if let Some(obstacle) = lacking.iter().find_map(|need| obstacle(pass, need.pool)) {
        if obstacle.passes {
            for need in &needs {
                gather(pass, need, demand.rank);
            }
        } else {
            stand_aside(pass, &demand.needs);
        }
        return Outcome::Waiting(obstacle.blocked);
    }
    let mut verdict = None;
    for (index, need) in needs.iter().enumerate() {
        let missing = gather(pass, need, demand.rank);
        let rest = (0..missing).skip_while(|_| launch_one(pass, need.pool)).count();
        if let Some(rest) = u32::try_from(rest).ok().filter(|&rest| rest > 0) {
            let (why, seen) = keep_room(pass, need.pool, rest, demand.rank);
            let movable: Vec<usize> =
                needs.iter().skip(index + 1).map(|need| need.pool).filter(|&pool| places(pass, pool) > 1).collect();
            short.extend(seen.into_iter().map(|seen| Short { movable: movable.clone(), ..seen }));
            verdict = verdict.or(why);
        }
    }
    verdict.map_or_else(|| building(demand.left(), ""), Outcome::Waiting)
}

/// How many providers have a free node of the pool, or could ever hold one, as things stand. Who has the fewest chooses
/// first.
fn places(pass: &Pass<'_>, pool: usize) -> usize {
    let offers = pass.world.pools.get(pool).map_or(0, |pool| pool.offers.len());
    let has_some = |offer| {
        let shelf = pass.stock.shelf(pool, offer);
        shelf.ready.len() > 0 || shelf.coming.len() > 0
    };
    let could_hold =
        |offer| pass.room.obstacle(pool, offer).is_none() && most_at(pass, pool, offer).is_some_and(|most| most > 0);
    (0..offers).filter(|&offer| has_some(offer) || could_hold(offer)).count()
}

fn ready(pass: &Pass<'_>, pool: usize) -> u64 {
    pass.stock.of_pool(pool).iter().map(|shelf| u64::from(shelf.ready.len())).sum()
}

/// A pool's offers, the one it likes best first, the emptiest first among equals.
fn by_liking(pass: &Pass<'_>, pool: usize) -> Vec<usize> {
    let Some(found) = pass.world.pools.get(pool) else { return Vec::new() };
    let mut offers: Vec<usize> = (0..found.offers.len()).collect();
    offers.sort_by_key(|&offer| {
        let place = found.offers.get(offer);
        let (free, most) = place.map_or((0, 1), |place| pass.room.share(place.provider));
        let parts = free.saturating_mul(1_000_000) / most;
        (place.map(|place| place.priority), Reverse(parts), offer)
    });
    offers
}

/// Sets aside what is there of one pool, ready nodes of all providers first, and says how many are missing.
fn gather(pass: &mut Pass<'_>, need: &Need, rank: u32) -> u32 {
    let offers = by_liking(pass, need.pool);
    let mut missing = need.left;
    for &offer in &offers {
        let ready = pass.stock.shelf(need.pool, offer).ready.len().min(missing);
        missing = missing.saturating_sub(pass.stock.reserve(need.pool, offer, ready, rank));
    }
    for &offer in &offers {
        missing = missing.saturating_sub(pass.stock.reserve(need.pool, offer, missing, rank));
    }
    missing
}

fn launch_one(pass: &mut Pass<'_>, pool: usize) -> bool {
    let best = by_liking(pass, pool).into_iter().find(|&offer| pass.room.times(pool, offer) > 0);
    best.is_some_and(|offer| pass.create(pool, offer))
}

/// Keeps room for what does not fit at every provider where it could be, and says why it does not fit.
fn keep_room(pass: &mut Pass<'_>, pool: usize, rest: u32, rank: u32) -> (Option<Blocked>, Vec<Short>) {
    let usable: Vec<usize> =
        by_liking(pass, pool).into_iter().filter(|&offer| pass.room.obstacle(pool, offer).is_none()).collect();
    let whys: Vec<Blocked> =
        usable.iter().filter_map(|&offer| pass.room.why_not(pool, offer)).map(|why| why.blocked()).collect();
    let messages: Vec<String> = whys.iter().map(|why| why.message.clone()).collect();
    let seen = usable.iter().filter_map(|&offer| Short::seen(pass, rank, pool, offer)).collect();
    for &offer in &usable {
        // Not more than could ever be there: the rest of that room is others'.
        let most = most_at(pass, pool, offer).unwrap_or(0);
        pass.room.promise_offer(pool, offer, rest.min(u32::try_from(most).unwrap_or(u32::MAX)));
    }
    pass.room.promise_pool(pool, rest);
    let message = format!("{} ({rest} more to launch)", few(&messages));
    (whys.first().map(|why| Blocked { reason: why.reason, message }), seen)
}

/// Why nothing of a pool is launched anywhere, whatever the room.
struct Obstacle {
    blocked: Blocked,
    passes: bool,
}

fn obstacle(pass: &Pass<'_>, pool: usize) -> Option<Obstacle> {
    let mut found: Option<Why<'_>> = None;
    for offer in by_liking(pass, pool) {
        let why = pass.room.obstacle(pool, offer)?;
        if found.as_ref().is_none_or(|found| !found.passes_with_time() && why.passes_with_time()) {
            found = Some(why);
        }
    }
    let Some(why) = found else {
        let name = pass.world.pools.get(pool).map_or("?", |pool| pool.name.as_str());
        let blocked = Blocked { reason: reasons::NO_COMMON_PROVIDER, message: format!("pool {name} has no provider") };
        return Some(Obstacle { blocked, passes: false });
    };
    Some(Obstacle { blocked: why.blocked(), passes: why.passes_with_time() })
}

/// Of more pools than that, not every choice is looked at, for there are too many: each alone, and all together.
const CHOICES: usize = 5;

/// Which limit the request exceeds even if everything were empty, and which missing provider could change that. A pool
/// without a provider may yet get one.
fn exceeded(pass: &Pass<'_>, demand: &Demand, lacking: &[&Need]) -> Option<(String, Option<Blocked>)> {
    let (mut limits, mut hopeful) = (Vec::new(), None);
    for need in &demand.needs {
        let pool = pass.world.pools.get(need.pool).filter(|pool| !pool.offers.is_empty())?;
        let over = pool.max_nodes.filter(|&most| need.whole > most && is_among(lacking, need));
        if let Some(most) = over {
            limits.push(format!("{} nodes of pool {}, but its maxNodes is {most}", need.whole, pool.name));
        }
    }
    for choice in choices(&demand.needs) {
        if !choice.iter().any(|need| is_among(lacking, need)) {
            continue;
        }
        let left = choice.iter().fold(0_i64, |sum, need| sum.saturating_add(i64::from(need.left)));
        let most = most_of(pass, &choice);
        if left > most {
            let names: Vec<&str> = choice
                .iter()
                .filter_map(|need| pass.world.pools.get(need.pool))
                .map(|pool| pool.name.as_str())
                .collect();
            let (pools, whose) = if names.len() > 1 { ("pools", "their") } else { ("pool", "its") };
            let limit = format!(
                "{left} nodes of {pools} {}, but {whose} providers could never hold more than {most}",
                names.join(", ")
            );
            let Some(missing) = missing(pass, choice.iter().copied()) else {
                limits.push(limit);
                break;
            };
            hopeful = hopeful.or(Some((limit, Some(missing))));
        }
    }
    if limits.is_empty() { hopeful } else { Some((few(&limits), None)) }
}

fn is_among(lacking: &[&Need], need: &Need) -> bool {
    lacking.iter().any(|lacking| lacking.pool == need.pool)
}

/// The pools that may be too much together: fewest first.
fn choices(needs: &[Need]) -> Vec<Vec<&Need>> {
    if needs.len() > CHOICES {
        return needs.iter().map(|need| vec![need]).chain([needs.iter().collect()]).collect();
    }
    let chosen =
        |choice: u32| needs.iter().enumerate().filter(move |(at, _)| choice >> at & 1 == 1).map(|(_, need)| need);
    let mut choices: Vec<Vec<&Need>> = (1..1_u32 << needs.len()).map(|choice| chosen(choice).collect()).collect();
    choices.sort_by_key(Vec::len);
    choices
}

/// The most nodes of these pools that empty providers would hold: each provider what it has slots for, and no more than
/// the pools may have there. What is free there now counts in any case: it may be smaller than what would be launched.
fn most_of(pass: &Pass<'_>, needs: &[&Need]) -> i64 {
    let mut at: BTreeMap<usize, (i64, i64)> = BTreeMap::new();
    for need in needs {
        let offers = pass.world.pools.get(need.pool).map_or(&[][..], |pool| &pool.offers);
        for (number, offer) in offers.iter().enumerate() {
            let shelf = pass.stock.shelf(need.pool, number);
            let free = i64::from(shelf.ready.len()) + i64::from(shelf.coming.len());
            let (most, there) = at.entry(offer.provider).or_default();
            *most = most.saturating_add(most_at(pass, need.pool, number).unwrap_or(0).max(free));
            *there = there.saturating_add(free);
        }
    }
    at.into_iter().fold(0, |sum, (provider, (most, there))| {
        let servers = pass.world.providers.get(provider).map_or(0, servers);
        sum.saturating_add(most.min(servers.max(there)))
    })
}

/// The most servers that a provider may ever have.
fn servers(provider: &Provider) -> i64 {
    i64::from(provider.max_servers).min(provider.max_instances.unwrap_or(i64::MAX)).max(0)
}

/// The most nodes of a pool that an empty provider would hold.
fn most_at(pass: &Pass<'_>, pool: usize, offer: usize) -> Option<i64> {
    let place = pass.world.pools.get(pool)?.offers.get(offer)?;
    let provider = pass.world.providers.get(place.provider)?;
    let cost = pass.room.cost(pool, offer).unwrap_or_default();
    let fit = |most: Option<i64>, each: i64| match most {
        Some(most) if each > 0 => most.max(0) / each,
        _ => i64::MAX,
    };
    let capped = servers(provider).min(place.max_nodes.map_or(i64::MAX, i64::from));
    Some(capped.min(fit(provider.max_cores, cost.cores)).min(fit(provider.max_ram_mib, cost.ram_mib)))
}
