//! How outcomes lie in the records of idempotency keys.

use bytes::Bytes;

use crate::codec::{Reader, put_bytes, put_varint};
use crate::metadata::Metadata;
use crate::{Entry, KeyRecord, LeaseEpoch, LeaseId, Outcome, Revision, TxnResult};

const STORED: u8 = 1;
const DELETED: u8 = 2;
const NOT_FOUND: u8 = 3;
const RANGE_DELETED: u8 = 4;
const CONDITION_FAILED: u8 = 5;
const TXN: u8 = 6;
const TXN_TOO_LARGE: u8 = 7;
const COMPACTED: u8 = 8;
const COMPACT_REFUSED: u8 = 9;
const LEASE_GRANTED: u8 = 10;
const LEASE_EXISTS: u8 = 11;
const LEASE_NOT_FOUND: u8 = 12;
const LEASES_FULL: u8 = 13;
const LEASE_ENDED: u8 = 14;
const LEASES_KEPT: u8 = 15;
const LEASE_EPOCH_BEGUN: u8 = 16;
const LEASE_EXPIRY_OLD: u8 = 17;

const RESULT_PUT: u8 = 1;
const RESULT_DELETE: u8 = 2;
const RESULT_DELETE_RANGE: u8 = 3;
const RESULT_GET: u8 = 4;
const RESULT_RANGE: u8 = 5;

/// Appends an outcome.
pub(crate) fn write_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    out.push(tag(outcome));
    put_varint(out, outcome.revision().0);
    match outcome {
        Outcome::Stored { create_revision, version, previous, .. } => {
            put_varint(out, create_revision.0);
            put_varint(out, *version);
            write_record(out, previous.as_ref());
        }
        Outcome::Deleted { previous, .. } => write_record(out, previous.as_ref()),
        Outcome::RangeDeleted { count, next, .. } => {
            put_varint(out, *count);
            write_next(out, next.as_ref());
        }
        Outcome::ConditionFailed { current, .. } => {
            // Nothing was ever changed at revision 0.
            put_varint(out, current.map_or(0, |current| current.0));
        }
        Outcome::Txn { succeeded, results, .. } => {
            out.push(u8::from(*succeeded));
            put_varint(out, results.len() as u64);
            results.iter().for_each(|result| write_result(out, result));
        }
        Outcome::Compacted { oldest, .. } | Outcome::CompactRefused { oldest, .. } => {
            put_varint(out, oldest.0);
        }
        Outcome::LeaseGranted { id, ttl_ms, .. } => {
            put_varint(out, id.0);
            put_varint(out, *ttl_ms);
        }
        Outcome::LeaseExists { id, .. }
        | Outcome::LeaseNotFound { id, .. }
        | Outcome::LeaseExpiryOld { id, .. } => put_varint(out, id.0),
        Outcome::LeaseEnded { id, count, more, .. } => {
            put_varint(out, id.0);
            put_varint(out, *count);
            out.push(u8::from(*more));
        }
        Outcome::LeasesKept { ttls_ms, .. } => {
            put_varint(out, ttls_ms.len() as u64);
            for ttl_ms in ttls_ms {
                out.push(u8::from(ttl_ms.is_some()));
                put_varint(out, ttl_ms.unwrap_or(0));
            }
        }
        Outcome::LeaseEpochBegun { epoch, .. } => put_varint(out, epoch.0),
        Outcome::NotFound { .. }
        | Outcome::TxnTooLarge { .. }
        | Outcome::LeasesFull { .. }
        | Outcome::IdempotencyMismatch { .. }
        | Outcome::IdempotencyLate { .. }
        | Outcome::IdempotencyFull { .. } => {}
    }
}

fn tag(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Stored { .. } => STORED,
        Outcome::Deleted { .. } => DELETED,
        Outcome::NotFound { .. } => NOT_FOUND,
        Outcome::RangeDeleted { .. } => RANGE_DELETED,
        Outcome::ConditionFailed { .. } => CONDITION_FAILED,
        Outcome::Txn { .. } => TXN,
        Outcome::TxnTooLarge { .. } => TXN_TOO_LARGE,
        Outcome::Compacted { .. } => COMPACTED,
        Outcome::CompactRefused { .. } => COMPACT_REFUSED,
        Outcome::LeaseGranted { .. } => LEASE_GRANTED,
        Outcome::LeaseExists { .. } => LEASE_EXISTS,
        Outcome::LeaseNotFound { .. } => LEASE_NOT_FOUND,
        Outcome::LeasesFull { .. } => LEASES_FULL,
        Outcome::LeaseEnded { .. } => LEASE_ENDED,
        Outcome::LeasesKept { .. } => LEASES_KEPT,
        Outcome::LeaseEpochBegun { .. } => LEASE_EPOCH_BEGUN,
        Outcome::LeaseExpiryOld { .. } => LEASE_EXPIRY_OLD,
        Outcome::IdempotencyMismatch { .. }
        | Outcome::IdempotencyLate { .. }
        | Outcome::IdempotencyFull { .. } => {
            unreachable!("answers about the key itself are not remembered")
        }
    }
}

/// Takes an outcome off the front; none if it is damaged.
pub(crate) fn parse_outcome(reader: &mut Reader<'_>) -> Option<Outcome> {
    let kind = reader.byte()?;
    let revision = Revision(reader.varint()?);
    Some(match kind {
        STORED => Outcome::Stored {
            revision,
            create_revision: Revision(reader.varint()?),
            version: reader.varint()?,
            previous: parse_record(reader)?,
        },
        DELETED => Outcome::Deleted { revision, previous: parse_record(reader)? },
        NOT_FOUND => Outcome::NotFound { revision },
        RANGE_DELETED => {
            let count = reader.varint()?;
            Outcome::RangeDeleted { revision, count, next: parse_next(reader)? }
        }
        CONDITION_FAILED => {
            let current = Some(Revision(reader.varint()?)).filter(|current| current.0 != 0);
            Outcome::ConditionFailed { revision, current }
        }
        TXN => {
            let succeeded = reader.byte()? != 0;
            // The count is not trusted: memory is taken as the results are found.
            let results = (0..reader.varint()?).map(|_| parse_result(reader));
            Outcome::Txn { revision, succeeded, results: results.collect::<Option<_>>()? }
        }
        TXN_TOO_LARGE => Outcome::TxnTooLarge { revision },
        COMPACTED => Outcome::Compacted { revision, oldest: Revision(reader.varint()?) },
        COMPACT_REFUSED => Outcome::CompactRefused { revision, oldest: Revision(reader.varint()?) },
        _ => return parse_lease_outcome(kind, revision, reader),
    })
}

fn parse_lease_outcome(kind: u8, revision: Revision, reader: &mut Reader<'_>) -> Option<Outcome> {
    Some(match kind {
        LEASE_GRANTED => {
            let id = LeaseId(reader.varint()?);
            Outcome::LeaseGranted { revision, id, ttl_ms: reader.varint()? }
        }
        LEASE_EXISTS => Outcome::LeaseExists { revision, id: LeaseId(reader.varint()?) },
        LEASE_NOT_FOUND => Outcome::LeaseNotFound { revision, id: LeaseId(reader.varint()?) },
        LEASES_FULL => Outcome::LeasesFull { revision },
        LEASE_ENDED => Outcome::LeaseEnded {
            revision,
            id: LeaseId(reader.varint()?),
            count: reader.varint()?,
            more: reader.byte()? != 0,
        },
        LEASES_KEPT => {
            let ttls = (0..reader.varint()?).map(|_| {
                let exists = reader.byte()? != 0;
                let ttl_ms = reader.varint()?;
                Some(exists.then_some(ttl_ms))
            });
            Outcome::LeasesKept { revision, ttls_ms: ttls.collect::<Option<_>>()? }
        }
        LEASE_EPOCH_BEGUN => {
            Outcome::LeaseEpochBegun { revision, epoch: LeaseEpoch(reader.varint()?) }
        }
        LEASE_EXPIRY_OLD => Outcome::LeaseExpiryOld { revision, id: LeaseId(reader.varint()?) },
        _ => return None,
    })
}

fn write_result(out: &mut Vec<u8>, result: &TxnResult) {
    match result {
        TxnResult::Put { create_revision, version, previous } => {
            out.push(RESULT_PUT);
            put_varint(out, create_revision.0);
            put_varint(out, *version);
            write_record(out, previous.as_ref());
        }
        TxnResult::Delete { existed, previous } => {
            out.extend_from_slice(&[RESULT_DELETE, u8::from(*existed)]);
            write_record(out, previous.as_ref());
        }
        TxnResult::DeleteRange { count, next } => {
            out.push(RESULT_DELETE_RANGE);
            put_varint(out, *count);
            write_next(out, next.as_ref());
        }
        TxnResult::Get { record } => {
            out.push(RESULT_GET);
            write_record(out, record.as_ref());
        }
        TxnResult::Range { entries, next } => {
            out.push(RESULT_RANGE);
            put_varint(out, entries.len() as u64);
            for entry in entries {
                put_bytes(out, &entry.key);
                write_record(out, Some(&entry.record));
            }
            write_next(out, next.as_ref());
        }
    }
}

fn parse_result(reader: &mut Reader<'_>) -> Option<TxnResult> {
    Some(match reader.byte()? {
        RESULT_PUT => TxnResult::Put {
            create_revision: Revision(reader.varint()?),
            version: reader.varint()?,
            previous: parse_record(reader)?,
        },
        RESULT_DELETE => {
            let existed = reader.byte()? != 0;
            TxnResult::Delete { existed, previous: parse_record(reader)? }
        }
        RESULT_DELETE_RANGE => {
            let count = reader.varint()?;
            TxnResult::DeleteRange { count, next: parse_next(reader)? }
        }
        RESULT_GET => TxnResult::Get { record: parse_record(reader)? },
        RESULT_RANGE => {
            let entries = (0..reader.varint()?).map(|_| {
                let key = Bytes::copy_from_slice(reader.bytes()?);
                Some(Entry { key, record: parse_record(reader)?? })
            });
            let entries = entries.collect::<Option<_>>()?;
            TxnResult::Range { entries, next: parse_next(reader)? }
        }
        _ => return None,
    })
}

fn write_next(out: &mut Vec<u8>, next: Option<&Bytes>) {
    out.push(u8::from(next.is_some()));
    if let Some(next) = next {
        put_bytes(out, next);
    }
}

fn parse_next(reader: &mut Reader<'_>) -> Option<Option<Bytes>> {
    match reader.byte()? {
        0 => Some(None),
        _ => reader.bytes().map(|next| Some(Bytes::copy_from_slice(next))),
    }
}

fn write_record(out: &mut Vec<u8>, record: Option<&KeyRecord>) {
    out.push(u8::from(record.is_some()));
    if let Some(record) = record {
        put_varint(out, record.create_revision.0);
        put_varint(out, record.mod_revision.0);
        put_varint(out, record.version);
        put_varint(out, record.lease);
        put_bytes(out, &record.value);
    }
}

fn parse_record(reader: &mut Reader<'_>) -> Option<Option<KeyRecord>> {
    if reader.byte()? == 0 {
        return Some(None);
    }
    let metadata = Metadata {
        create_revision: Revision(reader.varint()?),
        mod_revision: Revision(reader.varint()?),
        version: reader.varint()?,
        lease: reader.varint()?,
    };
    Some(Some(metadata.with_value(Bytes::copy_from_slice(reader.bytes()?))))
}

#[cfg(test)]
pub(crate) fn outcomes_for_tests() -> Vec<Outcome> {
    let revision = Revision(300);
    let record = KeyRecord {
        value: Bytes::from_static(b"was here"),
        create_revision: Revision(7),
        mod_revision: Revision(299),
        version: 3,
        lease: 1 << 50,
    };
    let id = LeaseId(1 << 40);
    let key = Bytes::from_static(b"key");
    let results = vec![
        TxnResult::Put { create_revision: Revision(3), version: 2, previous: None },
        TxnResult::Put { create_revision: Revision(3), version: 2, previous: Some(record.clone()) },
        TxnResult::Delete { existed: false, previous: None },
        TxnResult::Delete { existed: true, previous: Some(record.clone()) },
        TxnResult::DeleteRange { count: 5, next: Some(key.clone()) },
        TxnResult::Get { record: None },
        TxnResult::Get { record: Some(record.clone()) },
        TxnResult::Range { entries: Vec::new(), next: None },
        TxnResult::Range { entries: vec![Entry { key, record: record.clone() }], next: None },
    ];
    vec![
        Outcome::Stored { revision, create_revision: revision, version: 1, previous: None },
        Outcome::Stored {
            revision,
            create_revision: Revision(7),
            version: 4,
            previous: Some(record.clone()),
        },
        Outcome::Deleted { revision, previous: Some(record) },
        Outcome::Deleted { revision, previous: None },
        Outcome::NotFound { revision },
        Outcome::RangeDeleted { revision, count: 4000, next: None },
        Outcome::RangeDeleted { revision, count: 1, next: Some(Bytes::from_static(b"a\0")) },
        Outcome::ConditionFailed { revision, current: None },
        Outcome::ConditionFailed { revision, current: Some(Revision(2)) },
        Outcome::Txn { revision, succeeded: true, results: Vec::new() },
        Outcome::Txn { revision, succeeded: false, results },
        Outcome::TxnTooLarge { revision },
        Outcome::Compacted { revision, oldest: Revision(299) },
        Outcome::CompactRefused { revision, oldest: Revision(2) },
        Outcome::LeaseGranted { revision, id, ttl_ms: 60_000 },
        Outcome::LeaseExists { revision, id },
        Outcome::LeaseNotFound { revision, id },
        Outcome::LeasesFull { revision },
        Outcome::LeaseEnded { revision, id, count: 7, more: true },
        Outcome::LeasesKept { revision, ttls_ms: vec![None, Some(0), Some(60_000)] },
        Outcome::LeaseEpochBegun { revision, epoch: LeaseEpoch(8) },
        Outcome::LeaseExpiryOld { revision, id },
    ]
}
