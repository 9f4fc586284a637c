//! Which configuration governs which slot: a pure function of the chosen prefix.
//!
//! A configuration that is chosen in slot i governs the slots from i + alpha on, with
//! the alpha of the configuration that it replaces ("Paxos Made Simple", 3: the
//! servers of instance i + alpha are those named by the state after instance i). So
//! whoever knows every slot up to s - alpha knows who votes in s, and a leader may
//! propose alpha slots ahead without ever guessing.
//!
//! ```text
//!        newest.from      i: number + 1 is chosen        i + alpha
//!             |                    |                         |
//!   ... N-1   |         N          |            N            |      N+1 ...
//! ```
//!
//! One change at a time: a configuration has effect only when its number follows that
//! of the newest, and when the newest governs the slot in which it stands. Any other
//! is as good as a no-op, on every replica alike.

use alloc::{sync::Arc, vec::Vec};

use crate::{Bug, Configuration, ConfigurationError, NodeId, Planted, Slot};

/// A configuration and the first slot that it governs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reign {
    /// The first slot.
    pub from: Slot,
    /// The configuration.
    pub configuration: Arc<Configuration>,
}

/// The configurations that a replica may still need, oldest first.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Configurations {
    /// Never empty; numbers and first slots rise.
    reigns: Vec<Reign>,
    /// The configuration in which this node joined, which its own log may not have
    /// reached yet.
    joined_in: Option<Arc<Configuration>>,
    planted: Planted,
}

impl Configurations {
    /// The most reigns that a state may bring back: no more than two ever matter above
    /// an applied slot, the governing one and its successor.
    pub const REIGNS_MAX: usize = 2;

    /// One configuration, for every slot.
    #[must_use]
    pub fn new(first: Configuration) -> Self {
        let first = Reign { from: Slot(1), configuration: Arc::new(first) };
        Configurations { reigns: alloc::vec![first], joined_in: None, planted: Planted::NONE }
    }

    /// What [`Self::reigns`] gave at an earlier time.
    ///
    /// # Errors
    /// [`ConfigurationError::MemberCount`] when it is none or too many;
    /// [`ConfigurationError::Alpha`] when they do not follow each other.
    pub fn restore(reigns: Vec<Reign>) -> Result<Self, ConfigurationError> {
        if reigns.is_empty() || reigns.len() > Self::REIGNS_MAX {
            return Err(ConfigurationError::MemberCount);
        }
        let follow = |two: &[Reign]| {
            let number = two[0].configuration.number().checked_add(1);
            number == Some(two[1].configuration.number()) && two[0].from < two[1].from
        };
        if !reigns.windows(2).all(follow) {
            return Err(ConfigurationError::Alpha);
        }
        Ok(Configurations { reigns, joined_in: None, planted: Planted::NONE })
    }

    /// The same for a node that joined in this configuration: until its log has come so
    /// far, these are the nodes that it talks to, and what older configurations say of
    /// it does not count.
    #[must_use]
    pub fn joined_in(mut self, configuration: Configuration) -> Self {
        self.joined_in = Some(Arc::new(configuration));
        self
    }

    pub(crate) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// All that are held, oldest first.
    #[must_use]
    pub fn reigns(&self) -> &[Reign] {
        &self.reigns
    }

    /// The newest one, which may not govern yet.
    #[must_use]
    pub fn newest(&self) -> &Reign {
        self.reigns.last().expect("never empty")
    }

    /// The newest number that this node has reason to know.
    #[must_use]
    pub fn number(&self) -> u64 {
        let joined_in = self.joined_in.as_ref().map_or(0, |joined_in| joined_in.number());
        self.newest().configuration.number().max(joined_in)
    }

    /// The configuration that governs `slot`, if every slot up to `slot - alpha` was
    /// taken note of.
    ///
    /// # Panics
    /// When it was forgotten: nobody may ask about a slot that far back.
    #[must_use]
    pub fn governing(&self, slot: Slot) -> &Configuration {
        let mut reigns = self.reigns.iter().rev();
        &reigns.find(|reign| reign.from <= slot).expect("who votes there is known").configuration
    }

    /// The last slot of the configuration that governs `slot`.
    pub(crate) fn reigns_until(&self, slot: Slot) -> Slot {
        let next = self.reigns.iter().find(|reign| reign.from > slot);
        next.map_or(Slot(u64::MAX), |reign| reign.from.prior())
    }

    /// The reigns that govern slots above `chosen_upto`: one, or two while a new
    /// configuration is chosen and does not govern yet.
    #[must_use]
    pub fn in_force(&self, chosen_upto: Slot) -> &[Reign] {
        let next = chosen_upto.next();
        let over = self.reigns.iter().skip(1).take_while(|reign| reign.from <= next).count();
        &self.reigns[over..]
    }

    /// The last slot of which it is known who votes there, when every slot up to
    /// `chosen_upto` was taken note of.
    #[must_use]
    pub fn known_upto(&self, chosen_upto: Slot) -> Slot {
        let newest = self.newest();
        chosen_upto.max(newest.from.prior()).plus(newest.configuration.alpha())
    }

    /// Takes note that `configuration` is chosen in `slot`. Says whether that has an
    /// effect. The caller takes note of all slots in order.
    pub fn receive_chosen(&mut self, slot: Slot, configuration: &Arc<Configuration>) -> bool {
        let newest = self.newest();
        let follows = newest.configuration.number().checked_add(1) == Some(configuration.number());
        if !follows || newest.from > slot {
            return false;
        }
        let alpha = newest.configuration.alpha();
        let alpha = if self.planted.is(Bug::GovernsAtOnce) { 1 } else { alpha };
        let reign = Reign { from: slot.plus(alpha), configuration: Arc::clone(configuration) };
        self.reigns.push(reign);
        true
    }

    /// What a snapshot says takes the place of what this node knew: it is newer. In which
    /// configuration the node joined stays.
    pub fn install(&mut self, newer: Configurations) {
        self.reigns = newer.reigns;
    }

    /// Forgets what governs only slots up to `upto`.
    pub fn forget(&mut self, upto: Slot) {
        let over = self.reigns.len() - self.in_force(upto).len();
        self.reigns.drain(..over);
    }

    /// Whose members this node talks to: the reigns, and the configuration in which it
    /// joined while its log has not reached that. [`crate::Replica::everybody`] may know
    /// guests besides.
    #[must_use]
    pub fn talked_to(&self) -> Vec<Arc<Configuration>> {
        let reigns = self.reigns.iter().map(|reign| &reign.configuration);
        reigns.chain(self.joined_in.iter().filter(|_| self.is_ahead())).cloned().collect()
    }

    /// Everybody to talk to above `chosen_upto`, in order of their ids: the members of
    /// every configuration in force, and of the one in which this node joined while its
    /// log has not reached that.
    pub(crate) fn everybody(&self, chosen_upto: Slot) -> Vec<NodeId> {
        let in_force = self.in_force(chosen_upto).iter().map(|reign| &reign.configuration);
        let ahead = self.joined_in.iter().filter(|_| self.is_ahead());
        let mut everybody: Vec<NodeId> =
            in_force.chain(ahead).flat_map(|c| c.members().iter().copied()).collect();
        everybody.sort_unstable();
        everybody.dedup();
        everybody
    }

    /// Whether `node` votes in a slot above `chosen_upto`.
    pub(crate) fn is_voter(&self, node: NodeId, chosen_upto: Slot) -> bool {
        self.in_force(chosen_upto).iter().any(|reign| reign.configuration.is_voter(node))
    }

    /// Whether `node` votes in the configuration in which this node joined, if the log has
    /// not reached that.
    pub(crate) fn is_voter_ahead(&self, node: NodeId) -> bool {
        let joined_in = self.joined_in.as_ref().filter(|_| self.is_ahead());
        joined_in.is_some_and(|joined_in| joined_in.is_voter(node))
    }

    /// Whether this node joined in a configuration that its log has not reached.
    pub(crate) fn is_ahead(&self) -> bool {
        let newest = self.newest().configuration.number();
        self.joined_in.as_ref().is_some_and(|joined_in| joined_in.number() > newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const SLOTS: u64 = 6;

    /// A configuration that can be told from every other one.
    fn of(number: u64, alpha: u64, slot: u64) -> Arc<Configuration> {
        let voter = NodeId(u32::try_from(1 + slot).expect("few slots"));
        let configuration = Configuration::majority(vec![voter], alpha).expect("valid");
        Arc::new(configuration.numbered(number))
    }

    /// What each slot holds: nothing of interest, or a configuration with a number and an
    /// alpha of 1 to 3.
    type Log = Vec<Option<Arc<Configuration>>>;

    fn noted(log: &Log, upto: u64) -> Configurations {
        let mut configurations = Configurations::new((*of(0, 2, 0)).clone());
        for (slot, value) in (1..=upto).zip(log) {
            if let Some(new) = value {
                configurations.receive_chosen(Slot(slot), new);
            }
        }
        configurations
    }

    /// Who governs, said the other way round: look for the last change with an effect
    /// that is at least alpha slots back.
    fn naive(log: &Log, slot: u64) -> Arc<Configuration> {
        let (mut newest, mut from) = (of(0, 2, 0), 1);
        let mut governing = Arc::clone(&newest);
        for (at, value) in (1..).zip(log) {
            let Some(new) = value else { continue };
            if new.number() == newest.number() + 1 && from <= at {
                from = at + newest.alpha();
                newest = Arc::clone(new);
                if from <= slot {
                    governing = Arc::clone(new);
                }
            }
        }
        governing
    }

    fn every_log(mut check: impl FnMut(&Log)) {
        const LETTERS: usize = 7;
        for code in 0..LETTERS.pow(6) {
            let letter = |place: u32| code / LETTERS.pow(place) % LETTERS;
            let value = |place: u32| match letter(place) {
                0 => None,
                letter => {
                    let (number, alpha) = (1 + (letter - 1) / 3, 1 + (letter - 1) % 3);
                    Some(of(number as u64, alpha as u64, u64::from(place) + 1))
                }
            };
            check(&(0..6).map(value).collect());
        }
    }

    /// Every log of six slots, each of which holds nothing or one of six configurations:
    /// what a prefix says about a slot that it decides is never taken back.
    #[test]
    fn a_prefix_decides_who_votes_alpha_slots_ahead() {
        every_log(|log| {
            let all = noted(log, SLOTS);
            for upto in 0..=SLOTS {
                let prefix = noted(log, upto);
                let decided = prefix.known_upto(Slot(upto));
                assert!(decided > Slot(upto), "at least the next slot is decided");
                for slot in upto + 1..=decided.0.min(SLOTS + 4) {
                    let governing = all.governing(Slot(slot));
                    assert_eq!(prefix.governing(Slot(slot)), governing, "{slot} after {upto}");
                    assert_eq!(*governing, *naive(log, slot));
                }
                let in_force = prefix.in_force(Slot(upto));
                assert!(in_force.len() <= Configurations::REIGNS_MAX);
                let mut kept = prefix.clone();
                kept.forget(Slot(upto));
                assert_eq!(kept.reigns(), in_force);
                assert_eq!(Configurations::restore(in_force.to_vec()).as_ref(), Ok(&kept));
            }
        });
    }

    /// A node that joined in configuration 2 gets the state of a slot before that, then one
    /// of a slot after it.
    #[test]
    fn a_snapshot_behind_the_join_does_not_cut_the_node_off_from_those_it_joined() {
        let told = |configurations: &Configurations| {
            configurations.talked_to().iter().map(|c| c.number()).collect::<Vec<_>>()
        };
        let state = |number| {
            let reign = Reign { from: Slot(number * 9 + 1), configuration: of(number, 2, 0) };
            Configurations::restore(vec![reign]).expect("one")
        };
        let mut configurations = state(0).joined_in((*of(2, 2, 5)).clone());
        assert_eq!(told(&configurations), [0, 2]);
        configurations.install(state(1));
        assert_eq!((told(&configurations), configurations.number()), (vec![1, 2], 2));
        assert_eq!(configurations.everybody(Slot(10)), [NodeId(1), NodeId(6)]);
        configurations.install(state(3));
        assert_eq!((told(&configurations), configurations.number()), (vec![3], 3));
    }

    /// One slot further it is open: some continuation of the prefix lets another one vote.
    #[test]
    fn no_prefix_decides_more() {
        for alpha in 1..=3 {
            let mut prefix = Configurations::new((*of(0, alpha, 0)).clone());
            let decided = prefix.known_upto(Slot::ZERO);
            assert!(prefix.receive_chosen(Slot(1), &of(1, 1, 1)));
            assert_eq!(prefix.governing(decided), &*of(0, alpha, 0));
            assert_eq!(prefix.governing(decided.next()), &*of(1, 1, 1));
        }
    }
}
