//! Single-decree Paxos against the sentences of "Paxos Made Simple": every handler on every
//! small input, every reachable state of a small cluster, duelling proposers, and thousands of
//! random histories with lost, repeated and reordered messages and crashes. States and
//! histories are walked through again with classic bugs put in, to show that they are found.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::panic::{self, AssertUnwindSafe};

use bytes::Bytes;
use synod_paxos::single_decree::{
    Acceptor, Effects, Envelope, Learner, Message, Proposal, Proposer, Record, Register,
};
use synod_paxos::{Ballot, Configuration, NodeId};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

fn ballot(round: u64, node: u32) -> Ballot {
    let node = NodeId(node);
    Ballot { round, node }
}

/// Every ballot of the exhaustive tests, from low to high.
fn ballots() -> Vec<Ballot> {
    let rounds = 1..=3;
    rounds.flat_map(|round| [ballot(round, 1), ballot(round, 2)]).collect()
}

/// The only proposal that these tests issue in `ballot`.
fn proposal(ballot: Ballot) -> Proposal {
    let value = Bytes::from(format!("value of {ballot}"));
    Proposal { ballot, value }
}

/// Every record that an acceptor can hold when only those ballots exist.
fn records() -> Vec<Record> {
    let mut records = Vec::new();
    for promised in std::iter::once(Ballot::ZERO).chain(ballots()) {
        let below = ballots().into_iter().filter(|ballot| *ballot <= promised);
        for accepted in std::iter::once(None).chain(below.map(proposal).map(Some)) {
            records.push(Record { promised, accepted });
        }
    }
    records
}

fn three_registers() -> Vec<Register> {
    let configuration = Configuration::majority(NODES.to_vec(), 1).unwrap();
    let new = |node| Register::recover(node, configuration.clone(), None);
    NODES.map(new).into()
}

// --- Each handler, on every small input ---------------------------------------------------

/// Runs `step` on every acceptor and every ballot, beside the record and the answer that the
/// paper asks for, in the case that the ballot is not below the promise.
fn check_acceptor(
    step: impl Fn(&mut Acceptor, Ballot) -> Effects,
    asked: impl Fn(Record, Ballot) -> (Record, Vec<Envelope>),
) {
    assert_eq!(records().len(), 1 + 2 + 3 + 4 + 5 + 6 + 7);
    for before in records() {
        for ballot in ballots() {
            let mut acceptor = Acceptor::recover(Some(before.clone()));
            let effects = step(&mut acceptor, ballot);
            if ballot < before.promised {
                let promised = before.promised;
                let message = Message::Reject { ballot, promised };
                let to = ballot.node;
                assert_eq!(effects.send_now, [Envelope { to, message }]);
                assert!(effects.unsaved.is_none(), "a refusal changed {before:?}");
                assert_eq!(*acceptor.record(), before);
            } else {
                assert_eq!(effects.send_now, [], "said before it was saved");
                let told = effects.unsaved.expect("an answer").into_parts();
                assert_eq!(told, asked(before.clone(), ballot), "{before:?}, {ballot}");
                assert_eq!(*acceptor.record(), told.0);
            }
        }
    }
}

#[test]
fn it_responds_with_a_promise_and_with_the_highest_numbered_proposal_that_it_has_accepted() {
    let step = |acceptor: &mut Acceptor, ballot| acceptor.receive_prepare(ballot);
    check_acceptor(step, |before, ballot| {
        let accepted = before.accepted.clone();
        let (to, promised) = (ballot.node, ballot);
        let message = Message::Promise { ballot, accepted };
        let after = Record { promised, ..before };
        (after, vec![Envelope { to, message }])
    });
}

#[test]
fn an_acceptor_accepts_the_proposal_unless_it_has_promised_a_greater_number() {
    let step = |acceptor: &mut Acceptor, ballot| acceptor.receive_accept(proposal(ballot), &NODES);
    check_acceptor(step, |_, ballot| {
        let message = Message::Accepted(proposal(ballot));
        let accepted = Some(proposal(ballot));
        let promised = ballot;
        let tell = |to| Envelope { to, message: message.clone() };
        (Record { promised, accepted }, NODES.map(tell).into())
    });
}

#[test]
fn an_acceptor_must_accept_the_first_proposal_that_it_receives() {
    for ballot in ballots() {
        let mut acceptor = Acceptor::recover(None);
        let effects = acceptor.receive_accept(proposal(ballot), &NODES);
        assert!(effects.unsaved.is_some());
        assert_eq!(acceptor.record().accepted, Some(proposal(ballot)));
    }
}

#[test]
fn v_is_the_value_of_the_highest_numbered_proposal_among_the_responses_or_is_any_value() {
    let own = ballot(9, 1);
    let reports: Vec<Option<Proposal>> =
        std::iter::once(None).chain(ballots().into_iter().map(proposal).map(Some)).collect();
    for (first, second, third) in triples(&reports) {
        for quorum in 1..=3 {
            let mut proposer = Proposer::Idle;
            assert_eq!(proposer.prepare(proposal(own)), Message::Prepare(own));
            let mut heard: Vec<&Proposal> = Vec::new();
            for (count, report) in [first, second, third].into_iter().enumerate() {
                heard.extend(report);
                let accept = proposer.receive_promise(NODES[count], own, report.clone(), quorum);
                if count + 1 != quorum {
                    assert_eq!(accept, None, "only the promise that makes the quorum counts");
                    continue;
                }
                heard.sort();
                let value = match heard.last() {
                    Some(highest) => highest.value.clone(),
                    None => proposal(own).value,
                };
                let ballot = own;
                assert_eq!(accept, Some(Message::Accept(Proposal { ballot, value })));
            }
        }
    }
}

fn triples<T>(of: &[T]) -> impl Iterator<Item = (&T, &T, &T)> {
    of.iter().flat_map(move |a| of.iter().flat_map(move |b| of.iter().map(move |c| (a, b, c))))
}

#[test]
fn a_response_counts_for_its_own_prepare_request_and_once() {
    let own = ballot(2, 1);
    for other in ballots().into_iter().filter(|other| *other != own) {
        let mut proposer = Proposer::Idle;
        let _ = proposer.prepare(proposal(own));
        assert_eq!(proposer.receive_promise(NodeId(1), own, None, 2), None);
        assert_eq!(proposer.receive_promise(NodeId(1), own, None, 2), None, "a repeated vote");
        assert_eq!(proposer.receive_promise(NodeId(2), other, None, 2), None, "for {other}");
        let accept = proposer.receive_promise(NodeId(3), own, None, 2);
        assert_eq!(accept, Some(Message::Accept(proposal(own))));
    }
}

#[test]
fn the_proposer_should_then_abandon_its_proposal() {
    let own = ballot(2, 1);
    let mut preparing = Proposer::Idle;
    let _ = preparing.prepare(proposal(own));
    let proposing = Proposer::Proposing(proposal(own));
    for before in [Proposer::Idle, preparing, proposing] {
        for rejected in ballots() {
            let mut proposer = before.clone();
            proposer.receive_reject(rejected);
            let expected = if rejected == own { Proposer::Idle } else { before.clone() };
            assert_eq!(proposer, expected);
        }
    }
}

#[test]
fn a_learner_must_find_out_that_a_proposal_has_been_accepted_by_a_majority_of_acceptors() {
    // All sequences of five acceptances by three acceptors of one value in two ballots.
    let value = Bytes::from("v");
    for sequence in 0..6_usize.pow(5) {
        let mut learner = Learner::default();
        let mut votes = [BTreeSet::new(), BTreeSet::new()];
        for place in 0..5 {
            let vote = sequence / 6_usize.pow(place) % 6;
            let (which, node) = (vote / 3, NODES[vote % 3]);
            let proposal = Proposal { ballot: ballots()[which], value: value.clone() };
            learner.receive_accepted(node, proposal, 2);
            votes[which].insert(node);
            let majority = votes.iter().any(|voters| voters.len() >= 2);
            let in_newest_ballot = votes[1].len() >= 2 || votes[1].is_empty() && majority;
            assert!(majority || learner.chosen().is_none(), "learnt what is not chosen");
            assert!(learner.chosen().is_some() || !in_newest_ballot, "has not learnt");
        }
    }
}

#[test]
#[should_panic(expected = "two values are chosen")]
fn a_learner_that_sees_a_second_value_chosen_stops() {
    let mut learner = Learner::default();
    for (node, round) in [(1, 1), (2, 1), (1, 2), (2, 2)] {
        learner.receive_accepted(NodeId(node), proposal(ballot(round, 1)), 2);
    }
}

#[test]
fn an_acceptor_remembers_even_if_it_fails_and_then_restarts() {
    for record in records() {
        let configuration = Configuration::majority(NODES.to_vec(), 1).unwrap();
        let mut register = Register::recover(NodeId(1), configuration, Some(record.clone()));
        assert_eq!(*register.record(), record);
        // What it had promised keeps it from using a ballot again.
        let (saved, envelopes) = register.write_once("v".into()).unsaved.unwrap().into_parts();
        assert!(saved.promised > record.promised && saved.promised.node == NodeId(1));
        assert_eq!(saved.accepted, record.accepted);
        let prepare = Message::Prepare(saved.promised);
        assert!(envelopes.iter().all(|envelope| envelope.message == prepare));
        assert_eq!(envelopes.len(), 3);
    }
}

#[test]
fn a_rejected_proposer_tries_again_with_a_number_above_the_one_that_it_was_told() {
    let mut register = three_registers().remove(0);
    let first = saved(register.write_once("v".into()));
    assert_eq!(first[0].message, Message::Prepare(ballot(1, 1)));
    for (promised, next) in [(ballot(7, 2), ballot(8, 1)), (ballot(3, 3), ballot(9, 1))] {
        let ballot = register.record().promised;
        let reject = Message::Reject { ballot, promised };
        assert!(saved(register.receive(NodeId(2), reject)).is_empty());
        assert_eq!(*register.proposer(), Proposer::Idle, "it waits until it is told to");
        assert_eq!(saved(register.retry())[0].message, Message::Prepare(next));
    }
}

#[test]
fn a_message_that_no_correct_node_sends_has_no_effect() {
    let far = Ballot::ROUND_JUMP_MAX + 2;
    let accepted = None;
    let cases = [
        (NodeId(4), Message::Prepare(ballot(1, 4))),
        (NodeId(4), Message::Promise { ballot: ballot(1, 1), accepted }),
        (NodeId(4), Message::Accepted(proposal(ballot(1, 1)))),
        (NodeId(2), Message::Prepare(ballot(1, 3))),
        (NodeId(2), Message::Accept(proposal(ballot(1, 3)))),
        (NodeId(2), Message::Prepare(ballot(far, 2))),
        (NodeId(2), Message::Accept(proposal(ballot(far, 2)))),
        (NodeId(2), Message::Accepted(proposal(ballot(far, 2)))),
        (NodeId(2), Message::Reject { ballot: ballot(1, 1), promised: ballot(far, 2) }),
    ];
    for (from, message) in cases {
        let mut register = three_registers().remove(0);
        let _ = register.write_once("v".into());
        let before = format!("{register:?}");
        let effects = register.receive(from, message.clone());
        assert!(effects.send_now.is_empty() && effects.unsaved.is_none(), "{message:?}");
        assert_eq!(format!("{register:?}"), before, "{message:?}");
    }
}

// --- Every reachable state of a small cluster -----------------------------------------------

/// A classic bug, put in from outside: by changing a message before it is received, or a
/// record before it is saved, in the way in which the bug would.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bug {
    /// Pitfalls 1 and 2: promises and acceptances leave before they are durable.
    AnswersBeforeItSaves,
    /// Pitfall 4: a restarted proposer uses its last ballot again.
    ReusesBallot,
    /// Pitfall 5: to accept does not raise the promise.
    AcceptsWithoutPromise,
    /// Pitfall 6: a late promise of another ballot counts for the present one.
    CountsOldPromise,
    /// Pitfall 7: a repeated answer counts as another node's.
    CountsVoterTwice,
    /// Pitfall 8: the first reported proposal is taken, not the highest.
    TakesFirstReport,
    /// Pitfall 8: reported proposals are not looked at.
    TakesOwnValue,
}

/// Three acceptors, each with all that it ever said, and the proposals issued. Every message
/// can be delivered at any time and any number of times, which covers loss, repetition and
/// reordering. Acceptors save before they answer, so a crash does not change them; proposers
/// live for one step. Acceptors are sorted, since exchanging two of them changes nothing.
#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    acceptors: Vec<(Acceptor, BTreeSet<Message>)>,
    issued: BTreeSet<Proposal>,
}

impl World {
    fn successors(&self, attempts: &[Ballot], bug: Option<Bug>) -> Vec<World> {
        let mut successors = Vec::new();
        for own in attempts {
            successors.extend(self.issue(*own, bug));
        }
        let prepares = attempts.iter().copied().map(Message::Prepare);
        let accepts = self.issued.iter().cloned().map(Message::Accept);
        for message in prepares.chain(accepts) {
            for index in 0..self.acceptors.len() {
                successors.extend(self.deliver(index, &message, bug));
            }
        }
        successors
    }

    fn has_issued(&self, own: Ballot) -> bool {
        self.issued.iter().any(|proposal| proposal.ballot == own)
    }

    /// The acceptor gets a message. A repeated Prepare that nobody waits for is left out.
    fn deliver(&self, index: usize, message: &Message, bug: Option<Bug>) -> Option<World> {
        let mut world = self.clone();
        let (acceptor, said) = &mut world.acceptors[index];
        let promised = acceptor.record().promised;
        let effects = match message {
            Message::Prepare(own) if promised >= *own && self.has_issued(*own) => return None,
            Message::Prepare(own) => acceptor.receive_prepare(*own),
            Message::Accept(it) => acceptor.receive_accept(it.clone(), &[NodeId(1)]),
            _ => unreachable!("only acceptors are modelled"),
        };
        if bug == Some(Bug::AcceptsWithoutPromise) && matches!(message, Message::Accept(_)) {
            let accepted = acceptor.record().accepted.clone();
            *acceptor = Acceptor::recover(Some(Record { promised, accepted }));
        }
        let (_, envelopes) = effects.unsaved?.into_parts();
        said.extend(envelopes.into_iter().map(|envelope| envelope.message));
        world.acceptors.sort();
        Some(world)
    }

    /// One world for each two answers from which the attempt can go on, if it has not yet.
    fn issue(&self, own: Ballot, bug: Option<Bug>) -> Vec<World> {
        let is_second_life = self.has_issued(own);
        if is_second_life && bug != Some(Bug::ReusesBallot) {
            return Vec::new();
        }
        let mut wish = proposal(own);
        if is_second_life {
            wish.value = "value of another life".into();
        }
        let answers: Vec<(usize, &Message)> = (self.acceptors.iter().enumerate())
            .flat_map(|(index, (_, said))| said.iter().map(move |message| (index, message)))
            .collect();
        let mut worlds = Vec::new();
        for first in &answers {
            for second in &answers {
                if let Some(proposal) = propose(&wish, [*first, *second], bug) {
                    let mut world = self.clone();
                    world.issued.insert(proposal);
                    worlds.push(world);
                }
            }
        }
        worlds
    }

    fn chosen(&self) -> BTreeSet<&Bytes> {
        let mut values = BTreeSet::new();
        for proposal in &self.issued {
            let accepted = Message::Accepted(proposal.clone());
            let voters = self.acceptors.iter().filter(|it| it.1.contains(&accepted));
            if voters.count() >= 2 {
                values.insert(&proposal.value);
            }
        }
        values
    }
}

/// What a proposer issues after two answers, if it does.
fn propose(wish: &Proposal, answers: [(usize, &Message); 2], bug: Option<Bug>) -> Option<Proposal> {
    let mut proposer = Proposer::Idle;
    let _ = proposer.prepare(wish.clone());
    let mut has_report = false;
    for (place, (index, message)) in answers.into_iter().enumerate() {
        let Message::Promise { ballot, accepted } = message else {
            return None;
        };
        let (mut from, mut ballot, mut accepted) = (NODES[index], *ballot, accepted.clone());
        match bug {
            Some(Bug::CountsVoterTwice) => from = NODES[place],
            Some(Bug::CountsOldPromise) => ballot = wish.ballot,
            Some(Bug::TakesFirstReport) if has_report => accepted = None,
            Some(Bug::TakesOwnValue) => accepted = None,
            _ => {}
        }
        has_report |= accepted.is_some();
        let accept = proposer.receive_promise(from, ballot, accepted, 2);
        if let Some(Message::Accept(proposal)) = accept {
            return Some(proposal);
        }
    }
    None
}

/// Walks through every state that three attempts can reach, and tells which values are chosen
/// somewhere; or all that are chosen in one state, as soon as there are two.
fn explore(bug: Option<Bug>) -> Result<BTreeSet<Bytes>, BTreeSet<Bytes>> {
    let attempts = [ballot(1, 1), ballot(1, 2), ballot(2, 1)];
    let acceptors = vec![(Acceptor::recover(None), BTreeSet::new()); 3];
    let issued = BTreeSet::new();
    let mut open = vec![World { acceptors, issued }];
    let mut seen: HashSet<World> = open.iter().cloned().collect();
    let mut values = BTreeSet::new();
    while let Some(world) = open.pop() {
        let chosen: BTreeSet<Bytes> = world.chosen().into_iter().cloned().collect();
        if chosen.len() > 1 {
            return Err(chosen);
        }
        values.extend(chosen);
        for next in world.successors(&attempts, bug) {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    println!("{} states", seen.len());
    Ok(values)
}

#[test]
fn every_higher_numbered_proposal_that_is_chosen_has_value_v_in_every_reachable_state() {
    let values = explore(None).expect("only a single value is chosen");
    assert_eq!(values.len(), 3, "each value is chosen in some state");
}

#[test]
fn some_reachable_state_shows_each_classic_bug() {
    let bugs = [
        Bug::ReusesBallot,
        Bug::AcceptsWithoutPromise,
        Bug::CountsOldPromise,
        Bug::CountsVoterTwice,
        Bug::TakesFirstReport,
        Bug::TakesOwnValue,
    ];
    for bug in bugs {
        let chosen = explore(Some(bug)).expect_err("the bug shows");
        println!("{bug:?}: {chosen:?}");
    }
}

// --- Progress and learning ------------------------------------------------------------------

/// From whom, and what.
type Delivery = (NodeId, Message);

/// Two proposers on a network without faults: a message takes one unit of time, an Accept
/// three, since it carries the value. Who is rejected tries again: at once, or after a random
/// time that grows. Tells how many attempts there were until one was chosen, up to
/// `attempts_max`.
fn duel(mut back_off: Option<fastrand::Rng>, attempts_max: u64) -> Option<u64> {
    let mut registers = three_registers();
    let mut attempts = [0, 0];
    let mut is_waiting = [true, true];
    // Who does what and when, in the order of entry at one time. No message: an attempt.
    let mut agenda: BTreeMap<(u64, usize), (usize, Option<Delivery>)> = BTreeMap::new();
    agenda.insert((0, 0), (0, None));
    agenda.insert((3, 1), (1, None));
    for entry in 2.. {
        let ((now, _), (index, happening)) = agenda.pop_first()?;
        let register = &mut registers[index];
        let effects = match happening {
            Some((from, message)) => register.receive(from, message),
            None => {
                is_waiting[index] = false;
                attempts[index] += 1;
                match attempts[index] {
                    1 => register.write_once(Bytes::from(format!("value of {index}"))),
                    _ => register.retry(),
                }
            }
        };
        let total = attempts.iter().sum();
        if register.chosen().is_some() || total == attempts_max {
            return register.chosen().map(|_| total);
        }
        let envelopes = saved(effects).into_iter().enumerate();
        for (place, Envelope { to, message }) in envelopes {
            let takes = if matches!(message, Message::Accept(_)) { 3 } else { 1 };
            let to = NODES.iter().position(|node| *node == to).unwrap();
            let delivery = (to, Some((NODES[index], message)));
            agenda.insert((now + takes, entry * 10 + place), delivery);
        }
        if index < 2 && !is_waiting[index] && *registers[index].proposer() == Proposer::Idle {
            is_waiting[index] = true;
            let longest = 4_u64 << attempts[index].min(8);
            let pause = back_off.as_mut().map_or(0, |rng| rng.u64(0..longest));
            agenda.insert((now + pause, entry * 10 + 9), (index, None));
        }
    }
    unreachable!("the agenda ends or somebody wins")
}

/// All messages of a step, for a node whose disk is as fast as it never fails.
fn saved(effects: Effects) -> Vec<Envelope> {
    let mut envelopes = effects.send_now;
    envelopes.extend(effects.unsaved.into_iter().flat_map(|unsaved| unsaved.into_parts().1));
    envelopes
}

#[test]
fn two_proposers_each_keep_issuing_proposals_none_of_which_are_ever_chosen() {
    assert_eq!(duel(None, 10_000), None);
}

#[test]
fn a_random_pause_that_grows_ends_every_duel() {
    let attempts = (0..1_000).map(|seed| {
        let rng = fastrand::Rng::with_seed(seed);
        duel(Some(rng), 40).unwrap_or_else(|| panic!("seed {seed}: the duel goes on"))
    });
    let attempts: Vec<u64> = attempts.collect();
    let mean = attempts.iter().sum::<u64>() as f64 / 1_000.0;
    println!("mean {mean} attempts, at most {:?}", attempts.iter().max());
    assert!(attempts.iter().any(|attempts| *attempts > 2), "no duel at all");
}

#[test]
fn a_learner_can_have_a_proposer_issue_a_proposal() {
    let mut registers = three_registers();
    let run = |registers: &mut Vec<Register>, effects, from, lost: fn(&Message) -> bool| {
        let mut steps = VecDeque::from([(from, saved(effects))]);
        while let Some((from, envelopes)) = steps.pop_front() {
            for Envelope { to, message } in envelopes.into_iter().filter(|it| !lost(&it.message)) {
                let index = NODES.iter().position(|node| *node == to).unwrap();
                steps.push_back((to, saved(registers[index].receive(from, message))));
            }
        }
    };
    let first = registers[0].write_once("first".into());
    run(&mut registers, first, NodeId(1), |message| matches!(message, Message::Accepted(_)));
    assert!(registers.iter().all(|register| register.record().accepted.is_some()));
    assert!(registers.iter().all(|register| register.chosen().is_none()), "nobody can know");

    let second = registers[1].write_once("second".into());
    run(&mut registers, second, NodeId(2), |_| false);
    let first = Bytes::from("first");
    assert!(registers.iter().all(|register| register.chosen() == Some(&first)));
    let third = registers[2].write_once("third".into());
    assert!(saved(third).is_empty(), "the outcome is known");
}

// --- Random histories -----------------------------------------------------------------------

/// The safety requirements of section 2.1, which a history may violate.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Violation {
    /// "Only a value that has been proposed may be chosen".
    NotProposed(Bytes),
    /// "Only a single value is chosen".
    SecondValue(Bytes, Bytes),
    /// "A process never learns that a value has been chosen unless it actually has been".
    NotChosen(NodeId, Bytes),
}

/// Sees every durable acceptance, and every one that a node tells of, at once and without
/// loss. What is chosen is found out here, whether any learner notices it or not.
#[derive(Default)]
struct Oracle {
    written: BTreeSet<Bytes>,
    votes: BTreeMap<Proposal, BTreeSet<NodeId>>,
    chosen: Option<Bytes>,
    violation: Option<Violation>,
}

impl Oracle {
    fn see_acceptance(&mut self, node: NodeId, proposal: &Proposal, quorum: usize) {
        let value = &proposal.value;
        if !self.written.contains(value) {
            let violation = Violation::NotProposed(value.clone());
            self.violation.get_or_insert(violation);
        }
        let voters = self.votes.entry(proposal.clone()).or_default();
        voters.insert(node);
        if voters.len() >= quorum {
            let chosen = self.chosen.get_or_insert_with(|| value.clone());
            if chosen != value {
                let violation = Violation::SecondValue(chosen.clone(), value.clone());
                self.violation.get_or_insert(violation);
            }
        }
    }

    fn see_learner(&mut self, node: NodeId, learnt: &Bytes) {
        if self.chosen.as_ref() != Some(learnt) {
            let violation = Violation::NotChosen(node, learnt.clone());
            self.violation.get_or_insert(violation);
        }
    }
}

#[derive(Clone)]
struct Packet {
    from: NodeId,
    to: NodeId,
    message: Message,
    is_copy: bool,
}

/// One node: its disk, and what a crash takes from it.
struct Node {
    id: NodeId,
    disk: Option<Record>,
    register: Option<Register>,
    /// Handed to the disk, not saved yet, oldest first.
    unsaved: VecDeque<(Record, Vec<Envelope>)>,
    /// The newest ballot for which something was reported, and who was first.
    first_report: (Ballot, NodeId),
}

#[derive(Default, Debug)]
struct Counts {
    crashes: u64,
    lost_records: u64,
    lost_messages: u64,
    repeated: u64,
    rejected: u64,
    chosen_under_faults: u64,
    attempts_after_faults: u64,
}

/// The mix of faults, which every seed draws anew: a fixed mix would never see what only
/// happens in others.
struct Faults {
    repeat_percent: u32,
    /// How many messages can be overtaken by another.
    reach: usize,
    loss_percent: u32,
    /// Where it is high, many values are accepted by few.
    accept_loss_percent: u32,
    /// Where it is high, learners stay in the dark, and attempts go on after the choice.
    accepted_loss_percent: u32,
    crash_permille: u32,
    attempt_permille: u32,
    save_permille: u32,
}

impl Faults {
    const NONE: Faults = Faults {
        repeat_percent: 0,
        reach: 64,
        loss_percent: 0,
        accept_loss_percent: 0,
        accepted_loss_percent: 0,
        crash_permille: 0,
        attempt_permille: 0,
        save_permille: 500,
    };

    fn draw(rng: &mut fastrand::Rng) -> Faults {
        Faults {
            repeat_percent: rng.u32(0..60),
            reach: rng.usize(1..64),
            loss_percent: rng.u32(0..30),
            accept_loss_percent: rng.u32(0..60),
            accepted_loss_percent: rng.u32(0..100),
            crash_permille: rng.u32(2..40),
            attempt_permille: rng.u32(5..60),
            save_permille: rng.u32(100..500),
        }
    }
}

struct Cluster {
    rng: fastrand::Rng,
    configuration: Configuration,
    nodes: Vec<Node>,
    network: Vec<Packet>,
    oracle: Oracle,
    bug: Option<Bug>,
    faults: Faults,
    counts: Counts,
}

impl Cluster {
    fn new(seed: u64, configuration: Configuration, bug: Option<Bug>) -> Self {
        let node = |id: &NodeId| Node {
            id: *id,
            disk: None,
            register: Some(Register::recover(*id, configuration.clone(), None)),
            unsaved: VecDeque::new(),
            first_report: (Ballot::ZERO, *id),
        };
        let mut rng = fastrand::Rng::with_seed(seed);
        Cluster {
            faults: Faults::draw(&mut rng),
            rng,
            nodes: configuration.members().iter().map(node).collect(),
            configuration,
            network: Vec::new(),
            oracle: Oracle::default(),
            bug,
            counts: Counts::default(),
        }
    }

    /// `steps` random events under faults, then none until everybody knows the outcome.
    fn run(mut self, steps: usize) -> Result<Counts, Violation> {
        for _ in 0..steps {
            self.step();
            if let Some(violation) = self.oracle.violation {
                return Err(violation);
            }
        }
        self.counts.chosen_under_faults = u64::from(self.oracle.chosen.is_some());
        self.faults = Faults::NONE;
        for index in 0..self.nodes.len() {
            self.restart(index);
        }
        while self.nodes.iter().any(|node| node.register.as_ref().unwrap().chosen().is_none()) {
            self.attempt_without_faults();
            if let Some(violation) = self.oracle.violation {
                return Err(violation);
            }
        }
        Ok(self.counts)
    }

    fn step(&mut self) {
        let Faults { crash_permille, attempt_permille, save_permille, .. } = self.faults;
        let index = self.rng.usize(0..self.nodes.len());
        let mut dice = self.rng.u32(0..1_000);
        let mut falls_below = |permille: u32| {
            let falls = dice < permille;
            dice = dice.saturating_sub(permille);
            falls
        };
        if falls_below(crash_permille) {
            self.crash(index);
        } else if falls_below(3 * crash_permille) {
            self.restart(index);
        } else if falls_below(attempt_permille) {
            self.attempt(index);
        } else if falls_below(save_permille) {
            self.save(index);
        } else {
            self.deliver();
        }
    }

    /// Whoever does not know the outcome tries, one after another, with a growing number of
    /// events in between.
    fn attempt_without_faults(&mut self) {
        self.counts.attempts_after_faults += 1;
        assert!(self.counts.attempts_after_faults <= 100, "no progress without faults");
        let ignorant = |node: &Node| node.register.as_ref().unwrap().chosen().is_none();
        let ignorant: Vec<usize> =
            (0..self.nodes.len()).filter(|index| ignorant(&self.nodes[*index])).collect();
        let index = ignorant[self.rng.usize(0..ignorant.len())];
        self.attempt(index);
        let longest = 16 << self.counts.attempts_after_faults.min(12);
        for _ in 0..self.rng.u32(0..longest) {
            if self.oracle.violation.is_some() {
                return;
            }
            self.step();
        }
    }

    fn attempt(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(register) = &mut node.register else {
            return;
        };
        let lives = self.counts.crashes;
        let value = Bytes::from(format!("value {lives} of {}", node.id));
        self.oracle.written.insert(value.clone());
        let effects = match register.retry() {
            Effects { unsaved: None, .. } => register.write_once(value),
            retry => retry,
        };
        self.take(index, effects);
    }

    /// Delivers a random message, or loses it, and perhaps it comes again.
    fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let reach = self.network.len().min(self.faults.reach);
        let place = self.rng.usize(0..reach);
        let mut packet = self.network.remove(place);
        if self.rng.u32(0..100) < self.faults.repeat_percent && self.network.len() < 100 {
            self.counts.repeated += 1;
            let is_copy = true;
            self.network.push(Packet { is_copy, ..packet.clone() });
        }
        let loss_percent = match packet.message {
            Message::Accept(_) => self.faults.accept_loss_percent,
            Message::Accepted(_) => self.faults.accepted_loss_percent,
            _ => self.faults.loss_percent,
        };
        let index = self.configuration.index_of(packet.to).unwrap();
        let is_lost = self.rng.u32(0..100) < loss_percent;
        if is_lost || self.nodes[index].register.is_none() {
            self.counts.lost_messages += 1;
            return;
        }
        self.corrupt_message(index, &mut packet);
        let Packet { from, message, .. } = packet;
        self.counts.rejected += u64::from(matches!(message, Message::Reject { .. }));
        let register = self.nodes[index].register.as_mut().unwrap();
        let effects = register.receive(from, message);
        self.take(index, effects);
    }

    /// Carries out what a step asks for, and watches.
    fn take(&mut self, index: usize, effects: Effects) {
        let node = &mut self.nodes[index];
        if let Some(learnt) = node.register.as_ref().unwrap().chosen() {
            self.oracle.see_learner(node.id, learnt);
        }
        let mut send_now = effects.send_now;
        if let Some(unsaved) = effects.unsaved {
            let (record, mut envelopes) = unsaved.into_parts();
            if self.bug == Some(Bug::AnswersBeforeItSaves) {
                send_now.append(&mut envelopes);
            }
            node.unsaved.push_back((record, envelopes));
        }
        self.send(index, send_now);
    }

    fn send(&mut self, index: usize, envelopes: Vec<Envelope>) {
        let from = self.nodes[index].id;
        let is_copy = false;
        for Envelope { to, message } in envelopes {
            if let Message::Accepted(proposal) = &message {
                let quorum = self.configuration.accept_quorum();
                self.oracle.see_acceptance(from, proposal, quorum);
            }
            self.network.push(Packet { from, to, message, is_copy });
        }
    }

    /// The disk of a node has saved its oldest record; its messages leave, unless the node
    /// crashes at just this moment.
    fn save(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some((record, envelopes)) = node.unsaved.pop_front() else {
            return;
        };
        if let Some(proposal) = &record.accepted {
            let quorum = self.configuration.accept_quorum();
            self.oracle.see_acceptance(node.id, proposal, quorum);
        }
        let accepted = node.disk.as_ref().and_then(|disk| disk.accepted.as_ref());
        let has_own_promise_only =
            record.promised.node == node.id && record.accepted.as_ref() == accepted;
        if self.bug != Some(Bug::ReusesBallot) || !has_own_promise_only {
            node.disk = Some(record);
        }
        if self.rng.u32(0..1_000) < self.faults.crash_permille {
            self.crash(index);
        } else {
            self.send(index, envelopes);
        }
    }

    fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.register.take().is_some() {
            self.counts.crashes += 1;
            self.counts.lost_records += node.unsaved.len() as u64;
            node.unsaved.clear();
        }
    }

    fn restart(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.register.is_none() {
            let configuration = self.configuration.clone();
            node.register = Some(Register::recover(node.id, configuration, node.disk.clone()));
        }
    }

    /// What the bug, if it is one of receiving, makes of a message.
    fn corrupt_message(&mut self, index: usize, packet: &mut Packet) {
        let node = &mut self.nodes[index];
        let members = self.configuration.members();
        let is_answer = matches!(packet.message, Message::Promise { .. } | Message::Accepted(_));
        if self.bug == Some(Bug::CountsVoterTwice) && packet.is_copy && is_answer {
            packet.from = members[self.rng.usize(0..members.len())];
        }
        let Message::Promise { ballot, accepted } = &mut packet.message else {
            return;
        };
        let attempt = node.register.as_ref().unwrap().proposer();
        match (self.bug, attempt) {
            (Some(Bug::CountsOldPromise), Proposer::Preparing { wish, .. }) => {
                *ballot = wish.ballot;
            }
            (Some(Bug::TakesFirstReport), _) if accepted.is_some() => {
                if node.first_report.0 != *ballot {
                    node.first_report = (*ballot, packet.from);
                }
                if node.first_report.1 != packet.from {
                    *accepted = None;
                }
            }
            (Some(Bug::TakesOwnValue), _) => *accepted = None,
            _ => {}
        }
    }
}

const SEEDS: u64 = 2_000;
const STEPS: usize = 800;

fn cluster_of(nodes: u32, promise_quorum: usize, accept_quorum: usize) -> Configuration {
    let members = (1..=nodes).map(NodeId).collect();
    Configuration::new(members, promise_quorum, accept_quorum, 1).unwrap()
}

/// Every seed keeps the three safety requirements, and makes progress once faults stop.
fn check_every_seed(configuration: &Configuration) {
    let mut sums = Counts::default();
    for seed in 0..SEEDS {
        let cluster = Cluster::new(seed, configuration.clone(), None);
        let counts = (cluster.run(STEPS)).unwrap_or_else(|it| panic!("seed {seed}: {it:?}"));
        sums.crashes += counts.crashes;
        sums.lost_records += counts.lost_records;
        sums.lost_messages += counts.lost_messages;
        sums.repeated += counts.repeated;
        sums.rejected += counts.rejected;
        sums.chosen_under_faults += counts.chosen_under_faults;
        sums.attempts_after_faults += counts.attempts_after_faults;
    }
    println!("{sums:?}");
    // The histories are worth something: faults of each kind, and not all too many.
    for count in [sums.crashes, sums.lost_records, sums.lost_messages, sums.repeated] {
        assert!(count > SEEDS, "{sums:?}");
    }
    assert!(sums.rejected > SEEDS && sums.chosen_under_faults > SEEDS / 4, "{sums:?}");
}

#[test]
fn only_a_single_value_is_chosen_among_three() {
    check_every_seed(&cluster_of(3, 2, 2));
}

#[test]
fn only_a_single_value_is_chosen_among_five() {
    check_every_seed(&cluster_of(5, 3, 3));
}

#[test]
fn quorums_of_the_two_phases_need_only_meet_each_other() {
    check_every_seed(&cluster_of(5, 4, 2));
}

/// Finds a seed, among three or five nodes, in which the bug violates a safety requirement. A
/// learner that panics, because it sees a second value, does not count: the oracle must.
fn find(bug: Bug) -> Option<u64> {
    let clusters = [cluster_of(3, 2, 2), cluster_of(5, 3, 3)];
    let mut runs = (0..SEEDS).flat_map(|seed| clusters.iter().map(move |it| (seed, it.clone())));
    let fails = |(seed, configuration): (u64, Configuration)| {
        let cluster = Cluster::new(seed, configuration, Some(bug));
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| cluster.run(STEPS)));
        outcome.ok()?.err().map(|_| seed)
    };
    runs.find_map(fails)
}

#[test]
fn some_seed_shows_each_classic_bug() {
    let bugs = [
        Bug::AnswersBeforeItSaves,
        Bug::ReusesBallot,
        Bug::CountsOldPromise,
        Bug::CountsVoterTwice,
        Bug::TakesFirstReport,
        Bug::TakesOwnValue,
    ];
    for bug in bugs {
        println!("{bug:?}: seed {:?}", find(bug).expect("the bug shows"));
    }
}
