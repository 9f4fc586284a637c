//! Reading and writing fixed-width fields in order.

use synod_paxos::{Ballot, NodeId};

/// Reads fields from the front of a slice whose length was checked.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.bytes.split_first_chunk().expect("the length was checked");
        self.bytes = rest;
        *field
    }

    pub(super) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    pub(super) fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.take())
    }

    pub(super) fn ballot(&mut self) -> Ballot {
        let round = self.u64();
        Ballot { round, node: NodeId(self.u32()) }
    }
}

/// Writes fields to the front of an array that is known to be long enough.
pub(super) struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        Writer { bytes, at: 0 }
    }

    fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.put(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    pub(super) fn u128(&mut self, value: u128) {
        self.put(&value.to_le_bytes());
    }

    pub(super) fn ballot(&mut self, ballot: Ballot) {
        self.u64(ballot.round);
        self.u32(ballot.node.0);
    }

    /// Fills the last four bytes with the checksum of all before them, and
    /// returns it.
    pub(super) fn finish(self) -> u32 {
        let (fields, checksum) = self.bytes.split_last_chunk_mut().expect("room for a checksum");
        assert!(self.at <= fields.len(), "the fields run into their checksum");
        let value = crc32c::crc32c(fields);
        *checksum = value.to_le_bytes();
        value
    }
}

/// Whether the last four bytes are the checksum of those before; returns it.
pub(super) fn check(bytes: &[u8]) -> Option<u32> {
    let (fields, checksum) = bytes.split_last_chunk()?;
    let value = u32::from_le_bytes(*checksum);
    (crc32c::crc32c(fields) == value).then_some(value)
}
