//! An open journal: appending, syncing, sealing, truncating.

mod mend;

use std::os::unix::fs::FileExt;
use std::path::Path;

use synod_paxos::{Ballot, Position, Record, RecordBody, Segment, Slot, Standing, Value};
use synod_wire::configuration;
use synod_wire::record::sector::{PAYLOAD_BYTES, SECTOR_BYTES};
use synod_wire::record::{
    BODY_BYTES_MAX, ClusterId, GroupBuilder, GroupHeader, PreviousEnd, RECORD_HEADER_BYTES,
    SegmentHeader,
};
use synod_wire::version::WRITTEN_BY_DEFAULT;

use crate::active::Active;
use crate::error::{During, IoFailure};
use crate::folder::{Folder, SEGMENT_NUMBER_MAX};
use crate::index::{Entry, Index, Location};
use crate::opened::{Inspected, Opened, inspected, recovered};
use crate::options::{JournalOptions, SEGMENT_BYTES_MIN};
use crate::prepare::Preparer;
use crate::recovery::{self, Recovery};
use crate::scan::InForce;
use crate::segments::{SegmentFacts, Segments};
use crate::{Counters, JournalError, OpenError, read};

/// A group that has grown this large is written without waiting for `sync`.
const GROUP_BYTES_MAX: usize = 32 << 20;

/// The durable log of an acceptor. Used by one thread.
#[derive(Debug)]
pub struct Journal {
    folder: Folder,
    cluster: ClusterId,
    segment_bytes: u64,
    /// Of the segments that are begun.
    format: u32,
    incarnation: u64,
    /// After everything appended, durable or not.
    in_force: InForce,
    /// After everything written and synced.
    durable: InForce,
    index: Index,
    segments: Segments,
    preparer: Preparer,
    active: Active,
    group: GroupBuilder,
    /// Values of the group, to be indexed when its place is known. The locations
    /// count from the group's start.
    entries: Vec<Entry>,
    /// Headers of the last group written, for the next one to repeat.
    last_headers: Vec<u8>,
    counters: Counters,
    failed: Option<String>,
}

impl Journal {
    /// Makes an empty journal in `dir`, which is made if need be. Done again after a
    /// crash in the middle, it starts over.
    ///
    /// # Errors
    /// [`OpenError::Exists`] when `dir` holds a journal; and when it is in use, or the
    /// operating system refuses.
    pub fn create(dir: &Path, cluster: ClusterId) -> Result<(), OpenError> {
        let folder = Folder::create(dir)?;
        if recovery::is_used(&folder)? {
            return Err(OpenError::Exists(dir.to_owned()));
        }
        // An open begins a segment of the length that it wants, so this one stays empty.
        let (file, file_bytes) = Preparer::new(dir).take(1, SEGMENT_BYTES_MIN)?;
        let header = SegmentHeader {
            format: WRITTEN_BY_DEFAULT,
            cluster,
            number: 1,
            file_bytes,
            incarnation: 0,
            promised: Ballot::ZERO,
            chosen_upto: Slot::ZERO,
            truncated_upto: Slot::ZERO,
            oldest_segment: 1,
            highest_slot_before: Slot::ZERO,
            previous: PreviousEnd {
                sectors: 0,
                position: Position::ZERO,
                link: 0,
                last_records: 0,
            },
        };
        let path = folder.segment_path(1);
        let written = file.write_all_at(&header.encode(), 0).and_then(|()| file.sync_data());
        Ok(written.during("write", &path)?)
    }

    /// Opens the journal in `dir`: reads and checks all of it, then notes the next
    /// incarnation, durably. It goes on in the newest segment if there is room; so a
    /// node that is started again and again does not use up the disk.
    ///
    /// # Errors
    /// See [`OpenError`]. A refused journal is left as it is.
    pub fn open(
        dir: &Path,
        cluster: ClusterId,
        options: &JournalOptions,
    ) -> Result<Opened, OpenError> {
        let folder = Folder::open(dir)?;
        let recovery = recovery::recover(&folder, cluster)?;
        let recovered = recovered(&folder, cluster, &recovery)?;
        let journal = Journal::resume(folder, cluster, options, recovery)?;
        let incarnation = journal.incarnation;
        Ok(Opened { journal, recovered, incarnation })
    }

    /// Goes on where recovery ended.
    fn resume(
        folder: Folder,
        cluster: ClusterId,
        options: &JournalOptions,
        recovery: Recovery,
    ) -> Result<Journal, OpenError> {
        if recovery.torn {
            let position = recovery.in_force.position.0;
            tracing::warn!(position, "dropped a torn group that was never acknowledged");
        }
        let incarnation = recovery.newest_header.incarnation + 1;
        let segment_bytes = options.whole_segment_bytes();
        // What a crash tore is dropped for good by the header of a segment after it.
        // A segment has one form from its first record to its last.
        let format = options.known_format();
        let goes_on = !recovery.torn
            && recovery.newest_header.file_bytes >= segment_bytes
            && recovery.newest_header.format == format;
        let header = match goes_on {
            true => {
                let mut previous = recovery.newest_header.previous;
                if recovery.newest_groups == 0 {
                    // What the first group is going to repeat, which is nothing if the segment
                    // before was passed over. Damage of that group is measured by it.
                    previous.last_records = records_in(&recovery.last_headers);
                }
                SegmentHeader { incarnation, previous, ..recovery.newest_header }
            }
            false => recovery.newest_header,
        };
        let newest = Active::resume(&folder, &header, &recovery)?;
        Active::end_before(&folder, &header, &recovery.segments)?;
        for number in &recovery.leftover {
            folder.remove_segment(*number)?;
        }
        folder.remove_unfinished()?;
        folder.sync()?;
        let mut journal = Journal {
            preparer: Preparer::new(folder.path()),
            folder,
            cluster,
            segment_bytes,
            format,
            incarnation,
            in_force: recovery.in_force,
            durable: recovery.in_force,
            index: recovery.index,
            segments: recovery.segments,
            active: newest,
            group: GroupBuilder::of_format(format),
            entries: Vec::new(),
            last_headers: recovery.last_headers,
            counters: Counters::default(),
            failed: None,
        };
        journal.group.begin(&journal.last_headers);
        if goes_on {
            let number = journal.active.number;
            journal.preparer.start(number + 1, segment_bytes);
            journal.seal_last()?;
        } else {
            journal.begin_segment(0)?;
        }
        Ok(journal)
    }

    /// Reads and checks a journal as [`Journal::open`] does, and changes nothing.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn inspect(dir: &Path, cluster: ClusterId) -> Result<Inspected, OpenError> {
        let folder = Folder::open_to_read(dir)?;
        let recovery = recovery::recover(&folder, cluster)?;
        inspected(&folder, cluster, &recovery)
    }

    /// Adds records to the present group; they are durable after [`Journal::sync`].
    /// Returns the position of the last record.
    ///
    /// # Errors
    /// When a value is larger than 16 MiB, or when a group that grew too large was
    /// written early and that failed; every later call fails too.
    ///
    /// # Panics
    /// When the promise or the watermark goes back, an acceptance is above the promise,
    /// or a chosen slot was never recorded: the core's own invariants.
    pub fn append(&mut self, records: &[Record]) -> Result<Position, JournalError> {
        self.check_not_failed()?;
        for record in records {
            if let Err(error) = self.append_one(record) {
                return self.fail(error);
            }
        }
        Ok(self.in_force.position)
    }

    /// Writes the present group and makes it durable. Does nothing if it is empty.
    ///
    /// # Errors
    /// When a write or sync fails; every later call fails too.
    pub fn sync(&mut self) -> Result<Position, JournalError> {
        self.check_not_failed()?;
        if self.group.records() > 0
            && let Err(error) = self.write_group()
        {
            return self.fail(error.into());
        }
        Ok(self.durable.position)
    }

    /// Seals the last group by an empty one, so that damage to it can no longer be
    /// taken for a torn tail. To be called when nothing was appended for a while; does
    /// nothing if everything is sealed.
    ///
    /// # Errors
    /// As [`Journal::sync`].
    pub fn seal(&mut self) -> Result<(), JournalError> {
        self.sync()?;
        self.seal_last().or_else(|error| self.fail(error.into()))
    }

    /// Seals everything and begins the next segment: when the file of the present one turns out
    /// to be damaged, what is owed stands in the header of another one from now on.
    ///
    /// # Errors
    /// As [`Journal::sync`].
    pub fn begin_next(&mut self) -> Result<(), JournalError> {
        self.seal()?;
        self.begin_segment(0).or_else(|error| self.fail(error.into()))
    }

    /// Whether something was written into the present segment since it was begun.
    #[must_use]
    pub fn newest_holds_anything(&self) -> bool {
        self.active.used > 1 // The first sector is the header.
    }

    /// The values of `first..=last` that are known as chosen, consecutive from `first`,
    /// up to the one with which `bytes_max` is reached. Fewer, or none, when they are
    /// gone or not recorded as chosen.
    ///
    /// # Errors
    /// When they cannot be read, or are not what was written.
    pub fn read_chosen(
        &self,
        first: Slot,
        last: Slot,
        bytes_max: usize,
    ) -> Result<Vec<Value>, JournalError> {
        self.check_not_failed()?;
        read::chosen_values(&self.folder, self.cluster, &self.index, first..=last, bytes_max)
    }

    /// Drops whole segments that hold no value above `upto`, which the state machine
    /// must hold durably. Of the newest segment nothing is dropped, and nothing that
    /// the journal does not know as chosen.
    ///
    /// # Errors
    /// As [`Journal::sync`].
    pub fn truncate(&mut self, upto: Slot) -> Result<(), JournalError> {
        self.truncate_by(upto, |_, _| Ok(()))
    }

    /// [`Journal::truncate`], but the files are kept aside as by [`Journal::mend_aside`].
    ///
    /// # Errors
    /// As [`Journal::sync`].
    pub fn truncate_aside(&mut self, upto: Slot) -> Result<(), JournalError> {
        self.truncate_by(upto, Folder::link_kept)
    }

    fn truncate_by(&mut self, upto: Slot, leave: Leave) -> Result<(), JournalError> {
        self.sync()?;
        let needed = *self.segments.oldest_needed(upto.min(self.in_force.chosen_upto));
        if needed.number == self.segments.oldest_number() {
            return Ok(());
        }
        // Whatever is to stay has its other name before the journal says that it needs it no more.
        let passed = self.segments.oldest_number()..needed.number;
        let mut left = passed.map(|number| leave(&self.folder, number));
        left.try_for_each(|left| left).and_then(|()| self.folder.sync())?;
        self.in_force.oldest_segment = needed.number;
        self.in_force.truncated_upto = self.in_force.truncated_upto.max(needed.highest_slot_before);
        self.index.truncate(self.in_force.truncated_upto);
        self.drop_segments().or_else(|error| self.fail(error))
    }

    /// The segments that are full and whose number is above `number`, oldest first: what
    /// [`Journal::truncate`] can drop, each as a whole.
    pub fn filled_segments(&self, number: u64) -> impl Iterator<Item = (u64, Segment)> + '_ {
        self.segments.filled_after(number)
    }

    /// The position of the last record appended, durable or not.
    #[must_use]
    pub fn position(&self) -> Position {
        self.in_force.position
    }

    /// The position up to which everything is durable.
    #[must_use]
    pub fn durable(&self) -> Position {
        self.durable.position
    }

    /// The journal holds nothing at or below this slot.
    #[must_use]
    pub fn truncated_upto(&self) -> Slot {
        self.index.truncated_upto()
    }

    /// Bytes of all segments in use.
    #[must_use]
    pub fn bytes_on_disk(&self) -> u64 {
        self.segments.bytes()
    }

    /// What was written since the journal was opened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn check_not_failed(&self) -> Result<(), JournalError> {
        match &self.failed {
            None => Ok(()),
            Some(first) => Err(JournalError::Failed(first.clone())),
        }
    }

    fn fail<T>(&mut self, error: JournalError) -> Result<T, JournalError> {
        self.failed = Some(error.to_string());
        Err(error)
    }

    fn append_one(&mut self, record: &Record) -> Result<(), JournalError> {
        let now = &mut self.in_force;
        assert!(record.promised >= now.promised, "a promise goes back");
        assert!(record.chosen_upto >= now.chosen_upto, "a watermark goes back");
        let (held, chosen_upto) = match &record.body {
            RecordBody::Promise => (None, record.chosen_upto),
            RecordBody::Accepted { slot, ballot, value } => {
                assert!(*ballot <= record.promised, "an acceptance above the promise");
                (Some((*slot, Standing::Accepted(*ballot), value)), record.chosen_upto)
            }
            RecordBody::Chosen { slot, value } => {
                (Some((*slot, Standing::Chosen, value)), record.chosen_upto)
            }
            RecordBody::StartAfter { slot } => (None, record.chosen_upto.max(*slot)),
        };
        let body_bytes = match held {
            Some((_, _, Value::Batch(bytes))) => bytes.len(),
            Some((_, _, Value::Configuration(new))) => configuration::encode(new).len(),
            Some((_, _, Value::Noop)) | None => 0,
        };
        if body_bytes > BODY_BYTES_MAX {
            return Err(JournalError::ValueTooLarge { bytes: body_bytes });
        }
        now.promised = record.promised;
        now.chosen_upto = chosen_upto;
        now.position.0 += 1;
        let (at, link) = self.group.push(record, self.cluster.tag(), now.position, now.link);
        now.link = link;
        if let Some((slot, standing, _)) = held {
            let location = Location {
                segment: 0,
                payload_at: narrow(at as u64),
                body_bytes: narrow(body_bytes as u64),
            };
            self.entries.push(Entry { slot, standing, location });
        }
        if let RecordBody::StartAfter { slot } = record.body {
            now.truncated_upto = now.truncated_upto.max(slot);
            self.index.truncate(slot);
        }
        if self.group.bytes() >= GROUP_BYTES_MAX {
            self.write_group()?;
        }
        Ok(())
    }

    /// Writes the present group, with or without records, and begins the next one.
    fn write_group(&mut self) -> Result<(), IoFailure> {
        let needed = self.group.sector_count();
        if !self.active.has_room_for(needed) {
            self.begin_segment(needed)?;
        }
        self.index_entries();
        let header = GroupHeader {
            position_before: self.durable.position,
            link: self.durable.link,
            promised: self.in_force.promised,
            chosen_upto: self.in_force.chosen_upto,
            truncated_upto: self.in_force.truncated_upto,
            oldest_segment: self.in_force.oldest_segment,
            // These the builder knows.
            number: 0,
            payload_bytes: 0,
            records: 0,
            copies: 0,
        };
        let bytes = self.group.finish(self.active.next_place(), header);
        self.active.write_group(bytes)?;
        self.counters.groups += 1;
        self.counters.bytes += bytes.len() as u64;
        self.counters.records += u64::from(self.group.records());
        self.durable = self.in_force;
        self.last_headers.clear();
        self.last_headers.extend_from_slice(self.group.headers());
        self.group.begin(&self.last_headers);
        Ok(())
    }

    /// The place of the present group is known now, so its values can be found. They
    /// are not durable yet, but nobody reads before the write has succeeded.
    fn index_entries(&mut self) {
        let start = self.active.used * PAYLOAD_BYTES as u64;
        for mut entry in self.entries.drain(..) {
            let at = start + u64::from(entry.location.payload_at);
            entry.location.segment = narrow(self.active.number);
            entry.location.payload_at = narrow(at);
            self.segments.raise_highest_slot(entry.slot);
            self.index.insert(entry);
        }
        if let Err(missing) = self.index.advance(self.in_force.chosen_upto) {
            panic!("slot {} counts as chosen, but was never recorded", missing.0);
        }
    }

    /// Begins the next segment, with room for a group of `sectors`: its header is
    /// durable first, then the footer of the one before.
    fn begin_segment(&mut self, sectors: u64) -> Result<(), IoFailure> {
        let number = self.active.number + 1;
        assert!(number <= SEGMENT_NUMBER_MAX, "the segment numbers are used up");
        let least = (sectors + 2) * SECTOR_BYTES as u64;
        let (file, file_bytes) = self.preparer.take(number, self.segment_bytes.max(least))?;
        let highest_slot_before = self.segments.highest_slot();
        let header = SegmentHeader {
            format: self.format,
            cluster: self.cluster,
            number,
            file_bytes,
            incarnation: self.incarnation,
            promised: self.durable.promised,
            chosen_upto: self.durable.chosen_upto,
            truncated_upto: self.durable.truncated_upto,
            oldest_segment: self.durable.oldest_segment,
            highest_slot_before,
            previous: PreviousEnd {
                sectors: self.active.used,
                position: self.durable.position,
                link: self.durable.link,
                last_records: records_in(&self.last_headers),
            },
        };
        let active = Active::begin(&self.folder, file, &header)?;
        self.active.end()?;
        self.active = active;
        let highest_slot = Slot::ZERO;
        self.segments.push(SegmentFacts { number, file_bytes, highest_slot_before, highest_slot });
        self.counters.segments += 1;
        self.preparer.start(number + 1, self.segment_bytes);
        Ok(())
    }

    fn seal_last(&mut self) -> Result<(), IoFailure> {
        if self.last_headers.is_empty() {
            return Ok(());
        }
        self.write_group()
    }

    /// Says durably which segment is the oldest one needed, then removes those before.
    fn drop_segments(&mut self) -> Result<(), JournalError> {
        self.write_group()?;
        for number in self.segments.drop_before(self.in_force.oldest_segment) {
            self.folder.remove_segment(number)?;
        }
        Ok(self.folder.sync()?)
    }
}

/// What is done with a segment before it is not needed any more.
type Leave = fn(&Folder, u64) -> Result<(), IoFailure>;

/// How many records' headers these bytes are.
fn records_in(headers: &[u8]) -> u32 {
    narrow((headers.len() / RECORD_HEADER_BYTES) as u64)
}

/// An offset or length in a segment, or a segment's number: both are bounded.
fn narrow(value: u64) -> u32 {
    u32::try_from(value).expect("segments and their numbers are bounded")
}
