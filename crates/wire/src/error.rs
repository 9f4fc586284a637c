//! Why bytes were not understood.

/// The bytes are not what they should be. Each variant names the field that was
/// wrong where there are several.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the field does.
    #[error("cut off in {0}")]
    CutOff(&'static str),
    /// Bytes are left over after the last field.
    #[error("{0} has bytes left over")]
    LeftOver(&'static str),
    /// The bytes do not begin as they must: the other side speaks something else.
    #[error("not a peer of this cluster software (wrong magic)")]
    Magic,
    /// Written in a version that this build does not read.
    #[error("{what} has version {version}, which this build does not read")]
    Version {
        /// What was read.
        what: &'static str,
        /// The version that it names.
        version: u8,
    },
    /// A tag that stands for nothing.
    #[error("{what} has the unknown tag {tag}")]
    Tag {
        /// What was read.
        what: &'static str,
        /// The tag.
        tag: u8,
    },
    /// A length or a count beyond its limit.
    #[error("{what} is too large: {size}")]
    TooLarge {
        /// What was read.
        what: &'static str,
        /// The length in bytes, or the count.
        size: u64,
    },
    /// A transaction that writes a key twice, or has too many parts.
    #[error("a transaction that cannot be carried out")]
    Transaction,
    /// Members and quorums that cannot be.
    #[error("a configuration that is not possible: {0:?}")]
    Configuration(synod_paxos::ConfigurationError),
    /// The checksum does not fit the bytes.
    #[error("{0} fails its checksum")]
    Checksum(&'static str),
    /// A text is not UTF-8, or has characters that have no place in it.
    #[error("{0} is not the text that it should be")]
    Text(&'static str),
}
