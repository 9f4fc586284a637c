//! How a journal uses its folder.

use synod_wire::record::FORMAT_NEWEST;
use synod_wire::record::sector::SECTOR_BYTES;
use synod_wire::version::WRITTEN_BY_DEFAULT;

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
    /// The form of the segments that are begun; see [`synod_wire::version`]. Those that are
    /// there may be of any form that this build reads.
    pub format: u32,
}

impl Default for JournalOptions {
    fn default() -> Self {
        JournalOptions { segment_bytes: 16 << 20, format: WRITTEN_BY_DEFAULT }
    }
}

impl JournalOptions {
    /// The newest form of a segment that may be written.
    pub(crate) fn known_format(&self) -> u32 {
        self.format.min(FORMAT_NEWEST)
    }

    /// The size of a segment within its limits, in whole sectors.
    pub(crate) fn whole_segment_bytes(&self) -> u64 {
        let bytes = self.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        bytes / SECTOR_BYTES as u64 * SECTOR_BYTES as u64
    }
}
