//! Answers and their bodies.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{
    CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use serde::Serialize;
use synod_kv::Revision;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// A revision of the store at which what the answer shows was so: never below what
/// is shown, and never above the state that was looked at. For a stream it is the
/// revision that all of it shows.
pub(crate) const REVISION: HeaderName = HeaderName::from_static("synod-revision");
/// The leader's id and URL.
pub(crate) const LEADER: HeaderName = HeaderName::from_static("synod-leader");
/// The revision that created the key.
pub(crate) const CREATE_REVISION: HeaderName = HeaderName::from_static("synod-create-revision");
/// Changes of the key since its creation.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("synod-version");
/// The lease that the key lives under.
pub(crate) const LEASE: HeaderName = HeaderName::from_static("synod-lease");
/// Until when a retry of the write is known, in cluster time.
pub(crate) const IDEMPOTENCY_EXPIRES: HeaderName =
    HeaderName::from_static("synod-idempotency-expires");

/// The body of an answer: whole in nearly every case, so that the hot routes need
/// no box.
#[derive(Debug)]
pub(crate) enum Body {
    /// Everything there is, until it was taken.
    Whole(Option<Bytes>),
    /// Made while it is sent, or by the router.
    Routed(axum::body::Body),
}

impl Body {
    /// No bytes.
    pub(crate) fn empty() -> Self {
        Self::Whole(None)
    }

    /// These bytes.
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()))
    }

    /// How many bytes are there already.
    pub(crate) fn held_bytes(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.as_ref().map_or(0, Bytes::len),
            Self::Routed(_) => 0,
        }
    }

    /// The same bytes, with the room that they take.
    pub(crate) fn hold(self, room: OwnedSemaphorePermit) -> Self {
        match self {
            Self::Whole(Some(bytes)) => Self::whole(held(bytes, room)),
            other => other,
        }
    }
}

/// Bytes, with the room that they take.
pub(crate) fn held(bytes: Bytes, room: OwnedSemaphorePermit) -> Bytes {
    Bytes::from_owner(Held { bytes, _room: room })
}

/// Bytes and the room that they take. It is free again when the last of them is in
/// the socket, which is later than the end of the body.
struct Held {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Routed(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Routed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Routed(body) => body.size_hint(),
        }
    }
}

/// A body whose parts are made while it is sent.
struct Parts<T, F> {
    parts: mpsc::Receiver<T>,
    /// The bytes of a part, and what it means that there are no more parts.
    read: F,
}

/// A body of parts as they are made. `read` gets each of them, and none when their maker is
/// gone. Nothing from it ends the body; after an error the chunks end without their last
/// one, so the client sees the cut.
pub(crate) fn parts<T: Send + 'static>(
    parts: mpsc::Receiver<T>,
    read: impl FnMut(Option<T>) -> Option<Result<Bytes, axum::Error>> + Send + Unpin + 'static,
) -> Body {
    Body::Routed(axum::body::Body::new(Parts { parts, read }))
}

impl<T, F> HttpBody for Parts<T, F>
where
    F: FnMut(Option<T>) -> Option<Result<Bytes, axum::Error>> + Unpin,
{
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let part = ready!(self.parts.poll_recv(context));
        Poll::Ready((self.read)(part).map(|part| part.map(Frame::data)))
    }
}

/// An answer with a JSON document.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Response<Body> {
    let mut response = Response::new(Body::whole(to_json(document)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The bytes of a JSON document.
pub(crate) fn to_json(document: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::with_capacity(128);
    write_json(&mut text, document);
    text
}

/// Writes a document behind what is there.
pub(crate) fn write_json(out: &mut Vec<u8>, document: &impl Serialize) {
    // Our documents have string keys and no fallible fields.
    serde_json::to_writer(out, document).expect("a document of this crate is JSON");
}

/// An answer with a stored value, which a browser must not take for a page.
pub(crate) fn value(bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::whole(bytes));
    let headers = response.headers_mut();
    headers.reserve(10);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// An answer with text.
pub(crate) fn text(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Adds the entity tag of a key at `revision`.
pub(crate) fn insert_etag(headers: &mut HeaderMap, revision: Revision) {
    headers.insert(ETAG, etag(revision));
}

/// The entity tag of a key at `revision`.
pub(crate) fn etag(revision: Revision) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{revision}\"")).expect("digits in quotes are a header value")
}

/// The answer for the router, which knows its own body type only.
pub(crate) fn into_routed(response: Response<Body>) -> Response<axum::body::Body> {
    response.map(|body| match body {
        Body::Whole(bytes) => axum::body::Body::from(bytes.unwrap_or_default()),
        Body::Routed(body) => body,
    })
}

/// The answer of the router.
pub(crate) fn from_routed(
    result: Result<Response<axum::body::Body>, Infallible>,
) -> Response<Body> {
    match result {
        Ok(response) => response.map(Body::Routed),
    }
}

/// The answer, with the revision that it saw.
pub(crate) fn at(mut response: Response<Body>, revision: Revision) -> Response<Body> {
    response.headers_mut().insert(REVISION, HeaderValue::from(revision.0));
    response
}
