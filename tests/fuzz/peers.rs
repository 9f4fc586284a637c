//! What peers send: the bodies of frames and of the handshake, with right checksums
//! as a faulty peer would send them, and whole connections to a real transport.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use synod_paxos::{Ballot, NodeId, Position};
use synod_transport::{IncomingEvent, Limits, Own, PeerAddress, Transport, TransportSettings};
use synod_wire::frame::{self, HEADER_BYTES, Header};
use synod_wire::handshake::{self, HANDSHAKE_BYTES_MAX};
use synod_wire::{About, DecodeError, Facts, Handshake, Hello, Lane, PeerMessage, Versions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::commands::drawn;
use crate::engine::{Answer, Fuzz};
use crate::memory::within;
use crate::samples;

fn frame_of(message: &PeerMessage) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::encode(message, &mut out);
    out.to_vec()
}

fn frame_of_handshake(handshake: &Handshake) -> Vec<u8> {
    let mut out = BytesMut::new();
    handshake::encode(handshake, &mut out);
    out.to_vec()
}

fn messages() -> Vec<PeerMessage> {
    let named = samples::peer_messages().into_iter().map(|(_, message)| message);
    named.chain(drawn(&samples::any_peer_message(), 60)).collect()
}

/// An input of the two decoders of bodies: the kind, then the body.
fn kind_and_body(frame: &[u8]) -> Vec<u8> {
    [&frame[3..4], &frame[HEADER_BYTES..]].concat()
}

/// The header that fits the body of such an input.
fn header_for(input: &[u8]) -> Option<(Header, Bytes)> {
    let (kind, body) = input.split_first()?;
    let mut bytes = vec![0x53, 0xD1, 1, *kind];
    bytes.extend(u32::try_from(body.len()).expect("short").to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    seal_frame(&mut bytes);
    Some((Header::decode(&bytes).expect("a right header"), Bytes::copy_from_slice(body)))
}

/// Makes the checksums of the frame at the front right, as far as it is there.
fn seal_frame(bytes: &mut [u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.get(4..8)?.first_chunk()?) as usize;
    let end = HEADER_BYTES.checked_add(length)?;
    let body = crc32c::crc32c(bytes.get(HEADER_BYTES..end)?);
    bytes[8..12].copy_from_slice(&body.to_le_bytes());
    let head = crc32c::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&head.to_le_bytes());
    Some(end)
}

/// A peer of a later version appends fields, and a field that is absent keeps its
/// place: so several bodies may mean one message. But what was understood is written
/// and read back as the same, in no more bytes than it came in.
///
/// A list is given its room when its length was compared with the bytes that are left,
/// 8 for each byte at most (40 for a value of 5). What its elements keep comes on top: a
/// configuration has 4 for each byte at most (112 and 4 a member for 37 and 4 a member).
#[test]
fn message() {
    let valid = messages().iter().map(|message| kind_and_body(&frame_of(message))).collect();
    let fuzz = Fuzz { name: "message", valid, words: &[], bytes_max: 4 << 10 };
    fuzz.run(|input| {
        let Some((header, body)) = header_for(input) else {
            return Answer { accepted: false, words: "empty".to_owned() };
        };
        let decoded = within(128 + 12 * input.len(), || frame::decode(header, body));
        if let Ok(message) = &decoded {
            let again = frame_of(message);
            let body_bytes = again.len() - HEADER_BYTES;
            assert_eq!(body_bytes, frame::body_bytes(message));
            assert!(body_bytes < input.len(), "a message grew");
            let (header, body) = header_for(&kind_and_body(&again)).expect("a frame");
            assert_eq!(frame::decode(header, body).as_ref(), Ok(message));
        }
        Answer::of(&decoded, input[0])
    });
}

#[test]
fn handshake() {
    let valid = samples::handshakes();
    let valid = valid.iter().map(|(_, sample)| kind_and_body(&frame_of_handshake(sample)));
    let fuzz = Fuzz { name: "handshake", valid: valid.collect(), words: &[], bytes_max: 6 << 10 };
    fuzz.run(|input| {
        let Some((header, body)) = header_for(input) else {
            return Answer { accepted: false, words: "empty".to_owned() };
        };
        let decoded = within(128 + input.len(), || handshake::decode(header, body));
        if let Ok(handshake) = &decoded {
            assert!(input.len() <= 1 + HANDSHAKE_BYTES_MAX);
            let again = frame_of_handshake(handshake);
            // One that does not say its oldest version is written with it: four bytes.
            assert!(again.len() - HEADER_BYTES < input.len() + 4, "a handshake grew");
            let (header, body) = header_for(&kind_and_body(&again)).expect("a frame");
            assert_eq!(handshake::decode(header, body).as_ref(), Ok(handshake));
        }
        Answer::of(&decoded, input[0])
    });
}

/// What a configuration says of its members comes from the log, and so from peers. A
/// member is 72 bytes and its texts, for 28 and its texts.
#[test]
fn about() {
    let valid = vec![samples::about().encode().to_vec(), About::default().encode().to_vec()];
    let fuzz = Fuzz { name: "about", valid, words: &[], bytes_max: 2 << 10 };
    fuzz.run(|input| {
        let bytes = Bytes::copy_from_slice(input);
        let decoded = within(128 + 4 * input.len(), || About::decode(&bytes));
        if let Ok(about) = &decoded
            && !input.is_empty()
        {
            assert_eq!(about.encode(), input, "another encoding of the same");
        }
        let members = decoded.as_ref().map_or(0, |about| about.members.len());
        Answer::of(&decoded, members)
    });
}

/// Far beyond what any answer needs.
const PATIENCE: Duration = Duration::from_secs(20);
const CLUSTER: u128 = 0xC1;
/// The kind of the frame by which a connection is taken.
const WELCOME: u8 = 0x41;

fn hello(lane: Lane) -> Vec<u8> {
    let facts = Facts {
        cluster: CLUSTER,
        node: NodeId(2),
        store: 0x5002,
        incarnation: 1,
        process: 2,
        promised: Ballot::ZERO,
        position: Position::ZERO,
        founded: Some(0x7_5011),
    };
    let hello = Hello { versions: Versions::default(), facts, lane, to: NodeId(1) };
    frame_of_handshake(&Handshake::Hello(hello))
}

/// What a connection may bring along: which it is, and what the peer sends. With an
/// odd first byte every frame's checksums are made right.
fn connections() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for lane in [Lane::Control, Lane::Bulk] {
        let mut bytes = [vec![1], hello(lane)].concat();
        all.push(bytes.clone());
        messages().iter().take(20).for_each(|message| bytes.extend(frame_of(message)));
        all.push(bytes);
    }
    for message in messages() {
        all.push([vec![1], hello(Lane::Control), frame_of(&message)].concat());
    }
    all
}

fn settings(peer: String) -> TransportSettings {
    TransportSettings {
        versions: Versions::default(),
        own: Own {
            cluster: CLUSTER,
            node: NodeId(1),
            store: 0x5001,
            incarnation: 1,
            founded: 0x7_5011,
        },
        promised: Ballot::ZERO,
        position: Position::ZERO,
        peers: vec![PeerAddress { node: NodeId(2), address: peer, spare: None }],
        pins: Vec::new(),
        limits: Limits::default(),
    }
}

/// What a pure reader of the same bytes understands: the messages after a handshake,
/// up to the first fault.
fn understood(bytes: &[u8]) -> (Result<(), DecodeError>, Vec<PeerMessage>) {
    let mut messages = Vec::new();
    let mut rest = Bytes::copy_from_slice(bytes);
    let mut next = |shaken: bool| -> Result<bool, DecodeError> {
        if rest.len() < HEADER_BYTES {
            return Ok(false);
        }
        let header = Header::decode(&rest)?;
        if !shaken && header.body_bytes() > HANDSHAKE_BYTES_MAX {
            let size = header.body_bytes() as u64;
            return Err(DecodeError::TooLarge { what: "a handshake", size });
        }
        if rest.len() < HEADER_BYTES + header.body_bytes() {
            return Ok(false);
        }
        let mut frame = rest.split_to(HEADER_BYTES + header.body_bytes());
        let body = frame.split_off(HEADER_BYTES);
        if shaken {
            messages.push(frame::decode(header, body)?);
        } else if !matches!(handshake::decode(header, body)?, Handshake::Hello(_)) {
            return Err(DecodeError::LeftOver("not a hello"));
        }
        Ok(true)
    };
    let mut shaken = false;
    let result = loop {
        match next(shaken) {
            Ok(true) => shaken = true,
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    (result, messages)
}

/// Sends the bytes to a node as its peer 2 would. Returns what the node answered and
/// what arrived at its owner.
async fn send(bytes: &[u8], peer: String) -> (Vec<u8>, Vec<PeerMessage>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (transport, mut incoming) = Transport::start(settings(peer), listener).expect("it starts");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // The node may hang up at any byte.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let mut events = Vec::new();
    incoming.try_recv_batch(&mut events);
    drop(transport);
    let messages = events.into_iter().filter_map(|event| match event {
        IncomingEvent::Message { message, .. } => Some(message),
        _ => None,
    });
    (answer, messages.collect())
}

/// The accepting side takes from a connection exactly what the decoders read in it,
/// and keeps no more memory than what arrived and its read buffer.
#[test]
fn connection() {
    // Takes the node's own connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().map(|address| address.to_string()).expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let fuzz = Fuzz { name: "connection", valid: connections(), words: &[], bytes_max: 16 << 10 };
    fuzz.run(|input| {
        let Some((flags, bytes)) = input.split_first() else {
            return Answer { accepted: false, words: "empty".to_owned() };
        };
        let mut bytes = bytes.to_vec();
        let mut at = 0;
        while let Some(length) = (flags & 1 == 1).then(|| seal_frame(&mut bytes[at..])).flatten() {
            at += length;
        }
        let (result, expected) = understood(&bytes);
        let (answer, messages) = within((256 << 10) + 12 * input.len(), || {
            let local = tokio::task::LocalSet::new();
            let sent = async { timeout(PATIENCE, send(&bytes, silent.clone())).await };
            local.block_on(&runtime, sent).expect("the connection hangs")
        });
        let kind = answer.get(3).copied();
        // A node that hangs up before it read everything may take back its answer.
        if kind == Some(WELCOME) || !messages.is_empty() {
            assert_eq!(messages, expected, "other messages than the decoders read");
        }
        let words = format!("{kind:?} {} {result:?}", messages.len().min(3));
        Answer { accepted: kind == Some(WELCOME) && result.is_ok(), words }
    });
}
