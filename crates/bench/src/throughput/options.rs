//! What load to put on a cluster.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::{BenchError, Distribution, NodeAddress, Placement, Protocol};

const CLIENTS_MAX: usize = 10_000;
const THREADS_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 1 << 20;
const RATE_PER_S_MAX: f64 = 1e7;

/// What load to put on a cluster, and for how long.
#[derive(Debug, Clone, Serialize)]
pub struct ThroughputOptions {
    /// What kind of cluster it is.
    pub protocol: Protocol,
    /// How many requests are under way at once, each on its own connection.
    pub clients: usize,
    /// How long is measured.
    #[serde(rename = "duration_s", serialize_with = "seconds")]
    pub duration: Duration,
    /// How long the load runs before that.
    #[serde(rename = "warm_up_s", serialize_with = "seconds")]
    pub warm_up: Duration,
    /// How many different keys there are.
    pub keys: u64,
    /// How often which of them is asked for.
    pub distribution: Distribution,
    /// The size of each key.
    pub key_bytes: usize,
    /// The size of each value.
    pub value_bytes: usize,
    /// The share of requests that read, from 0 to 1. Reads are linearizable.
    /// If there are any, all keys are stored before.
    pub read_share: f64,
    /// Which nodes the clients talk to.
    pub placement: Placement,
    /// Requests a second over all clients, due at fixed times whether earlier
    /// ones have been answered or not; latencies count from when a request
    /// was due. Without it each client waits only for its own answer.
    pub rate_per_s: Option<f64>,
    /// How long a client waits for an answer.
    #[serde(rename = "timeout_s", serialize_with = "seconds")]
    pub timeout: Duration,
    /// The length of the timeline's intervals.
    #[serde(rename = "timeline_interval_s", serialize_with = "seconds")]
    pub timeline_interval: Duration,
    /// Threads of the load generator. One drives some 100,000 requests a second.
    pub threads: usize,
    /// What the random choices start from.
    pub seed: u64,
}

impl Default for ThroughputOptions {
    fn default() -> Self {
        Self {
            protocol: Protocol::Synod,
            clients: 64,
            duration: Duration::from_secs(10),
            warm_up: Duration::from_secs(3),
            keys: 100_000,
            distribution: Distribution::Uniform,
            key_bytes: 32,
            value_bytes: 256,
            read_share: 0.0,
            placement: Placement::Spread,
            rate_per_s: None,
            timeout: Duration::from_secs(5),
            timeline_interval: Duration::from_secs(1),
            threads: 1,
            seed: 1,
        }
    }
}

impl ThroughputOptions {
    pub(super) fn preload(&self) -> bool {
        self.read_share > 0.0
    }

    pub(super) fn check(&self, nodes: &[NodeAddress]) -> Result<(), BenchError> {
        let within = |option, value: usize, max: usize| match value {
            value if (1..=max).contains(&value) => Ok(()),
            _ => Err(BenchError::option(option, format!("must be 1 to {max}"))),
        };
        within("--clients", self.clients, CLIENTS_MAX)?;
        within("--threads", self.threads, THREADS_MAX.min(self.clients))?;
        if self.value_bytes > VALUE_BYTES_MAX {
            return Err(BenchError::option("--value-bytes", "must be at most 1048576"));
        }
        if !(0.0..=1.0).contains(&self.read_share) {
            return Err(BenchError::option("--reads", "must be a share of all requests"));
        }
        if self.rate_per_s.is_some_and(|rate| !(rate > 0.0 && rate <= RATE_PER_S_MAX)) {
            return Err(BenchError::option("--rate", "must be above 0 and at most 10000000"));
        }
        if self.duration.is_zero() || self.timeline_interval < Duration::from_millis(1) {
            return Err(BenchError::option("--duration-s", "must be above 0"));
        }
        if nodes.is_empty() {
            return Err(BenchError::option("--cluster", "has no nodes"));
        }
        match self.placement {
            Placement::Node(id) if nodes.iter().all(|node| node.id != id) => {
                Err(BenchError::option("--to-node", format!("is {id}, but there is no such node")))
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn seconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}
