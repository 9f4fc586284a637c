//! The load generator against a cluster in this process.

mod fake;

use std::thread;
use std::time::Duration;

use fake::{FakeCluster, Fault};
use synod_bench::throughput::{self, ThroughputOptions, ThroughputResult};
use synod_bench::{BenchError, Distribution, NodeId, Placement, Progress};

fn short() -> ThroughputOptions {
    ThroughputOptions {
        clients: 8,
        duration: Duration::from_millis(400),
        warm_up: Duration::from_millis(100),
        keys: 500,
        timeline_interval: Duration::from_millis(100),
        timeout: Duration::from_millis(500),
        ..ThroughputOptions::default()
    }
}

fn run(options: ThroughputOptions, cluster: &FakeCluster) -> Result<ThroughputResult, BenchError> {
    throughput::run(options, &cluster.addresses(), &Progress::silent())
}

#[test]
fn writes_are_counted_as_the_servers_count_them() {
    let cluster = FakeCluster::start(3, Fault::None);
    let result = run(short(), &cluster).unwrap();
    assert!(result.writes.count > 0 && result.writes.count <= cluster.writes());
    assert_eq!((result.reads.count, result.errors.len(), result.ambiguous), (0, 0, 0));
    let in_timeline: u64 = result.timeline.iter().map(|point| point.operations).sum();
    assert_eq!((in_timeline, result.timeline.len()), (result.writes.count, 4));
    // The fake chooses a value for every eight writes; the ends of the measured
    // time cut off fewer than eight each.
    let chosen = result.nodes[0].counters.values_chosen.unwrap();
    let applied = result.nodes[0].counters.commands_applied.unwrap();
    assert!((applied - 8.0 * chosen).abs() < 8.0, "{applied} of {chosen}");
    assert!(result.commands_per_value.is_none_or(|per_value| per_value > 0.0));
    assert!(result.fsyncs_per_write.unwrap() > 0.0);
    assert!(result.writes.latency.p50_us <= result.writes.latency.p99_us);
    assert!(result.table().contains("writes"));
    serde_json::to_string(&result).unwrap();
}

#[test]
fn the_load_waits_until_every_node_is_ready() {
    let cluster = FakeCluster::start(3, Fault::SlowStart);
    let result = run(short(), &cluster).unwrap();
    assert_eq!((cluster.early_requests(), result.errors.len()), (0, 0));
}

#[test]
fn reads_find_what_was_stored_before() {
    let cluster = FakeCluster::start(2, Fault::None);
    let distribution = Distribution::Zipf { theta: 0.99 };
    let options = ThroughputOptions {
        read_share: 0.5,
        distribution,
        placement: Placement::Leader,
        ..short()
    };
    let result = run(options, &cluster).unwrap();
    assert_eq!(result.misses, 0);
    let share = result.reads.count as f64 / (result.reads.count + result.writes.count) as f64;
    assert!((0.3..0.7).contains(&share), "{share}");
}

#[test]
fn a_fixed_rate_is_kept_by_any_number_of_clients_and_threads() {
    let cluster = FakeCluster::start(2, Fault::None);
    let options = ThroughputOptions { rate_per_s: Some(500.0), threads: 2, ..short() };
    let result = run(options, &cluster).unwrap();
    // No more than 250 are due until the end, however late they are answered.
    assert!((1..=250).contains(&result.writes.count), "{}", result.writes.count);
}

#[test]
fn clients_go_on_to_another_node_when_theirs_dies() {
    let cluster = FakeCluster::start(2, Fault::None);
    let options = ThroughputOptions { placement: Placement::Node(NodeId(1)), ..short() };
    let (result, before) = thread::scope(|scope| {
        let killer = scope.spawn(|| {
            while cluster.writes() < 100 {
                thread::yield_now();
            }
            cluster.kill_node(0);
            cluster.writes()
        });
        (run(options, &cluster).unwrap(), killer.join().unwrap())
    });
    assert!(cluster.writes() > before, "the other node gets their writes");
    assert!(result.writes.count > 0);
}

#[test]
fn a_cluster_that_acknowledges_nothing_is_an_error_that_says_what_it_said() {
    let cluster = FakeCluster::start(2, Fault::RefusesWrites);
    let error = run(short(), &cluster).unwrap_err().to_string();
    assert!(error.contains("HTTP 503"), "{error}");
}

#[test]
fn options_that_make_no_sense_are_refused_before_anything_is_sent() {
    let cluster = FakeCluster::start(1, Fault::None);
    let none = Duration::ZERO;
    for options in [
        ThroughputOptions { clients: 0, ..short() },
        ThroughputOptions { threads: 9, ..short() },
        ThroughputOptions { keys: 0, ..short() },
        ThroughputOptions { key_bytes: 2, ..short() },
        ThroughputOptions { read_share: 1.5, ..short() },
        ThroughputOptions { rate_per_s: Some(f64::NAN), ..short() },
        ThroughputOptions { duration: none, ..short() },
        ThroughputOptions { value_bytes: 2 << 20, ..short() },
        ThroughputOptions { placement: Placement::Node(NodeId(9)), ..short() },
    ] {
        assert!(matches!(run(options, &cluster), Err(BenchError::Option { .. })));
    }
    assert_eq!(cluster.writes(), 0);
}
