//! Every byte between nodes and on disk.

mod peer;

pub use peer::{Forward, PeerMessage};
