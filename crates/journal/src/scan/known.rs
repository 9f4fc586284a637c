//! What the headers in a damaged segment still tell.
//!
//! Each group repeats the headers of the one before. So of a damaged group it is known what
//! its records were about, and where their values stand, as long as the next one is whole there.

use synod_paxos::{Ballot, Position, Slot};
use synod_wire::record::sector::{self, PAYLOAD_BYTES, Sector};
use synod_wire::record::{
    GROUP_HEADER_BYTES, GroupHeader, RECORD_HEADER_BYTES, RecordHeader, RecordKind, SegmentHeader,
};

use super::{GroupScan, InForce, NoGroup, RecordScan, Segment, SegmentScan, in_memory};

/// Groups that follow one another without a record between them that is not known. Their
/// values may be damaged.
#[derive(Debug)]
pub(crate) struct Known {
    /// The last record before them, and the checksum in its header.
    pub(crate) after: (Position, u32),
    pub(crate) scan: SegmentScan,
}

impl Known {
    fn of(scan: SegmentScan) -> Known {
        Known { after: (scan.in_force.position, scan.in_force.link), scan }
    }

    /// The last record of them, and the checksum in its header.
    pub(crate) fn end(&self) -> (Position, u32) {
        (self.scan.in_force.position, self.scan.in_force.link)
    }
}

/// A newest segment of which all headers are known.
#[derive(Debug)]
pub(crate) struct NewestKnown {
    pub(crate) scan: SegmentScan,
    /// The first groups of it, of which the last one is damaged, and others may be.
    pub(crate) damaged: usize,
    /// What is in force after those.
    pub(crate) behind: InForce,
}

impl Segment<'_> {
    /// Everything that is known of a segment, damaged or not. `next` is the one that follows,
    /// if it is known; `first_copies` tells what its first group repeats.
    pub(crate) fn scan_known(
        &self,
        next: Option<&SegmentHeader>,
        first_copies: impl Fn() -> Option<Vec<RecordHeader>>,
    ) -> Vec<Known> {
        let end = next.map_or(self.sectors, |next| next.previous.sectors.min(self.sectors));
        let mut all = Vec::new();
        let mut known = Known::of(self.start());
        while known.scan.sectors < end {
            let scan = &mut known.scan;
            if self.read_next(scan, end).is_ok()
                || self.step_over(scan, end).is_some()
                || next.is_some_and(|next| {
                    self.step_over_last(scan, end, next, &first_copies).is_some()
                })
                || self.step_over_alone(scan, end, next.is_some()).is_some()
            {
                continue;
            }
            let Some(later) = self.find_group(scan.sectors + 1, end) else { break };
            all.push(std::mem::replace(&mut known, Known::of(later)));
        }
        all.push(known);
        all
    }

    /// The newest segment, damaged as it may be, if all headers in it are known from its beginning to
    /// where a crash may have torn it. So the promise at its end is known, and the slots that it held
    /// values of; the values of damaged groups may be gone.
    pub(crate) fn scan_newest_known(&self) -> Option<NewestKnown> {
        let mut scan = self.start();
        let (mut damaged, mut behind) = (0, scan.in_force);
        while scan.sectors < self.sectors {
            if self.read_next(&mut scan, self.sectors).is_ok() {
                continue;
            }
            if self.step_over(&mut scan, self.sectors).is_none()
                && self.step_over_alone(&mut scan, self.sectors, false).is_none()
            {
                break;
            }
            (damaged, behind) = (scan.groups.len(), scan.in_force);
        }
        self.is_all(&mut scan).then_some(NewestKnown { scan, damaged, behind })
    }

    /// The payload of a whole group.
    pub(crate) fn payload_of(&self, group: &GroupScan) -> Vec<u8> {
        let mut payload = sector::payload(self.bytes_of(group.first_sector, group.sectors));
        payload.truncate(in_memory(group.header.payload_bytes));
        payload
    }

    /// Whether nothing follows what is known of this segment, if no other one follows it, but what a
    /// crash tore there.
    pub(crate) fn is_all(&self, scan: &mut SegmentScan) -> bool {
        match self.footer() {
            Ok(None) => {}
            _ => return false,
        }
        let end = self.read_next(scan, self.sectors).err();
        end.is_some_and(|error| self.is_torn(scan, error))
    }

    /// The first group whose beginning is whole, from this sector on.
    fn find_group(&self, from: u64, end: u64) -> Option<SegmentScan> {
        (from..end).find_map(|at| {
            let Sector::Whole { group, first: true } = self.inspect(at) else { return None };
            let header = self.group_header(at, group)?;
            // What was in force before it is not known.
            let in_force = InForce {
                promised: Ballot::ZERO,
                chosen_upto: Slot::ZERO,
                truncated_upto: Slot::ZERO,
                oldest_segment: header.oldest_segment,
                position: header.position_before,
                link: header.link,
            };
            let first_number = group;
            Some(SegmentScan {
                groups: Vec::new(),
                first_number,
                sectors: at,
                torn: false,
                in_force,
            })
        })
    }

    /// Takes the group that follows what `scan` has as the one after it tells it.
    fn step_over(&self, scan: &mut SegmentScan, end: u64) -> Option<()> {
        let number = scan.next_number();
        let (at, following) = (scan.sectors + 1..end).find_map(|at| match self.inspect(at) {
            Sector::Whole { group, first: true } if group > number => Some((at, group)),
            _ => None,
        })?;
        let header = self.group_header(at, following).filter(|_| following == number + 1)?;
        let headers = self.copies(at, following)?;
        self.take_headers(scan, headers, at, (header.position_before, header.link))
    }

    /// The same of the last group of the segment.
    fn step_over_last(
        &self,
        scan: &mut SegmentScan,
        end: u64,
        next: &SegmentHeader,
        first_copies: impl Fn() -> Option<Vec<RecordHeader>>,
    ) -> Option<()> {
        let before = (next.previous.position, next.previous.link);
        self.take_headers(scan, first_copies()?, end, before)
    }

    /// The same of a group as it tells it by itself: its headers are whole, and its values are not.
    /// One that a crash tore is none.
    fn step_over_alone(&self, scan: &mut SegmentScan, end: u64, is_sealed: bool) -> Option<()> {
        let group = self.next_group(scan);
        let own = self.group_header(group.first_sector, group.number)?;
        let is_damaged = is_sealed || !self.is_torn(scan, NoGroup::Sector(group.first_sector));
        let mut headers = self.own_headers(group);
        headers.truncate(own.records as usize);
        (is_damaged && headers.len() == own.records as usize).then_some(())?;
        let before = headers.last().map(|last| (last.position, last.encode().1));
        let before = before.unwrap_or((own.position_before, own.link));
        let upto = group.first_sector + own.payload_bytes.div_ceil(PAYLOAD_BYTES as u64);
        self.take_headers(scan, headers, upto.min(end), before)
    }

    /// Whether a crash explains what follows.
    fn is_torn(&self, scan: &SegmentScan, error: NoGroup) -> bool {
        self.judge_tail(scan, error).is_ok()
    }

    /// Takes these headers for those of the group that follows what `scan` has and ends before
    /// sector `end`, if they lead from the last record to `before`.
    fn take_headers(
        &self,
        scan: &mut SegmentScan,
        headers: Vec<RecordHeader>,
        end: u64,
        before: (Position, u32),
    ) -> Option<()> {
        let group = self.next_group(scan);
        let (number, first_sector) = (group.number, group.first_sector);
        let own = self.group_header(first_sector, number);
        let copies = own.as_ref().map_or(group.copies, |own| own.copies as usize);
        let mut now = scan.in_force;
        if let Some(own) = &own {
            now.truncated_upto = now.truncated_upto.max(own.truncated_upto);
            now.oldest_segment = own.oldest_segment;
        }
        let mut at = first_sector * PAYLOAD_BYTES as u64;
        at += (GROUP_HEADER_BYTES + copies * RECORD_HEADER_BYTES) as u64;
        let mut records = Vec::with_capacity(headers.len());
        for header in headers {
            let follows = (header.position.0, header.link) == (now.position.0 + 1, now.link);
            let rises = header.promised >= now.promised && header.chosen_upto >= now.chosen_upto;
            if !follows || !rises || header.cluster_tag != self.header.cluster.tag() {
                return None;
            }
            now.promised = header.promised;
            now.chosen_upto = header.chosen_upto;
            if let RecordKind::StartAfter(slot) = header.kind {
                now.truncated_upto = now.truncated_upto.max(slot);
                now.chosen_upto = now.chosen_upto.max(slot);
            }
            (now.position, now.link) = (header.position, header.encode().1);
            records.push(RecordScan { header, payload_at: at });
            at += RECORD_HEADER_BYTES as u64 + u64::from(header.body_bytes);
        }
        let sectors = end - first_sector;
        if (now.position, now.link) != before || at > end * PAYLOAD_BYTES as u64 {
            return None;
        }
        let header = GroupHeader {
            number,
            payload_bytes: at - first_sector * PAYLOAD_BYTES as u64,
            records: u32::try_from(records.len()).ok()?,
            copies: u32::try_from(copies).ok()?,
            position_before: scan.in_force.position,
            link: scan.in_force.link,
            promised: now.promised,
            chosen_upto: now.chosen_upto,
            truncated_upto: now.truncated_upto,
            oldest_segment: now.oldest_segment,
        };
        scan.groups.push(GroupScan { first_sector, sectors, header, records });
        scan.sectors += in_memory(sectors) as u64;
        scan.in_force = now;
        Some(())
    }
}
