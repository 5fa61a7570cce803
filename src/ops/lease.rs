//! Elects the one replica that acts, by a `coordination.k8s.io` Lease with client-go's protocol and timings.
//!
//! The lease serves efficiency. It is no fence: a process that was paused can believe for an instant that it still
//! leads, so safety must rest on the API server's own checks, never on this. Clocks of machines are never compared: a
//! lease counts as expired when *we* saw it unchanged for its whole duration.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use thiserror::Error;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, warn};

/// How long the others leave an unchanged lease alone. client-go's default, as are the next two.
const DURATION: Duration = Duration::from_secs(15);
/// How long after its last renewal a leader may act: two thirds of the duration, so it stops well before others start.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often the leader renews.
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// How often a standby looks: a fraction of what a hand-over may take (2 s), which also has to fit the leader's drain.
const STANDBY_PERIOD: Duration = Duration::from_millis(500);
/// Longest wait for one answer, so that several attempts fit into the renew deadline.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for the answer to the release: the process is leaving, and the lease expires by itself.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// Asked at the moment of every effect that leaves the cluster: may this process still act?
#[derive(Clone, Debug)]
pub struct LeaderGuard {
    epoch: Instant,
    until: Arc<AtomicU64>,
}

impl LeaderGuard {
    /// A guard that always says yes: for a process that runs without election.
    pub fn always() -> Self {
        Self { epoch: Instant::now(), until: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    /// A guard that says no until it is opened.
    fn closed() -> Self {
        Self { epoch: Instant::now(), until: Arc::new(AtomicU64::new(0)) }
    }

    /// Whether the lease was renewed recently enough to act. One load and one read of the clock; ask it every time.
    pub fn is_current(&self) -> bool {
        self.millis(Instant::now()) < self.until.load(Ordering::Acquire)
    }

    /// Ends leadership for all holders of this guard, at once and for good: no later renewal can reopen it.
    pub fn revoke(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// Leadership holds until `until`, unless it was revoked meanwhile.
    fn extend(&self, until: Instant) {
        let until = self.millis(until);
        let _revoked =
            self.until.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| (held != 0).then_some(until));
    }

    fn open(&self, until: Instant) {
        self.until.store(self.millis(until), Ordering::Release);
    }

    fn millis(&self, instant: Instant) -> u64 {
        // One is added so that zero stays free for "revoked".
        let elapsed = instant.saturating_duration_since(self.epoch).as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// Who held the lease when this candidate last looked. For people: by the time they read it, another one may.
#[derive(Clone, Debug, Default)]
pub struct LastHolder(Arc<RwLock<Option<String>>>);

impl LastHolder {
    /// Its identity; none while nobody held it, or before the first look.
    pub fn identity(&self) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, lease: Option<&Lease>) {
        let seen = lease.and_then(|lease| lease.spec.as_ref()).and_then(holder).map(str::to_owned);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

/// Why leadership ended. The process must exit: work it started may still be running.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Lost {
    /// Another candidate holds the lease.
    #[error("the lease was taken by {0}")]
    Taken(String),
    /// The lease object is gone, so anybody may hold the next one.
    #[error("the lease was deleted")]
    Deleted,
    /// It could not be renewed in time.
    #[error("the lease could not be renewed within {}s", RENEW_DEADLINE.as_secs())]
    Expired,
}

/// Where the lease is kept; the API server, or a stand-in for tests.
pub trait LeaseStore {
    /// The lease as it is now.
    fn get(&self) -> impl Future<Output = Result<Option<Lease>, kube::Error>> + Send;
    /// Makes the lease; refused when there is one.
    fn create(&self, lease: &Lease) -> impl Future<Output = Result<Lease, kube::Error>> + Send;
    /// Replaces the lease; refused unless it still has this resource version.
    fn replace(&self, lease: &Lease) -> impl Future<Output = Result<Lease, kube::Error>> + Send;
}

/// The lease of this name on the API server.
pub struct ApiLease {
    api: Api<Lease>,
    name: String,
}

impl LeaseStore for ApiLease {
    async fn get(&self) -> Result<Option<Lease>, kube::Error> {
        self.api.get_opt(&self.name).await
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        self.api.create(&PostParams::default(), lease).await
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        self.api.replace(&self.name, &PostParams::default(), lease).await
    }
}

/// A candidate for one lease.
pub struct Election<S = ApiLease> {
    store: S,
    name: String,
    identity: String,
    guard: LeaderGuard,
    last_holder: LastHolder,
}

impl Election {
    /// A candidate for the lease `name` in `namespace`. The identity must be unique among all candidates, also across
    /// restarts: two that share one would both lead.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        let store = ApiLease { api: Api::namespaced(client, namespace), name: name.to_owned() };
        Self::with_store(store, name, identity)
    }
}

/// Why a call gave no answer that can be acted on.
#[derive(Debug, Error)]
enum CallError {
    #[error("no answer within {}s", CALL_TIMEOUT.as_secs())]
    Timeout,
    #[error(transparent)]
    Kube(#[from] kube::Error),
}

impl CallError {
    fn is(&self, check: impl Fn(&kube::core::Status) -> bool) -> bool {
        matches!(self, CallError::Kube(kube::Error::Api(status)) if check(status))
    }
}

impl<S: LeaseStore> Election<S> {
    fn with_store(store: S, name: &str, identity: &str) -> Self {
        let (name, identity) = (name.to_owned(), identity.to_owned());
        Self { store, name, identity, guard: LeaderGuard::closed(), last_holder: LastHolder::default() }
    }

    /// The guard that all who act must ask; it opens when this candidate is elected.
    pub fn guard(&self) -> LeaderGuard {
        self.guard.clone()
    }

    /// Who leads while this candidate does not.
    pub fn last_holder(&self) -> LastHolder {
        self.last_holder.clone()
    }

    /// Waits until this candidate holds the lease. `standing_by` is called once, when the API server has answered for
    /// the first time: from then on this process is a working standby.
    pub async fn acquire(self, standing_by: impl FnOnce()) -> Leadership<S> {
        info!(lease = %self.name, identity = %self.identity, "standing for election");
        let mut standing_by = Some(standing_by);
        let mut rival = Rival::default();
        loop {
            let started = Instant::now();
            match self.look(&mut rival).await {
                Ok(Some(lease)) => {
                    info!(lease = %self.name, identity = %self.identity, "elected");
                    announce(&mut standing_by);
                    return Leadership::new(self, lease, started);
                }
                Ok(None) => announce(&mut standing_by),
                Err(error) if error.is(|s| s.code == 401 || s.code == 403) => error!(
                    %error, lease = %self.name,
                    "not allowed to use the lease: the service account needs get, create and update on leases"
                ),
                Err(error) => warn!(%error, lease = %self.name, "cannot read or take the lease"),
            }
            sleep_until(started + STANDBY_PERIOD).await;
        }
    }

    /// One look at the lease, which takes it when that is due; `None` while another holds it.
    async fn look(&self, rival: &mut Rival) -> Result<Option<Lease>, CallError> {
        let seen = call(self.store.get()).await?;
        self.last_holder.note(seen.as_ref());
        let written = match rival.decide(seen.as_ref(), &self.identity, Instant::now()) {
            Move::Wait => return Ok(None),
            Move::Create => call(self.store.create(&self.claim(ObjectMeta::default(), None))).await,
            Move::Take => {
                let Lease { metadata, spec } = seen.unwrap_or_default();
                call(self.store.replace(&self.claim(metadata, spec.as_ref()))).await
            }
        };
        match written {
            Ok(lease) => Ok(Some(lease)),
            // Another candidate wrote first: it leads, we look again.
            Err(error) if error.is(|s| s.is_conflict() || s.is_already_exists()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The lease with us as its holder, carrying the resource version it was read with.
    fn claim(&self, metadata: ObjectMeta, previous: Option<&LeaseSpec>) -> Lease {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..metadata };
        Lease { metadata, spec: Some(claimed(&self.identity, previous, Timestamp::now())) }
    }
}

fn announce(standing_by: &mut Option<impl FnOnce()>) {
    if let Some(announce) = standing_by.take() {
        announce();
    }
}

async fn call<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match timeout(CALL_TIMEOUT, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(CallError::Timeout),
    }
}

/// What a candidate does after a look at the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// There is no lease: make it.
    Create,
    /// It is free, ours, or expired: take it.
    Take,
    /// Somebody holds it.
    Wait,
}

/// What a candidate remembers of the holder: its record, and when we first saw it like this.
#[derive(Default)]
struct Rival {
    observed: Option<(LeaseSpec, Instant)>,
}

impl Rival {
    fn decide(&mut self, lease: Option<&Lease>, me: &str, now: Instant) -> Move {
        let Some(lease) = lease else { return Move::Create };
        let spec = lease.spec.clone().unwrap_or_default();
        match holder(&spec) {
            // Released; or ours: a claim of which we never got the answer.
            None => return Move::Take,
            Some(holder) if holder == me => return Move::Take,
            Some(_) => {}
        }
        match &self.observed {
            Some((record, since)) if *record == spec => {
                if now.saturating_duration_since(*since) >= expiry(&spec) {
                    Move::Take
                } else {
                    Move::Wait
                }
            }
            _ => {
                debug!(holder = holder(&spec), "the lease is held");
                self.observed = Some((spec, now));
                Move::Wait
            }
        }
    }
}

/// A holder with a longer duration than ours (another version of this program) is given that time.
fn expiry(spec: &LeaseSpec) -> Duration {
    let stated = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
    DURATION.max(Duration::from_secs(stated))
}

fn holder(spec: &LeaseSpec) -> Option<&str> {
    spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

fn claimed(me: &str, previous: Option<&LeaseSpec>, now: Timestamp) -> LeaseSpec {
    let ours = previous.filter(|spec| holder(spec) == Some(me));
    let transitions = match previous {
        None => 0,
        Some(spec) => spec.lease_transitions.unwrap_or(0).saturating_add(i32::from(ours.is_none())),
    };
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: ours.and_then(|spec| spec.acquire_time.clone()).or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}

/// The record without a holder: anybody may take it at once. The count of transitions lives on.
fn released(previous: &LeaseSpec) -> LeaseSpec {
    LeaseSpec { lease_transitions: previous.lease_transitions, ..LeaseSpec::default() }
}

/// The lease, held.
pub struct Leadership<S = ApiLease> {
    election: Election<S>,
    lease: Lease,
    deadline: Instant,
}

/// How one renewal ended.
enum Renewal {
    Renewed(Lease),
    Reread(Lease),
    Lost(Lost),
    Unclear(CallError),
}

impl<S: LeaseStore> Leadership<S> {
    /// `asked` is when the request was sent that won: others may count from the moment it took effect, which is never
    /// earlier.
    fn new(election: Election<S>, lease: Lease, asked: Instant) -> Self {
        let deadline = asked + RENEW_DEADLINE;
        election.guard.open(deadline);
        Self { election, lease, deadline }
    }

    /// Renews until that fails, then says why. The guard is closed by then.
    pub async fn hold(&mut self) -> Lost {
        let lost = self.renew_until_lost().await;
        self.election.guard.revoke();
        lost
    }

    async fn renew_until_lost(&mut self) -> Lost {
        let mut next = Instant::now() + RETRY_PERIOD;
        loop {
            sleep_until(next.min(self.deadline)).await;
            let started = Instant::now();
            next = started + RETRY_PERIOD;
            let Ok(renewal) = tokio::time::timeout_at(self.deadline, self.renew()).await else { return Lost::Expired };
            match renewal {
                Renewal::Renewed(lease) => {
                    self.lease = lease;
                    self.deadline = started + RENEW_DEADLINE;
                    self.election.guard.extend(self.deadline);
                }
                Renewal::Reread(lease) => {
                    self.lease = lease;
                    next = started;
                }
                Renewal::Lost(lost) => return lost,
                Renewal::Unclear(error) => warn!(%error, lease = %self.election.name, "cannot renew the lease"),
            }
            if Instant::now() >= self.deadline {
                return Lost::Expired;
            }
        }
    }

    /// One write with the resource version of the last; a read only when that is refused.
    async fn renew(&self) -> Renewal {
        let claim = self.election.claim(self.lease.metadata.clone(), self.lease.spec.as_ref());
        match call(self.election.store.replace(&claim)).await {
            Ok(lease) => Renewal::Renewed(lease),
            Err(error) if error.is(|s| s.is_conflict()) => self.reread().await,
            Err(error) if error.is(|s| s.is_not_found()) => Renewal::Lost(Lost::Deleted),
            Err(error) => Renewal::Unclear(error),
        }
    }

    /// Somebody wrote: another holder, or ourselves with a write whose answer we never saw.
    async fn reread(&self) -> Renewal {
        match call(self.election.store.get()).await {
            Ok(None) => Renewal::Lost(Lost::Deleted),
            Ok(Some(lease)) => match lease.spec.as_ref().and_then(holder) {
                Some(holder) if holder == self.election.identity => Renewal::Reread(lease),
                other => Renewal::Lost(Lost::Taken(other.unwrap_or("nobody").to_owned())),
            },
            Err(error) => Renewal::Unclear(error),
        }
    }

    /// Closes the guard and gives the lease up, so that a standby takes it at its next look. Best effort: when it
    /// fails, the lease expires.
    pub async fn release(self) {
        self.election.guard.revoke();
        match timeout(RELEASE_TIMEOUT, self.try_release()).await {
            Ok(Ok(())) => info!(lease = %self.election.name, "released the lease"),
            Ok(Err(error)) => warn!(%error, lease = %self.election.name, "cannot release the lease"),
            Err(_) => warn!(lease = %self.election.name, "no answer to the release of the lease"),
        }
    }

    async fn try_release(&self) -> Result<(), kube::Error> {
        match self.election.store.replace(&self.empty(&self.lease)).await {
            Err(kube::Error::Api(status)) if status.is_conflict() => {}
            answer => return answer.map(drop),
        }
        // A renewal of ours may have taken effect after we stopped waiting for it.
        let Some(lease) = self.election.store.get().await? else { return Ok(()) };
        match lease.spec.as_ref().and_then(holder) {
            Some(holder) if holder == self.election.identity => {
                self.election.store.replace(&self.empty(&lease)).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    fn empty(&self, lease: &Lease) -> Lease {
        Lease { metadata: lease.metadata.clone(), spec: lease.spec.as_ref().map(released) }
    }
}

impl<S> fmt::Debug for Leadership<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership").field("lease", &self.election.name).field("guard", &self.election.guard).finish()
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
