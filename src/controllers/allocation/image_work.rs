//! Servers for versions of images: those on which one is made, and those with which one is tried.
//!
//! To the plan each version that wants some is a pool of its own with one request for it, ahead of all others: so slots,
//! limits, back-pressure and eviction are the same for them as for everybody (rule 1), and nothing is decided here. A
//! server of a version is claimed by it from its first record on: nobody else ever gets it.

use std::sync::Arc;

use foldhash::HashMap;
use jiff::Timestamp;
use kube::ResourceExt;

use super::super::index::Key;
use super::super::provider::Connection;
use super::super::provider_image::{self, Wanted};
use super::super::{Engine, Mark};
use super::{Launch, cost};
use crate::api::ProviderImage;
use crate::api::conditions::reason;
use crate::api::pool_node::{ClaimKind, ClaimRef, OnRelease};
use crate::plan::allocation as plan;
use crate::plan::allocation::{Blocked, Gate, Verdict};

/// One version that wants servers.
pub(super) struct Work {
    /// Its record's uid: the claim of its servers.
    pub(super) uid: String,
    /// What is booted for it.
    pub(super) launch: Result<Launch, Blocked>,
    key: Key,
    provider: Key,
    count: u32,
    created: Timestamp,
}

/// The versions that want servers, in a stable order.
pub(super) fn wanted(engine: &Engine) -> Vec<Work> {
    let mut works: Vec<Work> = engine
        .provider_images
        .iter()
        .filter(|(_, version)| version.in_flight())
        .filter_map(|(key, version)| work(engine, key, version))
        .collect();
    works.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    works
}

fn work(engine: &Engine, key: &Key, version: &Arc<ProviderImage>) -> Option<Work> {
    let (wanted, count) = provider_image::wants(engine, key, version)?;
    Some(Work {
        uid: version.uid()?,
        launch: launch(engine, key, version, wanted),
        key: key.clone(),
        provider: key.sibling(&version.spec.provider),
        count,
        created: version.creation_timestamp().map_or(engine.now, |time| time.0),
    })
}

fn launch(engine: &Engine, key: &Key, version: &ProviderImage, wanted: Wanted) -> Result<Launch, Blocked> {
    let blocked = |reason, message| Blocked { reason, message };
    let provider = key.sibling(&version.spec.provider);
    let not_ready = |message: String| blocked(reason::PROVIDER_NOT_READY, message);
    let record = engine.providers.get(&provider).ok_or_else(|| {
        blocked(reason::PROVIDER_NOT_FOUND, format!("create the Provider {}, or correct spec.providers", provider.name))
    })?;
    let connection = engine
        .connections
        .get(&provider)
        .ok_or_else(|| not_ready(format!("the Provider {} is not connected", provider.name)))?;
    let flavor = match &wanted.flavor {
        Some(flavor) => connection.flavor(flavor),
        None => connection.flavors.first(),
    };
    let flavor = flavor.cloned().ok_or_else(|| match (connection.facts_read, &wanted.flavor) {
        (Some(_), Some(wanted)) => blocked(reason::FLAVOR_NOT_FOUND, connection.missing_flavor(&provider.name, wanted)),
        _ => not_ready(format!("the flavors of {} are being read", provider.name)),
    })?;
    let uid = version.uid().unwrap_or_default();
    Ok(Launch {
        pool: None,
        claim: Some(ClaimRef {
            kind: ClaimKind::ProviderImage,
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: uid.clone(),
            on_release: OnRelease::Delete,
        }),
        disk_image: version.spec.disk_image.clone(),
        version: wanted.version,
        image_id: wanted.image_id,
        probe: wanted.probe,
        flavor,
        login: wanted.login,
        fence: record.spec.launch_fence,
        hash: uid,
    })
}

impl Work {
    /// As a pool: nothing is kept ready, one provider.
    pub(super) fn pool(&self, engine: &Engine, providers: &HashMap<&Key, usize>) -> plan::Pool {
        let template = self.launch.as_ref().map_err(Clone::clone);
        let offer = providers.get(&self.provider).map(|&provider| plan::Offer {
            provider,
            max_nodes: None,
            priority: 0,
            template: template
                .map(|launch| plan::Template { resources: cost(&launch.flavor), hash: launch.hash.as_str().into() }),
            gate: self.gate(engine).map_or(Gate::Open, |(gate, _)| gate),
        });
        plan::Pool {
            name: self.key.to_string(),
            min_ready: 0,
            max_nodes: None,
            max_ready_age: None,
            paused: false,
            draining: false,
            rolling: false,
            max_unavailable: 0,
            offers: offer.into_iter().collect(),
            missing: None,
        }
    }

    /// As a request, for the pool at this position.
    pub(super) fn request(&self, pool: usize) -> plan::Request {
        plan::Request {
            name: self.key.to_string(),
            // What everybody boots from goes first; there are few of them, and each gives its slot back.
            priority: i32::MAX,
            created: self.created,
            spread: false,
            entries: vec![plan::Entry { pool: Ok(pool), count: self.count, unsure: None }],
        }
    }

    /// When back-pressure changes by time alone.
    pub(super) fn wake(&self, engine: &Engine) -> Option<Timestamp> {
        self.gate(engine)?.1
    }

    fn gate(&self, engine: &Engine) -> Option<(Gate, Option<Timestamp>)> {
        let launch = self.launch.as_ref().ok()?;
        let connection: &Connection = engine.connections.get(&self.provider)?;
        Some(connection.offer_gate(&launch.flavor.id, &launch.hash, engine.now))
    }
}

/// What each version waits for.
pub(super) fn waiting(works: &[Work], verdicts: Vec<Option<Verdict>>) -> HashMap<String, Blocked> {
    let waits = |(work, verdict): (&Work, Option<Verdict>)| match verdict? {
        Verdict::Served => None,
        Verdict::Waiting { blocked, .. } | Verdict::Impossible(blocked) => Some((work.uid.clone(), blocked)),
    };
    works.iter().zip(verdicts).filter_map(waits).collect()
}

/// Marks the versions that wait for something else than before.
pub(super) fn tell(engine: &mut Engine, works: &[Work], waiting: &HashMap<String, Blocked>) {
    for work in works {
        if engine.memory.allocation.images.get(&work.uid) != waiting.get(&work.uid) {
            engine.mark(Mark::ProviderImage(work.key.clone()));
        }
    }
}
