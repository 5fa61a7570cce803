//! The election against a lease kept in memory, in paused time.

use std::sync::{Mutex, MutexGuard};

use kube::core::Status;

use super::*;

const T0: &str = "2026-01-01T00:00:00Z";

/// A lease as the API server would keep it, with failures on demand.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Lease>,
    version: u64,
    hung: bool,
    /// The next write takes effect, but its answer is lost.
    lose_answer: bool,
    reads: usize,
    writes: usize,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn holder(&self) -> Option<String> {
        self.lock().lease.as_ref()?.spec.as_ref()?.holder_identity.clone()
    }

    fn put(&self, spec: LeaseSpec) {
        self.lock().put(Lease { spec: Some(spec), ..Lease::default() });
    }

    async fn answer<T>(&self, answer: Result<T, kube::Error>) -> Result<T, kube::Error> {
        let hung = {
            let mut state = self.lock();
            state.hung || (answer.is_ok() && std::mem::take(&mut state.lose_answer))
        };
        if hung { std::future::pending().await } else { answer }
    }
}

impl State {
    fn put(&mut self, mut lease: Lease) -> Lease {
        self.version += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease.clone());
        lease
    }
}

fn refused(reason: &str, code: u16) -> kube::Error {
    kube::Error::Api(Box::new(Status::failure("refused", reason).with_code(code)))
}

impl LeaseStore for Kept {
    async fn get(&self) -> Result<Option<Lease>, kube::Error> {
        let lease = {
            let mut state = self.lock();
            state.reads += 1;
            state.lease.clone()
        };
        if self.lock().hung { std::future::pending().await } else { Ok(lease) }
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        let answer = {
            let mut state = self.lock();
            match state {
                _ if state.hung => Err(refused("Never", 500)),
                _ if state.lease.is_some() => Err(refused("AlreadyExists", 409)),
                _ => Ok(state.put(lease.clone())),
            }
        };
        self.answer(answer).await
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        let answer = {
            let mut state = self.lock();
            state.writes += 1;
            let kept = state.lease.as_ref().map(|kept| kept.metadata.resource_version.clone());
            match kept {
                _ if state.hung => Err(refused("Never", 500)),
                None => Err(refused("NotFound", 404)),
                Some(version) if version != lease.metadata.resource_version => Err(refused("Conflict", 409)),
                Some(_) => Ok(state.put(lease.clone())),
            }
        };
        self.answer(answer).await
    }
}

fn candidate(kept: &Kept, name: &str) -> Election<Kept> {
    Election::with_store(kept.clone(), "lease", name)
}

fn held_by(name: &str, transitions: i32) -> LeaseSpec {
    LeaseSpec { lease_transitions: Some(transitions), ..claimed(name, None, T0.parse().unwrap()) }
}

async fn elect(kept: &Kept, name: &str) -> Leadership<Kept> {
    candidate(kept, name).acquire(|| {}).await
}

async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[test]
fn a_claim_counts_transitions_and_keeps_its_start() {
    let (t0, t1): (Timestamp, Timestamp) = (T0.parse().unwrap(), "2026-01-02T00:00:00Z".parse().unwrap());
    let first = claimed("a", None, t0);
    assert_eq!((first.lease_transitions, first.lease_duration_seconds), (Some(0), Some(15)));
    let renewed = claimed("a", Some(&first), t1);
    assert_eq!((renewed.acquire_time, renewed.renew_time), (Some(MicroTime(t0)), Some(MicroTime(t1))));
    let taken = claimed("b", Some(&first), t1);
    assert_eq!((taken.lease_transitions, taken.acquire_time.clone()), (Some(1), Some(MicroTime(t1))));
    let free = released(&taken);
    assert_eq!((free.holder_identity.clone(), free.lease_transitions), (None, Some(1)));
    assert_eq!(claimed("a", Some(&free), t1).lease_transitions, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_rival_expires_by_what_we_saw_not_by_its_clock() {
    let mut rival = Rival::default();
    let long_ago = Lease { spec: Some(held_by("other", 0)), ..Lease::default() };
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(rival.decide(None, "me", start), Move::Create);
    assert_eq!(rival.decide(Some(&long_ago), "me", start), Move::Wait, "an old time stamp proves nothing");
    assert_eq!(rival.decide(Some(&long_ago), "me", after(14)), Move::Wait);
    let renewed = Lease {
        spec: Some(claimed("other", long_ago.spec.as_ref(), "2026-01-01T00:00:01Z".parse().unwrap())),
        ..Lease::default()
    };
    assert_eq!(rival.decide(Some(&renewed), "me", after(15)), Move::Wait, "any change starts the count anew");
    assert_eq!(rival.decide(Some(&renewed), "me", after(29)), Move::Wait);
    assert_eq!(rival.decide(Some(&renewed), "me", after(30)), Move::Take);
    let own = Lease { spec: Some(held_by("me", 0)), ..Lease::default() };
    assert_eq!(rival.decide(Some(&own), "me", start), Move::Take);
    assert_eq!(rival.decide(Some(&Lease::default()), "me", start), Move::Take, "released");
    let slow = LeaseSpec { lease_duration_seconds: Some(60), ..held_by("slow", 0) };
    assert_eq!(expiry(&slow), Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn the_first_candidate_leads_and_renews() {
    let kept = Kept::default();
    let election = candidate(&kept, "a");
    let guard = election.guard();
    assert!(!guard.is_current());
    let mut leadership = election.acquire(|| {}).await;
    assert!(guard.is_current());
    let minute = tokio::time::timeout(Duration::from_secs(60), leadership.hold()).await;
    assert!(minute.is_err(), "still leads");
    assert!(guard.is_current());
    let state = kept.lock();
    assert_eq!(state.reads, 1, "a renewal is one write");
    assert!((29..=31).contains(&state.writes), "{}", state.writes);
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_within_two_seconds() {
    let kept = Kept::default();
    let leader = elect(&kept, "a").await;
    let guard = leader.election.guard();
    let standing_by = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&standing_by);
    let election = candidate(&kept, "b");
    let last_holder = election.last_holder();
    assert_eq!(last_holder.identity(), None, "nobody has looked yet");
    let standby = tokio::spawn(election.acquire(move || told.store(1, Ordering::SeqCst)));
    pass(Duration::from_secs(3)).await;
    assert!(!standby.is_finished());
    assert_eq!(standing_by.load(Ordering::SeqCst), 1, "a waiting standby is ready");
    assert_eq!(last_holder.identity().as_deref(), Some("a"));
    let released = Instant::now();
    leader.release().await;
    assert!(!guard.is_current());
    standby.await.unwrap();
    assert!(released.elapsed() <= Duration::from_secs(1), "{:?}", released.elapsed());
    assert_eq!(kept.holder().as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_leader_is_replaced_only_after_it_stopped_acting() {
    let kept = Kept::default();
    let leader = elect(&kept, "a").await;
    let guard = leader.election.guard();
    let began = Instant::now();
    // The leader is paused: nobody renews.
    let _second = elect(&kept, "b").await;
    assert!(!guard.is_current());
    assert!(began.elapsed() >= DURATION && began.elapsed() < DURATION + Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_at_the_deadline() {
    let kept = Kept::default();
    let mut leader = elect(&kept, "a").await;
    let guard = leader.election.guard();
    let began = Instant::now();
    kept.lock().hung = true;
    assert_eq!(leader.hold().await, Lost::Expired);
    assert_eq!(began.elapsed().as_secs(), RENEW_DEADLINE.as_secs());
    assert!(!guard.is_current());
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_costs_nothing() {
    let kept = Kept::default();
    let mut leader = elect(&kept, "a").await;
    let guard = leader.election.guard();
    let holding = tokio::spawn(async move { leader.hold().await });
    for _ in 0..5 {
        kept.lock().hung = true;
        pass(Duration::from_secs(6)).await;
        assert!(guard.is_current());
        kept.lock().hung = false;
        pass(Duration::from_secs(6)).await;
        assert!(guard.is_current());
    }
    assert!(!holding.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_was_lost_is_recognised() {
    let kept = Kept::default();
    let mut leader = elect(&kept, "a").await;
    let guard = leader.election.guard();
    kept.lock().lose_answer = true;
    let held = tokio::time::timeout(Duration::from_secs(30), leader.hold()).await;
    assert!(held.is_err() && guard.is_current(), "{held:?}");
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_is_recognised() {
    let kept = Kept::default();
    kept.lock().lose_answer = true;
    let began = Instant::now();
    let _leader = elect(&kept, "a").await;
    assert!(began.elapsed() < Duration::from_secs(5), "needs no expiry: {:?}", began.elapsed());
    assert_eq!(kept.holder().as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn another_holder_or_a_deleted_lease_end_leadership() {
    let kept = Kept::default();
    let mut leader = elect(&kept, "a").await;
    kept.put(held_by("b", 1));
    assert_eq!(leader.hold().await, Lost::Taken("b".to_owned()));
    assert!(!leader.election.guard().is_current());

    let kept = Kept::default();
    let mut leader = elect(&kept, "a").await;
    kept.lock().lease = None;
    assert_eq!(leader.hold().await, Lost::Deleted);
}

#[tokio::test(start_paused = true)]
async fn a_release_never_touches_another_holder() {
    let kept = Kept::default();
    let leader = elect(&kept, "a").await;
    kept.put(held_by("b", 1));
    leader.release().await;
    assert_eq!(kept.holder().as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_release_follows_a_renewal_of_its_own_it_never_saw() {
    let kept = Kept::default();
    let leader = elect(&kept, "a").await;
    kept.put(held_by("a", 0));
    leader.release().await;
    assert_eq!(kept.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn many_candidates_make_one_leader() {
    let kept = Kept::default();
    let mut candidates = tokio::task::JoinSet::new();
    for name in 0..10 {
        candidates.spawn(candidate(&kept, &format!("c{name}")).acquire(|| {}));
    }
    let first = candidates.join_next().await.unwrap().unwrap();
    assert!(first.election.guard().is_current());
    pass(Duration::from_secs(5)).await;
    assert!(candidates.try_join_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_revoked_guard_stays_closed() {
    let guard = LeaderGuard::closed();
    guard.open(Instant::now() + DURATION);
    assert!(guard.is_current());
    guard.revoke();
    guard.extend(Instant::now() + DURATION);
    assert!(!guard.is_current());
    let always = LeaderGuard::always();
    pass(Duration::from_secs(1_000_000)).await;
    assert!(always.is_current());
}
