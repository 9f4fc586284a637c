//! Where each slot's value stands on disk.

use std::collections::{BTreeMap, VecDeque};

use synod_paxos::{Slot, Standing};

/// The place of a record: 12 bytes, of which there is one for each chosen slot that
/// the journal holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Location {
    /// The segment's number.
    pub(crate) segment: u32,
    /// Where its header begins, counted in payload bytes of the segment.
    pub(crate) payload_at: u32,
    /// Bytes of its value.
    pub(crate) body_bytes: u32,
}

/// A record of a slot's value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) slot: Slot,
    pub(crate) standing: Standing,
    pub(crate) location: Location,
}

/// Finds the record that holds a slot's value: of a chosen slot the one that the
/// watermark found there when it passed, of an open slot the one that counts most.
#[derive(Debug)]
pub(crate) struct Index {
    truncated_upto: Slot,
    /// Chosen: one for each slot after `truncated_upto`.
    chosen: VecDeque<Location>,
    /// Above the watermark; bounded by the core's window.
    open: BTreeMap<Slot, (Standing, Location)>,
}

/// The watermark passed a slot of which there is no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MissingSlot(pub(crate) Slot);

impl Index {
    /// Holds nothing; everything up to `truncated_upto` is gone.
    pub(crate) fn new(truncated_upto: Slot) -> Index {
        Index { truncated_upto, chosen: VecDeque::new(), open: BTreeMap::new() }
    }

    pub(crate) fn truncated_upto(&self) -> Slot {
        self.truncated_upto
    }

    pub(crate) fn chosen_upto(&self) -> Slot {
        self.truncated_upto.plus(self.chosen.len() as u64)
    }

    /// A record was written. A slot that the watermark has passed keeps its place:
    /// its value is settled, and is never written again with another one.
    pub(crate) fn insert(&mut self, entry: Entry) {
        let Entry { slot, standing, location } = entry;
        if slot <= self.chosen_upto() {
            return;
        }
        let held = self.open.entry(slot).or_insert((standing, location));
        if held.0 <= standing {
            *held = (standing, location);
        }
    }

    /// The watermark rises: open slots up to it become chosen as they stand.
    pub(crate) fn advance(&mut self, chosen_upto: Slot) -> Result<(), MissingSlot> {
        while self.chosen_upto() < chosen_upto {
            let slot = self.chosen_upto().next();
            let (_, location) = self.open.remove(&slot).ok_or(MissingSlot(slot))?;
            self.chosen.push_back(location);
        }
        Ok(())
    }

    /// Forgets everything up to `upto`, which thereby counts as chosen.
    pub(crate) fn truncate(&mut self, upto: Slot) {
        if upto <= self.truncated_upto {
            return;
        }
        let count = (upto.0 - self.truncated_upto.0).min(self.chosen.len() as u64);
        self.chosen.drain(..usize::try_from(count).expect("at most the length"));
        self.truncated_upto = upto;
        self.open = self.open.split_off(&upto.next());
        if self.chosen.len() * 4 < self.chosen.capacity() {
            self.chosen.shrink_to(self.chosen.len() * 2);
        }
    }

    /// The record of a slot that is known as chosen.
    pub(crate) fn find_chosen(&self, slot: Slot) -> Option<Location> {
        if slot <= self.truncated_upto {
            return None;
        }
        let place = usize::try_from(slot.0 - self.truncated_upto.0 - 1).ok()?;
        self.chosen.get(place).copied().or_else(|| match self.open.get(&slot) {
            Some((Standing::Chosen, location)) => Some(*location),
            _ => None,
        })
    }

    /// What stands above the watermark, in slot order.
    pub(crate) fn open(&self) -> impl Iterator<Item = Entry> + '_ {
        self.open.iter().map(|(slot, (standing, location))| Entry {
            slot: *slot,
            standing: *standing,
            location: *location,
        })
    }
}

#[cfg(test)]
mod tests {
    use synod_paxos::{Ballot, NodeId};

    use super::*;

    fn entry(slot: u64, standing: Standing, at: u32) -> Entry {
        let location = Location { segment: 1, payload_at: at, body_bytes: 0 };
        Entry { slot: Slot(slot), standing, location }
    }

    fn accepted(round: u64) -> Standing {
        Standing::Accepted(Ballot { round, node: NodeId(1) })
    }

    fn place(index: &Index, slot: u64) -> Option<u32> {
        index.find_chosen(Slot(slot)).map(|location| location.payload_at)
    }

    #[test]
    fn chosen_beats_every_ballot_and_the_highest_ballot_beats_the_others() {
        let mut index = Index::new(Slot::ZERO);
        index.insert(entry(1, accepted(1), 10));
        index.insert(entry(1, accepted(2), 11));
        index.insert(entry(2, Standing::Chosen, 20));
        index.insert(entry(2, accepted(9), 21));
        assert_eq!((place(&index, 1), place(&index, 2)), (None, Some(20)));
        index.advance(Slot(2)).unwrap();
        assert_eq!((place(&index, 1), place(&index, 2)), (Some(11), Some(20)));
        index.insert(entry(1, accepted(7), 12));
        assert_eq!(place(&index, 1), Some(11));
    }

    #[test]
    fn the_watermark_does_not_pass_a_hole() {
        let mut index = Index::new(Slot::ZERO);
        index.insert(entry(2, Standing::Chosen, 20));
        assert_eq!(index.advance(Slot(2)), Err(MissingSlot(Slot(1))));
        index.truncate(Slot(1));
        assert_eq!(index.advance(Slot(2)), Ok(()));
        assert_eq!((place(&index, 1), place(&index, 2)), (None, Some(20)));
    }

    #[test]
    fn truncation_may_lie_beyond_everything() {
        let mut index = Index::new(Slot::ZERO);
        index.insert(entry(1, accepted(1), 10));
        index.insert(entry(7, accepted(1), 70));
        index.advance(Slot(1)).unwrap();
        index.truncate(Slot(5));
        assert_eq!((index.chosen_upto(), index.open().count()), (Slot(5), 1));
    }
}
