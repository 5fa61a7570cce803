//! `kill -9` at every call of the story, before the call and after its effect.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use crate::story::{Cast, Scene, Stage};
use crate::support::{Call, CrashPoint, Hook, Killer, Proxy, Verdict, crash_at};

/// How many stories play at once: they wait most of their time.
const AT_ONCE: usize = 16;
/// How long a scene may take, with a crash in it, on a machine that runs the others too.
const SCENE: Duration = Duration::from_secs(60);
/// How long after the story the call that was to be hit may still come: lists and reports go on.
const AFTERWARDS: Duration = Duration::from_secs(4);
const LAUNCH_TIMEOUT: &str = "4s";
/// Plays one point only, as printed when it failed.
const REPLAY: &str = "CRASH_POINT";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Kubernetes,
    Cloud,
}

#[derive(Clone, Debug)]
struct Point {
    side: Side,
    at: CrashPoint,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = if self.at.after { "after" } else { "before" };
        write!(f, "{:?} {} #{} {moment}", self.side, self.at.signature, self.at.ordinal)
    }
}

enum Outcome {
    /// Killed there, and the story ended well.
    Survived,
    /// The story had no such call this time: how often a status is written depends on how fast the machine is.
    NotReached,
    Failed(String),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_call_nothing_is_doubled_lost_or_left() {
    let points = points(&undisturbed().await);
    let only = std::env::var(REPLAY).ok();
    let points: Vec<Point> =
        points.into_iter().filter(|point| only.as_ref().is_none_or(|only| *only == point.to_string())).collect();
    assert!(!points.is_empty(), "no such point");
    let started = Instant::now();
    let outcomes: Vec<(Point, Outcome)> = futures::stream::iter(points)
        .map(|point| async move {
            let played = tokio::spawn(survive(point.clone())).await;
            (point, played.unwrap_or_else(|panicked| Outcome::Failed(panicked.to_string())))
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    report(&outcomes, started.elapsed());
}

/// The calls of the story when nothing happens.
async fn undisturbed() -> Vec<(Side, Call)> {
    let stage = Stage::set(LAUNCH_TIMEOUT).await;
    let mut cast = Cast::new(&stage, vec![stage.operator().start()]);
    if let Err(why) = cast.play(SCENE).await {
        panic!("the undisturbed story: {why}\n{}", cast.logs(100));
    }
    let of = |side, proxy: &Proxy| proxy.calls().into_iter().map(move |call| (side, call)).collect::<Vec<_>>();
    [of(Side::Kubernetes, &stage.api), of(Side::Cloud, &stage.cloud)].concat()
}

fn points(calls: &[(Side, Call)]) -> Vec<Point> {
    let point = |side: Side, call: &Call, after| Point {
        side,
        at: CrashPoint { signature: call.signature.clone(), ordinal: call.ordinal, after },
    };
    calls.iter().flat_map(|(side, call)| [false, true].map(|after| point(*side, call, after))).collect()
}

async fn survive(point: Point) -> Outcome {
    let stage = Stage::set(LAUNCH_TIMEOUT).await;
    let killer = Killer::default();
    let proxy = match point.side {
        Side::Kubernetes => &stage.api,
        Side::Cloud => &stage.cloud,
    };
    let hit = Arc::new(AtomicBool::new(false));
    proxy.set_hook(noted(crash_at(point.at.clone(), killer.clone()), Arc::clone(&hit)));
    let mut cast = Cast::new(&stage, vec![stage.operator().killer(killer).start()]);
    let mut played = cast.play(SCENE).await;
    let end = Instant::now() + AFTERWARDS;
    while played.is_ok() && !hit.load(Ordering::SeqCst) && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if played.is_ok() && hit.load(Ordering::SeqCst) && cast.restarts == 0 {
        played = cast.reach(Scene::Released, SCENE).await;
    }
    match played {
        Err(why) => Outcome::Failed(format!("{why}\n{}", cast.logs(60))),
        Ok(()) if hit.load(Ordering::SeqCst) => Outcome::Survived,
        Ok(()) => Outcome::NotReached,
    }
}

/// Remembers that the hook did something.
fn noted(hook: Hook, hit: Arc<AtomicBool>) -> Hook {
    Arc::new(move |call, moment| {
        let (verdict, hit) = (hook(call, moment), Arc::clone(&hit));
        Box::pin(async move {
            let verdict = verdict.await;
            if matches!(verdict, Verdict::Cut) {
                hit.store(true, Ordering::SeqCst);
            }
            verdict
        })
    })
}

fn report(outcomes: &[(Point, Outcome)], took: Duration) {
    let failures: Vec<_> = outcomes
        .iter()
        .filter_map(|(point, outcome)| match outcome {
            Outcome::Failed(why) => Some((point, why)),
            _ => None,
        })
        .collect();
    let missed: Vec<&Point> =
        outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::NotReached)).map(|(point, _)| point).collect();
    let mut covered = BTreeMap::<(Side, &str), usize>::new();
    for (point, outcome) in outcomes {
        *covered.entry((point.side, &point.at.signature)).or_default() +=
            usize::from(matches!(outcome, Outcome::Survived));
    }
    println!(
        "{} crash points in {:.0?}: {} failures, {} did not come this time",
        outcomes.len(),
        took,
        failures.len(),
        missed.len()
    );
    covered.iter().for_each(|((side, signature), count)| println!("  {count:4} {side:?} {signature}"));
    missed.iter().for_each(|point| println!("  not reached: {point}"));
    for (point, why) in failures.iter().take(5) {
        println!("FAILED {REPLAY}='{point}': {why}");
    }
    let names: Vec<String> = failures.iter().map(|(point, _)| point.to_string()).collect();
    assert!(failures.is_empty(), "{} of {} crash points: {names:#?}", names.len(), outcomes.len());
    // What always comes was always hit; reports and polls may differ in number, not vanish.
    let vanished: Vec<_> = covered.iter().filter(|(_, count)| **count == 0).collect();
    assert!(vanished.is_empty(), "never reached: {vanished:?}");
}
