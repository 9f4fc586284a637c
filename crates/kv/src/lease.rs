//! Leases: keys that live as long as somebody keeps them alive.
//!
//! The state machine measures no time. A lease has a time to live, and somebody outside, the
//! leader's node, counts it down. Before it does it begins an epoch by a command, and from then
//! on counts each lease from its full time. An expiry names the epoch and how often it saw the
//! lease renewed in the log, and has no effect if either is old: so the wish of a deposed leader
//! ends no lease that its successor keeps, and a renewal that is in the log before the expiry
//! counts. Renewals that only the leader knows of need no command.
//!
//! A lease that ends takes its keys with it, so many a command. If that is not all of them it
//! is ending from then on: it takes no keys any more and nobody can renew it.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::codec::{Reader, put_varint};
use crate::map::Cursor;
use crate::stage::Stage;
use crate::walk::Finder;
use crate::{LeaseEpoch, LeaseId, MapError, OrderedMap, Outcome, WriteSet, layout};

/// What can be done with leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseOperation {
    /// Makes a lease.
    Grant {
        /// Its id, which must not be 0; none for any that is free.
        id: Option<LeaseId>,
        /// How long it lives without being renewed, in milliseconds.
        ttl_ms: u64,
    },
    /// Ends a lease.
    Revoke {
        /// The lease.
        id: LeaseId,
    },
    /// Renews leases. The leader need not ask for it as long as it keeps the time itself.
    KeepAlive {
        /// The leases, at most [`KEEP_ALIVES_MAX`].
        ids: Vec<LeaseId>,
    },
    /// From now on whoever asks this keeps the time.
    BeginEpoch,
    /// Ends a lease whose time is over.
    Expire {
        /// The lease.
        id: LeaseId,
        /// The epoch of who says so.
        epoch: LeaseEpoch,
        /// How often the lease was renewed in the log, as far as that one has seen.
        renewals: u64,
    },
}

/// The most leases that one command renews.
pub const KEEP_ALIVES_MAX: usize = 4096;

/// A lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// How long it lives without being renewed, in milliseconds.
    pub ttl_ms: u64,
    /// The cluster time when it was granted, in milliseconds.
    pub granted_ms: u64,
    /// How often it was renewed by a command.
    pub renewals: u64,
    /// It is coming to its end.
    pub is_ending: bool,
}

/// What of leases is not in the map yet.
#[derive(Default, Debug)]
pub(crate) struct Leases {
    records: BTreeMap<LeaseId, Option<Lease>>,
    /// Whether a key lives under a lease.
    keys: BTreeMap<(LeaseId, Bytes), bool>,
}

impl Leases {
    /// A key lives under this lease from now on; under none if its id is 0.
    pub(crate) fn attach(&mut self, batch: &mut WriteSet, id: LeaseId, key: &Bytes) {
        if id.0 != 0 {
            batch.put(&layout::lease_attached_key(id, key), &[]);
            self.keys.insert((id, key.clone()), true);
        }
    }

    /// A key does not live under this lease any more; it was none if its id is 0.
    pub(crate) fn detach(&mut self, batch: &mut WriteSet, id: LeaseId, key: &Bytes) {
        if id.0 != 0 {
            batch.delete(&layout::lease_attached_key(id, key));
            self.keys.insert((id, key.clone()), false);
        }
    }

    /// Everything staged is in the map now.
    pub(crate) fn committed(&mut self) {
        self.records.clear();
        self.keys.clear();
    }

    fn find(&self, map: &impl OrderedMap, id: LeaseId) -> Result<Option<Lease>, MapError> {
        match self.records.get(&id) {
            Some(staged) => Ok(*staged),
            None => find(map, id),
        }
    }

    fn set(&mut self, batch: &mut WriteSet, id: LeaseId, lease: Option<Lease>) {
        let place = layout::lease_key(id);
        match &lease {
            Some(lease) => {
                batch.put_with(|out| out.extend_from_slice(&place), |out| lease.write(out));
            }
            None => batch.delete(&place),
        }
        self.records.insert(id, lease);
    }

    /// The lowest keys of a lease.
    fn keys_of(
        &self,
        map: &impl OrderedMap,
        id: LeaseId,
        limit: usize,
    ) -> Result<Vec<Bytes>, MapError> {
        let staged = self.keys.range((id, Bytes::new())..).take_while(|((of, _), _)| *of == id);
        let added = staged.filter(|(_, is_attached)| **is_attached);
        let mut keys: Vec<Bytes> = added.map(|((_, key), _)| key.clone()).take(limit).collect();
        let mut committed = 0;
        each_key(map, id, &[], |key| {
            let key = Bytes::copy_from_slice(key);
            let entry = (id, key);
            if !self.keys.contains_key(&entry) {
                keys.push(entry.1);
                committed += 1;
            }
            committed < limit
        })?;
        keys.sort_unstable();
        keys.truncate(limit);
        Ok(keys)
    }
}

impl Lease {
    fn write(self, out: &mut Vec<u8>) {
        put_varint(out, self.ttl_ms);
        put_varint(out, self.granted_ms);
        put_varint(out, self.renewals);
        out.push(u8::from(self.is_ending));
    }

    fn parse(record: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(record);
        let (ttl_ms, granted_ms) = (reader.varint()?, reader.varint()?);
        let renewals = reader.varint()?;
        let is_ending = reader.byte()? != 0;
        reader.end().map(|()| Lease { ttl_ms, granted_ms, renewals, is_ending })
    }
}

fn damaged() -> MapError {
    MapError("the records of leases are damaged".to_owned())
}

/// A lease as it was committed; none if there is no such lease.
///
/// # Errors
/// When the map cannot be read or the record is damaged.
pub fn find(map: &impl OrderedMap, id: LeaseId) -> Result<Option<Lease>, MapError> {
    match map.get(&layout::lease_key(id))? {
        Some(record) => Lease::parse(&record).ok_or_else(damaged).map(Some),
        None => Ok(None),
    }
}

/// At most `limit` committed leases from `from` on, in the order of their ids.
///
/// # Errors
/// When the map cannot be read or a record is damaged.
pub fn list(
    map: &impl OrderedMap,
    from: LeaseId,
    limit: usize,
) -> Result<Vec<(LeaseId, Lease)>, MapError> {
    let start = layout::lease_key(from);
    let mut cursor = map.cursor(&start, layout::LEASES_END)?;
    cursor.seek(&start)?;
    let mut leases = Vec::new();
    while leases.len() < limit {
        let Some((place, record)) = cursor.entry() else { break };
        let id = layout::lease_of(place).ok_or_else(damaged)?;
        leases.push((id, Lease::parse(record).ok_or_else(damaged)?));
        cursor.next()?;
    }
    Ok(leases)
}

/// At most `limit` committed keys that live under a lease, from `from` on in their order.
///
/// # Errors
/// When the map cannot be read.
pub fn keys(
    map: &impl OrderedMap,
    id: LeaseId,
    from: &[u8],
    limit: usize,
) -> Result<Vec<Bytes>, MapError> {
    let mut keys = Vec::new();
    if limit > 0 {
        each_key(map, id, from, |key| {
            keys.push(Bytes::copy_from_slice(key));
            keys.len() < limit
        })?;
    }
    Ok(keys)
}

/// Visits the committed keys of a lease from `from` on, until told to stop.
fn each_key(
    map: &impl OrderedMap,
    id: LeaseId,
    from: &[u8],
    mut visit: impl FnMut(&[u8]) -> bool,
) -> Result<(), MapError> {
    let prefix_bytes = layout::lease_attached_key(id, &[]).len();
    let start = layout::lease_attached_key(id, from);
    let mut cursor = map.cursor(&start, &layout::lease_attached_end(id))?;
    cursor.seek(&start)?;
    while let Some((place, _)) = cursor.entry() {
        if !visit(place.get(prefix_bytes..).ok_or_else(damaged)?) {
            break;
        }
        cursor.next()?;
    }
    Ok(())
}

impl Stage {
    pub(crate) fn lease<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        operation: &LeaseOperation,
    ) -> Result<Outcome, MapError> {
        let revision = self.state.revision;
        match operation {
            LeaseOperation::Grant { id, ttl_ms } => self.grant(finder.map, *id, *ttl_ms),
            LeaseOperation::Revoke { id } => match self.leases.find(finder.map, *id)? {
                Some(lease) => self.end_lease(finder, *id, lease),
                None => Ok(Outcome::LeaseNotFound { revision, id: *id }),
            },
            LeaseOperation::KeepAlive { ids } => self.keep_alive(finder.map, ids),
            LeaseOperation::BeginEpoch => {
                self.state.lease_epoch.0 += 1;
                Ok(Outcome::LeaseEpochBegun { revision, epoch: self.state.lease_epoch })
            }
            LeaseOperation::Expire { id, epoch, renewals } => {
                let Some(lease) = self.leases.find(finder.map, *id)? else {
                    return Ok(Outcome::LeaseNotFound { revision, id: *id });
                };
                let is_current = *epoch == self.state.lease_epoch && *renewals == lease.renewals;
                // One that is ending can't be saved any more, whoever says so.
                if !is_current && !lease.is_ending {
                    return Ok(Outcome::LeaseExpiryOld { revision, id: *id });
                }
                self.end_lease(finder, *id, lease)
            }
        }
    }

    /// Whether there is such a lease and keys may be attached to it.
    pub(crate) fn takes_keys(&self, map: &impl OrderedMap, id: LeaseId) -> Result<bool, MapError> {
        Ok(self.leases.find(map, id)?.is_some_and(|lease| !lease.is_ending))
    }

    fn grant(
        &mut self,
        map: &impl OrderedMap,
        id: Option<LeaseId>,
        ttl_ms: u64,
    ) -> Result<Outcome, MapError> {
        let revision = self.state.revision;
        if self.state.leases >= self.options.leases_max {
            return Ok(Outcome::LeasesFull { revision });
        }
        let id = match id {
            Some(id) => id,
            None => {
                // Ids that somebody chose are passed over. They are fewer than there are leases.
                let mut next = self.state.last_lease;
                loop {
                    next = LeaseId(next.0.wrapping_add(1));
                    if next.0 != 0 && self.leases.find(map, next)?.is_none() {
                        break;
                    }
                }
                self.state.last_lease = next;
                next
            }
        };
        // 0 stands for no lease in the record of a key.
        if id.0 == 0 {
            return Ok(Outcome::LeaseNotFound { revision, id });
        }
        if self.leases.find(map, id)?.is_some() {
            return Ok(Outcome::LeaseExists { revision, id });
        }
        let granted_ms = self.state.cluster_time_ms;
        let lease = Lease { ttl_ms, granted_ms, renewals: 0, is_ending: false };
        self.leases.set(&mut self.batch, id, Some(lease));
        self.state.leases += 1;
        self.state.hash.number(ttl_ms);
        Ok(Outcome::LeaseGranted { revision, id, ttl_ms })
    }

    fn keep_alive(&mut self, map: &impl OrderedMap, ids: &[LeaseId]) -> Result<Outcome, MapError> {
        let mut ttls_ms = Vec::with_capacity(ids.len());
        for id in ids {
            let lease = self.leases.find(map, *id)?.filter(|lease| !lease.is_ending);
            if let Some(lease) = lease {
                let renewals = lease.renewals + 1;
                self.leases.set(&mut self.batch, *id, Some(Lease { renewals, ..lease }));
            }
            ttls_ms.push(lease.map(|lease| lease.ttl_ms));
        }
        Ok(Outcome::LeasesKept { revision: self.state.revision, ttls_ms })
    }

    /// Removes as many keys of a lease as one command may, and with the last one the lease.
    fn end_lease<M: OrderedMap>(
        &mut self,
        finder: &mut Finder<'_, M>,
        id: LeaseId,
        lease: Lease,
    ) -> Result<Outcome, MapError> {
        let most = self.options.delete_range_keys_max.max(1) as usize;
        let mut keys = self.leases.keys_of(finder.map, id, most + 1)?;
        let more = keys.len() > most;
        keys.truncate(most);
        let revision = if keys.is_empty() { self.state.revision } else { self.advance() };
        for key in &keys {
            self.remove(key, revision, id.0);
        }
        if more {
            let ending = Lease { is_ending: true, ..lease };
            self.leases.set(&mut self.batch, id, Some(ending));
        } else {
            self.leases.set(&mut self.batch, id, None);
            self.state.leases -= 1;
        }
        Ok(Outcome::LeaseEnded { revision, id, count: keys.len() as u64, more })
    }
}
