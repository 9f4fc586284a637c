//! The grammar of `synod cluster`.

use std::path::PathBuf;

use clap::Args;

/// Where a local cluster lives unless told otherwise.
pub(crate) const DATA_DIR_DEFAULT: &str = "synod-data";
/// The ports of a local cluster count from here unless told otherwise.
pub(crate) const BASE_PORT_DEFAULT: u16 = 7000;

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
    /// Start a node again when it dies, unless it was removed from the cluster.
    #[arg(long)]
    pub(crate) restart: bool,
    /// Print a line per change, even on a terminal.
    #[arg(long)]
    pub(crate) no_tty: bool,
}
