//! What happened in many runs. A simulation that never reached a state has not
//! tested it; so a fault that never struck fails a long run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// From so many seeds on everything listed must have happened.
pub const SEEDS_MIN: u64 = 100;

macro_rules! rare {
    ($($name:ident $text:literal,)*) => {
        /// Something that happens seldom and is worth having happened.
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize,
        )]
        #[expect(missing_docs, reason = "each has a name in words below")]
        pub enum Rare {
            $($name,)*
        }

        impl Rare {
            /// Every one.
            pub const ALL: &[Rare] = &[$(Rare::$name,)*];

            /// Its name for people.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Rare::$name => $text,)*
                }
            }
        }
    };
}

rare! {
    GapFilled "leader change with a gap",
    PromiseFromAhead "promise from a node ahead",
    PromisePages "promise of several pages",
    RejectPromised "refused by a higher promise",
    RejectTruncated "accept below a truncation",
    RejectBeyondWindow "accept beyond a window",
    TwoLeaders "two nodes that hold themselves for leaders",
    LeaderKilled "leader killed",
    TornTail "torn tail dropped",
    LostTail "unsynced group lost",
    WholeTail "unacknowledged group kept",
    DamageRefused "damaged journal refused",
    DamageRead "damage met by a running node",
    DamageFoundLater "damage under a running node",
    DamageDropped "damage truncated away",
    DamageScrubbed "damage found by a scrub",
    DamageOnSeveral "damage on several nodes at once",
    JournalMended "damaged journal mended",
    StateDamageMet "damage of the state met",
    StateReplayed "damaged state rebuilt from the journal",
    StateRebuilt "damaged state replaced by a peer's",
    RebuildBroken "state of a peer that did not arrive, or not whole",
    SnapshotDamaged "damaged snapshot refused",
    DriftStopped "replica that drifted stopped by the majority",
    SlotsLostOnSeveral "slots lost on several nodes whose states lack them",
    StaleLeft "slots lost beside acceptances of other values than were chosen",
    ShownTold "chosen slots told by a node that waits at its start",
    SlotsOfWaiting "lost slots that came from a node that waits, too",
    SlotsOfRunning "lost slots that came from a node that runs",
    SlotsNotThere "lost slots asked of a node that has none of them",
    StateFilled "state filled with the slots that the journal lost",
    FilledAhead "filled state ahead of a journal that can be read again",
    FillingCrashed "crash while a state is filled",
    DamageGone "damage of a journal that is gone after a while",
    BackupOfLeader "backup of a leader",
    BackupOfFollower "backup of a follower",
    BackupBesideWrites "backup while others wrote",
    BackupCut "backup cut off by its node's death",
    RestoredServes "cluster made of a backup, that serves",
    RecoveredAccepted "recovered slots that were only accepted",
    RecoveredUnchosen "recovered value that was not chosen",
    RecoveredBeforeHole "recovery that drops what stands behind a hole",
    RecoveredWithLoss "recovery without slots that others chose",
    RecoveredOfDead "recovery of a node that is down",
    RecoveredServes "cluster made of what one node has, that serves",
    Unreplaced "damaged state that nobody replaced, gone on with",
    AmnesiaRefused "wiped disk refused",
    WentBackRefused "older copy of a folder refused",
    SecondProcessRefused "second process on a copy of a folder refused",
    Replayed "state rebuilt from the journal",
    CatchUp "values shipped to a node behind",
    CatchUpFromJournal "values shipped from a journal",
    Relayed "commands relayed by a peer",
    ReadByFollower "read index asked of the leader",
    HandedOver "hand-over sent",
    NoVoter "candidate that is no voter refused",
    NoMember "node that is no member told so",
    MembersChanged "members changed",
    ChangeRefused "change of members refused",
    MemberRetired "removed member switched off",
    VotersLeft "voters lost for good after changes of the members",
    CommandDuplicate "command taken twice, without effect",
    CommandGap "command ahead of its predecessor",
    KeyReplayed "retry under its idempotency key answered again",
    KeyTableFull "no room for an idempotency key",
    AttemptLate "attempt refused as too late for its idempotency key",
    AttemptLateTwin "attempt refused as too late, another one's effect forgotten",
    TxnDone "transaction carried out",
    TxnNotDone "transaction whose comparison failed",
    ConditionFailed "precondition failed",
    RefusedNoLeader "refused: no leader",
    RefusedOverloaded "refused: overloaded",
    UnknownWithEffect "unknown outcome that had effect",
    UnknownWithoutEffect "unknown outcome without effect",
    Truncated "journal truncated",
    TooFarBehind "candidate behind what others hold",
    SnapshotInstalled "snapshot installed",
    SnapshotFromFollower "snapshot from a follower",
    SnapshotFromLeader "snapshot from the leader",
    SnapshotResumed "snapshot resumed after a break",
    SnapshotSourceGone "snapshot's source died meanwhile",
    SnapshotFailed "snapshot given up",
    SnapshotTooOld "snapshot behind what was applied meanwhile",
    SnapshotBeatsAcceptance "snapshot beats an acceptance",
    SnapshotKeepsAcceptance "acceptance above a snapshot kept",
    SnapshotBringsChange "snapshot over a change of members",
    JoinedBySnapshot "member joined by snapshot",
    CrashBeforeSwitch "crash before the switch to a snapshot",
    CrashAfterSwitch "crash between switch and StartAfter",
    SkippedBySnapshot "slots handed out that a snapshot held",
    UnknownBySnapshot "commands outcome unknown by snapshot",
    StoppedByDisk "node stopped by its disk",
    StartFailed "start failed on a full disk",
    FullBesideQuorum "full disks beside a healed quorum with room",
    FullQuorum "full disks of a healed quorum",
    LeaderAwayWhileFull "leader away while disks are full",
    MixedPair "two releases shook hands",
    OlderRefused "older release refused by a node that writes a newer form",
    TakenBack "newer release taken back",
    TakenBackRefused "older release refused a newer journal",
    OlderRead "records of the older form read by the newer release",
    NewerRead "records of the newer form read",
    NewerBatchApplied "batch of the newer form applied",
    LeaseEpoch "time of leases kept by a new leader",
    LeaseKeptByLeader "lease kept by the leader alone",
    LeaseKeptByLog "lease kept through the log",
    LeaseExpired "lease ended since its time was over",
    LeaseEndedInParts "lease ended in several commands",
    LeaseExpiryOld "expiry of a lease without effect",
    LeaseExpiryUnknown "expiry of a lease that nobody heard of",
    WatchResumed "watch gone on at a node",
    WatchCutWithin "watch cut off within a revision",
    WatchOverSnapshot "watch over a snapshot",
    WatchAheadOfNode "watch ahead of its node",
    WatchCompacted "watch ended as compacted",
}

/// Counts.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Coverage {
    faults: BTreeMap<Fault, u64>,
    rare: BTreeMap<Rare, u64>,
}

impl Coverage {
    pub(crate) fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    pub(crate) fn rare(&mut self, rare: Rare) {
        *self.rare.entry(rare).or_default() += 1;
    }

    /// How often a fault struck.
    #[must_use]
    pub fn of_fault(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).copied().unwrap_or(0)
    }

    /// How often something rare happened.
    #[must_use]
    pub fn of_rare(&self, rare: Rare) -> u64 {
        self.rare.get(&rare).copied().unwrap_or(0)
    }

    /// Adds what happened in another run.
    pub fn merge(&mut self, other: &Coverage) {
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        for (rare, count) in &other.rare {
            *self.rare.entry(*rare).or_default() += count;
        }
    }

    /// The names of everything that never happened.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let faults = Fault::ALL.iter().filter(|fault| self.of_fault(**fault) == 0);
        let rare = Rare::ALL.iter().filter(|rare| self.of_rare(**rare) == 0);
        faults.map(|fault| fault.name()).chain(rare.map(|rare| rare.name())).collect()
    }

    /// Every name and its count: the faults first.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let faults = Fault::ALL.iter().map(|fault| (fault.name(), self.of_fault(*fault)));
        let rare = Rare::ALL.iter().map(|rare| (rare.name(), self.of_rare(*rare)));
        faults.chain(rare).collect()
    }
}
