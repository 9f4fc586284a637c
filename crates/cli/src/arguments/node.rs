//! The grammar of what is done on the machine of one node.

use std::path::PathBuf;

use clap::Args;

/// A settings file.
#[derive(Args, Debug)]
pub(crate) struct ConfigFile {
    /// The node's settings (TOML); config/ holds commented examples.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

/// `synod init`.
#[derive(Args, Debug)]
pub(crate) struct Init {
    #[command(flatten)]
    pub(crate) settings: ConfigFile,
    /// Found a cluster of this node alone, though its id is not 1.
    #[arg(long)]
    pub(crate) alone: bool,
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
    /// Make a cluster of this node alone, though its id is not 1.
    #[arg(long)]
    pub(crate) alone: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
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
