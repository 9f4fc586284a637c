//! Slots that several nodes have lost from their journals, and how they give each other what is
//! left, as real nodes do while they wait at their start.
//!
//! Whom a node asks for what, and what a damaged journal shows, is the code of real nodes; the
//! messages take the way of all messages, and nodes that run answer them as their hosts do. What
//! stands here is what real nodes do with their files: the own state is filled in the order of the slots,
//! and when it durably reaches the end of the damage the next start drops the damaged
//! segments, or, if the damage is gone by then, has the journal begin behind the state.
//!
//! The nemesis never goes beyond what can be mended: each slot that somebody lost is known as chosen
//! where it can still be told.

use std::collections::{BTreeMap, BTreeSet};

use synod_host::SlotQuestions;
use synod_kv::{StateMachine, Taken};
use synod_paxos::{Chosen, Fetch, Message, NodeId, Position, Recovered, Slot, Time, Value};
use synod_wire::PeerMessage;

use crate::checkers::{Check, Violation};
use crate::coverage::Rare;
use crate::disk::{Disk, Drawn, Loss};
use crate::drift::Drift;
use crate::fault::Fault;
use crate::happening::Happening;
use crate::lifecycle::kv_options;
use crate::mistakes::Mistake;
use crate::node::{Doubt, Fate, Node, apply_value};
use crate::planted;
use crate::store::{Store, Unflushed};
use crate::words;
use crate::world::World;

/// A node looks so often whether there is somebody to be asked.
const LOOK_EVERY_US: u64 = 100_000;
/// A node that has all it needs stays for others until nobody was given anything for so long.
const QUIET_US: u64 = 1_000_000;
/// A node to which nobody gives anything for so long starts anew, or, which is the second one,
/// goes on with a damaged state. Real ones wait two minutes for either.
const PATIENCE_US: u64 = 6_000_000;
const PATIENCE_DAMAGED_US: u64 = 2_000_000;
/// When that was so before, this long at first, and twice as long each time.
const PATIENCE_AGAIN_US: u64 = 300_000;
/// Among the healed each node may take so much longer if some must still mend themselves.
const HEALING_US: u64 = 6_000_000;
/// So often another loss is drawn when one could not be mended.
const DRAWS_MAX: usize = 4;

/// A process that waits at its start: it is no acceptor, and tells nothing but what was chosen.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// What its journal shows.
    shown: BTreeMap<Slot, Position>,
    /// The own state has to go so far.
    upto: Slot,
    filling: Option<Filling>,
    is_full: bool,
    served_us: Option<u64>,
    heard_us: u64,
    patience_us: u64,
    /// The own state is damaged, but goes far enough.
    can_go_on: bool,
}

/// The own state on its way there.
#[derive(Debug)]
struct Filling {
    machine: StateMachine<Store>,
    unflushed: Unflushed,
    questions: SlotQuestions,
}

impl Waiting {
    /// How far the own state is, while it is being filled.
    pub(crate) fn applied(&self) -> Option<Slot> {
        self.filling.as_ref().map(|filling| Slot(filling.machine.applied_slot()))
    }

    /// Whether slots come, so that no state is asked for yet.
    pub(crate) fn is_moving(&self, now_us: u64) -> bool {
        let moves = |filling: &Filling| filling.questions.is_moving(Time(now_us));
        self.is_full || self.filling.as_ref().is_some_and(moves)
    }
}

impl World<'_> {
    /// Whether nodes that wait at their start give each other slots.
    pub(crate) fn exchanges_slots(&self) -> bool {
        self.plan.faults.contains_key(&Fault::LostSlots)
    }

    /// Several machines die, and when they come back each has lost slots that its state lacks,
    /// some of them only for a while.
    pub(crate) fn lose_slots(&mut self) -> Check {
        let fault = Fault::LostSlots;
        let is_there = |node: &Node| node.fate == Fate::Sound && node.is_member();
        let may = self.nodes.iter().filter(|node| is_there(node) && !node.is_rebuilding);
        let mut victims: Vec<NodeId> = may.map(|node| node.id).collect();
        let rng = self.nemesis.rng(fault);
        rng.shuffle(&mut victims);
        if rng.bool() {
            victims.truncate(2);
        }
        let is_patient = rng.u8(..3) > 0;
        let (mut disks, mut all) = (BTreeMap::new(), Vec::new());
        for id in victims {
            for _ in 0..DRAWS_MAX {
                let Some((drawn, disk)) = self.draw_losses(id) else { break };
                disks.insert(id, disk);
                if self.can_mend(is_there, &disks) {
                    all.push((id, drawn));
                    break;
                }
                disks.remove(&id);
            }
        }
        // Mostly it waits until it hurts.
        let is_worst = all.iter().any(|(_, drawn)| drawn.is_worst);
        if all.len() < 2 || is_patient && !is_worst {
            return Ok(());
        }
        self.coverage.fault(fault);
        if is_worst {
            self.coverage.rare(Rare::StaleLeft);
        }
        for (id, drawn) in all {
            let is_momentary = self.nemesis.rng(fault).u8(..if is_worst { 2 } else { 3 }) == 0;
            self.lose(id, &drawn.losses, is_momentary)?;
        }
        Ok(())
    }

    fn draw_losses(&mut self, id: NodeId) -> Option<(Drawn, Disk)> {
        let (node, agreement) = (&self.nodes[id.0 as usize - 1], &self.checks.agreement);
        let (above, mut disk) = (Slot(node.state.slot), node.disk.clone());
        let differs =
            |slot, value: &Value| agreement.chosen(slot).is_some_and(|chosen| chosen != value);
        let drawn = disk.draw_losses(above, differs, self.nemesis.rng(Fault::LostSlots))?;
        disk.lose(&drawn.losses, false);
        Some((drawn, disk))
    }

    fn lose(&mut self, id: NodeId, losses: &[Loss], is_momentary: bool) -> Check {
        self.strike_down(Fault::LostSlots, id)?;
        let node = self.node(id);
        node.disk.lose(losses, is_momentary);
        if is_momentary {
            let lasts_us = self.nemesis.rng(Fault::LostSlots).u64(100_000..6_000_000);
            self.at(lasts_us, Happening::FoundAgain { node: id });
        }
        let waiting = |node: &&Node| {
            let behind = node.disk.behind_damage();
            node.fate == Fate::Sound
                && behind.is_ok_and(|behind| node.needed(behind).0 > node.state.slot)
        };
        if self.nodes.iter().filter(waiting).count() > 1 {
            self.coverage.rare(Rare::SlotsLostOnSeveral);
        }
        Ok(())
    }

    /// The disk reads again what it could not read for a while.
    pub(crate) fn find_again(&mut self, id: NodeId) {
        if self.node(id).disk.find_again() {
            self.coverage.rare(Rare::DamageGone);
        }
    }

    /// A process begins to wait. It fills the own state, if that lacks nothing but slots.
    pub(crate) fn begin_exchange(&mut self, id: NodeId, upto: Slot) {
        let (now_us, planted) = (self.now_us, planted::core(self.plan.bug));
        let last_nonce = self.nemesis.rng(Fault::LostSlots).u64(..1 << 40);
        let options = kv_options(&self.plan);
        let node = self.node(id);
        let shown = node.disk.shown(planted);
        let is_short = node.state.slot < upto.0 && node.drift == Drift::None;
        let can_go_on = node.state.slot >= upto.0 && node.drift == Drift::None;
        let unreplaced = if can_go_on { node.unreplaced } else { 0 };
        let patience_us = match unreplaced {
            0 if can_go_on => PATIENCE_DAMAGED_US,
            0 => PATIENCE_US,
            times => (PATIENCE_AGAIN_US << (times - 1).min(16)).min(PATIENCE_DAMAGED_US),
        };
        let (store, unflushed) = node.open_store();
        let machine = StateMachine::open(store, options).ok().filter(|_| is_short);
        let filling = machine.map(|machine| {
            let questions = SlotQuestions::new(last_nonce, Time(now_us), planted);
            Filling { machine, unflushed, questions }
        });
        // Before anything is applied that the journal may not hold.
        node.state.filled |= filling.is_some();
        let waiting = Waiting {
            shown,
            upto,
            filling,
            is_full: false,
            served_us: None,
            heard_us: now_us,
            patience_us,
            can_go_on,
        };
        node.waiting = Some(Box::new(waiting));
        let life = node.life;
        self.at(0, Happening::LookForSlots { node: id, life });
    }

    /// A node that waits goes on, and looks again later.
    pub(crate) fn look_for_slots(&mut self, id: NodeId, life: u64) -> Check {
        if self.node(id).life != life || !self.still_rebuilds(id) {
            return Ok(());
        }
        let is_busy = self.go_on_filling(id)?;
        let now_us = self.now_us;
        let Some(waiting) = &self.node(id).waiting else { return Ok(()) };
        let is_asked = waiting.served_us.is_some_and(|at_us| now_us - at_us < QUIET_US);
        let moved_us = waiting.filling.as_ref().map_or(0, |one| one.questions.moved_at().0);
        let is_over = now_us - waiting.heard_us.max(moved_us) >= waiting.patience_us;
        if waiting.is_full && (!is_asked || is_over) {
            return self.end_filled(id);
        }
        if is_over {
            if waiting.can_go_on {
                // It may be needed as it is; it asks again at its next start.
                self.coverage.rare(Rare::Unreplaced);
                let node = self.node(id);
                node.unreplaced += 1;
                node.goes_on = true;
            }
            return self.stop_waiting(id);
        }
        let pause_us = if is_busy { 50 } else { LOOK_EVERY_US };
        self.at(pause_us, Happening::LookForSlots { node: id, life });
        Ok(())
    }

    /// Takes what the own journal shows next, or asks somebody. Says whether there is more to do
    /// at once.
    fn go_on_filling(&mut self, id: NodeId) -> Result<bool, Violation> {
        let (now_us, bytes_max) = (self.now_us, self.plan.sizes.page_bytes_max);
        let up = self.nodes_up(id);
        let node = &mut self.nodes[id.0 as usize - 1];
        let Some(waiting) = node.waiting.as_mut() else { return Ok(false) };
        let (shown, upto) = (&waiting.shown, waiting.upto);
        let Some(filling) = waiting.filling.as_mut() else { return Ok(false) };
        let next = Slot(filling.machine.applied_slot()).next();
        if next > upto {
            let (filling, state) = (waiting.filling.take().expect("just seen"), &mut node.state);
            state.flush(&filling.unflushed, upto.0);
            waiting.is_full = true;
            return Ok(false);
        }
        let values = node.disk.shown_values(shown, (next, upto), bytes_max);
        if !values.is_empty() {
            self.fill(id, values)?;
            return Ok(true);
        }
        // What the own journal shows further on need not come from elsewhere.
        let held = shown.range(next.next()..).next();
        let last = held.map_or(upto, |(held, _)| upto.min(Slot(held.0 - 1)));
        if let Some((peer, fetch)) = filling.questions.ask(next, last, &up, Time(now_us)) {
            self.send(id, peer, PeerMessage::Paxos(Message::Fetch(fetch)))?;
        }
        Ok(false)
    }

    /// The peers that a node which waits is connected to.
    fn nodes_up(&mut self, id: NodeId) -> BTreeSet<NodeId> {
        let mut up = BTreeSet::new();
        for peer in (1..=self.plan.members).map(NodeId).filter(|peer| *peer != id) {
            let cut = self.network.is_cut(peer, id) || self.network.is_cut(id, peer);
            let node = self.node(peer);
            let is_up = node.process.is_some() || node.waiting.is_some();
            if is_up && node.is_member() && !cut {
                up.insert(peer);
            }
        }
        up
    }

    /// A message reaches a node that waits. Nothing is of interest to it but what was chosen.
    pub(crate) fn hear_waiting(&mut self, id: NodeId, from: NodeId, message: PeerMessage) -> Check {
        match message {
            PeerMessage::Paxos(Message::Fetch(fetch)) => self.tell_shown(id, from, &fetch),
            PeerMessage::Paxos(Message::Chosen(chosen)) => self.hear_slots(id, from, chosen),
            _ => Ok(()),
        }
    }

    fn tell_shown(&mut self, id: NodeId, to: NodeId, fetch: &Fetch) -> Check {
        let (now_us, bytes_max) = (self.now_us, self.plan.sizes.page_bytes_max);
        let node = &mut self.nodes[id.0 as usize - 1];
        let waiting = node.waiting.as_mut().expect("it waits");
        let (nonce, first) = (fetch.nonce, fetch.first);
        let values = node.disk.shown_values(&waiting.shown, (first, fetch.last), bytes_max);
        if !values.is_empty() {
            // Whoever lacks what this node can't tell may need it as an acceptor.
            waiting.served_us = Some(now_us);
            self.coverage.rare(Rare::ShownTold);
        }
        let chosen = Chosen { nonce, first, values };
        self.send(id, to, PeerMessage::Paxos(Message::Chosen(chosen)))
    }

    fn hear_slots(&mut self, id: NodeId, from: NodeId, chosen: Chosen) -> Check {
        let now_us = self.now_us;
        let gives = self.node(from).process.is_some();
        let filling = self.node(id).waiting.as_mut().and_then(|waiting| waiting.filling.as_mut());
        let Some(filling) = filling else { return Ok(()) };
        let next = Slot(filling.machine.applied_slot()).next();
        match filling.questions.receive(from, chosen, next, Time(now_us)) {
            Some(values) => {
                self.coverage.rare(if gives { Rare::SlotsOfRunning } else { Rare::SlotsOfWaiting });
                self.fill(id, values)?;
            }
            None => self.coverage.rare(Rare::SlotsNotThere),
        }
        self.go_on_filling(id).map(drop)
    }

    /// Applies the next values to the own state.
    fn fill(&mut self, id: NodeId, values: Vec<Value>) -> Check {
        let now_us = self.now_us;
        let node = &mut self.nodes[id.0 as usize - 1];
        let Some(waiting) = node.waiting.as_mut() else { return Ok(()) };
        let (upto, Some(mut filling)) = (waiting.upto, waiting.filling.take()) else {
            return Ok(());
        };
        filling.questions.moved(Time(now_us));
        for value in values {
            let slot = filling.machine.applied_slot() + 1;
            if slot > upto.0 {
                break;
            }
            self.checks.agreement.learnt(id, Slot(slot), &value)?;
            let (drift, reader) = (&mut node.drift, (node.release.newest, node.mistake));
            let machine = &mut filling.machine;
            let Ok(commands) = apply_value(machine, &self.first, slot, &value, drift, reader)
            else {
                // It cannot be used: only a peer's state helps.
                return Ok(());
            };
            for took in commands {
                if let Taken::Applied { outcome, .. } = took.taken {
                    self.checks.taken(took.id, slot, &took.command, &outcome, now_us)?;
                }
            }
            let hash = machine.state_hash();
            self.checks.state_hash.applied(id, slot, hash)?;
            self.trace.note(now_us, [words::FILLS, u64::from(id.0), slot, hash], || {
                format!("{id} fills its state with slot {slot}")
            });
            filling.machine.commit().expect("memory does not fail");
        }
        let slot = filling.machine.applied_slot();
        let crashes = self.nemesis.is_loose() && self.nemesis.rng(Fault::LostSlots).u8(..64) == 0;
        self.node(id).waiting.as_mut().expect("it waits").filling = Some(filling);
        if crashes {
            self.coverage.rare(Rare::FillingCrashed);
            return self.crash_while_filled(id, slot);
        }
        Ok(())
    }

    /// The process dies. Some of what it applied is durable.
    fn crash_while_filled(&mut self, id: NodeId, slot: u64) -> Check {
        let before = self.node(id).state.slot;
        let durable = self.nemesis.rng(Fault::LostSlots).u64(before..=slot);
        let node = self.node(id);
        let waiting = node.waiting.take().expect("it waits");
        let filling = waiting.filling.expect("it was just filled");
        node.state.flush(&filling.unflushed, durable);
        self.stop_waiting(id)
    }

    /// The process ends without what it needs, and is started again.
    fn stop_waiting(&mut self, id: NodeId) -> Check {
        let again_us = self.nemesis.rng(Fault::LostSlots).u64(1_000..1_000_000);
        let node = self.node(id);
        (node.waiting, node.is_rebuilding) = (None, false);
        self.at(again_us, Happening::Start { node: id });
        Ok(())
    }

    /// The state has what the journal lost. If all of it can be read it stays.
    fn end_filled(&mut self, id: NodeId) -> Check {
        let node = self.node(id);
        if !node.state.damage.is_empty() {
            let waiting = node.waiting.as_mut().expect("it waits");
            waiting.is_full = false;
            return Ok(());
        }
        self.coverage.rare(Rare::StateFilled);
        self.stop_waiting(id)
    }

    /// A state that was filled may be ahead of the journal, which says now that it begins behind it; unless
    /// it knows all that as chosen by itself. What it needs no more is kept beside a state that is doubted.
    pub(crate) fn start_after_filled(&mut self, id: NodeId, recovered: &mut Recovered) {
        let node = self.node(id);
        let forgets = node.mistake == Some(Mistake::FilledForgotten);
        let slot = Slot(node.state.slot);
        if std::mem::take(&mut node.state.filled)
            && !forgets
            && recovered.chosen_upto < slot
            && let Some(record) = recovered.start_after(slot)
        {
            node.write_down(recovered.position, record);
            self.coverage.rare(Rare::FilledAhead);
        }
        let node = self.node(id);
        match node.doubt {
            Doubt::Damaged => node.disk.truncate_aside(recovered.truncated_upto),
            Doubt::None | Doubt::Suspect => node.disk.drop_aside(),
        }
    }

    /// At the healing: who waits for what can be read again by now looks again.
    pub(crate) fn wake_waiting(&mut self, id: NodeId) {
        let node = self.node(id);
        if node.is_rebuilding && !node.is_ailing() {
            (node.waiting, node.is_rebuilding) = (None, false);
        }
    }

    /// At the healing: so that those who live can mend themselves, others live too.
    pub(crate) fn add_givers(&mut self, living: &mut Vec<NodeId>, helpers: &[NodeId]) {
        let sound = self.nodes.iter().filter(|node| node.fate == Fate::Sound && node.is_member());
        let others: Vec<NodeId> = sound.map(|node| node.id).collect();
        for other in others {
            let lives = |node: &Node| living.contains(&node.id) || helpers.contains(&node.id);
            if self.can_mend(lives, &BTreeMap::new()) {
                return;
            }
            if !living.contains(&other) && !helpers.contains(&other) {
                living.push(other);
            }
        }
    }

    /// How much longer the healed may take if some of them must still mend themselves.
    pub(crate) fn mending_us(&self, living: &[NodeId]) -> u64 {
        let mends =
            |node: &Node| living.contains(&node.id) && (node.is_rebuilding || node.is_ailing());
        match self.exchanges_slots() && self.nodes.iter().any(mends) {
            true => HEALING_US * living.len() as u64,
            false => 0,
        }
    }
}
