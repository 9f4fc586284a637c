//! A node that was away for longer than the others' journals go back.

mod support;

use std::fs;
use std::path::Path;

use support::{Cluster, request, status, wait_for};
use synod_node::Node;
use synod_storage::failpoint;

/// Journals of small files, none of which is kept for anybody.
const NO_TAIL: &str = "[limits]\nsegment_bytes = 65536\n[snapshot]\ntail_bytes_max = 0\n\
                       tail_ms_max = 0\nkeep_for_peers_ms = 0\ndisk_reserve_bytes = 0\n";

fn number(of: &Node, field: &str) -> u64 {
    status(of, field).as_u64().expect("a number")
}

fn metric(of: &Node, name: &str) -> u64 {
    let page = request(of.client_addr(), "GET", "/metrics", "").body;
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("synod_{name} ")));
    line.and_then(|value| value.parse().ok()).expect("a metric")
}

fn put_many(node: &Node, count: usize, round: usize) {
    let value = "x".repeat(8_000);
    for key in 0..count {
        let target = format!("/v1/kv/key-{key}");
        let put = request(node.client_addr(), "PUT", &target, &format!("{round} {value}"));
        assert!((200..300).contains(&put.status), "{put:?}");
    }
}

/// Stops a node and writes until nobody's journal holds what it needs.
fn leave_behind(away: Node, others: &[Node]) {
    let chosen = number(&away, "chosen_slot");
    away.stop().expect("stopped in order");
    let mut round = 0;
    wait_for("the journals to be cut", || {
        round += 1;
        put_many(&others[0], 20, round);
        others.iter().all(|node| number(node, "truncated_slot") > chosen + 1)
    });
}

/// A cluster of three, and those two of its nodes that run: the last was left behind.
fn one_left_behind() -> (Cluster, Vec<Node>) {
    let cluster = Cluster::with(3, NO_TAIL);
    let mut nodes = cluster.start_all();
    put_many(&nodes[0], 5, 0);
    let away = nodes.pop().expect("three");
    leave_behind(away, &nodes);
    (cluster, nodes)
}

fn wait_for_snapshot(of: &Node) {
    wait_for("the snapshot", || metric(of, "snapshots_installed_total") == 1);
}

fn states(of: &Path) -> Vec<String> {
    let entries = fs::read_dir(of).expect("readable");
    let names = entries.map(|entry| entry.expect("readable").file_name().into_string());
    let is_state = |name: &String| name.starts_with("state") || name.starts_with("checkpoint");
    names.filter_map(Result::ok).filter(is_state).collect()
}

fn wait_for_equal(one: &Node, other: &Node) {
    let state = |node: &Node| (status(node, "applied_slot"), status(node, "state_hash"));
    wait_for("equal states", || state(one) == state(other));
}

#[test]
fn a_node_that_was_away_for_long_takes_over_a_state() {
    let (cluster, nodes) = one_left_behind();

    let back = cluster.start(2);
    wait_for_snapshot(&back);
    wait_for_equal(&back, &nodes[0]);
    let get = request(back.client_addr(), "GET", "/v1/kv/key-3?consistency=stale", "");
    let expected = request(nodes[0].client_addr(), "GET", "/v1/kv/key-3", "");
    assert_eq!((get.status, get.body), (200, expected.body));
    // It takes part again: it applies, and its journal says where it starts.
    put_many(&back, 3, 1_000);
    wait_for_equal(&back, &nodes[1]);
    let folder = &cluster.settings[2].data_dir;
    wait_for("the old state to go", || states(folder).len() == 1);
    let state = folder.join(&states(folder)[0]);
    assert_ne!(state, folder.join("state"));
    wait_for("the mark to go", || !state.join("INSTALLED").exists());
    back.stop().expect("stopped in order");
    let again = cluster.start(2);
    wait_for_equal(&again, &nodes[0]);
    assert_eq!(metric(&again, "snapshots_installed_total"), 0);
}

#[test]
fn a_snapshot_that_cannot_be_marked_is_fetched_again() {
    let (cluster, nodes) = one_left_behind();
    let folder = &cluster.settings[2].data_dir;
    failpoint::arm(folder, "mark made");
    let back = cluster.start(2);
    wait_for_snapshot(&back);
    assert!(!failpoint::is_armed(folder, "mark made"));
    wait_for_equal(&back, &nodes[0]);
    back.stop().expect("it never failed");
}

#[test]
fn a_crash_at_any_step_of_the_switch_is_survived() {
    let steps =
        ["mark written", "switched", "switch durable", "opened", "journal told", "mark removed"];
    assert_eq!(steps, failpoint::INSTALL_STEPS[3..], "no step is left out");
    let cluster = Cluster::with(3, NO_TAIL);
    let mut nodes: Vec<Node> = cluster.start_all();
    let mut away = nodes.pop().expect("three");
    let folder = cluster.settings[2].data_dir.clone();
    for step in steps {
        put_many(&nodes[0], 1, 0);
        wait_for_equal(&away, &nodes[0]);
        leave_behind(away, &nodes);

        failpoint::arm(&folder, step);
        let crashing = cluster.start(2);
        wait_for("the crash", || !failpoint::is_armed(&folder, step));
        let failure = crashing.stop().expect_err("it failed by itself");
        assert!(failure.to_string().contains(step), "{failure}");

        away = cluster.start(2);
        wait_for_equal(&away, &nodes[1]);
        wait_for("one state", || states(&folder).len() == 1);
        let mark = folder.join(&states(&folder)[0]).join("INSTALLED");
        wait_for("the mark to go", || !mark.exists());
        let installs = metric(&away, "snapshots_installed_total");
        assert_eq!(installs, u64::from(step == "mark written"), "{step}");
    }
}
