//! `cluster.json`: what runs where, for scripts and for the benchmarks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::layout::replace_file;
use super::process::NodeProcess;
use crate::failure::Failure;

/// The name of the file in the data folder of a local cluster.
pub(crate) const FILE_NAME: &str = "cluster.json";

/// The content of the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    /// All nodes, by id.
    pub(crate) nodes: Vec<NodeDescription>,
}

/// One node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct NodeDescription {
    /// The node's id.
    pub(crate) id: u32,
    /// Its process; null while it does not run under the runner.
    pub(crate) pid: Option<u32>,
    /// The base URL for clients.
    pub(crate) client_url: String,
    /// Where it listens to its peers.
    pub(crate) peer_addr: String,
    /// The node's own data folder.
    pub(crate) data_dir: PathBuf,
}

impl Description {
    pub(crate) fn of(nodes: &[NodeProcess]) -> Self {
        let describe = |node: &NodeProcess| NodeDescription {
            id: node.place().id,
            pid: node.pid(),
            client_url: node.place().client_url(),
            peer_addr: node.place().peer_addr.to_string(),
            data_dir: node.place().data_dir(),
        };
        Self { nodes: nodes.iter().map(describe).collect() }
    }

    /// Reads the file of a running or stopped cluster.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let description = serde_json::from_slice(&text)
            .with_context(|| format!("{} does not describe a cluster", path.display()))?;
        Ok(description)
    }

    /// Writes the file into the data folder, whole or not at all.
    pub(crate) fn write(&self, data_dir: &Path) -> Result<(), Failure> {
        let mut text = serde_json::to_vec_pretty(self).context("cannot encode cluster.json")?;
        text.push(b'\n');
        replace_file(&data_dir.join(FILE_NAME), &text)
    }
}
