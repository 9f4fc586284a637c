//! What came in, on its way to the owner.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use synod_paxos::NodeId;
use synod_wire::{Lane, PeerMessage};
use tokio::sync::Notify;

/// One thing that the owner should know.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are messages")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IncomingEvent {
    /// A peer's message.
    Message {
        /// The sender, as its handshake proved it.
        from: NodeId,
        /// The message.
        message: PeerMessage,
    },
    /// There is evidence that the peer's process is gone: a connection was closed
    /// and nothing listens there any more. Told once per closed connection.
    PeerDied(NodeId),
    /// Our lane to the peer stands; what is sent on it from now on may arrive, and
    /// what was sent on it before is lost.
    Connected {
        /// The peer.
        node: NodeId,
        /// The lane.
        lane: Lane,
    },
    /// Our control lane to the peer stands no longer.
    Disconnected(NodeId),
    /// A peer refuses this node as one that is a member no more, durably by the
    /// configuration of this number; see [`crate::Removed`]. Told at each attempt.
    Dismissed {
        /// The peer.
        by: NodeId,
        /// The number of the configuration.
        number: u64,
        /// How many of its voters have to say so.
        witnesses: u32,
    },
    /// A peer refuses this node because its data folder went back in time, or is in use twice:
    /// it has stated more before, or the same life or a later one was another process's. Told
    /// at each attempt.
    Barred {
        /// The peer.
        by: NodeId,
        /// What it says, and what to do.
        text: String,
        /// The folder went back, and no later life of it may be let in either. Of two processes
        /// on one folder the next start tells which may stay.
        for_good: bool,
    },
    /// First contact: from now on the peer is only accepted with this store id. To
    /// be kept, and given to the next life as a [`crate::Pin`].
    Pinned {
        /// The peer.
        node: NodeId,
        /// Its store id.
        store: u128,
    },
}

/// The owner's end.
#[derive(Debug)]
pub struct Incoming {
    inbox: Rc<Inbox>,
}

impl Incoming {
    pub(crate) fn new(inbox: Rc<Inbox>) -> Self {
        Incoming { inbox }
    }

    /// Waits until something is there, then appends all of it to `batch`. May be
    /// cancelled without losing anything.
    pub async fn recv_batch(&mut self, batch: &mut Vec<IncomingEvent>) {
        while !self.try_recv_batch(batch) {
            self.inbox.filled.notified().await;
        }
    }

    /// Appends everything that is there to `batch`; false if that is nothing.
    pub fn try_recv_batch(&mut self, batch: &mut Vec<IncomingEvent>) -> bool {
        self.inbox.take(batch)
    }
}

/// Events that wait for the owner.
#[derive(Debug)]
pub(crate) struct Inbox {
    events: RefCell<Vec<IncomingEvent>>,
    bytes: Cell<usize>,
    bytes_max: usize,
    filled: Notify,
    drained: Notify,
}

impl Inbox {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Inbox {
            events: RefCell::default(),
            bytes: Cell::new(0),
            bytes_max,
            filled: Notify::new(),
            drained: Notify::new(),
        }
    }

    /// Tells the owner of something that is not a message, and so is rare.
    pub(crate) fn push(&self, event: IncomingEvent) {
        self.events.borrow_mut().push(event);
        self.filled.notify_one();
    }

    /// Hands over messages that took `bytes` on the wire. Whoever receives waits for
    /// [`Inbox::room`] first, so the bound is passed by one read at the most.
    pub(crate) fn push_messages(&self, messages: &mut Vec<IncomingEvent>, bytes: usize) {
        if messages.is_empty() {
            return;
        }
        self.events.borrow_mut().append(messages);
        self.bytes.set(self.bytes.get() + bytes);
        self.filled.notify_one();
    }

    /// Waits until a lane may be read. Bulk gives way to control early, so that it
    /// never fills the room that votes need.
    pub(crate) async fn room(&self, lane: Lane) {
        let bytes_max = match lane {
            Lane::Control => self.bytes_max,
            Lane::Bulk => self.bytes_max / 2,
        };
        while self.bytes.get() >= bytes_max {
            self.drained.notified().await;
        }
    }

    fn take(&self, batch: &mut Vec<IncomingEvent>) -> bool {
        let mut events = self.events.borrow_mut();
        if events.is_empty() {
            return false;
        }
        batch.append(&mut events);
        if self.bytes.replace(0) > 0 {
            self.drained.notify_waiters();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> IncomingEvent {
        IncomingEvent::PeerDied(NodeId(1))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn bulk_gives_way_before_control_does() {
        let inbox = Rc::new(Inbox::new(100));
        let mut incoming = Incoming::new(inbox.clone());
        inbox.push_messages(&mut vec![message()], 60);
        inbox.room(Lane::Control).await;
        let mut bulk = Box::pin(inbox.room(Lane::Bulk));
        assert!(
            std::future::poll_fn(|cx| std::task::Poll::Ready(bulk.as_mut().poll(cx)))
                .await
                .is_pending()
        );
        let mut batch = Vec::new();
        incoming.recv_batch(&mut batch).await;
        assert_eq!(batch, [message()]);
        bulk.await;
        assert!(!incoming.try_recv_batch(&mut batch));
    }
}
