//! Whether, when and where to try again.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use synod_kv::http::{Effect, Problem, ProblemKind};
use tokio::time::{Instant, sleep};

use crate::attempt::{Answer, Exchange, Failure, Message};
use crate::endpoints::Endpoints;
use crate::error::ClientError;
use crate::long_call::{self, Effort, LongAnswer};
use crate::moment::{Moment, before};
use crate::name::Names;
use crate::options::ClientOptions;

/// What may be done with a request whose outcome is unknown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Repeat {
    /// A read: it has no effect.
    Freely,
    /// A write with this name: the cluster takes it once.
    Named(String),
    /// A write without a name: only if it certainly had no effect. The name is there
    /// if the caller gave one and wants to retry on its own.
    Never(Option<String>),
}

/// Sends calls until they are answered or there is no point in going on.
#[derive(Debug)]
pub(crate) struct Retrier {
    pub(crate) endpoints: Endpoints,
    pub(crate) options: ClientOptions,
    pub(crate) names: Arc<Names>,
    exchange: Exchange,
    budget: Budget,
}

/// An attempt that gave nothing to return.
#[derive(Debug)]
pub(crate) struct Setback {
    effect_unknown: bool,
    pub(crate) text: String,
    pub(crate) problem: Option<Box<Problem>>,
    /// Trying again can't help.
    pub(crate) is_final: bool,
    /// How long the node asks to be left alone.
    pub(crate) pause: Duration,
    /// For how long the name of the write is known, if the node says.
    name_left: Option<Duration>,
}

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// With all its attempts.
    pub(crate) call: Duration,
    /// One attempt at one node.
    pub(crate) attempt: Duration,
}

impl Setback {
    /// Of a call without effect, which may be answered the next time.
    pub(crate) fn passing(text: String) -> Self {
        let pause = Duration::ZERO;
        Self { effect_unknown: false, text, problem: None, is_final: false, pause, name_left: None }
    }

    /// Of a call that can't be made.
    pub(crate) fn ending(text: String) -> Self {
        Self { is_final: true, ..Self::passing(text) }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn is_effect_unknown(&self) -> bool {
        self.effect_unknown
    }
}

impl Retrier {
    pub(crate) fn new(endpoints: Endpoints, options: ClientOptions) -> Self {
        let exchange = Exchange::new(&options);
        let budget = Budget::new(&options);
        Self { endpoints, options, names: Arc::new(Names::new()), exchange, budget }
    }

    /// Begins a read of which the answer is long, at one node, once. The time is that until
    /// it begins.
    pub(crate) async fn open(
        &self,
        node: usize,
        message: &Message,
        time: Duration,
    ) -> Result<Incoming, Setback> {
        let opened = self.exchange.open(&self.endpoints.bases()[node], message, time).await;
        match opened.map_err(Setback::of_failure)? {
            Ok(body) => Ok(body),
            // What is judged as an answer is a refusal all the same.
            Err(answer) => Err(judge(answer).map_or_else(|setback| setback, Setback::of_answer)),
        }
    }

    /// Sends `message` until there is an answer that says what became of it: success,
    /// 404 for the key, or 412. With it comes the number of attempts.
    pub(crate) async fn call(
        &self,
        message: &Message,
        repeat: &Repeat,
    ) -> Result<(Answer, u32), ClientError> {
        let ClientOptions { call_timeout, attempt_timeout, .. } = self.options;
        let times = Times { call: call_timeout, attempt: attempt_timeout };
        self.call_within(message, repeat, times).await
    }

    /// The same within other times.
    pub(crate) async fn call_within(
        &self,
        message: &Message,
        repeat: &Repeat,
        times: Times,
    ) -> Result<(Answer, u32), ClientError> {
        self.budget.earn();
        let deadline = Instant::now() + times.call;
        // The call's time stands still while the machine sleeps, and the name's does not.
        let mut expiry = repeat.name().and_then(|name| self.names.expiry(name));
        let left = |expiry: Option<Moment>| {
            let left = deadline.saturating_duration_since(Instant::now());
            expiry.map_or(left, |expiry| left.min(expiry.left()))
        };
        if expiry.is_some_and(Moment::is_over) {
            return Err(forgotten(repeat, 0));
        }
        let mut effect_unknown = false;
        let mut attempts = 0;
        let mut tried = Vec::new();
        loop {
            let node = self.endpoints.choose(&tried);
            tried.push(node);
            attempts += 1;
            let time = times.attempt.min(left(expiry)).max(Duration::from_millis(1));
            let attempt = self.attempt(node, message, time);
            let answered = match expiry {
                Some(expiry) => before(expiry, attempt).await.unwrap_or_else(too_late),
                None => attempt.await,
            };
            let setback = match answered {
                Ok(answer) => return Ok((answer, attempts)),
                Err(setback) => setback,
            };
            effect_unknown |= setback.effect_unknown && *repeat != Repeat::Freely;
            // Sent again when its name is forgotten it could have effect twice.
            if let Some(left) = setback.name_left {
                let told = Moment::now().plus(left);
                expiry = Some(expiry.map_or(told, |expiry| expiry.min(told)));
            }
            let is_safe = !(effect_unknown && matches!(repeat, Repeat::Never(_)));
            let pause = self.pause(attempts, &mut tried, &setback);
            // An attempt that is cut short would only make the outcome less certain.
            let attempt_min = times.attempt / 10;
            let in_time = pause + attempt_min < left(expiry);
            if setback.is_final || !is_safe || !in_time || !self.budget.spend() {
                return Err(give_up(setback, repeat, effect_unknown, attempts));
            }
            sleep(pause).await;
            // The machine may have slept as well.
            if expiry.is_some_and(Moment::is_over) {
                return Err(give_up(setback, repeat, effect_unknown, attempts));
            }
        }
    }

    /// Sends `message` to one node, once. `repeat` says whether it could have had effect.
    pub(crate) async fn call_node(
        &self,
        node: usize,
        message: &Message,
        repeat: &Repeat,
    ) -> Result<Answer, ClientError> {
        let time = self.options.attempt_timeout.min(self.options.call_timeout);
        self.attempt(node, message, time).await.map_err(|setback| {
            let effect_unknown = setback.effect_unknown && *repeat != Repeat::Freely;
            give_up(setback, repeat, effect_unknown, 1)
        })
    }

    async fn attempt(
        &self,
        node: usize,
        message: &Message,
        time: Duration,
    ) -> Result<Answer, Setback> {
        let base = &self.endpoints.bases()[node];
        match self.exchange.run(base, message, time).await {
            Ok(answer) => {
                let leader = if self.options.prefer_leader { answer.leader() } else { None };
                self.endpoints.answered(node, leader);
                judge(answer).inspect_err(|setback| {
                    // The leader that it names may be another one. If it names
                    // itself, or nobody, the next node may know more.
                    if !setback.is_final {
                        self.endpoints.refused(node);
                    }
                })
            }
            Err(failure) => {
                self.endpoints.failed(node);
                Err(Setback::of_failure(failure))
            }
        }
    }

    /// Begins a call whose answer is long, at the node to ask next.
    pub(crate) async fn begin<B>(
        &self,
        effort: &mut Effort,
        request: Request<B>,
        silence_max: Duration,
    ) -> Result<LongAnswer, Setback>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        self.budget.earn();
        let node = effort.choose(self);
        let at = (node, self.endpoints.bases()[node].as_str());
        match long_call::begin(at, request, silence_max, &self.options).await {
            Ok(Ok(answer)) => {
                let leader = answer.leader().filter(|_| self.options.prefer_leader);
                self.endpoints.answered(node, leader);
                Ok(answer)
            }
            Ok(Err(answer)) => {
                self.endpoints.refused(node);
                let unlikely = "an answer that no node gives".to_owned();
                Err(judge(answer).err().unwrap_or_else(|| Setback::ending(unlikely)))
            }
            Err(failure) => {
                self.endpoints.failed(node);
                Err(Setback::passing(failure.text))
            }
        }
    }

    /// Whether there may be one more retry; it counts as made.
    pub(crate) fn spend(&self) -> bool {
        self.budget.spend()
    }

    /// The wait before the next attempt: none while there are nodes that were not
    /// asked, then a random part of a time that doubles.
    pub(crate) fn pause(
        &self,
        attempts: u32,
        tried: &mut Vec<usize>,
        setback: &Setback,
    ) -> Duration {
        let nodes = self.endpoints.bases().len();
        if tried.len() < nodes {
            return Duration::ZERO;
        }
        tried.clear();
        let rounds = attempts / u32::try_from(nodes).unwrap_or(u32::MAX);
        let doubled = self.options.backoff_min.saturating_mul(1 << (rounds.max(1) - 1).min(16));
        let backoff = doubled.min(self.options.backoff_max);
        // What the node asks for is kept whole; only what comes on top is drawn, so
        // that clients do not come back all at once.
        setback.pause + backoff.mul_f64(fastrand::f64())
    }
}

impl Repeat {
    /// The name of the write.
    pub(crate) fn name(&self) -> Option<&String> {
        match self {
            Repeat::Freely => None,
            Repeat::Named(name) => Some(name),
            Repeat::Never(name) => name.as_ref(),
        }
    }
}

impl Setback {
    fn of_failure(Failure { is_unsent, text }: Failure) -> Self {
        let effect_unknown = !is_unsent;
        let pause = Duration::ZERO;
        Self { effect_unknown, text, problem: None, is_final: false, pause, name_left: None }
    }

    /// A refusal that other calls take for an answer.
    fn of_answer(answer: Answer) -> Self {
        let problem = serde_json::from_slice::<Problem>(&answer.body).ok().map(Box::new);
        let text = problem.as_ref().map_or_else(
            || format!("an answer {} that no node gives", answer.status),
            |problem| problem.detail.clone(),
        );
        let pause = Duration::ZERO;
        Self { effect_unknown: false, text, problem, is_final: true, pause, name_left: None }
    }
}

/// Whether an answer ends the call.
fn judge(answer: Answer) -> Result<Answer, Setback> {
    let status = answer.status;
    if status.is_success() {
        return Ok(answer);
    }
    let problem = serde_json::from_slice::<Problem>(&answer.body).ok().map(Box::new);
    let Some(problem) = problem else {
        // Not a node of ours, or a proxy before one.
        let is_final = !status.is_server_error();
        return Err(Setback {
            effect_unknown: !status.is_client_error(),
            text: format!("an answer {status} that no node gives"),
            problem: None,
            is_final,
            pause: Duration::ZERO,
            name_left: None,
        });
    };
    let kind = problem.kind();
    if matches!(kind, Some(ProblemKind::KeyNotFound | ProblemKind::PreconditionFailed)) {
        return Ok(answer);
    }
    // A node without a leader will have one in a moment; a node with too much to do
    // means what it says.
    let pause = match kind {
        Some(ProblemKind::Overloaded | ProblemKind::IdempotencyFull) => {
            Duration::from_secs(answer.number("retry-after").unwrap_or(0).min(30))
        }
        _ => Duration::ZERO,
    };
    Err(Setback { pause, name_left: answer.name_left(), ..refused(status, problem) })
}

/// A refusal of a call, or of one of many that came together.
pub(crate) fn refused(status: StatusCode, problem: Box<Problem>) -> Setback {
    // Every node says the same of full disks until somebody makes room.
    // What became of a name that may be forgotten nobody knows: to send it again, to
    // whomever, could be a second effect of what the caller sent under it before.
    let ends = [ProblemKind::NoRoom, ProblemKind::IdempotencyLate];
    let passes = !problem.kind().is_some_and(|kind| ends.contains(&kind))
        && status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT;
    Setback {
        effect_unknown: problem.outcome == Effect::Unknown,
        text: problem.detail.clone(),
        problem: Some(problem),
        is_final: !passes,
        pause: Duration::ZERO,
        name_left: None,
    }
}

/// An attempt that was broken off when the name of its write grew too old.
fn too_late<T>() -> Result<T, Setback> {
    let text = "the name of the write grew older than ten minutes during the attempt".to_owned();
    Err(Setback { effect_unknown: true, ..Setback::ending(text) })
}

/// A write that the cluster may not know any more: what became of it is known to nobody.
fn forgotten(repeat: &Repeat, attempts: u32) -> ClientError {
    let last = "its name is older than ten minutes, so that the cluster may have forgotten it, \
                and to send it again could have effect a second time";
    let idempotency_key = repeat.name().cloned();
    ClientError::Ambiguous { attempts, last: last.to_owned(), idempotency_key }
}

/// What a call becomes that is not tried again.
pub(crate) fn give_up(
    setback: Setback,
    repeat: &Repeat,
    effect_unknown: bool,
    attempts: u32,
) -> ClientError {
    let last = setback.text;
    if effect_unknown {
        let idempotency_key = repeat.name().cloned();
        return ClientError::Ambiguous { attempts, last, idempotency_key };
    }
    match setback.problem {
        Some(problem) => ClientError::of_problem(problem),
        None => ClientError::Unreachable { attempts, last },
    }
}

/// What is saved up for retries.
#[derive(Debug)]
struct Budget {
    saved: Mutex<f64>,
    saved_max: f64,
    per_call: f64,
}

impl Budget {
    fn new(options: &ClientOptions) -> Self {
        let saved_max = f64::from(options.retries_saved_max);
        Self { saved: Mutex::new(saved_max), saved_max, per_call: options.retries_per_call }
    }

    fn earn(&self) {
        let mut saved = self.saved.lock().expect("no holder of this lock panics");
        *saved = (*saved + self.per_call).min(self.saved_max);
    }

    fn spend(&self) -> bool {
        let mut saved = self.saved.lock().expect("no holder of this lock panics");
        let is_enough = *saved >= 1.0;
        if is_enough {
            *saved -= 1.0;
        }
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::client::Client;
    use crate::moment::tests::suspend;
    use crate::options::PutOptions;

    #[tokio::test]
    async fn a_write_is_not_sent_again_after_the_machine_slept_for_longer_than_its_name_lives() {
        for (slept_s, expected) in [(500, 2), (601, 1)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let server = tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    stream.read_u8().await.unwrap();
                    suspend(Duration::from_secs(slept_s));
                    // It hangs up without an answer.
                }
            });
            let client = Client::new([url], ClientOptions::default()).unwrap();
            let error = client.put(b"a", "v", &PutOptions::default()).await.unwrap_err();
            let ClientError::Ambiguous { attempts, .. } = error else { panic!("{error:?}") };
            assert_eq!(attempts, expected);
            server.abort();
        }
    }

    #[test]
    fn a_node_is_left_alone_for_as_long_as_it_asks() {
        let endpoints = Endpoints::new(&["127.0.0.1:1"]).unwrap();
        let retrier = Retrier::new(endpoints, ClientOptions::default());
        let pause = Duration::from_secs(1);
        let setback = Setback {
            effect_unknown: false,
            text: String::new(),
            problem: None,
            is_final: false,
            pause,
            name_left: None,
        };
        for attempts in 1..100 {
            let drawn = retrier.pause(attempts, &mut vec![0], &setback);
            assert!((pause..=pause + retrier.options.backoff_max).contains(&drawn), "{drawn:?}");
        }
    }

    #[test]
    fn retries_are_saved_up_and_spent() {
        let options =
            ClientOptions { retries_saved_max: 2, retries_per_call: 0.5, ..Default::default() };
        let budget = Budget::new(&options);
        let spent = |times: usize| (0..times).filter(|_| budget.spend()).count();
        assert_eq!(spent(5), 2);
        (0..3).for_each(|_| budget.earn());
        assert_eq!(spent(5), 1);
        (0..100).for_each(|_| budget.earn());
        assert_eq!(spent(5), 2);
    }
}
