//! One watch: list everything, then follow the changes, for ever; say when it is alive.
//!
//! Every request has a deadline, so a half-open connection is noticed; every kind has its own back-off, so one that
//! fails delays no other; an object that cannot be decoded is skipped and told, and stops nothing (rule 13). Not
//! kube's own watcher: that one gives no sign of life on a quiet watch, so a stuck one could not be told from a calm one.

use std::fmt::Debug;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{DeserializeGuard, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::index::Event;

/// How many objects one list page holds.
const PAGE: u32 = 500;
/// How long one watch request lasts before it is asked again; also how often a quiet watch shows that it lives.
const WATCH_SECONDS: u32 = 30;
/// How long a watch may be silent beyond its own end before it counts as dead.
const GRACE: Duration = Duration::from_secs(5);
/// The deadline of one list page.
const LIST_DEADLINE: Duration = Duration::from_secs(30);
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
        match list(&api, &deliver).await {
            Ok(mut version) => {
                alive();
                failures = 0;
                loop {
                    match changes(&api, &mut version, &deliver, &alive).await {
                        Ok(()) => alive(),
                        Err(Restart::Expired) => break,
                        Err(Restart::Failed(why)) => {
                            warn!(kind = %K::kind(&()), why, "watch ended; listing again");
                            failures = 1;
                            break;
                        }
                    }
                }
            }
            Err(why) => {
                failures = failures.saturating_add(1);
                warn!(kind = %K::kind(&()), why, "list failed");
            }
        }
        if failures > 0 {
            sleep(crate::plan::pressure::grown(Duration::from_millis(250), failures, LONGEST_PAUSE)).await;
        }
    }
}

async fn list<K>(api: &Api<DeserializeGuard<K>>, deliver: &impl Fn(Event<K>)) -> Result<String, String>
where
    K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()>,
{
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
    deliver(Event::Listing);
    for object in objects.into_iter().filter_map(decoded) {
        deliver(Event::Applied(object));
    }
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
                if let Some(object) = decoded(object) {
                    deliver(Event::Applied(object));
                }
            }
            WatchEvent::Deleted(object) => {
                advance(version, &object);
                if let Some(object) = decoded(object) {
                    deliver(Event::Deleted(object));
                }
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

fn decoded<K: Resource<DynamicType = ()>>(object: DeserializeGuard<K>) -> Option<K> {
    let name = object.meta().name.clone();
    match object.0 {
        Ok(object) => Some(object),
        Err(error) => {
            warn!(kind = %K::kind(&()), name, why = %error.error, "object cannot be read; it is left alone");
            debug!("an object that cannot be read keeps its slot only through its name");
            None
        }
    }
}
