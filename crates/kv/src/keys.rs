//! Putting and removing keys.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::metadata::Metadata;
use crate::planted::Bug;
use crate::record::Stored;
use crate::stage::Stage;
use crate::walk::{Finder, Walk};
use crate::{
    Condition, KeyRecord, LeaseId, MapError, OrderedMap, Outcome, Revision, layout, record,
};

/// A key that exists, by its record.
pub(crate) enum Existing<'a> {
    /// It is to be committed.
    Staged(&'a KeyRecord),
    /// It lies in the map.
    Stored(Stored<'a>),
}

impl Existing<'_> {
    pub(crate) fn lease(&self) -> u64 {
        match self {
            Existing::Staged(record) => record.lease,
            Existing::Stored(stored) => stored.metadata.lease,
        }
    }

    pub(crate) fn value_bytes(&self) -> usize {
        match self {
            Existing::Staged(record) => record.value.len(),
            Existing::Stored(stored) => stored.value.len(),
        }
    }

    /// The record, with or without its value.
    pub(crate) fn to_record(&self, with_value: bool) -> KeyRecord {
        match self {
            Existing::Staged(record) if with_value => (*record).clone(),
            Existing::Staged(record) => Metadata::of(record).with_value(Bytes::new()),
            Existing::Stored(stored) if with_value => stored.to_record(),
            Existing::Stored(stored) => stored.metadata.with_value(Bytes::new()),
        }
    }
}

impl Stage {
    pub(crate) fn put<M: OrderedMap>(
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
        let metadata = Metadata::of_put(current, revision, None);
        self.store(key, value, metadata, current.map_or(0, |current| current.lease));
        let stored = Outcome::Stored {
            revision,
            create_revision: metadata.create_revision,
            version: metadata.version,
            previous,
        };
        Ok(refusal.unwrap_or(stored))
    }

    pub(crate) fn delete<M: OrderedMap>(
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
        let Some(current) = current else {
            return Ok(Outcome::NotFound { revision: self.state.revision });
        };
        let previous = if want_previous { self.record(finder, key)? } else { None };
        let revision = self.advance();
        self.remove(key, revision, current.lease);
        Ok(Outcome::Deleted { revision, previous })
    }

    pub(crate) fn delete_range<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        start: &Bytes,
        end: Option<&Bytes>,
        limit: u32,
    ) -> Result<Outcome, MapError> {
        let limit = limit.min(self.options.delete_range_keys_max) as usize;
        let keys = self.existing_keys(finder.map, start, end, limit)?;
        let revision = if keys.is_empty() { self.state.revision } else { self.advance() };
        for (key, lease) in &keys {
            self.remove(key, revision, *lease);
        }
        let next = next_after(&keys, limit, start);
        Ok(Outcome::RangeDeleted { revision, count: keys.len() as u64, next })
    }

    /// The lowest existing keys of a range, with their leases.
    pub(crate) fn existing_keys(
        &self,
        map: &impl OrderedMap,
        start: &Bytes,
        end: Option<&Bytes>,
        limit: usize,
    ) -> Result<Vec<(Bytes, u64)>, MapError> {
        let mut keys = Vec::new();
        if limit == 0 {
            return Ok(keys);
        }
        self.each_existing(map, start, end, |key, existing| {
            keys.push((key, existing.lease()));
            if keys.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(keys)
    }

    /// Visits the existing keys of a range in order: those of the map, and over them those
    /// that are staged.
    pub(crate) fn each_existing(
        &self,
        map: &impl OrderedMap,
        start: &Bytes,
        end: Option<&Bytes>,
        mut visit: impl FnMut(Bytes, Existing<'_>) -> ControlFlow<()>,
    ) -> Result<(), MapError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let mut staged = self
            .records
            .range(start.clone()..)
            .take_while(|(key, _)| end.is_none_or(|end| *key < end))
            .peekable();
        let mut walk = Walk::open(map, start, end.map(|end| end.as_ref()), false)?;
        while let Some(found) = walk.step()? {
            let key = Bytes::from(found.key());
            while let Some(lower) = staged.next_if(|(staged, _)| **staged < key) {
                if visit_staged(lower, &mut visit).is_break() {
                    return Ok(());
                }
            }
            let flow = match staged.next_if(|(staged, _)| **staged == key) {
                Some(same) => visit_staged(same, &mut visit),
                None => match found.record()? {
                    Some(stored) => visit(key, Existing::Stored(stored)),
                    None => ControlFlow::Continue(()),
                },
            };
            if flow.is_break() {
                return Ok(());
            }
        }
        // Whether the visitor wants to go on does not matter after the last one.
        let _ = staged.try_for_each(|higher| visit_staged(higher, &mut visit));
        Ok(())
    }

    /// Stores a key's new record. `lease_before` is the lease that it lived under, 0 for none.
    pub(crate) fn store(
        &mut self,
        key: &Bytes,
        value: &Bytes,
        metadata: Metadata,
        lease_before: u64,
    ) {
        let revision = metadata.mod_revision;
        self.batch.put_with(
            |out| layout::write_data_key(out, key, revision),
            |out| record::write_value(out, &metadata, value),
        );
        self.changes.note(&mut self.batch, revision, key, true);
        self.state.hash.bytes(key);
        self.state.hash.bytes(value);
        if metadata.lease != lease_before {
            self.state.hash.number(metadata.lease);
            if metadata.lease != 0 || !self.options.planted.is(Bug::LeaseKeepsDetached) {
                self.leases.detach(&mut self.batch, LeaseId(lease_before), key);
            }
            self.leases.attach(&mut self.batch, LeaseId(metadata.lease), key);
        }
        self.cache.set(key, Some(metadata));
        self.records.insert(key.clone(), Some(metadata.with_value(value.clone())));
    }

    /// Puts a tombstone for a key that lived under a lease, 0 for none.
    pub(crate) fn remove(&mut self, key: &Bytes, revision: Revision, lease: u64) {
        self.batch
            .put_with(|out| layout::write_data_key(out, key, revision), record::write_tombstone);
        self.changes.note(&mut self.batch, revision, key, false);
        self.leases.detach(&mut self.batch, LeaseId(lease), key);
        self.state.hash.bytes(key);
        self.cache.set(key, None);
        self.records.insert(key.clone(), None);
    }

    pub(crate) fn advance(&mut self) -> Revision {
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
}

fn visit_staged(
    (key, record): (&Bytes, &Option<KeyRecord>),
    visit: &mut impl FnMut(Bytes, Existing<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match record {
        Some(record) => visit(key.clone(), Existing::Staged(record)),
        None => ControlFlow::Continue(()),
    }
}

/// Where a range delete goes on that removed these keys: nowhere if it was not stopped by
/// its limit.
pub(crate) fn next_after(keys: &[(Bytes, u64)], limit: usize, start: &Bytes) -> Option<Bytes> {
    (keys.len() == limit).then(|| match keys.last() {
        Some((last, _)) => [last.as_ref(), &[0]].concat().into(),
        None => start.clone(),
    })
}
