//! Servers for the tests of what lasts longer than a call: the real one over a replica of one,
//! and one that says what a test has written down.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part of it")]

#[path = "../../../../api/tests/it/fake/mod.rs"]
pub mod fake;
pub mod held;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake::Fake;
use synod_api::{Limits, Replica};
use synod_client::{Client, ClientOptions};
use synod_kv::{Command, Operation, Revision};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// The real server over this replica; its URL.
pub async fn serve(fake: &Fake, limits: Limits) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(synod_api::serve(listener, fake.clone(), limits, std::future::pending()));
    url
}

/// A client that does not wait for long.
pub fn client(urls: &[&str]) -> Client {
    let options = ClientOptions {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        ..ClientOptions::default()
    };
    Client::new(urls, options).unwrap()
}

/// The same operation as a client would ask for.
pub async fn write(fake: &Fake, operation: Operation) {
    let command = Command { idempotency: None, operation };
    fake.write(command, Instant::now()).await.unwrap();
}

/// Forgets what was before a revision.
pub async fn compact(fake: &Fake, revision: u64) {
    write(fake, Operation::Compact { revision: Revision(revision) }).await;
}

/// An answer as a server writes it.
pub fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close");
    format!("{head}\r\n{headers}\r\n{body}").into_bytes()
}

/// The beginning of a stream, and what it says; the connection ends behind that.
pub fn stream(body: &str) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    format!("{head}{body}").into_bytes()
}

/// What becomes of a connection when everything was said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    Close,
    /// It stays open and silent.
    Hang,
}

/// A server that gives each connection the next of some answers.
pub struct Script {
    pub url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Script {
    pub async fn start(answers: Vec<Vec<u8>>) -> Self {
        Self::start_then(answers.into_iter().map(|answer| (answer, Then::Close)).collect()).await
    }

    pub async fn start_then(answers: Vec<(Vec<u8>, Then)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            let mut open = Vec::new();
            for (answer, then) in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let head = head(&mut stream).await;
                seen.lock().unwrap().push(head);
                stream.write_all(&answer).await.unwrap();
                if then == Then::Hang {
                    open.push(stream);
                }
            }
            // Whoever comes later waits in vain.
            std::future::pending::<()>().await;
        });
        Self { url, heads }
    }

    /// The heads of the requests so far, in lower case.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn head(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap() == 0 {
            break;
        }
    }
    String::from_utf8(request).unwrap().to_ascii_lowercase()
}

/// Passes one connection after the other on to a node, and cuts each off after so many bytes
/// of its answer as `cut` says for its number.
pub async fn cutting(
    behind: &str,
    cut: impl Fn(usize) -> usize + Send + 'static,
) -> (String, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let passed = Arc::new(Mutex::new(0));
    let (node, counter) = (behind.trim_start_matches("http://").to_owned(), Arc::clone(&passed));
    tokio::spawn(async move {
        for number in 0.. {
            let (client, _) = listener.accept().await.unwrap();
            let node = TcpStream::connect(&node).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_node, mut to_node) = node.into_split();
            let asking = tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from_client, &mut to_node).await;
            });
            let (mut left, counter) = (cut(number), Arc::clone(&counter));
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while left > 0 {
                    let room = buffer.len().min(left);
                    let Ok(count @ 1..) = from_node.read(&mut buffer[..room]).await else { break };
                    left -= count;
                    *counter.lock().unwrap() += count;
                    if to_client.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                }
                asking.abort();
            });
        }
    });
    (url, passed)
}
