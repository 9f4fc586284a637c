//! The client against the real server over a replica of one, and against servers
//! that misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::world::fake::{Fake, Mode, NODE};
use bytes::Bytes;
use synod_api::{Leader, Limits, Refused};
use synod_client::{
    Client, ClientError, ClientOptions, Condition, Consistency, ListOptions, ProblemKind,
    PutOptions, ReadOptions, Revision, WriteOptions,
};
use synod_kv::KvOptions;
use synod_kv::http::{Effect, Problem};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

async fn serve(fake: &Fake) -> String {
    serve_with(fake, Limits::default()).await
}

async fn serve_with(fake: &Fake, limits: Limits) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(synod_api::serve(listener, fake.clone(), limits, std::future::pending()));
    url
}

/// A URL where nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn client(urls: &[&str]) -> Client {
    let options = ClientOptions {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        ..ClientOptions::default()
    };
    Client::new(urls, options).unwrap()
}

fn impatient(urls: &[&str], attempt_ms: u64, call_ms: u64) -> Client {
    let options = ClientOptions {
        attempt_timeout: Duration::from_millis(attempt_ms),
        call_timeout: Duration::from_millis(call_ms),
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        ..ClientOptions::default()
    };
    Client::new(urls, options).unwrap()
}

/// Retries three times in all.
fn frugal(url: &str) -> Client {
    let options = ClientOptions {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        retries_saved_max: 3,
        retries_per_call: 0.0,
        ..ClientOptions::default()
    };
    Client::new([url], options).unwrap()
}

fn once() -> PutOptions {
    PutOptions { no_retry: true, ..PutOptions::default() }
}

#[tokio::test]
async fn a_key_goes_through_its_life() {
    let fake = Fake::default();
    let client = client(&[&serve(&fake).await]);
    let key = b"a/\xff ?#%+";
    let read = ReadOptions::default();
    assert_eq!(client.get(key, &read).await.unwrap(), None);
    let stored = client.put(key, "one", &PutOptions::default()).await.unwrap();
    assert_eq!((stored.revision, stored.version, stored.attempts), (Revision(1), 1, 1));
    let options = PutOptions { want_previous: true, ..PutOptions::default() };
    let stored = client.put(key, vec![0, 255], &options).await.unwrap();
    assert_eq!(stored.previous.unwrap().value.unwrap(), b"one".as_slice());
    let found = client.get(key, &read).await.unwrap().unwrap();
    assert_eq!(found.value, [0, 255].as_slice());
    assert_eq!((found.create_revision, found.mod_revision), (Revision(1), Revision(2)));
    assert_eq!((found.version, found.revision, found.lease), (2, Revision(2), None));
    let deleted = client.delete(key, &options).await.unwrap().unwrap();
    assert_eq!(deleted.previous.unwrap().value.unwrap(), [0, 255].as_slice());
    assert_eq!(client.delete(key, &options).await.unwrap(), None);
    let empty = client.put(b"", "x", &options).await;
    assert!(matches!(empty, Err(ClientError::Invalid { .. })));
}

#[tokio::test]
async fn conditions_fail_with_what_is_there() {
    let fake = Fake::default();
    let client = client(&[&serve(&fake).await]);
    let put = async |condition| client.put(b"a", "x", &PutOptions::only_if(condition)).await;
    let failed = |current| Err(ClientError::ConditionFailed { current });
    assert_eq!(put(Condition::Exists).await, failed(None));
    assert_eq!(put(Condition::Absent).await.unwrap().revision, Revision(1));
    assert_eq!(put(Condition::Absent).await, failed(Some(Revision(1))));
    assert_eq!(put(Condition::At(Revision(1))).await.unwrap().revision, Revision(2));
    assert_eq!(put(Condition::At(Revision(1))).await, failed(Some(Revision(2))));
    let options = PutOptions::only_if(Condition::At(Revision(9)));
    let deleted = client.delete(b"a", &options).await;
    assert_eq!(deleted, Err(ClientError::ConditionFailed { current: Some(Revision(2)) }));
}

#[tokio::test]
async fn lists_ranges_and_status() {
    let fake = Fake::default();
    let limits = Limits { range_delete_keys_max: 2, ..Limits::default() };
    let client = client(&[&serve_with(&fake, limits).await]);
    for key in ["a", "b/1", "b/2", "b/\u{e9}", "c"] {
        client.put(key.as_bytes(), key, &PutOptions::default()).await.unwrap();
    }
    client.put(b"b/\xff", "raw", &PutOptions::default()).await.unwrap();
    for reverse in [false, true] {
        let mut options = ListOptions { limit: Some(1), reverse, ..ListOptions::prefix("b/") };
        let mut keys = Vec::new();
        loop {
            let page = client.list(&options).await.unwrap();
            let following = options.after(&page);
            keys.extend(page.entries.into_iter().map(|entry| entry.key));
            let Some(following) = following else { break };
            options = following;
        }
        if reverse {
            keys.reverse();
        }
        let expected: [&[u8]; 4] = [b"b/1", b"b/2", "b/\u{e9}".as_bytes(), b"b/\xff"];
        assert_eq!(keys, expected);
    }
    let first = ListOptions { limit: Some(2), ..ListOptions::prefix("b/") };
    let page = client.list(&first).await.unwrap();
    client.put(b"b/\xff", "later", &PutOptions::default()).await.unwrap();
    let rest = client.list(&first.after(&page).unwrap()).await.unwrap();
    let value = rest.entries[1].record.value.as_deref();
    assert_eq!((rest.revision, value), (page.revision, Some(b"raw".as_slice())));
    let past = ReadOptions { revision: Some(Revision(4)), ..ReadOptions::default() };
    assert_eq!(client.get(b"b/\xff", &past).await.unwrap(), None);
    let count = ListOptions { count_only: true, ..ListOptions::default() };
    assert_eq!(client.list(&count).await.unwrap().count, 6);
    let bare = ListOptions {
        keys_only: true,
        start: Some(Bytes::from("c")),
        end: Some(Bytes::from("d")),
        ..ListOptions::default()
    };
    let page = client.list(&bare).await.unwrap();
    assert_eq!((page.entries.len(), &page.entries[0].record.value), (1, &None));
    assert_eq!(client.delete_prefix(b"b/", &WriteOptions::default()).await.unwrap().deleted, 4);
    assert!(matches!(
        client.delete_prefix(b"", &WriteOptions::default()).await,
        Err(ClientError::Invalid { .. })
    ));
    assert_eq!(client.delete_all(&WriteOptions::default()).await.unwrap().deleted, 2);
    assert_eq!(client.status().await.unwrap().node, crate::world::fake::NODE);
    assert_eq!(client.status_of(0).await.unwrap().revision, fake_revision(&fake));
    assert!(client.status_of(1).await.is_err());
}

#[tokio::test]
async fn a_range_that_was_removed_in_part_is_not_called_refused() {
    // The second name of the range finds no room.
    let options = KvOptions { idempotency_records_max: 1, ..KvOptions::default() };
    let fake = Fake::new(options);
    let limits = Limits { range_delete_keys_max: 2, ..Limits::default() };
    let url = serve_with(&fake, limits).await;
    let options = ClientOptions { retries_saved_max: 0, ..ClientOptions::default() };
    let client = Client::new([&url], options).unwrap();
    for key in ["a1", "a2", "a3"] {
        client.put(key.as_bytes(), "v", &once()).await.unwrap();
    }
    let error = client.delete_prefix(b"a", &WriteOptions::default()).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error:?}");
    assert_eq!(fake.value(b"a1"), None);

    // The same when it takes several calls: the first does something, the second
    // is refused.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let problem = Problem::new(ProblemKind::BadQuery, "No.", Effect::NotApplied);
    let answers = [
        ("200 OK", r#"{"revision":7,"deleted":3,"more":true}"#.to_owned()),
        ("400 Bad Request", serde_json::to_string(&problem).unwrap()),
    ];
    tokio::spawn(async move {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let error = frugal(&url).delete_prefix(b"a", &WriteOptions::default()).await.unwrap_err();
    let ClientError::Ambiguous { last, .. } = error else { panic!("{error:?}") };
    assert!(last.starts_with("3 keys were removed, then: No."), "{last}");
}

#[tokio::test]
async fn a_range_delete_that_never_gets_on_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&calls);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            assert!(seen.fetch_add(1, Ordering::Relaxed) < 50, "it goes on and on");
            // It says that it removed a key, and again at the same revision.
            let body = r#"{"revision":7,"deleted":1,"more":true}"#;
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let error = frugal(&url).delete_prefix(b"a", &WriteOptions::default()).await.unwrap_err();
    let ClientError::Ambiguous { last, .. } = error else { panic!("{error:?}") };
    assert!(last.starts_with("17 keys were removed"), "{last}");
    assert_eq!(calls.load(Ordering::Relaxed), 17);
}

fn fake_revision(fake: &Fake) -> u64 {
    synod_api::Replica::revision(fake).0
}

#[tokio::test]
async fn a_dead_node_is_passed_by() {
    let fake = Fake::default();
    let (dead, alive) = (nobody().await, serve(&fake).await);
    // Whichever of them is asked first.
    for _ in 0..8 {
        let client = client(&[&dead, &alive, &dead]);
        for key in 0..4_u8 {
            client.put(&[b'k', key], "v", &once()).await.unwrap();
        }
    }
    let lonely = frugal(&dead);
    let error = lonely.put(b"a", "v", &PutOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { attempts: 4, .. }), "{error:?}");
    let error = lonely.get(b"a", &ReadOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_503_is_tried_again_until_it_passes() {
    let fake = Fake::default();
    let client = client(&[&serve(&fake).await]);
    fake.set_writes(Mode::Refuse(Refused::NoLeader));
    let task = tokio::spawn({
        let client = client.clone();
        async move { client.put(b"a", "v", &once()).await }
    });
    fake.saw_writes(3).await;
    fake.set_writes(Mode::Serve);
    let stored = task.await.unwrap().unwrap();
    assert!(stored.attempts >= 4, "{stored:?}");
    assert_eq!(stored.revision, Revision(1));
}

#[tokio::test]
async fn a_refusal_that_lasts_is_the_answer() {
    let fake = Fake::default();
    let url = serve(&fake).await;
    fake.set_writes(Mode::Refuse(Refused::NoLeader));
    let client = frugal(&url);
    let error = client.put(b"a", "v", &PutOptions::default()).await.unwrap_err();
    assert_eq!(fake.writes_seen(), 4);
    let ClientError::Refused(problem) = error else { panic!("{error:?}") };
    assert_eq!(problem.kind(), Some(ProblemKind::NoLeader));
    // What can't get better is not tried again.
    let seen = fake.writes_seen();
    let long = vec![b'k'; 5_000];
    let error = client.put(&long, "v", &PutOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused(_)), "{error:?}");
    assert_eq!(fake.writes_seen(), seen);
}

#[tokio::test]
async fn a_lost_outcome_is_found_again_under_the_writes_name() {
    let fake = Fake::default();
    let client = client(&[&serve(&fake).await]);
    fake.set_writes(Mode::ServeAndLose);
    let task = tokio::spawn({
        let client = client.clone();
        async move { client.put(b"a", "v", &PutOptions::only_if(Condition::Absent)).await }
    });
    fake.saw_writes(2).await;
    fake.set_writes(Mode::Serve);
    // The first attempt had effect; the others got its outcome, not a 412.
    let stored = task.await.unwrap().unwrap();
    assert_eq!((stored.revision, stored.version), (Revision(1), 1));
    assert_eq!(fake_revision(&fake), 1);
}

#[tokio::test]
async fn without_a_name_a_lost_outcome_is_ambiguous_at_once() {
    let fake = Fake::default();
    let client = client(&[&serve(&fake).await]);
    fake.set_writes(Mode::ServeAndLose);
    let error = client.put(b"a", "v", &once()).await.unwrap_err();
    assert!(error.outcome_unknown());
    assert!(matches!(error, ClientError::Ambiguous { attempts: 1, idempotency_key: None, .. }));
    assert_eq!(fake.writes_seen(), 1);
    // With a name of the caller's own, the caller can finish it later.
    let options = PutOptions { idempotency_key: Some("mine".to_owned()), ..once() };
    let error = client.delete(b"a", &options).await.unwrap_err();
    let ClientError::Ambiguous { idempotency_key: Some(name), .. } = error else {
        panic!("{error:?}")
    };
    fake.set_writes(Mode::Serve);
    let again = PutOptions { idempotency_key: Some(name), ..PutOptions::default() };
    assert_eq!(client.delete(b"a", &again).await.unwrap().unwrap().revision, Revision(2));
    assert_eq!(fake_revision(&fake), 2);
}

#[tokio::test]
async fn a_write_that_never_gets_its_outcome_ends_ambiguous() {
    let fake = Fake::default();
    let url = serve(&fake).await;
    fake.set_writes(Mode::Hang);
    let client = impatient(&[&url], 20, 100);
    let error = client.put(b"a", "v", &PutOptions::default()).await.unwrap_err();
    let ClientError::Ambiguous { attempts, idempotency_key: Some(_), .. } = error else {
        panic!("{error:?}")
    };
    assert!(attempts >= 2);
    // A read that gets no answer has no effect.
    fake.set_barriers(Mode::Hang);
    let error = client.get(b"a", &ReadOptions::default()).await.unwrap_err();
    assert!(!error.outcome_unknown(), "{error:?}");
    let stale = ReadOptions { consistency: Consistency::Stale, ..ReadOptions::default() };
    assert_eq!(client.get(b"a", &stale).await.unwrap(), None);
    // An unknown outcome stays unknown, even if the last answer is a refusal.
    let task = tokio::spawn({
        let client = impatient(&[&url], 200, 2_000);
        async move { client.put(b"b", "v", &PutOptions::default()).await }
    });
    let seen = fake.writes_seen();
    fake.saw_writes(seen + 1).await;
    fake.set_writes(Mode::Refuse(Refused::Lost));
    fake.saw_writes(seen + 2).await;
    fake.set_writes(Mode::Refuse(Refused::NoLeader));
    let error = task.await.unwrap().unwrap_err();
    assert!(error.outcome_unknown(), "{error:?}");
}

/// A server that takes whole requests of one byte of body, counts them, and hangs up
/// without a word until `good` says otherwise; then it passes them on.
async fn hang_up(behind: Option<String>) -> (String, watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (count, counted) = watch::channel(0);
    let first = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\nv") {
                if stream.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            count.send_modify(|count| *count += 1);
            let is_first = first.fetch_add(1, Ordering::Relaxed) == 0;
            let Some(behind) = behind.as_ref() else { continue };
            // The request gets through in any case; the first answer does not.
            let mut node =
                tokio::net::TcpStream::connect(behind.trim_start_matches("http://")).await.unwrap();
            let request = String::from_utf8(request).unwrap();
            let request = request.replacen("\r\n", "\r\nconnection: close\r\n", 1);
            node.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            node.read_to_end(&mut answer).await.unwrap();
            if !is_first {
                stream.write_all(&answer).await.unwrap();
            }
        }
    });
    (url, counted)
}

#[tokio::test]
async fn a_connection_cut_after_the_request_leaves_the_outcome_open() {
    let (url, counted) = hang_up(None).await;
    let client = impatient(&[&url], 1_000, 5_000);
    let error = client.put(b"a", "v", &once()).await.unwrap_err();
    assert!(matches!(error, ClientError::Ambiguous { attempts: 1, .. }), "{error:?}");
    assert_eq!(*counted.borrow(), 1, "a write without a name was sent twice");
}

#[tokio::test]
async fn a_write_whose_answer_was_cut_off_has_effect_once() {
    let fake = Fake::default();
    let (url, counted) = hang_up(Some(serve(&fake).await)).await;
    let client = client(&[&url]);
    let options = PutOptions::only_if(Condition::Absent);
    let stored = client.put(b"a", "v", &options).await.unwrap();
    assert_eq!((stored.attempts, stored.revision), (2, Revision(1)));
    assert_eq!(*counted.borrow(), 2);
    assert_eq!(fake_revision(&fake), 1);
}

#[tokio::test]
async fn a_node_that_knows_no_leader_hides_none() {
    let (lost, leader) = (Fake::default(), Fake::default());
    let (lost_url, leader_url) = (serve(&lost).await, serve(&leader).await);
    lost.set_leader(None);
    lost.set_writes(Mode::Refuse(Refused::NoLeader));
    leader.set_leader(Some(Leader::new(NODE, &leader_url)));
    // Nobody listens at the third.
    let client = client(&["http://127.0.0.1:1", &lost_url, &leader_url]);
    assert_eq!(client.transfer(Some(2)).await.unwrap().id, 2);
}

#[tokio::test]
async fn the_leader_is_asked_if_it_is_known_and_redirects_are_not_followed() {
    let (follower, leader) = (Fake::default(), Fake::default());
    let (follower_url, leader_url) = (serve(&follower).await, serve(&leader).await);
    follower.set_leader(Some(Leader::new(2, &leader_url)));
    leader.set_leader(Some(Leader::new(2, &leader_url)));
    let client = client(&[&follower_url, &leader_url]);
    client.get(b"x", &ReadOptions::default()).await.unwrap();
    for _ in 0..4 {
        client.put(b"a", "v", &PutOptions::default()).await.unwrap();
    }
    assert_eq!((follower.writes_seen(), leader.writes_seen()), (0, 4));
    // A leader that is none of the endpoints is not believed.
    leader.set_leader(Some(Leader::new(3, "http://192.0.2.1:1")));
    client.put(b"a", "v", &PutOptions::default()).await.unwrap();
    client.put(b"a", "v", &PutOptions::default()).await.unwrap();
    assert_eq!(leader.writes_seen(), 6);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        let answer = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: {leader_url}/v1/kv/a\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let redirected = impatient(&[&url], 1_000, 1_000);
    assert!(redirected.get(b"a", &ReadOptions::default()).await.is_err());
}

#[tokio::test]
async fn wrong_settings_are_refused() {
    let new = |options| Client::new(["127.0.0.1:1"], options);
    assert!(new(ClientOptions::default()).is_ok());
    let long = ClientOptions { call_timeout: Duration::from_secs(301), ..Default::default() };
    assert!(matches!(new(long), Err(ClientError::Invalid { .. })));
    let short = ClientOptions { attempt_timeout: Duration::ZERO, ..Default::default() };
    assert!(matches!(new(short), Err(ClientError::Invalid { .. })));
    let client = new(ClientOptions::default()).unwrap();
    let options = PutOptions { idempotency_key: Some("a b".to_owned()), ..once() };
    let error = client.put(b"a", "v", &options).await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid { .. }));
}
