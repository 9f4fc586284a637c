//! A batch: the commands that share one slot, with the cluster time at which the
//! leader cut it.
//!
//! ```text
//! version u8 | cluster time u64 | count u32 | entries
//! entry: origin u32 | incarnation u64 | sequence u64 | length u32 | command
//! ```
//!
//! An entry is encoded once, on the node that took the command, and is copied as it
//! is into the message to the leader, the batch, the journal and every peer.

use bytes::{BufMut, Bytes, BytesMut};
use synod_kv::ServerId;

use crate::command::COMMAND_BYTES_MAX;
use crate::reader::Reader;
use crate::{DecodeError, next, version};

/// The most commands in a batch.
pub const ENTRIES_MAX: usize = 65_536;

/// What an entry has beside its command.
pub const ENTRY_OVERHEAD_BYTES: usize = 24;

/// The longest entry.
pub const ENTRY_BYTES_MAX: usize = ENTRY_OVERHEAD_BYTES + COMMAND_BYTES_MAX;

/// The longest batch: less than a frame by more than a page of other values.
pub const BATCH_BYTES_MAX: usize = 12 << 20;

const HEADER_BYTES: usize = 13;
const COUNT_OFFSET: usize = 9;

/// One command of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Who took it, and as its how-manieth.
    pub id: ServerId,
    /// As [`crate::command::encode`] made it.
    pub command: Bytes,
}

/// What a slot's bytes hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Cluster time when the leader cut it, in milliseconds.
    pub cluster_time_ms: u64,
    /// The commands, in the order in which they have effect.
    pub entries: Vec<Entry>,
}

/// Encodes an entry, as it stands in a batch and in [`crate::Forward`].
///
/// # Panics
/// When the command is longer than [`COMMAND_BYTES_MAX`], which no encoded command
/// is.
#[must_use]
pub fn encode_entry(id: ServerId, command: &[u8]) -> Bytes {
    assert!(command.len() <= COMMAND_BYTES_MAX, "a command of {} bytes", command.len());
    let mut out = BytesMut::with_capacity(ENTRY_OVERHEAD_BYTES + command.len());
    out.put_u32_le(id.origin);
    out.put_u64_le(id.incarnation);
    out.put_u64_le(id.sequence);
    out.put_u32_le(u32::try_from(command.len()).expect("the limit is below 4 GiB"));
    out.put_slice(command);
    out.freeze()
}

/// The server id of an entry that [`encode_entry`] made.
///
/// # Errors
/// When the bytes are not exactly one entry.
pub fn entry_id(entry: &Bytes) -> Result<ServerId, DecodeError> {
    decode_entry(entry.clone()).map(|entry| entry.id)
}

/// Decodes an entry; the command is a slice of `bytes` and is not looked into.
///
/// # Errors
/// When the bytes are not exactly one entry.
pub fn decode_entry(bytes: Bytes) -> Result<Entry, DecodeError> {
    let mut reader = Reader::new(bytes, "an entry");
    let entry = read_entry(&mut reader)?;
    reader.finish()?;
    Ok(entry)
}

/// Decodes a batch; the commands are slices of `bytes` and are not looked into.
///
/// # Errors
/// When the bytes are not exactly one batch.
pub fn decode(bytes: Bytes) -> Result<Batch, DecodeError> {
    decode_as_of(version::NEWEST, bytes)
}

/// The same by a reader that knows the versions up to `newest`.
///
/// # Errors
/// As [`decode`].
pub fn decode_as_of(newest: u32, bytes: Bytes) -> Result<Batch, DecodeError> {
    if bytes.len() > BATCH_BYTES_MAX {
        return Err(DecodeError::TooLarge { what: "a batch", size: bytes.len() as u64 });
    }
    let mut reader = Reader::new(bytes, "a batch");
    let version = reader.u8()?;
    if !(1..=next::form(newest)).contains(&version) {
        return Err(DecodeError::Version { what: "a batch", version });
    }
    let cluster_time_ms = reader.u64()?;
    let count = reader.count(ENTRIES_MAX, ENTRY_OVERHEAD_BYTES)?;
    next::read_field(version.into(), &mut reader)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(read_entry(&mut reader)?);
    }
    reader.finish()?;
    Ok(Batch { cluster_time_ms, entries })
}

fn read_entry(reader: &mut Reader) -> Result<Entry, DecodeError> {
    let id =
        ServerId { origin: reader.u32()?, incarnation: reader.u64()?, sequence: reader.u64()? };
    Ok(Entry { id, command: reader.byte_string("a command", COMMAND_BYTES_MAX)? })
}

/// Collects encoded entries into a batch.
#[derive(Debug)]
pub struct Builder {
    out: BytesMut,
    entries: u32,
}

impl Builder {
    /// An empty batch cut at this cluster time, in the form that every version reads.
    #[must_use]
    pub fn new(cluster_time_ms: u64) -> Self {
        Builder::of_version(version::OLDEST, cluster_time_ms)
    }

    /// An empty batch cut at this cluster time, in the newest form that a reader of this
    /// version knows.
    #[must_use]
    pub fn of_version(version: u32, cluster_time_ms: u64) -> Self {
        let form = next::form(version);
        let mut out = BytesMut::with_capacity(16 << 10);
        out.put_u8(form);
        out.put_u64_le(cluster_time_ms);
        out.put_u32_le(0);
        debug_assert_eq!(out.len(), HEADER_BYTES);
        next::put_field(form.into(), &mut out);
        Builder { out, entries: 0 }
    }

    /// Whether an entry of this many bytes still fits.
    #[must_use]
    pub fn fits(&self, entry_bytes: usize) -> bool {
        (self.entries as usize) < ENTRIES_MAX
            && self.out.len().saturating_add(entry_bytes) <= BATCH_BYTES_MAX
    }

    /// Appends an entry that [`encode_entry`] made; one of a peer is to be checked
    /// with [`entry_id`] first.
    ///
    /// # Panics
    /// When it does not fit; see [`Builder::fits`].
    pub fn push_entry(&mut self, entry: &Bytes) {
        assert!(self.fits(entry.len()), "the batch is full");
        self.out.put_slice(entry);
        self.entries += 1;
    }

    /// Entries so far.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries as usize
    }

    /// Bytes so far.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.out.len()
    }

    /// The encoded batch. It may be kept for long, so it keeps no room that it does
    /// not need.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        self.out[COUNT_OFFSET..HEADER_BYTES].copy_from_slice(&self.entries.to_le_bytes());
        if self.out.len() * 2 < self.out.capacity() {
            return Bytes::copy_from_slice(&self.out);
        }
        self.out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_batch_keeps_no_room_for_a_large_one() {
        for bytes in [0, 100, 9_000, 100_000] {
            let mut builder = Builder::new(5);
            let id = ServerId { origin: 1, incarnation: 2, sequence: 3 };
            builder.push_entry(&encode_entry(id, &vec![9; bytes]));
            let encoded = builder.finish();
            assert_eq!(decode(encoded.clone()).expect("a batch").entries[0].command.len(), bytes);
            let length = encoded.len();
            let kept = encoded.try_into_mut().expect("nobody else has it").capacity();
            assert!(kept <= 2 * length, "{kept} bytes for {length}");
        }
    }
}
