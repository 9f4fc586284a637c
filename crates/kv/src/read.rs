//! Reading what was committed. Nothing here writes, so any thread may do it
//! while another one applies.

use bytes::Bytes;

use crate::layout;
use crate::map::{Cursor, MapError, OrderedMap};
use crate::record::{self, Stored};
use crate::{APPLIED_KEY, KeyRecord, Revision, State};

/// A question for the keys of a range, answered page by page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListQuery {
    /// The lowest key.
    pub start: Bytes,
    /// The first key beyond the range; none for "to the end".
    pub end: Option<Bytes>,
    /// At most so many keys a page.
    pub limit: usize,
    /// Highest key first.
    pub reverse: bool,
    /// Leave the values out.
    pub keys_only: bool,
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

/// What is known of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Look {
    /// Its record; none when it does not exist.
    pub record: Option<KeyRecord>,
    /// At this revision of the store the key was so. Whoever knows it needs only
    /// the changes after it.
    pub revision: Revision,
}

/// The newest record of a key, and a revision at which it was the newest.
/// `reached` is a revision that the map had already before this call.
///
/// # Errors
/// When the map cannot be read or a record is damaged.
pub fn look(map: &impl OrderedMap, key: &[u8], reached: Revision) -> Result<Look, MapError> {
    if let Some(record) = get(map, key)? {
        // The state that was looked at is at `reached` or beyond, and in it nothing
        // happened to the key since `mod_revision`.
        let revision = reached.max(record.mod_revision);
        return Ok(Look { record: Some(record), revision });
    }
    // A key that is missing does not tell since when. If nothing at all changed
    // meanwhile, that need not be known.
    if revision(map)? == reached {
        return Ok(Look { record: None, revision: reached });
    }
    let (prefix, to) = layout::key_range(key);
    let mut cursor = map.cursor(APPLIED_KEY, &to)?;
    let revision = revision_at(&mut cursor)?;
    let record = newest_at(&mut cursor, &prefix, |stored| stored.to_record())?;
    Ok(Look { record, revision })
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
    let mut page = Page::default();
    if query.end.as_ref().is_some_and(|end| *end <= query.start) {
        page.revision = revision(map)?;
        return Ok(page);
    }
    let mut walk = Walk::open(map, &query.start, query.end.as_deref(), query.reverse)?;
    page.revision = walk.revision()?;
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
        let Some(stored) = stored else {
            continue;
        };
        let key = found.key();
        let value_bytes = if query.keys_only { 0 } else { stored.value.len() };
        page_bytes += key.len() + value_bytes;
        let is_full = page.entries.len() >= query.limit
            || (page_bytes > query.bytes_max && !page.entries.is_empty());
        if is_full {
            page.next = Some(resume_at(key, query.reverse));
            return Ok(page);
        }
        page.count += 1;
        let record = match query.keys_only {
            true => stored.metadata.with_value(Bytes::new()),
            false => stored.to_record(),
        };
        page.entries.push(Entry { key: Bytes::from(key), record });
    }
}

/// Counts the keys of a range, a part at a time and all in the same state of the
/// map, which is held for as long.
pub struct Counter<C> {
    /// None when the range is through.
    walk: Option<Walk<C>>,
    /// What was counted so far.
    page: Page,
}

impl<C: Cursor> Counter<C> {
    /// A count of the keys that the query asks for, whatever its limits.
    ///
    /// # Errors
    /// When the map cannot be read or its state is damaged.
    pub fn new<'m, M>(map: &'m M, query: &ListQuery) -> Result<Self, MapError>
    where
        M: OrderedMap<Cursor<'m> = C>,
    {
        if query.end.as_ref().is_some_and(|end| *end <= query.start) {
            let page = Page { revision: revision(map)?, ..Page::default() };
            return Ok(Counter { walk: None, page });
        }
        let mut walk = Walk::open(map, &query.start, query.end.as_deref(), query.reverse)?;
        let next = if query.reverse { query.end.clone() } else { Some(query.start.clone()) };
        let page = Page { revision: walk.revision()?, next, ..Page::default() };
        Ok(Counter { walk: Some(walk), page })
    }

    /// Goes on over about so many records. Tells whether the range is through.
    ///
    /// # Errors
    /// When the map cannot be read or a record is damaged.
    pub fn go_on(&mut self, visits_max: usize) -> Result<bool, MapError> {
        let Some(walk) = &mut self.walk else {
            return Ok(true);
        };
        let visits_end = walk.visits + visits_max.max(1);
        while walk.visits < visits_end {
            let Some(found) = walk.step()? else {
                self.walk = None;
                self.page.next = None;
                return Ok(true);
            };
            self.page.count += u64::from(found.record()?.is_some());
        }
        // The first bound of what is left, without the key that was counted last.
        self.page.next = Some(resume_at(walk.key(), !walk.reverse));
        Ok(false)
    }

    /// The count so far. Where the rest begins is told by `next`.
    pub fn page(&self) -> &Page {
        &self.page
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
        newest_at(cursor, &self.prefix, visit)
    }
}

fn newest_at<T>(
    cursor: &mut impl Cursor,
    prefix: &[u8],
    visit: impl FnOnce(&Stored<'_>) -> T,
) -> Result<Option<T>, MapError> {
    cursor.seek(prefix)?;
    let Some((place, value)) = cursor.entry().filter(|(place, _)| place.starts_with(prefix)) else {
        return Ok(None);
    };
    let revision = layout::revision_after(place, prefix.len()).ok_or_else(damaged_place)?;
    Ok(record::read(value, revision)?.as_ref().map(visit))
}

/// The revision of the state that the cursor is in, if its range has the state's
/// record. A revision that is read beside a cursor may be of another state.
fn revision_at(cursor: &mut impl Cursor) -> Result<Revision, MapError> {
    cursor.seek(APPLIED_KEY)?;
    match cursor.entry() {
        Some((place, record)) if place == APPLIED_KEY => Ok(State::decode(record)?.revision),
        _ => Ok(Revision::default()),
    }
}

/// Moves over the newest record of each key, removed ones included.
pub(crate) struct Walk<C> {
    cursor: C,
    /// The bounds of the keys. The cursor's own range begins lower.
    from: Vec<u8>,
    to: Vec<u8>,
    reverse: bool,
    /// The prefix of the key that the cursor is at; empty before the first.
    prefix: Vec<u8>,
    /// How many moves of the cursor it took.
    pub(crate) visits: usize,
}

/// The newest record of a key.
pub(crate) struct Found<'a> {
    prefix: &'a [u8],
    revision: Revision,
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
        let cursor = map.cursor(APPLIED_KEY, &to)?;
        Ok(Walk { cursor, from, to, reverse, prefix: Vec::new(), visits: 0 })
    }

    /// The revision of the state that is walked over. Only before the first step.
    fn revision(&mut self) -> Result<Revision, MapError> {
        assert!(self.prefix.is_empty(), "the walk would lose its place");
        revision_at(&mut self.cursor)
    }

    /// The key of the last step.
    fn key(&self) -> Vec<u8> {
        layout::key_of_prefix(&self.prefix)
    }

    /// The next key; none when the range is through.
    pub(crate) fn step(&mut self) -> Result<Option<Found<'_>>, MapError> {
        if self.reverse {
            self.move_down()?
        } else {
            self.move_up()?
        }
        let Some((place, value)) = inside(&self.cursor, &self.from) else {
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
            self.cursor.seek(&self.from)?;
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
            self.cursor.seek_before(&self.to)?;
        } else {
            self.cursor.prev()?;
        }
        self.enter()?;
        if inside(&self.cursor, &self.from).is_some() {
            self.cursor.seek(&self.prefix)?;
        }
        Ok(())
    }

    /// Takes note of the key that the cursor is at. Tells whether it is another
    /// one than before, or none.
    fn enter(&mut self) -> Result<bool, MapError> {
        let Some((place, _)) = inside(&self.cursor, &self.from) else {
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

/// The entry here, unless the cursor has left the keys downwards.
fn inside<'a>(cursor: &'a impl Cursor, from: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    cursor.entry().filter(|(place, _)| *place >= from)
}

fn damaged_place() -> MapError {
    MapError("a key of the map is damaged".to_owned())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{
        Command, Condition, KvOptions, MemoryCursor, MemoryMap, Operation, ServerId, StateMachine,
        WriteSet, layout::Sweep,
    };

    /// A map that is written and compacted between the calls of a reader: each of
    /// them finds the next of these states.
    struct Moving<'a> {
        states: [&'a MemoryMap; 3],
        calls: Cell<usize>,
    }

    impl Moving<'_> {
        fn now(&self) -> &MemoryMap {
            let call = self.calls.replace(self.calls.get() + 1);
            self.states[call.min(2)]
        }
    }

    impl OrderedMap for Moving<'_> {
        type Cursor<'c>
            = MemoryCursor<'c>
        where
            Self: 'c;

        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MapError> {
            self.now().get(key)
        }

        fn cursor(&self, from: &[u8], to: &[u8]) -> Result<MemoryCursor<'_>, MapError> {
            self.now().cursor(from, to)
        }

        fn write(&mut self, _: &WriteSet) -> Result<(), MapError> {
            unreachable!("readers do not write")
        }
    }

    /// Calls `visit` with the revision that a reader begins with and every way in
    /// which the map can move on while it reads.
    fn each_way(mut visit: impl FnMut(Revision, &Moving<'_>)) {
        let states = states();
        for first in 0..4 {
            for second in first..4 {
                for third in second..4 {
                    let path = [&states[first], &states[second], &states[third]];
                    visit(Revision(first as u64), &Moving { states: path, calls: Cell::new(0) });
                }
            }
        }
    }

    fn keys_at(revision: Revision) -> &'static [&'static [u8]] {
        match revision.0 {
            0 => &[],
            1 => &[b"a"],
            2 => &[b"a", b"b"],
            _ => &[b"b"],
        }
    }

    /// The states of a map: empty, then with `a`, then with `b` as well, then
    /// without `a`, of which a compaction left no trace.
    fn states() -> [MemoryMap; 4] {
        let mut machine = StateMachine::open(MemoryMap::new(), KvOptions::default()).unwrap();
        let mut states = vec![machine.map().clone()];
        for (sequence, key) in [(1, "a"), (2, "b"), (3, "a")] {
            let (key, condition) = (Bytes::from(key), Condition::Always);
            let operation = if sequence < 3 {
                Operation::Put { key, value: Bytes::new(), condition, want_previous: false }
            } else {
                Operation::Delete { key, condition, want_previous: false }
            };
            let id = ServerId { origin: 1, incarnation: 1, sequence };
            machine.apply(sequence, 0, &[(id, Command { idempotency: None, operation })]).unwrap();
            machine.commit().unwrap();
            let mut map = machine.map().clone();
            let mut sweep = Sweep::new(true);
            map.retain(|place, value| !sweep.drops(place, value));
            states.push(map);
        }
        states.try_into().unwrap()
    }

    #[test]
    fn a_page_and_its_revision_are_of_one_state() {
        for reverse in [false, true] {
            each_way(|reached, map| {
                let query = ListQuery { reverse, ..ListQuery::prefix(b"") };
                let mut page = list(map, &query).unwrap();
                if reverse {
                    page.entries.reverse();
                }
                let keys: Vec<_> = page.entries.iter().map(|entry| &entry.key[..]).collect();
                assert_eq!(keys, keys_at(page.revision), "{}", page.revision);
                assert!(page.revision >= reached);
            });
        }
    }

    #[test]
    fn a_count_is_of_one_state_however_many_parts_it_takes() {
        for reverse in [false, true] {
            each_way(|_, map| {
                let query = ListQuery { reverse, ..ListQuery::prefix(b"") };
                let mut counter = Counter::new(map, &query).unwrap();
                while !counter.go_on(1).unwrap() {}
                let page = counter.page();
                assert_eq!(page.count, keys_at(page.revision).len() as u64);
            });
        }
    }

    #[test]
    fn a_look_names_a_revision_at_which_the_key_was_so() {
        for key in [b"a", b"b", b"c"] {
            each_way(|reached, map| {
                let look = look(map, key, reached).unwrap();
                let exists = keys_at(look.revision).contains(&key.as_slice());
                assert_eq!(look.record.is_some(), exists, "{look:?}");
                let change = look.record.map_or(reached, |record| record.mod_revision);
                assert!(look.revision >= change.max(reached));
            });
        }
    }
}
