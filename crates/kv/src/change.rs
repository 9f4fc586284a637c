//! Which keys each revision changed, for those who watch.
//!
//! Changes that follow each other in one slot share a record, so that they cost the map one
//! entry a slot and not one a change:
//!
//! ```text
//! 04 · revision of the first change, 8 bytes, big end first · its number within that, 4 bytes
//!   -> last revision less the first, then for each change:
//!      2 · (revision less that of the one before) + (1 for a put) · length · key
//! ```
//!
//! Only keys stand here. What became of a key is in its own records, which are kept for as
//! long as these: a revision that is compacted has no changes any more.

use bytes::Bytes;

use crate::codec::{Reader, put_bytes, put_varint};
use crate::map::{Cursor, MapError, OrderedMap};
use crate::read::ReadError;
use crate::walk::state_at;
use crate::{APPLIED_KEY, KeyRecord, Revision, WriteSet, layout, record};

/// From this length on a record takes no further change.
const RECORD_BYTES: usize = 32 << 10;

/// The changes of a slot that are not staged yet.
#[derive(Default, Debug)]
pub(crate) struct ChangeLog {
    /// The first change of the record that is being made.
    first: (Revision, u32),
    /// The revision of the last change, and how many it had so far.
    last: (Revision, u32),
    entries: Vec<u8>,
}

impl ChangeLog {
    /// Notes a change. To be called in the order of the changes.
    pub(crate) fn note(
        &mut self,
        batch: &mut WriteSet,
        revision: Revision,
        key: &[u8],
        is_put: bool,
    ) {
        if self.entries.len() >= RECORD_BYTES {
            self.end(batch);
        }
        let (before, number) = self.last;
        let number = if before == revision { number } else { 0 };
        if self.entries.is_empty() {
            self.first = (revision, number);
        }
        let base = if self.entries.is_empty() { revision } else { before };
        put_varint(&mut self.entries, (revision.0 - base.0) << 1 | u64::from(is_put));
        put_bytes(&mut self.entries, key);
        self.last = (revision, number + 1);
    }

    /// Stages what was noted. To be called once a slot, so that the records do not tell
    /// when commits happened.
    pub(crate) fn end(&mut self, batch: &mut WriteSet) {
        if self.entries.is_empty() {
            return;
        }
        let ((first, number), (last, _)) = (self.first, self.last);
        batch.put_with(
            |out| out.extend_from_slice(&layout::changes_key(first, number)),
            |out| {
                put_varint(out, last.0 - first.0);
                out.extend_from_slice(&self.entries);
            },
        );
        self.entries.clear();
        self.entries.shrink_to(2 * RECORD_BYTES);
    }
}

/// The last revision of a record of changes; none if it is damaged.
pub(crate) fn last_revision(first: Revision, record: &[u8]) -> Option<Revision> {
    first.0.checked_add(Reader::new(record).varint()?).map(Revision)
}

/// A place in the order of all changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChangePoint {
    /// The revision.
    pub revision: Revision,
    /// As the how-manieth of its revision, from 0.
    pub number: u32,
}

impl ChangePoint {
    /// The first change of a revision.
    #[must_use]
    pub fn at(revision: Revision) -> Self {
        ChangePoint { revision, number: 0 }
    }
}

/// A question for changes, answered page by page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeQuery {
    /// The first change.
    pub from: ChangePoint,
    /// The last revision; none for the newest.
    pub to: Option<Revision>,
    /// The lowest key.
    pub start: Bytes,
    /// The first key beyond the range; none for "to the end".
    pub end: Option<Bytes>,
    /// Bring the records that were replaced or removed.
    pub want_previous: bool,
    /// About so many bytes of keys and values a page.
    pub bytes_max: usize,
    /// Look at no more than about so many changes a page, also those of other keys. It
    /// bounds the time that a page takes.
    pub visits_max: usize,
}

impl ChangeQuery {
    /// Every change from a revision on.
    #[must_use]
    pub fn since(revision: Revision) -> Self {
        ChangeQuery {
            from: ChangePoint::at(revision),
            to: None,
            start: Bytes::new(),
            end: None,
            want_previous: false,
            bytes_max: 4 << 20,
            visits_max: 50_000,
        }
    }

    /// Only of keys of this range.
    #[must_use]
    pub fn of_keys(self, start: Bytes, end: Option<Bytes>) -> Self {
        ChangeQuery { start, end, ..self }
    }

    pub(crate) fn asks_for(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }
}

/// What happened to a key at a revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The revision.
    pub revision: Revision,
    /// The key.
    pub key: Bytes,
    /// Its record from then on; none if it was removed.
    pub record: Option<KeyRecord>,
    /// Its record before, if that was asked for and there was one.
    pub previous: Option<KeyRecord>,
}

/// Changes in the order in which they happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangePage {
    /// The changes. Those of one revision are on one page, unless they alone are more than
    /// a page.
    pub changes: Vec<Change>,
    /// Where the next page begins. If its number is not 0, the last revision of this page
    /// goes on there; else it is complete.
    pub next: ChangePoint,
    /// The revision of the committed data.
    pub revision: Revision,
}

/// A page of changes, all of one state of the map.
///
/// # Errors
/// When the first revision is compacted or more than one above the newest, and when the
/// map cannot be read or is damaged.
pub fn changes(map: &impl OrderedMap, query: &ChangeQuery) -> Result<ChangePage, ReadError> {
    changes_where(map, query, |_| true)
}

/// [`changes`], of those keys of the range that are wanted. What became of the others is not
/// looked up.
///
/// # Errors
/// As of [`changes`].
pub fn changes_where(
    map: &impl OrderedMap,
    query: &ChangeQuery,
    wants: impl Fn(&[u8]) -> bool,
) -> Result<ChangePage, ReadError> {
    let mut cursor = map.cursor(APPLIED_KEY, layout::CHANGES_END)?;
    let state = state_at(&mut cursor)?;
    let (current, from) = (state.revision, query.from.revision);
    if from <= state.compacted {
        return Err(ReadError::Compacted { oldest: Revision(state.compacted.0.saturating_add(1)) });
    }
    if from.0 > current.0.saturating_add(1) {
        return Err(ReadError::Future { current });
    }
    let to = query.to.map_or(current, |to| to.min(current));
    let page = ChangePage { changes: Vec::new(), next: query.from, revision: current };
    let whole = (0, query.from);
    let mut pager = Pager { cursor, query, wants, to, page, bytes: 0, visits: 0, whole, at: from };
    if from <= to {
        pager.fill()?;
    }
    Ok(pager.page)
}

/// Fills a page.
struct Pager<'q, C, W> {
    cursor: C,
    query: &'q ChangeQuery,
    wants: W,
    to: Revision,
    page: ChangePage,
    bytes: usize,
    visits: usize,
    /// How many changes the page had when its last revision began, and where that was.
    whole: (usize, ChangePoint),
    /// The revision that is being looked at.
    at: Revision,
}

impl<C: Cursor, W: Fn(&[u8]) -> bool> Pager<'_, C, W> {
    fn fill(&mut self) -> Result<(), MapError> {
        let from = self.query.from;
        let mut place = layout::changes_key(from.revision, from.number).to_vec();
        // The record that begins at or before the first change has it.
        place.push(0);
        self.cursor.seek_before(&place)?;
        let mut expected = from;
        let mut is_last = false;
        loop {
            let here = self.cursor.entry().and_then(changes_entry);
            // The last revision may go on in further records.
            if is_last && here.is_none_or(|(first, _)| first.revision > self.to) {
                self.page.next = ChangePoint::at(Revision(self.to.0.saturating_add(1)));
                return Ok(());
            }
            let (first, record) = here.filter(|(f, _)| *f <= expected).ok_or_else(damaged)?;
            // The cursor leaves the record to look at those of its keys.
            let record = Bytes::copy_from_slice(record);
            let mut entries = Entries::new(first, &record).ok_or_else(damaged)?;
            while let Some(entry) = entries.next()? {
                if entry.point >= from && self.visit(entry)? {
                    return Ok(());
                }
            }
            is_last = entries.last >= self.to;
            expected = ChangePoint::at(Revision(entries.last.0.saturating_add(1)));
            self.seek_behind(&mut place, first)?;
        }
    }

    fn seek_behind(&mut self, place: &mut Vec<u8>, first: ChangePoint) -> Result<(), MapError> {
        place.clear();
        place.extend_from_slice(&layout::changes_key(first.revision, first.number));
        place.push(0);
        self.cursor.seek(place)
    }

    /// Takes a change to the page. Tells whether the page ends before it.
    fn visit(&mut self, entry: ChangeEntry<'_>) -> Result<bool, MapError> {
        let ChangeEntry { point, is_put, key } = entry;
        if point.revision != self.at {
            self.at = point.revision;
            self.whole = (self.page.changes.len(), point);
            let is_full = self.bytes >= self.query.bytes_max.max(1)
                || self.visits >= self.query.visits_max.max(1);
            if is_full || point.revision > self.to {
                self.page.next = point;
                return Ok(true);
            }
        }
        self.visits += 1;
        if !self.query.asks_for(key) || !(self.wants)(key) {
            return Ok(false);
        }
        let change = self.read(point.revision, key, is_put)?;
        let value_bytes = |record: &Option<KeyRecord>| record.as_ref().map_or(0, |r| r.value.len());
        self.bytes += key.len() + value_bytes(&change.record) + value_bytes(&change.previous);
        if self.bytes > self.query.bytes_max && !self.page.changes.is_empty() {
            let (length, begin) = self.whole;
            let is_alone = length == 0;
            self.page.next = if is_alone { point } else { begin };
            if !is_alone {
                self.page.changes.truncate(length);
            }
            return Ok(true);
        }
        self.page.changes.push(change);
        Ok(false)
    }

    /// Looks up what became of a key.
    fn read(&mut self, revision: Revision, key: &[u8], is_put: bool) -> Result<Change, MapError> {
        let mut place = Vec::with_capacity(key.len() + 16);
        layout::write_key_prefix(&mut place, key);
        let prefix_bytes = place.len();
        layout::write_revision(&mut place, revision);
        self.cursor.seek(&place)?;
        let here = self.cursor.entry().filter(|(here, _)| *here == place);
        let (_, value) = here.ok_or_else(damaged)?;
        let record = record::read(value, revision)?.map(|stored| stored.to_record());
        if record.is_some() != is_put {
            return Err(damaged());
        }
        let mut previous = None;
        if self.query.want_previous {
            self.cursor.next()?;
            if let Some((here, value)) = self.cursor.entry()
                && here.starts_with(&place[..prefix_bytes])
            {
                let before = layout::revision_after(here, prefix_bytes).ok_or_else(damaged)?;
                previous = record::read(value, before)?.map(|stored| stored.to_record());
            }
        }
        Ok(Change { revision, key: Bytes::copy_from_slice(key), record, previous })
    }
}

/// A record of changes and where it begins; none for an entry that is none.
fn changes_entry<'a>((place, record): (&'a [u8], &'a [u8])) -> Option<(ChangePoint, &'a [u8])> {
    let (revision, number) = layout::changes_of(place)?;
    Some((ChangePoint { revision, number }, record))
}

/// A change as it lies in a record.
#[derive(Clone, Copy)]
struct ChangeEntry<'a> {
    point: ChangePoint,
    is_put: bool,
    key: &'a [u8],
}

/// The changes of one record.
struct Entries<'a> {
    reader: Reader<'a>,
    /// Where the next change is, if it is of the same revision as the one before.
    point: ChangePoint,
    last: Revision,
}

impl<'a> Entries<'a> {
    fn new(first: ChangePoint, record: &'a [u8]) -> Option<Self> {
        let last = last_revision(first.revision, record)?;
        let mut reader = Reader::new(record);
        reader.varint()?;
        Some(Entries { reader, point: first, last })
    }

    /// The next change.
    fn next(&mut self) -> Result<Option<ChangeEntry<'a>>, MapError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        self.parse().ok_or_else(damaged).map(Some)
    }

    fn parse(&mut self) -> Option<ChangeEntry<'a>> {
        let head = self.reader.varint()?;
        let key = self.reader.bytes()?;
        if head >> 1 > 0 {
            let revision = self.point.revision.0.checked_add(head >> 1)?;
            self.point = ChangePoint::at(Revision(revision));
        }
        let point = self.point;
        self.point.number = point.number.checked_add(1)?;
        let entry = ChangeEntry { point, is_put: head & 1 == 1, key };
        (point.revision <= self.last).then_some(entry)
    }
}

fn damaged() -> MapError {
    MapError("the records of changes are damaged".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Command, KvOptions, MemoryMap, Operation, ServerId, StateMachine, Txn, TxnOperation,
        layout::Sweep,
    };

    const KEYS: u64 = 1000;

    fn key(number: u64) -> Bytes {
        Bytes::from(format!("{number:0100}"))
    }

    fn command(sequence: u64, operation: Operation) -> (ServerId, Command) {
        let id = ServerId { origin: 1, incarnation: 1, sequence };
        (id, Command { idempotency: None, operation })
    }

    /// A slot with a small revision, one of a thousand keys, and another small one.
    fn machine() -> StateMachine<MemoryMap> {
        let put = |number| TxnOperation::Put {
            key: key(number),
            value: Bytes::from_static(b"v"),
            lease: None,
            want_previous: false,
        };
        let txn = |success| Operation::Txn(Txn { success, ..Txn::default() });
        let commands = [
            command(1, txn(vec![put(0)])),
            command(2, txn((0..KEYS).map(put).collect())),
            command(3, txn(vec![put(5)])),
        ];
        let mut machine = StateMachine::open(MemoryMap::new(), KvOptions::default()).unwrap();
        machine.apply(1, 1, &commands).unwrap();
        machine.commit().unwrap();
        machine
    }

    fn records(map: &MemoryMap) -> usize {
        map.iter().filter(|(place, _)| layout::changes_of(place).is_some()).count()
    }

    #[test]
    fn a_revision_larger_than_a_record_or_a_page_is_parted() {
        let machine = machine();
        let map = machine.map();
        assert_eq!(records(map), 4, "about 32 KiB each");
        for bytes_max in [1, 1000, 20_000, 90_000, 200_000] {
            let mut query = ChangeQuery { bytes_max, ..ChangeQuery::since(Revision(1)) };
            let mut told = Vec::new();
            while query.from.revision <= Revision(3) {
                let page = changes(map, &query).unwrap();
                assert!(page.next > query.from);
                let is_parted = page.next.number != 0;
                assert!(!is_parted || (bytes_max < 102_000 && page.next.revision == Revision(2)));
                told.extend(page.changes.into_iter().map(|change| (change.revision.0, change.key)));
                query.from = page.next;
            }
            let large = (0..KEYS).map(|number| (2, key(number)));
            let expected = [(1, key(0))].into_iter().chain(large).chain([(3, key(5))]);
            assert!(told.into_iter().eq(expected), "pages of {bytes_max}");
        }
    }

    #[test]
    fn a_record_goes_when_all_of_it_is_compacted_and_a_missing_one_is_damage() {
        let machine = machine();
        for (compacted, left) in [(0, 4), (1, 4), (2, 1), (3, 0)] {
            let mut map = machine.map().clone();
            let mut sweep = Sweep::new(true, Revision(compacted));
            map.retain(|place, value| !sweep.drops(place, value));
            assert_eq!(records(&map), left, "compacted to {compacted}");
        }
        let mut map = machine.map().clone();
        let first = layout::changes_key(Revision(1), 0);
        map.retain(|place, _| place != first);
        let since = |revision| changes(&map, &ChangeQuery::since(Revision(revision)));
        assert_eq!(since(1), Err(ReadError::Map(damaged())));
        assert_eq!(since(3).unwrap().changes.len(), 1);
    }
}
