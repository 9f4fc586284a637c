//! New clusters that are made of what one node has left, while the old one goes on.
//!
//! At any moment one node's files are taken as they are, as if its process were killed and all
//! other nodes lost for good. Which of its slots are kept the code of real nodes says
//! ([`KeptSlots`]); how they are read and applied repeats `crates/node/src/recover.rs`. The
//! cluster of one node that comes of it must serve. Nothing of that touches the old one: what
//! is drawn here is drawn apart.

use std::collections::BTreeMap;

use synod_kv::{MemoryMap, StateMachine};
use synod_paxos::{Configuration, KeptSlots, NodeId, Slot, Standing, StateLost, Value};

use crate::checkers::recovered::{self, Own, Recovered};
use crate::checkers::{Check, Checker, Violation};
use crate::coverage::Rare;
use crate::disk::{Remains, Tail};
use crate::drift::Drift;
use crate::fault::Fault;
use crate::lifecycle::kv_options;
use crate::node::{Fate, Node, Unfit, apply_value};
use crate::plan::Plan;
use crate::planted;
use crate::releases::{NEXT, read_batch};
use crate::store::{Durable, Store};
use crate::successor::{Successor, keys_in};
use crate::world::World;

/// So many of the new clusters of a run serve, beside the one that is made at its end.
const SERVING_MAX: u32 = 2;
/// So many are made in a run when a node's journal has just come to tell most.
const TELLING_MAX: u32 = 12;

/// How many more there may be in a run.
#[derive(Debug)]
pub(crate) struct Recoveries {
    serving: u32,
    telling: u32,
}

impl Recoveries {
    pub(crate) fn new(plan: &Plan) -> Self {
        let is_on = plan.faults.contains_key(&Fault::Recovery);
        Recoveries { serving: SERVING_MAX, telling: if is_on { TELLING_MAX } else { 0 } }
    }

    /// Whether one may be made when a journal tells most.
    pub(crate) fn wait_for_telling(&self) -> bool {
        self.telling > 0
    }
}

/// A node's files, and what is made of them.
struct Survivor {
    remains: Remains,
    recovered: Recovered,
}

impl World<'_> {
    /// At the end of the run: what any node has then, dead or alive.
    pub(crate) fn recover_at_the_end(&mut self) -> Check {
        if !self.plan.faults.contains_key(&Fault::Recovery) {
            return Ok(());
        }
        let members = self.plan.members;
        let id = NodeId(self.nemesis.rng(Fault::Recovery).u32(1..=members));
        self.recover_from(id, true)
    }

    /// What a node has that has just written a group which leaves a slot out, or another value in one.
    pub(crate) fn recover_where_it_tells(&mut self, id: NodeId) -> Check {
        if !self.nemesis.is_loose() || self.nemesis.rng(Fault::Recovery).u8(..4) > 0 {
            return Ok(());
        }
        self.recoveries.telling -= 1;
        self.recover_now_and_then(id)
    }

    /// Makes a new cluster of what this node has, which serves if few others have.
    pub(crate) fn recover_now_and_then(&mut self, id: NodeId) -> Check {
        let serves = self.recoveries.serving > 0 && self.nemesis.rng(Fault::Recovery).u8(..3) == 0;
        self.recoveries.serving -= u32::from(serves);
        self.recover_from(id, serves)
    }

    fn recover_from(&mut self, id: NodeId, serves: bool) -> Check {
        let tails = [Tail::Lost, Tail::Torn, Tail::Whole];
        let tail = tails[self.nemesis.rng(Fault::Recovery).usize(..tails.len())];
        let node = &self.nodes[id.0 as usize - 1];
        let has_files = node.is_member() && node.life > 0 && node.fate != Fate::Lost;
        // A damaged state is refused, damaged journals are not read here, and that a state differs
        // only others can tell.
        let is_whole = node.disk.damaged_groups == 0 && node.state.damage.is_empty();
        if !has_files || !is_whole || node.drift != Drift::None {
            return Ok(());
        }
        self.coverage.fault(Fault::Recovery);
        let Survivor { remains, recovered } = examine(node, tail, &self.plan)?;
        let own = self.own(&remains, &recovered)?;
        recovered::check(&recovered, &self.checks.agreement, &own)?;
        self.check_asked(&recovered, &own)?;
        let state = &self.nodes[id.0 as usize - 1].state;
        let map = apply(state, &recovered.values, (&self.first, &self.plan));
        let map = map.map_err(|error| of(id, &format!("cannot be applied: {error:?}")))?;
        let replayed = apply(&Durable::default(), &self.log(&recovered), (&self.first, &self.plan));
        let replayed =
            replayed.map_err(|error| of(id, &format!("cannot be replayed: {error:?}")))?;
        recovered::check_store(id, &map, &replayed)?;
        self.count_recovery(&recovered, &own);
        if serves && recovered.upto > Slot::ZERO {
            self.serve_recovered(&recovered, &map, &replayed)?;
        }
        Ok(())
    }

    /// What the node holds of the slots that it does not know as chosen, as the oracle saw it.
    fn own(&mut self, remains: &Remains, recovered: &Recovered) -> Result<Own, Violation> {
        let (node, above) = (recovered.node, recovered.chosen_upto);
        let mut learnt = Own::new();
        for (slot, (standing, value)) in remains.open() {
            if *standing == Standing::Chosen && slot > above {
                self.checks.agreement.learnt(node, slot, value)?;
                learnt.insert(slot, (*standing, value.clone()));
            }
        }
        Ok(recovered::own(&self.checks.agreement, node, above, &remains.unheard, learnt))
    }

    /// What was accepted and not chosen is applied too: somebody must have asked for it.
    fn check_asked(&self, recovered: &Recovered, own: &Own) -> Check {
        for (_, value) in own.range(..=recovered.upto).map(|(_, held)| held) {
            let Value::Batch(bytes) = value else { continue };
            let batch = read_batch(bytes, NEXT, None)
                .map_err(|error| of(recovered.node, &format!("cannot be read: {error:?}")))?;
            for entry in batch.entries {
                self.checks.exactly_once.asked(entry.id, &entry.command)?;
            }
        }
        Ok(())
    }

    /// Every value that is kept, from the first slot on.
    fn log(&self, recovered: &Recovered) -> BTreeMap<Slot, Value> {
        let chosen = (1..=recovered.chosen_upto.0).map(Slot);
        let chosen = chosen
            .map(|slot| (slot, self.checks.agreement.chosen(slot).expect("just checked").clone()));
        let mut log: BTreeMap<Slot, Value> = chosen.collect();
        let above = recovered.values.range(recovered.chosen_upto.next()..);
        log.extend(above.map(|(slot, value)| (*slot, value.clone())));
        log
    }

    fn count_recovery(&mut self, recovered: &Recovered, own: &Own) {
        let agreement = &self.checks.agreement;
        let kept = || own.range(..=recovered.upto);
        let is_chosen = |slot: &Slot, value: &Value| agreement.chosen(*slot) == Some(value);
        let happened = [
            (kept().next().is_some(), Rare::RecoveredAccepted),
            (kept().any(|(slot, (_, value))| !is_chosen(slot, value)), Rare::RecoveredUnchosen),
            (!recovered.dropped.is_empty(), Rare::RecoveredBeforeHole),
            (agreement.chosen(recovered.upto.next()).is_some(), Rare::RecoveredWithLoss),
            (self.nodes[recovered.node.0 as usize - 1].process.is_none(), Rare::RecoveredOfDead),
        ];
        for (_, rare) in happened.into_iter().filter(|(happened, _)| *happened) {
            self.coverage.rare(rare);
        }
    }

    /// The new cluster reads what the kept slots make, and takes writes.
    fn serve_recovered(
        &mut self,
        recovered: &Recovered,
        map: &MemoryMap,
        replayed: &MemoryMap,
    ) -> Check {
        let id = recovered.node;
        let keys = keys_in(replayed, self.plan.load.keys);
        let keys = keys.map_err(|error| of(id, &format!("cannot be read: {error:?}")))?;
        let plan = Plan {
            seed: self.plan.seed ^ (recovered.upto.0 << 8 | u64::from(id.0)),
            members: 1,
            joiners: 0,
            promise_quorum: 1,
            accept_quorum: 1,
            ..self.plan.clone()
        };
        let (of, slot) = (format!("what {id} has"), recovered.upto.0);
        Successor { of, checker: Checker::Recovered, map, slot, keys: &keys }.serves(plan)?;
        self.coverage.rare(Rare::RecoveredServes);
        Ok(())
    }
}

fn of(node: NodeId, what: &str) -> Violation {
    Violation { checker: Checker::Recovered, text: format!("what {node} has {what}") }
}

/// What `recover` finds in a node's files, and keeps of it.
fn examine(node: &Node, tail: Tail, plan: &Plan) -> Result<Survivor, Violation> {
    let remains = node.disk.remains(tail, node.mistake);
    let (applied, known) = (Slot(node.state.slot), (remains.truncated_upto, remains.chosen_upto));
    let open = remains.open().map(|(slot, _)| slot);
    let kept = KeptSlots::new(applied, known, open, planted::core(plan.bug));
    let kept = kept.map_err(|StateLost| Violation {
        checker: Checker::Durability,
        text: format!(
            "{} dropped its journal up to {}, and its state ends before",
            node.id, known.0
        ),
    })?;
    let value = |slot: Slot| {
        let held = remains.values.get(&slot);
        // Only a mistake keeps a slot of which there is nothing.
        (slot, held.map_or(Value::Noop, |(_, value)| value.clone()))
    };
    let values = (applied.0 + 1..=kept.upto.0).map(Slot).map(value).collect();
    let applied_upto = node.process.as_ref().map_or(0, |process| process.machine.applied_slot());
    let recovered = Recovered {
        node: node.id,
        applied_upto: Slot(applied_upto),
        chosen_upto: kept.chosen_upto,
        upto: kept.upto,
        first_missing: kept.first_missing(),
        dropped: kept.dropped,
        values,
    };
    Ok(Survivor { remains, recovered })
}

/// The state after these values.
fn apply(
    state: &Durable,
    values: &BTreeMap<Slot, Value>,
    (first, plan): (&Configuration, &Plan),
) -> Result<MemoryMap, Unfit> {
    let (store, _) = Store::new(state, false);
    let mut machine = StateMachine::open(store, kv_options(plan))?;
    for (slot, value) in values {
        apply_value(&mut machine, first, slot.0, value, &mut Drift::None, (NEXT, None))?;
        machine.commit()?;
    }
    Ok(machine.map().checkpoint().0)
}
