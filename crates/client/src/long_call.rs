//! A call whose answer takes long and comes line by line, on a connection of its own.

use std::error::Error;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::attempt::{Answer, Failure, chain, leader_of};
use crate::error::ClientError;
use crate::options::ClientOptions;
use crate::retry::{Repeat, Retrier, Setback, give_up};
use crate::silence::Silence;

/// An answer on its way. The connection ends with it.
#[derive(Debug)]
pub(crate) struct LongAnswer {
    /// The place of the node among the endpoints.
    pub(crate) node: usize,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    lines: Lines,
    /// How long the node may be silent when something is expected of it, and how long it is.
    silence_max: Duration,
    silence: Silence,
    _connection: EndsWithUs,
}

#[derive(Debug)]
struct EndsWithUs(AbortHandle);

impl Drop for EndsWithUs {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends `request` to the node at `base`. An answer that is not a success is taken as a whole.
///
/// # Errors
/// When the head of the answer does not come within the time of an attempt.
pub(crate) async fn begin<B>(
    (node, base): (usize, &str),
    mut request: Request<B>,
    silence_max: Duration,
    options: &ClientOptions,
) -> Result<Result<LongAnswer, Answer>, Failure>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let deadline = Instant::now() + options.attempt_timeout;
    let (authority, address) = address(base)?;
    request.headers_mut().insert(HOST, authority);
    let stream = timeout(options.connect_timeout, TcpStream::connect(&address)).await;
    let stream = stream
        .map_err(|_elapsed| unsent(format!("{base} takes no connection")))?
        .map_err(|error| unsent(format!("{base}: {error}")))?;
    // Without it, it only takes longer.
    let _ = stream.set_nodelay(true);
    let exchange = async {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| unsent(chain(&error)))?;
        let task = EndsWithUs(tokio::spawn(connection).abort_handle());
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| sent(chain(&error)))?;
        if !response.status().is_success() {
            return whole(response, options).await.map(Err);
        }
        check_end(&response)?;
        let (head, body) = response.into_parts();
        Ok(Ok(LongAnswer {
            node,
            headers: head.headers,
            body,
            lines: Lines::new(options.answer_bytes_max),
            silence_max,
            silence: Silence::default(),
            _connection: task,
        }))
    };
    timeout_at(deadline, exchange)
        .await
        .unwrap_or_else(|_elapsed| Err(sent(format!("{base} did not answer in time"))))
}

fn address(base: &str) -> Result<(HeaderValue, String), Failure> {
    let uri: Uri = base.parse().map_err(|error| unsent(format!("{base}: {error}")))?;
    let authority = uri.authority().ok_or_else(|| unsent(format!("{base} has no host")))?;
    let port = authority.port_u16().unwrap_or(80);
    let host = HeaderValue::from_str(authority.as_str());
    let host = host.map_err(|error| unsent(format!("{base}: {error}")))?;
    Ok((host, format!("{}:{port}", authority.host())))
}

/// The end of an answer must be told, or one that was cut off would be taken for whole.
fn check_end(response: &Response<Incoming>) -> Result<(), Failure> {
    let headers = response.headers();
    if headers.contains_key(TRANSFER_ENCODING) || headers.contains_key(CONTENT_LENGTH) {
        return Ok(());
    }
    Err(sent("an answer that does not tell its end, as no node gives it".to_owned()))
}

async fn whole(response: Response<Incoming>, options: &ClientOptions) -> Result<Answer, Failure> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, options.answer_bytes_max).collect().await;
    let body = body.map_err(|error| sent(format!("the answer was cut off: {error}")))?;
    Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
}

fn unsent(text: String) -> Failure {
    Failure { is_unsent: true, text }
}

fn sent(text: String) -> Failure {
    Failure { is_unsent: false, text }
}

impl LongAnswer {
    /// The leader's URL, as the node knows it.
    pub(crate) fn leader(&self) -> Option<&str> {
        leader_of(&self.headers)
    }

    /// From now on the node is expected to send something.
    pub(crate) fn expect_more(&mut self) {
        self.silence = Silence::default();
    }

    /// The next line; none at the end of the answer. Nothing is lost if the future is dropped
    /// before.
    ///
    /// # Errors
    /// A cut, a line that is too long or, if something is expected, silence.
    pub(crate) async fn line(&mut self, is_expected: bool) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(line) = self.lines.next()? {
                return Ok(Some(line));
            }
            let frame = match is_expected {
                true => self.silence.wait(self.silence_max, self.body.frame()).await,
                false => Ok(self.body.frame().await),
            };
            let frame = frame.map_err(|_elapsed| "the node sends nothing any more".to_owned())?;
            let Some(frame) = frame else {
                return match self.lines.is_empty() {
                    true => Ok(None),
                    false => Err("the answer ends inside of a line".to_owned()),
                };
            };
            let frame = frame.map_err(|error| format!("the answer was cut off: {error}"))?;
            // Trailers say nothing to us.
            if let Ok(data) = frame.into_data() {
                self.silence = Silence::default();
                self.lines.push(&data);
            }
        }
    }
}

/// Cuts what arrives into lines.
#[derive(Debug)]
struct Lines {
    rest: BytesMut,
    /// So much of it has no end of a line.
    searched: usize,
    bytes_max: usize,
}

impl Lines {
    fn new(bytes_max: usize) -> Self {
        Self { rest: BytesMut::new(), searched: 0, bytes_max }
    }

    fn push(&mut self, data: &[u8]) {
        self.rest.extend_from_slice(data);
    }

    fn next(&mut self) -> Result<Option<Bytes>, String> {
        let end = self.rest[self.searched..].iter().position(|byte| *byte == b'\n');
        let length = end.map_or(self.rest.len(), |end| self.searched + end);
        if length > self.bytes_max {
            return Err(format!("a line has more than {} bytes", self.bytes_max));
        }
        self.searched = length;
        if end.is_none() {
            return Ok(None);
        }
        self.searched = 0;
        let line = self.rest.split_to(length).freeze();
        self.rest.advance(1);
        Ok(Some(line))
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// What a long call did to get on since it last did.
#[derive(Debug, Default)]
pub(crate) struct Effort {
    pub(crate) attempts: u32,
    tried: Vec<usize>,
    /// From the first setback.
    deadline: Option<Instant>,
}

impl Effort {
    /// It got on.
    pub(crate) fn succeeded(&mut self) {
        if self.attempts > 0 {
            *self = Self::default();
        }
    }

    /// Chooses the node for the next attempt.
    pub(crate) fn choose(&mut self, retrier: &Retrier) -> usize {
        let node = retrier.endpoints.choose(&self.tried);
        self.tried.push(node);
        self.attempts += 1;
        node
    }

    /// Waits for the next attempt, if there is to be one.
    ///
    /// # Errors
    /// The setback, when it is final, or the time or the retries are used up.
    pub(crate) async fn rest(
        &mut self,
        setback: Setback,
        retrier: &Retrier,
    ) -> Result<(), Setback> {
        sleep(self.pause(setback, retrier)?).await;
        Ok(())
    }

    /// How long to wait for the next attempt, which counts as made.
    ///
    /// # Errors
    /// As [`Effort::rest`].
    pub(crate) fn pause(
        &mut self,
        setback: Setback,
        retrier: &Retrier,
    ) -> Result<Duration, Setback> {
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + retrier.options.call_timeout);
        let pause = retrier.pause(self.attempts.max(1), &mut self.tried, &setback);
        if setback.is_final || now + pause >= deadline || !retrier.spend() {
            return Err(setback);
        }
        Ok(pause)
    }

    /// What a read becomes that does not get on any more.
    pub(crate) fn give_up(&mut self, setback: Setback) -> ClientError {
        let attempts = std::mem::take(self).attempts;
        give_up(setback, &Repeat::Freely, false, attempts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_the_pieces_end() {
        let text = b"one\n\ntwo\nthree\n";
        for first in 0..text.len() {
            let mut lines = Lines::new(5);
            let mut found = Vec::new();
            for piece in [&text[..first], &text[first..]] {
                lines.push(piece);
                while let Some(line) = lines.next().unwrap() {
                    found.push(line);
                }
            }
            assert_eq!(found, ["one", "", "two", "three"]);
            assert!(lines.is_empty());
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_before_its_end() {
        let mut lines = Lines::new(3);
        lines.push(b"abc");
        assert_eq!(lines.next().unwrap(), None);
        lines.push(b"d");
        assert!(lines.next().is_err());
    }

    #[test]
    fn a_host_without_a_port_listens_where_all_do() {
        assert_eq!(address("http://a").unwrap().1, "a:80");
        assert_eq!(address("http://[::1]:7001").unwrap().1, "[::1]:7001");
    }
}
