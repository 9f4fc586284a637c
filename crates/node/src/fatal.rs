//! The way out for failures that a node must not survive.
//!
//! A failed write is never retried and a bug is never worked around: whoever meets
//! one says so here and ends. What the node has said up to then is durable, and it
//! says nothing more, because what would let it speak never comes.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use synod_kv::http::{DamageBody, DamagedPart};
use synod_storage::{Told, told_by};
use tokio::sync::{Notify, watch};

use crate::damage::{Damages, Tell};
use crate::folder;
use crate::marks::{self, REBUILD, SUSPECT, UNREPLACED, WENT_BACK, WHOLE, doubt_text};

/// A node that meets damage after so long was of use in between.
const OF_USE: Duration = Duration::from_secs(60);

/// Where threads report what ends the node. A clone reports to the same place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fatal {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The first report: the others are mostly its consequences.
    first: Mutex<Option<String>>,
    reported: Notify,
    /// The configuration by which the node is a member no more.
    removed: watch::Sender<Option<u64>>,
    /// What is damaged on the disk.
    damage: watch::Sender<Option<String>>,
    /// Whoever leaves or removes a mark of damage holds it.
    doubt: Mutex<Doubt>,
    /// The data folder, in which the next life finds what it must know.
    folder: Option<PathBuf>,
    begun: Option<Instant>,
}

/// What is known against what this node has on its disk.
#[derive(Debug, Default)]
struct Doubt {
    damages: Damages,
    /// The state is damaged, and the node goes on with it.
    is_noted: bool,
    /// How often a state was suspected that may be whole.
    suspicions: u64,
}

/// How much was held against the disk at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held(u64);

impl Doubt {
    fn held(&self) -> Held {
        Held(self.damages.count() + self.suspicions)
    }
}

impl Fatal {
    /// Of the node in this data folder.
    pub(crate) fn of(folder: &Path) -> Fatal {
        let mut damages = Damages::open(folder);
        if let Ok(Some(mark)) = folder::read(folder, REBUILD) {
            // Nobody gave another state.
            damages.note_mark(&mark);
        }
        let doubt = Doubt { damages, ..Doubt::default() };
        let (folder, begun) = (Some(folder.to_owned()), Some(Instant::now()));
        let inner = Inner { folder, begun, doubt: Mutex::new(doubt), ..Inner::default() };
        Fatal { inner: Arc::new(inner) }
    }

    fn doubt(&self) -> MutexGuard<'_, Doubt> {
        self.inner.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports a failure. The first one is what the node ends with. If it was a damaged
    /// state, the next start does something about that.
    pub(crate) fn report(&self, what: &str, error: impl Display) {
        let message = format!("{what}: {error}");
        match told_by(&message) {
            Some(Told::Damage) if self.leave_damaged(&error.to_string(), &message) => {
                if self.inner.begun.is_some_and(|begun| begun.elapsed() >= OF_USE) {
                    self.count_anew();
                }
                return self.end_damaged(message);
            }
            Some(Told::Suspicion) => {
                let mut doubt = self.doubt();
                doubt.suspicions += 1;
                self.leave(SUSPECT, format!("{message}\n").as_bytes());
            }
            _ => {}
        }
        tracing::error!("{message}");
        let mut first = self.inner.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(message);
        drop(first);
        self.inner.reported.notify_one();
    }

    /// The failure that was reported first.
    pub(crate) fn reported(&self) -> Option<String> {
        self.inner.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a failure. By one caller only.
    pub(crate) async fn wait(&self) -> String {
        loop {
            if let Some(message) = self.reported() {
                return message;
            }
            self.inner.reported.notified().await;
        }
    }

    /// The journal is damaged in a way that the next start mends: the node ends in an orderly
    /// way, and starts again.
    pub(crate) fn report_damaged_journal(&self, message: String) {
        self.note_damaged_journal(&message);
        self.end_damaged(message);
    }

    /// The journal is damaged, and the node goes on.
    pub(crate) fn note_damaged_journal(&self, message: &str) {
        self.doubt().damages.meet(DamagedPart::Journal, message, Instant::now());
    }

    /// All of the journal was read, and mended if need be.
    pub(crate) fn note_whole_journal(&self) {
        self.doubt().damages.mend(DamagedPart::Journal);
    }

    /// Has the next life replace the state, and the status tell why. Says whether it will.
    fn leave_damaged(&self, what: &str, message: &str) -> bool {
        let mut doubt = self.doubt();
        doubt.damages.meet(DamagedPart::State, what, Instant::now());
        self.leave(REBUILD, &doubt_text(message))
    }

    fn end_damaged(&self, message: String) {
        self.inner.damage.send_if_modified(|damage| {
            let is_first = damage.is_none();
            if is_first {
                tracing::error!("{message}");
                *damage = Some(message);
            }
            is_first
        });
    }

    /// Whether something on the disk was found damaged, so that the node ends.
    pub(crate) fn is_damaged(&self) -> bool {
        self.inner.damage.borrow().is_some()
    }

    /// Waits until something on the disk is found damaged.
    pub(crate) async fn wait_damage(&self) -> String {
        let mut damage = self.inner.damage.subscribe();
        let damage = damage.wait_for(Option::is_some).await.map(|damage| damage.clone());
        damage.ok().flatten().expect("the sender lives as long as this value")
    }

    /// The state is damaged, and the node goes on until another one can take its place. Who wanted
    /// to read what is damaged is told that it can't be.
    pub(crate) fn note_damage(&self, message: &str) {
        let mut doubt = self.doubt();
        doubt.is_noted = true;
        // A start that finds neither file takes the state for sound.
        if !self.has_mark(REBUILD) {
            self.leave(SUSPECT, format!("{message}\n").as_bytes());
        }
        let told = doubt.damages.meet(DamagedPart::State, message, Instant::now());
        drop(doubt);
        match told {
            Tell::First => tracing::error!(
                "{message}; this node tells nobody what is damaged, and goes on without it until \
                 another state can take the place of its own"
            ),
            Tell::Again(times) => {
                tracing::error!(times, "what is damaged was met again, the last time: {message}");
            }
            Tell::Nothing => {}
        }
    }

    /// What was found damaged last, for the status.
    pub(crate) fn damage(&self) -> Vec<DamageBody> {
        self.doubt().damages.known().to_vec()
    }

    /// Whether the state is damaged, as far as anybody here knows, and the node goes on with it.
    pub(crate) fn doubts_state(&self) -> bool {
        self.doubt().is_noted || self.has_mark(REBUILD) || self.has_mark(SUSPECT)
    }

    /// A mark that can't be looked for may be there.
    fn has_mark(&self, name: &str) -> bool {
        let folder = self.inner.folder.as_ref();
        folder.is_some_and(|folder| folder::exists(&folder.join(name)).unwrap_or(true))
    }

    /// How much was held against the disk up to now: for whoever begins to read all of it.
    pub(crate) fn held(&self) -> Held {
        self.doubt().held()
    }

    /// All that is on the disk was read, begun when this much was held against it, and nothing is
    /// damaged: what was doubted is gone, or was told by mistake. Not so if more was met
    /// meanwhile, for that may lie where it was read before, or was not there to be read.
    pub(crate) fn forget_damage(&self, before: Held) {
        let mut doubt = self.doubt();
        if doubt.held() != before || self.is_damaged() {
            return;
        }
        doubt.damages.mend(DamagedPart::Journal);
        self.forget_state(&mut doubt);
    }

    /// Another state takes the place of the one of which all that was said. Whatever is met from now
    /// on counts.
    pub(crate) fn note_other_state(&self) {
        self.forget_state(&mut self.doubt());
    }

    fn forget_state(&self, doubt: &mut Doubt) {
        doubt.is_noted = false;
        doubt.damages.mend(DamagedPart::State);
        let Some(folder) = &self.inner.folder else { return };
        let mark = folder::read(folder, REBUILD);
        let is_own = matches!(mark, Ok(Some(text)) if marks::is_doubt(&text));
        let gone: &[&str] = match is_own {
            true => &[UNREPLACED, REBUILD, SUSPECT, WHOLE],
            false => &[SUSPECT, WHOLE],
        };
        for mark in gone {
            if let Err(error) = folder::remove(folder, mark) {
                tracing::warn!(%error, "the next start will doubt the state");
            }
        }
    }

    /// The next life asks for a state as briefly as after the first time that nobody gave one.
    fn count_anew(&self) {
        let Some(folder) = &self.inner.folder else { return };
        let counted = marks::unreplaced(folder).and_then(|count| match count {
            0 | 1 => Ok(()),
            _ => marks::set_unreplaced(folder, 1),
        });
        if let Err(error) = counted {
            tracing::warn!(%error, "the next start will ask for a state for longer");
        }
    }

    /// Leaves a file for the next life, once. Says whether it is there.
    fn leave(&self, name: &str, content: &[u8]) -> bool {
        let Some(folder) = &self.inner.folder else { return false };
        if folder.join(name).exists() {
            return true;
        }
        let left = folder::replace(folder, name, content);
        left.inspect_err(|error| tracing::error!("{error}")).is_ok()
    }

    /// A peer knows that this node's folder is older than what the node has told, and then the
    /// node does not come back; or that another process has its life or a later one. Alone its
    /// promise and its journal would grow until nobody could tell any more, so it ends.
    pub(crate) fn report_barred(&self, text: &str, for_good: bool) {
        if for_good && !self.leave(WENT_BACK, format!("{text}\n").as_bytes()) {
            let text =
                format!("{text}. This could not be written to the folder: do not start it again");
            self.report("a peer refuses this node", text);
            return;
        }
        self.report("a peer refuses this node", text);
    }

    /// The node is a member no more, by the configuration of this number: it ends in an
    /// orderly way, for nobody needs it.
    pub(crate) fn report_removed(&self, number: u64) {
        self.inner.removed.send_if_modified(|removed| removed.replace(number).is_none());
    }

    /// Waits until the node is a member no more.
    pub(crate) async fn wait_removed(&self) -> u64 {
        let mut removed = self.inner.removed.subscribe();
        let number = removed.wait_for(Option::is_some).await.map(|number| *number);
        number.ok().flatten().expect("the sender lives as long as this value")
    }

    /// To be held by a thread: reports it if it ends by a panic.
    pub(crate) fn guard(&self, thread: &'static str) -> PanicGuard {
        PanicGuard { fatal: self.clone(), thread }
    }
}

/// Reports a panic of the thread that holds it.
#[derive(Debug)]
pub(crate) struct PanicGuard {
    fatal: Fatal,
    thread: &'static str,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fatal.report(self.thread, "the thread panicked, which is a bug");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_failure_counts_and_a_panic_is_one() {
        let fatal = Fatal::default();
        assert_eq!(fatal.reported(), None);
        let held = fatal.clone();
        let thread = std::thread::spawn(move || {
            let _guard = held.guard("the worker");
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        fatal.report("the disk", "is full");
        assert!(fatal.wait().await.starts_with("the worker: "));
    }

    #[test]
    fn a_state_is_doubted_until_it_was_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let fatal = Fatal::of(folder.path());
        assert!(!fatal.doubts_state());
        fatal.note_damage("a block");
        assert!(fatal.doubts_state());
        // The next life does not know what was noted: it finds the mark.
        assert!(Fatal::of(folder.path()).doubts_state());
        fatal.forget_damage(fatal.held());
        assert!(!fatal.doubts_state() && !folder.path().join(SUSPECT).exists());
        // An earlier life found it, and nobody replaced the state.
        std::fs::write(folder.path().join(REBUILD), "a block").expect("written");
        assert!(fatal.doubts_state());
    }

    #[test]
    fn what_was_held_against_a_state_goes_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        folder::replace(folder.path(), REBUILD, &doubt_text("a block")).expect("written");
        let fatal = Fatal::of(folder.path());
        fatal.note_damage("another block");
        fatal.note_damaged_journal("a file");
        fatal.note_other_state();
        assert!(!fatal.doubts_state() && !folder.path().join(REBUILD).exists());
        let open: Vec<_> =
            fatal.damage().into_iter().filter(|damage| damage.mended_at_s.is_none()).collect();
        assert!(matches!(&open[..], [DamageBody { part: DamagedPart::Journal, .. }]), "{open:?}");
    }

    /// Whatever is met while everything is read may be where the reading has been.
    #[test]
    fn what_is_met_while_everything_is_read_is_not_forgotten_with_the_rest() {
        let folder = tempfile::tempdir().expect("a folder");
        let has = |mark| folder.path().join(mark).exists();
        let is_open = |fatal: &Fatal| fatal.damage().iter().any(|one| one.mended_at_s.is_none());
        let fatal = Fatal::of(folder.path());
        fatal.note_damage("a block");
        let begun = fatal.held();
        fatal.note_damage("a block");
        fatal.forget_damage(begun);
        assert!(fatal.doubts_state() && is_open(&fatal) && has(SUSPECT));
        fatal.forget_damage(fatal.held());
        assert!(!fatal.doubts_state() && !is_open(&fatal) && !has(SUSPECT));
        let begun = fatal.held();
        fatal.report("synod-upkeep", "the state could not be flushed or compacted: why?");
        fatal.forget_damage(begun);
        assert!(has(SUSPECT));
        // The end of the node is not told yet when its mark is left.
        let begun = fatal.held();
        assert!(fatal.leave_damaged("a block", "the state is damaged: a block"));
        fatal.forget_damage(begun);
        assert!(has(REBUILD) && is_open(&fatal));
        // Nor once it is told.
        fatal.end_damaged("the state is damaged: a block".to_owned());
        fatal.forget_damage(fatal.held());
        assert!(has(REBUILD) && is_open(&fatal));
    }

    #[test]
    fn a_node_that_was_of_use_asks_as_briefly_as_the_first_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = || marks::unreplaced(folder.path()).expect("readable");
        for (lived, count, expected) in
            [(OF_USE, 0, 0), (Duration::ZERO, 5, 5), (OF_USE, 5, 1), (OF_USE, 1, 1)]
        {
            if count > 0 {
                marks::set_unreplaced(folder.path(), count).expect("written");
            }
            let begun = Instant::now().checked_sub(lived);
            let folder = Some(folder.path().to_owned());
            let inner = Arc::new(Inner { folder, begun, ..Inner::default() });
            Fatal { inner }.report("synod-apply", "the state is damaged: Corruption: block");
            assert_eq!(kept(), expected);
        }
    }

    #[tokio::test]
    async fn damage_of_the_state_is_left_to_the_next_life() {
        let folder = tempfile::tempdir().expect("a folder");
        let fatal = Fatal::of(folder.path());
        fatal.report("synod-apply", "the state: the state is damaged: Corruption: block");
        fatal.report("reading the state", "the state is damaged: Corruption: another");
        assert!(fatal.wait_damage().await.contains("Corruption: block"));
        assert_eq!(fatal.reported(), None);
        let left = std::fs::read_to_string(folder.path().join(REBUILD)).expect("a mark");
        assert!(left.contains("Corruption: block"), "{left}");
        assert!(fatal.doubts_state());
        fatal.report("synod-upkeep", "the state could not be flushed or compacted: why?");
        assert!(fatal.reported().is_some() && folder.path().join(SUSPECT).exists());
        // Where no mark can be left the node must not come back as if nothing had happened.
        let nowhere = Fatal::of(&folder.path().join("none"));
        nowhere.report("reading the state", "the state is damaged: Corruption: block");
        assert!(nowhere.reported().is_some());
    }
}
