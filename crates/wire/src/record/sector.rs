//! Sectors: 512 bytes that vouch for themselves.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 504 | payload |
//! | 504 | 4 | mark: number of the group in its segment; the top bit is set in the group's first sector |
//! | 508 | 4 | CRC32C over cluster, segment number and sector number, then over the 508 bytes before |
//!
//! A disk writes a sector as a whole or not at all. So after a crash each sector of
//! a group that was being written is either [`Sector::Whole`] or still
//! [`Sector::Zero`], and [`Sector::Damaged`] is never the trace of a crash. The
//! place in the checksum exposes a sector that landed where it does not belong.

use super::ClusterId;

/// Bytes of a sector.
pub const SECTOR_BYTES: usize = 512;
/// Bytes of a sector that carry payload.
pub const PAYLOAD_BYTES: usize = 504;
/// The largest group number in a segment.
pub const GROUP_MAX: u32 = (1 << 31) - 2;
/// The number in a footer's mark.
pub(super) const FOOTER_MARK: u32 = FIRST_BIT - 1;

const TRAILER_BYTES: usize = SECTOR_BYTES - PAYLOAD_BYTES;
const FIRST_BIT: u32 = 1 << 31;

/// Binds the sectors of one segment to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seed(u32);

impl Seed {
    /// The seed of this segment of this cluster.
    #[must_use]
    pub fn new(cluster: ClusterId, segment: u64) -> Seed {
        let cluster = crc32c::crc32c(&cluster.0.to_le_bytes());
        Seed(crc32c::crc32c_append(cluster, &segment.to_le_bytes()))
    }

    fn checksum(self, sector: u64, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &sector.to_le_bytes()), bytes)
    }
}

/// The state of a sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sector {
    /// As it was when the segment was made.
    Zero,
    /// As it was written.
    Whole {
        /// The group it belongs to; its number in the segment.
        group: u32,
        /// Whether the group begins here.
        first: bool,
    },
    /// Neither.
    Damaged,
}

/// Judges sector number `sector` of a segment.
///
/// # Panics
/// When `bytes` is not one sector.
#[must_use]
pub fn inspect(seed: Seed, sector: u64, bytes: &[u8]) -> Sector {
    assert_eq!(bytes.len(), SECTOR_BYTES);
    if bytes.iter().all(|byte| *byte == 0) {
        return Sector::Zero;
    }
    let (covered, checksum) = bytes.split_last_chunk().expect("a sector");
    if u32::from_le_bytes(*checksum) != seed.checksum(sector, covered) {
        return Sector::Damaged;
    }
    let mark = u32::from_le_bytes(*covered.last_chunk().expect("a sector"));
    Sector::Whole { group: mark & !FIRST_BIT, first: mark & FIRST_BIT != 0 }
}

/// Whether a sector, damaged or not, bears the mark and the checksum of one that was written.
///
/// # Panics
/// When `bytes` are fewer than a sector's trailer.
#[must_use]
pub fn is_marked(bytes: &[u8]) -> bool {
    bytes[bytes.len() - TRAILER_BYTES..].iter().any(|byte| *byte != 0)
}

/// Appends payload to `sectors`, leaving room for each sector's trailer.
pub(super) fn put_payload(sectors: &mut Vec<u8>, mut payload: &[u8]) {
    while !payload.is_empty() {
        let within = sectors.len() % SECTOR_BYTES;
        let (now, later) = payload.split_at(payload.len().min(PAYLOAD_BYTES - within));
        sectors.extend_from_slice(now);
        if within + now.len() == PAYLOAD_BYTES {
            sectors.extend_from_slice(&[0; TRAILER_BYTES]);
        }
        payload = later;
    }
}

/// Pads `sectors` to whole ones and writes the trailer of each.
pub(super) fn seal(sectors: &mut Vec<u8>, seed: Seed, first_sector: u64, group: u32) {
    sectors.resize(sectors.len().next_multiple_of(SECTOR_BYTES), 0);
    let mut mark = group | FIRST_BIT;
    for (sector, bytes) in (first_sector..).zip(sectors.chunks_exact_mut(SECTOR_BYTES)) {
        bytes[PAYLOAD_BYTES..PAYLOAD_BYTES + 4].copy_from_slice(&mark.to_le_bytes());
        let checksum = seed.checksum(sector, &bytes[..SECTOR_BYTES - 4]);
        bytes[SECTOR_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        mark = group;
    }
}

/// The payload of whole sectors, one after the other.
#[must_use]
pub fn payload(sectors: &[u8]) -> Vec<u8> {
    let chunks = sectors.chunks_exact(SECTOR_BYTES);
    let mut payload = Vec::with_capacity(chunks.len() * PAYLOAD_BYTES);
    for sector in chunks {
        payload.extend_from_slice(&sector[..PAYLOAD_BYTES]);
    }
    payload
}

/// How many sectors `payload_bytes` of payload fill.
#[must_use]
pub fn count_for(payload_bytes: usize) -> u64 {
    payload_bytes.div_ceil(PAYLOAD_BYTES) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(bytes: usize) -> Vec<u8> {
        (0..=u8::MAX).cycle().take(bytes).collect()
    }

    fn framed(payload_bytes: usize) -> Vec<u8> {
        let payload = counting(payload_bytes);
        let mut sectors = Vec::new();
        put_payload(&mut sectors, &payload);
        seal(&mut sectors, Seed::new(ClusterId(7), 3), 11, 5);
        sectors
    }

    #[test]
    fn payload_comes_back_from_its_sectors() {
        for length in [1, 503, 504, 505, 1008, 1009, 5000] {
            let sectors = framed(length);
            assert_eq!(sectors.len() as u64, count_for(length) * SECTOR_BYTES as u64);
            assert_eq!(payload(&sectors)[..length], counting(length));
        }
    }

    #[test]
    fn a_sector_is_whole_only_in_its_place_and_unchanged() {
        let mut sectors = framed(600);
        let (seed, group) = (Seed::new(ClusterId(7), 3), 5);
        let second = sectors.split_off(SECTOR_BYTES);
        assert_eq!(inspect(seed, 11, &sectors), Sector::Whole { group, first: true });
        assert_eq!(inspect(seed, 12, &second), Sector::Whole { group, first: false });
        assert_eq!(inspect(seed, 12, &sectors), Sector::Damaged);
        assert_eq!(inspect(Seed::new(ClusterId(7), 4), 11, &sectors), Sector::Damaged);
        assert_eq!(inspect(Seed::new(ClusterId(8), 3), 11, &sectors), Sector::Damaged);
        assert_eq!(inspect(seed, 11, &[0; SECTOR_BYTES]), Sector::Zero);
        for bit in 0..SECTOR_BYTES * 8 {
            sectors[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(inspect(seed, 11, &sectors), Sector::Damaged, "bit {bit}");
            sectors[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
