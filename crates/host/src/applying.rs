//! Chosen values on their way to the state machine.
//!
//! A value is applied only when this node's own journal holds it durably. So the
//! state is never durable ahead of the journal that it was applied from, whenever
//! the storage engine decides to write its files: after a crash every applied slot
//! is still in the journal or truncated by everybody's leave, and can be shipped
//! to a peer that misses it. We differ here from the usual remark that a state may
//! run ahead of its log. Only a snapshot's state does, and it bears a mark that says
//! so until the journal starts after it.

use std::collections::{BTreeMap, VecDeque};

use synod_paxos::{Bug, Planted, Position, Record, RecordBody, Slot, Value};

/// The values between "chosen" and "handed to the state machine".
#[derive(Debug)]
pub(crate) struct Applying {
    /// The last slot that became chosen.
    chosen: Slot,
    /// Where the newest record of each slot above `chosen` stands in the journal.
    recorded: BTreeMap<Slot, Position>,
    /// Chosen values that wait for their record to be durable, in slot order.
    waiting: VecDeque<(Slot, Value, Position)>,
    planted: Planted,
}

impl Applying {
    /// Every slot up to `applied` is in the state machine.
    pub(crate) fn new(applied: Slot, planted: Planted) -> Self {
        let (recorded, waiting) = (BTreeMap::new(), VecDeque::new());
        Applying { chosen: applied, recorded, waiting, planted }
    }

    /// These records follow the one at `before`.
    pub(crate) fn note_records(&mut self, before: Position, records: &[Record]) {
        for (position, record) in (before.0 + 1..).map(Position).zip(records) {
            if let RecordBody::Accepted { slot, .. } | RecordBody::Chosen { slot, .. } = record.body
                && slot > self.chosen
            {
                self.recorded.insert(slot, position);
            }
        }
    }

    /// The next slot is chosen.
    ///
    /// # Panics
    /// When a slot was left out or comes twice.
    pub(crate) fn push(&mut self, slot: Slot, value: Value) {
        // Invariant 5: what is applied is a prefix of what is chosen.
        assert_eq!(slot, self.chosen.next(), "chosen slots come in order, without a gap");
        self.chosen = slot;
        // A slot without a record of this life was recorded in an earlier one.
        let position = self.recorded.remove(&slot).unwrap_or(Position::ZERO);
        self.waiting.push_back((slot, value, position));
    }

    /// The state machine was replaced by one that has applied every slot up to `upto`.
    pub(crate) fn installed(&mut self, upto: Slot) {
        self.chosen = self.chosen.max(upto);
        self.recorded = self.recorded.split_off(&upto.next());
        while self.waiting.pop_front_if(|(slot, ..)| *slot <= upto).is_some() {}
    }

    /// The last slot that became chosen.
    pub(crate) fn chosen(&self) -> Slot {
        self.chosen
    }

    /// The values that may be applied now that the journal is durable up to
    /// `durable`, and the slot of the first.
    pub(crate) fn take_ready(&mut self, durable: Position) -> Option<(Slot, Vec<Value>)> {
        let hurries = self.planted.is(Bug::AppliesBeforeDurable);
        let ready = self.waiting.iter().take_while(|(_, _, at)| *at <= durable || hurries).count();
        let (first, ..) = self.waiting.front().filter(|_| ready > 0)?;
        let first = *first;
        Some((first, self.waiting.drain(..ready).map(|(_, value, _)| value).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use synod_paxos::{Ballot, NodeId};

    fn accepted(slot: u64) -> Record {
        let ballot = Ballot { round: 1, node: NodeId(1) };
        let body = RecordBody::Accepted { slot: Slot(slot), ballot, value: value(slot) };
        Record { promised: ballot, chosen_upto: Slot(0), body }
    }

    fn value(slot: u64) -> Value {
        Value::Batch(Bytes::from(slot.to_le_bytes().to_vec()))
    }

    #[test]
    fn a_value_waits_for_its_own_record_and_for_those_before_it() {
        let mut applying = Applying::new(Slot(4), Planted::NONE);
        // Slot 6 is recorded first, slot 5 later and then once more.
        applying.note_records(Position(10), &[accepted(6), accepted(5), accepted(5)]);
        applying.push(Slot(5), value(5));
        applying.push(Slot(6), value(6));
        assert_eq!(applying.take_ready(Position(12)), None);
        let both = Some((Slot(5), vec![value(5), value(6)]));
        assert_eq!(applying.take_ready(Position(13)), both);
        assert_eq!(applying.take_ready(Position(13)), None);
    }

    /// Slots 5 and 6 wait, 8 is recorded and not chosen; a snapshot of each slot around.
    #[test]
    fn what_a_snapshot_holds_is_not_handed_out_and_what_follows_is() {
        for upto in 4..=8 {
            let mut applying = Applying::new(Slot(4), Planted::NONE);
            applying.note_records(Position(10), &[accepted(5), accepted(6), accepted(8)]);
            applying.push(Slot(5), value(5));
            applying.push(Slot(6), value(6));
            applying.installed(Slot(upto));
            assert_eq!(applying.chosen(), Slot(upto.max(6)));
            let first = applying.take_ready(Position(12)).map(|(first, _)| first);
            assert_eq!(first, (upto < 6).then_some(Slot(upto + 1)), "{upto}");
            for slot in upto.max(6) + 1..=8 {
                applying.push(Slot(slot), value(slot));
            }
            // Slot 8 waits for its record still, unless it is in the snapshot.
            let held = if upto <= 6 { Some(Slot(7)) } else { None };
            let ready = applying.take_ready(Position(12));
            assert_eq!(ready.as_ref().map(|(first, _)| *first), held, "{upto}");
            assert!(ready.is_none_or(|(_, values)| values.len() == 1));
        }
    }

    #[test]
    fn a_value_of_an_earlier_life_does_not_wait() {
        let mut applying = Applying::new(Slot(0), Planted::NONE);
        applying.push(Slot(1), value(1));
        assert_eq!(applying.take_ready(Position(0)), Some((Slot(1), vec![value(1)])));
        assert_eq!(applying.chosen(), Slot(1));
        assert!(applying.recorded.is_empty());
    }
}
