//! Synod's HTTP/1.1 as lean as a client can speak it: one keep-alive
//! connection, one request at a time, two buffers that are reused. The
//! generator shares its cores with the servers it measures, so what it saves
//! is speed that the cluster gets.

use std::io::Write;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::request_error::{Effect, ErrorKind, RequestError};

/// The largest head of an answer that is accepted.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// The largest body of an answer that is accepted: four times the largest value.
const BODY_BYTES_MAX: usize = 4 << 20;
const HEADERS_MAX: usize = 32;

#[derive(Debug)]
pub(crate) struct SynodConnection {
    stream: TcpStream,
    /// The end of each request's head that never changes.
    host: String,
    outgoing: Vec<u8>,
    incoming: BytesMut,
    open: bool,
}

/// An answer, whatever it says.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// The revision in the `ETag`.
    pub(crate) revision: Option<u64>,
    pub(crate) body: Bytes,
}

struct Head {
    status: u16,
    revision: Option<u64>,
    head_bytes: usize,
    body_bytes: usize,
    closes: bool,
}

impl SynodConnection {
    pub(crate) fn new(stream: TcpStream, node: SocketAddr) -> Self {
        Self {
            stream,
            host: format!(" HTTP/1.1\r\nhost: {node}\r\n"),
            outgoing: Vec::with_capacity(1024),
            incoming: BytesMut::with_capacity(4096),
            open: true,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Gives the answer's body, for [`version_of`].
    pub(crate) async fn put(&mut self, key: &[u8], value: &Bytes) -> Result<Bytes, RequestError> {
        self.begin("PUT", key);
        // Writing into memory cannot fail.
        let _ = write!(self.outgoing, "content-length: {}\r\n\r\n", value.len());
        self.outgoing.extend_from_slice(value);
        let response = self.exchange().await?;
        match response.status {
            200 | 201 => Ok(response.body),
            _ => Err(response.refusal()),
        }
    }

    pub(crate) async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, RequestError> {
        self.begin("GET", key);
        self.outgoing.extend_from_slice(b"\r\n");
        let response = self.exchange().await?;
        match response.status {
            200 => Ok(Some(response.body)),
            404 => Ok(None),
            _ => Err(response.refusal()),
        }
    }

    /// Any request about one key, with header lines of the caller's.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        key: &[u8],
        headers: &str,
        value: &[u8],
    ) -> Result<Response, RequestError> {
        self.begin(method, key);
        // Writing into memory cannot fail.
        let _ = write!(self.outgoing, "{headers}content-length: {}\r\n\r\n", value.len());
        self.outgoing.extend_from_slice(value);
        self.exchange().await
    }

    /// Any request, by its path and query, with header lines of the caller's.
    pub(crate) async fn call(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
    ) -> Result<Response, RequestError> {
        self.outgoing.clear();
        // Writing into memory cannot fail.
        let _ = write!(self.outgoing, "{method} {target}{}", self.host);
        let _ = write!(self.outgoing, "{headers}content-length: {}\r\n\r\n", body.len());
        self.outgoing.extend_from_slice(body);
        self.exchange().await
    }

    fn begin(&mut self, method: &str, key: &[u8]) {
        self.outgoing.clear();
        self.outgoing.extend_from_slice(method.as_bytes());
        self.outgoing.extend_from_slice(b" /v1/kv/");
        encode_key(key, &mut self.outgoing);
        self.outgoing.extend_from_slice(self.host.as_bytes());
    }

    async fn exchange(&mut self) -> Result<Response, RequestError> {
        let broken = |_| RequestError::unknown(ErrorKind::Broken);
        self.stream.write_all(&self.outgoing).await.map_err(broken)?;
        loop {
            if let Some(response) = self.take_response()? {
                return Ok(response);
            }
            self.incoming.reserve(2048);
            if self.stream.read_buf(&mut self.incoming).await.map_err(broken)? == 0 {
                return Err(RequestError::unknown(ErrorKind::Broken));
            }
        }
    }

    fn take_response(&mut self) -> Result<Option<Response>, RequestError> {
        let Some(head) = parse_head(&self.incoming)? else {
            return Ok(None);
        };
        if self.incoming.len() < head.head_bytes + head.body_bytes {
            return Ok(None);
        }
        self.open = !head.closes;
        let mut answer = self.incoming.split_to(head.head_bytes + head.body_bytes);
        let body = answer.split_off(head.head_bytes).freeze();
        Ok(Some(Response { status: head.status, revision: head.revision, body }))
    }
}

/// How often the key was written, this write included, as the answer to a PUT
/// says it. Apart from the request, for only a check of the store asks.
pub(crate) fn version_of(put_answer: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Stored {
        version: u64,
    }
    serde_json::from_slice(put_answer).ok().map(|stored: Stored| stored.version)
}

impl Response {
    /// A problem document says what became of the write. Without one, only a
    /// request that was refused as malformed or unwanted is known to have had
    /// no effect.
    pub(crate) fn refusal(&self) -> RequestError {
        let document: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let outcome = document.as_ref().and_then(|document| document.get("outcome")?.as_str());
        let effect = match outcome {
            Some("not_applied") => Effect::NotApplied,
            Some(_) => Effect::Unknown,
            None if (400..500).contains(&self.status) => Effect::NotApplied,
            None => Effect::Unknown,
        };
        RequestError { kind: ErrorKind::Status(self.status), effect }
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<Head>, RequestError> {
    let malformed = RequestError::unknown(ErrorKind::Malformed);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
        _ => return Err(malformed),
    };
    let (mut body_bytes, mut closes, mut revision) = (None, false, None);
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).map_err(|_| malformed)?;
            body_bytes = Some(text.trim().parse::<usize>().map_err(|_| malformed)?);
        } else if header.name.eq_ignore_ascii_case("connection") {
            closes = header.value.eq_ignore_ascii_case(b"close");
        } else if header.name.eq_ignore_ascii_case("etag") {
            let text = std::str::from_utf8(header.value).map_err(|_| malformed)?;
            revision = text.trim().trim_matches('"').parse().ok();
        }
    }
    // An answer without a length would have to be read to the connection's
    // end; none of the calls used here is answered so.
    let body_bytes = body_bytes.filter(|bytes| *bytes <= BODY_BYTES_MAX).ok_or(malformed)?;
    let status = response.code.ok_or(malformed)?;
    Ok(Some(Head { status, revision, head_bytes, body_bytes, closes }))
}

/// Percent-encodes all but unreserved characters and slashes.
fn encode_key(key: &[u8], target: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in key {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                target.push(byte);
            }
            _ => target.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &'static str) -> Effect {
        let body = Bytes::from_static(body.as_bytes());
        Response { status, revision: None, body }.refusal().effect
    }

    #[test]
    fn only_a_refusal_that_says_so_or_is_the_clients_fault_is_without_effect() {
        assert_eq!(refusal(503, r#"{"outcome":"not_applied"}"#), Effect::NotApplied);
        assert_eq!(refusal(503, r#"{"outcome":"unknown"}"#), Effect::Unknown);
        assert_eq!(refusal(503, "busy"), Effect::Unknown);
        assert_eq!(refusal(413, ""), Effect::NotApplied);
    }

    #[test]
    fn a_puts_answer_tells_the_keys_version() {
        assert_eq!(version_of(br#"{"revision":9,"create_revision":2,"version":7}"#), Some(7));
        assert_eq!(version_of(br#"{"revision":9}"#), None);
        assert_eq!(version_of(b""), None);
    }

    #[test]
    fn keys_are_percent_encoded_bytes() {
        let mut target = Vec::new();
        encode_key(b"a/b %\xff~", &mut target);
        assert_eq!(target, b"a/b%20%25%FF~");
    }

    #[test]
    fn a_head_is_complete_partial_or_malformed() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nconnection: close\r\n\r\nhello";
        let head = parse_head(whole).unwrap().unwrap();
        assert_eq!((head.status, head.body_bytes, head.closes), (200, 5, true));
        assert_eq!(&whole[head.head_bytes..], b"hello");
        for cut in 0..head.head_bytes {
            assert!(parse_head(&whole[..cut]).unwrap().is_none(), "cut at {cut}");
        }
        let tagged = b"HTTP/1.1 200 OK\r\nETag: \"17\"\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(parse_head(tagged).unwrap().unwrap().revision, Some(17));
        assert!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n").is_err());
        assert!(parse_head(b"SMTP ready\r\n\r\n").is_err());
        assert!(parse_head(&[b'a'; HEAD_BYTES_MAX + 1]).is_err());
    }
}
