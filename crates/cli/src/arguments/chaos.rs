//! The grammar of `synod chaos`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

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
    /// Another release of this program, whose nodes serve beside those of this one in the
    /// class `upgrade`.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) other_release: Option<PathBuf>,
    /// Draw from the seed how many nodes must promise a ballot and how many must accept a value, instead
    /// of majorities. Not with member, damage and drift: the only copy of a write may lie on one node.
    #[arg(long)]
    pub(crate) drawn_quorums: bool,
    /// Only these faults, with commas between them [default: all but disk, damage, drift and stall;
    /// upgrade only with --other-release].
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
    /// Another node leads; a new node takes the place of another; the cluster grows and shrinks;
    /// other quorums count for a while. Half of the time a node is killed or paused meanwhile.
    Member,
    /// Bytes of a node's files are flipped, or its data folder is emptied, put back from an older
    /// copy, or used by a second process as well. It must come back by itself, or be refused and replaced.
    Damage,
    /// A backup is made, mostly while a node is killed, paused or cut off, and another cluster of it. What
    /// that one holds is checked.
    Backup,
    /// All nodes are killed, and another cluster is made of what one of them has, as if the others were
    /// lost. What that one holds is checked. Not with damage.
    Recover,
    /// A node ends or is killed and goes on as the other release, or all do one by one; later back
    /// again. Half of the time a node is killed or paused meanwhile. Needs --other-release.
    Upgrade,
    /// The state of a node becomes another one that no checksum tells. When the nodes compare their states
    /// it must stop; then it takes over a peer's, or another node takes its place. Not with damage.
    Drift,
    /// No sync of a node's disk returns for a while, and none fails. Needs strace.
    Stall,
}
