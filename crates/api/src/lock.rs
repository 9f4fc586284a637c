//! `/v1/lock/{name}` and `/v1/election/{name}`: one at a time, in the order of asking.

use std::time::Duration;

use axum::body::Body as Asked;
use bytes::Bytes;
use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use synod_kv::http::{ClaimBody, Encoding, HeldBody, HolderBody, ReleasedBody, ValueText};
use synod_kv::read::ReadError;
use synod_kv::{Command, Condition, LeaseId, Outcome, Revision, Taken, lease as leases};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::call::{self, Deadline, Name};
use crate::claim::{self, Claim, Office, Paper, Turn};
use crate::context::{Context, Wrote};
use crate::key::{at, refused};
use crate::lease::{self, decode, ttl_of};
use crate::problem::{Kind, Problem};
use crate::replica::Replica;
use crate::response::{self, Body};
use crate::target::{self, Query};

const LOCK: &str = "/v1/lock/";
const ELECTION: &str = "/v1/election/";
const LOOK_PARAMETERS: [&str; 3] = ["consistency", "min_revision", "redirect"];
/// How long the removal of a claim may take that nobody waits for any more.
const WITHDRAWAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers a call about a lock or an election.
///
/// # Errors
/// A malformed request, or a refusal.
pub(crate) async fn answer<R: Replica>(
    context: &Context<R>,
    request: Request<Asked>,
) -> Result<Response<Body>, Problem> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let (kind, name) = match path.strip_prefix(LOCK) {
        Some(name) => ("lock", name),
        None => ("election", path.strip_prefix(ELECTION).unwrap_or("")),
    };
    let name = target::key(name, context.limits.key_bytes_max)?;
    let office = Office::new(kind, &name, context.limits.key_bytes_max)?;
    match head.method {
        Method::GET | Method::HEAD => look(context, &head, &office).await,
        Method::DELETE => release(context, &head, &office).await,
        Method::POST => take(context, &head, body, (kind, &name, office)).await,
        _ => Err(Problem::not_allowed("GET, HEAD, POST, DELETE")),
    }
}

async fn look<R: Replica>(
    context: &Context<R>,
    head: &Parts,
    office: &Office,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(head.uri.query(), &LOOK_PARAMETERS)?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    context.prepare_read(&head.headers, &query).await?;
    let line = office.line(context, None).await?;
    let waiters = line.count.saturating_sub(1);
    let holder = line.first;
    let body = HolderBody {
        held: holder.is_some(),
        lease: holder.as_ref().map(|claim| claim.lease.0),
        token: holder.as_ref().map(|claim| claim.token.0),
        remaining_ms: holder.as_ref().and_then(|c| context.replica.lease_left_ms(c.lease)),
        value: holder
            .and_then(|claim| claim.paper.value)
            .map(|value| ValueText::new(value.as_bytes(), Encoding::Text)),
        waiters,
    };
    Ok(response::json(StatusCode::OK, &body))
}

async fn release<R: Replica>(
    context: &Context<R>,
    head: &Parts,
    office: &Office,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(head.uri.query(), &["token", "redirect"])?;
    let token = query.number("token")?.map(Revision);
    let token = token.ok_or_else(|| {
        target::invalid("token", "is missing: say the token that came with the lock")
    })?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let deadline = Deadline::of(&head.headers, &context.limits)?;
    let name = context.name_of(&head.headers)?;
    context.prepare_read(&head.headers, &query).await?;
    let line = office.line(context, Some(token)).await?;
    let holder = line.first.filter(|first| first.token == token);
    let Some(Claim { key, lease, paper, .. }) = holder else { return Err(not_held(token)) };
    let idempotency = name.map(|name| {
        let parts: [&[u8]; 2] = [&key, &token.0.to_le_bytes()];
        call::name_write(name, "RELEASE", &parts, Condition::Always, false, b"")
    });
    let Wrote { outcome, expires } =
        context.write(claim::release(key, token, idempotency), deadline).await?;
    let revision = match outcome {
        Outcome::Txn { succeeded: true, revision, .. } => revision,
        Outcome::Txn { revision, .. } => return Err(not_held(token).at(revision)),
        other => return Err(refused(other)),
    };
    if paper.own {
        // It is free already. If this fails, the lease ends by itself.
        let _ = context.write(lease::revocation(lease), deadline).await;
    }
    let body = ReleasedBody { lease: lease.0, token: token.0, revision: revision.0 };
    let mut response = at(response::json(StatusCode::OK, &body), revision);
    Context::<R>::say_expiry(&mut response, expires);
    Ok(response)
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

/// Under which lease something is claimed.
#[derive(Clone, Copy)]
enum Under {
    /// One of the client.
    Given(LeaseId),
    /// One of its own.
    Own { ttl_ms: u64 },
}

/// What a request asks for.
struct Wish {
    office: Office,
    under: Under,
    value: Option<String>,
    wait: Duration,
    /// The name of the lease, if the request has one.
    name: Option<(Name, &'static str, Bytes)>,
}

async fn take<R: Replica>(
    context: &Context<R>,
    head: &Parts,
    body: Asked,
    (kind, name, office): (&'static str, &Bytes, Office),
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(head.uri.query(), &["redirect"])?;
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let request_name = context.name_of(&head.headers)?;
    let (received, _) = context.receive_document(&head.headers, body).await?;
    let what = "a claim, such as {\"ttl\": \"10s\", \"wait\": \"30s\"}";
    let asked: ClaimBody = decode(&received.bytes, what)?;
    let malformed = |detail: String| Problem::new(Kind::BadRequest, detail);
    let wait_ms = asked.wait.as_deref().map_or(Some(0), call::millis);
    let wait_ms =
        wait_ms.filter(|ms| *ms <= context.limits.call_timeout_max_ms).ok_or_else(|| {
            let most = context.limits.call_timeout_max_ms;
            malformed(format!("\"wait\" is a time such as 30s or 500ms, at most {most}ms."))
        })?;
    let under = match (asked.lease, asked.ttl.as_deref()) {
        (Some(id @ 1..), None) => Under::Given(LeaseId(id)),
        (None, Some(ttl)) => {
            let ttl_ms = ttl_of(ttl, &context.limits);
            let ttl_ms = ttl_ms.map_err(|should| malformed(format!("\"ttl\" {should}.")))?;
            Under::Own { ttl_ms }
        }
        _ => {
            let detail = "Say one of \"ttl\", which makes a lease for this alone, and \"lease\", the \
                          id of one that is there.";
            return Err(malformed(detail.to_owned()));
        }
    };
    if asked.value.is_some() && kind == "lock" {
        return Err(malformed("A lock has no \"value\"; an election has.".to_owned()));
    }
    let wait = Duration::from_millis(wait_ms);
    let deadline = Deadline::of_waiting(&head.headers, &context.limits, wait)?;
    let name = request_name.map(|of_request| (of_request, kind, name.clone()));
    let wish = Wish { office, under, value: asked.value, wait, name };
    let held = hold(context, wish, deadline).await?;
    let revision = Revision(held.token);
    let mut response = response::json(StatusCode::OK, &held);
    response.headers_mut().insert(response::LEASE, HeaderValue::from(held.lease));
    Ok(if context.replica.revision() < revision { at(response, revision) } else { response })
}

/// Claims, waits, and holds.
async fn hold<R: Replica>(
    context: &Context<R>,
    wish: Wish,
    deadline: Deadline,
) -> Result<HeldBody, Problem> {
    let _place = context.admission.lock_wait()?;
    // Time is left to say that it did not come.
    let left = deadline.replica.saturating_duration_since(Instant::now());
    let until = Instant::now() + wish.wait.min(left - left / 10);
    let since = context.replica.revision();
    let (lease, ttl_ms) = lease_of(context, &wish, deadline).await?;
    let own = matches!(wish.under, Under::Own { .. });
    // Attempts under one name share the lease: one that gives up must not end it for another.
    let is_alone = own && wish.name.is_none();
    let paper = Paper { own: is_alone, value: wish.value.clone() };
    let mut withdrawal = Withdrawal {
        replica: Some(context.replica.clone()),
        key: wish.office.key(lease),
        since,
        own: is_alone.then_some(lease),
    };
    let late = loop {
        let token = match wish.office.claim(context, lease, &paper, deadline).await? {
            Ok(token) => token,
            Err(id) => {
                if !own || wish.name.is_none() {
                    return Err(lease::not_found(id));
                }
                // The lease of an earlier attempt under this name is over.
                let granted = lease::grant(context, Some(id), ttl_ms, None, deadline).await?;
                match granted.outcome {
                    Outcome::LeaseGranted { .. } | Outcome::LeaseExists { .. } => continue,
                    other => return Err(refused(other)),
                }
            }
        };
        let turn = wish.office.wait(context, lease, token, until);
        let turn = if own {
            while_alive(context, (lease, ttl_ms), deadline, turn).await?
        } else {
            turn.await?
        };
        match turn {
            Turn::Late(holder) => break holder,
            Turn::Lost => {}
            Turn::Mine => {
                let key = wish.office.key(lease);
                let confirmed = claim::confirmation(key, token, lease, &paper);
                let Wrote { outcome, .. } = context.write(confirmed, deadline).await?;
                match outcome {
                    Outcome::Txn { succeeded: true, .. } => {
                        withdrawal.replica = None;
                        return Ok(HeldBody { lease: lease.0, token: token.0, ttl_ms });
                    }
                    Outcome::Txn { .. } | Outcome::LeaseNotFound { .. } => {}
                    other => return Err(refused(other)),
                }
            }
        }
        if deadline.is_over() {
            return Err(Problem::new(Kind::Timeout, "The claim was lost again and again."));
        }
    };
    withdrawal.now(deadline).await;
    Err(held_by(&late))
}

fn held_by(holder: &Claim) -> Problem {
    let Claim { lease, token, .. } = holder;
    let detail = format!(
        "It is held under the lease {lease} with the token {token}, and did not come free in time. \
         Wait longer for it with \"wait\"."
    );
    Problem::new(Kind::LockHeld, detail)
}

/// The lease for a claim, and how long it lives without being renewed.
async fn lease_of<R: Replica>(
    context: &Context<R>,
    wish: &Wish,
    deadline: Deadline,
) -> Result<(LeaseId, u64), Problem> {
    match wish.under {
        Under::Own { ttl_ms } => {
            let named = wish
                .name
                .as_ref()
                .map(|(name, kind, of)| lease::name_own(name, &[kind.as_bytes(), of], ttl_ms));
            match lease::grant(context, None, ttl_ms, named, deadline).await?.outcome {
                Outcome::LeaseGranted { id, .. } => Ok((id, ttl_ms)),
                other => Err(refused(other)),
            }
        }
        Under::Given(id) => {
            let barrier = context.replica.read_barrier(deadline.replica).await;
            barrier.map_err(Problem::of_read)?;
            let find = |map: &R::Map| leases::find(map, id).map_err(ReadError::Map);
            let found = context.replica.read(find)?.filter(|lease| !lease.is_ending);
            found.map(|lease| (id, lease.ttl_ms)).ok_or_else(|| lease::not_found(id))
        }
    }
}

/// Renews the lease of a claim while it waits: its client does not know it yet.
async fn while_alive<R: Replica>(
    context: &Context<R>,
    (lease, ttl_ms): (LeaseId, u64),
    deadline: Deadline,
    turn: impl Future<Output = Result<Turn, Problem>>,
) -> Result<Turn, Problem> {
    let mut renewals = interval(Duration::from_millis((ttl_ms / 3).max(1)));
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    renewals.tick().await;
    let mut turn = std::pin::pin!(turn);
    loop {
        tokio::select! {
            biased;
            turn = &mut turn => return turn,
            _ = renewals.tick() => {
                // If it is lost, the claim is.
                let _ = lease::keep_alive(context, vec![lease], deadline).await;
            }
        }
    }
}

/// Removes the claim of a call that ends without holding what it claimed, also when its client
/// goes away.
struct Withdrawal<R: Replica> {
    /// None when there is nothing to remove.
    replica: Option<R>,
    key: Bytes,
    since: Revision,
    /// The lease that was made for the claim alone.
    own: Option<LeaseId>,
}

impl<R: Replica> Withdrawal<R> {
    async fn now(mut self, deadline: Deadline) {
        if let Some(replica) = self.replica.take() {
            let work = withdraw(replica, self.key.clone(), self.since, self.own);
            // It goes on when nobody waits for it any more.
            let _ = tokio::time::timeout_at(deadline.replica, tokio::spawn(work)).await;
        }
    }
}

impl<R: Replica> Drop for Withdrawal<R> {
    fn drop(&mut self) {
        if let Some(replica) = self.replica.take() {
            let work = withdraw(replica, self.key.clone(), self.since, self.own);
            // Where the server ends there is nobody to do it: the lease ends by itself.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                drop(runtime.spawn(work));
            }
        }
    }
}

async fn withdraw<R: Replica>(replica: R, key: Bytes, since: Revision, own: Option<LeaseId>) {
    let deadline = Instant::now() + WITHDRAWAL_TIMEOUT;
    let withdrawal: Command = claim::withdrawal(key, since);
    let taken = replica.write(withdrawal, deadline).await;
    let is_mine =
        matches!(taken, Ok(Taken::Applied { outcome: Outcome::Txn { succeeded: true, .. }, .. }));
    // Another call that holds under the same lease keeps it. What fails here ends by itself.
    if let Some(lease) = own.filter(|_| is_mine) {
        let _ = replica.write(lease::revocation(lease), deadline).await;
    }
}
