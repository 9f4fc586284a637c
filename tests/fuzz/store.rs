//! What a node finds in its store: the state record, the records of keys, and those of
//! idempotency keys. A damaged one is an error, or another state; never a panic.

use bytes::Bytes;
use synod_kv::{
    Command, Condition, IdempotencyKey, KvOptions, ListQuery, MapError, MemoryMap, Operation,
    OrderedMap, Revision, ServerId, State, StateMachine, WriteSet, read,
};

use crate::engine::{Answer, Fuzz};
use crate::memory::within;

/// Entries of a map, each as two lengths, key and value.
fn encode(map: &MemoryMap) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in map.iter() {
        out.push(u8::try_from(key.len()).expect("short keys"));
        out.push(u8::try_from(value.len()).expect("short values"));
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
    out
}

/// As many entries as the input holds.
fn decode(mut input: &[u8]) -> MemoryMap {
    let mut writes = WriteSet::new();
    while let [key, value, rest @ ..] = input {
        let Some((key, rest)) = rest.split_at_checked(usize::from(*key)) else { break };
        let Some((value, rest)) = rest.split_at_checked(usize::from(*value)) else { break };
        writes.put(key, value);
        input = rest;
    }
    let mut map = MemoryMap::new();
    map.write(&writes).expect("it is in memory");
    map
}

fn put(key: &'static [u8], name: Option<&'static [u8]>, condition: Condition) -> Command {
    let idempotency = name.map(|name| IdempotencyKey {
        key: Bytes::from_static(name),
        request_hash: 1 << 100,
        asked_ms: 100,
    });
    let (key, value) = (Bytes::from_static(key), Bytes::from_static(b"a value"));
    Command {
        idempotency,
        operation: Operation::Put { key, value, condition, want_previous: true },
    }
}

fn delete_range(end: Option<&'static [u8]>) -> Command {
    let (start, end) = (Bytes::from_static(b""), end.map(Bytes::from_static));
    let operation = Operation::DeleteRange { start, end, limit: 2 };
    Command { idempotency: None, operation }
}

/// One command of each sort, with and without a name.
fn commands() -> Vec<Command> {
    vec![
        put(b"a", None, Condition::Always),
        put(b"b\0c", Some(b"first"), Condition::Absent),
        put(b"a", Some(b"second"), Condition::Exists),
        put(b"a", None, Condition::At(Revision(3))),
        put(b"\xff", Some(b"first"), Condition::Always),
        delete_range(Some(b"b")),
        put(b"zz", None, Condition::Always),
        Command {
            idempotency: None,
            operation: Operation::Delete {
                key: Bytes::from_static(b"b\0c"),
                condition: Condition::Always,
                want_previous: true,
            },
        },
    ]
}

fn options() -> KvOptions {
    KvOptions {
        idempotency_ttl_ms: 50,
        idempotency_grace_ms: 5,
        idempotency_records_max: 2,
        ..KvOptions::default()
    }
}

/// Carries out all commands in the slots that follow, as the next ones of two nodes.
fn go_on(machine: &mut StateMachine<MemoryMap>) -> Result<(), MapError> {
    for (command, origin) in commands().into_iter().zip([1, 2, 1, 9].into_iter().cycle()) {
        // The host never counts further than this.
        let Some(slot) = machine.applied_slot().checked_add(1) else { return Ok(()) };
        let (incarnation, sequence) = machine.origin_sequence(origin).unwrap_or((1, 0));
        let Some(sequence) = sequence.checked_add(1) else { return Ok(()) };
        let id = ServerId { origin, incarnation, sequence };
        machine.apply(slot, machine.cluster_time_ms().saturating_add(20), &[(id, command)])?;
        machine.commit()?;
    }
    Ok(())
}

/// Reads everything there is, forwards and backwards, and then writes.
fn use_all(map: MemoryMap) -> Result<(), MapError> {
    let state = State::load(&map)?;
    for key in [&b"a"[..], b"b\0c", b"\xff", b"zz", b""] {
        read::look(&map, key, state.revision)?;
    }
    let mut query = ListQuery::range(Bytes::new(), None);
    read::list(&map, &query)?;
    query.reverse = true;
    query.limit = 2;
    read::list(&map, &query)?;
    let mut machine = StateMachine::open(map, options())?;
    assert_eq!(machine.revision(), state.revision);
    go_on(&mut machine)?;
    // What it wrote of itself is read back.
    let state = State::load(machine.map())?;
    assert_eq!(state.applied_slot, machine.applied_slot());
    assert_eq!(state.revision, machine.revision());
    assert_eq!(state.hash(), machine.state_hash());
    Ok(())
}

#[test]
fn store() {
    let mut machine = StateMachine::open(MemoryMap::new(), options()).expect("an empty map");
    let mut valid = vec![encode(machine.map())];
    for _ in 0..4 {
        go_on(&mut machine).expect("a sound map");
        valid.push(encode(machine.map()));
    }
    let fuzz = Fuzz { name: "store", valid, words: &[], bytes_max: 2 << 10 };
    fuzz.run(|input| {
        let map = decode(input);
        let used = within((64 << 10) + 32 * input.len(), || use_all(map));
        Answer::of(&used, "")
    });
}

/// The state record by itself, which a snapshot brings along too.
#[test]
fn state() {
    let mut machine = StateMachine::open(MemoryMap::new(), options()).expect("an empty map");
    go_on(&mut machine).expect("a sound map");
    let record = machine.map().get(synod_kv::APPLIED_KEY).expect("readable").expect("there");
    let fuzz = Fuzz { name: "state", valid: vec![record.to_vec()], words: &[], bytes_max: 1 << 10 };
    fuzz.run(|input| {
        // Three bytes are an origin, and a tree of origins is half empty at the worst.
        let decoded = within(1024 + 32 * input.len(), || State::decode(input));
        Answer::of(&decoded, "")
    });
}
