//! The owner's handle.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use synod_paxos::{Message, NodeId};
use synod_wire::frame::{FRAME_BYTES_MAX, body_bytes_for};
use synod_wire::{Lane, PeerMessage, version};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use crate::incoming::{Inbox, Incoming};
use crate::lane_queue::Queued;
use crate::metrics::{PeerMetrics, TransportMetrics};
use crate::peer::{Peer, Shared};
use crate::settings::{PeerAddress, Pin, Removed, TransportSettings};
use crate::{accept, dial};

/// Sends envelopes to peers. Dropping it closes everything.
#[derive(Debug)]
pub struct Transport {
    shared: Rc<Shared>,
    dials: Vec<(NodeId, JoinHandle<()>)>,
    listener: Option<JoinHandle<()>>,
}

impl Transport {
    /// Starts to dial the peers and to accept them on `listener`, which the caller
    /// opened before anything else and which closes last.
    ///
    /// # Errors
    /// When `listener` cannot be used on this runtime.
    ///
    /// # Panics
    /// Outside of a `LocalSet` (or local runtime) with its IO and time enabled, and
    /// when the peers name this node, or one node twice.
    pub fn start(
        settings: TransportSettings,
        listener: std::net::TcpListener,
    ) -> io::Result<(Transport, Incoming)> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let own = settings.own.node;
        let shared = Rc::new(Shared::new(settings));
        let nodes: Vec<NodeId> = shared.peers().iter().map(|peer| peer.node).collect();
        assert!(!nodes.contains(&own), "{own} is its own peer");
        assert!(nodes.windows(2).all(|pair| pair[0] < pair[1]), "a peer stands twice: {nodes:?}");

        let incoming = Incoming::new(Rc::<Inbox>::clone(&shared.inbox));
        let listener = Some(spawn_local(accept::run(shared.clone(), listener)));
        let mut transport = Transport { shared, dials: Vec::new(), listener };
        for peer in transport.shared.peers() {
            transport.dial(&peer);
        }
        Ok((transport, incoming))
    }

    /// From now on these are the peers, and these their stores: new ones are dialled, one
    /// that moved keeps its connections until it answers at its new address, and what is no peer any more is forgotten
    /// with its connections. A store that is not named here is trusted at first contact.
    ///
    /// # Panics
    /// When the peers name this node. Of two with the same id the last one counts.
    pub fn set_peers(&mut self, peers: &[PeerAddress], stores: &[Pin]) {
        let own = self.shared.facts.node;
        assert!(peers.iter().all(|peer| peer.node != own), "{own} is its own peer");
        for gone in self.shared.peers() {
            if peers.iter().all(|peer| peer.node != gone.node) {
                tracing::info!(peer = %gone.node, "no peer any more");
                self.hang_up(gone.node);
                self.shared.remove_peer(gone.node);
            }
        }
        for address in peers {
            let node = address.node;
            let (peer, is_new) = match self.shared.peer(node) {
                Some(peer) => (peer, false),
                None => (self.shared.add_peer(address.clone()), true),
            };
            if let Some(pin) = stores.iter().find(|pin| pin.node == node) {
                peer.set_store(pin.store);
            }
            let at = &address.address;
            if is_new {
                tracing::info!(peer = %node, address = at, "dialling a peer");
                self.dial(&peer);
            } else if peer.set_address(at) {
                tracing::info!(
                    peer = %node, address = at,
                    "a peer moves; where it was counts until it answers at its new address"
                );
            }
        }
    }

    /// What a node is told that is no peer: without this, that it is unknown.
    pub fn set_removed(&self, removed: Option<Removed>) {
        self.shared.removed.set(removed);
    }

    fn dial(&mut self, peer: &Rc<Peer>) {
        for lane in [Lane::Control, Lane::Bulk] {
            let task = spawn_local(dial::run(self.shared.clone(), peer.clone(), lane));
            self.dials.push((peer.node, task));
        }
    }

    fn hang_up(&mut self, node: NodeId) {
        self.dials.retain(|(of, dial)| {
            if *of == node {
                dial.abort();
            }
            *of != node
        });
    }

    /// Sends a message, or drops it and counts that: when `to` is no peer, when the lane
    /// is not connected, when its queue is full, when the message is longer than a frame.
    /// Returns at once; the bytes leave when the caller's task yields.
    pub fn send(&self, to: NodeId, message: &PeerMessage) {
        let Some(peer) = self.shared.peer(to) else {
            // The members have just changed.
            self.shared.count(|metrics| metrics.frames_dropped_no_peer += 1);
            return;
        };
        let version = peer.version();
        let body_bytes = body_bytes_for(version, message);
        if body_bytes > FRAME_BYTES_MAX {
            peer.count(|metrics| metrics.frames_dropped_oversize += 1);
            tracing::warn!(peer = %to, body_bytes, "a message is too long to be sent");
            return;
        }
        let queued = peer.queue(self.lane(message, body_bytes)).push(message, version, body_bytes);
        peer.count(|metrics| match queued {
            Queued::Waits => {}
            Queued::InsteadOf(dropped) => metrics.frames_dropped_full += dropped,
            Queued::Full => metrics.frames_dropped_full += 1,
            Queued::Unconnected => metrics.frames_dropped_unconnected += 1,
        });
    }

    /// Catch-up never waits for anybody's vote, nor anybody's vote for it; a long
    /// message goes the same way. So do all commands: those of one node count only in
    /// their order, which two lanes would not keep, and what does not fit into the
    /// queue must be the newest.
    fn lane(&self, message: &PeerMessage, body_bytes: usize) -> Lane {
        let may_be_long = match message {
            PeerMessage::Forward(_)
            | PeerMessage::Snapshot(_)
            | PeerMessage::Paxos(Message::Chosen(_)) => return Lane::Bulk,
            PeerMessage::Paxos(Message::Accept(_) | Message::Promise(_)) => true,
            PeerMessage::Paxos(_) => false,
        };
        if may_be_long && body_bytes > self.shared.limits.control_message_bytes_max {
            Lane::Bulk
        } else {
            Lane::Control
        }
    }

    /// The newest version that this node and every peer know, by what they said last; the
    /// oldest one as long as a peer was never met.
    #[must_use]
    pub fn known_to_all(&self) -> u32 {
        let peers = self.shared.peers();
        version::known_to_all(self.shared.versions.newest, peers.iter().map(|peer| peer.knows()))
    }

    /// Counters of each peer, in the order of the node ids.
    #[must_use]
    pub fn peer_metrics(&self) -> Vec<PeerMetrics> {
        self.shared.peers().iter().map(|peer| peer.metrics()).collect()
    }

    /// Counters of the listener.
    #[must_use]
    pub fn metrics(&self) -> TransportMetrics {
        self.shared.metrics.get()
    }

    /// Ends in an orderly way: writes what is queued, for at most `flush_timeout`,
    /// then closes the connections, then the listener.
    pub async fn close(mut self, flush_timeout: Duration) {
        let shared = self.shared.clone();
        let flush = async {
            for peer in shared.peers() {
                for lane in [Lane::Control, Lane::Bulk] {
                    peer.queue(lane).flushed().await;
                }
            }
        };
        // What is not written by then is lost, which messages may be.
        let _ = timeout(flush_timeout, flush).await;
        for (_, dial) in self.dials.drain(..) {
            dial.abort();
            join(dial).await;
        }
        if let Some(listener) = self.listener.take() {
            shared.closing.notify_one();
            join(listener).await;
        }
    }
}

/// Waits for the end of a task; a panic in it goes on here.
async fn join(task: impl Future<Output = Result<(), tokio::task::JoinError>>) {
    if let Err(error) = task.await
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.dials.iter().for_each(|(_, dial)| dial.abort());
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}
