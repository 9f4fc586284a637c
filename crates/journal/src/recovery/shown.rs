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
/// What stands in for each byte that is lost.
const LOST_BYTE: u8 = 0x55;

/// Finds the values that are known as chosen in the journal in `folder`, damaged as it may be.
/// Changes nothing.
pub(crate) fn shown(folder: &Folder, cluster: ClusterId) -> Result<Gathering, OpenError> {
    Reader { folder, cluster }.shown()
}

impl Reader<'_> {
    /// The places of all values that what is whole of the journal shows as chosen.
    fn shown(&self) -> Result<Gathering, OpenError> {
        let mut gathering = Gathering::new();
        // Each file is read once, though the one before it looks at it, too.
        let (mut end, mut ahead, mut is_all) = (None, None, true);
        for number in self.folder.segment_numbers()? {
            let read = match ahead.take() {
                Some((of, read)) if of == number => read,
                _ => self.if_whole(number)?,
            };
            let Some((header, bytes)) = read else {
                // One that was made ready and never used says nothing.
                is_all &= matches!(self.unused(number), Ok(true));
                continue;
            };
            gathering.told(header.chosen_upto);
            let next = self.if_whole(number + 1)?;
            let first_copies = || {
                let (header, bytes) = next.as_ref()?;
                Segment::new(bytes, *header).first_copies()
            };
            let next_header = next.as_ref().map(|(header, _)| header);
            let file = u32::try_from(number).expect("the folder lists no others");
            let segment = Segment::new(&bytes, header);
            let mut runs = segment.scan_known(next_header, first_copies);
            for known in &runs {
                if end != Some(known.after) {
                    gathering.interrupt();
                }
                gathering.take(file, &known.scan);
                end = Some(known.end());
            }
            is_all = runs.last_mut().is_some_and(|last| segment.is_all(&mut last.scan));
            ahead = Some((number + 1, next));
        }
        if !is_all {
            gathering.interrupt();
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

    /// Reads a segment of which the disk may have lost parts. There it has bytes that were never
    /// written, which no record is ever taken from; no zeros, for a crash leaves those.
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
            self.folder.go_on(&path)?;
            let read = file.read_exact_at(part, at);
            let read = read.and_then(|()| disk_reads(header.number, at..at + part.len() as u64));
            match read.during("read", &path).map_err(OpenError::from) {
                Err(error) if is_lost(&error) && lost < LOST_PARTS_MAX => {
                    part.fill(LOST_BYTE);
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
    use std::ops::Range;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use synod_paxos::Slot;

    use super::super::tests::{
        CLUSTER, SLOTS, lose, lose_nothing, reads_of, stop_at, written_with,
    };
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

    /// The parts of a file of 1 MiB that are read when the disk has lost all but the first of them;
    /// whoever reads is told to stop when this one is read.
    fn parts_read(stop_at_part: Option<Range<u64>>) -> Vec<Range<u64>> {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        written_with(dir, &JournalOptions { segment_bytes: 1 << 20, format: 1 });
        let stop = Arc::new(AtomicBool::new(false));
        lose(2, PART_BYTES as u64..u64::MAX);
        let is_told = stop_at_part.is_some();
        if let Some(part) = stop_at_part {
            stop_at(part, Arc::clone(&stop));
        }
        let shown = Shown::read_until(dir, CLUSTER, stop);
        let mut reads = reads_of(2);
        lose_nothing();
        assert_eq!(shown.is_err(), is_told, "{shown:?}");
        reads.retain(|read| read.end - read.start == PART_BYTES as u64);
        reads
    }

    #[test]
    fn a_file_of_which_too_much_is_lost_is_tried_once() {
        let reads = parts_read(None);
        assert_eq!(reads.len(), 1 + LOST_PARTS_MAX + 1);
        assert_eq!(reads.iter().filter(|read| read.start == 0).count(), 1);
    }

    /// A disk may try each part for seconds.
    #[test]
    fn whoever_reads_in_parts_may_be_told_to_stop() {
        let third = 2 * PART_BYTES as u64..3 * PART_BYTES as u64;
        assert_eq!(parts_read(Some(third)).len(), 3);
    }
}
