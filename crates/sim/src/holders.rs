//! Who holds leases: they keep them, mostly in time, change their keys, give them back or go away.
//!
//! A holder is told that its lease is kept by the leader, once a quorum confirmed that it
//! leads, or else through the log.

use std::time::Duration;

use bytes::Bytes;
use synod_kv::{LeaseEpoch, LeaseId, LeaseOperation, Operation, Txn, TxnOperation, lease};
use synod_paxos::NodeId;

use crate::checkers::Check;
use crate::checkers::story::BESIDE;
use crate::client::Mode;
use crate::coverage::Rare;
use crate::guests::{Ask, Guests, Visit};
use crate::mistakes::Mistake;
use crate::world::World;

/// Keys of each holder.
const KEYS: u8 = 4;

/// One who holds a lease, or wants one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holder {
    pub(crate) lease: Option<LeaseId>,
    written: u64,
}

impl World<'_> {
    /// A holder is done, and lets some of the time to live pass.
    pub(crate) fn rest_holder(&mut self, ask: &Ask) {
        let holder = match ask {
            Ask::Grant(holder) | Ask::Revoke(holder) => *holder,
            Ask::Keep(holder, _) | Ask::Change(holder, _) => *holder,
            Ask::Confirm { holder, .. } => *holder,
            _ => return,
        };
        let Some(plan) = &self.plan.guests else { return };
        let rng = &mut self.guests.rng;
        let permille = match rng.u8(..8) {
            0 => rng.u64(1_500..3_000),
            1..3 => rng.u64(900..1_100),
            _ => rng.u64(100..700),
        };
        let think_us = plan.ttl_ms * permille;
        self.visit(think_us, Visit::Holder(holder));
    }

    /// A holder asks for something.
    pub(crate) fn hold(&mut self, holder: usize) -> Check {
        let now_us = self.now_us;
        if matches!(self.clients.mode, Mode::Sweep | Mode::Stopped) {
            return Ok(());
        }
        let Some(mut id) = self.draw_running() else {
            self.visit(100_000, Visit::Holder(holder));
            return Ok(());
        };
        let leads = |node: &&crate::node::Node| {
            node.is_running() && node.process.as_ref().is_some_and(|process| process.leads)
        };
        // Whoever holds itself for the leader; of two either.
        if self.guests.rng.u8(..4) > 0 {
            let leaders: Vec<NodeId> =
                self.nodes.iter().filter(leads).map(|node| node.id).collect();
            if !leaders.is_empty() {
                id = leaders[self.guests.rng.usize(..leaders.len())];
            }
        }
        let ttl_ms = self.plan.guests.as_ref().expect("there are holders").ttl_ms;
        let rng = &mut self.guests.rng;
        let Some(lease) = self.guests.holders[holder].lease else {
            let own = 100 * (holder as u64 + 1) + rng.u64(..2);
            let wanted = rng.bool().then_some(LeaseId(own));
            let grant = Operation::Lease(LeaseOperation::Grant { id: wanted, ttl_ms });
            return self.ask_beside(id, Ask::Grant(holder), Some(grant), now_us);
        };
        match rng.u8(..16) {
            0..10 => self.keep(holder, lease, id),
            10..15 => {
                let change = self.guests.change(holder, lease);
                self.ask_beside(id, Ask::Change(holder, lease), Some(change), now_us)
            }
            _ => {
                let revoke = Operation::Lease(LeaseOperation::Revoke { id: lease });
                self.ask_beside(id, Ask::Revoke(holder), Some(revoke), now_us)
            }
        }
    }

    /// A node is asked to keep a lease: as the leader it need not write.
    pub(crate) fn keep(&mut self, holder: usize, lease: LeaseId, id: NodeId) -> Check {
        let now_us = self.now_us;
        let node = &self.nodes[id.0 as usize - 1];
        let (life, mistake) = (node.life, node.mistake);
        let moment = self.guests.base + Duration::from_micros(node.clock.read(now_us).0);
        if let Some(shell) = self.guests.shell(id, life)
            && let Some(epoch) = shell.keeper.epoch()
        {
            shell.keeper.look(moment);
            let is_noted = shell.keeper.renew(lease);
            if mistake == Some(Mistake::RenewedUnconfirmed) {
                return self.confirm(id, (holder, lease), epoch, is_noted, now_us);
            }
            let ask = Ask::Confirm { holder, id: lease, epoch, is_noted };
            return self.ask_beside(id, ask, None, now_us);
        }
        self.keep_by_log(id, holder, lease, now_us)
    }

    fn keep_by_log(&mut self, id: NodeId, holder: usize, lease: LeaseId, asked_us: u64) -> Check {
        let keep = Operation::Lease(LeaseOperation::KeepAlive { ids: vec![lease] });
        self.ask_beside(id, Ask::Keep(holder, lease), Some(keep), asked_us)
    }

    pub(crate) fn confirm(
        &mut self,
        id: NodeId,
        (holder, lease): (usize, LeaseId),
        epoch: LeaseEpoch,
        is_noted: bool,
        asked_us: u64,
    ) -> Check {
        let process = self.node(id).process.as_ref().expect("it steps");
        let map = process.machine.map();
        let (Ok(current), Ok(found)) = (lease::epoch(map), lease::find(map, lease)) else {
            self.rest_holder(&Ask::Revoke(holder));
            return self.doubt_state(id);
        };
        let is_there = found.is_some_and(|found| !found.is_ending);
        if current != epoch || is_there && !is_noted {
            return self.keep_by_log(id, holder, lease, asked_us);
        }
        if is_there {
            self.coverage.rare(Rare::LeaseKeptByLeader);
        }
        self.rest_holder(&Ask::Revoke(holder));
        self.told_of_lease(holder, lease, is_there, asked_us)
    }

    pub(crate) fn told_of_lease(
        &mut self,
        holder: usize,
        id: LeaseId,
        is_there: bool,
        asked_us: u64,
    ) -> Check {
        if is_there {
            return self.checks.leases.kept(id, asked_us, self.now_us);
        }
        self.guests.holders[holder].lease = None;
        self.checks.leases.gone(id, asked_us)
    }
}

impl Guests {
    /// What a holder does with its keys: puts one or two of them under its lease or under
    /// none, or puts one and removes another.
    fn change(&mut self, holder: usize, lease: LeaseId) -> Operation {
        let first = self.rng.u8(..KEYS);
        let second = (first + self.rng.u8(1..KEYS)) % KEYS;
        self.holders[holder].written += 1;
        let value = Bytes::from(self.holders[holder].written.to_le_bytes().to_vec());
        let number = u8::try_from(holder).expect("few holders");
        let key = |key: u8| Bytes::from([BESIDE, &[number, key]].concat());
        let put = |at: u8, lease| {
            let (key, value) = (key(at), value.clone());
            TxnOperation::Put { key, value, lease, want_previous: false }
        };
        let success = match self.rng.u8(..8) {
            0..3 => vec![put(first, Some(lease))],
            3..5 => vec![put(first, Some(lease)), put(second, Some(lease))],
            5 => vec![put(first, None)],
            6 => vec![put(first, Some(lease)), put(second, None)],
            _ => {
                let delete = TxnOperation::Delete { key: key(second), want_previous: false };
                vec![put(first, Some(lease)), delete]
            }
        };
        Operation::Txn(Txn { success, ..Txn::default() })
    }
}
