//! What will happen, in one total order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Happenings by their time; those of one time in the order in which they were
/// scheduled.
#[derive(Debug)]
pub(crate) struct Schedule<T> {
    order: u64,
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    /// The happenings themselves, so that the heap moves small entries only.
    slots: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Schedule<T> {
    pub(crate) fn new() -> Self {
        Schedule { order: 0, heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new() }
    }

    /// Schedules `what` for the moment `at_us`.
    pub(crate) fn at(&mut self, at_us: u64, what: T) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(what);
        self.order += 1;
        self.heap.push(Reverse((at_us, self.order, slot)));
    }

    /// The next happening and its time.
    pub(crate) fn pop(&mut self) -> Option<(u64, T)> {
        let Reverse((at_us, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        let what = self.slots[slot].take().expect("a scheduled slot is filled");
        Some((at_us, what))
    }

    /// How much is scheduled.
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_time_then_by_arrival() {
        let mut schedule = Schedule::new();
        for (at, what) in [(5, 'a'), (3, 'b'), (5, 'c'), (3, 'd')] {
            schedule.at(at, what);
        }
        let mut order = String::new();
        while let Some((_, what)) = schedule.pop() {
            order.push(what);
        }
        assert_eq!(order, "bdac");
    }
}
