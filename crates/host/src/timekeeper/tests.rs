//! The timekeeper over a real state machine: commands wait in a log of their own, and time is
//! a number.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use synod_kv::{
    Command, IdempotencyKey, KvOptions, MemoryMap, Operation, Outcome, Revision, ServerId,
    StateMachine, Taken, lease,
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
    log: VecDeque<(LeaseOperation, Asker)>,
    /// The name of the next command.
    name: Option<u64>,
    /// Whether the map can't be read.
    is_broken: bool,
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
            log: VecDeque::new(),
            name: None,
            is_broken: false,
            promised: BTreeMap::new(),
            expired: Vec::new(),
        }
    }

    fn say(&mut self, operation: LeaseOperation) {
        self.log.push_back((operation, Asker::Nobody));
    }

    /// A client says this under a name, which it may have used for the same before.
    fn say_named(&mut self, name: u64, operation: LeaseOperation) -> Outcome {
        self.take_all();
        self.say(operation);
        self.name = Some(name);
        self.take_next(true).expect("it was said")
    }

    /// The next command of the log has its effect; the keeper may not learn of its own.
    fn take_next(&mut self, is_answered: bool) -> Option<Outcome> {
        let (operation, asker) = self.log.pop_front()?;
        let slot = self.machine.applied_slot() + 1;
        let id = ServerId { origin: 1, incarnation: 1, sequence: slot };
        let idempotency = self.name.take().map(|name| IdempotencyKey {
            key: name.to_string().into(),
            request_hash: 0,
            asked_ms: slot,
        });
        let is_named = idempotency.is_some();
        let command = Command { idempotency, operation: Operation::Lease(operation.clone()) };
        let taken = self.machine.apply(slot, slot, &[(id, command.clone())]).expect("a map");
        let find = |id| self.machine.lease(id);
        self.news.tell(slot, &command, &taken[0], find).expect("a map");
        self.machine.commit().expect("a map");
        let [Taken::Applied { outcome, .. }] = &taken[..] else { panic!("{taken:?}") };
        if is_named {
            // Whether it is the first time or not: promised is what the state holds.
            let all = lease::list(self.machine.map(), LeaseId(0), 1_000).expect("a map");
            self.promised.retain(|id, _| all.iter().any(|(there, _)| there == id));
            for (id, lease) in all.iter().filter(|(_, lease)| lease.renewals == slot) {
                self.promised.insert(*id, self.now_ms + lease.ttl_ms);
            }
        } else {
            self.note(&operation, outcome);
        }
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
        let map = self.machine.map();
        let find = |id| match self.is_broken {
            true => Err(MapError("a bad block".to_owned())),
            false => lease::find(map, id),
        };
        let news = || self.news.take();
        let now = self.start + Duration::from_millis(self.now_ms);
        let over = self.keeper.over(100, || lease::applied_slot(map), find, news, || now);
        for proposal in over.unwrap_or_default() {
            let operation = proposal.operation.clone();
            self.log.push_back((operation, Asker::Keeper(proposal)));
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

    /// Everything is taken, and time passes until the keeper proposes to end a lease. That is
    /// not in the log yet.
    fn wait_for_expiry(&mut self) -> Proposal {
        self.take_all();
        while self.log.is_empty() {
            self.now_ms += 200;
            self.look();
        }
        match self.log.pop_front() {
            Some((_, Asker::Keeper(proposal))) => proposal,
            _ => panic!("somebody else said something"),
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
    let expiry = world.wait_for_expiry();
    // The expiry waits behind the renewal.
    world.say(LeaseOperation::KeepAlive { ids: vec![ID] });
    world.log.push_back((expiry.operation.clone(), Asker::Keeper(expiry)));
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
    let proposal = world.wait_for_expiry();
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
    keeper.hear(vec![News { slot: 1, told: Told::Renewed { ids: vec![ID] } }]);
    assert!(keeper.renew(ID));
    let lease = Some(Lease { renewals: 1, is_ending: true, ..lease });
    keeper.hear(vec![News { slot: 2, told: Told::Stands { id: ID, lease } }]);
    assert!(!keeper.renew(ID), "it comes to its end");
    assert_eq!(keeper.due(9), [ID]);
}

/// The state is looked at before, which may take long.
#[test]
fn what_is_heard_counts_from_when_it_was_heard() {
    let mut keeper = Timekeeper::default();
    let looked_at = Instant::now();
    keeper.look(looked_at);
    keeper.begin(LeaseEpoch(1), vec![]);
    let lease = Some(Lease { ttl_ms: TTL_MS, granted_ms: 0, renewals: 5, is_ending: false });
    let news = || Some(vec![News { slot: 5, told: Told::Stands { id: ID, lease } }]);
    let heard_at = looked_at + Duration::from_millis(150);
    assert_eq!(keeper.over(9, || Ok(4), |_| Ok(None), news, || heard_at), Ok(vec![]));
    assert_eq!(keeper.left_ms(ID), Some(TTL_MS));
    let mut over = Vec::new();
    for ms in (0..=TTL_MS).step_by(100) {
        assert_eq!(over, [], "before {ms} ms");
        let now = heard_at + Duration::from_millis(ms);
        keeper.look(now);
        over = keeper.over(9, || Ok(5), |_| Ok(lease), || Some(vec![]), || now).expect("a map");
    }
    assert_eq!(over.len(), 1);
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
    let first = keeper.judge(ID, Some(lease), 3).expect("it is over");
    let operation = LeaseOperation::Expire { id: ID, epoch: LeaseEpoch(2), renewals: 3 };
    assert_eq!(first.operation, operation);
    assert_eq!(keeper.due(9), [], "one attempt at a time");
    keeper.learn(ID, first.attempt, Expired::More);
    assert!(!keeper.renew(ID));
    assert_eq!(keeper.left_ms(ID), Some(0));
    assert_eq!(keeper.due(9), [ID]);
    let ending = Lease { is_ending: true, ..lease };
    let second = keeper.judge(ID, Some(ending), 4).expect("it goes on");
    keeper.learn(ID, first.attempt, Expired::Gone);
    assert_eq!(keeper.due(9), [], "the answer of an earlier attempt");
    keeper.learn(ID, second.attempt, Expired::Gone);
    keeper.hear(vec![News { slot: 5, told: Told::Stands { id: ID, lease: None } }]);
    assert_eq!(keeper.counted(), 0);
}

#[test]
fn what_was_told_and_is_not_there_is_looked_up_until_the_state_has_its_slot() {
    let mut keeper = Timekeeper::default();
    let mut now = Instant::now();
    keeper.look(now);
    keeper.begin(LeaseEpoch(1), vec![]);
    let lease = Lease { ttl_ms: 1, granted_ms: 0, renewals: 5, is_ending: false };
    keeper.hear(vec![News { slot: 5, told: Told::Stands { id: ID, lease: Some(lease) } }]);
    for (applied, counted) in [(4, 1), (4, 1), (5, 0)] {
        now += PACE_MAX;
        keeper.look(now);
        assert_eq!(keeper.due(9), [ID]);
        assert_eq!(keeper.judge(ID, None, applied), None);
        assert_eq!(keeper.counted(), counted);
    }
}

/// An end in parts is told before it is in the state; a look at the state before does not
/// take it back.
#[test]
fn an_older_state_does_not_speak_against_what_was_heard() {
    let mut keeper = Timekeeper::default();
    keeper.look(Instant::now());
    let lease = Lease { ttl_ms: 1 << 40, granted_ms: 0, renewals: 3, is_ending: false };
    keeper.begin(LeaseEpoch(1), vec![(ID, lease)]);
    let ending = Lease { is_ending: true, ..lease };
    keeper.hear(vec![News { slot: 9, told: Told::Stands { id: ID, lease: Some(ending) } }]);
    assert_eq!(keeper.due(9), [ID]);
    assert_eq!(keeper.judge(ID, Some(lease), 8), None);
    assert_eq!(keeper.due(9), [ID]);
    assert!(keeper.judge(ID, Some(ending), 9).is_some());
}

/// The ids of leases that ended are used again, and then what was said of the first ones is
/// said once more, under the same names: nothing of it is about the second ones.
#[test]
fn what_is_said_again_of_an_earlier_lease_leaves_a_later_one_of_its_name_alone() {
    let grant = |id, ttl_ms| LeaseOperation::Grant { id: Some(id), ttl_ms };
    let revoke = |id| LeaseOperation::Revoke { id };
    let (long, short) = (1_000 * TTL_MS, TTL_MS / 10);
    for (first_ms, second_ms) in [(long, TTL_MS), (short, TTL_MS)] {
        let mut world = World::new();
        world.begin();
        world.say_named(1, grant(ID, first_ms));
        world.say_named(2, revoke(ID));
        world.say_named(3, grant(ID, second_ms));
        world.look();
        for _ in 0..3 {
            world.pass(TTL_MS / 2);
            world.say_named(1, grant(ID, first_ms));
            world.say_named(2, revoke(ID));
            world.look();
            world.renew(ID);
        }
        assert_eq!(world.expired, [], "it was renewed");
        assert_eq!(world.keeper.left_ms(ID), Some(TTL_MS));
        world.pass(TTL_MS - 100);
        world.say_named(1, grant(ID, first_ms));
        world.pass(200);
        assert_eq!(world.expired, [ID], "to be said again is no renewal");
    }
}

#[test]
fn grants_of_leases_that_ended_take_no_memory_when_they_are_said_again() {
    let mut world = World::new();
    world.begin();
    for _ in 0..2 {
        for id in 1..100 {
            let grant = LeaseOperation::Grant { id: Some(LeaseId(id)), ttl_ms: 1 << 40 };
            world.say_named(id, grant);
            world.say(LeaseOperation::Revoke { id: LeaseId(id) });
            world.take_all();
        }
        world.look();
        assert_eq!(world.keeper.counted(), 0);
    }
}

#[test]
fn a_state_that_cannot_be_read_for_a_while_forgets_no_lease() {
    let mut world = World::new();
    world.begin();
    world.grant(ID);
    world.is_broken = true;
    world.pass(3 * TTL_MS);
    assert_eq!(world.expired, []);
    world.is_broken = false;
    world.pass(2 * TTL_MS);
    assert_eq!(world.expired, [ID]);
}

/// A lease ends under the hand of its keeper, and is granted again before the keeper learns
/// what came of its own attempt to end it.
#[test]
fn a_lease_that_was_granted_again_is_counted_though_the_one_before_is_gone() {
    let mut world = World::new();
    world.begin();
    world.grant(ID);
    let proposal = world.wait_for_expiry();
    world.say_named(1, LeaseOperation::Revoke { id: ID });
    world.grant(ID);
    world.take_all();
    world.look();
    world.keeper.learn(ID, proposal.attempt, Expired::Gone);
    world.look();
    assert_eq!(world.keeper.counted(), 1);
    world.pass(2 * TTL_MS);
    assert_eq!(world.expired, [ID]);
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
            keeper.hear(vec![News { slot: 2, told: Told::Stands { id, lease: None } }]);
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
    /// A grant or a revocation under a name that may have been used for it before.
    GrantNamed {
        id: u64,
        ttl_ms: u64,
    },
    RevokeNamed {
        id: u64,
        name: u64,
    },
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
        2 => (100u64..103, prop_oneof![Just(100), Just(TTL_MS), Just(2 * TTL_MS)])
            .prop_map(|(id, ttl_ms)| Step::GrantNamed { id, ttl_ms }),
        2 => (100u64..103, 0u64..3).prop_map(|(id, name)| Step::RevokeNamed { id, name }),
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
                Step::GrantNamed { id, ttl_ms } => {
                    let operation = LeaseOperation::Grant { id: Some(LeaseId(id)), ttl_ms };
                    world.say_named(id * 10_000 + ttl_ms, operation);
                }
                Step::RevokeNamed { id, name } => {
                    world.say_named(id * 10 + name, LeaseOperation::Revoke { id: LeaseId(id) });
                }
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

/// All leases of one time to live stand at one moment of the queue after a change of the leader.
#[test]
fn a_look_moves_so_many_leases_at_most() {
    let mut keeper = Timekeeper::default();
    let start = Instant::now();
    keeper.look(start);
    let lease = Lease { ttl_ms: 300, granted_ms: 0, renewals: 0, is_ending: false };
    let count = 2 * MOVES_MAX as u64 + 1;
    keeper.begin(LeaseEpoch(1), Vec::new());
    let all: Vec<_> = (1..=count).map(|id| (LeaseId(id), lease)).collect();
    all.chunks(1_000).for_each(|part| keeper.count(part.to_vec()));
    assert_eq!(keeper.counted() as u64, count);
    keeper.look(start + PACE_MAX);
    // All but the last one.
    assert!((1..count).all(|id| keeper.renew(LeaseId(id))));
    keeper.look(start + 2 * PACE_MAX);
    assert_eq!([keeper.due(9), keeper.due(9)], [[], []], "it is behind the others");
    assert_eq!(keeper.due(9), [LeaseId(count)]);
    keeper.look(start + 3 * PACE_MAX);
    assert_eq!(keeper.due(9).len(), 9, "none is forgotten");
}
