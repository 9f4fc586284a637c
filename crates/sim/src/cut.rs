//! Cuts: who does not hear whom for a while.

use synod_paxos::NodeId;

use crate::fault::Fault;
use crate::happening::Happening;
use crate::world::World;

/// Who hears whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Halves,
    OneWay,
    Bridge,
    Chain,
    Ring,
}

/// A cut that lasts for a while.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    episode: u64,
    shape: Shape,
    /// The members in the order that the shape refers to.
    order: Vec<u32>,
    /// How many of them are on the first side.
    split: usize,
    /// How often it still comes and goes.
    flaps: u32,
    is_open: bool,
    ends_us: u64,
}

impl World<'_> {
    /// A cut begins, in place of the present one.
    pub(crate) fn begin_cut(&mut self, fault: Fault, victim: NodeId) {
        self.coverage.fault(fault);
        let members = self.plan.members;
        self.nemesis.episodes += 1;
        let episode = self.nemesis.episodes;
        let rng = self.nemesis.rng(fault);
        let shape = match fault {
            Fault::OneWay => Shape::OneWay,
            Fault::Bridge => Shape::Bridge,
            Fault::Chain => Shape::Chain,
            Fault::Ring => Shape::Ring,
            Fault::Flapping if rng.bool() => Shape::OneWay,
            _ => Shape::Halves,
        };
        let mut order: Vec<u32> = (0..members).collect();
        rng.shuffle(&mut order);
        if rng.bool() {
            // The leader is the one cut off, or the bridge between the halves.
            order.retain(|member| *member != victim.0 - 1);
            let place = if shape == Shape::Bridge { members as usize / 2 } else { 0 };
            order.insert(place, victim.0 - 1);
        }
        let split = rng.usize(1..members as usize);
        let flaps = if fault == Fault::Flapping { rng.u32(3..20) } else { 1 };
        let lasts_us = rng.u64(100_000..8_000_000);
        let is_open = false;
        let ends_us = self.now_us + lasts_us;
        self.nemesis.cut = Some(Cut { episode, shape, order, split, flaps, is_open, ends_us });
        self.change_cut(episode);
    }

    /// The present cut begins, ends, or flaps.
    pub(crate) fn change_cut(&mut self, episode: u64) {
        let now_us = self.now_us;
        let Some(cut) = self.nemesis.cut.as_mut().filter(|cut| cut.episode == episode) else {
            return;
        };
        cut.is_open = !cut.is_open;
        let change_us =
            (cut.ends_us.saturating_sub(now_us) / u64::from(cut.flaps.max(1))).max(20_000);
        if cut.is_open {
            cut.flaps = cut.flaps.saturating_sub(1);
            let cut = cut.clone();
            self.network.cut(|from, to| cut.hears(from, to));
        } else {
            self.network.cut(|_, _| true);
            self.reconnect_some();
            let cut = self.nemesis.cut.as_ref().expect("it is here");
            if cut.flaps == 0 {
                self.nemesis.cut = None;
                return;
            }
        }
        self.at(change_us, Happening::Cut { episode });
    }

    /// Some connections did not outlive the cut.
    fn reconnect_some(&mut self) {
        for one in 1..=self.plan.members {
            for other in one + 1..=self.plan.members {
                if self.rng.bool() {
                    let delay_us = self.rng.u64(100..50_000);
                    let (one, other) = (NodeId(one), NodeId(other));
                    self.at(delay_us, Happening::Connected { one, other });
                }
            }
        }
    }
}

impl Cut {
    /// Whether messages pass from one member to another.
    fn hears(&self, from: u32, to: u32) -> bool {
        let place = |member| self.order.iter().position(|m| *m == member).expect("a member");
        let (from, to, count) = (place(from), place(to), self.order.len());
        let (first, split) = (|place: usize| place < self.split, self.split);
        match self.shape {
            Shape::Halves => first(from) == first(to),
            // The second side does not hear the first.
            Shape::OneWay => !(from < split && to >= split),
            Shape::Bridge => {
                let middle = count / 2;
                from == middle || to == middle || (from < middle) == (to < middle)
            }
            Shape::Chain => from.abs_diff(to) <= 1,
            Shape::Ring => {
                matches!((from + count - to) % count, 0 | 1) || (to + count - from) % count == 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hears(shape: Shape, split: usize) -> Vec<(u32, u32)> {
        let order = (0..5).collect();
        let cut = Cut { episode: 0, shape, order, split, flaps: 0, is_open: true, ends_us: 0 };
        let pairs = (0..5).flat_map(|from| (0..5).map(move |to| (from, to)));
        pairs.filter(|(from, to)| from < to && cut.hears(*from, *to)).collect()
    }

    #[test]
    fn the_shapes_are_what_they_are_called() {
        assert_eq!(hears(Shape::Chain, 0), [(0, 1), (1, 2), (2, 3), (3, 4)]);
        assert_eq!(hears(Shape::Ring, 0), [(0, 1), (0, 4), (1, 2), (2, 3), (3, 4)]);
        assert_eq!(hears(Shape::Halves, 2), [(0, 1), (2, 3), (2, 4), (3, 4)]);
        assert_eq!(hears(Shape::OneWay, 2), [(0, 1), (2, 3), (2, 4), (3, 4)]);
        let bridge = [(0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4)];
        assert_eq!(hears(Shape::Bridge, 0), bridge);
    }
}
