//! What a client may ask of one node.

use std::time::Duration;

use synod_kv::TXN_OPERATIONS_MAX;

/// The bounds of everything that a client can make a node hold or wait for.
/// Sizes are in bytes and times in milliseconds, as the names say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The longest key.
    pub key_bytes_max: usize,
    /// The longest value.
    pub value_bytes_max: usize,
    /// The body of a transaction.
    pub txn_bytes_max: usize,
    /// Comparisons of a transaction, and operations of a branch; no more than
    /// [`TXN_OPERATIONS_MAX`], which every replica takes.
    pub txn_operations_max: usize,
    /// Connections at a time; one more is answered 503 and closed.
    pub connections_max: usize,
    /// Header lines of one request.
    pub headers_max: usize,
    /// From the first byte of a request, or from the accept, to the end of its
    /// headers.
    pub header_timeout_ms: u64,
    /// Between two requests of a connection.
    pub idle_timeout_ms: u64,
    /// From the end of the headers to the end of the body.
    pub body_timeout_ms: u64,
    /// How long a client may take less than 64 KiB of an answer that waits for it.
    pub send_stall_ms: u64,
    /// How long a call may take when the request does not say.
    pub call_timeout_default_ms: u64,
    /// The longest that a request may ask for.
    pub call_timeout_max_ms: u64,
    /// Writes that wait for the replica at a time.
    pub writes_in_flight_max: usize,
    /// Reads that wait for the replica at a time.
    pub reads_in_flight_max: usize,
    /// Bodies of all requests together.
    pub bodies_bytes_max: usize,
    /// Answers of more than 16 KiB that wait for their clients, all together. One
    /// always fits.
    pub answers_bytes_max: usize,
    /// Entries of a listed page when the request does not say.
    pub list_entries_default: usize,
    /// Entries of a listed page.
    pub list_entries_max: usize,
    /// Keys and values of a listed page (one entry always fits).
    pub list_bytes_max: usize,
    /// Listings that are streamed at a time.
    pub list_streams_max: usize,
    /// Batches at a time. Together they hold at most half of `bodies_bytes_max`, beside the
    /// other bodies; one always fits.
    pub batches_max: usize,
    /// Watches at a time; but an eighth of the connections is left to other calls.
    pub watches_max: usize,
    /// For how long a watch may be silent before it tells how far it is.
    pub watch_progress_ms: u64,
    /// Events that wait for one watch. Beyond that it reads them by itself, when its client
    /// takes them.
    pub watch_queue_events_max: usize,
    /// Bytes of them. One event always fits.
    pub watch_queue_bytes_max: usize,
    /// The same of all watches together; an event that waits for many counts once.
    pub watch_held_bytes_max: usize,
    /// Keys that one command of a range delete removes.
    pub range_delete_keys_max: u32,
    /// The shortest time to live of a lease.
    pub lease_ttl_ms_min: u64,
    /// The longest time to live of a lease.
    pub lease_ttl_ms_max: u64,
    /// Calls that wait for a lock or an election at a time.
    pub lock_waits_max: usize,
    /// From the signal to stop until open connections are cut. A tenth of it is given to those
    /// on which nothing is under way.
    pub shutdown_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: 4 * 1024,
            value_bytes_max: 1024 * 1024,
            txn_bytes_max: 4 * 1024 * 1024,
            txn_operations_max: TXN_OPERATIONS_MAX,
            connections_max: 12_000,
            headers_max: 64,
            header_timeout_ms: 10_000,
            idle_timeout_ms: 120_000,
            body_timeout_ms: 10_000,
            send_stall_ms: 30_000,
            call_timeout_default_ms: 5_000,
            call_timeout_max_ms: 60_000,
            writes_in_flight_max: 4_096,
            reads_in_flight_max: 4_096,
            bodies_bytes_max: 128 * 1024 * 1024,
            answers_bytes_max: 256 * 1024 * 1024,
            list_entries_default: 100,
            list_entries_max: 1_000,
            list_bytes_max: 1024 * 1024,
            list_streams_max: 64,
            batches_max: 16,
            watches_max: 10_000,
            watch_progress_ms: 15_000,
            watch_queue_events_max: 1_024,
            watch_queue_bytes_max: 1024 * 1024,
            watch_held_bytes_max: 32 * 1024 * 1024,
            range_delete_keys_max: 10_000,
            lease_ttl_ms_min: 1_000,
            lease_ttl_ms_max: 366 * 86_400_000,
            lock_waits_max: 1_024,
            shutdown_timeout_ms: 10_000,
        }
    }
}

impl Limits {
    /// The longest request line and headers: three keys, each byte of them
    /// percent-encoded, and room for what clients send by themselves. A request
    /// target can't be longer than 64 KiB in any case.
    #[must_use]
    pub fn head_bytes_max(&self) -> usize {
        self.key_bytes_max.saturating_mul(9).saturating_add(8 * 1024).min(80 * 1024)
    }

    /// For how long a server that goes down waits for one more request of a connection.
    #[must_use]
    pub(crate) fn drain_grace(&self) -> Duration {
        Duration::from_millis(self.shutdown_timeout_ms / 10)
    }
}
