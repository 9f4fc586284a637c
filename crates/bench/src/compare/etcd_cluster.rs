//! An etcd cluster on loopback, as child processes of the benchmark.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::options::CompareOptions;
use super::starter::ClusterStarter;
use crate::disk::in_memory;
use crate::failover::{ClusterControl, ControlError};
use crate::process::send_signal;
use crate::{NodeAddress, NodeId, Protocol, probe};

const START_WAIT: Duration = Duration::from_secs(30);
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// A local etcd cluster. It is killed when this is dropped, and where
/// `setpriv` is there also when this process is killed, or when the thread that
/// started it ends.
#[derive(Debug)]
pub struct EtcdCluster {
    binary: PathBuf,
    /// Whether the kernel can be asked to end etcd with us.
    setpriv: bool,
    version: String,
    data_dir: PathBuf,
    members: Vec<Member>,
    count: usize,
}

#[derive(Debug)]
struct Member {
    id: NodeId,
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

impl EtcdCluster {
    /// Looks for etcd: where the options say, else `$SYNOD_ETCD`, else
    /// `$PATH`.
    ///
    /// # Errors
    /// Why there will be no comparison, in words.
    pub fn find(options: &CompareOptions) -> Result<Self, String> {
        let named = options.etcd.clone().or_else(|| std::env::var_os("SYNOD_ETCD").map(Into::into));
        let binary = named.unwrap_or_else(|| "etcd".into());
        let output = Command::new(&binary).arg("--version").output();
        let output = output.map_err(|error| format!("{}: {error}", binary.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
        let version = version.ok_or_else(|| format!("{} is not etcd", binary.display()))?;
        if options.nodes == 0 || options.nodes > 9 {
            return Err("a cluster has 1 to 9 nodes".into());
        }
        let data_dir = options.data_dir.join(format!("synod-bench-etcd-{}", std::process::id()));
        on_a_disk(&options.data_dir)?;
        let probe = Command::new("setpriv").args(["--pdeathsig", "KILL", "true"]).status();
        Ok(Self {
            binary,
            setpriv: probe.is_ok_and(|status| status.success()),
            version: version.trim().into(),
            data_dir,
            members: Vec::new(),
            count: options.nodes,
        })
    }

    fn spawn(&self, index: usize) -> Result<Child, ControlError> {
        let member = &self.members[index];
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let all: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("n{}={}", member.id, url(member.peer_port)))
            .collect();
        let dir = self.data_dir.join(format!("n{}", member.id));
        fs::create_dir_all(&dir)?;
        let log = File::options().create(true).append(true).open(dir.join("log"))?;
        let (client, peer) = (url(member.client_port), url(member.peer_port));
        let child = self
            .command()
            .args(["--name", &format!("n{}", member.id)])
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"])
            .args(["--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| ControlError(format!("cannot start etcd: {error}")))?;
        Ok(child)
    }

    /// etcd without what the environment would set: both stores run with their
    /// defaults.
    fn command(&self) -> Command {
        let mut command =
            Command::new(if self.setpriv { Path::new("setpriv") } else { &self.binary });
        if self.setpriv {
            command.args(["--pdeathsig", "KILL", "--"]).arg(&self.binary);
        }
        let set = std::env::vars_os().map(|(name, _)| name);
        for name in set.filter(|name| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        command
    }

    /// Writes down what runs, so that whoever cleans up after us finds it.
    fn describe(&self) -> Result<(), ControlError> {
        let node = |member: &Member| {
            serde_json::json!({
                "id": member.id,
                "pid": member.child.as_ref().map(Child::id),
                "client_url": format!("http://127.0.0.1:{}", member.client_port),
                "peer_addr": format!("127.0.0.1:{}", member.peer_port),
                "data_dir": self.data_dir.join(format!("n{}", member.id)).join("data"),
            })
        };
        let nodes: Vec<_> = self.members.iter().map(node).collect();
        let text = serde_json::json!({ "nodes": nodes }).to_string();
        Ok(fs::write(self.data_dir.join("cluster.json"), text)?)
    }

    fn member(&mut self, node: NodeId) -> Result<&mut Member, ControlError> {
        let member = self.members.iter_mut().find(|member| member.id == node);
        member.ok_or_else(|| ControlError(format!("etcd has no node {node}")))
    }

    fn signal(&mut self, node: NodeId, signal: Signal) -> Result<(), ControlError> {
        let child = self.member(node)?.child.as_ref();
        let child = child.ok_or_else(|| ControlError(format!("node {node} does not run")))?;
        Ok(send_signal(child.id(), signal)?)
    }

    fn addresses(&self) -> Vec<NodeAddress> {
        let address = |member: &Member| NodeAddress {
            id: member.id,
            pid: member.child.as_ref().map(Child::id),
            client_url: format!("http://127.0.0.1:{}", member.client_port),
        };
        self.members.iter().map(address).collect()
    }

    fn wait_ready(&self) -> Result<(), ControlError> {
        let deadline = Instant::now() + START_WAIT;
        for node in self.addresses() {
            while !probe::ready(Protocol::Etcd, &node, PROBE_TIMEOUT) {
                if Instant::now() > deadline {
                    let log = self.data_dir.join(format!("n{}", node.id)).join("log");
                    return Err(ControlError(format!(
                        "etcd does not serve; see {}",
                        log.display()
                    )));
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    fn kill_all(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                // It may have died already, which is as good.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

impl ClusterStarter for EtcdCluster {
    fn name(&self) -> String {
        format!("etcd {}", self.version)
    }

    fn start_fresh(&mut self) -> Result<Vec<NodeAddress>, ControlError> {
        self.stop_all()?;
        fs::create_dir_all(&self.data_dir)?;
        let ports = free_ports(2 * self.count)?;
        self.members = ports
            .chunks_exact(2)
            .zip(1..)
            .map(|(ports, id)| Member {
                id: NodeId(id),
                client_port: ports[0],
                peer_port: ports[1],
                child: None,
            })
            .collect();
        for index in 0..self.members.len() {
            let child = self.spawn(index)?;
            self.members[index].child = Some(child);
        }
        self.describe()?;
        self.wait_ready()?;
        Ok(self.addresses())
    }

    fn stop_all(&mut self) -> Result<(), ControlError> {
        self.kill_all();
        self.members.clear();
        match fs::remove_dir_all(&self.data_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl ClusterControl for EtcdCluster {
    fn nodes(&mut self) -> Result<Vec<NodeAddress>, ControlError> {
        Ok(self.addresses())
    }

    fn kill(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.signal(node, Signal::KILL)
    }

    fn stop(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.signal(node, Signal::STOP)
    }

    fn cont(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.signal(node, Signal::CONT)
    }

    fn restart(&mut self, node: NodeId) -> Result<(), ControlError> {
        if let Some(mut child) = self.member(node)?.child.take() {
            child.wait()?;
        }
        let index = self.members.iter().position(|member| member.id == node);
        let index = index.expect("the member was found above");
        let child = self.spawn(index)?;
        self.members[index].child = Some(child);
        self.describe()
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        self.kill_all();
        // Nobody is left to be told that a folder could not be removed.
        let _ = fs::remove_dir_all(&self.data_dir);
    }
}

/// Ports that nobody listens on now. All are held until the last is known, so
/// that no two are the same.
fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let listeners = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<std::io::Result<Vec<_>>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn on_a_disk(dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    if in_memory(dir).map_err(|error| format!("{}: {error}", dir.display()))? {
        return Err(format!("{} is in memory, so an fsync costs nothing there", dir.display()));
    }
    Ok(())
}
