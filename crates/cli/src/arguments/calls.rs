//! The grammar of what a running cluster is asked for.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::holding::time;

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
    /// The key lives as long as this lease.
    #[arg(long, value_name = "ID", conflicts_with = "ttl",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) lease: Option<u64>,
    /// The key lives so long, such as 30s: under a lease of its own, which --json tells.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) ttl: Option<Duration>,
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
    /// The value that the key had at this revision.
    #[arg(long)]
    pub(crate) revision: Option<u64>,
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
    /// The keys as they were at this revision [default: the newest].
    #[arg(long)]
    pub(crate) revision: Option<u64>,
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
