//! What `inspect` says that the next start will do is what it does.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use support::{Cluster, request, status, wait_for};
use synod_node::{Inspection, NextStart, Node, Settings, StartError, inspect};

/// Segments are small, and go when the state has them.
const CUT: &str = "[limits]\nsegment_bytes = 65536\n[snapshot]\ntail_bytes_max = 0\n\
    tail_ms_max = 0\nkeep_for_peers_ms = 0\ndisk_reserve_bytes = 0\n";
/// Segments are small and stay.
const KEPT: &str = "[limits]\nsegment_bytes = 65536\n[snapshot]\ndisk_reserve_bytes = 0\n";
const ADVICE: &str = "member replace";

/// Writes while `go_on` says so.
fn write(nodes: &[Node], go_on: impl Fn() -> bool) {
    wait_for("a leader", || nodes.iter().any(Node::is_leader));
    let mut number = 0;
    wait_for("all writes", || {
        let Some(leader) = nodes.iter().find(|node| node.is_leader()) else { return false };
        for _ in 0..50 {
            let target = format!("/v1/kv/key-{number}");
            request(leader.client_addr(), "PUT", &target, &"v".repeat(1_000));
            number += 1;
        }
        !go_on()
    });
}

fn stop(nodes: Vec<Node>) {
    nodes.into_iter().for_each(|node| node.stop().expect("stopped in order"));
}

/// The files of the journal that hold something.
fn segments(settings: &Settings) -> Vec<PathBuf> {
    let entries = fs::read_dir(settings.data_dir.join("journal")).expect("a journal");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let is_used = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == "seg")
            && fs::read(path).expect("readable").iter().any(|byte| *byte != 0)
    };
    let mut found: Vec<PathBuf> = paths.filter(is_used).collect();
    found.sort();
    found
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("readable");
    bytes[at] ^= 0x40;
    fs::write(path, bytes).expect("written");
}

fn image(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        match path.is_dir() {
            true => files.extend(image(&path)),
            false => drop(files.insert(path.clone(), fs::read(&path).expect("readable"))),
        }
    }
    files
}

/// What is told of a folder, in which nothing is changed by that.
fn told(settings: &Settings) -> (Inspection, NextStart, String) {
    let before = image(&settings.data_dir);
    let found = inspect(&settings.data_dir).expect("readable");
    assert!(image(&settings.data_dir) == before, "the folder was changed");
    let outlook = found.outlook.clone().expect("it has a node and is stopped");
    (found, outlook.next_start, outlook.words)
}

/// The start ends, with the words that were foretold.
fn fails(settings: &Settings, words: &str) {
    let (found, next, foretold) = told(settings);
    assert_eq!(next, NextStart::Fails, "{foretold}");
    assert!(!found.damage.is_empty(), "{found:?}");
    let error = Node::start(settings).expect_err("foretold").to_string();
    assert_eq!(foretold, format!("it fails: {error}"));
    assert!(error.contains(words), "{words:?} is missing in {error:?}");
}

/// The start wants a peer's state.
fn asks_peers(settings: &Settings) {
    let (found, next, foretold) = told(settings);
    assert_eq!(next, NextStart::AsksPeers, "{foretold}");
    assert!(!found.damage.is_empty() && !found.damage.iter().any(|text| text.contains(ADVICE)));
    assert!(foretold.contains("start it first") && foretold.contains("Only if"), "{foretold}");
    let error = Node::start(settings).expect_err("foretold");
    assert!(matches!(error, StartError::Rebuild { .. }), "{error}");
    assert!(!error.to_string().contains(ADVICE), "{error}");
    // As the process does by itself. Nobody of the others runs, so the next one would wait.
    assert!(settings.data_dir.join("REBUILD").exists());
    let (_, next, foretold) = told(settings);
    assert_eq!(next, NextStart::AsksPeers, "{foretold}");
}

#[test]
fn a_journal_that_the_next_start_mends_is_no_reason_to_replace_a_node() {
    let cluster = Cluster::with(1, KEPT);
    let settings = &cluster.settings[0];
    let nodes = cluster.start_all();
    write(&nodes, || segments(settings).len() < 5);
    stop(nodes);
    let (found, next, words) = told(settings);
    assert_eq!((next, found.damage), (NextStart::GoesOn, vec![]), "{words}");
    flip(&segments(settings)[2], 30_000);
    let (found, next, words) = told(settings);
    assert_eq!(next, NextStart::Mends, "{words}");
    assert!(
        found.damage.len() == 1 && found.damage[0].starts_with("journal damaged: "),
        "{found:?}"
    );
    let all = [&found.damage[0], &words];
    assert!(!all.iter().any(|text| text.contains(ADVICE)), "{all:?}");
    stop(cluster.start_all());
    let (found, next, words) = told(settings);
    assert_eq!((next, found.damage), (NextStart::GoesOn, vec![]), "{words}");
    // Of the newest file nobody knows what stood there.
    flip(segments(settings).last().expect("the newest"), 20);
    fails(settings, ADVICE);
}

#[test]
fn a_state_that_peers_have_as_well_is_no_reason_to_replace_a_node() {
    let cluster = Cluster::with(3, CUT);
    let nodes = vec![cluster.start(0), cluster.start(1)];
    write(&nodes, || nodes.iter().any(|node| status(node, "truncated_slot") == 0));
    stop(nodes);
    let (one, other) = (&cluster.settings[0], &cluster.settings[1]);
    // It is gone, as far as the journal does not give it again.
    assert_eq!(told(one).1, NextStart::GoesOn);
    fs::rename(one.data_dir.join("state"), cluster.path("state")).expect("moved");
    asks_peers(one);
    // Its list of files is damaged.
    let state = other.data_dir.join("state");
    let current = fs::read_to_string(state.join("CURRENT")).expect("readable");
    let manifest = state.join(current.trim());
    let length = fs::read(&manifest).expect("readable").len();
    flip(&manifest, length / 2);
    asks_peers(other);
}

#[test]
fn a_node_without_peers_is_told_that_nobody_gives_it_a_state() {
    let cluster = Cluster::with(1, CUT);
    let settings = &cluster.settings[0];
    let nodes = cluster.start_all();
    write(&nodes, || status(&nodes[0], "truncated_slot") == 0);
    stop(nodes);
    fs::rename(settings.data_dir.join("state"), cluster.path("state")).expect("moved");
    fails(settings, "knows no peers");
    let (_, _, words) = told(settings);
    assert!(!words.contains(ADVICE), "{words}");
}

#[test]
fn a_state_ahead_of_its_journal_is_damage() {
    let cluster = Cluster::new(1);
    let settings = &cluster.settings[0];
    stop(cluster.start_all());
    let journal = settings.data_dir.join("journal");
    let before = image(&journal);
    let nodes = cluster.start_all();
    write(&nodes, || false);
    stop(nodes);
    fs::remove_dir_all(&journal).expect("removed");
    fs::create_dir(&journal).expect("made");
    for (path, bytes) in &before {
        fs::write(path, bytes).expect("written");
    }
    fails(settings, "the journal lost what it had acknowledged");
    // What an operator wants does not help.
    fs::write(settings.data_dir.join("REBUILD"), b"").expect("written");
    fails(settings, "the journal lost what it had acknowledged");
}
