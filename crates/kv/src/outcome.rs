//! What became of a command.

use bytes::Bytes;

use crate::{LeaseEpoch, LeaseId, Revision, TxnResult};

/// A key's record at one revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRecord {
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision of the last change.
    pub mod_revision: Revision,
    /// Changes since the creation, which is 1.
    pub version: u64,
    /// The lease that the key lives under; 0 for none.
    pub lease: u64,
}

/// The answer of the state machine to a command that it took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A put had effect.
    Stored {
        /// The store's revision with this change, which is the key's new
        /// `mod_revision`.
        revision: Revision,
        /// The key's.
        create_revision: Revision,
        /// The key's.
        version: u64,
        /// The replaced record, if it was asked for and there was one.
        previous: Option<KeyRecord>,
    },
    /// A delete had effect.
    Deleted {
        /// The store's revision with this change.
        revision: Revision,
        /// The removed record, if it was asked for.
        previous: Option<KeyRecord>,
    },
    /// A delete without precondition found no such key. Nothing changed.
    NotFound {
        /// The store's revision.
        revision: Revision,
    },
    /// A range delete ended.
    RangeDeleted {
        /// The store's revision with this change (unchanged when `count` is 0).
        revision: Revision,
        /// How many keys it removed.
        count: u64,
        /// The limit was reached, so there may be more: where the range goes on,
        /// right above the last key removed. Whoever begins again at the old start
        /// passes every tombstone of this command once more.
        next: Option<Bytes>,
    },
    /// The precondition does not hold. Nothing changed.
    ConditionFailed {
        /// The store's revision.
        revision: Revision,
        /// The key's `mod_revision`; none when it does not exist.
        current: Option<Revision>,
    },
    /// A transaction was carried out.
    Txn {
        /// The store's revision with its changes (unchanged when there were none).
        revision: Revision,
        /// Whether all its comparisons held.
        succeeded: bool,
        /// What became of the operations of that branch.
        results: Vec<TxnResult>,
    },
    /// What the reads of a transaction would bring back is too much. Nothing changed.
    TxnTooLarge {
        /// The store's revision.
        revision: Revision,
    },
    /// What was replaced is forgotten up to a revision.
    Compacted {
        /// The store's revision.
        revision: Revision,
        /// The oldest revision that can be read from now on.
        oldest: Revision,
    },
    /// A compaction asked for a revision that is not here yet, or that is compacted
    /// already. Nothing changed.
    CompactRefused {
        /// The store's revision.
        revision: Revision,
        /// The oldest revision that can be read.
        oldest: Revision,
    },
    /// A lease was granted.
    LeaseGranted {
        /// The store's revision.
        revision: Revision,
        /// The lease.
        id: LeaseId,
        /// How long it lives without a keep-alive, in milliseconds.
        ttl_ms: u64,
    },
    /// There is a lease with this id already. Nothing changed.
    LeaseExists {
        /// The store's revision.
        revision: Revision,
        /// The lease.
        id: LeaseId,
    },
    /// There is no such lease, or it is coming to its end. Nothing changed.
    LeaseNotFound {
        /// The store's revision.
        revision: Revision,
        /// The lease.
        id: LeaseId,
    },
    /// There is no room for another lease. Nothing changed.
    LeasesFull {
        /// The store's revision.
        revision: Revision,
    },
    /// A lease came to its end, and its keys were removed.
    LeaseEnded {
        /// The store's revision with this change (unchanged when `count` is 0).
        revision: Revision,
        /// The lease.
        id: LeaseId,
        /// How many keys this command removed.
        count: u64,
        /// It has further keys: another such command is needed. Until then the lease
        /// neither takes keys nor can be kept alive.
        more: bool,
    },
    /// Leases were kept alive.
    LeasesKept {
        /// The store's revision.
        revision: Revision,
        /// For each that was asked for its time to live in milliseconds; none if there is
        /// no such lease.
        ttls_ms: Vec<Option<u64>>,
    },
    /// Somebody keeps the time of the leases from now on.
    LeaseEpochBegun {
        /// The store's revision.
        revision: Revision,
        /// The name under which it does.
        epoch: LeaseEpoch,
    },
    /// A lease was not ended: who keeps its time is another one by now, or it was kept
    /// alive meanwhile. Nothing changed.
    LeaseExpiryOld {
        /// The store's revision.
        revision: Revision,
        /// The lease.
        id: LeaseId,
    },
    /// The idempotency key was used for another request. Nothing changed.
    IdempotencyMismatch {
        /// The store's revision.
        revision: Revision,
    },
    /// Keys that may have been used when this attempt was made are forgotten already, and
    /// its own might be one of them: it came too late. Nothing changed.
    IdempotencyLate {
        /// The store's revision.
        revision: Revision,
    },
    /// No room to remember another idempotency key. Nothing changed.
    IdempotencyFull {
        /// The store's revision.
        revision: Revision,
    },
}

impl Outcome {
    /// The store's revision with this outcome.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Outcome::Stored { revision, .. }
            | Outcome::Deleted { revision, .. }
            | Outcome::NotFound { revision }
            | Outcome::RangeDeleted { revision, .. }
            | Outcome::ConditionFailed { revision, .. }
            | Outcome::Txn { revision, .. }
            | Outcome::TxnTooLarge { revision }
            | Outcome::Compacted { revision, .. }
            | Outcome::CompactRefused { revision, .. }
            | Outcome::LeaseGranted { revision, .. }
            | Outcome::LeaseExists { revision, .. }
            | Outcome::LeaseNotFound { revision, .. }
            | Outcome::LeasesFull { revision }
            | Outcome::LeaseEnded { revision, .. }
            | Outcome::LeasesKept { revision, .. }
            | Outcome::LeaseEpochBegun { revision, .. }
            | Outcome::LeaseExpiryOld { revision, .. }
            | Outcome::IdempotencyMismatch { revision }
            | Outcome::IdempotencyLate { revision }
            | Outcome::IdempotencyFull { revision } => *revision,
        }
    }
}

/// Until when an idempotency key is remembered at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expiry {
    /// The cluster time, in milliseconds.
    pub at_ms: u64,
    /// How long that was from the taking of the command that brings this answer, in
    /// milliseconds; 0 if it was over then. Whoever counts it from a moment before the
    /// command was sent is on the safe side.
    pub left_ms: u64,
}

/// What the state machine made of a command by its server id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It was the next of its origin and this is its outcome.
    Applied {
        /// The outcome, or the first one under the same idempotency key.
        outcome: Outcome,
        /// Until when the idempotency key is remembered, if the command had one.
        expiry: Option<Expiry>,
    },
    /// It was taken before: no effect.
    Duplicate,
    /// One before it is missing, or its origin lives a later life: no effect.
    Gap,
}
