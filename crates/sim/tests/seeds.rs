//! Single seeds: what telling does, and those that failed once. gate.rs runs many.
#![allow(missing_docs)]

use synod_sim::{Plan, drawn_seeds, run};

#[test]
fn a_text_draws_its_own_seeds() {
    assert_eq!(drawn_seeds("one commit", 1_000), drawn_seeds("one commit", 1_000));
    let (one, other) = (drawn_seeds("one commit", 1_000), drawn_seeds("another commit", 1_000));
    assert_eq!(one.end - one.start, 1_000);
    assert!(one.end < other.start || other.end < one.start, "{one:?} {other:?}");
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
