//! Nodes that are replaced, and nodes that come new, while clients write: no acknowledged
//! write is lost, and whoever has gone stays away.

mod support;

use std::fs;

use support::cluster::synod;
use support::http;
use support::nodes::{CLUSTER, Nodes, Writers, all_are_there, refused, succeeds};
use support::wait::wait_until;

/// Journals of small files, none of which is kept for anybody.
const NO_TAIL: &str = "[limits]\nsegment_bytes = 65536\n[snapshot]\ntail_bytes_max = 0\n\
    tail_ms_max = 0\nkeep_for_peers_ms = 0\ndisk_reserve_bytes = 0\n";

#[test]
fn each_of_three_nodes_is_replaced_in_turn_under_writes() {
    let mut nodes = Nodes::three("");
    let writers = Writers::start(nodes.clients(&[1, 2, 3]));
    writers.more();
    let mut members = vec![1, 2, 3];
    for (old, new) in [(1, 4), (2, 5), (3, 6)] {
        let ask = members[1];
        members.remove(0);
        if old == 2 {
            nodes.kill(old);
            writers.write_to(nodes.clients(&members));
        }
        nodes.replace(ask, old, new);
        if old == 2 {
            // The dead one hears of it when it comes back.
            nodes.serve(old);
        }
        nodes.ends_as_removed(old);
        members.push(new);
        writers.write_to(nodes.clients(&members));
        writers.more();
    }
    assert_eq!(nodes.members(6), (vec![4, 5, 6], vec![]));
    // A supervisor that starts them again changes nothing.
    for old in [1, 2, 3] {
        nodes.serve(old);
        nodes.ends_as_removed(old);
        refused(&nodes.run(&["serve"], Some(old)), 4, "was removed from its cluster");
    }
    writers.more();
    let keys = writers.stop();
    nodes.agree(&[4, 5, 6]);
    for id in [4, 5, 6] {
        all_are_there(nodes.client(id), &keys);
    }
}

#[test]
fn a_node_whose_folder_is_wiped_under_writes_is_replaced_as_its_log_says() {
    let mut nodes = Nodes::three("");
    let writers = Writers::start(nodes.clients(&[1, 2, 3]));
    writers.more();
    wait_until("everybody has met", || {
        [1, 2].into_iter().all(|id| {
            let pins = fs::read_to_string(nodes.data(id).join("members.json"));
            pins.is_ok_and(|pins| pins.matches("store_id").count() == 2)
        })
    });
    nodes.kill(3);
    fs::remove_dir_all(nodes.data(3)).expect("wiped");
    writers.write_to(nodes.clients(&[1, 2]));
    writers.more();
    // What nobody should do.
    succeeds(&nodes.run(&["init"], Some(3)));
    nodes.serve(3);
    wait_until("the others refuse it and say what to do", || {
        let log = nodes.log(3);
        log.contains("refuses this node") && log.contains("synod member replace")
    });
    // It has no say, and knows nothing.
    writers.more();
    assert_eq!(nodes.status(3).expect("it runs")["applied_slot"], 0);
    nodes.kill(3);
    nodes.replace(1, 3, 4);
    assert_eq!(nodes.members(2), (vec![1, 2, 4], vec![]));
    writers.write_to(nodes.clients(&[1, 2, 4]));
    writers.more();
    // The new node's vote counts.
    nodes.kill(1);
    writers.write_to(nodes.clients(&[2, 4]));
    writers.more();
    let keys = writers.stop();
    nodes.agree(&[2, 4]);
    for id in [2, 4] {
        all_are_there(nodes.client(id), &keys);
    }
}

/// Adds a node that can only begin with the state of another, and has it lead.
fn joins_by_a_state_and_leads(nodes: &mut Nodes, writers: &Writers) {
    nodes.grow(1, 4);
    assert_eq!(nodes.members(1), (vec![1, 2, 3, 4], vec![]));
    assert_eq!(nodes.metric(4, "snapshots_installed_total"), 1, "{}", nodes.log(4));
    writers.write_to(nodes.clients(&[1, 2, 3, 4]));
    writers.more();
    nodes.lead(1, 4);
    writers.more();
}

#[test]
fn a_node_joins_though_no_journal_goes_back_to_the_beginning_and_leads() {
    let mut nodes = Nodes::three(NO_TAIL);
    let writers = Writers::start(nodes.clients(&[1, 2, 3]));
    wait_until("the journals are cut", || {
        [1, 2, 3].into_iter().all(|id| {
            let status = nodes.status(id);
            status.is_some_and(|status| status["truncated_slot"].as_u64() > Some(0))
        })
    });
    joins_by_a_state_and_leads(&mut nodes, &writers);
    let keys = writers.stop();
    nodes.agree(&[1, 2, 3, 4]);
    all_are_there(nodes.client(4), &keys);
}

#[test]
fn a_node_joins_a_restored_cluster_and_leads() {
    let mut before = Nodes::three("");
    let keys: Vec<String> = (0..50).map(|number| format!("kept/{number}")).collect();
    for key in &keys {
        let target = format!("/v1/kv/{key}");
        let put = http::request(before.client(1), "PUT", &target, &[], key.as_bytes());
        assert_eq!(put.expect("an answer").status, 201);
    }
    let backup = before.data(0).with_file_name("all.synod").display().to_string();
    let made = before.run(&["backup", &backup, "--endpoints", &before.url(1)], None);
    succeeds(&made);
    for id in [1, 2, 3] {
        before.kill(id);
    }

    let mut nodes = Nodes::new();
    nodes.cluster = "feedfacefeedfacefeedfacefeedface";
    assert_ne!(nodes.cluster, CLUSTER);
    for id in [1, 2, 3] {
        nodes.configure(id, &[1, 2, 3]);
        let config = nodes.config(id).display().to_string();
        succeeds(&synod(&["restore", &backup, "--config", &config]));
        nodes.serve(id);
    }
    nodes.wait_for_leader(1);
    let put = |key: &str| {
        let target = format!("/v1/kv/{key}");
        http::request(nodes.client(1), "PUT", &target, &[], b"v").expect("an answer")
    };
    wait_until("it takes writes", || put("restored").status < 300);
    let writers = Writers::start(nodes.clients(&[1, 2, 3]));
    writers.more();
    joins_by_a_state_and_leads(&mut nodes, &writers);
    let more_keys = writers.stop();
    nodes.agree(&[1, 2, 3, 4]);
    all_are_there(nodes.client(4), &keys);
    all_are_there(nodes.client(4), &more_keys);
    assert_eq!(nodes.status(4).expect("it runs")["cluster"], nodes.cluster);
}
