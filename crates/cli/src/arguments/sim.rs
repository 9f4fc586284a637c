//! The grammar of `synod sim`.

use std::ops::Range;

use clap::{ArgGroup, Args, Subcommand};

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
