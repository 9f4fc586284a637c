//! Bugs that others have shipped, to be switched on one at a time: a simulation that
//! does not find them would not find ours.
//!
//! Each bug is one line at the place where the right line stands. Only with the
//! feature `planted` can a [`Planted`] hold one; without it [`Planted::is`] is
//! constantly false, the value takes no room, and the compiler drops the wrong line.

#[macro_use]
mod declare;

planted_bugs! {
    "replica";
    PromiseBeforeDurable = 1, "a promise is answered before it is durable";
    PromiseNotRecorded = 1, "a promise is answered and never recorded";
    AcceptedBeforeDurable = 2, "an accept is answered before it is durable";
    AcceptedOneRecordEarly = 2, "an accept is answered while the last record is not durable";
    OwnVoteBeforeDurable = 2, "a leader counts its own vote before it is durable";
    PromiseAfterAcceptance = 3, "an acceptance is recorded before the promise that it makes";
    PrepareBeforeDurable = 4, "a ballot is used before it is durable, and again after a crash";
    BallotsFromOneAgain = 4, "a restarted node counts its ballots from one again";
    CommandNumbersFromOneAgain = 4, "a restarted node numbers its commands as in its first life";
    AcceptDoesNotRaise = 5, "accepting does not raise the promise";
    AcceptsBelowPromise = 5, "an acceptor accepts below its promise";
    OldPromiseCounts = 6, "a promise for an older ballot counts for the new one";
    OldVoteCounts = 6, "a vote of an older ballot counts for the new one";
    VotesOfOneMemberCount = 7, "votes are counted, not their voters";
    MinorityDecides = 7, "one vote less than a quorum decides";
    OwnValueDespiteReport = 8, "a new leader puts no-ops where values were reported";
    FirstReportWins = 8, "a new leader takes the first acceptance reported, not the highest";
    LowestReportWins = 8, "a new leader takes the lowest acceptance reported";
    OneBallotForBoth = 9, "a promise tells its own ballot as that of the acceptances";
    LearnsOlderAcceptance = 10, "a value accepted in an older ballot is taken for the chosen one";
    CatchUpKeepsOwnValue = 35, "what catch-up brings does not replace a stale acceptance";
    TwoValuesInOneBallot = 11, "an accept is sent again with another value";
    LoserNeverStandsAgain = 13, "a candidate or leader that lost once never stands again";
    NoBackOff = 14, "a candidate that lost stands again at once, and gives nobody time";
    BallotJumps = 15, "the third election of a node jumps to a round that nobody believes";
    GapNotFilled = 16, "a new leader does not get gaps filled";
    NoopOverChosen = 17, "a new leader puts no-ops where it misses chosen values";
    OneReportIsEnough = 17, "a new leader judges gaps by one promise of its quorum";
    PageIsWholePromise = 17, "one page of a promise counts as all of it";
    RecoveryPassesHole = 17, "`recover` keeps what was accepted behind a slot that is missing";
    PhaseOneToOwnLast = 18, "phase 1 adopts only up to the new leader's own last slot";
    NewBeforeReported = 18, "a new leader proposes new values before the reported ones";
    HoleAcknowledged = 19, "an accept acknowledges every open slot below it too";
    ReadsBeforeReported = 20, "a new leader serves reads before what was reported is chosen";
    PageWithoutBound = 21, "a promise puts everything into one page";
    EchoesDeposedLeader = 22, "a follower confirms the reads of a deposed leader";
    LeadsBelowPromise = 22, "a leader goes on though it promised a higher ballot";
    ForwardedOnce = 23, "commands on their way to a leader are sent once";
    FetchedOnce = 23, "a lost request for missing slots is never made again";
    NewestCounts = 24, "votes are counted by the newest configuration, not by that of their slot";
    GovernsAtOnce = 24, "a new configuration governs from the next slot on";
    RemovedVotes = 24, "the vote of a node that was removed still counts";
    LearnerVotes = 24, "the vote of a learner member counts";
    ProposesUnprepared = 24, "a leader proposes where others vote without their promise";
    ShownUnchosen = 26, "a damaged journal shows as chosen what was only accepted";
    LostRecordsPassed = 26, "a watermark shows what was accepted before records that are lost";
    UnshownIsNoop = 26, "a slot that nobody shows is filled with a no-op";
    AnyAnswerTaken = 26, "slots that came are taken for those that were asked for last";
    PromiseForgotten = 27, "a restarted node takes its promise for the default";
    ShipsUnchosen = 29, "catch-up ships more than was asked for: what is accepted and not chosen";
    DeadHaveRoom = 32, "the disks of the dead count as having room";
    ReportedNeedsRoom = 32, "what phase 1 brought back waits for room on full disks";
    FullDiskNeverFetches = 32, "a node without room never fetches, though the others need it";
    AppliesBeforeDurable = 33, "a value is applied before the own journal holds it durably";
    TruncatesApplied = 34, "the journal is truncated at the applied slot, not at the durable one";
    StartAfterBeforeSwitch = 34, "the journal starts after a snapshot that is not installed yet";
    StartAfterTooMuch = 35, "after a snapshot the journal starts after the last acceptance";
    SnapshotDropsAcceptances = 35, "acceptances above an installed snapshot are forgotten";
    SnapshotResetsPromise = 36, "the promise is taken from the snapshot, which has none";
    SnapshotKeepsVoters = 36, "who votes is not taken from the snapshot";
    RecoveryDropsAccepted = 39, "`recover` drops what was accepted and is not known as chosen";
    AcceptancesForgotten = 39, "a restarted node has forgotten what it accepted";
    StoreNotCompared = 39, "a wiped disk is let in under its old id: store ids are not compared";
    OldCopyLetIn = 40, "an older copy of a node's folder is let in";
    SecondProcessLetIn = 40, "a second process, on a copy of a node's folder, is let in";
    DriftGoesOn = 50, "a replica whose state most voters contradict goes on";
    ClockOutlivesOffice = 43, "time in the log goes on from what a new leader's clock showed by itself";
    TimeoutIsFailure = 44, "a write that was sent is refused as not done when time is over";
    ReadsWithoutQuorum = 45, "a leader serves reads without asking a quorum";
    ReadsLocally = 45, "a follower serves reads without asking the leader";
    ReadsBeforeApplied = 45, "a read does not wait for the state machine";
    LeadsUnheard = 46, "a leader that no quorum follows or votes for stays";
}
