//! Changes of the members, in the middle of which a node may be killed or paused.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use super::control::Order;
use super::fault::{Blow, Fault, Kind};
use super::quorums::Quorums;
use super::{POLL, Run};
use crate::{BenchError, NodeId};

/// A change comes to its end within this, when all is healed. It is long because the
/// machine may be busy, and short enough to be seen.
const CHANGE_MAX: Duration = Duration::from_secs(180);
/// Before a command that was refused is given again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What is to be changed.
#[derive(Debug)]
pub(super) struct Change {
    orders: VecDeque<Order>,
    newcomer: Option<NodeId>,
    leaver: Option<NodeId>,
    /// Whether the leaver runs, so that it must hear of it and end.
    leaver_runs: bool,
    /// What the last command said.
    said: String,
}

/// A node that is killed or paused for a while.
#[derive(Debug)]
pub(super) struct Strike {
    blow: Blow,
    lasts: Duration,
    struck: Option<(Instant, NodeId)>,
    is_healed: bool,
    /// Whether the change went on while it was struck.
    was_amid: bool,
}

impl Strike {
    pub(super) fn of(blow: Blow, lasts: Duration) -> Self {
        Self { blow, lasts, struck: None, is_healed: false, was_amid: false }
    }

    /// What it did.
    pub(super) fn told(&self) -> Option<String> {
        let (_, node) = self.struck?;
        let how = if self.blow.kills { "killed" } else { "paused" };
        let when = if self.was_amid { "meanwhile" } else { "right after" };
        Some(format!("node {node} was {how} {when}"))
    }
}

impl Change {
    pub(super) fn replace(old: NodeId, new: NodeId, leaver_runs: bool) -> Self {
        let orders = VecDeque::from([Order::Replace { old, new }]);
        let said = String::new();
        Self { orders, newcomer: Some(new), leaver: Some(old), leaver_runs, said }
    }

    fn grow_and_shrink(new: NodeId, old: NodeId) -> Self {
        let orders = [Order::Add(new), Order::Promote(new), Order::Remove(old)];
        Self { orders: orders.into(), ..Self::replace(old, new, true) }
    }

    fn transfer() -> Self {
        Self::of_nobody([Order::Transfer])
    }

    fn other_quorums(other: Quorums, own: Quorums) -> Self {
        Self::of_nobody([Order::SetQuorums(other), Order::SetQuorums(own)])
    }

    /// Nobody comes or goes.
    fn of_nobody(orders: impl Into<VecDeque<Order>>) -> Self {
        let (orders, said) = (orders.into(), String::new());
        Self { orders, newcomer: None, leaver: None, leaver_runs: false, said }
    }

    /// What counts between its first order and its last.
    fn meanwhile(&self) -> String {
        match self.orders.front() {
            Some(Order::SetQuorums(Quorums { promise, accept })) => {
                format!("; meanwhile {promise} promised and {accept} accepted")
            }
            _ => String::new(),
        }
    }

    fn told(&self) -> String {
        match (self.newcomer, self.leaver) {
            (Some(new), Some(old)) if self.leaver_runs => {
                format!("node {new} came and node {old} went, with code 4")
            }
            (Some(new), Some(old)) => format!("node {new} took the place of node {old}"),
            // Beside it, and below it, stand the nodes.
            _ => self
                .said
                .lines()
                .next()
                .and_then(|line| line.split("  ").next())
                .unwrap_or_default()
                .to_owned(),
        }
    }
}

/// Draws quorums that are not these.
fn other_than(own: Quorums, seed: u64, nodes: usize) -> Quorums {
    let drawn = Quorums::drawn(seed, nodes);
    if drawn == own { Quorums::majorities(nodes) } else { drawn }
}

impl Run<'_> {
    /// Changes the members as the fault says, and tells what became of it.
    pub(super) fn change_members(
        &mut self,
        fault: &Fault,
        met: NodeId,
    ) -> Result<String, BenchError> {
        let change = match fault.kind {
            Kind::Transfer => Change::transfer(),
            Kind::GrowAndShrink => Change::grow_and_shrink(self.control.prepare()?, met),
            Kind::OtherQuorums => {
                let nodes = self.nodes.len();
                let own = self.plan.quorums.unwrap_or_else(|| Quorums::majorities(nodes));
                Change::other_quorums(other_than(own, fault.seed, nodes), own)
            }
            _ => Change::replace(met, self.control.prepare()?, true),
        };
        let strike = fault.blow.map(|blow| Strike::of(blow, fault.lasts));
        let meanwhile = change.meanwhile();
        Ok(self.carry_out(change, strike)? + &meanwhile)
    }

    /// A new node takes the place of one that is dead.
    pub(super) fn replace_dead(&mut self, old: NodeId) -> Result<String, BenchError> {
        let new = self.control.prepare()?;
        self.carry_out(Change::replace(old, new, false), None)
    }

    fn carry_out(
        &mut self,
        mut change: Change,
        mut strike: Option<Strike>,
    ) -> Result<String, BenchError> {
        if let Some(leaver) = change.leaver {
            self.control.may_leave(leaver);
        }
        let begin = Instant::now();
        let outcome = self.drive(&mut change, &mut strike, begin);
        self.control.recall();
        if let Some(strike) = &mut strike {
            self.heal(strike)?;
        }
        if !outcome? || !self.see_off(&change, begin)? {
            self.is_broken = true;
            return Ok("it did not come to its end".to_owned());
        }
        if let Some(leaver) = change.leaver {
            self.control.forget(leaver)?;
        }
        self.learn_nodes()?;
        if let Some(newcomer) = change.newcomer {
            self.came_by_state += u64::from(self.control.copied(newcomer)?.upto > 0);
        }
        let mut told = change.told();
        if let Some(struck) = strike.and_then(|strike| strike.told()) {
            told.push_str(&format!("; {struck}"));
        }
        Ok(told)
    }

    /// Gives one order after the other, each until it is carried out. Says whether all were.
    fn drive(
        &mut self,
        change: &mut Change,
        strike: &mut Option<Strike>,
        begin: Instant,
    ) -> Result<bool, BenchError> {
        let (mut is_under_way, mut starts, mut not_before) = (false, change.newcomer, begin);
        let mut last_words = String::new();
        while let Some(order) = change.orders.front().copied() {
            if self.has_fallen()? {
                return Ok(false);
            }
            if begin.elapsed() > CHANGE_MAX {
                let waited_s = CHANGE_MAX.as_secs();
                self.violations.push(format!(
                    "{order:?} was not carried out within {waited_s} s: {last_words}"
                ));
                return Ok(false);
            }
            if !is_under_way && Instant::now() >= not_before {
                self.control.order(order)?;
                is_under_way = true;
            }
            if let Some(node) = starts.filter(|node| self.control.is_made(*node)) {
                self.control.restart(node)?;
                starts = None;
                self.learn_nodes()?;
            }
            if let Some(strike) = strike {
                self.strike(strike, begin)?;
            }
            if let Some(told) = self.control.told()? {
                is_under_way = false;
                if told.is_done {
                    change.orders.pop_front();
                    change.said = told.words;
                } else {
                    last_words = told.words;
                    not_before = Instant::now() + AGAIN_AFTER;
                }
            }
            thread::sleep(POLL);
        }
        if let Some(strike) = strike {
            self.strike_late(strike)?;
        }
        Ok(true)
    }

    /// Begins and ends the blow when its time has come.
    pub(super) fn strike(&mut self, strike: &mut Strike, begin: Instant) -> Result<(), BenchError> {
        match strike.struck {
            None if begin.elapsed() >= strike.blow.after => {
                strike.was_amid = true;
                self.hit(strike)
            }
            Some((since, _)) if since.elapsed() >= strike.lasts => self.heal(strike),
            _ => Ok(()),
        }
    }

    /// The change was over before the blow.
    pub(super) fn strike_late(&mut self, strike: &mut Strike) -> Result<(), BenchError> {
        if strike.struck.is_none() {
            self.hit(strike)?;
        }
        if let Some((since, _)) = strike.struck.filter(|_| !strike.is_healed) {
            thread::sleep(strike.lasts.saturating_sub(since.elapsed()));
        }
        self.heal(strike)
    }

    fn hit(&mut self, strike: &mut Strike) -> Result<(), BenchError> {
        self.has_fallen()?;
        let nodes = self.control.nodes()?;
        let running: Vec<NodeId> =
            nodes.iter().filter(|node| node.pid.is_some()).map(|node| node.id).collect();
        if running.is_empty() {
            return Ok(());
        }
        let node = running[strike.blow.victim % running.len()];
        let (how, verb) = (strike.blow.kills, if strike.blow.kills { "kill" } else { "pause" });
        self.progress.say(format!("meanwhile {verb}: node {node}"));
        if how {
            self.control.kill(node)?
        } else {
            self.control.stop(node)?
        }
        strike.struck = Some((Instant::now(), node));
        Ok(())
    }

    pub(super) fn heal(&mut self, strike: &mut Strike) -> Result<(), BenchError> {
        let Some((_, node)) = strike.struck.filter(|_| !strike.is_healed) else { return Ok(()) };
        strike.is_healed = true;
        if strike.blow.kills {
            self.control.restart(node)?
        } else if !self.control.has_ended(node)? {
            self.control.cont(node)?
        }
        Ok(())
    }

    /// Waits until a node that was removed has ended as such.
    fn see_off(&mut self, change: &Change, begin: Instant) -> Result<bool, BenchError> {
        let Some(leaver) = change.leaver.filter(|_| change.leaver_runs) else { return Ok(true) };
        while !self.control.has_left(leaver)? {
            if self.has_fallen()? {
                return Ok(false);
            }
            if begin.elapsed() > CHANGE_MAX {
                let waited_s = CHANGE_MAX.as_secs();
                self.violations.push(format!(
                    "node {leaver} was removed and has not ended with code 4 within {waited_s} s"
                ));
                return Ok(false);
            }
            thread::sleep(POLL);
        }
        Ok(true)
    }
}
