//! Linearizable reads without an entry in the log.
//!
//! The leader numbers its read rounds. A read joins a round that begins after the
//! read arrived; once a q2 quorum has echoed the round while its promise was the
//! leader's ballot, no later leader can have chosen anything before the read
//! began, so what this leader knows as chosen is enough to see.

use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};

use crate::{NodeId, ReadOutcome, ReadToken, Slot, Time, quorum::Voters};

/// Who waits for a read index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reader {
    /// A client of this node.
    Here(ReadToken),
    /// A follower, by the nonce of its question.
    There(NodeId, u64),
}

/// The leader's rounds.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// The newest round that was sent.
    newest: u64,
    /// Reads that no round covers yet.
    arrived: Vec<Reader>,
    /// Rounds in flight, oldest first.
    open: VecDeque<(u64, Vec<Reader>)>,
    /// The highest round that each member echoed.
    echoes: BTreeMap<usize, u64>,
    sent_at: Option<Time>,
    /// A round began that no message has carried yet.
    unsent: bool,
}

impl Rounds {
    /// Rounds in flight at once: the next reads gather meanwhile.
    const OPEN_MAX: usize = 4;

    pub(crate) fn push(&mut self, reader: Reader) {
        self.arrived.push(reader);
    }

    /// Reads that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.arrived.len() + self.open.iter().map(|(_, readers)| readers.len()).sum::<usize>()
    }

    /// The newest round.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Begins a round for the reads that have arrived, if there are any.
    pub(crate) fn begin(&mut self, now: Time) -> bool {
        if self.arrived.is_empty() || self.open.len() >= Self::OPEN_MAX {
            return false;
        }
        self.newest += 1;
        self.open.push_back((self.newest, core::mem::take(&mut self.arrived)));
        self.sent_at = Some(now);
        true
    }

    /// When the newest open round was sent.
    pub(crate) fn sent_at(&self) -> Option<Time> {
        self.sent_at.filter(|_| !self.open.is_empty())
    }

    /// The newest round needs a message of its own.
    pub(crate) fn mark_unsent(&mut self) {
        self.unsent = true;
    }

    /// Whether a message must carry the newest round now: it is new, or nobody has
    /// confirmed it for `retransmit_us`.
    pub(crate) fn is_due(&self, now: Time, retransmit_us: u64) -> bool {
        let late = |at: Time| now.since_us(at) >= retransmit_us;
        self.unsent || self.sent_at().is_some_and(late)
    }

    /// A message carries the newest round.
    pub(crate) fn sent(&mut self, now: Time) {
        self.unsent = false;
        self.sent_at = Some(now);
    }

    /// Takes an echo; gives the readers whose rounds a quorum has confirmed.
    pub(crate) fn receive_echo(
        &mut self,
        member: usize,
        read_round: u64,
        quorum: usize,
    ) -> Vec<Reader> {
        let known = self.echoes.entry(member).or_insert(0);
        if read_round <= *known || read_round > self.newest {
            return Vec::new();
        }
        *known = read_round;
        let mut confirmed = Vec::new();
        while let Some((round, _)) = self.open.front() {
            let mut voters = Voters::default();
            for (member, echoed) in &self.echoes {
                if echoed >= round {
                    voters.insert(*member);
                }
            }
            if voters.count() < quorum {
                break;
            }
            let (_, readers) = self.open.pop_front().expect("just seen");
            confirmed.extend(readers);
        }
        confirmed
    }

    /// Everybody who waits, when leadership ends.
    pub(crate) fn drain(&mut self) -> Vec<Reader> {
        let mut readers = core::mem::take(&mut self.arrived);
        for (_, open) in self.open.drain(..) {
            readers.extend(open);
        }
        readers
    }
}

/// A follower's questions to the leader. One question is open at a time; reads
/// that arrive meanwhile share the next.
#[derive(Debug)]
pub(crate) struct Questions {
    nonce: u64,
    arrived: Vec<Reader>,
    open: Option<Question>,
}

#[derive(Debug)]
struct Question {
    nonce: u64,
    leader: NodeId,
    asked_at: Time,
    readers: Vec<Reader>,
}

impl Questions {
    pub(crate) fn new(incarnation: u64) -> Questions {
        Questions { nonce: incarnation << 32, arrived: Vec::new(), open: None }
    }

    pub(crate) fn push(&mut self, reader: Reader) {
        self.arrived.push(reader);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.arrived.len() + self.open.as_ref().map_or(0, |question| question.readers.len())
    }

    /// The nonce of a new question to `leader`, if one is due.
    pub(crate) fn ask(&mut self, now: Time, leader: NodeId) -> Option<u64> {
        if self.open.is_some() || self.arrived.is_empty() {
            return None;
        }
        self.nonce += 1;
        let readers = core::mem::take(&mut self.arrived);
        self.open = Some(Question { nonce: self.nonce, leader, asked_at: now, readers });
        Some(self.nonce)
    }

    /// The readers of the answered question.
    pub(crate) fn receive_answer(&mut self, nonce: u64) -> Vec<Reader> {
        match self.open.take_if(|question| question.nonce == nonce) {
            Some(question) => question.readers,
            None => Vec::new(),
        }
    }

    /// When the open question was asked.
    pub(crate) fn asked_at(&self) -> Option<Time> {
        self.open.as_ref().map(|question| question.asked_at)
    }

    /// Gives up the open question if it is too old or was put to somebody who
    /// no longer leads, and everything if nobody leads.
    pub(crate) fn expire(
        &mut self,
        now: Time,
        leader: Option<NodeId>,
        limit_us: u64,
    ) -> Vec<Reader> {
        let mut readers = Vec::new();
        let stale = |q: &Question| now.since_us(q.asked_at) >= limit_us || Some(q.leader) != leader;
        if let Some(question) = self.open.take_if(|question| stale(question)) {
            readers.extend(question.readers);
        }
        if leader.is_none() {
            readers.append(&mut self.arrived);
        }
        readers
    }
}

/// Splits readers into outcomes for this node's host and answers for followers.
pub(crate) fn settle(
    readers: Vec<Reader>,
    index: Option<Slot>,
    outcomes: &mut Vec<ReadOutcome>,
    mut answer: impl FnMut(NodeId, u64, Option<Slot>),
) {
    for reader in readers {
        match reader {
            Reader::Here(token) => outcomes.push(ReadOutcome { token, index }),
            Reader::There(node, nonce) => answer(node, nonce, index),
        }
    }
}
