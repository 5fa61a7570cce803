//! `kill -9` at every call of the story, before the call and after its effect.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use crate::story::{Cast, Scene, Stage};
use crate::support::{Call, CrashPoint, Hook, Killer, Namespace, Proxy, Verdict, crash_at};

/// How many stories play at once: they wait most of their time.
const AT_ONCE: usize = 6;
/// How long a scene may take, with a crash in it, on a machine that runs the others too.
const SCENE: Duration = Duration::from_secs(90);
/// How long after the story the call that was to be hit may still come: lists and reports go on.
const AFTERWARDS: Duration = Duration::from_secs(4);
/// Half of it must be enough for a boot on a machine that runs many stories.
const LAUNCH_TIMEOUT: &str = "8s";
/// Questions that are asked again and again, and reports that nothing waits for: only so many of each are hit. Every
/// other call is hit, however often the story makes it.
const REPEATED: [&str; 4] =
    ["GET /compute/v2.1/servers/detail", "GET /network/v2.0/ports", "GET /network/v2.0/floatingips", "CREATE events"];
const OF_REPEATED: u32 = 3;
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
    println!("{} crash points", points.len());
    let started = Instant::now();
    let left = Arc::new(Mutex::new(points));
    let lanes = (0..AT_ONCE).map(|_| tokio::spawn(lane(Arc::clone(&left))));
    let outcomes: Vec<_> = join_all(lanes).await.into_iter().flat_map(Result::unwrap).collect();
    report(&outcomes, started.elapsed());
}

/// Plays one point after the other in one namespace.
async fn lane(left: Arc<Mutex<Vec<Point>>>) -> Vec<(Point, Outcome)> {
    let mut namespace = Arc::new(Namespace::new().await);
    let mut outcomes = Vec::new();
    loop {
        let next = left.lock().unwrap().pop();
        let Some(point) = next else { return outcomes };
        let played = tokio::spawn(survive(point.clone(), Arc::clone(&namespace))).await;
        let outcome = played.unwrap_or_else(|panicked| Outcome::Failed(panicked.to_string()));
        if let Outcome::Failed(why) = &outcome {
            println!("FAILED {REPLAY}='{point}': {why}");
            // What is left there must not disturb the next one.
            namespace = Arc::new(Namespace::new().await);
        }
        outcomes.push((point, outcome));
    }
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
    let once = |call: &Call| call.ordinal <= OF_REPEATED || !REPEATED.contains(&call.signature.as_str());
    let calls = calls.iter().filter(|(_, call)| once(call));
    calls.flat_map(|(side, call)| [false, true].map(|after| point(*side, call, after))).collect()
}

async fn survive(point: Point, namespace: Arc<Namespace>) -> Outcome {
    let stage = Stage::set_in(namespace, LAUNCH_TIMEOUT).await;
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
    if let Err(why) = played {
        return Outcome::Failed(format!("{why}\n{}", cast.logs(60)));
    }
    drop(cast);
    stage.clear().await;
    if hit.load(Ordering::SeqCst) { Outcome::Survived } else { Outcome::NotReached }
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
    let failures: Vec<&Point> =
        outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).map(|(point, _)| point).collect();
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
    let names: Vec<String> = failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{} of {} crash points: {names:#?}", names.len(), outcomes.len());
    // What always comes was always hit; reports and polls may differ in number, not vanish.
    let vanished: Vec<_> = covered.iter().filter(|(_, count)| **count == 0).collect();
    assert!(vanished.is_empty(), "never reached: {vanished:?}");
}
