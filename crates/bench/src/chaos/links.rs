//! The network between the nodes: a TCP proxy for each ordered pair of them, whose
//! connections can be held or cut. A node writes to a peer only over connections
//! that it dialled itself, so the proxy from A to B is the direction from A to B.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use crate::NodeId;

const CHUNK_BYTES: usize = 64 << 10;

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
    links: BTreeMap<(NodeId, NodeId), Link>,
    /// Dropped, it ends the thread and with it every connection.
    _end: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Link {
    proxy: SocketAddr,
    flow: watch::Sender<Flow>,
}

impl Links {
    /// Listens for every ordered pair of these nodes; all directions are open. The
    /// addresses are those at which the nodes listen to their peers.
    ///
    /// # Errors
    /// When there are no more ports or threads.
    pub fn start(nodes: &[(NodeId, SocketAddr)]) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut links = BTreeMap::new();
        for (from, _) in nodes {
            for (to, address) in nodes.iter().filter(|(to, _)| to != from) {
                let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
                let (flow, flows) = watch::channel(Flow::Open);
                let link = Link { proxy: listener.local_addr()?, flow };
                runtime.spawn(serve(listener, *address, flows));
                links.insert((*from, *to), link);
            }
        }
        let (end, ended) = oneshot::channel();
        let run = move || {
            // It ends by being dropped: nothing is ever sent.
            let _ = runtime.block_on(ended);
        };
        thread::Builder::new().name("links".into()).spawn(run)?;
        Ok(Self { links, _end: end })
    }

    /// Where a node must dial to reach another.
    pub fn proxy(&self, from: NodeId, to: NodeId) -> Option<SocketAddr> {
        self.links.get(&(from, to)).map(|link| link.proxy)
    }

    pub(super) fn set(&self, from: NodeId, to: NodeId, flow: Flow) {
        if let Some(link) = self.links.get(&(from, to)) {
            link.flow.send_replace(flow);
        }
    }

    pub(super) fn open_all(&self) {
        for link in self.links.values() {
            link.flow.send_replace(Flow::Open);
        }
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, flows: watch::Receiver<Flow>) {
    // Only a lack of file descriptors makes this fail, and the next may work.
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(carry(stream, target, flows.clone()))),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn carry(near: TcpStream, target: SocketAddr, mut flows: watch::Receiver<Flow>) {
    if !passes(&mut flows).await {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
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

    /// A network of two, a connection from A to B, and B's end of it.
    fn connect() -> (Links, std::net::TcpStream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let b = listener.local_addr().unwrap();
        let links = Links::start(&[(A, "127.0.0.1:1".parse().unwrap()), (B, b)]).unwrap();
        let near = std::net::TcpStream::connect(links.proxy(A, B).unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        (links, near, far)
    }

    #[test]
    fn a_held_direction_delivers_late_and_the_other_is_another() {
        let (links, mut near, mut far) = connect();
        let mut byte = [0];
        near.write_all(b"1").unwrap();
        far.read_exact(&mut byte).unwrap();
        links.set(B, A, Flow::Cut);
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
        let mut other = std::net::TcpStream::connect(links.proxy(A, B).unwrap()).unwrap();
        assert_eq!(other.read_to_end(&mut bytes).unwrap_or(0), 0);
    }
}
