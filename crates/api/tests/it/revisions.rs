//! Old revisions: reading them, and forgetting them.

use crate::fake::{Fake, Mode};
use crate::raw::{Server, request};
use serde_json::{Value, json};
use synod_api::{Leader, Limits, Refused};
use synod_kv::{Command, Operation, Revision};

async fn start(limits: Limits) -> (Fake, Server) {
    let fake = Fake::default();
    let server = Server::start(fake.clone(), limits).await;
    (fake, server)
}

async fn put(server: &Server, key: &str, value: &str) {
    let answer = server.ask(&format!("PUT /v1/kv/{key}"), "", value).await;
    assert!(matches!(answer.status, 200 | 201), "{answer:?}");
}

/// Forgets what was replaced up to a revision.
async fn compact(fake: &Fake, revision: u64) {
    let operation = Operation::Compact { revision: Revision(revision) };
    let command = Command { idempotency: None, operation };
    let deadline = tokio::time::Instant::now();
    synod_api::Replica::write(fake, command, deadline).await.unwrap();
}

/// a=1, a=2, b=1, then a is removed: revisions 1 to 4.
async fn history(limits: Limits) -> (Fake, Server) {
    let (fake, server) = start(limits).await;
    put(&server, "a", "1").await;
    put(&server, "a", "2").await;
    put(&server, "b", "1").await;
    assert_eq!(server.ask("DELETE /v1/kv/a", "", "").await.status, 200);
    (fake, server)
}

#[tokio::test]
async fn a_key_is_read_as_it_was() {
    let (fake, server) = history(Limits::default()).await;
    for (revision, value, etag) in [("1", "1", "\"1\""), ("2", "2", "\"2\""), ("3", "2", "\"2\"")] {
        let answer = server.ask(&format!("GET /v1/kv/a?revision={revision}"), "", "").await;
        assert_eq!((answer.status, answer.body), (200, value.as_bytes().to_vec()));
        assert_eq!(answer.headers["etag"], etag);
        assert_eq!(answer.headers["synod-revision"], revision);
    }
    let mut raw = server.connect().await;
    raw.send(request("HEAD /v1/kv/a?revision=3", "", "")).await;
    assert_eq!(raw.answer_to_head().await.header("synod-version"), "2");
    let same = server.ask("GET /v1/kv/a?revision=3", "if-none-match: \"2\"", "").await;
    assert_eq!(same.status, 304);
    for revision in [0, 4] {
        let gone = server.ask(&format!("GET /v1/kv/a?revision={revision}"), "", "").await;
        gone.assert_problem(404, "key-not-found", "not_applied");
        assert_eq!(gone.header("synod-revision"), revision.to_string());
    }
    let future = server.ask("GET /v1/kv/a?revision=5", "", "").await;
    future.assert_problem(400, "future-revision", "not_applied");
    compact(&fake, 2).await;
    let compacted = server.ask("GET /v1/kv/a?revision=1", "", "").await;
    compacted.assert_problem(410, "compacted", "not_applied");
    assert_eq!(compacted.json()["oldest_revision"], 2);
    assert_eq!(server.ask("GET /v1/kv/a?revision=2", "", "").await.body, b"2");
}

/// What is past needs nobody's word; what is not here yet may be elsewhere.
#[tokio::test]
async fn a_revision_that_is_here_needs_no_quorum() {
    let (fake, server) = history(Limits::default()).await;
    fake.set_barriers(Mode::Refuse(Refused::NoLeader));
    assert_eq!(server.ask("GET /v1/kv/a?revision=3", "", "").await.body, b"2");
    assert_eq!(server.ask("GET /v1/kv?revision=3", "", "").await.json()["count"], 2);
    let unknown = server.ask("GET /v1/kv/a?revision=5", "", "").await;
    unknown.assert_problem(503, "no-leader", "not_applied");
    let stale = server.ask("GET /v1/kv/a?revision=5&consistency=stale", "", "").await;
    stale.assert_problem(400, "future-revision", "not_applied");
    let wait = "GET /v1/kv/b?revision=5&min_revision=5&consistency=stale";
    let (answer, ()) = tokio::join!(server.ask(wait, "", ""), async {
        fake.waiting(1).await;
        put(&server, "b", "2").await;
    });
    assert_eq!((answer.status, answer.body), (200, b"2".to_vec()));
}

#[tokio::test]
async fn pages_and_counts_stay_at_the_revision_asked_for() {
    let (fake, server) = history(Limits::default()).await;
    let page = server.ask("GET /v1/kv?limit=1&revision=3", "", "").await;
    assert_eq!(page.header("synod-revision"), "3");
    let page = page.json();
    assert_eq!((&page["revision"], &page["entries"][0]["value"]), (&json!(3), &json!("2")));
    assert_eq!(page["next"], "b");
    put(&server, "b", "2").await;
    put(&server, "c", "1").await;
    let rest = server.ask("GET /v1/kv?limit=1&revision=3&start=b", "", "").await.json();
    assert_eq!(rest["entries"][0]["value"], "1");
    assert_eq!((&rest["revision"], rest.get("next")), (&json!(3), None));
    let back = server.ask("GET /v1/kv?reverse&revision=3", "", "").await.json();
    assert_eq!(back["entries"][1]["key"], "a");
    for (revision, count) in [(0, 0), (1, 1), (3, 2), (4, 1), (6, 2)] {
        let target = format!("GET /v1/kv?count_only&revision={revision}");
        let counted = server.ask(&target, "", "").await.json();
        assert_eq!(counted, json!({"revision": revision, "count": count}));
    }
    compact(&fake, 4).await;
    for accept in ["", "accept: application/x-ndjson"] {
        let old = server.ask("GET /v1/kv?revision=3", accept, "").await;
        old.assert_problem(410, "compacted", "not_applied");
        assert_eq!(old.json()["oldest_revision"], 4);
    }
}

/// Keys of a store that is larger than what the sockets take.
const LARGE_KEYS: usize = 48;
const LARGE_BYTES: usize = 512 << 10;

/// A stream of such a store that was begun and not read yet.
async fn begun_stream(target: &str) -> (Fake, Server, crate::raw::Raw) {
    let (fake, server) = start(Limits { list_entries_max: 1, ..Limits::default() }).await;
    for number in 0..LARGE_KEYS {
        put(&server, &format!("{number:02}"), &"v".repeat(LARGE_BYTES)).await;
    }
    let mut raw = server.connect().await;
    raw.send(request(target, "accept: application/x-ndjson\nconnection: close", "")).await;
    raw.begin().await;
    (fake, server, raw)
}

#[tokio::test]
async fn a_stream_stays_at_its_revision() {
    for target in ["GET /v1/kv", "GET /v1/kv?revision=48"] {
        let (_, server, mut raw) = begun_stream(target).await;
        put(&server, "47", "later").await;
        server.ask("DELETE /v1/kv/46", "", "").await;
        put(&server, "48", "later").await;
        let answer = raw.answer().await;
        assert_eq!(answer.header("synod-revision"), "48");
        let text = String::from_utf8(answer.body).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), LARGE_KEYS);
        for (number, line) in lines.into_iter().enumerate() {
            let entry: Value = serde_json::from_str(line).unwrap();
            assert_eq!(entry["key"], format!("{number:02}"));
            assert_eq!(entry["value"].as_str().unwrap().len(), LARGE_BYTES, "{number}");
        }
    }
}

#[tokio::test]
async fn a_stream_whose_revision_is_compacted_is_cut_visibly() {
    let (fake, server, mut raw) = begun_stream("GET /v1/kv").await;
    put(&server, "00", "later").await;
    compact(&fake, 49).await;
    let rest = raw.rest().await;
    assert!(rest.len() < LARGE_KEYS * LARGE_BYTES);
    assert!(!rest.ends_with("\r\n0\r\n\r\n"), "the stream seems to be whole");
}

#[tokio::test]
async fn a_compaction_forgets_up_to_a_revision_once() {
    let (fake, server) = history(Limits::default()).await;
    let call = async |revision: u64, headers: &str| {
        let body = json!({ "revision": revision }).to_string();
        server.ask("POST /v1/compact", headers, &body).await
    };
    let future = call(5, "").await;
    future.assert_problem(400, "future-revision", "not_applied");
    assert_eq!(server.ask("GET /v1/kv/a?revision=1", "", "").await.status, 200);
    let done = call(2, "idempotency-key: once").await;
    assert_eq!((done.status, done.json()), (200, json!({"revision": 4, "compacted_revision": 2})));
    assert!(done.headers.contains_key("synod-idempotency-expires"));
    let gone = server.ask("GET /v1/kv/a?revision=1", "", "").await;
    gone.assert_problem(410, "compacted", "not_applied");
    assert_eq!(call(2, "idempotency-key: once").await.json(), done.json());
    let other = call(3, "idempotency-key: once").await;
    other.assert_problem(422, "idempotency-mismatch", "not_applied");
    for revision in [0, 1, 2] {
        let refused = call(revision, "").await;
        refused.assert_problem(409, "already-compacted", "not_applied");
        assert_eq!(refused.json()["oldest_revision"], 2);
    }
    fake.set_writes(Mode::Refuse(Refused::Lost));
    call(3, "").await.assert_problem(503, "outcome-unknown", "unknown");
    fake.set_leader(Some(Leader::new(2, "http://10.0.0.2:7001")));
    let redirect = server.ask("POST /v1/compact?redirect", "", "{\"revision\": 3}").await;
    assert_eq!(redirect.header("location"), "http://10.0.0.2:7001/v1/compact?redirect");
}
