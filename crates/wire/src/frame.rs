//! Frames: what separates one message from the next on a connection, and what
//! finds damaged bytes.
//!
//! ```text
//! magic [u8; 2] | framing version u8 | kind u8 | body length u32
//! body checksum u32 | checksum of the 12 bytes before u32 | body
//! ```
//!
//! Checksums are CRC-32C. TCP's own checksum misses about one damaged segment in
//! 65,536, and proxies compute it anew.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{DecodeError, PeerMessage, message, version};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 16;

/// The longest body of a frame, and so the most that a peer can make this node
/// keep for one message.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

const MAGIC: [u8; 2] = [0x53, 0xD1];
const VERSION: u8 = 1;

/// The header of a frame, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub(crate) kind: u8,
    body_bytes: u32,
    body_checksum: u32,
}

impl Header {
    /// Decodes the first [`HEADER_BYTES`] of `bytes`, and leaves the rest alone.
    ///
    /// # Errors
    /// When fewer bytes are there, or they are no header of this version, or the
    /// body is longer than [`FRAME_BYTES_MAX`]. The connection is then useless.
    pub fn decode(bytes: &[u8]) -> Result<Header, DecodeError> {
        let head: &[u8; HEADER_BYTES] =
            bytes.first_chunk().ok_or(DecodeError::CutOff("a frame's header"))?;
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if head[..2] != MAGIC {
            return Err(DecodeError::Magic);
        }
        if crc32c::crc32c(&head[..12]) != word(12) {
            return Err(DecodeError::Checksum("a frame's header"));
        }
        if head[2] != VERSION {
            return Err(DecodeError::Version { what: "a frame", version: head[2] });
        }
        let body_bytes = word(4);
        if body_bytes as usize > FRAME_BYTES_MAX {
            return Err(DecodeError::TooLarge { what: "a frame", size: u64::from(body_bytes) });
        }
        Ok(Header { kind: head[3], body_bytes, body_checksum: word(8) })
    }

    /// Length of the body in bytes, at most [`FRAME_BYTES_MAX`].
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.body_bytes as usize
    }

    /// Checks that `body` is this header's.
    pub(crate) fn check(&self, body: &[u8]) -> Result<(), DecodeError> {
        if body.len() < self.body_bytes() {
            return Err(DecodeError::CutOff("a frame's body"));
        }
        if body.len() > self.body_bytes() {
            return Err(DecodeError::LeftOver("a frame's body"));
        }
        if crc32c::crc32c(body) != self.body_checksum {
            return Err(DecodeError::Checksum("a frame's body"));
        }
        Ok(())
    }
}

/// Appends `message` to `out` as one frame, header included, as every version reads it.
///
/// # Panics
/// As [`encode_for`].
pub fn encode(message: &PeerMessage, out: &mut BytesMut) {
    encode_for(version::OLDEST, message, out);
}

/// Appends `message` to `out` as one frame, header included, in this version.
///
/// # Panics
/// When the body would be longer than [`FRAME_BYTES_MAX`]; whoever sends messages
/// of unbounded size looks at [`body_bytes_for`] first.
pub fn encode_for(version: u32, message: &PeerMessage, out: &mut BytesMut) {
    let bytes = body_bytes_for(version, message);
    assert!(bytes <= FRAME_BYTES_MAX, "a message of {bytes} bytes");
    out.reserve(HEADER_BYTES + bytes);
    encode_with(message::kind(message), out, |out| message::encode_body(message, version, out));
}

/// The length of the message's body in bytes, as every version reads it.
#[must_use]
pub fn body_bytes(message: &PeerMessage) -> usize {
    body_bytes_for(version::OLDEST, message)
}

/// The length of the message's body in bytes in this version.
#[must_use]
pub fn body_bytes_for(version: u32, message: &PeerMessage) -> usize {
    message::body_bytes(message, version)
}

/// Decodes the body that belongs to `header`; values and commands are slices of it.
///
/// # Errors
/// When the body has another length or checksum than the header says, or is not
/// exactly one message between peers.
pub fn decode(header: Header, body: Bytes) -> Result<PeerMessage, DecodeError> {
    decode_as_of(version::NEWEST, header, body)
}

/// The same by a reader that knows the versions up to `newest`.
///
/// # Errors
/// As [`decode`].
pub fn decode_as_of(newest: u32, header: Header, body: Bytes) -> Result<PeerMessage, DecodeError> {
    header.check(&body)?;
    message::decode_body(header.kind, body, newest)
}

/// Appends a frame whose body `write` appends.
pub(crate) fn encode_with(kind: u8, out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    write(out);
    let (head, body) = out[start..].split_at_mut(HEADER_BYTES);
    let length = u32::try_from(body.len()).expect("a body below 4 GiB");
    head[..2].copy_from_slice(&MAGIC);
    head[2] = VERSION;
    head[3] = kind;
    head[4..8].copy_from_slice(&length.to_le_bytes());
    head[8..12].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let checksum = crc32c::crc32c(&head[..12]);
    head[12..].copy_from_slice(&checksum.to_le_bytes());
}
