//! What is between the hub and a watch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Waker;

use synod_kv::Revision;
use synod_kv::read::ChangePoint;

use crate::watch::event::Event;

/// What an item takes in a queue, beside its event.
pub(crate) const ITEM_BYTES: usize = size_of::<Item>();
/// Items for which a queue that is empty keeps room. They count as part of the watch.
const ITEMS_MIN: usize = 4;

/// Events that wait for a watch. The lock of the hub is taken before its lock.
#[derive(Debug)]
pub(crate) struct Queue {
    items: VecDeque<Item>,
    /// Bytes of their events.
    bytes: usize,
    /// The look that found it empty, last.
    pub(crate) filled_by: u64,
    /// What all queues hold: the room of this one, and each event once.
    held: Arc<AtomicUsize>,
    /// What of that is counted for its room, in bytes.
    room_bytes: usize,
    pub(crate) mode: Mode,
    pub(crate) waker: Option<Waker>,
    pub(crate) is_stopping: bool,
}

/// How a watch gets what is not in its queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// It is handed what happens from this revision on.
    Live(Revision),
    /// It reads by itself from here on.
    Behind(ChangePoint),
}

/// An event in a queue.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) event: Arc<Event>,
    /// The last one of its revision for this watch.
    pub(crate) is_last: bool,
}

impl Queue {
    /// An empty one of a watch that gets its events so. What it takes is counted in `held`.
    pub(crate) fn new(held: Arc<AtomicUsize>, mode: Mode, is_stopping: bool) -> Self {
        let (items, bytes, filled_by, room_bytes, waker) = (VecDeque::new(), 0, 0, 0, None);
        Self { items, bytes, filled_by, held, room_bytes, mode, waker, is_stopping }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Puts the events of a revision behind the others.
    pub(crate) fn put(&mut self, events: Vec<Arc<Event>>, bytes: usize) {
        self.bytes += bytes;
        let last = events.len() - 1;
        let items = events.into_iter().enumerate();
        self.items.extend(items.map(|(at, event)| Item { event, is_last: at == last }));
        self.count_room();
    }

    /// Takes items of about so many bytes.
    pub(crate) fn take(&mut self, bytes_max: usize) -> Vec<Item> {
        let (mut items, before) = (Vec::new(), self.bytes);
        while before - self.bytes < bytes_max
            && let Some(item) = self.items.pop_front()
        {
            self.bytes -= item.event.bytes();
            items.push(item);
        }
        if self.items.len() < self.items.capacity() / 4 {
            // What was bought for a rush is not kept for the quiet.
            self.items.shrink_to((2 * self.items.len()).max(ITEMS_MIN));
        }
        self.count_room();
        items
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.items.capacity()
    }

    pub(crate) fn clear(&mut self) {
        self.items = VecDeque::new();
        self.bytes = 0;
        self.count_room();
    }

    fn count_room(&mut self) {
        let room_bytes = self.items.capacity().saturating_sub(ITEMS_MIN) * ITEM_BYTES;
        self.held.fetch_add(room_bytes, Relaxed);
        self.held.fetch_sub(std::mem::replace(&mut self.room_bytes, room_bytes), Relaxed);
    }

    /// Whether so many more events of so many bytes fit. One always does.
    pub(crate) fn has_room(&self, events: usize, bytes: usize, limits: (usize, usize)) -> bool {
        let (events_max, bytes_max) = limits;
        let is_one = self.items.is_empty() && events == 1;
        self.items.len() + events <= events_max && (is_one || self.bytes + bytes <= bytes_max)
    }

    /// How full it is, in percent.
    pub(crate) fn fill(&self, limits: (usize, usize)) -> u64 {
        let (events_max, bytes_max) = limits;
        let of = |part: usize, whole: usize| part.saturating_mul(100) / whole.max(1);
        of(self.items.len(), events_max).max(of(self.bytes, bytes_max)) as u64
    }

    /// Tells whether anybody slept.
    pub(crate) fn wake(&mut self) -> bool {
        let waker = self.waker.take();
        let sleeps = waker.is_some();
        if let Some(waker) = waker {
            waker.wake();
        }
        sleeps
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.clear();
    }
}
