//! A data folder that is put back from an older copy: the node may have forgotten what it
//! promised since, so it ends, and stays away until it is replaced. And one that two processes
//! use, each a copy of its own: the cluster listens to one of them at the most.

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::json;
use support::cluster::TestCluster;
use support::http;
use support::nodes::{Nodes, Writers, all_are_there};
use support::wait::wait_until;

const HIT: u32 = 3;
/// Where the copy of its folder is. The node in it has the same id.
const COPY: u32 = 4;

fn copy_folder(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.expect("cp runs").success());
}

fn write(cluster: &TestCluster, word: &str) {
    for number in 0..20 {
        let put = cluster.request(1, "PUT", &format!("/v1/kv/{word}/{number}"), &[], b"v");
        assert!(put.status < 300, "{}", put.text());
    }
}

fn comes_back(cluster: &mut TestCluster) {
    cluster.start_by_hand(HIT);
    wait_until("the node is ready", || {
        cluster.try_request(HIT, "GET", "/readyz", &[], b"").is_ok_and(|r| r.status == 200)
    });
}

#[test]
fn a_node_with_an_older_folder_ends_and_does_not_come_back() {
    let mut cluster = TestCluster::start(3);
    let data = cluster.settings_path(HIT).with_file_name("data");
    let older = data.with_file_name("older");
    write(&cluster, "first");
    cluster.kill(HIT);
    cluster.leader_among(&[1, 2]);
    copy_folder(&data, &older);
    // What a node has is what it states when it starts.
    for word in ["second", "third"] {
        comes_back(&mut cluster);
        write(&cluster, word);
        cluster.kill(HIT);
        cluster.leader_among(&[1, 2]);
    }
    std::fs::remove_dir_all(&data).expect("removed");
    std::fs::rename(&older, &data).expect("put back");
    for _ in 0..2 {
        cluster.start_by_hand(HIT);
        let status = cluster.wait_for_end(HIT);
        let said = cluster.node_output(HIT);
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(data.join("WENT_BACK").exists() && said.contains("synod member replace"), "{said}");
    }
    write(&cluster, "fourth");
}

/// Nobody gives it a state, and it says at once why.
#[test]
fn a_node_with_an_older_folder_that_needs_a_state_ends_as_well() {
    // No journal goes back to the beginning, so that no state can be made again of it alone.
    let mut nodes = Nodes::three(
        "[limits]\nsegment_bytes = 65536\n[snapshot]\ntail_bytes_max = 0\ntail_ms_max = 0\n\
         keep_for_peers_ms = 0\ndisk_reserve_bytes = 0\n",
    );
    let write = |nodes: &Nodes| {
        for number in 0..40 {
            let target = format!("/v1/kv/k{number}");
            wait_until("the write", || {
                let put = http::request(nodes.client(1), "PUT", &target, &[], &[b'v'; 4096]);
                put.is_ok_and(|put| put.status < 300)
            });
        }
    };
    wait_until("the journal is cut", || {
        write(&nodes);
        let status = nodes.status(HIT);
        status.is_some_and(|status| status["truncated_slot"].as_u64() > Some(0))
    });
    nodes.kill(HIT);
    let (data, older) = (nodes.data(HIT), nodes.data(HIT).with_file_name("older-3"));
    copy_folder(&data, &older);
    nodes.serve(HIT);
    write(&nodes);
    nodes.agree(&[1, 2, HIT]);
    // A peer to which this life never told how far it got cannot tell the copy from a second
    // process: it refuses that too, but with other words.
    let has = nodes.status(HIT).expect("it runs")["applied_slot"].as_u64().expect("a slot");
    wait_until("both peers heard what the node has", || {
        [1, 2].iter().all(|id| nodes.chosen_by(*id, HIT).is_some_and(|heard| heard >= has))
    });
    nodes.kill(HIT);
    std::fs::remove_dir_all(&data).expect("removed");
    std::fs::rename(&older, &data).expect("put back");
    std::fs::write(data.join("REBUILD"), "the operator wants another state\n").expect("marked");
    for _ in 0..2 {
        nodes.serve(HIT);
        let said = nodes.ends(HIT, 1);
        assert!(data.join("WENT_BACK").exists() && said.contains("synod member replace"), "{said}");
    }
    write(&nodes);
}

/// Three nodes, of which the third is stopped, and a copy of its folder with settings that differ
/// from its own in the places only.
fn with_a_copy(writers: impl FnOnce(&Nodes) -> Writers) -> (Nodes, Writers) {
    let mut nodes = Nodes::three("");
    let writers = writers(&nodes);
    writers.more();
    nodes.kill(HIT);
    copy_folder(&nodes.data(HIT), &nodes.data(COPY));
    let mut text = std::fs::read_to_string(nodes.config(HIT)).expect("settings");
    for (of_hit, of_copy) in [
        (nodes.peer(HIT), nodes.peer(COPY)),
        (nodes.client(HIT).to_string(), nodes.client(COPY).to_string()),
        (format!("data-{HIT}"), format!("data-{COPY}")),
    ] {
        assert!(text.contains(&of_hit));
        text = text.replace(&of_hit, &of_copy);
    }
    std::fs::write(nodes.config(COPY), text).expect("settings");
    (nodes, writers)
}

fn is_ready(nodes: &Nodes, id: u32) -> bool {
    http::request(nodes.client(id), "GET", "/readyz", &[], b"").is_ok_and(|r| r.status == 200)
}

/// Whether both peers listen to it.
fn is_heard(nodes: &Nodes, id: u32) -> bool {
    [1, 2].iter().all(|peer| {
        let connected = format!("peer_connected{{peer=\"{peer}\"}}");
        nodes.metric(id, &connected) == 1
    })
}

/// What a peer says to the one of two that it does not listen to.
fn is_refused(nodes: &mut Nodes, id: u32) {
    let said = nodes.ends(id, 1);
    let twice = said.contains("two run with copies of it, stop one of them");
    let behind = said.contains("It is an old copy or is in use twice");
    assert!(twice || behind, "{said}");
}

/// The copy is elsewhere than its peers look for their node, so they are told, as an operator
/// would who keeps the copy.
fn move_to_the_copy(nodes: &Nodes) {
    let (peer, url) = (nodes.peer(COPY), nodes.url(COPY));
    let moved = json!({ "peer": peer, "client_url": url });
    nodes.change(HIT, &moved.to_string());
}

/// All that was acknowledged is there, also when the vote of this node is needed.
fn go_on_with(nodes: &mut Nodes, id: u32, writers: Writers) {
    wait_until("the one that is left is ready", || is_ready(nodes, id));
    nodes.kill(2);
    writers.write_to(nodes.clients(&[1]));
    writers.more();
    let keys = writers.stop();
    nodes.agree(&[1, id]);
    for node in [1, id] {
        all_are_there(nodes.client(node), &keys);
    }
}

#[test]
fn a_copy_that_is_started_beside_its_node_is_refused_for_good() {
    let (mut nodes, writers) = with_a_copy(|nodes| Writers::start(nodes.clients(&[1, 2])));
    nodes.serve(HIT);
    wait_until("the node is ready", || is_ready(&nodes, HIT));
    writers.more();
    nodes.serve(COPY);
    is_refused(&mut nodes, COPY);
    writers.more();
    // It tries again, as a supervisor makes it: by now it is known to be behind.
    for _ in 0..2 {
        nodes.serve(COPY);
        let said = nodes.ends(COPY, 1);
        let went_back = nodes.data(COPY).join("WENT_BACK").exists();
        assert!(went_back && said.contains("synod member replace"), "{said}");
    }
    assert!(!nodes.has_ended(HIT), "{}", nodes.log(HIT));
    go_on_with(&mut nodes, HIT, writers);
}

/// The one that its peers heard first stays, be it the copy.
#[test]
fn a_node_that_is_started_beside_its_copy_is_refused() {
    let (mut nodes, writers) = with_a_copy(|nodes| Writers::start(nodes.clients(&[1, 2])));
    nodes.serve(COPY);
    wait_until("both peers heard it", || is_heard(&nodes, COPY));
    nodes.serve(HIT);
    is_refused(&mut nodes, HIT);
    assert!(!nodes.has_ended(COPY), "{}", nodes.log(COPY));
    move_to_the_copy(&nodes);
    go_on_with(&mut nodes, COPY, writers);
}

#[test]
fn of_two_copies_that_are_started_together_one_goes_on_at_the_most() {
    let (mut nodes, writers) = with_a_copy(|nodes| Writers::start(nodes.clients(&[1, 2])));
    for id in [HIT, COPY] {
        nodes.serve(id);
    }
    wait_until("one of them has ended", || [HIT, COPY].iter().any(|id| nodes.has_ended(*id)));
    let first = if nodes.has_ended(HIT) { HIT } else { COPY };
    is_refused(&mut nodes, first);
    let other = if first == HIT { COPY } else { HIT };
    if other == COPY {
        move_to_the_copy(&nodes);
    }
    wait_until("the other one is ready, or has ended, too", || {
        nodes.has_ended(other) || (is_heard(&nodes, other) && is_ready(&nodes, other))
    });
    writers.more();
    if nodes.has_ended(other) {
        // Each met one of the peers first. Nobody is harmed, and nobody is left.
        is_refused(&mut nodes, other);
        writers.more();
        let keys = writers.stop();
        nodes.agree(&[1, 2]);
        return all_are_there(nodes.client(1), &keys);
    }
    go_on_with(&mut nodes, other, writers);
}
