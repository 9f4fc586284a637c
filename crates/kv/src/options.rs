//! The limits of the state machine.

use crate::planted::Planted;

/// What a [`crate::StateMachine`] is set to. All but the cache and what
/// only advises decides about results, so it must be the same on all replicas of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KvOptions {
    /// How long an idempotency key is said to be remembered, in milliseconds of cluster
    /// time.
    pub idempotency_ttl_ms: u64,
    /// How much longer it is remembered in truth, in milliseconds of cluster time. By so
    /// much may an attempt that is under way, or the node that took it, be behind the log
    /// before it is refused as too late.
    pub idempotency_grace_ms: u64,
    /// How many idempotency keys are remembered.
    pub idempotency_records_max: u64,
    /// How many bytes the remembered keys and outcomes may take.
    pub idempotency_bytes_max: u64,
    /// How many keys one range delete removes at most, whatever it asks for.
    pub delete_range_keys_max: u32,
    /// How many removed keys the ranges of one command pass at most, beside those whose
    /// removal is compacted: of these nobody knows which are still in the map.
    pub range_passes_max: u32,
    /// How many bytes of keys and values the reads of one transaction bring back at most,
    /// unless a single record is longer.
    pub txn_answer_bytes_max: usize,
    /// How many leases there are at most.
    pub leases_max: u64,
    /// For how long what was replaced stays readable at the least, in milliseconds of
    /// cluster time; 0 for as long as it may. This and the next setting only advise the
    /// leader's node, so they may differ between replicas.
    pub compaction_age_ms: u64,
    /// How many revisions stay readable at the most; 0 for any number.
    pub compaction_revisions_max: u64,
    /// From how many nodes, over the life of the cluster, commands are taken.
    pub origins_max: usize,
    /// Memory for what is known about keys, so that a write need not read.
    pub metadata_cache_bytes_max: usize,
    /// The mistake that is made on purpose; none outside of the simulation.
    pub planted: Planted,
}

/// How much longer than said an idempotency key is remembered, in milliseconds of cluster
/// time.
pub const IDEMPOTENCY_GRACE_MS: u64 = 60 * 1000;

impl Default for KvOptions {
    fn default() -> Self {
        KvOptions {
            idempotency_ttl_ms: 10 * 60 * 1000,
            idempotency_grace_ms: IDEMPOTENCY_GRACE_MS,
            // With the names that our client makes both are reached at once, at about
            // 7,500 new names a second that last.
            idempotency_records_max: 5_000_000,
            idempotency_bytes_max: 512 << 20,
            delete_range_keys_max: 10_000,
            range_passes_max: 100_000,
            txn_answer_bytes_max: 4 << 20,
            leases_max: 1_000_000,
            compaction_age_ms: 5 * 60 * 1000,
            compaction_revisions_max: 1_000_000,
            origins_max: 1024,
            metadata_cache_bytes_max: 64 << 20,
            planted: Planted::NONE,
        }
    }
}
