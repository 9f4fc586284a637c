//! One replica: composes the roles and routes messages between them.

use crate::{Configuration, Effects, Input, NodeId, Options, Recovered, Slot, Status, Time};

/// Where a command has to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// This node leads.
    Here,
    /// To the leader.
    Leader(NodeId),
    /// The leader cannot be reached from here, but this peer reaches it.
    Through(NodeId),
    /// No live leader is known.
    Nowhere,
}

/// One replica.
#[derive(Debug)]
pub struct Replica {}

impl Replica {
    /// A replica as its journal and its state machine left it. Every slot up to
    /// `applied` is in the state machine, which must include every slot up to
    /// `recovered.chosen_upto` that the journal still holds.
    #[must_use]
    pub fn new(
        _node: NodeId,
        _configuration: Configuration,
        _options: Options,
        _recovered: Recovered,
        _applied: Slot,
        _durable: Slot,
        _now: Time,
    ) -> Replica {
        Replica {}
    }

    /// Takes one input.
    pub fn step(&mut self, _now: Time, _input: Input, _effects: &mut Effects) {}

    /// When the next [`Input::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Time {
        Time::ZERO
    }

    /// Whether a leader should cut a value now, with `queued_bytes` of commands
    /// waiting. Then the host calls `step` with [`Input::Propose`].
    #[must_use]
    pub fn may_propose(&self, _now: Time, _queued_bytes: usize) -> bool {
        false
    }

    /// When `may_propose` will say yes by the passing of time alone, if commands
    /// wait; none if that needs another event (the window is full, no leader).
    #[must_use]
    pub fn propose_at(&self) -> Option<Time> {
        None
    }

    /// Where commands have to go now.
    #[must_use]
    pub fn route(&self) -> Route {
        Route::Nowhere
    }

    /// The present view.
    #[must_use]
    pub fn status(&self) -> Status {
        unreachable!()
    }
}
