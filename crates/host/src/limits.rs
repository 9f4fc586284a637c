//! How much a host holds before it refuses.

/// Bounds of one host. Sizes in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Writes of this node's clients that are not applied yet, sent or not.
    pub writes_waiting_max: usize,
    /// Their bytes.
    pub writes_waiting_bytes_max: usize,
    /// Writes of this node's clients on their way to a leader; the others wait
    /// without a sequence and can still be refused.
    pub writes_in_flight_max: usize,
    /// Their bytes.
    pub writes_in_flight_bytes_max: usize,
    /// Commands that a leader holds until they are cut into a value.
    pub queue_entries_max: usize,
    /// Their bytes.
    pub queue_bytes_max: usize,
    /// Commands in one message to the leader.
    pub forward_entries_max: usize,
    /// Their bytes; one larger command still travels, alone.
    pub forward_bytes_max: usize,
    /// Reads that wait for their index or for the state machine.
    pub reads_waiting_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            writes_waiting_max: 65_536,
            writes_waiting_bytes_max: 128 << 20,
            writes_in_flight_max: 16_384,
            writes_in_flight_bytes_max: 16 << 20,
            queue_entries_max: 131_072,
            queue_bytes_max: 64 << 20,
            forward_entries_max: 8_192,
            forward_bytes_max: 1 << 20,
            reads_waiting_max: 65_536,
        }
    }
}
