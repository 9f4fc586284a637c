//! Local limits and times of one replica. None of them matters for safety.

use crate::{Planted, Slot};

/// How one replica paces itself. Times in microseconds, sizes in bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Options {
    /// A leader that is silent for this long is no longer held for live.
    pub election_timeout_us: u64,
    /// Time between heartbeats.
    pub heartbeat_us: u64,
    /// A disk that has not synced for this long keeps its node from standing, and
    /// makes a leader hand over.
    pub disk_stall_us: u64,
    /// A leader hands over to a voter that is fit and has a higher priority.
    pub leader_priority: u8,
    /// Slots that a leader keeps open at once; never more than alpha.
    pub window_slots_max: u64,
    /// Bytes of values that a leader keeps open at once.
    pub window_bytes_max: usize,
    /// A value is cut at the latest this long after the last one, if a command waits.
    pub value_pace_us: u64,
    /// A value is cut as soon as this many bytes of commands wait.
    pub value_bytes_max: usize,
    /// An unanswered Accept is never sent again sooner than this.
    pub retransmit_min_us: u64,
    /// Values in one page of a promise, or one chunk of catch-up.
    pub page_bytes_max: usize,
    /// Chosen values kept in memory for peers that lag a little.
    pub cache_bytes_max: usize,
    /// Bytes of journal that are kept for peers that lag, if they are not too old.
    pub tail_bytes_max: u64,
    /// What lies in the journal for longer than this is not kept as a tail.
    pub tail_us_max: u64,
    /// A peer that was heard within this time does not lose what it still has to fetch.
    pub keep_for_peers_us: u64,
    /// Journal bytes handed out and not yet durable, at which a leader hands over.
    pub unsynced_bytes_max: usize,
    /// Reads that may wait at once.
    pub reads_waiting_max: usize,
    /// Which life of this node this is. Nonces and heartbeat sequences start at
    /// `incarnation << 32`, so that no answer meant for an earlier life fits.
    pub incarnation: u64,
    /// Up to this slot the state came from another node when this life began, and was not
    /// found right yet. Slot zero if it is as good as this node's own work.
    pub state_copied_upto: Slot,
    /// Seed of the jitter; differs between nodes.
    pub seed: u64,
    /// The mistake that this replica makes on purpose; none outside of the simulation.
    pub planted: Planted,
}

impl Options {
    /// Bytes of values that a replica holds in memory at the most: what it caches,
    /// and two windows that wait for being chosen and applied.
    #[must_use]
    pub fn log_bytes_max(&self) -> usize {
        self.cache_bytes_max.saturating_add(self.window_bytes_max.saturating_mul(2))
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            election_timeout_us: 300_000,
            heartbeat_us: 50_000,
            disk_stall_us: 300_000,
            leader_priority: 0,
            window_slots_max: 256,
            window_bytes_max: 32 << 20,
            value_pace_us: 1_000,
            value_bytes_max: 512 << 10,
            retransmit_min_us: 20_000,
            page_bytes_max: 1 << 20,
            cache_bytes_max: 16 << 20,
            tail_bytes_max: 2 << 30,
            tail_us_max: 15 * 60 * 1_000_000,
            keep_for_peers_us: 5 * 60 * 1_000_000,
            unsynced_bytes_max: 64 << 20,
            reads_waiting_max: 65_536,
            incarnation: 1,
            state_copied_upto: Slot::ZERO,
            seed: 0,
            planted: Planted::NONE,
        }
    }
}
