//! Moving over the records of keys, each at its newest or at one older revision.

use crate::layout;
use crate::map::{Cursor, MapError, OrderedMap};
use crate::record::{self, Stored};
use crate::{APPLIED_KEY, KeyRecord, Revision, State};

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
        first_at(cursor, &self.prefix, &self.prefix, visit)
    }
}

/// What the map has of a key.
pub(crate) enum Newest {
    /// It exists.
    Record(KeyRecord),
    /// It was removed at this revision.
    Removed(Revision),
    /// Nothing.
    Nothing,
}

/// What the map has of the key with this prefix, in one lookup.
pub(crate) fn newest_of(map: &impl OrderedMap, prefix: &[u8]) -> Result<Newest, MapError> {
    let mut cursor = map.key_cursor()?;
    cursor.seek(prefix)?;
    let Some((place, value)) = cursor.entry().filter(|(place, _)| place.starts_with(prefix)) else {
        return Ok(Newest::Nothing);
    };
    let revision = layout::revision_after(place, prefix.len()).ok_or_else(damaged_place)?;
    let stored = record::read(value, revision)?;
    Ok(stored.map_or(Newest::Removed(revision), |stored| Newest::Record(stored.to_record())))
}

/// What `visit` makes of the first record at or above `place`, if it has the prefix.
pub(crate) fn first_at<T>(
    cursor: &mut impl Cursor,
    prefix: &[u8],
    place: &[u8],
    visit: impl FnOnce(&Stored<'_>) -> T,
) -> Result<Option<T>, MapError> {
    cursor.seek(place)?;
    let Some((place, value)) = cursor.entry().filter(|(place, _)| place.starts_with(prefix)) else {
        return Ok(None);
    };
    let revision = layout::revision_after(place, prefix.len()).ok_or_else(damaged_place)?;
    Ok(record::read(value, revision)?.as_ref().map(visit))
}

/// The state that the cursor is in, if its range has the state's record. A state that is
/// read beside a cursor may be another one.
pub(crate) fn state_at(cursor: &mut impl Cursor) -> Result<State, MapError> {
    cursor.seek(APPLIED_KEY)?;
    match cursor.entry() {
        Some((place, record)) if place == APPLIED_KEY => State::decode(record),
        _ => Ok(State::default()),
    }
}

/// Moves over the keys of a range. Of each it shows the newest record or, if it is asked
/// for an older revision, the newest one up to there.
pub(crate) struct Walk<C> {
    cursor: C,
    /// The bounds of the keys. The cursor's own range begins lower.
    from: Vec<u8>,
    to: Vec<u8>,
    pub(crate) reverse: bool,
    /// The revision whose records are shown; none for the newest.
    at: Option<Revision>,
    /// The prefix of the key that the cursor is at; empty before the first.
    prefix: Vec<u8>,
    /// Where the key's record of the revision lies or would lie.
    place: Vec<u8>,
    /// Looking for that place took the cursor away from the key's newest record.
    has_moved: bool,
    /// There was none, so the cursor is beyond the key.
    has_left: bool,
    /// How many moves of the cursor it took.
    pub(crate) visits: usize,
}

/// A key of a walk.
pub(crate) struct Found<'a> {
    prefix: &'a [u8],
    /// None if the key had no record yet.
    stored: Option<(Revision, &'a [u8])>,
}

impl<'a> Found<'a> {
    pub(crate) fn key(&self) -> Vec<u8> {
        layout::key_of_prefix(self.prefix)
    }

    /// The revision of its record; none if the key had no record yet.
    pub(crate) fn revision(&self) -> Option<Revision> {
        self.stored.map(|(revision, _)| revision)
    }

    /// The record; none if the key does not exist at the revision.
    pub(crate) fn record(&self) -> Result<Option<Stored<'a>>, MapError> {
        match self.stored {
            Some((revision, value)) => record::read(value, revision),
            None => Ok(None),
        }
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
        Ok(Walk {
            cursor,
            from,
            to,
            reverse,
            at: None,
            prefix: Vec::new(),
            place: Vec::new(),
            has_moved: false,
            has_left: false,
            visits: 0,
        })
    }

    /// The state that is walked over. Only before the first step.
    pub(crate) fn state(&mut self) -> Result<State, MapError> {
        assert!(self.prefix.is_empty(), "the walk would lose its place");
        state_at(&mut self.cursor)
    }

    /// From here on it shows the records of this revision. Only before the first step.
    pub(crate) fn show(&mut self, at: Revision) {
        assert!(self.prefix.is_empty(), "a walk is over one revision");
        self.at = Some(at);
    }

    /// The next step is to the first key from here on, which must not be before the last step's.
    /// Only for a walk upwards.
    pub(crate) fn skip_to(&mut self, key: &[u8]) {
        assert!(!self.reverse, "it would go back");
        self.from.clear();
        layout::write_bound(&mut self.from, key);
        self.prefix.clear();
    }

    /// The key of the last step.
    pub(crate) fn key(&self) -> Vec<u8> {
        layout::key_of_prefix(&self.prefix)
    }

    /// The next key that has any record; none when the range is through.
    pub(crate) fn step(&mut self) -> Result<Option<Found<'_>>, MapError> {
        if self.reverse {
            self.move_down()?
        } else {
            self.move_up()?
        }
        (self.has_moved, self.has_left) = (false, false);
        let Some(mut revision) = self.revision_here()? else {
            return Ok(None);
        };
        if let Some(at) = self.at
            && revision > at
        {
            self.visits += 1;
            self.place.clear();
            self.place.extend_from_slice(&self.prefix);
            layout::write_revision(&mut self.place, at);
            self.cursor.seek(&self.place)?;
            self.has_moved = true;
            let is_here = |(place, _): (&[u8], &[u8])| place.starts_with(&self.prefix);
            self.has_left = !self.cursor.entry().is_some_and(is_here);
            if self.has_left {
                return Ok(Some(Found { prefix: &self.prefix, stored: None }));
            }
            revision = self.revision_here()?.ok_or_else(damaged_place)?;
        }
        let stored = inside(&self.cursor, &self.from).map(|(_, value)| (revision, value));
        Ok(Some(Found { prefix: &self.prefix, stored }))
    }

    /// The revision of the record that the cursor is at; none outside the range.
    fn revision_here(&self) -> Result<Option<Revision>, MapError> {
        let Some((place, _)) = inside(&self.cursor, &self.from) else {
            return Ok(None);
        };
        layout::revision_after(place, self.prefix.len()).ok_or_else(damaged_place).map(Some)
    }

    /// To the newest record of the key above.
    fn move_up(&mut self) -> Result<(), MapError> {
        self.visits += 1;
        if self.prefix.is_empty() {
            self.cursor.seek(&self.from)?;
            return self.enter().map(drop);
        }
        if self.has_left {
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
        } else if self.has_moved {
            self.cursor.seek_before(&self.prefix)?;
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

pub(crate) fn damaged_place() -> MapError {
    MapError("a key of the map is damaged".to_owned())
}
