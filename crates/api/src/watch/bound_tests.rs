//! What one revision may take of the memory of a node.

use bytes::Bytes;
use synod_kv::read::{ChangePoint, changes_where};
use synod_kv::{
    Command, KvOptions, MemoryMap, Operation, Revision, ServerId, StateMachine, Txn, TxnOperation,
};

use crate::limits::Limits;
use crate::watch::hub::{Hub, Mode, VISITS_MAX};
use crate::watch::index::Range;

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
