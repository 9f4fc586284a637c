//! Errors as problem documents (RFC 9457).

use serde::{Deserialize, Serialize};

/// An `application/problem+json` body.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// Which problem: stable, for programs. See [`ProblemKind::as_type`].
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for people, in few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, and what to do about it.
    pub detail: String,
    /// Whether the request may have had an effect.
    pub outcome: Effect,
    /// Who leads, where that helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderHint>,
    /// With a failed precondition: the key's `mod_revision`; none when the key
    /// does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<u64>,
    /// With a compacted revision: the oldest one that can be asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_revision: Option<u64>,
}

/// Whether a request that failed may have had an effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It had none and will have none.
    NotApplied,
    /// It may have had one, or have it later. Retry only with an idempotency key.
    Unknown,
}

/// The leader as far as the answering node knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaderHint {
    /// Its node id.
    pub id: u32,
    /// Where it serves clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Every problem that a node reports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProblemKind {
    /// The request is not well formed.
    BadRequest,
    /// No key in a path, or the key is not percent-encoded.
    BadKey,
    /// An id in a path is not a number, or one that nothing has.
    BadId,
    /// A query parameter has a wrong value.
    BadQuery,
    /// The call has no query parameter of this name.
    UnknownParameter,
    /// A query parameter is given twice.
    DoubledParameter,
    /// The call needs a query parameter that is not there.
    MissingParameter,
    /// Query parameters say what can't be together.
    ContradictoryParameters,
    /// A header that matters has a wrong value.
    BadHeader,
    /// A header that may come once comes twice.
    DoubledHeader,
    /// Headers say what can't be together.
    ContradictoryHeaders,
    /// What should be JSON is not.
    BadJson,
    /// What should be JSON is not even UTF-8.
    BadUtf8,
    /// A member in JSON has a wrong type or value.
    BadMember,
    /// There is no member of this name in JSON here.
    UnknownMember,
    /// A member in JSON is given twice.
    DoubledMember,
    /// A member is missing in JSON.
    MissingMember,
    /// Members in JSON say what can't be together.
    ContradictoryMembers,
    /// Bytes in JSON are not in base64.
    BadBase64,
    /// A transaction has too many operations or comparisons.
    TooManyOperations,
    /// A branch of a transaction writes a key twice.
    WrittenTwice,
    /// A transaction is too large for the log, or what it brings back for an answer.
    TxnTooLarge,
    /// The key is longer than the node takes.
    KeyTooLong,
    /// The value or the whole body is longer than the node takes.
    BodyTooLarge,
    /// The headers are longer than the node takes.
    HeadersTooLarge,
    /// The request did not arrive in time.
    RequestTimeout,
    /// There is no such key.
    KeyNotFound,
    /// The revision is not kept any more.
    Compacted,
    /// The revision is not here yet.
    FutureRevision,
    /// There is no such resource.
    NotFound,
    /// The resource does not know the method.
    MethodNotAllowed,
    /// The revision was compacted before, so there is nothing to do.
    AlreadyCompacted,
    /// `If-Match` or `If-None-Match` does not hold.
    PreconditionFailed,
    /// The idempotency key was used for another request.
    IdempotencyMismatch,
    /// There is no such lease, or it is coming to its end.
    LeaseNotFound,
    /// There is a lease with this id already.
    LeaseExists,
    /// There is no room for another lease.
    LeasesFull,
    /// Somebody else holds the lock, or won the election.
    LockHeld,
    /// The lock is not held with this token.
    LockNotHeld,
    /// No member of the cluster has this id.
    NoSuchMember,
    /// A change does not fit the members as they are.
    MemberConflict,
    /// A change of the members is still on its way.
    ChangePending,
    /// A change of the members would stop the cluster, or leave it weaker than it seems.
    ChangeUnsafe,
    /// Nobody took the leader's office over in time.
    NotTransferred,
    /// No more idempotency keys can be remembered now.
    IdempotencyFull,
    /// The attempt was under way for longer than its idempotency key may be remembered.
    IdempotencyLate,
    /// The disks of too many nodes are below their reserve.
    NoRoom,
    /// Too many requests wait already.
    Overloaded,
    /// No leader with a quorum was found in time.
    NoLeader,
    /// The node can't serve yet, or not any more.
    NotReady,
    /// The time for the answer is over.
    Timeout,
    /// The answer was lost: the node caught up by a way that skips it.
    OutcomeUnknown,
    /// The node stops.
    ShuttingDown,
    /// The node has failed.
    Internal,
}

impl ProblemKind {
    /// All of them.
    pub const ALL: [ProblemKind; 54] = [
        ProblemKind::BadRequest,
        ProblemKind::BadKey,
        ProblemKind::BadId,
        ProblemKind::BadQuery,
        ProblemKind::UnknownParameter,
        ProblemKind::DoubledParameter,
        ProblemKind::MissingParameter,
        ProblemKind::ContradictoryParameters,
        ProblemKind::BadHeader,
        ProblemKind::DoubledHeader,
        ProblemKind::ContradictoryHeaders,
        ProblemKind::BadJson,
        ProblemKind::BadUtf8,
        ProblemKind::BadMember,
        ProblemKind::UnknownMember,
        ProblemKind::DoubledMember,
        ProblemKind::MissingMember,
        ProblemKind::ContradictoryMembers,
        ProblemKind::BadBase64,
        ProblemKind::TooManyOperations,
        ProblemKind::WrittenTwice,
        ProblemKind::TxnTooLarge,
        ProblemKind::KeyTooLong,
        ProblemKind::BodyTooLarge,
        ProblemKind::HeadersTooLarge,
        ProblemKind::RequestTimeout,
        ProblemKind::KeyNotFound,
        ProblemKind::Compacted,
        ProblemKind::FutureRevision,
        ProblemKind::NotFound,
        ProblemKind::MethodNotAllowed,
        ProblemKind::AlreadyCompacted,
        ProblemKind::PreconditionFailed,
        ProblemKind::IdempotencyMismatch,
        ProblemKind::LeaseNotFound,
        ProblemKind::LeaseExists,
        ProblemKind::LeasesFull,
        ProblemKind::LockHeld,
        ProblemKind::LockNotHeld,
        ProblemKind::NoSuchMember,
        ProblemKind::MemberConflict,
        ProblemKind::ChangePending,
        ProblemKind::ChangeUnsafe,
        ProblemKind::NotTransferred,
        ProblemKind::IdempotencyFull,
        ProblemKind::IdempotencyLate,
        ProblemKind::NoRoom,
        ProblemKind::Overloaded,
        ProblemKind::NoLeader,
        ProblemKind::NotReady,
        ProblemKind::Timeout,
        ProblemKind::OutcomeUnknown,
        ProblemKind::ShuttingDown,
        ProblemKind::Internal,
    ];

    /// The stable `type`.
    #[must_use]
    pub const fn as_type(self) -> &'static str {
        self.parts().0
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.parts().1
    }

    /// The title.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.parts().2
    }

    /// The kind with this `type`; none for one of a later release.
    #[must_use]
    pub fn from_type(text: &str) -> Option<Self> {
        ProblemKind::ALL.into_iter().find(|kind| kind.as_type() == text)
    }

    const fn parts(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::BadRequest => ("urn:synod:bad-request", 400, "Malformed request"),
            Self::BadKey => ("urn:synod:bad-key", 400, "Malformed key"),
            Self::BadId => ("urn:synod:bad-id", 400, "Malformed id"),
            Self::BadQuery => ("urn:synod:bad-query", 400, "Wrong value of a parameter"),
            Self::UnknownParameter => ("urn:synod:unknown-parameter", 400, "Unknown parameter"),
            Self::DoubledParameter => {
                ("urn:synod:doubled-parameter", 400, "Parameter is given twice")
            }
            Self::MissingParameter => ("urn:synod:missing-parameter", 400, "Parameter is missing"),
            Self::ContradictoryParameters => {
                ("urn:synod:contradictory-parameters", 400, "Parameters contradict each other")
            }
            Self::BadHeader => ("urn:synod:bad-header", 400, "Wrong value of a header"),
            Self::DoubledHeader => ("urn:synod:doubled-header", 400, "Header is given twice"),
            Self::ContradictoryHeaders => {
                ("urn:synod:contradictory-headers", 400, "Headers contradict each other")
            }
            Self::BadJson => ("urn:synod:bad-json", 400, "Malformed JSON"),
            Self::BadUtf8 => ("urn:synod:bad-utf8", 400, "Malformed UTF-8"),
            Self::BadMember => ("urn:synod:bad-member", 400, "Wrong value in JSON"),
            Self::UnknownMember => ("urn:synod:unknown-member", 400, "Unknown member in JSON"),
            Self::DoubledMember => {
                ("urn:synod:doubled-member", 400, "Member is given twice in JSON")
            }
            Self::MissingMember => ("urn:synod:missing-member", 400, "Member is missing in JSON"),
            Self::ContradictoryMembers => {
                ("urn:synod:contradictory-members", 400, "Members in JSON contradict each other")
            }
            Self::BadBase64 => ("urn:synod:bad-base64", 400, "Malformed base64"),
            Self::TooManyOperations => {
                ("urn:synod:too-many-operations", 400, "Too many operations")
            }
            Self::WrittenTwice => ("urn:synod:written-twice", 400, "Two writes to one key"),
            Self::TxnTooLarge => ("urn:synod:transaction-too-large", 413, "Transaction too large"),
            Self::KeyTooLong => ("urn:synod:key-too-long", 414, "Key too long"),
            Self::BodyTooLarge => ("urn:synod:body-too-large", 413, "Body too large"),
            Self::HeadersTooLarge => ("urn:synod:headers-too-large", 431, "Headers too large"),
            Self::RequestTimeout => ("urn:synod:request-timeout", 408, "Request too slow"),
            Self::KeyNotFound => ("urn:synod:key-not-found", 404, "Key not found"),
            Self::Compacted => ("urn:synod:compacted", 410, "Revision is compacted"),
            Self::FutureRevision => ("urn:synod:future-revision", 400, "No such revision yet"),
            Self::NotFound => ("urn:synod:not-found", 404, "No such resource"),
            Self::MethodNotAllowed => ("urn:synod:method-not-allowed", 405, "Method not allowed"),
            Self::AlreadyCompacted => {
                ("urn:synod:already-compacted", 409, "Revision was compacted before")
            }
            Self::PreconditionFailed => {
                ("urn:synod:precondition-failed", 412, "Precondition failed")
            }
            Self::IdempotencyMismatch => (
                "urn:synod:idempotency-mismatch",
                422,
                "Idempotency key was used for another request",
            ),
            Self::LeaseNotFound => ("urn:synod:lease-not-found", 404, "Lease not found"),
            Self::LeaseExists => ("urn:synod:lease-exists", 409, "Lease exists"),
            Self::LeasesFull => ("urn:synod:leases-full", 503, "Too many leases"),
            Self::LockHeld => ("urn:synod:lock-held", 409, "Held by another"),
            Self::LockNotHeld => ("urn:synod:lock-not-held", 409, "Not held with this token"),
            Self::NoSuchMember => ("urn:synod:no-such-member", 404, "No such member"),
            Self::MemberConflict => ("urn:synod:member-conflict", 409, "Conflict with the members"),
            Self::ChangePending => {
                ("urn:synod:change-pending", 409, "Another change of the members is on its way")
            }
            Self::ChangeUnsafe => ("urn:synod:change-unsafe", 409, "Change would not be safe now"),
            Self::NotTransferred => ("urn:synod:not-transferred", 503, "Nobody took over"),
            Self::IdempotencyFull => {
                ("urn:synod:idempotency-full", 503, "Too many idempotency keys")
            }
            Self::IdempotencyLate => {
                ("urn:synod:idempotency-late", 503, "Too late for its idempotency key")
            }
            Self::NoRoom => ("urn:synod:no-room", 507, "No room on the disks"),
            Self::Overloaded => ("urn:synod:overloaded", 503, "Overloaded"),
            Self::NoLeader => ("urn:synod:no-leader", 503, "No leader"),
            Self::NotReady => ("urn:synod:not-ready", 503, "Not ready"),
            Self::Timeout => ("urn:synod:timeout", 503, "No answer in time"),
            Self::OutcomeUnknown => ("urn:synod:outcome-unknown", 503, "Outcome unknown"),
            Self::ShuttingDown => ("urn:synod:shutting-down", 503, "Shutting down"),
            Self::Internal => ("urn:synod:internal", 500, "Internal error"),
        }
    }
}

impl Problem {
    /// A problem without the optional members.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>, outcome: Effect) -> Self {
        Problem {
            kind: kind.as_type().to_owned(),
            title: kind.title().to_owned(),
            status: kind.status(),
            detail: detail.into(),
            outcome,
            leader: None,
            current_revision: None,
            oldest_revision: None,
        }
    }

    /// Which problem; none for one of a later release.
    #[must_use]
    pub fn kind(&self) -> Option<ProblemKind> {
        ProblemKind::from_type(&self.kind)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_has_the_members_of_the_rfc_and_its_outcome() {
        let mut problem =
            Problem::new(ProblemKind::NoLeader, "No quorum answers.", Effect::NotApplied);
        problem.leader = Some(LeaderHint { id: 3, url: None });
        let written = json!({
            "type": "urn:synod:no-leader", "title": "No leader", "status": 503,
            "detail": "No quorum answers.", "outcome": "not_applied", "leader": {"id": 3},
        });
        assert_eq!(serde_json::to_value(&problem).unwrap(), written);
        assert_eq!(serde_json::from_value::<Problem>(written).unwrap(), problem);
    }

    #[test]
    fn every_kind_is_found_by_its_type() {
        for kind in ProblemKind::ALL {
            assert_eq!(ProblemKind::from_type(kind.as_type()), Some(kind));
            assert!((400..600).contains(&kind.status()));
        }
        assert_eq!(ProblemKind::from_type("urn:synod:of-a-later-release"), None);
    }
}
