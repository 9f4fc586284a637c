//! Operations in JSON, of transactions and batches: their members are checked here.

use bytes::Bytes;
use synod_kv::http::base64;
use synod_kv::http::{OperationBody, OperationName};
use synod_kv::{LeaseId, TxnOperation, layout};

use crate::limits::Limits;
use crate::problem::{Kind, Problem};

/// Keys that a range brings back when it does not say. Not a setting, for a retry through
/// another node must be the same request.
const RANGE_LIMIT: u32 = 100;

/// Reads an operation.
///
/// # Errors
/// A member that is missing, contradicts another one or does not belong to it, wrong
/// base64, or a key or value that is too long. `place` says where it stands.
pub(crate) fn read(
    body: OperationBody,
    place: &str,
    limits: &Limits,
) -> Result<TxnOperation, Problem> {
    check_members(&body, place)?;
    let want_previous = body.prev.unwrap_or(false);
    Ok(match body.op {
        OperationName::Put => TxnOperation::Put {
            key: key((body.key, body.key_base64), place, limits)?,
            value: value(("value", body.value, body.value_base64), place, limits)?,
            lease: body.lease.map(|id| lease(id, place)).transpose()?,
            want_previous,
        },
        OperationName::Delete => TxnOperation::Delete {
            key: key((body.key, body.key_base64), place, limits)?,
            want_previous,
        },
        OperationName::Get => {
            TxnOperation::Get { key: key((body.key, body.key_base64), place, limits)? }
        }
        OperationName::Range => {
            let limit = limit(body.limit, limits.list_entries_max, place)?.unwrap_or(RANGE_LIMIT);
            let keys_only = body.keys_only.unwrap_or(false);
            let (start, end) = range(body, place, limits)?;
            TxnOperation::Range { start, end, limit, keys_only }
        }
        OperationName::DeleteRange => {
            let most = limits.range_delete_keys_max as usize;
            // What the state machine allows, whatever the settings of this node.
            let limit = limit(body.limit, most, place)?.unwrap_or(u32::MAX);
            let (start, end) = range(body, place, limits)?;
            TxnOperation::DeleteRange { start, end, limit }
        }
    })
}

/// The name of an operation as it stands in JSON.
pub(crate) fn name(name: OperationName) -> &'static str {
    match name {
        OperationName::Put => "put",
        OperationName::Delete => "delete",
        OperationName::DeleteRange => "delete_range",
        OperationName::Get => "get",
        OperationName::Range => "range",
    }
}

/// Something is wrong with the members of a JSON object.
pub(crate) fn wrong(kind: Kind, place: &str, what: &str) -> Problem {
    Problem::new(kind, format!("{place}: {what}."))
}

/// Refuses members that say nothing about this operation: somebody meant something by them.
fn check_members(body: &OperationBody, place: &str) -> Result<(), Problem> {
    let allowed: &[&str] = match body.op {
        OperationName::Put => &["key", "value", "lease", "prev"],
        OperationName::Delete => &["key", "prev"],
        OperationName::Get => &["key"],
        OperationName::Range => &["prefix", "start", "end", "limit", "keys_only"],
        OperationName::DeleteRange => &["prefix", "start", "end", "limit", "all"],
    };
    let given = [
        ("key", body.key.is_some() || body.key_base64.is_some()),
        ("value", body.value.is_some() || body.value_base64.is_some()),
        ("prefix", body.prefix.is_some() || body.prefix_base64.is_some()),
        ("start", body.start.is_some() || body.start_base64.is_some()),
        ("end", body.end.is_some() || body.end_base64.is_some()),
        ("lease", body.lease.is_some()),
        ("limit", body.limit.is_some()),
        ("prev", body.prev.is_some()),
        ("keys_only", body.keys_only.is_some()),
        ("all", body.all.is_some()),
    ];
    let stranger = given.iter().find(|(member, is_given)| *is_given && !allowed.contains(member));
    match stranger {
        None => Ok(()),
        Some((member, _)) => {
            let name = name(body.op);
            Err(wrong(
                Kind::UnknownMember,
                place,
                &format!("a {name} has no \"{member}\"; it has {}", allowed.join(", ")),
            ))
        }
    }
}

/// The key of an operation or a comparison.
pub(crate) fn key(
    (plain, base64): (Option<String>, Option<String>),
    place: &str,
    limits: &Limits,
) -> Result<Bytes, Problem> {
    let key = bytes(("key", plain, base64), place)?
        .ok_or_else(|| wrong(Kind::MissingMember, place, "\"key\" or \"key_base64\" is missing"))?;
    if key.is_empty() {
        let detail = format!("{place}: the key is empty. A key has at least one byte.");
        return Err(Problem::new(Kind::BadKey, detail));
    }
    check_key(&key, limits.key_bytes_max, place)?;
    Ok(key)
}

/// A value, which may be empty but must be there.
pub(crate) fn value(
    (name, plain, base64): (&str, Option<String>, Option<String>),
    place: &str,
    limits: &Limits,
) -> Result<Bytes, Problem> {
    let value = bytes((name, plain, base64), place)?.ok_or_else(|| {
        let what = format!("\"{name}\" or \"{name}_base64\" is missing");
        wrong(Kind::MissingMember, place, &what)
    })?;
    if value.len() > limits.value_bytes_max {
        let (has, may) = (value.len(), limits.value_bytes_max);
        let detail = format!("{place}: the value has {has} bytes; at most {may} are allowed.");
        return Err(Problem::new(Kind::BodyTooLarge, detail));
    }
    Ok(value)
}

/// Bytes that are given as text or in base64; none if they are not given.
fn bytes(
    (name, plain, base64): (&str, Option<String>, Option<String>),
    place: &str,
) -> Result<Option<Bytes>, Problem> {
    match (plain, base64) {
        (None, None) => Ok(None),
        (Some(text), None) => Ok(Some(Bytes::from(text))),
        (None, Some(text)) => match base64::decode(&text) {
            Some(bytes) => Ok(Some(Bytes::from(bytes))),
            None => Err(Problem::new(
                Kind::BadBase64,
                format!(
                    "{place}: \"{name}_base64\" is not base64 with the standard alphabet and \
                     padding."
                ),
            )),
        },
        (Some(_), Some(_)) => {
            let what = format!("\"{name}\" and \"{name}_base64\" exclude each other");
            Err(wrong(Kind::ContradictoryMembers, place, &what))
        }
    }
}

/// The bounds of a range, which must be told so that nobody means a few keys and gets all.
fn range(
    body: OperationBody,
    place: &str,
    limits: &Limits,
) -> Result<(Bytes, Option<Bytes>), Problem> {
    let prefix = bytes(("prefix", body.prefix, body.prefix_base64), place)?;
    let start = bytes(("start", body.start, body.start_base64), place)?;
    let end = bytes(("end", body.end, body.end_base64), place)?;
    check_key(prefix.as_ref().unwrap_or(&Bytes::new()), limits.key_bytes_max, place)?;
    for bound in [&start, &end].into_iter().flatten() {
        check_key(bound, limits.key_bytes_max + 1, place)?;
    }
    let is_bounded = [&prefix, &start, &end].into_iter().flatten().any(|bound| !bound.is_empty());
    let all = body.all.unwrap_or(false);
    if body.op == OperationName::DeleteRange && is_bounded == all {
        let what = "give \"prefix\", \"start\" or \"end\"; or, to remove every key, only \
                    \"all\": true";
        let kind = if all { Kind::ContradictoryMembers } else { Kind::MissingMember };
        return Err(wrong(kind, place, what));
    }
    let prefix = prefix.unwrap_or_default();
    let prefix_end = layout::prefix_end(&prefix).map(Bytes::from);
    let end = match (end, prefix_end) {
        (Some(end), Some(prefix_end)) => Some(end.min(prefix_end)),
        (end, prefix_end) => end.or(prefix_end),
    };
    let start = start.unwrap_or_default().max(prefix);
    if end.as_ref().is_some_and(|end| *end < start) {
        let what = "\"end\" is below \"start\", or one of them is outside \"prefix\"";
        return Err(wrong(Kind::ContradictoryMembers, place, what));
    }
    Ok((start, end))
}

fn limit(limit: Option<u32>, most: usize, place: &str) -> Result<Option<u32>, Problem> {
    match limit {
        Some(limit) if limit == 0 || limit as usize > most => {
            Err(wrong(Kind::BadMember, place, &format!("\"limit\" is from 1 to {most}")))
        }
        limit => Ok(limit),
    }
}

fn lease(id: u64, place: &str) -> Result<LeaseId, Problem> {
    match id {
        0 => {
            let what = "no lease has the id 0; leave \"lease\" out for none";
            Err(wrong(Kind::BadMember, place, what))
        }
        id => Ok(LeaseId(id)),
    }
}

fn check_key(key: &Bytes, bytes_max: usize, place: &str) -> Result<(), Problem> {
    if key.len() <= bytes_max {
        return Ok(());
    }
    let detail =
        format!("{place}: the key has {} bytes; at most {bytes_max} are allowed.", key.len());
    Err(Problem::new(Kind::KeyTooLong, detail))
}
