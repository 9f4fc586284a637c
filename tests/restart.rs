//! A cluster that is stopped and started again goes on with its data.

mod support;

use std::fs;
use std::net::TcpStream;
use std::process::Command;

use rustix::process::Signal;
use support::cluster::{SYNOD, TestCluster, synod};
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
fn a_node_that_dies_is_shown_with_the_command_that_starts_it() {
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
    assert_eq!(cluster.pid(2), None, "nobody asked for a restart");
    cluster.start_by_hand(2);
    wait_until_ready(&cluster, 2);
    let status = synod(&["status", "--json", "--endpoints", &cluster.endpoints()]);
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}

#[test]
fn a_dead_node_is_started_again_if_that_is_asked_for() {
    let mut cluster = TestCluster::prepare(3);
    cluster.option("--restart");
    let binary = cluster.use_copy();
    cluster.launch();
    let old = cluster.pid(2).expect("node 2 runs");
    cluster.signal(2, Signal::KILL);
    wait_until("another process of node 2", || cluster.pid(2).is_some_and(|pid| pid != old));
    wait_until_ready(&cluster, 2);

    // As while the program is being built again.
    let aside = binary.with_extension("aside");
    fs::rename(&binary, &aside).expect("the binary moves");
    cluster.signal(2, Signal::KILL);
    wait_until("the trouble is told", || cluster.runner_output().contains("is tried again"));
    assert!(cluster.pid(1).is_some() && cluster.pid(2).is_none() && cluster.pid(3).is_some());
    fs::rename(&aside, &binary).expect("the binary comes back");
    wait_until_ready(&cluster, 2);
    assert!(cluster.stop().success(), "{}", cluster.runner_output());
}

#[test]
fn a_node_that_was_removed_is_not_started_again() {
    let mut cluster = TestCluster::prepare(3);
    cluster.option("--restart");
    cluster.launch();
    let removed = synod(&["member", "remove", "3", "--force", "--endpoints", &cluster.endpoints()]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    wait_until("the end of the removed node is told", || {
        cluster.runner_output().contains("node 3 (pid")
    });
    wait_until("the runner says that it leaves it so", || {
        let output = cluster.runner_output();
        output.contains("node 3 was removed from its cluster and is not started again")
    });

    // The others still are, and the removed one is not among what is due with them.
    let old = cluster.pid(2).expect("node 2 runs");
    cluster.signal(2, Signal::KILL);
    wait_until("another process of node 2", || cluster.pid(2).is_some_and(|pid| pid != old));
    wait_until_ready(&cluster, 2);
    assert_eq!(cluster.pid(3), None, "{}", cluster.runner_output());
    let output = cluster.runner_output();
    assert!(!output.contains("node 3 is started again"), "{output}");
}

#[test]
fn a_description_that_cannot_be_written_stops_no_node() {
    let cluster = TestCluster::start(3);
    // A folder is where the runner would write the new content.
    let blocked = cluster.data_dir().join("cluster.new");
    fs::create_dir(&blocked).expect("a folder");
    cluster.signal(2, Signal::KILL);
    wait_until("the trouble is told", || cluster.runner_output().contains("cannot write"));
    cluster.leader_among(&[1, 3]);
    fs::remove_dir(&blocked).expect("the folder goes");
    wait_until("the description is true again", || cluster.pid(2).is_none());
}

#[test]
fn a_runner_that_nobody_listens_to_stops_its_nodes_cleanly() {
    let mut cluster = TestCluster::prepare(3);
    cluster.launch_unheard();
    let status = cluster.stop_by(Signal::HUP);
    assert_eq!(status.code(), Some(0), "{status}");
    for id in cluster.ids() {
        assert_eq!(cluster.pid(id), None, "cluster.json is kept current to the end");
        let log = cluster.node_output(id);
        assert!(log.contains("stopping"), "node {id} was not asked to stop: {log}");
    }
}

/// So few files as a process may open at the least.
const FILES_MIN: u32 = 352;

#[test]
fn a_node_serves_with_few_open_files_and_says_how_many_it_needs() {
    let mut cluster = TestCluster::start(3);
    let limited = |cluster: &TestCluster, files: u32| {
        let config = cluster.settings_path(2).display().to_string();
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {files} && exec \"$0\" serve --config \"$1\"");
        command.args(["-c", &script, SYNOD, &config]);
        command
    };
    cluster.kill(2);
    let too_few = limited(&cluster, FILES_MIN - 1);
    cluster.start_by_hand_with(2, too_few);
    assert_eq!(cluster.wait_for_end(2).code(), Some(1));
    let output = cluster.node_output(2);
    assert!(output.contains(&format!("needs {FILES_MIN} at the least")), "{output}");

    let enough = limited(&cluster, FILES_MIN);
    cluster.start_by_hand_with(2, enough);
    wait_until_ready(&cluster, 2);
    assert!(cluster.node_output(2).contains("raise `ulimit -n`"), "{}", cluster.node_output(2));
    let idle: Vec<_> =
        (0..24).map(|_| TcpStream::connect(cluster.client_addr(2)).expect("room")).collect();
    for number in 0..50 {
        let key = format!("/v1/kv/few/{number:02}");
        assert_eq!(cluster.request(2, "PUT", &key, &[], b"v").status, 201);
        assert_eq!(cluster.request(2, "GET", &key, &[], b"").text(), "v");
    }
    drop(idle);
    assert!(!cluster.node_output(2).contains("oo many open files"), "{}", cluster.node_output(2));
}

fn wait_until_ready(cluster: &TestCluster, id: u32) {
    wait_until("a node is ready", || {
        cluster.try_request(id, "GET", "/readyz", &[], b"").is_ok_and(|r| r.status == 200)
    });
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

/// A state that is made anew from a long journal takes its time: who asks the process to end
/// meanwhile does not wait for that, and nothing is lost by it.
#[test]
fn a_node_that_replays_its_journal_heeds_a_signal() {
    const VALUES: usize = 300;
    let mut cluster = TestCluster::start(1);
    let value = vec![7; 256 << 10];
    for number in 0..VALUES {
        let put = cluster.request(1, "PUT", &format!("/v1/kv/{number}"), &[], &value);
        assert_eq!(put.status, 201, "{}", put.text());
    }
    cluster.kill(1);
    let state = cluster.data_dir().join("node-1").join("data").join("state");
    let said = |cluster: &TestCluster, words: &str| cluster.node_output(1).matches(words).count();
    wait_until("it ends before it has replayed everything", || {
        fs::remove_dir_all(&state).expect("removed");
        let (begun, done) = ("rebuilding the state from", "the state is rebuilt");
        let before = [begun, done].map(|words| said(&cluster, words));
        cluster.start_by_hand(1);
        wait_until("it replays", || said(&cluster, begun) > before[0]);
        cluster.signal(1, Signal::TERM);
        assert!(cluster.wait_for_end(1).success(), "{}", cluster.node_output(1));
        said(&cluster, done) == before[1]
    });
    cluster.start_by_hand(1);
    wait_until_ready(&cluster, 1);
    for number in [0, VALUES / 2, VALUES - 1] {
        let read = cluster.request(1, "GET", &format!("/v1/kv/{number}"), &[], b"");
        assert!(read.status == 200 && read.body == value, "{number}: {}", read.status);
    }
}
