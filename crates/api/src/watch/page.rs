//! A watch that waits for one page, for clients without Server-Sent Events.

use std::future::poll_fn;

use http::header::{CACHE_CONTROL, HeaderValue};
use http::{Response, StatusCode};
use synod_kv::Revision;
use synod_kv::http::{EventBody, WatchPage};
use synod_kv::read::{self, ChangePage, ChangePoint};
use tokio::time::{Instant, timeout_at};

use crate::context::Context;
use crate::problem::Problem;
use crate::replica::Replica;
use crate::response::{self, Body, at};
use crate::watch::event::Format;
use crate::watch::follower::{Follower, Turn};

/// Answers as soon as something happened, and at the latest then.
///
/// # Errors
/// When what comes next is compacted, or the state can't be read, or the answer is large and
/// too many such wait for their clients.
pub(crate) async fn answer<R: Replica>(
    context: &Context<R>,
    follower: Follower,
    format: Format,
    until: Instant,
) -> Result<Response<Body>, Problem> {
    let (replica, bytes_max) = (&context.replica, context.limits.list_bytes_max);
    loop {
        let page = follower
            .read(bytes_max, |query| replica.read(|map| read::changes(map, query)))
            .map_err(Problem::from)?;
        if !page.changes.is_empty() {
            return tell(context, &page, format);
        }
        if !follower.join() {
            if Instant::now() >= until {
                return tell(context, &page, format);
            }
            // A stretch of other keys: others have their turn before the next page.
            tokio::task::yield_now().await;
            continue;
        }
        let turn = timeout_at(until, poll_fn(|task| follower.poll_turn(task, 1))).await;
        if !matches!(turn, Ok(Turn::Items(_) | Turn::Read))
            && let Some(revision) = follower.progress()
        {
            let next = ChangePoint::at(Revision(revision.0 + 1));
            return tell(context, &ChangePage { changes: Vec::new(), next, ..page }, format);
        }
        // What happened is read from the list of changes, to be told page by page.
        follower.leave(page.next);
    }
}

fn tell<R: Replica>(
    context: &Context<R>,
    page: &ChangePage,
    format: Format,
) -> Result<Response<Body>, Problem> {
    let event = |change| EventBody::new(change, format.previous, format.encoding);
    let ChangePoint { revision, number } = page.next;
    let revision_told = Revision(revision.0.saturating_sub(1));
    let next = if number == 0 { format!("{revision}") } else { format!("{revision}.{number}") };
    let events: Vec<_> = page.changes.iter().map(event).collect();
    let count = events.len() as u64;
    let body = WatchPage { events, revision: revision_told.0, next };
    let mut answer = at(response::json(StatusCode::OK, &body), revision_told);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let answer = context.hold(answer)?;
    context.watches.count_events(count);
    Ok(answer)
}
