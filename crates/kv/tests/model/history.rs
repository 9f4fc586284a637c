//! What is read of older revisions, of changes and of leases, before and after the map is
//! compacted, against the model's plain lists.

use bytes::Bytes;
use proptest::prelude::*;
use synod_kv::read::{Change, ChangePage, ChangePoint, ChangeQuery, ReadError};
use synod_kv::{
    Counter, Entry, LeaseId, ListQuery, MemoryMap, Revision, ServerId, StateMachine, lease, read,
};

use crate::inputs::{Slot, key, slots};
use crate::naive::Model;
use crate::{options, swept};

/// What the slots lead to: the model, and a map that was compacted now and then.
fn run(slots: &[Slot]) -> (Model, StateMachine<MemoryMap>) {
    let mut model = Model::default();
    let mut machine = StateMachine::open(MemoryMap::new(), options(1000)).unwrap();
    let mut sequence = 0;
    for (number, slot) in (1..).zip(slots) {
        model.begin_slot(slot.passed_ms);
        let mut commands = Vec::new();
        for (_, command) in &slot.commands {
            sequence += 1;
            let id = ServerId { origin: 1, incarnation: 1, sequence };
            model.take(id, command);
            commands.push((id, command.clone()));
        }
        machine.apply(number, model.now_ms, &commands).unwrap();
        if slot.commit || slot.sweep {
            machine.commit().unwrap();
        }
        if slot.sweep {
            let map = swept(machine.map(), slot.reopen);
            machine = StateMachine::open(map, options(1000)).unwrap();
        }
    }
    machine.commit().unwrap();
    (model, machine)
}

fn all() -> ListQuery {
    ListQuery { limit: usize::MAX, ..ListQuery::prefix(b"") }
}

fn entries<'a>(keys: impl Iterator<Item = (&'a Bytes, &'a synod_kv::KeyRecord)>) -> Vec<Entry> {
    keys.map(|(key, record)| Entry { key: key.clone(), record: record.clone() }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_revision_stays_as_it_was_until_it_is_compacted(
        slots in slots(),
        start in key(),
        end in prop::option::of(key()),
        limit in 1usize..4,
        visits_max in prop::sample::select(vec![1, 2, 5, 1000]),
    ) {
        let (model, machine) = run(&slots);
        let map = machine.map();
        for map in [map, &swept(map, false), &swept(map, true)] {
            prop_assert_eq!(read::oldest(map).unwrap(), Revision(model.compacted));
            for revision in model.compacted..=model.revision {
                let at = Revision(revision);
                let mut expected = entries(model.at(revision).iter());
                let page = read::list_at(map, &all(), Some(at)).unwrap();
                prop_assert_eq!(page.revision, at);
                prop_assert_eq!(&page.entries, &expected, "at {}", at);
                for key in model.history.iter().flat_map(|keys| keys.keys()) {
                    let look = read::look_at(map, key, at).unwrap();
                    prop_assert_eq!(look.revision, at);
                    prop_assert_eq!(look.record.as_ref(), model.at(revision).get(key));
                }
                for reverse in [false, true] {
                    let mut query = ListQuery {
                        reverse, limit, visits_max,
                        ..ListQuery::range(start.clone(), end.clone())
                    };
                    let in_range =
                        |key: &Bytes| *key >= start && end.as_ref().is_none_or(|end| key < end);
                    expected.retain(|entry| in_range(&entry.key));
                    let mut counter = Counter::new_at(map, &query, Some(at)).unwrap();
                    while !counter.go_on(visits_max).unwrap() {}
                    prop_assert_eq!(counter.page().count, expected.len() as u64);
                    let mut found = Vec::new();
                    loop {
                        let page = read::list_at(map, &query, Some(at)).unwrap();
                        found.extend(page.entries);
                        match page.next {
                            Some(next) if reverse => query.end = Some(next),
                            Some(next) => query.start = next,
                            None => break,
                        }
                    }
                    if reverse {
                        found.reverse();
                    }
                    prop_assert_eq!(&found, &expected, "at {}", at);
                }
            }
            let current = Revision(model.revision);
            let future = Err(ReadError::Future { current });
            let next = Revision(model.revision + 1);
            prop_assert_eq!(read::list_at(map, &all(), Some(next)), future.clone());
            prop_assert_eq!(read::look_at(map, b"a", next).map(drop), future.map(drop));
            if let Some(before) = model.compacted.checked_sub(1) {
                let before = Revision(before);
                let compacted = Err(ReadError::Compacted { oldest: Revision(model.compacted) });
                prop_assert_eq!(read::list_at(map, &all(), Some(before)), compacted.clone());
                let counted = Counter::new_at(map, &all(), Some(before)).map(drop);
                prop_assert_eq!(counted, compacted.clone().map(drop));
                prop_assert_eq!(read::look_at(map, b"a", before).map(drop), compacted.map(drop));
            }
        }
    }

    #[test]
    fn changes_are_told_once_and_in_order(
        slots in slots(),
        range in prop::option::of((key(), prop::option::of(key()))),
        bytes_max in prop::sample::select(vec![0, 3, 10, 60, 1000]),
        visits_max in prop::sample::select(vec![1, 3, 1000]),
        skipped in 0u64..9,
        fewer in 0u64..4,
        want_previous: bool,
    ) {
        let (model, machine) = run(&slots);
        let map = machine.map();
        let (start, end) = range.unwrap_or_default();
        let first = (model.compacted + 1 + skipped).min(model.revision + 1);
        let to = model.revision.saturating_sub(fewer);
        let mut expected: Vec<Change> = model.changes.clone();
        expected.retain(|change| {
            (first..=to).contains(&change.revision.0)
                && change.key >= start
                && end.as_ref().is_none_or(|end| change.key < *end)
        });
        for change in &mut expected {
            change.previous.take_if(|_| !want_previous);
        }
        for map in [map, &swept(map, false), &swept(map, true)] {
            let mut query = ChangeQuery {
                to: Some(Revision(to)), bytes_max, visits_max, want_previous,
                ..ChangeQuery::since(Revision(first))
            }.of_keys(start.clone(), end.clone());
            let mut found: Vec<Change> = Vec::new();
            while query.from.revision.0 <= to {
                let ChangePage { changes, next, revision } = read::changes(map, &query).unwrap();
                prop_assert_eq!(revision, Revision(model.revision));
                prop_assert!(next > query.from, "{:?} after {:?}", next, query);
                let alone = |revision| changes.iter().all(|change| change.revision == revision);
                // Only what is larger than a page is parted.
                prop_assert!(next.number == 0 || alone(next.revision), "{:?}", changes);
                let bytes: usize = changes
                    .iter()
                    .map(|change| {
                        let value = |record: &Option<_>| {
                            record.as_ref().map_or(0, |r: &synod_kv::KeyRecord| r.value.len())
                        };
                        change.key.len() + value(&change.record) + value(&change.previous)
                    })
                    .sum();
                prop_assert!(bytes <= bytes_max || changes.len() == 1);
                found.extend(changes);
                query.from = next;
            }
            prop_assert!(found.is_sorted_by_key(|change| change.revision));
            // Those of one revision come in the order in which they were made.
            found.sort_by(|a, b| (a.revision, &a.key).cmp(&(b.revision, &b.key)));
            prop_assert_eq!(&found, &expected);
            let since = |revision| read::changes(map, &ChangeQuery::since(Revision(revision)));
            let next = since(model.revision + 1).unwrap();
            prop_assert_eq!(next.next, ChangePoint::at(Revision(model.revision + 1)));
            prop_assert!(next.changes.is_empty());
            let future = ReadError::Future { current: Revision(model.revision) };
            prop_assert_eq!(since(model.revision + 2), Err(future));
            let oldest = Revision(model.compacted + 1);
            prop_assert_eq!(since(model.compacted), Err(ReadError::Compacted { oldest }));
        }
        let whole = swept(map, true);
        let kept = whole.iter().filter(|(place, _)| place[0] == 4).count();
        prop_assert!(kept as u64 <= model.revision - model.compacted);
    }

    #[test]
    fn leases_have_the_keys_that_live_under_them(slots in slots()) {
        let (model, machine) = run(&slots);
        let map = machine.map();
        let expected: Vec<_> =
            model.leases.iter().map(|(id, lease)| (LeaseId(*id), *lease)).collect();
        prop_assert_eq!(lease::list(map, LeaseId(0), usize::MAX).unwrap(), expected.clone());
        let attached = map.iter().filter(|(place, _)| place[0] == 6).count();
        let living = model.keys.values().filter(|record| record.lease != 0).count();
        prop_assert_eq!(attached, living);
        for (id, known) in expected {
            prop_assert_eq!(lease::find(map, id).unwrap(), Some(known));
            let keys = model.keys_of(id.0);
            prop_assert_eq!(lease::keys(map, id, b"", usize::MAX).unwrap(), keys.clone());
            for (at, key) in keys.iter().enumerate() {
                let page = lease::keys(map, id, key, 2).unwrap();
                prop_assert_eq!(&page[..], &keys[at..keys.len().min(at + 2)]);
            }
        }
        prop_assert_eq!(lease::find(map, LeaseId(99)).unwrap(), None);
    }
}
