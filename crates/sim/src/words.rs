//! Events in words and in numbers, for the trace; and which of them are rare.

use bytes::BytesMut;
use synod_host::Event;
use synod_paxos::{Ballot, Message, NodeId, RejectReason, Value};
use synod_wire::{PeerMessage, frame};

use crate::coverage::{Coverage, Rare};

/// What an event is about, as the first number of its trace.
pub(crate) const STEP: u64 = 1;
pub(crate) const LEADS: u64 = 2;
pub(crate) const STOPS: u64 = 3;
pub(crate) const APPLIED: u64 = 4;
pub(crate) const DIES: u64 = 5;
pub(crate) const STARTS: u64 = 6;
pub(crate) const REFUSED: u64 = 7;
pub(crate) const ASKS: u64 = 8;
pub(crate) const ANSWERS: u64 = 9;
pub(crate) const REFUSES: u64 = 10;
pub(crate) const GIVES_UP: u64 = 11;
pub(crate) const FAULT: u64 = 12;
pub(crate) const HEALED: u64 = 13;
pub(crate) const FETCHES: u64 = 14;
pub(crate) const SWITCHES: u64 = 15;
pub(crate) const ROOM: u64 = 16;
pub(crate) const MENDS: u64 = 17;
pub(crate) const INSTALLS: u64 = 18;
pub(crate) const GUEST: u64 = 19;
pub(crate) const WATCHES: u64 = 20;
pub(crate) const FILLS: u64 = 24;

/// The numbers of a step: who, and a digest of everything that it heard.
pub(crate) fn step(id: NodeId, inbox: &[Event]) -> [u64; 4] {
    let digest = inbox.iter().fold(0_u64, |digest, event| {
        let [kind, one, other] = event_words(event);
        let mixed = (digest ^ kind).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
        ((mixed ^ one).wrapping_mul(0xc4ce_b9fe_1a85_ec53) ^ other).rotate_left(31)
    });
    [STEP, u64::from(id.0), inbox.len() as u64, digest]
}

fn event_words(event: &Event) -> [u64; 3] {
    match event {
        Event::Received { from, message: PeerMessage::Paxos(message) } => {
            let [kind, one, other] = message_words(message);
            [kind << 8 | u64::from(from.0), one, other]
        }
        Event::Received { from, message: PeerMessage::Forward(forward) } => {
            let bytes: usize = forward.commands.iter().map(bytes::Bytes::len).sum();
            [20 << 8 | u64::from(from.0), forward.commands.len() as u64, bytes as u64]
        }
        Event::Received { message: PeerMessage::Snapshot(_), .. } => {
            unreachable!("the simulation moves states without messages")
        }
        Event::Persisted(position) => [21, position.0, 0],
        Event::Loaded { load, values } => [22, load.first.0, values.len() as u64],
        Event::Applied(applied) => [23, applied.upto.0, applied.durable.0],
        Event::PeerDied(peer) => [24, u64::from(peer.0), 0],
        Event::Connected(peer) => [25, u64::from(peer.0), 0],
        Event::Tick => [26, 0, 0],
        Event::Write { request, command, .. } => [27, request.0, command.len() as u64],
        Event::Read { request, .. } => [28, request.0, 0],
        Event::HandOver { to } => [29, to.map_or(0, |to| u64::from(to.0)), 0],
        Event::Installed { applied, .. } => [30, applied.upto.0, applied.own_sequence],
        Event::SnapshotFailed { from } => [31, u64::from(from.0), 0],
        Event::Segment(segment) => [32, segment.upto.0, segment.bytes],
        Event::Room(room) => [33, *room as u64, 0],
        Event::SnapshotSent { slot } => [35, slot.0, 0],
        Event::Change { configuration, force, .. } => {
            [34, configuration.number(), u64::from(*force)]
        }
    }
}

fn ballot_word(ballot: Ballot) -> u64 {
    ballot.round << 8 | u64::from(ballot.node.0)
}

fn message_words(message: &Message) -> [u64; 3] {
    match message {
        Message::Prepare(m) => [1, ballot_word(m.ballot), m.from.0],
        Message::Promise(m) => [2, ballot_word(m.ballot), m.accepted.len() as u64],
        Message::Accept(m) => [3, ballot_word(m.ballot), m.slot.0],
        Message::Accepted(m) => [4, ballot_word(m.ballot), m.first.0 << 20 | m.last.0],
        Message::Reject(m) => [5, ballot_word(m.ballot), 0],
        Message::Watermark(m) => [6, ballot_word(m.ballot), m.chosen_upto.0],
        Message::ReadEcho(m) => [7, ballot_word(m.ballot), m.read_round],
        Message::ReadIndex(m) => [8, m.nonce, 0],
        Message::ReadIndexAnswer(m) => [9, m.nonce, m.index.map_or(0, |index| index.0)],
        Message::Heartbeat(m) => [10, m.sequence, m.echo_held_us],
        Message::Fetch(m) => [11, m.nonce, m.first.0 << 20 | m.last.0],
        Message::Chosen(m) => [12, m.nonce, m.first.0 << 20 | m.values.len() as u64],
        Message::Handover(m) => [13, ballot_word(m.ballot), m.chosen_upto.0],
    }
}

/// One readable line of a step.
pub(crate) fn step_line(id: NodeId, inbox: &[Event]) -> String {
    if inbox.is_empty() {
        return format!("{id} looks at its clock");
    }
    let events: Vec<String> = inbox.iter().map(event_line).collect();
    format!("{id} hears {}", events.join("; "))
}

fn event_line(event: &Event) -> String {
    match event {
        Event::Received { from, message: PeerMessage::Paxos(message) } => {
            format!("from {from} {}", message_line(message))
        }
        Event::Received { from, message: PeerMessage::Forward(forward) } => {
            let relay = if forward.may_relay { " to relay" } else { "" };
            format!("from {from} {} commands{relay}", forward.commands.len())
        }
        Event::Received { from, message: PeerMessage::Snapshot(_) } => {
            format!("from {from} a part of its state")
        }
        Event::Persisted(position) => format!("from its disk: durable up to {}", position.0),
        Event::Loaded { load, values } => {
            format!("from its disk: {} values from slot {}", values.len(), load.first)
        }
        Event::Applied(applied) => format!(
            "from its state: applied {}, durable {}, own sequence {}{}",
            applied.upto,
            applied.durable,
            applied.own_sequence,
            if applied.own_gap { ", a gap" } else { "" }
        ),
        Event::PeerDied(peer) => format!("that {peer} died"),
        Event::Connected(peer) => format!("that it is connected to {peer}"),
        Event::Tick => "a tick".to_owned(),
        Event::Write { request, .. } => format!("write r{}", request.0),
        Event::Read { request, .. } => format!("read r{}", request.0),
        Event::HandOver { .. } => "that another shall lead".to_owned(),
        Event::Installed { applied, .. } => format!(
            "from its state: a snapshot of slot {} is installed, own sequence {}",
            applied.upto, applied.own_sequence
        ),
        Event::SnapshotFailed { from } => format!("that no snapshot comes from {from}"),
        Event::SnapshotSent { slot } => format!("that a part of a snapshot of {slot} has left"),
        Event::Segment(segment) => format!(
            "from its disk: a segment of {} bytes up to slot {} is full",
            segment.bytes, segment.upto
        ),
        Event::Room(room) => format!("that the room on its disk is: {room:?}"),
        Event::Change { configuration, .. } => format!("that it shall propose {configuration:?}"),
    }
}

fn message_line(message: &Message) -> String {
    match message {
        Message::Accept(m) => format!(
            "Accept {{ {}, slot {}, {}, chosen_upto {}, read_round {} }}",
            m.ballot,
            m.slot,
            value_line(&m.value),
            m.chosen_upto,
            m.read_round
        ),
        Message::Promise(m) => format!(
            "Promise {{ {}, from {}, chosen_upto {}, page {}/{}, accepted [{}] }}",
            m.ballot,
            m.from,
            m.chosen_upto,
            m.page + 1,
            m.pages,
            m.accepted
                .iter()
                .map(|a| format!("{} {:?} {}", a.slot, a.standing, value_line(&a.value)))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        Message::Chosen(m) => format!(
            "Chosen {{ nonce {}, {} values from slot {} }}",
            m.nonce,
            m.values.len(),
            m.first
        ),
        other => format!("{other:?}"),
    }
}

fn value_line(value: &Value) -> String {
    match value {
        Value::Noop => "no-op".to_owned(),
        Value::Batch(bytes) => format!("batch of {} bytes", bytes.len()),
        Value::Configuration(new) => format!("configuration {}", new.number()),
    }
}

/// The message as it arrives after it was encoded and decoded.
pub(crate) fn recoded(message: &PeerMessage) -> PeerMessage {
    let mut bytes = BytesMut::new();
    frame::encode(message, &mut bytes);
    let header = frame::Header::decode(&bytes).expect("our own frame");
    let body = bytes.freeze().split_off(frame::HEADER_BYTES);
    let decoded = frame::decode(header, body).expect("our own frame");
    assert_eq!(decoded, *message, "a message changed on its way through its encoding");
    decoded
}

/// Counts what a message shows.
pub(crate) fn note_rare(message: &PeerMessage, coverage: &mut Coverage) {
    let rare = match message {
        PeerMessage::Forward(forward) if forward.may_relay => Rare::Relayed,
        PeerMessage::Forward(_) | PeerMessage::Snapshot(_) => return,
        PeerMessage::Paxos(message) => match message {
            Message::Promise(m) if m.chosen_upto >= m.from => Rare::PromiseFromAhead,
            Message::Promise(m) if m.pages > 1 => Rare::PromisePages,
            Message::Accept(m) if m.value == Value::Noop => Rare::GapFilled,
            Message::Reject(m) => match m.reason {
                RejectReason::Promised(_) => Rare::RejectPromised,
                RejectReason::TooFarBehind(_) => Rare::TooFarBehind,
                RejectReason::NoVoter(_) => Rare::NoVoter,
                RejectReason::NoMember { .. } => Rare::NoMember,
                RejectReason::Truncated(_) => Rare::RejectTruncated,
                RejectReason::BeyondWindow(_) => Rare::RejectBeyondWindow,
            },
            Message::Chosen(m) if !m.values.is_empty() => Rare::CatchUp,
            Message::ReadIndex(_) => Rare::ReadByFollower,
            Message::Handover(_) => Rare::HandedOver,
            _ => return,
        },
    };
    coverage.rare(rare);
}
