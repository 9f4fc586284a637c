//! The calls about the members of the cluster. Changes are for the leader, so the other
//! nodes redirect to it.

use std::future::Future;

use axum::body::Body as Asked;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, request};
use synod_kv::http::{AddMemberBody, ChangeMemberBody, MemberRole, MembersBody, QuorumsBody};
use tokio::time::timeout_at;

use crate::call::Deadline;
use crate::context::Context;
use crate::membership::{MemberChange, Wanted};
use crate::problem::{Kind, Problem};
use crate::replica::{ChangeRefused, Refused, Replica};
use crate::request_body::decode;
use crate::response::{self, Body};
use crate::target::{Query, decimal};

/// Where a member is found.
const PREFIX: &str = "/v1/cluster/members/";
/// The longest address of a peer.
const PEER_BYTES_MAX: usize = 255 + 6;
/// The longest client URL.
const URL_BYTES_MAX: usize = 512;

/// `/v1/cluster` and `/v1/cluster/members`: who is a member, and one more.
///
/// # Errors
/// A malformed request, or a change that is refused.
pub(crate) async fn members<R: Replica>(
    context: &Context<R>,
    request: Request<Asked>,
) -> Result<Response<Body>, Problem> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        Query::parse(request.uri().query(), &[])?;
        let members = context.replica.members().ok_or_else(not_known)?;
        return Ok(response::json(StatusCode::OK, &members));
    }
    if request.method() != Method::POST || request.uri().path() == "/v1/cluster" {
        return Err(Problem::not_allowed(match request.uri().path() {
            "/v1/cluster" => "GET, HEAD",
            _ => "GET, HEAD, POST",
        }));
    }
    change(context, request, |head, body| {
        Query::parse(head.uri.query(), &[])?;
        let body: AddMemberBody = decode(body, "a new member")?;
        check_id(body.id, Kind::BadMember)?;
        check_peer(&body.peer)?;
        check_url(&body.client_url)?;
        let wanted = Wanted::Add {
            id: body.id,
            store: parse_store(&body.store)?,
            peer: body.peer,
            client_url: body.client_url.trim_end_matches('/').to_owned(),
        };
        Ok(MemberChange { wanted, configuration: body.configuration, force: false })
    })
    .await
}

/// `/v1/cluster/members/{id}`: promote it, put it in another's place, tell its new
/// addresses, or remove it.
///
/// # Errors
/// A malformed request, or a change that is refused.
pub(crate) async fn member<R: Replica>(
    context: &Context<R>,
    request: Request<Asked>,
) -> Result<Response<Body>, Problem> {
    if !matches!(*request.method(), Method::PUT | Method::DELETE) {
        return Err(Problem::not_allowed("PUT, DELETE"));
    }
    change(context, request, |head, body| {
        let id = head.uri.path().strip_prefix(PREFIX).and_then(decimal);
        let id = id.and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            Problem::new(Kind::BadId, "The path ends with the number of a member.")
        })?;
        check_id(id, Kind::BadId)?;
        if head.method == Method::DELETE {
            let query = Query::parse(head.uri.query(), &["configuration", "force"])?;
            let (configuration, force) = (query.number("configuration")?, query.flag("force")?);
            return Ok(MemberChange { wanted: Wanted::Remove { id }, configuration, force });
        }
        Query::parse(head.uri.query(), &[])?;
        let body: ChangeMemberBody = decode(body, "a change of a member")?;
        let (configuration, force) = (body.configuration, body.force);
        Ok(MemberChange { wanted: wanted(id, body)?, configuration, force })
    })
    .await
}

/// `/v1/cluster/quorums`.
///
/// # Errors
/// A malformed request, or a change that is refused.
pub(crate) async fn quorums<R: Replica>(
    context: &Context<R>,
    request: Request<Asked>,
) -> Result<Response<Body>, Problem> {
    if request.method() != Method::PUT {
        return Err(Problem::not_allowed("PUT"));
    }
    change(context, request, |head, body| {
        Query::parse(head.uri.query(), &[])?;
        let body: QuorumsBody = decode(body, "quorums")?;
        let wanted = Wanted::Quorums { promise: body.promise, accept: body.accept };
        Ok(MemberChange { wanted, configuration: body.configuration, force: body.force })
    })
    .await
}

/// Reads a change, has it made, and answers with the members that came of it.
async fn change<R: Replica>(
    context: &Context<R>,
    request: Request<Asked>,
    read: impl FnOnce(&request::Parts, &Bytes) -> Result<MemberChange, Problem>,
) -> Result<Response<Body>, Problem> {
    let (head, body) = request.into_parts();
    let deadline = context.deadline(&head.headers)?;
    if let Some(redirected) = context.redirect_to_leader(&head.uri, deadline).await? {
        return Ok(redirected);
    }
    let body = context.receive_document_within(body, deadline).await?;
    let change = read(&head, &body.bytes)?;
    let _place = context.admission.write()?;
    let members =
        answer(context.replica.change_members(change, deadline.replica), deadline).await?;
    Ok(response::json(StatusCode::OK, &members))
}

async fn answer(
    change: impl Future<Output = Result<MembersBody, ChangeRefused>>,
    deadline: Deadline,
) -> Result<MembersBody, Problem> {
    let refused = match timeout_at(deadline.answer, change).await {
        Ok(Ok(members)) => return Ok(members),
        Ok(Err(refused)) => refused,
        Err(_elapsed) => ChangeRefused::Replica(Refused::Deadline),
    };
    Err(match refused {
        ChangeRefused::Refused { kind, detail } => Problem::new(kind, detail),
        ChangeRefused::Replica(Refused::Deadline) => Problem::new(
            Kind::Timeout,
            "No outcome was known in time. The change may still come into force: look at \
             /v1/cluster/members, or send it again, which does no harm.",
        )
        .with_effect_unknown(),
        ChangeRefused::Replica(Refused::Lost) => Problem::new(
            Kind::OutcomeUnknown,
            "The outcome of the change was lost. Look at /v1/cluster/members, or send it again, \
             which does no harm.",
        )
        .with_effect_unknown(),
        ChangeRefused::Replica(refused) => Problem::of_write(refused),
    })
}

/// Exactly one thing at a time: each is a configuration of its own.
fn wanted(id: u32, body: ChangeMemberBody) -> Result<Wanted, Problem> {
    let moves = body.peer.is_some() || body.client_url.is_some();
    match (body.role, body.replaces, moves) {
        (Some(MemberRole::Voter), None, false) => Ok(Wanted::Promote { id }),
        (Some(MemberRole::Learner), None, false) => Err(Problem::new(
            Kind::BadMember,
            "A voter does not become a learner member again: remove it, and add a new node.",
        )),
        (None, Some(old), false) => Ok(Wanted::Replace { id, old }),
        (None, None, true) => {
            body.peer.as_deref().map_or(Ok(()), check_peer)?;
            body.client_url.as_deref().map_or(Ok(()), check_url)?;
            let client_url = body.client_url.map(|url| url.trim_end_matches('/').to_owned());
            Ok(Wanted::Move { id, peer: body.peer, client_url })
        }
        (role, replaces, _) => Err(Problem::new(
            match role.is_some() || replaces.is_some() {
                true => Kind::ContradictoryMembers,
                false => Kind::MissingMember,
            },
            "Say one of: \"role\": \"voter\", \"replaces\": NODE, or new addresses (\"peer\", \
             \"client_url\").",
        )),
    }
}

fn not_known() -> Problem {
    Problem::new(Kind::NotReady, "This node starts and does not know the members yet.")
}

fn check_id(id: u32, kind: Kind) -> Result<(), Problem> {
    if id == 0 {
        return Err(Problem::new(kind, "No node has the id 0: ids begin with 1."));
    }
    Ok(())
}

fn parse_store(text: &str) -> Result<u128, Problem> {
    let is_hex = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let store = u128::from_str_radix(text, 16).ok().filter(|store| is_hex && *store != 0);
    store.ok_or_else(|| {
        let detail = "\"store\" is the id of the new node's data folder, 32 hexadecimal digits; \
                      `synod member add` makes the folder and tells its id.";
        Problem::new(Kind::BadMember, detail)
    })
}

fn check_peer(address: &str) -> Result<(), Problem> {
    if is_peer_address(address) {
        return Ok(());
    }
    let detail = "\"peer\" is a host and a port, such as 10.0.0.4:7011, of 261 bytes at the most.";
    Err(Problem::new(Kind::BadMember, detail))
}

fn check_url(url: &str) -> Result<(), Problem> {
    if is_client_url(url) {
        return Ok(());
    }
    let detail =
        "\"client_url\" is a base URL, such as http://10.0.0.4:7001, of 512 bytes at the most.";
    Err(Problem::new(Kind::BadMember, detail))
}

/// Whether the text can be the address at which peers reach a member: a host and a port.
#[must_use]
pub fn is_peer_address(address: &str) -> bool {
    let parts = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    parts.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port != 0))
        && address.len() <= PEER_BYTES_MAX
        && address.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether the text can be the base URL at which clients reach a member.
#[must_use]
pub fn is_client_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let is_valid = rest.is_some_and(|rest| {
        let authority = rest.trim_end_matches('/');
        let plain = authority.bytes().all(|byte| byte.is_ascii_graphic());
        !authority.is_empty() && !authority.contains(['/', '?', '#', '"']) && plain
    });
    is_valid && url.len() <= URL_BYTES_MAX
}
