//! The clients of a run: each does one operation at a time on few keys, through all
//! nodes, and writes down what it asked for and what it was told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::history::{End, Operation, Request};
use crate::latency::micros;
use crate::request_error::{Effect, ErrorKind, RequestError};
use crate::synod::{Response, SynodConnection};
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
/// Attempts at each read at the end.
const FINAL_ATTEMPTS: u32 = 20;

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

    fn log(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watched(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, operation: Operation) {
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

    fn name(&self, key: u64) -> String {
        format!("chaos/{:016x}/{key}", self.run)
    }

    /// The key of this name, if it is one of this run's.
    pub(super) fn key_of(&self, name: &str) -> Option<u64> {
        let key = name.rsplit('/').next()?.parse().ok()?;
        (self.name(key) == name).then_some(key)
    }

    /// The numbers of an operation and of a process that nobody else has.
    pub(super) fn next_numbers(&self) -> (u64, u64) {
        let next = |numbers: &AtomicU64| numbers.fetch_add(1, Ordering::Relaxed);
        (next(&self.numbers), next(&self.processes))
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
    let mut random = fastrand::Rng::with_seed(load.seed ^ ((index as u64 + 1) << 32));
    let mut client = Client::new(load, index);
    // What this client knows of the keys in use.
    let mut known = [None; KEYS];
    let mut epoch = 0;
    while !client.load.stopped.load(Ordering::Relaxed) {
        let now = client.load.now_us() / micros(KEYS_LAST);
        if now != epoch {
            (epoch, known) = (now, [None; KEYS]);
        }
        let slot = random.usize(..known.len());
        let request = draw(&mut random, known[slot]);
        let patience = random.u64(micros(PATIENCE_MIN)..micros(PATIENCE_MAX));
        let key = epoch * KEYS as u64 + slot as u64;
        let end = client.operate(key, request, Duration::from_micros(patience)).await;
        match end {
            End::Found(found) => known[slot] = found.map(|(_, revision)| revision),
            End::Stored(revision) => known[slot] = Some(revision),
            End::Mismatch(current) => known[slot] = current,
            End::Deleted(_) | End::Absent => known[slot] = None,
            End::Failed | End::Unknown => client.move_on(),
        }
        if random.u32(..WANDER) == 0 {
            client.move_on();
        }
        sleep(THINK_MAX.mul_f64(random.f64())).await;
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

/// One thread of control and its connection.
struct Client {
    load: Arc<Load>,
    process: u64,
    /// Which node it is with, counted round and round.
    number: usize,
    /// With whom it last spoke.
    node: NodeId,
    connection: Option<SynodConnection>,
}

impl Client {
    fn new(load: Arc<Load>, number: usize) -> Self {
        let process = load.processes.fetch_add(1, Ordering::Relaxed);
        let (node, _) = load.node(number);
        Self { load, process, number, node, connection: None }
    }

    fn move_on(&mut self) {
        self.connection = None;
        self.number += 1;
    }

    async fn operate(&mut self, key: u64, request: Request, patience: Duration) -> End {
        let number = self.load.numbers.fetch_add(1, Ordering::Relaxed);
        let name = self.load.name(key);
        let called_us = self.load.now_us();
        let answer = timeout(patience, self.ask(&name, number, request)).await;
        let returned_us = self.load.now_us();
        let answer = answer.unwrap_or(Err(RequestError::unknown(ErrorKind::Timeout)));
        // An answer that came late would be taken for the next request's.
        if answer.is_err() || !self.connection.as_ref().is_some_and(SynodConnection::is_open) {
            self.connection = None;
        }
        let end = match answer {
            Ok(response) => end_of(request, &response),
            Err(error) => end_of_error(request, error),
        };
        let (process, node) = (self.process, self.node);
        self.load.note(Operation {
            number,
            process,
            node,
            key,
            request,
            called_us,
            returned_us,
            end,
        });
        if end == End::Unknown {
            self.process = self.load.processes.fetch_add(1, Ordering::Relaxed);
        }
        end
    }

    async fn ask(
        &mut self,
        name: &str,
        number: u64,
        request: Request,
    ) -> Result<Response, RequestError> {
        if self.connection.is_none() {
            let (node, address) = self.load.node(self.number);
            self.node = node;
            let unsent = |_| RequestError::unsent(ErrorKind::Connect);
            let stream = TcpStream::connect(address).await.map_err(unsent)?;
            stream.set_nodelay(true).map_err(unsent)?;
            self.connection = Some(SynodConnection::new(stream, address));
        }
        let connection = self.connection.as_mut().expect("it was opened above");
        let (value, name) = (number.to_string(), name.as_bytes());
        let value = value.as_bytes();
        match request {
            Request::Get => connection.ask("GET", name, "", b"").await,
            Request::Delete => connection.ask("DELETE", name, "", b"").await,
            Request::Put => connection.ask("PUT", name, "", value).await,
            Request::Create => connection.ask("PUT", name, "if-none-match: *\r\n", value).await,
            Request::Swap(revision) => {
                let header = format!("if-match: \"{revision}\"\r\n");
                connection.ask("PUT", name, &header, value).await
            }
        }
    }

    async fn read_finally(&mut self, key: u64) -> bool {
        for _ in 0..FINAL_ATTEMPTS {
            let end = self.operate(key, Request::Get, PATIENCE_MAX).await;
            if matches!(end, End::Found(_)) {
                return true;
            }
            sleep(PATIENCE_MIN).await;
        }
        false
    }
}

fn end_of_error(request: Request, error: RequestError) -> End {
    match error.effect {
        Effect::Unknown if request != Request::Get => End::Unknown,
        // A read has no effect whatever becomes of it.
        _ => End::Failed,
    }
}

/// What an answer says. One that makes no sense counts as not understood.
fn end_of(request: Request, response: &Response) -> End {
    let refused = || end_of_error(request, response.refusal());
    match (request, response.status) {
        (Request::Get, 200) => match (number_in(&response.body), response.revision) {
            (Some(value), Some(revision)) => End::Found(Some((value, revision))),
            // Nobody wrote such a value: the check will say so.
            _ => End::Found(Some((u64::MAX, 0))),
        },
        (Request::Get, 404) => End::Found(None),
        (Request::Delete, 200) => deleted_at(&response.body).map_or(End::Unknown, End::Deleted),
        (Request::Delete, 404) => End::Absent,
        (Request::Put | Request::Create | Request::Swap(_), 200 | 201) => {
            response.revision.map_or(End::Unknown, End::Stored)
        }
        (Request::Create | Request::Swap(_), 412) => End::Mismatch(response.revision),
        _ => refused(),
    }
}

fn number_in(body: &[u8]) -> Option<u64> {
    std::str::from_utf8(body).ok()?.parse().ok()
}

fn deleted_at(body: &[u8]) -> Option<u64> {
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    document.get("revision")?.as_u64()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn end(request: Request, status: u16, revision: Option<u64>, body: &'static str) -> End {
        end_of(request, &Response { status, revision, body: Bytes::from_static(body.as_bytes()) })
    }

    #[test]
    fn answers_are_understood_by_their_request_and_status() {
        assert_eq!(end(Request::Get, 200, Some(4), "17"), End::Found(Some((17, 4))));
        assert_eq!(end(Request::Get, 404, None, ""), End::Found(None));
        assert_eq!(end(Request::Put, 201, Some(4), "{}"), End::Stored(4));
        assert_eq!(end(Request::Delete, 200, None, r#"{"revision":9}"#), End::Deleted(9));
        assert_eq!(end(Request::Delete, 404, None, "{}"), End::Absent);
        assert_eq!(end(Request::Swap(3), 412, Some(4), "{}"), End::Mismatch(Some(4)));
        assert_eq!(end(Request::Create, 412, Some(4), "{}"), End::Mismatch(Some(4)));
    }

    #[test]
    fn what_may_have_had_effect_is_unknown_and_a_strange_value_is_found() {
        assert_eq!(end(Request::Put, 503, None, r#"{"outcome":"unknown"}"#), End::Unknown);
        assert_eq!(end(Request::Put, 503, None, r#"{"outcome":"not_applied"}"#), End::Failed);
        assert_eq!(end(Request::Get, 503, None, r#"{"outcome":"unknown"}"#), End::Failed);
        assert_eq!(end(Request::Put, 200, None, "{}"), End::Unknown);
        assert_eq!(end(Request::Get, 200, Some(4), "xyz"), End::Found(Some((u64::MAX, 0))));
    }
}
