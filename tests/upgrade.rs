//! A rolling upgrade: processes of this release and of the one after it in one cluster,
//! restarted node by node under load, forth and back. docs/upgrade.md promises what is
//! tried here.
//!
//! The next release is this source with the feature `next-version`: it speaks one version
//! more and knows one field more in a message, in the log's batches and in the journal's
//! records. `make test` builds it.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::process::Signal;
use support::cluster::{SYNOD, TestCluster, synod};
use support::http;
use support::skip::next_release;
use support::wait::wait_until;

const REGISTERS: usize = 3;

/// A cell that one client counts up and another one reads.
#[derive(Debug, Default)]
struct Register {
    asked_for: AtomicU64,
    acknowledged: AtomicU64,
    reads: AtomicU64,
}

/// Clients that count up cells and read them, and check every read.
struct Load {
    ends: Arc<AtomicBool>,
    nodes: Arc<Mutex<Vec<SocketAddr>>>,
    registers: Arc<[Register; REGISTERS]>,
    threads: Vec<JoinHandle<()>>,
}

/// One client.
struct Client {
    ends: Arc<AtomicBool>,
    nodes: Arc<Mutex<Vec<SocketAddr>>>,
    registers: Arc<[Register; REGISTERS]>,
    name: usize,
    turn: usize,
}

impl Client {
    fn next_node(&mut self) -> SocketAddr {
        self.turn += 1;
        let nodes = self.nodes.lock().expect("nobody panicked");
        nodes[self.turn % nodes.len()]
    }

    /// A linearizable read: number and revision.
    fn read(&mut self) -> Option<(u64, String)> {
        let target = format!("/v1/kv/register-{}", self.name);
        let answer = http::request(self.next_node(), "GET", &target, &[], b"").ok()?;
        match answer.status {
            200 => {
                let revision = answer.header("synod-mod-revision").or(answer.header("etag"));
                let revision = revision.expect("a revision").trim_matches('"').to_owned();
                Some((answer.text().parse().expect("a number"), revision))
            }
            404 => Some((0, String::new())),
            _ => None,
        }
    }

    /// Replaces the number at this revision by the next one, until that was done. A try
    /// whose outcome nobody told may have effect later, but only instead of another one.
    fn count_up(mut self) {
        let registers = self.registers.clone();
        let register = &registers[self.name];
        let target = format!("/v1/kv/register-{}", self.name);
        while !self.ends.load(SeqCst) {
            let Some((before, revision)) = self.read() else { continue };
            register.acknowledged.fetch_max(before, SeqCst);
            let number = before + 1;
            register.asked_for.fetch_max(number, SeqCst);
            let expected = format!("\"{revision}\"");
            let condition = match before {
                0 => ("if-none-match", "*"),
                _ => ("if-match", expected.as_str()),
            };
            let body = number.to_string();
            let node = self.next_node();
            let answer = http::request(node, "PUT", &target, &[condition], body.as_bytes());
            if answer.is_ok_and(|answer| answer.status < 300) {
                register.acknowledged.fetch_max(number, SeqCst);
            }
        }
    }

    /// Each number read is at least what was acknowledged, and read, before it was asked
    /// for, and at most what somebody had asked for when it came.
    fn check_reads(mut self) {
        let registers = self.registers.clone();
        let register = &registers[self.name];
        let mut seen = 0;
        while !self.ends.load(SeqCst) {
            let least = register.acknowledged.load(SeqCst).max(seen);
            let Some((found, _)) = self.read() else { continue };
            let most = register.asked_for.load(SeqCst);
            assert!(
                (least..=most).contains(&found),
                "register {} was {found} when {least} to {most} were possible",
                self.name
            );
            seen = found;
            register.reads.fetch_add(1, SeqCst);
        }
    }
}

impl Load {
    fn start(cluster: &TestCluster) -> Load {
        let (ends, nodes) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let registers = Arc::new(<[Register; REGISTERS]>::default());
        let mut load = Load { ends, nodes, registers, threads: Vec::new() };
        load.ask(cluster, &[1, 2, 3]);
        for name in 0..REGISTERS {
            let client = |turn| Client {
                ends: load.ends.clone(),
                nodes: load.nodes.clone(),
                registers: load.registers.clone(),
                name,
                turn,
            };
            let (writer, reader) = (client(name), client(name + 1));
            load.threads.push(thread::spawn(|| writer.count_up()));
            load.threads.push(thread::spawn(|| reader.check_reads()));
        }
        load
    }

    /// From now on only these are asked.
    fn ask(&self, cluster: &TestCluster, nodes: &[u32]) {
        let addresses = nodes.iter().map(|id| cluster.client_addr(*id)).collect();
        *self.nodes.lock().expect("nobody panicked") = addresses;
    }

    /// Waits until each cell was counted up and read some more times.
    fn more(&self) {
        let counts = || {
            let of = |register: &Register| {
                [register.acknowledged.load(SeqCst), register.reads.load(SeqCst)]
            };
            self.registers.iter().flat_map(of).collect::<Vec<_>>()
        };
        let before = counts();
        wait_until("more reads and writes", || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a client has ended");
            counts().iter().zip(&before).all(|(now, before)| *now >= before + 20)
        });
    }

    /// Ends the clients: what was acknowledged must be there.
    fn stop(self, cluster: &TestCluster) {
        self.ends.store(true, SeqCst);
        for thread in self.threads {
            thread.join().expect("no client panicked");
        }
        for (name, register) in self.registers.iter().enumerate() {
            let answer = cluster.request(1, "GET", &format!("/v1/kv/register-{name}"), &[], b"");
            let found: u64 = answer.text().parse().expect("a number");
            let acknowledged = register.acknowledged.load(SeqCst);
            let asked_for = register.asked_for.load(SeqCst);
            assert!((acknowledged..=asked_for).contains(&found), "{found}, {register:?}");
            println!("register {name}: {found} writes, {register:?}");
        }
    }
}

/// A release, and what it may write.
struct Release<'a> {
    binary: &'a Path,
    write_version: Option<u32>,
}

/// Stops a node with this signal and starts it from this release in its place.
fn replace(cluster: &mut TestCluster, id: u32, signal: Signal, release: &Release<'_>) {
    stop(cluster, id, signal);
    start(cluster, id, release);
    wait_until_ready(cluster, id);
}

fn stop(cluster: &mut TestCluster, id: u32, signal: Signal) {
    cluster.signal(id, signal);
    cluster.wait_for_death(id);
}

fn wait_until_ready(cluster: &mut TestCluster, id: u32) {
    wait_until("the node is ready", || {
        assert!(!cluster.has_ended(id), "node {id} ended: {}", cluster.node_output(id));
        cluster.try_request(id, "GET", "/readyz", &[], b"").is_ok_and(|r| r.status == 200)
    });
}

fn start(cluster: &mut TestCluster, id: u32, release: &Release<'_>) {
    let path = cluster.settings_path(id);
    let text = fs::read_to_string(&path).expect("settings");
    let kept = text.lines().filter(|line| !line.starts_with("write_version"));
    let first = release.write_version.map(|version| format!("write_version = {version}"));
    let lines: Vec<&str> = first.as_deref().into_iter().chain(kept).collect();
    fs::write(&path, lines.join("\n")).expect("settings");
    let mut command = Command::new(release.binary);
    command.arg("serve").arg("--config").arg(path);
    cluster.start_by_hand_with(id, command);
}

/// A number that a node tells of itself.
fn metric(cluster: &TestCluster, id: u32, name: &str) -> Option<u64> {
    let page = cluster.try_request(id, "GET", "/metrics", &[], b"").ok()?.text();
    let line = page.lines().find(|line| line.split(' ').next() == Some(name))?;
    line.split(' ').next_back()?.parse().ok()
}

/// Waits until the nodes speak this version with each other.
fn speak(cluster: &TestCluster, pairs: &[(u32, u32, u64)]) {
    for (id, peer, version) in pairs {
        let name = format!("synod_peer_version{{peer=\"{peer}\"}}");
        wait_until("the version of two peers", || metric(cluster, *id, &name) == Some(*version));
    }
}

fn wait_for_log_version(cluster: &TestCluster, ids: &[u32], version: u64) {
    for id in ids {
        wait_until("the version of the log", || {
            metric(cluster, *id, "synod_version_log") == Some(version)
        });
    }
}

/// Waits until the nodes have applied the same slots with the same effects.
fn agree(cluster: &TestCluster) {
    wait_until("the same state everywhere", || {
        let seen = cluster.ids().map(|id| {
            let status = cluster.status(id)?;
            Some((status["applied_slot"].clone(), status["state_hash"].clone()))
        });
        let seen: Option<Vec<_>> = seen.collect();
        seen.is_some_and(|seen| seen.windows(2).all(|two| two[0] == two[1]))
    });
}

/// The settings of the node are not for this release: it says so and ends.
fn is_refused(cluster: &mut TestCluster, id: u32, release: &Release<'_>, words: &str) {
    start(cluster, id, release);
    let status = cluster.wait_for_end(id);
    let said = cluster.node_output(id);
    assert!(!status.success() && said.contains(words), "{words:?} is missing in {said}");
}

#[test]
fn nodes_are_upgraded_one_by_one_under_load_and_taken_back() {
    let Some(next) = next_release() else { return };
    let release = Release { binary: Path::new(SYNOD), write_version: None };
    let next_release = Release { binary: &next, write_version: None };
    let raised = Release { binary: &next, write_version: Some(2) };

    let mut cluster = TestCluster::start(3);
    let load = Load::start(&cluster);
    load.more();

    // Forth: the two releases serve together, and what is written stays what both read.
    for id in 1..=3 {
        replace(&mut cluster, id, Signal::TERM, &next_release);
        load.more();
        let mixed = if id < 3 { 1 } else { 2 };
        speak(&cluster, &[(1, 3, mixed), (3, 1, mixed)]);
    }
    speak(&cluster, &[(1, 2, 2), (2, 3, 2)]);
    wait_for_log_version(&cluster, &[1, 2, 3], 1);

    // Back, without warning.
    for id in 1..=3 {
        replace(&mut cluster, id, Signal::KILL, &release);
        load.more();
    }
    speak(&cluster, &[(1, 2, 1), (2, 3, 1), (3, 1, 1)]);

    // Somebody raises the version while node 3 has not been upgraded: it is told so, and
    // nothing comes into the log that it could not read.
    for id in [1, 2] {
        replace(&mut cluster, id, Signal::TERM, &next_release);
    }
    load.ask(&cluster, &[1, 2]);
    for id in [1, 2] {
        // Between the two a node may wait for a leader that it cannot hear.
        stop(&mut cluster, id, Signal::TERM);
        start(&mut cluster, id, &raised);
    }
    for id in [1, 2] {
        wait_until_ready(&mut cluster, id);
    }
    // Whichever of the two dials first says it; then both are quiet for a minute.
    wait_until("node 3 is told", || {
        cluster.node_output(3).contains("install a newer release on n3")
    });
    cluster.leader_among(&[1, 2]);
    load.more();
    wait_for_log_version(&cluster, &[1, 2], 1);
    for id in [1, 2] {
        replace(&mut cluster, id, Signal::TERM, &next_release);
    }
    load.ask(&cluster, &[1, 2, 3]);
    load.more();
    replace(&mut cluster, 3, Signal::TERM, &next_release);
    load.more();

    // Everybody reads it: now it may be raised.
    for id in 1..=3 {
        replace(&mut cluster, id, Signal::TERM, &raised);
        load.more();
    }
    wait_for_log_version(&cluster, &[1, 2, 3], 2);
    load.more();

    // There is no way back from here, and whoever tries it is told why.
    load.ask(&cluster, &[1, 2]);
    stop(&mut cluster, 3, Signal::TERM);
    let unknown = Release { write_version: Some(2), ..release };
    is_refused(&mut cluster, 3, &unknown, "write_version: must be 1 to 1");
    is_refused(&mut cluster, 3, &release, "has format version 2, which this program does not know");
    let folder = cluster.settings_path(3).with_file_name("data");
    let looked = synod(&["inspect", "--data", folder.to_str().expect("a path")]);
    let said = String::from_utf8_lossy(&looked.stdout) + String::from_utf8_lossy(&looked.stderr);
    assert!(said.contains("has format version 2"), "{said}");
    start(&mut cluster, 3, &raised);
    load.ask(&cluster, &[1, 2, 3]);
    load.more();
    load.stop(&cluster);
    agree(&cluster);
}
