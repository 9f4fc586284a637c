//! Old revisions are forgotten by themselves, through the log and whoever leads.
#![allow(missing_docs)]

mod support;

use support::http;
use support::nodes::Nodes;
use support::wait::wait_until;

/// Few revisions, and the leader's look comes once a second.
const FEW: &str = "[history]\nkeep_ms = 0\nrevisions_max = 50\n";

fn put_some(nodes: &Nodes, ask: u32) {
    for number in 0..100 {
        let target = format!("/v1/kv/k{}", number % 10);
        wait_until("the write", || {
            let put = http::request(nodes.client(ask), "PUT", &target, &[], b"v");
            put.is_ok_and(|put| put.status < 300)
        });
    }
}

fn is_compacted(nodes: &Nodes, ids: &[u32]) -> bool {
    ids.iter().all(|id| {
        let number = |name: &str| nodes.status(*id).and_then(|status| status[name].as_u64());
        let revision = number("revision").expect("it runs");
        // A tenth more than asked for is no matter.
        number("compacted_revision").expect("it runs") + 55 >= revision
    })
}

#[test]
fn old_revisions_are_forgotten_on_all_nodes_whoever_leads() {
    let mut nodes = Nodes::three(FEW);
    put_some(&nodes, 1);
    wait_until("all have forgotten", || is_compacted(&nodes, &[1, 2, 3]));
    let leader = nodes.status(1).expect("it runs")["leader"]["id"].as_u64().expect("a leader");
    let leader = u32::try_from(leader).expect("an id");
    nodes.kill(leader);
    let left: Vec<u32> = (1..=3).filter(|id| *id != leader).collect();
    put_some(&nodes, left[0]);
    wait_until("the others have forgotten", || is_compacted(&nodes, &left));
    // What happened while it was away it forgets as the others did.
    nodes.serve(leader);
    nodes.agree(&[1, 2, 3]);
    assert!(is_compacted(&nodes, &[leader]));
}
