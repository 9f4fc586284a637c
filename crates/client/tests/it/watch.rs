//! Watches: each change once and in order, whatever becomes of the connection.

use std::sync::PoisonError;
use std::time::Duration;

use crate::world::fake::Fake;
use crate::world::held::Held;
use crate::world::{Script, Then, answer, client, compact, cutting, serve, stream, write};
use bytes::Bytes;
use synod_api::Limits;
use synod_client::{
    Changes, ClientError, EventKind, PutOptions, Revision, Watch, WatchOptions, WatchStep,
};
use synod_kv::{Operation, Txn, TxnOperation};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

/// Progress is told often.
fn limits() -> Limits {
    Limits { watch_progress_ms: 20, ..Limits::default() }
}

fn put(key: &'static str, value: &'static [u8]) -> TxnOperation {
    let (key, value) = (Bytes::from(key), Bytes::from(value));
    TxnOperation::Put { key, value, lease: None, want_previous: false }
}

async fn transact(fake: &Fake, operations: Vec<TxnOperation>) {
    let txn = Txn { compares: vec![], success: operations, failure: vec![] };
    write(fake, Operation::Txn(txn)).await;
}

/// Revisions of one change and of several, in and beside the prefix `a`.
async fn fill(fake: &Fake) {
    transact(fake, vec![put("a1", b"1")]).await;
    transact(
        fake,
        vec![put("a1", b"\xff\0"), put("b", b""), put("a2", b"two\nlines"), put("a3", b"")],
    )
    .await;
    transact(fake, vec![put("b", b"other")]).await;
    let end = Some(Bytes::from("b"));
    write(fake, Operation::DeleteRange { start: "a".into(), end, limit: 100 }).await;
    transact(fake, vec![put("a4", b"last")]).await;
}

/// What a watch of `a` is told of that.
fn filled() -> Vec<(u64, EventKind, &'static str, Option<&'static [u8]>)> {
    use EventKind::{Delete, Put};
    vec![
        (1, Put, "a1", Some(b"1")),
        (2, Put, "a1", Some(b"\xff\0")),
        (2, Put, "a2", Some(b"two\nlines")),
        (2, Put, "a3", Some(b"")),
        (4, Delete, "a1", None),
        (4, Delete, "a2", None),
        (4, Delete, "a3", None),
        (5, Put, "a4", Some(b"last")),
    ]
}

/// Compares what was told with that, and checks that revisions end where they do.
fn assert_filled(told: &[Changes], context: &str) {
    let flat = told.iter().flat_map(|changes| {
        changes.events.iter().map(|event| {
            let value = event.record.as_ref().and_then(|record| record.value.as_deref());
            let key = std::str::from_utf8(&event.key).unwrap();
            (changes.revision.0, event.kind, key, value)
        })
    });
    assert_eq!(flat.collect::<Vec<_>>(), filled(), "{context}");
    for (at, changes) in told.iter().enumerate() {
        let goes_on = told.get(at + 1).is_some_and(|next| next.revision == changes.revision);
        assert_eq!(changes.is_last, !goes_on, "{context}");
    }
}

async fn take_until(watch: &mut Watch, revision: u64) -> Vec<Changes> {
    let mut told = Vec::new();
    while watch.position() < Revision(revision) {
        told.push(watch.next().await.unwrap());
    }
    told
}

fn from_the_first() -> WatchOptions {
    WatchOptions::prefix("a").from(Revision(1))
}

#[tokio::test]
async fn nothing_is_missed_or_told_twice_wherever_the_connection_breaks() {
    let fake = Fake::default();
    fill(&fake).await;
    let node = serve(&fake, Limits::default()).await;
    let (url, passed) = cutting(&node, |_| usize::MAX).await;
    let mut watch = client(&[&url]).watch(from_the_first()).await.unwrap();
    assert_filled(&take_until(&mut watch, 5).await, "whole");
    let length = *passed.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(length > 500);
    drop(watch);
    for cut in 0..=length {
        // The second connection breaks as well, somewhere else.
        let at = move |number| match number {
            0 => cut,
            1 => (cut * 7) % length,
            _ => usize::MAX,
        };
        let (url, _) = cutting(&node, at).await;
        let mut options = from_the_first();
        if cut % 2 == 1 {
            options.part_bytes_max = 0;
        }
        let mut watch = client(&[&url]).watch(options).await.unwrap();
        let told = take_until(&mut watch, 5).await;
        assert_filled(&told, &format!("cut at {cut}"));
        assert_eq!(told.len(), if cut % 2 == 1 { 8 } else { 4 });
    }
}

#[tokio::test]
async fn a_watch_without_a_beginning_tells_what_happens_from_now_on() {
    let fake = Fake::default();
    let url = serve(&fake, limits()).await;
    let client = client(&[&url]);
    client.put(b"k", "before", &PutOptions::default()).await.unwrap();
    let mut options = WatchOptions::key("k");
    options.want_previous = true;
    let mut watch = client.watch(options).await.unwrap();
    assert_eq!(watch.position(), Revision(1));
    // What happens elsewhere moves the position.
    client.put(b"other", "x", &PutOptions::default()).await.unwrap();
    assert_eq!(watch.step().await.unwrap(), WatchStep::Progress(Revision(2)));
    client.put(b"k", "after", &PutOptions::default()).await.unwrap();
    client.delete(b"k", &PutOptions::default()).await.unwrap();
    let changes = watch.next().await.unwrap();
    let [event] = &changes.events[..] else { panic!("{changes:?}") };
    let value = |record: &Option<synod_client::Record>| record.clone().unwrap().value.unwrap();
    assert_eq!((value(&event.record), value(&event.previous)), ("after".into(), "before".into()));
    let changes = watch.next().await.unwrap();
    assert_eq!((changes.revision, changes.events[0].kind), (Revision(4), EventKind::Delete));
    assert_eq!(watch.position(), Revision(4));
}

#[tokio::test]
async fn what_was_not_awaited_to_its_end_comes_all_the_same() {
    let fake = Fake::default();
    fill(&fake).await;
    let url = serve(&fake, limits()).await;
    let mut watch = client(&[&url]).watch(from_the_first()).await.unwrap();
    let mut told = Vec::new();
    while watch.position() < Revision(5) {
        if let Ok(changes) = timeout(Duration::ZERO, watch.next()).await {
            told.push(changes.unwrap());
        }
        tokio::task::yield_now().await;
    }
    assert_filled(&told, "");
}

#[tokio::test]
async fn a_revision_that_is_forgotten_is_an_error_with_the_oldest_one() {
    let fake = Fake::default();
    fill(&fake).await;
    compact(&fake, 3).await;
    let url = serve(&fake, limits()).await;
    let error = client(&[&url]).watch(from_the_first()).await.unwrap_err();
    assert_eq!(error, ClientError::Compacted { oldest: Revision(4) });
    let ends = "id: 1\nevent: progress\ndata: {\"revision\":1}\n\n\
                event: compacted\ndata: {\"reason\":\"compacted\",\"detail\":\"d\",\"oldest_revision\":9}\n\n";
    let server = Script::start(vec![stream(ends)]).await;
    let mut watch = client(&[&server.url]).watch(WatchOptions::prefix("")).await.unwrap();
    let error = watch.next().await.unwrap_err();
    assert_eq!(error, ClientError::Compacted { oldest: Revision(9) });
    assert_eq!(watch.position(), Revision(1));
}

const BEGINS: &str = "id: 4\nevent: progress\ndata: {\"revision\":4}\n\n";
const CHANGE: &str = "id: 5\nevent: put\ndata: {\"type\":\"put\",\"revision\":5,\"key\":\"a\",\
    \"value\":\"v\",\"create_revision\":5,\"mod_revision\":5,\"version\":1}\n\n";

fn good() -> Vec<u8> {
    stream(&[BEGINS, CHANGE].concat())
}

#[tokio::test]
async fn a_watch_goes_on_behind_its_last_id_whatever_a_node_says() {
    let dropped = |reason: &str| {
        let end = format!(
            "event: dropped\ndata: {{\"reason\":\"{reason}\",\"detail\":\"Elsewhere.\"}}\n\n"
        );
        stream(&[BEGINS, &end].concat())
    };
    let no_leader = synod_kv::http::Problem::new(
        synod_client::ProblemKind::NoLeader,
        "No quorum answers.",
        synod_kv::http::Effect::NotApplied,
    );
    let refused = serde_json::to_string(&no_leader).unwrap();
    let answers = vec![
        stream(BEGINS),
        dropped("stopping"),
        answer("503 Service Unavailable", "", &refused),
        dropped("overloaded"),
        answer("502 Bad Gateway", "", "a proxy"),
        dropped("failed"),
        // Cut off without a word, in the middle of an event.
        stream(&[BEGINS, &CHANGE[..40]].concat()),
        good(),
    ];
    let count = answers.len();
    let server = Script::start(answers).await;
    let mut watch = client(&[&server.url]).watch(WatchOptions::key("a")).await.unwrap();
    let changes = watch.next().await.unwrap();
    assert_eq!((changes.revision, changes.events.len()), (Revision(5), 1));
    let heads = server.heads();
    assert_eq!(heads.len(), count);
    assert!(!heads[0].contains("last-event-id"), "{}", heads[0]);
    for head in &heads[1..] {
        assert!(
            head.contains("last-event-id: 4\r\n") && head.contains("/v1/watch?key=a "),
            "{head}"
        );
    }
}

#[tokio::test]
async fn a_silent_node_is_left() {
    let answers = vec![
        (stream(BEGINS), Then::Hang),
        // Not even a beginning.
        (stream(""), Then::Hang),
        (good(), Then::Close),
    ];
    let server = Script::start_then(answers).await;
    let mut options = WatchOptions::key("a");
    options.silence_max = Duration::from_millis(20);
    let mut watch = client(&[&server.url]).watch(options).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, Revision(5));
    assert_eq!(server.heads().len(), 3);
}

/// Waits as `select!` does in a loop in which something else happens all the time. Between two
/// waits `meanwhile` goes on.
async fn wait_in_small_steps(watch: &mut Watch, mut meanwhile: impl AsyncFnMut()) -> Changes {
    for _ in 0..30_000 {
        if let Ok(changes) = timeout(Duration::from_millis(1), watch.next()).await {
            return changes.unwrap();
        }
        meanwhile().await;
    }
    panic!("it does not get on");
}

#[tokio::test]
async fn a_silent_node_is_left_by_who_waits_a_little_at_a_time() {
    let answers = vec![(stream(BEGINS), Then::Hang), (good(), Then::Close)];
    let server = Script::start_then(answers).await;
    let mut watch = client(&[&server.url]).watch(WatchOptions::key("a")).await.unwrap();
    let mut seconds = 0;
    let changes = wait_in_small_steps(&mut watch, async || {
        if server.heads().len() == 1 && seconds < 35 {
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(1)).await;
            tokio::time::resume();
            seconds += 1;
        }
    });
    assert_eq!(changes.await.revision, Revision(5));
    assert!(seconds >= 30, "after {seconds} s");
}

#[tokio::test]
async fn a_connection_is_made_though_nobody_waits_for_it_to_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut held = Held::default();
    let of_node = held.clone();
    tokio::spawn(async move {
        for (is_held, answer) in [(false, stream(BEGINS)), (true, good())] {
            let (mut node, _) = listener.accept().await.unwrap();
            let _ = node.read(&mut [0; 4096]).await;
            if is_held {
                of_node.until_let_go().await;
            }
            node.write_all(&answer).await.unwrap();
        }
        std::future::pending::<()>().await;
    });
    let mut watch = client(&[&url]).watch(WatchOptions::key("a")).await.unwrap();
    let changes = wait_in_small_steps(&mut watch, async || held.was_awaited()).await;
    assert_eq!(changes.revision, Revision(5));
}

#[tokio::test]
async fn what_no_node_says_is_not_handed_out() {
    let second = CHANGE.replace("id: 5\n", "").replace("\"a\"", "\"b\"");
    let garbled = [
        "id: 5\nevent: put\ndata: {\n\n".to_owned(),
        "id: x\nevent: put\ndata: {}\n\n".to_owned(),
        // Not base64, no value, a value of what was removed, no such kind.
        CHANGE.replace("\"key\":\"a\"", "\"key_base64\":\"?\""),
        CHANGE.replace("\"value\":\"v\",", ""),
        CHANGE.replace("\"type\":\"put\"", "\"type\":\"delete\""),
        CHANGE.replace("\"type\":\"put\"", "\"type\":\"twirl\""),
        // Out of turn: seen already, an id of another, two revisions in one.
        CHANGE.replace('5', "4"),
        CHANGE.replace("id: 5", "id: 6"),
        [second.as_str(), &CHANGE.replace('5', "6")].concat(),
        "id: 3\nevent: progress\ndata: {\"revision\":3}\n\n".to_owned(),
        "id: 7\nevent: progress\ndata: {\"revision\":6}\n\n".to_owned(),
        [second.as_str(), "id: 6\nevent: progress\ndata: {\"revision\":6}\n\n"].concat(),
    ];
    for text in garbled {
        let bad = stream(&[BEGINS, &text].concat());
        let server = Script::start(vec![bad, good()]).await;
        let mut watch = client(&[&server.url]).watch(WatchOptions::key("a")).await.unwrap();
        let changes = watch.next().await.unwrap();
        assert_eq!((changes.revision, changes.events.len()), (Revision(5), 1), "{text}");
        assert_eq!(&changes.events[0].key[..], b"a", "{text}");
    }
    // What a later release may say is no harm, nor are comments.
    let later = ": hello\nretry: 5\nevent: later\ndata: ?\n\n";
    let server = Script::start(vec![stream(&[BEGINS, later, CHANGE].concat())]).await;
    let mut watch = client(&[&server.url]).watch(WatchOptions::key("a")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, Revision(5));
    assert_eq!(server.heads().len(), 1);
}

#[tokio::test]
async fn somebody_who_never_makes_sense_is_not_asked_for_ever() {
    let bad = stream(&[BEGINS, "id: 5\nevent: put\ndata: {\n\n"].concat());
    let server = Script::start(vec![bad; 9]).await;
    let mut watch = client(&[&server.url]).watch(WatchOptions::key("a")).await.unwrap();
    let error = watch.next().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    let error = client(&[&server.url]).watch(WatchOptions::key("")).await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid { .. }), "{error:?}");
}

#[tokio::test]
async fn an_outage_is_told_when_it_lasts_and_the_watch_goes_on_behind_it() {
    // Somewhere nobody listens.
    let call_timeout = Duration::from_millis(50);
    let options = synod_client::ClientOptions { call_timeout, ..Default::default() };
    let lonely = synod_client::Client::new(["http://127.0.0.1:1"], options).unwrap();
    let error = lonely.watch(WatchOptions::prefix("")).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    let server =
        Script::start(vec![stream(BEGINS), answer("502 Bad Gateway", "", "?"), good()]).await;
    let mut options = WatchOptions::key("a");
    options.outage_max = Some(Duration::ZERO);
    let mut watch = crate::world::client(&[&server.url]).watch(options).await.unwrap();
    let mut errors = 0;
    let changes = loop {
        match watch.next().await {
            Ok(changes) => break changes,
            Err(ClientError::Unreachable { .. }) => errors += 1,
            Err(error) => panic!("{error:?}"),
        }
    };
    assert_eq!((changes.revision, errors), (Revision(5), 2));
}

#[tokio::test]
async fn a_revision_that_no_node_has_is_refused() {
    let problem = synod_kv::http::Problem::new(
        synod_client::ProblemKind::FutureRevision,
        "No such revision.",
        synod_kv::http::Effect::NotApplied,
    );
    let text = serde_json::to_string(&problem).unwrap();
    let behind = || answer("400 Bad Request", "", &text);
    // A node that is behind is passed by.
    let server = Script::start(vec![behind(), stream(BEGINS)]).await;
    let options = || WatchOptions::prefix("").from(Revision(5));
    assert!(client(&[&server.url]).watch(options()).await.is_ok());
    let server = Script::start(vec![behind(), behind(), behind()]).await;
    let error = client(&[&server.url]).watch(options()).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused(_)), "{error:?}");
    // Who has no time to hear that from all of them is told what one said.
    let server = Script::start(vec![behind()]).await;
    let call_timeout = Duration::from_millis(700);
    let options_of_client = synod_client::ClientOptions { call_timeout, ..Default::default() };
    let hasty = synod_client::Client::new([&server.url], options_of_client).unwrap();
    let error = hasty.watch(options()).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused(problem) if problem.detail == "No such revision.")
    );
}
