//! Configurations: as a value of the log, and as the list that a state keeps.
//!
//! ```text
//! configuration: version u8 | number u64 | alpha u64 | q1 u32 | q2 u32
//!                | voters: count u32, ids u32 | learners: count u32, ids u32
//!                | about: length u32, bytes
//! reigns:        version u8 | count u32 | (from u64 | length u32 | configuration)
//! ```

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use synod_paxos::{Configuration, Configurations, NodeId, Reign};

use crate::DecodeError;
use crate::reader::Reader;

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 1 + 16 + 8 + 12;

/// The longest encoded configuration.
pub const CONFIGURATION_BYTES_MAX: usize =
    FIXED_BYTES + 4 * Configuration::MEMBERS_MAX + Configuration::ABOUT_BYTES_MAX;

/// Bytes that [`encode`] makes of it.
pub(crate) fn encoded_bytes(configuration: &Configuration) -> usize {
    FIXED_BYTES + 4 * configuration.members().len() + configuration.about().len()
}

/// Encodes a configuration.
#[must_use]
pub fn encode(configuration: &Configuration) -> Bytes {
    let mut out = BytesMut::with_capacity(encoded_bytes(configuration));
    put(configuration, &mut out);
    out.freeze()
}

pub(crate) fn put(configuration: &Configuration, out: &mut BytesMut) {
    out.put_u8(VERSION);
    out.put_u64_le(configuration.number());
    out.put_u64_le(configuration.alpha());
    put_count(out, configuration.promise_quorum());
    put_count(out, configuration.accept_quorum());
    for nodes in [configuration.voters(), configuration.learners()] {
        put_count(out, nodes.len());
        nodes.iter().for_each(|node| out.put_u32_le(node.0));
    }
    put_count(out, configuration.about().len());
    out.put_slice(configuration.about());
}

/// Decodes a configuration; what it says about its members is a slice of `bytes`.
///
/// # Errors
/// When the bytes are not exactly one configuration, or one that is not possible.
pub fn decode(bytes: Bytes) -> Result<Configuration, DecodeError> {
    let mut reader = Reader::new(bytes, "a configuration");
    version(&mut reader)?;
    let (number, alpha) = (reader.u64()?, reader.u64()?);
    let (promise_quorum, accept_quorum) = (reader.u32()? as usize, reader.u32()? as usize);
    let (voters, learners) = (nodes(&mut reader)?, nodes(&mut reader)?);
    let about = reader.byte_string("what is said about members", Configuration::ABOUT_BYTES_MAX)?;
    reader.finish()?;
    Configuration::new(voters, promise_quorum, accept_quorum, alpha)
        .and_then(|configuration| configuration.with_learners(learners))
        .and_then(|configuration| configuration.with_about(about))
        .map(|configuration| configuration.numbered(number))
        .map_err(DecodeError::Configuration)
}

/// Encodes configurations with the slots from which they govern, for a state record.
#[must_use]
pub fn encode_reigns(reigns: &[Reign]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(VERSION);
    put_count(&mut out, reigns.len());
    for reign in reigns {
        out.put_u64_le(reign.from.0);
        put_count(&mut out, encoded_bytes(&reign.configuration));
        put(&reign.configuration, &mut out);
    }
    out.freeze()
}

/// Reads back what [`encode_reigns`] made.
///
/// # Errors
/// When the bytes are not exactly that, or no configurations that follow each other.
pub fn decode_reigns(bytes: Bytes) -> Result<Configurations, DecodeError> {
    let mut reader = Reader::new(bytes, "the configurations");
    version(&mut reader)?;
    let count = reader.count(Configurations::REIGNS_MAX, FIXED_BYTES)?;
    let mut reigns = Vec::with_capacity(count);
    for _ in 0..count {
        let from = reader.slot()?;
        let configuration =
            decode(reader.byte_string("a configuration", CONFIGURATION_BYTES_MAX)?)?;
        reigns.push(Reign { from, configuration: Arc::new(configuration) });
    }
    reader.finish()?;
    Configurations::restore(reigns).map_err(DecodeError::Configuration)
}

fn version(reader: &mut Reader) -> Result<(), DecodeError> {
    match reader.u8()? {
        VERSION => Ok(()),
        version => Err(DecodeError::Version { what: "a configuration", version }),
    }
}

fn nodes(reader: &mut Reader) -> Result<Vec<NodeId>, DecodeError> {
    let count = reader.count(Configuration::MEMBERS_MAX, 4)?;
    let mut nodes = Vec::with_capacity(count);
    for _ in 0..count {
        nodes.push(reader.node()?);
    }
    Ok(nodes)
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("counts and lengths are below 4 Gi"));
}
