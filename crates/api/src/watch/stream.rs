//! A watch as a stream of Server-Sent Events.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderName, Response};
use http_body::{Body as HttpBody, Frame};
use synod_kv::Revision;
use synod_kv::http::{WatchEnd, WatchEndBody};
use synod_kv::read::{self, ReadError};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::context::{ANSWER_BYTES_FREE, Context};
use crate::replica::Replica;
use crate::response::{self, Body, at};
use crate::watch::event::{self, Format};
use crate::watch::follower::{Follower, Turn};
use crate::watch::frame::{Frames, TAKEN_BYTES_MIN};

/// Asks proxies not to collect what should be seen at once.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The answer to a watch that begins behind this revision.
pub(crate) fn answer<R: Replica>(
    context: &Arc<Context<R>>,
    follower: Follower,
    format: Format,
    begin: Revision,
    place: OwnedSemaphorePermit,
) -> Response<Body> {
    let limits = &context.limits;
    // A connection on which nothing moves is taken for idle.
    let quiet_ms = limits.watch_progress_ms.min(limits.idle_timeout_ms / 2).max(1);
    let quiet = Duration::from_millis(quiet_ms);
    let mut first = Vec::new();
    event::write_progress(&mut first, begin);
    let stream = Stream {
        context: Arc::clone(context),
        follower: Some(follower),
        format,
        rest: first.into(),
        last_word: Bytes::new(),
        frames: Frames::new(context.watches.sending()),
        quiet,
        told_at: Instant::now(),
        timer: Box::pin(sleep(quiet)),
        // The connection is cut after twice that: until then it may still say why.
        patience: Duration::from_millis(limits.send_stall_ms / 2),
        slow_timer: None,
        _place: place,
    };
    let mut response = Response::new(Body::Routed(axum::body::Body::new(stream)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    at(response, begin)
}

/// The events, made as fast as the client takes them.
struct Stream<R> {
    context: Arc<Context<R>>,
    /// None at the end.
    follower: Option<Follower>,
    format: Format,
    /// What it is being told: first of all up to where it has everything.
    rest: Bytes,
    /// What it is told behind that, at the end.
    last_word: Bytes,
    frames: Frames,
    /// For how long nothing may be said.
    quiet: Duration,
    /// When something was said last.
    told_at: Instant,
    /// Ends no later than the quiet. It is not put off with each word, only when it ends.
    timer: Pin<Box<Sleep>>,
    /// For how long the client may be slow.
    patience: Duration,
    /// Made when something has to wait for the client.
    slow_timer: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

// The timers are pinned by themselves.
impl<R> Unpin for Stream<R> {}

impl<R: Replica> Stream<R> {
    fn poll(&mut self, task: &mut Task<'_>) -> Poll<Option<Bytes>> {
        loop {
            // Who is slow is told nothing new meanwhile, so it costs its queue at the most.
            if self.follower.is_some() && self.frames.poll_ready(task).is_pending() {
                return self.poll_slow(task);
            }
            let part = self.next_part();
            let Some(follower) = self.follower.as_ref().filter(|_| part.is_none()) else {
                return Poll::Ready(part);
            };
            match follower.poll_turn(task, ANSWER_BYTES_FREE) {
                Poll::Ready(Turn::Stop) => return self.end(stopping()),
                Poll::Ready(Turn::Items(items)) => {
                    let mut text = Vec::new();
                    for item in &items {
                        item.event.write(&mut text, self.format, item.is_last);
                    }
                    return self.tell(text, items.len());
                }
                Poll::Ready(Turn::Read) => match self.read(follower) {
                    Err(error) => return self.end(error),
                    Ok((text, events)) if events > 0 => return self.tell(text, events),
                    Ok(_) if follower.join() => {}
                    Ok(_) => {
                        if let Some(told) = self.poll_quiet(task) {
                            return Poll::Ready(Some(told));
                        }
                        // Others have their turn before the next page.
                        task.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                },
                Poll::Pending => match self.poll_quiet(task) {
                    Some(told) => return Poll::Ready(Some(told)),
                    None => return self.poll_slow(task),
                },
            }
        }
    }

    /// Waits for the client to take what it was told, and gives it up if it hardly does.
    fn poll_slow(&mut self, task: &mut Task<'_>) -> Poll<Option<Bytes>> {
        while let Some(since) = self.frames.slow_since() {
            let at = since + self.patience;
            if at <= Instant::now() {
                return self.end(slow(self.patience));
            }
            let timer = self.slow_timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            timer.as_mut().reset(at);
            if timer.as_mut().poll(task).is_pending() {
                break;
            }
        }
        Poll::Pending
    }

    /// The text of the next page, and how many events it has.
    fn read(&self, follower: &Follower) -> Result<(Vec<u8>, usize), WatchEndBody> {
        let replica = &self.context.replica;
        let page = follower
            .read(ANSWER_BYTES_FREE, |query| replica.read(|map| read::changes(map, query)))
            .map_err(unreadable)?;
        let mut text = Vec::new();
        event::write_page(&mut text, &page, self.format);
        Ok((text, page.changes.len()))
    }

    /// What is said when nothing was for long: up to where everything was told.
    fn poll_quiet(&mut self, task: &mut Task<'_>) -> Option<Bytes> {
        while self.timer.as_mut().poll(task).is_ready() {
            let now = Instant::now();
            let due = self.told_at + self.quiet;
            if due > now {
                self.timer.as_mut().reset(due);
                continue;
            }
            return self.say_progress(task, now);
        }
        None
    }

    fn say_progress(&mut self, task: &mut Task<'_>, now: Instant) -> Option<Bytes> {
        self.told_at = now;
        self.timer.as_mut().reset(now + self.quiet);
        // It is to be woken also if nothing is said now.
        let _ = self.timer.as_mut().poll(task);
        let revision = self.follower.as_ref()?.progress()?;
        let mut text = Vec::new();
        event::write_progress(&mut text, revision);
        Some(text.into())
    }

    fn tell(&mut self, text: Vec<u8>, events: usize) -> Poll<Option<Bytes>> {
        self.told_at = Instant::now();
        let bytes = match text.len() {
            ..=ANSWER_BYTES_FREE => Bytes::from(text),
            length => match self.context.admission.answer(length) {
                Ok(room) => response::held(text.into(), room),
                Err(_) => return self.end(overloaded()),
            },
        };
        self.context.watches.count_events(events as u64);
        self.rest = bytes;
        Poll::Ready(self.next_part())
    }

    /// The next part of what it is being told. Of a large event it can be seen then how the client
    /// takes it.
    fn next_part(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() {
            self.rest = std::mem::take(&mut self.last_word);
        }
        let length = self.rest.len().min(ANSWER_BYTES_FREE);
        (length > 0).then(|| self.rest.split_to(length))
    }

    fn end(&mut self, body: WatchEndBody) -> Poll<Option<Bytes>> {
        self.follower = None;
        self.context.watches.counters.dropped.fetch_add(1, Relaxed);
        // An event that was begun comes to its end first.
        let begun = self.rest.windows(2).position(|two| two == b"\n\n");
        let length = begun.map_or(self.rest.len(), |at| at + 2);
        self.rest.truncate(length);
        let name = if body.reason == WatchEnd::Compacted { "compacted" } else { "dropped" };
        let mut text = Vec::new();
        event::write_end(&mut text, name, &body);
        self.last_word = text.into();
        Poll::Ready(self.next_part())
    }
}

fn stopping() -> WatchEndBody {
    let detail = "This node stops. Watch on at another one, with the last id as Last-Event-ID.";
    WatchEndBody { reason: WatchEnd::Stopping, detail: detail.to_owned(), oldest_revision: None }
}

fn overloaded() -> WatchEndBody {
    let detail = "This node has no memory left for clients that take their answers slowly. Watch \
                  on later or at another node, with the last id as Last-Event-ID.";
    WatchEndBody { reason: WatchEnd::Overloaded, detail: detail.to_owned(), oldest_revision: None }
}

fn slow(patience: Duration) -> WatchEndBody {
    let detail = format!(
        "Less than {} KiB of what waited was taken in {} ms. Watch on with the last id as \
         Last-Event-ID, and take events as they come.",
        TAKEN_BYTES_MIN / 1024,
        patience.as_millis()
    );
    WatchEndBody { reason: WatchEnd::Slow, detail, oldest_revision: None }
}

fn unreadable(error: ReadError) -> WatchEndBody {
    match error {
        ReadError::Compacted { oldest } => WatchEndBody {
            reason: WatchEnd::Compacted,
            detail: format!(
                "What comes next is not kept any more: changes are kept from revision {oldest} on. \
                 List the keys anew, and watch from behind that."
            ),
            oldest_revision: Some(oldest.0),
        },
        error => {
            // What read it tells an operator, and not for each watch.
            tracing::debug!(%error, "the changes can't be read for a watch");
            WatchEndBody {
                reason: WatchEnd::Failed,
                detail: "The state of this node can't be read. Watch on at another one.".to_owned(),
                oldest_revision: None,
            }
        }
    }
}

impl<R: Replica> HttpBody for Stream<R> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frames = self.frames.clone();
        self.poll(task).map(|bytes| bytes.map(|bytes| Ok(Frame::data(frames.send(bytes)))))
    }
}
