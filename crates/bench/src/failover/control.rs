//! How the benchmark gets at the processes of the cluster it disturbs.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::address::ClusterFileNode;
use crate::process::send_signal;
use crate::{ClusterFile, Leader, NodeAddress, NodeId, Protocol, probe};

/// A node under load answers its status within this, or is taken for silent.
const PROBE_TIMEOUT: Duration = Duration::from_millis(300);
/// How long a runner gets to start a killed node again.
const RESTART_WAIT: Duration = Duration::from_secs(60);

/// Why the cluster could not be controlled.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ControlError(pub String);

impl From<std::io::Error> for ControlError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// What the benchmark needs of whoever runs the cluster. The calls may block
/// shortly; [`kill`](Self::kill) and [`stop`](Self::stop) should return as
/// soon as the signal is sent, for their return is when the clock starts.
pub trait ClusterControl {
    /// All nodes, running or not, always in the same order.
    ///
    /// # Errors
    /// When it is not known which nodes there are.
    fn nodes(&mut self) -> Result<Vec<NodeAddress>, ControlError>;

    /// Sends SIGKILL to a node.
    ///
    /// # Errors
    /// When it is not running or the signal cannot be sent.
    fn kill(&mut self, node: NodeId) -> Result<(), ControlError>;

    /// Sends SIGSTOP to a node.
    ///
    /// # Errors
    /// When it is not running or the signal cannot be sent.
    fn stop(&mut self, node: NodeId) -> Result<(), ControlError>;

    /// Sends SIGCONT to a stopped node.
    ///
    /// # Errors
    /// When it is not running or the signal cannot be sent.
    fn cont(&mut self, node: NodeId) -> Result<(), ControlError>;

    /// Has a killed node started again with its data; it need not be ready
    /// when this returns.
    ///
    /// # Errors
    /// When it does not start.
    fn restart(&mut self, node: NodeId) -> Result<(), ControlError>;

    /// Leaves no room on a node's disk. The node may end for that; then it has not
    /// [fallen](Self::fallen).
    ///
    /// # Errors
    /// When its disk cannot be filled.
    fn fill_disk(&mut self, node: NodeId) -> Result<(), ControlError> {
        Err(ControlError(format!("node {node} has no disk that may be filled")))
    }

    /// Makes room on a node's disk again, and has the node started again if it ended.
    ///
    /// # Errors
    /// When that is not possible.
    fn free_disk(&mut self, node: NodeId) -> Result<(), ControlError> {
        Err(ControlError(format!("node {node} has no disk that was filled")))
    }

    /// Has no sync of a node return, and none fail, until its disk is resumed.
    ///
    /// # Errors
    /// When its syncs cannot be held.
    fn stall_disk(&mut self, node: NodeId) -> Result<(), ControlError> {
        Err(ControlError(format!("node {node} has no disk that may be stalled")))
    }

    /// Has a node's syncs return again.
    ///
    /// # Errors
    /// When they are not held.
    fn resume_disk(&mut self, node: NodeId) -> Result<(), ControlError> {
        Err(ControlError(format!("node {node} has no disk that was stalled")))
    }

    /// How often a node ended because its disk was full.
    fn stops_for_space(&self) -> u64 {
        0
    }

    /// Nodes that ended without having been killed, and how, where that is known.
    ///
    /// # Errors
    /// When it cannot be found out.
    fn fallen(&mut self) -> Result<Vec<(NodeId, String)>, ControlError> {
        Ok(Vec::new())
    }

    /// Whether [`restart`](Self::restart) is what starts a killed node; else
    /// somebody else does, at a time of their own.
    fn restarts_nodes(&self) -> bool {
        true
    }

    /// The node that leads now, if one says so. A suspect is asked only when
    /// no other does: one that was just stopped would cost the whole timeout.
    ///
    /// # Errors
    /// When it is not known which nodes there are, or when one has fallen: what
    /// the others do then is not what was to be measured.
    fn leader(
        &mut self,
        protocol: Protocol,
        suspect: Option<NodeId>,
    ) -> Result<Option<Leader>, ControlError> {
        if let Some((_, how)) = self.fallen()?.into_iter().next() {
            return Err(ControlError(how));
        }
        let nodes = self.nodes()?;
        let (suspects, others): (Vec<_>, Vec<_>) =
            nodes.into_iter().partition(|node| Some(node.id) == suspect);
        let leader = |nodes: &[NodeAddress]| probe::leader(protocol, nodes, PROBE_TIMEOUT);
        Ok(leader(&others).or_else(|| leader(&suspects)))
    }

    /// Whether a node says that it can serve clients.
    ///
    /// # Errors
    /// When it is not known which nodes there are, or when this one has fallen.
    fn ready(&mut self, protocol: Protocol, node: NodeId) -> Result<bool, ControlError> {
        if let Some((_, how)) = self.fallen()?.into_iter().find(|(fallen, _)| *fallen == node) {
            return Err(ControlError(how));
        }
        let nodes = self.nodes()?;
        let node = nodes.iter().find(|candidate| candidate.id == node);
        Ok(node.is_some_and(|node| probe::ready(protocol, node, PROBE_TIMEOUT)))
    }
}

/// Controls a cluster that another process runs and describes in a file. That
/// process has to start killed nodes again.
#[derive(Debug)]
pub struct FileControl {
    file: ClusterFile,
    killed_pid: Option<u32>,
}

impl FileControl {
    /// Controls the cluster that this file describes.
    pub fn new(file: ClusterFile) -> Self {
        Self { file, killed_pid: None }
    }

    fn pid(&self, node: NodeId) -> Result<u32, ControlError> {
        let nodes = self.file.entries().map_err(|error| ControlError(error.to_string()))?;
        let known = nodes.iter().find(|candidate| candidate.address.id == node);
        let pid = known.and_then(ClusterFileNode::process);
        pid.ok_or_else(|| ControlError(format!("node {node} does not run on this machine")))
    }

    fn signal(&self, node: NodeId, signal: Signal) -> Result<u32, ControlError> {
        let pid = self.pid(node)?;
        send_signal(pid, signal)
            .map_err(|error| ControlError(format!("cannot signal node {node}: {error}")))?;
        Ok(pid)
    }
}

impl ClusterControl for FileControl {
    fn nodes(&mut self) -> Result<Vec<NodeAddress>, ControlError> {
        self.file.nodes().map_err(|error| ControlError(error.to_string()))
    }

    fn kill(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.killed_pid = Some(self.signal(node, Signal::KILL)?);
        Ok(())
    }

    fn stop(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.signal(node, Signal::STOP).map(|_| ())
    }

    fn cont(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.signal(node, Signal::CONT).map(|_| ())
    }

    fn restarts_nodes(&self) -> bool {
        false
    }

    fn restart(&mut self, node: NodeId) -> Result<(), ControlError> {
        let deadline = Instant::now() + RESTART_WAIT;
        loop {
            let pid = self.pid(node).ok();
            if pid.is_some() && pid != self.killed_pid {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(ControlError(format!(
                    "nobody has started node {node} again: run the cluster with --restart"
                )));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}
