//! `kill -9` at every call by which a version is made, tried and promoted and an old one goes: before the call, and after
//! its effect (rules 7, 9, 10 and 14).
//!
//! Each lane has a world with two good versions and asks for the next one again and again. Whatever call the operator
//! died at, the end is the same: one new version is current, the one before is kept, and nothing else is left. So one
//! world serves many kills.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use kube::ResourceExt;
use nodepool_operator::api::{DiskImage, ImageState, PoolNode, ProviderImage};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::flights::Flights;
use crate::stage::{image, image_id, ours, rebuild, snapshot, states, status, versions};
use crate::support::{
    Call, CrashPoint, Hook, Killer, Moment, Namespace, Operator, Proxy, SimulatorOptions, Verdict, World, crash_at,
};
use crate::url::{Files, bytes, hex, source};

/// Worlds that are played in at once: they wait most of their time.
const LANES: usize = 10;
/// How long the next version may take, with a crash on the way, on a machine that runs the others too.
const SCENE: Duration = Duration::from_secs(60);
/// How long after it the call that was to be hit may still come: lists and reports go on, and a list comes every two seconds.
const AFTERWARDS: Duration = Duration::from_secs(3);
/// Between two looks at the world.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a call that changes something is hit: a version has two servers. Of one that only asks or tells, the first is.
const OF_CHANGES: u32 = 2;
const OF_OTHERS: u32 = 1;
/// Each of these is a step of the version.
const STEPS: &str = "PATCH providerimages/status";
const OF_STEPS: u32 = 4;
/// What only tells: no later step looks at it.
const TELLS: [&str; 3] = ["CREATE events", "PATCH events", "PATCH providers/status"];
/// No slot to spare: a server too many is seen at once.
const MAX_SERVERS: u64 = 1;
/// Plays one point only, as printed when it failed.
const REPLAY: &str = "CRASH_POINT";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Kubernetes,
    Cloud,
}

/// A call on the way to the next version; its ordinal counts from the moment it is asked for.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Killed there, and the end was as it must be.
    Survived,
    /// There was no such call this time: how often a status is written depends on how fast the machine is.
    NotReached,
    Failed,
}

/// A world with two good versions of its only image.
struct Stage {
    world: World,
    api: Proxy,
    cloud: Proxy,
    flights: Flights,
    /// Kills the operator that was started last.
    killer: Killer,
    /// The failure that was answered by correcting the spec.
    corrected: Value,
    asked: u32,
}

fn operator(namespace: &Namespace, api: &Proxy) -> (Operator, Killer) {
    let operator =
        Operator::for_namespace(namespace).kubeconfig(api.kubeconfig()).arg("--full-list-interval=2s").start();
    let killer = operator.killer();
    (operator, killer)
}

impl Stage {
    async fn set(source: &Value, boots: u32) -> Self {
        let namespace = Namespace::new().await;
        let api = Proxy::before_api_server(namespace.plane()).await;
        let cloud = Proxy::before_cloud().await;
        let simulator = ["--boot-time=0s", "--delete-time=0s", "--run-commands"].into_iter();
        let simulator = simulator.fold(SimulatorOptions::default(), SimulatorOptions::arg).start_behind(&cloud).await;
        simulator.secret(&namespace, "a").await;
        let spec = json!({
            "cloud": {"secretRef": {"name": "a"}, "cloudName": simulator.cloud_name()},
            "maxServers": MAX_SERVERS, "requestsPerSecond": 1000, "launchTimeout": "4s", "bootTimeout": "20s",
        });
        let flights = Flights::watch(&namespace);
        let (operator, killer) = operator(&namespace, &api);
        let mut world = World::of(namespace, operator, "a", SCENE);
        world.clouds.push(simulator);
        world.apply("Provider", "a", spec).await;
        image(&world, "ci", source.clone(), json!({"validation": {"boots": boots}})).await;
        states(&world, "ci", &[ImageState::Ready]).await;
        rebuild(&world, "ci", "the second").await;
        states(&world, "ci", &[ImageState::Ready; 2]).await;
        Self { world, api, cloud, flights, killer, corrected: Value::Null, asked: 0 }
    }

    /// Plays the way to the next version, with a kill at one call of it.
    async fn play(&mut self, kill: Option<&Point>) -> Result<bool, String> {
        let before = self.good().await.pop().ok_or("no version to begin with")?;
        let hit = Arc::new(AtomicBool::new(false));
        self.api.reset();
        self.cloud.reset();
        if let Some(point) = kill {
            let proxy = if point.side == Side::Kubernetes { &self.api } else { &self.cloud };
            proxy.set_hook(noted(crash_at(point.at.clone(), self.killer.clone()), Arc::clone(&hit)));
        }
        self.asked += 1;
        rebuild(&self.world, "ci", &self.asked.to_string()).await;
        self.reach(&before).await?;
        let late = Instant::now() + AFTERWARDS;
        while kill.is_some() && !hit.load(Ordering::SeqCst) && Instant::now() < late {
            sleep(PAUSE).await;
        }
        self.api.clear_hook();
        self.cloud.clear_hook();
        // A kill at the last moment is seen only now.
        self.reach(&before).await?;
        Ok(hit.load(Ordering::SeqCst))
    }

    async fn reach(&mut self, before: &ProviderImage) -> Result<(), String> {
        let end = Instant::now() + SCENE;
        loop {
            self.revive()?;
            self.correct().await;
            match self.ended(before).await {
                Ok(()) => break,
                Err(why) if Instant::now() >= end => return Err(format!("not reached in {SCENE:?}: {why}")),
                Err(_) => sleep(PAUSE).await,
            }
        }
        let highest = self.world.highest(0).await;
        if highest > MAX_SERVERS {
            return Err(format!("maxServers was passed: {highest} servers at once"));
        }
        match self.flights.highest() {
            highest if highest.of_one <= 1 => Ok(()),
            highest => Err(format!("{highest:?} versions of one image were in flight")),
        }
    }

    /// As the kubelet does.
    fn revive(&mut self) -> Result<(), String> {
        match self.world.operator.program().exit_status() {
            None => Ok(()),
            Some(status) if status.signal() == Some(9) => {
                (self.world.operator, self.killer) = operator(&self.world.namespace, &self.api);
                Ok(())
            }
            Some(status) => Err(format!("the operator ended by itself: {status}")),
        }
    }

    /// A person who sees a failure corrects the spec, and no pause passes before the next attempt.
    async fn correct(&mut self) {
        let failure = status(&self.world, "ci").await["lastFailure"].clone();
        if failure.is_null() || failure == self.corrected {
            return;
        }
        self.corrected = failure;
        let hours = self.world.get::<DiskImage>("ci").await.metadata.generation.unwrap() % 100 + 1;
        self.world.patch::<DiskImage>("ci", json!({"spec": {"buildTimeout": format!("{hours}h")}})).await;
    }

    async fn good(&self) -> Vec<ProviderImage> {
        let mut versions = versions(&self.world, "ci").await;
        versions.retain(|version| version.state() == ImageState::Ready);
        versions
    }

    /// The newest of before is the previous one now; nothing but the two is left anywhere.
    async fn ended(&self, before: &ProviderImage) -> Result<(), String> {
        let versions = versions(&self.world, "ci").await;
        let [previous, current] = &versions[..] else { return Err(format!("versions: {}", shown(&versions))) };
        let both = [previous, current].map(ProviderImage::state) == [ImageState::Ready; 2];
        if !both || previous.name_any() != before.name_any() {
            return Err(format!("versions: {}", shown(&versions)));
        }
        let seen = status(&self.world, "ci").await;
        let told = [&seen["current"], &seen["previous"], &seen["rebuildRequestedAt"]]
            == [&json!(current.name_any()), &json!(previous.name_any()), &json!(self.asked.to_string())];
        if !told || !seen["lastFailure"].is_null() || !seen["failures"].is_null() {
            return Err(format!("status: {seen}"));
        }
        let nodes: Vec<String> =
            self.world.namespace.list::<PoolNode>().await.iter().map(ResourceExt::name_any).collect();
        let cloud = self.world.clouds[0].state().await;
        let left = json!([nodes, cloud["servers"]["existing"], cloud["keyPairs"]]);
        if left != json!([[], 0, 0]) {
            return Err(format!("nodes, servers and key pairs left: {left}"));
        }
        let mut images: Vec<String> =
            ours(&self.world, 0).await.iter().map(|image| image["id"].as_str().unwrap().to_owned()).collect();
        let mut recorded = vec![image_id(previous), image_id(current)];
        images.sort_unstable();
        recorded.sort_unstable();
        if images == recorded { Ok(()) } else { Err(format!("images {images:?}, recorded {recorded:?}")) }
    }

    /// The calls of the last way that are hit.
    fn points(&self) -> Vec<Point> {
        let of = |side, proxy: &Proxy| {
            let calls: Vec<Call> = proxy.calls().into_iter().filter(is_hit).collect();
            calls.into_iter().flat_map(move |call| {
                [false, true].map(|after| {
                    let at = CrashPoint { signature: call.signature.clone(), ordinal: call.ordinal, after };
                    Point { side, at }
                })
            })
        };
        of(Side::Kubernetes, &self.api).chain(of(Side::Cloud, &self.cloud)).collect()
    }

    fn log(&self) -> String {
        let log = self.world.operator.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

fn shown(versions: &[ProviderImage]) -> String {
    let shown = versions.iter().map(|version| json!([version.name_any(), version.state(), version.status]).to_string());
    shown.collect::<Vec<_>>().join(", ")
}

/// A watch goes on all the time, and has no end to be hit at.
fn is_hit(call: &Call) -> bool {
    let asks = ["GET ", "LIST ", "HEAD "].iter().any(|verb| call.signature.starts_with(verb));
    let most = match call.signature.as_str() {
        signature if signature.starts_with("WATCH ") => 0,
        STEPS => OF_STEPS,
        signature if asks || TELLS.contains(&signature) => OF_OTHERS,
        _ => OF_CHANGES,
    };
    call.ordinal <= most
}

/// Remembers that the hook did something.
fn noted(hook: Hook, hit: Arc<AtomicBool>) -> Hook {
    Arc::new(move |call: &Call, moment: Moment| {
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

/// Plays one kill after the other in one world, or in another when one of them ended badly.
async fn lane(mut stage: Stage, left: &Mutex<Vec<Point>>, source: &Value, boots: u32) -> Vec<(Point, Outcome)> {
    let mut outcomes = Vec::new();
    loop {
        let next = left.lock().unwrap().pop();
        let Some(point) = next else { return outcomes };
        let began = Instant::now();
        let outcome = match stage.play(Some(&point)).await {
            Ok(true) => Outcome::Survived,
            Ok(false) => Outcome::NotReached,
            Err(why) => {
                println!("FAILED {REPLAY}='{point}': {why}\n{}", stage.log());
                stage = Stage::set(source, boots).await;
                Outcome::Failed
            }
        };
        println!("{:5.1?} {point}", began.elapsed());
        outcomes.push((point, outcome));
    }
}

async fn killed_at_every_call(source: Value, boots: u32) {
    let mut stages = join_all((0..LANES).map(|_| Stage::set(&source, boots))).await;
    if let Err(why) = stages[0].play(None).await {
        panic!("undisturbed: {why}\n{}", stages[0].log());
    }
    let mut points = stages[0].points();
    if let Ok(only) = std::env::var(REPLAY) {
        points.retain(|point| point.to_string() == only);
    }
    let started = Instant::now();
    let left = Mutex::new(points);
    let outcomes = join_all(stages.into_iter().map(|stage| lane(stage, &left, &source, boots))).await.concat();
    report(&outcomes, started.elapsed());
}

fn report(outcomes: &[(Point, Outcome)], took: Duration) {
    let mut covered = BTreeMap::<(Side, &str), usize>::new();
    for (point, outcome) in outcomes {
        *covered.entry((point.side, &point.at.signature)).or_default() += usize::from(*outcome == Outcome::Survived);
    }
    println!("{} crash points in {took:.1?}; survived:", outcomes.len());
    covered.iter().for_each(|((side, signature), count)| println!("  {count:4} {side:?} {signature}"));
    let of =
        |wanted| outcomes.iter().filter(move |(_, outcome)| *outcome == wanted).map(|(point, _)| point.to_string());
    println!("not reached: {:#?}", of(Outcome::NotReached).collect::<Vec<_>>());
    let failures: Vec<String> = of(Outcome::Failed).collect();
    assert!(failures.is_empty(), "{} of {} crash points: {failures:#?}", failures.len(), outcomes.len());
    // Events of one kind are told together when they come close to each other: how often follows from the machine.
    let vanished: Vec<_> =
        covered.iter().filter(|((_, signature), count)| **count == 0 && !TELLS.contains(signature)).collect();
    assert!(vanished.is_empty(), "never reached: {vanished:?}");
    assert!(!outcomes.is_empty(), "no such point");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_call_of_a_snapshot() {
    killed_at_every_call(snapshot("true"), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_call_of_an_upload() {
    let disk = bytes(300_000);
    let (_, base) = Files::serve(vec![("disk.raw", disk.clone())]).await;
    let checksum = json!({"value": hex(&disk)});
    killed_at_every_call(source(format!("{base}/disk.raw"), checksum), 0).await;
}
