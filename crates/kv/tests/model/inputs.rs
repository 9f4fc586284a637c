//! Commands and slots of any kind.

use bytes::Bytes;
use proptest::prelude::*;
use synod_kv::{
    Command, Compare, Condition, IdempotencyKey, LeaseEpoch, LeaseId, LeaseOperation, Operation,
    Relation, Revision, ServerId, Target, Txn, TxnOperation,
};

/// A slot, and what the machine under test does around it.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) passed_ms: u64,
    pub(crate) commands: Vec<(u8, Command)>,
    pub(crate) commit: bool,
    pub(crate) reopen: bool,
    pub(crate) sweep: bool,
}

pub(crate) fn key() -> impl Strategy<Value = Bytes> {
    let bytes = prop::sample::select(vec![0u8, 1, b'a', 0xff]);
    prop::collection::vec(bytes, 0..3).prop_map(Bytes::from)
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        4 => Just(Condition::Always),
        1 => Just(Condition::Absent),
        1 => Just(Condition::Exists),
        2 => (0u64..40).prop_map(|revision| Condition::At(Revision(revision))),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        5 => (key(), value(), condition(), any::<bool>()).prop_map(
            |(key, value, condition, want_previous)| {
                Operation::Put { key, value, condition, want_previous }
            }
        ),
        3 => (key(), condition(), any::<bool>()).prop_map(|(key, condition, want_previous)| {
            Operation::Delete { key, condition, want_previous }
        }),
        1 => (key(), prop::option::of(key()), 0u32..7)
            .prop_map(|(start, end, limit)| Operation::DeleteRange { start, end, limit }),
        5 => txn().prop_map(Operation::Txn),
        1 => (0u64..40).prop_map(|revision| Operation::Compact { revision: Revision(revision) }),
        2 => lease_operation().prop_map(Operation::Lease),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from),
        // So long that a transaction can't bring many of them back.
        1 => Just(Bytes::from_static(&[7; 40])),
    ]
}

fn txn() -> impl Strategy<Value = Txn> {
    let relation = prop::sample::select(vec![
        Relation::Equal,
        Relation::NotEqual,
        Relation::Less,
        Relation::Greater,
    ]);
    let target = prop_oneof![
        value().prop_map(Target::Value),
        (0u64..4).prop_map(Target::Version),
        (0u64..40).prop_map(|revision| Target::Create(Revision(revision))),
        (0u64..40).prop_map(|revision| Target::Mod(Revision(revision))),
        prop_oneof![Just(0), lease().prop_map(|id| id.0)].prop_map(Target::Lease),
    ];
    let compare = (key(), relation, target).prop_map(|(key, relation, target)| Compare {
        key,
        relation,
        target,
    });
    let branch = || {
        prop::collection::vec(txn_operation(), 0..5).prop_map(|mut branch| {
            // A write that meets one before it is left out.
            let mut kept = Txn::default();
            for operation in branch.drain(..) {
                kept.success.push(operation);
                if kept.check().is_err() {
                    kept.success.pop();
                }
            }
            kept.success
        })
    };
    (prop::collection::vec(compare, 0..3), branch(), branch())
        .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
}

fn txn_operation() -> impl Strategy<Value = TxnOperation> {
    let lease = prop::option::weighted(0.6, lease());
    let range = || (key(), prop::option::of(key()), 0u32..7);
    prop_oneof![
        4 => (key(), value(), lease, any::<bool>()).prop_map(|(key, value, lease, want_previous)| {
            TxnOperation::Put { key, value, lease, want_previous }
        }),
        2 => (key(), any::<bool>())
            .prop_map(|(key, want_previous)| TxnOperation::Delete { key, want_previous }),
        1 => range().prop_map(|(start, end, limit)| TxnOperation::DeleteRange { start, end, limit }),
        2 => key().prop_map(|key| TxnOperation::Get { key }),
        2 => (range(), any::<bool>()).prop_map(|((start, end, limit), keys_only)| {
            TxnOperation::Range { start, end, limit, keys_only }
        }),
    ]
}

/// One that a client chose, or one of those that leases get by themselves.
fn lease() -> impl Strategy<Value = LeaseId> {
    let automatic = |at| LeaseId(LeaseId::AUTOMATIC_FIRST.0 + at);
    prop_oneof![2 => (1u64..4).prop_map(LeaseId), 1 => (0u64..3).prop_map(automatic)]
}

fn lease_operation() -> impl Strategy<Value = LeaseOperation> {
    let id = lease;
    prop_oneof![
        5 => (prop::option::of(id()), 0u64..99)
            .prop_map(|(id, ttl_ms)| LeaseOperation::Grant { id, ttl_ms }),
        1 => id().prop_map(|id| LeaseOperation::Revoke { id }),
        1 => prop::collection::vec(id(), 0..3).prop_map(|ids| LeaseOperation::KeepAlive { ids }),
        1 => Just(LeaseOperation::BeginEpoch),
        2 => (id(), 0u64..2, 1u64..20).prop_map(|(id, epoch, renewals)| {
            LeaseOperation::Expire { id, epoch: LeaseEpoch(epoch), renewals }
        }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let idempotency = (0u8..6, 0u128..2, 0u64..1_000).prop_map(|(key, request_hash, asked_ms)| {
        IdempotencyKey { key: Bytes::from(vec![key]), request_hash, asked_ms }
    });
    (prop::option::weighted(0.4, idempotency), operation())
        .prop_map(|(idempotency, operation)| Command { idempotency, operation })
}

pub(crate) fn slots() -> impl Strategy<Value = Vec<Slot>> {
    let slot = (
        0u64..60,
        prop::collection::vec((any::<u8>(), command()), 0..8),
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(passed_ms, commands, commit, reopen, sweep)| Slot {
            passed_ms,
            commands,
            commit,
            reopen,
            sweep,
        });
    prop::collection::vec(slot, 1..30)
}

/// Server ids as senders make them: mostly the next one, sometimes again, too
/// far, of a new life or of an old one.
#[derive(Default)]
pub(crate) struct Senders([(u64, u64); 3]);

impl Senders {
    pub(crate) fn id(&mut self, choice: u8) -> ServerId {
        let sender = &mut self.0[usize::from(choice % 3)];
        if choice / 3 < 4 {
            *sender = (sender.0 + 1, 0);
        }
        let (incarnation, sequence) = match choice / 3 {
            4..8 => (sender.0, sender.1),
            8..12 => (sender.0, sender.1 + 2),
            12..14 => (sender.0.saturating_sub(1), sender.1 + 1),
            14..16 => (sender.0.saturating_sub(1), 1),
            _ => {
                sender.1 += 1;
                *sender
            }
        };
        ServerId { origin: u32::from(choice % 3), incarnation, sequence }
    }
}
