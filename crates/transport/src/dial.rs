//! The dialling side: one task for each lane to each peer, which keeps a connection
//! and writes to it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use synod_wire::{Handshake, Hello, Lane, Refusal, RefusalReason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep, timeout};

use crate::admission::check_welcome;
use crate::backoff::Backoff;
use crate::connection::{HandshakeError, read_handshake, set_options, write_handshake};
use crate::evidence::{DialEnd, Evidence};
use crate::incoming::IncomingEvent;
use crate::peer::{Peer, Shared};

/// Why a dial brought no connection.
#[derive(Debug)]
enum DialError {
    /// No address, no connection, or no handshake.
    Failed(DialEnd, String),
    /// One of the two does not want the other.
    Refused(Refusal, By),
}

/// Who refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Peer,
    ThisNode,
}

/// Keeps the lane connected for as long as the task lives.
pub(crate) async fn run(shared: Rc<Shared>, peer: Rc<Peer>, lane: Lane) {
    let mut backoff = Backoff::new(shared.limits.retry_ms_max);
    let mut evidence = Evidence::default();
    // Since the last connection.
    let mut dials = 0;
    loop {
        let pause = backoff.next_pause(fastrand::f64());
        if !pause.is_zero() {
            // A node whose peers begin before it would wait out a long pause though
            // they can reach it: commands could come to it and not leave it.
            tokio::select! {
                () = sleep(pause) => {}
                () = peer.knocked(lane) => {}
                () = peer.moved(lane) => {}
            }
        }
        let address = peer.address_of_dial(dials);
        dials = dials.wrapping_add(1);
        match dial(&shared, &peer, lane, &address).await {
            Ok(stream) => {
                evidence.connected();
                dials = 0;
                let since = Instant::now();
                let error = keep(&shared, &peer, lane, stream, address).await;
                tracing::debug!(peer = %peer.node, ?lane, %error, "a connection to a peer ended");
                backoff.connection_closed(since.elapsed());
                // One that timed out was not closed by anybody.
                if error.kind() != io::ErrorKind::TimedOut {
                    evidence.connection_closed();
                }
            }
            Err(error) => {
                peer.count(|metrics| metrics.dials_failed += 1);
                receive_dial_error(&shared, &peer, lane, error, &mut evidence).await;
            }
        }
    }
}

/// Holds a connection and, when the peer has moved, the one at its new address instead, as
/// soon as there is one. Returns how the last of them ended.
async fn keep(
    shared: &Shared,
    peer: &Peer,
    lane: Lane,
    mut stream: TcpStream,
    mut address: String,
) -> io::Error {
    loop {
        (stream, address) = tokio::select! {
            error = hold(shared, peer, lane, stream) => return error,
            moved = dial_moved(shared, peer, lane, &address) => moved,
        };
        tracing::debug!(peer = %peer.node, ?lane, address, "a peer has moved");
    }
}

/// Waits until the peer is to be elsewhere than at `held`, and dials it there until it
/// answers.
async fn dial_moved(shared: &Shared, peer: &Peer, lane: Lane, held: &str) -> (TcpStream, String) {
    let mut backoff = Backoff::new(shared.limits.retry_ms_max);
    loop {
        let address = peer.address();
        if address == held {
            peer.moved(lane).await;
            continue;
        }
        match dial(shared, peer, lane, &address).await {
            Ok(stream) => return (stream, address),
            Err(error) => {
                peer.count(|metrics| metrics.dials_failed += 1);
                // Nobody at the new address says nothing of who is at the old one.
                receive_dial_error(shared, peer, lane, error, &mut Evidence::default()).await;
            }
        }
        sleep(backoff.next_pause(fastrand::f64())).await;
    }
}

/// Judges a dial that failed. The evidence of one lane is enough, and the control
/// lane's is the one that counts: its connection carries the heartbeats.
async fn receive_dial_error(
    shared: &Shared,
    peer: &Peer,
    lane: Lane,
    error: DialError,
    evidence: &mut Evidence,
) {
    match error {
        DialError::Failed(end, error) => {
            tracing::debug!(peer = %peer.node, ?lane, error, "a dial failed");
            if evidence.dial_failed(end) && lane == Lane::Control {
                peer.count(|metrics| metrics.deaths += 1);
                shared.inbox.push(IncomingEvent::PeerDied(peer.node));
            }
        }
        DialError::Refused(refusal, by) => {
            evidence.dial_failed(DialEnd::Other);
            peer.receive_refusal(&refusal, by == By::Peer, &shared.limits);
            let node = peer.node;
            match (refusal.reason, by) {
                (RefusalReason::Removed { number, witnesses }, By::Peer) => {
                    shared.inbox.push(IncomingEvent::Dismissed { by: node, number, witnesses });
                }
                (reason @ (RefusalReason::WentBack | RefusalReason::Incarnation), By::Peer) => {
                    let (text, for_good) = (refusal.text, reason == RefusalReason::WentBack);
                    shared.inbox.push(IncomingEvent::Barred { by: node, text, for_good });
                }
                _ => {}
            }
            let pause = Duration::from_millis(shared.limits.refused_retry_ms);
            sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        }
    }
}

/// Opens a connection and shakes hands.
async fn dial(
    shared: &Shared,
    peer: &Peer,
    lane: Lane,
    address: &str,
) -> Result<TcpStream, DialError> {
    let connected = timeout(shared.limits.connect_timeout(), connect(address)).await;
    let mut stream = connected
        .map_err(|_| failed("no connection in time"))?
        .map_err(|error| io_failed(&error))?;
    let unacknowledged_ms = match lane {
        Lane::Control => shared.limits.control_unacknowledged_ms_max,
        Lane::Bulk => shared.limits.bulk_unacknowledged_ms_max,
    };
    set_options(&stream, Some(Duration::from_millis(unacknowledged_ms)))
        .map_err(|error| io_failed(&error))?;
    let shaken = shake_hands(shared, peer, lane, &mut stream);
    timeout(shared.limits.handshake_timeout(), shaken)
        .await
        .map_err(|_| failed("no answer to the handshake in time"))??;
    peer.answered_at(address);
    Ok(stream)
}

fn failed(error: &str) -> DialError {
    DialError::Failed(DialEnd::Other, error.to_owned())
}

/// Refused, or reset before the handshake: nobody listens. Every other error may be
/// the network's.
fn io_failed(error: &io::Error) -> DialError {
    let end = match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => DialEnd::NobodyListens,
        _ => DialEnd::Other,
    };
    DialError::Failed(end, error.to_string())
}

/// Connects to the first address behind the name that takes the connection. That
/// nobody listens is only said when each of them says so.
async fn connect(address: &str) -> io::Result<TcpStream> {
    let mut refused = None;
    let mut failed = None;
    for address in lookup_host(address).await? {
        match TcpStream::connect(address).await {
            Ok(stream) if !is_own_end(&stream, address) => return Ok(stream),
            Ok(_) => refused = Some(io::ErrorKind::ConnectionRefused.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => refused = Some(error),
            Err(error) => failed = Some(error),
        }
    }
    let nothing = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    Err(failed.or(refused).unwrap_or_else(nothing))
}

/// Where nobody listens, TCP may connect a socket to itself, if the kernel happens
/// to give it the very port that it dials. That is nobody listening, and the port
/// must be free again at once for whom it belongs to.
fn is_own_end(stream: &TcpStream, address: SocketAddr) -> bool {
    stream.local_addr().is_ok_and(|own| own == address)
}

async fn shake_hands(
    shared: &Shared,
    peer: &Peer,
    lane: Lane,
    stream: &mut TcpStream,
) -> Result<(), DialError> {
    let own = shared.facts;
    let hello = Hello { versions: shared.versions, facts: own, lane, to: peer.node };
    let handshake_failed = |error| match error {
        HandshakeError::Io(error) => io_failed(&error),
        other => failed(&other.to_string()),
    };
    write_handshake(stream, &Handshake::Hello(hello)).await.map_err(handshake_failed)?;
    let mut buffer = BytesMut::new();
    let answer = read_handshake(stream, &mut buffer).await.map_err(handshake_failed)?;
    match answer {
        Handshake::Welcome(welcome) => check_welcome(&own, shared.versions, peer.node, &welcome)
            .and_then(|version| {
                peer.receive_facts(&own, &welcome.facts, &shared.inbox)?;
                peer.speak(version, welcome.versions);
                Ok(())
            })
            .map_err(|refusal| DialError::Refused(refusal, By::ThisNode)),
        Handshake::Refusal(refusal) => Err(DialError::Refused(refusal, By::Peer)),
        Handshake::Hello(_) => Err(handshake_failed(HandshakeError::Unexpected)),
    }
}

/// Writes what is queued for the lane until the connection ends. The queue is open
/// only meanwhile, even if this task is aborted.
async fn hold(shared: &Shared, peer: &Peer, lane: Lane, mut stream: TcpStream) -> io::Error {
    let _open = OpenLane::new(shared, peer, lane);
    let (reader, writer) = stream.split();
    tokio::select! {
        error = watch(reader) => error,
        error = write_messages(peer, lane, writer) => error,
    }
}

/// An open queue, announced to the owner.
struct OpenLane<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    lane: Lane,
}

impl<'a> OpenLane<'a> {
    fn new(shared: &'a Shared, peer: &'a Peer, lane: Lane) -> Self {
        peer.queue(lane).connect();
        peer.count(|metrics| metrics.connects += 1);
        if lane == Lane::Control {
            peer.count(|metrics| metrics.connected = true);
        }
        shared.inbox.push(IncomingEvent::Connected { node: peer.node, lane });
        OpenLane { shared, peer, lane }
    }
}

impl Drop for OpenLane<'_> {
    fn drop(&mut self) {
        let dropped = self.peer.queue(self.lane).disconnect();
        self.peer.count(|metrics| metrics.frames_dropped_unconnected += dropped);
        if self.lane == Lane::Control {
            self.peer.count(|metrics| metrics.connected = false);
            self.shared.inbox.push(IncomingEvent::Disconnected(self.peer.node));
        }
    }
}

/// Nothing ever comes on a connection that we dialled, except its end.
async fn watch(mut reader: ReadHalf<'_>) -> io::Error {
    match reader.read(&mut [0; 1]).await {
        Ok(0) => io::ErrorKind::UnexpectedEof.into(),
        Ok(_) => io::Error::new(io::ErrorKind::InvalidData, "the peer sent on our lane"),
        Err(error) => error,
    }
}

/// Writes all that waits with one write, and again as soon as something waits.
async fn write_messages(peer: &Peer, lane: Lane, mut writer: WriteHalf<'_>) -> io::Error {
    let queue = peer.queue(lane);
    let mut buffer = BytesMut::new();
    loop {
        let frames = queue.take(&mut buffer).await;
        if let Err(error) = writer.write_all(&buffer).await {
            return error;
        }
        peer.count(|metrics| {
            metrics.frames_sent += frames;
            metrics.bytes_sent += buffer.len() as u64;
            metrics.writes += 1;
        });
        queue.written(&mut buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use io::ErrorKind;

    #[test]
    fn only_a_refusal_or_a_reset_says_that_nobody_listens() {
        let end = |kind: ErrorKind| match io_failed(&kind.into()) {
            DialError::Failed(end, _) => end,
            DialError::Refused(..) => panic!("nobody was asked"),
        };
        for kind in [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset] {
            assert_eq!(end(kind), DialEnd::NobodyListens);
        }
        for kind in [
            ErrorKind::TimedOut,
            ErrorKind::HostUnreachable,
            ErrorKind::NetworkUnreachable,
            ErrorKind::AddrNotAvailable,
            ErrorKind::ConnectionAborted,
            ErrorKind::BrokenPipe,
            ErrorKind::UnexpectedEof,
            ErrorKind::NotFound,
            ErrorKind::Other,
        ] {
            assert_eq!(end(kind), DialEnd::Other, "{kind}");
        }
    }
}
