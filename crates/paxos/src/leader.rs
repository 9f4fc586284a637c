//! Who leads: when to stand, whom to follow, when to give up.
//!
//! Liveness only. Nothing here can make two values chosen, so all of it may rest
//! on time and on hearsay.

use alloc::{collections::VecDeque, vec::Vec};
use core::cmp::Reverse;

use crate::{
    Ballot, Bug, Configuration, Heartbeat, NodeId, Options, Planted, Reign, Room, Slot, Time,
};

/// A node without room on its disk gives those that have some so many election timeouts.
const DEFERENCE_TIMEOUTS: u64 = 10;

/// What a node knows about the liveness of the others.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Liveness {
    me: NodeId,
    election_timeout_us: u64,
    heartbeat_us: u64,
    disk_stall_us: u64,
    /// Everybody to talk to, by place; this node's own entry stays empty.
    peers: Vec<Peer>,
    following: Option<Following>,
    /// The leader that said itself that its disk hangs: only its own word ends that.
    hanging: Option<Ballot>,
    /// The followed leader that died, and when. What it sent before may still
    /// arrive; only an answer to a later heartbeat shows that it lives after all.
    mourned: Option<(Ballot, Time)>,
    /// Since when this node knows of no live leader.
    leaderless_since: Option<Time>,
    /// Since when a quorum has reported the same.
    quorum_since: Option<Time>,
    /// Sequence of the last heartbeat, and when the recent ones were sent.
    sequence: u64,
    sent: VecDeque<(u64, Time)>,
    next_heartbeat_at: Time,
    /// Back-off after a lost election or a promise to another.
    not_before: Time,
    /// To whom it gave time last.
    gave_time_to: Option<NodeId>,
    attempts: u32,
    random: u64,
    planted: Planted,
}

/// What a node knows about one other.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) last: Option<Heartbeat>,
    heard_at: Option<Time>,
    /// When it was heard, though it may have died since.
    known_at: Option<Time>,
    /// When this node sent the newest heartbeat that the peer has echoed.
    two_way_at: Option<Time>,
    /// The same for one that said that it follows this node's ballot.
    followed_at: Option<Time>,
    pub(crate) round_trip_us: u64,
    /// Heartbeats in a row that told of a promise above this leader's ballot.
    deaf: u32,
}

/// The leader that this node hears.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Following {
    ballot: Ballot,
    heard_at: Time,
}

/// Whether to stand now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stand {
    /// At once.
    Now,
    /// Not before this time, if nothing changes.
    At(Time),
    /// Not while things are as they are.
    No,
}

/// What the decision to stand looks at on this node itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidacy {
    pub(crate) chosen_upto: Slot,
    pub(crate) last_accepted: (Ballot, Slot),
    pub(crate) disk_age_us: u64,
    pub(crate) room: Room,
}

impl Liveness {
    pub(crate) fn new(me: NodeId, everybody: &[NodeId], options: &Options, now: Time) -> Liveness {
        Liveness {
            me,
            election_timeout_us: options.election_timeout_us,
            heartbeat_us: options.heartbeat_us,
            disk_stall_us: options.disk_stall_us,
            peers: everybody.iter().map(|node| Peer::new(*node)).collect(),
            following: None,
            hanging: None,
            mourned: None,
            leaderless_since: Some(now),
            quorum_since: None,
            sequence: options.incarnation << 32,
            sent: VecDeque::new(),
            next_heartbeat_at: now,
            not_before: now,
            gave_time_to: None,
            attempts: 0,
            planted: options.planted,
            random: options.seed ^ (u64::from(me.0) << 32) ^ options.incarnation ^ 0x9e37_79b9,
        }
    }

    /// From now on these are the others, in this order. What is known of those that stay
    /// is kept.
    pub(crate) fn set_everybody(&mut self, everybody: &[NodeId]) {
        let mut known = core::mem::take(&mut self.peers);
        let mut peer_of = |node: NodeId| match known.iter().position(|peer| peer.node == node) {
            Some(place) => known.swap_remove(place),
            None => Peer::new(node),
        };
        self.peers = everybody.iter().map(|node| peer_of(*node)).collect();
    }

    /// What is known of the member at `index`.
    pub(crate) fn peer(&self, index: usize) -> &Peer {
        &self.peers[index]
    }

    /// A message of the leader of `ballot` arrived: as good as a heartbeat.
    pub(crate) fn hear_leader(&mut self, now: Time, ballot: Ballot, promised: Ballot) {
        let newer = self.following.is_none_or(|following| ballot >= following.ballot);
        let dead = self.mourned.is_some_and(|(mourned, _)| ballot <= mourned);
        let hangs = self.hanging == Some(ballot);
        if ballot >= promised && newer && !dead && !hangs && ballot.node != self.me {
            if self.following.is_none_or(|following| ballot > following.ballot) {
                self.not_before = now; // The candidate that it gave time to has won.
            }
            self.following = Some(Following { ballot, heard_at: now });
            self.attempts = 0;
        }
    }

    /// Whether a heartbeat was reordered or duplicated: it says nothing that a newer one
    /// did not say.
    pub(crate) fn is_outdated(&self, index: usize, sequence: u64) -> bool {
        self.peers[index].last.as_ref().is_some_and(|last| last.sequence >= sequence)
    }

    /// Takes a heartbeat that is not outdated. `leading` is this node's own ballot while it leads.
    pub(crate) fn receive_heartbeat(
        &mut self,
        now: Time,
        index: usize,
        heartbeat: Heartbeat,
        leading: Option<Ballot>,
        promised: Ballot,
    ) {
        let sent_at = self.sent_at(heartbeat.echo);
        let answers_later = self.mourned.is_some_and(|(ballot, died_at)| {
            ballot.node == self.peers[index].node && sent_at.is_some_and(|at| at > died_at)
        });
        if answers_later {
            self.mourned = None;
        }
        let peer = &mut self.peers[index];
        peer.heard_at = Some(now);
        peer.known_at = Some(now);
        if let Some(sent_at) = sent_at {
            if peer.two_way_at.is_none_or(|known| sent_at > known) {
                let sample = now.since_us(sent_at).saturating_sub(heartbeat.echo_held_us).max(1);
                peer.round_trip_us = match peer.round_trip_us {
                    0 => sample,
                    smoothed => (smoothed * 7 + sample) / 8,
                };
                peer.two_way_at = Some(sent_at);
            }
            if leading.is_some() && heartbeat.following == leading {
                peer.followed_at = peer.followed_at.max(Some(sent_at));
            }
        }
        let above = leading.is_some_and(|ballot| heartbeat.promised > ballot);
        peer.deaf = if above && heartbeat.following.is_none() { peer.deaf + 1 } else { 0 };
        let sender = heartbeat.promised;
        let leads = heartbeat.leading.as_ref().map(|watermark| watermark.ballot);
        let stalled = heartbeat.disk_age_us > 2 * self.election_timeout_us.max(self.disk_stall_us);
        peer.last = Some(heartbeat);
        let node = peer.node;
        let from_leader = self.following.is_some_and(|f| f.ballot.node == node);
        match leads {
            Some(ballot) if stalled => {
                self.hanging = Some(ballot);
                self.following.take_if(|following| following.ballot == ballot);
            }
            Some(ballot) => {
                self.hanging.take_if(|hanging| *hanging == ballot);
                self.hear_leader(now, ballot, promised);
            }
            // The leader itself says that it does not lead.
            None if from_leader && self.following.is_some_and(|f| sender >= f.ballot) => {
                self.following = None;
            }
            None => {}
        }
    }

    /// A vote in this node's ballot shows that its sender follows it.
    pub(crate) fn note_vote(&mut self, now: Time, index: usize) {
        self.peers[index].followed_at = Some(now);
    }

    /// The transport has evidence that the peer's process is gone.
    pub(crate) fn receive_death(&mut self, now: Time, index: usize) {
        let peer = &mut self.peers[index];
        peer.heard_at = None;
        peer.two_way_at = None;
        peer.followed_at = None;
        let node = peer.node;
        if let Some(following) = self.following.take_if(|f| f.ballot.node == node) {
            self.mourned = Some((following.ballot, now));
        }
        if self.gave_time_to.take_if(|candidate| *candidate == node).is_some() {
            self.not_before = now; // The candidate that it gave time to is gone.
        }
    }

    /// This node promised `ballot` to another's candidacy: it gives it time.
    pub(crate) fn promised_to(&mut self, now: Time, ballot: Ballot) {
        if ballot.node != self.me {
            self.give_time(now, ballot.node);
        }
        if self.following.is_some_and(|following| following.ballot < ballot) {
            self.following = None;
        }
    }

    /// Another node stands: it goes first.
    pub(crate) fn give_time(&mut self, now: Time, candidate: NodeId) {
        if self.planted.is(Bug::NoBackOff) {
            return;
        }
        self.gave_time_to = Some(candidate);
        let patience = (self.election_timeout_us / 2) << self.attempts.min(4);
        self.not_before = self.not_before.max(now.plus_us(patience));
    }

    /// This node's candidacy failed: wait longer each time, by chance, so that a
    /// duel ends.
    pub(crate) fn lost(&mut self, now: Time) {
        if self.planted.is(Bug::LoserNeverStandsAgain) {
            self.not_before = Time(u64::MAX);
        }
        if self.planted.is(Bug::NoBackOff) {
            return;
        }
        self.attempts = (self.attempts + 1).min(6);
        let spread = (self.heartbeat_us << self.attempts).min(16 * self.election_timeout_us);
        let wait = self.random_below(spread.max(1));
        self.not_before = self.not_before.max(now.plus_us(wait));
    }

    /// This node leads. Its lost elections count until it has shown that it can.
    pub(crate) fn won(&mut self, now: Time) {
        self.following = None;
        for peer in &mut self.peers {
            peer.deaf = 0;
            // Whoever did not promise has an election timeout to follow.
            peer.followed_at = Some(now);
        }
    }

    /// This node leads well.
    pub(crate) fn prevailed(&mut self) {
        self.attempts = 0;
    }

    /// How long a candidate waits for the next page of a promise.
    pub(crate) fn candidate_patience_us(&self) -> u64 {
        self.election_timeout_us << self.attempts.min(4)
    }

    /// Forgets a leader that has been silent for too long.
    pub(crate) fn note_silence(&mut self, now: Time) {
        let limit = self.election_timeout_us;
        self.following.take_if(|following| now.since_us(following.heard_at) >= limit);
    }

    /// The live leader's ballot as this node sees it, itself left aside.
    pub(crate) fn following(&self, now: Time, promised: Ballot) -> Option<Ballot> {
        let following = self.following?;
        let heard = now.since_us(following.heard_at) < self.election_timeout_us;
        (heard && following.ballot >= promised).then_some(following.ballot)
    }

    /// Whether a q2 quorum followed this node's ballot within an election timeout.
    pub(crate) fn is_followed(&self, now: Time, configuration: &Configuration) -> bool {
        let recent =
            |at: Option<Time>| at.is_some_and(|at| now.since_us(at) < self.election_timeout_us);
        let follows = |peer: &Peer| recent(peer.followed_at);
        self.count(configuration, follows) >= configuration.accept_quorum()
    }

    /// The voters of the configuration that work as far as this node knows, itself
    /// included.
    pub(crate) fn reachable_voters(&self, now: Time, configuration: &Configuration) -> Vec<NodeId> {
        let reaches = |node: &NodeId| {
            let peer = self.peers.iter().find(|peer| peer.node == *node);
            *node == self.me || peer.is_some_and(|peer| self.is_two_way(now, peer))
        };
        configuration.voters().iter().copied().filter(reaches).collect()
    }

    /// How many voters of the configuration fit; this node itself does.
    pub(crate) fn count(
        &self,
        configuration: &Configuration,
        fits: impl Fn(&Peer) -> bool,
    ) -> usize {
        let voters = configuration.voters();
        let own = usize::from(voters.contains(&self.me));
        let is_other = |peer: &&Peer| peer.node != self.me && voters.contains(&peer.node);
        own + self.peers.iter().filter(is_other).filter(|peer| fits(peer)).count()
    }

    /// The voters of the configuration whose disks are no worse than `least`, as they said
    /// themselves, among those that count.
    pub(crate) fn with_room(
        &self,
        configuration: &Configuration,
        own: Room,
        least: Room,
        counts: impl Fn(&Peer) -> bool,
    ) -> usize {
        let has_room = |peer: &Peer| peer.last.as_ref().is_some_and(|last| last.room <= least);
        let counts = |peer: &Peer| counts(peer) || self.planted.is(Bug::DeadHaveRoom);
        let own_worse = configuration.is_voter(self.me) && own > least;
        self.count(configuration, |peer| counts(peer) && has_room(peer)) - usize::from(own_worse)
    }

    /// Whether this node can count on the peer: it answers, and its disk does not hang.
    pub(crate) fn is_able(&self, now: Time, peer: &Peer) -> bool {
        let hangs = |last: &Heartbeat| last.disk_age_us > self.disk_stall_us;
        self.is_two_way(now, peer) && !peer.last.as_ref().is_some_and(hangs)
    }

    /// Whether some voter has been refusing this leader's ballot for a while
    /// without following anybody else.
    pub(crate) fn has_deaf_voter(&self, in_force: &[Reign]) -> bool {
        let votes = |peer: &Peer| in_force.iter().any(|r| r.configuration.is_voter(peer.node));
        self.peers.iter().any(|peer| peer.deaf >= 3 && votes(peer))
    }

    /// Notes whether a live leader is known now.
    pub(crate) fn note_leader(&mut self, now: Time, known: bool) {
        if known {
            self.leaderless_since = None;
            self.quorum_since = None;
        } else if self.leaderless_since.is_none() {
            self.leaderless_since = Some(now);
        }
    }

    /// Whether this node stands. It does iff it is a voter and a quorum, itself
    /// included, reports that it knows of no live leader, by fresh and two-way
    /// heartbeats. So nobody who hears the leader helps to unseat it. While a new
    /// configuration is chosen and does not govern yet, both it and the one before must
    /// have such a quorum, since both must promise.
    pub(crate) fn stand(&mut self, now: Time, in_force: &[Reign], candidacy: Candidacy) -> Stand {
        let votes = |node: NodeId| in_force.iter().any(|r| r.configuration.is_voter(node));
        let stalled = candidacy.disk_age_us > self.disk_stall_us;
        if self.leaderless_since.is_none() || stalled || !votes(self.me) {
            return Stand::No;
        }
        let (mut rank, mut defers): (u64, bool) = (0, false);
        for peer in self.peers.iter().filter(|peer| votes(peer.node)) {
            let Some(last) = self.report(now, peer) else { continue };
            // Candidates go in order of log, then lowest id. What a leader misses of the
            // chosen prefix it must fetch before it can propose, so that comes first.
            let mine = (candidacy.chosen_upto, candidacy.last_accepted, Reverse(self.me));
            let theirs = (last.chosen_upto, last.last_accepted, Reverse(peer.node));
            let able = last.disk_age_us <= self.disk_stall_us;
            rank += u64::from(able && mine < theirs);
            defers |= able && candidacy.room == Room::Out && last.room != Room::Out;
        }
        let reports = |peer: &Peer| self.report(now, peer).is_some();
        let has_quorum = |c: &Configuration| self.count(c, reports) >= c.progress_quorum();
        if !in_force.iter().all(|reign| has_quorum(&reign.configuration)) {
            self.quorum_since = None;
            return Stand::No;
        }
        let since = *self.quorum_since.get_or_insert(now);
        // Without room it falls behind: it stands if those with room cannot reach each other.
        let patience_us = if defers { DEFERENCE_TIMEOUTS * self.election_timeout_us } else { 0 };
        let turn = since.plus_us(rank * self.heartbeat_us / 2 + patience_us).max(self.not_before);
        if now >= turn { Stand::Now } else { Stand::At(turn) }
    }

    /// The peer's report that it knows of no live leader, if there is one that is fresh
    /// and two-way.
    fn report<'a>(&self, now: Time, peer: &'a Peer) -> Option<&'a Heartbeat> {
        let last = peer.last.as_ref().filter(|_| self.is_two_way(now, peer))?;
        (last.following.is_none() && self.is_report_fresh(now, peer)).then_some(last)
    }

    /// Heard within an election timeout, both ways.
    pub(crate) fn is_reachable(&self, now: Time, index: usize) -> bool {
        self.is_two_way(now, &self.peers[index])
    }

    fn is_two_way(&self, now: Time, peer: &Peer) -> bool {
        let fresh =
            |at: Option<Time>| at.is_some_and(|at| now.since_us(at) < self.election_timeout_us);
        fresh(peer.heard_at) && fresh(peer.two_way_at)
    }

    /// A report of "no live leader" ages faster than a contact: its sender may have
    /// found a leader since.
    fn is_report_fresh(&self, now: Time, peer: &Peer) -> bool {
        let limit = (3 * self.heartbeat_us).min(self.election_timeout_us);
        peer.heard_at.is_some_and(|at| now.since_us(at) < limit)
    }

    /// Numbers the next heartbeat.
    pub(crate) fn next_sequence(&mut self, now: Time) -> u64 {
        const REMEMBERED: usize = 256;
        self.sequence += 1;
        self.sent.push_back((self.sequence, now));
        if self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
        self.next_heartbeat_at = now.plus_us(self.heartbeat_us);
        self.sequence
    }

    /// The highest sequence heard from the member at `index`, and how long ago in
    /// microseconds.
    pub(crate) fn echo_for(&self, now: Time, index: usize) -> (u64, u64) {
        let peer = &self.peers[index];
        let sequence = peer.last.as_ref().map_or(0, |last| last.sequence);
        (sequence, peer.heard_at.map_or(0, |at| now.since_us(at)))
    }

    /// Something happened that the others must hear of at once.
    pub(crate) fn hasten(&mut self, now: Time) {
        self.next_heartbeat_at = now;
    }

    /// When the next heartbeat is due.
    pub(crate) fn next_heartbeat_at(&self) -> Time {
        self.next_heartbeat_at
    }

    /// When the followed leader's silence would last an election timeout.
    pub(crate) fn silence_at(&self) -> Option<Time> {
        self.following.map(|following| following.heard_at.plus_us(self.election_timeout_us))
    }

    fn sent_at(&self, sequence: u64) -> Option<Time> {
        let (first, _) = *self.sent.front()?;
        let index = usize::try_from(sequence.checked_sub(first)?).ok()?;
        self.sent.get(index).map(|(_, at)| *at)
    }

    /// A number in `0..bound`, the same for the same seed (SplitMix64).
    fn random_below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

impl Peer {
    fn new(node: NodeId) -> Peer {
        Peer {
            node,
            last: None,
            heard_at: None,
            known_at: None,
            two_way_at: None,
            followed_at: None,
            round_trip_us: 0,
            deaf: 0,
        }
    }

    /// Whether it was heard within so long, dead or alive.
    pub(crate) fn was_heard(&self, now: Time, within_us: u64) -> bool {
        self.known_at.is_some_and(|at| now.since_us(at) < within_us)
    }

    /// The slot above which this peer may still have to fetch, if it was heard within
    /// `keep_us`, dead or alive.
    pub(crate) fn needed_above(&self, now: Time, keep_us: u64) -> Option<Slot> {
        self.last.as_ref().filter(|_| self.was_heard(now, keep_us)).map(|last| last.chosen_upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Configurations, Position, Watermark};
    use alloc::vec;

    const START: Time = Time(10_000_000);
    const ME: NodeId = NodeId(2);
    const NO_LOG: (Ballot, Slot) = (Ballot::ZERO, Slot::ZERO);
    const HEALTHY: Candidacy = Candidacy {
        chosen_upto: Slot::ZERO,
        last_accepted: NO_LOG,
        disk_age_us: 0,
        room: Room::Enough,
    };

    fn ballot(round: u64, node: u32) -> Ballot {
        Ballot { round, node: NodeId(node) }
    }

    fn options() -> Options {
        Options::default()
    }

    fn heartbeat(sequence: u64, echo: u64) -> Heartbeat {
        Heartbeat {
            sequence,
            echo,
            echo_held_us: 0,
            promised: Ballot::ZERO,
            following: None,
            leading: None,
            chosen_upto: Slot::ZERO,
            available_from: Slot(1),
            last_accepted: NO_LOG,
            durable_upto: Slot::ZERO,
            configuration: 0,
            room: Room::Enough,
            leader_priority: 0,
            disk_age_us: 0,
            hears: Vec::new(),
            state: (Slot::ZERO, 0),
            position: Position::ZERO,
            state_copied_upto: Slot::ZERO,
        }
    }

    /// A member of a cluster, with the heartbeats of the others made by hand. This node is
    /// n2, so that there is one with a lower and one with a higher id.
    struct Bench {
        configurations: Configurations,
        liveness: Liveness,
        now: Time,
        sequence: u64,
        leading: Option<Ballot>,
        promised: Ballot,
    }

    impl Bench {
        fn new(members: u32) -> Bench {
            let configuration =
                Configuration::majority((1..=members).map(NodeId).collect(), 16).expect("valid");
            let liveness = Liveness::new(ME, configuration.members(), &options(), START);
            let configurations = Configurations::new(configuration);
            Bench {
                configurations,
                liveness,
                now: START,
                sequence: 0,
                leading: None,
                promised: Ballot::ZERO,
            }
        }

        /// A new heartbeat of the peer, which answers the last one of this node.
        fn hear(&mut self, node: u32, change: impl FnOnce(&mut Heartbeat)) {
            let echo = self.liveness.next_sequence(self.now);
            self.sequence += 1;
            let mut heartbeat = heartbeat(self.sequence, echo);
            change(&mut heartbeat);
            self.receive(node, heartbeat);
        }

        fn receive(&mut self, node: u32, heartbeat: Heartbeat) {
            let Bench { now, leading, promised, .. } = *self;
            let index = node as usize - 1;
            if !self.liveness.is_outdated(index, heartbeat.sequence) {
                self.liveness.receive_heartbeat(now, index, heartbeat, leading, promised);
            }
        }

        fn hear_leader(&mut self, leads: Ballot) {
            self.hear(leads.node.0, |heartbeat| {
                heartbeat.promised = leads;
                heartbeat.following = Some(leads);
                heartbeat.leading = Some(watermark(leads));
            });
        }

        fn following(&self) -> Option<Ballot> {
            self.liveness.following(self.now, self.promised)
        }

        fn stand(&mut self) -> Stand {
            let known = self.following().is_some();
            self.liveness.note_leader(self.now, known);
            self.stand_at(self.now, HEALTHY)
        }

        fn stand_at(&mut self, at: Time, candidacy: Candidacy) -> Stand {
            self.liveness.stand(at, self.configurations.reigns(), candidacy)
        }

        fn wait_us(&mut self, us: u64) {
            self.now = self.now.plus_us(us);
        }
    }

    fn watermark(ballot: Ballot) -> Watermark {
        Watermark { ballot, chosen_upto: Slot::ZERO, read_round: 0 }
    }

    /// What this node may have heard of a peer, and whether it counts as a report that there
    /// is no live leader.
    const HEARD: [(&str, bool); 8] = [
        ("nothing", false),
        ("no leader", true),
        ("no leader, but no answer to a heartbeat of ours", false),
        ("a leader", false),
        ("no leader, three heartbeats ago", false),
        ("no leader, and then its death", false),
        ("a leader, and then none", true),
        ("no leader, and then an older report of one", true),
    ];

    fn let_hear(bench: &mut Bench, node: u32, heard: &str) {
        match heard {
            "nothing" => {}
            "no leader" => bench.hear(node, |_| {}),
            "no leader, but no answer to a heartbeat of ours" => bench.hear(node, |h| h.echo = 0),
            "a leader" => bench.hear(node, |h| h.following = Some(ballot(1, 7))),
            "no leader, three heartbeats ago" => {
                bench.now = START;
                bench.hear(node, |_| {});
            }
            "no leader, and then its death" => {
                bench.hear(node, |_| {});
                bench.liveness.receive_death(bench.now, node as usize - 1);
            }
            "a leader, and then none" => {
                bench.hear(node, |h| h.following = Some(ballot(1, 7)));
                bench.hear(node, |_| {});
            }
            "no leader, and then an older report of one" => {
                let (sequence, echo) = (bench.sequence, bench.liveness.next_sequence(bench.now));
                bench.hear(node, |h| h.sequence += 1);
                let following = Some(ballot(1, 7));
                bench.receive(node, Heartbeat { following, ..heartbeat(sequence + 1, echo) });
                bench.sequence += 1;
            }
            other => panic!("{other}"),
        }
    }

    /// Five members: what is heard of three of the others, in every combination. This node
    /// stands iff that makes a quorum of three reports, its own included.
    #[test]
    fn a_node_stands_iff_a_quorum_reports_no_live_leader() {
        for code in 0..8_usize.pow(3) {
            let mut bench = Bench::new(5);
            let mut reports = 1;
            for (place, node) in [(0, 1), (1, 3), (2, 4)] {
                bench.now = START.plus_us(3 * options().heartbeat_us);
                let (heard, counts) = HEARD[code / 8_usize.pow(place) % 8];
                let_hear(&mut bench, node, heard);
                reports += usize::from(counts);
            }
            bench.now = START.plus_us(3 * options().heartbeat_us);
            let stand = bench.stand_at(bench.now, HEALTHY);
            assert_eq!(stand != Stand::No, reports >= 3, "{code:o}");
        }
    }

    #[test]
    fn nobody_who_hears_the_leader_stands() {
        let mut bench = Bench::new(3);
        bench.hear(3, |_| {});
        bench.hear_leader(ballot(1, 1));
        assert_eq!((bench.following(), bench.stand()), (Some(ballot(1, 1)), Stand::No));
    }

    /// Every combination of what the three nodes know as chosen and accepted last: as many go
    /// before this one as have a better log, or as good a one and a lower id, and can write it
    /// to their disk. A longer prefix is better whatever was accepted above a shorter one.
    #[test]
    fn candidates_go_in_order_of_log_and_then_of_id() {
        let logs = [
            (Slot(1), NO_LOG),
            (Slot(1), (ballot(1, 1), Slot(2))),
            (Slot(1), (ballot(2, 1), Slot(2))),
            (Slot(9), NO_LOG),
        ];
        for code in 0..4_usize.pow(3) * 4 {
            let [mine, one, three] =
                [code % 4, code / 4 % 4, code / 16 % 4].map(|place| logs[place]);
            let stalled = [code / 64 % 2 == 1, code / 128 == 1];
            let mut bench = Bench::new(3);
            for ((node, log), stalled) in [(1, one), (3, three)].into_iter().zip(stalled) {
                bench.hear(node, |heartbeat| {
                    (heartbeat.chosen_upto, heartbeat.last_accepted) = log;
                    heartbeat.disk_age_us = if stalled { options().disk_stall_us + 1 } else { 0 };
                });
            }
            let before_me = [one >= mine, three > mine];
            let rank = (0..2).filter(|place| before_me[*place] && !stalled[*place]).count() as u64;
            let (chosen_upto, last_accepted) = mine;
            let candidacy = Candidacy { chosen_upto, last_accepted, ..HEALTHY };
            let turn = bench.now.plus_us(rank * options().heartbeat_us / 2);
            let expected = if rank == 0 { Stand::Now } else { Stand::At(turn) };
            assert_eq!(bench.stand_at(bench.now, candidacy), expected, "{code}");
            assert_eq!(bench.stand_at(turn, candidacy), Stand::Now);
        }
    }

    #[test]
    fn a_node_whose_disk_hangs_does_not_stand() {
        let mut bench = Bench::new(3);
        bench.hear(1, |_| {});
        bench.hear(3, |_| {});
        for (disk_age_us, stands) in [(300_000, true), (300_001, false)] {
            let last_accepted = (ballot(9, 1), Slot(9));
            let candidacy = Candidacy { last_accepted, disk_age_us, ..HEALTHY };
            let stand = bench.stand_at(bench.now, candidacy);
            assert_eq!(stand == Stand::Now, stands);
            assert_eq!(stand == Stand::No, !stands);
        }
    }

    /// Every combination of room here and at the two others, one of which may hang: who has
    /// none stands after an able one with room had time, and otherwise as ever.
    #[test]
    fn a_node_without_room_gives_time_to_those_that_have_some() {
        let rooms = [Room::Enough, Room::Low, Room::Out];
        for code in 0..3_usize.pow(3) * 2 {
            let of = |place: u32| rooms[code / 3_usize.pow(place) % 3];
            let (mine, one, three, hangs) = (of(0), of(1), of(2), code >= 27);
            let mut bench = Bench::new(3);
            for (node, room) in [(1, one), (3, three)] {
                bench.hear(node, |heartbeat| {
                    heartbeat.room = room;
                    let hangs = hangs && node == 3;
                    heartbeat.disk_age_us = if hangs { options().disk_stall_us + 1 } else { 0 };
                });
            }
            let roomier = one != Room::Out || (three != Room::Out && !hangs);
            let last_accepted = (ballot(9, 1), Slot(9));
            let candidacy = Candidacy { last_accepted, room: mine, ..HEALTHY };
            let patience_us = DEFERENCE_TIMEOUTS * options().election_timeout_us;
            let expected = match mine == Room::Out && roomier {
                true => Stand::At(bench.now.plus_us(patience_us)),
                false => Stand::Now,
            };
            assert_eq!(bench.stand_at(bench.now, candidacy), expected, "{code}");
        }
    }

    /// A peer counts as having room by its own word, as long as it answers and its disk does
    /// not hang; this node itself by what it knows.
    #[test]
    fn only_who_answers_has_room() {
        for (heard, answers) in HEARD {
            for room in [Room::Enough, Room::Low, Room::Out] {
                let mut bench = Bench::new(3);
                bench.hear(3, |heartbeat| heartbeat.room = room);
                bench.wait_us(1);
                bench.hear(3, |h| (h.room, h.disk_age_us) = (room, options().disk_stall_us + 1));
                let_hear(&mut bench, 1, heard);
                let answers = answers || heard == "a leader" || heard.ends_with("ago");
                let count = |bench: &Bench, own| {
                    let governing = bench.configurations.governing(Slot(1));
                    let able = |peer: &Peer| bench.liveness.is_able(bench.now, peer);
                    bench.liveness.with_room(governing, own, Room::Low, able)
                };
                let expected = usize::from(answers);
                assert_eq!(count(&bench, Room::Low), 1 + expected, "{heard}");
                assert_eq!(count(&bench, Room::Out), expected, "{heard}");
                bench.hear(3, |heartbeat| heartbeat.room = room);
                let third = usize::from(room <= Room::Low);
                assert_eq!(count(&bench, Room::Low), 1 + expected + third, "{heard}, {room:?}");
            }
        }
    }

    /// To win is not enough to be taken for one that can lead: else a node that wins again and
    /// again to no avail would stand without a pause.
    #[test]
    fn lost_elections_count_until_the_node_leads_well() {
        let mut bench = Bench::new(3);
        bench.liveness.lost(bench.now);
        let patience_us = bench.liveness.candidate_patience_us();
        assert!(patience_us > options().election_timeout_us);
        bench.liveness.won(bench.now);
        assert_eq!(bench.liveness.candidate_patience_us(), patience_us);
        bench.liveness.prevailed();
        assert_eq!(bench.liveness.candidate_patience_us(), options().election_timeout_us);
    }

    /// Two leaders' messages in every order, under every promise, before and after a silence:
    /// a node follows the highest ballot that it heard within an election timeout, unless it
    /// promised a higher one.
    #[test]
    fn a_node_follows_the_highest_live_ballot_that_its_promise_allows() {
        let ballots = [ballot(1, 1), ballot(1, 3), ballot(2, 1), ballot(2, 3)];
        let timeout = options().election_timeout_us;
        for promised in ballots.into_iter().chain([Ballot::ZERO]) {
            for (first, second) in ballots.into_iter().flat_map(|a| ballots.map(|b| (a, b))) {
                let mut bench = Bench::new(3);
                bench.promised = promised;
                bench.liveness.hear_leader(bench.now, first, promised);
                bench.wait_us(100);
                bench.liveness.hear_leader(bench.now, second, promised);
                let highest = first.max(second);
                let expected = (highest >= promised).then_some(highest);
                assert_eq!(bench.following(), expected);
                // The highest was heard last unless it came first.
                bench.wait_us(timeout - 100 - 1);
                assert_eq!(bench.following(), expected);
                bench.wait_us(1);
                assert_eq!(bench.following(), expected.filter(|_| second == highest));
                bench.wait_us(100);
                assert_eq!(bench.following(), None);
            }
        }
    }

    #[test]
    fn a_node_does_not_follow_itself() {
        let mut bench = Bench::new(3);
        bench.liveness.hear_leader(bench.now, ballot(1, ME.0), Ballot::ZERO);
        assert_eq!(bench.following(), None);
    }

    #[test]
    fn a_promise_to_a_candidate_ends_the_following_and_gives_it_time() {
        let mut bench = Bench::new(3);
        bench.hear_leader(ballot(1, 1));
        bench.promised = ballot(2, 3);
        bench.liveness.promised_to(bench.now, ballot(2, 3));
        assert_eq!(bench.following(), None);
        bench.hear(1, |_| {});
        bench.hear(3, |_| {});
        let turn = bench.now.plus_us(options().election_timeout_us / 2);
        assert_eq!(bench.stand(), Stand::At(turn));
        // It has won: when it dies, nobody owes it anything.
        bench.hear_leader(ballot(2, 3));
        bench.liveness.receive_death(bench.now, 2);
        bench.hear(1, |_| {});
        assert!(matches!(bench.stand(), Stand::Now | Stand::At(_)));
        assert_eq!(bench.liveness.not_before, bench.now);
    }

    #[test]
    fn time_given_to_a_candidate_ends_with_its_death() {
        for (dead, ends) in [(3, true), (1, false)] {
            let mut bench = Bench::new(3);
            bench.liveness.give_time(bench.now, NodeId(3));
            bench.liveness.receive_death(bench.now, dead - 1);
            assert_eq!(bench.liveness.not_before == bench.now, ends);
        }
    }

    /// What a leader with a hanging disk sends besides does not revive it, which would make
    /// its followers change their mind with every Accept; its own word does.
    #[test]
    fn a_leader_with_a_hanging_disk_is_followed_again_by_its_own_word_only() {
        let leads = ballot(1, 1);
        let mut bench = Bench::new(3);
        bench.hear_leader(leads);
        let says = |bench: &mut Bench, disk_age_us| {
            bench.hear(1, |heartbeat| {
                (heartbeat.promised, heartbeat.following) = (leads, Some(leads));
                (heartbeat.leading, heartbeat.disk_age_us) = (Some(watermark(leads)), disk_age_us);
            });
        };
        says(&mut bench, 600_001);
        for _ in 0..3 {
            bench.liveness.hear_leader(bench.now, leads, Ballot::ZERO);
            assert_eq!(bench.following(), None);
        }
        says(&mut bench, 600_000);
        assert_eq!(bench.following(), Some(leads));
        // Another leader, or the same in a higher ballot, is another matter.
        says(&mut bench, 600_001);
        bench.liveness.hear_leader(bench.now, ballot(2, 1), Ballot::ZERO);
        assert_eq!(bench.following(), Some(ballot(2, 1)));
    }

    /// Evidence of death counts at once. What the dead leader sent before may still arrive,
    /// in whatever form; only a heartbeat that answers a later one of ours shows that it lives.
    #[test]
    fn late_messages_of_a_dead_leader_do_not_revive_it() {
        let leads = ballot(1, 1);
        let mut bench = Bench::new(3);
        bench.hear_leader(leads);
        bench.hear(3, |_| {});
        let before = bench.liveness.next_sequence(bench.now);
        bench.wait_us(10);
        assert_eq!(bench.stand(), Stand::No);
        bench.liveness.receive_death(bench.now, 0);
        assert_eq!((bench.following(), bench.stand()), (None, Stand::Now));
        // An Accept or a Watermark, and a heartbeat, of before.
        bench.liveness.hear_leader(bench.now, leads, Ballot::ZERO);
        bench.sequence += 1;
        let (following, leading) = (Some(leads), Some(watermark(leads)));
        let late = Heartbeat { following, leading, ..heartbeat(bench.sequence, before) };
        bench.receive(1, late);
        bench.liveness.hear_leader(bench.now, leads, Ballot::ZERO);
        assert_eq!((bench.following(), bench.stand()), (None, Stand::Now));
        // A higher ballot, its own or another's, is another matter.
        for higher in [ballot(2, 1), ballot(1, 3)] {
            let mut bench = Bench::new(3);
            bench.hear_leader(leads);
            bench.liveness.receive_death(bench.now, 0);
            bench.liveness.hear_leader(bench.now, higher, Ballot::ZERO);
            assert_eq!(bench.following(), Some(higher));
        }
        // It was a false alarm.
        bench.wait_us(10);
        bench.hear_leader(leads);
        assert_eq!((bench.following(), bench.stand()), (Some(leads), Stand::No));
    }

    #[test]
    fn a_leader_that_says_that_it_does_not_lead_is_not_followed() {
        for stalled in [false, true] {
            let leads = ballot(1, 1);
            let mut bench = Bench::new(3);
            bench.hear_leader(leads);
            assert_eq!(bench.following(), Some(leads));
            bench.hear(1, |heartbeat| {
                heartbeat.promised = leads;
                heartbeat.leading = stalled.then(|| watermark(leads));
                heartbeat.disk_age_us = if stalled { 600_001 } else { 0 };
            });
            assert_eq!(bench.following(), None);
        }
    }

    #[test]
    fn an_older_heartbeat_of_the_leader_does_not_end_its_office() {
        let mut bench = Bench::new(3);
        bench.hear_leader(ballot(1, 1));
        let old = Heartbeat { promised: ballot(1, 1), ..heartbeat(bench.sequence, 0) };
        bench.receive(1, old);
        assert_eq!(bench.following(), Some(ballot(1, 1)));
    }

    /// A leader counts as its followers those who said so, in its own ballot, in an answer to
    /// a heartbeat that is younger than an election timeout; and itself. When it wins, all
    /// others have an election timeout to do so.
    #[test]
    fn a_leader_is_followed_by_those_whose_answers_are_fresh() {
        let (mine, timeout) = (ballot(3, ME.0), options().election_timeout_us);
        let answers = [None, Some(mine), Some(ballot(2, 1)), Some(ballot(4, 1))];
        for one in answers {
            for three in answers {
                let mut bench = Bench::new(3);
                bench.leading = Some(mine);
                bench.liveness.won(bench.now);
                bench.wait_us(1_000);
                bench.hear(1, |heartbeat| heartbeat.following = one);
                bench.hear(3, |heartbeat| heartbeat.following = three);
                let count = 1 + [one, three].iter().filter(|a| **a == Some(mine)).count();
                let grace = START.plus_us(timeout);
                let end = bench.now.plus_us(timeout);
                for quorum in 1..=3 {
                    let voters = bench.configurations.newest().configuration.voters().to_vec();
                    let c = Configuration::new(voters, 4 - quorum, quorum, 16).expect("valid");
                    let followed = |at| bench.liveness.is_followed(at, &c);
                    assert!(followed(bench.now) && followed(Time(grace.0 - 1)));
                    assert_eq!(followed(grace), count >= quorum);
                    assert_eq!(followed(Time(end.0 - 1)), count >= quorum);
                    assert_eq!(followed(end), quorum == 1);
                }
            }
        }
    }

    /// Pitfall 46: what a follower says counts from when it was asked, not from when its
    /// answer arrived.
    #[test]
    fn an_answer_that_was_long_under_way_is_as_old_as_its_question() {
        let mine = ballot(3, ME.0);
        let mut bench = Bench::new(3);
        bench.leading = Some(mine);
        bench.liveness.won(bench.now);
        let echo = bench.liveness.next_sequence(bench.now);
        bench.wait_us(options().election_timeout_us);
        bench.receive(1, Heartbeat { following: Some(mine), ..heartbeat(1, echo) });
        let governing = bench.configurations.governing(Slot(1));
        assert!(!bench.liveness.is_followed(bench.now, governing));
        assert!(!bench.liveness.is_reachable(bench.now, 0));
    }

    /// Every sequence of five heartbeats of one voter: it is deaf after three in a row that
    /// told of a higher promise and of no leader.
    #[test]
    fn a_voter_is_deaf_after_three_heartbeats_above_the_ballot_without_a_leader() {
        let mine = ballot(3, ME.0);
        let says = [(ballot(4, 1), None), (ballot(4, 1), Some(ballot(4, 1))), (mine, Some(mine))];
        for sequence in 0..3_usize.pow(5) {
            let mut bench = Bench::new(3);
            bench.leading = Some(mine);
            let mut in_a_row = 0;
            for step in 0..5 {
                let which = sequence / 3_usize.pow(step) % 3;
                let (promised, following) = says[which];
                bench.hear(1, |h| (h.promised, h.following) = (promised, following));
                in_a_row = if which == 0 { in_a_row + 1 } else { 0 };
                assert_eq!(
                    bench.liveness.has_deaf_voter(bench.configurations.reigns()),
                    in_a_row >= 3
                );
            }
            bench.liveness.won(bench.now);
            assert!(
                !bench.liveness.has_deaf_voter(bench.configurations.reigns()),
                "a new ballot starts anew"
            );
        }
    }

    /// Paxos Made Simple 2.4: "a distinguished proposer must be selected"; a duel ends because
    /// each lost election makes the next wait longer, by chance, up to a limit.
    #[test]
    fn back_off_grows_by_chance_and_is_bounded() {
        let limit = 16 * options().election_timeout_us;
        let mut longest = vec![0; 8];
        for seed in 0..200 {
            let mut bench = Bench::new(3);
            bench.liveness.random ^= seed;
            for longest in &mut longest {
                bench.liveness.lost(bench.now);
                let wait = bench.liveness.not_before.since_us(bench.now);
                assert!(wait < limit);
                *longest = wait.max(*longest);
                bench.now = bench.now.max(bench.liveness.not_before);
            }
        }
        assert!(longest[0] < 2 * options().heartbeat_us);
        assert!(longest.windows(2).take(5).all(|two| two[0] < two[1]), "{longest:?}");
    }

    #[test]
    fn a_peer_is_reachable_iff_it_answers() {
        let mut bench = Bench::new(3);
        assert!(!bench.liveness.is_reachable(bench.now, 0));
        bench.hear(1, |heartbeat| heartbeat.echo = 0);
        assert!(!bench.liveness.is_reachable(bench.now, 0), "it may not hear this node");
        bench.hear(1, |_| {});
        assert!(bench.liveness.is_reachable(bench.now, 0));
        assert_eq!(bench.liveness.echo_for(bench.now, 0).0, bench.sequence);
        let end = bench.now.plus_us(options().election_timeout_us);
        assert!(!bench.liveness.is_reachable(end, 0));
        bench.liveness.receive_death(bench.now, 0);
        assert!(!bench.liveness.is_reachable(bench.now, 0));
        bench.hear(1, |_| {});
        assert!(bench.liveness.is_reachable(bench.now, 0), "it came back");
    }

    /// The round trip is the time between a heartbeat and its echo, without what the peer
    /// held it back; it is smoothed.
    #[test]
    fn a_round_trip_does_not_count_how_long_the_echo_was_held() {
        let mut bench = Bench::new(3);
        for (took, held, smoothed) in [(40_900, 40_000, 900), (1_700, 0, 1_000), (5, 9, 875)] {
            let echo = bench.liveness.next_sequence(bench.now);
            bench.wait_us(took);
            bench.sequence += 1;
            let answer = Heartbeat { echo_held_us: held, ..heartbeat(bench.sequence, echo) };
            bench.receive(1, answer);
            assert_eq!(bench.liveness.peer(0).round_trip_us, smoothed);
        }
    }

    #[test]
    fn an_echo_of_an_earlier_life_or_of_nothing_answers_nothing() {
        let life = options().incarnation << 32;
        for echo in [0, 7, life - 3, life, life + 2, life + 999, u64::MAX] {
            let mut bench = Bench::new(3);
            bench.liveness.next_sequence(bench.now);
            bench.receive(1, heartbeat(1, echo));
            assert!(!bench.liveness.is_reachable(bench.now, 0), "{echo}");
        }
    }
}
