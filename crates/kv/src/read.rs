//! Reading what was committed. Nothing here writes, so any thread may do it
//! while another one applies.

use bytes::Bytes;

use crate::layout;
use crate::map::{Cursor, MapError, OrderedMap};
use crate::record::{self, Stored};
use crate::{KeyRecord, Revision, State};

/// A question for the keys of a range, answered page by page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListQuery {
    /// The lowest key.
    pub start: Bytes,
    /// The first key beyond the range; none for "to the end".
    pub end: Option<Bytes>,
    /// At most so many keys a page. A page that only counts is not bound by it.
    pub limit: usize,
    /// Highest key first.
    pub reverse: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// At most so many bytes of keys and values a page; a page has at least one
    /// key even if that one is longer.
    pub bytes_max: usize,
    /// Look at no more than about so many records a page, also those that are
    /// removed or replaced. It bounds the time that a page takes.
    pub visits_max: usize,
}

impl ListQuery {
    /// Everything from `start` up to, not including, `end`.
    #[must_use]
    pub fn range(start: Bytes, end: Option<Bytes>) -> Self {
        ListQuery {
            start,
            end,
            limit: 1000,
            reverse: false,
            keys_only: false,
            count_only: false,
            bytes_max: 4 << 20,
            visits_max: 50_000,
        }
    }

    /// Every key that begins with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        let end = layout::prefix_end(prefix).map(Bytes::from);
        ListQuery::range(Bytes::copy_from_slice(prefix), end)
    }
}

/// A key of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its newest record; the value is empty if it was not asked for.
    pub record: KeyRecord,
}

/// The keys of a range, or the first of them, as they were at one revision.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Page {
    /// The keys in the order asked for.
    pub entries: Vec<Entry>,
    /// How many keys this page has or, if it only counts, counted.
    pub count: u64,
    /// Where the next page begins: its `start`, or in reverse its `end`. None
    /// when the range is through.
    pub next: Option<Bytes>,
    /// The page shows the range as it was at this revision.
    pub revision: Revision,
}

/// The newest record of a key; none when it does not exist.
///
/// # Errors
/// When the map cannot be read or the record is damaged.
pub fn get(map: &impl OrderedMap, key: &[u8]) -> Result<Option<KeyRecord>, MapError> {
    Finder::new(map).newest(key, |stored| stored.to_record())
}

/// Up to where the committed data goes.
///
/// # Errors
/// When the map cannot be read or the record is damaged.
pub fn applied_slot(map: &impl OrderedMap) -> Result<u64, MapError> {
    Ok(State::load(map)?.applied_slot)
}

/// The revision of the committed data.
///
/// # Errors
/// When the map cannot be read or the record is damaged.
pub fn revision(map: &impl OrderedMap) -> Result<Revision, MapError> {
    Ok(State::load(map)?.revision)
}

/// A page of existing keys.
///
/// # Errors
/// When the map cannot be read or a record is damaged.
pub fn list(map: &impl OrderedMap, query: &ListQuery) -> Result<Page, MapError> {
    // The walk sees one state of the map, which may be newer than this revision.
    // Then the page is as of the newest change seen in it, removals included:
    // between that one and the state of the walk nothing in it changed.
    let mut page = Page { revision: revision(map)?, ..Page::default() };
    if query.end.as_ref().is_some_and(|end| *end <= query.start) {
        return Ok(page);
    }
    let mut walk = Walk::open(map, &query.start, query.end.as_deref(), query.reverse)?;
    let mut page_bytes = 0;
    loop {
        let visits = walk.visits;
        let Some(found) = walk.step()? else {
            return Ok(page);
        };
        let stored = found.record()?;
        if visits >= query.visits_max.max(1) {
            page.next = Some(resume_at(found.key(), query.reverse));
            return Ok(page);
        }
        if let Some(stored) = stored {
            let key = found.key();
            let value_bytes = if query.keys_only { 0 } else { stored.value.len() };
            page_bytes += key.len() + value_bytes;
            let is_full = page.entries.len() >= query.limit
                || (page_bytes > query.bytes_max && !page.entries.is_empty());
            if is_full && !query.count_only {
                page.next = Some(resume_at(key, query.reverse));
                return Ok(page);
            }
            page.count += 1;
            if !query.count_only {
                let record = match query.keys_only {
                    true => stored.metadata.with_value(Bytes::new()),
                    false => stored.to_record(),
                };
                page.entries.push(Entry { key: Bytes::from(key), record });
            }
        }
        page.revision = page.revision.max(found.revision);
    }
}

/// The bound with which a page begins at `key`: the key itself, or in reverse the
/// least key above it.
fn resume_at(mut key: Vec<u8>, reverse: bool) -> Bytes {
    if reverse {
        key.push(0);
    }
    Bytes::from(key)
}

/// Finds the newest records of keys, all in the same state of the map. Looking for
/// many keys with one finder is cheaper than with one for each.
pub(crate) struct Finder<'m, M: OrderedMap> {
    pub(crate) map: &'m M,
    cursor: Option<M::Cursor<'m>>,
    prefix: Vec<u8>,
}

impl<'m, M: OrderedMap> Finder<'m, M> {
    pub(crate) fn new(map: &'m M) -> Self {
        Finder { map, cursor: None, prefix: Vec::new() }
    }

    /// What `visit` makes of the newest record of a key; none when the key does
    /// not exist.
    pub(crate) fn newest<T>(
        &mut self,
        key: &[u8],
        visit: impl FnOnce(&Stored<'_>) -> T,
    ) -> Result<Option<T>, MapError> {
        self.prefix.clear();
        layout::write_key_prefix(&mut self.prefix, key);
        let cursor = match &mut self.cursor {
            Some(cursor) => cursor,
            none => none.insert(self.map.key_cursor()?),
        };
        cursor.seek(&self.prefix)?;
        let Some((place, value)) =
            cursor.entry().filter(|(place, _)| place.starts_with(&self.prefix))
        else {
            return Ok(None);
        };
        let revision =
            layout::revision_after(place, self.prefix.len()).ok_or_else(damaged_place)?;
        Ok(record::read(value, revision)?.as_ref().map(visit))
    }
}

/// Moves over the newest record of each key, removed ones included.
pub(crate) struct Walk<C> {
    cursor: C,
    bound: Vec<u8>,
    reverse: bool,
    /// The prefix of the key that the cursor is at; empty before the first.
    prefix: Vec<u8>,
    /// How many moves of the cursor it took.
    pub(crate) visits: usize,
}

/// The newest record of a key.
pub(crate) struct Found<'a> {
    prefix: &'a [u8],
    pub(crate) revision: Revision,
    value: &'a [u8],
}

impl<'a> Found<'a> {
    pub(crate) fn key(&self) -> Vec<u8> {
        layout::key_of_prefix(self.prefix)
    }

    /// The record; none if the key was removed.
    pub(crate) fn record(&self) -> Result<Option<Stored<'a>>, MapError> {
        record::read(self.value, self.revision)
    }
}

/// So many replaced records are passed one by one before the walk seeks: a seek
/// costs about as much as a few moves.
const PASSED_BY_MOVES_MAX: usize = 4;

impl<C: Cursor> Walk<C> {
    /// A walk over the keys of `start..end`.
    pub(crate) fn open<'m, M: OrderedMap<Cursor<'m> = C>>(
        map: &'m M,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
    ) -> Result<Self, MapError> {
        let mut from = Vec::new();
        layout::write_bound(&mut from, start);
        let mut to = Vec::new();
        match end {
            Some(end) => layout::write_bound(&mut to, end),
            None => layout::write_end(&mut to),
        }
        let cursor = map.cursor(&from, &to)?;
        let bound = if reverse { to } else { from };
        Ok(Walk { cursor, bound, reverse, prefix: Vec::new(), visits: 0 })
    }

    /// The next key; none when the range is through.
    pub(crate) fn step(&mut self) -> Result<Option<Found<'_>>, MapError> {
        if self.reverse {
            self.move_down()?
        } else {
            self.move_up()?
        }
        let Some((place, value)) = self.cursor.entry() else {
            return Ok(None);
        };
        let revision =
            layout::revision_after(place, self.prefix.len()).ok_or_else(damaged_place)?;
        Ok(Some(Found { prefix: &self.prefix, revision, value }))
    }

    /// To the newest record of the key above.
    fn move_up(&mut self) -> Result<(), MapError> {
        self.visits += 1;
        if self.prefix.is_empty() {
            self.cursor.seek(&self.bound)?;
            return self.enter().map(drop);
        }
        for _ in 0..PASSED_BY_MOVES_MAX {
            self.cursor.next()?;
            if self.enter()? {
                return Ok(());
            }
            self.visits += 1;
        }
        let mut beyond = self.prefix.clone();
        layout::skip_key(&mut beyond);
        self.cursor.seek(&beyond)?;
        self.enter().map(drop)
    }

    /// To the newest record of the key below. It is the lowest of its records, so
    /// the walk comes to the oldest one first and seeks from there.
    fn move_down(&mut self) -> Result<(), MapError> {
        self.visits += 2;
        if self.prefix.is_empty() {
            self.cursor.seek_before(&self.bound)?;
        } else {
            self.cursor.prev()?;
        }
        self.enter()?;
        if self.cursor.entry().is_some() {
            self.cursor.seek(&self.prefix)?;
        }
        Ok(())
    }

    /// Takes note of the key that the cursor is at. Tells whether it is another
    /// one than before, or none.
    fn enter(&mut self) -> Result<bool, MapError> {
        let Some((place, _)) = self.cursor.entry() else {
            return Ok(true);
        };
        let prefix = layout::key_prefix(place).ok_or_else(damaged_place)?;
        if prefix == self.prefix {
            return Ok(false);
        }
        self.prefix.clear();
        self.prefix.extend_from_slice(prefix);
        Ok(true)
    }
}

fn damaged_place() -> MapError {
    MapError("a key of the map is damaged".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        APPLIED_KEY, Command, Condition, KvOptions, MemoryMap, Operation, ServerId, StateMachine,
        WriteSet,
    };

    #[test]
    fn a_page_is_as_of_the_newest_change_in_it() {
        let mut machine = StateMachine::open(MemoryMap::new(), KvOptions::default()).unwrap();
        let mut states = Vec::new();
        for sequence in 1..=3 {
            let key = Bytes::from(vec![b'0' + u8::try_from(sequence % 2).unwrap()]);
            let condition = Condition::Always;
            let operation = if sequence < 3 {
                Operation::Put { key, value: Bytes::new(), condition, want_previous: false }
            } else {
                Operation::Delete { key, condition, want_previous: false }
            };
            let id = ServerId { origin: 1, incarnation: 1, sequence };
            machine.apply(sequence, 0, &[(id, Command { idempotency: None, operation })]).unwrap();
            machine.commit().unwrap();
            states.push(machine.map().get(APPLIED_KEY).unwrap().unwrap());
        }
        // Commits may happen between reading the state and looking at the keys.
        let mut map = machine.map().clone();
        for state in &states {
            let mut batch = WriteSet::new();
            batch.put(APPLIED_KEY, state);
            map.write(&batch).unwrap();
            let page = list(&map, &ListQuery::prefix(b"")).unwrap();
            assert_eq!((page.count, page.revision), (1, Revision(3)));
        }
    }
}
