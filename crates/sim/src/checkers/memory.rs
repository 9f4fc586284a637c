//! Nothing grows without bound.
//!
//! Every queue of a host has a declared limit, and a message a declared size. They
//! are compared after steps all through the run, so a queue that forgets to count,
//! or a page that is cut too late, is found. What waits outside the host (events of
//! a paused node, messages under way) is the simulation's own and has a generous
//! bound of its own, which a storm of messages breaks.

use synod_host::{Limits, Queues};
use synod_paxos::{Message, NodeId};

use crate::checkers::{Check, Checker, demand};

/// Everything under way at once, in the whole simulation.
const UNDER_WAY_MAX: usize = 200_000;

/// The limits of all nodes.
#[derive(Debug)]
pub struct Memory {
    limits: Limits,
    held_messages_max: usize,
    page_bytes_max: usize,
}

impl Memory {
    /// Limits of nodes that keep at most `window_slots` slots open, and the largest
    /// page that they may send: the declared one and one value more.
    #[must_use]
    pub fn new(limits: Limits, window_slots: u64, page_bytes_max: usize) -> Self {
        let window = usize::try_from(window_slots).unwrap_or(usize::MAX);
        // An answer for each open slot, and as many again of every other kind.
        let held_messages_max = window.saturating_mul(8).saturating_add(1_000);
        Memory { limits, held_messages_max, page_bytes_max }
    }

    /// A node's queues.
    ///
    /// # Errors
    /// When one is longer than allowed.
    pub fn queues(&self, node: NodeId, queues: &Queues) -> Check {
        let limits = &self.limits;
        let bounds = [
            (
                "waiting writes",
                queues.writes_unsent + queues.writes_sent,
                limits.writes_waiting_max,
            ),
            ("writes in flight", queues.writes_sent, limits.writes_in_flight_max),
            ("waiting reads", queues.reads_waiting, limits.reads_waiting_max),
            ("queued commands", queues.commands_queued, limits.queue_entries_max),
            ("messages held for the disk", queues.messages_held, self.held_messages_max),
        ];
        let broken = bounds.iter().find(|(_, count, max)| count > max);
        demand(broken.is_none(), Checker::Memory, || {
            let (what, count, max) = broken.expect("it is broken");
            format!("{node} has {count} {what}, more than {max}")
        })
    }

    /// A message.
    ///
    /// # Errors
    /// When it is larger than a page and one value.
    pub fn sent(&self, node: NodeId, message: &Message) -> Check {
        let values: Vec<usize> = match message {
            Message::Promise(promise) => {
                promise.accepted.iter().map(|accepted| accepted.value.size_bytes()).collect()
            }
            Message::Chosen(chosen) => chosen.values.iter().map(|v| v.size_bytes()).collect(),
            _ => return Ok(()),
        };
        // The last value is the one with which the page was full.
        let before: usize = values.split_last().map_or(0, |(_, before)| before.iter().sum());
        demand(before <= self.page_bytes_max, Checker::Memory, || {
            format!("{node} sends a page of {before} bytes before its last value")
        })
    }

    /// How much is under way.
    ///
    /// # Errors
    /// When it is a storm.
    pub fn under_way(&self, count: usize) -> Check {
        demand(count <= UNDER_WAY_MAX, Checker::Memory, || {
            format!("{count} events are under way at once")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_paxos::{Chosen, Slot, Value};

    #[test]
    fn a_queue_and_a_page_beyond_their_limits_are_found() {
        let limits = Limits { queue_entries_max: 2, ..Limits::default() };
        let memory = Memory::new(limits, 4, 100);
        let mut queues = Queues { commands_queued: 2, ..Queues::default() };
        memory.queues(NodeId(1), &queues).expect("within");
        queues.commands_queued = 3;
        assert!(memory.queues(NodeId(1), &queues).is_err());
        let chosen = |count| {
            Message::Chosen(Chosen { nonce: 1, first: Slot(1), values: vec![Value::Noop; count] })
        };
        memory.sent(NodeId(1), &chosen(2)).expect("64 bytes, then one more value");
        assert!(memory.sent(NodeId(1), &chosen(3)).is_err());
        assert!(memory.under_way(UNDER_WAY_MAX + 1).is_err());
    }
}
