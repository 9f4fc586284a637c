//! Several operations that have effect together, if what they compare holds.

use bytes::Bytes;

use crate::{Entry, KeyRecord, LeaseId, Revision};

/// The most comparisons, and the most operations of a branch.
pub const TXN_OPERATIONS_MAX: usize = 1024;

/// Compares, and then carries out one of two branches. All its changes have one revision.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Txn {
    /// All must hold for the first branch.
    pub compares: Vec<Compare>,
    /// What to do then, in order.
    pub success: Vec<TxnOperation>,
    /// What to do else.
    pub failure: Vec<TxnOperation>,
}

/// A comparison: what is known of a key stands on the left, what was given on the right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// How the two must be to each other.
    pub relation: Relation,
    /// What of the key, and what it is compared with.
    pub target: Target,
}

/// How two things are to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// They are the same.
    Equal,
    /// They are not the same.
    NotEqual,
    /// The left one is less.
    Less,
    /// The left one is greater.
    Greater,
}

/// What is compared. A key that does not exist has 0 for each number, and no value: nothing
/// holds for the value of such a key, not even that it is another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The value, as bytes in their order.
    Value(Bytes),
    /// The version.
    Version(u64),
    /// The revision of the creation.
    Create(Revision),
    /// The revision of the last change.
    Mod(Revision),
    /// The lease; 0 for none.
    Lease(u64),
}

/// One operation of a branch. It sees what those before it did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TxnOperation {
    /// Stores a value.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// The lease that the key lives under from now on. The whole transaction is refused
        /// if there is no such lease.
        lease: Option<LeaseId>,
        /// Bring back the record that was replaced.
        want_previous: bool,
    },
    /// Removes a key if it is there.
    Delete {
        /// The key.
        key: Bytes,
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
    /// Reads a key.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Reads the keys of `start..end`, at most `limit` of them, lowest first.
    Range {
        /// First key.
        start: Bytes,
        /// The first key beyond the range; none for "to the end".
        end: Option<Bytes>,
        /// Read at most this many.
        limit: u32,
        /// Leave the values out.
        keys_only: bool,
    },
}

/// What became of an operation of a branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TxnResult {
    /// Of a put.
    Put {
        /// The key's.
        create_revision: Revision,
        /// The key's.
        version: u64,
        /// The replaced record, if it was asked for and there was one.
        previous: Option<KeyRecord>,
    },
    /// Of a delete.
    Delete {
        /// Whether the key was there.
        existed: bool,
        /// The removed record, if it was asked for and there was one.
        previous: Option<KeyRecord>,
    },
    /// Of a range delete.
    DeleteRange {
        /// How many keys it removed.
        count: u64,
        /// A limit was reached, its own or that of the transaction: where the range goes on.
        next: Option<Bytes>,
    },
    /// Of a read of one key.
    Get {
        /// Its record; none if it does not exist.
        record: Option<KeyRecord>,
    },
    /// Of a read of a range.
    Range {
        /// The keys in order.
        entries: Vec<Entry>,
        /// A limit was reached, its own or that of the transaction: where the range goes on.
        next: Option<Bytes>,
    },
}

/// Why a transaction is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TxnError {
    /// It has more comparisons, or operations in one branch, than [`TXN_OPERATIONS_MAX`].
    TooMany {
        /// How many.
        count: usize,
    },
    /// Two operations of one branch write this key, or could.
    WrittenTwice {
        /// The key.
        key: Bytes,
    },
}

impl std::fmt::Display for TxnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TxnError::TooMany { count } => write!(
                f,
                "{count} comparisons or operations where {TXN_OPERATIONS_MAX} are allowed"
            ),
            TxnError::WrittenTwice { key } => {
                write!(f, "the key \"{}\" is written twice", key.escape_ascii())
            }
        }
    }
}

impl std::error::Error for TxnError {}

impl Txn {
    /// Whether it is a transaction: whoever takes or decodes one has to ask.
    ///
    /// # Errors
    /// When it has too many parts, or a branch writes a key twice. Which of two writes at
    /// one revision counts nobody could say.
    pub fn check(&self) -> Result<(), TxnError> {
        for count in [self.compares.len(), self.success.len(), self.failure.len()] {
            if count > TXN_OPERATIONS_MAX {
                return Err(TxnError::TooMany { count });
            }
        }
        check_writes(&self.success)?;
        check_writes(&self.failure)
    }

    /// Whether neither branch could change anything.
    #[must_use]
    pub fn only_reads(&self) -> bool {
        let mut operations = self.success.iter().chain(&self.failure);
        operations.all(|one| matches!(one, TxnOperation::Get { .. } | TxnOperation::Range { .. }))
    }
}

/// Refuses writes that meet: each writes a range of keys, a single key's ends right above
/// the key.
fn check_writes(branch: &[TxnOperation]) -> Result<(), TxnError> {
    let mut writes: Vec<Written<'_>> = branch.iter().filter_map(Written::of).collect();
    writes.sort_unstable_by_key(|written| written.start);
    for pair in writes.windows(2) {
        if pair[0].reaches(pair[1].start) {
            return Err(TxnError::WrittenTwice { key: Bytes::copy_from_slice(pair[1].start) });
        }
    }
    Ok(())
}

/// The keys that an operation writes.
struct Written<'a> {
    start: &'a [u8],
    end: WrittenEnd<'a>,
}

enum WrittenEnd<'a> {
    OneKey,
    Below(&'a [u8]),
    All,
}

impl<'a> Written<'a> {
    fn of(operation: &'a TxnOperation) -> Option<Self> {
        match operation {
            TxnOperation::Put { key, .. } | TxnOperation::Delete { key, .. } => {
                Some(Written { start: key, end: WrittenEnd::OneKey })
            }
            TxnOperation::DeleteRange { start, end: None, .. } => {
                Some(Written { start, end: WrittenEnd::All })
            }
            TxnOperation::DeleteRange { start, end: Some(end), .. } => {
                (start < end).then_some(Written { start, end: WrittenEnd::Below(end) })
            }
            TxnOperation::Get { .. } | TxnOperation::Range { .. } => None,
        }
    }

    /// Whether it writes this key, which is not below its start.
    fn reaches(&self, key: &[u8]) -> bool {
        match self.end {
            WrittenEnd::OneKey => key == self.start,
            WrittenEnd::Below(end) => key < end,
            WrittenEnd::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(0u8..2, 0..4).prop_map(Bytes::from)
    }

    fn operation() -> impl Strategy<Value = TxnOperation> {
        let range = || (key(), prop::option::of(key()));
        prop_oneof![
            key().prop_map(|key| TxnOperation::Delete { key, want_previous: false }),
            range().prop_map(|(start, end)| TxnOperation::DeleteRange { start, end, limit: 9 }),
            key().prop_map(|key| TxnOperation::Get { key }),
            range().prop_map(|(start, end)| {
                TxnOperation::Range { start, end, limit: 9, keys_only: false }
            }),
        ]
    }

    fn writes(operation: &TxnOperation, key: &[u8]) -> bool {
        match operation {
            TxnOperation::Put { key: own, .. } | TxnOperation::Delete { key: own, .. } => {
                own == key
            }
            TxnOperation::DeleteRange { start, end, .. } => {
                key >= &start[..] && end.as_ref().is_none_or(|end| key < &end[..])
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_key_that_two_may_write_is_found(branch in prop::collection::vec(operation(), 0..5)) {
            // Every key of up to four bytes: between any two bounds that differ there is one.
            let mut keys: Vec<Vec<u8>> = vec![vec![]];
            for at in 0..31 {
                let key = keys[at].clone();
                keys.extend([0, 1].map(|last| [&key[..], &[last]].concat()));
            }
            let twice = |key: &Vec<u8>| branch.iter().filter(|op| writes(op, key)).count() > 1;
            let expected = keys.iter().any(twice);
            for txn in [
                Txn { success: branch.clone(), ..Txn::default() },
                Txn { failure: branch.clone(), ..Txn::default() },
            ] {
                match txn.check() {
                    Ok(()) => prop_assert!(!expected),
                    Err(TxnError::WrittenTwice { key }) => prop_assert!(twice(&key.to_vec())),
                    Err(error) => prop_assert!(false, "{error}"),
                }
            }
        }
    }

    #[test]
    fn more_than_may_be_is_refused() {
        let get = TxnOperation::Get { key: Bytes::new() };
        let compare =
            Compare { key: Bytes::new(), relation: Relation::Less, target: Target::Version(1) };
        let full = Txn {
            compares: vec![compare.clone(); TXN_OPERATIONS_MAX],
            success: vec![get.clone(); TXN_OPERATIONS_MAX],
            failure: vec![get.clone(); TXN_OPERATIONS_MAX],
        };
        assert_eq!(full.check(), Ok(()));
        let mut more = [full.clone(), full.clone(), full];
        more[0].compares.push(compare);
        more[1].success.push(get.clone());
        more[2].failure.push(get);
        for txn in more {
            assert_eq!(txn.check(), Err(TxnError::TooMany { count: TXN_OPERATIONS_MAX + 1 }));
        }
    }
}
