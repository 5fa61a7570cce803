//! The story with faults and kills by chance, each chance following from a printed seed.
//!
//! A few seeds run with the other tests; `make chaos` runs new ones for a given time. What a call meets depends on the
//! seed and on which call it is, not on when it comes, so a seed meets nearly the same again.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use nodepool_operator::api::provider::LaunchFence;
use serde_json::json;
use tokio::time::Instant;

use crate::story::{Cast, Stage};
use crate::support::{Call, Hook, Killer, Moment, Verdict};

/// The seeds that every run of the tests plays.
const SEEDS: u64 = 8;
/// Plays this seed only.
const SEED: &str = "CHAOS_SEED";
/// Plays new seeds for so many seconds.
const SECONDS: &str = "CHAOS_SECONDS";
const AT_ONCE: usize = 8;
const SCENE: Duration = Duration::from_secs(120);
/// Faults end after so many calls of each side, kills after so many: then the world must heal.
const CALLS: u64 = 150;
const KILLS: u32 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_chance() {
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let until = number(SECONDS).map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let first = match (number(SEED), until) {
        (Some(seed), _) => seed,
        (None, None) => 1,
        (None, Some(_)) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() * 1000,
    };
    let last = match (number(SEED), until) {
        (Some(seed), _) => seed,
        (None, None) => first + SEEDS - 1,
        (None, Some(_)) => u64::MAX,
    };
    let seeds = (first..=last).take_while(|_| until.is_none_or(|until| Instant::now() < until));
    let (mut played, mut failed) = (0, Vec::new());
    let mut stories = futures::stream::iter(seeds)
        .map(|seed| async move { (seed, tokio::spawn(story(seed)).await) })
        .buffer_unordered(AT_ONCE);
    while let Some((seed, outcome)) = stories.next().await {
        played += 1;
        if let Err(why) = outcome.unwrap_or_else(|panicked| Err(panicked.to_string())) {
            println!("FAILED, again with `make chaos {SEED}={seed}`: {why}");
            failed.push(seed);
        }
    }
    println!("chaos: {played} seeds from {first}, failed: {failed:?}");
    assert!(failed.is_empty(), "again with `make chaos {SEED}={}`", failed[0]);
}

async fn story(seed: u64) -> Result<(), String> {
    // Every other pair of seeds has a fence before each boot, every other seed a second operator that leads as well.
    let fence = if seed & 2 == 0 { LaunchFence::None } else { LaunchFence::Port };
    let stage = Stage::set("6s", fence).await;
    let operators = (0..=(seed + 1) % 2).map(|_| stage.operator().start()).collect();
    let mut cast = Cast::new(&stage, operators);
    let kills = Arc::new(AtomicU32::new(0));
    stage.api.set_hook(weather(seed, Arc::clone(&cast.latest), Arc::clone(&kills), true));
    stage.cloud.set_hook(weather(seed.wrapping_add(1 << 32), Arc::clone(&cast.latest), kills, false));
    match cast.play(SCENE).await {
        Ok(()) => Ok(()),
        Err(why) => Err(format!("{} restarts; {why}\n{}", cast.restarts, cast.logs(80))),
    }
}

/// What befalls a call.
fn weather(seed: u64, latest: Arc<Mutex<Killer>>, kills: Arc<AtomicU32>, kubernetes: bool) -> Hook {
    Arc::new(move |call, moment| {
        let dice = Dice::of(seed, call, moment);
        let calm = call.number > CALLS;
        let conflicts =
            kubernetes && ["CREATE ", "PATCH ", "DELETE "].iter().any(|verb| call.signature.starts_with(verb));
        let (latest, kills) = (Arc::clone(&latest), Arc::clone(&kills));
        Box::pin(async move {
            if calm {
                return Verdict::Pass;
            }
            tokio::time::sleep(Duration::from_millis(dice.number(1) % 30)).await;
            match dice.number(2) % 100 {
                0..3 => Verdict::Cut,
                3..5 => Verdict::Answer(503, json!({"message": "chaos"})),
                5 if conflicts && moment == Moment::Before => Verdict::Answer(
                    409,
                    json!({"kind": "Status", "code": 409, "reason": "Conflict", "message": "chaos"}),
                ),
                6..8 if kills.fetch_add(1, Ordering::SeqCst) < KILLS => {
                    let killer = latest.lock().unwrap().clone();
                    tokio::task::spawn_blocking(move || killer.kill9()).await.unwrap();
                    Verdict::Cut
                }
                8 => {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    Verdict::Pass
                }
                _ => Verdict::Pass,
            }
        })
    })
}

/// Numbers that follow from a seed, a call and a moment.
pub struct Dice(u64);

impl Dice {
    pub fn of(seed: u64, call: &Call, moment: Moment) -> Self {
        let mut hasher = DefaultHasher::new();
        (seed, &call.signature, call.ordinal, matches!(moment, Moment::Before)).hash(&mut hasher);
        Self(hasher.finish())
    }

    pub fn number(&self, which: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.0, which).hash(&mut hasher);
        hasher.finish()
    }
}
