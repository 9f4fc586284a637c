//! What a record is about, and how large it is.

use synod_paxos::{Record, RecordBody, Slot};

pub(super) fn slot_of(record: &Record) -> Option<Slot> {
    match record.body {
        RecordBody::Accepted { slot, .. } | RecordBody::Chosen { slot, .. } => Some(slot),
        RecordBody::Promise | RecordBody::StartAfter { .. } => None,
    }
}

/// The slot up to which nothing is needed any more of what stands before or in the record, if
/// it is dropped.
pub(super) fn reaches(record: &Record) -> Option<Slot> {
    match record.body {
        RecordBody::StartAfter { slot } => Some(slot),
        _ => slot_of(record),
    }
}

pub(super) fn size_of(record: &Record) -> u64 {
    const HEADER_BYTES: usize = 64;
    let value_bytes = match &record.body {
        RecordBody::Accepted { value, .. } | RecordBody::Chosen { value, .. } => value.size_bytes(),
        RecordBody::Promise | RecordBody::StartAfter { .. } => 0,
    };
    (HEADER_BYTES + value_bytes) as u64
}
