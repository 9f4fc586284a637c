//! `synod cluster`: starts the nodes, shows how they do, and stops them.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::local::{LocalCluster, STOP_DEADLINE};
use super::probe::Probes;
use super::process::{Ending, NodeProcess, from_here};
use super::view::{self, NodeRow, NodeState, Screen};
use crate::arguments::Cluster;
use crate::failure::Failure;
use crate::output::tell;

/// How often the nodes are asked and the table is drawn.
const REFRESH: Duration = Duration::from_millis(500);
/// How often the end of a process is looked for.
const REAP: Duration = Duration::from_millis(50);
/// What happened lately, below the table.
const EVENT_LINES_MAX: usize = 8;
/// A node that lived this long is started again at once.
const STEADY_LIFE: Duration = Duration::from_secs(5);
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
const TERMINAL_SIZE_DEFAULT: (usize, usize) = (100, 30);

/// Runs a local cluster until SIGINT, SIGTERM or SIGHUP.
pub(crate) fn run(arguments: &Cluster) -> Result<(), Failure> {
    let cluster = LocalCluster::open(&arguments.data_dir, &arguments.shape, arguments.fresh)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stops = StopSignals::new()?;
        let mut runner = Runner::new(cluster, arguments)?;
        runner.start()?;
        runner.watch(&mut stops).await?;
        runner.stop(&mut stops).await
    })
}

/// The signals that end the runner.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl StopSignals {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

struct Runner {
    cluster: LocalCluster,
    probes: Probes,
    restart: bool,
    /// When a dead node is to be started again.
    restarts: BTreeMap<u32, Instant>,
    /// The pause before a node's next restart, grown by short lives.
    pauses: BTreeMap<u32, Duration>,
    rows: Vec<NodeRow>,
    /// None where lines are printed.
    screen: Option<Screen>,
    events: Vec<String>,
    examples_shown: bool,
}

impl Runner {
    fn new(cluster: LocalCluster, arguments: &Cluster) -> Result<Self, Failure> {
        let urls: Vec<String> =
            cluster.nodes().iter().map(|node| node.place().client_url()).collect();
        let probes = Probes::new(&urls)?;
        let on_terminal = std::io::stdout().is_terminal() && !arguments.no_tty;
        Ok(Self {
            cluster,
            probes,
            restart: arguments.restart,
            restarts: BTreeMap::new(),
            pauses: BTreeMap::new(),
            rows: Vec::new(),
            screen: on_terminal.then(Screen::default),
            events: Vec::new(),
            examples_shown: false,
        })
    }

    fn start(&mut self) -> Result<(), Failure> {
        self.cluster.start_all()?;
        let count = self.cluster.nodes().len();
        let folder = self.cluster.data_dir().display();
        tell(&format!("synod cluster of {count} nodes in {folder}; Ctrl-C stops it\n"));
        self.rows = self.current_rows();
        Ok(())
    }

    async fn watch(&mut self, stops: &mut StopSignals) -> Result<(), Failure> {
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reap = interval(REAP);
        reap.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stops.recv() => return Ok(()),
                _ = reap.tick() => {
                    self.notice_ends()?;
                    self.restart_due();
                }
                _ = refresh.tick() => {
                    if let Some(failure) = self.cluster.describe_again() {
                        self.say(format!("{failure}; the nodes go on"));
                    }
                    self.probes.refresh().await;
                    self.show();
                }
            }
        }
    }

    fn notice_ends(&mut self) -> Result<(), Failure> {
        for (id, ending) in self.cluster.reap()? {
            self.notice_end(id, &ending);
        }
        Ok(())
    }

    fn notice_end(&mut self, id: u32, ending: &Ending) {
        let index = id as usize - 1;
        self.probes.forget(index);
        let node = &self.cluster.nodes()[index];
        let log = from_here(&node.place().log_path());
        let ended =
            format!("node {id} (pid {}) ended: {ending}; see {}", ending.pid, log.display());
        let next = if ending.was_removed() {
            format!("node {id} was removed from its cluster and is not started again")
        } else if self.restart {
            let pause = self.next_pause(id);
            self.restarts.insert(id, Instant::now() + pause);
            match pause.as_millis() {
                0 => format!("node {id} is started again"),
                millis => format!("node {id} is started again in {millis} ms"),
            }
        } else {
            format!("start node {id} again: {} &", node.command_line())
        };
        self.say(ended);
        self.say(next);
    }

    fn next_pause(&mut self, id: u32) -> Duration {
        let lived = self.cluster.nodes()[id as usize - 1].started().elapsed();
        if lived >= STEADY_LIFE {
            self.pauses.insert(id, Duration::ZERO);
            return Duration::ZERO;
        }
        self.longer_pause(id)
    }

    fn longer_pause(&mut self, id: u32) -> Duration {
        let pause = self.pauses.entry(id).or_default();
        *pause = (*pause * 2).clamp(RESTART_PAUSE_MIN, RESTART_PAUSE_MAX);
        *pause
    }

    /// A node that cannot be started now, because the program's file is just
    /// being replaced or the disk is full, is tried again; the others go on.
    fn restart_due(&mut self) {
        let now = Instant::now();
        let due: Vec<u32> =
            self.restarts.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.restarts.remove(&id);
            if let Err(failure) = self.cluster.start(id) {
                let pause = self.longer_pause(id);
                self.restarts.insert(id, Instant::now() + pause);
                let millis = pause.as_millis();
                self.say(format!("{failure}; node {id} is tried again in {millis} ms"));
            }
        }
    }

    fn current_rows(&self) -> Vec<NodeRow> {
        let row = |(index, node): (usize, &NodeProcess)| NodeRow {
            id: node.place().id,
            client_url: node.place().client_url(),
            pid: node.pid(),
            state: match self.probes.health(index) {
                Some(health) => NodeState::Answers(health.clone()),
                None if node.pid().is_some() => NodeState::Silent,
                None => NodeState::Down,
            },
        };
        self.cluster.nodes().iter().enumerate().map(row).collect()
    }

    fn show(&mut self) {
        let rows = self.current_rows();
        for line in view::changes(&self.rows, &rows) {
            self.say(line);
        }
        self.rows = rows;
        if self.screen.is_some() {
            return self.draw();
        }
        let complete = self.rows.iter().all(|row| matches!(row.state, NodeState::Answers(_)));
        if !self.examples_shown && complete && view::leader(&self.rows).is_some() {
            self.examples_shown = true;
            tell(&format!("\n{}\n", view::examples(&self.rows).join("\n")));
        }
    }

    fn draw(&mut self) {
        let (columns, rows) = terminal_size();
        let mut lines = view::table(&self.rows);
        lines.push(String::new());
        lines.push(format!("  {}", view::summary(&self.rows)));
        lines.push(String::new());
        lines.extend(view::examples(&self.rows));
        lines.push(String::new());
        // What scrolls out at the top could not be drawn over.
        lines.truncate(rows.saturating_sub(1));
        let room = rows.saturating_sub(lines.len() + 1);
        let events: Vec<String> = self.events.iter().map(|event| format!("  {event}")).collect();
        if let Some(screen) = &mut self.screen {
            screen.draw(&lines, view::newest_within(&events, columns, room), columns);
        }
    }

    fn say(&mut self, line: String) {
        if self.screen.is_none() {
            return tell(&line);
        }
        self.events.push(line);
        if self.events.len() > EVENT_LINES_MAX {
            self.events.remove(0);
        }
    }

    async fn stop(&mut self, stops: &mut StopSignals) -> Result<(), Failure> {
        tell("stopping the nodes");
        let rows = self.current_rows().into_iter();
        let serves = |row: &NodeRow| matches!(row.state, NodeState::Answers(_));
        let by_hand: Vec<u32> =
            rows.filter(|row| row.pid.is_none() && serves(row)).map(|row| row.id).collect();
        self.cluster.ask_to_stop()?;
        let deadline = Instant::now() + STOP_DEADLINE;
        let mut reap = interval(REAP);
        while self.cluster.any_runs() && Instant::now() < deadline {
            tokio::select! {
                biased;
                // Somebody is in a hurry.
                () = stops.recv() => break,
                _ = reap.tick() => { self.cluster.reap()?; }
            }
        }
        for id in self.cluster.kill_all()? {
            tell(&format!("node {id} did not stop in time and was killed"));
        }
        for id in by_hand {
            tell(&format!("node {id} was started by hand and runs on"));
        }
        Ok(())
    }
}

/// Columns and rows.
fn terminal_size() -> (usize, usize) {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)))
        .ok()
        .filter(|(columns, rows)| *columns > 0 && *rows > 0)
        .unwrap_or(TERMINAL_SIZE_DEFAULT)
}
