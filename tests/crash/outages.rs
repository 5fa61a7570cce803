//! An API server that lies, hangs, refuses, forgets and disappears: the operator believes only what is proven.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nodepool_operator::api::provider::LaunchFence;
use serde_json::{Value, json};

use crate::story::{Cast, MIN_READY, Scene, Stage};
use crate::support::{Hook, Moment, Verdict, eventually};

const SCENE: Duration = Duration::from_secs(60);
const PATIENT: &str = "30s";
/// How long the API server is gone.
const OUTAGE: Duration = Duration::from_secs(10);
/// Which calls in a row are refused: one in three.
const EVERY: u32 = 3;

fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

fn mutates(signature: &str) -> bool {
    ["CREATE ", "UPDATE ", "PATCH ", "DELETE "].iter().any(|verb| signature.starts_with(verb))
}

/// Rule 2: only a clear 201 gives the right to boot.
async fn a_record_whose_create_was_not_answered_clearly_is_never_booted(fence: LaunchFence) {
    let stage = Stage::set(PATIENT, fence).await;
    let made = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&made);
    stage.api.set_hook(Arc::new(move |call, moment| {
        let done = call.signature == "CREATE poolnodes" && moment == Moment::After(201);
        count.fetch_add(u32::from(done), Ordering::SeqCst);
        // The first and the third: an error of the server after it had written, and an answer that got lost.
        let verdict = match (done, call.ordinal) {
            (true, 1) => Verdict::Answer(503, failure(503, "ServiceUnavailable")),
            (true, 3) => Verdict::Cut,
            _ => Verdict::Pass,
        };
        Box::pin(async move { verdict })
    }));
    let mut cast = Cast::new(&stage, vec![stage.operator().start()]);
    cast.reach(Scene::Filled, SCENE).await.unwrap();
    let booted = stage.servers("servers?deleted=true").await.len() as u32;
    assert_eq!((made.load(Ordering::SeqCst), booted), (MIN_READY as u32 + 2, MIN_READY as u32));
}

async fn calls_that_hang_are_given_up_and_delay_no_other(fence: LaunchFence) {
    let stage = Stage::set(PATIENT, fence).await;
    stage.api.set_hook(Arc::new(|call, moment| {
        let hangs = (call.signature == "CREATE poolnodes" && call.ordinal == 2 && moment == Moment::Before)
            || (call.signature == "PATCH poolnodes/status" && call.ordinal == 1 && matches!(moment, Moment::After(_)));
        Box::pin(async move { if hangs { std::future::pending().await } else { Verdict::Pass } })
    }));
    let mut cast = Cast::new(&stage, vec![stage.operator().start()]);
    cast.play(SCENE).await.unwrap();
}

async fn conflicts_and_refusals_are_decided_anew(fence: LaunchFence) {
    let stage = Stage::set(PATIENT, fence).await;
    stage.api.set_hook(Arc::new(|call, moment| {
        let hit = moment == Moment::Before && mutates(&call.signature) && call.ordinal % EVERY == 1;
        let verdict = match call.ordinal % 2 {
            _ if !hit => Verdict::Pass,
            0 => Verdict::Answer(409, failure(409, "Conflict")),
            _ => Verdict::Answer(500, failure(500, "InternalError")),
        };
        Box::pin(async move { verdict })
    }));
    let mut cast = Cast::new(&stage, vec![stage.operator().start()]);
    cast.play(SCENE).await.unwrap();
}

/// Admission, a quota of objects: what is refused for one slot is not asked for the next at once, and the next.
async fn records_that_are_refused_are_asked_for_more_and_more_slowly(fence: LaunchFence) {
    let stage = Stage::set(PATIENT, fence).await;
    stage.api.set_hook(Arc::new(|call, moment| {
        let refused = call.signature == "CREATE poolnodes" && moment == Moment::Before;
        let verdict = if refused { Verdict::Answer(403, failure(403, "Forbidden")) } else { Verdict::Pass };
        Box::pin(async move { verdict })
    }));
    let mut cast = Cast::new(&stage, vec![stage.operator().start()]);
    let asked = || stage.api.count("CREATE poolnodes") as usize;
    eventually(SCENE, || async {
        if asked() >= MIN_READY { Ok(()) } else { Err(format!("{} of {MIN_READY} asked for", asked())) }
    })
    .await;
    tokio::time::sleep(OUTAGE).await;
    let probes = asked() - MIN_READY;
    assert!((1..=2).contains(&probes), "{probes} probes in {OUTAGE:?}, of which the first is due after five");
    stage.api.clear_hook();
    cast.reach(Scene::Filled, SCENE).await.unwrap();
}

/// Each watch is refused with 410, ended by a 410 within it, cut, and cut again in mid-stream before each scene.
async fn watches_that_are_cut_or_expired_begin_anew_and_miss_nothing(fence: LaunchFence) {
    let stage = Stage::set(PATIENT, fence).await;
    stage.api.set_hook(broken_watches());
    let mut cast = Cast::new(&stage, vec![stage.operator().start()]);
    for scene in Scene::ALL {
        stage.begin(scene).await;
        stage.api.cut_all();
        cast.reach(scene, SCENE).await.unwrap();
        // A list after the cut, and one after each refusal.
        eventually(SCENE, || async {
            let lists = stage.api.count("LIST poolnodes");
            if lists > 2 { Ok(()) } else { Err(format!("{lists} lists")) }
        })
        .await;
    }
}

fn broken_watches() -> Hook {
    Arc::new(|call, moment| {
        let watch = call.signature.starts_with("WATCH ") && moment == Moment::Before;
        let verdict = match (watch, call.ordinal) {
            (true, 1) => Verdict::Answer(410, failure(410, "Expired")),
            (true, 2) => Verdict::Answer(200, json!({"type": "ERROR", "object": failure(410, "Expired")})),
            (true, 3) => Verdict::Cut,
            _ => Verdict::Pass,
        };
        Box::pin(async move { verdict })
    })
}

/// machine-controller-manager deleted every machine when its API server came back (gardener/machine-controller-manager
/// #657): what cannot be seen is not gone.
async fn while_the_api_server_is_away_nothing_is_deleted_and_work_goes_on_after(fence: LaunchFence) {
    let stage = Stage::set(PATIENT, fence).await;
    let mut cast = Cast::new(&stage, vec![stage.operator().start()]);
    cast.reach(Scene::Filled, SCENE).await.unwrap();
    let before = stage.servers("servers?deleted=true").await;
    stage.api.set_hook(Arc::new(|_, _| Box::pin(async { Verdict::Cut })));
    stage.api.cut_all();
    let refused = stage.api.calls().len();
    tokio::time::sleep(OUTAGE).await;
    assert!(stage.api.calls().len() > refused, "the operator tried to reach it");
    stage.api.clear_hook();
    cast.reach(Scene::Filled, SCENE).await.unwrap();
    assert_eq!(stage.servers("servers?deleted=true").await, before, "the outage made or took a server");
    for scene in [Scene::Served, Scene::Released] {
        stage.begin(scene).await;
        cast.reach(scene, SCENE).await.unwrap();
    }
}

/// The same for the cloud: a node that cannot be seen is neither replaced nor handed out twice.
async fn while_the_cloud_is_away_nothing_is_deleted_and_work_goes_on_after(fence: LaunchFence) {
    let stage = Stage::set(PATIENT, fence).await;
    let mut cast = Cast::new(&stage, vec![stage.operator().start()]);
    cast.reach(Scene::Filled, SCENE).await.unwrap();
    let before = stage.servers("servers?deleted=true").await;
    stage.cloud.set_hook(Arc::new(|_, _| Box::pin(async { Verdict::Cut })));
    stage.cloud.cut_all();
    tokio::time::sleep(OUTAGE / 2).await;
    stage.cloud.clear_hook();
    cast.reach(Scene::Filled, SCENE).await.unwrap();
    assert_eq!(stage.servers("servers?deleted=true").await, before, "the outage made or took a server");
    for scene in [Scene::Served, Scene::Released] {
        stage.begin(scene).await;
        cast.reach(scene, SCENE).await.unwrap();
    }
}

with_and_without_a_fence!(
    a_record_whose_create_was_not_answered_clearly_is_never_booted,
    calls_that_hang_are_given_up_and_delay_no_other,
    conflicts_and_refusals_are_decided_anew,
    records_that_are_refused_are_asked_for_more_and_more_slowly,
    watches_that_are_cut_or_expired_begin_anew_and_miss_nothing,
    while_the_api_server_is_away_nothing_is_deleted_and_work_goes_on_after,
    while_the_cloud_is_away_nothing_is_deleted_and_work_goes_on_after,
);
