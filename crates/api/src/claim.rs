//! Locks and elections: who claims one puts a key under a reserved prefix, attached to a lease,
//! and holds it when no claim is older. So claims are served in their order, one that ends
//! gives way to the next, and the revision that created it is a fencing token.
//!
//! To be the oldest is for good: no claim can become older than one that is there. So whoever
//! sees that in its local state, however far that is, may say so.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use synod_kv::http::ValueText;
use synod_kv::read::{self, ChangeQuery, ReadError};
use synod_kv::{
    Command, Compare, Entry, IdempotencyKey, KeyRecord, LeaseId, Operation, Outcome, Relation,
    Revision, Target, Txn, TxnOperation, TxnResult,
};
use tokio::time::{Instant, timeout_at};

use crate::call::Deadline;
use crate::context::{Context, Wrote};
use crate::problem::{Kind, Problem};
use crate::refusal::refused;
use crate::replica::{Refused, Replica};
use crate::response;

/// Changes that one look at the state passes by.
const VISITS_MAX: usize = 2_000;

/// What is claimed: its claims are below this prefix.
#[derive(Clone, Debug)]
pub(crate) struct Office {
    prefix: Bytes,
}

/// What stands in the key of a claim.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Paper {
    /// The lease was made for this claim alone.
    pub(crate) own: bool,
    /// What the holder says.
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    pub(crate) value: Option<ValueText>,
}

/// A claim as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) key: Bytes,
    pub(crate) lease: LeaseId,
    pub(crate) token: Revision,
    pub(crate) paper: Paper,
}

/// The claims of an office, as far as somebody is interested.
#[derive(Clone, Default, Debug)]
pub(crate) struct Line {
    /// The oldest, which holds it.
    pub(crate) first: Option<Claim>,
    /// The one that was asked for.
    pub(crate) own: Option<Claim>,
    /// The youngest of those older than that.
    pub(crate) before: Option<Claim>,
    pub(crate) count: u64,
}

/// How the wait for an office ended.
#[derive(Debug)]
pub(crate) enum Turn {
    /// The claim is the oldest.
    Mine,
    /// The claim is no more.
    Lost,
    /// The time is over, and somebody else has it.
    Late(Claim),
}

impl Claim {
    fn of(entry: Entry) -> Self {
        let Entry { key, record } = entry;
        let KeyRecord { value, create_revision, lease, .. } = record;
        let paper = Paper::of(&value);
        Claim { key, lease: LeaseId(lease), token: create_revision, paper }
    }
}

impl Paper {
    /// What the value of a claim says.
    pub(crate) fn of(value: &[u8]) -> Self {
        // Who writes below the prefix by hand gets what that makes of it.
        serde_json::from_slice(value).unwrap_or_default()
    }
}

impl Office {
    /// The office of this kind and name. No name is the beginning of another one's claims, for
    /// none has a zero byte.
    ///
    /// # Errors
    /// A name that is empty, too long or has a zero byte.
    pub(crate) fn new(kind: &str, name: &[u8], key_bytes_max: usize) -> Result<Self, Problem> {
        if name.contains(&0) {
            let detail = "A name of a lock or an election has no zero bytes.";
            return Err(Problem::new(Kind::BadKey, detail));
        }
        let prefix = Bytes::from([b"_synod/", kind.as_bytes(), b"/", name, b"\0"].concat());
        if prefix.len() + 16 > key_bytes_max {
            let detail = format!("The name has {} bytes and is too long.", name.len());
            return Err(Problem::new(Kind::KeyTooLong, detail));
        }
        Ok(Office { prefix })
    }

    /// What the keys of its claims begin with.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Where the claim of a lease lies.
    pub(crate) fn key(&self, lease: LeaseId) -> Bytes {
        Bytes::from([self.prefix.as_ref(), format!("{:016x}", lease.0).as_bytes()].concat())
    }

    /// The claims in the local state, as [`crate::lines::Lines::claims`] has them.
    pub(crate) async fn line<R: Replica>(
        &self,
        context: &Context<R>,
        token: Option<Revision>,
    ) -> Result<Line, Problem> {
        let limit = context.limits.list_entries_max;
        let claims = context.lines.claims(&context.replica, &self.prefix, limit).await?;
        let mut line = Line::default();
        claims.into_iter().for_each(|entry| line.add(Claim::of(entry), token));
        Ok(line)
    }

    /// Puts a claim for a lease, unless it has one. Answers its token.
    ///
    /// # Errors
    /// When there is no such lease, or no outcome.
    pub(crate) async fn claim<R: Replica>(
        &self,
        context: &Context<R>,
        lease: LeaseId,
        paper: &Paper,
        deadline: Deadline,
    ) -> Result<Result<Revision, LeaseId>, Problem> {
        let key = self.key(lease);
        let txn = Txn {
            compares: vec![compare(&key, Relation::Equal, Target::Version(0))],
            failure: vec![look(&key)],
            success: vec![put(key, paper, lease)],
        };
        let operation = Operation::Txn(txn);
        let Wrote { outcome, .. } =
            context.write(Command { idempotency: None, operation }, deadline).await?;
        match outcome {
            Outcome::Txn { results, revision, .. } => match results.into_iter().next() {
                Some(TxnResult::Put { create_revision, .. }) => Ok(Ok(create_revision)),
                Some(TxnResult::Range { entries, .. }) if !entries.is_empty() => {
                    Ok(Ok(entries[0].record.create_revision))
                }
                other => {
                    let results = other.into_iter().collect();
                    Err(refused(Outcome::Txn { revision, succeeded: false, results }))
                }
            },
            Outcome::LeaseNotFound { id, .. } => Ok(Err(id)),
            other => Err(refused(other)),
        }
    }

    /// Waits until the claim with this token is the oldest.
    ///
    /// # Errors
    /// When the state can't be read.
    pub(crate) async fn wait<R: Replica>(
        &self,
        context: &Context<R>,
        lease: LeaseId,
        token: Revision,
        until: Instant,
    ) -> Result<Turn, Problem> {
        let key = self.key(lease);
        loop {
            let line = self.line(context, Some(token)).await?;
            let (Some(_), Some(before)) = (&line.own, line.before) else {
                return Ok(if line.own.is_some() { Turn::Mine } else { Turn::Lost });
            };
            loop {
                // The revision first: whatever is not seen below comes after it.
                let seen = context.replica.revision();
                if !is_there(context, &key, token)? {
                    return Ok(Turn::Lost);
                }
                if !is_there(context, &before.key, before.token)? {
                    break;
                }
                let next = context.replica.wait_revision(Revision(seen.0 + 1), until);
                match timeout_at(until, next).await.unwrap_or(Err(Refused::Deadline)) {
                    Ok(()) => {}
                    Err(Refused::Deadline) => {
                        return Ok(Turn::Late(line.first.unwrap_or(before)));
                    }
                    Err(refused) => return Err(Problem::of_read(refused)),
                }
            }
        }
    }
}

impl Line {
    fn add(&mut self, claim: Claim, token: Option<Revision>) {
        self.count += 1;
        if token == Some(claim.token) {
            self.own = Some(claim.clone());
        } else if token.is_some_and(|token| claim.token < token)
            && self.before.as_ref().is_none_or(|before| before.token < claim.token)
        {
            self.before = Some(claim.clone());
        }
        if self.first.as_ref().is_none_or(|first| claim.token < first.token) {
            self.first = Some(claim);
        }
    }
}

/// Whether the claim with this token is there, in the local state.
pub(crate) fn is_there<R: Replica>(
    context: &Context<R>,
    key: &Bytes,
    token: Revision,
) -> Result<bool, Problem> {
    let record = context.replica.get(key)?.record;
    Ok(record.is_some_and(|record| record.create_revision == token))
}

fn compare(key: &Bytes, relation: Relation, target: Target) -> Compare {
    Compare { key: key.clone(), relation, target }
}

fn put(key: Bytes, paper: &Paper, lease: LeaseId) -> TxnOperation {
    let value = Bytes::from(response::to_json(paper));
    TxnOperation::Put { key, value, lease: Some(lease), want_previous: false }
}

/// Writes a claim that is the oldest once more: it is still there then, and whoever made it and
/// gave up leaves it alone from now on.
pub(crate) fn confirmation(
    key: Bytes,
    token: Revision,
    lease: LeaseId,
    paper: &Paper,
    idempotency: Option<IdempotencyKey>,
) -> Command {
    let compares = vec![compare(&key, Relation::Equal, Target::Create(token))];
    let txn = Txn { compares, success: vec![put(key, paper, lease)], failure: vec![] };
    Command { idempotency, operation: Operation::Txn(txn) }
}

/// Removes a claim of this token, and brings it back.
pub(crate) fn release(key: Bytes, token: Revision, idempotency: Option<IdempotencyKey>) -> Command {
    let compares = vec![compare(&key, Relation::Equal, Target::Create(token))];
    let delete = TxnOperation::Delete { key, want_previous: true };
    let txn = Txn { compares, success: vec![delete], failure: vec![] };
    Command { idempotency, operation: Operation::Txn(txn) }
}

/// Removes a claim that was made after this revision, or is of this token if one is given, and
/// that nobody was told to hold.
pub(crate) fn withdrawal(key: Bytes, since: Revision, token: Option<Revision>) -> Command {
    let made = match token {
        Some(token) => compare(&key, Relation::Equal, Target::Create(token)),
        None => compare(&key, Relation::Greater, Target::Create(since)),
    };
    let compares = vec![made, compare(&key, Relation::Equal, Target::Version(1))];
    let failure = vec![look(&key)];
    let delete = TxnOperation::Delete { key, want_previous: false };
    let txn = Txn { compares, success: vec![delete], failure };
    Command { idempotency: None, operation: Operation::Txn(txn) }
}

/// Whether there was no claim any more after a withdrawal.
pub(crate) fn is_withdrawn(outcome: &Outcome) -> bool {
    let Outcome::Txn { succeeded, results, .. } = outcome else { return false };
    *succeeded || matches!(&results[..], [TxnResult::Range { entries, .. }] if entries.is_empty())
}

/// Whether somebody may have been told that it holds a claim that is there no more: it was confirmed
/// before it was removed, or what became of it is not kept any more.
///
/// # Errors
/// When the state can't be read.
pub(crate) async fn may_have_been_held<R: Replica>(
    context: &Context<R>,
    key: &Bytes,
    token: Revision,
) -> Result<bool, Problem> {
    let end = Bytes::from([key.as_ref(), b"\0"].concat());
    let since = ChangeQuery::since(Revision(token.0 + 1)).of_keys(key.clone(), Some(end));
    let mut query = ChangeQuery { visits_max: VISITS_MAX, ..since };
    loop {
        let page = match context.replica.read(|map| read::changes(map, &query)) {
            Ok(page) => page,
            Err(ReadError::Compacted { .. }) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        if let Some(next) = page.changes.first() {
            return Ok(next.record.is_some());
        }
        if page.next.revision > page.revision {
            return Ok(true);
        }
        query.from = page.next;
        tokio::task::yield_now().await;
    }
}

/// Looks for a key, without its value.
fn look(key: &Bytes) -> TxnOperation {
    let end = Some(Bytes::from([key.as_ref(), b"\0"].concat()));
    TxnOperation::Range { start: key.clone(), end, limit: 1, keys_only: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(token: u64) -> Claim {
        let key = Bytes::from(token.to_string());
        Claim { key, lease: LeaseId(token), token: Revision(token), paper: Paper::default() }
    }

    #[test]
    fn the_line_is_in_the_order_of_the_tokens_whatever_the_order_of_the_keys() {
        let mut line = Line::default();
        [7, 3, 9, 5, 12].into_iter().for_each(|at| line.add(claim(at), Some(Revision(9))));
        let token = |claim: &Option<Claim>| claim.as_ref().map(|claim| claim.token.0);
        assert_eq!(token(&line.first), Some(3));
        assert_eq!((token(&line.own), token(&line.before)), (Some(9), Some(7)));
        assert_eq!(line.count, 5);
    }

    #[test]
    fn names_are_told_apart() {
        let prefix = |name: &[u8]| Office::new("lock", name, 64).unwrap().prefix;
        assert!(!prefix(b"a/b").starts_with(&prefix(b"a")));
        assert!(Office::new("lock", b"a\0b", 64).is_err());
        assert!(Office::new("lock", &[b'a'; 64], 64).is_err());
    }
}
