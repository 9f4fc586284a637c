//! The state machine.

use bytes::Bytes;

use crate::planted::Bug;
use crate::stage::Stage;
use crate::{
    Changes, Command, KvOptions, Lease, LeaseCounts, LeaseId, MapError, OrderedMap, Revision,
    ServerId, Taken, walk::Finder,
};

/// Turns commands into changes of a map.
///
/// [`StateMachine::apply`] stages changes, which later commands see;
/// [`StateMachine::commit`] writes all of them at once. What a command does never
/// depends on when commits happen.
#[derive(Debug)]
pub struct StateMachine<M> {
    map: M,
    stage: Stage,
    compared: (u64, u64),
}

/// The hash of the state is compared between replicas after every slot that this divides.
const COMPARE_SLOTS: u64 = 4_096;

impl<M: OrderedMap> StateMachine<M> {
    /// Goes on where the map was committed last.
    ///
    /// # Errors
    /// When the map cannot be read or its state record is damaged.
    pub fn open(map: M, options: KvOptions) -> Result<Self, MapError> {
        let stage = Stage::load(&map, options)?;
        Ok(StateMachine { map, stage, compared: (0, 0) })
    }

    /// Whether a snapshot of this slot is ahead of what is applied. Whoever installs one
    /// asks before it touches the disk: what is applied is never taken back.
    #[must_use]
    pub fn wants(&self, slot: u64) -> bool {
        slot > self.applied_slot() || self.stage.planted().is(Bug::OlderSnapshotInstalled)
    }

    /// Takes a snapshot's map in place of its own, and with it everything that is known
    /// beside the data: slots, revision, cluster time, sequences. Gives its own map back.
    ///
    /// # Errors
    /// When the map cannot be read or its state record is damaged. Then nothing has
    /// changed here.
    ///
    /// # Panics
    /// When something is not committed, or the snapshot is not [wanted](Self::wants).
    pub fn replace(&mut self, map: M) -> Result<M, MapError> {
        let stage = Stage::load(&map, self.stage.options.clone())?;
        assert!(self.staged_bytes() == 0, "a snapshot replaces what is committed");
        assert!(self.wants(stage.state.applied_slot), "a snapshot turns the state back");
        self.stage.replace(stage);
        let applied = self.applied_slot();
        if applied.is_multiple_of(COMPARE_SLOTS) {
            self.compared = (applied, self.state_hash());
        }
        Ok(std::mem::replace(&mut self.map, map))
    }

    /// Carries out the commands of the next slot; none for a no-op. The cluster
    /// time is the stamp of the slot's value in milliseconds; one lower than an
    /// earlier stamp counts as that.
    ///
    /// # Errors
    /// When the map cannot be read. Then what was staged is unusable: the node
    /// must stop.
    ///
    /// # Panics
    /// When a slot is left out or comes twice.
    pub fn apply(
        &mut self,
        slot: u64,
        cluster_time_ms: u64,
        commands: &[(ServerId, Command)],
    ) -> Result<Vec<Taken>, MapError> {
        let mut finder = Finder::new(&self.map);
        self.stage.begin_slot(&self.map, slot, cluster_time_ms, commands.is_empty())?;
        let taken = commands.iter().map(|(id, command)| self.stage.take(&mut finder, *id, command));
        let taken = taken.collect::<Result<_, _>>()?;
        self.stage.end_slot();
        if slot.is_multiple_of(COMPARE_SLOTS) {
            self.compared = (slot, self.state_hash());
        }
        Ok(taken)
    }

    /// Carries out a slot that holds no commands but says who decides from some later
    /// slot on. The bytes are the host's, and are given back by
    /// [`StateMachine::configurations`].
    ///
    /// # Errors
    /// As of [`StateMachine::apply`].
    ///
    /// # Panics
    /// When a slot is left out or comes twice.
    pub fn apply_configurations(
        &mut self,
        slot: u64,
        configurations: Bytes,
    ) -> Result<(), MapError> {
        self.stage.begin_slot(&self.map, slot, 0, false)?;
        self.stage.set_configurations(configurations);
        if slot.is_multiple_of(COMPARE_SLOTS) {
            self.compared = (slot, self.state_hash());
        }
        Ok(())
    }

    /// A lease with everything applied, committed or not; none if there is no such lease.
    ///
    /// # Errors
    /// When the map cannot be read or the record is damaged.
    pub fn lease(&self, id: LeaseId) -> Result<Option<Lease>, MapError> {
        self.stage.leases.find(&self.map, id)
    }

    /// How many leases there are with everything applied.
    #[must_use]
    pub fn leases(&self) -> u64 {
        self.stage.state.leases
    }

    /// What became of leases since this was opened.
    #[must_use]
    pub fn lease_counts(&self) -> LeaseCounts {
        self.stage.leases.counts
    }

    /// What the last [`StateMachine::apply_configurations`] brought; empty before the
    /// first.
    #[must_use]
    pub fn configurations(&self) -> &Bytes {
        &self.stage.state.configurations
    }

    /// Writes everything staged, and how far the state machine is, at once.
    ///
    /// # Errors
    /// When the map cannot be written: the node must stop.
    pub fn commit(&mut self) -> Result<(), MapError> {
        self.stage.commit(&mut self.map)
    }

    /// What the last commit changed, if that was [noted](Self::note_changes).
    pub fn take_changes(&mut self) -> Option<Changes> {
        self.stage.noted.as_mut().map(std::mem::take)
    }

    /// Whether to note what the next commit changes.
    ///
    /// # Panics
    /// When something is not committed.
    pub fn note_changes(&mut self, wanted: bool) {
        assert!(self.staged_bytes() == 0, "changes are noted from one commit to the next");
        self.stage.noted = wanted.then(Changes::default);
    }

    /// The last slot applied, committed or not.
    #[must_use]
    pub fn applied_slot(&self) -> u64 {
        self.stage.state.applied_slot
    }

    /// The revision with everything applied.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.stage.state.revision
    }

    /// The oldest revision that can be read.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.stage.state.compacted
    }

    /// Up to which revision [`Operation::Compact`](crate::Operation::Compact) should be
    /// proposed by now; none if there is no need. It is advice by the options of this
    /// replica, so only the leader's node has to follow it.
    #[must_use]
    pub fn compaction_due(&self) -> Option<Revision> {
        self.stage.compaction_due()
    }

    /// The highest stamp applied, in milliseconds.
    #[must_use]
    pub fn cluster_time_ms(&self) -> u64 {
        self.stage.state.cluster_time_ms
    }

    /// The cluster time in milliseconds from which on a value without commands is of use:
    /// what is remembered for a while expires in the log's time, which stands still
    /// while nobody writes. None when nothing is to expire.
    #[must_use]
    pub fn tick_ms(&self) -> Option<u64> {
        self.stage.tick_ms()
    }

    /// The last command taken from a node: its incarnation and its sequence.
    #[must_use]
    pub fn origin_sequence(&self, origin: u32) -> Option<(u64, u64)> {
        self.stage.state.origins.get(&origin).map(|last| (last.incarnation, last.sequence))
    }

    /// A hash over the effects of every slot applied: equal at equal slots on
    /// replicas that agree.
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        self.stage.state.hash()
    }

    /// The last slot at which replicas compare their states since this was opened, and
    /// the hash of the state there; all zero before the first.
    #[must_use]
    pub fn compared_hash(&self) -> (u64, u64) {
        self.compared
    }

    /// Bytes that wait for the next commit.
    #[must_use]
    pub fn staged_bytes(&self) -> usize {
        self.stage.size_bytes()
    }

    /// The map, with what was committed.
    #[must_use]
    pub fn map(&self) -> &M {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Condition, MemoryMap, Operation};
    use bytes::Bytes;

    #[test]
    fn the_hash_is_kept_at_the_last_slot_where_all_compare() {
        let mut machine =
            StateMachine::open(MemoryMap::default(), KvOptions::default()).expect("memory");
        let mut expected = (0, 0);
        for slot in 1..=2 * COMPARE_SLOTS + 1 {
            assert_eq!(machine.compared_hash(), expected);
            machine.apply(slot, slot, &[]).expect("memory");
            if slot == COMPARE_SLOTS || slot == 2 * COMPARE_SLOTS {
                expected = (slot, machine.state_hash());
            }
        }
        assert_ne!(machine.state_hash(), expected.1);
    }

    fn put(sequence: u64, key: &'static [u8]) -> (ServerId, Command) {
        let id = ServerId { origin: 1, incarnation: 1, sequence };
        let operation = Operation::Put {
            key: Bytes::from_static(key),
            value: Bytes::copy_from_slice(&sequence.to_le_bytes()),
            condition: Condition::Always,
            want_previous: false,
        };
        (id, Command { idempotency: None, operation })
    }

    /// Every snapshot of a machine's six slots, taken by a machine that is any number of
    /// slots behind: from there on the two never differ again. A snapshot that is not
    /// ahead is not wanted.
    #[test]
    fn a_machine_goes_on_from_a_snapshot_as_the_one_that_it_is_of() {
        let machine = || StateMachine::open(MemoryMap::default(), KvOptions::default());
        let step = |machine: &mut StateMachine<MemoryMap>, slot: u64| {
            let key: &'static [u8] = [b"a", b"b"][usize::from(slot.is_multiple_of(2))];
            machine.apply(slot, slot * 10, &[put(slot, key)]).expect("memory");
            machine.commit().expect("memory");
        };
        for (own, of) in (0..=6).flat_map(|own| (1..=6).map(move |of| (own, of))) {
            let (mut behind, mut ahead) = (machine().expect("new"), machine().expect("new"));
            (1..=own).for_each(|slot| step(&mut behind, slot));
            (1..=of).for_each(|slot| step(&mut ahead, slot));
            assert_eq!(behind.wants(of), of > own);
            if of <= own {
                continue;
            }
            behind.replace(ahead.map().clone()).expect("memory");
            for slot in of + 1..=8 {
                assert_eq!(behind.applied_slot(), ahead.applied_slot());
                assert_eq!(behind.state_hash(), ahead.state_hash());
                assert_eq!(behind.cluster_time_ms(), ahead.cluster_time_ms());
                assert_eq!(behind.origin_sequence(1), ahead.origin_sequence(1));
                step(&mut behind, slot);
                step(&mut ahead, slot);
            }
            assert_eq!(
                (behind.revision(), behind.state_hash()),
                (ahead.revision(), ahead.state_hash())
            );
        }
    }

    #[test]
    fn who_decides_is_part_of_the_state_and_of_its_hash() {
        let open = |map| StateMachine::open(map, KvOptions::default()).expect("memory");
        let mut hashes = Vec::new();
        for record in ["", "n1", "n2"] {
            let mut machine = open(MemoryMap::default());
            machine.apply_configurations(1, Bytes::from(record)).expect("memory");
            machine.apply(2, 7, &[]).expect("memory");
            machine.commit().expect("memory");
            let again = open(machine.map().clone());
            assert_eq!((again.applied_slot(), again.configurations()), (2, &Bytes::from(record)));
            assert_eq!(again.state_hash(), machine.state_hash());
            hashes.push(machine.state_hash());
        }
        hashes.dedup();
        assert_eq!(hashes.len(), 3);
    }
}
