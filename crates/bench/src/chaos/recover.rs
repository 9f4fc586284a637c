//! Clusters that are made of one node's folder, as if all others were lost for good.

use std::thread;
use std::time::Instant;

use super::contents::Contents;
use super::control::Restored;
use super::fault::Fault;
use super::{PATIENCE, POLL, PROBE_TIMEOUT, Run};
use crate::failover::ControlError;
use crate::{BenchError, NodeAddress, NodeId, probe};

impl Run<'_> {
    /// Kills all nodes while clients write, the survivor last, and makes another cluster of a copy
    /// of its folder. Tells what is in that one; the nodes go on.
    pub(super) fn recover(&mut self, fault: &Fault, met: &[NodeId]) -> Result<String, BenchError> {
        let survivor = met[0];
        let certain_us = self.wait_caught_up(survivor)?;
        let others: Vec<NodeId> =
            self.nodes.iter().map(|node| node.id).filter(|node| *node != survivor).collect();
        for node in &others {
            self.control.kill(*node)?;
        }
        thread::sleep(fault.lasts);
        self.control.kill(survivor)?;
        let killed_us = self.load.now_us();
        self.control.keep_copy(survivor)?;
        let recovered = self.control.recover(survivor);
        for node in others.iter().chain([&survivor]) {
            self.control.restart(*node)?;
        }
        let recovered = match recovered {
            Ok(recovered) => recovered,
            Err(ControlError(reason)) => {
                self.violations.push(format!("a survivor could not be recovered: {reason}"));
                self.is_broken = true;
                return Ok("it could not be recovered".to_owned());
            }
        };
        let Some((keys, pairs)) = self.look_into(&recovered)? else {
            // Its folder stays, so that one can look into it.
            self.is_broken = true;
            return Ok("the recovered cluster is not as it should be".to_owned());
        };
        self.control.end_restored()?;
        let Restored { revision, slot, .. } = recovered;
        let count = keys.len() + pairs.len();
        let (giver, asked_us, made_us) = (survivor, killed_us, killed_us);
        let made = Contents { giver, asked_us, made_us, certain_us, revision, keys, pairs };
        self.recovered.push(made);
        Ok(format!(
            "recovered from node {survivor} with {count} keys, revision {revision}, slot {slot}"
        ))
    }

    /// Waits until a node has applied what any other had, twice, and says before which time all that
    /// was answered is of that. One that was cut off before may hold values that it accepted alone
    /// where the others have chosen something else since: they would come back, as `recover` says,
    /// in place of what was acknowledged.
    fn wait_caught_up(&mut self, node: NodeId) -> Result<u64, BenchError> {
        let applied = |of: &NodeAddress| probe::state(of, PROBE_TIMEOUT).map(|(slot, _)| slot);
        let begin = Instant::now();
        let mut certain_us = 0;
        for _ in 0..2 {
            let mut wanted = None;
            loop {
                // Of one that does not answer nobody knows what it had applied.
                if wanted.is_none() {
                    certain_us = self.load.now_us();
                    let all: Option<Vec<u64>> = self.nodes.iter().map(applied).collect();
                    wanted = all.and_then(|slots| slots.into_iter().max());
                }
                let one = self.nodes.iter().find(|one| one.id == node);
                if wanted.is_some() && one.and_then(applied) > wanted {
                    break;
                }
                if begin.elapsed() > PATIENCE {
                    return Err(BenchError::NotReady { node, waited_s: PATIENCE.as_secs() });
                }
                thread::sleep(POLL);
            }
        }
        Ok(certain_us)
    }
}
