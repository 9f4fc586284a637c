//! What full disks change: who takes values, and who proposes them.
//!
//! A voter whose disk has no room takes no values as long as others with room are a
//! quorum. Where they are none, it takes what is under way, so that reads go on; and
//! nothing new is proposed.

use super::*;
use crate::leader::Peer;

/// What a voter said of its disk holds for so many election timeouts where clients are
/// turned away.
const ROOM_TIMEOUTS: u64 = 10;

/// What the disks of the voters allow, as far as this node knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Disks {
    /// New values are proposed.
    take_values: bool,
    /// Clients may put more.
    take_puts: bool,
}

impl Default for Disks {
    fn default() -> Self {
        Disks { take_values: true, take_puts: true }
    }
}

impl Replica {
    /// Whether the disks of enough voters for a quorum have room, as far as this node
    /// knew at the end of the last batch. If not, clients are to put nothing more.
    #[must_use]
    pub fn has_disk_room(&self) -> bool {
        self.disks.take_puts
    }

    /// What the disks of the voters allow now. Too few voters that answer are no matter
    /// of disks: then other rules hold.
    pub(super) fn look_at_disks(&mut self, now: Time) {
        let governing = &self.in_force()[0].configuration;
        let quorum = governing.accept_quorum();
        let allows = |least: Room, counts: &dyn Fn(&Peer) -> bool| {
            self.liveness.with_room(governing, self.room, least, counts) >= quorum
                || self.liveness.count(governing, counts) < quorum
        };
        let able = allows(Room::Low, &|peer| self.liveness.is_able(now, peer));
        // A heartbeat that is late shall not turn clients away at once: those with little
        // room have some for as long as that takes.
        let memory_us = ROOM_TIMEOUTS * self.options.election_timeout_us;
        let lately = allows(Room::Enough, &|peer| peer.was_heard(now, memory_us));
        let take_values = able && self.room != Room::Out;
        self.disks = Disks { take_values, take_puts: able && lately };
    }

    /// Whether the others have a quorum that needs this node's disk, which has no room, for
    /// nothing: of voters that have room, answer this node, and count besides.
    pub(super) fn is_spared(&self, now: Time, counts: impl Fn(&Peer) -> bool) -> bool {
        let governing = &self.in_force()[0].configuration;
        let able = |peer: &Peer| self.liveness.is_able(now, peer) && counts(peer);
        self.liveness.with_room(governing, self.room, Room::Low, able) >= governing.accept_quorum()
    }

    /// Whether the next slot may be proposed, as far as limits go.
    pub(super) fn has_room(&self, leading: &Leading) -> bool {
        self.has_window(leading) && self.disks.take_values
    }

    /// The same for a value that is needed even where disks are full: then one at a time,
    /// as a node without room takes them.
    pub(super) fn has_room_for_needed(&self, leading: &Leading) -> bool {
        let waits = self.options.planted.is(Bug::ReportedNeedsRoom);
        self.has_window(leading) && (self.disks.take_values || (leading.in_flight() == 0 && !waits))
    }
}
