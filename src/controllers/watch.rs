//! One watch: list everything, then follow the changes, for ever; say when it is alive.
//!
//! Every request has a deadline, so a half-open connection is noticed; every kind has its own back-off, so one that
//! fails delays no other; an object that cannot be decoded is skipped and told, and stops nothing (rule 13). Not
//! kube's own watcher: that one gives no sign of life on a quiet watch, so a stuck one could not be told from a calm one.

use std::fmt::Debug;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{DeserializeGuard, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::index::{Event, Key};

/// How many objects one list page holds.
const PAGE: u32 = 500;
/// How long one watch request lasts before it is asked again; also how often a quiet watch shows that it lives.
const WATCH_SECONDS: u32 = 30;
/// How long a watch may be silent beyond its own end before it counts as dead.
const GRACE: Duration = Duration::from_secs(5);
/// The deadline of one list page.
const LIST_DEADLINE: Duration = Duration::from_secs(30);
/// The first pause between two attempts; each that fails at once doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How long a list and its watch must have lived to count as no failure.
const LIVED: Duration = Duration::from_secs(10);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Why a watch must begin anew.
enum Restart {
    /// The API server forgot our place: list again at once.
    Expired,
    /// Anything else: list again after a pause.
    Failed(String),
}

/// Lists and follows one kind for ever. `deliver` gets every event; `alive` is called whenever the API server answered.
pub async fn follow<K>(api: Api<DeserializeGuard<K>>, deliver: impl Fn(Event<K>), alive: impl Fn())
where
    K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()> + 'static,
{
    let mut failures = 0u32;
    loop {
        let started = Instant::now();
        let why = match list(&api, &deliver).await {
            Ok(version) => {
                alive();
                watch(&api, version, &deliver, &alive).await
            }
            Err(why) => format!("list failed: {why}"),
        };
        // A watch that lived for a while was no failure; one that ends at once, again and again, must not spin.
        failures = if started.elapsed() > LIVED { 1 } else { failures.saturating_add(1) };
        warn!(kind = %K::kind(&()), why, "listing again");
        sleep(crate::plan::pressure::grown(FIRST_PAUSE, failures, LONGEST_PAUSE)).await;
    }
}

/// Follows the changes until something ends it, and says what.
async fn watch<K>(
    api: &Api<DeserializeGuard<K>>,
    mut version: String,
    deliver: &impl Fn(Event<K>),
    alive: &impl Fn(),
) -> String
where
    K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()> + 'static,
{
    loop {
        let started = Instant::now();
        match changes(api, &mut version, deliver, alive).await {
            Ok(()) => alive(),
            Err(Restart::Expired) => return "the API server forgot our place".to_owned(),
            Err(Restart::Failed(why)) => return format!("watch ended: {why}"),
        }
        // The server ends a watch when its time is over; one that ends sooner is asked again, but not without pause.
        if started.elapsed() < FIRST_PAUSE {
            sleep(FIRST_PAUSE).await;
        }
    }
}

async fn list<K>(api: &Api<DeserializeGuard<K>>, deliver: &impl Fn(Event<K>)) -> Result<String, String>
where
    K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()>,
{
    // Before the first page is asked for: what our own writes make from now on may be missing from it.
    deliver(Event::Listing);
    let mut objects = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    let version = loop {
        let page = timeout(LIST_DEADLINE, api.list(&params))
            .await
            .map_err(|_| "no answer in time".to_owned())?
            .map_err(|error| error.to_string())?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break page.metadata.resource_version.unwrap_or_default(),
        }
    };
    objects.into_iter().for_each(|object| deliver(applied(object)));
    deliver(Event::Listed);
    Ok(version)
}

async fn changes<K>(
    api: &Api<DeserializeGuard<K>>,
    version: &mut String,
    deliver: &impl Fn(Event<K>),
    alive: &impl Fn(),
) -> Result<(), Restart>
where
    K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()> + 'static,
{
    let failed = |error: kube::Error| Restart::Failed(error.to_string());
    let silence = || Restart::Failed("no answer in time".to_owned());
    let patience = Duration::from_secs(u64::from(WATCH_SECONDS)) + GRACE;
    let params = WatchParams::default().timeout(WATCH_SECONDS);
    let stream = timeout(patience, api.watch(&params, version)).await.map_err(|_| silence())?.map_err(failed)?;
    let mut stream = stream.boxed();
    alive();
    while let Some(event) = timeout(patience, stream.try_next()).await.map_err(|_| silence())?.map_err(failed)? {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                advance(version, &object);
                deliver(applied(object));
            }
            WatchEvent::Deleted(object) => {
                advance(version, &object);
                deliver(deleted(object));
            }
            WatchEvent::Bookmark(bookmark) => {
                alive();
                *version = bookmark.metadata.resource_version;
            }
            WatchEvent::Error(status) if status.code == 410 => return Err(Restart::Expired),
            WatchEvent::Error(status) => return Err(Restart::Failed(status.message)),
        }
    }
    Ok(())
}

fn advance<K: Resource<DynamicType = ()>>(version: &mut String, object: &DeserializeGuard<K>) {
    if let Some(seen) = &object.meta().resource_version {
        version.clone_from(seen);
    }
}

/// An object that cannot be read is told once per version and left alone; it stops nothing (rule 13).
fn applied<K: Resource<DynamicType = ()>>(object: DeserializeGuard<K>) -> Event<K> {
    match object.0 {
        Ok(object) => Event::Applied(object),
        Err(unreadable) => {
            let key = key(&unreadable.metadata);
            warn!(kind = %K::kind(&()), object = %key, why = unreadable.error, "object cannot be read; it is left alone");
            Event::Unreadable(key)
        }
    }
}

fn deleted<K: Resource<DynamicType = ()>>(object: DeserializeGuard<K>) -> Event<K> {
    match object.0 {
        Ok(object) => Event::Deleted(object),
        Err(unreadable) => Event::DeletedUnread { key: key(&unreadable.metadata), uid: unreadable.metadata.uid },
    }
}

fn key(meta: &ObjectMeta) -> Key {
    Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}
