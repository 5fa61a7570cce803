//! The servers of a version: the one it is made on, and those it is tried with.
//!
//! Says what is wanted and what came of it; who gets a slot is [`super::super::allocation`]'s to decide, and what a
//! node does next [`crate::plan::node`]'s.

use std::sync::Arc;

use kube::{Resource, ResourceExt};
use serde_json::json;

use super::super::index::Key;
use super::super::{Engine, Mark, records, tenancy};
use super::{changed, current, usable, work};
use crate::api::conditions::reason;
use crate::api::disk_image::{Login, SnapshotSource};
use crate::api::pool::Probe;
use crate::api::pool_node::ClaimRef;
use crate::api::provider_image::ImageFault;
use crate::api::{DiskImage, FlavorSelector, ImageState, NodeState, Pool, PoolNode, ProviderImage};
use crate::cloud::key_pair_name as name_of_key_pair;
use crate::ops::events::Severity;
use crate::plan::image::turned_bad;
use crate::plan::image::version;

/// What is booted for a version.
pub struct Wanted {
    /// The flavor; `None` is the smallest there is.
    pub flavor: Option<FlavorSelector>,
    /// The version that is tried; none where one is made.
    pub version: Option<String>,
    /// The image in the cloud.
    pub image_id: String,
    /// What must answer.
    pub probe: Probe,
    /// How it is logged into.
    pub login: Login,
}

/// The key pair that a server is booted with.
pub struct KeyPair {
    /// Its name in the cloud.
    pub name: String,
    /// Its public part.
    pub public_key: String,
}

/// What is to be booted for a version now, and how many of it there are to be, those that are there included.
pub fn wants(engine: &Engine, key: &Key, record: &Arc<ProviderImage>) -> Option<(Wanted, u32)> {
    let image = engine.disk_images.get(&key.sibling(&record.spec.disk_image))?;
    let uid = record.uid()?;
    match record.state() {
        ImageState::Building => {
            let source = image.spec.source.snapshot.as_ref()?;
            let work = engine.memory.works.works.get(&uid)?;
            (work.state == version::Work::AwaitsServer).then_some(())?;
            Some((build(image, source, work.base_image.clone()?), 1))
        }
        ImageState::Validating if !engine.memory.works.faults.contains_key(&uid) => {
            let boots = u32::try_from(image.spec.validation.boots).ok().filter(|boots| *boots > 0)?;
            Some((trial(engine, key, record, image)?, boots))
        }
        _ => None,
    }
}

fn build(image: &DiskImage, source: &SnapshotSource, base_image: String) -> Wanted {
    Wanted {
        flavor: Some(source.flavor.clone()),
        version: None,
        image_id: base_image,
        probe: Probe::Ssh,
        login: Login { username: source.login.username.clone(), port: image.spec.login.port },
    }
}

/// A trial boots what the first Pool would that uses the image there; without one, what the version was made on, or
/// the smallest flavor.
fn trial(engine: &Engine, key: &Key, record: &ProviderImage, image: &DiskImage) -> Option<Wanted> {
    let pool = user(engine, key, record);
    let snapshot = image.spec.source.snapshot.as_ref();
    Some(Wanted {
        flavor: pool.map(|pool| pool.spec.flavor.clone()).or_else(|| snapshot.map(|source| source.flavor.clone())),
        version: Some(record.name_any()),
        image_id: record.status.as_ref()?.image_id.clone()?,
        probe: pool.map_or(Probe::Ssh, |pool| pool.spec.readiness.probe),
        login: image.spec.login.clone(),
    })
}

/// The first Pool, by name, that boots the image on the version's Provider.
fn user<'a>(engine: &'a Engine, key: &Key, record: &ProviderImage) -> Option<&'a Arc<Pool>> {
    let provider = key.sibling(&record.spec.provider);
    let uses = |at: &Key, pool: &Pool| {
        pool.spec.image == record.spec.disk_image
            && pool.spec.providers.iter().any(|offer| tenancy::provider(at, offer) == provider)
    };
    // Those of other namespaces boot it too, and what they add to it is not tried: their user data is not read here.
    let pools = engine.pools.iter().filter(|(pool, record)| pool.namespace == key.namespace && uses(pool, record));
    pools.min_by_key(|(pool, _)| *pool).map(|(_, pool)| pool)
}

/// The Pool whose user data and metadata a trial boots with.
pub fn tried_as<'a>(engine: &'a Engine, node: &PoolNode) -> Option<&'a Arc<Pool>> {
    let key = Key::of(node).sibling(node.spec.provider_image.as_ref()?);
    user(engine, &key, engine.provider_images.get(&key).filter(|_| node.image_claim().is_some())?)
}

/// Whether the version that has a node still needs it: one that we do not see any more does not, since its record was
/// there before the node's.
pub fn needs(engine: &Engine, node: &PoolNode, claim: &ClaimRef) -> bool {
    let key = Key::new(&claim.namespace, &claim.name);
    if engine.provider_images.is_unreadable(&key) {
        return true;
    }
    let Some(record) = engine.provider_images.get(&key).filter(|record| record.uid().as_ref() == Some(&claim.uid))
    else {
        return false;
    };
    let wanted = if node.is_build() {
        matches!(record.state(), ImageState::Building | ImageState::Uploading)
    } else {
        record.state() == ImageState::Validating
    };
    wanted && record.metadata.deletion_timestamp.is_none()
}

/// The nodes that a version has.
pub(super) fn of<'a>(engine: &'a Engine, uid: &'a str) -> impl Iterator<Item = &'a Arc<PoolNode>> {
    engine
        .nodes
        .iter()
        .map(|(_, node)| node)
        .filter(move |node| node.image_claim().is_some_and(|claim| claim.uid == uid))
}

/// Whether it answered, and somebody may work with it.
pub(super) fn answers(node: &PoolNode) -> bool {
    node.metadata.deletion_timestamp.is_none() && matches!(node.state(), NodeState::Ready | NodeState::InUse)
}

/// The key pair with which the server of a build is booted.
pub fn key_pair(engine: &Engine, node: &PoolNode) -> Option<KeyPair> {
    let uid = &node.image_claim().filter(|_| node.is_build())?.uid;
    let key = engine.memory.works.works.get(uid)?.key.as_ref()?;
    Some(KeyPair { name: key_pair_name(engine, node)?, public_key: key.public_text() })
}

/// The name of that key pair: it carries our mark, for a key pair can carry nothing else (rule 10).
fn key_pair_name(engine: &Engine, node: &PoolNode) -> Option<String> {
    let uid = &node.image_claim().filter(|_| node.is_build())?.uid;
    Some(name_of_key_pair(&engine.connection_of(node)?.ownership(uid)))
}

/// The key pair that goes with a node: not while another node of the same version is booted with it.
pub fn key_pair_to_remove(engine: &Engine, node: &PoolNode) -> Option<String> {
    let uid = &node.image_claim()?.uid;
    let shared = of(engine, uid).any(|other| other.is_build() && other.metadata.uid != node.metadata.uid);
    key_pair_name(engine, node).filter(|_| !shared)
}

/// A launch for a version failed; `ends` says that the version, or what it is made from, may be why.
pub fn launch_failed(
    engine: &mut Engine,
    node: &PoolNode,
    (reason, message): (&str, &str),
    console: Option<&str>,
    ends: bool,
) {
    let Some(claim) = node.image_claim() else { return };
    let server = format!("{} on {}", node.name_any(), node.spec.provider);
    let message = format!("the server {server} did not become reachable: {message}");
    if ends {
        let fault = ImageFault { console: console.map(str::to_owned), ..work::fault(reason, message) };
        engine.memory.works.faults.insert(claim.uid.clone(), fault);
    } else {
        engine.memory.works.troubles.insert(claim.uid.clone(), message);
    }
    engine.mark(Mark::ProviderImage(Key::new(&claim.namespace, &claim.name)));
}

/// A launch of a pool's node ended: when most of a version's do not end well, and those of the version before did, the
/// version is rejected by itself. Those of other namespaces' Pools say nothing: whoever may use a Provider could reject
/// its images by booting them in a way that cannot work.
pub fn launch_ended(engine: &mut Engine, node: &PoolNode, good: bool) {
    let judges = node.spec.pool.is_some() && node.spec.pool_namespace.is_none();
    let Some(version) = node.spec.provider_image.as_ref().filter(|_| judges) else { return };
    let key = Key::of(node).sibling(version);
    let now = engine.now;
    let Some(record) = engine.provider_images.get(&key).cloned() else { return };
    engine.memory.works.note_launch(key.clone(), good, now);
    let image = key.sibling(&record.spec.disk_image);
    let is_current =
        current(engine, &image, &record.spec.provider).is_some_and(|current| current.uid() == record.uid());
    let before = usable(engine, &image, &record.spec.provider).get(1).map(|before| Key::of(&***before));
    let (Some(launches), Some(before), true) = (engine.memory.works.launches(&key), before, is_current && !good) else {
        return;
    };
    let enabled = engine.disk_images.get(&image).is_some_and(|image| image.spec.rollback.automatic);
    let earlier = engine.memory.works.launches(&before).unwrap_or_default();
    if turned_bad(launches, Some(earlier), enabled) {
        let seen = format!(
            "{} of the last {} launches of version {} on {} failed; back to version {}",
            launches.bad,
            launches.bad + launches.good,
            key.name,
            record.spec.provider,
            before.name
        );
        engine.memory.works.turned.insert(record.uid().unwrap_or_default(), seen);
        engine.mark(Mark::ProviderImage(key));
    }
}

/// Writes the rejection of a version whose launches failed, until it is written; from then on no boot that begins uses
/// the version (rule 8).
pub(super) fn rejects(engine: &mut Engine, key: &Key, record: &Arc<ProviderImage>) -> bool {
    let uid = record.uid().unwrap_or_default();
    if record.spec.rejected || record.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(seen) = engine.memory.works.turned.get(&uid).cloned() else { return false };
    let (client, record) = (engine.setup.client.clone(), Arc::clone(record));
    let call = async move { records::patch(&client, &*record, json!({ "spec": { "rejected": true } })).await };
    let key = key.clone();
    engine.write_once(Mark::ProviderImage(key.clone()), call, move |engine, record: ProviderImage| {
        tracing::warn!(version = %key, seen, "rejected by its launches");
        let image = engine.disk_images.get(&key.sibling(&record.spec.disk_image));
        for about in [Some(record.object_ref(&())), image.map(|image| image.object_ref(&()))].into_iter().flatten() {
            engine.setup.events.publish(&about, Severity::Warning, reason::ROLLED_BACK, seen.clone());
        }
        engine.memory.works.turned.remove(&uid);
        engine.memory.works.faults.insert(uid, work::fault(reason::ROLLED_BACK, seen));
        engine.provider_images.wrote(record).into_iter().for_each(|change| changed(engine, &change));
    });
    true
}
