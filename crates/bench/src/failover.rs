//! What clients see when the leader goes: the load runs in a closed loop on
//! its own thread, this one takes the leader away again and again and brings
//! it back, and at the end every key is read back through every node.

mod acknowledgement;
mod check;
mod client;
mod control;
mod finding;
mod ledger;
mod plan;
mod result;
mod text;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::leader::Leader;
use crate::process::is_paused;
use crate::{BenchError, NodeAddress, NodeId, Progress};
pub use acknowledgement::{Bucket, Silence};
use client::Load;
pub use control::{ClusterControl, ControlError, FileControl};
pub use finding::{CheckResult, Finding, FindingKind};
pub use plan::{FailoverPlan, How};
pub use result::{FailoverResult, KillResult, Phase, Spread};
use result::{Kill, Run, assemble};

const POLL: Duration = Duration::from_millis(5);
/// With fewer nobody can lead when the leader is gone.
const NODES_MIN: usize = 3;
/// How long a check while the load runs may take.
const CHECK_UNDER_LOAD_MAX: Duration = Duration::from_secs(10);
/// What one key may cost, on top of the patience, when all are read.
const READ_MAX: Duration = Duration::from_millis(5);
/// A busy machine stops all threads of a process within this.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Takes the leader away as often as planned, under load.
///
/// # Errors
/// When the plan makes no sense, or when something fails before the first
/// kill. What fails later ends the run early and stands in its result, like a
/// write that was lost: see [`FailoverResult::problems`].
pub fn run(
    plan: &FailoverPlan,
    control: &mut dyn ClusterControl,
    progress: &Progress,
) -> Result<FailoverResult, BenchError> {
    plan.check()?;
    let nodes = control.nodes()?;
    if nodes.len() < NODES_MIN {
        let reason = "must be at least 3: with fewer nobody can lead when the leader is gone";
        return Err(BenchError::option("--nodes", reason));
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

/// What was done so far, whatever ends it.
#[derive(Debug, Default)]
struct Done {
    kills: Vec<Kill>,
    check: CheckResult,
    /// Kills after which no read was answered while the load ran.
    unchecked_kills: usize,
}

impl Conductor<'_> {
    fn conduct(&mut self, sockets: Arc<[SocketAddr]>) -> Result<Run, BenchError> {
        let ids = self.nodes.iter().map(|node| node.id).collect();
        let load = Arc::new(Load::new(self.plan.clone(), sockets, ids));
        let shared = Arc::clone(&load);
        let builder = thread::Builder::new().name("load".into());
        let generator = builder.spawn(move || client::generate(&shared))?;
        let mut done = Done::default();
        let disturbed = self.disturb(&load, &mut done);
        // The load ends in any case, so that an error leaves no thread behind.
        load.stop();
        let end_us = load.at_us(Instant::now());
        join(generator)?;
        let mut ended_early = match disturbed {
            Ok(()) => None,
            // Nothing was found out yet that would be lost with the error.
            Err(error) if done.kills.is_empty() => return Err(error),
            Err(error) => Some(error.to_string()),
        };
        self.progress.say("reading everything back through every node");
        let readable = self.readable(&mut ended_early);
        let keys: Arc<[_]> = load.ledger().keys_from(0).collect();
        let keys_count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        let deadline = Instant::now() + self.plan.patience + READ_MAX * keys_count;
        let last = check::read_back(&load, self.plan.protocol, &readable, keys, deadline)?;
        let (checked_at_end, unchecked_at_end) = (last.reads, last.unanswered);
        let Done { kills, mut check, unchecked_kills } = done;
        check.absorb(last);
        check.absorb(load.take_answers());
        let log = load.take_log();
        Ok(Run {
            log,
            kills,
            end_us,
            check,
            unchecked_kills,
            checked_at_end,
            unchecked_at_end,
            ended_early,
        })
    }

    fn disturb(&mut self, load: &Arc<Load>, done: &mut Done) -> Result<(), BenchError> {
        let mut random = fastrand::Rng::with_seed(self.plan.seed);
        // Keys of before the last kill were read after that one, and are again
        // in the end.
        let mut frozen_before = 0;
        for number in 1..=self.plan.kills {
            self.settle(load, &mut random)?;
            let leader = self.wait_leader(None)?;
            let node = leader.node;
            self.progress.say(match self.plan.how {
                How::Kill => format!("kill {number}: node {node} led and is killed"),
                How::Stop => format!("kill {number}: node {node} led and is stopped"),
            });
            let kill = self.take_away(load, leader)?;
            let frozen = kill.keys_frozen;
            done.kills.push(kill);
            let check = self.check_under_load(load, node, frozen_before)?;
            frozen_before = frozen;
            done.unchecked_kills += usize::from(check.reads == 0);
            done.check.absorb(check);
            self.progress.say(format!("kill {number}: bringing node {node} back"));
            let ready_ms = self.bring_back(node)?;
            done.kills.last_mut().expect("it was added above").ready_ms = ready_ms;
            self.progress.step_to(u64::from(number));
        }
        // The last node's return is part of what clients see.
        thread::sleep(self.plan.settle);
        load.refuse_full()
    }

    /// Takes the leader away and watches until the window of this kill ends.
    fn take_away(&mut self, load: &Load, leader: Leader) -> Result<Kill, BenchError> {
        let node = leader.node;
        let index = self.nodes.iter().position(|known| known.id == node);
        let index = index.ok_or_else(|| ControlError(format!("node {node} leads unlisted")))?;
        let index = u16::try_from(index).expect("nodes are few");
        let begin = Instant::now();
        match self.plan.how {
            How::Kill => self.control.kill(node)?,
            How::Stop => {
                self.control.stop(node)?;
                self.wait_paused(node)?;
            }
        }
        load.freeze();
        // A request that was sent while the signal was on its way may still
        // have met the living leader.
        let sent_after_us = load.at_us(Instant::now());
        let keys_frozen = load.ledger().count();
        let watched = self.watch(load, node, index, begin, sent_after_us);
        if watched.is_err() && self.plan.how == How::Stop {
            // The first error is the one to tell.
            let _ = self.control.cont(node);
        }
        Ok(Kill {
            leader,
            index,
            at_us: load.at_us(begin),
            sent_after_us,
            next_leader: watched?,
            end_us: load.at_us(Instant::now()),
            keys_frozen,
            ready_ms: None,
        })
    }

    /// Waits for the first acknowledgement after a kill, for another leader and
    /// for the end of the kill's window. None led if none said so in time.
    fn watch(
        &mut self,
        load: &Load,
        node: NodeId,
        index: u16,
        begin: Instant,
        sent_after_us: u64,
    ) -> Result<Option<Leader>, BenchError> {
        let deadline = begin + self.plan.patience;
        while load.first_after(sent_after_us, index).is_none() && Instant::now() < deadline {
            load.refuse_full()?;
            thread::sleep(POLL);
        }
        let next_leader = match self.wait_leader(Some(node)) {
            Ok(leader) => Some(leader),
            Err(BenchError::NoLeader { .. }) => None,
            Err(error) => return Err(error),
        };
        let watched_until = begin + self.plan.observe;
        thread::sleep(watched_until.saturating_duration_since(Instant::now()));
        Ok(next_leader)
    }

    /// The signal is only on its way when it is sent: the leader goes on until
    /// one of its threads takes it.
    fn wait_paused(&mut self, node: NodeId) -> Result<(), BenchError> {
        let nodes = self.control.nodes()?;
        let pid = nodes.iter().find(|known| known.id == node).and_then(|known| known.pid);
        let deadline = Instant::now() + PAUSE_MAX;
        while pid.is_some_and(|pid| !is_paused(pid)) && Instant::now() < deadline {
            thread::yield_now();
        }
        Ok(())
    }

    fn check_under_load(
        &self,
        load: &Arc<Load>,
        gone: NodeId,
        first_key: usize,
    ) -> Result<CheckResult, BenchError> {
        let survivors: Vec<_> = self.places().filter(|(_, id)| *id != gone).collect();
        let keys = load.ledger().keys_from(first_key).collect();
        let deadline = Instant::now() + CHECK_UNDER_LOAD_MAX.min(self.plan.patience);
        check::read_back(load, self.plan.protocol, &survivors, keys, deadline)
    }

    /// The nodes through which everything can be read. When one of them does
    /// not get ready the others must do; the run counts as ended early then.
    fn readable(&mut self, ended_early: &mut Option<String>) -> Vec<(usize, NodeId)> {
        let mut readable = Vec::new();
        for (index, node) in self.places().collect::<Vec<_>>() {
            let ready = if ended_early.is_some() {
                // The patience was spent before.
                self.control.ready(self.plan.protocol, node).unwrap_or(false)
            } else {
                let waited = self.wait_ready(node);
                *ended_early = waited.as_ref().err().map(ToString::to_string);
                waited.is_ok()
            };
            if ready {
                readable.push((index, node));
            }
        }
        readable
    }

    /// Each node's index and id.
    fn places(&self) -> impl Iterator<Item = (usize, NodeId)> + use<'_> {
        self.nodes.iter().enumerate().map(|(index, node)| (index, node.id))
    }

    /// Has a node come back; says how long a restart took, in milliseconds,
    /// where that is ours to say.
    fn bring_back(&mut self, node: NodeId) -> Result<Option<f64>, BenchError> {
        let begin = Instant::now();
        match self.plan.how {
            How::Kill => self.control.restart(node)?,
            How::Stop => self.control.cont(node)?,
        }
        self.wait_ready(node)?;
        // A node that was stopped believes it is ready from the first moment.
        let ours = self.plan.how == How::Kill && self.control.restarts_nodes();
        Ok(ours.then(|| begin.elapsed().as_secs_f64() * 1000.0))
    }

    /// Lets the load run undisturbed for a while, which is random so that the
    /// kills do not fall into step with anything periodic in the cluster.
    fn settle(&mut self, load: &Load, random: &mut fastrand::Rng) -> Result<(), BenchError> {
        let acknowledged = load.acknowledged();
        thread::sleep(self.plan.settle.mul_f64(1.0 + random.f64() / 2.0));
        let deadline = Instant::now() + self.plan.patience;
        while load.acknowledged() == acknowledged {
            load.refuse_full()?;
            if Instant::now() > deadline {
                let waited_s = self.plan.patience.as_secs();
                return Err(match acknowledged {
                    0 => {
                        let errors = format!("none within {waited_s} s");
                        BenchError::NothingAcknowledged { errors }
                    }
                    _ => BenchError::Stalled { waited_s },
                });
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn wait_leader(&mut self, suspect: Option<NodeId>) -> Result<Leader, BenchError> {
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

fn join(generator: JoinHandle<Result<(), BenchError>>) -> Result<(), BenchError> {
    match generator.join() {
        Ok(ended) => ended,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
