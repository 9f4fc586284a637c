//! The segment that is being written.

use std::fs::File;
use std::io;
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
        written.and_then(|()| self.sync(sector)).during("write and sync", &self.path)
    }

    #[cfg(not(test))]
    fn sync(&self, _sector: u64) -> io::Result<()> {
        self.file.sync_data()
    }

    #[cfg(test)]
    fn sync(&self, sector: u64) -> io::Result<()> {
        tests::note_sync(self.number, sector)?;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::path::Path;

    use bytes::Bytes;
    use synod_paxos::{Ballot, NodeId, Record, RecordBody, Slot, Value};

    use super::*;
    use crate::{Journal, JournalError, JournalOptions};

    const CLUSTER: ClusterId = ClusterId(7);
    const OPTIONS: JournalOptions = JournalOptions { segment_bytes: 4096, format: 1 };
    const BALLOT: Ballot = Ballot { round: 1, node: NodeId(1) };
    /// Groups that are tried to be written: more than a segment takes.
    const GROUPS: u64 = 8;

    thread_local! {
        /// Syncs that succeed before one fails; none fails when there is no number.
        static SYNCS_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
        /// Segment and first sector of what was synced.
        static SYNCED: RefCell<Vec<(u64, u64)>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note_sync(segment: u64, sector: u64) -> io::Result<()> {
        match SYNCS_LEFT.get() {
            Some(0) => return Err(io::Error::other("on purpose")),
            left => SYNCS_LEFT.set(left.map(|left| left - 1)),
        }
        SYNCED.with_borrow_mut(|synced| synced.push((segment, sector)));
        Ok(())
    }

    fn accepted(slot: u64) -> Record {
        let value = Value::Batch(Bytes::from(vec![9; 700]));
        let body = RecordBody::Accepted { slot: Slot(slot), ballot: BALLOT, value };
        Record { promised: BALLOT, chosen_upto: Slot::ZERO, body }
    }

    /// Writes groups until one fails; which one did.
    fn write_groups(journal: &mut Journal) -> Option<u64> {
        for slot in 1..=GROUPS {
            journal.append(&[accepted(slot)]).expect("it only gathers");
            if let Err(error) = journal.sync() {
                assert!(matches!(error, JournalError::Io { .. }), "{error}");
                return Some(slot);
            }
        }
        None
    }

    fn assert_failed_for_good(journal: &mut Journal) {
        let failed = |error| matches!(error, JournalError::Failed(_));
        assert!(failed(journal.append(&[accepted(99)]).unwrap_err()));
        assert!(failed(journal.sync().unwrap_err()));
        assert!(failed(journal.seal().unwrap_err()));
        assert!(failed(journal.truncate(Slot(1)).unwrap_err()));
        assert!(failed(journal.read_chosen(Slot(1), Slot(1), 1).unwrap_err()));
    }

    /// The newest segment that has a header, and where its last group begins.
    fn newest(dir: &Path) -> (u64, Option<(u64, u64)>) {
        let folder = Folder::open(dir).unwrap();
        let recovery = crate::recovery::recover(&folder, CLUSTER).unwrap();
        (recovery.newest_header.number, recovery.last_group)
    }

    /// What a failed sync leaves is on disk or is not; nobody knows.
    fn forget(dir: &Path) {
        let (segment, last_group) = newest(dir);
        let (first, count) = last_group.unwrap();
        let folder = Folder::open(dir).unwrap();
        let file = folder.open_segment_for_writing(segment).unwrap();
        let zeros = vec![0; usize::try_from(count).unwrap() * SECTOR_BYTES];
        file.write_all_at(&zeros, first * SECTOR_BYTES as u64).unwrap();
    }

    /// Fails the n-th sync of a header, a group or a footer. False when there are
    /// fewer.
    fn fail_sync(number: u32, is_lost: bool) -> bool {
        let folder = tempfile::tempdir().unwrap();
        Journal::create(folder.path(), CLUSTER).unwrap();
        let mut journal = Journal::open(folder.path(), CLUSTER, &OPTIONS).unwrap().journal;
        SYNCS_LEFT.set(Some(number));
        let failed = write_groups(&mut journal);
        SYNCS_LEFT.set(None);
        let Some(slot) = failed else { return false };
        assert_failed_for_good(&mut journal);
        drop(journal);

        let (segment, last_group) = newest(folder.path());
        let held = Journal::inspect(folder.path(), CLUSTER).unwrap().recovered.open.len() as u64;
        assert!(held == slot || held == slot - 1, "{held} of {slot}");
        let is_lost = is_lost && held == slot;
        if is_lost {
            forget(folder.path());
        }
        SYNCED.take();
        let opened = Journal::open(folder.path(), CLUSTER, &OPTIONS).unwrap();
        assert_eq!(opened.recovered.open.len() as u64, if is_lost { slot - 1 } else { held });
        // What nothing seals is written once more before anybody hears of it.
        let synced = SYNCED.take();
        assert!(synced.contains(&(segment, 0)), "{synced:?}");
        if let Some((first, _)) = last_group.filter(|_| !is_lost) {
            assert!(synced.contains(&(segment, first)), "{first} in {synced:?}");
        }
        // The segment before has its end, though its sync may be the one that failed.
        assert!(synced.iter().any(|(number, _)| *number == segment - 1), "{synced:?}");
        true
    }

    #[test]
    fn a_sync_that_fails_stops_the_journal_and_leaves_a_group_as_a_whole_or_not_at_all() {
        for is_lost in [false, true] {
            let failures = (0..).take_while(|number| fail_sync(*number, is_lost)).count();
            // Each group, and header and footer of at least one more segment.
            assert!(failures as u64 >= GROUPS + 2, "{failures}");
        }
    }
}
