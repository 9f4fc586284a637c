//! Those who ask for slots in which nothing happens, so that the next one comes soon at which nodes
//! compare their states. A value carries what came in while another was under way, so a few do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use tokio::task::JoinSet;

use super::caller::Caller;
use super::load::Load;
use crate::BenchError;

/// More would only share the same values.
const CALLERS: u64 = 3;
/// There is no such key, so its removal makes no revision.
const TARGET: &str = "/v1/kv/chaos-rush";

/// They go on until this is dropped.
pub(super) struct Rush {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Rush {
    pub(super) fn begin(load: &Arc<Load>) -> Result<Self, BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let (load, seen) = (Arc::clone(load), Arc::clone(&is_over));
        let thread = thread::Builder::new().name("rush".into()).spawn(move || {
            runtime.block_on(async {
                let mut callers = JoinSet::new();
                for number in 0..CALLERS {
                    callers.spawn(ask(Caller::new(&load, 200 + number), Arc::clone(&seen)));
                }
                callers.join_all().await;
            });
        })?;
        Ok(Self { is_over, thread: Some(thread) })
    }
}

impl Drop for Rush {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // If it panicked, that was printed, and only slots came more slowly.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn ask(mut caller: Caller, is_over: Arc<AtomicBool>) {
    while !is_over.load(Ordering::Relaxed) {
        caller.ask("DELETE", TARGET, b"").await;
    }
}
