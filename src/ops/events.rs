//! Publishes Kubernetes Events without ever making their author wait: a bounded queue, a bucket of tokens, one writer.
//!
//! Events are a courtesy to people. They may be dropped (counted) when there are too many, never block or fail the
//! work they tell of, and never carry more than the API's one kilobyte.

use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, Recorder, Reporter};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::metrics::Metrics;
use super::turns;

/// Events a second that the API server is asked to store in the long run.
const RATE: f64 = 20.0;
/// Events that may be written at once after a quiet time.
const BURST: f64 = 100.0;
/// Events that wait for a token; later ones are dropped.
const QUEUE: usize = 1000;
/// Longest wait for the API server to store one.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// The API refuses a longer note.
const NOTE_BYTES: usize = 1024;
/// The API refuses a longer reason or action.
const WORD_BYTES: usize = 128;

/// Whether an event asks for attention.
pub use kube::runtime::events::EventType as Severity;

struct Entry {
    regarding: ObjectReference,
    event: Event,
}

/// Where events are handed in. Clones share one queue.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Entry>,
    counts: Family<[(&'static str, &'static str); 1], Counter>,
}

/// The other end of the queue; runs until it is told to stop.
pub struct EventWriter {
    queue: mpsc::Receiver<Entry>,
    sink: Box<dyn Sink>,
    counts: Family<[(&'static str, &'static str); 1], Counter>,
}

trait Sink: Send + Sync {
    fn write<'a>(&'a self, entry: &'a Entry) -> BoxFuture<'a, Result<(), kube::Error>>;
}

impl Sink for Recorder {
    fn write<'a>(&'a self, entry: &'a Entry) -> BoxFuture<'a, Result<(), kube::Error>> {
        Box::pin(self.publish(&entry.event, &entry.regarding))
    }
}

impl Events {
    /// A queue and its writer, which publishes in the name of `controller`, running as `instance`.
    pub fn new(client: Client, controller: &str, instance: &str, metrics: &Metrics) -> (Self, EventWriter) {
        let reporter = Reporter { controller: controller.to_owned(), instance: Some(cut(instance, WORD_BYTES)) };
        Self::with_sink(Box::new(Recorder::new(client, reporter)), metrics)
    }

    fn with_sink(sink: Box<dyn Sink>, metrics: &Metrics) -> (Self, EventWriter) {
        let counts = Family::<[(&'static str, &'static str); 1], Counter>::default();
        metrics.register(|registry| {
            registry.register("events", "Kubernetes Events by what became of them", counts.clone());
        });
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self { queue: sender, counts: counts.clone() }, EventWriter { queue: receiver, sink, counts })
    }

    /// Hands in an event about `regarding`. Returns at once, whatever happens to the event.
    pub fn publish(&self, regarding: &ObjectReference, severity: Severity, reason: &str, note: impl Into<String>) {
        let event = Event {
            type_: severity,
            reason: cut(reason, WORD_BYTES),
            note: Some(cut(&note.into(), NOTE_BYTES)),
            action: cut(reason, WORD_BYTES),
            secondary: None,
        };
        match self.queue.try_send(Entry { regarding: regarding.clone(), event }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => count(&self.counts, "dropped"),
            Err(TrySendError::Closed(_)) => count(&self.counts, "unsent"),
        }
    }
}

fn count(counts: &Family<[(&'static str, &'static str); 1], Counter>, result: &'static str) {
    counts.get_or_create(&[("result", result)]).inc();
}

/// The text up to the last whole character that fits, with an ellipsis when something was cut.
fn cut(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes - '…'.len_utf8());
    format!("{}…", &text[..end])
}

impl EventWriter {
    /// Writes what is handed in, until `stop`; what waits then is given up, since leaving fast matters more.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut bucket = Bucket::full();
        loop {
            let entry = tokio::select! {
                () = stop.cancelled() => return,
                entry = self.queue.recv() => match entry {
                    Some(entry) => entry,
                    None => return,
                },
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = bucket.take() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.write(&entry) => {}
            }
        }
    }

    async fn write(&self, entry: &Entry) {
        match turns::told(|| timeout(WRITE_TIMEOUT, self.sink.write(entry))).await {
            Ok(Ok(())) => count(&self.counts, "written"),
            // The object's namespace is going away: nobody is left to read it.
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_forbidden() => {
                debug!(reason = entry.event.reason, %status, "event refused");
                count(&self.counts, "refused");
            }
            Ok(Err(error)) => {
                warn!(reason = entry.event.reason, %error, "cannot write an event");
                count(&self.counts, "failed");
            }
            Err(_) => {
                warn!(reason = entry.event.reason, "no answer to writing an event");
                count(&self.counts, "failed");
            }
        }
    }
}

/// Tokens that come back with time, up to a burst.
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn full() -> Self {
        Self { tokens: BURST, filled: Instant::now() }
    }

    /// Takes one token, waiting until there is one.
    async fn take(&mut self) {
        let now = Instant::now();
        self.tokens = (self.tokens + (now - self.filled).as_secs_f64() * RATE).min(BURST);
        self.filled = now;
        self.tokens -= 1.0;
        if self.tokens < 0.0 {
            sleep(Duration::from_secs_f64(-self.tokens / RATE)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Remembers what was written and when; never answers while `hung`.
    #[derive(Clone, Default)]
    struct Paper {
        lines: Arc<Mutex<Vec<(Instant, String, usize)>>>,
        hung: bool,
    }

    impl Sink for Paper {
        fn write<'a>(&'a self, entry: &'a Entry) -> BoxFuture<'a, Result<(), kube::Error>> {
            Box::pin(async move {
                if self.hung {
                    std::future::pending::<()>().await;
                }
                let note = entry.event.note.as_deref().map_or(0, str::len);
                self.lines.lock().unwrap().push((Instant::now(), entry.event.reason.clone(), note));
                Ok(())
            })
        }
    }

    impl Paper {
        fn len(&self) -> usize {
            self.lines.lock().unwrap().len()
        }
    }

    fn publish(events: &Events, times: usize) {
        for _ in 0..times {
            events.publish(&ObjectReference::default(), Severity::Normal, "Launched", "a note");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_written_at_once_and_the_rest_at_the_rate() {
        let (paper, metrics, stop) = (Paper::default(), Metrics::new("nodepool"), CancellationToken::new());
        let (events, writer) = Events::with_sink(Box::new(paper.clone()), &metrics);
        let began = Instant::now();
        let running = tokio::spawn(writer.run(stop.clone()));
        publish(&events, 140);
        drop(events);
        running.await.unwrap();
        let lines = paper.lines.lock().unwrap();
        assert_eq!(lines.len(), 140);
        assert_eq!(lines[99].0, began);
        let last = lines[139].0 - began;
        assert!((1900..=2100).contains(&last.as_millis()), "40 more at 20/s: {last:?}");
        assert!(metrics.encode().unwrap().contains("nodepool_events_total{result=\"written\"} 140"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_the_queue_is_dropped_and_counted() {
        let (paper, metrics) = (Paper::default(), Metrics::new("nodepool"));
        let (events, writer) = Events::with_sink(Box::new(paper.clone()), &metrics);
        publish(&events, QUEUE + 7);
        assert!(metrics.encode().unwrap().contains("nodepool_events_total{result=\"dropped\"} 7"));
        drop(writer);
        publish(&events, 1);
        assert!(metrics.encode().unwrap().contains("nodepool_events_total{result=\"unsent\"} 1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hung_api_server_costs_one_time_out_an_event_and_never_the_end() {
        let (paper, metrics) = (Paper { hung: true, ..Paper::default() }, Metrics::new("nodepool"));
        let stop = CancellationToken::new();
        let (events, writer) = Events::with_sink(Box::new(paper.clone()), &metrics);
        let running = tokio::spawn(writer.run(stop.clone()));
        publish(&events, 10);
        tokio::time::sleep(WRITE_TIMEOUT * 3 + Duration::from_secs(1)).await;
        assert!(metrics.encode().unwrap().contains("nodepool_events_total{result=\"failed\"} 3"));
        stop.cancel();
        running.await.unwrap();
        assert_eq!(paper.len(), 0);
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("aaaaaaaaaaa", 10), "aaaaaaa…");
        let note = cut(&"ü".repeat(2000), NOTE_BYTES);
        assert!(note.len() <= NOTE_BYTES && note.ends_with('…'));
    }
}
