//! What one revision may take of the memory of a node.

use bytes::Bytes;
use synod_kv::read::{ChangePoint, changes_where};
use synod_kv::{
    Command, KvOptions, MemoryMap, Operation, Revision, ServerId, StateMachine, Txn, TxnOperation,
};

use crate::limits::Limits;
use crate::watch::hub::{Hub, VISITS_MAX};
use crate::watch::index::Range;
use crate::watch::queue::{ITEM_BYTES, Mode};

/// A state in which one revision removed so many keys, and that revision.
fn removed_at_once(keys: usize) -> (StateMachine<MemoryMap>, Revision) {
    let options = KvOptions { delete_range_keys_max: 1 << 20, ..KvOptions::default() };
    let mut machine = StateMachine::open(MemoryMap::new(), options).unwrap();
    let put = |number: usize| TxnOperation::Put {
        key: Bytes::from(format!("{number:06}")),
        value: Bytes::new(),
        lease: None,
        want_previous: false,
    };
    let success = (0..keys).map(put).collect();
    let remove = Operation::DeleteRange { start: Bytes::new(), end: None, limit: 1 << 20 };
    let operations = [Operation::Txn(Txn { success, ..Txn::default() }), remove];
    for (sequence, operation) in (1..).zip(operations) {
        let id = ServerId { origin: 1, incarnation: 1, sequence };
        let command = Command { idempotency: None, operation };
        machine.apply(sequence, sequence, &[(id, command)]).unwrap();
        machine.commit().unwrap();
    }
    let revision = machine.revision();
    (machine, revision)
}

/// How a watch of all keys gets a revision of so many changes, which all fit into its queue.
fn mode_after(changes: usize) -> Mode {
    let (machine, revision) = removed_at_once(changes);
    let limits = Limits {
        watch_queue_events_max: 1 << 20,
        watch_queue_bytes_max: 1 << 24,
        ..Limits::default()
    };
    let hub = Hub::new(&limits);
    let all = Range { start: Bytes::new(), end: None };
    let watch = hub.open(all, false, ChangePoint::at(revision));
    assert!(hub.join(&watch));
    hub.hand_out(|query, index| changes_where(machine.map(), query, |key| index.has(key)));
    let mut queue = watch.queue();
    let expected = if matches!(queue.mode, Mode::Live(_)) { changes } else { 0 };
    assert_eq!(queue.take(usize::MAX).len(), expected, "all of a revision, or nothing");
    queue.mode
}

#[test]
fn a_revision_of_very_many_changes_is_read_by_each_watch_for_itself() {
    assert!(matches!(mode_after(2 * VISITS_MAX), Mode::Live(_)));
    let behind = mode_after(2 * VISITS_MAX + 1);
    assert_eq!(behind, Mode::Behind(ChangePoint::at(Revision(2))));
}

fn range_of(start: &'static str, end: &'static str) -> Range {
    Range { start: Bytes::from(start), end: Some(Bytes::from(end)) }
}

/// Who watches other keys has nothing to read.
#[test]
fn a_revision_of_very_many_changes_is_nothing_to_those_who_watch_other_keys() {
    let (machine, revision) = removed_at_once(2 * VISITS_MAX + 1);
    let hub = Hub::new(&Limits::default());
    let [told, other] = [range_of("0", "1"), range_of("a", "b")].map(|range| {
        let watch = hub.open(range, false, ChangePoint::at(revision));
        assert!(hub.join(&watch));
        watch
    });
    let look =
        || hub.hand_out(|query, wanted| changes_where(machine.map(), query, |key| wanted.has(key)));
    assert!(look(), "there may be more");
    assert_eq!(told.queue().mode, Mode::Behind(ChangePoint::at(revision)));
    assert_eq!(other.queue().mode, Mode::Live(revision));
    assert!(!look());
    assert_eq!(hub.progress(&other), Some(revision), "it has everything");
}

/// A machine with so many revisions of one key.
fn written_often(revisions: u64) -> StateMachine<MemoryMap> {
    let mut machine = StateMachine::open(MemoryMap::new(), KvOptions::default()).unwrap();
    for sequence in 1..=revisions {
        let key = Bytes::from_static(b"key");
        let put = TxnOperation::Put { key, value: Bytes::new(), lease: None, want_previous: false };
        let operation = Operation::Txn(Txn { success: vec![put], ..Txn::default() });
        let id = ServerId { origin: 1, incarnation: 1, sequence };
        let command = Command { idempotency: None, operation };
        machine.apply(sequence, sequence, &[(id, command)]).unwrap();
    }
    machine.commit().unwrap();
    machine
}

/// Many watches of many changes: others have their turn in between, and nothing is missed.
#[test]
fn one_look_puts_so_much_into_queues_at_most() {
    let (watches, revisions) = (300, 200);
    let machine = written_often(revisions);
    let hub = Hub::new(&Limits::default());
    let all: Vec<_> = (0..watches)
        .map(|_| {
            let all = Range { start: Bytes::new(), end: None };
            let watch = hub.open(all, false, ChangePoint::at(Revision(1)));
            assert!(hub.join(&watch));
            watch
        })
        .collect();
    let look =
        || hub.hand_out(|query, wanted| changes_where(machine.map(), query, |key| wanted.has(key)));
    let mut looks = 1;
    while look() {
        looks += 1;
    }
    assert!(looks >= 3, "{looks}");
    for watch in all {
        assert_eq!(watch.queue().take(usize::MAX).len() as u64, revisions);
    }
}

/// What lies in queues counts for the node also where all of them share the events.
#[test]
fn many_watches_that_take_nothing_hold_no_more_than_all_may() {
    let limits = Limits { watch_held_bytes_max: 300_000, ..Limits::default() };
    let (watches, revisions) = (1_000, 100);
    let machine = written_often(revisions);
    let hub = Hub::new(&limits);
    let all: Vec<_> = (0..watches)
        .map(|_| {
            let all = Range { start: Bytes::new(), end: None };
            let watch = hub.open(all, false, ChangePoint::at(Revision(1)));
            assert!(hub.join(&watch));
            watch
        })
        .collect();
    while hub.hand_out(|query, wanted| changes_where(machine.map(), query, |key| wanted.has(key))) {
    }
    let most = limits.watch_held_bytes_max + 100_000;
    let rooms = all.iter().map(|watch| watch.queue().capacity()).sum::<usize>() * ITEM_BYTES;
    assert!((100_000..most + 64_000).contains(&rooms), "{rooms}");
    assert!(hub.held_bytes() < most, "{}", hub.held_bytes());
    for (number, watch) in all.into_iter().enumerate() {
        if number % 2 == 0 {
            hub.leave(&watch, ChangePoint::at(Revision(1)));
        }
        hub.close(&watch);
    }
    assert_eq!(hub.held_bytes(), 0);
}
