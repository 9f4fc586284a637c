//! The configurations as a state machine keeps them.
//!
//! The state holds them as bytes that it does not understand, written in the slot that
//! changed them, so that a node which starts, or installs another's state, knows who
//! votes in the slots that it has not applied.

use std::sync::Arc;

use synod_kv::{MapError, OrderedMap, StateMachine};
use synod_paxos::{Configuration, Configurations, Slot};
use synod_wire::{DecodeError, configuration};

/// Who votes in the slots that the state machine has not applied. `first` is the
/// configuration of the cluster's beginning.
///
/// # Errors
/// When the state's bytes are damaged.
pub fn configurations_of<M: OrderedMap>(
    machine: &StateMachine<M>,
    first: &Configuration,
) -> Result<Configurations, DecodeError> {
    let record = machine.configurations();
    if record.is_empty() {
        return Ok(Configurations::new(first.clone()));
    }
    let mut configurations = configuration::decode_reigns(record.clone())?;
    configurations.forget(Slot(machine.applied_slot()));
    Ok(configurations)
}

/// Carries out a slot that holds a configuration, which may have no effect.
///
/// # Errors
/// When the map cannot be read or written: the node must stop.
pub fn apply_configuration<M: OrderedMap>(
    machine: &mut StateMachine<M>,
    first: &Configuration,
    slot: Slot,
    new: &Arc<Configuration>,
) -> Result<(), MapError> {
    let damaged = |error: DecodeError| MapError(format!("the members in the state: {error}"));
    let mut configurations = configurations_of(machine, first).map_err(damaged)?;
    if configurations.receive_chosen(slot, new) {
        let record = configuration::encode_reigns(configurations.in_force(slot));
        machine.apply_configurations(slot.0, record)
    } else {
        machine.apply(slot.0, 0, &[]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_kv::{KvOptions, MemoryMap};
    use synod_paxos::NodeId;

    fn of(voters: &[u32], number: u64) -> Configuration {
        let voters = voters.iter().copied().map(NodeId).collect();
        Configuration::majority(voters, 3).expect("valid").numbered(number)
    }

    /// Changes in slots 2, 3 and 6 of a cluster whose alpha is 3: the second comes before
    /// the first governs.
    #[test]
    fn the_state_knows_what_the_log_said() {
        let first = of(&[1], 0);
        let mut machine =
            StateMachine::open(MemoryMap::default(), KvOptions::default()).expect("memory");
        let mut naive = Configurations::new(first.clone());
        for slot in 1..=9_u64 {
            let new = match slot {
                2 => Some(of(&[1, 2], 1)),
                3 => Some(of(&[3], 2)),
                6 => Some(of(&[1, 2, 3], 2)),
                _ => None,
            };
            match new.map(Arc::new) {
                Some(new) => {
                    let effect = naive.receive_chosen(Slot(slot), &new);
                    assert_eq!(effect, slot != 3);
                    apply_configuration(&mut machine, &first, Slot(slot), &new).expect("memory");
                }
                None => drop(machine.apply(slot, 0, &[]).expect("memory")),
            }
            machine.commit().expect("memory");
            let again = StateMachine::open(machine.map().clone(), KvOptions::default());
            let found = configurations_of(&again.expect("memory"), &first).expect("whole");
            assert_eq!(found.reigns(), naive.in_force(Slot(slot)), "slot {slot}");
        }
    }
}
