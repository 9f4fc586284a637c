//! Reads the bodies of messages back.

use std::sync::Arc;

use bytes::Bytes;
use synod_paxos::{
    Accept, Accepted, AcceptedSlot, Chosen, Fetch, Handover, Heartbeat, Message, Position, Prepare,
    Promise, ReadEcho, ReadIndex, ReadIndexAnswer, Reject, RejectReason, Room, Slot, Standing,
    Value, Watermark,
};

use super::{
    ACCEPT, ACCEPTED, ACCEPTED_SLOT_BYTES, CHOSEN, COUNT_BYTES, FETCH, FORWARD, HANDOVER,
    HEARTBEAT, PREPARE, PROMISE, READ_ECHO, READ_INDEX, READ_INDEX_ANSWER, REJECT, VALUE_BYTES,
    WATERMARK,
};
use crate::batch::{ENTRIES_MAX, ENTRY_BYTES_MAX, ENTRY_OVERHEAD_BYTES};
use crate::frame::FRAME_BYTES_MAX;
use crate::reader::Reader;
use crate::{DecodeError, Forward, PeerMessage, configuration, next, snapshot};

/// The most slots in one page of a promise, and the most values of one `Chosen`.
const SLOTS_MAX: usize = 65_536;
/// The most nodes in a heartbeat.
const NODES_MAX: usize = 1_024;

/// Decodes the body of a frame of this kind, as a reader that knows the versions up to `newest`.
pub(crate) fn decode_body(kind: u8, body: Bytes, newest: u32) -> Result<PeerMessage, DecodeError> {
    if snapshot::KINDS.contains(&kind) {
        return snapshot::decode(kind, body).map(PeerMessage::Snapshot);
    }
    let mut reader = Reader::new(body, name(kind)?);
    let mut block = reader.block()?;
    let message = match kind {
        PREPARE => Message::Prepare(Prepare { ballot: block.ballot()?, from: block.slot()? }),
        PROMISE => Message::Promise(decode_promise(&mut block, &mut reader)?),
        ACCEPT => {
            let (ballot, slot) = (block.ballot()?, block.slot()?);
            let (chosen_upto, read_round) = (block.slot()?, block.u64()?);
            let value = read_value(&mut reader)?;
            Message::Accept(Accept { ballot, slot, value, chosen_upto, read_round })
        }
        ACCEPTED => Message::Accepted(Accepted {
            ballot: block.ballot()?,
            first: block.slot()?,
            last: block.slot()?,
            read_round: block.u64()?,
        }),
        REJECT => {
            let ballot = block.ballot()?;
            Message::Reject(Reject { ballot, reason: read_reject_reason(&mut block)? })
        }
        WATERMARK => Message::Watermark(read_watermark(&mut block)?),
        READ_ECHO => {
            Message::ReadEcho(ReadEcho { ballot: block.ballot()?, read_round: block.u64()? })
        }
        READ_INDEX => Message::ReadIndex(ReadIndex { nonce: block.u64()? }),
        READ_INDEX_ANSWER => Message::ReadIndexAnswer(ReadIndexAnswer {
            nonce: block.u64()?,
            index: block.option(Reader::slot)?,
        }),
        HEARTBEAT => Message::Heartbeat(decode_heartbeat(&mut block, &mut reader, newest)?),
        FETCH => {
            Message::Fetch(Fetch { nonce: block.u64()?, first: block.slot()?, last: block.slot()? })
        }
        CHOSEN => Message::Chosen(decode_chosen(&mut block, &mut reader)?),
        HANDOVER => {
            Message::Handover(Handover { ballot: block.ballot()?, chosen_upto: block.slot()? })
        }
        _ => {
            let forward = decode_forward(&mut block, &mut reader)?;
            reader.finish()?;
            return Ok(PeerMessage::Forward(forward));
        }
    };
    reader.finish()?;
    Ok(PeerMessage::Paxos(message))
}

fn decode_promise(block: &mut Reader, reader: &mut Reader) -> Result<Promise, DecodeError> {
    let count = reader.count(SLOTS_MAX, ACCEPTED_SLOT_BYTES)?;
    let mut accepted = Vec::with_capacity(count);
    for _ in 0..count {
        let slot = reader.slot()?;
        let chosen = reader.flag()?;
        let ballot = reader.ballot()?;
        let standing = if chosen { Standing::Chosen } else { Standing::Accepted(ballot) };
        accepted.push(AcceptedSlot { slot, standing, value: read_value(reader)? });
    }
    Ok(Promise {
        ballot: block.ballot()?,
        from: block.slot()?,
        chosen_upto: block.slot()?,
        answer: block.u64()?,
        page: block.u32()?,
        pages: block.u32()?,
        accepted,
    })
}

fn decode_heartbeat(
    block: &mut Reader,
    reader: &mut Reader,
    newest: u32,
) -> Result<Heartbeat, DecodeError> {
    let count = reader.count(NODES_MAX, 4)?;
    let mut hears = Vec::with_capacity(count);
    for _ in 0..count {
        hears.push(reader.node()?);
    }
    let heartbeat = Heartbeat {
        sequence: block.u64()?,
        echo: block.u64()?,
        promised: block.ballot()?,
        following: block.option(Reader::ballot)?,
        leading: block.option(read_watermark)?,
        chosen_upto: block.slot()?,
        available_from: block.slot()?,
        last_accepted: (block.ballot()?, block.slot()?),
        durable_upto: block.slot()?,
        disk_age_us: block.u64()?,
        echo_held_us: block.u64()?,
        state: (block.slot()?, block.u64()?),
        state_copied_upto: block.slot()?,
        position: Position(block.u64()?),
        configuration: block.u64()?,
        room: read_room(block)?,
        leader_priority: block.u8()?,
        hears,
    };
    // What the sender's version appended is here; an older one's ends before it.
    if !block.is_empty() {
        next::read_field(newest, block)?;
    }
    Ok(heartbeat)
}

fn decode_chosen(block: &mut Reader, reader: &mut Reader) -> Result<Chosen, DecodeError> {
    let count = reader.count(SLOTS_MAX, VALUE_BYTES)?;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        values.push(read_value(reader)?);
    }
    Ok(Chosen { nonce: block.u64()?, first: block.slot()?, values })
}

fn decode_forward(block: &mut Reader, reader: &mut Reader) -> Result<Forward, DecodeError> {
    let may_relay = block.flag()?;
    let count = reader.count(ENTRIES_MAX, COUNT_BYTES + ENTRY_OVERHEAD_BYTES)?;
    let mut commands = Vec::with_capacity(count);
    for _ in 0..count {
        commands.push(reader.byte_string("a forwarded command", ENTRY_BYTES_MAX)?);
    }
    Ok(Forward { may_relay, commands })
}

fn name(kind: u8) -> Result<&'static str, DecodeError> {
    Ok(match kind {
        PREPARE => "a Prepare",
        PROMISE => "a Promise",
        ACCEPT => "an Accept",
        ACCEPTED => "an Accepted",
        REJECT => "a Reject",
        WATERMARK => "a Watermark",
        READ_ECHO => "a ReadEcho",
        READ_INDEX => "a ReadIndex",
        READ_INDEX_ANSWER => "a ReadIndexAnswer",
        HEARTBEAT => "a Heartbeat",
        FETCH => "a Fetch",
        CHOSEN => "a Chosen",
        HANDOVER => "a Handover",
        FORWARD => "a Forward",
        tag => {
            return Err(DecodeError::Tag { what: "a frame", tag });
        }
    })
}

fn read_room(reader: &mut Reader) -> Result<Room, DecodeError> {
    match reader.u8()? {
        0 => Ok(Room::Enough),
        1 => Ok(Room::Low),
        2 => Ok(Room::Out),
        tag => Err(DecodeError::Tag { what: "a Heartbeat", tag }),
    }
}

fn read_watermark(reader: &mut Reader) -> Result<Watermark, DecodeError> {
    Ok(Watermark {
        ballot: reader.ballot()?,
        chosen_upto: reader.slot()?,
        read_round: reader.u64()?,
    })
}

fn read_value(reader: &mut Reader) -> Result<Value, DecodeError> {
    let tag = reader.u8()?;
    let bytes = reader.byte_string("a value", FRAME_BYTES_MAX)?;
    match tag {
        0 if bytes.is_empty() => Ok(Value::Noop),
        0 => Err(DecodeError::LeftOver("a no-op")),
        1 => Ok(Value::Batch(bytes)),
        2 => Ok(Value::Configuration(Arc::new(configuration::decode(bytes)?))),
        tag => Err(DecodeError::Tag { what: "a value", tag }),
    }
}

fn read_reject_reason(reader: &mut Reader) -> Result<RejectReason, DecodeError> {
    let tag = reader.u8()?;
    let ballot = reader.ballot()?;
    let slot = Slot(ballot.round);
    Ok(match tag {
        1 => RejectReason::Promised(ballot),
        2 => RejectReason::TooFarBehind(slot),
        3 => RejectReason::Truncated(slot),
        4 => RejectReason::BeyondWindow(slot),
        5 => RejectReason::NoVoter(ballot.round),
        6 => RejectReason::NoMember { number: ballot.round, witnesses: ballot.node.0 },
        tag => {
            return Err(DecodeError::Tag { what: "a Reject", tag });
        }
    })
}
