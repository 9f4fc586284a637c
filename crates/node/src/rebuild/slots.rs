//! What nodes that wait at their start can still give each other: chosen slots.
//!
//! The journal of a node lost some slots that its state lacks, and no peer has a state that goes
//! so far: each of several may have lost others. While they wait they are no acceptors: they
//! promise nothing and vote for nobody. But that a value was chosen stays true whatever else a disk
//! lost, and it is all that is said here: of a slot of which the journal shows it (see
//! [`synod_journal::Shown`]), never of one that was only accepted. So a node applies to its own state what
//! its journal shows and what others say, in the order of the slots. When that
//! reaches what is behind the damage the damaged files hold nothing that is owed.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use synod_host::SlotQuestions;
use synod_journal::ClusterId;
use synod_paxos::{Chosen, Fetch, NodeId, Planted, Slot, Time, Value};
use synod_storage::Store;

use super::showing::Showing;
use crate::apply_thread::{Applier, ApplyError};
use crate::identity::random_id;

/// Values that are read, or told, at a time.
const CHUNK_BYTES_MAX: usize = 1 << 20;
const CHUNK_SLOTS_MAX: u64 = 1_024;
/// A node that has all it needs stays for others that ask until none did for so long.
const QUIET: Duration = Duration::from_secs(1);

/// Both ends of the exchange.
pub(super) struct Slots {
    /// What the own journal shows.
    pub(super) showing: Showing,
    filling: Option<Filling>,
    is_full: bool,
    /// There is something to do without any message.
    pub(super) is_busy: bool,
    served_at: Option<Instant>,
}

/// The own state on its way to where the journal goes on.
pub(super) struct Filling {
    applier: Applier,
    store: Store,
    /// It has to go so far.
    upto: Slot,
    questions: SlotQuestions,
    /// Where the time of the questions begins.
    begun_at: Instant,
}

impl Slots {
    pub(super) fn new(journal: &Path, lineage: ClusterId, filling: Option<Filling>) -> Slots {
        let showing = Showing::new(journal, lineage);
        Slots { showing, filling, is_full: false, is_busy: false, served_at: None }
    }

    /// Tells a peer what it asks for, as far as this node's journal shows it. While that is being
    /// read it tells nothing, and is asked again.
    pub(super) fn answer(&mut self, fetch: Fetch, now: Instant) -> Chosen {
        let Fetch { nonce, first, last } = fetch;
        let last = last.min(first.plus(CHUNK_SLOTS_MAX - 1));
        let shown = self.showing.get(now);
        let values = shown.map(|shown| shown.values(first, last, CHUNK_BYTES_MAX));
        let values = values.unwrap_or_default();
        // Whoever lacks what this node can't tell may need it as an acceptor.
        if !values.is_empty() {
            self.served_at = Some(now);
        }
        Chosen { nonce, first, values }
    }

    /// A peer's answer.
    pub(super) fn receive(&mut self, from: NodeId, chosen: Chosen, now: Instant) {
        let Some(filling) = &mut self.filling else { return };
        let (next, at) = (filling.applier.applied().next(), filling.time(now));
        if let Some(values) = filling.questions.receive(from, chosen, next, at) {
            self.apply(values, now);
        }
    }

    /// Takes what the own journal shows next, or says whom to ask for what.
    pub(super) fn go_on(&mut self, up: &BTreeSet<NodeId>, now: Instant) -> Option<(NodeId, Fetch)> {
        self.is_busy = false;
        let filling = self.filling.as_ref()?;
        let (next, upto) = (filling.applier.applied().next(), filling.upto);
        if next > upto {
            self.end();
            return None;
        }
        let shown = self.showing.get(now);
        let values = shown.map(|shown| shown.values(next, upto, CHUNK_BYTES_MAX));
        let values = values.unwrap_or_default();
        if !values.is_empty() {
            self.apply(values, now);
            self.is_busy = true;
            return None;
        }
        let filling = self.filling.as_mut()?;
        if self.showing.is_first(now) {
            // Nobody is to be asked for what it may show. That it takes long is no time in which
            // nothing came.
            let at = filling.time(now);
            filling.questions.moved(at);
            return None;
        }
        // What the own journal shows further on need not come from elsewhere.
        let held = self.showing.get(now).and_then(|shown| shown.next_after(next));
        let last = held.map_or(upto, |held| upto.min(Slot(held.0 - 1)));
        let at = filling.time(now);
        filling.questions.ask(next, last, up, at)
    }

    fn apply(&mut self, values: Vec<Value>, now: Instant) {
        let Some(filling) = &mut self.filling else { return };
        let at = filling.time(now);
        filling.questions.moved(at);
        if let Err(error) = filling.apply(values) {
            tracing::warn!(%error, "the slots that are missing cannot be applied to the own state");
            self.filling = None;
        }
    }

    /// The state goes as far as it has to: durably, or this was for nothing.
    fn end(&mut self) {
        let Some(filling) = self.filling.take() else { return };
        match filling.store.flush() {
            Ok(()) => {
                tracing::warn!(
                    upto = %filling.upto,
                    "the state has all slots that the journal lost, from what is left of it and \
                     from peers"
                );
                self.is_full = true;
            }
            Err(error) => tracing::warn!(%error, "the state cannot be made durable"),
        }
    }

    /// Whether the state is filled.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// How far the own state is, while it is being filled.
    pub(super) fn applied(&self) -> Option<Slot> {
        self.filling.as_ref().map(|filling| filling.applier.applied())
    }

    /// Whether it is still to be seen what the own journal gives to the own state.
    pub(super) fn is_reading(&self) -> bool {
        self.filling.is_some() && self.showing.is_reading()
    }

    /// When the last slot came.
    pub(super) fn moved_at(&self) -> Option<Instant> {
        let moved_at = |filling: &Filling| {
            filling.begun_at + Duration::from_micros(filling.questions.moved_at().0)
        };
        self.filling.as_ref().map(moved_at)
    }

    /// Whether slots come, so that nothing else is needed yet.
    pub(super) fn is_moving(&self, now: Instant) -> bool {
        let moves = |filling: &Filling| filling.questions.is_moving(filling.time(now));
        self.is_full || self.filling.as_ref().is_some_and(moves)
    }

    /// Whether the state is filled, and no peer seems to need anything of what may go now.
    pub(super) fn is_done(&self, now: Instant) -> bool {
        let is_asked = self.served_at.is_some_and(|at| now.duration_since(at) < QUIET);
        self.is_full && !is_asked
    }
}

impl Filling {
    /// Of the state in `store` to where the journal goes on.
    pub(super) fn new(applier: Applier, store: Store, upto: Slot, now: Instant) -> Filling {
        // A number that an earlier life did not use for sure.
        let last_nonce = random_id().map_or(1, |id| u64::try_from(id >> 65).unwrap_or(1));
        let questions = SlotQuestions::new(last_nonce, Time::ZERO, Planted::NONE);
        Filling { applier, store, upto, questions, begun_at: now }
    }

    /// The time of the questions at this moment.
    fn time(&self, now: Instant) -> Time {
        let since = now.saturating_duration_since(self.begun_at);
        Time(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    fn apply(&mut self, values: Vec<Value>) -> Result<(), ApplyError> {
        for value in values {
            let slot = self.applier.applied().next();
            if slot > self.upto {
                break;
            }
            // Nobody waits: this node's clients of its former life are gone.
            self.applier.apply(slot, value, |_, _| {})?;
        }
        Ok(self.applier.commit()?)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use synod_host::ANSWER_TIMEOUT_US;
    use synod_kv::{KvOptions, StateMachine};

    use super::super::showing::tests::{settle, told};
    use super::*;
    use crate::folder::JOURNAL;
    use crate::{test_node, tuning};
    use synod_journal::{Journal, JournalOptions};
    use synod_paxos::{Ballot, Record, RecordBody};

    /// A state of nothing that has to go to slot 5, and a journal that shows nothing.
    fn slots(folder: &Path, now: Instant) -> Slots {
        let settings = test_node::settings(folder);
        let identity = crate::init(&settings).expect("a fresh folder");
        let store = Store::open(folder.join("filled"), &tuning::store_options(&settings));
        let store = store.expect("opens");
        let machine = StateMachine::open(store.clone(), KvOptions::default()).expect("empty");
        let applier = Applier::new(machine, &identity, 1, Arc::default());
        let filling = Filling::new(applier, store, Slot(5), now);
        Slots::new(&settings.data_dir.join(JOURNAL), identity.lineage(), Some(filling))
    }

    /// The same with a journal that shows slots up to `upto`.
    pub(in crate::rebuild) fn slots_shown(folder: &Path, upto: u64, now: Instant) -> Slots {
        let slots = slots(folder, now);
        let options = JournalOptions { segment_bytes: 4096, format: 1 };
        let Showing { journal, lineage, .. } = &slots.showing;
        let mut journal = Journal::open(journal, *lineage, &options).expect("opens");
        let promised = Ballot { round: 1, node: NodeId(1) };
        for slot in (1..=upto + 1).map(Slot) {
            let body = RecordBody::Accepted { slot, ballot: promised, value: Value::Noop };
            let chosen_upto = Slot(slot.0 - 1);
            let record = Record { promised, chosen_upto, body };
            journal.journal.append(&[record]).expect("appended");
        }
        journal.journal.sync().expect("durable");
        slots
    }

    /// Applies all that the own journal shows.
    pub(in crate::rebuild) fn fill(slots: &mut Slots, now: Instant) {
        settle(&mut slots.showing, now);
        while !slots.is_full() {
            assert_eq!(slots.go_on(&BTreeSet::new(), now), None);
            assert!(slots.is_busy || slots.is_full(), "it shows too little");
        }
    }

    #[test]
    fn a_node_stays_for_those_to_whom_it_gives_something() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = Instant::now();
        let mut slots = slots_shown(folder.path(), 5, now);
        fill(&mut slots, now);
        assert!(slots.is_done(now));
        let answer = slots.answer(Fetch { nonce: 7, first: Slot(4), last: Slot(9) }, now);
        assert_eq!(answer, Chosen { nonce: 7, first: Slot(4), values: noops(2) });
        assert!(!slots.is_done(now) && slots.is_done(now + QUIET));
        // Whoever lacks what it has not either is not waited for.
        let later = now + QUIET;
        let answer = slots.answer(Fetch { nonce: 8, first: Slot(6), last: Slot(9) }, later);
        assert!(answer.values.is_empty() && slots.is_done(later));
    }

    /// The own journal may be long, and nobody waits for it: neither peers nor deadlines.
    #[test]
    fn while_the_own_journal_is_read_peers_are_answered_and_nobody_is_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut now = Instant::now();
        let mut slots = slots(folder.path(), now);
        let lineage = ClusterId(7);
        let journal = folder.path().join("shows");
        Journal::create(&journal, lineage).expect("made");
        let (showing, word) = told(&journal, lineage);
        slots.showing = showing;
        let up = BTreeSet::from([NodeId(2), NodeId(3)]);
        for _ in 0..3 {
            now += Duration::from_micros(ANSWER_TIMEOUT_US);
            assert_eq!(slots.go_on(&up, now), None);
            assert!(slots.is_moving(now), "it does what can be done");
            let answer = slots.answer(Fetch { nonce: 7, first: Slot(1), last: Slot(5) }, now);
            assert_eq!(answer, Chosen { nonce: 7, first: Slot(1), values: Vec::new() });
        }
        word.send(false).expect("it waits");
        settle(&mut slots.showing, now);
        assert!(slots.go_on(&up, now).is_some(), "what it cannot show others have");
        // Nor for what is read once more.
        now += Duration::from_secs(60);
        let _ = slots.answer(Fetch { nonce: 8, first: Slot(1), last: Slot(5) }, now);
        assert!(slots.go_on(&up, now).is_some());
        word.send(true).expect("it waits");
        settle(&mut slots.showing, now);
        assert!(slots.showing.get(now).is_some());
    }

    fn noops(count: usize) -> Vec<Value> {
        vec![Value::Noop; count]
    }

    #[test]
    fn only_what_was_asked_for_is_applied_and_whoever_has_none_is_passed_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut now = Instant::now();
        let mut slots = slots(folder.path(), now);
        let up = BTreeSet::from([NodeId(2), NodeId(3)]);
        assert_eq!(slots.go_on(&BTreeSet::new(), now), None);
        settle(&mut slots.showing, now);
        let (to, fetch) = slots.go_on(&up, now).expect("a question");
        assert_eq!((to, fetch.first, fetch.last), (NodeId(2), Slot(1), Slot(5)));
        assert_eq!(slots.go_on(&up, now), None, "one at a time");
        let chosen = |nonce, first, values| Chosen { nonce, first: Slot(first), values };
        // Another one answers, or another question, or nothing was asked.
        slots.receive(NodeId(3), chosen(fetch.nonce, 1, noops(1)), now);
        slots.receive(NodeId(2), chosen(fetch.nonce + 1, 1, noops(1)), now);
        assert_eq!(slots.applied(), Some(Slot(0)));
        slots.receive(NodeId(2), chosen(fetch.nonce, 1, Vec::new()), now);
        slots.receive(NodeId(2), chosen(fetch.nonce, 1, noops(1)), now);
        assert_eq!(slots.applied(), Some(Slot(0)));
        // The other one is asked, and gives some. What begins elsewhere is not what was asked for.
        let (to, fetch) = slots.go_on(&up, now).expect("a question");
        assert_eq!((to, fetch.first), (NodeId(3), Slot(1)));
        slots.receive(NodeId(3), chosen(fetch.nonce, 1, noops(2)), now);
        assert_eq!(slots.applied(), Some(Slot(2)));
        let (to, fetch) = slots.go_on(&up, now).expect("a question");
        assert_eq!((to, fetch.first), (NodeId(3), Slot(3)), "whoever gave goes on");
        slots.receive(NodeId(3), chosen(fetch.nonce, 4, noops(2)), now);
        assert_eq!(slots.applied(), Some(Slot(2)));
        // Silence is an answer in the end.
        let (to, _) = slots.go_on(&up, now).expect("a question");
        assert_eq!(to, NodeId(2));
        now += Duration::from_micros(ANSWER_TIMEOUT_US);
        let (to, fetch) = slots.go_on(&up, now).expect("a question");
        assert_eq!(to, NodeId(3));
        assert!(!slots.is_moving(now), "so a state is asked for, too");
        // More than is needed: the journal goes on there by itself.
        slots.receive(NodeId(3), chosen(fetch.nonce, 3, noops(9)), now);
        assert_eq!((slots.applied(), slots.is_done(now)), (Some(Slot(5)), false));
        assert_eq!(slots.go_on(&up, now), None);
        assert!(slots.is_done(now) && slots.applied().is_none());
        // Whoever asks is answered, and waited for only if the answer was of use.
        let answer = slots.answer(Fetch { nonce: 7, first: Slot(1), last: Slot(u64::MAX) }, now);
        assert_eq!(answer, chosen(7, 1, Vec::new()));
        assert!(slots.is_done(now));
    }
}
