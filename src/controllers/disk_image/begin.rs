//! Begins versions: what they are made of is looked up first, then their records are made, then the work starts.
//!
//! Only a clear 201 for a record makes its work ours (rule 9). What is wrong with the spec shows before there is a
//! record, as a failed attempt with growing pauses.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, ResourceExt};

use super::super::index::Key;
use super::super::provider::Connection;
use super::super::provider_image::{self, address, algorithm, fetch_reason, work::Work};
use super::super::records::{self, WriteError};
use super::super::{Engine, Mark};
use super::builds;
use crate::api::conditions::reason;
use crate::api::disk_image::{ImageSelector, SnapshotSource, UrlSource};
use crate::api::{
    ANNOTATION_LAUNCHED_BY, ANNOTATION_REBUILD, DiskImage, FINALIZER_IMAGE, ImageState, ProviderImage,
    ProviderImageSpec,
};
use crate::builder::SourceError;
use crate::builder::checksum::Digest;
use crate::builder::fetch::Fetcher;
use crate::builder::shell::{PrivateKey as LoginKey, make_key, parse_private_key};
use crate::cloud::Cloud;
use crate::ops::turns;
use crate::plan::image::version;
use crate::plan::image::{Kind, is_insisted, next_number};

/// What was found out before a record is made.
enum Found {
    /// What the server of a build boots, and how it is logged into.
    Base { image: String, key: Arc<LoginKey> },
    /// The digest of the file.
    Digest(String),
    /// Nothing has to be.
    Nothing,
}

/// A reason and a sentence.
type Problem = (&'static str, String);

/// One attempt at a version.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    /// When it began.
    at: Timestamp,
    /// The version's number.
    number: i64,
}

/// Begins a version of an image on these providers.
pub(super) fn begin(engine: &mut Engine, key: &Key, image: &Arc<DiskImage>, kind: Kind, providers: &[String]) {
    for provider in providers {
        engine.memory.images.builds.beginning.insert((key.clone(), provider.clone()));
    }
    let number = providers.iter().filter_map(|provider| {
        let seen = builds::observe(engine, key, image, provider)?;
        Some(next_number(&seen.place(image, engine.now)))
    });
    let attempt = Attempt { at: engine.now, number: number.max().unwrap_or_else(|| engine.now.as_second()) };
    let cloud = providers.first().and_then(|first| engine.connections.get(&key.sibling(first))).map(Connection::cloud);
    let (client, of, providers) = (engine.setup.client.clone(), Arc::clone(image), providers.to_vec());
    let fetcher = engine.setup.fetcher.clone();
    let key = key.clone();
    engine.spawn(async move {
        let found = look_up(&client, &fetcher, cloud, &of, kind).await;
        move |engine: &mut Engine| match found {
            Err(problem) => ended(engine, &key, &of, &providers, attempt, &problem),
            Ok(found) => record(engine, key, of, attempt, providers, found),
        }
    });
}

async fn look_up(
    client: &Client,
    fetcher: &Fetcher,
    cloud: Option<Arc<dyn Cloud>>,
    image: &DiskImage,
    kind: Kind,
) -> Result<Found, Problem> {
    let source = &image.spec.source;
    match (kind, &source.snapshot, &source.url) {
        (Kind::Snapshot, Some(snapshot), _) => base(client, cloud, image, snapshot).await,
        (Kind::Url, _, Some(url)) => digest(fetcher, url).await.map(Found::Digest),
        _ => Ok(Found::Nothing),
    }
}

async fn base(
    client: &Client,
    cloud: Option<Arc<dyn Cloud>>,
    image: &DiskImage,
    source: &SnapshotSource,
) -> Result<Found, Problem> {
    let key = match &source.login.private_key_secret_ref {
        None => make_key().private_key().clone(),
        Some(wanted) => {
            let namespace = image.namespace().unwrap_or_default();
            let wrong = |message: String| (reason::SECRET_INVALID, message);
            let secret = records::read::<Secret>(client, &namespace, &wanted.name)
                .await
                .map_err(|error| {
                    (reason::TRANSIENT_ERROR, format!("the Secret {} cannot be read: {error}", wanted.name))
                })?
                .ok_or_else(|| {
                    (reason::SECRET_NOT_FOUND, format!("create the Secret {} with the key {}", wanted.name, wanted.key))
                })?;
            let data = secret.data.and_then(|mut data| data.remove(&wanted.key));
            let data =
                data.ok_or_else(|| wrong(format!("add the key {} to the Secret {}", wanted.key, wanted.name)))?;
            let text = String::from_utf8(data.0).map_err(|_| {
                wrong(format!("write a private key under the key {} of the Secret {}", wanted.key, wanted.name))
            })?;
            parse_private_key(&text)
                .map_err(|error| wrong(format!("the key {} of the Secret {}: {error}", wanted.key, wanted.name)))?
        }
    };
    let Some(cloud) = cloud else {
        return Err((reason::PROVIDER_NOT_READY, "the Provider is not connected".to_owned()));
    };
    let wanted = super::existing::port(&source.base_image);
    let images = cloud.images(&wanted).await.map_err(|error| (reason::TRANSIENT_ERROR, error.to_string()))?;
    let newest =
        images.into_iter().filter(|image| image.bootable()).max_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    let image = newest.ok_or_else(|| {
        let message = format!(
            "the cloud has no active image {}; correct spec.source.snapshot.baseImage",
            named(&source.base_image)
        );
        (reason::IMAGE_NOT_FOUND, message)
    })?;
    Ok(Found::Base { image: image.id, key: Arc::new(key) })
}

fn named(selector: &ImageSelector) -> String {
    match (&selector.id, &selector.name) {
        (Some(id), _) => format!("with the id {id}"),
        (None, name) => format!("named {}", name.as_deref().unwrap_or("?")),
    }
}

async fn digest(fetcher: &Fetcher, source: &UrlSource) -> Result<String, Problem> {
    let digest = match (&source.checksum.value, &source.checksum.url) {
        (Some(value), _) => Digest::new(algorithm(source.checksum.algorithm), value),
        (None, list) => listed(fetcher, list.as_deref().unwrap_or_default(), source).await,
    };
    digest.map(|digest| digest.to_string()).map_err(|error| (fetch_reason(error.class), error.to_string()))
}

async fn listed(fetcher: &Fetcher, list: &str, source: &UrlSource) -> Result<Digest, SourceError> {
    let (list, file) = (address(list)?, address(&source.url)?);
    Digest::listed(fetcher, &list, &file, algorithm(source.checksum.algorithm)).await
}

/// What is made of the file that the cloud has already is not made again, unless somebody asks for it.
fn is_unchanged(engine: &Engine, key: &Key, image: &DiskImage, provider: &str, digest: &str) -> bool {
    let asked =
        builds::observe(engine, key, image, provider).is_some_and(|seen| is_insisted(&seen.place(image, engine.now)));
    let Some(current) = provider_image::current(engine, key, provider) else { return false };
    let source = builds::source_hash(image);
    let same = |version: &ProviderImage| {
        version.spec.digest.as_deref() == Some(digest) && version.spec.source_hash.as_deref() == Some(&source)
    };
    // Of the same file, only a version that was asked for is ever begun: one that failed is still asked for.
    let failed = provider_image::of(engine, key, provider).any(|version| {
        let ended = matches!(version.state(), ImageState::Failed | ImageState::Rejected) && !version.spec.rejected;
        ended && version.spec.version > current.spec.version && same(version)
    });
    // What a person rejected does not come back by itself, while there is something else to boot from.
    let rejected = || provider_image::of(engine, key, provider).any(|version| version.spec.rejected && same(version));
    (same(&current) || rejected()) && !asked && !failed
}

fn record(
    engine: &mut Engine,
    key: Key,
    image: Arc<DiskImage>,
    attempt: Attempt,
    mut providers: Vec<String>,
    found: Found,
) {
    if let Found::Digest(digest) = &found {
        let (same, rest) = providers
            .into_iter()
            .partition::<Vec<String>, _>(|provider| is_unchanged(engine, &key, &image, provider, digest));
        for provider in &same {
            tracing::info!(image = %key, provider, digest, "the file is the same: no new version");
            builds::note_unchanged(engine, &key, &image, provider, attempt.at);
        }
        free(engine, &key, &same);
        providers = rest;
    }
    let digest = match &found {
        Found::Digest(digest) => Some(digest.clone()),
        _ => None,
    };
    let versions: Vec<ProviderImage> = providers
        .iter()
        .map(|provider| version(engine, &key, &image, provider, attempt.number, digest.clone()))
        .collect();
    let client = engine.setup.client.clone();
    let guard = engine.setup.guard.clone();
    engine.spawn(async move {
        let mut made = Vec::new();
        for version in &versions {
            let answer = if guard.is_current() {
                turns::usual(|| records::create(&client, version)).await
            } else {
                Err(WriteError::Refused("this replica does not lead any more".to_owned()))
            };
            made.push(answer);
        }
        move |engine: &mut Engine| recorded(engine, &key, &image, (&providers, attempt), found, made)
    });
}

fn version(
    engine: &Engine,
    key: &Key,
    image: &DiskImage,
    provider: &str,
    number: i64,
    digest: Option<String>,
) -> ProviderImage {
    let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let asked = image.rebuild_requested().map(|value| text(ANNOTATION_REBUILD, value));
    ProviderImage {
        metadata: ObjectMeta {
            name: Some(super::version_name(&key.name, provider, number)),
            namespace: Some(key.namespace.to_string()),
            finalizers: Some(vec![FINALIZER_IMAGE.to_owned()]),
            labels: Some(super::labels(&key.name, provider, number)),
            annotations: Some(
                [Some(text(ANNOTATION_LAUNCHED_BY, &engine.setup.identity)), asked].into_iter().flatten().collect(),
            ),
            ..ObjectMeta::default()
        },
        spec: ProviderImageSpec {
            disk_image: key.name.to_string(),
            provider: provider.to_owned(),
            version: number,
            image_id: None,
            managed: true,
            source_hash: Some(builds::source_hash(image)),
            disk_image_generation: image.metadata.generation,
            digest,
            rejected: false,
        },
        status: None,
    }
}

/// The records are there, or not: those that are begin.
fn recorded(
    engine: &mut Engine,
    key: &Key,
    image: &Arc<DiskImage>,
    (providers, attempt): (&[String], Attempt),
    found: Found,
    made: Vec<Result<ProviderImage, WriteError>>,
) {
    let mut begun = Vec::new();
    for (provider, answer) in providers.iter().zip(made) {
        match answer {
            Ok(version) => {
                builds::note_attempt(engine, key, image, provider, (attempt.at, None));
                let uid = version.uid().unwrap_or_default();
                engine.memory.works.begin(uid, work(&found));
                // A watch may have told of it before.
                begun.push(Arc::new(version.clone()));
                let change = engine.provider_images.wrote(version);
                change.into_iter().for_each(|change| provider_image::changed(engine, &change));
            }
            Err(error) => {
                tracing::warn!(image = %key, provider, %error, "version not recorded");
                let problem = (reason::TRANSIENT_ERROR, format!("the version could not be recorded: {error}"));
                builds::note_attempt(engine, key, image, provider, (attempt.at, Some(problem)));
            }
        }
    }
    free(engine, key, providers);
    if begun.is_empty() {
        return;
    }
    tracing::info!(image = %key, versions = begun.len(), "a version is begun");
    match found {
        Found::Base { .. } => {}
        Found::Digest(_) => provider_image::start_upload(engine, image, &begun),
        Found::Nothing => provider_image::start_job(engine, image, &begun),
    }
}

fn work(found: &Found) -> Work {
    match found {
        Found::Base { image, key } => Work {
            base_image: Some(image.clone()),
            key: Some(Arc::clone(key)),
            ..Work::new(version::Work::AwaitsServer)
        },
        Found::Digest(_) | Found::Nothing => Work::new(version::Work::Running),
    }
}

/// An attempt ended before there was a record.
fn ended(
    engine: &mut Engine,
    key: &Key,
    image: &DiskImage,
    providers: &[String],
    attempt: Attempt,
    (reason, message): &Problem,
) {
    for provider in providers {
        tracing::warn!(image = %key, provider, reason, message, "no version begun");
        builds::note_attempt(engine, key, image, provider, (attempt.at, Some((reason, message.clone()))));
    }
    free(engine, key, providers);
}

fn free(engine: &mut Engine, key: &Key, providers: &[String]) {
    for provider in providers {
        engine.memory.images.builds.beginning.remove(&(key.clone(), provider.clone()));
        let versions: Vec<Key> = provider_image::of(engine, key, provider).map(|version| Key::of(&**version)).collect();
        versions.into_iter().for_each(|version| engine.mark(Mark::ProviderImage(version)));
    }
    engine.mark(Mark::DiskImage(key.clone()));
    engine.mark(Mark::Builds);
}

/// Whether a version is being begun there: whose work its record is, is not known yet.
pub fn is_beginning(engine: &Engine, key: &Key, provider: &str) -> bool {
    engine.memory.images.builds.beginning.contains(&(key.clone(), provider.to_owned()))
}
