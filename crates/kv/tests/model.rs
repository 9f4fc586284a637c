//! The state machine against a model that keeps everything in plain lists, never
//! commits and caches nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use synod_kv::layout::Sweep;
use synod_kv::{
    Command, Condition, Counter, Expiry, IdempotencyKey, KeyRecord, KvOptions, ListQuery,
    MemoryMap, Operation, Outcome, Page, Revision, ServerId, StateMachine, Taken, read,
};

const IDEMPOTENCY_RECORDS_MAX: usize = 3;
const IDEMPOTENCY_TTL_MS: u64 = 100;
const IDEMPOTENCY_GRACE_MS: u64 = 30;
const DELETE_RANGE_KEYS_MAX: u32 = 4;

/// What the commands should do, said as plainly as possible.
#[derive(Default)]
struct Model {
    revision: u64,
    now_ms: u64,
    keys: BTreeMap<Bytes, KeyRecord>,
    origins: BTreeMap<u32, (u64, u64)>,
    answers: Vec<Answer>,
    forgotten_ms: u64,
}

struct Answer {
    key: Bytes,
    hash: u128,
    expires_ms: u64,
    outcome: Outcome,
}

impl Model {
    fn begin_slot(&mut self, passed_ms: u64) {
        self.now_ms += passed_ms;
        let now_ms = self.now_ms;
        let over = |answer: &Answer| answer.expires_ms + IDEMPOTENCY_GRACE_MS <= now_ms;
        let gone = self.answers.iter().filter(|answer| over(answer));
        let gone = gone.map(|gone| gone.expires_ms + IDEMPOTENCY_GRACE_MS / 2);
        self.forgotten_ms = gone.fold(self.forgotten_ms, u64::max);
        self.answers.retain(|answer| !over(answer));
    }

    fn take(&mut self, id: ServerId, command: &Command) -> Taken {
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
        match operation {
            Operation::Put { key, value, condition, want_previous } => {
                let previous = self.keys.get(key).cloned();
                if let Some(refusal) = self.refusal(*condition, previous.as_ref()) {
                    return refusal;
                }
                self.revision += 1;
                let revision = Revision(self.revision);
                let record = KeyRecord {
                    value: value.clone(),
                    create_revision: previous.as_ref().map_or(revision, |old| old.create_revision),
                    mod_revision: revision,
                    version: previous.as_ref().map_or(1, |old| old.version + 1),
                    lease: 0,
                };
                self.keys.insert(key.clone(), record.clone());
                Outcome::Stored {
                    revision,
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
                self.keys.remove(key);
                let previous = previous.filter(|_| *want_previous);
                Outcome::Deleted { revision: Revision(self.revision), previous }
            }
            Operation::DeleteRange { start, end, limit } => {
                let limit = (*limit).min(DELETE_RANGE_KEYS_MAX) as usize;
                let inside = self.inside(start, end.as_ref());
                let gone: Vec<Bytes> = inside.map(|(key, _)| key.clone()).take(limit).collect();
                gone.iter().for_each(|key| drop(self.keys.remove(key)));
                self.revision += u64::from(!gone.is_empty());
                let revision = Revision(self.revision);
                let count = gone.len() as u64;
                let last = gone.last().map(|last| [last.as_ref(), &[0]].concat().into());
                let next = (gone.len() == limit).then(|| last.unwrap_or_else(|| start.clone()));
                Outcome::RangeDeleted { revision, count, next }
            }
        }
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

    fn inside<'a>(
        &'a self,
        start: &'a Bytes,
        end: Option<&'a Bytes>,
    ) -> impl DoubleEndedIterator<Item = (&'a Bytes, &'a KeyRecord)> {
        self.keys.iter().filter(move |(key, _)| *key >= start && end.is_none_or(|end| *key < end))
    }
}

/// A slot, and what the machine under test does around it.
#[derive(Clone, Debug)]
struct Slot {
    passed_ms: u64,
    commands: Vec<(u8, Command)>,
    commit: bool,
    reopen: bool,
    sweep: bool,
}

fn key() -> impl Strategy<Value = Bytes> {
    let bytes = prop::sample::select(vec![0u8, 1, b'a', 0xff]);
    prop::collection::vec(bytes, 0..3).prop_map(Bytes::from)
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        4 => Just(Condition::Always),
        1 => Just(Condition::Absent),
        1 => Just(Condition::Exists),
        2 => (0u64..40).prop_map(|revision| Condition::At(Revision(revision))),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let value = prop::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from);
    prop_oneof![
        5 => (key(), value, condition(), any::<bool>()).prop_map(
            |(key, value, condition, want_previous)| {
                Operation::Put { key, value, condition, want_previous }
            }
        ),
        3 => (key(), condition(), any::<bool>()).prop_map(|(key, condition, want_previous)| {
            Operation::Delete { key, condition, want_previous }
        }),
        1 => (key(), prop::option::of(key()), 0u32..7)
            .prop_map(|(start, end, limit)| Operation::DeleteRange { start, end, limit }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let idempotency = (0u8..6, 0u128..2, 0u64..1_000).prop_map(|(key, request_hash, asked_ms)| {
        IdempotencyKey { key: Bytes::from(vec![key]), request_hash, asked_ms }
    });
    (prop::option::weighted(0.4, idempotency), operation())
        .prop_map(|(idempotency, operation)| Command { idempotency, operation })
}

fn slots() -> impl Strategy<Value = Vec<Slot>> {
    let slot = (
        0u64..60,
        prop::collection::vec((any::<u8>(), command()), 0..8),
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(passed_ms, commands, commit, reopen, sweep)| Slot {
            passed_ms,
            commands,
            commit,
            reopen,
            sweep,
        });
    prop::collection::vec(slot, 1..30)
}

/// Server ids as senders make them: mostly the next one, sometimes again, too
/// far, of a new life or of an old one.
#[derive(Default)]
struct Senders([(u64, u64); 3]);

impl Senders {
    fn id(&mut self, choice: u8) -> ServerId {
        let sender = &mut self.0[usize::from(choice % 3)];
        if choice / 3 < 4 {
            *sender = (sender.0 + 1, 0);
        }
        let (incarnation, sequence) = match choice / 3 {
            4..8 => (sender.0, sender.1),
            8..12 => (sender.0, sender.1 + 2),
            12..14 => (sender.0.saturating_sub(1), sender.1 + 1),
            14..16 => (sender.0.saturating_sub(1), 1),
            _ => {
                sender.1 += 1;
                *sender
            }
        };
        ServerId { origin: u32::from(choice % 3), incarnation, sequence }
    }
}

fn options(metadata_cache_bytes_max: usize) -> KvOptions {
    KvOptions {
        idempotency_ttl_ms: IDEMPOTENCY_TTL_MS,
        idempotency_grace_ms: IDEMPOTENCY_GRACE_MS,
        idempotency_records_max: IDEMPOTENCY_RECORDS_MAX as u64,
        delete_range_keys_max: DELETE_RANGE_KEYS_MAX,
        metadata_cache_bytes_max,
        ..KvOptions::default()
    }
}

fn swept(map: &MemoryMap, whole: bool) -> MemoryMap {
    let mut map = map.clone();
    let mut sweep = Sweep::new(whole);
    map.retain(|place, value| !sweep.drops(place, value));
    map
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn commits_caches_and_compaction_change_nothing(slots in slots(), cache in 0usize..1000) {
        let mut model = Model::default();
        let mut senders = Senders::default();
        // The first commits only at the end; the second as the slots say, and its
        // map is compacted between.
        let mut one = StateMachine::open(MemoryMap::new(), options(1 << 20)).unwrap();
        let mut two = StateMachine::open(MemoryMap::new(), options(cache)).unwrap();
        for (number, slot) in (1..).zip(&slots) {
            model.begin_slot(slot.passed_ms);
            let commands: Vec<(ServerId, Command)> = slot
                .commands
                .iter()
                .map(|(choice, command)| (senders.id(*choice), command.clone()))
                .collect();
            let expected: Vec<Taken> =
                commands.iter().map(|(id, command)| model.take(*id, command)).collect();
            let first = one.apply(number, model.now_ms, &commands).unwrap();
            prop_assert_eq!(&first, &expected);
            prop_assert_eq!(&two.apply(number, model.now_ms, &commands).unwrap(), &expected);
            prop_assert_eq!(one.state_hash(), two.state_hash());
            prop_assert_eq!(one.revision(), Revision(model.revision));
            if slot.commit || slot.reopen {
                two.commit().unwrap();
            }
            if slot.reopen {
                let map = if slot.sweep { swept(two.map(), true) } else { two.map().clone() };
                two = StateMachine::open(map, options(cache)).unwrap();
                prop_assert_eq!(two.applied_slot(), number);
                prop_assert_eq!(two.cluster_time_ms(), model.now_ms);
                for (origin, last) in &model.origins {
                    prop_assert_eq!(two.origin_sequence(*origin), Some(*last));
                }
            }
        }
        one.commit().unwrap();
        two.commit().unwrap();
        let whole = swept(two.map(), true);
        prop_assert_eq!(&swept(one.map(), true), &whole);
        for map in [one.map(), two.map(), &swept(two.map(), false), &whole] {
            prop_assert_eq!(read::applied_slot(map).unwrap(), slots.len() as u64);
            let page = read::list(map, &ListQuery::prefix(b"")).unwrap();
            let listed = page.entries.into_iter().map(|entry| (entry.key, entry.record));
            prop_assert!(listed.eq(model.keys.clone()));
            for (key, record) in &model.keys {
                let found = read::get(map, key).unwrap();
                prop_assert_eq!(found.as_ref(), Some(record));
            }
            prop_assert_eq!(read::get(map, b"absent").unwrap(), None);
        }
    }

    #[test]
    fn pages_together_are_the_range(
        slots in slots(),
        start in key(),
        end in prop::option::of(key()),
        limit in 1usize..4,
        bytes_max in 0usize..8,
        visits_max in prop::sample::select(vec![0, 1, 2, 5, 1000]),
        flags: [bool; 3],
    ) {
        let [reverse, keys_only, counts_to_the_end] = flags;
        let mut model = Model::default();
        let mut machine = StateMachine::open(MemoryMap::new(), options(0)).unwrap();
        let commands: Vec<(ServerId, Command)> = (1..)
            .zip(slots.iter().flat_map(|slot| &slot.commands))
            .map(|(sequence, (_, command))| {
                (ServerId { origin: 1, incarnation: 1, sequence }, command.clone())
            })
            .collect();
        for (id, command) in &commands {
            model.take(*id, command);
        }
        machine.apply(1, 0, &commands).unwrap();
        machine.commit().unwrap();

        let mut query = ListQuery {
            limit, reverse, keys_only, bytes_max, visits_max,
            ..ListQuery::range(start.clone(), end.clone())
        };
        let mut entries = Vec::new();
        loop {
            let page: Page = read::list(machine.map(), &query).unwrap();
            prop_assert_eq!(page.revision, Revision(model.revision));
            prop_assert!(page.entries.len() <= limit);
            let bytes: usize = page
                .entries
                .iter()
                .map(|entry| entry.key.len() + entry.record.value.len())
                .sum();
            prop_assert!(page.entries.len() <= 1 || bytes <= bytes_max);
            prop_assert_eq!(page.count, page.entries.len() as u64);
            entries.extend(page.entries);
            let Some(next) = page.next else {
                break;
            };
            let moves_on = if reverse {
                query.end.as_ref().is_none_or(|end| next < *end)
            } else {
                next > query.start || entries.is_empty() && next == query.start
            };
            prop_assert!(moves_on, "{next:?} after {query:?}");
            if reverse {
                query.end = Some(next);
            } else {
                query.start = next;
            }
        }
        let mut expected: Vec<_> = model.inside(&start, end.as_ref()).collect();
        if reverse {
            expected.reverse();
        }
        prop_assert_eq!(entries.len(), expected.len());
        let mut rest = ListQuery { reverse, ..ListQuery::range(start.clone(), end.clone()) };
        let mut count = 0;
        loop {
            let mut counter = Counter::new(machine.map(), &rest).unwrap();
            let mut is_through = counter.go_on(visits_max).unwrap();
            while counts_to_the_end && !is_through {
                is_through = counter.go_on(visits_max).unwrap();
            }
            let page = counter.page();
            prop_assert_eq!(page.next.is_none(), is_through);
            prop_assert_eq!(page.revision, Revision(model.revision));
            count += page.count;
            match page.next.clone() {
                None => break,
                next if reverse => rest.end = next,
                Some(next) => rest.start = next,
            }
        }
        prop_assert_eq!(count, expected.len() as u64);
        for (entry, (key, record)) in entries.iter().zip(expected) {
            prop_assert_eq!(&entry.key, key);
            let value = if keys_only { Bytes::new() } else { record.value.clone() };
            prop_assert_eq!(&entry.record, &KeyRecord { value, ..record.clone() });
        }
    }
}
