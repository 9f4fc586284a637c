//! Nodes that wait for slots and for a state, and peers that know more of them than they do.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use support::{Cluster, request, status, wait_for};
use synod_node::{Node, Settings, StartError};
use synod_storage::{Store, StoreOptions};

/// Segments are small, and none is kept for peers.
const SMALL: &str = "[limits]\nsegment_bytes = 65536\n[snapshot]\ntail_bytes_max = 0\n\
    tail_ms_max = 0\nkeep_for_peers_ms = 0\ndisk_reserve_bytes = 0\n";
/// Segments are small, and all are kept.
const KEPT: &str = "[limits]\nsegment_bytes = 65536\n[snapshot]\ndisk_reserve_bytes = 0\n";

/// A value that does not compress, so that most of a file is values.
fn noise(number: u32) -> String {
    let mut random = u64::from(number) + 1;
    let word = || {
        // Xorshift: any bits do that are not the same.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        format!("{random:016x}")
    };
    std::iter::repeat_with(word).take(60).collect()
}

fn put(nodes: &[Node], key: &str, value: &str) {
    wait_for("a leader", || nodes.iter().any(Node::is_leader));
    let leader = nodes.iter().find(|node| node.is_leader()).unwrap_or(&nodes[0]);
    let put = request(leader.client_addr(), "PUT", &format!("/v1/kv/{key}"), value);
    assert!([200, 201].contains(&put.status), "{put:?}");
}

fn stop_all(nodes: Vec<Node>) {
    nodes.into_iter().for_each(|node| node.stop().expect("stopped in order"));
}

fn files(folder: &Path, end: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("readable");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let wanted = paths.filter(|path| path.extension().is_some_and(|found| found == end));
    wanted.map(|path| (path.clone(), fs::read(path).expect("readable"))).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("made");
    for entry in fs::read_dir(from).expect("readable") {
        let path = entry.expect("readable").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
    }
}

/// Has an old state with a damaged block, and a file of the journal behind it that is damaged.
fn damage(settings: &Settings, old: &Path) {
    let state = settings.data_dir.join("state");
    fs::remove_dir_all(&state).expect("removed");
    copy(old, &state);
    Store::open(&state, &StoreOptions::default()).expect("opens").compact();
    let tables: Vec<_> = files(&state, "sst").into_iter().collect();
    let [(table, bytes)] = &tables[..] else { panic!("{} tables", tables.len()) };
    let mut bytes = bytes.clone();
    let third = bytes.len() / 3;
    bytes[third] ^= 1;
    fs::write(table, bytes).expect("written");
    let segments = files(&settings.data_dir.join("journal"), "seg");
    let later = segments.iter().filter(|(_, bytes)| bytes.windows(6).any(|word| word == b"later-"));
    let later: Vec<_> = later.collect();
    assert!(later.len() > 3, "{} files", later.len());
    let (path, bytes) = later[1];
    let mut bytes = bytes.clone();
    bytes.iter_mut().skip(512).for_each(|byte| *byte ^= 0x55);
    fs::write(path, bytes).expect("written");
}

/// The slots that the journal lost come, but the own state is damaged too: it asks for a state in
/// the same start, of peers that have met it.
#[test]
fn a_node_asks_for_slots_and_then_for_a_state_in_one_start() {
    let cluster = Cluster::with(2, KEPT);
    let settings = &cluster.settings[0];
    let nodes = cluster.start_all();
    (0..100).for_each(|number| put(&nodes, &format!("early-{number}"), &noise(number)));
    stop_all(nodes);
    let old = cluster.path("old");
    copy(&settings.data_dir.join("state"), &old);
    let nodes = cluster.start_all();
    (0..250).for_each(|number| put(&nodes, &format!("later-{number}"), &noise(number)));
    stop_all(nodes);
    damage(settings, &old);
    let found = Node::start(settings).expect_err("damaged");
    assert!(matches!(found, StartError::Rebuild { .. }), "{found}");
    let other = cluster.start(1);
    let node = cluster.start(0);
    let taken = |name: &fs::DirEntry| name.file_name().to_string_lossy().starts_with("state-");
    let mut entries = fs::read_dir(&settings.data_dir).expect("readable");
    assert!(entries.any(|entry| taken(&entry.expect("readable"))), "no peer's state");
    for mark in ["REBUILD", "FILLED"] {
        assert!(!settings.data_dir.join(mark).exists(), "{mark}");
    }
    for (kind, number) in [("early", 99), ("later", 0), ("later", 249)] {
        wait_for("a read", || {
            let target = format!("/v1/kv/{kind}-{number}");
            let get = request(node.client_addr(), "GET", &target, "");
            get.status == 200 && get.body == noise(number)
        });
    }
    stop_all(vec![node, other]);
}

/// It hears while it waits that it is a member no more, from as many as are needed.
#[test]
fn a_node_that_waits_and_was_removed_stays_away() {
    let cluster = Cluster::with(4, SMALL);
    let settings = &cluster.settings[0];
    let mut nodes = cluster.start_all();
    let mut written = 0;
    wait_for("a cut journal", || {
        for _ in 0..20 {
            put(&nodes, &format!("key-{written}"), &noise(written));
            written += 1;
        }
        status(&nodes[0], "truncated_slot") != 0
    });
    nodes.remove(0).stop().expect("stopped in order");
    wait_for("its removal", || {
        let Some(leader) = nodes.iter().find(|node| node.is_leader()) else { return false };
        let target = "/v1/cluster/members/1";
        [200, 204].contains(&request(leader.client_addr(), "DELETE", target, "").status)
    });
    let mut ended = None;
    wait_for("its end", || {
        fs::write(settings.data_dir.join("REBUILD"), b"").expect("written");
        match Node::start(settings) {
            Err(error) => ended = Some(error),
            // Peers still listen to it for a moment.
            Ok(node) => drop(node.stop()),
        }
        ended.is_some()
    });
    let ended = ended.expect("it ended");
    let removed = settings.data_dir.join("REMOVED");
    assert!(matches!(&ended, StartError::Removed(path) if *path == removed), "{ended}");
    let words = fs::read_to_string(&removed).expect("readable");
    assert!(words.contains("by configuration 1"), "{words}");
    stop_all(nodes);
}
