//! `synod lease`: leases, under which keys live.

use std::time::Duration;

use serde::Serialize;
use synod_client::{Client, ClientError, LeaseId, LeaseInfo, ReadOptions};
use synod_kv::http::{Encoding, KeptLease, KeyText, RevokedBody};

use crate::arguments::{GrantLease, KeepLease, Lease, Reach, RevokeLease, ShowLease};
use crate::failure::Failure;
use crate::keys::shown;
use crate::output::{columns, print, print_bytes, print_json, tell};
use crate::talk::{with_client, write_with_client};

/// Leases asked for at once; the servers' own bound on a page.
const PAGE_LEASES: u32 = 1_000;

pub(crate) fn run(arguments: &Lease) -> Result<(), Failure> {
    match arguments {
        Lease::Grant(arguments) => grant(arguments),
        Lease::Keep(arguments) => keep(arguments),
        Lease::Revoke(arguments) => revoke(arguments),
        Lease::List(reach) => list(reach),
        Lease::Show(arguments) => show(arguments),
    }
}

fn grant(arguments: &GrantLease) -> Result<(), Failure> {
    let (ttl, id) = (arguments.ttl, arguments.id.map(LeaseId));
    let options = arguments.named.options();
    let asked = |client: Client| async move { client.grant(ttl, id, &options).await };
    let granted = write_with_client(&arguments.reach, asked)?;
    if arguments.reach.json {
        return print_json(&KeptLease { id: granted.id.0, ttl_ms: Some(millis(granted.ttl)) });
    }
    print(&granted.id.to_string())
}

fn keep(arguments: &KeepLease) -> Result<(), Failure> {
    let id = LeaseId(arguments.id);
    if arguments.once {
        let kept =
            with_client(&arguments.reach, |client| async move { client.keep_alive(id).await })?;
        let ttl = kept.ok_or_else(|| no_such_lease(id))?;
        if arguments.reach.json {
            return print_json(&KeptLease { id: id.0, ttl_ms: Some(millis(ttl)) });
        }
        return print(&format!("lease {id} lives for {} from now on", time_text(ttl)));
    }
    let is_json = arguments.reach.json;
    let lost = with_client(&arguments.reach, |client| async move {
        let Some(keeper) = client.keep(id).await? else { return Ok(None) };
        let ttl = keeper.ttl();
        tell(&match is_json {
            true => format!("{{\"id\":{id},\"ttl_ms\":{}}}", millis(ttl)),
            false => format!("lease {id} of {} is kept alive until Ctrl-C", time_text(ttl)),
        });
        Ok(Some(keeper.lost().await))
    })?;
    let lost = lost.ok_or_else(|| no_such_lease(id))?;
    Err(Failure::refused(format!("lease {id} is lost: {lost}")))
}

fn revoke(arguments: &RevokeLease) -> Result<(), Failure> {
    let id = LeaseId(arguments.id);
    let options = arguments.named.options();
    let asked = |client: Client| async move { client.revoke(id, &options).await };
    let ended = write_with_client(&arguments.reach, asked)?;
    let ended = ended.ok_or_else(|| no_such_lease(id))?;
    if arguments.reach.json {
        let (revision, deleted) = (ended.revision.0, ended.deleted);
        return print_json(&RevokedBody { id: id.0, revision, deleted, more: ended.more });
    }
    let keys = if ended.deleted == 1 { "key" } else { "keys" };
    let more = if ended.more { ", and more go soon" } else { "" };
    print(&format!(
        "lease {id} ended at revision {} with {} {keys}{more}",
        ended.revision, ended.deleted
    ))
}

/// A lease as JSON.
#[derive(Serialize)]
struct LeaseJson {
    id: u64,
    ttl_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_ms: Option<u64>,
    ending: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<KeyText>>,
}

impl LeaseJson {
    fn new(lease: &LeaseInfo, with_keys: bool) -> Self {
        let key = |key: &bytes::Bytes| KeyText::new(key, Encoding::Text);
        Self {
            id: lease.id.0,
            ttl_ms: millis(lease.ttl),
            remaining_ms: lease.remaining.map(millis),
            ending: lease.is_ending,
            keys: with_keys.then(|| lease.keys.iter().map(key).collect()),
        }
    }
}

fn list(reach: &Reach) -> Result<(), Failure> {
    let leases = with_client(reach, |client| async move { all(&client).await })?;
    if reach.json {
        let leases: Vec<_> = leases.iter().map(|lease| LeaseJson::new(lease, false)).collect();
        return print_json(&leases);
    }
    if leases.is_empty() {
        return Ok(());
    }
    let mut rows = vec![["LEASE", "TTL", "LEFT"].map(str::to_owned).to_vec()];
    rows.extend(
        leases
            .iter()
            .map(|lease| vec![lease.id.to_string(), time_text(lease.ttl), left_text(lease)]),
    );
    print_bytes(columns(&rows).as_bytes())
}

async fn all(client: &Client) -> Result<Vec<LeaseInfo>, ClientError> {
    let (mut leases, mut from) = (Vec::new(), LeaseId(0));
    loop {
        let mut page = client.leases(from, PAGE_LEASES).await?;
        leases.append(&mut page.leases);
        match page.next {
            Some(next) => from = next,
            None => return Ok(leases),
        }
    }
}

fn show(arguments: &ShowLease) -> Result<(), Failure> {
    let id = LeaseId(arguments.id);
    let options = ReadOptions::default();
    let lease =
        with_client(&arguments.reach, |client| async move { client.lease(id, &options).await })?;
    let lease = lease.ok_or_else(|| no_such_lease(id))?;
    if arguments.reach.json {
        return print_json(&LeaseJson::new(&lease, true));
    }
    let mut rows = vec![
        vec!["ttl".to_owned(), time_text(lease.ttl)],
        vec!["left".to_owned(), left_text(&lease)],
        vec!["keys".to_owned(), lease.keys.len().to_string()],
    ];
    rows.extend(lease.keys.iter().map(|key| vec![String::new(), shown(key)]));
    print_bytes(columns(&rows).as_bytes())
}

fn left_text(lease: &LeaseInfo) -> String {
    match lease.remaining {
        _ if lease.is_ending => "ending".to_owned(),
        Some(left) => time_text(Duration::from_secs(left.as_secs())),
        // Only the leader counts.
        None => "-".to_owned(),
    }
}

fn no_such_lease(id: LeaseId) -> Failure {
    Failure::refused(format!("there is no lease {id}, or not any more"))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A time as it is given on the command line.
pub(crate) fn time_text(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_millis()),
    }
}
