//! Processes that carry plans out, one plan after the other, for `synod sim`. In a
//! release build a panic ends the process; here that is the end of one worker, the
//! plan it had counts as failed with what the panic said, and the rest goes on. A worker that
//! ends in any other way has checked nothing, which is the machinery's failure.

use std::io::{self, BufRead, BufReader, Write};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use synod_sim::{Plan, Report, panic_text, running_seed};

use crate::failure::Failure;
use crate::output::print_bytes;

/// What a worker says of a plan, in one line.
#[derive(Serialize, Deserialize)]
enum Reply {
    /// It was carried out.
    Ran(Box<Report>),
    /// A panic ends this worker.
    Dies(String),
}

/// Is a worker: a plan in each line of standard input, a reply in each of standard
/// output.
pub(crate) fn work() -> Result<(), Failure> {
    std::panic::set_hook(Box::new(|panic| {
        // Where panics unwind, the report tells of them.
        if running_seed().is_none() {
            eprintln!("{panic}");
        } else if cfg!(panic = "abort") {
            drop(reply(&Reply::Dies(panic_text(panic.payload()))));
        }
    }));
    for line in io::stdin().lock().lines() {
        let plan: Plan = serde_json::from_str(&line?).context("this is no plan")?;
        reply(&Reply::Ran(Box::new(synod_sim::run(&plan))))?;
    }
    Ok(())
}

fn reply(reply: &Reply) -> Result<(), Failure> {
    let line = serde_json::to_string(reply).context("cannot encode a report")?;
    print_bytes(format!("{line}\n").as_bytes())
}

/// How many plans are carried out at a time: one per core unless told otherwise.
pub(crate) fn threads(wanted: Option<u16>) -> usize {
    let cores = || thread::available_parallelism().map_or(1, NonZero::get);
    wanted.map_or_else(cores, usize::from)
}

/// Worker processes: as many as there are plans at a time.
#[derive(Debug)]
pub(crate) struct Workers {
    program: PathBuf,
    arguments: Vec<String>,
    idle: Mutex<Vec<Worker>>,
}

impl Workers {
    /// Workers that are this program.
    pub(crate) fn start() -> Result<Self, Failure> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let arguments = vec!["sim".to_owned(), "worker".to_owned()];
        let workers = Workers { program, arguments, idle: Mutex::default() };
        let first = workers.spawn().context("cannot start a worker")?;
        workers.keep(first);
        Ok(workers)
    }

    /// Lets a worker carry a plan out.
    pub(crate) fn run(&self, plan: &Plan) -> Report {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let worker = idle.map_or_else(|| self.spawn(), Ok);
        let asked = worker.and_then(|mut worker| Ok((worker.ask(plan)?, worker)));
        match asked {
            Ok((Some(Reply::Ran(report)), worker)) => {
                self.keep(worker);
                *report
            }
            Ok((Some(Reply::Dies(text)), _)) => Report::of_death(plan.seed, text),
            // Only a panic is a word of the nodes. Whatever else ends a worker is nobody's finding.
            Ok((None, worker)) => Report::of_no_run(plan.seed, worker.last_words()),
            Err(error) => Report::of_no_run(plan.seed, format!("no worker could run it: {error}")),
        }
    }

    fn keep(&self, worker: Worker) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
    }

    fn spawn(&self) -> io::Result<Worker> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let (plans, replies) = (process.stdin.take(), process.stdout.take().map(BufReader::new));
        Ok(Worker { process, plans, replies })
    }
}

/// One of them. When its input ends, so does it.
#[derive(Debug)]
struct Worker {
    process: Child,
    plans: Option<ChildStdin>,
    replies: Option<BufReader<ChildStdout>>,
}

impl Worker {
    /// None when it died without a word.
    fn ask(&mut self, plan: &Plan) -> io::Result<Option<Reply>> {
        let (Some(plans), Some(replies)) = (&mut self.plans, &mut self.replies) else {
            return Ok(None);
        };
        let mut line = serde_json::to_string(plan)?;
        line.push('\n');
        // One that is dead already ends its replies, too.
        drop(plans.write_all(line.as_bytes()).and_then(|()| plans.flush()));
        let mut reply = String::new();
        replies.read_line(&mut reply)?;
        if reply.ends_with('\n') { Ok(Some(serde_json::from_str(&reply)?)) } else { Ok(None) }
    }

    fn last_words(mut self) -> String {
        self.plans = None;
        match self.process.wait() {
            Ok(status) => format!("the process that ran it ended: {status}"),
            Err(error) => format!("the process that ran it is gone: {error}"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.plans = None;
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use synod_sim::Checker;

    use super::*;

    fn workers(script: &str) -> Workers {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        Workers { program: "sh".into(), arguments, idle: Mutex::default() }
    }

    fn text_of(report: &Report, checker: Checker) -> String {
        let violation = report.violation.as_ref().expect("it failed");
        assert_eq!(violation.checker, checker);
        violation.text.clone()
    }

    #[test]
    fn a_worker_that_dies_fails_its_plan_and_the_next_plan_gets_another() {
        let workers = workers(r#"read plan; echo '{"Dies":"left is not right"}'; kill -9 $$"#);
        for seed in [4, 5] {
            let report = workers.run(&Plan::drawn(seed));
            assert_eq!(report.seed, seed);
            assert_eq!(text_of(&report, Checker::Assertion), "left is not right");
        }
    }

    #[test]
    fn a_worker_that_dies_without_a_word_is_told_of() {
        let report = workers("read plan; exit 3").run(&Plan::drawn(4));
        let text = text_of(&report, Checker::Machinery);
        assert_eq!(text, "the process that ran it ended: exit status: 3");
        let report = workers("read plan; printf '{\"Ran\"'; kill -9 $$").run(&Plan::drawn(4));
        assert!(text_of(&report, Checker::Machinery).contains("signal: 9"), "{report:?}");
    }

    #[test]
    fn a_mistake_is_not_found_by_a_worker_that_dies() {
        let workers = workers("read plan; exit 3");
        let run = |plan: &Plan| match plan.bug {
            Some(_) => workers.run(plan),
            None => Report { violation: None, ..Report::of_no_run(plan.seed, String::new()) },
        };
        let search = synod_sim::planted::search(synod_sim::planted::Bug::CANARY, 4, 20, &run);
        assert_eq!((search.found, search.seeds), (None, 1));
        let (seed, text) = search.broken.expect("it is told of");
        assert_eq!((seed, &*text), (4, "the process that ran it ended: exit status: 3"));
    }

    #[test]
    fn a_plan_and_its_report_survive_the_way() {
        let plan = Plan { bug: Some(synod_sim::planted::Bug::CANARY), ..Plan::drawn(4) };
        let way = serde_json::to_string(&plan).expect("a plan is encoded");
        assert_eq!(serde_json::from_str::<Plan>(&way).expect("and decoded"), plan);
        let report = synod_sim::run(&plan);
        let line = serde_json::to_string(&Reply::Ran(Box::new(report.clone()))).expect("encoded");
        let script = format!("while read plan; do cat <<'END'\n{line}\nEND\ndone");
        let workers = workers(&script);
        for _ in 0..2 {
            assert_eq!(workers.run(&plan), report);
        }
        assert_eq!(workers.idle.lock().expect("nobody panicked").len(), 1, "it is used again");
    }
}
