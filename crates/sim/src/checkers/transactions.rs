//! All keys together are one store, that changes one revision after the other.
//!
//! [`super::linearizability`] looks at each key alone. What only shows on several keys at once
//! is checked here: the log says which revision each operation had, so the store of every
//! revision can be built again, by a few lines that know nothing of the product. Each change
//! must be the only one of its revision, no revision may be left out, and whatever an operation
//! was told must be what the store held right before it, on all of its keys. A part of a
//! transaction without the other, or between two others, can't be explained then.

use std::collections::{BTreeMap, BTreeSet};

use synod_kv::{Condition, KeyRecord, Outcome, Revision, TxnResult};

use crate::checkers::exactly_once::Settled;
use crate::checkers::{Check, Checker, demand};
use crate::history::{Answer, Operation, Request, value_name};

/// The value's name and the revision of each key.
type Store = BTreeMap<u8, (u64, Revision)>;

/// What an operation is to one of its keys: requests for one key and their answers.
pub(super) fn as_seen(
    key: u8,
    first: u8,
    request: Request,
    answer: Answer,
) -> Vec<(Request, Answer)> {
    let Request::Txn { condition, .. } = request else { return vec![(request, answer)] };
    // Without both results it is no answer to this request, and the search will say so.
    let Answer::Outcome(Outcome::Txn { revision, succeeded, results }) = &answer else {
        return vec![(request, answer)];
    };
    let [of_first, of_other] = results.as_slice() else { return vec![(request, answer)] };
    let (condition, result) =
        if key == first { (condition, of_first) } else { (Condition::Always, of_other) };
    let revision = *revision;
    match (result, succeeded) {
        (TxnResult::Put { create_revision, version, previous }, true) => {
            let (create_revision, version) = (*create_revision, *version);
            let previous = previous.clone();
            let stored = Outcome::Stored { revision, create_revision, version, previous };
            vec![(Request::Put(condition), Answer::Outcome(stored))]
        }
        (TxnResult::Delete { existed, previous }, true) => {
            let deleted = match existed {
                true => Outcome::Deleted { revision, previous: previous.clone() },
                false => Outcome::NotFound { revision },
            };
            vec![(Request::Delete(condition), Answer::Outcome(deleted))]
        }
        (TxnResult::Get { record }, false) => {
            let current = record.as_ref().map(|record| record.mod_revision);
            let failed = Outcome::ConditionFailed { revision, current };
            let read = (Request::Get, Answer::Found(named(record.as_ref()), revision));
            match key == first {
                true => vec![(Request::Put(condition), Answer::Outcome(failed)), read],
                false => vec![read],
            }
        }
        _ => vec![(request, answer)],
    }
}

fn named(record: Option<&KeyRecord>) -> Option<(u64, Revision)> {
    record.map(|record| (value_name(&record.value), record.mod_revision))
}

/// Checks what everybody was told against the store of its revision. Some revisions were made
/// beside, and changed other keys.
///
/// # Errors
/// When a revision has two changes or none, or an operation does not fit its revision.
pub fn check(
    operations: &[Operation],
    settled: &[Option<Settled>],
    beside: &BTreeSet<Revision>,
) -> Check {
    let mut changes: BTreeMap<Revision, (usize, &Outcome)> = BTreeMap::new();
    let mut looks: BTreeMap<Revision, Vec<(usize, Answer)>> = BTreeMap::new();
    for (index, operation) in operations.iter().enumerate() {
        let told = operation.returned.as_ref().map(|(_, answer)| answer);
        match (&settled[index], told) {
            (Some(Settled { outcome, .. }), _) if is_change(outcome) => {
                let before = changes.insert(outcome.revision(), (index, outcome));
                demand(before.is_none(), Checker::Transactions, || {
                    let (other, _) = before.expect("is some");
                    let revision = outcome.revision();
                    format!("operations {other} and {index} both made revision {revision}")
                })?;
            }
            (Some(Settled { outcome, .. }), _) => {
                let answer = Answer::Outcome(outcome.clone());
                looks.entry(outcome.revision()).or_default().push((index, answer));
            }
            (None, Some(found @ Answer::Found(_, revision))) => {
                looks.entry(*revision).or_default().push((index, found.clone()));
            }
            (None, _) => {}
        }
    }
    let mut store = Store::new();
    let mut reached = Revision(0);
    let mut made: BTreeMap<Revision, Option<(usize, &Outcome)>> =
        beside.iter().map(|revision| (*revision, None)).collect();
    made.extend(changes.into_iter().map(|(revision, change)| (revision, Some(change))));
    for (revision, made) in made {
        look(operations, &looks, reached, &store)?;
        demand(revision.0 == reached.0 + 1, Checker::Transactions, || {
            format!("nobody made revision {}: the next one is {revision}", reached.0 + 1)
        })?;
        reached = revision;
        if let Some((index, outcome)) = made {
            change(&operations[index], index, outcome, &mut store)?;
        }
    }
    look(operations, &looks, reached, &store)?;
    let beyond = looks.range(Revision(reached.0 + 1)..).next();
    demand(beyond.is_none(), Checker::Transactions, || {
        format!("nobody made revision {}, which was told", beyond.expect("is some").0)
    })
}

/// The store of a revision, as the log says.
#[must_use]
pub fn store_at(
    operations: &[Operation],
    settled: &[Option<Settled>],
    upto: Revision,
) -> BTreeMap<u8, (u64, Revision)> {
    let outcomes = settled.iter().enumerate();
    let outcomes =
        outcomes.filter_map(|(index, settled)| Some((index, &settled.as_ref()?.outcome)));
    let mut changes: Vec<(usize, &Outcome)> =
        outcomes.filter(|(_, outcome)| is_change(outcome) && outcome.revision() <= upto).collect();
    changes.sort_by_key(|(_, outcome)| outcome.revision());
    let mut store = Store::new();
    for (index, outcome) in changes {
        // Whether its answer fits is the matter of `check`.
        let _ = change(&operations[index], index, outcome, &mut store);
    }
    store
}

fn is_change(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Stored { .. } | Outcome::Deleted { .. } | Outcome::Txn { succeeded: true, .. }
    )
}

/// Whatever was told at this revision is what the store held.
fn look(
    operations: &[Operation],
    looks: &BTreeMap<Revision, Vec<(usize, Answer)>>,
    revision: Revision,
    store: &Store,
) -> Check {
    for (index, answer) in looks.get(&revision).into_iter().flatten() {
        let operation = &operations[*index];
        let held = |key: u8| store.get(&key).copied();
        let fits = match (operation.request, answer) {
            (Request::Get, Answer::Found(found, _)) => *found == held(operation.key),
            (_, Answer::Outcome(Outcome::ConditionFailed { current, .. })) => {
                *current == held(operation.key).map(|(_, revision)| revision)
            }
            (_, Answer::Outcome(Outcome::NotFound { .. })) => held(operation.key).is_none(),
            (
                Request::Txn { condition, other, .. },
                Answer::Outcome(Outcome::Txn { succeeded: false, results, .. }),
            ) => {
                let [TxnResult::Get { record: first }, TxnResult::Get { record: second }] =
                    results.as_slice()
                else {
                    return demand(false, Checker::Transactions, || {
                        format!("operation {index} failed with the results {results:?}")
                    });
                };
                named(first.as_ref()) == held(operation.key)
                    && named(second.as_ref()) == held(other)
                    && !holds(condition, held(operation.key))
            }
            (_, Answer::Outcome(_)) => true,
            _ => false,
        };
        demand(fits, Checker::Transactions, || {
            let key = operation.key;
            format!(
                "operation {index} {:?} on key {key} was told {answer:?}, but at revision \
                 {revision} the store held {store:?}",
                operation.request
            )
        })?;
    }
    Ok(())
}

fn holds(condition: Condition, held: Option<(u64, Revision)>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::Absent => held.is_none(),
        Condition::Exists => held.is_some(),
        Condition::At(at) => held.is_some_and(|(_, revision)| revision == at),
    }
}

/// What an operation did to one of its keys, as it was told.
struct Part<'a> {
    key: u8,
    condition: Condition,
    puts: bool,
    /// The record before; not always asked for.
    previous: Option<Option<&'a KeyRecord>>,
}

/// Carries a change out, if the store is as its answer says.
fn change(operation: &Operation, index: usize, outcome: &Outcome, store: &mut Store) -> Check {
    for Part { key, condition, puts, previous } in parts(operation, outcome) {
        let before = match puts {
            true => store.insert(key, (index as u64, outcome.revision())),
            false => store.remove(&key),
        };
        let fits =
            holds(condition, before) && previous.is_none_or(|previous| named(previous) == before);
        demand(fits, Checker::Transactions, || {
            format!(
                "operation {index} {:?} had {outcome:?}, but before it key {key} held {before:?}",
                operation.request
            )
        })?;
    }
    Ok(())
}

fn parts<'a>(operation: &Operation, outcome: &'a Outcome) -> Vec<Part<'a>> {
    let key = operation.key;
    match (operation.request, outcome) {
        (Request::Put(condition), Outcome::Stored { previous, .. }) => {
            vec![Part { key, condition, puts: true, previous: previous.as_ref().map(Some) }]
        }
        (Request::Delete(condition), Outcome::Deleted { previous, .. }) => {
            vec![Part { key, condition, puts: false, previous: previous.as_ref().map(Some) }]
        }
        (Request::Txn { condition, other, .. }, Outcome::Txn { results, .. }) => {
            let keys = [(key, condition), (other, Condition::Always)];
            let part = |((key, condition), result): (_, &'a TxnResult)| {
                let (puts, previous) = match result {
                    TxnResult::Put { previous, .. } => (true, previous.as_ref()),
                    TxnResult::Delete { previous, .. } => (false, previous.as_ref()),
                    _ => return None,
                };
                Some(Part { key, condition, puts, previous: Some(previous) })
            };
            keys.into_iter().zip(results).filter_map(part).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::history::value_bytes;

    fn operation(key: u8, request: Request, returned: Option<Answer>) -> Operation {
        Operation {
            client: 0,
            key,
            request,
            keyed: false,
            command: Bytes::new(),
            called_us: 0,
            returned: returned.map(|answer| (1, answer)),
            ambiguous: false,
            floor: Revision(0),
        }
    }

    fn record(name: u64, revision: u64) -> KeyRecord {
        let revision = Revision(revision);
        KeyRecord {
            value: value_bytes(name, 0),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: 0,
        }
    }

    fn put_result(previous: Option<KeyRecord>) -> TxnResult {
        TxnResult::Put { create_revision: Revision(1), version: 1, previous }
    }

    fn settled(outcome: Outcome) -> Option<Settled> {
        Some(Settled { outcome, first_us: 1, commands: 1, late: 0 })
    }

    fn stored(revision: u64) -> Outcome {
        let revision = Revision(revision);
        Outcome::Stored { revision, create_revision: revision, version: 1, previous: None }
    }

    fn txn(revision: u64, succeeded: bool, results: Vec<TxnResult>) -> Outcome {
        Outcome::Txn { revision: Revision(revision), succeeded, results }
    }

    type History = (Vec<Operation>, Vec<Option<Settled>>);

    /// A put of key 0, a transaction that replaces it and stores key 1, one that finds its
    /// condition broken, and a read of both keys.
    fn good() -> History {
        let always = Condition::Always;
        let pair = |condition| Request::Txn { condition, other: 1, removes: false };
        let found = |name| Some(Answer::Found(Some((name, Revision(2))), Revision(2)));
        let operations = vec![
            operation(0, Request::Put(always), None),
            operation(0, pair(Condition::At(Revision(1))), None),
            operation(0, pair(Condition::Absent), None),
            operation(0, Request::Get, found(1)),
            operation(1, Request::Get, found(1)),
        ];
        let reads = [
            TxnResult::Get { record: Some(record(1, 2)) },
            TxnResult::Get { record: Some(record(1, 2)) },
        ];
        let done = vec![put_result(Some(record(0, 1))), put_result(None)];
        let settled = vec![
            settled(stored(1)),
            settled(txn(2, true, done)),
            settled(txn(2, false, reads.to_vec())),
            None,
            None,
        ];
        (operations, settled)
    }

    fn refused((operations, settled): History, words: &str) {
        let violation = check(&operations, &settled, &BTreeSet::new()).expect_err(words);
        assert_eq!(violation.checker, Checker::Transactions);
        assert!(violation.text.contains(words), "{}", violation.text);
    }

    #[test]
    fn one_change_after_the_other_is_explained() {
        let (operations, settled) = good();
        assert_eq!(check(&operations, &settled, &BTreeSet::new()), Ok(()));
    }

    #[test]
    fn a_revision_made_beside_is_one_of_the_row() {
        let (mut operations, settled) = good();
        let revision = Revision(3);
        operations[4].returned = Some((1, Answer::Found(Some((1, Revision(2))), revision)));
        assert!(check(&operations, &settled, &BTreeSet::new()).is_err());
        assert_eq!(check(&operations, &settled, &BTreeSet::from([revision])), Ok(()));
    }

    #[test]
    fn a_transaction_in_halves_is_found() {
        let mut history = good();
        // The first key has it already, the second one not yet.
        history.0[4].returned = Some((1, Answer::Found(None, Revision(2))));
        refused(history, "operation 4");
        let mut history = good();
        let reads =
            vec![TxnResult::Get { record: Some(record(1, 2)) }, TxnResult::Get { record: None }];
        history.1[2] = settled(txn(2, false, reads));
        refused(history, "operation 2");
    }

    #[test]
    fn what_was_replaced_must_have_been_there() {
        let mut history = good();
        history.1[1] = settled(txn(2, true, vec![put_result(None), put_result(None)]));
        refused(history, "key 0 held");
        let mut history = good();
        history.0[1].request =
            Request::Txn { condition: Condition::Absent, other: 1, removes: false };
        refused(history, "key 0 held");
    }

    #[test]
    fn a_condition_that_held_must_not_have_failed() {
        let mut history = good();
        history.0[2].request =
            Request::Txn { condition: Condition::Exists, other: 1, removes: false };
        refused(history, "operation 2");
    }

    #[test]
    fn each_revision_has_one_change() {
        let mut history = good();
        history.1[0] = settled(stored(2));
        refused(history, "both made revision 2");
        let mut history = good();
        history.1[0] = None;
        refused(history, "nobody made revision 1");
        let mut history = good();
        history.0[3].returned = Some((1, Answer::Found(Some((1, Revision(2))), Revision(3))));
        refused(history, "nobody made revision 3");
    }
}
