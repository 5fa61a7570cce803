//! Keeps the shared view of one cloud's servers fresh: decides when to ask for changes, when for a full list, and when
//! to leave the cloud alone.
//!
//! One task per Provider, one question at a time, however many nodes wait (rule 12). It never changes the cloud, never
//! reads Kubernetes, and says nothing while nothing changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::view::{Delta, View};
use super::{Cloud, CloudError, ErrorClass, ServerQuery};

/// How often to ask.
#[derive(Clone, Copy, Debug)]
pub struct PollSettings {
    /// For changes, while something is moving.
    pub moving: Duration,
    /// For changes, while nothing is.
    pub idle: Duration,
    /// For a full list.
    pub full: Duration,
    /// For full lists while something is moving, where the cloud does not answer for changes.
    pub fallback: Duration,
    /// Between two questions, however urgent; longer where the answers are slow, up to `moving`.
    pub gap: Duration,
    /// How far questions for changes reach back beyond the last answer: the clocks of a cloud's machines differ.
    pub overlap: Duration,
    /// How far they reach back when one reached back all of `overlap` less than `far_every` ago. What changes in a
    /// minute in a busy cloud is thousands of servers, too many to be asked for several times a second.
    pub near: Duration,
    /// How often questions for changes reach back all of `overlap`.
    pub far_every: Duration,
    /// After a first failure; doubled with each further one.
    pub first_backoff: Duration,
    /// At most, after failures. The cloud's own `Retry-After` may ask for more.
    pub longest_backoff: Duration,
}

impl Default for PollSettings {
    fn default() -> Self {
        Self {
            moving: Duration::from_secs(1),
            idle: Duration::from_secs(30),
            full: Duration::from_secs(600),
            fallback: Duration::from_secs(5),
            gap: Duration::from_millis(200),
            overlap: Duration::from_secs(60),
            near: Duration::from_secs(5),
            far_every: Duration::from_secs(10),
            first_backoff: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(30),
        }
    }
}

/// What a question brought. None is sent when nothing changed, but for full lists, errors and the first success after.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ViewUpdate {
    /// What is different now.
    pub delta: Delta,
    /// Whether it was a complete list.
    pub full: bool,
    /// Why there was no answer; the view is as it was.
    pub error: Option<CloudError>,
}

/// The view, shared between the poller and all who read it. Locks are held for moments, never across an await.
#[derive(Clone, Debug)]
pub struct SharedView(Arc<RwLock<View>>);

impl SharedView {
    /// Shares a view.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self(Arc::new(RwLock::new(view)))
    }

    /// To look things up.
    pub fn read(&self) -> RwLockReadGuard<'_, View> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A GET by id was answered with "not found".
    pub fn prove_gone(&self, id: &str) {
        self.write().prove_gone(id);
    }

    fn write(&self) -> RwLockWriteGuard<'_, View> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How others steer a [`Poller`]. When the last one is dropped the poller ends.
#[derive(Clone, Debug)]
pub struct PollHandle {
    view: SharedView,
    moving: Arc<watch::Sender<bool>>,
    demand: Arc<Demand>,
}

#[derive(Debug, Default)]
struct Demand {
    wake: Notify,
    full: AtomicBool,
}

impl PollHandle {
    /// What the poller keeps fresh.
    #[must_use]
    pub fn view(&self) -> &SharedView {
        &self.view
    }

    /// Whether something is expected to change: a boot or a deletion under way.
    pub fn set_moving(&self, moving: bool) {
        self.moving.send_if_modified(|now| std::mem::replace(now, moving) != moving);
    }

    /// Asks for changes soon. Many demands make one question.
    pub fn refresh(&self) {
        self.demand.wake.notify_one();
    }

    /// Asks for a full list soon.
    pub fn refresh_full(&self) {
        self.demand.full.store(true, Ordering::Release);
        self.demand.wake.notify_one();
    }
}

/// The one task of a Provider that asks for its servers.
pub struct Poller {
    cloud: Arc<dyn Cloud>,
    view: SharedView,
    settings: PollSettings,
    moving: watch::Receiver<bool>,
    demand: Arc<Demand>,
    updates: mpsc::Sender<ViewUpdate>,
    schedule: Schedule,
}

/// When what is due.
#[derive(Debug)]
struct Schedule {
    asked_at: Option<Instant>,
    /// How long the last answer took.
    took: Duration,
    /// When the last answered question was sent that reached back all of the overlap.
    far_at: Option<Instant>,
    full_due: Option<Instant>,
    /// Until then the cloud is not asked for changes, since it does not answer for them.
    no_changes_until: Option<Instant>,
    failures: u32,
    /// Until then it is not asked at all.
    quiet_until: Option<Instant>,
}

impl Poller {
    /// A poller that fills `view` and tells of what changed through `updates`.
    #[must_use]
    pub fn new(
        cloud: Arc<dyn Cloud>,
        view: SharedView,
        settings: PollSettings,
        updates: mpsc::Sender<ViewUpdate>,
    ) -> (Self, PollHandle) {
        let (sender, moving) = watch::channel(false);
        let demand = Arc::new(Demand::default());
        let handle = PollHandle { view: view.clone(), moving: Arc::new(sender), demand: demand.clone() };
        let schedule = Schedule {
            asked_at: None,
            took: Duration::ZERO,
            far_at: None,
            full_due: None,
            no_changes_until: None,
            failures: 0,
            quiet_until: None,
        };
        (Self { cloud, view, settings, moving, demand, updates, schedule }, handle)
    }

    /// Asks until all handles or the receiver of updates are dropped. May be dropped at any time.
    pub async fn run(mut self) {
        while self.wait().await {
            let update = self.ask().await;
            if let Some(update) = update
                && self.updates.send(update).await.is_err()
            {
                return;
            }
        }
    }

    /// Waits until a question is due; `false` when nobody is left to ask for.
    async fn wait(&mut self) -> bool {
        let mut wanted = false;
        loop {
            let at = self.schedule.next(&self.settings, *self.moving.borrow_and_update(), wanted);
            tokio::select! {
                () = sleep_until(at) => return true,
                changed = self.moving.changed() => if changed.is_err() { return false },
                () = self.demand.wake.notified(), if !wanted => wanted = true,
            }
        }
    }

    fn take(&self, asked: Instant, full: bool, apply: impl FnOnce(&mut View) -> Delta) -> Delta {
        let mut view = self.view.write();
        view.answered(asked, full);
        apply(&mut view)
    }

    async fn ask(&mut self) -> Option<ViewUpdate> {
        let now = Instant::now();
        let demanded = self.demand.full.swap(false, Ordering::AcqRel);
        let far = self.schedule.far_at.is_none_or(|at| now.duration_since(at) >= self.settings.far_every);
        let since = self.view.read().changes_since(if far { self.settings.overlap } else { self.settings.near });
        let query = match since {
            Some(since) if !demanded && self.schedule.changes_will_do(now) => ServerQuery::ChangedSince(since),
            _ => ServerQuery::Full,
        };
        let answer = self.cloud.list_servers(query).await;
        let answered = Instant::now();
        self.schedule.asked_at = Some(answered);
        self.schedule.took = answered.duration_since(now);
        if answer.is_ok() && (far || query == ServerQuery::Full) {
            self.schedule.far_at = Some(now);
        }
        match (answer, query) {
            (Ok(list), ServerQuery::Full) => {
                let delta = self.take(now, true, |view| view.apply_full(list));
                self.schedule.full_due = Some(now + self.settings.full);
                self.schedule.heal();
                Some(ViewUpdate { delta, full: true, error: None })
            }
            (Ok(list), ServerQuery::ChangedSince(_)) => {
                let delta = self.take(now, false, |view| view.apply_changes(list));
                let healed = self.schedule.heal();
                (healed || !delta.is_empty()).then_some(ViewUpdate { delta, ..ViewUpdate::default() })
            }
            (Err(error), ServerQuery::ChangedSince(_)) if error.class == ErrorClass::Invalid => {
                tracing::info!(%error, "asking for full lists instead of changes");
                self.schedule.no_changes_until = Some(now + self.settings.full);
                self.demand.full.store(true, Ordering::Release);
                self.demand.wake.notify_one();
                None
            }
            (Err(error), _) => {
                // It was not the question about changes that is wrong.
                self.schedule.no_changes_until = None;
                if demanded {
                    self.demand.full.store(true, Ordering::Release);
                }
                self.schedule.fail(&error, &self.settings);
                Some(ViewUpdate { error: Some(error), ..ViewUpdate::default() })
            }
        }
    }
}

impl Schedule {
    fn changes_will_do(&self, now: Instant) -> bool {
        self.full_due.is_some_and(|due| now < due) && !self.without_changes(now)
    }

    fn without_changes(&self, now: Instant) -> bool {
        self.no_changes_until.is_some_and(|until| now < until)
    }

    /// When to ask next.
    fn next(&self, settings: &PollSettings, moving: bool, wanted: bool) -> Instant {
        let Some(asked_at) = self.asked_at else { return Instant::now() };
        if let Some(until) = self.quiet_until {
            return until;
        }
        let without_changes = self.without_changes(asked_at);
        let interval = match (moving || wanted, without_changes) {
            _ if wanted => settings.gap.max((self.took * 4).min(settings.moving)),
            (true, true) => settings.fallback.max(settings.moving),
            (true, false) => settings.moving,
            (false, _) => settings.idle,
        };
        let full_due = self.full_due.map_or(asked_at, |due| due.max(asked_at + settings.gap));
        (asked_at + interval).min(full_due)
    }

    /// Whether there was something to heal from.
    fn heal(&mut self) -> bool {
        self.quiet_until = None;
        std::mem::take(&mut self.failures) > 0
    }

    fn fail(&mut self, error: &CloudError, settings: &PollSettings) {
        let backoff = settings.first_backoff.saturating_mul(2u32.saturating_pow(self.failures));
        let wait = backoff.min(settings.longest_backoff).max(error.retry_after.unwrap_or_default());
        self.failures = self.failures.saturating_add(1);
        self.quiet_until = Some(Instant::now() + wait);
    }
}
