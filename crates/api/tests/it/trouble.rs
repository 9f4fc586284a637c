//! A replica that is slow, refuses, or breaks.

use crate::fake::{Fake, Mode};
use crate::raw::{Server, request};
use synod_api::{Limits, Refused};

async fn start(limits: Limits) -> (Fake, Server) {
    let fake = Fake::default();
    let server = Server::start(fake.clone(), limits).await;
    (fake, server)
}

#[tokio::test]
async fn a_refused_write_says_what_became_of_it() {
    let (fake, server) = start(Limits::default()).await;
    for (refused, kind, outcome) in [
        (Refused::Overloaded, "overloaded", "not_applied"),
        (Refused::NoLeader, "no-leader", "not_applied"),
        (Refused::Stopping, "shutting-down", "not_applied"),
        (Refused::Deadline, "timeout", "unknown"),
        (Refused::Lost, "outcome-unknown", "unknown"),
    ] {
        fake.set_writes(Mode::Refuse(refused));
        for line in ["PUT /v1/kv/a", "DELETE /v1/kv/a", "DELETE /v1/kv?prefix=a"] {
            let answer = server.ask(line, "", "").await;
            answer.assert_problem(503, kind, outcome);
            assert_eq!(answer.json()["leader"]["id"], 1);
            assert_eq!(refused.outcome_unknown(), outcome == "unknown");
        }
    }
    fake.set_writes(Mode::Duplicate);
    let answer = server.ask("PUT /v1/kv/a", "", "").await;
    answer.assert_problem(503, "outcome-unknown", "unknown");
}

#[tokio::test]
async fn a_refused_read_has_no_effect_in_any_case() {
    let (fake, server) = start(Limits::default()).await;
    server.ask("PUT /v1/kv/a", "", "1").await;
    for (refused, kind) in [
        (Refused::Overloaded, "overloaded"),
        (Refused::NoLeader, "no-leader"),
        (Refused::Stopping, "shutting-down"),
        (Refused::Deadline, "timeout"),
        (Refused::Lost, "timeout"),
    ] {
        fake.set_barriers(Mode::Refuse(refused));
        for line in ["GET /v1/kv/a", "GET /v1/kv", "GET /v1/kv/a?consistency=linearizable"] {
            server.ask(line, "", "").await.assert_problem(503, kind, "not_applied");
        }
        // What is here can be read all the same, if that is enough.
        assert_eq!(server.ask("GET /v1/kv/a?consistency=stale", "", "").await.body, b"1");
        assert_eq!(server.ask("GET /v1/kv?consistency=stale", "", "").await.status, 200);
    }
}

#[tokio::test]
async fn a_call_ends_when_the_client_said() {
    let (fake, server) = start(Limits::default()).await;
    fake.set_writes(Mode::Hang);
    fake.set_barriers(Mode::Hang);
    let put = server.ask("PUT /v1/kv/a", "synod-timeout: 30ms", "1").await;
    put.assert_problem(503, "timeout", "unknown");
    let get = server.ask("GET /v1/kv/a", "synod-timeout: 30ms", "").await;
    get.assert_problem(503, "timeout", "not_applied");
    let line = "GET /v1/kv/a?consistency=stale&min_revision=5";
    let behind = server.ask(line, "synod-timeout: 30ms", "").await;
    behind.assert_problem(503, "timeout", "not_applied");
    assert!(behind.json()["detail"].as_str().unwrap().contains("at revision 0"));
    fake.waiting(0).await;
}

#[tokio::test]
async fn a_reader_can_wait_for_a_revision() {
    let (fake, server) = start(Limits::default()).await;
    let mut reader = server.connect().await;
    reader.send(request("GET /v1/kv/b?consistency=stale&min_revision=2", "", "")).await;
    fake.waiting(1).await;
    server.ask("PUT /v1/kv/a", "", "1").await;
    server.ask("PUT /v1/kv/b", "", "2").await;
    let answer = reader.answer().await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"2".as_slice()));
    assert_eq!(server.ask("GET /v1/kv/b?min_revision=2", "", "").await.status, 200);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_it_is_queued() {
    let limits = Limits { writes_in_flight_max: 2, reads_in_flight_max: 1, ..Limits::default() };
    let (fake, server) = start(limits).await;
    server.ask("PUT /v1/kv/a", "", "1").await;
    let seen = fake.writes_seen();
    fake.set_writes(Mode::Hang);
    fake.set_barriers(Mode::Hang);
    let mut waiting = Vec::new();
    for line in ["PUT /v1/kv/b", "DELETE /v1/kv/a", "GET /v1/kv/a"] {
        let mut raw = server.connect().await;
        raw.send(request(line, "", "")).await;
        waiting.push(raw);
    }
    fake.waiting(3).await;
    for line in ["PUT /v1/kv/c", "DELETE /v1/kv?prefix=a", "GET /v1/kv/a", "GET /v1/kv"] {
        server.ask(line, "", "").await.assert_problem(503, "overloaded", "not_applied");
    }
    assert_eq!(fake.writes_seen(), seen + 2);
    // Reads that need not wait take no place.
    assert_eq!(server.ask("GET /v1/kv/a?consistency=stale", "", "").await.status, 200);
    fake.set_writes(Mode::Serve);
    fake.set_barriers(Mode::Serve);
    let mut statuses = Vec::new();
    for raw in &mut waiting {
        statuses.push(raw.answer().await.status);
    }
    assert_eq!(statuses[..2], [201, 200]);
    assert_eq!(server.ask("PUT /v1/kv/c", "", "").await.status, 201);
}

#[tokio::test]
async fn bodies_share_a_room() {
    let (_, server) = start(Limits { bodies_bytes_max: 8 * 1024, ..Limits::default() }).await;
    let mut slow = server.connect().await;
    slow.send("PUT /v1/kv/slow HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 8192\r\n\r\n")
        .await;
    // The go-ahead comes when the room is taken.
    assert_eq!(slow.answer().await.status, 100);
    let refused = server.ask("PUT /v1/kv/a", "", "v").await;
    refused.assert_problem(503, "overloaded", "not_applied");
    slow.send("v".repeat(8192)).await;
    assert_eq!(slow.answer().await.status, 201);
    assert_eq!(server.ask("PUT /v1/kv/a", "", "v").await.status, 201);
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_back() {
    let (fake, server) = start(Limits { writes_in_flight_max: 1, ..Limits::default() }).await;
    fake.set_writes(Mode::Hang);
    let mut raw = server.connect().await;
    raw.send(request("PUT /v1/kv/a", "synod-timeout: 60s", "1")).await;
    fake.waiting(1).await;
    drop(raw);
    fake.waiting(0).await;
    fake.set_writes(Mode::Serve);
    assert_eq!(server.ask("PUT /v1/kv/a", "", "1").await.status, 201);
}

#[tokio::test]
async fn a_broken_state_is_said_without_its_secrets() {
    let (fake, server) = start(Limits::default()).await;
    fake.break_reads();
    for line in ["GET /v1/kv/a", "GET /v1/kv", "GET /v1/kv?count_only"] {
        let answer = server.ask(line, "", "").await;
        answer.assert_problem(500, "internal", "not_applied");
        assert!(!String::from_utf8(answer.body).unwrap().contains("secret"));
    }
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_closes_the_others() {
    let (fake, server) = start(Limits::default()).await;
    fake.set_writes(Mode::Hang);
    let mut busy = server.connect().await;
    busy.send(request("PUT /v1/kv/a", "", "1")).await;
    let mut idle = server.connect().await;
    idle.send(request("GET /livez", "", "")).await;
    idle.answer().await;
    fake.waiting(1).await;
    server.stop.send(()).unwrap();
    assert!(idle.is_closed().await);
    fake.set_writes(Mode::Serve);
    let answer = busy.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (201, "close"));
    assert!(busy.is_closed().await);
    server.task.await.unwrap();
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
}

/// A request may be on its way while the server decides to stop.
#[tokio::test]
async fn a_connection_gets_one_more_answer_when_the_server_stops() {
    let (_, server) = start(Limits { shutdown_timeout_ms: 600_000, ..Limits::default() }).await;
    let mut used = server.connect().await;
    used.send(request("PUT /v1/kv/a", "", "1")).await;
    assert_eq!(used.answer().await.header("connection"), "");
    let mut fresh = server.connect().await;
    server.stop.send(()).unwrap();
    // Then it has heard of it.
    while tokio::net::TcpStream::connect(server.address).await.is_ok() {}
    for raw in [&mut used, &mut fresh] {
        raw.send(request("PUT /v1/kv/a", "", "2")).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (200, "close"));
        assert!(raw.is_closed().await);
    }
    server.task.await.unwrap();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let (fake, server) = start(Limits { shutdown_timeout_ms: 50, ..Limits::default() }).await;
    fake.set_writes(Mode::Hang);
    let mut busy = server.connect().await;
    busy.send(request("PUT /v1/kv/a", "synod-timeout: 60s", "1")).await;
    fake.waiting(1).await;
    server.stop.send(()).unwrap();
    server.task.await.unwrap();
    assert!(busy.is_closed().await);
}
