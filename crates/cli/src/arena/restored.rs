//! Another cluster, made of a backup of one's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use synod_bench::NodeId;
use synod_bench::chaos::Restored;
use synod_kv::ANOTHER_CLUSTER_STEP;
use synod_node::check_backup;

use super::{OwnCluster, addresses};
use crate::arguments::ClusterShape;
use crate::cluster::{LocalCluster, NodeProcess, free_base_port};
use crate::failure::Failure;

/// A majority of them can be lost, as of any cluster that is worth it.
const NODES: u32 = 3;
/// So far above its base port a cluster has ports.
const PORTS: u16 = 20;
/// It takes no writes, so that large files ahead would only cost time.
pub(super) const SMALL: &str = "\n[limits]\nsegment_bytes = 65536\nwrite_buffer_bytes = 1048576\n";

impl OwnCluster {
    /// Where the next backup is written. Those from which clusters were made are kept beside it.
    pub(super) fn backup_file(&self) -> PathBuf {
        self.cluster.data_dir().join(format!("backup-{}.synod", self.backups + 1))
    }

    pub(super) fn restored_folder(&self) -> Result<PathBuf, Failure> {
        let folder = self.folder.as_ref().context("the cluster has no folder of its own")?;
        Ok(folder.path().join("restored"))
    }

    /// Starts a cluster with nothing but the last backup, by the commands that an operator uses.
    pub(super) fn try_restore(&mut self) -> Result<Restored, Failure> {
        let (file, folder) = (self.backup_file(), self.restored_folder()?);
        let about =
            check_backup(&file, |_| {}).map_err(|error| Failure::failed(error.to_string()))?;
        self.backups += 1;
        let shape =
            ClusterShape { nodes: Some(NODES), base_port: Some(self.other_base_port(NODES)?) };
        let make = |settings: &Path| {
            let text = fs::read_to_string(settings)?;
            fs::write(settings, text + SMALL)?;
            restore(&file, settings)
        };
        let mut cluster = LocalCluster::open_with(&folder, &shape, true, &make)?;
        cluster.start_all()?;
        let nodes = addresses(&cluster);
        self.restored = Some(cluster);
        let giver = NodeId(u64::from(about.node));
        let begins_at = about.revision + ANOTHER_CLUSTER_STEP;
        Ok(Restored { giver, slot: about.slot, revision: about.revision, begins_at, nodes })
    }

    /// Away from the ports of every node: one that was just started may not listen yet.
    pub(super) fn other_base_port(&self, nodes: u32) -> Result<u16, Failure> {
        let places = self.cluster.nodes().iter().map(NodeProcess::place);
        let taken: Vec<u16> =
            places.flat_map(|place| [place.client_addr.port(), place.peer_addr.port()]).collect();
        loop {
            let base = free_base_port(nodes)?;
            if !taken.iter().any(|port| (base..=base + PORTS).contains(port)) {
                return Ok(base);
            }
        }
    }

    pub(super) fn try_end_restored(&mut self) -> Result<(), Failure> {
        let Some(mut cluster) = self.restored.take() else { return Ok(()) };
        cluster.kill_all()?;
        drop(cluster);
        let folder = self.restored_folder()?;
        Ok(fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot delete {}", folder.display()))?)
    }
}

fn restore(file: &Path, settings: &Path) -> Result<(), Failure> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command.arg("restore").arg(file).arg("--config").arg(settings).stdin(Stdio::null());
    let output = command.output().context("cannot start a command")?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
