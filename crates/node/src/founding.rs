//! What a cluster began with. Two clusters that were restored from different backups
//! under one id are different clusters: a node of the one must not count as a member of
//! the other, or it would overwrite what that one acknowledged.

use synod_journal::ClusterId;
use synod_kv::http::RestoredBody;
use synod_paxos::{Configuration, Slot};

/// The state that a cluster began with; slot zero for an empty one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Founding {
    /// Everything up to here was in it.
    pub slot: Slot,
    /// The hash over the effects of all of it.
    pub state_hash: u64,
}

impl Founding {
    /// As others are told of it; none for an empty state.
    pub(crate) fn body(self) -> Option<RestoredBody> {
        (self != Founding::default()).then(|| RestoredBody {
            slot: self.slot.0,
            state_hash: format!("{:016x}", self.state_hash),
        })
    }

    /// Reads what [`Founding::body`] made.
    ///
    /// # Errors
    /// When the hash is none.
    pub(crate) fn read(body: &RestoredBody) -> Result<Founding, String> {
        let text = &body.state_hash;
        let state_hash =
            u64::from_str_radix(text, 16).map_err(|error| format!("{text:?}: {error}"))?;
        Ok(Founding { slot: Slot(body.slot), state_hash })
    }

    /// What the journal and the peers of a cluster of this id know it by: the id itself,
    /// and of a restored cluster a hash over it and over what it began with.
    pub(crate) fn lineage(self, cluster: u128) -> ClusterId {
        if self == Founding::default() {
            return ClusterId(cluster);
        }
        let [high, low] = [cluster >> 64, cluster & u128::from(u64::MAX)]
            .map(|half| u64::try_from(half).expect("64 bits"));
        let half = |domain: &[u8; 8]| {
            let begun = mixed(u64::from_be_bytes(*domain));
            [high, low, self.slot.0, self.state_hash]
                .iter()
                .fold(begun, |hash, word| mixed(hash ^ word))
        };
        let mixed = u128::from(half(b"restore1")) << 64 | u128::from(half(b"restore2"));
        ClusterId(mixed.max(1))
    }
}

/// What peers compare of the members and quorums that their cluster began with. A node counts
/// by its own, so that two with different ones could choose two values for one slot.
pub(crate) fn founded(first: &Configuration) -> u64 {
    let quorums = [first.promise_quorum(), first.accept_quorum(), first.voters().len()];
    let voters = first.voters().iter().map(|voter| u64::from(voter.0));
    let numbers = quorums.into_iter().map(|number| number as u64).chain([first.alpha()]);
    numbers
        .chain(voters)
        .fold(mixed(u64::from_be_bytes(*b"founded1")), |hash, word| mixed(hash ^ word))
}

/// SplitMix64's finalizer: every bit of the number bears on every bit of the result.
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use synod_paxos::NodeId;

    use super::*;

    #[test]
    fn each_beginning_makes_another_cluster_of_an_id() {
        let mut seen = std::collections::BTreeSet::new();
        let mut count = 0;
        for cluster in [1, 2, 1 << 64, u128::MAX] {
            assert_eq!(Founding::default().lineage(cluster), ClusterId(cluster));
            for (slot, state_hash) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (1, u64::MAX)] {
                let founding = Founding { slot: Slot(slot), state_hash };
                seen.insert(founding.lineage(cluster).0);
                count += 1;
            }
        }
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn whatever_bears_on_quorums_is_told_apart() {
        let of = |voters: &[u32], promise, accept, alpha| {
            let voters = voters.iter().copied().map(NodeId).collect();
            founded(&Configuration::new(voters, promise, accept, alpha).expect("possible"))
        };
        let all = [
            of(&[1, 2, 3, 4, 5], 3, 3, 1024),
            of(&[1, 2, 3, 4, 5], 4, 2, 1024),
            of(&[1, 2, 3, 4, 5], 4, 3, 1024),
            of(&[1, 2, 3, 4, 5], 3, 3, 16),
            of(&[1, 2, 3, 4, 6], 3, 3, 1024),
            of(&[1, 2, 3, 4], 3, 3, 1024),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert_eq!(all[0], of(&[5, 4, 3, 2, 1], 3, 3, 1024), "their order is none");
        // Nodes of different releases compare it.
        assert_eq!(all[0], 0x5593_1c84_2f3b_deda);
    }

    #[test]
    fn the_lineage_is_the_same_in_every_release() {
        // It stands in journals.
        let founding = Founding { slot: Slot(4_711), state_hash: 0x0123_4567_89ab_cdef };
        let lineage = founding.lineage(0xfeed_face_feed_face_feed_face_feed_face);
        assert_eq!(format!("{:032x}", lineage.0), "99ac6bc4deb0a089489c1245531cc3d4");
    }
}
