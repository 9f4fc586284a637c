//! What an operator may say about snapshots.

use serde::Deserialize;

use crate::settings::{Wrong, within};

/// How much of the journal is kept for peers that lag, and how states move to those for
/// which it is not enough.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotSettings {
    /// Journal that is kept for peers that lag, in bytes.
    pub tail_bytes_max: u64,
    /// Journal that is older is not kept for them.
    pub tail_ms_max: u64,
    /// A peer that was heard within this time does not lose what it still has to fetch.
    pub keep_for_peers_ms: u64,
    /// Bytes that move in a second: those that are sent, those that are fetched, and those
    /// of a backup and of the check beside it.
    pub rate_bytes_per_s: u64,
    /// A snapshot that would leave less than this free on the disk is not taken, and
    /// while less is free no journal is kept for others.
    pub disk_reserve_bytes: u64,
}

impl Default for SnapshotSettings {
    fn default() -> Self {
        SnapshotSettings {
            tail_bytes_max: 2 << 30,
            tail_ms_max: 15 * 60 * 1_000,
            keep_for_peers_ms: 5 * 60 * 1_000,
            rate_bytes_per_s: 32 << 20,
            disk_reserve_bytes: 256 << 20,
        }
    }
}

impl SnapshotSettings {
    /// So much of the journal is kept beside a state that is doubted, in bytes; and as much again of
    /// what the journal does not need any more.
    pub(crate) fn doubted_bytes_max(&self) -> u64 {
        self.tail_bytes_max.max(1 << 30).saturating_mul(4)
    }

    pub(crate) fn check(&self) -> Result<(), Wrong> {
        within("snapshot.tail_bytes_max", self.tail_bytes_max, 0, 1 << 50)?;
        within("snapshot.tail_ms_max", self.tail_ms_max, 0, 31 * 86_400_000)?;
        within("snapshot.keep_for_peers_ms", self.keep_for_peers_ms, 0, 31 * 86_400_000)?;
        let rate = self.rate_bytes_per_s;
        within("snapshot.rate_bytes_per_s", rate, 64 << 10, 64 << 30)?;
        within("snapshot.disk_reserve_bytes", self.disk_reserve_bytes, 0, 1 << 50)
    }
}
