//! What the state machine refuses, as problems.

use synod_kv::http::ProblemKind as Kind;
use synod_kv::{LeaseId, Outcome};

use crate::problem::Problem;

/// What the state machine refused.
pub(crate) fn refused(outcome: Outcome) -> Problem {
    match outcome {
        Outcome::ConditionFailed { revision, current } => {
            let detail = match current {
                Some(current) => format!("The key was last changed at revision {current}."),
                None => "The key does not exist.".to_owned(),
            };
            Problem::new(Kind::PreconditionFailed, detail).at(revision).with_current(current)
        }
        Outcome::LeaseNotFound { revision, id } => lease_not_found(id).at(revision),
        Outcome::LeaseExists { revision, id } => Problem::new(
            Kind::LeaseExists,
            format!("There is a lease {id} already: take another id, or say none."),
        )
        .at(revision),
        Outcome::LeasesFull { revision } => Problem::new(
            Kind::LeasesFull,
            "There is no room for another lease now: end some, or wait until some are over.",
        )
        .at(revision),
        Outcome::IdempotencyMismatch { revision } => Problem::new(
            Kind::IdempotencyMismatch,
            "The Idempotency-Key was used for another request: take a new key.",
        )
        .at(revision),
        Outcome::IdempotencyFull { revision } => Problem::new(
            Kind::IdempotencyFull,
            "No further Idempotency-Key can be remembered for now: try again later, or without a \
             key.",
        )
        .at(revision),
        Outcome::IdempotencyLate { revision } => Problem::new(
            Kind::IdempotencyLate,
            "This attempt did nothing: it was under way for so long, or this node is so far \
             behind, that its Idempotency-Key may be forgotten. Whether another attempt with this \
             key had effect is not known any more, and with a new attempt it could have effect \
             twice: read first.",
        )
        .at(revision)
        .with_effect_unknown(),
        other => {
            // The machine answered another operation than the one that was asked for.
            tracing::error!(outcome = ?other, "an outcome that does not fit its command");
            Problem::new(Kind::Internal, "The outcome does not fit the request.")
                .with_effect_unknown()
        }
    }
}

/// There is no such lease.
pub(crate) fn lease_not_found(id: LeaseId) -> Problem {
    Problem::new(
        Kind::LeaseNotFound,
        format!(
            "There is no lease {id}, or it is coming to its end: its time was over, or it was \
                 ended. Take a new one."
        ),
    )
}
