//! The same load on Synod and on etcd in one run: rounds alternate between
//! the two, each on fresh data, so that whatever else the machine does meets
//! both alike. What is compared are medians over the rounds.

mod etcd_cluster;
mod result;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::failover::ControlError;
use crate::throughput::{self, ThroughputOptions, ThroughputResult};
use crate::{BenchError, NodeAddress, Placement, Progress, Protocol};
pub use etcd_cluster::EtcdCluster;
pub use result::{CompareResult, Figures, Row};

/// What to compare.
#[derive(Debug, Clone, Serialize)]
pub struct CompareOptions {
    /// The numbers of clients to load each store with, one after the other.
    pub clients: Vec<usize>,
    /// How often each store is started and measured.
    pub rounds: usize,
    /// How long each measurement takes.
    #[serde(rename = "duration_s", serialize_with = "throughput::seconds")]
    pub duration: Duration,
    /// How long the load runs before each.
    #[serde(rename = "warm_up_s", serialize_with = "throughput::seconds")]
    pub warm_up: Duration,
    /// How many different keys are written.
    pub keys: u64,
    /// The size of each key.
    pub key_bytes: usize,
    /// The size of each value.
    pub value_bytes: usize,
    /// Which nodes the clients talk to; the same for both.
    pub placement: Placement,
    /// How many nodes etcd gets; Synod's starter knows its own.
    pub nodes: usize,
    /// Where etcd keeps its data: on a disk, or its fsyncs cost nothing.
    pub data_dir: PathBuf,
    /// The etcd binary. Without it `$SYNOD_ETCD` and then `$PATH` are tried.
    pub etcd: Option<PathBuf>,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self {
            clients: vec![1, 64, 256],
            rounds: 3,
            duration: Duration::from_secs(8),
            warm_up: Duration::from_secs(3),
            keys: 100_000,
            key_bytes: 32,
            value_bytes: 256,
            placement: Placement::Leader,
            nodes: 3,
            data_dir: std::env::temp_dir(),
            etcd: None,
        }
    }
}

/// Starts and stops a cluster for one round.
pub trait ClusterStarter {
    /// The store and its version, for the table.
    fn name(&self) -> String;

    /// Starts all nodes with empty data. They need not be ready.
    ///
    /// # Errors
    /// When a node does not start.
    fn start_fresh(&mut self) -> Result<Vec<NodeAddress>, ControlError>;

    /// Stops all nodes and removes their data.
    ///
    /// # Errors
    /// When a node cannot be stopped.
    fn stop_all(&mut self) -> Result<(), ControlError>;
}

/// Measures Synod and, if it is found, etcd.
///
/// # Errors
/// When an option makes no sense or nothing could be measured at all. That etcd
/// is not there is no error, nor that a later round failed: the result says so.
pub fn run(
    options: &CompareOptions,
    synod: &mut dyn ClusterStarter,
    progress: &Progress,
) -> Result<CompareResult, BenchError> {
    if options.clients.is_empty() || options.rounds == 0 {
        return Err(BenchError::option("--clients", "and rounds must not be empty"));
    }
    if (1..options.clients.len()).any(|at| options.clients[..at].contains(&options.clients[at])) {
        return Err(BenchError::option("--clients", "names a number twice"));
    }
    let (mut etcd, skipped) = match EtcdCluster::find(options) {
        Ok(etcd) => (Some(etcd), None),
        Err(reason) => (None, Some(reason)),
    };
    let mut collected = Collected::default();
    let mut ended_early = None;
    'rounds: for round in 1..=options.rounds {
        // Every second round the other store comes first.
        let order = [Protocol::Synod, Protocol::Etcd];
        let order = if round % 2 == 1 { order } else { [order[1], order[0]] };
        for protocol in order {
            let starter: &mut dyn ClusterStarter = match protocol {
                Protocol::Synod => synod,
                Protocol::Etcd => match &mut etcd {
                    Some(etcd) => etcd,
                    None => continue,
                },
            };
            let name = starter.name();
            let say = |what: &str| {
                progress.say(format!("round {round} of {}: {name}: {what}", options.rounds));
            };
            say("starting");
            let measured = measure(options, protocol, starter, &mut collected, &say);
            let stopped = starter.stop_all();
            let Err(error) = measured.and(stopped.map_err(BenchError::from)) else {
                continue;
            };
            if collected.runs.is_empty() {
                return Err(error);
            }
            ended_early = Some(format!("round {round} of {name}: {error}"));
            break 'rounds;
        }
    }
    let peer = etcd.as_ref().map(ClusterStarter::name);
    let mut result = CompareResult::new(options.clone(), synod.name(), peer, skipped, &collected);
    result.ended_early = ended_early;
    Ok(result)
}

/// The results by store and by position in the list of client numbers.
#[derive(Debug, Default)]
struct Collected {
    runs: Vec<(Protocol, usize, ThroughputResult)>,
}

impl Collected {
    fn of(&self, protocol: Protocol, clients: usize) -> Vec<&ThroughputResult> {
        let wanted =
            |run: &&(Protocol, usize, ThroughputResult)| (run.0, run.1) == (protocol, clients);
        self.runs.iter().filter(wanted).map(|run| &run.2).collect()
    }
}

fn measure(
    options: &CompareOptions,
    protocol: Protocol,
    starter: &mut dyn ClusterStarter,
    collected: &mut Collected,
    say: &dyn Fn(&str),
) -> Result<(), BenchError> {
    let nodes = starter.start_fresh()?;
    for &clients in &options.clients {
        say(&format!("{clients} clients"));
        let load = ThroughputOptions {
            protocol,
            clients,
            duration: options.duration,
            warm_up: options.warm_up,
            keys: options.keys,
            key_bytes: options.key_bytes,
            value_bytes: options.value_bytes,
            placement: options.placement,
            ..ThroughputOptions::default()
        };
        let result = throughput::run(load, &nodes, &Progress::silent())?;
        collected.runs.push((protocol, clients, result));
    }
    Ok(())
}
