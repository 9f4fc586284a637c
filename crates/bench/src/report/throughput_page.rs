//! The page of a throughput run.

use super::chart::{Chart, Series, Style};
use super::page::Page;
use crate::Protocol;
use crate::table::{count, ms, ms_of_us, or_dash, whole};
use crate::throughput::{ThroughputResult, TimelinePoint};

pub(super) fn render(result: &ThroughputResult) -> String {
    let options = &result.options;
    let store = match options.protocol {
        Protocol::Synod => "Synod",
        Protocol::Etcd => "etcd",
    };
    let pace = match options.rate_per_s {
        Some(rate) => format!("at {} requests/s", whole(rate)),
        None => "in a closed loop".into(),
    };
    let subtitle = format!(
        "{} nodes, {} clients {pace}, {} keys of {} bytes, {}-byte values, {:.0} % reads, {} s \
         after {} s of warm-up.",
        result.nodes.len(),
        options.clients,
        count(options.keys),
        options.key_bytes,
        options.value_bytes,
        options.read_share * 100.0,
        options.duration.as_secs_f64(),
        options.warm_up.as_secs_f64()
    );
    let mut page = Page::new(&format!("{store}: throughput and latency"), &subtitle);
    tiles(result, &mut page);
    charts(result, &mut page);
    tables(result, &mut page);
    page.finish()
}

fn tiles(result: &ThroughputResult, page: &mut Page) {
    let us = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.1} \u{b5}s")));
    let figure = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.2}")));
    let mut tiles = Vec::new();
    for (name, operation) in [("Writes/s", &result.writes), ("Reads/s", &result.reads)] {
        if operation.count > 0 {
            let latency = &operation.latency;
            let (p50, p99) = (ms_of_us(latency.p50_us), ms_of_us(latency.p99_us));
            tiles.push((name, whole(operation.per_s), format!("median {p50}, 99 % within {p99}")));
        }
    }
    let generator = us(result.generator_cpu_us_per_operation);
    tiles.push((
        "Server CPU per operation",
        us(result.server_cpu_us_per_operation),
        format!("all nodes; the generator used {generator}"),
    ));
    tiles.push((
        "Commands per value",
        figure(result.commands_per_value),
        format!("{} fsyncs per write, all nodes", figure(result.fsyncs_per_write)),
    ));
    page.tiles(&tiles);
}

fn charts(result: &ThroughputResult, page: &mut Page) {
    let interval_s = result.options.timeline_interval.as_secs_f64();
    let line = |name, colour, style, y: &dyn Fn(&TimelinePoint) -> Option<f64>| Series {
        name,
        colour,
        style,
        points: result.timeline.iter().map(|point| (point.at_s, y(point))).collect(),
    };
    let throughput = Chart {
        title: "Throughput over time",
        x_label: "measured time (s)",
        y_label: "operations/s",
        logarithmic: false,
        y_max: None,
        series: vec![line("", 1, Style::Area, &|point| Some(point.operations as f64 / interval_s))],
        marks: Vec::new(),
    };
    let caption = format!("In intervals of {}.", ms(interval_s * 1000.0));
    page.chart(&throughput, &caption);
    let answered =
        |point: &TimelinePoint, us: u64| (point.operations > 0).then_some(us as f64 / 1000.0);
    let latency = Chart {
        title: "Latency over time",
        y_label: "latency (ms)",
        logarithmic: true,
        series: vec![
            line("median", 1, Style::Line, &|point| answered(point, point.p50_us)),
            line("99th percentile", 2, Style::Line, &|point| answered(point, point.p99_us)),
            line("slowest", 3, Style::Line, &|point| answered(point, point.max_us)),
        ],
        ..throughput
    };
    page.chart(&latency, &caption);
}

fn tables(result: &ThroughputResult, page: &mut Page) {
    let mut operations = Vec::new();
    for (name, operation) in [("writes", &result.writes), ("reads", &result.reads)] {
        if operation.count > 0 {
            let latency = &operation.latency;
            operations.push(vec![
                name.into(),
                count(operation.count),
                ms(latency.mean_us / 1000.0),
                ms_of_us(latency.p50_us),
                ms_of_us(latency.p90_us),
                ms_of_us(latency.p99_us),
                ms_of_us(latency.p999_us),
                ms_of_us(latency.max_us),
            ]);
        }
    }
    let heading = ["", "Count", "Mean", "p50", "p90", "p99", "p99.9", "Slowest"];
    page.table("Operations", &heading, &operations);
    let nodes = result.nodes.iter().map(|node| {
        let number = |value: Option<f64>| or_dash(value.map(whole));
        let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
        vec![
            node.id.to_string(),
            or_dash(node.cpu_s.map(|cpu_s| format!("{cpu_s:.2} s"))),
            or_dash(node.cores.map(|cores| format!("{cores:.2}"))),
            or_dash(node.resident_bytes.map(mib)),
            number(node.counters.http_requests),
            number(node.counters.journal_syncs),
        ]
    });
    let heading = ["Node", "CPU", "Cores", "Memory", "Requests", "Fsyncs"];
    page.table("Nodes", &heading, &nodes.collect::<Vec<_>>());
    if !result.errors.is_empty() {
        let errors = result.errors.iter().map(|(kind, number)| vec![kind.clone(), count(*number)]);
        page.table("Errors", &["Kind", "Count"], &errors.collect::<Vec<_>>());
    }
}
