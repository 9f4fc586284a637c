//! What must hold before a change lands: many seeds, the same ones twice, and planted
//! mistakes. Half of it is drawn by the commit's id, so that each commit is tested
//! against something new. What it prints is shown even when it passes.
#![allow(missing_docs)]

mod support;

use std::ops::Range;
use std::thread;
use std::time::Instant;

use support::{cores, draw, keep_panics_of_runs_quiet};
use synod_sim::planted::{Bug, Search, search_all};
use synod_sim::{Plan, Rare, Report, Summary, drawn_seeds, run, run_seeds};

/// Seeds that every commit is tested with, and as many that its id draws.
const FIXED: u64 = 1_000;
const DRAWN: u64 = 1_000;
/// What happens in less than one of a hundred seeds, so that a thousand drawn ones may do without. The
/// fixed seeds have it.
const SELDOM: [Rare; 4] =
    [Rare::AttemptLateTwin, Rare::DamageRead, Rare::FilledAhead, Rare::SecondProcessRefused];
/// Seeds that are run twice.
const TWICE: u64 = 100;
/// After so many failures the rest says nothing new.
const FAILURES_MAX: usize = 5;
/// A seed has at least this much of everything, or it fails.
const OPERATIONS_MIN: u64 = 500;
const FAULTS_US_MIN: u64 = 60_000_000;
const HEALED_US_MIN: u64 = 30_000_000;
/// Mistakes that are drawn, beside the canary, and seeds within which each is found.
const MISTAKES: usize = 10;
const MISTAKE_SEEDS_MAX: u64 = 2_000;

fn describe(summary: &Summary) -> String {
    let line = |report: &Report| {
        let violation = report.violation.as_ref().map(ToString::to_string).unwrap_or_default();
        let seed = report.seed;
        format!("seed {seed}: {violation}\n  replay it with: synod sim --seed {seed} --trace\n")
    };
    summary.failed.iter().map(line).collect()
}

fn print(what: &str, seeds: &Range<u64>, summary: &Summary, began: Instant) {
    println!(
        "{what} seeds {seeds:?}: {} run, {} failed; {} operations ({} answered; at least {} in a \
         seed), {} simulated hours (at least {} s in a seed), {} events, all traces {:016x}, {} s",
        summary.seeds,
        summary.failed.len(),
        summary.operations,
        summary.answered,
        summary.operations_min,
        summary.simulated_us / 3_600_000_000,
        summary.simulated_us_min / 1_000_000,
        summary.events,
        summary.trace_digest,
        began.elapsed().as_secs(),
    );
    let counts = summary.coverage.counts();
    let counts: Vec<String> =
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("what happened: {}", counts.join(", "));
}

fn hold(what: &str, seeds: Range<u64>, may_miss: &[Rare]) {
    keep_panics_of_runs_quiet();
    let began = Instant::now();
    for seed in seeds.clone() {
        let plan = Plan::drawn(seed);
        assert!(plan.faults_us >= FAULTS_US_MIN && plan.healed_us >= HEALED_US_MIN, "{plan}");
    }
    let summary = run_seeds(seeds.clone(), cores(), FAILURES_MAX, &run, |_| {});
    print(what, &seeds, &summary, began);
    assert!(summary.failed.is_empty(), "{}", describe(&summary));
    assert_eq!(summary.seeds, seeds.end - seeds.start);
    let mut missing = summary.missing();
    missing.retain(|name| !may_miss.iter().any(|rare| rare.name() == *name));
    assert_eq!(missing, Vec::<&str>::new(), "this never happened");
    assert!(summary.operations_min >= OPERATIONS_MIN, "{}", summary.operations_min);
    let simulated_us_min = summary.simulated_us_min;
    assert!(simulated_us_min >= FAULTS_US_MIN + HEALED_US_MIN, "{simulated_us_min}");
    // Were nearly all operations refused, little would be checked.
    assert!(summary.answered * 2 > summary.operations, "{} answered", summary.answered);
}

#[test]
fn fixed_seeds_hold_and_reach_everything_worth_reaching() {
    hold("fixed", 0..FIXED, &[]);
}

#[test]
fn seeds_drawn_by_the_commit_hold_and_reach_everything_worth_reaching() {
    let by = draw();
    println!("drawn by {by:?}");
    hold("drawn", drawn_seeds(&by, DRAWN), &SELDOM);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let by = draw();
    let seeds = drawn_seeds(&by, TWICE);
    let run_twice = |seed: u64| {
        let plan = Plan::drawn(seed);
        let (first, second) = (run(&plan), run(&plan));
        assert_eq!(first, second, "seed {seed}");
        assert!(first.events > 1_000, "seed {seed}");
        first.trace_hash
    };
    let every = cores();
    let mut hashes: Vec<u64> = thread::scope(|scope| {
        let part = |core: usize| {
            let seeds = seeds.clone().skip(core).step_by(every);
            scope.spawn(move || seeds.map(run_twice).collect::<Vec<u64>>())
        };
        let parts: Vec<_> = (0..every).map(part).collect();
        parts.into_iter().flat_map(|part| part.join().expect("as said above")).collect()
    });
    println!("seeds {seeds:?}, drawn by {by:?}, run twice: the same {} traces", hashes.len());
    assert_eq!(hashes.len() as u64, TWICE);
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len() as u64, TWICE, "other seeds give other runs");
}

fn line(search: &Search) -> String {
    let found = search.found.as_ref();
    let checker = found.map_or("NOT FOUND", |(_, violation)| violation.checker.name());
    format!("{:>5} seeds  {checker:<15}  {}", search.seeds, search.bug)
}

#[test]
fn mistakes_drawn_by_the_commit_are_found() {
    keep_panics_of_runs_quiet();
    let (by, began) = (draw(), Instant::now());
    let mut bugs = Bug::drawn(&by, MISTAKES);
    bugs.push(Bug::CANARY);
    let searches = search_all(&bugs, 0, MISTAKE_SEEDS_MAX, cores(), &run, |_| {});
    println!("{MISTAKES} mistakes drawn by {by:?}, and the canary:");
    searches.iter().for_each(|search| println!("{}", line(search)));
    let missed = searches.iter().filter(|search| search.found.is_none()).count();
    println!("{missed} not found, {} s", began.elapsed().as_secs());
    assert_eq!(searches.len(), MISTAKES + 1);
    assert_eq!(missed, 0);
}

/// Those of changes of the members, which few seeds make; all but the slowest to be found.
#[test]
fn mistakes_about_who_votes_are_found() {
    keep_panics_of_runs_quiet();
    let of_changes = |bug: &Bug| {
        let is_slow = bug.name() == "ProposesUnprepared";
        let of_states = ["ConfigurationsForgotten", "SnapshotKeepsVoters"];
        bug.row() == 24 && !is_slow || of_states.contains(&bug.name().as_str())
    };
    let bugs: Vec<Bug> = Bug::all().into_iter().filter(of_changes).collect();
    let searches = search_all(&bugs, 0, MISTAKE_SEEDS_MAX, cores(), &run, |_| {});
    println!("mistakes about who votes:");
    searches.iter().for_each(|search| println!("{}", line(search)));
    let missed = searches.iter().filter(|search| search.found.is_none()).count();
    assert_eq!((missed, searches.len()), (0, 6));
}
