//! `synod chaos` with disks that are full for a while, as a user runs it.

mod support;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::cluster::{SYNOD, folder, output_of};
use support::skip::{Need, skip};
use support::wait::wait_until;

/// Each fault takes some three seconds, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(240);

/// Why there are no disks here, if there are none.
fn lack(errors: &str) -> Option<&str> {
    let (_, reason) = errors.split_once("full disks are left out: ")?;
    reason.lines().next()
}

/// Sooner than this it is not over.
const LONG_S: &str = "600";

/// Names of the files that are disks just now, below this folder.
fn loops_below(folder: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").expect("the devices").flatten();
    let file = |device: fs::DirEntry| {
        fs::read_to_string(device.path().join("loop/backing_file")).ok().filter(|file| {
            // The kernel may know it by another way that leads there.
            file.contains(&*folder.file_name().expect("a name").to_string_lossy())
        })
    };
    devices.filter_map(file).collect()
}

/// Whether a node of the one cluster below this folder was started.
fn has_started(folder: &Path, id: u32) -> bool {
    let clusters = fs::read_dir(folder).expect("the folder").flatten();
    let log = |entry: fs::DirEntry| entry.path().join(format!("cluster/node-{id}/synod.log"));
    clusters.map(log).any(|log| log.exists())
}

#[test]
fn a_harness_that_is_killed_leaves_nothing_mounted() {
    let folder = folder();
    let log = folder.path().join("log");
    let mut command = Command::new(SYNOD);
    command.current_dir(folder.path()).args(["chaos", "--duration-s", LONG_S]);
    command.args(["--faults-only", "disk"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut harness =
        command.stderr(File::create(&log).expect("a log")).spawn().expect("it starts");
    let errors = || fs::read_to_string(&log).expect("a log");
    wait_until("every node runs on a disk, or disks are left out", || {
        let runs = loops_below(folder.path()).len() == 3 && has_started(folder.path(), 3);
        runs || lack(&errors()).is_some()
    });
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
    harness.kill().expect("it runs");
    harness.wait().expect("it ends");
    if let Some(reason) = lack(&errors()) {
        return skip(Need::Loops, reason);
    }
    assert!(!mounts.contains(&folder.path().display().to_string()), "seen by others: {mounts}");
    // The nodes die with the harness, and the disks with the last of them.
    wait_until("the disks go away", || loops_below(folder.path()).is_empty());
}

#[test]
fn what_fails_after_a_disk_is_mounted_is_no_want_of_rights() {
    let folder = folder();
    let cp = folder.path().join("cp");
    fs::write(&cp, "#!/bin/sh\necho out of order >&2\nexit 1\n").expect("a program");
    fs::set_permissions(&cp, Permissions::from_mode(0o755)).expect("a program");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(SYNOD);
    command.env("PATH", format!("{}:{path}", folder.path().display()));
    command.current_dir(folder.path()).args(["chaos", "--faults-only", "disk", "--faults", "1"]);
    let output = output_of(&mut command, PATIENCE);
    let errors = String::from_utf8_lossy(&output.stderr);
    if !errors.contains("out of order")
        && let Some(reason) = lack(&errors)
    {
        return skip(Need::Loops, reason);
    }
    assert!(errors.contains("node 1's disk: out of order"), "{errors}");
    assert!(!errors.contains("left out"), "{errors}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_cluster_without_room_on_its_disks_keeps_its_word() {
    let folder = folder();
    let mut command = Command::new(SYNOD);
    command.current_dir(folder.path());
    command.args(["chaos", "--faults-only", "disk", "--faults", "4", "--seed", "5", "--json"]);
    let output = output_of(&mut command, PATIENCE);
    let errors = String::from_utf8_lossy(&output.stderr);
    if let Some(reason) = lack(&errors) {
        return skip(Need::Loops, reason);
    }
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(result["passed"], true, "{result}");
    let faults = result["faults"].as_array().expect("faults");
    let kinds: Vec<&str> = faults.iter().filter_map(|fault| fault["kind"].as_str()).collect();
    for kind in ["fill-any", "fill-leader", "fill-minority", "fill-all"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
    assert!(result["stops_for_space"].as_u64() >= Some(1), "no disk was ever missed: {result}");
    assert!(result["operations"]["checked"].as_u64() >= Some(1_000), "{}", result["operations"]);
    // Nothing is left behind, and nothing is mounted any more.
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
    assert!(!mounts.contains(&folder.path().display().to_string()), "{mounts}");
}
