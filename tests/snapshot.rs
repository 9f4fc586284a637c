//! A node that was away for longer than the journals go back, as processes that are
//! killed: the one that comes back, the one that it gets the state from, and the one that leads.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use support::cluster::{SYNOD, TestCluster, synod};
use support::http;
use support::skip::{Need, skip};
use support::wait::{wait_for, wait_until};

/// Journals of small files of which none is kept.
const SETTINGS: &str = "\n[limits]\nsegment_bytes = 65536\n[timing]\nflush_interval_ms = 100\n\
    [snapshot]\ntail_bytes_max = 0\ntail_ms_max = 0\nkeep_for_peers_ms = 0\n\
    disk_reserve_bytes = 0\n";
/// A state takes a while to move.
const RATE: u64 = 1_500_000;
/// And long enough for others to be elected meanwhile.
const SLOW: u64 = 900_000;
const AWAY: u32 = 3;

fn number(cluster: &TestCluster, id: u32, field: &str) -> u64 {
    cluster.status(id).and_then(|status| status[field].as_u64()).unwrap_or(0)
}

fn metric(cluster: &TestCluster, id: u32, name: &str) -> u64 {
    let Ok(page) = cluster.try_request(id, "GET", "/metrics", &[], b"") else { return 0 };
    let page = page.text();
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("synod_{name} ")));
    line.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Puts about as many megabytes that do not compress, at one of the nodes that are there.
fn fill(cluster: &TestCluster, megabytes: u64, round: u64) {
    let mut random = round + 1;
    for key in 0..megabytes * 4 {
        let value = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            random.to_le_bytes()[7]
        });
        let value: Vec<u8> = value.take(256 << 10).collect();
        let put = cluster.request(1, "PUT", &format!("/v1/kv/{round}/{key}"), &[], &value);
        assert!(put.status < 300, "{}", put.text());
    }
}

/// A cluster of so many nodes whose third one was killed and is far behind. States move at this
/// rate.
fn left_behind(nodes: u32, rate: u64) -> TestCluster {
    let mut cluster = TestCluster::start(nodes);
    assert!(cluster.stop().success());
    for id in cluster.ids() {
        let mut file =
            File::options().append(true).open(cluster.settings_path(id)).expect("settings");
        let settings = format!("{SETTINGS}rate_bytes_per_s = {rate}\n");
        file.write_all(settings.as_bytes()).expect("written");
    }
    cluster.launch();
    fill(&cluster, 1, 0);
    cluster.kill(AWAY);
    let chosen = number(&cluster, 1, "chosen_slot");
    let mut round = 0;
    wait_until("the journals are cut", || {
        round += 1;
        fill(&cluster, 1, round.min(8));
        let is_cut = |id: u32| id == AWAY || number(&cluster, id, "truncated_slot") > chosen + 1;
        round >= 8 && cluster.ids().all(is_cut)
    });
    cluster
}

fn state_folders(cluster: &TestCluster, id: u32) -> Vec<PathBuf> {
    let data = cluster.data_dir().join(format!("node-{id}")).join("data");
    let entries = fs::read_dir(data).expect("a data folder").filter_map(Result::ok);
    let is_state = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("state"))
    };
    entries.map(|entry| entry.path()).filter(is_state).collect()
}

/// Waits until the files of a state are coming, and says from whom and how much is here.
fn wait_for_part(cluster: &TestCluster, bytes: u64) -> u32 {
    wait_for("a part of the state", || {
        let (from, has, total) = coming(cluster)?;
        (has >= bytes && total > 0).then_some(from)
    })
}

/// From whom a state is coming, the bytes that are here, and those of the whole.
fn coming(cluster: &TestCluster) -> Option<(u32, u64, u64)> {
    let status = cluster.status(AWAY)?;
    let [from, bytes, total] =
        ["from", "bytes", "bytes_total"].map(|field| status["snapshot"][field].as_u64());
    Some((u32::try_from(from?).ok()?, bytes?, total?))
}

fn wait_until_equal(cluster: &TestCluster) {
    wait_until("the states are equal", || {
        let state = |id| {
            let status = cluster.status(id)?;
            Some((status["applied_slot"].clone(), status["state_hash"].clone()))
        };
        let first = state(1);
        first.is_some() && cluster.ids().all(|id| state(id) == first)
    });
    let newest = |id| {
        let target = "/v1/kv/8/3?consistency=stale";
        http::request(cluster.client_addr(id), "GET", target, &[], b"").expect("an answer").body
    };
    assert!(newest(1).len() == 256 << 10 && newest(1) == newest(AWAY));
    wait_until("one state is left", || state_folders(cluster, AWAY).len() == 1);
    let mark = state_folders(cluster, AWAY)[0].join("INSTALLED");
    wait_until("the mark is gone", || !mark.exists());
}

#[test]
fn a_killed_follower_comes_back_by_a_snapshot_though_it_is_killed_again_meanwhile() {
    let mut cluster = left_behind(3, RATE);
    // What is known of the state that goes.
    let damage = r#"[{"part":"state","what":"a block","found_at_s":7,"mended_at_s":null}]"#;
    let data = cluster.settings_path(AWAY).with_file_name("data");
    fs::write(data.join("damage.json"), damage).expect("written");
    cluster.start_by_hand(AWAY);
    wait_for_part(&cluster, 1 << 20);
    cluster.kill(AWAY);
    assert!(state_folders(&cluster, AWAY).iter().any(|path| path.ends_with("state.new")));
    cluster.start_by_hand(AWAY);
    wait_until_equal(&cluster);
    assert_eq!(metric(&cluster, AWAY, "snapshots_installed_total"), 1);
    let known = cluster.status(AWAY).expect("a status")["damage"][0].clone();
    assert!(known["found_at_s"] == 7 && known["mended_at_s"].is_u64(), "{known}");
    // A vote of the node that came back counts: the other two need it.
    cluster.kill(2);
    let put = cluster.request(1, "PUT", "/v1/kv/after", &[], b"with node 3");
    assert_eq!(put.status, 201, "{}", put.text());
}

#[test]
fn a_snapshot_comes_though_the_node_that_sends_it_is_killed() {
    let mut cluster = left_behind(3, RATE);
    cluster.start_by_hand(AWAY);
    let sender = wait_for_part(&cluster, 1 << 20);
    assert!([1, 2].contains(&sender));
    cluster.kill(sender);
    // Without it there is still a majority, and the other one has a state, too.
    let other = 3 - sender;
    wait_until("a state from the other", || {
        metric(&cluster, AWAY, "snapshots_installed_total") == 1
    });
    let put = cluster.request(other, "PUT", "/v1/kv/after", &[], b"without the sender");
    assert_eq!(put.status, 201, "{}", put.text());
    cluster.start_by_hand(sender);
    wait_until_equal(&cluster);
    let data = cluster.data_dir().join(format!("node-{sender}")).join("data");
    assert!(!data.join("checkpoint").exists(), "the start removed what was being sent");
}

#[test]
fn a_state_that_comes_and_cannot_be_synced_stops_its_node() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip(Need::Strace, "strace is not installed");
    }
    let mut cluster = left_behind(3, RATE);
    let data = cluster.settings_path(AWAY).with_file_name("data");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(data.join("state.new/CURRENT"));
    command.args(["-e", "trace=fsync", "-e", "inject=fsync:error=EIO"]);
    command.arg(SYNOD).arg("serve").arg("--config").arg(cluster.settings_path(AWAY));
    cluster.start_by_hand_with(AWAY, command);
    assert!(!cluster.wait_for_end(AWAY).success(), "a node whose disk fails ends with an error");
    let output = cluster.node_output(AWAY);
    assert!(output.contains("cannot sync") && output.contains("state.new/CURRENT"), "{output}");
    cluster.start_by_hand(AWAY);
    wait_until_equal(&cluster);
}

/// Has another node lead, and says once it does.
fn transfer(cluster: &TestCluster, to: u32) {
    let (to_text, endpoints) = (to.to_string(), cluster.endpoints());
    wait_until("the office is handed over", || {
        let words = ["transfer", "--to", &to_text, "--endpoints", &endpoints];
        synod(&words).status.success() && cluster.status(to).is_some_and(|s| s["role"] == "leader")
    });
}

#[test]
fn a_state_goes_on_coming_though_the_leader_changes() {
    let mut cluster = left_behind(5, SLOW);
    let others: Vec<u32> = cluster.ids().filter(|id| *id != AWAY).collect();
    cluster.start_by_hand(AWAY);
    let sender = wait_for_part(&cluster, 1 << 20);
    let mut here = 0;
    let mut still_comes = |cluster: &TestCluster, when: &str| {
        let (from, bytes, total) = coming(cluster).expect("it is still coming");
        assert!(from == sender && here <= bytes && bytes < total, "{when}: {bytes} of {from}");
        here = bytes;
    };
    // Whoever sends it comes to lead, leads no more, and then the leader dies.
    let next = *others.iter().find(|id| **id != sender).expect("three more");
    transfer(&cluster, sender);
    still_comes(&cluster, "its sender leads");
    transfer(&cluster, next);
    still_comes(&cluster, "its sender led");
    cluster.kill(next);
    let left: Vec<u32> = others.iter().copied().filter(|id| *id != next).collect();
    cluster.leader_among(&left);
    still_comes(&cluster, "the leader died");
    wait_until("it is here", || metric(&cluster, AWAY, "snapshots_installed_total") == 1);
    assert_eq!(metric(&cluster, AWAY, "snapshots_failed_total"), 0);
    let log = cluster.node_output(AWAY);
    assert_eq!(log.matches("fetching a snapshot").count(), 1, "{log}");
    cluster.start_by_hand(next);
    wait_until_equal(&cluster);
}

#[test]
fn a_state_comes_from_elsewhere_when_the_leader_that_sends_it_is_killed() {
    let mut cluster = left_behind(5, SLOW);
    let others: Vec<u32> = cluster.ids().filter(|id| *id != AWAY).collect();
    cluster.start_by_hand(AWAY);
    let sender = wait_for_part(&cluster, 1 << 20);
    transfer(&cluster, sender);
    assert!(coming(&cluster).is_some_and(|(from, bytes, total)| from == sender && bytes < total));
    cluster.kill(sender);
    let left: Vec<u32> = others.into_iter().filter(|id| *id != sender).collect();
    cluster.leader_among(&left);
    let second = wait_for("a state from another", || {
        coming(&cluster).map(|(from, _, _)| from).filter(|from| *from != sender)
    });
    assert!(left.contains(&second));
    wait_until("it is here", || metric(&cluster, AWAY, "snapshots_installed_total") == 1);
    cluster.start_by_hand(sender);
    wait_until_equal(&cluster);
}
