//! From the operator's settings to the options of each part.

use synod_journal::JournalOptions;
#[cfg(feature = "planted")]
use synod_paxos::Bug;
use synod_paxos::{Options, Planted};
use synod_storage::StoreOptions;

use crate::doors;
use crate::settings::Settings;

/// The core's times and limits.
pub(crate) fn core_options(settings: &Settings, incarnation: u64) -> Options {
    let (timing, limits, snapshot) = (&settings.timing, &settings.limits, &settings.snapshot);
    Options {
        election_timeout_us: timing.election_timeout_ms * 1_000,
        heartbeat_us: timing.heartbeat_ms * 1_000,
        leader_priority: settings.leader_priority,
        disk_stall_us: settings.disk_stall_ms() * 1_000,
        window_slots_max: limits.window_slots_max,
        window_bytes_max: limits.window_bytes_max,
        value_pace_us: timing.value_pace_us,
        value_bytes_max: limits.batch_bytes_max,
        cache_bytes_max: limits.cache_bytes_max,
        tail_bytes_max: snapshot.tail_bytes_max,
        tail_us_max: snapshot.tail_ms_max * 1_000,
        keep_for_peers_us: snapshot.keep_for_peers_ms * 1_000,
        unsynced_bytes_max: limits.unsynced_bytes_max,
        reads_waiting_max: limits.reads_waiting_max,
        // Differs between nodes, and between the lives of one.
        seed: u64::from(settings.node_id) << 32 ^ incarnation,
        planted: planted(),
        ..Options::default()
    }
}

/// The state's.
pub(crate) fn store_options(settings: &Settings) -> StoreOptions {
    StoreOptions {
        memtable_bytes: settings.limits.write_buffer_bytes,
        block_cache_bytes: settings.limits.block_cache_bytes,
        open_files_max: doors::table_files(),
    }
}

/// No bug, in every real node.
#[cfg(not(feature = "planted"))]
fn planted() -> Planted {
    Planted::NONE
}

/// The bug that the environment names, in the builds of tests: a proof that can't
/// fail proves nothing.
#[cfg(feature = "planted")]
fn planted() -> Planted {
    let name = std::env::var("SYNOD_PLANTED").unwrap_or_default();
    let mut bugs = Bug::ALL.iter().copied();
    let named = bugs.find(|bug| format!("{bug:?}") == name);
    assert!(named.is_some() || name.is_empty(), "SYNOD_PLANTED: there is no bug {name}");
    named.map_or(Planted::NONE, Planted::of)
}

/// The host's limits.
pub(crate) fn host_limits(settings: &Settings) -> synod_host::Limits {
    let limits = &settings.limits;
    synod_host::Limits {
        writes_waiting_max: limits.writes_waiting_max,
        writes_waiting_bytes_max: limits.writes_waiting_bytes_max,
        reads_waiting_max: limits.reads_waiting_max,
        ..synod_host::Limits::default()
    }
}

/// How the journal uses its folder.
pub(crate) fn journal_options(settings: &Settings) -> JournalOptions {
    JournalOptions { segment_bytes: settings.limits.segment_bytes, format: settings.write_version }
}

/// The transport's limits.
pub(crate) fn transport_limits(settings: &Settings) -> synod_transport::Limits {
    synod_transport::Limits {
        bulk_queue_bytes_max: settings.limits.peer_queue_bytes_max,
        inbox_bytes_max: settings.limits.peer_queue_bytes_max,
        ..synod_transport::Limits::default()
    }
}

/// The limits of the clients' door, which may have so many connections.
pub(crate) fn api_limits(settings: &Settings, connections_max: usize) -> synod_api::Limits {
    let limits = &settings.limits;
    let defaults = synod_api::Limits::default();
    synod_api::Limits {
        // What may wait for its outcome must be able to come in.
        bodies_bytes_max: limits.writes_waiting_bytes_max.max(defaults.bodies_bytes_max),
        key_bytes_max: limits.key_bytes_max,
        value_bytes_max: limits.value_bytes_max,
        // A larger one would never be let in.
        txn_bytes_max: limits.txn_bytes_max.min(limits.writes_waiting_bytes_max / 2),
        txn_operations_max: limits.txn_operations_max,
        connections_max,
        header_timeout_ms: limits.header_timeout_ms,
        idle_timeout_ms: limits.idle_timeout_ms,
        body_timeout_ms: limits.body_timeout_ms,
        call_timeout_default_ms: limits.call_timeout_default_ms,
        call_timeout_max_ms: limits.call_timeout_max_ms,
        writes_in_flight_max: limits.writes_waiting_max,
        reads_in_flight_max: limits.reads_waiting_max,
        list_entries_max: limits.list_entries_max,
        list_bytes_max: limits.list_bytes_max,
        watches_max: limits.watches_max,
        watch_progress_ms: limits.watch_progress_ms,
        range_delete_keys_max: limits.range_delete_keys_max,
        lease_ttl_ms_min: limits.lease_ttl_ms_min,
        lease_ttl_ms_max: limits.lease_ttl_ms_max,
        shutdown_timeout_ms: settings.timing.shutdown_timeout_ms,
        ..defaults
    }
}
