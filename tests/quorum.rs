//! Without a quorum a node says so in time, and what it says is true.

mod support;

use std::fs;
use std::time::{Duration, Instant};

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
    wait_until("it is missed", || {
        let status = nodes.status(1).expect("it runs");
        let peers = status["peers"].as_array().expect("peers").iter();
        peers.filter(|peer| peer["id"] == 3).any(|peer| peer["reachable"] == false)
    });
    nodes.replace(1, 3, 4);
    assert_eq!(nodes.members(1), (vec![1, 2, 4], vec![]));
}
