//! Reading one segment from its first group to its end, and judging what is wrong.

mod known;

pub(crate) use known::NewestKnown;

use bytes::Bytes;
use synod_paxos::{Ballot, Position, Slot};
use synod_wire::record::sector::{self, PAYLOAD_BYTES, SECTOR_BYTES, Sector, Seed};
use synod_wire::record::{
    GROUP_HEADER_BYTES, GroupHeader, RECORD_HEADER_BYTES, RecordError, RecordHeader, RecordKind,
    SegmentFooter, SegmentHeader,
};

/// What is in force at some place of the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InForce {
    pub(crate) promised: Ballot,
    pub(crate) chosen_upto: Slot,
    pub(crate) truncated_upto: Slot,
    pub(crate) oldest_segment: u64,
    /// Of the last record.
    pub(crate) position: Position,
    /// The checksum in that record's header.
    pub(crate) link: u32,
}

impl InForce {
    pub(crate) fn at_start_of(header: &SegmentHeader) -> InForce {
        InForce {
            promised: header.promised,
            chosen_upto: header.chosen_upto,
            truncated_upto: header.truncated_upto,
            oldest_segment: header.oldest_segment,
            position: header.previous.position,
            link: header.previous.link,
        }
    }
}

/// A segment's groups.
#[derive(Debug)]
pub(crate) struct SegmentScan {
    pub(crate) groups: Vec<GroupScan>,
    /// The number of the first of them.
    pub(crate) first_number: u32,
    /// Sectors in use.
    pub(crate) sectors: u64,
    /// Whether a torn group was dropped.
    pub(crate) torn: bool,
    /// At the end.
    pub(crate) in_force: InForce,
}

impl SegmentScan {
    /// The number of the group that comes next.
    pub(crate) fn next_number(&self) -> u32 {
        u32::try_from(self.groups.len()).expect("fewer groups than sectors") + self.first_number
    }
}

/// A complete group.
#[derive(Clone, Debug)]
pub(crate) struct GroupScan {
    pub(crate) first_sector: u64,
    pub(crate) sectors: u64,
    pub(crate) header: GroupHeader,
    pub(crate) records: Vec<RecordScan>,
}

/// A record and its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordScan {
    pub(crate) header: RecordHeader,
    /// Where its header begins, in payload bytes from the segment's start.
    pub(crate) payload_at: u64,
}

/// What is known of a group without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct DamagedGroup {
    number: u32,
    first_sector: u64,
    /// Of the last record before it.
    position_before: Position,
    /// How many headers it repeats: as many as the group before has records.
    copies: usize,
}

/// Something wrong in a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    /// The first sector that is not as it must be.
    pub(crate) sector: u64,
    pub(crate) what: &'static str,
    /// Whether something intact proves the promise in force.
    pub(crate) promise_known: bool,
    /// The damaged group.
    group: Option<DamagedGroup>,
    /// The header of the damaged record, if a copy of it was found.
    pub(crate) record: Option<Box<RecordHeader>>,
}

impl Fault {
    pub(crate) fn new(sector: u64, what: &'static str, promise_known: bool) -> Fault {
        Fault { sector, what, promise_known, group: None, record: None }
    }

    /// With the damaged group's record that is hit, the first if it is several, if
    /// these are the headers of the group and not of a later one.
    pub(crate) fn with_headers(self, headers: &[RecordHeader]) -> Fault {
        let (Some(group), None) = (self.group, &self.record) else { return self };
        if headers.first().is_none_or(|first| first.position.0 != group.position_before.0 + 1) {
            return self;
        }
        let damaged_from = in_memory(self.sector - group.first_sector) * PAYLOAD_BYTES;
        let mut end = GROUP_HEADER_BYTES + group.copies * RECORD_HEADER_BYTES;
        let record = headers.iter().find(|header| {
            end += RECORD_HEADER_BYTES + header.body_bytes as usize;
            end > damaged_from
        });
        Fault { record: record.copied().map(Box::new), ..self }
    }
}

const ACKNOWLEDGED_DAMAGED: &str = "an acknowledged group is damaged";

/// A segment's bytes and what its sectors must match.
pub(crate) struct Segment<'a> {
    bytes: &'a [u8],
    seed: Seed,
    header: SegmentHeader,
    /// Up to the footer.
    sectors: u64,
}

/// Why no group was read.
enum NoGroup {
    /// This sector is not one of the group's, as after a crash or by damage.
    Sector(u64),
    /// Its sectors are as written, but what they say cannot be.
    Contradiction(&'static str),
}

impl<'a> Segment<'a> {
    /// # Panics
    /// When `bytes` are not as many as the header says, or fewer than two sectors.
    pub(crate) fn new(bytes: &'a [u8], header: SegmentHeader) -> Segment<'a> {
        assert_eq!(bytes.len() as u64, header.file_bytes);
        let sectors = (bytes.len() / SECTOR_BYTES) as u64 - 1;
        assert!(sectors >= 1 && bytes.len().is_multiple_of(SECTOR_BYTES));
        Segment { bytes, seed: Seed::new(header.cluster, header.number), header, sectors }
    }

    fn bytes_of(&self, first: u64, count: u64) -> &'a [u8] {
        let place = |sector| in_memory(sector) * SECTOR_BYTES;
        &self.bytes[place(first)..place(first + count)]
    }

    fn inspect(&self, sector: u64) -> Sector {
        sector::inspect(self.seed, sector, self.bytes_of(sector, 1))
    }

    /// What the last sector says; none if no footer was written. Flipped bits in what was never
    /// written bear no mark.
    fn footer(&self) -> Result<Option<SegmentFooter>, RecordError> {
        let bytes = self.bytes_of(self.sectors, 1);
        match SegmentFooter::decode(self.seed, self.sectors, bytes) {
            Err(_) if !sector::is_marked(bytes) => Ok(None),
            footer => footer,
        }
    }

    /// Reads a segment that another one follows: all of it is sealed.
    pub(crate) fn scan_sealed(&self, next: &SegmentHeader) -> Result<SegmentScan, Fault> {
        let end = next.previous.sectors;
        if !(1..=self.sectors).contains(&end) {
            return Err(Fault::new(0, "the next segment claims an impossible end", true));
        }
        match self.footer() {
            Ok(None) => {}
            Ok(Some(footer)) if footer.sectors == end && footer.next == next.number => {}
            _ => return Err(Fault::new(self.sectors, "the footer is damaged", true)),
        }
        let mut scan = self.start();
        while scan.sectors < end {
            if let Err(error) = self.read_next(&mut scan, end) {
                return Err(self.with_record(self.sealed_damage(&scan, error)));
            }
        }
        let (said, found) = (InForce::at_start_of(next), scan.in_force);
        if (said.position, said.link) != (found.position, found.link)
            || (said.promised, said.chosen_upto) != (found.promised, found.chosen_upto)
        {
            return Err(Fault::new(0, "it does not fit the next segment", true));
        }
        Ok(scan)
    }

    /// Reads the newest segment, whose last group may be torn.
    pub(crate) fn scan_newest(&self) -> Result<SegmentScan, Fault> {
        match self.footer() {
            Ok(None) => {}
            Ok(Some(_)) => return Err(Fault::new(self.sectors, "the next segment is lost", false)),
            Err(_) => return Err(Fault::new(self.sectors, "the footer is damaged", false)),
        }
        let mut scan = self.start();
        while scan.sectors < self.sectors {
            if let Err(error) = self.read_next(&mut scan, self.sectors) {
                scan.torn =
                    self.judge_tail(&scan, error).map_err(|fault| self.with_record(fault))?;
                break;
            }
        }
        Ok(scan)
    }

    /// Reads groups as long as they are whole, whatever comes then.
    pub(crate) fn scan_beginning(&self) -> SegmentScan {
        let mut scan = self.start();
        while scan.sectors < self.sectors && self.read_next(&mut scan, self.sectors).is_ok() {}
        scan
    }

    fn start(&self) -> SegmentScan {
        let in_force = InForce::at_start_of(&self.header);
        SegmentScan { groups: Vec::new(), first_number: 1, sectors: 1, torn: false, in_force }
    }

    /// What follows the last complete group of the newest segment. Ok when a crash
    /// explains it; then the answer is whether it left anything.
    fn judge_tail(&self, scan: &SegmentScan, error: NoGroup) -> Result<bool, Fault> {
        let (first, number) = (scan.sectors, scan.next_number());
        let (mut torn, mut sealed, mut promise_known, mut damaged) = (false, false, false, None);
        // Where the next group would begin nothing was written, so none was acknowledged; and what
        // became of the room for it was no sector that belongs elsewhere.
        let mut is_unused = self.inspect(first) == Sector::Zero;
        for at in first..self.sectors {
            match self.inspect(at) {
                Sector::Zero => {}
                Sector::Whole { group, first } if group >= number => {
                    torn = true;
                    // A later group was written, so this one had been synced.
                    sealed |= group > number;
                    // It begins with the promise in force after it.
                    promise_known |= first;
                }
                Sector::Whole { .. } => (damaged, is_unused) = (damaged.or(Some(at)), false),
                Sector::Damaged => {
                    damaged = damaged.or(Some(at));
                    is_unused &= !sector::is_marked(self.bytes_of(at, 1));
                }
            }
        }
        let (sector, what) = match (error, damaged) {
            (NoGroup::Sector(sector), _) if sealed => (sector, ACKNOWLEDGED_DAMAGED),
            (NoGroup::Sector(_), Some(_)) if is_unused => return Ok(true),
            (_, Some(sector)) => (sector, "the last group is neither as written nor torn"),
            (NoGroup::Contradiction(what), None) => (first, what),
            (NoGroup::Sector(_), None) => return Ok(torn),
        };
        let group = Some(self.next_group(scan));
        Err(Fault { group, ..Fault::new(sector, what, promise_known) })
    }

    /// What is wrong with a group that something seals.
    fn sealed_damage(&self, scan: &SegmentScan, error: NoGroup) -> Fault {
        let group = Some(self.next_group(scan));
        let (sector, what) = match error {
            NoGroup::Sector(sector) => (sector, ACKNOWLEDGED_DAMAGED),
            NoGroup::Contradiction(what) => (scan.sectors, what),
        };
        Fault { group, ..Fault::new(sector, what, true) }
    }

    /// The header of group `number`, if the sector where it begins is whole.
    fn group_header(&self, first: u64, number: u32) -> Option<GroupHeader> {
        if self.inspect(first) != (Sector::Whole { group: number, first: true }) {
            return None;
        }
        GroupHeader::decode(self.bytes_of(first, 1)).ok().filter(|header| header.number == number)
    }

    /// Reads the group that follows what `scan` has.
    fn read_next(&self, scan: &mut SegmentScan, limit: u64) -> Result<(), NoGroup> {
        let (first, number) = (scan.sectors, scan.next_number());
        match self.inspect(first) {
            Sector::Whole { group, first: true } if group == number => {}
            Sector::Whole { group, .. } if group == number => {
                return Err(NoGroup::Contradiction("a group has no beginning"));
            }
            _ => return Err(NoGroup::Sector(first)),
        }
        let header = self
            .group_header(first, number)
            .ok_or(NoGroup::Contradiction("a group's header says what cannot be"))?;
        let sectors = header.payload_bytes.div_ceil(PAYLOAD_BYTES as u64);
        if sectors > limit - first {
            return Err(NoGroup::Contradiction("a group runs over the end"));
        }
        for at in first + 1..first + sectors {
            if self.inspect(at) != (Sector::Whole { group: number, first: false }) {
                return Err(NoGroup::Sector(at));
            }
        }
        let mut payload = sector::payload(self.bytes_of(first, sectors));
        payload.truncate(in_memory(header.payload_bytes));
        let group = GroupScan { first_sector: first, sectors, header, records: Vec::new() };
        let (group, in_force) = self.read_records(group, &Bytes::from(payload), scan.in_force)?;
        scan.sectors += sectors;
        scan.in_force = in_force;
        scan.groups.push(group);
        Ok(())
    }

    /// Reads the records of a group whose sectors are whole: so what does not fit is
    /// no trace of a crash.
    fn read_records(
        &self,
        mut group: GroupScan,
        payload: &Bytes,
        mut now: InForce,
    ) -> Result<(GroupScan, InForce), NoGroup> {
        let wrong = |what| Err(NoGroup::Contradiction(what));
        let header = &group.header;
        if (header.position_before, header.link) != (now.position, now.link) {
            return wrong("a group does not follow the one before");
        }
        let mut at = header.records_at();
        for _ in 0..header.records {
            let Ok((record, checksum)) = RecordHeader::decode(&payload[at.min(payload.len())..])
            else {
                return wrong("a record's header is damaged");
            };
            if record.position.0 != now.position.0 + 1
                || record.link != now.link
                || record.cluster_tag != self.header.cluster.tag()
            {
                return wrong("a record does not follow the one before");
            }
            if record.promised < now.promised || record.chosen_upto < now.chosen_upto {
                return wrong("the promise or the watermark goes back");
            }
            let body_at = at + RECORD_HEADER_BYTES;
            let end = body_at + record.body_bytes as usize;
            if end > payload.len() || record.value(payload.slice(body_at..end)).is_err() {
                return wrong("a record's value is damaged");
            }
            let payload_at = group.first_sector * PAYLOAD_BYTES as u64 + at as u64;
            group.records.push(RecordScan { header: record, payload_at });
            now.promised = record.promised;
            now.chosen_upto = record.chosen_upto;
            if let RecordKind::StartAfter(slot) = record.kind {
                now.truncated_upto = now.truncated_upto.max(slot);
                now.chosen_upto = now.chosen_upto.max(slot);
            }
            now.position = record.position;
            now.link = checksum;
            at = end;
        }
        now.truncated_upto = now.truncated_upto.max(header.truncated_upto);
        now.oldest_segment = header.oldest_segment;
        if at != payload.len()
            || (header.promised, header.chosen_upto) != (now.promised, now.chosen_upto)
        {
            return wrong("a group's header does not fit its records");
        }
        Ok((group, now))
    }

    fn next_group(&self, scan: &SegmentScan) -> DamagedGroup {
        let copies = match scan.groups.last() {
            Some(before) => before.records.len(),
            None => self.header.previous.last_records as usize,
        };
        DamagedGroup {
            number: scan.next_number(),
            first_sector: scan.sectors,
            position_before: scan.in_force.position,
            copies,
        }
    }

    /// Adds to a fault what the second copy of the headers, or else the headers of
    /// the damaged group itself, say about the record that is hit.
    fn with_record(&self, fault: Fault) -> Fault {
        let Some(group) = fault.group else { return fault };
        let following = (group.first_sector + 1..self.sectors)
            .filter(|at| matches!(self.inspect(*at), Sector::Whole { first: true, .. }))
            .find_map(|at| self.copies(at, group.number + 1));
        match following {
            // That is all there is to know, even if the group has no records.
            Some(headers) => Fault { group: None, ..fault.with_headers(&headers) },
            None => fault.with_headers(&self.own_headers(group)),
        }
    }

    /// The copies in this segment's first group.
    pub(crate) fn first_copies(&self) -> Option<Vec<RecordHeader>> {
        self.copies(1, 1)
    }

    /// The copies in group `number`, which begins at sector `first`.
    fn copies(&self, first: u64, number: u32) -> Option<Vec<RecordHeader>> {
        let header = self.group_header(first, number)?;
        let sectors = sector::count_for(header.records_at());
        if sectors > self.sectors - first {
            return None;
        }
        let whole = |at| matches!(self.inspect(at), Sector::Whole { group, .. } if group == number);
        (first..first + sectors).all(whole).then_some(())?;
        let payload = sector::payload(self.bytes_of(first, sectors));
        let copies = payload[GROUP_HEADER_BYTES..header.records_at()].chunks(RECORD_HEADER_BYTES);
        copies.map(|bytes| RecordHeader::decode(bytes).ok().map(|(header, _)| header)).collect()
    }

    /// The headers of a group's records up to the first one that is damaged itself.
    fn own_headers(&self, group: DamagedGroup) -> Vec<RecordHeader> {
        let DamagedGroup { number, first_sector: first, copies, .. } = group;
        let mut headers = Vec::new();
        let mut at = GROUP_HEADER_BYTES + copies * RECORD_HEADER_BYTES;
        let limit = in_memory(self.sectors - first) * PAYLOAD_BYTES;
        while at + RECORD_HEADER_BYTES <= limit {
            let from = (at / PAYLOAD_BYTES) as u64;
            let count = ((at + RECORD_HEADER_BYTES - 1) / PAYLOAD_BYTES) as u64 - from + 1;
            let whole =
                |at| matches!(self.inspect(at), Sector::Whole { group, .. } if group == number);
            if !(first + from..first + from + count).all(whole) {
                break;
            }
            let payload = sector::payload(self.bytes_of(first + from, count));
            let Ok((header, _)) = RecordHeader::decode(&payload[at % PAYLOAD_BYTES..]) else {
                break;
            };
            at += RECORD_HEADER_BYTES + header.body_bytes as usize;
            headers.push(header);
        }
        headers
    }
}

/// A count of sectors or bytes of a segment, which is in memory as a whole.
fn in_memory(count: u64) -> usize {
    usize::try_from(count).expect("it is in memory")
}
