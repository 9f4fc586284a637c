//! Who leads: when to stand, whom to follow, when to give up.
//!
//! Liveness only. Nothing here can make two values chosen, so all of it may rest
//! on time and on hearsay.

use alloc::{collections::VecDeque, vec::Vec};

use crate::{Ballot, Configuration, Heartbeat, NodeId, Options, Slot, Time};

/// What a node knows about the liveness of the others.
#[derive(Debug)]
pub(crate) struct Liveness {
    me: NodeId,
    election_timeout_us: u64,
    heartbeat_us: u64,
    disk_stall_us: u64,
    /// By place in the configuration; this node's own entry stays empty.
    peers: Vec<Peer>,
    following: Option<Following>,
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
    attempts: u32,
    random: u64,
}

/// What a node knows about one other.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) last: Option<Heartbeat>,
    heard_at: Option<Time>,
    /// When this node sent the newest heartbeat that the peer has echoed.
    two_way_at: Option<Time>,
    /// The same for one that said that it follows this node's ballot.
    followed_at: Option<Time>,
    pub(crate) round_trip_us: u64,
    died: bool,
    /// Heartbeats in a row that told of a promise above this leader's ballot.
    deaf: u32,
}

/// The leader that this node hears.
#[derive(Clone, Copy, Debug)]
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
    pub(crate) last_accepted: (Ballot, Slot),
    pub(crate) disk_age_us: u64,
}

impl Liveness {
    pub(crate) fn new(
        me: NodeId,
        configuration: &Configuration,
        options: &Options,
        now: Time,
    ) -> Liveness {
        Liveness {
            me,
            election_timeout_us: options.election_timeout_us,
            heartbeat_us: options.heartbeat_us,
            disk_stall_us: options.disk_stall_us,
            peers: configuration.members().iter().map(|node| Peer::new(*node)).collect(),
            following: None,
            mourned: None,
            leaderless_since: Some(now),
            quorum_since: None,
            sequence: options.incarnation << 32,
            sent: VecDeque::new(),
            next_heartbeat_at: now,
            not_before: now,
            attempts: 0,
            random: options.seed ^ (u64::from(me.0) << 32) ^ options.incarnation ^ 0x9e37_79b9,
        }
    }

    /// What is known of the member at `index`.
    pub(crate) fn peer(&self, index: usize) -> &Peer {
        &self.peers[index]
    }

    /// A message of the leader of `ballot` arrived: as good as a heartbeat.
    pub(crate) fn hear_leader(&mut self, now: Time, ballot: Ballot, promised: Ballot) {
        let newer = self.following.is_none_or(|following| ballot >= following.ballot);
        let dead = self.mourned.is_some_and(|(mourned, _)| ballot <= mourned);
        if ballot >= promised && newer && !dead && ballot.node != self.me {
            if self.following.is_none_or(|following| ballot > following.ballot) {
                self.not_before = now; // The candidate that it gave time to has won.
            }
            self.following = Some(Following { ballot, heard_at: now });
            self.attempts = 0;
        }
    }

    /// Takes a heartbeat. `leading` is this node's own ballot while it leads.
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
        if peer.last.as_ref().is_some_and(|last| last.sequence >= heartbeat.sequence) {
            return; // Reordered or duplicated.
        }
        peer.heard_at = Some(now);
        peer.died = false;
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
        if let Some(ballot) = leads.filter(|_| !stalled) {
            self.hear_leader(now, ballot, promised);
        } else if from_leader && self.following.is_some_and(|f| sender >= f.ballot) {
            // The leader itself says that it does not lead, or that its disk hangs.
            self.following = None;
        }
    }

    /// A vote in this node's ballot shows that its sender follows it.
    pub(crate) fn note_vote(&mut self, now: Time, index: usize) {
        self.peers[index].followed_at = Some(now);
    }

    /// The transport has evidence that the peer's process is gone.
    pub(crate) fn receive_death(&mut self, now: Time, index: usize) {
        let peer = &mut self.peers[index];
        peer.died = true;
        peer.heard_at = None;
        peer.two_way_at = None;
        peer.followed_at = None;
        let node = peer.node;
        if let Some(following) = self.following.take_if(|f| f.ballot.node == node) {
            self.mourned = Some((following.ballot, now));
        }
    }

    /// This node promised `ballot` to another's candidacy: it gives it time.
    pub(crate) fn promised_to(&mut self, now: Time, ballot: Ballot) {
        if ballot.node != self.me {
            self.give_time(now);
        }
        if self.following.is_some_and(|following| following.ballot < ballot) {
            self.following = None;
        }
    }

    /// Another node stands: it goes first.
    pub(crate) fn give_time(&mut self, now: Time) {
        self.not_before = self.not_before.max(now.plus_us(self.election_timeout_us / 2));
    }

    /// This node's candidacy failed: wait longer each time, by chance, so that a
    /// duel ends.
    pub(crate) fn lost(&mut self, now: Time) {
        self.attempts = (self.attempts + 1).min(6);
        let spread = (self.heartbeat_us << self.attempts).min(2 * self.election_timeout_us);
        let wait = self.random_below(spread.max(1));
        self.not_before = self.not_before.max(now.plus_us(wait));
    }

    /// This node leads.
    pub(crate) fn won(&mut self, now: Time, promises: impl Fn(usize) -> bool) {
        self.following = None;
        self.attempts = 0;
        for (index, peer) in self.peers.iter_mut().enumerate() {
            peer.deaf = 0;
            peer.followed_at = promises(index).then_some(now);
        }
    }

    /// The live leader's ballot as this node sees it, itself left aside.
    pub(crate) fn following(&self, now: Time, promised: Ballot) -> Option<Ballot> {
        let following = self.following?;
        let heard = now.since_us(following.heard_at) < self.election_timeout_us;
        (heard && following.ballot >= promised).then_some(following.ballot)
    }

    /// Whether a quorum followed this node's ballot within an election timeout.
    pub(crate) fn is_followed(&self, now: Time, quorum: usize) -> bool {
        let recent =
            |at: &Option<Time>| at.is_some_and(|at| now.since_us(at) < self.election_timeout_us);
        1 + self.peers.iter().filter(|peer| recent(&peer.followed_at)).count() >= quorum
    }

    /// Whether some voter has been refusing this leader's ballot for a while
    /// without following anybody else.
    pub(crate) fn has_deaf_voter(&self) -> bool {
        self.peers.iter().any(|peer| peer.deaf >= 3)
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

    /// Whether this node stands. It does iff a quorum, itself included, reports
    /// that it knows of no live leader, by fresh and two-way heartbeats. So nobody
    /// who hears the leader helps to unseat it.
    pub(crate) fn stand(&mut self, now: Time, quorum: usize, candidacy: Candidacy) -> Stand {
        if self.leaderless_since.is_none() || candidacy.disk_age_us > self.disk_stall_us {
            return Stand::No;
        }
        let mut reports = 1;
        let mut rank: u64 = 0;
        for peer in &self.peers {
            let Some(last) = peer.last.as_ref().filter(|_| self.is_two_way(now, peer)) else {
                continue;
            };
            if last.following.is_some() || !self.is_report_fresh(now, peer) {
                continue;
            }
            reports += 1;
            // Candidates go in order of log, then lowest id.
            let behind = (candidacy.last_accepted, core::cmp::Reverse(self.me))
                < (last.last_accepted, core::cmp::Reverse(peer.node));
            if behind && last.disk_age_us <= self.disk_stall_us {
                rank += 1;
            }
        }
        if reports < quorum {
            self.quorum_since = None;
            return Stand::No;
        }
        let since = *self.quorum_since.get_or_insert(now);
        let turn = since.plus_us(rank * self.heartbeat_us / 2).max(self.not_before);
        if now >= turn { Stand::Now } else { Stand::At(turn) }
    }

    /// Heard within an election timeout, both ways.
    pub(crate) fn is_reachable(&self, now: Time, index: usize) -> bool {
        self.is_two_way(now, &self.peers[index])
    }

    fn is_two_way(&self, now: Time, peer: &Peer) -> bool {
        let fresh =
            |at: Option<Time>| at.is_some_and(|at| now.since_us(at) < self.election_timeout_us);
        !peer.died && fresh(peer.heard_at) && fresh(peer.two_way_at)
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
            two_way_at: None,
            followed_at: None,
            round_trip_us: 0,
            died: false,
            deaf: 0,
        }
    }
}
