//! Seeds, as every test run replays them. `synod sim --seeds A..B` runs more.
#![allow(missing_docs)]

use std::num::NonZero;
use std::thread;

use synod_sim::{Plan, Summary, run, run_seeds};

/// Seeds of every test run.
const SEEDS: u64 = 300;
/// Seeds that are run twice.
const TWICE: u64 = 20;

fn describe(summary: &Summary) -> String {
    let line = |report: &synod_sim::Report| {
        let violation = report.violation.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("seed {}: {violation}\n", report.seed)
    };
    summary.failed.iter().map(line).collect()
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

#[test]
fn the_first_seeds_hold_and_reach_everything_worth_reaching() {
    let summary = run_seeds(0..SEEDS, cores(), 5, |_| {});
    assert!(summary.failed.is_empty(), "{}", describe(&summary));
    assert_eq!(summary.missing(), Vec::<&str>::new(), "never happened in {SEEDS} seeds");
    assert!(summary.operations >= SEEDS * 500, "{} operations", summary.operations);
    assert!(summary.simulated_us >= SEEDS * 90_000_000);
    // Were nearly all operations refused, little would be checked.
    assert!(summary.answered * 2 > summary.operations, "{} answered", summary.answered);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..TWICE {
        let plan = Plan::drawn(seed);
        let (first, second) = (run(&plan), run(&plan));
        assert_eq!(first, second, "seed {seed}");
        assert!(first.events > 1_000);
    }
    let other = run(&Plan::drawn(TWICE));
    assert_ne!(run(&Plan::drawn(0)).trace_hash, other.trace_hash);
}

#[test]
fn telling_the_events_changes_nothing() {
    let plan = Plan::drawn(3);
    let mut lines = 0_u64;
    let told = synod_sim::run_traced(&plan, Some(Box::new(|_| lines += 1)));
    assert_eq!(told, run(&plan));
    assert_eq!(lines, told.events);
}

#[test]
fn seeds_that_failed_once_hold() {
    let seeds: Vec<u64> = include_str!("../regressions.txt")
        .lines()
        .filter_map(|line| line.split('#').next().map(str::trim).filter(|line| !line.is_empty()))
        .map(|line| line.parse().expect("one seed a line"))
        .collect();
    assert!(!seeds.is_empty());
    for seed in seeds {
        let report = run(&Plan::drawn(seed));
        assert_eq!(report.violation, None, "seed {seed}");
    }
}
