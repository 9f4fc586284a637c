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

/// Makes [`ProblemKind`] of a table: each kind with the end of its `type`, its status and its title.
macro_rules! problem_kinds {
    ($($(#[$doc:meta])+ $kind:ident = $name:literal, $status:literal, $title:literal;)+) => {
        /// Every problem that a node reports.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum ProblemKind {
            $($(#[$doc])+ $kind,)+
        }

        impl ProblemKind {
            /// All of them.
            pub const ALL: [ProblemKind; [$(ProblemKind::$kind),+].len()] =
                [$(ProblemKind::$kind),+];

            /// The stable `type`, the status and the title.
            const fn parts(self) -> (&'static str, u16, &'static str) {
                match self {
                    $(Self::$kind => (concat!("urn:synod:", $name), $status, $title),)+
                }
            }
        }
    };
}

problem_kinds! {
    /// The request is not well formed.
    BadRequest = "bad-request", 400, "Malformed request";
    /// No key in a path, or the key is not percent-encoded.
    BadKey = "bad-key", 400, "Malformed key";
    /// An id in a path is not a number, or one that nothing has.
    BadId = "bad-id", 400, "Malformed id";
    /// A query parameter has a wrong value.
    BadQuery = "bad-query", 400, "Wrong value of a parameter";
    /// The call has no query parameter of this name.
    UnknownParameter = "unknown-parameter", 400, "Unknown parameter";
    /// A query parameter is given twice.
    DoubledParameter = "doubled-parameter", 400, "Parameter is given twice";
    /// The call needs a query parameter that is not there.
    MissingParameter = "missing-parameter", 400, "Parameter is missing";
    /// Query parameters say what can't be together.
    ContradictoryParameters = "contradictory-parameters", 400, "Parameters contradict each other";
    /// A header that matters has a wrong value.
    BadHeader = "bad-header", 400, "Wrong value of a header";
    /// A header that may come once comes twice.
    DoubledHeader = "doubled-header", 400, "Header is given twice";
    /// Headers say what can't be together.
    ContradictoryHeaders = "contradictory-headers", 400, "Headers contradict each other";
    /// What should be JSON is not.
    BadJson = "bad-json", 400, "Malformed JSON";
    /// What should be JSON is not even UTF-8.
    BadUtf8 = "bad-utf8", 400, "Malformed UTF-8";
    /// A member in JSON has a wrong type or value.
    BadMember = "bad-member", 400, "Wrong value in JSON";
    /// There is no member of this name in JSON here.
    UnknownMember = "unknown-member", 400, "Unknown member in JSON";
    /// A member in JSON is given twice.
    DoubledMember = "doubled-member", 400, "Member is given twice in JSON";
    /// A member is missing in JSON.
    MissingMember = "missing-member", 400, "Member is missing in JSON";
    /// Members in JSON say what can't be together.
    ContradictoryMembers = "contradictory-members", 400, "Members in JSON contradict each other";
    /// Bytes in JSON are not in base64.
    BadBase64 = "bad-base64", 400, "Malformed base64";
    /// A transaction has too many operations or comparisons.
    TooManyOperations = "too-many-operations", 400, "Too many operations";
    /// A branch of a transaction writes a key twice.
    WrittenTwice = "written-twice", 400, "Two writes to one key";
    /// A transaction is too large for the log, or what it brings back for an answer.
    TxnTooLarge = "transaction-too-large", 413, "Transaction too large";
    /// The key is longer than the node takes.
    KeyTooLong = "key-too-long", 414, "Key too long";
    /// The value or the whole body is longer than the node takes.
    BodyTooLarge = "body-too-large", 413, "Body too large";
    /// The headers are longer than the node takes.
    HeadersTooLarge = "headers-too-large", 431, "Headers too large";
    /// The request did not arrive in time.
    RequestTimeout = "request-timeout", 408, "Request too slow";
    /// There is no such key.
    KeyNotFound = "key-not-found", 404, "Key not found";
    /// The revision is not kept any more.
    Compacted = "compacted", 410, "Revision is compacted";
    /// The revision is not here yet.
    FutureRevision = "future-revision", 400, "No such revision yet";
    /// There is no such resource.
    NotFound = "not-found", 404, "No such resource";
    /// The resource does not know the method.
    MethodNotAllowed = "method-not-allowed", 405, "Method not allowed";
    /// The revision was compacted before, so there is nothing to do.
    AlreadyCompacted = "already-compacted", 409, "Revision was compacted before";
    /// `If-Match` or `If-None-Match` does not hold.
    PreconditionFailed = "precondition-failed", 412, "Precondition failed";
    /// The idempotency key was used for another request.
    IdempotencyMismatch = "idempotency-mismatch", 422, "Idempotency key was used for another request";
    /// There is no such lease, or it is coming to its end.
    LeaseNotFound = "lease-not-found", 404, "Lease not found";
    /// There is a lease with this id already.
    LeaseExists = "lease-exists", 409, "Lease exists";
    /// There is no room for another lease.
    LeasesFull = "leases-full", 503, "Too many leases";
    /// Somebody else holds the lock, or won the election.
    LockHeld = "lock-held", 409, "Held by another";
    /// The lock is not held with this token.
    LockNotHeld = "lock-not-held", 409, "Not held with this token";
    /// No member of the cluster has this id.
    NoSuchMember = "no-such-member", 404, "No such member";
    /// A change does not fit the members as they are.
    MemberConflict = "member-conflict", 409, "Conflict with the members";
    /// A change of the members is still on its way.
    ChangePending = "change-pending", 409, "Another change of the members is on its way";
    /// A change of the members would stop the cluster, or leave it weaker than it seems.
    ChangeUnsafe = "change-unsafe", 409, "Change would not be safe now";
    /// Nobody took the leader's office over in time.
    NotTransferred = "not-transferred", 503, "Nobody took over";
    /// No more idempotency keys can be remembered now.
    IdempotencyFull = "idempotency-full", 503, "Too many idempotency keys";
    /// The attempt was under way for longer than its idempotency key may be remembered.
    IdempotencyLate = "idempotency-late", 503, "Too late for its idempotency key";
    /// The disks of too many nodes are below their reserve.
    NoRoom = "no-room", 507, "No room on the disks";
    /// Too many requests wait already.
    Overloaded = "overloaded", 503, "Overloaded";
    /// No leader with a quorum was found in time.
    NoLeader = "no-leader", 503, "No leader";
    /// The node can't serve yet, or not any more.
    NotReady = "not-ready", 503, "Not ready";
    /// The time for the answer is over.
    Timeout = "timeout", 503, "No answer in time";
    /// The answer was lost: the node caught up by a way that skips it.
    OutcomeUnknown = "outcome-unknown", 503, "Outcome unknown";
    /// The node stops.
    ShuttingDown = "shutting-down", 503, "Shutting down";
    /// The node has failed.
    Internal = "internal", 500, "Internal error";
}

impl ProblemKind {
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
