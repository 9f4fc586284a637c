//! The changes of one commit.

use std::ops::Range;

/// Changes to a map, in the order in which they take effect. All bytes lie in
/// one buffer, so that a change costs no allocation of its own.
#[derive(Clone, Default, Debug)]
pub struct WriteSet {
    arena: Vec<u8>,
    entries: Vec<Place>,
}

/// Where a change lies in the arena: the key, and after it the value.
#[derive(Clone, Debug)]
struct Place {
    key: Range<usize>,
    value_end: Option<usize>,
}

/// One change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write<'a> {
    /// Insert or replace.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Remove.
    Delete {
        /// The key.
        key: &'a [u8],
    },
}

impl WriteSet {
    /// No changes.
    #[must_use]
    pub fn new() -> Self {
        WriteSet::default()
    }

    /// Adds an insertion.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_with(|out| out.extend_from_slice(key), |out| out.extend_from_slice(value));
    }

    /// Adds an insertion whose key and value are appended to the buffer they are
    /// given, without a copy in between.
    pub fn put_with(&mut self, key: impl FnOnce(&mut Vec<u8>), value: impl FnOnce(&mut Vec<u8>)) {
        let key = self.append(key);
        let value = self.append(value);
        self.entries.push(Place { key, value_end: Some(value.end) });
    }

    /// Adds a removal.
    pub fn delete(&mut self, key: &[u8]) {
        let key = self.append(|out| out.extend_from_slice(key));
        self.entries.push(Place { key, value_end: None });
    }

    /// The changes in their order.
    pub fn iter(&self) -> impl Iterator<Item = Write<'_>> {
        self.entries.iter().map(|place| {
            let key = &self.arena[place.key.clone()];
            match place.value_end {
                Some(end) => Write::Put { key, value: &self.arena[place.key.end..end] },
                None => Write::Delete { key },
            }
        })
    }

    /// How many changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.arena.len()
    }

    /// Forgets all changes. Keeps the memory for the next ones unless it is much.
    pub fn clear(&mut self) {
        const KEEP_BYTES_MAX: usize = 1 << 20;
        self.arena.clear();
        self.arena.shrink_to(KEEP_BYTES_MAX);
        self.entries.clear();
        self.entries.shrink_to(KEEP_BYTES_MAX / size_of::<Place>());
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        let start = self.arena.len();
        write(&mut self.arena);
        assert!(self.arena.len() >= start, "a writer may only append");
        start..self.arena.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_in_order() {
        let mut set = WriteSet::new();
        set.put(b"a", b"1");
        set.delete(b"a");
        set.put(b"", b"");
        let expected = [
            Write::Put { key: b"a", value: b"1" },
            Write::Delete { key: b"a" },
            Write::Put { key: b"", value: b"" },
        ];
        assert!(set.iter().eq(expected));
        assert_eq!((set.len(), set.size_bytes()), (3, 3));
        set.clear();
        assert!(set.is_empty());
    }
}
