//! The segments that the journal holds, oldest first.

use std::collections::VecDeque;

use synod_paxos::{Segment, Slot};

/// What is remembered of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentFacts {
    pub(crate) number: u64,
    pub(crate) file_bytes: u64,
    /// The highest slot of which an earlier segment held a value.
    pub(crate) highest_slot_before: Slot,
    /// The highest slot of which this one holds a value.
    pub(crate) highest_slot: Slot,
}

/// The segments, oldest first; the last one is being written.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    held: VecDeque<SegmentFacts>,
}

impl Segments {
    pub(crate) fn push(&mut self, facts: SegmentFacts) {
        assert!(self.held.back().is_none_or(|last| last.number + 1 == facts.number));
        self.held.push_back(facts);
    }

    pub(crate) fn newest(&self) -> &SegmentFacts {
        self.held.back().expect("there is always a segment")
    }

    pub(crate) fn before_newest(&self) -> Option<&SegmentFacts> {
        self.held.iter().nth_back(1)
    }

    /// The newest segment got values of slots up to `slot`.
    pub(crate) fn raise_highest_slot(&mut self, slot: Slot) {
        let newest = self.held.back_mut().expect("there is always a segment");
        newest.highest_slot = newest.highest_slot.max(slot);
    }

    /// The highest slot of which any segment, dropped ones included, held a value.
    pub(crate) fn highest_slot(&self) -> Slot {
        let newest = self.newest();
        newest.highest_slot_before.max(newest.highest_slot)
    }

    pub(crate) fn oldest_number(&self) -> u64 {
        self.held.front().expect("there is always a segment").number
    }

    /// The oldest segment that must stay so that no value above `upto` is lost. The
    /// newest stays always.
    pub(crate) fn oldest_needed(&self, upto: Slot) -> &SegmentFacts {
        let needed = self.held.iter().find(|facts| facts.highest_slot > upto);
        needed.unwrap_or_else(|| self.newest())
    }

    /// The numbers of the segments after `number` that are full, and what they hold.
    pub(crate) fn filled_after(&self, number: u64) -> impl Iterator<Item = (u64, Segment)> + '_ {
        let pairs = self.held.iter().zip(self.held.iter().skip(1));
        pairs.filter(move |(full, _)| full.number > number).map(|(full, next)| {
            let segment = Segment { upto: next.highest_slot_before, bytes: full.file_bytes };
            (full.number, segment)
        })
    }

    /// Forgets the segments before `oldest`; their numbers.
    pub(crate) fn drop_before(&mut self, oldest: u64) -> Vec<u64> {
        let count = self.held.iter().take_while(|facts| facts.number < oldest).count();
        self.held.drain(..count).map(|facts| facts.number).collect()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.held.iter().map(|facts| facts.file_bytes).sum()
    }
}
