//! The ordered byte map in memory.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::map::{Cursor, MapError, OrderedMap};
use crate::write_set::{Write, WriteSet};

/// An [`OrderedMap`] that lives as long as its process: for simulated nodes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct MemoryMap {
    entries: BTreeMap<Vec<u8>, Bytes>,
}

impl MemoryMap {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        MemoryMap::default()
    }

    /// All entries in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|(key, value)| (key.as_slice(), value.as_ref()))
    }

    /// Drops every entry for which `keep` says no, as a compaction would.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        self.entries.retain(|key, value| keep(key, value));
    }
}

impl OrderedMap for MemoryMap {
    type Cursor<'a> = MemoryCursor<'a>;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MapError> {
        Ok(self.entries.get(key).cloned())
    }

    fn cursor(&self, from: &[u8], to: &[u8]) -> Result<MemoryCursor<'_>, MapError> {
        Ok(MemoryCursor { map: self, from: from.to_vec(), to: to.to_vec(), here: None })
    }

    fn write(&mut self, batch: &WriteSet) -> Result<(), MapError> {
        for write in batch.iter() {
            match write {
                Write::Put { key, value } => {
                    self.entries.insert(key.to_vec(), Bytes::copy_from_slice(value));
                }
                Write::Delete { key } => {
                    self.entries.remove(key);
                }
            }
        }
        Ok(())
    }
}

/// A place in a [`MemoryMap`].
#[derive(Debug)]
pub struct MemoryCursor<'a> {
    map: &'a MemoryMap,
    from: Vec<u8>,
    to: Vec<u8>,
    here: Option<(&'a [u8], &'a [u8])>,
}

impl MemoryCursor<'_> {
    /// The lowest (or with `last` the highest) entry between the bounds and
    /// within the cursor's range.
    fn go(&mut self, low: Bound<&[u8]>, high: &[u8], last: bool) {
        let high = high.min(&self.to);
        let low = match low {
            Bound::Included(key) | Bound::Excluded(key) if key < self.from.as_slice() => {
                Bound::Included(self.from.as_slice())
            }
            low => low,
        };
        let (Bound::Included(lowest) | Bound::Excluded(lowest)) = low else {
            unreachable!("every move has a lower bound");
        };
        self.here = None;
        if lowest < high {
            let mut range = self.map.entries.range::<[u8], _>((low, Bound::Excluded(high)));
            let found = if last { range.next_back() } else { range.next() };
            self.here = found.map(|(key, value)| (key.as_slice(), value.as_ref()));
        }
    }
}

impl Cursor for MemoryCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<(), MapError> {
        let to = self.to.clone();
        self.go(Bound::Included(key), &to, false);
        Ok(())
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<(), MapError> {
        let from = self.from.clone();
        self.go(Bound::Included(&from), key, true);
        Ok(())
    }

    fn next(&mut self) -> Result<(), MapError> {
        let (key, _) = self.here.expect("moves only from an entry");
        let to = self.to.clone();
        self.go(Bound::Excluded(key), &to, false);
        Ok(())
    }

    fn prev(&mut self) -> Result<(), MapError> {
        let (key, _) = self.here.expect("moves only from an entry");
        self.seek_before(key)
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.here
    }
}
