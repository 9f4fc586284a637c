//! The node's metrics in the text format of Prometheus.

use std::fmt::Write;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use synod_paxos::Role;
use synod_storage::StoreMetrics;
use synod_transport::PeerMetrics;
use synod_wire::version;

use crate::replica::Facts;
use crate::shared::{Shared, Snapshot};

/// Everything that is counted, as of now; the owner's part as of a tenth of a
/// second ago.
pub(crate) fn text(facts: &Facts, shared: &Shared, uptime: Duration) -> String {
    let mut page = Page { text: String::with_capacity(8 << 10) };
    page.gauge("uptime_seconds", "Since the node began.", uptime.as_secs());
    page.gauge("node_id", "This node.", u64::from(facts.node.0));
    write_state(&mut page, shared);
    write_leases(&mut page, shared);
    write_journal(&mut page, shared);
    write_snapshots(&mut page, shared);
    if let Some(snapshot) = shared.owner.snapshot() {
        write_owner(&mut page, shared, &snapshot);
        write_peers(&mut page, &snapshot.peers);
    }
    let store = *shared.store.lock().unwrap_or_else(PoisonError::into_inner);
    write_store(&mut page, &store);
    page.text
}

fn write_state(page: &mut Page, shared: &Shared) {
    let state = &shared.state;
    page.counter(
        "commands_applied_total",
        "Commands taken from slots, those without effect included.",
        state.commands.load(Relaxed),
    );
    page.counter("values_applied_total", "Slots applied.", state.values.load(Relaxed));
    page.counter("commits_total", "Writes to the state.", state.commits.load(Relaxed));
    page.gauge("applied_slot", "Applied up to here.", state.applied().0);
    page.gauge("durable_slot", "In the state's files up to here.", state.durable().0);
    page.gauge("revision", "The store's revision.", state.revision().0);
    let text = "The oldest revision that can be read.";
    page.gauge("compacted_revision", text, state.compacted().0);
    let backlog = state.backlog_values.load(Relaxed);
    page.gauge("apply_backlog_values", "Chosen values not applied yet.", backlog);
}

fn write_leases(page: &mut Page, shared: &Shared) {
    let state = &shared.state;
    let (leases, counts) = *state.leases.lock().unwrap_or_else(PoisonError::into_inner);
    page.gauge("leases", "Leases there are.", leases);
    page.counter("leases_granted_total", "Leases granted.", counts.granted);
    page.counter("leases_expired_total", "Leases that ended by themselves: their time was over, or the wait that they were made for was in vain.", counts.expired);
    page.counter("leases_revoked_total", "Leases that somebody ended.", counts.revoked);
    page.counter("lease_renewals_total", "Renewals through the log.", counts.renewed);
    let unlogged = state.lease_renewals_unlogged.load(Relaxed);
    let text = "Renewals by this node as the leader, without the log.";
    page.counter("lease_renewals_unlogged_total", text, unlogged);
}

fn write_journal(page: &mut Page, shared: &Shared) {
    let journal = &shared.journal;
    page.counter("journal_syncs_total", "Groups made durable.", journal.syncs.load(Relaxed));
    page.counter("journal_bytes_total", "Bytes written.", journal.bytes.load(Relaxed));
    page.counter("journal_records_total", "Records written.", journal.records.load(Relaxed));
    page.gauge("journal_size_bytes", "Bytes on disk.", journal.bytes_on_disk.load(Relaxed));
    let slowest = journal.sync_us_max.load(Relaxed);
    page.gauge("journal_sync_us_max", "The longest sync since the start.", slowest);
}

fn write_snapshots(page: &mut Page, shared: &Shared) {
    let (fetch, source) = shared.snapshot.get();
    let installed = shared.snapshot.installed.load(Relaxed);
    page.counter("snapshots_installed_total", "States of peers switched to.", installed);
    page.counter("snapshots_failed_total", "States of peers that did not come.", fetch.failures);
    let received = fetch.received_bytes;
    page.counter("snapshot_received_bytes_total", "Of files of states.", received);
    page.counter("snapshot_sent_bytes_total", "Of files of states.", source.sent_bytes);
    let coming = u64::from(fetch.coming.is_some());
    page.gauge("snapshot_coming", "1 while the state of a peer is coming.", coming);
    let kept = source.slot.map_or(0, |slot| slot.0);
    page.gauge("snapshot_kept_slot", "Of the state kept for peers; 0 for none.", kept);
}

fn write_owner(page: &mut Page, shared: &Shared, snapshot: &Snapshot) {
    let Snapshot { status, queues, transport, log_version, .. } = snapshot;
    let owner = &shared.owner;
    page.counter("values_chosen_total", "Slots known as chosen.", status.chosen_upto.0);
    page.gauge("chosen_slot", "Chosen up to here.", status.chosen_upto.0);
    page.gauge("truncated_slot", "Journal dropped up to here.", status.truncated_upto.0);
    let leads = u64::from(status.role == Role::Leader);
    page.gauge("is_leader", "1 while this node leads.", leads);
    page.counter("elections_total", "Elections this node stood in.", status.elections);
    page.gauge("ballot_round", "Round of the promise.", status.promised.round);
    let requests = owner.writes.load(Relaxed) + owner.reads.load(Relaxed);
    page.counter("http_requests_total", "Writes and linearizable reads.", requests);
    page.counter("writes_total", "Clients' writes.", owner.writes.load(Relaxed));
    page.counter("reads_total", "Clients' linearizable reads.", owner.reads.load(Relaxed));
    let refused = owner.refused.load(Relaxed);
    page.counter("requests_refused_total", "Not applied: no leader, or overload.", refused);
    page.counter("owner_steps_total", "Steps of the core.", owner.steps.load(Relaxed));
    let gauges = [
        ("writes_unsent", "Writes without a leader.", queues.writes_unsent),
        ("writes_sent", "Writes on their way.", queues.writes_sent),
        ("reads_waiting", "Reads that wait.", queues.reads_waiting),
        ("commands_queued", "Commands that wait for a value.", queues.commands_queued),
        ("commands_queued_bytes", "Their bytes.", queues.commands_queued_bytes),
        ("messages_held", "Messages that wait for the disk.", queues.messages_held),
    ];
    for (name, help, value) in gauges {
        page.gauge(name, help, value as u64);
    }
    page.gauge("version_newest", "The newest version this node knows.", version::NEWEST.into());
    let log_version = u64::from(*log_version);
    page.gauge("version_log", "The version in which this node writes the log.", log_version);
    page.counter("peer_accepted_total", "Peer connections accepted.", transport.accepted);
    page.counter(
        "peer_frames_to_nobody_total",
        "Messages not sent, because their addressee is no member any more.",
        transport.frames_dropped_no_peer,
    );
    let failed = transport.handshakes_failed + transport.handshakes_evicted;
    page.counter("peer_handshakes_failed_total", "Of them, without handshake.", failed);
    let refused = transport.handshakes_refused;
    page.counter("peer_handshakes_refused_total", "Of them, refused.", refused);
    let failed = transport.accepts_failed;
    page.counter("peer_accepts_failed_total", "Failures of the listener.", failed);
}

fn write_peers(page: &mut Page, peers: &[PeerMetrics]) {
    type Field = fn(&PeerMetrics) -> u64;
    let counters: [(&str, &str, Field); 10] = [
        ("peer_frames_sent_total", "Messages sent.", |peer| peer.frames_sent),
        ("peer_bytes_sent_total", "Bytes sent.", |peer| peer.bytes_sent),
        ("peer_socket_writes_total", "Writes to sockets.", |peer| peer.writes),
        ("peer_frames_received_total", "Messages received.", |peer| peer.frames_received),
        ("peer_bytes_received_total", "Bytes received.", |peer| peer.bytes_received),
        ("peer_frames_dropped_total", "Messages not sent.", |peer| {
            peer.frames_dropped_full
                + peer.frames_dropped_unconnected
                + peer.frames_dropped_oversize
        }),
        ("peer_connects_total", "Connections made.", |peer| peer.connects),
        ("peer_dials_failed_total", "Dials without a handshake.", |peer| peer.dials_failed),
        ("peer_refusals_total", "Handshakes that one of the two refused.", |peer| {
            peer.handshakes_refused
        }),
        ("peer_deaths_total", "Evidence of its death.", |peer| peer.deaths),
    ];
    for (name, help, field) in counters {
        page.head(name, help, "counter");
        for peer in peers {
            page.line(name, Some(peer.node.0), field(peer));
        }
    }
    page.head("peer_version", "The version spoken with it; 0 before they met.", "gauge");
    for peer in peers {
        page.line("peer_version", Some(peer.node.0), peer.version.into());
    }
    page.head("peer_connected", "1 while our lane to it stands.", "gauge");
    for peer in peers {
        page.line("peer_connected", Some(peer.node.0), u64::from(peer.connected));
    }
}

fn write_store(page: &mut Page, store: &StoreMetrics) {
    let gauges = [
        ("state_memtable_bytes", "Not flushed yet.", store.memtable_bytes),
        ("state_file_bytes", "Files of the state.", store.file_bytes),
        ("state_block_cache_bytes", "Block cache in use.", store.block_cache_bytes),
        ("state_pending_compaction_bytes", "To be compacted.", store.pending_compaction_bytes),
        ("state_running_jobs", "Flushes and compactions at work.", store.running_jobs),
        ("state_records", "About how many records.", store.records),
        ("state_background_errors", "Failed flushes and compactions.", store.background_errors),
        (
            "state_delayed_write_bytes_per_second",
            "Writes are slowed down to this; 0 when they are not.",
            store.delayed_write_bytes_per_second,
        ),
        ("state_write_stopped", "1 while writes wait.", u64::from(store.is_write_stopped)),
    ];
    for (name, help, value) in gauges {
        page.gauge(name, help, value);
    }
}

/// The page that grows.
struct Page {
    text: String,
}

impl Page {
    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        self.line(name, None, value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "gauge");
        self.line(name, None, value);
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let head = write!(self.text, "# HELP synod_{name} {help}\n# TYPE synod_{name} {kind}\n");
        head.expect("a string takes what is written to it");
    }

    fn line(&mut self, name: &str, peer: Option<u32>, value: u64) {
        let line = match peer {
            Some(peer) => writeln!(self.text, "synod_{name}{{peer=\"{peer}\"}} {value}"),
            None => writeln!(self.text, "synod_{name} {value}"),
        };
        line.expect("a string takes what is written to it");
    }
}
