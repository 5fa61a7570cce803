//! One rate limiter per Provider, below all retries: decides when the next request may leave.
//!
//! It knows two things: a steady rate, and silence that the cloud asked for (`Retry-After`). It never sends anything,
//! and never lets a request out during silence.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Silence longer than this is answered at once instead of being waited for, so that callers can back off.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

/// A token bucket that holds one second's worth of requests.
#[derive(Debug)]
pub(crate) struct Limiter {
    interval: Duration,
    burst: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the bucket would be empty of debts: the classic "theoretical arrival time" of a leaky bucket.
    next: Instant,
    /// Nothing leaves before this.
    silent_until: Option<Instant>,
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
        let interval = Duration::from_secs_f64(1.0 / per_second);
        let burst = if interval >= Duration::from_secs(1) { Duration::ZERO } else { Duration::from_secs(1) - interval };
        Self { interval, burst, state: Mutex::new(State { next: Instant::now(), silent_until: None }) }
    }

    /// Waits for a turn, at most `patience` for the rate. First come, first served. A caller that gives up while
    /// waiting loses its turn, which only makes the rate lower.
    pub(crate) async fn turn(&self, patience: Duration) -> Result<(), TooLong> {
        loop {
            sleep_until(self.reserve(patience)?).await;
            // Silence may have begun while this request stood in the queue: then it stands in line again, so that
            // the end of a silence is no burst.
            if !self.is_silent() {
                return Ok(());
            }
        }
    }

    /// The cloud asked for silence. A later end wins over an earlier one.
    pub(crate) fn be_silent(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut state = self.lock();
        state.silent_until = Some(state.silent_until.map_or(until, |before| before.max(until)));
    }

    fn is_silent(&self) -> bool {
        self.lock().silent_until.is_some_and(|until| until > Instant::now())
    }

    fn reserve(&self, patience: Duration) -> Result<Instant, TooLong> {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(until) = state.silent_until {
            let wait = until.saturating_duration_since(now);
            if wait > LONGEST_SILENCE {
                return Err(TooLong { wait });
            }
            state.next = state.next.max(until);
        }
        let base = state.next.max(now);
        // Full credit when idle: up to `burst` ahead of the steady rate.
        let at = (base.checked_sub(self.burst).unwrap_or(now)).max(now);
        let at = state.silent_until.map_or(at, |until| at.max(until)).max(now);
        let wait = at.saturating_duration_since(now);
        if wait > patience {
            return Err(TooLong { wait });
        }
        state.next = base + self.interval;
        Ok(at)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn leave(limiter: &Limiter, count: usize) -> Duration {
        let start = Instant::now();
        for _ in 0..count {
            limiter.turn(Duration::from_secs(3600)).await.unwrap();
        }
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_of_burst_then_the_rate() {
        let limiter = Limiter::new(10.0);
        assert!(leave(&limiter, 10).await < Duration::from_millis(5));
        let took = leave(&limiter, 20).await;
        assert!((1990..=2010).contains(&took.as_millis()), "{took:?}");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(leave(&limiter, 10).await < Duration::from_millis(5), "idle time fills the bucket, and no more");
        assert!(leave(&limiter, 1).await >= Duration::from_millis(90));
    }

    #[tokio::test(start_paused = true)]
    async fn slower_than_one_a_second() {
        let limiter = Limiter::new(0.5);
        let took = leave(&limiter, 3).await;
        assert!((3990..=4010).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_kept_also_by_those_already_waiting() {
        let limiter = std::sync::Arc::new(Limiter::new(1.0));
        limiter.turn(Duration::ZERO).await.unwrap();
        let start = Instant::now();
        let waiting = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.turn(Duration::from_secs(60)).await.map(|()| Instant::now()) }
        });
        tokio::task::yield_now().await;
        limiter.be_silent(Duration::from_secs(8));
        limiter.be_silent(Duration::from_secs(2));
        let left = waiting.await.unwrap().unwrap();
        assert!(left.duration_since(start) >= Duration::from_secs(8));
    }

    #[tokio::test(start_paused = true)]
    async fn long_silence_is_told_at_once() {
        let limiter = Limiter::new(100.0);
        limiter.be_silent(Duration::from_secs(300));
        let start = Instant::now();
        let refused = limiter.turn(Duration::from_secs(600)).await.unwrap_err();
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(refused.wait > Duration::from_secs(290));
        tokio::time::advance(Duration::from_secs(300)).await;
        assert!(limiter.turn(Duration::ZERO).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_queue_is_told_at_once() {
        let limiter = Limiter::new(1.0);
        limiter.turn(Duration::ZERO).await.unwrap();
        assert!(limiter.turn(Duration::from_millis(500)).await.is_err());
        assert!(limiter.turn(Duration::from_millis(1500)).await.is_ok(), "a refused turn costs nothing");
    }
}
