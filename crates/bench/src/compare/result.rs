//! What a comparison found.

use serde::Serialize;

use super::options::CompareOptions;
use crate::Protocol;
use crate::latency::median;
use crate::table::{Table, ms, or_dash, whole};
use crate::throughput::ThroughputResult;

/// What one store did with one number of clients: medians over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    /// Acknowledged writes per second.
    pub writes_per_s: f64,
    /// The slowest round's.
    pub writes_per_s_min: f64,
    /// The fastest round's.
    pub writes_per_s_max: f64,
    /// The median latency of a write.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// CPU time of all nodes for one write, in microseconds.
    pub server_cpu_us: Option<f64>,
    /// CPU time of the load generator for one write, in microseconds.
    pub generator_cpu_us: Option<f64>,
    /// Commands in a chosen value.
    pub commands_per_value: Option<f64>,
    /// Syncs of all nodes' logs for one write.
    pub fsyncs_per_write: Option<f64>,
    /// Failed requests in all rounds.
    pub errors: u64,
}

/// Both stores with one number of clients.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    /// How many clients.
    pub clients: usize,
    /// Synod.
    pub synod: Option<Figures>,
    /// etcd.
    pub etcd: Option<Figures>,
}

/// What a comparison found.
#[derive(Debug, Clone, Serialize)]
pub struct CompareResult {
    /// What was compared.
    pub options: CompareOptions,
    /// Synod and its version.
    pub synod: String,
    /// etcd and its version, if it was measured.
    pub etcd: Option<String>,
    /// Why etcd was not measured.
    pub skipped: Option<String>,
    /// Why not all rounds were done.
    pub ended_early: Option<String>,
    /// By number of clients.
    pub rows: Vec<Row>,
}

/// The results by store and by position in the list of client numbers.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) runs: Vec<(Protocol, usize, ThroughputResult)>,
}

impl Collected {
    /// The rounds of a store with so many clients.
    fn of(&self, protocol: Protocol, clients: usize) -> Vec<&ThroughputResult> {
        let wanted =
            |run: &&(Protocol, usize, ThroughputResult)| (run.0, run.1) == (protocol, clients);
        self.runs.iter().filter(wanted).map(|run| &run.2).collect()
    }
}

impl CompareResult {
    pub(super) fn new(
        options: CompareOptions,
        synod: String,
        etcd: Option<String>,
        skipped: Option<String>,
        collected: &Collected,
    ) -> Self {
        let row = |&clients: &usize| Row {
            clients,
            synod: Figures::of(&collected.of(Protocol::Synod, clients)),
            etcd: Figures::of(&collected.of(Protocol::Etcd, clients)),
        };
        let rows = options.clients.iter().map(row).collect();
        Self { options, synod, etcd, skipped, ended_early: None, rows }
    }

    /// A short table for a terminal, with ratios where there are two stores.
    pub fn table(&self) -> String {
        let mut table = Table::new([
            "clients",
            "writes/s",
            "(rounds)",
            "p50",
            "p99",
            "server CPU",
            "generator",
            "commands/value",
            "fsyncs/write",
            "errors",
        ]);
        for row in &self.rows {
            let stores = [(Some(&self.synod), row.synod), (self.etcd.as_ref(), row.etcd)];
            for (name, figures) in stores {
                if let (Some(name), Some(figures)) = (name, figures) {
                    table.row(figures.cells(format!("{} {name}", row.clients)));
                }
            }
            if let (Some(synod), Some(etcd)) = (row.synod, row.etcd) {
                table.row(synod.ratios(&etcd, format!("{} Synod : etcd", row.clients)));
            }
        }
        let mut text = table.render();
        if let Some(reason) = &self.skipped {
            text.push_str(&format!("etcd was not measured: {reason}\n"));
        }
        if let Some(reason) = &self.ended_early {
            text.push_str(&format!("FAILED: {reason}\n"));
        }
        text
    }
}

impl Figures {
    fn of(runs: &[&ThroughputResult]) -> Option<Self> {
        let all = |of: fn(&ThroughputResult) -> Option<f64>| -> Vec<f64> {
            runs.iter().filter_map(|run| of(run)).collect()
        };
        let middle = |of| median(&mut all(of));
        let mut rates = all(|run| Some(run.writes.per_s));
        let writes_per_s = median(&mut rates)?;
        Some(Self {
            writes_per_s,
            writes_per_s_min: *rates.first()?,
            writes_per_s_max: *rates.last()?,
            p50_ms: middle(|run| Some(run.writes.latency.p50_us as f64 / 1000.0))?,
            p99_ms: middle(|run| Some(run.writes.latency.p99_us as f64 / 1000.0))?,
            server_cpu_us: middle(|run| run.server_cpu_us_per_operation),
            generator_cpu_us: middle(|run| run.generator_cpu_us_per_operation),
            commands_per_value: middle(|run| run.commands_per_value),
            fsyncs_per_write: middle(|run| run.fsyncs_per_write),
            errors: runs.iter().flat_map(|run| run.errors.values()).sum(),
        })
    }

    fn cells(&self, name: String) -> Vec<String> {
        let us = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.1} us")));
        let plain = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.2}")));
        vec![
            name,
            whole(self.writes_per_s),
            format!("({}..{})", whole(self.writes_per_s_min), whole(self.writes_per_s_max)),
            ms(self.p50_ms),
            ms(self.p99_ms),
            us(self.server_cpu_us),
            us(self.generator_cpu_us),
            plain(self.commands_per_value),
            plain(self.fsyncs_per_write),
            self.errors.to_string(),
        ]
    }

    fn ratios(&self, other: &Self, name: String) -> Vec<String> {
        let ratio = |ours: f64, theirs: f64| format!("{:.2}", ours / theirs);
        let cpu = self.server_cpu_us.zip(other.server_cpu_us);
        vec![
            name,
            ratio(self.writes_per_s, other.writes_per_s),
            String::new(),
            ratio(self.p50_ms, other.p50_ms),
            ratio(self.p99_ms, other.p99_ms),
            or_dash(cpu.map(|(ours, theirs)| ratio(ours, theirs))),
        ]
    }
}
