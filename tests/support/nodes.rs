//! Nodes that are started one by one, driven by the commands that an operator uses.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::cluster::{SYNOD, folder, synod};
use super::http;
use super::ports::free_base_port;
use super::wait::{wait_for, wait_until};

/// The id of the cluster, if a test wants no other.
pub const CLUSTER: &str = "00112233445566778899aabbccddeeff";

/// Processes of nodes, each with its settings; killed when dropped.
pub struct Nodes {
    folder: TempDir,
    pub base_port: u16,
    /// The id of the cluster.
    pub cluster: &'static str,
    /// More settings for all of them.
    more: &'static str,
    running: BTreeMap<u32, Child>,
}

impl Nodes {
    pub fn new() -> Self {
        Self::with("")
    }

    pub fn with(more: &'static str) -> Self {
        let (folder, base_port) = (folder(), free_base_port());
        Self { folder, base_port, cluster: CLUSTER, more, running: BTreeMap::new() }
    }

    /// Three nodes that serve, one of which leads.
    pub fn three(more: &'static str) -> Self {
        let mut nodes = Self::with(more);
        for id in [1, 2, 3] {
            nodes.init(id, &[1, 2, 3]);
            nodes.serve(id);
        }
        // Two are enough for a leader, and the third one may be late.
        [1, 2, 3].into_iter().for_each(|id| nodes.wait_until_ready(id));
        nodes
    }

    pub fn clients(&self, ids: &[u32]) -> Vec<SocketAddr> {
        ids.iter().map(|id| self.client(*id)).collect()
    }

    pub fn client(&self, id: u32) -> SocketAddr {
        let port = self.base_port + u16::try_from(id).expect("a small id");
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    pub fn url(&self, id: u32) -> String {
        format!("http://{}", self.client(id))
    }

    pub fn peer(&self, id: u32) -> String {
        format!("127.0.0.1:{}", self.base_port + 10 + u16::try_from(id).expect("a small id"))
    }

    pub fn config(&self, id: u32) -> PathBuf {
        self.folder.path().join(format!("node-{id}.toml"))
    }

    pub fn data(&self, id: u32) -> PathBuf {
        self.folder.path().join(format!("data-{id}"))
    }

    pub fn log(&self, id: u32) -> String {
        let bytes = fs::read(self.folder.path().join(format!("node-{id}.log")));
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    /// Writes settings in which these are the members. For a node that joins it alone is
    /// enough: the cluster tells it the others.
    pub fn configure(&self, id: u32, members: &[u32]) {
        let mut text = format!(
            "node_id = {id}\ndata_dir = \"data-{id}\"\n[cluster]\nid = \"{}\"\n\
             [timing]\nflush_interval_ms = 100\n\
             [client]\nlisten = \"{}\"\n[peer]\nlisten = \"{}\"\n{}",
            self.cluster,
            self.client(id),
            self.peer(id),
            self.more
        );
        for member in members {
            text += &format!(
                "[[members]]\nid = {member}\npeer = \"{}\"\nclient_url = \"{}\"\n",
                self.peer(*member),
                self.url(*member)
            );
        }
        fs::write(self.config(id), text).expect("settings");
    }

    pub fn run(&self, words: &[&str], config: Option<u32>) -> Output {
        let mut arguments: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        if let Some(id) = config {
            arguments.extend(["--config".to_owned(), self.config(id).display().to_string()]);
        }
        synod(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub fn init(&self, id: u32, members: &[u32]) {
        self.configure(id, members);
        succeeds(&self.run(&["init"], Some(id)));
    }

    /// Changes a member over HTTP; only the leader does not send elsewhere.
    pub fn change(&self, id: u32, body: &str) {
        let target = format!("/v1/cluster/members/{id}");
        wait_until("the change", || {
            self.running.keys().any(|node| {
                let answer =
                    http::request(self.client(*node), "PUT", &target, &[], body.as_bytes());
                answer.is_ok_and(|answer| answer.status == 200)
            })
        });
    }

    /// Runs `synod member ...`, asking this node.
    pub fn member(&self, ask: u32, words: &[&str], config: Option<u32>) -> Output {
        let url = self.url(ask);
        let words = [&["member"], words, &["--endpoint", &url]].concat();
        self.run(&words, config)
    }

    /// Sets quorums, for which the leader must hear enough nodes.
    pub fn set_quorums(&self, ask: u32, promise: &str, accept: &str) {
        let words = ["quorums", "--promise", promise, "--accept", accept, "--force"];
        wait_until("other quorums", || self.member(ask, &words, None).status.success());
    }

    pub fn serve(&mut self, id: u32) {
        let path = self.folder.path().join(format!("node-{id}.log"));
        let log = File::options().create(true).append(true).open(path).expect("a log");
        let child = Command::new(SYNOD)
            .args(["serve", "--config"])
            .arg(self.config(id))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the node starts");
        self.running.insert(id, child);
    }

    pub fn signal(&self, id: u32, signal: Signal) {
        let child = &self.running[&id];
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("it takes a signal");
    }

    pub fn kill(&mut self, id: u32) {
        let mut child = self.running.remove(&id).expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("ended");
    }

    /// Whether the node's process has ended by itself.
    pub fn has_ended(&mut self, id: u32) -> bool {
        let child = self.running.get_mut(&id).expect("it runs");
        child.try_wait().expect("its status").is_some()
    }

    /// Waits until the process of a node that was removed has ended by itself.
    pub fn ends_as_removed(&mut self, id: u32) {
        let log = self.ends(id, 4);
        assert!(log.contains("was removed from its cluster"), "{log}");
    }

    /// Waits until the node's process has ended with this code, and says what it printed.
    pub fn ends(&mut self, id: u32, code: i32) -> String {
        let child = self.running.get_mut(&id).expect("it runs");
        let status = wait_for("the node ends", || child.try_wait().expect("its status"));
        self.running.remove(&id);
        let log = self.log(id);
        assert_eq!(status.code(), Some(code), "{log}");
        log
    }

    pub fn status(&self, id: u32) -> Option<Value> {
        let answer = http::request(self.client(id), "GET", "/v1/status", &[], b"").ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    pub fn wait_for_leader(&self, id: u32) {
        wait_until("a leader", || self.status(id).is_some_and(|s| s["leader"].is_object()));
    }

    /// How far a peer is, as it told this node with its last heartbeat.
    pub fn chosen_by(&self, id: u32, peer: u32) -> Option<u64> {
        let status = self.status(id)?;
        let of_peer = status["peers"].as_array()?.iter().find(|of| of["id"] == peer)?;
        of_peer["chosen_slot"].as_u64()
    }

    /// Waits until a node takes requests. One that starts refuses them.
    pub fn wait_until_ready(&self, id: u32) {
        wait_until("the node is ready", || {
            let answer = http::request(self.client(id), "GET", "/readyz", &[], b"");
            answer.is_ok_and(|answer| answer.status == 200)
        });
    }

    /// The ids of the voters and of the learner members, as the node that is asked knows
    /// them.
    pub fn members(&self, ask: u32) -> (Vec<u64>, Vec<u64>) {
        let output = self.member(ask, &["list", "--json"], None);
        succeeds(&output);
        let body: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let with = |role: &str| {
            let members = body["members"].as_array().expect("members").iter();
            let members = members.filter(|member| member["role"] == role);
            members.map(|member| member["id"].as_u64().expect("an id")).collect()
        };
        (with("voter"), with("learner"))
    }

    /// The number of the newest configuration, as this node knows it.
    pub fn configuration(&self, ask: u32) -> Value {
        self.status(ask).expect("it runs")["membership"]["configuration"].clone()
    }

    /// Waits until these nodes say that so many more may fail.
    pub fn wait_until_survivable(&self, ids: &[u32], failures: u64) {
        wait_until("so many may fail", || {
            ids.iter().all(|id| {
                let status = self.status(*id);
                // Without a leader it is 0.
                status.is_some_and(|status| {
                    status["leader"].is_object() && status["failures_survivable"] == failures
                })
            })
        });
    }

    /// Adds a node, starts it and lets it vote.
    pub fn grow(&mut self, ask: u32, id: u32) {
        self.configure(id, &[id]);
        succeeds(&self.member(ask, &["add"], Some(id)));
        // As when the first answer was lost.
        succeeds(&self.member(ask, &["add"], Some(id)));
        assert!(self.members(ask).1.contains(&id.into()));
        self.serve(id);
        let id_text = id.to_string();
        wait_until("the node has caught up and is promoted", || {
            let output = self.member(ask, &["promote", &id_text], None);
            assert!(matches!(output.status.code(), Some(0 | 3)), "{}", errors(&output));
            output.status.success()
        });
        assert!(self.members(ask).0.contains(&id.into()));
    }

    /// Puts a new node in the place of another one, as the operator does: the command, and the
    /// new node beside it. Answers what the command said.
    pub fn replace(&mut self, ask: u32, old: u32, new: u32) -> Output {
        self.configure(new, &[new]);
        self.replace_as_configured(ask, old, new)
    }

    /// The same with settings that are there.
    pub fn replace_as_configured(&mut self, ask: u32, old: u32, new: u32) -> Output {
        self.replace_as_configured_with(ask, old, new, &[])
    }

    /// The same with more words.
    pub fn replace_as_configured_with(
        &mut self,
        ask: u32,
        old: u32,
        new: u32,
        more: &[&'static str],
    ) -> Output {
        let (url, config) = (self.url(ask), self.config(new).display().to_string());
        let (old, more) = (old.to_string(), more.to_vec());
        let replacing = std::thread::spawn(move || {
            let words = ["member", "replace", &old, "--config", &config, "--endpoint", &url];
            synod(&[&words[..], &more].concat())
        });
        let identity = self.data(new).join("identity.json");
        let lock = self.data(new).join("LOCK");
        wait_until("the folder is made and let go", || {
            let is_free = || File::open(&lock).is_ok_and(|lock| lock.try_lock().is_ok());
            identity.exists() && is_free() || replacing.is_finished()
        });
        self.serve(new);
        let replaced = replacing.join().expect("no panic");
        succeeds(&replaced);
        replaced
    }

    /// Has this node lead, which may have to wait until it has caught up.
    pub fn lead(&self, id: u32) {
        let id_text = id.to_string();
        // Whichever leads: it is not known beforehand, and only the leader hands over.
        let urls: Vec<String> = self.running.keys().map(|node| self.url(*node)).collect();
        let urls = urls.join(",");
        wait_until("the node leads", || {
            let words = ["transfer", "--to", &id_text, "--endpoints", &urls];
            self.run(&words, None).status.success()
                && self.status(id).is_some_and(|status| status["role"] == "leader")
        });
    }

    /// A number that the node measures.
    pub fn metric(&self, id: u32, name: &str) -> u64 {
        let page = http::request(self.client(id), "GET", "/metrics", &[], b"");
        let page = page.map(|page| page.text()).unwrap_or_default();
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("synod_{name} ")));
        line.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// Waits until these nodes have applied the same slots with the same effects.
    pub fn agree(&self, ids: &[u32]) {
        wait_until("the same state everywhere", || {
            let seen = ids.iter().map(|id| {
                let status = self.status(*id)?;
                Some((status["applied_slot"].clone(), status["state_hash"].clone()))
            });
            let seen: Option<Vec<_>> = seen.collect();
            seen.is_some_and(|seen| seen.windows(2).all(|two| two[0] == two[1]))
        });
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for (id, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
            let _ = id;
        }
        if std::thread::panicking() {
            for id in 1..10 {
                eprintln!("--- node {id}\n{}", self.log(id));
            }
        }
    }
}

pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", errors(output));
}

/// Expects a refusal with this exit code and these words.
pub fn refused(output: &Output, code: i32, words: &str) {
    let text = errors(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(words), "{words:?} is missing in {text}");
}

/// Clients that write one key after the other wherever a node serves.
pub struct Writers {
    ends: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    nodes: Arc<Mutex<Vec<SocketAddr>>>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Writers {
    pub fn start(nodes: Vec<SocketAddr>) -> Self {
        let (ends, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let nodes = Arc::new(Mutex::new(nodes));
        let threads = (0..4).map(|name: usize| {
            let (ends, count, nodes) = (ends.clone(), count.clone(), nodes.clone());
            std::thread::spawn(move || {
                let mut acknowledged = Vec::new();
                for number in 0_usize.. {
                    if ends.load(Ordering::Relaxed) {
                        break;
                    }
                    let node = {
                        let nodes = nodes.lock().expect("nobody panicked");
                        nodes[(name + number) % nodes.len()]
                    };
                    let key = format!("{name}/{number}");
                    let target = format!("/v1/kv/{key}");
                    let answer = http::request(node, "PUT", &target, &[], key.as_bytes());
                    if answer.is_ok_and(|answer| answer.status < 300) {
                        acknowledged.push(key);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
                acknowledged
            })
        });
        let threads = threads.collect();
        Self { ends, count, nodes, threads }
    }

    pub fn write_to(&self, nodes: Vec<SocketAddr>) {
        *self.nodes.lock().expect("nobody panicked") = nodes;
    }

    /// Waits until some more writes were acknowledged.
    pub fn more(&self) {
        let target = self.count.load(Ordering::Relaxed) + 50;
        wait_until("more writes", || self.count.load(Ordering::Relaxed) >= target);
    }

    /// The keys of all writes that were acknowledged.
    pub fn stop(self) -> Vec<String> {
        self.ends.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    }
}

/// Every write that was acknowledged is there.
pub fn all_are_there(node: SocketAddr, keys: &[String]) {
    for key in keys {
        let answer = http::request(node, "GET", &format!("/v1/kv/{key}"), &[], b"");
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, key.clone()), "a lost write");
    }
}
