//! A cluster that is stopped and started again goes on with its data.

mod support;

use support::cluster::{TestCluster, synod};
use support::wait::wait_until;

#[test]
fn a_stopped_cluster_goes_on_with_its_data() {
    let mut cluster = TestCluster::start(3);
    for number in 0..50 {
        let put = cluster.request(
            number % 3 + 1,
            "PUT",
            &format!("/v1/kv/kept/{number:02}"),
            &[],
            number.to_string().as_bytes(),
        );
        assert_eq!(put.status, 201, "{}", put.text());
    }
    let revision = last_revision(&cluster);
    let status = cluster.stop();
    assert!(status.success(), "{status}: {}", cluster.runner_output());
    let output = cluster.runner_output();
    assert!(!output.contains("was killed"), "every node stops by itself: {output}");
    let pids = cluster.description().expect("cluster.json");
    assert!(pids["nodes"].as_array().expect("nodes").iter().all(|node| node["pid"].is_null()));

    cluster.launch();
    assert_eq!(last_revision(&cluster), revision);
    for number in 0..50 {
        let read =
            cluster.request(number % 3 + 1, "GET", &format!("/v1/kv/kept/{number:02}"), &[], b"");
        assert_eq!(read.text(), number.to_string());
    }
}

fn last_revision(cluster: &TestCluster) -> String {
    let read = cluster.request(1, "GET", "/v1/kv/kept/49", &[], b"");
    read.header("synod-revision").expect("a revision").to_owned()
}

#[test]
fn a_node_that_dies_is_shown_and_started_again_only_if_asked() {
    let mut cluster = TestCluster::start(3);
    cluster.kill(2);
    wait_until("the end of the node is shown", || {
        let output = cluster.runner_output();
        output.contains("node 2 (pid") && output.contains("start node 2 again: ")
    });
    // The line says how to start it; that command works.
    let output = cluster.runner_output();
    let line = output.lines().find(|line| line.starts_with("start node 2 again: "));
    let command = line.expect("the line").trim_start_matches("start node 2 again: ");
    assert!(command.contains("serve --config"), "{command}");
    cluster.start_by_hand(2);
    wait_until("node 2 is ready", || {
        cluster.try_request(2, "GET", "/readyz", &[], b"").is_ok_and(|r| r.status == 200)
    });
    let status = synod(&["status", "--json", "--endpoints", &cluster.endpoints()]);
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}

#[test]
fn no_node_outlives_a_runner_that_is_killed() {
    let cluster = TestCluster::start(3);
    let addresses: Vec<_> = cluster.ids().map(|id| cluster.client_addr(id)).collect();
    drop(cluster);
    wait_until("every port is closed", || {
        addresses.iter().all(|address| std::net::TcpStream::connect(address).is_err())
    });
}
