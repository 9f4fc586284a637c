//! One HTTP exchange with one node.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout_at};

use crate::options::ClientOptions;

const TIMEOUT: HeaderName = HeaderName::from_static("synod-timeout");
/// The longest time that a node may be told.
const TIMEOUT_MS_MAX: u128 = 60_000;

/// The connections to all nodes.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    http: Http<HttpConnector, Full<Bytes>>,
    answer_bytes_max: usize,
}

/// What is sent, to whichever node.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// No byte of the request reached the node.
    pub(crate) is_unsent: bool,
    /// What happened.
    pub(crate) text: String,
}

impl Exchange {
    pub(crate) fn new(options: &ClientOptions) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(options.connect_timeout));
        let http = Http::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(options.idle_timeout)
            .pool_max_idle_per_host(options.idle_connections_max)
            // A request of which nothing was sent, because its idle connection had
            // been closed, is sent on another one.
            .retry_canceled_requests(true)
            .build(connector);
        Self { http, answer_bytes_max: options.answer_bytes_max }
    }

    /// Sends `message` to the node at `base` and takes its answer. Redirects are
    /// answers like any other.
    pub(crate) async fn run(
        &self,
        base: &str,
        message: &Message,
        time: Duration,
    ) -> Result<Answer, Failure> {
        let deadline = Instant::now() + time;
        let exchange = async {
            let response = self.send(request(base, message, time)?).await?;
            self.whole(response).await
        };
        let answered = timeout_at(deadline, exchange).await;
        // It may have been on its way when the time was over.
        answered.unwrap_or_else(|_elapsed| Err(silent(base, time)))
    }

    /// Begins a read whose answer is taken piece by piece; one that is not a success is
    /// taken as a whole. The time is that until it begins.
    pub(crate) async fn open(
        &self,
        base: &str,
        message: &Message,
        time: Duration,
    ) -> Result<Result<Incoming, Answer>, Failure> {
        let deadline = Instant::now() + time;
        let begin = async {
            let response = self.send(request(base, message, time)?).await?;
            if response.status().is_success() {
                return Ok(Ok(response.into_body()));
            }
            self.whole(response).await.map(Err)
        };
        let answered = timeout_at(deadline, begin).await;
        answered.unwrap_or_else(|_elapsed| Err(silent(base, time)))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let sent = self.http.request(request).await;
        sent.map_err(|error| Failure { is_unsent: error.is_connect(), text: chain(&error) })
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Answer, Failure> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, self.answer_bytes_max).collect().await.map_err(|error| {
            Failure { is_unsent: false, text: format!("the answer was cut off: {error}") }
        })?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

impl Answer {
    /// The leader's URL, as the node knows it.
    pub(crate) fn leader(&self) -> Option<&str> {
        leader_of(&self.headers)
    }

    /// A header with a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// For how long after this answer the cluster still knows the name of its write; none if
    /// it says nothing of that. Both dates are of the node's clock.
    pub(crate) fn name_left(&self) -> Option<Duration> {
        let date = |name| httpdate::parse_http_date(self.text(name)?).ok();
        let expires = date("synod-idempotency-expires")?;
        Some(expires.duration_since(date("date")?).unwrap_or_default())
    }

    /// A header as text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

fn request(base: &str, message: &Message, time: Duration) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::new(Full::new(message.body.clone()));
    *request.method_mut() = message.method.clone();
    *request.uri_mut() = format!("{base}{}", message.target)
        .parse()
        .map_err(|error| Failure { is_unsent: true, text: format!("{error}") })?;
    *request.headers_mut() = message.headers.clone();
    request.headers_mut().insert(TIMEOUT, timeout_header(time));
    Ok(request)
}

fn silent(base: &str, time: Duration) -> Failure {
    let text = format!("{base} did not answer within {} ms", time.as_millis());
    Failure { is_unsent: false, text }
}

/// The leader's URL, as a node that sends these headers knows it.
pub(crate) fn leader_of(headers: &HeaderMap) -> Option<&str> {
    headers.get("synod-leader")?.to_str().ok()?.split_once(' ').map(|(_, url)| url)
}

/// What the node is told about the time it has: a little less than the client
/// waits, so that its own word arrives, which knows more than silence.
pub(crate) fn timeout_header(time: Duration) -> HeaderValue {
    let told_ms = (time.as_millis() * 9 / 10).clamp(1, TIMEOUT_MS_MAX);
    HeaderValue::from_str(&format!("{told_ms}ms")).expect("digits and letters are a header value")
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
