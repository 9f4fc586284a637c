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

use crate::{NodeId, ReadOutcome, ReadToken, Reign, Slot, Time};

/// Who waits for a read index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Reader {
    /// A client of this node.
    Here(ReadToken),
    /// A follower, by the nonce of its question.
    There(NodeId, u64),
}

/// The leader's rounds.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Rounds {
    /// The newest round that was sent.
    newest: u64,
    /// Reads that no round covers yet.
    arrived: Vec<Reader>,
    /// Rounds in flight, oldest first.
    open: VecDeque<(u64, Vec<Reader>)>,
    /// The highest round that each node echoed.
    echoes: BTreeMap<NodeId, u64>,
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

    /// The newest round if it waits for echoes; 0 when none does, so that nobody
    /// answers for nothing.
    pub(crate) fn open_round(&self) -> u64 {
        if self.open.is_empty() { 0 } else { self.newest }
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

    /// Takes an echo; says whether it tells anything new.
    pub(crate) fn receive_echo(&mut self, node: NodeId, read_round: u64) -> bool {
        let known = self.echoes.entry(node).or_insert(0);
        let is_new = read_round > *known && read_round <= self.newest;
        if is_new {
            *known = read_round;
        }
        is_new
    }

    /// Gives the readers whose rounds a q2 quorum of each of these configurations has
    /// confirmed: of the one that governs the next slot, and of later ones.
    pub(crate) fn take_confirmed(&mut self, reigns: &[Reign]) -> Vec<Reader> {
        let mut confirmed = Vec::new();
        while let Some((round, _)) = self.open.front() {
            if !self.is_confirmed(*round, reigns) {
                break;
            }
            let (_, readers) = self.open.pop_front().expect("just seen");
            confirmed.extend(readers);
        }
        confirmed
    }

    fn is_confirmed(&self, round: u64, reigns: &[Reign]) -> bool {
        let echoed = |node: &&NodeId| self.echoes.get(node).is_some_and(|echoed| *echoed >= round);
        reigns.iter().all(|reign| {
            let voters = reign.configuration.voters();
            voters.iter().filter(echoed).count() >= reign.configuration.accept_quorum()
        })
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
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Questions {
    nonce: u64,
    arrived: Vec<Reader>,
    open: Option<Question>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
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

    /// The open question may be lost if it was put to `node`: its readers join the next.
    pub(crate) fn give_up(&mut self, node: NodeId) {
        if let Some(question) = self.open.take_if(|question| question.leader == node) {
            self.arrived.splice(0..0, question.readers);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Configuration;
    use alloc::{collections::BTreeSet, sync::Arc, vec};

    const NOW: Time = Time(1_000);

    fn here(token: u64) -> Reader {
        Reader::Here(ReadToken(token))
    }

    fn token_of(reader: &Reader) -> u64 {
        match reader {
            Reader::Here(ReadToken(token)) => *token,
            Reader::There(..) => panic!("nobody else asked"),
        }
    }

    /// A node echoes; gives the readers that are confirmed thereby.
    fn echo(rounds: &mut Rounds, node: NodeId, round: u64, reigns: &[Reign]) -> Vec<Reader> {
        if rounds.receive_echo(node, round) { rounds.take_confirmed(reigns) } else { Vec::new() }
    }

    /// A cluster whose voters are the first so many nodes.
    fn voters(count: u32) -> Vec<Reign> {
        let configuration = Configuration::majority((1..=count).map(NodeId).collect(), 16);
        let configuration = Arc::new(configuration.expect("valid"));
        vec![Reign { from: Slot(1), configuration }]
    }

    /// While a new configuration is chosen and does not govern yet, a quorum of each echoes.
    #[test]
    fn a_round_asks_the_voters_of_the_next_configuration_too() {
        let both = |node: u32| {
            let mut rounds = Rounds::default();
            rounds.push(here(1));
            rounds.begin(NOW);
            let five = [voters(3), voters(5)].concat();
            let mut confirmed = echo(&mut rounds, NodeId(1), 1, &five);
            confirmed.extend(echo(&mut rounds, NodeId(node), 1, &five));
            confirmed.extend(echo(&mut rounds, NodeId(4), 1, &five));
            confirmed.len()
        };
        assert_eq!([2, 3, 5].map(both), [1, 1, 0], "n4 and n5 make three, but not two of three");
    }

    /// A reader of the naive model: its round, once it has one, and whether a quorum has
    /// confirmed that.
    #[derive(Clone, Copy)]
    struct Waiting {
        token: u64,
        round: Option<u64>,
    }

    /// Every sequence of six events: a read arrives, a round begins, or one of three members
    /// echoes one of the first three rounds, old rounds and such as never began included. A read is
    /// confirmed once two distinct members have echoed its round or a later one, and its round
    /// began after it arrived.
    #[test]
    fn a_round_is_confirmed_when_a_quorum_of_distinct_members_has_echoed_it() {
        const EVENTS: usize = 2 + 9;
        let echoed = (0..3).flat_map(|member| (1..=3).map(move |round| (member, round)));
        let echoed: Vec<(usize, u64)> = echoed.collect();
        let three = voters(3);
        for sequence in 0..EVENTS.pow(6) {
            let mut rounds = Rounds::default();
            let (mut waiting, mut newest, mut tokens) = (Vec::<Waiting>::new(), 0, 0);
            let mut echoes: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); 3];
            for step in 0..6 {
                match sequence / EVENTS.pow(step) % EVENTS {
                    0 => {
                        tokens += 1;
                        rounds.push(here(tokens));
                        waiting.push(Waiting { token: tokens, round: None });
                    }
                    1 => {
                        let wanted = waiting.iter().any(|reader| reader.round.is_none());
                        newest += u64::from(wanted);
                        assert_eq!(rounds.begin(NOW), wanted);
                        for reader in waiting.iter_mut().filter(|reader| reader.round.is_none()) {
                            reader.round = Some(newest);
                        }
                    }
                    event => {
                        let (member, round) = echoed[event - 2];
                        if round <= newest {
                            echoes[member].insert(round);
                        }
                        let member = [1, 2, 3].map(NodeId)[member];
                        let confirmed = echo(&mut rounds, member, round, &three);
                        let is_confirmed = |reader: &Waiting| {
                            let echoed = |set: &&BTreeSet<u64>| {
                                set.iter().any(|echo| reader.round.is_some_and(|own| *echo >= own))
                            };
                            echoes.iter().filter(echoed).count() >= 2
                        };
                        let expected =
                            waiting.iter().filter(|r| is_confirmed(r)).map(|r| here(r.token));
                        let expected: Vec<Reader> = expected.collect();
                        waiting.retain(|reader| !is_confirmed(reader));
                        assert_eq!(confirmed, expected, "sequence {sequence}");
                    }
                }
                assert_eq!((rounds.newest(), rounds.waiting()), (newest, waiting.len()));
            }
            let mut drained = rounds.drain();
            drained.sort_by_key(token_of);
            assert_eq!(drained, waiting.iter().map(|r| here(r.token)).collect::<Vec<_>>());
            assert_eq!(rounds.waiting(), 0);
        }
    }

    #[test]
    fn reads_gather_while_many_rounds_are_in_flight() {
        let mut rounds = Rounds::default();
        for token in 1..=6 {
            rounds.push(here(token));
            assert_eq!(rounds.begin(NOW), token <= Rounds::OPEN_MAX as u64);
        }
        assert_eq!((rounds.newest(), rounds.waiting()), (4, 6));
        assert_eq!(echo(&mut rounds, NodeId(1), 4, &voters(1)).len(), 4);
        assert!(rounds.begin(NOW));
        assert_eq!(echo(&mut rounds, NodeId(1), 5, &voters(1)), [here(5), here(6)]);
    }

    #[test]
    fn a_round_is_sent_when_it_is_new_and_again_when_nobody_confirms_it() {
        let mut rounds = Rounds::default();
        assert!(!rounds.is_due(NOW, 20));
        rounds.push(here(1));
        rounds.begin(NOW);
        assert!(!rounds.is_due(NOW, 20), "an Accept may carry it");
        rounds.mark_unsent();
        assert!(rounds.is_due(NOW, 20));
        rounds.sent(NOW);
        assert!(!rounds.is_due(NOW.plus_us(19), 20));
        assert!(rounds.is_due(NOW.plus_us(20), 20));
        echo(&mut rounds, NodeId(1), 1, &voters(1));
        assert!(!rounds.is_due(NOW.plus_us(20), 20), "nobody waits for it any more");
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Asked {
        NotYet,
        In(u64, NodeId),
        Settled,
    }

    /// Every sequence of six events at a follower: a read arrives, a question goes to one of
    /// two leaders, one of the first three questions is answered, or what is stale is given
    /// up while one or nobody leads. Each read ends once; an answer ends exactly those that
    /// had arrived when its question was asked, and an answer to an earlier question none.
    #[test]
    fn an_answer_is_for_the_reads_that_had_arrived_before_its_question() {
        const EVENTS: u64 = 9;
        let leaders = [NodeId(1), NodeId(2)];
        let life = 5 << 32;
        for sequence in 0..EVENTS.pow(6) {
            let mut questions = Questions::new(5);
            let (mut reads, mut asked) = (Vec::<Asked>::new(), 0);
            for step in 0..6 {
                let event = sequence / EVENTS.pow(step) % EVENTS;
                let is_open =
                    |reads: &[Asked]| reads.iter().any(|read| matches!(read, Asked::In(..)));
                let mut ended = Vec::new();
                match event {
                    0 => {
                        questions.push(here(reads.len() as u64));
                        reads.push(Asked::NotYet);
                    }
                    1 | 2 => {
                        let leader = leaders[event as usize - 1];
                        let due = !is_open(&reads) && reads.contains(&Asked::NotYet);
                        asked += u64::from(due);
                        let nonce = due.then_some(life + asked);
                        assert_eq!(questions.ask(NOW, leader), nonce);
                        for read in reads.iter_mut().filter(|r| due && **r == Asked::NotYet) {
                            *read = Asked::In(asked, leader);
                        }
                    }
                    3..=5 => {
                        ended = questions.receive_answer(life + event - 2);
                        expect(
                            &ended,
                            &mut reads,
                            |read| matches!(read, Asked::In(question, _) if question == event - 2),
                        );
                    }
                    _ => {
                        let leader = leaders.get(event as usize - 6).copied();
                        ended = questions.expire(NOW, leader, 1);
                        expect(&ended, &mut reads, |read| match read {
                            Asked::In(_, of) => Some(of) != leader,
                            Asked::NotYet => leader.is_none(),
                            Asked::Settled => false,
                        });
                    }
                }
                let left = reads.iter().filter(|read| **read != Asked::Settled).count();
                assert_eq!(questions.waiting(), left, "sequence {sequence}: {}", ended.len());
                assert_eq!(questions.asked_at().is_some(), is_open(&reads));
            }
        }
    }

    /// Exactly the reads that fit have ended.
    fn expect(ended: &[Reader], reads: &mut [Asked], fits: impl Fn(Asked) -> bool) {
        let mut expected = BTreeSet::new();
        for (token, read) in (0..).zip(reads) {
            if fits(*read) {
                expected.insert(token);
                *read = Asked::Settled;
            }
        }
        assert_eq!(ended.iter().map(token_of).collect::<BTreeSet<_>>(), expected);
        assert_eq!(ended.len(), expected.len());
    }

    #[test]
    fn a_question_that_nobody_answers_is_given_up() {
        let mut questions = Questions::new(1);
        questions.push(here(1));
        questions.ask(NOW, NodeId(1));
        questions.push(here(2));
        assert_eq!(questions.expire(NOW.plus_us(9), Some(NodeId(1)), 10), []);
        assert_eq!(questions.expire(NOW.plus_us(10), Some(NodeId(1)), 10), [here(1)]);
        assert_eq!(questions.ask(NOW.plus_us(10), NodeId(1)), Some((1 << 32) + 2));
    }

    #[test]
    fn each_reader_is_told_where_it_asked() {
        let readers = vec![here(1), Reader::There(NodeId(3), 8)];
        let (mut outcomes, mut answers) = (Vec::new(), Vec::new());
        let answer = |node, nonce, index| answers.push((node, nonce, index));
        settle(readers, Some(Slot(4)), &mut outcomes, answer);
        assert_eq!(outcomes, [ReadOutcome { token: ReadToken(1), index: Some(Slot(4)) }]);
        assert_eq!(answers, [(NodeId(3), 8, Some(Slot(4)))]);
    }
}
