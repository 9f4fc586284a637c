//! Two of three nodes are lost for good, and the third becomes a cluster of its own.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;
use support::cluster::{TestCluster, synod};
use support::wait::wait_until;

/// Acknowledged writes before everything dies.
const WRITES: usize = 400;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every file of a folder.
fn image(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            files.extend(image(&path));
            files.insert(path, Vec::new());
        } else {
            let content = fs::read(&path).expect("readable");
            files.insert(path, content);
        }
    }
    files
}

/// Writes through nodes 2 and 3 until enough was acknowledged, and kills both in the
/// middle of it. Answers the keys that were acknowledged.
fn write_and_kill(cluster: &mut TestCluster) -> Vec<String> {
    let (acknowledged, next) = (Mutex::new(Vec::new()), AtomicU32::new(0));
    let is_over = AtomicBool::new(false);
    thread::scope(|threads| {
        for node in [2, 2, 2, 3, 3, 3] {
            let (cluster, acknowledged, next, is_over) =
                (&*cluster, &acknowledged, &next, &is_over);
            threads.spawn(move || {
                while !is_over.load(Relaxed) {
                    let key = format!("{:05}", next.fetch_add(1, Relaxed));
                    let target = format!("/v1/kv/{key}");
                    let put = cluster.try_request(node, "PUT", &target, &[], key.as_bytes());
                    if put.is_ok_and(|put| put.status == 201) {
                        acknowledged.lock().expect("no writer panics").push(key);
                    }
                }
            });
        }
        wait_until("enough writes", || acknowledged.lock().expect("no panic").len() >= WRITES);
        cluster.signal(2, Signal::KILL);
        cluster.signal(3, Signal::KILL);
        is_over.store(true, Relaxed);
    });
    cluster.wait_for_death(2);
    cluster.wait_for_death(3);
    acknowledged.into_inner().expect("no writer panicked")
}

/// The settings of the new cluster, as `synod recover` says.
fn write_settings(cluster: &TestCluster, made: &Value) {
    let (client, data) = (cluster.client_addr(3), made["folder"].as_str().expect("a folder"));
    let peer = client.port() + 10;
    let id = made["cluster"].as_str().expect("an id");
    let settings = format!(
        "node_id = 3\ndata_dir = {data:?}\n[cluster]\nid = {id:?}\nalpha = {}\n\
         [client]\nlisten = \"{client}\"\n[peer]\nlisten = \"127.0.0.1:{peer}\"\n\
         [[members]]\nid = 3\npeer = \"127.0.0.1:{peer}\"\nclient_url = \"http://{client}\"\n",
        made["alpha"]
    );
    fs::write(cluster.settings_path(3), settings).expect("written");
}

#[test]
fn what_the_last_node_of_three_accepted_goes_on_in_a_cluster_of_its_own() {
    let mut cluster = TestCluster::start(3);
    let data = cluster.settings_path(3).with_file_name("data");
    let running = synod(&["recover", "--data", text(&data), "--yes-lose-slots"]);
    assert_eq!(running.status.code(), Some(1), "{}", said(&running));
    assert!(said(&running).contains("is to be stopped first"), "{}", said(&running));

    // From here on node 3 is in every quorum.
    cluster.kill(1);
    cluster.leader_among(&[2, 3]);
    let put = cluster.request(3, "PUT", "/v1/kv/first", &[], b"first");
    assert_eq!(put.status, 201, "{}", put.text());
    let keys = write_and_kill(&mut cluster);
    for lost in [1, 2] {
        let folder = cluster.settings_path(lost).with_file_name("data");
        fs::remove_dir_all(folder).expect("removed");
    }
    let before = image(&data);
    refusals(&data);

    let recovered = synod(&["recover", "--data", text(&data), "--yes-lose-slots", "--json"]);
    assert!(recovered.status.success(), "{}", said(&recovered));
    assert!(image(&data) == before, "the survivor's folder was changed");
    let report: Value = serde_json::from_slice(&recovered.stdout).expect("JSON");
    let (found, made) = (&report["found"], &report["made"]);
    assert_eq!(found["voters"], serde_json::json!([1, 2, 3]), "{report}");
    assert_eq!((&found["kept_slot"], &found["doubts"]), (&made["slot"], &Value::Array(vec![])));
    assert_eq!(made["folder"], text(&data.with_file_name("data.recovered")));
    assert_ne!(made["cluster"], found["cluster"]);
    assert_eq!(made["ids_used_upto"], 3, "{report}");
    let again = synod(&["recover", "--data", text(&data), "--yes-lose-slots"]);
    assert!(said(&again).contains("already holds node 3"), "{}", said(&again));

    write_settings(&cluster, made);
    cluster.start_by_hand(3);
    wait_until("the new cluster serves", || {
        cluster.try_request(3, "GET", "/readyz", &[], b"").is_ok_and(|ready| ready.status == 200)
    });
    for key in keys.iter().map(String::as_str).chain(["first"]) {
        let get = cluster.request(3, "GET", &format!("/v1/kv/{key}"), &[], b"");
        assert_eq!((get.status, &get.body[..]), (200, key.as_bytes()), "{key} was acknowledged");
    }
    let put = cluster.request(3, "PUT", "/v1/kv/new", &[], b"new");
    assert_eq!(put.status, 201, "{}", put.text());
    assert_eq!(cluster.status(3).expect("a status")["cluster"], made["cluster"]);
    // A restart finds it again.
    cluster.kill(3);
    cluster.start_by_hand(3);
    wait_until("it serves again", || {
        let get = cluster.try_request(3, "GET", "/v1/kv/new", &[], b"");
        get.is_ok_and(|get| get.status == 200)
    });
}

/// Everything that makes nothing.
fn refusals(data: &Path) {
    let refused = |arguments: &[&str], code: i32, words: &str| {
        let output = synod(&[&["recover"], arguments].concat());
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {words:?} is missing in {text}");
        assert!(!data.with_file_name("data.recovered").exists(), "{arguments:?}");
        output
    };
    let yes = "--yes-lose-slots";
    let taken = data.parent().expect("a folder");
    refused(&["--data", text(taken), yes], 1, "holds no node");
    refused(&["--data", text(data), yes, "--to", text(data)], 1, "lies in the survivor's folder");
    let private = data.with_file_name("taken");
    fs::create_dir(&private).expect("made");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&private, mode).expect("set");
    fs::write(private.join("holiday.jpg"), b"sun").expect("written");
    refused(&["--data", text(data), yes, "--to", text(&private)], 1, "holiday.jpg");
    refused(&["--data", text(data), "--yes-damaged-folder"], 2, "--yes-lose-slots");

    // Without a word nothing is done; what there is, is told.
    let identity = fs::read_to_string(data.join("identity.json")).expect("readable");
    let identity: Value = serde_json::from_str(&identity).expect("JSON");
    let digits = &identity["cluster_id"].as_str().expect("an id")[..8];
    refused(&["--data", text(data)], 2, &format!("type {digits:?}, or say {yes}"));
    refused(&["--data", text(data)], 2, "MAY BE LOST");
    let output = refused(&["--data", text(data), "--json"], 2, yes);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["made"], Value::Null);
    assert!(report["found"]["chosen_slot"].as_u64().is_some_and(|slot| slot > 0), "{report}");
}
