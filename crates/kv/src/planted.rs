//! Mistakes of the state machine, to be switched on one at a time: a simulation that
//! does not find them would not find ours. Only the feature `planted` can make one.

#[macro_use]
#[path = "../../paxos/src/planted/declare.rs"]
mod declare;

planted_bugs! {
    "state machine";
    SlotBeforeData = 33, "the applied slot is written before the data that it stands for";
    RevisionBehindData = 33, "the saved revision is one behind the data that are saved with it";
    OlderSnapshotInstalled = 35, "a snapshot is installed though the state is ahead of it";
    SnapshotKeepsCache = 35, "what was cached of the keys outlives the state that a snapshot replaced";
    SnapshotDataOnly = 36, "after a snapshot commands are numbered as in the state before it";
    SequencesForgotten = 36, "the saved state forgets which commands of which node it took";
    ConfigurationsForgotten = 36, "the saved state forgets who votes";
    RetryAppliedTwice = 43, "a retry under an idempotency key is carried out again";
    SequenceAppliedTwice = 43, "a command that arrives twice is carried out twice";
    LateAttemptTaken = 43, "an attempt that was under way until its idempotency key was forgotten is carried out";
    AnswersInMemoryOnly = 43, "answers under idempotency keys are not saved";
    ExpiryIgnoresRenewals = 41, "the expiry of a lease has effect though it was renewed since";
    ExpiryIgnoresEpoch = 41, "the expiry of a lease has effect though another one keeps the time";
    LeaseKeepsDetached = 41, "a key that is put under no lease goes with the one that it had";
    FailedConditionStores = 45, "a compare-and-set whose comparison failed changes the state";
    TxnLosesLast = 45, "a transaction that changes several keys loses the last change";
    TxnInTwo = 45, "a transaction has a revision for each of its changes";
    TxnFailedStores = 45, "a transaction whose comparison failed is carried out all the same";
    CacheDecides = 50, "what a command does depends on what this node has cached";
}
