//! A pool of 1,000 nodes: how fast it fills, what it costs while nothing happens, how fast it serves, how it restarts.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;

use crate::account::{added, calls, listed, log, sum, writes};
use crate::statistics::{Runs, percentile};
use crate::support::eventually;
use crate::table::{Table, Target};
use crate::world::{Made, PATIENCE, World};
use crate::{Plan, process};

/// Takes in a second when each is looked at alone.
const MODERATE: f64 = 10.0;
/// Samples of one run of these.
const TAKES: u32 = 200;
/// The sustained rate that must be served, and for how long.
const SUSTAINED: f64 = 75.0;
const SUSTAINED_SECONDS: f64 = 10.0;
/// Between two rates of the search for the highest.
const STEP: f64 = 25.0;
/// Latencies that count as served.
const FAST: f64 = 50.0;
const SLOWEST: f64 = 250.0;
/// A world without change for so long is called quiet.
const QUIET: Duration = Duration::from_secs(10);
/// How long the stable world is looked at.
const STABLE: Duration = Duration::from_secs(60);

/// All figures of the usual pool.
pub async fn measure(plan: &Plan, table: &mut Table) {
    // Room for the nodes that are taken while their replacements boot.
    let mut world = World::start((plan.nodes * 4).min(10_000)).await;
    let mut rates = Runs::one(f64::from(plan.nodes) / world.scale(plan.nodes).await.as_secs_f64());
    sleep(QUIET).await;
    let resident = process::memory(world.operator.program().pid());
    stable(plan, &world, table).await;
    takes(plan, &world, table).await;
    requests(plan, &world, table).await;
    restarts(plan, &mut world, table).await;
    for _ in 1..plan.repeats {
        world.scale(0).await;
        rates.push(f64::from(plan.nodes) / world.scale(plan.nodes).await.as_secs_f64());
    }
    table.figure(&format!("fill 0 → {} nodes", plan.nodes), Target::AtLeast(50.0), " nodes/s", &rates);
    memory(table, plan.nodes, resident, 60.0);
    let (now, peak) = process::memory(world.operator.program().pid());
    table.told("… after all of the above", format!("{now:.1} MB now, {peak:.1} MB at most"));
    world.clear().await;
}

/// Memory at ten times the nodes.
pub async fn measure_large(plan: &Plan, table: &mut Table) {
    let world = World::start(plan.large).await;
    let took = world.scale(plan.large).await;
    sleep(QUIET).await;
    let pid = world.operator.program().pid();
    let resident = process::memory(pid);
    let cpu = process::cpu(pid);
    sleep(QUIET).await;
    let cpu = (process::cpu(pid) - cpu).as_secs_f64() / QUIET.as_secs_f64() * 100.0;
    memory(table, plan.large, resident, 150.0);
    table.told(
        &format!("… fill 0 → {} nodes", plan.large),
        format!("{:.1} nodes/s", f64::from(plan.large) / took.as_secs_f64()),
    );
    table.told("… processor while nothing happens", format!("{cpu:.1} % of a core"));
}

fn memory(table: &mut Table, nodes: u32, (resident, peak): (f64, f64), most: f64) {
    table.figure(&format!("resident memory at {nodes} nodes"), Target::AtMost(most), " MB", &Runs::one(resident));
    table.told("… at most while filling", format!("{peak:.1} MB"));
}

async fn stable(plan: &Plan, world: &World, table: &mut Table) {
    let client = world.namespace.client();
    let pid = world.operator.program().pid();
    let (calls_before, writes_before) = (calls(&world.cloud).await, writes(&client).await);
    let since = world.last_call().await;
    let cpu = process::cpu(pid);
    sleep(STABLE).await;
    let cpu = (process::cpu(pid) - cpu).as_secs_f64() / STABLE.as_secs_f64() * 100.0;
    let calls = added(&calls_before, &calls(&world.cloud).await);
    let writes = added(&writes_before, &writes(&client).await);
    let title = format!("stable world of {} nodes, 60 s: processor", plan.nodes);
    table.figure(&title, Target::AtMost(1.0), " % of a core", &Runs::one(cpu));
    let other = sum(&writes, |resource| resource != "leases");
    table.figure("… Kubernetes writes but the lease", Target::AtMost(0.0), "", &Runs::one(other));
    let mutating = sum(&calls, |name| ["create-", "delete-", "update-"].iter().any(|verb| name.starts_with(verb)));
    table.figure("… mutating calls to the cloud", Target::AtMost(0.0), "", &Runs::one(mutating));
    let pages = log(&world.cloud, since, "list-servers").await;
    let lists = pages.iter().filter(|page| !page["path"].as_str().unwrap().contains("marker=")).count();
    table.figure("… lists of servers; one every 30 s", Target::AtMost(2.0), "", &Runs::one(lists as f64));
    table.told("… pages of these; of 1000 servers at most", pages.len().to_string());
    table.told("… all calls, all writes", format!("{}; {}", listed(&calls, 1.0), listed(&writes, 1.0)));
}

/// Nodes are taken one by one, at a rate at which each is served alone.
async fn takes(plan: &Plan, world: &World, table: &mut Table) {
    let mut replaced = [Runs::default(), Runs::default()];
    let mut shown = [Runs::default(), Runs::default()];
    for run in 0..plan.repeats {
        let since = world.last_call().await;
        let made = world.request(&format!("take{run}"), MODERATE, TAKES).await;
        world.fulfilled(&made).await;
        world.settled(plan.nodes, plan.nodes + TAKES).await;
        let posts = log(&world.cloud, since, "create-server").await;
        assert_eq!(posts.len(), made.len(), "each taken node is replaced once");
        let times: Vec<Timestamp> = posts.iter().map(asked_at).collect();
        // The first take brings the first replacement: at this rate they keep their order.
        let to_post: Vec<f64> =
            made.iter().zip(&times).map(|(made, post)| milliseconds(made.returned, *post)).collect();
        let seen = world.board.seen().ready_at.clone();
        let to_ready: Vec<f64> = posts
            .iter()
            .zip(&times)
            .map(|(call, active)| milliseconds(*active, seen[call["subjectId"].as_str().unwrap()]) / 1000.0)
            .collect();
        push(&mut replaced, &to_post);
        push(&mut shown, &to_ready);
        world.release(plan.nodes).await;
    }
    let [p50, p99] = replaced;
    table.figure("node taken → replacement's POST at the cloud, p50", Target::AtMost(100.0), " ms", &p50);
    table.figure("… p99", Target::AtMost(1000.0), " ms", &p99);
    let [p50, p99] = shown;
    table.figure("server ACTIVE and answering → Ready in status, p50", Target::AtMost(1.5), " s", &p50);
    table.told("… p99", p99.shown(" s"));
}

fn push([middle, high]: &mut [Runs; 2], samples: &[f64]) {
    middle.push(percentile(samples, 0.5));
    high.push(percentile(samples, 0.99));
}

/// When the cloud received a call.
fn asked_at(call: &serde_json::Value) -> Timestamp {
    call["time"].as_str().unwrap().parse().unwrap()
}

fn milliseconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64() * 1000.0
}

async fn requests(plan: &Plan, world: &World, table: &mut Table) {
    let mut latencies = [Runs::default(), Runs::default()];
    let mut after = [Runs::default(), Runs::default()];
    for run in 0..plan.repeats {
        let (whole, answered) = burst(plan, world, &format!("burst{run}"), SUSTAINED).await;
        push(&mut latencies, &whole);
        push(&mut after, &answered);
    }
    let served = latencies[1].middle() <= SLOWEST;
    let [p50, p99] = latencies;
    table.figure(
        "requests fulfilled from ready nodes, 75/s for 10 s: creation sent → fulfilled seen, p50",
        Target::AtMost(FAST),
        " ms",
        &p50,
    );
    table.figure("… p99", Target::AtMost(SLOWEST), " ms", &p99);
    table.told(
        "… from the creation's answer on, p50, p99",
        format!("{}, {}", after[0].shown(" ms"), after[1].shown(" ms")),
    );
    let highest = if served { highest(plan, world, SUSTAINED).await } else { lower(plan, world).await };
    table.told("… highest rate for 10 s with p99 ≤ 250 ms", format!("{highest}/s"));
}

/// Up from a rate that is served, until one is not.
async fn highest(plan: &Plan, world: &World, mut served: f64) -> f64 {
    loop {
        let (latencies, _) = burst(plan, world, &format!("up{served}"), served + STEP).await;
        if percentile(&latencies, 0.99) > SLOWEST {
            return served;
        }
        served += STEP;
    }
}

/// Down from the wanted rate, until one is served.
async fn lower(plan: &Plan, world: &World) -> f64 {
    let mut rate = SUSTAINED;
    while rate > STEP {
        rate -= STEP / 2.0;
        let (latencies, _) = burst(plan, world, &format!("down{rate}"), rate).await;
        if percentile(&latencies, 0.99) <= SLOWEST {
            return rate;
        }
    }
    0.0
}

/// Ten seconds of requests at a rate: milliseconds from the sent creation, and from its answer, to the sight of the
/// fulfilled request. The nodes are released afterwards, and the pool is full again before this returns.
async fn burst(plan: &Plan, world: &World, prefix: &str, rate: f64) -> (Vec<f64>, Vec<f64>) {
    let prefix = prefix.replace('.', "-");
    let made = world.request(&prefix, rate, (rate * SUSTAINED_SECONDS) as u32).await;
    let times = world.fulfilled(&made).await;
    let since = |begin: fn(&Made) -> Timestamp| -> Vec<f64> {
        made.iter().zip(&times).map(|(made, seen)| milliseconds(begin(made), *seen)).collect()
    };
    let latencies = (since(|made| made.sent), since(|made| made.returned));
    eprintln!("  {rate}/s: p50 {:.0} ms, p99 {:.0} ms", percentile(&latencies.0, 0.5), percentile(&latencies.0, 0.99));
    world.release(plan.nodes).await;
    latencies
}

/// A request waits while nobody leads. The first claim needs all records, the first boot also the cloud's full list.
async fn restarts(plan: &Plan, world: &mut World, table: &mut Table) {
    let (mut claims, mut boots) = (Runs::default(), Runs::default());
    for run in 0..plan.repeats {
        world.stop_operator().await;
        let since = world.last_call().await;
        let made = world.request(&format!("restart{run}"), 1.0, 1).await;
        let begun = Timestamp::now();
        world.start_operator();
        let seen = world.fulfilled(&made).await;
        claims.push(milliseconds(begun, seen[0]) / 1000.0);
        let post = eventually(PATIENCE, || async {
            let posts = log(&world.cloud, since, "create-server").await;
            posts.first().map(asked_at).ok_or_else(|| "no replacement yet".to_owned())
        })
        .await;
        boots.push(milliseconds(begun, post) / 1000.0);
        world.release(plan.nodes).await;
    }
    let title = format!("restart at {} nodes → first boot (records and cloud listed)", plan.nodes);
    table.figure(&title, Target::AtMost(5.0), " s", &boots);
    table.told("… → first request served", claims.shown(" s"));
}
