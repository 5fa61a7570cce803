//! What this process does for versions that are being made, and what it saw of them.
//!
//! Lost with the process: what another life had begun is taken over only as far as its record tells (rule 14).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::index::Key;
use super::super::{Engine, Mark};
use crate::api::conditions::reason;
use crate::api::provider_image::{ImageFault, Progress};
use crate::builder::shell::PrivateKey as LoginKey;
use crate::plan::image::{Launches, version};

/// How often progress and output are written at most.
const SHOWN_EVERY: Duration = Duration::from_secs(5);
/// How many launches of a version are judged, and for how long.
const LAUNCHES: usize = 20;
const LAUNCHES_LAST: SignedDuration = SignedDuration::from_hours(1);

/// What the process remembers of versions.
#[derive(Default)]
pub struct Memory {
    /// Those that this process makes, by uid.
    pub(super) works: HashMap<String, Work>,
    /// Removals from the cloud, by uid.
    pub(super) removals: HashMap<String, Removing>,
    /// Why a server of a version failed, by the version's uid.
    pub(super) faults: HashMap<String, ImageFault>,
    /// The last launch for a version that failed without its being why, by its uid.
    pub(super) troubles: HashMap<String, String>,
    /// Versions whose launches failed, and what was seen: their rejection is to be written.
    pub(super) turned: HashMap<String, String>,
    /// Recent launches of each version.
    launches: HashMap<Key, VecDeque<(Timestamp, bool)>>,
}

/// One version that this process makes.
pub struct Work {
    /// How far it is.
    pub state: version::Work,
    /// The image in the cloud that its server boots: source `snapshot`.
    pub base_image: Option<String>,
    /// The key by which its server is logged into.
    pub key: Option<Arc<LoginKey>>,
    /// Its image in the cloud, once named.
    pub image_id: Option<String>,
    /// It is on its way into the cloud.
    pub uploading: bool,
    /// How much of it is there.
    pub progress: Option<Progress>,
    /// The last lines it printed.
    pub log: String,
    /// Why it failed.
    pub fault: Option<ImageFault>,
    /// Whoever works for it stops when this is cancelled, and it is when nobody waits for it any more.
    pub cancel: CancellationToken,
    /// Cancels it at the end of this.
    pub ends: DropGuard,
}

impl Work {
    /// Work in this state that has done nothing yet.
    #[must_use]
    pub fn new(state: version::Work) -> Self {
        let cancel = CancellationToken::new();
        Self {
            state,
            base_image: None,
            key: None,
            image_id: None,
            uploading: false,
            progress: None,
            log: String::new(),
            fault: None,
            ends: cancel.clone().drop_guard(),
            cancel,
        }
    }
}

/// The removal of what a version has in the cloud.
#[derive(Debug)]
pub(super) struct Removing {
    pub(super) state: version::Removal,
    pub(super) failures: u32,
    /// Why it is still there.
    pub(super) refusal: Option<(&'static str, String)>,
}

impl Memory {
    /// Takes up the work on a version.
    pub fn begin(&mut self, uid: String, work: Work) {
        self.works.insert(uid, work);
    }

    /// A launch of a version ended.
    pub(super) fn note_launch(&mut self, version: Key, good: bool, now: Timestamp) {
        let seen = self.launches.entry(version).or_default();
        seen.push_back((now, good));
        while seen.len() > LAUNCHES || seen.front().is_some_and(|(at, _)| now.duration_since(*at) > LAUNCHES_LAST) {
            seen.pop_front();
        }
    }

    /// The recent launches of a version.
    pub(super) fn launches(&self, version: &Key) -> Option<Launches> {
        let seen = self.launches.get(version)?;
        let good = seen.iter().filter(|(_, good)| *good).count();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Some(Launches { good: count(good), bad: count(seen.len() - good) })
    }

    /// A version's record is gone.
    pub(super) fn forget(&mut self, uid: &str, key: &Key) {
        self.works.remove(uid);
        self.removals.remove(uid);
        self.faults.remove(uid);
        self.troubles.remove(uid);
        self.turned.remove(uid);
        self.launches.remove(key);
    }
}

/// What work beside the engine tells of a version.
pub enum News {
    /// Its image has an id.
    Image(String),
    /// It is on its way into the cloud.
    Uploading,
    /// So many bytes of the file were read, of so many.
    Progress(u64, Option<u64>),
    /// What it printed last.
    Printed(String),
    /// The image is active.
    Made,
    /// It could not be made.
    Failed(ImageFault),
}

/// Takes news of a version; those of a version that is not worked for any more say nothing.
pub fn tell(engine: &mut Engine, key: &Key, uid: &str, news: News) {
    let Some(work) = engine.memory.works.works.get_mut(uid) else { return };
    let urgent = !matches!(news, News::Progress(..) | News::Printed(_));
    match news {
        News::Image(id) => work.image_id = Some(id),
        News::Uploading => work.uploading = true,
        News::Progress(bytes, total) => work.progress = Some(progress(bytes, total)),
        News::Printed(tail) => work.log = tail,
        News::Made => work.state = version::Work::Made,
        News::Failed(fault) => {
            tracing::warn!(version = %key, reason = fault.reason, message = fault.message, "version not made");
            let by_cloud =
                [reason::UPLOAD_FAILED, reason::IMAGE_LOST, reason::TRANSIENT_ERROR].contains(&&*fault.reason);
            work.state = version::Work::Failed;
            work.fault = Some(fault);
            if by_cloud {
                in_trouble(engine, key);
            }
        }
    }
    let mark = Mark::ProviderImage(key.clone());
    if urgent { engine.mark(mark) } else { engine.mark_within(SHOWN_EVERY, mark) }
}

/// The cloud of a version failed it: its services are asked which of them is away.
pub(super) fn in_trouble(engine: &mut Engine, key: &Key) {
    let Some(version) = engine.provider_images.get(key) else { return };
    let provider = key.sibling(&version.spec.provider);
    let now = engine.now;
    if let Some(connection) = engine.connections.get_mut(&provider) {
        connection.service_failed(now);
        engine.mark(Mark::Provider(provider));
    }
}

fn progress(bytes: u64, total: Option<u64>) -> Progress {
    let percent = total.filter(|total| *total > 0).map(|total| bytes.min(total).saturating_mul(100) / total);
    Progress {
        bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        total_bytes: total.map(|total| i64::try_from(total).unwrap_or(i64::MAX)),
        percent: percent.and_then(|percent| i32::try_from(percent).ok()),
    }
}

/// A fault with no console.
pub fn fault(reason: &str, message: impl Into<String>) -> ImageFault {
    let mut message: String = message.into();
    message.truncate(message.floor_char_boundary(2048));
    ImageFault { reason: reason.to_owned(), message, console: None }
}
