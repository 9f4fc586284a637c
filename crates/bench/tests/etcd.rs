//! The etcd driver against a real etcd on loopback, when one is there:
//! `$SYNOD_ETCD` or etcd in `$PATH`. Without it the tests say that they were
//! skipped.

use std::time::Duration;

use synod_bench::compare::{self, ClusterStarter, CompareOptions, EtcdCluster};
use synod_bench::failover::{self, ControlError, FailoverPlan};
use synod_bench::throughput::{self, ThroughputOptions};
use synod_bench::{ClusterFile, NodeAddress, Placement, Progress, Protocol};

fn options(dir: &tempfile::TempDir) -> CompareOptions {
    CompareOptions {
        clients: vec![2],
        rounds: 2,
        duration: Duration::from_millis(500),
        warm_up: Duration::from_millis(100),
        nodes: 1,
        data_dir: dir.path().to_owned(),
        ..CompareOptions::default()
    }
}

fn found(options: &CompareOptions) -> Option<EtcdCluster> {
    EtcdCluster::find(options).map_err(|reason| println!("skipped: {reason}")).ok()
}

#[test]
fn etcd_stores_what_it_acknowledges() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut etcd) = found(&CompareOptions { nodes: 3, ..options(&dir) }) else {
        return;
    };
    let nodes = etcd.start_fresh().unwrap();
    // Whoever cleans up after a benchmark that was killed finds them.
    let folder = dir.path().join(format!("synod-bench-etcd-{}", std::process::id()));
    assert_eq!(ClusterFile::new(folder.join("cluster.json")).nodes().unwrap(), nodes);
    let load = ThroughputOptions {
        protocol: Protocol::Etcd,
        clients: 4,
        keys: 50,
        read_share: 0.5,
        placement: Placement::Leader,
        duration: Duration::from_millis(500),
        warm_up: Duration::from_millis(100),
        ..ThroughputOptions::default()
    };
    let result = throughput::run(load, &nodes, &Progress::silent()).unwrap();
    assert!(result.writes.count > 0 && result.reads.count > 0);
    assert_eq!((result.misses, result.errors.len()), (0, 0));
    assert!(result.fsyncs_per_write.is_some());

    let plan = FailoverPlan {
        protocol: Protocol::Etcd,
        kills: 1,
        clients: 4,
        settle: Duration::from_millis(200),
        observe: Duration::from_millis(200),
        ..FailoverPlan::default()
    };
    let result = failover::run(&plan, &mut etcd, &Progress::silent()).unwrap();
    assert_eq!((result.problems.as_slice(), result.failovers), (&[][..], 1));
}

/// etcd once more, in Synod's place.
struct InSynodsPlace(EtcdCluster);

impl ClusterStarter for InSynodsPlace {
    fn name(&self) -> String {
        "nobody".into()
    }

    fn start_fresh(&mut self) -> Result<Vec<NodeAddress>, ControlError> {
        Err(ControlError("it does not start".into()))
    }

    fn stop_all(&mut self) -> Result<(), ControlError> {
        self.0.stop_all()
    }
}

#[test]
fn a_store_that_does_not_start_ends_the_comparison_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let Some(etcd) = found(&options) else {
        return;
    };
    let error = compare::run(&options, &mut InSynodsPlace(etcd), &Progress::silent()).unwrap_err();
    assert_eq!(error.to_string(), "it does not start");
}

#[test]
fn a_missing_etcd_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Some(dir.path().join("no-etcd"));
    let reason = EtcdCluster::find(&CompareOptions { etcd: missing, ..options(&dir) }).unwrap_err();
    assert!(reason.contains("no-etcd"), "{reason}");
}
