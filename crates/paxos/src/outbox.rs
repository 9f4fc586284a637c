//! Collects what one batch of steps brings about.

use crate::{
    Accepted, Effects, Envelope, Message, NodeId, Position, Record, RecordBody, Slot, Time,
};
use alloc::collections::VecDeque;

/// The journal as the core sees it: what was handed out and is not durable yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Unsynced {
    handed_out: Position,
    /// The watermark of the newest record.
    recorded_upto: Slot,
    pending: VecDeque<(Position, Time, usize)>,
    bytes: usize,
}

impl Unsynced {
    pub(crate) fn new(position: Position, recorded_upto: Slot) -> Unsynced {
        Unsynced { handed_out: position, recorded_upto, pending: VecDeque::new(), bytes: 0 }
    }

    /// Hands `record` to the journal.
    pub(crate) fn persist(&mut self, now: Time, record: Record, effects: &mut Effects) {
        const RECORD_BYTES: usize = 128;
        let bytes = RECORD_BYTES
            + match &record.body {
                RecordBody::Accepted { value, .. } | RecordBody::Chosen { value, .. } => {
                    value.size_bytes()
                }
                RecordBody::Promise | RecordBody::StartAfter { .. } => 0,
            };
        self.handed_out = Position(self.handed_out.0 + 1);
        self.recorded_upto = record.chosen_upto;
        self.pending.push_back((self.handed_out, now, bytes));
        self.bytes += bytes;
        effects.persist.push(record);
    }

    /// Up to here the journal itself knows what is chosen.
    pub(crate) fn recorded_upto(&self) -> Slot {
        self.recorded_upto
    }

    /// The journal reports that it is durable up to `position`.
    pub(crate) fn persisted(&mut self, position: Position) {
        assert!(position <= self.handed_out, "the journal knows a record that we never wrote");
        while self.pending.front().is_some_and(|(at, _, _)| *at <= position) {
            let (_, _, bytes) = self.pending.pop_front().expect("just seen");
            self.bytes -= bytes;
        }
    }

    /// Up to here everything is durable.
    pub(crate) fn durable(&self) -> Position {
        let first = self.pending.front().map(|(at, _, _)| Position(at.0 - 1));
        first.unwrap_or(self.handed_out)
    }

    /// Microseconds since the oldest pending record was handed out.
    pub(crate) fn age_us(&self, now: Time) -> u64 {
        self.pending.front().map_or(0, |(_, at, _)| now.since_us(*at))
    }

    /// Bytes handed out and not durable.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Adds one slot to the acknowledgements that wait for the disk: next to the last
/// one it lengthens that range. A range never covers a hole (pitfall 19).
pub(crate) fn acknowledge(to: NodeId, accepted: Accepted, effects: &mut Effects) {
    if let Some(last) = effects.send_after_durable.last_mut()
        && last.to == to
        && let Message::Accepted(range) = &mut last.message
        && range.ballot == accepted.ballot
        && accepted.first <= range.last.next()
        && accepted.first >= range.first
    {
        range.last = range.last.max(accepted.last);
        range.read_round = range.read_round.max(accepted.read_round);
        return;
    }
    effects.send_after_durable.push(Envelope { to, message: Message::Accepted(accepted) });
}
