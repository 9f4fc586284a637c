//! A model of the state machine that keeps everything in plain lists, and all of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_kv::read::Change;
use synod_kv::{
    Command, Compare, Condition, Entry, Expiry, KeyRecord, Lease, LeaseEpoch, LeaseId,
    LeaseOperation, Operation, Outcome, Relation, Revision, ServerId, Taken, Target, Txn,
    TxnOperation, TxnResult,
};

pub(crate) const IDEMPOTENCY_RECORDS_MAX: usize = 3;
pub(crate) const IDEMPOTENCY_TTL_MS: u64 = 100;
pub(crate) const IDEMPOTENCY_GRACE_MS: u64 = 30;
pub(crate) const DELETE_RANGE_KEYS_MAX: u32 = 4;
pub(crate) const RANGE_PASSES_MAX: u32 = 2;
pub(crate) const TXN_ANSWER_BYTES_MAX: usize = 100;
pub(crate) const LEASES_MAX: u64 = 3;

/// What exists.
type Keys = BTreeMap<Bytes, KeyRecord>;

/// What the commands should do, said as plainly as possible.
#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) revision: u64,
    pub(crate) now_ms: u64,
    pub(crate) keys: Keys,
    /// What existed at each revision before this one.
    pub(crate) history: Vec<Keys>,
    pub(crate) changes: Vec<Change>,
    pub(crate) compacted: u64,
    /// When each key was removed that does not exist any more.
    removed: BTreeMap<Bytes, u64>,
    pub(crate) leases: BTreeMap<u64, Lease>,
    pub(crate) lease_epoch: u64,
    last_lease: u64,
    slot: u64,
    pub(crate) origins: BTreeMap<u32, (u64, u64)>,
    answers: Vec<Answer>,
    forgotten_ms: u64,
}

#[derive(Clone)]
struct Answer {
    key: Bytes,
    hash: u128,
    expires_ms: u64,
    outcome: Outcome,
}

impl Model {
    pub(crate) fn begin_slot(&mut self, passed_ms: u64) {
        self.slot += 1;
        self.now_ms += passed_ms;
        let now_ms = self.now_ms;
        let over = |answer: &Answer| answer.expires_ms + IDEMPOTENCY_GRACE_MS <= now_ms;
        let gone = self.answers.iter().filter(|answer| over(answer));
        let gone = gone.map(|gone| gone.expires_ms + IDEMPOTENCY_GRACE_MS / 2);
        self.forgotten_ms = gone.fold(self.forgotten_ms, u64::max);
        self.answers.retain(|answer| !over(answer));
    }

    pub(crate) fn take(&mut self, id: ServerId, command: &Command) -> Taken {
        let next = match self.origins.get(&id.origin) {
            Some((incarnation, sequence)) if *incarnation == id.incarnation => {
                if id.sequence <= *sequence {
                    return Taken::Duplicate;
                }
                sequence + 1
            }
            Some((incarnation, _)) if *incarnation > id.incarnation => return Taken::Gap,
            _ => 1,
        };
        if id.sequence != next {
            return Taken::Gap;
        }
        self.origins.insert(id.origin, (id.incarnation, id.sequence));
        let revision = Revision(self.revision);
        let now_ms = self.now_ms;
        let applied = |outcome, at_ms: Option<u64>| {
            let left = |at_ms: u64| Expiry { at_ms, left_ms: at_ms.saturating_sub(now_ms) };
            Taken::Applied { outcome, expiry: at_ms.map(left) }
        };
        let Some(idempotency) = &command.idempotency else {
            return applied(self.carry_out(&command.operation), None);
        };
        if let Some(answer) = self.answers.iter().find(|answer| answer.key == idempotency.key) {
            let outcome = if answer.hash == idempotency.request_hash {
                answer.outcome.clone()
            } else {
                Outcome::IdempotencyMismatch { revision }
            };
            return applied(outcome, Some(answer.expires_ms));
        }
        if matches!(&command.operation, Operation::Txn(txn) if txn.only_reads()) {
            return applied(self.carry_out(&command.operation), None);
        }
        if idempotency.asked_ms < self.forgotten_ms {
            return applied(Outcome::IdempotencyLate { revision }, None);
        }
        if self.answers.len() == IDEMPOTENCY_RECORDS_MAX {
            return applied(Outcome::IdempotencyFull { revision }, None);
        }
        let outcome = self.carry_out(&command.operation);
        let expires_ms = self.now_ms + IDEMPOTENCY_TTL_MS;
        self.answers.push(Answer {
            key: idempotency.key.clone(),
            hash: idempotency.request_hash,
            expires_ms,
            outcome: outcome.clone(),
        });
        applied(outcome, Some(expires_ms))
    }

    fn carry_out(&mut self, operation: &Operation) -> Outcome {
        let before = self.clone();
        let outcome = self.change(operation);
        if self.keys == before.keys && !matches!(outcome, Outcome::Stored { .. }) {
            // Not even a transaction that puts what is there leaves all records as they are.
            assert_eq!(self.revision, before.revision, "{operation:?}");
        }
        if self.revision > before.revision {
            assert_eq!(self.revision, before.revision + 1, "{operation:?}");
            let all = before.keys.keys().chain(self.keys.keys());
            let mut changed: Vec<Bytes> =
                all.filter(|key| before.keys.get(*key) != self.keys.get(*key)).cloned().collect();
            changed.sort();
            changed.dedup();
            for key in changed {
                self.changes.push(Change {
                    revision: Revision(self.revision),
                    record: self.keys.get(&key).cloned(),
                    previous: before.keys.get(&key).cloned(),
                    key,
                });
            }
            self.history.push(before.keys);
        }
        outcome
    }

    /// What existed at a revision.
    pub(crate) fn at(&self, revision: u64) -> &Keys {
        self.history.get(usize::try_from(revision).unwrap()).unwrap_or(&self.keys)
    }

    fn change(&mut self, operation: &Operation) -> Outcome {
        match operation {
            Operation::Put { key, value, condition, want_previous } => {
                let previous = self.keys.get(key).cloned();
                if let Some(refusal) = self.refusal(*condition, previous.as_ref()) {
                    return refusal;
                }
                self.revision += 1;
                let record = self.put(key, value, 0);
                Outcome::Stored {
                    revision: Revision(self.revision),
                    create_revision: record.create_revision,
                    version: record.version,
                    previous: previous.filter(|_| *want_previous),
                }
            }
            Operation::Delete { key, condition, want_previous } => {
                let previous = self.keys.get(key).cloned();
                if let Some(refusal) = self.refusal(*condition, previous.as_ref()) {
                    return refusal;
                }
                if previous.is_none() {
                    return Outcome::NotFound { revision: Revision(self.revision) };
                }
                self.revision += 1;
                self.remove(key, self.revision);
                let previous = previous.filter(|_| *want_previous);
                Outcome::Deleted { revision: Revision(self.revision), previous }
            }
            Operation::DeleteRange { start, end, limit } => {
                let at = self.revision + 1;
                let mut passes = RANGE_PASSES_MAX;
                let range = (start, end.as_ref());
                let (count, next) = self.remove_range(range, *limit, at, &mut passes);
                self.revision += u64::from(count > 0);
                Outcome::RangeDeleted { revision: Revision(self.revision), count, next }
            }
            Operation::Txn(txn) => self.transact(txn),
            Operation::Compact { revision: Revision(upto) } => {
                let revision = Revision(self.revision);
                if *upto <= self.compacted || *upto > self.revision {
                    return Outcome::CompactRefused { revision, oldest: Revision(self.compacted) };
                }
                self.compacted = *upto;
                Outcome::Compacted { revision, oldest: Revision(*upto) }
            }
            Operation::Lease(operation) => self.lease(operation),
        }
    }

    /// Stores at the revision that the model has, which is the put's.
    fn put(&mut self, key: &Bytes, value: &Bytes, lease: u64) -> KeyRecord {
        let (revision, previous) = (Revision(self.revision), self.keys.get(key));
        let record = KeyRecord {
            value: value.clone(),
            create_revision: previous.map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: previous.map_or(1, |old| old.version + 1),
            lease,
        };
        self.keys.insert(key.clone(), record.clone());
        self.removed.remove(key);
        record
    }

    fn remove(&mut self, key: &Bytes, revision: u64) -> Option<KeyRecord> {
        let removed = self.keys.remove(key);
        if removed.is_some() {
            self.removed.insert(key.clone(), revision);
        }
        removed
    }

    /// The first key at which a range stops that passes so many removed keys.
    fn stop(&self, (start, end): (&Bytes, Option<&Bytes>), passes: u32) -> Option<Bytes> {
        let is_inside = |key: &Bytes| key >= start && end.is_none_or(|end| key < end);
        let counts = |(key, at): &(&Bytes, &u64)| is_inside(key) && **at > self.compacted;
        let stop = self.removed.iter().filter(counts).nth(passes as usize);
        stop.map(|(key, _)| key.clone())
    }

    /// How many removed keys a range passes up to this one.
    fn passed(&self, (start, end): (&Bytes, Option<&Bytes>), upto: Option<&Bytes>) -> u32 {
        let is_inside = |key: &Bytes| key >= start && end.is_none_or(|end| key < end);
        let is_before = |key: &Bytes| upto.is_none_or(|upto| key < upto);
        let counts =
            |(key, at): &(&Bytes, &u64)| is_inside(key) && is_before(key) && **at > self.compacted;
        u32::try_from(self.removed.iter().filter(counts).count()).unwrap()
    }

    fn remove_range(
        &mut self,
        (start, end): (&Bytes, Option<&Bytes>),
        limit: u32,
        at: u64,
        passes: &mut u32,
    ) -> (u64, Option<Bytes>) {
        let limit = limit.min(DELETE_RANGE_KEYS_MAX) as usize;
        if limit == 0 {
            return (0, Some(start.clone()));
        }
        let stop = self.stop((start, end), *passes);
        let is_before = |key: &Bytes| stop.as_ref().is_none_or(|stop| key < stop);
        let found = self.inside(start, end).map(|(key, _)| key.clone());
        let gone: Vec<Bytes> = found.filter(is_before).take(limit).collect();
        let is_full = gone.len() == limit;
        let last = gone.last().filter(|_| is_full);
        *passes -= self.passed((start, end), last.or(stop.as_ref())).min(*passes);
        let next = last.map(|last| [last.as_ref(), &[0]].concat().into()).or(stop.clone());
        gone.iter().for_each(|key| drop(self.remove(key, at)));
        (gone.len() as u64, next)
    }

    fn transact(&mut self, txn: &Txn) -> Outcome {
        let before = self.clone();
        let revision = Revision(self.revision);
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        self.revision += 1;
        let mut results = Vec::new();
        let mut answer = 0;
        let mut removals = DELETE_RANGE_KEYS_MAX;
        let mut passes = RANGE_PASSES_MAX;
        for operation in branch {
            let brought = |key: &Bytes, record: &Option<KeyRecord>| {
                record.as_ref().map_or(0, |record| key.len() + record.value.len() + 32)
            };
            let (result, more) = match operation {
                TxnOperation::Put { key, value, lease, want_previous } => {
                    let lives =
                        |id: &LeaseId| self.leases.get(&id.0).is_some_and(|lease| !lease.is_ending);
                    if let Some(id) = lease.filter(|id| !lives(id)) {
                        *self = before;
                        return Outcome::LeaseNotFound { revision, id };
                    }
                    let previous = self.keys.get(key).cloned().filter(|_| *want_previous);
                    let record = self.put(key, value, lease.map_or(0, |lease| lease.0));
                    let (create_revision, version) = (record.create_revision, record.version);
                    let more = brought(key, &previous);
                    (TxnResult::Put { create_revision, version, previous }, more)
                }
                TxnOperation::Delete { key, want_previous } => {
                    let removed = self.remove(key, self.revision);
                    let existed = removed.is_some();
                    let previous = removed.filter(|_| *want_previous);
                    let more = brought(key, &previous);
                    (TxnResult::Delete { existed, previous }, more)
                }
                TxnOperation::DeleteRange { start, end, limit } => {
                    let limit = (*limit).min(removals);
                    let (range, at) = ((start, end.as_ref()), self.revision);
                    let (count, next) = self.remove_range(range, limit, at, &mut passes);
                    removals -= u32::try_from(count).unwrap();
                    (TxnResult::DeleteRange { count, next }, 0)
                }
                TxnOperation::Get { key } => {
                    let record = self.keys.get(key).cloned();
                    let more = brought(key, &record);
                    (TxnResult::Get { record }, more)
                }
                TxnOperation::Range { start, end, limit, keys_only } => {
                    let (mut entries, mut next) = (Vec::new(), None);
                    let range = (start, end.as_ref());
                    let stop = self.stop(range, passes);
                    for (key, record) in self.inside(start, end.as_ref()) {
                        if stop.as_ref().is_some_and(|stop| key > stop) {
                            break;
                        }
                        let mut record = record.clone();
                        if *keys_only {
                            record.value = Bytes::new();
                        }
                        let bytes = key.len() + record.value.len() + 32;
                        let is_full = answer > 0 && answer + bytes > TXN_ANSWER_BYTES_MAX;
                        if entries.len() as u64 == u64::from(*limit) || is_full {
                            next = Some(key.clone());
                            break;
                        }
                        answer += bytes;
                        entries.push(Entry { key: key.clone(), record });
                    }
                    passes -= self.passed(range, next.as_ref().or(stop.as_ref())).min(passes);
                    (TxnResult::Range { entries, next: next.or(stop) }, 0)
                }
            };
            if more > 0 && answer > 0 && answer + more > TXN_ANSWER_BYTES_MAX {
                *self = before;
                return Outcome::TxnTooLarge { revision };
            }
            answer += more;
            results.push(result);
        }
        if self.keys == before.keys {
            self.revision = before.revision;
        }
        Outcome::Txn { revision: Revision(self.revision), succeeded, results }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let record = self.keys.get(&compare.key);
        let number = |of: fn(&KeyRecord) -> u64| record.map_or(0, of);
        let ordering = match &compare.target {
            Target::Value(value) => match record {
                Some(record) => record.value.cmp(value),
                None => return false,
            },
            Target::Version(version) => number(|record| record.version).cmp(version),
            Target::Create(revision) => number(|record| record.create_revision.0).cmp(&revision.0),
            Target::Mod(revision) => number(|record| record.mod_revision.0).cmp(&revision.0),
            Target::Lease(lease) => number(|record| record.lease).cmp(lease),
        };
        match compare.relation {
            Relation::Equal => ordering.is_eq(),
            Relation::NotEqual => ordering.is_ne(),
            Relation::Less => ordering.is_lt(),
            Relation::Greater => ordering.is_gt(),
        }
    }

    fn lease(&mut self, operation: &LeaseOperation) -> Outcome {
        let revision = Revision(self.revision);
        match operation {
            LeaseOperation::Grant { id, ttl_ms } => {
                if self.leases.len() as u64 == LEASES_MAX {
                    return Outcome::LeasesFull { revision };
                }
                let id = match id {
                    Some(id) => id.0,
                    None => {
                        let first = LeaseId::AUTOMATIC_FIRST.0.max(self.last_lease + 1);
                        let free = (first..).find(|id| !self.leases.contains_key(id));
                        self.last_lease = free.unwrap();
                        self.last_lease
                    }
                };
                if self.leases.contains_key(&id) {
                    return Outcome::LeaseExists { revision, id: LeaseId(id) };
                }
                let (ttl_ms, granted_ms) = (*ttl_ms, self.now_ms);
                let lease = Lease { ttl_ms, granted_ms, renewals: self.slot, is_ending: false };
                self.leases.insert(id, lease);
                Outcome::LeaseGranted { revision, id: LeaseId(id), ttl_ms }
            }
            LeaseOperation::Revoke { id } => self.end_lease(*id),
            LeaseOperation::KeepAlive { ids } => {
                let mut ttls_ms = Vec::new();
                for id in ids {
                    let lease = self.leases.get_mut(&id.0).filter(|lease| !lease.is_ending);
                    ttls_ms.push(lease.map(|lease| {
                        lease.renewals = self.slot;
                        lease.ttl_ms
                    }));
                }
                Outcome::LeasesKept { revision, ttls_ms }
            }
            LeaseOperation::BeginEpoch => {
                self.lease_epoch += 1;
                Outcome::LeaseEpochBegun { revision, epoch: LeaseEpoch(self.lease_epoch) }
            }
            LeaseOperation::Expire { id, epoch, renewals } => match self.leases.get(&id.0) {
                Some(lease)
                    if !lease.is_ending
                        && (lease.renewals != *renewals || epoch.0 != self.lease_epoch) =>
                {
                    Outcome::LeaseExpiryOld { revision, id: *id }
                }
                _ => self.end_lease(*id),
            },
        }
    }

    fn end_lease(&mut self, id: LeaseId) -> Outcome {
        if !self.leases.contains_key(&id.0) {
            return Outcome::LeaseNotFound { revision: Revision(self.revision), id };
        }
        let keys = self.keys_of(id.0);
        let gone = keys.iter().take(DELETE_RANGE_KEYS_MAX as usize);
        let at = self.revision + 1;
        let count = gone.map(|key| drop(self.remove(key, at))).count();
        self.revision += u64::from(count > 0);
        let more = keys.len() > count;
        if more {
            self.leases.get_mut(&id.0).unwrap().is_ending = true;
        } else {
            self.leases.remove(&id.0);
        }
        Outcome::LeaseEnded { revision: Revision(self.revision), id, count: count as u64, more }
    }

    /// The keys that live under a lease.
    pub(crate) fn keys_of(&self, id: u64) -> Vec<Bytes> {
        let keys = self.keys.iter().filter(|(_, record)| record.lease == id);
        keys.map(|(key, _)| key.clone()).collect()
    }

    fn refusal(&self, condition: Condition, record: Option<&KeyRecord>) -> Option<Outcome> {
        let current = record.map(|record| record.mod_revision);
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => current.is_none(),
            Condition::Exists => current.is_some(),
            Condition::At(revision) => current == Some(revision),
        };
        let revision = Revision(self.revision);
        (!holds).then_some(Outcome::ConditionFailed { revision, current })
    }

    pub(crate) fn inside<'a>(
        &'a self,
        start: &'a Bytes,
        end: Option<&'a Bytes>,
    ) -> impl DoubleEndedIterator<Item = (&'a Bytes, &'a KeyRecord)> {
        self.keys.iter().filter(move |(key, _)| *key >= start && end.is_none_or(|end| *key < end))
    }
}
