//! The ordered byte map under the state machine.

use bytes::Bytes;

use crate::{Revision, State, WriteSet};

/// The map failed, which stops the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapError(pub String);

impl std::fmt::Display for MapError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MapError {}

/// An ordered map from bytes to bytes: RocksDB in production, a `BTreeMap` in
/// the simulation.
pub trait OrderedMap {
    /// See [`Cursor`].
    type Cursor<'a>: Cursor
    where
        Self: 'a;

    /// The value of `key`.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MapError>;

    /// Moves over the entries of `from..to` as they are now, whatever is written
    /// meanwhile. It starts nowhere: seek first.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn cursor(&self, from: &[u8], to: &[u8]) -> Result<Self::Cursor<'_>, MapError>;

    /// A cursor for one key after the other: sought at a key's prefix (see
    /// [`crate::layout`]), it finds the first entry with this prefix. When there
    /// is none it is at an entry with another prefix, or at none. It only seeks.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn key_cursor(&self) -> Result<Self::Cursor<'_>, MapError> {
        self.cursor(&[], &[0xff])
    }

    /// Of keys that were removed up to this revision the map may have dropped the last trace,
    /// in whatever was read from it before this call. By itself it takes a lookup; a map that
    /// knows what it dropped takes none.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn swept_upto(&self) -> Result<Revision, MapError>
    where
        Self: Sized,
    {
        Ok(State::load(self)?.compacted)
    }

    /// Makes all changes in their order, or none.
    ///
    /// # Errors
    /// When the map cannot be written; the node must stop.
    fn write(&mut self, batch: &WriteSet) -> Result<(), MapError>;
}

/// A place in one state of a map, which later writes do not change.
pub trait Cursor {
    /// Goes to the lowest entry at or above `key`.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn seek(&mut self, key: &[u8]) -> Result<(), MapError>;

    /// Goes to the highest entry below `key`.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn seek_before(&mut self, key: &[u8]) -> Result<(), MapError>;

    /// Goes to the entry above. Only from an entry.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn next(&mut self) -> Result<(), MapError>;

    /// Goes to the entry below. Only from an entry.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn prev(&mut self) -> Result<(), MapError>;

    /// Key and value here; none when the last move left the range.
    fn entry(&self) -> Option<(&[u8], &[u8])>;
}
