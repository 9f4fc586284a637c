//! Catch-up: chosen values that this node misses are fetched from a peer's log,
//! chunk by chunk, beside live traffic.

use crate::{Fetch, NodeId, Slot, Time};

/// The state of a node that misses chosen slots.
#[derive(Debug)]
pub(crate) struct Catchup {
    nonce: u64,
    open: Option<Open>,
    /// Since when the chosen prefix has been behind without moving.
    behind: Option<(Slot, Time)>,
    /// Peers that failed us go to the end of the line.
    last_failed: Option<NodeId>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    nonce: u64,
    from: NodeId,
    asked_at: Time,
}

/// A peer that could ship values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) node: NodeId,
    pub(crate) available_from: Slot,
    pub(crate) chosen_upto: Slot,
    pub(crate) is_leader: bool,
}

impl Catchup {
    /// An Accept or a claim on its way is not a gap: a fetch waits this long.
    pub(crate) const PATIENCE_US: u64 = 5_000;

    pub(crate) fn new(incarnation: u64) -> Catchup {
        Catchup { nonce: incarnation << 32, open: None, behind: None, last_failed: None }
    }

    /// Notes how far this node is and how far it could be.
    pub(crate) fn note(&mut self, now: Time, chosen_upto: Slot, known_chosen: Slot) {
        if chosen_upto >= known_chosen {
            self.behind = None;
        } else if self.behind.is_none_or(|(at, _)| at != chosen_upto) {
            self.behind = Some((chosen_upto, now));
        }
    }

    /// Microseconds since the prefix last moved while it is behind.
    pub(crate) fn behind_us(&self, now: Time) -> Option<u64> {
        self.behind.map(|(_, since)| now.since_us(since))
    }

    /// When to look again, if nothing comes.
    pub(crate) fn due_at(&self, timeout_us: u64) -> Option<Time> {
        match (self.open, self.behind) {
            (Some(open), _) => Some(open.asked_at.plus_us(timeout_us)),
            (None, Some((_, since))) => Some(since.plus_us(Self::PATIENCE_US)),
            (None, None) => None,
        }
    }

    /// Gives up an answer that does not come.
    pub(crate) fn expire(&mut self, now: Time, timeout_us: u64) {
        if let Some(open) = self.open.take_if(|open| now.since_us(open.asked_at) >= timeout_us) {
            self.last_failed = Some(open.from);
        }
    }

    /// The next request, if one is due: `eager` after a chunk that left more.
    pub(crate) fn next(
        &mut self,
        now: Time,
        first: Slot,
        last: Slot,
        eager: bool,
        sources: impl Iterator<Item = Source>,
    ) -> Option<(NodeId, Fetch)> {
        let (_, since) = self.behind?;
        if self.open.is_some() || (!eager && now.since_us(since) < Self::PATIENCE_US) {
            return None;
        }
        let able = sources.filter(|s| s.available_from <= first && first <= s.chosen_upto);
        // A follower ships before the leader does, and whoever failed us goes last.
        let best = able.min_by_key(|s| (Some(s.node) == self.last_failed, s.is_leader, s.node))?;
        self.nonce += 1;
        self.open = Some(Open { nonce: self.nonce, from: best.node, asked_at: now });
        let last = last.min(best.chosen_upto);
        Some((best.node, Fetch { nonce: self.nonce, first, last }))
    }

    /// Whether this chunk answers the open request.
    pub(crate) fn receive_chunk(&mut self, from: NodeId, nonce: u64, is_empty: bool) -> bool {
        let fits = |open: &mut Open| open.nonce == nonce && open.from == from;
        let answered = self.open.take_if(fits).is_some();
        if answered {
            self.last_failed = is_empty.then_some(from);
        }
        answered
    }

    /// The peer is gone: its answer will not come.
    pub(crate) fn receive_death(&mut self, node: NodeId) {
        if self.open.take_if(|open| open.from == node).is_some() {
            self.last_failed = Some(node);
        }
    }
}
