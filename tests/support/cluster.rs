//! A local cluster under `synod cluster`, as a user would run it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::http::{self, Response};
use super::ports::free_base_port;
use super::wait::{PATIENCE, wait_for, wait_until};

/// The binary under test.
pub const SYNOD: &str = env!("CARGO_BIN_EXE_synod");

/// A folder on the disk of the build, not in memory: fsync must be real.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for the test")
}

/// Runs the binary to its end.
pub fn synod(arguments: &[&str]) -> Output {
    output_of(Command::new(SYNOD).args(arguments).env_remove("SYNOD_ENDPOINTS"), PATIENCE)
}

/// Runs a command to its end.
///
/// # Panics
/// When it does not end in this time; then it is killed.
pub fn output_of(command: &mut Command, patience: Duration) -> Output {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the command starts");
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    let (sender, receiver) = channel();
    let waiter = thread::spawn(move || sender.send(child.wait_with_output()));
    let ended = receiver.recv_timeout(patience);
    if ended.is_err() {
        // It has not been waited for, so the id is still its own.
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = waiter.join();
    ended.unwrap_or_else(|_| panic!("{command:?} does not end")).expect("its output")
}

/// A running local cluster; stopped when dropped.
pub struct TestCluster {
    folder: TempDir,
    base_port: u16,
    nodes: u32,
    binary: PathBuf,
    runner_options: Vec<String>,
    environment: Vec<(String, String)>,
    /// What the runner is started by.
    wrapper: Option<Command>,
    runner: Option<Child>,
    by_hand: BTreeMap<u32, Child>,
}

impl TestCluster {
    /// Starts a new cluster and waits until it has a leader and every node
    /// answers.
    pub fn start(nodes: u32) -> Self {
        let mut cluster = Self::prepare(nodes);
        cluster.launch();
        cluster
    }

    /// A cluster that does not run yet.
    pub fn prepare(nodes: u32) -> Self {
        Self {
            folder: folder(),
            base_port: free_base_port(),
            nodes,
            binary: SYNOD.into(),
            runner_options: Vec::new(),
            environment: Vec::new(),
            wrapper: None,
            runner: None,
            by_hand: BTreeMap::new(),
        }
    }

    /// Runs a copy of the binary, which may be moved away; says where it is.
    pub fn use_copy(&mut self) -> PathBuf {
        let copy = self.folder.path().join("synod");
        fs::copy(SYNOD, &copy).expect("a copy of the binary");
        self.binary = copy.clone();
        copy
    }

    /// Gives the runner one more option.
    pub fn option(&mut self, option: &str) {
        self.runner_options.push(option.to_owned());
    }

    /// Gives the runner, and so its nodes, one more variable of the environment.
    pub fn variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the runner as the last words of this command, which must become it.
    pub fn start_by(&mut self, wrapper: Command) {
        self.wrapper = Some(wrapper);
    }

    /// Starts `synod cluster` and waits until it serves.
    pub fn launch(&mut self) {
        self.spawn_runner();
        self.wait_until_complete();
    }

    fn spawn_runner(&mut self) {
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.runner_log())
            .expect("a log of the runner");
        let second = output.try_clone().expect("a second handle");
        let mut command = self.runner_command();
        let runner = command.stdin(Stdio::null()).stdout(second).stderr(output).spawn();
        self.runner = Some(runner.expect("synod cluster starts"));
    }

    fn runner_command(&self) -> Command {
        let mut command = match &self.wrapper {
            None => Command::new(&self.binary),
            Some(wrapper) => {
                let mut command = Command::new(wrapper.get_program());
                command.args(wrapper.get_args()).arg(&self.binary);
                command
            }
        };
        command
            .envs(self.environment.iter().cloned())
            .args(["cluster", "--no-tty", "--nodes", &self.nodes.to_string()])
            .args(["--base-port", &self.base_port.to_string()])
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(&self.runner_options);
        command
    }

    /// Starts `synod cluster` with nobody left to read what it prints, and waits
    /// until it serves.
    pub fn launch_unheard(&mut self) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let second = writer.try_clone().expect("a second handle");
        let mut command = self.runner_command();
        let runner = command.stdin(Stdio::null()).stdout(writer).stderr(second).spawn();
        self.runner = Some(runner.expect("synod cluster starts"));
        drop(command);
        drop(reader);
        self.wait_until_complete();
    }

    /// The folder that holds cluster.json.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    fn runner_log(&self) -> PathBuf {
        self.folder.path().join("runner.log")
    }

    /// What the runner printed.
    pub fn runner_output(&self) -> String {
        fs::read_to_string(self.runner_log()).unwrap_or_default()
    }

    /// The ids of all nodes.
    pub fn ids(&self) -> impl Iterator<Item = u32> + use<> {
        1..=self.nodes
    }

    /// Where node `id` serves clients.
    pub fn client_addr(&self, id: u32) -> SocketAddr {
        let port = self.base_port + u16::try_from(id).expect("few nodes");
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// The endpoints of all nodes, as the command line takes them.
    pub fn endpoints(&self) -> String {
        let urls: Vec<String> =
            self.ids().map(|id| format!("http://{}", self.client_addr(id))).collect();
        urls.join(",")
    }

    /// The settings file of a node.
    pub fn settings_path(&self, id: u32) -> PathBuf {
        self.data_dir().join(format!("node-{id}")).join("synod.toml")
    }

    /// cluster.json as it is now.
    pub fn description(&self) -> Option<Value> {
        let text = fs::read(self.data_dir().join("cluster.json")).ok()?;
        Some(serde_json::from_slice(&text).expect("cluster.json is whole at any time"))
    }

    /// The process of a node.
    pub fn pid(&self, id: u32) -> Option<i32> {
        if let Some(child) = self.by_hand.get(&id) {
            return i32::try_from(child.id()).ok();
        }
        let description = self.description()?;
        let nodes = description["nodes"].as_array().expect("a list of nodes");
        let node = nodes.iter().find(|node| node["id"] == id)?;
        node["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok())
    }

    /// Sends a signal to a node.
    pub fn signal(&self, id: u32, signal: Signal) {
        let pid = self.pid(id).and_then(Pid::from_raw).expect("the node runs");
        kill_process(pid, signal).expect("the node takes a signal");
    }

    /// Kills a node and waits until whoever started it has seen its end.
    pub fn kill(&mut self, id: u32) {
        self.signal(id, Signal::KILL);
        self.wait_for_death(id);
    }

    /// Waits until whoever started a killed node has seen its end.
    pub fn wait_for_death(&mut self, id: u32) {
        if let Some(mut child) = self.by_hand.remove(&id) {
            child.wait().expect("the end of a node");
        } else {
            wait_until("the runner sees the node's end", || self.pid(id).is_none());
        }
    }

    /// Starts a dead node by hand.
    pub fn start_by_hand(&mut self, id: u32) {
        let mut command = Command::new(SYNOD);
        command.arg("serve").arg("--config").arg(self.settings_path(id));
        self.start_by_hand_with(id, command);
    }

    /// Starts a dead node with a command of the test's own.
    pub fn start_by_hand_with(&mut self, id: u32, mut command: Command) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("by-hand-{id}.log")))
            .expect("a log of the node");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the node starts");
        self.by_hand.insert(id, child);
    }

    /// What a node printed, whoever started it.
    pub fn node_output(&self, id: u32) -> String {
        let by_runner = self.data_dir().join(format!("node-{id}")).join("synod.log");
        let by_hand = self.folder.path().join(format!("by-hand-{id}.log"));
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        read(&by_runner) + &read(&by_hand)
    }

    /// Whether a node that was started by hand has ended.
    pub fn has_ended(&mut self, id: u32) -> bool {
        let child = self.by_hand.get_mut(&id).expect("a node started by hand");
        child.try_wait().expect("the state of a child").is_some()
    }

    /// Waits for the end of a node that was started by hand.
    pub fn wait_for_end(&mut self, id: u32) -> ExitStatus {
        let child = self.by_hand.get_mut(&id).expect("a node started by hand");
        let status = wait_for("the node's end", || child.try_wait().expect("the state of a child"));
        self.by_hand.remove(&id);
        status
    }

    /// One request to one node.
    pub fn try_request(
        &self,
        id: u32,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Response> {
        http::request(self.client_addr(id), method, target, headers, body)
    }

    /// One request to one node that must be answered.
    pub fn request(
        &self,
        id: u32,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.try_request(id, method, target, headers, body)
            .unwrap_or_else(|error| panic!("{method} {target} at node {id}: {error}"))
    }

    /// `/v1/status` of a node, if it answers.
    pub fn status(&self, id: u32) -> Option<Value> {
        let response = self.try_request(id, "GET", "/v1/status", &[], b"").ok()?;
        (response.status == 200).then(|| response.json())
    }

    /// The node that says it leads, waited for; `ids` are asked.
    pub fn leader_among(&self, ids: &[u32]) -> u32 {
        wait_for("a leader", || {
            ids.iter()
                .copied()
                .find(|id| self.status(*id).is_some_and(|status| status["role"] == "leader"))
        })
    }

    /// The node that says it leads.
    pub fn leader(&self) -> u32 {
        self.leader_among(&self.ids().collect::<Vec<_>>())
    }

    /// Waits until every node answers reads and one leads.
    pub fn wait_until_complete(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        for id in self.ids() {
            while !self.try_request(id, "GET", "/readyz", &[], b"").is_ok_and(|r| r.status == 200) {
                let ended = match &mut self.runner {
                    Some(runner) => runner.try_wait().expect("the state of the runner").is_some(),
                    None => true,
                };
                assert!(
                    !ended && Instant::now() < deadline,
                    "node {id} does not get ready.\nrunner: {}\nnode: {}",
                    self.runner_output(),
                    self.node_output(id)
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.leader();
    }

    /// Stops the cluster as Ctrl-C does; the data stays.
    pub fn stop(&mut self) -> ExitStatus {
        self.stop_by(Signal::INT)
    }

    /// Sends the runner a signal that stops the cluster.
    pub fn stop_by(&mut self, signal: Signal) -> ExitStatus {
        let mut runner = self.runner.take().expect("a running cluster");
        let pid = i32::try_from(runner.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the runner takes a signal");
        wait_for("the runner's end", || runner.try_wait().expect("the state of the runner"))
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        for child in self.by_hand.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // The nodes die with their runner.
        if let Some(mut runner) = self.runner.take() {
            let _ = runner.kill();
            let _ = runner.wait();
        }
        if std::thread::panicking() {
            eprintln!("runner: {}", self.runner_output());
            for id in self.ids() {
                eprintln!("node {id}: {}", self.node_output(id));
            }
        }
    }
}
