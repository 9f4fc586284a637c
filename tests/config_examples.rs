//! The examples under config/ are settings that a node takes, and what they say
//! about defaults is true.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use synod_node::Settings;
use toml::Table;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn load(name: &str) -> Settings {
    Settings::load(&folder().join(name)).unwrap_or_else(|error| panic!("{error}"))
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder())
        .expect("config/")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    names.sort();
    names
}

#[test]
fn every_example_loads() {
    let names = names();
    assert!(names.len() >= 4, "examples are missing: {names:?}");
    for name in names {
        load(&name);
    }
}

#[test]
fn the_local_examples_make_one_cluster() {
    let nodes = ["local-1.toml", "local-2.toml", "local-3.toml"].map(load);
    let ids: BTreeSet<u32> = nodes.iter().map(|node| node.node_id).collect();
    let folders: BTreeSet<&Path> = nodes.iter().map(|node| node.data_dir.as_path()).collect();
    assert_eq!((ids.len(), folders.len()), (3, 3));
    for node in &nodes {
        assert_eq!(node.members, nodes[0].members);
        assert_eq!(node.cluster, nodes[0].cluster);
    }
}

/// The production example shows every setting that has a default, with it.
#[test]
fn what_the_production_example_shows_are_the_defaults() {
    let shown = load("production.toml");
    let short = load("local-1.toml");
    assert_eq!(shown.timing, short.timing);
    assert_eq!(shown.limits, short.limits);
    assert_eq!(shown.log, short.log);

    let text = fs::read_to_string(folder().join("production.toml")).expect("the example");
    let table: Table = text.parse().expect("TOML");
    let count = |name: &str| table[name].as_table().expect("a table").len();
    let fields = |debug: String| debug.matches(": ").count();
    assert_eq!(count("limits"), fields(format!("{:?}", short.limits)), "a limit is not shown");
    // The stall time is shown in a comment: its default follows another setting.
    assert_eq!(count("timing") + 1, fields(format!("{:?}", short.timing)), "a time is not shown");
}

/// The settings that stand in comments can be used as they stand.
#[test]
fn what_stands_in_comments_loads_too() {
    let path = folder().join("production.toml");
    let text = fs::read_to_string(&path).expect("the example");
    let open = |line: &str| {
        let setting = line.strip_prefix("# ").filter(|rest| {
            rest.split_once(" = ").is_some_and(|(name, _)| !name.contains(' ') && !name.is_empty())
        });
        setting.unwrap_or(line).to_owned()
    };
    let opened: Vec<String> = text.lines().map(open).collect();
    assert!(opened.join("\n").len() < text.len(), "no setting stands in a comment");
    let settings = Settings::parse(&opened.join("\n"), &path);
    let settings = settings.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(settings.cluster.alpha, Some(1_024));
    assert_eq!(settings.timing.disk_stall_ms, Some(300));
}
