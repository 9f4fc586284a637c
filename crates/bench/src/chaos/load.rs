//! The clients of a run: each does one operation at a time on few keys, through all
//! nodes, and writes down what it asked for and what it was told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::client::Client;
use super::history::{End, Operation, Request};
use super::retries::Retries;
use crate::latency::micros;
use crate::{BenchError, NodeId};

/// Keys in use at a time, and how long: with few operations on each, an order that
/// explains them is found at once.
const KEYS: usize = 20;
const KEYS_LAST: Duration = Duration::from_secs(3);
/// A client pauses up to this long between two operations: what is looked for are
/// wrong answers, not many.
const THINK_MAX: Duration = Duration::from_millis(12);
const PATIENCE_MIN: Duration = Duration::from_millis(500);
const PATIENCE_MAX: Duration = Duration::from_millis(2_000);
/// One operation in so many moves a client to another node.
const WANDER: u32 = 40;
/// Some hours of full load.
const OPERATIONS_MAX: usize = 20_000_000;

/// What the clients share with the one who disturbs the cluster.
#[derive(Debug)]
pub(super) struct Load {
    /// Those that clients may use, of which there is always one; they change with the members.
    nodes: Mutex<Vec<(NodeId, SocketAddr)>>,
    clients: usize,
    seed: u64,
    /// Apart from other runs' keys.
    run: u64,
    begin: Instant,
    stopped: AtomicBool,
    numbers: AtomicU64,
    processes: AtomicU64,
    log: Mutex<Vec<Operation>>,
    watch: Mutex<Watch>,
    retries: Mutex<Retries>,
    /// The newest revision that anybody was told.
    newest: AtomicU64,
}

/// The first acknowledgement of a write that was called after some moment.
#[derive(Debug, Default, Clone, Copy)]
struct Watch {
    called_after_us: u64,
    first_us: Option<u64>,
}

impl Load {
    /// The run's clock starts now.
    pub(super) fn new(nodes: Vec<(NodeId, SocketAddr)>, clients: usize, seed: u64) -> Self {
        Self {
            nodes: Mutex::new(nodes),
            clients,
            seed,
            run: fastrand::u64(..),
            begin: Instant::now(),
            stopped: AtomicBool::new(false),
            numbers: AtomicU64::new(1),
            processes: AtomicU64::new(0),
            log: Mutex::default(),
            watch: Mutex::default(),
            retries: Mutex::default(),
            newest: AtomicU64::new(0),
        }
    }

    /// Has clients use these nodes from now on.
    pub(super) fn use_nodes(&self, nodes: Vec<(NodeId, SocketAddr)>) {
        *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    /// How many there are.
    pub(super) fn nodes(&self) -> usize {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The node of this number, counted round and round.
    pub(super) fn node(&self, number: usize) -> (NodeId, SocketAddr) {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes[number % nodes.len()]
    }

    pub(super) fn now_us(&self) -> u64 {
        micros(self.begin.elapsed())
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// What requests are drawn from.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// What tells this run's keys from other runs'.
    pub(super) fn run(&self) -> u64 {
        self.run
    }

    /// From now on the first acknowledgement of a write that is called now or later
    /// is watched for.
    pub(super) fn watch(&self) -> u64 {
        let now_us = self.now_us();
        *self.watched() = Watch { called_after_us: now_us, first_us: None };
        now_us
    }

    /// When it came.
    pub(super) fn first_acknowledgement(&self) -> Option<u64> {
        self.watched().first_us
    }

    pub(super) fn take_log(&self) -> Vec<Operation> {
        std::mem::take(&mut *self.log())
    }

    /// What became of operations with an idempotency key.
    pub(super) fn retries(&self) -> MutexGuard<'_, Retries> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody was told of this revision.
    pub(super) fn learn(&self, revision: u64) {
        self.newest.fetch_max(revision, Ordering::Relaxed);
    }

    /// The newest one that anybody was told of.
    pub(super) fn newest_revision(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    fn log(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watched(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation has returned.
    pub(super) fn note(&self, operation: Operation) {
        if let Some(revision) = operation.revision() {
            self.learn(revision);
        }
        if operation.acknowledged_at().is_some() {
            let mut watch = self.watched();
            if operation.called_us >= watch.called_after_us && watch.first_us.is_none() {
                watch.first_us = Some(operation.returned_us);
            }
        }
        let mut log = self.log();
        log.push(operation);
        if log.len() >= OPERATIONS_MAX {
            self.stop();
        }
    }

    /// Of the key of this number, as the store knows it.
    pub(super) fn name(&self, key: u64) -> String {
        format!("chaos/{:016x}/{key}", self.run)
    }

    /// The key of this name, if it is one of this run's.
    pub(super) fn key_of(&self, name: &str) -> Option<u64> {
        let key = name.rsplit('/').next()?.parse().ok()?;
        (self.name(key) == name).then_some(key)
    }

    /// The numbers of an operation and of a process that nobody else has.
    pub(super) fn next_numbers(&self) -> (u64, u64) {
        (self.next_number(), self.next_process())
    }

    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn next_process(&self) -> u64 {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }
}

/// Runs all clients until the load is stopped.
pub(super) fn generate(load: &Arc<Load>) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for client in 0..load.clients {
            clients.spawn(run_client(Arc::clone(load), client));
        }
        clients.join_all().await;
    });
    Ok(())
}

/// Reads every key through every node; gives the reads that were never answered.
pub(super) fn read_all(load: &Arc<Load>, keys: &[u64]) -> Result<u64, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let unanswered = runtime.block_on(async {
        let mut readers = JoinSet::new();
        for node in 0..load.nodes() {
            let (load, keys) = (Arc::clone(load), keys.to_vec());
            readers.spawn(async move {
                let mut client = Client::new(load, node);
                let mut unanswered = 0;
                for key in keys {
                    unanswered += u64::from(!client.read_finally(key).await);
                }
                unanswered
            });
        }
        readers.join_all().await.into_iter().sum()
    });
    Ok(unanswered)
}

async fn run_client(load: Arc<Load>, index: usize) {
    let mut client = Client::new(load, index);
    // What this client knows of the keys in use.
    let mut known = [None; KEYS];
    let mut epoch = 0;
    while !client.load.is_stopped() {
        let now = client.load.now_us() / micros(KEYS_LAST);
        if now != epoch {
            (epoch, known) = (now, [None; KEYS]);
        }
        let slot = client.random.usize(..known.len());
        let request = draw(&mut client.random, known[slot]);
        let patience = client.random.u64(micros(PATIENCE_MIN)..micros(PATIENCE_MAX));
        let key = epoch * KEYS as u64 + slot as u64;
        let end = client.operate(key, request, Duration::from_micros(patience)).await;
        match end {
            End::Found(found) => known[slot] = found.map(|(_, revision)| revision),
            End::Stored(revision) => known[slot] = Some(revision),
            End::Mismatch(current) => known[slot] = current,
            End::Deleted(_) | End::Absent => known[slot] = None,
            End::Failed | End::Unknown => client.move_on(),
        }
        if client.random.u32(..WANDER) == 0 {
            client.move_on();
        }
        sleep(THINK_MAX.mul_f64(client.random.f64())).await;
    }
}

fn draw(random: &mut fastrand::Rng, known: Option<u64>) -> Request {
    match (random.u32(..100), known) {
        (0..35, _) => Request::Get,
        (35..65, _) => Request::Put,
        (65..75, _) => Request::Delete,
        (75..80, _) | (80.., None) => Request::Create,
        (80.., Some(revision)) => Request::Swap(revision),
    }
}
