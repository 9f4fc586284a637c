//! The comparison, with a cluster in this process in Synod's place.

mod fake;

use std::path::Path;
use std::time::Duration;

use fake::{FakeCluster, Fault};
use synod_bench::compare::{self, ClusterStarter, CompareOptions};
use synod_bench::failover::ControlError;
use synod_bench::{NodeAddress, Progress};

#[derive(Default)]
struct Starter {
    running: Option<FakeCluster>,
    started: usize,
    /// Which start fails, counted from 1.
    fails_at: Option<usize>,
}

impl ClusterStarter for Starter {
    fn name(&self) -> String {
        "fake 1".into()
    }

    fn start_fresh(&mut self) -> Result<Vec<NodeAddress>, ControlError> {
        if self.fails_at == Some(self.started + 1) {
            return Err(ControlError("it does not start".into()));
        }
        assert!(self.running.is_none(), "one round ends before the next begins");
        self.started += 1;
        let cluster = FakeCluster::start(1, Fault::None);
        let nodes = cluster.addresses();
        self.running = Some(cluster);
        Ok(nodes)
    }

    fn stop_all(&mut self) -> Result<(), ControlError> {
        self.running = None;
        Ok(())
    }
}

fn options(dir: &Path) -> CompareOptions {
    CompareOptions {
        clients: vec![1, 3],
        rounds: 2,
        duration: Duration::from_millis(200),
        warm_up: Duration::from_millis(50),
        data_dir: dir.to_owned(),
        etcd: Some(dir.join("no-etcd")),
        ..CompareOptions::default()
    }
}

#[test]
fn a_round_that_fails_does_not_cost_those_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let mut starter = Starter { fails_at: Some(2), ..Starter::default() };
    let result = compare::run(&options, &mut starter, &Progress::silent()).unwrap();
    assert!(result.rows.iter().all(|row| row.synod.is_some()));
    assert!(result.table().contains("FAILED: round 2 of fake 1: it does not start"));

    let mut starter = Starter { fails_at: Some(1), ..Starter::default() };
    compare::run(&options, &mut starter, &Progress::silent()).unwrap_err();
    let twice = CompareOptions { clients: vec![3, 1, 3], ..options };
    compare::run(&twice, &mut Starter::default(), &Progress::silent()).unwrap_err();
}

#[test]
fn without_etcd_the_other_store_is_measured_and_the_reason_stated() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let mut starter = Starter::default();
    let result = compare::run(&options, &mut starter, &Progress::silent()).unwrap();
    assert_eq!((starter.started, result.rows.len()), (2, 2));
    let figures = result.rows[1].synod.unwrap();
    assert!(figures.writes_per_s_min <= figures.writes_per_s);
    assert!(figures.writes_per_s <= figures.writes_per_s_max);
    assert!(result.rows.iter().all(|row| row.etcd.is_none()));
    assert!(result.skipped.as_ref().unwrap().contains("no-etcd"));
    assert!(result.table().contains("3 fake 1"));
    serde_json::to_string(&result).unwrap();
}
