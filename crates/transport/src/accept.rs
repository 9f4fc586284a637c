//! The accepting side: the listener, the handshake, and reading what peers send.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use synod_wire::{DecodeError, Handshake, Hello, Lane, Refusal, RefusalReason, Welcome, frame};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::admission::{check_hello, no_member};
use crate::connection::{HandshakeError, read_handshake, set_options, write_handshake};
use crate::incoming::IncomingEvent;
use crate::peer::{Inbound, Peer, Shared};

/// The least room for one read.
const READ_BYTES: usize = 64 << 10;
/// A message up to this size leaves the read buffer as a copy. A slice would keep the
/// whole buffer for as long as somebody keeps the message, and a value may be kept in
/// the core's cache for long: limits in bytes would hold many times as much.
const COPIED_BYTES_MAX: usize = 16 << 10;
/// The most that a read buffer grows by at once.
const GROWTH_BYTES_MAX: usize = 4 << 20;
/// Pause after the listener failed, which it does when file descriptors run out.
const LISTENER_PAUSE: Duration = Duration::from_millis(20);

/// Connections that have not shaken hands yet, oldest first.
#[derive(Default, Debug)]
struct Strangers {
    waiting: RefCell<VecDeque<(u64, AbortHandle)>>,
    last_number: Cell<u64>,
}

impl Strangers {
    fn remove(&self, number: u64) -> Option<AbortHandle> {
        let mut waiting = self.waiting.borrow_mut();
        let place = waiting.iter().position(|(other, _)| *other == number)?;
        waiting.remove(place).map(|(_, task)| task)
    }
}

/// Accepts connections until it is told to close; the listener closes last.
pub(crate) async fn run(shared: Rc<Shared>, listener: TcpListener) {
    let strangers = Rc::new(Strangers::default());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => admit(&shared, &strangers, stream, &mut connections),
                Err(error) => {
                    shared.count(|metrics| metrics.accepts_failed += 1);
                    tracing::debug!(%error, "the peer listener failed");
                    tokio::time::sleep(LISTENER_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => raise_panic(ended),
            () = shared.closing.notified() => break,
        }
    }
    connections.shutdown().await;
    drop(listener);
}

/// A panic in a connection's task is a bug, and a bug stops the node.
fn raise_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Starts the handshake. The oldest stranger gives way to the newest: a peer shakes
/// hands within a round trip, so whoever waits long is none.
fn admit(
    shared: &Rc<Shared>,
    strangers: &Rc<Strangers>,
    stream: TcpStream,
    connections: &mut JoinSet<()>,
) {
    shared.count(|metrics| metrics.accepted += 1);
    let number = strangers.last_number.get() + 1;
    strangers.last_number.set(number);
    let connection = serve(shared.clone(), strangers.clone(), stream, number);
    let task = connections.spawn_local(connection);
    let mut waiting = strangers.waiting.borrow_mut();
    waiting.push_back((number, task));
    if waiting.len() > shared.limits.handshakes_max
        && let Some((_, oldest)) = waiting.pop_front()
    {
        oldest.abort();
        shared.count(|metrics| metrics.handshakes_evicted += 1);
    }
}

async fn serve(shared: Rc<Shared>, strangers: Rc<Strangers>, mut stream: TcpStream, number: u64) {
    let mut buffer = BytesMut::new();
    let deadline = shared.limits.handshake_timeout();
    let shaken = timeout(deadline, shake_hands(&shared, &mut stream, &mut buffer)).await;
    let Some(task) = strangers.remove(number) else {
        return;
    };
    let (peer, hello) = match shaken {
        Ok(Ok(Some(shaken))) => shaken,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            shared.count(|metrics| metrics.handshakes_failed += 1);
            tracing::debug!(%error, "a connection to the peer port failed its handshake");
            return;
        }
        Err(_) => {
            shared.count(|metrics| metrics.handshakes_failed += 1);
            tracing::debug!("a connection to the peer port was silent for too long");
            return;
        }
    };
    let is_known = shared.peer(peer.node).is_some_and(|now| Rc::ptr_eq(&now, &peer));
    if !is_known || !peer.is(&hello.facts) {
        return; // It was removed meanwhile, or began another life.
    }
    let lane = hello.lane;
    peer.replace_inbound(lane, Inbound { number, task });
    let error = read_messages(&shared, &peer, lane, &mut stream, buffer).await;
    peer.remove_inbound(lane, number);
    if let Err(error) = error {
        let peer = peer.node;
        let interval_ms = shared.limits.warning_interval_ms;
        if !shared.damage_grumble.borrow_mut().is_due(peer, interval_ms) {
            return;
        }
        tracing::warn!(%peer, ?lane, %error, "the connection of a peer was closed: its bytes are damaged");
    }
}

/// The peer and the lane of a connection; none if it was refused.
async fn shake_hands(
    shared: &Shared,
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
) -> Result<Option<(Rc<Peer>, Hello)>, HandshakeError> {
    set_options(stream, None)?;
    let hello = match read_handshake(stream, buffer).await? {
        Handshake::Hello(hello) => hello,
        Handshake::Welcome(_) | Handshake::Refusal(_) => return Err(HandshakeError::Unexpected),
    };
    match receive_hello(shared, &hello) {
        Ok(peer) => {
            let welcome = Welcome { versions: shared.versions, facts: shared.facts };
            write_handshake(stream, &Handshake::Welcome(welcome)).await?;
            Ok(Some((peer, hello)))
        }
        Err(refusal) => {
            complain(shared, &hello, &refusal);
            write_handshake(stream, &Handshake::Refusal(refusal)).await?;
            Ok(None)
        }
    }
}

fn receive_hello(shared: &Shared, hello: &Hello) -> Result<Rc<Peer>, Refusal> {
    let own = shared.facts;
    let version = check_hello(&own, shared.versions, hello)?;
    let node = hello.facts.node;
    let peer = shared.peer(node).ok_or_else(|| no_member(&own, node, shared.removed.get()))?;
    peer.receive_facts(&own, &hello.facts, &shared.inbox)?;
    peer.speak(version, hello.versions);
    Ok(peer)
}

/// Tells people why a connection is refused, each reason once in a while.
fn complain(shared: &Shared, hello: &Hello, refusal: &Refusal) {
    shared.count(|metrics| metrics.handshakes_refused += 1);
    // What a node of another cluster calls itself says nothing about our member of
    // the same id.
    let is_ours = !matches!(refusal.reason, RefusalReason::Cluster | RefusalReason::Member);
    if let Some(peer) = shared.peer(hello.facts.node).filter(|_| is_ours) {
        peer.receive_refusal(refusal, false, &shared.limits);
        return;
    }
    let Refusal { reason, text } = refusal;
    let interval_ms = shared.limits.warning_interval_ms;
    if shared.grumble.borrow_mut().is_due(*reason, interval_ms) {
        tracing::warn!(?reason, "a connection to the peer port is refused: {text}");
    }
}

/// Reads until the connection ends. Everything complete that one read brought is
/// handed over together, so that the owner can take one step over all of it.
async fn read_messages(
    shared: &Shared,
    peer: &Peer,
    lane: Lane,
    stream: &mut TcpStream,
    mut buffer: BytesMut,
) -> Result<(), DecodeError> {
    let mut messages = Vec::new();
    loop {
        let bytes_before = buffer.len();
        let decoded = decode_messages(peer, &mut buffer, &mut messages);
        // What came whole before the damage was heard, so the owner gets it.
        shared.inbox.push_messages(&mut messages, bytes_before - buffer.len());
        let missing_bytes = decoded?;
        shared.inbox.room(lane).await;
        // A buffer grows with what has arrived, never with what was announced.
        let grown = buffer.len().min(GROWTH_BYTES_MAX);
        buffer.reserve(missing_bytes.min(grown).max(READ_BYTES));
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) => {}
        }
    }
}

/// Cuts the complete frames off the front of `buffer`. Returns how many bytes the
/// next one misses.
fn decode_messages(
    peer: &Peer,
    buffer: &mut BytesMut,
    messages: &mut Vec<IncomingEvent>,
) -> Result<usize, DecodeError> {
    loop {
        if buffer.len() < frame::HEADER_BYTES {
            return Ok(frame::HEADER_BYTES);
        }
        let header = frame::Header::decode(buffer)?;
        let bytes = frame::HEADER_BYTES + header.body_bytes();
        if buffer.len() < bytes {
            return Ok(bytes - buffer.len());
        }
        buffer.advance(frame::HEADER_BYTES);
        let body = take_body(buffer, header.body_bytes());
        let message = frame::decode(header, body)?;
        peer.hear(&message);
        peer.count(|metrics| {
            metrics.frames_received += 1;
            metrics.bytes_received += bytes as u64;
        });
        messages.push(IncomingEvent::Message { from: peer.node, message });
    }
}

fn take_body(buffer: &mut BytesMut, bytes: usize) -> Bytes {
    if bytes > COPIED_BYTES_MAX {
        return buffer.split_to(bytes).freeze();
    }
    let body = Bytes::copy_from_slice(&buffer[..bytes]);
    buffer.advance(bytes);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_message_that_is_kept_does_not_keep_the_read_buffer() {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        buffer.extend_from_slice(&[7; 300]);
        let kept = take_body(&mut buffer, 300);
        // All of the buffer can be used again though the message lives.
        assert!(buffer.try_reclaim(READ_BYTES));
        assert_eq!(kept, [7; 300][..]);
    }
}
