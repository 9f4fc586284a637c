//! What `synod recover` makes of one node has what it promises, and nothing else.
//!
//! Which slots are to be kept is worked out without asking the product, from the acceptances that
//! the oracle of [`super::agreement`] saw become durable: the slots that the node knows as chosen, and
//! then each in which it accepted something, up to the first in which it did not. What was applied by then
//! is below, so whatever this node told a client is kept, and so is each acknowledged write whose
//! acceptance here stands behind no hole. The store is compared, entry by entry, with one that
//! carries out the same log from its first slot on: with it come the answers under idempotency
//! keys, the leases and the history of the keys.

use std::collections::BTreeMap;

use synod_kv::MemoryMap;
use synod_paxos::{Ballot, NodeId, Slot, Standing, Value};

use crate::checkers::agreement::Agreement;
use crate::checkers::{Check, Checker, Violation, demand};

/// What was made of what a node has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The node.
    pub node: NodeId,
    /// It had applied so far, if it ran.
    pub applied_upto: Slot,
    /// What is said: every slot up to here is known as chosen,
    pub chosen_upto: Slot,
    /// every slot up to here is there,
    pub upto: Slot,
    /// this one is missing first,
    pub first_missing: Slot,
    /// and these are dropped.
    pub dropped: Vec<Slot>,
    /// The values that were applied to the state that was found.
    pub values: BTreeMap<Slot, Value>,
}

/// What a node holds of the slots that it does not know as chosen, by the slot.
pub type Own = BTreeMap<Slot, (Standing, Value)>;

/// What a node holds of slots above this one: what it accepted in the highest ballot, or in
/// `unheard` by a record that nobody was told of, or was told to be chosen.
#[must_use]
pub fn own(
    agreement: &Agreement,
    node: NodeId,
    above: Slot,
    unheard: &[(Slot, Ballot, Value)],
    learnt: Own,
) -> Own {
    let mut own = learnt;
    let mut take = |slot: Slot, ballot: Ballot, value: &Value| {
        let standing = Standing::Accepted(ballot);
        if slot > above && own.get(&slot).is_none_or(|(known, _)| *known < standing) {
            own.insert(slot, (standing, value.clone()));
        }
    };
    for slot in (above.0 + 1..=agreement.last().0).map(Slot) {
        if let Some((ballot, value)) = agreement.accepted_by(node, slot) {
            take(slot, ballot, value);
        }
    }
    unheard.iter().for_each(|(slot, ballot, value)| take(*slot, *ballot, value));
    own
}

/// Checks which slots are there, and with which values.
///
/// # Errors
/// When one is missing that is to be kept, or is there and should not be, or has another value.
pub fn check(recovered: &Recovered, agreement: &Agreement, own: &Own) -> Check {
    let Recovered { node, applied_upto, chosen_upto, upto, first_missing, dropped, values } =
        recovered;
    let is = |holds: bool, text: &dyn Fn() -> String| {
        demand(holds, Checker::Recovered, || format!("of what {node} has {}", text()))
    };
    let mut expected = *chosen_upto;
    while own.contains_key(&expected.next()) {
        expected = expected.next();
    }
    is(*upto == expected, &|| format!("slots are kept up to {upto}, not {expected}"))?;
    is(*first_missing == expected.next(), &|| {
        format!("{first_missing} is said to be missing first, and {expected} is the last one")
    })?;
    is(applied_upto <= upto, &|| {
        format!("slots are kept up to {upto}, and it had applied {applied_upto}")
    })?;
    let behind: Vec<Slot> = own.range(expected.next()..).map(|(slot, _)| *slot).collect();
    is(*dropped == behind, &|| format!("{dropped:?} are said to be dropped, not {behind:?}"))?;
    let unchosen = (1..=chosen_upto.0).map(Slot).find(|slot| agreement.chosen(*slot).is_none());
    is(unchosen.is_none(), &|| format!("{unchosen:?} is said to be chosen, and is not"))?;
    for (slot, value) in values {
        let known = agreement.chosen(*slot).filter(|_| slot <= chosen_upto);
        let known = known.or_else(|| own.get(slot).map(|(_, value)| value));
        is(known == Some(value), &|| format!("slot {slot} is kept with another value"))?;
        let Some((standing, _)) = own.get(slot) else { continue };
        let binds = agreement.chosen_in(*slot).is_some_and(|chosen_in| match standing {
            Standing::Chosen => true,
            Standing::Accepted(ballot) => *ballot >= chosen_in,
        });
        is(!binds || agreement.chosen(*slot) == Some(value), &|| {
            format!("slot {slot} is not what was chosen, which it had accepted")
        })?;
    }
    Ok(())
}

/// Compares the state with that of the same log, carried out from its first slot on.
///
/// # Errors
/// When an entry differs.
pub fn check_store(node: NodeId, made: &MemoryMap, replayed: &MemoryMap) -> Check {
    let differs = |one: &MemoryMap, other: &MemoryMap| {
        let others: BTreeMap<&[u8], &[u8]> = other.iter().collect();
        one.iter().find(|(key, value)| others.get(key) != Some(value)).map(|(key, _)| key.to_vec())
    };
    if made == replayed {
        return Ok(());
    }
    let key = differs(made, replayed).or_else(|| differs(replayed, made));
    let text =
        format!("of what {node} has the entry {key:?} is not what the kept slots make of it");
    Err(Violation { checker: Checker::Recovered, text })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use synod_kv::{OrderedMap, WriteSet};
    use synod_paxos::Configuration;

    use super::*;

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: NodeId(1) }
    }

    fn value(text: &'static str) -> Value {
        Value::Batch(Bytes::from_static(text.as_bytes()))
    }

    /// Three nodes. Slots 1 and 2 are chosen, and 3, in ballot 2. Node 3 accepted something else
    /// in slot 3 before, and 4 and 6 in ballot 2.
    fn oracle() -> Agreement {
        let voters = (1..=3).map(NodeId).collect();
        let mut oracle = Agreement::new(Configuration::majority(voters, 16).expect("valid"));
        let mut accepted = |node: u32, slot: u64, round: u64, text| {
            oracle.accepted(NodeId(node), Slot(slot), ballot(round), &value(text)).expect("fine");
        };
        accepted(3, 3, 1, "lost");
        for (slot, text) in [(1, "a"), (2, "b"), (3, "c")] {
            accepted(1, slot, 2, text);
            accepted(3, slot, 2, text);
        }
        accepted(3, 4, 2, "d");
        accepted(3, 6, 2, "f");
        oracle
    }

    /// What is right of node 3, which knows that slot 1 and 2 are chosen, and whose state has slot 1.
    fn right() -> Recovered {
        let values = [(2, "b"), (3, "c"), (4, "d")];
        Recovered {
            node: NodeId(3),
            applied_upto: Slot(2),
            chosen_upto: Slot(2),
            upto: Slot(4),
            first_missing: Slot(5),
            dropped: vec![Slot(6)],
            values: values.map(|(slot, text)| (Slot(slot), value(text))).into(),
        }
    }

    fn own_of_three(oracle: &Agreement) -> Own {
        own(oracle, NodeId(3), Slot(2), &[], Own::new())
    }

    fn words(change: impl Fn(&mut Recovered)) -> String {
        let (oracle, mut recovered) = (oracle(), right());
        change(&mut recovered);
        check(&recovered, &oracle, &own_of_three(&oracle)).expect_err("it is wrong").text
    }

    #[test]
    fn what_is_known_as_chosen_and_what_was_accepted_without_a_hole_is_right() {
        let oracle = oracle();
        assert_eq!(check(&right(), &oracle, &own_of_three(&oracle)), Ok(()));
        // A record that nobody was told of closes the hole.
        let unheard = [(Slot(5), ballot(3), value("e"))];
        let closed = own(&oracle, NodeId(3), Slot(2), &unheard, Own::new());
        let mut recovered =
            Recovered { upto: Slot(6), first_missing: Slot(7), dropped: Vec::new(), ..right() };
        recovered.values.extend([(Slot(5), value("e")), (Slot(6), value("f"))]);
        assert_eq!(check(&recovered, &oracle, &closed), Ok(()));
    }

    #[test]
    fn what_is_dropped_without_need_or_kept_behind_a_hole_is_found() {
        let drops =
            words(|made| (made.upto, made.dropped) = (Slot(2), vec![Slot(3), Slot(4), Slot(6)]));
        assert!(drops.contains("up to 2, not 4"), "{drops}");
        let passes = words(|made| (made.upto, made.dropped) = (Slot(6), Vec::new()));
        assert!(passes.contains("up to 6, not 4"), "{passes}");
        assert!(words(|made| made.applied_upto = Slot(5)).contains("it had applied 5"));
        assert!(words(|made| made.first_missing = Slot(6)).contains("is said to be missing first"));
        assert!(words(|made| made.dropped.clear()).contains("said to be dropped"));
    }

    #[test]
    fn another_value_than_the_chosen_one_or_than_the_last_that_was_accepted_is_found() {
        for (slot, text) in [(2, "x"), (3, "lost"), (4, "x")] {
            let found = words(|made| drop(made.values.insert(Slot(slot), value(text))));
            assert!(found.contains(&format!("slot {slot} is kept with another value")), "{found}");
        }
        let unknown = words(|made| made.chosen_upto = Slot(4));
        assert!(unknown.contains("is said to be chosen, and is not"), "{unknown}");
        // Who takes its own acceptance for another one than it was.
        let (oracle, mut recovered) = (oracle(), right());
        let mut own = own_of_three(&oracle);
        own.insert(Slot(3), (Standing::Accepted(ballot(2)), value("x")));
        recovered.values.insert(Slot(3), value("x"));
        let found = check(&recovered, &oracle, &own).expect_err("it was chosen otherwise").text;
        assert!(found.contains("slot 3 is not what was chosen"), "{found}");
    }

    #[test]
    fn a_store_with_another_entry_is_found() {
        let map = |entries: &[(&[u8], &[u8])]| {
            let (mut map, mut batch) = (MemoryMap::new(), WriteSet::new());
            entries.iter().for_each(|(key, value)| batch.put(key, value));
            map.write(&batch).expect("memory");
            map
        };
        let right = map(&[(b"a", b"1"), (b"b", b"2")]);
        assert_eq!(check_store(NodeId(1), &right, &right.clone()), Ok(()));
        for wrong in [map(&[(b"a", b"1")]), map(&[(b"a", b"1"), (b"b", b"3")])] {
            assert!(check_store(NodeId(1), &wrong, &right).is_err());
            assert!(check_store(NodeId(1), &right, &wrong).is_err());
        }
    }
}
