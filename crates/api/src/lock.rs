//! `/v1/lock/{name}` and `/v1/election/{name}`: one at a time, in the order of asking.

use std::time::Duration;

use axum::body::Body as Asked;
use bytes::Bytes;
use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use synod_kv::http::{ClaimBody, Encoding, HeldBody, HolderBody, ValueText};
use synod_kv::read::ReadError;
use synod_kv::{Condition, IdempotencyKey, LeaseId, Outcome, Revision, lease as leases};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::call::{self, Deadline, Name};
use crate::claim::{self, Claim, Office, Paper, Turn};
use crate::context::Context;
use crate::lease::{self, decode, ttl_of};
use crate::operation;
use crate::problem::{Kind, Problem};
use crate::refusal::{lease_not_found, refused};
use crate::release;
use crate::replica::Replica;
use crate::response::{self, Body, at};
use crate::target::{self, Query};
use crate::withdrawal::{Granted, Own, Withdrawal};

const LOCK: &str = "/v1/lock/";
const ELECTION: &str = "/v1/election/";
const LOOK_PARAMETERS: [&str; 3] = ["consistency", "min_revision", "redirect"];

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
        Method::DELETE => release::answer(context, &head, &office).await,
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
        value: holder.and_then(|claim| claim.paper.value),
        waiters,
    };
    Ok(response::json(StatusCode::OK, &body))
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
    value: Option<ValueText>,
    wait: Duration,
    /// The name of the lease, if the request has one.
    name: Option<(Name, &'static str, Bytes)>,
}

impl Wish {
    /// The name of the write that says what the winner of an election says, if the request has one:
    /// an attempt that comes late must not say it again when something else was said. It is one
    /// that no client can give, and one for each claim, of which the next attempt may make another.
    fn name_of_word(&self, token: Revision, paper: &Paper) -> Option<IdempotencyKey> {
        let (name, kind, of) = self.name.as_ref().filter(|_| paper.value.is_some())?;
        let key = Bytes::from([name.key.as_ref(), b"\0word", &token.0.to_le_bytes()].concat());
        let name = Name { key, asked_ms: name.asked_ms };
        let body = response::to_json(paper);
        let parts: [&[u8]; 2] = [kind.as_bytes(), of];
        Some(call::name_write(name, "SAY", &parts, Condition::Always, false, &body))
    }
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
    let malformed = |detail: String| Problem::new(Kind::BadMember, detail);
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
        (Some(0), None) => return Err(malformed("No lease has the id 0.".to_owned())),
        (lease, _) => {
            let detail = "Say one of \"ttl\", which makes a lease for this alone, and \"lease\", the \
                          id of one that is there.";
            let is_both = lease.is_some();
            let kind = if is_both { Kind::ContradictoryMembers } else { Kind::MissingMember };
            return Err(Problem::new(kind, detail));
        }
    };
    let has_value = asked.value.is_some() || asked.value_base64.is_some();
    if has_value && kind == "lock" {
        let detail = "A lock has no \"value\"; an election has.";
        return Err(Problem::new(Kind::UnknownMember, detail));
    }
    let value = has_value
        .then(|| {
            let given = ("value", asked.value, asked.value_base64);
            operation::value(given, "The claim", &context.limits)
        })
        .transpose()?
        .map(|value| ValueText::new(&value, Encoding::Text));
    let wait = Duration::from_millis(wait_ms);
    let deadline = Deadline::of_waiting(&head.headers, &context.limits, wait)?;
    let name = request_name.map(|of_request| (of_request, kind, name.clone()));
    let wish = Wish { office, under, value, wait, name };
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
    let place = context.admission.lock_wait()?;
    // Time is left to say that it did not come.
    let left = deadline.replica.saturating_duration_since(Instant::now());
    let until = Instant::now() + wish.wait.min(left - left / 10);
    let since = context.replica.revision();
    let (lease, ttl_ms) = lease_of(context, &wish, deadline).await?;
    let own = matches!(wish.under, Under::Own { .. });
    let paper = Paper { own, value: wish.value.clone() };
    let shared = own && wish.name.is_some();
    let made = own.then_some(if shared { Own::Shared(lease) } else { Own::Alone(lease) });
    let (replica, key) = (&context.replica, wish.office.key(lease));
    let mut withdrawal = Withdrawal::new(replica, key.clone(), since, made, place);
    let late = loop {
        withdrawal.set_token(None);
        let token = match wish.office.claim(context, lease, &paper, deadline).await? {
            Ok(claimed) => claimed,
            Err(id) => {
                if !own || wish.name.is_none() {
                    return Err(lease_not_found(id));
                }
                // The lease of an earlier attempt under this name is over.
                let granted = lease::grant(context, Some(id), ttl_ms, None, deadline).await?;
                match granted.outcome {
                    Outcome::LeaseGranted { .. } | Outcome::LeaseExists { .. } => continue,
                    other => return Err(refused(other)),
                }
            }
        };
        withdrawal.set_token(Some(token));
        let turn = wish.office.wait(context, lease, token, until);
        let turn = if own {
            while_alive(context, (lease, ttl_ms), deadline, turn).await?
        } else {
            turn.await?
        };
        let is_lost = match turn {
            Turn::Late(holder) => break holder,
            Turn::Lost => true,
            Turn::Mine => match confirm(
                context,
                (&key, lease, token, shared),
                (&paper, wish.name_of_word(token, &paper)),
                deadline,
            )
            .await?
            {
                Confirmed::Held { ttl_ms } => {
                    withdrawal.cancel();
                    return Ok(HeldBody { lease: lease.0, token: token.0, ttl_ms });
                }
                Confirmed::LeaseOver => false,
                Confirmed::Lost => true,
            },
        };
        if is_lost && claim::may_have_been_held(context, &key, token).await? {
            withdrawal.cancel();
            return Err(let_go(lease, token));
        }
        if deadline.is_over() {
            return Err(Problem::new(Kind::Timeout, "The claim was lost again and again."));
        }
    };
    withdrawal.now(deadline).await;
    Err(held_by(&late))
}

/// What became of a claim that was the oldest.
enum Confirmed {
    /// It holds, under a lease that lives so long.
    Held { ttl_ms: u64 },
    /// The lease was over before anybody was told.
    LeaseOver,
    /// It is not there any more.
    Lost,
}

async fn confirm<R: Replica>(
    context: &Context<R>,
    (key, lease, token, shared): (&Bytes, LeaseId, Revision, bool),
    (paper, name): (&Paper, Option<IdempotencyKey>),
    deadline: Deadline,
) -> Result<Confirmed, Problem> {
    let confirmed = claim::confirmation(key.clone(), token, lease, paper, name);
    match context.write(confirmed, deadline).await?.outcome {
        // What is remembered under a name may have been let go since.
        Outcome::Txn { succeeded: true, .. } if !claim::is_there(context, key, token)? => {
            Ok(Confirmed::Lost)
        }
        // Renewed from now on: its holder counts from when it hears of it.
        Outcome::Txn { succeeded: true, .. } => {
            let kept = match shared {
                true => lease::keep_alive_by_command(context, lease, deadline).await,
                false => lease::keep_alive(context, vec![lease], deadline).await.map(sole),
            };
            let kept = kept.map_err(|problem| {
                let words =
                    format!("It is held under the lease {lease}, which nobody may have renewed.");
                problem.after(&words).with_effect_unknown()
            })?;
            Ok(kept.map_or(Confirmed::LeaseOver, |ttl_ms| Confirmed::Held { ttl_ms }))
        }
        Outcome::Txn { .. } | Outcome::LeaseNotFound { .. } => Ok(Confirmed::Lost),
        other => Err(refused(other)),
    }
}

/// What became of the one lease that was asked about.
fn sole(ttls_ms: Vec<Option<u64>>) -> Option<u64> {
    ttls_ms.into_iter().next().flatten()
}

/// Another call under the same lease held the claim, or may have, and let it go, while this one heard
/// of nothing. To claim again would be to take what nobody waits for any more.
fn let_go(lease: LeaseId, token: Revision) -> Problem {
    let detail = format!(
        "Another request like this one held it under the lease {lease} with the token {token}, or \
         may have, and it is not held so any more. Ask again if it is still wanted."
    );
    Problem::new(Kind::LockHeld, detail)
}

fn held_by(holder: &Claim) -> Problem {
    let Claim { lease, token, .. } = holder;
    let detail = format!(
        "It is held under the lease {lease} with the token {token}, and did not come free in time. \
         Wait longer for it with \"wait\"."
    );
    Problem::new(Kind::LockHeld, detail)
}

/// Who holds what is not waited for. It is not claimed then: whoever asks for it again and again
/// writes nothing.
async fn held_already<R: Replica>(
    context: &Context<R>,
    wish: &Wish,
    deadline: Deadline,
) -> Result<Option<Claim>, Problem> {
    // What is seen here may be over, which costs nothing to find out when it is free.
    if !wish.wait.is_zero() || wish.office.line(context, None).await?.first.is_none() {
        return Ok(None);
    }
    context.confirm(deadline).await?;
    Ok(wish.office.line(context, None).await?.first)
}

/// The lease for a claim, and how long it lives without being renewed.
async fn lease_of<R: Replica>(
    context: &Context<R>,
    wish: &Wish,
    deadline: Deadline,
) -> Result<(LeaseId, u64), Problem> {
    match wish.under {
        Under::Own { ttl_ms } => {
            // Under a name it may be this request that holds it: the lease tells, and only the name
            // tells the lease.
            let Some((name, kind, of)) = &wish.name else {
                if let Some(holder) = held_already(context, wish, deadline).await? {
                    return Err(held_by(&holder));
                }
                let granted = Granted::ask(context, ttl_ms, deadline).await?;
                return granted.map(|granted| (granted.take(), ttl_ms)).map_err(refused);
            };
            let named = Some(lease::name_own(name, &[kind.as_bytes(), of], ttl_ms));
            match lease::grant(context, None, ttl_ms, named, deadline).await?.outcome {
                Outcome::LeaseGranted { id, .. } => Ok((id, ttl_ms)),
                other => Err(refused(other)),
            }
        }
        Under::Given(id) => {
            context.confirm(deadline).await?;
            let find = |map: &R::Map| leases::find(map, id).map_err(ReadError::Map);
            let found = context.replica.read(find)?.filter(|lease| !lease.is_ending);
            let lease = found.ok_or_else(|| lease_not_found(id))?;
            // A claim of an earlier request under this lease may hold, or be to be taken back.
            if context.replica.get(&wish.office.key(id))?.record.is_none()
                && let Some(holder) = held_already(context, wish, deadline).await?
            {
                return Err(held_by(&holder));
            }
            Ok((id, lease.ttl_ms))
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
