//! The tail: how much of the journal below the durable state is kept for peers that
//! lag. Liveness only, and a bound for the disk.

use alloc::collections::VecDeque;

use crate::{Options, Segment, Slot, Time};

/// The whole segments of the journal, oldest first; the one that is being written is
/// none of them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Tail {
    segments: VecDeque<(Segment, Time)>,
    bytes: u64,
    /// The slot of the snapshot that was sent last, and when something of it was.
    sent: Option<(Slot, Time)>,
    disk_low: bool,
}

impl Tail {
    /// The journal has filled this segment, or had at the start.
    pub(crate) fn push(&mut self, now: Time, segment: Segment) {
        self.bytes = self.bytes.saturating_add(segment.bytes);
        self.segments.push_back((segment, now));
    }

    /// Something of a snapshot of this slot has left.
    pub(crate) fn sent(&mut self, now: Time, slot: Slot) {
        self.sent = Some((slot, now));
    }

    /// The slot of the snapshot of which something was sent within `keep_us`.
    pub(crate) fn sent_within(&self, now: Time, keep_us: u64) -> Option<Slot> {
        self.sent.filter(|(_, at)| now.since_us(*at) < keep_us).map(|(slot, _)| slot)
    }

    /// While the disk is low nothing is kept for others.
    pub(crate) fn set_disk_low(&mut self, disk_low: bool) {
        self.disk_low = disk_low;
    }

    pub(crate) fn is_disk_low(&self) -> bool {
        self.disk_low
    }

    /// Whether the oldest segment need not be kept: what is kept is at most so many
    /// bytes, and at most so old. `truncated_upto` is what nobody gets any more.
    pub(crate) fn is_due(&self, now: Time, truncated_upto: Slot, options: &Options) -> bool {
        self.segments.front().is_some_and(|(segment, since)| {
            self.disk_low
                || segment.upto <= truncated_upto
                || self.bytes > options.tail_bytes_max
                || now.since_us(*since) >= options.tail_us_max
        })
    }

    /// Drops every segment that is due and holds nothing above `limit`. Gives the
    /// highest slot among them.
    pub(crate) fn cut(
        &mut self,
        now: Time,
        truncated_upto: Slot,
        limit: Slot,
        options: &Options,
    ) -> Option<Slot> {
        let mut cut = None;
        while self.is_due(now, truncated_upto, options)
            && let Some((segment, _)) = self.segments.pop_front_if(|(s, _)| s.upto <= limit)
        {
            self.bytes = self.bytes.saturating_sub(segment.bytes);
            cut = cut.max(Some(segment.upto));
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE: Slot = Slot::ZERO;

    /// Four segments of 100 bytes, filled at 1, 2, 3 and 4 seconds, up to slots 10 to 40.
    fn tail() -> Tail {
        let mut tail = Tail::default();
        for n in 1..=4 {
            tail.push(Time(n * 1_000_000), Segment { upto: Slot(n * 10), bytes: 100 });
        }
        tail
    }

    fn options(tail_bytes_max: u64, tail_us_max: u64) -> Options {
        Options { tail_bytes_max, tail_us_max, ..Options::default() }
    }

    /// Whatever is allowed of either, a segment stays iff it is within both.
    #[test]
    fn a_segment_is_kept_that_is_neither_too_old_nor_too_much() {
        let now = Time(5_000_000);
        for bytes in 0..=5 {
            for seconds in 0..=5 {
                let options = options(bytes * 100, seconds * 1_000_000);
                let too_many = 4_u64.saturating_sub(bytes);
                let too_old = (1..=4).filter(|n| 5 - n >= seconds).count() as u64;
                let dropped = too_many.max(too_old);
                let expected = (dropped > 0).then_some(Slot(dropped * 10));
                assert_eq!(tail().cut(now, GONE, Slot(99), &options), expected);
            }
        }
    }

    #[test]
    fn nothing_above_the_limit_goes_and_a_low_disk_keeps_nothing_below_it() {
        let keeps = options(u64::MAX, u64::MAX);
        for limit in 0..=50 {
            let dropped = (limit / 10).min(4);
            let expected = (dropped > 0).then_some(Slot(dropped * 10));
            let now = Time(5_000_000);
            assert_eq!(tail().cut(now, GONE, Slot(limit), &options(0, 0)), expected);
            let mut low = tail();
            assert_eq!(low.cut(now, GONE, Slot(limit), &keeps), None);
            low.set_disk_low(true);
            assert_eq!(low.cut(now, GONE, Slot(limit), &keeps), expected);
            // What a snapshot replaced is of no use to anybody.
            assert_eq!(tail().cut(now, Slot(limit), Slot(limit), &keeps), expected);
        }
    }
}
