//! Carrying out a transaction.
//!
//! Its operations are first tried on the records that wait for the commit, so that each sees
//! those before it. Only when all of them came out well their writes are staged; else the
//! records are put back, and nothing happened.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::keys::{Passes, Source, each_existing};
use crate::metadata::Metadata;
use crate::planted::Bug;
use crate::stage::{Stage, Staged};
use crate::walk::Finder;
use crate::{
    Compare, Entry, KeyRecord, LeaseId, MapError, OrderedMap, Outcome, Relation, Revision, Target,
    Txn, TxnOperation, TxnResult,
};

/// What a record in an answer counts beside its bytes.
const RECORD_BYTES: usize = 32;

/// The comparisons of a transaction read so many bytes of values at most. Those that hold for
/// equality are as long as what they are compared with, which one command has no room for.
const COMPARED_BYTES_MAX: usize = 16 << 20;

/// The reads of a transaction whose outcome is remembered bring back so much at most: else small
/// requests would soon take all the room that there is for outcomes, and nobody else had any. What
/// puts and deletes bring back was once written for each.
const REMEMBERED_READS_BYTES_MAX: usize = 64 << 10;

/// A branch that is tried.
struct Trial {
    /// That of its changes, if there are any.
    revision: Revision,
    writes: Vec<TxnWrite>,
    /// What the records held before, in the order of the writes.
    before: Vec<(Bytes, Option<Staged>)>,
    answer_bytes: usize,
    answer_bytes_max: usize,
    /// What its reads may still bring back, and a record that is longer is refused.
    reads: Reads,
    /// How many keys its range deletes may still remove.
    removals_left: u32,
    /// What its ranges may still pass.
    passes: Passes,
}

/// The room for what reads bring back.
#[derive(Clone, Copy)]
struct Reads {
    bytes_max: usize,
    bytes: usize,
}

/// A change of a key.
struct TxnWrite {
    key: Bytes,
    /// None removes it.
    put: Option<(Metadata, Bytes)>,
    lease_before: u64,
}

impl Trial {
    /// Counts a record of the answer. False if it is too much; the first one never is.
    fn has_room(&mut self, bytes: usize) -> bool {
        let sum = self.answer_bytes + bytes + RECORD_BYTES;
        if self.answer_bytes > 0 && sum > self.answer_bytes_max {
            return false;
        }
        self.answer_bytes = sum;
        true
    }

    /// Counts a record that is read.
    fn has_room_to_read(&mut self, bytes: usize) -> bool {
        let sum = self.reads.bytes + bytes + RECORD_BYTES;
        if sum > self.reads.bytes_max || !self.has_room(bytes) {
            return false;
        }
        self.reads.bytes = sum;
        true
    }

    fn has_room_for(&mut self, key: &Bytes, record: Option<&KeyRecord>) -> bool {
        record.is_none_or(|record| self.has_room(key.len() + record.value.len()))
    }
}

/// What became of an operation, or why there is no transaction.
type Tried = Result<TxnResult, Outcome>;

impl Stage {
    pub(crate) fn transact<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        txn: &Txn,
        is_remembered: bool,
    ) -> Result<Outcome, MapError> {
        let Some(succeeded) = self.all_hold(finder, &txn.compares)? else {
            return Ok(self.too_large());
        };
        let stores = succeeded || self.planted().is(Bug::TxnFailedStores);
        let branch = if stores { &txn.success } else { &txn.failure };
        let mut trial = Trial {
            revision: Revision(self.state.revision.0 + 1),
            writes: Vec::new(),
            before: Vec::new(),
            answer_bytes: 0,
            answer_bytes_max: self.options.txn_answer_bytes_max,
            reads: Reads {
                bytes_max: if is_remembered { REMEMBERED_READS_BYTES_MAX } else { usize::MAX },
                bytes: 0,
            },
            removals_left: self.options.delete_range_keys_max,
            passes: self.passes(),
        };
        let mut results = Vec::with_capacity(branch.len());
        for operation in branch {
            match self.attempt(finder, &mut trial, operation)? {
                Ok(result) => results.push(result),
                Err(refusal) => {
                    self.put_back(trial);
                    return Ok(refusal);
                }
            }
        }
        if !trial.writes.is_empty() {
            let revision = self.advance();
            assert_eq!(revision, trial.revision, "nothing else happened meanwhile");
        }
        let lost = usize::from(trial.writes.len() > 1 && self.planted().is(Bug::TxnLosesLast));
        let kept = trial.writes.len() - lost;
        for (at, TxnWrite { key, put, lease_before }) in trial.writes[..kept].iter().enumerate() {
            if at > 0 && self.planted().is(Bug::TxnInTwo) {
                self.advance();
            }
            match put {
                Some((metadata, value)) => self.store(key, value, *metadata, *lease_before),
                None => self.remove(key, trial.revision, *lease_before),
            }
        }
        Ok(Outcome::Txn { revision: self.state.revision, succeeded, results })
    }

    /// Undoes what a trial did, the last of it first.
    fn put_back(&mut self, trial: Trial) {
        for (key, before) in trial.before.into_iter().rev() {
            match before {
                Some(record) => drop(self.records.insert(key, record)),
                None => drop(self.records.remove(&key)),
            }
        }
    }

    /// Whether all comparisons hold; none if that takes too many bytes to tell.
    fn all_hold<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        compares: &[Compare],
    ) -> Result<Option<bool>, MapError> {
        let mut bytes_left = COMPARED_BYTES_MAX;
        for compare in compares {
            match self.holds(finder, compare, &mut bytes_left)? {
                Some(true) => {}
                other => return Ok(other),
            }
        }
        Ok(Some(true))
    }

    fn holds<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        compare: &Compare,
        bytes_left: &mut usize,
    ) -> Result<Option<bool>, MapError> {
        let Compare { key, relation, target } = compare;
        if let Target::Value(value) = target {
            // Counted alike wherever the record is, so that replicas agree.
            let mut check = |stored: &[u8]| {
                *bytes_left = bytes_left.checked_sub(stored.len())?;
                Some(relation.holds(stored, &value[..]))
            };
            let found = match self.records.get(key) {
                Some(staged) => staged.record().map(|record| check(&record.value)),
                None => finder.newest(key, |stored| check(stored.value))?,
            };
            return Ok(found.unwrap_or(Some(false)));
        }
        let known = self.metadata(finder, key)?;
        let number = |of: fn(Metadata) -> u64| known.map_or(0, of);
        Ok(Some(match target {
            Target::Value(_) => unreachable!("was compared above"),
            Target::Version(version) => relation.holds(&number(|known| known.version), version),
            Target::Create(revision) => {
                relation.holds(&number(|known| known.create_revision.0), &revision.0)
            }
            Target::Mod(revision) => {
                relation.holds(&number(|known| known.mod_revision.0), &revision.0)
            }
            Target::Lease(lease) => relation.holds(&number(|known| known.lease), lease),
        }))
    }

    fn attempt<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        trial: &mut Trial,
        operation: &TxnOperation,
    ) -> Result<Tried, MapError> {
        match operation {
            TxnOperation::Put { key, value, lease, want_previous } => {
                self.attempt_put(finder, trial, key, value, *lease, *want_previous)
            }
            TxnOperation::Delete { key, want_previous } => {
                self.attempt_delete(finder, trial, key, *want_previous)
            }
            TxnOperation::DeleteRange { start, end, limit } => {
                let limit = (*limit).min(trial.removals_left);
                trial.removals_left -= limit;
                let limit = limit as usize;
                let (range, passes) = ((start, end.as_ref()), &mut trial.passes);
                let (keys, next) = self.existing_keys(finder.map, range, limit, passes)?;
                let count = keys.len() as u64;
                trial.removals_left += u32::try_from(limit - keys.len()).expect("was a u32");
                for (key, lease_before) in keys {
                    self.note(trial, TxnWrite { key, put: None, lease_before });
                }
                Ok(Ok(TxnResult::DeleteRange { count, next }))
            }
            TxnOperation::Get { key } => {
                let record = self.record(finder, key)?;
                let bytes = record.as_ref().map(|record| key.len() + record.value.len());
                if bytes.is_some_and(|bytes| !trial.has_room_to_read(bytes)) {
                    return Ok(Err(self.too_large()));
                }
                Ok(Ok(TxnResult::Get { record }))
            }
            TxnOperation::Range { start, end, limit, keys_only } => {
                let limit = *limit as usize;
                let range = (start, end.as_ref());
                self.attempt_range(finder.map, trial, range, limit, *keys_only)
            }
        }
    }

    fn attempt_put<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        trial: &mut Trial,
        key: &Bytes,
        value: &Bytes,
        lease: Option<LeaseId>,
        want_previous: bool,
    ) -> Result<Tried, MapError> {
        if let Some(id) = lease
            && !self.takes_keys(finder.map, id)?
        {
            return Ok(Err(Outcome::LeaseNotFound { revision: self.state.revision, id }));
        }
        let current = self.metadata(finder, key)?;
        let previous =
            if want_previous && current.is_some() { self.record(finder, key)? } else { None };
        if !trial.has_room_for(key, previous.as_ref()) {
            return Ok(Err(self.too_large()));
        }
        let metadata = Metadata::of_put(current, trial.revision, lease);
        let (create_revision, version) = (metadata.create_revision, metadata.version);
        let lease_before = current.map_or(0, |current| current.lease);
        let put = Some((metadata, value.clone()));
        self.note(trial, TxnWrite { key: key.clone(), put, lease_before });
        Ok(Ok(TxnResult::Put { create_revision, version, previous }))
    }

    fn attempt_delete<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        trial: &mut Trial,
        key: &Bytes,
        want_previous: bool,
    ) -> Result<Tried, MapError> {
        let Some(current) = self.metadata(finder, key)? else {
            return Ok(Ok(TxnResult::Delete { existed: false, previous: None }));
        };
        let previous = if want_previous { self.record(finder, key)? } else { None };
        if !trial.has_room_for(key, previous.as_ref()) {
            return Ok(Err(self.too_large()));
        }
        let lease_before = current.lease;
        self.note(trial, TxnWrite { key: key.clone(), put: None, lease_before });
        Ok(Ok(TxnResult::Delete { existed: true, previous }))
    }

    fn attempt_range(
        &mut self,
        map: &impl OrderedMap,
        trial: &mut Trial,
        range: (&Bytes, Option<&Bytes>),
        limit: usize,
        keys_only: bool,
    ) -> Result<Tried, MapError> {
        let (mut entries, mut next) = (Vec::new(), None);
        let mut fits_nowhere = false;
        let mut passes = trial.passes;
        let source = Source { map, records: &self.records, gaps: &mut self.gaps };
        let stopped = each_existing(source, range, &mut passes, |key, existing| {
            let value_bytes = if keys_only { 0 } else { existing.value_bytes() };
            let bytes = key.len() + value_bytes;
            if entries.len() == limit || !trial.has_room_to_read(bytes) {
                // To ask for the rest would never end.
                fits_nowhere =
                    entries.len() < limit && bytes + RECORD_BYTES > trial.reads.bytes_max;
                next = Some(key);
                return ControlFlow::Break(());
            }
            entries.push(Entry { key, record: existing.to_record(!keys_only) });
            ControlFlow::Continue(())
        })?;
        trial.passes = passes;
        if fits_nowhere && entries.is_empty() {
            return Ok(Err(self.too_large()));
        }
        Ok(Ok(TxnResult::Range { entries, next: next.or(stopped) }))
    }

    /// Makes a write visible to the operations after it.
    fn note(&mut self, trial: &mut Trial, write: TxnWrite) {
        let put = write.put.as_ref();
        let staged = match put {
            Some((metadata, value)) => Staged::Put(metadata.with_value(value.clone())),
            None => Staged::Removed(trial.revision),
        };
        let before = self.records.insert(write.key.clone(), staged);
        trial.before.push((write.key.clone(), before));
        trial.writes.push(write);
    }

    fn too_large(&self) -> Outcome {
        Outcome::TxnTooLarge { revision: self.state.revision }
    }
}

impl Relation {
    fn holds<T: Ord + ?Sized>(self, left: &T, right: &T) -> bool {
        match self {
            Relation::Equal => left == right,
            Relation::NotEqual => left != right,
            Relation::Less => left < right,
            Relation::Greater => left > right,
        }
    }
}

impl TxnResult {
    /// A number that replicas which came to another result hardly have as well.
    pub(crate) fn digest(&self) -> u64 {
        match self {
            TxnResult::Put { version, .. } => version << 3,
            TxnResult::Delete { existed, .. } => u64::from(*existed) << 3 | 1,
            TxnResult::DeleteRange { count, .. } => count << 3 | 2,
            TxnResult::Get { record } => {
                record.as_ref().map_or(0, |record| record.mod_revision.0) << 3 | 3
            }
            TxnResult::Range { entries, .. } => {
                let newest = entries.iter().map(|entry| entry.record.mod_revision.0).max();
                (newest.unwrap_or(0) ^ (entries.len() as u64) << 40) << 3 | 4
            }
        }
    }
}
