//! `synod chaos` as a user runs it: a short run with faults of every class passes,
//! and leaves nothing behind but the history.

mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::cluster::{SYNOD, folder, output_of};

/// Each fault takes some three seconds, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(240);

fn of_class(result: &Value, class: &str) -> usize {
    let faults = result["faults"].as_array().expect("faults");
    faults.iter().filter(|fault| fault["class"] == class).count()
}

#[test]
fn a_cluster_that_is_killed_paused_and_cut_apart_keeps_its_word() {
    let folder = folder();
    let mut command = Command::new(SYNOD);
    command.current_dir(folder.path());
    command.args(["chaos", "--faults", "7", "--seed", "3", "--history", "history.jsonl", "--json"]);
    let output = output_of(&mut command, PATIENCE);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(result["passed"], true, "{result}");
    assert_eq!(result["seed"], 3);
    let classes = ["kill", "pause", "partition"].map(|class| of_class(&result, class));
    assert_eq!(classes, [3, 2, 2]);
    assert!(result["operations"]["checked"].as_u64() >= Some(2_000), "{}", result["operations"]);
    assert!(result["equal_at_slot"].as_u64() > Some(0));
    assert!(result["worst_recovery_ms"].as_f64() > Some(0.0));

    let history = fs::read_to_string(folder.path().join("history.jsonl")).expect("the history");
    let of_type = |name: &str| {
        let lines = history.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.filter(|line| line["type"] == name).count()
    };
    let invoked = of_type("invoke");
    assert_eq!(invoked, of_type("ok") + of_type("fail") + of_type("info"));
    let left: Vec<_> = fs::read_dir(folder.path()).expect("the folder").flatten().collect();
    assert_eq!(left.len(), 1, "only the history stays: {left:?}");
}
