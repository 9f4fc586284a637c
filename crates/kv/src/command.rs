//! What a client asks for.

use bytes::Bytes;

use crate::{LeaseOperation, Revision, Txn};

/// One request that goes through the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// The client's own name for the request, if it gave one: a retry with the
    /// same key has effect once.
    pub idempotency: Option<IdempotencyKey>,
    /// What to do.
    pub operation: Operation,
}

/// The `Idempotency-Key` of a request and a hash of what it asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdempotencyKey {
    /// As the client sent it.
    pub key: Bytes,
    /// Of method, target, precondition and body: another request under the same
    /// key is refused.
    pub request_hash: u128,
    /// The cluster time, in milliseconds, that the node which took the request had
    /// applied then; never more than the log had reached. Whoever sees it knows that the
    /// request was not made later.
    pub asked_ms: u64,
}

/// What a command does if its precondition holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Stores a value.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// Only if.
        condition: Condition,
        /// Bring back the record that was replaced.
        want_previous: bool,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Bytes,
        /// Only if.
        condition: Condition,
        /// Bring back the record that was removed.
        want_previous: bool,
    },
    /// Removes every key of `start..end`, at most `limit` of them, lowest first.
    DeleteRange {
        /// First key.
        start: Bytes,
        /// The first key beyond the range; none for "to the end".
        end: Option<Bytes>,
        /// Remove at most this many.
        limit: u32,
    },
    /// Compares and does several things at once. Whoever takes it has to ask
    /// [`Txn::check`].
    Txn(Txn),
    /// Forgets what was replaced up to a revision, which stays readable itself.
    Compact {
        /// The revision.
        revision: Revision,
    },
    /// Grants, keeps or ends leases.
    Lease(LeaseOperation),
}

/// What must hold for a put or a delete to have effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Nothing.
    Always,
    /// The key does not exist (`If-None-Match: *`).
    Absent,
    /// The key exists (`If-Match: *`).
    Exists,
    /// The key was last changed at this revision (`If-Match: "N"`).
    At(Revision),
}
