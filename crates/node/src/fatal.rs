//! The way out for failures that a node must not survive.
//!
//! A failed write is never retried and a bug is never worked around: whoever meets
//! one says so here and ends. What the node has said up to then is durable, and it
//! says nothing more, because what would let it speak never comes.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

/// Where threads report what ends the node. A clone reports to the same place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fatal {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The first report: the others are mostly its consequences.
    first: Mutex<Option<String>>,
    reported: Notify,
    /// The configuration by which the node is a member no more.
    removed: watch::Sender<Option<u64>>,
}

impl Fatal {
    /// Reports a failure. The first one is what the node ends with.
    pub(crate) fn report(&self, what: &str, error: impl Display) {
        let message = format!("{what}: {error}");
        tracing::error!("{message}");
        let mut first = self.inner.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(message);
        drop(first);
        self.inner.reported.notify_one();
    }

    /// The failure that was reported first.
    pub(crate) fn reported(&self) -> Option<String> {
        self.inner.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a failure. By one caller only.
    pub(crate) async fn wait(&self) -> String {
        loop {
            if let Some(message) = self.reported() {
                return message;
            }
            self.inner.reported.notified().await;
        }
    }

    /// The node is a member no more, by the configuration of this number: it ends in an
    /// orderly way, for nobody needs it.
    pub(crate) fn report_removed(&self, number: u64) {
        self.inner.removed.send_if_modified(|removed| removed.replace(number).is_none());
    }

    /// Waits until the node is a member no more.
    pub(crate) async fn wait_removed(&self) -> u64 {
        let mut removed = self.inner.removed.subscribe();
        let number = removed.wait_for(Option::is_some).await.map(|number| *number);
        number.ok().flatten().expect("the sender lives as long as this value")
    }

    /// To be held by a thread: reports it if it ends by a panic.
    pub(crate) fn guard(&self, thread: &'static str) -> PanicGuard {
        PanicGuard { fatal: self.clone(), thread }
    }
}

/// Reports a panic of the thread that holds it.
#[derive(Debug)]
pub(crate) struct PanicGuard {
    fatal: Fatal,
    thread: &'static str,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fatal.report(self.thread, "the thread panicked, which is a bug");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_failure_counts_and_a_panic_is_one() {
        let fatal = Fatal::default();
        assert_eq!(fatal.reported(), None);
        let held = fatal.clone();
        let thread = std::thread::spawn(move || {
            let _guard = held.guard("the worker");
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        fatal.report("the disk", "is full");
        assert!(fatal.wait().await.starts_with("the worker: "));
    }
}
