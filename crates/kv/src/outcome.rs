//! What became of a command.

use bytes::Bytes;

use crate::Revision;

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
