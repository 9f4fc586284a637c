//! Leases and locks on a real cluster: what is kept alive lives on whatever becomes of the
//! leader, and what is not goes.
#![allow(missing_docs)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::http::{self, Response};
use support::nodes::Nodes;
use support::wait::{wait_for, wait_until};

/// Asks these nodes until one answers with this status.
fn ask(nodes: &[SocketAddr], method: &str, target: &str, body: &str, status: u16) -> Response {
    let mut next = 0;
    wait_for(target, || {
        let node = nodes[next % nodes.len()];
        next += 1;
        let answer = http::request(node, method, target, &[], body.as_bytes());
        answer.ok().filter(|answer| answer.status == status)
    })
}

/// A key under a lease of this id.
fn put_leased(nodes: &[SocketAddr], id: u64, ttl: &str) {
    let body = format!("{{\"ttl\": \"{ttl}\", \"id\": {id}}}");
    ask(&nodes[..1], "POST", "/v1/lease", &body, 201);
    ask(nodes, "PUT", &format!("/v1/kv/{id}?lease={id}"), "v", 201);
}

fn is_there(nodes: &[SocketAddr], id: u64) -> bool {
    let target = format!("/v1/kv/{id}");
    let mut next = 0;
    wait_for("a read", || {
        let node = nodes[next % nodes.len()];
        next += 1;
        match http::request(node, "GET", &target, &[], b"").ok()?.status {
            200 => Some(true),
            404 => Some(false),
            _ => None,
        }
    })
}

/// Keeps a lease alive until it is stopped.
struct Keeper {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl Keeper {
    fn start(nodes: Vec<SocketAddr>, id: u64) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let until = ends.clone();
        let thread = thread::spawn(move || {
            let target = format!("/v1/lease/{id}/keepalive");
            let mut kept = 0;
            for next in 0.. {
                if until.load(Relaxed) {
                    break;
                }
                let node = nodes[next % nodes.len()];
                let second = Duration::from_secs(1);
                let answer = http::request_within(second, node, "POST", &target, &[], b"");
                let status = answer.map_or(0, |answer| answer.status);
                assert_ne!(status, 404, "the lease ended though it was kept alive");
                kept += u32::from(status == 200);
                thread::sleep(Duration::from_millis(50));
            }
            kept
        });
        Keeper { ends, thread }
    }

    fn stop(self) {
        self.ends.store(true, Relaxed);
        assert!(self.thread.join().expect("no panic") > 0);
    }
}

fn leader(nodes: &Nodes, ask: u32) -> u32 {
    let id = wait_for("a leader", || nodes.status(ask)?["leader"]["id"].as_u64());
    u32::try_from(id).expect("an id")
}

#[test]
fn a_lease_that_is_kept_alive_outlives_its_leader_and_an_abandoned_one_goes() {
    let mut nodes = Nodes::three("");
    let old = leader(&nodes, 1);
    let others: Vec<u32> = (1..=3).filter(|id| *id != old).collect();
    let (all, left) = (nodes.clients(&[1, 2, 3]), nodes.clients(&others));
    put_leased(&left, 70, "6s");
    put_leased(&left, 71, "1s");
    put_leased(&left, 72, "6s");
    let keeper = Keeper::start(all, 70);
    wait_until("the abandoned one is gone", || !is_there(&left, 71));
    assert!(is_there(&left, 70));
    // Nobody keeps this one: its time begins anew with the next leader.
    let killed = Instant::now();
    nodes.kill(old);
    wait_until("the one that nobody keeps is gone", || !is_there(&left, 72));
    assert!(killed.elapsed() >= Duration::from_secs(6), "it got less than its time");
    assert!(is_there(&left, 70));
    keeper.stop();
    wait_until("the one that was kept is gone", || !is_there(&left, 70));
    let leases = ask(&left, "GET", "/v1/lease", "", 200).json();
    assert_eq!(leases["leases"], Value::Array(vec![]));
    nodes.serve(old);
    nodes.agree(&[1, 2, 3]);
}

#[test]
fn what_is_put_under_a_lease_whose_time_is_over_is_refused_and_changes_nothing() {
    let nodes = Nodes::three("");
    let all = nodes.clients(&[1, 2, 3]);
    put_leased(&all, 71, "1s");
    ask(&all, "PUT", "/v1/kv/kept", "before", 201);
    wait_until("its time is over", || !is_there(&all, 71));
    // Its end may still be on its way to another node than the one that was asked.
    nodes.agree(&[1, 2, 3]);
    let revision = || nodes.status(1).expect("it runs")["revision"].clone();
    let before = revision();
    let txn = r#"{"success": [{"op": "put", "key": "new", "value": "v"},
                              {"op": "put", "key": "kept", "value": "v", "lease": 71}]}"#;
    for node in &all {
        for (method, target, body) in [
            ("PUT", "/v1/kv/new?lease=71", "v"),
            ("PUT", "/v1/kv/kept?lease=71", "v"),
            ("POST", "/v1/txn", txn),
        ] {
            let refused = ask(&[*node], method, target, body, 404).json();
            assert_eq!(refused["type"], "urn:synod:lease-not-found", "{refused}");
            assert_eq!(refused["outcome"], "not_applied", "{refused}");
            assert!(refused["detail"].to_string().contains("71"), "{refused}");
        }
    }
    nodes.agree(&[1, 2, 3]);
    assert_eq!(revision(), before);
    for node in &all {
        ask(&[*node], "GET", "/v1/kv/new", "", 404);
        let kept = ask(&[*node], "GET", "/v1/kv/kept", "", 200);
        assert_eq!((kept.text().as_str(), kept.header("synod-lease")), ("before", None));
    }
}

#[test]
fn a_leader_that_was_stopped_ends_no_lease_that_others_kept() {
    let nodes = Nodes::three("");
    let old = leader(&nodes, 1);
    let others: Vec<u32> = (1..=3).filter(|id| *id != old).collect();
    let (all, left) = (nodes.clients(&[1, 2, 3]), nodes.clients(&others));
    put_leased(&left, 70, "6s");
    put_leased(&left, 71, "2s");
    let keeper = Keeper::start(left.clone(), 70);
    nodes.signal(old, Signal::STOP);
    let stopped = Instant::now();
    wait_until("the abandoned one is gone", || !is_there(&left, 71));
    wait_until("it was stopped for long", || stopped.elapsed() > Duration::from_secs(8));
    nodes.signal(old, Signal::CONT);
    nodes.agree(&[1, 2, 3]);
    assert!(is_there(&all, 70));
    keeper.stop();
    wait_until("it goes when nobody keeps it", || !is_there(&all, 70));
}

/// Calls that wait for a lock, one after the other in the line.
struct Line {
    nodes: Vec<SocketAddr>,
    waiters: Vec<JoinHandle<u64>>,
}

impl Line {
    /// Somebody takes the lock, and at each of these nodes somebody waits for it. Also answers the
    /// lease of the holder.
    fn form(nodes: &[SocketAddr], at: &[SocketAddr]) -> (Self, Value) {
        let taken = ask(&nodes[..1], "POST", "/v1/lock/l", "{\"ttl\": \"60s\"}", 200).json();
        let mut line = Line { nodes: nodes.to_vec(), waiters: Vec::new() };
        at.iter().for_each(|node| line.join(*node));
        (line, taken["lease"].clone())
    }

    /// One more. Each is asked once: whatever happens, it keeps its place.
    fn join(&mut self, node: SocketAddr) {
        let body = "{\"ttl\": \"2s\", \"wait\": \"50s\"}";
        self.waiters.push(thread::spawn(move || {
            let minute = Duration::from_secs(60);
            let held =
                http::request_within(minute, node, "POST", "/v1/lock/l", &[], body.as_bytes());
            let held = held.expect("an answer");
            assert_eq!(held.status, 200, "{}", held.text());
            held.json()["token"].as_u64().expect("a token")
        }));
        wait_until("it waits", || {
            let look = ask(&self.nodes, "GET", "/v1/lock/l", "", 200).json();
            look["waiters"].as_u64() == Some(self.waiters.len() as u64)
        });
    }

    /// The tokens, in the order of asking.
    fn tokens(self) -> Vec<u64> {
        self.waiters.into_iter().map(|waiter| waiter.join().expect("no panic")).collect()
    }
}

#[test]
fn a_lock_moves_on_in_order_when_its_holder_dies() {
    let nodes = Nodes::three("");
    let all = nodes.clients(&[1, 2, 3]);
    let (line, lease) = Line::form(&all, &all);
    // The first one dies at once, and those after it when their time is over.
    ask(&all, "DELETE", &format!("/v1/lease/{lease}"), "", 200);
    let tokens = line.tokens();
    assert!(tokens.is_sorted(), "not in the order of asking: {tokens:?}");
}

#[test]
fn who_waits_for_a_lock_keeps_its_place_when_the_leader_dies() {
    let mut nodes = Nodes::three("");
    let old = leader(&nodes, 1);
    let others: Vec<u32> = (1..=3).filter(|id| *id != old).collect();
    let left = nodes.clients(&others);
    let (line, lease) = Line::form(&left, &left);
    let look = ask(&left, "GET", "/v1/lock/l", "", 200);
    let revision: u64 = look.header("synod-revision").expect("it is said").parse().expect("one");
    nodes.kill(old);
    wait_until("another leads", || {
        let status = nodes.status(others[0]);
        let leads = status.and_then(|status| status["leader"]["id"].as_u64());
        leads.is_some_and(|id| id != u64::from(old))
    });
    ask(&left, "DELETE", &format!("/v1/lease/{lease}"), "", 200);
    let tokens = line.tokens();
    assert!(tokens.is_sorted(), "not in the order of asking: {tokens:?}");
    assert!(tokens[1] <= revision, "they are those of {revision}, and not new ones: {tokens:?}");
}
