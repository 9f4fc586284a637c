//! `GET /v1/snapshot`: a backup of the whole store, as a stream.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response};

use crate::context::Context;
use crate::problem::Problem;
use crate::replica::Replica;
use crate::response::{self, Body};
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
    // A backup says itself where it ends.
    let body = response::parts(parts, move |part: Option<Result<Bytes, String>>| {
        let _held = &place;
        part.map(|part| part.map_err(axum::Error::new))
    });
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
