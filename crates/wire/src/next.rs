//! What the version after the newest one could have more: one field each in a message of
//! peers, in the batches of the log and in the records of the journal. Only the feature
//! `next-version` knows of it, for the test of upgrades (tests/upgrade.rs). Without it
//! nothing here is ever written, and to read it is an error or a field to be skipped.

use bytes::{BufMut, BytesMut};

use crate::DecodeError;
use crate::reader::Reader;

/// Whether this build is of the next version.
pub(crate) const IS_ON: bool = cfg!(feature = "next-version");

/// The version that brings the fields.
const SINCE: u32 = 2;
/// What is in each of them, so that a reader sees that it reads the right bytes.
const CONTENT: u64 = u64::from_le_bytes(*b"upgraded");

/// Whether this version has the fields.
pub(crate) fn has_field(version: u32) -> bool {
    IS_ON && version >= SINCE
}

/// The newest form of a format that the next version changes.
pub(crate) const fn newest_form() -> u8 {
    if IS_ON { 2 } else { 1 }
}

/// The field, or 0 where there is none.
pub(crate) fn content(version: u32) -> u64 {
    if has_field(version) { CONTENT } else { 0 }
}

/// Bytes of the field.
pub(crate) fn field_bytes(version: u32) -> usize {
    if has_field(version) { size_of::<u64>() } else { 0 }
}

/// Appends the field.
pub(crate) fn put_field(version: u32, out: &mut BytesMut) {
    if has_field(version) {
        out.put_u64_le(CONTENT);
    }
}

/// Reads the field.
pub(crate) fn read_field(version: u32, reader: &mut Reader) -> Result<(), DecodeError> {
    if has_field(version) && reader.u64()? != CONTENT {
        return Err(DecodeError::Text("the field of the next version"));
    }
    Ok(())
}
