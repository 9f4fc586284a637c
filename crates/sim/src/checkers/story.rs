//! What the log did to every key, told by a store of a few lines.
//!
//! Whoever applies a command first says what became of it, and slots are applied in their
//! order; so the commands come here in the order of the log, each once. From what they asked
//! for and whether they had effect the store of every revision follows, and with it what
//! whoever watches must be told: [`super::watches`] compares. At the end each living node
//! must hold just this store, the leases of its keys included.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use synod_kv::read::{self, Change};
use synod_kv::{
    Command, KeyRecord, LeaseId, ListQuery, Operation, OrderedMap, Outcome, Revision, ServerId,
    TxnOperation, TxnResult,
};
use synod_wire::command;

use crate::checkers::{Check, Checker, Violation, demand};

/// Everything that happened to keys.
#[derive(Debug, Default)]
pub struct Story {
    seen: BTreeSet<ServerId>,
    store: BTreeMap<Bytes, KeyRecord>,
    /// Those of revision 1 first.
    changes: Vec<Vec<Change>>,
    /// Made by no client of the history.
    beside: BTreeSet<Revision>,
    compacted: Revision,
    /// The first thing that cannot have happened.
    broken: Option<Violation>,
}

impl Story {
    /// A command was taken for the first time anywhere. Says what it was, for others who
    /// follow the log; none if it is known.
    pub fn taken(&mut self, id: ServerId, command: &Bytes, outcome: &Outcome) -> Option<Command> {
        if !self.seen.insert(id) {
            return None;
        }
        let command = command::decode(command.clone()).expect("a chosen command can be read");
        // An answer told again; of a change it says another revision than the next.
        let is_told_again = command.idempotency.is_some() && outcome.revision() <= self.revision();
        if !is_told_again && let Err(violation) = self.follow(&command.operation, outcome) {
            self.broken.get_or_insert(violation);
        }
        Some(command)
    }

    /// The revision of what happened so far.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.changes.len() as u64)
    }

    /// Up to here what was replaced is forgotten.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Revisions that no client of the history made.
    #[must_use]
    pub fn beside(&self) -> &BTreeSet<Revision> {
        &self.beside
    }

    /// The keys that live under a lease.
    #[must_use]
    pub fn keys_of(&self, id: LeaseId) -> Vec<Bytes> {
        let under = self.store.iter().filter(|(_, record)| record.lease == id.0);
        under.map(|(key, _)| key.clone()).collect()
    }

    /// What happened to the keys that begin with this, above one revision and up to another.
    pub fn changes<'a>(
        &'a self,
        prefix: &'a [u8],
        above: Revision,
        upto: Revision,
    ) -> impl Iterator<Item = &'a Change> {
        let number = |revision: Revision| usize::try_from(revision.0).unwrap_or(usize::MAX);
        let upto = number(upto).min(self.changes.len());
        let above = number(above).min(upto);
        let all = self.changes[above..upto].iter().flatten();
        all.filter(move |change| change.key.starts_with(prefix))
    }

    /// Whether everything that was told fits together.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self) -> Check {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// Whether a node holds the store of the last revision.
    ///
    /// # Errors
    /// When it holds another one, or cannot be read.
    pub fn held(&self, who: impl std::fmt::Display, map: &impl OrderedMap) -> Check {
        let limits = (usize::MAX, usize::MAX, usize::MAX);
        let query = ListQuery {
            limit: limits.0,
            bytes_max: limits.1,
            visits_max: limits.2,
            ..ListQuery::range(Bytes::new(), None)
        };
        let page = read::list(map, &query).map_err(|error| wrong(format!("{who}: {error}")))?;
        let own = page.entries.iter().map(|entry| (&entry.key, &entry.record));
        let differs = own.clone().zip(&self.store).find(|(own, told)| own != told);
        demand(differs.is_none() && own.count() == self.store.len(), Checker::Story, || {
            format!(
                "{who} holds {} keys at revision {}, the log made {} at revision {}; {differs:?}",
                page.entries.len(),
                page.revision,
                self.store.len(),
                self.revision(),
            )
        })
    }

    fn follow(&mut self, operation: &Operation, outcome: &Outcome) -> Check {
        let revision = outcome.revision();
        let changes = match (operation, outcome) {
            (Operation::Put { key, value, .. }, Outcome::Stored { .. }) => {
                vec![self.put(revision, key, value, 0)]
            }
            (Operation::Delete { key, .. }, Outcome::Deleted { .. }) => {
                self.delete(revision, key).into_iter().collect()
            }
            (Operation::Txn(txn), Outcome::Txn { succeeded: true, results, .. }) => {
                let steps = txn.success.iter().zip(results);
                steps.filter_map(|(step, result)| self.step(revision, step, result)).collect()
            }
            (_, Outcome::LeaseEnded { id, count, .. }) => {
                let keys = self.keys_of(*id);
                let gone = keys.iter().take(usize::try_from(*count).unwrap_or(usize::MAX));
                gone.filter_map(|key| self.delete(revision, key)).collect()
            }
            (_, Outcome::Compacted { oldest, .. }) => {
                self.compacted = *oldest;
                Vec::new()
            }
            _ => Vec::new(),
        };
        let expected = self.revision().0 + u64::from(!changes.is_empty());
        if changes.iter().any(|change| change.key.starts_with(BESIDE)) {
            self.beside.insert(revision);
        }
        if !changes.is_empty() {
            self.changes.push(changes);
        }
        demand(revision.0 == expected, Checker::Story, || {
            format!("{operation:?} had {outcome:?} at what is revision {expected}")
        })
    }

    fn step(
        &mut self,
        revision: Revision,
        step: &TxnOperation,
        result: &TxnResult,
    ) -> Option<Change> {
        match (step, result) {
            (TxnOperation::Put { key, value, lease, .. }, _) => {
                Some(self.put(revision, key, value, lease.map_or(0, |id| id.0)))
            }
            (TxnOperation::Delete { key, .. }, TxnResult::Delete { existed: true, .. }) => {
                self.delete(revision, key)
            }
            _ => None,
        }
    }

    fn put(&mut self, revision: Revision, key: &Bytes, value: &Bytes, lease: u64) -> Change {
        let previous = self.store.get(key).cloned();
        let record = KeyRecord {
            value: value.clone(),
            create_revision: previous.as_ref().map_or(revision, |before| before.create_revision),
            mod_revision: revision,
            version: previous.as_ref().map_or(1, |before| before.version + 1),
            lease,
        };
        self.store.insert(key.clone(), record.clone());
        Change { revision, key: key.clone(), record: Some(record), previous }
    }

    fn delete(&mut self, revision: Revision, key: &Bytes) -> Option<Change> {
        let previous = self.store.remove(key)?;
        Some(Change { revision, key: key.clone(), record: None, previous: Some(previous) })
    }
}

/// What the keys begin with that clients of the history never touch.
pub(crate) const BESIDE: &[u8] = b"l";

fn wrong(text: String) -> Violation {
    Violation { checker: Checker::Story, text }
}

#[cfg(test)]
pub(super) mod tests {
    use synod_kv::{Condition, LeaseOperation, MemoryMap, Txn};

    use super::*;

    /// A story, and a way to add to it.
    #[derive(Default)]
    pub(crate) struct Told {
        pub(crate) story: Story,
        sequence: u64,
    }

    impl Told {
        pub(crate) fn tell(&mut self, operation: Operation, outcome: &Outcome) {
            self.sequence += 1;
            let id = ServerId { origin: 1, incarnation: 1, sequence: self.sequence };
            let command = command::encode(&Command { idempotency: None, operation });
            assert!(self.story.taken(id, &command, outcome).is_some());
            assert!(self.story.taken(id, &command, outcome).is_none(), "once");
        }

        /// Puts both keys at once, the first of them under lease 7.
        pub(crate) fn put(&mut self, revision: u64, keys: [&'static str; 2]) {
            let put = |(key, lease): (&'static str, _)| TxnOperation::Put {
                key: Bytes::from(key),
                value: Bytes::new(),
                lease,
                want_previous: false,
            };
            let leases = [Some(LeaseId(7)), None];
            let success = keys.into_iter().zip(leases).map(put).collect();
            let result =
                TxnResult::Put { create_revision: Revision(1), version: 1, previous: None };
            let results = vec![result.clone(), result];
            let outcome = Outcome::Txn { revision: Revision(revision), succeeded: true, results };
            self.tell(Operation::Txn(Txn { success, ..Txn::default() }), &outcome);
        }

        pub(crate) fn end(&mut self, revision: u64, count: u64) {
            let (id, revision) = (LeaseId(7), Revision(revision));
            let outcome = Outcome::LeaseEnded { revision, id, count, more: false };
            self.tell(Operation::Lease(LeaseOperation::Revoke { id }), &outcome);
        }
    }

    #[test]
    fn what_happened_is_told_in_order_with_what_was_before() {
        let mut told = Told::default();
        told.put(1, ["la", "kb"]);
        told.end(2, 1);
        told.story.check().expect("it fits");
        let all: Vec<_> = told.story.changes(b"", Revision(0), Revision(9)).collect();
        assert_eq!(all.len(), 3);
        assert_eq!((&all[2].key[..], all[2].record.is_some()), (&b"la"[..], false));
        assert_eq!(all[2].previous, all[0].record);
        assert_eq!(told.story.changes(b"k", Revision(0), Revision(9)).count(), 1);
        assert_eq!(told.story.changes(b"", Revision(1), Revision(1)).count(), 0);
        assert!(told.story.beside().contains(&Revision(2)));
    }

    #[test]
    fn a_revision_too_many_and_a_store_that_differs_are_found() {
        let mut told = Told::default();
        told.put(2, ["la", "lb"]);
        assert!(told.story.check().is_err());
        let mut told = Told::default();
        let operation = Operation::Delete {
            key: Bytes::from("k"),
            condition: Condition::Always,
            want_previous: false,
        };
        let revision = Revision(1);
        told.tell(operation, &Outcome::Deleted { revision, previous: None });
        assert!(told.story.check().is_err(), "there was nothing to delete");
        let mut told = Told::default();
        told.story.held("n1", &MemoryMap::new()).expect("both are empty");
        told.put(1, ["la", "lb"]);
        assert!(told.story.held("n1", &MemoryMap::new()).is_err());
    }
}
