//! The grammar of what is done with many keys at once.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::calls::{Named, Reach};

/// Which keys.
#[derive(Args, Debug, Clone)]
pub(crate) struct KeyRange {
    /// Only keys that begin with this.
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    pub(crate) prefix: OsString,
    /// The first key.
    #[arg(long, value_name = "KEY")]
    pub(crate) start: Option<OsString>,
    /// The first key that is too much.
    #[arg(long, value_name = "KEY")]
    pub(crate) end: Option<OsString>,
}

/// `synod txn`.
#[derive(Args, Debug)]
pub(crate) struct Txn {
    /// The transaction as JSON, as POST /v1/txn takes it; `-` reads it from standard input.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) named: Named,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod batch`.
#[derive(Args, Debug)]
pub(crate) struct Batch {
    /// One put or delete as JSON a line, as POST /v1/batch takes it; `-` reads standard input.
    #[arg(default_value = "-", hide_default_value = true)]
    pub(crate) file: PathBuf,
    /// Send lines again whose connection broke. Such a line may have effect twice, and late:
    /// only for lines that each write a key of their own.
    #[arg(long)]
    pub(crate) resend: bool,
    /// Print nothing of lines that were carried out.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod compact`.
#[derive(Args, Debug)]
pub(crate) struct Compact {
    /// The oldest revision that shall stay readable.
    pub(crate) revision: u64,
    #[command(flatten)]
    pub(crate) named: Named,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod export`.
#[derive(Args, Debug)]
pub(crate) struct Export {
    /// The file to be made; `-` writes to standard output.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) range: KeyRange,
    /// The keys as they were at this revision [default: the newest].
    #[arg(long)]
    pub(crate) revision: Option<u64>,
    /// Replace the file if it exists; not before the new one is whole.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod import`.
#[derive(Args, Debug)]
pub(crate) struct Import {
    /// What `synod export` wrote; `-` reads it from standard input.
    pub(crate) file: PathBuf,
    /// Only check that it is whole.
    #[arg(long)]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod completions`.
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_parser = shell())]
    pub(crate) shell: Shell,
}

/// Those that are tried.
fn shell() -> impl clap::builder::TypedValueParser<Value = Shell> {
    use clap::builder::TypedValueParser;
    clap::builder::PossibleValuesParser::new(["bash", "zsh", "fish"])
        .try_map(|name| name.parse::<Shell>())
}
