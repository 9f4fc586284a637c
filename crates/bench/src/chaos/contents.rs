//! What a backup held, or what was recovered of one node, against what clients asked for and were told.
//!
//! A backup is the state at one revision, and was taken at one moment between the question
//! and its end. Of the first follows that it has each known change up to its revision and none
//! beyond; of the second, that every write is in it which was acknowledged before the
//! question, and that each key's value is a read of that key then, which is checked with all others.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{End, Operation, Request};
use super::transactions::Store;
use crate::NodeId;

/// More than this many of a backup say nothing new.
const FINDINGS_MAX: usize = 5;

/// Each key's value, and the revision of that.
pub(super) type Held = BTreeMap<u64, (u64, u64)>;

/// A backup, or what a survivor had left, as the cluster that was made of it shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    /// The node that made it, or the survivor.
    pub(super) giver: NodeId,
    /// When it was asked for, or the survivor was dead.
    pub(super) asked_us: u64,
    /// When it was there.
    pub(super) made_us: u64,
    /// Of what was answered before this its node had applied everything then.
    pub(super) certain_us: u64,
    /// The store's revision in it.
    pub(super) revision: u64,
    pub(super) keys: Held,
    /// What it has of pairs of keys: see `transactions`.
    pub(super) pairs: Store,
}

impl Contents {
    /// What cannot be the state at its revision, or misses what it must have.
    pub(super) fn check(&self, operations: &[Operation]) -> Vec<String> {
        self.violations("the backup", operations, self.revision)
    }

    /// The same of what one node had left when all were killed. Up to its [bound](Self::bound) it has what
    /// all chose. Beyond that it has what it accepted, and others may have chosen something else
    /// there, before they were killed or after: so what they told of that may not be there, may
    /// be there at another revision, and what they refused there may have had effect here.
    pub(super) fn check_recovered(&self, operations: &[Operation]) -> Vec<String> {
        let bound = self.bound(operations);
        let known = |one: &Operation| {
            let is_fact = match one.end {
                End::Found(_) | End::Stored(_) => true,
                End::Deleted(revision) => revision <= bound,
                _ => self.had_applied(one),
            };
            if is_fact { *one } else { Operation { end: End::Unknown, ..*one } }
        };
        let before = operations.iter().filter(|one| one.called_us <= self.asked_us);
        let known: Vec<Operation> = before.map(known).collect();
        self.violations("what was recovered", &known, bound)
    }

    /// Up to this revision what a survivor has is what all chose: the newest of a write that it had applied.
    pub(super) fn bound(&self, operations: &[Operation]) -> u64 {
        let applied = operations.iter().filter(|one| self.had_applied(one));
        applied.filter_map(Operation::acknowledged_at).max().unwrap_or(0)
    }

    /// Whether its node had applied an operation that was answered so: it answered that itself, or
    /// had come as far as all others after that.
    fn had_applied(&self, one: &Operation) -> bool {
        let is_own = one.node == self.giver && one.returned_us < self.asked_us;
        one.returned_us < self.certain_us || is_own
    }

    /// Up to the revision `bound` it is what all chose.
    fn violations(&self, what: &str, operations: &[Operation], bound: u64) -> Vec<String> {
        let mut violations: Vec<String> = self.too_old(operations).into_iter().collect();
        violations.extend(self.keys.iter().filter_map(|(key, held)| {
            let strange = self.strange(operations, *key, *held, bound);
            strange.map(|reason| format!("key {key}: {reason}"))
        }));
        violations.extend(newest_changes(operations, bound).iter().filter_map(|(key, newest)| {
            self.missing(*key, newest).map(|lack| format!("key {key}: {lack}"))
        }));
        let more = violations.len().saturating_sub(FINDINGS_MAX);
        if more > 0 {
            violations.truncate(FINDINGS_MAX);
            violations.push(format!("and {more} more"));
        }
        let Contents { giver, asked_us, revision, .. } = self;
        let at_s = super::seconds(*asked_us);
        let name = format!("{what} of node {giver} at {at_s:.1} s, revision {revision}");
        violations.iter().map(|violation| format!("{name}: {violation}")).collect()
    }

    /// Reads of these keys that saw what it holds. Each has a process of its own, since none waits for another.
    pub(super) fn reads(
        &self,
        keys: &BTreeSet<u64>,
        mut numbers: impl FnMut() -> (u64, u64),
    ) -> Vec<Operation> {
        let read = |key: &u64| {
            let (number, process) = numbers();
            Operation {
                number,
                process,
                node: self.giver,
                key: *key,
                request: Request::Get,
                called_us: self.asked_us,
                returned_us: self.made_us,
                end: End::Found(self.keys.get(key).copied()),
            }
        };
        keys.iter().map(read).collect()
    }

    /// A write that its node had applied is of an earlier revision.
    fn too_old(&self, operations: &[Operation]) -> Option<String> {
        let before = operations.iter().filter(|one| self.had_applied(one));
        let newest = before.filter_map(|one| Some((one.acknowledged_at()?, one.number))).max();
        let (revision, number) = newest.filter(|(revision, _)| *revision > self.revision)?;
        Some(format!("operation {number} was acknowledged before it, at revision {revision}"))
    }

    /// A value was written by somebody before the end, and is not of the future.
    fn strange(
        &self,
        operations: &[Operation],
        key: u64,
        (value, revision): (u64, u64),
        bound: u64,
    ) -> Option<String> {
        if revision > self.revision {
            return Some(format!("its value {value} is of the later revision {revision}"));
        }
        let is_its = |one: &&Operation| {
            one.number == value
                && one.key == key
                && one.writes_value()
                && !matches!(one.end, End::Failed | End::Mismatch(_))
                && one.called_us <= self.made_us
        };
        let writer = operations.iter().find(is_its);
        if writer.is_none() {
            return Some(format!("nobody wrote its value {value}"));
        }
        let told = writer.and_then(Operation::acknowledged_at);
        let told = told.filter(|told| *told != revision && revision.min(*told) <= bound);
        told.map(|told| {
            format!("its value {value} has the revision {revision}, and was acknowledged at {told}")
        })
    }

    /// The newest change that anybody knows of up to its revision is in it, or a later one.
    fn missing(&self, key: u64, newest: &Newest) -> Option<String> {
        let Newest { revision, value, may_be_deleted_at_us } = *newest;
        let is_there = match (self.keys.get(&key), value) {
            (Some((held, at)), Some(value)) => {
                *at > revision || (*at == revision && *held == value)
            }
            (Some((_, at)), None) => *at > revision,
            (None, None) => true,
            (None, Some(_)) => may_be_deleted_at_us.is_some_and(|at_us| at_us <= self.made_us),
        };
        let what = value.map_or("a delete".to_owned(), |value| format!("value {value}"));
        let has = self.keys.get(&key);
        (!is_there).then(|| format!("{what} of revision {revision} is missing, it has {has:?}"))
    }
}

/// The newest known change of a key up to some revision.
#[derive(Debug, Default, Clone, Copy)]
struct Newest {
    revision: u64,
    /// None if it was deleted.
    value: Option<u64>,
    /// A delete of which nobody knows what became was called first then.
    may_be_deleted_at_us: Option<u64>,
}

/// Changes are known from who made them, and values from who read them.
fn newest_changes(operations: &[Operation], revision_max: u64) -> BTreeMap<u64, Newest> {
    let mut newest: BTreeMap<u64, Newest> = BTreeMap::new();
    for operation in operations {
        let known = newest.entry(operation.key).or_default();
        let change = match operation.end {
            End::Stored(revision) => Some((revision, Some(operation.number))),
            End::Deleted(revision) => Some((revision, None)),
            End::Found(Some((value, revision))) => Some((revision, Some(value))),
            End::Unknown if operation.request == Request::Delete => {
                let at_us = known.may_be_deleted_at_us.unwrap_or(u64::MAX);
                known.may_be_deleted_at_us = Some(at_us.min(operation.called_us));
                None
            }
            _ => None,
        };
        let change = change.filter(|(revision, _)| *revision <= revision_max);
        if let Some((revision, value)) = change.filter(|(revision, _)| *revision > known.revision) {
            (known.revision, known.value) = (revision, value);
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(number: u64, key: u64, times: (u64, u64), end: End) -> Operation {
        let (called_us, returned_us) = times;
        let request = match end {
            End::Deleted(_) => Request::Delete,
            End::Found(_) => Request::Get,
            _ => Request::Put,
        };
        let node = NodeId(1);
        Operation { number, process: number, node, key, request, called_us, returned_us, end }
    }

    /// Key 0 was written twice, key 1 written and deleted, key 2 written by who was not told,
    /// and key 3 while the backup was made.
    fn history() -> Vec<Operation> {
        vec![
            operation(1, 0, (0, 10), End::Stored(1)),
            operation(2, 0, (20, 30), End::Stored(2)),
            operation(3, 1, (20, 30), End::Stored(3)),
            operation(4, 1, (40, 50), End::Deleted(4)),
            operation(5, 2, (40, 50), End::Unknown),
            operation(6, 3, (90, 110), End::Stored(6)),
            operation(7, 0, (105, 120), End::Stored(7)),
            operation(8, 4, (60, 70), End::Failed),
        ]
    }

    fn contents(revision: u64, keys: &[(u64, (u64, u64))]) -> Contents {
        let keys = keys.iter().copied().collect();
        let pairs = Store::new();
        let (giver, asked_us, made_us, certain_us) = (NodeId(2), 100, 200, 100);
        Contents { giver, asked_us, made_us, certain_us, revision, keys, pairs }
    }

    const RIGHT: [(u64, (u64, u64)); 3] = [(0, (2, 2)), (2, (5, 5)), (3, (6, 6))];

    fn refused(revision: u64, keys: &[(u64, (u64, u64))], why: &str) {
        let found = contents(revision, keys).check(&history());
        assert!(found.iter().any(|one| one.contains(why)), "{why}: {found:?}");
    }

    #[test]
    fn a_prefix_of_all_changes_passes() {
        for (revision, keys) in [
            (6, &RIGHT[..]),
            (4, &[(0, (2, 2))][..]),
            (5, &RIGHT[..2]),
            (7, &[(0, (7, 7)), (2, (5, 5)), (3, (6, 6))][..]),
            // It may never have had effect.
            (6, &[(0, (2, 2)), (3, (6, 6))][..]),
        ] {
            let found = contents(revision, keys).check(&history());
            assert_eq!(found, Vec::<String>::new(), "{revision}");
        }
    }

    #[test]
    fn a_key_that_was_left_out_is_missed() {
        refused(6, &RIGHT[1..], "key 0: value 2 of revision 2 is missing, it has None");
        refused(6, &RIGHT[..2], "key 3: value 6 of revision 6 is missing");
        let mut seen = history();
        seen.push(operation(9, 2, (60, 70), End::Found(Some((5, 5)))));
        let found = contents(6, &[RIGHT[0], RIGHT[2]]).check(&seen);
        assert!(found[0].contains("key 2: value 5"), "{found:?}");
    }

    #[test]
    fn an_older_state_is_refused() {
        refused(3, &[(0, (2, 2)), (1, (3, 3))], "operation 4 was acknowledged before it");
        refused(6, &[(0, (1, 1)), RIGHT[1], RIGHT[2]], "key 0: value 2");
        refused(6, &[RIGHT[0], (1, (3, 3)), RIGHT[1], RIGHT[2]], "key 1: a delete");
    }

    #[test]
    fn what_nobody_wrote_or_what_came_later_is_refused() {
        refused(6, &[RIGHT[0], RIGHT[1], RIGHT[2], (9, (77, 6))], "nobody wrote its value 77");
        refused(6, &[RIGHT[0], RIGHT[1], RIGHT[2], (4, (8, 5))], "nobody wrote its value 8");
        refused(6, &[(0, (7, 7)), RIGHT[1], RIGHT[2]], "of the later revision 7");
        refused(6, &[(0, (2, 5)), RIGHT[1], RIGHT[2]], "was acknowledged at 2");
    }

    #[test]
    fn a_delete_of_unknown_outcome_may_have_taken_a_key() {
        let mut history = history();
        let delete =
            Operation { request: Request::Delete, ..operation(10, 0, (150, 160), End::Unknown) };
        history.push(delete);
        let gone = contents(6, &RIGHT[1..]);
        assert_eq!(gone.check(&history), Vec::<String>::new());
        history.last_mut().expect("pushed above").called_us = 201;
        assert!(!gone.check(&history).is_empty(), "it was called when the backup was there");
    }

    /// What is recovered of node 2, which had applied by 35 us what was told until then, and died at 100.
    fn survivor(revision: u64, keys: &[(u64, (u64, u64))]) -> Contents {
        Contents { made_us: 100, certain_us: 35, ..contents(revision, keys) }
    }

    #[test]
    fn a_survivor_has_what_it_had_applied() {
        let held = [(0, (2, 2)), (2, (5, 5))];
        let mut history = history();
        let found = |of: &Contents, history: &[Operation]| of.check_recovered(history).join("; ");
        assert_eq!(survivor(5, &held).bound(&history), 3);
        assert_eq!(found(&survivor(5, &held), &history), "");
        // Others acknowledged more: that is lost. What it has is what was acknowledged.
        assert_eq!(found(&survivor(3, &[(0, (2, 2)), (1, (3, 3))]), &history), "");
        assert!(found(&survivor(4, &[]), &history).contains("value 2 of revision 2 is missing"));
        assert!(found(&survivor(2, &[held[0]]), &history).contains("operation 3 was acknowledged"));
        // It had accepted what has no answer; at this revision the others chose something else then.
        assert_eq!(found(&survivor(6, &[held[0], held[1], (3, (6, 6))]), &history), "");
        history.push(operation(11, 3, (150, 160), End::Stored(6)));
        assert_eq!(found(&survivor(6, &[held[0], held[1], (3, (6, 6))]), &history), "");
        assert!(found(&survivor(6, &[held[0], (9, (77, 6))]), &history).contains("nobody wrote"));
        // What it told itself it has.
        history.push(Operation { node: NodeId(2), ..operation(12, 5, (60, 70), End::Stored(6)) });
        assert_eq!(survivor(5, &held).bound(&history), 6);
        assert!(
            found(&survivor(5, &held), &history).contains("operation 12 was acknowledged before")
        );
        assert!(found(&survivor(6, &held), &history).contains("key 5: value 12 of revision 6"));
    }

    /// In the slots behind what all chose it holds what it accepted, in another order or instead.
    #[test]
    fn a_survivor_may_hold_what_the_others_did_not_choose() {
        let mut history = history();
        history.push(operation(13, 5, (50, 60), End::Stored(5)));
        let swap =
            Operation { request: Request::Swap(2), ..operation(14, 0, (50, 60), End::Unknown) };
        history.push(Operation { end: End::Mismatch(Some(9)), ..swap });
        let found =
            |keys: &[(u64, (u64, u64))]| survivor(6, keys).check_recovered(&history).join("; ");
        // The others acknowledged the write of key 5, at revision 5; here there is another one.
        assert_eq!(found(&[(0, (2, 2)), (2, (5, 5))]), "");
        assert_eq!(found(&[(0, (2, 2)), (2, (5, 5)), (5, (13, 6))]), "");
        // They refused a swap and a put whose conditions held here, and removed key 1.
        assert_eq!(found(&[(0, (14, 5)), (1, (3, 3)), (4, (8, 6))]), "");
        // But not what it had applied: that is the same everywhere.
        assert!(found(&[(0, (2, 3)), (1, (3, 4))]).contains("was acknowledged at 2"));
        history[9].returned_us = 34;
        let found = survivor(6, &[(0, (14, 5))]).check_recovered(&history).join("; ");
        assert!(found.contains("nobody wrote its value 14"), "{found}");
    }

    #[test]
    fn each_key_is_read_once() {
        let mut number = 100;
        let reads = contents(6, &RIGHT).reads(&BTreeSet::from([0, 1]), || {
            number += 1;
            (number, number)
        });
        let ends: Vec<End> = reads.iter().map(|read| read.end).collect();
        assert_eq!(ends, [End::Found(Some((2, 2))), End::Found(None)]);
        assert!(reads.iter().all(|read| (read.called_us, read.returned_us) == (100, 200)));
        assert_eq!(reads[1].process, 102);
    }
}
