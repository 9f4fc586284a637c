//! One watch: handed what happens, or reading by itself what it missed.

use std::sync::Arc;
use std::task::{Context as Task, Poll};

use synod_kv::Revision;
use synod_kv::read::{ChangePage, ChangePoint, ChangeQuery, ReadError};

use crate::watch::hub::{Hub, VISITS_MAX, Watch};
use crate::watch::index::Range;
use crate::watch::queue::{Item, Mode};

/// A watch, which is open as long as this lives.
#[derive(Debug)]
pub(crate) struct Follower {
    hub: Arc<Hub>,
    watch: Arc<Watch>,
}

/// What a watch can do next.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Tell these.
    Items(Vec<Item>),
    /// Read.
    Read,
    /// End: the node stops.
    Stop,
}

impl Follower {
    /// Follows the keys of a range from here on.
    pub(crate) fn open(hub: &Arc<Hub>, range: Range, previous: bool, at: ChangePoint) -> Self {
        Self { hub: Arc::clone(hub), watch: hub.open(range, previous, at) }
    }

    /// What to do next: when nothing can be done the task is woken when something can. About
    /// so many bytes of items are taken.
    pub(crate) fn poll_turn(&self, task: &Task<'_>, bytes_max: usize) -> Poll<Turn> {
        let mut queue = self.watch.queue();
        if queue.is_stopping {
            return Poll::Ready(Turn::Stop);
        }
        let items = queue.take(bytes_max);
        if !items.is_empty() {
            return Poll::Ready(Turn::Items(items));
        }
        match queue.mode {
            Mode::Behind(_) => Poll::Ready(Turn::Read),
            Mode::Live(_) => {
                queue.waker = Some(task.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Reads the next page, of about so many bytes, if this watch reads by itself.
    ///
    /// # Errors
    /// When the page is compacted, or the state can't be read.
    pub(crate) fn read(
        &self,
        bytes_max: usize,
        read: impl FnOnce(&ChangeQuery) -> Result<ChangePage, ReadError>,
    ) -> Result<ChangePage, ReadError> {
        let from = self.point();
        let Range { start, end } = self.watch.range.clone();
        let query = ChangeQuery {
            from,
            start,
            end,
            to: None,
            want_previous: self.watch.previous,
            bytes_max,
            visits_max: VISITS_MAX,
        };
        let page = read(&query)?;
        self.watch.queue().mode = Mode::Behind(page.next);
        Ok(page)
    }

    /// Where it would read next.
    fn point(&self) -> ChangePoint {
        match self.watch.queue().mode {
            Mode::Behind(at) => at,
            Mode::Live(_) => unreachable!("who is handed what happens does not read"),
        }
    }

    /// Asks to be handed what happens from now on. To be called when there was nothing more
    /// to be read. False if there is more by now.
    pub(crate) fn join(&self) -> bool {
        self.hub.join(&self.watch)
    }

    /// Reads by itself again, from here on.
    pub(crate) fn leave(&self, at: ChangePoint) {
        self.hub.leave(&self.watch, at);
    }

    /// Up to which revision everything was told; none while there is something to be told.
    pub(crate) fn progress(&self) -> Option<Revision> {
        self.hub.progress(&self.watch)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.hub.close(&self.watch);
    }
}
