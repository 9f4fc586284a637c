//! The failover benchmark against a cluster in this process that can be told
//! to lose what it acknowledged.

mod fake;

use std::time::Duration;

use fake::{FakeCluster, Fault};
use synod_bench::failover::{self, FailoverPlan, FailoverResult, How};
use synod_bench::{BenchError, NodeId, Progress};

fn plan() -> FailoverPlan {
    FailoverPlan {
        kills: 2,
        clients: 6,
        settle: Duration::from_millis(150),
        observe: Duration::from_millis(200),
        timeout_min: Duration::from_millis(50),
        timeout_max: Duration::from_millis(100),
        patience: Duration::from_secs(10),
        ..FailoverPlan::default()
    }
}

fn run(plan: &FailoverPlan, fault: Fault) -> Result<FailoverResult, BenchError> {
    failover::run(plan, &mut FakeCluster::start(3, fault), &Progress::silent())
}

#[test]
fn a_cluster_that_keeps_its_word_passes() {
    let result = run(&plan(), Fault::None).unwrap();
    assert_eq!(result.problems, [""; 0]);
    assert!(result.passed && result.failovers == 2 && result.acknowledged > 0);
    assert!(result.check.keys >= 24 && result.check.reads > 0);
    let (first, second) = (&result.kills[0], &result.kills[1]);
    assert_eq!((first.node.0, second.node.0), (1, 2));
    assert_eq!(first.next_leader, Some(second.node));
    assert!(first.errors.values().sum::<u64>() > 0, "clients of the dead node must notice");
    assert!(first.silence_ms <= first.client_gap_ms);
    assert_eq!(first.client_gaps_ms.len(), 6);
    assert!(result.table().contains("worst"));
    serde_json::to_string(&result).unwrap();
}

#[test]
fn a_stopped_leader_costs_its_clients_their_timeouts() {
    let result = run(&FailoverPlan { how: How::Stop, ..plan() }, Fault::None).unwrap();
    assert_eq!(result.problems, [""; 0]);
    assert!(result.kills[0].errors.contains_key("timeout"));
    assert!(result.unknown > 0);
    assert!(result.kills[0].client_gap_ms >= 50.0, "no client's patience is shorter");
}

#[test]
fn lost_writes_are_found() {
    let result = run(&plan(), Fault::LosesLastWrites).unwrap();
    assert!(result.check.losses > 0 && !result.passed);
    assert!(result.table().contains("LOSS: key"));
    assert!(result.table().contains("FAILED: "));
}

#[test]
fn the_loss_of_the_very_last_write_is_found() {
    let result = run(&plan(), Fault::LosesNewestWrite).unwrap();
    // Each kill loses one write, which several reads show.
    let (keys, reads) = (result.check.keys_lost(), result.check.losses);
    assert!((1..=2).contains(&keys), "{:?}", result.check.findings);
    assert!(reads > keys as u64 && !result.passed);
}

#[test]
fn a_write_that_was_applied_twice_is_found() {
    let result = run(&plan(), Fault::AppliesTwice).unwrap();
    assert!(result.check.violations > 0 && !result.passed);
    assert!(result.table().contains("found version "), "{}", result.table());
    let result = run(&plan(), Fault::None).unwrap();
    assert!(result.check.versions > 0 && result.check.versions <= result.acknowledged);
}

#[test]
fn writes_that_nobody_sent_are_found() {
    let result = run(&plan(), Fault::InventsWrites).unwrap();
    assert!(result.check.violations > 0 && !result.passed);
}

#[test]
fn a_leader_that_came_back_is_no_failover() {
    let result = run(&plan(), Fault::LeaderComesBack).unwrap();
    assert_eq!(result.failovers, 0);
    assert!(result.kills.iter().all(|kill| kill.came_back));
    assert_eq!(result.first_acknowledgement, None);
    assert!(!result.passed, "nothing was measured");
}

#[test]
fn of_two_leaders_the_later_one_is_taken_away() {
    let result = run(&FailoverPlan { kills: 1, ..plan() }, Fault::TwoLeaders).unwrap();
    assert_eq!(result.problems, [""; 0]);
    assert_eq!((result.kills[0].node, result.kills[0].next_leader), (NodeId(2), Some(NodeId(3))));
}

#[test]
fn what_was_found_before_an_error_is_told_with_it() {
    let plan = FailoverPlan { patience: Duration::from_secs(1), ..plan() };
    let result = run(&plan, Fault::StaysDead).unwrap();
    assert_eq!((result.kills.len(), result.failovers), (1, 1));
    assert!(result.check.reads > 0 && !result.passed);
    let problems = result.problems.join("\n");
    assert!(problems.contains("ended early: node 1 was not ready"), "{problems}");
    assert!(problems.contains("1 kills were not done"), "{problems}");
}

#[test]
fn two_nodes_are_too_few_for_a_failover() {
    let mut cluster = FakeCluster::start(2, Fault::None);
    let error = failover::run(&plan(), &mut cluster, &Progress::silent()).unwrap_err();
    assert!(matches!(error, BenchError::Option { option: "--nodes", .. }), "{error}");
}

#[test]
fn a_check_that_could_not_check_fails() {
    let plan = FailoverPlan { kills: 1, patience: Duration::from_millis(800), ..plan() };
    let result = run(&plan, Fault::RefusesReads).unwrap();
    assert_eq!(result.check.reads, 0);
    assert!(!result.passed && result.problems.len() == 3, "{:?}", result.problems);
}

#[test]
fn a_cluster_that_takes_no_write_is_an_error() {
    let plan = FailoverPlan { patience: Duration::from_millis(300), ..plan() };
    let error = run(&plan, Fault::RefusesWrites).unwrap_err();
    assert!(matches!(error, BenchError::NothingAcknowledged { .. }), "{error}");
}

#[test]
fn plans_that_make_no_sense_are_refused() {
    for plan in [
        FailoverPlan { kills: 0, ..plan() },
        FailoverPlan { clients: 0, ..plan() },
        FailoverPlan { key_bytes: 15, ..plan() },
        FailoverPlan { value_bytes: 15, ..plan() },
        FailoverPlan { timeout_max: Duration::from_millis(1), ..plan() },
    ] {
        assert!(matches!(run(&plan, Fault::None), Err(BenchError::Option { .. })));
    }
}

#[test]
fn the_report_is_one_page_with_its_numbers_beside_it() {
    let result = run(&plan(), Fault::LosesLastWrites).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let page = synod_bench::report::write_failover(&dir.path().join("new"), &result).unwrap();
    let html = std::fs::read_to_string(&page).unwrap();
    assert_eq!(html.matches("<svg").count(), 5);
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
    assert!(html.contains("miss an acknowledged write") && !html.contains("was lost:"));
    for outside in ["<script", "http://", "https://", "url(", "@import", "NaN"] {
        assert!(!html.contains(outside), "{outside}");
    }
    let json = std::fs::read_to_string(page.with_file_name("results.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["kills"].as_array().unwrap().len(), 2);
    assert_eq!(json["passed"], false);
}
