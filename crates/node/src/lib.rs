//! One running replica: threads, ticks, shutdown, metrics, settings.
//!
//! [`init`] makes a node's data folder, [`serve`] runs the node in it until a
//! signal, [`Node`] is what runs. The threads of a node and what they do:
//!
//! - *owner*: the host (consensus, order, waiting clients) and the peers' sockets;
//! - *journal*: groups of records, one sync each;
//! - *apply*: the state machine, one commit for all that waits, then the answers;
//! - *http*: the clients; reads go straight to the store;
//! - *snapshot*: files of states, from peers and to them;
//! - *upkeep*: what may wait and may block;
//! - *scrub*: reads everything on the disk now and then, to find damage.
//!
//! This crate never decides anything: what to persist, send, apply and answer comes
//! from the host, and this crate carries it out. It has no logic worth a unit test
//! beyond files and settings.

mod apply_thread;
mod assembly;
mod backup;
mod bond;
mod change;
mod chores;
mod clock;
mod current;
mod damage;
mod difference;
mod doors;
mod durability_trace;
mod fatal;
mod filled;
mod folder;
mod founding;
mod history_settings;
mod identity;
mod identity_error;
mod inspect;
mod join;
mod journal_thread;
mod leases;
mod limit_settings;
pub mod logging;
mod marks;
mod membership;
mod merges;
mod metrics;
mod node;
mod outlook;
mod owner;
mod pins;
mod rebuild;
mod recover;
mod recover_error;
mod recovery;
mod replaceable;
mod replica;
mod report;
mod request;
mod restore;
mod retirement;
mod risk;
mod roster;
mod scrub;
mod scrub_settings;
mod serve;
mod settings;
mod shared;
mod snapshot;
mod snapshot_settings;
mod start_error;
mod status;
#[cfg(test)]
mod test_node;
mod tuning;
mod unfinished;
mod upkeep;
mod workers;

// What counts the time of leases decides, so it is the host's.
pub(crate) use synod_host::{lease_news, timekeeper};

pub use apply_thread::ApplyError;
pub use backup::{BackupAbout, BackupFile};
pub use folder::FolderError;
pub use founding::Founding;
pub use history_settings::HistorySettings;
pub use identity::{Identity, init};
pub use identity_error::{IdentityError, InitError};
pub use inspect::{
    InspectedIdentity, InspectedJournal, InspectedMark, InspectedState, Inspection, inspect,
};
pub use join::Joining;
pub use limit_settings::LimitSettings;
pub use node::Node;
pub use outlook::{NextStart, Outlook};
pub use recover::{Findings, Made, Survivor};
pub use recover_error::RecoverError;
pub use recovery::RecoveryError;
pub use restore::{RestoreError, check_backup, restore};
pub use scrub_settings::ScrubSettings;
pub use serve::{ServeError, serve};
pub use settings::{
    ClusterSettings, ListenSettings, LogSettings, MemberSettings, Settings, SettingsError,
    TimingSettings,
};
pub use snapshot_settings::SnapshotSettings;
pub use start_error::{NodeFailure, StartError};
pub use unfinished::Unfinished;

/// Whether a node can be told to make a mistake, as only those in builds of the root's tests can.
pub const IS_FOR_TESTS: bool = cfg!(feature = "planted");

/// Whether this build plays the next release, for the test of upgrades.
pub const IS_NEXT_VERSION: bool = cfg!(feature = "next-version");
