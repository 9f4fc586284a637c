//! Damaged, cut and invented bytes give an error: never a panic, never another
//! message, never memory that the bytes did not bring along.

mod samples;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use samples::{any_command, any_peer_message, commands, handshakes, peer_messages};
use synod_kv::{Command, Operation, ServerId, Txn, TxnOperation};
use synod_wire::{DecodeError, PeerMessage, batch, command, frame, handshake, version};

fn decode(encoded: &[u8]) -> Result<(), DecodeError> {
    let header = frame::Header::decode(encoded)?;
    let body = Bytes::copy_from_slice(&encoded[frame::HEADER_BYTES..]);
    let as_message = frame::decode(header, body.clone()).map(drop);
    as_message.or_else(|error| handshake::decode(header, body).map(drop).map_err(|_| error))
}

fn frames() -> Vec<(&'static str, BytesMut)> {
    let messages = peer_messages().into_iter().map(|(name, message)| {
        let mut out = BytesMut::new();
        frame::encode_for(version::NEWEST, &message, &mut out);
        (name, out)
    });
    let handshakes = handshakes().into_iter().map(|(name, message)| {
        let mut out = BytesMut::new();
        handshake::encode(&message, &mut out);
        (name, out)
    });
    messages.chain(handshakes).collect()
}

#[test]
fn every_cut_and_every_longer_frame_is_an_error() {
    for (name, encoded) in frames() {
        assert_eq!(decode(&encoded), Ok(()), "{name}");
        for end in 0..encoded.len() {
            assert!(decode(&encoded[..end]).is_err(), "{name} cut at {end}");
        }
        let longer = [&encoded[..], &[0]].concat();
        assert!(decode(&longer).is_err(), "{name} with one byte more");
    }
}

#[test]
fn every_changed_byte_of_a_frame_is_an_error() {
    for (name, encoded) in frames() {
        for at in 0..encoded.len() {
            for change in [0x01, 0x80, 0xFF, 0x55] {
                let mut damaged = encoded.clone();
                damaged[at] ^= change;
                assert!(decode(&damaged).is_err(), "{name}: byte {at} ^ {change:#x}");
            }
        }
    }
}

/// A frame around an invented body, with right checksums: what a buggy peer, not a
/// damaged wire, may send.
fn frame_around(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x53, 0xD1, 1, kind];
    frame.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    frame.extend(crc32c::crc32c(body).to_le_bytes());
    frame.extend(crc32c::crc32c(&frame).to_le_bytes());
    frame.extend(body);
    frame
}

#[test]
fn every_cut_body_is_an_error_even_with_right_checksums() {
    for (name, encoded) in frames() {
        let body = &encoded[frame::HEADER_BYTES..];
        for end in 0..body.len() {
            assert!(decode(&frame_around(encoded[3], &body[..end])).is_err(), "{name} at {end}");
        }
        let longer = [body, &[0]].concat();
        assert!(decode(&frame_around(encoded[3], &longer)).is_err(), "{name} with a byte more");
    }
}

#[test]
fn every_changed_byte_of_a_body_with_right_checksums_is_answered() {
    for (_, encoded) in frames() {
        let body = &encoded[frame::HEADER_BYTES..];
        for at in 0..body.len() {
            for change in [0x01, 0x80, 0xFF] {
                let mut damaged = body.to_vec();
                damaged[at] ^= change;
                // Either another message or an error; a panic fails the test.
                let _ = decode(&frame_around(encoded[3], &damaged));
            }
        }
    }
}

#[test]
fn fields_that_a_newer_writer_appended_to_a_block_are_skipped() {
    for (name, encoded) in frames() {
        let body = &encoded[frame::HEADER_BYTES..];
        let block = usize::from(u16::from_le_bytes([body[0], body[1]]));
        let mut newer = u16::try_from(block + 3).unwrap().to_le_bytes().to_vec();
        newer.extend(&body[2..2 + block]);
        newer.extend([1, 2, 3]);
        newer.extend(&body[2 + block..]);
        let newer = frame_around(encoded[3], &newer);
        assert_eq!(decode(&newer), Ok(()), "{name}");
    }
}

#[test]
fn a_count_is_checked_before_memory_is_taken_for_it() {
    // A promise, a Chosen, a heartbeat and a Forward that announce four billion.
    for (name, encoded) in frames() {
        let body = &encoded[frame::HEADER_BYTES..];
        let after_block = 2 + usize::from(u16::from_le_bytes([body[0], body[1]]));
        if !["promise", "chosen", "heartbeat", "forward"].contains(&name) {
            continue;
        }
        for count in [u32::MAX, 65_536, 60_000] {
            let mut forged = body.to_vec();
            forged[after_block..after_block + 4].copy_from_slice(&count.to_le_bytes());
            assert!(decode(&frame_around(encoded[3], &forged)).is_err(), "{name}");
        }
    }
    // A batch that announces 65,536 commands and has one.
    let mut builder = batch::Builder::new(1);
    builder.push_entry(&batch::encode_entry(
        ServerId { origin: 1, incarnation: 1, sequence: 1 },
        b"one",
    ));
    let mut forged = builder.finish().to_vec();
    forged[9..13].copy_from_slice(&65_536_u32.to_le_bytes());
    assert_eq!(batch::decode(forged.into()), Err(DecodeError::CutOff("a batch")));
}

#[test]
fn a_frame_longer_than_the_limit_is_refused_by_its_header() {
    let mut header = frame_around(3, b"")[..12].to_vec();
    header[4..8].copy_from_slice(&u32::try_from(frame::FRAME_BYTES_MAX + 1).unwrap().to_le_bytes());
    header.extend(crc32c::crc32c(&header).to_le_bytes());
    let size = frame::FRAME_BYTES_MAX as u64 + 1;
    assert_eq!(
        frame::Header::decode(&header),
        Err(DecodeError::TooLarge { what: "a frame", size })
    );
}

#[test]
fn a_handshake_frame_is_no_message_and_the_other_way_round() {
    for (name, encoded) in frames() {
        let header = frame::Header::decode(&encoded).unwrap();
        let body = Bytes::copy_from_slice(&encoded[frame::HEADER_BYTES..]);
        let results =
            [frame::decode(header, body.clone()).is_ok(), handshake::decode(header, body).is_ok()];
        assert_eq!(results.iter().filter(|ok| **ok).count(), 1, "{name}");
    }
}

#[test]
fn every_cut_command_entry_and_batch_is_an_error() {
    let mut builder = batch::Builder::new(3);
    for (sequence, (name, sample)) in (1..).zip(commands()) {
        let encoded = command::encode(&sample);
        for end in 0..encoded.len() {
            assert!(command::decode(encoded.slice(..end)).is_err(), "{name} cut at {end}");
        }
        let id = ServerId { origin: 1, incarnation: 2, sequence };
        let entry = batch::encode_entry(id, &encoded);
        for end in 0..entry.len() {
            assert!(batch::entry_id(&entry.slice(..end)).is_err(), "{name}'s entry at {end}");
        }
        builder.push_entry(&entry);
    }
    let encoded = builder.finish();
    for end in 0..encoded.len() {
        assert!(batch::decode(encoded.slice(..end)).is_err(), "the batch cut at {end}");
    }
}

#[test]
fn a_command_of_another_version_or_with_unknown_flags_is_refused() {
    let encoded = command::encode(&commands()[0].1).to_vec();
    for (at, byte) in [(0, 3), (0, 1), (0, 0), (1, 0), (1, 9), (2, 0x80), (2, 4), (3, 9)] {
        let mut other = encoded.clone();
        other[at] = byte;
        assert!(command::decode(other.into()).is_err(), "byte {at} = {byte}");
    }
}

#[test]
fn a_key_or_value_beyond_its_limit_is_refused() {
    let long_key = [&[2, 2, 0, 0][..], &65_537_u32.to_le_bytes(), &[0; 65_537]].concat();
    assert!(matches!(
        command::decode(long_key.into()),
        Err(DecodeError::TooLarge { what: "a key", size: 65_537 })
    ));
}

#[test]
fn what_is_no_transaction_is_refused() {
    let put = |key: &'static [u8]| TxnOperation::Put {
        key: Bytes::from_static(key),
        value: Bytes::new(),
        lease: None,
        want_previous: false,
    };
    let decoded = |success| {
        let operation = Operation::Txn(Txn { success, ..Txn::default() });
        command::decode(command::encode(&Command { idempotency: None, operation })).map(drop)
    };
    assert_eq!(decoded(vec![put(b"a"), put(b"b")]), Ok(()));
    assert_eq!(decoded(vec![put(b"a"), put(b"a")]), Err(DecodeError::Transaction));
    let (start, limit) = (Bytes::new(), 1);
    let range = TxnOperation::DeleteRange { start, end: None, limit };
    assert_eq!(decoded(vec![put(b"a"), range]), Err(DecodeError::Transaction));
    // Counts that lie: of more than there may be, and of more than there is.
    for (count, error) in [
        (1025, DecodeError::TooLarge { what: "a command", size: 1025 }),
        (1024, DecodeError::CutOff("a command")),
    ] {
        let forged = [&[2, 4, 0, 0][..], &u32::to_le_bytes(count), &[0; 64]].concat();
        assert_eq!(command::decode(forged.into()), Err(error));
        let forged = [&[2, 6, 0, 0, 3][..], &u32::to_le_bytes(count * 4), &[0; 64]].concat();
        assert!(command::decode(forged.into()).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn invented_bytes_never_panic(kind in 0_u8..0x50, body in samples::bytes(200)) {
        let _ = decode(&body);
        let _ = decode(&frame_around(kind, &body));
        let _ = command::decode(body.clone());
        let _ = batch::decode(body.clone());
        let _ = batch::entry_id(&body);
    }

    #[test]
    fn damaged_bodies_never_panic(
        message in any_peer_message(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut out = BytesMut::new();
        frame::encode(&message, &mut out);
        let mut body = out[frame::HEADER_BYTES..].to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        let _ = decode(&frame_around(out[3], &body));
    }

    #[test]
    fn damaged_commands_never_panic_and_are_read_in_one_way_only(
        sample in any_command(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut encoded = command::encode(&sample).to_vec();
        let at = at.index(encoded.len());
        encoded[at] = byte;
        // What is accepted encodes to the same bytes: no two encodings of one command.
        if let Ok(decoded) = command::decode(encoded.clone().into()) {
            prop_assert_eq!(command::encode(&decoded).to_vec(), encoded);
        }
    }
}

#[test]
fn forwarded_commands_keep_their_bytes() {
    for (_, message) in peer_messages() {
        if let PeerMessage::Forward(forward) = message {
            assert!(forward.commands.iter().all(|entry| batch::entry_id(entry).is_ok()));
            return;
        }
    }
    panic!("no sample is a Forward");
}
