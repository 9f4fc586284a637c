//! What a comparison is asked for.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::{Placement, throughput};

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
