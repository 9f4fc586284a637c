//! The state machine against a model that keeps everything in plain lists, never
//! commits and caches nothing.

mod history;
mod inputs;
mod naive;

use bytes::Bytes;
use inputs::{Senders, key, slots};
use naive::{
    DELETE_RANGE_KEYS_MAX, IDEMPOTENCY_GRACE_MS, IDEMPOTENCY_RECORDS_MAX, IDEMPOTENCY_TTL_MS,
    LEASES_MAX, Model, RANGE_PASSES_MAX, TXN_ANSWER_BYTES_MAX,
};
use proptest::prelude::*;
use synod_kv::layout::Sweep;
use synod_kv::{
    Command, Counter, KeyRecord, KvOptions, ListQuery, MemoryMap, Page, Revision, ServerId,
    StateMachine, Taken, read,
};

fn options(metadata_cache_bytes_max: usize) -> KvOptions {
    KvOptions {
        idempotency_ttl_ms: IDEMPOTENCY_TTL_MS,
        idempotency_grace_ms: IDEMPOTENCY_GRACE_MS,
        idempotency_records_max: IDEMPOTENCY_RECORDS_MAX as u64,
        delete_range_keys_max: DELETE_RANGE_KEYS_MAX,
        range_passes_max: RANGE_PASSES_MAX,
        txn_answer_bytes_max: TXN_ANSWER_BYTES_MAX,
        leases_max: LEASES_MAX,
        metadata_cache_bytes_max,
        ..KvOptions::default()
    }
}

fn swept(map: &MemoryMap, whole: bool) -> MemoryMap {
    let mut map = map.clone();
    let mut sweep = Sweep::new(whole, read::oldest(&map).unwrap());
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
            prop_assert_eq!(one.compacted(), Revision(model.compacted));
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
        model.begin_slot(0);
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
