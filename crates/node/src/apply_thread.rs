//! The apply thread: everything that waits is applied, committed in one write,
//! and then answered.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};

use synod_api::Refused;
use synod_host::{Applied, apply_configuration, configurations_of};
use synod_kv::{Command, MapError, ServerId, StateMachine, Taken};
use synod_paxos::{Configuration, Configurations, NodeId, Slot, Value};
use synod_storage::snapshot::{SnapshotError, StateFolders, Verified};
use synod_storage::{Store, StoreOptions, failpoint};
use synod_wire::{DecodeError, batch, command};
use tokio::sync::mpsc::UnboundedSender;

use crate::current::CurrentStore;
use crate::fatal::Fatal;
use crate::identity::Identity;
use crate::report::Report;
use crate::request::{Answer, Answers, WriteReply};
use crate::shared::{Shared, count};

/// A commit is not let grow beyond about this many bytes.
const COMMIT_BYTES_MAX: usize = 4 << 20;

/// What the owner wants of the state machine.
#[derive(Debug)]
pub(crate) enum ApplyTask {
    /// Apply the values of consecutive slots, answer, and report.
    Apply { first: Slot, values: Vec<Value>, waiters: Vec<(u64, WriteReply)> },
    /// A peer's state is here: switch to it, if it is ahead, and report that.
    Install { from: NodeId, verified: Verified },
    /// End, when everything before is done.
    Stop,
}

/// How a snapshot becomes the state.
#[derive(Debug)]
pub(crate) struct Installer {
    pub(crate) folders: StateFolders,
    pub(crate) current: Arc<CurrentStore>,
    pub(crate) options: StoreOptions,
    pub(crate) fatal: Fatal,
}

/// Why the state machine can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The state can't be read or written.
    #[error("{0}")]
    Map(MapError),
    /// A snapshot could not be switched to.
    #[error("installing a snapshot: {0}")]
    Install(#[from] SnapshotError),
    /// A chosen value holds what this release can't read.
    #[error("slot {slot} holds what this release cannot read: {error}")]
    Unreadable {
        /// The slot.
        slot: u64,
        /// Why.
        error: DecodeError,
    },
}

impl From<MapError> for ApplyError {
    fn from(error: MapError) -> Self {
        ApplyError::Map(error)
    }
}

/// The state machine and how it takes values; recovery uses it as well.
pub(crate) struct Applier {
    machine: StateMachine<Store>,
    /// Who votes before the log says otherwise.
    first: Configuration,
    origin: u32,
    incarnation: u64,
    /// The highest own sequence of this incarnation that was taken.
    own_sequence: u64,
    own_gap: bool,
    /// Kept for its capacity.
    commands: Vec<(ServerId, Command)>,
    shared: Arc<Shared>,
}

impl Applier {
    pub(crate) fn new(
        machine: StateMachine<Store>,
        identity: &Identity,
        incarnation: u64,
        shared: Arc<Shared>,
    ) -> Self {
        let mut applier = Applier {
            machine,
            first: identity.configuration.clone(),
            origin: identity.node.0,
            incarnation,
            own_sequence: 0,
            own_gap: false,
            commands: Vec::new(),
            shared,
        };
        applier.publish();
        applier
    }

    pub(crate) fn applied(&self) -> Slot {
        Slot(self.machine.applied_slot())
    }

    /// Who votes in the slots that are not applied yet.
    ///
    /// # Errors
    /// When the state's record of it is damaged; the node must stop.
    pub(crate) fn configurations(&self) -> Result<Configurations, MapError> {
        configurations_of(&self.machine, &self.first)
            .map_err(|error| MapError(format!("the members in the state: {error}")))
    }

    /// Applies one value. What became of this node's own commands goes to `own`.
    ///
    /// # Errors
    /// When the state can't be read or the value can't be decoded; then what was
    /// staged is lost, and the node must stop.
    pub(crate) fn apply(
        &mut self,
        slot: Slot,
        value: Value,
        mut own: impl FnMut(u64, Taken),
    ) -> Result<(), ApplyError> {
        if let Value::Configuration(new) = &value {
            count(&self.shared.state.values, 1);
            return Ok(apply_configuration(&mut self.machine, &self.first, slot, new)?);
        }
        let unreadable = |error| ApplyError::Unreadable { slot: slot.0, error };
        self.commands.clear();
        let mut cluster_time_ms = 0;
        if let Value::Batch(bytes) = value {
            let batch = batch::decode(bytes).map_err(unreadable)?;
            cluster_time_ms = batch.cluster_time_ms;
            for entry in batch.entries {
                let command = command::decode(entry.command).map_err(unreadable)?;
                self.commands.push((entry.id, command));
            }
        }
        let taken = self.machine.apply(slot.0, cluster_time_ms, &self.commands)?;
        assert_eq!(taken.len(), self.commands.len(), "each command has an outcome");
        count(&self.shared.state.commands, taken.len());
        count(&self.shared.state.values, 1);
        for ((id, command), taken) in self.commands.iter().zip(taken) {
            let find = |id| self.machine.lease(id);
            self.shared.lease_news.tell(slot.0, command, &taken, find)?;
            if id.origin != self.origin || id.incarnation != self.incarnation {
                continue;
            }
            match taken {
                Taken::Applied { .. } => {
                    self.own_sequence = id.sequence;
                    own(id.sequence, taken);
                }
                Taken::Gap => self.own_gap = true,
                Taken::Duplicate => {}
            }
        }
        Ok(())
    }

    /// Goes on from a snapshot.
    ///
    /// # Errors
    /// When its state record can't be read.
    ///
    /// # Panics
    /// When something is not committed, or the snapshot is not ahead.
    fn install(&mut self, store: Store) -> Result<(), MapError> {
        drop(self.machine.replace(store)?);
        self.shared.lease_news.cut();
        // What is not in it goes again, so no gap is left to be told.
        self.own_gap = false;
        if let Some((incarnation, sequence)) = self.machine.origin_sequence(self.origin)
            && incarnation == self.incarnation
        {
            self.own_sequence = sequence;
        }
        Ok(())
    }

    /// Writes what was applied since the last commit, and lets readers see it.
    ///
    /// # Errors
    /// When the state can't be written; the node must stop.
    pub(crate) fn commit(&mut self) -> Result<(), MapError> {
        self.machine.commit()?;
        self.publish();
        count(&self.shared.state.commits, 1);
        Ok(())
    }

    pub(crate) fn staged_bytes(&self) -> usize {
        self.machine.staged_bytes()
    }

    /// How far the state machine is, for the host.
    pub(crate) fn report(&mut self) -> Applied {
        let compared = self.machine.compared_hash();
        Applied {
            upto: self.applied(),
            durable: self.shared.state.spare(),
            cluster_time_ms: self.machine.cluster_time_ms(),
            tick_ms: self.machine.tick_ms(),
            own_sequence: self.own_sequence,
            own_gap: std::mem::take(&mut self.own_gap),
            state: (Slot(compared.0), compared.1),
        }
    }

    fn publish(&mut self) {
        let (changes, revision) = (self.machine.take_changes(), self.machine.revision());
        let is_wanted = self.shared.state.recent().committed(changes, revision);
        self.machine.note_changes(is_wanted);
        let machine = &self.machine;
        self.shared.state.committed(
            machine.applied_slot(),
            machine.revision(),
            machine.cluster_time_ms(),
            machine.state_hash(),
        );
        self.shared.state.set_compacted(machine.compacted(), machine.compaction_due());
        let leases = (machine.leases(), machine.lease_counts());
        *self.shared.state.leases.lock().unwrap_or_else(PoisonError::into_inner) = leases;
    }
}

/// The thread.
pub(crate) struct ApplyThread {
    applier: Applier,
    installer: Installer,
    /// The slot of the last snapshot: what comes and is in it is skipped.
    installed: Slot,
    tasks: Receiver<ApplyTask>,
    reports: UnboundedSender<Report>,
    answers: Answers,
    shared: Arc<Shared>,
    /// Who waits for commands that were sent, in the order of their sequences.
    waiters: VecDeque<(u64, WriteReply)>,
    /// Outcomes that may be told once they are committed.
    outcomes: Vec<Answer>,
    is_stopping: bool,
}

impl ApplyThread {
    pub(crate) fn new(
        applier: Applier,
        installer: Installer,
        tasks: Receiver<ApplyTask>,
        reports: UnboundedSender<Report>,
        answers: Answers,
        shared: Arc<Shared>,
    ) -> Self {
        ApplyThread {
            applier,
            installer,
            installed: Slot::ZERO,
            tasks,
            reports,
            answers,
            shared,
            waiters: VecDeque::new(),
            outcomes: Vec::new(),
            is_stopping: false,
        }
    }

    /// Works until it is told to stop.
    ///
    /// # Errors
    /// When the state can't be read or written.
    pub(crate) fn run(mut self) -> Result<(), ApplyError> {
        while !self.is_stopping {
            match self.tasks.recv() {
                Ok(task) => self.take(task)?,
                Err(_) => break,
            }
            while let Ok(task) = self.tasks.try_recv() {
                self.take(task)?;
            }
            self.commit()?;
        }
        Ok(())
    }

    fn take(&mut self, task: ApplyTask) -> Result<(), ApplyError> {
        match task {
            ApplyTask::Apply { first, values, waiters } => self.apply(first, values, waiters),
            ApplyTask::Install { from, verified } => self.install(from, verified),
            ApplyTask::Stop => {
                self.is_stopping = true;
                Ok(())
            }
        }
    }

    fn apply(
        &mut self,
        first: Slot,
        values: Vec<Value>,
        waiters: Vec<(u64, WriteReply)>,
    ) -> Result<(), ApplyError> {
        self.waiters.extend(waiters);
        // A command gets to a value after its waiter is on the way, so only a snapshot
        // can have brought it before.
        self.give_up_waiters();
        let mut slot = first;
        for value in values {
            if slot <= self.applier.applied() {
                assert!(slot <= self.installed, "a slot comes twice, and no snapshot had it");
                slot = slot.next();
                self.shared.state.backlog_values.fetch_sub(1, Relaxed);
                continue;
            }
            let (waiters, outcomes) = (&mut self.waiters, &mut self.outcomes);
            let trace = self.shared.trace.get();
            self.applier.apply(slot, value, |sequence, taken| {
                // Outcomes come in the order of the sequences, as waiters do.
                while let Some((waiting, reply)) = waiters.pop_front_if(|w| w.0 <= sequence) {
                    if waiting == sequence {
                        if let Some(trace) = trace {
                            trace.acknowledging(slot, &taken);
                        }
                        outcomes.push(Answer::Write(reply, Ok(taken)));
                        return;
                    }
                }
            })?;
            slot = slot.next();
            self.shared.state.backlog_values.fetch_sub(1, Relaxed);
            if self.applier.staged_bytes() >= COMMIT_BYTES_MAX {
                self.commit()?;
            }
        }
        Ok(())
    }

    /// Switches to a snapshot, between two commits. When the switch itself fails, or a sync before
    /// it, the node stops: the next start finds out which state is the state.
    fn install(&mut self, from: NodeId, verified: Verified) -> Result<(), ApplyError> {
        self.commit()?;
        let (slot, before) = (verified.state().applied_slot, self.applier.applied());
        if !self.applier.machine.wants(slot) {
            tracing::info!(peer = %from, slot, applied = %before, "the snapshot came too late");
            if let Err(error) = verified.discard() {
                tracing::warn!(%error, "it stays until the next start");
            }
            let _ = self.reports.send(Report::SnapshotFailed { from });
            return Ok(());
        }
        let Installer { folders, current, options, fatal } = &self.installer;
        let prepared = match folders.prepare(verified) {
            Ok(prepared) => prepared,
            Err(error @ SnapshotError::Sync { .. }) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(peer = %from, slot, %error, "the snapshot cannot be installed");
                let _ = self.reports.send(Report::SnapshotFailed { from });
                return Ok(());
            }
        };
        let installed = folders.install(prepared)?;
        let store = Store::open(&installed.path, options).map_err(SnapshotError::from)?;
        failpoint::hit(folders.data(), "opened").map_err(|error| MapError(error.to_string()))?;
        self.applier.install(store.clone())?;
        // Before anybody reads it, for what is met in it is not of the one before.
        fatal.note_other_state();
        // First the data, then the revision that says that it is there.
        current.replace(store);
        self.applier.publish();
        self.installed = Slot(installed.slot);
        self.shared.state.set_durable(self.installed);
        self.shared.state.set_spare(self.installed);
        self.shared.snapshot.installed.fetch_add(1, Relaxed);
        tracing::info!(peer = %from, slot, before = %before, "switched to the snapshot");
        self.give_up_waiters();
        self.answers.send(&mut self.outcomes);
        let configurations = self.applier.configurations()?;
        // Whatever is doubted by now, it came whole.
        let applied = Applied { durable: self.installed, ..self.applier.report() };
        self.shared.state.leave_installed(applied, configurations);
        let _ = self.reports.send(Report::Applied);
        Ok(())
    }

    /// A command that a snapshot brought had an outcome, which nobody here has seen.
    fn give_up_waiters(&mut self) {
        let taken = self.applier.own_sequence;
        while let Some((_, reply)) = self.waiters.pop_front_if(|waiter| waiter.0 <= taken) {
            self.outcomes.push(Answer::Write(reply, Err(Refused::Lost)));
        }
    }

    /// Nothing is answered before it is committed.
    fn commit(&mut self) -> Result<(), ApplyError> {
        self.applier.commit()?;
        self.answers.send(&mut self.outcomes);
        // The owner ends before this thread only when the node stops.
        if self.shared.state.leave_report(self.applier.report()) {
            let _ = self.reports.send(Report::Applied);
        }
        Ok(())
    }
}
