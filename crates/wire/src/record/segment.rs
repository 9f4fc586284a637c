//! The first and the last sector of a segment.

use synod_paxos::{Ballot, Position, Slot};

use super::fields::{Reader, Writer, check};
use super::sector::{self, PAYLOAD_BYTES, SECTOR_BYTES, Sector, Seed};
use super::{ClusterId, FORMAT_NEWEST, FORMAT_OLDEST, RecordError};

const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"SynodSeg");
/// Bytes of a footer's fields.
const FOOTER_BYTES: usize = 24;
const FOOTER_MAGIC: u64 = u64::from_le_bytes(*b"SynodEnd");

/// The first sector of a segment: what is in force where it begins.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | magic `SynodSeg` |
/// | 8 | 4 | format version |
/// | 12 | 16 | cluster id |
/// | 28 | 8 | number of the segment, from 1 |
/// | 36 | 8 | bytes of the file |
/// | 44 | 8 | incarnation: how often the journal was opened |
/// | 52 | 12 | promise in force (round, node) |
/// | 64 | 8 | chosen-upto in force |
/// | 72 | 8 | truncated-upto in force |
/// | 80 | 8 | number of the oldest segment that the journal still needs |
/// | 88 | 8 | highest slot of which a segment before this one holds a value |
/// | 96 | 8 | sectors in use in the segment before |
/// | 104 | 8 | position of the last record before this segment |
/// | 112 | 4 | link: checksum in the header of that record |
/// | 116 | 4 | records in the last group before, whose headers the first group here repeats |
/// | 120 | 388 | zero |
/// | 508 | 4 | CRC32C of the 508 bytes before |
///
/// It seals the segment before: what follows there after the sectors in use was
/// torn by a crash and dropped. This sector is not bound to a cluster by its
/// checksum, so that the wrong cluster is told apart from damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The form of everything in it: [`FORMAT_OLDEST`] to [`FORMAT_NEWEST`].
    pub format: u32,
    /// The cluster.
    pub cluster: ClusterId,
    /// Number of the segment, from 1.
    pub number: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// How often the journal had been opened.
    pub incarnation: u64,
    /// The promise.
    pub promised: Ballot,
    /// The watermark.
    pub chosen_upto: Slot,
    /// The journal need hold nothing at or below this slot.
    pub truncated_upto: Slot,
    /// The oldest segment that must be there.
    pub oldest_segment: u64,
    /// The highest slot of which an earlier segment holds a value.
    pub highest_slot_before: Slot,
    /// Where the segment before ends.
    pub previous: PreviousEnd,
}

/// Where the segment before ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PreviousEnd {
    /// Its sectors in use, header included; 0 when there is none.
    pub sectors: u64,
    /// The position of the last record.
    pub position: Position,
    /// The checksum in the header of that record.
    pub link: u32,
    /// How many records its last group holds.
    pub last_records: u32,
}

impl SegmentHeader {
    /// The sector.
    #[must_use]
    pub fn encode(&self) -> [u8; SECTOR_BYTES] {
        let mut bytes = [0; SECTOR_BYTES];
        let mut writer = Writer::new(&mut bytes);
        writer.u64(HEADER_MAGIC);
        writer.u32(self.format);
        writer.u128(self.cluster.0);
        writer.u64(self.number);
        writer.u64(self.file_bytes);
        writer.u64(self.incarnation);
        writer.ballot(self.promised);
        writer.u64(self.chosen_upto.0);
        writer.u64(self.truncated_upto.0);
        writer.u64(self.oldest_segment);
        writer.u64(self.highest_slot_before.0);
        writer.u64(self.previous.sectors);
        writer.u64(self.previous.position.0);
        writer.u32(self.previous.link);
        writer.u32(self.previous.last_records);
        writer.finish();
        bytes
    }

    /// Reads the first sector of a segment.
    ///
    /// # Errors
    /// When it is not a segment header of this version.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, RecordError> {
        let bytes = bytes.get(..SECTOR_BYTES).ok_or(RecordError::Short)?;
        let mut reader = Reader::new(bytes);
        if reader.u64() != HEADER_MAGIC {
            return Err(RecordError::Magic);
        }
        check(bytes).ok_or(RecordError::Checksum)?;
        let version = reader.u32();
        if !(FORMAT_OLDEST..=FORMAT_NEWEST).contains(&version) {
            return Err(RecordError::Version(version));
        }
        let header = SegmentHeader {
            format: version,
            cluster: ClusterId(reader.u128()),
            number: reader.u64(),
            file_bytes: reader.u64(),
            incarnation: reader.u64(),
            promised: reader.ballot(),
            chosen_upto: Slot(reader.u64()),
            truncated_upto: Slot(reader.u64()),
            oldest_segment: reader.u64(),
            highest_slot_before: Slot(reader.u64()),
            previous: PreviousEnd {
                sectors: reader.u64(),
                position: Position(reader.u64()),
                link: reader.u32(),
                last_records: reader.u32(),
            },
        };
        if header.encode() != *bytes {
            return Err(RecordError::Field("spare bytes"));
        }
        Ok(header)
    }
}

/// The last sector of a segment, written once the next segment has its header: a
/// segment with a footer is never the last one, so a lost successor is noticed.
/// An ordinary sector whose mark is 0x7fffffff, with this payload:
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | magic `SynodEnd` |
/// | 8 | 8 | number of the next segment |
/// | 16 | 8 | sectors in use in this one |
/// | 24 | 480 | zero |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentFooter {
    /// Number of the next segment.
    pub next: u64,
    /// Sectors in use in this one.
    pub sectors: u64,
}

impl SegmentFooter {
    /// The sector, which is number `sector` of its segment.
    #[must_use]
    pub fn encode(&self, seed: Seed, sector: u64) -> Vec<u8> {
        let mut payload = [0; PAYLOAD_BYTES];
        payload[..8].copy_from_slice(&FOOTER_MAGIC.to_le_bytes());
        payload[8..16].copy_from_slice(&self.next.to_le_bytes());
        payload[16..24].copy_from_slice(&self.sectors.to_le_bytes());
        let mut bytes = Vec::with_capacity(SECTOR_BYTES);
        sector::put_payload(&mut bytes, &payload);
        sector::seal(&mut bytes, seed, sector, sector::FOOTER_MARK);
        bytes
    }

    /// Reads the last sector of a segment. None if it is still zero.
    ///
    /// # Errors
    /// When it is neither zero nor a footer.
    pub fn decode(seed: Seed, sector: u64, bytes: &[u8]) -> Result<Option<Self>, RecordError> {
        if bytes.len() != SECTOR_BYTES {
            return Err(RecordError::Short);
        }
        match sector::inspect(seed, sector, bytes) {
            Sector::Zero => return Ok(None),
            Sector::Damaged => return Err(RecordError::Checksum),
            Sector::Whole { group: sector::FOOTER_MARK, first: true } => {}
            Sector::Whole { .. } => return Err(RecordError::Field("footer mark")),
        }
        let mut reader = Reader::new(bytes);
        if reader.u64() != FOOTER_MAGIC {
            return Err(RecordError::Magic);
        }
        let footer = SegmentFooter { next: reader.u64(), sectors: reader.u64() };
        if bytes[FOOTER_BYTES..PAYLOAD_BYTES].iter().any(|byte| *byte != 0) {
            return Err(RecordError::Field("spare bytes"));
        }
        Ok(Some(footer))
    }
}

#[cfg(test)]
mod tests {
    use synod_paxos::NodeId;

    use super::*;

    #[test]
    fn all_fields_distinct_come_back_and_any_flip_is_seen() {
        let header = SegmentHeader {
            format: FORMAT_NEWEST,
            cluster: ClusterId(1),
            number: 2,
            file_bytes: 3,
            incarnation: 4,
            promised: Ballot { round: 5, node: NodeId(6) },
            chosen_upto: Slot(7),
            truncated_upto: Slot(8),
            oldest_segment: 9,
            highest_slot_before: Slot(10),
            previous: PreviousEnd {
                sectors: 11,
                position: Position(12),
                link: 13,
                last_records: 14,
            },
        };
        let mut bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_form_that_is_not_known_is_told_from_damage() {
        let mut bytes = [0; SECTOR_BYTES];
        let mut writer = Writer::new(&mut bytes);
        writer.u64(HEADER_MAGIC);
        writer.u32(FORMAT_NEWEST + 1);
        writer.finish();
        let unknown = RecordError::Version(FORMAT_NEWEST + 1);
        assert_eq!(SegmentHeader::decode(&bytes), Err(unknown));
    }

    #[test]
    fn a_footer_is_there_or_not_or_damaged() {
        let seed = Seed::new(ClusterId(1), 2);
        let footer = SegmentFooter { next: 3, sectors: 4 };
        let mut bytes = footer.encode(seed, 31);
        assert_eq!(SegmentFooter::decode(seed, 31, &bytes), Ok(Some(footer)));
        assert_eq!(SegmentFooter::decode(seed, 31, &[0; SECTOR_BYTES]), Ok(None));
        bytes[400] ^= 1;
        assert_eq!(SegmentFooter::decode(seed, 31, &bytes), Err(RecordError::Checksum));
    }
}
