#![allow(missing_docs, clippy::all)]
use std::sync::atomic::{AtomicU64, Ordering};
use synod_sim::planted::{Bug, search};
use synod_sim::{Plan, run};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (from, to): (u64, u64) = (args[1].parse().unwrap(), args[2].parse().unwrap());
    if let Some(bug) = args.get(3) {
        let found = search(Bug::named(bug).unwrap(), from, to - from, &run);
        println!("{found:?}");
        return;
    }
    let next = AtomicU64::new(from);
    let failed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let report = run(&Plan::drawn(seed));
                    if let Some(violation) = report.violation {
                        failed.fetch_add(1, Ordering::Relaxed);
                        println!("FAILED {seed}: {violation:?}");
                    }
                    if seed % 100 == 0 {
                        println!("at {seed}");
                    }
                }
            });
        }
    });
    println!("done {from}..{to}, {} failed", failed.load(Ordering::Relaxed));
}
