//! Groups: the records that one fdatasync made durable.

use synod_paxos::{Ballot, Position, Record, Slot};

use super::fields::{Reader, Writer, check};
use super::sector::{self, Seed};
use super::{RECORD_HEADER_BYTES, RecordError, RecordHeader};

/// Bytes of a group's header.
pub const GROUP_HEADER_BYTES: usize = 88;

const MAGIC: u32 = u32::from_le_bytes(*b"SynG");

/// What a group begins with. It fits into the first sector, so that sector alone
/// proves the promise that is in force after the group.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | magic `SynG` |
/// | 4 | 4 | number of the group in its segment, from 1 |
/// | 8 | 8 | bytes of payload, this header included |
/// | 16 | 4 | records |
/// | 20 | 4 | copies: headers of the records of the group before |
/// | 24 | 8 | position of the last record before the group |
/// | 32 | 4 | link: checksum in the header of that record |
/// | 36 | 12 | promise in force after the group (round, node) |
/// | 48 | 8 | chosen-upto in force after the group |
/// | 56 | 8 | truncated-upto in force after the group |
/// | 64 | 8 | number of the oldest segment that the journal still needs |
/// | 72 | 12 | zero |
/// | 84 | 4 | CRC32C of the 84 bytes before |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupHeader {
    /// Number of the group in its segment, from 1.
    pub number: u32,
    /// Bytes of payload, this header included.
    pub payload_bytes: u64,
    /// How many records the group holds; none in a group that only seals.
    pub records: u32,
    /// How many headers of the group before it repeats.
    pub copies: u32,
    /// The last record before the group.
    pub position_before: Position,
    /// The checksum in that record's header.
    pub link: u32,
    /// The promise after the group.
    pub promised: Ballot,
    /// The watermark after the group.
    pub chosen_upto: Slot,
    /// The journal need hold nothing at or below this slot.
    pub truncated_upto: Slot,
    /// The oldest segment that must be there.
    pub oldest_segment: u64,
}

impl GroupHeader {
    fn encode(&self) -> [u8; GROUP_HEADER_BYTES] {
        let mut bytes = [0; GROUP_HEADER_BYTES];
        let mut writer = Writer::new(&mut bytes);
        writer.u32(MAGIC);
        writer.u32(self.number);
        writer.u64(self.payload_bytes);
        writer.u32(self.records);
        writer.u32(self.copies);
        writer.u64(self.position_before.0);
        writer.u32(self.link);
        writer.ballot(self.promised);
        writer.u64(self.chosen_upto.0);
        writer.u64(self.truncated_upto.0);
        writer.u64(self.oldest_segment);
        writer.finish();
        bytes
    }

    /// Reads a header from the front of a group's payload.
    ///
    /// # Errors
    /// When the bytes are not such a header.
    pub fn decode(bytes: &[u8]) -> Result<GroupHeader, RecordError> {
        let bytes = bytes.get(..GROUP_HEADER_BYTES).ok_or(RecordError::Short)?;
        let mut reader = Reader::new(bytes);
        if reader.u32() != MAGIC {
            return Err(RecordError::Magic);
        }
        check(bytes).ok_or(RecordError::Checksum)?;
        let header = GroupHeader {
            number: reader.u32(),
            payload_bytes: reader.u64(),
            records: reader.u32(),
            copies: reader.u32(),
            position_before: Position(reader.u64()),
            link: reader.u32(),
            promised: reader.ballot(),
            chosen_upto: Slot(reader.u64()),
            truncated_upto: Slot(reader.u64()),
            oldest_segment: reader.u64(),
        };
        let headers = u64::from(header.records) + u64::from(header.copies);
        let least = GROUP_HEADER_BYTES as u64 + headers * RECORD_HEADER_BYTES as u64;
        if header.payload_bytes < least {
            return Err(RecordError::Field("payload length"));
        }
        if header.encode() != *bytes {
            return Err(RecordError::Field("spare bytes"));
        }
        Ok(header)
    }

    /// Where in the payload the records begin.
    #[must_use]
    pub fn records_at(&self) -> usize {
        GROUP_HEADER_BYTES + self.copies as usize * RECORD_HEADER_BYTES
    }
}

/// Where a group goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupPlace {
    /// The seed of its segment.
    pub seed: Seed,
    /// Its first sector.
    pub first_sector: u64,
    /// Its number in the segment.
    pub number: u32,
}

impl GroupPlace {
    /// The sectors of a group that is moved here: `payload` is that of a whole one, and nothing in
    /// it but its number says where it stood.
    ///
    /// # Errors
    /// When the payload does not begin with a group's header.
    pub fn sectors_of(&self, payload: &[u8]) -> Result<Vec<u8>, RecordError> {
        let header = GroupHeader { number: self.number, ..GroupHeader::decode(payload)? };
        let mut sectors = Vec::new();
        sector::put_payload(&mut sectors, &header.encode());
        sector::put_payload(&mut sectors, &payload[GROUP_HEADER_BYTES..]);
        sector::seal(&mut sectors, self.seed, self.first_sector, self.number);
        Ok(sectors)
    }
}

/// Encodes one group after another into one buffer, which it keeps.
#[derive(Debug, Default)]
pub struct GroupBuilder {
    /// The form of the segments.
    format: u32,
    /// Sectors, with their trailers still zero.
    sectors: Vec<u8>,
    payload_bytes: usize,
    records: u32,
    copies: u32,
    /// The headers of this group's records, for the next group to repeat.
    headers: Vec<u8>,
}

impl GroupBuilder {
    /// For segments of this form.
    #[must_use]
    pub fn of_format(format: u32) -> Self {
        GroupBuilder { format, ..GroupBuilder::default() }
    }

    /// Starts a group that repeats `copies`, the encoded headers of the group before.
    ///
    /// # Panics
    /// When `copies` is not whole headers.
    pub fn begin(&mut self, copies: &[u8]) {
        assert_eq!(copies.len() % RECORD_HEADER_BYTES, 0);
        self.sectors.clear();
        self.headers.clear();
        self.payload_bytes = 0;
        self.records = 0;
        self.copies = u32::try_from(copies.len() / RECORD_HEADER_BYTES).expect("bounded");
        self.put(&[0; GROUP_HEADER_BYTES]);
        self.put(copies);
    }

    /// Adds a record. Returns where in the payload its header begins, and the
    /// checksum to which the next record links.
    ///
    /// # Panics
    /// When its value is larger than [`super::BODY_BYTES_MAX`].
    pub fn push(
        &mut self,
        record: &Record,
        cluster_tag: u32,
        position: Position,
        link: u32,
    ) -> (usize, u32) {
        let (header, body) = RecordHeader::of(record, cluster_tag, position, link);
        let (bytes, checksum) = header.in_format(self.format).encode();
        let at = self.payload_bytes;
        self.put(&bytes);
        self.put(&body);
        self.headers.extend_from_slice(&bytes);
        self.records += 1;
        (at, checksum)
    }

    /// How many records were added.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.records
    }

    /// How many sectors the group fills by now.
    #[must_use]
    pub fn sector_count(&self) -> u64 {
        sector::count_for(self.payload_bytes)
    }

    /// Bytes of the group by now, on disk.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.sectors.len()
    }

    /// The encoded headers of the group's records.
    #[must_use]
    pub fn headers(&self) -> &[u8] {
        &self.headers
    }

    /// Ends the group: the sectors to be written at `place`. Lengths and counts in
    /// `header` are filled in here.
    pub fn finish(&mut self, place: GroupPlace, mut header: GroupHeader) -> &[u8] {
        header.number = place.number;
        header.payload_bytes = self.payload_bytes as u64;
        header.records = self.records;
        header.copies = self.copies;
        self.sectors[..GROUP_HEADER_BYTES].copy_from_slice(&header.encode());
        sector::seal(&mut self.sectors, place.seed, place.first_sector, place.number);
        &self.sectors
    }

    fn put(&mut self, payload: &[u8]) {
        sector::put_payload(&mut self.sectors, payload);
        self.payload_bytes += payload.len();
    }
}
