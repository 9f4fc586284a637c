//! A data folder that is put back from an older copy: the node may have forgotten what it
//! promised since, so it ends, and stays away until it is replaced.

mod support;

use std::path::Path;
use std::process::Command;

use support::cluster::TestCluster;
use support::http;
use support::nodes::Nodes;
use support::wait::wait_until;

const HIT: u32 = 3;

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
