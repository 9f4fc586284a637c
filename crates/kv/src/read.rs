//! Reading what was committed. Nothing here writes, so any thread may do it
//! while another one applies.

use bytes::Bytes;

use crate::layout;
use crate::map::{Cursor, MapError, OrderedMap};
use crate::walk::{Finder, Newest, Walk, first_at, newest_of, state_at};
use crate::{APPLIED_KEY, KeyRecord, Revision, State};

pub use crate::change::{Change, ChangePage, ChangePoint, ChangeQuery, changes, changes_where};

/// Why nothing was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadError {
    /// The revision is not kept any more.
    Compacted {
        /// The oldest one that can be asked for.
        oldest: Revision,
    },
    /// The revision is not here yet.
    Future {
        /// The revision of the committed data.
        current: Revision,
    },
    /// The map failed, or a record is damaged.
    Map(MapError),
}

impl From<MapError> for ReadError {
    fn from(error: MapError) -> Self {
        ReadError::Map(error)
    }
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::Compacted { oldest } => {
                write!(f, "the revision is compacted: the oldest one is {oldest}")
            }
            ReadError::Future { current } => {
                write!(f, "there is no such revision yet: the newest one is {current}")
            }
            ReadError::Map(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReadError {}

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
    /// Its record; the value is empty if it was not asked for.
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
/// It is one lookup, whether the key exists or not, in a map that knows up to where it dropped
/// traces; but for a key without a trace while they are dropped beyond `reached`.
///
/// # Errors
/// When the map cannot be read or a record is damaged.
pub fn look(map: &impl OrderedMap, key: &[u8], reached: Revision) -> Result<Look, MapError> {
    let (prefix, to) = layout::key_range(key);
    // The state that is looked at is at `reached` or beyond, and in it nothing happened to the
    // key since its newest record.
    match newest_of(map, &prefix)? {
        Newest::Record(record) => {
            let revision = reached.max(record.mod_revision);
            return Ok(Look { record: Some(record), revision });
        }
        Newest::Removed(revision) => {
            return Ok(Look { record: None, revision: reached.max(revision) });
        }
        // Had it been there at `reached`, there would be a trace of its removal, unless that
        // is so late and was dropped so soon.
        Newest::Nothing if map.swept_upto()? <= reached => {
            return Ok(Look { record: None, revision: reached });
        }
        Newest::Nothing => {}
    }
    let mut cursor = map.cursor(APPLIED_KEY, &to)?;
    let revision = state_at(&mut cursor)?.revision;
    let record = first_at(&mut cursor, &prefix, &prefix, |stored| stored.to_record())?;
    Ok(Look { record, revision })
}

/// The record that a key had at a revision.
///
/// # Errors
/// When the revision is compacted or not here yet, and as of [`look`].
pub fn look_at(map: &impl OrderedMap, key: &[u8], at: Revision) -> Result<Look, ReadError> {
    let (prefix, to) = layout::key_range(key);
    let mut cursor = map.cursor(APPLIED_KEY, &to)?;
    check_revision(&state_at(&mut cursor)?, at)?;
    let mut place = prefix.clone();
    layout::write_revision(&mut place, at);
    let record = first_at(&mut cursor, &prefix, &place, |stored| stored.to_record())?;
    Ok(Look { record, revision: at })
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

/// The oldest revision that can be read.
///
/// # Errors
/// When the map cannot be read or the record is damaged.
pub fn oldest(map: &impl OrderedMap) -> Result<Revision, MapError> {
    Ok(State::load(map)?.compacted)
}

/// Whether the map can be read at a revision.
///
/// # Errors
/// When the revision is compacted or not here yet, or its state is damaged.
pub fn check_at(map: &impl OrderedMap, at: Revision) -> Result<(), ReadError> {
    check_revision(&State::load(map)?, at)
}

/// A page of existing keys.
///
/// # Errors
/// When the map cannot be read or a record is damaged.
pub fn list(map: &impl OrderedMap, query: &ListQuery) -> Result<Page, MapError> {
    always_there(list_at(map, query, None))
}

/// A page of the keys that existed at a revision; without one, of those that exist. The
/// pages after it are asked for at [`Page::revision`], and show the same state.
///
/// # Errors
/// When the revision is compacted or not here yet, and as of [`list`].
pub fn list_at(
    map: &impl OrderedMap,
    query: &ListQuery,
    at: Option<Revision>,
) -> Result<Page, ReadError> {
    let (walk, revision) = open(map, query, at)?;
    let mut page = Page { revision, ..Page::default() };
    let Some(mut walk) = walk else {
        return Ok(page);
    };
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
        always_there(Counter::new_at(map, query, None))
    }

    /// A count of the keys that existed at a revision; without one, of those that exist.
    ///
    /// # Errors
    /// When the revision is compacted or not here yet, and as of [`Counter::new`].
    pub fn new_at<'m, M>(
        map: &'m M,
        query: &ListQuery,
        at: Option<Revision>,
    ) -> Result<Self, ReadError>
    where
        M: OrderedMap<Cursor<'m> = C>,
    {
        let (walk, revision) = open(map, query, at)?;
        let begin = if query.reverse { query.end.clone() } else { Some(query.start.clone()) };
        let next = begin.filter(|_| walk.is_some());
        let page = Page { revision, next, ..Page::default() };
        Ok(Counter { walk, page })
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

/// A walk, none over no keys at all, and the revision that it shows.
type Opened<C> = (Option<Walk<C>>, Revision);

/// A walk over what the query asks for.
fn open<'m, M: OrderedMap>(
    map: &'m M,
    query: &ListQuery,
    at: Option<Revision>,
) -> Result<Opened<M::Cursor<'m>>, ReadError> {
    if query.end.as_ref().is_some_and(|end| *end <= query.start) {
        let state = State::load(map)?;
        let at = at.unwrap_or(state.revision);
        check_revision(&state, at)?;
        return Ok((None, at));
    }
    let mut walk = Walk::open(map, &query.start, query.end.as_deref(), query.reverse)?;
    let state = walk.state()?;
    let at = at.unwrap_or(state.revision);
    check_revision(&state, at)?;
    if at != state.revision {
        walk.show(at);
    }
    Ok((Some(walk), at))
}

/// Whether everything that existed at the revision can be read in this state.
fn check_revision(state: &State, at: Revision) -> Result<(), ReadError> {
    if at > state.revision {
        return Err(ReadError::Future { current: state.revision });
    }
    if at < state.compacted {
        return Err(ReadError::Compacted { oldest: state.compacted });
    }
    Ok(())
}

/// Reading the newest revision meets no other failures than those of the map.
fn always_there<T>(read: Result<T, ReadError>) -> Result<T, MapError> {
    read.map_err(|error| match error {
        ReadError::Map(error) => error,
        ReadError::Compacted { .. } | ReadError::Future { .. } => {
            unreachable!("the newest revision is always there")
        }
    })
}

/// The bound with which a page begins at `key`: the key itself, or in reverse the
/// least key above it.
fn resume_at(mut key: Vec<u8>, reverse: bool) -> Bytes {
    if reverse {
        key.push(0);
    }
    Bytes::from(key)
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

        /// Each of the states is swept as a whole.
        fn swept_upto(&self) -> Result<Revision, MapError> {
            revision(self.now())
        }

        fn write(&mut self, _: &WriteSet) -> Result<(), MapError> {
            unreachable!("readers do not write")
        }
    }

    /// A map that counts what it is asked for, and has dropped traces up to a revision.
    struct Counting {
        map: MemoryMap,
        swept_upto: Revision,
        lookups: Cell<usize>,
    }

    struct CountingCursor<'a> {
        cursor: MemoryCursor<'a>,
        lookups: &'a Cell<usize>,
    }

    impl OrderedMap for Counting {
        type Cursor<'c> = CountingCursor<'c>;

        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MapError> {
            self.lookups.set(self.lookups.get() + 1);
            self.map.get(key)
        }

        fn cursor(&self, from: &[u8], to: &[u8]) -> Result<CountingCursor<'_>, MapError> {
            Ok(CountingCursor { cursor: self.map.cursor(from, to)?, lookups: &self.lookups })
        }

        fn swept_upto(&self) -> Result<Revision, MapError> {
            Ok(self.swept_upto)
        }

        fn write(&mut self, _: &WriteSet) -> Result<(), MapError> {
            unreachable!("readers do not write")
        }
    }

    impl Cursor for CountingCursor<'_> {
        fn seek(&mut self, key: &[u8]) -> Result<(), MapError> {
            self.lookups.set(self.lookups.get() + 1);
            self.cursor.seek(key)
        }

        fn seek_before(&mut self, key: &[u8]) -> Result<(), MapError> {
            self.lookups.set(self.lookups.get() + 1);
            self.cursor.seek_before(key)
        }

        fn next(&mut self) -> Result<(), MapError> {
            self.lookups.set(self.lookups.get() + 1);
            self.cursor.next()
        }

        fn prev(&mut self) -> Result<(), MapError> {
            self.lookups.set(self.lookups.get() + 1);
            self.cursor.prev()
        }

        fn entry(&self) -> Option<(&[u8], &[u8])> {
            self.cursor.entry()
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
            let mut sweep = Sweep::new(true, Revision(sequence));
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

    /// Keys that exist, that were removed, and that never were; also while others write.
    #[test]
    fn a_point_read_is_one_lookup() {
        let mut machine = StateMachine::open(MemoryMap::new(), KvOptions::default()).unwrap();
        let put = |key: &'static str| Operation::Put {
            key: key.into(),
            value: "v".into(),
            condition: Condition::Always,
            want_previous: false,
        };
        let delete = Operation::Delete {
            key: "removed".into(),
            condition: Condition::Always,
            want_previous: false,
        };
        let operations = [put("here"), put("here"), put("removed"), delete, put("z")];
        for (sequence, operation) in (1..).zip(operations) {
            let id = ServerId { origin: 1, incarnation: 1, sequence };
            machine.apply(sequence, 0, &[(id, Command { idempotency: None, operation })]).unwrap();
            machine.commit().unwrap();
        }
        let (map, swept_upto) = (machine.map().clone(), Revision(2));
        let map = Counting { map, swept_upto, lookups: Cell::new(0) };
        let cases =
            [("here", true, 2), ("removed", false, 4), ("never", false, 0), ("zz", false, 0)];
        for reached in 2..=5 {
            for (key, exists, changed) in cases {
                let look = look(&map, key.as_bytes(), Revision(reached)).unwrap();
                assert_eq!(map.lookups.replace(0), 1, "{key} at {reached}");
                assert_eq!(look.record.is_some(), exists, "{key}");
                assert_eq!(look.revision, Revision(reached.max(changed)), "{key}");
            }
        }
        // A trace may have been dropped since the reader began, so it has to look closer.
        let look = look(&map, b"never", Revision(1)).unwrap();
        assert_eq!((look.record, look.revision), (None, Revision(5)));
        assert!(map.lookups.get() > 1);
    }
}
