//! The log of a node, on standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use synod_node::LogSettings;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::failure::Failure;

/// Lines that wait for whoever reads standard error.
const LINES_QUEUED_MAX: usize = 1_024;
const FILTER_VARIABLE: &str = "SYNOD_LOG";

/// Writes log lines from a thread of its own. A reader that does not read (a
/// blocked pipe, a stopped terminal) costs lines, never the node's progress.
/// What is queued is written when this is dropped.
#[derive(Debug)]
pub(crate) struct Log {
    lines: SyncSender<Line>,
    writer: Option<JoinHandle<()>>,
}

enum Line {
    Text(Vec<u8>),
    End,
}

impl Log {
    /// Sends all of this process's log lines to standard error from now on. The
    /// settings say which, or SYNOD_LOG if that is set.
    pub(crate) fn start(settings: &LogSettings) -> Result<Self, Failure> {
        let (name, text) = match std::env::var(FILTER_VARIABLE) {
            Ok(text) => (FILTER_VARIABLE, text),
            Err(_) => ("log.level", settings.level.clone()),
        };
        let filter = EnvFilter::try_new(&text).map_err(|error| {
            Failure::usage(format!("{name}: {text:?} is not a log filter: {error}"))
        })?;
        let (log, lines) = Self::spawn(io::stderr)?;
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(io::stderr().is_terminal())
            .with_writer(Lines { lines });
        let started =
            if settings.json { subscriber.json().try_init() } else { subscriber.try_init() };
        started.map_err(|error| Failure::failed(format!("cannot start the log: {error}")))?;
        Ok(log)
    }

    fn spawn<W: Write>(
        open: impl FnOnce() -> W + Send + 'static,
    ) -> Result<(Self, SyncSender<Line>), Failure> {
        let (lines, queue) = sync_channel(LINES_QUEUED_MAX);
        let writer = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(&queue, open()))?;
        Ok((Self { lines: lines.clone(), writer: Some(writer) }, lines))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // When the queue is full its reader is stuck, and waiting for it would
        // keep a stopped node alive.
        if self.lines.try_send(Line::End).is_ok()
            && let Some(writer) = self.writer.take()
        {
            // A panic of the writer was printed already.
            let _ = writer.join();
        }
    }
}

fn write_lines(queue: &Receiver<Line>, mut out: impl Write) {
    while let Ok(Line::Text(text)) = queue.recv() {
        // There is no place to report that the log cannot be written.
        let _ = out.write_all(&text);
    }
}

/// Gives the formatter one writer per line.
struct Lines {
    lines: SyncSender<Line>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = OneLine;

    fn make_writer(&'a self) -> OneLine {
        OneLine { lines: self.lines.clone() }
    }
}

/// The formatter writes a whole line at once.
struct OneLine {
    lines: SyncSender<Line>,
}

impl Write for OneLine {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match self.lines.try_send(Line::Text(text.to_vec())) {
            // A line too many is dropped, see above.
            Ok(()) | Err(TrySendError::Full(_)) => Ok(text.len()),
            Err(TrySendError::Disconnected(_)) => Err(io::Error::other("the log has ended")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Blocks in each write until the test takes what was written.
    struct Slow(Sender<Vec<u8>>, Receiver<()>);

    impl Write for Slow {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(text.to_vec());
            let _ = self.1.recv();
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_no_time() {
        let (written, texts) = channel();
        let (release, releases) = channel();
        let (log, lines) = Log::spawn(move || Slow(written, releases)).expect("a thread");
        let mut line = OneLine { lines };
        // Were a full queue waited for, this would never end.
        for number in 0..LINES_QUEUED_MAX * 2 {
            line.write_all(format!("{number}\n").as_bytes()).expect("taken or dropped");
        }
        drop(release);
        assert_eq!(texts.recv().expect("the first line"), b"0\n");
        drop(log);
    }

    #[test]
    fn what_was_logged_is_written_before_the_end() {
        let (written, texts) = channel();
        let (release, releases) = channel();
        drop(release);
        let (log, lines) = Log::spawn(move || Slow(written, releases)).expect("a thread");
        OneLine { lines }.write_all(b"last words\n").expect("taken");
        drop(log);
        assert_eq!(texts.try_recv().expect("written"), b"last words\n");
    }
}
