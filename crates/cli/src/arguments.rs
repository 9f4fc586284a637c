//! The grammar of the command line.

mod bench;
mod calls;
mod chaos;
mod cluster;
mod data;
mod examples;
mod holding;
mod member;
mod node;
mod sim;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub(crate) use bench::{Arena, Bench, BenchOutput, Compare, Failover, How, Throughput};
pub(crate) use calls::{Backup, Delete, Fresh, Get, List, Put, Reach, Transfer};
pub(crate) use chaos::{Chaos, FaultClass};
pub(crate) use cluster::{BASE_PORT_DEFAULT, Cluster, ClusterShape, DATA_DIR_DEFAULT};
pub(crate) use data::{Batch, Compact, Completions, Export, Import, KeyRange, Txn};
pub(crate) use holding::{
    Campaign, Claim, Elect, Follow, GrantLease, KeepLease, Lease, Lock, Observe, Resign,
    RevokeLease, ShowElected, ShowLease, Watch,
};
pub(crate) use member::{AddMember, ChangeMember, Member, MoveMember, Quorums, ReplaceMember};
pub(crate) use node::{Init, Inspect, Recover, Restore, Serve};
pub(crate) use sim::{Planted, Sim, SimCommand};

/// A replicated key-value store.
#[derive(Parser, Debug)]
#[command(
    name = "synod",
    version = version(),
    about,
    long_about = "A replicated key-value store: Multi-Paxos, HTTP in front, RocksDB behind.",
    after_help = "Exit codes: 0 done; 1 failed; 2 wrong usage or settings; \
                  3 no such key, a condition does not hold, or the cluster refuses; \
                  4 this node was removed from its cluster."
)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The grammar, with examples in its help.
pub(crate) fn grammar() -> clap::Command {
    examples::with_examples(Arguments::command())
}

/// Reads the command line of this process; a wrong one ends it.
pub(crate) fn parse() -> Arguments {
    let matches = grammar().get_matches();
    Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
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
    Init(Init),
    /// Run one node until SIGINT or SIGTERM.
    Serve(Serve),
    /// Run a local cluster as child processes, with a live table.
    Cluster(Cluster),
    /// Store a value.
    Put(Put),
    /// Print a value, as it is.
    Get(Get),
    /// Remove a key, or all that begin alike.
    Delete(Delete),
    /// List keys with their values.
    List(List),
    /// Print what happens to keys, as it happens.
    Watch(Watch),
    /// Take, keep and end leases, under which keys live.
    #[command(subcommand)]
    Lease(Lease),
    /// Run a command while nobody else does.
    Lock(Lock),
    /// Stand for an office that one at a time holds, and see who does.
    #[command(subcommand)]
    Elect(Elect),
    /// Carry out a transaction: compare, and do one thing or another.
    Txn(Txn),
    /// Carry out many puts and deletes.
    Batch(Batch),
    /// Forget old revisions.
    Compact(Compact),
    /// Write keys and values to a file, to be read by programs and by `synod import`.
    Export(Export),
    /// Store the keys and values of an export.
    Import(Import),
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
    /// Print what completes these commands in a shell.
    Completions(Completions),
    /// Become a command that is killed when the process of this number ends.
    #[command(hide = true)]
    Follow(Follow),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// A node logs, and its settings say whether in JSON; a local cluster describes itself in
    /// cluster.json; the rest is for a shell.
    const WITHOUT_JSON: [&str; 3] = ["serve", "cluster", "completions"];

    fn without_json(command: &clap::Command, found: &mut Vec<String>) {
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            let takes_json = below.get_arguments().any(|known| known.get_long() == Some("json"));
            if !takes_json && !below.is_subcommand_required_set() {
                found.push(below.get_name().to_owned());
            }
            without_json(below, found);
        }
    }

    #[test]
    fn every_command_that_tells_something_can_tell_it_to_programs() {
        let mut found = Vec::new();
        without_json(&Arguments::command(), &mut found);
        assert_eq!(found, WITHOUT_JSON);
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
