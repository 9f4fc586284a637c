//! The sending end: one checkpoint at a time, for whoever asks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use synod_paxos::{NodeId, Slot};
use synod_storage::snapshot::{Checkpoint, SnapshotError, StateFolders};
use synod_wire::snapshot::CHUNK_BYTES_MAX;
use synod_wire::{SnapshotGone, SnapshotMessage};

use super::pace::Pace;
use crate::current::CurrentStore;
use crate::identity::random_id;
use crate::snapshot_settings::SnapshotSettings;

/// A checkpoint that nobody read from for this long is dropped: it keeps files on the
/// disk that the state does not need any more.
const IDLE: Duration = Duration::from_secs(60);
/// The same while the disk is below its reserve. A reader asks again within a second.
const IDLE_ON_LOW_DISK: Duration = Duration::from_secs(10);
/// Questions that wait for their turn. A receiver has two open, so more than this are
/// nobody's, and are dropped: they are asked again.
const WAITING_MAX: usize = 64;

/// A checkpoint and who uses it.
#[derive(Debug)]
struct Made {
    id: u128,
    checkpoint: Checkpoint,
    used_at: Instant,
    /// Nothing at or after this file and offset has left yet.
    sent_upto: (u32, u64),
}

/// A part of a file that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Asked {
    to: NodeId,
    id: u128,
    file: u32,
    offset: u64,
    bytes_max: u32,
}

/// What `/v1/status` tells of it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct SourceProgress {
    /// The slot of the checkpoint that is kept.
    pub(crate) slot: Option<Slot>,
    pub(crate) sent_bytes: u64,
}

/// The sending end.
#[derive(Debug)]
pub(crate) struct Source {
    folders: StateFolders,
    store: Arc<CurrentStore>,
    made: Option<Made>,
    pace: Pace,
    pub(super) disk_reserve_bytes: u64,
    /// The state may be a damaged one: nobody gets it any more.
    is_refusing: bool,
    waiting: VecDeque<Asked>,
    out: Vec<(NodeId, SnapshotMessage)>,
    progress: Option<Slot>,
    sent_bytes: u64,
}

impl Source {
    pub(crate) fn new(
        folders: StateFolders,
        store: Arc<CurrentStore>,
        settings: &SnapshotSettings,
        now: Instant,
    ) -> Self {
        Source {
            folders,
            store,
            made: None,
            pace: Pace::new(settings.rate_bytes_per_s, now),
            disk_reserve_bytes: settings.disk_reserve_bytes,
            is_refusing: false,
            waiting: VecDeque::new(),
            out: Vec::new(),
            progress: None,
            sent_bytes: 0,
        }
    }

    /// A peer wants a state above a slot. Its own journal holds what follows
    /// `truncated_upto`: a checkpoint from before that would help nobody.
    pub(crate) fn receive_open(
        &mut self,
        from: NodeId,
        fetch: u64,
        above: Slot,
        truncated_upto: Slot,
        now: Instant,
    ) {
        if self.is_refusing {
            tracing::warn!(peer = %from, "the peer gets no state that differs from another's");
            self.gone(from, fetch, 0, SnapshotGone::Failed);
            return;
        }
        let is_good = |made: &Made| {
            let slot = made.checkpoint.state().applied_slot;
            slot > above.0 && slot >= truncated_upto.0
        };
        if !self.made.as_ref().is_some_and(is_good)
            && let Err(error) = self.make(now)
        {
            tracing::warn!(peer = %from, %error, "cannot make a snapshot for the peer");
            self.gone(from, fetch, 0, SnapshotGone::Failed);
            return;
        }
        let made = self.made.as_mut().expect("there was one, or one was made");
        made.used_at = now;
        let slot = Slot(made.checkpoint.state().applied_slot);
        if slot <= above {
            self.gone(from, fetch, 0, SnapshotGone::NothingAbove);
            return;
        }
        let files = made.checkpoint.files();
        let files = files.iter().map(|file| (file.name.clone(), file.bytes)).collect();
        let manifest = SnapshotMessage::Manifest { fetch, id: made.id, slot, files };
        self.out.push((from, manifest));
    }

    /// A peer wants a part of a file.
    pub(crate) fn receive_read(
        &mut self,
        to: NodeId,
        id: u128,
        file: u32,
        offset: u64,
        bytes_max: u32,
    ) {
        let asked = Asked { to, id, file, offset, bytes_max };
        if self.waiting.len() < WAITING_MAX && !self.waiting.contains(&asked) {
            self.waiting.push_back(asked);
        }
    }

    /// Answers what may be answered by now, and drops what nobody uses.
    ///
    /// # Errors
    /// When it can't be dropped.
    pub(crate) fn look(&mut self, now: Instant) -> Result<(), SnapshotError> {
        while self.pace.is_free(now)
            && let Some(asked) = self.waiting.pop_front()
        {
            self.answer(asked, now);
        }
        let idle = self.made.as_ref().map(|made| now.duration_since(made.used_at));
        let is_low = || self.folders.free_bytes().is_ok_and(|free| free < self.disk_reserve_bytes);
        if idle.is_some_and(|idle| idle >= IDLE || idle >= IDLE_ON_LOW_DISK && is_low()) {
            self.drop_checkpoint()?;
        }
        Ok(())
    }

    /// Whether nobody gets anything for now.
    pub(crate) fn set_refusing(&mut self, is_refusing: bool) {
        self.is_refusing = is_refusing;
    }

    /// The slot of the snapshot, if parts of it have left for the first time since this
    /// was asked last. One that is read again and again tells nothing: what must be kept
    /// for its readers has an end.
    pub(crate) fn take_progress(&mut self) -> Option<Slot> {
        self.progress.take()
    }

    /// When there is something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then(|| self.pace.free_at())
    }

    pub(crate) fn take_out(&mut self) -> Vec<(NodeId, SnapshotMessage)> {
        std::mem::take(&mut self.out)
    }

    pub(crate) fn progress(&self) -> SourceProgress {
        let slot = self.made.as_ref().map(|made| Slot(made.checkpoint.state().applied_slot));
        SourceProgress { slot, sent_bytes: self.sent_bytes }
    }

    /// Nobody gets anything of the checkpoint any more.
    ///
    /// # Errors
    /// When its files can't be removed.
    pub(crate) fn drop_checkpoint(&mut self) -> Result<(), SnapshotError> {
        match self.made.take() {
            Some(made) => made.checkpoint.remove(),
            None => Ok(()),
        }
    }

    fn make(&mut self, now: Instant) -> Result<(), SnapshotError> {
        self.drop_checkpoint()?;
        let id = random_id().map_err(|source| SnapshotError::Io {
            what: "read",
            path: "/dev/urandom".into(),
            source,
        })?;
        // With what an earlier try left there would never be another.
        self.folders.remove_checkpoint()?;
        let checkpoint = self.store.get().checkpoint(&self.folders.checkpoint());
        let checkpoint = checkpoint.inspect_err(|_| {
            // The first error is the one to be told.
            let _ = self.folders.remove_checkpoint();
        })?;
        tracing::info!(
            slot = checkpoint.state().applied_slot,
            bytes = checkpoint.bytes(),
            files = checkpoint.files().len(),
            "made a snapshot for a peer"
        );
        self.progress = Some(Slot(checkpoint.state().applied_slot));
        self.made = Some(Made { id, checkpoint, used_at: now, sent_upto: (0, 0) });
        Ok(())
    }

    fn answer(&mut self, asked: Asked, now: Instant) {
        let Asked { to, id, file, offset, bytes_max } = asked;
        if self.is_refusing {
            self.gone(to, 0, id, SnapshotGone::Failed);
            return;
        }
        let Some(made) = self.made.as_mut().filter(|made| made.id == id) else {
            self.gone(to, 0, id, SnapshotGone::Dropped);
            return;
        };
        made.used_at = now;
        let index = file as usize;
        let bytes_max = (bytes_max as usize).min(CHUNK_BYTES_MAX);
        let part = made.checkpoint.read(index, offset, bytes_max).and_then(|part| match part {
            Some(part) => Ok(Some((part, made.checkpoint.checksum(index)?))),
            None => Ok(None),
        });
        match part {
            Ok(Some((part, file_checksum))) => {
                let upto = (file, offset + part.len() as u64);
                if upto > made.sent_upto {
                    made.sent_upto = upto;
                    self.progress = Some(Slot(made.checkpoint.state().applied_slot));
                }
                self.pace.moved(part.len(), now);
                self.sent_bytes += part.len() as u64;
                let checksum = crc32c::crc32c(&part);
                let bytes = Bytes::from(part);
                let chunk =
                    SnapshotMessage::Chunk { id, file, offset, checksum, file_checksum, bytes };
                self.out.push((to, chunk));
            }
            Ok(None) => self.gone(to, 0, id, SnapshotGone::Failed),
            Err(error) => {
                tracing::warn!(peer = %to, %error, "cannot read a snapshot for the peer");
                self.gone(to, 0, id, SnapshotGone::Failed);
            }
        }
    }

    fn gone(&mut self, to: NodeId, fetch: u64, id: u128, reason: SnapshotGone) {
        self.out.push((to, SnapshotMessage::Gone { fetch, id, reason }));
    }
}
