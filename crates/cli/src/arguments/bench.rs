//! The grammar of `synod bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::cluster::ClusterShape;

/// `synod bench`.
#[derive(Subcommand, Debug)]
pub(crate) enum Bench {
    /// Writes and reads per second, latencies, CPU and fsyncs per write.
    Throughput(Throughput),
    /// Kill the leader again and again under load.
    Failover(Failover),
    /// The same load against other stores that were found on this machine.
    Compare(Compare),
}

/// The cluster that a benchmark drives: its own, or a running one.
#[derive(Args, Debug, Clone)]
pub(crate) struct Arena {
    #[command(flatten)]
    pub(crate) shape: ClusterShape,
    /// Drive the running cluster that this cluster.json describes. What is
    /// written stays there: keys that begin with k0 (throughput, which also
    /// overwrites such keys) or with 16 hexadecimal digits (failover).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nodes", "base_port", "data_dir"])]
    pub(crate) cluster: Option<PathBuf>,
    /// Where the benchmark's own cluster keeps its data [default: a folder
    /// in the current one that is deleted afterwards].
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: BenchOutput,
}

/// Where the result of a benchmark goes.
#[derive(Args, Debug, Clone)]
pub(crate) struct BenchOutput {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write an HTML page with plots into this folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
}

/// How much load, of which kind.
#[derive(Args, Debug, Clone)]
pub(crate) struct Load {
    /// Clients at once, each with one request under way.
    #[arg(long, value_name = "COUNT", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) clients: u32,
    /// Size of a key in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(16..=4_096))]
    pub(crate) key_bytes: u32,
    /// Size of a value in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub(crate) value_bytes: u32,
}

/// `synod bench throughput`.
#[derive(Args, Debug)]
pub(crate) struct Throughput {
    #[command(flatten)]
    pub(crate) arena: Arena,
    #[command(flatten)]
    pub(crate) load: Load,
    /// Seconds that are measured.
    #[arg(long, value_name = "S", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) duration_s: u64,
    /// Seconds before that.
    #[arg(long, value_name = "S", default_value_t = 3,
          value_parser = clap::value_parser!(u64).range(0..=3_600))]
    pub(crate) warm_up_s: u64,
    /// Different keys.
    #[arg(long, value_name = "COUNT", default_value_t = 100_000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) keys: u64,
    /// Ask for a few keys very often: the n-th in proportion to n^-THETA.
    #[arg(long, value_name = "THETA")]
    pub(crate) zipf: Option<f64>,
    /// Reads in a hundred requests.
    #[arg(long, value_name = "PERCENT", default_value_t = 0,
          value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) reads: u8,
    /// Send requests at this rate, answered or not, instead of one after the
    /// other.
    #[arg(long, value_name = "PER_SECOND")]
    pub(crate) rate: Option<f64>,
    /// Send everything to the leader instead of spreading it over the nodes.
    #[arg(long, conflicts_with = "to_node")]
    pub(crate) to_leader: bool,
    /// Send everything to this node.
    #[arg(long, value_name = "ID")]
    pub(crate) to_node: Option<u64>,
    /// Threads of the load generator.
    #[arg(long, value_name = "COUNT", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) threads: u32,
}

/// `synod bench failover`.
#[derive(Args, Debug)]
pub(crate) struct Failover {
    #[command(flatten)]
    pub(crate) arena: Arena,
    #[command(flatten)]
    pub(crate) load: Load,
    /// How often the leader goes.
    #[arg(long, value_name = "COUNT", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) kills: u32,
    /// How the leader goes.
    #[arg(long, value_enum, default_value_t = How::Kill)]
    pub(crate) how: How,
}

/// How a leader is taken away.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// SIGKILL, and started again.
    Kill,
    /// SIGSTOP, and continued.
    Stop,
}

/// `synod bench compare`.
#[derive(Args, Debug)]
pub(crate) struct Compare {
    /// Numbers of clients to compare with, one after the other.
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_values_t = [1, 64, 256],
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) clients: Vec<u32>,
    /// How often each store is started and measured.
    #[arg(long, value_name = "COUNT", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, value_name = "S", default_value_t = 8,
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) duration_s: u64,
    /// Nodes of each store.
    #[arg(long, value_name = "COUNT", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=9))]
    pub(crate) nodes: u32,
    /// Spread the clients over the nodes instead of sending everything to the
    /// leader.
    #[arg(long)]
    pub(crate) spread: bool,
    /// The etcd binary [default: $SYNOD_ETCD, then $PATH].
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
