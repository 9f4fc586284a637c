//! `GET /v1/snapshot`: a backup of the whole store, as a stream.

use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response};
use http_body::{Body as HttpBody, Frame};
use tokio::sync::OwnedSemaphorePermit;

use crate::context::Context;
use crate::problem::Problem;
use crate::replica::{BackupParts, Replica};
use crate::response::Body;
use crate::target::Query;

const PARAMETERS: [&str; 2] = ["consistency", "min_revision"];

/// Begins a backup, which holds every write that was acknowledged before the request.
///
/// # Errors
/// A malformed request, a read that could not be confirmed, or another backup under way.
pub(crate) async fn answer<R: Replica>(
    context: &Context<R>,
    head: &Parts,
) -> Result<Response<Body>, Problem> {
    if head.method != Method::GET {
        return Err(Problem::not_allowed("GET"));
    }
    let query = Query::parse(head.uri.query(), &PARAMETERS)?;
    context.prepare_read(&head.headers, &query).await?;
    let place = context.admission.stream()?;
    let parts = context.replica.backup().map_err(Problem::of_read)?;
    let body = axum::body::Body::new(Stream { parts, _place: place });
    let mut response = Response::new(Body::Routed(body));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// The body.
struct Stream {
    parts: BackupParts,
    _place: OwnedSemaphorePermit,
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // The chunks of one that failed end without their last one, so the client sees
        // the cut; and a backup says itself where it ends.
        let part = ready!(self.parts.poll_recv(task));
        Poll::Ready(part.map(|part| part.map(Frame::data).map_err(axum::Error::new)))
    }
}
