//! Makes one stream several, for receivers that are fast, slow or broken.
//!
//! All receivers see the same chunks, and the slowest sets the pace: what is in memory does not grow with their number
//! or with the size of what passes. One that fails is let go, and so is one that takes nothing for two minutes; the
//! others go on. The last chunk is held back until the source has ended well, so that no receiver ever sees the end of
//! something that is not whole. A receiver that must wait for the source or for the others gets a byte now and then: the
//! clouds, and proxies before them, give up on who says nothing for a minute. It never looks at what it passes on.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Chunks, SourceError};

/// The longest chunk: longer ones are split, which copies nothing.
const CHUNK: usize = 1 << 20;
/// How many chunks may wait for a receiver, and so how far the fastest may be ahead of the slowest.
const AHEAD: usize = 8;
/// How long a receiver may take nothing before it is let go.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a receiver is left without a byte, as long as there is one to give.
const DRIP: Duration = Duration::from_secs(20);

/// What became of a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was given everything.
    Served,
    /// It went away before.
    Left,
    /// It took nothing for too long.
    Stalled,
    /// The source failed, and its stream ended in that error.
    Cut,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poured {
    /// How many bytes were given out, or why the source failed.
    pub outcome: Result<u64, SourceError>,
    /// What became of each receiver, in their order.
    pub fates: Vec<Fate>,
}

/// Why a receiver's stream is over.
enum End {
    Whole,
    Broken(SourceError),
    TooSlow,
}

/// One receiver's stream. It ends without an error only when everything was received.
pub struct Branch {
    chunks: mpsc::Receiver<Bytes>,
    end: Arc<OnceLock<End>>,
    left: CancellationToken,
    /// What is given out a byte at a time while nothing else comes.
    reserve: Bytes,
    /// Since something came or was given.
    drip: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl Branch {
    /// Cancel it to let the receiver go even while somebody still holds its stream: a connection that was answered too
    /// early does, and would keep the others waiting.
    #[must_use]
    pub fn leave(&self) -> CancellationToken {
        self.left.clone()
    }
}

/// The side of the source.
pub struct FanOut {
    outlets: Vec<Outlet>,
}

struct Outlet {
    /// None once the receiver got its end, or is gone.
    chunks: Option<mpsc::Sender<Bytes>>,
    end: Arc<OnceLock<End>>,
    left: CancellationToken,
    fate: Fate,
}

/// As many streams as there are receivers. Dropping one lets its receiver go.
#[must_use]
pub fn fan_out(receivers: usize) -> (FanOut, Vec<Branch>) {
    let pair = |_| {
        let (sender, chunks) = mpsc::channel(AHEAD);
        let (end, left) = (Arc::<OnceLock<End>>::default(), CancellationToken::new());
        let outlet = Outlet { chunks: Some(sender), end: Arc::clone(&end), left: left.clone(), fate: Fate::Left };
        (outlet, Branch { chunks, end, left, reserve: Bytes::new(), drip: None, over: false })
    };
    let (outlets, branches) = (0..receivers).map(pair).unzip();
    (FanOut { outlets }, branches)
}

impl FanOut {
    /// Gives everything to all receivers, as fast as they take it; returns when the source has ended or the last
    /// receiver is gone. Dropped before, every receiver's stream ends in an error.
    pub async fn pour(mut self, mut source: Chunks) -> Poured {
        let (mut held, mut poured) = (Bytes::new(), 0);
        loop {
            let next = tokio::select! {
                next = source.next() => next,
                () = self.deserted() => return self.over(Ok(poured)),
            };
            match next {
                Some(Ok(mut chunk)) => {
                    while !chunk.is_empty() {
                        let piece = chunk.split_to(chunk.len().min(CHUNK));
                        poured += self.give(std::mem::replace(&mut held, piece)).await;
                    }
                }
                Some(Err(error)) => {
                    self.end(Fate::Cut, || End::Broken(error.clone()));
                    return self.over(Err(error));
                }
                None if held.is_empty() => {
                    let error = SourceError::invalid("there is not a single byte in it: correct the source");
                    self.end(Fate::Cut, || End::Broken(error.clone()));
                    return self.over(Err(error));
                }
                None => {
                    poured += self.give(held).await;
                    self.end(Fate::Served, || End::Whole);
                    return self.over(Ok(poured));
                }
            }
        }
    }

    /// Gives one chunk to all, and returns its length once the last one has taken it or was let go.
    async fn give(&mut self, chunk: Bytes) -> u64 {
        if !chunk.is_empty() {
            join_all(self.outlets.iter_mut().map(|outlet| outlet.give(chunk.clone()))).await;
        }
        chunk.len() as u64
    }

    /// Returns when no receiver is left.
    async fn deserted(&self) {
        join_all(self.outlets.iter().map(Outlet::gone)).await;
    }

    fn end(&mut self, fate: Fate, end: impl Fn() -> End) {
        self.outlets.iter_mut().for_each(|outlet| outlet.finish(fate, end()));
    }

    fn over(self, outcome: Result<u64, SourceError>) -> Poured {
        Poured { outcome, fates: self.outlets.into_iter().map(|outlet| outlet.fate).collect() }
    }
}

impl Outlet {
    async fn give(&mut self, chunk: Bytes) {
        let Some(chunks) = &self.chunks else { return };
        let taken = tokio::select! {
            taken = timeout(PATIENCE, chunks.send(chunk)) => taken,
            () = self.left.cancelled() => return self.chunks = None,
        };
        match taken {
            Ok(Ok(())) => {}
            Ok(Err(_)) => self.chunks = None,
            Err(_) => self.finish(Fate::Stalled, End::TooSlow),
        }
    }

    /// Returns when the receiver is gone.
    async fn gone(&self) {
        let Some(chunks) = &self.chunks else { return };
        tokio::select! {
            () = chunks.closed() => {}
            () = self.left.cancelled() => {}
        }
    }

    /// The end is written before the channel closes, where the receiver then looks for it.
    fn finish(&mut self, fate: Fate, end: End) {
        if let Some(chunks) = self.chunks.take()
            && !chunks.is_closed()
            && !self.left.is_cancelled()
        {
            self.fate = fate;
            let _ = self.end.set(end);
        }
    }
}

impl Branch {
    /// A byte of the reserve, never its last one, once it is time.
    fn drip(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if self.reserve.len() < 2 {
            return Poll::Pending;
        }
        ready!(self.drip.get_or_insert_with(|| Box::pin(sleep(DRIP))).as_mut().poll(cx));
        self.drip = None;
        Poll::Ready(self.reserve.split_to(1))
    }

    /// What is left to say once nothing more comes.
    fn finish(&mut self) -> Option<io::Result<Bytes>> {
        let reserve = std::mem::take(&mut self.reserve);
        match self.end.get() {
            Some(End::Whole) if !reserve.is_empty() => return Some(Ok(reserve)),
            _ => self.over = true,
        }
        match self.end.get() {
            Some(End::Whole) => None,
            Some(End::Broken(error)) => Some(Err(error.clone().into())),
            Some(End::TooSlow) => Some(Err(io::ErrorKind::TimedOut.into())),
            None => Some(Err(io::Error::other("the source was given up"))),
        }
    }
}

impl Stream for Branch {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.over {
            match self.chunks.poll_recv(cx) {
                Poll::Ready(Some(chunk)) => {
                    self.drip = None;
                    let before = std::mem::replace(&mut self.reserve, chunk);
                    if !before.is_empty() {
                        return Poll::Ready(Some(Ok(before)));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(self.finish()),
                Poll::Pending => return self.drip(cx).map(|byte| Some(Ok(byte))),
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::{TryStreamExt, stream};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::builder::SourceClass;

    fn numbered(count: usize) -> Vec<Result<Bytes, SourceError>> {
        (0..count).map(|number| Ok(Bytes::from(format!("{number} ")))).collect()
    }

    fn source(chunks: Vec<Result<Bytes, SourceError>>) -> Chunks {
        stream::iter(chunks).boxed()
    }

    async fn all(branch: Branch) -> io::Result<Vec<u8>> {
        branch
            .try_fold(Vec::new(), |mut all, chunk| async move {
                all.extend_from_slice(&chunk);
                Ok(all)
            })
            .await
    }

    /// Everything up to the end, and how it ended.
    async fn until_the_end(mut branch: Branch) -> (Vec<u8>, Option<io::Error>) {
        let mut all = Vec::new();
        while let Some(chunk) = branch.next().await {
            match chunk {
                Ok(chunk) => all.extend_from_slice(&chunk),
                Err(error) => return (all, Some(error)),
            }
        }
        (all, None)
    }

    fn wrong() -> SourceError {
        SourceError::new(SourceClass::Mismatch, "wrong digest")
    }

    #[tokio::test]
    async fn all_get_everything() {
        let (fan, branches) = fan_out(3);
        let (poured, got) = tokio::join!(fan.pour(source(numbered(1000))), join_all(branches.into_iter().map(all)));
        let sent: Vec<u8> = numbered(1000).into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(poured, Poured { outcome: Ok(sent.len() as u64), fates: vec![Fate::Served; 3] });
        assert!(got.into_iter().all(|got| got.unwrap() == sent));
    }

    #[tokio::test]
    async fn the_last_chunk_is_held_back_until_the_end_is_good() {
        let (fan, mut branches) = fan_out(2);
        let (end, ended) = tokio::sync::oneshot::channel::<Result<(), SourceError>>();
        let tail = stream::once(ended).filter_map(|end| async { end.unwrap().err().map(Err) });
        let pouring = tokio::spawn(fan.pour(source(numbered(3)).chain(tail).boxed()));
        for branch in &mut branches {
            assert_eq!(branch.next().await.unwrap().unwrap(), "0 ");
            assert!(futures::poll!(branch.next()).is_pending());
        }
        end.send(Err(wrong())).unwrap();
        for branch in branches {
            let (rest, error) = until_the_end(branch).await;
            assert_eq!((rest.as_slice(), error.unwrap().to_string().as_str()), (&b""[..], "wrong digest"));
        }
        assert_eq!(pouring.await.unwrap(), Poured { outcome: Err(wrong()), fates: vec![Fate::Cut; 2] });
    }

    #[tokio::test]
    async fn one_that_fails_is_let_go_and_the_others_go_on() {
        let (fan, mut branches) = fan_out(3);
        let mut failing = branches.remove(1);
        let fails = async move {
            failing.next().await.unwrap().unwrap();
        };
        let (poured, (), got) =
            tokio::join!(fan.pour(source(numbered(500))), fails, join_all(branches.into_iter().map(all)));
        assert_eq!(poured.fates, [Fate::Served, Fate::Left, Fate::Served]);
        assert!(poured.outcome.is_ok() && got.into_iter().all(|got| got.unwrap().ends_with(b"498 499 ")));
    }

    #[tokio::test]
    async fn the_source_stops_when_all_are_gone() {
        let (fan, branches) = fan_out(2);
        // One that has nothing more to say, and never ends.
        let pouring = tokio::spawn(fan.pour(source(numbered(2)).chain(stream::pending()).boxed()));
        drop(branches);
        assert_eq!(pouring.await.unwrap().fates, [Fate::Left, Fate::Left]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_leaves_holds_nobody_up_even_if_its_stream_is_kept() {
        let (fan, mut branches) = fan_out(2);
        let kept = branches.remove(0);
        kept.leave().cancel();
        let start = Instant::now();
        let (poured, got) = tokio::join!(fan.pour(source(numbered(50))), all(branches.remove(0)));
        assert_eq!(poured.fates, [Fate::Left, Fate::Served]);
        assert!(got.is_ok() && start.elapsed() < PATIENCE);
        let (_, error) = until_the_end(kept).await;
        assert!(error.is_some(), "it must never look whole");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_receiver_slows_the_others() {
        let (fan, branches) = fan_out(2);
        let start = Instant::now();
        let mut slow = true;
        let receivers = branches.into_iter().map(|mut branch| {
            let pause = Duration::from_secs(if std::mem::take(&mut slow) { 100 } else { 0 });
            async move {
                while let Some(chunk) = branch.next().await {
                    chunk.unwrap();
                    sleep(pause).await;
                }
            }
        });
        let (poured, _) = tokio::join!(fan.pour(source(numbered(50))), join_all(receivers));
        assert_eq!(poured.fates, [Fate::Served; 2]);
        assert!(start.elapsed() >= Duration::from_secs(100 * 50), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_nothing_for_two_minutes_is_let_go() {
        let (fan, mut branches) = fan_out(2);
        let idle = branches.remove(0);
        let start = Instant::now();
        let (poured, got) = tokio::join!(fan.pour(source(numbered(50))), all(branches.remove(0)));
        assert_eq!(poured.fates, [Fate::Stalled, Fate::Served]);
        assert_eq!(start.elapsed().as_secs(), PATIENCE.as_secs());
        assert!(got.unwrap().ends_with(b"49 "));
        let (late, error) = until_the_end(idle).await;
        assert_eq!(error.unwrap().kind(), io::ErrorKind::TimedOut);
        assert!(!late.ends_with(b"49 "));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_source_or_the_others_gets_a_byte_now_and_then() {
        let (fan, mut branches) = fan_out(2);
        let idle = branches.remove(0);
        let mut waiting = branches.remove(0);
        // The source pauses for five minutes; later the other receiver takes nothing for two.
        let mut numbers = numbered(50).into_iter();
        let first: Vec<_> = numbers.by_ref().take(3).collect();
        let pause = stream::once(sleep(Duration::from_secs(300))).filter_map(|()| async { None });
        let chunks = stream::iter(first).chain(pause).chain(stream::iter(numbers));
        let receives = async move {
            let (mut all, mut last) = (Vec::new(), Instant::now());
            while let Some(chunk) = waiting.next().await {
                let chunk = chunk.unwrap();
                assert!(!chunk.is_empty() && last.elapsed() <= DRIP + Duration::from_millis(1), "{:?}", last.elapsed());
                (last, all) = (Instant::now(), [all, chunk.to_vec()].concat());
            }
            all
        };
        // Long enough a chunk to live on.
        let chunks = chunks.map(|chunk| chunk.map(|chunk| Bytes::from(chunk.repeat(10))));
        let (poured, all) = tokio::join!(fan.pour(chunks.boxed()), receives);
        assert_eq!(poured.fates, [Fate::Stalled, Fate::Served]);
        let sent: Vec<u8> = numbered(50).into_iter().flat_map(|chunk| chunk.unwrap().repeat(10)).collect();
        assert_eq!(all, sent);
        drop(idle);
    }

    #[tokio::test(start_paused = true)]
    async fn the_reserve_never_runs_out_and_is_no_end() {
        let (fan, mut branches) = fan_out(1);
        let late = stream::once(sleep(Duration::from_secs(3600))).map(|()| Err(wrong()));
        let chunks = source(vec![Ok(Bytes::from("abc")), Ok(Bytes::from("def"))]).chain(late);
        let (_, (got, error)) = tokio::join!(fan.pour(chunks.boxed()), until_the_end(branches.remove(0)));
        assert_eq!(got, b"ab");
        assert_eq!(error.unwrap().to_string(), "wrong digest");
    }

    #[tokio::test]
    async fn nothing_at_all_is_an_error() {
        let (fan, mut branches) = fan_out(1);
        let empty = vec![Ok(Bytes::new()), Ok(Bytes::new())];
        let (poured, (_, error)) = tokio::join!(fan.pour(source(empty)), until_the_end(branches.remove(0)));
        assert!(poured.outcome.unwrap_err().message.contains("single byte") && error.is_some());
    }

    #[tokio::test]
    async fn one_that_is_given_up_halfway_ends_in_an_error() {
        let (fan, mut branches) = fan_out(1);
        let mut pouring = Box::pin(fan.pour(source(numbered(3)).chain(stream::pending()).boxed()));
        assert!(futures::poll!(&mut pouring).is_pending());
        drop(pouring);
        let (got, error) = until_the_end(branches.remove(0)).await;
        assert_eq!(got, b"0 ");
        assert!(error.is_some());
    }

    /// Counts how many of its kind are alive.
    struct Counted(Vec<u8>, Arc<AtomicUsize>);

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_sub(self.0.len(), Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn memory_does_not_grow_with_the_number_of_receivers() {
        const SIZE: usize = 3 << 20;
        let (alive, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&alive), Arc::clone(&most));
        let chunks = stream::iter(0..60).map(move |_| {
            let now = counts.0.fetch_add(SIZE, Ordering::Relaxed) + SIZE;
            counts.1.fetch_max(now, Ordering::Relaxed);
            Ok(Bytes::from_owner(Counted(vec![0; SIZE], Arc::clone(&counts.0))))
        });
        let (fan, branches) = fan_out(20);
        let sizes = branches.into_iter().enumerate().map(|(number, mut branch)| async move {
            let mut size = 0;
            while let Some(chunk) = branch.next().await {
                let chunk = chunk.unwrap();
                assert!(chunk.len() <= CHUNK);
                size += chunk.len();
                // Each at a pace of its own.
                for _ in 0..number {
                    tokio::task::yield_now().await;
                }
            }
            size
        });
        let (poured, sizes) = tokio::join!(fan.pour(chunks.boxed()), join_all(sizes));
        assert_eq!(poured.outcome, Ok(60 * SIZE as u64));
        assert!(sizes.into_iter().all(|size| size == 60 * SIZE));
        let most = most.load(Ordering::Relaxed);
        assert!(most <= (AHEAD + 3) * CHUNK + 2 * SIZE, "{} MiB", most >> 20);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }
}
