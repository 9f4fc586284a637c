//! How one replica sees the cluster and itself: what its host, and people, ask it.

use super::*;
use crate::{PeerStatus, Role, Status};

impl Replica {
    /// The ballot whose leader this node follows (its own when it leads), as it told
    /// the others last.
    #[must_use]
    pub fn follows(&self) -> Option<Ballot> {
        self.told
    }

    /// Where commands have to go now.
    #[must_use]
    pub fn route(&self) -> Route {
        match (self.told, &self.proposer) {
            (_, Proposer::Leading(_)) => Route::Here,
            (Some(ballot), _) => Route::Leader(ballot.node),
            (None, _) => self.through.map_or(Route::Nowhere, Route::Through),
        }
    }

    /// The present view.
    #[must_use]
    pub fn status(&self, now: Time) -> Status {
        let (role, proposed_upto) = match &self.proposer {
            Proposer::Idle => (Role::Follower, self.log.chosen_upto()),
            Proposer::Preparing(_) => (Role::Candidate, self.log.chosen_upto()),
            Proposer::Leading(leading) => (Role::Leader, leading.proposed_upto()),
        };
        let peers = self.others().map(|(index, node)| {
            let peer = self.liveness.peer(index);
            PeerStatus {
                node,
                reachable: self.liveness.is_reachable(now, index),
                chosen_upto: peer.last.as_ref().map_or(Slot::ZERO, |last| last.chosen_upto),
                round_trip_us: peer.round_trip_us,
            }
        });
        Status {
            node: self.node,
            role,
            promised: self.acceptor.promised(),
            following: self.view(now),
            chosen_upto: self.log.chosen_upto(),
            applied_upto: self.applied,
            durable_upto: self.durable,
            truncated_upto: self.log.truncated_upto(),
            proposed_upto,
            known_chosen: self.known_chosen(),
            elections: self.elections,
            configuration: self.configurations.newest().configuration.number(),
            configuration_from: self.configurations.newest().from,
            removed: self.removed(),
            peers: peers.collect(),
        }
    }

    /// Whether this node leads, and in which ballot.
    #[must_use]
    pub fn leads(&self) -> Option<Ballot> {
        match &self.proposer {
            Proposer::Leading(leading) => Some(leading.ballot),
            Proposer::Idle | Proposer::Preparing(_) => None,
        }
    }
}
