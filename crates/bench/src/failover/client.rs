//! The clients of a failover run: each writes rising numbers to its own keys,
//! one write at a time, and goes on to another node when one fails it.
//!
//! When a leader goes, every client turns to new keys. A leader that loses its
//! last writes loses the newest number of a few keys; were these keys written
//! on, the next acknowledged number would hide the loss before anybody looks.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::acknowledgement::{Acknowledgement, first_after};
use super::finding::CheckResult;
use super::ledger::{KeyId, Ledger};
use super::plan::FailoverPlan;
use crate::latency::micros;
use crate::request_error::{Effect, ErrorKind};
use crate::session::Session;
use crate::synod::version_of;
use crate::{BenchError, NodeId};

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
    ids: Vec<NodeId>,
    begin: Instant,
    stopped: AtomicBool,
    /// How often the keys written so far were left as they are.
    freezes: AtomicU64,
    log: Mutex<Log>,
    ledger: Mutex<Ledger>,
    /// What the answers to writes have shown.
    answers: Mutex<CheckResult>,
}

impl Load {
    /// The load's clock starts now.
    pub(super) fn new(plan: FailoverPlan, nodes: Arc<[SocketAddr]>, ids: Vec<NodeId>) -> Self {
        assert_eq!(nodes.len(), ids.len(), "each node has its id");
        let run = fastrand::Rng::new().u32(..);
        let ledger = Ledger::new(run, plan.key_bytes, plan.value_bytes);
        Self {
            plan,
            nodes,
            ids,
            begin: Instant::now(),
            stopped: AtomicBool::new(false),
            freezes: AtomicU64::new(0),
            log: Mutex::new(Log::default()),
            ledger: Mutex::new(ledger),
            answers: Mutex::new(CheckResult::default()),
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

    /// No write begins on a key of before any more: whatever is lost of them now
    /// stays to be seen.
    pub(super) fn freeze(&self) {
        self.freezes.fetch_add(1, Ordering::Release);
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the answers to writes have shown so far.
    pub(super) fn take_answers(&self) -> CheckResult {
        std::mem::take(&mut self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.log().acknowledgements.len()
    }

    /// An error once no more is kept, and the load has ended for that.
    pub(super) fn refuse_full(&self) -> Result<(), BenchError> {
        match self.log().full {
            true => Err(BenchError::TooManyAcknowledgements { limit: ACKNOWLEDGEMENTS_MAX }),
            false => Ok(()),
        }
    }

    pub(super) fn take_log(&self) -> Log {
        let mut log = std::mem::take(&mut *self.log());
        log.acknowledgements.sort_by_key(|one| one.acknowledged_us);
        log
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

    /// Holds what a write's answer says of its key against the ledger.
    fn check_answer(&self, key: KeyId, node: usize, version: u64) {
        let ledger = self.ledger();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.note_version(&ledger, key, self.ids[node], version);
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
    let mut freezes = load.freezes.load(Ordering::Acquire);
    let mut keys: Vec<_> = (0..KEYS_PER_CLIENT).map(|_| load.ledger().open()).collect();
    let mut failures = 0;
    for turn in 0.. {
        if load.stopped.load(Ordering::Relaxed) {
            return;
        }
        let freezes_now = load.freezes.load(Ordering::Acquire);
        if freezes_now != freezes {
            freezes = freezes_now;
            let mut ledger = load.ledger();
            keys.iter_mut().for_each(|key| *key = ledger.open());
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
            Ok(answer) => {
                load.acknowledge(client, node, sent, now);
                load.ledger().acknowledge(key, number);
                if let Some(version) = version_of(&answer) {
                    load.check_answer(key, node, version);
                }
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
