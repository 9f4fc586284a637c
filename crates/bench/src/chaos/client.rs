//! A client of the load: one thread of control, which asks one node after the other.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::history::{End, Operation, Request};
use super::load::Load;
use super::retries::{Attempts, draw_header, note_status};
use crate::NodeId;
use crate::request_error::{Effect, ErrorKind, RequestError};
use crate::synod::{Response, SynodConnection};

/// Attempts at each read at the end, how long each may take, and a pause between them.
const FINAL_ATTEMPTS: u32 = 20;
const FINAL_PATIENCE: Duration = Duration::from_secs(2);
const FINAL_PAUSE: Duration = Duration::from_millis(500);

/// One thread of control and its connection.
pub(super) struct Client {
    pub(super) load: Arc<Load>,
    pub(super) random: fastrand::Rng,
    process: u64,
    /// Which node it is with, counted round and round.
    number: usize,
    /// With whom it last spoke.
    node: NodeId,
    connection: Option<SynodConnection>,
}

/// What is sent, and it is the same each time.
struct Message {
    number: u64,
    /// Of the key in the store.
    name: String,
    request: Request,
    /// The header line with the idempotency key, if it has one.
    header: Option<String>,
    patience: Duration,
}

impl Client {
    /// One that begins with the node of this number.
    pub(super) fn new(load: Arc<Load>, number: usize) -> Self {
        let process = load.next_process();
        let (node, _) = load.node(number);
        let random = fastrand::Rng::with_seed(load.seed() ^ ((number as u64 + 1) << 32));
        Self { load, random, process, number, node, connection: None }
    }

    /// Goes on to the next node.
    pub(super) fn move_on(&mut self) {
        self.connection = None;
        self.number += 1;
    }

    /// Does one operation, and writes it down. One with an idempotency key, as some changes
    /// have, is sent until somebody says what became of it, or it is too late for that.
    pub(super) async fn operate(&mut self, key: u64, request: Request, patience: Duration) -> End {
        let number = self.load.next_number();
        let name = self.load.name(key);
        let header = match request {
            Request::Get => None,
            _ => draw_header(&self.load, number, &mut self.random),
        };
        let message = Message { number, name, request, header, patience };
        let called_us = self.load.now_us();
        let end = match message.header {
            Some(_) => self.persist(&message).await,
            None => self.attempt(&message).await,
        };
        let returned_us = self.load.now_us();
        let (process, node) = (self.process, self.node);
        let operation =
            Operation { number, process, node, key, request, called_us, returned_us, end };
        self.load.note(operation);
        if end == End::Unknown {
            self.process = self.load.next_process();
        }
        end
    }

    async fn persist(&mut self, message: &Message) -> End {
        let mut end = self.attempt(message).await;
        let mut attempts = Attempts::new(&self.load);
        while end == End::Unknown && attempts.again(&mut self.random).await {
            if self.random.bool() {
                self.move_on();
            }
            end = match self.attempt(message).await {
                // This attempt had no effect. Of those before it that says nothing.
                End::Failed => End::Unknown,
                end => end,
            };
        }
        match end {
            End::Unknown => {}
            End::Stored(revision) | End::Deleted(revision) => attempts.settle(Some(revision)),
            _ => attempts.settle(None),
        }
        end
    }

    async fn attempt(&mut self, message: &Message) -> End {
        let answer = timeout(message.patience, self.ask(message)).await;
        let answer = answer.unwrap_or(Err(RequestError::unknown(ErrorKind::Timeout)));
        // An answer that came late would be taken for the next request's.
        if answer.is_err() || !self.connection.as_ref().is_some_and(SynodConnection::is_open) {
            self.connection = None;
        }
        match answer {
            Ok(response) => {
                note_status(&self.load, response.status);
                end_of(message.request, &response)
            }
            Err(error) => end_of_error(message.request, error),
        }
    }

    async fn ask(&mut self, message: &Message) -> Result<Response, RequestError> {
        if self.connection.is_none() {
            let (node, address) = self.load.node(self.number);
            self.node = node;
            let unsent = |_| RequestError::unsent(ErrorKind::Connect);
            let stream = TcpStream::connect(address).await.map_err(unsent)?;
            stream.set_nodelay(true).map_err(unsent)?;
            self.connection = Some(SynodConnection::new(stream, address));
        }
        let connection = self.connection.as_mut().expect("it was opened above");
        let (value, name) = (message.number.to_string(), message.name.as_bytes());
        let (method, value, condition) = match message.request {
            Request::Get => ("GET", "", String::new()),
            Request::Delete => ("DELETE", "", String::new()),
            Request::Put => ("PUT", &*value, String::new()),
            Request::Create => ("PUT", &*value, "if-none-match: *\r\n".to_owned()),
            Request::Swap(revision) => ("PUT", &*value, format!("if-match: \"{revision}\"\r\n")),
        };
        let headers = condition + message.header.as_deref().unwrap_or_default();
        connection.ask(method, name, &headers, value.as_bytes()).await
    }

    /// Reads a key when all is healed; says whether that was answered.
    pub(super) async fn read_finally(&mut self, key: u64) -> bool {
        for _ in 0..FINAL_ATTEMPTS {
            let end = self.operate(key, Request::Get, FINAL_PATIENCE).await;
            if matches!(end, End::Found(_)) {
                return true;
            }
            sleep(FINAL_PAUSE).await;
        }
        false
    }
}

fn end_of_error(request: Request, error: RequestError) -> End {
    match error.effect {
        Effect::Unknown if request != Request::Get => End::Unknown,
        // A read has no effect whatever becomes of it.
        _ => End::Failed,
    }
}

/// What an answer says. One that makes no sense counts as not understood.
fn end_of(request: Request, response: &Response) -> End {
    let refused = || end_of_error(request, response.refusal());
    match (request, response.status) {
        (Request::Get, 200) => match (number_in(&response.body), response.revision) {
            (Some(value), Some(revision)) => End::Found(Some((value, revision))),
            // Nobody wrote such a value: the check will say so.
            _ => End::Found(Some((u64::MAX, 0))),
        },
        (Request::Get, 404) => End::Found(None),
        (Request::Delete, 200) => deleted_at(&response.body).map_or(End::Unknown, End::Deleted),
        (Request::Delete, 404) => End::Absent,
        (Request::Put | Request::Create | Request::Swap(_), 200 | 201) => {
            response.revision.map_or(End::Unknown, End::Stored)
        }
        (Request::Create | Request::Swap(_), 412) => End::Mismatch(response.revision),
        _ => refused(),
    }
}

fn number_in(body: &[u8]) -> Option<u64> {
    std::str::from_utf8(body).ok()?.parse().ok()
}

fn deleted_at(body: &[u8]) -> Option<u64> {
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    document.get("revision")?.as_u64()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Takes one request and answers it, if not with silence.
    async fn serve(listener: &TcpListener, answer: &str) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n17") {
            stream.read_buf(&mut request).await.unwrap();
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    }

    #[tokio::test]
    async fn the_same_is_sent_until_somebody_says_what_became_of_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = (NodeId(1), listener.local_addr().unwrap());
        let mut client = Client::new(Arc::new(Load::new(vec![node], 1, 7)), 0);
        let header = Some("idempotency-key: mine\r\n".to_owned());
        let (number, name, request) = (17, "k".to_owned(), Request::Swap(3));
        let patience = Duration::from_secs(10);
        let message = Message { number, name, request, header, patience };
        let answers = [
            "",
            "HTTP/1.1 503 X\r\nconnection: close\r\ncontent-length: 25\r\n\r\n{\"outcome\":\"not_applied\"}",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\netag: \"4\"\r\n\r\n",
        ];
        let served = async {
            let mut requests = Vec::new();
            for answer in answers {
                requests.push(serve(&listener, answer).await);
            }
            requests
        };
        let (end, requests) = tokio::join!(client.persist(&message), served);
        // The second answer speaks of its attempt only.
        assert_eq!(end, End::Stored(4));
        assert!(requests[0].contains("idempotency-key: mine\r\n"), "{}", requests[0]);
        assert!(requests.iter().all(|request| *request == requests[0]), "{requests:?}");
        let retries = *client.load.retries();
        assert_eq!((retries.with_key, retries.sent_again, retries.settled), (1, 1, 1));
    }

    fn end(request: Request, status: u16, revision: Option<u64>, body: &'static str) -> End {
        end_of(request, &Response { status, revision, body: Bytes::from_static(body.as_bytes()) })
    }

    #[test]
    fn answers_are_understood_by_their_request_and_status() {
        assert_eq!(end(Request::Get, 200, Some(4), "17"), End::Found(Some((17, 4))));
        assert_eq!(end(Request::Get, 404, None, ""), End::Found(None));
        assert_eq!(end(Request::Put, 201, Some(4), "{}"), End::Stored(4));
        assert_eq!(end(Request::Delete, 200, None, r#"{"revision":9}"#), End::Deleted(9));
        assert_eq!(end(Request::Delete, 404, None, "{}"), End::Absent);
        assert_eq!(end(Request::Swap(3), 412, Some(4), "{}"), End::Mismatch(Some(4)));
        assert_eq!(end(Request::Create, 412, Some(4), "{}"), End::Mismatch(Some(4)));
    }

    #[test]
    fn what_may_have_had_effect_is_unknown_and_a_strange_value_is_found() {
        assert_eq!(end(Request::Put, 503, None, r#"{"outcome":"unknown"}"#), End::Unknown);
        assert_eq!(end(Request::Put, 503, None, r#"{"outcome":"not_applied"}"#), End::Failed);
        assert_eq!(end(Request::Get, 503, None, r#"{"outcome":"unknown"}"#), End::Failed);
        assert_eq!(end(Request::Put, 200, None, "{}"), End::Unknown);
        assert_eq!(end(Request::Get, 200, Some(4), "xyz"), End::Found(Some((u64::MAX, 0))));
    }
}
