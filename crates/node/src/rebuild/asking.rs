//! The question for a state, to one peer after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use synod_paxos::{Message, NodeId, Slot};
use synod_storage::snapshot::Verified;
use synod_transport::{Incoming, IncomingEvent, Transport};
use synod_wire::PeerMessage;

use super::dismissal::Dismissals;
use super::slots::Slots;
use crate::identity::random_id;
use crate::snapshot::{Fetch, FetchOut};
use crate::start_error::StartError;

/// A node to which nobody gives anything for this long asks no more in this start.
const PATIENCE: Duration = Duration::from_secs(120);
/// When that was so before, this long at first, and twice as long each time.
const PATIENCE_AGAIN: Duration = Duration::from_secs(5);
/// How often is looked whether somebody can be asked.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Until all peers have told what their states are, nobody is asked for so long.
const LISTEN_FIRST: Duration = Duration::from_secs(2);
/// Hashes kept of each peer.
const KEPT: usize = 16;

/// What came.
pub(super) enum Fetched {
    /// A peer's state.
    State(Verified),
    /// The slots that the own state lacked.
    Slots,
    /// Nothing comes: this node is a member no more, by the configuration of this number.
    Dismissed(u64),
}

/// The question to one peer after the other.
pub(super) struct Asking<'a> {
    fetch: Fetch,
    slots: Slots,
    /// The state has to go further than this.
    above: Slot,
    candidates: Candidates,
    dismissals: Dismissals,
    asked: Option<NodeId>,
    begun_at: Instant,
    /// When something came last that had not come before.
    heard_at: Instant,
    /// How many bytes of its state each peer gave at most.
    furthest: BTreeMap<NodeId, u64>,
    patience: Duration,
    pub(super) clock: fn() -> Instant,
    stop: &'a AtomicBool,
}

/// How long a node asks to which nobody gave anything so many times in a row, and that went on
/// with what it had. It is needed elsewhere; but when it met the damage again at once, to ask is
/// all that is left to it.
pub(super) fn patience(unreplaced: u32) -> Duration {
    match unreplaced {
        0 => PATIENCE,
        times => PATIENCE_AGAIN.saturating_mul(1 << (times - 1).min(16)).min(PATIENCE),
    }
}

impl<'a> Asking<'a> {
    pub(super) fn new(
        (fetch, slots, dismissals): (Fetch, Slots, Dismissals),
        above: Slot,
        peers: impl Iterator<Item = NodeId>,
        patience: Duration,
        stop: &'a AtomicBool,
    ) -> Asking<'a> {
        let now = Instant::now();
        Asking {
            clock: Instant::now,
            fetch,
            slots,
            above,
            candidates: Candidates::new(peers),
            dismissals,
            asked: None,
            begun_at: now,
            heard_at: now,
            furthest: BTreeMap::new(),
            patience,
            stop,
        }
    }

    /// Brings the state of some peer, or the slots that make the own one do.
    ///
    /// # Errors
    /// When nobody gives one, and when this node is to stop.
    pub(super) async fn run(
        mut self,
        transport: &Transport,
        mut incoming: Incoming,
    ) -> Result<Fetched, StartError> {
        let mut batch = Vec::new();
        loop {
            let begun = (self.clock)();
            if self.slots.is_reading() {
                // What the own journal gives may come as long as it is being read.
                self.heard_at = begun;
            }
            for event in batch.drain(..) {
                match &event {
                    IncomingEvent::Dismissed { by, number, witnesses } => {
                        if self.dismissals.receive(*by, *number, *witnesses) {
                            return Ok(Fetched::Dismissed(*number));
                        }
                        let why =
                            format!("this node was removed by configuration {number}, it says");
                        self.candidates.failed(*by, why);
                    }
                    // No state makes up for promises that are forgotten.
                    IncomingEvent::Barred { by, text, for_good } => {
                        let (words, for_good) = (format!("{by} says: {text}"), *for_good);
                        return Err(StartError::Barred { words, for_good });
                    }
                    _ => {}
                }
                self.receive(event, transport);
            }
            let now = (self.clock)();
            if let Some((to, fetch)) = self.slots.go_on(&self.candidates.up, now) {
                transport.send(to, &PeerMessage::Paxos(Message::Fetch(fetch)));
            }
            // To apply what the own journal shows may take long, and is no time in which nothing
            // came.
            self.heard_at += (self.clock)() - begun;
            self.heard_at = self.slots.moved_at().map_or(self.heard_at, |at| at.max(self.heard_at));
            if self.slots.is_done(now) {
                return Ok(Fetched::Slots);
            }
            self.ask_somebody();
            self.fetch.look((self.clock)());
            if let Some(verified) = self.carry_out(transport)? {
                return Ok(Fetched::State(verified));
            }
            let is_silent =
                !self.slots.is_reading() && (self.clock)() - self.heard_at >= self.patience;
            if is_silent && self.slots.is_full() {
                return Ok(Fetched::Slots);
            }
            if is_silent {
                return Err(StartError::NoState { why: self.why_none() });
            }
            let pause = if self.slots.is_busy { Duration::ZERO } else { LOOK_EVERY };
            let look_at = Instant::now() + pause;
            let due = self.fetch.deadline().map_or(look_at, |due| due.min(look_at));
            tokio::select! {
                () = incoming.recv_batch(&mut batch) => {}
                () = tokio::time::sleep_until(due.into()) => {}
            }
        }
    }

    fn carry_out(&mut self, transport: &Transport) -> Result<Option<Verified>, StartError> {
        // To check what is here may take long, and is no time in which nothing came.
        let begun = (self.clock)();
        let outs = self.fetch.take_out(|| !self.stop.load(Relaxed));
        self.heard_at += (self.clock)() - begun;
        if self.stop.load(Relaxed) {
            return Err(StartError::Stopped);
        }
        for out in outs {
            match out {
                FetchOut::Send { to, message } => {
                    transport.send(to, &PeerMessage::Snapshot(message));
                }
                FetchOut::Failed { from, reason } => {
                    self.asked = None;
                    self.candidates.failed(from, reason);
                }
                // It may have been contradicted meanwhile.
                FetchOut::Arrived { from, verified } if self.candidates.is_contradicted(from) => {
                    self.asked = None;
                    verified.discard()?;
                    self.candidates.failed(from, CONTRADICTED.to_owned());
                }
                // So may the own one have got further.
                FetchOut::Arrived { from, verified }
                    if verified.state().applied_slot <= self.above().0 =>
                {
                    self.asked = None;
                    verified.discard()?;
                    self.candidates.failed(from, "its state came too late".to_owned());
                }
                FetchOut::Arrived { verified, .. } => return Ok(Some(verified)),
                FetchOut::Unsynced(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// A state has to go further than this. While the own one is being filled any that does is
    /// a help: what the journal shows of the slots after it is applied next time.
    fn above(&self) -> Slot {
        self.slots.applied().unwrap_or(self.above)
    }

    fn why_none(&self) -> String {
        let why = self.candidates.why_none(self.above());
        match self.slots.applied() {
            Some(applied) => {
                let next = applied.next();
                format!("{why}; and what was chosen in slot {next} no journal shows that was asked")
            }
            None => why,
        }
    }

    /// Nothing but states and what was chosen is of interest yet: to the others this node is one
    /// that is away.
    fn receive(&mut self, event: IncomingEvent, transport: &Transport) {
        match event {
            IncomingEvent::Connected { node, .. } => self.candidates.is_up(node, true),
            IncomingEvent::Disconnected(node) | IncomingEvent::PeerDied(node) => {
                self.candidates.is_up(node, false);
            }
            IncomingEvent::Message { from, message: PeerMessage::Snapshot(message) } => {
                self.fetch.receive(from, message, (self.clock)());
                let progress = self.fetch.progress();
                let furthest = self.furthest.entry(from).or_default();
                // Who gives the same again and again gives nothing.
                if progress.coming.is_some_and(|(peer, _)| peer == from)
                    && progress.bytes > *furthest
                {
                    *furthest = progress.bytes;
                    self.heard_at = (self.clock)();
                }
            }
            IncomingEvent::Message {
                from,
                message: PeerMessage::Paxos(Message::Heartbeat(heartbeat)),
            } => self.candidates.told(from, heartbeat.state),
            IncomingEvent::Message { from, message: PeerMessage::Paxos(Message::Fetch(fetch)) } => {
                let chosen = self.slots.answer(fetch, (self.clock)());
                transport.send(from, &PeerMessage::Paxos(Message::Chosen(chosen)));
            }
            IncomingEvent::Message {
                from,
                message: PeerMessage::Paxos(Message::Chosen(chosen)),
            } => self.slots.receive(from, chosen, (self.clock)()),
            _ => {}
        }
    }

    fn ask_somebody(&mut self) {
        if self.asked.is_some()
            || self.slots.is_moving((self.clock)())
            || !self.candidates.all_told() && (self.clock)() - self.begun_at < LISTEN_FIRST
        {
            return;
        }
        if let Some(peer) = self.candidates.best() {
            self.asked = Some(peer);
            self.fetch.begin(peer, self.above(), (self.clock)());
        }
    }
}

const CONTRADICTED: &str = "two others agree on another state";

/// The peers that may have a state, and what is known of them.
#[derive(Debug)]
struct Candidates {
    /// Everybody that is dialled.
    peers: BTreeSet<NodeId>,
    up: BTreeSet<NodeId>,
    /// How often each failed, and why it did last. That it was away makes up for none of it.
    failures: BTreeMap<NodeId, (u32, String)>,
    /// What the states of each were after which slots, as it says itself.
    told: BTreeMap<NodeId, BTreeMap<Slot, u64>>,
    /// So that another life begins with another peer.
    salt: u32,
}

impl Candidates {
    fn new(peers: impl Iterator<Item = NodeId>) -> Candidates {
        // Without a random number it is always the same order, which is one as well.
        let salt = random_id().map_or(0, |id| u32::try_from(id >> 96).unwrap_or(0));
        Candidates {
            peers: peers.collect(),
            up: BTreeSet::new(),
            failures: BTreeMap::new(),
            told: BTreeMap::new(),
            salt,
        }
    }

    fn is_up(&mut self, node: NodeId, is_up: bool) {
        match is_up {
            true => self.up.insert(node),
            false => self.up.remove(&node),
        };
    }

    fn failed(&mut self, peer: NodeId, reason: String) {
        let (count, last) = self.failures.entry(peer).or_default();
        *count += 1;
        *last = reason;
    }

    fn told(&mut self, peer: NodeId, (slot, hash): (Slot, u64)) {
        let told = self.told.entry(peer).or_default();
        if slot > Slot::ZERO {
            told.insert(slot, hash);
        }
        if told.len() > KEPT {
            told.pop_first();
        }
    }

    fn all_told(&self) -> bool {
        self.peers.iter().all(|peer| self.told.contains_key(peer))
    }

    /// The peers that told of this slot, by what they told.
    fn told_of(&self, slot: Slot) -> BTreeMap<u64, BTreeSet<NodeId>> {
        let mut groups: BTreeMap<u64, BTreeSet<NodeId>> = BTreeMap::new();
        for (peer, told) in &self.told {
            if let Some(hash) = told.get(&slot) {
                groups.entry(*hash).or_default().insert(*peer);
            }
        }
        groups
    }

    /// Whether two others had the same other state after some slot.
    fn is_contradicted(&self, peer: NodeId) -> bool {
        let Some(told) = self.told.get(&peer) else { return false };
        told.iter().any(|(slot, mine)| {
            self.told_of(*slot).iter().any(|(hash, peers)| hash != mine && peers.len() >= 2)
        })
    }

    /// Those whose state is the most common one after the last slot of which several told;
    /// nobody when there is none.
    fn most(&self) -> BTreeSet<NodeId> {
        let slots: BTreeSet<Slot> =
            self.told.values().flat_map(|told| told.keys().copied()).collect();
        let groups = slots.into_iter().rev().map(|slot| self.told_of(slot));
        let mut common =
            groups.filter(|groups| groups.values().map(BTreeSet::len).sum::<usize>() > 1);
        let Some(groups) = common.next() else { return BTreeSet::new() };
        let most = groups.values().map(BTreeSet::len).max().unwrap_or(0);
        let mut first = groups.into_values().filter(|peers| peers.len() == most);
        let found = first.next().unwrap_or_default();
        first.next().map_or(found, |_| BTreeSet::new())
    }

    /// Whom to ask next.
    fn best(&self) -> Option<NodeId> {
        let most = self.most();
        let may_give = self.up.iter().filter(|peer| !self.is_contradicted(**peer));
        let best = may_give.min_by_key(|peer| {
            let failures = self.failures.get(*peer).map_or(0, |(count, _)| *count);
            (failures, !most.contains(*peer), peer.0 ^ self.salt)
        });
        best.copied()
    }

    /// Why no peer gave a state above this slot, in words.
    fn why_none(&self, above: Slot) -> String {
        let mut text = format!("no peer gives one of slot {} or later", above.next());
        for peer in self.peers.union(&self.up) {
            let why = match self.failures.get(peer) {
                _ if self.is_contradicted(*peer) => CONTRADICTED,
                Some((_, reason)) => reason,
                None if self.up.contains(peer) => "it was not asked",
                None => "it is not reached",
            };
            let _ = write!(text, "; {peer}: {why}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(told: &[(u32, u64, u64)]) -> Candidates {
        let mut candidates = Candidates::new([2, 3, 4, 5].map(NodeId).into_iter());
        for (peer, slot, hash) in told {
            candidates.is_up(NodeId(*peer), true);
            candidates.told(NodeId(*peer), (Slot(*slot), *hash));
        }
        candidates
    }

    /// Whom each of many lives asks first.
    fn first_asked(told: &[(u32, u64, u64)]) -> BTreeSet<u32> {
        let mut candidates = candidates(told);
        let first = (0..64).map(|salt| {
            candidates.salt = salt;
            candidates.best().expect("somebody").0
        });
        first.collect()
    }

    #[test]
    fn the_most_common_state_is_asked_for_first_and_a_contradicted_one_never() {
        // Nobody has got far enough to say anything: every life begins with whom it likes.
        assert_eq!(first_asked(&[(2, 0, 0), (3, 0, 0), (4, 0, 0)]), [2, 3, 4].into());
        assert_eq!(first_asked(&[(2, 8, 1), (3, 8, 7), (4, 8, 7)]), [3, 4].into());
        // It is the last common slot that counts, and only who told of it.
        assert_eq!(first_asked(&[(2, 8, 1), (2, 16, 1), (3, 8, 1), (4, 8, 1)]), [2, 3, 4].into());
        // One against one: nobody knows.
        assert_eq!(first_asked(&[(2, 8, 1), (3, 8, 7)]), [2, 3].into());
        let mut all = candidates(&[(2, 8, 1), (3, 8, 7), (4, 8, 7)]);
        assert!(all.is_contradicted(NodeId(2)) && !all.is_contradicted(NodeId(3)));
        for peer in [3, 4] {
            all.is_up(NodeId(peer), false);
        }
        assert_eq!(all.best(), None);
        assert!(all.why_none(Slot(9)).contains(CONTRADICTED), "{}", all.why_none(Slot(9)));
        // What differs at other slots says nothing.
        assert!(!candidates(&[(2, 8, 1), (3, 16, 7), (4, 16, 7)]).is_contradicted(NodeId(2)));
    }

    #[test]
    fn failures_are_not_forgotten_when_a_peer_goes_and_comes_and_their_reasons_are_told() {
        let mut candidates = candidates(&[(2, 0, 0), (3, 0, 0)]);
        assert!(!candidates.all_told());
        let first = candidates.best().expect("somebody");
        candidates.failed(first, "a damaged block".to_owned());
        candidates.is_up(first, false);
        candidates.is_up(first, true);
        let second = candidates.best().expect("somebody");
        assert_ne!(first, second);
        candidates.failed(second, "no room".to_owned());
        candidates.failed(second, "no room".to_owned());
        assert_eq!(candidates.best(), Some(first));
        let why = candidates.why_none(Slot(41));
        for words in ["slot 42", "a damaged block", "no room", "not reached"] {
            assert!(why.contains(words), "{words:?} is missing in {why:?}");
        }
    }

    #[test]
    fn a_node_that_nobody_helped_asks_briefly_and_then_longer_and_longer() {
        let seconds = |times| patience(times).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, 6].map(seconds), [120, 5, 10, 20, 40, 80, 120]);
        assert_eq!(patience(u32::MAX), PATIENCE);
    }

    #[test]
    fn what_a_peer_tells_is_bounded() {
        let mut candidates = candidates(&[]);
        for slot in 1..=100 {
            candidates.told(NodeId(2), (Slot(slot), slot));
        }
        assert_eq!(candidates.told[&NodeId(2)].len(), KEPT);
        assert!(candidates.told_of(Slot(100)).len() == 1 && candidates.told_of(Slot(1)).is_empty());
    }
}
