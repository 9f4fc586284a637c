//! What was encoded is decoded to the same, and without a copy of what is large.

mod samples;

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use samples::{any_command, any_peer_message, commands, handshakes, peer_messages};
use synod_kv::ServerId;
use synod_paxos::{Message, Value};
use synod_wire::{
    DecodeError, Handshake, Hello, PeerMessage, Versions, batch, command, frame, handshake,
};

fn decode(encoded: &[u8]) -> Result<PeerMessage, DecodeError> {
    let header = frame::Header::decode(encoded)?;
    frame::decode(header, Bytes::copy_from_slice(&encoded[frame::HEADER_BYTES..]))
}

#[test]
fn no_field_of_a_message_takes_the_place_of_another() {
    for (name, message) in peer_messages() {
        let mut out = BytesMut::new();
        frame::encode(&message, &mut out);
        assert_eq!(out.len(), frame::HEADER_BYTES + frame::body_bytes(&message), "{name}");
        assert_eq!(decode(&out), Ok(message), "{name}");
    }
    for (name, message) in handshakes() {
        let mut out = BytesMut::new();
        handshake::encode(&message, &mut out);
        let header = frame::Header::decode(&out).unwrap();
        let body = out.split_off(frame::HEADER_BYTES).freeze();
        assert_eq!(handshake::decode(header, body), Ok(message), "{name}");
    }
    for (name, sample) in commands() {
        assert_eq!(command::decode(command::encode(&sample)), Ok(sample), "{name}");
    }
}

#[test]
fn values_are_slices_of_the_frame() {
    for (name, message) in peer_messages() {
        let mut out = BytesMut::new();
        frame::encode(&message, &mut out);
        let header = frame::Header::decode(&out).unwrap();
        let body = out.split_off(frame::HEADER_BYTES).freeze();
        let range = body.as_ptr_range();
        let decoded = frame::decode(header, body.clone()).unwrap();
        let parts: Vec<Bytes> = match decoded {
            PeerMessage::Paxos(Message::Accept(accept)) => batches([accept.value]),
            PeerMessage::Paxos(Message::Chosen(chosen)) => batches(chosen.values),
            PeerMessage::Forward(forward) => forward.commands,
            _ => continue,
        };
        for part in parts.iter().filter(|part| !part.is_empty()) {
            assert!(range.contains(&part.as_ptr()), "{name} was copied");
        }
    }
}

fn batches(values: impl IntoIterator<Item = Value>) -> Vec<Bytes> {
    let batch = |value| match value {
        Value::Batch(bytes) => Some(bytes),
        Value::Noop | Value::Configuration(_) => None,
    };
    values.into_iter().filter_map(batch).collect()
}

#[test]
fn a_refusal_keeps_as_much_of_a_long_text_as_may_be_sent() {
    let text = "ä".repeat(handshake::REFUSAL_TEXT_BYTES_MAX);
    let reason = synod_wire::RefusalReason::Store;
    let mut out = BytesMut::new();
    handshake::encode(&Handshake::Refusal(synod_wire::Refusal { reason, text }), &mut out);
    let header = frame::Header::decode(&out).unwrap();
    let body = out.split_off(frame::HEADER_BYTES).freeze();
    let Ok(Handshake::Refusal(refusal)) = handshake::decode(header, body) else {
        panic!("not a refusal");
    };
    assert_eq!(refusal.text, "ä".repeat(handshake::REFUSAL_TEXT_BYTES_MAX / 2));
}

#[test]
fn a_full_batch_is_read_back_and_a_fuller_one_is_not_built() {
    let id = |sequence| ServerId { origin: 1, incarnation: 2, sequence };
    let mut builder = batch::Builder::new(7);
    for sequence in 0..batch::ENTRIES_MAX as u64 {
        assert!(builder.fits(batch::ENTRY_OVERHEAD_BYTES));
        builder.push_entry(&batch::encode_entry(id(sequence), b""));
    }
    assert!(!builder.fits(batch::ENTRY_OVERHEAD_BYTES));
    assert_eq!(builder.entries(), batch::ENTRIES_MAX);
    let decoded = batch::decode(builder.finish()).unwrap();
    assert_eq!(decoded.entries.len(), batch::ENTRIES_MAX);
    assert_eq!(decoded.entries.last().unwrap().id, id(batch::ENTRIES_MAX as u64 - 1));

    let large = batch::encode_entry(id(1), &vec![0; command::VALUE_BYTES_MAX]);
    let mut builder = batch::Builder::new(7);
    builder.push_entry(&large);
    assert!(!builder.fits(large.len()));
    assert!(batch::decode(builder.finish()).is_ok());
}

/// A node that says nothing of an oldest version, as the first ones did not.
#[test]
fn a_hello_without_an_oldest_version_is_of_one_version() {
    for (name, message) in handshakes() {
        let Handshake::Hello(hello) = message else { continue };
        if hello.facts.founded.is_some() {
            continue; // Those that say this, behind it, say the oldest version.
        }
        let mut out = BytesMut::new();
        handshake::encode(&Handshake::Hello(hello.clone()), &mut out);
        let body = out.split_off(frame::HEADER_BYTES);
        let fields = u16::from_le_bytes([body[0], body[1]]) - 4;
        let mut shorter = fields.to_le_bytes().to_vec();
        shorter.extend_from_slice(&body[2..2 + usize::from(fields)]);
        let mut framed = vec![0x53, 0xD1, 1, 0x40];
        framed.extend_from_slice(&u32::try_from(shorter.len()).unwrap().to_le_bytes());
        framed.extend_from_slice(&crc32c::crc32c(&shorter).to_le_bytes());
        framed.extend_from_slice(&crc32c::crc32c(&framed).to_le_bytes());
        let header = frame::Header::decode(&framed).unwrap();
        let newest = hello.versions.newest;
        let alone = Versions { oldest: newest, newest };
        let expected = Handshake::Hello(Hello { versions: alone, ..hello });
        assert_eq!(handshake::decode(header, shorter.into()), Ok(expected), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_message_comes_back(message in any_peer_message()) {
        let mut out = BytesMut::from(&b"before"[..]);
        frame::encode(&message, &mut out);
        let encoded = &out[6..];
        prop_assert_eq!(encoded.len(), frame::HEADER_BYTES + frame::body_bytes(&message));
        prop_assert_eq!(decode(encoded), Ok(message));
    }

    #[test]
    fn any_command_comes_back(sample in any_command()) {
        let encoded = command::encode(&sample);
        prop_assert!(encoded.len() <= command::encoded_bytes(&sample));
        prop_assert_eq!(command::decode(encoded), Ok(sample));
    }

    #[test]
    fn any_batch_comes_back(
        cluster_time_ms in any::<u64>(),
        entries in vec(((any::<u32>(), any::<u64>(), any::<u64>()), samples::bytes(60)), 0..20),
    ) {
        let mut builder = batch::Builder::new(cluster_time_ms);
        let mut expected = Vec::new();
        for ((origin, incarnation, sequence), command) in entries {
            let id = ServerId { origin, incarnation, sequence };
            let encoded = batch::encode_entry(id, &command);
            prop_assert_eq!(batch::entry_id(&encoded), Ok(id));
            builder.push_entry(&encoded);
            expected.push(batch::Entry { id, command });
        }
        let size_bytes = builder.size_bytes();
        let encoded = builder.finish();
        prop_assert_eq!(encoded.len(), size_bytes);
        prop_assert_eq!(
            batch::decode(encoded),
            Ok(batch::Batch { cluster_time_ms, entries: expected })
        );
    }
}

#[test]
fn a_refusal_for_a_reason_of_a_later_release_is_told() {
    let reason = synod_wire::RefusalReason::Other(200);
    let refusal = synod_wire::Refusal { reason, text: "do something new".to_owned() };
    let mut out = BytesMut::new();
    handshake::encode(&Handshake::Refusal(refusal.clone()), &mut out);
    let header = frame::Header::decode(&out).unwrap();
    let body = out.split_off(frame::HEADER_BYTES).freeze();
    assert_eq!(handshake::decode(header, body), Ok(Handshake::Refusal(refusal)));
}
