//! What an operator may say about old revisions.

use serde::Deserialize;
use synod_kv::KvOptions;

use crate::settings::{Wrong, within, wrong};

/// For how long what was replaced or removed stays readable and watchable. The leader's
/// settings decide.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistorySettings {
    /// For this long at the least, in milliseconds of cluster time; 0 for as long as the
    /// number of revisions allows.
    pub keep_ms: u64,
    /// So many revisions at the most; 0 for any number.
    pub revisions_max: u64,
}

impl Default for HistorySettings {
    fn default() -> Self {
        let KvOptions { compaction_age_ms, compaction_revisions_max, .. } = KvOptions::default();
        HistorySettings { keep_ms: compaction_age_ms, revisions_max: compaction_revisions_max }
    }
}

impl HistorySettings {
    pub(crate) fn check(&self) -> Result<(), Wrong> {
        within("history.keep_ms", self.keep_ms, 0, 366 * 86_400_000)?;
        within("history.revisions_max", self.revisions_max, 0, 1 << 40)?;
        if self.keep_ms == 0 && self.revisions_max == 0 {
            let reason = "and history.keep_ms are both 0, so that nothing would ever be dropped";
            return wrong("history.revisions_max", reason);
        }
        Ok(())
    }

    /// The state machine's options. What is not said here is the same for all clusters.
    pub(crate) fn kv_options(&self) -> KvOptions {
        KvOptions {
            compaction_age_ms: self.keep_ms,
            compaction_revisions_max: self.revisions_max,
            ..KvOptions::default()
        }
    }
}
