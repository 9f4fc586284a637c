//! Disks without room when everything else is healed.
//!
//! A healed quorum has made progress. Then, in some seeds, disks run full: of so few
//! nodes that a quorum has room, or of more. The leader pauses or dies meanwhile. The
//! first must not hinder anybody who has room; and with too few of those, reads are
//! answered all the same, by everybody. At the end there is room again, and all make
//! progress. It has a source of chance of its own: the other seeds stay what they were.

use std::collections::BTreeMap;

use fastrand::Rng;
use synod_host::Event;
use synod_paxos::{NodeId, Room};

use crate::checkers::Check;
use crate::checkers::liveness::{Demand, Liveness};
use crate::client::Mode;
use crate::coverage::Rare;
use crate::happening::Happening;
use crate::plan::Plan;
use crate::words;
use crate::world::World;

/// A client waits so long for an attempt at a write, and makes so many of them, before it
/// has time for a read.
const CLIENT_PATIENCE_US: u64 = 5 * 2_300_000;

/// Whose disks run full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Extent {
    /// Nobody's.
    Nobody,
    /// A quorum keeps room.
    Some,
    /// None does.
    Quorum,
}

/// What is drawn about full disks.
#[derive(Debug)]
pub(crate) struct Squeeze {
    rng: Rng,
    extent: Extent,
    /// What these nodes hear of their disks now.
    rooms: BTreeMap<NodeId, Room>,
}

impl Squeeze {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut rng = Rng::with_seed(plan.seed ^ 0x5eed_0005);
        let extent = match rng.u8(..8) {
            0 | 1 => Extent::Some,
            2 => Extent::Quorum,
            _ => Extent::Nobody,
        };
        Squeeze { rng, extent, rooms: BTreeMap::new() }
    }

    /// Whether more than a quorum shall live, so that some are not needed.
    pub(crate) fn spares_nodes(&self) -> bool {
        self.extent == Extent::Some
    }

    /// What this node hears of its disk now, if that is fixed.
    pub(crate) fn room_of(&self, id: NodeId) -> Option<Room> {
        self.rooms.get(&id).copied()
    }

    /// Gives these voters a room each: `quorum` of them or more, or less, keep some.
    fn draw_rooms(&mut self, mut voters: Vec<NodeId>, quorum: usize) {
        let rng = &mut self.rng;
        rng.shuffle(&mut voters);
        let spare = voters.len().saturating_sub(quorum);
        let out = match self.extent {
            Extent::Nobody => 0,
            Extent::Some => rng.usize(spare.min(1)..=spare),
            Extent::Quorum => rng.usize((spare + 1).min(voters.len())..=voters.len()),
        };
        self.rooms =
            (0..).zip(voters).map(|(place, id)| (id, Self::draw_room(rng, place, out))).collect();
    }

    /// How long the others go on before the leader is disturbed: seldom for so long that who
    /// has no room misses very much. Without a quorum with room soon nothing is on its way.
    fn draw_load_us(&mut self) -> u64 {
        let max_us = match self.extent {
            Extent::Quorum => [1, 1, 1_000_000][self.rng.usize(..3)],
            Extent::Nobody | Extent::Some => {
                [1_000_000, 3_000_000, 40_000_000][self.rng.usize(..3)]
            }
        };
        self.rng.u64(0..max_us)
    }

    fn draw_room(rng: &mut Rng, place: usize, out: usize) -> Room {
        match rng.u8(..4) {
            _ if place < out => Room::Out,
            0 => Room::Low,
            _ => Room::Enough,
        }
    }
}

impl World<'_> {
    /// Lets disks run full, if this seed does; see the head of this file.
    pub(crate) fn squeeze(&mut self) -> Check {
        let healed = self.liveness().clone();
        if self.squeeze.extent == Extent::Nobody {
            return Ok(());
        }
        for _ in 0..self.squeeze.rng.u8(1..=2) {
            self.fill_disks()?;
            let load_us = self.squeeze.draw_load_us();
            self.run_until(self.now_us + load_us)?;
            self.disturb_leader()?;
            self.demand_with_full_disks(&healed)?;
            let rooms = std::mem::take(&mut self.squeeze.rooms);
            for id in rooms.into_keys() {
                self.tell_of_room(id, Room::Enough)?;
            }
            self.clients.mode = Mode::Probe;
            self.demand(Demand::Progress, &healed.watched(), CLIENT_PATIENCE_US)?;
        }
        // How long the recovery took is told of the healing.
        self.checks.liveness = Some(healed);
        Ok(())
    }

    fn fill_disks(&mut self) -> Check {
        let newest = &self.checks.agreement.configurations().newest().configuration;
        let quorum = newest.accept_quorum();
        let watched = self.checks.liveness.as_ref().map(Liveness::watched).unwrap_or_default();
        let voters = watched.into_iter().filter(|id| newest.is_voter(*id)).collect();
        self.squeeze.draw_rooms(voters, quorum);
        for (id, room) in self.squeeze.rooms.clone() {
            self.tell_of_room(id, room)?;
        }
        Ok(())
    }

    fn tell_of_room(&mut self, id: NodeId, room: Room) -> Check {
        self.trace.note(self.now_us, [words::ROOM, u64::from(id.0), room as u64, 0], || {
            format!("the disk of {id} has room: {room:?}")
        });
        self.hear(id, Event::Room(room))
    }

    /// Mostly the leader pauses, or dies and comes back.
    fn disturb_leader(&mut self) -> Check {
        let leads = self.nodes.iter().find(|node| node.process.as_ref().is_some_and(|p| p.leads));
        let Some(leader) = leads.map(|node| node.id) else { return Ok(()) };
        let timeout_us = self.plan.pace.election_timeout_us;
        let how = self.squeeze.rng.u8(..5);
        let away_us = self.squeeze.rng.u64(timeout_us / 2..5 * timeout_us);
        if how == 0 {
            return Ok(());
        }
        self.coverage.rare(Rare::LeaderAwayWhileFull);
        if how == 1 {
            let tail = self.nemesis.draw_tail();
            self.crash(leader, tail)?;
            self.at(away_us, Happening::Start { node: leader });
        } else if let Some(process) = self.node(leader).process.as_mut() {
            process.paused = true;
            let life = self.node(leader).life;
            self.at(away_us, Happening::Resume { node: leader, life });
        }
        self.run_until(self.now_us + away_us)?;
        // A new process is told of its disk soon.
        let room = self.squeeze.room_of(leader).unwrap_or(Room::Enough);
        self.tell_of_room(leader, room)
    }

    /// Progress of all who have room, if those are a quorum; else reads of everybody.
    fn demand_with_full_disks(&mut self, healed: &Liveness) -> Check {
        let newest = &self.checks.agreement.configurations().newest().configuration;
        let has_room = |id: &NodeId| self.squeeze.room_of(*id) != Some(Room::Out);
        let mut watched = healed.watched();
        watched.retain(|id| newest.contains(*id));
        let roomy: Vec<NodeId> = watched.iter().copied().filter(has_room).collect();
        let voters = roomy.iter().filter(|id| newest.is_voter(**id)).count();
        if voters >= newest.accept_quorum() {
            if roomy.len() < watched.len() {
                self.coverage.rare(Rare::FullBesideQuorum);
            }
            self.demand(Demand::Progress, &roomy, 0)
        } else {
            self.coverage.rare(Rare::FullQuorum);
            self.clients.mode = Mode::Sweep;
            self.demand(Demand::Reads, &watched, CLIENT_PATIENCE_US)
        }
    }

    /// Goes on until these have done what is demanded, from now on and in time.
    fn demand(&mut self, demand: Demand, of: &[NodeId], patience_us: u64) -> Check {
        let began_us = self.now_us;
        let bound_us = self.progress_bound_us(of) + patience_us;
        self.checks.liveness = Some(Liveness::new(demand, began_us, bound_us, of));
        while self.liveness().worst_us().is_none() && self.now_us <= began_us + bound_us {
            self.step()?;
            self.dismiss_removed();
        }
        self.liveness().check(self.now_us)
    }
}
