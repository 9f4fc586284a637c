//! What a seed draws: which faults, how strong, how many members, how tight the
//! limits are. Swarm style: a seed with few kinds of faults reaches states that
//! one with all of them never does.

use std::collections::BTreeMap;
use std::fmt;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::planted::Bug;

/// One run, completely described. The same plan gives the same run to the byte.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// All draws during the run come from it.
    pub seed: u64,
    /// How many nodes.
    pub members: u32,
    /// So many of them, the last ones, are no members in the beginning and join when a
    /// change of the members names them.
    pub joiners: u32,
    /// Promises that a leader needs.
    pub promise_quorum: usize,
    /// Acceptances that a value needs.
    pub accept_quorum: usize,
    /// Which faults are on, and how strong in percent.
    pub faults: BTreeMap<Fault, u32>,
    /// How long faults happen, at the least.
    pub faults_us: u64,
    /// They go on until the clients have asked for so much.
    pub operations_min: usize,
    /// How long the healed quorum is watched.
    pub healed_us: u64,
    /// Times of nodes and network.
    pub pace: Pace,
    /// Limits of the nodes.
    pub sizes: Sizes,
    /// How much of their journals nodes keep for others.
    pub tail: Tail,
    /// Idempotency keys.
    pub keys: Keys,
    /// What the clients do.
    pub load: Load,
    /// Who holds leases and who watches.
    #[serde(default)]
    pub guests: Option<Guests>,
    /// Every message passes through the encoding that real nodes use.
    pub encodes_messages: bool,
    /// The mistake that every node makes; none but to test the simulation itself.
    pub bug: Option<Bug>,
}

/// How fast things are, in microseconds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pace {
    /// The nodes' election timeout; a heartbeat is a sixth of it.
    pub election_timeout_us: u64,
    /// The longest way of a message without a fault.
    pub delay_us_max: u64,
    /// The longest sync without a fault.
    pub sync_us_max: u64,
    /// The longest apply without a fault.
    pub apply_us_max: u64,
    /// A node gathers events for so long before a step; 0: one step per event.
    pub batch_us_max: u64,
    /// The state becomes durable about so often.
    pub flush_us: u64,
}

/// Limits that matter for what can happen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sizes {
    /// See [`synod_paxos::Configuration::alpha`].
    pub alpha: u64,
    /// Slots that a leader keeps open.
    pub window_slots_max: u64,
    /// Bytes of commands in a value.
    pub value_bytes_max: usize,
    /// Bytes in a page of a promise or a chunk of catch-up.
    pub page_bytes_max: usize,
    /// Chosen values kept in memory.
    pub cache_bytes_max: usize,
    /// Commands in one message to the leader, and in flight.
    pub in_flight_max: usize,
    /// Commands that a leader queues.
    pub queue_entries_max: usize,
    /// Groups in a segment of the journal.
    pub segment_groups: usize,
    /// Memory of the state machine for what is known of keys.
    pub metadata_cache_bytes_max: usize,
}

impl Pace {
    /// How long a slot may take from its proposal until it is applied, when all is well.
    #[must_use]
    pub fn slot_us(&self) -> u64 {
        4 * self.delay_us_max + 2 * self.sync_us_max + 2 * self.batch_us_max + self.apply_us_max
    }
}

/// How idempotency keys are remembered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Keys {
    /// How many.
    pub records_max: u64,
    /// How long, in milliseconds of cluster time, as clients are told.
    pub ttl_ms: u64,
    /// How much longer in truth, in milliseconds of cluster time.
    pub grace_ms: u64,
}

/// How much of its journal a node keeps for others; see [`synod_paxos::Options`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tail {
    /// Bytes.
    pub bytes_max: u64,
    /// Age.
    pub us_max: u64,
    /// For how long it keeps what a peer misses that was heard.
    pub keep_for_peers_us: u64,
}

/// What the clients do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Load {
    /// How many there are.
    pub clients: usize,
    /// Different keys.
    pub keys: u8,
    /// The mean pause between an answer and the next question.
    pub think_us: u64,
    /// Reads in a hundred operations.
    pub reads_percent: u8,
    /// Writes with an idempotency key, in a hundred writes.
    pub keyed_percent: u8,
    /// Bytes that are added to a value to make it long.
    pub padding_bytes_max: usize,
    /// Puts that are part of a transaction over two keys, in a hundred.
    #[serde(default)]
    pub txn_percent: u8,
}

/// Who holds leases, and who watches.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Guests {
    /// Who has a lease, and keys under it, or wants one.
    pub holders: usize,
    /// How long their leases live without being kept.
    pub ttl_ms: u64,
    /// Keys that one command removes when a lease ends.
    pub removes_max: u32,
    /// How many watch.
    pub watchers: usize,
    /// Bytes in a page of what a watch is told.
    pub page_bytes_max: usize,
    /// Changes that a page passes by.
    pub visits_max: usize,
    /// Whether somebody has what was replaced forgotten now and then.
    pub compacts: bool,
}

impl Plan {
    /// What this seed draws.
    #[must_use]
    pub fn drawn(seed: u64) -> Plan {
        let mut rng = Rng::with_seed(seed ^ 0x5eed_0001);
        let members = match rng.u8(..20) {
            0..12 => 3,
            12..19 => 5,
            _ => 1,
        };
        let (promise_quorum, accept_quorum) = draw_quorums(&mut rng, members);
        let load = Load {
            clients: rng.usize(4..=8),
            keys: [2, 5, 12][rng.usize(..3)],
            think_us: rng.u64(250_000..500_000),
            reads_percent: [10, 40, 70][rng.usize(..3)],
            keyed_percent: [0, 50, 100][rng.usize(..3)],
            padding_bytes_max: [0, 200, 4_000][rng.usize(..3)],
            txn_percent: draw_txn_percent(seed),
        };
        let mut plan = Plan {
            seed,
            members,
            joiners: 0,
            promise_quorum,
            accept_quorum,
            faults: draw_faults(&mut rng, members),
            faults_us: 60_000_000,
            operations_min: 500,
            healed_us: 30_000_000,
            pace: Pace {
                election_timeout_us: [300_000, 600_000, 1_200_000][rng.usize(..3)],
                delay_us_max: [300, 3_000, 30_000][rng.usize(..3)],
                sync_us_max: [200, 5_000, 40_000][rng.usize(..3)],
                apply_us_max: [100, 2_000, 20_000][rng.usize(..3)],
                batch_us_max: [0, 200, 5_000][rng.usize(..3)],
                flush_us: [300_000, 3_000_000][rng.usize(..2)],
            },
            sizes: draw_sizes(&mut rng),
            keys: draw_keys(&mut rng, seed),
            tail: draw_tail(seed),
            load,
            guests: None,
            encodes_messages: rng.u8(..4) == 0,
            bug: None,
        };
        // Where everything is slow, an attempt may take longer and be well all the same.
        let patience_ms = SLOTS_OF_GRACE * plan.pace.slot_us() / 1_000;
        plan.keys.grace_ms = plan.keys.grace_ms.max(patience_ms);
        plan.with_membership()
            .with_later_faults()
            .with_releases()
            .with_lost_slots()
            .with_backups()
            .with_recoveries()
            .with_damage_while_away()
            .with_guests()
    }

    /// Every fourth seed changes its members. Drawn apart, so that a seed draws what it
    /// always drew besides.
    fn with_membership(mut self) -> Plan {
        // A change fills so many slots before it governs: they must be over at the end.
        const ALPHA_MAX: u64 = 64;
        let mut rng = Rng::with_seed(self.seed ^ 0x5eed_0003);
        if rng.u8(..4) == 0 {
            self.joiners = rng.u32(..=2);
            self.members += self.joiners;
            self.faults.insert(Fault::Membership, rng.u32(20..=100));
            self.sizes.alpha = self.sizes.alpha.min(ALPHA_MAX);
            self.sizes.window_slots_max = self.sizes.window_slots_max.min(ALPHA_MAX);
        }
        self
    }

    /// Every third seed has each of them.
    fn with_later_faults(mut self) -> Plan {
        let mut rng = Rng::with_seed(self.seed ^ 0x5eed_0007);
        for fault in Fault::LATER {
            let (on, percent) = (rng.u8(..3) == 0, rng.u32(20..=100));
            if on && (self.members > 1 || !fault.needs_peers()) {
                self.faults.insert(fault, percent);
            }
        }
        self
    }

    /// Every eighth seed has nodes of two releases.
    fn with_releases(mut self) -> Plan {
        let mut rng = Rng::with_seed(self.seed ^ 0x5eed_0008);
        let (on, percent) = (rng.u8(..8) == 0, rng.u32(20..=100));
        if on && self.members > 1 {
            self.faults.insert(Fault::Upgrade, percent);
        }
        self
    }

    /// Every sixth seed has nodes that lose slots, if its members stay what they are. Their
    /// journals have small segments, their states lag behind them, and leaders are cut off.
    fn with_lost_slots(mut self) -> Plan {
        let mut rng = Rng::with_seed(self.seed ^ 0x5eed_000b);
        let (on, percent) = (rng.u8(..6) == 0, rng.u32(20..=100));
        let stays = !self.mixes_releases() && self.strength(Fault::Membership) == 0.0;
        if on && stays && self.members > 1 {
            self.faults.insert(Fault::LostSlots, percent);
            self.sizes.segment_groups = [2, 2, 4, 16][rng.usize(..4)];
            self.faults.entry(Fault::Halves).or_insert_with(|| rng.u32(50..=100));
            self.pace.flush_us = self.pace.flush_us.max(3_000_000);
        }
        self
    }

    /// In every sixth seed somebody takes backups.
    fn with_backups(mut self) -> Plan {
        let mut rng = Rng::with_seed(self.seed ^ 0x5eed_000c);
        if rng.u8(..6) == 0 {
            self.faults.insert(Fault::Backup, rng.u32(20..=100));
        }
        self
    }

    /// In every sixth seed new clusters are made of what one node has.
    fn with_recoveries(mut self) -> Plan {
        let mut rng = Rng::with_seed(self.seed ^ 0x5eed_000d);
        if rng.u8(..6) == 0 {
            self.faults.insert(Fault::Recovery, rng.u32(20..=100));
        }
        self
    }

    /// Every eighth seed has states that are damaged while a node is away, if its members stay what they
    /// are and nobody loses slots. Journals keep nothing there that they need not.
    fn with_damage_while_away(mut self) -> Plan {
        let mut rng = Rng::with_seed(self.seed ^ 0x5eed_000e);
        let (on, percent) = (rng.u8(..8) == 0, rng.u32(20..=100));
        let apart = [Fault::Membership, Fault::Upgrade, Fault::LostSlots];
        let goes_on = self.promise_quorum.max(self.accept_quorum) < self.members as usize;
        if on && goes_on && !apart.iter().any(|fault| self.faults.contains_key(fault)) {
            self.faults.insert(Fault::DamageWhileAway, percent);
            self.sizes.segment_groups = [2, 4][rng.usize(..2)];
            self.tail = Tail { bytes_max: 0, us_max: 0, keep_for_peers_us: 0 };
            self.pace.flush_us = 300_000;
        }
        self
    }

    /// Every fourth seed has guests. None of those has that failed once before there were
    /// any, so these stay what they were.
    fn with_guests(mut self) -> Plan {
        let mut rng = Rng::with_seed(self.seed ^ 0x5eed_0200);
        if rng.u8(..4) == 0 {
            self.guests = Some(Guests {
                holders: rng.usize(1..=3),
                ttl_ms: [1_000, 2_000, 6_000][rng.usize(..3)],
                removes_max: [1, 2, 10_000][rng.usize(..3)],
                watchers: rng.usize(1..=4),
                page_bytes_max: [1, 30, 4 << 20][rng.usize(..3)],
                visits_max: [1, 20, 2_000][rng.usize(..3)],
                compacts: rng.u8(..3) > 0,
            });
        }
        self
    }

    /// Whether nodes may be of two releases.
    pub(crate) fn mixes_releases(&self) -> bool {
        self.faults.contains_key(&Fault::Upgrade)
    }

    /// How strong a fault is, from 0 to 1.
    pub(crate) fn strength(&self, fault: Fault) -> f64 {
        f64::from(self.faults.get(&fault).copied().unwrap_or(0)) / 100.0
    }

    /// How strong a fault is, in percent.
    pub(crate) fn percent(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).copied().map_or(0, u64::from)
    }

    /// Nodes that may be lost for good: the rest still has every quorum.
    pub(crate) fn losable(&self) -> usize {
        if self.strength(Fault::Membership) > 0.0 {
            return 0; // Who is needed changes.
        }
        self.members as usize - self.promise_quorum.max(self.accept_quorum)
    }

    /// A source of chance for one purpose, so that switching one fault off changes
    /// nothing about when the others strike.
    pub(crate) fn rng(&self, purpose: u64) -> Rng {
        let mut mixed = Rng::with_seed(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose);
        Rng::with_seed(mixed.u64(..))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} members and {} that may join (quorums {} and {}), {} s of faults, {} s healed",
            self.seed,
            self.members - self.joiners,
            self.joiners,
            self.promise_quorum,
            self.accept_quorum,
            self.faults_us / 1_000_000,
            self.healed_us / 1_000_000,
        )?;
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|(fault, percent)| format!("{} {percent} %", fault.name()))
            .collect();
        let faults = if faults.is_empty() { "none".to_owned() } else { faults.join(", ") };
        writeln!(f, "faults: {faults}")?;
        writeln!(f, "pace: {:?}", self.pace)?;
        writeln!(f, "sizes: {:?}", self.sizes)?;
        writeln!(f, "tail: {:?}", self.tail)?;
        writeln!(f, "keys: {:?}", self.keys)?;
        writeln!(f, "guests: {:?}", self.guests)?;
        write!(f, "load: {:?}, encodes messages: {}", self.load, self.encodes_messages)
    }
}

fn draw_quorums(rng: &mut Rng, members: u32) -> (usize, usize) {
    match (members, rng.u8(..10)) {
        (5, 0) => (4, 2),
        (5, 1) => (2, 4),
        (members, _) => (members as usize / 2 + 1, members as usize / 2 + 1),
    }
}

/// Each kind is on in about a third of the seeds; some seeds have nearly none, to
/// see long runs, and some have many.
fn draw_faults(rng: &mut Rng, members: u32) -> BTreeMap<Fault, u32> {
    let share = [10, 25, 25, 50][rng.usize(..4)];
    let mut faults = BTreeMap::new();
    let drawn_apart = |fault: &Fault| {
        let apart = [
            Fault::Membership,
            Fault::Upgrade,
            Fault::LostSlots,
            Fault::Backup,
            Fault::Recovery,
            Fault::DamageWhileAway,
        ];
        apart.contains(fault) || Fault::LATER.contains(fault)
    };
    for fault in Fault::ALL.into_iter().filter(|fault| !drawn_apart(fault)) {
        let on = rng.u8(..100) < share;
        let percent = [rng.u32(5..=30), rng.u32(5..=100)][rng.usize(..2)];
        if on && (members > 1 || !fault.needs_peers()) {
            faults.insert(fault, percent);
        }
    }
    faults
}

/// Drawn apart, so that a seed draws what it always drew besides.
fn draw_txn_percent(seed: u64) -> u8 {
    let mut rng = Rng::with_seed(seed ^ 0x5eed_0007);
    [0, 0, 20, 60][rng.usize(..4)]
}

/// Mostly so little that a node that was away for seconds needs a snapshot.
fn draw_tail(seed: u64) -> Tail {
    let mut rng = Rng::with_seed(seed ^ 0x5eed_0002);
    Tail {
        bytes_max: [0, 4_000, 2 << 30][rng.usize(..3)],
        us_max: [0, 2_000_000, 900_000_000][rng.usize(..3)],
        keep_for_peers_us: [0, 1_000_000, 300_000_000][rng.usize(..3)],
    }
}

fn draw_sizes(rng: &mut Rng) -> Sizes {
    let alpha = [4, 64, 1_024][rng.usize(..3)];
    Sizes {
        alpha,
        window_slots_max: [1, 4, 256][rng.usize(..3)].min(alpha),
        value_bytes_max: [200, 2_000, 512 << 10][rng.usize(..3)],
        page_bytes_max: [100, 1_000, 1 << 20][rng.usize(..3)],
        cache_bytes_max: [0, 2_000, 16 << 20][rng.usize(..3)],
        in_flight_max: [1, 4, 16_384][rng.usize(..3)],
        queue_entries_max: [8, 16, 131_072][rng.usize(..3)],
        segment_groups: [2, 16, 500][rng.usize(..3)],
        metadata_cache_bytes_max: [0, 200, 1 << 20][rng.usize(..3)],
    }
}

/// An attempt under an idempotency key is not late before so many slots could be chosen one
/// after the other, twice.
const SLOTS_OF_GRACE: u64 = 24;

fn draw_keys(rng: &mut Rng, seed: u64) -> Keys {
    let records_max = [20, 1_000_000, 1_000_000][rng.usize(..3)];
    let mut rng = Rng::with_seed(seed ^ 0x5eed_0006);
    let ttl_ms = [600_000, 60_000, 10_000][rng.usize(..3)];
    Keys { records_max, ttl_ms, grace_ms: [ttl_ms / 10, 1_000][rng.usize(..2)] }
}
