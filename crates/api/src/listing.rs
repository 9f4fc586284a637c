//! `GET /v1/kv`: the keys of a range, page by page or as a stream.
//!
//! Each page shows the range at one revision, which it names: the one asked for, or else
//! the newest of its time. Whoever asks for the next page at the same revision, as
//! `next_page` does, sees one state on all of them. A stream stays at the revision with which it begins, and a count
//! is of one state from its beginning to its end. A stream whose revision is compacted
//! meanwhile ends without its last chunk, so that its client sees the cut.

use std::pin::Pin;
use std::task::{Context as Task, Poll};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use synod_kv::http::{Encoding, KeyText, ListEntry, ListPage, RecordBody};
use synod_kv::read::{self, ListQuery, Page};
use synod_kv::{Entry, Revision, layout};
use tokio::sync::OwnedSemaphorePermit;

use crate::call::Deadline;
use crate::context::Context;
use crate::limits::Limits;
use crate::problem::Problem;
use crate::replica::Replica;
use crate::response::{self, Body, at};
use crate::target::{self, Query, percent_encode};

const PARAMETERS: [&str; 12] = [
    "prefix",
    "start",
    "end",
    "limit",
    "reverse",
    "keys_only",
    "count_only",
    "encoding",
    "consistency",
    "min_revision",
    "revision",
    "redirect",
];

const COUNT_ALONE: &str = "counts all keys of the range and answers one JSON document: leave out \
                           'limit', 'reverse', 'keys_only' and 'Accept: application/x-ndjson'";

/// Records that one look at the state passes by at most. Between two looks other
/// connections have their turn.
const VISITS_MAX: usize = 2_000;

/// Answers a listing.
///
/// # Errors
/// A malformed request, or a read that could not be confirmed.
pub(crate) async fn answer<R: Replica>(
    context: &Context<R>,
    head: &Parts,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(head.uri.query(), &PARAMETERS)?;
    let mut listing = Listing::parse(&query, &context.limits)?;
    let deadline = Deadline::of(&head.headers, &context.limits)?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let wants_lines = wants_lines(&head.headers);
    if listing.count_only && wants_lines {
        return Err(target::contradictory("count_only", COUNT_ALONE));
    }
    listing.at = context.prepare_read(&head.headers, &query).await?;
    if listing.count_only {
        return count(context, &query, listing, deadline).await;
    }
    if wants_lines {
        return stream(context, listing);
    }
    let page = context.replica.read(|map| read::list_at(map, &listing.query, listing.at))?;
    context.hold(answer_page(&query, &listing, &page))
}

/// What a request asks for.
#[derive(Clone, Debug)]
struct Listing {
    query: ListQuery,
    /// The state to show; none for the newest.
    at: Option<Revision>,
    encoding: Encoding,
    /// Only their number.
    count_only: bool,
    /// Entries that the client asked for, if it said so.
    limit: Option<usize>,
}

impl Listing {
    fn parse(query: &Query<'_>, limits: &Limits) -> Result<Self, Problem> {
        let prefix = query.bytes("prefix", limits.key_bytes_max)?.unwrap_or_default();
        // The bound of a page in reverse is a key and one byte.
        let bound_bytes_max = limits.key_bytes_max + 1;
        let start = query.bytes("start", bound_bytes_max)?.unwrap_or_default();
        let end = query.bytes("end", bound_bytes_max)?;
        let prefix_end = layout::prefix_end(&prefix).map(Bytes::from);
        let limit = match query.number("limit")? {
            None => None,
            Some(limit) => Some(
                usize::try_from(limit)
                    .ok()
                    .filter(|limit| (1..=limits.list_entries_max).contains(limit))
                    .ok_or_else(|| {
                        let should = format!("is from 1 to {}", limits.list_entries_max);
                        target::invalid("limit", &should)
                    })?,
            ),
        };
        let encoding = query.encoding()?;
        let range_end = match (end, prefix_end) {
            (Some(end), Some(prefix_end)) => Some(end.min(prefix_end)),
            (end, prefix_end) => end.or(prefix_end),
        };
        let start = start.max(prefix);
        if range_end.as_ref().is_some_and(|end| *end < start) {
            let why = "is below 'start', or one of them is outside 'prefix'";
            return Err(target::contradictory("end", why));
        }
        let mut list = ListQuery::range(start, range_end);
        list.limit = limit.unwrap_or(limits.list_entries_default.min(limits.list_entries_max));
        list.reverse = query.flag("reverse")?;
        list.keys_only = query.flag("keys_only")?;
        list.bytes_max = limits.list_bytes_max;
        list.visits_max = VISITS_MAX;
        let count_only = query.flag("count_only")?;
        if count_only && (limit.is_some() || list.reverse || list.keys_only) {
            return Err(target::contradictory("count_only", COUNT_ALONE));
        }
        Ok(Self { query: list, at: None, encoding, count_only, limit })
    }

    fn go_on(&mut self, next: Bytes) {
        if self.query.reverse {
            self.query.end = Some(next);
        } else {
            self.query.start = next;
        }
    }
}

fn answer_page(query: &Query<'_>, listing: &Listing, page: &Page) -> Response<Body> {
    let with_values = !listing.query.keys_only;
    let mut body = ListPage::new(page, with_values, listing.encoding);
    body.next = page.next.as_deref().map(percent_encode);
    body.next_page =
        body.next.as_deref().map(|next| next_page(query, listing, next, page.revision));
    at(response::json(StatusCode::OK, &body), page.revision)
}

/// What to ask for the page that begins at `next`: the same as for this one, at its revision,
/// for which a node that is behind waits. It has three keys at the most, so it fits into a
/// request.
fn next_page(query: &Query<'_>, listing: &Listing, next: &str, revision: Revision) -> String {
    let begin = if listing.query.reverse { "end" } else { "start" };
    let mut target = "/v1/kv".to_owned();
    let mut mark = '?';
    for name in PARAMETERS {
        let value = match name {
            _ if name == begin => Some(next.to_owned()),
            "revision" | "min_revision" => Some(revision.to_string()),
            "prefix" | "start" | "end" => {
                let key = query.bytes(name, usize::MAX).expect("it was read before");
                key.as_deref().map(percent_encode)
            }
            // Words and numbers, which were read as well.
            _ => query.raw(name).map(str::to_owned),
        };
        let Some(value) = value else {
            continue;
        };
        target.push(mark);
        mark = '&';
        target.push_str(name);
        if !value.is_empty() {
            target.push('=');
            target.push_str(&value);
        }
    }
    target
}

/// Counts for as long as the call may take; what is left then is told by `next`.
async fn count<R: Replica>(
    context: &Context<R>,
    query: &Query<'_>,
    listing: Listing,
    deadline: Deadline,
) -> Result<Response<Body>, Problem> {
    // It may have this thread again and again for as long as a stream has.
    let _place = context.admission.stream()?;
    let goes_on = || !deadline.is_over();
    let page =
        context.replica.count(listing.query.clone(), listing.at, VISITS_MAX, goes_on).await?;
    Ok(answer_page(query, &listing, &page))
}

/// Whether the client asked for one JSON document a line.
fn wants_lines(headers: &HeaderMap) -> bool {
    let is_lines = |accepted: &str| {
        let name = accepted.split(';').next().unwrap_or("").trim();
        name.eq_ignore_ascii_case("application/x-ndjson")
    };
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(is_lines))
}

fn stream<R: Replica>(
    context: &Context<R>,
    mut listing: Listing,
) -> Result<Response<Body>, Problem> {
    let place = context.admission.stream()?;
    listing.query.limit = context.limits.list_entries_max;
    let revision = listing.at.unwrap_or_else(|| context.replica.revision());
    context.replica.read(|map| read::check_at(map, revision))?;
    listing.at = Some(revision);
    let lines = Lines {
        replica: context.replica.clone(),
        left: listing.limit,
        listing: Some(listing),
        _place: place,
    };
    let mut response = Response::new(Body::Routed(axum::body::Body::new(lines)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(at(response, revision))
}

/// The lines of a stream, made as fast as the client takes them.
struct Lines<R> {
    replica: R,
    /// What is still to be shown; none at the end.
    listing: Option<Listing>,
    /// Entries that the client still wants, if it said how many.
    left: Option<usize>,
    _place: OwnedSemaphorePermit,
}

// Nothing in it is ever pinned.
impl<R> Unpin for Lines<R> {}

impl<R: Replica> Lines<R> {
    /// The lines of the next page that has some; none at the end.
    fn next_page(&mut self) -> Result<Option<Bytes>, axum::Error> {
        let Some(listing) = &mut self.listing else {
            return Ok(None);
        };
        if let Some(left) = self.left {
            listing.query.limit = listing.query.limit.min(left);
        }
        let page = self.replica.read(|map| read::list_at(map, &listing.query, listing.at));
        let page = page.map_err(axum::Error::new)?;
        let mut lines = Vec::new();
        for entry in &page.entries {
            let document = list_entry(listing, entry);
            lines.extend_from_slice(&response::to_json(&document));
            lines.push(b'\n');
        }
        self.left = self.left.map(|left| left.saturating_sub(page.entries.len()));
        match page.next {
            Some(next) if self.left != Some(0) => listing.go_on(next),
            _ => self.listing = None,
        }
        Ok(Some(lines.into()))
    }
}

fn list_entry(listing: &Listing, entry: &Entry) -> ListEntry {
    ListEntry {
        key: KeyText::new(&entry.key, listing.encoding),
        record: RecordBody::new(&entry.record, !listing.query.keys_only, listing.encoding),
    }
}

impl<R: Replica> HttpBody for Lines<R> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let lines = self.get_mut();
        match lines.next_page() {
            Ok(Some(bytes)) if bytes.is_empty() && lines.listing.is_some() => {
                // A stretch of removed keys: others have their turn before the next.
                task.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(Some(bytes)) if bytes.is_empty() => Poll::Ready(None),
            // The chunks end without their last one, so the client sees the cut.
            result => Poll::Ready(result.map(|bytes| bytes.map(Frame::data)).transpose()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_key_stands_in_a_url_as_it_is() {
        let key: Vec<u8> = (0..=255).collect();
        let text = percent_encode(&key);
        let raw = format!("start={text}");
        let query = Query::parse(Some(&raw), &PARAMETERS).unwrap();
        assert_eq!(query.bytes("start", 256).unwrap().unwrap(), key);
    }

    #[test]
    fn the_next_page_is_asked_for_as_this_one_was() {
        let next_page = |raw: &str, next: &[u8]| {
            let query = Query::parse(Some(raw), &PARAMETERS).unwrap();
            let listing = Listing::parse(&query, &Limits::default()).unwrap();
            next_page(&query, &listing, &percent_encode(next), Revision(7))
        };
        assert_eq!(next_page("", b"\0\xff&"), "/v1/kv?start=%00%FF%26&min_revision=7&revision=7");
        assert_eq!(
            next_page("limit=2&prefix=a%26\"\u{e9}&start=a&keys_only&redirect=false", b"a&b"),
            "/v1/kv?prefix=a%26%22%C3%A9&start=a%26b&limit=2&keys_only&min_revision=7&revision=7\
             &redirect=false"
        );
        assert_eq!(
            next_page("reverse&end=z&start=%61%2f&encoding=base64&revision=6&min_revision=5", b"b"),
            "/v1/kv?start=a/&end=b&reverse&encoding=base64&min_revision=7&revision=7"
        );
    }

    /// However long its keys are, the answer's target is one that the node takes.
    #[test]
    fn the_next_page_fits_into_a_request() {
        let limits = Limits::default();
        let key = "%00".repeat(limits.key_bytes_max);
        let raw = format!(
            "prefix={key}&end={key}%01&limit=1000&reverse=false&keys_only=false&count_only=false\
             &encoding=base64&consistency=linearizable&min_revision={max}&redirect=false",
            max = u64::MAX
        );
        let query = Query::parse(Some(&raw), &PARAMETERS).unwrap();
        let listing = Listing::parse(&query, &limits).unwrap();
        let next = percent_encode(&vec![0; limits.key_bytes_max + 1]);
        let target = next_page(&query, &listing, &next, Revision(u64::MAX));
        assert!(target.len() + 4096 < limits.head_bytes_max(), "{} bytes", target.len());
    }

    #[test]
    fn a_page_has_no_more_than_the_settings_allow() {
        let limits = Limits { list_entries_max: 10, ..Limits::default() };
        let limit = |raw| {
            let query = Query::parse(Some(raw), &PARAMETERS).unwrap();
            Listing::parse(&query, &limits).ok().map(|listing| listing.query.limit)
        };
        assert_eq!((limit(""), limit("limit=7"), limit("limit=11")), (Some(10), Some(7), None));
    }

    #[test]
    fn a_range_is_cut_to_its_prefix() {
        let range = |raw| {
            let query = Query::parse(Some(raw), &PARAMETERS).unwrap();
            let query = Listing::parse(&query, &Limits::default()).unwrap().query;
            (query.start, query.end)
        };
        let expected = |start: &'static str, end: Option<&'static str>| {
            (Bytes::from(start), end.map(Bytes::from))
        };
        assert_eq!(range("prefix=b"), expected("b", Some("c")));
        assert_eq!(range("prefix=b&start=a"), expected("b", Some("c")));
        assert_eq!(range("prefix=b&start=ba&end=bz"), expected("ba", Some("bz")));
        assert_eq!(range("prefix=b&end=z"), expected("b", Some("c")));
        assert_eq!(range("start=a"), expected("a", None));
        assert_eq!(range(""), expected("", None));
        // Nothing is left, and nothing is contradicted: such bounds come from going on.
        assert_eq!(range("start=b&end=b"), expected("b", Some("b")));
        assert_eq!(range("prefix=b&end=b"), expected("b", Some("b")));
    }
}
