//! The store.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rocksdb::{
    BottommostLevelCompaction, CompactOptions, DB, ErrorKind, FlushOptions, ReadOptions, ReadTier,
    WriteBatch, WriteOptions, properties,
};
use synod_kv::{APPLIED_KEY, MapError, OrderedMap, Revision, State, Write, WriteSet, layout};

use crate::compaction::Compacted;
use crate::cursor::StoreCursor;
use crate::{StoreError, StoreMetrics, StoreOptions, database};

/// An ordered byte map in a folder. A clone is another handle of the same map:
/// one thread writes, and any may read.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    db: DB,
    without_log: WriteOptions,
    from_files: ReadOptions,
    /// The first failure of a write. What the memory holds after it is not known
    /// to be what was written, so nothing is written ever after.
    failure: OnceLock<MapError>,
    /// Tombstones put since the last compaction of the whole.
    tombstones: AtomicU64,
    compacted: Compacted,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.db.path()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `path`. Its folder is made if it does not exist (the one
    /// above it is not), and only this user may enter it.
    ///
    /// # Errors
    /// When the folder is in use, cannot be used, or holds damaged files.
    pub fn open(path: impl AsRef<Path>, options: &StoreOptions) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let db = database::open(path, options)?;
        tracing::debug!(path = %path.display(), "opened the state");
        let store = Store::over(db);
        // What lies here now survives a crash, and with it up to where it is compacted. What
        // is wrong with it whoever opens the state is told.
        let _ = store.persisted(APPLIED_KEY);
        Ok(store)
    }

    /// Opens a store that nobody writes, to look at it. It may be open elsewhere. None
    /// of its data is changed; RocksDB keeps a log file of its own beside it.
    ///
    /// # Errors
    /// When there is no store, or it can't be read.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let store = database::open_read_only(path.as_ref()).map(Store::over)?;
        // Whoever wrote it may have swept it up to here.
        if let Ok(state) = State::load(&store) {
            store.inner.compacted.raise(state.compacted);
        }
        Ok(store)
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.inner.db.path()
    }

    /// Opens a store that nobody writes, to read each byte of it from the disk with
    /// [`Store::verify`]: what this system has of its files in memory is dropped first, and
    /// what stands beside the records in a file is read when the file is opened. Of that only
    /// damage of the filter is not told: RocksDB goes without one that is damaged.
    ///
    /// # Errors
    /// When there is no store, or it can't be read or is damaged.
    pub fn open_to_verify(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        database::open_to_verify(path.as_ref()).map(Store::over)
    }

    /// Reads every record once, which checks the checksum of every block that has one.
    /// Answers their number. `go_on` is asked now and then.
    ///
    /// # Errors
    /// When a block is damaged or a file is missing, or when `go_on` said no.
    pub fn verify(&self, go_on: impl Fn() -> bool) -> Result<u64, MapError> {
        self.verify_slowly(|_| go_on())
    }

    /// As [`Store::verify`]; `go_on` hears how many bytes of records were read since it was
    /// asked last, and may take its time.
    ///
    /// # Errors
    /// As [`Store::verify`].
    pub fn verify_slowly(&self, mut go_on: impl FnMut(usize) -> bool) -> Result<u64, MapError> {
        const ASK_EVERY_BYTES: usize = 256 << 10;
        let mut options = ReadOptions::default();
        options.set_verify_checksums(true);
        options.set_total_order_seek(true);
        options.fill_cache(false);
        options.set_readahead_size(1 << 20);
        let mut rows = self.inner.db.raw_iterator_opt(options);
        rows.seek_to_first();
        let (mut records, mut bytes) = (0_u64, 0);
        while let Some((key, value)) = rows.item() {
            records += 1;
            // An empty record takes time as well.
            bytes += key.len() + value.len() + 1;
            if bytes >= ASK_EVERY_BYTES && !go_on(std::mem::take(&mut bytes)) {
                return Err(MapError("the check was ended early".to_owned()));
            }
            rows.next();
        }
        rows.status().map_err(failed)?;
        Ok(records)
    }

    /// Gives up this handle. When it was the last one, the store is closed and its
    /// folder removed; if not, the handle comes back, to be tried again later.
    ///
    /// # Errors
    /// When the folder cannot be removed.
    pub fn remove_if_unused(self) -> std::io::Result<Option<Store>> {
        let path = self.path().to_owned();
        match Arc::try_unwrap(self.inner) {
            Ok(inner) => {
                drop(inner);
                std::fs::remove_dir_all(path).map(|()| None)
            }
            Err(inner) => Ok(Some(Store { inner })),
        }
    }

    pub(crate) fn database(&self) -> &DB {
        &self.inner.db
    }

    pub(crate) fn over((db, compacted): (DB, Compacted)) -> Self {
        let mut without_log = WriteOptions::default();
        without_log.disable_wal(true);
        let mut from_files = ReadOptions::default();
        from_files.set_read_tier(ReadTier::Persisted);
        let failure = OnceLock::new();
        let tombstones = AtomicU64::new(0);
        let inner = Inner { db, without_log, from_files, failure, tombstones, compacted };
        Store { inner: Arc::new(inner) }
    }

    /// The value of `key` that survives a crash: as of the last batch that was
    /// flushed. It looks into files only, so ask it now and then, not always.
    ///
    /// When it is asked for [`APPLIED_KEY`] it takes note up to which revision that state is
    /// compacted: compactions that begin afterwards drop what was replaced up to there.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn persisted(&self, key: &[u8]) -> Result<Option<Bytes>, MapError> {
        let value = self.inner.db.get_pinned_opt(key, &self.inner.from_files).map_err(failed)?;
        let value = value.map(|value| Bytes::copy_from_slice(&value));
        if key == APPLIED_KEY
            && let Some(Ok(state)) = value.as_deref().map(State::decode)
        {
            self.inner.compacted.raise(state.compacted);
        }
        Ok(value)
    }

    /// Makes everything written so far survive a crash. Returns when it does.
    ///
    /// # Errors
    /// When it cannot be; the node must stop.
    pub fn flush(&self) -> Result<(), MapError> {
        self.check()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.inner.db.flush_opt(&options).map_err(|error| self.fail(failed(error)))
    }

    /// Begins what [`Store::flush`] does, and does not wait for it. Says whether it has
    /// begun: while flushes that are at work hold up all writes, or after
    /// [`Store::stop_work`], it does not, which is no failure.
    ///
    /// # Errors
    /// When it cannot begin; the node must stop.
    pub fn flush_begin(&self) -> Result<bool, MapError> {
        self.check()?;
        let mut options = FlushOptions::default();
        options.set_wait(false);
        match self.inner.db.flush_opt(&options) {
            Ok(()) => Ok(true),
            Err(error) => match error.kind() {
                ErrorKind::TryAgain | ErrorKind::ShutdownInProgress => Ok(false),
                _ => Err(self.fail(failed(error))),
            },
        }
    }

    /// Reads and writes the whole store once and drops all that no read needs,
    /// the tombstones of removed keys with it (the compactions that happen by
    /// themselves keep most of those). It takes long: use a thread of its own.
    ///
    /// Files beyond RocksDB's limit for one compaction (1.6 GB) are done in parts,
    /// and parts keep their tombstones. That costs space, nothing else.
    pub fn compact(&self) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.inner.tombstones.store(0, Ordering::Relaxed);
        self.inner.db.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
    }

    /// Ends flushes and compactions that are at work, [`Store::compact`] included, and
    /// lets none begin. The store can be read from then on, and nothing more.
    pub fn stop_work(&self) {
        self.inner.db.cancel_all_background_work(true);
    }

    /// Tombstones written by this process since the last [`Store::compact`]. When
    /// they are many beside [`StoreMetrics::records`], it is time for one.
    #[must_use]
    pub fn tombstones(&self) -> u64 {
        self.inner.tombstones.load(Ordering::Relaxed)
    }

    /// Sizes and conditions.
    #[must_use]
    pub fn metrics(&self) -> StoreMetrics {
        StoreMetrics::of(&self.inner.db)
    }

    /// Whether it can still be written.
    ///
    /// # Errors
    /// When a write failed before, or a flush or compaction since.
    pub fn check(&self) -> Result<(), MapError> {
        if let Some(failure) = self.inner.failure.get() {
            return Err(failure.clone());
        }
        let errors = self.inner.db.property_int_value(properties::BACKGROUND_ERRORS);
        match errors.map_err(failed)? {
            Some(0) | None => Ok(()),
            Some(_) => Err(self.fail(MapError(format!(
                "{BACKGROUND}: is the disk full or failing, or is the state damaged?"
            )))),
        }
    }

    /// Remembers the first failure for all writes to come.
    fn fail(&self, error: MapError) -> MapError {
        self.inner.failure.get_or_init(|| error).clone()
    }
}

/// How the message of an error begins that a damaged file made.
const DAMAGED: &str = "the state is damaged: ";
/// How that of a failure in the background begins. RocksDB does not say what it was.
const BACKGROUND: &str = "the state could not be flushed or compacted";

pub(crate) fn failed(error: rocksdb::Error) -> MapError {
    let kind = error.kind();
    let reason = error.into_string();
    match kind == ErrorKind::Corruption || kind == ErrorKind::IOError && is_unreadable(&reason) {
        true => MapError(format!("{DAMAGED}{reason}")),
        false => MapError(format!("the state cannot be used: {reason}")),
    }
}

/// By which words RocksDB tells that a write failed, or a sync.
const WRITING: &[&str] = &[
    "While appending",
    "While clos",
    "While fallocate",
    "While fdatasync",
    "While fsync",
    "While ftruncat",
    "While pwrite",
    "While renaming",
    "While sync_file_range",
    "While write",
];

/// Whether a disk can't read what was written there. It tells a write that failed by the same
/// error, after which the process has to stop.
fn is_unreadable(reason: &str) -> bool {
    let is_writing = || WRITING.iter().any(|text| reason.contains(text));
    reason.contains("Input/output error") && !is_writing()
}

/// What a message that a store's error is part of says of its files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// A file does not hold what was written, or cannot be read.
    Damage,
    /// It may be so: [`Store::verify`] tells.
    Suspicion,
}

/// Whether an error tells that files are damaged. The map's errors are words, since what
/// is behind a map is not the business of those who use it.
#[must_use]
pub fn told_by(message: &str) -> Option<Told> {
    if message.contains(DAMAGED) {
        Some(Told::Damage)
    } else {
        message.contains(BACKGROUND).then_some(Told::Suspicion)
    }
}

impl OrderedMap for Store {
    type Cursor<'a> = StoreCursor<'a>;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MapError> {
        let value = self.inner.db.get_pinned(key).map_err(failed)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn cursor(&self, from: &[u8], to: &[u8]) -> Result<StoreCursor<'_>, MapError> {
        Ok(StoreCursor::new(&self.inner.db, from, to))
    }

    fn key_cursor(&self) -> Result<StoreCursor<'_>, MapError> {
        Ok(StoreCursor::over_keys(&self.inner.db))
    }

    fn swept_upto(&self) -> Result<Revision, MapError> {
        Ok(self.inner.compacted.revision())
    }

    fn write(&mut self, batch: &WriteSet) -> Result<(), MapError> {
        self.check()?;
        // Twelve bytes for the batch, and for each entry its kind and lengths.
        let capacity = 12 + batch.size_bytes() + 11 * batch.len();
        let mut rows = WriteBatch::with_capacity_bytes(capacity);
        let mut tombstones = 0;
        for write in batch.iter() {
            match write {
                Write::Put { key, value } => {
                    tombstones += u64::from(layout::is_tombstone(key, value));
                    rows.put(key, value);
                }
                Write::Delete { key } => rows.delete(key),
            }
        }
        self.inner.tombstones.fetch_add(tombstones, Ordering::Relaxed);
        self.inner
            .db
            .write_opt(rows, &self.inner.without_log)
            .map_err(|error| self.fail(failed(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_no_damage() {
        let of = |text: &str| is_unreadable(&format!("IO error: {text}: Input/output error"));
        assert!(of("While pread offset 4096 len 5: state/000012.sst"));
        assert!(of("While open a file for random read: state/000012.sst"));
        for text in
            ["While fdatasync", "While fsync", "While appending to file", "While fallocate offset"]
        {
            assert!(!of(&format!("{text}: state/000012.sst")), "{text}");
        }
        assert!(!is_unreadable("IO error: While pread: Too many open files"));
    }
}
