//! Clients see one register per key, in real time.
//!
//! A history is linearizable when every operation can be given a moment between its
//! call and its return such that, carried out in that order on one register, all of
//! them answer as they did. Keys are independent registers, and linearizability is
//! local (Herlihy and Wing 1990), so each key is checked alone, by the [`search`].
//!
//! An operation whose client never heard of it is settled from the chosen log: it
//! either never had effect, and is left out, or it had, and then it returned at the
//! latest when a replica first applied it (what is chosen is in every later read).
//! So nothing is left open, and the search is short. A search that takes too many
//! steps counts as failed: "could not check" is no success.
//!
//! Revisions order all keys together: nobody may be told an older revision than
//! somebody knew before the question was asked.

use synod_kv::{Condition, KeyRecord, Outcome, Revision};

use crate::checkers::exactly_once::Settled;
use crate::checkers::search::{self, Unexplained};
use crate::checkers::transactions;
use crate::checkers::{Check, Checker, Violation, demand};
use crate::history::{Answer, Operation, Request, value_name};

/// A search for one key that takes more steps is given up, and failed.
const STEPS_MAX: u64 = 2_000_000;

/// A key's register: the value's name and its revision, and the revision of the
/// last change of any kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct Register {
    value: Option<(u64, Revision)>,
    changed: Revision,
}

/// An operation and how it ended.
#[derive(Clone, Debug)]
struct Step {
    index: usize,
    called_us: u64,
    returned_us: u64,
    request: Request,
    answer: Answer,
}

/// Checks the whole history.
///
/// # Errors
/// When it is not linearizable, or could not be checked.
pub fn check(operations: &[Operation], settled: &[Option<Settled>], keys: u8) -> Check {
    for key in 0..keys {
        let steps = steps_of(operations, settled, key);
        check_key(key, &steps)?;
    }
    for (index, operation) in operations.iter().enumerate() {
        check_revision(index, operation)?;
    }
    Ok(())
}

fn steps_of(operations: &[Operation], settled: &[Option<Settled>], key: u8) -> Vec<Step> {
    let mut steps = Vec::new();
    for (index, operation) in operations.iter().enumerate().filter(|(_, o)| o.touches(key)) {
        let told = operation.returned.as_ref();
        let (returned_us, answer) = match (&settled[index], told) {
            (Some(settled), _) => {
                // A refusal is about the last attempt; an earlier one had the effect later.
                let learnt = told.filter(|(_, told)| told.tells());
                let returned_us = learnt.map_or(u64::MAX, |(at, _)| *at).min(settled.first_us);
                (returned_us, Answer::Outcome(settled.outcome.clone()))
            }
            (None, Some((at, found @ Answer::Found(..)))) => (*at, found.clone()),
            // Without effect: refused, unanswered, or no room for its key.
            (None, _) => continue,
        };
        let (called_us, request) = (operation.called_us, operation.request);
        for (request, answer) in transactions::as_seen(key, operation.key, request, answer) {
            steps.push(Step { index, called_us, returned_us, request, answer });
        }
    }
    steps
}

/// What the register is after a step; none when the step cannot be here.
fn carry_out(register: &Register, step: &Step) -> Option<Register> {
    match (&step.answer, step.request) {
        (Answer::Found(found, _), Request::Get) => (register.value == *found).then_some(*register),
        (Answer::Outcome(outcome), Request::Put(condition)) => {
            put(register, step.index as u64, condition, outcome)
        }
        (Answer::Outcome(outcome), Request::Delete(condition)) => {
            delete(register, condition, outcome)
        }
        _ => None,
    }
}

fn put(
    register: &Register,
    name: u64,
    condition: Condition,
    outcome: &Outcome,
) -> Option<Register> {
    match outcome {
        Outcome::Stored { revision, previous, .. } => {
            let fits = holds(register, condition)
                && *revision > register.changed
                && is_previous(register, previous.as_ref());
            fits.then_some(Register { value: Some((name, *revision)), changed: *revision })
        }
        Outcome::ConditionFailed { current, .. } => failed(register, condition, *current),
        _ => None,
    }
}

fn delete(register: &Register, condition: Condition, outcome: &Outcome) -> Option<Register> {
    match outcome {
        Outcome::Deleted { revision, previous } => {
            let fits = register.value.is_some()
                && holds(register, condition)
                && *revision > register.changed
                && is_previous(register, previous.as_ref());
            fits.then_some(Register { value: None, changed: *revision })
        }
        Outcome::NotFound { .. } => {
            (holds(register, condition) && register.value.is_none()).then_some(*register)
        }
        Outcome::ConditionFailed { current, .. } => failed(register, condition, *current),
        _ => None,
    }
}

fn failed(
    register: &Register,
    condition: Condition,
    current: Option<Revision>,
) -> Option<Register> {
    let is_current = register.value.map(|(_, revision)| revision) == current;
    (!holds(register, condition) && is_current).then_some(*register)
}

fn holds(register: &Register, condition: Condition) -> bool {
    match condition {
        Condition::Always => true,
        Condition::Absent => register.value.is_none(),
        Condition::Exists => register.value.is_some(),
        Condition::At(at) => register.value.is_some_and(|(_, revision)| revision == at),
    }
}

/// The replaced record is only brought back if it was asked for.
fn is_previous(register: &Register, previous: Option<&KeyRecord>) -> bool {
    previous.is_none_or(|previous| {
        register.value == Some((value_name(&previous.value), previous.mod_revision))
    })
}

impl search::Step for Step {
    type State = Register;
    type Hint = (Revision, bool);

    fn called_us(&self) -> u64 {
        self.called_us
    }

    /// What never had effect was left out before, so all of these returned.
    fn returned_us(&self) -> Option<u64> {
        Some(self.returned_us)
    }

    fn carry_out(&self, register: &Register) -> Option<Register> {
        carry_out(register, self)
    }

    fn hint(&self) -> (Revision, bool) {
        hint(self)
    }
}

fn check_key(key: u8, steps: &[Step]) -> Check {
    match search::search(steps, STEPS_MAX) {
        Ok(()) => Ok(()),
        Err(Unexplained::NoOrder { deepest }) => Err(not_linearizable(key, steps, deepest)),
        Err(Unexplained::TooManySteps) => Err(Violation {
            checker: Checker::Linearizability,
            text: format!(
                "key {key} could not be checked: {} operations need too many steps",
                steps.len()
            ),
        }),
    }
}

/// Which of several steps to try first. It decides nothing about what is found, only
/// how soon: the revision that a client was told says where the product believes the
/// operation to be.
fn hint(step: &Step) -> (Revision, bool) {
    match &step.answer {
        Answer::Found(_, revision) => (*revision, true),
        Answer::Outcome(outcome) => {
            let (revision, is_change) = revision_of(outcome);
            (revision, !is_change)
        }
        Answer::Refused => (Revision(0), true),
    }
}

/// The store's revision with an outcome, and whether the operation made it.
fn revision_of(outcome: &Outcome) -> (Revision, bool) {
    let is_change = matches!(
        outcome,
        Outcome::Stored { .. } | Outcome::Deleted { .. } | Outcome::Txn { succeeded: true, .. }
    );
    (outcome.revision(), is_change)
}

fn not_linearizable(key: u8, steps: &[Step], deepest: usize) -> Violation {
    let mut by_return: Vec<&Step> = steps.iter().collect();
    by_return.sort_by_key(|step| step.returned_us);
    let around = by_return.iter().skip(deepest.saturating_sub(3)).take(6);
    let lines: Vec<String> = around
        .map(|step| {
            let Step { index, called_us, returned_us, request, answer } = step;
            let answer = format!("{answer:?}").replace("....", "");
            format!("  #{index} {called_us}..{returned_us} {request:?} -> {answer}")
        })
        .collect();
    let text = format!(
        "no order of the {} operations on key {key} explains their answers; {deepest} could be \
         explained, about up to here:\n{}",
        steps.len(),
        lines.join("\n")
    );
    Violation { checker: Checker::Linearizability, text }
}

/// Real time across keys: nobody is told an older revision than was known before.
fn check_revision(index: usize, operation: &Operation) -> Check {
    let floor = operation.floor;
    let (revision, is_change) = match &operation.returned {
        Some((_, Answer::Found(_, revision))) => (*revision, false),
        Some((_, Answer::Outcome(outcome))) => revision_of(outcome),
        Some((_, Answer::Refused)) | None => return Ok(()),
    };
    let fits = revision > floor || (revision == floor && !is_change);
    demand(fits, Checker::Linearizability, || {
        format!("operation {index} was told revision {revision} after somebody knew {floor}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn stored(revision: u64) -> Answer {
        let revision = Revision(revision);
        Answer::Outcome(Outcome::Stored {
            revision,
            create_revision: revision,
            version: 1,
            previous: None,
        })
    }

    fn operation(called: u64, returned: u64, request: Request, answer: Answer) -> Operation {
        Operation {
            client: 0,
            key: 0,
            request,
            keyed: false,
            command: Bytes::new(),
            called_us: called,
            returned: Some((returned, answer)),
            ambiguous: false,
            floor: Revision(0),
        }
    }

    fn put(called: u64, returned: u64, revision: u64) -> Operation {
        operation(called, returned, Request::Put(Condition::Always), stored(revision))
    }

    fn get(called: u64, returned: u64, found: Option<(u64, u64)>) -> Operation {
        let found = found.map(|(name, revision)| (name, Revision(revision)));
        let answer = Answer::Found(found, Revision(99));
        operation(called, returned, Request::Get, answer)
    }

    /// Every write took effect when its client heard of it.
    fn run(operations: &[Operation]) -> Check {
        let settle = |operation: &Operation| match &operation.returned {
            Some((at, Answer::Outcome(outcome))) => {
                Some(Settled { outcome: outcome.clone(), first_us: *at, commands: 1, late: 0 })
            }
            _ => None,
        };
        let settled: Vec<_> = operations.iter().map(settle).collect();
        check(operations, &settled, 1)
    }

    #[test]
    fn overlapping_operations_may_go_in_any_order() {
        // The second put returns first and is overwritten by the first.
        let history =
            [put(0, 90, 2), put(10, 20, 1), get(30, 40, Some((1, 1))), get(91, 95, Some((0, 2)))];
        run(&history).expect("linearizable");
    }

    #[test]
    fn a_stale_read_is_found() {
        let history = [put(0, 10, 1), put(20, 30, 2), get(40, 50, Some((0, 1)))];
        let violation = run(&history).expect_err("the read is old");
        assert_eq!(violation.checker, Checker::Linearizability);
        assert!(run(&[put(0, 10, 1), get(20, 30, None)]).is_err(), "the write is lost");
    }

    #[test]
    fn a_value_that_comes_back_is_found() {
        let history =
            [put(0, 10, 1), put(5, 100, 2), get(20, 30, Some((1, 2))), get(40, 50, Some((0, 1)))];
        assert!(run(&history).is_err());
    }

    #[test]
    fn a_precondition_that_could_not_hold_is_found() {
        let absent = Request::Put(Condition::Absent);
        let history = [put(0, 10, 1), operation(20, 30, absent, stored(2))];
        assert!(run(&history).is_err());
        let current = Some(Revision(1));
        let failed = Outcome::ConditionFailed { revision: Revision(1), current };
        let history = [put(0, 10, 1), operation(20, 30, absent, Answer::Outcome(failed))];
        run(&history).expect("it failed rightly");
    }

    #[test]
    fn an_unknown_write_counts_as_the_log_says() {
        let mut unknown = put(0, 10, 1);
        unknown.returned = None;
        let history = [unknown, get(20, 30, None)];
        check(&history, &[None, None], 1).expect("it never had effect");
        let Answer::Outcome(outcome) = stored(1) else { panic!("a write") };
        let settled =
            |first_us| Some(Settled { outcome: outcome.clone(), first_us, commands: 1, late: 0 });
        assert!(check(&history, &[settled(15), None], 1).is_err(), "applied before the read");
        check(&history, &[settled(25), None], 1).expect("applied while it read");
    }

    #[test]
    fn a_revision_that_was_overtaken_is_found() {
        let mut late = put(20, 30, 2);
        late.floor = Revision(2);
        assert!(run(&[put(0, 10, 1), late]).is_err());
    }

    #[test]
    fn many_open_operations_are_searched_or_given_up_loudly() {
        // Twelve overlapping puts and a read of a value that none wrote.
        let mut history: Vec<_> = (0..12).map(|n| put(n, 1_000, 13 - n)).collect();
        history.push(get(2_000, 2_001, Some((77, 3))));
        assert!(run(&history).is_err());
    }
}
