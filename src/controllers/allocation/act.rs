//! What the allocation's steps do: the record of a new node, and what its answer makes of it; claims; condemning.
//!
//! A record is made once, under a name that is its slot, and only a clear answer to that gives the right to boot
//! (rule 2). Never decides which step is right.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::{Launch, Seen, cost, template};
use crate::api::pool_node::{ClaimKind, ClaimRef};
use crate::api::{
    ANNOTATION_HASH_VERSION, ANNOTATION_LAUNCHED_BY, FINALIZER_SERVER, LABEL_DISK_IMAGE, LABEL_POOL,
    LABEL_POOL_NAMESPACE, LABEL_PROVIDER, PoolNode, PoolNodeSpec,
};
use crate::controllers::index::{Change, Key};
use crate::controllers::records::{self, LaunchPermit, WriteError};
use crate::controllers::runtime::Creating;
use crate::controllers::{Engine, Mark, pool, pool_node, tenancy};
use crate::ops::turns;
use crate::plan::allocation::{Step, World};

/// Does one step.
pub(super) fn perform(engine: &mut Engine, world: &World, seen: &Seen, step: &Step) {
    match *step {
        Step::Create { provider, slot, pool } => create(engine, world, seen, provider, slot, pool),
        Step::Claim { node, request, .. } => {
            let (Some(Some(node)), Some(request)) = (seen.nodes.get(node), seen.requests.get(request)) else { return };
            let key = Key::of(&**request);
            let claim = ClaimRef {
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                kind: ClaimKind::NodeRequest,
                uid: request.uid().unwrap_or_default(),
                on_release: request.spec.on_release,
            };
            pool_node::claim(engine, node, claim);
        }
        Step::Condemn { node, why } => {
            let Some(Some(node)) = seen.nodes.get(node) else { return };
            tracing::info!(node = %Key::of(&**node), ?why, "destroying an unclaimed node");
            let uid = node.uid().unwrap_or_default();
            pool_node::condemn(engine, node, &uid);
        }
    }
}

fn create(engine: &mut Engine, world: &World, seen: &Seen, provider: usize, slot: u32, pool: usize) {
    let Some(provider) = seen.providers.get(provider) else { return };
    let Some(launch) = launch(engine, seen, provider, pool) else { return };
    let Some(node) = new_node(engine, provider, slot, &launch) else { return };
    let creating = Creating {
        provider: provider.clone(),
        pool: launch.pool.clone(),
        claim: launch.claim.as_ref().map(|claim| claim.uid.clone()),
        slot,
        hash: launch.hash.clone(),
        resources: cost(&launch.flavor),
        since: world.now,
        taken: false,
    };
    let key = Key::of(&node);
    engine.creating.insert(key.clone(), creating);
    let client = engine.setup.client.clone();
    let guard = engine.setup.guard.clone();
    engine.spawn(async move {
        let made = async || {
            if guard.is_current() {
                records::create_node(&client, &node).await
            } else {
                Err(WriteError::Refused("this replica does not lead any more".to_owned()))
            }
        };
        let answer = turns::usual(made).await;
        move |engine: &mut Engine| created(engine, &key, answer)
    });
}

/// What is booted for the pool at this position, or for the version of an image that stands there.
fn launch(engine: &Engine, seen: &Seen, provider: &Key, pool: usize) -> Option<Launch> {
    match seen.pools.get(pool) {
        Some(key) => template(engine, key, engine.pools.get(key)?, provider).ok(),
        None => seen.works.get(pool - seen.pools.len())?.launch.as_ref().ok().cloned(),
    }
}

fn new_node(engine: &Engine, provider: &Key, slot: u32, launch: &Launch) -> Option<PoolNode> {
    let slot = i32::try_from(slot).ok()?;
    let spec = PoolNodeSpec {
        provider: provider.name.to_string(),
        pool: launch.pool.as_ref().map(|pool| pool.name.to_string()),
        pool_namespace: launch.pool.as_ref().and_then(|pool| tenancy::foreign(pool, provider)),
        slot,
        provider_image: launch.version.clone(),
        image_id: launch.image_id.clone(),
        flavor: launch.flavor.name.clone(),
        flavor_id: launch.flavor.id.clone(),
        template_hash: launch.hash.clone(),
        claim_ref: launch.claim.clone(),
        hold: None,
        username: launch.login.username.clone(),
        port: launch.login.port,
        probe: launch.probe,
        launch_fence: launch.fence,
    };
    let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let pool = launch.pool.as_ref().map(|pool| text(LABEL_POOL, &pool.name));
    let foreign = spec.pool_namespace.as_ref().map(|namespace| text(LABEL_POOL_NAMESPACE, namespace));
    let image = [text(LABEL_PROVIDER, &provider.name), text(LABEL_DISK_IMAGE, &launch.disk_image)];
    let metadata = ObjectMeta {
        name: Some(PoolNode::name_of_slot(&provider.name, slot)),
        namespace: Some(provider.namespace.to_string()),
        finalizers: Some(vec![FINALIZER_SERVER.to_owned()]),
        labels: Some(pool.into_iter().chain(foreign).chain(image).collect()),
        annotations: Some(BTreeMap::from([
            text(ANNOTATION_LAUNCHED_BY, &engine.setup.identity),
            text(ANNOTATION_HASH_VERSION, pool::HASH_VERSION),
        ])),
        ..ObjectMeta::default()
    };
    Some(PoolNode { metadata, spec, status: None })
}

/// The answer to a create decides whether there is a permit (rule 2). Without a clear 201 there is none, ever.
fn created(engine: &mut Engine, key: &Key, answer: Result<(PoolNode, LaunchPermit), WriteError>) {
    match answer {
        Ok((node, permit)) => {
            if let Some(creating) = engine.creating.remove(key) {
                engine.memory.providers.entry(creating.provider).or_default().creates.accepted();
            }
            pool_node::adopt_permit(engine, &node, permit);
            engine.wrote_node(node);
        }
        Err(WriteError::AlreadyExists) => {
            // Another leader's, or one that we cannot read: the slot is taken until we see by whom.
            taken(engine, key);
        }
        Err(error) => {
            tracing::warn!(node = %key, %error, "node record not made");
            // The API server refuses, or is away: not the next slot at once, and the next.
            if let Some(provider) = engine.creating.get(key).map(|creating| creating.provider.clone()) {
                let now = engine.now;
                engine.memory.providers.entry(provider).or_default().creates.refused(now, None);
            }
            taken(engine, key);
        }
    }
    engine.mark(Mark::Allocation);
}

/// There may be a record of this name, and no permit for it will ever come: if the watch showed it already, it is met
/// now; if it does later, it is met then.
fn taken(engine: &mut Engine, key: &Key) {
    if let Some(creating) = engine.creating.get_mut(key) {
        creating.taken = true;
    }
    if let Some(node) = engine.nodes.get(key).cloned() {
        pool_node::changed(engine, &Change::Updated(node, None));
    }
    forget_later(engine, key.clone());
}

/// How long a slot whose create was not answered clearly is left alone: the watch tells sooner if a record is there.
const UNCLEAR_SLOT: Duration = Duration::from_secs(2);

fn forget_later(engine: &Engine, key: Key) {
    engine.spawn(async move {
        tokio::time::sleep(UNCLEAR_SLOT).await;
        move |engine: &mut Engine| {
            engine.creating.remove(&key);
            engine.mark(Mark::Allocation);
        }
    });
}
