//! Idempotency keys at their limits.

use bytes::Bytes;
use synod_kv::{
    Command, Condition, IdempotencyKey, KvOptions, MemoryMap, Operation, Outcome, ServerId,
    StateMachine, Taken,
};

struct Cluster {
    machine: StateMachine<MemoryMap>,
    slot: u64,
    now_ms: u64,
    sequence: u64,
}

impl Cluster {
    fn new(options: KvOptions) -> Self {
        let machine = StateMachine::open(MemoryMap::new(), options).unwrap();
        Cluster { machine, slot: 0, now_ms: 0, sequence: 0 }
    }

    fn put(&mut self, idempotency: u64, value: &[u8]) -> Taken {
        self.sequence += 1;
        self.slot += 1;
        let key = Bytes::copy_from_slice(&idempotency.to_be_bytes());
        let operation = Operation::Put {
            key: Bytes::from_static(b"key"),
            value: Bytes::copy_from_slice(value),
            condition: Condition::Always,
            want_previous: true,
        };
        let idempotency = Some(IdempotencyKey { key, request_hash: value.len() as u128 });
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

fn is_full(taken: &Taken) -> bool {
    matches!(taken, Taken::Applied { outcome: Outcome::IdempotencyFull { .. }, .. })
}

fn is_stored(taken: &Taken) -> bool {
    matches!(taken, Taken::Applied { outcome: Outcome::Stored { .. }, .. })
}

#[test]
fn a_key_is_remembered_ten_minutes_of_cluster_time_and_no_less() {
    let mut cluster = Cluster::new(KvOptions::default());
    cluster.now_ms = 5;
    let first = cluster.put(1, b"a");
    cluster.now_ms = 5 + 10 * 60 * 1000 - 1;
    assert_eq!(cluster.put(1, b"a"), first);
    cluster.now_ms += 1;
    let later = cluster.put(1, b"a");
    assert!(is_stored(&later) && later != first);
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
    let mut cluster = Cluster::new(options.clone());
    for number in 0..100 {
        assert!(is_stored(&cluster.put(number, b"v")));
    }
    let revision = cluster.machine.revision();
    assert!(is_full(&cluster.put(100, b"v")));
    assert!(is_stored(&cluster.put(0, b"v")), "a retry gets its answer all the same");
    assert_eq!(cluster.machine.revision(), revision);
    cluster.now_ms = options.idempotency_ttl_ms;
    assert!(is_stored(&cluster.put(100, b"v")));
}

#[test]
fn the_bytes_of_answers_are_bounded_too() {
    let options = KvOptions { idempotency_bytes_max: 10_000, ..KvOptions::default() };
    let mut cluster = Cluster::new(options.clone());
    let value = [7; 1000];
    let kept = (0..100).take_while(|number| is_stored(&cluster.put(*number, &value))).count();
    // Each answer but the first has the replaced value in it.
    assert_eq!(kept, 11);
    cluster.now_ms = options.idempotency_ttl_ms;
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
    cluster.now_ms = KvOptions::default().idempotency_ttl_ms;
    cluster.noop();
    let left = cluster.entries();
    assert!(0 < left && left < 200, "{left} left after one slot");
    for _ in 0..10 {
        cluster.noop();
    }
    assert_eq!(cluster.entries(), 0);
}

#[test]
fn a_key_used_again_after_its_time_is_not_forgotten_with_its_first_use() {
    let mut cluster = Cluster::new(KvOptions::default());
    for number in 0..100 {
        cluster.put(number, b"v");
    }
    cluster.now_ms = KvOptions::default().idempotency_ttl_ms;
    // Not all that expired are gone after this one, the 99th among them.
    let again = cluster.put(99, b"w");
    assert!(is_stored(&again));
    for _ in 0..10 {
        cluster.noop();
    }
    assert_eq!(cluster.entries(), 2);
    assert_eq!(cluster.put(99, b"w"), again);
}
