//! What the clients of a throughput run saw, as it comes in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::latency::{LatencyRecorder, micros};
use crate::request_error::{Effect, ErrorKind, RequestError};

/// A day in seconds; finer timelines end before.
const TIMELINE_POINTS_MAX: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OperationKind {
    Write,
    Read,
}

/// One interval of the timeline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TimelinePoint {
    /// When the interval began, in seconds of the measured time.
    pub at_s: f64,
    /// Requests answered in it.
    pub operations: u64,
    /// Requests that failed in it.
    pub errors: u64,
    /// The median latency of those answered, in microseconds.
    pub p50_us: u64,
    /// The 99th percentile, in microseconds.
    pub p99_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
}

/// Counts what is answered within the measured time.
#[derive(Debug)]
pub(super) struct Recording {
    begin: Instant,
    end: Instant,
    interval: Duration,
    pub(super) writes: LatencyRecorder,
    pub(super) reads: LatencyRecorder,
    pub(super) misses: u64,
    pub(super) errors: BTreeMap<ErrorKind, u64>,
    pub(super) ambiguous: u64,
    pub(super) timeline: Vec<TimelinePoint>,
    current: LatencyRecorder,
    current_errors: u64,
}

impl Recording {
    pub(super) fn new(begin: Instant, end: Instant, interval: Duration) -> Self {
        Self {
            begin,
            end,
            interval,
            writes: LatencyRecorder::new(),
            reads: LatencyRecorder::new(),
            misses: 0,
            errors: BTreeMap::new(),
            ambiguous: 0,
            timeline: Vec::new(),
            current: LatencyRecorder::new(),
            current_errors: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.count() + self.reads.count() == 0
    }

    /// Whether it counts: it was answered within the measured time.
    pub(super) fn succeeded(&mut self, kind: OperationKind, due: Instant, now: Instant) -> bool {
        if !self.advance(now) {
            return false;
        }
        let latency = micros(now.saturating_duration_since(due));
        self.current.record_us(latency);
        match kind {
            OperationKind::Write => self.writes.record_us(latency),
            OperationKind::Read => self.reads.record_us(latency),
        }
        true
    }

    pub(super) fn missed(&mut self) {
        self.misses += 1;
    }

    pub(super) fn failed(&mut self, kind: OperationKind, error: RequestError, now: Instant) {
        if !self.advance(now) {
            return;
        }
        self.current_errors += 1;
        *self.errors.entry(error.kind).or_default() += 1;
        if kind == OperationKind::Write && error.effect == Effect::Unknown {
            self.ambiguous += 1;
        }
    }

    pub(super) fn errors_summary(&self) -> String {
        if self.errors.is_empty() {
            return "and nothing failed either".into();
        }
        let named = self.errors.iter().map(|(kind, count)| format!("{count} x {kind}"));
        named.collect::<Vec<_>>().join(", ")
    }

    /// Ends the timeline at the end of the measured time.
    pub(super) fn finish(&mut self) {
        let intervals = self.interval_of(self.end - Duration::from_nanos(1)) + 1;
        self.close_until(intervals);
    }

    /// Closes the intervals before this time; false outside the measured time.
    fn advance(&mut self, now: Instant) -> bool {
        if now < self.begin || now >= self.end {
            return false;
        }
        let interval = self.interval_of(now);
        self.close_until(interval);
        true
    }

    fn interval_of(&self, time: Instant) -> usize {
        let elapsed = time.saturating_duration_since(self.begin).as_nanos();
        usize::try_from(elapsed / self.interval.as_nanos()).unwrap_or(usize::MAX)
    }

    fn close_until(&mut self, interval: usize) {
        while self.timeline.len() < interval.min(TIMELINE_POINTS_MAX) {
            let latency = self.current.summary();
            self.timeline.push(TimelinePoint {
                at_s: self.timeline.len() as f64 * self.interval.as_secs_f64(),
                operations: self.current.count(),
                errors: self.current_errors,
                p50_us: latency.p50_us,
                p99_us: latency.p99_us,
                max_us: latency.max_us,
            });
            self.current.reset();
            self.current_errors = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_within_the_measured_time_count_and_each_in_its_interval() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut recording = Recording::new(at(100), at(400), Duration::from_millis(100));
        recording.succeeded(OperationKind::Write, at(80), at(90));
        recording.succeeded(OperationKind::Write, at(90), at(100));
        recording.succeeded(OperationKind::Read, at(170), at(199));
        recording.failed(OperationKind::Write, RequestError::unknown(ErrorKind::Timeout), at(310));
        recording.succeeded(OperationKind::Write, at(390), at(400));
        recording.finish();
        assert_eq!((recording.writes.count(), recording.reads.count()), (1, 1));
        assert_eq!((recording.errors[&ErrorKind::Timeout], recording.ambiguous), (1, 1));
        let counts: Vec<_> =
            recording.timeline.iter().map(|point| (point.operations, point.errors)).collect();
        assert_eq!(counts, [(2, 0), (0, 0), (0, 1)]);
        assert_eq!(recording.timeline[0].max_us / 1000, 29);
        assert_eq!(recording.timeline[1].p99_us, 0);
    }
}
