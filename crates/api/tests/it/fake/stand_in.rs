//! What every stand-in for a replica answers alike, whatever it stands in for.

use bytes::Bytes;
use synod_api::BackupParts;
use synod_kv::http::{RoleName, StatusBody};
use synod_kv::read::{Counter, ListQuery, Page, ReadError};
use synod_kv::{MemoryMap, Revision};

/// The status of a node that has just begun.
pub(crate) fn status(node: u32) -> StatusBody {
    StatusBody {
        node,
        cluster: "0f".to_owned(),
        version: "0.1.0".to_owned(),
        uptime_seconds: 1,
        role: RoleName::Leader,
        ballot: "1.1".to_owned(),
        leader: None,
        chosen_slot: 0,
        applied_slot: 0,
        durable_slot: 0,
        truncated_slot: 0,
        revision: 0,
        compacted_revision: 0,
        journal_bytes: 0,
        state_bytes: 0,
        state_hash: None,
        snapshot: None,
        scrub: None,
        damage: Vec::new(),
        differs_after_slot: None,
        failures_survivable: 0,
        membership: None,
        peers: Vec::new(),
    }
}

/// A backup of one part.
pub(crate) fn backup() -> BackupParts {
    let (sender, parts) = tokio::sync::mpsc::channel(1);
    drop(sender.try_send(Ok(Bytes::from_static(b"a backup"))));
    parts
}

/// A count that lets others have their turn.
pub(crate) async fn count(
    map: &MemoryMap,
    (query, at): (&ListQuery, Option<Revision>),
    visits_max: usize,
    goes_on: impl Fn() -> bool + Send,
) -> Result<Page, ReadError> {
    let mut counter = Counter::new_at(map, query, at)?;
    while !counter.go_on(visits_max)? && goes_on() {
        tokio::task::yield_now().await;
    }
    Ok(counter.page().clone())
}
