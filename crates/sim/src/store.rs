//! A node's state on disk: the ordered map, and the part of it that a crash leaves.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use synod_kv::{MapError, MemoryCursor, MemoryMap, OrderedMap, State, WriteSet};
use synod_paxos::Slot;

/// Commits that are not durable yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unflushed(Rc<RefCell<VecDeque<WriteSet>>>);

/// What a crash leaves: a prefix of the commits.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    pub(crate) map: MemoryMap,
    pub(crate) slot: u64,
    /// The slot of the snapshot that this was, until the journal starts after it.
    pub(crate) installed: Option<Slot>,
    /// Up to here it is another node's work.
    pub(crate) copied_upto: Slot,
}

impl Durable {
    /// The atomic switch to a snapshot.
    pub(crate) fn switch(&mut self, map: &MemoryMap, slot: u64) {
        *self = Durable {
            map: map.clone(),
            slot,
            installed: Some(Slot(slot)),
            copied_upto: Slot(slot),
        };
    }

    /// Commits become durable, the oldest first, up to the one that ends at `slot`.
    pub(crate) fn flush(&mut self, unflushed: &Unflushed, slot: u64) {
        let mut commits = unflushed.0.borrow_mut();
        while self.slot < slot {
            let commit = commits.pop_front().expect("every commit up to the slot is here");
            self.map.write(&commit).expect("memory does not fail");
            self.slot = State::load(&self.map).expect("our own record").applied_slot;
        }
    }
}

/// The map of a running state machine.
#[derive(Debug)]
pub(crate) struct Store {
    map: MemoryMap,
    unflushed: Unflushed,
}

impl Store {
    /// Goes on with what a crash left.
    pub(crate) fn new(durable: &Durable) -> (Self, Unflushed) {
        let unflushed = Unflushed::default();
        (Store { map: durable.map.clone(), unflushed: unflushed.clone() }, unflushed)
    }
}

impl Store {
    /// Everything that is committed, as of now.
    pub(crate) fn checkpoint(&self) -> MemoryMap {
        self.map.clone()
    }
}

impl OrderedMap for Store {
    type Cursor<'a> = MemoryCursor<'a>;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MapError> {
        self.map.get(key)
    }

    fn cursor(&self, from: &[u8], to: &[u8]) -> Result<MemoryCursor<'_>, MapError> {
        self.map.cursor(from, to)
    }

    fn write(&mut self, batch: &WriteSet) -> Result<(), MapError> {
        self.unflushed.0.borrow_mut().push_back(batch.clone());
        self.map.write(batch)
    }
}
