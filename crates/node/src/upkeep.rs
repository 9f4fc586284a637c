//! The upkeep thread: work that may wait and may block. How far the state is
//! durable, flushing it so that the journal can be cut, and small files.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use synod_journal::Journal;
use synod_kv::{APPLIED_KEY, MapError, Revision, State};
use synod_paxos::{NodeId, Room, Slot};
use synod_storage::snapshot::{SnapshotError, StateFolders};
use synod_storage::{Store, StoreMetrics};
use tokio::sync::mpsc::UnboundedSender;

use crate::current::CurrentStore;
use crate::fatal::Fatal;
use crate::folder::{self, FolderError, JOURNAL};
use crate::marks::{DIFFERS, FOUND_RIGHT, found_right_text};
use crate::merges::Merges;
use crate::pins::Pins;
use crate::report::Report;
use crate::settings::Settings;
use crate::shared::Shared;

/// How often the durable slot is looked up; it looks into files.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often to look at the disk alone, while so little is free that one second's writes could
/// take it, and the reserve with it.
const DISK_LOOK_EVERY: Duration = Duration::from_millis(50);
const ONE_SECOND_BYTES_MAX: u64 = 4 << 30;
/// This many tombstones, and as many as a quarter of all records, make a
/// compaction of everything worth its while.
const TOMBSTONES_MIN: u64 = 100_000;

/// What others want of this thread.
#[derive(Debug)]
pub(crate) enum UpkeepTask {
    /// The journal says that it starts after this slot: the state that was installed
    /// there needs no mark any more.
    Unmark { slot: Slot },
    /// Keep a peer's store id.
    Pin { node: NodeId, store: u128 },
    /// The state differs from a peer's, as this text says, or does not any more.
    Differs { text: Option<Vec<u8>> },
    /// What came from a peer up to this slot was found right.
    FoundRight { slot: Slot },
    /// End.
    Stop,
}

/// Why upkeep can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpkeepError {
    #[error("{0}")]
    Map(MapError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// The thread.
#[derive(Debug)]
pub(crate) struct Upkeep {
    store: Arc<CurrentStore>,
    folders: StateFolders,
    pins: Pins,
    tasks: Receiver<UpkeepTask>,
    reports: UnboundedSender<Report>,
    shared: Arc<Shared>,
    fatal: Fatal,
    flush_interval: Duration,
    disk_reserve_bytes: u64,
    /// So much of the journal is kept beside a doubted state.
    doubted_bytes_max: u64,
    room: Room,
    /// The disk could be full before the next look.
    may_fill_up: bool,
    flushed_at: Instant,
    merges: Merges,
}

impl Upkeep {
    pub(crate) fn new(
        (store, folders): (Arc<CurrentStore>, StateFolders),
        pins: Pins,
        tasks: Receiver<UpkeepTask>,
        reports: UnboundedSender<Report>,
        (shared, fatal): (Arc<Shared>, Fatal),
        settings: &Settings,
    ) -> Self {
        Upkeep {
            store,
            folders,
            pins,
            tasks,
            reports,
            shared,
            fatal,
            flush_interval: Duration::from_millis(settings.timing.flush_interval_ms),
            disk_reserve_bytes: settings.snapshot.disk_reserve_bytes,
            doubted_bytes_max: settings.snapshot.doubted_bytes_max(),
            room: Room::Enough,
            may_fill_up: true,
            flushed_at: Instant::now(),
            merges: Merges::new(Instant::now()),
        }
    }

    /// Works until it is told to stop.
    ///
    /// # Errors
    /// When the state or a file can't be written.
    pub(crate) fn run(mut self) -> Result<(), UpkeepError> {
        let mut look_at = Instant::now();
        loop {
            let pause = look_at.saturating_duration_since(Instant::now());
            let pause = if self.may_fill_up { pause.min(DISK_LOOK_EVERY) } else { pause };
            match self.tasks.recv_timeout(pause) {
                Ok(UpkeepTask::Unmark { slot }) => self.unmark(slot)?,
                Ok(UpkeepTask::Pin { node, store }) => self.pins.keep(node, store)?,
                Ok(UpkeepTask::Differs { text: Some(text) }) => {
                    folder::replace(self.folders.data(), DIFFERS, &text)?;
                }
                Ok(UpkeepTask::Differs { text: None }) => {
                    folder::remove(self.folders.data(), DIFFERS)?;
                }
                Ok(UpkeepTask::FoundRight { slot }) => {
                    let text = found_right_text(slot);
                    // Without it the next life finds out again.
                    if let Err(error) = folder::replace(self.folders.data(), FOUND_RIGHT, &text) {
                        tracing::warn!(%error, "it is not kept that the copied state is right");
                    }
                }
                Ok(UpkeepTask::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if Instant::now() < look_at => self.look_at_disk(),
                Err(RecvTimeoutError::Timeout) => {
                    self.look().map_err(UpkeepError::Map)?;
                    look_at = Instant::now() + LOOK_EVERY;
                }
            }
        }
    }

    /// The mark of a later snapshot stays.
    fn unmark(&self, slot: Slot) -> Result<(), SnapshotError> {
        let store = self.store.get();
        if StateFolders::mark(store.path())? == Some(slot.0) {
            self.folders.remove_mark(store.path())?;
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), MapError> {
        let store = self.store.get();
        // Of a flush or compaction that failed behind our back.
        store.check()?;
        let state = durable_state(&store)?;
        let durable = Slot(state.as_ref().map_or(0, |state| state.applied_slot));
        self.shared.state.set_durable(durable);
        // What went into a damaged state is not there for sure. As long as there is room the
        // journal keeps it, from which others can have it who have no other source any more.
        let kept = self.shared.journal.bytes_on_disk.load(Relaxed);
        let has_room = self.room == Room::Enough && kept <= self.doubted_bytes_max;
        self.shared.journal.is_tight.store(!has_room, Relaxed);
        let is_sure = !has_room || !self.fatal.doubts_state();
        let spare = self.shared.state.spare();
        // Neither may what was spare before the damage was met.
        let changed = if is_sure { durable > spare } else { spare > Slot::ZERO };
        if changed {
            match is_sure {
                true => self.shared.state.set_spare(durable),
                false => self.shared.state.spare_nothing(),
            }
            // The owner ends before this thread only when the node stops.
            let _ = self.reports.send(Report::Spare);
        }
        if durable < self.shared.state.applied() && self.flushed_at.elapsed() >= self.flush_interval
            // When it can't begin now it is due at the next look again.
            && store.flush_begin()?
        {
            self.flushed_at = Instant::now();
        }
        let metrics = store.metrics();
        *self.shared.store.lock().unwrap_or_else(PoisonError::into_inner) = metrics;
        let revisions = state.map(|state| (state.compacted, state.revision)).unwrap_or_default();
        self.compact_if_due(&store, &metrics, revisions);
        drop(store);
        if let Err(error) = self.store.remove_retired() {
            tracing::warn!(%error, "cannot remove the state before the snapshot");
        }
        self.look_at_disk();
        Ok(())
    }

    /// Tells the owner when the disk runs out of room, and when it has some again.
    fn look_at_disk(&mut self) {
        // Without an answer nothing is known, so nothing changes.
        let Ok(disk) = rustix::fs::statvfs(self.folders.data()) else { return };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let reserve = self.disk_reserve_bytes;
        self.may_fill_up = free < reserve.saturating_add(ONE_SECOND_BYTES_MAX);
        let room = room_of(free, reserve, self.room);
        self.drop_aside(room);
        if room == self.room {
            return;
        }
        self.room = room;
        self.shared.is_out_of_room.store(room == Room::Out, Relaxed);
        match room {
            Room::Enough => tracing::info!(free, reserve, "the disk has room again"),
            Room::Low => tracing::warn!(
                free,
                reserve,
                "the disk runs out of room: no journal is kept for others, and another node shall \
                 lead; make room, or values can't be put when it is so on more nodes"
            ),
            Room::Out => tracing::error!(
                free,
                reserve,
                "the disk is almost full: this node takes no more values until there is room"
            ),
        }
        let _ = self.reports.send(Report::Room(room));
    }

    /// What was kept aside of a damaged journal goes when the disk has no room for it.
    fn drop_aside(&self, room: Room) {
        if room == Room::Enough {
            return;
        }
        match Journal::drop_aside(&self.folders.data().join(JOURNAL), 0) {
            Ok(0) => {}
            Ok(files) => tracing::warn!(files, "dropped what was kept aside of a damaged journal"),
            Err(error) => tracing::warn!(%error, "cannot drop what was kept aside of the journal"),
        }
    }

    /// With a state that is compacted up to the first of two revisions, the second being the newest.
    fn compact_if_due(
        &mut self,
        store: &Store,
        metrics: &StoreMetrics,
        revisions: (Revision, Revision),
    ) {
        let (bytes, now) = (metrics.file_bytes, Instant::now());
        if self.store.is_compacting() {
            return;
        }
        self.merges.ended(bytes, now);
        let tombstones = store.tombstones();
        let is_due = tombstones >= TOMBSTONES_MIN.max(metrics.records / 4);
        let may_help = || self.merges.may_help(revisions.0, (tombstones, metrics.records), now);
        let frees_room = || self.room != Room::Enough && may_help() && self.has_room_for(bytes);
        if (is_due || frees_room()) && self.store.compact() {
            self.merges.begun(revisions, tombstones, (bytes, now));
        }
    }

    /// The new files need room before the old ones go.
    fn has_room_for(&self, file_bytes: u64) -> bool {
        // A merge may write the state twice meanwhile, and the journal goes on.
        let needed = 2 * file_bytes + self.disk_reserve_bytes / 8;
        self.folders.free_bytes().is_ok_and(|free| free > needed)
    }
}

/// What so many free bytes mean. To leave a state takes a little more than was needed
/// not to fall into it, so that it does not change all the time.
fn room_of(free: u64, reserve: u64, before: Room) -> Room {
    let is_below = |limit: u64, in_it: bool| {
        free < if in_it { limit.saturating_add(limit / 8) } else { limit }
    };
    if is_below(reserve / 8, before == Room::Out) {
        Room::Out
    } else if is_below(reserve, before != Room::Enough) {
        Room::Low
    } else {
        Room::Enough
    }
}

/// Up to which slot the state survives a crash without the journal.
pub(crate) fn durable_slot(store: &Store) -> Result<Slot, MapError> {
    Ok(Slot(durable_state(store)?.map_or(0, |state| state.applied_slot)))
}

/// The state that survives a crash without the journal; none at the beginning.
fn durable_state(store: &Store) -> Result<Option<State>, MapError> {
    let record = store.persisted(APPLIED_KEY)?;
    record.map(|record| State::decode(&record)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_has_two_limits_which_are_left_later_than_they_were_met() {
        let reserve = 800;
        let rooms = |before| {
            [0, 99, 100, 112, 113, 799, 800, 899, 900, u64::MAX]
                .map(|free| room_of(free, reserve, before))
        };
        use Room::{Enough, Low, Out};
        let from_enough = [Out, Out, Low, Low, Low, Low, Enough, Enough, Enough, Enough];
        let from_low = [Out, Out, Low, Low, Low, Low, Low, Low, Enough, Enough];
        let from_out = [Out, Out, Out, Low, Low, Low, Low, Low, Enough, Enough];
        assert_eq!(rooms(Enough), from_enough);
        assert_eq!(rooms(Low), from_low);
        assert_eq!(rooms(Out), from_out);
        // Without a reserve nothing is ever too little.
        assert_eq!(room_of(0, 0, Enough), Enough);
        assert_eq!(room_of(1, u64::MAX, Out), Out);
    }
}
