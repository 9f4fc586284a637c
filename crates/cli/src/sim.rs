//! `synod sim`: seeds for a machine with all its cores, or one seed for a person.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;
use synod_sim::{Plan, Report, Summary, minimize, run_seeds, run_traced, running_seed};

use crate::arguments::{Sim, SimCommand};
use crate::failure::Failure;
use crate::output::{columns, print, print_bytes, print_json};
use crate::workers::{self, Workers};

/// How often progress is told: on a terminal, and elsewhere.
const TELL_EVERY: Duration = Duration::from_millis(200);
const TELL_LOG_EVERY: Duration = Duration::from_secs(10);

/// Runs what was asked for. Fails when a check failed.
pub(crate) fn run(arguments: &Sim) -> Result<(), Failure> {
    match &arguments.command {
        Some(SimCommand::Planted(planted)) => return crate::planted::run(planted),
        Some(SimCommand::Worker) => return workers::work(),
        None => {}
    }
    name_the_seed_of_panics();
    match (arguments.seed, &arguments.seeds) {
        (Some(seed), _) if arguments.minimize => run_minimizing(seed, arguments),
        (Some(seed), _) => run_one(&Plan::drawn(seed), arguments),
        (None, Some(seeds)) => run_many(seeds.clone(), arguments),
        (None, None) => Err(Failure::usage("name --seed or --seeds")),
    }
}

/// A panic in a run is caught and reported like any failed check. Where panics end
/// the process, the one seed that runs in this process is named before.
fn name_the_seed_of_panics() {
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match running_seed() {
        None => otherwise(panic),
        Some(seed) if cfg!(panic = "abort") => {
            eprintln!("seed {seed} failed: {panic}\nreplay it with: {}", replay(seed));
        }
        Some(_) => {}
    }));
}

fn replay(seed: u64) -> String {
    format!("synod sim --seed {seed} --trace")
}

fn run_one(plan: &Plan, arguments: &Sim) -> Result<(), Failure> {
    let report = if arguments.trace {
        print(&plan.to_string())?;
        // A reader that has seen enough ends the lines, not the run.
        let tell = |line: &str| drop(print_bytes(format!("{line}\n").as_bytes()));
        run_traced(plan, Some(Box::new(tell)))
    } else {
        synod_sim::run(plan)
    };
    if arguments.json {
        print_json(&OneResult::of(&report))?;
    } else {
        print(&one_text(&report))?;
    }
    failure_of(&report)
}

fn run_minimizing(seed: u64, arguments: &Sim) -> Result<(), Failure> {
    let tell = |what: &str| eprintln!("still fails: {what}");
    let workers = Workers::start()?;
    let run = |plan: &Plan| workers.run(plan);
    let Some((plan, report)) = minimize(&Plan::drawn(seed), &run, tell) else {
        return print(&format!("seed {seed} does not fail"));
    };
    if arguments.trace {
        return run_one(&plan, arguments);
    }
    if arguments.json {
        print_json(&OneResult::of(&report))?;
    } else {
        print(&plan.to_string())?;
        print(&one_text(&report))?;
    }
    failure_of(&report)
}

fn failure_of(report: &Report) -> Result<(), Failure> {
    report.violation.as_ref().map_or(Ok(()), |violation| {
        let seed = report.seed;
        Err(Failure::failed(format!(
            "seed {seed} failed: {violation}\nreplay it with: {}",
            replay(seed)
        )))
    })
}

fn one_text(report: &Report) -> String {
    format!(
        "seed {}: trace {:016x}, {} events, {} operations, {} answered, {} s simulated, \
         recovered in {} ms",
        report.seed,
        report.trace_hash,
        report.events,
        report.operations,
        report.answered,
        report.simulated_us / 1_000_000,
        report.recovery_us / 1_000,
    )
}

fn run_many(seeds: Range<u64>, arguments: &Sim) -> Result<(), Failure> {
    let threads = workers::threads(arguments.threads);
    let progress = Progress::new(seeds.end - seeds.start);
    let began = Instant::now();
    let failures = usize::try_from(arguments.failures).unwrap_or(usize::MAX);
    let workers = Workers::start()?;
    let run = |plan: &Plan| workers.run(plan);
    let tell = |summary: &Summary| progress.tell(summary);
    let summary = run_seeds(seeds.clone(), threads, failures, &run, tell);
    progress.end();
    let took = began.elapsed();
    if arguments.json {
        print_json(&ManyResult::of(&seeds, &summary, took))?;
    } else {
        print(&many_text(&summary, took))?;
    }
    if summary.is_good() { Ok(()) } else { Err(Failure::failed(complaint(&summary))) }
}

fn complaint(summary: &Summary) -> String {
    let mut text = String::new();
    for report in &summary.failed {
        if let Some(violation) = &report.violation {
            let _ = writeln!(text, "seed {} failed: {violation}", report.seed);
            let _ = writeln!(text, "  replay it with: {}", replay(report.seed));
        }
    }
    let missing = summary.missing();
    if !missing.is_empty() {
        let _ = writeln!(text, "in {} seeds there was no: {}", summary.seeds, missing.join(", "));
    }
    text.trim_end().to_owned()
}

fn many_text(summary: &Summary, took: Duration) -> String {
    let mut rows = Vec::new();
    for (name, count) in summary.coverage.counts() {
        rows.push(vec![name.to_owned(), count.to_string()]);
    }
    let seconds = took.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = summary.seeds as f64 / seconds.max(0.001);
    format!(
        "{}\n{} seeds in {seconds:.1} s ({rate:.1} a second), {} failed; {} simulated hours, \
         {} events, {} operations of clients, {} answered\nslowest recovery {} ms (seed {}); \
         digest of all traces {:016x}",
        columns(&rows),
        summary.seeds,
        summary.failed.len(),
        summary.simulated_us / 3_600_000_000,
        summary.events,
        summary.operations,
        summary.answered,
        summary.slowest_recovery_us.0 / 1_000,
        summary.slowest_recovery_us.1,
        summary.trace_digest,
    )
}

/// A line that says how far it is.
struct Progress {
    total: u64,
    is_terminal: bool,
    began: Instant,
    told: Mutex<Instant>,
}

impl Progress {
    fn new(total: u64) -> Self {
        let (is_terminal, began) = (std::io::stderr().is_terminal(), Instant::now());
        Progress { total, is_terminal, began, told: Mutex::new(began) }
    }

    fn tell(&self, summary: &Summary) {
        let every = if self.is_terminal { TELL_EVERY } else { TELL_LOG_EVERY };
        let Ok(mut told) = self.told.lock() else { return };
        if told.elapsed() < every {
            return;
        }
        *told = Instant::now();
        let (start, end) = if self.is_terminal { ("\r", "\x1b[K") } else { ("", "\n") };
        let mut out = std::io::stderr().lock();
        let _ = write!(
            out,
            "{start}{} of {} seeds, {} failed, {} s{end}",
            summary.seeds,
            self.total,
            summary.failed.len(),
            self.began.elapsed().as_secs(),
        );
        let _ = out.flush();
    }

    fn end(&self) {
        if self.is_terminal {
            eprintln!();
        }
    }
}

/// A failed check.
#[derive(Serialize)]
struct FailedCheck {
    seed: u64,
    checker: &'static str,
    text: String,
    replay: String,
}

impl FailedCheck {
    fn of(report: &Report) -> Option<FailedCheck> {
        report.violation.as_ref().map(|violation| FailedCheck {
            seed: report.seed,
            checker: violation.checker.name(),
            text: violation.text.clone(),
            replay: replay(report.seed),
        })
    }
}

/// One seed for programs.
#[derive(Serialize)]
struct OneResult {
    seed: u64,
    trace: String,
    events: u64,
    operations: u64,
    answered: u64,
    simulated_us: u64,
    recovery_us: u64,
    failed: Option<FailedCheck>,
}

impl OneResult {
    fn of(report: &Report) -> OneResult {
        OneResult {
            seed: report.seed,
            trace: format!("{:016x}", report.trace_hash),
            events: report.events,
            operations: report.operations,
            answered: report.answered,
            simulated_us: report.simulated_us,
            recovery_us: report.recovery_us,
            failed: FailedCheck::of(report),
        }
    }
}

/// Many seeds for programs.
#[derive(Serialize)]
struct ManyResult {
    first_seed: u64,
    end_seed: u64,
    seeds_run: u64,
    seconds: f64,
    events: u64,
    operations: u64,
    answered: u64,
    simulated_us: u64,
    slowest_recovery_us: u64,
    traces: String,
    happened: Vec<(&'static str, u64)>,
    never_happened: Vec<&'static str>,
    failed: Vec<FailedCheck>,
}

impl ManyResult {
    fn of(seeds: &Range<u64>, summary: &Summary, took: Duration) -> ManyResult {
        ManyResult {
            first_seed: seeds.start,
            end_seed: seeds.end,
            seeds_run: summary.seeds,
            seconds: took.as_secs_f64(),
            events: summary.events,
            operations: summary.operations,
            answered: summary.answered,
            simulated_us: summary.simulated_us,
            slowest_recovery_us: summary.slowest_recovery_us.0,
            traces: format!("{:016x}", summary.trace_digest),
            happened: summary.coverage.counts(),
            never_happened: summary.missing(),
            failed: summary.failed.iter().filter_map(FailedCheck::of).collect(),
        }
    }
}
