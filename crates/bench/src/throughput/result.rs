//! What a throughput run found.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::latency::LatencyRecorder;
use crate::probe::Counters;
use crate::process::ProcessUse;
use crate::table::{Table, count, ms_of_us, or_dash, whole};
use crate::{Latency, NodeAddress, NodeId};

use super::options::ThroughputOptions;
use super::recorder::{Recording, TimelinePoint};

/// What one kind of operation achieved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OperationResult {
    /// How many were acknowledged in the measured time.
    pub count: u64,
    /// The same per second.
    pub per_s: f64,
    /// How long they took.
    pub latency: Latency,
}

/// What one node used in the measured time. Missing where its process is not
/// on this machine or it does not export the counter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeUse {
    /// Which node.
    pub id: NodeId,
    /// CPU time, in seconds.
    pub cpu_s: Option<f64>,
    /// The share of one core, from 0 up.
    pub cores: Option<f64>,
    /// What it holds in memory at the end.
    pub resident_bytes: Option<u64>,
    /// What it counted.
    pub counters: Counters,
}

/// What a throughput run found.
#[derive(Debug, Clone, Serialize)]
pub struct ThroughputResult {
    /// The load that was asked for.
    pub options: ThroughputOptions,
    /// The writes; a write counts when it is acknowledged.
    pub writes: OperationResult,
    /// The reads.
    pub reads: OperationResult,
    /// Reads that found no value.
    pub misses: u64,
    /// Requests that failed, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Writes that failed and may have had their effect all the same.
    pub ambiguous: u64,
    /// Intervals of the measured time, in order.
    pub timeline: Vec<TimelinePoint>,
    /// What each node used.
    pub nodes: Vec<NodeUse>,
    /// CPU time of all nodes for one operation, in microseconds.
    pub server_cpu_us_per_operation: Option<f64>,
    /// CPU time of the load generator for one operation, in microseconds.
    pub generator_cpu_us_per_operation: Option<f64>,
    /// How many commands a chosen value held on average.
    pub commands_per_value: Option<f64>,
    /// Syncs of all nodes' journals for one acknowledged write.
    pub fsyncs_per_write: Option<f64>,
}

/// What was to be seen of the processes at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) uses: Vec<Option<ProcessUse>>,
    pub(super) generator: Option<ProcessUse>,
    pub(super) counters: Vec<Option<Counters>>,
}

pub(super) fn assemble(
    options: ThroughputOptions,
    nodes: &[NodeAddress],
    recording: &Recording,
    before: &Sample,
    after: &Sample,
) -> ThroughputResult {
    let seconds = options.duration.as_secs_f64();
    let writes = operation(&recording.writes, seconds);
    let reads = operation(&recording.reads, seconds);
    let operations = (writes.count + reads.count) as f64;
    let nodes: Vec<NodeUse> = nodes
        .iter()
        .enumerate()
        .map(|(index, node)| node_use(node.id, index, seconds, before, after))
        .collect();
    let generator_cpu_s = cpu_between(before.generator, after.generator);
    let total = |of: fn(&NodeUse) -> Option<f64>| -> Option<f64> { nodes.iter().map(of).sum() };
    let chosen = total(|node| node.counters.values_chosen).filter(|chosen| *chosen > 0.0);
    let applied = total(|node| node.counters.commands_applied);
    let syncs = total(|node| node.counters.journal_syncs);
    let server_cpu_s = total(|node| node.cpu_s);
    let per_write = |value: f64| (writes.count > 0).then(|| value / writes.count as f64);
    ThroughputResult {
        writes,
        reads,
        misses: recording.misses,
        errors: recording.errors.iter().map(|(kind, count)| (kind.to_string(), *count)).collect(),
        ambiguous: recording.ambiguous,
        timeline: recording.timeline.clone(),
        server_cpu_us_per_operation: server_cpu_s.map(|cpu_s| cpu_s * 1e6 / operations),
        generator_cpu_us_per_operation: generator_cpu_s.map(|cpu_s| cpu_s * 1e6 / operations),
        commands_per_value: applied.zip(chosen).map(|(applied, chosen)| applied / chosen),
        fsyncs_per_write: syncs.and_then(per_write),
        nodes,
        options,
    }
}

fn operation(recorder: &LatencyRecorder, seconds: f64) -> OperationResult {
    let count = recorder.count();
    OperationResult { count, per_s: count as f64 / seconds, latency: recorder.summary() }
}

fn node_use(id: NodeId, index: usize, seconds: f64, before: &Sample, after: &Sample) -> NodeUse {
    let cpu_s = cpu_between(before.uses[index], after.uses[index]);
    let counters = match (&before.counters[index], &after.counters[index]) {
        (Some(before), Some(after)) => after.since(before),
        _ => Counters::default(),
    };
    NodeUse {
        id,
        cpu_s,
        cores: cpu_s.map(|cpu_s| cpu_s / seconds),
        resident_bytes: after.uses[index].map(|process| process.resident_bytes),
        counters,
    }
}

fn cpu_between(before: Option<ProcessUse>, after: Option<ProcessUse>) -> Option<f64> {
    let difference = after?.cpu_s - before?.cpu_s;
    (difference >= 0.0).then_some(difference)
}

impl ThroughputResult {
    /// All operations of a second.
    pub fn operations_per_s(&self) -> f64 {
        self.writes.per_s + self.reads.per_s
    }

    /// A short table for a terminal.
    pub fn table(&self) -> String {
        let mut text = self.operations_table();
        text.push('\n');
        text.push_str(&self.nodes_table());
        text.push('\n');
        let figure = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.2}")));
        let mut figures = Table::default();
        figures.row(["server CPU per operation", &us(self.server_cpu_us_per_operation)]);
        figures.row(["generator CPU per operation", &us(self.generator_cpu_us_per_operation)]);
        figures.row(["commands per value", &figure(self.commands_per_value)]);
        figures.row(["fsyncs per write, all nodes", &figure(self.fsyncs_per_write)]);
        text.push_str(&figures.render());
        if self.misses > 0 {
            text.push_str(&format!("{} reads found no value\n", count(self.misses)));
        }
        text.push_str(&self.errors_line());
        text
    }

    fn operations_table(&self) -> String {
        let mut table =
            Table::new(["", "per second", "mean", "p50", "p90", "p99", "p99.9", "slowest"]);
        for (name, operation) in [("writes", &self.writes), ("reads", &self.reads)] {
            if operation.count == 0 {
                continue;
            }
            let latency = &operation.latency;
            table.row([
                name.to_owned(),
                whole(operation.per_s),
                crate::table::ms(latency.mean_us / 1000.0),
                ms_of_us(latency.p50_us),
                ms_of_us(latency.p90_us),
                ms_of_us(latency.p99_us),
                ms_of_us(latency.p999_us),
                ms_of_us(latency.max_us),
            ]);
        }
        table.render()
    }

    fn nodes_table(&self) -> String {
        let mut table = Table::new(["node", "CPU", "cores", "memory", "requests", "fsyncs"]);
        for node in &self.nodes {
            let number = |value: Option<f64>| or_dash(value.map(whole));
            let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
            table.row([
                node.id.to_string(),
                or_dash(node.cpu_s.map(|cpu_s| format!("{cpu_s:.2} s"))),
                or_dash(node.cores.map(|cores| format!("{cores:.2}"))),
                or_dash(node.resident_bytes.map(mib)),
                number(node.counters.http_requests),
                number(node.counters.journal_syncs),
            ]);
        }
        table.render()
    }

    fn errors_line(&self) -> String {
        if self.errors.is_empty() {
            return "no errors\n".into();
        }
        let kinds: Vec<String> = self
            .errors
            .iter()
            .map(|(kind, number)| format!("{} x {kind}", count(*number)))
            .collect();
        let ambiguous = count(self.ambiguous);
        format!("errors: {}; writes with unknown outcome: {ambiguous}\n", kinds.join(", "))
    }
}

fn us(value: Option<f64>) -> String {
    or_dash(value.map(|value| format!("{value:.1} us")))
}
