//! What `/v1/status` says of a node.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use synod_api::Leader;
use synod_kv::http::{
    DamageBody, LeaderHint, MembersBody, PeerBody, RoleName, SnapshotBody, StatusBody,
};
use synod_paxos::{NodeId, PeerStatus, Role, Slot};

use crate::replica::Facts;
use crate::shared::Shared;

/// The body. Parts of it were seen up to a tenth of a second ago.
pub(crate) fn body(
    facts: &Facts,
    shared: &Shared,
    uptime: Duration,
    leader: Option<Leader>,
    damage: Vec<DamageBody>,
) -> StatusBody {
    let snapshot = shared.owner.snapshot();
    let status = snapshot.as_ref().map(|snapshot| &snapshot.status);
    let store = *shared.store.lock().unwrap_or_else(PoisonError::into_inner);
    let applied = shared.state.applied();
    let chosen = status.map_or(applied, |status| status.chosen_upto.max(applied));
    let peers = status.map(|status| status.peers.as_slice()).unwrap_or_default();
    let failures_survivable =
        leader.as_ref().map_or(0, |_| failures_survivable(facts.node, shared));
    StatusBody {
        node: facts.node.0,
        cluster: format!("{:032x}", facts.cluster),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: uptime.as_secs(),
        role: status.map_or(RoleName::Follower, |status| role(status.role)),
        ballot: status.map_or_else(|| "0.0".to_owned(), |status| status.promised.to_string()),
        leader: leader
            .map(|leader| LeaderHint { id: leader.node, url: Some(leader.url.to_string()) }),
        chosen_slot: chosen.0,
        applied_slot: applied.0,
        durable_slot: shared.state.durable().0,
        truncated_slot: status.map_or(0, |status| status.truncated_upto.0),
        revision: shared.state.revision().0,
        compacted_revision: shared.state.compacted().0,
        journal_bytes: shared.journal.bytes_on_disk.load(Relaxed),
        state_bytes: store.file_bytes + store.memtable_bytes,
        state_hash: Some(format!("{:016x}", shared.state.state_hash())),
        snapshot: snapshot_body(shared),
        scrub: shared.scrub.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        damage,
        differs_after_slot: shared.owner.differs_after().map(|slot| slot.0),
        failures_survivable: u32::try_from(failures_survivable).unwrap_or(u32::MAX),
        membership: membership(facts, shared),
        peers: peers.iter().map(|peer| peer_body(peer, chosen)).collect(),
    }
}

/// How many more nodes may fail while the cluster goes on; none when nobody leads.
pub(crate) fn failures_survivable(me: NodeId, shared: &Shared) -> usize {
    let (Some(roster), Some(_)) = (shared.owner.roster(), shared.owner.leader()) else { return 0 };
    let Some(snapshot) = shared.owner.snapshot() else { return 0 };
    let peers = &snapshot.status.peers;
    let is_alive = |node: &&NodeId| {
        **node == me || peers.iter().any(|peer| peer.node == **node && peer.reachable)
    };
    let alive = roster.newest.voters().iter().filter(is_alive).count();
    roster.newest.failures_survivable(alive)
}

/// The members, as far as this node knows.
pub(crate) fn membership(facts: &Facts, shared: &Shared) -> Option<MembersBody> {
    shared.owner.roster().map(|roster| facts.members(&roster))
}

fn snapshot_body(shared: &Shared) -> Option<SnapshotBody> {
    let (fetch, _) = shared.snapshot.get();
    let (from, slot) = fetch.coming?;
    let (bytes, bytes_total) = (fetch.bytes, fetch.bytes_total);
    Some(SnapshotBody { from: from.0, slot: slot.0, bytes, bytes_total })
}

fn role(role: Role) -> RoleName {
    match role {
        Role::Leader => RoleName::Leader,
        Role::Follower => RoleName::Follower,
        Role::Candidate => RoleName::Candidate,
    }
}

fn peer_body(peer: &PeerStatus, chosen: Slot) -> PeerBody {
    PeerBody {
        id: peer.node.0,
        reachable: peer.reachable,
        chosen_slot: peer.chosen_upto.0,
        lag_slots: chosen.0.saturating_sub(peer.chosen_upto.0),
        round_trip_us: Some(peer.round_trip_us).filter(|us| *us > 0),
    }
}
