//! What the clients wrote and were told, and what a read may therefore find.
//!
//! Each key belongs to one client, which writes rising numbers to it, one at
//! a time. As long as every write's outcome is known, a linearizable read
//! finds the last acknowledged number or the one under way. A write with
//! unknown outcome may take effect at any later time, even after a later
//! write that was acknowledged; so its key is not written again and the client
//! goes on with a new one. Then a number below the last acknowledged is always
//! a loss, never a late echo.
//!
//! A store that counts the writes of each key must have counted exactly those
//! that were acknowledged: one less is a loss, one more was applied twice.

use std::cmp::Ordering;

use bytes::Bytes;

use super::plan::{KEY_BYTES_MIN, VALUE_BYTES_MIN};
use crate::request_error::Effect;

/// Which entry of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyId(u32);

/// What is known of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// The highest number that was acknowledged; 0 if none.
    pub(super) acknowledged: u64,
    /// The highest number that was ever sent; 0 if none.
    pub(super) sent: u64,
    /// How many writes were acknowledged.
    pub(super) writes: u64,
    /// Numbers sent since then of which was said that they have no effect.
    refused: Vec<u64>,
}

/// What a read-back says about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Consistent,
    /// An acknowledged write is gone.
    Loss,
    /// Something is there that nobody wrote, or that was said to have no effect.
    Violation,
}

/// What a read found under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Number(u64),
    /// A value that does not belong to this run and key.
    Foreign,
}

/// All keys of a run.
#[derive(Debug)]
pub(super) struct Ledger {
    run: u32,
    key_bytes: usize,
    value_bytes: usize,
    entries: Vec<Entry>,
}

impl Ledger {
    pub(super) fn new(run: u32, key_bytes: usize, value_bytes: usize) -> Self {
        assert!(key_bytes >= KEY_BYTES_MIN && value_bytes >= VALUE_BYTES_MIN);
        Self { run, key_bytes, value_bytes, entries: Vec::new() }
    }

    /// A key that nobody has written.
    pub(super) fn open(&mut self) -> KeyId {
        let id = KeyId(u32::try_from(self.entries.len()).expect("fewer keys than requests"));
        self.entries.push(Entry::default());
        id
    }

    /// How many keys there are.
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// The keys but for the first so many.
    pub(super) fn keys_from(&self, first: usize) -> impl Iterator<Item = KeyId> + use<> {
        let count = u32::try_from(self.entries.len()).expect("fewer keys than requests");
        (0..count).map(KeyId).skip(first)
    }

    pub(super) fn entry(&self, key: KeyId) -> &Entry {
        &self.entries[key.0 as usize]
    }

    /// The number of the key's next write, which counts as sent from now on.
    pub(super) fn begin(&mut self, key: KeyId) -> u64 {
        let entry = &mut self.entries[key.0 as usize];
        entry.sent += 1;
        entry.sent
    }

    pub(super) fn acknowledge(&mut self, key: KeyId, number: u64) {
        let entry = &mut self.entries[key.0 as usize];
        assert!(number > entry.acknowledged && number <= entry.sent, "one write at a time");
        entry.acknowledged = number;
        entry.writes += 1;
        entry.refused.clear();
    }

    /// The key to go on with after a write that failed.
    pub(super) fn fail(&mut self, key: KeyId, number: u64, effect: Effect) -> KeyId {
        match effect {
            Effect::Unknown => self.open(),
            Effect::NotApplied => {
                self.entries[key.0 as usize].refused.push(number);
                key
            }
        }
    }

    /// The key's name: the run and the entry in hexadecimal, filled up with dots.
    pub(super) fn name(&self, key: KeyId) -> Vec<u8> {
        let mut name = format!("{:08x}{:08x}", self.run, key.0).into_bytes();
        name.resize(self.key_bytes, b'.');
        name
    }

    /// The value of a key's write: the run, the entry and the number, filled up.
    pub(super) fn value(&self, key: KeyId, number: u64) -> Bytes {
        let mut value = Vec::with_capacity(self.value_bytes);
        value.extend_from_slice(&self.run.to_be_bytes());
        value.extend_from_slice(&key.0.to_be_bytes());
        value.extend_from_slice(&number.to_be_bytes());
        value.resize(self.value_bytes, b'.');
        value.into()
    }

    pub(super) fn parse(&self, key: KeyId, value: Option<&Bytes>) -> Found {
        let Some(value) = value else {
            return Found::Nothing;
        };
        let number = value.get(8..VALUE_BYTES_MIN).and_then(|bytes| bytes.try_into().ok());
        match number.map(u64::from_be_bytes) {
            Some(number) if *value == self.value(key, number) => Found::Number(number),
            _ => Found::Foreign,
        }
    }
}

/// Judges a linearizable read between two looks at the ledger: what was
/// acknowledged before it must be there, what was not sent by its end must not.
pub(super) fn judge(before: &Entry, found: Found, after: &Entry) -> Verdict {
    let number = match found {
        Found::Foreign => return Verdict::Violation,
        Found::Nothing => 0,
        Found::Number(number) => number,
    };
    if number < before.acknowledged {
        Verdict::Loss
    } else if number > after.sent
        || before.refused.contains(&number)
        || after.refused.contains(&number)
    {
        Verdict::Violation
    } else {
        Verdict::Consistent
    }
}

/// Judges what the answer to the last acknowledged write said of how often its
/// key was written.
pub(super) fn judge_version(entry: &Entry, version: u64) -> Verdict {
    match version.cmp(&entry.writes) {
        Ordering::Less => Verdict::Loss,
        Ordering::Equal => Verdict::Consistent,
        Ordering::Greater => Verdict::Violation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> (Ledger, KeyId) {
        let mut ledger = Ledger::new(7, 32, 64);
        let key = ledger.open();
        (ledger, key)
    }

    fn judged(ledger: &Ledger, key: KeyId, found: Found) -> Verdict {
        judge(ledger.entry(key), found, ledger.entry(key))
    }

    #[test]
    fn the_last_acknowledged_and_the_one_under_way_are_consistent_and_no_other() {
        let (mut ledger, key) = ledger();
        for number in 1..=3 {
            assert_eq!(ledger.begin(key), number);
            ledger.acknowledge(key, number);
        }
        ledger.begin(key);
        let verdicts: Vec<_> =
            (2..=5).map(|number| judged(&ledger, key, Found::Number(number))).collect();
        use Verdict::{Consistent, Loss, Violation};
        assert_eq!(verdicts, [Loss, Consistent, Consistent, Violation]);
        assert_eq!(judged(&ledger, key, Found::Nothing), Loss);
        assert_eq!(judged(&ledger, key, Found::Foreign), Violation);
    }

    #[test]
    fn a_key_that_was_never_acknowledged_may_be_absent() {
        let (mut ledger, key) = ledger();
        assert_eq!(judged(&ledger, key, Found::Nothing), Verdict::Consistent);
        ledger.begin(key);
        assert_eq!(judged(&ledger, key, Found::Nothing), Verdict::Consistent);
        assert_eq!(judged(&ledger, key, Found::Number(1)), Verdict::Consistent);
    }

    #[test]
    fn an_unknown_outcome_retires_the_key_and_both_outcomes_are_consistent() {
        let (mut ledger, key) = ledger();
        ledger.begin(key);
        ledger.acknowledge(key, 1);
        let number = ledger.begin(key);
        let next = ledger.fail(key, number, Effect::Unknown);
        assert_ne!(next, key);
        assert_eq!(judged(&ledger, key, Found::Number(1)), Verdict::Consistent);
        assert_eq!(judged(&ledger, key, Found::Number(2)), Verdict::Consistent);
        assert_eq!(judged(&ledger, key, Found::Number(3)), Verdict::Violation);
    }

    #[test]
    fn a_write_said_to_have_no_effect_must_have_none() {
        let (mut ledger, key) = ledger();
        let number = ledger.begin(key);
        assert_eq!(ledger.fail(key, number, Effect::NotApplied), key);
        assert_eq!(judged(&ledger, key, Found::Number(1)), Verdict::Violation);
        assert_eq!(judged(&ledger, key, Found::Nothing), Verdict::Consistent);
        let number = ledger.begin(key);
        ledger.acknowledge(key, number);
        assert_eq!(judged(&ledger, key, Found::Number(2)), Verdict::Consistent);
        assert_eq!(judged(&ledger, key, Found::Number(1)), Verdict::Loss);
    }

    #[test]
    fn a_refused_write_that_was_read_is_a_violation_whatever_came_after() {
        let (mut ledger, key) = ledger();
        let refused = ledger.begin(key);
        ledger.fail(key, refused, Effect::NotApplied);
        let before = ledger.entry(key).clone();
        let number = ledger.begin(key);
        ledger.acknowledge(key, number);
        let found = Found::Number(refused);
        assert_eq!(judge(&before, found, ledger.entry(key)), Verdict::Violation);
    }

    #[test]
    fn each_acknowledged_write_counts_once_and_no_other_does() {
        let (mut ledger, key) = ledger();
        let number = ledger.begin(key);
        ledger.acknowledge(key, number);
        let number = ledger.begin(key);
        ledger.fail(key, number, Effect::NotApplied);
        let number = ledger.begin(key);
        ledger.acknowledge(key, number);
        let verdicts = [1, 2, 3].map(|version| judge_version(ledger.entry(key), version));
        assert_eq!(verdicts, [Verdict::Loss, Verdict::Consistent, Verdict::Violation]);
    }

    #[test]
    fn a_read_under_load_may_find_what_was_written_while_it_ran() {
        let (mut ledger, key) = ledger();
        ledger.begin(key);
        ledger.acknowledge(key, 1);
        let before = ledger.entry(key).clone();
        ledger.begin(key);
        ledger.acknowledge(key, 2);
        let after = ledger.entry(key);
        assert_eq!(judge(&before, Found::Number(1), after), Verdict::Consistent);
        assert_eq!(judge(&before, Found::Number(2), after), Verdict::Consistent);
        assert_eq!(judge(after, Found::Number(1), after), Verdict::Loss);
    }

    #[test]
    fn values_name_their_run_key_and_number() {
        let (mut ledger, key) = ledger();
        let other = ledger.open();
        let value = ledger.value(key, 9);
        assert_eq!((value.len(), ledger.name(key).len()), (64, 32));
        assert_eq!(ledger.parse(key, Some(&value)), Found::Number(9));
        assert_eq!(ledger.parse(other, Some(&value)), Found::Foreign);
        assert_eq!(ledger.parse(key, Some(&value.slice(..15))), Found::Foreign);
        assert_eq!(Ledger::new(8, 32, 64).parse(key, Some(&value)), Found::Foreign);
        assert_eq!(ledger.parse(key, None), Found::Nothing);
        assert_ne!(ledger.name(key), ledger.name(other));
    }
}
