//! What the version after the newest one could have more: one field each in a message of
//! peers, in the batches of the log and in the records of the journal. Only the feature
//! `next-version` knows of it, for the test of upgrades (tests/upgrade.rs), and the feature
//! `mixed-versions`, for those nodes of the simulation that are of the next release. Without
//! them nothing here is ever written, and to read it is an error or a field to be skipped.

use bytes::{BufMut, BytesMut};

use crate::DecodeError;
use crate::reader::Reader;

/// Whether this build is of the next version.
pub(crate) const IS_ON: bool = cfg!(feature = "next-version");

/// Whether this build can do what the next version does, for who asks for it by number.
const CAN_BE: bool = IS_ON || cfg!(feature = "mixed-versions");

/// The version that brings the fields.
pub(crate) const SINCE: u32 = 2;
/// What is in each of them, so that a reader sees that it reads the right bytes.
const CONTENT: u64 = u64::from_le_bytes(*b"upgraded");

/// Whether this version has the fields.
pub(crate) fn has_field(version: u32) -> bool {
    CAN_BE && version >= SINCE
}

/// The newest form that a build of this version knows of a format that the next one changes.
pub(crate) const fn form(version: u32) -> u8 {
    if CAN_BE && version >= SINCE { 2 } else { 1 }
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
