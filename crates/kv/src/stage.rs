//! What a commit will write, and what the commands before it did.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::change::ChangeLog;
use crate::compaction::Samples;
use crate::gaps::Gaps;
use crate::idempotency::{Answered, Idempotency};
use crate::lease::Leases;
use crate::metadata::{Metadata, MetadataCache};
use crate::planted::{Bug, Planted};
use crate::state::Sequence;
use crate::walk::Finder;
use crate::{
    APPLIED_KEY, Changes, Command, Expiry, IdempotencyKey, KeyRecord, KvOptions, MapError,
    Operation, OrderedMap, Outcome, Revision, ServerId, State, Taken, TxnResult, WriteSet,
};

/// The state with everything applied, and the changes since the last commit.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) state: State,
    pub(crate) options: KvOptions,
    pub(crate) cache: MetadataCache,
    /// How each key stands that changed since the last commit.
    pub(crate) records: BTreeMap<Bytes, Staged>,
    pub(crate) changes: ChangeLog,
    /// The changes since the last commit once more, if somebody wants to be told them.
    pub(crate) noted: Option<Changes>,
    pub(crate) samples: Samples,
    pub(crate) leases: Leases,
    pub(crate) gaps: Gaps,
    idempotency: Idempotency,
    pub(crate) batch: WriteSet,
    is_changed: bool,
}

/// How a key stands that changed since the last commit.
#[derive(Clone, Debug)]
pub(crate) enum Staged {
    /// This is its newest record.
    Put(KeyRecord),
    /// It was removed at this revision.
    Removed(Revision),
}

impl Staged {
    /// The record; none if the key does not exist.
    pub(crate) fn record(&self) -> Option<&KeyRecord> {
        match self {
            Staged::Put(record) => Some(record),
            Staged::Removed(_) => None,
        }
    }
}

impl Stage {
    pub(crate) fn load(map: &impl OrderedMap, options: KvOptions) -> Result<Self, MapError> {
        Ok(Stage::new(State::load(map)?, Samples::load(map)?, options))
    }

    fn new(state: State, samples: Samples, options: KvOptions) -> Self {
        Stage {
            state,
            samples,
            changes: ChangeLog::default(),
            noted: None,
            leases: Leases::default(),
            gaps: Gaps::default(),
            cache: MetadataCache::new(options.metadata_cache_bytes_max),
            records: BTreeMap::new(),
            idempotency: Idempotency::new(options.idempotency_grace_ms),
            options,
            batch: WriteSet::new(),
            is_changed: false,
        }
    }

    /// Goes on from another state than the one that it knows: nothing that was kept of
    /// that one stays.
    pub(crate) fn replace(&mut self, new: Stage) {
        let planted = self.options.planted;
        let before = std::mem::replace(self, new);
        self.leases.counts = before.leases.counts;
        if planted.is(Bug::SnapshotKeepsCache) {
            self.cache = before.cache;
        }
        if planted.is(Bug::SnapshotDataOnly) {
            self.state.origins = before.state.origins;
        }
    }

    /// The mistake that it makes.
    pub(crate) fn planted(&self) -> Planted {
        self.options.planted
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.batch.size_bytes()
    }

    /// What each slot does before its commands.
    pub(crate) fn begin_slot(
        &mut self,
        map: &impl OrderedMap,
        slot: u64,
        cluster_time_ms: u64,
        is_empty: bool,
    ) -> Result<(), MapError> {
        let state = &mut self.state;
        assert_eq!(slot, state.applied_slot + 1, "slots are applied in order, each once");
        self.is_changed = true;
        state.applied_slot = slot;
        state.cluster_time_ms = state.cluster_time_ms.max(cluster_time_ms);
        let now_ms = state.cluster_time_ms;
        self.samples.note(&mut self.batch, now_ms, state.revision, state.compacted);
        state.hash.number(slot);
        state.hash.number(now_ms);
        self.idempotency.expire(map, &mut self.batch, &mut state.idempotency, now_ms, is_empty)?;
        state.hash.number(state.idempotency.forgotten_ms);
        Ok(())
    }

    /// What each slot does after its commands.
    pub(crate) fn end_slot(&mut self) {
        self.changes.end(&mut self.batch);
    }

    /// See [`crate::StateMachine::tick_ms`].
    pub(crate) fn tick_ms(&self) -> Option<u64> {
        self.idempotency.tick_ms(&self.state.idempotency, self.state.cluster_time_ms)
    }

    /// From now on the state holds these configurations.
    pub(crate) fn set_configurations(&mut self, configurations: Bytes) {
        self.state.hash.bytes(&configurations);
        self.state.configurations = configurations;
    }

    /// Writes the changes and the state at once, and begins anew.
    pub(crate) fn commit(&mut self, map: &mut impl OrderedMap) -> Result<(), MapError> {
        if !self.is_changed {
            return Ok(());
        }
        let (state, planted) = (&self.state, self.options.planted);
        let mut first = WriteSet::new();
        let early = planted.is(Bug::SlotBeforeData);
        let set = if early { &mut first } else { &mut self.batch };
        set.put_with(|out| out.extend_from_slice(APPLIED_KEY), |out| state.encode(out, planted));
        if early {
            map.write(&first)?;
        }
        map.write(&self.batch)?;
        self.batch.clear();
        self.records.clear();
        self.idempotency.committed();
        self.leases.committed();
        self.is_changed = false;
        Ok(())
    }

    /// Carries out one command if it is the next of its origin.
    pub(crate) fn take<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        id: ServerId,
        command: &Command,
    ) -> Result<Taken, MapError> {
        for part in [u64::from(id.origin), id.incarnation, id.sequence] {
            self.state.hash.number(part);
        }
        let mut sequence = self.state.take(id, self.options.origins_max);
        let is_twice = sequence == Sequence::Duplicate;
        if is_twice && self.options.planted.is(Bug::SequenceAppliedTwice) {
            sequence = Sequence::Next;
        }
        self.state.hash.number(sequence as u64);
        match sequence {
            Sequence::Duplicate => return Ok(Taken::Duplicate),
            Sequence::Gap => return Ok(Taken::Gap),
            Sequence::Next => {}
        }
        let (outcome, expiry) = match &command.idempotency {
            None => (self.carry_out(finder, &command.operation, false)?, None),
            Some(key) => self.carry_out_once(finder, key, &command.operation)?,
        };
        hash_outcome(&mut self.state, &outcome);
        Ok(Taken::Applied { outcome, expiry })
    }

    fn carry_out_once<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        idempotency: &IdempotencyKey,
        operation: &Operation,
    ) -> Result<(Outcome, Option<Expiry>), MapError> {
        let IdempotencyKey { key, request_hash, asked_ms } = idempotency;
        let now_ms = self.state.cluster_time_ms;
        let revision = self.state.revision;
        let first = self.idempotency.find(finder.map, key)?;
        let forgets = self.options.planted.is(Bug::RetryAppliedTwice);
        if let Some(first) = first.filter(|_| !forgets) {
            let outcome = if first.request_hash == *request_hash {
                first.outcome
            } else {
                Outcome::IdempotencyMismatch { revision }
            };
            let (at_ms, left_ms) = (first.expires_ms, first.expires_ms.saturating_sub(now_ms));
            return Ok((outcome, Some(Expiry { at_ms, left_ms })));
        }
        // What changes nothing may be done twice, and its answer need not be kept.
        if matches!(operation, Operation::Txn(txn) if txn.only_reads()) {
            return Ok((self.carry_out(finder, operation, false)?, None));
        }
        // Its key may have been used, and forgotten: nobody can know any more.
        let is_late = *asked_ms < self.state.idempotency.forgotten_ms;
        if is_late && !self.options.planted.is(Bug::LateAttemptTaken) {
            return Ok((Outcome::IdempotencyLate { revision }, None));
        }
        let has_room = self.idempotency.make_room(
            finder.map,
            &mut self.batch,
            &mut self.state.idempotency,
            now_ms,
            &self.options,
        )?;
        if !has_room {
            return Ok((Outcome::IdempotencyFull { revision }, None));
        }
        let outcome = self.carry_out(finder, operation, true)?;
        let expires_ms = now_ms.saturating_add(self.options.idempotency_ttl_ms);
        let answered = Answered {
            number: self.state.idempotency.next,
            expires_ms,
            request_hash: *request_hash,
            outcome: outcome.clone(),
        };
        let remembered = &mut self.state.idempotency;
        let mut nowhere = WriteSet::new();
        let forgets = self.options.planted.is(Bug::AnswersInMemoryOnly);
        let batch = if forgets { &mut nowhere } else { &mut self.batch };
        self.idempotency.remember(batch, remembered, key, answered);
        let left_ms = self.options.idempotency_ttl_ms;
        Ok((outcome, Some(Expiry { at_ms: expires_ms, left_ms })))
    }

    fn carry_out<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        operation: &Operation,
        is_remembered: bool,
    ) -> Result<Outcome, MapError> {
        match operation {
            Operation::Put { key, value, condition, want_previous } => {
                self.put(finder, key, value, *condition, *want_previous)
            }
            Operation::Delete { key, condition, want_previous } => {
                self.delete(finder, key, *condition, *want_previous)
            }
            Operation::DeleteRange { start, end, limit } => {
                self.delete_range(finder, start, end.as_ref(), *limit)
            }
            Operation::Txn(txn) => self.transact(finder, txn, is_remembered),
            Operation::Compact { revision } => Ok(self.compact(*revision)),
            Operation::Lease(operation) => self.lease(finder, operation),
        }
    }

    /// The metadata of a key, from memory if it is there.
    pub(crate) fn metadata<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        key: &[u8],
    ) -> Result<Option<Metadata>, MapError> {
        if let Some(known) = self.cache.get(key) {
            return Ok(known);
        }
        if self.options.planted.is(Bug::CacheDecides) {
            return Ok(None);
        }
        let metadata = match self.records.get(key) {
            Some(staged) => staged.record().map(Metadata::of),
            None => finder.newest(key, |stored| stored.metadata)?,
        };
        self.cache.set(key, metadata);
        Ok(metadata)
    }

    /// The whole record of a key.
    pub(crate) fn record<M: OrderedMap>(
        &self,
        finder: &mut Finder<'_, M>,
        key: &[u8],
    ) -> Result<Option<KeyRecord>, MapError> {
        match self.records.get(key) {
            Some(staged) => Ok(staged.record().cloned()),
            None => finder.newest(key, |stored| stored.to_record()),
        }
    }
}

/// Mixes what a command came to into the running hash.
fn hash_outcome(state: &mut State, outcome: &Outcome) {
    let (kind, detail) = match outcome {
        Outcome::Stored { version, .. } => (1, *version),
        Outcome::Deleted { .. } => (2, 0),
        Outcome::NotFound { .. } => (3, 0),
        Outcome::RangeDeleted { count, .. } => (4, *count),
        Outcome::ConditionFailed { current, .. } => (5, current.map_or(0, |current| current.0)),
        Outcome::IdempotencyMismatch { .. } => (6, 0),
        Outcome::IdempotencyFull { .. } => (7, 0),
        Outcome::IdempotencyLate { .. } => (8, 0),
        Outcome::Txn { succeeded, .. } => (9, u64::from(*succeeded)),
        Outcome::TxnTooLarge { .. } => (10, 0),
        Outcome::Compacted { oldest, .. } => (11, oldest.0),
        Outcome::CompactRefused { oldest, .. } => (12, oldest.0),
        Outcome::LeaseGranted { id, .. } => (13, id.0),
        Outcome::LeaseExists { id, .. } => (14, id.0),
        Outcome::LeaseNotFound { id, .. } => (15, id.0),
        Outcome::LeasesFull { .. } => (16, 0),
        Outcome::LeaseEnded { count, more, .. } => (17, *count << 1 | u64::from(*more)),
        Outcome::LeasesKept { ttls_ms, .. } => (18, ttls_ms.iter().flatten().count() as u64),
        Outcome::LeaseEpochBegun { epoch, .. } => (19, epoch.0),
        Outcome::LeaseExpiryOld { id, .. } => (20, id.0),
    };
    for number in [kind, outcome.revision().0, detail] {
        state.hash.number(number);
    }
    match outcome {
        Outcome::RangeDeleted { next, .. } => hash_next(state, next.as_ref()),
        Outcome::Txn { results, .. } => {
            for result in results {
                state.hash.number(result.digest());
                match result {
                    TxnResult::DeleteRange { next, .. } | TxnResult::Range { next, .. } => {
                        hash_next(state, next.as_ref());
                    }
                    TxnResult::Put { .. } | TxnResult::Delete { .. } | TxnResult::Get { .. } => {}
                }
            }
        }
        _ => {}
    }
}

/// Mixes in where a range goes on, which depends on how much each replica passed by.
fn hash_next(state: &mut State, next: Option<&Bytes>) {
    state.hash.number(u64::from(next.is_some()));
    if let Some(next) = next {
        state.hash.bytes(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replicas that passed by more or less than others differ from then on.
    #[test]
    fn where_a_range_goes_on_is_in_the_hash() {
        let revision = Revision(7);
        let mut hashes = Vec::new();
        for next in [None, Some(Bytes::new()), Some(Bytes::from("a")), Some(Bytes::from("b"))] {
            let of = |result| Outcome::Txn { revision, succeeded: true, results: vec![result] };
            for outcome in [
                Outcome::RangeDeleted { revision, count: 0, next: next.clone() },
                of(TxnResult::DeleteRange { count: 0, next: next.clone() }),
                of(TxnResult::Range { entries: vec![], next: next.clone() }),
            ] {
                let mut state = State::default();
                hash_outcome(&mut state, &outcome);
                hashes.push(state.hash());
            }
        }
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
    }
}
