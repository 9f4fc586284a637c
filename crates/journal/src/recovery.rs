//! What a folder holds after a restart.

mod behind;
mod shown;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use synod_paxos::{Slot, Standing};
use synod_wire::record::sector::{self, SECTOR_BYTES};
use synod_wire::record::{ClusterId, RecordError, RecordKind, SegmentHeader};

use crate::OpenError;
use crate::error::{Damage, During, EIO};
use crate::folder::Folder;
use crate::index::{Entry, Index, Location};
use crate::remains;
use crate::scan::{Fault, InForce, Segment, SegmentScan};
use crate::segments::{SegmentFacts, Segments};

pub(crate) use behind::BehindDamage;
pub(crate) use shown::shown;

/// A segment larger than this was not written by us.
const FILE_BYTES_MAX: u64 = 2 << 30;
/// Read at a time of a file that is not kept in memory.
const CHUNK_BYTES: usize = 128 * SECTOR_BYTES;

/// Everything that was found.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) in_force: InForce,
    /// Of the newest segment.
    pub(crate) newest_header: SegmentHeader,
    pub(crate) index: Index,
    pub(crate) segments: Segments,
    /// Sectors in use in the newest segment.
    pub(crate) newest_sectors: u64,
    /// Groups in the newest segment.
    pub(crate) newest_groups: u32,
    /// The headers of the last group's records, which no later group repeats yet.
    pub(crate) last_headers: Vec<u8>,
    /// First sector and number of sectors of the last group, if the newest segment has
    /// one: nothing seals it yet.
    pub(crate) last_group: Option<(u64, u64)>,
    /// Files that are no part of the journal any more, or not yet.
    pub(crate) leftover: Vec<u64>,
    /// Whether a torn group was dropped.
    pub(crate) torn: bool,
    /// Files before the first segment that was read, which the journal still needs.
    pub(crate) passed_over: Vec<u64>,
}

/// Reads the journal in `folder`. Changes nothing.
pub(crate) fn recover(folder: &Folder, cluster: ClusterId) -> Result<Recovery, OpenError> {
    Reader { folder, cluster }.recover(0)
}

/// Reads every segment that another one follows, while the journal may be in use. Asks
/// `go_on` after each, with its bytes; answers the bytes of all.
pub(crate) fn scrub(
    folder: &Folder,
    cluster: ClusterId,
    mut go_on: impl FnMut(u64) -> bool,
) -> Result<u64, OpenError> {
    let reader = Reader { folder, cluster };
    let mut bytes = 0;
    let numbers = folder.segment_numbers()?;
    for (place, pair) in numbers.windows(2).enumerate() {
        let (number, next) = (pair[0], pair[1]);
        // A file that was made ready and never used follows nothing.
        let after = numbers.get(place + 2);
        let followed = after.is_some_and(|after| !matches!(reader.unused(*after), Ok(true)));
        match reader.read_sealed(number, next, followed) {
            Ok(read) => bytes += read,
            // What was dropped meanwhile needs no look any more.
            Err(_) if !folder.segment_path(number).exists() => continue,
            // It was made ready, so the one before is the newest.
            Err(_) if matches!(reader.unused(next), Ok(true)) => return Ok(bytes),
            // Nothing follows, or it would be damage. While the journal is in use, what the disk
            // lost there is still owed in memory.
            Err(error) if is_lost(&error) => {
                let fault = Fault::new(0, "the disk cannot read it", false);
                return Err(reader.refuse(next, fault));
            }
            Err(error) => return Err(error),
        }
        if !go_on(bytes) {
            return Ok(bytes);
        }
    }
    Ok(bytes)
}

/// Reads what can be trusted of the journal in `folder`. Changes nothing.
pub(crate) fn remains(
    folder: &Folder,
    cluster: ClusterId,
    applied: Slot,
) -> Result<remains::Found, OpenError> {
    let reader = Reader { folder, cluster };
    match reader.recover(0) {
        Ok(recovery) => {
            let last = recovery.index.open().last().map(|entry| entry.slot);
            Ok(remains::Found {
                told_upto: last.unwrap_or(Slot::ZERO).max(recovery.index.chosen_upto()),
                incarnation: recovery.newest_header.incarnation,
                index: recovery.index,
                damage: None,
            })
        }
        Err(OpenError::Damaged(damage) | OpenError::PromiseNotProvable(damage)) => {
            reader.salvage(damage, applied)
        }
        Err(error) => Err(error),
    }
}

/// Whether the folder holds a segment that was used.
pub(crate) fn is_used(folder: &Folder) -> Result<bool, OpenError> {
    for number in folder.segment_numbers()? {
        if !is_zero(folder, number)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_zero(folder: &Folder, number: u64) -> Result<bool, OpenError> {
    all_chunks(folder, number, |_, chunk| is_all_zero(chunk))
}

/// Whether nothing was written to a segment that was filled with zeros. A segment begins with its
/// header, and every sector that is written bears a mark: so flipped bits elsewhere say nothing.
fn is_unwritten(folder: &Folder, number: u64) -> Result<bool, OpenError> {
    all_chunks(folder, number, |at, chunk| {
        let mut sectors = chunk.chunks(SECTOR_BYTES);
        let is_first_zero = at > 0 || sectors.next().is_none_or(is_all_zero);
        is_first_zero
            && sectors.all(|bytes| match bytes.len() {
                SECTOR_BYTES => !sector::is_marked(bytes),
                _ => is_all_zero(bytes),
            })
    })
}

fn is_all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Whether `holds` for each chunk of a segment's file, all of which but the last are whole sectors.
/// It is told where the chunk begins.
fn all_chunks(
    folder: &Folder,
    number: u64,
    holds: impl Fn(u64, &[u8]) -> bool,
) -> Result<bool, OpenError> {
    let path = folder.segment_path(number);
    let mut file = folder.open_segment(number)?;
    let (mut at, mut chunk) = (0, Vec::with_capacity(CHUNK_BYTES));
    loop {
        chunk.clear();
        let read = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
        if read.during("read", &path)? == 0 {
            return Ok(true);
        }
        if !holds(at, &chunk) {
            return Ok(false);
        }
        at += chunk.len() as u64;
    }
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "in tests it fails")]
pub(crate) fn disk_reads(_segment: u64, _bytes: Range<u64>) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use tests::disk_reads;

/// Whether the disk lost what was to be read.
fn is_lost(error: &OpenError) -> bool {
    matches!(error, OpenError::Io { source, .. } if source.raw_os_error() == Some(EIO))
}

struct Reader<'a> {
    folder: &'a Folder,
    cluster: ClusterId,
}

impl Reader<'_> {
    /// Reads the journal from the oldest segment that it needs, or from `from` if that is
    /// later: as if it had been truncated there.
    fn recover(&self, from: u64) -> Result<Recovery, OpenError> {
        let mut numbers = self.folder.segment_numbers()?;
        let mut leftover = Vec::new();
        // What was made ready and never used says nothing.
        while let Some(number) = numbers.pop_if(|number| matches!(self.unused(*number), Ok(true))) {
            leftover.push(number);
        }
        let Some(newest) = numbers.last().copied() else {
            return Err(OpenError::Missing(self.folder.path().to_owned()));
        };
        let newest_header = self.header(newest, false)?;
        let newest_bytes = self.read(&newest_header, false)?;
        let newest_scan = Segment::new(&newest_bytes, newest_header)
            .scan_newest()
            .map_err(|fault| self.refuse(newest, fault))?;
        let needed = newest_scan.in_force.oldest_segment;
        leftover.extend(numbers.iter().filter(|number| **number < needed));
        let oldest = needed.max(from);
        let passed_over = numbers.iter().filter(|number| (needed..oldest).contains(*number));
        let passed_over = passed_over.copied().collect();

        let headers = self.headers(oldest, &newest_header, &numbers)?;
        let first = headers.first_key_value().expect("the newest at least").1;
        let mut found = Found::start(first);
        for (number, header) in &headers {
            let older;
            let scan = match headers.get(&(number + 1)) {
                Some(next) => {
                    older = self.scan_older(header, next)?;
                    &older
                }
                None => &newest_scan,
            };
            let added = found.add(header, scan);
            added.map_err(|what| self.refuse(*number, Fault::new(0, what, true)))?;
        }
        let chosen_upto = newest_scan.in_force.chosen_upto;
        // What was passed over may have held slots that were not known as chosen.
        let is_behind = oldest > needed && chosen_upto <= found.index.truncated_upto();
        if found.index.chosen_upto() != chosen_upto && !is_behind {
            let what = "segments were dropped before what they held was chosen";
            return Err(self.refuse(oldest, Fault::new(0, what, true)));
        }
        Ok(Recovery {
            in_force: InForce {
                truncated_upto: found.index.truncated_upto(),
                ..newest_scan.in_force
            },
            newest_header,
            index: found.index,
            segments: found.segments,
            newest_sectors: newest_scan.sectors,
            newest_groups: newest_scan.next_number() - 1,
            last_headers: found.last_headers,
            last_group: newest_scan.groups.last().map(|group| (group.first_sector, group.sectors)),
            leftover,
            torn: newest_scan.torn,
            passed_over,
        })
    }

    /// Reads a segment and the header of the one after it, which may be `followed` by another
    /// one. Answers its bytes.
    fn read_sealed(&self, number: u64, next: u64, followed: bool) -> Result<u64, OpenError> {
        if next != number + 1 {
            let what = "the segment is missing";
            return Err(self.refuse(number + 1, Fault::new(0, what, true)));
        }
        let (header, next) = (self.header(number, true)?, self.header(next, followed)?);
        self.scan_older(&header, &next)?;
        Ok(header.file_bytes)
    }

    /// Reads a damaged journal up to its first damage. It begins with the last segment
    /// before which there is nothing above `applied`, so that damage further back does
    /// not count.
    fn salvage(&self, damage: Damage, applied: Slot) -> Result<remains::Found, OpenError> {
        let mut headers = BTreeMap::new();
        for number in self.folder.segment_numbers()? {
            match self.header(number, true) {
                Ok(header) => drop(headers.insert(number, header)),
                Err(OpenError::Damaged(_) | OpenError::PromiseNotProvable(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let before = |header: &SegmentHeader| header.truncated_upto.max(header.highest_slot_before);
        let told = headers.values().map(|header| header.chosen_upto.max(before(header)));
        let mut salvaged = remains::Found {
            index: Index::new(applied),
            incarnation: headers.values().map(|header| header.incarnation).max().unwrap_or(0),
            damage: Some(damage),
            told_upto: told.max().unwrap_or(Slot::ZERO),
        };
        let Some(first) = headers.values().rev().find(|header| before(header) <= applied) else {
            return Ok(salvaged);
        };
        let mut found = Found::start(first);
        for (number, header) in headers.range(first.number..) {
            let bytes = match self.read(header, true) {
                Err(OpenError::Damaged(_)) => break,
                bytes => bytes?,
            };
            let scan = Segment::new(&bytes, *header).scan_beginning();
            if found.add(header, &scan).is_err() {
                break;
            }
            let Some(next) = headers.get(&(number + 1)) else { break };
            let (said, end) = (InForce::at_start_of(next), scan.in_force);
            if (said.position, said.link) != (end.position, end.link) {
                break;
            }
        }
        let last = found.index.open().last().map(|entry| entry.slot);
        let last = last.unwrap_or(Slot::ZERO).max(found.index.chosen_upto());
        salvaged.told_upto = salvaged.told_upto.max(last);
        salvaged.index = found.index;
        Ok(salvaged)
    }

    /// Whether the segment was made ready and never used.
    fn unused(&self, number: u64) -> Result<bool, OpenError> {
        is_unwritten(self.folder, number)
    }

    /// The headers from segment `oldest` to the newest, none missing.
    fn headers(
        &self,
        oldest: u64,
        newest: &SegmentHeader,
        numbers: &[u64],
    ) -> Result<BTreeMap<u64, SegmentHeader>, OpenError> {
        let mut headers = BTreeMap::from([(newest.number, *newest)]);
        if oldest > newest.number || oldest == 0 {
            let what = "it needs a segment that cannot be";
            return Err(self.refuse(newest.number, Fault::new(0, what, true)));
        }
        for number in oldest..newest.number {
            if numbers.binary_search(&number).is_err() {
                return Err(self.refuse(number, Fault::new(0, "the segment is missing", true)));
            }
            headers.insert(number, self.header(number, true)?);
        }
        Ok(headers)
    }

    /// The header of a segment; `followed` by another one that is intact.
    fn header(&self, number: u64, followed: bool) -> Result<SegmentHeader, OpenError> {
        let header = self.read_header(number, followed);
        header.map_err(|error| self.unreadable(number, followed, error))
    }

    fn read_header(&self, number: u64, followed: bool) -> Result<SegmentHeader, OpenError> {
        let path = self.folder.segment_path(number);
        let file = self.folder.open_segment(number)?;
        let length = file.metadata().during("inspect", &path)?.len();
        let fault = |what| Err(self.refuse(number, Fault::new(0, what, followed)));
        if length < SECTOR_BYTES as u64 {
            return fault("the file is cut off");
        }
        let mut sector = [0; SECTOR_BYTES];
        let read = file.read_exact_at(&mut sector, 0);
        let read = read.and_then(|()| disk_reads(number, 0..SECTOR_BYTES as u64));
        read.during("read", &path)?;
        let header = match SegmentHeader::decode(&sector) {
            Ok(header) => header,
            Err(RecordError::Version(version)) => {
                return Err(OpenError::Version { file: path, version });
            }
            Err(_) => return fault("the segment's header is damaged"),
        };
        if header.cluster != self.cluster {
            let (found, expected) = (header.cluster, self.cluster);
            return Err(OpenError::WrongCluster { file: path, found, expected });
        }
        if header.number != number {
            return fault("the file is another segment under this name");
        }
        let sectors = header.file_bytes / SECTOR_BYTES as u64;
        if sectors < 2
            || !header.file_bytes.is_multiple_of(SECTOR_BYTES as u64)
            || header.file_bytes > FILE_BYTES_MAX
        {
            return fault("the segment's header says what cannot be");
        }
        if length != header.file_bytes {
            let what = "the file does not have its length";
            let sector = length.min(header.file_bytes) / SECTOR_BYTES as u64;
            return Err(self.refuse(number, Fault::new(sector, what, followed)));
        }
        Ok(header)
    }

    fn read(&self, header: &SegmentHeader, followed: bool) -> Result<Vec<u8>, OpenError> {
        let bytes = self.read_bytes(header, followed);
        bytes.map_err(|error| self.unreadable(header.number, followed, error))
    }

    fn read_bytes(&self, header: &SegmentHeader, followed: bool) -> Result<Vec<u8>, OpenError> {
        let path = self.folder.segment_path(header.number);
        let mut file: File = self.folder.open_segment(header.number)?;
        // The length was checked against the header, which is bounded.
        let mut bytes = Vec::with_capacity(usize::try_from(header.file_bytes).expect("bounded"));
        let read = file.read_to_end(&mut bytes);
        let read = read.and_then(|_| disk_reads(header.number, 0..header.file_bytes));
        read.during("read", &path)?;
        if bytes.len() as u64 != header.file_bytes {
            let fault = Fault::new(0, "the file changes while it is read", followed);
            return Err(self.refuse(header.number, fault));
        }
        Ok(bytes)
    }

    /// What a failed read means. A disk that cannot read what it wrote has lost it, as one
    /// that reads other bytes. If nothing follows, a promise may have stood there, and whoever
    /// asks is told what the disk said.
    fn unreadable(&self, number: u64, followed: bool, error: OpenError) -> OpenError {
        match is_lost(&error) && followed {
            true => self.refuse(number, Fault::new(0, "the disk cannot read it", true)),
            false => error,
        }
    }

    fn scan_older(
        &self,
        header: &SegmentHeader,
        next: &SegmentHeader,
    ) -> Result<SegmentScan, OpenError> {
        let bytes = self.read(header, true)?;
        let segment = Segment::new(&bytes, *header);
        segment.scan_sealed(next).map_err(|fault| {
            let copies = self.read(next, true).ok();
            let copies = copies.and_then(|bytes| Segment::new(&bytes, *next).first_copies());
            let fault = fault.with_headers(&copies.unwrap_or_default());
            self.refuse(header.number, fault)
        })
    }

    fn refuse(&self, number: u64, fault: Fault) -> OpenError {
        let about = fault.record.as_ref().and_then(|record| record.slot());
        let damage = Damage {
            file: self.folder.segment_path(number),
            offset: fault.sector * SECTOR_BYTES as u64,
            what: fault.what,
            position: fault.record.map(|record| record.position),
            slot: about.map(|(slot, _)| slot),
            ballot: about.and_then(|(_, ballot)| ballot),
        };
        match fault.promise_known {
            true => OpenError::Damaged(damage),
            false => OpenError::PromiseNotProvable(damage),
        }
    }
}

/// What the segments read so far amount to.
struct Found {
    index: Index,
    segments: Segments,
    last_headers: Vec<u8>,
}

impl Found {
    fn start(oldest: &SegmentHeader) -> Found {
        let truncated_upto = oldest.truncated_upto.max(oldest.highest_slot_before);
        Found {
            index: Index::new(truncated_upto),
            segments: Segments::default(),
            last_headers: Vec::new(),
        }
    }

    fn add(&mut self, header: &SegmentHeader, scan: &SegmentScan) -> Result<(), &'static str> {
        self.segments.push(SegmentFacts {
            number: header.number,
            file_bytes: header.file_bytes,
            highest_slot_before: header.highest_slot_before,
            highest_slot: Slot::ZERO,
        });
        let segment = u32::try_from(header.number).map_err(|_| "an impossible segment number")?;
        for group in &scan.groups {
            self.last_headers.clear();
            for record in &group.records {
                self.last_headers.extend_from_slice(&record.header.encode().0);
                let standing = match record.header.kind {
                    RecordKind::Accepted(_, ballot) => Standing::Accepted(ballot),
                    RecordKind::Chosen(_) => Standing::Chosen,
                    RecordKind::StartAfter(slot) => {
                        self.index.truncate(slot);
                        continue;
                    }
                    RecordKind::Promise => continue,
                };
                let slot = record.header.slot().expect("it holds a value").0;
                self.segments.raise_highest_slot(slot);
                let location = Location {
                    segment,
                    payload_at: u32::try_from(record.payload_at).expect("the file is bounded"),
                    body_bytes: record.header.body_bytes,
                };
                self.index.insert(Entry { slot, standing, location });
            }
            let chosen = self.index.advance(group.header.chosen_upto);
            chosen.map_err(|_| "a chosen slot was never recorded")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::io;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;
    use synod_paxos::{Ballot, NodeId, Record, RecordBody, Value};

    use super::*;
    use crate::{Journal, JournalOptions};

    pub(super) const CLUSTER: ClusterId = ClusterId(7);
    const OPTIONS: JournalOptions = JournalOptions { segment_bytes: 4096, format: 1 };
    pub(super) const SLOTS: u64 = 30;

    thread_local! {
        /// The segment that the disk can't read, from which byte to which one.
        static LOST: Cell<Option<(u64, u64, u64)>> = const { Cell::new(None) };
        /// What was read of which segment.
        static READS: RefCell<Vec<(u64, Range<u64>)>> = const { RefCell::new(Vec::new()) };
        /// Who is told to stop when these bytes are read.
        static STOP: RefCell<Option<(Range<u64>, Arc<AtomicBool>)>> = const { RefCell::new(None) };
    }

    /// From now on the disk cannot read these bytes of this segment.
    pub(super) fn lose(segment: u64, bytes: Range<u64>) {
        LOST.set(Some((segment, bytes.start, bytes.end)));
        READS.take();
    }

    pub(super) fn lose_nothing() {
        LOST.set(None);
        STOP.take();
    }

    /// When just these bytes are read whoever looks at `stop` is told to.
    pub(super) fn stop_at(bytes: Range<u64>, stop: Arc<AtomicBool>) {
        STOP.set(Some((bytes, stop)));
    }

    /// What was read of a segment since something is lost.
    pub(super) fn reads_of(segment: u64) -> Vec<Range<u64>> {
        let reads = READS.take().into_iter().filter(|(of, _)| *of == segment);
        reads.map(|(_, bytes)| bytes).collect()
    }

    pub(crate) fn disk_reads(segment: u64, bytes: Range<u64>) -> io::Result<()> {
        READS.with_borrow_mut(|reads| reads.push((segment, bytes.clone())));
        STOP.with_borrow(|stop| match stop {
            Some((at, stop)) if *at == bytes => stop.store(true, Ordering::Relaxed),
            _ => {}
        });
        match LOST.get() {
            Some((lost, from, to)) if lost == segment && from < bytes.end && bytes.start < to => {
                Err(io::Error::from_raw_os_error(EIO))
            }
            _ => Ok(()),
        }
    }

    fn written(dir: &Path) {
        written_with(dir, &OPTIONS);
    }

    pub(super) fn written_with(dir: &Path, options: &JournalOptions) {
        Journal::create(dir, CLUSTER).unwrap();
        let mut journal = Journal::open(dir, CLUSTER, options).unwrap().journal;
        let promised = Ballot { round: 1, node: NodeId(1) };
        for slot in 1..=SLOTS {
            let value = Value::Batch(Bytes::from(vec![9; 700]));
            let body = RecordBody::Accepted { slot: Slot(slot), ballot: promised, value };
            let record = Record { promised, chosen_upto: Slot(slot - 1), body };
            journal.append(&[record]).unwrap();
            journal.sync().unwrap();
        }
    }

    #[test]
    fn a_sector_that_the_disk_cannot_read_is_damage_if_a_segment_follows() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        written(dir);
        let newest = recover(&Folder::open(dir).unwrap(), CLUSTER).unwrap().newest_header.number;
        assert!(newest > 4, "{newest}");
        for number in 1..newest {
            lose(number, 0..u64::MAX);
            for found in
                [Journal::scrub(dir, CLUSTER, |_| true).err(), Journal::inspect(dir, CLUSTER).err()]
            {
                let Some(OpenError::Damaged(damage)) = found else { panic!("{found:?}") };
                assert_eq!(Folder::number_of(&damage.file), Some(number));
            }
        }
        // What stands behind the last of them is a journal, and all before it can be dropped.
        let mended = Journal::mend(dir, CLUSTER, &OPTIONS, Slot(SLOTS)).unwrap().unwrap();
        assert!(mended.is_done && Folder::number_of(&mended.damage.file) == Some(newest - 1));
        lose_nothing();
        let held = Journal::inspect(dir, CLUSTER).unwrap().recovered;
        assert!(held.truncated_upto == mended.upto && held.chosen_upto >= Slot(SLOTS - 1));
        // Of the newest the disk's own words are told: nothing stands in for it. Whoever writes it
        // can still say in another file what is owed.
        Journal::open(dir, CLUSTER, &OPTIONS).unwrap().journal.begin_next().unwrap();
        let newest = recover(&Folder::open(dir).unwrap(), CLUSTER).unwrap().newest_header.number;
        lose(newest, 0..u64::MAX);
        let found = Journal::scrub(dir, CLUSTER, |_| true);
        assert!(matches!(found, Err(OpenError::PromiseNotProvable(_))), "{found:?}");
        assert!(matches!(Journal::inspect(dir, CLUSTER), Err(OpenError::Io { .. })));
        lose_nothing();
    }
}
