//! Ranges over what was removed and compacted, and is in the map still.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use proptest::prelude::*;
use synod_kv::{
    Command, Condition, Cursor, KvOptions, MapError, MemoryMap, Operation, OrderedMap, Outcome,
    ServerId, StateMachine, Taken, Txn, TxnOperation, WriteSet,
};

/// A map that counts how often its cursors move.
#[derive(Clone, Default)]
struct Counted {
    map: MemoryMap,
    moves: Rc<Cell<u64>>,
}

struct CountedCursor<'a> {
    cursor: <MemoryMap as OrderedMap>::Cursor<'a>,
    moves: &'a Cell<u64>,
}

impl OrderedMap for Counted {
    type Cursor<'a> = CountedCursor<'a>;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MapError> {
        self.map.get(key)
    }

    fn cursor(&self, from: &[u8], to: &[u8]) -> Result<CountedCursor<'_>, MapError> {
        Ok(CountedCursor { cursor: self.map.cursor(from, to)?, moves: &self.moves })
    }

    fn write(&mut self, batch: &WriteSet) -> Result<(), MapError> {
        self.map.write(batch)
    }
}

impl CountedCursor<'_> {
    fn count(&self) {
        self.moves.set(self.moves.get() + 1);
    }
}

impl Cursor for CountedCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<(), MapError> {
        self.count();
        self.cursor.seek(key)
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<(), MapError> {
        self.count();
        self.cursor.seek_before(key)
    }

    fn next(&mut self) -> Result<(), MapError> {
        self.count();
        self.cursor.next()
    }

    fn prev(&mut self) -> Result<(), MapError> {
        self.count();
        self.cursor.prev()
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.cursor.entry()
    }
}

/// Carries out a slot of one command.
fn apply(machine: &mut StateMachine<Counted>, operation: Operation) -> Outcome {
    let slot = machine.applied_slot() + 1;
    let id = ServerId { origin: 1, incarnation: 1, sequence: slot };
    let command = Command { idempotency: None, operation };
    let taken = machine.apply(slot, slot, &[(id, command)]).unwrap().pop();
    let Some(Taken::Applied { outcome, .. }) = taken else { panic!("{taken:?}") };
    outcome
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("{number:06}"))
}

fn range(start: u64, end: Option<u64>) -> TxnOperation {
    TxnOperation::Range { start: key(start), end: end.map(key), limit: 1_000, keys_only: true }
}

fn put(number: u64) -> Operation {
    let (value, condition) = (Bytes::from_static(b"v"), Condition::Always);
    Operation::Put { key: key(number), value, condition, want_previous: false }
}

fn delete_range(start: u64, end: Option<u64>) -> Operation {
    Operation::DeleteRange { start: key(start), end: end.map(key), limit: 1 << 20 }
}

fn txn(success: Vec<TxnOperation>) -> Operation {
    Operation::Txn(Txn { success, ..Txn::default() })
}

/// A transaction may have a thousand ranges, and others follow it.
#[test]
fn what_is_compacted_is_passed_once_by_however_many_ranges() {
    const KEYS: u64 = 5_000;
    let mut machine =
        StateMachine::open(Counted::default(), KvOptions::default()).expect("a new map");
    (0..KEYS).for_each(|number| drop(apply(&mut machine, put(number))));
    apply(&mut machine, delete_range(0, None));
    apply(&mut machine, put(KEYS));
    let revision = machine.revision();
    apply(&mut machine, Operation::Compact { revision });
    machine.commit().expect("written");
    let moves = machine.map().moves.clone();
    let mut took = |operation| {
        let before = moves.get();
        let outcome = apply(&mut machine, operation);
        (outcome, moves.get() - before)
    };
    let (first, once) = took(txn(vec![range(0, None)]));
    assert!(once >= KEYS, "{once} moves: all of it is in the map");
    let (_, more) = took(txn(vec![range(0, None); 1_000]));
    assert!(more < once, "{more} moves for a thousand ranges, {once} for one");
    let (again, few) = took(txn(vec![range(0, None)]));
    assert_eq!(again, first);
    assert!(few < 10, "{few} moves");
    // What is written in between takes nothing away.
    took(put(KEYS / 2));
    let (_, few) = took(txn(vec![range(0, None)]));
    assert!(few < 20, "{few} moves");
}

fn operation() -> impl Strategy<Value = Operation> {
    let end = |start: u64| prop::option::of(start..65);
    let bounds = || (0u64..60).prop_flat_map(move |start| (Just(start), end(start)));
    let part = prop_oneof![
        bounds().prop_map(|(start, end)| range(start, end)),
        bounds().prop_map(|(start, end)| TxnOperation::Range {
            start: key(start),
            end: end.map(key),
            limit: 2,
            keys_only: false,
        }),
        (0u64..64).prop_map(|number| TxnOperation::Put {
            key: key(number),
            value: Bytes::from_static(b"t"),
            lease: None,
            want_previous: false,
        }),
        bounds().prop_map(|(start, end)| TxnOperation::DeleteRange {
            start: key(start),
            end: end.map(key),
            limit: 9,
        }),
    ];
    prop_oneof![
        4 => (0u64..64).prop_map(put),
        2 => bounds().prop_map(|(start, end)| delete_range(start, end)),
        6 => prop::collection::vec(part, 1..5)
            .prop_map(|success| Txn { success, ..Txn::default() })
            .prop_filter("a key is written twice", |txn| txn.check().is_ok())
            .prop_map(Operation::Txn),
        2 => Just(Operation::Compact { revision: synod_kv::Revision(0) }),
    ]
}

proptest! {
    /// Whether a replica remembers what it passed or was started a moment ago, and whenever it
    /// commits, everything comes to the same.
    #[test]
    fn what_is_remembered_changes_no_outcome(
        commands in prop::collection::vec((operation(), any::<bool>()), 1..80),
    ) {
        let options = KvOptions {
            txn_answer_bytes_max: 400,
            range_passes_max: 5,
            ..KvOptions::default()
        };
        let open = |map: Counted| StateMachine::open(map, options.clone()).expect("a map");
        let (mut keeps, mut forgets) = (open(Counted::default()), open(Counted::default()));
        let fill: Vec<Operation> = (0..64).map(put).chain([delete_range(3, None)]).collect();
        let fill = fill.into_iter().map(|operation| (operation, false));
        for (mut operation, commits) in fill.chain(commands) {
            if let Operation::Compact { revision } = &mut operation {
                *revision = keeps.revision();
            }
            if commits {
                keeps.commit().expect("written");
            }
            forgets.commit().expect("written");
            forgets = open(forgets.map().clone());
            prop_assert_eq!(apply(&mut keeps, operation.clone()), apply(&mut forgets, operation));
            prop_assert_eq!(keeps.state_hash(), forgets.state_hash());
        }
    }
}
