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
use support::cluster::{TestCluster, folder};
use support::http;
use support::wait::wait_until;

/// The name of the trace, by which its lines are known.
const TRACE: &str = "durability.trace";
/// Messages that are checked at the least, and how many more are recorded: the last ones may
/// never reach a socket.
const MESSAGES_MIN: usize = 10_000;
const MESSAGES_RECORDED: usize = 10_500;
const QUORUM: usize = 2;
const CLIENTS: usize = 6;
const ELECTIONS: usize = 3;
/// A paused node does not answer at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// A traced cluster under load.
struct Traced {
    cluster: TestCluster,
    log: PathBuf,
    trace: PathBuf,
    _folder: tempfile::TempDir,
}

impl Traced {
    fn start(planted: Option<&str>) -> Self {
        let folder = folder();
        let (log, trace) = (folder.path().join("strace.log"), folder.path().join(TRACE));
        let mut cluster = TestCluster::prepare(3);
        cluster.start_by(strace::tracer(&log, planted.is_some()));
        cluster.variable("SYNOD_TRACE_DURABILITY", trace.to_str().expect("UTF-8"));
        if let Some(bug) = planted {
            cluster.variable("SYNOD_PLANTED", bug);
        }
        cluster.launch();
        Traced { cluster, log, trace, _folder: folder }
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
    fn findings(mut self) -> Findings {
        assert!(self.cluster.stop().success(), "{}", self.cluster.runner_output());
        wait_until("the tracer ends after the last process", || ends_with_exit(&self.log));
        let calls = strace::read(&self.log, proof::wants);
        proof::check(&calls, QUORUM)
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

/// Where every test must run, a skipped one is a failed one.
fn skip(reason: &str) {
    let must_run = std::env::var_os("SYNOD_TESTS_MUST_RUN").is_some_and(|set| set == "1");
    assert!(!must_run, "{reason}, and SYNOD_TESTS_MUST_RUN is set");
    eprintln!("skipped: {reason}");
}

fn show(what: &str, findings: &Findings) {
    let Findings { promises, accepted, acknowledgements, early, unproven, closest_us } = findings;
    eprintln!(
        "{what}: {} messages checked ({promises} promises, {accepted} accepted, \
         {acknowledgements} acknowledgements), {} early, {} unproven, closest {} us",
        findings.checked(),
        early.len(),
        unproven.len(),
        closest_us.unwrap_or(0),
    );
    for finding in early.iter().take(5).chain(unproven.iter().take(5)) {
        eprintln!("  {finding}");
    }
}

#[test]
fn nothing_leaves_before_what_it_rests_on_is_durable() {
    if !strace::can_trace() {
        return skip("strace is not installed, or may not trace");
    }
    let mut traced = Traced::start(None);
    traced.load(MESSAGES_RECORDED, ELECTIONS);
    let findings = traced.findings();
    show("as released", &findings);
    assert!(findings.early.is_empty() && findings.unproven.is_empty(), "see above");
    assert!(findings.checked() >= MESSAGES_MIN, "{} messages", findings.checked());
    assert!(findings.promises >= ELECTIONS, "{} promises", findings.promises);
}

/// The proof finds what it is made for.
#[test]
fn a_node_that_is_told_to_hurry_is_found() {
    if !strace::can_trace() {
        return skip("strace is not installed, or may not trace");
    }
    for (bug, kind, messages, elections) in [
        ("AcceptedBeforeDurable", "accepted", 1_500, 0),
        ("PromiseBeforeDurable", "promise", 1_500, 3),
        // Rare: both followers, or one and the leader, must be late.
        ("OwnVoteBeforeDurable", "acknowledgement", 6_000, 0),
    ] {
        let mut traced = Traced::start(Some(bug));
        traced.load(messages, elections);
        let findings = traced.findings();
        show(bug, &findings);
        let is_found = findings.early.iter().any(|early| early.contains(kind));
        assert!(is_found, "{bug} was not found");
        assert!(findings.unproven.is_empty(), "see above");
    }
}
