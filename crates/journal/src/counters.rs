//! What a journal did.

/// What was written since the journal was opened.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Groups, those that only seal included: each one write and one fdatasync.
    pub groups: u64,
    /// Records.
    pub records: u64,
    /// Bytes of groups, padding included.
    pub bytes: u64,
    /// Segments begun.
    pub segments: u64,
}
