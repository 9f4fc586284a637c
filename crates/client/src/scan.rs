//! All keys of a range, one after the other.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http::header::{ACCEPT, HeaderValue};
use http_body_util::Empty;
use synod_kv::Revision;
use synod_kv::http::ListEntry;
use tokio::time::sleep;

use crate::answer::Entry;
use crate::attempt::timeout_header;
use crate::client::Client;
use crate::error::ClientError;
use crate::long_call::{Effort, LongAnswer};
use crate::options::ListOptions;
use crate::retry::Setback;
use crate::underway::Underway;

/// A walk through all keys of a range as they were at one revision.
///
/// It takes as much memory as a few values, however many keys there are, and a node makes no
/// more of it than is taken. When its connection breaks it goes on behind the last key, at the
/// same revision and at whichever node answers: no key is missing and none comes twice. It
/// gives up when it did not get on for [`crate::ClientOptions::call_timeout`], and with the word
/// of the cluster (`Compacted`) when the revision is not kept any more.
#[derive(Debug)]
pub struct Scan {
    client: Client,
    /// What is left to be shown.
    options: ListOptions,
    left: Option<u32>,
    revision: Option<Revision>,
    answer: Option<LongAnswer>,
    /// A node that is being asked.
    asking: Option<Underway<Asked>>,
    is_over: bool,
    effort: Effort,
    /// Before the next attempt.
    pause: Duration,
}

/// What became of an attempt, and of what is done to get on.
type Asked = (Effort, Result<LongAnswer, Setback>);

impl Client {
    /// Begins a walk through all keys of a range. The options mean the same as for
    /// [`Client::list`], but that without a limit there is none. It asks a node with the first
    /// use.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if it shall only count: [`Client::list`] does.
    pub fn scan(&self, options: ListOptions) -> Result<Scan, ClientError> {
        if options.count_only {
            return Err(ClientError::invalid("a scan does not count: see list"));
        }
        Ok(Scan {
            client: self.clone(),
            left: options.limit,
            options: ListOptions { limit: None, ..options },
            revision: None,
            answer: None,
            asking: None,
            is_over: false,
            effort: Effort::default(),
            pause: Duration::ZERO,
        })
    }
}

impl Scan {
    /// The revision that it shows. Nothing is lost if the future is dropped before: a node that
    /// is being asked is asked on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn revision(&mut self) -> Result<Revision, ClientError> {
        loop {
            if let Some(revision) = self.revision {
                return Ok(revision);
            }
            if let Err(setback) = self.open().await {
                self.recover(setback)?;
            }
        }
    }

    /// The next key; none at the end. Nothing is lost if the future is dropped before, so it may
    /// stand in a `select!` in a loop, and after an error it may be called again and goes on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<Entry>, ClientError> {
        loop {
            if self.is_over || self.left == Some(0) {
                // Nobody is to make what nobody takes.
                self.answer = None;
                return Ok(None);
            }
            match self.step().await {
                Ok(None) => self.is_over = true,
                Ok(Some(entry)) => {
                    self.go_behind(&entry.key);
                    self.left = self.left.map(|left| left - 1);
                    self.effort.succeeded();
                    return Ok(Some(entry));
                }
                Err(setback) => self.recover(setback)?,
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Entry>, Setback> {
        if self.answer.is_none() {
            self.open().await?;
        }
        let answer = self.answer.as_mut().expect("was opened");
        let line = answer.line(true).await.map_err(Setback::passing)?;
        let Some(line) = line else {
            return Ok(None);
        };
        let garbled = || Setback::passing("a line that no node gives".to_owned());
        let entry = self.read(&line).ok_or_else(garbled)?;
        Ok(Some(entry))
    }

    /// Has a node asked for what is left.
    async fn open(&mut self) -> Result<(), Setback> {
        if self.asking.is_none() {
            self.asking = Some(self.ask()?);
        }
        let Some(asking) = &mut self.asking else { unreachable!("it was begun") };
        let asked = asking.end().await;
        self.asking = None;
        let Some((effort, answer)) = asked else {
            return Err(Setback::ending("the runtime of the scan has ended".to_owned()));
        };
        self.effort = effort;
        self.take(answer?)
    }

    /// Begins to ask a node, after a pause.
    fn ask(&mut self) -> Result<Underway<Asked>, Setback> {
        let retrier = self.client.retrier();
        let target = self.options.target();
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = target
            .as_str()
            .parse()
            .map_err(|error| Setback::ending(format!("the bounds don't fit a request: {error}")))?;
        let lines = HeaderValue::from_static("application/x-ndjson");
        request.headers_mut().insert(ACCEPT, lines);
        let time = retrier.options.attempt_timeout;
        request.headers_mut().insert("synod-timeout", timeout_header(time));
        // A node may have to pass by many keys that were removed.
        let silence_max = 5 * time;
        let (mut effort, pause) =
            (std::mem::take(&mut self.effort), std::mem::take(&mut self.pause));
        let client = self.client.clone();
        Ok(Underway::begin(async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let answer = client.retrier().begin(&mut effort, request, silence_max).await;
            (effort, answer)
        }))
    }

    /// Takes the head of an answer.
    fn take(&mut self, answer: LongAnswer) -> Result<(), Setback> {
        let text = answer.headers.get("synod-revision").and_then(|value| value.to_str().ok());
        let revision = text.and_then(|text| text.parse().ok()).map(Revision);
        let is_expected =
            self.options.read.revision.is_none() || self.options.read.revision == revision;
        let Some(revision) = revision.filter(|_| is_expected) else {
            return Err(Setback::passing("a stream of another revision".to_owned()));
        };
        // Wherever it goes on, it shows the same; a node that is behind waits for it.
        self.options.read.revision = Some(revision);
        self.options.read.min_revision = Some(revision);
        self.revision = Some(revision);
        self.answer = Some(answer);
        Ok(())
    }

    /// Leaves the node, if there is to be another attempt.
    fn recover(&mut self, setback: Setback) -> Result<(), ClientError> {
        let retrier = self.client.retrier();
        if let Some(answer) = self.answer.take() {
            retrier.endpoints.failed(answer.node);
        }
        let pause = self.effort.pause(setback, retrier);
        self.pause = pause.map_err(|setback| self.effort.give_up(setback))?;
        Ok(())
    }

    /// Reads a line; none unless it is one of those that are to come.
    fn read(&self, line: &[u8]) -> Option<Entry> {
        let body: ListEntry = serde_json::from_slice(line).ok()?;
        let Entry { key, record } = Entry::from_body(&body)?;
        let ListOptions { prefix, start, end, .. } = &self.options;
        let is_in_range = key.starts_with(prefix)
            && start.as_ref().is_none_or(|start| key >= *start)
            && end.as_ref().is_none_or(|end| key < *end);
        let has_value = record.value.is_some() != self.options.keys_only;
        (is_in_range && has_value).then_some(Entry { key, record })
    }

    /// What is left lies behind `key`.
    fn go_behind(&mut self, key: &Bytes) {
        if self.options.reverse {
            self.options.end = Some(key.clone());
            return;
        }
        let mut next = BytesMut::with_capacity(key.len() + 1);
        next.put_slice(key);
        next.put_u8(0);
        self.options.start = Some(next.freeze());
    }
}
