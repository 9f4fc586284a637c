//! The timekeeper over a real state machine: commands wait in a log of their own, and time is
//! a number.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use synod_kv::{
    Command, KvOptions, MemoryMap, Operation, Outcome, Revision, ServerId, StateMachine, Taken,
    lease,
};

use super::*;
use crate::lease_news::LeaseNews;

const ID: LeaseId = LeaseId(7);
const TTL_MS: u64 = 1_000;

/// Who waits for a command.
enum Asker {
    Nobody,
    Keeper(Proposal),
}

/// A keeper, its state machine, and what is between the two.
struct World {
    start: Instant,
    now_ms: u64,
    keeper: Timekeeper,
    machine: StateMachine<MemoryMap>,
    news: LeaseNews,
    commits: u64,
    log: VecDeque<(LeaseOperation, Asker)>,
    /// Until when each lease was promised to live.
    promised: BTreeMap<LeaseId, u64>,
    /// Leases that ended by an expiry.
    expired: Vec<LeaseId>,
}

impl World {
    fn new() -> Self {
        World {
            start: Instant::now(),
            now_ms: 0,
            keeper: Timekeeper::default(),
            machine: StateMachine::open(MemoryMap::new(), KvOptions::default()).expect("a map"),
            news: LeaseNews::default(),
            commits: 0,
            log: VecDeque::new(),
            promised: BTreeMap::new(),
            expired: Vec::new(),
        }
    }

    fn say(&mut self, operation: LeaseOperation) {
        self.log.push_back((operation, Asker::Nobody));
    }

    /// The next command of the log has its effect; the keeper may not learn of its own.
    fn take_next(&mut self, is_answered: bool) -> Option<Outcome> {
        let (operation, asker) = self.log.pop_front()?;
        let slot = self.machine.applied_slot() + 1;
        let id = ServerId { origin: 1, incarnation: 1, sequence: slot };
        let command = Command { idempotency: None, operation: Operation::Lease(operation.clone()) };
        let taken = self.machine.apply(slot, slot, &[(id, command.clone())]).expect("a map");
        self.news.tell(&command, &taken[0]);
        self.machine.commit().expect("a map");
        self.commits += 1;
        let [Taken::Applied { outcome, .. }] = &taken[..] else { panic!("{taken:?}") };
        self.note(&operation, outcome);
        if let Asker::Keeper(proposal) = asker {
            let expired = match outcome {
                Outcome::LeaseEnded { more: true, .. } => Expired::More,
                Outcome::LeaseEnded { .. } | Outcome::LeaseNotFound { .. } => Expired::Gone,
                _ => Expired::Old,
            };
            let expired = if is_answered { expired } else { Expired::Unknown };
            self.keeper.learn(proposal.id, proposal.attempt, expired);
        }
        Some(outcome.clone())
    }

    fn note(&mut self, operation: &LeaseOperation, outcome: &Outcome) {
        match (operation, outcome) {
            (_, Outcome::LeaseGranted { id, ttl_ms, .. }) => {
                self.promised.insert(*id, self.now_ms + ttl_ms);
            }
            (LeaseOperation::KeepAlive { ids }, Outcome::LeasesKept { ttls_ms, .. }) => {
                for (id, ttl_ms) in ids.iter().zip(ttls_ms) {
                    if let Some(ttl_ms) = ttl_ms {
                        self.promised.insert(*id, self.now_ms + ttl_ms);
                    }
                }
            }
            (LeaseOperation::Expire { id, .. }, Outcome::LeaseEnded { .. }) => {
                let promised = self.promised.remove(id).expect("it was granted");
                assert!(self.now_ms >= promised, "{id} ended at {} of {promised}", self.now_ms);
                self.expired.push(*id);
            }
            (LeaseOperation::Revoke { id }, Outcome::LeaseEnded { .. }) => {
                self.promised.remove(id);
            }
            _ => {}
        }
    }

    fn take_all(&mut self) {
        while self.take_next(true).is_some() {}
    }

    /// This node begins to keep the time.
    fn begin(&mut self) {
        self.keeper.resign();
        self.news.open();
        self.say(LeaseOperation::BeginEpoch);
        let mut last = None;
        while let Some(outcome) = self.take_next(true) {
            last = Some(outcome);
        }
        let Some(Outcome::LeaseEpochBegun { epoch, .. }) = last else { panic!("{last:?}") };
        self.look_clock();
        let leases = lease::list(self.machine.map(), LeaseId(0), 1_000).expect("a map");
        for (id, lease) in &leases {
            self.promised.insert(*id, self.now_ms + lease.ttl_ms);
        }
        self.keeper.begin(epoch, leases);
    }

    fn look_clock(&mut self) {
        self.keeper.look(self.start + Duration::from_millis(self.now_ms));
    }

    /// The keeper looks, and what it proposes waits in the log.
    fn look(&mut self) {
        self.look_clock();
        let commits = self.commits;
        let due = self.keeper.due(100);
        let map = self.machine.map();
        let found: Vec<_> =
            due.into_iter().map(|id| (id, lease::find(map, id).expect("a map"))).collect();
        self.keeper.hear(self.news.take().expect("few"), commits);
        for (id, lease) in found {
            if let Some(proposal) = self.keeper.judge(id, lease, commits) {
                let operation = proposal.operation.clone();
                self.log.push_back((operation, Asker::Keeper(proposal)));
            }
        }
    }

    /// Time passes while the keeper looks, and what it says has effect at once.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.now_ms += 50;
            self.look();
            self.take_all();
        }
    }

    /// A client renews through this node: in memory if that will do, else by a command.
    fn renew(&mut self, id: LeaseId) {
        self.look_clock();
        let asked_ms = self.now_ms;
        let is_noted = self.keeper.renew(id);
        let map = self.machine.map();
        let is_mine = self.keeper.epoch() == Some(lease::epoch(map).expect("a map"));
        let found = lease::find(map, id).expect("a map").filter(|lease| !lease.is_ending);
        match found {
            Some(lease) if is_noted && is_mine => {
                self.promised.insert(id, asked_ms + lease.ttl_ms);
            }
            _ => self.say(LeaseOperation::KeepAlive { ids: vec![id] }),
        }
    }

    fn grant(&mut self, id: LeaseId) {
        self.say(LeaseOperation::Grant { id: Some(id), ttl_ms: TTL_MS });
    }
}

#[test]
fn a_lease_that_nobody_renews_ends_and_one_that_is_renewed_does_not() {
    let mut world = World::new();
    world.begin();
    world.grant(ID);
    world.grant(LeaseId(8));
    for _ in 0..10 {
        world.pass(TTL_MS / 2);
        world.renew(ID);
    }
    assert_eq!(world.expired, [LeaseId(8)]);
    assert_eq!(world.machine.applied_slot(), 4, "a renewal here is not in the log");
    assert_eq!(world.keeper.left_ms(ID), Some(TTL_MS));
    world.pass(2 * TTL_MS);
    assert_eq!(world.expired, [LeaseId(8), ID]);
    assert_eq!(world.keeper.counted(), 0);
    world.pass(2 * TTL_MS);
    assert_eq!(world.machine.applied_slot(), 5, "nobody writes while there is nothing to do");
}

#[test]
fn a_keeper_that_was_stopped_puts_all_ends_off() {
    let mut world = World::new();
    world.begin();
    world.grant(ID);
    world.pass(TTL_MS / 2);
    world.now_ms += 100 * TTL_MS;
    world.pass(200);
    assert_eq!(world.expired, []);
    world.pass(TTL_MS);
    assert_eq!(world.expired, [ID]);
}

#[test]
fn a_new_epoch_gives_all_leases_their_full_time() {
    let mut world = World::new();
    world.begin();
    world.grant(ID);
    world.pass(TTL_MS - 100);
    world.begin();
    world.pass(TTL_MS - 100);
    assert_eq!(world.expired, []);
    world.pass(200);
    assert_eq!(world.expired, [ID]);
}

#[test]
fn a_renewal_elsewhere_counts_even_if_it_is_heard_too_late() {
    let mut world = World::new();
    world.begin();
    world.grant(ID);
    world.take_all();
    world.look();
    world.now_ms += 200;
    (0..10).for_each(|_| {
        world.look();
        world.now_ms += 200;
    });
    // The expiry waits behind the renewal.
    assert_eq!(world.log.len(), 1);
    let expiry = world.log.pop_front().expect("an expiry");
    world.say(LeaseOperation::KeepAlive { ids: vec![ID] });
    world.log.push_back(expiry);
    assert!(!world.keeper.renew(ID), "an expiry may be ahead of it");
    world.take_all();
    assert_eq!(world.expired, []);
    world.look();
    assert!(world.keeper.renew(ID));
    world.pass(2 * TTL_MS);
    assert_eq!(world.expired, [ID]);
}

#[test]
fn an_expiry_whose_answer_was_lost_stands_in_the_way_until_a_renewal_in_the_log() {
    let mut world = World::new();
    world.begin();
    world.grant(ID);
    world.take_all();
    for _ in 0..8 {
        world.look();
        world.now_ms += 200;
    }
    let Some((_, Asker::Keeper(proposal))) = world.log.pop_front() else { panic!("an expiry") };
    world.keeper.learn(ID, proposal.attempt, Expired::Unknown);
    assert!(!world.keeper.renew(ID));
    world.renew(ID);
    world.take_all();
    world.look();
    assert!(world.keeper.renew(ID));
    // It comes after all, and has no effect.
    world.log.push_back((proposal.operation, Asker::Nobody));
    world.take_all();
    assert_eq!(world.expired, []);
    world.pass(3 * TTL_MS);
    assert_eq!(world.expired, [ID]);
}

#[test]
fn another_attempt_that_had_no_effect_does_not_speak_for_the_one_that_was_lost() {
    let mut keeper = Timekeeper::default();
    let mut now = Instant::now();
    keeper.look(now);
    let lease = Lease { ttl_ms: 100, granted_ms: 0, renewals: 0, is_ending: false };
    keeper.begin(LeaseEpoch(1), vec![(ID, lease)]);
    for expired in [Expired::Unknown, Expired::Old] {
        assert!(!keeper.due(9).contains(&ID));
        for _ in 0..5 {
            now += PACE_MAX;
            keeper.look(now);
        }
        assert_eq!(keeper.due(9), [ID]);
        let proposal = keeper.judge(ID, Some(lease), 1).expect("it is over");
        keeper.learn(ID, proposal.attempt, expired);
        assert!(!keeper.renew(ID), "the first one may come yet");
    }
    keeper.hear(vec![News::Renewed { ids: vec![ID] }], 1);
    assert!(keeper.renew(ID));
    keeper.hear(vec![News::Ended { id: ID, more: true, is_named: true }], 1);
    assert!(!keeper.renew(ID), "it comes to its end");
    assert_eq!(keeper.due(9), [ID]);
}

#[test]
fn a_lease_with_many_keys_is_ended_to_its_end() {
    let mut keeper = Timekeeper::default();
    let start = Instant::now();
    keeper.look(start);
    let lease = Lease { ttl_ms: 100, granted_ms: 0, renewals: 3, is_ending: false };
    keeper.begin(LeaseEpoch(2), vec![(ID, lease)]);
    assert_eq!(keeper.due(9), []);
    keeper.look(start + Duration::from_millis(100));
    assert_eq!(keeper.due(9), [ID]);
    let first = keeper.judge(ID, Some(lease), 1).expect("it is over");
    let operation = LeaseOperation::Expire { id: ID, epoch: LeaseEpoch(2), renewals: 3 };
    assert_eq!(first.operation, operation);
    assert_eq!(keeper.due(9), [], "one attempt at a time");
    keeper.learn(ID, first.attempt, Expired::More);
    assert!(!keeper.renew(ID));
    assert_eq!(keeper.left_ms(ID), Some(0));
    assert_eq!(keeper.due(9), [ID]);
    let ending = Lease { is_ending: true, ..lease };
    let second = keeper.judge(ID, Some(ending), 1).expect("it goes on");
    keeper.learn(ID, first.attempt, Expired::Gone);
    assert_eq!(keeper.counted(), 1, "the answer of an earlier attempt");
    keeper.learn(ID, second.attempt, Expired::Gone);
    assert_eq!(keeper.counted(), 0);
}

#[test]
fn what_was_told_and_is_not_there_is_forgotten_after_the_next_commit() {
    let mut keeper = Timekeeper::default();
    let mut now = Instant::now();
    keeper.look(now);
    keeper.begin(LeaseEpoch(1), vec![]);
    keeper.hear(vec![News::Granted { id: ID, ttl_ms: 1 }], 4);
    for (commits, counted) in [(4, 1), (4, 1), (5, 0)] {
        for _ in 0..6 {
            now += PACE_MAX;
            keeper.look(now);
        }
        assert_eq!(keeper.due(9), [ID]);
        assert_eq!(keeper.judge(ID, None, commits), None);
        assert_eq!(keeper.counted(), counted);
    }
    // An end that a client was told of again is looked up, and if nothing is to it no matter.
    keeper.hear(vec![News::Granted { id: ID, ttl_ms: 1 << 40 }], 4);
    keeper.hear(vec![News::Ended { id: ID, more: false, is_named: true }], 4);
    assert_eq!((keeper.due(9), keeper.counted()), (vec![], 1));
    for _ in 0..6 {
        now += PACE_MAX;
        keeper.look(now);
    }
    assert_eq!(keeper.due(9), [ID]);
    let lease = Lease { ttl_ms: 1 << 40, granted_ms: 0, renewals: 0, is_ending: false };
    assert_eq!(keeper.judge(ID, Some(lease), 9), None);
    assert_eq!(keeper.due(9), []);
    keeper.hear(vec![News::Ended { id: ID, more: false, is_named: false }], 9);
    assert_eq!(keeper.counted(), 0);
}

/// A hundred thousand leases, each renewed a few times. What takes longer than a test may
/// would be quadratic.
#[test]
fn many_leases_are_cheap() {
    let mut keeper = Timekeeper::default();
    let mut now = Instant::now();
    keeper.look(now);
    let lease = Lease { ttl_ms: TTL_MS, granted_ms: 0, renewals: 0, is_ending: false };
    let ids = || (1..=100_000).map(LeaseId);
    keeper.begin(LeaseEpoch(1), ids().map(|id| (id, lease)).collect());
    for _ in 0..20 {
        now += PACE_MAX;
        keeper.look(now);
        assert_eq!(keeper.due(1_000), []);
        assert!(ids().all(|id| keeper.renew(id)));
    }
    for _ in 0..5 {
        now += PACE_MAX;
        keeper.look(now);
    }
    let mut over = 0;
    loop {
        let due = keeper.due(1_000);
        if due.is_empty() {
            break;
        }
        over += due.len();
        for id in due {
            let proposal = keeper.judge(id, Some(lease), 1).expect("it is over");
            keeper.learn(id, proposal.attempt, Expired::Gone);
        }
    }
    assert_eq!((over, keeper.counted()), (100_000, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Look,
    Take {
        is_answered: bool,
    },
    Begin,
    /// Somebody else keeps the time, and this node has not heard of it.
    Usurp,
    Grant,
    Revoke(u64),
    Renew(u64),
    RenewElsewhere(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 1u64..4;
    prop_oneof![
        4 => (1u64..400).prop_map(Step::Pass),
        6 => Just(Step::Look),
        6 => prop::bool::weighted(0.8).prop_map(|is_answered| Step::Take { is_answered }),
        1 => Just(Step::Begin),
        1 => Just(Step::Usurp),
        2 => Just(Step::Grant),
        1 => id().prop_map(Step::Revoke),
        4 => id().prop_map(Step::Renew),
        2 => id().prop_map(Step::RenewElsewhere),
    ]
}

proptest! {
    /// Whatever happens, no lease ends by an expiry before its time (which [`World::note`]
    /// checks), and each that is left alone ends.
    #[test]
    fn leases_live_their_full_time_and_end(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        // An id is granted once: one that comes again could be ended by what was said of the
        // one before.
        let mut granted = 0;
        let recent = |granted: u64, back: u64| LeaseId((granted + 1).saturating_sub(back).max(1));
        world.begin();
        for step in steps {
            match step {
                Step::Pass(ms) => world.now_ms += ms,
                Step::Look => world.look(),
                Step::Take { is_answered } => drop(world.take_next(is_answered)),
                Step::Begin => world.begin(),
                Step::Usurp => world.say(LeaseOperation::BeginEpoch),
                Step::Grant => {
                    granted += 1;
                    world.grant(LeaseId(granted));
                }
                Step::Revoke(back) => {
                    world.say(LeaseOperation::Revoke { id: recent(granted, back) });
                }
                Step::Renew(back) => world.renew(recent(granted, back)),
                Step::RenewElsewhere(back) => {
                    let ids = vec![recent(granted, back)];
                    world.say(LeaseOperation::KeepAlive { ids });
                }
            }
        }
        world.begin();
        world.pass(4 * TTL_MS);
        prop_assert_eq!(lease::list(world.machine.map(), LeaseId(0), 9).expect("a map"), vec![]);
        prop_assert_eq!(world.keeper.counted(), 0);
        prop_assert_eq!(world.machine.revision(), Revision(0));
    }
}
