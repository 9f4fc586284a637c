//! A node's state on disk: the ordered map, and the part of it that a crash leaves.
//!
//! The disk may change an entry. Every block of a real state bears a checksum, so whoever
//! reads the entry is told, and a copy of the files is as damaged as they are.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use synod_kv::{
    APPLIED_KEY, MapError, MemoryCursor, MemoryMap, OrderedMap, State, Write, WriteSet,
};
use synod_paxos::Slot;

/// Commits that are not durable yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unflushed(Rc<RefCell<VecDeque<WriteSet>>>);

/// The keys of entries that are not as they were written.
pub(crate) type Damage = BTreeSet<Vec<u8>>;

/// What a crash leaves: a prefix of the commits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durable {
    pub(crate) map: MemoryMap,
    pub(crate) slot: u64,
    /// The slot of the snapshot that this was, until the journal starts after it.
    pub(crate) installed: Option<Slot>,
    /// Up to here it is another node's work.
    pub(crate) copied_upto: Slot,
    pub(crate) damage: Damage,
    /// It was given slots that the journal may not hold, and the journal does not say so yet.
    pub(crate) filled: bool,
}

impl Durable {
    /// The atomic switch to a snapshot.
    pub(crate) fn switch(&mut self, map: &MemoryMap, slot: u64) {
        let installed = Some(Slot(slot));
        *self = Durable {
            map: map.clone(),
            slot,
            installed,
            copied_upto: Slot(slot),
            damage: Damage::new(),
            filled: self.filled,
        };
    }

    /// Changes the entry at `share` of a thousand, if there is one.
    pub(crate) fn damage(&mut self, share_permille: usize) {
        if let Some(key) = change(&mut self.map, share_permille) {
            self.damage.insert(key);
        }
    }

    /// Commits become durable, the oldest first, up to the one that ends at `slot`.
    pub(crate) fn flush(&mut self, unflushed: &Unflushed, slot: u64) {
        let mut commits = unflushed.0.borrow_mut();
        while self.slot < slot {
            let commit = commits.pop_front().expect("every commit up to the slot is here");
            self.map.write(&commit).expect("memory does not fail");
            forget_overwritten(&mut self.damage, &commit);
            self.slot = State::load(&self.map).expect("our own record").applied_slot;
        }
    }
}

/// The map of a running state machine.
#[derive(Debug)]
pub(crate) struct Store {
    map: MemoryMap,
    unflushed: Unflushed,
    damage: RefCell<Damage>,
    /// Checksums are not looked at: a planted mistake.
    is_blind: bool,
}

impl Store {
    /// Goes on with what a crash left.
    pub(crate) fn new(durable: &Durable, is_blind: bool) -> (Self, Unflushed) {
        let unflushed = Unflushed::default();
        let (map, damage) = (durable.map.clone(), RefCell::new(durable.damage.clone()));
        (Store { map, unflushed: unflushed.clone(), damage, is_blind }, unflushed)
    }

    /// Everything that is committed, as of now, and which of it is not as it was written.
    pub(crate) fn checkpoint(&self) -> (MemoryMap, Damage) {
        (self.map.clone(), self.damage.borrow().clone())
    }

    /// The disk changed what a process reads.
    pub(crate) fn damage(&self, durable: &Durable) {
        self.damage.borrow_mut().extend(durable.damage.iter().cloned());
    }

    fn read(&self, is_damaged: bool) -> Result<(), MapError> {
        match is_damaged && !self.is_blind {
            true => Err(MapError("a block does not fit its checksum".to_owned())),
            false => Ok(()),
        }
    }
}

/// Changes the entry at `share` of a thousand; says which, if there is one. What says how far
/// the state is, is written anew with each commit, and is left alone.
pub(crate) fn change(map: &mut MemoryMap, share_permille: usize) -> Option<Vec<u8>> {
    let entries = || map.iter().filter(|(key, _)| *key != APPLIED_KEY);
    let (key, value) = entries().nth(share_permille * entries().count() / 1_000)?;
    let (key, mut value) = (key.to_vec(), value.to_vec());
    *value.last_mut()? ^= 1;
    let mut changed = WriteSet::new();
    changed.put(&key, &value);
    map.write(&changed).expect("memory does not fail");
    Some(key)
}

/// What was written again is as it was written.
fn forget_overwritten(damage: &mut Damage, batch: &WriteSet) {
    if !damage.is_empty() {
        batch.iter().for_each(|write| match write {
            Write::Put { key, .. } | Write::Delete { key } => drop(damage.remove(key)),
        });
    }
}

impl OrderedMap for Store {
    type Cursor<'a> = MemoryCursor<'a>;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MapError> {
        self.read(self.damage.borrow().contains(key))?;
        self.map.get(key)
    }

    fn cursor(&self, from: &[u8], to: &[u8]) -> Result<MemoryCursor<'_>, MapError> {
        let damage = self.damage.borrow();
        self.read(damage.iter().any(|key| from <= key.as_slice() && key.as_slice() < to))?;
        self.map.cursor(from, to)
    }

    fn write(&mut self, batch: &WriteSet) -> Result<(), MapError> {
        self.unflushed.0.borrow_mut().push_back(batch.clone());
        forget_overwritten(self.damage.get_mut(), batch);
        self.map.write(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_to_who_reads_it_until_it_is_written_anew() {
        let mut durable = Durable::default();
        let mut batch = WriteSet::new();
        batch.put(b"a", b"1");
        batch.put(b"b", b"2");
        durable.map.write(&batch).expect("memory");
        durable.damage(999);
        let (mut store, _) = Store::new(&durable, false);
        assert!(store.get(b"a").is_ok() && store.get(b"b").is_err());
        assert!(store.cursor(b"a", b"b").is_ok() && store.cursor(b"a", b"c").is_err());
        let (blind, _) = Store::new(&durable, true);
        assert_eq!(blind.get(b"b").expect("it does not look").as_deref(), Some(&b"3"[..]));
        assert_eq!(store.checkpoint().1.len(), 1, "a copy is as damaged");
        store.write(&batch).expect("memory");
        assert!(store.get(b"b").is_ok() && store.checkpoint().1.is_empty());
    }
}
