//! A server on a free port, and a client that sends exactly the bytes it is given.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part of it")]

pub mod description;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use synod_api::{Limits, Replica};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Far beyond what any test needs: a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Server {
    pub address: SocketAddr,
    pub stop: oneshot::Sender<()>,
    pub task: JoinHandle<()>,
}

impl Server {
    pub async fn start(replica: impl Replica, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(synod_api::serve(listener, replica, limits, async {
            let _ = stopped.await;
        }));
        Self { address, stop, task }
    }

    pub async fn connect(&self) -> Raw {
        Raw::connect(self.address).await
    }

    /// One request on a connection of its own.
    pub async fn call(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut raw = self.connect().await;
        raw.send(request).await;
        raw.answer().await
    }

    /// A request of this method and target, with header lines and a body.
    pub async fn ask(&self, line: &str, headers: &str, body: &str) -> Answer {
        let answer = self.call(request(line, headers, body)).await;
        description::check(line, &answer);
        answer
    }

    /// Checks that a request is refused as it must be, without an effect.
    pub async fn assert_refused(&self, case: &Case) -> Answer {
        let (line, headers, body, status, kind, words) = case;
        let answer = self.ask(line, headers, body).await;
        println!("{line} {headers} {body}: {answer:?}");
        answer.assert_problem(*status, kind, "not_applied");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(words), "{line} {body}: '{detail}' does not say '{words}'");
        if *status == 405 {
            assert!(detail.contains(answer.header("allow")), "{line}: {answer:?}");
        }
        answer
    }
}

/// A request that is refused: method and target, header lines, body; status, type, and words of the
/// detail.
pub type Case = (&'static str, &'static str, &'static str, u16, &'static str, &'static str);

/// The bytes of a request.
pub fn request(line: &str, headers: &str, body: &str) -> String {
    let length =
        if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let headers: String = headers.lines().map(|line| format!("{}\r\n", line.trim())).collect();
    format!("{line} HTTP/1.1\r\nhost: synod\r\n{headers}{length}\r\n{body}")
}

pub struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), read: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// As [`Raw::send`], when the server may have hung up already.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    pub async fn finish_sending(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// The next answer, to a request that was not HEAD.
    pub async fn answer(&mut self) -> Answer {
        self.next(false).await
    }

    /// Waits until this was received, and takes none of it.
    pub async fn until(&mut self, words: &str) {
        self.read_until(|bytes| find(bytes, words.as_bytes())).await.expect("these words");
    }

    /// Waits for the beginning of an answer, and takes none of it.
    pub async fn begin(&mut self) {
        self.read_until(|bytes| (!bytes.is_empty()).then_some(0)).await.expect("an answer");
    }

    pub async fn answer_to_head(&mut self) -> Answer {
        self.next(true).await
    }

    /// The next answer without its body.
    pub async fn head(&mut self) -> Answer {
        let end = self.read_until(|bytes| find(bytes, b"\r\n\r\n")).await.expect("an answer");
        let head: Vec<u8> = self.read.drain(..end + 4).collect();
        Answer::parse(&head)
    }

    async fn next(&mut self, is_head: bool) -> Answer {
        let mut answer = self.head().await;
        let is_empty = is_head || matches!(answer.status, 100..=199 | 204 | 304);
        if is_empty {
            return answer;
        }
        if let Some(length) = answer.headers.get("content-length") {
            let length: usize = length.parse().unwrap();
            self.read_until(|bytes| (bytes.len() >= length).then_some(0)).await.expect("a body");
            answer.body = self.read.drain(..length).collect();
        } else if answer.headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked")
        {
            answer.body = self.chunks().await;
        } else {
            while self.read_until(|_| None).await.is_some() {}
            answer.body = std::mem::take(&mut self.read);
        }
        answer
    }

    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await {
            body.extend(chunk);
        }
        body
    }

    /// The next chunk of a body; none for the last one.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let end = self.read_until(|bytes| find(bytes, b"\r\n")).await.expect("a chunk");
        let line: Vec<u8> = self.read.drain(..end + 2).collect();
        let length = usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
        self.read_until(|bytes| (bytes.len() >= length + 2).then_some(0)).await.expect("a chunk");
        let chunk = self.read.drain(..length).collect();
        self.read.drain(..2);
        (length > 0).then_some(chunk)
    }

    /// Everything up to the end.
    pub async fn rest(&mut self) -> String {
        while self.read_until(|_| None).await.is_some() {}
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }

    /// Whether the server hangs up without another byte.
    pub async fn is_closed(&mut self) -> bool {
        self.read_until(|bytes| (!bytes.is_empty()).then_some(0)).await.is_none()
    }

    /// Reads until `found` says where; none at the end of the stream.
    async fn read_until(&mut self, found: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
        loop {
            if let Some(at) = found(&self.read) {
                return Some(at);
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
            match read.expect("the server neither answers nor hangs up") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(head: &[u8]) -> Self {
        let head = std::str::from_utf8(head).unwrap();
        let mut lines = head.trim_end().lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        };
        Self { status, headers: lines.map(header).collect(), body: Vec::new() }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Checks that this is a problem document of this type, as all of them must be.
    pub fn assert_problem(&self, status: u16, kind: &str, outcome: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let document = self.json();
        assert_eq!(document["type"], format!("urn:synod:{kind}"), "{document}");
        assert_eq!(document["status"], status, "{document}");
        assert_eq!(document["outcome"], outcome, "{document}");
        assert!(document["detail"].as_str().unwrap().len() > 10, "{document}");
        assert_eq!(status == 503, self.headers.contains_key("retry-after"), "{self:?}");
        assert!(self.headers.contains_key("synod-revision"), "{self:?}");
    }
}
