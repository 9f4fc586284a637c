//! What the node prints, without ever waiting for whoever reads it.
//!
//! A log line that blocks on a full pipe must not hold up consensus. So lines go
//! through a bounded queue to a thread of their own, and when that is full they are
//! dropped and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for a slow reader.
const LINES_MAX: usize = 4_096;
/// A longer line is cut.
const LINE_BYTES_MAX: usize = 16 << 10;
/// How long the end of a process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(300);

/// Why nothing can be printed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter can't be understood.
    #[error("log.level: {0:?} is no level and no filter: {1}")]
    Level(String, String),
    /// There is a subscriber already, or no thread.
    #[error("cannot set up logging: {0}")]
    Setup(String),
}

/// Prints what is left when it is dropped, if that does not take long.
#[derive(Debug)]
pub struct Guard {
    lines: SyncSender<Line>,
}

#[derive(Debug)]
enum Line {
    Text(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Sends everything that is traced to standard error, through a queue that never
/// blocks. `level` is a level or a filter; with `json` each line is an object.
///
/// # Errors
/// When the level can't be understood, or something else traces already.
pub fn install(level: &str, json: bool) -> Result<Guard, LoggingError> {
    let filter = EnvFilter::try_new(level)
        .map_err(|error| LoggingError::Level(level.to_owned(), error.to_string()))?;
    let (lines, queue) = mpsc::sync_channel(LINES_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let writer = Writer { lines: lines.clone(), dropped: dropped.clone() };
    thread::Builder::new()
        .name("synod-log".to_owned())
        .spawn(move || print(&queue, &dropped, &mut io::stderr()))
        .map_err(|error| LoggingError::Setup(error.to_string()))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
    let installed = if json { builder.json().try_init() } else { builder.try_init() };
    installed.map_err(|error| LoggingError::Setup(error.to_string()))?;
    Ok(Guard { lines })
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (done, wait) = mpsc::sync_channel(1);
        if self.lines.try_send(Line::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// The thread that may block.
fn print(queue: &Receiver<Line>, dropped: &AtomicU64, out: &mut impl Write) {
    loop {
        // Nobody can be told that standard error is gone.
        match queue.recv_timeout(Duration::from_secs(1)) {
            Ok(Line::Text(text)) => drop(out.write_all(&text)),
            Ok(Line::Flush(done)) => {
                let _ = out.flush();
                let _ = done.send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let lost = dropped.swap(0, Relaxed);
        if lost > 0 {
            let _ = writeln!(out, "{lost} log lines were dropped: nobody read them in time");
        }
    }
}

/// Takes one line, and never waits.
#[derive(Clone, Debug)]
struct Writer {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl Write for Writer {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut kept = text[..text.len().min(LINE_BYTES_MAX)].to_vec();
        if kept.len() < text.len() {
            kept.push(b'\n');
        }
        if self.lines.try_send(Line::Text(kept)).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Writer;

    fn make_writer(&'a self) -> Writer {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_cut_is_still_a_line() {
        let (lines, queue) = mpsc::sync_channel(4);
        let mut writer = Writer { lines, dropped: Arc::default() };
        writer.write_all(&[b'x'; 2 * LINE_BYTES_MAX]).expect("taken");
        writer.write_all(b"next\n").expect("taken");
        drop(writer);
        let mut out = Vec::new();
        print(&queue, &AtomicU64::new(0), &mut out);
        let lengths: Vec<usize> = out.split(|byte| *byte == b'\n').map(<[u8]>::len).collect();
        assert_eq!(lengths, [LINE_BYTES_MAX, 4, 0]);
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_never_time() {
        let (lines, queue) = mpsc::sync_channel(4);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut writer = Writer { lines, dropped: dropped.clone() };
        for line in 0..10 {
            let line = format!("line {line}\n");
            writer.write_all(line.as_bytes()).expect("never fails, never waits");
        }
        assert_eq!(dropped.load(Relaxed), 6);
        drop(writer);
        let mut out = Vec::new();
        print(&queue, &dropped, &mut out);
        let text = String::from_utf8(out).expect("text");
        assert!(text.starts_with("line 0\n6 log lines were dropped"), "{text}");
        assert!(text.ends_with("line 3\n"), "{text}");
    }
}
