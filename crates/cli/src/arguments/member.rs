//! The grammar of `synod member`.

use clap::{ArgGroup, Args, Subcommand};

use super::calls::Reach;
use super::node::ConfigFile;

/// `synod member`.
#[derive(Subcommand, Debug)]
pub(crate) enum Member {
    /// List the members.
    List(Reach),
    /// Make the data folder of a new node and tell the cluster of it: run this on the
    /// new machine. The node learns and does not vote until it is promoted.
    Add(AddMember),
    /// Let a member vote. Before it has caught up, this wants --force.
    Promote(ChangeMember),
    /// Take a member out of the cluster, for good. When it worked and another one that
    /// stays does not, or when after it no node may fail any more, this wants --force.
    Remove(ChangeMember),
    /// Put a new node in the place of a voter, dead or alive: run this on the new
    /// machine. It adds the node, waits until it has caught up and nothing is risky about
    /// it, and swaps the two.
    Replace(ReplaceMember),
    /// Tell the cluster where a member is reached from now on, best before it moves. Until it
    /// answers there the others reach it where it was. When it is the leader that has moved
    /// already, name with --endpoints where all nodes are now.
    Move(MoveMember),
    /// Set how many nodes make a quorum. Fewer acceptances make writes quicker and put what was
    /// acknowledged on fewer disks; more promises let fewer nodes be down when a leader is
    /// elected. When after it no node may fail any more, this wants --force.
    Quorums(Quorums),
}

/// `synod member add`.
#[derive(Args, Debug)]
pub(crate) struct AddMember {
    /// The new node's settings; its own addresses stand in [[members]].
    #[command(flatten)]
    pub(crate) settings: ConfigFile,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod member promote` and `synod member remove`.
#[derive(Args, Debug)]
pub(crate) struct ChangeMember {
    /// The member.
    #[arg(value_name = "ID")]
    pub(crate) id: u32,
    /// Also when it is risky, as the refusal says. What would stop the cluster is refused
    /// all the same.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod member replace`.
#[derive(Args, Debug)]
pub(crate) struct ReplaceMember {
    /// The voter that goes.
    #[arg(value_name = "OLD")]
    pub(crate) old: u32,
    /// The new node's settings; its own addresses stand in [[members]].
    #[command(flatten)]
    pub(crate) settings: ConfigFile,
    /// How long to wait until the new node has caught up, in seconds.
    #[arg(long, value_name = "S", default_value_t = 3_600,
          value_parser = clap::value_parser!(u64).range(0..=604_800))]
    pub(crate) wait_s: u64,
    /// Swap at once, before the new node has caught up and whatever else is risky. What
    /// would stop the cluster is waited for all the same.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod member move`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("where").required(true).multiple(true)
          .args(["peer", "client_url"]))]
pub(crate) struct MoveMember {
    /// The member.
    #[arg(value_name = "ID")]
    pub(crate) id: u32,
    /// The host and port at which its peers reach it [default: as before].
    #[arg(long, value_name = "ADDR")]
    pub(crate) peer: Option<String>,
    /// The base URL at which clients reach it [default: as before].
    #[arg(long, value_name = "URL")]
    pub(crate) client_url: Option<String>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// `synod member quorums`.
#[derive(Args, Debug)]
pub(crate) struct Quorums {
    /// Promises that make a leader: so many voters must be up when it is elected. Both together
    /// must be more than the voters.
    #[arg(long, value_name = "COUNT")]
    pub(crate) promise: u32,
    /// Acceptances that choose a value: so many disks have it before it is acknowledged.
    #[arg(long, value_name = "COUNT")]
    pub(crate) accept: u32,
    /// Also when it is risky, as the refusal says.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}
