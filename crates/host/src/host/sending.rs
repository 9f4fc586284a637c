//! How commands leave a host: into values when it leads, to the leader otherwise.

use bytes::Bytes;
use synod_kv::ServerId;
use synod_paxos::{Input, NodeId, Route, Time};
use synod_wire::{Forward, PeerMessage, batch, command};

use super::Host;
use crate::boundary::Action;

impl Host {
    /// Commands from other nodes: queued when this node leads, passed on once if
    /// their sender asked for it, dropped otherwise. Their origins send again.
    pub(super) fn take_forwards(&mut self) {
        for (from, forward) in std::mem::take(&mut self.forwards) {
            if self.viewed.leading.is_some() {
                self.queue_forwarded(forward.commands);
            } else if forward.may_relay
                && let Route::Leader(leader) = self.viewed.route
                && leader != from
            {
                self.forward(leader, false, forward.commands);
            }
        }
    }

    fn queue_forwarded(&mut self, commands: Vec<Bytes>) {
        for entry in commands {
            // One damaged entry would make the whole value unreadable for all.
            let Some(id) = entry_id(&entry) else { continue };
            if !self.batcher.has_room(id.origin) {
                return;
            }
            self.batcher.push(id, entry);
        }
    }

    /// Moves own commands on their way, and cuts values while the core wants any.
    pub(super) fn send_commands(&mut self, now: Time) {
        match self.viewed.route {
            Route::Nowhere => {}
            Route::Leader(leader) => self.forward_commands(now, leader, false),
            Route::Through(peer) => self.forward_commands(now, peer, true),
            Route::Here => {
                self.queue_own_commands(now);
                // Cutting makes room for more of them.
                while self.cut_value(now) {
                    self.queue_own_commands(now);
                }
            }
        }
    }

    fn queue_own_commands(&mut self, now: Time) {
        while self.batcher.has_room(self.node.0)
            && let Some((id, entry)) = self.commands.next_entry(now)
        {
            self.batcher.push(id, entry);
        }
    }

    fn cut_value(&mut self, now: Time) -> bool {
        let (waiting, bytes) = (self.batcher.len(), self.batcher.bytes());
        let is_tick = || self.tick_at().is_some_and(|tick| tick <= now);
        if waiting == 0 && !is_tick() || !self.replica.may_propose(now, waiting, bytes) {
            return false;
        }
        let value = self.batcher.cut(self.clock.now_ms(now));
        let commands = waiting - self.batcher.len();
        self.run(now, Input::Propose { value, commands });
        true
    }

    /// Sends all own commands of this step in as few messages as the limits allow.
    fn forward_commands(&mut self, now: Time, to: NodeId, may_relay: bool) {
        let mut commands = Vec::new();
        let mut bytes = 0;
        while let Some((_, entry)) = self.commands.next_entry(now) {
            let full = commands.len() >= self.limits.forward_entries_max
                || bytes + entry.len() > self.limits.forward_bytes_max;
            if full && !commands.is_empty() {
                self.forward(to, may_relay, std::mem::take(&mut commands));
                bytes = 0;
            }
            bytes += entry.len();
            commands.push(entry);
        }
        if !commands.is_empty() {
            self.forward(to, may_relay, commands);
        }
    }

    fn forward(&mut self, to: NodeId, may_relay: bool, commands: Vec<Bytes>) {
        let message = PeerMessage::Forward(Forward { may_relay, commands });
        self.others.push(Action::Send { to, message, rests_on: None });
    }
}

/// The server id of an encoded command, if every replica can read it and the id can
/// exist. One that nobody can read must not be chosen.
fn entry_id(entry: &Bytes) -> Option<ServerId> {
    let entry = batch::decode_entry(entry.clone()).ok()?;
    let named = entry.id.origin != 0 && entry.id.sequence != 0;
    (named && command::decode(entry.command).is_ok()).then_some(entry.id)
}
