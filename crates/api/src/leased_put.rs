//! `PUT /v1/kv/{key}?lease=ID` and `?ttl=30s`: a key that lives as long as a lease. It is a
//! transaction of one put, with the precondition as what it compares, and is answered as a put.

use bytes::Bytes;
use synod_kv::read::ReadError;
use synod_kv::{
    Command, Compare, Condition, IdempotencyKey, LeaseId, Operation, Outcome, Relation, Revision,
    Target, Txn, TxnOperation, TxnResult, lease as leases,
};

use crate::call::{self, Deadline, Name};
use crate::context::{Context, Wrote};
use crate::lease;
use crate::limits::Limits;
use crate::problem::Problem;
use crate::refusal::refused;
use crate::replica::Replica;
use crate::target::{self, Query, decimal};
use crate::withdrawal::Granted;

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
            (Some(_), Some(_)) => Err(target::contradictory(
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
    let is_named = name.is_some();
    let idempotency = name.clone().map(|name| {
        let (word, number): (&[u8], u64) = match attach {
            Attach::To(id) => (b"lease", id.0),
            Attach::Own { ttl_ms } => (b"ttl", ttl_ms),
        };
        let Put { key, value, condition, want_previous } = &put;
        let parts: [&[u8]; 3] = [key, word, &number.to_le_bytes()];
        call::name_write(name, "PUT", &parts, *condition, *want_previous, value)
    });
    let own = match attach {
        Attach::To(_) => None,
        Attach::Own { ttl_ms } => {
            // Named after the whole request: another one under its name gets no lease of it.
            let request = idempotency.as_ref().map(|name| name.request_hash.to_le_bytes());
            let named = name.zip(request);
            let named = named.map(|(name, request)| lease::name_own(&name, &[&request], ttl_ms));
            Some(Own::grant(context, ttl_ms, named, deadline).await?)
        }
    };
    let id = match (attach, &own) {
        (_, Some(own)) => own.id,
        (Attach::To(id), None) => id,
        (Attach::Own { .. }, None) => unreachable!("was granted above"),
    };
    let operation = Operation::Txn(transaction(put, id));
    let wrote = context.write(Command { idempotency, operation }, deadline).await;
    let wrote = wrote.map(|wrote| Wrote { outcome: as_of_a_put(wrote.outcome), ..wrote });
    if let Some(own) = own.filter(|own| own.is_left_over(&wrote, is_named)) {
        // If this fails, the lease ends by itself.
        let _ = context.write(lease::revocation(own.id), deadline).await;
    }
    Ok((id, wrote?))
}

/// A lease that was made for a put alone.
struct Own {
    id: LeaseId,
    /// An earlier attempt under its name was granted it, and it was over by now: it was granted
    /// once more when the store was at this revision.
    renewed_at: Option<Revision>,
}

impl Own {
    async fn grant<R: Replica>(
        context: &Context<R>,
        ttl_ms: u64,
        named: Option<IdempotencyKey>,
        deadline: Deadline,
    ) -> Result<Self, Problem> {
        if named.is_none() {
            let granted = Granted::ask(context, ttl_ms, deadline).await?.map_err(refused)?;
            return Ok(Own { id: granted.take(), renewed_at: None });
        }
        let id = match lease::grant(context, None, ttl_ms, named, deadline).await?.outcome {
            Outcome::LeaseGranted { id, .. } => id,
            refusal => return Err(refused(refusal)),
        };
        let find = |map: &R::Map| leases::find(map, id).map_err(ReadError::Map);
        // What was granted is in the state here: if it is not there it was, and is over. What
        // became of the put of that attempt only the put under its name tells, which must find
        // a lease: that there is none would be its outcome for good.
        if context.replica.read(find)?.is_some() {
            return Ok(Own { id, renewed_at: None });
        }
        let before = context.replica.revision();
        match lease::grant(context, Some(id), ttl_ms, None, deadline).await?.outcome {
            Outcome::LeaseGranted { .. } => Ok(Own { id, renewed_at: Some(before) }),
            // By another attempt.
            Outcome::LeaseExists { .. } => Ok(Own { id, renewed_at: None }),
            refusal => Err(refused(refusal)),
        }
    }

    /// Whether no key lives, or will live, under this lease.
    fn is_left_over(&self, wrote: &Result<Wrote, Problem>, is_named: bool) -> bool {
        match wrote {
            Ok(Wrote { outcome: Outcome::Stored { revision, .. }, .. }) => {
                // The put of an earlier attempt, whose key went with the lease of its time.
                self.renewed_at.is_some_and(|before| *revision <= before)
            }
            // Other attempts under the name know more than this one.
            Ok(Wrote { outcome: Outcome::IdempotencyLate { .. }, .. }) => false,
            // What is not remembered another attempt under the name may meet otherwise.
            Ok(Wrote { outcome, .. }) => {
                !is_named
                    || matches!(
                        outcome,
                        Outcome::ConditionFailed { .. }
                            | Outcome::IdempotencyMismatch { .. }
                            | Outcome::LeaseNotFound { .. }
                            | Outcome::TxnTooLarge { .. }
                    )
            }
            // They may still use it.
            Err(problem) => !is_named && problem.has_no_effect(),
        }
    }
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
