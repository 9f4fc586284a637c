//! Where the leader is to be asked.

use serde::{Deserialize, Serialize};

use super::LeaderHint;

/// The body of a 307.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RedirectBody {
    /// What to do about it.
    pub detail: String,
    /// Who leads.
    pub leader: LeaderHint,
    /// The same target at the leader, as in the header of this name.
    pub location: String,
}
