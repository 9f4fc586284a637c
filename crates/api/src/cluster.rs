//! The calls that change who does what in the cluster.

use axum::body::Body as Asked;
use http::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use synod_kv::http::LeaderHint;
use tokio::time::timeout_at;
use utoipa::ToSchema;

use crate::context::Context;
use crate::problem::{Kind, Problem};
use crate::replica::{Refused, Replica};
use crate::request_body::decode;
use crate::response::{self, Body};
use crate::target::Query;

/// The body of `POST /v1/cluster/transfer`; an empty one is the same as `{}`.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransferBody {
    /// Who shall lead; whoever is fit when it is not said.
    #[serde(default)]
    to: Option<u32>,
}

/// `POST /v1/cluster/transfer`: another node leads. Only the leader can give its office
/// away, so the other nodes redirect to it.
///
/// # Errors
/// A malformed request, no such member, no leader, or nobody who took over in time: that
/// may still happen.
pub(crate) async fn transfer<R: Replica>(
    context: &Context<R>,
    request: Request<Asked>,
) -> Result<Response<Body>, Problem> {
    if request.method() != Method::POST {
        return Err(Problem::not_allowed("POST"));
    }
    let (head, body) = request.into_parts();
    Query::parse(head.uri.query(), &[])?;
    let deadline = context.deadline(&head.headers)?;
    if let Some(redirected) = context.redirect_to_leader(&head.uri, deadline).await? {
        return Ok(redirected);
    }
    let body = context.receive_document_within(body, deadline).await?;
    let wanted: TransferBody = if body.bytes.is_empty() {
        TransferBody::default()
    } else {
        decode(&body.bytes, "{\"to\": NODE}")?
    };
    if let Some(to) = wanted.to.filter(|to| !context.replica.is_member(*to)) {
        let detail = format!("No member has the id {to}; /v1/status names them.");
        return Err(Problem::new(Kind::NoSuchMember, detail));
    }
    let transfer = context.replica.transfer(wanted.to, deadline.replica);
    let leader = timeout_at(deadline.answer, transfer).await.unwrap_or(Err(Refused::Deadline));
    let leader = leader.map_err(|refused| match refused {
        Refused::Deadline | Refused::Lost => Problem::new(
            Kind::NotTransferred,
            "Nobody took over in time: a successor must be reachable, follow this leader and have \
             a disk that keeps up. It may still happen.",
        )
        .with_effect_unknown(),
        refused => Problem::of_write(refused),
    })?;
    let url = Some(leader.url.to_string());
    Ok(response::json(StatusCode::OK, &LeaderHint { id: leader.node, url }))
}
