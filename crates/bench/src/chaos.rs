//! Whether a real cluster keeps its word while everything goes wrong: clients write
//! down what they ask for and what they are told, while nodes are killed, paused,
//! cut off from each other and left without room on their disks, while others take their
//! places or they go on as another release, and while their files decay. Backups are made
//! meanwhile, and clusters of these and of what a single node has. In the end everything is healed, and the history must be
//! linearizable, no acknowledged write may be missing, all nodes must have the same state,
//! watches must have been told everything once and in order, leases must have lived for
//! their time and not for ever, transactions must have changed both of their keys at once, and what was sent
//! again under an idempotency key must have had effect once.

mod backup;
mod caller;
mod check;
mod client;
mod contents;
mod control;
mod damage;
mod drift;
mod fault;
mod guests;
mod history;
mod leases;
mod links;
mod load;
mod member;
mod pairs;
mod quorums;
mod recover;
mod result;
mod retries;
mod rush;
mod stream;
mod transactions;
mod upgrade;
mod watches;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{BenchError, NodeAddress, NodeId, Progress, Protocol, probe};
use contents::Contents;
pub use control::{ChaosControl, Copied, Order, Release, Restored, Sentence, Told};
pub use fault::{Class, Kind};
use fault::{Fault, Nemesis};
use history::{End, Operation};
pub use leases::Leases;
pub use links::Links;
use load::Load;
pub use quorums::Quorums;
use result::worst_of;
pub use result::{ChaosResult, FaultResult, Operations};
pub use retries::Retries;
pub use transactions::Transactions;
pub use watches::Watches;

const POLL: Duration = Duration::from_millis(5);
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// With fewer, one fault leaves no majority.
const NODES_MIN: usize = 3;
/// A healed cluster acknowledges a write within this.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// How long anything is waited for that must come at last.
const PATIENCE: Duration = Duration::from_secs(60);

/// When no more faults begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// After so many.
    Faults(u32),
    /// After so long.
    Time(Duration),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChaosPlan {
    /// Clients at once.
    pub clients: usize,
    /// When it ends.
    pub extent: Extent,
    /// What faults and requests are drawn from.
    pub seed: u64,
    /// Which faults.
    pub classes: Vec<Class>,
    /// How many nodes make a quorum, if not a majority.
    pub quorums: Option<Quorums>,
    /// Where the history is written, as JSON lines.
    pub history: Option<PathBuf>,
}

/// Disturbs a cluster whose peers talk over `links`, and checks what its clients saw.
///
/// # Errors
/// When the plan makes no sense, or when something fails that is not the cluster's
/// fault. What the cluster does wrong is in the result.
pub fn run(
    plan: &ChaosPlan,
    control: &mut dyn ChaosControl,
    links: &Links,
    progress: &Progress,
) -> Result<ChaosResult, BenchError> {
    let nodes = control.nodes()?;
    if nodes.len() < NODES_MIN {
        return Err(BenchError::option("--nodes", "must be at least 3"));
    }
    if plan.classes.is_empty() {
        return Err(BenchError::option("--faults-only", "names no fault"));
    }
    progress.begin(match plan.extent {
        Extent::Faults(faults) => u64::from(faults),
        Extent::Time(time) => time.as_secs(),
    });
    let load = Arc::new(Load::new(sockets_of(&nodes)?, plan.clients, plan.seed));
    let mut run = Run {
        plan,
        control,
        links,
        progress,
        nodes,
        load,
        faults: Vec::new(),
        backups: Vec::new(),
        recovered: Vec::new(),
        came_by_state: 0,
        violations: Vec::new(),
        is_broken: false,
    };
    run.wait_ready()?;
    let result = run.conduct();
    progress.end();
    result
}

struct Run<'a> {
    plan: &'a ChaosPlan,
    control: &'a mut dyn ChaosControl,
    links: &'a Links,
    progress: &'a Progress,
    nodes: Vec<NodeAddress>,
    load: Arc<Load>,
    faults: Vec<FaultResult>,
    /// What each backup held.
    backups: Vec<Contents>,
    /// What was recovered from one node each time.
    recovered: Vec<Contents>,
    /// New nodes that got a state, and not all of the log.
    came_by_state: u64,
    violations: Vec<String>,
    /// Something did not come to its end, so nothing more is begun.
    is_broken: bool,
}

impl Run<'_> {
    fn conduct(mut self) -> Result<ChaosResult, BenchError> {
        let begin = Instant::now();
        let load = Arc::clone(&self.load);
        let builder = thread::Builder::new().name("load".into());
        let generator = builder.spawn(move || load::generate(&load))?;
        let guests = self.invite()?;
        let disturbed = self.disturb(begin);
        // The load ends in any case, so that an error leaves no thread behind.
        self.load.stop();
        if disturbed.is_err() {
            guests.goal.set(0);
        }
        join(generator)?;
        disturbed?;
        self.progress.say("reading every key through every node");
        let ready = self.wait_ready();
        self.blame(ready)?;
        let mut operations = self.load.take_log();
        let final_us = self.load.now_us();
        let keys: BTreeSet<u64> = operations.iter().map(|operation| operation.key).collect();
        self.check_backups(&keys, &mut operations);
        let unanswered = load::read_all(&self.load, &Vec::from_iter(keys))?;
        if unanswered > 0 {
            self.violations.push(format!("{unanswered} reads were not answered in the end"));
        }
        operations.extend(self.load.take_log());
        self.save(&operations)?;
        self.progress.say("waiting for the watches and the ends of leases");
        let told = self.ask_guests(guests, &operations)?;
        let nodes = self.nodes.clone();
        let equal_at_slot = self.compare_states(&nodes, "")?;
        self.progress.say("looking for an order of all operations");
        Ok(self.assemble(begin.elapsed(), &operations, final_us, equal_at_slot, told))
    }

    fn disturb(&mut self, begin: Instant) -> Result<(), BenchError> {
        self.wait_acknowledgement("the start")?;
        let mut nemesis = Nemesis::new(self.plan.seed, self.nodes.len(), &self.plan.classes);
        for number in 1_u32.. {
            let is_over = match self.plan.extent {
                Extent::Faults(faults) => number > faults,
                Extent::Time(time) => begin.elapsed() >= time,
            };
            if is_over {
                break;
            }
            self.suffer(nemesis.next())?;
            self.replace_sentenced()?;
            self.progress.step_to(match self.plan.extent {
                Extent::Faults(_) => u64::from(number),
                Extent::Time(_) => begin.elapsed().as_secs(),
            });
            if self.is_broken || self.has_fallen()? {
                break;
            }
        }
        Ok(())
    }

    /// One fault from its begin to the recovery after it.
    fn suffer(&mut self, mut fault: Fault) -> Result<(), BenchError> {
        thread::sleep(fault.calm);
        if fault.kind.meets_leader()
            && let Some(leader) = self.control.leader(Protocol::Synod, None)?
            && let Some(index) = self.nodes.iter().position(|node| node.id == leader.node)
        {
            // The leader is met first.
            fault.order.retain(|other| *other != index);
            fault.order.insert(0, index);
        }
        let met: Vec<NodeId> = fault.order[..fault.kind.victims(self.nodes.len())]
            .iter()
            .map(|index| self.nodes[*index].id)
            .collect();
        self.progress.say(format!("{}: {}", fault.kind, names(&met)));
        let at_s = seconds(self.load.now_us());
        let outcome = match fault.class {
            Class::Member => self.change_members(&fault, met[0])?,
            Class::Damage => self.damage(&fault, &met)?,
            Class::Backup => self.back_up(&fault, &met)?,
            Class::Recover => self.recover(&fault, &met)?,
            Class::Upgrade => self.change_release(&fault, &met)?,
            Class::Drift => self.drift(&fault, &met)?,
            _ => self.disturb_for_a_while(&fault, &met)?.to_owned(),
        };
        if self.is_broken {
            let nodes = met.iter().map(|node| node.0).collect();
            let Fault { class, kind, .. } = fault;
            let healed_s = seconds(self.load.now_us());
            let fault =
                FaultResult { class, kind, nodes, at_s, healed_s, recovered_ms: None, outcome };
            self.faults.push(fault);
            return Ok(());
        }
        let healed_s = seconds(self.load.now_us());
        let recovered_ms = self.wait_acknowledgement(&fault.kind.to_string())?;
        let nodes = met.iter().map(|node| node.0).collect();
        let Fault { class, kind, .. } = fault;
        let fault = FaultResult { class, kind, nodes, at_s, healed_s, recovered_ms, outcome };
        self.faults.push(fault);
        Ok(())
    }

    /// What is wrong for a while with nodes and directions that stay what they are.
    fn disturb_for_a_while(
        &mut self,
        fault: &Fault,
        met: &[NodeId],
    ) -> Result<&'static str, BenchError> {
        self.begin_fault(fault, met)?;
        thread::sleep(fault.lasts);
        self.end_fault(fault, met)?;
        Ok(match fault.class {
            Class::Kill => "started again",
            Class::Pause => "continued",
            Class::Disk => "there is room again",
            Class::Stall => "syncs return again",
            _ => "all directions work again",
        })
    }

    fn begin_fault(&mut self, fault: &Fault, met: &[NodeId]) -> Result<(), BenchError> {
        for node in met {
            match fault.class {
                Class::Kill => self.control.kill(*node)?,
                Class::Pause => self.control.stop(*node)?,
                Class::Disk => self.control.fill_disk(*node)?,
                Class::Stall => self.control.stall_disk(*node)?,
                _ => {}
            }
        }
        for (from, to) in fault.directions() {
            self.links.set(self.nodes[from].id, self.nodes[to].id, fault.flow);
        }
        Ok(())
    }

    fn end_fault(&mut self, fault: &Fault, met: &[NodeId]) -> Result<(), BenchError> {
        for node in met {
            match fault.class {
                Class::Kill => self.control.restart(*node)?,
                Class::Pause => self.control.cont(*node)?,
                Class::Disk => self.control.free_disk(*node)?,
                Class::Stall => self.control.resume_disk(*node)?,
                _ => {}
            }
        }
        self.links.open_all();
        Ok(())
    }

    /// The nodes may be others now: clients use these.
    fn learn_nodes(&mut self) -> Result<(), BenchError> {
        self.nodes = self.control.nodes()?;
        self.load.use_nodes(sockets_of(&self.nodes)?);
        Ok(())
    }

    /// Waits for the acknowledgement of a write called from now on; says how long it
    /// took, in milliseconds.
    fn wait_acknowledgement(&mut self, after: &str) -> Result<Option<f64>, BenchError> {
        let since_us = self.load.watch();
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(first_us) = self.load.first_acknowledgement() {
                let took = Duration::from_micros(first_us - since_us);
                if took > RECOVERY_MAX {
                    let took_s = took.as_secs_f64();
                    self.violations.push(format!(
                        "the first write after {after} was acknowledged after {took_s:.1} s"
                    ));
                }
                return Ok(Some(took.as_secs_f64() * 1000.0));
            }
            if self.has_fallen()? {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
        let waited_s = PATIENCE.as_secs();
        self.violations.push(format!("no write was acknowledged within {waited_s} s of {after}"));
        Ok(None)
    }

    /// A node that ended by itself has found something wrong, or is wrong.
    fn has_fallen(&mut self) -> Result<bool, BenchError> {
        let fallen = self.control.fallen()?;
        for (_, how) in &fallen {
            if !self.violations.contains(how) {
                self.violations.push(how.clone());
            }
        }
        Ok(!fallen.is_empty())
    }

    fn wait_ready(&mut self) -> Result<(), BenchError> {
        for node in self.nodes.clone() {
            self.wait_ready_of(node.id)?;
        }
        Ok(())
    }

    fn wait_ready_of(&mut self, node: NodeId) -> Result<(), BenchError> {
        let begin = Instant::now();
        while !self.control.ready(Protocol::Synod, node)? {
            if begin.elapsed() > PATIENCE {
                return Err(BenchError::NotReady { node, waited_s: PATIENCE.as_secs() });
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// A cluster that does not come back when all is healed is what was looked for.
    fn blame(&mut self, waited: Result<(), BenchError>) -> Result<(), BenchError> {
        match waited {
            Err(error @ (BenchError::NotReady { .. } | BenchError::Control(_))) => {
                let how = error.to_string();
                if !self.violations.contains(&how) {
                    self.violations.push(how);
                }
                Ok(())
            }
            other => other,
        }
    }

    /// Waits until all these nodes have applied the same slot; their states must be equal
    /// then.
    fn compare_states(
        &mut self,
        nodes: &[NodeAddress],
        whose: &str,
    ) -> Result<Option<u64>, BenchError> {
        let begin = Instant::now();
        let mut before = None;
        while begin.elapsed() < PATIENCE && !self.has_fallen()? {
            let state = |node: &NodeAddress| probe::state(node, PROBE_TIMEOUT);
            let states: Option<Vec<_>> = nodes.iter().map(state).collect();
            let slots = states.as_ref().map(|all| all.iter().map(|(slot, _)| *slot));
            let slot = slots.and_then(|mut slots| {
                let first = slots.next()?;
                slots.all(|slot| slot == first).then_some(first)
            });
            // Slot and hash are read one after the other: twice the same is both of
            // one moment.
            if let (Some(slot), Some(all), true) = (slot, &states, states == before) {
                if all.iter().any(|(_, hash)| *hash != all[0].1) {
                    self.violations
                        .push(format!("the states{whose} differ at slot {slot}: {all:?}"));
                }
                return Ok(Some(slot));
            }
            before = states;
            thread::sleep(POLL);
        }
        self.violations.push(format!("the nodes{whose} did not reach the same slot: {before:?}"));
        Ok(None)
    }

    fn save(&self, operations: &[Operation]) -> Result<(), BenchError> {
        let Some(path) = &self.plan.history else { return Ok(()) };
        let write = || {
            let mut file = BufWriter::new(File::create(path)?);
            history::write(operations, &mut file)?;
            file.flush()
        };
        write().map_err(|source| BenchError::File { path: path.clone(), source })
    }

    fn assemble(
        mut self,
        took: Duration,
        operations: &[Operation],
        final_us: u64,
        equal_at_slot: Option<u64>,
        (watches, leases, transactions): (Watches, Leases, Transactions),
    ) -> ChaosResult {
        let findings = check::check(operations, final_us);
        self.violations.extend(findings.violations);
        if transactions.changed + transactions.seen == 0 {
            self.violations.push("no transaction was answered, so none was checked".to_owned());
        }
        let retries = *self.load.retries();
        if retries.mismatched > 0 {
            let mismatched = retries.mismatched;
            self.violations.push(format!(
                "{mismatched} attempts were told that their key was used for another request"
            ));
        }
        let ended = |end: End| operations.iter().filter(|one| one.end == end).count() as u64;
        let (failed, unknown) = (ended(End::Failed), ended(End::Unknown));
        let ok = operations.len() as u64 - failed - unknown;
        let passed = self.violations.is_empty();
        ChaosResult {
            seed: self.plan.seed,
            nodes: self.nodes.len(),
            quorums: self.plan.quorums,
            clients: self.plan.clients,
            duration_s: took.as_secs_f64(),
            operations: Operations { ok, failed, unknown, checked: findings.checked },
            keys: findings.keys,
            keys_lost: findings.lost,
            keys_undecided: findings.undecided,
            equal_at_slot,
            backups_checked: self.backups.len() as u64,
            recovered_checked: self.recovered.len() as u64,
            came_by_state: self.came_by_state,
            watches,
            leases,
            transactions,
            retries,
            stops_for_space: self.control.stops_for_space(),
            worst_recovery_ms: worst_of(self.faults.iter().map(|fault| fault.recovered_ms)),
            faults: self.faults,
            violations: self.violations,
            passed,
        }
    }
}

fn sockets_of(nodes: &[NodeAddress]) -> Result<Vec<(NodeId, SocketAddr)>, BenchError> {
    nodes.iter().map(|node| Ok((node.id, node.socket()?))).collect()
}

fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

fn names(nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(|node| format!("node {node}")).collect();
    names.join(", ")
}

fn join<T>(thread: JoinHandle<Result<T, BenchError>>) -> Result<T, BenchError> {
    match thread.join() {
        Ok(ended) => ended,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
