//! Nodes that go on as another release, one by one, and back.

use std::thread;
use std::time::{Duration, Instant};

use super::control::Release;
use super::fault::{Fault, Kind};
use super::member::Strike;
use super::{POLL, PROBE_TIMEOUT, Run};
use crate::{BenchError, NodeId, Protocol, probe};

/// A node has ended, and serves as what it is now, within this. The machine may be busy.
const CHANGE_MAX: Duration = Duration::from_secs(120);

/// One that is asked to end may just have been started by its supervisor.
const AGAIN_AFTER: Duration = Duration::from_secs(15);

/// One node's way from one release to the other.
#[derive(Debug, Clone, Copy)]
struct Step {
    node: NodeId,
    to: Release,
    /// By SIGKILL; else it is asked to end.
    by_kill: bool,
}

impl Run<'_> {
    /// Has these nodes go on as the release that the first of them is not, one after the other, and
    /// tells what became of it.
    pub(super) fn change_release(
        &mut self,
        fault: &Fault,
        met: &[NodeId],
    ) -> Result<String, BenchError> {
        let to = self.control.release(met[0])?.other();
        let mut strike = fault.blow.map(|blow| Strike::of(blow, fault.lasts));
        let mut told = Vec::new();
        for (at, node) in met.iter().enumerate() {
            let node = *node;
            // All go the same way.
            if self.control.release(node)? == to {
                continue;
            }
            let by_kill = match fault.kind {
                Kind::UpgradeKilled => true,
                Kind::UpgradeAll => fault.seed >> (at % 64) & 1 == 1,
                _ => false,
            };
            let changed = self.change_one(Step { node, to, by_kill }, &mut strike);
            if !matches!(&changed, Ok(Some(_)))
                && let Some(strike) = &mut strike
            {
                self.heal(strike)?;
            }
            let Some(version) = changed? else {
                self.is_broken = true;
                return Ok(format!("node {node} did not come back as {to}"));
            };
            let how = if by_kill { "was killed" } else { "ended" };
            told.push(format!("node {node} {how} and came back as {to}, version {version}"));
        }
        if let Some(strike) = &mut strike {
            self.strike_late(strike)?;
            told.extend(strike.told());
        }
        Ok(told.join("; "))
    }

    /// Ends a node and starts it as the other release. Says which version it speaks, when it serves; none when it
    /// does not, which was told.
    fn change_one(
        &mut self,
        step: Step,
        strike: &mut Option<Strike>,
    ) -> Result<Option<u64>, BenchError> {
        let Step { node, to, by_kill } = step;
        let begin = Instant::now();
        let (mut asked_at, mut is_started) = (None::<Instant>, false);
        while begin.elapsed() < CHANGE_MAX {
            if self.has_fallen()? {
                return Ok(None);
            }
            if is_started {
                if let Some(version) = self.serves_as(node)? {
                    return Ok(Some(version));
                }
            } else if self.control.has_ended(node)? {
                self.control.use_release(node, to)?;
                self.control.restart(node)?;
                is_started = true;
            } else if asked_at.is_none_or(|at| at.elapsed() > AGAIN_AFTER) {
                match by_kill {
                    true => self.control.kill(node)?,
                    false => self.control.ask_to_end(node)?,
                }
                asked_at = Some(Instant::now());
            }
            if let Some(strike) = strike {
                self.strike(strike, begin)?;
            }
            thread::sleep(POLL);
        }
        let waited_s = CHANGE_MAX.as_secs();
        let lack = if is_started { "serve" } else { "end" };
        self.violations
            .push(format!("node {node}, to be {to}, did not {lack} within {waited_s} s"));
        Ok(None)
    }

    /// The newest version that a node speaks which serves.
    fn serves_as(&mut self, node: NodeId) -> Result<Option<u64>, BenchError> {
        if !self.control.ready(Protocol::Synod, node)? {
            return Ok(None);
        }
        let address = self.nodes.iter().find(|other| other.id == node);
        Ok(address.and_then(|address| probe::newest_version(address, PROBE_TIMEOUT)))
    }
}
