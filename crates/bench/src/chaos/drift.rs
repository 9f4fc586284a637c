//! Nodes whose state becomes another one than the others' while its checksums are right, as by a
//! mistake of the state machine or of memory that no disk tells.
//!
//! Nodes compare their states every 4,096 slots, and until then such a node goes on. What it has wrong may
//! be told to whoever reads it there: so nothing is changed that clients of the run read.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::control::{Copied, Sentence};
use super::fault::{Class, Fault, Kind};
use super::rush::Rush;
use super::{POLL, PROBE_TIMEOUT, Run};
use crate::{BenchError, NodeAddress, NodeId, Protocol, probe};

/// Every step comes to its end within this. The machine may be busy.
const STEP_MAX: Duration = Duration::from_secs(180);
/// Peers that applied so many slots more have compared their states at two of them at the least.
const SLOTS_MAX: u64 = 3 * 4_096;
/// What keys of nobody but this class begin with.
const PREFIX: &str = "chaos-drift/";
const RIGHT: &str = "right";
/// What the refused start says can be done besides a replacement.
const TAKE_OVER: &str = "rename the file to REBUILD";

/// Whether a key is one that only this class writes.
pub(super) fn is_own(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// What became of a node that drifted.
enum Course {
    /// Most voters contradicted it, and it stopped.
    Stopped,
    /// It lagged so far that it got the state of a peer before.
    Overtaken,
}

impl Run<'_> {
    /// Has the states of these nodes drift, waits until they are found out, and does what they say then.
    pub(super) fn drift(&mut self, fault: &Fault, met: &[NodeId]) -> Result<String, BenchError> {
        let rush = Rush::begin(&self.load)?;
        let told = self.drift_and_heal(fault, met);
        drop(rush);
        Ok(told?.unwrap_or_else(|| {
            self.is_broken = true;
            "it was not found out, or did not come back".to_owned()
        }))
    }

    fn drift_and_heal(
        &mut self,
        fault: &Fault,
        met: &[NodeId],
    ) -> Result<Option<String>, BenchError> {
        if !self.wait_witnesses(met)? {
            return Ok(None);
        }
        let key = match fault.kind {
            Kind::DriftRecord => match self.write_own_key()? {
                Some(key) => Some(key),
                None => return Ok(None),
            },
            _ => None,
        };
        if !self.wait_durable(met)? {
            return Ok(None);
        }
        let mut copied_before = Vec::new();
        for node in met {
            self.control.kill(*node)?;
            self.control.drift(*node, key.as_deref())?;
            copied_before.push(self.control.copied(*node)?.upto);
        }
        thread::sleep(fault.lasts);
        for node in met {
            self.control.restart(*node)?;
        }
        let Some(courses) = self.wait_found_out(met, &copied_before)? else { return Ok(None) };
        // The peers of those that stopped go on as if nothing had happened.
        if self.wait_acknowledgement("the end of a node that drifted")?.is_none()
            || !self.wait_no_doubt(met)?
        {
            return Ok(None);
        }
        let drifted = self.faults.iter().filter(|fault| fault.class == Class::Drift).count();
        let mut told = Vec::new();
        for (at, (node, course)) in met.iter().zip(courses).enumerate() {
            if matches!(course, Course::Stopped) && !self.is_refused(*node)? {
                return Ok(None);
            }
            let is_replaced = !(drifted + at).is_multiple_of(2);
            let healed = match course {
                Course::Overtaken => {
                    told.push(format!("node {node} got a peer's state before it was found out"));
                    Some(*node)
                }
                Course::Stopped if is_replaced => self.replace_drifted(*node, &mut told)?,
                Course::Stopped => self.rebuild_drifted(*node, &mut told)?,
            };
            let Some(healed) = healed else { return Ok(None) };
            if !self.has_right_value(healed, key.as_deref())? {
                return Ok(None);
            }
        }
        if key.is_some() {
            told.push("the record is right again".to_owned());
        }
        Ok(Some(told.join("; ")))
    }

    /// Waits until so many others are witnesses as make a majority: whose state is their own work,
    /// or was found right. No other can tell a node that it is wrong.
    fn wait_witnesses(&mut self, met: &[NodeId]) -> Result<bool, BenchError> {
        let voters = self.nodes.len();
        let mut others = Vec::new();
        let is_so = self.wait("the state of a node that copied it was not found right", |run| {
            others.clear();
            for node in run.nodes.clone().iter().filter(|node| !met.contains(&node.id)) {
                let is_ready = run.control.ready(Protocol::Synod, node.id)?;
                others.push((node.id, is_ready, run.control.copied(node.id)?, applied(node)));
            }
            let is_witness = |(_, is_ready, copied, _): &&(_, bool, Copied, _)| {
                *is_ready && copied.is_found_right
            };
            Ok(others.iter().filter(is_witness).count() > voters / 2)
        })?;
        if !is_so {
            for (node, is_ready, Copied { upto, is_found_right }, applied) in others {
                self.violations.push(format!(
                    "node {node}: ready {is_ready}, applied {applied:?}, copied up to slot {upto}, \
                     found right {is_found_right}"
                ));
            }
        }
        Ok(is_so)
    }

    /// Writes a key that no client reads.
    fn write_own_key(&mut self) -> Result<Option<String>, BenchError> {
        let (number, _) = self.load.next_numbers();
        let key = format!("{PREFIX}{:016x}/{number}", self.load.run());
        let is_written = self.wait("a key of its own was not written", |run| {
            let put = |node: &NodeAddress| probe::put(node, &key, RIGHT, PROBE_TIMEOUT);
            Ok(run.nodes.iter().any(put))
        })?;
        Ok(is_written.then_some(key))
    }

    /// Waits until these nodes have on their disks what any has applied by now.
    fn wait_durable(&mut self, met: &[NodeId]) -> Result<bool, BenchError> {
        let wanted = self.nodes.iter().filter_map(applied).max();
        self.wait("a state was not flushed", |run| {
            let durable = |node: &NodeAddress| probe::durable(node, PROBE_TIMEOUT);
            Ok(run.addresses(met).iter().all(|node| durable(node) >= wanted.max(Some(1))))
        })
    }

    /// Waits until each of these nodes has stopped because most voters have another state.
    fn wait_found_out(
        &mut self,
        met: &[NodeId],
        copied_before: &[u64],
    ) -> Result<Option<Vec<Course>>, BenchError> {
        let others: Vec<NodeAddress> =
            self.nodes.iter().filter(|node| !met.contains(&node.id)).cloned().collect();
        let farthest = || others.iter().filter_map(applied).max();
        // They start first, and come up with their peers.
        let (wanted, mut last_slot) = (farthest(), None);
        let (mut courses, mut is_late) = (Vec::new(), false);
        self.wait("a node that drifted did not stop", |run| {
            courses.clear();
            let mut is_begun = true;
            for (node, before) in met.iter().zip(copied_before) {
                if let Some(words) = run.control.contradicted(*node)? {
                    run.progress.say(format!("node {node} stopped: {}", words.trim()));
                    courses.push(Course::Stopped);
                } else if run.control.copied(*node)?.upto > *before {
                    courses.push(Course::Overtaken);
                } else {
                    is_begun &= run.addresses(&[*node]).iter().all(|node| applied(node) >= wanted);
                }
            }
            if let Some(slot) = farthest().filter(|_| is_begun || last_slot.is_some()) {
                is_late = slot > *last_slot.get_or_insert(slot + SLOTS_MAX);
            }
            Ok(courses.len() == met.len() || is_late)
        })?;
        if is_late && courses.len() < met.len() {
            self.violations.push(format!(
                "of {} nodes that drifted {} went on though their peers applied {SLOTS_MAX} slots more",
                met.len(),
                met.len() - courses.len()
            ));
        }
        Ok((courses.len() == met.len()).then_some(courses))
    }

    /// Waits until no other node doubts its own state: a single difference is told to both sides.
    fn wait_no_doubt(&mut self, met: &[NodeId]) -> Result<bool, BenchError> {
        self.wait("a node still says that its state differs from a peer's", |run| {
            let mut others = run.nodes.iter().filter(|node| !met.contains(&node.id));
            Ok(others.all(|node| probe::differs(node, PROBE_TIMEOUT) == Some(false)))
        })
    }

    /// Has it take over a peer's state, as the refused start says.
    fn rebuild_drifted(
        &mut self,
        node: NodeId,
        told: &mut Vec<String>,
    ) -> Result<Option<NodeId>, BenchError> {
        self.control.take_over(node)?;
        self.control.restart(node)?;
        let serves = self.wait("a node does not serve with a peer's state", |run| {
            Ok(run.control.ready(Protocol::Synod, node)?)
        })?;
        told.push(format!("node {node} stopped, and took over a peer's state"));
        Ok(serves.then_some(node))
    }

    /// Puts a new node in its place, as the refused start says.
    fn replace_drifted(
        &mut self,
        node: NodeId,
        told: &mut Vec<String>,
    ) -> Result<Option<NodeId>, BenchError> {
        let ids = |run: &Self| run.nodes.iter().map(|node| node.id).collect::<BTreeSet<_>>();
        let before = ids(self);
        let replaced = self.replace_dead(node)?;
        told.push(format!("node {node} stopped, and {replaced}"));
        Ok(ids(self).difference(&before).next().copied().filter(|_| !self.is_broken))
    }

    /// Whether the next start is refused, and names both ways out.
    fn is_refused(&mut self, node: NodeId) -> Result<bool, BenchError> {
        self.control.restart(node)?;
        let mut sentence = None;
        self.wait("a node that stopped was not refused at its next start", |run| {
            sentence = run.control.sentence(node)?;
            Ok(sentence.is_some())
        })?;
        let Some(Sentence { words, .. }) = sentence else { return Ok(false) };
        if words.contains(TAKE_OVER) {
            return Ok(true);
        }
        self.violations
            .push(format!("the start of node {node} does not say {TAKE_OVER:?}: {words}"));
        Ok(false)
    }

    /// Whether a node has what was written, read there when it has applied all.
    fn has_right_value(&mut self, node: NodeId, key: Option<&str>) -> Result<bool, BenchError> {
        let Some(key) = key else { return Ok(true) };
        let Some(address) = self.addresses(&[node]).pop() else { return Ok(false) };
        let mut value = None;
        self.wait("a node that was healed answers no read", |_| {
            value = probe::value(&address, key, PROBE_TIMEOUT);
            Ok(value.is_some())
        })?;
        let is_right = value.as_deref() == Some(RIGHT);
        if let Some(value) = value.filter(|_| !is_right) {
            self.violations
                .push(format!("node {node} was healed and has {value:?}, not {RIGHT:?}"));
        }
        Ok(is_right)
    }

    fn addresses(&self, of: &[NodeId]) -> Vec<NodeAddress> {
        self.nodes.iter().filter(|node| of.contains(&node.id)).cloned().collect()
    }

    /// Waits until that is so. Says whether it came to be; if not, why was told.
    fn wait(
        &mut self,
        else_what: &str,
        mut is_so: impl FnMut(&mut Self) -> Result<bool, BenchError>,
    ) -> Result<bool, BenchError> {
        let begin = Instant::now();
        while !self.has_fallen()? {
            if is_so(self)? {
                return Ok(true);
            }
            if begin.elapsed() > STEP_MAX {
                let waited_s = STEP_MAX.as_secs();
                self.violations.push(format!("{else_what} within {waited_s} s"));
                break;
            }
            thread::sleep(POLL);
        }
        Ok(false)
    }
}

fn applied(node: &NodeAddress) -> Option<u64> {
    probe::state(node, PROBE_TIMEOUT).map(|(slot, _)| slot)
}
