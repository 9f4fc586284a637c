//! What can become of a call.

use synod_kv::Revision;
use synod_kv::http::{Problem, ProblemKind};

/// Why a call gave no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The condition of a write does not hold. Nothing changed.
    #[error("the condition does not hold: {}", current_text(*.current))]
    ConditionFailed {
        /// The revision of the key's last change; none when it does not exist.
        current: Option<Revision>,
    },
    /// A node refused the call, and it had no effect.
    #[error("{} ({})", .0.detail, .0.title)]
    Refused(Box<Problem>),
    /// What the call asks for is not kept any more, and so it had no effect. Read anew, and
    /// watch from behind that.
    #[error("the revision is compacted: the oldest one that is kept is {oldest}")]
    Compacted {
        /// The oldest revision that can be read, or the first that can be watched from.
        oldest: Revision,
    },
    /// A write was sent and no answer came: it may have had effect, may still get
    /// it, or may not.
    #[error("the outcome of the write is unknown after {attempts} attempts: {last}")]
    Ambiguous {
        /// How often it was sent or tried to be sent.
        attempts: u32,
        /// What the last attempt ended with.
        last: String,
        /// The name of the write. Sent again under this name, within ten minutes, it
        /// has effect once in all; a name that this client made is not sent by it after
        /// that, see [`crate::PutOptions::idempotency_key`]. None when it had no name.
        idempotency_key: Option<String>,
    },
    /// No node gave an answer. The call had no effect.
    #[error("no node answered in {attempts} attempts: {last}")]
    Unreachable {
        /// How often it was tried.
        attempts: u32,
        /// What the last attempt ended with.
        last: String,
    },
    /// The call can't be made like this.
    #[error("invalid call: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientError {
    /// Whether the call may have had effect.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Ambiguous { .. })
    }

    /// What a node said when it refused.
    pub(crate) fn of_problem(problem: Box<Problem>) -> Self {
        match (problem.kind(), problem.oldest_revision) {
            (Some(ProblemKind::Compacted), Some(oldest)) => {
                Self::Compacted { oldest: Revision(oldest) }
            }
            _ => Self::Refused(problem),
        }
    }

    /// There is no such lease any more.
    pub(crate) fn is_lease_over(&self) -> bool {
        let Self::Refused(problem) = self else { return false };
        problem.kind() == Some(ProblemKind::LeaseNotFound)
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }
}

fn current_text(current: Option<Revision>) -> String {
    match current {
        Some(revision) => format!("the key was last changed at revision {revision}"),
        None => "the key does not exist".to_owned(),
    }
}
