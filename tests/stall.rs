//! A disk that takes no more syncs and fails none: whoever leads with it gives the office
//! away, and a follower with it is waited for by nobody.

mod support;

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::cluster::TestCluster;
use support::skip::{Need, skip};
use support::wait::{wait_for, wait_until};

/// Longer than any wait of a test.
const FOR_EVER: &str = "inject=fdatasync,fsync:delay_enter=600000000";
/// Writes that must be acknowledged while one disk hangs.
const WRITES: usize = 300;

/// A node whose disk hangs, until it is dropped.
struct Stalled(Child);

impl Stalled {
    /// From now on no sync of this node returns.
    fn begin(cluster: &TestCluster, id: u32) -> Self {
        let pid = cluster.pid(id).expect("it runs").to_string();
        let mut strace = Command::new("strace");
        strace.args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fdatasync,fsync",
            "-e",
            FOR_EVER,
        ]);
        strace.args(["-p", &pid]).stdin(Stdio::null()).stderr(Stdio::null());
        let stalled = Self(strace.spawn().expect("strace runs"));
        wait_until("all its threads are held", || all_traced(&pid));
        stalled
    }
}

/// Whether every thread of the process has a tracer.
fn all_traced(pid: &str) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    tasks.flatten().all(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_none_or(|tracer| tracer.trim() != "0")
    })
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.0);
        let _ = kill_process(pid, Signal::TERM);
        let _ = self.0.wait();
    }
}

fn is_there() -> bool {
    Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success())
}

fn ready(cluster: &TestCluster, id: u32) -> bool {
    cluster.try_request(id, "GET", "/readyz", &[], b"").is_ok_and(|answer| answer.status == 200)
}

/// How many syncs of its journal have returned.
fn syncs(cluster: &TestCluster, id: u32) -> u64 {
    let page = cluster.request(id, "GET", "/metrics", &[], b"").text();
    let line = page.lines().find_map(|line| line.strip_prefix("synod_journal_syncs_total "));
    line.and_then(|value| value.parse().ok()).expect("a number")
}

/// So many writes by way of this node, each acknowledged sooner or later.
fn write(cluster: &TestCluster, id: u32, what: &str) {
    for number in 0..WRITES {
        let target = format!("/v1/kv/{what}/{number}");
        wait_for("an acknowledgement", || {
            let put = cluster.try_request(id, "PUT", &target, &[], what.as_bytes()).ok()?;
            (put.status < 300).then_some(())
        });
    }
}

fn all_there(cluster: &TestCluster, id: u32, what: &str) {
    for number in 0..WRITES {
        let read = cluster.request(id, "GET", &format!("/v1/kv/{what}/{number}"), &[], b"");
        assert!(read.status == 200 && read.body == what.as_bytes(), "{what}/{number}");
    }
}

#[test]
fn a_leader_whose_disk_hangs_gives_its_office_away() {
    if !is_there() {
        return skip(Need::Strace, "strace is not installed");
    }
    let cluster = TestCluster::start(3);
    let first = cluster.leader();
    let others: Vec<u32> = cluster.ids().filter(|id| *id != first).collect();
    write(&cluster, first, "before");
    let stalled = Stalled::begin(&cluster, first);
    // It must have something to sync: a leader that has nothing to do may lead on.
    let put = |id: u32| cluster.try_request(id, "PUT", "/v1/kv/poke", &[], b"");
    wait_until("another leads", || {
        let _ = put(others[0]);
        others.contains(&cluster.leader_among(&[1, 2, 3]))
    });
    write(&cluster, others[0], "meanwhile");
    let leads = cluster.leader_among(&others);
    assert!(others.contains(&leads), "and keeps the office while the disk hangs");
    drop(stalled);
    wait_until("the first one is well again", || ready(&cluster, first));
    for id in cluster.ids() {
        all_there(&cluster, id, "before");
        all_there(&cluster, id, "meanwhile");
    }
}

#[test]
fn a_follower_whose_disk_hangs_is_waited_for_by_nobody() {
    if !is_there() {
        return skip(Need::Strace, "strace is not installed");
    }
    let cluster = TestCluster::start(3);
    let leader = cluster.leader();
    let follower = cluster.ids().find(|id| *id != leader).expect("three nodes");
    let ballot = |id| cluster.status(id).expect("it answers")["ballot"].clone();
    let before = ballot(leader);
    let stalled = Stalled::begin(&cluster, follower);
    let held = syncs(&cluster, follower);
    write(&cluster, leader, "meanwhile");
    // One may have been on its way before the first that hangs.
    assert!(syncs(&cluster, follower) <= held + 1, "nothing of it is durable on the follower");
    assert_eq!(ballot(leader), before, "nobody else stood for election");
    drop(stalled);
    wait_until("the follower is well again", || ready(&cluster, follower));
    all_there(&cluster, follower, "meanwhile");
}
