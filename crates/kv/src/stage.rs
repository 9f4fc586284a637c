//! What a commit will write, and what the commands before it did.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::idempotency::{Answered, Idempotency};
use crate::metadata::{Metadata, MetadataCache};
use crate::planted::{Bug, Planted};
use crate::read::{Finder, Walk};
use crate::state::Sequence;
use crate::{
    APPLIED_KEY, Command, Condition, Expiry, IdempotencyKey, KeyRecord, KvOptions, MapError,
    Operation, OrderedMap, Outcome, Revision, ServerId, State, Taken, WriteSet, layout, record,
};

/// The state with everything applied, and the changes since the last commit.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) state: State,
    options: KvOptions,
    cache: MetadataCache,
    /// The newest record of each key that changed since the last commit.
    records: BTreeMap<Bytes, Option<KeyRecord>>,
    idempotency: Idempotency,
    batch: WriteSet,
    is_changed: bool,
}

impl Stage {
    pub(crate) fn new(state: State, options: KvOptions) -> Self {
        Stage {
            state,
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
    pub(crate) fn replace(&mut self, state: State) {
        let planted = self.options.planted;
        let before = std::mem::replace(self, Stage::new(state, self.options.clone()));
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
        state.hash.number(slot);
        state.hash.number(now_ms);
        self.idempotency.expire(map, &mut self.batch, &mut state.idempotency, now_ms, is_empty)?;
        state.hash.number(state.idempotency.forgotten_ms);
        Ok(())
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
            None => (self.carry_out(finder, &command.operation)?, None),
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
        let outcome = self.carry_out(finder, operation)?;
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
        }
    }

    fn put<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        key: &Bytes,
        value: &Bytes,
        condition: Condition,
        want_previous: bool,
    ) -> Result<Outcome, MapError> {
        let current = self.metadata(finder, key)?;
        let refusal = self.check(condition, current);
        let stores = self.options.planted.is(Bug::FailedConditionStores);
        if let Some(refusal) = refusal.clone().filter(|_| !stores) {
            return Ok(refusal);
        }
        let previous =
            if want_previous && current.is_some() { self.record(finder, key)? } else { None };
        let revision = self.advance();
        let metadata = Metadata {
            create_revision: current.map_or(revision, |current| current.create_revision),
            mod_revision: revision,
            version: current.map_or(0, |current| current.version) + 1,
            lease: 0,
        };
        self.batch.put_with(
            |out| layout::write_data_key(out, key, revision),
            |out| record::write_value(out, &metadata, value),
        );
        self.state.hash.bytes(key);
        self.state.hash.bytes(value);
        self.cache.set(key, Some(metadata));
        self.records.insert(key.clone(), Some(metadata.with_value(value.clone())));
        let stored = Outcome::Stored {
            revision,
            create_revision: metadata.create_revision,
            version: metadata.version,
            previous,
        };
        Ok(refusal.unwrap_or(stored))
    }

    fn delete<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        key: &Bytes,
        condition: Condition,
        want_previous: bool,
    ) -> Result<Outcome, MapError> {
        let current = self.metadata(finder, key)?;
        if let Some(refusal) = self.check(condition, current) {
            return Ok(refusal);
        }
        if current.is_none() {
            return Ok(Outcome::NotFound { revision: self.state.revision });
        }
        let previous = if want_previous { self.record(finder, key)? } else { None };
        let revision = self.advance();
        self.remove(key, revision);
        Ok(Outcome::Deleted { revision, previous })
    }

    fn delete_range<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        start: &Bytes,
        end: Option<&Bytes>,
        limit: u32,
    ) -> Result<Outcome, MapError> {
        let limit = limit.min(self.options.delete_range_keys_max) as usize;
        let keys = self.existing_keys(finder.map, start, end, limit)?;
        let revision = if keys.is_empty() { self.state.revision } else { self.advance() };
        for key in &keys {
            self.remove(key, revision);
        }
        let next = (keys.len() == limit).then(|| match keys.last() {
            Some(last) => [last.as_ref(), &[0]].concat().into(),
            None => start.clone(),
        });
        Ok(Outcome::RangeDeleted { revision, count: keys.len() as u64, next })
    }

    /// The lowest existing keys of a range: those of the map, and over them those
    /// that are staged.
    fn existing_keys(
        &self,
        map: &impl OrderedMap,
        start: &Bytes,
        end: Option<&Bytes>,
        limit: usize,
    ) -> Result<Vec<Bytes>, MapError> {
        let mut keys = Vec::new();
        if limit == 0 || end.is_some_and(|end| end <= start) {
            return Ok(keys);
        }
        let mut staged = self
            .records
            .range(start.clone()..)
            .take_while(|(key, _)| end.is_none_or(|end| *key < end))
            .peekable();
        let mut walk = Walk::open(map, start, end.map(|end| end.as_ref()), false)?;
        while keys.len() < limit {
            let Some(found) = walk.step()? else {
                break;
            };
            let is_value = found.record()?.is_some();
            let key = Bytes::from(found.key());
            while keys.len() < limit
                && let Some((lower, record)) = staged.next_if(|(staged, _)| **staged < key)
            {
                keys.extend(record.as_ref().map(|_| lower.clone()));
            }
            let exists = match staged.next_if(|(staged, _)| **staged == key) {
                Some((_, record)) => record.is_some(),
                None => is_value,
            };
            if exists && keys.len() < limit {
                keys.push(key);
            }
        }
        let rest = staged.filter(|(_, record)| record.is_some()).map(|(key, _)| key.clone());
        let room = limit - keys.len();
        keys.extend(rest.take(room));
        Ok(keys)
    }

    /// Puts a tombstone.
    fn remove(&mut self, key: &Bytes, revision: Revision) {
        self.batch
            .put_with(|out| layout::write_data_key(out, key, revision), record::write_tombstone);
        self.state.hash.bytes(key);
        self.cache.set(key, None);
        self.records.insert(key.clone(), None);
    }

    fn advance(&mut self) -> Revision {
        self.state.revision.0 += 1;
        self.state.revision
    }

    /// The refusal, unless the condition holds.
    fn check(&self, condition: Condition, current: Option<Metadata>) -> Option<Outcome> {
        let current = current.map(|current| current.mod_revision);
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => current.is_none(),
            Condition::Exists => current.is_some(),
            Condition::At(revision) => current == Some(revision),
        };
        let revision = self.state.revision;
        (!holds).then_some(Outcome::ConditionFailed { revision, current })
    }

    /// The metadata of a key, from memory if it is there.
    fn metadata<M: OrderedMap>(
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
            Some(staged) => staged.as_ref().map(Metadata::of),
            None => finder.newest(key, |stored| stored.metadata)?,
        };
        self.cache.set(key, metadata);
        Ok(metadata)
    }

    /// The whole record of a key.
    fn record<M: OrderedMap>(
        &self,
        finder: &mut Finder<'_, M>,
        key: &[u8],
    ) -> Result<Option<KeyRecord>, MapError> {
        match self.records.get(key) {
            Some(staged) => Ok(staged.clone()),
            None => finder.newest(key, |stored| stored.to_record()),
        }
    }
}

/// Mixes what a command came to into the running hash.
fn hash_outcome(state: &mut State, outcome: &Outcome) {
    let (kind, revision, detail) = match outcome {
        Outcome::Stored { revision, version, .. } => (1, revision, *version),
        Outcome::Deleted { revision, .. } => (2, revision, 0),
        Outcome::NotFound { revision } => (3, revision, 0),
        Outcome::RangeDeleted { revision, count, .. } => (4, revision, *count),
        Outcome::ConditionFailed { revision, current } => {
            (5, revision, current.map_or(0, |current| current.0))
        }
        Outcome::IdempotencyMismatch { revision } => (6, revision, 0),
        Outcome::IdempotencyFull { revision } => (7, revision, 0),
        Outcome::IdempotencyLate { revision } => (8, revision, 0),
    };
    for number in [kind, revision.0, detail] {
        state.hash.number(number);
    }
}
