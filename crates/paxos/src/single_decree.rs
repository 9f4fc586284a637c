//! Single-decree Paxos: a register that is written once. Start here.
//!
//! Some nodes agree on one value for ever, although messages get lost, come twice or
//! late, and nodes crash at any time and come back with what they had saved. The rest of
//! this crate is this algorithm, once per slot, its first half shared by all slots of a
//! leader. Sections are those of "Paxos Made Simple" (Lamport 2001).
//!
//! # Choosing (section 2.2)
//!
//! One node that decides alone is simple, until it fails. So there are several
//! *acceptors*, and a value is *chosen* once a quorum of them has accepted it. Quorums
//! overlap, hence two values cannot both get one, unless somebody changes its mind. But
//! an acceptor has to take "the first proposal that it receives" (P1), so three of them
//! may hold three values, and then somebody must. Paxos lets an acceptor accept again,
//! and sees to it that once a value is chosen, no other is proposed any more (P2). Each
//! attempt to write has a [`Ballot`], which no other attempt shares, and two phases:
//!
//! - **1a** The [`Proposer`] takes a ballot above all that it knows and sends
//!   [`Message::Prepare`] to the acceptors: what have you accepted so far?
//! - **1b** An [`Acceptor`] answers [`Message::Promise`]: the highest proposal that it
//!   has accepted, if any, and its word that it accepts nothing in any lower ballot from
//!   now on. So what it reported about them stays true.
//! - **2a** With promises from a quorum, the proposer sends [`Message::Accept`] with the
//!   value of the highest proposal among them; only if there is none, with its own.
//!   [The place where it picks](Proposer::receive_promise) says why this is safe.
//! - **2b** An acceptor accepts, unless it has promised a higher ballot meanwhile, and
//!   tells the learners by [`Message::Accepted`].
//!
//! # Learning (section 2.3)
//!
//! A [`Learner`] knows a value as chosen when a quorum of different acceptors tells of
//! accepting it in one ballot. Where their messages are lost, nobody may be left who
//! knows. A new proposal then finds the chosen value, and spreads it.
//!
//! # Progress (section 2.4)
//!
//! Two proposers can overtake each other for ever. No rule excludes that (Fischer, Lynch
//! and Paterson 1985), but luck ends it: who is rejected waits, for a random time that
//! grows, before [`Register::retry`]. The caller may choose the time freely, for no
//! mistake in it can make two values chosen.
//!
//! # Crashes (section 2.5)
//!
//! A promise that a crash makes forgotten was a lie. So it is saved first, and the types
//! insist: an [`Unsaved`] gives out its messages only together with the [`Record`] to
//! save. Nor may a ballot be used twice, or late answers to the first use would count for
//! the second (pitfall 4): its node promises it, durably, before anyone hears of it.
//!
//! ```
//! use synod_paxos::{Configuration, NodeId, single_decree::Register};
//!
//! let members = [1, 2, 3].map(NodeId);
//! let configuration = Configuration::majority(members.to_vec(), 1).unwrap();
//! let mut disks = [const { None }; 3];
//! let mut nodes = members.map(|node| Register::recover(node, configuration.clone(), None));
//!
//! let mut steps = vec![(0, nodes[0].write_once("x".into()))];
//! steps.push((2, nodes[2].write_once("y".into())));
//! while let Some((from, effects)) = steps.pop() {
//!     let mut envelopes = effects.send_now;
//!     if let Some(unsaved) = effects.unsaved {
//!         let (record, may_leave_now) = unsaved.into_parts();
//!         disks[from] = Some(record);
//!         envelopes.extend(may_leave_now);
//!     }
//!     for envelope in envelopes {
//!         let to = configuration.index_of(envelope.to).unwrap();
//!         steps.push((to, nodes[to].receive(members[from], envelope.message)));
//!     }
//! }
//! let chosen = nodes[0].chosen().expect("somebody came through");
//! assert!(nodes.iter().all(|node| node.chosen() == Some(chosen)));
//! ```

use alloc::{collections::BTreeMap, vec, vec::Vec};

use bytes::Bytes;

use crate::{Ballot, Configuration, NodeId};

/// A value, and the ballot in which it is proposed. One ballot has one value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Proposal {
    /// The ballot: the paper's proposal number.
    pub ballot: Ballot,
    /// The value.
    pub value: Bytes,
}

/// Everything that one node says to another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Message {
    /// Phase 1a, to every acceptor: asks to promise the sender's new ballot.
    Prepare(Ballot),
    /// Phase 1b, to the proposer: "never again to accept" anything below.
    Promise {
        /// The Prepare's ballot.
        ballot: Ballot,
        /// The highest proposal that the sender has accepted so far.
        accepted: Option<Proposal>,
    },
    /// Phase 2a, to every acceptor: asks to accept.
    Accept(Proposal),
    /// Phase 2b, to every learner: the sender has accepted.
    Accepted(Proposal),
    /// Instead of 1b or 2b. Silence would be as safe, but slower.
    Reject {
        /// The ballot that was refused.
        ballot: Ballot,
        /// The higher one that the sender has promised.
        promised: Ballot,
    },
}

/// A message and its addressee, which may be the sender itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Envelope {
    /// The addressee.
    pub to: NodeId,
    /// The message.
    pub message: Message,
}

/// What an acceptor must not forget. The two ballots in it are different things
/// (pitfall 9), saved by one write (pitfall 3).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Record {
    /// Nothing is accepted below this ballot any more. At first [`Ballot::ZERO`].
    pub promised: Ballot,
    /// The highest proposal that was accepted.
    pub accepted: Option<Proposal>,
}

/// Messages that a crash would turn into lies, unless a record is saved first.
#[must_use = "the peers wait for these messages, which may leave once the record is saved"]
#[derive(Debug)]
pub struct Unsaved {
    record: Record,
    envelopes: Vec<Envelope>,
}

impl Unsaved {
    /// The record, which replaces the one saved before, and what may leave once it is
    /// durable. Records are saved in the order of their making; a later one covers the
    /// earlier. When a save fails, the node stops.
    #[must_use]
    pub fn into_parts(self) -> (Record, Vec<Envelope>) {
        (self.record, self.envelopes)
    }
}

/// What the caller has to do after a step.
#[must_use = "the peers wait for these messages"]
#[derive(Default, Debug)]
pub struct Effects {
    /// May leave at once.
    pub send_now: Vec<Envelope>,
    /// May leave once the record with it is saved.
    pub unsaved: Option<Unsaved>,
}

/// The memory of the cluster, and the only role that votes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Acceptor {
    record: Record,
}

impl Acceptor {
    /// The acceptor that saved `record`, or a new one that has none.
    #[must_use]
    pub fn recover(record: Option<Record>) -> Self {
        let record = record.unwrap_or(Record { promised: Ballot::ZERO, accepted: None });
        Acceptor { record }
    }

    /// What it has promised and accepted. The disk lags by what is still [`Unsaved`].
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Phase 1b. A repeated Prepare gets its answer again, and the record with it, since
    /// the first may not be durable yet.
    pub fn receive_prepare(&mut self, ballot: Ballot) -> Effects {
        if ballot < self.record.promised {
            return self.reject(ballot);
        }
        self.record.promised = ballot;
        let accepted = self.record.accepted.clone();
        self.say_once_saved(&[ballot.node], Message::Promise { ballot, accepted })
    }

    /// Phase 2b: it accepts "unless it has already responded to a prepare request" of a
    /// higher number, and tells all `learners`.
    pub fn receive_accept(&mut self, proposal: Proposal, learners: &[NodeId]) -> Effects {
        if proposal.ballot < self.record.promised {
            return self.reject(proposal.ballot);
        }
        // To accept is to promise. The paper leaves that to its reader; without it, one
        // who has accepted in ballot 3 may still accept in ballot 2 (pitfall 5).
        self.record.promised = proposal.ballot;
        self.record.accepted = Some(proposal.clone());
        self.say_once_saved(learners, Message::Accepted(proposal))
    }

    fn say_once_saved(&self, to: &[NodeId], message: Message) -> Effects {
        let unsaved = Unsaved { record: self.record.clone(), envelopes: address(to, &message) };
        Effects { send_now: vec![], unsaved: Some(unsaved) }
    }

    /// A refusal asserts nothing that a crash could make untrue: it may leave at once.
    fn reject(&self, ballot: Ballot) -> Effects {
        let reject = Message::Reject { ballot, promised: self.record.promised };
        Effects { send_now: address(&[ballot.node], &reject), unsaved: None }
    }
}

/// Finds out what may be proposed, then proposes it. It keeps nothing over a crash,
/// because it "can abandon a proposal and forget all about it at any time".
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Proposer {
    /// Has nothing under way.
    Idle,
    /// Phase 1: waits for promises.
    Preparing {
        /// What it proposes if it may, and the ballot in which.
        wish: Proposal,
        /// Who has promised that ballot, and what each had accepted by then.
        promises: BTreeMap<NodeId, Option<Proposal>>,
    },
    /// Phase 2: has proposed. Learners find out whether it gets chosen.
    Proposing(Proposal),
}

impl Proposer {
    /// Phase 1a: starts an attempt, and drops any other. The ballot of `wish` must never
    /// have been used before, in an earlier life of this node neither.
    pub fn prepare(&mut self, wish: Proposal) -> Message {
        let prepare = Message::Prepare(wish.ballot);
        *self = Proposer::Preparing { wish, promises: BTreeMap::new() };
        prepare
    }

    /// Takes a promise. The one that completes a `quorum` gives phase 2a, with the value
    /// "of the highest-numbered proposal among the responses", or else its own.
    ///
    /// # Safety of the pick
    /// Let `v` be chosen, now or at any later time, in a ballot `m` below this ballot
    /// `n`. Then `n` proposes `v`, too (P2c):
    ///
    /// - The quorum that accepts `v` in `m` shares an acceptor with the quorum that
    ///   promised `n`. It accepts nothing below `n` after its promise, so it had accepted
    ///   in `m` before, and reported that, or an even higher ballot.
    /// - So the highest ballot reported, `k`, is at least `m`, and it is below `n`.
    /// - If `k` is `m`, its value is `v`, since one ballot has one value. If it is above,
    ///   the proposer of `k` followed this same rule, with the same `m` below it: by
    ///   induction over the ballots above `m`, it proposed `v`.
    ///
    /// And if nothing is reported, there is no such `m`, and any value is safe. What
    /// carries the argument: the *highest* report (pitfall 8) of *different* acceptors
    /// (pitfall 7) to *this* ballot (pitfall 6).
    pub fn receive_promise(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        accepted: Option<Proposal>,
        quorum: usize,
    ) -> Option<Message> {
        let Proposer::Preparing { wish, promises } = self else {
            return None;
        };
        if wish.ballot != ballot {
            return None;
        }
        promises.insert(from, accepted);
        if promises.len() < quorum {
            return None;
        }
        let reported = promises.values().flatten();
        let picked = reported.max_by_key(|proposal| proposal.ballot);
        let value = picked.unwrap_or(wish).value.clone();
        let proposal = Proposal { ballot, value };
        *self = Proposer::Proposing(proposal.clone());
        Some(Message::Accept(proposal))
    }

    /// An acceptor has promised a higher ballot: the proposer "should then abandon its
    /// proposal". It could still succeed with the others, but seldom would.
    pub fn receive_reject(&mut self, ballot: Ballot) {
        if let Proposer::Preparing { wish: mine, .. } | Proposer::Proposing(mine) = self
            && mine.ballot == ballot
        {
            *self = Proposer::Idle;
        }
    }
}

/// Finds out that a value is chosen. It keeps the newest acceptance of each acceptor, so
/// it never grows; a choice that it misses by this shows again in the next ballot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Learner {
    newest: BTreeMap<NodeId, Proposal>,
    chosen: Option<Bytes>,
}

impl Learner {
    /// Takes a phase 2b. A value is chosen once a `quorum` of different acceptors has
    /// accepted it in *one* ballot; the same value in several ballots proves nothing.
    ///
    /// # Panics
    /// When a second value is chosen, which is a bug.
    pub fn receive_accepted(&mut self, from: NodeId, proposal: Proposal, quorum: usize) {
        let known = self.newest.get(&from);
        if known.is_some_and(|known| known.ballot > proposal.ballot) {
            return;
        }
        self.newest.insert(from, proposal.clone());
        let votes = self.newest.values().filter(|newest| **newest == proposal);
        if votes.count() >= quorum {
            let chosen = self.chosen.get_or_insert(proposal.value.clone());
            assert_eq!(*chosen, proposal.value, "two values are chosen");
        }
    }

    /// The chosen value, if this learner knows it.
    #[must_use]
    pub fn chosen(&self) -> Option<&Bytes> {
        self.chosen.as_ref()
    }
}

/// One node with all three roles. The caller carries its messages, those to itself
/// included, saves its records, and decides when to try again.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Register {
    node: NodeId,
    configuration: Configuration,
    acceptor: Acceptor,
    proposer: Proposer,
    learner: Learner,
    /// What this node would like to be chosen. A crash forgets it.
    wish: Option<Bytes>,
    /// The highest ballot that a Reject told of.
    overtaken_by: Ballot,
}

impl Register {
    /// The node that saved `record`, or a new one that has none.
    ///
    /// # Panics
    /// When `node` is no member of `configuration`.
    #[must_use]
    pub fn recover(node: NodeId, configuration: Configuration, record: Option<Record>) -> Self {
        assert!(configuration.contains(node), "{node} is no member");
        Register {
            node,
            configuration,
            acceptor: Acceptor::recover(record),
            proposer: Proposer::Idle,
            learner: Learner::default(),
            wish: None,
            overtaken_by: Ballot::ZERO,
        }
    }

    /// Tries to have `value` chosen. [`Register::chosen`] tells which value was.
    pub fn write_once(&mut self, value: Bytes) -> Effects {
        self.wish = Some(value);
        self.retry()
    }

    /// Tries again in a higher ballot, for a caller that has waited long enough. Does
    /// nothing once the outcome is known, or if there is nothing to write.
    pub fn retry(&mut self) -> Effects {
        let (Some(value), None) = (self.wish.clone(), self.chosen()) else {
            return Effects::default();
        };
        let ballot = self.record().promised.max(self.overtaken_by).next(self.node);
        let prepare = self.proposer.prepare(Proposal { ballot, value });
        // The own promise that is saved here keeps the next life of this node from using
        // the ballot again. As a vote it comes in by the same road as everybody's.
        let mut effects = self.acceptor.receive_prepare(ballot);
        let unsaved = effects.unsaved.as_mut().expect("the ballot is new");
        unsaved.envelopes = address(self.configuration.voters(), &prepare);
        effects
    }

    /// Takes a message, of a peer or of this node itself.
    pub fn receive(&mut self, from: NodeId, message: Message) -> Effects {
        let mut effects = Effects::default();
        let members = self.configuration.voters();
        match message {
            _ if !self.is_plausible(from, &message) => {}
            Message::Prepare(ballot) => return self.acceptor.receive_prepare(ballot),
            Message::Accept(it) => return self.acceptor.receive_accept(it, members),
            Message::Promise { ballot, accepted } => {
                let quorum = self.configuration.promise_quorum();
                let accept = (self.proposer).receive_promise(from, ballot, accepted, quorum);
                effects.send_now = accept.map_or(vec![], |accept| address(members, &accept));
            }
            Message::Accepted(proposal) => {
                let quorum = self.configuration.accept_quorum();
                self.learner.receive_accepted(from, proposal, quorum);
            }
            Message::Reject { ballot, promised } => {
                self.overtaken_by = self.overtaken_by.max(promised);
                self.proposer.receive_reject(ballot);
            }
        }
        effects
    }

    /// The value of the register, once this node knows it. It never changes.
    #[must_use]
    pub fn chosen(&self) -> Option<&Bytes> {
        self.learner.chosen()
    }

    /// How far this node's attempt to write is. Idle without an outcome: rejected.
    #[must_use]
    pub fn proposer(&self) -> &Proposer {
        &self.proposer
    }

    /// What this node has promised and accepted, durable or not.
    #[must_use]
    pub fn record(&self) -> &Record {
        self.acceptor.record()
    }

    /// Whether a correct node can have sent this: a member, who proposes in ballots of
    /// its own, with a round that is not out of all proportion (pitfall 15).
    fn is_plausible(&self, from: NodeId, message: &Message) -> bool {
        let (highest, may_send) = match message {
            Message::Prepare(ballot) => (ballot, ballot.node == from),
            Message::Accept(proposal) => (&proposal.ballot, proposal.ballot.node == from),
            Message::Accepted(proposal) => (&proposal.ballot, true),
            Message::Promise { ballot, .. } => (ballot, true),
            Message::Reject { promised, .. } => (promised, true),
        };
        let jump = (highest.round).saturating_sub(self.record().promised.round);
        may_send && self.configuration.contains(from) && jump <= Ballot::ROUND_JUMP_MAX
    }
}

fn address(nodes: &[NodeId], message: &Message) -> Vec<Envelope> {
    nodes.iter().map(|to| Envelope { to: *to, message: message.clone() }).collect()
}
