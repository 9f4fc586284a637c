//! From a plan that fails to a smaller one that fails the same check.

use crate::checkers::Checker;
use crate::fault::Fault;
use crate::plan::Plan;
use crate::run::{Report, Runner};

/// Shrinks the plan as long as it still fails the same check, and tells of every
/// step that helped. Returns the smallest plan found and its report; none when the
/// plan does not fail.
pub fn minimize(
    plan: &Plan,
    run: Runner<'_>,
    mut tell: impl FnMut(&str),
) -> Option<(Plan, Report)> {
    let report = run(plan);
    let checker = report.violation.as_ref()?.checker;
    let mut best = (plan.clone(), report);
    loop {
        let smaller = candidates(&best.0).into_iter().find_map(|(what, candidate)| {
            let report = run(&candidate);
            fails(&report, checker).then_some((what, candidate, report))
        });
        let Some((what, candidate, report)) = smaller else { return Some(best) };
        tell(&what);
        best = (candidate, report);
    }
}

fn fails(report: &Report, checker: Checker) -> bool {
    report.violation.as_ref().is_some_and(|violation| violation.checker == checker)
}

/// Simpler plans, the greatest simplifications first.
fn candidates(plan: &Plan) -> Vec<(String, Plan)> {
    let mut candidates = Vec::new();
    let mut add = |what: String, change: &dyn Fn(&mut Plan)| {
        let mut smaller = plan.clone();
        change(&mut smaller);
        if smaller != *plan {
            candidates.push((what, smaller));
        }
    };
    let half_us = plan.faults_us / 2;
    add(format!("{} s of faults", half_us / 1_000_000), &|plan| {
        plan.faults_us = half_us.max(1_000_000);
        plan.operations_min /= 2;
    });
    let faults: Vec<Fault> = plan.faults.keys().copied().collect();
    for fault in &faults {
        add(format!("without {}", fault.name()), &|plan| {
            plan.faults.remove(fault);
        });
    }
    add("without guests".to_owned(), &|plan| plan.guests = None);
    add("without encoding the messages".to_owned(), &|plan| plan.encodes_messages = false);
    add("one event a step".to_owned(), &|plan| plan.pace.batch_us_max = 0);
    add("short values".to_owned(), &|plan| plan.load.padding_bytes_max = 0);
    add("half the clients".to_owned(), &|plan| plan.load.clients = (plan.load.clients / 2).max(1));
    add("fewer keys".to_owned(), &|plan| plan.load.keys = (plan.load.keys / 2).max(1));
    if plan.members == 5 && plan.promise_quorum == 3 {
        add("three members".to_owned(), &|plan| {
            plan.members = 3;
            (plan.promise_quorum, plan.accept_quorum) = (2, 2);
        });
    }
    for fault in &faults {
        let percent = plan.faults[fault];
        if percent > 5 {
            add(format!("{} at {} %", fault.name(), percent / 2), &|plan| {
                plan.faults.insert(*fault, percent / 2);
            });
        }
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_is_simpler_and_they_come_to_an_end() {
        let mut plan = Plan::drawn(7);
        plan.faults = Fault::ALL.iter().map(|fault| (*fault, 100)).collect();
        let mut steps = 0;
        while let Some((_, smaller)) = candidates(&plan).into_iter().next() {
            plan = smaller;
            steps += 1;
            assert!(steps < 200, "shrinking does not end");
        }
        assert!(plan.faults.is_empty());
    }
}
