//! The limits of a store.

/// How much memory a store uses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreOptions {
    /// Written bytes that are gathered in memory before they are flushed to a
    /// file. Up to three times this may be in use while the disk is behind.
    pub memtable_bytes: usize,
    /// Memory for blocks of files, with their indexes and filters.
    pub block_cache_bytes: usize,
    /// Files that are kept open.
    pub open_files_max: u16,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions { memtable_bytes: 8 << 20, block_cache_bytes: 32 << 20, open_files_max: 512 }
    }
}
