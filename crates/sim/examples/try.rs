//! scratch
use synod_sim::*;
fn main() {
    let args: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    if args.len() == 1 {
        let plan = Plan::drawn(args[0]);
        println!("{plan}");
        let r = run_traced(&plan, Some(Box::new(|l: &str| println!("{l}"))));
        println!("{r:#?}");
        return;
    }
    std::panic::set_hook(Box::new(|_| {}));
    let t = std::time::Instant::now();
    let s = run_seeds(args[0]..args[1], 2, args.get(2).copied().unwrap_or(5) as usize, |_| {});
    for f in &s.failed {
        println!("seed {}: {}", f.seed, f.violation.as_ref().unwrap());
    }
    println!(
        "{} seeds in {:?}, {} events, {} ops, {} answered, slowest {:?}, digest {:x}",
        s.seeds,
        t.elapsed(),
        s.events,
        s.operations,
        s.answered,
        s.slowest_recovery_us,
        s.trace_digest
    );
    for (n, c) in s.coverage.counts() {
        print!("{n}={c} | ");
    }
    println!("\nmissing {:?}", s.missing());
}
