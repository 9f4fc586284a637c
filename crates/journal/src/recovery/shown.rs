//! Reading a journal for what it shows as chosen, damaged as it may be.

use std::os::unix::fs::FileExt;

use synod_wire::record::{ClusterId, SegmentHeader};

use super::{Reader, disk_reads, is_lost};
use crate::OpenError;
use crate::error::During;
use crate::folder::Folder;
use crate::scan::Segment;
use crate::shown::Gathering;

/// What a disk fails to read is read in such parts: the system reads a file in pages.
const PART_BYTES: usize = 4096;
/// A disk may try each part for seconds. With more of them lost the file shows nothing.
const LOST_PARTS_MAX: usize = 64;

/// Finds the values that are known as chosen in the journal in `folder`, damaged as it may be.
/// Changes nothing.
pub(crate) fn shown(folder: &Folder, cluster: ClusterId) -> Result<Gathering, OpenError> {
    Reader { folder, cluster }.shown()
}

impl Reader<'_> {
    /// The places of all values that what is whole of the journal shows as chosen.
    fn shown(&self) -> Result<Gathering, OpenError> {
        let mut gathering = Gathering::new();
        let (mut end, mut ahead) = (None, None);
        for number in self.folder.segment_numbers()? {
            let read = match ahead.take() {
                Some(read) => Some(read),
                None => self.if_whole(number)?,
            };
            let Some((header, bytes)) = read else { continue };
            gathering.told(header.chosen_upto);
            let next = self.if_whole(number + 1)?;
            let first_copies = || {
                let (header, bytes) = next.as_ref()?;
                Segment::new(bytes, *header).first_copies()
            };
            let next_header = next.as_ref().map(|(header, _)| header);
            let segment = u32::try_from(number).expect("the folder lists no others");
            for known in Segment::new(&bytes, header).scan_known(next_header, first_copies) {
                if end != Some(known.after) {
                    gathering.interrupt();
                }
                gathering.take(segment, &known.scan);
                end = Some(known.end());
            }
            ahead = next;
        }
        Ok(gathering)
    }

    /// A segment whose header is whole; none when it is not, or there is no such segment.
    fn if_whole(&self, number: u64) -> Result<Option<(SegmentHeader, Vec<u8>)>, OpenError> {
        if !self.folder.segment_path(number).exists() {
            return Ok(None);
        }
        let read = self.header(number, true).and_then(|header| {
            let bytes = self.read_around(&header)?;
            Ok((header, bytes))
        });
        match read {
            Ok(read) => Ok(Some(read)),
            Err(OpenError::Damaged(_) | OpenError::PromiseNotProvable(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a segment of which the disk may have lost parts. There it has zeros, which no record
    /// is ever taken from, as from any other bytes that were not written.
    fn read_around(&self, header: &SegmentHeader) -> Result<Vec<u8>, OpenError> {
        match self.read_bytes(header, true) {
            Err(error) if is_lost(&error) => self.read_parts(header),
            read => read,
        }
        .map_err(|error| self.unreadable(header.number, true, error))
    }

    fn read_parts(&self, header: &SegmentHeader) -> Result<Vec<u8>, OpenError> {
        let path = self.folder.segment_path(header.number);
        let file = self.folder.open_segment(header.number)?;
        // The length was checked against the header, which is bounded.
        let mut bytes = vec![0; usize::try_from(header.file_bytes).expect("bounded")];
        let mut lost = 0;
        for (part, at) in bytes.chunks_mut(PART_BYTES).zip((0_u64..).step_by(PART_BYTES)) {
            let read = file.read_exact_at(part, at);
            let read = read.and_then(|()| disk_reads(header.number, at..at + part.len() as u64));
            match read.during("read", &path).map_err(OpenError::from) {
                Err(error) if is_lost(&error) && lost < LOST_PARTS_MAX => {
                    part.fill(0);
                    lost += 1;
                }
                read => read?,
            }
        }
        tracing::warn!(path = %path.display(), lost, "the disk cannot read parts of {PART_BYTES} bytes");
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use synod_paxos::Slot;

    use super::super::tests::{CLUSTER, SLOTS, lose, lose_nothing, written_with};
    use super::*;
    use crate::{JournalOptions, Shown};

    const OPTIONS: JournalOptions = JournalOptions { segment_bytes: 16_384, format: 1 };

    fn shown_slots(dir: &Path) -> BTreeSet<u64> {
        let shown = Shown::read(dir, CLUSTER).unwrap();
        let is_shown = |slot: &u64| !shown.values(Slot(*slot), Slot(*slot), 1).is_empty();
        (1..=SLOTS).filter(is_shown).collect()
    }

    /// What the disk cannot read costs what other bytes in that place would, and not the file.
    #[test]
    fn what_is_beside_a_sector_that_cannot_be_read_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        written_with(dir, &OPTIONS);
        let all = shown_slots(dir);
        assert_eq!(all.len() as u64, SLOTS - 1);
        let journal = Folder::open_beside(dir).unwrap();
        let mut costs = Vec::new();
        // The first one is empty.
        for number in [2, 3] {
            let path = journal.segment_path(number);
            let bytes = std::fs::read(&path).unwrap();
            for at in (0..bytes.len()).step_by(PART_BYTES) {
                lose(number, at as u64..(at + PART_BYTES) as u64);
                let unread = shown_slots(dir);
                lose_nothing();
                let mut other = bytes.clone();
                other[at..bytes.len().min(at + PART_BYTES)].fill(0x55);
                std::fs::write(&path, other).unwrap();
                assert_eq!(unread, shown_slots(dir), "segment {number} at {at}");
                std::fs::write(&path, &bytes).unwrap();
                costs.push(all.len() - unread.len());
            }
        }
        // The first part of a file says what it is.
        assert!(costs.iter().filter(|cost| **cost > 8).count() <= 2, "{costs:?}");
        assert!(costs.iter().any(|cost| *cost > 0), "{costs:?}");
    }
}
