//! Whom a node asks, before it may start, for chosen slots that it has lost.

use std::collections::{BTreeMap, BTreeSet};

use synod_paxos::{Bug, Chosen, Fetch, NodeId, Planted, Slot, Time, Value};

/// An answer that takes longer does not come.
pub const ANSWER_TIMEOUT_US: u64 = 2_000_000;
/// A peer that did not have a slot is asked for it again after so long.
const AGAIN_AFTER_US: u64 = 500_000;
/// When no slot came for so long a state is asked for as well.
const STALLED_AFTER_US: u64 = 2_000_000;

/// One question after the other, to one peer at a time, until every slot is there. Nobody is
/// believed what was not asked, so that an answer that was long on its way does no harm.
#[derive(Debug)]
pub struct SlotQuestions {
    asked: Option<Asked>,
    last_nonce: u64,
    /// Who had none of the slots from which on, and when.
    had_none: BTreeMap<NodeId, (Slot, Time)>,
    giver: Option<NodeId>,
    moved_at: Time,
    planted: Planted,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    peer: NodeId,
    nonce: u64,
    at: Time,
}

impl SlotQuestions {
    /// Questions with numbers above this one, which no earlier life used.
    #[must_use]
    pub fn new(last_nonce: u64, now: Time, planted: Planted) -> Self {
        SlotQuestions {
            asked: None,
            last_nonce,
            had_none: BTreeMap::new(),
            giver: None,
            moved_at: now,
            planted,
        }
    }

    /// What is to be asked of whom now, of those that are `up`: the slots from `first` to `last`.
    /// None while an answer may come, or when nobody may have them.
    pub fn ask(
        &mut self,
        first: Slot,
        last: Slot,
        up: &BTreeSet<NodeId>,
        now: Time,
    ) -> Option<(NodeId, Fetch)> {
        if let Some(asked) = self.asked {
            if now.since_us(asked.at) < ANSWER_TIMEOUT_US {
                return None;
            }
            self.had_none.insert(asked.peer, (first, now));
            self.asked = None;
        }
        let since = |peer: &NodeId| self.had_none.get(peer).filter(|(slot, _)| *slot == first);
        let may =
            |peer: &&NodeId| since(peer).is_none_or(|(_, at)| now.since_us(*at) >= AGAIN_AFTER_US);
        let best = up.iter().filter(may).min_by_key(|peer| {
            (since(peer).map(|(_, at)| *at), Some(**peer) != self.giver, peer.0)
        });
        let peer = *best?;
        self.last_nonce += 1;
        let nonce = self.last_nonce;
        self.asked = Some(Asked { peer, nonce, at: now });
        Some((peer, Fetch { nonce, first, last }))
    }

    /// A peer's answer. Gives the values if they are those that were asked for: of the slots from
    /// `next` on.
    pub fn receive(
        &mut self,
        from: NodeId,
        chosen: Chosen,
        next: Slot,
        now: Time,
    ) -> Option<Vec<Value>> {
        if self.planted.is(Bug::AnyAnswerTaken) {
            return Some(chosen.values);
        }
        let fits = |asked: &mut Asked| (asked.peer, asked.nonce) == (from, chosen.nonce);
        self.asked.take_if(fits)?;
        if chosen.values.is_empty() || chosen.first != next {
            self.had_none.insert(from, (next, now));
            let is_noop = self.planted.is(Bug::UnshownIsNoop);
            return is_noop.then(|| vec![Value::Noop]);
        }
        self.giver = Some(from);
        Some(chosen.values)
    }

    /// Slots came, from a peer or from the own journal. What was asked for until now may be
    /// among them.
    pub fn moved(&mut self, now: Time) {
        self.asked = None;
        self.moved_at = now;
    }

    /// When the last slot came; the beginning if none did.
    #[must_use]
    pub fn moved_at(&self) -> Time {
        self.moved_at
    }

    /// Whether slots come, so that nothing else is needed yet.
    #[must_use]
    pub fn is_moving(&self, now: Time) -> bool {
        now.since_us(self.moved_at) < STALLED_AFTER_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_asked_after_the_other_and_only_the_answer_to_the_question_counts() {
        let up = BTreeSet::from([NodeId(2), NodeId(3)]);
        let mut now = Time::ZERO;
        let mut questions = SlotQuestions::new(7, now, Planted::NONE);
        let chosen = |nonce, first, count| {
            let values = vec![Value::Noop; count];
            Chosen { nonce, first: Slot(first), values }
        };
        let (peer, fetch) = questions.ask(Slot(4), Slot(9), &up, now).expect("somebody");
        assert_eq!((peer, fetch), (NodeId(2), Fetch { nonce: 8, first: Slot(4), last: Slot(9) }));
        assert_eq!(questions.ask(Slot(4), Slot(9), &up, now), None, "an answer may come");
        assert_eq!(questions.receive(NodeId(3), chosen(8, 4, 1), Slot(4), now), None);
        assert_eq!(questions.receive(NodeId(2), chosen(7, 4, 1), Slot(4), now), None);
        assert_eq!(questions.receive(NodeId(2), chosen(8, 4, 0), Slot(4), now), None);
        // Whoever had none is asked last, and not at once.
        let (peer, fetch) = questions.ask(Slot(4), Slot(9), &up, now).expect("somebody");
        assert_eq!(peer, NodeId(3));
        now = now.plus_us(ANSWER_TIMEOUT_US);
        assert!(!questions.is_moving(now), "nothing came");
        let (peer, _) = questions.ask(Slot(4), Slot(9), &up, now).expect("somebody");
        assert_eq!(peer, NodeId(2), "the other one says nothing");
        assert_eq!(questions.receive(NodeId(3), chosen(fetch.nonce, 4, 1), Slot(4), now), None);
        let values = questions.receive(NodeId(2), chosen(fetch.nonce + 1, 4, 2), Slot(4), now);
        assert_eq!(values.map(|values| values.len()), Some(2));
        questions.moved(now);
        assert!(questions.is_moving(now) && questions.moved_at() == now);
        let (peer, _) = questions.ask(Slot(6), Slot(9), &up, now).expect("somebody");
        assert_eq!(peer, NodeId(2), "who gave some goes on");
    }
}
