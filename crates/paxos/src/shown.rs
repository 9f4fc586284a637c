//! What is left of an acceptor's records still shows which values were chosen.
//!
//! A damaged acceptor may not vote about a slot of which it may have lost a record. But that a
//! value was chosen stays true whatever else was lost. A record that says so tells it by itself. An
//! acceptance tells it when a watermark passed it later and every record between the two is
//! known: one that is lost may have been another acceptance of the same slot, and then *that* was
//! chosen.

use alloc::collections::BTreeMap;

use crate::{Bug, Planted, Slot, Standing};

/// Puts together what runs of known records show. `P` says where a record's value is.
#[derive(Debug)]
pub struct ShownSlots<P> {
    places: BTreeMap<Slot, P>,
    /// Acceptances that no watermark has passed yet. All records since each of them are known.
    open: BTreeMap<Slot, (Standing, P)>,
    planted: Planted,
}

impl<P> ShownSlots<P> {
    /// Nothing is shown yet.
    #[must_use]
    pub fn new(planted: Planted) -> Self {
        ShownSlots { places: BTreeMap::new(), open: BTreeMap::new(), planted }
    }

    /// What comes next does not follow what was taken last.
    pub fn interrupt(&mut self) {
        if !self.planted.is(Bug::LostRecordsPassed) {
            self.open.clear();
        }
    }

    /// The next record has a value.
    pub fn take(&mut self, slot: Slot, standing: Standing, place: P) {
        if standing == Standing::Chosen || self.planted.is(Bug::ShownUnchosen) {
            self.open.remove(&slot);
            self.places.insert(slot, place);
        } else if !self.places.contains_key(&slot)
            && self.open.get(&slot).is_none_or(|(held, _)| *held <= standing)
        {
            self.open.insert(slot, (standing, place));
        }
    }

    /// The next record says that the journal starts after this slot: chosen by others, so that
    /// what stands here of the slots before may be something else.
    pub fn start_after(&mut self, slot: Slot) {
        self.open = self.open.split_off(&slot.next());
    }

    /// Every slot up to this one was known as chosen when the records so far were written.
    pub fn pass(&mut self, chosen_upto: Slot) {
        let above = self.open.split_off(&chosen_upto.next());
        let passed = core::mem::replace(&mut self.open, above);
        self.places.extend(passed.into_iter().map(|(slot, (_, place))| (slot, place)));
    }

    /// Where the value is of each slot that is shown as chosen.
    #[must_use]
    pub fn into_places(self) -> BTreeMap<Slot, P> {
        self.places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ballot, NodeId};

    fn accepted(round: u64) -> Standing {
        Standing::Accepted(Ballot { round, node: NodeId(1) })
    }

    fn places(shown: ShownSlots<char>) -> alloc::vec::Vec<(u64, char)> {
        shown.into_places().into_iter().map(|(slot, place)| (slot.0, place)).collect()
    }

    #[test]
    fn an_acceptance_is_shown_by_a_watermark_that_follows_it_without_a_break() {
        let mut shown = ShownSlots::new(Planted::NONE);
        shown.take(Slot(1), accepted(1), 'a');
        shown.take(Slot(2), accepted(1), 'b');
        shown.take(Slot(3), Standing::Chosen, 'c');
        shown.pass(Slot(1));
        shown.interrupt();
        shown.take(Slot(4), accepted(1), 'd');
        shown.pass(Slot(4));
        assert_eq!(places(shown), [(1, 'a'), (3, 'c'), (4, 'd')], "2 may have been accepted anew");
    }

    #[test]
    fn the_acceptance_that_stood_last_is_shown_and_none_that_a_start_replaced() {
        let mut shown = ShownSlots::new(Planted::NONE);
        shown.take(Slot(1), accepted(1), 'a');
        shown.take(Slot(2), accepted(1), 'b');
        shown.start_after(Slot(1));
        shown.take(Slot(2), accepted(3), 'c');
        shown.take(Slot(2), accepted(2), 'd');
        shown.take(Slot(3), accepted(3), 'e');
        shown.pass(Slot(2));
        shown.take(Slot(2), accepted(4), 'f');
        shown.pass(Slot(2));
        assert_eq!(places(shown), [(2, 'c')]);
    }
}
