//! Batches: puts and deletes, a line each, and their results.

use crate::fake::{Fake, Mode};
use crate::raw::{Answer, Server, request};
use serde_json::{Value, json};
use synod_api::{Limits, Refused};
use synod_kv::Operation;

async fn start(limits: Limits) -> (Fake, Server) {
    let fake = Fake::default();
    let server = Server::start(fake.clone(), limits).await;
    (fake, server)
}

fn results(answer: &Answer) -> Vec<Value> {
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"));
    let text = std::str::from_utf8(&answer.body).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn batch(server: &Server, body: &str) -> Vec<Value> {
    results(&server.ask("POST /v1/batch", "", body).await)
}

#[tokio::test]
async fn each_line_is_a_write_of_its_own() {
    let (fake, server) = start(Limits::default()).await;
    let body = r#"{"op":"put","key":"a","value":"1"}
        {"op":"put","key_base64":"Yf8=","value_base64":"/w=="}

        {"op":"put","key":"a","value":"2"}
        {"op":"delete","key":"a"}
        {"op":"delete","key":"a"}
        {"op":"put","key":"z","value":""}"#;
    let expected = [
        json!({"line": 1, "status": 201, "revision": 1, "create_revision": 1, "version": 1}),
        json!({"line": 2, "status": 201, "revision": 2, "create_revision": 2, "version": 1}),
        json!({"line": 4, "status": 200, "revision": 3, "create_revision": 1, "version": 2}),
        json!({"line": 5, "status": 200, "revision": 4, "deleted": 1}),
        json!({"line": 6, "status": 200, "revision": 4, "deleted": 0}),
        json!({"line": 7, "status": 201, "revision": 5, "create_revision": 5, "version": 1}),
    ];
    let shown = batch(&server, body).await;
    // Lines of different keys may be applied in any order.
    for (shown, expected) in shown.iter().zip(&expected) {
        for name in ["line", "status", "version", "deleted"] {
            assert_eq!(shown.get(name), expected.get(name), "{shown}");
        }
    }
    assert_eq!(shown.len(), expected.len());
    assert_eq!(fake.value(b"a\xff").unwrap(), b"\xff");
    assert_eq!((fake.value(b"a"), fake.value(b"z")), (None, Some(Vec::new())));
    assert!(batch(&server, "").await.is_empty());
    assert!(batch(&server, "\n \r\n\n").await.is_empty());
}

#[tokio::test]
async fn a_line_that_is_wrong_says_so_and_the_others_go_on() {
    let limits = Limits { key_bytes_max: 16, value_bytes_max: 16, ..Limits::default() };
    let (fake, server) = start(limits).await;
    let long = format!(r#"{{"op":"put","key":"a","value":"{}"}}"#, "v".repeat(2_000));
    let cases = [
        ("nonsense", 400, "bad-json"),
        ("{}", 400, "missing-member"),
        (r#"{"op":"get","key":"a"}"#, 400, "bad-member"),
        (r#"{"op":"delete_range","prefix":"a"}"#, 400, "bad-member"),
        (r#"{"op":"put","key":"a"}"#, 400, "missing-member"),
        (r#"{"op":"put","key":"a","value":"1","lease":1}"#, 400, "unknown-member"),
        (r#"{"op":"put","key":"a","value":"1","prev":true}"#, 400, "unknown-member"),
        (r#"{"op":"put","key":"a","key_base64":"YQ==","value":"1"}"#, 400, "contradictory-members"),
        (
            r#"{"op":"put","key":"a","value":"1"}{"op":"put","key":"a","value":"1"}"#,
            400,
            "bad-json",
        ),
        (r#"{"op":"put","key":"","value":"1"}"#, 400, "bad-key"),
        (r#"{"op":"put","key":"a","value_base64":"?"}"#, 400, "bad-base64"),
        (r#"{"op":"delete","key":"0123456789abcdefg"}"#, 414, "key-too-long"),
        (r#"{"op":"put","key":"a","value":"0123456789abcdefg"}"#, 413, "body-too-large"),
        (long.as_str(), 413, "body-too-large"),
    ];
    let mut body = String::new();
    for (line, _, _) in &cases {
        body += &format!("{line}\n{{\"op\":\"put\",\"key\":\"good\",\"value\":\"1\"}}\n");
    }
    // The last one has no end.
    body += &long;
    let shown = batch(&server, &body).await;
    assert_eq!(shown.len(), 2 * cases.len() + 1);
    for (number, (line, status, kind)) in cases.iter().enumerate() {
        let (wrong, good) = (&shown[2 * number], &shown[2 * number + 1]);
        assert_eq!(wrong["line"], 2 * number + 1);
        assert_eq!(
            (&wrong["status"], &wrong["problem"]["status"]),
            (&json!(status), &json!(status))
        );
        assert_eq!(wrong["problem"]["type"], format!("urn:synod:{kind}"), "{line}: {wrong}");
        assert_eq!(wrong["problem"]["outcome"], "not_applied");
        assert_eq!((&good["line"], &good["version"]), (&json!(2 * number + 2), &json!(number + 1)));
    }
    assert_eq!(shown.last().unwrap()["problem"]["type"], "urn:synod:body-too-large");
    assert_eq!(fake.value(b"a"), None);
}

#[tokio::test]
async fn many_are_under_way_and_those_of_one_key_keep_their_order() {
    let (fake, server) = start(Limits::default()).await;
    fake.set_writes(Mode::Hang);
    let mut body = String::new();
    for number in 0..500 {
        body +=
            &json!({"op": "put", "key": format!("{}", number % 100), "value": format!("{number}")})
                .to_string();
        body.push('\n');
    }
    let (shown, ()) = tokio::join!(batch(&server, &body), async {
        // Not one more: the next line is of the first key again.
        fake.waiting(100).await;
        fake.set_writes(Mode::Serve);
    });
    let lines: Vec<u64> = shown.iter().map(|result| result["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, (1..=500).collect::<Vec<_>>());
    let mut last = std::collections::BTreeMap::new();
    for operation in fake.operations() {
        let Operation::Put { key, value, .. } = operation else { panic!("{operation:?}") };
        let number: u32 = std::str::from_utf8(&value).unwrap().parse().unwrap();
        let before = last.insert(key, number);
        assert!(before.is_none_or(|before| before < number), "{before:?} before {number}");
    }
    assert_eq!(last.len(), 100);
}

#[tokio::test]
async fn results_come_while_lines_are_sent() {
    let (fake, server) = start(Limits::default()).await;
    let mut raw = server.connect().await;
    let head = request("POST /v1/batch", "transfer-encoding: chunked", "");
    let line = |key: &str| {
        let line = format!("{{\"op\":\"put\",\"key\":\"{key}\",\"value\":\"1\"}}\n");
        format!("{:x}\r\n{line}\r\n", line.len())
    };
    raw.send(head + &line("a")).await;
    raw.until("\"line\":1,").await;
    assert!(fake.value(b"a").is_some());
    raw.send(line("b")).await;
    raw.until("\"line\":2,").await;
    raw.send("0\r\n\r\n").await;
    assert_eq!(results(&raw.answer().await).len(), 2);
    // The connection serves on.
    raw.send(request("GET /v1/kv/b", "", "")).await;
    assert_eq!(raw.answer().await.body, b"1");
}

#[tokio::test]
async fn a_line_without_an_outcome_says_so() {
    let limits = Limits { call_timeout_default_ms: 100, ..Limits::default() };
    let (fake, server) = start(limits).await;
    let body = "{\"op\":\"delete\",\"key\":\"a\"}\n";
    for (mode, kind, outcome) in [
        (Mode::Refuse(Refused::NoLeader), "no-leader", "not_applied"),
        (Mode::Refuse(Refused::Stopping), "shutting-down", "not_applied"),
        (Mode::ServeAndLose, "outcome-unknown", "unknown"),
        (Mode::Hang, "timeout", "unknown"),
    ] {
        fake.set_writes(mode);
        let shown = batch(&server, body).await;
        assert_eq!(shown[0]["problem"]["type"], format!("urn:synod:{kind}"));
        assert_eq!(shown[0]["problem"]["outcome"], outcome);
    }
}

#[tokio::test]
async fn a_body_that_ends_early_is_told_from_a_whole_one() {
    let limits = Limits { body_timeout_ms: 200, ..Limits::default() };
    let (fake, server) = start(limits).await;
    let line = "{\"op\":\"put\",\"key\":\"a\",\"value\":\"1\"}\n";
    let mut slow = server.connect().await;
    let half = format!("{line}{{\"op\":\"put\"");
    slow.send(format!(
        "{}1000\r\n{half}",
        request("POST /v1/batch", "transfer-encoding: chunked", "")
    ))
    .await;
    let shown = results(&slow.answer().await);
    assert_eq!((&shown[0]["status"], &shown[1]["line"]), (&json!(201), &json!(2)));
    assert_eq!(shown[1]["problem"]["type"], "urn:synod:request-timeout");
    let mut broken = server.connect().await;
    broken
        .send(format!("{}zz\r\n", request("POST /v1/batch", "transfer-encoding: chunked", "")))
        .await;
    let rest = broken.rest().await;
    assert!(rest.contains("urn:synod:bad-request"), "{rest}");
    assert!(fake.value(b"a").is_some());
}

#[tokio::test]
async fn a_client_that_is_gone_ends_its_batch() {
    let limits = Limits { batches_max: 1, call_timeout_default_ms: 200, ..Limits::default() };
    let (fake, server) = start(limits).await;
    fake.set_writes(Mode::Hang);
    let mut gone = server.connect().await;
    let line = "{\"op\":\"put\",\"key\":\"a\",\"value\":\"1\"}\n";
    gone.send(format!(
        "{}1000\r\n{line}",
        request("POST /v1/batch", "transfer-encoding: chunked", "")
    ))
    .await;
    fake.waiting(1).await;
    let refused = server.ask("POST /v1/batch", "", line).await;
    refused.assert_problem(503, "overloaded", "not_applied");
    drop(gone);
    // Its place is free again at the latest when its line has had its time.
    let answer = loop {
        let mut raw = server.connect().await;
        raw.send(request("POST /v1/batch", "transfer-encoding: chunked", "") + "0\r\n\r\n").await;
        let answer = raw.answer().await;
        if answer.status == 200 {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert!(results(&answer).is_empty());
    fake.set_writes(Mode::Serve);
}

/// Another client, which waits for nothing, shows that time is over.
#[tokio::test]
async fn a_client_that_waits_for_a_result_may_be_silent_for_longer() {
    let limits = Limits { body_timeout_ms: 1_000, ..Limits::default() };
    let (fake, server) = start(limits).await;
    let head = request("POST /v1/batch", "transfer-encoding: chunked", "");
    let line = |key: &str| {
        let line = format!("{{\"op\":\"put\",\"key\":\"{key}\",\"value\":\"1\"}}\n");
        format!("{:x}\r\n{line}\r\n", line.len())
    };
    fake.set_writes(Mode::Hang);
    let mut waits = server.connect().await;
    waits.send(head.clone() + &line("a")).await;
    fake.waiting(1).await;
    let mut silent = server.connect().await;
    silent.send(head).await;
    silent.until("urn:synod:request-timeout").await;
    fake.set_writes(Mode::Serve);
    waits.until("\"line\":1,").await;
    waits.send(line("b") + "0\r\n\r\n").await;
    let shown = results(&waits.answer().await);
    let statuses: Vec<&Value> = shown.iter().map(|result| &result["status"]).collect();
    assert_eq!(statuses, [&json!(201), &json!(201)], "{shown:?}");
}
