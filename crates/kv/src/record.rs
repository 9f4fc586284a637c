//! What the map holds for a key at a revision.

use bytes::Bytes;

use crate::codec::{Reader, put_varint};
use crate::metadata::Metadata;
use crate::{KeyRecord, MapError, Revision};

/// The kind of a record is its first byte.
const TOMBSTONE: u8 = 0;
const VALUE: u8 = 1;

/// Appends the record of a key that exists. The revision of the change stands in
/// the place of the record, not in it.
pub(crate) fn write_value(out: &mut Vec<u8>, metadata: &Metadata, value: &[u8]) {
    out.push(VALUE);
    put_varint(out, metadata.create_revision.0);
    put_varint(out, metadata.version);
    put_varint(out, metadata.lease);
    out.extend_from_slice(value);
}

/// Appends the record of a key that was removed.
pub(crate) fn write_tombstone(out: &mut Vec<u8>) {
    out.push(TOMBSTONE);
}

pub(crate) fn is_tombstone(record: &[u8]) -> bool {
    record.first() == Some(&TOMBSTONE)
}

/// A record as it lies in the map.
pub(crate) struct Stored<'a> {
    pub(crate) metadata: Metadata,
    pub(crate) value: &'a [u8],
}

impl Stored<'_> {
    /// The record with its own copy of the value.
    pub(crate) fn to_record(&self) -> KeyRecord {
        self.metadata.with_value(Bytes::copy_from_slice(self.value))
    }
}

/// Takes a record apart; none when the key was removed at this revision.
///
/// # Errors
/// When it is no record.
pub(crate) fn read(record: &[u8], revision: Revision) -> Result<Option<Stored<'_>>, MapError> {
    parse(record, revision).ok_or_else(|| MapError("the record of a key is damaged".to_owned()))
}

fn parse(record: &[u8], mod_revision: Revision) -> Option<Option<Stored<'_>>> {
    let mut reader = Reader::new(record);
    match reader.byte()? {
        TOMBSTONE => reader.end().map(|()| None),
        VALUE => {
            let create_revision = Revision(reader.varint()?);
            let version = reader.varint()?;
            let lease = reader.varint()?;
            let metadata = Metadata { create_revision, mod_revision, version, lease };
            Some(Some(Stored { metadata, value: reader.rest() }))
        }
        _ => None,
    }
}

#[cfg(test)]
pub(crate) fn encoded_for_tests(value: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    let one = Revision(1);
    let metadata = Metadata { create_revision: one, mod_revision: one, version: 1, lease: 0 };
    match value {
        Some(value) => write_value(&mut out, &metadata, value),
        None => write_tombstone(&mut out),
    }
    out
}
