//! States that are damaged under all nodes but one, which then goes away for a while.
//!
//! What it misses meanwhile stands in the journals of the others and nowhere else: a damaged state
//! is given to nobody. So they have to keep it, in their next lives too, which know of the
//! damage by a mark only. All of them begin such a life before the one that was away is back, or
//! later.

use std::ops::Range;

use synod_paxos::NodeId;

use crate::checkers::Check;
use crate::drift::Drift;
use crate::fault::Fault;
use crate::happening::Happening;
use crate::node::{Fate, Node};
use crate::world::World;

/// It goes when the others reckon with the damage, and for so long.
const GOES_US: Range<u64> = 20_000..500_000;
const AWAY_US: Range<u64> = 3_000_000..8_000_000;
/// The others die after that, and are down for so long.
const DIES_US: Range<u64> = 600_000..2_500_000;
const DOWN_US: Range<u64> = 1_000..500_000;
/// So late they read all that they have, if they still do not know.
const SCRUB_US: Range<u64> = 9_000_000..15_000_000;

impl World<'_> {
    /// Damages the states of all others, if this node has what makes up for each of them.
    pub(crate) fn damage_while_away(&mut self, away: NodeId) -> Check {
        let fault = Fault::DamageWhileAway;
        let has = self.node(away).state.slot;
        let is_well = |node: &Node| {
            let is_sound = node.fate == Fate::Sound && node.is_member() && !node.is_ailing();
            let lacks = node.id != away && node.needed(None).0 > has;
            is_sound && node.is_running() && node.drift == Drift::None && !lacks
        };
        if !self.nodes.iter().all(is_well) {
            return Ok(());
        }
        self.coverage.fault(fault);
        for id in (1..=self.plan.members).map(NodeId) {
            let life = self.node(id).life;
            let rng = self.nemesis.rng(fault);
            if id == away {
                let (goes_us, down_us) = (rng.u64(GOES_US), rng.u64(AWAY_US));
                self.at(goes_us, Happening::StartsAnew { node: id, life, down_us });
                continue;
            }
            let (share, scrub_us) = (rng.usize(..1_000), rng.u64(SCRUB_US));
            let (dies_us, down_us) = (rng.u64(DIES_US), rng.u64(DOWN_US));
            if self.damage_under(id, share) {
                self.at(dies_us, Happening::StartsAnew { node: id, life, down_us });
                self.at(scrub_us, Happening::Scrub { node: id });
                self.note_damage(id)?;
            }
        }
        Ok(())
    }

    /// A process ends, if it is this one, and the next one begins so much later.
    pub(crate) fn start_anew(&mut self, id: NodeId, life: u64, down_us: u64) -> Check {
        if !self.nemesis.is_loose() || self.node(id).process(life).is_none() {
            return Ok(());
        }
        let tail = self.nemesis.draw_tail();
        self.crash(id, tail)?;
        self.at(down_us, Happening::Start { node: id });
        Ok(())
    }
}
