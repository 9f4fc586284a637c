//! How much may wait at a time. What does not fit is refused before anything of it
//! is queued or held in memory.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::limits::Limits;
use crate::problem::{Kind, Problem};

/// Bodies are counted in pages, for a semaphore counts no further than 2^29.
const PAGE_BYTES: usize = 1024;

/// The places for waiting requests.
#[derive(Debug)]
pub(crate) struct Admission {
    writes: Semaphore,
    reads: Semaphore,
    body_pages: Semaphore,
    answer_pages: Arc<Semaphore>,
    answer_pages_max: usize,
    streams: Arc<Semaphore>,
    batches: Arc<Semaphore>,
    batch_pages: Arc<Semaphore>,
    batch_pages_max: usize,
    watches: Arc<Semaphore>,
    lock_waits: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    connections_max: u32,
    farewells: Arc<Semaphore>,
}

/// Connections beyond the limit that are kept open until their client has read why
/// it is turned away.
const FAREWELLS_MAX: usize = 64;

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Self {
        let connections_max = limits.connections_max.clamp(1, 1 << 20);
        // However many watches there are, other calls find a connection.
        let watches_max = limits.watches_max.min(connections_max - connections_max / 8);
        let answer_pages_max = (limits.answers_bytes_max / PAGE_BYTES).clamp(1, 1 << 28);
        let batch_pages_max = (limits.bodies_bytes_max / 2 / PAGE_BYTES).clamp(1, 1 << 28);
        Self {
            batches: Arc::new(Semaphore::new(limits.batches_max)),
            batch_pages: Arc::new(Semaphore::new(batch_pages_max)),
            batch_pages_max,
            answer_pages: Arc::new(Semaphore::new(answer_pages_max)),
            answer_pages_max,
            writes: Semaphore::new(limits.writes_in_flight_max),
            reads: Semaphore::new(limits.reads_in_flight_max),
            body_pages: Semaphore::new(limits.bodies_bytes_max / PAGE_BYTES),
            lock_waits: Arc::new(Semaphore::new(limits.lock_waits_max)),
            streams: Arc::new(Semaphore::new(limits.list_streams_max)),
            watches: Arc::new(Semaphore::new(watches_max)),
            connections: Arc::new(Semaphore::new(connections_max)),
            connections_max: u32::try_from(connections_max).unwrap_or(u32::MAX),
            farewells: Arc::new(Semaphore::new(FAREWELLS_MAX)),
        }
    }

    /// A place for a write.
    ///
    /// # Errors
    /// When all are taken.
    pub(crate) fn write(&self) -> Result<SemaphorePermit<'_>, Problem> {
        self.writes.try_acquire().map_err(|_| overloaded("writes"))
    }

    /// A place for a read that waits.
    ///
    /// # Errors
    /// When all are taken.
    pub(crate) fn read(&self) -> Result<SemaphorePermit<'_>, Problem> {
        self.reads.try_acquire().map_err(|_| overloaded("reads"))
    }

    /// Room for a body of at most `bytes`.
    ///
    /// # Errors
    /// When there is not so much left.
    pub(crate) fn body(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Problem> {
        let pages = u32::try_from(bytes.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX);
        self.body_pages.try_acquire_many(pages).map_err(|_| overloaded("request bodies"))
    }

    /// Room for an answer of so many bytes. One that is larger than all the room
    /// takes all of it.
    ///
    /// # Errors
    /// When there is not so much left.
    pub(crate) fn answer(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let pages = bytes.div_ceil(PAGE_BYTES).min(self.answer_pages_max);
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        Arc::clone(&self.answer_pages)
            .try_acquire_many_owned(pages)
            .map_err(|_| overloaded("large answers"))
    }

    /// A place for a call that waits for a lock.
    ///
    /// # Errors
    /// When all are taken.
    pub(crate) fn lock_wait(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let place = Arc::clone(&self.lock_waits).try_acquire_owned();
        place.map_err(|_| overloaded("calls for a lock"))
    }

    /// A place for a streamed listing, or a count.
    ///
    /// # Errors
    /// When all are taken.
    pub(crate) fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| overloaded("streamed listings and counts"))
    }

    /// A place for a batch, and room for what it holds at a time.
    ///
    /// # Errors
    /// When all are taken.
    pub(crate) fn batch(&self, bytes: usize) -> Result<[OwnedSemaphorePermit; 2], Problem> {
        let pages = bytes.div_ceil(PAGE_BYTES).min(self.batch_pages_max);
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.batches).try_acquire_owned();
        let room = Arc::clone(&self.batch_pages).try_acquire_many_owned(pages);
        match (place, room) {
            (Ok(place), Ok(room)) => Ok([place, room]),
            _ => Err(overloaded("batches")),
        }
    }

    /// A place for a watch.
    ///
    /// # Errors
    /// When all are taken.
    pub(crate) fn watch(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.watches).try_acquire_owned().map_err(|_| overloaded("watches"))
    }

    /// A place for a connection; none when all are taken.
    pub(crate) fn connection(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }

    /// A place for a connection that is turned away; none when all are taken.
    pub(crate) fn farewell(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.farewells).try_acquire_owned().ok()
    }

    /// Connections that are open now.
    pub(crate) fn connections_open(&self) -> u32 {
        let free = u32::try_from(self.connections.available_permits()).unwrap_or(u32::MAX);
        self.connections_max.saturating_sub(free)
    }

    /// Waits until no connection is open.
    pub(crate) async fn all_connections_closed(&self) {
        // It fails when the semaphore is closed, which nobody does.
        let _ = self.connections.acquire_many(self.connections_max).await;
    }
}

fn overloaded(what: &str) -> Problem {
    Problem::new(
        Kind::Overloaded,
        format!("Too many {what} wait at this node already. Try again, or ask another node."),
    )
}
