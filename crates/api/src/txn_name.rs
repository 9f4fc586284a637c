//! What a transaction asks for, as the parts of the hash that names it (see
//! [`crate::call::name_write`]). This recipe stands in the log too and must not change: it
//! is of meanings, so it is the same for `key` and `key_base64`, and with or without what
//! goes without saying.

use bytes::Bytes;
use synod_kv::{Compare, Relation, Target, Txn, TxnOperation};

/// Three counts, and as many lists of parts. Each comparison has four parts; how many an
/// operation has its first one tells.
pub(crate) fn parts(txn: &Txn) -> Vec<Bytes> {
    let mut parts = vec![number(txn.compares.len() as u64)];
    txn.compares.iter().for_each(|compare| put_compare(&mut parts, compare));
    for branch in [&txn.success, &txn.failure] {
        parts.push(number(branch.len() as u64));
        branch.iter().for_each(|operation| put_operation(&mut parts, operation));
    }
    parts
}

fn put_compare(parts: &mut Vec<Bytes>, compare: &Compare) {
    let relation: &'static [u8] = match compare.relation {
        Relation::Equal => b"=",
        Relation::NotEqual => b"!=",
        Relation::Less => b"<",
        Relation::Greater => b">",
    };
    let (target, operand): (&'static [u8], _) = match &compare.target {
        Target::Value(value) => (b"value", value.clone()),
        Target::Version(version) => (b"version", number(*version)),
        Target::Create(revision) => (b"create", number(revision.0)),
        Target::Mod(revision) => (b"mod", number(revision.0)),
        Target::Lease(lease) => (b"lease", number(*lease)),
    };
    parts.extend([target, relation].map(Bytes::from_static));
    parts.extend([compare.key.clone(), operand]);
}

fn put_operation(parts: &mut Vec<Bytes>, operation: &TxnOperation) {
    match operation {
        TxnOperation::Put { key, value, lease, want_previous } => parts.extend([
            Bytes::from_static(b"put"),
            key.clone(),
            value.clone(),
            number(lease.map_or(0, |lease| lease.0)),
            number(u64::from(*want_previous)),
        ]),
        TxnOperation::Delete { key, want_previous } => parts.extend([
            Bytes::from_static(b"delete"),
            key.clone(),
            number(u64::from(*want_previous)),
        ]),
        TxnOperation::Get { key } => parts.extend([Bytes::from_static(b"get"), key.clone()]),
        TxnOperation::DeleteRange { start, end, limit } => parts.extend([
            Bytes::from_static(b"delete range"),
            start.clone(),
            number(u64::from(end.is_some())),
            end.clone().unwrap_or_default(),
            number(u64::from(*limit)),
        ]),
        TxnOperation::Range { start, end, limit, keys_only } => parts.extend([
            Bytes::from_static(b"range"),
            start.clone(),
            number(u64::from(end.is_some())),
            end.clone().unwrap_or_default(),
            number(u64::from(*limit)),
            number(u64::from(*keys_only)),
        ]),
    }
}

fn number(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use synod_kv::{LeaseId, Revision};

    use super::*;

    #[test]
    fn the_recipe_is_as_it_was() {
        let key = Bytes::from_static(b"k");
        let compare = |relation, target| Compare { key: key.clone(), relation, target };
        let end = Some(Bytes::from_static(b"l"));
        let txn = Txn {
            compares: vec![
                compare(Relation::NotEqual, Target::Value(Bytes::from_static(b"v"))),
                compare(Relation::Less, Target::Mod(Revision(258))),
            ],
            success: vec![
                TxnOperation::Put {
                    key: key.clone(),
                    value: Bytes::from_static(b"v"),
                    lease: Some(LeaseId(7)),
                    want_previous: true,
                },
                TxnOperation::DeleteRange { start: key.clone(), end: end.clone(), limit: 9 },
            ],
            failure: vec![
                TxnOperation::Delete { key: key.clone(), want_previous: false },
                TxnOperation::Get { key: key.clone() },
                TxnOperation::Range { start: key.clone(), end: None, limit: 9, keys_only: true },
            ],
        };
        let number = |low: u8, high: u8| [low, high, 0, 0, 0, 0, 0, 0];
        let expected: [&[u8]; 30] = [
            &number(2, 0),
            b"value",
            b"!=",
            b"k",
            b"v",
            b"mod",
            b"<",
            b"k",
            &number(2, 1),
            &number(2, 0),
            b"put",
            b"k",
            b"v",
            &number(7, 0),
            &number(1, 0),
            b"delete range",
            b"k",
            &number(1, 0),
            b"l",
            &number(9, 0),
            &number(3, 0),
            b"delete",
            b"k",
            &number(0, 0),
            b"get",
            b"k",
            b"range",
            b"k",
            &number(0, 0),
            b"",
        ];
        let parts = parts(&txn);
        assert_eq!(parts[..30], expected.map(Bytes::copy_from_slice));
        assert_eq!(
            parts[30..],
            [number(9, 0), number(1, 0)].map(|tail| Bytes::copy_from_slice(&tail))
        );
    }
}
