//! The office goes from node to node as an operator asks, and no client notices.

mod support;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::Signal;
use serde_json::Value;
use support::cluster::{TestCluster, synod};
use support::http;
use support::nodes::Nodes;
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

/// The node that shall lead by its settings gets the office back, and gives it away when it is to stop, while
/// it still waits for a client: nobody has to miss it first.
#[test]
fn who_shall_lead_does_until_it_is_stopped() {
    let mut nodes = Nodes::new();
    for id in [1, 2, 3] {
        nodes.init(id, &[1, 2, 3]);
        let settings = fs::read_to_string(nodes.config(id)).expect("settings");
        let timing = "[timing]\nshutdown_timeout_ms = 60000\n";
        let priority = if id == 2 { "leader_priority = 7\n" } else { "" };
        let settings = priority.to_owned() + &settings.replace("[timing]\n", timing);
        fs::write(nodes.config(id), settings).expect("settings");
        nodes.serve(id);
    }
    [1, 2, 3].into_iter().for_each(|id| nodes.wait_until_ready(id));
    nodes.lead(1);
    let leads = |nodes: &Nodes, id: u32| nodes.status(id).is_some_and(|s| s["role"] == "leader");
    let others_lead = |nodes: &Nodes| leads(nodes, 1) || leads(nodes, 3);
    wait_until("the office back", || leads(&nodes, 2) && !others_lead(&nodes));

    // It waits for a tenth of the minute for what this client may still ask.
    let client = TcpStream::connect(nodes.client(2)).expect("a connection");
    nodes.signal(2, Signal::TERM);
    wait_until("another leader", || others_lead(&nodes));
    assert!(!nodes.has_ended(2), "the office was given away by nobody: {}", nodes.log(2));
    drop(client);
    nodes.ends(2, 0);
}
