//! A backup is the store of one revision, and misses nothing that was told before it was asked for.
//!
//! Any revision that somebody was told of before is at or below that of the backup: it is a
//! linearizable read of everything. What it holds of each key is compared with the store of
//! its revision, as [`super::transactions`] builds it from the log; so a part of a later
//! revision, or one that is missing, cannot be explained.

use std::collections::BTreeMap;

use synod_kv::Revision;
use synod_paxos::NodeId;

use crate::checkers::exactly_once::Settled;
use crate::checkers::{Check, Checker, demand, transactions};
use crate::history::Operation;

/// What a backup holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contents {
    /// Who made it.
    pub node: NodeId,
    /// The highest revision that anybody had been told when it was asked for.
    pub floor: Revision,
    /// Its own.
    pub revision: Revision,
    /// The value's name and the revision of each key.
    pub keys: BTreeMap<u8, (u64, Revision)>,
}

/// Checks one backup against the history.
///
/// # Errors
/// When it misses what was told before, or is not the store of its revision.
pub fn check(contents: &Contents, operations: &[Operation], settled: &[Option<Settled>]) -> Check {
    let Contents { node, floor, revision, keys } = contents;
    demand(revision >= floor, Checker::Backups, || {
        format!(
            "the backup of {node} is of revision {revision}, but {floor} was told before it was \
             asked for"
        )
    })?;
    let store = transactions::store_at(operations, settled, *revision);
    demand(*keys == store, Checker::Backups, || {
        format!(
            "the backup of {node} of revision {revision} holds {keys:?}, but the store held {store:?}"
        )
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use synod_kv::{Condition, Outcome};

    use super::*;
    use crate::history::Request;

    /// Key 0 was stored at revision 1 and again at 3, key 1 at 2.
    fn history() -> (Vec<Operation>, Vec<Option<Settled>>) {
        let operation = |key: u8| Operation {
            client: 0,
            key,
            request: Request::Put(Condition::Always),
            keyed: false,
            command: Bytes::new(),
            called_us: 0,
            returned: None,
            ambiguous: false,
            floor: Revision(0),
        };
        let settled = |revision: u64| {
            let revision = Revision(revision);
            let outcome =
                Outcome::Stored { revision, create_revision: revision, version: 1, previous: None };
            Some(Settled { outcome, first_us: 1, commands: 1, late: 0 })
        };
        ([0, 1, 0].map(operation).to_vec(), [1, 2, 3].map(settled).to_vec())
    }

    fn contents(floor: u64, revision: u64, keys: &[(u8, u64, u64)]) -> Contents {
        let keys = keys.iter().map(|(key, name, revision)| (*key, (*name, Revision(*revision))));
        let (floor, revision) = (Revision(floor), Revision(revision));
        Contents { node: NodeId(1), floor, revision, keys: keys.collect() }
    }

    fn words(contents: &Contents) -> String {
        let (operations, settled) = history();
        check(contents, &operations, &settled).expect_err("it is no backup").text
    }

    #[test]
    fn the_store_of_any_late_enough_revision_is_one() {
        let (operations, settled) = history();
        for good in [
            contents(0, 0, &[]),
            contents(2, 2, &[(0, 0, 1), (1, 1, 2)]),
            contents(1, 3, &[(0, 2, 3), (1, 1, 2)]),
        ] {
            assert_eq!(check(&good, &operations, &settled), Ok(()));
        }
    }

    #[test]
    fn one_that_misses_what_was_told_or_mixes_revisions_is_found() {
        assert!(words(&contents(2, 1, &[(0, 0, 1)])).contains("was told before"));
        assert!(words(&contents(0, 2, &[(0, 0, 1)])).contains("but the store held"));
        assert!(words(&contents(0, 2, &[(0, 2, 3), (1, 1, 2)])).contains("but the store held"));
        assert!(words(&contents(0, 1, &[(0, 1, 1)])).contains("but the store held"));
    }
}
