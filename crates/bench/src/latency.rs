//! Latencies: recorded in microseconds, summed up for tables and pages.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer than any request may take; anything above counts as this.
const LATENCY_US_MAX: u64 = 120_000_000;

/// Records latencies with three significant digits.
#[derive(Debug)]
pub(crate) struct LatencyRecorder {
    histogram: Histogram<u64>,
}

/// How long requests took, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// The arithmetic mean.
    pub mean_us: f64,
    /// Half of the requests were no slower.
    pub p50_us: u64,
    /// Nine in ten were no slower.
    pub p90_us: u64,
    /// 99 in 100 were no slower.
    pub p99_us: u64,
    /// 999 in 1000 were no slower.
    pub p999_us: u64,
    /// The slowest.
    pub max_us: u64,
}

impl LatencyRecorder {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
        Self { histogram: histogram.expect("the bounds are fixed and valid") }
    }

    pub(crate) fn record_us(&mut self, latency_us: u64) {
        self.histogram.saturating_record(latency_us.max(1));
    }

    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub(crate) fn reset(&mut self) {
        self.histogram.reset();
    }

    pub(crate) fn summary(&self) -> Latency {
        if self.histogram.is_empty() {
            return Latency::default();
        }
        Latency {
            mean_us: self.histogram.mean(),
            p50_us: self.histogram.value_at_quantile(0.5),
            p90_us: self.histogram.value_at_quantile(0.9),
            p99_us: self.histogram.value_at_quantile(0.99),
            p999_us: self.histogram.value_at_quantile(0.999),
            max_us: self.histogram.max(),
        }
    }
}

/// A duration in whole microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The value below which this share of the sorted values lies (nearest rank);
/// none without values.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let rank = (share * sorted.len() as f64).ceil() - 1.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let index = rank.clamp(0.0, last as f64) as usize;
    Some(sorted[index])
}

/// Sorts values and gives the middle one, or the mean of the two middle ones.
pub(crate) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_set() {
        let mut recorder = LatencyRecorder::new();
        for us in 1..=1000 {
            recorder.record_us(us);
        }
        let latency = recorder.summary();
        assert_eq!((latency.p50_us, latency.p90_us, latency.p99_us), (500, 900, 990));
        assert_eq!((latency.p999_us, latency.max_us), (999, 1000));
        assert_eq!(LatencyRecorder::new().summary(), Latency::default());
    }

    #[test]
    fn medians_and_quantiles_by_hand() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), Some(2.5));
        let sorted = [10.0, 20.0, 30.0, 40.0];
        assert_eq!(quantile(&sorted, 0.0), Some(10.0));
        assert_eq!(quantile(&sorted, 0.5), Some(20.0));
        assert_eq!(quantile(&sorted, 0.99), Some(40.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
