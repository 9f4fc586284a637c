//! The local cluster: child processes of this binary on one machine.

mod description;
mod layout;
mod local;
mod probe;
mod process;
mod runner;
mod settings;
mod spawner;
mod view;

pub(crate) use description::{Description, FILE_NAME};
pub(crate) use layout::{NODES_DEFAULT, Place, free_base_port};
pub(crate) use local::LocalCluster;
pub(crate) use probe::statuses;
pub(crate) use process::{Ending, NodeProcess};
pub(crate) use runner::run;
