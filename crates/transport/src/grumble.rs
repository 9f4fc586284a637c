//! Warnings that are not repeated all the time.

use std::time::Duration;

use tokio::time::Instant;

/// Lets a warning through when its reason is new, or was last told long ago.
#[derive(Debug)]
pub(crate) struct Grumble<R> {
    last: Option<(R, Instant)>,
}

impl<R> Default for Grumble<R> {
    fn default() -> Self {
        Grumble { last: None }
    }
}

impl<R: Copy + PartialEq> Grumble<R> {
    /// Whether to warn now.
    pub(crate) fn is_due(&mut self, reason: R, interval_ms: u64) -> bool {
        let now = Instant::now();
        let interval = Duration::from_millis(interval_ms);
        let due = match self.last {
            Some((last, at)) => last != reason || now.duration_since(at) >= interval,
            None => true,
        };
        if due {
            self.last = Some((reason, now));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use synod_wire::RefusalReason;

    use super::*;

    #[test]
    fn the_same_reason_is_told_once_in_a_while() {
        let mut grumble = Grumble::default();
        assert!(grumble.is_due(RefusalReason::Store, 3_600_000));
        assert!(!grumble.is_due(RefusalReason::Store, 3_600_000));
        assert!(grumble.is_due(RefusalReason::Cluster, 3_600_000));
        assert!(grumble.is_due(RefusalReason::Cluster, 0));
    }
}
