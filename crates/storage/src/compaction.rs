//! Dropping what no read needs any more.

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use synod_kv::Revision;
use synod_kv::layout::Sweep;

/// The compacted revision of what a crash leaves. Files that were swept by one that a crash
/// takes back would lack what can still be asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compacted(Arc<AtomicU64>);

impl Compacted {
    pub(crate) fn raise(&self, revision: Revision) {
        self.0.fetch_max(revision.0, Ordering::Relaxed);
    }

    /// Whoever has read from files that were swept sees what they were swept by.
    pub(crate) fn revision(&self) -> Revision {
        Revision(self.0.load(Ordering::Relaxed))
    }
}

/// Gives each compaction a pass of its own.
pub(crate) struct SweepFactory(pub(crate) Compacted);

/// One compaction's pass.
pub(crate) struct SweepFilter(Sweep);

impl CompactionFilterFactory for SweepFactory {
    type Filter = SweepFilter;

    fn create(&mut self, context: CompactionFilterContext) -> SweepFilter {
        // A full compaction reads every file there is. Records that are not in a
        // file yet are newer than all of them, so for tombstones it is the whole.
        SweepFilter(Sweep::new(context.is_full_compaction, self.0.revision()))
    }

    fn name(&self) -> &CStr {
        c"synod.sweep"
    }
}

impl CompactionFilter for SweepFilter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        if self.0.drops(key, value) { CompactionDecision::Remove } else { CompactionDecision::Keep }
    }

    fn name(&self) -> &CStr {
        c"synod.sweep"
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use rocksdb::{DB, WaitForCompactOptions};
    use synod_kv::{
        APPLIED_KEY, Command, Condition, KvOptions, ListQuery, Operation, OrderedMap, ServerId,
        StateMachine, read,
    };

    use super::Compacted;
    use crate::{Store, StoreOptions, database};

    /// Levels of a few kilobytes, so that there are many and each compaction
    /// takes a part of the files.
    fn many_levels(path: &std::path::Path) -> Store {
        let compacted = Compacted::default();
        let mut settings = database::settings(&StoreOptions::default(), &compacted);
        settings.set_write_buffer_size(64 << 10);
        settings.set_target_file_size_base(16 << 10);
        settings.set_max_bytes_for_level_base(32 << 10);
        settings.set_max_bytes_for_level_multiplier(3.0);
        settings.set_level_zero_file_num_compaction_trigger(2);
        Store::over((DB::open(&settings, path).unwrap(), compacted))
    }

    #[test]
    fn nothing_comes_back_when_parts_are_compacted() {
        let folder = tempfile::tempdir().unwrap();
        let store = many_levels(folder.path());
        let mut machine = StateMachine::open(store.clone(), KvOptions::default()).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let mut model = BTreeMap::new();
        for sequence in 1..=60_000 {
            let key = Bytes::from(format!("{:05}", random.u32(..4000)));
            let condition = Condition::Always;
            let operation = if sequence % 1000 == 0 {
                Operation::Compact { revision: machine.revision() }
            } else if random.u8(..3) > 0 {
                let value = Bytes::from(vec![random.u8(..); 50]);
                model.insert(key.clone(), value.clone());
                Operation::Put { key, value, condition, want_previous: false }
            } else {
                model.remove(&key);
                Operation::Delete { key, condition, want_previous: false }
            };
            let id = ServerId { origin: 1, incarnation: 1, sequence };
            let command = Command { idempotency: None, operation };
            machine.apply(sequence, 0, &[(id, command)]).unwrap();
            machine.commit().unwrap();
            if sequence % 2500 == 0 {
                store.flush().unwrap();
                store.persisted(APPLIED_KEY).unwrap();
                // Readers know by what this and every later compaction sweeps.
                assert_eq!(store.swept_upto(), Ok(read::oldest(&store).unwrap()));
            }
            if sequence % 5000 == 0 {
                let all = ListQuery {
                    limit: usize::MAX,
                    visits_max: usize::MAX,
                    ..ListQuery::prefix(b"")
                };
                let page = read::list(&store, &all).unwrap();
                let found = page.entries.into_iter().map(|entry| (entry.key, entry.record.value));
                assert!(found.eq(model.clone()), "after {sequence} commands");
                for number in 0..4000 {
                    let key = Bytes::from(format!("{number:05}"));
                    let record = read::get(&store, &key).unwrap();
                    assert_eq!(record.map(|record| record.value), model.get(&key).cloned());
                }
            }
        }
        // A change makes a record and an entry in the list of changes. Most of what was replaced
        // is gone; how much depends on when the compactions came.
        store.database().wait_for_compact(&WaitForCompactOptions::default()).unwrap();
        let rows = store.verify(|| true).unwrap();
        assert!(rows < 60_000, "{rows} rows of 120,000 are kept");
        // The test is worth nothing if there was but one level.
        let levels = (1..7).filter(|level| {
            let name = format!("rocksdb.num-files-at-level{level}");
            store.database().property_value(&name).unwrap().is_some_and(|files| files != "0")
        });
        assert!(levels.count() > 1);
    }
}
