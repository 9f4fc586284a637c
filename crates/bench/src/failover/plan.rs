//! What a failover run does.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::{BenchError, Protocol};

const CLIENTS_MAX: usize = 10_000;
const KILLS_MAX: u32 = 1_000;
/// A key names the run and the entry of the ledger.
pub(super) const KEY_BYTES_MIN: usize = 16;
/// A value names the run, the entry and the write's number.
pub(super) const VALUE_BYTES_MIN: usize = 16;

/// How a leader is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// SIGKILL: its connections break at once. It is started again.
    #[default]
    Kill,
    /// SIGSTOP: it falls silent with its connections open. It is continued.
    Stop,
}

/// What a failover run does.
#[derive(Debug, Clone, Serialize)]
pub struct FailoverPlan {
    /// What kind of cluster it is.
    pub protocol: Protocol,
    /// How often the leader is taken away.
    pub kills: u32,
    /// How.
    pub how: How,
    /// Clients, each with one write under way.
    pub clients: usize,
    /// The size of each key.
    pub key_bytes: usize,
    /// The size of each value.
    pub value_bytes: usize,
    /// The shortest time a client waits for an answer before it goes on to
    /// another node. Each request draws its own time: were all alike, the
    /// gaps would only show the timeout.
    #[serde(rename = "timeout_min_ms", serialize_with = "milliseconds")]
    pub timeout_min: Duration,
    /// The longest.
    #[serde(rename = "timeout_max_ms", serialize_with = "milliseconds")]
    pub timeout_max: Duration,
    /// How long the load runs undisturbed before each kill, at least; up to
    /// half as much again is added at random.
    #[serde(rename = "settle_ms", serialize_with = "milliseconds")]
    pub settle: Duration,
    /// How long the cluster is watched after each kill before the node comes
    /// back.
    #[serde(rename = "observe_ms", serialize_with = "milliseconds")]
    pub observe: Duration,
    /// How long at most is waited for the first acknowledgement, for a
    /// leader, and for a node to be ready.
    #[serde(rename = "patience_ms", serialize_with = "milliseconds")]
    pub patience: Duration,
    /// What the random choices start from.
    pub seed: u64,
}

impl Default for FailoverPlan {
    fn default() -> Self {
        Self {
            protocol: Protocol::Synod,
            kills: 10,
            how: How::Kill,
            clients: 64,
            key_bytes: 32,
            value_bytes: 256,
            timeout_min: Duration::from_millis(100),
            timeout_max: Duration::from_millis(500),
            settle: Duration::from_secs(2),
            observe: Duration::from_secs(2),
            patience: Duration::from_secs(60),
            seed: 1,
        }
    }
}

impl FailoverPlan {
    pub(super) fn check(&self) -> Result<(), BenchError> {
        if !(1..=KILLS_MAX).contains(&self.kills) {
            return Err(BenchError::option("--kills", format!("must be 1 to {KILLS_MAX}")));
        }
        if !(1..=CLIENTS_MAX).contains(&self.clients) {
            return Err(BenchError::option("--clients", format!("must be 1 to {CLIENTS_MAX}")));
        }
        if !(KEY_BYTES_MIN..=4096).contains(&self.key_bytes) {
            let reason = format!("must be {KEY_BYTES_MIN} to 4096");
            return Err(BenchError::option("--key-bytes", reason));
        }
        if !(VALUE_BYTES_MIN..=1 << 20).contains(&self.value_bytes) {
            let reason = format!("must be {VALUE_BYTES_MIN} to 1048576");
            return Err(BenchError::option("--value-bytes", reason));
        }
        if self.timeout_min.is_zero() || self.timeout_max < self.timeout_min {
            return Err(BenchError::option("--timeout-ms", "must be a range above 0"));
        }
        Ok(())
    }
}

fn milliseconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64() * 1000.0)
}
