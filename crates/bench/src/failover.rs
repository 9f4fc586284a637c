//! What clients see when the leader goes: the load runs in a closed loop on
//! its own thread, this one takes the leader away again and again and brings
//! it back, and at the end every key is read back through every node.

mod acknowledgement;
mod check;
mod client;
mod control;
mod ledger;
mod plan;
mod result;
mod text;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{BenchError, NodeAddress, NodeId, Progress};
pub use acknowledgement::{Bucket, Silence};
pub use check::{CheckResult, Finding, FindingKind};
use client::Load;
pub use control::{ClusterControl, ControlError, FileControl};
pub use plan::{FailoverPlan, How};
pub use result::{FailoverResult, KillResult, Phase, Spread};
use result::{Kill, Run, assemble};

const POLL: Duration = Duration::from_millis(5);
/// How long a check while the load runs may take.
const CHECK_UNDER_LOAD_MAX: Duration = Duration::from_secs(10);
/// What one key may cost, on top of the patience, when all are read.
const READ_MAX: Duration = Duration::from_millis(5);

/// Takes the leader away as often as planned, under load.
///
/// # Errors
/// When the plan makes no sense, the cluster is not whole at the start or does
/// not become so after a kill, or it cannot be controlled. A write that was
/// lost is not an error but a result: see [`FailoverResult::problems`].
pub fn run(
    plan: &FailoverPlan,
    control: &mut dyn ClusterControl,
    progress: &Progress,
) -> Result<FailoverResult, BenchError> {
    plan.check()?;
    let nodes = control.nodes()?;
    if nodes.is_empty() {
        return Err(BenchError::option("--cluster", "has no nodes"));
    }
    progress.begin(u64::from(plan.kills) + 1);
    progress.say("waiting for the cluster");
    let mut conductor = Conductor { plan, control, progress, nodes: &nodes };
    for node in &nodes {
        conductor.wait_ready(node.id)?;
    }
    conductor.wait_leader(None)?;
    let sockets = nodes.iter().map(NodeAddress::socket).collect::<Result<Arc<[_]>, _>>()?;
    let outcome = conductor.conduct(sockets);
    progress.end();
    Ok(assemble(plan, &nodes, outcome?))
}

struct Conductor<'a> {
    plan: &'a FailoverPlan,
    control: &'a mut dyn ClusterControl,
    progress: &'a Progress,
    nodes: &'a [NodeAddress],
}

impl Conductor<'_> {
    fn conduct(&mut self, sockets: Arc<[SocketAddr]>) -> Result<Run, BenchError> {
        let ids = self.nodes.iter().map(|node| node.id).collect();
        let load = Arc::new(Load::new(self.plan.clone(), sockets, ids));
        let shared = Arc::clone(&load);
        let builder = thread::Builder::new().name("load".into());
        let generator = builder.spawn(move || client::generate(&shared))?;
        let disturbed = self.disturb(&load);
        // The load ends in any case, so that an error leaves no thread behind.
        load.stop();
        let end_us = load.at_us(Instant::now());
        join(generator)?;
        let (kills, mut check) = disturbed?;
        self.progress.say("reading everything back through every node");
        let everyone: Vec<_> =
            self.nodes.iter().enumerate().map(|(index, node)| (index, node.id)).collect();
        for (_, id) in &everyone {
            self.wait_ready(*id)?;
        }
        let keys: Arc<[_]> = load.ledger().keys_from(0).collect();
        let deadline = Instant::now() + self.plan.patience + READ_MAX * u32_of(keys.len());
        let last = check::read_back(&load, self.plan.protocol, &everyone, keys, deadline)?;
        let unchecked = last.unanswered;
        let checked_at_end = last.reads;
        check.absorb(last);
        check.absorb(load.take_answers());
        let log = load.take_log()?;
        Ok(Run { log, kills, end_us, check, checked_at_end, unchecked_at_end: unchecked })
    }

    fn disturb(&mut self, load: &Arc<Load>) -> Result<(Vec<Kill>, CheckResult), BenchError> {
        let mut random = fastrand::Rng::with_seed(self.plan.seed);
        let mut check = CheckResult::default();
        let mut kills = Vec::new();
        // Keys of before the last kill were read after that one, and are again
        // in the end.
        let mut frozen_before = 0;
        for number in 1..=self.plan.kills {
            self.settle(load, &mut random)?;
            let leader = self.wait_leader(None)?;
            self.progress.say(match self.plan.how {
                How::Kill => format!("kill {number}: node {leader} led and is killed"),
                How::Stop => format!("kill {number}: node {leader} led and is stopped"),
            });
            let mut kill = self.take_away(load, leader)?;
            let frozen = kill.keys_frozen;
            let survivors: Vec<_> = self
                .nodes
                .iter()
                .enumerate()
                .map(|(index, node)| (index, node.id))
                .filter(|(_, id)| *id != leader)
                .collect();
            let deadline = Instant::now() + CHECK_UNDER_LOAD_MAX.min(self.plan.patience);
            let keys = load.ledger().keys_from(frozen_before).collect();
            frozen_before = frozen;
            check.absorb(check::read_back(load, self.plan.protocol, &survivors, keys, deadline)?);
            self.progress.say(format!("kill {number}: bringing node {leader} back"));
            kill.ready_ms = self.bring_back(leader)?;
            kills.push(kill);
            self.progress.step_to(u64::from(number));
        }
        // The last node's return is part of what clients see.
        thread::sleep(self.plan.settle);
        Ok((kills, check))
    }

    /// Takes the leader away and watches until the window of this kill ends.
    fn take_away(&mut self, load: &Load, leader: NodeId) -> Result<Kill, BenchError> {
        let index = self.nodes.iter().position(|node| node.id == leader);
        let index = index.ok_or_else(|| ControlError(format!("node {leader} leads unlisted")))?;
        let index = u16::try_from(index).expect("nodes are few");
        let begin = Instant::now();
        match self.plan.how {
            How::Kill => self.control.kill(leader)?,
            How::Stop => self.control.stop(leader)?,
        }
        load.freeze();
        let keys_frozen = load.ledger().count();
        // A request that was sent while the signal was on its way may still
        // have met the living leader.
        let sent_after_us = load.at_us(Instant::now());
        let deadline = begin + self.plan.patience;
        while load.first_after(sent_after_us, index).is_none() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        let next_leader = self.wait_leader(Some(leader)).ok();
        let watched_until = begin + self.plan.observe;
        thread::sleep(watched_until.saturating_duration_since(Instant::now()));
        Ok(Kill {
            node: leader,
            index,
            at_us: load.at_us(begin),
            sent_after_us,
            end_us: load.at_us(Instant::now()),
            next_leader,
            keys_frozen,
            ready_ms: 0.0,
        })
    }

    fn bring_back(&mut self, node: NodeId) -> Result<f64, BenchError> {
        let begin = Instant::now();
        match self.plan.how {
            How::Kill => self.control.restart(node)?,
            How::Stop => self.control.cont(node)?,
        }
        self.wait_ready(node)?;
        Ok(begin.elapsed().as_secs_f64() * 1000.0)
    }

    /// Lets the load run undisturbed for a while, which is random so that the
    /// kills do not fall into step with anything periodic in the cluster.
    fn settle(&mut self, load: &Load, random: &mut fastrand::Rng) -> Result<(), BenchError> {
        let acknowledged = load.acknowledged();
        thread::sleep(self.plan.settle.mul_f64(1.0 + random.f64() / 2.0));
        let deadline = Instant::now() + self.plan.patience;
        while load.acknowledged() == acknowledged {
            if Instant::now() > deadline {
                let waited = format!("none within {} s", self.plan.patience.as_secs());
                return Err(BenchError::NothingAcknowledged { errors: waited });
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn wait_leader(&mut self, suspect: Option<NodeId>) -> Result<NodeId, BenchError> {
        let deadline = Instant::now() + self.plan.patience;
        loop {
            if let Some(leader) = self.control.leader(self.plan.protocol, suspect)? {
                return Ok(leader);
            }
            if Instant::now() > deadline {
                return Err(BenchError::NoLeader { waited_s: self.plan.patience.as_secs() });
            }
            thread::sleep(POLL);
        }
    }

    fn wait_ready(&mut self, node: NodeId) -> Result<(), BenchError> {
        let deadline = Instant::now() + self.plan.patience;
        while !self.control.ready(self.plan.protocol, node)? {
            if Instant::now() > deadline {
                let waited_s = self.plan.patience.as_secs();
                return Err(BenchError::NotReady { node, waited_s });
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

fn u32_of(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn join(generator: JoinHandle<Result<(), BenchError>>) -> Result<(), BenchError> {
    match generator.join() {
        Ok(ended) => ended,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
