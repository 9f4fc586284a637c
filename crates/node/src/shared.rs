//! What the threads of a node tell each other without waiting: counters, and the
//! last view of each.

use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use synod_host::{Applied, Queues};
use synod_kv::http::ScrubBody;
use synod_kv::{LeaseCounts, Recent, Revision};
use synod_paxos::{Configurations, NodeId, Slot, Status};
use synod_storage::StoreMetrics;
use synod_transport::{PeerMetrics, TransportMetrics};
use tokio::sync::Notify;

use crate::durability_trace::DurabilityTrace;
use crate::lease_news::LeaseNews;
use crate::roster::Roster;
use crate::snapshot::{FetchProgress, SourceProgress};

/// Shared by all threads of one node.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) state: StateView,
    pub(crate) journal: JournalView,
    pub(crate) owner: OwnerView,
    pub(crate) lease_news: LeaseNews,
    /// What messages rest on, if somebody wants to know.
    pub(crate) trace: OnceLock<DurabilityTrace>,
    /// Refreshed about once a second.
    pub(crate) store: Mutex<StoreMetrics>,
    /// States that come and go.
    pub(crate) snapshot: SnapshotView,
    /// What reading the whole disk found; none when it is never done.
    pub(crate) scrub: Mutex<Option<ScrubBody>>,
    /// The state is damaged and nobody gave another one: until then nobody is asked again.
    pub(crate) forbears_until: OnceLock<Instant>,
    /// The node ends: what may take long must not.
    is_stopping: AtomicBool,
    /// A write could fail, so this node takes no more values.
    pub(crate) is_out_of_room: AtomicBool,
    /// Whether the owner takes requests; not before the state is rebuilt.
    is_serving: AtomicBool,
    /// Up to which slot the state is being rebuilt; known when the journal is read.
    rebuilt_upto: OnceLock<Slot>,
}

impl Shared {
    /// The state is being rebuilt up to here.
    pub(crate) fn rebuilding(&self, upto: Slot) {
        // Told once: a node is rebuilt once.
        let _ = self.rebuilt_upto.set(upto);
    }

    /// The node ends.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Relaxed)
    }

    /// The owner takes requests from now on.
    pub(crate) fn begin_to_serve(&self) {
        self.is_serving.store(true, Relaxed);
    }

    /// Whether the owner takes requests. If not, the text says how far the node is.
    pub(crate) fn serving(&self) -> Result<(), String> {
        if self.is_serving.load(Relaxed) {
            return Ok(());
        }
        match self.rebuilt_upto.get() {
            None => Err("this node starts: it reads its journal".to_owned()),
            Some(upto) => {
                let applied = self.state.applied();
                Err(format!("this node starts: its state is rebuilt, slot {applied} of {upto}"))
            }
        }
    }
}

/// How far the state machine is; written by the apply thread.
#[derive(Debug, Default)]
pub(crate) struct StateView {
    applied: AtomicU64,
    durable: AtomicU64,
    /// What is beyond it stays in the journal, also of what is durable: the state may be doubted.
    spare: AtomicU64,
    revision: AtomicU64,
    cluster_time_ms: AtomicU64,
    compacted: AtomicU64,
    /// Up to where revisions should be forgotten; 0 when none should.
    compaction_due: AtomicU64,
    state_hash: AtomicU64,
    revision_changed: Notify,
    /// What the last commits changed.
    recent: Mutex<Recent>,
    /// What the apply thread has to report and the owner has not taken yet.
    report: Mutex<Left>,
    /// Whether the owner wants to be woken for it; else it takes it when it is
    /// awake anyway.
    report_awaited: AtomicBool,
    pub(crate) commands: AtomicU64,
    pub(crate) values: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) backlog_values: AtomicU64,
    /// How many leases there are, and what became of others.
    pub(crate) leases: Mutex<(u64, LeaseCounts)>,
    /// Renewals of leases that needed no command.
    pub(crate) lease_renewals_unlogged: AtomicU64,
}

/// What the apply thread leaves for the owner, to be taken in this order.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// A snapshot took the place of the state.
    pub(crate) installed: Option<(Applied, Configurations)>,
    /// How far it is now.
    pub(crate) applied: Option<Applied>,
}

impl Left {
    pub(crate) fn is_empty(&self) -> bool {
        self.installed.is_none() && self.applied.is_none()
    }
}

/// What the snapshot thread saw last.
#[derive(Debug, Default)]
pub(crate) struct SnapshotView {
    progress: Mutex<(FetchProgress, SourceProgress)>,
    /// Snapshots that became the state.
    pub(crate) installed: AtomicU64,
}

impl SnapshotView {
    pub(crate) fn set(&self, fetch: FetchProgress, source: SourceProgress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = (fetch, source);
    }

    pub(crate) fn get(&self) -> (FetchProgress, SourceProgress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the journal thread did.
#[derive(Debug, Default)]
pub(crate) struct JournalView {
    pub(crate) syncs: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) bytes_on_disk: AtomicU64,
    /// There is no room for what only a doubted state needs.
    pub(crate) is_tight: AtomicBool,
    /// The longest sync, in microseconds.
    pub(crate) sync_us_max: AtomicU64,
}

/// What the owner thread sees.
#[derive(Debug, Default)]
pub(crate) struct OwnerView {
    /// 0 for none.
    leader: AtomicU32,
    /// The disks of too few nodes have room for more values.
    pub(crate) no_disk_room: AtomicBool,
    /// A peer's state was another after this slot, if it is not 0. Nobody knows which of the
    /// two is damaged, so this one is not spread.
    differs_after: AtomicU64,
    snapshot: Mutex<Option<Arc<Snapshot>>>,
    /// None until the state is rebuilt.
    roster: RwLock<Option<Arc<Roster>>>,
    pub(crate) steps: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// The owner's view at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) status: Status,
    pub(crate) queues: Queues,
    pub(crate) transport: TransportMetrics,
    pub(crate) peers: Vec<PeerMetrics>,
    /// In which a leader cuts values here.
    pub(crate) log_version: u32,
}

impl StateView {
    /// What the last commits changed.
    pub(crate) fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state machine has committed everything up to here.
    pub(crate) fn committed(&self, slot: u64, revision: Revision, time_ms: u64, hash: u64) {
        self.applied.store(slot, Relaxed);
        self.cluster_time_ms.store(time_ms, Relaxed);
        self.state_hash.store(hash, Relaxed);
        // Whoever reads the new revision finds the data: it was committed before.
        let before = self.revision.swap(revision.0, std::sync::atomic::Ordering::AcqRel);
        if before != revision.0 {
            self.revision_changed.notify_waiters();
        }
    }

    /// Leaves a report for the owner. Says whether the owner has to be woken.
    pub(crate) fn leave_report(&self, applied: Applied) -> bool {
        let gap = applied.own_gap;
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let gap_before = report.applied.as_ref().is_some_and(|report| report.own_gap);
        report.applied = Some(Applied { own_gap: gap || gap_before, ..applied });
        drop(report);
        gap || self.report_awaited.load(SeqCst)
    }

    /// Leaves the report of a snapshot. What was left of the state before is outdated.
    pub(crate) fn leave_installed(&self, applied: Applied, configurations: Configurations) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        *report = Left { installed: Some((applied, configurations)), applied: None };
    }

    /// The reports that were left.
    pub(crate) fn take_report(&self) -> Left {
        std::mem::take(&mut *self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the owner sleeps only until the next report. It looks once more
    /// after it has said so.
    pub(crate) fn await_report(&self, awaited: bool) {
        self.report_awaited.store(awaited, SeqCst);
    }

    pub(crate) fn applied(&self) -> Slot {
        Slot(self.applied.load(Relaxed))
    }

    /// Up to where the state survives a crash without the journal.
    pub(crate) fn durable(&self) -> Slot {
        Slot(self.durable.load(Relaxed))
    }

    pub(crate) fn set_durable(&self, slot: Slot) {
        self.durable.fetch_max(slot.0, Relaxed);
    }

    /// Up to where this node does not need its journal for its state.
    pub(crate) fn spare(&self) -> Slot {
        Slot(self.spare.load(Relaxed))
    }

    pub(crate) fn set_spare(&self, slot: Slot) {
        self.spare.fetch_max(slot.0, Relaxed);
    }

    /// The state is doubted, so that the whole journal may be needed.
    pub(crate) fn spare_nothing(&self) {
        self.spare.store(0, Relaxed);
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision(self.revision.load(std::sync::atomic::Ordering::Acquire))
    }

    pub(crate) fn cluster_time_ms(&self) -> u64 {
        self.cluster_time_ms.load(Relaxed)
    }

    /// The oldest revision that can be read, and up to where more should be forgotten.
    pub(crate) fn set_compacted(&self, compacted: Revision, due: Option<Revision>) {
        self.compacted.store(compacted.0, Relaxed);
        self.compaction_due.store(due.map_or(0, |due| due.0), Relaxed);
    }

    pub(crate) fn compacted(&self) -> Revision {
        Revision(self.compacted.load(Relaxed))
    }

    /// Up to where revisions should be forgotten by now, as this node sees it.
    pub(crate) fn compaction_due(&self) -> Option<Revision> {
        Some(Revision(self.compaction_due.load(Relaxed))).filter(|due| due.0 > 0)
    }

    pub(crate) fn state_hash(&self) -> u64 {
        self.state_hash.load(Relaxed)
    }

    /// Waits until the state is at `revision` or beyond.
    pub(crate) async fn wait_revision(&self, revision: Revision) {
        loop {
            let mut changed = std::pin::pin!(self.revision_changed.notified());
            // Enlisted before the look, so that no change falls in between.
            changed.as_mut().enable();
            if self.revision() >= revision {
                return;
            }
            changed.await;
        }
    }
}

impl OwnerView {
    pub(crate) fn leader(&self) -> Option<NodeId> {
        Some(NodeId(self.leader.load(Relaxed))).filter(|leader| leader.0 != 0)
    }

    /// The slot after which a peer's state was another one.
    pub(crate) fn differs_after(&self) -> Option<Slot> {
        Some(Slot(self.differs_after.load(Relaxed))).filter(|slot| *slot > Slot::ZERO)
    }

    pub(crate) fn set_differs_after(&self, slot: Option<Slot>) {
        self.differs_after.store(slot.map_or(0, |slot| slot.0), Relaxed);
    }

    pub(crate) fn set_leader(&self, leader: Option<NodeId>) {
        self.leader.store(leader.map_or(0, |leader| leader.0), Relaxed);
    }

    /// The members.
    pub(crate) fn roster(&self) -> Option<Arc<Roster>> {
        self.roster.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_roster(&self, roster: Arc<Roster>) {
        *self.roster.write().unwrap_or_else(PoisonError::into_inner) = Some(roster);
    }

    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_snapshot(&self, snapshot: Snapshot) {
        let snapshot = Some(Arc::new(snapshot));
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Relaxed);
}
