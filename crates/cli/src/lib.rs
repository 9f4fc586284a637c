//! The `synod` command: its subcommands, the local cluster runner and the output
//! for people.
//!
//! This crate never takes part in the protocol. What a node does is in
//! `synod-node`, how a cluster is talked to in `synod-client`, and how it is
//! measured in `synod-bench`, and how it is simulated in `synod-sim`.

mod arena;
mod arguments;
mod backup;
mod batch;
mod bench;
mod chaos;
mod cluster;
mod compact;
mod completions;
mod elect;
mod endpoints;
mod export;
mod export_format;
mod failure;
mod follower;
mod hold;
mod import;
mod input;
mod inspect;
mod interrupt;
mod keys;
mod lease;
mod list;
mod lock;
mod member;
mod output;
mod partial;
mod planted;
mod progress;
mod recover;
mod roll_call;
mod scratch;
mod serve;
mod sim;
mod small_disk;
mod status;
mod talk;
mod transfer;
mod txn;
mod watch;
mod workers;

use std::process::ExitCode;

use crate::arguments::Command;
use crate::failure::Failure;

/// Runs the command line of this process. The exit code is 0 when it did what
/// it was asked, 1 when it failed, 2 for wrong usage or settings, 3 when the cluster's
/// answer is no, and 4 when this node was removed from its cluster.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = run(&arguments::parse().command);
    interrupt::stay_for_the_end();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::warn(&format!("synod: {failure}"));
            failure.exit_code()
        }
    }
}

fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Init(arguments) => serve::init_by_hand(arguments),
        Command::Serve(arguments) => serve::serve(arguments),
        Command::Cluster(arguments) => cluster::run(arguments),
        Command::Put(arguments) => keys::put(arguments),
        Command::Get(arguments) => keys::get(arguments),
        Command::Delete(arguments) => keys::delete(arguments),
        Command::Watch(arguments) => watch::run(arguments),
        Command::Lease(arguments) => lease::run(arguments),
        Command::Lock(arguments) => lock::run(arguments),
        Command::Elect(arguments) => elect::run(arguments),
        Command::List(arguments) => list::run(arguments),
        Command::Txn(arguments) => txn::run(arguments),
        Command::Batch(arguments) => batch::run(arguments),
        Command::Compact(arguments) => compact::run(arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Import(arguments) => import::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Member(arguments) => member::run(arguments),
        Command::Transfer(arguments) => transfer::run(arguments),
        Command::Backup(arguments) => backup::backup(arguments),
        Command::Restore(arguments) => backup::restore(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Recover(arguments) => recover::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Chaos(arguments) => chaos::run(arguments),
        Command::Sim(arguments) => sim::run(arguments),
        Command::Completions(arguments) => completions::run(arguments),
        Command::Follow(arguments) => follower::run(arguments),
    }
}
