//! What a failover run found.

use std::collections::BTreeMap;

use serde::Serialize;

use super::acknowledgement::{
    Acknowledgement, Bucket, Silence, buckets, first_after, longest_client_silences,
    longest_silence, ms, sorted_latencies_ms, within,
};
use super::client::{Failure, Log};
use super::finding::CheckResult;
use super::plan::FailoverPlan;
use crate::latency::{median, quantile};
use crate::request_error::Effect;
use crate::{Leader, NodeAddress, NodeId};

/// Buckets around a kill are this wide.
const FINE_US: u64 = 10_000;
/// Buckets over the whole run.
const COARSE_US: u64 = 100_000;
const BEFORE_US: u64 = 1_000_000;
const DURING_US: u64 = 1_000_000;
const AFTER_US: u64 = 1_000_000;

/// One kill, as it was done.
#[derive(Debug)]
pub(super) struct Kill {
    pub(super) leader: Leader,
    pub(super) index: u16,
    pub(super) at_us: u64,
    pub(super) sent_after_us: u64,
    /// How many keys had been opened when all were left as they are.
    pub(super) keys_frozen: usize,
    /// When the watch ended, before the node was brought back.
    pub(super) end_us: u64,
    pub(super) next_leader: Option<Leader>,
    pub(super) ready_ms: Option<f64>,
}

impl Kill {
    /// Whether another node took over. One that led already says that the node
    /// that was taken away had been deposed before.
    fn has_successor(&self) -> bool {
        let follows = |next: Leader| next.node != self.leader.node && self.leader.precedes(&next);
        self.next_leader.is_some_and(follows)
    }
}

/// All that a run brought in.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) log: Log,
    pub(super) kills: Vec<Kill>,
    pub(super) end_us: u64,
    pub(super) check: CheckResult,
    pub(super) unchecked_kills: usize,
    pub(super) checked_at_end: u64,
    pub(super) unchecked_at_end: u64,
    /// What ended the run before all kills were done and all nodes back.
    pub(super) ended_early: Option<String>,
}

/// What clients saw of one kill.
#[derive(Debug, Clone, Serialize)]
pub struct KillResult {
    /// The node that led and was taken away.
    pub node: NodeId,
    /// When, in milliseconds since the load began.
    pub at_ms: f64,
    /// From the kill to the first acknowledgement, by another node, of a
    /// request sent after it; none if there was none in the time given.
    pub first_acknowledgement_ms: Option<f64>,
    /// The longest interval around the kill without any acknowledgement.
    pub silence: Silence,
    /// Its length.
    pub silence_ms: f64,
    /// The longest interval any one client went without an acknowledgement.
    pub client_gap_ms: f64,
    /// The same for each client, in ascending order.
    pub client_gaps_ms: Vec<f64>,
    /// Requests that failed from the kill to the end of the watch, by kind.
    pub errors: BTreeMap<String, u64>,
    /// How many of them may have had their effect all the same.
    pub unknown: u64,
    /// Who led afterwards, if anybody said so.
    pub next_leader: Option<NodeId>,
    /// Whether the node came back and led before another did.
    pub came_back: bool,
    /// Whether another node took over and acknowledged a request; a kill after
    /// which none did is no failover and does not count as one.
    pub failed_over: bool,
    /// From asking for its return until the node was ready; none when that did
    /// not happen, or when the node only stood still or was started by others.
    pub ready_ms: Option<f64>,
    /// Acknowledgements in 10 ms intervals; 0 is the kill.
    pub buckets: Vec<Bucket>,
}

/// The middle and the ends of a set of times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The smallest.
    pub min_ms: f64,
    /// The median.
    pub median_ms: f64,
    /// The largest.
    pub max_ms: f64,
}

/// Throughput and latency in one phase of all failovers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    /// Which: the second before a kill, the second from it, the one after that.
    pub name: &'static str,
    /// Acknowledged writes per second.
    pub per_s: f64,
    /// The median latency; none if nothing was acknowledged.
    pub p50_ms: Option<f64>,
    /// The 99th percentile.
    pub p99_ms: Option<f64>,
    /// The longest.
    pub max_ms: Option<f64>,
}

/// What a failover run found.
#[derive(Debug, Clone, Serialize)]
pub struct FailoverResult {
    /// What was done.
    pub plan: FailoverPlan,
    /// Whether nothing is wrong with what was found.
    pub passed: bool,
    /// What is wrong with what was found, in words.
    pub problems: Vec<String>,
    /// How many nodes the cluster has.
    pub nodes: usize,
    /// How many kills ended with another node leading and serving.
    pub failovers: usize,
    /// Over these, from the kill to the first acknowledgement.
    pub first_acknowledgement: Option<Spread>,
    /// Over these, the longest silence.
    pub silence: Option<Spread>,
    /// Over these, the longest gap of any client.
    pub client_gap: Option<Spread>,
    /// Before, during and after.
    pub phases: Vec<Phase>,
    /// Writes acknowledged in the whole run.
    pub acknowledged: u64,
    /// Requests that failed in the whole run, by kind.
    pub errors: BTreeMap<String, u64>,
    /// How many of them may have had their effect all the same.
    pub unknown: u64,
    /// What reading everything back has shown.
    pub check: CheckResult,
    /// Each kill.
    pub kills: Vec<KillResult>,
    /// Acknowledgements in 100 ms intervals over the whole run.
    pub timeline: Vec<Bucket>,
}

pub(super) fn assemble(plan: &FailoverPlan, nodes: &[NodeAddress], run: Run) -> FailoverResult {
    let log = &run.log;
    let kills: Vec<KillResult> =
        run.kills.iter().map(|kill| kill_result(plan, kill, log)).collect();
    let counted: Vec<&KillResult> = kills.iter().filter(|kill| kill.failed_over).collect();
    let spread = |of: fn(&KillResult) -> Option<f64>| {
        Spread::of(counted.iter().filter_map(|kill| of(kill)).collect())
    };
    let (errors, unknown) = tally(&log.failures);
    let problems = problems(plan, &run, &kills);
    FailoverResult {
        passed: problems.is_empty(),
        problems,
        nodes: nodes.len(),
        failovers: counted.len(),
        first_acknowledgement: spread(|kill| kill.first_acknowledgement_ms),
        silence: spread(|kill| Some(kill.silence_ms)),
        client_gap: spread(|kill| Some(kill.client_gap_ms)),
        phases: phases(&run.kills, &log.acknowledgements),
        acknowledged: log.acknowledgements.len() as u64,
        errors,
        unknown,
        check: run.check,
        timeline: buckets(&log.acknowledgements, (0, run.end_us), COARSE_US, 0),
        plan: plan.clone(),
        kills,
    }
}

fn kill_result(plan: &FailoverPlan, kill: &Kill, log: &Log) -> KillResult {
    let all = &log.acknowledgements[..];
    let silence = longest_silence(all, kill.at_us, kill.end_us);
    let gaps = longest_client_silences(all, plan.clients, kill.at_us, kill.end_us);
    let mut gaps: Vec<f64> = gaps.into_iter().map(ms).collect();
    gaps.sort_by(f64::total_cmp);
    let during = |failure: &&Failure| (kill.at_us..=kill.end_us).contains(&failure.at_us);
    let (errors, unknown) = tally(log.failures.iter().filter(during));
    let first = first_after(all, kill.sent_after_us, kill.end_us, kill.index);
    // Whole buckets from the kill, in both directions.
    let before_us = BEFORE_US.min(kill.at_us / FINE_US * FINE_US);
    let shown_until_us = kill.end_us.min(kill.at_us + DURING_US + AFTER_US);
    KillResult {
        node: kill.leader.node,
        at_ms: ms(kill.at_us),
        first_acknowledgement_ms: first.map(|first_us| ms(first_us - kill.at_us)),
        silence,
        silence_ms: silence.ms(),
        client_gap_ms: gaps.last().copied().unwrap_or(0.0),
        client_gaps_ms: gaps,
        errors,
        unknown,
        next_leader: kill.next_leader.map(|next| next.node),
        came_back: kill.next_leader.is_some_and(|next| next.node == kill.leader.node),
        failed_over: kill.has_successor() && first.is_some(),
        ready_ms: kill.ready_ms,
        buckets: buckets(all, (kill.at_us - before_us, shown_until_us), FINE_US, kill.at_us),
    }
}

fn tally<'a>(failures: impl IntoIterator<Item = &'a Failure>) -> (BTreeMap<String, u64>, u64) {
    let (mut errors, mut unknown) = (BTreeMap::new(), 0);
    for failure in failures {
        *errors.entry(failure.kind).or_default() += 1;
        unknown += u64::from(failure.effect == Effect::Unknown);
    }
    (errors.into_iter().map(|(kind, count)| (kind.to_string(), count)).collect(), unknown)
}

fn phases(kills: &[Kill], all: &[Acknowledgement]) -> Vec<Phase> {
    let phase = |name, window: fn(&Kill) -> (u64, u64)| {
        let (mut latencies, mut length_us) = (Vec::new(), 0);
        for kill in kills {
            let (begin_us, end_us) = window(kill);
            latencies.extend(sorted_latencies_ms(within(all, begin_us, end_us)));
            length_us += end_us.saturating_sub(begin_us);
        }
        latencies.sort_by(f64::total_cmp);
        Phase {
            name,
            per_s: latencies.len() as f64 * 1e6 / (length_us.max(1)) as f64,
            p50_ms: quantile(&latencies, 0.5),
            p99_ms: quantile(&latencies, 0.99),
            max_ms: latencies.last().copied(),
        }
    };
    vec![
        phase("the second before", |kill| (kill.at_us.saturating_sub(BEFORE_US), kill.at_us)),
        phase("the second from the kill", |kill| {
            (kill.at_us, kill.end_us.min(kill.at_us + DURING_US))
        }),
        phase("the second after that", |kill| {
            let begin_us = kill.end_us.min(kill.at_us + DURING_US);
            (begin_us, kill.end_us.min(begin_us + AFTER_US))
        }),
    ]
}

/// What makes the run a failed one. A check that could not check is one.
fn problems(plan: &FailoverPlan, run: &Run, kills: &[KillResult]) -> Vec<String> {
    let mut problems = Vec::new();
    let check = &run.check;
    let mut report = |happened: bool, problem: String| {
        if happened {
            problems.push(problem);
        }
    };
    let seen_by = |count: u64| format!("{count} reads and answers show it");
    report(
        check.losses > 0,
        format!("{} keys miss an acknowledged write: {}", check.keys_lost(), seen_by(check.losses)),
    );
    report(
        check.violations > 0,
        format!("something is there that must not be: {}", seen_by(check.violations)),
    );
    report(run.log.acknowledgements.is_empty(), "no write was acknowledged".into());
    report(run.checked_at_end == 0, "no key could be read back at the end".into());
    report(
        run.unchecked_at_end > 0,
        format!("{} reads at the end were not answered", run.unchecked_at_end),
    );
    let failovers = kills.iter().filter(|kill| kill.failed_over).count();
    report(failovers == 0, "no kill ended with another node leading".into());
    report(
        run.unchecked_kills > 0,
        format!("after {} kills no key could be read back under load", run.unchecked_kills),
    );
    let unrecovered = kills.iter().filter(|kill| kill.first_acknowledgement_ms.is_none()).count();
    report(unrecovered > 0, format!("after {unrecovered} kills no new request was acknowledged"));
    if let Some(reason) = &run.ended_early {
        report(true, format!("the run ended early: {reason}"));
    }
    let short = plan.kills as usize - kills.len();
    report(short > 0, format!("{short} kills were not done"));
    problems
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        let median_ms = median(&mut values)?;
        Some(Self { min_ms: *values.first()?, median_ms, max_ms: *values.last()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ballot;

    #[test]
    fn only_another_node_with_a_higher_ballot_is_a_successor() {
        let leader = |node, ballot| Leader { node: NodeId(node), ballot: Ballot::parse(ballot) };
        let succeeded = |next_leader| {
            let kill = Kill {
                leader: leader(1, "7.1"),
                index: 0,
                at_us: 0,
                sent_after_us: 0,
                keys_frozen: 0,
                end_us: 1,
                next_leader,
                ready_ms: None,
            };
            kill.has_successor()
        };
        assert!(succeeded(Some(leader(2, "8.2"))));
        assert!(!succeeded(Some(leader(2, "6.2"))), "it led all the time");
        assert!(!succeeded(Some(leader(1, "8.1"))), "it came back");
        assert!(!succeeded(None));
    }
}
