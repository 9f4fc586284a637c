//! How a whole state leaves a node as files, and comes to another.
//!
//! A [`Checkpoint`] is the state as of one slot in a folder of its own, which costs
//! hard links and little else. An [`Arrival`] is the folder that is being filled with
//! a copy of one. [`StateFolders`] makes it the state of this node.
//!
//! ```text
//! state                        the state of a node that never installed a snapshot
//! state-00000000000000004711   the state that was installed at slot 4711
//!     INSTALLED                only until the journal says that it starts there
//! state.new                    a snapshot on its way
//! checkpoint                   what is being sent to peers
//! backup                       what is being sent to a client
//! scrub                        what is being read to find damage
//! state.damaged[-<slot>]       a state whose place a peer's takes, until that is done
//! ```
//!
//! The state is the folder with the highest slot; one rename makes it so. So a crash
//! at any step leaves the old state or the new one, and the old one can be read until
//! its last reader is gone. Whatever else is there is removed at the next start.

mod arrival;
mod checkpoint;
mod copy;
mod error;
mod file;
mod folders;
#[cfg(test)]
mod tests;

pub use arrival::{Arrival, Verified};
pub use checkpoint::Checkpoint;
pub use copy::copy;
pub use error::SnapshotError;
pub use file::{FILES_MAX, SnapshotFile};
pub use folders::{Installed, Prepared, StateFolders};
