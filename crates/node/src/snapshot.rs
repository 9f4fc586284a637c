//! States on their way from node to node: the thread that does both ends of it.
//!
//! It never stands between a client and an answer. What it reads and writes is bounded
//! by a rate, and what it sends goes behind all votes. The host asks for a snapshot;
//! what comes of it goes to the apply thread, which alone may switch.

mod fetch;
pub(crate) mod pace;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use synod_paxos::{NodeId, Slot};
use synod_storage::snapshot::{SnapshotError, StateFolders};
use synod_wire::SnapshotMessage;
use tokio::sync::mpsc::UnboundedSender;

use crate::apply_thread::ApplyTask;
use crate::current::CurrentStore;
use crate::report::Report;
use crate::shared::Shared;
use crate::snapshot_settings::SnapshotSettings;

pub(crate) use fetch::{Fetch, FetchOut, FetchProgress};
pub(crate) use source::SourceProgress;

use source::Source;

/// The longest that the thread sleeps.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What others want of this thread.
#[derive(Debug)]
pub(crate) enum SnapshotTask {
    /// Bring the state of this peer, if it is above the slot.
    Fetch { from: NodeId, above: Slot },
    /// A peer's message.
    Received { from: NodeId, message: SnapshotMessage },
    /// End.
    Stop,
}

/// Where the thread hands out work.
#[derive(Debug)]
pub(crate) struct Outlets {
    pub(crate) reports: UnboundedSender<Report>,
    pub(crate) apply: Sender<ApplyTask>,
}

/// The thread.
pub(crate) struct SnapshotThread {
    fetch: Fetch,
    source: Source,
    tasks: Receiver<SnapshotTask>,
    outlets: Outlets,
    shared: Arc<Shared>,
}

impl SnapshotThread {
    pub(crate) fn new(
        folders: StateFolders,
        store: Arc<CurrentStore>,
        settings: &SnapshotSettings,
        tasks: Receiver<SnapshotTask>,
        outlets: Outlets,
        shared: Arc<Shared>,
    ) -> Self {
        let fetch = Fetch::new(folders.clone(), settings.clone(), Instant::now());
        let source = Source::new(folders, store, settings, Instant::now());
        SnapshotThread { fetch, source, tasks, outlets, shared }
    }

    /// Works until it is told to stop.
    ///
    /// # Errors
    /// When what is no longer sent can't be removed, or what came may not be on the disk.
    pub(crate) fn run(mut self) -> Result<(), SnapshotError> {
        loop {
            let due = self.fetch.deadline().into_iter().chain(self.source.deadline()).min();
            let now = Instant::now();
            let pause = due.map_or(LOOK_EVERY, |due| due.saturating_duration_since(now));
            self.source.set_refusing(self.shared.owner.differs_after().is_some());
            match self.tasks.recv_timeout(pause.min(LOOK_EVERY)) {
                Ok(SnapshotTask::Fetch { from, above }) => {
                    self.fetch.begin(from, above, Instant::now());
                }
                Ok(SnapshotTask::Received { from, message }) => self.receive(from, message),
                Ok(SnapshotTask::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    return self.source.drop_checkpoint();
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.fetch.look(Instant::now());
            self.source.look(Instant::now())?;
            self.carry_out()?;
        }
    }

    fn receive(&mut self, from: NodeId, message: SnapshotMessage) {
        let now = Instant::now();
        match message {
            SnapshotMessage::Open { fetch, above } => {
                let truncated = self.shared.owner.snapshot();
                let truncated =
                    truncated.map_or(Slot::ZERO, |snapshot| snapshot.status.truncated_upto);
                self.source.receive_open(from, fetch, above, truncated, now);
            }
            SnapshotMessage::Read { id, file, offset, bytes_max } => {
                self.source.receive_read(from, id, file, offset, bytes_max);
            }
            answer => self.fetch.receive(from, answer, now),
        }
    }

    fn carry_out(&mut self) -> Result<(), SnapshotError> {
        // Whoever is gone ends the node, and this thread with it.
        if let Some(slot) = self.source.take_progress() {
            let _ = self.outlets.reports.send(Report::SnapshotSent { slot });
        }
        for (to, message) in self.source.take_out() {
            let _ = self.outlets.reports.send(Report::SendSnapshot { to, message });
        }
        let shared = &self.shared;
        for out in self.fetch.take_out(|| !shared.is_stopping()) {
            let _ = match out {
                FetchOut::Send { to, message } => {
                    self.outlets.reports.send(Report::SendSnapshot { to, message }).is_ok()
                }
                FetchOut::Failed { from, .. } => {
                    self.outlets.reports.send(Report::SnapshotFailed { from }).is_ok()
                }
                FetchOut::Arrived { from, verified } => {
                    self.outlets.apply.send(ApplyTask::Install { from, verified }).is_ok()
                }
                FetchOut::Unsynced(error) => return Err(error),
            };
        }
        self.shared.snapshot.set(self.fetch.progress(), self.source.progress());
        Ok(())
    }
}
