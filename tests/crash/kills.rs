//! `kill -9` at every call of the story, before the call and after its effect.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use nodepool_operator::api::provider::LaunchFence;
use tokio::time::Instant;

use crate::story::{Cast, Scene, Stage};
use crate::support::{Call, CrashPoint, Hook, Moment, Namespace, Verdict, crash_at};

/// How many stories play at once: they wait most of their time.
const AT_ONCE: usize = 10;
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

/// A call of one scene; its ordinal counts from the scene's begin.
#[derive(Clone, Debug)]
struct Point {
    fence: LaunchFence,
    scene: Scene,
    side: Side,
    at: CrashPoint,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = if self.at.after { "after" } else { "before" };
        let Self { fence, scene, side, at } = self;
        write!(f, "{fence:?} {scene:?} {side:?} {} #{} {moment}", at.signature, at.ordinal)
    }
}

#[derive(Debug)]
enum Outcome {
    /// Killed there, and the scene ended as it must.
    Survived,
    /// The scene had no such call this time: how often a status is written depends on how fast the machine is.
    NotReached,
    Failed,
}

/// One point of each scene at most, for one story.
type Kills = Vec<Point>;

async fn killed_at_every_call_nothing_is_doubled_lost_or_left(fence: LaunchFence) {
    let only = std::env::var(REPLAY).ok();
    if only.as_ref().is_some_and(|only| !only.starts_with(&format!("{fence:?} "))) {
        return;
    }
    let mut points = undisturbed(fence).await;
    if let Some(only) = only {
        points.retain(|point| point.to_string() == only);
        assert!(!points.is_empty(), "no such point");
    }
    let count = points.len();
    let stories = stories(points);
    println!("{count} crash points in {} stories", stories.len());
    let started = Instant::now();
    let left = Arc::new(Mutex::new(stories));
    let lanes = (0..AT_ONCE).map(|_| tokio::spawn(lane(Arc::clone(&left))));
    let outcomes: Vec<_> = join_all(lanes).await.into_iter().flat_map(Result::unwrap).collect();
    report(&outcomes, started.elapsed());
}

/// The calls of the story when nothing happens.
async fn undisturbed(fence: LaunchFence) -> Vec<Point> {
    let stage = Stage::set(LAUNCH_TIMEOUT, fence).await;
    let mut cast = Cast::new(&stage, vec![stage.operator().start()]);
    let mut points = Vec::new();
    for scene in Scene::ALL {
        stage.begin(scene).await;
        if let Err(why) = cast.reach(scene, SCENE).await {
            panic!("the undisturbed story: {why}\n{}", cast.logs(100));
        }
        for (side, proxy) in [(Side::Kubernetes, &stage.api), (Side::Cloud, &stage.cloud)] {
            let calls = proxy.calls();
            points.extend(calls.iter().filter(|call| is_hit(call)).flat_map(|call| both(fence, scene, side, call)));
        }
    }
    points
}

fn is_hit(call: &Call) -> bool {
    call.ordinal <= OF_REPEATED || !REPEATED.contains(&call.signature.as_str())
}

fn both(fence: LaunchFence, scene: Scene, side: Side, call: &Call) -> [Point; 2] {
    let at = |after| CrashPoint { signature: call.signature.clone(), ordinal: call.ordinal, after };
    [false, true].map(|after| Point { fence, scene, side, at: at(after) })
}

/// As each scene ends as if nothing had happened, the next can have its own kill: fewer stories for all points.
fn stories(points: Vec<Point>) -> Vec<Kills> {
    let mut stories = Vec::<Kills>::new();
    for scene in Scene::ALL {
        for (number, point) in points.iter().filter(|point| point.scene == scene).enumerate() {
            match stories.get_mut(number) {
                Some(kills) => kills.push(point.clone()),
                None => stories.push(vec![point.clone()]),
            }
        }
    }
    stories
}

/// Plays one story after the other in one namespace.
async fn lane(left: Arc<Mutex<Vec<Kills>>>) -> Vec<(Point, Outcome)> {
    let mut namespace = Arc::new(Namespace::new().await);
    let mut outcomes = Vec::new();
    loop {
        let next = left.lock().unwrap().pop();
        let Some(kills) = next else { return outcomes };
        let played = tokio::spawn(survive(kills.clone(), Arc::clone(&namespace))).await;
        let played = played.unwrap_or_else(|panicked| {
            println!("FAILED in the story of {kills:?}: {panicked}");
            kills.into_iter().map(|point| (point, Outcome::Failed)).collect()
        });
        if played.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed)) {
            // What is left there must not disturb the next one.
            namespace = Arc::new(Namespace::new().await);
        }
        outcomes.extend(played);
    }
}

async fn survive(kills: Kills, namespace: Arc<Namespace>) -> Vec<(Point, Outcome)> {
    let stage = Stage::set_in(namespace, LAUNCH_TIMEOUT, kills[0].fence).await;
    let mut cast = Cast::new(&stage, Vec::new());
    let mut outcomes = Vec::new();
    for scene in Scene::ALL {
        let point = kills.iter().find(|point| point.scene == scene).cloned();
        let hit = Arc::new(AtomicBool::new(false));
        stage.begin(scene).await;
        if let Some(point) = &point {
            let proxy = if point.side == Side::Kubernetes { &stage.api } else { &stage.cloud };
            proxy.set_hook(noted(crash_at(point.at.clone(), cast.next_killer()), Arc::clone(&hit)));
        }
        if cast.operators.is_empty() {
            cast.start();
        }
        let reached = end(&mut cast, scene, point.is_some().then_some(&hit)).await;
        stage.api.clear_hook();
        stage.cloud.clear_hook();
        let Some(point) = point else {
            if let Err(why) = reached {
                panic!("{scene:?} without a kill: {why}\n{}", cast.logs(60));
            }
            continue;
        };
        if let Err(why) = reached {
            println!("FAILED {REPLAY}='{point}': {why}\n{}", cast.logs(60));
            outcomes.push((point, Outcome::Failed));
            return outcomes;
        }
        let outcome = if hit.load(Ordering::SeqCst) { Outcome::Survived } else { Outcome::NotReached };
        outcomes.push((point, outcome));
    }
    drop(cast);
    stage.clear().await;
    outcomes
}

/// Plays a scene to its end; when the call that is to be hit did not come yet, it may come a little later.
async fn end(cast: &mut Cast<'_>, scene: Scene, hit: Option<&Arc<AtomicBool>>) -> Result<(), String> {
    cast.reach(scene, SCENE).await?;
    let late = Instant::now() + AFTERWARDS;
    while let Some(hit) = hit {
        if hit.load(Ordering::SeqCst) || Instant::now() >= late {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A kill at the last moment is seen by the supervisor only now.
    cast.reach(scene, SCENE).await
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
        outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failed)).map(|(point, _)| point).collect();
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

/// A call that no undisturbed story makes: it closes the fence of a boot request that got lost. Only that can free the
/// slot in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_closes_a_fence() {
    for after in [false, true] {
        let stage = Stage::set("10m", LaunchFence::Port).await;
        let mut cast = Cast::new(&stage, Vec::new());
        let signature = "PUT /network/v2.0/ports/{id}".to_owned();
        let kill = crash_at(CrashPoint { signature, ordinal: 1, after }, cast.next_killer());
        stage.cloud.set_hook(Arc::new(move |call, moment| {
            let boot = call.signature == "POST /compute/v2.1/servers" && moment == Moment::Before;
            let lost = boot && call.ordinal == 1;
            if lost { Box::pin(async { Verdict::Cut }) } else { kill(call, moment) }
        }));
        cast.start();
        cast.play(SCENE).await.unwrap_or_else(|why| panic!("killed after: {after}: {why}\n{}", cast.logs(60)));
        assert_eq!(cast.restarts, 1, "{}", cast.logs(60));
    }
}

with_and_without_a_fence!(killed_at_every_call_nothing_is_doubled_lost_or_left);
