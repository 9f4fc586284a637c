//! Without a quorum a node says so in time, and what it says is true.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::cluster::TestCluster;
use support::http;
use support::nodes::{Nodes, succeeds};
use support::wait::wait_until;

#[test]
fn without_a_quorum_requests_are_refused_inside_their_deadline() {
    let mut cluster = TestCluster::start(3);
    let stored = cluster.request(1, "PUT", "/v1/kv/before", &[], b"kept");
    assert_eq!(stored.status, 201, "{}", stored.text());
    cluster.kill(2);
    cluster.kill(3);

    let hurry = [("synod-timeout", "1s")];
    for (method, target) in [("PUT", "/v1/kv/x"), ("DELETE", "/v1/kv/x"), ("GET", "/v1/kv/before")]
    {
        let begun = Instant::now();
        let refused = cluster.request(1, method, target, &hurry, b"");
        assert_eq!(refused.status, 503, "{method}: {}", refused.text());
        // Generous: the machine may be busy. The client's own patience is 15 s.
        assert!(begun.elapsed() < Duration::from_secs(5), "{method} took too long");
        assert!(refused.header("retry-after").is_some(), "{method} has no Retry-After");
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        let outcome = refused.json()["outcome"].clone();
        assert!(outcome == "not_applied" || outcome == "unknown", "{method}: {outcome}");
    }
    let stale = cluster.request(1, "GET", "/v1/kv/before?consistency=stale", &[], b"");
    assert_eq!((stale.status, stale.text()), (200, "kept".to_owned()));
    wait_until("the node says that it is not ready", || {
        cluster.try_request(1, "GET", "/readyz", &[], b"").is_ok_and(|r| r.status == 503)
    });
    let live = cluster.request(1, "GET", "/livez", &[], b"");
    assert_eq!(live.status, 200, "it is alive all the same");

    cluster.start_by_hand(2);
    wait_until("the cluster serves again", || {
        let put = cluster.try_request(1, "PUT", "/v1/kv/after", &hurry, b"y");
        put.is_ok_and(|answer| answer.status < 300)
    });
    let read = cluster.request(1, "GET", "/v1/kv/before", &[], b"");
    assert_eq!(read.text(), "kept");
}

/// Each node counts its quorums by what its own folder says. Two that were founded with
/// different ones are no cluster: each says so, and what to compare.
#[test]
fn nodes_founded_with_different_quorums_refuse_each_other() {
    for line in ["alpha = 16\n", "promise_quorum = 3\naccept_quorum = 1\n"] {
        let all = [1, 2, 3];
        let mut nodes = Nodes::new();
        nodes.init(1, &all);
        nodes.init(2, &all);
        nodes.configure(3, &all);
        let right = fs::read_to_string(nodes.config(3)).expect("settings");
        let wrong = right.replacen("[cluster]\n", &format!("[cluster]\n{line}"), 1);
        fs::write(nodes.config(3), wrong).expect("written");
        succeeds(&nodes.run(&["init"], Some(3)));
        all.iter().for_each(|id| nodes.serve(*id));
        wait_until("both sides say it, and the two go on", || {
            let says = |id| nodes.log(id).contains("were founded with different members");
            let put = http::request(nodes.client(1), "PUT", "/v1/kv/key", &[], b"value");
            says(3) && (says(1) || says(2)) && put.is_ok_and(|answer| answer.status < 300)
        });
        let unready = http::request(nodes.client(3), "GET", "/readyz", &[], b"");
        assert_eq!(unready.expect("it lives").status, 503);
        assert!(nodes.log(3).contains("synod member replace"), "of one that took part");
        // Nobody has met its folder, so it may be made anew.
        nodes.kill(3);
        fs::remove_dir_all(nodes.data(3)).expect("removed");
        fs::write(nodes.config(3), right).expect("written");
        succeeds(&nodes.run(&["init"], Some(3)));
        nodes.serve(3);
        nodes.agree(&all);
    }
}

/// With quorums of 3 and 1 nobody could be elected while a voter is down. As long as the leader
/// stays, another node can come in its place.
#[test]
fn a_dead_voter_is_replaced_though_an_election_would_need_it() {
    let mut nodes = Nodes::three("");
    nodes.set_quorums(1, "3", "1");
    nodes.lead(1);
    nodes.kill(3);
    wait_until("it is missed", || is_missed(&nodes, 3));
    nodes.replace(1, 3, 4);
    assert_eq!(nodes.members(1), (vec![1, 2, 4], vec![]));
}

fn is_missed(nodes: &Nodes, id: u32) -> bool {
    let status = nodes.status(1).expect("it runs");
    let mut peers = status["peers"].as_array().expect("peers").iter();
    peers.any(|peer| peer["id"] == id && peer["reachable"] == false)
}

/// A new node at the addresses of the dead one comes when that was removed: two voters have other quorums
/// than three, and the operator is told.
#[test]
fn a_replacement_in_place_tells_that_quorums_set_by_hand_are_gone() {
    for is_json in [false, true] {
        let mut nodes = Nodes::three("");
        nodes.set_quorums(1, "3", "1");
        nodes.lead(1);
        nodes.kill(3);
        wait_until("it is missed", || is_missed(&nodes, 3));
        nodes.configure(4, &[4]);
        let text = fs::read_to_string(nodes.config(4)).expect("settings");
        let text = text.replace(&nodes.client(4).to_string(), &nodes.client(3).to_string());
        fs::write(nodes.config(4), text.replace(&nodes.peer(4), &nodes.peer(3))).expect("settings");
        let more: &[&str] = if is_json { &["--json"] } else { &[] };
        let replaced = nodes.replace_as_configured_with(1, 3, 4, more);
        let said = String::from_utf8_lossy(&replaced.stderr);
        assert!(said.contains("set by hand (3 promises, 1 acceptances)"), "{said}");
        let again = "synod member quorums --promise 3 --accept 1";
        assert!(said.contains(again), "{said}");
        if is_json {
            let told: Value = serde_json::from_slice(&replaced.stdout).expect("JSON");
            let dropped = json!({"promise_quorum": 3, "accept_quorum": 1});
            assert_eq!((&told["dropped_quorums"], &told["promise_quorum"]), (&dropped, &json!(2)));
        }
        nodes.set_quorums(1, "3", "1");
    }
}
