//! The next version, as tests/upgrade.rs plays it, has one field more where it may, and
//! what it writes for the release is what the release writes. (The other tests of this
//! crate run with the feature as well: golden.txt holds for both.)
#![cfg(feature = "next-version")]
#![allow(missing_docs)]

mod samples;

use bytes::{Bytes, BytesMut};
use samples::peer_messages;
use synod_kv::ServerId;
use synod_paxos::{Ballot, Message, NodeId, Position, Record, RecordBody, Slot};
use synod_wire::record::RecordHeader;
use synod_wire::{PeerMessage, batch, frame};

#[test]
fn a_heartbeat_has_one_field_more() {
    for (name, message) in peer_messages() {
        let encoded = |version| {
            let mut out = BytesMut::new();
            frame::encode_for(version, &message, &mut out);
            assert_eq!(
                out.len(),
                frame::HEADER_BYTES + frame::body_bytes_for(version, &message),
                "{name}"
            );
            out.freeze()
        };
        let is_heartbeat = matches!(message, PeerMessage::Paxos(Message::Heartbeat(_)));
        let more = if is_heartbeat { 8 } else { 0 };
        assert_eq!(encoded(2).len(), encoded(1).len() + more, "{name}");
        for version in [1, 2] {
            let mut bytes = encoded(version);
            let header = frame::Header::decode(&bytes).unwrap();
            let body = bytes.split_off(frame::HEADER_BYTES);
            assert_eq!(frame::decode(header, body).as_ref(), Ok(&message), "{name}");
        }
    }
}

#[test]
fn a_batch_has_one_field_more() {
    let id = ServerId { origin: 1, incarnation: 2, sequence: 3 };
    let built = |version| {
        let mut builder = batch::Builder::of_version(version, 7);
        builder.push_entry(&batch::encode_entry(id, b"a command"));
        builder.finish()
    };
    let (old, new) = (built(1), built(2));
    assert_eq!((old[0], new[0], new.len()), (1, 2, old.len() + 8));
    assert_eq!(batch::decode(old), batch::decode(new.clone()));
    assert!(batch::decode(new.slice(..new.len() - 1)).is_err());
    let mut other: Vec<u8> = new.into();
    other[13] ^= 1;
    assert!(batch::decode(Bytes::from(other)).is_err(), "the field is read");
}

#[test]
fn a_record_has_one_field_more() {
    let promised = Ballot { round: 4, node: NodeId(5) };
    let record = Record { promised, chosen_upto: Slot(3), body: RecordBody::Promise };
    let (header, _) = RecordHeader::of(&record, 1, Position(2), 3);
    let (old, new) = (header.in_format(1).encode().0, header.in_format(2).encode().0);
    assert_eq!((&old[70..78], &new[70..78]), (&[0; 8][..], &b"upgraded"[..]));
    for (bytes, format) in [(old, 1), (new, 2)] {
        assert_eq!(RecordHeader::decode(&bytes).unwrap().0, header.in_format(format));
    }
}
