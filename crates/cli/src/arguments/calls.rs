//! The grammar of what a running cluster is asked for.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use synod_client::WriteOptions;

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

/// How new what is read must be.
#[derive(Args, Debug, Clone, Copy)]
pub(crate) struct Fresh {
    /// Read what the node has, which may be old.
    #[arg(long)]
    pub(crate) stale: bool,
    /// Wait until the node has this revision, such as that of a write of yours.
    #[arg(long, value_name = "REVISION")]
    pub(crate) min_revision: Option<u64>,
}

/// How a write is named.
#[derive(Args, Debug, Clone)]
pub(crate) struct Named {
    /// Its name: asked for again under it within ten minutes, the same write is carried out once
    /// and tells its first outcome [default: a new one].
    #[arg(long, value_name = "KEY", value_parser = write_name)]
    pub(crate) idempotency_key: Option<String>,
}

impl Named {
    /// How such a write is sent.
    pub(crate) fn options(&self) -> WriteOptions {
        let idempotency_key = self.idempotency_key.clone();
        WriteOptions { idempotency_key, ..WriteOptions::default() }
    }
}

/// `synod put`.
#[derive(Args, Debug)]
pub(crate) struct Put {
    /// The key.
    pub(crate) key: OsString,
    /// The value; `-` or nothing reads it from standard input.
    pub(crate) value: Option<OsString>,
    /// The value is the content of this file.
    #[arg(long, conflicts_with = "value")]
    pub(crate) file: Option<PathBuf>,
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
    /// Show the record that was replaced.
    #[arg(long, visible_alias = "prev")]
    pub(crate) previous: bool,
    #[command(flatten)]
    pub(crate) named: Named,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod get`.
#[derive(Args, Debug)]
pub(crate) struct Get {
    /// The key.
    pub(crate) key: OsString,
    #[command(flatten)]
    pub(crate) fresh: Fresh,
    /// The value that the key had at this revision.
    #[arg(long)]
    pub(crate) revision: Option<u64>,
    /// Write the value to this file instead of standard output.
    #[arg(long, conflicts_with = "json")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod delete`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("which").required(true).args(["key", "prefix", "all"]))]
pub(crate) struct Delete {
    /// The key.
    pub(crate) key: Option<OsString>,
    /// Every key that begins with this. Beyond 10,000 keys others may see it half done.
    #[arg(long, value_name = "KEY")]
    pub(crate) prefix: Option<OsString>,
    /// Every key there is.
    #[arg(long)]
    pub(crate) all: bool,
    /// Only if the key was last changed at this revision.
    #[arg(long, value_name = "REVISION", conflicts_with_all = ["prefix", "all"])]
    pub(crate) if_revision: Option<u64>,
    /// Show the record that was removed.
    #[arg(long, visible_alias = "prev", conflicts_with_all = ["prefix", "all"])]
    pub(crate) previous: bool,
    #[command(flatten)]
    pub(crate) named: Named,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod list`.
#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only keys that begin with this.
    pub(crate) prefix: Option<OsString>,
    /// The same.
    #[arg(long = "prefix", value_name = "KEY", conflicts_with = "prefix")]
    pub(crate) prefix_named: Option<OsString>,
    /// The first key.
    #[arg(long, value_name = "KEY")]
    pub(crate) start: Option<OsString>,
    /// The first key that is too much.
    #[arg(long, value_name = "KEY")]
    pub(crate) end: Option<OsString>,
    /// Highest key first.
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Leave the values out.
    #[arg(long)]
    pub(crate) keys_only: bool,
    /// Print at most this many keys [default: 1000; with --ndjson all].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    #[command(flatten)]
    pub(crate) fresh: Fresh,
    /// The keys as they were at this revision [default: the newest].
    #[arg(long)]
    pub(crate) revision: Option<u64>,
    /// Print a JSON document a line as the keys come, in little memory, all at one revision.
    #[arg(long, conflicts_with = "json")]
    pub(crate) ndjson: bool,
    /// Only print how many keys there are.
    #[arg(long, conflicts_with_all = ["ndjson", "limit", "reverse", "keys_only"])]
    pub(crate) count: bool,
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

/// A name as the cluster takes it.
fn write_name(text: &str) -> Result<String, String> {
    let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    match is_visible && (1..=255).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err("a name is 1 to 255 visible ASCII characters without spaces".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_visible() {
        let longest = "x".repeat(255);
        assert_eq!(write_name(&longest), Ok(longest.clone()));
        for wrong in ["", "a b", "\u{e9}", "a\n", &format!("{longest}x")] {
            assert!(write_name(wrong).is_err(), "{wrong}");
        }
    }
}
