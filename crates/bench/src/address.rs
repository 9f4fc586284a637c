//! Where the nodes of a cluster are: given by the runner, or read from the
//! `cluster.json` that it keeps current.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::BenchError;

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
    nodes: Vec<NodeAddress>,
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
