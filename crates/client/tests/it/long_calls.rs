//! Scans and batches over connections that break, and servers that misbehave.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::world::fake::{Fake, Mode};
use crate::world::held::Held;
use bytes::Bytes;
use synod_api::{Limits, Refused};
use synod_client::{
    BatchOptions, BatchOutcome, BatchResult, Client, ClientError, ClientOptions, Entry,
    ListOptions, ProblemKind, PutOptions, ReadOptions, Revision, WriteOptions,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

async fn serve_with(fake: &Fake, limits: Limits) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(synod_api::serve(listener, fake.clone(), limits, std::future::pending()));
    url
}

async fn serve(fake: &Fake) -> String {
    serve_with(fake, Limits::default()).await
}

fn client(urls: &[&str]) -> Client {
    let options = ClientOptions {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(2),
        ..ClientOptions::default()
    };
    Client::new(urls, options).unwrap()
}

/// Gives up at the first setback.
fn weak(url: &str) -> Client {
    let options = ClientOptions { retries_saved_max: 0, ..ClientOptions::default() };
    Client::new([url], options).unwrap()
}

/// Passes connections on to a server. What the first one of them answers is cut off.
struct Cutter {
    url: String,
    /// Connections that ended.
    ended: watch::Receiver<usize>,
    /// Bytes that the first connection answered, in all.
    answered: Arc<AtomicUsize>,
}

impl Cutter {
    async fn new(behind: &str, bytes: usize) -> Self {
        Self::after(behind, Vec::new(), bytes).await
    }

    /// The first connection answers `lie`, and hangs up if the server is to answer nothing.
    async fn after(behind: &str, lie: Vec<u8>, mut bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let behind = behind.trim_start_matches("http://").to_owned();
        let (end, ended) = watch::channel(0);
        let answered = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&answered);
        tokio::spawn(async move {
            let mut lie = Some(lie);
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (end, count, behind) = (end.clone(), Arc::clone(&count), behind.clone());
                let first = lie.take();
                let budget = std::mem::replace(&mut bytes, usize::MAX);
                tokio::spawn(async move {
                    pass_on(client, &behind, first, budget, &count).await;
                    end.send_modify(|ended| *ended += 1);
                });
            }
        });
        Self { url, ended, answered }
    }

    async fn has_ended(&self, connections: usize) {
        self.ended.clone().wait_for(|ended| *ended >= connections).await.unwrap();
    }
}

async fn pass_on(
    client: TcpStream,
    behind: &str,
    lie: Option<Vec<u8>>,
    mut budget: usize,
    count: &AtomicUsize,
) {
    let (mut from_client, mut to_client) = client.into_split();
    if let Some(lie) = lie.as_ref().filter(|lie| !lie.is_empty()) {
        let mut request = vec![0; 4096];
        let _ = from_client.read(&mut request).await;
        let _ = to_client.write_all(lie).await;
        return;
    }
    let (mut from_server, mut to_server) = TcpStream::connect(behind).await.unwrap().into_split();
    let asking = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let mut piece = vec![0; 1024];
    while budget > 0 {
        let Ok(read) = from_server.read(&mut piece).await else { break };
        let read = read.min(budget);
        if read == 0 || to_client.write_all(&piece[..read]).await.is_err() {
            break;
        }
        if lie.is_some() {
            count.fetch_add(read, Ordering::Relaxed);
        }
        budget -= read;
    }
    asking.abort();
}

async fn fill(fake: &Fake, keys: usize) -> Vec<String> {
    let client = client(&[&serve(fake).await]);
    let mut names = Vec::new();
    for key in 0..keys {
        let name = format!("s/{key:03}");
        client.put(name.as_bytes(), vec![0xff; key % 7], &PutOptions::default()).await.unwrap();
        names.push(name);
    }
    client.put(b"t", "beyond", &PutOptions::default()).await.unwrap();
    names
}

async fn all(client: &Client, options: ListOptions) -> Result<Vec<Entry>, ClientError> {
    let mut scan = client.scan(options)?;
    let mut entries = Vec::new();
    while let Some(entry) = scan.next().await? {
        entries.push(entry);
    }
    Ok(entries)
}

fn keys(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_scan_shows_its_range_at_one_revision() {
    let fake = Fake::default();
    // Several pages, so that there is something to be made later.
    let limits = Limits { list_entries_max: 3, ..Limits::default() };
    let url = serve_with(&fake, limits).await;
    let names = fill(&fake, 20).await;
    let client = client(&[&url]);
    let mut scan = client.scan(ListOptions::prefix("s/")).unwrap();
    assert_eq!(scan.revision().await.unwrap(), Revision(21));
    client.put(b"s/0000", "later", &PutOptions::default()).await.unwrap();
    client.delete(b"s/019", &PutOptions::default()).await.unwrap();
    let mut entries = Vec::new();
    while let Some(entry) = scan.next().await.unwrap() {
        entries.push(entry);
    }
    assert_eq!(scan.next().await.unwrap(), None);
    assert_eq!(keys(&entries), names);
    assert_eq!(entries[6].record.value.as_deref(), Some([0xff; 6].as_slice()));
    assert_eq!(entries[6].record.mod_revision, Revision(7));

    let at = ReadOptions { revision: Some(Revision(5)), ..ReadOptions::default() };
    let old = ListOptions { read: at, keys_only: true, ..ListOptions::default() };
    let old = all(&client, old).await.unwrap();
    assert_eq!(keys(&old), names[..5]);
    assert_eq!(old[0].record.value, None);
    let last = ListOptions { reverse: true, limit: Some(7), ..ListOptions::prefix("s/") };
    let mut last = keys(&all(&client, last).await.unwrap());
    last.reverse();
    assert_eq!(last, names[12..19]);
    let bounds = ListOptions {
        start: Some(Bytes::from("s/003")),
        end: Some(Bytes::from("s/005")),
        ..ListOptions::default()
    };
    assert_eq!(keys(&all(&client, bounds).await.unwrap()), names[3..5]);
    let count = ListOptions { count_only: true, ..ListOptions::default() };
    assert!(matches!(client.scan(count), Err(ClientError::Invalid { .. })));
    let long = ListOptions { start: Some(vec![0xff; 30_000].into()), ..ListOptions::default() };
    assert!(all(&client, long).await.is_err());
    let future = ReadOptions { revision: Some(Revision(99)), ..ReadOptions::default() };
    let future = ListOptions { read: future, ..ListOptions::default() };
    let error = all(&client, future).await.unwrap_err();
    assert!(!matches!(error, ClientError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_scan_that_is_cut_at_any_byte_misses_nothing_and_repeats_nothing() {
    let fake = Fake::default();
    let limits = Limits { list_entries_max: 2, ..Limits::default() };
    let url = serve_with(&fake, limits).await;
    let names = fill(&fake, 5).await;
    let whole = Cutter::new(&url, usize::MAX).await;
    assert_eq!(keys(&all(&client(&[&whole.url]), ListOptions::prefix("s/")).await.unwrap()), names);
    let bytes = whole.answered.load(Ordering::Relaxed);
    assert!(bytes > 300, "{bytes}");
    for reverse in [false, true] {
        for cut in 0..bytes {
            let cutter = Cutter::new(&url, cut).await;
            let options = ListOptions { reverse, ..ListOptions::prefix("s/") };
            let mut found = keys(&all(&client(&[&cutter.url]), options).await.unwrap());
            if reverse {
                found.reverse();
            }
            assert_eq!(found, names, "cut after {cut} bytes, in reverse: {reverse}");
        }
    }
    let cutter = Cutter::new(&url, bytes - 1).await;
    let error = all(&weak(&cutter.url), ListOptions::prefix("s/")).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_scan_goes_on_after_an_error_and_shows_no_other_revision() {
    let fake = Fake::default();
    let limits = Limits { list_entries_max: 1, ..Limits::default() };
    let url = serve_with(&fake, limits).await;
    let names = fill(&fake, 20).await;
    let cutter = Cutter::new(&url, 700).await;
    let client = weak(&cutter.url);
    let mut scan = client.scan(ListOptions::prefix("s/")).unwrap();
    let mut found = Vec::new();
    let error = loop {
        match scan.next().await {
            Ok(entry) => found.push(entry.expect("the cut comes first")),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert!(!found.is_empty() && found.len() < 20, "{}", found.len());
    let next = scan.next().await.unwrap().unwrap();
    assert_eq!(next.key, names[found.len()]);

    // What it shows may be compacted while it has no connection.
    let cutter = Cutter::new(&url, 700).await;
    let mut scan = weak(&cutter.url).scan(ListOptions::prefix("s/")).unwrap();
    while scan.next().await.is_ok() {}
    client.put(b"t", "more", &PutOptions::default()).await.unwrap();
    assert_eq!(
        client.compact(Revision(22), &WriteOptions::default()).await.unwrap().oldest,
        Revision(22)
    );
    let error = scan.next().await.unwrap_err();
    assert!(!matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("compacted"), "{error}");
}

/// Between two waits as short as those of a `select!` in a busy loop a node that takes longer to
/// answer is asked on.
#[tokio::test]
async fn a_scan_gets_on_though_each_wait_is_short() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let line = r#"{"key":"a","value":"v","create_revision":1,"mod_revision":1,"version":1}"#;
    let mut held = Held::default();
    let of_node = held.clone();
    tokio::spawn(async move {
        loop {
            let (mut node, _) = listener.accept().await.unwrap();
            let (answer, held) = (lines("7", &format!("{line}\n")), of_node.clone());
            tokio::spawn(async move {
                let _ = node.read(&mut [0; 4096]).await;
                held.until_let_go().await;
                let _ = node.write_all(&answer).await;
            });
        }
    });
    let mut scan = client(&[&url]).scan(ListOptions::default()).unwrap();
    for _ in 0..10_000 {
        let step = Duration::from_millis(1);
        if let Ok(next) = tokio::time::timeout(step, scan.next()).await {
            return assert_eq!(next.unwrap().unwrap().key, "a");
        }
        held.was_awaited();
    }
    panic!("it does not get on");
}

/// A whole answer with these lines.
fn lines(revision: &str, lines: &str) -> Vec<u8> {
    let length = lines.len();
    format!(
        "HTTP/1.1 200 OK\r\nsynod-revision: {revision}\r\ncontent-length: {length}\r\n\r\n{lines}"
    )
    .into_bytes()
}

#[tokio::test]
async fn a_scan_believes_no_line_that_no_node_gives() {
    let fake = Fake::default();
    let url = serve(&fake).await;
    let names = fill(&fake, 3).await;
    let entry = |key: &str| {
        format!(r#"{{"key":"{key}","value":"","create_revision":1,"mod_revision":1,"version":1}}"#)
    };
    let first = entry("s/000");
    let garbled = [
        "{".to_owned(),
        "\n".to_owned(),
        first.clone(),
        format!("{first}\n{first}\n"),
        format!("{first}\n{}\n", entry("s/")),
        format!("{}\n", entry("t")),
        format!("{}\n", first.replace("value", "worth")),
        format!("{}\n", first.replace("\"value\":\"\"", "\"value_base64\":\"?\"")),
        format!("{}\n", first.replace("\"value\":\"\"", "\"value\":7")),
    ];
    let mut lies: Vec<Vec<u8>> = garbled.iter().map(|text| lines("4", text)).collect();
    lies.push(lines("x", ""));
    // It does not say where it ends.
    let endless = format!("HTTP/1.1 200 OK\r\nsynod-revision: 4\r\n\r\n{first}\n");
    lies.push(endless.into_bytes());
    lies.push(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec());
    for lie in lies {
        let text = String::from_utf8_lossy(&lie).into_owned();
        let cutter = Cutter::after(&url, lie.clone(), usize::MAX).await;
        let found = all(&client(&[&cutter.url]), ListOptions::prefix("s/")).await.unwrap();
        assert!(keys(&found).ends_with(&names[2..]), "{text}");
        assert_eq!(found.len(), 3, "{text}");
        let cutter = Cutter::after(&url, lie, usize::MAX).await;
        assert!(all(&weak(&cutter.url), ListOptions::prefix("s/")).await.is_err(), "{text}");
    }
}

/// Sends puts of these values under keys of their numbers and takes all results.
async fn batch(client: &Client, resend: bool, count: u64) -> Vec<BatchResult> {
    let options = BatchOptions { resend, ..BatchOptions::default() };
    let (mut lines, mut results) = client.batch(options).unwrap();
    let sending = async move {
        for line in 1..=count {
            let sent = lines.put(format!("b/{line}").as_bytes(), &line.to_le_bytes()).await;
            match sent {
                Ok(number) => assert_eq!(number, line),
                Err(_) => return line - 1,
            }
        }
        count
    };
    let taking = async move {
        let mut taken = Vec::new();
        while let Some(result) = results.next().await {
            taken.push(result);
        }
        taken
    };
    let (sent, taken) = tokio::join!(sending, taking);
    let numbers = taken.iter().map(|result| result.line);
    assert!(numbers.eq(1..=sent), "each line has one result, in order: {taken:?}");
    taken
}

#[tokio::test]
async fn a_batch_tells_what_became_of_each_line() {
    let fake = Fake::default();
    let client = client(&[&serve(&fake).await]);
    let (mut lines, mut results) = client.batch(BatchOptions::default()).unwrap();
    lines.put(b"a", b"1").await.unwrap();
    lines.put(b"\xff", &[0xff, 0]).await.unwrap();
    lines.put(&[b'k'; 5_000], b"too long a key").await.unwrap();
    lines.delete(b"a").await.unwrap();
    lines.delete(b"a").await.unwrap();
    lines.json(br#"{"op": "put", "key": "a", "value": "2"}"#).await.unwrap();
    assert_eq!(lines.json(b"nonsense").await.unwrap(), 7);
    for wrong in [b"".as_slice(), b"  ", b"{}\n{}"] {
        assert!(matches!(lines.json(wrong).await, Err(ClientError::Invalid { .. })));
    }
    assert!(matches!(lines.put(b"", b"v").await, Err(ClientError::Invalid { .. })));
    // The results come while the batch is still open.
    let mut outcomes = Vec::new();
    for line in 1..=7 {
        let result = results.next().await.unwrap();
        assert_eq!(result.line, line);
        outcomes.push(result.outcome);
    }
    let stored = |revision, create, version| BatchOutcome::Put {
        revision: Revision(revision),
        create_revision: Revision(create),
        version,
    };
    // Lines of different keys may have effect in any order.
    assert!(matches!(outcomes[0], Ok(BatchOutcome::Put { version: 1, .. })));
    assert!(matches!(outcomes[1], Ok(BatchOutcome::Put { version: 1, .. })));
    let problem = |outcome: &Result<BatchOutcome, ClientError>| match outcome {
        Err(ClientError::Refused(problem)) => problem.kind(),
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(&outcomes[2]), Some(ProblemKind::KeyTooLong));
    assert!(matches!(outcomes[3], Ok(BatchOutcome::Delete { existed: true, .. })));
    assert!(matches!(outcomes[4], Ok(BatchOutcome::Delete { existed: false, .. })));
    assert_eq!(outcomes[5], Ok(stored(4, 4, 1)));
    assert_eq!(problem(&outcomes[6]), Some(ProblemKind::BadJson));
    drop(lines);
    assert_eq!(results.next().await, None);
    assert_eq!(fake.value(b"\xff").as_deref(), Some([0xff, 0].as_slice()));
    let wrong = BatchOptions { line_timeout: Duration::ZERO, ..BatchOptions::default() };
    assert!(matches!(client.batch(wrong), Err(ClientError::Invalid { .. })));
}

#[tokio::test]
async fn a_batch_holds_few_lines_for_those_who_take_no_results() {
    let fake = Fake::default();
    let client = client(&[&serve(&fake).await]);
    let (mut lines, mut results) = client.batch(BatchOptions::default()).unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let sender = tokio::spawn(async move {
        for line in 0..20_000_usize {
            lines.put(&line.to_le_bytes(), b"v").await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut taken = 0;
    let mut ahead_max = 0;
    while let Some(result) = results.next().await {
        result.outcome.unwrap();
        taken += 1;
        ahead_max = ahead_max.max(sent.load(Ordering::Relaxed).saturating_sub(taken));
    }
    sender.await.unwrap();
    assert_eq!(taken, 20_000);
    // The window, and the results that wait.
    assert!(ahead_max <= 512 + 64 + 2, "{ahead_max}");
    // A line that is longer than the window goes alone.
    let limits = Limits { value_bytes_max: 4 << 20, ..Limits::default() };
    let client = weak(&serve_with(&fake, limits).await);
    let (mut lines, mut results) = client.batch(BatchOptions::default()).unwrap();
    let (first, second) = tokio::join!(lines.put(b"a", &[b'v'; 3 << 20]), results.next());
    assert_eq!(first.unwrap(), 1);
    second.unwrap().outcome.unwrap();
}

#[tokio::test]
async fn a_batch_that_is_cut_at_any_byte_says_what_is_known_of_each_line() {
    const LINES: u64 = 4;
    let whole = Cutter::new(&serve(&Fake::default()).await, usize::MAX).await;
    let done = batch(&client(&[&whole.url]), false, LINES).await;
    assert!(done.iter().all(|result| result.outcome.is_ok()), "{done:?}");
    let bytes = whole.answered.load(Ordering::Relaxed);
    assert!(bytes > 300, "{bytes}");
    for cut in 0..bytes {
        let fake = Fake::default();
        let cutter = Cutter::new(&serve(&fake).await, cut).await;
        let done = batch(&client(&[&cutter.url]), false, LINES).await;
        let mut is_cut = false;
        for result in &done {
            let stored = fake.value(format!("b/{}", result.line).as_bytes());
            match &result.outcome {
                Ok(_) => assert!(!is_cut && stored.is_some(), "after {cut} bytes: {done:?}"),
                Err(ClientError::Ambiguous { .. }) => is_cut = true,
                Err(ClientError::Unreachable { .. }) => {
                    is_cut = true;
                    assert_eq!(stored, None, "after {cut} bytes: {done:?}");
                }
                Err(error) => panic!("after {cut} bytes: {error:?}"),
            }
        }
        let fake = Fake::default();
        let cutter = Cutter::new(&serve(&fake).await, cut).await;
        let done = batch(&client(&[&cutter.url]), true, LINES).await;
        assert_eq!(done.len() as u64, LINES);
        for result in &done {
            assert!(result.outcome.is_ok(), "after {cut} bytes: {done:?}");
            let stored = fake.value(format!("b/{}", result.line).as_bytes());
            assert_eq!(stored.as_deref(), Some(result.line.to_le_bytes().as_slice()));
        }
    }
}

#[tokio::test]
async fn a_batch_believes_no_result_that_no_node_gives() {
    let put = r#"{"line":1,"status":201,"revision":1,"create_revision":1,"version":1}"#;
    let garbled = [
        "{\n".to_owned(),
        put.to_owned(),
        format!("{}\n", put.replace("\"line\":1", "\"line\":2")),
        format!("{}\n", put.replace("revision", "rev")),
    ];
    for text in garbled {
        let fake = Fake::default();
        let url = serve(&fake).await;
        let cutter = Cutter::after(&url, lines("0", &text), usize::MAX).await;
        let done = batch(&client(&[&cutter.url]), true, 3).await;
        assert!(done.iter().all(|result| result.outcome.is_ok()), "{text}: {done:?}");
        let cutter = Cutter::after(&url, lines("0", &text), usize::MAX).await;
        let done = batch(&weak(&cutter.url), false, 3).await;
        assert!(done.iter().all(|result| result.outcome.is_err()), "{text}: {done:?}");
    }
}

#[tokio::test]
async fn a_line_that_can_not_be_carried_out_for_now_is_sent_again_if_that_is_wanted() {
    let fake = Fake::default();
    let url = serve(&fake).await;
    let client = client(&[&url]);
    fake.set_writes(Mode::Refuse(Refused::NoLeader));
    let done = batch(&client, false, 2).await;
    for result in &done {
        let Err(ClientError::Refused(problem)) = &result.outcome else { panic!("{result:?}") };
        assert_eq!(problem.kind(), Some(ProblemKind::NoLeader));
    }
    fake.set_writes(Mode::ServeAndLose);
    let done = batch(&client, false, 2).await;
    assert!(done.iter().all(|result| result.outcome.as_ref().is_err_and(|e| e.outcome_unknown())));
    fake.set_writes(Mode::Refuse(Refused::NoLeader));
    let seen = fake.writes_seen();
    let task = tokio::spawn(async move { batch(&client, true, 2).await });
    fake.saw_writes(seen + 5).await;
    fake.set_writes(Mode::Serve);
    let done = task.await.unwrap();
    assert!(done.iter().all(|result| result.outcome.is_ok()), "{done:?}");
}

#[tokio::test]
async fn a_batch_passes_by_a_node_that_is_dead_or_takes_none() {
    let fake = Fake::default();
    let full = Limits { batches_max: 0, ..Limits::default() };
    let (full, alive) = (serve_with(&fake, full).await, serve(&fake).await);
    for _ in 0..8 {
        let client = client(&["http://127.0.0.1:1", &full, &alive]);
        let done = batch(&client, false, 3).await;
        assert!(done.iter().all(|result| result.outcome.is_ok()), "{done:?}");
        let found = all(&client, ListOptions::prefix("b/")).await.unwrap();
        assert_eq!(found.len(), 3);
    }
    let done = batch(&weak("http://127.0.0.1:1"), false, 1_000).await;
    let unsent =
        |result: &BatchResult| matches!(result.outcome, Err(ClientError::Unreachable { .. }));
    assert!(!done.is_empty() && done.iter().all(unsent), "{done:?}");
}

#[tokio::test]
async fn a_batch_may_be_idle_for_as_long_as_it_likes() {
    let fake = Fake::default();
    let limits = Limits { body_timeout_ms: 20, ..Limits::default() };
    let cutter = Cutter::new(&serve_with(&fake, limits).await, usize::MAX).await;
    let client = weak(&cutter.url);
    let (mut lines, mut results) = client.batch(BatchOptions::default()).unwrap();
    for line in 1..=3 {
        lines.put(b"k", &[line]).await.unwrap();
        let result = results.next().await.unwrap();
        assert_eq!((result.line, result.outcome.is_ok()), (line.into(), true), "{result:?}");
        // The node has ended it meanwhile.
        cutter.has_ended(line.into()).await;
    }
    drop(lines);
    assert_eq!(results.next().await, None);
    assert_eq!(fake.value(b"k").as_deref(), Some([3].as_slice()));
}

#[tokio::test]
async fn a_value_of_the_longest_size_is_taken_whatever_its_bytes() {
    let fake = Fake::default();
    let client = client(&[&serve(&fake).await]);
    for byte in [0, b'"', b'\n', b'x', 0xff] {
        let value = vec![byte; Limits::default().value_bytes_max];
        let (mut lines, mut results) = client.batch(BatchOptions::default()).unwrap();
        lines.put(&[byte, b'/'], &value).await.unwrap();
        drop(lines);
        let result = results.next().await.unwrap();
        assert!(result.outcome.is_ok(), "{byte}: {:?}", result.outcome);
        assert!(fake.value(&[byte, b'/']).as_deref() == Some(&*value), "{byte}");
    }
}

#[tokio::test]
async fn lines_of_one_key_have_effect_in_their_order() {
    let fake = Fake::default();
    let client = client(&[&serve(&fake).await]);
    let (mut lines, mut results) = client.batch(BatchOptions::default()).unwrap();
    let sending = async move {
        for line in 0..3_000_u32 {
            lines.put(&[b'k', (line % 3) as u8], &line.to_le_bytes()).await.unwrap();
        }
    };
    let taking = async {
        let mut versions = BTreeMap::new();
        while let Some(result) = results.next().await {
            let Ok(BatchOutcome::Put { version, .. }) = result.outcome else { panic!() };
            let last = versions.insert(result.line % 3, version).unwrap_or(0);
            assert_eq!(version, last + 1);
        }
    };
    tokio::join!(sending, taking);
    assert_eq!(fake.value(b"k\x02").as_deref(), Some(2_999_u32.to_le_bytes().as_slice()));
}

#[tokio::test]
async fn a_batch_with_all_its_results_ends_though_the_node_does_not_end_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n").await.unwrap();
        let mut request = Vec::new();
        while !request.windows(4).any(|window| window == b"b/1\"") {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0);
        }
        let done =
            b"{\"line\":1,\"status\":201,\"revision\":1,\"create_revision\":1,\"version\":1}\n";
        stream.write_all(done).await.unwrap();
        std::future::pending::<()>().await;
    });
    let attempt_timeout = Duration::from_millis(500);
    let options = ClientOptions { attempt_timeout, ..ClientOptions::default() };
    let client = Client::new([&url], options).unwrap();
    let options = BatchOptions { line_timeout: Duration::from_millis(500), ..Default::default() };
    let (mut lines, mut results) = client.batch(options).unwrap();
    lines.put(b"b/1", b"v").await.unwrap();
    assert!(results.next().await.unwrap().outcome.is_ok());
    drop(lines);
    let end = tokio::time::timeout(Duration::from_secs(30), results.next()).await;
    assert_eq!(end.expect("an end"), None);
}
