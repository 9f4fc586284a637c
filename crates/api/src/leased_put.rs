//! `PUT /v1/kv/{key}?lease=ID` and `?ttl=30s`: a key that lives as long as a lease. It is a
//! transaction of one put, with the precondition as what it compares, and is answered as a put.

use bytes::Bytes;
use synod_kv::{
    Command, Compare, Condition, LeaseId, Operation, Outcome, Relation, Revision, Target, Txn,
    TxnOperation, TxnResult,
};

use crate::call::{self, Deadline, Name};
use crate::context::{Context, Wrote};
use crate::key::refused;
use crate::lease;
use crate::limits::Limits;
use crate::problem::Problem;
use crate::replica::Replica;
use crate::target::{self, Query, decimal};

/// What a key is to live under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Attach {
    /// This lease.
    To(LeaseId),
    /// One of its own.
    Own { ttl_ms: u64 },
}

/// A put.
#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) condition: Condition,
    pub(crate) want_previous: bool,
}

impl Attach {
    /// What the parameters of a put say.
    ///
    /// # Errors
    /// A parameter that is malformed, or both of them.
    pub(crate) fn of(query: &Query<'_>, limits: &Limits) -> Result<Option<Self>, Problem> {
        match (query.raw("lease"), query.raw("ttl")) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(target::invalid(
                "ttl",
                "makes a lease for this key alone, and 'lease' names one that is there: send one \
                 of them",
            )),
            (Some(id), None) => match decimal(id) {
                Some(id @ 1..) => Ok(Some(Attach::To(LeaseId(id)))),
                _ => Err(target::invalid("lease", "is the id of a lease, a number from 1 on")),
            },
            (None, Some(ttl)) => {
                let ttl_ms = lease::ttl_of(ttl, limits);
                let ttl_ms = ttl_ms.map_err(|should| target::invalid("ttl", &should))?;
                Ok(Some(Attach::Own { ttl_ms }))
            }
        }
    }
}

/// Carries the put out. Answers what a plain one would have come to, and the lease.
///
/// # Errors
/// As of a plain put, or when there is no such lease.
pub(crate) async fn write<R: Replica>(
    context: &Context<R>,
    attach: Attach,
    put: Put,
    name: Option<Name>,
    deadline: Deadline,
) -> Result<(LeaseId, Wrote), Problem> {
    let id = match attach {
        Attach::To(id) => id,
        Attach::Own { ttl_ms } => {
            let named = name.as_ref().map(|name| lease::name_own(name, &[&put.key], ttl_ms));
            match lease::grant(context, None, ttl_ms, named, deadline).await?.outcome {
                Outcome::LeaseGranted { id, .. } => id,
                refusal => return Err(refused(refusal)),
            }
        }
    };
    let idempotency = name.map(|name| {
        let (word, number): (&[u8], u64) = match attach {
            Attach::To(id) => (b"lease", id.0),
            Attach::Own { ttl_ms } => (b"ttl", ttl_ms),
        };
        let Put { key, value, condition, want_previous } = &put;
        let parts: [&[u8]; 3] = [key, word, &number.to_le_bytes()];
        call::name_write(name, "PUT", &parts, *condition, *want_previous, value)
    });
    let operation = Operation::Txn(transaction(put, id));
    let wrote = context.write(Command { idempotency, operation }, deadline).await?;
    let outcome = as_of_a_put(wrote.outcome);
    if attach != Attach::To(id) && matches!(outcome, Outcome::ConditionFailed { .. }) {
        // If this fails, the lease ends by itself.
        let _ = context.write(lease::revocation(id), deadline).await;
    }
    Ok((id, Wrote { outcome, ..wrote }))
}

/// The put, if its precondition holds, else a look at the key without its value.
fn transaction(put: Put, id: LeaseId) -> Txn {
    let Put { key, value, condition, want_previous } = put;
    let compare = |relation, target| Compare { key: key.clone(), relation, target };
    let exists = || compare(Relation::Greater, Target::Version(0));
    let compares = match condition {
        Condition::Always => vec![],
        Condition::Absent => vec![compare(Relation::Equal, Target::Version(0))],
        Condition::Exists => vec![exists()],
        // A key that is not there has 0 for its revision.
        Condition::At(at) => vec![exists(), compare(Relation::Equal, Target::Mod(at))],
    };
    let end = Bytes::from([key.as_ref(), b"\0"].concat());
    let look =
        TxnOperation::Range { start: key.clone(), end: Some(end), limit: 1, keys_only: true };
    let success = vec![TxnOperation::Put { key, value, lease: Some(id), want_previous }];
    Txn { compares, success, failure: vec![look] }
}

fn as_of_a_put(outcome: Outcome) -> Outcome {
    let Outcome::Txn { revision, succeeded, mut results } = outcome else {
        return outcome;
    };
    match (succeeded, results.pop()) {
        (true, Some(TxnResult::Put { create_revision, version, previous })) => {
            Outcome::Stored { revision, create_revision, version, previous }
        }
        (false, Some(TxnResult::Range { entries, .. })) => {
            let current: Option<Revision> = entries.first().map(|entry| entry.record.mod_revision);
            Outcome::ConditionFailed { revision, current }
        }
        (_, other) => {
            let results = other.into_iter().collect();
            Outcome::Txn { revision, succeeded, results }
        }
    }
}
