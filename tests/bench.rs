//! The benchmarks as a user runs them: what they find, and that they leave
//! nothing behind.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::cluster::{SYNOD, TestCluster, folder, output_of};
use support::wait::{wait_for, wait_until};

/// Each kill takes some six seconds, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(240);

fn failover(folder: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(SYNOD);
    command.current_dir(folder).args(["bench", "failover", "--clients", "4", "--json"]);
    command.args(options);
    command
}

/// The processes that have a path in their command line.
fn processes_naming(path: &Path) -> Vec<i32> {
    let path = path.as_os_str().as_encoded_bytes();
    let names = |pid: &i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.windows(path.len()).any(|part| part == path)
    };
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(names).collect()
}

fn scratch_folders(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("synod-bench-")).collect()
}

fn assert_nothing_left(folder: &Path) {
    wait_until("every node's end", || processes_naming(folder).is_empty());
    assert_eq!(scratch_folders(folder), Vec::<String>::new());
}

fn check_result(result: &Value, kills: usize) {
    assert_eq!(result["passed"], true, "{}", result["problems"]);
    assert_eq!((&result["failovers"], &result["check"]["losses"]), (&kills.into(), &0.into()));
    assert_eq!(result["check"]["keys_lost"], 0);
    assert!(result["check"]["versions"].as_u64() > Some(0), "the answers tell versions");
    let each = result["kills"].as_array().expect("kills");
    assert_eq!(each.len(), kills);
    for kill in each {
        assert!(kill["first_acknowledgement_ms"].as_f64() > Some(0.0), "{kill}");
        assert_ne!(kill["next_leader"], kill["node"], "{kill}");
    }
}

#[test]
fn leaders_of_its_own_cluster_are_killed_and_nothing_stays_behind() {
    let folder = folder();
    let mut command = failover(folder.path(), &["--nodes", "3", "--kills", "2", "--report", "out"]);
    let output = output_of(&mut command, PATIENCE);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    check_result(&result, 2);
    assert!(result["kills"][0]["ready_ms"].is_number(), "it was started again by us");
    assert!(folder.path().join("out/index.html").exists());
    assert_nothing_left(folder.path());
}

#[test]
fn the_leader_of_a_running_cluster_is_killed_and_its_runner_starts_it_again() {
    let mut cluster = TestCluster::prepare(3);
    cluster.option("--restart");
    cluster.launch();
    let before: Vec<_> = cluster.ids().map(|id| cluster.pid(id)).collect();
    let folder = folder();
    let file = cluster.data_dir().join("cluster.json").display().to_string();
    let mut command = failover(folder.path(), &["--cluster", &file, "--kills", "1"]);
    let output = output_of(&mut command, PATIENCE);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    check_result(&result, 1);
    for (id, old) in cluster.ids().zip(before) {
        let now = cluster.pid(id);
        assert!(now.is_some(), "node {id} runs");
        assert_eq!(now != old, result["kills"][0]["node"] == id, "only the victim is another");
    }
}

#[test]
fn a_running_benchmark_that_is_terminated_leaves_nothing_behind() {
    let folder = folder();
    let mut bench = start(&mut failover(folder.path(), &["--nodes", "3"]));
    wait_until("the nodes run", || processes_naming(folder.path()).len() >= 3);
    let code = end(&mut bench, Signal::TERM);
    assert_eq!(code, Some(143), "as a shell reports SIGTERM");
    assert_nothing_left(folder.path());
}

#[test]
fn an_interrupted_benchmark_leaves_no_leader_of_others_paused() {
    let cluster = TestCluster::start(3);
    let folder = folder();
    let file = cluster.data_dir().join("cluster.json").display().to_string();
    let mut bench = start(&mut failover(folder.path(), &["--cluster", &file, "--how", "stop"]));
    let paused = || cluster.ids().find(|id| cluster.pid(*id).is_some_and(is_paused));
    let leader = wait_for("a leader that stands still", paused);
    assert_eq!(end(&mut bench, Signal::INT), Some(130));
    let pid = cluster.pid(leader).expect("node runs");
    wait_until("it goes on", || !is_paused(pid));
}

fn start(command: &mut Command) -> Child {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("synod starts")
}

/// Sends a benchmark a signal; gives its exit code.
fn end(bench: &mut Child, signal: Signal) -> Option<i32> {
    let pid = i32::try_from(bench.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("it takes a signal");
    wait_for("its end", || bench.try_wait().expect("its state")).code()
}

fn is_paused(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}
