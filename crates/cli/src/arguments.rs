//! The grammar of the command line.

use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::member_arguments::Member;

/// Where a local cluster lives unless told otherwise.
pub(crate) const DATA_DIR_DEFAULT: &str = "synod-data";
/// The ports of a local cluster count from here unless told otherwise.
pub(crate) const BASE_PORT_DEFAULT: u16 = 7000;

/// A replicated key-value store.
#[derive(Parser, Debug)]
#[command(
    name = "synod",
    version = version(),
    about,
    long_about = "A replicated key-value store: Multi-Paxos, HTTP in front, RocksDB behind.",
    after_help = "Exit codes: 0 done; 1 failed; 2 wrong usage or settings; \
                  3 no such key, a precondition does not hold, or the cluster refuses; \
                  4 this node was removed from its cluster."
)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Cargo leaves the binary of the tests where it puts the released one, so it says which it is.
fn version() -> &'static str {
    if synod_node::IS_NEXT_VERSION {
        concat!(env!("CARGO_PKG_VERSION"), " (built for tests: it plays the next release)")
    } else if synod_node::IS_FOR_TESTS {
        concat!(env!("CARGO_PKG_VERSION"), " (built for tests: SYNOD_PLANTED makes it fail)")
    } else {
        env!("CARGO_PKG_VERSION")
    }
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Write the data folder of a new node, once in its life.
    Init(ConfigFile),
    /// Run one node until SIGINT or SIGTERM.
    Serve(Serve),
    /// Run a local cluster as child processes, with a live table.
    Cluster(Cluster),
    /// Store a value.
    Put(Put),
    /// Print a value, as it is.
    Get(Get),
    /// Remove a key.
    Delete(Delete),
    /// List keys with their values.
    List(List),
    /// Say how each node does.
    Status(Reach),
    /// Say who is a member of the cluster, and change it.
    #[command(subcommand)]
    Member(Member),
    /// Make another node the leader.
    Transfer(Transfer),
    /// Write a backup of a running cluster to a file.
    Backup(Backup),
    /// Make the data folder of a node of a new cluster from a backup.
    Restore(Restore),
    /// Tell what the data folder of a stopped node holds, and check all of it.
    Inspect(Inspect),
    /// Make a new one-node cluster of a node's folder when a majority is lost for good.
    Recover(Recover),
    /// Measure.
    #[command(subcommand)]
    Bench(Bench),
    /// Run a real local cluster with everything going wrong, and check what its
    /// clients saw.
    Chaos(Chaos),
    /// Run whole clusters in one thread, with everything going wrong, and check them.
    Sim(Sim),
}

/// A settings file.
#[derive(Args, Debug)]
pub(crate) struct ConfigFile {
    /// The node's settings (TOML); config/ holds commented examples.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

/// `synod backup`.
#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// The file to be made.
    pub(crate) file: PathBuf,
    /// Replace the file if it exists; not before the new backup is whole.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod restore`.
#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// The backup.
    pub(crate) file: PathBuf,
    /// The settings (TOML) of the node to be made, with a cluster id of their own. To be
    /// done for each node of the new cluster, from the same backup.
    #[arg(long, value_name = "FILE", required_unless_present = "check")]
    pub(crate) config: Option<PathBuf>,
    /// Only check the backup.
    #[arg(long, conflicts_with = "config")]
    pub(crate) check: bool,
}

/// `synod inspect`.
#[derive(Args, Debug)]
pub(crate) struct Inspect {
    /// The node's data folder. Nothing in it is changed.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `synod recover`.
#[derive(Args, Debug)]
pub(crate) struct Recover {
    /// The data folder of a node that is left, stopped. Nothing in it is changed.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// The data folder to be made, not existing or empty [default: DIR.recovered].
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// The id of the new cluster's node [default: that of the node that is left].
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) node_id: Option<u32>,
    /// Do not ask: what this node does not have is lost.
    #[arg(long)]
    pub(crate) yes_lose_slots: bool,
    /// Nor when the folder is damaged or in doubt.
    #[arg(long, requires = "yes_lose_slots")]
    pub(crate) yes_damaged_folder: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `synod serve`.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) settings: ConfigFile,
    /// Append a line for each Promise, Accepted and acknowledgement, saying which
    /// journal position or slot it rests on; docs/durability.md tells what for.
    #[arg(long, value_name = "FILE", env = "SYNOD_TRACE_DURABILITY")]
    pub(crate) trace_durability: Option<PathBuf>,
    /// Die when the process with this id, our parent, does.
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) stop_with_parent: Option<i32>,
}

/// The shape of a local cluster.
#[derive(Args, Debug, Clone)]
pub(crate) struct ClusterShape {
    /// How many nodes [default: what the data folder holds, else 3].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=9))]
    pub(crate) nodes: Option<u32>,
    /// Node N serves clients on port BASE+N and peers on port BASE+10+N
    /// [default: what the data folder holds, else 7000].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub(crate) base_port: Option<u16>,
}

/// `synod cluster`.
#[derive(Args, Debug)]
pub(crate) struct Cluster {
    #[command(flatten)]
    pub(crate) shape: ClusterShape,
    /// Where the nodes keep their data and the runner its cluster.json.
    #[arg(long, value_name = "DIR", default_value = DATA_DIR_DEFAULT)]
    pub(crate) data_dir: PathBuf,
    /// Delete what an earlier cluster left in the data folder.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Start a node again when it dies.
    #[arg(long)]
    pub(crate) restart: bool,
    /// Print a line per change, even on a terminal.
    #[arg(long)]
    pub(crate) no_tty: bool,
}

/// How to reach a cluster, and how to print.
#[derive(Args, Debug, Clone)]
pub(crate) struct Reach {
    /// Client URLs of some nodes, with commas between them [default: those of
    /// the local cluster in ./synod-data, else http://127.0.0.1:7001].
    #[arg(
        long,
        alias = "endpoint",
        env = "SYNOD_ENDPOINTS",
        value_name = "URLS",
        value_delimiter = ','
    )]
    pub(crate) endpoints: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// How long one request may take, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 5_000,
          value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) timeout_ms: u64,
}

/// `synod put`.
#[derive(Args, Debug)]
pub(crate) struct Put {
    /// The key.
    pub(crate) key: OsString,
    /// The value; `-` or nothing reads it from standard input.
    pub(crate) value: Option<OsString>,
    /// Only if the key was last changed at this revision.
    #[arg(long, value_name = "REVISION", conflicts_with = "if_absent")]
    pub(crate) if_revision: Option<u64>,
    /// Only if the key does not exist.
    #[arg(long)]
    pub(crate) if_absent: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod get`.
#[derive(Args, Debug)]
pub(crate) struct Get {
    /// The key.
    pub(crate) key: OsString,
    /// Read what the node has, which may be old.
    #[arg(long)]
    pub(crate) stale: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod delete`.
#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// The key.
    pub(crate) key: OsString,
    /// Only if the key was last changed at this revision.
    #[arg(long, value_name = "REVISION")]
    pub(crate) if_revision: Option<u64>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod list`.
#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only keys that begin with this.
    #[arg(default_value = "")]
    pub(crate) prefix: OsString,
    /// Print at most this many keys.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) limit: u64,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod transfer`.
#[derive(Args, Debug)]
pub(crate) struct Transfer {
    /// The node that shall lead [default: whichever is fit].
    #[arg(long, value_name = "ID")]
    pub(crate) to: Option<u32>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

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

/// `synod chaos`.
#[derive(Args, Debug)]
pub(crate) struct Chaos {
    /// How many nodes.
    #[arg(long, value_name = "COUNT", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(3..=9))]
    pub(crate) nodes: u32,
    /// Clients at once, each with one request under way.
    #[arg(long, value_name = "COUNT", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) clients: u32,
    /// Begin no more faults after so many seconds.
    #[arg(long, value_name = "S", default_value_t = 60, conflicts_with = "faults",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) duration_s: u64,
    /// Carry out so many faults, however long it takes.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) faults: Option<u32>,
    /// What faults and requests are drawn from [default: a random number, which the
    /// result tells].
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Only these faults, with commas between them [default: all but disk].
    #[arg(long, value_enum, value_name = "CLASSES", value_delimiter = ',')]
    pub(crate) faults_only: Vec<FaultClass>,
    /// Write what clients asked for and were told, as JSON lines.
    #[arg(long, value_name = "FILE")]
    pub(crate) history: Option<PathBuf>,
    /// What is mounted is seen by this process and its children only.
    #[arg(long, hide = true)]
    pub(crate) own_mounts: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `synod chaos` does to nodes.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultClass {
    /// SIGKILL, and started again.
    Kill,
    /// SIGSTOP, and continued.
    Pause,
    /// Directions between nodes do not work.
    Partition,
    /// The disk is full; later there is room again. Needs root, who may mount a
    /// small file system for each node's data.
    Disk,
}

/// `synod sim`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("which").required(true).args(["seeds", "seed"]))]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Sim {
    #[command(subcommand)]
    pub(crate) command: Option<SimCommand>,
    /// Run all seeds from A up to, not including, B.
    #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
    pub(crate) seeds: Option<Range<u64>>,
    /// Run one seed.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Print one line per event of the seed.
    #[arg(long, requires = "seed")]
    pub(crate) trace: bool,
    /// Look for a smaller plan that fails the same check; with --trace, print its
    /// events.
    #[arg(long, requires = "seed")]
    pub(crate) minimize: bool,
    /// Threads [default: one per core].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub(crate) threads: Option<u16>,
    /// Begin no more seeds after so many have failed.
    #[arg(long, value_name = "COUNT", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) failures: u32,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `synod sim ...`.
#[derive(Subcommand, Debug)]
pub(crate) enum SimCommand {
    /// Put known mistakes into the nodes, one at a time: each must be found.
    Planted(Planted),
    /// Carry out the plans of standard input: what the other commands start.
    #[command(hide = true)]
    Worker,
}

/// `synod sim planted`.
#[derive(Args, Debug)]
pub(crate) struct Planted {
    /// Search for this mistake only, by its name in the table; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) bug: Vec<String>,
    /// The first seed.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) first: u64,
    /// A mistake that so many seeds do not find is missed.
    #[arg(long, value_name = "COUNT", default_value_t = 2_000,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seeds_max: u32,
    /// Threads [default: one per core].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub(crate) threads: Option<u16>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let range = text.split_once("..").and_then(|(first, end)| {
        let (first, end) = (first.parse().ok()?, end.parse().ok()?);
        (first < end).then_some(first..end)
    });
    range.ok_or_else(|| "expected two numbers, the lower one first, as in 0..1000".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn endpoints_are_split_at_commas() {
        let arguments =
            Arguments::try_parse_from(["synod", "get", "k", "--endpoints", "http://a,http://b"]);
        let Command::Get(get) = arguments.expect("parses").command else {
            panic!("not a get");
        };
        assert_eq!(get.reach.endpoints, ["http://a", "http://b"]);
    }

    #[test]
    fn seeds_are_a_range() {
        let parse = |seeds| Arguments::try_parse_from(["synod", "sim", "--seeds", seeds]);
        let Command::Sim(sim) = parse("5..9").expect("parses").command else {
            panic!("not a sim");
        };
        assert_eq!(sim.seeds, Some(5..9));
        for wrong in ["9..5", "5", "a..b", "5..5"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(Arguments::try_parse_from(["synod", "sim", "--trace"]).is_err());
        let planted = ["synod", "sim", "planted", "--seeds-max", "5"];
        assert!(Arguments::try_parse_from(planted).is_ok());
        assert!(Arguments::try_parse_from(["synod", "sim"]).is_err());
    }

    #[test]
    fn a_cluster_of_no_nodes_is_refused() {
        assert!(Arguments::try_parse_from(["synod", "cluster", "--nodes", "0"]).is_err());
    }
}
