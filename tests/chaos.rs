//! `synod chaos` as a user runs it. This is the part of the gate with real processes:
//! so many kills, pauses and partitions in clusters of three and of five, members that change,
//! files that decay or are in use twice, states that drift, backups and survivors that become clusters, and everything
//! that clients were told meanwhile is checked. What it prints is shown even when it
//! passes.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::cluster::{SYNOD, folder, output_of, synod};
use support::skip::{Need, next_release, skip};

/// One cluster after the other: its nodes, how many faults, of which classes, and what else is said.
const CLUSTERS: [(&str, &str, &str, &[&str]); 6] = [
    ("3", "42", "kill,pause,partition", &[]),
    ("5", "9", "kill,pause,partition", &[]),
    ("5", "9", "kill,pause,partition", &["--drawn-quorums"]),
    ("3", "20", "kill,recover", &["--drawn-quorums"]),
    ("3", "15", "member,damage,backup", &[]),
    ("5", "4", "drift", &[]),
];
/// One whose nodes go over to the next release and come back, in between: all of it at least once.
const MIXED: (&str, &str, &str) = ("3", "12", "kill,partition,upgrade");
/// What must have happened in all of them together.
const FAULTS: [(&str, usize); 8] = [
    ("kill", 30),
    ("pause", 20),
    ("partition", 20),
    ("member", 5),
    ("damage", 5),
    ("backup", 5),
    ("recover", 10),
    ("drift", 4),
];
const CHECKED_MIN: u64 = 50_000;
/// For one cluster. Each fault takes some three seconds, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(600);

fn of_class(result: &Value, class: &str) -> usize {
    let faults = result["faults"].as_array().expect("faults");
    faults.iter().filter(|fault| fault["class"] == class).count()
}

/// A run that passed.
fn run(
    folder: &Path,
    (nodes, faults, classes): (&str, &str, &str),
    seed: usize,
    more: &[&str],
) -> Value {
    let mut command = Command::new(SYNOD);
    command.current_dir(folder).args(["chaos", "--json", "--history", "history.jsonl"]);
    command.args(["--nodes", nodes, "--faults", faults, "--faults-only", classes]).args(more);
    let output = output_of(command.args(["--seed", &seed.to_string()]), PATIENCE);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(result["passed"], true, "{result}");
    assert_eq!(result["seed"], seed);
    assert_eq!(result["keys_undecided"], 0, "what could not be checked was not checked");
    assert_eq!(result["keys_lost"], 0);
    assert!(result["equal_at_slot"].as_u64() > Some(0));
    assert_eq!(result["backups_checked"], of_class(&result, "backup"), "{result}");
    assert_eq!(result["recovered_checked"], of_class(&result, "recover"), "{result}");
    assert!(result["worst_recovery_ms"].as_f64() > Some(0.0));
    for made in [("leases", "granted"), ("transactions", "changed"), ("transactions", "seen")] {
        assert!(result[made.0][made.1].as_u64() > Some(0), "{made:?}: {result}");
    }
    println!(
        "{nodes} nodes, seed {seed}: {} kills, {} pauses, {} partitions, {} changes of the \
         members, {} damages, {} backups, {} survivors, {} changes of releases, {} drifts in {} s; quorums {}, operations {}, {} keys, 0 undecided, slowest recovery {} ms",
        of_class(&result, "kill"),
        of_class(&result, "pause"),
        of_class(&result, "partition"),
        of_class(&result, "member"),
        of_class(&result, "damage"),
        of_class(&result, "backup"),
        of_class(&result, "recover"),
        of_class(&result, "upgrade"),
        of_class(&result, "drift"),
        result["duration_s"],
        result["quorums"],
        result["operations"],
        result["keys"],
        result["worst_recovery_ms"],
    );
    for fault in result["faults"].as_array().expect("faults") {
        let outcome = fault["outcome"].as_str().expect("an outcome");
        assert!(!outcome.is_empty(), "{fault}");
        if ["member", "damage", "backup", "recover", "upgrade", "drift"]
            .iter()
            .any(|class| fault["class"] == *class)
        {
            println!("  {}: {outcome}", fault["kind"].as_str().expect("a kind"));
        }
    }
    result
}

/// Every call in the history returned, or is known never to.
fn read_history(folder: &Path) -> usize {
    let history = fs::read_to_string(folder.join("history.jsonl")).expect("the history");
    let of_type = |name: &str| {
        let lines = history.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.filter(|line| line["type"] == name).count()
    };
    let invoked = of_type("invoke");
    assert_eq!(invoked, of_type("ok") + of_type("fail") + of_type("info"));
    invoked
}

#[test]
fn clusters_that_are_killed_paused_and_cut_apart_keep_their_word() {
    let folder = folder();
    let mut results = Vec::new();
    for (seed, (nodes, faults, classes, more)) in (3..).zip(CLUSTERS) {
        let result = run(folder.path(), (nodes, faults, classes), seed, more);
        assert_eq!(result["quorums"].is_object(), more.contains(&"--drawn-quorums"), "{result}");
        results.push(result);
        assert!(read_history(folder.path()) > 1_000);
        let left: Vec<_> = fs::read_dir(folder.path()).expect("the folder").flatten().collect();
        assert_eq!(left.len(), 1, "only the history stays: {left:?}");
    }
    for (class, wanted) in FAULTS {
        let count: usize = results.iter().map(|result| of_class(result, class)).sum();
        assert!(count >= wanted, "{count} of {class}");
    }
    check_retries(&results);
    check_watches(&results);
    check_drifts(results.last().expect("that of drifts"));
    let checked = |result: &Value| result["operations"]["checked"].as_u64().expect("a count");
    let checked: u64 = results.iter().map(checked).sum();
    println!("{checked} operations checked, 0 violations");
    assert!(checked >= CHECKED_MIN, "{checked} operations were checked");
}

/// Events were seen, also by watches that had to go on elsewhere.
fn check_watches(results: &[Value]) {
    for count in ["events", "resumed"] {
        let counts = results.iter().map(|result| result["watches"][count].as_u64());
        let count_all: u64 = counts.map(|count| count.expect("a count")).sum();
        println!("watches, {count}: {count_all}");
        assert!(count_all > 0, "{count}");
    }
}

/// Some were done before their last attempt, so the cluster had to remember that.
fn check_retries(results: &[Value]) {
    for count in ["with_key", "sent_again", "settled", "remembered"] {
        let counts = results.iter().map(|result| result["retries"][count].as_u64());
        let counts: Vec<u64> = counts.map(|count| count.expect("a count")).collect();
        println!("operations under an idempotency key, {count}: {counts:?}");
        assert!(counts.iter().sum::<u64>() > 0, "{count}");
    }
}

/// At least five nodes drifted, and those that were found out came back by either way that they
/// are told. One that lagged far got a peer's state before.
fn check_drifts(result: &Value) {
    let faults = result["faults"].as_array().expect("faults");
    let of = |words: &str| {
        let outcomes = faults.iter().map(|fault| fault["outcome"].as_str().expect("an outcome"));
        outcomes.map(|outcome| outcome.matches(words).count()).sum::<usize>()
    };
    let met = of(" stopped, and") + of("got a peer's state before it was found out");
    assert!(met >= 5, "{result}");
    for words in ["took over a peer's state", "took the place of", "the record is right again"] {
        assert!(of(words) > 0, "{words:?}: {result}");
    }
}

/// The next release speaks version 2, this one version 1.
#[test]
fn nodes_that_go_on_as_another_release_and_come_back_keep_their_word() {
    let Some(next) = next_release() else { return };
    let folder = folder();
    let next = next.to_str().expect("a path");
    let result = run(folder.path(), MIXED, 7, &["--other-release", next]);
    assert!(read_history(folder.path()) > 1_000);
    assert_eq!(of_class(&result, "upgrade"), 4);
    let faults = result["faults"].as_array().expect("faults");
    let outcomes = faults.iter().map(|fault| fault["outcome"].as_str().expect("an outcome"));
    // With four changes in a cluster of three, all of them together among these, there is a way back.
    for words in
        ["came back as the other release, version 2", "came back as this release, version 1"]
    {
        assert!(outcomes.clone().any(|outcome| outcome.contains(words)), "{words:?}: {result}");
    }
}

#[test]
fn clusters_whose_disks_stand_still_keep_their_word() {
    let version = Command::new("strace").arg("-V").output();
    if !version.is_ok_and(|output| output.status.success()) {
        return skip(Need::Strace, "strace is not installed");
    }
    let folder = folder();
    let result = run(folder.path(), ("3", "4", "stall"), 11, &[]);
    assert!(read_history(folder.path()) > 500);
    let faults = result["faults"].as_array().expect("faults");
    let kinds: Vec<&str> = faults.iter().filter_map(|fault| fault["kind"].as_str()).collect();
    for kind in ["stall-leader", "stall-any", "stall-minority"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
}

#[test]
fn classes_that_do_not_go_together_are_refused() {
    for (arguments, words) in [
        (&["--faults-only", "drift,damage"][..], "`drift` does not go with `damage`"),
        (&["--faults-only", "drift", "--drawn-quorums"], "leave them out with --faults-only"),
    ] {
        let output = synod(&[&["chaos", "--faults", "1"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn another_release_must_be_there_and_wanted() {
    for (arguments, words) in [
        (&["--faults-only", "upgrade"][..], "name its program with --other-release"),
        (&["--other-release", "/nowhere/synod"], "No such file"),
        (&["--other-release", "/bin/true"], "is no other synod"),
        (&["--faults-only", "kill", "--other-release", SYNOD], "no node becomes it"),
    ] {
        let output = synod(&[&["chaos", "--faults", "1"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}
