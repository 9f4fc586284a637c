//! `POST /v1/compact`: forgets what was replaced up to a revision.

use axum::body::Body as Asked;
use http::{Method, Request, Response, StatusCode};
use synod_kv::http::{CompactBody, CompactedBody};
use synod_kv::{Command, Condition, Operation, Outcome, Revision};

use crate::call;
use crate::context::Context;
use crate::problem::{Kind, Problem};
use crate::refusal::refused;
use crate::replica::Replica;
use crate::request_body::decode;
use crate::response::{self, Body, at};
use crate::target::Query;

/// Answers a request for a compaction.
///
/// # Errors
/// A malformed request, a revision that is not here yet or was compacted before, or a
/// command without an outcome.
pub(crate) async fn answer<R: Replica>(
    context: &Context<R>,
    request: Request<Asked>,
) -> Result<Response<Body>, Problem> {
    if request.method() != Method::POST {
        return Err(Problem::not_allowed("POST"));
    }
    let (head, body) = request.into_parts();
    let query = Query::parse(head.uri.query(), &["redirect"])?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let name = context.name_of(&head.headers)?;
    let (received, deadline) = context.receive_document(&head.headers, body).await?;
    let wanted: CompactBody = decode(&received.bytes, "{\"revision\": N}")?;
    let revision = Revision(wanted.revision);
    let parts: [&[u8]; 1] = [&wanted.revision.to_le_bytes()];
    let idempotency =
        name.map(|name| call::name_write(name, "COMPACT", &parts, Condition::Always, false, b""));
    let command = Command { idempotency, operation: Operation::Compact { revision } };
    let wrote = context.write(command, deadline).await?;
    let mut response =
        outcome_answer(wrote.outcome, revision).unwrap_or_else(|problem| context.refuse(problem));
    Context::<R>::say_expiry(&mut response, wrote.expires);
    Ok(response)
}

fn outcome_answer(outcome: Outcome, wanted: Revision) -> Result<Response<Body>, Problem> {
    match outcome {
        Outcome::Compacted { revision, oldest } => {
            let body = CompactedBody { revision: revision.0, compacted_revision: oldest.0 };
            Ok(at(response::json(StatusCode::OK, &body), revision))
        }
        Outcome::CompactRefused { revision, .. } if wanted > revision => Err(Problem::new(
            Kind::FutureRevision,
            format!("There is no revision {wanted} yet: the newest one is {revision}."),
        )
        .at(revision)),
        Outcome::CompactRefused { revision, oldest } => Err(Problem::new(
            Kind::AlreadyCompacted,
            format!("The oldest revision that is kept is {oldest} already: nothing to do."),
        )
        .at(revision)
        .with_oldest(oldest)),
        outcome => Err(refused(outcome)),
    }
}
