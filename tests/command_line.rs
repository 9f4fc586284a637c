//! The subcommands that talk to a cluster: what they print and how they end.

mod support;

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use support::cluster::{SYNOD, TestCluster, folder, synod};
use support::script;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a subcommand against the cluster.
fn run(cluster: &TestCluster, arguments: &[&str]) -> Output {
    let endpoints = cluster.endpoints();
    let mut all = arguments.to_vec();
    all.extend(["--endpoints", &endpoints]);
    synod(&all)
}

#[test]
fn keys_are_stored_read_listed_and_deleted() {
    let cluster = TestCluster::start(3);
    let put = run(&cluster, &["put", "fruit/apple", "red"]);
    assert_eq!(put.status.code(), Some(0), "{}", text(&put.stderr));
    assert!(run(&cluster, &["put", "fruit/pear", "green"]).status.success());

    let get = run(&cluster, &["get", "fruit/apple"]);
    assert_eq!((get.status.code(), text(&get.stdout).as_str()), (Some(0), "red"));
    let list = text(&run(&cluster, &["list", "fruit/"]).stdout);
    assert!(list.contains("fruit/apple") && list.contains("green"), "{list}");

    let delete = run(&cluster, &["delete", "fruit/apple"]);
    assert_eq!(delete.status.code(), Some(0), "{}", text(&delete.stderr));
    let gone = run(&cluster, &["get", "fruit/apple"]);
    assert_eq!(gone.status.code(), Some(3), "not found is 3");
    assert!(text(&gone.stderr).contains("fruit/apple"));
    assert_eq!(run(&cluster, &["delete", "fruit/apple"]).status.code(), Some(3));
}

#[test]
fn a_write_shows_what_was_there_before_if_asked() {
    let cluster = TestCluster::start(1);
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_slice(&run(&cluster, arguments).stdout).expect("JSON")
    };
    let first = json(&["put", "k", "old", "--previous", "--json"]);
    assert_eq!(first.get("previous"), None, "{first}");
    let put = text(&run(&cluster, &["put", "k", "new", "--prev"]).stdout);
    assert_eq!(put, "replaced at revision 2\nbefore, of revision 1: old\n");
    let put = json(&["put", "k", "newer", "--previous", "--json"]);
    assert_eq!((&put["previous"]["value"], &put["revision"]), (&"new".into(), &3.into()), "{put}");
    let gone = json(&["delete", "k", "--previous", "--json"]);
    assert_eq!(gone["previous"]["value"], "newer", "{gone}");
    // What is for one key is not passed over where there are many.
    for many in [&["--all"][..], &["--prefix", "k"]] {
        for one in [&["--previous"][..], &["--if-revision", "1"]] {
            let refused = run(&cluster, &[&["delete"][..], many, one].concat());
            assert_eq!(refused.status.code(), Some(2), "{many:?} {one:?}");
        }
    }
}

#[test]
fn a_read_waits_for_the_revision_that_it_names() {
    let cluster = TestCluster::start(1);
    for key in ["a/1", "a/2", "b/1"] {
        assert!(run(&cluster, &["put", key, "x"]).status.success());
    }
    // The prefix has two spellings.
    let here = ["--stale", "--min-revision", "3"];
    for list in [&["list", "a/"][..], &["list", "--prefix", "a/"]] {
        let listed = text(&run(&cluster, &[list, &here].concat()).stdout);
        assert_eq!(listed.lines().count(), 3, "{listed}");
    }
    assert_eq!(text(&run(&cluster, &[&["get", "b/1"][..], &here].concat()).stdout), "x");
    assert_eq!(run(&cluster, &["list", "a/", "--prefix", "b/"]).status.code(), Some(2));
    // It never comes.
    let there = ["--min-revision", "9", "--timeout-ms", "200"];
    for read in [&["get", "b/1"][..], &["list"]] {
        let late = run(&cluster, &[read, &there].concat());
        assert_eq!(late.status.code(), Some(1), "{}", text(&late.stdout));
    }
    let before = ["get", "b/1", "--min-revision", "3", "--revision", "1"];
    assert_eq!(run(&cluster, &before).status.code(), Some(1));
}

#[test]
fn a_listing_that_is_cut_off_says_so_to_programs_too() {
    let cluster = TestCluster::start(1);
    for key in ["cut/a", "cut/b c", "cut/d"] {
        assert!(run(&cluster, &["put", key, "x"]).status.success());
    }
    let cut = run(&cluster, &["list", "cut/", "--json", "--limit", "1"]);
    let page: serde_json::Value = serde_json::from_slice(&cut.stdout).expect("JSON");
    assert_eq!((&page["count"], &page["next"]), (&1.into(), &"cut/b%20c".into()), "{page}");
    assert!(text(&cut.stderr).contains("more keys"), "{}", text(&cut.stderr));

    let whole = run(&cluster, &["list", "cut/", "--json"]);
    let page: serde_json::Value = serde_json::from_slice(&whole.stdout).expect("JSON");
    assert_eq!((&page["count"], page.get("next")), (&3.into(), None), "{page}");
    assert_eq!(text(&whole.stderr), "");
}

#[test]
fn a_value_comes_from_standard_input_byte_by_byte() {
    let cluster = TestCluster::start(1);
    let bytes: Vec<u8> = (0..=255).collect();
    let mut put = Command::new(SYNOD)
        .args(["put", "bytes", "-", "--endpoints", &cluster.endpoints()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("synod runs");
    put.stdin.take().expect("a pipe").write_all(&bytes).expect("written");
    assert!(put.wait().expect("its end").success());
    assert_eq!(run(&cluster, &["get", "bytes"]).stdout, bytes);
}

#[test]
fn preconditions_decide_the_exit_code() {
    let cluster = TestCluster::start(1);
    assert!(run(&cluster, &["put", "once", "a", "--if-absent"]).status.success());
    let second = run(&cluster, &["put", "once", "b", "--if-absent"]);
    assert_eq!(second.status.code(), Some(3), "{}", text(&second.stderr));
    let stored = run(&cluster, &["get", "once", "--json"]);
    let record: serde_json::Value = serde_json::from_slice(&stored.stdout).expect("JSON");
    let revision = record["mod_revision"].as_u64().expect("a revision").to_string();
    let swap = run(&cluster, &["put", "once", "c", "--if-revision", &revision]);
    assert!(swap.status.success(), "{}", text(&swap.stderr));
    let late = run(&cluster, &["delete", "once", "--if-revision", &revision]);
    assert_eq!(late.status.code(), Some(3));
}

/// What a command prints when it is asked for again under the name that it told when the answer
/// to it was lost.
fn ask_again(cluster: &TestCluster, lossy: &str, arguments: &[&str]) -> String {
    let lost = synod(&[arguments, &["--endpoints", lossy, "--timeout-ms", "400"]].concat());
    let said = text(&lost.stderr);
    assert_eq!(lost.status.code(), Some(1), "{arguments:?} {said}");
    let name = said.split("--idempotency-key ").nth(1).and_then(|rest| rest.split(' ').next());
    let name = name.unwrap_or_else(|| panic!("{arguments:?} tells no name: {said}"));
    let revision = || cluster.request(1, "GET", "/v1/status", &[], b"").json()["revision"].clone();
    let before = revision();
    let again = run(cluster, &[arguments, &["--idempotency-key", name]].concat());
    assert_eq!(again.status.code(), Some(0), "{arguments:?} {}", text(&again.stderr));
    assert_eq!(revision(), before, "{arguments:?} was carried out twice");
    text(&again.stdout)
}

#[test]
fn a_write_whose_outcome_is_unknown_tells_the_name_under_which_it_is_repeated() {
    let cluster = TestCluster::start(1);
    let lossy = script::lose_answers(cluster.client_addr(1));
    let again = |arguments: &[&str]| ask_again(&cluster, &lossy, arguments);
    let folder = folder();
    let file = folder.path().join("transaction.json");
    let document = "{\"compare\": [{\"key\": \"p/1\", \"target\": \"version\", \"op\": \"=\", \
                    \"operand\": 0}], \"success\": [{\"op\": \"put\", \"key\": \"p/1\", \
                    \"value\": \"1\"}]}";
    fs::write(&file, document).expect("written");

    assert_eq!(again(&["put", "k", "v"]), "created at revision 1\n");
    assert_eq!(again(&["delete", "k"]), "deleted at revision 2\n");
    let done = again(&["txn", file.to_str().expect("text")]);
    assert!(done.starts_with("success at revision 3\n"), "{done}");
    assert_eq!(again(&["delete", "--prefix", "p/"]), "1 keys deleted, revision 4\n");
    assert!(run(&cluster, &["put", "a", "1"]).status.success());
    assert_eq!(again(&["delete", "--all"]), "1 keys deleted, revision 6\n");
    let compacted = again(&["compact", "3"]);
    assert!(compacted.starts_with("revisions from 3 on"), "{compacted}");

    let id = again(&["lease", "grant", "60s"]);
    let leases = text(&run(&cluster, &["lease", "list", "--json"]).stdout);
    let leases: serde_json::Value = serde_json::from_str(&leases).expect("JSON");
    let ids: Vec<_> =
        leases.as_array().expect("a list").iter().map(|l| l["id"].to_string()).collect();
    assert_eq!(ids, [id.trim_end()], "it was granted once");
    let ended = again(&["lease", "revoke", id.trim_end()]);
    assert!(ended.starts_with(&format!("lease {} ended", id.trim_end())), "{ended}");

    // What is no name is refused before it is sent, and one of another write by the cluster.
    for wrong in ["", "a b", &"x".repeat(256)] {
        let put = run(&cluster, &["put", "k", "v", "--idempotency-key", wrong]);
        assert_eq!(put.status.code(), Some(2), "{wrong}");
    }
    assert!(run(&cluster, &["put", "k", "v", "--idempotency-key", "mine"]).status.success());
    let other = run(&cluster, &["put", "k", "w", "--idempotency-key", "mine"]);
    assert_eq!(other.status.code(), Some(1), "{}", text(&other.stdout));
    assert_eq!(text(&run(&cluster, &["get", "k"]).stdout), "v");
}

#[test]
fn status_names_the_leader_for_people_and_for_programs() {
    let mut cluster = TestCluster::start(3);
    let people = text(&run(&cluster, &["status"]).stdout);
    assert!(people.contains("leader") && people.contains("follower"), "{people}");
    let programs = run(&cluster, &["status", "--json"]);
    let nodes: serde_json::Value = serde_json::from_slice(&programs.stdout).expect("JSON");
    assert_eq!(nodes.as_array().expect("a list").len(), 3);

    // A node that is down is shown as such; the others still answer.
    cluster.kill(2);
    let partly = run(&cluster, &["status"]);
    assert!(partly.status.success(), "{}", text(&partly.stderr));
    assert!(text(&partly.stdout).contains(&cluster.client_addr(2).port().to_string()));
}

#[test]
fn a_change_of_quorums_that_may_have_been_made_is_not_asked_for_again() {
    let cluster = TestCluster::start(1);
    let real = format!("http://{}", cluster.client_addr(1));
    let get = |path: &str| cluster.request(1, "GET", path, &[], b"").text();
    let (status, members) = (get("/v1/status"), get("/v1/cluster/members"));
    let own = Arc::new(OnceLock::<String>::new());
    let asked = Arc::new(AtomicUsize::new(0));
    let (url, count) = (Arc::clone(&own), Arc::clone(&asked));
    let server = script::serve(move |request| {
        let url = url.get().expect("it is known before it is asked");
        if request.starts_with("PUT /v1/cluster/quorums ") {
            // It is made, and the answer is lost.
            count.fetch_add(1, Relaxed);
            return None;
        }
        let mut text = if request.contains("/v1/status") { &status } else { &members }.clone();
        if count.load(Relaxed) > 0 {
            text = text.replace("_quorum\":1", "_quorum\":2");
        }
        Some((200, text.replace(&real, url)))
    });
    own.set(server.clone()).expect("only here");
    let quorums = ["member", "quorums", "--promise", "2", "--accept", "2", "--endpoints", &server];
    let output = synod(&quorums);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("2 promises make a leader"), "{}", text(&output.stdout));
    assert_eq!(asked.load(Relaxed), 1);
}

#[test]
fn no_cluster_is_a_failure_that_says_what_to_do() {
    let folder = folder();
    let output = Command::new(SYNOD)
        .args(["get", "k", "--endpoints", "http://127.0.0.1:9", "--timeout-ms", "500"])
        .current_dir(folder.path())
        .output()
        .expect("synod runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("127.0.0.1:9"), "{}", text(&output.stderr));
}

#[test]
fn a_watch_from_a_revision_that_is_not_there_yet_tells_which_is_the_newest() {
    let cluster = TestCluster::start(3);
    assert!(run(&cluster, &["put", "a", "1"]).status.success());
    let watch = run(&cluster, &["watch", "--prefix", "a", "--from", "1000"]);
    let said = text(&watch.stderr);
    assert_eq!(watch.status.code(), Some(1), "{said}");
    for words in ["the store is at revision 1.", "No such revision yet"] {
        assert!(said.contains(words), "{words:?} is missing in {said}");
    }
    assert!(!said.contains("no node answered"), "{said}");
}

#[test]
fn a_folder_that_the_next_start_mends_is_told_so() {
    let mut cluster = TestCluster::start(1);
    assert!(cluster.stop().success());
    let path = cluster.settings_path(1);
    let (config, data) = (path.display().to_string(), path.with_file_name("data"));
    let mut settings = fs::read_to_string(&path).expect("settings");
    settings.push_str("\n[limits]\nsegment_bytes = 65536\n");
    fs::write(&path, settings).expect("written");
    // What was made before is as large as the settings said then.
    fs::remove_dir_all(&data).expect("removed");
    let made = synod(&["init", "--config", &config, "--json"]);
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).expect("JSON");
    assert_eq!((&made["node"], made["data_dir"].as_str()), (&1.into(), data.to_str()), "{made}");
    cluster.launch();
    for number in 0..300 {
        let put = cluster.request(1, "PUT", &format!("/v1/kv/{number}"), &[], &[b'v'; 1_000]);
        assert_eq!(put.status, 201, "{}", put.text());
    }
    assert!(cluster.stop().success());
    let inspect = || {
        let output = synod(&["inspect", "--data", &data.display().to_string()]);
        (output.status.code(), text(&output.stdout))
    };
    let (code, whole) = inspect();
    assert_eq!(code, Some(0), "{whole}");
    let row = |name: &str| {
        let line =
            whole.lines().find(|line| line.starts_with(name)).map(|line| &line[name.len()..]);
        line.unwrap_or_else(|| panic!("{name} is missing in {whole}")).trim().to_owned()
    };
    assert_eq!((row("founded by"), row("voters")), ("node 1".to_owned(), "node 1".to_owned()));
    assert!(row("state size").ends_with(" files"), "{whole}");

    let mut segments: Vec<_> = fs::read_dir(data.join("journal"))
        .expect("a journal")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .collect();
    segments.sort();
    let mut bytes = fs::read(&segments[2]).expect("readable");
    bytes[30_000] ^= 0x40;
    fs::write(&segments[2], bytes).expect("written");
    let (code, damaged) = inspect();
    assert_eq!(code, Some(1), "{damaged}");
    assert!(damaged.contains("it mends its journal by itself"), "{damaged}");
    assert!(!damaged.contains("member replace"), "{damaged}");
    cluster.launch();
    assert!(cluster.stop().success());
    let (code, mended) = inspect();
    assert_eq!(code, Some(0), "{mended}");
}

#[test]
fn wrong_usage_is_2_and_the_version_is_printed() {
    assert_eq!(synod(&["fly"]).status.code(), Some(2));
    assert_eq!(synod(&["get"]).status.code(), Some(2));
    let version = synod(&["--version"]);
    assert!(text(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
    // The binary of the tests must not be taken for a released one.
    assert!(text(&version.stdout).contains("built for tests"));
}
