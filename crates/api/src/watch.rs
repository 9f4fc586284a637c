//! `GET /v1/watch`: what happens to keys, as a stream of Server-Sent Events or, with `wait`,
//! as one page.
//!
//! Events come from the list of changes that the state keeps, so a watch goes on at any node
//! with the revision that it was told last. `hub` hands them out, `index` finds who is
//! interested, `follower` is one watch, `event` writes what is told, and `stream` and `page`
//! are the two forms of the answer; `frame` bounds what a stream has under way.

#[cfg(test)]
mod bound_tests;
mod event;
mod follower;
mod frame;
mod hub;
mod index;
mod pace;
mod page;
mod queue;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;
use http::request::Parts;
use http::{Method, Response};
use synod_kv::http::Encoding;
use synod_kv::read::{self, ChangePoint};
use synod_kv::{Revision, layout};
use tokio::time::{Instant, timeout_at};

use crate::call::{self, Deadline};
use crate::context::Context;
use crate::limits::Limits;
use crate::problem::{Kind, Problem};
use crate::replica::{Refused, Replica};
use crate::response::Body;
use crate::target::{self, Query, decimal};
use crate::watch::event::Format;
use crate::watch::follower::Follower;
pub(crate) use crate::watch::hub::Hub;
use crate::watch::index::Range;

const PARAMETERS: [&str; 8] = ["key", "prefix", "start", "end", "from", "prev", "encoding", "wait"];

/// The id of the last event that the client saw.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Answers a watch.
///
/// # Errors
/// A malformed request, too many watches, a revision that is compacted or nowhere, or a read
/// that could not be confirmed.
pub(crate) async fn answer<R: Replica>(
    context: &Arc<Context<R>>,
    head: &Parts,
) -> Result<Response<Body>, Problem> {
    if head.method != Method::GET {
        return Err(Problem::not_allowed("GET"));
    }
    let query = Query::parse(head.uri.query(), &PARAMETERS)?;
    let asked = Asked::parse(&query, head, &context.limits)?;
    let deadline = Deadline::of(&head.headers, &context.limits)?;
    // A wait is not to begin when the node has caught up at last, if the call says how long it may take.
    let waits = |wait| Deadline::of_waiting(&head.headers, &context.limits, wait);
    let bound = asked.wait.map(waits).transpose()?;
    let place = context.admission.watch()?;
    let at = begin(context, asked.from, deadline).await?;
    let Asked { range, format, wait, .. } = asked;
    let follower = Follower::open(&context.watches, range, format.previous, at);
    match wait.zip(bound) {
        Some((wait, bound)) => {
            let until = bound.replica.min(Instant::now() + wait);
            page::answer(context, follower, format, until).await
        }
        None => {
            let begin = Revision(at.revision.0.saturating_sub(1));
            Ok(stream::answer(context, follower, format, begin, place))
        }
    }
}

/// What a request asks for.
#[derive(Debug)]
struct Asked {
    range: Range,
    /// The first change; none for what happens from now on.
    from: Option<ChangePoint>,
    format: Format,
    /// One page, and for how long it is waited for.
    wait: Option<Duration>,
}

impl Asked {
    fn parse(query: &Query<'_>, head: &Parts, limits: &Limits) -> Result<Self, Problem> {
        let encoding = match query.raw("encoding") {
            None | Some("text") => Encoding::Text,
            Some("base64") => Encoding::Base64,
            Some(_) => return Err(target::invalid("encoding", "is 'text' or 'base64'")),
        };
        let wait = query.raw("wait").map(|text| parse_wait(text, limits.call_timeout_max_ms));
        Ok(Self {
            range: parse_range(query, limits)?,
            from: parse_from(query, head)?,
            format: Format { encoding, previous: query.flag("prev")? },
            wait: wait.transpose()?,
        })
    }
}

fn parse_range(query: &Query<'_>, limits: &Limits) -> Result<Range, Problem> {
    let key = query.bytes("key", limits.key_bytes_max)?;
    let prefix = query.bytes("prefix", limits.key_bytes_max)?;
    let start = query.bytes("start", limits.key_bytes_max + 1)?;
    let end = query.bytes("end", limits.key_bytes_max + 1)?;
    if let Some(start) = key {
        let what = "is one whole key, and goes without 'prefix', 'start' and 'end'";
        if start.is_empty() {
            return Err(target::invalid("key", what));
        }
        if prefix.is_some() || query.raw("start").or(query.raw("end")).is_some() {
            return Err(target::contradictory("key", what));
        }
        let end = Some([&start[..], &[0]].concat().into());
        return Ok(Range { start, end });
    }
    let prefix = prefix.unwrap_or_default();
    let prefix_end = layout::prefix_end(&prefix).map(Bytes::from);
    let end = match (end, prefix_end) {
        (Some(end), Some(prefix_end)) => Some(end.min(prefix_end)),
        (end, prefix_end) => end.or(prefix_end),
    };
    let range = Range { start: start.unwrap_or_default().max(prefix), end };
    if range.end.as_ref().is_some_and(|end| *end <= range.start) {
        let why = "leaves no keys: it is the first key beyond the range";
        return Err(target::contradictory("end", why));
    }
    Ok(range)
}

/// Where to begin: behind the last event that was seen, or where the query says.
fn parse_from(query: &Query<'_>, head: &Parts) -> Result<Option<ChangePoint>, Problem> {
    let from = query.raw("from").map(|text| {
        let (revision, number) = text.split_once('.').unwrap_or((text, "0"));
        let number = decimal(number).and_then(|number| u32::try_from(number).ok());
        let revision = decimal(revision).filter(|revision| *revision > 0);
        let point = revision.zip(number);
        point
            .map(|(revision, number)| ChangePoint { revision: Revision(revision), number })
            .ok_or_else(|| {
                target::invalid("from", "is a revision from 1 on, or the 'next' of a page")
            })
    });
    let from = from.transpose()?;
    let Some(last) = call::single(&head.headers, &LAST_EVENT_ID, "Last-Event-ID")? else {
        return Ok(from);
    };
    let next = decimal(last).and_then(|last| last.checked_add(1));
    let next = next.ok_or_else(|| {
        Problem::new(Kind::BadHeader, "Last-Event-ID is the id of an event: a revision.")
    })?;
    Ok(Some(ChangePoint::at(Revision(next))))
}

fn parse_wait(text: &str, wait_ms_max: u64) -> Result<Duration, Problem> {
    let wait_ms = match text.strip_suffix("ms") {
        Some(digits) => decimal(digits),
        None => text.strip_suffix('s').and_then(decimal).and_then(|s| s.checked_mul(1_000)),
    };
    let wait_ms = wait_ms.filter(|wait_ms| *wait_ms <= wait_ms_max).ok_or_else(|| {
        let should = format!("is a time such as 30s or 500ms, and at most {wait_ms_max}ms");
        target::invalid("wait", &should)
    })?;
    Ok(Duration::from_millis(wait_ms))
}

/// The first change to be told, once this node may tell it: it has everything before.
async fn begin<R: Replica>(
    context: &Context<R>,
    from: Option<ChangePoint>,
    deadline: Deadline,
) -> Result<ChangePoint, Problem> {
    let replica = &context.replica;
    // Of a revision that was told in part all has to be here, not only what was before it.
    let before = |from: ChangePoint| Revision(from.revision.0 - u64::from(from.number == 0));
    let is_here = |from: ChangePoint| before(from) <= replica.revision();
    if !from.is_some_and(is_here) {
        let _place = context.admission.read()?;
        let barrier = replica.read_barrier(deadline.replica);
        let confirmed = timeout_at(deadline.answer, barrier).await;
        confirmed.unwrap_or(Err(Refused::Deadline)).map_err(Problem::of_read)?;
        let Some(from) = from else {
            return Ok(ChangePoint::at(Revision(replica.revision().0 + 1)));
        };
        // What was told elsewhere was chosen, but whoever confirms reads need not know that
        // yet.
        let wait = replica.wait_revision(before(from), deadline.replica);
        let reached = timeout_at(deadline.answer, wait);
        match reached.await.unwrap_or(Err(Refused::Deadline)) {
            Ok(()) => {}
            Err(Refused::Deadline) => {
                let revision = replica.revision();
                let detail = format!(
                    "Nothing before revision {from} can be told: the store is at revision \
                     {revision}. Was this id given by another cluster?",
                    from = from.revision
                );
                return Err(Problem::new(Kind::FutureRevision, detail).at(revision));
            }
            Err(refused) => return Err(Problem::of_read(refused)),
        }
    }
    let from = from.expect("what begins now was answered");
    let compacted = replica.read(|map| Ok(read::oldest(map)?))?;
    if from.revision <= compacted {
        let oldest = Revision(compacted.0.saturating_add(1));
        let detail = format!(
            "What happened at revision {} is not kept any more: watches begin at {oldest} or \
             later. List the keys, and watch from behind the revision of the list.",
            from.revision
        );
        return Err(Problem::new(Kind::Compacted, detail).with_oldest(oldest));
    }
    Ok(from)
}

impl Hub {
    /// So many events go out.
    fn count_events(&self, events: u64) {
        self.counters.events.fetch_add(events, Relaxed);
    }

    /// Appends what is counted in the text format of Prometheus.
    pub(crate) fn write_metrics(&self, text: &mut String) {
        let counters = &self.counters;
        let lines = [
            ("watches", "gauge", "Watches that are open.", self.open_count() as u64),
            ("watch_events_total", "counter", "Events sent.", counters.events.load(Relaxed)),
            (
                "watches_dropped_total",
                "counter",
                "Watches that this node ended.",
                counters.dropped.load(Relaxed),
            ),
            (
                "watch_lags_total",
                "counter",
                "How often a watch had to read what did not fit into its queue.",
                counters.lags.load(Relaxed),
            ),
            (
                "watch_queued_bytes",
                "gauge",
                "About what lies in the queues of watches.",
                self.held_bytes() as u64,
            ),
            (
                "watch_sending_bytes",
                "gauge",
                "Of events that sockets have not taken yet.",
                self.sending().load(Relaxed) as u64,
            ),
        ];
        for (name, kind, help, value) in lines {
            let line = writeln!(
                text,
                "# HELP synod_{name} {help}\n# TYPE synod_{name} {kind}\nsynod_{name} {value}"
            );
            line.expect("a string takes what is written to it");
        }
    }
}
