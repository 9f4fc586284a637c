//! Questions to a node from outside the load: who leads, is it ready, what do
//! its counters say. Blocking, each bounded by a timeout, on a connection of
//! its own, so that the answer does not depend on the load's runtime.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::NodeAddress;
use crate::connection::Protocol;
use crate::etcd::{EtcdConnection, MemberStatus};
use crate::leader::{Ballot, Leader};

/// A page of metrics is some tens of KiB.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// A node's counters since its process started. Those that the node does not
/// export are missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Counters {
    /// Slots whose value this node has learned to be chosen.
    pub values_chosen: Option<f64>,
    /// Commands this node has applied.
    pub commands_applied: Option<f64>,
    /// Times this node has synced its journal.
    pub journal_syncs: Option<f64>,
    /// Requests this node has answered to clients.
    pub http_requests: Option<f64>,
}

impl Counters {
    /// What was counted since an earlier look; nothing for a counter that
    /// went back because the process was started anew.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let difference = |now: Option<f64>, then: Option<f64>| match (now, then) {
            (Some(now), Some(then)) if now >= then => Some(now - then),
            _ => None,
        };
        Self {
            values_chosen: difference(self.values_chosen, earlier.values_chosen),
            commands_applied: difference(self.commands_applied, earlier.commands_applied),
            journal_syncs: difference(self.journal_syncs, earlier.journal_syncs),
            http_requests: difference(self.http_requests, earlier.http_requests),
        }
    }
}

/// The node that says it leads. If several do, the one with the highest ballot:
/// one that was deposed says so until it hears of it.
pub(crate) fn leader(
    protocol: Protocol,
    nodes: &[NodeAddress],
    timeout: Duration,
) -> Option<Leader> {
    let claims = nodes.iter().filter_map(|node| claim(protocol, node, timeout));
    claims.max_by_key(|leader| leader.ballot)
}

fn claim(protocol: Protocol, node: &NodeAddress, timeout: Duration) -> Option<Leader> {
    let socket = node.socket().ok()?;
    let ballot = match protocol {
        Protocol::Synod => {
            let status = get(socket, "/v1/status", timeout)?;
            leaders_ballot(&status.body).filter(|_| status.status == 200)?
        }
        Protocol::Etcd => {
            let status = etcd_status(socket, timeout).filter(|status| status.leads)?;
            Some(Ballot { round: status.term, node: 0 })
        }
    };
    Some(Leader { node: node.id, ballot })
}

/// The ballot in the status of a node that leads, if it tells one; nothing
/// from any other node.
fn leaders_ballot(status: &[u8]) -> Option<Option<Ballot>> {
    let status: serde_json::Value = serde_json::from_slice(status).ok()?;
    let leads = status.get("role")?.as_str() == Some("leader");
    let ballot = || status.get("ballot")?.as_str().and_then(Ballot::parse);
    leads.then(ballot)
}

/// Whether a node says that it can serve clients.
pub(crate) fn ready(protocol: Protocol, node: &NodeAddress, timeout: Duration) -> bool {
    let path = match protocol {
        Protocol::Synod => "/readyz",
        Protocol::Etcd => "/health",
    };
    let answer = node.socket().ok().and_then(|socket| get(socket, path, timeout));
    answer.is_some_and(|answer| answer.status == 200)
}

/// What a node has counted; none when it does not answer.
pub(crate) fn counters(
    protocol: Protocol,
    node: &NodeAddress,
    timeout: Duration,
) -> Option<Counters> {
    let answer = get(node.socket().ok()?, "/metrics", timeout)?;
    let text = String::from_utf8(answer.body).ok()?;
    Some(match protocol {
        Protocol::Synod => Counters {
            values_chosen: sum(&text, "synod_values_chosen_total"),
            commands_applied: sum(&text, "synod_commands_applied_total"),
            journal_syncs: sum(&text, "synod_journal_syncs_total"),
            http_requests: sum(&text, "synod_http_requests_total"),
        },
        Protocol::Etcd => Counters {
            journal_syncs: sum(&text, "etcd_disk_wal_fsync_duration_seconds_count"),
            ..Counters::default()
        },
    })
}

/// The newest version that a Synod node speaks.
pub(crate) fn newest_version(node: &NodeAddress, timeout: Duration) -> Option<u64> {
    let answer = get(node.socket().ok()?, "/metrics", timeout)?;
    let text = String::from_utf8(answer.body).ok()?;
    let is_it = |line: &&str| line.split(' ').next() == Some("synod_version_newest");
    text.lines().find(is_it)?.split(' ').nth(1)?.parse().ok()
}

/// How far a Synod node's state machine is, and the hash of its state there.
pub(crate) fn state(node: &NodeAddress, timeout: Duration) -> Option<(u64, String)> {
    #[derive(serde::Deserialize)]
    struct State {
        applied_slot: u64,
        state_hash: String,
    }
    let answer = get(node.socket().ok()?, "/v1/status", timeout)?;
    let state: State = serde_json::from_slice(&answer.body).ok()?;
    (answer.status == 200).then_some((state.applied_slot, state.state_hash))
}

/// How far a Synod node's state is on its disk.
pub(crate) fn durable(node: &NodeAddress, timeout: Duration) -> Option<u64> {
    status(node, timeout)?.get("durable_slot")?.as_u64()
}

/// Whether a Synod node says that its state differs from a peer's.
pub(crate) fn differs(node: &NodeAddress, timeout: Duration) -> Option<bool> {
    let status = status(node, timeout)?;
    Some(status.get("differs_after_slot").is_some_and(|slot| !slot.is_null()))
}

/// What a Synod node has of a key whose value is text, when it has applied all that was acknowledged.
pub(crate) fn value(node: &NodeAddress, key: &str, timeout: Duration) -> Option<String> {
    let answer = get(node.socket().ok()?, &format!("/v1/kv/{key}"), timeout)?;
    (answer.status == 200).then(|| String::from_utf8(answer.body).ok()).flatten()
}

/// Writes a key by a Synod node. Says whether that was acknowledged.
pub(crate) fn put(node: &NodeAddress, key: &str, value: &str, timeout: Duration) -> bool {
    let path = format!("/v1/kv/{key}");
    let socket = node.socket().ok();
    let answer = socket.and_then(|socket| ask(socket, "PUT", &path, value, timeout));
    answer.is_some_and(|answer| matches!(answer.status, 200 | 201))
}

fn status(node: &NodeAddress, timeout: Duration) -> Option<serde_json::Value> {
    let answer = get(node.socket().ok()?, "/v1/status", timeout)?;
    (answer.status == 200).then(|| serde_json::from_slice(&answer.body).ok()).flatten()
}

/// When a Synod node has last read all that it has and found it whole, in seconds since 1970.
pub(crate) fn scrubbed_at_s(node: &NodeAddress, timeout: Duration) -> Option<u64> {
    let answer = get(node.socket().ok()?, "/v1/status", timeout)?;
    let status: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    status.get("scrub")?.get("finished_at_s")?.as_u64()
}

/// A page of all keys of a Synod node with their values, from the first one on or from where
/// the page before says; at a revision, if one is given.
pub(crate) fn page(
    node: &NodeAddress,
    start: Option<&str>,
    at: Option<u64>,
    timeout: Duration,
) -> Option<Page> {
    let start = start.map_or_else(String::new, |start| format!("&start={start}"));
    let at = at.map_or_else(String::new, |revision| format!("&revision={revision}"));
    let path = format!("/v1/kv?limit=1000{start}{at}");
    let answer = get(node.socket().ok()?, &path, timeout)?;
    (answer.status == 200).then(|| serde_json::from_slice(&answer.body).ok()).flatten()
}

/// Keys and values that are text.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Page {
    #[serde(default)]
    pub(crate) entries: Vec<Entry>,
    /// Where the next page begins, percent-encoded.
    pub(crate) next: Option<String>,
}

/// A key and its value. Those that are no text have none here.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Entry {
    pub(crate) key: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) mod_revision: u64,
}

/// What an etcd member says about itself.
pub(crate) fn etcd_status(socket: SocketAddr, timeout: Duration) -> Option<MemberStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let ask = async {
        let stream = tokio::net::TcpStream::connect(socket).await.ok()?;
        EtcdConnection::new(stream, socket).await.ok()?.status().await.ok()
    };
    runtime.block_on(async { tokio::time::timeout(timeout, ask).await.ok().flatten() })
}

/// The sum of a metric's samples over all label sets, in Prometheus' text form.
fn sum(metrics: &str, name: &str) -> Option<f64> {
    let sample = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name)?;
        let value = match rest.as_bytes().first()? {
            // A label's value may hold a bracket, a sample's number may not.
            b'{' => rest.rsplit_once('}')?.1,
            b' ' => rest,
            _ => return None,
        };
        value.split_ascii_whitespace().next()?.parse().ok()
    };
    let samples: Vec<f64> = metrics.lines().filter_map(sample).collect();
    if samples.is_empty() { None } else { Some(samples.iter().sum()) }
}

struct Answer {
    status: u16,
    body: Vec<u8>,
}

fn get(socket: SocketAddr, path: &str, timeout: Duration) -> Option<Answer> {
    ask(socket, "GET", path, "", timeout)
}

/// One request on a connection of its own. None for whatever goes wrong: to
/// a probe, a node that answers badly is as good as one that does not answer.
fn ask(
    socket: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
    timeout: Duration,
) -> Option<Answer> {
    let deadline = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&socket, timeout).ok()?;
    stream.set_write_timeout(Some(timeout)).ok()?;
    let length = match body.len() {
        0 => String::new(),
        length => format!("content-length: {length}\r\n"),
    };
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: {socket}\r\nconnection: close\r\n{length}");
    write!(stream, "{head}\r\n{body}").ok()?;
    let mut bytes = Vec::new();
    let mut part = [0; 16 << 10];
    loop {
        // Zero would mean to wait for ever.
        let left = deadline.checked_duration_since(Instant::now())?;
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).ok()?;
        match stream.read(&mut part).ok()? {
            0 => return parse_answer(&bytes),
            count => bytes.extend_from_slice(&part[..count]),
        }
        if bytes.len() as u64 > ANSWER_BYTES_MAX {
            return None;
        }
    }
}

fn parse_answer(bytes: &[u8]) -> Option<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes).ok()? {
        httparse::Status::Complete(head_bytes) => head_bytes,
        httparse::Status::Partial => return None,
    };
    let chunked = response.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("transfer-encoding")
            && header.value.eq_ignore_ascii_case(b"chunked")
    });
    let body = &bytes[head_bytes..];
    let body = if chunked { join_chunks(body)? } else { body.to_vec() };
    Some(Answer { status: response.code?, body })
}

fn join_chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let httparse::Status::Complete((line_bytes, chunk_bytes)) =
            httparse::parse_chunk_size(rest).ok()?
        else {
            return None;
        };
        if chunk_bytes == 0 {
            return Some(body);
        }
        let end = line_bytes.checked_add(usize::try_from(chunk_bytes).ok()?)?;
        body.extend_from_slice(rest.get(line_bytes..end)?);
        rest = rest.get(end.checked_add(2)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_labels_and_by_whole_name_only() {
        let text = "# TYPE a_total counter\na_total{x=\"}1\"} 2\na_total{x=\"2\"} 3.5\n\
                    a_total_more 100\nb_total 1e3 1700000000\nc_total\n";
        assert_eq!(sum(text, "a_total"), Some(5.5));
        assert_eq!(sum(text, "b_total"), Some(1000.0));
        assert_eq!(sum(text, "c_total"), None);
        assert_eq!(sum(text, "d_total"), None);
    }

    #[test]
    fn counters_of_a_restarted_process_give_no_difference() {
        let counters = |value| Counters { journal_syncs: Some(value), ..Counters::default() };
        assert_eq!(counters(7.0).since(&counters(3.0)).journal_syncs, Some(4.0));
        assert_eq!(counters(2.0).since(&counters(3.0)).journal_syncs, None);
        assert_eq!(counters(2.0).since(&Counters::default()).journal_syncs, None);
    }

    #[test]
    fn plain_and_chunked_answers_are_read_and_cut_ones_are_not() {
        let plain = parse_answer(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").unwrap();
        assert_eq!((plain.status, &plain.body[..]), (200, &b"hi"[..]));
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n";
        assert_eq!(parse_answer(chunked).unwrap().body, b"hi!");
        assert!(parse_answer(&chunked[..chunked.len() - 12]).is_none());
        assert!(join_chunks(b"ffffffffffffffff\r\nx").is_none());
    }

    #[test]
    fn only_the_role_leader_leads() {
        let ballot = leaders_ballot(br#"{"role": "leader", "leader": 1, "ballot": "4.2"}"#);
        assert_eq!(ballot, Some(Ballot::parse("4.2")));
        assert_eq!(leaders_ballot(br#"{"role": "leader", "ballot": 4}"#), Some(None));
        assert_eq!(leaders_ballot(br#"{"role": "follower", "leader": "leader"}"#), None);
        assert_eq!(leaders_ballot(b"role: leader"), None);
    }
}
