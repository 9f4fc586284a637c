//! A new cluster that begins with the state of an older one.
//!
//! It is a world of its own, without faults, and its nodes begin with what `synod restore` and
//! `synod recover` write. They must elect a leader, serve exactly what the state held, and take
//! writes at later revisions.

use std::collections::BTreeMap;

use synod_kv::{APPLIED_KEY, MapError, MemoryMap, OrderedMap, Revision, State, WriteSet, read};
use synod_paxos::NodeId;

use crate::checkers::liveness::{Demand, Liveness};
use crate::checkers::{Check, Checker, Violation, demand};
use crate::client::Mode;
use crate::history::{Answer, key_bytes, value_name};
use crate::mistakes::Mistake;
use crate::plan::Plan;
use crate::planted;
use crate::store::Durable;
use crate::trace::Trace;
use crate::world::World;

/// What a new cluster is made of.
pub(crate) struct Successor<'a> {
    /// For people.
    pub(crate) of: String,
    /// Whose business it is.
    pub(crate) checker: Checker,
    /// The state of the old cluster, and its slot.
    pub(crate) map: &'a MemoryMap,
    pub(crate) slot: u64,
    /// What must be in it: the value's name and the revision of each key.
    pub(crate) keys: &'a BTreeMap<u8, (u64, Revision)>,
}

impl Successor<'_> {
    /// Has a cluster of it serve, of as many nodes as voted in the beginning of this plan.
    pub(crate) fn serves(&self, plan: Plan) -> Check {
        let mut plan = Plan {
            seed: plan.seed ^ 0x4e57_0e5e,
            members: plan.members - plan.joiners,
            joiners: 0,
            faults: BTreeMap::new(),
            // Whose leases are in the state is another story than that of this run.
            guests: None,
            ..plan
        };
        // The new cluster knows the idempotency keys of the old one.
        plan.load.keyed_percent = 0;
        let in_it = |violation: Violation| Violation {
            checker: self.checker,
            text: format!("of the cluster made of {}: {violation}", self.of),
        };
        let (state, revision) = self.begin(planted::model(plan.bug))?;
        let mut world = World::beginning_with(plan, Trace::new(None), &state).map_err(in_it)?;
        let nodes: Vec<NodeId> = (1..=world.plan.members).map(NodeId).collect();
        let mut from = 0;
        for (mode, wanted) in [(Mode::Sweep, Demand::Reads), (Mode::Probe, Demand::Progress)] {
            let bound_us = world.progress_bound_us(&nodes);
            let began_us = world.now_us;
            world.clients.mode = mode;
            world.checks.liveness = Some(Liveness::new(wanted, began_us, bound_us, &nodes));
            while world.liveness().worst_us().is_none()
                || mode == Mode::Sweep && !world.has_read_all(from)
            {
                world.step().map_err(in_it)?;
                world.liveness().check(world.now_us).map_err(in_it)?;
            }
            if mode == Mode::Sweep {
                self.compare(&world, revision)?;
            }
            from = world.clients.operations.len();
        }
        let outcomes = world.clients.operations.iter().filter_map(|one| match &one.returned {
            Some((_, Answer::Outcome(outcome))) => Some(outcome.revision()),
            _ => None,
        });
        let least = outcomes.min();
        demand(least.is_some_and(|least| least >= revision), self.checker, || {
            format!(
                "the cluster made of {} begins at {revision} and goes on with {least:?}",
                self.of
            )
        })
    }

    /// The state of each node of the new cluster before its first start, and its revision.
    fn begin(&self, mistake: Option<Mistake>) -> Result<(Durable, Revision), Violation> {
        let refused = |error: MapError| Violation {
            checker: self.checker,
            text: format!("no cluster can be made of {}: {error:?}", self.of),
        };
        let mut map = self.map.clone();
        let mut state = State::load(&map).map_err(refused)?;
        if mistake != Some(Mistake::RestoredKeepsSequences) {
            state = state.for_another_cluster().map_err(refused)?;
            let mut record = WriteSet::new();
            record.put(APPLIED_KEY, &state.record());
            map.write(&record).expect("memory does not fail");
        }
        let mut durable = Durable::default();
        durable.switch(&map, self.slot);
        Ok((durable, state.revision))
    }

    /// Nothing was written yet: each read must have found what is to be there.
    fn compare(&self, world: &World<'_>, now: Revision) -> Check {
        for operation in &world.clients.operations {
            let Some((_, Answer::Found(found, revision))) = &operation.returned else { continue };
            let held = self.keys.get(&operation.key).copied();
            demand((*found, *revision) == (held, now), self.checker, || {
                format!(
                    "in the cluster made of {} key {} is {found:?} at revision {revision}, but it \
                     was {held:?}, and the cluster begins at {now}",
                    self.of, operation.key
                )
            })?;
        }
        Ok(())
    }
}

/// The value's name and the revision of each of so many keys of a state.
pub(crate) fn keys_in(
    map: &MemoryMap,
    keys: u8,
) -> Result<BTreeMap<u8, (u64, Revision)>, MapError> {
    let mut found = BTreeMap::new();
    for key in 0..keys {
        let record = read::get(map, &key_bytes(key))?;
        found.extend(record.map(|record| (key, (value_name(&record.value), record.mod_revision))));
    }
    Ok(found)
}

impl World<'_> {
    /// Whether every key was read, by some operation from this one on.
    fn has_read_all(&self, from: usize) -> bool {
        let read = |key: u8| {
            self.clients.operations[from..]
                .iter()
                .any(|one| one.key == key && matches!(one.returned, Some((_, Answer::Found(..)))))
        };
        (0..self.plan.load.keys).all(read)
    }
}
