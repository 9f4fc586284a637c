//! Nodes on the loopback interface: real ones, and ones that only pretend.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::future::Future;
use std::panic::Location;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use synod_kv::ServerId;
use synod_paxos::{Ballot, Chosen, Message, NodeId, Position, ReadIndex, Slot, Value};
use synod_transport::{
    Incoming, IncomingEvent, Limits, Own, PeerAddress, PeerMetrics, Transport, TransportSettings,
};
use synod_wire::batch::encode_entry;
use synod_wire::{
    Facts, Forward, Handshake, Hello, Lane, PeerMessage, Versions, Welcome, frame, handshake,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const CLUSTER: u128 = 0xC1;

/// Of what the cluster of these tests began with.
pub(crate) const FOUNDED: u64 = 0xf0;

/// How long counters are waited for: less than a test may take as a whole.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test on a runtime like a node's. It takes long only when it fails.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let guarded = async {
        tokio::time::timeout(Duration::from_secs(30), test).await.expect("the test hangs");
    };
    tokio::task::LocalSet::new().block_on(&runtime, guarded);
}

pub(crate) fn limits() -> Limits {
    Limits { retry_ms_max: 20, refused_retry_ms: 5, ..Limits::default() }
}

/// A message that the control lane carries.
pub(crate) fn small(nonce: u64) -> PeerMessage {
    PeerMessage::Paxos(Message::ReadIndex(ReadIndex { nonce }))
}

/// A message that the bulk lane carries.
pub(crate) fn large(nonce: u64, bytes: usize) -> PeerMessage {
    PeerMessage::Paxos(Message::Chosen(Chosen {
        nonce,
        first: Slot(1),
        values: vec![Value::Batch(Bytes::from(vec![0xB1; bytes])), Value::Noop],
    }))
}

/// Commands of a node, of so many bytes.
pub(crate) fn commands(nonce: u8, bytes: usize) -> PeerMessage {
    let id = ServerId { origin: 1, incarnation: 1, sequence: u64::from(nonce) };
    let commands = vec![encode_entry(id, &vec![nonce; bytes])];
    PeerMessage::Forward(Forward { may_relay: true, commands })
}

/// A listener whose port stays the node's for the whole test.
pub(crate) fn listener() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

pub(crate) fn settings(node: u32, peers: &[(u32, &str)], limits: Limits) -> TransportSettings {
    let peer = |(node, address): &(u32, &str)| PeerAddress {
        node: NodeId(*node),
        address: (*address).into(),
        spare: None,
    };
    let own = Own {
        cluster: CLUSTER,
        node: NodeId(node),
        store: store(node),
        incarnation: 1,
        founded: FOUNDED,
    };
    TransportSettings {
        own,
        versions: Versions::default(),
        promised: Ballot::ZERO,
        position: Position::ZERO,
        peers: peers.iter().map(peer).collect(),
        pins: Vec::new(),
        limits,
    }
}

pub(crate) fn store(node: u32) -> u128 {
    0x5000 + u128::from(node)
}

/// A running transport and what came out of it.
pub(crate) struct Node {
    pub(crate) transport: Transport,
    pub(crate) incoming: Incoming,
    waiting: Vec<IncomingEvent>,
}

impl Node {
    pub(crate) fn start(settings: TransportSettings, listener: std::net::TcpListener) -> Node {
        let (transport, incoming) = Transport::start(settings, listener).unwrap();
        Node { transport, incoming, waiting: Vec::new() }
    }

    /// The first event, from those not looked at yet, that `wanted` takes.
    pub(crate) async fn wait_for(
        &mut self,
        wanted: impl Fn(&IncomingEvent) -> bool,
    ) -> IncomingEvent {
        loop {
            while !self.waiting.is_empty() {
                let event = self.waiting.remove(0);
                if wanted(&event) {
                    return event;
                }
            }
            self.incoming.recv_batch(&mut self.waiting).await;
        }
    }

    pub(crate) async fn connected_to(&mut self, node: u32) {
        let control = IncomingEvent::Connected { node: NodeId(node), lane: Lane::Control };
        self.wait_for(|event| *event == control).await;
    }

    pub(crate) async fn message(&mut self) -> (NodeId, PeerMessage) {
        let is_message = |event: &IncomingEvent| matches!(event, IncomingEvent::Message { .. });
        match self.wait_for(is_message).await {
            IncomingEvent::Message { from, message } => (from, message),
            _ => unreachable!(),
        }
    }

    /// What arrived and was not looked at.
    pub(crate) fn leftover(&mut self) -> Vec<IncomingEvent> {
        self.incoming.try_recv_batch(&mut self.waiting);
        std::mem::take(&mut self.waiting)
    }

    pub(crate) fn peer_metrics(&self) -> PeerMetrics {
        self.transport.peer_metrics()[0]
    }

    /// Waits until the counters of the first peer are as wanted.
    ///
    /// # Panics
    /// When they are not within [`PATIENCE`]; with what they are.
    #[track_caller]
    pub(crate) fn metrics_where(
        &self,
        wanted: impl Fn(&PeerMetrics) -> bool,
    ) -> impl Future<Output = ()> {
        let asked = Location::caller();
        async move {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let metrics = self.peer_metrics();
                if wanted(&metrics) {
                    return;
                }
                assert!(
                    Instant::now() < deadline,
                    "waited in vain for the counters that {asked} wants: {metrics:?}"
                );
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

/// Two nodes, 1 and 2, connected to each other on both lanes.
pub(crate) async fn pair(limits: Limits) -> (Node, Node) {
    let ((first, first_address), (second, second_address)) = (listener(), listener());
    let mut first = Node::start(settings(1, &[(2, &second_address)], limits.clone()), first);
    let mut second = Node::start(settings(2, &[(1, &first_address)], limits), second);
    first.connected_to(2).await;
    second.connected_to(1).await;
    first.metrics_where(|metrics| metrics.connects == 2).await;
    second.metrics_where(|metrics| metrics.connects == 2).await;
    (first, second)
}

pub(crate) fn facts(node: u32) -> Facts {
    Facts {
        cluster: CLUSTER,
        node: NodeId(node),
        store: store(node),
        incarnation: 1,
        process: u64::from(node),
        promised: Ballot::ZERO,
        position: Position::ZERO,
        founded: None,
    }
}

pub(crate) fn hello(node: u32, to: u32) -> Hello {
    Hello { versions: Versions::default(), facts: facts(node), lane: Lane::Control, to: NodeId(to) }
}

pub(crate) fn welcome(node: u32) -> Welcome {
    Welcome { versions: Versions::default(), facts: facts(node) }
}

pub(crate) async fn send_handshake(stream: &mut TcpStream, message: Handshake) {
    let mut out = BytesMut::new();
    handshake::encode(&message, &mut out);
    stream.write_all(&out).await.unwrap();
}

/// The next frame; none at the end of the connection.
async fn read_frame(stream: &mut TcpStream) -> Option<(frame::Header, Bytes)> {
    let mut header = [0; frame::HEADER_BYTES];
    stream.read_exact(&mut header).await.ok()?;
    let header = frame::Header::decode(&header).unwrap();
    let mut body = BytesMut::zeroed(header.body_bytes());
    stream.read_exact(&mut body).await.ok()?;
    Some((header, body.freeze()))
}

pub(crate) async fn read_handshake(stream: &mut TcpStream) -> Option<Handshake> {
    let (header, body) = read_frame(stream).await?;
    Some(handshake::decode(header, body).unwrap())
}

pub(crate) async fn read_message(stream: &mut TcpStream) -> Option<PeerMessage> {
    let (header, body) = read_frame(stream).await?;
    Some(frame::decode(header, body).unwrap())
}

/// Dials a node as somebody and brings back its answer.
pub(crate) async fn dial_as(address: &str, hello: Hello) -> (Option<Handshake>, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    send_handshake(&mut stream, Handshake::Hello(hello)).await;
    (read_handshake(&mut stream).await, stream)
}

/// Waits until the other side closes.
pub(crate) async fn closed(stream: &mut TcpStream) {
    let mut byte = [0];
    while stream.read(&mut byte).await.is_ok_and(|count| count > 0) {}
}

/// Somebody who accepts connections at a peer's address.
pub(crate) struct FakePeer {
    pub(crate) listener: TcpListener,
    pub(crate) address: String,
}

impl FakePeer {
    pub(crate) fn new() -> FakePeer {
        let (listener, address) = listener();
        listener.set_nonblocking(true).unwrap();
        FakePeer { listener: TcpListener::from_std(listener).unwrap(), address }
    }

    /// Accepts a connection up to its hello.
    pub(crate) async fn accept(&self) -> (Hello, TcpStream) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        match read_handshake(&mut stream).await {
            Some(Handshake::Hello(hello)) => (hello, stream),
            other => panic!("not a hello: {other:?}"),
        }
    }

    /// Accepts both lanes as node 2: control first, then bulk.
    pub(crate) async fn accept_both(&self) -> (TcpStream, TcpStream) {
        let (mut control, mut bulk) = (None, None);
        while control.is_none() || bulk.is_none() {
            let (hello, mut stream) = self.accept().await;
            send_handshake(&mut stream, Handshake::Welcome(welcome(2))).await;
            match hello.lane {
                Lane::Control => control = Some(stream),
                Lane::Bulk => bulk = Some(stream),
            }
        }
        (control.unwrap(), bulk.unwrap())
    }
}

/// Closes a connection with a reset.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Damages the bytes of a message's frame at `at`.
pub(crate) fn damaged_frame(message: &PeerMessage, at: usize) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::encode(message, &mut out);
    out[at] ^= 0x40;
    out.chunk().to_vec()
}
