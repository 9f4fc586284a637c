//! A backup: one stream, or one file, that holds a whole state.
//!
//! ```text
//! magic [u8; 8] | block | block | ...
//! block: kind u8 | 0 [u8; 3] | file u32 | offset u64 | length u32 | packed length u32
//!        checksum of the packed bytes u32 | checksum of the 28 bytes before u32 | packed bytes
//! ```
//!
//! The first block says what the state is and which files it has, the last one how many
//! blocks there are and that they are these: its `offset` counts those before it, its
//! `length` is a checksum over their heads. Between them are the files, in order and
//! without a gap. So a byte that changed is found, and so is an end that is missing.
//! Checksums are CRC-32C. What packs the bytes is not said here; the first and the last
//! block are not packed.

use crate::DecodeError;

/// What a backup begins with.
pub const MAGIC: [u8; 8] = *b"SYNODBK1";
/// Bytes of a block's head.
pub const HEAD_BYTES: usize = 32;
/// The most bytes of a file in one block.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// The longest first block.
pub const ABOUT_BYTES_MAX: usize = 32 << 20;
/// What packing may add to bytes that it cannot make shorter.
const PACKED_EXTRA_BYTES: usize = 64 << 10;

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockKind {
    /// What the backup is of.
    About,
    /// A part of a file.
    Part,
    /// Nothing: the backup is whole.
    End,
}

/// The head of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockHead {
    /// What it holds.
    pub kind: BlockKind,
    /// Which file.
    pub file: u32,
    /// From which byte of the file on.
    pub offset: u64,
    /// How long the bytes are.
    pub bytes: u32,
    /// How long they are as they stand here.
    pub packed_bytes: u32,
    /// Of the bytes as they stand here.
    pub checksum: u32,
}

impl BlockHead {
    /// The bytes of the head.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[0] = match self.kind {
            BlockKind::About => 1,
            BlockKind::Part => 2,
            BlockKind::End => 3,
        };
        head[4..8].copy_from_slice(&self.file.to_le_bytes());
        head[8..16].copy_from_slice(&self.offset.to_le_bytes());
        head[16..20].copy_from_slice(&self.bytes.to_le_bytes());
        head[20..24].copy_from_slice(&self.packed_bytes.to_le_bytes());
        head[24..28].copy_from_slice(&self.checksum.to_le_bytes());
        let checksum = crc32c::crc32c(&head[..28]);
        head[28..].copy_from_slice(&checksum.to_le_bytes());
        head
    }

    /// Reads a head back.
    ///
    /// # Errors
    /// When it is none, or announces more bytes than a block may have.
    pub fn decode(head: &[u8; HEAD_BYTES]) -> Result<BlockHead, DecodeError> {
        const WHAT: &str = "a block of a backup";
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if crc32c::crc32c(&head[..28]) != word(28) {
            return Err(DecodeError::Checksum(WHAT));
        }
        let (kind, bytes_max) = match head[0] {
            1 => (BlockKind::About, ABOUT_BYTES_MAX),
            2 => (BlockKind::Part, BLOCK_BYTES_MAX),
            // The length of the last block is a checksum: nothing follows it.
            3 => (BlockKind::End, u32::MAX as usize),
            tag => return Err(DecodeError::Tag { what: WHAT, tag }),
        };
        let offset = u64::from(word(8)) | u64::from(word(12)) << 32;
        let (bytes, packed_bytes) = (word(16), word(20));
        let packed_max = match kind {
            BlockKind::End => 0,
            _ => bytes_max + PACKED_EXTRA_BYTES,
        };
        if bytes as usize > bytes_max || packed_bytes as usize > packed_max {
            let size = u64::from(bytes.max(packed_bytes));
            return Err(DecodeError::TooLarge { what: WHAT, size });
        }
        Ok(BlockHead { kind, file: word(4), offset, bytes, packed_bytes, checksum: word(24) })
    }

    /// Checks that these are the packed bytes.
    ///
    /// # Errors
    /// When they are not.
    pub fn check(&self, packed: &[u8]) -> Result<(), DecodeError> {
        if packed.len() != self.packed_bytes as usize {
            return Err(DecodeError::CutOff("a block of a backup"));
        }
        if crc32c::crc32c(packed) != self.checksum {
            return Err(DecodeError::Checksum("a block of a backup"));
        }
        Ok(())
    }
}

/// What the last block says of those before it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    blocks: u64,
    checksum: u32,
}

impl Tally {
    /// One more block.
    pub fn add(&mut self, head: &[u8; HEAD_BYTES]) {
        self.blocks += 1;
        self.checksum = crc32c::crc32c_append(self.checksum, head);
    }

    /// The last block.
    #[must_use]
    pub fn end(&self) -> BlockHead {
        BlockHead {
            kind: BlockKind::End,
            file: 0,
            offset: self.blocks,
            bytes: self.checksum,
            packed_bytes: 0,
            checksum: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_comes_back_and_any_flip_is_seen() {
        let head = BlockHead {
            kind: BlockKind::Part,
            file: 0x0102_0304,
            offset: 0x1112_1314_1516_1718,
            bytes: 0x000f_2223,
            packed_bytes: 0x000e_3233,
            checksum: 0x4142_4344,
        };
        let encoded = head.encode();
        assert_eq!(BlockHead::decode(&encoded), Ok(head));
        for bit in 0..HEAD_BYTES * 8 {
            let mut damaged = encoded;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(BlockHead::decode(&damaged).is_err(), "{bit}");
        }
        let mut tally = Tally::default();
        tally.add(&encoded);
        assert_eq!(BlockHead::decode(&tally.end().encode()), Ok(tally.end()));
    }

    #[test]
    fn no_block_makes_a_reader_take_much_memory() {
        let head = |kind, bytes: usize, packed: usize| {
            let length = |bytes| u32::try_from(bytes).expect("small");
            let (bytes, packed_bytes) = (length(bytes), length(packed));
            BlockHead { kind, file: 0, offset: 0, bytes, packed_bytes, checksum: 0 }.encode()
        };
        assert!(BlockHead::decode(&head(BlockKind::Part, BLOCK_BYTES_MAX, 5)).is_ok());
        for wrong in [
            head(BlockKind::Part, BLOCK_BYTES_MAX + 1, 5),
            head(BlockKind::Part, 5, 2 * BLOCK_BYTES_MAX),
            head(BlockKind::About, ABOUT_BYTES_MAX + 1, 5),
            head(BlockKind::End, 5, 1),
        ] {
            assert!(matches!(BlockHead::decode(&wrong), Err(DecodeError::TooLarge { .. })));
        }
    }
}
