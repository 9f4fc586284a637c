//! What goes wrong, drawn from a seed.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::links::Flow;

/// How long a fault lasts, and how long nothing goes wrong after it.
const LASTS_MS: std::ops::Range<u64> = 400..2_500;
const CALM_MS: std::ops::Range<u64> = 500..1_500;
/// How long after its begin a change of the members is surely not over yet, about.
const CHANGE_MS: std::ops::Range<u64> = 0..500;
const TRANSFER_MS: std::ops::Range<u64> = 0..30;
/// Two changes, each of which takes no longer than its command.
const QUORUMS_MS: std::ops::Range<u64> = 0..150;

/// A class of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// SIGKILL, and started again.
    Kill,
    /// SIGSTOP, and continued.
    Pause,
    /// Directions between nodes do not work.
    Partition,
    /// The disk is full; later there is room again.
    Disk,
    /// Another node leads, or other nodes are members.
    Member,
    /// Bytes of a node's files are flipped, or its data folder is emptied or put back from an
    /// older copy.
    Damage,
    /// A backup is made, mostly while something else goes wrong, and another cluster of it.
    Backup,
    /// All nodes are killed, and another cluster is made of what one of them has.
    Recover,
    /// A node goes on as another release, or all do, one after the other.
    Upgrade,
    /// A node's state becomes another one, with checksums that are right.
    Drift,
    /// No sync of a node returns, and none fails; later they do.
    Stall,
}

impl Class {
    /// All of them, in the order in which they take turns.
    pub const ALL: [Class; 11] = [
        Class::Kill,
        Class::Pause,
        Class::Partition,
        Class::Disk,
        Class::Member,
        Class::Damage,
        Class::Backup,
        Class::Recover,
        Class::Upgrade,
        Class::Drift,
        Class::Stall,
    ];
    /// Those of a run that names none: they need nothing but processes.
    pub const ANYWHERE: [Class; 6] =
        [Class::Kill, Class::Pause, Class::Partition, Class::Member, Class::Backup, Class::Recover];

    /// Whether other nodes may be members after it.
    pub fn changes_nodes(self) -> bool {
        matches!(self, Class::Member | Class::Damage | Class::Drift)
    }

    /// Whether it takes its own course, of which there is something to tell.
    pub(super) fn has_course(self) -> bool {
        self.changes_nodes() || matches!(self, Class::Backup | Class::Recover | Class::Upgrade)
    }

    fn kinds(self) -> &'static [Kind] {
        match self {
            Class::Kill => &[Kind::KillLeader, Kind::KillAny, Kind::KillMinority, Kind::KillAll],
            Class::Pause => &[Kind::PauseLeader, Kind::PauseAny, Kind::PauseMinority],
            Class::Partition => {
                &[Kind::Halves, Kind::IsolateLeader, Kind::OneWayIn, Kind::OneWayOut, Kind::Bridge]
            }
            Class::Disk => &[Kind::FillLeader, Kind::FillAny, Kind::FillMinority, Kind::FillAll],
            Class::Member => &[
                Kind::Transfer,
                Kind::ReplaceLeader,
                Kind::ReplaceAny,
                Kind::GrowAndShrink,
                Kind::OtherQuorums,
            ],
            Class::Damage => {
                &[Kind::FlipAny, Kind::FlipMinority, Kind::Wipe, Kind::PutBack, Kind::Twin]
            }
            Class::Backup => &[
                Kind::Backup,
                Kind::BackupKillGiver,
                Kind::BackupKillLeader,
                Kind::BackupPauseLeader,
                Kind::BackupIsolateLeader,
            ],
            Class::Recover => &[Kind::RecoverAny, Kind::RecoverLeader],
            Class::Upgrade => {
                &[Kind::UpgradeAny, Kind::UpgradeLeader, Kind::UpgradeKilled, Kind::UpgradeAll]
            }
            Class::Drift => &[Kind::DriftLeader, Kind::DriftMinority, Kind::DriftRecord],
            Class::Stall => &[Kind::StallLeader, Kind::StallAny, Kind::StallMinority],
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Kill => "kill",
            Class::Pause => "pause",
            Class::Partition => "partition",
            Class::Disk => "disk",
            Class::Member => "member",
            Class::Damage => "damage",
            Class::Backup => "backup",
            Class::Recover => "recover",
            Class::Upgrade => "upgrade",
            Class::Drift => "drift",
            Class::Stall => "stall",
        })
    }
}

/// Whom a fault meets, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Any node is killed.
    KillAny,
    /// The leader is killed.
    KillLeader,
    /// As many nodes are killed as the cluster can lose.
    KillMinority,
    /// All nodes are killed at once.
    KillAll,
    /// Any node is paused.
    PauseAny,
    /// The leader is paused.
    PauseLeader,
    /// As many nodes are paused as the cluster can lose.
    PauseMinority,
    /// Two groups hear nothing of each other.
    Halves,
    /// The leader hears nobody and nobody hears it.
    IsolateLeader,
    /// The leader hears nobody.
    OneWayIn,
    /// Nobody hears the leader.
    OneWayOut,
    /// Two groups hear nothing of each other; one node hears all and is heard by all.
    Bridge,
    /// The disk of any node is full.
    FillAny,
    /// The leader's disk is full.
    FillLeader,
    /// The disks of as many nodes are full as the cluster can lose.
    FillMinority,
    /// All disks are full at once.
    FillAll,
    /// The leader gives its office away.
    Transfer,
    /// A new node takes the leader's place.
    ReplaceLeader,
    /// A new node takes the place of any.
    ReplaceAny,
    /// A new node comes in, and then any goes.
    GrowAndShrink,
    /// Other quorums count, and then those of before.
    OtherQuorums,
    /// Bytes of any node's files are flipped while it is dead.
    FlipAny,
    /// The same of as many nodes as the cluster can lose.
    FlipMinority,
    /// Any node loses its data folder, and gets an empty one under its id.
    Wipe,
    /// Any node gets an older copy of its data folder.
    PutBack,
    /// Any node is started again beside a copy of itself.
    Twin,
    /// Any node makes a backup.
    Backup,
    /// The node is killed that was asked for a backup.
    BackupKillGiver,
    /// A backup is asked for when the leader was killed.
    BackupKillLeader,
    /// A backup is asked for when the leader was paused.
    BackupPauseLeader,
    /// A backup is asked for when the leader hears nobody and nobody hears it.
    BackupIsolateLeader,
    /// All are killed, any last, and another cluster is made of what that one has.
    RecoverAny,
    /// The same of the leader.
    RecoverLeader,
    /// Any node ends in order and goes on as another release.
    UpgradeAny,
    /// The leader does.
    UpgradeLeader,
    /// Any node is killed and goes on as another release.
    UpgradeKilled,
    /// All nodes do one or the other, one by one.
    UpgradeAll,
    /// The leader's state has another running hash.
    DriftLeader,
    /// The same of as many nodes as the cluster can lose.
    DriftMinority,
    /// The state of any has another hash and another value of a key that no client reads.
    DriftRecord,
    /// The leader's disk stands still.
    StallLeader,
    /// The disk of any node does.
    StallAny,
    /// The disks of as many nodes do as the cluster can lose.
    StallMinority,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::KillAny => "kill any",
            Kind::KillLeader => "kill leader",
            Kind::KillMinority => "kill minority",
            Kind::KillAll => "kill all",
            Kind::PauseAny => "pause any",
            Kind::PauseLeader => "pause leader",
            Kind::PauseMinority => "pause minority",
            Kind::Halves => "partition halves",
            Kind::IsolateLeader => "isolate leader",
            Kind::OneWayIn => "one-way in",
            Kind::OneWayOut => "one-way out",
            Kind::Bridge => "bridge",
            Kind::FillAny => "fill disk of any",
            Kind::FillLeader => "fill disk of leader",
            Kind::FillMinority => "fill disks of minority",
            Kind::FillAll => "fill all disks",
            Kind::Transfer => "transfer",
            Kind::ReplaceLeader => "replace leader",
            Kind::ReplaceAny => "replace any",
            Kind::GrowAndShrink => "grow and shrink",
            Kind::OtherQuorums => "other quorums and back",
            Kind::FlipAny => "flip bytes of any",
            Kind::FlipMinority => "flip bytes of minority",
            Kind::Wipe => "wipe folder of any",
            Kind::PutBack => "put back older folder of any",
            Kind::Twin => "copy of any beside it",
            Kind::Backup => "backup",
            Kind::BackupKillGiver => "backup, kill its node",
            Kind::BackupKillLeader => "backup, kill leader",
            Kind::BackupPauseLeader => "backup, pause leader",
            Kind::BackupIsolateLeader => "backup, isolate leader",
            Kind::RecoverAny => "kill all, recover any",
            Kind::RecoverLeader => "kill all, recover leader",
            Kind::UpgradeAny => "other release of any",
            Kind::UpgradeLeader => "other release of leader",
            Kind::UpgradeKilled => "kill any, other release",
            Kind::UpgradeAll => "other release of all, one by one",
            Kind::DriftLeader => "drift of leader",
            Kind::DriftMinority => "drift of minority",
            Kind::DriftRecord => "drift of any and a record",
            Kind::StallLeader => "stall disk of leader",
            Kind::StallAny => "stall disk of any",
            Kind::StallMinority => "stall disks of minority",
        })
    }
}

impl Kind {
    /// Whether it is the leader who is met, whoever that is then.
    pub(super) fn meets_leader(self) -> bool {
        matches!(
            self,
            Kind::KillLeader
                | Kind::PauseLeader
                | Kind::IsolateLeader
                | Kind::OneWayIn
                | Kind::OneWayOut
                | Kind::FillLeader
                | Kind::Transfer
                | Kind::ReplaceLeader
                | Kind::BackupKillLeader
                | Kind::BackupPauseLeader
                | Kind::BackupIsolateLeader
                | Kind::RecoverLeader
                | Kind::UpgradeLeader
                | Kind::DriftLeader
                | Kind::StallLeader
        )
    }

    /// What goes wrong beside a backup.
    fn beside(self) -> Option<(Class, Kind)> {
        match self {
            Kind::BackupKillGiver => Some((Class::Kill, Kind::KillAny)),
            Kind::BackupKillLeader => Some((Class::Kill, Kind::KillLeader)),
            Kind::BackupPauseLeader => Some((Class::Pause, Kind::PauseLeader)),
            Kind::BackupIsolateLeader => Some((Class::Partition, Kind::IsolateLeader)),
            _ => None,
        }
    }

    /// How many nodes it meets, of so many.
    pub(super) fn victims(self, nodes: usize) -> usize {
        match self {
            Kind::KillMinority
            | Kind::PauseMinority
            | Kind::FillMinority
            | Kind::FlipMinority
            | Kind::DriftMinority
            | Kind::StallMinority
            | Kind::Halves => (nodes - 1) / 2,
            Kind::KillAll | Kind::FillAll | Kind::UpgradeAll | Kind::OtherQuorums => nodes,
            _ => 1,
        }
    }
}

/// One fault as the seed has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) class: Class,
    pub(super) kind: Kind,
    /// All nodes, by index; the first of them are met.
    pub(super) order: Vec<usize>,
    /// What the directions do that do not work.
    pub(super) flow: Flow,
    pub(super) lasts: Duration,
    pub(super) calm: Duration,
    /// What else happens in the middle of a change of the members or of releases.
    pub(super) blow: Option<Blow>,
    /// What is drawn later, where it is known what there is to draw from.
    pub(super) seed: u64,
}

/// A node is killed or paused for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blow {
    /// Else it is paused.
    pub(super) kills: bool,
    /// After the begin of the change.
    pub(super) after: Duration,
    /// Which node, counted round and round.
    pub(super) victim: usize,
}

/// Draws one fault after the other: the classes take turns, and of each class every
/// kind comes once before one comes again.
#[derive(Debug)]
pub(super) struct Nemesis {
    random: fastrand::Rng,
    nodes: usize,
    classes: Vec<(Class, Vec<Kind>)>,
    turn: usize,
    /// Changes of the members so far; every other one gets a blow.
    changes: u32,
    /// Changes of releases so far, likewise.
    upgrades: u32,
}

impl Nemesis {
    pub(super) fn new(seed: u64, nodes: usize, classes: &[Class]) -> Self {
        let chosen = Class::ALL.into_iter().filter(|class| classes.contains(class));
        let classes = chosen.map(|class| (class, Vec::new())).collect();
        let random = fastrand::Rng::with_seed(seed);
        Self { random, nodes, classes, turn: 0, changes: 0, upgrades: 0 }
    }

    pub(super) fn next(&mut self) -> Fault {
        let turn = self.turn % self.classes.len();
        self.turn += 1;
        let (class, kinds) = &mut self.classes[turn];
        if kinds.is_empty() {
            kinds.extend_from_slice(class.kinds());
            self.random.shuffle(kinds);
        }
        let (class, kind) = (*class, kinds.pop().expect("filled above"));
        let mut order: Vec<usize> = (0..self.nodes).collect();
        self.random.shuffle(&mut order);
        let (blow, seed) = match class.has_course() {
            true => (self.draw_blow(class, kind), self.random.u64(..)),
            false => (None, 0),
        };
        Fault {
            class,
            kind,
            order,
            flow: if self.random.bool() { Flow::Held } else { Flow::Cut },
            lasts: Duration::from_millis(self.random.u64(LASTS_MS)),
            calm: Duration::from_millis(self.random.u64(CALM_MS)),
            blow,
            seed,
        }
    }

    fn draw_blow(&mut self, class: Class, kind: Kind) -> Option<Blow> {
        let changes = match class {
            Class::Member => &mut self.changes,
            Class::Upgrade => &mut self.upgrades,
            _ => return None,
        };
        *changes += 1;
        let is_struck = changes.is_multiple_of(2);
        let after_ms = match kind {
            Kind::Transfer => TRANSFER_MS,
            Kind::OtherQuorums => QUORUMS_MS,
            _ => CHANGE_MS,
        };
        let blow = Blow {
            kills: self.random.bool(),
            after: Duration::from_millis(self.random.u64(after_ms)),
            victim: self.random.usize(..),
        };
        is_struck.then_some(blow)
    }
}

impl Fault {
    /// The fault that happens beside a backup, to the same nodes.
    pub(super) fn beside(&self) -> Option<Fault> {
        self.kind.beside().map(|(class, kind)| Fault { class, kind, ..self.clone() })
    }

    /// The directions that do not work, by the nodes' indices.
    pub(super) fn directions(&self) -> Vec<(usize, usize)> {
        let met = &self.order[..self.kind.victims(self.order.len())];
        let bridge = self.order[0];
        let half = self.order.len().div_ceil(2);
        let side = |node: usize| self.order[..half].contains(&node);
        let fails = |from: usize, to: usize| match self.kind {
            Kind::Halves | Kind::IsolateLeader => met.contains(&from) != met.contains(&to),
            Kind::OneWayIn => met.contains(&to),
            Kind::OneWayOut => met.contains(&from),
            Kind::Bridge => from != bridge && to != bridge && side(from) != side(to),
            _ => false,
        };
        let all = |from| (0..self.order.len()).map(move |to| (from, to));
        let pairs = (0..self.order.len()).flat_map(all);
        pairs.filter(|(from, to)| from != to && fails(*from, *to)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: Kind, order: &[usize]) -> Fault {
        let (lasts, calm) = (Duration::ZERO, Duration::ZERO);
        let (order, flow) = (order.to_vec(), Flow::Cut);
        Fault { class: Class::Partition, kind, order, flow, lasts, calm, blow: None, seed: 0 }
    }

    #[test]
    fn a_seed_gives_the_same_faults_and_every_kind_comes() {
        let drawn = |seed| {
            let mut nemesis = Nemesis::new(seed, 5, &Class::ALL);
            (0..55).map(|_| nemesis.next()).collect::<Vec<_>>()
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        let mut kinds: Vec<Kind> = drawn(7).iter().map(|fault| fault.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), 43, "all kinds within fifty-five faults");
        let classes: Vec<_> = drawn(7)[..23].iter().map(|fault| fault.class).collect();
        assert_eq!(classes.iter().filter(|class| **class == Class::Kill).count(), 3);
    }

    #[test]
    fn every_other_change_of_the_members_meets_a_blow() {
        let mut nemesis = Nemesis::new(7, 3, &[Class::Member]);
        let blows: Vec<bool> = (0..8).map(|_| nemesis.next().blow.is_some()).collect();
        assert_eq!(blows, [false, true, false, true, false, true, false, true]);
        // Each of the two has its own turns.
        let mut nemesis = Nemesis::new(7, 3, &[Class::Member, Class::Upgrade]);
        let blows: Vec<bool> = (0..8).map(|_| nemesis.next().blow.is_some()).collect();
        assert_eq!(blows, [false, false, true, true, false, false, true, true]);
        let mut nemesis = Nemesis::new(7, 3, &[Class::Damage]);
        assert!((0..8).all(|_| nemesis.next().blow.is_none()));
    }

    #[test]
    fn what_goes_wrong_beside_a_backup_meets_the_same_nodes() {
        let backup = Fault { class: Class::Backup, ..fault(Kind::BackupIsolateLeader, &[1, 0, 2]) };
        let beside = backup.beside().expect("a partition");
        assert_eq!((beside.class, &beside.order), (Class::Partition, &backup.order));
        assert_eq!(beside.directions(), [(0, 1), (1, 0), (1, 2), (2, 1)]);
        assert_eq!(fault(Kind::Backup, &[1, 0, 2]).beside(), None);
        for kind in Class::Backup.kinds() {
            let of_leader = kind.beside().is_some_and(|(_, kind)| kind.meets_leader());
            assert_eq!(kind.meets_leader(), of_leader, "{kind}");
        }
    }

    #[test]
    fn directions_fail_as_the_kind_says() {
        assert_eq!(fault(Kind::OneWayIn, &[1, 0, 2]).directions(), [(0, 1), (2, 1)]);
        assert_eq!(fault(Kind::OneWayOut, &[1, 0, 2]).directions(), [(1, 0), (1, 2)]);
        let isolated = [(0, 1), (1, 0), (1, 2), (2, 1)];
        assert_eq!(fault(Kind::IsolateLeader, &[1, 0, 2]).directions(), isolated);
        assert_eq!(fault(Kind::Bridge, &[1, 0, 2]).directions(), [(0, 2), (2, 0)]);
        // Two and two around the third.
        let bridge = fault(Kind::Bridge, &[0, 1, 2, 3, 4]).directions();
        assert_eq!(bridge.len(), 8);
        assert!(bridge.iter().all(|(from, to)| *from != 0 && *to != 0));
        assert_eq!(fault(Kind::Halves, &[0, 1, 2, 3, 4]).directions().len(), 12);
        assert_eq!(fault(Kind::KillAll, &[0, 1, 2]).directions(), []);
    }
}
