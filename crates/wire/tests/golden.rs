//! The bytes of each message are what they were: nodes of two builds talk to each
//! other, and a log that one build wrote is read by the next.
//!
//! When a format changes on purpose, its version changes with it, and the lines
//! that this test prints go into `golden.txt`.

mod samples;

use std::fmt::Write;

use bytes::BytesMut;
use samples::{about, commands, handshakes, peer_messages};
use synod_kv::ServerId;
use synod_wire::{batch, command, frame, handshake};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

#[test]
fn formats_are_stable() {
    let mut lines = Vec::new();
    for (name, message) in peer_messages() {
        let mut out = BytesMut::new();
        frame::encode(&message, &mut out);
        lines.push(format!("{name} {}", hex(&out)));
    }
    for (name, message) in handshakes() {
        let mut out = BytesMut::new();
        handshake::encode(&message, &mut out);
        lines.push(format!("{name} {}", hex(&out)));
    }
    let mut builder = batch::Builder::new(0x0807_0605_0403_0201);
    for (sequence, (name, sample)) in (1..).zip(commands()) {
        let encoded = command::encode(&sample);
        lines.push(format!("command-{name} {}", hex(&encoded)));
        let id = ServerId { origin: 0x0403_0201, incarnation: 0x1112_1314_1516_1718, sequence };
        builder.push_entry(&batch::encode_entry(id, &encoded));
    }
    lines.push(format!("batch {}", hex(&builder.finish())));
    lines.push(format!("about {}", hex(&about().encode())));
    let expected: Vec<&str> = include_str!("golden.txt").lines().collect();
    assert_eq!(expected.len(), lines.len(), "kinds of messages; now:\n{}", lines.join("\n"));
    for (expected, line) in expected.into_iter().zip(&lines) {
        assert_eq!(expected, line, "a format changed; now:\n{}", lines.join("\n"));
    }
}
