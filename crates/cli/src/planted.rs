//! `synod sim planted`: what the simulation is worth.

use std::time::{Duration, Instant};

use serde::Serialize;
use synod_sim::Plan;
use synod_sim::planted::{Bug, Search, search_all};

use crate::arguments::Planted;
use crate::failure::Failure;
use crate::output::{columns, print, print_json, warn};
use crate::workers::{self, Workers};

/// Searches for every mistake. Fails when one is not found.
pub(crate) fn run(arguments: &Planted) -> Result<(), Failure> {
    let bugs = chosen(&arguments.bug)?;
    let threads = workers::threads(arguments.threads);
    let seeds_max = u64::from(arguments.seeds_max);
    let began = Instant::now();
    let tell = |search: &Search| {
        if !arguments.json {
            warn(&format!("{}: {} seeds", search.bug.name(), search.seeds));
        }
    };
    let workers = Workers::start()?;
    let run = |plan: &Plan| workers.run(plan);
    let searches = search_all(&bugs, arguments.first, seeds_max, threads, &run, tell);
    if arguments.json {
        print_json(&Table::of(&searches, began.elapsed()))?;
    } else {
        print(&text(&searches, began.elapsed()))?;
    }
    if searches.iter().all(|search| search.found.is_some()) {
        return Ok(());
    }
    Err(Failure::failed(trouble(&searches, seeds_max)))
}

/// Which mistakes were not found, and why.
fn trouble(searches: &[Search], seeds_max: u64) -> String {
    let mut lines = Vec::new();
    let missed = searches.iter().filter(|s| s.found.is_none() && s.broken.is_none());
    let missed: Vec<String> = missed.map(|search| search.bug.name()).collect();
    if !missed.is_empty() {
        lines.push(format!("not found in {seeds_max} seeds: {}", missed.join(", ")));
    }
    for search in searches {
        if let Some((seed, why)) = &search.broken {
            let name = search.bug.name();
            lines.push(format!("{name} was not looked for to the end, seed {seed}: {why}"));
        }
    }
    lines.join("\n")
}

fn chosen(names: &[String]) -> Result<Vec<Bug>, Failure> {
    if names.is_empty() {
        return Ok(Bug::all());
    }
    let find = |name: &String| {
        let found = Bug::named(name);
        found.ok_or_else(|| Failure::usage(format!("there is no planted bug {name}")))
    };
    names.iter().map(find).collect()
}

fn text(searches: &[Search], took: Duration) -> String {
    let head = ["row", "name", "what it does", "seeds", "found by"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    for search in searches {
        rows.push(vec![
            search.bug.row().to_string(),
            search.bug.name(),
            search.bug.text().to_owned(),
            search.seeds.to_string(),
            checker(search).unwrap_or(not_found(search)).to_owned(),
        ]);
    }
    let found = searches.iter().filter(|search| search.found.is_some()).count();
    let (all, seconds) = (searches.len(), took.as_secs_f64());
    format!("{}\n{found} of {all} planted bugs found in {seconds:.1} s", columns(&rows))
}

fn not_found(search: &Search) -> &'static str {
    if search.broken.is_some() { "NOT RUN" } else { "NOT FOUND" }
}

fn checker(search: &Search) -> Option<&'static str> {
    search.found.as_ref().map(|(_, violation)| violation.checker.name())
}

/// The table for programs.
#[derive(Serialize)]
struct Table {
    seconds: f64,
    planted: usize,
    found: usize,
    bugs: Vec<Row>,
}

/// One mistake.
#[derive(Serialize)]
struct Row {
    row: u32,
    name: String,
    text: &'static str,
    seeds: u64,
    found_by_seed: Option<u64>,
    checker: Option<&'static str>,
    /// Why its search ended before it was over.
    broken: Option<String>,
    violation: Option<String>,
}

impl Table {
    fn of(searches: &[Search], took: Duration) -> Table {
        let row = |search: &Search| Row {
            row: search.bug.row(),
            name: search.bug.name(),
            text: search.bug.text(),
            seeds: search.seeds,
            found_by_seed: search.found.as_ref().map(|(seed, _)| *seed),
            checker: checker(search),
            broken: search.broken.as_ref().map(|(seed, why)| format!("seed {seed}: {why}")),
            violation: search.found.as_ref().map(|(_, violation)| violation.text.clone()),
        };
        Table {
            seconds: took.as_secs_f64(),
            planted: searches.len(),
            found: searches.iter().filter(|search| search.found.is_some()).count(),
            bugs: searches.iter().map(row).collect(),
        }
    }
}
