//! The log of one replica: what it accepted, what is chosen of it, what is gone.
//!
//! ```text
//!   truncated_upto      first            chosen_upto        last
//!         |               |                   |               |
//!  gone   |  journal only |  chosen, cached   |  open         |
//! ```

use alloc::collections::VecDeque;

use crate::{Ballot, Slot, Standing, Value};

/// What one slot holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Entry {
    pub(crate) standing: Standing,
    pub(crate) value: Value,
}

/// The slots that this replica holds in memory, and the marks between them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Log {
    truncated_upto: Slot,
    chosen_upto: Slot,
    /// The slot of `entries[0]`.
    first: Slot,
    entries: VecDeque<Option<Entry>>,
    cached_bytes: usize,
    /// The highest acceptance, by ballot and then by slot.
    last_accepted: (Ballot, Slot),
}

impl Log {
    /// A log whose prefix up to `chosen_upto` is on disk only.
    pub(crate) fn new(truncated_upto: Slot, chosen_upto: Slot) -> Log {
        assert!(truncated_upto <= chosen_upto, "a log truncates only what is chosen");
        Log {
            truncated_upto,
            chosen_upto,
            first: chosen_upto.next(),
            entries: VecDeque::new(),
            cached_bytes: 0,
            last_accepted: (Ballot::ZERO, chosen_upto),
        }
    }

    /// The journal holds nothing at or below this slot.
    pub(crate) fn truncated_upto(&self) -> Slot {
        self.truncated_upto
    }

    /// Every slot up to here is chosen.
    pub(crate) fn chosen_upto(&self) -> Slot {
        self.chosen_upto
    }

    /// The first slot that is in memory, or would be next.
    pub(crate) fn first(&self) -> Slot {
        self.first
    }

    /// The highest slot that holds anything; the chosen prefix if none does.
    pub(crate) fn last(&self) -> Slot {
        Slot(self.first.0 + self.entries.len() as u64 - 1).max(self.chosen_upto)
    }

    /// Bytes of the values in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.cached_bytes
    }

    /// The highest acceptance.
    pub(crate) fn last_accepted(&self) -> (Ballot, Slot) {
        self.last_accepted
    }

    /// What `slot` holds, as far as it is in memory.
    pub(crate) fn get(&self, slot: Slot) -> Option<&Entry> {
        let index = slot.0.checked_sub(self.first.0)?;
        self.entries.get(usize::try_from(index).ok()?)?.as_ref()
    }

    /// Whether `slot` is known as chosen, in memory or not.
    pub(crate) fn is_chosen(&self, slot: Slot) -> bool {
        slot <= self.chosen_upto
            || self.get(slot).is_some_and(|entry| entry.standing == Standing::Chosen)
    }

    /// Holds `value` as accepted in `ballot`. The caller is the acceptor.
    pub(crate) fn accept(&mut self, slot: Slot, ballot: Ballot, value: Value) {
        assert!(!self.is_chosen(slot), "a chosen slot is never accepted anew");
        self.last_accepted = self.last_accepted.max((ballot, slot));
        self.put(slot, Entry { standing: Standing::Accepted(ballot), value });
    }

    /// Holds `value` as chosen.
    pub(crate) fn learn(&mut self, slot: Slot, value: Value) {
        assert!(!self.is_chosen(slot), "learnt twice");
        self.put(slot, Entry { standing: Standing::Chosen, value });
    }

    /// The value that `slot` holds is the chosen one.
    pub(crate) fn confirm(&mut self, slot: Slot) {
        let index = usize::try_from(slot.0 - self.first.0).expect("the window is small");
        let entry = self.entries[index].as_mut().expect("only a held value is confirmed");
        entry.standing = Standing::Chosen;
    }

    /// Moves the chosen prefix over one more slot, if that is chosen.
    pub(crate) fn advance(&mut self) -> Option<(Slot, Value)> {
        let next = self.chosen_upto.next();
        let entry = self.get(next)?;
        if entry.standing != Standing::Chosen {
            return None;
        }
        let value = entry.value.clone();
        self.chosen_upto = next;
        Some((next, value))
    }

    /// Forgets cached values up to `applied` while they take more than
    /// `bytes_max`; they stay in the journal.
    pub(crate) fn evict(&mut self, applied: Slot, bytes_max: usize) {
        let limit = applied.min(self.chosen_upto);
        while self.first <= limit && self.cached_bytes > bytes_max {
            self.drop_first();
        }
    }

    /// The journal may forget every slot up to `upto`.
    pub(crate) fn truncate(&mut self, upto: Slot) {
        assert!(upto <= self.chosen_upto, "only chosen slots are truncated");
        self.truncated_upto = self.truncated_upto.max(upto);
        self.drop_upto(upto);
    }

    /// A snapshot holds every slot up to `upto`, which are chosen therefore and need not
    /// be here; what is held above it stays, chosen or accepted.
    pub(crate) fn install(&mut self, upto: Slot) {
        self.chosen_upto = self.chosen_upto.max(upto);
        self.truncated_upto = self.truncated_upto.max(upto);
        self.drop_upto(upto);
    }

    /// Forgets what is held above the chosen prefix. Only a planted bug does this.
    pub(crate) fn forget_open(&mut self) {
        while self.last() > self.chosen_upto {
            if let Some(entry) = self.entries.pop_back().flatten() {
                self.cached_bytes -= entry.value.size_bytes();
            }
        }
    }

    /// A snapshot may skip any number of slots; only those that are held take time.
    fn drop_upto(&mut self, upto: Slot) {
        while self.first <= upto && !self.entries.is_empty() {
            self.drop_first();
        }
        self.first = self.first.max(upto.next());
    }

    fn drop_first(&mut self) {
        if let Some(entry) = self.entries.pop_front().flatten() {
            self.cached_bytes -= entry.value.size_bytes();
        }
        self.first = self.first.next();
    }

    fn put(&mut self, slot: Slot, entry: Entry) {
        let index = usize::try_from(slot.0 - self.first.0).expect("the window is small");
        while self.entries.len() <= index {
            self.entries.push_back(None);
        }
        self.cached_bytes += entry.value.size_bytes();
        if let Some(old) = self.entries[index].replace(entry) {
            self.cached_bytes -= old.value.size_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;
    use bytes::Bytes;

    fn value(n: u8) -> Value {
        Value::Batch(Bytes::from(alloc::vec![n; 8]))
    }

    #[test]
    fn the_prefix_moves_over_chosen_slots_only() {
        let ballot = Ballot::ZERO.next(NodeId(1));
        let mut log = Log::new(Slot(3), Slot(5));
        log.accept(Slot(6), ballot, value(6));
        log.learn(Slot(7), value(7));
        assert_eq!(log.advance(), None);
        log.confirm(Slot(6));
        assert_eq!(log.advance(), Some((Slot(6), value(6))));
        assert_eq!(log.advance(), Some((Slot(7), value(7))));
        assert_eq!(log.advance(), None);
        assert_eq!((log.chosen_upto(), log.last()), (Slot(7), Slot(7)));
    }

    /// Slots 4 and 5 chosen, 7 and 9 accepted, 8 learnt; a snapshot of each slot around.
    #[test]
    fn a_snapshot_replaces_what_it_holds_and_nothing_else() {
        let ballot = Ballot::ZERO.next(NodeId(1));
        for upto in (1..=12).map(Slot) {
            let mut log = Log::new(Slot(2), Slot(3));
            for slot in [4, 5] {
                log.learn(Slot(slot), value(1));
                log.advance();
            }
            log.accept(Slot(7), ballot, value(7));
            log.learn(Slot(8), value(8));
            log.accept(Slot(9), ballot, value(9));
            let before = log.clone();
            log.install(upto);
            assert_eq!(log.truncated_upto(), upto.max(Slot(2)));
            assert_eq!(log.chosen_upto(), upto.max(Slot(5)));
            for slot in (1..=12).map(Slot) {
                let held = before.get(slot).filter(|_| slot > upto);
                assert_eq!(log.get(slot), held, "slot {slot} after a snapshot of {upto}");
            }
            let kept = [4, 5, 7, 8, 9].iter().filter(|slot| Slot(**slot) > upto).count();
            assert_eq!(log.bytes(), kept * value(1).size_bytes());
            assert_eq!(log.last(), upto.max(Slot(9)));
            assert_eq!(log.advance(), (upto == Slot(7)).then(|| (Slot(8), value(8))));
            log.accept(log.last().next(), ballot, value(1));
        }
    }

    /// This ends only if it does not count through them.
    #[test]
    fn a_snapshot_may_be_any_number_of_slots_ahead() {
        let mut log = Log::new(Slot(3), Slot(5));
        log.learn(Slot(7), value(7));
        log.install(Slot(u64::MAX / 2));
        assert_eq!((log.first(), log.bytes()), (Slot(u64::MAX / 2 + 1), 0));
        assert_eq!(log.last(), Slot(u64::MAX / 2));
    }

    #[test]
    fn eviction_keeps_what_is_not_applied() {
        let mut log = Log::new(Slot::ZERO, Slot::ZERO);
        for n in 1..=4 {
            log.learn(Slot(n), value(1));
            log.advance();
        }
        log.evict(Slot(2), 0);
        assert_eq!(log.first(), Slot(3));
        assert!(log.get(Slot(2)).is_none() && log.get(Slot(3)).is_some());
        log.truncate(Slot(4));
        assert_eq!((log.first(), log.truncated_upto()), (Slot(5), Slot(4)));
        assert_eq!(log.last(), Slot(4));
    }
}
