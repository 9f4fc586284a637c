//! Which revisions are kept.
//!
//! A compaction is a command like any other, and all that it does is to raise one number
//! of the state. What can't be read any more is dropped later, when the map below compacts
//! its files, by [`crate::layout::Sweep`].
//!
//! When to compact by age, somebody has to know which revision was current back then. So
//! the state machine remembers samples of cluster time and revision. They only advise the
//! leader's node, which proposes the command with a revision in it: replicas with other
//! settings can't come to different results.

use crate::codec::{Reader, put_varint};
use crate::stage::Stage;
use crate::{MapError, OrderedMap, Outcome, Revision, WriteSet, layout};

/// So far apart in cluster time are samples, in milliseconds.
const SAMPLE_EVERY_MS: u64 = 10_000;

/// So many samples are kept: the first, the last, and between them the further apart the
/// older they are.
const SAMPLES_MAX: usize = 64;

/// Which revision was current when.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Samples {
    /// Cluster times in milliseconds with revisions; both grow.
    points: Vec<(u64, Revision)>,
}

impl Samples {
    /// What was committed last.
    pub(crate) fn load(map: &impl OrderedMap) -> Result<Self, MapError> {
        let damaged = || MapError("the samples of revisions are damaged".to_owned());
        match map.get(layout::SAMPLES_KEY)? {
            Some(record) => Samples::parse(&record).ok_or_else(damaged),
            None => Ok(Samples::default()),
        }
    }

    /// Takes a sample if it is time for one.
    pub(crate) fn note(
        &mut self,
        batch: &mut WriteSet,
        now_ms: u64,
        revision: Revision,
        compacted: Revision,
    ) {
        let is_due = match self.points.last() {
            Some((at_ms, last)) => {
                revision > *last && now_ms.saturating_sub(*at_ms) >= SAMPLE_EVERY_MS
            }
            None => revision > compacted,
        };
        if !is_due {
            return;
        }
        self.points.retain(|(_, sampled)| *sampled > compacted);
        if self.points.len() >= SAMPLES_MAX {
            self.drop_one(now_ms);
        }
        self.points.push((now_ms, revision));
        batch.put_with(
            |out| out.extend_from_slice(layout::SAMPLES_KEY),
            |out| {
                for (at_ms, revision) in &self.points {
                    put_varint(out, *at_ms);
                    put_varint(out, revision.0);
                }
            },
        );
    }

    /// Drops the sample whose neighbours are then closest together for their age.
    fn drop_one(&mut self, now_ms: u64) {
        let gap_and_age = |at: usize| {
            let (before_ms, after_ms) = (self.points[at - 1].0, self.points[at + 1].0);
            (u128::from(after_ms - before_ms), u128::from(now_ms.saturating_sub(after_ms)))
        };
        let inner = 1..self.points.len() - 1;
        let victim = inner.min_by(|one, other| {
            let ((gap, age), (other_gap, other_age)) = (gap_and_age(*one), gap_and_age(*other));
            (gap * other_age).cmp(&(other_gap * age))
        });
        self.points.remove(victim.expect("there are many"));
    }

    /// The newest revision of which it is known that it was current at this time or before.
    fn before(&self, at_ms: u64) -> Option<Revision> {
        let known = self.points.iter().rev().find(|(sampled_ms, _)| *sampled_ms <= at_ms);
        known.map(|(_, revision)| *revision)
    }

    fn parse(record: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(record);
        let mut points = Vec::new();
        while !reader.is_empty() && points.len() < SAMPLES_MAX {
            points.push((reader.varint()?, Revision(reader.varint()?)));
        }
        reader.end()?;
        points.is_sorted().then_some(Samples { points })
    }
}

impl Stage {
    /// Forgets what was replaced up to a revision.
    pub(crate) fn compact(&mut self, upto: Revision) -> Outcome {
        let revision = self.state.revision;
        if upto > revision || upto <= self.state.compacted {
            return Outcome::CompactRefused { revision, oldest: self.state.compacted };
        }
        self.state.compacted = upto;
        Outcome::Compacted { revision, oldest: upto }
    }

    /// See [`crate::StateMachine::compaction_due`].
    pub(crate) fn compaction_due(&self) -> Option<Revision> {
        let (state, options) = (&self.state, &self.options);
        let by_age = match options.compaction_age_ms {
            0 => None,
            age_ms => {
                let before_ms = state.cluster_time_ms.checked_sub(age_ms);
                before_ms.and_then(|before_ms| self.samples.before(before_ms))
            }
        };
        let by_count = match options.compaction_revisions_max {
            0 => None,
            // A command for each revision too many would be as many commands again.
            most => {
                let slack = most / 10;
                let kept = state.revision.0 - state.compacted.0;
                (kept > most.saturating_add(slack)).then(|| Revision(state.revision.0 - most))
            }
        };
        by_age.max(by_count).filter(|due| *due > state.compacted)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Command, Condition, KvOptions, MemoryMap, Operation, ServerId, StateMachine};

    #[test]
    fn samples_are_few_and_the_newer_the_closer() {
        let mut samples = Samples::default();
        let mut batch = WriteSet::new();
        for second in 0..100_000 {
            // One revision a second, and a slot as well.
            samples.note(&mut batch, second * 1000, Revision(second + 1), Revision(0));
            assert!(samples.points.len() <= SAMPLES_MAX);
            for age_s in [10, 300, 3_600, 20_000] {
                let Some(before_s) = second.checked_sub(age_s) else { continue };
                let known = samples.before(before_s * 1000).expect("the first one stays").0 - 1;
                assert!(known <= before_s);
                let late_s = before_s - known;
                assert!(late_s <= 20 + age_s / 4, "{late_s} s too old for {age_s} s at {second}");
            }
        }
        let mut last = None;
        for write in batch.iter() {
            let crate::Write::Put { key, value } = write else { panic!("only puts") };
            assert_eq!(key, layout::SAMPLES_KEY);
            last = Some(value);
        }
        let record = last.expect("was written");
        assert_eq!(Samples::parse(record), Some(samples.clone()));
        assert_eq!(Samples::parse(&record[..record.len() - 1]), None);
        // What is compacted needs no sample.
        samples.note(&mut batch, 1 << 40, Revision(1 << 40), Revision(99_000));
        assert!(samples.points.iter().all(|(_, revision)| revision.0 > 99_000));
    }

    fn put(sequence: u64) -> (ServerId, Command) {
        let operation = Operation::Put {
            key: Bytes::from_static(b"key"),
            value: Bytes::new(),
            condition: Condition::Always,
            want_previous: false,
        };
        (ServerId { origin: 1, incarnation: 1, sequence }, Command { idempotency: None, operation })
    }

    /// A hundred slots of a revision and a second each, after which the map is opened anew.
    fn due(compaction_age_ms: u64, compaction_revisions_max: u64, compacted: u64) -> Option<u64> {
        let options =
            KvOptions { compaction_age_ms, compaction_revisions_max, ..KvOptions::default() };
        let mut machine = StateMachine::open(MemoryMap::new(), options.clone()).unwrap();
        for slot in 1..=100 {
            machine.apply(slot, slot * 1000, &[put(slot)]).unwrap();
        }
        if compacted > 0 {
            let operation = Operation::Compact { revision: Revision(compacted) };
            let command = (put(101).0, Command { idempotency: None, operation });
            machine.apply(101, 100_000, &[command]).unwrap();
        }
        machine.commit().unwrap();
        let due = machine.compaction_due();
        let again = StateMachine::open(machine.map().clone(), options).unwrap();
        assert_eq!(again.compaction_due(), due);
        due.map(|due| due.0)
    }

    #[test]
    fn a_compaction_is_due_by_age_and_by_count() {
        assert_eq!(due(0, 0, 0), None, "both are off");
        // The samples were taken before the commands of slot 2, 12, 22 and so on.
        assert_eq!(due(30_000, 0, 0), Some(61));
        assert_eq!(due(30_000, 0, 60), Some(61));
        assert_eq!(due(30_000, 0, 61), None, "was done");
        assert_eq!(due(99_000, 0, 0), None, "nothing is so old");
        assert_eq!(due(0, 20, 0), Some(80));
        assert_eq!(due(0, 100, 0), None);
        assert_eq!(due(0, 20, 78), None, "two too many are not worth a command");
        assert_eq!(due(30_000, 20, 0), Some(80));
        assert_eq!(due(30_000, 60, 0), Some(61));
    }
}
