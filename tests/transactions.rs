//! Transactions, batches and old revisions on a real cluster whose leader is killed.
#![allow(missing_docs)]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

use serde_json::{Value, json};
use support::http::{self, Response};
use support::nodes::Nodes;
use support::wait::{wait_for, wait_until};

const ADDERS: u64 = 3;
const ADDS: u64 = 40;
const LINES: u64 = 2_000;

/// Sends it until a node has answered it, under one name: it has effect once.
fn txn(nodes: &[SocketAddr], name: &str, body: &Value) -> Value {
    let text = body.to_string();
    let mut ask = nodes.iter().cycle();
    let headers = [("idempotency-key", name)];
    wait_for("a transaction", || {
        let node = *ask.next().expect("they go round");
        let answer = http::request(node, "POST", "/v1/txn", &headers, text.as_bytes()).ok()?;
        assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
        (answer.status == 200).then(|| answer.json())
    })
}

/// Adds one to the counter and writes who did, at one revision and by comparing.
fn add(nodes: &[SocketAddr], adder: u64, number: u64, done: &AtomicU64) {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let name = format!("{adder}-{number}-{attempt}");
        let read = json!({"success": [{"op": "get", "key": "counter"}]});
        let record = txn(nodes, &format!("read-{name}"), &read)["results"][0]["record"].clone();
        let count: u64 = record["value"].as_str().map_or(0, |count| count.parse().expect("digits"));
        let at = record["mod_revision"].as_u64().unwrap_or(0);
        let swap = json!({
            "compare": [{"key": "counter", "target": "mod", "op": "=", "operand": at}],
            "success": [
                {"op": "put", "key": "counter", "value": (count + 1).to_string()},
                {"op": "put", "key": format!("by/{adder}/{number}"), "value": count.to_string()},
            ],
        });
        if txn(nodes, &name, &swap)["succeeded"] == true {
            done.fetch_add(1, SeqCst);
            return;
        }
    }
}

fn get(node: SocketAddr, target: &str) -> Response {
    wait_for("a read", || {
        http::request(node, "GET", target, &[], b"").ok().filter(|r| r.status < 500)
    })
}

fn lead(nodes: &Nodes, ask: u32) -> u32 {
    let id = wait_for("a leader", || nodes.status(ask)?["leader"]["id"].as_u64());
    u32::try_from(id).expect("an id")
}

/// Puts one key a line, and returns the revision of the last one.
fn batch(node: SocketAddr) -> u64 {
    let lines: String = (0..LINES)
        .map(|line| {
            format!("{}\n", json!({"op": "put", "key": format!("load/{line:05}"), "value": "v"}))
        })
        .collect();
    let answer =
        http::request(node, "POST", "/v1/batch", &[], lines.as_bytes()).expect("an answer");
    let text = answer.text();
    let results: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let numbers: Vec<u64> = results.iter().filter_map(|result| result["line"].as_u64()).collect();
    assert_eq!(numbers, (1..=LINES).collect::<Vec<_>>());
    let failed = results.iter().find(|result| result["status"] != 201);
    assert_eq!(failed, None);
    results.iter().filter_map(|result| result["revision"].as_u64()).max().expect("lines")
}

#[test]
fn nothing_is_lost_or_done_twice_while_leaders_are_killed() {
    let mut nodes = Nodes::three("");
    nodes.wait_for_leader(1);
    let clients = nodes.clients(&[1, 2, 3]);
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        for adder in 0..ADDERS {
            let (clients, done) = (&clients, &done);
            scope.spawn(move || (0..ADDS).for_each(|number| add(clients, adder, number, done)));
        }
        for kills in 1..=2 {
            wait_until("some are done", || done.load(SeqCst) >= kills * ADDERS * ADDS / 3);
            let ask = (1..=3).find(|id| nodes.status(*id).is_some()).expect("one runs");
            let leader = lead(&nodes, ask);
            nodes.kill(leader);
            nodes.serve(leader);
        }
    });
    nodes.agree(&[1, 2, 3]);
    let total = ADDERS * ADDS;
    for node in &clients {
        assert_eq!(get(*node, "/v1/kv/counter").text(), total.to_string());
        let marks = get(*node, "/v1/kv?prefix=by/&limit=1000").json();
        assert_eq!(marks["count"], total);
        // Each found the counter as another one had left it.
        let mut counts: Vec<u64> = marks["entries"]
            .as_array()
            .expect("entries")
            .iter()
            .map(|entry| entry["value"].as_str().expect("text").parse().expect("digits"))
            .collect();
        counts.sort_unstable();
        assert_eq!(counts, (0..total).collect::<Vec<_>>());
        // Both keys of a transaction are of one revision, and are seen together.
        for entry in marks["entries"].as_array().expect("entries").iter().take(10) {
            let at = entry["mod_revision"].as_u64().expect("a revision");
            let count: u64 = entry["value"].as_str().expect("text").parse().expect("digits");
            let then = get(*node, &format!("/v1/kv/counter?revision={at}"));
            assert_eq!(then.text(), (count + 1).to_string());
        }
    }

    let follower = (1..=3).find(|id| *id != lead(&nodes, 1)).expect("two of three");
    let last = batch(nodes.client(follower));
    let removed = http::request(clients[0], "DELETE", "/v1/kv?prefix=load/", &[], b"");
    assert_eq!(removed.expect("an answer").json()["deleted"], LINES);
    for node in &clients {
        let page = get(*node, &format!("/v1/kv?prefix=load/&count_only&revision={last}")).json();
        assert_eq!(page, json!({"revision": last, "count": LINES}));
        assert_eq!(get(*node, "/v1/kv?prefix=load/&count_only").json()["count"], 0);
    }

    let body = json!({"revision": last + 1}).to_string();
    let compacted = http::request(clients[1], "POST", "/v1/compact", &[], body.as_bytes());
    assert_eq!(compacted.expect("an answer").json()["compacted_revision"], last + 1);
    nodes.agree(&[1, 2, 3]);
    for node in &clients {
        let gone = get(*node, &format!("/v1/kv/counter?revision={last}"));
        assert_eq!((gone.status, &gone.json()["oldest_revision"]), (410, &json!(last + 1)));
        assert_eq!(get(*node, &format!("/v1/kv/counter?revision={}", last + 1)).status, 200);
    }
}

#[test]
fn a_transaction_has_as_many_operations_as_the_settings_say() {
    let mut nodes = Nodes::with("[limits]\ntxn_operations_max = 3\n");
    nodes.init(1, &[1]);
    nodes.serve(1);
    nodes.wait_until_ready(1);
    let ask = |count: usize| {
        let puts = (0..count).map(|key| json!({"op": "put", "key": key.to_string(), "value": "v"}));
        let body = json!({"success": puts.collect::<Vec<_>>()}).to_string();
        let answer = http::request(nodes.client(1), "POST", "/v1/txn", &[], body.as_bytes());
        answer.expect("an answer")
    };
    let refused = ask(4).json();
    assert_eq!(refused["type"], "urn:synod:too-many-operations", "{refused}");
    assert!(refused["detail"].to_string().contains("where 3 are allowed"), "{refused}");
    assert_eq!(ask(3).json()["revision"], 1, "nothing was changed before");
}
