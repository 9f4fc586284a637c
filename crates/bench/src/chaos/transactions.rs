//! Whether what was told of transactions over two keys can be true.
//!
//! A watch was told every revision in order and once, so what is in the keys at any revision is
//! known, and each transaction is held against that: it changed both keys at one revision that
//! nobody else has, or neither; before it they were as it says, and its condition held; and
//! what a look, or one whose condition did not hold, was told is how both were at one revision.
//! That revision is not below any that was acknowledged before the call: so this is one order of
//! all transactions within real time.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::contents::Contents;
use super::pairs::{InBoth, PairKey, Told, Transaction, Wish};
use super::watches::Event;

/// More than this many say nothing new.
const FINDINGS_MAX: usize = 5;

/// The transactions of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Transactions {
    /// That changed both keys.
    pub changed: u64,
    /// That saw how both were: looks, and those whose condition did not hold.
    pub seen: u64,
    /// Without effect.
    pub refused: u64,
    /// Nobody knows.
    pub unknown: u64,
}

/// What is in the keys of all pairs.
pub(super) type Store = BTreeMap<PairKey, (u64, u64)>;

/// Changes of the keys of pairs, by their revision: the number that was put, or none if it was
/// removed.
type Changes = BTreeMap<u64, BTreeMap<PairKey, Option<u64>>>;

/// Holds transactions against what a watch was told. `acknowledged` are the revisions that others
/// were told, and when.
pub(super) fn check(
    transactions: &[Transaction],
    events: &[Event],
    acknowledged: impl Iterator<Item = (u64, u64)>,
    key_of: impl Fn(&str) -> Option<PairKey>,
) -> (Transactions, Vec<String>) {
    let changes = changes_of(events, key_of);
    let mut found = Vec::new();
    let mut counts = Transactions::default();
    let mut looks: BTreeMap<u64, Vec<&Transaction>> = BTreeMap::new();
    for one in transactions {
        match one.told {
            Told::Changed(revision, _) => {
                counts.changed += 1;
                if !changes.contains_key(&revision) {
                    found.push(format!("it was acknowledged and is not told: {one:?}"));
                }
            }
            Told::Seen(revision, _) => {
                counts.seen += 1;
                looks.entry(revision).or_default().push(one);
            }
            Told::Refused => counts.refused += 1,
            Told::Unknown => counts.unknown += 1,
        }
    }
    found.extend(replay(transactions, &changes, &mut looks));
    found.extend(back_in_time(transactions, acknowledged));
    found.truncate(FINDINGS_MAX);
    (counts, found)
}

/// What must be in the keys of pairs at a revision, against what a backup of that revision has.
pub(super) fn check_backup(
    contents: &Contents,
    events: &[Event],
    key_of: impl Fn(&str) -> Option<PairKey>,
) -> Option<String> {
    let mut store = Store::new();
    for (revision, change) in changes_of(events, key_of).range(..=contents.revision) {
        carry_out(&mut store, *revision, change);
    }
    (contents.pairs != store).then(|| {
        let Contents { giver, revision, pairs, .. } = contents;
        format!(
            "the backup of node {giver}, revision {revision}, has the pairs {pairs:?}, and the \
             store had {store:?}"
        )
    })
}

/// What was recovered of one node, against the same. Up to the revision `bound` it has what all
/// chose; what came later to a pair there is the whole of what somebody asked for, and may have come to something else where the
/// others went on.
pub(super) fn check_recovered(
    contents: &Contents,
    bound: u64,
    transactions: &[Transaction],
    events: &[Event],
    key_of: impl Fn(&str) -> Option<PairKey>,
) -> Option<String> {
    let mut store = Store::new();
    for (revision, change) in changes_of(events, key_of).range(..=bound) {
        carry_out(&mut store, *revision, change);
    }
    let keys = store.keys().chain(contents.pairs.keys());
    let pairs: BTreeSet<u64> = keys.map(|key| key.pair).collect();
    pairs.into_iter().find_map(|pair| {
        let (had, has) = (both(&store, pair), both(&contents.pairs, pair));
        let is_later = || {
            let (number, revision) = has[0].filter(|(_, revision)| *revision > bound)?;
            let maker = transactions.iter().find(|one| one.number == number && one.pair == pair)?;
            let Wish::Change { removes, .. } = maker.wish else { return None };
            let may_be = match maker.told {
                Told::Changed(at, _) => at > bound,
                Told::Unknown => true,
                // Had it been refused by then it would not have come to anything later.
                Told::Seen(..) | Told::Refused => maker.returned_us >= contents.certain_us,
            };
            let second = (!removes).then_some((number, revision));
            (may_be && maker.called_us <= contents.asked_us && has[1] == second).then_some(())
        };
        let is_right = has == had || is_later().is_some();
        (!is_right).then(|| {
            let Contents { giver, revision, .. } = contents;
            format!(
                "what was recovered of node {giver}, revision {revision}, has {has:?} in pair \
                 {pair}, which was {had:?} at revision {bound}"
            )
        })
    })
}

fn changes_of(events: &[Event], key_of: impl Fn(&str) -> Option<PairKey>) -> Changes {
    let mut changes = Changes::new();
    for event in events {
        if let Some(key) = key_of(&event.key) {
            changes.entry(event.revision).or_default().insert(key, event.put);
        }
    }
    changes
}

fn carry_out(store: &mut Store, revision: u64, change: &BTreeMap<PairKey, Option<u64>>) {
    for (key, put) in change {
        match put {
            Some(number) => drop(store.insert(*key, (*number, revision))),
            None => drop(store.remove(key)),
        }
    }
}

fn both(store: &Store, pair: u64) -> InBoth {
    [false, true].map(|is_second| store.get(&PairKey { pair, is_second }).copied())
}

/// Carries out one change after the other.
fn replay(
    transactions: &[Transaction],
    changes: &Changes,
    looks: &mut BTreeMap<u64, Vec<&Transaction>>,
) -> Vec<String> {
    let by_number: BTreeMap<u64, &Transaction> =
        transactions.iter().map(|one| (one.number, one)).collect();
    let (mut store, mut done, mut found) = (Store::new(), BTreeSet::new(), Vec::new());
    for (revision, change) in changes {
        let later = looks.split_off(revision);
        found.extend(strange_looks(looks, &store));
        *looks = later;
        let number = change.values().flatten().next();
        let maker = number.and_then(|number| by_number.get(number));
        let is_new = number.is_some_and(|number| done.insert(*number));
        match maker.filter(|_| is_new) {
            Some(one) => found.extend(misfit(one, *revision, change, &store)),
            None => found.push(format!("nobody asked for {change:?} at revision {revision}")),
        }
        carry_out(&mut store, *revision, change);
    }
    found.extend(strange_looks(looks, &store));
    found
}

/// Whether a change is all that its transaction asked for, and nothing else.
fn misfit(
    one: &Transaction,
    revision: u64,
    change: &BTreeMap<PairKey, Option<u64>>,
    store: &Store,
) -> Option<String> {
    let before = both(store, one.pair);
    let Wish::Change { must, removes } = one.wish else {
        return Some(format!("a look changed something: {one:?}"));
    };
    let [first, second] = [false, true].map(|is_second| PairKey { pair: one.pair, is_second });
    let mut expected = BTreeMap::from([(first, Some(one.number))]);
    match removes {
        false => drop(expected.insert(second, Some(one.number))),
        true if before[1].is_some() => drop(expected.insert(second, None)),
        true => {}
    }
    let is_as_told = match one.told {
        Told::Changed(at, was) => at == revision && was == before,
        Told::Unknown => true,
        Told::Seen(..) | Told::Refused => false,
    };
    let fits = is_as_told && must.holds(before[0]) && *change == expected;
    (!fits).then(|| {
        format!("{one:?} made {change:?} at revision {revision}, and before it was {before:?}")
    })
}

/// What was told of revisions at which the store was so.
fn strange_looks(looks: &BTreeMap<u64, Vec<&Transaction>>, store: &Store) -> Vec<String> {
    let is_strange = |one: &&&Transaction| {
        let is = both(store, one.pair);
        let did_hold = matches!(one.wish, Wish::Change { must, .. } if must.holds(is[0]));
        let was_told = matches!(one.told, Told::Seen(_, seen) if seen == is);
        did_hold || !was_told
    };
    let strange = looks.values().flatten().filter(is_strange);
    strange.map(|one| format!("it was {:?}, but {one:?}", both(store, one.pair))).collect()
}

/// Whether somebody was told an older revision than was acknowledged before its call.
fn back_in_time(
    transactions: &[Transaction],
    acknowledged: impl Iterator<Item = (u64, u64)>,
) -> Vec<String> {
    let told = transactions.iter().filter_map(|one| match one.told {
        Told::Changed(revision, _) | Told::Seen(revision, _) => Some((one, revision)),
        Told::Refused | Told::Unknown => None,
    });
    let mut known: Vec<(u64, u64)> = acknowledged.collect();
    known.extend(told.clone().map(|(one, revision)| (one.returned_us, revision)));
    known.sort_unstable();
    let mut newest = 0;
    for (_, revision) in &mut known {
        newest = newest.max(*revision);
        *revision = newest;
    }
    let is_back = |(one, revision): &(&Transaction, u64)| {
        let before = known.partition_point(|(returned_us, _)| *returned_us < one.called_us);
        let newest = before.checked_sub(1).map_or(0, |at| known[at].1);
        let least = newest + u64::from(matches!(one.told, Told::Changed(..)));
        *revision < least
    };
    let back = told.filter(is_back);
    back.map(|(one, _)| format!("a later revision was acknowledged before {one:?}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;
    use crate::chaos::pairs::Must;

    fn transaction(number: u64, wish: Wish, told: Told) -> Transaction {
        let (called_us, returned_us) = (number * 10, number * 10 + 5);
        Transaction { number, pair: 0, wish, called_us, returned_us, told }
    }

    fn change(must: Must, removes: bool) -> Wish {
        Wish::Change { must, removes }
    }

    fn key_of(name: &str) -> Option<PairKey> {
        ["a", "b"].contains(&name).then(|| PairKey { pair: 0, is_second: name == "b" })
    }

    /// Both keys are put, one is put and the other removed, and then nobody knows; with a look and
    /// one that came too late.
    fn good() -> (Vec<Transaction>, Vec<Event>) {
        let at_2 = [Some((1, 2)), Some((1, 2))];
        let at_5 = [Some((4, 5)), None];
        let transactions = vec![
            transaction(1, change(Must::NotBe, false), Told::Changed(2, [None, None])),
            transaction(2, Wish::Look, Told::Seen(3, at_2)),
            transaction(3, change(Must::NotBe, false), Told::Seen(4, at_2)),
            transaction(4, change(Must::BeOf(2), true), Told::Changed(5, at_2)),
            transaction(5, change(Must::BeAnything, true), Told::Unknown),
            transaction(6, Wish::Look, Told::Seen(5, at_5)),
            transaction(7, change(Must::BeAnything, false), Told::Refused),
        ];
        let event = |revision, key: &str, put| Event { revision, key: key.to_owned(), put };
        let events = vec![
            event(1, "other", Some(9)),
            event(2, "a", Some(1)),
            event(2, "b", Some(1)),
            event(5, "a", Some(4)),
            event(5, "b", None),
            event(6, "a", Some(5)),
        ];
        (transactions, events)
    }

    fn findings(transactions: &[Transaction], events: &[Event]) -> usize {
        check(transactions, events, [(1, 1)].into_iter(), key_of).1.len()
    }

    #[test]
    fn whole_transactions_in_one_order_are_right() {
        let (transactions, events) = good();
        let (counts, found) = check(&transactions, &events, std::iter::empty(), key_of);
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(counts, Transactions { changed: 2, seen: 3, refused: 1, unknown: 1 });
        assert_eq!(findings(&transactions, &events[..5]), 0, "it may have had no effect");
    }

    #[test]
    fn half_a_transaction_is_found() {
        let (transactions, events) = good();
        for at in 1..5 {
            let mut half = events.clone();
            half.remove(at);
            assert!(findings(&transactions, &half) > 0, "without {at}");
            let mut late = events.clone();
            late[at].revision += 1;
            assert!(findings(&transactions, &late) > 0, "{at} came later");
        }
    }

    #[test]
    fn what_was_told_must_have_been_so() {
        let (transactions, events) = good();
        for (at, told) in [
            (0, Told::Changed(2, [None, Some((1, 2))])),
            (0, Told::Refused),
            (1, Told::Seen(3, [Some((1, 2)), None])),
            (1, Told::Seen(1, [None, None])),
            (2, Told::Seen(4, [None, None])),
            (3, Told::Changed(6, [Some((1, 2)), Some((1, 2))])),
            (5, Told::Seen(4, [Some((1, 2)), Some((1, 2))])),
            (6, Told::Changed(7, [Some((5, 6)), None])),
        ] {
            let mut strange = transactions.clone();
            strange[at].told = told;
            assert!(findings(&strange, &events) > 0, "{at}: {told:?}");
        }
        let mut other = transactions.clone();
        other[3].wish = change(Must::BeOf(1), true);
        assert!(findings(&other, &events) > 0, "the condition did not hold");
        other = transactions;
        other[2].wish = change(Must::BeOf(2), true);
        assert!(findings(&other, &events) > 0, "the condition held");
    }

    #[test]
    fn one_that_was_sent_again_has_effect_once() {
        let (transactions, mut events) = good();
        let event = |revision, key: &str, put| Event { revision, key: key.to_owned(), put };
        events.extend([event(7, "a", Some(8)), event(7, "b", Some(8)), event(8, "a", Some(5))]);
        let mut other = transactions.clone();
        other.push(transaction(8, change(Must::BeAnything, false), Told::Unknown));
        assert_eq!(findings(&other, &events[..8]), 0);
        events.push(event(8, "b", None));
        assert_eq!(
            findings(&other, &events),
            1,
            "number 5 nobody was told of, and it is there twice"
        );
    }

    #[test]
    fn what_others_were_told_before_counts() {
        let (transactions, events) = good();
        let known = [(transactions[1].called_us - 1, 4)].into_iter();
        assert_eq!(check(&transactions, &events, known, key_of).1.len(), 1);
    }

    #[test]
    fn a_backup_has_the_pairs_of_its_revision() {
        let (_, events) = good();
        let key = |is_second| PairKey { pair: 0, is_second };
        let mut contents = Contents {
            giver: NodeId(1),
            asked_us: 0,
            made_us: 1,
            certain_us: 0,
            revision: 4,
            keys: BTreeMap::new(),
            pairs: [(key(false), (1, 2)), (key(true), (1, 2))].into(),
        };
        assert_eq!(check_backup(&contents, &events, key_of), None);
        contents.revision = 5;
        assert!(check_backup(&contents, &events, key_of).is_some());
        contents.pairs = [(key(false), (4, 5))].into();
        assert_eq!(check_backup(&contents, &events, key_of), None);
    }

    /// Node 1 had applied up to revision 2, and died when all seven were called.
    #[test]
    fn a_survivor_has_whole_changes_behind_what_all_chose() {
        let (transactions, events) = good();
        let died_us = transactions[6].called_us;
        let found = |bound, certain_us, [first, second]: InBoth| {
            let key = |is_second| PairKey { pair: 0, is_second };
            let held = [(false, first), (true, second)];
            let held =
                held.into_iter().filter_map(|(is_second, held)| Some((key(is_second), held?)));
            let contents = Contents {
                giver: NodeId(1),
                asked_us: died_us,
                made_us: died_us,
                certain_us,
                revision: 9,
                keys: BTreeMap::new(),
                pairs: held.collect(),
            };
            check_recovered(&contents, bound, &transactions, &events, key_of).is_some()
        };
        let (is_right, is_wrong) = (false, true);
        let at_2 = [Some((1, 2)), Some((1, 2))];
        assert_eq!(found(2, 0, at_2), is_right);
        // What others acknowledged is lost, or is there, at another revision perhaps.
        assert_eq!(found(2, 0, [Some((4, 5)), None]), is_right);
        assert_eq!(found(2, 0, [Some((4, 3)), None]), is_right);
        // Half of it, and what all chose in part or not at all.
        assert_eq!(found(2, 0, [Some((4, 5)), Some((1, 2))]), is_wrong);
        assert_eq!(found(2, 0, [Some((1, 2)), None]), is_wrong);
        assert_eq!(found(2, 0, [None, None]), is_wrong);
        assert_eq!(found(5, 0, at_2), is_wrong);
        // One that came too late there, but not if it had applied that; and none of nobody's.
        assert_eq!(found(2, 0, [Some((3, 4)), Some((3, 4))]), is_right);
        assert_eq!(found(2, u64::MAX, [Some((3, 4)), Some((3, 4))]), is_wrong);
        assert_eq!(found(2, 0, [Some((2, 4)), Some((2, 4))]), is_wrong);
        assert_eq!(found(2, 0, [Some((77, 4)), Some((77, 4))]), is_wrong);
        // It had effect before.
        assert_eq!(found(2, 0, [Some((1, 3)), Some((1, 3))]), is_wrong);
    }
}
