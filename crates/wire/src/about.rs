//! What a configuration says about its members: the bytes that the core carries and
//! never looks into.
//!
//! ```text
//! about:  version u8 | ids used up to u32 | count u32 | members in order of their ids
//! member: id u32 | store u128, 0 while unknown | peer: length u32, text
//!         | client URL: length u32, text
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use synod_paxos::{Configuration, NodeId};

use crate::DecodeError;
use crate::reader::Reader;

const VERSION: u8 = 1;
const MEMBER_BYTES_MIN: usize = 4 + 16 + 4 + 4;

/// The longest address of a member's peers' door: a host name and a port.
pub const PEER_BYTES_MAX: usize = 255 + 6;

/// The longest base URL of a member's clients' door.
pub const CLIENT_URL_BYTES_MAX: usize = 512;

/// The longest encoding, which a configuration has room for.
pub const ABOUT_BYTES_MAX: usize =
    1 + 8 + Configuration::MEMBERS_MAX * (MEMBER_BYTES_MIN + PEER_BYTES_MAX + CLIENT_URL_BYTES_MAX);

const _: () = assert!(ABOUT_BYTES_MAX <= Configuration::ABOUT_BYTES_MAX);

/// What a configuration says about its members.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct About {
    /// No node with a higher id was ever a member. An id is used once, so one up to here
    /// that is no member's was removed, or never will be one.
    pub ids_used_upto: u32,
    /// In order of their ids.
    pub members: Vec<AboutMember>,
}

/// What a configuration says about one member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AboutMember {
    /// Its id.
    pub node: NodeId,
    /// The id of its data folder; none if nobody had met it when this was written.
    pub store: Option<u128>,
    /// Host and port at which its peers reach it.
    pub peer: String,
    /// The base URL at which its clients reach it.
    pub client_url: String,
}

impl AboutMember {
    /// Whether the addresses can be encoded, and read back.
    #[must_use]
    pub fn is_encodable(&self) -> bool {
        let fits = |text: &str, bytes_max| {
            text.len() <= bytes_max && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        fits(&self.peer, PEER_BYTES_MAX) && fits(&self.client_url, CLIENT_URL_BYTES_MAX)
    }
}

impl About {
    /// What is said about one member.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&AboutMember> {
        let place = self.members.binary_search_by_key(&node, |member| member.node);
        place.ok().map(|place| &self.members[place])
    }

    /// The bytes for [`Configuration::with_about`].
    ///
    /// # Panics
    /// When something in it is beyond its limit, or the ids are not in order: the caller
    /// checks what people gave it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        assert!(self.members.len() <= Configuration::MEMBERS_MAX, "too many members");
        assert!(self.is_in_order(), "members out of order");
        let mut out = BytesMut::with_capacity(256);
        out.put_u8(VERSION);
        out.put_u32_le(self.ids_used_upto);
        out.put_u32_le(u32::try_from(self.members.len()).expect("a few members"));
        for member in &self.members {
            out.put_u32_le(member.node.0);
            out.put_u128_le(member.store.unwrap_or(0));
            put_text(&member.peer, PEER_BYTES_MAX, &mut out);
            put_text(&member.client_url, CLIENT_URL_BYTES_MAX, &mut out);
        }
        out.freeze()
    }

    /// Reads back what [`About::encode`] made. No bytes at all, as in the first
    /// configuration of a cluster, say nothing.
    ///
    /// # Errors
    /// When the bytes are not exactly that.
    pub fn decode(bytes: &Bytes) -> Result<About, DecodeError> {
        if bytes.is_empty() {
            return Ok(About::default());
        }
        let mut reader = Reader::new(bytes.clone(), "what is said about members");
        let version = reader.u8()?;
        if version != VERSION {
            return Err(DecodeError::Version { what: "what is said about members", version });
        }
        let ids_used_upto = reader.u32()?;
        let count = reader.count(Configuration::MEMBERS_MAX, MEMBER_BYTES_MIN)?;
        let mut members = Vec::with_capacity(count);
        for _ in 0..count {
            members.push(AboutMember {
                node: reader.node()?,
                store: Some(reader.u128()?).filter(|store| *store != 0),
                peer: text(&mut reader, "a peer's address", PEER_BYTES_MAX)?,
                client_url: text(&mut reader, "a client URL", CLIENT_URL_BYTES_MAX)?,
            });
        }
        reader.finish()?;
        let about = About { ids_used_upto, members };
        if !about.is_in_order() {
            let error = synod_paxos::ConfigurationError::MemberIds;
            return Err(DecodeError::Configuration(error));
        }
        Ok(about)
    }

    fn is_in_order(&self) -> bool {
        self.members.windows(2).all(|two| two[0].node < two[1].node)
    }
}

fn put_text(text: &str, bytes_max: usize, out: &mut BytesMut) {
    assert!(text.len() <= bytes_max, "an address is too long: {text:?}");
    out.put_u32_le(u32::try_from(text.len()).expect("a short text"));
    out.put_slice(text.as_bytes());
}

/// Addresses are printed and put into headers, so they are visible ASCII.
fn text(reader: &mut Reader, what: &'static str, bytes_max: usize) -> Result<String, DecodeError> {
    let bytes = reader.byte_string(what, bytes_max)?;
    if !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(DecodeError::Text(what));
    }
    Ok(String::from_utf8(bytes.to_vec()).expect("ASCII is UTF-8"))
}
