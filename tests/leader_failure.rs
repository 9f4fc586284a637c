//! The leader goes; the cluster goes on and nothing that was acknowledged is
//! lost.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use support::cluster::TestCluster;
use support::http;
use support::wait::wait_until;

/// Writes rising numbers to its own keys, at whichever node answers.
struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    /// Grows when the keys written so far are to stay as they are.
    generation: Arc<AtomicU64>,
    /// The number last acknowledged, and the number last sent, of each key.
    numbers: Arc<Mutex<BTreeMap<String, (u64, u64)>>>,
    thread: JoinHandle<()>,
}

const KEYS: u64 = 20;
/// Longer than the servers' deadline; a paused node does not answer at all.
const PATIENCE: Duration = Duration::from_secs(2);

impl Writer {
    fn start(nodes: Vec<SocketAddr>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let numbers: Arc<Mutex<BTreeMap<String, (u64, u64)>>> = Arc::default();
        let generation = Arc::new(AtomicU64::new(0));
        let (ends, count, kept) = (stop.clone(), acknowledged.clone(), numbers.clone());
        let current = generation.clone();
        let thread = std::thread::spawn(move || {
            let mut failures = 0;
            let mut number = 0;
            while !ends.load(Ordering::Relaxed) {
                number += 1;
                // A write without an answer may have its effect late, after
                // others: nothing more is written to its key.
                let generation = current.load(Ordering::Acquire);
                let key = format!("writer/{:02}/{failures}/{generation}", number % KEYS);
                kept.lock().unwrap().entry(key.clone()).or_default().1 = number;
                let node = nodes[failures % nodes.len()];
                let body = number.to_string();
                let target = format!("/v1/kv/{key}");
                let timeout = [("synod-timeout", "1s")];
                match http::request_within(
                    PATIENCE,
                    node,
                    "PUT",
                    &target,
                    &timeout,
                    body.as_bytes(),
                ) {
                    Ok(answer) if answer.status < 300 => {
                        kept.lock().unwrap().entry(key).or_default().0 = number;
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    // Refused or unknown: try another node with the next number.
                    _ => failures += 1,
                }
            }
        });
        Self { stop, acknowledged, generation, numbers, thread }
    }

    /// Leaves the keys written so far as they are: later writes would hide the
    /// loss of the last ones.
    fn freeze(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn wait_for_more(&self, count: u64) {
        let target = self.acknowledged.load(Ordering::Relaxed) + count;
        wait_until("more acknowledged writes", || {
            self.acknowledged.load(Ordering::Relaxed) >= target
        });
    }

    fn finish(self) -> BTreeMap<String, (u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer's end");
        self.numbers.lock().unwrap().clone()
    }
}

fn check_nothing_lost(cluster: &TestCluster, reader: u32, numbers: &BTreeMap<String, (u64, u64)>) {
    for (key, (acknowledged, sent)) in numbers {
        let read = cluster.request(reader, "GET", &format!("/v1/kv/{key}"), &[], b"");
        let found: u64 = match read.status {
            404 => 0,
            200 => read.text().parse().expect("a number"),
            other => panic!("{key} at node {reader}: {other} {}", read.text()),
        };
        let how = format!(
            "{key} at node {reader}: {found} read, {acknowledged} acknowledged, {sent} sent, \
             at revision {:?} under leader {:?}",
            read.header("synod-revision"),
            read.header("synod-leader")
        );
        assert!(found >= *acknowledged, "lost or old: {how}");
        assert!(found <= *sent, "never sent: {how}");
    }
}

fn addresses(cluster: &TestCluster) -> Vec<SocketAddr> {
    cluster.ids().map(|id| cluster.client_addr(id)).collect()
}

fn applied(cluster: &TestCluster, id: u32) -> u64 {
    cluster.status(id).and_then(|status| status["applied_slot"].as_u64()).unwrap_or(0)
}

#[test]
fn writes_go_on_when_the_leader_is_killed_and_it_catches_up() {
    let mut cluster = TestCluster::start(3);
    let writer = Writer::start(addresses(&cluster));
    for _ in 0..3 {
        writer.wait_for_more(100);
        let old = cluster.leader();
        cluster.signal(old, Signal::KILL);
        writer.freeze();
        cluster.wait_for_death(old);
        let others: Vec<u32> = cluster.ids().filter(|id| *id != old).collect();
        let new = cluster.leader_among(&others);
        assert_ne!(new, old);
        writer.wait_for_more(100);

        cluster.start_by_hand(old);
        let target = applied(&cluster, new);
        wait_until("the dead node catches up", || applied(&cluster, old) >= target);
    }
    let numbers = writer.finish();
    for id in cluster.ids() {
        check_nothing_lost(&cluster, id, &numbers);
    }
}

#[test]
fn writes_go_on_when_the_leader_is_paused() {
    let cluster = TestCluster::start(3);
    let writer = Writer::start(addresses(&cluster));
    writer.wait_for_more(50);
    let old = cluster.leader();
    cluster.signal(old, Signal::STOP);
    writer.freeze();
    let others: Vec<u32> = cluster.ids().filter(|id| *id != old).collect();
    cluster.leader_among(&others);
    writer.wait_for_more(50);
    cluster.signal(old, Signal::CONT);
    // Every node, the one that was paused too, serves what was acknowledged.
    let numbers = writer.finish();
    for id in cluster.ids() {
        check_nothing_lost(&cluster, id, &numbers);
    }
}

#[test]
fn all_nodes_killed_at_once_come_back_with_everything() {
    let mut cluster = TestCluster::start(3);
    let writer = Writer::start(addresses(&cluster));
    writer.wait_for_more(200);
    for id in cluster.ids() {
        cluster.signal(id, Signal::KILL);
    }
    writer.freeze();
    wait_until("the runner sees the nodes' ends", || {
        cluster.ids().all(|id| cluster.pid(id).is_none())
    });
    let numbers = writer.finish();
    for id in cluster.ids() {
        cluster.start_by_hand(id);
    }
    cluster.leader();
    for id in cluster.ids() {
        wait_until("a node is ready", || {
            cluster.try_request(id, "GET", "/readyz", &[], b"").is_ok_and(|r| r.status == 200)
        });
        check_nothing_lost(&cluster, id, &numbers);
    }
}
