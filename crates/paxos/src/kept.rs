//! What is kept of an acceptor's slots when so many others are lost for good that nobody can decide
//! anything any more, and a new cluster begins with what this one has.
//!
//! What it knows as chosen is kept, and what it accepted after that without a hole: whether such a
//! slot was chosen nobody can tell any more. To keep one that was not brings a write that had no
//! answer, which its client had to reckon with; to drop one that was would lose an acknowledged
//! write. What stands behind a hole is dropped: what it follows is not known.

use alloc::vec::Vec;

use crate::{Bug, Planted, Slot};

/// The slots of one acceptor that a new cluster begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptSlots {
    /// Every slot up to here is known as chosen.
    pub chosen_upto: Slot,
    /// Every slot up to here is kept. Those above `chosen_upto` may never have been chosen, or with
    /// another value, without this acceptor.
    pub upto: Slot,
    /// Slots that it accepted beyond the first missing one.
    pub dropped: Vec<Slot>,
}

/// The state ends before the journal begins, so what lies between is nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateLost;

impl KeptSlots {
    /// Of an acceptor of whose journal nothing is left: its state has every slot up to `applied`.
    #[must_use]
    pub fn of_state(applied: Slot) -> KeptSlots {
        KeptSlots { chosen_upto: applied, upto: applied, dropped: Vec::new() }
    }

    /// Of an acceptor whose journal holds nothing up to `truncated_upto`, knows every slot up to
    /// `chosen_upto` as chosen, and has a value in each of the `open` slots, which are told in their order.
    ///
    /// # Errors
    /// When the state lacks what the journal has dropped.
    pub fn new(
        applied: Slot,
        (truncated_upto, chosen_upto): (Slot, Slot),
        open: impl IntoIterator<Item = Slot>,
        planted: Planted,
    ) -> Result<KeptSlots, StateLost> {
        if applied < truncated_upto {
            return Err(StateLost);
        }
        let mut kept = KeptSlots::of_state(applied.max(chosen_upto));
        for slot in open.into_iter().filter(|slot| *slot > kept.chosen_upto) {
            let follows = slot == kept.upto.next() && !planted.is(Bug::RecoveryDropsAccepted);
            if follows || planted.is(Bug::RecoveryPassesHole) {
                kept.upto = slot;
            } else {
                kept.dropped.push(slot);
            }
        }
        Ok(kept)
    }

    /// The first slot that is not there.
    #[must_use]
    pub fn first_missing(&self) -> Slot {
        self.upto.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(applied: u64, chosen_upto: u64, open: &[u64]) -> (u64, u64, Vec<u64>) {
        let open = open.iter().copied().map(Slot);
        let kept = KeptSlots::new(Slot(applied), (Slot(2), Slot(chosen_upto)), open, Planted::NONE);
        let kept = kept.expect("the state has what the journal lacks");
        (kept.chosen_upto.0, kept.upto.0, kept.dropped.into_iter().map(|slot| slot.0).collect())
    }

    #[test]
    fn what_was_accepted_counts_up_to_the_first_hole() {
        assert_eq!(kept(3, 5, &[6, 7, 9, 10]), (5, 7, [9, 10].into()));
        assert_eq!(kept(3, 5, &[]), (5, 5, [].into()));
        assert_eq!(kept(3, 5, &[7]), (5, 5, [7].into()));
    }

    #[test]
    fn what_the_state_has_is_chosen_though_the_journal_does_not_know() {
        assert_eq!(kept(8, 5, &[6, 7, 9]), (8, 9, [].into()));
        assert_eq!(kept(8, 5, &[6, 7, 10]), (8, 8, [10].into()));
    }

    #[test]
    fn a_state_that_ends_before_the_journal_begins_is_lost() {
        let kept = KeptSlots::new(Slot(1), (Slot(2), Slot(5)), [Slot(6)], Planted::NONE);
        assert_eq!(kept, Err(StateLost));
    }
}
