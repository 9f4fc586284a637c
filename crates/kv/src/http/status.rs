//! What `/v1/status` says.

use serde::{Deserialize, Serialize};

use super::{LeaderHint, MembersBody};

/// One node's view of itself and of its cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StatusBody {
    /// This node's id.
    pub node: u32,
    /// The cluster's id, in hexadecimal.
    pub cluster: String,
    /// The release of this node.
    pub version: String,
    /// Seconds since this process started.
    pub uptime_seconds: u64,
    /// This node's part.
    pub role: RoleName,
    /// The ballot in force here, as `round.node`.
    pub ballot: String,
    /// Who leads; none while nobody is known to.
    pub leader: Option<LeaderHint>,
    /// Every slot up to here is known as chosen.
    pub chosen_slot: u64,
    /// Every slot up to here is applied.
    pub applied_slot: u64,
    /// Applied up to here in a way that survives a crash without the journal.
    pub durable_slot: u64,
    /// The journal holds nothing at or below this slot.
    pub truncated_slot: u64,
    /// The store's revision.
    pub revision: u64,
    /// The oldest revision that can be read.
    #[serde(default)]
    pub compacted_revision: u64,
    /// The journal on disk.
    pub journal_bytes: u64,
    /// The state on disk.
    pub state_bytes: u64,
    /// A hash over the effects of every applied slot, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_hash: Option<String>,
    /// The state of a peer that is on its way to this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotBody>,
    /// What the last reading of the whole disk found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<ScrubBody>,
    /// The last damage that was found in each part of the node's disk, now or in an earlier life
    /// of this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damage: Vec<DamageBody>,
    /// The slot after which a peer's state was another one, and nobody knows which of the two
    /// is right; none when none is known to differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differs_after_slot: Option<u64>,
    /// How many more nodes may fail now while the cluster goes on.
    pub failures_survivable: u32,
    /// The members as this node knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<MembersBody>,
    /// The other members.
    pub peers: Vec<PeerBody>,
}

/// A replica's part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    /// It leads.
    Leader,
    /// It follows, or waits for a leader.
    Follower,
    /// It stands for leader.
    Candidate,
}

impl RoleName {
    /// As it stands in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            RoleName::Leader => "leader",
            RoleName::Follower => "follower",
            RoleName::Candidate => "candidate",
        }
    }
}

/// A state on its way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotBody {
    /// The peer that it comes from.
    pub from: u32,
    /// Its slot; while the peer has not told it, the slot above which it has to be.
    pub slot: u64,
    /// Bytes that are here.
    pub bytes: u64,
    /// Bytes of the whole; 0 while unknown.
    pub bytes_total: u64,
}

/// The reading of every byte of the state and of the journal's full files, to find damage.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct ScrubBody {
    /// When it last came to its end, in seconds since 1970; none if it never did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at_s: Option<u64>,
    /// Bytes that it read then.
    pub bytes: u64,
    /// Bytes that the one under way has read; 0 when none is.
    pub bytes_now: u64,
}

/// What of a node's disk is damaged, or was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DamageBody {
    /// The part.
    pub part: DamagedPart,
    /// What is wrong with it.
    pub what: String,
    /// When that was found, in seconds since 1970.
    pub found_at_s: u64,
    /// When it was mended, or found to be gone, in seconds since 1970; null while it is not.
    pub mended_at_s: Option<u64>,
}

/// A part of a node's disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DamagedPart {
    /// What the applied slots made.
    State,
    /// What the node promised and accepted.
    Journal,
}

/// Another member as this node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerBody {
    /// Its node id.
    pub id: u32,
    /// Heard lately, both ways.
    pub reachable: bool,
    /// Its watermark.
    pub chosen_slot: u64,
    /// How many slots it is behind this node.
    pub lag_slots: u64,
    /// The smoothed round trip in microseconds; none while unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_comes_back() {
        let status = StatusBody {
            node: 1,
            cluster: "0f".to_owned(),
            version: "0.1.0".to_owned(),
            uptime_seconds: 5,
            role: RoleName::Leader,
            ballot: "3.1".to_owned(),
            leader: Some(LeaderHint { id: 1, url: Some("http://127.0.0.1:7001".to_owned()) }),
            chosen_slot: 9,
            applied_slot: 8,
            durable_slot: 7,
            truncated_slot: 6,
            revision: 40,
            compacted_revision: 7,
            journal_bytes: 1 << 20,
            state_bytes: 300,
            state_hash: None,
            snapshot: Some(SnapshotBody { from: 2, slot: 9, bytes: 1, bytes_total: 10 }),
            scrub: Some(ScrubBody { finished_at_s: Some(7), bytes: 9, ..Default::default() }),
            damage: vec![DamageBody {
                part: DamagedPart::Journal,
                what: "a block".to_owned(),
                found_at_s: 5,
                mended_at_s: None,
            }],
            differs_after_slot: Some(4),
            failures_survivable: 1,
            membership: None,
            peers: vec![PeerBody {
                id: 2,
                reachable: true,
                chosen_slot: 9,
                lag_slots: 0,
                round_trip_us: Some(120),
            }],
        };
        let written = serde_json::to_string(&status).unwrap();
        assert!(written.contains(r#""role":"leader""#));
        assert!(
            written.contains(r#""part":"journal""#) && written.contains(r#""mended_at_s":null"#)
        );
        assert_eq!(serde_json::from_str::<StatusBody>(&written).unwrap(), status);
    }
}
