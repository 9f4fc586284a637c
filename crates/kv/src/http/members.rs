//! The members of the cluster, as the calls about them say and take them.

use serde::{Deserialize, Serialize};

/// Who is a member, how many make a quorum, and how each member is reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MembersBody {
    /// The cluster's id, in hexadecimal.
    pub cluster: String,
    /// The number of the newest configuration: how many changes led to it.
    pub configuration: u64,
    /// It is chosen and does not govern yet, or this node has not come so far: wait before
    /// the next change.
    pub pending: bool,
    /// Promises that make a leader.
    pub promise_quorum: u32,
    /// Acceptances that choose a value.
    pub accept_quorum: u32,
    /// How far ahead of the chosen slots a leader may propose.
    pub alpha: u64,
    /// The highest id that was ever a member's. An id is used once.
    pub ids_used_upto: u32,
    /// The members in order of their ids.
    pub members: Vec<MemberBody>,
    /// The cluster's first configuration, which a new member has to know.
    pub first: FirstBody,
}

/// A member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemberBody {
    /// Its node id.
    pub id: u32,
    /// Its part.
    pub role: MemberRole,
    /// The id of its data folder, in hexadecimal; none while nobody has met it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Host and port at which its peers reach it.
    pub peer: String,
    /// The base URL at which its clients reach it.
    pub client_url: String,
}

/// A member's part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// It votes.
    Voter,
    /// It receives everything and is never counted.
    Learner,
}

impl MemberRole {
    /// As it stands in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            MemberRole::Voter => "voter",
            MemberRole::Learner => "learner",
        }
    }
}

/// The configuration that the cluster began with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FirstBody {
    /// Its voters, which were all its members.
    pub voters: Vec<u32>,
    /// Promises that made a leader.
    pub promise_quorum: u32,
    /// Acceptances that chose a value.
    pub accept_quorum: u32,
    /// How far ahead of the chosen slots a leader could propose.
    pub alpha: u64,
    /// The state that it began with, if it was restored from a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<RestoredBody>,
}

/// The state that a cluster began with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RestoredBody {
    /// Everything up to this slot was in it.
    pub slot: u64,
    /// The hash over the effects of all of it, in hexadecimal.
    pub state_hash: String,
}

/// `POST /v1/cluster/members`: a new member, which learns and does not vote.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddMemberBody {
    /// Its node id, which no member ever had.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub id: u32,
    /// The id of its data folder: 32 hexadecimal digits.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[0-9a-fA-F]{32}$"))]
    pub store: String,
    /// Host and port at which its peers reach it.
    pub peer: String,
    /// The base URL at which its clients reach it.
    pub client_url: String,
    /// Only if the newest configuration has this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<u64>,
}

/// `PUT /v1/cluster/members/{id}`: one of a role, a member to be replaced, and new
/// addresses.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ChangeMemberBody {
    /// `voter`: it votes from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<MemberRole>,
    /// It votes from now on, and this one is a member no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u32>,
    /// Host and port at which its peers reach it from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The base URL at which its clients reach it from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_url: Option<String>,
    /// Only if the newest configuration has this number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<u64>,
    /// Also when it is risky, as the refusal says.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// `PUT /v1/cluster/quorums`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct QuorumsBody {
    /// Promises that make a leader.
    pub promise: u32,
    /// Acceptances that choose a value.
    pub accept: u32,
    /// Only if the newest configuration has this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<u64>,
    /// Also when it is risky, as the refusal says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_said_is_not_written() {
        let body = ChangeMemberBody { replaces: Some(3), ..ChangeMemberBody::default() };
        let written = json!({"replaces": 3});
        assert_eq!(serde_json::to_value(&body).unwrap(), written);
        assert_eq!(serde_json::from_value::<ChangeMemberBody>(written).unwrap(), body);
        assert!(serde_json::from_value::<ChangeMemberBody>(json!({"rolle": "voter"})).is_err());
    }
}
