//! How a journal uses its folder.

use synod_wire::record::sector::SECTOR_BYTES;

/// The smallest file that is a segment: header, one sector, footer.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 3 * SECTOR_BYTES as u64;
/// The largest size that may be set for segments.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How a journal uses its folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalOptions {
    /// Size of a segment in bytes; a group that does not fit gets a larger one.
    /// Rounded to whole sectors, and limited to 1.5 KiB to 1 GiB.
    pub segment_bytes: u64,
}

impl Default for JournalOptions {
    fn default() -> Self {
        JournalOptions { segment_bytes: 16 << 20 }
    }
}

impl JournalOptions {
    /// The size of a segment within its limits, in whole sectors.
    pub(crate) fn whole_segment_bytes(&self) -> u64 {
        let bytes = self.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        bytes / SECTOR_BYTES as u64 * SECTOR_BYTES as u64
    }
}
