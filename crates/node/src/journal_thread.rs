//! The journal thread: everything that waits becomes one group, one sync, one
//! report.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use synod_journal::{Journal, JournalError};
use synod_paxos::{Load, Position, Record, Slot};
use tokio::sync::mpsc::UnboundedSender;

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
    /// End, when everything before is done.
    Stop,
}

/// The journal and its owner's ears.
pub(crate) struct JournalThread {
    journal: Journal,
    tasks: Receiver<JournalTask>,
    reports: UnboundedSender<Report>,
    shared: Arc<Shared>,
    /// Appended and not yet synced.
    unsynced: Option<Position>,
    loads: VecDeque<Load>,
    truncate: Option<Slot>,
    /// The last full segment that was reported.
    segment: u64,
    is_stopping: bool,
}

impl JournalThread {
    pub(crate) fn new(
        journal: Journal,
        tasks: Receiver<JournalTask>,
        reports: UnboundedSender<Report>,
        shared: Arc<Shared>,
    ) -> Self {
        JournalThread {
            journal,
            tasks,
            reports,
            shared,
            unsynced: None,
            loads: VecDeque::new(),
            truncate: None,
            segment: 0,
            is_stopping: false,
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
            self.sync()?;
            // One at a time: the next group must not wait for all of them.
            if let Some(load) = self.loads.pop_front() {
                self.load(load)?;
            } else if let Some(upto) = self.truncate.take() {
                self.journal.truncate(upto)?;
            }
            self.publish();
        }
        self.journal.seal()
    }

    /// Takes everything that is queued; waits only when there is nothing to do.
    fn gather(&mut self) -> Result<(), JournalError> {
        if self.loads.is_empty() && self.truncate.is_none() {
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
            JournalTask::BeginNext => {
                self.sync()?;
                self.journal.begin_next()?;
                self.report_segments();
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

    fn load(&mut self, load: Load) -> Result<(), JournalError> {
        let values = self.journal.read_chosen(load.first, load.last, load.bytes_max)?;
        self.report(Report::Loaded { load, values });
        Ok(())
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
