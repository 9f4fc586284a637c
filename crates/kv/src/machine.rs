//! The state machine.

use bytes::Bytes;

use crate::stage::Stage;
use crate::{
    Command, KvOptions, MapError, OrderedMap, Revision, ServerId, State, Taken, read::Finder,
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
        let stage = Stage::new(State::load(&map)?, options);
        Ok(StateMachine { map, stage, compared: (0, 0) })
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
        self.stage.begin_slot(&self.map, slot, cluster_time_ms)?;
        let taken = commands.iter().map(|(id, command)| self.stage.take(&mut finder, *id, command));
        let taken = taken.collect::<Result<_, _>>()?;
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
        self.stage.begin_slot(&self.map, slot, 0)?;
        self.stage.set_configurations(configurations);
        if slot.is_multiple_of(COMPARE_SLOTS) {
            self.compared = (slot, self.state_hash());
        }
        Ok(())
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

    /// The highest stamp applied, in milliseconds.
    #[must_use]
    pub fn cluster_time_ms(&self) -> u64 {
        self.stage.state.cluster_time_ms
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
    use crate::MemoryMap;

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
