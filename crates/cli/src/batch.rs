//! `synod batch`: many puts and deletes from a file.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use synod_client::{
    BatchLines, BatchOptions, BatchOutcome, BatchResult, BatchResults, ClientError,
};
use tokio::sync::mpsc;

use crate::arguments::Batch;
use crate::failure::Failure;
use crate::input::{Line, Lines, name, read_ahead};
use crate::output::{print, warn};
use crate::talk::with_patient_client;

/// How many lines ended how.
#[derive(Default)]
struct Tally {
    done: u64,
    refused: u64,
    /// Their outcome is unknown, or they were not sent.
    open: u64,
}

pub(crate) fn run(arguments: &Batch) -> Result<(), Failure> {
    let input = read_ahead(Lines::open(&arguments.file)?);
    let options = BatchOptions {
        resend: arguments.resend,
        line_timeout: Duration::from_millis(arguments.reach.timeout_ms),
    };
    let (read, told) = with_patient_client(&arguments.reach, |client| async move {
        let (lines, results) = client.batch(options)?;
        let numbers = Arc::new(Mutex::new(VecDeque::new()));
        let sending = send(input, lines, Arc::clone(&numbers));
        Ok(tokio::join!(sending, tell(arguments, results, &numbers)))
    })?;
    let tally = told?;
    let (failed, all) = (tally.refused + tally.open, tally.done + tally.refused + tally.open);
    warn(&format!("{} of {all} lines were carried out", tally.done));
    if let Err(error) = read {
        let name = name(&arguments.file);
        return Err(Failure::failed(format!("cannot read {name} any further: {error}")));
    }
    match failed {
        0 => Ok(()),
        _ if tally.open > 0 => Err(Failure::failed(format!(
            "of {} lines it is not known, or they were not sent: see what was said of each",
            tally.open
        ))),
        _ => Err(Failure::refused(format!("{} lines were refused", tally.refused))),
    }
}

/// Hands lines over until the input or the batch ends; `numbers` are those of the lines in the
/// file that have no result yet.
async fn send(
    mut input: mpsc::Receiver<io::Result<Vec<Line>>>,
    mut lines: BatchLines,
    numbers: Arc<Mutex<VecDeque<u64>>>,
) -> io::Result<()> {
    while let Some(piece) = input.recv().await {
        for Line { number, text } in piece? {
            if text.trim_ascii().is_empty() {
                continue;
            }
            numbers.lock().expect("no holder panics").push_back(number);
            if lines.json(&text).await.is_err() {
                // It has ended, and the results say why.
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn tell(
    arguments: &Batch,
    mut results: BatchResults,
    numbers: &Mutex<VecDeque<u64>>,
) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    while let Some(BatchResult { outcome, .. }) = results.next().await {
        let line = numbers.lock().expect("no holder panics").pop_front().unwrap_or_default();
        match &outcome {
            Ok(_) => tally.done += 1,
            Err(ClientError::Refused(_)) => tally.refused += 1,
            Err(_) => tally.open += 1,
        }
        if outcome.is_ok() && arguments.quiet {
            continue;
        }
        let text = match arguments.reach.json {
            true => as_json(line, &outcome).to_string(),
            false => format!("line {line}: {}", as_text(&outcome)),
        };
        print(&text)?;
    }
    Ok(tally)
}

fn as_text(outcome: &Result<BatchOutcome, ClientError>) -> String {
    match outcome {
        Ok(BatchOutcome::Put { revision, version: 1, .. }) => format!("created at {revision}"),
        Ok(BatchOutcome::Put { revision, .. }) => format!("replaced at {revision}"),
        Ok(BatchOutcome::Delete { revision, existed: true }) => format!("deleted at {revision}"),
        Ok(BatchOutcome::Delete { .. }) => "no such key".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn as_json(line: u64, outcome: &Result<BatchOutcome, ClientError>) -> Value {
    match outcome {
        Ok(BatchOutcome::Put { revision, create_revision, version }) => json!({
            "line": line,
            "revision": revision.0,
            "create_revision": create_revision.0,
            "version": version,
        }),
        Ok(BatchOutcome::Delete { revision, existed }) => {
            json!({"line": line, "revision": revision.0, "deleted": u64::from(*existed)})
        }
        Err(ClientError::Refused(problem)) => {
            json!({"line": line, "outcome": "not_applied", "problem": problem})
        }
        Err(error) => {
            let is_unknown = error.outcome_unknown();
            let outcome = if is_unknown { "unknown" } else { "not_applied" };
            json!({"line": line, "outcome": outcome, "error": error.to_string()})
        }
    }
}
