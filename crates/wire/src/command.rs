//! The command of a client, as it stands in a batch. It carries no server id: that
//! is given when the command enters a batch.
//!
//! ```text
//! version u8 | operation u8 | flags u8 | condition u8
//! [flag 1: request hash u128 | asked at u64 | length u32 | idempotency key]
//! [condition At: revision u64]
//! put:          length u32 | key | length u32 | value
//! delete:       length u32 | key
//! delete range: length u32 | start | [flag 4: length u32 | end] | limit u32
//! transaction:  see `transaction.rs`
//! compact:      revision u64
//! lease:        kind u8 | grant: id u64 (0 for any) | ttl in ms u64
//!                       | revoke: id u64 | renew: count u32 | ids u64 | begin an epoch: nothing
//!                       | expire: id u64 | epoch u64 | renewals u64
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use synod_kv::{
    Command, Condition, IdempotencyKey, KEEP_ALIVES_MAX, LeaseEpoch, LeaseId, LeaseOperation,
    Operation, Revision,
};

use crate::reader::Reader;
use crate::{DecodeError, transaction};

/// The longest key. Settings may only ask for less.
pub const KEY_BYTES_MAX: usize = 64 << 10;

/// The longest value: half a frame, so that a message with a batch that ends with
/// such a command always fits one. Settings may only ask for less.
pub const VALUE_BYTES_MAX: usize = 8 << 20;

/// The longest idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 1 << 10;

/// The longest encoding of a command.
pub const COMMAND_BYTES_MAX: usize =
    VALUE_BYTES_MAX + 2 * KEY_BYTES_MAX + IDEMPOTENCY_KEY_BYTES_MAX + 64;

/// Version 1 was before the first release.
const VERSION: u8 = 2;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_RANGE: u8 = 3;
const TXN: u8 = 4;
const COMPACT: u8 = 5;
const LEASE: u8 = 6;

const GRANT: u8 = 1;
const REVOKE: u8 = 2;
const KEEP_ALIVE: u8 = 3;
const BEGIN_EPOCH: u8 = 4;
const EXPIRE: u8 = 5;

const HAS_IDEMPOTENCY: u8 = 1;
const WANTS_PREVIOUS: u8 = 2;
const HAS_END: u8 = 4;

const ALWAYS: u8 = 0;
const ABSENT: u8 = 1;
const EXISTS: u8 = 2;
const AT: u8 = 3;

/// How many bytes [`encode`] makes of a command, or a few more. A transaction with more
/// than [`COMMAND_BYTES_MAX`] has to be refused by whoever takes it.
#[must_use]
pub fn encoded_bytes(command: &Command) -> usize {
    64 + payload_bytes(command)
}

/// Encodes a command.
///
/// # Panics
/// When a key, a value, an idempotency key or a transaction is longer than this module's
/// limits, which whoever takes requests has to check.
#[must_use]
pub fn encode(command: &Command) -> Bytes {
    let mut out = BytesMut::with_capacity(encoded_bytes(command));
    let (operation, mut flags, condition) = match &command.operation {
        Operation::Put { condition, want_previous, .. } => {
            (PUT, previous_flag(*want_previous), *condition)
        }
        Operation::Delete { condition, want_previous, .. } => {
            (DELETE, previous_flag(*want_previous), *condition)
        }
        Operation::DeleteRange { end, .. } => {
            (DELETE_RANGE, if end.is_some() { HAS_END } else { 0 }, Condition::Always)
        }
        Operation::Txn(_) => (TXN, 0, Condition::Always),
        Operation::Compact { .. } => (COMPACT, 0, Condition::Always),
        Operation::Lease(_) => (LEASE, 0, Condition::Always),
    };
    if command.idempotency.is_some() {
        flags |= HAS_IDEMPOTENCY;
    }
    out.put_slice(&[VERSION, operation, flags, condition_tag(condition)]);
    if let Some(idempotency) = &command.idempotency {
        out.put_u128_le(idempotency.request_hash);
        out.put_u64_le(idempotency.asked_ms);
        put_byte_string(&mut out, &idempotency.key, IDEMPOTENCY_KEY_BYTES_MAX);
    }
    if let Condition::At(revision) = condition {
        out.put_u64_le(revision.0);
    }
    put_operation(&mut out, &command.operation);
    assert!(out.len() <= COMMAND_BYTES_MAX, "a command of {} bytes", out.len());
    out.freeze()
}

fn put_operation(out: &mut BytesMut, operation: &Operation) {
    match operation {
        Operation::Put { key, value, .. } => {
            put_byte_string(out, key, KEY_BYTES_MAX);
            put_byte_string(out, value, VALUE_BYTES_MAX);
        }
        Operation::Delete { key, .. } => put_byte_string(out, key, KEY_BYTES_MAX),
        Operation::DeleteRange { start, end, limit } => {
            put_byte_string(out, start, KEY_BYTES_MAX);
            if let Some(end) = end {
                put_byte_string(out, end, KEY_BYTES_MAX);
            }
            out.put_u32_le(*limit);
        }
        Operation::Txn(txn) => transaction::put(out, txn),
        Operation::Compact { revision } => out.put_u64_le(revision.0),
        Operation::Lease(operation) => put_lease(out, operation),
    }
}

fn put_lease(out: &mut BytesMut, operation: &LeaseOperation) {
    match operation {
        LeaseOperation::Grant { id, ttl_ms } => {
            assert_ne!(*id, Some(LeaseId(0)), "stands for any id");
            out.put_u8(GRANT);
            out.put_u64_le(id.map_or(0, |id| id.0));
            out.put_u64_le(*ttl_ms);
        }
        LeaseOperation::Revoke { id } => {
            out.put_u8(REVOKE);
            out.put_u64_le(id.0);
        }
        LeaseOperation::KeepAlive { ids } => {
            assert!(ids.len() <= KEEP_ALIVES_MAX, "{} leases to renew", ids.len());
            out.put_u8(KEEP_ALIVE);
            out.put_u32_le(u32::try_from(ids.len()).expect("was compared"));
            ids.iter().for_each(|id| out.put_u64_le(id.0));
        }
        LeaseOperation::BeginEpoch => out.put_u8(BEGIN_EPOCH),
        LeaseOperation::Expire { id, epoch, renewals } => {
            out.put_u8(EXPIRE);
            for number in [id.0, epoch.0, *renewals] {
                out.put_u64_le(number);
            }
        }
    }
}

fn read_lease(reader: &mut Reader) -> Result<LeaseOperation, DecodeError> {
    Ok(match reader.u8()? {
        GRANT => {
            let id = Some(LeaseId(reader.u64()?)).filter(|id| id.0 != 0);
            LeaseOperation::Grant { id, ttl_ms: reader.u64()? }
        }
        REVOKE => LeaseOperation::Revoke { id: LeaseId(reader.u64()?) },
        KEEP_ALIVE => {
            let count = reader.count(KEEP_ALIVES_MAX, 8)?;
            let ids = (0..count).map(|_| reader.u64().map(LeaseId));
            LeaseOperation::KeepAlive { ids: ids.collect::<Result<_, _>>()? }
        }
        BEGIN_EPOCH => LeaseOperation::BeginEpoch,
        EXPIRE => LeaseOperation::Expire {
            id: LeaseId(reader.u64()?),
            epoch: LeaseEpoch(reader.u64()?),
            renewals: reader.u64()?,
        },
        tag => return Err(DecodeError::Tag { what: "a lease's operation", tag }),
    })
}

/// Decodes a command; keys and values are slices of `bytes`.
///
/// # Errors
/// When the bytes are not exactly one command.
pub fn decode(bytes: Bytes) -> Result<Command, DecodeError> {
    let mut reader = Reader::new(bytes, "a command");
    let version = reader.u8()?;
    if version != VERSION {
        return Err(DecodeError::Version { what: "a command", version });
    }
    let (kind, flags, condition) = (reader.u8()?, reader.u8()?, reader.u8()?);
    check_flags(kind, flags, condition)?;
    let idempotency = if flags & HAS_IDEMPOTENCY != 0 {
        let request_hash = reader.u128()?;
        let asked_ms = reader.u64()?;
        let key = reader.byte_string("an idempotency key", IDEMPOTENCY_KEY_BYTES_MAX)?;
        Some(IdempotencyKey { key, request_hash, asked_ms })
    } else {
        None
    };
    let condition = match condition {
        ALWAYS => Condition::Always,
        ABSENT => Condition::Absent,
        EXISTS => Condition::Exists,
        AT => Condition::At(Revision(reader.u64()?)),
        tag => {
            return Err(DecodeError::Tag { what: "a condition", tag });
        }
    };
    let want_previous = flags & WANTS_PREVIOUS != 0;
    let operation = match kind {
        PUT => {
            let key = reader.byte_string("a key", KEY_BYTES_MAX)?;
            let value = reader.byte_string("a value", VALUE_BYTES_MAX)?;
            Operation::Put { key, value, condition, want_previous }
        }
        DELETE => {
            let key = reader.byte_string("a key", KEY_BYTES_MAX)?;
            Operation::Delete { key, condition, want_previous }
        }
        DELETE_RANGE => {
            let start = reader.byte_string("a key", KEY_BYTES_MAX)?;
            let has_end = flags & HAS_END != 0;
            let end = has_end.then(|| reader.byte_string("a key", KEY_BYTES_MAX)).transpose()?;
            Operation::DeleteRange { start, end, limit: reader.u32()? }
        }
        TXN => Operation::Txn(transaction::read(&mut reader)?),
        COMPACT => Operation::Compact { revision: Revision(reader.u64()?) },
        LEASE => Operation::Lease(read_lease(&mut reader)?),
        tag => return Err(DecodeError::Tag { what: "an operation", tag }),
    };
    reader.finish()?;
    Ok(Command { idempotency, operation })
}

/// Each operation has its own flags; one that it cannot have is from a newer
/// writer, and to ignore it would give replicas different effects.
fn check_flags(operation: u8, flags: u8, condition: u8) -> Result<(), DecodeError> {
    let allowed = match operation {
        PUT | DELETE => HAS_IDEMPOTENCY | WANTS_PREVIOUS,
        DELETE_RANGE => HAS_IDEMPOTENCY | HAS_END,
        TXN | COMPACT | LEASE => HAS_IDEMPOTENCY,
        tag => {
            return Err(DecodeError::Tag { what: "an operation", tag });
        }
    };
    if flags & !allowed != 0 {
        return Err(DecodeError::Tag { what: "a command's flags", tag: flags });
    }
    if !matches!(operation, PUT | DELETE) && condition != ALWAYS {
        return Err(DecodeError::Tag { what: "a condition", tag: condition });
    }
    Ok(())
}

fn previous_flag(want_previous: bool) -> u8 {
    if want_previous { WANTS_PREVIOUS } else { 0 }
}

fn condition_tag(condition: Condition) -> u8 {
    match condition {
        Condition::Always => ALWAYS,
        Condition::Absent => ABSENT,
        Condition::Exists => EXISTS,
        Condition::At(_) => AT,
    }
}

fn payload_bytes(command: &Command) -> usize {
    let idempotency = command.idempotency.as_ref().map_or(0, |i| i.key.len());
    idempotency
        + match &command.operation {
            Operation::Put { key, value, .. } => key.len() + value.len(),
            Operation::Delete { key, .. } => key.len(),
            Operation::DeleteRange { start, end, .. } => {
                start.len() + end.as_ref().map_or(0, Bytes::len)
            }
            Operation::Txn(txn) => transaction::encoded_bytes(txn),
            Operation::Compact { .. } => 8,
            Operation::Lease(LeaseOperation::KeepAlive { ids }) => 8 * ids.len(),
            Operation::Lease(_) => 25,
        }
}

pub(crate) fn put_byte_string(out: &mut BytesMut, bytes: &[u8], max: usize) {
    assert!(bytes.len() <= max, "{} bytes where at most {max} are allowed", bytes.len());
    out.put_u32_le(u32::try_from(bytes.len()).expect("the limits are below 4 GiB"));
    out.put_slice(bytes);
}
