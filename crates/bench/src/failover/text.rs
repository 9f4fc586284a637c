//! A failover run's result as text for a terminal.

use super::{FailoverResult, FindingKind, Spread};
use crate::table::{self, Table, count, or_dash, whole};

impl FailoverResult {
    /// A short table for a terminal: one line a kill, then all together.
    pub fn table(&self) -> String {
        let mut text = self.kills_table();
        text.push('\n');
        text.push_str(&self.phases_table());
        text.push('\n');
        let errors: Vec<String> = self
            .errors
            .iter()
            .map(|(kind, number)| format!("{} x {kind}", count(*number)))
            .collect();
        let errors = if errors.is_empty() { "none".into() } else { errors.join(", ") };
        let check = &self.check;
        let mut lines = Table::default();
        lines.row(["acknowledged writes", &count(self.acknowledged)]);
        lines.row(["unknown outcomes", &count(self.unknown)]);
        lines.row([
            "keys read back",
            &format!("{} in {} reads", count(check.keys as u64), count(check.reads)),
        ]);
        lines.row(["reads not answered", &count(check.unanswered)]);
        lines.row(["versions checked", &count(check.versions)]);
        lines.row(["keys that lost a write", &count(check.keys_lost() as u64)]);
        lines.row(["violations", &count(check.violations)]);
        text.push_str(&lines.render());
        text.push_str(&format!("errors: {errors}\n"));
        for finding in &check.findings {
            text.push_str(&format!(
                "{}: key {} through node {}: found {}, acknowledged up to {}, sent up to {}\n",
                match finding.kind {
                    FindingKind::Loss => "LOSS",
                    FindingKind::Violation => "VIOLATION",
                },
                finding.key,
                finding.node,
                finding.found,
                finding.acknowledged,
                finding.sent
            ));
        }
        for problem in &self.problems {
            text.push_str(&format!("FAILED: {problem}\n"));
        }
        text
    }

    fn kills_table(&self) -> String {
        let heading = [
            "kill",
            "node",
            "next",
            "first ack",
            "silence",
            "client gap",
            "errors",
            "unknown",
            "back",
        ];
        let mut table = Table::new(heading);
        for (index, kill) in self.kills.iter().enumerate() {
            let next = or_dash(kill.next_leader.map(|node| node.to_string()));
            table.row([
                (index + 1).to_string(),
                kill.node.to_string(),
                if kill.came_back { format!("{next} (itself)") } else { next },
                or_dash(kill.first_acknowledgement_ms.map(table::ms)),
                table::ms(kill.silence_ms),
                table::ms(kill.client_gap_ms),
                count(kill.errors.values().sum()),
                count(kill.unknown),
                or_dash(kill.ready_ms.map(table::ms)),
            ]);
        }
        let spreads = [self.first_acknowledgement, self.silence, self.client_gap];
        type Of = fn(Spread) -> f64;
        let median: Of = |spread| spread.median_ms;
        let best: Of = |spread| spread.min_ms;
        let worst: Of = |spread| spread.max_ms;
        for (name, value) in [("median", median), ("best", best), ("worst", worst)] {
            let cells =
                spreads.iter().map(|spread| or_dash(spread.map(|spread| table::ms(value(spread)))));
            let front = [name.to_owned(), String::new(), String::new()];
            table.row(front.into_iter().chain(cells));
        }
        table.render()
    }

    fn phases_table(&self) -> String {
        let mut table = Table::new(["", "writes/s", "p50", "p99", "slowest"]);
        for phase in &self.phases {
            table.row([
                phase.name.to_owned(),
                whole(phase.per_s),
                or_dash(phase.p50_ms.map(table::ms)),
                or_dash(phase.p99_ms.map(table::ms)),
                or_dash(phase.max_ms.map(table::ms)),
            ]);
        }
        table.render()
    }
}
