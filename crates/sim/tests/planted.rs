//! The list of mistakes, and how one is found. `synod sim planted` searches for all,
//! the gate (gate.rs) for some.
#![allow(missing_docs)]

use std::process::Command;

use synod_sim::planted::{Bug, search};
use synod_sim::{Plan, run};

/// How many are drawn here.
const DRAWN: usize = 10;

#[test]
fn the_canary_is_found_at_once_and_the_same_seed_finds_it_again() {
    let first = search(Bug::CANARY, 0, 20, &run);
    let (seed, violation) = first.found.clone().expect("it sings");
    assert_eq!(search(Bug::CANARY, 0, 20, &run), first);
    let plan = Plan { bug: Some(Bug::CANARY), ..Plan::drawn(seed) };
    assert_eq!(run(&plan).violation, Some(violation));
    assert_eq!(run(&Plan::drawn(seed)).violation, None, "without it the seed holds");
}

#[test]
fn enough_different_mistakes_are_there_and_drawing_is_fair_and_repeatable() {
    let all = Bug::all();
    assert!(all.len() >= 35, "{}", all.len());
    let mut names: Vec<String> = all.iter().map(|bug| bug.name()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all.len());
    assert!(all.is_sorted_by_key(|bug| bug.row()));
    assert!(all.iter().all(|bug| Bug::named(&bug.name()) == Some(*bug)));
    assert_eq!(Bug::named("NoSuchBug"), None);
    assert_eq!(Bug::drawn("a", DRAWN), Bug::drawn("a", DRAWN));
    assert_ne!(Bug::drawn("a", DRAWN), Bug::drawn("b", DRAWN));
    assert!(!Bug::drawn("a", all.len()).contains(&Bug::CANARY));
}

/// How many of our crates cargo builds with this feature for this package alone.
fn features(package: &str, feature: &str) -> usize {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal,features", "--prefix", "none"])
        .args(["--package", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&tree.stdout);
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    assert!(text.contains("synod-paxos"), "{package} is built on the core");
    text.lines().filter(|line| line.contains(&format!("feature \"{feature}\""))).count()
}

/// A mistake can be made only where the simulation is part of the build, and a node
/// passes `Planted::NONE` even there.
#[test]
fn a_node_is_built_without_the_feature() {
    assert_eq!(features("synod-node", "planted"), 0);
    assert_eq!(features("synod-host", "planted"), 0);
    assert!(features("synod-sim", "planted") >= 2, "the test can see the feature");
}

/// The same holds of what lets one build play two releases.
#[test]
fn a_node_is_built_as_one_release() {
    assert_eq!(features("synod-node", "mixed-versions"), 0);
    assert_eq!(features("synod-host", "mixed-versions"), 0);
    assert!(features("synod-sim", "mixed-versions") >= 1, "the test can see the feature");
}
