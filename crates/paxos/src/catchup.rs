//! Catch-up: chosen values that this node misses are fetched from a peer's log,
//! chunk by chunk, beside live traffic. What is in no log any more comes with the
//! state of a peer, a snapshot.

use alloc::collections::BTreeMap;

use crate::{Fetch, NodeId, Slot, Time};

/// The state of a node that misses chosen slots.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Catchup {
    nonce: u64,
    open: Option<Open>,
    /// Since when the chosen prefix has been behind without moving.
    behind: Option<(Slot, Time)>,
    /// Peers that failed us go to the end of the line: by the nonce of the last request that
    /// each did not serve, until it serves one or nothing is missing.
    failed: BTreeMap<NodeId, u64>,
    /// Nobody could be asked when this was last tried: heartbeats wake it.
    blocked: bool,
    /// The peer whose state is on its way.
    snapshot: Option<NodeId>,
    /// The peers whose states did not come, and when that was known last, until one comes.
    no_snapshot: BTreeMap<NodeId, Time>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Open {
    nonce: u64,
    from: NodeId,
    asked_at: Time,
}

/// A peer that could ship values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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
        Catchup {
            nonce: incarnation << 32,
            open: None,
            behind: None,
            failed: BTreeMap::new(),
            blocked: false,
            snapshot: None,
            no_snapshot: BTreeMap::new(),
        }
    }

    /// Notes how far this node is and how far it could be.
    pub(crate) fn note(&mut self, now: Time, chosen_upto: Slot, known_chosen: Slot) {
        if chosen_upto >= known_chosen {
            self.behind = None;
            self.failed.clear();
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
            (None, Some(_)) if self.blocked => None,
            (None, Some((_, since))) => Some(since.plus_us(Self::PATIENCE_US)),
            (None, None) => None,
        }
    }

    /// Gives up an answer that does not come.
    pub(crate) fn expire(&mut self, now: Time, timeout_us: u64) {
        if let Some(open) = self.open.take_if(|open| now.since_us(open.asked_at) >= timeout_us) {
            self.failed.insert(open.from, open.nonce);
        }
    }

    /// Other nodes belong to the cluster now: what others failed does not count any more.
    pub(crate) fn set_everybody(&mut self, everybody: &[NodeId]) {
        self.failed.retain(|node, _| everybody.contains(node));
        self.no_snapshot.retain(|node, _| everybody.contains(node));
    }

    /// Whether a request can be made at all now.
    pub(crate) fn block(&mut self, blocked: bool) {
        self.blocked = blocked;
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
        // A follower ships before the leader does, and whoever failed us last goes last.
        let best = able.min_by_key(|s| (self.failed.get(&s.node), s.is_leader, s.node));
        self.blocked = best.is_none();
        let best = best?;
        self.nonce += 1;
        self.open = Some(Open { nonce: self.nonce, from: best.node, asked_at: now });
        let last = last.min(best.chosen_upto);
        Some((best.node, Fetch { nonce: self.nonce, first, last }))
    }

    /// The peer whose state is needed: some peers are ahead, and none of them can ship the
    /// slot `first`. One at a time, and after a failure not before `pause_us`.
    pub(crate) fn next_snapshot(
        &mut self,
        now: Time,
        first: Slot,
        pause_us: u64,
        sources: &[Source],
    ) -> Option<NodeId> {
        let (_, since) = self.behind?;
        let rests = self.no_snapshot.values().any(|at| now.since_us(*at) < pause_us);
        if self.open.is_some() || self.snapshot.is_some() || rests {
            return None;
        }
        let ahead = || sources.iter().filter(|source| source.chosen_upto >= first);
        let is_shipped = ahead().any(|source| source.available_from <= first);
        if is_shipped || now.since_us(since) < Self::PATIENCE_US {
            return None;
        }
        let failed_at = |node| self.no_snapshot.get(&node);
        let best = ahead().min_by_key(|s| (failed_at(s.node), s.is_leader, s.node))?;
        // The leader has enough to do. A follower may only not have been heard yet.
        if best.is_leader && now.since_us(since) < pause_us {
            return None;
        }
        self.snapshot = Some(best.node);
        self.snapshot
    }

    /// The state of a peer was installed.
    pub(crate) fn installed(&mut self) {
        self.snapshot = None;
        self.no_snapshot.clear();
    }

    /// The state of this peer does not come.
    pub(crate) fn snapshot_failed(&mut self, now: Time, from: NodeId) {
        if self.snapshot.take_if(|node| *node == from).is_some() {
            self.no_snapshot.insert(from, now);
        }
    }

    /// Whether this chunk answers the open request.
    pub(crate) fn receive_chunk(&mut self, from: NodeId, nonce: u64, is_empty: bool) -> bool {
        let fits = |open: &mut Open| open.nonce == nonce && open.from == from;
        let answered = self.open.take_if(fits).is_some();
        if answered && is_empty {
            self.failed.insert(from, nonce);
        } else if answered {
            self.failed.remove(&from);
        }
        answered
    }

    /// The peer is gone: its answer will not come.
    pub(crate) fn receive_death(&mut self, node: NodeId) {
        if let Some(open) = self.open.take_if(|open| open.from == node) {
            self.failed.insert(node, open.nonce);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{vec, vec::Vec};

    const TIMEOUT_US: u64 = 300_000;
    const START: Time = Time(1_000_000);

    /// Three followers and the leader.
    const FOUR: [(u32, bool); 4] = [(1, false), (2, false), (3, false), (4, true)];

    fn source(node: u32, available_from: u64, chosen_upto: u64, is_leader: bool) -> Source {
        let (available_from, chosen_upto) = (Slot(available_from), Slot(chosen_upto));
        Source { node: NodeId(node), available_from, chosen_upto, is_leader }
    }

    /// A node that has slots 1 to 4 and knows of 9, after its patience.
    fn behind() -> (Catchup, Time) {
        let mut catchup = Catchup::new(7);
        catchup.note(START, Slot(4), Slot(9));
        (catchup, START.plus_us(Catchup::PATIENCE_US))
    }

    fn ask(catchup: &mut Catchup, now: Time, sources: &[Source]) -> Option<(NodeId, Fetch)> {
        catchup.next(now, Slot(5), Slot(9), false, sources.iter().copied())
    }

    /// Three peers, each with every combination of what it holds, one of them or none the
    /// leader, one of them or none the last that failed: the best of those that hold the next
    /// slot is asked, for no more than it holds.
    #[test]
    fn the_best_peer_that_holds_the_next_slot_is_asked() {
        let holds = [(1, 3), (1, 5), (5, 7), (5, 12), (6, 12)];
        for code in 0..125_usize {
            for (leader, failed) in (0..=3).flat_map(|leader| (0..=3).map(move |f| (leader, f))) {
                let (mut catchup, now) = behind();
                catchup.failed.insert(NodeId(failed), 1);
                let of = |place: u32| holds[code / 5_usize.pow(place) % 5];
                let sources: Vec<Source> = (1..=3_u32)
                    .map(|node| {
                        let (from, upto) = of(node - 1);
                        source(node, from, upto, node == leader)
                    })
                    .collect();
                let able = |s: &&Source| s.available_from <= Slot(5) && s.chosen_upto >= Slot(5);
                let able: Vec<&Source> = sources.iter().filter(able).collect();
                // In this order: neither failed nor leads, leads, failed; then the lowest id.
                let pick = |fits: &dyn Fn(u32) -> bool| able.iter().find(|s| fits(s.node.0));
                let best = pick(&|node| node != failed && node != leader)
                    .or_else(|| pick(&|node| node != failed))
                    .or_else(|| pick(&|_| true));
                let expected = best.map(|s| {
                    let last = s.chosen_upto.min(Slot(9));
                    (s.node, Fetch { nonce: (7 << 32) + 1, first: Slot(5), last })
                });
                assert_eq!(ask(&mut catchup, now, &sources), expected);
            }
        }
    }

    /// Every combination of what three peers hold, a leader among them or none: the state of
    /// one is wanted exactly when some are ahead and none of those has the next slot.
    #[test]
    fn the_state_of_a_peer_is_wanted_when_no_log_holds_the_next_slot() {
        let holds = [(1, 3), (1, 5), (5, 7), (6, 12), (9, 9)];
        for code in 0..125_usize {
            for leader in 0..=3 {
                let (mut catchup, now) = behind();
                let of = |place: u32| holds[code / 5_usize.pow(place) % 5];
                let sources: Vec<Source> = (1..=3_u32)
                    .map(|node| source(node, of(node - 1).0, of(node - 1).1, node == leader))
                    .collect();
                let able = ask(&mut catchup, now, &sources).is_some();
                let mut ahead: Vec<&Source> =
                    sources.iter().filter(|s| s.chosen_upto >= Slot(5)).collect();
                ahead.sort_by_key(|s| (s.is_leader, s.node));
                let expected = ahead.first().filter(|_| !able);
                let later = now.plus_us(TIMEOUT_US);
                let early = Time(now.0 - 1);
                let (mut other, _) = behind();
                assert_eq!(other.next_snapshot(early, Slot(5), TIMEOUT_US, &sources), None);
                let wanted = catchup.next_snapshot(now, Slot(5), TIMEOUT_US, &sources);
                let first = expected.filter(|s| !s.is_leader).map(|s| s.node);
                assert_eq!(wanted, first, "{sources:?}");
                if wanted.is_none() {
                    let wanted = catchup.next_snapshot(later, Slot(5), TIMEOUT_US, &sources);
                    assert_eq!(wanted, expected.map(|s| s.node), "{sources:?}");
                }
            }
        }
    }

    #[test]
    fn one_state_is_on_its_way_at_a_time_and_the_next_comes_from_another_peer() {
        let (mut catchup, mut now) = behind();
        let two = [source(2, 6, 9, false), source(3, 6, 9, false)];
        let want = |catchup: &mut Catchup, now| {
            catchup.next_snapshot(now, Slot(5), TIMEOUT_US, &two).map(|node| node.0)
        };
        for node in [2, 3, 2] {
            assert_eq!(want(&mut catchup, now), Some(node));
            assert_eq!(want(&mut catchup, now.plus_us(9 * TIMEOUT_US)), None, "on its way");
            catchup.snapshot_failed(now, NodeId(5 - node));
            assert_eq!(want(&mut catchup, now.plus_us(9 * TIMEOUT_US)), None, "another failed");
            catchup.snapshot_failed(now, NodeId(node));
            assert_eq!(want(&mut catchup, now.plus_us(TIMEOUT_US - 1)), None, "a pause first");
            now = now.plus_us(TIMEOUT_US);
        }
        assert_eq!(want(&mut catchup, now), Some(3));
        catchup.installed();
        assert_eq!(want(&mut catchup, now), Some(2), "it is behind again, and none has failed");
    }

    /// Three followers and the leader, and no state comes: all are asked before anybody is
    /// asked again.
    #[test]
    fn the_state_of_every_peer_is_asked_for_in_turn() {
        let four = FOUR.map(|(node, is_leader)| source(node, 6, 9, is_leader));
        let (mut catchup, mut now) = behind();
        let mut asked = Vec::new();
        for _ in 0..8 {
            now = now.plus_us(TIMEOUT_US);
            let node = catchup.next_snapshot(now, Slot(5), TIMEOUT_US, &four).expect("due");
            catchup.snapshot_failed(now, node);
            asked.push(node.0);
        }
        assert_eq!(asked, [1, 2, 3, 4, 1, 2, 3, 4]);
        now = now.plus_us(TIMEOUT_US);
        // Who is a member no more, and comes back, is as new.
        catchup.set_everybody(&[NodeId(1), NodeId(3), NodeId(4)]);
        assert_eq!(catchup.no_snapshot.len(), 3);
        let next = catchup.next_snapshot(now, Slot(5), TIMEOUT_US, &four);
        assert_eq!(next, Some(NodeId(2)));
    }

    #[test]
    fn an_accept_on_its_way_is_not_a_gap() {
        let (mut catchup, due) = behind();
        let sources = [source(2, 1, 9, false)];
        assert_eq!(catchup.due_at(TIMEOUT_US), Some(due));
        let early = Time(due.0 - 1);
        assert_eq!(ask(&mut catchup, early, &sources), None);
        // The prefix moved: patience begins anew. It is complete: nothing is missing.
        catchup.note(early, Slot(5), Slot(9));
        assert_eq!(ask(&mut catchup, due, &sources), None);
        catchup.note(due, Slot(9), Slot(9));
        assert_eq!((catchup.behind_us(due), catchup.due_at(TIMEOUT_US)), (None, None));
        assert_eq!(ask(&mut catchup, due.plus_us(TIMEOUT_US), &sources), None);
    }

    #[test]
    fn after_a_chunk_the_next_one_is_asked_for_at_once() {
        let (mut catchup, now) = behind();
        let sources = [source(2, 1, 9, false)];
        let (_, fetch) = ask(&mut catchup, now, &sources).expect("due");
        assert!(catchup.receive_chunk(NodeId(2), fetch.nonce, false));
        catchup.note(now, Slot(7), Slot(9));
        assert_eq!(catchup.next(now, Slot(8), Slot(9), false, sources.into_iter()), None);
        let next = catchup.next(now, Slot(8), Slot(9), true, sources.into_iter());
        let nonce = fetch.nonce + 1;
        assert_eq!(next, Some((NodeId(2), Fetch { nonce, first: Slot(8), last: Slot(9) })));
    }

    /// Every sequence of three chunks, each from one of two peers with one of three nonces:
    /// only the peer that was asked, with the nonce of the open request, and only once.
    #[test]
    fn a_chunk_that_nobody_asked_for_is_not_taken() {
        let letters: Vec<(NodeId, u64)> =
            [2, 3].into_iter().flat_map(|node| (0..3).map(move |n| (NodeId(node), n))).collect();
        for sequence in 0..letters.len().pow(3) {
            let (mut catchup, now) = behind();
            assert!(!catchup.receive_chunk(NodeId(2), 7 << 32, false), "nothing was asked for");
            let (to, fetch) = ask(&mut catchup, now, &[source(2, 1, 9, false)]).expect("due");
            let mut open = true;
            for step in [sequence, sequence / 6, sequence / 36] {
                let (from, nonce) = letters[step % 6];
                let nonce = (7 << 32) + nonce;
                let taken = catchup.receive_chunk(from, nonce, false);
                let fits = from == to && nonce == fetch.nonce;
                assert_eq!(taken, open && fits);
                open &= !fits;
                assert_eq!(ask(&mut catchup, now, &[]), None, "one at a time");
            }
        }
    }

    /// Silence, an empty answer and death all send the node to another peer, and back to the
    /// same one only when there is no other.
    #[test]
    fn whoever_fails_goes_to_the_end_of_the_line() {
        let fail: [fn(&mut Catchup, Time, NodeId, u64); 3] = [
            |catchup, now, _, _| catchup.expire(now.plus_us(TIMEOUT_US), TIMEOUT_US),
            |catchup, _, node, nonce| assert!(catchup.receive_chunk(node, nonce, true)),
            |catchup, _, node, _| catchup.receive_death(node),
        ];
        for fail in fail {
            let (mut catchup, now) = behind();
            let two = vec![source(2, 1, 9, false), source(3, 1, 9, false)];
            let (mut asked, mut nonces) = (Vec::new(), Vec::new());
            for sources in [&two[..], &two, &two, &two[..1], &two[..1]] {
                let (node, fetch) = ask(&mut catchup, now, sources).expect("it is still behind");
                assert_eq!(ask(&mut catchup, now, sources), None, "one request at a time");
                asked.push(node.0);
                nonces.push(fetch.nonce);
                fail(&mut catchup, now, node, fetch.nonce);
            }
            assert_eq!(asked, [2, 3, 2, 2, 2]);
            assert!(nonces.windows(2).all(|two| two[0] < two[1]), "never used twice");
        }
    }

    /// Three followers and the leader, of whom only one ships values: it is asked before
    /// anybody is asked again, and then for all the rest.
    #[test]
    fn the_only_peer_that_ships_is_found() {
        for ships in 1..=4 {
            let (mut catchup, mut now) = behind();
            let four = FOUR.map(|(node, is_leader)| source(node, 1, 9, is_leader));
            let mut asked = Vec::new();
            for _ in 0..6 {
                let (node, fetch) = ask(&mut catchup, now, &four).expect("it is still behind");
                asked.push(node.0);
                if node.0 == ships {
                    assert!(catchup.receive_chunk(node, fetch.nonce, false));
                } else {
                    now = now.plus_us(TIMEOUT_US);
                    catchup.expire(now, TIMEOUT_US);
                }
            }
            let expected: Vec<u32> = (1..ships).chain(core::iter::repeat(ships)).take(6).collect();
            assert_eq!(asked, expected);
            // Only members are remembered, and nobody when nothing is missing.
            assert_eq!(catchup.failed.len(), (1..ships).count());
            catchup.set_everybody(&[NodeId(1), NodeId(4)]);
            assert_eq!(catchup.failed.len(), usize::from(ships > 1));
            catchup.note(now, Slot(9), Slot(9));
            assert!(catchup.failed.is_empty());
        }
    }

    #[test]
    fn an_answer_is_waited_for_no_longer_than_the_timeout() {
        let (mut catchup, now) = behind();
        let two = [source(2, 1, 9, false), source(3, 1, 9, false)];
        ask(&mut catchup, now, &two);
        let due = now.plus_us(TIMEOUT_US);
        assert_eq!(catchup.due_at(TIMEOUT_US), Some(due));
        catchup.expire(Time(due.0 - 1), TIMEOUT_US);
        assert_eq!(ask(&mut catchup, due, &two), None);
        catchup.receive_death(NodeId(3));
        assert_eq!(ask(&mut catchup, due, &two), None, "another's death is no reason");
        catchup.expire(due, TIMEOUT_US);
        assert_eq!(ask(&mut catchup, due, &two).map(|(node, _)| node), Some(NodeId(3)));
    }
}
