//! The page of a failover run.

use super::chart::{Chart, Mark, Series, Style};
use super::page::Page;
use crate::Protocol;
use crate::failover::{Bucket, FailoverResult, FindingKind, How, KillResult, Spread};
use crate::latency::median;
use crate::table::{count, ms, or_dash, whole};

/// The close-up shows at least and at most this much after the kill, and a
/// quarter of it before.
const CLOSE_UP_MS_MIN: f64 = 200.0;
const CLOSE_UP_MS_MAX: f64 = 2_000.0;

pub(super) fn render(result: &FailoverResult) -> String {
    let plan = &result.plan;
    let store = match plan.protocol {
        Protocol::Synod => "Synod",
        Protocol::Etcd => "etcd",
    };
    let how = match plan.how {
        How::Kill => "killed (SIGKILL)",
        How::Stop => "stopped (SIGSTOP)",
    };
    let subtitle = format!(
        "{} nodes, {} clients in a closed loop, {}-byte keys, {}-byte values. The leader was {how} \
         {} times. Clients wait {} to {} ms for an answer, then go on to another node.",
        result.nodes,
        plan.clients,
        plan.key_bytes,
        plan.value_bytes,
        result.kills.len(),
        plan.timeout_min.as_millis(),
        plan.timeout_max.as_millis()
    );
    let mut page = Page::new(&format!("{store}: what clients see when the leader goes"), &subtitle);
    verdict(result, &mut page);
    tiles(result, &mut page);
    over_time(result, &mut page);
    close_up(result, &mut page);
    page.chart(
        &gaps(result),
        "For each duration, the share of kills (or of clients in all kills) with a gap no longer \
         than that. The further left a line rises, the better.",
    );
    tables(result, &mut page);
    page.finish()
}

fn verdict(result: &FailoverResult, page: &mut Page) {
    if result.passed {
        let text = format!(
            "No acknowledged write was lost: {} reads through every node agree with what {} \
             acknowledgements promised.",
            count(result.check.reads),
            count(result.acknowledged)
        );
        page.verdict(true, &text);
    }
    for problem in &result.problems {
        page.verdict(false, problem);
    }
}

fn tiles(result: &FailoverResult, page: &mut Page) {
    let middle = |spread: Option<Spread>| or_dash(spread.map(|spread| ms(spread.median_ms)));
    let ends = |spread: Option<Spread>| {
        let text = |spread: Spread| format!("{} to {}", ms(spread.min_ms), ms(spread.max_ms));
        format!("median of {}; {}", result.failovers, or_dash(spread.map(text)))
    };
    let tile = |name, spread| (name, middle(spread), ends(spread));
    page.tiles(&[
        tile("First acknowledgement after the kill", result.first_acknowledgement),
        tile("Longest silence around it", result.silence),
        tile("Longest gap of any client", result.client_gap),
        (
            "Keys that lost an acknowledged write",
            count(result.check.keys_lost() as u64),
            format!("{} writes with unknown outcome", count(result.unknown)),
        ),
    ]);
}

fn over_time(result: &FailoverResult, page: &mut Page) {
    let intervals_per_s = 10.0;
    // The last interval may be cut short, which would look like a drop.
    let whole = &result.timeline[..result.timeline.len().saturating_sub(1)];
    let at_s = |bucket: &Bucket| bucket.at_ms / 1000.0;
    let rate = |bucket: &Bucket| Some(bucket.acknowledged as f64 * intervals_per_s);
    let line = |name, colour, style, y: &dyn Fn(&Bucket) -> Option<f64>| Series {
        name,
        colour,
        style,
        points: whole.iter().map(|bucket| (at_s(bucket), y(bucket))).collect(),
    };
    let marks: Vec<Mark> = result.kills.iter().zip(1..).map(mark).collect();
    let throughput = Chart {
        title: "Throughput over the whole run",
        x_label: "time since the load began (s)",
        y_label: "acknowledged writes/s",
        logarithmic: false,
        y_max: None,
        series: vec![line("", 1, Style::Area, &rate)],
        marks: marks.clone(),
    };
    page.chart(
        &throughput,
        "In intervals of 100 ms. A dashed line is a kill; between kills the node comes back and \
         catches up, and keys are read back through the others.",
    );
    let latency = Chart {
        title: "Latency over the whole run",
        y_label: "latency of a write (ms)",
        logarithmic: true,
        series: vec![
            line("median", 1, Style::Line, &|bucket| bucket.p50_ms),
            line("99th percentile", 2, Style::Line, &|bucket| bucket.p99_ms),
        ],
        ..Chart { marks, ..throughput }
    };
    page.chart(&latency, "Of the writes acknowledged in each interval of 100 ms.");
}

fn mark((kill, number): (&KillResult, usize)) -> Mark {
    let first = or_dash(kill.first_acknowledgement_ms.map(ms));
    Mark {
        x: kill.at_ms / 1000.0,
        label: number.to_string(),
        hint: format!(
            "kill {number}: node {}; first acknowledgement after {first}, silence {}",
            kill.node,
            ms(kill.silence_ms)
        ),
    }
}

fn close_up(result: &FailoverResult, page: &mut Page) {
    let rate = |bucket: &Bucket| Some(bucket.acknowledged as f64 * 100.0);
    let each = result.kills.iter().map(|kill| Series {
        name: "",
        colour: 1,
        style: Style::Faint,
        points: shown(result, kill).map(|bucket| (bucket.at_ms, rate(bucket))).collect(),
    });
    let kill = vec![Mark { x: 0.0, label: "kill".into(), hint: "the kill".into() }];
    let mut series: Vec<Series> = each.collect();
    series.push(across(result, "median of all kills", 1, &rate));
    let throughput = Chart {
        title: "Throughput around a kill",
        x_label: "time from the kill (ms)",
        y_label: "acknowledged writes/s",
        logarithmic: false,
        y_max: None,
        series,
        marks: kill,
    };
    page.chart(
        &throughput,
        "In intervals of 10 ms, all kills laid over each other; the strong line is the median of them.",
    );
    let latency = Chart {
        title: "Latency around a kill",
        y_label: "latency of a write (ms)",
        logarithmic: true,
        series: vec![
            across(result, "median", 1, &|bucket| bucket.p50_ms),
            across(result, "99th percentile", 2, &|bucket| bucket.p99_ms),
        ],
        ..throughput
    };
    page.chart(
        &latency,
        "Of the writes acknowledged in each interval of 10 ms, the median over the kills. Nothing \
         is drawn where at least half of the kills had no acknowledgement.",
    );
}

/// The buckets of the close-up, which is as wide as twice the worst outage.
fn shown<'a>(
    result: &FailoverResult,
    kill: &'a KillResult,
) -> impl Iterator<Item = &'a Bucket> + use<'a> {
    let worst = result.silence.map_or(0.0, |silence| silence.max_ms);
    let after_ms = (2.0 * worst).clamp(CLOSE_UP_MS_MIN, CLOSE_UP_MS_MAX);
    let window = -after_ms / 4.0..after_ms;
    kill.buckets.iter().filter(move |bucket| window.contains(&bucket.at_ms))
}

/// The median over the kills, interval by interval; none where fewer than half
/// of the kills have a value.
fn across(
    result: &FailoverResult,
    name: &'static str,
    colour: u8,
    y: &dyn Fn(&Bucket) -> Option<f64>,
) -> Series {
    let shown = |kill| shown(result, kill);
    let longest = result.kills.iter().max_by_key(|kill| shown(kill).count());
    let times: Vec<f64> = longest.into_iter().flat_map(shown).map(|bucket| bucket.at_ms).collect();
    let point = |at_ms: f64| {
        let same = |bucket: &&Bucket| (bucket.at_ms - at_ms).abs() < 1.0;
        let here = result.kills.iter().filter_map(|kill| shown(kill).find(same));
        let mut values: Vec<f64> = here.filter_map(y).collect();
        let enough = 2 * values.len() > result.kills.len();
        (at_ms, median(&mut values).filter(|_| enough))
    };
    Series { name, colour, style: Style::Line, points: times.into_iter().map(point).collect() }
}

fn gaps(result: &FailoverResult) -> Chart {
    let counted = || result.kills.iter().filter(|kill| kill.failed_over);
    let first = counted().filter_map(|kill| kill.first_acknowledgement_ms).collect();
    let silence = counted().map(|kill| kill.silence_ms).collect();
    let clients = counted().flat_map(|kill| kill.client_gaps_ms.iter().copied()).collect();
    Chart {
        title: "Distribution of gaps",
        x_label: "gap (ms)",
        y_label: "share with at most this gap (%)",
        logarithmic: false,
        y_max: Some(100.0),
        series: vec![
            distribution("longest silence, by kill", 1, silence),
            distribution("first acknowledgement, by kill", 2, first),
            distribution("longest gap of a client, by client and kill", 3, clients),
        ],
        marks: Vec::new(),
    }
}

fn distribution(name: &'static str, colour: u8, mut values: Vec<f64>) -> Series {
    values.sort_by(f64::total_cmp);
    let total = values.len() as f64;
    let steps =
        values.iter().zip(1..).map(|(value, rank)| (*value, Some(f64::from(rank) / total * 100.0)));
    let points = std::iter::once((0.0, Some(0.0))).chain(steps).collect();
    Series { name, colour, style: Style::Step, points }
}

fn tables(result: &FailoverResult, page: &mut Page) {
    let kills = result.kills.iter().zip(1..).map(|(kill, number): (&KillResult, usize)| {
        let next = or_dash(kill.next_leader.map(|node| node.to_string()));
        let errors: Vec<String> =
            kill.errors.iter().map(|(kind, number)| format!("{} {kind}", count(*number))).collect();
        vec![
            number.to_string(),
            kill.node.to_string(),
            if kill.came_back { format!("{next} (itself)") } else { next },
            or_dash(kill.first_acknowledgement_ms.map(ms)),
            ms(kill.silence_ms),
            ms(kill.client_gap_ms),
            count(kill.unknown),
            or_dash(kill.ready_ms.map(ms)),
            or_dash((!errors.is_empty()).then(|| errors.join(", "))),
        ]
    });
    let heading = [
        "Kill",
        "Node",
        "Next leader",
        "First ack",
        "Silence",
        "Client gap",
        "Unknown",
        "Back after",
        "Errors",
    ];
    page.table("Each kill", &heading, &kills.collect::<Vec<_>>());
    let phases = result.phases.iter().map(|phase| {
        let time = |value: Option<f64>| or_dash(value.map(ms));
        let name = phase.name.to_owned();
        vec![name, whole(phase.per_s), time(phase.p50_ms), time(phase.p99_ms), time(phase.max_ms)]
    });
    let heading = ["All kills together", "Writes/s", "Median", "99th percentile", "Slowest"];
    page.table("Before, during and after", &heading, &phases.collect::<Vec<_>>());
    if !result.check.findings.is_empty() {
        let findings = result.check.findings.iter().map(|finding| {
            let kind = match finding.kind {
                FindingKind::Loss => "loss",
                FindingKind::Violation => "violation",
            };
            vec![
                kind.to_owned(),
                finding.key.clone(),
                finding.node.to_string(),
                finding.found.clone(),
                finding.acknowledged.to_string(),
                finding.sent.to_string(),
            ]
        });
        let heading = ["Kind", "Key", "Node", "Found", "Acknowledged", "Sent"];
        page.table("What the read-back found", &heading, &findings.collect::<Vec<_>>());
    }
}
