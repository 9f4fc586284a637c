//! What the tasks of one peer share, and what all of them share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use synod_paxos::{Message, NodeId};
use synod_wire::{
    Admitted, Facts, Lane, Member, PeerMessage, Refusal, RefusalReason, Versions, version,
};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::addresses::Addresses;
use crate::admission::check_founding;
use crate::grumble::Grumble;
use crate::incoming::{Inbox, IncomingEvent};
use crate::lane_queue::LaneQueue;
use crate::metrics::{PeerMetrics, TransportMetrics};
use crate::settings::{Limits, PeerAddress, Removed, TransportSettings};

/// What all tasks of a transport share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) facts: Facts,
    /// What this node speaks.
    pub(crate) versions: Versions,
    pub(crate) limits: Limits,
    /// In the order of their node ids.
    peers: RefCell<Vec<Rc<Peer>>>,
    /// What strangers are told whose ids were in use.
    pub(crate) removed: Cell<Option<Removed>>,
    pub(crate) inbox: Rc<Inbox>,
    pub(crate) metrics: Cell<TransportMetrics>,
    /// Refusals of strangers, who have no peer of their own to grumble about.
    pub(crate) grumble: RefCell<Grumble<RefusalReason>>,
    /// Connections that brought damaged bytes, by who is said to have sent them.
    pub(crate) damage_grumble: RefCell<Grumble<NodeId>>,
    /// Told when the listener shall close.
    pub(crate) closing: Notify,
}

impl Shared {
    pub(crate) fn new(settings: TransportSettings) -> Self {
        let own = settings.own;
        let facts = Facts {
            cluster: own.cluster,
            node: own.node,
            store: own.store,
            incarnation: own.incarnation,
            process: fastrand::u64(..),
            promised: settings.promised,
            position: settings.position,
            founded: Some(own.founded),
        };
        let pin = |node: NodeId| {
            let pin = settings.pins.iter().find(|pin| pin.node == node);
            pin.map(|pin| pin.store)
        };
        let limits = settings.limits;
        let mut peers: Vec<_> = settings
            .peers
            .into_iter()
            .map(|peer| {
                let member = Member::new(peer.node, pin(peer.node));
                Rc::new(Peer::new(peer, member, &limits))
            })
            .collect();
        peers.sort_unstable_by_key(|peer| peer.node);
        Shared {
            facts,
            versions: settings.versions,
            inbox: Rc::new(Inbox::new(limits.inbox_bytes_max)),
            limits,
            peers: RefCell::new(peers),
            removed: Cell::default(),
            metrics: Cell::default(),
            grumble: RefCell::default(),
            damage_grumble: RefCell::default(),
            closing: Notify::new(),
        }
    }

    pub(crate) fn peer(&self, node: NodeId) -> Option<Rc<Peer>> {
        let peers = self.peers.borrow();
        let place = peers.binary_search_by_key(&node, |peer| peer.node);
        place.ok().map(|place| Rc::clone(&peers[place]))
    }

    /// All of them, in the order of their node ids.
    pub(crate) fn peers(&self) -> Vec<Rc<Peer>> {
        self.peers.borrow().clone()
    }

    /// One more peer.
    pub(crate) fn add_peer(&self, address: PeerAddress) -> Rc<Peer> {
        let mut peers = self.peers.borrow_mut();
        let place = peers.partition_point(|peer| peer.node < address.node);
        let member = Member::new(address.node, None);
        peers.insert(place, Rc::new(Peer::new(address, member, &self.limits)));
        Rc::clone(&peers[place])
    }

    /// Forgets a peer and everything that is on its way to it or from it.
    pub(crate) fn remove_peer(&self, node: NodeId) {
        self.peers.borrow_mut().retain(|peer| {
            if peer.node == node {
                peer.close_inbound();
            }
            peer.node != node
        });
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut TransportMetrics)) {
        let mut metrics = self.metrics.get();
        change(&mut metrics);
        self.metrics.set(metrics);
    }
}

/// One peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    addresses: RefCell<Addresses>,
    member: RefCell<Member>,
    control: OneLane,
    bulk: OneLane,
    metrics: Cell<PeerMetrics>,
    /// What it and this node speak, and the newest that it knows; of the last handshake.
    versions: Cell<Option<(u32, u32)>>,
    grumble: RefCell<Grumble<RefusalReason>>,
}

/// One lane of a peer, in both directions.
#[derive(Debug)]
struct OneLane {
    queue: LaneQueue,
    /// The connection on which the peer sends to us.
    inbound: RefCell<Option<Inbound>>,
    /// Told when the peer has dialled us: it is there, so ours need not wait.
    knock: Notify,
    /// Told when the peer is to be dialled at another address.
    moved: Notify,
}

/// A connection that a peer opened, by its number.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) number: u64,
    pub(crate) task: AbortHandle,
}

impl Peer {
    fn new(address: PeerAddress, member: Member, limits: &Limits) -> Self {
        let lane = |queue| OneLane {
            queue,
            inbound: RefCell::default(),
            knock: Notify::new(),
            moved: Notify::new(),
        };
        Peer {
            node: address.node,
            addresses: RefCell::new(Addresses::new(address.address, address.spare)),
            member: RefCell::new(member),
            control: lane(LaneQueue::new(
                Lane::Control,
                limits.control_queue_bytes_max,
                limits.control_queue_frames_max,
            )),
            bulk: lane(LaneQueue::new(
                Lane::Bulk,
                limits.bulk_queue_bytes_max,
                limits.bulk_queue_frames_max,
            )),
            metrics: Cell::new(PeerMetrics::new(address.node)),
            versions: Cell::default(),
            grumble: RefCell::default(),
        }
    }

    /// Where the peer is, as far as anybody said.
    pub(crate) fn address(&self) -> String {
        self.addresses.borrow().newest().to_owned()
    }

    /// Where the dial of this number goes.
    pub(crate) fn address_of_dial(&self, dial: u32) -> String {
        self.addresses.borrow().of_dial(dial).to_owned()
    }

    /// Where the peer is from now on. Says whether that is another address. The lanes stay
    /// as they are until it answers there.
    pub(crate) fn set_address(&self, address: &str) -> bool {
        let is_other = self.addresses.borrow_mut().set(address);
        if is_other {
            self.control.moved.notify_one();
            self.bulk.moved.notify_one();
        }
        is_other
    }

    /// The peer has shaken hands at this address.
    pub(crate) fn answered_at(&self, address: &str) {
        self.addresses.borrow_mut().answered(address);
    }

    /// Waits until there is another address.
    pub(crate) async fn moved(&self, lane: Lane) {
        self.lane(lane).moved.notified().await;
    }

    /// The configuration says which store is the peer's. Whoever is connected with another
    /// one is not the peer.
    pub(crate) fn set_store(&self, store: u128) {
        if self.member.borrow_mut().set_store(store) {
            self.close_inbound();
        }
    }

    fn close_inbound(&self) {
        for lane in [&self.control, &self.bulk] {
            if let Some(inbound) = lane.inbound.take() {
                inbound.task.abort();
            }
        }
    }

    pub(crate) fn queue(&self, lane: Lane) -> &LaneQueue {
        &self.lane(lane).queue
    }

    fn lane(&self, lane: Lane) -> &OneLane {
        match lane {
            Lane::Control => &self.control,
            Lane::Bulk => &self.bulk,
        }
    }

    pub(crate) fn metrics(&self) -> PeerMetrics {
        self.metrics.get()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut PeerMetrics)) {
        let mut metrics = self.metrics.get();
        change(&mut metrics);
        self.metrics.set(metrics);
    }

    /// Takes what the peer says of itself. A first contact is told to the owner, and
    /// connections of an earlier life are closed, so that nothing that it had on the
    /// way arrives any more.
    pub(crate) fn receive_facts(
        &self,
        own: &Facts,
        facts: &Facts,
        inbox: &Inbox,
    ) -> Result<(), Refusal> {
        if let Err(refusal) = check_founding(own, facts) {
            // Of one that lost its folder, and was founded anew, that is the thing to say.
            self.member.borrow().clone().receive_facts(facts)?;
            return Err(refusal);
        }
        let Admitted { pinned, newer_life } = self.member.borrow_mut().receive_facts(facts)?;
        if newer_life {
            self.close_inbound();
        }
        if pinned {
            inbox.push(IncomingEvent::Pinned { node: self.node, store: facts.store });
        }
        Ok(())
    }

    /// Whether a connection of these facts is one of the life that was heard last.
    pub(crate) fn is(&self, facts: &Facts) -> bool {
        self.member.borrow().is(facts)
    }

    /// The two shook hands: from now on messages to it are of this version.
    pub(crate) fn speak(&self, version: u32, theirs: Versions) {
        self.versions.set(Some((version, theirs.newest)));
        self.count(|metrics| metrics.version = version);
    }

    /// The version of messages to it.
    pub(crate) fn version(&self) -> u32 {
        self.versions.get().map_or(version::OLDEST, |(version, _)| version)
    }

    /// The newest version that it said it knows; none as long as it was not met.
    pub(crate) fn knows(&self) -> Option<u32> {
        self.versions.get().map(|(_, newest)| newest)
    }

    /// Remembers what a message promises, or says of the peer's journal.
    pub(crate) fn hear(&self, message: &PeerMessage) {
        match message {
            PeerMessage::Paxos(Message::Promise(promise)) => {
                self.member.borrow_mut().receive_promise(promise.ballot);
            }
            PeerMessage::Paxos(Message::Heartbeat(heartbeat)) => {
                self.member.borrow_mut().receive_position(heartbeat.position);
            }
            _ => {}
        }
    }

    /// A connection of the peer takes the place of the one before it on its lane.
    pub(crate) fn replace_inbound(&self, lane: Lane, inbound: Inbound) {
        if let Some(before) = self.lane(lane).inbound.replace(Some(inbound)) {
            before.task.abort();
        }
        self.control.knock.notify_one();
        self.bulk.knock.notify_one();
    }

    /// Waits until the peer dials us.
    pub(crate) async fn knocked(&self, lane: Lane) {
        self.lane(lane).knock.notified().await;
    }

    /// The connection of this number has ended.
    pub(crate) fn remove_inbound(&self, lane: Lane, number: u64) {
        let mut inbound = self.lane(lane).inbound.borrow_mut();
        if inbound.as_ref().is_some_and(|inbound| inbound.number == number) {
            *inbound = None;
        }
    }

    /// A handshake with this peer was refused by one of the two: says so, but not
    /// all the time.
    pub(crate) fn receive_refusal(&self, refusal: &Refusal, by_peer: bool, limits: &Limits) {
        self.count(|metrics| metrics.handshakes_refused += 1);
        let Refusal { reason, text } = refusal;
        let mut grumble = self.grumble.borrow_mut();
        if !grumble.is_due(*reason, limits.warning_interval_ms) {
            return;
        }
        let (peer, address) = (self.node, self.address());
        if by_peer {
            tracing::warn!(%peer, address, ?reason, "the peer refuses this node: {text}");
        } else {
            tracing::warn!(%peer, address, ?reason, "the peer is refused: {text}");
        }
    }
}
