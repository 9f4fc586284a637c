//! Clusters that are made of one node's folder, as if all others were lost for good.

use std::thread;

use super::Run;
use super::contents::Contents;
use super::control::Restored;
use super::fault::Fault;
use crate::failover::ControlError;
use crate::{BenchError, NodeId};

impl Run<'_> {
    /// Kills all nodes while clients write, the survivor last, and makes another cluster of a copy
    /// of its folder. Tells what is in that one; the nodes go on.
    pub(super) fn recover(&mut self, fault: &Fault, met: &[NodeId]) -> Result<String, BenchError> {
        let survivor = met[0];
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
        self.recovered.push(Contents { giver, asked_us, made_us, revision, keys, pairs });
        Ok(format!(
            "recovered from node {survivor} with {count} keys, revision {revision}, slot {slot}"
        ))
    }
}
