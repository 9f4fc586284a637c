//! `synod status`: a line per member.

use std::time::SystemTime;

use synod_client::{DamageBody, DamagedPart, StatusBody};

use crate::arguments::Reach;
use crate::failure::Failure;
use crate::output::{columns, print_bytes, print_json, warn};
use crate::roll_call::{self, NodeReport, RollCall};
use crate::talk::with_client;

/// Asks every endpoint, and every member that they know. Fails when none of them answers.
pub(crate) fn run(reach: &Reach) -> Result<(), Failure> {
    let timeout_ms = reach.timeout_ms;
    let RollCall { nodes, strays } =
        with_client(reach, |client| async move { Ok(roll_call::call(&client, timeout_ms).await) })?;
    if reach.json {
        print_json(&nodes)?;
    } else {
        print_bytes(columns(&table(&nodes)).as_bytes())?;
        print_errors(&nodes);
    }
    for stray in strays {
        let error = stray.error.as_deref().unwrap_or("a node that was removed");
        warn(&format!("{}: no member of the cluster is there: {error}", stray.url));
    }
    if nodes.iter().all(|report| report.status.is_none()) {
        return Err(Failure::failed(
            "no node answers: start a cluster (`synod cluster`), or name one with --endpoints",
        ));
    }
    Ok(())
}

fn table(reports: &[NodeReport]) -> Vec<Vec<String>> {
    let headings = [
        "NODE", "ROLE", "URL", "BALLOT", "CHOSEN", "APPLIED", "REVISION", "SURVIVES", "SCRUBBED",
        "VERSION",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    rows.extend(reports.iter().map(row));
    rows
}

fn row(report: &NodeReport) -> Vec<String> {
    let Some(status) = &report.status else {
        let node = report.node.map_or_else(|| "-".to_owned(), |node| node.to_string());
        return vec![node, "no answer".to_owned(), report.url.clone()];
    };
    vec![
        status.node.to_string(),
        status.role.as_str().to_owned(),
        report.url.clone(),
        status.ballot.clone(),
        status.chosen_slot.to_string(),
        status.applied_slot.to_string(),
        status.revision.to_string(),
        // How many more nodes may fail.
        status.failures_survivable.to_string(),
        scrubbed(status, now_s()),
        status.version.clone(),
    ]
}

/// How long ago everything on a node's disk was read; in its place, that its state is
/// doubted, or that something is damaged.
fn scrubbed(status: &StatusBody, now_s: u64) -> String {
    if status.differs_after_slot.is_some() {
        return "DIFFERS".to_owned();
    }
    if status.damage.iter().any(|damage| damage.mended_at_s.is_none()) {
        return "damaged".to_owned();
    }
    let Some(scrub) = &status.scrub else { return "off".to_owned() };
    scrub.finished_at_s.map_or_else(|| "never".to_owned(), |at| ago(at, now_s))
}

/// The clocks of two machines differ: what is said is coarse.
fn ago(at_s: u64, now_s: u64) -> String {
    let minutes = now_s.saturating_sub(at_s) / 60;
    match minutes {
        0..120 => format!("{minutes} min ago"),
        120..2_880 => format!("{} h ago", minutes / 60),
        _ => format!("{} days ago", minutes / 1_440),
    }
}

/// What was found damaged last in a part of a node's disk, and whether it is mended.
fn damaged(damage: &DamageBody, now_s: u64) -> String {
    let DamageBody { part, what, found_at_s, mended_at_s } = damage;
    let part = match part {
        DamagedPart::State => "state",
        DamagedPart::Journal => "journal",
    };
    let found = ago(*found_at_s, now_s);
    let became = match mended_at_s {
        Some(at) => format!("mended {}", ago(*at, now_s)),
        None => "open".to_owned(),
    };
    format!("damage of its {part}, found {found}, {became}: {what}")
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn print_errors(reports: &[NodeReport]) {
    for report in reports {
        if let Some(error) = &report.error {
            warn(&format!("{}: {error}", report.url));
        }
        let Some(status) = &report.status else { continue };
        if let Some(slot) = status.differs_after_slot {
            warn(&format!(
                "{}: its state differs from a peer's after slot {slot}; the file DIFFERS in its \
                 data folder says what to do",
                report.url
            ));
        }
        for damage in &status.damage {
            warn(&format!("{}: {}", report.url, damaged(damage, now_s())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_answer_has_its_line() {
        let report = |node| NodeReport {
            node,
            url: "http://127.0.0.1:7002".to_owned(),
            status: None,
            error: Some("refused".to_owned()),
        };
        let text = columns(&table(&[report(None), report(Some(2))]));
        let line = |start: &str| {
            let mut lines = text.lines();
            let line = lines.find(|line| line.starts_with(start)).expect("its line");
            line.contains("no answer") && line.contains("7002")
        };
        assert!(line("-") && line("2"), "{text}");
    }

    #[test]
    fn the_last_reading_of_the_disk_is_told() {
        let status = serde_json::json!({
            "node": 1, "cluster": "0f", "version": "1", "uptime_seconds": 1, "role": "leader",
            "ballot": "1.1", "leader": null, "chosen_slot": 0, "applied_slot": 0,
            "durable_slot": 0, "truncated_slot": 0, "revision": 0, "journal_bytes": 0,
            "state_bytes": 0, "failures_survivable": 0, "peers": [],
            "scrub": {"finished_at_s": 6_000, "bytes": 1, "bytes_now": 0}
        });
        let mut status: StatusBody = serde_json::from_value(status).expect("a status");
        let ago = [(6_060, "1 min ago"), (20_400, "4 h ago"), (178_800, "2 days ago")];
        for (now_s, text) in ago {
            assert_eq!(scrubbed(&status, now_s), text);
        }
        let what = "a block".to_owned();
        let (part, found_at_s, mended_at_s) = (DamagedPart::State, 6_000, None);
        status.damage = vec![DamageBody { part, what, found_at_s, mended_at_s }];
        assert_eq!(scrubbed(&status, 6_060), "damaged");
        let text = damaged(&status.damage[0], 6_060);
        assert_eq!(text, "damage of its state, found 1 min ago, open: a block");
        status.damage[0].mended_at_s = Some(6_060);
        let text = damaged(&status.damage[0], 6_120);
        assert_eq!(text, "damage of its state, found 2 min ago, mended 1 min ago: a block");
        assert_eq!(scrubbed(&status, 6_120), "2 min ago");
        status.scrub.as_mut().expect("one").finished_at_s = None;
        assert_eq!(scrubbed(&status, 6_060), "never");
        status.scrub = None;
        assert_eq!(scrubbed(&status, 6_060), "off");
        status.differs_after_slot = Some(4_096);
        assert_eq!(scrubbed(&status, 6_060), "DIFFERS");
    }
}
