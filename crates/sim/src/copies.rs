//! Who is listened to: every peer's handshake is compared with what it said before, by the
//! very code that real nodes use. A folder that is wiped, that went back in time, or that two
//! processes use is not.
//!
//! What a node heard it forgets when it dies, but for the store ids. So an older copy is
//! noticed only where somebody lives who heard more, and it is let loose here only when every
//! other node that lives has. An operator takes it away before another node begins to live,
//! which would have heard nothing.

use synod_paxos::{Ballot, NodeId, Planted, Position};
use synod_wire::{Facts, Member, RefusalReason};

use crate::checkers::{Check, Checker, Violation, demand};
use crate::coverage::Rare;
use crate::disk::Disk;
use crate::fault::Fault;
use crate::happening::Happening;
use crate::node::{Fate, Node};
use crate::planted;
use crate::store::Durable;
use crate::world::World;

/// For so long a copy runs at the most.
const RUNS_US: u64 = 8_000_000;

/// What a folder was when it was copied.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    disk: Disk,
    state: Durable,
    incarnation: u64,
}

/// What a process heard of a node.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    member: Member,
    /// The life that shook hands last, and how that ended.
    met: Option<(u64, Result<(), RefusalReason>)>,
    /// The version that the two agreed on when they last did, and the newest one that the
    /// node named.
    pub(crate) spoken: Option<(u32, u32)>,
}

impl Node {
    /// What it says of itself.
    fn facts(&self) -> Facts {
        Facts {
            cluster: 1,
            node: self.id,
            store: u128::from(self.store_id),
            incarnation: self.incarnation,
            process: self.life,
            promised: self.told,
            position: self.position,
            founded: None,
        }
    }
}

impl World<'_> {
    /// What a process knows that just began: only the stores.
    pub(crate) fn nobody_heard(&self) -> Vec<Heard> {
        let planted = planted::core(self.plan.bug);
        let heard = |id| {
            let member = Member::new(NodeId(id), Some(0)).planting(planted);
            Heard { member, met: None, spoken: None }
        };
        (1..=self.plan.members).map(heard).collect()
    }

    /// Whether two nodes take each other for what they say. One that does not live is asked
    /// when it does.
    pub(crate) fn shake_hands(&mut self, one: NodeId, other: NodeId) -> Result<bool, Violation> {
        Ok(self.takes(one, other)? && self.takes(other, one)?)
    }

    /// Whether a message that arrives from a node may be listened to.
    pub(crate) fn takes(&mut self, by: NodeId, peer: NodeId) -> Result<bool, Violation> {
        let node = &self.nodes[peer.0 as usize - 1];
        let (life, is_member) = (node.life, node.is_member());
        let facts = node.facts();
        let lives = node.process.is_some();
        let theirs = node.process.as_ref().map_or(node.release, |process| process.release);
        let Some(process) = self.node(by).process.as_mut() else { return Ok(is_member) };
        let heard = &mut process.heard[peer.0 as usize - 1];
        if !lives && heard.met.is_none_or(|(met, _)| met != life) {
            return Ok(is_member);
        }
        let met = heard.met.filter(|(met, _)| *met == life);
        let own = process.release;
        let is_mixed = met.is_none() && own.newest != theirs.newest;
        let (_, taken) = *heard.met.insert(met.unwrap_or_else(|| {
            let Some(version) = own.versions().common(theirs.versions()) else {
                return (life, Err(RefusalReason::Protocol));
            };
            let taken = heard.member.receive_facts(&facts);
            if taken.is_ok() {
                heard.spoken = Some((version, theirs.newest));
            }
            (life, taken.map(drop).map_err(|refusal| refusal.reason))
        }));
        if is_mixed && taken.is_ok() {
            self.coverage.rare(Rare::MixedPair);
        }
        let by_member = self.node(by).is_member();
        let Err(reason) = taken else { return Ok(true) };
        self.coverage.rare(match reason {
            RefusalReason::Protocol => Rare::OlderRefused,
            RefusalReason::WentBack => Rare::WentBackRefused,
            RefusalReason::Incarnation => Rare::SecondProcessRefused,
            _ => Rare::AmnesiaRefused,
        });
        let is_version = reason == RefusalReason::Protocol;
        demand(is_version || !is_member || !by_member, Checker::Assertion, || {
            format!("{by} refuses {peer}, which is what it was: {reason:?}")
        })?;
        Ok(false)
    }

    /// What a peer says of its journal counts as heard.
    pub(crate) fn hear_position(&mut self, by: NodeId, from: NodeId, position: Position) {
        if let Some(process) = self.node(by).process.as_mut() {
            process.heard[from.0 as usize - 1].member.receive_position(position);
        }
    }

    /// A promise that arrives counts as heard.
    pub(crate) fn hear_promise(&mut self, by: NodeId, from: NodeId, ballot: Ballot) {
        if let Some(process) = self.node(by).process.as_mut() {
            process.heard[from.0 as usize - 1].member.receive_promise(ballot);
        }
    }

    /// Somebody copies the folder of a node that is down for a moment, and starts the copy
    /// later: in place of the node or, as it seems to the others, beside it.
    pub(crate) fn copy_folder(&mut self, victim: NodeId) -> Check {
        let fault = Fault::OldCopy;
        let node = &self.nodes[victim.0 as usize - 1];
        let is_well = node.fate == Fate::Sound && node.is_member() && !node.is_ailing();
        if !is_well || node.copy.is_some() || !self.may_lose(victim) {
            return Ok(());
        }
        self.strike_down(fault, victim)?;
        let rng = self.nemesis.rng(fault);
        let (starts_us, again_us) = (rng.u64(2_000_000..12_000_000), rng.u64(500_000..6_000_000));
        // It may have been started before, where nobody heard it.
        let (more, again) = (rng.u64(..3), rng.bool());
        let node = self.node(victim);
        let (disk, state) = (node.disk.clone(), node.state.clone());
        let incarnation = node.incarnation + more;
        node.copy = Some(Box::new(Copy { disk, state, incarnation }));
        if again {
            let life = node.life + 1;
            self.at(again_us, Happening::Dies { node: victim, life });
        }
        self.at(starts_us, Happening::CopyStarts { node: victim });
        Ok(())
    }

    /// The copy comes, if everybody who lives can notice it.
    pub(crate) fn start_copy(&mut self, id: NodeId) -> Check {
        let node = self.node(id);
        let Some(copy) = node.copy.take() else { return Ok(()) };
        let is_well = node.fate == Fate::Sound && !node.is_ailing() && !node.is_rebuilding;
        if !is_well || !self.nemesis.is_loose() || !self.may_lose(id) {
            return Ok(());
        }
        let mut recovered = copy.disk.clone().recover(None);
        if let Some(slot) = copy.state.installed {
            // The start writes that record before anybody hears of it.
            let _ = recovered.start_after(slot);
        }
        let mut facts = self.node(id).facts();
        facts.incarnation = copy.incarnation + 1;
        facts.process = self.node(id).life + 1;
        (facts.promised, facts.position) = (recovered.promised, recovered.position);
        let notices = |node: &Node| {
            let heard = node.process.as_ref().map(|process| &process.heard[id.0 as usize - 1]);
            heard.is_some_and(|heard| {
                let mut member = heard.member.clone().planting(Planted::NONE);
                member.receive_facts(&facts).is_err()
            })
        };
        let others = self.nodes.iter().filter(|node| {
            node.id != id && !matches!(node.fate, Fate::Lost | Fate::Left | Fate::Waits)
        });
        if !others.into_iter().all(notices) {
            return Ok(());
        }
        self.coverage.fault(Fault::OldCopy);
        let tail = self.nemesis.draw_tail();
        self.crash(id, tail)?;
        let node = self.node(id);
        node.is_copy = true;
        (node.disk, node.state) = (copy.disk, copy.state);
        node.incarnation = copy.incarnation;
        self.start(id)?;
        // Nobody starts it again, and it counts for nothing.
        self.node(id).fate = Fate::Lost;
        self.at(RUNS_US, Happening::CopyStops { node: id });
        Ok(())
    }

    /// The operator notices what the others say of it.
    pub(crate) fn stop_copy(&mut self, id: NodeId) -> Check {
        let tail = self.nemesis.draw_tail();
        if self.node(id).is_copy { self.crash(id, tail) } else { Ok(()) }
    }

    /// Before a node begins to live, which has heard nothing.
    pub(crate) fn stop_copies(&mut self, starts: NodeId) -> Check {
        for id in (1..=self.plan.members).map(NodeId).filter(|id| *id != starts) {
            if self.node(id).is_copy && self.node(id).process.is_some() {
                self.stop_copy(id)?;
            }
        }
        Ok(())
    }
}
