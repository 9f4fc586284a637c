//! The members of the cluster and its quorums.

use alloc::vec::Vec;

use bytes::Bytes;

use crate::NodeId;

/// Who votes, who only learns, how many make a quorum, and how far ahead of the
/// chosen prefix a leader may propose. Number 0 is written by `synod init`; each later
/// one is a value of the log ([`crate::Configurations`] says which slots it governs).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Configuration {
    number: u64,
    /// The voters in order of their ids, then the learner members in order of theirs.
    members: Vec<NodeId>,
    voters: usize,
    promise_quorum: usize,
    accept_quorum: usize,
    alpha: u64,
    about: Bytes,
}

/// A configuration that cannot be safe, or cannot work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigurationError {
    /// No voters, or more than [`Configuration::MEMBERS_MAX`] members.
    MemberCount,
    /// A node id stands twice, or is zero.
    MemberIds,
    /// `q1 + q2 <= n`, or a quorum of zero or of more than all.
    Quorums,
    /// Alpha is zero, or above [`Configuration::ALPHA_MAX`].
    Alpha,
    /// What is said about the members is longer than
    /// [`Configuration::ABOUT_BYTES_MAX`].
    About,
}

impl Configuration {
    /// The largest number of members, learner members included.
    pub const MEMBERS_MAX: usize = 31;

    /// Default of `alpha`.
    pub const ALPHA_DEFAULT: u64 = 1024;

    /// The largest `alpha`: a new leader holds at most twice as many reported slots.
    pub const ALPHA_MAX: u64 = 1 << 20;

    /// The most bytes that may be said about the members.
    pub const ABOUT_BYTES_MAX: usize = 64 << 10;

    /// A first configuration with majorities for both quorums.
    ///
    /// # Errors
    /// See [`ConfigurationError`].
    pub fn majority(voters: Vec<NodeId>, alpha: u64) -> Result<Self, ConfigurationError> {
        let majority = voters.len() / 2 + 1;
        Self::new(voters, majority, majority, alpha)
    }

    /// A first configuration with `promise_quorum` (q1) for phase 1 and `accept_quorum`
    /// (q2) for phase 2 and read rounds ("Flexible Paxos", Howard et al. 2016).
    ///
    /// # Errors
    /// See [`ConfigurationError`].
    pub fn new(
        mut voters: Vec<NodeId>,
        promise_quorum: usize,
        accept_quorum: usize,
        alpha: u64,
    ) -> Result<Self, ConfigurationError> {
        let count = voters.len();
        if count == 0 || count > Self::MEMBERS_MAX {
            return Err(ConfigurationError::MemberCount);
        }
        voters.sort_unstable();
        if voters.windows(2).any(|w| w[0] == w[1]) || voters[0] == NodeId(0) {
            return Err(ConfigurationError::MemberIds);
        }
        let valid = 1..=count;
        let intersect = promise_quorum.saturating_add(accept_quorum) > count;
        if !valid.contains(&promise_quorum) || !valid.contains(&accept_quorum) || !intersect {
            return Err(ConfigurationError::Quorums);
        }
        if alpha == 0 || alpha > Self::ALPHA_MAX {
            return Err(ConfigurationError::Alpha);
        }
        let (number, about) = (0, Bytes::new());
        let (members, voters) = (voters, count);
        Ok(Configuration { number, members, voters, promise_quorum, accept_quorum, alpha, about })
    }

    /// The same with these learner members: they receive everything and are never
    /// counted.
    ///
    /// # Errors
    /// When there are too many members, or one of these is another member too.
    pub fn with_learners(mut self, learners: Vec<NodeId>) -> Result<Self, ConfigurationError> {
        self.members.truncate(self.voters);
        if self.voters + learners.len() > Self::MEMBERS_MAX {
            return Err(ConfigurationError::MemberCount);
        }
        self.members.extend(learners);
        self.members[self.voters..].sort_unstable();
        let learners = self.learners();
        let twice = learners.windows(2).any(|w| w[0] == w[1]);
        if twice || learners.iter().any(|node| self.is_voter(*node) || *node == NodeId(0)) {
            return Err(ConfigurationError::MemberIds);
        }
        Ok(self)
    }

    /// The same with this number: one more than that of the configuration which it
    /// shall replace.
    #[must_use]
    pub fn numbered(mut self, number: u64) -> Self {
        self.number = number;
        self
    }

    /// The same with what the host wants to be known about the members, such as their
    /// addresses. The core never looks inside.
    ///
    /// # Errors
    /// When it is longer than [`Self::ABOUT_BYTES_MAX`].
    pub fn with_about(mut self, about: Bytes) -> Result<Self, ConfigurationError> {
        if about.len() > Self::ABOUT_BYTES_MAX {
            return Err(ConfigurationError::About);
        }
        self.about = about;
        Ok(self)
    }

    /// How many changes led to this configuration.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The members: the voters in order of their ids, then the learner members in order
    /// of theirs.
    #[must_use]
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// Those whose promises and votes count, in order of their ids.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.members[..self.voters]
    }

    /// Those that receive everything and are never counted, in order of their ids.
    #[must_use]
    pub fn learners(&self) -> &[NodeId] {
        &self.members[self.voters..]
    }

    /// What the host wants to be known about the members.
    #[must_use]
    pub fn about(&self) -> &Bytes {
        &self.about
    }

    /// Whether `node` is a member, voter or not.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.is_voter(node) || self.learners().binary_search(&node).is_ok()
    }

    /// Whether `node` votes.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.index_of(node).is_some()
    }

    /// The place of `node` among the voters.
    #[must_use]
    pub fn index_of(&self, node: NodeId) -> Option<usize> {
        self.voters().binary_search(&node).ok()
    }

    /// q1: promises that make a leader.
    #[must_use]
    pub fn promise_quorum(&self) -> usize {
        self.promise_quorum
    }

    /// q2: acceptances that choose a value, and echoes that confirm a read.
    #[must_use]
    pub fn accept_quorum(&self) -> usize {
        self.accept_quorum
    }

    /// The larger of the two quorums: what progress needs.
    #[must_use]
    pub fn progress_quorum(&self) -> usize {
        self.promise_quorum.max(self.accept_quorum)
    }

    /// A leader proposes in slot s only when it knows every slot up to s - alpha
    /// as chosen.
    #[must_use]
    pub fn alpha(&self) -> u64 {
        self.alpha
    }

    /// How many members may still fail when `alive` of them work.
    #[must_use]
    pub fn failures_survivable(&self, alive: usize) -> usize {
        alive.saturating_sub(self.progress_quorum())
    }
}
