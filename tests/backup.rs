//! A backup of a running cluster becomes another cluster with the same contents, and a
//! damaged one becomes nothing.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use support::cluster::{TestCluster, folder, synod};
use support::wait::wait_until;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn listing(cluster: &TestCluster, id: u32) -> String {
    let list = cluster.request(id, "GET", "/v1/kv?limit=1000&encoding=base64", &[], b"");
    assert_eq!(list.status, 200, "{}", list.text());
    list.text()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a command printed that succeeded.
fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", said(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The revision of a listing.
fn revision(text: &str) -> u64 {
    let list: serde_json::Value = serde_json::from_str(text).expect("JSON");
    list["revision"].as_u64().expect("a revision")
}

/// The settings of each node of `cluster`, for new folders and a new cluster id.
fn new_settings(cluster: &TestCluster, id: u32, cluster_id: &str) -> (String, PathBuf) {
    let file = cluster.settings_path(id);
    let settings = fs::read_to_string(&file).expect("settings");
    let old = settings.lines().find(|line| line.starts_with("id = \"")).expect("a cluster id");
    let data = file.parent().expect("a folder").join("data");
    (settings.replacen(old, &format!("id = \"{cluster_id}\""), 1), data)
}

#[test]
fn a_backup_becomes_a_new_cluster_with_the_same_contents() {
    let dir = folder();
    let file = dir.path().join("all.synod");
    let mut cluster = TestCluster::start(3);
    for number in 0..300_u32 {
        let value: Vec<u8> =
            (0..2_000).map(|at: u32| (number * 31 + at * 7).to_le_bytes()[0]).collect();
        let target = format!("/v1/kv/{:03}", number % 200);
        let put = cluster.request(number % 3 + 1, "PUT", &target, &[], &value);
        assert!(put.status < 300, "{}", put.text());
    }
    assert_eq!(cluster.request(2, "DELETE", "/v1/kv/007", &[], b"").status, 200);
    let before = listing(&cluster, 1);
    let endpoints = cluster.endpoints();
    let made = synod(&["backup", text(&file), "--endpoints", &endpoints, "--json"]);
    let made = json(&made);
    assert_eq!(made["file"], text(&file));
    assert_eq!(made["bytes"], fs::metadata(&file).expect("a file").len());
    assert_eq!(made["revision"], revision(&before));
    let again = synod(&["backup", text(&file), "--endpoints", &endpoints]);
    assert_eq!(again.status.code(), Some(2), "an existing file is not replaced");
    let checked = json(&synod(&["restore", text(&file), "--check", "--json"]));
    for same in ["cluster", "node", "version", "slot", "revision", "file"] {
        assert_eq!(checked[same], made[same], "{same}");
    }
    assert!(cluster.stop().success());

    // The same id, and a folder that is in use, are refused.
    let config = cluster.settings_path(1);
    let refused = synod(&["restore", text(&file), "--config", text(&config)]);
    assert!(said(&refused).contains("new id"), "{}", said(&refused));
    let id = "feedfacefeedfacefeedfacefeedface";
    for node in cluster.ids() {
        let (settings, data) = new_settings(&cluster, node, id);
        fs::write(cluster.settings_path(node), settings).expect("written");
        let config = cluster.settings_path(node);
        let refused = synod(&["restore", text(&file), "--config", text(&config)]);
        assert!(said(&refused).contains("already holds node"), "{}", said(&refused));
        let inspected = synod(&["inspect", "--data", text(&data)]);
        assert!(inspected.status.success(), "{}", said(&inspected));
        fs::remove_dir_all(&data).expect("removed");
        let restored = json(&synod(&["restore", text(&file), "--config", text(&config), "--json"]));
        assert_eq!((&restored["node"], &restored["cluster"]), (&node.into(), &id.into()));
        assert_eq!(restored["revision"], revision(&before) + (1 << 32), "{restored}");
        assert_eq!(restored["backup"]["cluster"], made["cluster"], "{restored}");
        let inspected = synod(&["inspect", "--data", text(&data), "--json"]);
        let found: serde_json::Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
        assert_eq!(found["identity"]["cluster"], id);
        assert_eq!(found["state"]["keys"], 199, "{found}");
        assert!(found["state"]["installed_slot"].as_u64().is_some(), "{found}");
        cluster.start_by_hand(node);
    }
    for node in cluster.ids() {
        wait_until("the new cluster serves", || {
            let ready = cluster.try_request(node, "GET", "/readyz", &[], b"");
            ready.is_ok_and(|ready| ready.status == 200)
        });
    }
    let old = revision(&before);
    let new = old + (1 << 32);
    let told = |revision: u64| format!("\"revision\":{revision},");
    assert_eq!(listing(&cluster, 1), before.replacen(&told(old), &told(new), 1));
    // Whatever the old cluster did after the backup, its revisions are none of this one's.
    let watch = |from: u64| format!("/v1/watch?prefix=&wait=1ms&from={from}");
    for from in [old, old + 1, old + 50, new] {
        let gone = cluster.request(1, "GET", &watch(from), &[], b"");
        assert_eq!(gone.status, 410, "{from}: {}", gone.text());
        assert_eq!(gone.json()["oldest_revision"], new + 1);
    }
    assert_eq!(cluster.request(1, "GET", &watch(new + 1), &[], b"").status, 200);
    let gone = cluster.request(1, "GET", &format!("/v1/kv/008?revision={old}"), &[], b"");
    assert_eq!(gone.status, 410, "{}", gone.text());
    let at = cluster.request(1, "GET", &format!("/v1/kv/008?revision={new}"), &[], b"");
    assert_eq!(at.status, 200, "{}", at.text());
    // It takes writes at every node: the nodes' own counts began again.
    for node in cluster.ids() {
        let put = cluster.request(node, "PUT", &format!("/v1/kv/new-{node}"), &[], b"new");
        assert_eq!(put.status, 201, "{}", put.text());
    }
    assert_eq!(revision(&listing(&cluster, 2)), new + 3);
    let lock = cluster.request(1, "POST", "/v1/lock/l", &[], b"{\"ttl\":\"30s\"}");
    assert_eq!(lock.status, 200, "{}", lock.text());
    assert!(lock.json()["token"].as_u64() > Some(new), "{}", lock.text());
    assert!(lock.json()["lease"].as_u64() > Some(1 << 32), "{}", lock.text());
    assert_eq!(cluster.status(1).expect("a status")["cluster"], id);
}

/// Nodes 1 and 2 come from one backup and node 3 from a later one, which knows of a write
/// that the others do not: neither side may take the other's log for its own.
#[test]
fn nodes_restored_from_different_backups_are_strangers() {
    let dir = folder();
    let mut cluster = TestCluster::start(3);
    let files = [dir.path().join("early.synod"), dir.path().join("late.synod")];
    for file in &files {
        let put = cluster.request(1, "PUT", "/v1/kv/key", &[], text(file).as_bytes());
        assert!(put.status < 300, "{}", put.text());
        let made = synod(&["backup", text(file), "--endpoints", &cluster.endpoints()]);
        assert!(made.status.success(), "{}", said(&made));
    }
    assert!(cluster.stop().success());
    let id = "feedfacefeedfacefeedfacefeedface";
    for node in cluster.ids() {
        let (settings, data) = new_settings(&cluster, node, id);
        fs::write(cluster.settings_path(node), settings).expect("written");
        fs::remove_dir_all(&data).expect("removed");
        let file = &files[usize::from(node == 3)];
        let config = cluster.settings_path(node);
        let restored = synod(&["restore", text(file), "--config", text(&config)]);
        assert!(restored.status.success(), "{}", said(&restored));
        cluster.start_by_hand(node);
    }
    let stale = |node| cluster.try_request(node, "GET", "/v1/kv/key?consistency=stale", &[], b"");
    wait_until("two nodes serve, and say why the third does not", || {
        let ready = |node| cluster.try_request(node, "GET", "/readyz", &[], b"");
        let serves = |node| ready(node).is_ok_and(|ready| ready.status == 200);
        serves(1) && serves(2) && cluster.node_output(3).contains("from the same file")
    });
    let put = cluster.request(1, "PUT", "/v1/kv/new", &[], b"new");
    assert_eq!(put.status, 201, "{}", put.text());
    for (node, file) in [(1, &files[0]), (2, &files[0]), (3, &files[1])] {
        let found = stale(node).expect("an answer").text();
        assert_eq!(found, text(file), "node {node} has what it was restored with");
        assert_eq!(cluster.status(node).expect("a status")["cluster"], id);
    }
}

/// The settings of a node that joined may name it alone. Restored from them it would be a
/// cluster of its own under the id of the others.
#[test]
fn restore_makes_no_cluster_of_one_that_is_not_asked_for() {
    let dir = folder();
    let file = dir.path().join("all.synod");
    let cluster = TestCluster::start(1);
    let made = synod(&["backup", text(&file), "--endpoints", &cluster.endpoints()]);
    assert!(made.status.success(), "{}", said(&made));
    let (settings, _) = new_settings(&cluster, 1, "feedfacefeedfacefeedfacefeedface");
    let config = dir.path().join("synod.toml");
    let with_id = |id: u32| {
        let own = |id: u32| [format!("node_id = {id}\n"), format!("\nid = {id}\n")];
        let [[node, member], [other_node, other_member]] = [own(1), own(id)];
        let changed = settings.replace(&node, &other_node).replace(&member, &other_member);
        assert_eq!(changed == settings, id == 1, "{settings}");
        fs::write(&config, changed).expect("written");
    };
    let restore = |more: &[&str]| {
        synod(&[&["restore", text(&file), "--config", text(&config)], more].concat())
    };
    let data = dir.path().join("data");
    with_id(4);
    let refused = restore(&[]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("--alone"), "{}", said(&refused));
    assert!(!data.exists());
    let alone = restore(&["--alone"]);
    assert!(alone.status.success(), "{}", said(&alone));
    fs::remove_dir_all(&data).expect("the data");
    with_id(1);
    let first = restore(&[]);
    assert!(first.status.success(), "{}", said(&first));
}

#[test]
fn a_damaged_backup_is_refused_and_nothing_is_changed() {
    let dir = folder();
    let file = dir.path().join("all.synod");
    let cluster = TestCluster::start(1);
    for number in 0..50 {
        let put = cluster.request(1, "PUT", &format!("/v1/kv/{number}"), &[], &[7; 3_000]);
        assert_eq!(put.status, 201, "{}", put.text());
    }
    let made = synod(&["backup", text(&file), "--endpoints", &cluster.endpoints()]);
    assert!(made.status.success(), "{}", said(&made));
    let whole = fs::read(&file).expect("readable");

    let node = dir.path().join("node");
    fs::create_dir(&node).expect("made");
    let (settings, _) = new_settings(&cluster, 1, "feedfacefeedfacefeedfacefeedface");
    let config = node.join("synod.toml");
    fs::write(&config, settings).expect("written");
    let damaged = dir.path().join("damaged.synod");
    let refuse = |content: &[u8], what: &str| {
        fs::write(&damaged, content).expect("written");
        let refused = synod(&["restore", text(&damaged), "--config", text(&config)]);
        assert_eq!(refused.status.code(), Some(1), "{what}: {}", said(&refused));
        assert!(said(&refused).contains("is not a whole backup"), "{what}: {}", said(&refused));
        assert!(!node.join("data").exists(), "{what}");
    };
    refuse(&[], "empty");
    refuse(&whole[..whole.len() - 1], "without its last byte");
    refuse(&whole[..whole.len() - 32], "without its last block");
    refuse(&whole[..whole.len() / 2], "the first half");
    refuse(&[&whole[..], b"x"].concat(), "one byte more");
    let step = whole.len() / 40;
    for at in (0..whole.len()).step_by(step.max(1)) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x20;
        refuse(&flipped, &format!("byte {at} of {}", whole.len()));
    }
    let mut later = whole.clone();
    later[7] += 1;
    refuse(&later, "a form of the future");
    let refused = synod(&["restore", text(&damaged), "--config", text(&config)]);
    assert!(
        said(&refused).contains("a form that this release does not know"),
        "{}",
        said(&refused)
    );
    // An absent cluster leaves no file behind.
    let nothing = dir.path().join("nothing.synod");
    let failed = synod(&["backup", text(&nothing), "--endpoints", "http://127.0.0.1:1"]);
    assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
    let left = fs::read_dir(dir.path()).expect("readable").filter_map(Result::ok);
    let left: Vec<String> = left.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    assert!(!left.iter().any(|name| name.starts_with("nothing")), "{left:?}");
}
