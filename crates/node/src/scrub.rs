//! The scrub thread: it reads everything that is not written any more, to find what the
//! disk lost before it is needed.
//!
//! The journal's full files (the one that is written is ended first) and a checkpoint of the
//! state are read from the disk itself, at a bounded rate. What is damaged is never repaired in place: the node is told, ends in
//! an orderly way, and its next start mends it from the state or from a peer. A node whose state
//! nobody could replace now goes on meanwhile, and says so.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use synod_journal::{ClusterId, Journal, OpenError};
use synod_kv::http::ScrubBody;
use synod_paxos::NodeId;
use synod_storage::snapshot::{SnapshotError, StateFolders};
use synod_storage::{Store, StoreError, Told, told_by};

use crate::current::CurrentStore;
use crate::damage::now_s;
use crate::fatal::{Fatal, Held};
use crate::folder::{self, JOURNAL};
use crate::identity::{Identity, random_id};
use crate::journal_thread::JournalTask;
use crate::replaceable::{is_replaceable, is_replaceable_twice, second_look_after, turn};
use crate::scrub_settings::ScrubSettings;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::snapshot::pace::Pace;

/// What is known of the last reading.
const FILE: &str = "scrub.json";
/// A node that has just begun has other things to do.
const FIRST_AFTER: Duration = Duration::from_secs(60);
/// When a reading could not be done it is tried again after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(10 * 60);
/// Nodes that were started together do not read at the same time: each waits up to so much
/// longer, and not more than this part of the interval.
const JITTER: Duration = Duration::from_secs(10 * 60);
const JITTER_PART: u32 = 8;
/// The disk must have so many times its reserve free, or the state is not read.
const ROOM_RESERVES: u64 = 2;
/// What this thread has read so far, as the system counts it.
const READ_SO_FAR: &str = "/proc/thread-self/io";
/// The thread's place behind all others: the lowest there is.
const NICENESS: i32 = 19;

/// The thread.
pub(crate) struct Scrub {
    me: NodeId,
    journal: PathBuf,
    lineage: ClusterId,
    folders: StateFolders,
    store: Arc<CurrentStore>,
    settings: ScrubSettings,
    /// Between the second looks of two members.
    turn: Duration,
    disk_reserve_bytes: u64,
    /// Its end says that the node ends.
    stop: Receiver<()>,
    journal_tasks: Sender<JournalTask>,
    shared: Arc<Shared>,
    fatal: Fatal,
}

/// How a reading ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// The node ends.
    #[error("the node ends")]
    Stopped,
    #[error("{0}")]
    JournalDamaged(String),
    /// The file that is written: a promise may stand there and nowhere else, on the disk.
    #[error("{0}")]
    NewestDamaged(String),
    #[error("{0}")]
    StateDamaged(String),
    /// The state can't be read while it changes and nothing of it can go.
    #[error("the disk has too little room for what the state drops meanwhile")]
    NoRoom,
    /// It could not be done.
    #[error("{0}")]
    NotNow(String),
}

impl Scrub {
    pub(crate) fn new(
        (settings, identity): (&Settings, &Identity),
        (folders, store): (StateFolders, Arc<CurrentStore>),
        (stop, journal_tasks): (Receiver<()>, Sender<JournalTask>),
        shared: Arc<Shared>,
        fatal: Fatal,
    ) -> Scrub {
        Scrub {
            me: identity.node,
            journal: folders.data().join(JOURNAL),
            lineage: identity.lineage(),
            folders,
            store,
            settings: settings.scrub.clone(),
            turn: turn(settings),
            disk_reserve_bytes: settings.snapshot.disk_reserve_bytes,
            stop,
            journal_tasks,
            shared,
            fatal,
        }
    }

    /// Works until it is told to stop, or finds damage.
    pub(crate) fn run(self) {
        let interval = Duration::from_secs(self.settings.interval_s);
        if interval.is_zero() {
            return;
        }
        // It is a wish: without its fulfilment the rate still bounds what is read.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let mut known = read(self.folders.data());
        self.publish(&known);
        let mut pause = first_pause(&known, now_s(), interval) + jitter(interval);
        while self.stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            let held = self.fatal.held();
            let ended = self.read_all();
            match self.judge_reading((ended, held), &mut known, interval) {
                Some(next) => pause = next,
                None => return,
            }
        }
    }

    /// Does what is to be done after a reading. The pause until the next one, if there is one.
    fn judge_reading(
        &self,
        (ended, held): (Result<u64, Ended>, Held),
        known: &mut ScrubBody,
        interval: Duration,
    ) -> Option<Duration> {
        let again = AGAIN_AFTER.min(interval);
        match ended {
            Ok(bytes) => {
                known.finished_at_s = Some(now_s());
                (known.bytes, known.bytes_now) = (bytes, 0);
                self.keep(known);
                self.fatal.forget_damage(held);
                tracing::info!(bytes, "read the state and the journal: no damage");
                return Some(interval);
            }
            Err(Ended::Stopped) => return None,
            Err(Ended::NoRoom) => {
                tracing::warn!("the search for damage is put off: {}", Ended::NoRoom);
                self.publish(known);
                return Some(interval);
            }
            Err(Ended::NotNow(reason)) => {
                tracing::warn!(reason, "the search for damage could not be done");
                self.publish(known);
                return Some(again);
            }
            Err(Ended::NewestDamaged(text)) => {
                self.fatal.note_damaged_journal(&text);
                self.publish(known);
                return Some(again);
            }
            Err(Ended::JournalDamaged(text)) => {
                self.publish(known);
                self.fatal.report_damaged_journal(text);
            }
            Err(Ended::StateDamaged(text)) => {
                self.publish(known);
                if let Some(next) = self.keep_damaged(&text, again, interval) {
                    return Some(next);
                }
                // This leaves the mark by which the next start replaces the state.
                if !self.shared.is_stopping() {
                    self.fatal.report("the scrub", text);
                }
            }
        }
        None
    }

    /// Goes on with a damaged state while nobody could replace it. None when it can be replaced
    /// now, or the node ends; a pause when it is to be read again.
    fn keep_damaged(&self, text: &str, again: Duration, interval: Duration) -> Option<Duration> {
        let begun = Instant::now();
        let may_end = || is_replaceable(self.me, &self.shared);
        let pause = || second_look_after(self.me, &self.shared, self.turn);
        let goes_on = || self.stop.recv_timeout(pause()) == Err(RecvTimeoutError::Timeout);
        loop {
            self.fatal.note_damage(text);
            if is_replaceable_twice(may_end, goes_on) {
                return None;
            }
            if self.stop.recv_timeout(again) != Err(RecvTimeoutError::Timeout) {
                return None;
            }
            if begun.elapsed() >= interval {
                return Some(Duration::ZERO);
            }
        }
    }

    /// What is in the way of the journal's reading is not in that of the state's.
    fn read_all(&self) -> Result<u64, Ended> {
        let mut reading = Reading { scrub: self, pace: None, bytes: 0 };
        reading.finish_file();
        // The journal may be written where it is read; what is really damaged stays so.
        let journal = match reading.read_journal() {
            Err(Ended::JournalDamaged(_) | Ended::NewestDamaged(_)) => reading.read_journal(),
            read => read,
        };
        if let Err(Ended::NewestDamaged(text)) = &journal {
            tracing::error!("{text}; the journal goes on in another file");
            // When another one follows it is damage as any other, which a start mends. A thread
            // that is gone has reported why; the node is ending.
            let _ = self.journal_tasks.send(JournalTask::BeginNext);
        }
        if !matches!(journal, Ok(()) | Err(Ended::NotNow(_) | Ended::NewestDamaged(_))) {
            return journal.map(|()| reading.bytes);
        }
        // A disk may fail for a moment, and a good state is not to go for that.
        match reading.read_state() {
            Err(Ended::StateDamaged(_)) => reading.read_state()?,
            read => read?,
        }
        journal.map(|()| reading.bytes)
    }

    fn publish(&self, known: &ScrubBody) {
        let mut shown = self.shared.scrub.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = Some(known.clone());
    }

    /// For the next life too, if that can be. To know of the last reading is worth no node.
    fn keep(&self, known: &ScrubBody) {
        self.publish(known);
        let mut text = serde_json::to_vec_pretty(known).expect("plain fields");
        text.push(b'\n');
        if let Err(error) = folder::replace(self.folders.data(), FILE, &text) {
            tracing::warn!(%error, "the next start will not know what was read");
        }
    }
}

/// One reading of everything.
struct Reading<'a> {
    scrub: &'a Scrub,
    pace: Option<Pace>,
    bytes: u64,
}

impl Reading<'_> {
    /// Has the journal go on in another file, so that all that it holds until now is in files
    /// which are read. The next file takes room, so where there is little the present one is
    /// read when it is full, or at a start.
    fn finish_file(&self) {
        if self.has_no_room() {
            return;
        }
        let (done, waits) = channel();
        // A thread that is gone has reported why; the node is ending.
        if self.scrub.journal_tasks.send(JournalTask::FinishFile(done)).is_ok() {
            let _ = waits.recv();
        }
    }

    fn read_journal(&mut self) -> Result<(), Ended> {
        let Scrub { journal, lineage, .. } = self.scrub;
        drop_cached(journal).map_err(|error| Ended::NotNow(error.to_string()))?;
        let (mut before, mut goes_on) = (0, true);
        let read = Journal::scrub(journal, *lineage, |upto| {
            goes_on = self.moved(upto - before);
            before = upto;
            goes_on
        });
        match read {
            Ok(_) if goes_on => Ok(()),
            Ok(_) => Err(Ended::Stopped),
            // Whom to ask is for a start to say, which may mend it.
            Err(OpenError::Damaged(damage)) => {
                Err(Ended::JournalDamaged(format!("the journal is damaged: {damage}")))
            }
            Err(OpenError::PromiseNotProvable(damage)) => {
                let text = format!("the journal is damaged in its newest file: {damage}");
                Err(Ended::NewestDamaged(text))
            }
            Err(error) => Err(Ended::NotNow(error.to_string())),
        }
    }

    fn read_state(&mut self) -> Result<(), Ended> {
        let folders = &self.scrub.folders;
        let not_now = |error: SnapshotError| Ended::NotNow(error.to_string());
        folders.remove_scrub().map_err(not_now)?;
        if self.has_no_room() {
            return Err(Ended::NoRoom);
        }
        let made = self.scrub.store.get().checkpoint(&folders.scrub());
        let read = made.map_err(judged).and_then(|_| self.read_checkpoint(&folders.scrub()));
        let removed = folders.remove_scrub().map_err(not_now);
        read.and(removed)
    }

    fn read_checkpoint(&mut self, path: &Path) -> Result<(), Ended> {
        let store = Store::open_to_verify(path).map_err(|error| judged(error.into()))?;
        let mut ended = None;
        let mut before = bytes_read();
        let verified = store.verify_slowly(|of_records| {
            // Records are longer in memory than in their files, and many are dead there.
            let now = bytes_read();
            let of_files = now.zip(before).map(|(now, before)| now.saturating_sub(before));
            before = now;
            if self.has_no_room() {
                ended = Some(Ended::NoRoom);
            } else if !self.moved(of_files.unwrap_or(of_records as u64)) {
                ended = Some(Ended::Stopped);
            }
            ended.is_none()
        });
        match (verified, ended) {
            (_, Some(ended)) => Err(ended),
            (Ok(_), None) => Ok(()),
            (Err(error), None) => Err(judged(error.into())),
        }
    }

    /// The checkpoint keeps files that the state does not need any more. That must never
    /// be what has this node run out of room.
    fn has_no_room(&self) -> bool {
        let least = self.scrub.disk_reserve_bytes.saturating_mul(ROOM_RESERVES);
        self.scrub.folders.free_bytes().is_ok_and(|free| free < least)
    }

    /// So many bytes were read. Waits until more may be, and says whether the node goes on.
    fn moved(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        if let Some(shown) =
            &mut *self.scrub.shared.scrub.lock().unwrap_or_else(PoisonError::into_inner)
        {
            shown.bytes_now = self.bytes;
        }
        let now = Instant::now();
        let rate = self.scrub.settings.rate_bytes_per_s;
        let pace = self.pace.get_or_insert_with(|| Pace::new(rate, now));
        pace.moved(usize::try_from(bytes).unwrap_or(usize::MAX), now);
        let pause = pace.free_at().saturating_duration_since(now);
        self.scrub.stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout)
    }
}

/// What an error in the state means.
fn judged(error: SnapshotError) -> Ended {
    match damage_in(&error) {
        Some(text) => Ended::StateDamaged(text),
        None => Ended::NotNow(error.to_string()),
    }
}

/// The damage that an error tells of, if it does, in words by which it is known as such.
pub(crate) fn damage_in(error: &SnapshotError) -> Option<String> {
    match error {
        SnapshotError::Store(StoreError::Damaged { .. }) => {
            Some(format!("the state is damaged: {error}"))
        }
        _ => Some(error.to_string()).filter(|text| told_by(text) == Some(Told::Damage)),
    }
}

/// What an earlier life knew. If that can't be read nothing is known.
fn read(data: &Path) -> ScrubBody {
    let content = folder::read(data, FILE).ok().flatten();
    content.and_then(|content| serde_json::from_slice(&content).ok()).unwrap_or_default()
}

/// A node that is started again and again must get to an end, too.
fn first_pause(known: &ScrubBody, now_s: u64, interval: Duration) -> Duration {
    let since = known.finished_at_s.and_then(|at| now_s.checked_sub(at));
    let left =
        since.map_or(Duration::ZERO, |since| interval.saturating_sub(Duration::from_secs(since)));
    left.max(FIRST_AFTER.min(interval))
}

/// How much longer this node waits than others.
fn jitter(interval: Duration) -> Duration {
    let most = JITTER.min(interval / JITTER_PART);
    let random = random_id().map_or(0, |id| u32::try_from(id >> 96).unwrap_or(0));
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// The bytes that this thread has read from files. None where the system does not tell.
pub(crate) fn bytes_read() -> Option<u64> {
    let told = fs::read_to_string(READ_SO_FAR).ok()?;
    told.lines().find_map(|line| line.strip_prefix("rchar: "))?.trim().parse().ok()
}

/// Has this system forget what it read of the files: what the disk says now counts. What is
/// not yet written there stays.
fn drop_cached(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        // One that was removed meanwhile is not read either.
        let Ok(file) = File::open(entry?.path()) else { continue };
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use synod_kv::{KvOptions, StateMachine};
    use synod_storage::StoreOptions;

    use super::*;

    /// Of a node with a state that is in a file, and a journal that nobody can read now.
    fn without_a_journal(data: &Path) -> (Scrub, Sender<()>) {
        let folders = StateFolders::new(data);
        let path = folders.current().expect("readable");
        let store = Store::open(path, &StoreOptions::default()).expect("a state");
        let machine = StateMachine::open(store.clone(), KvOptions::default());
        let mut machine = machine.expect("an empty one");
        machine.apply(1, 1, &[]).expect("applied");
        machine.commit().expect("committed");
        store.flush().expect("durable");
        let (go_on, stop) = channel();
        let scrub = Scrub {
            me: NodeId(1),
            journal: data.join(JOURNAL),
            lineage: ClusterId(1),
            folders,
            store: Arc::new(CurrentStore::new(store)),
            settings: ScrubSettings { interval_s: 1, rate_bytes_per_s: 64 << 30 },
            turn: Duration::ZERO,
            disk_reserve_bytes: 0,
            stop,
            journal_tasks: channel().0,
            shared: Arc::default(),
            fatal: Fatal::of(data),
        };
        (scrub, go_on)
    }

    #[test]
    fn a_state_is_read_though_the_journal_cannot_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let (scrub, _go_on) = without_a_journal(folder.path());
        let ended = scrub.read_all().expect_err("there is no journal");
        assert!(matches!(ended, Ended::NotNow(_)), "{ended}");
        let state = scrub.folders.current().expect("readable");
        let files = fs::read_dir(state).expect("readable").map(|file| file.expect("one").path());
        for table in files.filter(|path| path.extension().is_some_and(|end| end == "sst")) {
            let mut bytes = fs::read(&table).expect("readable");
            bytes[4] ^= 1;
            fs::write(&table, bytes).expect("written");
        }
        let ended = scrub.read_all().expect_err("damaged");
        assert!(matches!(ended, Ended::StateDamaged(_)), "{ended}");
        assert!(!scrub.folders.scrub().exists(), "nothing stays that keeps files");
    }

    #[test]
    fn a_state_is_not_read_with_less_than_twice_the_reserve_free() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut scrub, _go_on) = without_a_journal(folder.path());
        let free = scrub.folders.free_bytes().expect("told");
        // Once it is free, and twice it is not, whatever others write meanwhile.
        scrub.disk_reserve_bytes = free / 3 * 2;
        let ended = scrub.read_all().expect_err("no room");
        assert!(matches!(ended, Ended::NoRoom), "{ended}");
        assert!(!scrub.folders.scrub().exists());
        scrub.disk_reserve_bytes = free / 4;
        let ended = scrub.read_all().expect_err("there is no journal");
        assert!(matches!(ended, Ended::NotNow(_)), "{ended}");
    }

    #[test]
    fn the_first_reading_is_when_it_is_due_and_not_at_once() {
        let day = Duration::from_secs(86_400);
        let known = |finished_at_s| ScrubBody { finished_at_s, ..ScrubBody::default() };
        assert_eq!(first_pause(&known(None), 1_000_000, day), FIRST_AFTER);
        assert_eq!(first_pause(&known(Some(1_000_000)), 1_000_000, day), day);
        assert_eq!(first_pause(&known(Some(1_000_000)), 1_086_000, day).as_secs(), 400);
        assert_eq!(first_pause(&known(Some(1_000_000)), 2_000_000, day), FIRST_AFTER);
        // A clock that was set back.
        assert_eq!(first_pause(&known(Some(1_000_000)), 5, day), FIRST_AFTER);
        let second = Duration::from_secs(1);
        assert_eq!(first_pause(&known(None), 5, second), second);
    }

    #[test]
    fn nodes_that_begin_together_read_at_other_times() {
        let day = Duration::from_secs(86_400);
        let pauses = (0..100).map(|_| jitter(day));
        let pauses: std::collections::BTreeSet<Duration> = pauses.collect();
        assert!(pauses.len() > 50 && pauses.iter().all(|pause| *pause <= JITTER));
        let second = Duration::from_secs(1);
        assert!((0..100).all(|_| jitter(second) <= second / JITTER_PART));
    }

    #[test]
    fn what_this_thread_reads_is_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, vec![7; 1 << 20]).expect("written");
        let Some(before) = bytes_read() else { return };
        let other = path.clone();
        std::thread::spawn(move || fs::read(other)).join().expect("no panic").expect("readable");
        assert!(bytes_read().expect("it was told before") < before + (1 << 16));
        fs::read(&path).expect("readable");
        let read = bytes_read().expect("it was told before") - before;
        assert!((1 << 20..(1 << 20) + (1 << 16)).contains(&read), "{read}");
    }
}
