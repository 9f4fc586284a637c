//! A cluster in this process that looks like Synod from outside: nodes that
//! share one map, one of which calls itself leader. It can be told to lose
//! what it acknowledged.

#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(unreachable_pub, reason = "a module of a test, not of a library")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use synod_bench::failover::{ClusterControl, ControlError};
use synod_bench::{NodeAddress, NodeId};

/// How long a cluster whose node was killed answers nothing.
const ELECTION: Duration = Duration::from_millis(20);

#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub enum Fault {
    #[default]
    None,
    /// A kill takes the newest value of every key with it.
    LosesLastWrites,
    /// A kill takes the one write with it that was acknowledged last.
    LosesNewestWrite,
    /// A kill has the next write applied twice.
    AppliesTwice,
    /// A kill makes a write appear that nobody asked for.
    InventsWrites,
    /// Every answer to a write is a refusal.
    RefusesWrites,
    /// A node is ready only when it was asked a few times, and until then
    /// refuses what it is asked for.
    SlowStart,
    /// A node that led before says that it still does.
    TwoLeaders,
    /// A node that was killed stays dead whatever is done.
    StaysDead,
    /// The killed leader leads again as soon as it is back.
    LeaderComesBack,
    /// Reads are never answered well.
    RefusesReads,
}

#[derive(Default)]
struct State {
    map: BTreeMap<String, Vec<Vec<u8>>>,
    leader: usize,
    /// Grows from leader to leader.
    round: u64,
    dead: BTreeSet<usize>,
    stopped: BTreeSet<usize>,
    connections: Vec<(usize, TcpStream)>,
    writes: u64,
    /// How often each key was written.
    versions: BTreeMap<String, u64>,
    /// The key of the write that was acknowledged last.
    newest: Option<String>,
    applies_twice: bool,
    /// How often a node was asked whether it is ready.
    questions: u64,
    /// Requests for keys that came before it was.
    early: u64,
    /// Nothing is answered before this; an election takes its time.
    elected_at: Option<Instant>,
    fault: Fault,
}

impl State {
    fn starts(&self) -> bool {
        self.fault == Fault::SlowStart && self.questions <= 4
    }

    fn election_left(&self) -> Option<Duration> {
        self.elected_at?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

pub struct FakeCluster {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
}

impl FakeCluster {
    pub fn start(nodes: usize, fault: Fault) -> Self {
        // With two leaders, the first node's time is over.
        let leader = usize::from(fault == Fault::TwoLeaders);
        let state = State { fault, leader, round: 2, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let mut addresses = Vec::new();
        for node in 0..nodes {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            addresses.push(listener.local_addr().unwrap());
            let shared = Arc::clone(&shared);
            thread::spawn(move || listen(&shared, node, &listener));
        }
        Self { shared, addresses }
    }

    pub fn addresses(&self) -> Vec<NodeAddress> {
        let address = |(index, address): (usize, &SocketAddr)| NodeAddress {
            id: NodeId(index as u64 + 1),
            pid: None,
            client_url: format!("http://{address}"),
        };
        self.addresses.iter().enumerate().map(address).collect()
    }

    pub fn writes(&self) -> u64 {
        self.shared.state.lock().unwrap().writes
    }

    /// Requests for keys that came before the nodes were ready.
    pub fn early_requests(&self) -> u64 {
        self.shared.state.lock().unwrap().early
    }

    pub fn kill_node(&self, node: usize) {
        let mut state = self.shared.state.lock().unwrap();
        state.dead.insert(node);
        for (_, connection) in state.connections.iter().filter(|(of, _)| *of == node) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        state.connections.retain(|(of, _)| *of != node);
        let nodes = self.addresses.len();
        if state.leader == node && state.fault != Fault::LeaderComesBack {
            state.leader = (node + 1) % nodes;
            state.round += 1;
        }
        let fault = state.fault;
        for values in state.map.values_mut() {
            if fault == Fault::LosesLastWrites && values.len() > 1 {
                values.pop();
            }
            if fault == Fault::InventsWrites {
                let mut value = values.last().unwrap().clone();
                let number = u64::from_be_bytes(value[8..16].try_into().unwrap());
                value[8..16].copy_from_slice(&(number + 1_000_000).to_be_bytes());
                values.push(value);
            }
        }
        let newest = state.newest.take().filter(|_| fault == Fault::LosesNewestWrite);
        if let Some(values) = newest.and_then(|key| state.map.get_mut(&key)) {
            values.pop();
        }
        state.applies_twice = fault == Fault::AppliesTwice;
        state.elected_at = Some(Instant::now() + ELECTION);
        if fault == Fault::LeaderComesBack {
            // It is back before anybody else has noticed.
            state.dead.remove(&node);
        }
    }
}

impl ClusterControl for FakeCluster {
    fn nodes(&mut self) -> Result<Vec<NodeAddress>, ControlError> {
        Ok(self.addresses())
    }

    fn kill(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.kill_node(index(node));
        Ok(())
    }

    fn stop(&mut self, node: NodeId) -> Result<(), ControlError> {
        let node = index(node);
        let mut state = self.shared.state.lock().unwrap();
        state.stopped.insert(node);
        state.leader = (node + 1) % self.addresses.len();
        state.round += 1;
        Ok(())
    }

    fn cont(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.shared.state.lock().unwrap().stopped.remove(&index(node));
        self.shared.changed.notify_all();
        Ok(())
    }

    fn restart(&mut self, node: NodeId) -> Result<(), ControlError> {
        let mut state = self.shared.state.lock().unwrap();
        if state.fault != Fault::StaysDead {
            state.dead.remove(&index(node));
        }
        Ok(())
    }
}

fn index(node: NodeId) -> usize {
    usize::try_from(node.0).unwrap() - 1
}

/// A dead node still has its port here, but hangs up on everybody.
fn listen(shared: &Arc<Shared>, node: usize, listener: &TcpListener) {
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        let mut state = shared.state.lock().unwrap();
        if state.dead.contains(&node) {
            continue;
        }
        state.connections.push((node, stream.try_clone().unwrap()));
        let shared = Arc::clone(shared);
        thread::spawn(move || serve(&shared, node, stream));
    }
}

fn serve(shared: &Shared, node: usize, mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut bytes = Vec::new();
    while let Some((method, path, body)) = read_request(&mut stream, &mut bytes) {
        let mut state = shared.state.lock().unwrap();
        while state.stopped.contains(&node) {
            state = shared.changed.wait(state).unwrap();
        }
        while let Some(left) = state.election_left().filter(|_| path.starts_with("/v1/kv/")) {
            state = shared.changed.wait_timeout(state, left).unwrap().0;
        }
        if state.dead.contains(&node) {
            return;
        }
        let (status, body) = answer(&mut state, node, &method, &path, body);
        drop(state);
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all(&[head.as_bytes(), &body].concat()).is_err() {
            return;
        }
        if method == "PUT" && status == 200 {
            shared.state.lock().unwrap().newest = Some(path.clone());
        }
        if !path.starts_with("/v1/kv/") {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn answer(
    state: &mut State,
    node: usize,
    method: &str,
    path: &str,
    body: Vec<u8>,
) -> (u16, Vec<u8>) {
    match (method, path) {
        (_, "/v1/status") if state.leader == node => {
            let status = format!(r#"{{"role":"leader","ballot":"{}.{}"}}"#, state.round, node + 1);
            (200, status.into_bytes())
        }
        (_, "/v1/status") if state.fault == Fault::TwoLeaders && node == 0 => {
            (200, br#"{"role":"leader","ballot":"1.1"}"#.to_vec())
        }
        (_, "/v1/status") => (200, br#"{"role":"follower"}"#.to_vec()),
        (_, "/readyz") => {
            state.questions += 1;
            (if state.starts() { 503 } else { 200 }, Vec::new())
        }
        (_, "/metrics") => {
            let writes = state.writes;
            let values = writes / 8;
            let text = format!(
                "synod_values_chosen_total {values}\nsynod_commands_applied_total {writes}\n\
                 synod_journal_syncs_total{{node=\"{node}\"}} {values}\n"
            );
            (200, text.into_bytes())
        }
        ("PUT", _) if state.starts() => {
            state.early += 1;
            (503, br#"{"outcome":"not_applied"}"#.to_vec())
        }
        ("PUT", _) if state.fault == Fault::RefusesWrites => {
            (503, br#"{"outcome":"not_applied"}"#.to_vec())
        }
        ("PUT", key) => {
            state.writes += 1;
            let values = state.map.entry(key.to_owned()).or_default();
            values.push(body);
            if values.len() > 2 {
                values.remove(0);
            }
            let version = state.versions.entry(key.to_owned()).or_default();
            *version += if std::mem::take(&mut state.applies_twice) { 2 } else { 1 };
            (200, format!("{{\"version\":{version}}}").into_bytes())
        }
        _ if state.fault == Fault::RefusesReads => (500, Vec::new()),
        ("GET", key) => match state.map.get(key).and_then(|values| values.last()) {
            Some(value) => (200, value.clone()),
            None => (404, Vec::new()),
        },
        _ => (405, Vec::new()),
    }
}

fn read_request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<(String, String, Vec<u8>)> {
    let mut part = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                let body = bytes[end + 4..end + 4 + length].to_vec();
                bytes.drain(..end + 4 + length);
                let mut words = head.split(' ');
                return Some((words.next()?.to_owned(), words.next()?.to_owned(), body));
            }
        }
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
        }
    }
}
