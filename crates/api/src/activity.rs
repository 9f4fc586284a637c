//! What a connection does, counted where it happens, so that one slow timer can
//! tell a busy connection from a stuck one.
//!
//! It is also the place where the words of hyper's own are withheld. hyper refuses
//! what is no HTTP with a bare status line and no way to add to it; but it does so
//! only between two requests, and then nothing that is written can be ours.
//!
//! hyper has a timer for headers of its own. It runs between requests too, so an
//! idle connection would have to end after `header_timeout_ms`, and it is made
//! anew for each request, which costs more than these counters.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::limits::Limits;
use crate::response::Body;

/// What a client must take of an answer within [`Limits::send_stall_ms`], so that a
/// byte now and then does not keep a place for ever. About 2 KiB a second.
const SEND_BYTES_MIN: u64 = 64 * 1024;

/// Counters of one connection. They order nothing else, hence `Relaxed`.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    /// The socket takes nothing more for now.
    write_blocked: AtomicBool,
    requests: AtomicU64,
    answers: AtomicU64,
    /// `bytes_read` when the last answer was ready: what came since then is the
    /// beginning of another request. Not quite: it may be the rest of a body that
    /// was refused unread, and the beginning may have come before. Then the wrong
    /// one of two limits is kept, but one is.
    bytes_before: AtomicU64,
    /// Answers that are in hyper's buffer to their last byte.
    handed_over: AtomicU64,
    /// Answers that the socket has to their last byte.
    flushed: AtomicU64,
    /// The status of the answer that was withheld; 0 for none.
    withheld: AtomicU16,
}

impl Activity {
    /// A request's headers are here.
    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// Its answer is ready to be sent.
    pub(crate) fn answer(&self) {
        self.bytes_before.store(self.bytes_read.load(Relaxed), Relaxed);
        self.answers.fetch_add(1, Relaxed);
    }

    /// Whether a request is being answered.
    fn is_answered(&self) -> bool {
        let answers = self.answers.load(Relaxed);
        self.requests.load(Relaxed) > answers || answers > self.handed_over.load(Relaxed)
    }

    /// As if the socket took nothing more.
    #[cfg(test)]
    pub(crate) fn block(&self) {
        self.write_blocked.store(true, Relaxed);
    }

    /// The status of the answer that hyper gave on its own and that was withheld.
    pub(crate) fn withheld(&self) -> Option<u16> {
        Some(self.withheld.load(Relaxed)).filter(|status| *status != 0)
    }

    /// Whether no request ever came.
    pub(crate) fn is_fresh(&self) -> bool {
        self.requests.load(Relaxed) == 0
    }

    /// Takes note of an answer that is not ours: hyper's head of it begins with
    /// `HTTP/1.1 400`. Tells whether it is one. Where an answer of ours is still on
    /// its way nothing is withheld, so that it can never be one of ours.
    fn withholds(&self, bytes: &[u8]) -> bool {
        if self.flushed.load(Relaxed) != self.requests.load(Relaxed) {
            return false;
        }
        let status = bytes.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
        let status = status.and_then(|digits| digits.parse().ok()).unwrap_or(400);
        // Only the first write has the head.
        let _ = self.withheld.compare_exchange(0, status, Relaxed, Relaxed);
        true
    }
}

/// The body of an answer, which tells when hyper has taken all of it: then it is
/// dropped, also where it is not sent, as for HEAD.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Body,
    activity: Arc<Activity>,
}

impl Answer {
    pub(crate) fn new(body: Body, activity: Arc<Activity>) -> Self {
        Self { body, activity }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.activity.handed_over.fetch_add(1, Relaxed);
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the connection waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiting {
    /// For a handler, or for who makes the body of an answer: they have their own deadlines.
    Handler,
    /// For the rest of the headers, or for the first request.
    Headers,
    /// For another request.
    Request,
    /// For the client to take the answer.
    Client,
}

/// Judges the counters of one connection from time to time.
#[derive(Debug)]
pub(crate) struct Watch {
    activity: Arc<Activity>,
    waiting: Waiting,
    /// Requests and bytes written at `since`.
    progress: (u64, u64),
    since: Instant,
    header_timeout: Duration,
    idle_timeout: Duration,
    send_stall: Duration,
}

impl Watch {
    pub(crate) fn new(activity: Arc<Activity>, limits: &Limits) -> Self {
        let ms = Duration::from_millis;
        Self {
            activity,
            waiting: Waiting::Headers,
            progress: (0, 0),
            since: Instant::now(),
            header_timeout: ms(limits.header_timeout_ms),
            idle_timeout: ms(limits.idle_timeout_ms),
            send_stall: ms(limits.send_stall_ms),
        }
    }

    /// How long until the next look: a limit is noticed at most this much too late.
    pub(crate) fn period(&self) -> Duration {
        let shortest = self.header_timeout.min(self.idle_timeout).min(self.send_stall);
        (shortest / 4).max(Duration::from_millis(5))
    }

    /// Whether what the connection waits for now must come in time.
    pub(crate) fn has_limit(&self) -> bool {
        self.activity.write_blocked.load(Relaxed) || !self.activity.is_answered()
    }

    /// What the connection has waited for longer than it may, if anything.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Waiting> {
        let activity = &self.activity;
        let requests = activity.requests.load(Relaxed);
        let waiting = if activity.write_blocked.load(Relaxed) {
            Waiting::Client
        } else if activity.is_answered() {
            Waiting::Handler
        } else if requests == 0
            || activity.bytes_read.load(Relaxed) > activity.bytes_before.load(Relaxed)
        {
            Waiting::Headers
        } else {
            Waiting::Request
        };
        let progress = (requests, activity.bytes_written.load(Relaxed));
        let moves_on = match waiting {
            Waiting::Client => progress.1 - self.progress.1 >= SEND_BYTES_MIN,
            Waiting::Handler | Waiting::Headers | Waiting::Request => progress != self.progress,
        };
        if waiting != self.waiting || moves_on {
            self.waiting = waiting;
            self.progress = progress;
            self.since = now;
        }
        let limit = match waiting {
            Waiting::Handler => return None,
            Waiting::Headers => self.header_timeout,
            Waiting::Request => self.idle_timeout,
            Waiting::Client => self.send_stall,
        };
        (now.duration_since(self.since) >= limit).then_some(waiting)
    }
}

/// A socket that counts.
#[derive(Debug)]
pub(crate) struct Counted {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl Counted {
    pub(crate) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }

    pub(crate) fn into_inner(self) -> TcpStream {
        self.stream
    }

    /// Whether the client has left a stream that is still made: it will send nothing more, and
    /// nothing else tells that. hyper sees the end of what a client sends only behind all of it,
    /// which it does not read while it answers.
    fn is_left(&self, context: &mut Context<'_>) -> bool {
        let activity = &self.activity;
        if activity.answers.load(Relaxed) <= activity.handed_over.load(Relaxed) {
            return false;
        }
        let ready = std::pin::pin!(self.stream.ready(Interest::READABLE)).poll(context);
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    fn count_write(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if result.is_pending() {
            self.activity.write_blocked.store(true, Relaxed);
        }
        let bytes = ready!(result)?;
        self.activity.write_blocked.store(false, Relaxed);
        self.activity.bytes_written.fetch_add(bytes as u64, Relaxed);
        Poll::Ready(Ok(bytes))
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let bytes = buffer.filled().len() - before;
        self.activity.bytes_read.fetch_add(bytes as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.activity.withholds(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        if self.is_left(context) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.count_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.activity.withholds(slices.first().map_or(&[], |slice| slice)) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        if self.is_left(context) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.count_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper comes here with nothing left in its buffer.
        let flushed = self.activity.handed_over.load(Relaxed);
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.activity.flushed.store(flushed, Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.withheld().is_some() {
            // Something is still to be said.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_must_take_more_than_a_byte_now_and_then() {
        let stall = Duration::from_secs(30);
        let stalls = |bytes_a_look: u64| {
            let activity = Arc::new(Activity::default());
            let mut watch = Watch::new(Arc::clone(&activity), &Limits::default());
            activity.request();
            activity.answer();
            activity.write_blocked.store(true, Relaxed);
            let begin = Instant::now();
            (0..100).map(|look| begin + stall * look / 4).find_map(|now| {
                activity.bytes_written.fetch_add(bytes_a_look, Relaxed);
                watch.look(now)
            })
        };
        assert_eq!(stalls(0), Some(Waiting::Client));
        assert_eq!(stalls(1), Some(Waiting::Client));
        assert_eq!(stalls(SEND_BYTES_MIN / 8), Some(Waiting::Client));
        assert_eq!(stalls(SEND_BYTES_MIN / 3), None);
    }
}
