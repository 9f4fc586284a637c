//! How many nodes make a quorum, where that is no majority.

use serde::Serialize;

/// Each set of so many promising nodes meets each set of so many accepting ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quorums {
    /// So many must promise a ballot before its node leads.
    pub promise: usize,
    /// So many must accept a value.
    pub accept: usize,
}

impl Quorums {
    /// Two majorities of so many nodes.
    #[must_use]
    pub fn majorities(nodes: usize) -> Self {
        Self { promise: nodes / 2 + 1, accept: nodes / 2 + 1 }
    }

    /// Draws quorums of so many nodes that meet and are not two majorities.
    ///
    /// # Panics
    /// With fewer than two nodes.
    #[must_use]
    pub fn drawn(seed: u64, nodes: usize) -> Self {
        assert!(nodes > 1, "one node has majorities only");
        let mut random = fastrand::Rng::with_seed(seed);
        loop {
            let accept = random.usize(1..=nodes);
            // Mostly no node more than it takes.
            let promise = match random.u8(..4) {
                0 => random.usize(nodes + 1 - accept..=nodes),
                _ => nodes + 1 - accept,
            };
            let drawn = Self { promise, accept };
            if drawn != Self::majorities(nodes) {
                return drawn;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_quorums_meet_and_are_all_drawn() {
        for nodes in [2, 3, 5] {
            let drawn = |seed| {
                let Quorums { promise, accept } = Quorums::drawn(seed, nodes);
                (promise, accept)
            };
            let mut all: Vec<(usize, usize)> = (0..1_000).map(drawn).collect();
            assert!(all.iter().all(|(promise, accept)| {
                promise + accept > nodes && *promise.max(accept) <= nodes && *accept > 0
            }));
            all.sort_unstable();
            all.dedup();
            let majority = nodes / 2 + 1;
            assert!(!all.contains(&(majority, majority)));
            assert_eq!(all.len(), nodes * (nodes + 1) / 2 - 1, "{all:?}");
            assert_eq!(drawn(7), drawn(7));
        }
    }
}
