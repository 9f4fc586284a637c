//! Idempotency keys at their limits.

use bytes::Bytes;
use synod_kv::{
    Command, Compare, Condition, Expiry, IdempotencyKey, KvOptions, MemoryMap, Operation, Outcome,
    Relation, ServerId, StateMachine, Taken, Target, Txn, TxnOperation, TxnResult,
};

struct Cluster {
    machine: StateMachine<MemoryMap>,
    slot: u64,
    now_ms: u64,
    sequence: u64,
    /// What the next attempt says; none: the time that was applied before it.
    asked_ms: Option<u64>,
}

impl Cluster {
    fn new(options: KvOptions) -> Self {
        let machine = StateMachine::open(MemoryMap::new(), options).unwrap();
        Cluster { machine, slot: 0, now_ms: 0, sequence: 0, asked_ms: None }
    }

    fn put(&mut self, idempotency: u64, value: &[u8]) -> Taken {
        let operation = Operation::Put {
            key: Bytes::from_static(b"key"),
            value: Bytes::copy_from_slice(value),
            condition: Condition::Always,
            want_previous: true,
        };
        self.take(Some((idempotency, value.len() as u128)), operation)
    }

    fn transact(&mut self, idempotency: Option<u64>, txn: Txn) -> Taken {
        self.take(idempotency.map(|name| (name, 1)), Operation::Txn(txn))
    }

    fn take(&mut self, named: Option<(u64, u128)>, operation: Operation) -> Taken {
        self.sequence += 1;
        self.slot += 1;
        let asked_ms = self.asked_ms.unwrap_or(self.machine.cluster_time_ms());
        let idempotency = named.map(|(name, request_hash)| {
            let key = Bytes::copy_from_slice(&name.to_be_bytes());
            IdempotencyKey { key, request_hash, asked_ms }
        });
        let command = Command { idempotency, operation };
        let id = ServerId { origin: 1, incarnation: 1, sequence: self.sequence };
        let mut taken = self.machine.apply(self.slot, self.now_ms, &[(id, command)]).unwrap();
        taken.pop().unwrap()
    }

    fn noop(&mut self) {
        self.slot += 1;
        self.machine.apply(self.slot, self.now_ms, &[]).unwrap();
    }

    fn entries(&mut self) -> usize {
        self.machine.commit().unwrap();
        self.machine.map().iter().filter(|(place, _)| matches!(place[0], 2 | 3)).count()
    }
}

fn parts(taken: Taken) -> (Outcome, Option<Expiry>) {
    let Taken::Applied { outcome, expiry } = taken else { panic!("{taken:?}") };
    (outcome, expiry)
}

fn is_full(taken: &Taken) -> bool {
    matches!(taken, Taken::Applied { outcome: Outcome::IdempotencyFull { .. }, .. })
}

fn is_late(taken: &Taken) -> bool {
    matches!(taken, Taken::Applied { outcome: Outcome::IdempotencyLate { .. }, .. })
}

fn is_stored(taken: &Taken) -> bool {
    matches!(taken, Taken::Applied { outcome: Outcome::Stored { .. }, .. })
}

fn get(key: &'static str) -> TxnOperation {
    TxnOperation::Get { key: Bytes::from(key) }
}

fn all() -> TxnOperation {
    TxnOperation::Range { start: Bytes::new(), end: None, limit: 100, keys_only: false }
}

fn put(key: &'static str, value: usize) -> TxnOperation {
    let value = Bytes::from(vec![7; value]);
    TxnOperation::Put { key: Bytes::from(key), value, lease: None, want_previous: false }
}

fn txn(success: Vec<TxnOperation>) -> Txn {
    Txn { success, ..Txn::default() }
}

fn is_too_large(taken: &Taken) -> bool {
    matches!(taken, Taken::Applied { outcome: Outcome::TxnTooLarge { .. }, .. })
}

/// Each of these small requests would take as much room as it reads.
#[test]
fn what_only_reads_takes_no_room_among_the_names() {
    let mut cluster = Cluster::new(KvOptions::default());
    cluster.transact(None, txn(vec![put("a", 1 << 20)]));
    let reads = Txn { success: vec![get("a")], failure: vec![all()], ..Txn::default() };
    assert!(reads.only_reads() && !txn(vec![get("a"), put("b", 1)]).only_reads());
    assert!(!Txn { failure: vec![put("b", 1)], ..Txn::default() }.only_reads());
    for _ in 0..3 {
        let (outcome, expiry) = parts(cluster.transact(Some(1), reads.clone()));
        assert!(matches!(outcome, Outcome::Txn { succeeded: true, .. }));
        assert_eq!(expiry, None);
    }
    assert_eq!(cluster.entries(), 0);
    // It tells what is there, and the name is free.
    cluster.transact(None, txn(vec![put("a", 5)]));
    let (outcome, _) = parts(cluster.transact(Some(1), reads.clone()));
    let Outcome::Txn { results, .. } = outcome else { panic!("{outcome:?}") };
    let [TxnResult::Get { record: Some(record) }] = &results[..] else { panic!("{results:?}") };
    assert_eq!(record.value.len(), 5);
    assert!(is_stored(&cluster.put(1, b"another request")));
    let (outcome, _) = parts(cluster.transact(Some(1), reads));
    assert!(matches!(outcome, Outcome::IdempotencyMismatch { .. }), "{outcome:?}");
}

#[test]
fn what_is_remembered_of_reads_is_bounded() {
    let mut cluster = Cluster::new(KvOptions::default());
    let large = 64 << 10;
    cluster.transact(None, txn(vec![put("a", 10), put("b", large), put("c", 10)]));
    for (name, reads) in [vec![get("b")], vec![get("a"), get("b")]].into_iter().enumerate() {
        let with_put = txn([vec![put("w", 1)], reads].concat());
        assert!(is_too_large(&cluster.transact(Some(name as u64), with_put.clone())), "{name}");
        assert!(!is_too_large(&cluster.transact(None, with_put)), "{name}");
    }
    // A range ends before what has no room, unless it could never go on.
    let range = |start| {
        let range = TxnOperation::Range {
            start: Bytes::from(start),
            end: None,
            limit: 9,
            keys_only: false,
        };
        txn(vec![put("w", 1), range])
    };
    let (outcome, _) = parts(cluster.transact(Some(10), range("a")));
    let Outcome::Txn { results, .. } = outcome else { panic!("{outcome:?}") };
    let TxnResult::Range { entries, next } = &results[1] else { panic!("{results:?}") };
    assert_eq!((entries.len(), next.as_deref()), (1, Some(&b"b"[..])));
    assert!(is_too_large(&cluster.transact(Some(11), range("b"))));
    assert!(!is_too_large(&cluster.transact(Some(12), range("c"))));
}

/// A comparison of a value reads all of it, wherever it is.
#[test]
fn the_values_that_comparisons_read_are_bounded() {
    let mut cluster = Cluster::new(KvOptions::default());
    cluster.transact(None, txn(vec![put("a", 1 << 20)]));
    let of = |count: usize| {
        let target = Target::Value(Bytes::new());
        let compare = Compare { key: Bytes::from("a"), relation: Relation::Greater, target };
        Txn { compares: vec![compare; count], success: vec![get("a")], failure: vec![] }
    };
    for is_committed in [false, true] {
        if is_committed {
            cluster.machine.commit().unwrap();
        }
        let (outcome, _) = parts(cluster.transact(None, of(16)));
        assert!(matches!(outcome, Outcome::Txn { succeeded: true, .. }), "{is_committed}");
        assert!(is_too_large(&cluster.transact(None, of(17))), "{is_committed}");
    }
    // What comes after one that does not hold is not read.
    let mut fails = of(40);
    fails.compares[3].relation = Relation::Less;
    let (outcome, _) = parts(cluster.transact(None, fails));
    assert!(matches!(outcome, Outcome::Txn { succeeded: false, .. }));
}

const TTL_MS: u64 = 10 * 60 * 1000;
const GRACE_MS: u64 = 60 * 1000;

#[test]
fn a_key_is_said_to_be_remembered_ten_minutes_and_is_a_minute_longer() {
    let mut cluster = Cluster::new(KvOptions::default());
    cluster.now_ms = 5;
    let first = cluster.put(1, b"a");
    let (outcome, expiry) = parts(first.clone());
    assert_eq!(expiry, Some(Expiry { at_ms: 5 + TTL_MS, left_ms: TTL_MS }));
    for (passed_ms, left_ms) in [(1_000, TTL_MS - 1_000), (TTL_MS + GRACE_MS - 1, 0)] {
        cluster.now_ms = 5 + passed_ms;
        let expiry = Some(Expiry { at_ms: 5 + TTL_MS, left_ms });
        assert_eq!(parts(cluster.put(1, b"a")), (outcome.clone(), expiry));
    }
    cluster.now_ms += 1;
    let later = cluster.put(1, b"a");
    assert!(is_stored(&later) && later != first);
}

#[test]
fn an_attempt_that_was_under_way_until_its_key_was_forgotten_has_no_effect() {
    let mut cluster = Cluster::new(KvOptions::default());
    cluster.now_ms = 1_000;
    cluster.put(2, b"before");
    // One attempt is asked now, and is delayed. Another one is not.
    let asked_ms = cluster.machine.cluster_time_ms();
    cluster.now_ms = 2_000;
    let first = cluster.put(1, b"a");
    assert!(is_stored(&first));
    cluster.asked_ms = Some(asked_ms);
    cluster.now_ms = 2_000 + TTL_MS + GRACE_MS - 1;
    assert_eq!(parts(cluster.put(1, b"a")).0, parts(first).0, "it is remembered");
    let revision = cluster.machine.revision();
    cluster.now_ms += 1;
    assert!(is_late(&cluster.put(1, b"a")));
    assert!(is_late(&cluster.put(3, b"a")), "nobody knows which keys were used");
    // Whoever asks after the time that was told asks anew.
    let line_ms = 2_000 + TTL_MS + GRACE_MS / 2;
    for (asked_ms, is_new) in [(line_ms - 1, false), (line_ms, true)] {
        cluster.asked_ms = Some(asked_ms);
        assert_eq!(is_stored(&cluster.put(1, b"a")), is_new, "asked at {asked_ms}");
        assert_eq!(cluster.machine.revision() > revision, is_new);
    }
}

#[test]
fn what_was_forgotten_stays_so_after_a_restart() {
    let mut cluster = Cluster::new(KvOptions::default());
    cluster.now_ms = 2_000;
    cluster.put(1, b"a");
    cluster.now_ms += TTL_MS + GRACE_MS;
    cluster.noop();
    cluster.machine.commit().unwrap();
    let map = cluster.machine.map().clone();
    cluster.machine = StateMachine::open(map, KvOptions::default()).unwrap();
    cluster.asked_ms = Some(2_000);
    assert!(is_late(&cluster.put(1, b"a")));
}

#[test]
fn after_a_long_silence_a_fresh_request_is_not_too_late() {
    let mut cluster = Cluster::new(KvOptions::default());
    for number in 0..100 {
        cluster.now_ms += 1;
        cluster.put(number, b"v");
    }
    // Nobody writes for a day. The leader lets time pass where the machine asks for it.
    let mut ticks = 0;
    while let Some(tick_ms) = cluster.machine.tick_ms() {
        cluster.now_ms = cluster.now_ms.max(tick_ms);
        cluster.noop();
        ticks += 1;
    }
    assert!(ticks <= 3 * (TTL_MS + GRACE_MS) / GRACE_MS + 1, "{ticks} values");
    assert_eq!(cluster.entries(), 0);
    cluster.now_ms += 24 * 60 * 60 * 1_000;
    assert!(is_stored(&cluster.put(1, b"w")));
    assert!(is_stored(&cluster.put(2, b"w")));
}

#[test]
fn a_stamp_that_goes_back_forgets_nothing_and_lives_no_longer() {
    let mut cluster = Cluster::new(KvOptions::default());
    cluster.now_ms = 1000;
    let first = cluster.put(1, b"a");
    cluster.now_ms = 0;
    assert_eq!(cluster.put(1, b"a"), first);
    assert_eq!(cluster.machine.cluster_time_ms(), 1000);
}

#[test]
fn new_keys_are_refused_while_the_old_ones_live() {
    let options = KvOptions { idempotency_records_max: 100, ..KvOptions::default() };
    let mut cluster = Cluster::new(options);
    for number in 0..100 {
        assert!(is_stored(&cluster.put(number, b"v")));
    }
    let revision = cluster.machine.revision();
    assert!(is_full(&cluster.put(100, b"v")));
    assert!(is_stored(&cluster.put(0, b"v")), "a retry gets its answer all the same");
    assert_eq!(cluster.machine.revision(), revision);
    cluster.now_ms = TTL_MS + GRACE_MS;
    cluster.asked_ms = Some(cluster.now_ms);
    assert!(is_stored(&cluster.put(100, b"v")));
}

#[test]
fn the_bytes_of_answers_are_bounded_too() {
    let options = KvOptions { idempotency_bytes_max: 10_000, ..KvOptions::default() };
    let mut cluster = Cluster::new(options);
    let value = [7; 1000];
    let kept = (0..100).take_while(|number| is_stored(&cluster.put(*number, &value))).count();
    // Each answer but the first has the replaced value in it.
    assert_eq!(kept, 11);
    cluster.now_ms = TTL_MS + GRACE_MS;
    cluster.asked_ms = Some(cluster.now_ms);
    assert!(is_stored(&cluster.put(200, &value)));
    assert_eq!(cluster.entries(), 2);
}

#[test]
fn what_expired_goes_a_few_at_a_time_even_when_no_more_keys_come() {
    let mut cluster = Cluster::new(KvOptions::default());
    for number in 0..100 {
        cluster.put(number, b"v");
    }
    assert_eq!(cluster.entries(), 200);
    cluster.now_ms = TTL_MS + GRACE_MS;
    cluster.asked_ms = Some(cluster.now_ms);
    cluster.put(100, b"v");
    let left = cluster.entries();
    assert!(2 < left && left < 200, "{left} left after one slot");
    assert_eq!(cluster.machine.tick_ms(), Some(cluster.now_ms), "there is more to forget");
    cluster.noop();
    assert_eq!(cluster.entries(), 2, "a value without commands has time for all");
    assert_eq!(cluster.machine.tick_ms(), Some(cluster.now_ms + GRACE_MS / 3));
}

#[test]
fn a_key_used_again_after_its_time_is_not_forgotten_with_its_first_use() {
    let mut cluster = Cluster::new(KvOptions::default());
    for number in 0..100 {
        cluster.put(number, b"v");
    }
    cluster.now_ms = TTL_MS + GRACE_MS;
    cluster.asked_ms = Some(cluster.now_ms);
    // Not all that expired are gone after this one, the 99th among them.
    let first = cluster.put(99, b"v");
    assert!(is_stored(&first), "as long as it is there it answers");
    cluster.noop();
    let again = cluster.put(99, b"w");
    assert!(is_stored(&again) && again != first);
    cluster.noop();
    assert_eq!(cluster.entries(), 2);
    assert_eq!(cluster.put(99, b"w"), again);
}
