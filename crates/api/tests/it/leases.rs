//! What the calls about leases do, and what keys have of them.

use crate::fake::{Fake, Mode};
use crate::raw::Server;
use serde_json::{Value, from_slice, json};
use synod_api::{Limits, Refused};
use synod_kv::{KvOptions, LeaseEpoch, LeaseId, LeaseOperation, Operation};

async fn start() -> (Fake, Server) {
    let fake = Fake::default();
    let server = Server::start(fake.clone(), Limits::default()).await;
    (fake, server)
}

async fn grant(server: &Server, body: &str) -> u64 {
    let granted = server.ask("POST /v1/lease", "", body).await;
    assert_eq!(granted.status, 201, "{granted:?}");
    granted.json()["id"].as_u64().unwrap()
}

#[tokio::test]
async fn a_lease_is_granted_renewed_shown_and_ended() {
    let (_, server) = start().await;
    let granted = server.ask("POST /v1/lease", "", "{\"ttl\": \"30s\"}").await;
    assert_eq!(granted.status, 201);
    let automatic = LeaseId::AUTOMATIC_FIRST.0;
    assert_eq!(granted.json(), json!({"id": automatic, "ttl_ms": 30_000, "revision": 0}));
    assert_eq!(grant(&server, "{\"ttl\": \"1500ms\", \"id\": 77}").await, 77);
    for id in [automatic, 77] {
        let put = server.ask(&format!("PUT /v1/kv/{id}?lease={id}"), "", "v").await;
        assert_eq!((put.status, put.header("synod-lease")), (201, &*id.to_string()));
    }
    let read = server.ask("GET /v1/kv/77", "", "").await;
    assert_eq!(read.header("synod-lease"), "77");

    let kept = server.ask("POST /v1/lease/77/keepalive", "", "").await;
    assert_eq!((kept.status, kept.json()), (200, json!({"id": 77, "ttl_ms": 1_500})));
    let ids = format!("{{\"ids\": [{automatic}, 9, 77]}}");
    let many = server.ask("POST /v1/lease/keepalive", "", &ids).await;
    assert_eq!(many.status, 200);
    let expected = json!({"leases": [{"id": automatic, "ttl_ms": 30_000},
                                     {"id": 9, "ttl_ms": null},
                                     {"id": 77, "ttl_ms": 1_500}]});
    assert_eq!(many.json(), expected);
    let none = server.ask("POST /v1/lease/keepalive", "", "{\"ids\": []}").await;
    assert_eq!(none.json(), json!({"leases": []}));

    let first = server.ask("GET /v1/lease?limit=1", "", "").await;
    assert_eq!(first.json()["next"], automatic);
    assert_eq!(first.json()["leases"][0]["ttl_ms"], 1_500);
    let rest = server.ask(&format!("GET /v1/lease?limit=1&from={automatic}"), "", "").await;
    assert_eq!(rest.json()["leases"][0]["id"], automatic);
    assert!(rest.json().get("next").is_none());

    server.ask("PUT /v1/kv/%ff?lease=77", "", "v").await;
    let look = server.ask("GET /v1/lease/77?keys=true", "", "").await;
    assert_eq!(look.json()["keys"], json!([{"key": "77"}, {"key_base64": "/w=="}]));
    let page = server.ask("GET /v1/lease/77?keys=true&limit=1", "", "").await;
    assert_eq!(page.json()["next"], "%FF");
    let page = server.ask("GET /v1/lease/77?keys=true&limit=1&start=%FF", "", "").await;
    assert_eq!(page.json()["keys"], json!([{"key_base64": "/w=="}]));

    let ended = server.ask("DELETE /v1/lease/77", "", "").await;
    assert_eq!(ended.json(), json!({"id": 77, "revision": 4, "deleted": 2}));
    assert_eq!(ended.header("synod-revision"), "4");
    server.ask("GET /v1/kv/77", "", "").await.assert_problem(404, "key-not-found", "not_applied");
    for line in ["DELETE /v1/lease/77", "POST /v1/lease/77/keepalive", "GET /v1/lease/77"] {
        server.ask(line, "", "").await.assert_problem(404, "lease-not-found", "not_applied");
    }
}

#[tokio::test]
async fn every_record_in_json_says_its_lease() {
    let (_, server) = start().await;
    grant(&server, "{\"ttl\": \"30s\", \"id\": 7}").await;
    server.ask("PUT /v1/kv/a?lease=7", "", "1").await;
    server.ask("PUT /v1/kv/b", "", "1").await;
    let leases = |records: &Value| {
        let records = records.as_array().unwrap().iter();
        records.map(|record| record.get("lease").and_then(Value::as_u64)).collect::<Vec<_>>()
    };
    for more in ["", "?keys_only", "?encoding=base64", "?revision=2"] {
        let page = server.ask(&format!("GET /v1/kv{more}"), "", "").await.json();
        assert_eq!(leases(&page["entries"]), [Some(7), None], "{more} {page}");
    }
    let lines = server.ask("GET /v1/kv", "accept: application/x-ndjson", "").await;
    let lines: Vec<Value> =
        lines.body.split_inclusive(|b| *b == b'\n').map(|l| from_slice(l).unwrap()).collect();
    assert_eq!(leases(&json!(lines)), [Some(7), None]);

    let body = r#"{"compare": [{"key": "a", "target": "lease", "op": "=", "operand": 7},
                               {"key": "b", "target": "lease", "op": "=", "operand": 0}],
        "success": [{"op": "get", "key": "a"}, {"op": "get", "key": "b"},
                    {"op": "range", "prefix": "a"},
                    {"op": "put", "key": "a", "value": "2", "prev": true}]}"#;
    let done = server.ask("POST /v1/txn", "", body).await.json();
    assert_eq!(done["succeeded"], true, "{done}");
    let results = &done["results"];
    let records = [&results[0]["record"], &results[1]["record"], &results[2]["entries"][0]];
    assert_eq!(leases(&json!(records)), [Some(7), None, Some(7)], "{done}");
    assert_eq!(results[3]["previous"]["lease"], 7, "{done}");

    // The put took the key off its lease.
    let put = server.ask("PUT /v1/kv/a?prev&lease=7", "", "3").await.json();
    assert!(put["previous"].get("lease").is_none(), "{put}");
    let deleted = server.ask("DELETE /v1/kv/a?prev", "", "").await.json();
    assert_eq!(deleted["previous"]["lease"], 7);
    let page = server.ask("GET /v1/watch?key=a&from=1&prev&wait=0s", "", "").await.json();
    let events = &page["events"];
    assert_eq!(leases(events), [Some(7), None, Some(7), None], "{page}");
    let previous = [1, 2, 3].map(|at| &events[at]["previous"]);
    assert_eq!(leases(&json!(previous)), [Some(7), None, Some(7)], "{page}");
}

#[tokio::test]
async fn leases_are_refused_for_their_own_reasons() {
    let options = KvOptions { leases_max: 1, ..KvOptions::default() };
    let fake = Fake::new(options);
    let server = Server::start(fake.clone(), Limits::default()).await;
    assert_eq!(grant(&server, "{\"ttl\": \"9s\", \"id\": 5}").await, 5);
    let full = server.ask("POST /v1/lease", "", "{\"ttl\": \"9s\"}").await;
    full.assert_problem(503, "leases-full", "not_applied");
    let put = server.ask("PUT /v1/kv/a?ttl=9s", "", "v").await;
    put.assert_problem(503, "leases-full", "not_applied");
    let put = server.ask("PUT /v1/kv/a?lease=6", "", "v").await;
    put.assert_problem(404, "lease-not-found", "not_applied");
    let (_, server) = start().await;
    grant(&server, "{\"ttl\": \"9s\", \"id\": 5}").await;
    let twice = server.ask("POST /v1/lease", "", "{\"ttl\": \"9s\", \"id\": 5}").await;
    twice.assert_problem(409, "lease-exists", "not_applied");
    let (fake, server) = start().await;
    fake.set_writes(Mode::Refuse(Refused::Deadline));
    let kept = server.ask("POST /v1/lease/5/keepalive", "", "").await;
    kept.assert_problem(503, "timeout", "unknown");
}

/// A put with a lease is a transaction; its answers are those of a plain put.
#[tokio::test]
async fn a_put_with_a_lease_is_answered_as_one_without() {
    let conditions = [
        "",
        "if-none-match: *",
        "if-match: *",
        "if-match: \"0\"",
        "if-match: \"1\"",
        "if-match: \"2\"",
    ];
    for is_there in [false, true] {
        for condition in conditions {
            let mut answers = Vec::new();
            let own = LeaseId::AUTOMATIC_FIRST.to_string();
            for (target, lease) in [
                ("PUT /v1/kv/a?prev", ""),
                ("PUT /v1/kv/a?prev&lease=1", "1"),
                ("PUT /v1/kv/a?prev&ttl=9s", &own),
            ] {
                let (fake, server) = start().await;
                if target.contains("lease") {
                    grant(&server, "{\"ttl\": \"9s\", \"id\": 1}").await;
                }
                server.ask("PUT /v1/kv/other", "", "1").await;
                if is_there {
                    server.ask("PUT /v1/kv/a", "", "1").await;
                }
                let answer = server.ask(target, condition, "2").await;
                let has_lease = !lease.is_empty() && answer.status < 300;
                assert_eq!(answer.header("synod-lease"), if has_lease { lease } else { "" });
                let read = server.ask("GET /v1/kv/a", "", "").await;
                assert_eq!(read.header("synod-lease"), if has_lease { lease } else { "" });
                let leases = server.ask("GET /v1/lease", "", "").await.json();
                let left = leases["leases"].as_array().unwrap().len();
                let own = target.contains("ttl");
                assert_eq!(left, usize::from(target.contains("lease") || own && has_lease));
                let body = answer.json();
                answers.push((
                    answer.status,
                    answer.header("etag").to_owned(),
                    body,
                    fake.value(b"a"),
                ));
            }
            assert_eq!(answers[0], answers[1], "{is_there} {condition}");
            assert_eq!(answers[0], answers[2], "{is_there} {condition}");
        }
    }
}

#[tokio::test]
async fn a_put_without_a_lease_takes_the_key_off_its_lease() {
    let (_, server) = start().await;
    grant(&server, "{\"ttl\": \"9s\", \"id\": 1}").await;
    server.ask("PUT /v1/kv/a?lease=1", "", "1").await;
    server.ask("PUT /v1/kv/a", "", "2").await;
    assert_eq!(server.ask("GET /v1/kv/a", "", "").await.header("synod-lease"), "");
    assert_eq!(server.ask("DELETE /v1/lease/1", "", "").await.json()["deleted"], 0);
    assert_eq!(server.ask("GET /v1/kv/a", "", "").await.status, 200);
}

#[tokio::test]
async fn a_named_request_takes_one_lease() {
    let (_, server) = start().await;
    let name = "idempotency-key: n1";
    let [first, second] = [0, 1].map(|at| LeaseId::AUTOMATIC_FIRST.0 + at);
    for _ in 0..2 {
        let granted = server.ask("POST /v1/lease", name, "{\"ttl\": \"9s\"}").await;
        assert_eq!((granted.status, &granted.json()["id"]), (201, &json!(first)));
        assert!(granted.headers.contains_key("synod-idempotency-expires"));
    }
    let other = server.ask("POST /v1/lease", name, "{\"ttl\": \"8s\"}").await;
    other.assert_problem(422, "idempotency-mismatch", "not_applied");
    let name = "idempotency-key: n2";
    for _ in 0..2 {
        let put = server.ask("PUT /v1/kv/a?ttl=9s", name, "v").await;
        assert_eq!((put.status, put.header("synod-lease")), (201, &*second.to_string()));
    }
    let lines = ["PUT /v1/kv/a", &format!("PUT /v1/kv/a?lease={second}"), "PUT /v1/kv/a?ttl=8s"];
    for line in lines {
        let put = server.ask(line, name, "v").await;
        put.assert_problem(422, "idempotency-mismatch", "not_applied");
    }
    let name = "idempotency-key: n3";
    for _ in 0..2 {
        let ended = server.ask(&format!("DELETE /v1/lease/{second}"), name, "").await;
        assert_eq!((ended.status, &ended.json()["deleted"]), (200, &json!(1)));
    }
}

async fn leases_left(server: &Server) -> usize {
    let leases = server.ask("GET /v1/lease", "", "").await.json();
    leases["leases"].as_array().unwrap().len()
}

/// The first attempt is granted its lease and no more is known of it. Until the next one that
/// lease is over.
#[tokio::test]
async fn a_named_put_is_done_though_the_lease_of_its_first_attempt_is_over() {
    let (fake, server) = start().await;
    let (line, name) = ("PUT /v1/kv/a?ttl=9s", "idempotency-key: n1");
    fake.set_next_writes(&[Mode::Serve, Mode::Refuse(Refused::Deadline)]);
    server.ask(line, name, "v").await.assert_problem(503, "timeout", "unknown");
    let id = LeaseId::AUTOMATIC_FIRST.to_string();
    let end = format!("DELETE /v1/lease/{id}");
    assert_eq!(server.ask(&end, "", "").await.status, 200);
    // Whatever others choose, it is not that one.
    grant(&server, "{\"ttl\": \"9s\", \"id\": 1}").await;
    let put = server.ask(line, name, "v").await;
    assert_eq!((put.status, put.header("synod-lease")), (201, &*id));
    assert_eq!(server.ask("GET /v1/kv/a", "", "").await.header("synod-lease"), id);
    // Once more, while the key lives and when it went with its lease: it is not put again.
    for left in [2, 1] {
        let again = server.ask(line, name, "v").await;
        assert_eq!((again.status, again.json()), (201, put.json()));
        assert_eq!(leases_left(&server).await, left, "no lease without a key is left");
        server.ask(&end, "", "").await;
    }
    server.ask("GET /v1/kv/a", "", "").await.assert_problem(404, "key-not-found", "not_applied");
}

#[tokio::test]
async fn a_put_that_is_refused_leaves_no_lease_of_its_own() {
    let (fake, server) = start().await;
    let name = "idempotency-key: n1";
    assert_eq!(server.ask("PUT /v1/kv/a", name, "v").await.status, 201);
    let put = server.ask("PUT /v1/kv/a?ttl=9s", name, "v").await;
    put.assert_problem(422, "idempotency-mismatch", "not_applied");
    assert_eq!(leases_left(&server).await, 0);
    fake.set_next_writes(&[Mode::Serve, Mode::Refuse(Refused::NoLeader)]);
    let put = server.ask("PUT /v1/kv/a?ttl=9s", "", "v").await;
    put.assert_problem(503, "no-leader", "not_applied");
    assert_eq!(leases_left(&server).await, 0);
    // Another request under the name of one that has its lease has nothing to do with that.
    let name = "idempotency-key: n2";
    assert_eq!(server.ask("PUT /v1/kv/b?ttl=9s", name, "v").await.status, 201);
    let put = server.ask("PUT /v1/kv/b?ttl=9s", name, "w").await;
    put.assert_problem(422, "idempotency-mismatch", "not_applied");
    assert_eq!(server.ask("GET /v1/kv/b", "", "").await.status, 200);
    assert_eq!(leases_left(&server).await, 1);
}

#[tokio::test]
async fn a_lease_with_many_keys_is_ended_whole() {
    let options = KvOptions { delete_range_keys_max: 2, ..KvOptions::default() };
    let fake = Fake::new(options);
    let server = Server::start(fake.clone(), Limits::default()).await;
    grant(&server, "{\"ttl\": \"9s\", \"id\": 1}").await;
    for key in 0..5 {
        server.ask(&format!("PUT /v1/kv/{key}?lease=1"), "", "v").await;
    }
    let ended = server.ask("DELETE /v1/lease/1", "", "").await;
    assert_eq!(ended.json(), json!({"id": 1, "revision": 8, "deleted": 5}));
    let revoke = Operation::Lease(LeaseOperation::Revoke { id: LeaseId(1) });
    let (epoch, renewals) = (LeaseEpoch(0), 0);
    let rest = Operation::Lease(LeaseOperation::Expire { id: LeaseId(1), epoch, renewals });
    assert_eq!(fake.operations()[6..], [revoke, rest.clone(), rest]);
}

/// The answer was lost, and the lease is another client's when the request comes again under its name.
#[tokio::test]
async fn an_end_that_comes_again_ends_no_later_lease_of_that_id() {
    let options = KvOptions { delete_range_keys_max: 2, ..KvOptions::default() };
    let fake = Fake::new(options);
    let server = Server::start(fake.clone(), Limits::default()).await;
    let grant_it = || grant(&server, "{\"ttl\": \"9s\", \"id\": 7}");
    grant_it().await;
    for key in 0..5 {
        server.ask(&format!("PUT /v1/kv/{key}?lease=7"), "", "v").await;
    }
    let end = || server.ask("DELETE /v1/lease/7", "idempotency-key: n1", "");
    assert_eq!(end().await.json()["deleted"], 5);
    grant_it().await;
    assert_eq!(server.ask("PUT /v1/kv/later?lease=7", "", "v").await.status, 201);
    let again = end().await;
    assert_eq!((again.status, &again.json()["more"]), (200, &Value::Null), "{again:?}");
    assert_eq!(server.ask("GET /v1/lease/7", "", "").await.status, 200);
    assert_eq!(server.ask("GET /v1/kv/later", "", "").await.status, 200);
}
