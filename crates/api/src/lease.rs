//! `/v1/lease`: leases, which keys live under.

use axum::body::Body as Asked;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use synod_kv::http::{
    Encoding, GrantBody, GrantedBody, KeepAliveBody, KeptBody, KeptLease, KeyText, LeaseBody,
    LeasesBody, RevokedBody,
};
use synod_kv::read::ReadError;
use synod_kv::{
    Command, Condition, IdempotencyKey, KEEP_ALIVES_MAX, Lease, LeaseEpoch, LeaseId,
    LeaseOperation, Operation, Outcome, Revision, lease,
};
use tokio::time::timeout_at;

use crate::call::{self, Deadline, Name};
use crate::context::{Context, Wrote};
use crate::limits::Limits;
use crate::problem::{Kind, Problem};
use crate::refusal::{lease_not_found, refused};
use crate::replica::{Refused, Replica};
use crate::request_body;
use crate::response::{self, Body, at};
use crate::target::{self, Query, decimal, percent_encode};

/// Where a lease is found.
const PREFIX: &str = "/v1/lease/";
const LIST_PARAMETERS: [&str; 5] = ["from", "limit", "consistency", "min_revision", "redirect"];
const LOOK_PARAMETERS: [&str; 6] =
    ["keys", "start", "limit", "consistency", "min_revision", "redirect"];
/// A document with as many ids as one command renews.
const IDS_BYTES_MAX: usize = KEEP_ALIVES_MAX * 22 + 64;

/// What a path below `/v1/lease/` names.
enum Named {
    One(LeaseId),
    RenewalOf(LeaseId),
    RenewalOfMany,
}

/// `/v1/lease`: one more, and all of them.
///
/// # Errors
/// A malformed request, or a lease that is not granted.
pub(crate) async fn leases<R: Replica>(
    context: &Context<R>,
    request: Request<Asked>,
) -> Result<Response<Body>, Problem> {
    let (head, body) = request.into_parts();
    match head.method {
        Method::GET | Method::HEAD => list(context, &head).await,
        Method::POST => post(context, &head, body).await,
        _ => Err(Problem::not_allowed("GET, HEAD, POST")),
    }
}

/// `/v1/lease/{id}`, `/v1/lease/{id}/keepalive` and `/v1/lease/keepalive`.
///
/// # Errors
/// A malformed request, or no such lease.
pub(crate) async fn one<R: Replica>(
    context: &Context<R>,
    request: Request<Asked>,
) -> Result<Response<Body>, Problem> {
    let (head, body) = request.into_parts();
    match named(head.uri.path())? {
        Named::One(id) => match head.method {
            Method::GET | Method::HEAD => look(context, &head, id).await,
            Method::DELETE => delete(context, &head, id).await,
            _ => Err(Problem::not_allowed("GET, HEAD, DELETE")),
        },
        _ if head.method != Method::POST => Err(Problem::not_allowed("POST")),
        Named::RenewalOf(id) => renew(context, &head, id).await,
        Named::RenewalOfMany => renew_many(context, &head, body).await,
    }
}

fn named(path: &str) -> Result<Named, Problem> {
    let rest = path.strip_prefix(PREFIX).unwrap_or("");
    if rest == "keepalive" {
        return Ok(Named::RenewalOfMany);
    }
    let (id, is_renewal) = match rest.strip_suffix("/keepalive") {
        Some(id) => (id, true),
        None => (rest, false),
    };
    let id = decimal(id).map(LeaseId).ok_or_else(|| {
        Problem::new(
            Kind::BadId,
            "The path names no lease: /v1/lease/{id}, /v1/lease/{id}/keepalive or \
             /v1/lease/keepalive, with the id as a decimal number.",
        )
    })?;
    Ok(if is_renewal { Named::RenewalOf(id) } else { Named::One(id) })
}

async fn post<R: Replica>(
    context: &Context<R>,
    head: &Parts,
    body: Asked,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(head.uri.query(), &["redirect"])?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let name = context.name_of(&head.headers)?;
    let (received, deadline) = context.receive_document(&head.headers, body).await?;
    let asked: GrantBody = decode(&received.bytes, "a lease, such as {\"ttl\": \"30s\"}")?;
    let ttl_ms = ttl_of(&asked.ttl, &context.limits)
        .map_err(|should| Problem::new(Kind::BadMember, format!("\"ttl\" {should}.")))?;
    let id = asked.id.map(LeaseId);
    if let Some(id) = id.filter(|id| !id.may_be_chosen()) {
        return Err(not_to_be_chosen(id));
    }
    let named = name.map(|name| {
        let parts = [id.unwrap_or_default().0.to_le_bytes(), ttl_ms.to_le_bytes()];
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        call::name_write(name, "GRANT", &parts, Condition::Always, false, b"")
    });
    let Wrote { outcome, expires } = grant(context, id, ttl_ms, named, deadline).await?;
    let Outcome::LeaseGranted { revision, id, ttl_ms } = outcome else {
        return Err(refused(outcome));
    };
    let body = GrantedBody { id: id.0, ttl_ms, revision: revision.0 };
    let mut response = at(response::json(StatusCode::CREATED, &body), revision);
    Context::<R>::say_expiry(&mut response, expires);
    Ok(response)
}

fn not_to_be_chosen(id: LeaseId) -> Problem {
    let detail = format!(
        "The id {id} can't be chosen: choose one from 1 to {}, or leave it out. Those from {} on \
         are for leases that ask for none.",
        LeaseId::AUTOMATIC_FIRST.0 - 1,
        LeaseId::AUTOMATIC_FIRST,
    );
    Problem::new(Kind::BadMember, detail)
}

/// Grants a lease through the log.
///
/// # Errors
/// As of [`Context::write`].
pub(crate) async fn grant<R: Replica>(
    context: &Context<R>,
    id: Option<LeaseId>,
    ttl_ms: u64,
    idempotency: Option<IdempotencyKey>,
    deadline: Deadline,
) -> Result<Wrote, Problem> {
    let command = Command { idempotency, ..granting(id, ttl_ms) };
    context.write(command, deadline).await
}

/// Grants a lease.
pub(crate) fn granting(id: Option<LeaseId>, ttl_ms: u64) -> Command {
    let operation = Operation::Lease(LeaseOperation::Grant { id, ttl_ms });
    Command { idempotency: None, operation }
}

/// The name of the lease that a named request takes for itself: one that no client can give.
pub(crate) fn name_own(name: &Name, parts: &[&[u8]], ttl_ms: u64) -> IdempotencyKey {
    let key = Bytes::from([name.key.as_ref(), b"\0lease"].concat());
    let ttl = ttl_ms.to_le_bytes();
    let parts = [parts, &[&ttl]].concat();
    let name = Name { key, asked_ms: name.asked_ms };
    call::name_write(name, "GRANT", &parts, Condition::Always, false, b"")
}

/// Ends a lease, for whoever took it for itself.
pub(crate) fn revocation(id: LeaseId) -> Command {
    Command { idempotency: None, operation: Operation::Lease(LeaseOperation::Revoke { id }) }
}

/// Goes on with the end of a lease that is ending, and ends none that was granted with its id later: no
/// lease is of slot 0, so this expiry is an old one for each, and acts only where nobody can save it.
fn rest(id: LeaseId) -> Command {
    let (epoch, renewals) = (LeaseEpoch::default(), 0);
    let operation = Operation::Lease(LeaseOperation::Expire { id, epoch, renewals });
    Command { idempotency: None, operation }
}

async fn delete<R: Replica>(
    context: &Context<R>,
    head: &Parts,
    id: LeaseId,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(head.uri.query(), &["redirect"])?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let deadline = Deadline::of(&head.headers, &context.limits)?;
    let name = context.name_of(&head.headers)?;
    let mut command = revocation(id);
    let parts: &[&[u8]] = &[&id.0.to_le_bytes()];
    command.idempotency =
        name.map(|name| call::name_write(name, "REVOKE", parts, Condition::Always, false, b""));
    let Wrote { mut outcome, expires } = context.write(command, deadline).await?;
    let mut deleted = 0;
    let body = loop {
        match outcome {
            Outcome::LeaseEnded { revision, count, more, .. } => {
                deleted += count;
                if !more || deadline.is_over() {
                    break RevokedBody { id: id.0, revision: revision.0, deleted, more };
                }
                // This outcome may be that of the first attempt, and the lease over since.
                let rest = context.write(rest(id), deadline).await;
                let words = format!("The lease ends, and {deleted} of its keys are removed.");
                outcome =
                    rest.map_err(|problem| problem.after(&words).with_effect_unknown())?.outcome;
            }
            // Who keeps the time was faster with the last keys.
            Outcome::LeaseNotFound { revision, .. } | Outcome::LeaseExpiryOld { revision, .. }
                if deleted > 0 =>
            {
                break RevokedBody { id: id.0, revision: revision.0, deleted, more: false };
            }
            refusal => return Err(refused(refusal)),
        }
    };
    let revision = Revision(body.revision);
    let mut response = at(response::json(StatusCode::OK, &body), revision);
    Context::<R>::say_expiry(&mut response, expires);
    Ok(response)
}

async fn renew<R: Replica>(
    context: &Context<R>,
    head: &Parts,
    id: LeaseId,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(head.uri.query(), &["redirect"])?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let deadline = Deadline::of(&head.headers, &context.limits)?;
    let ttl_ms = keep_alive(context, vec![id], deadline).await?.into_iter().next().flatten();
    let Some(ttl_ms) = ttl_ms else { return Err(lease_not_found(id)) };
    Ok(response::json(StatusCode::OK, &KeptLease { id: id.0, ttl_ms: Some(ttl_ms) }))
}

async fn renew_many<R: Replica>(
    context: &Context<R>,
    head: &Parts,
    body: Asked,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(head.uri.query(), &["redirect"])?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let deadline = Deadline::of(&head.headers, &context.limits)?;
    let until = deadline.body(&context.limits);
    let received = request_body::receive(body, IDS_BYTES_MAX, &context.admission, until).await?;
    let KeepAliveBody { ids } = decode(&received.bytes, "leases, such as {\"ids\": [7, 8]}")?;
    if ids.len() > KEEP_ALIVES_MAX {
        let detail = format!("{} leases; at most {KEEP_ALIVES_MAX} at a time.", ids.len());
        return Err(Problem::new(Kind::BadMember, detail));
    }
    let mut leases = Vec::new();
    if !ids.is_empty() {
        let asked = ids.iter().copied().map(LeaseId).collect();
        let ttls_ms = keep_alive(context, asked, deadline).await?;
        leases.extend(ids.into_iter().zip(ttls_ms).map(|(id, ttl_ms)| KeptLease { id, ttl_ms }));
    }
    context.hold(response::json(StatusCode::OK, &KeptBody { leases })).map_err(|problem| {
        problem
            .after("The leases were renewed; to renew them again does no harm.")
            .with_effect_unknown()
    })
}

/// Renews leases.
///
/// # Errors
/// When it is not known that they live on. It does no harm to ask again.
pub(crate) async fn keep_alive<R: Replica>(
    context: &Context<R>,
    ids: Vec<LeaseId>,
    deadline: Deadline,
) -> Result<Vec<Option<u64>>, Problem> {
    let _place = context.admission.write()?;
    let kept = context.replica.keep_alive(ids, deadline.replica);
    let kept = timeout_at(deadline.answer, kept).await.unwrap_or(Err(Refused::Deadline));
    kept.map_err(|refused| match refused {
        Refused::Deadline | Refused::Lost => Problem::new(
            Kind::Timeout,
            "It is not known whether the leases were renewed. Ask again, which does no harm.",
        )
        .with_effect_unknown(),
        refused => Problem::of_write(refused),
    })
}

/// Renews a lease through the log: what would end it and does not know of this is of no effect.
///
/// # Errors
/// As of [`keep_alive`].
pub(crate) async fn keep_alive_by_command<R: Replica>(
    context: &Context<R>,
    id: LeaseId,
    deadline: Deadline,
) -> Result<Option<u64>, Problem> {
    let operation = Operation::Lease(LeaseOperation::KeepAlive { ids: vec![id] });
    let command = Command { idempotency: None, operation };
    match context.write(command, deadline).await?.outcome {
        Outcome::LeasesKept { ttls_ms, .. } => Ok(ttls_ms.into_iter().next().flatten()),
        other => Err(refused(other)),
    }
}

async fn list<R: Replica>(context: &Context<R>, head: &Parts) -> Result<Response<Body>, Problem> {
    let query = Query::parse(head.uri.query(), &LIST_PARAMETERS)?;
    let from = LeaseId(query.number("from")?.unwrap_or(0));
    let limit = limit_of(&query, &context.limits)?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    context.prepare_read(&head.headers, &query).await?;
    let find = |map: &R::Map| lease::list(map, from, limit + 1).map_err(ReadError::Map);
    let mut found = context.replica.read(find)?;
    let next = if found.len() > limit { found.pop().map(|(id, _)| id.0) } else { None };
    let leases = found.into_iter().map(|(id, lease)| describe(context, id, lease)).collect();
    context.hold(response::json(StatusCode::OK, &LeasesBody { leases, next }))
}

async fn look<R: Replica>(
    context: &Context<R>,
    head: &Parts,
    id: LeaseId,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(head.uri.query(), &LOOK_PARAMETERS)?;
    let with_keys = query.flag("keys")?;
    let start = query.bytes("start", context.limits.key_bytes_max)?;
    if !with_keys && (start.is_some() || query.raw("limit").is_some()) {
        return Err(target::contradictory("start", "and 'limit' are for the keys: say keys=true"));
    }
    let (start, limit) = (start.unwrap_or_default(), limit_of(&query, &context.limits)?);
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    context.prepare_read(&head.headers, &query).await?;
    let find = |map: &R::Map| lease::find(map, id).map_err(ReadError::Map);
    let Some(lease) = context.replica.read(find)? else { return Err(lease_not_found(id)) };
    let mut body = describe(context, id, lease);
    if with_keys {
        let find = |map: &R::Map| lease::keys(map, id, &start, limit + 1).map_err(ReadError::Map);
        let mut keys = context.replica.read(find)?;
        if keys.len() > limit {
            body.next = keys.pop().map(|key| percent_encode(&key));
        }
        body.keys = Some(keys.iter().map(|key| KeyText::new(key, Encoding::Text)).collect());
    }
    context.hold(response::json(StatusCode::OK, &body))
}

fn describe<R: Replica>(context: &Context<R>, id: LeaseId, lease: Lease) -> LeaseBody {
    LeaseBody {
        id: id.0,
        ttl_ms: lease.ttl_ms,
        granted_ms: lease.granted_ms,
        remaining_ms: context.replica.lease_left_ms(id),
        ending: lease.is_ending,
        keys: None,
        next: None,
    }
}

fn limit_of(query: &Query<'_>, limits: &Limits) -> Result<usize, Problem> {
    let Some(limit) = query.number("limit")? else {
        return Ok(limits.list_entries_default.min(limits.list_entries_max));
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if (1..=limits.list_entries_max).contains(&limit) {
        return Ok(limit);
    }
    Err(target::invalid("limit", &format!("is from 1 to {}", limits.list_entries_max)))
}

/// A time to live in milliseconds.
///
/// # Errors
/// What it should be.
pub(crate) fn ttl_of(text: &str, limits: &Limits) -> Result<u64, String> {
    let bounds = limits.lease_ttl_ms_min..=limits.lease_ttl_ms_max;
    call::millis(text).filter(|ttl_ms| bounds.contains(ttl_ms)).ok_or_else(|| {
        format!(
            "is a whole number of seconds or milliseconds, such as 30s or 1500ms, from {}ms to \
             {}ms",
            bounds.start(),
            bounds.end()
        )
    })
}

/// Takes a JSON document.
///
/// # Errors
/// When it is not one of this kind.
pub(crate) fn decode<T: DeserializeOwned>(body: &Bytes, what: &str) -> Result<T, Problem> {
    request_body::decode(body, what)
}
