//! The bytes of the journal on disk: sectors, records, groups, segments.
//!
//! All integers are little-endian. From the outside in:
//!
//! - A **segment** is one file: a sector with the [`SegmentHeader`], sectors of
//!   groups, untouched zeros, and as its last sector the [`SegmentFooter`], which
//!   is zero until the next segment has begun.
//! - A **sector** is 512 bytes that vouch for themselves ([`sector`]): 504 bytes of
//!   payload, the number of the group it belongs to, and a checksum bound to the
//!   cluster, the segment and the place in it. A group that a crash tore apart
//!   leaves sectors that are whole or still zero; every other state is damage.
//! - A **group** is what one fdatasync made durable, in as many sectors as it needs,
//!   the rest of the last one zero. Its payload is a [`GroupHeader`], a second copy
//!   of the headers of the group before it, then its own records. The copies lie in
//!   other sectors than the originals, cost no write of their own, and are what
//!   *seals* the group before: a group is only written after the one before it was
//!   synced.
//! - A **record** is a [`RecordHeader`] followed by the bytes of its value.
//!
//! The offsets of the fields stand in the doc comments of the types.

mod fields;
mod group;
mod header;
pub mod sector;
mod segment;

pub use group::{GROUP_HEADER_BYTES, GroupBuilder, GroupHeader, GroupPlace};
pub use header::{RECORD_HEADER_BYTES, RecordHeader, RecordKind, ValueKind};
pub use segment::{PreviousEnd, SegmentFooter, SegmentHeader};

use thiserror::Error;

/// Names one cluster: drawn at random when it is set up, and in every segment's
/// header, so that a folder of another cluster is recognised.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClusterId(pub u128);

impl ClusterId {
    /// The four bytes by which records name their cluster.
    #[must_use]
    pub fn tag(self) -> u32 {
        crc32c::crc32c(&self.0.to_le_bytes())
    }
}

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The largest value that a record holds, in bytes.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// The newest form of a segment, which its header names.
pub const FORMAT_NEWEST: u32 = crate::next::form(crate::version::NEWEST) as u32;

/// The oldest form of a segment that is read.
pub const FORMAT_OLDEST: u32 = 1;

/// Why bytes of a journal do not decode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RecordError {
    /// Fewer bytes than the structure has.
    #[error("cut short")]
    Short,
    /// It does not begin with the magic number.
    #[error("wrong magic number")]
    Magic,
    /// Written by another version of the format.
    #[error("format version {0}, of which the newest known is {FORMAT_NEWEST}")]
    Version(u32),
    /// The checksum does not match.
    #[error("wrong checksum")]
    Checksum,
    /// A field holds what no writer writes.
    #[error("impossible {0}")]
    Field(&'static str),
}
