//! The way out for failures that a node must not survive.
//!
//! A failed write is never retried and a bug is never worked around: whoever meets
//! one says so here and ends. What the node has said up to then is durable, and it
//! says nothing more, because what would let it speak never comes.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use synod_storage::{Told, told_by};
use tokio::sync::{Notify, watch};

use crate::folder;
use crate::marks::{self, REBUILD, SUSPECT, WENT_BACK, doubt_text};

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
    /// The last damage with which the node goes on.
    noted: Mutex<Option<String>>,
    /// The data folder, in which the next life finds what it must know.
    folder: Option<PathBuf>,
    begun: Option<Instant>,
}

impl Fatal {
    /// Of the node in this data folder.
    pub(crate) fn of(folder: &Path) -> Fatal {
        let (folder, begun) = (Some(folder.to_owned()), Some(Instant::now()));
        let inner = Inner { folder, begun, ..Inner::default() };
        Fatal { inner: Arc::new(inner) }
    }

    /// Reports a failure. The first one is what the node ends with. If it was a damaged
    /// state, the next start does something about that.
    pub(crate) fn report(&self, what: &str, error: impl Display) {
        let message = format!("{what}: {error}");
        match told_by(&message) {
            Some(Told::Damage) if self.leave(REBUILD, &doubt_text(&message)) => {
                if self.inner.begun.is_some_and(|begun| begun.elapsed() >= OF_USE) {
                    self.count_anew();
                }
                return self.report_damage(message);
            }
            Some(Told::Suspicion) => {
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

    /// Something on the disk is damaged in a way that the next start mends: the node ends
    /// in an orderly way, and starts again.
    pub(crate) fn report_damage(&self, message: String) {
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

    /// The state is damaged, and the node goes on: nobody can give it another one now. Who wanted
    /// to read what is damaged is told that it can't be.
    pub(crate) fn note_damage(&self, message: &str) {
        // A start that finds neither file takes the state for sound.
        if !self.has_mark(REBUILD) {
            self.leave(SUSPECT, format!("{message}\n").as_bytes());
        }
        let mut noted = self.inner.noted.lock().unwrap_or_else(PoisonError::into_inner);
        // Some read it again and again.
        if noted.as_deref() != Some(message) {
            tracing::error!(
                "{message}; nobody can replace the state now, so this node goes on without what is \
                 damaged"
            );
            *noted = Some(message.to_owned());
        }
    }

    /// Whether the state is damaged, as far as anybody here knows, and the node goes on with it.
    pub(crate) fn doubts_state(&self) -> bool {
        let noted = self.inner.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.is_some() || self.has_mark(REBUILD) || self.has_mark(SUSPECT)
    }

    /// A mark that can't be looked for may be there.
    fn has_mark(&self, name: &str) -> bool {
        let folder = self.inner.folder.as_ref();
        folder.is_some_and(|folder| folder::exists(&folder.join(name)).unwrap_or(true))
    }

    /// All of the state was read, and nothing in it is damaged.
    pub(crate) fn forget_damage(&self) {
        *self.inner.noted.lock().unwrap_or_else(PoisonError::into_inner) = None;
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
        fatal.forget_damage();
        std::fs::remove_file(folder.path().join(SUSPECT)).expect("left");
        assert!(!fatal.doubts_state());
        // An earlier life found it, and nobody replaced the state.
        std::fs::write(folder.path().join(REBUILD), "a block").expect("written");
        assert!(fatal.doubts_state());
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
