//! Nothing leaves a node before what it rests on is durable: of a real cluster on the
//! real disk every system call is recorded, and every Promise, Accepted and
//! acknowledgement is held against the syncs of the journals (docs/durability.md).
#![allow(missing_docs, unreachable_pub)]

mod proof;
mod strace;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use proof::Findings;
use rustix::process::Signal;
use strace::Call;
use support::cluster::{TestCluster, folder, synod};
use support::http;
use support::skip::{Need, skip};
use support::wait::wait_until;

/// The name of the trace, by which its lines are known.
const TRACE: &str = "durability.trace";
/// Messages that are checked at the least, and how many more are recorded: the last ones may
/// never reach a socket.
const MESSAGES_MIN: usize = 10_000;
const MESSAGES_RECORDED: usize = 10_500;
/// As many as the mistake that is the rarest one to show needs.
const SLOW_MESSAGES: usize = 6_000;
const QUORUM: usize = 2;
const CLIENTS: usize = 6;
/// So small that each node needs several segments of its journal.
const SETTINGS: &str = "\n[limits]\nsegment_bytes = 524288\n";
/// New segments in use in a full run, the first one of each node among them.
const SEGMENTS_MIN: usize = 6;
const ELECTIONS: usize = 3;
/// A paused node does not answer at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether syncs take longer than they must.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    AsItIs,
    Slow,
}

/// A traced cluster under load.
struct Traced {
    cluster: TestCluster,
    log: PathBuf,
    trace: PathBuf,
    _folder: tempfile::TempDir,
}

impl Traced {
    fn start(disk: Disk, planted: Option<&str>) -> Self {
        let folder = folder();
        let (log, trace) = (folder.path().join("strace.log"), folder.path().join(TRACE));
        let mut cluster = Self::set_up();
        cluster.start_by(strace::tracer(&log, disk == Disk::Slow));
        cluster.variable("SYNOD_TRACE_DURABILITY", trace.to_str().expect("UTF-8"));
        if let Some(bug) = planted {
            cluster.variable("SYNOD_PLANTED", bug);
        }
        cluster.launch();
        Traced { cluster, log, trace, _folder: folder }
    }

    /// Nodes with settings of our own, and with journals that are still to be made. The
    /// runner writes their settings only with its first start.
    fn set_up() -> TestCluster {
        let mut cluster = TestCluster::start(3);
        assert!(cluster.stop().success(), "{}", cluster.runner_output());
        for id in cluster.ids() {
            let path = cluster.settings_path(id);
            let text = fs::read_to_string(&path).expect("the node's settings") + SETTINGS;
            fs::write(&path, text).expect("the node's settings");
            fs::remove_dir_all(path.with_file_name("data")).expect("the node's data");
            let made = synod(&["init", "--config", path.to_str().expect("UTF-8")]);
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        cluster
    }

    /// Writes until so many messages are in the trace, while the leader is
    /// paused now and then, so that others are elected.
    fn load(&mut self, messages: usize, elections: usize) {
        let is_over = AtomicBool::new(false);
        let addresses: Vec<SocketAddr> =
            self.cluster.ids().map(|id| self.cluster.client_addr(id)).collect();
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            let write = || {
                while !is_over.load(Relaxed) {
                    let number = next.fetch_add(1, Relaxed);
                    let to = addresses[number % addresses.len()];
                    let target = format!("/v1/kv/durable/{number:08}");
                    // What is refused or lost meanwhile is no message to be checked.
                    let _ = http::request_within(PATIENCE, to, "PUT", &target, &[], b"value");
                }
            };
            (0..CLIENTS).for_each(|_| drop(scope.spawn(write)));
            let steps = elections + 1;
            for step in 1..=steps {
                self.wait_for_lines(messages * step / steps);
                if step < steps {
                    self.elect();
                }
            }
            is_over.store(true, Relaxed);
        });
    }

    fn wait_for_lines(&self, lines: usize) {
        wait_until("the trace grows", || {
            let text = fs::read(&self.trace).expect("the trace");
            text.iter().filter(|byte| **byte == b'\n').count() >= lines
        });
    }

    fn elect(&self) {
        let leader = self.cluster.leader();
        self.cluster.signal(leader, Signal::STOP);
        let others: Vec<u32> = self.cluster.ids().filter(|id| *id != leader).collect();
        self.cluster.leader_among(&others);
        self.cluster.signal(leader, Signal::CONT);
    }

    /// Stops the cluster and checks what was recorded.
    fn findings(self) -> Findings {
        proof::check(&self.calls(), QUORUM)
    }

    /// Stops the cluster; what it did.
    fn calls(mut self) -> Vec<Call> {
        assert!(self.cluster.stop().success(), "{}", self.cluster.runner_output());
        wait_until("the tracer ends after the last process", || ends_with_exit(&self.log));
        strace::read(&self.log, proof::wants)
    }
}

/// Whether the runner, whose exit is the last one, is gone.
fn ends_with_exit(log: &Path) -> bool {
    let text = fs::read_to_string(log).expect("the log of strace");
    let first = text.split(' ').next().expect("the runner's first thread");
    text.ends_with('\n')
        && text.lines().next_back().is_some_and(|line| {
            line.split(' ').next() == Some(first) && line.contains("+++ exited with")
        })
}

fn show(what: &str, findings: &Findings) {
    let Findings { promises, accepted, acknowledgements, reported, segments, .. } = findings;
    eprintln!(
        "{what}: {} messages checked ({promises} promises of {reported} slots, {accepted} accepted, \
         {acknowledgements} acknowledgements) in {segments} segments, {} early, {} unproven, \
         closest {} us",
        findings.checked(),
        findings.early.len(),
        findings.unproven.len(),
        findings.closest_us.unwrap_or(0),
    );
    for finding in findings.early.iter().take(5).chain(findings.unproven.iter().take(5)) {
        eprintln!("  {finding}");
    }
}

#[test]
fn nothing_leaves_before_what_it_rests_on_is_durable() {
    if !strace::can_trace() {
        return skip(Need::Strace, "strace is not installed, or may not trace");
    }
    let mut traced = Traced::start(Disk::AsItIs, None);
    traced.load(MESSAGES_RECORDED, ELECTIONS);
    let mut calls = traced.calls();
    let findings = proof::check(&calls, QUORUM);
    show("as released", &findings);
    assert!(findings.early.is_empty() && findings.unproven.is_empty(), "see above");
    assert!(findings.checked() >= MESSAGES_MIN, "{} messages", findings.checked());
    assert!(findings.promises >= ELECTIONS, "{} promises", findings.promises);
    assert!(findings.segments >= SEGMENTS_MIN, "{} segments", findings.segments);

    // The same run, had no node ever synced a folder: then no segment has a durable name.
    calls.retain(|call| !proof::is_folder(call));
    let findings = proof::check(&calls, QUORUM);
    show("without the syncs of folders", &findings);
    assert!(findings.early.len() >= findings.checked(), "{} early", findings.early.len());
}

/// What the next test finds is not the slow disk's doing.
#[test]
fn on_a_slow_disk_nothing_leaves_early_either() {
    if !strace::can_trace() {
        return skip(Need::Strace, "strace is not installed, or may not trace");
    }
    let mut traced = Traced::start(Disk::Slow, None);
    traced.load(SLOW_MESSAGES, ELECTIONS);
    let findings = traced.findings();
    show("on a slow disk", &findings);
    assert!(findings.early.is_empty() && findings.unproven.is_empty(), "see above");
    assert!(findings.promises >= ELECTIONS && findings.reported > 0, "see above");
}

/// The proof finds what it is made for.
#[test]
fn a_node_that_is_told_to_hurry_is_found() {
    if !strace::can_trace() {
        return skip(Need::Strace, "strace is not installed, or may not trace");
    }
    for (bug, kind, messages, elections) in [
        ("AcceptedBeforeDurable", "accepted", 1_500, 0),
        ("PromiseBeforeDurable", "promise", 1_500, ELECTIONS),
        // What it says is durable, though in other ballots than it says. Only of slots that were
        // under way when the leader was stopped, and after some elections there is none.
        ("OneBallotForBoth", "in ballot", 3_000, 4 * ELECTIONS),
        // Rare: both followers, or one and the leader, must be late.
        ("OwnVoteBeforeDurable", "acknowledgement", SLOW_MESSAGES, 0),
    ] {
        let mut traced = Traced::start(Disk::Slow, Some(bug));
        traced.load(messages, elections);
        let findings = traced.findings();
        show(bug, &findings);
        let is_found = findings.early.iter().any(|early| early.contains(kind));
        assert!(is_found, "{bug} was not found");
        assert!(findings.unproven.is_empty(), "see above");
    }
}
