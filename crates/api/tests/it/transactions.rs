//! Transactions: what they do, and every way in which one is refused.

use crate::fake::{Fake, Mode};
use crate::raw::{Answer, Server};
use serde_json::{Value, json};
use synod_api::{Leader, Limits, Refused};
use synod_kv::{Command, LeaseOperation, Operation};

async fn start(limits: Limits) -> (Fake, Server) {
    let fake = Fake::default();
    let server = Server::start(fake.clone(), limits).await;
    (fake, server)
}

async fn txn(server: &Server, headers: &str, body: &Value) -> Answer {
    server.ask("POST /v1/txn", headers, &body.to_string()).await
}

/// Body, status, type, and words of the detail.
type Case = (&'static str, u16, &'static str, &'static str);

const CASES: &[Case] = &[
    ("", 400, "bad-json", "EOF"),
    ("{}x", 400, "bad-json", "trailing"),
    ("{\"success\": {}}", 400, "bad-member", "a list"),
    ("{\"succes\": []}", 400, "unknown-member", "`succes`"),
    ("{\"success\": [], \"success\": []}", 400, "doubled-member", "duplicate"),
    (r#"{"success": [{"key": "a"}]}"#, 400, "missing-member", "`op`"),
    (r#"{"success": [{"op": "puts", "key": "a"}]}"#, 400, "bad-member", "`puts`"),
    (r#"{"success": [{"op": "get"}]}"#, 400, "missing-member", "success[0]: \"key\""),
    (r#"{"success": [{"op": "get", "keys": "a"}]}"#, 400, "unknown-member", "`keys`"),
    (r#"{"success": [{"op": "get", "key": 1}]}"#, 400, "bad-member", "a string"),
    (r#"{"success": [{"op": "get", "key": "a", "key": "a"}]}"#, 400, "doubled-member", "duplicate"),
    (
        r#"{"success": [{"op": "get", "key": "a", "key_base64": "YQ=="}]}"#,
        400,
        "contradictory-members",
        "exclude",
    ),
    (r#"{"failure": [{"op": "get", "key_base64": "YQ"}]}"#, 400, "bad-base64", "failure[0]"),
    (r#"{"failure": [{"op": "get", "key": ""}]}"#, 400, "bad-key", "empty"),
    (r#"{"success": [{"op": "get", "key": "\ud800"}]}"#, 400, "bad-json", "hex escape"),
    (
        r#"{"success": [{"op": "get", "key": "0123456789abcdefg"}]}"#,
        414,
        "key-too-long",
        "17 bytes",
    ),
    (r#"{"success": [{"op": "put", "key": "a"}]}"#, 400, "missing-member", "\"value\""),
    (r#"{"success": [{"op": "put", "key": "a", "value": 1}]}"#, 400, "bad-member", "a string"),
    (
        r#"{"success": [{"op": "put", "key": "a", "value": "1", "limit": 1}]}"#,
        400,
        "unknown-member",
        "no \"limit\"",
    ),
    (
        r#"{"success": [{"op": "put", "key": "a", "value": "0123456789abcdefg"}]}"#,
        413,
        "body-too-large",
        "17 bytes",
    ),
    (
        r#"{"success": [{"op": "put", "key": "a", "value": "1", "lease": 0}]}"#,
        400,
        "bad-member",
        "id 0",
    ),
    (
        r#"{"success": [{"op": "put", "key": "a", "value": "1", "lease": 7}]}"#,
        404,
        "lease-not-found",
        "no lease 7",
    ),
    (
        r#"{"success": [{"op": "put", "key": "a", "value": "1", "prev": 1}]}"#,
        400,
        "bad-member",
        "boolean",
    ),
    (
        r#"{"success": [{"op": "range", "prefix": "a", "limit": 0}]}"#,
        400,
        "bad-member",
        "from 1 to 1000",
    ),
    (
        r#"{"success": [{"op": "range", "prefix": "a", "limit": 1001}]}"#,
        400,
        "bad-member",
        "from 1 to 1000",
    ),
    (
        r#"{"success": [{"op": "range", "prefix": "0123456789abcdefg"}]}"#,
        414,
        "key-too-long",
        "17 bytes",
    ),
    (
        r#"{"success": [{"op": "range", "start": "0123456789abcdefgh"}]}"#,
        414,
        "key-too-long",
        "18 bytes",
    ),
    (
        r#"{"success": [{"op": "range", "start": "b", "end": "a"}]}"#,
        400,
        "contradictory-members",
        "below",
    ),
    (
        r#"{"failure": [{"op": "delete_range", "start_base64": "/w==", "end": "a"}]}"#,
        400,
        "contradictory-members",
        "below",
    ),
    (
        r#"{"success": [{"op": "range", "prefix": "b", "end": "a"}]}"#,
        400,
        "contradictory-members",
        "\"prefix\"",
    ),
    (r#"{"success": [{"op": "delete_range"}]}"#, 400, "missing-member", "\"all\": true"),
    (
        r#"{"success": [{"op": "delete_range", "prefix": ""}]}"#,
        400,
        "missing-member",
        "\"all\": true",
    ),
    (
        r#"{"success": [{"op": "delete_range", "prefix": "a", "all": true}]}"#,
        400,
        "contradictory-members",
        "only",
    ),
    (
        r#"{"success": [{"op": "delete", "key": "a"}, {"op": "put", "key_base64": "YQ==", "value": ""}]}"#,
        400,
        "written-twice",
        "\"a\"",
    ),
    (
        r#"{"failure": [{"op": "delete", "key": "ab"}, {"op": "delete_range", "prefix": "a"}]}"#,
        400,
        "written-twice",
        "\"ab\"",
    ),
    (
        r#"{"compare": [{"target": "value", "op": "=", "operand": ""}]}"#,
        400,
        "missing-member",
        "compare[0]: \"key\"",
    ),
    (
        r#"{"compare": [{"key": "a", "target": "size", "op": "=", "operand": 1}]}"#,
        400,
        "bad-member",
        "`size`",
    ),
    (
        r#"{"compare": [{"key": "a", "target": "mod", "op": "==", "operand": 1}]}"#,
        400,
        "bad-member",
        "`==`",
    ),
    (
        r#"{"compare": [{"key": "a", "target": "mod", "op": "="}]}"#,
        400,
        "missing-member",
        "whole number",
    ),
    (
        r#"{"compare": [{"key": "a", "target": "mod", "op": "=", "operand": "1"}]}"#,
        400,
        "bad-member",
        "whole number",
    ),
    (
        r#"{"compare": [{"key": "a", "target": "mod", "op": "=", "operand": -1}]}"#,
        400,
        "bad-member",
        "whole number",
    ),
    (
        r#"{"compare": [{"key": "a", "target": "lease", "op": "=", "operand_base64": "YQ=="}]}"#,
        400,
        "bad-member",
        "whole number",
    ),
    (
        r#"{"compare": [{"key": "a", "target": "value", "op": "=", "operand": 1}]}"#,
        400,
        "bad-member",
        "a text",
    ),
    (
        r#"{"compare": [{"key": "a", "target": "value", "op": "="}]}"#,
        400,
        "missing-member",
        "\"operand\"",
    ),
    (
        r#"{"compare": [{"key": "a", "target": "value", "op": "=", "operand_base64": "!"}]}"#,
        400,
        "bad-base64",
        "operand_base64",
    ),
    (
        r#"{"compare": [{"key": "a", "target": "value", "op": "=", "operand": "", "operand_base64": ""}]}"#,
        400,
        "contradictory-members",
        "exclude",
    ),
];

#[tokio::test]
async fn what_is_no_transaction_is_refused_and_changes_nothing() {
    let limits = Limits { key_bytes_max: 16, value_bytes_max: 16, ..Limits::default() };
    let (fake, server) = start(limits).await;
    for (body, status, kind, words) in CASES {
        let answer = server.ask("POST /v1/txn", "", body).await;

        answer.assert_problem(*status, kind, "not_applied");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(words), "{body}: '{detail}' does not say '{words}'");
    }
    let heads = [
        ("GET /v1/txn", "", 405, "method-not-allowed"),
        ("POST /v1/txn?nope", "", 400, "unknown-parameter"),
        ("POST /v1/txn?encoding=hex", "", 400, "bad-query"),
        ("POST /v1/txn", "if-match: *", 400, "bad-header"),
        ("POST /v1/txn", "idempotency-key: a b", 400, "bad-header"),
    ];
    for (line, headers, status, kind) in heads {
        server.ask(line, headers, "{}").await.assert_problem(status, kind, "not_applied");
    }
    assert_eq!(synod_api::Replica::revision(&fake).0, 0);
}

#[tokio::test]
async fn too_many_operations_and_too_many_bytes_are_refused() {
    let (fake, server) = start(Limits { txn_bytes_max: 100_000, ..Limits::default() }).await;
    let get = json!({"op": "get", "key": "a"});
    let compare = json!({"key": "a", "target": "mod", "op": "=", "operand": 0});
    for (list, one) in [("compare", &compare), ("success", &get), ("failure", &get)] {
        let body = |count: usize| json!({ list: vec![one.clone(); count] });
        assert_eq!(txn(&server, "", &body(1024)).await.status, 200);
        let refused = txn(&server, "", &body(1025)).await;
        refused.assert_problem(400, "too-many-operations", "not_applied");
        let (_, few) = start(Limits { txn_operations_max: 3, ..Limits::default() }).await;
        assert_eq!(txn(&few, "", &body(3)).await.status, 200);
        let refused = txn(&few, "", &body(4)).await;
        refused.assert_problem(400, "too-many-operations", "not_applied");
        let detail = refused.json()["detail"].to_string();
        assert!(detail.contains("4 comparisons or operations where 3 are allowed"), "{detail}");
    }
    let writes = fake.writes_seen();
    let body = json!({"success": [{"op": "put", "key": "a", "value": "v".repeat(100_000)}]});
    txn(&server, "", &body).await.assert_problem(413, "body-too-large", "not_applied");
    // A prefix stands twice in the log, and so may be longer there than here.
    let (_, server) =
        start(Limits { txn_bytes_max: 64 << 20, key_bytes_max: 1 << 15, ..Limits::default() })
            .await;
    let range = |number: usize| json!({"op": "range", "prefix": format!("{number:030000}")});
    let body = json!({"success": (0..300).map(range).collect::<Vec<_>>()});
    let refused = txn(&server, "", &body).await;
    refused.assert_problem(413, "transaction-too-large", "not_applied");
    assert_eq!(fake.writes_seen(), writes);
}

#[tokio::test]
async fn one_branch_is_carried_out_at_one_revision() {
    let (fake, server) = start(Limits::default()).await;
    let body = json!({
        "compare": [{"key": "a", "target": "create", "op": "=", "operand": 0}],
        "success": [
            {"op": "put", "key": "a", "value": "1"},
            {"op": "put", "key_base64": "Yf8=", "value_base64": "/w=="},
            {"op": "get", "key": "a"},
        ],
        "failure": [
            {"op": "put", "key": "a", "value": "2", "prev": true},
            {"op": "get", "key": "missing"},
            {"op": "range", "prefix": "a", "limit": 1},
            {"op": "range", "start": "a", "end": "b", "keys_only": true},
            {"op": "delete", "key_base64": "Yf8=", "prev": true},
            {"op": "delete", "key": "missing"},
        ],
    });
    let first = txn(&server, "", &body).await;
    assert_eq!((first.status, first.header("synod-revision")), (200, "1"));
    let at = |create: u64, last: u64, version: u64, value: &str| json!({"value": value, "create_revision": create, "mod_revision": last, "version": version});
    let results = json!([
        {"op": "put", "create_revision": 1, "version": 1},
        {"op": "put", "create_revision": 1, "version": 1},
        {"op": "get", "record": at(1, 1, 1, "1")},
    ]);
    assert_eq!(first.json(), json!({"revision": 1, "succeeded": true, "results": results}));
    let second = txn(&server, "", &body).await.json();
    let bare = |number: &str| json!({"key": number, "create_revision": 1, "mod_revision": 2, "version": 2});
    let mut binary = at(1, 1, 1, "");
    binary.as_object_mut().unwrap().remove("value");
    binary["value_base64"] = json!("/w==");
    let mut listed = binary.clone();
    listed.as_object_mut().unwrap().remove("value_base64");
    listed["key_base64"] = json!("Yf8=");
    let mut whole = at(1, 2, 2, "2");
    whole["key"] = json!("a");
    let results = json!([
        {"op": "put", "create_revision": 1, "version": 2, "previous": at(1, 1, 1, "1")},
        {"op": "get", "record": null},
        {"op": "range", "count": 1, "entries": [whole], "next": {"key_base64": "Yf8="}},
        {"op": "range", "count": 2, "entries": [bare("a"), listed]},
        {"op": "delete", "deleted": 1, "previous": binary},
        {"op": "delete", "deleted": 0},
    ]);
    assert_eq!(second, json!({"revision": 2, "succeeded": false, "results": results}));
    assert_eq!(fake.value(b"a").unwrap(), b"2");
    // Reading changes no revision, and neither does nothing.
    let read = json!({"success": [{"op": "get", "key": "a"}]});
    assert_eq!(txn(&server, "", &read).await.json()["revision"], 2);
    let nothing = json!({"revision": 2, "succeeded": true, "results": []});
    assert_eq!(txn(&server, "", &json!({})).await.json(), nothing);
    let base64 = server.ask("POST /v1/txn?encoding=base64", "", &read.to_string()).await.json();
    assert_eq!(base64["results"][0]["record"]["value_base64"], "Mg==");
    let gone = json!({"success": [{"op": "delete_range", "prefix": "a"}]});
    let gone = txn(&server, "", &gone).await.json();
    assert_eq!(gone["results"], json!([{"op": "delete_range", "deleted": 1}]));
    let all = json!({"success": [{"op": "delete_range", "all": true, "limit": 5}]});
    assert_eq!(txn(&server, "", &all).await.json()["results"][0]["deleted"], 0);
}

#[tokio::test]
async fn every_comparison_is_understood() {
    let (fake, server) = start(Limits::default()).await;
    let grant =
        Operation::Lease(LeaseOperation::Grant { id: Some(synod_kv::LeaseId(7)), ttl_ms: 9_000 });
    let deadline = tokio::time::Instant::now();
    let command = Command { idempotency: None, operation: grant };
    synod_api::Replica::write(&fake, command, deadline).await.unwrap();
    let put =
        |value: &str| json!({"success": [{"op": "put", "key": "a", "value": value, "lease": 7}]});
    for value in ["m", "n"] {
        assert_eq!(txn(&server, "", &put(value)).await.status, 200);
    }
    assert_eq!(server.ask("GET /v1/kv/a", "", "").await.header("synod-lease"), "7");
    let holds = async |target: &str, op: &str, operand: Value| {
        let name = if operand == "bg==" { "operand_base64" } else { "operand" };
        let body = json!({"compare": [{"key": "a", "target": target, "op": op, name: operand}]});
        txn(&server, "", &body).await.json()["succeeded"].as_bool().unwrap()
    };
    for (target, below, same, above) in [
        ("value", json!("m"), json!("n"), json!("o")),
        ("value", json!(""), json!("bg=="), json!("o")),
        ("version", json!(1), json!(2), json!(3)),
        ("create", json!(0), json!(1), json!(2)),
        ("mod", json!(1), json!(2), json!(3)),
        ("lease", json!(6), json!(7), json!(u64::MAX)),
    ] {
        for (op, [low, equal, high]) in [
            ("=", [false, true, false]),
            ("!=", [true, false, true]),
            ("<", [false, false, true]),
            (">", [true, false, false]),
        ] {
            assert_eq!(holds(target, op, below.clone()).await, low, "{target} {op} {below}");
            assert_eq!(holds(target, op, same.clone()).await, equal, "{target} {op} {same}");
            assert_eq!(holds(target, op, above.clone()).await, high, "{target} {op} {above}");
        }
    }
}

#[tokio::test]
async fn a_retry_has_effect_once_however_it_is_written() {
    let (fake, server) = start(Limits::default()).await;
    let named = async |body: &str| server.ask("POST /v1/txn", "idempotency-key: one", body).await;
    let first = named(r#"{"success":[{"op":"put","key":"a","value":"1"}]}"#).await;
    assert!(first.headers.contains_key("synod-idempotency-expires"));
    server.ask("PUT /v1/kv/a", "", "2").await;
    let same = r#"{ "failure": [], "success": [{"value_base64":"MQ==", "prev": false, "key_base64":"YQ==", "op":"put"}] }"#;
    assert_eq!(named(same).await.json(), first.json());
    assert_eq!(fake.value(b"a").unwrap(), b"2");
    for other in [
        r#"{"success":[{"op":"put","key":"a","value":"2"}]}"#,
        r#"{"success":[{"op":"put","key":"a","value":"1","prev":true}]}"#,
        r#"{"failure":[{"op":"put","key":"a","value":"1"}]}"#,
        r#"{"success":[{"op":"delete","key":"a"}]}"#,
        r#"{"compare":[{"key":"a","target":"mod","op":"=","operand":1}],"success":[{"op":"put","key":"a","value":"1"}]}"#,
        "{}",
    ] {
        named(other).await.assert_problem(422, "idempotency-mismatch", "not_applied");
    }
    fake.set_writes(Mode::ServeAndLose);
    let lost = r#"{"success":[{"op":"put","key":"b","value":"1"}]}"#;
    let unknown = server.ask("POST /v1/txn", "idempotency-key: two", lost).await;
    unknown.assert_problem(503, "outcome-unknown", "unknown");
    fake.set_writes(Mode::Serve);
    let again = server.ask("POST /v1/txn", "idempotency-key: two", lost).await;
    assert_eq!((again.status, &again.json()["revision"]), (200, &json!(3)));
}

#[tokio::test]
async fn reads_that_are_too_much_for_one_answer_undo_the_whole() {
    let (fake, server) = start(Limits::default()).await;
    let value = "v".repeat(1 << 20);
    for key in ["a", "b", "c", "d", "e"] {
        assert_eq!(server.ask(&format!("PUT /v1/kv/{key}"), "", &value).await.status, 201);
    }
    let get = |key: &str| json!({"op": "get", "key": key});
    let put = json!({"op": "put", "key": "x", "value": "1"});
    let body = json!({"success": [put, get("a"), get("b"), get("c"), get("d"), get("e")]});
    txn(&server, "", &body).await.assert_problem(413, "transaction-too-large", "not_applied");
    assert_eq!(fake.value(b"x"), None);
    fake.set_leader(Some(Leader::new(2, "http://10.0.0.2:7001")));
    let redirect = server.ask("POST /v1/txn?redirect", "", "{}").await;
    assert_eq!(
        (redirect.status, redirect.header("location")),
        (307, "http://10.0.0.2:7001/v1/txn?redirect")
    );
    fake.set_writes(Mode::Refuse(Refused::NoRoom));
    txn(&server, "", &json!({})).await.assert_problem(507, "no-room", "not_applied");
}
