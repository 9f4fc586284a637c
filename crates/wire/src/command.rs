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
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use synod_kv::{Command, Condition, IdempotencyKey, Operation, Revision};

use crate::DecodeError;
use crate::reader::Reader;

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

const HAS_IDEMPOTENCY: u8 = 1;
const WANTS_PREVIOUS: u8 = 2;
const HAS_END: u8 = 4;

const ALWAYS: u8 = 0;
const ABSENT: u8 = 1;
const EXISTS: u8 = 2;
const AT: u8 = 3;

/// Encodes a command.
///
/// # Panics
/// When a key, a value or an idempotency key is longer than this module's limits,
/// which whoever takes requests has to check.
#[must_use]
pub fn encode(command: &Command) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + payload_bytes(command));
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
    match &command.operation {
        Operation::Put { key, value, .. } => {
            put_byte_string(&mut out, key, KEY_BYTES_MAX);
            put_byte_string(&mut out, value, VALUE_BYTES_MAX);
        }
        Operation::Delete { key, .. } => put_byte_string(&mut out, key, KEY_BYTES_MAX),
        Operation::DeleteRange { start, end, limit } => {
            put_byte_string(&mut out, start, KEY_BYTES_MAX);
            if let Some(end) = end {
                put_byte_string(&mut out, end, KEY_BYTES_MAX);
            }
            out.put_u32_le(*limit);
        }
    }
    out.freeze()
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
    let key = reader.byte_string("a key", KEY_BYTES_MAX)?;
    let operation = match kind {
        PUT => {
            let value = reader.byte_string("a value", VALUE_BYTES_MAX)?;
            Operation::Put { key, value, condition, want_previous }
        }
        DELETE => Operation::Delete { key, condition, want_previous },
        _ => {
            let has_end = flags & HAS_END != 0;
            let end = has_end.then(|| reader.byte_string("a key", KEY_BYTES_MAX)).transpose()?;
            Operation::DeleteRange { start: key, end, limit: reader.u32()? }
        }
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
        tag => {
            return Err(DecodeError::Tag { what: "an operation", tag });
        }
    };
    if flags & !allowed != 0 {
        return Err(DecodeError::Tag { what: "a command's flags", tag: flags });
    }
    if operation == DELETE_RANGE && condition != ALWAYS {
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
        }
}

fn put_byte_string(out: &mut BytesMut, bytes: &[u8], max: usize) {
    assert!(bytes.len() <= max, "{} bytes where at most {max} are allowed", bytes.len());
    out.put_u32_le(u32::try_from(bytes.len()).expect("the limits are below 4 GiB"));
    out.put_slice(bytes);
}
