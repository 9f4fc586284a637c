//! What a store says about itself.

use rocksdb::{DB, properties};

/// Sizes and conditions of a store at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StoreMetrics {
    /// Written and not flushed yet, or still in use by readers.
    pub memtable_bytes: u64,
    /// Files on disk.
    pub file_bytes: u64,
    /// In use of the block cache.
    pub block_cache_bytes: u64,
    /// What waits to be compacted.
    pub pending_compaction_bytes: u64,
    /// Flushes and compactions at work.
    pub running_jobs: u64,
    /// About how many records there are, old ones included.
    pub records: u64,
    /// Failed flushes and compactions.
    pub background_errors: u64,
    /// Writes are held up because flushing or compacting is behind.
    pub is_write_stopped: bool,
    /// Writes are slowed down to this many bytes a second; 0 when they are not.
    pub delayed_write_bytes_per_second: u64,
}

impl StoreMetrics {
    pub(crate) fn of(db: &DB) -> Self {
        // A property that cannot be read is none of these, so 0 is no lie that hurts.
        let value = |name| db.property_int_value(name).ok().flatten().unwrap_or(0);
        StoreMetrics {
            memtable_bytes: value(properties::SIZE_ALL_MEM_TABLES),
            file_bytes: value(properties::TOTAL_SST_FILES_SIZE),
            block_cache_bytes: value(properties::BLOCK_CACHE_USAGE),
            pending_compaction_bytes: value(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
            running_jobs: value(properties::NUM_RUNNING_FLUSHES)
                + value(properties::NUM_RUNNING_COMPACTIONS),
            records: value(properties::ESTIMATE_NUM_KEYS),
            background_errors: value(properties::BACKGROUND_ERRORS),
            is_write_stopped: value(properties::IS_WRITE_STOPPED) != 0,
            delayed_write_bytes_per_second: value(properties::ACTUAL_DELAYED_WRITE_RATE),
        }
    }
}
