//! The segment that is being written.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use synod_wire::record::sector::{GROUP_MAX, SECTOR_BYTES, Seed};
use synod_wire::record::{ClusterId, GroupPlace, SegmentFooter, SegmentHeader};

use crate::error::{During, IoFailure};
use crate::folder::Folder;
use crate::recovery::Recovery;
use crate::segments::{SegmentFacts, Segments};

/// The newest segment, open for writing.
#[derive(Debug)]
pub(crate) struct Active {
    file: File,
    path: PathBuf,
    pub(crate) number: u64,
    seed: Seed,
    /// Sectors of the file.
    sectors: u64,
    /// Sectors in use.
    pub(crate) used: u64,
    groups: u32,
}

impl Active {
    /// Begins a segment in a file of zeros: its header is durable afterwards.
    pub(crate) fn begin(
        folder: &Folder,
        file: File,
        header: &SegmentHeader,
    ) -> Result<Active, IoFailure> {
        let active = Active {
            file,
            path: folder.segment_path(header.number),
            number: header.number,
            seed: Seed::new(header.cluster, header.number),
            sectors: header.file_bytes / SECTOR_BYTES as u64,
            used: 1,
            groups: 0,
        };
        active.write(0, &header.encode())?;
        Ok(active)
    }

    /// Takes over the newest segment of a recovered journal, and makes what was found
    /// in it durable: it may have been read from memory only, when the process died
    /// before its sync. After a sync that failed, the pages may even be marked as
    /// written though they were not; so what nothing seals is written once more.
    ///
    /// The header is `header`, which may be a new one: a sector is written as a whole
    /// or not at all.
    pub(crate) fn resume(
        folder: &Folder,
        header: &SegmentHeader,
        recovery: &Recovery,
    ) -> Result<Active, IoFailure> {
        let active = Active {
            used: recovery.newest_sectors,
            groups: recovery.newest_groups,
            ..Active::open(folder, header.cluster, recovery.segments.newest())?
        };
        active.write(0, &header.encode())?;
        if let Some((first, count)) = recovery.last_group {
            let length = usize::try_from(count).expect("bounded") * SECTOR_BYTES;
            let mut bytes = vec![0; length];
            let read = active.file.read_exact_at(&mut bytes, first * SECTOR_BYTES as u64);
            read.during("read", &active.path)?;
            active.write(first, &bytes)?;
        }
        Ok(active)
    }

    /// Says of the segment before the newest one that it is over. A crash may have
    /// come between the newest one's header and this.
    pub(crate) fn end_before(
        folder: &Folder,
        header: &SegmentHeader,
        segments: &Segments,
    ) -> Result<(), IoFailure> {
        let Some(before) = segments.before_newest() else { return Ok(()) };
        let used = header.previous.sectors;
        Active { used, ..Active::open(folder, header.cluster, before)? }.end()
    }

    fn open(
        folder: &Folder,
        cluster: ClusterId,
        facts: &SegmentFacts,
    ) -> Result<Active, IoFailure> {
        Ok(Active {
            file: folder.open_segment_for_writing(facts.number)?,
            path: folder.segment_path(facts.number),
            number: facts.number,
            seed: Seed::new(cluster, facts.number),
            sectors: facts.file_bytes / SECTOR_BYTES as u64,
            used: 1,
            groups: 0,
        })
    }

    /// Whether a group of `sectors` fits; the last sector is the footer's.
    pub(crate) fn has_room_for(&self, sectors: u64) -> bool {
        self.used + sectors < self.sectors && self.groups < GROUP_MAX
    }

    /// Where the next group goes.
    pub(crate) fn next_place(&self) -> GroupPlace {
        GroupPlace { seed: self.seed, first_sector: self.used, number: self.groups + 1 }
    }

    /// Writes the group that was made for [`Active::next_place`], durably.
    pub(crate) fn write_group(&mut self, bytes: &[u8]) -> Result<(), IoFailure> {
        self.write(self.used, bytes)?;
        self.used += (bytes.len() / SECTOR_BYTES) as u64;
        self.groups += 1;
        Ok(())
    }

    /// Says durably that the next segment has begun.
    pub(crate) fn end(&self) -> Result<(), IoFailure> {
        let footer = SegmentFooter { next: self.number + 1, sectors: self.used };
        let sector = self.sectors - 1;
        self.write(sector, &footer.encode(self.seed, sector))
    }

    fn write(&self, sector: u64, bytes: &[u8]) -> Result<(), IoFailure> {
        let written = self.file.write_all_at(bytes, sector * SECTOR_BYTES as u64);
        written.and_then(|()| self.file.sync_data()).during("write and sync", &self.path)
    }
}
