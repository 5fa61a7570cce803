//! How a version goes: what is in the cloud first, then its finalizer, then its record.
//!
//! Nothing is given up before the cloud says that it is gone. What it refuses to delete is tried again, ever more slowly,
//! and shown meanwhile (rule 7); what is deleted carries our mark and the version's uid (rule 10).

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;

use super::super::index::Key;
use super::super::provider::Connection;
use super::super::{Engine, Mark, disk_image, records};
use super::work::{self, Removing};
use super::{Removal, changed, job};
use crate::api::conditions::reason;
use crate::api::{DiskImage, FINALIZER_IMAGE, ProviderImage};
use crate::cloud::{Cloud, CloudError, ErrorClass, Ownership, key_pair_name};
use crate::plan::pressure::{grown, later};

/// First and longest pause between two attempts to remove what a cloud keeps.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Its DiskImage is gone: so its record goes, once the API server itself says that there is none.
pub(super) fn let_go(engine: &mut Engine, key: &Key, version: &Arc<ProviderImage>) {
    let (client, seen) = (engine.setup.client.clone(), Arc::clone(version));
    let image = key.sibling(&version.spec.disk_image);
    let call = async move {
        match records::read::<DiskImage>(&client, &image.namespace, &image.name).await? {
            // Our watch is behind: decided anew a moment later.
            Some(_) => Err(records::WriteError::Conflict),
            None => records::delete(&client, &*seen).await,
        }
    };
    engine.write_once(Mark::ProviderImage(key.clone()), call, taken);
}

/// Takes the answer to a deletion.
fn taken(engine: &mut Engine, version: Option<ProviderImage>) {
    let change = version.and_then(|version| engine.provider_images.wrote(version));
    change.into_iter().for_each(|change| changed(engine, &change));
}

/// Deletes the record of a version; the finalizer keeps it until the cloud has nothing of it any more. Those that stay
/// in its place are asked for first, of the API server itself: one of them may have been rejected since the watch told
/// of it (rule 7).
pub fn retire(engine: &mut Engine, version: &Arc<ProviderImage>, staying: Vec<Arc<ProviderImage>>) {
    let (client, seen) = (engine.setup.client.clone(), Arc::clone(version));
    let call = async move {
        for version in staying {
            let (namespace, name) = (version.namespace().unwrap_or_default(), version.name_any());
            let now = records::read::<ProviderImage>(&client, &namespace, &name).await?;
            if !now.is_some_and(|now| now.uid() == version.uid() && now.is_usable()) {
                // Our watch is behind: decided anew a moment later.
                return Err(records::WriteError::Conflict);
            }
        }
        records::delete(&client, &*seen).await
    };
    engine.write_once(Mark::ProviderImage(Key::of(&**version)), call, taken);
}

/// An image that others manage is only let go; before that, the DiskImage notes that it was rejected by hand, so that
/// the same version never comes back by itself.
pub(super) fn forget(engine: &mut Engine, key: &Key, version: &Arc<ProviderImage>) {
    if version.finalizers().iter().any(|name| name == FINALIZER_IMAGE) && disk_image::note_rejection(engine, version) {
        release(engine, key, version);
    }
}

/// Gives up the finalizer.
pub(super) fn release(engine: &mut Engine, key: &Key, version: &Arc<ProviderImage>) {
    let (client, seen) = (engine.setup.client.clone(), Arc::clone(version));
    let call = async move { records::remove_finalizer(&client, &*seen, FINALIZER_IMAGE).await };
    engine.write_once(Mark::ProviderImage(key.clone()), call, |engine, version: ProviderImage| {
        let gone = version.metadata.deletion_timestamp.is_some() && version.finalizers().is_empty();
        let change = if gone { engine.provider_images.remove(&version) } else { engine.provider_images.wrote(version) };
        change.into_iter().for_each(|change| changed(engine, &change));
    });
}

/// Removes what the cloud has of a version, and asks until it says that there is nothing.
pub(super) fn remove(engine: &mut Engine, key: &Key, version: &Arc<ProviderImage>) {
    let Some(uid) = version.uid() else { return };
    // Whoever still makes it stops first.
    engine.memory.works.works.remove(&uid);
    job::end(engine, version);
    let provider = key.sibling(&version.spec.provider);
    let Some(connection) = engine.connections.get(&provider).filter(|_| engine.setup.guard.is_current()) else {
        refused(engine, key, &uid, reason::PROVIDER_NOT_READY, format!("{} is not connected", provider.name));
        return;
    };
    let (cloud, ownership) = (Connection::cloud(connection), connection.ownership(&uid));
    let recorded = version.status.as_ref().and_then(|status| status.image_id.clone());
    let removing = engine.memory.works.removals.entry(uid.clone()).or_insert(Removing {
        state: Removal::Running,
        failures: 0,
        refusal: None,
    });
    removing.state = Removal::Running;
    let key = key.clone();
    engine.spawn(async move {
        let answer = clear(&*cloud, &ownership, recorded).await;
        move |engine: &mut Engine| match answer {
            Ok(()) => {
                if let Some(removing) = engine.memory.works.removals.get_mut(&uid) {
                    removing.state = Removal::Done;
                    removing.refusal = None;
                }
                engine.mark(Mark::ProviderImage(key));
            }
            Err(error) => {
                if error.class.is_unanswered() {
                    work::in_trouble(engine, &key);
                }
                let (reason, advice) = told(&error);
                refused(engine, &key, &uid, reason, format!("its image is still in the cloud: {error}{advice}"));
            }
        }
    });
}

fn told(error: &CloudError) -> (&'static str, &'static str) {
    match error.class {
        ErrorClass::Conflict => (reason::IMAGE_IN_USE, "; it goes when nothing uses it any more"),
        ErrorClass::Auth | ErrorClass::Invalid => {
            (reason::IMAGE_PROTECTED, "; if it is protected, take the protection away, and it goes")
        }
        _ => (reason::TRANSIENT_ERROR, "; it is tried again"),
    }
}

fn refused(engine: &mut Engine, key: &Key, uid: &str, reason: &'static str, message: String) {
    tracing::warn!(version = %key, reason, message, "version not removed; trying again");
    let now = engine.now;
    let removing = engine.memory.works.removals.entry(uid.to_owned()).or_insert(Removing {
        state: Removal::Due,
        failures: 0,
        refusal: None,
    });
    removing.failures = removing.failures.saturating_add(1);
    let again = later(now, grown(FIRST_PAUSE, removing.failures, LONGEST_PAUSE));
    removing.state = Removal::Later(again);
    removing.refusal = Some((reason, message));
    engine.mark(Mark::ProviderImage(key.clone()));
}

/// Deletes every image of a version, and its key pair. Found by the mark, not only by the id that was recorded: a
/// request whose answer was lost may have made one.
async fn clear(cloud: &dyn Cloud, ownership: &Ownership, recorded: Option<String>) -> Result<(), CloudError> {
    let mut images: Vec<String> = cloud
        .images_of(&ownership.owner)
        .await?
        .into_iter()
        .filter(|image| image.ownership.as_ref().is_some_and(|mark| mark.record == ownership.record))
        .map(|image| image.id)
        .collect();
    // A list may miss it; only the answer to its id proves anything.
    if let Some(id) = recorded.filter(|id| !images.contains(id))
        && let Some(image) = found(cloud.get_image(&id).await)?
        && image.ownership.is_some_and(|mark| mark.owner == ownership.owner && mark.record == ownership.record)
    {
        images.push(id);
    }
    for id in images {
        found(cloud.delete_image(&id).await)?;
        if found(cloud.get_image(&id).await)?.is_some_and(|image| image.status != crate::cloud::ImageStatus::Gone) {
            return Err(still_there());
        }
    }
    cloud.delete_key_pair(&key_pair_name(ownership)).await
}

fn found<T>(answer: Result<T, CloudError>) -> Result<Option<T>, CloudError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.class == ErrorClass::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn still_there() -> CloudError {
    CloudError {
        class: ErrorClass::Unavailable,
        call: "image delete-image",
        message: "the cloud took the deletion, and still has the image".to_owned(),
        retry_after: None,
        request_id: None,
    }
}
