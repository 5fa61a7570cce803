//! Two operators: both leading by force, and one after the other by the lease.

use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams};
use nodepool_operator::api::provider::LaunchFence;
use serde_json::json;
use tokio::time::Instant;

use crate::chaos::Dice;
use crate::story::{Cast, Scene, Stage};
use crate::support::{Hook, Moment, Operator, Verdict, eventually};

const SCENE: Duration = Duration::from_secs(60);
/// Two that lead at once see each other's boots; neither may give up the other's while it is under way.
const PATIENT: &str = "30s";
/// How long a standby takes over after a leader that fell silent: the lease's 15 s and a look at it.
const TAKE_OVER: Duration = Duration::from_secs(20);
/// How long a hand-over may take.
const HAND_OVER: Duration = Duration::from_secs(2);
/// How long a leader may take to notice that it is none: one renewal, or all that its deadline allows.
const LOSS: Duration = Duration::from_secs(12);
const LEASE: &str = "nodepool-operator";
/// Exit code of a process that lost its lease.
const LEADERSHIP_LOST: i32 = 3;

/// After how many calls of the first operator the second one starts, and the seed of how their calls are delayed.
const MEETINGS: [(usize, u64); 8] = [(0, 1), (1, 2), (8, 3), (15, 4), (22, 5), (30, 6), (45, 7), (60, 8)];

async fn two_that_lead_at_once_double_nothing(fence: LaunchFence) {
    let played: Vec<_> = futures::stream::iter(MEETINGS)
        .map(|(calls, seed)| async move { (calls, seed, tokio::spawn(both_lead(calls, seed, fence)).await) })
        .buffer_unordered(MEETINGS.len())
        .collect()
        .await;
    let mut failed = 0;
    for (calls, seed, outcome) in played {
        if let Err(why) = outcome.unwrap_or_else(|panicked| Err(panicked.to_string())) {
            failed += 1;
            println!("FAILED after {calls} calls, seed {seed}: {why}");
        }
    }
    assert_eq!(failed, 0, "of {} meetings", MEETINGS.len());
}

async fn both_lead(calls: usize, seed: u64, fence: LaunchFence) -> Result<(), String> {
    let stage = Stage::set(PATIENT, fence).await;
    stage.api.set_hook(delayed(seed));
    stage.cloud.set_hook(delayed(seed + 1000));
    let first = stage.operator().start();
    eventually(SCENE, || async {
        let made = stage.api.calls().len();
        if made >= calls { Ok(()) } else { Err(format!("{made} calls of {calls}")) }
    })
    .await;
    let second = stage.operator().start();
    let mut cast = Cast::new(&stage, vec![first, second]);
    match cast.play(SCENE).await {
        Ok(()) => Ok(()),
        Err(why) => Err(format!("{why}\n{}", cast.logs(60))),
    }
}

/// Delays every answer a little, so that what two operators do falls together differently with each seed.
fn delayed(seed: u64) -> Hook {
    Arc::new(move |call, moment| {
        let dice = Dice::of(seed, call, moment);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(dice.number(0) % 25)).await;
            Verdict::Pass
        })
    })
}

/// A leader and a standby.
async fn pair(stage: &Stage) -> (Arc<Operator>, Operator) {
    let leader = Arc::new(stage.operator().leader_election().start());
    says(&leader, "elected", SCENE).await;
    let standby = stage.operator().leader_election().start();
    standby.ready(SCENE).await;
    (leader, standby)
}

async fn says(operator: &Operator, word: &str, deadline: Duration) {
    eventually(deadline, || async {
        let said = operator.log().lines().any(|line| line.contains(word) && line.contains("lease"));
        if said { Ok(()) } else { Err(format!("nobody said {word:?}")) }
    })
    .await;
}

fn lost_its_lease(status: ExitStatus, operator: &Operator) {
    assert_eq!(status.code(), Some(LEADERSHIP_LOST), "{}", operator.log());
}

async fn a_standby_acts_soon_after_the_leader_was_killed(fence: LaunchFence) {
    let stage = Stage::set("4s", fence).await;
    let (leader, standby) = pair(&stage).await;
    leader.kill9();
    let killed = Instant::now();
    says(&standby, "elected", TAKE_OVER).await;
    let mut cast = Cast::new(&stage, vec![standby]);
    cast.play(SCENE).await.unwrap();
    println!("took over and played on within {:.1?}", killed.elapsed());
}

async fn a_leader_that_is_asked_to_end_hands_over_at_once(fence: LaunchFence) {
    let stage = Stage::set(PATIENT, fence).await;
    let (leader, standby) = pair(&stage).await;
    // In the middle of its work.
    eventually(SCENE, || async {
        let made = stage.api.count("CREATE poolnodes");
        if made > 0 { Ok(()) } else { Err("no node yet".to_owned()) }
    })
    .await;
    leader.sigterm();
    says(&standby, "elected", HAND_OVER).await;
    let status = leader.wait_exit(HAND_OVER).await;
    assert!(status.success(), "{status}: {}", leader.log());
    Cast::new(&stage, vec![standby]).play(SCENE).await.unwrap();
}

async fn a_leader_whose_lease_is_gone_or_stolen_ends(fence: LaunchFence) {
    let stage = Stage::set(PATIENT, fence).await;
    let leases = stage.namespace.api::<Lease>();
    let (leader, standby) = pair(&stage).await;
    leases.delete(LEASE, &DeleteParams::default()).await.unwrap();
    // The standby may be as fast as the leader's next renewal: that one ends either way.
    lost_its_lease(leader.wait_exit(LOSS).await, &leader);
    says(&standby, "elected", LOSS).await;
    let thief = json!({"spec": {"holderIdentity": "thief", "renewTime": "2026-01-01T00:00:00.000000Z"}});
    leases.patch(LEASE, &PatchParams::default(), &Patch::Merge(thief)).await.unwrap();
    lost_its_lease(standby.wait_exit(LOSS).await, &standby);
}

/// Stopped when the answer to its first record arrives, and woken when another leads: the permit is of no use then.
async fn a_leader_that_slept_longer_than_its_lease_boots_nothing_when_it_wakes(fence: LaunchFence) {
    let stage = Stage::set("4s", fence).await;
    let sleeper = Arc::new(OnceLock::<Arc<Operator>>::new());
    stage.api.set_hook(asleep_after_its_first_record(Arc::clone(&sleeper)));
    let leader = Arc::new(stage.operator().leader_election().start());
    assert!(sleeper.set(Arc::clone(&leader)).is_ok());
    says(&leader, "elected", SCENE).await;
    let standby = stage.operator().leader_election().start();
    says(&standby, "elected", SCENE).await;
    let mut cast = Cast::new(&stage, vec![standby]);
    cast.reach(Scene::Filled, SCENE).await.unwrap();
    let boots = boots(&stage);
    leader.program().signal("CONT");
    lost_its_lease(leader.wait_exit(Duration::from_secs(10)).await, &leader);
    assert_eq!(self::boots(&stage), boots, "it sent a boot request after it woke:\n{}", leader.log());
    cast.reach(Scene::Filled, SCENE).await.unwrap();
}

fn boots(stage: &Stage) -> u32 {
    stage.cloud.count("POST /compute/v2.1/servers")
}

fn asleep_after_its_first_record(sleeper: Arc<OnceLock<Arc<Operator>>>) -> Hook {
    let done = Arc::new(AtomicBool::new(false));
    Arc::new(move |call, moment| {
        let there = call.signature == "CREATE poolnodes" && matches!(moment, Moment::After(201));
        let first = there && !done.swap(true, Ordering::SeqCst);
        let sleeper = Arc::clone(&sleeper);
        Box::pin(async move {
            if first {
                sleeper.wait().program().signal("STOP");
            }
            Verdict::Pass
        })
    })
}

with_and_without_a_fence!(
    two_that_lead_at_once_double_nothing,
    a_standby_acts_soon_after_the_leader_was_killed,
    a_leader_that_is_asked_to_end_hands_over_at_once,
    a_leader_whose_lease_is_gone_or_stolen_ends,
    a_leader_that_slept_longer_than_its_lease_boots_nothing_when_it_wakes,
);
