//! `synod watch`, `lease`, `lock` and `elect`, as people and scripts use them, on a real cluster.
#![allow(missing_docs)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::cluster::{SYNOD, TestCluster, folder, output_of};
use support::script;
use support::wait::{PATIENCE, wait_for, wait_until};

fn command(cluster: &TestCluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(SYNOD);
    // Behind `--` is what is run, not what `synod` takes.
    let (own, rest) = arguments
        .iter()
        .position(|word| *word == "--")
        .map_or((arguments, &[][..]), |at| arguments.split_at(at));
    command.args(own).args(["--endpoints", &cluster.endpoints()]).args(rest);
    command
}

fn run(cluster: &TestCluster, arguments: &[&str]) -> Output {
    output_of(&mut command(cluster, arguments), PATIENCE)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command printed that must succeed.
fn printed(cluster: &TestCluster, arguments: &[&str]) -> String {
    let output = run(cluster, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn json(cluster: &TestCluster, arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(cluster, arguments)).expect("JSON")
}

/// A command that goes on, and the lines that it prints.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(cluster: &TestCluster, arguments: &[&str]) -> Self {
        let mut command = command(cluster, arguments);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("synod runs");
        let lines = lines_of(child.stdout.take().expect("a pipe"));
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, signal).expect("it takes a signal");
    }

    /// Its exit code, and what it said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let status = wait_for("the end", || self.child.try_wait().expect("the state of a child"));
        let mut stderr = String::new();
        let mut pipe = self.child.stderr.take().expect("a pipe");
        pipe.read_to_string(&mut stderr).expect("text");
        (status.code(), stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(pipe: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

#[test]
fn a_watch_prints_each_change_once_though_nodes_are_killed() {
    let mut cluster = TestCluster::start(3);
    printed(&cluster, &["put", "jobs/1", "todo"]);
    let people =
        Running::start(&cluster, &["watch", "--prefix", "jobs/", "--from", "1", "--previous"]);
    let one =
        Running::start(&cluster, &["watch", "jobs/1", "--from", "1", "--json", "--count", "3"]);
    assert_eq!(people.line(), "       1  put     jobs/1  todo");
    let first: Value = serde_json::from_str(&one.line()).expect("JSON");
    assert_eq!((&first["type"], &first["revision"]), (&"put".into(), &1.into()), "{first}");
    // Whichever node it watches at, one of these kills cuts it off.
    for (id, value) in [(1, "begun"), (2, "done")] {
        cluster.kill(id);
        // Under one name, however often it has to be sent.
        printed(&cluster, &["put", "jobs/1", value, "--timeout-ms", "30000"]);
        cluster.start_by_hand(id);
        cluster.wait_until_complete();
    }
    printed(&cluster, &["delete", "jobs/1"]);
    assert_eq!(people.line(), "       2  put     jobs/1  begun  (was todo)");
    assert_eq!(people.line(), "       3  put     jobs/1  done  (was begun)");
    assert_eq!(people.line(), "       4  delete  jobs/1  (was done)");
    let last: Vec<Value> =
        (0..2).map(|_| serde_json::from_str(&one.line()).expect("JSON")).collect();
    assert_eq!((&last[0]["value"], &last[1]["value"]), (&"begun".into(), &"done".into()));
    assert_eq!(one.end().0, Some(0));

    // A range, and what of it begins alike.
    for key in ["jobs0", "jobs/3", "jobs/2"] {
        printed(&cluster, &["put", key, "v"]);
    }
    let told = |range: &[&str], count| {
        let more = ["--from", "1", "--count", count, "--json"];
        let lines = printed(&cluster, &[&["watch"], range, &more].concat());
        let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        events.map(|event| event["key"].as_str().expect("a key").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(told(&["--start", "jobs/2", "--end", "jobs/3"], "1"), ["jobs/2"]);
    assert_eq!(told(&["--start", "jobs/2"], "3"), ["jobs0", "jobs/3", "jobs/2"]);
    assert_eq!(told(&["--end", "jobs/2"], "4"), ["jobs/1"; 4]);
    let narrow = ["--prefix", "jobs/", "--start", "jobs/3", "--end", "k"];
    assert_eq!(told(&narrow, "1"), ["jobs/3"]);
    // A key is no range; and no range is refused as by a listing.
    for bound in ["--prefix", "--start", "--end"] {
        assert_eq!(run(&cluster, &["watch", "k", bound, "a"]).status.code(), Some(2), "{bound}");
    }
    for asked in ["watch", "list"] {
        let nothing = run(&cluster, &[asked, "--start", "b", "--end", "a"]);
        assert_eq!(nothing.status.code(), Some(1), "{asked}: {}", text(&nothing.stderr));
    }

    // Nobody reads: it ends with the next change. What is forgotten is said.
    let mut unread = command(&cluster, &["watch", "--prefix", "", "--from", "1"]);
    let mut unread = unread.stdout(Stdio::piped()).spawn().expect("synod runs");
    drop(unread.stdout.take());
    assert!(unread.wait().expect("its end").success());
    assert_eq!(run(&cluster, &["watch"]).status.code(), Some(2));
    let late = run(&cluster, &["watch", "k", "--from", "1000", "--timeout-ms", "2000"]);
    assert_eq!(late.status.code(), Some(1), "{}", text(&late.stderr));
}

#[test]
fn a_lease_is_granted_kept_shown_and_ended() {
    let cluster = TestCluster::start(3);
    assert_eq!(printed(&cluster, &["lease", "grant", "60s", "--id", "7"]), "7\n");
    let other = json(&cluster, &["lease", "grant", "1m", "--json"]);
    assert_eq!(other["ttl_ms"], 60_000);
    assert_eq!(run(&cluster, &["lease", "grant", "60s", "--id", "7"]).status.code(), Some(3));
    printed(&cluster, &["put", "a", "1", "--lease", "7"]);
    let own = json(&cluster, &["put", "b", "2", "--ttl", "60s", "--json"]);
    assert!(own["lease"].as_u64().is_some_and(|id| id != 7), "{own}");
    assert_eq!(run(&cluster, &["put", "c", "3", "--lease", "99"]).status.code(), Some(3));
    assert_eq!(
        run(&cluster, &["put", "c", "3", "--lease", "7", "--ttl", "9s"]).status.code(),
        Some(2)
    );

    let shown = printed(&cluster, &["lease", "show", "7"]);
    assert!(shown.contains("ttl   60s") && shown.lines().any(|line| line.trim() == "a"), "{shown}");
    assert_eq!(json(&cluster, &["lease", "show", "7", "--json"])["keys"][0]["key"], "a");
    let list = printed(&cluster, &["lease", "list"]);
    assert!(list.starts_with("LEASE") && list.lines().count() == 4, "{list}");
    assert_eq!(json(&cluster, &["lease", "list", "--json"]).as_array().map(Vec::len), Some(3));
    assert!(printed(&cluster, &["lease", "keep", "7", "--once"]).contains("60s"));

    // Kept until it is over, which is an answer.
    printed(&cluster, &["lease", "grant", "2s", "--id", "8"]);
    let keeper = Running::start(&cluster, &["lease", "keep", "8"]);
    assert!(keeper.line().contains("kept alive"));
    assert!(printed(&cluster, &["lease", "revoke", "8"]).contains("with 0 keys"));
    let (code, said) = keeper.end();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("lease 8 is lost"), "{said}");

    printed(&cluster, &["lease", "grant", "60s", "--id", "9"]);
    let keeper = Running::start(&cluster, &["lease", "keep", "9", "--json"]);
    assert_eq!(keeper.line(), r#"{"id":9,"ttl_ms":60000}"#);
    drop(keeper);

    assert!(printed(&cluster, &["lease", "revoke", "7"]).contains("with 1 key"));
    assert_eq!(run(&cluster, &["get", "a"]).status.code(), Some(3));
    for gone in [["lease", "show", "7"], ["lease", "revoke", "7"], ["lease", "keep", "7"]] {
        assert_eq!(run(&cluster, &gone).status.code(), Some(3), "{gone:?}");
    }
}

#[test]
fn a_lock_is_held_while_its_command_runs() {
    let mut cluster = TestCluster::start(3);
    let folder = folder();
    let file = |name: &str| folder.path().join(name).display().to_string();
    // The command ends when the file is there.
    let script = format!(
        "echo $SYNOD_LOCK_TOKEN; while [ ! -e {} ]; do sleep 0.05; done; exit 5",
        file("go")
    );
    let first = Running::start(&cluster, &["lock", "l", "--ttl", "20s", "--", "sh", "-c", &script]);
    let token: u64 = first.line().parse().expect("a token");
    let holder = json(&cluster, &["lock", "l", "--show", "--json"]);
    assert_eq!((&holder["held"], &holder["token"]), (&true.into(), &token.into()), "{holder}");
    assert!(printed(&cluster, &["lock", "l", "--show"]).contains(&format!("token    {token}")));
    let refused = run(&cluster, &["lock", "l", "--wait", "0s", "--", "true"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("did not come free"), "{}", text(&refused.stderr));

    let second =
        Running::start(&cluster, &["lock", "l", "--", "sh", "-c", "echo $SYNOD_LOCK_TOKEN"]);
    let waits = || json(&cluster, &["lock", "l", "--show", "--json"])["waiters"] == 1;
    wait_until("it waits", waits);
    // It is held on through the death of the leader.
    let leader = cluster.leader();
    cluster.kill(leader);
    let others: Vec<u32> = cluster.ids().filter(|id| *id != leader).collect();
    cluster.leader_among(&others);
    cluster.start_by_hand(leader);
    cluster.wait_until_complete();
    assert_eq!(json(&cluster, &["lock", "l", "--show", "--json"])["token"], token);
    assert!(second.lines.try_recv().is_err(), "two have the lock");
    fs::write(file("go"), "").expect("a file");
    assert_eq!(first.end().0, Some(5), "the exit code of the command");
    let next: u64 = second.line().parse().expect("a token");
    assert!(next > token);
    assert_eq!(second.end().0, Some(0));
    assert_eq!(run(&cluster, &["lock", "l", "--show"]).status.code(), Some(3), "it is free");

    let missing = run(&cluster, &["lock", "l", "--", "/no/such/command"]);
    assert_eq!(missing.status.code(), Some(127), "{}", text(&missing.stderr));
    let ended = run(&cluster, &["lock", "l", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(ended.status.code(), Some(128 + 9));
    assert_eq!(run(&cluster, &["lock", "l"]).status.code(), Some(2));
}

#[test]
fn a_lock_is_let_go_by_its_token_whoever_holds_it() {
    let cluster = TestCluster::start(1);
    let held = cluster.request(1, "POST", "/v1/lock/l", &[], b"{\"ttl\": \"60s\"}").json();
    let token = held["token"].to_string();
    let waiting =
        Running::start(&cluster, &["lock", "l", "--", "sh", "-c", "echo $SYNOD_LOCK_TOKEN"]);
    let show = || json(&cluster, &["lock", "l", "--show", "--json"]);
    wait_until("it waits", || show()["waiters"] == 1);
    // With another token it stays whose it is.
    let wrong = run(&cluster, &["lock", "l", "--release", "--token", "999"]);
    assert_eq!(wrong.status.code(), Some(3), "{}", text(&wrong.stdout));
    assert!(text(&wrong.stderr).contains("not held with the token 999"), "{}", text(&wrong.stderr));
    assert_eq!(show()["token"], held["token"]);
    let released = json(&cluster, &["lock", "--release", "l", "--token", &token, "--json"]);
    assert_eq!((&released["released"], &released["token"]), (&true.into(), &held["token"]));
    let next: u64 = waiting.line().parse().expect("a token");
    assert!(Some(next) > held["token"].as_u64());
    assert_eq!(waiting.end().0, Some(0));
    let again = run(&cluster, &["lock", "l", "--release", "--token", &token]);
    assert_eq!(again.status.code(), Some(3), "it was let go before");
    for usage in [
        &["lock", "l", "--release"][..],
        &["lock", "l", "--token", "1"],
        &["lock", "l", "--release", "--token", "1", "--show"],
        &["lock", "l", "--release", "--token", "1", "--", "true"],
    ] {
        assert_eq!(run(&cluster, usage).status.code(), Some(2), "{usage:?}");
    }
}

#[test]
fn a_command_that_loses_its_lock_is_ended() {
    let cluster = TestCluster::start(3);
    // It does not want to end.
    let script = "trap 'echo told' TERM; echo begun; while true; do sleep 0.05; done";
    let running = Running::start(&cluster, &["lock", "l", "--ttl", "6s", "--", "sh", "-c", script]);
    assert_eq!(running.line(), "begun");
    let lease = json(&cluster, &["lock", "l", "--show", "--json"])["lease"].to_string();
    printed(&cluster, &["lease", "revoke", &lease]);
    assert_eq!(running.line(), "told");
    let (code, said) = running.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the lock was lost"), "{said}");

    // The same when nobody confirms it any more: a majority is gone.
    let mut cluster = cluster;
    let running = Running::start(&cluster, &["lock", "m", "--ttl", "6s", "--", "sh", "-c", script]);
    assert_eq!(running.line(), "begun");
    cluster.kill(1);
    cluster.kill(2);
    assert_eq!(running.line(), "told");
    let (code, said) = running.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("nobody confirmed"), "{said}");
}

#[test]
fn a_command_does_not_outlive_its_lock() {
    let cluster = TestCluster::start(1);
    let script = "echo $$; while true; do sleep 0.05; done";
    let running = Running::start(&cluster, &["lock", "l", "--ttl", "2s", "--", "sh", "-c", script]);
    let pid = running.line();
    let lives = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
    };
    assert!(lives());
    running.signal(Signal::KILL);
    wait_until("the command is gone, too", || !lives());
    // Nobody let it go, so it is free when its time is over.
    printed(&cluster, &["lock", "l", "--", "true"]);
}

#[test]
fn a_command_hears_what_ends_it_whatever_this_process_was_told_to_ignore() {
    let cluster = TestCluster::start(1);
    let endpoints = cluster.endpoints();
    let script = format!(
        "trap '' INT TERM HUP; exec {SYNOD} lock l --endpoints {endpoints} -- \
         grep SigIgn: /proc/self/status"
    );
    let output = output_of(Command::new("sh").args(["-c", &script]), PATIENCE);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let ignored = said.trim_start_matches("SigIgn:").trim();
    let ignored = u64::from_str_radix(ignored, 16).expect("a set of signals");
    let ignores = |signal: Signal| ignored >> (signal.as_raw() - 1) & 1 == 1;
    // Who says nohup means the command.
    assert!(ignores(Signal::HUP) && !ignores(Signal::TERM) && !ignores(Signal::INT), "{said}");
}

#[test]
fn a_lock_that_is_lost_before_its_command_runs_is_no_refusal() {
    const GRANTED: &str = r#"{"id":7,"ttl_ms":10000,"revision":1}"#;
    const OVER: &str = r#"{"type":"urn:synod:lease-not-found","title":"t","status":404,
        "detail":"There is no lease 7.","outcome":"not_applied"}"#;
    const FREE: &str = r#"{"held":false,"waiters":0}"#;
    let url = script::serve(|request| {
        Some(match request.split(' ').next() {
            Some("GET") => (200, FREE.to_owned()),
            _ if request.starts_with("POST /v1/lease ") => (201, GRANTED.to_owned()),
            _ => (404, OVER.to_owned()),
        })
    });
    for command in [&["lock", "l"][..], &["elect", "campaign", "l", "v"]] {
        let end = ["--wait", "0s", "--endpoints", &url, "--", "echo", "it ran"];
        let output = output_of(Command::new(SYNOD).args(command).args(end), PATIENCE);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("was lost before anything was done"), "{said}");
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn an_office_goes_to_the_next_who_stands_for_it() {
    let cluster = TestCluster::start(3);
    let observer = Running::start(&cluster, &["elect", "observe", "primary"]);
    assert_eq!(observer.line().trim(), "-  nobody");
    let first =
        Running::start(&cluster, &["elect", "campaign", "primary", "10.0.0.7", "--ttl", "20s"]);
    assert!(first.line().contains("elected with the token"));
    assert!(observer.line().ends_with("  10.0.0.7"));
    let shown = json(&cluster, &["elect", "show", "primary", "--json"]);
    assert_eq!(shown["value"], "10.0.0.7");
    let script = "echo serving; exec sleep 60";
    let second = Running::start(
        &cluster,
        &["elect", "campaign", "primary", "10.0.0.8", "--ttl", "6s", "--", "sh", "-c", script],
    );
    wait_until("it stands", || {
        json(&cluster, &["elect", "show", "primary", "--json"])["waiters"] == 1
    });
    // Ctrl-C lays the office down.
    first.signal(Signal::INT);
    assert_eq!(first.end().0, Some(0));
    assert_eq!(second.line(), "serving");
    assert!(observer.line().ends_with("  10.0.0.8"));
    let token = json(&cluster, &["elect", "show", "primary", "--json"])["token"].to_string();
    assert_eq!(
        run(&cluster, &["elect", "resign", "primary", "--token", "1"]).status.code(),
        Some(3)
    );
    let resigned = json(&cluster, &["elect", "resign", "primary", "--token", &token, "--json"]);
    assert_eq!((&resigned["resigned"], resigned["token"].to_string()), (&true.into(), token));
    let (code, said) = second.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("somebody else let it go"), "{said}");
    assert_eq!(observer.line().trim(), "-  nobody");
    // A holder whose process is killed is followed when its time is over.
    let third = Running::start(&cluster, &["elect", "campaign", "primary", "c", "--ttl", "1s"]);
    assert!(third.line().contains("elected"));
    third.signal(Signal::KILL);
    let folder = folder();
    let file = folder.path().join("about").display().to_string();
    fs::write(&file, "d\n\u{e9}").expect("written");
    let fourth =
        Running::start(&cluster, &["elect", "campaign", "primary", "--file", &file, "--ttl", "1s"]);
    assert!(fourth.line().contains("elected"));
    let shown = json(&cluster, &["elect", "show", "primary", "--json"]);
    assert_eq!(shown["value"], "d\n\u{e9}");

    // What is said may come from a pipe, and be no text.
    let urls = cluster.endpoints();
    let show = [SYNOD, "elect", "show", "other", "--json", "--endpoints", &urls];
    let campaign = |value: &[u8]| {
        let words = [&["elect", "campaign", "other", "-", "--"][..], &show].concat();
        fs::write(&file, value).expect("written");
        let stdin = fs::File::open(&file).expect("a file");
        command(&cluster, &words).stdin(stdin).output().expect("synod runs")
    };
    let piped = campaign(b"e\nf");
    let shown: Value = serde_json::from_slice(&piped.stdout).expect("JSON");
    assert_eq!((&shown["value"], piped.status.code()), (&"e\nf".into(), Some(0)));
    let bytes = campaign(b"\xff");
    let shown: Value = serde_json::from_slice(&bytes.stdout).expect("JSON");
    assert_eq!((&shown["value_base64"], bytes.status.code()), (&"/w==".into(), Some(0)));
    for wrong in [&["primary"][..], &["primary", "v", "--file", &file]] {
        let output = run(&cluster, &[&["elect", "campaign"], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}
