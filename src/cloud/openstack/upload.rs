//! Sends the bytes of an image, as they come: once, under the same rate limit as every call, and never again.
//!
//! It may take as long as it takes, but not stand still. Bytes that cannot be read to their end, a cloud that answers
//! before it has all of them and a caller that is gone break the connection in the middle of the body: a part of an image
//! is never passed off as all of it. What came of an upload is for others to read from the image.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Body, Method};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::OpenStack;
use super::call::Call;
use super::catalog::Service;
use super::client::{Ask, Client, checked, refused};
use super::transport::{Failure, Request, Transport, garbage, lost};
use crate::cloud::{CloudError, ErrorClass, ImageBytes, ImageStatus};

/// How long a cloud may be silent once it has all bytes: a proxy that collects them first passes them on only then.
const ANSWER_DEADLINE: Duration = Duration::from_secs(600);
/// Larger chunks are cut: one that takes long on a slow line is no standstill.
const PIECE: usize = 256 << 10;

impl OpenStack {
    pub(super) async fn send_image(&self, id: &str, bytes: ImageBytes) -> Result<(), CloudError> {
        // It also proves the token: what is refused for it later cannot be sent again.
        let image = self.image(id).await?;
        if image.status != ImageStatus::Queued {
            let message = "not sent: the image does not wait for its bytes any more";
            return Err(refused(Call::UploadImage, ErrorClass::Conflict, message));
        }
        let path = ["images", checked(Call::UploadImage, id)?, "file"];
        let ask = Ask { method: Method::PUT, ..Ask::get(Call::UploadImage, Service::Image, &path) };
        self.client.upload(&ask, bytes).await
    }
}

impl Client {
    async fn upload(&self, ask: &Ask<'_>, bytes: ImageBytes) -> Result<(), CloudError> {
        let login = self.login().await?;
        let request = self.request(&login, ask)?;
        self.transport.upload(&request, bytes).await.map_err(|failure| failure.error)
    }
}

impl Transport {
    async fn upload(&self, request: &Request, bytes: ImageBytes) -> Result<(), Failure> {
        self.turn(request).await?;
        let start = Instant::now();
        let outcome = self.send_bytes(request, bytes).await;
        self.report(request, &outcome, start.elapsed());
        outcome
    }

    async fn send_bytes(&self, request: &Request, bytes: ImageBytes) -> Result<(), Failure> {
        let call = request.call;
        let progress = Arc::new(Progress::new());
        let stop = CancellationToken::new();
        let body = Watched::new(bytes, progress.clone(), stop.clone());
        // However this ends: who answers early would be sent the rest all the same.
        let _stop = stop.drop_guard();
        let octets = HeaderValue::from_static("application/octet-stream");
        let builder = self.builder(request).header(CONTENT_TYPE, octets).body(Body::wrap_stream(body));
        let (silence, wait) = (self.deadline(call.deadline()), self.deadline(ANSWER_DEADLINE));
        let outcome = tokio::select! {
            biased;
            outcome = self.answered(request, builder) => outcome,
            sentence = progress.stands_still(silence, wait) => return Err(lost(call, &sentence, None)),
        };
        match (outcome, progress.phase()) {
            (Ok((answer, _)), Phase::Sent) if answer.body.is_empty() => Ok(()),
            (Ok((_, request_id)), Phase::Sent) => Err(garbage(call, request_id)),
            (Ok((_, request_id)), _) => Err(lost(call, "answered before all bytes were sent", request_id)),
            (Err(failure), Phase::Failed) if failure.status.is_none() => {
                Err(lost(call, "aborted: the bytes could not be read to their end", None))
            }
            (Err(failure), _) => Err(failure),
        }
    }
}

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Sending,
    /// All bytes were taken.
    Sent,
    /// The bytes ended in an error.
    Failed,
}

/// When an upload last went on.
struct Progress(Mutex<(Instant, Phase)>);

impl Progress {
    fn new() -> Self {
        Self(Mutex::new((Instant::now(), Phase::Sending)))
    }

    fn note(&self, phase: Phase) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), phase);
    }

    fn last(&self) -> (Instant, Phase) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self) -> Phase {
        self.last().1
    }

    /// Returns when it did not go on for so long, and what to say of it.
    async fn stands_still(&self, silence: Duration, wait: Duration) -> String {
        loop {
            let (at, phase) = self.last();
            let patience = if phase == Phase::Sent { wait } else { silence };
            if at.elapsed() >= patience {
                let seconds = patience.as_secs();
                return match phase {
                    Phase::Sent => format!("all bytes were sent, and no answer came within {seconds} s"),
                    _ => format!("aborted: it stood still for {seconds} s"),
                };
            }
            sleep_until(at + patience).await;
        }
    }
}

/// The bytes on their way: tells of each piece that is taken, and ends in an error once nobody wants them any more.
struct Watched {
    bytes: ImageBytes,
    /// What is left of a chunk that was cut.
    rest: Bytes,
    progress: Arc<Progress>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Watched {
    fn new(bytes: ImageBytes, progress: Arc<Progress>, stop: CancellationToken) -> Self {
        Self { bytes, rest: Bytes::new(), progress, stopped: Box::pin(stop.cancelled_owned()) }
    }
}

impl Stream for Watched {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.stopped.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionAborted.into())));
        }
        // An empty chunk is no progress.
        while self.rest.is_empty() {
            match ready!(self.bytes.as_mut().poll_next(context)) {
                Some(Ok(chunk)) => self.rest = chunk,
                Some(Err(error)) => {
                    self.progress.note(Phase::Failed);
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.progress.note(Phase::Sent);
                    return Poll::Ready(None);
                }
            }
        }
        self.progress.note(Phase::Sending);
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(self.rest.split_to(length))))
    }
}
