//! Whole nodes in this process: threads, sockets, disks and all.

mod support;

use std::fs::DirBuilder;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use support::{Cluster, request, status, wait_for};
use synod_node::{Node, Settings};

fn leader_of(nodes: &[Option<Node>]) -> Option<usize> {
    nodes.iter().position(|node| node.as_ref().is_some_and(Node::is_leader))
}

#[test]
fn a_single_node_keeps_what_it_acknowledged() {
    let cluster = Cluster::new(1);
    let node = cluster.start(0);
    let address = node.client_addr();
    let put = request(address, "PUT", "/v1/kv/colour", "blue");
    assert_eq!(put.status, 201, "{put:?}");
    assert!(put.head.contains("etag: \"1\""), "{put:?}");
    assert_eq!(request(address, "PUT", "/v1/kv/colour", "green").status, 200);
    assert_eq!(request(address, "DELETE", "/v1/kv/nothing", "").status, 404);
    let get = request(address, "GET", "/v1/kv/colour", "");
    assert_eq!((get.status, get.body.as_str()), (200, "green"));
    assert!(get.head.contains("synod-leader: 1 http://127.0.0.1:"), "{get:?}");

    let metrics = request(address, "GET", "/metrics", "").body;
    for name in [
        "synod_values_chosen_total",
        "synod_commands_applied_total 3",
        "synod_journal_syncs_total",
        "synod_journal_bytes_total",
        "synod_http_requests_total",
        "synod_elections_total",
        "synod_is_leader 1",
    ] {
        assert!(metrics.contains(name), "{name} is missing in {metrics}");
    }
    node.stop().expect("stopped in order");

    for _ in 0..3 {
        let node = cluster.start(0);
        wait_for("a leader", || node.is_leader());
        let get = request(node.client_addr(), "GET", "/v1/kv/colour", "");
        assert_eq!((get.status, get.body.as_str()), (200, "green"));
        node.stop().expect("stopped in order");
    }
}

#[test]
fn three_nodes_answer_any_request_and_survive_a_leader_that_stops() {
    let cluster = Cluster::new(3);
    let mut nodes: Vec<Option<Node>> = cluster.start_all().into_iter().map(Some).collect();
    let address = |nodes: &[Option<Node>], index: usize| {
        nodes[index].as_ref().expect("it runs").client_addr()
    };
    for index in 0..3 {
        let target = format!("/v1/kv/from-{index}");
        let put = request(address(&nodes, index), "PUT", &target, "hello");
        assert_eq!(put.status, 201, "{put:?}");
        for other in 0..3 {
            let get = request(address(&nodes, other), "GET", &target, "");
            assert_eq!((get.status, get.body.as_str()), (200, "hello"), "{get:?}");
        }
    }
    let survivable = |nodes: &[Option<Node>]| {
        leader_of(nodes).map(|leader| {
            status(nodes[leader].as_ref().expect("it runs"), "failures_survivable").clone()
        })
    };
    wait_for("all three", || survivable(&nodes) == Some(1.into()));

    let leader = leader_of(&nodes).expect("somebody leads");
    nodes[leader].take().expect("it runs").stop().expect("stopped in order");
    let survivor = (leader + 1) % 3;
    let put = request(address(&nodes, survivor), "PUT", "/v1/kv/after", "still here");
    assert_eq!(put.status, 201, "{put:?}");

    nodes[leader] = Some(cluster.start(leader));
    let get = request(address(&nodes, leader), "GET", "/v1/kv/after", "");
    assert_eq!((get.status, get.body.as_str()), (200, "still here"), "{get:?}");
    let of = |index: usize, field| status(nodes[index].as_ref().expect("it runs"), field);
    wait_for("equal states", || {
        (0..3).all(|index| of(index, "applied_slot") == of(0, "applied_slot"))
    });
    assert!((0..3).all(|index| of(index, "state_hash") == of(0, "state_hash")));
    for node in nodes.into_iter().flatten() {
        node.stop().expect("stopped in order");
    }

    let nodes: Vec<Option<Node>> = cluster.start_all().into_iter().map(Some).collect();
    let get = request(address(&nodes, 0), "GET", "/v1/kv/after", "");
    assert_eq!((get.status, get.body.as_str()), (200, "still here"), "{get:?}");
}

/// The value of a metric.
fn metric(node: &Node, name: &str) -> u64 {
    let page = request(node.client_addr(), "GET", "/metrics", "").body;
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("synod_{name} ")));
    line.expect("it is there").parse().expect("a number")
}

/// Thousands of clients that keep their leases alive must not fill the log.
#[test]
fn to_keep_a_lease_alive_costs_the_leader_no_entry_in_the_log() {
    let cluster = Cluster::new(1);
    let node = cluster.start(0);
    let ask = |method, target: &str, body: &str| request(node.client_addr(), method, target, body);
    for id in [7, 8, 9] {
        let body = format!("{{\"ttl\": \"60s\", \"id\": {id}}}");
        assert_eq!(ask("POST", "/v1/lease", &body).status, 201);
    }
    let keep = || ask("POST", "/v1/lease/keepalive", "{\"ids\": [7, 8, 9]}");
    // Until the node keeps the time renewals are commands, and so are those of a lease that was
    // granted since, until the node's next look at the news.
    wait_for("a renewal of all three without a command", || {
        let before = metric(&node, "lease_renewals_unlogged_total");
        assert_eq!(keep().status, 200);
        metric(&node, "lease_renewals_unlogged_total") == before + 3
    });
    let (unlogged, logged) =
        (metric(&node, "lease_renewals_unlogged_total"), metric(&node, "lease_renewals_total"));
    let slots = metric(&node, "applied_slot");
    for _ in 0..200 {
        let kept = keep();
        assert!(!kept.body.contains("null"), "{kept:?}");
        assert_eq!(ask("POST", "/v1/lease/7/keepalive", "").status, 200);
    }
    assert_eq!(metric(&node, "lease_renewals_unlogged_total"), unlogged + 800);
    assert_eq!(metric(&node, "lease_renewals_total"), logged);
    assert_eq!(metric(&node, "applied_slot"), slots, "nothing else happened");

    assert_eq!(ask("DELETE", "/v1/lease/8", "").status, 200);
    assert_eq!(ask("POST", "/v1/lease", "{\"ttl\": \"1s\"}").status, 201);
    wait_for("its end", || metric(&node, "leases_expired_total") == 1);
    let counted = ["leases", "leases_granted_total", "leases_revoked_total"];
    assert_eq!(counted.map(|name| metric(&node, name)), [2, 4, 1]);
    node.stop().expect("stopped in order");
}

#[test]
fn the_journal_is_cut_when_the_state_is_flushed() {
    let mut cluster = Cluster::new(1);
    cluster.settings[0].limits.segment_bytes = 64 << 10;
    cluster.settings[0].snapshot.tail_bytes_max = 0;
    let node = cluster.start(0);
    let value = "v".repeat(1_000);
    let mut written = 0;
    // Each of these is a slot of its own; the core cuts hundreds at a time.
    wait_for("a cut journal", || {
        for _ in 0..20 {
            let target = format!("/v1/kv/key-{written}");
            assert_eq!(request(node.client_addr(), "PUT", &target, &value).status, 201);
            written += 1;
        }
        status(&node, "truncated_slot") != 0
    });
    let files = |cluster: &Cluster| {
        let folder = cluster.settings[0].data_dir.join("journal");
        std::fs::read_dir(folder).expect("a journal").count()
    };
    wait_for("files that are gone", || files(&cluster) < 6);
    node.stop().expect("stopped in order");
    let node = cluster.start(0);
    for number in 0..written {
        let get = request(node.client_addr(), "GET", &format!("/v1/kv/key-{number}"), "");
        assert_eq!((get.status, get.body == value), (200, true));
    }
    node.stop().expect("stopped in order");
}

#[test]
fn without_a_quorum_a_write_is_refused_within_its_time() {
    let cluster = Cluster::new(3);
    let node = cluster.start(0);
    let body = "x";
    let answer = {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(node.client_addr()).expect("it listens");
        write!(
            stream,
            "PUT /v1/kv/a HTTP/1.1\r\nhost: test\r\nconnection: close\r\nsynod-timeout: 300ms\r\n\
             content-length: 1\r\n\r\n{body}"
        )
        .expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    };
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("not_applied"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("retry-after:"), "{answer}");
    assert_eq!(request(node.client_addr(), "GET", "/readyz", "").status, 503);
    assert_eq!(request(node.client_addr(), "GET", "/v1/kv/a?consistency=stale", "").status, 404);
    node.stop().expect("stopped in order");
}

#[test]
fn a_start_that_cannot_be_fails_with_one_clear_message() {
    let refused = |settings: &Settings, words: &[&str]| {
        let message = Node::start(settings).expect_err("refused").to_string();
        for word in words {
            assert!(message.contains(word), "{word:?} is missing in {message:?}");
        }
    };
    let cluster = Cluster::new(1);
    let settings = &cluster.settings[0];
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("bound").to_string();
    let mut other = settings.clone();
    other.client.listen.clone_from(&taken);
    refused(&other, &["client.listen", &taken, "Another process has this port"]);
    let mut other = settings.clone();
    other.peer.listen.clone_from(&taken);
    refused(&other, &["peer.listen", &taken]);

    let mut other = settings.clone();
    other.data_dir = cluster.path("nowhere");
    refused(&other, &["nowhere", "holds no node"]);
    let mut other = settings.clone();
    other.cluster.id = "f".repeat(32);
    refused(&other, &["belongs to cluster 0011", "ffff"]);

    let node = cluster.start(0);
    refused(settings, &["is in use by another process"]);
    node.stop().expect("stopped in order");

    let marker = settings.data_dir.join("VIOLATION");
    std::fs::write(&marker, "two values in slot 7").expect("written");
    refused(settings, &["VIOLATION", "remove the file"]);
    std::fs::remove_file(&marker).expect("removed");
    cluster.start(0).stop().expect("runs again");
}

#[test]
fn a_state_that_is_ahead_of_its_journal_is_refused() {
    let cluster = Cluster::new(1);
    let settings = &cluster.settings[0];
    let node = cluster.start(0);
    assert_eq!(request(node.client_addr(), "PUT", "/v1/kv/a", "1").status, 201);
    node.stop().expect("stopped in order");
    let (journal, copy) = (settings.data_dir.join("journal"), cluster.path("copy"));
    copy_files(&journal, &copy);

    let node = cluster.start(0);
    for _ in 0..3 {
        assert_eq!(request(node.client_addr(), "PUT", "/v1/kv/a", "2").status, 200);
    }
    node.stop().expect("stopped in order");
    let kept = cluster.path("kept");
    std::fs::rename(&journal, &kept).expect("moved");
    copy_files(&copy, &journal);
    let message = Node::start(settings).expect_err("the journal forgot").to_string();
    for words in ["the journal ends at slot", "must not vote"] {
        assert!(message.contains(words), "{words:?} is missing in {message:?}");
    }

    std::fs::remove_dir_all(&journal).expect("removed");
    std::fs::rename(&kept, &journal).expect("moved back");
    let node = cluster.start(0);
    assert_eq!(request(node.client_addr(), "GET", "/v1/kv/a", "").body, "2");
    node.stop().expect("stopped in order");
}

fn copy_files(from: &Path, to: &Path) {
    DirBuilder::new().mode(0o700).create(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("a file");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

#[test]
fn clients_are_told_at_once_that_a_node_is_not_ready_yet() {
    let cluster = Cluster::new(1);
    let settings = &cluster.settings[0];
    let node = cluster.start(0);
    assert_eq!(request(node.client_addr(), "PUT", "/v1/kv/a", "1").status, 201);
    node.stop().expect("stopped in order");
    // The last file that recovery reads; it waits until somebody writes.
    let pins = settings.data_dir.join("members.json");
    let content = std::fs::read_to_string(&pins).unwrap_or_else(|_| "{\"members\":[]}".to_owned());
    let _ = std::fs::remove_file(&pins);
    mknodat(CWD, &pins, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let address: SocketAddr = settings.client.listen.parse().expect("an address");

    std::thread::scope(|scope| {
        let starting = scope.spawn(|| cluster.start(0));
        let pins = FilledPipe { path: &pins, content };
        wait_for("the door", || TcpStream::connect(address).is_ok());
        assert_eq!(request(address, "GET", "/livez", "").status, 200);
        wait_for("the journal to be read", || {
            let ready = request(address, "GET", "/readyz", "");
            assert_eq!(ready.status, 503);
            ready.body.contains("its state is rebuilt")
        });
        let put = request(address, "PUT", "/v1/kv/a", "2");
        assert_eq!(put.status, 503, "{put:?}");
        assert!(put.body.contains("not_applied") && put.head.contains("retry-after"), "{put:?}");
        assert_eq!(request(address, "GET", "/v1/kv/a", "").status, 503);
        assert!(request(address, "GET", "/metrics", "").body.contains("synod_applied_slot"));
        assert!(!starting.is_finished());

        drop(pins);
        let node = starting.join().expect("started");
        assert_eq!(request(address, "PUT", "/v1/kv/a", "2").status, 200);
        node.stop().expect("stopped in order");
    });
}

/// A pipe whose reader waits until this is dropped, be it by a failure of the test.
struct FilledPipe<'a> {
    path: &'a Path,
    content: String,
}

impl Drop for FilledPipe<'_> {
    fn drop(&mut self) {
        std::fs::write(self.path, &self.content).expect("somebody reads");
    }
}

#[test]
fn a_member_that_comes_back_without_its_disk_is_kept_out() {
    let cluster = Cluster::new(3);
    let mut nodes: Vec<Option<Node>> = cluster.start_all().into_iter().map(Some).collect();
    let first = nodes[0].as_ref().expect("it runs").client_addr();
    assert_eq!(request(first, "PUT", "/v1/kv/a", "1").status, 201);
    wait_for("pins", || {
        cluster.settings[..2].iter().all(|settings| {
            let pins = std::fs::read_to_string(settings.data_dir.join("members.json"));
            pins.is_ok_and(|text| text.matches("store_id").count() == 2)
        })
    });
    nodes[2].take().expect("it runs").stop().expect("stopped in order");
    let lost = &cluster.settings[2];
    std::fs::remove_dir_all(&lost.data_dir).expect("removed");
    synod_node::init(lost).expect("the operator was careless");
    let amnesiac = cluster.start(2);
    let refusals = |of: &Node| -> u64 {
        let metrics = request(of.client_addr(), "GET", "/metrics", "").body;
        let lines = metrics.lines().map(|line| line.split_once(' ').unwrap_or_default());
        let refused = lines.filter(|(name, _)| *name == "synod_peer_handshakes_refused_total");
        refused.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
    };
    let survivors = || nodes[..2].iter().flatten();
    wait_for("refusals by both", || survivors().all(|node| refusals(node) >= 2));
    // Whatever the others agree on meanwhile does not reach it.
    for number in 0..10 {
        let put = request(first, "PUT", &format!("/v1/kv/{number}"), "1");
        assert_eq!(put.status, 201, "{put:?}");
    }
    let now: Vec<u64> = survivors().map(refusals).collect();
    wait_for("more refusals", || survivors().zip(&now).all(|(node, then)| refusals(node) > *then));
    assert!(!amnesiac.is_leader());
    assert_eq!(status(&amnesiac, "chosen_slot"), 0);
    assert_eq!(request(amnesiac.client_addr(), "GET", "/readyz", "").status, 503);
    amnesiac.stop().expect("stopped in order");
}
