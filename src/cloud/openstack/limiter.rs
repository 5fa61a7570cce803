//! One rate limiter per Provider, below all retries: decides when the next request may leave.
//!
//! It knows two things: a steady rate, and silence that the cloud asked for (`Retry-After`). It never sends anything,
//! and never lets a request out during silence.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Silence longer than this is answered at once instead of being waited for, so that callers can back off.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

/// The limiter of one Provider.
#[derive(Debug)]
pub(crate) struct Limiter {
    bucket: Mutex<Bucket>,
    /// Where those who are not urgent stand in line: only the first of them holds a turn, so that an urgent request
    /// goes before all others, and however many boots wait, the lists that serve them all do not.
    line: tokio::sync::Mutex<()>,
}

/// Why a request may not leave: the wait would be too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong {
    /// How long it would have been.
    pub(crate) wait: Duration,
}

impl Limiter {
    /// `per_second` must be finite and positive.
    pub(crate) fn new(per_second: f64) -> Self {
        let bucket = Mutex::new(Bucket::new(per_second, Instant::now()));
        Self { bucket, line: tokio::sync::Mutex::default() }
    }

    /// Waits for a turn, at most `patience` for the rate. First come, first served, the urgent before all others.
    pub(crate) async fn turn(&self, urgent: bool, patience: Duration) -> Result<(), TooLong> {
        if urgent {
            return self.first_turn(patience).await;
        }
        let start = Instant::now();
        let Ok(_first) = tokio::time::timeout(patience, self.line.lock()).await else {
            return Err(TooLong { wait: patience });
        };
        self.first_turn(patience.saturating_sub(start.elapsed())).await
    }

    async fn first_turn(&self, patience: Duration) -> Result<(), TooLong> {
        loop {
            let at = self.with(|bucket| bucket.reserve(Instant::now(), patience))?;
            sleep_until(at).await;
            // Silence may have begun meanwhile: then it stands in line again, so that its end is no burst.
            if !self.with(|bucket| bucket.is_silent(Instant::now())) {
                return Ok(());
            }
        }
    }

    /// The cloud asked for silence. A later end wins over an earlier one.
    pub(crate) fn be_silent(&self, wait: Duration) {
        self.with(|bucket| bucket.be_silent(Instant::now() + wait));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Bucket) -> T) -> T {
        act(&mut self.bucket.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A token bucket that holds one second's worth of requests. Pure: it is told the time.
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    burst: Duration,
    /// When the request after the last one would be due at the steady rate.
    next: Instant,
    /// Nothing leaves before this.
    silent_until: Option<Instant>,
}

impl Bucket {
    fn new(per_second: f64, now: Instant) -> Self {
        let interval = Duration::from_secs_f64(1.0 / per_second);
        let burst = Duration::from_secs(1).saturating_sub(interval);
        Self { interval, burst, next: now, silent_until: None }
    }

    fn be_silent(&mut self, until: Instant) {
        self.silent_until = Some(self.silent_until.map_or(until, |before| before.max(until)));
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.silent_until.is_some_and(|until| until > now)
    }

    /// When the next request may leave. A refusal costs nothing.
    fn reserve(&mut self, now: Instant, patience: Duration) -> Result<Instant, TooLong> {
        let earliest = self.silent_until.map_or(now, |until| until.max(now));
        let silence = earliest.duration_since(now);
        if silence > LONGEST_SILENCE {
            return Err(TooLong { wait: silence });
        }
        let due = self.next.max(earliest);
        let at = due.checked_sub(self.burst).map_or(earliest, |at| at.max(earliest));
        let wait = at.duration_since(now);
        if wait > patience + silence {
            return Err(TooLong { wait });
        }
        self.next = due + self.interval;
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    const PATIENT: Duration = Duration::from_secs(3600);

    fn waits(bucket: &mut Bucket, now: Instant, count: usize) -> Vec<Duration> {
        (0..count).map(|_| bucket.reserve(now, PATIENT).unwrap().duration_since(now)).collect()
    }

    #[test]
    fn a_second_of_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10.0, start);
        let first = waits(&mut bucket, start, 12);
        assert!(first[..10].iter().all(Duration::is_zero), "{first:?}");
        assert_eq!(first[10..], [Duration::from_millis(100), Duration::from_millis(200)]);
        let later = start + Duration::from_secs(60);
        let again = waits(&mut bucket, later, 11);
        assert!(again[..10].iter().all(Duration::is_zero), "idle time fills the bucket, and no more: {again:?}");
        assert_eq!(again[10], Duration::from_millis(100));
    }

    #[test]
    fn slower_than_one_a_second() {
        let start = Instant::now();
        let waits = waits(&mut Bucket::new(0.5, start), start, 3);
        assert_eq!(waits, [0, 2, 4].map(Duration::from_secs));
    }

    #[test]
    fn long_silence_is_told_at_once() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100.0, start);
        bucket.be_silent(start + Duration::from_secs(300));
        bucket.be_silent(start + Duration::from_secs(2));
        assert_eq!(bucket.reserve(start, PATIENT), Err(TooLong { wait: Duration::from_secs(300) }));
        let soon = start + Duration::from_secs(295);
        assert_eq!(bucket.reserve(soon, Duration::ZERO), Ok(start + Duration::from_secs(300)));
        assert!(bucket.is_silent(soon) && !bucket.is_silent(start + Duration::from_secs(300)));
    }

    #[test]
    fn a_long_queue_is_told_at_once() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1.0, start);
        bucket.reserve(start, PATIENT).unwrap();
        assert!(bucket.reserve(start, Duration::from_millis(500)).is_err());
        let at = bucket.reserve(start, Duration::from_millis(1500));
        assert_eq!(at, Ok(start + Duration::from_secs(1)), "a refused turn costs nothing");
    }

    proptest! {
        /// Whatever comes when: in no window leave more than its share and one second's worth, and none in silence.
        #[test]
        fn never_faster_than_allowed(
            rate in 1u32..200,
            steps in prop::collection::vec((0u64..400, prop::option::weighted(0.05, 0u64..3000)), 1..200),
        ) {
            let mut now = Instant::now();
            let mut bucket = Bucket::new(f64::from(rate), now);
            let mut left = Vec::new();
            for (gap, silence) in steps {
                now += Duration::from_millis(gap);
                if let Some(silence) = silence {
                    bucket.be_silent(now + Duration::from_millis(silence));
                }
                let at = bucket.reserve(now, PATIENT).unwrap();
                prop_assert!(at >= now && !bucket.is_silent(at));
                left.push(at);
            }
            left.sort();
            for (i, first) in left.iter().enumerate() {
                for (j, last) in left.iter().enumerate().skip(i) {
                    let allowed = last.duration_since(*first).as_secs_f64() * f64::from(rate) + f64::from(rate) + 1.01;
                    prop_assert!((j - i + 1) as f64 <= allowed);
                }
            }
        }
    }

    async fn drained(per_second: f64) -> Arc<Limiter> {
        let limiter = Arc::new(Limiter::new(per_second));
        while limiter.turn(true, Duration::ZERO).await.is_ok() {}
        limiter
    }

    #[tokio::test(start_paused = true)]
    async fn those_already_waiting_keep_the_silence_too() {
        let limiter = drained(1.0).await;
        let waiting = |urgent| {
            let limiter = limiter.clone();
            tokio::spawn(async move { limiter.turn(urgent, PATIENT).await.map(|()| Instant::now()) })
        };
        let all = [waiting(false), waiting(false), waiting(true)];
        tokio::task::yield_now().await;
        let end = Instant::now() + Duration::from_secs(8);
        limiter.be_silent(Duration::from_secs(8));
        for left in futures::future::join_all(all).await {
            assert!(left.unwrap().unwrap() >= end);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_urgent_go_before_a_long_line() {
        let limiter = drained(1.0).await;
        let boots: Vec<_> = (0..50)
            .map(|_| {
                let limiter = limiter.clone();
                tokio::spawn(async move { limiter.turn(false, PATIENT).await })
            })
            .collect();
        tokio::task::yield_now().await;
        let start = Instant::now();
        for _ in 0..3 {
            limiter.turn(true, Duration::from_secs(10)).await.unwrap();
        }
        assert!(start.elapsed() <= Duration::from_secs(6), "{:?}", start.elapsed());
        futures::future::join_all(boots).await;
        assert!(start.elapsed() >= Duration::from_secs(52), "and the rate holds: {:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn patience_has_an_end() {
        let limiter = drained(0.01).await;
        let first = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.turn(false, PATIENT).await }
        });
        tokio::task::yield_now().await;
        let start = Instant::now();
        assert!(limiter.turn(false, Duration::from_secs(60)).await.is_err());
        assert!(start.elapsed() <= Duration::from_secs(61));
        first.await.unwrap().unwrap();
    }
}
