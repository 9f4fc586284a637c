//! Who keeps the time of leases.
//!
//! It is kept by [`Timekeeper`], as in real nodes; the state machine is theirs, too. What
//! stands here is the shell around it, as `crates/node/src/leases.rs` has it: who leads begins an
//! epoch, looks every 50 ms by its own clock, and ends leases through the log.

use std::time::Duration;

use synod_host::lease_news::LeaseNews;
use synod_host::timekeeper::{Expired, Proposal, Timekeeper};
use synod_kv::{LeaseEpoch, LeaseId, LeaseOperation, Operation, lease};
use synod_paxos::NodeId;

use crate::checkers::Check;
use crate::coverage::Rare;
use crate::guests::{Ask, Visit};
use crate::world::World;

/// Leases that one look ends.
const EXPIRIES_MAX: usize = 256;

/// What one life of a node knows of the time of leases.
#[derive(Debug, Default)]
pub(crate) struct Shell {
    pub(crate) life: u64,
    pub(crate) keeper: Timekeeper,
    pub(crate) news: LeaseNews,
    pub(crate) is_beginning: bool,
}

impl World<'_> {
    /// A node looks who leads, and what is over.
    pub(crate) fn look(&mut self, id: NodeId, life: u64) -> Check {
        let now_us = self.now_us;
        let node = &mut self.nodes[id.0 as usize - 1];
        let clock = node.clock;
        let Some(process) = node.process(life) else { return Ok(()) };
        let (is_paused, leads) = (process.paused, process.host.leader() == Some(id));
        let map = process.machine.map();
        let (epoch, count) = (lease::epoch(map), lease::count(map));
        let delay_us = self.guests.rng.u64(40_000..60_000);
        self.visit(delay_us, Visit::Look { node: id, life });
        let moment = self.guests.base + Duration::from_micros(clock.read(now_us).0);
        let Some(shell) = self.guests.shell(id, life) else { return Ok(()) };
        if is_paused || shell.is_beginning {
            return Ok(());
        }
        shell.keeper.look(moment);
        if !leads {
            if shell.keeper.epoch().is_some() {
                shell.keeper.resign();
                shell.news.close();
            }
            return Ok(());
        }
        let (Ok(epoch), Ok(count)) = (epoch, count) else { return self.doubt_state(id) };
        if shell.keeper.epoch() == Some(epoch) {
            return self.expire(id, life);
        }
        shell.keeper.resign();
        if count == 0 {
            return Ok(());
        }
        shell.news.open();
        shell.is_beginning = true;
        let begin = Operation::Lease(LeaseOperation::BeginEpoch);
        self.ask_beside(id, Ask::Epoch, Some(begin), now_us)
    }

    /// A node counts every lease from now on.
    pub(crate) fn begin_epoch(&mut self, id: NodeId, life: u64, epoch: LeaseEpoch) -> Check {
        let now_us = self.now_us;
        let node = &mut self.nodes[id.0 as usize - 1];
        let clock = node.clock;
        let Some(process) = node.process(life) else { return Ok(()) };
        if process.paused {
            self.visit(50_000, Visit::Begin { node: id, life, epoch });
            return Ok(());
        }
        let leases = lease::list(process.machine.map(), LeaseId(0), usize::MAX);
        let moment = self.guests.base + Duration::from_micros(clock.read(now_us).0);
        let Some(shell) = self.guests.shell(id, life) else { return Ok(()) };
        shell.is_beginning = false;
        let Ok(leases) = leases else { return self.doubt_state(id) };
        shell.keeper.look(moment);
        shell.keeper.begin(epoch, leases);
        self.coverage.rare(Rare::LeaseEpoch);
        Ok(())
    }

    /// Ends what is over.
    fn expire(&mut self, id: NodeId, life: u64) -> Check {
        let node = &self.nodes[id.0 as usize - 1];
        let map = node.process.as_ref().expect("it looks").machine.map();
        let moment = self.guests.base + Duration::from_micros(node.clock.read(self.now_us).0);
        let Some(shell) = self.guests.shells.get_mut(&id) else { return Ok(()) };
        let Shell { keeper, news, .. } = shell;
        let (applied, find) = (|| lease::applied_slot(map), |id| lease::find(map, id));
        let judged = keeper.over(EXPIRIES_MAX, applied, find, || news.take(), || moment);
        let Ok(judged) = judged else { return self.doubt_state(id) };
        let now_us = self.now_us;
        for proposal in judged {
            if self.node(id).process(life).is_none() {
                break; // It died of the one before.
            }
            let expire = Operation::Lease(proposal.operation.clone());
            self.ask_beside(id, Ask::Expire(proposal), Some(expire), now_us)?;
        }
        Ok(())
    }

    pub(crate) fn learn(&mut self, id: NodeId, life: u64, proposal: &Proposal, expired: Expired) {
        match expired {
            Expired::Gone => self.coverage.rare(Rare::LeaseExpired),
            Expired::More => self.coverage.rare(Rare::LeaseEndedInParts),
            Expired::Old => self.coverage.rare(Rare::LeaseExpiryOld),
            Expired::Unknown => self.coverage.rare(Rare::LeaseExpiryUnknown),
        }
        if let Some(shell) = self.guests.shell(id, life) {
            shell.keeper.learn(proposal.id, proposal.attempt, expired);
        }
    }
}
