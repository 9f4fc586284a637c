//! A look at RocksDB's list of its files before RocksDB reads it.
//!
//! The list is a log: blocks of 32 KiB, in them records with a checksum, a length and a type
//! each. RocksDB checks them too, but there are types, unknown to it, at which it reads on
//! for ever without getting any further, so that one flipped bit would keep a node from
//! ever starting or failing.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const BLOCK_BYTES: usize = 32 << 10;
/// A masked CRC-32C of what follows the length, the length, and the type.
const HEADER_BYTES: usize = 7;
/// The types that lists are written with: a whole record, or its first, middle and last part.
const TYPES: std::ops::RangeInclusive<u8> = 1..=4;

/// What is wrong with the list of the database in `folder`; none when nothing is, or when it
/// is for RocksDB to say because there is no list.
pub(crate) fn damage(folder: &Path) -> io::Result<Option<String>> {
    let Ok(current) = std::fs::read_to_string(folder.join("CURRENT")) else { return Ok(None) };
    let name = current.trim_end();
    if !name.starts_with("MANIFEST-") || name.contains('/') {
        return Ok(Some(format!("CURRENT names {name:?}")));
    }
    let mut list = match File::open(folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        list => list?,
    };
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    for number in 0.. {
        block.clear();
        list.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if let Some(at) = damaged_at(&block) {
            let at = number * BLOCK_BYTES + at;
            return Ok(Some(format!("{name} holds no whole record at offset {at}")));
        }
        if block.len() < BLOCK_BYTES {
            break;
        }
    }
    Ok(None)
}

/// The first place in a block that is none where a record begins. What a crash cut off at
/// the end of the file is no damage.
fn damaged_at(block: &[u8]) -> Option<usize> {
    let is_last = block.len() < BLOCK_BYTES;
    let mut at = 0;
    while let Some(header) = block.get(at..at + HEADER_BYTES) {
        if header.iter().all(|byte| *byte == 0) {
            break; // Made ready, and not written.
        }
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let end = at + HEADER_BYTES + length;
        if end > block.len() && is_last && TYPES.contains(&header[6]) {
            return None;
        }
        let Some(body) = block.get(at + HEADER_BYTES - 1..end) else { return Some(at) };
        let stated = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let masked = crc32c::crc32c(body).rotate_right(15).wrapping_add(0xa282_ead8);
        if stated != masked || !TYPES.contains(&header[6]) {
            return Some(at);
        }
        at = end;
    }
    block[at..].iter().any(|byte| *byte != 0).then_some(at).filter(|_| !is_last)
}
