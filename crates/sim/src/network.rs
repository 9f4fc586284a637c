//! The network between the nodes: who hears whom, and how long it takes.

use fastrand::Rng;
use synod_paxos::NodeId;

use crate::fault::Fault;
use crate::plan::Plan;

/// What becomes of one message: when its copies arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It is lost.
    Lost(Option<Fault>),
    /// It arrives at these moments; the second is a duplicate's.
    Arrives { first_us: u64, second_us: Option<u64>, delayed: bool },
}

/// One direction of a pair.
#[derive(Clone, Copy, Default, Debug)]
struct Link {
    is_cut: bool,
    /// Nothing arrives before this.
    clogged_until_us: u64,
    /// When the last message arrives that keeps its place.
    last_us: u64,
    /// Rises when the connection breaks: what was on its way in it is lost.
    connection: u32,
}

/// All links.
#[derive(Debug)]
pub(crate) struct Network {
    rng: Rng,
    size: usize,
    links: Vec<Link>,
    delay_us_max: u64,
    loss: f64,
    duplication: f64,
    reordering: f64,
    delay: f64,
}

impl Network {
    pub(crate) fn new(plan: &Plan) -> Self {
        let size = plan.members as usize;
        Network {
            rng: plan.rng(0x0e7),
            size,
            links: vec![Link::default(); size * size],
            delay_us_max: plan.pace.delay_us_max,
            loss: plan.strength(Fault::Loss) * 0.3,
            duplication: plan.strength(Fault::Duplication) * 0.5,
            reordering: plan.strength(Fault::Reordering),
            delay: plan.strength(Fault::Delay) * 0.2,
        }
    }

    fn link(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        &mut self.links[(from.0 as usize - 1) * self.size + to.0 as usize - 1]
    }

    /// The connection from one node to another, as of now.
    pub(crate) fn connection(&mut self, from: NodeId, to: NodeId) -> u32 {
        self.link(from, to).connection
    }

    /// What becomes of a message that is sent now.
    pub(crate) fn send(&mut self, from: NodeId, to: NodeId, now_us: u64) -> Fate {
        if self.link(from, to).is_cut {
            return Fate::Lost(None);
        }
        if self.loss > 0.0 && self.rng.f64() < self.loss {
            return Fate::Lost(Some(Fault::Loss));
        }
        let mut way_us = self.rng.u64(20..self.delay_us_max.max(21));
        let delayed = self.delay > 0.0 && self.rng.f64() < self.delay;
        if delayed {
            way_us += self.rng.u64(1_000..1_500_000);
        }
        let overtakes = self.reordering > 0.0 && self.rng.f64() < self.reordering;
        let duplicated = self.duplication > 0.0 && self.rng.f64() < self.duplication;
        let second_us =
            duplicated.then(|| now_us + way_us + self.rng.u64(1..self.delay_us_max.max(2) * 4));
        let link = self.link(from, to);
        let mut first_us = (now_us + way_us).max(link.clogged_until_us);
        if !overtakes {
            first_us = first_us.max(link.last_us + 1);
            link.last_us = first_us;
        }
        Fate::Arrives { first_us, second_us, delayed }
    }

    /// Breaks the connections of a pair, both directions.
    pub(crate) fn disconnect(&mut self, one: NodeId, other: NodeId) {
        for (from, to) in [(one, other), (other, one)] {
            let link = self.link(from, to);
            link.connection += 1;
            link.last_us = 0;
        }
    }

    /// From now on nothing passes where `hears` says no.
    pub(crate) fn cut(&mut self, hears: impl Fn(u32, u32) -> bool) {
        let size = u32::try_from(self.size).expect("a few nodes");
        for from in 0..size {
            for to in 0..size {
                self.link(NodeId(from + 1), NodeId(to + 1)).is_cut = !hears(from, to);
            }
        }
    }

    /// Whether nothing passes in this direction.
    pub(crate) fn is_cut(&mut self, from: NodeId, to: NodeId) -> bool {
        self.link(from, to).is_cut
    }

    /// Nothing arrives in this direction before `until_us`.
    pub(crate) fn clog(&mut self, from: NodeId, to: NodeId, until_us: u64) {
        self.link(from, to).clogged_until_us = until_us;
    }

    /// From now on everything arrives, soon and once.
    pub(crate) fn heal(&mut self) {
        self.cut(|_, _| true);
        self.links.iter_mut().for_each(|link| link.clogged_until_us = 0);
        (self.loss, self.duplication, self.reordering, self.delay) = (0.0, 0.0, 0.0, 0.0);
    }
}
