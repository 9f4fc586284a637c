//! Two ways to keep revisions in RocksDB, side by side: the revision upside down
//! behind each key, which the store uses, and RocksDB's user-defined timestamps.
//! What came out and what was decided is in `docs/storage-layout.md`. Run with
//! `cargo bench -p synod-storage --bench layout [KEYS]`.

use std::cmp::Ordering;
use std::path::Path;
use std::time::{Duration, Instant};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, CompactionDecision, DB, DBCompressionType,
    DBRawIterator, Options, ReadOptions, SliceTransform, WriteBatch, WriteOptions,
    compaction_filter::CompactionFilter, compaction_filter_factory,
};
use synod_kv::Revision;
use synod_kv::layout::{self, Sweep};

const BATCH: usize = 32;
const KEY_BYTES: usize = 32;
const VALUE_BYTES: usize = 256;
const GETS: u64 = 200_000;
const SCANS: u64 = 5_000;
const SCAN_KEYS: usize = 100;
const REVISION_BYTES: usize = 8;

fn main() {
    let keys = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(400_000);
    println!("{keys} keys of {KEY_BYTES} bytes, values of {VALUE_BYTES}, batches of {BATCH}");
    println!("microseconds each: wall time, CPU of all threads");
    println!("{:28} {:>16} {:>16}", "", "key suffix", "timestamps");
    let suffix = run::<Suffix>(keys);
    let timestamps = run::<Timestamps>(keys);
    for ((name, a), (_, b)) in suffix.iter().zip(&timestamps) {
        println!("{name:28} {:>8.2} {:>7.2} {:>8.2} {:>7.2}", a[0], a[1], b[0], b[1]);
    }
}

/// One of the two layouts.
trait Layout {
    fn open(path: &Path) -> Self;
    /// Adds a change to a batch.
    fn put(&self, batch: &mut WriteBatch, key: &[u8], revision: u64, value: &[u8]);
    /// Tells the layout that nobody reads below this revision.
    fn forget(&self, revision: u64);
    /// Whether the newest record of the key was found.
    fn get(&self, key: &[u8]) -> bool;
    /// How many keys were found from here on, of [`SCAN_KEYS`].
    fn scan(&self, key: &[u8]) -> usize;
    fn db(&self) -> &DB;
}

/// Names of steps, and for each what [`timed`] found.
fn run<L: Layout>(keys: u64) -> Vec<(&'static str, [f64; 2])> {
    let folder = tempfile::tempdir().expect("a folder");
    let layout = L::open(folder.path());
    let mut random = fastrand::Rng::with_seed(7);
    let mut results = Vec::new();
    let mut revision = 0;

    let new = (0..keys).map(scatter);
    results.push(("insert a new key", timed(keys, || write(&layout, &mut revision, new))));
    let known: Vec<u64> = (0..keys).map(|_| scatter(random.u64(..keys))).collect();
    let known = known.into_iter();
    results.push(("overwrite a key", timed(keys, || write(&layout, &mut revision, known))));
    for [get, missing, scan] in [
        ["get the newest", "get a missing key", "scan 100 keys"],
        ["get, compacted", "get a missing key, compacted", "scan 100 keys, compacted"],
    ] {
        let present: Vec<_> = (0..GETS).map(|_| key(scatter(random.u64(..keys)))).collect();
        let gets = || present.iter().for_each(|key| assert!(layout.get(key)));
        results.push((get, timed(GETS, gets)));
        let absent: Vec<_> = (0..GETS).map(|number| key(scatter(keys + number))).collect();
        let gets = || absent.iter().for_each(|key| assert!(!layout.get(key)));
        results.push((missing, timed(GETS, gets)));
        let starts: Vec<_> = (0..SCANS).map(|_| key(random.u64(..u64::MAX / 2))).collect();
        let scans = || starts.iter().for_each(|key| assert_eq!(layout.scan(key), SCAN_KEYS));
        results.push((scan, timed(SCANS, scans)));
        layout.db().flush().expect("flushes");
        layout.db().compact_range(None::<&[u8]>, None::<&[u8]>);
    }
    results
}

fn write<L: Layout>(layout: &L, revision: &mut u64, mut keys: impl Iterator<Item = u64>) {
    let mut without_log = WriteOptions::default();
    without_log.disable_wal(true);
    let mut value = [0; VALUE_BYTES];
    loop {
        let mut batch = WriteBatch::default();
        for number in keys.by_ref().take(BATCH) {
            *revision += 1;
            // Half of the value compresses, as text does.
            let mut noise = fastrand::Rng::with_seed(*revision);
            noise.fill(&mut value[..VALUE_BYTES / 2]);
            layout.put(&mut batch, &key(number), *revision, &value);
        }
        if batch.is_empty() {
            return;
        }
        layout.db().write_opt(batch, &without_log).expect("writes");
        if revision.is_multiple_of(1024 * BATCH as u64) {
            layout.forget(*revision);
        }
    }
}

/// Numbers in an order without pattern, none twice.
fn scatter(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = [b'k'; KEY_BYTES];
    key[KEY_BYTES - 16..].copy_from_slice(format!("{number:016x}").as_bytes());
    key
}

/// Microseconds of one of `count` steps: wall time, and CPU time of all threads.
fn timed(count: u64, work: impl FnOnce()) -> [f64; 2] {
    let cpu = cpu_time();
    let start = Instant::now();
    work();
    let wall = start.elapsed();
    #[allow(clippy::cast_precision_loss)]
    [wall, cpu_time().saturating_sub(cpu)].map(|time| time.as_secs_f64() * 1e6 / count as f64)
}

/// What this process has used so far, in steps of a hundredth of a second.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("reads");
    let after_name = stat.rsplit(')').next().expect("has a name");
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum();
    Duration::from_millis(ticks * 10)
}

/// What both layouts have in common.
fn common() -> (Options, BlockBasedOptions) {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_write_buffer_size(16 << 20);
    options.set_max_write_buffer_number(3);
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    options.set_max_background_jobs(2);
    options.set_memtable_prefix_bloom_ratio(0.02);
    let mut compression = [DBCompressionType::Lz4; 7];
    compression[0] = DBCompressionType::None;
    options.set_compression_per_level(&compression);
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_hyper_clock_cache(32 << 20, 0));
    tables.set_bloom_filter(10.0, false);
    tables.set_optimize_filters_for_memory(true);
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    tables.set_format_version(6);
    (options, tables)
}

/// The revision upside down behind the key.
struct Suffix(DB);

struct SweepFactory;

struct SweepFilter(Sweep);

impl compaction_filter_factory::CompactionFilterFactory for SweepFactory {
    type Filter = SweepFilter;

    fn create(&mut self, _: compaction_filter_factory::CompactionFilterContext) -> SweepFilter {
        SweepFilter(Sweep::new(false, Revision(u64::MAX)))
    }

    fn name(&self) -> &std::ffi::CStr {
        c"sweep"
    }
}

impl CompactionFilter for SweepFilter {
    fn filter(&mut self, _: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        if self.0.drops(key, value) { CompactionDecision::Remove } else { CompactionDecision::Keep }
    }

    fn name(&self) -> &std::ffi::CStr {
        c"sweep"
    }
}

fn prefix_of(place: &[u8]) -> &[u8] {
    layout::key_prefix(place).unwrap_or(place)
}

impl Layout for Suffix {
    fn open(path: &Path) -> Self {
        let (mut options, mut tables) = common();
        tables.set_whole_key_filtering(false);
        options.set_block_based_table_factory(&tables);
        options.set_prefix_extractor(SliceTransform::create("key", prefix_of, None));
        options.set_compaction_filter_factory(SweepFactory);
        Suffix(DB::open(&options, path).expect("opens"))
    }

    fn put(&self, batch: &mut WriteBatch, key: &[u8], revision: u64, value: &[u8]) {
        let mut place = Vec::with_capacity(KEY_BYTES + 11);
        layout::write_data_key(&mut place, key, Revision(revision));
        batch.put(place, value);
    }

    fn forget(&self, _: u64) {}

    fn get(&self, key: &[u8]) -> bool {
        let (from, to) = layout::key_range(key);
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        let mut rows = self.0.raw_iterator_opt(options);
        rows.seek(&from);
        rows.item().is_some_and(|(place, value)| {
            std::hint::black_box(value.to_vec());
            place < to.as_slice()
        })
    }

    fn scan(&self, key: &[u8]) -> usize {
        let mut bound = Vec::new();
        layout::write_bound(&mut bound, key);
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        let mut rows = self.0.raw_iterator_opt(options);
        rows.seek(&bound);
        let mut last = Vec::new();
        let mut found = 0;
        while let Some((place, value)) = rows.item().filter(|_| found < SCAN_KEYS) {
            let prefix = prefix_of(place);
            if prefix != last {
                found += 1;
                std::hint::black_box(value.to_vec());
                last.clear();
                last.extend_from_slice(prefix);
            }
            rows.next();
        }
        found
    }

    fn db(&self) -> &DB {
        &self.0
    }
}

/// RocksDB's user-defined timestamps. The binding offers no comparator of
/// RocksDB's own for them, so each comparison calls back into this program.
struct Timestamps(DB);

/// A bytewise order of keys, and newest first among the timestamps behind them.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let (a_key, a_time) = a.split_at(a.len() - REVISION_BYTES);
    let (b_key, b_time) = b.split_at(b.len() - REVISION_BYTES);
    a_key.cmp(b_key).then_with(|| compare_time(b_time, a_time))
}

fn compare_time(a: &[u8], b: &[u8]) -> Ordering {
    let number = |time: &[u8]| u64::from_le_bytes(time.try_into().expect("eight bytes"));
    number(a).cmp(&number(b))
}

fn compare_keys(a: &[u8], a_has_time: bool, b: &[u8], b_has_time: bool) -> Ordering {
    let key = |key: &'_ [u8], has_time: bool| key.len() - if has_time { REVISION_BYTES } else { 0 };
    a[..key(a, a_has_time)].cmp(&b[..key(b, b_has_time)])
}

impl Timestamps {
    fn now() -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_timestamp(u64::MAX.to_le_bytes());
        options
    }
}

impl Layout for Timestamps {
    fn open(path: &Path) -> Self {
        let (mut options, mut tables) = common();
        tables.set_whole_key_filtering(true);
        options.set_memtable_whole_key_filtering(true);
        options.set_block_based_table_factory(&tables);
        options.set_comparator_with_ts(
            "bytes, then newest first",
            REVISION_BYTES,
            Box::new(compare),
            Box::new(compare_time),
            Box::new(compare_keys),
        );
        let family = ColumnFamilyDescriptor::new("default", options.clone());
        Timestamps(DB::open_cf_descriptors(&options, path, [family]).expect("opens"))
    }

    fn put(&self, batch: &mut WriteBatch, key: &[u8], revision: u64, value: &[u8]) {
        let family = self.0.cf_handle("default").expect("is always there");
        batch.put_cf_with_ts(family, key, revision.to_le_bytes(), value);
    }

    fn forget(&self, revision: u64) {
        let family = self.0.cf_handle("default").expect("is always there");
        self.0.increase_full_history_ts_low(family, revision.to_le_bytes()).expect("rises");
    }

    fn get(&self, key: &[u8]) -> bool {
        let value = self.0.get_pinned_opt(key, &Timestamps::now()).expect("reads");
        value.is_some_and(|value| {
            std::hint::black_box(value.to_vec());
            true
        })
    }

    fn scan(&self, key: &[u8]) -> usize {
        let mut rows: DBRawIterator<'_> = self.0.raw_iterator_opt(Timestamps::now());
        rows.seek(key);
        let mut found = 0;
        while let Some((_, value)) = rows.item().filter(|_| found < SCAN_KEYS) {
            std::hint::black_box(value.to_vec());
            found += 1;
            rows.next();
        }
        found
    }

    fn db(&self) -> &DB {
        &self.0
    }
}
