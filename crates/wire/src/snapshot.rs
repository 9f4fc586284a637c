//! How a node takes over another one's state: it asks for everything that it gets.
//!
//! ```text
//! receiver                       sender
//! Open{fetch, above}       ->
//!                          <-    Manifest{fetch, id, slot, files}
//! Read{id, file, offset}   ->
//!                          <-    Chunk{id, file, offset, bytes}      (again and again)
//!                          <-    Gone{fetch, id}                     (instead of either)
//! ```
//!
//! A message that gets lost is asked for again. The id names the files: as long as a
//! sender knows it, each byte of them is what it was, so a transfer goes on where it was.

use bytes::{BufMut, Bytes, BytesMut};
use synod_paxos::Slot;

use crate::DecodeError;
use crate::message::{BLOCK_BYTES, COUNT_BYTES, put_block, put_count};
use crate::reader::Reader;

/// The longest part of a file in one message.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;
/// The most files of a snapshot.
pub const FILES_MAX: usize = 100_000;
/// The longest name of a file.
pub const NAME_BYTES_MAX: usize = 64;

const OPEN_BYTES: usize = 16;
const MANIFEST_BYTES: usize = 32;
const READ_BYTES: usize = 32;
const CHUNK_BYTES: usize = 36;
const GONE_BYTES: usize = 25;

/// One message about a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotMessage {
    /// Make a snapshot, or tell of the one that is there.
    Open {
        /// Names the question. Never used twice by one process.
        fetch: u64,
        /// Only one of a slot above this is of use.
        above: Slot,
    },
    /// What there is.
    Manifest {
        /// The question.
        fetch: u64,
        /// Names the files, for as long as they are kept.
        id: u128,
        /// Everything up to here is in it.
        slot: Slot,
        /// The files with their lengths in bytes, in the order of their names.
        files: Vec<(String, u64)>,
    },
    /// Send a part of a file.
    Read {
        /// Of this snapshot.
        id: u128,
        /// The place of the file in the manifest.
        file: u32,
        /// From this byte on.
        offset: u64,
        /// At most so many bytes.
        bytes_max: u32,
    },
    /// A part of a file.
    Chunk {
        /// Of this snapshot.
        id: u128,
        /// The place of the file in the manifest.
        file: u32,
        /// From this byte on.
        offset: u64,
        /// CRC-32C of the part, as it was read from the disk.
        checksum: u32,
        /// CRC-32C of the whole file.
        file_checksum: u32,
        /// The part.
        bytes: Bytes,
    },
    /// There is none.
    Gone {
        /// The question; 0 when it was a `Read`.
        fetch: u64,
        /// The snapshot that was asked for; 0 when it was an `Open`.
        id: u128,
        /// Why.
        reason: SnapshotGone,
    },
}

/// Why there is no snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SnapshotGone {
    /// The sender's own state is not above the slot.
    NothingAbove,
    /// It is not there any more: ask for another one.
    Dropped,
    /// The sender cannot make or read one.
    Failed,
}

const REASONS: [(SnapshotGone, u8); 3] =
    [(SnapshotGone::NothingAbove, 1), (SnapshotGone::Dropped, 2), (SnapshotGone::Failed, 3)];

/// The kinds of frames of these messages, in the order of the variants.
pub(crate) const KINDS: std::ops::RangeInclusive<u8> = OPEN..=GONE;
const OPEN: u8 = 32;
const MANIFEST: u8 = 33;
const READ: u8 = 34;
const CHUNK: u8 = 35;
const GONE: u8 = 36;

pub(crate) fn kind(message: &SnapshotMessage) -> u8 {
    match message {
        SnapshotMessage::Open { .. } => OPEN,
        SnapshotMessage::Manifest { .. } => MANIFEST,
        SnapshotMessage::Read { .. } => READ,
        SnapshotMessage::Chunk { .. } => CHUNK,
        SnapshotMessage::Gone { .. } => GONE,
    }
}

pub(crate) fn name(kind: u8) -> &'static str {
    match kind {
        OPEN => "a SnapshotOpen",
        MANIFEST => "a SnapshotManifest",
        READ => "a SnapshotRead",
        CHUNK => "a SnapshotChunk",
        _ => "a SnapshotGone",
    }
}

pub(crate) fn body_bytes(message: &SnapshotMessage) -> usize {
    BLOCK_BYTES
        + match message {
            SnapshotMessage::Open { .. } => OPEN_BYTES,
            SnapshotMessage::Manifest { files, .. } => {
                let file = |(name, _): &(String, u64)| 8 + COUNT_BYTES + name.len();
                MANIFEST_BYTES + COUNT_BYTES + files.iter().map(file).sum::<usize>()
            }
            SnapshotMessage::Read { .. } => READ_BYTES,
            SnapshotMessage::Chunk { bytes, .. } => CHUNK_BYTES + COUNT_BYTES + bytes.len(),
            SnapshotMessage::Gone { .. } => GONE_BYTES,
        }
}

pub(crate) fn encode(message: &SnapshotMessage, out: &mut BytesMut) {
    match message {
        SnapshotMessage::Open { fetch, above } => put_block(out, |out| {
            out.put_u64_le(*fetch);
            out.put_u64_le(above.0);
        }),
        SnapshotMessage::Manifest { fetch, id, slot, files } => {
            put_block(out, |out| {
                out.put_u64_le(*fetch);
                out.put_u128_le(*id);
                out.put_u64_le(slot.0);
            });
            put_count(out, files.len());
            for (name, bytes) in files {
                out.put_u64_le(*bytes);
                put_count(out, name.len());
                out.put_slice(name.as_bytes());
            }
        }
        SnapshotMessage::Read { id, file, offset, bytes_max } => put_block(out, |out| {
            out.put_u128_le(*id);
            out.put_u32_le(*file);
            out.put_u64_le(*offset);
            out.put_u32_le(*bytes_max);
        }),
        SnapshotMessage::Chunk { id, file, offset, checksum, file_checksum, bytes } => {
            put_block(out, |out| {
                out.put_u128_le(*id);
                out.put_u32_le(*file);
                out.put_u64_le(*offset);
                out.put_u32_le(*checksum);
                out.put_u32_le(*file_checksum);
            });
            put_count(out, bytes.len());
            out.put_slice(bytes);
        }
        SnapshotMessage::Gone { fetch, id, reason } => put_block(out, |out| {
            out.put_u64_le(*fetch);
            out.put_u128_le(*id);
            let tag = REASONS.iter().find(|(known, _)| known == reason).map(|(_, tag)| *tag);
            out.put_u8(tag.expect("each reason has a tag"));
        }),
    }
}

/// Decodes the body of a frame of one of [`KINDS`].
pub(crate) fn decode(kind: u8, body: Bytes) -> Result<SnapshotMessage, DecodeError> {
    let mut reader = Reader::new(body, name(kind));
    let mut block = reader.block()?;
    let message = match kind {
        OPEN => SnapshotMessage::Open { fetch: block.u64()?, above: block.slot()? },
        MANIFEST => SnapshotMessage::Manifest {
            fetch: block.u64()?,
            id: block.u128()?,
            slot: block.slot()?,
            files: read_files(&mut reader)?,
        },
        READ => SnapshotMessage::Read {
            id: block.u128()?,
            file: block.u32()?,
            offset: block.u64()?,
            bytes_max: block.u32()?,
        },
        CHUNK => SnapshotMessage::Chunk {
            id: block.u128()?,
            file: block.u32()?,
            offset: block.u64()?,
            checksum: block.u32()?,
            file_checksum: block.u32()?,
            bytes: reader.byte_string("a part of a file", CHUNK_BYTES_MAX)?,
        },
        _ => SnapshotMessage::Gone {
            fetch: block.u64()?,
            id: block.u128()?,
            reason: read_reason(&mut block)?,
        },
    };
    reader.finish()?;
    Ok(message)
}

fn read_files(reader: &mut Reader) -> Result<Vec<(String, u64)>, DecodeError> {
    let count = reader.count(FILES_MAX, 8 + COUNT_BYTES)?;
    let mut files = Vec::with_capacity(count);
    for _ in 0..count {
        let bytes = reader.u64()?;
        let name = reader.byte_string("the name of a file", NAME_BYTES_MAX)?;
        let name = std::str::from_utf8(&name).map_err(|_| DecodeError::Text("a file's name"))?;
        files.push((name.to_owned(), bytes));
    }
    Ok(files)
}

fn read_reason(block: &mut Reader) -> Result<SnapshotGone, DecodeError> {
    let tag = block.u8()?;
    let reason = REASONS.iter().find(|(_, known)| *known == tag).map(|(reason, _)| *reason);
    reason.ok_or(DecodeError::Tag { what: "a SnapshotGone", tag })
}
