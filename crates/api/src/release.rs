//! `DELETE /v1/lock/{name}?token=T`, and of an election: lets it go.
//!
//! A token is of one claim and of no other, ever. So a release is the same request whenever it
//! comes, and its first outcome is remembered: under the name that the client gave it, or
//! else under one that is made of the token. Whoever lost the answer asks again and gets it.

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use synod_kv::http::ReleasedBody;
use synod_kv::{Condition, LeaseId, Outcome, Revision, TxnResult};
use tokio::time::timeout_at;
use xxhash_rust::xxh3::xxh3_128;

use crate::call::{self, Deadline, Name};
use crate::claim::{self, Office, Paper};
use crate::context::{Context, Wrote};
use crate::problem::{Kind, Problem};
use crate::refusal::refused;
use crate::replica::Replica;
use crate::response::{self, Body, at};
use crate::target::{self, Query};
use crate::withdrawal::end_own;

/// Answers a release.
///
/// # Errors
/// A malformed request, or a token that is not the holder's.
pub(crate) async fn answer<R: Replica>(
    context: &Context<R>,
    head: &Parts,
    office: &Office,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(head.uri.query(), &["token", "redirect"])?;
    let token = token_of(&query)?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let deadline = Deadline::of(&head.headers, &context.limits)?;
    let asked_ms = context.replica.cluster_time_ms();
    let given = context.name_of(&head.headers)?;
    context.prepare_read(&head.headers, &query).await?;
    let reached = context.replica.revision();
    let line = office.line(context, Some(token)).await?;
    let holder = line.first.filter(|first| first.token == token);
    // Whoever waits does not hold, and of a revision to come nothing can be said yet: the next
    // answer may be another one.
    if holder.is_none() && (line.own.is_some() || token > reached) {
        return Err(not_held(token));
    }
    // Without a claim it was let go, which is remembered, or is held no more and never again.
    // No lease is 0, so that key has no claim.
    let key = holder.map_or_else(|| office.key(LeaseId(0)), |holder| holder.key);
    let is_named = given.is_some();
    let name = given.unwrap_or_else(|| Name { key: name_of_token(office, token), asked_ms });
    let wrote = write(context, office, (key, token), (name, is_named), deadline).await?;
    let (revision, results) = match wrote.outcome {
        Outcome::Txn { succeeded: true, revision, results } => (revision, results),
        Outcome::Txn { revision, .. } => return Err(not_held(token).at(revision)),
        other => return Err(refused(other)),
    };
    let Some(TxnResult::Delete { previous: Some(claim), .. }) = results.into_iter().next() else {
        return Err(refused(Outcome::Txn { revision, succeeded: true, results: Vec::new() }));
    };
    let lease = LeaseId(claim.lease);
    // Also when it was let go before and the answer was lost: a lease that was made for a claim
    // has an id that no other ever gets.
    if Paper::of(&claim.value).own {
        // It is free already.
        let key = office.key(lease);
        let ended = end_own(&context.replica, &key, lease, deadline.replica);
        let _ = timeout_at(deadline.answer, ended).await;
    }
    let body = ReleasedBody { lease: lease.0, token: token.0, revision: revision.0 };
    let mut response = at(response::json(StatusCode::OK, &body), revision);
    Context::<R>::say_expiry(&mut response, wrote.expires.filter(|_| is_named));
    Ok(response)
}

/// The token that the request names. No claim is of revision 0.
fn token_of(query: &Query<'_>) -> Result<Revision, Problem> {
    let why = "is missing: say the token that came with the lock";
    let token = query.number("token")?.ok_or_else(|| target::missing("token", why))?;
    if token == 0 {
        return Err(target::invalid("token", "is a number from 1 on, which came with the lock"));
    }
    Ok(Revision(token))
}

async fn write<R: Replica>(
    context: &Context<R>,
    office: &Office,
    (key, token): (Bytes, Revision),
    (name, is_named): (Name, bool),
    deadline: Deadline,
) -> Result<Wrote, Problem> {
    // Not the key of the claim: it is not known any more when the request comes again.
    let parts: [&[u8]; 2] = [office.prefix(), &token.0.to_le_bytes()];
    let name = call::name_write(name, "RELEASE", &parts, Condition::Always, false, b"");
    let release = claim::release(key.clone(), token, Some(name));
    let wrote = context.write(release, deadline).await?;
    let is_forgotten =
        matches!(wrote.outcome, Outcome::IdempotencyFull { .. } | Outcome::IdempotencyLate { .. });
    if is_named || !is_forgotten {
        return Ok(wrote);
    }
    // The client gave no name, so it must not fail for want of room for one.
    context.write(claim::release(key, token, None), deadline).await
}

/// A name that no client can give.
fn name_of_token(office: &Office, token: Revision) -> Bytes {
    let office = xxh3_128(office.prefix()).to_le_bytes();
    Bytes::from([b"\0release", &office[..], &token.0.to_le_bytes()].concat())
}

fn not_held(token: Revision) -> Problem {
    Problem::new(
        Kind::LockNotHeld,
        format!(
            "It is not held with the token {token}: that was let go, or its lease ended. Whatever \
             it guarded may have another holder."
        ),
    )
}
