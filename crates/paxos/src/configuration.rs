//! The members of the cluster and its quorums.

use alloc::vec::Vec;

use crate::NodeId;

/// Who votes, how many of them make a quorum, and how far ahead of the chosen
/// prefix a leader may propose. Written once by `synod init`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Configuration {
    members: Vec<NodeId>,
    promise_quorum: usize,
    accept_quorum: usize,
    alpha: u64,
}

/// A configuration that cannot be safe, or cannot work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigurationError {
    /// No members, or more than [`Configuration::MEMBERS_MAX`].
    MemberCount,
    /// A node id stands twice, or is zero.
    MemberIds,
    /// `q1 + q2 <= n`, or a quorum of zero or of more than all.
    Quorums,
    /// Alpha is zero.
    Alpha,
}

impl Configuration {
    /// The largest number of members.
    pub const MEMBERS_MAX: usize = 31;

    /// Default of `alpha`.
    pub const ALPHA_DEFAULT: u64 = 1024;

    /// A configuration with majorities for both quorums.
    ///
    /// # Errors
    /// See [`ConfigurationError`].
    pub fn majority(members: Vec<NodeId>, alpha: u64) -> Result<Self, ConfigurationError> {
        let majority = members.len() / 2 + 1;
        Self::new(members, majority, majority, alpha)
    }

    /// A configuration with `promise_quorum` (q1) for phase 1 and `accept_quorum`
    /// (q2) for phase 2 and read rounds ("Flexible Paxos", Howard et al. 2016).
    ///
    /// # Errors
    /// See [`ConfigurationError`].
    pub fn new(
        mut members: Vec<NodeId>,
        promise_quorum: usize,
        accept_quorum: usize,
        alpha: u64,
    ) -> Result<Self, ConfigurationError> {
        let count = members.len();
        if count == 0 || count > Self::MEMBERS_MAX {
            return Err(ConfigurationError::MemberCount);
        }
        members.sort_unstable();
        if members.windows(2).any(|w| w[0] == w[1]) || members[0] == NodeId(0) {
            return Err(ConfigurationError::MemberIds);
        }
        let valid = 1..=count;
        let intersect = promise_quorum.saturating_add(accept_quorum) > count;
        if !valid.contains(&promise_quorum) || !valid.contains(&accept_quorum) || !intersect {
            return Err(ConfigurationError::Quorums);
        }
        if alpha == 0 {
            return Err(ConfigurationError::Alpha);
        }
        Ok(Configuration { members, promise_quorum, accept_quorum, alpha })
    }

    /// The members, in order of their ids.
    #[must_use]
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// Whether `node` is a member.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.members.binary_search(&node).is_ok()
    }

    /// The place of `node` among the members.
    #[must_use]
    pub fn index_of(&self, node: NodeId) -> Option<usize> {
        self.members.binary_search(&node).ok()
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
