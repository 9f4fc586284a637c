//! The kinds of faults that a seed may switch on.

use serde::{Deserialize, Serialize};

/// One kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Fault {
    /// Some messages travel for up to more than a second.
    Delay,
    /// Messages are lost.
    Loss,
    /// Messages arrive twice.
    Duplication,
    /// Messages of one sender overtake each other.
    Reordering,
    /// A connection breaks, with everything that was on its way in it.
    Disconnect,
    /// A node is told that a peer's process is gone while it lives.
    FalseDeath,
    /// The members fall into two groups that do not hear each other.
    Halves,
    /// Some do not hear others, who hear them.
    OneWay,
    /// Two groups that only one node hears both of.
    Bridge,
    /// Each hears only its two neighbours in a row.
    Chain,
    /// Each hears only its two neighbours in a circle.
    Ring,
    /// A cut that comes and goes.
    Flapping,
    /// What is sent over a link waits, and then arrives at once.
    Clogging,
    /// A process dies between two steps.
    Crash,
    /// A process dies when it has carried out a part of a step.
    CrashInStep,
    /// All processes die at once.
    CrashAll,
    /// A machine is lost with its disk.
    Destroyed,
    /// A machine comes back under its old name with an empty disk.
    Wiped,
    /// A process stops for a while and goes on.
    Pause,
    /// Every sync takes long.
    SlowDisk,
    /// The disk hangs for a while.
    DiskStall,
    /// A sync fails.
    SyncError,
    /// The disk is full for a while.
    DiskFull,
    /// Bits of the journal change.
    BitFlip,
    /// The disk reports a write that it never made.
    LostWrite,
    /// The disk writes to another place than it was told.
    MisdirectedWrite,
    /// Clocks run at half to twice their speed.
    ClockRate,
    /// A clock jumps forward.
    ClockJump,
    /// The state machine is slow.
    SlowApply,
    /// The operator asks for another leader.
    HandOver,
    /// The operator changes who votes.
    Membership,
    /// Entries of states change on the disk, on one node or on several.
    StateDamage,
    /// Snapshots are damaged at their source or on their way.
    SnapshotDamage,
    /// An older copy of a data folder comes in its place, or a copy beside it.
    OldCopy,
    /// A replica's state becomes another one than the others'.
    Drift,
    /// The operator installs another release, or lets one write a newer form.
    Upgrade,
    /// Several journals lose slots that their nodes' states lack, each some of its own.
    LostSlots,
    /// Somebody takes a backup, in the middle of all that.
    Backup,
    /// A new cluster is made of what one node has, as if all others were lost for good.
    Recovery,
    /// The states of all others are damaged while a node is away, and they start anew.
    DamageWhileAway,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Fault; 40] = [
        Fault::Delay,
        Fault::Loss,
        Fault::Duplication,
        Fault::Reordering,
        Fault::Disconnect,
        Fault::FalseDeath,
        Fault::Halves,
        Fault::OneWay,
        Fault::Bridge,
        Fault::Chain,
        Fault::Ring,
        Fault::Flapping,
        Fault::Clogging,
        Fault::Crash,
        Fault::CrashInStep,
        Fault::CrashAll,
        Fault::Destroyed,
        Fault::Wiped,
        Fault::Pause,
        Fault::SlowDisk,
        Fault::DiskStall,
        Fault::SyncError,
        Fault::DiskFull,
        Fault::BitFlip,
        Fault::LostWrite,
        Fault::MisdirectedWrite,
        Fault::ClockRate,
        Fault::ClockJump,
        Fault::SlowApply,
        Fault::HandOver,
        Fault::Membership,
        Fault::StateDamage,
        Fault::SnapshotDamage,
        Fault::OldCopy,
        Fault::Drift,
        Fault::Upgrade,
        Fault::LostSlots,
        Fault::Backup,
        Fault::Recovery,
        Fault::DamageWhileAway,
    ];

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fault::Delay => "delay",
            Fault::Loss => "loss",
            Fault::Duplication => "duplication",
            Fault::Reordering => "reordering",
            Fault::Disconnect => "disconnect",
            Fault::FalseDeath => "false death",
            Fault::Halves => "cut: halves",
            Fault::OneWay => "cut: one way",
            Fault::Bridge => "cut: bridge",
            Fault::Chain => "cut: chain",
            Fault::Ring => "cut: ring",
            Fault::Flapping => "cut: flapping",
            Fault::Clogging => "clogging",
            Fault::Crash => "crash",
            Fault::CrashInStep => "crash in a step",
            Fault::CrashAll => "crash of all",
            Fault::Destroyed => "permanent loss",
            Fault::Wiped => "wiped disk",
            Fault::Pause => "pause",
            Fault::SlowDisk => "slow disk",
            Fault::DiskStall => "disk stall",
            Fault::SyncError => "fsync error",
            Fault::DiskFull => "disk full",
            Fault::BitFlip => "bit flip",
            Fault::LostWrite => "lost write",
            Fault::MisdirectedWrite => "misdirected write",
            Fault::ClockRate => "clock rate",
            Fault::ClockJump => "clock jump",
            Fault::SlowApply => "slow apply",
            Fault::HandOver => "hand-over",
            Fault::Membership => "membership",
            Fault::StateDamage => "state damage",
            Fault::SnapshotDamage => "snapshot damage",
            Fault::OldCopy => "older copy",
            Fault::Drift => "drift",
            Fault::Upgrade => "upgrade",
            Fault::LostSlots => "lost slots",
            Fault::Backup => "backup",
            Fault::Recovery => "recovery",
            Fault::DamageWhileAway => "damage while away",
        }
    }

    /// Those that every seed draws from a source of its own, so that it draws the others
    /// as before they were thought of.
    pub(crate) const LATER: [Fault; 4] =
        [Fault::StateDamage, Fault::SnapshotDamage, Fault::OldCopy, Fault::Drift];

    /// Whether it happens between nodes: a single one cannot have it.
    pub(crate) fn needs_peers(self) -> bool {
        matches!(
            self,
            Fault::Disconnect
                | Fault::FalseDeath
                | Fault::Halves
                | Fault::OneWay
                | Fault::Bridge
                | Fault::Chain
                | Fault::Ring
                | Fault::Flapping
                | Fault::Clogging
                | Fault::SnapshotDamage
                | Fault::OldCopy
                | Fault::Drift
                | Fault::Upgrade
                | Fault::LostSlots
        )
    }

    /// The mean time between two episodes at full strength; none for a fault that
    /// is a property of the whole run.
    pub(crate) fn every_us(self) -> Option<u64> {
        let seconds = match self {
            Fault::Delay
            | Fault::Loss
            | Fault::Duplication
            | Fault::Reordering
            | Fault::SlowDisk
            | Fault::SlowApply
            | Fault::ClockRate
            | Fault::SnapshotDamage => return None,
            Fault::Disconnect | Fault::FalseDeath | Fault::Pause => 2,
            Fault::Crash | Fault::CrashInStep | Fault::DiskStall | Fault::HandOver => 3,
            Fault::Membership | Fault::Upgrade => 2,
            Fault::LostSlots | Fault::DamageWhileAway => 2,
            Fault::Backup | Fault::Recovery => 4,
            Fault::Clogging | Fault::SyncError | Fault::DiskFull | Fault::ClockJump => 4,
            Fault::Halves
            | Fault::OneWay
            | Fault::Bridge
            | Fault::Chain
            | Fault::Ring
            | Fault::Flapping => 5,
            Fault::CrashAll | Fault::StateDamage | Fault::OldCopy | Fault::Drift => 10,
            Fault::Destroyed
            | Fault::Wiped
            | Fault::BitFlip
            | Fault::LostWrite
            | Fault::MisdirectedWrite => 15,
        };
        Some(seconds * 1_000_000)
    }
}
