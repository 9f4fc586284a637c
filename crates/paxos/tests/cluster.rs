//! Whole clusters of replicas under faults, everything drawn from seeds.

mod world;

use synod_paxos::NodeId;
use world::{Faults, World};

/// One seed: any faults for a while with safety checked all the time, then all is
/// healed and progress is demanded.
fn run(seed: u64) -> World {
    let mut rng = fastrand::Rng::with_seed(!seed);
    let members = [1, 2, 3, 3, 3, 5, 5][rng.usize(..7)];
    let faults = Faults::drawn(&mut rng);
    run_with(seed, members, faults, &mut rng)
}

/// The same while the members change.
fn run_changing(seed: u64) -> World {
    let mut rng = fastrand::Rng::with_seed(!seed);
    let members = [1, 2, 3, 4][rng.usize(..4)];
    let faults = Faults { changes: 1.0, ..Faults::drawn(&mut rng) };
    run_with(seed, members, faults, &mut rng)
}

fn run_with(seed: u64, members: u32, faults: Faults, rng: &mut fastrand::Rng) -> World {
    let mut world = World::new(seed, members, faults);
    world.value_bytes = [8, 100, 3_000][rng.usize(..3)];
    world.run_for(3_000_000);
    world.heal();
    if world.faults.changes > 0.0 {
        world.kill_minority();
    }
    world.demand_progress(30_000_000);
    world
}

fn run_seeds(seeds: std::ops::Range<u64>) {
    let enough = seeds.end - seeds.start >= 100;
    let (mut elected, mut crashes, mut noops, mut reads, mut chosen) = (0, 0, 0, 0, 0);
    let (mut snapshots, mut made_up) = (0, 0);
    for seed in seeds {
        let world = match std::panic::catch_unwind(|| run(seed)) {
            Ok(world) => world,
            Err(panic) => {
                eprintln!("seed {seed} failed");
                std::panic::resume_unwind(panic);
            }
        };
        let count = |event: &str| world.oracle.events.get(event).copied().unwrap_or(0);
        elected += count("elected");
        crashes += count("crash");
        noops += count("noop");
        snapshots += count("snapshot");
        made_up += count("start after made up");
        reads += world.oracle.reads_checked;
        chosen += world.oracle.chosen.len();
    }
    println!("elected {elected} crashes {crashes} noops {noops} reads {reads} chosen {chosen}");
    println!("snapshots {snapshots}, switched to before a crash {made_up}");
    // A checker that could not check fails.
    let covered = elected > 0 && crashes > 0 && noops > 0 && reads > 0 && chosen > 0;
    let covered = covered && snapshots > 0 && made_up > 0;
    assert!(covered || !enough, "some event never happened");
}

fn run_changing_seeds(seeds: std::ops::Range<u64>) {
    let enough = seeds.end - seeds.start >= 100;
    let mut events = std::collections::BTreeMap::<&str, u64>::new();
    for seed in seeds {
        let world = match std::panic::catch_unwind(|| run_changing(seed)) {
            Ok(world) => world,
            Err(panic) => {
                eprintln!("seed {seed} failed (members change)");
                std::panic::resume_unwind(panic);
            }
        };
        for (event, count) in &world.oracle.events {
            *events.entry(event).or_default() += count;
        }
    }
    println!("{events:?}");
    let wanted = [
        "change",
        "change without effect",
        "change refused",
        "join",
        "removed",
        "elected",
        "killed",
    ];
    let missing = wanted.iter().find(|event| !events.contains_key(*event));
    assert!(!enough || missing.is_none(), "{missing:?} never happened");
}

#[test]
fn any_faults_while_the_members_change_1() {
    run_changing_seeds(0..200);
}

#[test]
fn any_faults_while_the_members_change_2() {
    run_changing_seeds(200..400);
}

#[test]
fn any_faults_then_progress_1() {
    run_seeds(0..250);
}

#[test]
fn any_faults_then_progress_2() {
    run_seeds(250..500);
}

#[test]
fn any_faults_then_progress_3() {
    run_seeds(500..750);
}

#[test]
fn any_faults_then_progress_4() {
    run_seeds(750..1_000);
}

/// `SYNOD_SEEDS=A..B` runs other seeds: for a long search, or for one that failed; with
/// `SYNOD_CHANGES=1` those in which the members change.
#[test]
fn seeds_of_the_environment() {
    let Ok(range) = std::env::var("SYNOD_SEEDS") else { return };
    let (first, last) = range.split_once("..").expect("SYNOD_SEEDS=A..B");
    let seeds = first.parse().expect("a number")..last.parse().expect("a number");
    match std::env::var("SYNOD_CHANGES") {
        Ok(_) => run_changing_seeds(seeds),
        Err(_) => run_seeds(seeds),
    }
}

/// However long one member is away under load, the journals of the others stay bounded;
/// and what it misses then comes as a snapshot.
#[test]
fn journals_stay_bounded_while_a_member_is_away_and_it_comes_back_by_a_snapshot() {
    const TAIL_SEGMENTS: u64 = 20;
    /// What fills up between two flushes of the state, and what waits to be applied.
    const SLACK_SEGMENTS: u64 = 20;
    let [one, two, away] = [1, 2, 3].map(NodeId);
    let mut world = World::new(3, 3, Faults::none());
    world.options.tail_bytes_max = TAIL_SEGMENTS * 1_000;
    world.options.tail_us_max = u64::MAX;
    world.options.keep_for_peers_us = 400_000;
    for id in [one, two, away] {
        world.crash(id);
        world.start(id);
    }
    world.crash(away);
    let mut filled = 0;
    for tenth in 0..60 {
        world.run_for(100_000);
        let kept = [one, two].map(|id| world.machine(id).segments.len() as u64);
        let most = *kept.iter().max().expect("two nodes");
        let is_heard = tenth <= 4;
        assert!(most <= TAIL_SEGMENTS + SLACK_SEGMENTS || is_heard, "{most} segments are kept");
        filled = world.machine(one).filled();
    }
    assert!(filled > 4 * (TAIL_SEGMENTS + SLACK_SEGMENTS), "only {filled} segments were filled");
    let missed = world.oracle.acknowledged;
    world.start(away);
    world.run_until("it has what it missed", 3_000_000, |world| world.machines[2].applied > missed);
    assert!(world.oracle.events["snapshot"] >= 1);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (a, b) = (run(7), run(7));
    assert_eq!(a.oracle.chosen, b.oracle.chosen);
    assert_eq!((a.now, a.oracle.events), (b.now, b.oracle.events));
}
