//! Clients that do not keep to the rules of the connection.

use crate::fake::{Fake, Mode};
use crate::raw::{Server, request};
use synod_api::Limits;

async fn start(limits: Limits) -> (Fake, Server) {
    let fake = Fake::default();
    let server = Server::start(fake.clone(), limits).await;
    (fake, server)
}

#[tokio::test]
async fn slow_headers_are_cut_with_a_word() {
    let (fake, server) = start(Limits { header_timeout_ms: 200, ..Limits::default() }).await;
    for begin in ["", "P", "PUT /v1/kv/a HTTP/1.1\r\nhost: synod\r\n"] {
        let mut raw = server.connect().await;
        raw.send(begin).await;
        let answer = raw.answer().await;
        answer.assert_problem(408, "request-timeout", "not_applied");
        assert_eq!(answer.header("connection"), "close");
        assert!(raw.is_closed().await);
    }
    // One byte now and then is no progress.
    let mut dribble = server.connect().await;
    dribble.send("GET /livez HTTP/1.1\r\nx: ").await;
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(10));
    for _ in 0..10_000 {
        ticks.tick().await;
        if !dribble.try_send("x").await {
            break;
        }
    }
    assert!(!dribble.try_send("x").await, "the server took a header for ever");
    assert_eq!(fake.writes_seen(), 0);
}

#[tokio::test]
async fn a_second_request_is_timed_too_and_idleness_has_its_own_limit() {
    let limits = Limits { header_timeout_ms: 2_000, idle_timeout_ms: 60_000, ..Limits::default() };
    let (_, server) = start(limits).await;
    let mut idle = server.connect().await;
    idle.send(request("GET /livez", "", "")).await;
    assert_eq!(idle.answer().await.status, 200);
    let mut slow = server.connect().await;
    slow.send(request("GET /livez", "", "")).await;
    assert_eq!(slow.answer().await.status, 200);
    slow.send("GET /livez HT").await;
    assert_eq!(slow.answer().await.status, 408);
    // Meanwhile the idle one was let be.
    idle.send(request("GET /livez", "", "")).await;
    assert_eq!(idle.answer().await.status, 200);

    let (_, server) = start(Limits { idle_timeout_ms: 60, ..Limits::default() }).await;
    let mut idle = server.connect().await;
    idle.send(request("GET /livez", "", "")).await;
    assert_eq!(idle.answer().await.status, 200);
    assert!(idle.is_closed().await);
}

#[tokio::test]
async fn a_slow_handler_is_not_a_slow_client() {
    let limits = Limits { header_timeout_ms: 2_000, idle_timeout_ms: 2_000, ..Limits::default() };
    let (fake, server) = start(limits).await;
    fake.set_writes(Mode::Hang);
    let mut raw = server.connect().await;
    raw.send(request("PUT /v1/kv/a", "synod-timeout: 4s", "1")).await;
    raw.answer().await.assert_problem(503, "timeout", "unknown");
}

#[tokio::test]
async fn a_body_that_is_cut_off_stores_nothing() {
    let (fake, server) = start(Limits::default()).await;
    let bodies = [
        "content-length: 10\r\n\r\nabc",
        "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "transfer-encoding: chunked\r\n\r\n5\r\nabc",
        "transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    ];
    for body in bodies {
        let mut raw = server.connect().await;
        raw.send(format!("PUT /v1/kv/a HTTP/1.1\r\n{body}")).await;
        raw.finish_sending().await;
        raw.answer().await.assert_problem(400, "bad-request", "not_applied");
        assert!(raw.is_closed().await);
    }
    assert_eq!(fake.writes_seen(), 0);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (fake, server) = start(Limits { body_timeout_ms: 40, ..Limits::default() }).await;
    let mut raw = server.connect().await;
    raw.send("PUT /v1/kv/a HTTP/1.1\r\ncontent-length: 10\r\n\r\nabc").await;
    raw.answer().await.assert_problem(408, "request-timeout", "not_applied");
    assert!(raw.is_closed().await);
    let (fake_b, server) = start(Limits::default()).await;
    let mut raw = server.connect().await;
    raw.send("PUT /v1/kv/a HTTP/1.1\r\nsynod-timeout: 40ms\r\ncontent-length: 10\r\n\r\nabc").await;
    raw.answer().await.assert_problem(408, "request-timeout", "not_applied");
    assert_eq!(fake.writes_seen() + fake_b.writes_seen(), 0);
}

#[tokio::test]
async fn a_body_without_end_is_cut_at_the_limit() {
    let (fake, server) = start(Limits { value_bytes_max: 100_000, ..Limits::default() }).await;
    let mut raw = server.connect().await;
    raw.send("PUT /v1/kv/a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let chunk = format!("1000\r\n{}\r\n", "v".repeat(0x1000));
    for _ in 0..100_000 {
        if !raw.try_send(&chunk).await {
            break;
        }
    }
    assert!(!raw.try_send(&chunk).await, "the server took a body for ever");
    // The client that stops to listen in time sees the reason.
    let mut polite = server.connect().await;
    polite.send("PUT /v1/kv/a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").await;
    for _ in 0..30 {
        polite.send(&chunk).await;
    }
    polite.answer().await.assert_problem(413, "body-too-large", "not_applied");
    assert!(polite.is_closed().await);
    assert_eq!(fake.writes_seen(), 0);
}

#[tokio::test]
async fn a_large_body_is_refused_before_it_is_sent() {
    let (_, server) = start(Limits { value_bytes_max: 1000, ..Limits::default() }).await;
    let mut raw = server.connect().await;
    raw.send("PUT /v1/kv/a HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n").await;
    raw.answer().await.assert_problem(413, "body-too-large", "not_applied");
    // The client that sends it all the same gets to read the answer.
    let mut raw = server.connect().await;
    raw.send("PUT /v1/kv/a HTTP/1.1\r\ncontent-length: 2000000\r\n\r\n").await;
    raw.send(vec![b'v'; 2_000_000]).await;
    raw.answer().await.assert_problem(413, "body-too-large", "not_applied");
    let mut raw = server.connect().await;
    raw.send("PUT /v1/kv/a HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 100);
    raw.send("abc").await;
    assert_eq!(raw.answer().await.status, 201);
}

#[tokio::test]
async fn headers_have_a_limit() {
    let (_, server) = start(Limits::default()).await;
    let many: String = (0..10_000).map(|number| format!("x-{number}: y\r\n")).collect();
    let few: String = (0..65).map(|number| format!("x-{number}: y\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(100_000));
    for headers in [many, few, long] {
        let mut raw = server.connect().await;
        raw.try_send(format!("GET /livez HTTP/1.1\r\n{headers}\r\n")).await;
        raw.answer().await.assert_problem(431, "headers-too-large", "not_applied");
        assert!(raw.is_closed().await);
    }
    let enough: String = (0..60).map(|number| format!("x-{number}: y\r\n")).collect();
    assert_eq!(server.call(format!("GET /livez HTTP/1.1\r\n{enough}\r\n")).await.status, 200);
    let target = "a".repeat(70_000);
    let answer = server.call(format!("GET /v1/kv/{target} HTTP/1.1\r\n\r\n")).await;
    answer.assert_problem(431, "headers-too-large", "not_applied");
    let large = Limits { key_bytes_max: 64 * 1024, ..Limits::default() };
    let (_, server) = start(large).await;
    let answer = server.call(format!("GET /v1/kv/{target} HTTP/1.1\r\n\r\n")).await;
    answer.assert_problem(414, "key-too-long", "not_applied");
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let (fake, server) = start(Limits::default()).await;
    for bytes in [
        "PUT /v1/kv/a HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "PUT /v1/kv/a HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        "PUT /v1/kv/a HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "PUT /v1/kv/a HTTP/1.1\r\ncontent-length: 1x\r\n\r\na",
        "PUT /v1/kv/a HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\na",
        "PUT /v1/kv/a b HTTP/1.1\r\n\r\n",
        "PUT /v1/kv/a HTTP/9.1\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut raw = server.connect().await;
        raw.send(bytes).await;
        let answer = raw.answer().await;
        answer.assert_problem(400, "bad-request", "not_applied");
        assert_eq!(answer.header("connection"), "close", "{bytes}");
        assert_eq!(answer.header("synod-revision"), "0", "{bytes}");
        assert!(raw.is_closed().await, "{bytes}");
    }
    assert_eq!(fake.writes_seen(), 0);
    let metrics = String::from_utf8(server.ask("GET /metrics", "", "").await.body).unwrap();
    let refused = "synod_http_answers_total{class=\"4xx\"} 9";
    assert!(metrics.contains(refused), "{metrics}");
}

#[tokio::test]
async fn what_is_no_http_does_not_take_away_the_answers_before_it() {
    let (fake, server) = start(Limits::default()).await;
    server.ask("PUT /v1/kv/a", "", "1").await;
    let good = [
        request("PUT /v1/kv/a", "", "2"),
        request("GET /v1/kv/a", "", ""),
        request("HEAD /v1/kv/a", "", ""),
        request("GET /v1/kv", "accept: application/x-ndjson", ""),
        "PUT /v1/kv/a HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n3".to_owned(),
    ];
    for request in &good {
        let mut raw = server.connect().await;
        raw.send(format!("{request}no http\r\n\r\n")).await;
        let mut answers = raw.rest().await;
        let last = answers.split_off(answers.find("HTTP/1.1 400").expect("a refusal"));
        assert!(answers.contains("HTTP/1.1 20"), "{request}: {answers}");
        assert!(last.contains("urn:synod:bad-request"), "{request}: {last}");
    }
    // One behind the other: while an answer is on its way, nothing is withheld.
    let mut raw = server.connect().await;
    raw.send(format!("{}no http\r\n\r\n", good[..2].concat().repeat(50))).await;
    let answers = raw.rest().await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 100);
    assert_eq!(answers.matches("HTTP/1.1 400").count(), 1);
    assert_eq!(fake.writes_seen(), 53);
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_a_row() {
    let (_, server) = start(Limits::default()).await;
    let mut raw = server.connect().await;
    let requests: String = (0..100)
        .map(|number| request(&format!("PUT /v1/kv/{number}"), "", &number.to_string()))
        .chain((0..100).map(|number| request(&format!("GET /v1/kv/{number}"), "", "")))
        .collect();
    raw.send(requests).await;
    for number in 1..=100 {
        assert_eq!(raw.answer().await.header("etag"), format!("\"{number}\""));
    }
    for number in 0..100 {
        assert_eq!(raw.answer().await.body, number.to_string().as_bytes());
    }
}

#[tokio::test]
async fn http_1_0_is_served_and_closed() {
    let (_, server) = start(Limits::default()).await;
    let mut raw = server.connect().await;
    raw.send("PUT /v1/kv/a HTTP/1.0\r\ncontent-length: 1\r\n\r\n1").await;
    assert_eq!(raw.answer().await.status, 201);
    assert!(raw.is_closed().await);
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let (_, server) = start(Limits { connections_max: 2, ..Limits::default() }).await;
    let mut first = server.connect().await;
    first.send(request("GET /livez", "", "")).await;
    assert_eq!(first.answer().await.status, 200);
    let mut second = server.connect().await;
    second.send(request("GET /livez", "", "")).await;
    assert_eq!(second.answer().await.status, 200);
    let mut third = server.connect().await;
    third.answer().await.assert_problem(503, "overloaded", "not_applied");
    assert!(third.is_closed().await);
    drop(first);
    // The place is free again as soon as the server has seen that.
    loop {
        let mut raw = server.connect().await;
        if raw.try_send(request("GET /livez", "", "")).await && raw.answer().await.status == 200 {
            break;
        }
    }
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut() {
    let (fake, server) = start(Limits { send_stall_ms: 60, ..Limits::default() }).await;
    server.ask("PUT /v1/kv/a", "", &"v".repeat(1024 * 1024)).await;
    let mut raw = server.connect().await;
    for _ in 0..64 {
        raw.send(request("GET /v1/kv/a", "", "")).await;
    }
    // The server's side closes though the client still holds its own; then the
    // place is free, which the metrics tell.
    let is_cut = async || {
        let metrics = server.ask("GET /metrics", "", "").await.body;
        String::from_utf8(metrics).unwrap().contains("synod_http_connections 1\n")
    };
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(10));
    for look in 0.. {
        assert!(look < 3_000, "the server kept a client that took nothing");
        if is_cut().await {
            break;
        }
        ticks.tick().await;
    }
    drop(raw);
    drop(fake);
}

#[tokio::test]
async fn large_answers_that_nobody_takes_have_a_bound() {
    // More than the sockets of both ends hold.
    const VALUE_BYTES: usize = 32 * 1024 * 1024;
    let limits = Limits {
        value_bytes_max: VALUE_BYTES,
        answers_bytes_max: VALUE_BYTES,
        ..Limits::default()
    };
    let (fake, server) = start(limits).await;
    let value = "v".repeat(VALUE_BYTES);
    assert_eq!(server.ask("PUT /v1/kv/large", "", &value).await.status, 201);
    server.ask("PUT /v1/kv/small", "", &value[..16 * 1024]).await;
    let mut lazy = server.connect().await;
    lazy.send(request("GET /v1/kv/large", "", "")).await;
    assert_eq!(lazy.answer_to_head().await.status, 200);
    for line in ["GET /v1/kv/large", "GET /v1/kv?prefix=large"] {
        server.ask(line, "", "").await.assert_problem(503, "overloaded", "not_applied");
    }
    assert_eq!(server.ask("GET /v1/kv/small", "", "").await.status, 200);
    let put = server.ask("PUT /v1/kv/large?prev", "", &value[..100_000]).await;
    put.assert_problem(503, "overloaded", "unknown");
    assert_eq!(fake.value(b"large").unwrap().len(), 100_000);
    let ids: Vec<_> = (1_000_000..1_001_000).collect();
    let body = serde_json::json!({"ids": ids}).to_string();
    let kept = server.ask("POST /v1/lease/keepalive", "", &body).await;
    kept.assert_problem(503, "overloaded", "unknown");
    drop(lazy);
    // The room is free again as soon as the server has seen that.
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(10));
    for look in 0.. {
        assert!(look < 3_000, "the room was not given back");
        if server.ask("GET /v1/kv/large", "", "").await.status == 200 {
            break;
        }
        ticks.tick().await;
    }
    for _ in 0..5 {
        assert_eq!(server.ask("GET /v1/kv/large", "", "").await.status, 200);
    }
}
