//! What is sent again: some operations have an idempotency key, and while nobody knows what became
//! of one of these, the same request is sent again under the same key, at whichever node.
//!
//! However many of its attempts arrive, and however late, it must have effect once, and each
//! answer must be that of the first one that had it. To the history it is one operation, from
//! the first attempt to the last answer; so an effect or an answer of its own that a later
//! attempt has is found by the checks of all operations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::sleep;

use super::load::Load;

/// So many of ten changes have a key.
const WITH_KEY_OF_TEN: u32 = 4;
/// No attempt begins later than this after the first one was not answered. Keys are remembered
/// for ten minutes, and a healed cluster answers within seconds.
const LAST: Duration = Duration::from_secs(30);
/// Before each further attempt: sometimes the one before it is still under way.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// The answer that the key was used for another request.
const MISMATCH: u16 = 422;

/// Operations and transactions that had an idempotency key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Retries {
    /// How many there were.
    pub with_key: u64,
    /// That were sent more than once.
    pub sent_again: u64,
    /// Of these, those of which a later attempt was told what became of them.
    pub settled: u64,
    /// Of these, those that had had effect before the attempt that was told so: its answer
    /// was remembered. Seen only where somebody knew that revision or a later one by then.
    pub remembered: u64,
    /// Attempts that were told that their key was used for another request, which is never so.
    pub mismatched: u64,
}

/// The attempts of one operation that has a key.
pub(super) struct Attempts {
    load: Arc<Load>,
    until: Instant,
    is_sent_again: bool,
    /// The newest revision that anybody knew before the last attempt.
    newest: u64,
}

/// The header line with an operation's key, for some of them.
pub(super) fn draw_header(load: &Load, number: u64, random: &mut fastrand::Rng) -> Option<String> {
    let has_key = random.u32(..10) < WITH_KEY_OF_TEN;
    has_key.then(|| format!("idempotency-key: chaos-{:016x}-{number}\r\n", load.run()))
}

/// Takes note of what an attempt was answered.
pub(super) fn note_status(load: &Load, status: u16) {
    if status == MISMATCH {
        load.retries().mismatched += 1;
    }
}

impl Attempts {
    /// After the first one.
    pub(super) fn new(load: &Arc<Load>) -> Self {
        load.retries().with_key += 1;
        let (load, until) = (Arc::clone(load), Instant::now() + LAST);
        Attempts { load, until, is_sent_again: false, newest: 0 }
    }

    /// Whether there is time for another one, after a pause.
    pub(super) async fn again(&mut self, random: &mut fastrand::Rng) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        sleep(PAUSE_MAX.mul_f64(random.f64())).await;
        if !self.is_sent_again {
            self.is_sent_again = true;
            self.load.retries().sent_again += 1;
        }
        self.newest = self.load.newest_revision();
        true
    }

    /// The last one was told what became of it: a change at this revision, if it was one.
    pub(super) fn settle(&self, changed_at: Option<u64>) {
        if !self.is_sent_again {
            return;
        }
        let mut retries = self.load.retries();
        retries.settled += 1;
        retries.remembered += u64::from(changed_at.is_some_and(|at| at <= self.newest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Arc<Load> {
        let node = (crate::NodeId(1), ([127, 0, 0, 1], 1).into());
        Arc::new(Load::new(vec![node], 1, 7))
    }

    #[test]
    fn some_operations_have_a_key_and_no_two_the_same() {
        let (load, mut random) = (load(), fastrand::Rng::with_seed(3));
        let headers = (0..100).filter_map(|number| draw_header(&load, number, &mut random));
        let headers: std::collections::BTreeSet<String> = headers.collect();
        assert!((20..60).contains(&headers.len()), "{}", headers.len());
        assert_ne!(
            headers,
            std::collections::BTreeSet::from_iter(draw_header(&self::load(), 1, &mut random))
        );
    }

    #[tokio::test]
    async fn what_was_known_before_an_attempt_was_not_done_by_it() {
        let (load, mut random) = (load(), fastrand::Rng::with_seed(3));
        for (known, changed_at, remembered) in
            [(5, Some(5), 1), (6, Some(7), 1), (9, Some(8), 2), (9, None, 2)]
        {
            load.learn(known);
            let mut attempts = Attempts::new(&load);
            assert!(attempts.again(&mut random).await);
            attempts.settle(changed_at);
            assert_eq!(load.retries().remembered, remembered, "{known} {changed_at:?}");
        }
        Attempts::new(&load).settle(Some(1));
        let expected =
            Retries { with_key: 5, sent_again: 4, settled: 4, remembered: 2, mismatched: 0 };
        assert_eq!(*load.retries(), expected);
    }
}
