//! The task that has the connection of a batch.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body::{Body, Frame};
use synod_kv::http::BatchResultBody;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::attempt::timeout_header;
use crate::batch::{BatchLine, BatchOptions, BatchOutcome, BatchResult};
use crate::client::Client;
use crate::error::ClientError;
use crate::long_call::{Effort, LongAnswer};
use crate::retry::{Repeat, Setback, give_up, refused};

/// Lines that are sent together at the most, in bytes (one line always is).
const FRAME_BYTES: usize = 64 << 10;
/// A connection without a line for this long is given back: nodes end one after 10 s.
const IDLE_MAX: Duration = Duration::from_secs(4);

#[derive(Debug)]
pub(crate) struct BatchTask {
    client: Client,
    options: BatchOptions,
    input: mpsc::UnboundedReceiver<BatchLine>,
    is_input_over: bool,
    output: mpsc::Sender<BatchResult>,
    window: Arc<Semaphore>,
    /// The lines without a result, in their order.
    lines: VecDeque<BatchLine>,
    /// So many of them this connection was given.
    given: usize,
    /// So many of them any connection was given.
    sent: usize,
    /// Lines with a result.
    answered: u64,
    effort: Effort,
}

/// Why a conversation ends early.
enum End {
    /// The lines that are left have no results.
    Setback(Setback),
    /// Nobody takes results any more.
    Gone,
}

impl From<Setback> for End {
    fn from(setback: Setback) -> Self {
        End::Setback(setback)
    }
}

impl BatchTask {
    pub(crate) fn new(
        client: Client,
        options: BatchOptions,
        input: mpsc::UnboundedReceiver<BatchLine>,
        output: mpsc::Sender<BatchResult>,
        window: Arc<Semaphore>,
    ) -> Self {
        Self {
            client,
            options,
            input,
            is_input_over: false,
            output,
            window,
            lines: VecDeque::new(),
            given: 0,
            sent: 0,
            answered: 0,
            effort: Effort::default(),
        }
    }

    pub(crate) async fn run(mut self) {
        loop {
            if self.lines.is_empty() {
                let line = tokio::select! {
                    () = self.output.closed() => break,
                    line = self.input.recv() => line,
                };
                let Some(line) = line else { break };
                self.lines.push_back(line);
            }
            match self.converse().await {
                Ok(()) => {}
                Err(End::Gone) => break,
                // It was idle, and is opened again with the next line.
                Err(End::Setback(_)) if self.lines.is_empty() => {}
                Err(End::Setback(setback)) => {
                    if let Err(setback) = self.rest(setback).await {
                        self.fail_rest(&setback).await;
                        break;
                    }
                }
            }
        }
        // Whoever waits for room hears of the end.
        self.window.close();
    }

    /// Waits for the next attempt, if there is to be one.
    async fn rest(&mut self, mut setback: Setback) -> Result<(), Setback> {
        // Without a result and without a name, what was sent can't be sent again.
        setback.is_final |= self.sent > 0 && !self.options.resend;
        self.effort.rest(setback, self.client.retrier()).await
    }

    /// Sends lines and takes results over one connection, until it is not needed any more.
    async fn converse(&mut self) -> Result<(), End> {
        self.given = 0;
        let (frames, body) = mpsc::channel(1);
        let mut frames = Some(frames);
        let mut request = Request::new(Frames(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = "/v1/batch".parse().expect("a path");
        let lines = HeaderValue::from_static("application/x-ndjson");
        request.headers_mut().insert(CONTENT_TYPE, lines);
        let timeout = self.options.line_timeout;
        request.headers_mut().insert("synod-timeout", timeout_header(timeout));
        let retrier = self.client.retrier();
        let silence_max = timeout + retrier.options.attempt_timeout;
        // Nothing is sent before the node has said that it takes a batch.
        let mut answer = retrier.begin(&mut self.effort, request, silence_max).await?;
        let before = self.answered;
        loop {
            let is_waiting = !self.lines.is_empty();
            if self.is_input_over && self.given == self.lines.len() && frames.take().is_some() {
                answer.expect_more();
            }
            // Without lines the node has nothing to say until the request ends, and then the end.
            let is_expected = is_waiting || frames.is_none();
            let has_unsent = frames.is_some() && self.given < self.lines.len();
            let may_take = frames.is_some() && !self.is_input_over;
            tokio::select! {
                biased;
                () = self.output.closed() => return Err(End::Gone),
                line = answer.line(is_expected) => match line {
                    Ok(Some(text)) => self.take(&text, before, &mut answer).await?,
                    Ok(None) if !is_waiting => return Ok(()),
                    Ok(None) => return Err(self.cut(&answer, "the answer ends early".to_owned())),
                    Err(text) => {
                        let cut = self.cut(&answer, text);
                        // With all results in, it does not matter how the answer ends.
                        return if is_waiting { Err(cut) } else { Ok(()) };
                    }
                },
                line = self.input.recv(), if may_take => match line {
                    Some(line) => {
                        if !is_waiting {
                            answer.expect_more();
                        }
                        self.lines.push_back(line);
                    }
                    None => self.is_input_over = true,
                },
                place = place(frames.clone()), if has_unsent => match place {
                    Some(place) => drop(place.send(self.next_frame())),
                    // The connection is gone; the answer says how.
                    None => frames = None,
                },
                () = sleep_until(Instant::now() + IDLE_MAX), if !is_waiting && may_take => {
                    frames = None;
                    answer.expect_more();
                }
            }
        }
    }

    /// The lines that are to be sent next.
    fn next_frame(&mut self) -> Bytes {
        let mut frame = self.lines[self.given].text.clone();
        self.given += 1;
        if self.lines.get(self.given).is_some() && frame.len() < FRAME_BYTES {
            let mut joined = Vec::from(frame);
            while let Some(line) = self.lines.get(self.given)
                && joined.len() + line.text.len() <= FRAME_BYTES
            {
                joined.extend_from_slice(&line.text);
                self.given += 1;
            }
            frame = joined.into();
        }
        self.sent = self.sent.max(self.given);
        frame
    }

    /// Takes a result. The lines of this connection are counted from where it began.
    async fn take(&mut self, text: &[u8], before: u64, answer: &mut LongAnswer) -> Result<(), End> {
        let body = serde_json::from_slice::<BatchResultBody>(text).ok();
        let expected = self.answered - before + 1;
        let is_awaited = self.given > 0;
        let body = body.filter(|body| is_awaited && line_of(body) == expected);
        let Some(body) = body else {
            return Err(self.cut(answer, "a result that no node gives".to_owned()));
        };
        let outcome = match &body {
            BatchResultBody::Problem { status, problem, .. } => {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY);
                let setback = refused(status, Box::new(problem.clone()));
                if self.options.resend && !setback.is_final {
                    self.client.retrier().endpoints.refused(answer.node);
                    return Err(setback.into());
                }
                let unknown = setback.is_effect_unknown();
                Err(give_up(setback, &Repeat::Never(None), unknown, 1))
            }
            body => Ok(BatchOutcome::from_body(body).expect("is no problem")),
        };
        self.lines.pop_front();
        self.given -= 1;
        self.sent -= 1;
        self.effort.succeeded();
        self.deliver(outcome).await?;
        answer.expect_more();
        Ok(())
    }

    async fn deliver(&mut self, outcome: Result<BatchOutcome, ClientError>) -> Result<(), End> {
        self.answered += 1;
        let result = BatchResult { line: self.answered, outcome };
        self.output.send(result).await.map_err(|_gone| End::Gone)
    }

    /// The connection is of no more use.
    fn cut(&self, answer: &LongAnswer, text: String) -> End {
        self.client.retrier().endpoints.failed(answer.node);
        Setback::passing(text).into()
    }

    /// Says of each line that is left what is known of it.
    async fn fail_rest(&mut self, setback: &Setback) {
        self.window.close();
        self.input.close();
        let attempts = self.effort.attempts.max(1);
        loop {
            let line = self.lines.pop_front();
            if line.is_none() && self.input.recv().await.is_none() {
                break;
            }
            let last = setback.text().to_owned();
            let error = if self.sent > 0 {
                self.sent -= 1;
                ClientError::Ambiguous { attempts, last, idempotency_key: None }
            } else {
                let last = format!("the line was not sent: {last}");
                ClientError::Unreachable { attempts, last }
            };
            if self.deliver(Err(error)).await.is_err() {
                break;
            }
        }
    }
}

fn line_of(body: &BatchResultBody) -> u64 {
    match body {
        BatchResultBody::Problem { line, .. }
        | BatchResultBody::Put { line, .. }
        | BatchResultBody::Delete { line, .. } => *line,
    }
}

/// A place for a frame; none when the connection takes no more.
async fn place(frames: Option<mpsc::Sender<Bytes>>) -> Option<mpsc::OwnedPermit<Bytes>> {
    frames?.reserve_owned().await.ok()
}

/// The body of the request, as it is made.
struct Frames(mpsc::Receiver<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(task).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
