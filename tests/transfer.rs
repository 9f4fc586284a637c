//! The office goes from node to node as an operator asks, and no client notices.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;
use support::cluster::{TestCluster, synod};
use support::http;
use support::wait::wait_until;

/// Writes one key after the other at one node until it is told to stop. Every answer
/// must be a success.
fn write_at(node: SocketAddr, ends: &AtomicBool, acknowledged: &AtomicU64) {
    let mut number = 0;
    while !ends.load(Ordering::Relaxed) {
        number += 1;
        let target = format!("/v1/kv/{node}/{}", number % 50);
        let answer = http::request(node, "PUT", &target, &[], number.to_string().as_bytes());
        let answer = answer.expect("an answer");
        assert!(answer.status < 300, "{} {}", answer.status, answer.text());
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn each_node_leads_in_turn_and_no_write_fails() {
    let cluster = TestCluster::start(3);
    cluster.leader();
    let ends = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = cluster
        .ids()
        .map(|id| {
            let (node, ends, count) = (cluster.client_addr(id), ends.clone(), acknowledged.clone());
            std::thread::spawn(move || write_at(node, &ends, &count))
        })
        .collect();
    let more = || {
        let target = acknowledged.load(Ordering::Relaxed) + 100;
        wait_until("more writes", || acknowledged.load(Ordering::Relaxed) >= target);
    };
    let endpoints = cluster.endpoints();
    for to in [1, 2, 3, 1] {
        more();
        let to_text = to.to_string();
        let output = synod(&["transfer", "--to", &to_text, "--endpoints", &endpoints, "--json"]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
        let leader: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(leader["id"], to);
        more();
        assert_eq!(cluster.leader(), to);
    }
    let output = synod(&["transfer", "--endpoints", &endpoints]);
    assert_eq!(output.status.code(), Some(0));
    more();
    assert_ne!(cluster.leader(), 1, "{}", String::from_utf8_lossy(&output.stdout));
    ends.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().expect("every write was acknowledged"));

    let output = synod(&["transfer", "--to", "9", "--endpoints", &endpoints]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("No member has the id 9"), "{errors}");
}
