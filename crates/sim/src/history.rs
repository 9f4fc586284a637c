//! What clients asked for and what they were told.

use bytes::Bytes;
use synod_kv::{Condition, Outcome, Revision};

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Stores a value that no other operation stores.
    Put(Condition),
    /// Removes the key.
    Delete(Condition),
    /// Stores a value in this key and in another one, or removes the other one, if the
    /// condition holds for this one; else reads both.
    Txn {
        /// What must hold.
        condition: Condition,
        /// The other key.
        other: u8,
        /// Remove the other one.
        removes: bool,
    },
    /// Reads the key.
    Get,
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// What became of its write.
    Outcome(Outcome),
    /// What it read: the value's name and the key's revision, or nothing; and the
    /// revision of the store.
    Found(Option<(u64, Revision)>, Revision),
    /// It was refused, and has no effect.
    Refused,
}

impl Answer {
    /// Whether it tells what became of the request.
    #[must_use]
    pub fn tells(&self) -> bool {
        match self {
            Answer::Refused => false,
            Answer::Outcome(outcome) => !is_about_the_key(outcome),
            Answer::Found(..) => true,
        }
    }
}

/// Whether nothing was done, or looked up, only since the idempotency key could not be
/// remembered or might be forgotten.
#[must_use]
pub(crate) fn is_about_the_key(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::IdempotencyFull { .. } | Outcome::IdempotencyLate { .. })
}

/// One operation of a client, from its first attempt to its last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Who asked.
    pub client: usize,
    /// About which key.
    pub key: u8,
    /// What.
    pub request: Request,
    /// Under an idempotency key.
    pub keyed: bool,
    /// The command, as if it were asked at cluster time zero; empty for a read.
    pub command: Bytes,
    /// When it was first sent.
    pub called_us: u64,
    /// When it was answered, and how. None: nobody knows.
    pub returned: Option<(u64, Answer)>,
    /// Some attempt may have had effect though nobody said so.
    pub ambiguous: bool,
    /// The highest revision that anybody was told before it was called.
    pub floor: Revision,
}

impl Operation {
    /// Whether it is about this key.
    #[must_use]
    pub fn touches(&self, key: u8) -> bool {
        self.key == key || matches!(self.request, Request::Txn { other, .. } if other == key)
    }

    /// Whether it goes through the log.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.request != Request::Get
    }
}

/// The key's bytes.
pub(crate) fn key_bytes(key: u8) -> Bytes {
    Bytes::from(vec![b'k', key])
}

/// A value that names its operation, and is as long as asked.
pub(crate) fn value_bytes(operation: u64, padding_bytes: usize) -> Bytes {
    let mut value = operation.to_le_bytes().to_vec();
    value.resize(8 + padding_bytes, b'.');
    Bytes::from(value)
}

/// The operation that stored a value.
pub(crate) fn value_name(value: &[u8]) -> u64 {
    value.first_chunk().map_or(u64::MAX, |name| u64::from_le_bytes(*name))
}
