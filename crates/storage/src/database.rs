//! How RocksDB is set up.

use std::ffi::c_int;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, LogLevel, Options, SliceTransform};
use rustix::fs::{Advice, fadvise};
use synod_kv::layout;

use crate::compaction::{Compacted, SweepFactory};
use crate::{StoreError, StoreOptions, manifest};

/// A folder that only this user may enter.
const FOLDER_MODE: u32 = 0o700;
/// Files that are open at a time while all are read once.
const VERIFY_FILES_MAX: c_int = 32;

/// Opens the database in `path`, which is made if it does not exist.
pub(crate) fn open(path: &Path, options: &StoreOptions) -> Result<(DB, Compacted), StoreError> {
    prepare_folder(path).map_err(|error| StoreError::Unusable {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    refuse_damaged_names(path)?;
    let compacted = Compacted::default();
    let db = DB::open(&settings(options, &compacted), path);
    db.map(|db| (db, compacted)).map_err(|error| StoreError::of_open(path, error))
}

/// Opens the database in `path` for reading. Little memory is used for it.
pub(crate) fn open_read_only(path: &Path) -> Result<(DB, Compacted), StoreError> {
    refuse_damaged_names(path)?;
    let compacted = Compacted::default();
    let options = StoreOptions { block_cache_bytes: 4 << 20, ..Default::default() };
    let mut settings = settings(&options, &compacted);
    settings.create_if_missing(false);
    // It may be read beside a running state, which has the files that the process may have.
    settings.set_max_open_files(VERIFY_FILES_MAX);
    let db = DB::open_for_read_only(&settings, path, false);
    db.map(|db| (db, compacted)).map_err(|error| StoreError::of_open(path, error))
}

/// Opens the database in `path` for reading every byte of it from the disk.
pub(crate) fn open_to_verify(path: &Path) -> Result<(DB, Compacted), StoreError> {
    refuse_damaged_names(path)?;
    drop_cached(path).map_err(|error| StoreError::of_read(path, &error))?;
    let options = StoreOptions { block_cache_bytes: 4 << 20, ..Default::default() };
    let compacted = Compacted::default();
    let mut settings = settings(&options, &compacted);
    settings.create_if_missing(false);
    // Without a place among the cached blocks, the index and the filter of a file are read
    // as soon as it is opened. Few are open at a time, so that is little memory.
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_hyper_clock_cache(options.block_cache_bytes, 0));
    tables.set_bloom_filter(10.0, false);
    tables.set_whole_key_filtering(false);
    tables.set_cache_index_and_filter_blocks(false);
    settings.set_block_based_table_factory(&tables);
    settings.set_max_open_files(VERIFY_FILES_MAX);
    let db = DB::open_for_read_only(&settings, path, false);
    db.map(|db| (db, compacted)).map_err(|error| StoreError::of_open(path, error))
}

/// Has this system forget what it read of the files: what the disk says now counts.
fn drop_cached(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let file = File::open(entry?.path())?;
        // It is advice, and where it isn't taken the check is as good as it can be.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
    }
    Ok(())
}

fn prepare_folder(path: &Path) -> io::Result<()> {
    if !path.try_exists()? {
        DirBuilder::new().mode(FOLDER_MODE).create(path)?;
        // The entry of the new folder must survive a crash as its files do.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE))
}

/// Refuses a folder whose list of files is not as RocksDB can read it.
fn refuse_damaged_names(path: &Path) -> Result<(), StoreError> {
    refuse_orphans(path)?;
    match manifest::damage(path).map_err(|error| StoreError::of_read(path, &error))? {
        None => Ok(()),
        Some(reason) => Err(StoreError::Damaged { path: path.to_owned(), reason }),
    }
}

/// RocksDB takes a folder without the file `CURRENT` for a new one and would
/// begin again with nothing beside the data that was there.
fn refuse_orphans(path: &Path) -> Result<(), StoreError> {
    let failed = |error: io::Error| StoreError::of_read(path, &error);
    if path.join("CURRENT").try_exists().map_err(failed)? {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if Path::new(&name).extension().is_some_and(|extension| extension == "sst") {
            let reason = "it has data files, but the file CURRENT is missing".to_owned();
            return Err(StoreError::Damaged { path: path.to_owned(), reason });
        }
    }
    Ok(())
}

pub(crate) fn settings(options: &StoreOptions, compacted: &Compacted) -> Options {
    let mut settings = Options::default();
    settings.create_if_missing(true);
    set_memory(&mut settings, options);
    set_writing(&mut settings);
    set_compaction(&mut settings, compacted);
    set_info_log(&mut settings);
    settings
}

fn set_memory(settings: &mut Options, options: &StoreOptions) {
    settings.set_write_buffer_size(options.memtable_bytes);
    settings.set_max_write_buffer_number(3);
    settings.set_max_open_files(c_int::from(options.open_files_max.max(64)));

    // The newest record of a key is the first one with the key's prefix, so the
    // filters are made over prefixes: one entry a key, however often it changed.
    let prefix = SliceTransform::create("synod.key", prefix_of, None);
    settings.set_prefix_extractor(prefix);
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_hyper_clock_cache(options.block_cache_bytes, 0));
    tables.set_bloom_filter(10.0, false);
    tables.set_whole_key_filtering(false);
    tables.set_optimize_filters_for_memory(true);
    // Indexes and filters count as cached blocks, so the cache bounds all of it.
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    tables.set_format_version(6);
    settings.set_block_based_table_factory(&tables);
    // Most keys that a write asks for and that are new are found missing here.
    settings.set_memtable_prefix_bloom_ratio(0.02);
}

/// The part of a place that all records of a key share; elsewhere the whole place.
fn prefix_of(place: &[u8]) -> &[u8] {
    layout::key_prefix(place).unwrap_or(place)
}

fn set_writing(settings: &mut Options) {
    // One thread writes. What helps several of them costs it time.
    settings.set_allow_concurrent_memtable_write(false);
    settings.set_enable_write_thread_adaptive_yield(false);
    settings.set_max_background_jobs(2);
    settings.set_bytes_per_sync(1 << 20);
    settings.set_max_manifest_file_size(4 << 20);
}

fn set_compaction(settings: &mut Options, compacted: &Compacted) {
    settings.set_compaction_filter_factory(SweepFactory(compacted.clone()));
    // A pass must see all records of a key in order. Passes in parallel would
    // part them: one could drop a tombstone, the other keep what it hides.
    settings.set_max_subcompactions(1);
    settings.set_level_compaction_dynamic_level_bytes(true);
    let mut compression = [DBCompressionType::Lz4; 7];
    compression[0] = DBCompressionType::None;
    settings.set_compression_per_level(&compression);
}

fn set_info_log(settings: &mut Options) {
    settings.set_log_level(LogLevel::Warn);
    settings.set_max_log_file_size(1 << 20);
    settings.set_keep_log_file_num(2);
    settings.set_stats_dump_period_sec(0);
}
