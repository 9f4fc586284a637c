//! Batches: many puts and deletes on one connection, each a command of its own.
//!
//! [`Client::batch`] gives two halves: one takes lines, the other brings their results in the
//! same order. A task between them has the connection. Every line that was taken gets exactly
//! one result.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use synod_kv::Revision;
use synod_kv::http::{BatchResultBody, KeyText, ValueText};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::batch_task::BatchTask;
use crate::client::Client;
use crate::error::ClientError;
use crate::json_text::{key_text, value_text};

/// What lines without a result may take, in bytes, and the least that is counted for one:
/// several times what a node has under way.
const WINDOW_BYTES: usize = 2 << 20;
const LINE_BYTES_MIN: usize = WINDOW_BYTES / 512;
/// Results that wait to be taken. When there are more, no further ones are read.
const RESULTS_MAX: usize = 64;
/// The longest time that a node may be told.
const LINE_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// How a batch is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchOptions {
    /// How long a node may take for a line, from when it begins with it.
    pub line_timeout: Duration,
    /// What becomes of lines without a result when the connection breaks, or the node says
    /// that it can't carry them out for now.
    ///
    /// Without it the batch ends there: lines have no names, so the client can't send them
    /// again without the risk of a second effect. Each line that was sent is `Ambiguous`, each
    /// other `Unreachable`.
    ///
    /// With it they are sent again, in their order, to whichever node answers, until the batch
    /// does not get on for [`crate::ClientOptions::call_timeout`]. A line may have effect twice
    /// then, and the first time late: after lines behind it. That does no harm where each key
    /// is written once, and by nobody else meanwhile, as when a store is filled.
    pub resend: bool,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { line_timeout: Duration::from_secs(5), resend: false }
    }
}

/// What became of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchResult {
    /// The line; they are counted from 1.
    pub line: u64,
    /// What it did. `Refused` had no effect, `Ambiguous` may have it or get it later,
    /// `Unreachable` was not sent.
    pub outcome: Result<BatchOutcome, ClientError>,
}

/// What a line did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchOutcome {
    /// A put had effect.
    Put {
        /// The store's revision with this change.
        revision: Revision,
        /// The revision that created the key.
        create_revision: Revision,
        /// Changes since the creation, which is 1.
        version: u64,
    },
    /// A delete was carried out.
    Delete {
        /// The store's revision with this change, if there was one.
        revision: Revision,
        /// Whether the key was there.
        existed: bool,
    },
}

/// Takes the lines of a batch. When it is dropped, the batch ends with the last of them.
#[derive(Debug)]
pub struct BatchLines {
    lines: mpsc::UnboundedSender<BatchLine>,
    window: Arc<Semaphore>,
    taken: u64,
}

/// Brings the results of a batch. When it is dropped, the batch is broken off: lines that were
/// sent may still have effect.
#[derive(Debug)]
pub struct BatchResults {
    results: mpsc::Receiver<BatchResult>,
}

/// A line that has no result yet.
#[derive(Debug)]
pub(crate) struct BatchLine {
    /// As it is sent, with its end.
    pub(crate) text: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Client {
    /// Begins a batch; it asks a node with the first line. Must be called in a tokio runtime.
    ///
    /// Lines of one key have effect in their order, those of different keys in any order. About
    /// 2 MiB of lines are under way at a time, then [`BatchLines`] takes no further ones; and
    /// while nobody takes results, nothing goes on. So use both halves at once, from two tasks
    /// or with `tokio::join!`.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] for a `line_timeout` that is not between a millisecond and a
    /// minute.
    pub fn batch(&self, options: BatchOptions) -> Result<(BatchLines, BatchResults), ClientError> {
        if !(Duration::from_millis(1)..=LINE_TIMEOUT_MAX).contains(&options.line_timeout) {
            return Err(ClientError::invalid("line_timeout is from a millisecond to a minute"));
        }
        let (lines, input) = mpsc::unbounded_channel();
        let (output, results) = mpsc::channel(RESULTS_MAX);
        let window = Arc::new(Semaphore::new(WINDOW_BYTES));
        let task = BatchTask::new(self.clone(), options, input, output, Arc::clone(&window));
        tokio::spawn(task.run());
        Ok((BatchLines { lines, window, taken: 0 }, BatchResults { results }))
    }
}

#[derive(Serialize)]
struct LineBody<'a> {
    op: &'static str,
    #[serde(flatten)]
    key: KeyText,
    #[serde(flatten)]
    value: Option<&'a ValueText>,
}

impl BatchLines {
    /// Stores a value. Gives the number of the line, as soon as there is room for it.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] for an empty key; `Unreachable` when the batch has ended, which
    /// its results say more about. The line is not part of the batch then.
    pub async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<u64, ClientError> {
        self.send("put", key, Some(&value_text(value))).await
    }

    /// Removes a key. Gives the number of the line, as soon as there is room for it.
    ///
    /// # Errors
    /// As [`BatchLines::put`].
    pub async fn delete(&mut self, key: &[u8]) -> Result<u64, ClientError> {
        self.send("delete", key, None).await
    }

    /// A line that is written as JSON, as `POST /v1/batch` takes it.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] for what is no line, or an empty one; else as
    /// [`BatchLines::put`].
    pub async fn json(&mut self, line: &[u8]) -> Result<u64, ClientError> {
        if line.contains(&b'\n') || line.trim_ascii().is_empty() {
            return Err(ClientError::invalid("a line has a word and no end of a line in it"));
        }
        self.push([line, b"\n"].concat()).await
    }

    async fn send(
        &mut self,
        op: &'static str,
        key: &[u8],
        value: Option<&ValueText>,
    ) -> Result<u64, ClientError> {
        if key.is_empty() {
            return Err(ClientError::invalid("a key has at least one byte"));
        }
        let body = LineBody { op, key: key_text(key), value };
        let mut text = serde_json::to_vec(&body).expect("plain fields");
        text.push(b'\n');
        self.push(text).await
    }

    async fn push(&mut self, text: Vec<u8>) -> Result<u64, ClientError> {
        let ended = || ClientError::Unreachable {
            attempts: 0,
            last: "the batch has ended: its results say why".to_owned(),
        };
        // A line that is longer than the window has it for itself.
        let bytes = text.len().clamp(LINE_BYTES_MIN, WINDOW_BYTES);
        let bytes = u32::try_from(bytes).expect("the window is smaller");
        let room = Arc::clone(&self.window).acquire_many_owned(bytes).await;
        let room = room.map_err(|_closed| ended())?;
        let line = BatchLine { text: Bytes::from(text), _room: room };
        self.lines.send(line).map_err(|_closed| ended())?;
        self.taken += 1;
        Ok(self.taken)
    }
}

impl BatchResults {
    /// The next result, in the order of the lines; none when the batch has ended and every
    /// line has its result. Nothing is lost if the future is dropped before.
    pub async fn next(&mut self) -> Option<BatchResult> {
        self.results.recv().await
    }
}

impl BatchOutcome {
    /// What a node said of a line that it carried out; none of others.
    pub(crate) fn from_body(body: &BatchResultBody) -> Option<Self> {
        match *body {
            BatchResultBody::Put { revision, create_revision, version, .. } => Some(Self::Put {
                revision: Revision(revision),
                create_revision: Revision(create_revision),
                version,
            }),
            BatchResultBody::Delete { revision, deleted, .. } => {
                Some(Self::Delete { revision: Revision(revision), existed: deleted > 0 })
            }
            BatchResultBody::Problem { .. } => None,
        }
    }
}
