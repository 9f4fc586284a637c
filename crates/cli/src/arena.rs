//! The clusters that benchmarks start for themselves.

mod drift;
mod flip;
mod life;
mod recovered;
mod release;
mod restored;
mod stall;
mod twin;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rustix::process::Signal;
use synod_bench::chaos::{Links, Quorums};
use synod_bench::compare::ClusterStarter;
use synod_bench::failover::{ClusterControl, ControlError};
use synod_bench::{NodeAddress, NodeId};

use crate::arguments::{Arena, ClusterShape};
use crate::cluster::{LocalCluster, NODES_DEFAULT, NodeProcess, Place, free_base_port};
use crate::failure::Failure;
use crate::scratch::Scratch;
use crate::small_disk::{Disks, Fate};

use life::{Known, Running};
pub(crate) use release::OtherRelease;
use release::Releases;
use stall::Stalled;
pub(crate) use stall::holder_is_there;

const LOG_LINES_SHOWN: usize = 5;

/// A local cluster that lives as long as this value.
#[derive(Debug)]
pub(crate) struct OwnCluster {
    cluster: LocalCluster,
    /// Nodes that were killed and not started again.
    killed: BTreeSet<u32>,
    /// Nodes that ended by themselves, and how.
    fallen: BTreeMap<u32, String>,
    /// The nodes' own disks, if they have any, and why not if they should.
    disks: Disks,
    /// What else is known of each node.
    known: BTreeMap<u32, Known>,
    /// Added to every node's settings.
    tables: String,
    /// Between the nodes, if they reach each other over links.
    links: Option<Arc<Links>>,
    running: Option<Running>,
    releases: Releases,
    /// How many backups there were to make clusters of.
    backups: u32,
    /// One that was made of the last of them, or of what one node has.
    restored: Option<LocalCluster>,
    /// A second process of some node, on a copy of its folder.
    twin: Option<NodeProcess>,
    /// Nodes whose syncs are held.
    stalled: BTreeMap<u32, Stalled>,
    /// Deleted after the cluster.
    folder: Option<Scratch>,
}

impl OwnCluster {
    /// Starts the cluster that the arguments describe, on free ports unless they
    /// are given.
    pub(crate) fn start(arena: &Arena) -> Result<Self, Failure> {
        let (data_dir, folder) = match &arena.data_dir {
            Some(given) => (given.clone(), None),
            None => {
                let folder = Scratch::new()?;
                (folder.path().join("cluster"), Some(folder))
            }
        };
        let mut shape = arena.shape.clone();
        // A folder of the user's may hold a cluster with ports of its own.
        if shape.base_port.is_none() && folder.is_some() {
            shape.base_port = Some(free_base_port(shape.nodes.unwrap_or(NODES_DEFAULT))?);
        }
        let mut cluster = LocalCluster::open(&data_dir, &shape, false)?;
        cluster.start_all()?;
        Ok(Self::of(cluster, folder))
    }

    fn of(cluster: LocalCluster, folder: Option<Scratch>) -> Self {
        Self {
            cluster,
            killed: BTreeSet::new(),
            fallen: BTreeMap::new(),
            disks: Disks::default(),
            known: BTreeMap::new(),
            tables: String::new(),
            links: None,
            running: None,
            releases: Releases::default(),
            backups: 0,
            restored: None,
            twin: None,
            stalled: BTreeMap::new(),
            folder,
        }
    }

    /// Starts a new cluster on free ports whose nodes reach each other only over the
    /// links that come with it, with these quorums, if not majorities, and these tables in their
    /// settings. If it can be, each has a small disk of its own.
    pub(crate) fn start_linked(
        nodes: u32,
        quorums: Option<Quorums>,
        has_disks: bool,
        tables: &str,
    ) -> Result<(Self, Arc<Links>), Failure> {
        let folder = Scratch::new()?;
        let shape = ClusterShape { nodes: Some(nodes), base_port: Some(free_base_port(nodes)?) };
        let make = |settings: &Path| {
            name_quorums(settings, quorums)?;
            crate::serve::init(settings).map(drop)
        };
        let mut cluster =
            LocalCluster::open_with(&folder.path().join("cluster"), &shape, true, &make)?;
        let id = |id: u32| NodeId(u64::from(id));
        let links = Arc::new(Links::start()?);
        for node in cluster.nodes() {
            links.add(id(node.place().id), node.place().peer_addr)?;
        }
        cluster.reroute(|node| links.proxy(id(node)))?;
        cluster.add_settings(tables)?;
        let disks = if has_disks { Disks::mount(&cluster)? } else { Disks::default() };
        cluster.start_all()?;
        let mut own = Self::of(cluster, Some(folder));
        (own.disks, own.tables, own.links) = (disks, tables.to_owned(), Some(Arc::clone(&links)));
        Ok((own, links))
    }

    /// Why the nodes have no disks of their own though they should.
    pub(crate) fn lacks_disks(&self) -> Option<&str> {
        self.disks.lack.as_deref()
    }

    /// Leaves data and logs where they are when the cluster ends.
    pub(crate) fn keep(&mut self) {
        if let Some(folder) = &mut self.folder {
            folder.keep();
        }
    }

    /// Where its nodes are now.
    pub(crate) fn nodes(&self) -> Vec<NodeAddress> {
        addresses(&self.cluster)
    }

    /// Takes notice of the nodes that ended.
    fn reap(&mut self) -> Result<(), Failure> {
        for (id, ending) in self.cluster.reap()? {
            let may_end = self.may_end(id, &ending)?;
            let was_asked = self.releases.asked.remove(&id);
            if !may_end && (!self.killed.contains(&id) || was_asked && !ending.was_in_order()) {
                let places = self.cluster.nodes().iter().map(NodeProcess::place);
                let log = places.filter(|place| place.id == id).map(Place::log_path).next();
                let log = log.and_then(|log| fs::read(log).ok()).unwrap_or_default();
                let log = last_lines(&log);
                match self.disks.ended(id, &log) {
                    Fate::Waits => {}
                    Fate::GoesOn => self.cluster.start(id)?,
                    Fate::Fell => {
                        let how = format!("node {id} ended by itself: {ending}\n{log}");
                        self.fallen.insert(id, how);
                    }
                }
            }
        }
        Ok(())
    }

    fn signal(&self, node: NodeId, signal: Signal) -> Result<(), ControlError> {
        self.cluster.signal(node_id(node)?, signal).map_err(control_error)
    }
}

impl ClusterControl for OwnCluster {
    fn nodes(&mut self) -> Result<Vec<NodeAddress>, ControlError> {
        Ok(OwnCluster::nodes(self))
    }

    fn kill(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.signal(node, Signal::KILL)?;
        self.killed.insert(node_id(node)?);
        self.releases.asked.remove(&node_id(node)?);
        Ok(())
    }

    fn fallen(&mut self) -> Result<Vec<(NodeId, String)>, ControlError> {
        self.reap().map_err(control_error)?;
        let fallen = self.fallen.iter();
        Ok(fallen.map(|(id, how)| (NodeId(u64::from(*id)), how.clone())).collect())
    }

    fn stop(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.signal(node, Signal::STOP)
    }

    fn cont(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.signal(node, Signal::CONT)
    }

    fn restart(&mut self, node: NodeId) -> Result<(), ControlError> {
        let id = node_id(node)?;
        self.note_start(id);
        self.cluster.start(id).map_err(control_error)?;
        self.killed.remove(&id);
        self.releases.asked.remove(&id);
        self.disks.started(id);
        Ok(())
    }

    fn fill_disk(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.disks.fill(node_id(node)?).map_err(control_error)
    }

    fn free_disk(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.reap().map_err(control_error)?;
        let id = node_id(node)?;
        if self.disks.free(id).map_err(control_error)? {
            self.cluster.start(id).map_err(control_error)?;
        }
        Ok(())
    }

    fn stall_disk(&mut self, node: NodeId) -> Result<(), ControlError> {
        let id = node_id(node)?;
        let of_id = |node: &&NodeProcess| node.place().id == id;
        let pid = self.cluster.nodes().iter().find(of_id).and_then(NodeProcess::pid);
        let pid = pid.ok_or_else(|| ControlError(format!("node {node} does not run")))?;
        self.stalled.insert(id, Stalled::begin(pid).map_err(control_error)?);
        Ok(())
    }

    fn resume_disk(&mut self, node: NodeId) -> Result<(), ControlError> {
        let stalled = self.stalled.remove(&node_id(node)?);
        stalled.map(drop).ok_or_else(|| ControlError(format!("the disk of node {node} works")))
    }

    fn stops_for_space(&self) -> u64 {
        self.disks.stops
    }
}

/// Puts these quorums into the settings of which a data folder is made. It keeps them.
fn name_quorums(settings: &Path, quorums: Option<Quorums>) -> Result<(), Failure> {
    const CLUSTER: &str = "[cluster]\n";
    let Some(Quorums { promise, accept }) = quorums else { return Ok(()) };
    let text = fs::read_to_string(settings)?;
    let named = format!("{CLUSTER}promise_quorum = {promise}\naccept_quorum = {accept}\n");
    Ok(fs::write(settings, text.replacen(CLUSTER, &named, 1))?)
}

fn addresses(cluster: &LocalCluster) -> Vec<NodeAddress> {
    let address = |node: &NodeProcess| NodeAddress {
        id: NodeId(u64::from(node.place().id)),
        pid: node.pid(),
        client_url: node.place().client_url(),
    };
    cluster.nodes().iter().map(address).collect()
}

/// The end of a log, which says why its node ended.
fn last_lines(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

/// Starts one cluster after the other, each with empty data.
#[derive(Debug)]
pub(crate) struct FreshClusters {
    nodes: u32,
    current: Option<LocalCluster>,
    folder: Scratch,
}

impl FreshClusters {
    pub(crate) fn new(nodes: u32) -> Result<Self, Failure> {
        Ok(Self { nodes, current: None, folder: Scratch::new()? })
    }

    /// The folder of all of them, on the disk that is measured.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("synod")
    }

    fn try_start(&mut self) -> Result<Vec<NodeAddress>, Failure> {
        let base_port = Some(free_base_port(self.nodes)?);
        let shape = ClusterShape { nodes: Some(self.nodes), base_port };
        let mut cluster = LocalCluster::open(&self.data_dir(), &shape, true)?;
        cluster.start_all()?;
        let nodes = addresses(&cluster);
        self.current = Some(cluster);
        Ok(nodes)
    }

    fn try_stop(&mut self) -> Result<(), Failure> {
        if let Some(mut cluster) = self.current.take() {
            cluster.stop_all()?;
        }
        fs::remove_dir_all(self.data_dir()).context("cannot delete the data of a benchmark")?;
        Ok(())
    }
}

impl ClusterStarter for FreshClusters {
    fn name(&self) -> String {
        concat!("synod ", env!("CARGO_PKG_VERSION")).to_owned()
    }

    fn start_fresh(&mut self) -> Result<Vec<NodeAddress>, ControlError> {
        self.try_start().map_err(control_error)
    }

    fn stop_all(&mut self) -> Result<(), ControlError> {
        self.try_stop().map_err(control_error)
    }
}

fn control_error(failure: Failure) -> ControlError {
    ControlError(failure.to_string())
}

fn node_id(node: NodeId) -> Result<u32, ControlError> {
    u32::try_from(node.0).map_err(|_| ControlError(format!("there is no node {node}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_shown() {
        assert_eq!(last_lines(b"1\n2\n3\n4\n5\n6\n"), "2\n3\n4\n5\n6");
        assert_eq!(last_lines(b""), "");
    }
}
