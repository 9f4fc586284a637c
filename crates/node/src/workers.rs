//! The threads that wait for disks, so that the owner never does: how they are told
//! what to do, and how they end.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::apply_thread::ApplyTask;
use crate::journal_thread::JournalTask;
use crate::request::Answers;
use crate::snapshot::SnapshotTask;
use crate::upkeep::UpkeepTask;

/// Messages about snapshots that wait for their thread; what is beyond is asked for again.
const SNAPSHOT_TASKS_MAX: usize = 64;

/// Where the owner hands out work.
#[derive(Clone, Debug)]
pub(crate) struct Workers {
    pub(crate) journal: Sender<JournalTask>,
    pub(crate) apply: Sender<ApplyTask>,
    pub(crate) upkeep: Sender<UpkeepTask>,
    /// Bounded: what peers send too much is dropped, and asked for again.
    pub(crate) snapshot: SyncSender<SnapshotTask>,
    /// It is told nothing but that nobody is there any more.
    pub(crate) scrub: Sender<()>,
    pub(crate) answers: Answers,
}

/// Where the workers find it.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) journal: Receiver<JournalTask>,
    pub(crate) apply: Receiver<ApplyTask>,
    pub(crate) upkeep: Receiver<UpkeepTask>,
    pub(crate) snapshot: Receiver<SnapshotTask>,
    pub(crate) scrub: Receiver<()>,
}

impl Workers {
    pub(crate) fn new(answers: Answers) -> (Self, Queues) {
        let (journal, journal_queue) = channel();
        let (apply, apply_queue) = channel();
        let (upkeep, upkeep_queue) = channel();
        let (snapshot, snapshot_queue) = sync_channel(SNAPSHOT_TASKS_MAX);
        let (scrub, scrub_queue) = channel();
        let queues = Queues {
            journal: journal_queue,
            apply: apply_queue,
            upkeep: upkeep_queue,
            snapshot: snapshot_queue,
            scrub: scrub_queue,
        };
        (Self { journal, apply, upkeep, snapshot, scrub, answers }, queues)
    }

    /// Tells all of them to end when they have done what was asked of them before.
    pub(crate) fn stop(self) {
        // One that has ended already needs no telling.
        let _ = self.snapshot.send(SnapshotTask::Stop);
        let _ = self.journal.send(JournalTask::Stop);
        let _ = self.apply.send(ApplyTask::Stop);
        let _ = self.upkeep.send(UpkeepTask::Stop);
        drop(self.scrub);
    }
}
