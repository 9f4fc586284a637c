//! The header of a record.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use synod_paxos::{Ballot, NodeId, Position, Record, RecordBody, Slot, Value};

use crate::{configuration, next};

use super::fields::{Reader, Writer, check};
use super::{BODY_BYTES_MAX, FORMAT_NEWEST, RecordError};

/// Bytes of a record's header.
pub const RECORD_HEADER_BYTES: usize = 84;

const MAGIC: u32 = u32::from_le_bytes(*b"SynR");

/// What a record says, without its value's bytes.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | magic `SynR` |
/// | 4 | 4 | tag of the cluster |
/// | 8 | 8 | position |
/// | 16 | 8 | slot; 0 for a promise |
/// | 24 | 12 | ballot of an acceptance (round, node); else zero |
/// | 36 | 12 | promise in force (round, node) |
/// | 48 | 8 | chosen-upto in force |
/// | 56 | 4 | bytes of the value |
/// | 60 | 4 | CRC32C of the value's bytes |
/// | 64 | 4 | link: the checksum in the header of the record before; 0 for the first |
/// | 68 | 1 | kind: 1 promise, 2 accepted, 3 chosen, 4 start-after |
/// | 69 | 1 | value: 0 none, 1 no-op, 2 batch |
/// | 70 | 10 | zero; in a later form there may be more fields |
/// | 80 | 4 | CRC32C of the 80 bytes before |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// [`super::ClusterId::tag`].
    pub cluster_tag: u32,
    /// The record's number.
    pub position: Position,
    /// What is recorded, with slot and ballot.
    pub kind: RecordKind,
    /// What sort of value follows.
    pub value: ValueKind,
    /// The promise in force.
    pub promised: Ballot,
    /// Everything up to here is chosen.
    pub chosen_upto: Slot,
    /// Bytes of the value.
    pub body_bytes: u32,
    /// CRC32C of the value's bytes.
    pub body_checksum: u32,
    /// The checksum in the header of the record before.
    pub link: u32,
    /// What a later form has at 70.
    later: u64,
}

/// [`RecordBody`] without the value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// Only the promise changed.
    Promise,
    /// Accepted in this slot and ballot.
    Accepted(Slot, Ballot),
    /// Known as chosen in this slot.
    Chosen(Slot),
    /// The log starts after this slot.
    StartAfter(Slot),
}

/// What sort of value a record holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ValueKind {
    /// None: the record is not about a value.
    None,
    /// A no-op; no bytes follow.
    Noop,
    /// A batch, whose bytes follow.
    Batch,
    /// A configuration, whose bytes follow.
    Configuration,
}

impl RecordHeader {
    /// The header of `record`, and the bytes that follow it.
    ///
    /// # Panics
    /// When the value is larger than [`BODY_BYTES_MAX`].
    #[must_use]
    pub fn of(
        record: &Record,
        cluster_tag: u32,
        position: Position,
        link: u32,
    ) -> (Self, Cow<'_, [u8]>) {
        let (kind, value) = match &record.body {
            RecordBody::Promise => (RecordKind::Promise, None),
            RecordBody::Accepted { slot, ballot, value } => {
                (RecordKind::Accepted(*slot, *ballot), Some(value))
            }
            RecordBody::Chosen { slot, value } => (RecordKind::Chosen(*slot), Some(value)),
            RecordBody::StartAfter { slot } => (RecordKind::StartAfter(*slot), None),
        };
        let (value, body): (_, Cow<'_, [u8]>) = match value {
            None => (ValueKind::None, Cow::Borrowed(&[])),
            Some(Value::Noop) => (ValueKind::Noop, Cow::Borrowed(&[])),
            Some(Value::Batch(bytes)) => (ValueKind::Batch, Cow::Borrowed(bytes)),
            Some(Value::Configuration(new)) => {
                (ValueKind::Configuration, Cow::Owned(configuration::encode(new).into()))
            }
        };
        assert!(body.len() <= BODY_BYTES_MAX, "a value of {} bytes", body.len());
        let header = RecordHeader {
            cluster_tag,
            position,
            kind,
            value,
            promised: record.promised,
            chosen_upto: record.chosen_upto,
            body_bytes: u32::try_from(body.len()).expect("checked above"),
            body_checksum: crc32c::crc32c(&body),
            link,
            later: 0,
        };
        (header, body)
    }

    /// The same in a segment of this form.
    #[must_use]
    pub fn in_format(self, format: u32) -> Self {
        RecordHeader { later: next::content(format), ..self }
    }

    /// The bytes, and the checksum in them, to which the next record links.
    #[must_use]
    pub fn encode(&self) -> ([u8; RECORD_HEADER_BYTES], u32) {
        let none = Ballot { round: 0, node: NodeId(0) };
        let (kind, slot, ballot) = match self.kind {
            RecordKind::Promise => (1, Slot::ZERO, none),
            RecordKind::Accepted(slot, ballot) => (2, slot, ballot),
            RecordKind::Chosen(slot) => (3, slot, none),
            RecordKind::StartAfter(slot) => (4, slot, none),
        };
        let mut bytes = [0; RECORD_HEADER_BYTES];
        let mut writer = Writer::new(&mut bytes);
        writer.u32(MAGIC);
        writer.u32(self.cluster_tag);
        writer.u64(self.position.0);
        writer.u64(slot.0);
        writer.ballot(ballot);
        writer.ballot(self.promised);
        writer.u64(self.chosen_upto.0);
        writer.u32(self.body_bytes);
        writer.u32(self.body_checksum);
        writer.u32(self.link);
        writer.u8(kind);
        writer.u8(match self.value {
            ValueKind::None => 0,
            ValueKind::Noop => 1,
            ValueKind::Batch => 2,
            ValueKind::Configuration => 3,
        });
        writer.u64(self.later);
        let checksum = writer.finish();
        (bytes, checksum)
    }

    /// Reads a header from the front of `bytes`; also returns its checksum.
    ///
    /// # Errors
    /// When the bytes are not a header that [`RecordHeader::encode`] makes.
    pub fn decode(bytes: &[u8]) -> Result<(RecordHeader, u32), RecordError> {
        RecordHeader::decode_as_of(FORMAT_NEWEST, bytes)
    }

    /// The same by a reader that knows the forms up to `newest`.
    ///
    /// # Errors
    /// As [`RecordHeader::decode`].
    pub fn decode_as_of(newest: u32, bytes: &[u8]) -> Result<(RecordHeader, u32), RecordError> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES).ok_or(RecordError::Short)?;
        let mut reader = Reader::new(bytes);
        if reader.u32() != MAGIC {
            return Err(RecordError::Magic);
        }
        let checksum = check(bytes).ok_or(RecordError::Checksum)?;
        let (cluster_tag, position) = (reader.u32(), Position(reader.u64()));
        let (slot, ballot) = (Slot(reader.u64()), reader.ballot());
        let (promised, chosen_upto) = (reader.ballot(), Slot(reader.u64()));
        let (body_bytes, body_checksum, link) = (reader.u32(), reader.u32(), reader.u32());
        let kind = match reader.u8() {
            1 => RecordKind::Promise,
            2 => RecordKind::Accepted(slot, ballot),
            3 => RecordKind::Chosen(slot),
            4 => RecordKind::StartAfter(slot),
            _ => return Err(RecordError::Field("kind")),
        };
        let value = match reader.u8() {
            0 => ValueKind::None,
            1 => ValueKind::Noop,
            2 => ValueKind::Batch,
            3 => ValueKind::Configuration,
            _ => return Err(RecordError::Field("value kind")),
        };
        let later = if next::has_field(newest) { reader.u64() } else { 0 };
        let holds_value = matches!(kind, RecordKind::Accepted(..) | RecordKind::Chosen(_));
        if holds_value == (value == ValueKind::None) {
            return Err(RecordError::Field("value kind"));
        }
        let has_body = matches!(value, ValueKind::Batch | ValueKind::Configuration);
        if body_bytes as usize > BODY_BYTES_MAX || body_bytes > 0 && !has_body {
            return Err(RecordError::Field("body length"));
        }
        let header = RecordHeader {
            cluster_tag,
            position,
            kind,
            value,
            promised,
            chosen_upto,
            body_bytes,
            body_checksum,
            link,
            later,
        };
        // Fields that this kind does not have, and those that nothing has yet.
        if header.encode().0 != *bytes {
            return Err(RecordError::Field("spare bytes"));
        }
        Ok((header, checksum))
    }

    /// The slot whose value this record holds, and the ballot if it is an acceptance.
    #[must_use]
    pub fn slot(&self) -> Option<(Slot, Option<Ballot>)> {
        match self.kind {
            RecordKind::Accepted(slot, ballot) => Some((slot, Some(ballot))),
            RecordKind::Chosen(slot) => Some((slot, None)),
            RecordKind::Promise | RecordKind::StartAfter(_) => None,
        }
    }

    /// The value, of which `body` are the bytes behind this header.
    ///
    /// # Errors
    /// When they are not the bytes that were written.
    pub fn value(&self, body: Bytes) -> Result<Option<Value>, RecordError> {
        if body.len() != self.body_bytes as usize {
            return Err(RecordError::Short);
        }
        if crc32c::crc32c(&body) != self.body_checksum {
            return Err(RecordError::Checksum);
        }
        Ok(match self.value {
            ValueKind::None => None,
            ValueKind::Noop => Some(Value::Noop),
            ValueKind::Batch => Some(Value::Batch(body)),
            ValueKind::Configuration => {
                let new = configuration::decode(body);
                Some(Value::Configuration(Arc::new(
                    new.map_err(|_| RecordError::Field("configuration"))?,
                )))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_fields_distinct_come_back_and_any_flip_is_seen() {
        let ballot = |round, node| Ballot { round, node: NodeId(node) };
        let value = Value::Batch(Bytes::from_static(b"some commands"));
        let new = synod_paxos::Configuration::majority([1, 2].map(NodeId).to_vec(), 3);
        let new = Arc::new(new.unwrap().numbered(4));
        for body in [
            RecordBody::Promise,
            RecordBody::Accepted { slot: Slot(2), ballot: ballot(3, 4), value: value.clone() },
            RecordBody::Accepted { slot: Slot(2), ballot: ballot(3, 4), value: Value::Noop },
            RecordBody::Chosen { slot: Slot(5), value },
            RecordBody::Chosen { slot: Slot(5), value: Value::Configuration(new) },
            RecordBody::StartAfter { slot: Slot(6) },
        ] {
            let record = Record { promised: ballot(7, 8), chosen_upto: Slot(9), body };
            let (header, body) = RecordHeader::of(&record, 10, Position(11), 12);
            let (bytes, checksum) = header.encode();
            assert_eq!(RecordHeader::decode(&bytes), Ok((header, checksum)));
            assert_eq!(RecordHeader::decode(&bytes[1..]), Err(RecordError::Short));
            let value = header.value(Bytes::from(body.into_owned())).unwrap();
            assert_eq!(value.is_some(), header.slot().is_some());
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(RecordHeader::decode(&flipped).is_err(), "bit {bit}");
            }
        }
    }
}
