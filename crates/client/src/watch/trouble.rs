//! What goes wrong with a watch, and where and when it goes on.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::ClientError;
use crate::options::ClientOptions;

/// So many streams in a row that say what no node says are no accident.
const GARBLED_MAX: u32 = 4;

/// What went wrong since the position last moved.
#[derive(Debug)]
pub(super) struct Trouble {
    nodes: usize,
    /// The node that is asked, or will be.
    node: usize,
    setbacks: usize,
    garbled: u32,
    /// Nodes in a row that did not have the revision yet.
    behind: usize,
    /// How long the last node asked to be left alone.
    asked_pause: Duration,
    since: Option<Instant>,
    last: String,
    /// What a node said that did not have the revision yet.
    refusal: Option<ClientError>,
}

impl Trouble {
    /// Begins at any of the nodes, so that watches are spread over them.
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            nodes,
            node: fastrand::usize(..nodes),
            setbacks: 0,
            garbled: 0,
            behind: 0,
            asked_pause: Duration::ZERO,
            since: None,
            last: "no node answered".to_owned(),
            refusal: None,
        }
    }

    /// The node to ask.
    pub(super) fn node(&self) -> usize {
        self.node
    }

    /// The wait before the next attempt: short while there are nodes that were not asked, then
    /// a random part of a time that doubles. Many watches of a node that died come back at
    /// different moments.
    pub(super) fn pause(&self, options: &ClientOptions) -> Duration {
        if self.setbacks == 0 {
            return Duration::ZERO;
        }
        let rounds = u32::try_from(self.setbacks / self.nodes).unwrap_or(u32::MAX).min(16);
        let backoff = options.backoff_min.saturating_mul(1 << rounds).min(options.backoff_max);
        let asked = if self.setbacks < self.nodes { Duration::ZERO } else { self.asked_pause };
        asked + backoff.mul_f64(fastrand::f64())
    }

    /// Something went wrong: the next node is to be asked.
    ///
    /// # Errors
    /// When that lasts for longer than `limit`, or when what answers is no node.
    pub(super) fn add(
        &mut self,
        text: String,
        is_garbled: bool,
        limit: Option<Duration>,
    ) -> Result<(), ClientError> {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.node = (self.node + 1) % self.nodes;
        self.setbacks += 1;
        self.garbled += u32::from(is_garbled);
        self.last = text;
        let lasts = limit.is_some_and(|limit| since.elapsed() >= limit);
        if !lasts && self.garbled < GARBLED_MAX {
            return Ok(());
        }
        let error = self.unreachable();
        // Whoever asks again has it tried again.
        (self.garbled, self.since) = (0, None);
        Err(error)
    }

    /// A node does not have the revision yet, and says so. False when there is no hope left that
    /// one has it.
    pub(super) fn is_behind(&mut self, refusal: ClientError) -> bool {
        self.behind += 1;
        self.refusal = Some(refusal);
        self.behind < 2 * self.nodes
    }

    /// A node asks to be left alone for so long.
    pub(super) fn leave_alone(&mut self, pause: Duration) {
        self.asked_pause = pause;
    }

    /// A node said where it is, and maybe further than was known.
    pub(super) fn reached(&mut self, is_forward: bool) {
        (self.behind, self.since, self.asked_pause) = (0, None, Duration::ZERO);
        self.refusal = None;
        if is_forward {
            (self.setbacks, self.garbled) = (0, 0);
        }
    }

    /// The last connection was a good one.
    pub(super) fn forget_setbacks(&mut self) {
        self.setbacks = 0;
    }

    /// Why there is no watch when its time is over: nodes that were behind have answered.
    pub(super) fn late(&self) -> ClientError {
        self.refusal.clone().unwrap_or_else(|| self.unreachable())
    }

    /// Nobody could be watched at.
    pub(super) fn unreachable(&self) -> ClientError {
        let attempts = u32::try_from(self.setbacks).unwrap_or(u32::MAX);
        ClientError::Unreachable { attempts, last: self.last.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end_when_something_was_told() {
        let options = ClientOptions::default();
        let mut trouble = Trouble::new(3);
        assert_eq!(trouble.pause(&options), Duration::ZERO);
        for setbacks in 1..100_u32 {
            trouble.leave_alone(Duration::from_secs(1));
            trouble.add("x".to_owned(), false, None).unwrap();
            let pause = trouble.pause(&options);
            let asked = Duration::from_secs(u64::from(setbacks >= 3));
            assert!(pause >= asked && pause <= asked + options.backoff_max, "{pause:?}");
            assert!(setbacks >= 3 || pause <= options.backoff_min, "{pause:?}");
        }
        trouble.reached(true);
        assert_eq!(trouble.pause(&options), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_when_it_lasts_and_when_nobody_makes_sense() {
        let mut trouble = Trouble::new(2);
        let limit = Some(Duration::from_secs(10));
        trouble.add("x".to_owned(), false, limit).unwrap();
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(trouble.add("y".to_owned(), false, limit).is_err());
        trouble.add("z".to_owned(), false, limit).unwrap();
        for _ in 1..GARBLED_MAX {
            trouble.add("?".to_owned(), true, None).unwrap();
        }
        assert!(trouble.add("?".to_owned(), true, None).is_err());
        let is_behind = |trouble: &mut Trouble| trouble.is_behind(ClientError::invalid("behind"));
        assert!([true, true, true, false] == [(); 4].map(|()| is_behind(&mut trouble)));
        assert_eq!(trouble.late(), ClientError::invalid("behind"));
        trouble.reached(false);
        assert_eq!(trouble.late(), trouble.unreachable());
    }
}
