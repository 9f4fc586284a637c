//! The segment that is being written.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use synod_wire::record::sector::{GROUP_MAX, SECTOR_BYTES, Seed};
use synod_wire::record::{ClusterId, GroupPlace, SegmentFooter, SegmentHeader};

use crate::error::{During, IoFailure};
use crate::folder::Folder;
use crate::recovery::Recovery;

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
    pub(crate) fn resume(
        folder: &Folder,
        cluster: ClusterId,
        recovery: &Recovery,
    ) -> Result<Active, IoFailure> {
        let facts = recovery.segments.newest();
        let active = Active {
            file: folder.open_segment_for_writing(facts.number)?,
            path: folder.segment_path(facts.number),
            number: facts.number,
            seed: Seed::new(cluster, facts.number),
            sectors: facts.file_bytes / SECTOR_BYTES as u64,
            used: recovery.newest_sectors,
            groups: GROUP_MAX,
        };
        for (first, count) in [(0, 1)].into_iter().chain(recovery.last_group) {
            let length = usize::try_from(count).expect("bounded") * SECTOR_BYTES;
            let mut bytes = vec![0; length];
            let read = active.file.read_exact_at(&mut bytes, first * SECTOR_BYTES as u64);
            read.during("read", &active.path)?;
            active.write(first, &bytes)?;
        }
        Ok(active)
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
