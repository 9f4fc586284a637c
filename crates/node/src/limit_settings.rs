//! The bounds that an operator may set.

use serde::Deserialize;
use synod_kv::TXN_OPERATIONS_MAX;

use crate::settings::{Wrong, within, wrong};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Bounds of everything that a node holds or waits for. Sizes are in bytes and
/// times in milliseconds, as the names say.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// The longest key.
    pub key_bytes_max: usize,
    /// The longest value.
    pub value_bytes_max: usize,
    /// The body of a transaction.
    pub txn_bytes_max: usize,
    /// Comparisons of a transaction, and operations of a branch.
    pub txn_operations_max: usize,
    /// Client connections at a time.
    pub connections_max: usize,
    /// From the first byte of a request to the end of its headers.
    pub header_timeout_ms: u64,
    /// From the end of the headers to the end of the body.
    pub body_timeout_ms: u64,
    /// Between two requests of a connection.
    pub idle_timeout_ms: u64,
    /// How long a call may take when the request does not say.
    pub call_timeout_default_ms: u64,
    /// The longest that a request may ask for.
    pub call_timeout_max_ms: u64,
    /// Entries of a listed page.
    pub list_entries_max: usize,
    /// Keys and values of a listed page.
    pub list_bytes_max: usize,
    /// Watches at a time; an eighth of the connections is left to other calls.
    pub watches_max: usize,
    /// For how long a watch may be silent before it tells how far it is.
    pub watch_progress_ms: u64,
    /// Keys that one range delete removes.
    pub range_delete_keys_max: u32,
    /// The shortest time to live of a lease.
    pub lease_ttl_ms_min: u64,
    /// The longest time to live of a lease.
    pub lease_ttl_ms_max: u64,
    /// Writes of this node's clients that wait for their outcome.
    pub writes_waiting_max: usize,
    /// Their bytes.
    pub writes_waiting_bytes_max: usize,
    /// Reads of this node's clients that wait for their confirmation.
    pub reads_waiting_max: usize,
    /// Slots that a leader keeps open at once.
    pub window_slots_max: u64,
    /// Bytes of values that a leader keeps open at once.
    pub window_bytes_max: usize,
    /// A slot's value is cut as soon as this many bytes of commands wait.
    pub batch_bytes_max: usize,
    /// Chosen values kept in memory for peers that lag a little.
    pub cache_bytes_max: usize,
    /// Journal bytes not yet durable at which a leader hands over.
    pub unsynced_bytes_max: usize,
    /// Size of a file of the journal.
    pub segment_bytes: u64,
    /// Messages that wait for one peer, in bytes.
    pub peer_queue_bytes_max: usize,
    /// Memory of the state's write buffers.
    pub write_buffer_bytes: usize,
    /// Memory of the state's block cache.
    pub block_cache_bytes: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        LimitSettings {
            key_bytes_max: 4 << 10,
            value_bytes_max: 1 << 20,
            txn_bytes_max: 4 << 20,
            txn_operations_max: TXN_OPERATIONS_MAX,
            connections_max: 12_000,
            header_timeout_ms: 10_000,
            body_timeout_ms: 10_000,
            idle_timeout_ms: 120_000,
            call_timeout_default_ms: 5_000,
            call_timeout_max_ms: 60_000,
            list_entries_max: 1_000,
            list_bytes_max: 1 << 20,
            watches_max: 10_000,
            watch_progress_ms: 15_000,
            range_delete_keys_max: 10_000,
            lease_ttl_ms_min: 1_000,
            lease_ttl_ms_max: 366 * 86_400_000,
            writes_waiting_max: 16_384,
            writes_waiting_bytes_max: 64 << 20,
            reads_waiting_max: 16_384,
            window_slots_max: 256,
            window_bytes_max: 32 << 20,
            batch_bytes_max: 512 << 10,
            cache_bytes_max: 16 << 20,
            unsynced_bytes_max: 64 << 20,
            segment_bytes: 16 << 20,
            peer_queue_bytes_max: 64 << 20,
            write_buffer_bytes: 8 << 20,
            block_cache_bytes: 32 << 20,
        }
    }
}

impl LimitSettings {
    /// The bounds of each bound.
    pub(crate) fn check(&self) -> Result<(), Wrong> {
        let bounds = [
            ("key_bytes_max", self.key_bytes_max as u64, 1, 16 * KIB),
            ("value_bytes_max", self.value_bytes_max as u64, 1, 8 * MIB),
            ("txn_bytes_max", self.txn_bytes_max as u64, 1, 8 * MIB),
            // What is in the log every replica takes, whatever is set: up to the constant.
            ("txn_operations_max", self.txn_operations_max as u64, 1, TXN_OPERATIONS_MAX as u64),
            ("connections_max", self.connections_max as u64, 1, 1_000_000),
            ("header_timeout_ms", self.header_timeout_ms, 10, 600_000),
            ("body_timeout_ms", self.body_timeout_ms, 10, 600_000),
            ("idle_timeout_ms", self.idle_timeout_ms, 10, 86_400_000),
            ("call_timeout_default_ms", self.call_timeout_default_ms, 1, 600_000),
            ("call_timeout_max_ms", self.call_timeout_max_ms, 1, 600_000),
            ("list_entries_max", self.list_entries_max as u64, 1, 100_000),
            ("list_bytes_max", self.list_bytes_max as u64, KIB, 64 * MIB),
            ("watches_max", self.watches_max as u64, 0, 1_000_000),
            ("watch_progress_ms", self.watch_progress_ms, 10, 600_000),
            ("range_delete_keys_max", u64::from(self.range_delete_keys_max), 1, 10_000),
            ("lease_ttl_ms_min", self.lease_ttl_ms_min, 100, 86_400_000),
            ("lease_ttl_ms_max", self.lease_ttl_ms_max, self.lease_ttl_ms_min, 366 * 86_400_000),
            ("writes_waiting_max", self.writes_waiting_max as u64, 1, 1_000_000),
            ("writes_waiting_bytes_max", self.writes_waiting_bytes_max as u64, MIB, 8 * GIB),
            ("reads_waiting_max", self.reads_waiting_max as u64, 1, 1_000_000),
            ("window_slots_max", self.window_slots_max, 1, 65_536),
            ("window_bytes_max", self.window_bytes_max as u64, MIB, GIB),
            ("batch_bytes_max", self.batch_bytes_max as u64, KIB, 4 * MIB),
            ("cache_bytes_max", self.cache_bytes_max as u64, MIB, 8 * GIB),
            ("unsynced_bytes_max", self.unsynced_bytes_max as u64, MIB, 8 * GIB),
            ("segment_bytes", self.segment_bytes, 64 * KIB, GIB),
            ("peer_queue_bytes_max", self.peer_queue_bytes_max as u64, 16 * MIB, 8 * GIB),
            ("write_buffer_bytes", self.write_buffer_bytes as u64, MIB, 8 * GIB),
            ("block_cache_bytes", self.block_cache_bytes as u64, MIB, 64 * GIB),
        ];
        for (field, value, min, max) in bounds {
            within(&format!("limits.{field}"), value, min, max)?;
        }
        if self.call_timeout_default_ms > self.call_timeout_max_ms {
            let reason = "must not exceed limits.call_timeout_max_ms";
            return wrong("limits.call_timeout_default_ms", reason);
        }
        let command = self.key_bytes_max + self.value_bytes_max;
        if self.writes_waiting_bytes_max < 2 * command {
            let reason = "must hold two of the largest commands";
            return wrong("limits.writes_waiting_bytes_max", reason);
        }
        Ok(())
    }
}
