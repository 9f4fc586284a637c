//! The ordered byte map of the state machine, on RocksDB.
