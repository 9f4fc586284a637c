//! Requests per second of the HTTP stack alone, over loopback, with a replica that is
//! a map in memory: the hot route for one key against the same handler behind the
//! router. The hot route stays only as long as this shows a gain.
//!
//! `cargo bench -p synod-api [-- SECONDS]` runs each line for so long (default 2) and
//! prints the median of three. Server and clients have one thread each.

#![allow(missing_docs, reason = "a bench has no readers of its API")]

#[path = "../tests/it/fake/stand_in.rs"]
mod stand_in;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant as Clock};

use bytes::Bytes;
use synod_api::{
    BackupParts, ChangeRefused, Leader, Limits, MemberChange, Refused, Replica, Route, serve_by,
};
use synod_kv::http::{MembersBody, StatusBody};
use synod_kv::read::{ListQuery, Look, Page, ReadError};
use synod_kv::{Command, KeyRecord, MapError, MemoryMap, Operation, Outcome, Revision, Taken};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::Instant;

const KEYS: usize = 1_000;
const VALUE_BYTES: usize = 256;
const RUNS: usize = 3;

fn main() {
    // `cargo bench` says so; a test run over all targets only looks whether it works.
    let is_bench = std::env::args().any(|word| word == "--bench");
    let default = if is_bench { 2.0 } else { 0.01 };
    let seconds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(default);
    println!("| request | clients | route | requests/s | server CPU us/request |");
    println!("|---|---|---|---|---|");
    for method in ["PUT", "GET"] {
        for clients in [1, 64] {
            for route in [Route::Direct, Route::Routed] {
                let mut runs: Vec<Run> =
                    (0..RUNS).map(|_| run(route, method, clients, seconds)).collect();
                runs.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
                let Run { per_second, cpu_us } = runs[RUNS / 2];
                println!("| {method} | {clients} | {route:?} | {per_second:.0} | {cpu_us:.2} |");
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Run {
    per_second: f64,
    cpu_us: f64,
}

fn run(route: Route, method: &'static str, clients: usize, seconds: f64) -> Run {
    let (ready, address) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = thread::spawn(move || {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            ready.send(listener.local_addr().expect("an address")).expect("the main thread");
            let stopped = async {
                let _ = stopped.await;
            };
            serve_by(route, listener, Memory::default(), Limits::default(), stopped).await;
        });
        // Nanoseconds that this thread was on a CPU.
        let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        schedstat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(f64::NAN)
    });
    let address = address.recv().expect("the server's address");
    let begin = Clock::now();
    let requests = drive(address, method, clients, Duration::from_secs_f64(seconds));
    let elapsed = begin.elapsed().as_secs_f64();
    stop.send(()).expect("a running server");
    let cpu_ns = server.join().expect("the server's thread");
    Run { per_second: requests / elapsed, cpu_us: cpu_ns / 1_000.0 / requests }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future);
}

/// Sends requests closed-loop on `clients` connections and counts the answers.
fn drive(address: SocketAddr, method: &str, clients: usize, time: Duration) -> f64 {
    let requests: Arc<Vec<String>> = Arc::new((0..KEYS).map(|key| request(method, key)).collect());
    let count = Arc::new(AtomicU64::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    block_on(async {
        let mut tasks = Vec::new();
        for client in 0..clients {
            let (requests, count, is_over) = (requests.clone(), count.clone(), is_over.clone());
            tasks.push(tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.expect("a connection");
                stream.set_nodelay(true).expect("a socket option");
                let mut at = client;
                let mut read = Vec::with_capacity(8 * 1024);
                while !is_over.load(Relaxed) {
                    at = (at + 7) % requests.len();
                    stream.write_all(requests[at].as_bytes()).await.expect("a send");
                    receive(&mut stream, &mut read).await;
                    count.fetch_add(1, Relaxed);
                }
            }));
        }
        tokio::time::sleep(time).await;
        is_over.store(true, Relaxed);
        for task in tasks {
            task.await.expect("a client");
        }
    });
    #[allow(clippy::cast_precision_loss, reason = "a count of requests is below 2^52")]
    let requests = count.load(Relaxed) as f64;
    requests
}

fn request(method: &str, key: usize) -> String {
    let head = format!("{method} /v1/kv/bench/key-{key:021} HTTP/1.1\r\nhost: localhost\r\n");
    match method {
        "PUT" => {
            format!("{head}content-length: {VALUE_BYTES}\r\n\r\n{}", "v".repeat(VALUE_BYTES))
        }
        _ => format!("{head}\r\n"),
    }
}

async fn receive(stream: &mut TcpStream, read: &mut Vec<u8>) {
    read.clear();
    loop {
        assert_ne!(stream.read_buf(read).await.expect("an answer"), 0, "the server hung up");
        let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&read[..end]).expect("text");
        assert!(head.starts_with("HTTP/1.1 2"), "{head}");
        let length = head.split("content-length: ").nth(1).expect("a length");
        let length: usize = length.lines().next().expect("a line").parse().expect("a number");
        if read.len() == end + 4 + length {
            return;
        }
    }
}

/// The least that a replica can be.
#[derive(Clone)]
struct Memory {
    keys: Arc<Mutex<(u64, HashMap<Bytes, KeyRecord>)>>,
    leader: Leader,
}

impl Default for Memory {
    fn default() -> Self {
        let record = |revision: u64| KeyRecord {
            value: Bytes::from(vec![b'v'; VALUE_BYTES]),
            create_revision: Revision(revision),
            mod_revision: Revision(revision),
            version: 1,
            lease: 0,
        };
        let keys = (0..KEYS)
            .map(|key| (Bytes::from(format!("bench/key-{key:021}")), record(key as u64 + 1)))
            .collect();
        Self {
            keys: Arc::new(Mutex::new((KEYS as u64, keys))),
            leader: Leader::new(1, "http://127.0.0.1:7001"),
        }
    }
}

impl Replica for Memory {
    type Map = MemoryMap;

    async fn write(&self, command: Command, _: Instant) -> Result<Taken, Refused> {
        let Operation::Put { key, value, .. } = command.operation else {
            return Err(Refused::Overloaded);
        };
        let (revision, keys) = &mut *self.keys.lock().expect("no panic");
        *revision += 1;
        let revision = Revision(*revision);
        let record = keys.entry(key).or_insert_with(|| KeyRecord {
            value: Bytes::new(),
            create_revision: revision,
            mod_revision: revision,
            version: 0,
            lease: 0,
        });
        record.value = Bytes::copy_from_slice(&value);
        record.mod_revision = revision;
        record.version += 1;
        let (create_revision, version) = (record.create_revision, record.version);
        let outcome = Outcome::Stored { revision, create_revision, version, previous: None };
        Ok(Taken::Applied { outcome, expiry: None })
    }

    async fn read_barrier(&self, _: Instant) -> Result<(), Refused> {
        Ok(())
    }

    async fn wait_revision(&self, _: Revision, _: Instant) -> Result<(), Refused> {
        Ok(())
    }

    async fn transfer(&self, _: Option<u32>, _: Instant) -> Result<Leader, Refused> {
        Ok(self.leader.clone())
    }

    fn is_member(&self, node: u32) -> bool {
        node == self.leader.node
    }

    fn members(&self) -> Option<MembersBody> {
        None
    }

    async fn change_members(
        &self,
        _: MemberChange,
        _: Instant,
    ) -> Result<MembersBody, ChangeRefused> {
        Err(ChangeRefused::Replica(Refused::NoLeader))
    }

    fn get(&self, key: &[u8]) -> Result<Look, MapError> {
        let (revision, keys) = &*self.keys.lock().expect("no panic");
        Ok(Look { record: keys.get(key).cloned(), revision: Revision(*revision) })
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&MemoryMap) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        read(&MemoryMap::new())
    }

    async fn count(
        &self,
        query: ListQuery,
        at: Option<Revision>,
        visits_max: usize,
        goes_on: impl Fn() -> bool + Send,
    ) -> Result<Page, ReadError> {
        stand_in::count(&MemoryMap::new(), (&query, at), visits_max, goes_on).await
    }

    fn backup(&self) -> Result<BackupParts, Refused> {
        Ok(stand_in::backup())
    }

    fn revision(&self) -> Revision {
        Revision(self.keys.lock().expect("no panic").0)
    }

    fn cluster_time_ms(&self) -> u64 {
        0
    }

    fn node(&self) -> u32 {
        1
    }

    fn leader(&self) -> Option<Leader> {
        Some(self.leader.clone())
    }

    fn status(&self) -> StatusBody {
        stand_in::status(self.leader.node)
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn metrics(&self) -> String {
        String::new()
    }
}
