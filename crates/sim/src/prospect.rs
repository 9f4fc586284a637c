//! Whether nodes that have lost slots, or their states, can all mend themselves from what is left.
//!
//! The nemesis asks this before it strikes, and so does whoever takes a node away for good.

use std::collections::{BTreeMap, BTreeSet};

use synod_paxos::{NodeId, Planted, Slot};

use crate::disk::Disk;
use crate::node::Node;
use crate::world::World;

/// What a node has of the log when it starts, as far as others may rely on it.
struct Prospect {
    /// Everything up to here.
    known: Slot,
    /// What it needs before it takes part.
    needed: Slot,
    /// What it can tell until then.
    shown: BTreeSet<Slot>,
    /// Its own state is of no use.
    is_lost: bool,
    waits: bool,
}

impl Prospect {
    fn of(node: &Node, disk: &Disk) -> Option<Prospect> {
        let behind = disk.behind_damage().ok()?;
        let needed = node.needed(behind);
        // A journal that goes back to the beginning makes up for any state.
        let is_lost = node.state_is_damaged() && needed > Slot::ZERO;
        let waits = is_lost || needed.0 > node.state.slot;
        let own = Slot(node.state.slot);
        let shown = disk.shown(Planted::NONE);
        let whole = shown.into_iter().filter(|(_, place)| disk.value_at(*place).is_some());
        let known = match (is_lost, behind) {
            (true, _) => Slot::ZERO,
            (false, None) if !waits => own.max(disk.durably_chosen_upto()),
            (false, _) => own,
        };
        let shown = whole.map(|(slot, _)| slot).collect();
        Some(Prospect { known, needed, shown, is_lost, waits })
    }
}

/// Whether all come to run in the end, from what they and the others have.
fn all_mend(mut prospects: Vec<Prospect>) -> bool {
    loop {
        let running = prospects.iter().filter(|one| !one.waits).map(|one| one.known).max();
        let running = running.unwrap_or(Slot::ZERO);
        let told: BTreeSet<Slot> = prospects
            .iter()
            .filter(|one| one.waits)
            .flat_map(|one| one.shown.iter().copied())
            .collect();
        let mut moved = false;
        for one in prospects.iter_mut().filter(|one| one.waits) {
            let mut known = if one.is_lost { Slot::ZERO } else { one.known };
            if running > known && (!one.is_lost || running >= one.needed) {
                known = running;
            }
            while !one.is_lost && known < one.needed && told.contains(&known.next()) {
                known = known.next();
            }
            moved |= known > one.known;
            one.known = one.known.max(known);
            if one.known >= one.needed && (!one.is_lost || known > Slot::ZERO) {
                (one.waits, moved) = (false, true);
            }
        }
        if !moved {
            return prospects.iter().all(|one| !one.waits);
        }
    }
}

impl World<'_> {
    /// Whether all that shall be there can mend themselves without the others, if the disks of some
    /// were these.
    pub(crate) fn can_mend(
        &self,
        is_there: impl Fn(&Node) -> bool,
        disks: &BTreeMap<NodeId, Disk>,
    ) -> bool {
        let there = self.nodes.iter().filter(|node| is_there(node));
        let prospects =
            there.map(|node| Prospect::of(node, disks.get(&node.id).unwrap_or(&node.disk)));
        prospects.collect::<Option<Vec<Prospect>>>().is_some_and(all_mend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(known: u64, needed: u64, shown: &[u64]) -> Prospect {
        let shown = shown.iter().copied().map(Slot).collect();
        Prospect { known: Slot(known), needed: Slot(needed), shown, is_lost: false, waits: true }
    }

    #[test]
    fn what_mends_is_what_is_told_by_somebody_in_the_end() {
        assert!(all_mend(vec![waits(0, 3, &[1, 3]), waits(0, 3, &[2, 3])]));
        assert!(!all_mend(vec![waits(0, 3, &[1, 3]), waits(0, 3, &[1, 3])]), "2 is nowhere");
        // The first knows slot 2 by its state only. When it has 3 it runs, and gives the state.
        assert!(all_mend(vec![waits(2, 3, &[]), waits(0, 5, &[3, 4, 5])]));
        let lost = || Prospect { is_lost: true, ..waits(0, 3, &[1, 2, 3]) };
        assert!(!all_mend(vec![lost(), waits(0, 4, &[1, 2, 3])]));
        assert!(all_mend(vec![lost(), waits(0, 3, &[])]), "what it shows is of use to others");
    }
}
