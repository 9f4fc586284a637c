//! The results of a batch.

use serde::{Deserialize, Serialize};

use super::Problem;

/// What became of a line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum BatchResultBody {
    /// It was not carried out, or nobody knows.
    Problem {
        /// The line.
        line: u64,
        /// As of a call of its own.
        status: u16,
        /// What is wrong.
        problem: Problem,
    },
    /// A put had effect.
    Put {
        /// The line.
        line: u64,
        /// As of a call of its own.
        status: u16,
        /// The store's revision with this change.
        revision: u64,
        /// The revision that created the key.
        create_revision: u64,
        /// Changes since the creation, which is 1.
        version: u64,
    },
    /// A delete was carried out.
    Delete {
        /// The line.
        line: u64,
        /// As of a call of its own.
        status: u16,
        /// The store's revision with this change, if there was one.
        revision: u64,
        /// How many keys were removed: 0 or 1.
        deleted: u64,
    },
}
