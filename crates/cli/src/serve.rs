//! `synod init` and `synod serve`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use synod_node::{ServeError, Settings, StartError, logging};

use crate::arguments::{Init, Serve};
use crate::failure::Failure;
use crate::follower::die_with;
use crate::output::{print, print_json, warn};

/// Overrides the level of the settings.
const LEVEL_VARIABLE: &str = "SYNOD_LOG";
/// A cluster of one begins with it.
const FIRST_ID: u32 = 1;

/// Writes the data folder of a new node, unless it looks as if that was a member of a cluster and
/// lost its folder.
pub(crate) fn init_by_hand(arguments: &Init) -> Result<(), Failure> {
    let settings = load(&arguments.settings.config)?;
    if !arguments.alone && founds_by_mistake(&settings) {
        let id = settings.node_id;
        return Err(Failure::failed(format!(
            "the settings name node {id} alone, so this would found a new cluster of one. A node \
             that joined others and lost its folder must not come back: `synod member replace {id}` \
             puts one with a new id in its place. A new node joins with `synod member add`. If node \
             {id} is to be a cluster of its own, add --alone"
        )));
    }
    let made = init(&arguments.settings.config)?;
    if arguments.json {
        return print_json(&made);
    }
    let NewNode { node, cluster, data_dir } = &made;
    print(&format!(
        "node {node} of cluster {cluster} is ready to serve from {}",
        data_dir.display()
    ))
}

/// A node whose data folder was written.
#[derive(Debug, Serialize)]
pub(crate) struct NewNode {
    pub(crate) node: u32,
    /// In hexadecimal.
    pub(crate) cluster: String,
    pub(crate) data_dir: PathBuf,
}

/// Whether the settings look like those of a node that joined others. They may name it alone, and
/// nobody would refuse the cluster of one that is made of them. The first node of a cluster that grew
/// looks like any node alone.
pub(crate) fn founds_by_mistake(settings: &Settings) -> bool {
    settings.members.len() == 1 && settings.node_id != FIRST_ID
}

/// Writes the data folder of a new node.
pub(crate) fn init(config: &Path) -> Result<NewNode, Failure> {
    let settings = load(config)?;
    let identity =
        synod_node::init(&settings).map_err(|error| Failure::failed(error.to_string()))?;
    Ok(NewNode {
        node: identity.node.0,
        cluster: format!("{:032x}", identity.cluster),
        data_dir: settings.data_dir,
    })
}

/// Runs one node until SIGINT or SIGTERM.
pub(crate) fn serve(arguments: &Serve) -> Result<(), Failure> {
    if let Some(parent) = arguments.stop_with_parent {
        // What is durable is safe from SIGKILL.
        die_with(parent)?;
    }
    if synod_node::IS_FOR_TESTS {
        warn("this synod was built for tests and is not to serve anybody: run make build");
    }
    let mut settings = load(&arguments.settings.config)?;
    settings.trace_durability.clone_from(&arguments.trace_durability);
    let level = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| settings.log.level.clone());
    let _log = logging::install(&level, settings.log.json)
        .map_err(|error| Failure::usage(error.to_string()))?;
    synod_node::serve(settings).map_err(|error| match error {
        ServeError::Removed(_) | ServeError::Start(StartError::Removed(_)) => {
            Failure::removed(error.to_string())
        }
        error => Failure::failed(error.to_string()),
    })
}

pub(crate) fn load(config: &Path) -> Result<Settings, Failure> {
    Settings::load(config).map_err(|error| Failure::usage(error.to_string()))
}
