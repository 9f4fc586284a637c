//! `synod chaos` with disks that are full for a while, as a user runs it.

mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::cluster::{SYNOD, folder, output_of};

/// Each fault takes some three seconds, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(240);

/// Where every test must run, a skipped one is a failed one.
fn skip(reason: &str) {
    let must_run = std::env::var_os("SYNOD_TESTS_MUST_RUN").is_some_and(|set| set == "1");
    assert!(!must_run, "{reason}, and SYNOD_TESTS_MUST_RUN is set");
    eprintln!("skipped: {reason}");
}

#[test]
fn a_cluster_without_room_on_its_disks_keeps_its_word() {
    let folder = folder();
    let mut command = Command::new(SYNOD);
    command.current_dir(folder.path());
    command.args(["chaos", "--faults-only", "disk", "--faults", "4", "--seed", "5", "--json"]);
    let output = output_of(&mut command, PATIENCE);
    let errors = String::from_utf8_lossy(&output.stderr);
    if let Some((_, reason)) = errors.split_once("full disks are left out: ") {
        return skip(reason.trim());
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
