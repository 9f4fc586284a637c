//! Which requests of clients were answered, and how: a retry gets the first
//! answer again.
//!
//! Remembered keys are numbered. Each has a record under the key and an entry in
//! a queue under its number. All live equally long, so the queue is also in the
//! order of expiry, and only its head is ever looked at: what expired leaves from
//! there, a few entries at a time, and nothing leaves before it expired. (If the
//! lifetime is set anew, a key may wait behind one that lives longer: it is
//! remembered too long, never too short.) As long as a record is there, it answers.
//!
//! An attempt may be under way for longer than its key is remembered: its node was cut
//! off, and sends it when it is back. Another attempt had effect meanwhile, and was
//! forgotten. So each attempt says which cluster time its node had applied when it was
//! asked, and each key that is forgotten leaves behind until when it was said to be
//! remembered. An attempt asked before the latest of these is refused: its key may be
//! among those that are forgotten. Nothing is asked of clocks here. An attempt
//! asked before another one had effect carries a time that the log had reached before
//! that, so it is never mistaken for a new request, however long it takes. Keys are
//! kept for a grace beyond what is said. Half of it is added to the times that are left
//! behind: it is for clocks of clients, and for requests that arrive slowly. The other
//! half is the time that an attempt may take before it is refused.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::codec::{Reader, put_bytes, put_varint};
use crate::metadata::Metadata;
use crate::state::Remembered;
use crate::{KeyRecord, KvOptions, MapError, OrderedMap, Outcome, Revision, WriteSet, layout};

/// How a request was answered the first time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answered {
    pub(crate) number: u64,
    pub(crate) expires_ms: u64,
    pub(crate) request_hash: u128,
    pub(crate) outcome: Outcome,
}

/// An entry of the queue.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Queued {
    expires_ms: u64,
    bytes: u64,
    key: Bytes,
}

/// The records and entries that are not in the map yet, over those that are.
#[derive(Default, Debug)]
pub(crate) struct Idempotency {
    records: BTreeMap<Bytes, Option<Answered>>,
    queue: BTreeMap<u64, Queued>,
    /// The first entry of the queue with its number, so that it is read once.
    head: Option<(u64, Queued)>,
    /// How long a key is remembered beyond what is said, in milliseconds.
    grace_ms: u64,
    /// Whether more may have expired than the last value forgot.
    is_behind: bool,
}

/// How many expired keys one value forgets, beside those that make room.
const EXPIRE_PER_VALUE: usize = 16;
/// How many expired keys a value without commands forgets: it is there to let time pass.
const EXPIRE_PER_EMPTY_VALUE: usize = 4_096;
/// How many expired keys a command forgets to make room for its own.
const EXPIRE_PER_COMMAND: usize = 64;

impl Idempotency {
    pub(crate) fn new(grace_ms: u64) -> Self {
        Idempotency { grace_ms, ..Idempotency::default() }
    }

    /// Forgets a few of the keys whose time is over. To be called once per value,
    /// so that the store shrinks when no new keys come.
    pub(crate) fn expire(
        &mut self,
        map: &impl OrderedMap,
        batch: &mut WriteSet,
        remembered: &mut Remembered,
        now_ms: u64,
        is_empty: bool,
    ) -> Result<(), MapError> {
        let most = if is_empty { EXPIRE_PER_EMPTY_VALUE } else { EXPIRE_PER_VALUE };
        self.is_behind = true;
        for _ in 0..most {
            if !self.expire_one(map, batch, remembered, now_ms)? {
                self.is_behind = false;
                break;
            }
        }
        Ok(())
    }

    /// The cluster time at which a value without commands would be of use, so that keys
    /// expire though nobody writes; none when no keys are remembered.
    pub(crate) fn tick_ms(&self, remembered: &Remembered, now_ms: u64) -> Option<u64> {
        let pause_ms = if self.is_behind { 0 } else { self.grace_ms / 3 };
        (remembered.first != remembered.next).then(|| now_ms.saturating_add(pause_ms))
    }

    /// The first answer to this key.
    pub(crate) fn find(
        &self,
        map: &impl OrderedMap,
        key: &[u8],
    ) -> Result<Option<Answered>, MapError> {
        match self.records.get(key) {
            Some(staged) => Ok(staged.clone()),
            None => read_record(map, key),
        }
    }

    /// Whether another key may be remembered, after expired ones made room.
    pub(crate) fn make_room(
        &mut self,
        map: &impl OrderedMap,
        batch: &mut WriteSet,
        remembered: &mut Remembered,
        now_ms: u64,
        options: &KvOptions,
    ) -> Result<bool, MapError> {
        for _ in 0..EXPIRE_PER_COMMAND {
            let is_full = remembered.next - remembered.first >= options.idempotency_records_max
                || remembered.bytes >= options.idempotency_bytes_max;
            if !is_full {
                return Ok(true);
            }
            if !self.expire_one(map, batch, remembered, now_ms)? {
                break;
            }
        }
        Ok(false)
    }

    /// Remembers an answer under the next number.
    pub(crate) fn remember(
        &mut self,
        batch: &mut WriteSet,
        remembered: &mut Remembered,
        key: &Bytes,
        answered: Answered,
    ) {
        assert_eq!(answered.number, remembered.next, "answers are numbered in order");
        let mut record = Vec::new();
        write_answered(&mut record, &answered);
        let bytes = (key.len() * 2 + record.len()) as u64;
        let queued = Queued { expires_ms: answered.expires_ms, bytes, key: key.clone() };
        batch.put(&layout::idempotency_key(key), &record);
        batch.put_with(
            |out| out.extend_from_slice(&layout::idempotency_queue_key(answered.number)),
            |out| write_queued(out, &queued),
        );
        remembered.next += 1;
        remembered.bytes += bytes;
        self.queue.insert(answered.number, queued);
        self.records.insert(key.clone(), Some(answered));
    }

    /// Everything staged is in the map now.
    pub(crate) fn committed(&mut self) {
        self.records.clear();
        self.queue.clear();
    }

    /// Forgets the head of the queue if its time is over; tells whether it was.
    fn expire_one(
        &mut self,
        map: &impl OrderedMap,
        batch: &mut WriteSet,
        remembered: &mut Remembered,
        now_ms: u64,
    ) -> Result<bool, MapError> {
        if remembered.first == remembered.next {
            return Ok(false);
        }
        let number = remembered.first;
        let (number, head) = match self.head.take() {
            Some(head) if head.0 == number => head,
            _ => (number, self.read_queue(map, number)?),
        };
        if now_ms < head.expires_ms.saturating_add(self.grace_ms) {
            self.head = Some((number, head));
            return Ok(false);
        }
        batch.delete(&layout::idempotency_key(&head.key));
        self.records.insert(head.key, None);
        batch.delete(&layout::idempotency_queue_key(number));
        self.queue.remove(&number);
        remembered.first += 1;
        let line_ms = head.expires_ms.saturating_add(self.grace_ms / 2);
        remembered.forgotten_ms = remembered.forgotten_ms.max(line_ms);
        remembered.bytes = remembered.bytes.checked_sub(head.bytes).ok_or_else(damaged)?;
        Ok(true)
    }

    fn read_queue(&self, map: &impl OrderedMap, number: u64) -> Result<Queued, MapError> {
        if let Some(staged) = self.queue.get(&number) {
            // A copy of the key: the head outlives the batch that it came in.
            return Ok(Queued { key: Bytes::copy_from_slice(&staged.key), ..*staged });
        }
        let entry = map.get(&layout::idempotency_queue_key(number))?.ok_or_else(damaged)?;
        parse_queued(&entry).ok_or_else(damaged)
    }
}

fn damaged() -> MapError {
    MapError("the records of idempotency keys are damaged".to_owned())
}

fn read_record(map: &impl OrderedMap, key: &[u8]) -> Result<Option<Answered>, MapError> {
    match map.get(&layout::idempotency_key(key))? {
        Some(record) => parse_answered(&record).ok_or_else(damaged).map(Some),
        None => Ok(None),
    }
}

fn write_queued(out: &mut Vec<u8>, queued: &Queued) {
    put_varint(out, queued.expires_ms);
    put_varint(out, queued.bytes);
    out.extend_from_slice(&queued.key);
}

fn parse_queued(entry: &[u8]) -> Option<Queued> {
    let mut reader = Reader::new(entry);
    let expires_ms = reader.varint()?;
    let bytes = reader.varint()?;
    Some(Queued { expires_ms, bytes, key: Bytes::copy_from_slice(reader.rest()) })
}

fn write_answered(out: &mut Vec<u8>, answered: &Answered) {
    put_varint(out, answered.number);
    put_varint(out, answered.expires_ms);
    out.extend_from_slice(&answered.request_hash.to_le_bytes());
    write_outcome(out, &answered.outcome);
}

fn parse_answered(record: &[u8]) -> Option<Answered> {
    let mut reader = Reader::new(record);
    let answered = Answered {
        number: reader.varint()?,
        expires_ms: reader.varint()?,
        request_hash: u128::from_le_bytes(reader.array()?),
        outcome: parse_outcome(&mut reader)?,
    };
    reader.end().map(|()| answered)
}

const STORED: u8 = 1;
const DELETED: u8 = 2;
const NOT_FOUND: u8 = 3;
const RANGE_DELETED: u8 = 4;
const CONDITION_FAILED: u8 = 5;

fn write_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    match outcome {
        Outcome::Stored { revision, create_revision, version, previous } => {
            out.push(STORED);
            put_varint(out, revision.0);
            put_varint(out, create_revision.0);
            put_varint(out, *version);
            write_previous(out, previous.as_ref());
        }
        Outcome::Deleted { revision, previous } => {
            out.push(DELETED);
            put_varint(out, revision.0);
            write_previous(out, previous.as_ref());
        }
        Outcome::NotFound { revision } => {
            out.push(NOT_FOUND);
            put_varint(out, revision.0);
        }
        Outcome::RangeDeleted { revision, count, next } => {
            out.push(RANGE_DELETED);
            put_varint(out, revision.0);
            put_varint(out, *count);
            out.push(u8::from(next.is_some()));
            if let Some(next) = next {
                put_bytes(out, next);
            }
        }
        Outcome::ConditionFailed { revision, current } => {
            out.push(CONDITION_FAILED);
            put_varint(out, revision.0);
            // Nothing was ever changed at revision 0.
            put_varint(out, current.map_or(0, |current| current.0));
        }
        Outcome::IdempotencyMismatch { .. }
        | Outcome::IdempotencyLate { .. }
        | Outcome::IdempotencyFull { .. } => {
            unreachable!("answers about the key itself are not remembered")
        }
    }
}

fn parse_outcome(reader: &mut Reader<'_>) -> Option<Outcome> {
    let kind = reader.byte()?;
    let revision = Revision(reader.varint()?);
    Some(match kind {
        STORED => Outcome::Stored {
            revision,
            create_revision: Revision(reader.varint()?),
            version: reader.varint()?,
            previous: parse_previous(reader)?,
        },
        DELETED => Outcome::Deleted { revision, previous: parse_previous(reader)? },
        NOT_FOUND => Outcome::NotFound { revision },
        RANGE_DELETED => Outcome::RangeDeleted {
            revision,
            count: reader.varint()?,
            next: match reader.byte()? {
                0 => None,
                _ => Some(Bytes::copy_from_slice(reader.bytes()?)),
            },
        },
        CONDITION_FAILED => {
            let current = Some(Revision(reader.varint()?)).filter(|current| current.0 != 0);
            Outcome::ConditionFailed { revision, current }
        }
        _ => return None,
    })
}

fn write_previous(out: &mut Vec<u8>, previous: Option<&KeyRecord>) {
    out.push(u8::from(previous.is_some()));
    if let Some(record) = previous {
        put_varint(out, record.create_revision.0);
        put_varint(out, record.mod_revision.0);
        put_varint(out, record.version);
        put_varint(out, record.lease);
        put_bytes(out, &record.value);
    }
}

fn parse_previous(reader: &mut Reader<'_>) -> Option<Option<KeyRecord>> {
    if reader.byte()? == 0 {
        return Some(None);
    }
    let metadata = Metadata {
        create_revision: Revision(reader.varint()?),
        mod_revision: Revision(reader.varint()?),
        version: reader.varint()?,
        lease: reader.varint()?,
    };
    Some(Some(metadata.with_value(Bytes::copy_from_slice(reader.bytes()?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes() -> Vec<Outcome> {
        let revision = Revision(300);
        let record = KeyRecord {
            value: Bytes::from_static(b"was here"),
            create_revision: Revision(7),
            mod_revision: Revision(299),
            version: 3,
            lease: 1 << 50,
        };
        vec![
            Outcome::Stored { revision, create_revision: revision, version: 1, previous: None },
            Outcome::Stored {
                revision,
                create_revision: Revision(7),
                version: 4,
                previous: Some(record.clone()),
            },
            Outcome::Deleted { revision, previous: Some(record) },
            Outcome::Deleted { revision, previous: None },
            Outcome::NotFound { revision },
            Outcome::RangeDeleted { revision, count: 4000, next: None },
            Outcome::RangeDeleted { revision, count: 1, next: Some(Bytes::from_static(b"a\0")) },
            Outcome::ConditionFailed { revision, current: None },
            Outcome::ConditionFailed { revision, current: Some(Revision(2)) },
        ]
    }

    #[test]
    fn answers_come_back_and_cut_records_do_not() {
        for outcome in outcomes() {
            let answered =
                Answered { number: 8, expires_ms: 1 << 40, request_hash: u128::MAX - 5, outcome };
            let mut record = Vec::new();
            write_answered(&mut record, &answered);
            for cut in 0..record.len() {
                assert_eq!(parse_answered(&record[..cut]), None);
            }
            assert_eq!(parse_answered(&record), Some(answered));
        }
    }
}
