//! `synod lock`: runs a command while nobody else does.

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use synod_client::{ClaimOptions, Client, Holder, Revision, value_text};
use synod_kv::http::ValueText;

use crate::arguments::{Claim, Lock};
use crate::failure::Failure;
use crate::hold::{End, Hold, run as run_while_held, unless_lost};
use crate::keys::{bytes_of, shown};
use crate::lease::time_text;
use crate::output::{columns, print, print_bytes, print_json};
use crate::talk::with_client;

pub(crate) fn run(arguments: &Lock) -> Result<(), Failure> {
    let name = bytes_of(&arguments.name);
    if arguments.show {
        let asked = |client: Client| async move { client.lock_holder(&name).await };
        let holder = with_client(&arguments.reach, asked)?;
        return show(holder.as_ref(), arguments.reach.json);
    }
    if let Some(token) = arguments.token {
        return release(arguments, name, Revision(token));
    }
    let options = options(arguments.claim);
    let what = format!("the lock {}", shown(&name));
    let command = arguments.command.clone();
    let ended = with_client(&arguments.reach, |client| async move {
        let lock = match unless_lost(client.lock(&name, &options).await, &what)? {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                return Ok(Err(taken(&what, client.lock_holder(&name).await.ok().flatten())));
            }
            Err(lost) => return Ok(Err(lost)),
        };
        Ok(run_while_held(Hold::Lock(lock), &command).await)
    })??;
    leave(ended)
}

fn release(arguments: &Lock, name: Bytes, token: Revision) -> Result<(), Failure> {
    let what = format!("the lock {}", shown(&name));
    let asked = |client: Client| async move { client.unlock(&name, token).await };
    if !with_client(&arguments.reach, asked)? {
        return Err(Failure::refused(format!("{what} is not held with the token {token}")));
    }
    if arguments.reach.json {
        return print_json(&json!({"released": true, "token": token.0}));
    }
    print(&format!("{what} is let go"))
}

pub(crate) fn options(claim: Claim) -> ClaimOptions {
    ClaimOptions { ttl: claim.ttl, wait: claim.wait }
}

/// It was somebody else's until the wait was over.
pub(crate) fn taken(what: &str, holder: Option<Holder>) -> Failure {
    let by = holder.map(|Holder { lease, token, .. }| {
        format!(": it is held under the lease {lease} with the token {token}")
    });
    Failure::refused(format!("{what} did not come free in time{}", by.unwrap_or_default()))
}

/// Ends this process as the command ended.
pub(crate) fn leave(ended: End) -> Result<(), Failure> {
    match ended {
        End::Command(0) | End::Interrupted => Ok(()),
        End::Command(code) => std::process::exit(code),
    }
}

/// A holder as JSON.
#[derive(Serialize)]
pub(crate) struct HolderJson {
    held: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    value: Option<ValueText>,
    waiters: u64,
}

impl HolderJson {
    pub(crate) fn new(holder: Option<&Holder>) -> Self {
        Self {
            held: holder.is_some(),
            lease: holder.map(|holder| holder.lease.0),
            token: holder.map(|holder| holder.token.0),
            value: holder.and_then(|holder| holder.value.as_deref()).map(value_text),
            waiters: holder.map_or(0, |holder| holder.waiters),
        }
    }
}

/// Prints who holds something.
pub(crate) fn show(holder: Option<&Holder>, is_json: bool) -> Result<(), Failure> {
    if is_json {
        return print_json(&HolderJson::new(holder));
    }
    let Some(holder) = holder else { return Err(Failure::refused("nobody holds it")) };
    let mut rows = vec![
        vec!["token".to_owned(), holder.token.to_string()],
        vec!["lease".to_owned(), holder.lease.to_string()],
        vec!["waiters".to_owned(), holder.waiters.to_string()],
    ];
    if let Some(value) = &holder.value {
        rows.insert(0, vec!["value".to_owned(), shown(value)]);
    }
    if let Some(left) = holder.remaining {
        rows.push(vec!["left".to_owned(), time_text(left)]);
    }
    print_bytes(columns(&rows).as_bytes())
}
