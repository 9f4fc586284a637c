//! The journal thread: everything that waits becomes one group, one sync, one
//! report.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use synod_journal::{Journal, JournalError};
use synod_paxos::{Load, Position, Record, Slot};
use tokio::sync::mpsc::UnboundedSender;

use crate::fatal::Fatal;
use crate::report::Report;
use crate::shared::Shared;

/// After this long without work the last group is sealed, so that damage to it is
/// told from a torn tail.
const SEAL_AFTER: Duration = Duration::from_millis(10);

/// What the owner wants of the journal. The queue is bounded by the core: a leader
/// stops at its bound of bytes that are not durable, and so does an acceptor.
#[derive(Debug)]
pub(crate) enum JournalTask {
    /// Append, sync, and report.
    Append { upto: Position, records: Vec<Record> },
    /// Read and report.
    Load(Load),
    /// Drop what is not needed.
    Truncate(Slot),
    /// The file that is written is damaged: go on in another one.
    BeginNext,
    /// All is to be read, and only what another file follows is: go on in another one if the
    /// present one holds anything, and say when that is done.
    FinishFile(Sender<()>),
    /// End, when everything before is done.
    Stop,
}

/// The journal and its owner's ears.
pub(crate) struct JournalThread {
    journal: Journal,
    tasks: Receiver<JournalTask>,
    reports: UnboundedSender<Report>,
    shared: Arc<Shared>,
    fatal: Fatal,
    /// Appended and not yet synced.
    unsynced: Option<Position>,
    loads: VecDeque<Load>,
    truncate: Option<Slot>,
    /// The last full segment that was reported.
    segment: u64,
    is_stopping: bool,
    /// Damage was met, and what is owed stands in a file behind it.
    has_left_damage: bool,
}

impl JournalThread {
    pub(crate) fn new(
        journal: Journal,
        tasks: Receiver<JournalTask>,
        reports: UnboundedSender<Report>,
        shared: Arc<Shared>,
        fatal: Fatal,
    ) -> Self {
        JournalThread {
            journal,
            tasks,
            reports,
            shared,
            fatal,
            unsynced: None,
            loads: VecDeque::new(),
            truncate: None,
            segment: 0,
            is_stopping: false,
            has_left_damage: false,
        }
    }

    /// Works until it is told to stop.
    ///
    /// # Errors
    /// At the first failure of the disk, after which nothing is durable any more.
    pub(crate) fn run(mut self) -> Result<(), JournalError> {
        self.report_segments();
        self.publish();
        while !self.is_stopping {
            self.gather()?;
            self.work()?;
        }
        self.journal.seal()
    }

    /// What was gathered becomes durable, then the rest.
    fn work(&mut self) -> Result<(), JournalError> {
        self.sync()?;
        // One at a time: the next group must not wait for all of them.
        if let Some(load) = self.loads.pop_front() {
            self.load(load)?;
        } else if self.may_truncate()
            && let Some(upto) = self.truncate.take()
        {
            self.journal.truncate(upto)?;
        }
        self.publish();
        Ok(())
    }

    /// Takes everything that is queued; waits only when there is nothing to do.
    fn gather(&mut self) -> Result<(), JournalError> {
        if self.loads.is_empty() && !self.may_truncate() {
            match self.tasks.recv_timeout(SEAL_AFTER) {
                Ok(task) => self.take(task)?,
                Err(RecvTimeoutError::Timeout) => {
                    self.journal.seal()?;
                    match self.tasks.recv() {
                        Ok(task) => self.take(task)?,
                        Err(_) => self.is_stopping = true,
                    }
                }
                Err(RecvTimeoutError::Disconnected) => self.is_stopping = true,
            }
        }
        loop {
            match self.tasks.try_recv() {
                Ok(task) => self.take(task)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => {
                    self.is_stopping = true;
                    return Ok(());
                }
            }
        }
    }

    fn take(&mut self, task: JournalTask) -> Result<(), JournalError> {
        match task {
            JournalTask::Append { upto, records } => {
                let position = self.journal.append(&records)?;
                assert_eq!(position, upto, "the journal and the core count alike");
                self.unsynced = Some(position);
            }
            JournalTask::Load(load) => self.loads.push_back(load),
            JournalTask::Truncate(upto) => self.truncate = self.truncate.max(Some(upto)),
            JournalTask::BeginNext => self.begin_next()?,
            JournalTask::FinishFile(done) => {
                self.sync()?;
                if self.journal.newest_holds_anything() {
                    self.begin_next()?;
                }
                // Who does not wait any more is ending.
                let _ = done.send(());
            }
            JournalTask::Stop => self.is_stopping = true,
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        let Some(upto) = self.unsynced.take() else { return Ok(()) };
        let begun = Instant::now();
        let durable = self.journal.sync()?;
        assert!(durable >= upto, "a sync covers everything appended before it");
        let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.shared.journal.sync_us_max.fetch_max(took_us, Relaxed);
        self.report(Report::Persisted(durable));
        self.report_segments();
        Ok(())
    }

    fn begin_next(&mut self) -> Result<(), JournalError> {
        self.sync()?;
        self.journal.begin_next()?;
        self.report_segments();
        Ok(())
    }

    fn load(&mut self, load: Load) -> Result<(), JournalError> {
        let values = match self.journal.read_chosen(load.first, load.last, load.bytes_max) {
            Ok(values) => values,
            Err(error) if error.is_damage() => {
                self.report_damage(&error)?;
                Vec::new() // The peer asks another one.
            }
            Err(error) => return Err(error),
        };
        self.report(Report::Loaded { load, values });
        Ok(())
    }

    /// The node ends in an orderly way, for the state may hold what the journal has lost, and the
    /// next start mends the journal. What this acceptor owes may stand in the damaged file and
    /// nowhere else: another one says it first.
    fn report_damage(&mut self, error: &JournalError) -> Result<(), JournalError> {
        if !std::mem::replace(&mut self.has_left_damage, true) {
            let text = format!("a peer asked for what is damaged: {error}");
            self.fatal.report_damaged_journal(text);
            self.begin_next()?;
        }
        Ok(())
    }

    /// Whether there is something to drop, and the state is not doubted, of which that was asked for
    /// before. Then it waits until the state is sound, or there is no room for it.
    fn may_truncate(&self) -> bool {
        let is_tight = || self.shared.journal.is_tight.load(Relaxed);
        self.truncate.is_some() && (!self.fatal.doubts_state() || is_tight())
    }

    /// Reports the segments that are full since this was done last.
    fn report_segments(&mut self) {
        let filled: Vec<_> = self.journal.filled_segments(self.segment).collect();
        for (number, segment) in filled {
            self.segment = number;
            self.report(Report::Segment(segment));
        }
    }

    fn report(&self, report: Report) {
        // The owner ends before this thread only when the node stops.
        let _ = self.reports.send(report);
    }

    fn publish(&self) {
        let counters = self.journal.counters();
        let view = &self.shared.journal;
        view.syncs.store(counters.groups, Relaxed);
        view.records.store(counters.records, Relaxed);
        view.bytes.store(counters.bytes, Relaxed);
        view.bytes_on_disk.store(self.journal.bytes_on_disk(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::sync::mpsc::sync_channel;

    use bytes::Bytes;
    use synod_journal::{ClusterId, JournalOptions};
    use synod_paxos::{Ballot, NodeId, RecordBody, Value};
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);
    const SMALL: JournalOptions = JournalOptions { segment_bytes: 4096, format: 1 };

    #[test]
    fn a_peer_that_asks_for_a_damaged_value_ends_the_node_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("journal");
        Journal::create(&dir, CLUSTER).expect("made");
        let mut journal = Journal::open(&dir, CLUSTER, &SMALL).expect("opened").journal;
        let ballot = Ballot { round: 1, node: NodeId(1) };
        for slot in 1..=9 {
            let value = Value::Batch(Bytes::from(vec![u8::try_from(slot).expect("small"); 600]));
            let body = RecordBody::Accepted { slot: Slot(slot), ballot, value };
            let record = Record { promised: ballot, chosen_upto: Slot(slot - 1), body };
            journal.append(&[record]).expect("appended");
            journal.sync().expect("synced");
        }
        // The value of slot 8, which may stand in the file that is written, rots.
        let segments = fs::read_dir(&dir).expect("a journal").map(|entry| entry.expect("one"));
        let hit = segments.map(|entry| entry.path()).find_map(|path| {
            let bytes = fs::read(&path).expect("readable");
            let at = bytes.windows(100).position(|window| *window == [8; 100])?;
            Some((path, at))
        });
        let (path, at) = hit.expect("it was written");
        let file = fs::OpenOptions::new().write(true).open(path).expect("writable");
        file.write_all_at(&[9], at as u64).expect("written");

        let (tasks, queue) = sync_channel(9);
        let (reports, mut reported) = unbounded_channel();
        let fatal = Fatal::of(folder.path());
        let load = |first| {
            let (to, first, last) = (NodeId(2), Slot(first), Slot(8));
            Load { to, nonce: 0, first, last, bytes_max: 1 }
        };
        for task in [load(8), load(7), load(8)].map(JournalTask::Load) {
            tasks.send(task).expect("taken");
        }
        let thread = JournalThread::new(journal, queue, reports, Arc::default(), fatal.clone());
        let thread = std::thread::spawn(|| thread.run());
        let mut loaded = Vec::new();
        while loaded.len() < 3 {
            if let Report::Loaded { load, values } = reported.blocking_recv().expect("it works on")
            {
                loaded.push((load.first.0, values.len()));
            }
        }
        drop(tasks);
        thread.join().expect("no panic").expect("it ends in order");
        assert!(fatal.is_damaged() && fatal.reported().is_none());
        assert_eq!(loaded, [(8, 0), (7, 1), (8, 0)]);
        // A start can tell what is owed, and mends the rest when the state has it.
        let mended = Journal::mend(&dir, CLUSTER, &SMALL, Slot(9)).expect("read");
        assert!(mended.is_some_and(|mended| mended.is_done));
    }

    /// It was asked for before anybody knew of the damage.
    #[test]
    fn nothing_is_dropped_beside_a_doubted_state_while_there_is_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("journal");
        Journal::create(&dir, CLUSTER).expect("made");
        let mut journal = Journal::open(&dir, CLUSTER, &SMALL).expect("opened").journal;
        let ballot = Ballot { round: 1, node: NodeId(1) };
        for slot in 1..=20 {
            let value = Value::Batch(Bytes::from(vec![7; 600]));
            let body = RecordBody::Accepted { slot: Slot(slot), ballot, value };
            let record = Record { promised: ballot, chosen_upto: Slot(slot - 1), body };
            journal.append(&[record]).expect("appended");
            journal.sync().expect("synced");
        }
        let files = || fs::read_dir(&dir).expect("a journal").count();
        let (reports, _reported) = unbounded_channel();
        let (fatal, shared) = (Fatal::of(folder.path()), Arc::<Shared>::default());
        let (tasks, queue) = sync_channel(9);
        let mut thread =
            JournalThread::new(journal, queue, reports, Arc::clone(&shared), fatal.clone());
        let before = files();
        // Each round takes what is queued, and does one thing.
        let mut round = |task| {
            tasks.send(task).expect("room");
            thread.gather().expect("taken");
            thread.work().expect("done");
        };
        fatal.note_damage("a block is damaged");
        round(JournalTask::Truncate(Slot(10)));
        round(JournalTask::BeginNext);
        assert!(files() >= before, "nothing was dropped");
        let before = files();
        shared.journal.is_tight.store(true, Relaxed);
        round(JournalTask::BeginNext);
        assert!(files() < before, "there is no room for it");
        shared.journal.is_tight.store(false, Relaxed);
        round(JournalTask::Truncate(Slot(19)));
        let before = files();
        fatal.note_other_state();
        round(JournalTask::BeginNext);
        assert!(files() < before, "it is not doubted any more");
    }
}
