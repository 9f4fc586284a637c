//! Refusals, and how they are said: RFC 9457 problem documents with an outcome.

use std::borrow::Cow;

use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use synod_kv::http::{Effect, LeaderHint, Problem as Document};
use synod_kv::read::ReadError;
use synod_kv::{MapError, Revision};

pub(crate) use synod_kv::http::ProblemKind as Kind;

use crate::replica::{Leader, Refused};
use crate::response::{self, Body};

/// When to come back after a refusal that passes.
const RETRY_AFTER_SECONDS: u32 = 1;

/// A request that gets no answer but this. Boxed, for it is the rare case.
#[derive(Debug)]
pub(crate) struct Problem(Box<Parts>);

#[derive(Debug)]
struct Parts {
    kind: Kind,
    detail: Cow<'static, str>,
    effect: Effect,
    revision: Option<Revision>,
    current: Option<Revision>,
    oldest: Option<Revision>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A refusal that had no effect, with a sentence that a person can act on.
    pub(crate) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts {
            kind,
            detail: detail.into(),
            effect: Effect::NotApplied,
            revision: None,
            current: None,
            oldest: None,
            header: None,
        }))
    }

    /// The resource does not know the method.
    pub(crate) fn not_allowed(allowed: &'static str) -> Self {
        Self::new(Kind::MethodNotAllowed, format!("This resource takes the methods {allowed}."))
            .with_header(ALLOW, HeaderValue::from_static(allowed))
    }

    /// What a write makes of the replica's refusal.
    pub(crate) fn of_write(refused: Refused) -> Self {
        let (kind, detail) = match refused {
            Refused::Deadline => (
                Kind::Timeout,
                "No outcome was known in time. The write may still have effect: send it again only \
                 with an Idempotency-Key, or read first.",
            ),
            Refused::Lost => (
                Kind::OutcomeUnknown,
                "This node can't learn the outcome any more. The write may have had effect: send it \
                 again only with an Idempotency-Key, or read first.",
            ),
            Refused::Overloaded
            | Refused::NoLeader
            | Refused::Stopping
            | Refused::NoRoom
            | Refused::Differs
            | Refused::Doubted => {
                return Self::of(refused);
            }
        };
        Self::new(kind, detail).with_effect_unknown()
    }

    /// What a read makes of the replica's refusal: a read has no effect in any case.
    pub(crate) fn of_read(refused: Refused) -> Self {
        match refused {
            Refused::Deadline | Refused::Lost => Self::new(
                Kind::Timeout,
                "The read was not confirmed by a quorum in time. A read with consistency=stale \
                 needs none.",
            ),
            Refused::Overloaded
            | Refused::NoLeader
            | Refused::Stopping
            | Refused::NoRoom
            | Refused::Differs
            | Refused::Doubted => Self::of(refused),
        }
    }

    fn of(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded => Self::new(
                Kind::Overloaded,
                "This node has too much to do. Try again, or ask another node.",
            ),
            Refused::Stopping => {
                Self::new(Kind::ShuttingDown, "This node is stopping. Ask another node.")
            }
            Refused::NoRoom => Self::new(
                Kind::NoRoom,
                "This node's disk, or those of too many nodes, have little room left. Values can \
                 be put again as soon as there is more: delete keys, or make the disks larger. \
                 Reads go on.",
            ),
            Refused::Differs => Self::new(
                Kind::NotReady,
                "The state of this node differs from another node's, and one of the two is damaged: \
                 no backup is made of it. Ask another node, and look at the logs.",
            ),
            Refused::Doubted => Self::new(
                Kind::NotReady,
                "Something of this node's state was found damaged: no backup is made of it. Ask \
                 another node, and look at the status and the logs.",
            ),
            Refused::NoLeader | Refused::Deadline | Refused::Lost => Self::new(
                Kind::NoLeader,
                "No leader with a quorum was found in time. Try again, or ask another node.",
            ),
        }
    }

    /// The request may have had effect.
    pub(crate) fn with_effect_unknown(mut self) -> Self {
        self.0.effect = Effect::Unknown;
        self
    }

    /// Whether the request has no effect and will have none.
    pub(crate) fn has_no_effect(&self) -> bool {
        self.0.effect == Effect::NotApplied
    }

    /// The revision of the store as the refusal saw it.
    pub(crate) fn at(mut self, revision: Revision) -> Self {
        self.0.revision = Some(revision);
        self
    }

    /// The key's revision, against which a precondition failed.
    pub(crate) fn with_current(mut self, current: Option<Revision>) -> Self {
        self.0.current = current;
        self
    }

    /// The oldest revision that can be asked for instead.
    pub(crate) fn with_oldest(mut self, oldest: Revision) -> Self {
        self.0.oldest = Some(oldest);
        self
    }

    /// One more header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }

    /// More words before the detail.
    pub(crate) fn after(mut self, words: &str) -> Self {
        self.0.detail = format!("{words} {}", self.0.detail).into();
        self
    }

    /// Which problem.
    #[cfg(test)]
    pub(crate) fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The document that says so.
    pub(crate) fn document(&self) -> Document {
        let parts = &self.0;
        let mut document = Document::new(parts.kind, parts.detail.clone(), parts.effect);
        document.current_revision = parts.current.map(|revision| revision.0);
        document.oldest_revision = parts.oldest.map(|revision| revision.0);
        document
    }

    /// The answer that says so.
    pub(crate) fn into_response(self, leader: Option<&Leader>) -> Response<Body> {
        let mut document = self.document();
        let parts = *self.0;
        let status = StatusCode::from_u16(parts.kind.status())
            .expect("each kind of problem has an HTTP status");
        if status == StatusCode::SERVICE_UNAVAILABLE {
            document.leader = leader
                .map(|leader| LeaderHint { id: leader.node, url: Some(leader.url.to_string()) });
        }
        let mut response = Response::new(Body::whole(response::to_json(&document)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        if let Some(revision) = parts.revision {
            headers.insert(response::REVISION, HeaderValue::from(revision.0));
        }
        if let Some(current) = parts.current {
            response::insert_etag(headers, current);
        }
        if let Some((name, value)) = parts.header {
            headers.insert(name, value);
        }
        response
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted { oldest } => Self::new(
                Kind::Compacted,
                format!("The revision is compacted: the oldest one that is kept is {oldest}."),
            )
            .with_oldest(oldest),
            ReadError::Future { current } => Self::new(
                Kind::FutureRevision,
                format!("There is no such revision yet: this node is at revision {current}."),
            )
            .at(current),
            ReadError::Map(error) => error.into(),
        }
    }
}

impl From<MapError> for Problem {
    fn from(error: MapError) -> Self {
        // What read it tells an operator, and not for each request.
        tracing::debug!(%error, "the state of this node cannot be read");
        Self::new(Kind::Internal, "The state of this node can't be read. Ask another node.")
    }
}
