//! Whose write goes to the API server next: what somebody waits for, before what is done anyway, before what is only
//! told.
//!
//! The API server spends milliseconds of a processor on each write, so writes that are sent together are answered late
//! together. While urgent ones are under way and are answered slowly, the usual ones go one at a time,
//! and events wait; a fast API server is used in full. Each kind has a bound of its own, so that calls that hang hold
//! up only their kind; one that lasts for [`HELD`] stands in nobody's way any more. A write is made when its turn
//! comes, and its turn is on the heap, since a future grows with each function that hands it on: thousands wait in
//! little memory. Never repeats or drops one.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};

/// Urgent writes at once, and usual ones while no urgent one is under way: more would wait in the API server, each on
/// a connection of its own.
const AT_ONCE: usize = 16;
/// How long an urgent write keeps others back after its answer: the next one follows from it.
const LINGER: Duration = Duration::from_millis(50);
/// How long a write may keep others back.
const HELD: Duration = Duration::from_secs(1);
/// An API server that answers urgent writes within this, on average, has room for others beside them.
const FAST: Duration = Duration::from_millis(10);
/// How much one answer counts for that average.
const WEIGHT: u64 = 8;
/// How long an event waits for a quiet moment.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

static TURNS: Turns = Turns::new();

/// A write that somebody waits for.
pub fn urgent<'a, F>(write: impl FnOnce() -> F + Send + 'a) -> BoxFuture<'a, F::Output>
where
    F: Future<Output: Send> + Send + 'a,
{
    Box::pin(TURNS.urgent(write))
}

/// A write that has time.
pub fn usual<'a, F>(write: impl FnOnce() -> F + Send + 'a) -> BoxFuture<'a, F::Output>
where
    F: Future<Output: Send> + Send + 'a,
{
    Box::pin(TURNS.usual(write))
}

/// A write for people who look later.
pub fn told<'a, F>(write: impl FnOnce() -> F + Send + 'a) -> BoxFuture<'a, F::Output>
where
    F: Future<Output: Send> + Send + 'a,
{
    Box::pin(TURNS.told(write))
}

struct Turns {
    urgent: Semaphore,
    usual: Semaphore,
    /// The one usual write that goes beside urgent ones that are answered slowly.
    beside: Semaphore,
    /// Urgent writes under way, those that linger included.
    busy: AtomicUsize,
    /// How long urgent writes took of late, in microseconds.
    took: AtomicU64,
    calm: Notify,
}

/// An urgent write that is under way.
struct Busy(&'static Turns);

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.calm.notify_waiters();
        }
    }
}

impl Turns {
    const fn new() -> Self {
        Self {
            urgent: Semaphore::const_new(AT_ONCE),
            usual: Semaphore::const_new(AT_ONCE),
            beside: Semaphore::const_new(1),
            busy: AtomicUsize::new(0),
            took: AtomicU64::new(0),
            calm: Notify::const_new(),
        }
    }

    async fn urgent<F: Future>(&'static self, write: impl FnOnce() -> F) -> F::Output {
        // Counted before its turn comes: one that waits for others of its kind is urgent all the same.
        self.busy.fetch_add(1, Ordering::AcqRel);
        let busy = Busy(self);
        // Nobody closes these, so there is always a turn.
        let _place = self.urgent.acquire().await;
        let began = Instant::now();
        let (answer, busy) = holding(busy, Box::pin(write())).await;
        self.learn(began.elapsed());
        if let Some(busy) = busy {
            tokio::spawn(async move {
                tokio::time::sleep(LINGER).await;
                drop(busy);
            });
        }
        answer
    }

    async fn usual<F: Future>(&'static self, write: impl FnOnce() -> F) -> F::Output {
        let _place = self.usual.acquire().await;
        let alone = tokio::select! {
            biased;
            () = self.calm() => None,
            alone = self.beside.acquire() => Some(alone),
        };
        holding(alone, Box::pin(write())).await.0
    }

    async fn told<F: Future>(&'static self, write: impl FnOnce() -> F) -> F::Output {
        // A moment that is never quiet is no reason to tell nothing.
        let _calm = timeout(TOLD_WITHIN, self.calm()).await;
        write().await
    }

    /// An urgent write was answered.
    fn learn(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX / WEIGHT);
        // Two that learn at once may forget one: it is an average.
        let before = self.took.load(Ordering::Relaxed);
        self.took.store((before * (WEIGHT - 1) + took) / WEIGHT, Ordering::Relaxed);
        if self.is_fast() {
            self.calm.notify_waiters();
        }
    }

    fn is_calm(&self) -> bool {
        self.busy.load(Ordering::Acquire) == 0 || self.is_fast()
    }

    fn is_fast(&self) -> bool {
        u128::from(self.took.load(Ordering::Relaxed)) < FAST.as_micros()
    }

    /// Waits until no urgent write is under way, or the API server is fast enough for others beside it.
    async fn calm(&self) {
        loop {
            let calm = self.calm.notified();
            if self.is_calm() {
                return;
            }
            calm.await;
        }
    }
}

/// Does a write and holds something meanwhile, but not for longer than [`HELD`]; gives back what it still holds.
async fn holding<F: Future, H>(held: H, mut write: Pin<Box<F>>) -> (F::Output, Option<H>) {
    match timeout(HELD, &mut write).await {
        Ok(answer) => (answer, Some(held)),
        Err(_) => {
            drop(held);
            (write.await, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::oneshot;

    /// Of an API server that was slow before.
    fn turns() -> &'static Turns {
        let turns = Turns::new();
        turns.took.store(1_000_000, Ordering::Relaxed);
        Box::leak(Box::new(turns))
    }

    /// A write that lasts until it is ended; how many have begun.
    struct Writes {
        begun: Arc<AtomicUsize>,
        ends: Vec<oneshot::Sender<()>>,
    }

    impl Writes {
        fn new() -> Self {
            Self { begun: Arc::default(), ends: Vec::new() }
        }

        fn next(&mut self) -> impl FnOnce() -> BoxFuture<'static, ()> + Send + 'static {
            let (end, ended) = oneshot::channel();
            self.ends.push(end);
            let begun = Arc::clone(&self.begun);
            move || {
                begun.fetch_add(1, Ordering::SeqCst);
                Box::pin(async { ended.await.unwrap() })
            }
        }

        async fn begun(&self, after: Duration) -> usize {
            tokio::time::sleep(after).await;
            self.begun.load(Ordering::SeqCst)
        }
    }

    const SOON: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn usual_writes_go_together_until_an_urgent_one_comes() {
        let turns = turns();
        let (mut usual, mut urgent) = (Writes::new(), Writes::new());
        for _ in 0..20 {
            tokio::spawn(turns.usual(usual.next()));
        }
        assert_eq!(usual.begun(SOON).await, AT_ONCE);
        tokio::spawn(turns.urgent(urgent.next()));
        assert_eq!(urgent.begun(SOON).await, 1, "it waits for none of them");
        usual.ends.drain(..AT_ONCE).for_each(|end| end.send(()).unwrap());
        assert_eq!(usual.begun(SOON).await, AT_ONCE + 1, "one beside it");
        usual.ends.remove(0).send(()).unwrap();
        assert_eq!(usual.begun(SOON).await, AT_ONCE + 2, "and then the next");
        urgent.ends.pop().unwrap().send(()).unwrap();
        assert_eq!(usual.begun(LINGER / 2).await, AT_ONCE + 2, "the next urgent one may follow");
        assert_eq!(usual.begun(LINGER).await, 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_server_is_used_in_full() {
        let turns = turns();
        let (mut usual, mut urgent) = (Writes::new(), Writes::new());
        tokio::spawn(turns.urgent(urgent.next()));
        for _ in 0..AT_ONCE {
            tokio::spawn(turns.usual(usual.next()));
        }
        assert_eq!(usual.begun(SOON).await, 1);
        for _ in 0..WEIGHT * 8 {
            turns.urgent(|| tokio::time::sleep(FAST / 4)).await;
        }
        assert_eq!(usual.begun(SOON).await, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_hangs_keeps_nobody_back_for_long() {
        let turns = turns();
        let (mut usual, mut urgent) = (Writes::new(), Writes::new());
        tokio::spawn(turns.urgent(urgent.next()));
        for _ in 0..3 {
            tokio::spawn(turns.usual(usual.next()));
        }
        assert_eq!(usual.begun(SOON).await, 1);
        assert_eq!(usual.begun(HELD).await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn events_wait_for_a_quiet_moment_but_not_for_ever() {
        let turns = turns();
        let (mut urgent, mut told) = (Writes::new(), Writes::new());
        tokio::spawn(turns.told(told.next()));
        assert_eq!(told.begun(SOON).await, 1);
        tokio::spawn(async move {
            loop {
                turns.urgent(|| tokio::time::sleep(LINGER)).await;
            }
        });
        tokio::spawn(turns.urgent(urgent.next()));
        assert_eq!(urgent.begun(SOON).await, 1);
        tokio::spawn(turns.told(told.next()));
        assert_eq!(told.begun(TOLD_WITHIN / 2).await, 1);
        assert_eq!(told.begun(TOLD_WITHIN).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_urgent_write_that_is_given_up_keeps_nobody_back() {
        let turns = turns();
        let mut urgent = Writes::new();
        let given_up = tokio::spawn(turns.urgent(urgent.next()));
        assert_eq!(urgent.begun(SOON).await, 1);
        given_up.abort();
        timeout(SOON * 10, turns.calm()).await.unwrap();
    }
}
