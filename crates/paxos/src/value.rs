//! What a slot holds.

use alloc::sync::Arc;

use bytes::Bytes;

use crate::Configuration;

/// The value of one slot. The core never looks inside a batch.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Value {
    /// Fills a gap that a new leader found; changes nothing.
    Noop,
    /// Commands of clients, encoded by the host.
    Batch(Bytes),
    /// Changes who votes, from alpha slots further on.
    Configuration(Arc<Configuration>),
}

impl Value {
    /// Bytes that this value occupies in a message or record, roughly: enough
    /// for limits, not an encoding.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        const OVERHEAD_BYTES: usize = 64;
        match self {
            Value::Noop => OVERHEAD_BYTES,
            Value::Batch(bytes) => OVERHEAD_BYTES + bytes.len(),
            Value::Configuration(new) => {
                OVERHEAD_BYTES + 4 * new.members().len() + new.about().len()
            }
        }
    }
}
