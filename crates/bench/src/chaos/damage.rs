//! Nodes whose files decay, are lost, are put back from an older copy, or are in use twice.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::control::Sentence;
use super::fault::{Fault, Kind};
use super::{POLL, PROBE_TIMEOUT, Run};
use crate::{BenchError, NodeId, Protocol, probe};

/// A node whose files were touched is well or says that it is not within this. The machine
/// may be busy.
const VERDICT_MAX: Duration = Duration::from_secs(180);

/// What a process says of which there are two. Peers know one as the second, or as behind the other.
const REFUSALS: [&str; 2] = ["two run with copies of it", "is in use twice"];

/// What became of a node whose files were touched.
enum Verdict {
    /// It serves, and has read all that it has.
    Well,
    Sentenced(Sentence),
    /// Neither, or something else is wrong: that was told.
    None,
}

impl Run<'_> {
    /// Damages the files of these nodes, and tells what became of them.
    pub(super) fn damage(&mut self, fault: &Fault, met: &[NodeId]) -> Result<String, BenchError> {
        match fault.kind {
            Kind::Wipe => self.wipe(met[0]),
            Kind::PutBack => self.put_back(met[0], fault.lasts),
            Kind::Twin => self.run_twice(met[0], fault),
            _ => self.flip(met, fault),
        }
    }

    fn flip(&mut self, met: &[NodeId], fault: &Fault) -> Result<String, BenchError> {
        for node in met {
            self.control.kill(*node)?;
        }
        let mut flipped = Vec::new();
        for (node, seed) in met.iter().zip(fault.seed..) {
            flipped.push(self.control.flip(*node, seed)?);
        }
        thread::sleep(fault.lasts);
        for node in met {
            self.control.restart(*node)?;
        }
        let mut told = Vec::new();
        for (node, flipped) in met.iter().zip(flipped) {
            let outcome = match self.judge(*node, true)? {
                Verdict::Well => "it came back by itself".to_owned(),
                Verdict::Sentenced(sentence) => self.obey(*node, &sentence)?,
                Verdict::None => "neither came back nor named the way out".to_owned(),
            };
            told.push(format!("node {node}: {flipped}, {outcome}"));
        }
        Ok(told.join("; "))
    }

    fn wipe(&mut self, node: NodeId) -> Result<String, BenchError> {
        self.control.kill(node)?;
        self.control.wipe(node)?;
        self.control.restart(node)?;
        let told = match self.judge(node, false)? {
            Verdict::Sentenced(sentence) => self.obey(node, &sentence)?,
            _ => "was not refused".to_owned(),
        };
        Ok(format!("node {node} with an empty folder: {told}"))
    }

    /// Peers know what a node has stated in its handshakes, so it has two lives after the copy.
    /// What was put back is refused in its first life and in the one after that, too.
    fn put_back(&mut self, node: NodeId, lasts: Duration) -> Result<String, BenchError> {
        self.control.kill(node)?;
        self.control.keep_copy(node)?;
        for _ in 0..2 {
            self.control.restart(node)?;
            self.wait_ready_of(node)?;
            thread::sleep(lasts);
            self.control.kill(node)?;
        }
        self.control.put_back(node)?;
        self.control.restart(node)?;
        let first = self.judge(node, false)?;
        if matches!(&first, Verdict::Sentenced(sentence) if !sentence.has_ended) {
            self.control.kill(node)?;
            self.control.restart(node)?;
        }
        let told = match (first, self.judge(node, false)?) {
            (Verdict::Sentenced(_), Verdict::Sentenced(sentence)) => self.obey(node, &sentence)?,
            _ => "was not refused".to_owned(),
        };
        Ok(format!("node {node} with an older folder: {told}"))
    }

    /// A node is started again, and another process on a copy of its folder, in either order. One of them
    /// is refused, or both: each may have met another peer first.
    fn run_twice(&mut self, node: NodeId, fault: &Fault) -> Result<String, BenchError> {
        self.control.kill(node)?;
        self.control.keep_copy(node)?;
        if fault.seed.is_multiple_of(2) {
            self.control.restart(node)?;
            self.control.start_twin(node)?;
        } else {
            self.control.start_twin(node)?;
            self.control.restart(node)?;
        }
        let begin = Instant::now();
        while !self.control.has_ended(node)? && self.control.twin_said()?.is_none() {
            if self.has_fallen()? || begin.elapsed() > VERDICT_MAX {
                let waited_s = begin.elapsed().as_secs();
                self.violations
                    .push(format!("node {node} and a copy of it both run after {waited_s} s"));
                self.is_broken = true;
                return Ok("neither was refused".to_owned());
            }
            thread::sleep(POLL);
        }
        thread::sleep(fault.lasts);
        let (said, has_ended) = (self.control.twin_said()?, self.control.has_ended(node)?);
        self.control.end_twin()?;
        let is_refusal = |said: &&String| REFUSALS.iter().any(|words| said.contains(words));
        if let Some(said) = said.as_ref().filter(|said| !is_refusal(said)) {
            let lines: Vec<&str> = said.lines().collect();
            let end = lines[lines.len().saturating_sub(5)..].join("\n");
            self.violations.push(format!("the copy of node {node} ended by itself: {end}"));
            self.is_broken = true;
        }
        let who = match (&said, has_ended) {
            (Some(_), true) => "both were refused",
            (Some(_), false) => "the copy was refused",
            (None, _) => "the node itself was refused",
        };
        if has_ended && self.control.sentence(node)?.is_none() {
            self.control.restart(node)?;
        }
        let outcome = match self.judge(node, true)? {
            Verdict::Well => "it serves".to_owned(),
            Verdict::Sentenced(sentence) => self.obey(node, &sentence)?,
            Verdict::None => "it neither serves nor named the way out".to_owned(),
        };
        Ok(format!("node {node} and a copy of it: {who}, {outcome}"))
    }

    /// Does what the words say.
    fn obey(&mut self, node: NodeId, sentence: &Sentence) -> Result<String, BenchError> {
        if !sentence.names_way_out {
            let words = &sentence.words;
            self.violations.push(format!("node {node} is refused without a way out: {words}"));
            self.is_broken = true;
            return Ok("is refused without a way out".to_owned());
        }
        if !sentence.has_ended {
            self.control.kill(node)?;
        }
        let how = if sentence.has_ended { "it ended" } else { "its peers refused it" };
        let told = self.replace_dead(node)?;
        Ok(format!("{how} and named the way out, {told}"))
    }

    /// Waits until a node that was started is well, or must not go on.
    fn judge(&mut self, node: NodeId, may_be_well: bool) -> Result<Verdict, BenchError> {
        let begin = Instant::now();
        // What was hit is read by then, and mended.
        let mut read_since_s = None;
        while begin.elapsed() < VERDICT_MAX {
            if self.has_fallen()? {
                self.is_broken = true;
                return Ok(Verdict::None);
            }
            if let Some(sentence) = self.control.sentence(node)? {
                return Ok(Verdict::Sentenced(sentence));
            }
            let is_ready = may_be_well && self.control.ready(Protocol::Synod, node)?;
            match read_since_s {
                None if is_ready => read_since_s = Some(now_s() + 1),
                Some(since_s) if is_ready => {
                    let nodes = self.control.nodes()?;
                    let address = nodes.iter().find(|other| other.id == node);
                    let read_at =
                        address.and_then(|address| probe::scrubbed_at_s(address, PROBE_TIMEOUT));
                    if read_at.is_some_and(|read_at| read_at > since_s) {
                        return Ok(Verdict::Well);
                    }
                }
                Some(_) => read_since_s = None,
                None => {}
            }
            thread::sleep(POLL);
        }
        let (waited_s, wanted) =
            (VERDICT_MAX.as_secs(), if may_be_well { "well" } else { "refused" });
        self.violations.push(format!("node {node} was not {wanted} within {waited_s} s"));
        self.is_broken = true;
        Ok(Verdict::None)
    }

    /// Replaces the nodes that found out later that they must not go on.
    pub(super) fn replace_sentenced(&mut self) -> Result<(), BenchError> {
        let nodes: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        for node in nodes {
            if let Some(sentence) = self.control.sentence(node)? {
                self.progress.say(format!("node {node} is found to be damaged later"));
                self.obey(node, &sentence)?;
            }
        }
        Ok(())
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
