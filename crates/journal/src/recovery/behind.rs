//! What stands behind damage.
//!
//! Of a damaged segment nothing is taken but what is durably said elsewhere: which promise is in
//! force at its end, and which slots it may have held values of. A later segment says both in its header.
//! Of the newest one that is said only by its own groups, each of which repeats the headers of the one
//! before. If they leave nothing open, a segment that follows can be made from them: its header says
//! what is in force behind the last damaged group, and the groups that were behind it follow.

use synod_paxos::Slot;
use synod_wire::record::sector::{SECTOR_BYTES, Seed};
use synod_wire::record::{ClusterId, GroupPlace, PreviousEnd, SegmentHeader};

use super::{Found, Reader, Recovery};
use crate::OpenError;
use crate::error::Damage;
use crate::folder::{Folder, SEGMENT_NUMBER_MAX};
use crate::options::SEGMENT_BYTES_MIN;
use crate::scan::{InForce, NewestKnown, Segment, SegmentScan};

/// What stands behind the last damaged segment.
#[derive(Debug)]
pub(crate) struct BehindDamage {
    pub(crate) recovery: Recovery,
    /// None when nothing is damaged.
    pub(crate) first_damage: Option<Damage>,
    /// The segment behind a damaged newest one, which is not there yet. Until it is, `recovery` is
    /// for reading only.
    next: Option<Next>,
}

/// A segment that is to be.
#[derive(Debug)]
struct Next {
    number: u64,
    bytes: Vec<u8>,
}

impl BehindDamage {
    /// Reads what stands behind the last damaged segment, if that is a journal of its own: one
    /// that was truncated there would look the same. Changes nothing.
    pub(crate) fn read(folder: &Folder, cluster: ClusterId) -> Result<BehindDamage, OpenError> {
        let reader = Reader { folder, cluster };
        let (mut from, mut first_damage) = (0, None);
        loop {
            let damage = match reader.recover(from) {
                Err(OpenError::Damaged(damage)) => damage,
                recovered => {
                    return Ok(BehindDamage { recovery: recovered?, first_damage, next: None });
                }
            };
            let number = Folder::number_of(&damage.file).filter(|number| *number >= from);
            first_damage = first_damage.or(Some(damage.clone()));
            match number {
                Some(number) => from = number + 1,
                // It is the newest segment's, which stands in the way from everywhere.
                None => {
                    let found = reader.behind_newest()?;
                    let (recovery, next) = found.ok_or(OpenError::Damaged(damage))?;
                    return Ok(BehindDamage { recovery, first_damage, next: Some(next) });
                }
            }
        }
    }

    /// What stands there, to go on with: the segment that it begins with is there afterwards, so that
    /// the damaged one is not the newest any more.
    pub(crate) fn begin(self, folder: &Folder, cluster: ClusterId) -> Result<Recovery, OpenError> {
        let Some(Next { number, bytes }) = self.next else { return Ok(self.recovery) };
        folder.put_segment(number, &bytes)?;
        Reader { folder, cluster }.recover(number)
    }
}

impl Reader<'_> {
    /// What stands behind the last damaged group of the newest segment, and the segment that it is to
    /// be; none if anything is missing of what its header must say.
    fn behind_newest(&self) -> Result<Option<(Recovery, Next)>, OpenError> {
        let mut numbers = self.folder.segment_numbers()?;
        while numbers.pop_if(|number| matches!(self.unused(*number), Ok(true))).is_some() {}
        let Some(newest) = numbers.last().copied() else { return Ok(None) };
        let header = self.header(newest, false)?;
        let bytes = self.read(&header, false)?;
        let segment = Segment::new(&bytes, header);
        let Some(known) = segment
            .scan_newest_known()
            .filter(|known| known.damaged > 0 && newest < SEGMENT_NUMBER_MAX)
        else {
            return Ok(None);
        };
        let next = header_behind(&header, &known);
        let bytes = with_groups(&next, &segment, &known);
        let (groups, in_force) = (known.scan.groups[known.damaged..].to_vec(), known.scan.in_force);
        // Where they stand now. What was torn is left behind.
        let first_number = u32::try_from(known.damaged).expect("fewer groups than sectors") + 1;
        let scan = SegmentScan { groups, first_number, in_force, ..known.scan };
        let mut found = Found::start(&next);
        if found.add(&SegmentHeader { number: newest, ..next }, &scan).is_err() {
            return Ok(None);
        }
        let truncated_upto = found.index.truncated_upto();
        let recovery = Recovery {
            in_force: InForce { truncated_upto, ..scan.in_force },
            newest_header: header,
            index: found.index,
            segments: found.segments,
            newest_sectors: scan.sectors,
            newest_groups: scan.next_number() - 1,
            last_headers: found.last_headers,
            last_group: None,
            leftover: Vec::new(),
            torn: scan.torn,
            passed_over: Vec::new(),
        };
        Ok(Some((recovery, Next { number: next.number, bytes })))
    }
}

/// The header of the segment that follows a newest one up to its last damaged group.
fn header_behind(header: &SegmentHeader, known: &NewestKnown) -> SegmentHeader {
    let (gone, stay) = known.scan.groups.split_at(known.damaged);
    let records = gone.iter().flat_map(|group| &group.records);
    let highest = records.filter_map(|record| Some(record.header.slot()?.0)).max();
    let behind = known.behind;
    let sectors = stay.iter().map(|group| group.sectors).sum::<u64>() + 2;
    SegmentHeader {
        number: header.number + 1,
        file_bytes: (sectors * SECTOR_BYTES as u64).max(SEGMENT_BYTES_MIN),
        promised: behind.promised,
        chosen_upto: behind.chosen_upto,
        truncated_upto: behind.truncated_upto,
        oldest_segment: behind.oldest_segment,
        highest_slot_before: header.highest_slot_before.max(highest.unwrap_or(Slot::ZERO)),
        previous: PreviousEnd {
            sectors: stay.first().map_or(known.scan.sectors, |first| first.first_sector),
            position: behind.position,
            link: behind.link,
            last_records: gone.last().map_or(0, |last| last.header.records),
        },
        ..*header
    }
}

/// The segment with this header and the whole groups that stood behind the damage.
fn with_groups(header: &SegmentHeader, segment: &Segment<'_>, known: &NewestKnown) -> Vec<u8> {
    let seed = Seed::new(header.cluster, header.number);
    let mut bytes = header.encode().to_vec();
    for (number, group) in (1..).zip(&known.scan.groups[known.damaged..]) {
        let first_sector = (bytes.len() / SECTOR_BYTES) as u64;
        let place = GroupPlace { seed, first_sector, number };
        let moved = place.sectors_of(&segment.payload_of(group)).expect("it was read as a group");
        bytes.extend_from_slice(&moved);
    }
    bytes.resize(usize::try_from(header.file_bytes).expect("it is in memory"), 0);
    bytes
}
