//! What is known about keys without reading the map.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::{KeyRecord, LeaseId, Revision};

/// A key's record without the value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Metadata {
    pub(crate) create_revision: Revision,
    pub(crate) mod_revision: Revision,
    pub(crate) version: u64,
    pub(crate) lease: u64,
}

impl Metadata {
    pub(crate) fn of(record: &KeyRecord) -> Self {
        Metadata {
            create_revision: record.create_revision,
            mod_revision: record.mod_revision,
            version: record.version,
            lease: record.lease,
        }
    }

    /// Of a put over what the key had.
    pub(crate) fn of_put(
        current: Option<Metadata>,
        revision: Revision,
        lease: Option<LeaseId>,
    ) -> Self {
        Metadata {
            create_revision: current.map_or(revision, |current| current.create_revision),
            mod_revision: revision,
            version: current.map_or(0, |current| current.version) + 1,
            lease: lease.map_or(0, |lease| lease.0),
        }
    }

    pub(crate) fn with_value(self, value: Bytes) -> KeyRecord {
        KeyRecord {
            value,
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            lease: self.lease,
        }
    }
}

/// Remembers the newest metadata of keys, and of some that they do not exist.
///
/// Two generations: when the young one is full it becomes the old one, and what
/// was old is forgotten. A key that is used moves to the young one. So nothing is
/// ever searched for a victim, and neither map is ever walked, which keeps the
/// random order of its hashes out of the results.
#[derive(Debug)]
pub(crate) struct MetadataCache {
    young: Generation,
    old: Generation,
    young_bytes: usize,
    generation_bytes_max: usize,
}

/// Clients choose the keys, so the hash is seeded anew by each process.
type Generation = HashMap<Box<[u8]>, Option<Metadata>, RandomState>;

/// About what an entry takes beside its key: its slot in a table that may be less
/// than half full, and the allocation of the key.
const ENTRY_BYTES: usize = 150;

impl MetadataCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        MetadataCache {
            young: Generation::default(),
            old: Generation::default(),
            young_bytes: 0,
            generation_bytes_max: bytes_max / 2,
        }
    }

    /// What is known about the key: nothing, that it does not exist, or its metadata.
    pub(crate) fn get(&mut self, key: &[u8]) -> Option<Option<Metadata>> {
        if let Some(known) = self.young.get(key) {
            return Some(*known);
        }
        let (key, known) = self.old.remove_entry(key)?;
        self.insert(key, known);
        Some(known)
    }

    /// Remembers. The key is copied: a slice of a batch would keep the whole
    /// batch in memory.
    pub(crate) fn set(&mut self, key: &[u8], known: Option<Metadata>) {
        if let Some(entry) = self.young.get_mut(key) {
            *entry = known;
            return;
        }
        let key = match self.old.remove_entry(key) {
            Some((key, _)) => key,
            None => key.into(),
        };
        self.insert(key, known);
    }

    fn insert(&mut self, key: Box<[u8]>, known: Option<Metadata>) {
        let bytes = key.len() + ENTRY_BYTES;
        if self.young_bytes + bytes > self.generation_bytes_max {
            // The table of the forgotten generation is used again.
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            self.young_bytes = 0;
        }
        if bytes <= self.generation_bytes_max {
            self.young_bytes += bytes;
            self.young.insert(key, known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: u64) -> Option<Metadata> {
        let revision = Revision(revision);
        Some(Metadata { create_revision: revision, mod_revision: revision, version: 1, lease: 0 })
    }

    #[test]
    fn what_is_used_stays_and_the_size_is_bounded() {
        let mut cache = MetadataCache::new(20 * (ENTRY_BYTES + 8));
        cache.set(&[0; 8], at(7));
        for number in 1..1000u64 {
            cache.set(&number.to_be_bytes(), at(number));
            assert_eq!(cache.get(&number.to_be_bytes()), Some(at(number)));
            assert_eq!(cache.get(&[0; 8]), Some(at(7)), "after {number}");
            assert!(cache.young.len() + cache.old.len() <= 20);
        }
        assert_eq!(cache.get(&1u64.to_be_bytes()), None);
    }

    #[test]
    fn the_last_word_counts_wherever_the_first_one_lies() {
        let mut cache = MetadataCache::new(8 * (ENTRY_BYTES + 1));
        cache.set(b"a", at(1));
        for filler in 0..4 {
            cache.set(&[filler], at(2));
        }
        assert!(cache.old.contains_key(b"a".as_slice()));
        cache.set(b"a", None);
        assert_eq!(cache.get(b"a"), Some(None));
        cache.set(b"a", at(9));
        assert_eq!(cache.get(b"a"), Some(at(9)));
    }

    #[test]
    fn a_cache_without_room_knows_nothing() {
        let mut cache = MetadataCache::new(0);
        cache.set(b"a", at(1));
        assert_eq!(cache.get(b"a"), None);
    }
}
