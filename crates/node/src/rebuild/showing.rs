//! What the own journal shows as chosen, read on a thread of its own.
//!
//! That may be gigabytes, and whoever waits has peers to answer, deadlines to look at and an
//! operator to listen to meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use synod_journal::{ClusterId, OpenError, Shown};

/// After a reading that failed another one begins: a disk may fail for a moment only.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Nothing waits longer for what a reading may show.
const FIRST_MAX: Duration = Duration::from_secs(60);

type Reading = Result<Shown, OpenError>;
type Read = dyn Fn(&Path, ClusterId, Arc<AtomicBool>) -> Reading + Send + Sync;

/// The own journal, read when it is wanted first.
pub(super) struct Showing {
    pub(super) journal: PathBuf,
    pub(super) lineage: ClusterId,
    pub(super) read: Arc<Read>,
    state: State,
    has_failed: bool,
    is_ending: Arc<AtomicBool>,
}

enum State {
    Unread,
    Reading(JoinHandle<Reading>, Instant),
    Read(Shown),
    Failed(Instant),
}

impl Showing {
    pub(super) fn new(journal: &Path, lineage: ClusterId) -> Showing {
        Showing {
            journal: journal.to_owned(),
            lineage,
            read: Arc::new(Shown::read_until),
            state: State::Unread,
            has_failed: false,
            is_ending: Arc::default(),
        }
    }

    /// What it shows; none while it is read, which begins now at the latest, and when it can't be.
    pub(super) fn get(&mut self, now: Instant) -> Option<&Shown> {
        self.state = match std::mem::replace(&mut self.state, State::Unread) {
            State::Unread => self.begin(now),
            State::Failed(at) if now.duration_since(at) >= AGAIN_AFTER => self.begin(now),
            State::Reading(thread, _) if thread.is_finished() => self.take(thread, now),
            state => state,
        };
        match &self.state {
            State::Read(shown) => Some(shown),
            _ => None,
        }
    }

    /// Whether it is being read for the first time. As long as that takes nobody can say that it
    /// shows nothing; of what failed before nothing more is expected.
    pub(super) fn is_reading(&self) -> bool {
        !self.has_failed && matches!(self.state, State::Reading(..))
    }

    /// The same, and not for long: whoever wants to know what it shows may wait for that.
    pub(super) fn is_first(&self, now: Instant) -> bool {
        let is_recent = |at: &Instant| now.duration_since(*at) < FIRST_MAX;
        self.is_reading() && matches!(&self.state, State::Reading(_, at) if is_recent(at))
    }

    fn begin(&mut self, now: Instant) -> State {
        let (read, stop) = (Arc::clone(&self.read), Arc::clone(&self.is_ending));
        let (journal, lineage) = (self.journal.clone(), self.lineage);
        let thread = thread::Builder::new().name("synod-shown".to_owned());
        match thread.spawn(move || read(&journal, lineage, stop)) {
            Ok(thread) => State::Reading(thread, now),
            Err(error) => self.failed(&error.to_string(), now),
        }
    }

    fn take(&mut self, thread: JoinHandle<Reading>, now: Instant) -> State {
        match thread.join() {
            Ok(Ok(shown)) => State::Read(shown),
            Ok(Err(error)) => self.failed(&error.to_string(), now),
            Err(_) => self.failed("the thread that read it panicked", now),
        }
    }

    fn failed(&mut self, error: &str, now: Instant) -> State {
        tracing::warn!(error, "the journal shows nothing; it is read again in a while");
        self.has_failed = true;
        State::Failed(now)
    }
}

impl Drop for Showing {
    /// The journal is locked while it is read, and wanted next.
    fn drop(&mut self) {
        self.is_ending.store(true, Relaxed);
        if let State::Reading(thread, _) = std::mem::replace(&mut self.state, State::Unread) {
            // Whatever it found is not wanted any more.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU32;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use synod_journal::Journal;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const CLUSTER: ClusterId = ClusterId(7);

    /// One whose readings each wait for a word, and fail if that is "no".
    pub(in super::super) fn told(journal: &Path, lineage: ClusterId) -> (Showing, Sender<bool>) {
        let (word, words): (Sender<bool>, Receiver<bool>) = channel();
        let words = Mutex::new(words);
        let mut showing = Showing::new(journal, lineage);
        showing.read = Arc::new(move |journal, lineage, stop| {
            let word = words.lock().expect("one reads").recv();
            match word.expect("a word") {
                true => Shown::read_until(journal, lineage, stop),
                false => Err(OpenError::Missing(journal.to_owned())),
            }
        });
        (showing, word)
    }

    /// Waits until what is read, or failed, is known.
    pub(in super::super) fn settle(showing: &mut Showing, now: Instant) {
        let begun = Instant::now();
        while showing.get(now).is_none() && matches!(showing.state, State::Reading(..)) {
            assert!(begun.elapsed() < PATIENCE, "it is read for ever");
            thread::yield_now();
        }
    }

    #[test]
    fn nobody_waits_for_a_reading_and_one_that_failed_is_not_the_last() {
        let folder = tempfile::tempdir().expect("a folder");
        Journal::create(folder.path(), CLUSTER).expect("made");
        let (mut showing, word) = told(folder.path(), CLUSTER);
        let mut now = Instant::now();
        // It is being read.
        assert!(showing.get(now).is_none() && showing.is_first(now));
        let much_later = now + FIRST_MAX;
        assert!(!showing.is_first(much_later) && showing.is_reading(), "a disk may hang");
        word.send(false).expect("it waits");
        settle(&mut showing, now);
        assert!(showing.get(now).is_none() && !showing.is_first(now));
        now += AGAIN_AFTER;
        assert!(showing.get(now).is_none() && !showing.is_reading());
        word.send(true).expect("it waits");
        settle(&mut showing, now);
        assert!(showing.get(now).is_some());
    }

    #[test]
    fn a_reading_ends_with_whoever_wanted_it() {
        let (count, seen) = (Arc::new(AtomicU32::new(0)), Instant::now());
        let counted = Arc::clone(&count);
        let mut showing = Showing::new(Path::new("nowhere"), CLUSTER);
        showing.read = Arc::new(move |journal, _, stop| {
            while !stop.load(Relaxed) {
                assert!(seen.elapsed() < PATIENCE, "it was not told to stop");
                thread::yield_now();
            }
            counted.fetch_add(1, Relaxed);
            Err(OpenError::Missing(journal.to_owned()))
        });
        assert!(showing.get(seen).is_none());
        drop(showing);
        assert_eq!(count.load(Relaxed), 1);
    }
}
