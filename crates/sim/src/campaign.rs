//! Many seeds, on all cores.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fastrand::Rng;

use crate::coverage::{Coverage, SEEDS_MIN};
use crate::plan::Plan;
use crate::run::{Report, Runner};

/// How many seeds a text can draw from.
const FIRST_SEEDS: u64 = 1 << 40;

/// What became of many seeds.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Summary {
    /// How many were run.
    pub seeds: u64,
    /// The reports of those that failed, by seed.
    pub failed: Vec<Report>,
    /// What happened in all of them.
    pub coverage: Coverage,
    /// Events.
    pub events: u64,
    /// Operations of clients.
    pub operations: u64,
    /// The fewest of any seed.
    pub operations_min: u64,
    /// Those that were answered by the state.
    pub answered: u64,
    /// Simulated time.
    pub simulated_us: u64,
    /// The shortest of any seed.
    pub simulated_us_min: u64,
    /// The longest recovery of a healed quorum, and its seed.
    pub slowest_recovery_us: (u64, u64),
    /// A digest of all trace hashes, whatever the order of the seeds.
    pub trace_digest: u64,
}

impl Summary {
    fn add(&mut self, report: Report) {
        let is_first = self.seeds == 0;
        let least = |known: u64, new: u64| if is_first { new } else { known.min(new) };
        self.operations_min = least(self.operations_min, report.operations);
        self.simulated_us_min = least(self.simulated_us_min, report.simulated_us);
        self.seeds += 1;
        self.coverage.merge(&report.coverage);
        self.events += report.events;
        self.operations += report.operations;
        self.answered += report.answered;
        self.simulated_us += report.simulated_us;
        self.slowest_recovery_us = self.slowest_recovery_us.max((report.recovery_us, report.seed));
        let mixed = (report.trace_hash ^ report.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.trace_digest = self.trace_digest.wrapping_add(mixed);
        if report.violation.is_some() {
            self.failed.push(report);
            self.failed.sort_by_key(|report| report.seed);
        }
    }

    /// What should have happened in so many seeds and never did. Empty for few seeds.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        if self.seeds < SEEDS_MIN { Vec::new() } else { self.coverage.missing() }
    }

    /// Whether everything held and everything happened.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.seeds > 0 && self.failed.is_empty() && self.missing().is_empty()
    }
}

/// The number that a text such as a commit's id draws: the same text, the same number.
#[must_use]
pub(crate) fn drawn_number(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// So many seeds in a row, drawn by a text.
#[must_use]
pub fn drawn_seeds(by: &str, count: u64) -> Range<u64> {
    // A short text alone would change only the lower bits.
    let first = Rng::with_seed(drawn_number(by)).u64(..FIRST_SEEDS);
    first..first + count
}

/// Runs every seed of the range on so many threads, each run in one of them. After
/// `failures_max` failures no more are begun. Tells after each seed how things are.
pub fn run_seeds(
    seeds: Range<u64>,
    threads: usize,
    failures_max: usize,
    run: Runner<'_>,
    tell: impl Fn(&Summary) + Sync,
) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let enough = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = run(&Plan::drawn(seed));
                    let mut summary = summary.lock().expect("no run panics through");
                    summary.add(report);
                    enough.fetch_or(summary.failed.len() >= failures_max, Ordering::Relaxed);
                    tell(&summary);
                }
            });
        }
    });
    summary.into_inner().expect("no run panics through")
}
