//! Source `snapshot`: logs in to the server that answers, sets it up, stops it, and keeps its disk as the image.
//!
//! Each step is bounded by the version's own deadline, which ends the work from outside. What is asked of the cloud is
//! asked once; an answer that got lost is looked for by the version's mark (rule 2's way, for images).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Client, ResourceExt};
use tokio::time::{Instant, sleep};

use super::super::index::Key;
use super::super::provider::Connection;
use super::super::{Engine, Mark, records};
use super::output::Output;
use super::upload::{await_active, image_to_make, spawn};
use super::work::{News, fault, tell};
use super::{Work, servers};
use crate::api::conditions::reason;
use crate::api::disk_image::SnapshotSource;
use crate::api::provider_image::ImageFault;
use crate::api::{PoolNode, ProviderImage};
use crate::builder::setup::{Setup, SetupError, prepare};
use crate::builder::shell::{PrivateKey as LoginKey, Shell};
use crate::cloud::{Cloud, CloudError, ErrorClass, NewImage, ServerStatus};
use crate::ops::lease::LeaderGuard;

/// How long a login may take, retries for a machine that is still starting included.
const LOGIN: Duration = Duration::from_secs(60);
const LOGIN_AGAIN: Duration = Duration::from_secs(2);
/// Pause before a build that cannot begin is looked at again.
const MADE_AGAIN: Duration = Duration::from_secs(1);
/// How often a server that is being stopped is looked at, and asked to stop again.
const STOPPED_YET: Duration = Duration::from_secs(2);
const STOP_AGAIN: Duration = Duration::from_secs(30);
/// How long a snapshot whose request was not answered is looked for, and how often.
const LOOKED_FOR: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// Everything one snapshot takes.
struct Build {
    client: Client,
    guard: LeaderGuard,
    cloud: Arc<dyn Cloud>,
    namespace: String,
    source: SnapshotSource,
    server_id: String,
    address: SocketAddr,
    host_keys: Vec<String>,
    key: Arc<LoginKey>,
    image: NewImage,
    deadline: Instant,
}

/// Makes a version on its server.
pub(super) fn make(engine: &mut Engine, key: &Key, version: &Arc<ProviderImage>) {
    let Some(uid) = version.uid() else { return };
    let Some(build) = build(engine, key, version, &uid) else {
        // Its Provider is being connected, or its node's record says too little yet.
        return engine.wake_in(MADE_AGAIN, Mark::ProviderImage(key.clone()));
    };
    if let Some(work) = engine.memory.works.works.get_mut(&uid) {
        work.state = Work::Running;
    }
    let (report, of) = (engine.sender(), (key.clone(), uid.clone()));
    let output = Output::new(key.clone(), uid.clone(), engine.sender());
    let news = move |news: News| {
        let (key, uid) = of.clone();
        report(Box::new(move |engine: &mut Engine| tell(engine, &key, &uid, news)));
    };
    spawn(engine, key, &uid, async move { build.run(&news, &output).await });
}

fn build(engine: &Engine, key: &Key, version: &ProviderImage, uid: &str) -> Option<Build> {
    let image = engine.disk_images.get(&key.sibling(&version.spec.disk_image))?;
    let connection = engine.connections.get(&key.sibling(&version.spec.provider))?;
    let node: &Arc<PoolNode> = servers::of(engine, uid).find(|node| node.is_build() && servers::answers(node))?;
    let status = node.status.as_ref()?;
    let port = u16::try_from(node.spec.port).ok()?;
    let started = version.creation_timestamp()?.0;
    let left = image
        .spec
        .build_timeout
        .as_std()
        .saturating_sub(Duration::try_from(engine.now.duration_since(started)).unwrap_or_default());
    Some(Build {
        client: engine.setup.client.clone(),
        guard: engine.setup.guard.clone(),
        cloud: Connection::cloud(connection),
        namespace: key.namespace.to_string(),
        source: image.spec.source.snapshot.clone()?,
        server_id: status.server_id.clone()?,
        address: SocketAddr::new(status.address.as_ref()?.parse().ok()?, port),
        host_keys: status.host_keys.clone(),
        key: engine.memory.works.works.get(uid)?.key.clone()?,
        image: image_to_make(image, version, connection.ownership(uid), "raw"),
        deadline: Instant::now() + left,
    })
}

impl Build {
    async fn run(self, news: &(impl Fn(News) + Send + Sync), output: &Output) -> Result<(), ImageFault> {
        let scripts = self.scripts().await?;
        let mut shell = self.login().await?;
        let setup =
            Setup { scripts, setup: self.source.setup.clone(), env: self.source.env.clone(), deadline: self.deadline };
        prepare(&mut shell, &setup, |line: &str| output.line(line)).await.map_err(setup_failed)?;
        drop(shell);
        self.stop().await?;
        news(News::Uploading);
        let id = self.snapshot().await?;
        news(News::Image(id.clone()));
        await_active(&*self.cloud, &id, Some(&self.server_id)).await
    }

    /// The ConfigMap's files, by name.
    async fn scripts(&self) -> Result<BTreeMap<String, Vec<u8>>, ImageFault> {
        let Some(wanted) = &self.source.scripts_config_map_ref else { return Ok(BTreeMap::new()) };
        let found = records::read::<ConfigMap>(&self.client, &self.namespace, &wanted.name).await.map_err(|error| {
            fault(reason::TRANSIENT_ERROR, format!("the ConfigMap {} could not be read: {error}", wanted.name))
        })?;
        let map = found.ok_or_else(|| {
            fault(reason::INVALID_CONFIGURATION, format!("create the ConfigMap {} with the scripts", wanted.name))
        })?;
        let text = map.data.into_iter().flatten().map(|(name, text)| (name, text.into_bytes()));
        let binary = map.binary_data.into_iter().flatten().map(|(name, bytes)| (name, bytes.0));
        Ok(text.chain(binary).collect())
    }

    /// A machine may answer before it knows its users: refused or cut, it is tried again for a while.
    async fn login(&self) -> Result<Shell, ImageFault> {
        let until = (Instant::now() + LOGIN).min(self.deadline);
        loop {
            let user = &self.source.login.username;
            match Shell::login(self.address, user, &self.key, &self.host_keys, until).await {
                Ok(shell) => return Ok(shell),
                Err(error) if Instant::now() + LOGIN_AGAIN >= until => {
                    return Err(fault(reason::LOGIN_FAILED, error.to_string()));
                }
                Err(_) => sleep(LOGIN_AGAIN).await,
            }
        }
    }

    /// A clean shutdown: what the guest still holds in memory must be in the image.
    async fn stop(&self) -> Result<(), ImageFault> {
        let mut asked: Option<Instant> = None;
        loop {
            if asked.is_none_or(|at| at.elapsed() >= STOP_AGAIN) {
                self.may_act()?;
                match self.cloud.stop_server(&self.server_id).await {
                    Ok(()) => {}
                    // Busy with something else, or an answer that got lost: asked again when it goes on running.
                    Err(error) if !matches!(error.class, ErrorClass::Auth | ErrorClass::Invalid) => {
                        tracing::info!(server = self.server_id, %error, "server not stopped yet");
                    }
                    Err(error) => return Err(refused("the server could not be stopped", &error)),
                }
                asked = Some(Instant::now());
            }
            match self.cloud.get_server(&self.server_id).await {
                Ok(server) if server.status == ServerStatus::Stopped => return Ok(()),
                Ok(server) if server.status == ServerStatus::Error => {
                    return Err(fault(reason::SERVER_ERROR, "the server ended in ERROR while it was stopped"));
                }
                Err(error) if error.class == ErrorClass::NotFound => {
                    return Err(fault(reason::SERVER_LOST, "the server disappeared while it was stopped"));
                }
                Ok(_) | Err(_) => sleep(STOPPED_YET).await,
            }
        }
    }

    async fn snapshot(&self) -> Result<String, ImageFault> {
        self.may_act()?;
        match self.cloud.snapshot_server(&self.server_id, &self.image).await {
            Ok(id) => Ok(id),
            Err(error) if error.class == ErrorClass::Unclear => self.look_for_snapshot(&error).await,
            Err(error) => Err(refused("the snapshot was refused", &error)),
        }
    }

    /// The request may have been taken: it is never sent a second time (rule 9).
    async fn look_for_snapshot(&self, lost: &CloudError) -> Result<String, ImageFault> {
        let until = Instant::now() + LOOKED_FOR;
        let mark = &self.image.ownership;
        loop {
            let images = self.cloud.images_of(&mark.owner).await.unwrap_or_default();
            let ours =
                |image: &crate::cloud::Image| image.ownership.as_ref().is_some_and(|found| found.record == mark.record);
            if let Some(image) = images.into_iter().find(ours) {
                return Ok(image.id);
            }
            if Instant::now() >= until {
                return Err(refused("the request for a snapshot was not answered, and none was found", lost));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn may_act(&self) -> Result<(), ImageFault> {
        if self.guard.is_current() {
            return Ok(());
        }
        Err(fault(reason::INTERRUPTED, "this replica does not lead any more"))
    }
}

fn setup_failed(error: SetupError) -> ImageFault {
    fault(reason::SETUP_FAILED, error.to_string())
}

pub(super) fn refused(what: &str, error: &CloudError) -> ImageFault {
    let reason = match error.class {
        ErrorClass::Quota => reason::QUOTA_EXCEEDED,
        ErrorClass::Auth => reason::FORBIDDEN,
        ErrorClass::Invalid => reason::INVALID_CONFIGURATION,
        _ => reason::TRANSIENT_ERROR,
    };
    fault(reason, format!("{what}: {error}"))
}
