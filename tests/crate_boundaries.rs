//! A crate may use only crates above it in the table of docs/architecture.md,
//! and some must stay free of the storage engine and of the runtime. Read from
//! the manifests.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use toml::{Table, Value};

/// The order of the table: a crate may use those before it.
const ORDER: [&str; 13] = [
    "paxos",
    "kv",
    "wire",
    "journal",
    "host",
    "storage",
    "transport",
    "api",
    "node",
    "client",
    "sim",
    "bench",
    "cli",
];

/// The table's column "may use", for our own crates.
const MAY_USE: [(&str, &[&str]); 13] = [
    ("paxos", &[]),
    ("kv", &[]),
    ("wire", &["paxos", "kv"]),
    ("journal", &["paxos", "wire"]),
    ("host", &["paxos", "kv", "wire"]),
    ("storage", &["kv"]),
    ("transport", &["paxos", "wire"]),
    ("api", &["kv", "wire"]),
    ("node", &["paxos", "kv", "wire", "journal", "host", "storage", "transport", "api"]),
    ("client", &["kv"]),
    ("sim", &["paxos", "kv", "wire", "host"]),
    ("bench", &["client", "sim"]),
    ("cli", &["client", "node", "sim", "bench", "kv", "storage"]),
];

/// What a crate must never contain, of other people's crates.
const MUST_NOT_USE: [(&str, &[&str]); 8] = [
    (
        "rocksdb",
        &["paxos", "kv", "wire", "journal", "host", "transport", "api", "client", "sim", "bench"],
    ),
    ("librocksdb-sys", &["paxos", "kv", "wire", "host", "client", "sim"]),
    ("tokio", &["paxos", "kv", "wire", "journal", "host", "storage", "sim"]),
    ("hyper", &["paxos", "kv", "wire", "journal", "host", "storage", "transport", "sim"]),
    ("axum", &["paxos", "kv", "wire", "journal", "host", "storage", "transport", "client", "sim"]),
    ("rand", &["paxos", "kv", "wire", "host", "sim"]),
    ("fastrand", &["paxos", "kv", "wire", "host"]),
    ("serde", &["paxos"]),
];

fn manifest(folder: &str) -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates").join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    text.parse().unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// The real names of what a crate is built with; tests may use more.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let manifest = manifest(folder);
    let mut tables: Vec<&Value> = Vec::new();
    for section in ["dependencies", "build-dependencies"] {
        tables.extend(manifest.get(section));
        if let Some(targets) = manifest.get("target").and_then(Value::as_table) {
            tables.extend(targets.values().filter_map(|target| target.get(section)));
        }
    }
    let named = |(name, value): (&String, &Value)| {
        value.get("package").and_then(Value::as_str).unwrap_or(name).to_owned()
    };
    tables.into_iter().filter_map(Value::as_table).flat_map(|t| t.iter().map(named)).collect()
}

fn ours(folder: &str) -> BTreeSet<String> {
    let strip = |name: String| name.strip_prefix("synod-").map(str::to_owned);
    dependencies(folder).into_iter().filter_map(strip).collect()
}

#[test]
fn every_crate_is_in_the_table() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    let found: BTreeSet<String> = fs::read_dir(folder)
        .expect("the crates")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    let known: BTreeSet<String> = ORDER.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(found, known);
}

#[test]
fn a_crate_uses_only_what_the_table_allows() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    for name in ORDER {
        for used in ours(name) {
            assert!(
                allowed[name].contains(&used.as_str()),
                "synod-{name} uses synod-{used}, which the table does not allow"
            );
        }
    }
}

#[test]
fn the_table_itself_only_points_upwards() {
    let position = |name: &str| ORDER.iter().position(|known| *known == name).expect("known");
    for (name, uses) in MAY_USE {
        for used in uses {
            assert!(position(used) < position(name), "{name} may not use {used}");
        }
    }
}

#[test]
fn crates_stay_free_of_what_they_must_never_contain() {
    for (forbidden, crates) in MUST_NOT_USE {
        for name in crates {
            assert!(
                !dependencies(name).contains(forbidden),
                "synod-{name} must never contain {forbidden}"
            );
        }
    }
}

#[test]
fn this_test_reads_real_manifests() {
    assert!(ours("cli").contains("node"), "nothing was read");
    assert!(dependencies("storage").contains("rocksdb"), "nothing was read");
}

/// A binary that is built to be run can't be told to make a mistake: only the tests of
/// the root ask for such nodes, and what only tests ask for is in no other build.
#[test]
fn only_tests_ask_for_nodes_that_can_be_told_to_make_a_mistake() {
    let node = manifest("node");
    assert!(node["features"].get("planted").is_some() && node["features"].get("default").is_none());
    let asks = |table: &Table, section: &str| {
        let used = table.get(section).and_then(|used| used.get("synod-node"));
        let features = used.and_then(|node| node.get("features")).and_then(Value::as_array);
        features.is_some_and(|features| features.iter().any(|f| f.as_str() == Some("planted")))
    };
    let root = manifest("..");
    assert!(asks(&root, "dev-dependencies"), "the tests of the root do");
    let features = root["features"].to_string();
    assert!(!features.contains("planted") && !asks(&root, "dependencies"));
    assert!(!asks(root["workspace"].as_table().expect("a table"), "dependencies"));
    for name in ORDER {
        let manifest = manifest(name);
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            assert!(!asks(&manifest, section), "synod-{name}");
        }
        let passed_on =
            manifest.get("features").is_some_and(|f| f.to_string().contains("node/planted"));
        assert!(!passed_on, "synod-{name}");
    }
}

/// Nothing that is built to be run plays the next release: the feature is asked for on the
/// command line only, by `make next`, and it makes another binary.
#[test]
fn nobody_asks_for_the_next_version() {
    let root = manifest("..");
    let bins = root["bin"].as_array().expect("binaries");
    let needs = |bin: &&Value| bin.get("required-features").is_some();
    let names: Vec<_> = bins.iter().filter(needs).map(|bin| bin["name"].as_str()).collect();
    assert_eq!(names, [Some("synod-next")], "only this one may need the feature");
    for name in ORDER.iter().copied().chain([".."]) {
        let mut manifest = manifest(name);
        let features = manifest.remove("features").and_then(|features| features.try_into().ok());
        let features: BTreeMap<String, Vec<String>> = features.unwrap_or_default();
        for (feature, asked_for) in &features {
            let passes_on = asked_for.iter().any(|asked_for| asked_for.contains("next-version"));
            assert!(!passes_on || feature == "next-version", "{name}: {feature}");
        }
        manifest.remove("bin");
        assert!(!manifest.to_string().contains("next-version"), "{name} asks for it");
    }
}
