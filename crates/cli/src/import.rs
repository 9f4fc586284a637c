//! `synod import`: stores the keys and values of an export.

use std::io;
use std::time::Duration;

use serde_json::json;
use synod_client::{BatchLines, BatchOptions, BatchResults, ClientError};
use tokio::sync::mpsc;

use crate::arguments::Import;
use crate::export_format::ExportReader;
use crate::failure::Failure;
use crate::input::{Line, Lines, is_standard, name, read_ahead};
use crate::output::{print, print_json};
use crate::progress::Progress;
use crate::talk::with_patient_client;

/// Storing a key and its value twice does no harm, so lines are sent again where the outcome
/// is not known, and the whole may be done again after a failure.
pub(crate) fn run(arguments: &Import) -> Result<(), Failure> {
    // A file is looked through first: then nothing is stored of one that is not whole.
    if arguments.check || !is_standard(&arguments.file) {
        let (keys, revision) = check(arguments)?;
        if arguments.check {
            let file = name(&arguments.file);
            let whole = format!("{file} is whole: {keys} keys as of revision {revision}");
            return match arguments.reach.json {
                true => print_json(&json!({"keys": keys, "revision": revision})),
                false => print(&whole),
            };
        }
    }
    let input = read_ahead(Lines::open(&arguments.file)?);
    let line_timeout = Duration::from_millis(arguments.reach.timeout_ms);
    let options = BatchOptions { resend: true, line_timeout };
    let (read, taken) = with_patient_client(&arguments.reach, |client| async move {
        let (lines, results) = client.batch(options)?;
        Ok(tokio::join!(send(input, lines), take(results)))
    })?;
    let stored = taken.stored;
    if let Some((number, error)) = taken.failed {
        // The line behind the first, which is no key.
        let line = number + 1;
        return Err(again(arguments, &format!("line {line}: {error}"), stored));
    }
    if let Err(reason) = read {
        return Err(again(arguments, &reason, stored));
    }
    match arguments.reach.json {
        true => print_json(&json!({"keys": stored})),
        false => print(&format!("{stored} keys stored")),
    }
}

/// It did not come to its end.
fn again(arguments: &Import, reason: &str, stored: u64) -> Failure {
    let file = name(&arguments.file);
    Failure::failed(format!(
        "{file}: {reason}.\n{stored} keys are stored for certain, and some behind them may be. \
         To import it again does no harm"
    ))
}

/// Whether the file is whole, and what it holds.
fn check(arguments: &Import) -> Result<(u64, u64), Failure> {
    let file = name(&arguments.file);
    let mut lines = Lines::open(&arguments.file)?;
    let mut reader = ExportReader::default();
    let mut progress = Progress::of_keys("checked");
    let spoilt = |reason: String| {
        Failure::failed(format!("{file}: {reason}.\nNothing was stored: make a new export"))
    };
    let read = |error: io::Error| Failure::failed(format!("cannot read {file}: {error}"));
    while let Some(Line { number, text }) = lines.next().map_err(read)? {
        reader.take(&text).map_err(|reason| spoilt(format!("line {number}: {reason}")))?;
        progress.set(reader.keys);
    }
    progress.end();
    let head = reader.end().map_err(spoilt)?;
    Ok((reader.keys, head.revision))
}

/// Hands keys over until the input or the batch ends.
async fn send(
    mut input: mpsc::Receiver<io::Result<Vec<Line>>>,
    mut lines: BatchLines,
) -> Result<(), String> {
    let mut reader = ExportReader::default();
    while let Some(piece) = input.recv().await {
        let piece = piece.map_err(|error| format!("it can't be read any further: {error}"))?;
        for Line { number, text } in piece {
            let taken = reader.take(&text).map_err(|reason| format!("line {number}: {reason}"))?;
            let Some(entry) = taken else {
                continue;
            };
            if lines.put(&entry.key, &entry.value).await.is_err() {
                // The batch has ended, and its results say why.
                return Ok(());
            }
        }
    }
    reader.end().map(|_| ())
}

/// How far it came.
struct Taken {
    /// Keys without a gap between them.
    stored: u64,
    /// The number of the first key that was not stored, and why.
    failed: Option<(u64, ClientError)>,
}

async fn take(mut results: BatchResults) -> Taken {
    let mut progress = Progress::of_keys("stored");
    let mut stored = 0;
    while let Some(result) = results.next().await {
        if let Err(error) = result.outcome {
            return Taken { stored, failed: Some((result.line, error)) };
        }
        stored += 1;
        progress.set(stored);
    }
    progress.end();
    Taken { stored, failed: None }
}
