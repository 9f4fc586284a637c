//! Many keys at once, from the command line: export and import through deaths of nodes,
//! listings, transactions, batches.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::cluster::{SYNOD, TestCluster, folder, synod};
use support::wait::wait_until;

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

/// Runs one that must do what it is told, and gives what it prints.
fn done(cluster: &TestCluster, arguments: &[&str]) -> String {
    let output = run(cluster, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// A subcommand with pipes.
fn spawn(endpoints: &str, arguments: &[&str]) -> Child {
    Command::new(SYNOD)
        .args(arguments)
        .args(["--endpoints", endpoints])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("synod runs")
}

/// Runs a subcommand that reads this.
fn fed(cluster: &TestCluster, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = spawn(&cluster.endpoints(), arguments);
    let mut pipe = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let feeder = thread::spawn(move || {
        // It may have seen enough before the end.
        let _ = pipe.write_all(&input);
    });
    let output = child.wait_with_output().expect("its end");
    feeder.join().expect("fed");
    output
}

/// The name of a file as an argument.
fn arg(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Stores `count` keys with values of `bytes` bytes.
fn fill(cluster: &TestCluster, count: usize, bytes: usize) {
    let mut lines = String::new();
    for key in 0..count {
        let value = format!("{key:0bytes$}");
        let line = json!({"op": "put", "key": format!("many/{key:06}"), "value": value});
        lines.push_str(&format!("{line}\n"));
    }
    let output = fed(cluster, &["batch", "--quiet"], lines.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
}

/// All keys and values, as lines without revisions and leases.
fn all(cluster: &TestCluster) -> Vec<String> {
    let bare = |line: &str| {
        let mut entry: Value = serde_json::from_str(line).expect("JSON");
        let members = entry.as_object_mut().expect("an object");
        members
            .retain(|name, _| !name.ends_with("revision") && name != "version" && name != "lease");
        entry.to_string()
    };
    let lines = done(cluster, &["list", "--ndjson"]);
    lines.lines().filter(|line| !line.contains("_synod/")).map(bare).collect()
}

#[test]
fn what_was_exported_is_imported_byte_by_byte_and_as_often_as_one_likes() {
    let (from, to) = (TestCluster::start(1), TestCluster::start(1));
    let folder = folder();
    let file = folder.path().join("all.ndjson");
    for (key, value) in [("a", &b"text"[..]), ("b%FF%00", &[0, 0xff]), ("c/%22%0A", b"")] {
        let put = from.request(1, "PUT", &format!("/v1/kv/{key}"), &[], value);
        assert_eq!(put.status, 201);
    }
    // A key that lives under a lease is exported, and its lease is not.
    let put = from.request(1, "PUT", "/v1/kv/d?ttl=3600s", &[], b"leased");
    assert_eq!(put.status, 201, "{}", put.text());
    let lock = from.request(1, "POST", "/v1/lock/it", &[], br#"{"ttl": "60s"}"#);
    assert_eq!(lock.status, 200, "{}", lock.text());
    let said = done(&from, &["export", arg(&file)]);
    assert!(said.contains("4 keys (without 1 of locks and elections) as of"), "{said}");
    let at = said.split("revision ").nth(1).and_then(|rest| rest.split(',').next()).expect("one");

    // It shows one revision, and replaces no file unless it is told to.
    done(&from, &["put", "later", "x"]);
    assert_eq!(run(&from, &["export", arg(&file)]).status.code(), Some(2));
    let again = folder.path().join("again.ndjson");
    done(&from, &["export", arg(&again), "--revision", at]);
    let (first, second) = (fs::read(&file).unwrap(), fs::read(&again).unwrap());
    assert_eq!(text(&first), text(&second));
    assert!(done(&from, &["get", "d", "--json"]).contains("\"lease\""));
    assert!(text(&first).contains("leased") && !text(&first).contains("\"lease\""));
    done(&from, &["delete", "later"]);

    done(&to, &["put", "kept", "it is not touched"]);
    assert!(done(&to, &["import", "--check", arg(&file)]).contains("4 keys as of revision"));
    assert_eq!(all(&to).len(), 1);
    assert_eq!(done(&to, &["import", arg(&file)]), "4 keys stored\n");
    assert_eq!(done(&to, &["import", arg(&file)]), "4 keys stored\n");
    assert!(!done(&to, &["get", "d", "--json"]).contains("\"lease\""));
    done(&to, &["delete", "kept"]);
    assert_eq!(all(&to), all(&from));

    // The same through a pipe, of a part.
    let output = run(&from, &["export", "--prefix", "b", "-"]);
    assert!(text(&output.stderr).contains("1 keys"), "{}", text(&output.stderr));
    done(&to, &["delete", "--all"]);
    let output = fed(&to, &["import", "-", "--json"], &output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(all(&to), ["{\"key_base64\":\"Yv8A\",\"value_base64\":\"AP8=\"}"]);
}

#[test]
fn values_that_are_long_as_text_do_not_grow_in_an_export() {
    let (from, to) = (TestCluster::start(1), TestCluster::start(1));
    let folder = folder();
    let file = folder.path().join("all.ndjson");
    let values = [("zeros", 0), ("quotes", b'"'), ("lines", b'\n'), ("text", b'x')];
    for (key, byte) in values {
        let put = from.request(1, "PUT", &format!("/v1/kv/{key}"), &[], &vec![byte; 1 << 20]);
        assert_eq!(put.status, 201, "{}", put.text());
    }
    done(&from, &["export", arg(&file)]);
    let longest = fs::read(&file).unwrap().split(|byte| *byte == b'\n').map(<[u8]>::len).max();
    assert!(longest < Some((4 << 20) / 3 + 1_000), "{longest:?}");
    assert_eq!(done(&to, &["import", arg(&file)]), "4 keys stored\n");
    for (key, byte) in values {
        let got = to.request(1, "GET", &format!("/v1/kv/{key}"), &[], b"");
        assert!(got.status == 200 && got.body == vec![byte; 1 << 20], "{key}");
    }
}

#[test]
fn a_file_is_made_by_one_export_at_a_time() {
    let cluster = TestCluster::start(1);
    let folder = folder();
    let (file, part) = (folder.path().join("all"), folder.path().join("all.part"));
    fs::write(&part, "of somebody else").unwrap();
    for making in [&["export", arg(&file)][..], &["backup", arg(&file), "--force"]] {
        let refused = run(&cluster, making);
        assert_eq!(refused.status.code(), Some(2));
        let said = text(&refused.stderr);
        assert!(said.contains("all.part is there") && said.contains("remove"), "{said}");
        assert_eq!(fs::read(&part).unwrap(), b"of somebody else");
    }
    fs::remove_file(&part).unwrap();
    done(&cluster, &["export", arg(&file)]);
    assert!(file.exists() && !part.exists());

    // One that fails or is interrupted leaves nothing behind.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut export = spawn(&url, &["export", arg(&file), "--force"]);
    wait_until("it has begun", || part.exists());
    let _asked = silent.accept().unwrap();
    let pid = i32::try_from(export.id()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(export.wait().unwrap().code(), Some(128 + 15));
    let failed = run(&cluster, &["export", arg(&file), "--force", "--revision", "1000"]);
    assert!(!failed.status.success());
    assert!(file.exists() && !part.exists());
}

#[test]
fn an_export_that_is_not_whole_is_refused_with_how_far_it_came() {
    let cluster = TestCluster::start(1);
    fill(&cluster, 20, 8);
    let folder = folder();
    let file = folder.path().join("all.ndjson");
    done(&cluster, &["export", arg(&file)]);
    done(&cluster, &["delete", "--prefix", "many/"]);
    let whole = fs::read(&file).unwrap();
    let middle = whole.len() / 2;
    let mut garbled = whole.clone();
    garbled[middle] ^= 1;
    for (spoilt, why) in [(&whole[..middle], "line"), (&garbled, "line"), (b"", "cut off")] {
        let path = folder.path().join("spoilt.ndjson");
        fs::write(&path, spoilt).unwrap();
        for arguments in [&["import", arg(&path)][..], &["import", "--check", arg(&path)]] {
            let output = run(&cluster, arguments);
            assert_eq!(output.status.code(), Some(1));
            let said = text(&output.stderr);
            assert!(said.contains(why) && said.contains("Nothing was stored"), "{said}");
        }
        assert_eq!(all(&cluster), Vec::<String>::new());
    }
    // What comes through a pipe can't be looked through before.
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let output = fed(&cluster, &["import", "-"], &lines[..8].concat());
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("cut off after 7 keys") && said.contains("7 keys are stored"), "{said}");
    assert_eq!(all(&cluster).len(), 7);
    let output = fed(&cluster, &["import", "-"], &whole);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(all(&cluster).len(), 20);
}

#[test]
fn an_export_outlives_the_node_that_makes_it() {
    let mut cluster = TestCluster::start(3);
    // More than the buffers of two processes and their sockets hold.
    fill(&cluster, 6_000, 4_000);
    let only = format!("http://{}", cluster.client_addr(1));
    let mut export = spawn(&only, &["export", "-"]);
    let mut out = export.stdout.take().expect("a pipe");
    let mut got = vec![0; 64 << 10];
    out.read_exact(&mut got).expect("it has begun");
    cluster.kill(1);
    let others = format!("http://{}", cluster.client_addr(2));
    let put = synod(&["put", "many/0", "it is not seen", "--endpoints", &others]);
    assert!(put.status.success(), "{}", text(&put.stderr));
    cluster.start_by_hand(1);
    out.read_to_end(&mut got).expect("the rest");
    let output = export.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let folder = folder();
    let file = folder.path().join("piped.ndjson");
    fs::write(&file, &got).unwrap();
    assert!(done(&cluster, &["import", "--check", arg(&file)]).contains("6000 keys"));
    assert!(!text(&got).contains("not seen"));
}

#[test]
fn an_import_outlives_the_leader() {
    let mut cluster = TestCluster::start(3);
    fill(&cluster, 2_000, 300);
    let folder = folder();
    let file = folder.path().join("all.ndjson");
    done(&cluster, &["export", arg(&file)]);
    let before = all(&cluster);
    done(&cluster, &["delete", "--all"]);
    let whole = fs::read(&file).unwrap();
    let mut import = spawn(&cluster.endpoints(), &["import", "-"]);
    let mut pipe = import.stdin.take().expect("a pipe");
    let (first, second) = whole.split_at(whole.len() / 2);
    pipe.write_all(first).expect("taken");
    let leader = cluster.leader();
    cluster.kill(leader);
    pipe.write_all(second).expect("taken");
    drop(pipe);
    let output = import.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "2000 keys stored\n");
    assert_eq!(all(&cluster), before);
}

#[test]
fn listings_show_what_is_asked_for() {
    let cluster = TestCluster::start(1);
    fill(&cluster, 1_500, 8);
    let keys = |arguments: &[&str]| -> Vec<String> {
        let lines = done(&cluster, &[arguments, &["--ndjson"]].concat());
        let key = |line| {
            let entry: Value = serde_json::from_str(line).expect("JSON");
            entry["key"].as_str().expect("a key").trim_start_matches("many/").to_owned()
        };
        lines.lines().map(key).collect()
    };
    assert_eq!(keys(&["list"]).len(), 1_500);
    assert_eq!(keys(&["list", "many/00007"]).len(), 10);
    let range = ["list", "--start", "many/000003", "--end", "many/000005"];
    assert_eq!(keys(&range), ["000003", "000004"]);
    assert_eq!(keys(&["list", "--reverse", "--limit", "2"]), ["001499", "001498"]);
    assert_eq!(keys(&["list", "--revision", "3"]).len(), 3);
    assert_eq!(done(&cluster, &["list", "--count"]), "1500\n");
    let table = done(&cluster, &["list", "many/00000", "--keys-only"]);
    assert!(table.starts_with("KEY          REVISION\nmany/000000  "), "{table}");
    assert_eq!(run(&cluster, &["list", "--ndjson", "--json"]).status.code(), Some(2));

    let said = done(&cluster, &["delete", "--prefix", "many/0000"]);
    assert!(said.starts_with("100 keys deleted"), "{said}");
    assert_eq!(done(&cluster, &["list", "--count"]), "1400\n");
    for wrong in [&["delete"][..], &["delete", "a", "--all"], &["delete", "--prefix", ""]] {
        assert_eq!(run(&cluster, wrong).status.code(), Some(2), "{wrong:?}");
    }
    let compact = done(&cluster, &["compact", "1500"]);
    assert!(compact.contains("from 1500 on"), "{compact}");
    let again = run(&cluster, &["compact", "1500"]);
    assert_eq!(again.status.code(), Some(3), "{}", text(&again.stderr));
    let old = run(&cluster, &["list", "--ndjson", "--revision", "3"]);
    assert!(!old.status.success() && old.stdout.is_empty());
    assert!(text(&old.stderr).contains("compact"), "{}", text(&old.stderr));
}

#[test]
fn values_of_any_bytes_come_from_files_and_go_to_files() {
    let cluster = TestCluster::start(1);
    let folder = folder();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    fs::write(&from, &bytes).unwrap();
    done(&cluster, &["put", "picture", "--file", arg(&from)]);
    done(&cluster, &["get", "picture", "--file", arg(&to)]);
    assert_eq!(fs::read(&to).unwrap(), bytes);
    let missing = run(&cluster, &["put", "picture", "--file", "/nowhere"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("/nowhere"), "{}", text(&missing.stderr));
    let long = run(&cluster, &["put", "picture", "--file", "/dev/zero"]);
    assert_eq!(long.status.code(), Some(2), "{}", text(&long.stderr));
    assert_eq!(run(&cluster, &["put", "k", "v", "--file", "f"]).status.code(), Some(2));
}

#[test]
fn a_transaction_says_by_its_exit_code_whether_it_held() {
    let cluster = TestCluster::start(1);
    let folder = folder();
    let file = folder.path().join("create.json");
    let create = json!({
        "compare": [{"key": "owner", "target": "version", "op": "=", "operand": 0}],
        "success": [{"op": "put", "key": "owner", "value": "me"}],
        "failure": [{"op": "get", "key": "owner"}, {"op": "range", "prefix": "own"}],
    });
    fs::write(&file, create.to_string()).unwrap();
    let first = done(&cluster, &["txn", arg(&file)]);
    assert_eq!(first, "success at revision 1\n1  put  owner  created\n");
    let second = run(&cluster, &["txn", arg(&file)]);
    assert_eq!(second.status.code(), Some(3));
    let expected = "failure at revision 1\n\
                    1  get    owner    me (revision 1)\n\
                    2  range  own*     1 keys\n            \
                    owner  me (revision 1)\n";
    assert_eq!(text(&second.stdout), expected);
    let output = fed(&cluster, &["txn", "-", "--json"], create.to_string().as_bytes());
    assert_eq!(output.status.code(), Some(3));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["succeeded"], false);
    assert_eq!(answer["results"][0]["record"]["value"], "me");
    let wrong = fed(&cluster, &["txn", "-"], b"{\"then\": []}");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("then"), "{}", text(&wrong.stderr));
}

#[test]
fn a_batch_says_of_each_line_what_became_of_it() {
    let cluster = TestCluster::start(1);
    let lines = br#"{"op": "put", "key": "a", "value": "1"}

{"op": "delete", "key": "b"}
{"op": "put", "key": ""}
nonsense
{"op": "put", "key": "a", "value": "2"}"#;
    let output = fed(&cluster, &["batch", "--json"], lines);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let results: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let numbers: Vec<&Value> = results.iter().map(|result| &result["line"]).collect();
    assert_eq!(numbers, [1, 3, 4, 5, 6]);
    assert_eq!(results[0], json!({"line": 1, "revision": 1, "create_revision": 1, "version": 1}));
    assert_eq!(results[1], json!({"line": 3, "revision": 1, "deleted": 0}));
    assert_eq!(results[2]["problem"]["type"], "urn:synod:bad-key");
    assert_eq!(results[3]["problem"]["type"], "urn:synod:bad-json");
    assert_eq!(results[4]["version"], 2);
    let output = fed(&cluster, &["batch", "--quiet"], lines);
    assert_eq!(text(&output.stdout).lines().count(), 2, "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("3 of 5 lines"), "{}", text(&output.stderr));
    let dead = synod(&["batch", "/dev/null", "--endpoints", "http://127.0.0.1:9"]);
    assert_eq!(dead.status.code(), Some(0), "nothing is nothing");
}

#[test]
fn shells_take_the_completions() {
    let folder = folder();
    for shell in ["bash", "zsh", "fish"] {
        let output = synod(&["completions", shell]);
        assert!(output.status.success());
        let script = text(&output.stdout);
        assert!(script.contains("export") && script.contains("keys-only"), "{shell}");
        let file: PathBuf = folder.path().join(shell);
        fs::write(&file, script).unwrap();
        // Where the shell is installed, it must understand what it gets.
        if let Ok(checked) = Command::new(shell).arg("-n").arg(&file).output() {
            assert!(checked.status.success(), "{shell}: {}", text(&checked.stderr));
        }
    }
    assert_eq!(synod(&["completions", "csh"]).status.code(), Some(2));
    assert!(text(&synod(&["put", "--help"]).stdout).contains("synod put greeting hello"));
}
