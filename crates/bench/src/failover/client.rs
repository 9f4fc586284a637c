//! The clients of a failover run: each writes rising numbers to its own keys,
//! one write at a time, and goes on to another node when one fails it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::acknowledgement::{Acknowledgement, first_after};
use super::ledger::Ledger;
use super::plan::FailoverPlan;
use crate::BenchError;
use crate::connection::{Effect, ErrorKind};
use crate::latency::micros;
use crate::session::Session;

/// So that a client's writes meet different keys, as users' do.
const KEYS_PER_CLIENT: usize = 4;
/// 16 bytes each; some ten minutes of full load.
pub(super) const ACKNOWLEDGEMENTS_MAX: usize = 16 << 20;
const FAILURES_MAX: usize = 4 << 20;
/// A client that found no node to take its write pauses this long, and up to
/// as long again: shorter than what is measured, and no storm.
const FAILURE_PAUSE: Duration = Duration::from_millis(3);

/// One write that failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    pub(super) at_us: u64,
    pub(super) kind: ErrorKind,
    pub(super) effect: Effect,
}

/// What the clients saw so far.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) acknowledgements: Vec<Acknowledgement>,
    pub(super) failures: Vec<Failure>,
    full: bool,
}

/// All that the clients share with the one who takes leaders away.
#[derive(Debug)]
pub(super) struct Load {
    plan: FailoverPlan,
    nodes: Arc<[SocketAddr]>,
    begin: Instant,
    stopped: AtomicBool,
    log: Mutex<Log>,
    ledger: Mutex<Ledger>,
}

impl Load {
    /// The load's clock starts now.
    pub(super) fn new(plan: FailoverPlan, nodes: Arc<[SocketAddr]>) -> Self {
        let run = fastrand::Rng::new().u32(..);
        let ledger = Ledger::new(run, plan.key_bytes, plan.value_bytes);
        Self {
            plan,
            nodes,
            begin: Instant::now(),
            stopped: AtomicBool::new(false),
            log: Mutex::new(Log::default()),
            ledger: Mutex::new(ledger),
        }
    }

    pub(super) fn nodes(&self) -> &Arc<[SocketAddr]> {
        &self.nodes
    }

    /// A time on the load's clock, in microseconds.
    pub(super) fn at_us(&self, time: Instant) -> u64 {
        micros(time.saturating_duration_since(self.begin))
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.log().acknowledgements.len()
    }

    pub(super) fn take_log(&self) -> Result<Log, BenchError> {
        let mut log = std::mem::take(&mut *self.log());
        if log.full {
            return Err(BenchError::TooManyAcknowledgements { limit: ACKNOWLEDGEMENTS_MAX });
        }
        log.acknowledgements.sort_by_key(|one| one.acknowledged_us);
        Ok(log)
    }

    /// When the first request sent after a time was acknowledged by another
    /// node than this one, if that has happened.
    pub(super) fn first_after(&self, sent_after_us: u64, taken_away: u16) -> Option<u64> {
        first_after(&self.log().acknowledgements, sent_after_us, u64::MAX, taken_away)
    }

    fn acknowledge(&self, client: usize, node: usize, sent: Instant, now: Instant) {
        let mut log = self.log();
        if log.acknowledgements.len() >= ACKNOWLEDGEMENTS_MAX {
            log.full = true;
            self.stop();
            return;
        }
        log.acknowledgements.push(Acknowledgement {
            acknowledged_us: self.at_us(now),
            latency_us: u32::try_from(micros(now - sent)).unwrap_or(u32::MAX),
            client: u16::try_from(client).expect("clients are limited"),
            node: u16::try_from(node).expect("nodes are few"),
        });
    }

    fn fail(&self, failure: Failure) {
        let mut log = self.log();
        if log.failures.len() >= FAILURES_MAX {
            log.full = true;
            self.stop();
            return;
        }
        log.failures.push(failure);
    }
}

/// Runs all clients until the load is stopped.
pub(super) fn generate(load: &Arc<Load>) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for client in 0..load.plan.clients {
            clients.spawn(run_client(Arc::clone(load), client));
        }
        clients.join_all().await;
    });
    Ok(())
}

async fn run_client(load: Arc<Load>, client: usize) {
    let nodes = load.nodes.len();
    let mut session = Session::new(load.plan.protocol, Arc::clone(&load.nodes), client % nodes);
    let mut random = fastrand::Rng::with_seed(load.plan.seed ^ ((client as u64 + 1) << 20));
    let mut keys: Vec<_> = (0..KEYS_PER_CLIENT).map(|_| load.ledger().open()).collect();
    let mut failures = 0;
    for turn in 0.. {
        if load.stopped.load(Ordering::Relaxed) {
            return;
        }
        let turn: usize = turn % KEYS_PER_CLIENT;
        let key = keys[turn];
        let (number, name, value) = {
            let mut ledger = load.ledger();
            let number = ledger.begin(key);
            (number, ledger.name(key), ledger.value(key, number))
        };
        let patience = random.u64(micros(load.plan.timeout_min)..=micros(load.plan.timeout_max));
        let (node, sent) = (session.at(), Instant::now());
        let answer = session.put(&name, &value, Duration::from_micros(patience)).await;
        let now = Instant::now();
        match answer {
            Ok(()) => {
                load.ledger().acknowledge(key, number);
                load.acknowledge(client, node, sent, now);
                failures = 0;
            }
            Err(error) => {
                keys[turn] = load.ledger().fail(key, number, error.effect);
                load.fail(Failure {
                    at_us: load.at_us(now),
                    kind: error.kind,
                    effect: error.effect,
                });
                session.move_on();
                failures += 1;
                if failures % nodes == 0 {
                    tokio::time::sleep(FAILURE_PAUSE.mul_f64(1.0 + random.f64())).await;
                }
            }
        }
    }
}
