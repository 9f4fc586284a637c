//! Dropping what no read needs any more.

use std::ffi::CStr;

use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use synod_kv::layout::Sweep;

/// Gives each compaction a pass of its own.
pub(crate) struct SweepFactory;

/// One compaction's pass.
pub(crate) struct SweepFilter(Sweep);

impl CompactionFilterFactory for SweepFactory {
    type Filter = SweepFilter;

    fn create(&mut self, context: CompactionFilterContext) -> SweepFilter {
        // A full compaction reads every file there is. Records that are not in a
        // file yet are newer than all of them, so for tombstones it is the whole.
        SweepFilter(Sweep::new(context.is_full_compaction))
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
