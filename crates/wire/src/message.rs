//! The bodies of the messages between peers, one kind of frame each.

mod decode;

use bytes::{BufMut, BytesMut};
use synod_paxos::{
    Ballot, Heartbeat, Message, NodeId, Promise, RejectReason, Slot, Standing, Value, Watermark,
};

pub(crate) use decode::decode_body;

use crate::{PeerMessage, configuration, next, snapshot};

const PREPARE: u8 = 1;
const PROMISE: u8 = 2;
const ACCEPT: u8 = 3;
const ACCEPTED: u8 = 4;
const REJECT: u8 = 5;
const WATERMARK: u8 = 6;
const READ_ECHO: u8 = 7;
const READ_INDEX: u8 = 8;
const READ_INDEX_ANSWER: u8 = 9;
const HEARTBEAT: u8 = 10;
const FETCH: u8 = 11;
const CHOSEN: u8 = 12;
const HANDOVER: u8 = 13;
const FORWARD: u8 = 14;

pub(crate) const BLOCK_BYTES: usize = 2;
pub(crate) const COUNT_BYTES: usize = 4;
const BALLOT_BYTES: usize = 12;
const WATERMARK_BYTES: usize = BALLOT_BYTES + 16;
/// A value without its bytes: tag and length.
const VALUE_BYTES: usize = 5;
const ACCEPTED_SLOT_BYTES: usize = 8 + 1 + BALLOT_BYTES + VALUE_BYTES;
const HEARTBEAT_BYTES: usize =
    16 + BALLOT_BYTES + (1 + BALLOT_BYTES) + (1 + WATERMARK_BYTES) + 16 + (BALLOT_BYTES + 8) + 66;

/// The kind of frame that carries the message.
pub(crate) fn kind(message: &PeerMessage) -> u8 {
    let message = match message {
        PeerMessage::Paxos(message) => message,
        PeerMessage::Forward(_) => return FORWARD,
        PeerMessage::Snapshot(message) => return snapshot::kind(message),
    };
    match message {
        Message::Prepare(_) => PREPARE,
        Message::Promise(_) => PROMISE,
        Message::Accept(_) => ACCEPT,
        Message::Accepted(_) => ACCEPTED,
        Message::Reject(_) => REJECT,
        Message::Watermark(_) => WATERMARK,
        Message::ReadEcho(_) => READ_ECHO,
        Message::ReadIndex(_) => READ_INDEX,
        Message::ReadIndexAnswer(_) => READ_INDEX_ANSWER,
        Message::Heartbeat(_) => HEARTBEAT,
        Message::Fetch(_) => FETCH,
        Message::Chosen(_) => CHOSEN,
        Message::Handover(_) => HANDOVER,
    }
}

/// The length of the body in bytes in this version, known before anything is encoded.
pub(crate) fn body_bytes(message: &PeerMessage, version: u32) -> usize {
    let message = match message {
        PeerMessage::Forward(forward) => {
            let commands: usize = forward.commands.iter().map(|c| COUNT_BYTES + c.len()).sum();
            return BLOCK_BYTES + 1 + COUNT_BYTES + commands;
        }
        PeerMessage::Snapshot(message) => return snapshot::body_bytes(message),
        PeerMessage::Paxos(message) => message,
    };
    BLOCK_BYTES
        + match message {
            Message::Prepare(_) | Message::Handover(_) | Message::ReadEcho(_) => BALLOT_BYTES + 8,
            Message::Promise(promise) => {
                let slots = promise.accepted.iter();
                BALLOT_BYTES
                    + 32
                    + COUNT_BYTES
                    + slots.map(|s| ACCEPTED_SLOT_BYTES + batch_bytes(&s.value)).sum::<usize>()
            }
            Message::Accept(accept) => BALLOT_BYTES + 24 + VALUE_BYTES + batch_bytes(&accept.value),
            Message::Accepted(_) => BALLOT_BYTES + 24,
            Message::Reject(_) => BALLOT_BYTES + 1 + BALLOT_BYTES,
            Message::Watermark(_) => WATERMARK_BYTES,
            Message::ReadIndex(_) => 8,
            Message::ReadIndexAnswer(_) => 17,
            Message::Heartbeat(beat) => {
                let hears = COUNT_BYTES + 4 * beat.hears.len();
                HEARTBEAT_BYTES + next::field_bytes(version) + hears
            }
            Message::Fetch(_) => 24,
            Message::Chosen(chosen) => {
                let values = chosen.values.iter();
                16 + COUNT_BYTES + values.map(|v| VALUE_BYTES + batch_bytes(v)).sum::<usize>()
            }
        }
}

fn batch_bytes(value: &Value) -> usize {
    match value {
        Value::Noop => 0,
        Value::Batch(bytes) => bytes.len(),
        Value::Configuration(configuration) => configuration::encoded_bytes(configuration),
    }
}

/// Appends the body to `out`, in this version.
pub(crate) fn encode_body(message: &PeerMessage, version: u32, out: &mut BytesMut) {
    match message {
        PeerMessage::Paxos(message) => encode_paxos(message, version, out),
        PeerMessage::Snapshot(message) => snapshot::encode(message, out),
        PeerMessage::Forward(forward) => {
            put_block(out, |out| out.put_u8(u8::from(forward.may_relay)));
            put_count(out, forward.commands.len());
            for command in &forward.commands {
                put_count(out, command.len());
                out.put_slice(command);
            }
        }
    }
}

fn encode_paxos(message: &Message, version: u32, out: &mut BytesMut) {
    match message {
        Message::Prepare(prepare) => put_block(out, |out| {
            put_ballot(out, prepare.ballot);
            out.put_u64_le(prepare.from.0);
        }),
        Message::Promise(promise) => encode_promise(promise, out),
        Message::Accept(accept) => {
            put_block(out, |out| {
                put_ballot(out, accept.ballot);
                out.put_u64_le(accept.slot.0);
                out.put_u64_le(accept.chosen_upto.0);
                out.put_u64_le(accept.read_round);
            });
            put_value(out, &accept.value);
        }
        Message::Accepted(accepted) => put_block(out, |out| {
            put_ballot(out, accepted.ballot);
            out.put_u64_le(accepted.first.0);
            out.put_u64_le(accepted.last.0);
            out.put_u64_le(accepted.read_round);
        }),
        Message::Reject(reject) => put_block(out, |out| {
            put_ballot(out, reject.ballot);
            put_reject_reason(out, reject.reason);
        }),
        Message::Watermark(watermark) => put_block(out, |out| put_watermark(out, watermark)),
        Message::ReadEcho(echo) => put_block(out, |out| {
            put_ballot(out, echo.ballot);
            out.put_u64_le(echo.read_round);
        }),
        Message::ReadIndex(question) => put_block(out, |out| out.put_u64_le(question.nonce)),
        Message::ReadIndexAnswer(answer) => put_block(out, |out| {
            out.put_u64_le(answer.nonce);
            out.put_u8(u8::from(answer.index.is_some()));
            out.put_u64_le(answer.index.unwrap_or(Slot::ZERO).0);
        }),
        Message::Heartbeat(heartbeat) => encode_heartbeat(heartbeat, version, out),
        Message::Fetch(fetch) => put_block(out, |out| {
            out.put_u64_le(fetch.nonce);
            out.put_u64_le(fetch.first.0);
            out.put_u64_le(fetch.last.0);
        }),
        Message::Chosen(chosen) => {
            put_block(out, |out| {
                out.put_u64_le(chosen.nonce);
                out.put_u64_le(chosen.first.0);
            });
            put_count(out, chosen.values.len());
            chosen.values.iter().for_each(|value| put_value(out, value));
        }
        Message::Handover(handover) => put_block(out, |out| {
            put_ballot(out, handover.ballot);
            out.put_u64_le(handover.chosen_upto.0);
        }),
    }
}

fn encode_promise(promise: &Promise, out: &mut BytesMut) {
    put_block(out, |out| {
        put_ballot(out, promise.ballot);
        out.put_u64_le(promise.from.0);
        out.put_u64_le(promise.chosen_upto.0);
        out.put_u64_le(promise.answer);
        out.put_u32_le(promise.page);
        out.put_u32_le(promise.pages);
    });
    put_count(out, promise.accepted.len());
    for slot in &promise.accepted {
        out.put_u64_le(slot.slot.0);
        let (tag, ballot) = match slot.standing {
            Standing::Accepted(ballot) => (0, ballot),
            Standing::Chosen => (1, Ballot::ZERO),
        };
        out.put_u8(tag);
        put_ballot(out, ballot);
        put_value(out, &slot.value);
    }
}

fn encode_heartbeat(heartbeat: &Heartbeat, version: u32, out: &mut BytesMut) {
    let no_claim = Watermark { ballot: Ballot::ZERO, chosen_upto: Slot::ZERO, read_round: 0 };
    put_block(out, |out| {
        out.put_u64_le(heartbeat.sequence);
        out.put_u64_le(heartbeat.echo);
        put_ballot(out, heartbeat.promised);
        out.put_u8(u8::from(heartbeat.following.is_some()));
        put_ballot(out, heartbeat.following.unwrap_or(Ballot::ZERO));
        out.put_u8(u8::from(heartbeat.leading.is_some()));
        put_watermark(out, heartbeat.leading.as_ref().unwrap_or(&no_claim));
        out.put_u64_le(heartbeat.chosen_upto.0);
        out.put_u64_le(heartbeat.available_from.0);
        put_ballot(out, heartbeat.last_accepted.0);
        out.put_u64_le(heartbeat.last_accepted.1.0);
        out.put_u64_le(heartbeat.durable_upto.0);
        out.put_u64_le(heartbeat.disk_age_us);
        out.put_u64_le(heartbeat.echo_held_us);
        out.put_u64_le(heartbeat.state.0.0);
        out.put_u64_le(heartbeat.state.1);
        out.put_u64_le(heartbeat.state_copied_upto.0);
        out.put_u64_le(heartbeat.position.0);
        out.put_u64_le(heartbeat.configuration);
        out.put_u8(heartbeat.room as u8);
        out.put_u8(heartbeat.leader_priority);
        next::put_field(version, out);
    });
    put_count(out, heartbeat.hears.len());
    for NodeId(node) in &heartbeat.hears {
        out.put_u32_le(*node);
    }
}

/// Appends a block: its length, then what `write` appends.
pub(crate) fn put_block(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u16_le(0);
    write(out);
    let length = u16::try_from(out.len() - start - BLOCK_BYTES).expect("a block is small");
    out[start..start + BLOCK_BYTES].copy_from_slice(&length.to_le_bytes());
}

pub(crate) fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("counts and lengths are below 4 Gi"));
}

pub(crate) fn put_ballot(out: &mut BytesMut, ballot: Ballot) {
    out.put_u64_le(ballot.round);
    out.put_u32_le(ballot.node.0);
}

fn put_watermark(out: &mut BytesMut, watermark: &Watermark) {
    put_ballot(out, watermark.ballot);
    out.put_u64_le(watermark.chosen_upto.0);
    out.put_u64_le(watermark.read_round);
}

fn put_value(out: &mut BytesMut, value: &Value) {
    match value {
        Value::Noop => {
            out.put_u8(0);
            put_count(out, 0);
        }
        Value::Batch(bytes) => {
            out.put_u8(1);
            put_count(out, bytes.len());
            out.put_slice(bytes);
        }
        Value::Configuration(configuration) => {
            out.put_u8(2);
            put_count(out, configuration::encoded_bytes(configuration));
            configuration::put(configuration, out);
        }
    }
}

fn put_reject_reason(out: &mut BytesMut, reason: RejectReason) {
    let (tag, ballot) = match reason {
        RejectReason::Promised(ballot) => (1, ballot),
        RejectReason::TooFarBehind(Slot(slot)) => (2, Ballot { round: slot, node: NodeId(0) }),
        RejectReason::Truncated(Slot(slot)) => (3, Ballot { round: slot, node: NodeId(0) }),
        RejectReason::BeyondWindow(Slot(slot)) => (4, Ballot { round: slot, node: NodeId(0) }),
        RejectReason::NoVoter(number) => (5, Ballot { round: number, node: NodeId(0) }),
        RejectReason::NoMember { number, witnesses } => {
            (6, Ballot { round: number, node: NodeId(witnesses) })
        }
    };
    // Slots and numbers stand where a ballot's would, so that the block has one size.
    out.put_u8(tag);
    put_ballot(out, ballot);
}
