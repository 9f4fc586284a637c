//! `POST /v1/batch`: puts and deletes, one a line, each a command of its own.
//!
//! Lines are carried out while they arrive, many at once, and their results are sent in
//! the order of the lines. Two lines of one key are never under way together, so their
//! order is kept. When many results wait, no further line is read, and when no line
//! comes, nothing waits but results.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as Asked;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, EXPECT, HeaderValue};
use http::{Method, Request, Response};
use synod_kv::http::{BatchResultBody, OperationBody, OperationName};
use synod_kv::{Command, Condition, Operation, Outcome, TxnOperation};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;

use crate::batch_lines::{Line, Lines};
use crate::call::{Deadline, IDEMPOTENCY_KEY};
use crate::context::{Context, Wrote};
use crate::document;
use crate::limits::Limits;
use crate::operation::{self, wrong};
use crate::problem::{Kind, Problem};
use crate::refusal::refused;
use crate::replica::Replica;
use crate::response::{self, Body};
use crate::target::Query;

/// Lines of one batch that are under way at a time, and the bytes of their texts.
const LINES_MAX: usize = 128;
const LINES_BYTES_MAX: usize = 1 << 20;

/// Results that are sent together at the most, in bytes.
const PART_BYTES: usize = 32 << 10;

/// Answers a batch. What is wrong with a line its result says, and the others go on.
///
/// # Errors
/// A malformed request, or no place for another batch.
pub(crate) async fn answer<R: Replica>(
    context: &Arc<Context<R>>,
    request: Request<Asked>,
) -> Result<Response<Body>, Problem> {
    if request.method() != Method::POST {
        return Err(Problem::not_allowed("POST"));
    }
    let (head, body) = request.into_parts();
    let query = Query::parse(head.uri.query(), &["redirect"])?;
    if head.headers.contains_key(IDEMPOTENCY_KEY) {
        return Err(Problem::new(
            Kind::BadHeader,
            "Idempotency-Key names one write, and each line of a batch is one of its own. Lines \
             without a result may be sent again where doing it twice does no harm.",
        ));
    }
    if let Some(redirected) = context.redirect(&head.uri, &query)? {
        return Ok(redirected);
    }
    let timeout = Deadline::timeout(&head.headers, &context.limits)?;
    let line_bytes_max = line_bytes_max(&context.limits);
    // For a line that arrives, the lines under way, and what they are made into.
    let places = context.admission.batch(2 * (line_bytes_max + LINES_BYTES_MAX))?;
    let (results, parts) = mpsc::channel(1);
    let patience = Duration::from_millis(context.limits.body_timeout_ms);
    let mut lines = Lines::new(body, line_bytes_max, patience);
    if head.headers.contains_key(EXPECT) {
        // The client must be told to go on before it is told anything else.
        lines.receive().await?;
    }
    let batch = Batch {
        context: Arc::clone(context),
        timeout,
        lines,
        under_way: VecDeque::new(),
        keys: HashSet::new(),
        bytes: 0,
        results,
        _places: places,
    };
    // It ends when its client goes, for then nobody takes its results.
    tokio::spawn(batch.run());
    let body = response::parts(parts, |part: Option<Option<Bytes>>| match part {
        Some(part) => part.map(Ok),
        None => Some(Err(axum::Error::new("the batch ended early"))),
    });
    let mut response = Response::new(body);
    let lines = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, lines);
    Ok(response)
}

/// The longest line: key and value in base64, and the words around them.
fn line_bytes_max(limits: &Limits) -> usize {
    (limits.key_bytes_max + limits.value_bytes_max).div_ceil(3) * 4 + 1024
}

/// A batch on its way.
struct Batch<R> {
    context: Arc<Context<R>>,
    /// What each line has from its beginning.
    timeout: Duration,
    lines: Lines<Asked>,
    /// The lines whose result was not sent yet, in their order.
    under_way: VecDeque<UnderWay>,
    /// The keys that they write.
    keys: HashSet<Bytes>,
    /// The bytes of their texts.
    bytes: usize,
    /// Parts of the answer; none when all are there.
    results: mpsc::Sender<Option<Bytes>>,
    _places: [OwnedSemaphorePermit; 2],
}

/// A line whose result was not sent yet.
struct UnderWay {
    number: u64,
    key: Option<Bytes>,
    bytes: usize,
    result: Pending,
}

enum Pending {
    /// It is known.
    Known(Box<BatchResultBody>),
    /// A task comes to it.
    Task(JoinHandle<BatchResultBody>),
}

/// The client takes no more results.
struct Gone;

impl<R: Replica> Batch<R> {
    async fn run(mut self) {
        // Whoever is gone is told nothing more.
        let _ = self.carry_out().await;
    }

    async fn carry_out(&mut self) -> Result<(), Gone> {
        let results = self.results.clone();
        loop {
            // A client that waits for a result need not send anything.
            self.lines.is_timed = self.under_way.is_empty();
            let is_full = self.under_way.len() >= LINES_MAX || self.bytes >= LINES_BYTES_MAX;
            let line = tokio::select! {
                biased;
                () = results.closed() => return Err(Gone),
                () = ready(self.under_way.front_mut()) => {
                    self.send_ready().await?;
                    continue;
                }
                line = self.lines.next(), if !is_full => line,
            };
            let Some(line) = line else {
                break;
            };
            self.begin(line).await?;
        }
        while !self.under_way.is_empty() {
            self.send_next().await?;
        }
        results.send(None).await.map_err(|_| Gone)
    }

    /// Begins with a line as soon as no earlier one writes its key.
    async fn begin(&mut self, line: Line) -> Result<(), Gone> {
        let Line { number, text } = line;
        let read = text.and_then(|text| {
            let operation = read(&text, number, &self.context.limits)?;
            Ok((operation, text.len()))
        });
        let (operation, bytes) = match read {
            Ok(read) => read,
            Err(problem) => {
                let result = Pending::Known(Box::new(refusal(number, problem)));
                self.under_way.push_back(UnderWay { number, key: None, bytes: 0, result });
                return Ok(());
            }
        };
        let key = match &operation {
            Operation::Put { key, .. } | Operation::Delete { key, .. } => Some(key.clone()),
            _ => None,
        };
        while key.as_ref().is_some_and(|key| self.keys.contains(key)) {
            self.send_next().await?;
        }
        self.keys.extend(key.clone());
        self.bytes += bytes;
        let context = Arc::clone(&self.context);
        let deadline = Deadline::after(self.timeout);
        let task = tokio::spawn(async move {
            let command = Command { idempotency: None, operation };
            match context.write(command, deadline).await {
                Ok(wrote) => result(number, wrote),
                Err(problem) => refusal(number, problem),
            }
        });
        self.under_way.push_back(UnderWay { number, key, bytes, result: Pending::Task(task) });
        Ok(())
    }

    /// Waits for the first result that is missing and sends it, with those behind it that
    /// are there already.
    async fn send_next(&mut self) -> Result<(), Gone> {
        let results = self.results.clone();
        tokio::select! {
            biased;
            () = results.closed() => return Err(Gone),
            () = ready(self.under_way.front_mut()) => {}
        }
        self.send_ready().await
    }

    async fn send_ready(&mut self) -> Result<(), Gone> {
        let mut part = Vec::new();
        while part.len() < PART_BYTES
            && let Some(first) = self.under_way.front_mut()
            && let Pending::Known(result) = &first.result
        {
            part.extend_from_slice(&response::to_json(result));
            part.push(b'\n');
            if let Some(key) = &first.key {
                self.keys.remove(key);
            }
            self.bytes -= first.bytes;
            self.under_way.pop_front();
            if let Some(next) = self.under_way.front_mut() {
                next.look().await;
            }
        }
        let sent = self.results.send(Some(part.into())).await.map_err(|_| Gone);
        self.lines.be_patient();
        sent
    }
}

impl UnderWay {
    /// Takes the result if it is there.
    async fn look(&mut self) {
        if matches!(&self.result, Pending::Task(task) if task.is_finished()) {
            ready(Some(self)).await;
        }
    }
}

/// Waits until the result of a line is known; without one, for ever. Nothing is lost if it
/// is dropped before.
async fn ready(line: Option<&mut UnderWay>) {
    let Some(line) = line else {
        return std::future::pending().await;
    };
    if let Pending::Task(task) = &mut line.result {
        let result = task.await.unwrap_or_else(|_| {
            // It panicked: the outcome of its write is not known.
            let detail = "This node failed while it carried the line out.";
            refusal(line.number, Problem::new(Kind::Internal, detail).with_effect_unknown())
        });
        line.result = Pending::Known(Box::new(result));
    }
}

/// Reads a line.
fn read(text: &[u8], number: u64, limits: &Limits) -> Result<Operation, Problem> {
    let place = format!("Line {number}");
    let body: OperationBody = document::read(text, &format!("{place} is not an operation"))?;
    if !matches!(body.op, OperationName::Put | OperationName::Delete) {
        let name = operation::name(body.op);
        let what = format!("a batch has puts and deletes, not a {name}");
        return Err(wrong(Kind::BadMember, &place, &what));
    }
    if body.lease.is_some() || body.prev.is_some() {
        let what = "\"lease\" and \"prev\" are for transactions (POST /v1/txn)";
        return Err(wrong(Kind::UnknownMember, &place, what));
    }
    let (condition, want_previous) = (Condition::Always, false);
    Ok(match operation::read(body, &place, limits)? {
        TxnOperation::Put { key, value, .. } => {
            Operation::Put { key, value, condition, want_previous }
        }
        TxnOperation::Delete { key, .. } => Operation::Delete { key, condition, want_previous },
        _ => unreachable!("was compared above"),
    })
}

fn result(line: u64, wrote: Wrote) -> BatchResultBody {
    match wrote.outcome {
        Outcome::Stored { revision, create_revision, version, .. } => BatchResultBody::Put {
            line,
            status: if version == 1 { 201 } else { 200 },
            revision: revision.0,
            create_revision: create_revision.0,
            version,
        },
        Outcome::Deleted { revision, .. } => {
            BatchResultBody::Delete { line, status: 200, revision: revision.0, deleted: 1 }
        }
        Outcome::NotFound { revision } => {
            BatchResultBody::Delete { line, status: 200, revision: revision.0, deleted: 0 }
        }
        outcome => refusal(line, refused(outcome)),
    }
}

fn refusal(line: u64, problem: Problem) -> BatchResultBody {
    let problem = problem.document();
    BatchResultBody::Problem { line, status: problem.status, problem }
}
