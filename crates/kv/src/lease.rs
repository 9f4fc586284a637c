//! Leases: keys that live as long as somebody keeps them alive.
//!
//! The state machine measures no time. A lease has a time to live, and somebody outside, the
//! leader's node, counts it down. Before it does it begins an epoch by a command, and from then
//! on counts each lease from its full time. An expiry names the epoch and the slot in which it saw
//! the lease renewed last, and has no effect if either is old: so the wish of a deposed leader
//! ends no lease that its successor keeps, and a renewal that is in the log before the expiry
//! counts. Renewals that only the leader knows of need no command.
//!
//! A lease that ends takes its keys with it, so many a command. If that is not all of them it
//! is ending from then on: it takes no keys any more and nobody can renew it.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::codec::{Reader, put_varint};
use crate::map::Cursor;
use crate::planted::Bug;
use crate::stage::Stage;
use crate::walk::Finder;
use crate::{LeaseEpoch, LeaseId, MapError, OrderedMap, Outcome, State, WriteSet, layout};

/// What can be done with leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseOperation {
    /// Makes a lease.
    Grant {
        /// Its id, which must not be 0; none for the next of [`LeaseId::AUTOMATIC`].
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
        /// The slot in which the lease was granted or renewed last, as far as that one has
        /// seen.
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
    /// The slot of its grant, or of its last renewal by a command. An expiry names the one that
    /// it saw, which was committed: any later grant or renewal stands in a later slot.
    pub renewals: u64,
    /// It is coming to its end.
    pub is_ending: bool,
}

/// What became of leases since the state machine was opened. It is nothing of the state:
/// replicas may have been opened at different times.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LeaseCounts {
    /// Leases that were granted.
    pub granted: u64,
    /// Leases that ended because their time was over.
    pub expired: u64,
    /// Leases that somebody ended.
    pub revoked: u64,
    /// Renewals by commands.
    pub renewed: u64,
}

/// What of leases is not in the map yet.
#[derive(Default, Debug)]
pub(crate) struct Leases {
    pub(crate) counts: LeaseCounts,
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

    /// A lease with what is staged.
    pub(crate) fn find(
        &self,
        map: &impl OrderedMap,
        id: LeaseId,
    ) -> Result<Option<Lease>, MapError> {
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

/// Whether a lease is no more with this outcome.
fn is_end(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::LeaseEnded { more: false, .. })
}

fn damaged() -> MapError {
    MapError("the records of leases are damaged".to_owned())
}

/// Who keeps the time of leases, as it was committed.
///
/// # Errors
/// When the map cannot be read or its state record is damaged.
pub fn epoch(map: &impl OrderedMap) -> Result<LeaseEpoch, MapError> {
    Ok(State::load(map)?.lease_epoch)
}

/// The slot up to which everything was committed.
///
/// # Errors
/// When the map cannot be read or its state record is damaged.
pub fn applied_slot(map: &impl OrderedMap) -> Result<u64, MapError> {
    Ok(State::load(map)?.applied_slot)
}

/// How many leases were committed.
///
/// # Errors
/// When the map cannot be read or its state record is damaged.
pub fn count(map: &impl OrderedMap) -> Result<u64, MapError> {
    Ok(State::load(map)?.leases)
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
                Some(lease) => {
                    let outcome = self.end_lease(finder, *id, lease)?;
                    self.leases.counts.revoked += u64::from(is_end(&outcome));
                    Ok(outcome)
                }
                None => Ok(Outcome::LeaseNotFound { revision, id: *id }),
            },
            LeaseOperation::KeepAlive { ids } => self.keep_alive(finder.map, ids),
            LeaseOperation::BeginEpoch => {
                self.state.lease_epoch.0 = self.state.lease_epoch.0.wrapping_add(1);
                Ok(Outcome::LeaseEpochBegun { revision, epoch: self.state.lease_epoch })
            }
            LeaseOperation::Expire { id, epoch, renewals } => {
                let Some(lease) = self.leases.find(finder.map, *id)? else {
                    return Ok(Outcome::LeaseNotFound { revision, id: *id });
                };
                let planted = self.options.planted;
                let is_epoch =
                    *epoch == self.state.lease_epoch || planted.is(Bug::ExpiryIgnoresEpoch);
                let is_current = is_epoch
                    && (*renewals == lease.renewals || planted.is(Bug::ExpiryIgnoresRenewals));
                // One that is ending can't be saved any more, whoever says so.
                if !is_current && !lease.is_ending {
                    return Ok(Outcome::LeaseExpiryOld { revision, id: *id });
                }
                let outcome = self.end_lease(finder, *id, lease)?;
                self.leases.counts.expired += u64::from(is_end(&outcome));
                Ok(outcome)
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
                let mut next = self.state.last_lease.next_automatic();
                // Only when all ids were used once may one be taken.
                while self.leases.find(map, next)?.is_some() {
                    next = next.next_automatic();
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
        // Not counted from 0: an expiry of a lease that had this id before must not fit.
        let renewals = self.state.applied_slot;
        let lease = Lease { ttl_ms, granted_ms, renewals, is_ending: false };
        self.leases.set(&mut self.batch, id, Some(lease));
        self.state.leases += 1;
        self.leases.counts.granted += 1;
        self.state.hash.number(ttl_ms);
        Ok(Outcome::LeaseGranted { revision, id, ttl_ms })
    }

    fn keep_alive(&mut self, map: &impl OrderedMap, ids: &[LeaseId]) -> Result<Outcome, MapError> {
        let mut ttls_ms = Vec::with_capacity(ids.len());
        for id in ids {
            let lease = self.leases.find(map, *id)?.filter(|lease| !lease.is_ending);
            if let Some(lease) = lease {
                let renewals = self.state.applied_slot;
                self.leases.set(&mut self.batch, *id, Some(Lease { renewals, ..lease }));
                self.leases.counts.renewed += 1;
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
            self.state.leases = self.state.leases.checked_sub(1).ok_or_else(damaged)?;
        }
        Ok(Outcome::LeaseEnded { revision, id, count: keys.len() as u64, more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Command, KvOptions, ListQuery, MemoryMap, Operation, Revision, ServerId, StateMachine,
        Taken, Txn, TxnOperation, read,
    };

    /// A machine whose commands remove two keys at the most.
    struct Machine {
        machine: StateMachine<MemoryMap>,
        slot: u64,
        commits: bool,
    }

    impl Machine {
        fn new(commits: bool) -> Self {
            let options = KvOptions { delete_range_keys_max: 2, ..KvOptions::default() };
            let machine = StateMachine::open(MemoryMap::new(), options).unwrap();
            Machine { machine, slot: 0, commits }
        }

        fn carry_out(&mut self, operation: Operation) -> Outcome {
            self.slot += 1;
            let id = ServerId { origin: 1, incarnation: self.slot, sequence: 1 };
            let command = (id, Command { idempotency: None, operation });
            let mut taken = self.machine.apply(self.slot, self.slot, &[command]).unwrap();
            if self.commits {
                self.machine.commit().unwrap();
            }
            match taken.pop() {
                Some(Taken::Applied { outcome, .. }) => outcome,
                other => panic!("{other:?}"),
            }
        }

        fn lease(&mut self, operation: LeaseOperation) -> Outcome {
            self.carry_out(Operation::Lease(operation))
        }

        fn put(&mut self, keys: &[&'static str], id: LeaseId) -> Outcome {
            let put = |key: &&'static str| TxnOperation::Put {
                key: Bytes::from(*key),
                value: Bytes::new(),
                lease: Some(id),
                want_previous: false,
            };
            let success = keys.iter().map(put).collect();
            self.carry_out(Operation::Txn(Txn { success, ..Txn::default() }))
        }
    }

    const ID: LeaseId = LeaseId(7);

    #[test]
    fn a_lease_with_many_keys_ends_in_parts_and_is_not_saved_meanwhile() {
        for commits in [false, true] {
            let mut machine = Machine::new(commits);
            machine.lease(LeaseOperation::Grant { id: Some(ID), ttl_ms: 9 });
            machine.put(&["a", "b", "c", "d", "e"], ID);
            let ended = |revision, count, more| Outcome::LeaseEnded {
                revision: Revision(revision),
                id: ID,
                count,
                more,
            };
            assert_eq!(machine.lease(LeaseOperation::Revoke { id: ID }), ended(2, 2, true));
            let refused = Outcome::LeaseNotFound { revision: Revision(2), id: ID };
            assert_eq!(machine.put(&["f"], ID), refused);
            let kept = machine.lease(LeaseOperation::KeepAlive { ids: vec![ID] });
            let revision = Revision(2);
            assert_eq!(kept, Outcome::LeasesKept { revision, ttls_ms: vec![None] });
            // Whoever ends it now need not know how it stands.
            let expire = LeaseOperation::Expire { id: ID, epoch: LeaseEpoch(9), renewals: 9 };
            assert_eq!(machine.lease(expire.clone()), ended(3, 2, true));
            assert_eq!(machine.lease(expire.clone()), ended(4, 1, false));
            let gone = Outcome::LeaseNotFound { revision: Revision(4), id: ID };
            assert_eq!(machine.lease(expire), gone);
            let counts = LeaseCounts { granted: 1, expired: 1, ..LeaseCounts::default() };
            assert_eq!(machine.machine.lease_counts(), counts, "each lease ends once");
            machine.machine.commit().unwrap();
            let map = machine.machine.map();
            assert_eq!(read::list(map, &ListQuery::prefix(b"")).unwrap().count, 0);
            assert!(map.iter().all(|(place, _)| !matches!(place[0], 5 | 6)));
        }
    }

    #[test]
    fn an_expiry_counts_only_in_its_epoch_and_if_nobody_renewed() {
        let mut machine = Machine::new(true);
        machine.lease(LeaseOperation::Grant { id: Some(ID), ttl_ms: 9 });
        let revision = Revision(0);
        for epoch in [1, 2] {
            let begun = machine.lease(LeaseOperation::BeginEpoch);
            assert_eq!(begun, Outcome::LeaseEpochBegun { revision, epoch: LeaseEpoch(epoch) });
        }
        machine.lease(LeaseOperation::KeepAlive { ids: vec![ID] });
        for (epoch, renewals) in [(1, 4), (2, 1), (3, 4), (2, 5)] {
            let epoch = LeaseEpoch(epoch);
            let old = machine.lease(LeaseOperation::Expire { id: ID, epoch, renewals });
            assert_eq!(old, Outcome::LeaseExpiryOld { revision, id: ID });
        }
        let expire = LeaseOperation::Expire { id: ID, epoch: LeaseEpoch(2), renewals: 4 };
        let ended = Outcome::LeaseEnded { revision, id: ID, count: 0, more: false };
        assert_eq!(machine.lease(expire), ended);
    }

    /// Whoever counted the first lease down knows nothing of the second one.
    #[test]
    fn an_expiry_of_a_lease_that_is_over_does_not_end_the_next_one_of_its_id() {
        let mut machine = Machine::new(true);
        let revision = Revision(0);
        let epoch = LeaseEpoch(1);
        machine.lease(LeaseOperation::BeginEpoch);
        let grant = LeaseOperation::Grant { id: Some(ID), ttl_ms: 9 };
        let mut expiries = Vec::new();
        for _ in 0..2 {
            let granted = machine.lease(grant.clone());
            assert_eq!(granted, Outcome::LeaseGranted { revision, id: ID, ttl_ms: 9 });
            let renewals = find(machine.machine.map(), ID).unwrap().unwrap().renewals;
            expiries.push(LeaseOperation::Expire { id: ID, epoch, renewals });
            if expiries.len() == 1 {
                let ended = Outcome::LeaseEnded { revision, id: ID, count: 0, more: false };
                assert_eq!(machine.lease(LeaseOperation::Revoke { id: ID }), ended);
            }
        }
        let second = expiries.pop().unwrap();
        let late = machine.lease(expiries.pop().unwrap());
        assert_eq!(late, Outcome::LeaseExpiryOld { revision, id: ID });
        let ended = Outcome::LeaseEnded { revision, id: ID, count: 0, more: false };
        assert_eq!(machine.lease(second), ended);
    }

    /// An id that a lease got by itself is that of no other, whatever becomes of the lease and
    /// of the state: who was granted it may ask for it again.
    #[test]
    fn an_automatic_id_is_given_once() {
        let mut machine = Machine::new(true);
        let mut granted = Vec::new();
        for _ in 0..3 {
            let granting = LeaseOperation::Grant { id: None, ttl_ms: 9 };
            let Outcome::LeaseGranted { id, .. } = machine.lease(granting) else { panic!() };
            assert!(LeaseId::AUTOMATIC.contains(&id.0) && !granted.contains(&id));
            machine.lease(LeaseOperation::Revoke { id });
            granted.push(id);
            // Started again, or in the nodes of another cluster.
            let mut map = machine.machine.map().clone();
            if granted.len() == 2 {
                let state = State::load(&map).unwrap().for_another_cluster().unwrap();
                let mut set = WriteSet::new();
                set.put(layout::APPLIED_KEY, &state.record());
                map.write(&set).unwrap();
            }
            machine.machine = StateMachine::open(map, KvOptions::default()).unwrap();
        }
    }

    #[test]
    fn leases_are_limited_and_0_is_none() {
        let options = KvOptions { leases_max: 2, ..KvOptions::default() };
        let machine = StateMachine::open(MemoryMap::new(), options).unwrap();
        let mut machine = Machine { machine, slot: 0, commits: true };
        let revision = Revision(0);
        let mut grant = |id| machine.lease(LeaseOperation::Grant { id, ttl_ms: 9 });
        let granted = |id| Outcome::LeaseGranted { revision, id: LeaseId(id), ttl_ms: 9 };
        assert_eq!(grant(Some(LeaseId(1))), granted(1));
        let exists = Outcome::LeaseExists { revision, id: LeaseId(1) };
        assert_eq!(grant(Some(LeaseId(1))), exists);
        let none = Outcome::LeaseNotFound { revision, id: LeaseId(0) };
        assert_eq!(grant(Some(LeaseId(0))), none);
        assert_eq!(grant(None), granted(LeaseId::AUTOMATIC_FIRST.0));
        assert_eq!(grant(None), Outcome::LeasesFull { revision });
        assert_eq!(machine.put(&["a"], LeaseId(0)), none);
    }
}
