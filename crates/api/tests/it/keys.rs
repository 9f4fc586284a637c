//! What the calls on one key do.

use crate::fake::Fake;
use crate::raw::{Server, request};
use bytes::Bytes;
use serde_json::json;
use synod_api::Limits;
use synod_kv::{Condition, Operation};

async fn start() -> (Fake, Server) {
    let fake = Fake::default();
    let server = Server::start(fake.clone(), Limits::default()).await;
    (fake, server)
}

#[tokio::test]
async fn a_key_is_created_replaced_read_and_deleted() {
    let (_, server) = start().await;
    let created = server.ask("PUT /v1/kv/a", "", "one").await;
    assert_eq!(created.status, 201);
    assert_eq!(created.header("etag"), "\"1\"");
    assert_eq!(created.header("synod-revision"), "1");
    assert_eq!(created.header("synod-leader"), "1 http://127.0.0.1:7001");
    assert_eq!(created.header("content-type"), "application/json");
    assert_eq!(created.json(), json!({"revision": 1, "create_revision": 1, "version": 1}));

    let replaced = server.ask("PUT /v1/kv/a?prev=true", "", "two").await;
    assert_eq!(replaced.status, 200);
    assert_eq!(replaced.header("etag"), "\"2\"");
    assert_eq!(replaced.json()["version"], 2);
    assert_eq!(replaced.json()["previous"]["value"], "one");

    let read = server.ask("GET /v1/kv/a", "", "").await;
    assert_eq!((read.status, read.body.as_slice()), (200, b"two".as_slice()));
    assert_eq!(read.header("etag"), "\"2\"");
    assert_eq!(read.header("synod-create-revision"), "1");
    assert_eq!(read.header("synod-version"), "2");
    assert_eq!(read.header("content-type"), "application/octet-stream");
    assert_eq!(read.header("x-content-type-options"), "nosniff");
    assert_eq!(read.header("content-length"), "3");

    let mut raw = server.connect().await;
    raw.send(request("HEAD /v1/kv/a", "", "")).await;
    let head = raw.answer_to_head().await;
    assert_eq!((head.status, head.header("content-length")), (200, "3"));
    assert_eq!(head.header("etag"), "\"2\"");
    // Nothing of the value follows: the next answer begins right there.
    raw.send(request("DELETE /v1/kv/a?prev", "", "")).await;
    let deleted = raw.answer().await;
    assert_eq!(deleted.status, 200);
    assert_eq!(deleted.json()["previous"]["value"], "two");
    assert_eq!(deleted.json()["revision"], 3);

    server.ask("GET /v1/kv/a", "", "").await.assert_problem(404, "key-not-found", "not_applied");
    let again = server.ask("DELETE /v1/kv/a", "", "").await;
    again.assert_problem(404, "key-not-found", "not_applied");
    assert_eq!(again.header("synod-revision"), "3");
}

#[tokio::test]
async fn keys_are_bytes() {
    let (fake, server) = start().await;
    let cases: [(&str, &[u8]); 9] = [
        ("a/b", b"a/b"),
        ("//", b"//"),
        ("..", b".."),
        ("../../etc/passwd", b"../../etc/passwd"),
        ("%2e%2e/x", b"../x"),
        ("%00", b"\0"),
        ("%ff%fe", b"\xff\xfe"),
        ("a+b%20c", b"a+b c"),
        ("%2Fv1%2Fkv%2F", b"/v1/kv/"),
    ];
    for (raw, key) in cases {
        let put = server.ask(&format!("PUT /v1/kv/{raw}"), "", raw).await;
        assert_eq!(put.status, 201, "{raw}: {put:?}");
        assert_eq!(fake.value(key).unwrap(), raw.as_bytes(), "{raw}");
        let got = server.ask(&format!("GET /v1/kv/{raw}"), "", "").await;
        assert_eq!(got.body, raw.as_bytes(), "{raw}");
    }
    // The same bytes in another spelling are the same key.
    assert_eq!(server.ask("GET /v1/kv/%61%2fb", "", "").await.body, b"a/b");
}

#[tokio::test]
async fn values_may_be_empty_and_as_long_as_allowed() {
    let fake = Fake::default();
    let limits = Limits { value_bytes_max: 300_000, ..Limits::default() };
    let server = Server::start(fake.clone(), limits).await;
    let empty = server.call("PUT /v1/kv/e HTTP/1.1\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(empty.status, 201);
    assert_eq!(fake.value(b"e").unwrap(), b"");
    assert_eq!(server.ask("GET /v1/kv/e", "", "").await.header("content-length"), "0");
    // Without any word about a body there is none.
    assert_eq!(server.ask("PUT /v1/kv/n", "", "").await.status, 201);
    let long = "v".repeat(300_000);
    assert_eq!(server.ask("PUT /v1/kv/l", "", &long).await.status, 201);
    assert_eq!(fake.value(b"l").unwrap(), long.as_bytes());
    let chunked = "PUT /v1/kv/c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(server.call(chunked).await.status, 201);
    assert_eq!(fake.value(b"c").unwrap(), b"abcde");
}

#[tokio::test]
async fn preconditions_decide() {
    let (_, server) = start().await;
    let once = server.ask("PUT /v1/kv/a", "if-none-match: *", "1").await;
    assert_eq!(once.status, 201);
    let twice = server.ask("PUT /v1/kv/a", "if-none-match: *", "2").await;
    twice.assert_problem(412, "precondition-failed", "not_applied");
    assert_eq!(twice.header("etag"), "\"1\"");
    assert_eq!(twice.json()["current_revision"], 1);
    assert_eq!(server.ask("PUT /v1/kv/a", "if-match: \"1\"", "2").await.status, 200);
    let stale = server.ask("PUT /v1/kv/a", "if-match: \"1\"", "3").await;
    stale.assert_problem(412, "precondition-failed", "not_applied");
    assert_eq!(stale.header("etag"), "\"2\"");
    assert_eq!(server.ask("PUT /v1/kv/a", "if-match: *", "3").await.status, 200);
    let absent = server.ask("PUT /v1/kv/b", "if-match: *", "1").await;
    absent.assert_problem(412, "precondition-failed", "not_applied");
    assert_eq!(absent.header("etag"), "");
    let delete = server.ask("DELETE /v1/kv/a", "if-match: \"1\"", "").await;
    delete.assert_problem(412, "precondition-failed", "not_applied");
    assert_eq!(server.ask("DELETE /v1/kv/a", "if-match: \"3\"", "").await.status, 200);
    let gone = server.ask("DELETE /v1/kv/a", "if-match: \"3\"", "").await;
    gone.assert_problem(412, "precondition-failed", "not_applied");
}

#[tokio::test]
async fn a_reader_that_has_the_value_gets_304() {
    let (_, server) = start().await;
    server.ask("PUT /v1/kv/a", "", "1").await;
    for tags in ["\"1\"", "*", "\"7\", W/\"1\""] {
        let same = server.ask("GET /v1/kv/a", &format!("if-none-match: {tags}"), "").await;
        assert_eq!((same.status, same.header("etag")), (304, "\"1\""), "{tags}");
        assert_eq!(same.header("synod-version"), "1");
    }
    assert_eq!(server.ask("GET /v1/kv/a", "if-none-match: \"2\"", "").await.status, 200);
    assert_eq!(server.ask("GET /v1/kv/b", "if-none-match: *", "").await.status, 404);
}

#[tokio::test]
async fn a_retry_with_its_name_has_effect_once() {
    let (fake, server) = start().await;
    let first = server.ask("PUT /v1/kv/a", "idempotency-key: k-1", "1").await;
    assert_eq!(first.status, 201);
    assert!(first.header("synod-idempotency-expires").ends_with("GMT"), "{first:?}");
    server.ask("PUT /v1/kv/a", "", "2").await;
    // Spelt otherwise and with another time-out it is still the same request.
    let headers = "idempotency-key: k-1\nsynod-timeout: 9s";
    let retry = server.ask("PUT /v1/kv/%61", headers, "1").await;
    assert_eq!((retry.status, retry.header("etag")), (201, "\"1\""));
    assert_eq!(retry.body, first.body);
    assert_eq!(fake.value(b"a").unwrap(), b"2");
    for (line, headers, body) in [
        ("PUT /v1/kv/a", "", "2"),
        ("PUT /v1/kv/b", "", "1"),
        ("PUT /v1/kv/a?prev", "", "1"),
        ("PUT /v1/kv/a", "\nif-match: *", "1"),
        ("DELETE /v1/kv/a", "", ""),
    ] {
        let other = server.ask(line, &format!("idempotency-key: k-1{headers}"), body).await;
        other.assert_problem(422, "idempotency-mismatch", "not_applied");
    }
    assert_eq!(fake.value(b"a").unwrap(), b"2");
}

#[tokio::test]
async fn an_answer_names_a_revision_at_which_it_was_so() {
    let (fake, server) = start().await;
    let get = async || server.ask("GET /v1/kv/a", "", "").await;
    server.ask("PUT /v1/kv/a", "", "1").await;
    // What is changed behind the look is not claimed.
    let key = Bytes::from("a");
    let put = Operation::Put {
        key: key.clone(),
        value: Bytes::from("2"),
        condition: Condition::Always,
        want_previous: false,
    };
    fake.after_get(put.clone());
    let answer = get().await;
    assert_eq!(answer.body, b"1");
    assert_eq!((answer.header("etag"), answer.header("synod-revision")), ("\"1\"", "1"));
    let delete = Operation::Delete { key, condition: Condition::Always, want_previous: false };
    fake.after_get(delete);
    assert_eq!(get().await.header("synod-revision"), "2");
    fake.after_get(put);
    let answer = get().await;
    assert_eq!((answer.status, answer.header("synod-revision")), (404, "3"));
    // What is committed and not yet published is named all the same when it shows.
    fake.stop_publishing();
    server.ask("PUT /v1/kv/a", "", "3").await;
    let answer = get().await;
    assert_eq!((answer.header("etag"), answer.header("synod-revision")), ("\"5\"", "5"));
    server.ask("DELETE /v1/kv/a", "", "").await;
    let answer = get().await;
    assert_eq!((answer.status, answer.header("synod-revision")), (404, "6"));
}

/// The node's clock is that of its state here, so a step back is a request that was under
/// way all the time since.
#[tokio::test]
async fn an_attempt_that_its_key_may_not_outlive_is_refused() {
    const MINUTE_MS: u64 = 60_000;
    let (fake, server) = start().await;
    server.ask("PUT /v1/kv/a", "idempotency-key: early", "1").await;
    fake.set_clock(20 * MINUTE_MS, 1);
    assert_eq!(server.ask("PUT /v1/kv/a", "idempotency-key: later", "2").await.status, 200);
    fake.set_clock(MINUTE_MS, 1);
    let late = server.ask("PUT /v1/kv/a", "idempotency-key: early", "1").await;
    late.assert_problem(503, "idempotency-late", "unknown");
    assert_eq!(late.header("retry-after"), "1");
    assert_eq!(fake.value(b"a").unwrap(), b"2".as_slice());
    fake.set_clock(20 * MINUTE_MS, 1);
    assert_eq!(server.ask("PUT /v1/kv/a", "idempotency-key: early", "1").await.status, 200);
}
