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

use crate::answer::{parse_outcome, write_outcome};
use crate::codec::{Reader, put_varint};
use crate::state::Remembered;
use crate::{KvOptions, MapError, OrderedMap, Outcome, WriteSet, layout};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_and_cut_records_do_not() {
        for outcome in crate::answer::outcomes_for_tests() {
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
