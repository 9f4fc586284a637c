//! The calls that ask after the node itself.

use http::{Method, Request, Response, StatusCode};

use crate::context::Context;
use crate::problem::{Kind, Problem};
use crate::replica::Replica;
use crate::response::{self, Body};
use crate::target::Query;

const PLAIN: &str = "text/plain; charset=utf-8";

/// These calls are read, and take no parameters.
///
/// # Errors
/// When this one is not, or has some.
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), Problem> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::not_allowed("GET, HEAD"));
    }
    Query::parse(request.uri().query(), &[]).map(|_| ())
}

/// Everything that the node says about itself.
pub(crate) fn status<R: Replica>(context: &Context<R>) -> Result<Response<Body>, Problem> {
    Ok(response::json(StatusCode::OK, &context.replica.status()))
}

/// The process lives, or nobody would answer.
pub(crate) fn livez<R: Replica>(_: &Context<R>) -> Result<Response<Body>, Problem> {
    Ok(response::text(StatusCode::OK, PLAIN, "ok\n".to_owned()))
}

/// The node can serve.
pub(crate) fn readyz<R: Replica>(context: &Context<R>) -> Result<Response<Body>, Problem> {
    match context.replica.ready() {
        Ok(()) => Ok(response::text(StatusCode::OK, PLAIN, "ok\n".to_owned())),
        Err(missing) => Err(Problem::new(Kind::NotReady, missing)),
    }
}

/// The metrics of the replica and of this door.
pub(crate) fn metrics<R: Replica>(context: &Context<R>) -> Result<Response<Body>, Problem> {
    let mut text = context.replica.metrics();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    context.counters.write(&context.admission, &mut text);
    context.watches.write_metrics(&mut text);
    Ok(response::text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
}
