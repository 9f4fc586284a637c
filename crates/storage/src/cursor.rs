//! Moving over the entries of a store.

use rocksdb::{DB, DBRawIterator, ReadOptions};
use synod_kv::{Cursor, MapError};

/// A place in a store as it was when the cursor was made.
pub struct StoreCursor<'a> {
    rows: DBRawIterator<'a>,
}

impl std::fmt::Debug for StoreCursor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreCursor").field("entry", &self.entry()).finish()
    }
}

impl<'a> StoreCursor<'a> {
    pub(crate) fn new(db: &'a DB, from: &[u8], to: &[u8]) -> Self {
        let mut options = ReadOptions::default();
        // Without this a seek may skip files by the filters over prefixes, which
        // is wrong for a range of many keys.
        options.set_total_order_seek(true);
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        StoreCursor { rows: db.raw_iterator_opt(options) }
    }

    /// Within the records of one key the filters tell which files to look into.
    pub(crate) fn over_keys(db: &'a DB) -> Self {
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        StoreCursor { rows: db.raw_iterator_opt(options) }
    }

    /// A move that ended nowhere either left the range or failed.
    fn check(&self) -> Result<(), MapError> {
        if self.rows.valid() { Ok(()) } else { self.rows.status().map_err(crate::store::failed) }
    }
}

impl Cursor for StoreCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<(), MapError> {
        self.rows.seek(key);
        self.check()
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<(), MapError> {
        self.rows.seek_for_prev(key);
        if self.rows.key() == Some(key) {
            self.rows.prev();
        }
        self.check()
    }

    fn next(&mut self) -> Result<(), MapError> {
        self.rows.next();
        self.check()
    }

    fn prev(&mut self) -> Result<(), MapError> {
        self.rows.prev();
        self.check()
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.rows.item()
    }
}
