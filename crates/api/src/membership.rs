//! What an operator may want of the members.

/// A change of the members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberChange {
    /// What shall be.
    pub wanted: Wanted,
    /// Only if the newest configuration has this number.
    pub configuration: Option<u64>,
    /// Also when it is risky.
    pub force: bool,
}

/// What shall be. The words are checked; whether they fit the members is not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// One more member, which learns and does not vote.
    Add {
        /// Its node id.
        id: u32,
        /// The id of its data folder.
        store: u128,
        /// Where its peers reach it.
        peer: String,
        /// Where its clients reach it, without a slash at the end.
        client_url: String,
    },
    /// It is reached elsewhere.
    Move {
        /// The member.
        id: u32,
        /// Where its peers reach it now, if that changes.
        peer: Option<String>,
        /// Where its clients reach it now, if that changes.
        client_url: Option<String>,
    },
    /// It votes.
    Promote {
        /// The member.
        id: u32,
    },
    /// It votes, and another one is a member no more.
    Replace {
        /// The learner member that comes.
        id: u32,
        /// The voter that goes.
        old: u32,
    },
    /// It is a member no more.
    Remove {
        /// The member.
        id: u32,
    },
    /// Other quorums of the same voters.
    Quorums {
        /// Promises that make a leader.
        promise: u32,
        /// Acceptances that choose a value.
        accept: u32,
    },
}
