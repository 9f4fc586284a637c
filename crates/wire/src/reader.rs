//! Reads fields off the front of bytes, checking each length before it is used.

use bytes::Bytes;
use synod_paxos::{Ballot, NodeId, Slot};

use crate::DecodeError;

/// What is left to read of one message.
pub(crate) struct Reader {
    rest: Bytes,
    /// Names the message in errors.
    what: &'static str,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes, what: &'static str) -> Self {
        Reader { rest: bytes, what }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, _) = self.rest.split_first_chunk().ok_or(DecodeError::CutOff(self.what))?;
        let head = *head;
        bytes::Buf::advance(&mut self.rest, N);
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub(crate) fn slot(&mut self) -> Result<Slot, DecodeError> {
        Ok(Slot(self.u64()?))
    }

    pub(crate) fn node(&mut self) -> Result<NodeId, DecodeError> {
        Ok(NodeId(self.u32()?))
    }

    pub(crate) fn ballot(&mut self) -> Result<Ballot, DecodeError> {
        Ok(Ballot { round: self.u64()?, node: self.node()? })
    }

    /// A yes or no; every other byte is refused.
    pub(crate) fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(DecodeError::Tag { what: self.what, tag }),
        }
    }

    /// Something that occupies its place even when it is absent.
    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        let present = self.flag()?;
        let value = read(self)?;
        Ok(present.then_some(value))
    }

    /// `count` bytes, cut out without a copy.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<Bytes, DecodeError> {
        if count > self.rest.len() {
            return Err(DecodeError::CutOff(self.what));
        }
        Ok(self.rest.split_to(count))
    }

    /// A u32 length of at most `max`, then as many bytes.
    pub(crate) fn byte_string(
        &mut self,
        field: &'static str,
        max: usize,
    ) -> Result<Bytes, DecodeError> {
        let count = self.u32()?;
        if count as usize > max {
            return Err(DecodeError::TooLarge { what: field, size: u64::from(count) });
        }
        self.bytes(count as usize)
    }

    /// A u32 count of elements of at least `element_bytes_min` each, at most `max`.
    /// A count that the remaining bytes cannot hold is refused before memory is
    /// taken for it.
    pub(crate) fn count(
        &mut self,
        max: usize,
        element_bytes_min: usize,
    ) -> Result<usize, DecodeError> {
        let count = self.u32()? as usize;
        if count > max {
            return Err(DecodeError::TooLarge { what: self.what, size: count as u64 });
        }
        if count > self.rest.len() / element_bytes_min {
            return Err(DecodeError::CutOff(self.what));
        }
        Ok(count)
    }

    /// A block: its u16 length, then the fields that are always there. Fields that
    /// a newer writer appended are left unread in it.
    pub(crate) fn block(&mut self) -> Result<Reader, DecodeError> {
        let count = self.u16()?;
        Ok(Reader { rest: self.bytes(usize::from(count))?, what: self.what })
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::LeftOver(self.what)) }
    }
}
