//! What the runner shows: a table that is drawn again in place on a terminal,
//! a line per change elsewhere.

use std::fmt::Write as _;
use std::io::{self, Write};

use crate::output::columns;

/// What is known of one node at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NodeRow {
    pub(crate) id: u32,
    pub(crate) client_url: String,
    pub(crate) pid: Option<u32>,
    pub(crate) state: NodeState,
}

/// Whether a node serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NodeState {
    /// It answers.
    Answers(Health),
    /// The process runs and does not answer (yet).
    Silent,
    /// There is no process.
    Down,
}

/// What a node says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Health {
    /// leader, follower or candidate.
    pub(crate) role: String,
    pub(crate) chosen_upto: u64,
    pub(crate) applied_upto: u64,
    /// How many more nodes the cluster can lose now and still serve.
    pub(crate) failures_survived: Option<u32>,
}

impl NodeRow {
    pub(crate) fn leads(&self) -> bool {
        matches!(&self.state, NodeState::Answers(health) if health.role == "leader")
    }

    fn cells(&self) -> [String; 7] {
        let (role, chosen, applied, state) = match &self.state {
            NodeState::Answers(health) => (
                health.role.clone(),
                health.chosen_upto.to_string(),
                health.applied_upto.to_string(),
                "serves",
            ),
            NodeState::Silent => ("-".into(), "-".into(), "-".into(), "does not answer"),
            NodeState::Down => ("-".into(), "-".into(), "-".into(), "down"),
        };
        let pid = self.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        [self.id.to_string(), role, self.client_url.clone(), pid, chosen, applied, state.to_owned()]
    }
}

const HEADINGS: [&str; 7] = ["NODE", "ROLE", "URL", "PID", "CHOSEN", "APPLIED", "STATE"];

/// The node that leads now, if one says so.
pub(crate) fn leader(rows: &[NodeRow]) -> Option<&NodeRow> {
    rows.iter().find(|row| row.leads())
}

/// The nodes as aligned lines.
pub(crate) fn table(rows: &[NodeRow]) -> Vec<String> {
    let headings = HEADINGS.map(str::to_owned).to_vec();
    let cells: Vec<Vec<String>> =
        std::iter::once(headings).chain(rows.iter().map(|row| row.cells().to_vec())).collect();
    columns(&cells).lines().map(|line| format!("  {line}")).collect()
}

/// One line on how the cluster as a whole does.
pub(crate) fn summary(rows: &[NodeRow]) -> String {
    let Some(leader) = leader(rows) else {
        return "no node leads now".to_owned();
    };
    let survives = match &leader.state {
        NodeState::Answers(Health { failures_survived: Some(count), .. }) => match count {
            0 => "; no more node may fail".to_owned(),
            1 => "; survives one more failure".to_owned(),
            more => format!("; survives {more} more failures"),
        },
        _ => String::new(),
    };
    format!("node {} leads{survives}", leader.id)
}

/// Lines to try, against nodes that need not be the leader.
pub(crate) fn examples(rows: &[NodeRow]) -> Vec<String> {
    let url = |index: usize| rows[index % rows.len()].client_url.as_str();
    let mut lines = vec![
        format!("  curl -i -X PUT --data-binary hello {}/v1/kv/greeting", url(0)),
        format!("  curl -i {}/v1/kv/greeting", url(1)),
        format!("  curl '{}/v1/kv?prefix=gree'", url(2)),
    ];
    if let Some(pid) = leader(rows).and_then(|row| row.pid) {
        lines.push(format!("  kill -9 {pid}   # the leader"));
    }
    lines
}

/// The lines by which `now` differs from `before`.
pub(crate) fn changes(before: &[NodeRow], now: &[NodeRow]) -> Vec<String> {
    let mut lines = Vec::new();
    for row in now {
        let old = before.iter().find(|old| old.id == row.id);
        let served =
            old.is_some_and(|old| matches!(old.state, NodeState::Answers(_)) && old.pid == row.pid);
        match (&row.state, served) {
            (NodeState::Answers(_), false) => {
                lines.push(format!("node {} serves {}", row.id, row.client_url));
            }
            (NodeState::Silent, true) => lines.push(format!("node {} does not answer", row.id)),
            _ => {}
        }
    }
    let leader_now = leader(now).map(|row| row.id);
    if leader_now.is_some() && leader_now != leader(before).map(|row| row.id) {
        lines.push(summary(now));
    }
    lines
}

/// The last of these lines that a terminal of so many columns shows whole in
/// so many rows.
pub(crate) fn newest_within(lines: &[String], columns: usize, rows: usize) -> &[String] {
    let mut taken = 0;
    let fits = lines.iter().rev().take_while(|line| {
        taken += rows_of(line, columns);
        taken <= rows
    });
    &lines[lines.len() - fits.count()..]
}

/// How many rows a terminal uses for a line.
fn rows_of(line: &str, columns: usize) -> usize {
    line.chars().count().div_ceil(columns.max(1)).max(1)
}

/// Draws blocks of lines over each other on a terminal.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    rows_drawn: usize,
}

impl Screen {
    /// Puts lines where the last block stood; so many columns are there. The
    /// table's lines are cut at the edge. Events are wrapped, for they hold
    /// commands to copy. Whether anybody looks does not matter.
    pub(crate) fn draw(&mut self, table: &[String], events: &[String], columns: usize) {
        let text = self.block(table, events, columns);
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    fn block(&mut self, table: &[String], events: &[String], columns: usize) -> String {
        let mut text = String::new();
        if self.rows_drawn > 0 {
            // Up to the first row of the last block, then clear all below.
            let _ = write!(text, "\x1b[{}F\x1b[J", self.rows_drawn);
        }
        for line in table {
            text.extend(line.chars().take(columns.saturating_sub(1)));
            text.push('\n');
        }
        for line in events {
            text.push_str(line);
            text.push('\n');
        }
        let wrapped: usize = events.iter().map(|line| rows_of(line, columns)).sum();
        self.rows_drawn = table.len() + wrapped;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u32, role: &str) -> NodeRow {
        NodeRow {
            id,
            client_url: format!("http://127.0.0.1:700{id}"),
            pid: Some(100 + id),
            state: NodeState::Answers(Health {
                role: role.to_owned(),
                chosen_upto: 12,
                applied_upto: 11,
                failures_survived: Some(1),
            }),
        }
    }

    fn silent(id: u32) -> NodeRow {
        NodeRow { state: NodeState::Silent, ..row(id, "") }
    }

    #[test]
    fn columns_are_aligned() {
        let down = NodeRow { pid: None, state: NodeState::Down, ..row(2, "") };
        assert_eq!(
            table(&[row(1, "leader"), down]),
            [
                "  NODE  ROLE    URL                    PID  CHOSEN  APPLIED  STATE",
                "  1     leader  http://127.0.0.1:7001  101  12      11       serves",
                "  2     -       http://127.0.0.1:7002  -    -       -        down",
            ]
        );
    }

    #[test]
    fn changes_name_nodes_that_begin_or_cease_to_serve_and_the_leader() {
        let begin = [silent(1), silent(2)];
        let one = [row(1, "follower"), silent(2)];
        let led = [row(1, "follower"), row(2, "leader")];
        assert_eq!(changes(&begin, &one), ["node 1 serves http://127.0.0.1:7001"]);
        assert_eq!(
            changes(&one, &led),
            ["node 2 serves http://127.0.0.1:7002", "node 2 leads; survives one more failure"]
        );
        assert_eq!(changes(&led, &led), Vec::<String>::new());
        assert_eq!(changes(&led, &one), ["node 2 does not answer"]);
    }

    #[test]
    fn events_are_shown_whole_and_drawn_over_whole() {
        let events = ["old", "1234567890", "12345678901"].map(str::to_owned);
        assert_eq!(newest_within(&events, 10, 3), &events[1..]);
        assert_eq!(newest_within(&events, 10, 1), &events[3..]);
        assert_eq!(newest_within(&events, 80, 9), &events);

        let mut screen = Screen::default();
        let table = ["a table too wide".to_owned()];
        let first = screen.block(&table, &events[1..], 10);
        assert_eq!(first, "a table t\n1234567890\n12345678901\n");
        assert!(screen.block(&table, &[], 10).starts_with("\x1b[4F\x1b[J"));
    }

    #[test]
    fn the_examples_name_the_leader_to_kill() {
        let lines = examples(&[row(1, "follower"), row(2, "leader"), row(3, "follower")]);
        assert!(lines.last().expect("lines").contains("kill -9 102"));
    }
}
