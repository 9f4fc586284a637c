//! What an operator may say about the search for damage.

use serde::Deserialize;

use crate::settings::{Wrong, within};

/// How often everything on the disk is read to find damage, and how fast.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubSettings {
    /// From one reading of everything to the next; 0 for none.
    pub interval_s: u64,
    /// Bytes that are read in a second.
    pub rate_bytes_per_s: u64,
}

impl Default for ScrubSettings {
    fn default() -> Self {
        ScrubSettings { interval_s: 24 * 60 * 60, rate_bytes_per_s: 8 << 20 }
    }
}

impl ScrubSettings {
    pub(crate) fn check(&self) -> Result<(), Wrong> {
        within("scrub.interval_s", self.interval_s, 0, 366 * 86_400)?;
        within("scrub.rate_bytes_per_s", self.rate_bytes_per_s, 64 << 10, 64 << 30)
    }
}
