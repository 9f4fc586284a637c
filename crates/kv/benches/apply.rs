//! What applying a put costs beside the map: run with
//! `cargo bench -p synod-kv --bench apply`.

use std::time::Instant;

use bytes::Bytes;
use synod_kv::{
    Command, Condition, Cursor, KvOptions, MapError, Operation, OrderedMap, ServerId, StateMachine,
    WriteSet,
};

const BATCH: u64 = 32;
const PUTS: u64 = 1 << 20;
const VALUE_BYTES: usize = 256;

/// A map that is always empty and forgets what it is given, at no cost.
struct NoMap;

struct NoCursor;

impl OrderedMap for NoMap {
    type Cursor<'a> = NoCursor;

    fn get(&self, _: &[u8]) -> Result<Option<Bytes>, MapError> {
        Ok(None)
    }

    fn cursor(&self, _: &[u8], _: &[u8]) -> Result<NoCursor, MapError> {
        Ok(NoCursor)
    }

    fn write(&mut self, batch: &WriteSet) -> Result<(), MapError> {
        std::hint::black_box(batch);
        Ok(())
    }
}

impl Cursor for NoCursor {
    fn seek(&mut self, _: &[u8]) -> Result<(), MapError> {
        Ok(())
    }

    fn seek_before(&mut self, _: &[u8]) -> Result<(), MapError> {
        Ok(())
    }

    fn next(&mut self) -> Result<(), MapError> {
        Ok(())
    }

    fn prev(&mut self) -> Result<(), MapError> {
        Ok(())
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        None
    }
}

fn main() {
    println!("puts of 32-byte keys and {VALUE_BYTES}-byte values, {BATCH} a value:");
    for keys in [1 << 10, 1 << 15, PUTS] {
        let (apply_ns, commit_ns) = run(keys);
        println!("{keys:>8} keys: apply {apply_ns:>5} ns a put, commit {commit_ns:>4} ns a put");
    }
}

/// Nanoseconds a put of applying, and of committing.
fn run(keys: u64) -> (u64, u64) {
    let mut machine = StateMachine::open(NoMap, KvOptions::default()).expect("opens");
    let mut apply_ns = 0;
    let mut commit_ns = 0;
    for slot in 1..=PUTS / BATCH {
        let commands: Vec<(ServerId, Command)> =
            ((slot - 1) * BATCH..slot * BATCH).map(|number| put(number, keys)).collect();
        let start = Instant::now();
        std::hint::black_box(machine.apply(slot, slot, &commands).expect("applies"));
        let applied = Instant::now();
        machine.commit().expect("commits");
        apply_ns += applied.duration_since(start).as_nanos();
        commit_ns += applied.elapsed().as_nanos();
    }
    let each = |ns: u128| u64::try_from(ns / u128::from(PUTS)).expect("small");
    (each(apply_ns), each(commit_ns))
}

fn put(number: u64, keys: u64) -> (ServerId, Command) {
    // An odd factor visits all of a power of two in a scattered order.
    let key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys;
    let operation = Operation::Put {
        key: Bytes::from(format!("{key:032}")),
        value: Bytes::from(vec![7; VALUE_BYTES]),
        condition: Condition::Always,
        want_previous: false,
    };
    let id = ServerId { origin: 1, incarnation: 1, sequence: number + 1 };
    (id, Command { idempotency: None, operation })
}
