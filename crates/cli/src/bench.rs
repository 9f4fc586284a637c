//! `synod bench`: a cluster to measure, and the result for people or programs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use synod_bench::compare::{self, CompareOptions};
use synod_bench::failover::{self, FailoverPlan, FileControl};
use synod_bench::report;
use synod_bench::throughput::{self, ThroughputOptions};
use synod_bench::{BenchError, ClusterFile, Distribution, NodeId, Placement, Progress};

use crate::arena::{FreshClusters, OwnCluster};
use crate::arguments::{Bench, BenchOutput, Compare, Failover, How, Throughput};
use crate::failure::Failure;
use crate::interrupt::before_the_end;
use crate::output::{print, print_json, warn};

/// Runs a benchmark.
pub(crate) fn run(command: &Bench) -> Result<(), Failure> {
    match command {
        Bench::Throughput(arguments) => run_throughput(arguments),
        Bench::Failover(arguments) => run_failover(arguments),
        Bench::Compare(arguments) => run_compare(arguments),
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match is_usage(&error) {
            true => Failure::usage(error.to_string()),
            false => Failure::failed(error.to_string()),
        }
    }
}

fn is_usage(error: &BenchError) -> bool {
    matches!(error, BenchError::Option { .. })
}

fn run_throughput(arguments: &Throughput) -> Result<(), Failure> {
    let load = &arguments.load;
    let placement = match (arguments.to_leader, arguments.to_node) {
        (true, _) => Placement::Leader,
        (false, Some(node)) => Placement::Node(NodeId(node)),
        (false, None) => Placement::Spread,
    };
    let options = ThroughputOptions {
        clients: load.clients as usize,
        duration: Duration::from_secs(arguments.duration_s),
        warm_up: Duration::from_secs(arguments.warm_up_s),
        keys: arguments.keys,
        distribution: match arguments.zipf {
            Some(theta) => Distribution::Zipf { theta },
            None => Distribution::Uniform,
        },
        key_bytes: load.key_bytes as usize,
        value_bytes: load.value_bytes as usize,
        read_share: f64::from(arguments.reads) / 100.0,
        placement,
        rate_per_s: arguments.rate,
        threads: arguments.threads as usize,
        ..ThroughputOptions::default()
    };
    let progress = progress(arguments.arena.output.json);
    let result = if let Some(file) = &arguments.arena.cluster {
        throughput::run(options, &ClusterFile::new(file).nodes()?, &progress)?
    } else {
        let mut cluster = OwnCluster::start(&arguments.arena)?;
        let outcome = throughput::run(options, &cluster.nodes(), &progress);
        if outcome.as_ref().is_err_and(|error| !is_usage(error)) {
            cluster.keep();
        }
        outcome?
    };
    show(
        &arguments.arena.output,
        &result,
        || result.table(),
        |folder| report::write_throughput(folder, &result),
    )
}

fn run_failover(arguments: &Failover) -> Result<(), Failure> {
    let load = &arguments.load;
    let plan = FailoverPlan {
        kills: arguments.kills,
        how: match arguments.how {
            How::Kill => failover::How::Kill,
            How::Stop => failover::How::Stop,
        },
        clients: load.clients as usize,
        key_bytes: load.key_bytes as usize,
        value_bytes: load.value_bytes as usize,
        ..FailoverPlan::default()
    };
    let progress = progress(arguments.arena.output.json);
    let result = if let Some(file) = &arguments.arena.cluster {
        let file = ClusterFile::new(file);
        let cluster = file.clone();
        // Nobody else would know why a node of theirs stands still.
        before_the_end(move || {
            let _ = cluster.continue_all();
        })?;
        failover::run(&plan, &mut FileControl::new(file), &progress)?
    } else {
        let mut cluster = OwnCluster::start(&arguments.arena)?;
        let outcome = failover::run(&plan, &mut cluster, &progress);
        if !outcome.as_ref().map_or_else(is_usage, |result| result.passed) {
            cluster.keep();
        }
        outcome?
    };
    show(
        &arguments.arena.output,
        &result,
        || result.table(),
        |folder| report::write_failover(folder, &result),
    )?;
    if result.passed { Ok(()) } else { Err(Failure::failed(result.problems.join("\n"))) }
}

fn run_compare(arguments: &Compare) -> Result<(), Failure> {
    let mut clusters = FreshClusters::new(arguments.nodes)?;
    let options = CompareOptions {
        clients: arguments.clients.iter().map(|count| *count as usize).collect(),
        rounds: arguments.rounds as usize,
        duration: Duration::from_secs(arguments.duration_s),
        placement: if arguments.spread { Placement::Spread } else { Placement::Leader },
        nodes: arguments.nodes as usize,
        data_dir: clusters.folder().to_owned(),
        etcd: arguments.etcd.clone(),
        ..CompareOptions::default()
    };
    let result = compare::run(&options, &mut clusters, &progress(arguments.json))?;
    if arguments.json { print_json(&result) } else { print(&result.table()) }?;
    result.ended_early.map_or(Ok(()), |reason| Err(Failure::failed(reason)))
}

fn progress(json: bool) -> Progress {
    if json { Progress::silent() } else { Progress::bar() }
}

fn show<R: Serialize>(
    output: &BenchOutput,
    result: &R,
    table: impl FnOnce() -> String,
    write_report: impl FnOnce(&Path) -> Result<PathBuf, BenchError>,
) -> Result<(), Failure> {
    if output.json {
        print_json(result)?;
    } else {
        print(&table())?;
    }
    if let Some(folder) = &output.report {
        let page = write_report(folder)?;
        warn(&format!("the report is in {}", page.display()));
    }
    Ok(())
}
