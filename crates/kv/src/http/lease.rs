//! Leases, locks and elections, as the calls about them say and take them.

use serde::{Deserialize, Serialize};

use super::{KeyText, ValueText};

/// `POST /v1/lease`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GrantBody {
    /// How long the lease lives without being renewed, such as `30s`.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[1-9][0-9]*(ms|s)$"))]
    pub ttl: String,
    /// Its id, below 2^52. If it is not said it gets one of its own from there on, which is
    /// below 2^53 and never given to another lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 4_503_599_627_370_495_i64))]
    pub id: Option<u64>,
}

/// A lease that was granted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GrantedBody {
    /// Its id.
    pub id: u64,
    /// How long it lives without being renewed, in milliseconds.
    pub ttl_ms: u64,
    /// The store's revision, which a grant does not change.
    pub revision: u64,
}

/// `POST /v1/lease/keepalive`: renews many.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct KeepAliveBody {
    /// The leases.
    #[cfg_attr(feature = "openapi", schema(max_items = 4096))]
    pub ids: Vec<u64>,
}

/// Leases that were renewed, in the order asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeptBody {
    /// Each of them.
    pub leases: Vec<KeptLease>,
}

/// A lease that was renewed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeptLease {
    /// Its id.
    pub id: u64,
    /// How long it lives from now on without being renewed again, in milliseconds; none if
    /// there is no such lease any more.
    pub ttl_ms: Option<u64>,
}

/// A lease that was ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevokedBody {
    /// Its id.
    pub id: u64,
    /// The store's revision with that.
    pub revision: u64,
    /// How many keys went with it.
    pub deleted: u64,
    /// It has further keys, which go soon.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// A lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaseBody {
    /// Its id.
    pub id: u64,
    /// How long it lives without being renewed, in milliseconds.
    pub ttl_ms: u64,
    /// The cluster time when it was granted, in milliseconds.
    pub granted_ms: u64,
    /// How long it still lives at the least, in milliseconds. Only the node that keeps the
    /// time knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    /// It is coming to its end: it takes no keys and can't be renewed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ending: bool,
    /// The keys that live under it, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<KeyText>>,
    /// Where the next page of keys begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A page of leases in the order of their ids.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeasesBody {
    /// The leases.
    pub leases: Vec<LeaseBody>,
    /// Where the next page begins. It shows the leases that are there when it is asked for, not
    /// those of the time of this page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// `POST /v1/lock/{name}` and `POST /v1/election/{name}`.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ClaimBody {
    /// How long it is held without being kept alive, under a lease of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(pattern = "^[1-9][0-9]*(ms|s)$"))]
    pub ttl: Option<String>,
    /// The lease under which it is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
    /// How long to wait for it; not at all if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(pattern = "^(0|[1-9][0-9]*)(ms|s)$"))]
    pub wait: Option<String>,
    /// What the winner of an election says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The same in base64, for what is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

/// A lock that is held, or an election that was won.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HeldBody {
    /// The lease under which it is held: to be kept alive.
    pub lease: u64,
    /// The fencing token, higher than that of every holder before.
    pub token: u64,
    /// How long the lease lives without being renewed, in milliseconds.
    pub ttl_ms: u64,
}

/// A lock that was let go, or an office that was laid down.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReleasedBody {
    /// The lease under which it was held.
    pub lease: u64,
    /// The token that is of no use any more.
    pub token: u64,
    /// The store's revision with that.
    pub revision: u64,
}

/// Who holds a lock, or won an election.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HolderBody {
    /// Whether anybody does.
    pub held: bool,
    /// The lease under which it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
    /// The fencing token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// How long the lease still lives at the least, in milliseconds. Only the node that keeps
    /// the time knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    /// What the winner of an election says.
    #[serde(default, skip_serializing_if = "Option::is_none", flatten)]
    #[cfg_attr(feature = "openapi", schema(value_type = super::schema::MaybeValue))]
    pub value: Option<ValueText>,
    /// How many wait for it.
    pub waiters: u64,
}
