//! The grammar of what lasts: watches, leases, locks and elections.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};

use super::calls::{Named, Reach};
use super::data::KeyRange;

const WATCH_EXAMPLES: &str = "Examples:
  synod watch greeting
      each change of a key from now on, until Ctrl-C
  synod watch --prefix jobs/ --from 1 --previous
      every change of these keys from the first on, with what was before
  synod watch --start a --end b
      the changes in a range of keys, from now on
  synod watch --prefix '' --json --count 10
      the next ten changes of any keys, a JSON document a line";

/// `synod watch`.
#[derive(Args, Debug)]
#[command(after_help = WATCH_EXAMPLES)]
#[command(group = ArgGroup::new("watched").required(true).multiple(true)
          .args(["key", "prefix", "start", "end"]))]
pub(crate) struct Watch {
    /// The key.
    #[arg(conflicts_with_all = ["prefix", "start", "end"])]
    pub(crate) key: Option<OsString>,
    #[command(flatten)]
    pub(crate) range: KeyRange,
    /// The first revision to be told [default: what happens from now on].
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) from: Option<u64>,
    /// Say what was before, too.
    #[arg(long)]
    pub(crate) previous: bool,
    /// End after so many changes.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod lease`.
#[derive(Subcommand, Debug)]
pub(crate) enum Lease {
    /// Take a lease, under which keys can be put: they go when it ends.
    #[command(after_help = "Examples:
  synod lease grant 30s
      prints its id
  synod put alive yes --lease $(synod lease grant 30s)
      a key that goes away in half a minute, unless somebody keeps the lease")]
    Grant(GrantLease),
    /// Keep a lease alive until Ctrl-C.
    #[command(after_help = "Examples:
  synod lease keep 7
      until Ctrl-C, or until it is over: then with exit code 3
  synod lease keep 7 --once
      renews it once")]
    Keep(KeepLease),
    /// End a lease, and remove its keys.
    #[command(after_help = "Examples:
  synod lease revoke 7")]
    Revoke(RevokeLease),
    /// List all leases.
    #[command(after_help = "Examples:
  synod lease list --json")]
    List(Reach),
    /// Show a lease and its keys.
    #[command(after_help = "Examples:
  synod lease show 7")]
    Show(ShowLease),
}

/// `synod lease grant`.
#[derive(Args, Debug)]
pub(crate) struct GrantLease {
    /// How long it lives without being renewed, such as 30s or 1500ms.
    #[arg(value_parser = time)]
    pub(crate) ttl: Duration,
    /// Its id, below 2^52 [default: one of its own from there on].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) id: Option<u64>,
    #[command(flatten)]
    pub(crate) named: Named,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod lease keep`.
#[derive(Args, Debug)]
pub(crate) struct KeepLease {
    /// The lease.
    pub(crate) id: u64,
    /// Renew it once, and end.
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod lease revoke`.
#[derive(Args, Debug)]
pub(crate) struct RevokeLease {
    /// The lease.
    pub(crate) id: u64,
    #[command(flatten)]
    pub(crate) named: Named,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod lease show`.
#[derive(Args, Debug)]
pub(crate) struct ShowLease {
    /// The lease.
    pub(crate) id: u64,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// How something is claimed.
#[derive(Args, Debug, Clone, Copy)]
pub(crate) struct Claim {
    /// How long it stays taken when this process dies.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(crate) ttl: Duration,
    /// How long to wait for it; 0s: not at all [default: as long as it takes].
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) wait: Option<Duration>,
}

const LOCK_HELP: &str = "The command finds SYNOD_LOCK_TOKEN, which is higher than that of every \
holder before, in its environment. If nobody confirms the lock any more the command gets SIGTERM \
two seconds before it is lost (a fifth of --ttl if that is less), and SIGKILL before another can \
have it; if somebody let the lock go, at once and as much later. Processes that the command left \
behind are not ended.

SIGTERM is passed on to the command, which has the lock until it ends, and so is SIGHUP, unless \
nohup has it ignored. If `synod lock` is killed by SIGKILL the kernel kills the command, too (not \
one that changes its user, as sudo does), and the lock is free when --ttl is over.

Exit codes: that of the command (128 and the signal's number if one ended it); 1 if the lock was \
lost, also before the command ran; 3 if it did not come free in time; 126 or 127 if the command can't be run.

Examples:
  synod lock backup -- ./backup.sh
      waits until nobody else runs it
  synod lock backup --wait 0s -- ./backup.sh
      only if nobody else does
  synod lock backup --ttl 30s -- sh -c 'upload --fence $SYNOD_LOCK_TOKEN'
      the token goes to whatever the lock guards
  synod lock backup --show
      who holds it
  synod lock backup --release --token 17
      lets it go that was taken with this token, whoever holds it";

/// `synod lock`.
#[derive(Args, Debug)]
#[command(after_help = LOCK_HELP)]
#[command(group = ArgGroup::new("doing").required(true).args(["show", "release", "command"]))]
pub(crate) struct Lock {
    /// The name of the lock.
    pub(crate) name: OsString,
    #[command(flatten)]
    pub(crate) claim: Claim,
    /// Only say who holds it.
    #[arg(long)]
    pub(crate) show: bool,
    /// Only let it go, whoever holds it, if it was taken with this token.
    #[arg(long, requires = "token")]
    pub(crate) release: bool,
    /// The token that came with it; --show says it.
    #[arg(long, requires = "release")]
    pub(crate) token: Option<u64>,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// What to run while it is held.
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

/// `synod follow`, which `synod lock` starts.
#[derive(Args, Debug)]
pub(crate) struct Follow {
    /// The process that starts it.
    pub(crate) parent: i32,
    /// What it becomes.
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

/// `synod elect`.
#[derive(Subcommand, Debug)]
pub(crate) enum Elect {
    /// Stand for an office, and hold it until Ctrl-C or the end of a command.
    #[command(
        after_help = "The command finds SYNOD_LOCK_TOKEN in its environment; see `synod lock --help`.

Examples:
  synod elect campaign primary 10.0.0.7:8080
      waits until it is elected, and holds the office until Ctrl-C
  synod elect campaign primary 10.0.0.7:8080 -- ./serve.sh
      serves while it is elected
  synod elect campaign primary --file about.json
      the value is the content of a file"
    )]
    Campaign(Campaign),
    /// Say who is elected.
    #[command(after_help = "Examples:
  synod elect show primary")]
    Show(ShowElected),
    /// Say who is elected, whenever that changes.
    #[command(after_help = "Examples:
  synod elect observe primary")]
    Observe(Observe),
    /// Have whoever is elected with a token lay the office down.
    #[command(after_help = "Examples:
  synod elect resign primary --token 17")]
    Resign(Resign),
}

/// `synod elect campaign`.
#[derive(Args, Debug)]
pub(crate) struct Campaign {
    /// The name of the office.
    pub(crate) name: OsString,
    /// What others see of who is elected, such as an address; `-` reads it from standard input.
    #[arg(required_unless_present = "file")]
    pub(crate) value: Option<OsString>,
    /// The value is the content of this file.
    #[arg(long, conflicts_with = "value")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) claim: Claim,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// What to run while the office is held.
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

/// `synod elect show`.
#[derive(Args, Debug)]
pub(crate) struct ShowElected {
    /// The name of the office.
    pub(crate) name: OsString,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod elect observe`.
#[derive(Args, Debug)]
pub(crate) struct Observe {
    /// The name of the office.
    pub(crate) name: OsString,
    /// End after so many lines.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod elect resign`.
#[derive(Args, Debug)]
pub(crate) struct Resign {
    /// The name of the office.
    pub(crate) name: OsString,
    /// The token that came with it; `synod elect show` says it.
    #[arg(long)]
    pub(crate) token: u64,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// A time such as 1500ms, 30s, 5m, 12h or 7d.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(at);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("say a number and its unit: ms, s, m, h or d, such as 30s".to_owned()),
    };
    let ms = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    ms.map(Duration::from_millis).ok_or_else(|| "that is no such number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(time("1500ms"), Ok(Duration::from_millis(1_500)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(time("7d"), Ok(Duration::from_secs(604_800)));
        for wrong in ["", "5", "s", "-1s", "1.5s", "1 s", "99999999999999999999s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
