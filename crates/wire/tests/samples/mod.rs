//! One message of each kind in which no two fields are equal, so that a swapped
//! pair shows, and strategies for random ones.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use synod_kv::{
    Command, Compare, Condition, IdempotencyKey, LeaseEpoch, LeaseId, LeaseOperation, Operation,
    Relation, Revision, Target, Txn, TxnOperation,
};
use synod_paxos::{
    Accept, Accepted, AcceptedSlot, Ballot, Chosen, Configuration, Fetch, Handover, Heartbeat,
    Message, NodeId, Position, Prepare, Promise, ReadEcho, ReadIndex, ReadIndexAnswer, Reject,
    RejectReason, Room, Slot, Standing, Value, Watermark,
};
use synod_wire::{
    About, AboutMember, Facts, Forward, Handshake, Hello, Lane, PeerMessage, Refusal,
    RefusalReason, SnapshotGone, SnapshotMessage, Versions, Welcome,
};

/// Gives numbers of which no two are equal, nor are any two of their bytes zero.
struct Distinct(u64);

impl Distinct {
    fn u64(&mut self) -> u64 {
        self.0 += 1;
        0x0101_0000_0000_0000 + self.0 * 0x0000_0100_0001_0001
    }

    fn u128(&mut self) -> u128 {
        u128::from(self.u64()) << 64 | u128::from(self.u64())
    }

    fn u32(&mut self) -> u32 {
        self.0 += 1;
        0x7100_0000 + u32::try_from(self.0).unwrap() * 0x0001_0001
    }

    fn versions(&mut self) -> Versions {
        Versions { newest: self.u32(), oldest: self.u32() }
    }

    fn slot(&mut self) -> Slot {
        Slot(self.u64())
    }

    fn ballot(&mut self) -> Ballot {
        Ballot { round: self.u64(), node: NodeId(self.u32()) }
    }

    fn value(&mut self) -> Value {
        Value::Batch(self.bytes())
    }

    fn bytes(&mut self) -> Bytes {
        Bytes::from(format!("bytes {}", self.u32()))
    }

    fn watermark(&mut self) -> Watermark {
        Watermark { ballot: self.ballot(), chosen_upto: self.slot(), read_round: self.u64() }
    }

    fn facts(&mut self) -> Facts {
        Facts {
            cluster: u128::from(self.u64()) << 64 | u128::from(self.u64()),
            node: NodeId(self.u32()),
            store: u128::from(self.u64()) << 64 | u128::from(self.u64()),
            incarnation: self.u64(),
            process: self.u64(),
            promised: self.ballot(),
            position: Position(self.u64()),
            founded: None,
        }
    }
}

/// Every kind of message between peers, with a name.
pub(crate) fn peer_messages() -> Vec<(&'static str, PeerMessage)> {
    let mut d = Distinct(0);
    let d = &mut d;
    let mut all = phases(d);
    all.extend(liveness(d));
    let forward = Forward { may_relay: true, commands: vec![entry(d), entry(d)] };
    let mut all: Vec<_> =
        all.into_iter().map(|(name, message)| (name, PeerMessage::Paxos(message))).collect();
    let added = membership(&mut Distinct(300)).into_iter();
    all.extend(added.map(|(name, message)| (name, PeerMessage::Paxos(message))));
    all.push(("forward", PeerMessage::Forward(forward)));
    let snapshots = snapshots(d).into_iter();
    all.extend(snapshots.map(|(name, message)| (name, PeerMessage::Snapshot(message))));
    all
}

fn snapshots(d: &mut Distinct) -> Vec<(&'static str, SnapshotMessage)> {
    let files = |d: &mut Distinct| {
        vec![("000007.sst".to_owned(), d.u64()), ("CURRENT".to_owned(), d.u64())]
    };
    vec![
        ("snapshot-open", SnapshotMessage::Open { fetch: d.u64(), above: d.slot() }),
        (
            "snapshot-manifest",
            SnapshotMessage::Manifest {
                fetch: d.u64(),
                id: d.u128(),
                slot: d.slot(),
                files: files(d),
            },
        ),
        (
            "snapshot-read",
            SnapshotMessage::Read {
                id: d.u128(),
                file: d.u32(),
                offset: d.u64(),
                bytes_max: d.u32(),
            },
        ),
        (
            "snapshot-chunk",
            SnapshotMessage::Chunk {
                id: d.u128(),
                file: d.u32(),
                offset: d.u64(),
                checksum: d.u32(),
                file_checksum: d.u32(),
                bytes: d.bytes(),
            },
        ),
        (
            "snapshot-gone",
            SnapshotMessage::Gone { fetch: d.u64(), id: d.u128(), reason: SnapshotGone::Dropped },
        ),
    ]
}

fn entry(d: &mut Distinct) -> Bytes {
    let id = synod_kv::ServerId { origin: d.u32(), incarnation: d.u64(), sequence: d.u64() };
    synod_wire::batch::encode_entry(id, &d.bytes())
}

fn phases(d: &mut Distinct) -> Vec<(&'static str, Message)> {
    vec![
        ("prepare", Message::Prepare(Prepare { ballot: d.ballot(), from: d.slot() })),
        (
            "promise",
            Message::Promise(Promise {
                ballot: d.ballot(),
                from: d.slot(),
                chosen_upto: d.slot(),
                answer: d.u64(),
                page: d.u32(),
                pages: d.u32(),
                accepted: vec![
                    AcceptedSlot {
                        slot: d.slot(),
                        standing: Standing::Accepted(d.ballot()),
                        value: d.value(),
                    },
                    AcceptedSlot { slot: d.slot(), standing: Standing::Chosen, value: Value::Noop },
                ],
            }),
        ),
        (
            "accept",
            Message::Accept(Accept {
                ballot: d.ballot(),
                slot: d.slot(),
                value: d.value(),
                chosen_upto: d.slot(),
                read_round: d.u64(),
            }),
        ),
        (
            "accepted",
            Message::Accepted(Accepted {
                ballot: d.ballot(),
                first: d.slot(),
                last: d.slot(),
                read_round: d.u64(),
            }),
        ),
        ("reject-promised", reject(d, |d| RejectReason::Promised(d.ballot()))),
        ("reject-too-far-behind", reject(d, |d| RejectReason::TooFarBehind(d.slot()))),
        ("reject-truncated", reject(d, |d| RejectReason::Truncated(d.slot()))),
        ("reject-beyond-window", reject(d, |d| RejectReason::BeyondWindow(d.slot()))),
    ]
}

fn membership(d: &mut Distinct) -> Vec<(&'static str, Message)> {
    let no_member =
        |d: &mut Distinct| RejectReason::NoMember { number: d.u64(), witnesses: d.u32() };
    vec![
        ("reject-no-voter", reject(d, |d| RejectReason::NoVoter(d.u64()))),
        ("reject-no-member", reject(d, no_member)),
        (
            "accept-configuration",
            Message::Accept(Accept {
                ballot: d.ballot(),
                slot: d.slot(),
                value: configuration(d),
                chosen_upto: d.slot(),
                read_round: d.u64(),
            }),
        ),
    ]
}

fn configuration(d: &mut Distinct) -> Value {
    let voters = vec![NodeId(d.u32()), NodeId(d.u32()), NodeId(d.u32())];
    let learners = vec![NodeId(d.u32()), NodeId(d.u32())];
    let configuration = Configuration::new(voters, 1, 3, 0x0A_1B2C).unwrap();
    let configuration = configuration.with_learners(learners).unwrap().numbered(d.u64());
    Value::Configuration(Arc::new(configuration.with_about(d.bytes()).unwrap()))
}

fn reject(d: &mut Distinct, reason: impl FnOnce(&mut Distinct) -> RejectReason) -> Message {
    Message::Reject(Reject { ballot: d.ballot(), reason: reason(d) })
}

fn liveness(d: &mut Distinct) -> Vec<(&'static str, Message)> {
    vec![
        ("watermark", Message::Watermark(d.watermark())),
        ("read-echo", Message::ReadEcho(ReadEcho { ballot: d.ballot(), read_round: d.u64() })),
        ("read-index", Message::ReadIndex(ReadIndex { nonce: d.u64() })),
        (
            "read-index-answer",
            Message::ReadIndexAnswer(ReadIndexAnswer { nonce: d.u64(), index: Some(d.slot()) }),
        ),
        (
            "read-index-refusal",
            Message::ReadIndexAnswer(ReadIndexAnswer { nonce: d.u64(), index: None }),
        ),
        ("heartbeat", heartbeat(d)),
        (
            "heartbeat-follower",
            match heartbeat(d) {
                Message::Heartbeat(beat) => Message::Heartbeat(Heartbeat {
                    following: None,
                    leading: None,
                    hears: Vec::new(),
                    ..beat
                }),
                other => other,
            },
        ),
        ("fetch", Message::Fetch(Fetch { nonce: d.u64(), first: d.slot(), last: d.slot() })),
        (
            "chosen",
            Message::Chosen(Chosen {
                nonce: d.u64(),
                first: d.slot(),
                values: vec![d.value(), Value::Noop, Value::Batch(Bytes::new()), d.value()],
            }),
        ),
        ("handover", Message::Handover(Handover { ballot: d.ballot(), chosen_upto: d.slot() })),
    ]
}

fn heartbeat(d: &mut Distinct) -> Message {
    Message::Heartbeat(Heartbeat {
        sequence: d.u64(),
        echo: d.u64(),
        promised: d.ballot(),
        following: Some(d.ballot()),
        leading: Some(d.watermark()),
        chosen_upto: d.slot(),
        available_from: d.slot(),
        last_accepted: (d.ballot(), d.slot()),
        durable_upto: d.slot(),
        configuration: 0x0203_0405_0607_0809,
        room: Room::Out,
        leader_priority: 0xA7,
        disk_age_us: d.u64(),
        echo_held_us: d.u64(),
        hears: vec![NodeId(d.u32()), NodeId(d.u32())],
        state: (d.slot(), d.u64()),
        state_copied_upto: d.slot(),
        position: Position(d.u64()),
    })
}

/// Every kind of handshake, with a name.
pub(crate) fn handshakes() -> Vec<(&'static str, Handshake)> {
    let mut d = Distinct(100);
    let d = &mut d;
    let mut all = vec![
        (
            "hello",
            Handshake::Hello(Hello {
                versions: d.versions(),
                facts: d.facts(),
                lane: Lane::Control,
                to: NodeId(d.u32()),
            }),
        ),
        (
            "hello-bulk",
            Handshake::Hello(Hello {
                versions: d.versions(),
                facts: d.facts(),
                lane: Lane::Bulk,
                to: NodeId(d.u32()),
            }),
        ),
        ("welcome", Handshake::Welcome(Welcome { versions: d.versions(), facts: d.facts() })),
    ];
    for (name, reason) in [
        ("refusal-protocol", RefusalReason::Protocol),
        ("refusal-cluster", RefusalReason::Cluster),
        ("refusal-addressee", RefusalReason::Addressee),
        ("refusal-member", RefusalReason::Member),
        ("refusal-store", RefusalReason::Store),
        ("refusal-went-back", RefusalReason::WentBack),
        ("refusal-incarnation", RefusalReason::Incarnation),
        ("refusal-removed", RefusalReason::Removed { number: d.u64(), witnesses: d.u32() }),
    ] {
        all.push((name, Handshake::Refusal(Refusal { reason, text: format!("because: {name}") })));
    }
    // As releases write them that say what their cluster began with.
    let (versions, founded) = (d.versions(), Some(d.u64()));
    let facts = Facts { founded, ..d.facts() };
    let (lane, to) = (Lane::Bulk, NodeId(d.u32()));
    all.push(("hello-founded", Handshake::Hello(Hello { versions, facts, lane, to })));
    all.push(("welcome-founded", Handshake::Welcome(Welcome { versions, facts })));
    all
}

/// What a configuration says about its members.
pub(crate) fn about() -> About {
    let mut d = Distinct(400);
    let mut member = |store| AboutMember {
        node: NodeId(d.u32()),
        store,
        peer: format!("host-{}:7011", d.u32()),
        client_url: format!("http://host-{}:7001", d.u32()),
    };
    let members = vec![member(Some(0x0123_4567_89AB_CDEF_0011_2233_4455_6677)), member(None)];
    About { ids_used_upto: 0x7200_0000, members }
}

/// Every kind of command, with a name.
pub(crate) fn commands() -> Vec<(&'static str, Command)> {
    let mut d = Distinct(200);
    let d = &mut d;
    let name = |d: &mut Distinct| {
        Some(IdempotencyKey {
            key: d.bytes(),
            request_hash: u128::from(d.u64()) << 64 | u128::from(d.u64()),
            asked_ms: d.u64(),
        })
    };
    let put = |d: &mut Distinct, condition, want_previous| Operation::Put {
        key: d.bytes(),
        value: d.bytes(),
        condition,
        want_previous,
    };
    let at = Condition::At(Revision(d.u64()));
    vec![
        ("put", Command { idempotency: None, operation: put(d, Condition::Always, false) }),
        (
            "put-absent",
            Command { idempotency: name(d), operation: put(d, Condition::Absent, true) },
        ),
        ("put-exists", Command { idempotency: None, operation: put(d, Condition::Exists, false) }),
        ("put-at", Command { idempotency: name(d), operation: put(d, at, false) }),
        (
            "delete",
            Command {
                idempotency: None,
                operation: Operation::Delete { key: d.bytes(), condition: at, want_previous: true },
            },
        ),
        (
            "delete-range",
            Command {
                idempotency: name(d),
                operation: Operation::DeleteRange {
                    start: d.bytes(),
                    end: Some(d.bytes()),
                    limit: d.u32(),
                },
            },
        ),
        (
            "delete-to-the-end",
            Command {
                idempotency: None,
                operation: Operation::DeleteRange { start: d.bytes(), end: None, limit: d.u32() },
            },
        ),
        ("transaction", Command { idempotency: name(d), operation: Operation::Txn(txn(d)) }),
        (
            "transaction-empty",
            Command { idempotency: None, operation: Operation::Txn(Txn::default()) },
        ),
        (
            "compact",
            Command {
                idempotency: None,
                operation: Operation::Compact { revision: Revision(d.u64()) },
            },
        ),
    ]
    .into_iter()
    .chain(lease_operations(d).into_iter().map(|(name, operation)| {
        (name, Command { idempotency: None, operation: Operation::Lease(operation) })
    }))
    .collect()
}

fn txn(d: &mut Distinct) -> Txn {
    let compare = |d: &mut Distinct, relation, target| Compare { key: d.bytes(), relation, target };
    let compares = vec![
        {
            let value = Target::Value(d.bytes());
            compare(d, Relation::Equal, value)
        },
        {
            let version = Target::Version(d.u64());
            compare(d, Relation::NotEqual, version)
        },
        {
            let create = Target::Create(Revision(d.u64()));
            compare(d, Relation::Less, create)
        },
        {
            let changed = Target::Mod(Revision(d.u64()));
            compare(d, Relation::Greater, changed)
        },
        {
            let lease = Target::Lease(d.u64());
            compare(d, Relation::Equal, lease)
        },
    ];
    let success = vec![
        TxnOperation::Put { key: d.bytes(), value: d.bytes(), lease: None, want_previous: true },
        TxnOperation::Put {
            key: d.bytes(),
            value: d.bytes(),
            lease: Some(LeaseId(d.u64())),
            want_previous: false,
        },
        TxnOperation::Delete { key: d.bytes(), want_previous: true },
        TxnOperation::DeleteRange { start: d.bytes(), end: Some(d.bytes()), limit: d.u32() },
    ];
    let failure = vec![
        TxnOperation::DeleteRange { start: d.bytes(), end: None, limit: d.u32() },
        TxnOperation::Get { key: d.bytes() },
        TxnOperation::Range {
            start: d.bytes(),
            end: Some(d.bytes()),
            limit: d.u32(),
            keys_only: true,
        },
        TxnOperation::Range { start: d.bytes(), end: None, limit: d.u32(), keys_only: false },
    ];
    Txn { compares, success, failure }
}

fn lease_operations(d: &mut Distinct) -> Vec<(&'static str, LeaseOperation)> {
    let id = LeaseId(d.u64());
    vec![
        ("lease-grant", LeaseOperation::Grant { id: Some(id), ttl_ms: d.u64() }),
        ("lease-grant-any", LeaseOperation::Grant { id: None, ttl_ms: d.u64() }),
        ("lease-revoke", LeaseOperation::Revoke { id: LeaseId(d.u64()) }),
        (
            "lease-keep-alive",
            LeaseOperation::KeepAlive { ids: vec![LeaseId(d.u64()), LeaseId(d.u64())] },
        ),
        ("lease-begin-epoch", LeaseOperation::BeginEpoch),
        (
            "lease-expire",
            LeaseOperation::Expire {
                id: LeaseId(d.u64()),
                epoch: LeaseEpoch(d.u64()),
                renewals: d.u64(),
            },
        ),
    ]
}

fn ballot() -> impl Strategy<Value = Ballot> {
    (any::<u64>(), any::<u32>()).prop_map(|(round, node)| Ballot { round, node: NodeId(node) })
}

fn slot() -> impl Strategy<Value = Slot> {
    any::<u64>().prop_map(Slot)
}

pub(crate) fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Noop),
        bytes(200).prop_map(Value::Batch),
        any_configuration().prop_map(|new| Value::Configuration(Arc::new(new))),
    ]
}

pub(crate) fn any_configuration() -> impl Strategy<Value = Configuration> {
    let ids = vec(1..200_u32, 1..Configuration::MEMBERS_MAX);
    let sizes = (0..31_usize, 0..31_usize, 0..31_usize);
    (ids, sizes, 1..=Configuration::ALPHA_MAX, any::<u64>(), bytes(100)).prop_map(
        |(mut ids, (split, q1, more), alpha, number, about)| {
            ids.sort_unstable();
            ids.dedup();
            let mut voters: Vec<NodeId> = ids.into_iter().map(NodeId).collect();
            let learners = voters.split_off(1 + split % voters.len());
            let (q1, count) = (1 + q1 % voters.len(), voters.len());
            let q2 = count + 1 - q1 + more % q1;
            let configuration = Configuration::new(voters, q1, q2, alpha).unwrap();
            let configuration = configuration.with_learners(learners).unwrap();
            configuration.with_about(about).unwrap().numbered(number)
        },
    )
}

fn watermark() -> impl Strategy<Value = Watermark> {
    (ballot(), slot(), any::<u64>()).prop_map(|(ballot, chosen_upto, read_round)| Watermark {
        ballot,
        chosen_upto,
        read_round,
    })
}

fn accepted_slot() -> impl Strategy<Value = AcceptedSlot> {
    let standing = prop_oneof![Just(Standing::Chosen), ballot().prop_map(Standing::Accepted)];
    (slot(), standing, value()).prop_map(|(slot, standing, value)| AcceptedSlot {
        slot,
        standing,
        value,
    })
}

fn any_phase() -> impl Strategy<Value = Message> {
    let reason = prop_oneof![
        ballot().prop_map(RejectReason::Promised),
        slot().prop_map(RejectReason::TooFarBehind),
        slot().prop_map(RejectReason::Truncated),
        slot().prop_map(RejectReason::BeyondWindow),
        any::<u64>().prop_map(RejectReason::NoVoter),
        (any::<u64>(), any::<u32>())
            .prop_map(|(number, witnesses)| RejectReason::NoMember { number, witnesses }),
    ];
    prop_oneof![
        (ballot(), slot()).prop_map(|(ballot, from)| Message::Prepare(Prepare { ballot, from })),
        (
            ballot(),
            slot(),
            slot(),
            any::<u64>(),
            any::<u32>(),
            any::<u32>(),
            vec(accepted_slot(), 0..5)
        )
            .prop_map(|(ballot, from, chosen_upto, answer, page, pages, accepted)| {
                Message::Promise(Promise {
                    ballot,
                    from,
                    chosen_upto,
                    answer,
                    page,
                    pages,
                    accepted,
                })
            }),
        (ballot(), slot(), value(), slot(), any::<u64>()).prop_map(
            |(ballot, slot, value, chosen_upto, read_round)| {
                Message::Accept(Accept { ballot, slot, value, chosen_upto, read_round })
            }
        ),
        (ballot(), slot(), slot(), any::<u64>()).prop_map(|(ballot, first, last, read_round)| {
            Message::Accepted(Accepted { ballot, first, last, read_round })
        }),
        (ballot(), reason).prop_map(|(ballot, reason)| Message::Reject(Reject { ballot, reason })),
    ]
}

fn any_heartbeat() -> impl Strategy<Value = Message> {
    (
        (any::<u64>(), any::<u64>(), ballot(), option::of(ballot()), option::of(watermark())),
        (slot(), slot(), ballot(), slot(), slot(), any::<u64>(), slot(), any::<u64>()),
        vec(any::<u32>().prop_map(NodeId), 0..8),
    )
        .prop_map(|((sequence, echo, promised, following, leading), rest, hears)| {
            let (chosen_upto, available_from, ballot, slot, durable_upto, age, at, hash) = rest;
            Message::Heartbeat(Heartbeat {
                sequence,
                echo,
                promised,
                following,
                leading,
                chosen_upto,
                available_from,
                last_accepted: (ballot, slot),
                durable_upto,
                configuration: age.rotate_left(7),
                room: match age % 3 {
                    0 => Room::Enough,
                    1 => Room::Low,
                    _ => Room::Out,
                },
                leader_priority: age.to_le_bytes()[1],
                disk_age_us: age,
                echo_held_us: age,
                hears,
                state: (at, hash),
                state_copied_upto: Slot(at.0.rotate_left(9)),
                position: Position(age.rotate_left(3)),
            })
        })
}

fn any_other() -> impl Strategy<Value = Message> {
    prop_oneof![
        watermark().prop_map(Message::Watermark),
        (ballot(), any::<u64>())
            .prop_map(|(ballot, read_round)| Message::ReadEcho(ReadEcho { ballot, read_round })),
        any::<u64>().prop_map(|nonce| Message::ReadIndex(ReadIndex { nonce })),
        (any::<u64>(), option::of(slot())).prop_map(|(nonce, index)| {
            Message::ReadIndexAnswer(ReadIndexAnswer { nonce, index })
        }),
        (any::<u64>(), slot(), slot()).prop_map(|(nonce, first, last)| Message::Fetch(Fetch {
            nonce,
            first,
            last
        })),
        (any::<u64>(), slot(), vec(value(), 0..6)).prop_map(|(nonce, first, values)| {
            Message::Chosen(Chosen { nonce, first, values })
        }),
        (ballot(), slot()).prop_map(|(ballot, chosen_upto)| {
            Message::Handover(Handover { ballot, chosen_upto })
        }),
    ]
}

/// Any message between peers.
pub(crate) fn any_peer_message() -> impl Strategy<Value = PeerMessage> {
    let id = (any::<u32>(), any::<u64>(), any::<u64>());
    let entry = (id, bytes(50)).prop_map(|((origin, incarnation, sequence), command)| {
        let id = synod_kv::ServerId { origin, incarnation, sequence };
        synod_wire::batch::encode_entry(id, &command)
    });
    prop_oneof![
        any_phase().prop_map(PeerMessage::Paxos),
        any_heartbeat().prop_map(PeerMessage::Paxos),
        any_other().prop_map(PeerMessage::Paxos),
        (any::<bool>(), vec(entry, 0..6)).prop_map(|(may_relay, commands)| {
            PeerMessage::Forward(Forward { may_relay, commands })
        }),
        any_snapshot().prop_map(PeerMessage::Snapshot),
    ]
}

fn any_snapshot() -> impl Strategy<Value = SnapshotMessage> {
    let id = any::<u128>;
    let reason = prop_oneof![
        Just(SnapshotGone::NothingAbove),
        Just(SnapshotGone::Dropped),
        Just(SnapshotGone::Failed)
    ];
    prop_oneof![
        (any::<u64>(), slot()).prop_map(|(fetch, above)| SnapshotMessage::Open { fetch, above }),
        (any::<u64>(), id(), slot(), vec(("[0-9a-zA-Z.-]{0,20}", any::<u64>()), 0..6)).prop_map(
            |(fetch, id, slot, files)| SnapshotMessage::Manifest { fetch, id, slot, files }
        ),
        (id(), any::<u32>(), any::<u64>(), any::<u32>()).prop_map(
            |(id, file, offset, bytes_max)| SnapshotMessage::Read { id, file, offset, bytes_max }
        ),
        (id(), any::<u32>(), any::<u64>(), any::<u32>(), any::<u32>(), bytes(300)).prop_map(
            |(id, file, offset, checksum, file_checksum, bytes)| {
                SnapshotMessage::Chunk { id, file, offset, checksum, file_checksum, bytes }
            }
        ),
        (any::<u64>(), id(), reason).prop_map(|(fetch, id, reason)| SnapshotMessage::Gone {
            fetch,
            id,
            reason
        }),
    ]
}

/// Any command.
pub(crate) fn any_command() -> impl Strategy<Value = Command> {
    let idempotency = option::of((bytes(40), any::<u128>(), any::<u64>())).prop_map(|i| {
        i.map(|(key, request_hash, asked_ms)| IdempotencyKey { key, request_hash, asked_ms })
    });
    let condition = || {
        prop_oneof![
            Just(Condition::Always),
            Just(Condition::Absent),
            Just(Condition::Exists),
            any::<u64>().prop_map(|r| Condition::At(Revision(r))),
        ]
    };
    let operation = prop_oneof![
        (bytes(40), bytes(300), condition(), any::<bool>()).prop_map(
            |(key, value, condition, want_previous)| {
                Operation::Put { key, value, condition, want_previous }
            }
        ),
        (bytes(40), condition(), any::<bool>()).prop_map(|(key, condition, want_previous)| {
            Operation::Delete { key, condition, want_previous }
        }),
        (bytes(40), option::of(bytes(40)), any::<u32>())
            .prop_map(|(start, end, limit)| Operation::DeleteRange { start, end, limit }),
        any_txn().prop_map(Operation::Txn),
        any::<u64>().prop_map(|revision| Operation::Compact { revision: Revision(revision) }),
        any_lease_operation().prop_map(Operation::Lease),
    ];
    (idempotency, operation).prop_map(|(idempotency, operation)| Command { idempotency, operation })
}

fn any_txn() -> impl Strategy<Value = Txn> {
    let relation = prop::sample::select(vec![
        Relation::Equal,
        Relation::NotEqual,
        Relation::Less,
        Relation::Greater,
    ]);
    let target = prop_oneof![
        bytes(40).prop_map(Target::Value),
        any::<u64>().prop_map(Target::Version),
        any::<u64>().prop_map(|number| Target::Create(Revision(number))),
        any::<u64>().prop_map(|number| Target::Mod(Revision(number))),
        any::<u64>().prop_map(Target::Lease),
    ];
    let compare = (bytes(40), relation, target).prop_map(|(key, relation, target)| Compare {
        key,
        relation,
        target,
    });
    let branch = || {
        let operation = prop_oneof![
            (bytes(40), bytes(300), option::of(any::<u64>().prop_map(LeaseId)), any::<bool>())
                .prop_map(|(key, value, lease, want_previous)| TxnOperation::Put {
                    key,
                    value,
                    lease,
                    want_previous
                }),
            (bytes(40), any::<bool>())
                .prop_map(|(key, want_previous)| TxnOperation::Delete { key, want_previous }),
            (bytes(40), option::of(bytes(40)), any::<u32>())
                .prop_map(|(start, end, limit)| TxnOperation::DeleteRange { start, end, limit }),
            bytes(40).prop_map(|key| TxnOperation::Get { key }),
            (bytes(40), option::of(bytes(40)), any::<u32>(), any::<bool>()).prop_map(
                |(start, end, limit, keys_only)| TxnOperation::Range {
                    start,
                    end,
                    limit,
                    keys_only
                }
            ),
        ];
        vec(operation, 0..5)
    };
    (vec(compare, 0..4), branch(), branch())
        .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
        .prop_map(|mut txn| {
            // What writes a key twice is no transaction; its reads alone are one.
            if txn.check().is_err() {
                for branch in [&mut txn.success, &mut txn.failure] {
                    branch.retain(|operation| {
                        matches!(operation, TxnOperation::Get { .. } | TxnOperation::Range { .. })
                    });
                }
            }
            txn
        })
}

fn any_lease_operation() -> impl Strategy<Value = LeaseOperation> {
    let id = || any::<u64>().prop_map(LeaseId);
    prop_oneof![
        (option::of((1..=u64::MAX).prop_map(LeaseId)), any::<u64>())
            .prop_map(|(id, ttl_ms)| LeaseOperation::Grant { id, ttl_ms }),
        id().prop_map(|id| LeaseOperation::Revoke { id }),
        vec(id(), 0..9).prop_map(|ids| LeaseOperation::KeepAlive { ids }),
        Just(LeaseOperation::BeginEpoch),
        (id(), any::<u64>().prop_map(LeaseEpoch), any::<u64>())
            .prop_map(|(id, epoch, renewals)| LeaseOperation::Expire { id, epoch, renewals }),
    ]
}
