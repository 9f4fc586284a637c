//! Putting and removing keys.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::gaps::{Gaps, Row};
use crate::metadata::Metadata;
use crate::planted::Bug;
use crate::record::Stored;
use crate::stage::{Stage, Staged};
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

/// Keys with the leases that they live under, 0 for none.
type Leased = Vec<(Bytes, u64)>;

/// A key as it is staged: that it exists, or when it was removed.
fn existing(change: &Staged) -> Result<Existing<'_>, Revision> {
    match change {
        Staged::Put(record) => Ok(Existing::Staged(record)),
        Staged::Removed(revision) => Err(*revision),
    }
}

/// What the ranges of a command may still pass of keys that were removed.
///
/// It has to come to the same on all replicas, whatever they committed and compacted already.
/// A removal behind the oldest revision is seen on each of them. An older one may be gone
/// from the map of one and not of another, so it does not count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passes {
    left: u32,
    compacted: Revision,
}

impl Passes {
    /// Whether a removal at this revision does not count.
    fn is_free(&self, removed: Revision) -> bool {
        removed <= self.compacted
    }

    /// Passes a key that was removed at this revision, if it still may.
    fn take(&mut self, removed: Revision) -> bool {
        if self.is_free(removed) {
            return true;
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

/// Where a range looks for keys: what the map has, what is staged over that, and what need not be
/// looked at.
pub(crate) struct Source<'a, M> {
    pub(crate) map: &'a M,
    pub(crate) records: &'a BTreeMap<Bytes, Staged>,
    pub(crate) gaps: &'a mut Gaps,
}

/// Visits the existing keys of a range in order: those of the map, and over them those
/// that are staged. Tells at which key it stopped because it passed enough that was removed.
pub(crate) fn each_existing<M: OrderedMap>(
    Source { map, records, gaps }: Source<'_, M>,
    (start, end): (&Bytes, Option<&Bytes>),
    passes: &mut Passes,
    mut visit: impl FnMut(Bytes, Existing<'_>) -> ControlFlow<()>,
) -> Result<Option<Bytes>, MapError> {
    if end.is_some_and(|end| end <= start) {
        return Ok(None);
    }
    let before = *passes;
    // It stops for the visitor without, and for what was removed with a key.
    let mut look = |key: Bytes, found: Result<Existing<'_>, Revision>| match found {
        Ok(existing) => match visit(key, existing) {
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
            ControlFlow::Break(()) => ControlFlow::Break(None),
        },
        Err(removed) if passes.take(removed) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(Some(key)),
    };
    let within = |key: &Bytes| end.is_none_or(|end| key < end);
    let mut staged = records.range(start.clone()..).take_while(|(key, _)| within(key)).peekable();
    let mut row = Row::default();
    let mut walk = Walk::open(map, start, end.map(|end| end.as_ref()), false)?;
    // Where the map has something again behind the gap that the walk has come to.
    let mut behind = gaps.behind(start);
    if behind.is_some() {
        row.pass_gap(start);
    }
    loop {
        match behind.take() {
            Some(Some(key)) if within(&key) => walk.skip_to(&key),
            Some(_) => break,
            None => {}
        }
        let Some(found) = walk.step()? else { break };
        let key = Bytes::from(found.key());
        while let Some((lower, change)) = staged.next_if(|(staged, _)| **staged < key) {
            gaps.end(&mut row, Some(lower));
            if let ControlFlow::Break(stopped) = look(lower.clone(), existing(change)) {
                return Ok(stopped);
            }
        }
        let here = match staged.next_if(|(staged, _)| **staged == key) {
            Some((_, change)) => existing(change),
            None => match (found.record()?, found.revision()) {
                (Some(stored), _) => Ok(Existing::Stored(stored)),
                (None, Some(removed)) if !before.is_free(removed) => Err(removed),
                (None, _) => {
                    behind = gaps.behind(&key);
                    match behind {
                        None => row.pass(&key),
                        Some(_) => row.pass_gap(&key),
                    }
                    continue;
                }
            },
        };
        gaps.end(&mut row, Some(&key));
        if let ControlFlow::Break(stopped) = look(key, here) {
            return Ok(stopped);
        }
    }
    for (higher, change) in staged {
        gaps.end(&mut row, Some(higher));
        if let ControlFlow::Break(stopped) = look(higher.clone(), existing(change)) {
            return Ok(stopped);
        }
    }
    gaps.end(&mut row, end);
    Ok(None)
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
        let mut passes = self.passes();
        let (keys, next) = self.existing_keys(finder.map, (start, end), limit, &mut passes)?;
        let revision = if keys.is_empty() { self.state.revision } else { self.advance() };
        for (key, lease) in &keys {
            self.remove(key, revision, *lease);
        }
        Ok(Outcome::RangeDeleted { revision, count: keys.len() as u64, next })
    }

    /// What the ranges of a command may pass.
    pub(crate) fn passes(&self) -> Passes {
        Passes { left: self.options.range_passes_max, compacted: self.state.compacted }
    }

    /// The lowest existing keys of a range, with their leases, and where the range goes on:
    /// nowhere if no limit stopped it.
    pub(crate) fn existing_keys(
        &mut self,
        map: &impl OrderedMap,
        (start, end): (&Bytes, Option<&Bytes>),
        limit: usize,
        passes: &mut Passes,
    ) -> Result<(Leased, Option<Bytes>), MapError> {
        let mut keys = Leased::new();
        if limit == 0 {
            return Ok((keys, Some(start.clone())));
        }
        let source = Source { map, records: &self.records, gaps: &mut self.gaps };
        let stopped = each_existing(source, (start, end), passes, |key, existing| {
            keys.push((key, existing.lease()));
            if keys.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let last = keys.last().filter(|_| keys.len() == limit);
        let behind = last.map(|(last, _)| [last.as_ref(), &[0]].concat().into());
        Ok((keys, behind.or(stopped)))
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
        if let Some(noted) = &mut self.noted {
            noted.note(revision, key, Some((metadata, value)));
        }
        self.state.hash.bytes(key);
        self.state.hash.bytes(value);
        if metadata.lease != lease_before {
            self.state.hash.number(metadata.lease);
            if metadata.lease != 0 || !self.options.planted.is(Bug::LeaseKeepsDetached) {
                self.leases.detach(&mut self.batch, LeaseId(lease_before), key);
            }
            self.leases.attach(&mut self.batch, LeaseId(metadata.lease), key);
        }
        self.gaps.close(key);
        self.cache.set(key, Some(metadata));
        let record = metadata.with_value(value.clone());
        self.records.insert(key.clone(), Staged::Put(record));
    }

    /// Puts a tombstone for a key that lived under a lease, 0 for none.
    pub(crate) fn remove(&mut self, key: &Bytes, revision: Revision, lease: u64) {
        self.batch
            .put_with(|out| layout::write_data_key(out, key, revision), record::write_tombstone);
        self.changes.note(&mut self.batch, revision, key, false);
        if let Some(noted) = &mut self.noted {
            noted.note(revision, key, None);
        }
        self.leases.detach(&mut self.batch, LeaseId(lease), key);
        self.state.hash.bytes(key);
        self.gaps.close(key);
        self.cache.set(key, None);
        self.records.insert(key.clone(), Staged::Removed(revision));
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
