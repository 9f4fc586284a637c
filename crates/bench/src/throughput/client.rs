//! The clients of a throughput run.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::BenchError;
use crate::keys::{KeySpace, Values};
use crate::pacer::Pacer;
use crate::request_error::RequestError;
use crate::session::Session;

use super::options::ThroughputOptions;
use super::recorder::{OperationKind, Recording};

/// A client whose requests fail one after the other waits this long between
/// them, so that a dead cluster is not hammered.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);
const PRELOAD_SESSIONS: usize = 64;
/// A key is stored by at most this many attempts before reads of it.
const PRELOAD_ATTEMPTS: usize = 100;

/// All that the clients share.
#[derive(Debug)]
pub(super) struct Load {
    options: ThroughputOptions,
    nodes: Arc<[SocketAddr]>,
    /// Where all clients start; spread if none.
    first: Option<usize>,
    space: KeySpace,
    values: Values,
    stopped: AtomicBool,
    recording: Mutex<Recording>,
}

impl Load {
    pub(super) fn new(
        options: ThroughputOptions,
        nodes: Arc<[SocketAddr]>,
        first: Option<usize>,
    ) -> Result<Self, BenchError> {
        let space = KeySpace::new(options.keys, options.key_bytes, options.distribution)?;
        let values = Values::new(options.value_bytes, &mut fastrand::Rng::with_seed(options.seed));
        let now = Instant::now();
        let recording = Mutex::new(Recording::new(now, now, options.timeline_interval));
        let stopped = AtomicBool::new(false);
        Ok(Self { options, nodes, first, space, values, stopped, recording })
    }

    pub(super) fn begin_recording(&self, begin: Instant, end: Instant) {
        *self.recording() = Recording::new(begin, end, self.options.timeline_interval);
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_recording(&self) -> Recording {
        let now = Instant::now();
        let empty = Recording::new(now, now, self.options.timeline_interval);
        let mut recording = std::mem::replace(&mut *self.recording(), empty);
        recording.finish();
        recording
    }

    fn recording(&self) -> MutexGuard<'_, Recording> {
        // A client that panicked leaves whole records behind: each is one call.
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, client: usize) -> Session {
        let first = self.first.unwrap_or(client % self.nodes.len());
        Session::new(self.options.protocol, Arc::clone(&self.nodes), first)
    }
}

/// Runs one thread's share of the clients until the load is stopped.
pub(super) fn generate(load: &Arc<Load>, thread: usize) -> Result<(), BenchError> {
    let threads = load.options.threads;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let pacer = load.options.rate_per_s.map(|rate| Pacer::new(rate / threads as f64));
        if let Some(pacer) = pacer.clone() {
            std::thread::Builder::new().name("pacer".into()).spawn(move || pacer.run())?;
        }
        let mut clients = JoinSet::new();
        for client in (thread..load.options.clients).step_by(threads) {
            clients.spawn(run_client(Arc::clone(load), client, pacer.clone()));
        }
        if let Some(pacer) = pacer {
            while !load.stopped.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            pacer.end();
        }
        clients.join_all().await;
        Ok(())
    })
}

async fn run_client(load: Arc<Load>, client: usize, pacer: Option<Pacer>) {
    let mut session = load.session(client);
    let mut random = fastrand::Rng::with_seed(load.options.seed ^ ((client as u64 + 1) << 20));
    let mut key = Vec::new();
    while !load.stopped.load(Ordering::Relaxed) {
        let due = match &pacer {
            None => Instant::now(),
            Some(pacer) => match pacer.ticket().await {
                Some(due) => due,
                None => return,
            },
        };
        load.space.name(load.space.draw(&mut random), &mut key);
        let reads = load.options.read_share > 0.0 && random.f64() < load.options.read_share;
        let (kind, answer) = if reads {
            let answer = session.get(&key, load.options.timeout).await;
            (OperationKind::Read, answer.map(|value| value.is_some()))
        } else {
            let value = load.values.draw(&mut random);
            let answer = session.put(&key, &value, load.options.timeout).await;
            (OperationKind::Write, answer.map(|_| true))
        };
        let failed = answer.is_err();
        record(&load, kind, due, answer);
        if failed {
            session.move_on();
            tokio::time::sleep(FAILURE_PAUSE).await;
        }
    }
}

fn record(load: &Load, kind: OperationKind, due: Instant, answer: Result<bool, RequestError>) {
    let now = Instant::now();
    let mut recording = load.recording();
    match answer {
        Ok(found) => {
            if recording.succeeded(kind, due, now) && !found {
                recording.missed();
            }
        }
        Err(error) => recording.failed(kind, error, now),
    }
}

/// Stores every key once.
pub(super) fn preload(load: &Arc<Load>) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let next = Arc::new(AtomicU64::new(0));
        let mut sessions = JoinSet::new();
        for session in 0..PRELOAD_SESSIONS {
            sessions.spawn(preload_share(Arc::clone(load), session, Arc::clone(&next)));
        }
        match sessions.join_all().await.into_iter().find_map(Result::err) {
            Some(error) => Err(BenchError::NothingAcknowledged {
                errors: format!("storing the keys failed: {}", error.kind),
            }),
            None => Ok(()),
        }
    })
}

async fn preload_share(
    load: Arc<Load>,
    client: usize,
    next: Arc<AtomicU64>,
) -> Result<(), RequestError> {
    let mut session = load.session(client);
    let mut random = fastrand::Rng::with_seed(load.options.seed ^ client as u64);
    let mut key = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= load.options.keys {
            return Ok(());
        }
        load.space.name(number, &mut key);
        let mut attempt = 1;
        while let Err(error) =
            session.put(&key, &load.values.draw(&mut random), load.options.timeout).await
        {
            if attempt == PRELOAD_ATTEMPTS {
                return Err(error);
            }
            attempt += 1;
            session.move_on();
            tokio::time::sleep(FAILURE_PAUSE).await;
        }
    }
}
