//! The poller and the view against a cloud that changes.

use super::*;
use crate::cloud::poller::{PollHandle, PollSettings, Poller, SharedView, ViewUpdate};
use crate::cloud::view::View;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::timeout;

const DETAIL: &str = "/compute/v2.1/servers/detail";
const SOON: Duration = Duration::from_secs(10);

/// What the next lists answer.
type State = Arc<Mutex<Reply>>;

fn server(id: &str, status: &str) -> Value {
    json!({"id": id, "name": id, "status": status, "updated": "2126-11-22T10:00:00Z",
           "metadata": {"nodepool_owner": "me", "nodepool_record": "r", "nodepool_provider": "ns/one"}})
}

fn answer(servers: &[Value]) -> Reply {
    Reply::Json(200, json!({"servers": servers}))
}

fn changing(first: Reply) -> (Fake, State) {
    let state: State = Arc::new(Mutex::new(first));
    let now = state.clone();
    (Fake::start(move |seen| seen.is("GET", DETAIL).then(|| now.lock().unwrap().clone())), state)
}

fn quick() -> PollSettings {
    PollSettings {
        moving: Duration::from_millis(20),
        idle: Duration::from_secs(3600),
        gap: Duration::from_millis(1),
        fallback: Duration::from_millis(30),
        first_backoff: Duration::from_millis(20),
        longest_backoff: Duration::from_millis(50),
        ..PollSettings::default()
    }
}

fn start(fake: &Fake, settings: PollSettings) -> (PollHandle, Receiver<ViewUpdate>) {
    let (sender, updates) = channel(16);
    let view = SharedView::new(View::new("me", "ns/one"));
    let (poller, handle) = Poller::new(Arc::new(cloud(fake)), view, settings, sender);
    tokio::spawn(poller.run());
    (handle, updates)
}

async fn next(updates: &mut Receiver<ViewUpdate>) -> ViewUpdate {
    timeout(SOON, updates.recv()).await.expect("an update").expect("a poller")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_full_list_first_then_only_what_changed() {
    let (fake, state) = changing(answer(&[server("a", "BUILD")]));
    let (handle, mut updates) = start(&fake, quick());
    let first = next(&mut updates).await;
    assert!(first.full && first.delta.changed == ["a"], "{first:?}");
    handle.set_moving(true);
    until("it polls while something moves", || fake.count("GET", DETAIL) > 5).await;
    assert!(updates.try_recv().is_err(), "nothing changed, nothing is said");
    *state.lock().unwrap() = answer(&[server("a", "ACTIVE")]);
    let second = next(&mut updates).await;
    assert!(!second.full && second.delta.changed == ["a"], "{second:?}");
    *state.lock().unwrap() = answer(&[server("a", "DELETED")]);
    assert_eq!(next(&mut updates).await.delta.gone, ["a"]);
    assert!(handle.view().read().is_gone("a"));
    let queries: Vec<bool> =
        fake.seen().iter().filter(|seen| seen.is("GET", DETAIL)).map(|seen| seen.query.is_empty()).collect();
    assert_eq!(queries.iter().filter(|full| **full).count(), 1);
}

#[tokio::test]
async fn idle_means_idle_and_demands_are_met_together() {
    let (fake, state) = changing(answer(&[]));
    let settings = PollSettings { gap: Duration::from_millis(300), ..quick() };
    let (handle, mut updates) = start(&fake, settings);
    next(&mut updates).await;
    *state.lock().unwrap() = answer(&[server("a", "ACTIVE")]);
    for _ in 0..50 {
        handle.refresh();
    }
    assert_eq!(next(&mut updates).await.delta.changed, ["a"]);
    assert_eq!(fake.count("GET", DETAIL), 2);
    handle.refresh_full();
    assert!(next(&mut updates).await.full);
    assert_eq!(fake.count("GET", DETAIL), 3);
}

#[tokio::test]
async fn failures_are_told_backed_off_and_healed() {
    let (fake, state) = changing(Reply::Text(403, "<html>Traceback</html>".into()));
    let (handle, mut updates) = start(&fake, quick());
    for _ in 0..3 {
        let error = next(&mut updates).await.error.expect("an error");
        assert_clean(&error);
    }
    assert_eq!(handle.view().read().last_full_at(), None);
    *state.lock().unwrap() = answer(&[]);
    loop {
        let update = next(&mut updates).await;
        if update.error.is_none() {
            assert!(update.full && update.delta.is_empty(), "the first success after failures is told");
            break;
        }
    }
    assert!(handle.view().read().last_full_at().is_some());
}

#[tokio::test]
async fn retry_after_is_longer_than_any_backoff() {
    let slow = vec![("Retry-After", "3000".to_owned())];
    let (fake, _) = changing(Reply::With(429, Value::Null, slow));
    let (handle, mut updates) = start(&fake, quick());
    let error = next(&mut updates).await.error.unwrap();
    assert_eq!(error.retry_after, Some(Duration::from_secs(3000)));
    handle.set_moving(true);
    handle.refresh();
    let quiet = timeout(Duration::from_millis(200), updates.recv()).await;
    assert!(quiet.is_err() && fake.count("GET", DETAIL) == 1);
}

#[tokio::test]
async fn without_changes_since_full_lists_do() {
    let fake = Fake::start(|seen| {
        seen.is("GET", DETAIL).then(|| match seen.query.is_empty() {
            true => answer(&[server("a", "ACTIVE")]),
            false => nova_fault(400, "badRequest", "Invalid filter changes-since"),
        })
    });
    let (handle, mut updates) = start(&fake, quick());
    handle.set_moving(true);
    for _ in 0..4 {
        let update = next(&mut updates).await;
        assert!(update.full && update.error.is_none(), "{update:?}");
    }
    let refused = fake.seen().iter().filter(|seen| !seen.query.is_empty()).count();
    assert_eq!(refused, 1, "asked once, not each time");
}

#[tokio::test]
async fn it_ends_with_its_last_handle() {
    let (fake, _) = changing(answer(&[]));
    let (handle, mut updates) = start(&fake, quick());
    next(&mut updates).await;
    drop(handle);
    assert_eq!(timeout(SOON, updates.recv()).await.expect("it ends"), None);
}
