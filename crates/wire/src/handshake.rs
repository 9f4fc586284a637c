//! The handshake: who dials says who it is and whom it wants, who accepts says the
//! same of itself or refuses with a reason.
//!
//! Frames and handshakes keep their form in every version, but for fields at the end of a
//! block: so two versions can tell each other what they speak.

use bytes::{BufMut, Bytes, BytesMut};
use synod_paxos::{Ballot, NodeId, Position};

use crate::frame::{Header, encode_with};
use crate::message::{put_ballot, put_block};
use crate::reader::Reader;
use crate::{DecodeError, Versions};

/// The longest body of a handshake frame; a longer one is refused by its header.
pub const HANDSHAKE_BYTES_MAX: usize = 4 << 10;

/// The longest text of a refusal; the rest is cut off.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 1 << 10;

const HELLO: u8 = 0x40;
const WELCOME: u8 = 0x41;
const REFUSAL: u8 = 0x42;

/// What a node says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The cluster that it belongs to.
    pub cluster: u128,
    /// Its node id.
    pub node: NodeId,
    /// The random id of its data folder.
    pub store: u128,
    /// Which of the folder's lives this is.
    pub incarnation: u64,
    /// Drawn at random when the process started: two processes that live the same
    /// life of one folder run with copies of it.
    pub process: u64,
    /// The highest promise that it has told anybody.
    pub promised: Ballot,
    /// The last journal position that it has told anybody as durable.
    pub position: Position,
    /// A hash over the members and quorums that its cluster began with, as it knows them; none
    /// if it does not say.
    pub founded: Option<u64>,
}

/// Which of a pair's connections this is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    /// Votes, heartbeats and everything else that is small.
    Control,
    /// Values for catch-up, and other large messages.
    Bulk,
}

/// The first frame on a connection, from the node that dialled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// What the sender speaks.
    pub versions: Versions,
    /// The sender.
    pub facts: Facts,
    /// The use of this connection.
    pub lane: Lane,
    /// The node that the sender wants to reach.
    pub to: NodeId,
}

/// The answer of a node that takes the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// What the sender speaks.
    pub versions: Versions,
    /// The sender.
    pub facts: Facts,
}

/// The answer of a node that does not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Why, for programs.
    pub reason: RefusalReason,
    /// Why, and what to do about it, for people.
    pub text: String,
}

/// Why a handshake was refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RefusalReason {
    /// The two speak different versions.
    Protocol,
    /// The two belong to different clusters.
    Cluster,
    /// Another node was wanted here.
    Addressee,
    /// The dialling node is no member, or claims to be the accepting one.
    Member,
    /// The dialling node's store id is not the one it had before.
    Store,
    /// The dialling node's data folder went back in time.
    WentBack,
    /// A later life of the dialling node is known.
    Incarnation,
    /// The dialling node is a member no more.
    Removed {
        /// The configuration that says so. The node that refuses durably knows that it
        /// governs.
        number: u64,
        /// When so many of its voters have said so, nobody will ever need the removed node
        /// again.
        witnesses: u32,
    },
    /// One that this release does not know: the text says what to do.
    Other(u8),
}

const REMOVED: u8 = 8;

impl RefusalReason {
    /// Those without more to tell.
    const PLAIN: [RefusalReason; 7] = [
        RefusalReason::Protocol,
        RefusalReason::Cluster,
        RefusalReason::Addressee,
        RefusalReason::Member,
        RefusalReason::Store,
        RefusalReason::WentBack,
        RefusalReason::Incarnation,
    ];

    fn tag(self) -> u8 {
        match self {
            RefusalReason::Protocol => 1,
            RefusalReason::Cluster => 2,
            RefusalReason::Addressee => 3,
            RefusalReason::Member => 4,
            RefusalReason::Store => 5,
            RefusalReason::WentBack => 6,
            RefusalReason::Incarnation => 7,
            RefusalReason::Removed { .. } => REMOVED,
            RefusalReason::Other(tag) => tag,
        }
    }
}

/// A frame of the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Handshake {
    /// The dialling side's.
    Hello(Hello),
    /// The accepting side's yes.
    Welcome(Welcome),
    /// The accepting side's no.
    Refusal(Refusal),
}

/// Appends the handshake to `out` as one frame, header included.
pub fn encode(handshake: &Handshake, out: &mut BytesMut) {
    match handshake {
        Handshake::Hello(hello) => encode_with(HELLO, out, |out| {
            put_block(out, |out| {
                out.put_u32_le(hello.versions.newest);
                put_facts(out, &hello.facts);
                out.put_u8(match hello.lane {
                    Lane::Control => 1,
                    Lane::Bulk => 2,
                });
                out.put_u32_le(hello.to.0);
                out.put_u32_le(hello.versions.oldest);
                put_founded(out, &hello.facts);
            });
        }),
        Handshake::Welcome(welcome) => encode_with(WELCOME, out, |out| {
            put_block(out, |out| {
                out.put_u32_le(welcome.versions.newest);
                put_facts(out, &welcome.facts);
                out.put_u32_le(welcome.versions.oldest);
                put_founded(out, &welcome.facts);
            });
        }),
        Handshake::Refusal(refusal) => encode_with(REFUSAL, out, |out| {
            put_block(out, |out| {
                out.put_u8(refusal.reason.tag());
                if let RefusalReason::Removed { number, witnesses } = refusal.reason {
                    out.put_u64_le(number);
                    out.put_u32_le(witnesses);
                }
            });
            let text = cut_text(&refusal.text);
            out.put_u32_le(u32::try_from(text.len()).expect("the text was cut"));
            out.put_slice(text.as_bytes());
        }),
    }
}

/// Decodes the body of a handshake frame.
///
/// # Errors
/// When the body has another length or checksum than the header says, or is not
/// exactly one handshake.
pub fn decode(header: Header, body: Bytes) -> Result<Handshake, DecodeError> {
    header.check(&body)?;
    if body.len() > HANDSHAKE_BYTES_MAX {
        return Err(DecodeError::TooLarge { what: "a handshake", size: body.len() as u64 });
    }
    let mut reader = Reader::new(body, "a handshake");
    let mut block = reader.block()?;
    let handshake = match header.kind {
        HELLO => {
            let newest = block.u32()?;
            let mut facts = read_facts(&mut block)?;
            let lane = match block.u8()? {
                1 => Lane::Control,
                2 => Lane::Bulk,
                tag => {
                    return Err(DecodeError::Tag { what: "a lane", tag });
                }
            };
            let to = block.node()?;
            let versions = read_versions(newest, &mut block)?;
            facts.founded = read_founded(&mut block);
            Handshake::Hello(Hello { versions, facts, lane, to })
        }
        WELCOME => {
            let (newest, mut facts) = (block.u32()?, read_facts(&mut block)?);
            let versions = read_versions(newest, &mut block)?;
            facts.founded = read_founded(&mut block);
            Handshake::Welcome(Welcome { versions, facts })
        }
        REFUSAL => {
            let reason = read_reason(&mut block)?;
            let text = reader.byte_string("a refusal's text", REFUSAL_TEXT_BYTES_MAX)?;
            let text = std::str::from_utf8(&text)
                .map_err(|_| DecodeError::Text("a refusal's text"))?
                .to_owned();
            Handshake::Refusal(Refusal { reason, text })
        }
        tag => {
            return Err(DecodeError::Tag { what: "a handshake", tag });
        }
    };
    reader.finish()?;
    Ok(handshake)
}

/// A sender that says nothing more speaks one version only.
fn read_versions(newest: u32, block: &mut Reader) -> Result<Versions, DecodeError> {
    let oldest = if block.is_empty() { newest } else { block.u32()? };
    Ok(Versions { oldest, newest })
}

fn read_reason(block: &mut Reader) -> Result<RefusalReason, DecodeError> {
    let tag = block.u8()?;
    if tag == REMOVED {
        return Ok(RefusalReason::Removed { number: block.u64()?, witnesses: block.u32()? });
    }
    let reason = RefusalReason::PLAIN.into_iter().find(|reason| reason.tag() == tag);
    Ok(reason.unwrap_or(RefusalReason::Other(tag)))
}

fn put_facts(out: &mut BytesMut, facts: &Facts) {
    out.put_u128_le(facts.cluster);
    out.put_u32_le(facts.node.0);
    out.put_u128_le(facts.store);
    out.put_u64_le(facts.incarnation);
    out.put_u64_le(facts.process);
    put_ballot(out, facts.promised);
    out.put_u64_le(facts.position.0);
}

fn read_facts(reader: &mut Reader) -> Result<Facts, DecodeError> {
    Ok(Facts {
        cluster: reader.u128()?,
        node: reader.node()?,
        store: reader.u128()?,
        incarnation: reader.u64()?,
        process: reader.u64()?,
        promised: reader.ballot()?,
        position: Position(reader.u64()?),
        founded: None,
    })
}

/// At the end of the block, where older readers skip it.
fn put_founded(out: &mut BytesMut, facts: &Facts) {
    if let Some(founded) = facts.founded {
        out.put_u64_le(founded);
    }
}

/// None of a release from before that says something else there.
fn read_founded(block: &mut Reader) -> Option<u64> {
    block.u64().ok()
}

/// The longest beginning of `text` within the limit that ends between characters.
fn cut_text(text: &str) -> &str {
    &text[..text.floor_char_boundary(REFUSAL_TEXT_BYTES_MAX)]
}
