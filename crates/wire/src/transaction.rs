//! A transaction within a command.
//!
//! ```text
//! count u32 | comparisons | count u32 | operations | count u32 | operations (of the failure)
//! comparison: target u8 | relation u8 | length u32 | key | value: length u32 | bytes
//!                                                        | others: u64
//! operation:  kind u8 | flags u8
//!             put:          length u32 | key | length u32 | value | [flag 8: lease u64]
//!             delete, get:  length u32 | key
//!             range delete: length u32 | start | [flag 4: length u32 | end] | limit u32
//!             range:        the same
//! ```
//!
//! What is read is a transaction that may be carried out: [`Txn::check`] was asked.

use bytes::{BufMut, Bytes, BytesMut};
use synod_kv::{
    Compare, LeaseId, Relation, Revision, TXN_OPERATIONS_MAX, Target, Txn, TxnOperation,
};

use crate::DecodeError;
use crate::command::{KEY_BYTES_MAX, VALUE_BYTES_MAX, put_byte_string};
use crate::reader::Reader;

const VALUE: u8 = 1;
const VERSION: u8 = 2;
const CREATE: u8 = 3;
const MOD: u8 = 4;
const LEASE: u8 = 5;

const EQUAL: u8 = 1;
const NOT_EQUAL: u8 = 2;
const LESS: u8 = 3;
const GREATER: u8 = 4;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_RANGE: u8 = 3;
const GET: u8 = 4;
const RANGE: u8 = 5;

const KEYS_ONLY: u8 = 1;
const WANTS_PREVIOUS: u8 = 2;
const HAS_END: u8 = 4;
const HAS_LEASE: u8 = 8;

/// The fewest bytes of a comparison: tags, an empty key and an empty value.
const COMPARE_BYTES_MIN: usize = 10;
/// The fewest bytes of an operation: tags and an empty key.
const OPERATION_BYTES_MIN: usize = 6;

pub(crate) fn put(out: &mut BytesMut, txn: &Txn) {
    put_count(out, txn.compares.len());
    txn.compares.iter().for_each(|compare| put_compare(out, compare));
    for branch in [&txn.success, &txn.failure] {
        put_count(out, branch.len());
        branch.iter().for_each(|operation| put_operation(out, operation));
    }
}

pub(crate) fn read(reader: &mut Reader) -> Result<Txn, DecodeError> {
    let count = reader.count(TXN_OPERATIONS_MAX, COMPARE_BYTES_MIN)?;
    let compares = (0..count).map(|_| read_compare(reader)).collect::<Result<_, _>>()?;
    let txn = Txn { compares, success: read_branch(reader)?, failure: read_branch(reader)? };
    txn.check().map_err(|_| DecodeError::Transaction)?;
    Ok(txn)
}

fn read_branch(reader: &mut Reader) -> Result<Vec<TxnOperation>, DecodeError> {
    let count = reader.count(TXN_OPERATIONS_MAX, OPERATION_BYTES_MIN)?;
    (0..count).map(|_| read_operation(reader)).collect()
}

/// About the bytes that [`put`] appends, and no fewer.
pub(crate) fn encoded_bytes(txn: &Txn) -> usize {
    let compares = txn.compares.iter().map(|compare| {
        let value = match &compare.target {
            Target::Value(value) => value.len(),
            _ => 8,
        };
        COMPARE_BYTES_MIN + compare.key.len() + value
    });
    let operations = txn.success.iter().chain(&txn.failure).map(|operation| {
        // Tags, two lengths, and a lease or a limit.
        18 + match operation {
            TxnOperation::Put { key, value, .. } => key.len() + value.len(),
            TxnOperation::Delete { key, .. } | TxnOperation::Get { key } => key.len(),
            TxnOperation::DeleteRange { start, end, .. }
            | TxnOperation::Range { start, end, .. } => {
                start.len() + end.as_ref().map_or(0, Bytes::len)
            }
        }
    });
    12 + compares.sum::<usize>() + operations.sum::<usize>()
}

fn put_count(out: &mut BytesMut, count: usize) {
    assert!(count <= TXN_OPERATIONS_MAX, "{count} parts of a transaction");
    out.put_u32_le(u32::try_from(count).expect("was compared"));
}

fn put_compare(out: &mut BytesMut, compare: &Compare) {
    let target = match compare.target {
        Target::Value(_) => VALUE,
        Target::Version(_) => VERSION,
        Target::Create(_) => CREATE,
        Target::Mod(_) => MOD,
        Target::Lease(_) => LEASE,
    };
    let relation = match compare.relation {
        Relation::Equal => EQUAL,
        Relation::NotEqual => NOT_EQUAL,
        Relation::Less => LESS,
        Relation::Greater => GREATER,
    };
    out.put_slice(&[target, relation]);
    put_byte_string(out, &compare.key, KEY_BYTES_MAX);
    match &compare.target {
        Target::Value(value) => put_byte_string(out, value, VALUE_BYTES_MAX),
        Target::Version(number) | Target::Lease(number) => out.put_u64_le(*number),
        Target::Create(revision) | Target::Mod(revision) => out.put_u64_le(revision.0),
    }
}

fn read_compare(reader: &mut Reader) -> Result<Compare, DecodeError> {
    let target = reader.u8()?;
    let relation = match reader.u8()? {
        EQUAL => Relation::Equal,
        NOT_EQUAL => Relation::NotEqual,
        LESS => Relation::Less,
        GREATER => Relation::Greater,
        tag => return Err(DecodeError::Tag { what: "a relation", tag }),
    };
    let key = reader.byte_string("a key", KEY_BYTES_MAX)?;
    let target = match target {
        VALUE => Target::Value(reader.byte_string("a value", VALUE_BYTES_MAX)?),
        VERSION => Target::Version(reader.u64()?),
        CREATE => Target::Create(Revision(reader.u64()?)),
        MOD => Target::Mod(Revision(reader.u64()?)),
        LEASE => Target::Lease(reader.u64()?),
        tag => return Err(DecodeError::Tag { what: "a comparison", tag }),
    };
    Ok(Compare { key, relation, target })
}

fn put_operation(out: &mut BytesMut, operation: &TxnOperation) {
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    match operation {
        TxnOperation::Put { key, value, lease, want_previous } => {
            let previous = flag(*want_previous, WANTS_PREVIOUS);
            out.put_slice(&[PUT, previous | flag(lease.is_some(), HAS_LEASE)]);
            put_byte_string(out, key, KEY_BYTES_MAX);
            put_byte_string(out, value, VALUE_BYTES_MAX);
            if let Some(lease) = lease {
                out.put_u64_le(lease.0);
            }
        }
        TxnOperation::Delete { key, want_previous } => {
            out.put_slice(&[DELETE, flag(*want_previous, WANTS_PREVIOUS)]);
            put_byte_string(out, key, KEY_BYTES_MAX);
        }
        TxnOperation::DeleteRange { start, end, limit } => {
            out.put_slice(&[DELETE_RANGE, flag(end.is_some(), HAS_END)]);
            put_range(out, start, end.as_ref(), *limit);
        }
        TxnOperation::Get { key } => {
            out.put_slice(&[GET, 0]);
            put_byte_string(out, key, KEY_BYTES_MAX);
        }
        TxnOperation::Range { start, end, limit, keys_only } => {
            out.put_slice(&[RANGE, flag(end.is_some(), HAS_END) | flag(*keys_only, KEYS_ONLY)]);
            put_range(out, start, end.as_ref(), *limit);
        }
    }
}

fn put_range(out: &mut BytesMut, start: &Bytes, end: Option<&Bytes>, limit: u32) {
    put_byte_string(out, start, KEY_BYTES_MAX);
    if let Some(end) = end {
        put_byte_string(out, end, KEY_BYTES_MAX);
    }
    out.put_u32_le(limit);
}

fn read_operation(reader: &mut Reader) -> Result<TxnOperation, DecodeError> {
    let (kind, flags) = (reader.u8()?, reader.u8()?);
    let allowed = match kind {
        PUT => WANTS_PREVIOUS | HAS_LEASE,
        DELETE => WANTS_PREVIOUS,
        DELETE_RANGE => HAS_END,
        GET => 0,
        RANGE => HAS_END | KEYS_ONLY,
        tag => return Err(DecodeError::Tag { what: "a transaction's operation", tag }),
    };
    if flags & !allowed != 0 {
        return Err(DecodeError::Tag {
            what: "the flags of a transaction's operation",
            tag: flags,
        });
    }
    let want_previous = flags & WANTS_PREVIOUS != 0;
    let key = reader.byte_string("a key", KEY_BYTES_MAX)?;
    let end = |reader: &mut Reader| {
        let has_end = flags & HAS_END != 0;
        has_end.then(|| reader.byte_string("a key", KEY_BYTES_MAX)).transpose()
    };
    Ok(match kind {
        PUT => {
            let value = reader.byte_string("a value", VALUE_BYTES_MAX)?;
            let has_lease = flags & HAS_LEASE != 0;
            let lease = has_lease.then(|| reader.u64().map(LeaseId)).transpose()?;
            TxnOperation::Put { key, value, lease, want_previous }
        }
        DELETE => TxnOperation::Delete { key, want_previous },
        DELETE_RANGE => {
            let end = end(reader)?;
            TxnOperation::DeleteRange { start: key, end, limit: reader.u32()? }
        }
        GET => TxnOperation::Get { key },
        _ => {
            let (end, keys_only) = (end(reader)?, flags & KEYS_ONLY != 0);
            TxnOperation::Range { start: key, end, limit: reader.u32()?, keys_only }
        }
    })
}
