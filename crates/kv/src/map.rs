//! The ordered byte map under the state machine.

use bytes::Bytes;

/// The map failed, which stops the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapError(pub String);

impl std::fmt::Display for MapError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MapError {}

/// One change of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// Insert or replace.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Remove.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
}

/// An ordered map from bytes to bytes: RocksDB in production, a `BTreeMap` in
/// the simulation.
pub trait OrderedMap {
    /// The value of `key`.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MapError>;

    /// Visits the entries of `from..to` in key order (backwards with `reverse`)
    /// until `visit` says false.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), MapError>;

    /// Makes all changes, or none.
    ///
    /// # Errors
    /// When the map cannot be written; the node must stop.
    fn write(&mut self, batch: Vec<Write>) -> Result<(), MapError>;
}
