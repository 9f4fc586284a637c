//! What the state machine knows beside the data.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::codec::{Reader, put_varint};
use crate::hash::RunningHash;
use crate::layout::APPLIED_KEY;
use crate::planted::{Bug, Planted};
use crate::{LeaseEpoch, LeaseId, MapError, OrderedMap, Revision, ServerId};

/// How far the state machine is. One record, written with every commit, so it
/// always fits the data beside it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct State {
    /// Every slot up to here is in the data, and none beyond.
    pub applied_slot: u64,
    /// Counts the commands that changed something.
    pub revision: Revision,
    /// The oldest revision that can be read; what was replaced up to there is dropped
    /// when the map is compacted.
    pub compacted: Revision,
    /// The highest stamp of the log, in milliseconds.
    pub cluster_time_ms: u64,
    pub(crate) hash: RunningHash,
    pub(crate) idempotency: Remembered,
    /// Who keeps the time of the leases: an expiry of an earlier one has no effect.
    pub(crate) lease_epoch: LeaseEpoch,
    /// How many leases there are.
    pub(crate) leases: u64,
    /// The last id that a lease got because it asked for none.
    pub(crate) last_lease: LeaseId,
    pub(crate) origins: BTreeMap<u32, LastTaken>,
    /// Who may decide about the next slots: bytes of the host. None as long as the
    /// members are those of the beginning.
    pub(crate) configurations: Bytes,
}

/// The last command taken from an origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LastTaken {
    pub(crate) incarnation: u64,
    pub(crate) sequence: u64,
}

/// Which idempotency keys are remembered: those numbered `first..next`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Remembered {
    pub(crate) first: u64,
    pub(crate) next: u64,
    pub(crate) bytes: u64,
    /// Attempts asked before this cluster time may have had a key that is forgotten.
    pub(crate) forgotten_ms: u64,
}

/// Whether a command is the next one of its origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sequence {
    Next,
    Duplicate,
    Gap,
}

/// Formats 1 to 4 were before the first release. Beside 1 to 3 lie no changes for watches,
/// and what they replaced is dropped, so the oldest revision could not be told. In 4 leases
/// got other ids, and the hash had not where ranges go on, so replicas of it and of this one
/// would differ.
const FORMAT: u8 = 5;

/// The most bytes that a host may keep in the state.
const CONFIGURATIONS_BYTES_MAX: u64 = 1 << 20;

/// A cluster that is made of another one's state goes on so far above its revision and its
/// last lease: more than the other one can have used after that, and so little that it can be
/// done a million times.
pub const ANOTHER_CLUSTER_STEP: u64 = 1 << 32;

/// JSON holds whole numbers below 2^53 exactly everywhere. The last step leaves one for use.
const STEPPED_MAX: u64 = (1 << 53) - ANOTHER_CLUSTER_STEP;

impl State {
    /// The state that was committed last; all zero for a new map.
    ///
    /// # Errors
    /// When the map cannot be read or its record is damaged.
    pub fn load(map: &impl OrderedMap) -> Result<Self, MapError> {
        map.get(APPLIED_KEY)?.map_or_else(|| Ok(State::default()), |record| State::decode(&record))
    }

    /// Takes the record under [`APPLIED_KEY`] apart.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn decode(record: &[u8]) -> Result<Self, MapError> {
        match record.first() {
            Some(format) if *format > FORMAT => {
                return Err(MapError(format!(
                    "the state has format {format}, of which this release knows up to {FORMAT}: a \
                     newer one wrote it, and only such a release can go on with it"
                )));
            }
            Some(format @ 1..FORMAT) => {
                return Err(MapError(format!(
                    "the state has format {format}, from before the first release: no release \
                     reads it"
                )));
            }
            _ => {}
        }
        State::parse(record).ok_or_else(|| MapError("the state record is damaged".to_owned()))
    }

    /// A hash over the effects of every slot so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash.0
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>, planted: Planted) {
        out.push(FORMAT);
        put_varint(out, self.applied_slot);
        let behind = u64::from(planted.is(Bug::RevisionBehindData));
        put_varint(out, self.revision.0.saturating_sub(behind));
        put_varint(out, self.compacted.0);
        put_varint(out, self.cluster_time_ms);
        out.extend_from_slice(&self.hash.0.to_le_bytes());
        put_varint(out, self.idempotency.first);
        put_varint(out, self.idempotency.next);
        put_varint(out, self.idempotency.bytes);
        put_varint(out, self.idempotency.forgotten_ms);
        put_varint(out, self.lease_epoch.0);
        put_varint(out, self.leases);
        put_varint(out, self.last_lease.0);
        let kept = if planted.is(Bug::SequencesForgotten) { 0 } else { self.origins.len() };
        put_varint(out, kept as u64);
        for (origin, last) in self.origins.iter().take(kept) {
            put_varint(out, u64::from(*origin));
            put_varint(out, last.incarnation);
            put_varint(out, last.sequence);
        }
        let forgets = planted.is(Bug::ConfigurationsForgotten);
        let configurations: &[u8] = if forgets { &[] } else { &self.configurations };
        put_varint(out, configurations.len() as u64);
        out.extend_from_slice(configurations);
    }

    /// The same state in a cluster of its own: its nodes count their commands from the
    /// beginning again, none of the others' are on their way, and it has members of its own.
    ///
    /// The old cluster may have gone on after this state, and clients may know revisions and
    /// leases of that. So both go on [`ANOTHER_CLUSTER_STEP`] above: what was given there is not
    /// given again, and nothing can be asked for that lies between.
    ///
    /// # Errors
    /// When the numbers would come near to what JSON holds exactly.
    pub fn for_another_cluster(&self) -> Result<State, MapError> {
        let (origins, configurations) = (BTreeMap::new(), Bytes::new());
        let mut state = State { origins, configurations, ..self.clone() };
        // The first lease that asked for no id may have come after this state.
        state.last_lease = state.last_lease.max(LeaseId::AUTOMATIC_FIRST);
        for (number, what) in
            [(&mut state.revision.0, "revision"), (&mut state.last_lease.0, "last lease")]
        {
            let further = number.checked_add(ANOTHER_CLUSTER_STEP);
            *number = further.filter(|further| *further <= STEPPED_MAX).ok_or_else(|| {
                MapError(format!(
                    "the {what} is {number}, and a new cluster would go on {ANOTHER_CLUSTER_STEP} \
                     above that, which may be {STEPPED_MAX} at the most: export the keys, and \
                     import them into a cluster made by `synod init`"
                ))
            })?;
        }
        state.compacted = state.revision;
        Ok(state)
    }

    /// What belongs under [`APPLIED_KEY`].
    #[must_use]
    pub fn record(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out, Planted::NONE);
        out
    }

    /// Judges a server id and, if it is the next one, remembers it.
    pub(crate) fn take(&mut self, id: ServerId, origins_max: usize) -> Sequence {
        let taken = LastTaken { incarnation: id.incarnation, sequence: id.sequence };
        match self.origins.get_mut(&id.origin) {
            Some(last) if last.incarnation == id.incarnation => {
                if id.sequence <= last.sequence {
                    return Sequence::Duplicate;
                }
                if id.sequence != last.sequence + 1 {
                    return Sequence::Gap;
                }
                *last = taken;
            }
            Some(last) => {
                // A later life begins with its first command; an earlier one is over.
                if id.incarnation < last.incarnation || id.sequence != 1 {
                    return Sequence::Gap;
                }
                *last = taken;
            }
            None => {
                if id.sequence != 1 || self.origins.len() >= origins_max {
                    return Sequence::Gap;
                }
                self.origins.insert(id.origin, taken);
            }
        }
        Sequence::Next
    }

    fn parse(record: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(record);
        let format = reader.byte()?;
        if format != FORMAT {
            return None;
        }
        let mut state = State {
            applied_slot: reader.varint()?,
            revision: Revision(reader.varint()?),
            compacted: Revision(reader.varint()?),
            cluster_time_ms: reader.varint()?,
            hash: RunningHash(u64::from_le_bytes(reader.array()?)),
            idempotency: Remembered {
                first: reader.varint()?,
                next: reader.varint()?,
                bytes: reader.varint()?,
                forgotten_ms: reader.varint()?,
            },
            lease_epoch: LeaseEpoch(reader.varint()?),
            leases: reader.varint()?,
            last_lease: LeaseId(reader.varint()?),
            origins: BTreeMap::new(),
            configurations: Bytes::new(),
        };
        for _ in 0..reader.varint()? {
            let origin = u32::try_from(reader.varint()?).ok()?;
            let last = LastTaken { incarnation: reader.varint()?, sequence: reader.varint()? };
            state.origins.insert(origin, last);
        }
        let length = reader.varint()?;
        let configurations = reader.rest();
        if length > CONFIGURATIONS_BYTES_MAX || configurations.len() as u64 != length {
            return None;
        }
        state.configurations = Bytes::copy_from_slice(configurations);
        (state.compacted <= state.revision).then_some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(origin: u32, incarnation: u64, sequence: u64) -> ServerId {
        ServerId { origin, incarnation, sequence }
    }

    #[test]
    fn a_command_is_taken_once_and_in_order() {
        let mut state = State::default();
        let cases = [
            (id(1, 5, 2), Sequence::Gap),
            (id(1, 5, 1), Sequence::Next),
            (id(1, 5, 1), Sequence::Duplicate),
            (id(1, 5, 3), Sequence::Gap),
            (id(1, 5, 2), Sequence::Next),
            (id(2, 1, 1), Sequence::Next),
            (id(1, 7, 2), Sequence::Gap),
            (id(1, 5, 3), Sequence::Next),
            (id(1, 7, 1), Sequence::Next),
            (id(1, 5, 4), Sequence::Gap),
            (id(1, 5, 1), Sequence::Gap),
            (id(1, 7, 1), Sequence::Duplicate),
            (id(1, 7, 0), Sequence::Duplicate),
            (id(3, 1, 1), Sequence::Gap),
        ];
        for (number, (id, expected)) in cases.into_iter().enumerate() {
            assert_eq!(state.take(id, 2), expected, "case {number}");
        }
    }

    #[test]
    fn in_another_cluster_only_the_data_go_on() {
        let mut state = State { applied_slot: 300, revision: Revision(200), ..State::default() };
        (state.compacted, state.last_lease) = (Revision(190), LeaseId((1 << 52) + 7));
        let alone = state.clone();
        state.take(id(1, 2, 1), 9);
        state.configurations = Bytes::from_static(b"who votes");
        let another = state.for_another_cluster().expect("far from the bound");
        // Whatever the old cluster gave after that is below.
        let revision = Revision(200 + (1 << 32));
        let last_lease = LeaseId((1 << 52) + 7 + (1 << 32));
        let expected = State { revision, compacted: revision, last_lease, ..alone };
        assert_eq!(another, expected);
        assert_eq!(State::decode(&another.record()), Ok(another));
    }

    #[test]
    fn another_cluster_is_refused_where_json_becomes_inexact() {
        let bound = (1 << 53) - 2 * ANOTHER_CLUSTER_STEP;
        let of = |revision, last_lease| {
            let (revision, last_lease) = (Revision(revision), LeaseId(last_lease));
            State { revision, last_lease, ..State::default() }.for_another_cluster()
        };
        assert!(of(bound, bound).is_ok());
        for (revision, lease) in [(bound + 1, 0), (0, bound + 1), (u64::MAX, 0)] {
            let MapError(why) = of(revision, lease).expect_err("too far");
            assert!(why.contains("export the keys"), "{why}");
        }
        let mut state = State::default();
        let steps = std::iter::from_fn(|| {
            state = state.for_another_cluster().ok()?;
            Some(())
        });
        assert!(steps.count() > 1_000_000);
    }

    #[test]
    fn every_damage_of_the_record_is_an_error_or_another_state() {
        let mut state = State { applied_slot: 300, revision: Revision(200), ..State::default() };
        state.idempotency.forgotten_ms = 600_000;
        state.compacted = Revision(190);
        (state.lease_epoch, state.last_lease) = (LeaseEpoch(7), LeaseId(1 << 30));
        state.leases = 3;
        state.take(id(1, 2, 1), 9);
        state.take(id(900, 1 << 40, 1), 9);
        state.configurations = Bytes::from_static(b"who votes");
        let mut record = Vec::new();
        state.encode(&mut record, Planted::NONE);
        assert_eq!(State::decode(&record), Ok(state.clone()));
        for cut in 0..record.len() {
            assert!(State::decode(&record[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..record.len() {
            record[at] ^= 0x80;
            assert_ne!(State::decode(&record), Ok(state.clone()));
            record[at] ^= 0x80;
        }
        record.push(0);
        assert!(State::decode(&record).is_err(), "a byte more");
        for (format, words) in [(FORMAT + 1, "a newer one wrote it"), (4, "first release")] {
            record[0] = format;
            let MapError(why) = State::decode(&record).expect_err("another format");
            assert!(why.contains(words), "{why}");
        }
    }
}
