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
use tokio::time::{Instant, Sleep, sleep};

use crate::context::{ANSWER_BYTES_FREE, Context};
use crate::replica::Replica;
use crate::response::{self, Body, at};
use crate::watch::event::{self, Format};
use crate::watch::follower::{Follower, Turn};
use crate::watch::frame::Frames;

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
        first: Some(first.into()),
        frames: Frames::new(context.watches.sending()),
        quiet,
        timer: Box::pin(sleep(quiet)),
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
    /// What the client is told before anything happens.
    first: Option<Bytes>,
    frames: Frames,
    /// For how long nothing may be said.
    quiet: Duration,
    timer: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

// The timer is pinned by itself.
impl<R> Unpin for Stream<R> {}

impl<R: Replica> Stream<R> {
    fn poll(&mut self, task: &mut Task<'_>) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        loop {
            let Some(follower) = &self.follower else { return Poll::Ready(None) };
            // Who is slow is told nothing new meanwhile, so it costs its queue at the most.
            if self.frames.poll_ready(task).is_pending() {
                return Poll::Pending;
            }
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
                    None => return Poll::Pending,
                },
            }
        }
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
        if self.timer.as_mut().poll(task).is_pending() {
            return None;
        }
        self.put_timer_off();
        // It is to be woken also if nothing is said now.
        let _ = self.timer.as_mut().poll(task);
        let revision = self.follower.as_ref()?.progress()?;
        let mut text = Vec::new();
        event::write_progress(&mut text, revision);
        Some(text.into())
    }

    fn tell(&mut self, text: Vec<u8>, events: usize) -> Poll<Option<Bytes>> {
        self.put_timer_off();
        let bytes = match text.len() {
            ..=ANSWER_BYTES_FREE => Bytes::from(text),
            length => match self.context.admission.answer(length) {
                Ok(room) => response::held(text.into(), room),
                Err(_) => return self.end(overloaded()),
            },
        };
        self.context.watches.count_events(events as u64);
        Poll::Ready(Some(bytes))
    }

    fn put_timer_off(&mut self) {
        self.timer.as_mut().reset(Instant::now() + self.quiet);
    }

    fn end(&mut self, body: WatchEndBody) -> Poll<Option<Bytes>> {
        self.follower = None;
        self.context.watches.counters.dropped.fetch_add(1, Relaxed);
        let name = if body.reason == WatchEnd::Compacted { "compacted" } else { "dropped" };
        let mut text = Vec::new();
        event::write_end(&mut text, name, &body);
        Poll::Ready(Some(text.into()))
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
