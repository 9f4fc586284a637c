//! The receiving end: it asks for every part of every file, in order, at its own pace.
//!
//! Two parts are asked for at a time. One that does not come is asked for again; when
//! nothing comes for long, or very little, the peer has failed, but what is here stays: if the same
//! snapshot is offered again, it goes on where it was.

use std::time::{Duration, Instant};

use synod_paxos::{NodeId, Slot};
use synod_storage::snapshot::{Arrival, SnapshotError, SnapshotFile, StateFolders, Verified};
use synod_wire::snapshot::CHUNK_BYTES_MAX;
use synod_wire::{SnapshotGone, SnapshotMessage};

use super::pace::{LeastRate, Pace};
use crate::identity::random_id;
use crate::snapshot_settings::SnapshotSettings;

/// Parts that are asked for at a time.
const ASKS_MAX: usize = 2;
/// An answer that took longer is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A peer that gave nothing for this long has failed. To make a snapshot takes a flush.
const GIVE_UP: Duration = Duration::from_secs(15);
/// What came of a snapshot is kept for so long after its peer has failed.
const KEEP: Duration = Duration::from_secs(10 * 60);
/// Between a failure and the report of it: the next try must not follow at once.
const FAILURE_PAUSE: Duration = Duration::from_millis(500);
/// A snapshot may be dropped by its sender and made anew this often during one fetch.
const OPENED_MAX: u32 = 4;

/// What the fetch wants done.
#[derive(Debug)]
pub(crate) enum FetchOut {
    Send {
        to: NodeId,
        message: SnapshotMessage,
    },
    Failed {
        from: NodeId,
        reason: String,
    },
    /// It is here and checked.
    Arrived {
        from: NodeId,
        verified: Verified,
    },
    /// What came may not be on the disk: the node must stop.
    Unsynced(SnapshotError),
}

/// What `/v1/status` tells of it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct FetchProgress {
    /// Whom the snapshot comes from and of which slot it is.
    pub(crate) coming: Option<(NodeId, Slot)>,
    pub(crate) bytes: u64,
    pub(crate) bytes_total: u64,
    /// Since the node began.
    pub(crate) received_bytes: u64,
    pub(crate) failures: u64,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Fetch {
    folders: StateFolders,
    settings: SnapshotSettings,
    phase: Phase,
    /// What a fetch that failed left; only the same snapshot can use it.
    kept: Option<Pull>,
    pace: Pace,
    last_fetch: u64,
    out: Vec<FetchOut>,
    received_bytes: u64,
    failures: u64,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Opening(Opening),
    Pulling(Pull),
    /// All files are here. Checking them takes long, so what is to be sent goes first.
    Complete(Pull),
    /// It failed, which is reported a little later.
    Failing {
        from: NodeId,
        reason: String,
        at: Instant,
    },
}

#[derive(Clone, Copy, Debug)]
struct Opening {
    from: NodeId,
    above: Slot,
    fetch: u64,
    opened: u32,
    begun_at: Instant,
    asked_at: Option<Instant>,
}

/// A snapshot that is coming.
#[derive(Debug)]
struct Pull {
    opening: Opening,
    id: u128,
    arrival: Arrival,
    /// The file that is coming, and from where on nothing of it was asked for.
    file: usize,
    next_offset: u64,
    asked: Vec<Ask>,
    /// Of the file, as the sender says.
    checksum: u32,
    /// The file came once and was not what was sent.
    is_second_try: bool,
    bytes_done: u64,
    heard_at: Instant,
    least: LeastRate,
}

#[derive(Clone, Copy, Debug)]
struct Ask {
    offset: u64,
    bytes: usize,
    asked_at: Instant,
    /// It came once and did not fit its checksum.
    is_second_try: bool,
}

impl Fetch {
    pub(crate) fn new(folders: StateFolders, settings: SnapshotSettings, now: Instant) -> Self {
        // A number that an earlier life did not use for sure.
        let last_fetch = random_id().map_or(1, |id| u64::try_from(id >> 65).unwrap_or(1));
        Fetch {
            folders,
            pace: Pace::new(settings.rate_bytes_per_s, now),
            settings,
            phase: Phase::Idle,
            kept: None,
            last_fetch,
            out: Vec::new(),
            received_bytes: 0,
            failures: 0,
        }
    }

    /// Brings the state of this peer, if it is above the slot. What was under way
    /// before has ended.
    pub(crate) fn begin(&mut self, from: NodeId, above: Slot, now: Instant) {
        if let Phase::Pulling(pull) | Phase::Complete(pull) =
            std::mem::replace(&mut self.phase, Phase::Idle)
        {
            self.kept = Some(pull);
        }
        tracing::info!(peer = %from, %above, "fetching a snapshot");
        self.open(from, above, 1, now);
    }

    /// A peer's answer.
    pub(crate) fn receive(&mut self, from: NodeId, answer: SnapshotMessage, now: Instant) {
        match (std::mem::replace(&mut self.phase, Phase::Idle), answer) {
            (Phase::Opening(opening), SnapshotMessage::Manifest { fetch, id, slot, files })
                if opening.from == from && opening.fetch == fetch =>
            {
                let files = files.into_iter();
                let files = files.map(|(name, bytes)| SnapshotFile { name, bytes }).collect();
                self.receive_manifest(opening, id, slot, files, now);
            }
            (Phase::Opening(opening), SnapshotMessage::Gone { fetch, reason, .. })
                if opening.from == from && opening.fetch == fetch =>
            {
                self.fail(from, none_text(reason), now);
            }
            (Phase::Pulling(pull), SnapshotMessage::Chunk { id, file, .. })
                if (pull.opening.from, pull.id, pull.file) != (from, id, file as usize) =>
            {
                self.phase = Phase::Pulling(pull);
            }
            (
                Phase::Pulling(pull),
                SnapshotMessage::Chunk { offset, checksum, file_checksum, bytes, .. },
            ) => {
                let fits = crc32c::crc32c(&bytes) == checksum;
                self.receive_chunk(pull, offset, fits.then_some(&bytes[..]), file_checksum, now);
            }
            (Phase::Pulling(pull), SnapshotMessage::Gone { id, reason, .. })
                if (pull.opening.from, pull.id) == (from, id) =>
            {
                self.receive_gone(pull, reason, now);
            }
            // Of an earlier question, or nobody asked.
            (phase, _) => self.phase = phase,
        }
    }

    /// Asks for what is due, again if need be, and gives up what does not come.
    pub(crate) fn look(&mut self, now: Instant) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Opening(mut opening) => {
                if now.duration_since(opening.begun_at) >= GIVE_UP {
                    self.fail(opening.from, "the peer does not answer", now);
                    return;
                }
                if opening.asked_at.is_none_or(|at| now.duration_since(at) >= ASK_AGAIN) {
                    opening.asked_at = Some(now);
                    let Opening { from: to, above, fetch, .. } = opening;
                    let message = SnapshotMessage::Open { fetch, above };
                    self.out.push(FetchOut::Send { to, message });
                }
                self.phase = Phase::Opening(opening);
            }
            Phase::Pulling(mut pull) => match pull.why_given_up(now) {
                Some(reason) => {
                    let from = pull.opening.from;
                    self.kept = Some(pull);
                    self.fail(from, reason, now);
                }
                None => {
                    self.ask(&mut pull, now);
                    self.phase = Phase::Pulling(pull);
                }
            },
            Phase::Failing { from, reason, at } if at <= now => {
                self.out.push(FetchOut::Failed { from, reason });
            }
            phase => self.phase = phase,
        }
        let is_old = |pull: &Pull| now.duration_since(pull.heard_at) >= KEEP;
        if matches!(self.phase, Phase::Idle) && self.kept.take_if(|pull| is_old(pull)).is_some() {
            self.remove_arriving();
        }
    }

    /// When there is something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Idle => None,
            Phase::Opening(opening) => {
                Some(opening.asked_at.map_or(opening.begun_at, |at| at + ASK_AGAIN))
            }
            Phase::Pulling(pull) => {
                let again = pull.asked.iter().map(|ask| ask.asked_at + ASK_AGAIN).min();
                let has_room = pull.asked.len() < ASKS_MAX && pull.next_offset < pull.file_bytes();
                let next = has_room.then(|| self.pace.free_at());
                again.into_iter().chain(next).min()
            }
            Phase::Complete(pull) => Some(pull.heard_at),
            Phase::Failing { at, .. } => Some(*at),
        }
    }

    /// What is to be done. A snapshot that is here as a whole is checked now, for as
    /// long as `go_on` says.
    pub(crate) fn take_out(&mut self, go_on: impl Fn() -> bool) -> Vec<FetchOut> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Complete(pull) => self.verify(pull, go_on),
            phase => self.phase = phase,
        }
        std::mem::take(&mut self.out)
    }

    pub(crate) fn progress(&self) -> FetchProgress {
        let (received_bytes, failures) = (self.received_bytes, self.failures);
        let idle = FetchProgress { received_bytes, failures, ..FetchProgress::default() };
        match &self.phase {
            Phase::Pulling(pull) | Phase::Complete(pull) => FetchProgress {
                coming: Some((pull.opening.from, Slot(pull.arrival.slot()))),
                bytes: pull.bytes_done,
                bytes_total: pull.arrival.bytes(),
                ..idle
            },
            Phase::Opening(opening) => {
                FetchProgress { coming: Some((opening.from, opening.above)), ..idle }
            }
            Phase::Idle | Phase::Failing { .. } => idle,
        }
    }

    fn open(&mut self, from: NodeId, above: Slot, opened: u32, now: Instant) {
        self.last_fetch += 1;
        let fetch = self.last_fetch;
        let opening = Opening { from, above, fetch, opened, begun_at: now, asked_at: None };
        self.phase = Phase::Opening(opening);
    }

    fn receive_manifest(
        &mut self,
        opening: Opening,
        id: u128,
        slot: Slot,
        files: Vec<SnapshotFile>,
        now: Instant,
    ) {
        if slot <= opening.above {
            self.fail(opening.from, "the peer offers an older one", now);
            return;
        }
        let is_same = |pull: &Pull| {
            pull.opening.from == opening.from
                && (pull.id, pull.arrival.slot()) == (id, slot.0)
                && pull.arrival.files() == files
        };
        if let Some(mut pull) = self.kept.take()
            && is_same(&pull)
        {
            tracing::info!(peer = %opening.from, bytes = pull.bytes_done, "going on with a snapshot");
            // What was asked for and did not come is asked for at once.
            for ask in &mut pull.asked {
                ask.asked_at = now.checked_sub(ASK_AGAIN).unwrap_or(now);
            }
            let least = LeastRate::new(self.settings.rate_bytes_per_s, now);
            self.phase = Phase::Pulling(Pull { opening, heard_at: now, least, ..pull });
            return;
        }
        match Arrival::begin(&self.folders, slot.0, files, self.settings.disk_reserve_bytes) {
            Ok(arrival) => {
                let (bytes, files) = (arrival.bytes(), arrival.files().len());
                tracing::info!(peer = %opening.from, %slot, bytes, files, "a snapshot is coming");
                self.phase = Phase::Pulling(Pull {
                    opening,
                    id,
                    arrival,
                    file: 0,
                    next_offset: 0,
                    asked: Vec::new(),
                    checksum: 0,
                    is_second_try: false,
                    bytes_done: 0,
                    heard_at: now,
                    least: LeastRate::new(self.settings.rate_bytes_per_s, now),
                });
            }
            Err(error) => self.fail_by(opening.from, error, now),
        }
    }

    /// A part came; none when it does not fit its checksum.
    fn receive_chunk(
        &mut self,
        mut pull: Pull,
        offset: u64,
        part: Option<&[u8]>,
        file_checksum: u32,
        now: Instant,
    ) {
        let from = pull.opening.from;
        let Some(place) = pull.asked.iter().position(|ask| ask.offset == offset) else {
            // It was asked for twice.
            self.phase = Phase::Pulling(pull);
            return;
        };
        let ask = &mut pull.asked[place];
        let Some(part) = part.filter(|part| part.len() == ask.bytes) else {
            if ask.is_second_try {
                self.fail(from, "a part of it came damaged twice", now);
                return;
            }
            tracing::warn!(peer = %from, "a part of a snapshot came damaged: asking again");
            ask.is_second_try = true;
            ask.asked_at = now.checked_sub(ASK_AGAIN).unwrap_or(now);
            self.phase = Phase::Pulling(pull);
            return;
        };
        pull.asked.swap_remove(place);
        pull.heard_at = now;
        pull.least.came(part.len());
        pull.checksum = file_checksum;
        pull.bytes_done += part.len() as u64;
        self.received_bytes += part.len() as u64;
        let written = pull.arrival.write(pull.file, offset, part);
        match written.and_then(|()| pull.finish_files()) {
            Ok(true) => self.phase = Phase::Complete(pull),
            Ok(false) => self.phase = Phase::Pulling(pull),
            Err(error) => self.fail_by(from, error, now),
        }
    }

    fn receive_gone(&mut self, pull: Pull, reason: SnapshotGone, now: Instant) {
        let Opening { from, above, opened, .. } = pull.opening;
        if reason == SnapshotGone::Dropped && opened < OPENED_MAX {
            tracing::info!(peer = %from, "the peer dropped its snapshot: asking for another");
            self.open(from, above, opened + 1, now);
        } else {
            self.fail(from, &format!("the peer has it no more: {reason:?}"), now);
        }
    }

    /// Asks for the parts that come next, as the pace allows.
    fn ask(&mut self, pull: &mut Pull, now: Instant) {
        let (to, id, file) = (pull.opening.from, pull.id, pull.file);
        // There are far fewer files than that.
        let file = u32::try_from(file).unwrap_or(u32::MAX);
        let read = |ask: &Ask| {
            let bytes_max = u32::try_from(ask.bytes).expect("a part is small");
            let message = SnapshotMessage::Read { id, file, offset: ask.offset, bytes_max };
            FetchOut::Send { to, message }
        };
        for ask in &mut pull.asked {
            if now.duration_since(ask.asked_at) >= ASK_AGAIN {
                ask.asked_at = now;
                self.out.push(read(ask));
            }
        }
        while pull.asked.len() < ASKS_MAX && self.pace.is_free(now) {
            let left = pull.file_bytes() - pull.next_offset;
            if left == 0 {
                break;
            }
            let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES_MAX);
            let offset = pull.next_offset;
            let ask = Ask { offset, bytes, asked_at: now, is_second_try: false };
            self.pace.moved(bytes, now);
            pull.next_offset += bytes as u64;
            self.out.push(read(&ask));
            pull.asked.push(ask);
        }
    }

    fn verify(&mut self, pull: Pull, go_on: impl Fn() -> bool) {
        let from = pull.opening.from;
        let begun = Instant::now();
        match pull.arrival.verify(go_on) {
            Ok(verified) => {
                let slot = verified.state().applied_slot;
                let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(peer = %from, slot, took_ms, "a snapshot is here and checked");
                self.out.push(FetchOut::Arrived { from, verified });
            }
            Err(error) => self.fail_by(from, error, Instant::now()),
        }
    }

    /// What came so far is of no use to anybody.
    fn remove_arriving(&self) {
        if let Err(error) = self.folders.remove_arriving() {
            tracing::warn!(%error, "it stays until the next start");
        }
    }

    fn fail_by(&mut self, from: NodeId, error: SnapshotError, now: Instant) {
        match error {
            SnapshotError::Sync { .. } => self.out.push(FetchOut::Unsynced(error)),
            error => self.fail(from, &error.to_string(), now),
        }
    }

    fn fail(&mut self, from: NodeId, reason: &str, now: Instant) {
        self.failures += 1;
        tracing::warn!(peer = %from, reason, "no snapshot from the peer");
        if self.kept.is_none() {
            self.remove_arriving();
        }
        let reason = reason.to_owned();
        self.phase = Phase::Failing { from, reason, at: now + FAILURE_PAUSE };
    }
}

/// What the peer's answer means.
fn none_text(reason: SnapshotGone) -> &'static str {
    match reason {
        SnapshotGone::NothingAbove => "its state does not go far enough",
        SnapshotGone::Dropped => "it has dropped it",
        SnapshotGone::Failed => {
            "it can make none, or gives it to nobody because it differs from another's: its log \
             tells why"
        }
    }
}

impl Pull {
    /// Why the peer has failed, if it has.
    fn why_given_up(&mut self, now: Instant) -> Option<&'static str> {
        if now.duration_since(self.heard_at) >= GIVE_UP {
            return Some("the peer sends nothing any more");
        }
        self.least.is_too_low(now).then_some("the peer sends next to nothing")
    }

    fn file_bytes(&self) -> u64 {
        self.arrival.files().get(self.file).map_or(0, |file| file.bytes)
    }

    /// Ends the file if all of it is here, and those after it that are empty. Says
    /// whether that was the last one.
    fn finish_files(&mut self) -> Result<bool, SnapshotError> {
        while self.asked.is_empty() && self.next_offset == self.file_bytes() {
            let bytes = self.file_bytes();
            let checksum = if bytes == 0 { 0 } else { self.checksum };
            match self.arrival.finish_file(self.file, checksum) {
                Ok(()) => self.is_second_try = false,
                Err(SnapshotError::Damaged(reason)) if !self.is_second_try => {
                    tracing::warn!(reason, "asking for a file of a snapshot again");
                    self.is_second_try = true;
                    self.bytes_done -= bytes;
                    self.next_offset = 0;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
            self.next_offset = 0;
            self.file += 1;
            if self.file == self.arrival.files().len() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
