//! Where the nodes of a cluster are: given by the runner, or read from the
//! `cluster.json` that it keeps current.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::process::{names_path, send_signal};

/// A cluster file holds a line or two a node; more than this is another file.
const CLUSTER_FILE_BYTES_MAX: u64 = 1 << 20;

/// Which node, in the numbering of the cluster that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How to reach one node and, if it runs on this machine, its process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// Which node.
    pub id: NodeId,
    /// Its process here, if it has one: only then can its CPU be measured.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Where clients talk to it: `http://HOST:PORT`.
    pub client_url: String,
}

impl NodeAddress {
    /// The socket behind [`NodeAddress::client_url`].
    ///
    /// # Errors
    /// When the address is not `http://HOST:PORT` or the host has no address.
    pub fn socket(&self) -> Result<SocketAddr, BenchError> {
        let wrong = || BenchError::Address { node: self.id, url: self.client_url.clone() };
        let rest = self.client_url.strip_prefix("http://").ok_or_else(wrong)?;
        let authority = rest.trim_end_matches('/');
        authority.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(wrong)
    }
}

/// The file in which a local runner says which nodes it has started.
#[derive(Debug, Clone)]
pub struct ClusterFile {
    path: PathBuf,
}

#[derive(Deserialize)]
struct ClusterFileBody {
    nodes: Vec<ClusterFileNode>,
}

/// A node of the file.
#[derive(Debug, Deserialize)]
pub(crate) struct ClusterFileNode {
    #[serde(flatten)]
    pub(crate) address: NodeAddress,
    /// Its own data folder, if the file says so.
    #[serde(default)]
    data_dir: Option<PathBuf>,
}

impl ClusterFileNode {
    /// Its process, if it runs on this machine and is still the node's.
    pub(crate) fn process(&self) -> Option<u32> {
        // The settings lie beside the data and stand in the command line.
        let folder = self.data_dir.as_deref().and_then(Path::parent);
        let ours = |pid: &u32| folder.is_none_or(|folder| names_path(*pid, folder));
        self.address.pid.filter(ours)
    }
}

impl ClusterFile {
    /// The file at this path. Nothing is read yet: its content changes
    /// whenever a node dies or is started again.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned() }
    }

    /// What the file says now.
    ///
    /// # Errors
    /// When it cannot be read, is not JSON of the expected form, or names no
    /// node.
    pub fn nodes(&self) -> Result<Vec<NodeAddress>, BenchError> {
        Ok(self.entries()?.into_iter().map(|node| node.address).collect())
    }

    /// Continues every process of the cluster that was stopped.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub fn continue_all(&self) -> Result<(), BenchError> {
        for pid in self.entries()?.iter().filter_map(ClusterFileNode::process) {
            // It may have ended by now, and then need not be continued.
            let _ = send_signal(pid, Signal::CONT);
        }
        Ok(())
    }

    pub(crate) fn entries(&self) -> Result<Vec<ClusterFileNode>, BenchError> {
        let unreadable = |source| BenchError::File { path: self.path.clone(), source };
        let malformed =
            |reason: String| BenchError::ClusterFile { path: self.path.clone(), reason };
        let bytes = std::fs::metadata(&self.path).map_err(unreadable)?.len();
        if bytes > CLUSTER_FILE_BYTES_MAX {
            return Err(malformed(format!("it has {bytes} bytes")));
        }
        let text = std::fs::read_to_string(&self.path).map_err(unreadable)?;
        let body: ClusterFileBody =
            serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        if body.nodes.is_empty() {
            return Err(malformed("it names no node".into()));
        }
        Ok(body.nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_file_gives_its_nodes_and_ignores_what_it_does_not_know() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.json");
        std::fs::write(
            &path,
            r#"{"nodes": [{"id": 1, "pid": 42, "client_url": "http://127.0.0.1:8001",
                "peer_addr": "127.0.0.1:9001", "data_dir": "/d/1"},
                {"id": 2, "pid": null, "client_url": "http://127.0.0.1:8002"}]}"#,
        )
        .unwrap();
        let nodes = ClusterFile::new(&path).nodes().unwrap();
        assert_eq!(nodes[0].pid, Some(42));
        assert_eq!(nodes[0].socket().unwrap(), "127.0.0.1:8001".parse().unwrap());
        assert_eq!((nodes[1].id, nodes[1].pid), (NodeId(2), None));
    }

    #[test]
    fn an_id_that_is_another_processs_by_now_is_not_the_nodes() {
        let folder = tempfile::tempdir().unwrap();
        let mine = std::process::id();
        let node = |data_dir| ClusterFileNode {
            address: NodeAddress { id: NodeId(1), pid: Some(mine), client_url: String::new() },
            data_dir,
        };
        assert_eq!(node(Some(folder.path().join("node-1/data"))).process(), None);
        let program = std::env::current_exe().unwrap();
        assert_eq!(node(Some(program.with_file_name("data"))).process(), Some(mine));
        assert_eq!(node(None).process(), Some(mine));
    }

    #[test]
    fn a_file_that_is_no_cluster_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.json");
        for content in ["", "{}", r#"{"nodes": []}"#, r#"{"nodes": [{"id": "x"}]}"#] {
            std::fs::write(&path, content).unwrap();
            let error = ClusterFile::new(&path).nodes().unwrap_err().to_string();
            assert!(error.contains("cluster.json"), "{error}");
        }
        assert!(ClusterFile::new(dir.path().join("none")).nodes().is_err());
    }

    #[test]
    fn an_address_without_a_port_is_refused() {
        for url in ["127.0.0.1:80", "https://127.0.0.1:80", "http://127.0.0.1", "http://"] {
            let node = NodeAddress { id: NodeId(1), pid: None, client_url: url.into() };
            assert!(node.socket().is_err(), "{url}");
        }
    }
}
