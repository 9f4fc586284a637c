//! The network between the nodes: a TCP proxy in front of each of them, whose
//! connections can be held or cut. A node writes to a peer only over connections
//! that it dialled itself, and the first frame on each says who that is: so what A
//! dialled is the direction from A to B.
//!
//! One address for all who dial a node is what the members of a cluster are told of each
//! other when these change.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::NodeId;

const CHUNK_BYTES: usize = 64 << 10;
/// The beginning of the first frame, up to the id of the node that dialled. Handshakes keep
/// their form in every version of the protocol.
const HELLO_BYTES: usize = 42;
const MAGIC: [u8; 2] = [0x53, 0xD1];
const HELLO: u8 = 0x40;

/// What a direction does with what is sent over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Open,
    /// Nothing passes, not even an end; what was sent comes late.
    Held,
    /// Connections end at once, and new ones too.
    Cut,
}

/// All directions of a cluster's network, for as long as this value lives.
#[derive(Debug)]
pub struct Links {
    proxies: Mutex<BTreeMap<NodeId, SocketAddr>>,
    directions: Arc<Directions>,
    runtime: Handle,
    /// Dropped, it ends the thread and with it every connection.
    _end: oneshot::Sender<()>,
}

/// From whom to whom, and what becomes of what is sent so.
#[derive(Debug, Default)]
struct Directions(Mutex<BTreeMap<(NodeId, NodeId), watch::Sender<Flow>>>);

impl Directions {
    fn all(&self) -> MutexGuard<'_, BTreeMap<(NodeId, NodeId), watch::Sender<Flow>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, from: NodeId, to: NodeId) -> watch::Receiver<Flow> {
        self.all().entry((from, to)).or_insert_with(|| watch::channel(Flow::Open).0).subscribe()
    }
}

impl Links {
    /// A network with nobody in it.
    ///
    /// # Errors
    /// When there are no more threads.
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let run = move || {
            // It ends by being dropped: nothing is ever sent.
            let _ = runtime.block_on(ended);
        };
        thread::Builder::new().name("links".into()).spawn(run)?;
        let (proxies, directions) = (Mutex::default(), Arc::default());
        Ok(Self { proxies, directions, runtime: handle, _end: end })
    }

    /// Listens for those who want to reach this node, which listens at `address`. All
    /// directions are open. Gives the address at which the others must dial it.
    ///
    /// # Errors
    /// When there are no more ports.
    pub fn add(&self, node: NodeId, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let proxy = listener.local_addr()?;
        let listener = {
            let _inside = self.runtime.enter();
            TcpListener::from_std(listener)?
        };
        let place = Place { node, address, directions: Arc::clone(&self.directions) };
        self.runtime.spawn(serve(listener, Arc::new(place)));
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner).insert(node, proxy);
        Ok(proxy)
    }

    /// Where a node must be dialled.
    pub fn proxy(&self, node: NodeId) -> Option<SocketAddr> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied()
    }

    pub(super) fn set(&self, from: NodeId, to: NodeId, flow: Flow) {
        let mut all = self.directions.all();
        all.entry((from, to)).or_insert_with(|| watch::channel(Flow::Open).0).send_replace(flow);
    }

    pub(super) fn open_all(&self) {
        for direction in self.directions.all().values() {
            direction.send_replace(Flow::Open);
        }
    }
}

/// A node and its surroundings.
#[derive(Debug)]
struct Place {
    node: NodeId,
    address: SocketAddr,
    directions: Arc<Directions>,
}

async fn serve(listener: TcpListener, place: Arc<Place>) {
    // Only a lack of file descriptors makes this fail, and the next may work.
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(carry(stream, Arc::clone(&place)))),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn carry(mut near: TcpStream, place: Arc<Place>) {
    let mut hello = [0; HELLO_BYTES];
    if near.read_exact(&mut hello).await.is_err() {
        return;
    }
    // What is no handshake of a node has no business here.
    let Some(from) = dialler(&hello) else { return };
    let mut flows = place.directions.watch(from, place.node);
    if !passes(&mut flows).await {
        return;
    }
    let Ok(mut far) = TcpStream::connect(place.address).await else { return };
    if far.write_all(&hello).await.is_err() {
        return;
    }
    // Without these it is only slower.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    let mut cut = flows.clone();
    tokio::select! {
        () = pump(near_read, far_write, flows.clone()) => {}
        () = pump(far_read, near_write, flows) => {}
        _ = cut.wait_for(|flow| *flow == Flow::Cut) => {}
    }
}

/// The node that dialled, as its handshake says.
fn dialler(hello: &[u8; HELLO_BYTES]) -> Option<NodeId> {
    let id = hello.last_chunk().map(|id| u32::from_le_bytes(*id))?;
    (hello[..2] == MAGIC && hello[3] == HELLO).then_some(NodeId(id.into()))
}

/// Carries bytes one way until an end, which is carried too, for both ways end then.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut flows: watch::Receiver<Flow>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = from.read(&mut chunk).await.unwrap_or(0);
        if !passes(&mut flows).await || count == 0 || to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}

/// Waits while the direction is held; whether anything may pass then.
async fn passes(flows: &mut watch::Receiver<Flow>) -> bool {
    flows.wait_for(|flow| *flow != Flow::Held).await.is_ok_and(|flow| *flow == Flow::Open)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    /// As much of a handshake as is looked at.
    fn hello(from: NodeId) -> [u8; HELLO_BYTES] {
        let mut hello = [0; HELLO_BYTES];
        hello[..2].copy_from_slice(&MAGIC);
        hello[3] = HELLO;
        let id = u32::try_from(from.0).unwrap();
        hello[HELLO_BYTES - 4..].copy_from_slice(&id.to_le_bytes());
        hello
    }

    fn dial(links: &Links, from: NodeId) -> std::net::TcpStream {
        let mut near = std::net::TcpStream::connect(links.proxy(B).unwrap()).unwrap();
        near.write_all(&hello(from)).unwrap();
        near
    }

    /// A network, a connection from A to B, and B's end of it.
    fn connect() -> (Links, std::net::TcpStream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let b = listener.local_addr().unwrap();
        let links = Links::start().unwrap();
        links.add(B, b).unwrap();
        let near = dial(&links, A);
        let mut far = listener.accept().unwrap().0;
        let mut first = [0; HELLO_BYTES];
        far.read_exact(&mut first).unwrap();
        assert_eq!(first, hello(A));
        (links, near, far)
    }

    #[test]
    fn a_held_direction_delivers_late_and_the_other_is_another() {
        let (links, mut near, mut far) = connect();
        let mut byte = [0];
        near.write_all(b"1").unwrap();
        far.read_exact(&mut byte).unwrap();
        links.set(B, A, Flow::Cut);
        links.set(C, B, Flow::Cut);
        near.write_all(b"2").unwrap();
        far.read_exact(&mut byte).unwrap();
        links.set(A, B, Flow::Held);
        near.write_all(b"3").unwrap();
        far.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(far.read(&mut byte).is_err(), "nothing comes, not even an end");
        far.set_read_timeout(None).unwrap();
        links.open_all();
        far.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"3");
    }

    #[test]
    fn a_cut_direction_ends_its_connections_and_all_new_ones() {
        let (links, mut near, mut far) = connect();
        links.set(A, B, Flow::Cut);
        let mut bytes = Vec::new();
        assert_eq!(far.read_to_end(&mut bytes).unwrap_or(0), 0);
        assert_eq!(near.read_to_end(&mut bytes).unwrap_or(0), 0);
        assert_eq!(dial(&links, A).read_to_end(&mut bytes).unwrap_or(0), 0);
    }

    #[test]
    fn who_dials_is_known_by_the_handshake_that_nodes_send() {
        let facts = synod_wire::Facts {
            cluster: 1,
            node: synod_paxos::NodeId(0x0102_0304),
            store: 2,
            incarnation: 3,
            process: 4,
            promised: synod_paxos::Ballot::ZERO,
            position: synod_paxos::Position(5),
            founded: None,
        };
        let (versions, to) = (synod_wire::Versions { oldest: 1, newest: 2 }, facts.node);
        let lane = synod_wire::Lane::Bulk;
        let hello = synod_wire::Hello { versions, facts, lane, to };
        let mut bytes = bytes::BytesMut::new();
        synod_wire::handshake::encode(&synod_wire::Handshake::Hello(hello), &mut bytes);
        assert_eq!(dialler(bytes.first_chunk().unwrap()), Some(NodeId(0x0102_0304)));
        bytes[3] += 1;
        assert_eq!(dialler(bytes.first_chunk().unwrap()), None);
    }
}
