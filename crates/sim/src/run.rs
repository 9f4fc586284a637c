//! One run: faults, then a healed quorum, then the final checks.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Serialize};
use synod_paxos::NodeId;

use crate::checkers::liveness::{Demand, Liveness};
use crate::checkers::{Check, Checker, Violation, demand, linearizability, transactions};
use crate::client::Mode;
use crate::coverage::{Coverage, Rare};
use crate::node::{Node, Process};
use crate::plan::Plan;
use crate::trace::{Sink, Trace};
use crate::world::World;

/// A healed quorum answers within so many election timeouts, three seconds, and the
/// time that its backlog takes: every command that waits in it may need a slot of its
/// own, and the node furthest behind has to make up for every slot that it missed, one
/// slot after the other; and there may be so many slots besides.
const PROGRESS_TIMEOUTS: u64 = 10;
const PROGRESS_US: u64 = 3_000_000;
const BACKLOG_SLOTS: u64 = 64;
/// How long clients read every key at the end, and how long nodes then have to
/// become equal.
const SWEEP_US: u64 = 2_000_000;
const SETTLE_US: u64 = 4_000_000;
/// The faults go on until the clients have asked enough, but not for longer than
/// so many times the planned time.
const FAULTS_STRETCH_MAX: u64 = 24;

thread_local! {
    static RUNNING: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The seed that this thread runs at this moment: what a panic hook names.
#[must_use]
pub fn running_seed() -> Option<u64> {
    RUNNING.get()
}

/// What became of a run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What was broken, if anything.
    pub violation: Option<Violation>,
    /// The hash over every event.
    pub trace_hash: u64,
    /// How many events there were.
    pub events: u64,
    /// What happened.
    pub coverage: Coverage,
    /// Operations that clients asked for.
    pub operations: u64,
    /// Those that were answered by the state.
    pub answered: u64,
    /// Simulated time.
    pub simulated_us: u64,
    /// How long after the healing every living node had answered a write and a read.
    pub recovery_us: u64,
}

impl Report {
    fn of_nothing(seed: u64) -> Report {
        Report {
            seed,
            violation: None,
            trace_hash: 0,
            events: 0,
            coverage: Coverage::default(),
            operations: 0,
            answered: 0,
            simulated_us: 0,
            recovery_us: 0,
        }
    }

    /// Of a run whose process died of an assertion, so that nothing else is known.
    #[must_use]
    pub fn of_death(seed: u64, text: String) -> Report {
        let violation = Violation { checker: Checker::Assertion, text };
        Report { violation: Some(violation), ..Report::of_nothing(seed) }
    }

    /// Of a plan that nobody has carried out, or not to its end, and why.
    #[must_use]
    pub fn of_no_run(seed: u64, text: String) -> Report {
        let violation = Violation { checker: Checker::Machinery, text };
        Report { violation: Some(violation), ..Report::of_nothing(seed) }
    }
}

/// What carries plans out: [`run`], or somebody who lets a process of its own do it.
pub type Runner<'a> = &'a (dyn Fn(&Plan) -> Report + Sync);

/// Carries a plan out.
#[must_use]
pub fn run(plan: &Plan) -> Report {
    run_traced(plan, None)
}

/// What a panic says.
#[must_use]
pub fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

/// Carries a plan out and tells every event.
#[must_use]
pub fn run_traced(plan: &Plan, sink: Option<Sink<'_>>) -> Report {
    let mut report = Report::of_nothing(plan.seed);
    // The product asserts its own invariants; such a panic is a finding like any other.
    let trace = Trace::new(sink);
    RUNNING.set(Some(plan.seed));
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(plan.clone(), trace)?;
        let result = world.live();
        world.sum_up(&mut report);
        result
    }));
    RUNNING.set(None);
    report.violation = match caught {
        Ok(result) => result.err(),
        Err(panic) => Some(Violation { checker: Checker::Assertion, text: panic_text(&*panic) }),
    };
    report
}

impl World<'_> {
    fn live(&mut self) -> Check {
        self.suffer()?;
        self.recover()?;
        self.finish()
    }

    /// Phase one: anything may go wrong, and only safety is demanded.
    fn suffer(&mut self) -> Check {
        let faults_us = self.plan.faults_us;
        self.run_until(faults_us)?;
        while self.clients.operations.len() < self.plan.operations_min
            && self.now_us < faults_us * FAULTS_STRETCH_MAX
        {
            self.step()?;
        }
        Ok(())
    }

    /// Phase two: a quorum lives, and must make progress.
    fn recover(&mut self) -> Check {
        let living = self.heal()?;
        let bound_us = self.progress_bound_us(&living);
        let healed_us = self.now_us;
        self.clients.mode = Mode::Probe;
        self.checks.liveness = Some(Liveness::new(Demand::Progress, healed_us, bound_us, &living));
        self.run_until(healed_us + bound_us)?;
        while self.now_us <= healed_us + self.plan.healed_us.max(bound_us + 1) {
            self.step()?;
            self.dismiss_removed();
            self.liveness().check(self.now_us)?;
        }
        self.dismiss_drifted()?;
        self.squeeze()?;
        self.clients.mode = Mode::Sweep;
        self.run_until(self.now_us + SWEEP_US)?;
        self.clients.mode = Mode::Stopped;
        // What nodes still hold for clients that have given up is worked off first.
        let bound_us = self.now_us + self.progress_bound_us(&living);
        while self.commands_waiting(&living) > 0 && self.now_us < bound_us {
            self.step()?;
        }
        // What nobody keeps ends.
        let bound_us = self.now_us + self.lease_bound_us(&living);
        while self.checks.leases.left() > 0 && self.now_us < bound_us {
            self.step()?;
        }
        self.run_until(self.now_us + SETTLE_US)?;
        // As long as idempotency keys are remembered the leader lets time pass in the log,
        // and somebody may just be about to apply that.
        let bound_us = self.now_us + SETTLE_US;
        while self.liveness().ended(&self.applied()).is_err() && self.now_us < bound_us {
            self.step()?;
        }
        Ok(())
    }

    /// How far each of those has applied that must answer.
    fn applied(&self) -> Vec<(NodeId, u64)> {
        let watched = self.nodes.iter().filter(|node| self.liveness().watches(node.id));
        let living = watched.filter_map(|node| Some((node.id, node.process.as_ref()?)));
        living.map(|(id, process)| (id, process.machine.applied_slot())).collect()
    }

    /// How long the healed may take until each has answered.
    pub(crate) fn progress_bound_us(&self, living: &[NodeId]) -> u64 {
        let pace = &self.plan.pace;
        let slot_us = pace.slot_us();
        let waiting = self.commands_waiting(living);
        // A leader takes so many of them as its queue holds, and hears of the next ones when
        // their nodes send again.
        let refills = waiting / self.plan.sizes.queue_entries_max as u64;
        PROGRESS_TIMEOUTS * pace.election_timeout_us
            + PROGRESS_US
            + refills * pace.election_timeout_us / 2
            + (BACKLOG_SLOTS + self.missed_slots(living) + waiting) * slot_us
            + self.mending_us(living)
    }

    /// Commands that living nodes have queued, sent or not, for clients that may have
    /// given up long ago. Each may need a slot of its own.
    fn commands_waiting(&self, living: &[NodeId]) -> u64 {
        let nodes = self.nodes.iter().filter(|node| living.contains(&node.id));
        let waiting = |process: &Process| {
            let queues = process.host.queues();
            (queues.writes_unsent + queues.writes_sent + queues.commands_queued) as u64
        };
        nodes.filter_map(|node| node.process.as_ref()).map(waiting).sum()
    }

    /// Slots that the one furthest behind has to make up for.
    fn missed_slots(&self, living: &[NodeId]) -> u64 {
        let nodes = self.nodes.iter().filter(|node| living.contains(&node.id));
        let applied = |node: &Node| {
            node.process.as_ref().map_or(node.state.slot, |process| process.machine.applied_slot())
        };
        let behind = nodes.map(applied).min().unwrap_or(0);
        self.checks.agreement.last().0.saturating_sub(behind)
    }

    pub(crate) fn liveness(&self) -> &Liveness {
        self.checks.liveness.as_ref().expect("the quorum is healed")
    }

    /// What can be said only at the end.
    fn finish(&mut self) -> Check {
        self.dismiss_removed();
        let applied = self.applied();
        for (id, slot) in &applied {
            self.checks.durability.ended(*id, *slot)?;
        }
        self.liveness().ended(&applied)?;
        let operations = &self.clients.operations;
        let settled = self.checks.exactly_once.settle(operations)?;
        for (operation, settled) in operations.iter().zip(&settled) {
            if operation.returned.is_none() && operation.is_write() {
                self.coverage.rare(match settled {
                    Some(_) => Rare::UnknownWithEffect,
                    None => Rare::UnknownWithoutEffect,
                });
            }
            if settled.as_ref().is_some_and(|settled| settled.commands > 1) {
                self.coverage.rare(Rare::KeyReplayed);
            }
            if settled.as_ref().is_some_and(|settled| settled.late > 0) {
                self.coverage.rare(Rare::AttemptLateTwin);
            }
        }
        linearizability::check(operations, &settled, self.plan.load.keys)?;
        transactions::check(operations, &settled, self.checks.story.beside())?;
        self.checks.story.check()?;
        self.check_backups(&settled)?;
        self.recover_at_the_end()?;
        let living: Vec<NodeId> = applied.iter().map(|(id, _)| *id).collect();
        self.checks.leases.ended(self.now_us, self.lease_bound_us(&living))?;
        self.end_watches(&living)?;
        let operations = &self.clients.operations;
        let (wanted, asked) = (self.plan.operations_min, operations.len());
        demand(asked >= wanted, Checker::Enough, || {
            format!("only {asked} operations were asked for, so too little was checked")
        })?;
        // A run in which nobody was told anything has checked nothing.
        demand(self.checks.durability.checked() > 0, Checker::Enough, || {
            "no acknowledgement was checked".to_owned()
        })
    }

    fn sum_up(&mut self, report: &mut Report) {
        report.trace_hash = self.trace.hash();
        report.events = self.trace.events();
        let changes = self.checks.agreement.changes();
        (0..changes).for_each(|_| self.coverage.rare(Rare::MembersChanged));
        report.coverage = std::mem::take(&mut self.coverage);
        report.operations = self.clients.operations.len() as u64;
        let operations = self.clients.operations.iter();
        let told = operations.filter(|o| o.returned.as_ref().is_some_and(|(_, a)| a.tells()));
        report.answered = told.count() as u64;
        report.simulated_us = self.now_us;
        let liveness = self.checks.liveness.as_ref();
        report.recovery_us = liveness.and_then(Liveness::worst_us).unwrap_or(0);
    }
}
