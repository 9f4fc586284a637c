//! A request has effect once.
//!
//! Two identities are followed. A *server id* is given to each command by the node
//! that took it: whoever applies a command first says in which slot it was taken
//! and with which outcome, and everybody else must agree. A *request* of a client
//! may travel under several server ids when it is retried under an idempotency key:
//! all of them must have the outcome of the first, revision included, and a request
//! without a key must be taken under one server id at most.
//!
//! Which server id belongs to which request is worked out without asking the
//! product: a node numbers the writes that it did not refuse in the order in which
//! they came, so the n-th of them in a life has sequence n. The command's bytes are
//! compared, so that an error there cannot hide. From this the outcome of every
//! request is settled, of those too whose client never heard of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_host::RequestId;
use synod_kv::{Outcome, ServerId};

use crate::checkers::{Check, Checker, Violation, demand};
use crate::history::{Answer, Operation, is_about_the_key};

/// A command that was taken.
#[derive(Clone, Debug)]
struct Effect {
    slot: u64,
    /// The how-manieth command that was ever taken.
    order: u64,
    command: Bytes,
    outcome: Outcome,
    first_us: u64,
}

/// What became of an operation, as the log says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    /// The outcome.
    pub outcome: Outcome,
    /// When a node first applied it.
    pub first_us: u64,
    /// How many commands carried it.
    pub commands: u64,
    /// How many more came when its idempotency key was forgotten, and were refused.
    pub late: u64,
}

/// The oracle.
#[derive(Debug, Default)]
pub struct ExactlyOnce {
    effects: BTreeMap<ServerId, Effect>,
    /// The writes that each life of each node did not refuse, in their order.
    submitted: BTreeMap<(u32, u64), Vec<Submitted>>,
}

/// An attempt at an operation, as a client handed it to a node.
#[derive(Clone, Debug)]
struct Submitted {
    request: RequestId,
    /// None of the history, when a guest handed it over.
    operation: Option<usize>,
    command: Bytes,
}

impl ExactlyOnce {
    /// A client hands a node an attempt at an operation.
    pub fn submitted(
        &mut self,
        node: u32,
        life: u64,
        request: RequestId,
        operation: usize,
        command: Bytes,
    ) {
        let attempt = Submitted { request, operation: Some(operation), command };
        self.submitted.entry((node, life)).or_default().push(attempt);
    }

    /// Somebody hands a node a command of which the history of the clients has nothing.
    pub fn submitted_beside(&mut self, node: u32, life: u64, request: RequestId, command: Bytes) {
        let attempt = Submitted { request, operation: None, command };
        self.submitted.entry((node, life)).or_default().push(attempt);
    }

    /// The node says that it never sent it, and never will.
    pub fn refused(&mut self, node: u32, life: u64, request: RequestId) {
        if let Some(submitted) = self.submitted.get_mut(&(node, life)) {
            submitted.retain(|attempt| attempt.request != request);
        }
    }

    /// The node says that it was taken, and that nobody knows its outcome.
    ///
    /// # Errors
    /// When no node has taken it.
    pub fn unknown(&self, node: u32, life: u64, request: RequestId) -> Check {
        let submitted = self.submitted.get(&(node, life));
        let at =
            submitted.and_then(|all| all.iter().position(|attempt| attempt.request == request));
        let id = at.map(|at| ServerId { origin: node, incarnation: life, sequence: at as u64 + 1 });
        demand(id.is_some_and(|id| self.effects.contains_key(&id)), Checker::ExactlyOnce, || {
            format!("the outcome of {id:?} is said to be unknown, and nobody has taken it")
        })
    }

    /// A node took a command.
    ///
    /// # Errors
    /// When it was taken elsewhere in another slot, or with another outcome.
    pub fn taken(
        &mut self,
        id: ServerId,
        slot: u64,
        command: &Bytes,
        outcome: &Outcome,
        now_us: u64,
    ) -> Check {
        if let Some(known) = self.effects.get(&id) {
            demand(known.slot == slot, Checker::ExactlyOnce, || {
                format!("{id:?} was taken in slot {} and in slot {slot}", known.slot)
            })?;
            return demand(known.outcome == *outcome, Checker::ExactlyOnce, || {
                format!("{id:?} has the outcomes {:?} and {outcome:?}", known.outcome)
            });
        }
        let effect = Effect {
            slot,
            order: self.effects.len() as u64,
            command: command.clone(),
            outcome: outcome.clone(),
            first_us: now_us,
        };
        self.effects.insert(id, effect);
        Ok(())
    }

    /// A command is carried out under this name somewhere else than in this cluster.
    ///
    /// # Errors
    /// When nobody gave it to the node that the name tells of, or it was refused.
    pub fn asked(&self, id: ServerId, command: &Bytes) -> Check {
        let submitted = self.submitted.get(&(id.origin, id.incarnation));
        let is_asked = submitted.is_some_and(|all| all.iter().any(|one| one.command == *command));
        demand(is_asked, Checker::ExactlyOnce, || format!("nobody asked for the command {id:?}"))
    }

    /// The slot in which a node's command was taken.
    #[must_use]
    pub fn slot(&self, id: ServerId) -> Option<u64> {
        self.effects.get(&id).map(|effect| effect.slot)
    }

    /// What became of each operation; none when it had no effect and never will, as
    /// far as this log goes.
    ///
    /// # Errors
    /// When an operation had effect twice, had effect though it was refused, or its
    /// client was told something else than what happened.
    pub fn settle(&self, operations: &[Operation]) -> Result<Vec<Option<Settled>>, Violation> {
        let mut settled: Vec<Option<Settled>> = vec![None; operations.len()];
        let mut effects: Vec<_> = self.effects.iter().collect();
        effects.sort_by_key(|(_, effect)| effect.order);
        for (id, effect) in effects {
            let Submitted { operation: index, command, .. } = self.attempt_of(*id)?;
            demand(*command == effect.command, Checker::ExactlyOnce, || {
                format!("{id:?} holds another command than operation {index:?}")
            })?;
            let Some(index) = *index else { continue };
            let operation = &operations[index];
            // Without room for the key nothing happened; a later attempt may succeed.
            if is_about_the_key(&effect.outcome) {
                if let Some(first) = &mut settled[index] {
                    let is_late = matches!(effect.outcome, Outcome::IdempotencyLate { .. });
                    first.late += u64::from(is_late);
                }
                continue;
            }
            match &mut settled[index] {
                Some(first) => {
                    first.commands += 1;
                    let same = operation.keyed && first.outcome == effect.outcome;
                    demand(same, Checker::ExactlyOnce, || {
                        format!(
                            "operation {index} had {:?} and then {:?}",
                            first.outcome, effect.outcome
                        )
                    })?;
                }
                none => {
                    let (outcome, first_us) = (effect.outcome.clone(), effect.first_us);
                    *none = Some(Settled { outcome, first_us, commands: 1, late: 0 });
                }
            }
        }
        for (index, operation) in operations.iter().enumerate() {
            check_told(index, operation, settled[index].as_ref())?;
        }
        Ok(settled)
    }

    fn attempt_of(&self, id: ServerId) -> Result<&Submitted, Violation> {
        let submitted = self.submitted.get(&(id.origin, id.incarnation));
        let at = usize::try_from(id.sequence).expect("few commands") - 1;
        submitted.and_then(|submitted| submitted.get(at)).ok_or_else(|| {
            let text = format!("{id:?} was taken, but no client's request can have that name");
            Violation { checker: Checker::ExactlyOnce, text }
        })
    }
}

fn check_told(index: usize, operation: &Operation, settled: Option<&Settled>) -> Check {
    let Some((_, answer)) = &operation.returned else { return Ok(()) };
    match answer {
        Answer::Found(..) => Ok(()),
        Answer::Outcome(outcome) if is_about_the_key(outcome) => Ok(()),
        Answer::Outcome(told) => {
            let happened = settled.map(|settled| &settled.outcome);
            demand(happened == Some(told), Checker::ExactlyOnce, || {
                format!("the client of operation {index} was told {told:?}, the log: {happened:?}")
            })
        }
        Answer::Refused => demand(settled.is_none(), Checker::ExactlyOnce, || {
            format!("operation {index} was refused as not sent, and had effect")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Request;
    use synod_kv::{Condition, Revision};

    fn stored(revision: u64) -> Outcome {
        let revision = Revision(revision);
        Outcome::Stored { revision, create_revision: revision, version: 1, previous: None }
    }

    fn id(origin: u32, sequence: u64) -> ServerId {
        ServerId { origin, incarnation: 1, sequence }
    }

    fn operation(keyed: bool, answer: Option<Answer>) -> Operation {
        Operation {
            client: 0,
            key: 0,
            request: Request::Put(Condition::Always),
            keyed,
            command: Bytes::from_static(b"put"),
            called_us: 1,
            returned: answer.map(|answer| (9, answer)),
            ambiguous: true,
            floor: Revision(0),
        }
    }

    fn twice(keyed: bool, second: Outcome) -> Result<Vec<Option<Settled>>, Violation> {
        let mut oracle = ExactlyOnce::default();
        let command = Bytes::from_static(b"put");
        oracle.submitted(1, 1, RequestId(1), 0, command.clone());
        oracle.submitted(2, 1, RequestId(2), 0, command.clone());
        oracle.taken(id(1, 1), 1, &command, &stored(1), 5)?;
        oracle.taken(id(2, 1), 2, &command, &second, 6)?;
        oracle.settle(&[operation(keyed, Some(Answer::Outcome(stored(1))))])
    }

    #[test]
    fn a_second_effect_is_found() {
        let settled = twice(true, stored(1)).expect("a replayed answer is no effect");
        assert_eq!(settled[0].as_ref().map(|settled| settled.commands), Some(2));
        assert!(twice(true, stored(2)).is_err());
        assert!(twice(false, stored(1)).is_err(), "without a key it was sent once");
    }

    #[test]
    fn a_command_taken_in_two_slots_is_found() {
        let mut oracle = ExactlyOnce::default();
        let command = Bytes::new();
        oracle.taken(id(1, 1), 1, &command, &stored(1), 5).expect("the first");
        oracle.taken(id(1, 1), 1, &command, &stored(1), 6).expect("another replica");
        assert!(oracle.taken(id(1, 1), 2, &command, &stored(1), 7).is_err());
        assert!(oracle.taken(id(1, 1), 1, &command, &stored(3), 7).is_err());
    }

    #[test]
    fn a_refused_request_with_effect_and_a_wrong_answer_are_found() {
        let mut oracle = ExactlyOnce::default();
        let command = Bytes::from_static(b"put");
        oracle.submitted(1, 1, RequestId(1), 0, command.clone());
        oracle.submitted(1, 1, RequestId(2), 1, command.clone());
        oracle.refused(1, 1, RequestId(1));
        oracle.taken(id(1, 1), 1, &command, &stored(1), 5).expect("the second request");
        let right = [
            operation(false, Some(Answer::Refused)),
            operation(false, Some(Answer::Outcome(stored(1)))),
        ];
        oracle.settle(&right).expect("as it happened");
        let refused = [operation(false, None), operation(false, Some(Answer::Refused))];
        assert!(oracle.settle(&refused).is_err());
        let wrong = [operation(false, None), operation(false, Some(Answer::Outcome(stored(2))))];
        assert!(oracle.settle(&wrong).is_err());
    }

    #[test]
    fn a_command_that_nobody_asked_for_or_that_was_refused_is_found() {
        let mut oracle = ExactlyOnce::default();
        let command = Bytes::from_static(b"put");
        oracle.submitted(1, 1, RequestId(1), 0, command.clone());
        assert_eq!(oracle.asked(id(1, 1), &command), Ok(()));
        assert!(oracle.asked(id(2, 1), &command).is_err(), "another node was asked");
        assert!(oracle.asked(id(1, 1), &Bytes::from_static(b"other")).is_err());
        oracle.refused(1, 1, RequestId(1));
        assert!(oracle.asked(id(1, 1), &command).is_err());
    }
}
