//! What holding keys against the ledger has shown.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};

use super::ledger::{KeyId, Ledger, Verdict, judge_version};
use crate::NodeId;

const FINDINGS_MAX: usize = 20;

/// A key that does not hold what it has to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `loss` or `violation`.
    pub kind: FindingKind,
    /// The key's name.
    pub key: String,
    /// The node it was read through.
    pub node: NodeId,
    /// What was found, in words.
    pub found: String,
    /// The highest number acknowledged before the read.
    pub acknowledged: u64,
    /// The highest number sent before its end.
    pub sent: u64,
}

/// What is wrong with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingKind {
    /// An acknowledged write is gone.
    Loss,
    /// Something is there that nobody wrote, or that was refused.
    Violation,
}

/// What reading the keys back has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// Keys that were written; all of them are read in the end.
    pub keys: usize,
    /// Reads that were answered and held against the ledger.
    pub reads: u64,
    /// Reads that a node did not answer in the time given.
    pub unanswered: u64,
    /// Answers to writes whose version of the key was held against the ledger.
    pub versions: u64,
    /// Reads and answers that showed the loss of an acknowledged write.
    pub losses: u64,
    /// Reads and answers that showed something that must not be there.
    pub violations: u64,
    /// The first of both, in detail; one a key.
    pub findings: Vec<Finding>,
    /// The keys that lost a write: many reads may show the same loss.
    #[serde(rename = "keys_lost", serialize_with = "count")]
    pub(super) lost: BTreeSet<KeyId>,
}

fn count<S: Serializer>(keys: &BTreeSet<KeyId>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(keys.len() as u64)
}

impl CheckResult {
    /// How many keys lost an acknowledged write.
    pub fn keys_lost(&self) -> usize {
        self.lost.len()
    }

    /// Adds what another check has shown; its keys are the same or more.
    pub(super) fn absorb(&mut self, other: Self) {
        self.keys = self.keys.max(other.keys);
        self.reads += other.reads;
        self.unanswered += other.unanswered;
        self.versions += other.versions;
        self.losses += other.losses;
        self.violations += other.violations;
        self.lost.extend(other.lost);
        other.findings.into_iter().for_each(|finding| self.keep(finding));
    }

    fn keep(&mut self, finding: Finding) {
        let known = |other: &Finding| (other.kind, &other.key) == (finding.kind, &finding.key);
        if self.findings.len() < FINDINGS_MAX && !self.findings.iter().any(known) {
            self.findings.push(finding);
        }
    }

    /// Holds the version that the answer to a key's last write told against the
    /// ledger.
    pub(super) fn note_version(&mut self, ledger: &Ledger, key: KeyId, node: NodeId, version: u64) {
        self.versions += 1;
        let entry = ledger.entry(key);
        self.note(key, judge_version(entry, version), |kind| Finding {
            kind,
            key: String::from_utf8_lossy(&ledger.name(key)).into_owned(),
            node,
            found: format!("version {version} after {} writes", entry.writes),
            acknowledged: entry.acknowledged,
            sent: entry.sent,
        });
    }

    /// Counts a read of a key, or an answer, by what the ledger says of it.
    pub(super) fn note(
        &mut self,
        key: KeyId,
        verdict: Verdict,
        finding: impl FnOnce(FindingKind) -> Finding,
    ) {
        let kind = match verdict {
            Verdict::Consistent => return,
            Verdict::Loss => FindingKind::Loss,
            Verdict::Violation => FindingKind::Violation,
        };
        match kind {
            FindingKind::Loss => {
                self.losses += 1;
                self.lost.insert(key);
            }
            FindingKind::Violation => self.violations += 1,
        }
        self.keep(finding(kind));
    }
}
