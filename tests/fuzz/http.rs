//! What clients send: raw bytes on a connection to a real server, through hyper, the
//! router and every handler, over a real state machine in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use synod_api::{BackupParts, ChangeRefused, Leader, Limits, MemberChange, Refused, Replica};
use synod_kv::http::{MembersBody, Problem, StatusBody};
use synod_kv::read::{self, Look, Page, ReadError};
use synod_kv::{
    Command, Condition, KvOptions, ListQuery, MapError, MemoryMap, Operation, Revision, ServerId,
    StateMachine, Taken,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::engine::{Answer, Fuzz};
use crate::memory::within;
use crate::stand_in;

/// The kind of an answer that goes on for ever.
const STREAM: &[u8] = b"text/event-stream";
/// Far beyond what any answer needs.
const PATIENCE: Duration = Duration::from_secs(20);
const KEY_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 4 << 10;

/// A replica of one with three keys.
#[derive(Clone)]
struct Alone {
    machine: Arc<Mutex<StateMachine<MemoryMap>>>,
}

fn three_keys() -> StateMachine<MemoryMap> {
    let mut machine =
        StateMachine::open(MemoryMap::new(), KvOptions::default()).expect("an empty map");
    for key in [&b"a"[..], b"b/\0c", b"b/\xff"] {
        let (key, value) = (Bytes::from_static(key), Bytes::from_static(b"a value"));
        let condition = Condition::Always;
        let operation = Operation::Put { key, value, condition, want_previous: false };
        apply(&mut machine, Command { idempotency: None, operation });
    }
    machine
}

fn apply(machine: &mut StateMachine<MemoryMap>, command: Command) -> Taken {
    let slot = machine.applied_slot() + 1;
    let id = ServerId { origin: 1, incarnation: 1, sequence: slot };
    let mut taken = machine.apply(slot, slot, &[(id, command)]).expect("a sound map");
    machine.commit().expect("a sound map");
    taken.remove(0)
}

impl Alone {
    fn with<T>(&self, look: impl FnOnce(&mut StateMachine<MemoryMap>) -> T) -> T {
        look(&mut self.machine.lock().expect("nobody panicked"))
    }
}

impl Replica for Alone {
    type Map = MemoryMap;

    async fn write(&self, command: Command, _: Instant) -> Result<Taken, Refused> {
        // What goes into the log is read back from there.
        let encoded = synod_wire::command::encode(&command);
        assert_eq!(synod_wire::command::decode(encoded).as_ref(), Ok(&command));
        Ok(self.with(|machine| apply(machine, command)))
    }

    async fn read_barrier(&self, _: Instant) -> Result<(), Refused> {
        Ok(())
    }

    async fn wait_revision(&self, revision: Revision, _: Instant) -> Result<(), Refused> {
        if self.revision() >= revision { Ok(()) } else { Err(Refused::Deadline) }
    }

    async fn transfer(&self, to: Option<u32>, _: Instant) -> Result<Leader, Refused> {
        Ok(Leader::new(to.unwrap_or(2), "http://127.0.0.1:7002"))
    }

    fn is_member(&self, node: u32) -> bool {
        (1..=3).contains(&node)
    }

    fn members(&self) -> Option<MembersBody> {
        None
    }

    async fn change_members(
        &self,
        _: MemberChange,
        _: Instant,
    ) -> Result<MembersBody, ChangeRefused> {
        Err(ChangeRefused::Replica(Refused::NoLeader))
    }

    fn get(&self, key: &[u8]) -> Result<Look, MapError> {
        self.with(|machine| read::look(machine.map(), key, machine.revision()))
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&MemoryMap) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        self.with(|machine| read(machine.map()))
    }

    async fn count(
        &self,
        query: ListQuery,
        at: Option<Revision>,
        visits_max: usize,
        goes_on: impl Fn() -> bool + Send,
    ) -> Result<Page, ReadError> {
        let map = self.with(|machine| machine.map().clone());
        stand_in::count(&map, (&query, at), visits_max, goes_on).await
    }

    fn backup(&self) -> Result<BackupParts, Refused> {
        Ok(stand_in::backup())
    }

    fn revision(&self) -> Revision {
        self.with(|machine| machine.revision())
    }

    fn cluster_time_ms(&self) -> u64 {
        self.with(|machine| machine.cluster_time_ms())
    }

    fn node(&self) -> u32 {
        1
    }

    fn leader(&self) -> Option<Leader> {
        // Now this node and now the other one, so that both roads are taken.
        let node = if self.revision().0.is_multiple_of(2) { 2 } else { 1 };
        Some(Leader::new(node, "http://127.0.0.1:7002"))
    }

    fn status(&self) -> StatusBody {
        stand_in::status(self.node())
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn metrics(&self) -> String {
        "synod_fake 1".to_owned()
    }
}

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"GET ",
    b"HEAD ",
    b"PUT ",
    b"DELETE ",
    b"POST ",
    b"/v1/cluster/transfer",
    b"/v1/cluster/members",
    b"/v1/cluster/members/2",
    b"/v1/cluster/quorums",
    b"/v1/compact",
    b"/v1/txn",
    b"/v1/batch",
    b"{\"op\": \"put\", \"key\": \"a\", \"value\": \"1\"}\n",
    b"{\"compare\": [{\"key\": \"a\", \"target\": \"mod\", \"op\": \"=\", \"operand\": 1}]",
    b"\"success\": [{\"op\": \"put\", \"key\": \"a\", \"value\": \"1\"}]}",
    b"{\"op\": \"delete_range\", \"prefix_base64\": \"YQ==\"}",
    b"{\"revision\": ",
    b"/v1/watch",
    b"?key=",
    b"&from=",
    b"&wait=1ms",
    b"last-event-id: 2\r\n",
    b"/v1/lease",
    b"/v1/lease/keepalive",
    b"/v1/lease/1/keepalive",
    b"{\"ttl\": \"9s\", \"id\": 1}",
    b"{\"ids\": [1]}",
    b"/v1/lock/a?token=1",
    b"/v1/election/a",
    b"\"wait\": \"1s\"",
    b"?lease=1",
    b"&ttl=9s",
    b"{\"to\": ",
    b"OPTIONS * ",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"/v1/kv",
    b"/v1/kv/",
    b"http://h/v1/kv/a",
    b"?prefix=",
    b"&start=",
    b"&end=%ff",
    b"&limit=",
    b"&reverse",
    b"&keys_only=true",
    b"&count_only",
    b"&encoding=base64",
    b"&consistency=stale",
    b"&consistency=linearizable",
    b"&min_revision=",
    b"&revision=",
    b"&redirect=true",
    b"&all=true",
    b"&prev",
    b"%",
    b"%00",
    b"%2F",
    b"\xff",
    b" HTTP/1.0",
    b" HTTP/1.1",
    b"host: synod\r\n",
    b"content-length: 3\r\n",
    b"content-length: 18446744073709551615\r\n",
    b"transfer-encoding: chunked\r\n",
    b"expect: 100-continue\r\n",
    b"connection: close\r\n",
    b"connection: upgrade\r\nupgrade: h2c\r\n",
    b"if-match: \"",
    b"if-match: *\r\n",
    b"if-none-match: *\r\n",
    b"if-none-match: W/\"1\", \"2\"\r\n",
    b"idempotency-key: x\r\n",
    b"synod-timeout: 500ms\r\n",
    b"synod-timeout: 18446744073709551615s\r\n",
    b"synod-revision: 2\r\n",
    b"accept: application/x-ndjson\r\n",
    b"range: bytes=0-\r\n",
    b"fffffffffffffffe\r\n",
    b"3\r\nabc\r\n0\r\n\r\n",
    b"0\r\nx: y\r\n\r\n",
];

fn requests() -> Vec<Vec<u8>> {
    let heads = [
        "GET /v1/kv/a HTTP/1.1",
        "HEAD /v1/kv/b%2F%00c?consistency=stale HTTP/1.1\r\nif-none-match: \"2\"",
        "GET /v1/kv/a?min_revision=3 HTTP/1.1\r\nsynod-timeout: 20ms",
        "PUT /v1/kv/x%20y?prev HTTP/1.1\r\ncontent-length: 5\r\n\r\nvalue",
        "PUT /v1/kv/a HTTP/1.1\r\nif-match: \"1\"\r\ncontent-length: 0",
        "PUT /v1/kv/n HTTP/1.1\r\nif-none-match: *\r\nidempotency-key: k1\r\ncontent-length: 1\r\n\r\nv",
        "PUT /v1/kv/c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0",
        "DELETE /v1/kv/a?prev=true HTTP/1.1",
        "DELETE /v1/kv?prefix=b%2f HTTP/1.1\r\nidempotency-key: k2",
        "DELETE /v1/kv?all HTTP/1.1",
        "GET /v1/kv?prefix=b&limit=1 HTTP/1.1",
        "GET /v1/kv?start=a&end=b%ff&reverse&keys_only&encoding=base64 HTTP/1.1",
        "GET /v1/kv?count_only=true HTTP/1.1",
        "GET /v1/kv HTTP/1.1\r\naccept: application/x-ndjson",
        "POST /v1/cluster/transfer HTTP/1.1\r\ncontent-length: 9\r\n\r\n{\"to\": 2}",
        "POST /v1/cluster/transfer HTTP/1.1\r\ncontent-length: 0",
        "POST /v1/compact HTTP/1.1\r\ncontent-length: 14\r\n\r\n{\"revision\":1}",
        "POST /v1/txn HTTP/1.1\r\ncontent-length: 108\r\n\r\n{\"compare\":[{\"key\":\"a\",\"target\":\"mod\",\"op\":\"=\",\"operand\":1}],\"success\":[{\"op\":\"put\",\"key\":\"a\",\"value\":\"1\"}]}",
        "POST /v1/batch HTTP/1.1\r\ncontent-length: 61\r\n\r\n{\"op\":\"put\",\"key\":\"a\",\"value\":\"1\"}\n{\"op\":\"delete\",\"key\":\"b\"}\n",
        "GET /v1/watch?prefix=b&from=1&prev&wait=0s HTTP/1.1",
        "GET /v1/watch?key=a&from=2.0&wait=0s HTTP/1.1\r\nlast-event-id: 0",
        "GET /v1/watch?key=a HTTP/1.1\r\nhost: h\r\n\r\nGET /v1/status HTTP/1.1",
        "GET /v1/status HTTP/1.1",
        "GET /livez HTTP/1.1",
        "GET /readyz HTTP/1.1",
        "GET /metrics HTTP/1.1",
    ];
    let whole = |head: &str| match head.split_once("\r\n\r\n") {
        Some((head, body)) if !body.ends_with('0') => format!("{head}\r\nhost: h\r\n\r\n{body}"),
        Some((head, body)) => format!("{head}\r\nhost: h\r\n\r\n{body}\r\n\r\n"),
        None => format!("{head}\r\nhost: h\r\n\r\n"),
    };
    let mut all: Vec<Vec<u8>> = heads.iter().map(|head| whole(head).into_bytes()).collect();
    // All of them on one connection, one sent behind the other.
    all.push(all.concat());
    all
}

/// What the server says to these bytes, up to the end of the connection.
async fn ask(address: std::net::SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // The server may hang up at any byte.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    // A stream of events need not end as long as somebody may read it, though that one sends
    // nothing any more: its beginning will do.
    while stream.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {
        let has = |words: &[u8]| answer.windows(words.len()).any(|part| part == words);
        if has(STREAM) && has(b"\r\n\r\n") {
            break;
        }
    }
    answer
}

/// Checks the first answer: a status that this server gives, and an error in the form
/// that the manual promises. Returns its first line.
fn check_answer(request: &[u8], answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let line = text.lines().next().unwrap_or_default().to_owned();
    if answer.is_empty() {
        return line;
    }
    let status: u16 = line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    assert!(line.starts_with("HTTP/1.") && (100..600).contains(&status), "no answer: {text}");
    assert_ne!(status, 500, "an internal error: {text}");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
    let has_body = !request.starts_with(b"HEAD") && !body.is_empty();
    if status >= 400 && has_body && head.contains("content-length") {
        assert!(head.contains("application/problem+json"), "{text}");
        let mut documents = serde_json::Deserializer::from_str(body).into_iter::<Problem>();
        let problem = documents.next().expect("a document").expect("a problem");
        assert_eq!(problem.status, status);
        return format!("{line} {}", problem.detail);
    }
    line
}

#[test]
fn http() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let replica = Alone { machine: Arc::new(Mutex::new(three_keys())) };
    let limits = Limits {
        key_bytes_max: KEY_BYTES_MAX,
        value_bytes_max: VALUE_BYTES_MAX,
        call_timeout_max_ms: 1_000,
        ..Limits::default()
    };
    let head_bytes_max = limits.head_bytes_max();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = synod_api::serve(listener, replica.clone(), limits, std::future::pending());
    runtime.spawn(server);

    // The read buffer of a connection, the largest head and value (buffers that grow
    // count twice), and what the answers to the whole input may take.
    let bytes_max = move |input: &[u8]| {
        (256 << 10) + 3 * head_bytes_max + 3 * VALUE_BYTES_MAX + 64 * input.len()
    };
    let fuzz = Fuzz { name: "http", valid: requests(), words: WORDS, bytes_max: 16 << 10 };
    fuzz.run(|input| {
        replica.with(|machine| *machine = three_keys());
        let answer = within(bytes_max(input), || {
            let asked = async { timeout(PATIENCE, ask(address, input)).await };
            runtime.block_on(asked).expect("the connection hangs")
        });
        let words = check_answer(input, &answer);
        let accepted =
            [&b"HTTP/1.1 2"[..], b"HTTP/1.1 3"].iter().any(|line| answer.starts_with(line));
        Answer { accepted, words }
    });
}
