//! Whole nodes without threads: hosts with their state machines and clients, under
//! loss, reordering, duplication, and crashes that lose what was not synced.
//! Everything is drawn from one seed. Each client's history is checked to be
//! linearizable: since every change has its revision, comparing revisions in real
//! time is enough, without a search.

mod town;

use town::{Faults, Town};

/// One seed: faults for a while, then all is healed and every client is answered.
fn run(seed: u64) -> Town {
    let mut rng = fastrand::Rng::with_seed(!seed);
    let members = [1, 3, 3, 3, 5][rng.usize(..5)];
    let faults = Faults::drawn(&mut rng);
    let mut town = Town::new(seed, members, faults);
    town.run_for(2_500_000);
    town.heal();
    town.demand_progress(10_000_000);
    town.check_replicas_agree();
    town
}

fn run_seeds(seeds: std::ops::Range<u64>) {
    let mut sums = [0_u64; 5];
    for seed in seeds.clone() {
        let town = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!("seed {seed} failed");
            std::panic::resume_unwind(panic)
        });
        let seen = town.seen;
        let counts = [seen.crashes, seen.writes, seen.reads, seen.unknown, seen.duplicates];
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    let [crashes, writes, reads, unknown, duplicates] = sums;
    println!("crashes {crashes} writes {writes} reads {reads} unknown {unknown} dup {duplicates}");
    // A checker that could not check fails.
    let enough = seeds.end - seeds.start >= 100;
    assert!(!enough || sums.iter().all(|sum| *sum > 0), "some event never happened");
}

#[test]
fn no_write_is_lost_or_done_twice_and_no_read_is_stale_1() {
    run_seeds(0..250);
}

#[test]
fn no_write_is_lost_or_done_twice_and_no_read_is_stale_2() {
    run_seeds(250..500);
}

#[test]
fn no_write_is_lost_or_done_twice_and_no_read_is_stale_3() {
    run_seeds(500..750);
}

#[test]
fn no_write_is_lost_or_done_twice_and_no_read_is_stale_4() {
    run_seeds(750..1_000);
}

/// `SYNOD_SEEDS=A..B` runs other seeds: for a long search, or for one that failed.
#[test]
fn seeds_of_the_environment() {
    let Ok(range) = std::env::var("SYNOD_SEEDS") else { return };
    let (first, last) = range.split_once("..").expect("SYNOD_SEEDS=A..B");
    run_seeds(first.parse().expect("a number")..last.parse().expect("a number"));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (a, b) = (run(11), run(11));
    assert_eq!((a.now, a.seen), (b.now, b.seen));
}
