//! Requests that make no sense, for the calls that tests/refusals.rs leaves out: each gets a
//! problem of its own type, and nothing has changed.

use std::fmt::Write;

use crate::fake::Fake;
use crate::raw::{Case, Server};
use synod_api::{Limits, Replica};

const TXN: &[Case] = &[
    ("POST /v1/txn", "", "{\"success\": [[\"get\", \"a\"]]}", 400, "bad-member", "an object"),
    ("POST /v1/txn", "", "{\"compare\": [[\"a\"]]}", 400, "bad-member", "an object"),
    ("GET /v1/txn", "", "", 405, "method-not-allowed", "POST"),
    ("POST /v1/txn?prev", "", "{}", 400, "unknown-parameter", "takes: encoding, redirect"),
    ("POST /v1/txn?encoding=text&encoding=text", "", "{}", 400, "doubled-parameter", "twice"),
    ("POST /v1/txn?encoding=hex", "", "{}", 400, "bad-query", "'text' or 'base64'"),
    ("POST /v1/txn", "if-match: *", "{}", 400, "bad-header", "compares by itself"),
    ("POST /v1/txn", "synod-timeout: 1", "{}", 400, "bad-header", "2s or 500ms"),
    ("POST /v1/txn", "idempotency-key: a b", "{}", 400, "bad-header", "visible ASCII"),
    ("POST /v1/txn", "", "", 400, "bad-json", "EOF"),
    ("POST /v1/txn", "", "{} {}", 400, "bad-json", "trailing"),
    ("POST /v1/txn", "", "[]", 400, "bad-member", "an object"),
    ("POST /v1/txn", "", "{\"then\": []}", 400, "unknown-member", "unknown field"),
    ("POST /v1/txn", "", "{\"success\": [], \"success\": []}", 400, "doubled-member", "duplicate"),
    ("POST /v1/txn", "", "{\"success\": {}}", 400, "bad-member", "a list"),
    ("POST /v1/txn", "", "{\"success\": [{}]}", 400, "missing-member", "missing field `op`"),
    ("POST /v1/txn", "", "{\"success\": [{\"op\": \"fly\"}]}", 400, "bad-member", "fly"),
    ("POST /v1/txn", "", "{\"success\": [{\"op\": \"get\"}]}", 400, "missing-member", "missing"),
    (
        "POST /v1/txn",
        "",
        "{\"success\": [{\"op\": \"get\", \"key\": \"\"}]}",
        400,
        "bad-key",
        "empty",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"success\": [{\"op\": \"get\", \"key\": 1}]}",
        400,
        "bad-member",
        "string",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"success\": [{\"op\": \"get\", \"key_base64\": \"YQ\"}]}",
        400,
        "bad-base64",
        "padding",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"success\": [{\"op\": \"get\", \"key\": \"a\", \"key_base64\": \"YQ==\"}]}",
        400,
        "contradictory-members",
        "exclude",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"success\": [{\"op\": \"get\", \"key\": \"a\", \"value\": \"b\"}]}",
        400,
        "unknown-member",
        "has no \"value\"",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"success\": [{\"op\": \"get\", \"key\": \"0123456789abcdefg\"}]}",
        414,
        "key-too-long",
        "17 bytes",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"success\": [{\"op\": \"put\", \"key\": \"a\"}]}",
        400,
        "missing-member",
        "\"value\"",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"success\": [{\"op\": \"put\", \"key\": \"a\", \"value\": \"0123456789abcdefg\"}]}",
        413,
        "body-too-large",
        "17 bytes",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"success\": [{\"op\": \"put\", \"key\": \"a\", \"value\": \"b\", \"lease\": 0}]}",
        400,
        "bad-member",
        "id 0",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"success\": [{\"op\": \"delete_range\"}]}",
        400,
        "missing-member",
        "prefix",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"success\": [{\"op\": \"delete_range\", \"prefix\": \"a\", \"all\": true}]}",
        400,
        "contradictory-members",
        "all",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"success\": [{\"op\": \"range\", \"prefix\": \"a\", \"limit\": 0}]}",
        400,
        "bad-member",
        "from 1 to",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"success\": [{\"op\": \"put\", \"key\": \"a\", \"value\": \"b\"}, {\"op\": \"delete\", \"key_base64\": \"YQ==\"}]}",
        400,
        "written-twice",
        "no transaction",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"failure\": [{\"op\": \"put\", \"key\": \"ab\", \"value\": \"b\"}, {\"op\": \"delete_range\", \"prefix\": \"a\"}]}",
        400,
        "written-twice",
        "no transaction",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"compare\": [{\"key\": \"a\", \"target\": \"value\", \"op\": \"=\"}]}",
        400,
        "missing-member",
        "operand",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"compare\": [{\"key\": \"a\", \"target\": \"value\", \"op\": \"=\", \"operand\": 1}]}",
        400,
        "bad-member",
        "a text",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"compare\": [{\"key\": \"a\", \"target\": \"mod\", \"op\": \"=\", \"operand\": \"1\"}]}",
        400,
        "bad-member",
        "whole number",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"compare\": [{\"key\": \"a\", \"target\": \"mod\", \"op\": \"~\", \"operand\": 1}]}",
        400,
        "bad-member",
        "variant",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"compare\": [{\"key\": \"a\", \"target\": \"mod\", \"op\": \"=\", \"operand\": -1}]}",
        400,
        "bad-member",
        "2^64",
    ),
    (
        "POST /v1/txn",
        "",
        "{\"compare\": [{\"key\": \"a\", \"op\": \"=\", \"operand\": 1}]}",
        400,
        "missing-member",
        "target",
    ),
];

const LEASES: &[Case] = &[
    ("PUT /v1/lease", "", "{}", 405, "method-not-allowed", "GET, HEAD, POST"),
    (
        "POST /v1/lease?ttl=30s",
        "",
        "{\"ttl\": \"30s\"}",
        400,
        "unknown-parameter",
        "takes: redirect",
    ),
    ("POST /v1/lease", "", "", 400, "bad-json", "a lease"),
    ("POST /v1/lease", "", "{}", 400, "missing-member", "missing field `ttl`"),
    ("POST /v1/lease", "", "{\"ttl\": 30}", 400, "bad-member", "a string"),
    ("POST /v1/lease", "", "{\"ttl\": \"30\"}", 400, "bad-member", "30s or 1500ms"),
    ("POST /v1/lease", "", "{\"ttl\": \"1ms\"}", 400, "bad-member", "from 1000ms"),
    ("POST /v1/lease", "", "{\"ttl\": \"30s\", \"id\": 0}", 400, "bad-member", "id 0"),
    ("POST /v1/lease", "", "{\"ttl\": \"30s\", \"id\": -1}", 400, "bad-member", "u64"),
    (
        "POST /v1/lease",
        "",
        "{\"ttl\": \"30s\", \"ttl\": \"30s\"}",
        400,
        "doubled-member",
        "duplicate",
    ),
    (
        "POST /v1/lease",
        "",
        "{\"ttl\": \"30s\", \"name\": \"a\"}",
        400,
        "unknown-member",
        "unknown field",
    ),
    ("POST /v1/lease", "", "[\"30s\"]", 400, "bad-member", "an object"),
    ("GET /v1/lease?limit=0", "", "", 400, "bad-query", "from 1 to"),
    ("GET /v1/lease?from=a", "", "", 400, "bad-query", "whole number"),
    ("GET /v1/lease?from=1&from=1", "", "", 400, "doubled-parameter", "twice"),
    ("GET /v1/lease/a", "", "", 400, "bad-id", "decimal"),
    ("GET /v1/lease/07", "", "", 400, "bad-id", "decimal"),
    ("GET /v1/lease/7?start=a", "", "", 400, "contradictory-parameters", "keys=true"),
    ("GET /v1/lease/7?keys=maybe", "", "", 400, "bad-query", "'true' or 'false'"),
    ("GET /v1/lease/7", "", "", 404, "lease-not-found", "no lease 7"),
    ("POST /v1/lease/7", "", "", 405, "method-not-allowed", "GET, HEAD, DELETE"),
    ("GET /v1/lease/7/keepalive", "", "", 405, "method-not-allowed", "POST"),
    ("POST /v1/lease/keepalive", "", "{\"ids\": [\"7\"]}", 400, "bad-member", "u64"),
    ("POST /v1/lease/keepalive", "", "{}", 400, "missing-member", "missing field `ids`"),
    ("PUT /v1/kv/a?lease=0", "", "v", 400, "bad-query", "from 1 on"),
    ("PUT /v1/kv/a?lease=x", "", "v", 400, "bad-query", "from 1 on"),
    ("PUT /v1/kv/a?ttl=1", "", "v", 400, "bad-query", "30s or 1500ms"),
    ("PUT /v1/kv/a?ttl=30s&lease=7", "", "v", 400, "contradictory-parameters", "one of them"),
    ("PUT /v1/lease/7", "", "", 405, "method-not-allowed", "GET, HEAD, DELETE"),
    ("POST /v1/lease", "", "{\"ttl\": \"999ms\"}", 400, "bad-member", "from 1000ms"),
    ("POST /v1/lease", "", "{\"ttl\": \"99999999s\"}", 400, "bad-member", "from 1000ms"),
    (
        "POST /v1/lease",
        "",
        "{\"ttl\": \"30s\", \"id\": 4503599627370496}",
        400,
        "bad-member",
        "can't be chosen",
    ),
    (
        "POST /v1/lease",
        "",
        "{\"ttl\": \"30s\", \"id\": 18446744073709551615}",
        400,
        "bad-member",
        "can't be chosen",
    ),
    ("POST /v1/lease", "", "{\"ttl\": \"\u{0}\"}", 400, "bad-json", "control character"),
    ("POST /v1/lease/x/keepalive", "", "", 400, "bad-id", "decimal"),
    ("POST /v1/lease/07/keepalive", "", "", 400, "bad-id", "decimal"),
    ("POST /v1/lease/7/keepalive?id=7", "", "", 400, "unknown-parameter", "takes: redirect"),
    ("POST /v1/lease/keepalive", "", "[7]", 400, "bad-member", "an object"),
    ("DELETE /v1/lease/7/8", "", "", 400, "bad-id", "decimal"),
    ("DELETE /v1/lease/7?force=true", "", "", 400, "unknown-parameter", "takes: redirect"),
    ("PUT /v1/kv/a?lease=7&lease=7", "", "v", 400, "doubled-parameter", "twice"),
    ("PUT /v1/kv/a?ttl=", "", "v", 400, "bad-query", "30s or 1500ms"),
    ("DELETE /v1/kv/a?lease=7", "", "", 400, "unknown-parameter", "takes: prev, redirect"),
];

const OFFICES: &[Case] = &[
    ("PUT /v1/lock/a", "", "", 405, "method-not-allowed", "GET, HEAD, POST, DELETE"),
    ("POST /v1/lock/a", "", "", 400, "bad-json", "a claim"),
    ("POST /v1/lock/a", "", "{}", 400, "missing-member", "\"ttl\""),
    (
        "POST /v1/lock/a",
        "",
        "{\"ttl\": \"9s\", \"lease\": 7}",
        400,
        "contradictory-members",
        "one of",
    ),
    ("POST /v1/lock/a", "", "{\"lease\": 0}", 400, "bad-member", "id 0"),
    ("POST /v1/lock/a", "", "{\"ttl\": \"9s\", \"wait\": \"61s\"}", 400, "bad-member", "at most"),
    ("POST /v1/lock/a", "", "{\"ttl\": \"9s\", \"wait\": 1}", 400, "bad-member", "a string"),
    (
        "POST /v1/lock/a",
        "",
        "{\"ttl\": \"9s\", \"value\": \"x\"}",
        400,
        "unknown-member",
        "an election has",
    ),
    (
        "POST /v1/lock/a",
        "",
        "{\"ttl\": \"9s\", \"owner\": \"x\"}",
        400,
        "unknown-member",
        "unknown field",
    ),
    ("POST /v1/lock/a%00", "", "{\"ttl\": \"9s\"}", 400, "bad-key", "zero bytes"),
    ("POST /v1/election/%zz", "", "{\"ttl\": \"9s\"}", 400, "bad-key", "hexadecimal"),
    (
        "POST /v1/lock/a?wait=1s",
        "",
        "{\"ttl\": \"9s\"}",
        400,
        "unknown-parameter",
        "takes: redirect",
    ),
    ("POST /v1/lock/a", "", "[\"9s\"]", 400, "bad-member", "an object"),
    ("DELETE /v1/lock/a", "", "", 400, "missing-parameter", "'token' is missing"),
    ("DELETE /v1/lock/a?token=x", "", "", 400, "bad-query", "whole number"),
    ("DELETE /v1/lock/a?token=1&token=1", "", "", 400, "doubled-parameter", "twice"),
    ("DELETE /v1/lock/a?token=1", "", "", 409, "lock-not-held", "token 1"),
    (
        "POST /v1/election/a",
        "",
        "{\"ttl\": \"9s\", \"value_base64\": \"?\"}",
        400,
        "bad-base64",
        "standard alphabet",
    ),
    (
        "POST /v1/election/a",
        "",
        "{\"ttl\": \"9s\", \"value\": \"a\", \"value_base64\": \"YQ==\"}",
        400,
        "contradictory-members",
        "value_base64",
    ),
    (
        "POST /v1/lock/a",
        "",
        "{\"ttl\": \"9s\", \"value_base64\": \"YQ==\"}",
        400,
        "unknown-member",
        "A lock has no",
    ),
    ("GET /v1/election/a?token=1", "", "", 400, "unknown-parameter", "takes: consistency"),
    ("GET /v1/lock/a?token=1", "", "", 400, "unknown-parameter", "takes: consistency"),
    ("POST /v1/lock/a", "", "{\"wait\": \"1s\"}", 400, "missing-member", "\"ttl\""),
    ("POST /v1/lock/a", "", "{\"ttl\": \"1\"}", 400, "bad-member", "30s or 1500ms"),
    (
        "POST /v1/lock/a",
        "",
        "{\"ttl\": \"9s\", \"wait\": \"1\"}",
        400,
        "bad-member",
        "30s or 500ms",
    ),
    ("POST /v1/lock/a%", "", "{\"ttl\": \"9s\"}", 400, "bad-key", "byte 1"),
    (
        "GET /v1/lock/0123456789012345678901234567890123456789",
        "",
        "",
        414,
        "key-too-long",
        "40 bytes",
    ),
];

const OTHERS: &[Case] = &[
    ("PUT /v1/cluster/members/4", "", "[\"voter\"]", 400, "bad-member", "an object"),
    ("PUT /v1/cluster/quorums", "", "[2, 2]", 400, "bad-member", "an object"),
    ("POST /v1/cluster/transfer", "", "[2]", 400, "bad-member", "an object"),
    ("POST /v1/watch", "", "", 405, "method-not-allowed", "GET"),
    ("GET /v1/watch?keys=a", "", "", 400, "unknown-parameter", "takes: key, prefix"),
    ("GET /v1/watch?key=", "", "", 400, "bad-query", "one whole key"),
    ("GET /v1/watch?key=a&prefix=a", "", "", 400, "contradictory-parameters", "one whole key"),
    ("GET /v1/watch?key=a&key=a", "", "", 400, "doubled-parameter", "twice"),
    ("GET /v1/watch?start=b&end=a", "", "", 400, "contradictory-parameters", "leaves no keys"),
    ("GET /v1/watch?from=0", "", "", 400, "bad-query", "from 1 on"),
    ("GET /v1/watch?from=1.x", "", "", 400, "bad-query", "from 1 on"),
    ("GET /v1/watch?wait=61s", "", "", 400, "bad-query", "at most"),
    ("GET /v1/watch?encoding=hex", "", "", 400, "bad-query", "'text' or 'base64'"),
    ("GET /v1/watch", "last-event-id: x", "", 400, "bad-header", "a revision"),
    ("GET /v1/watch", "last-event-id: 1\nlast-event-id: 1", "", 400, "doubled-header", "twice"),
    (
        "GET /v1/watch?prefix=0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz",
        "",
        "",
        414,
        "key-too-long",
        "'prefix'",
    ),
    ("POST /v1/snapshot", "", "", 405, "method-not-allowed", "GET"),
    ("GET /v1/snapshot?consistency=x", "", "", 400, "bad-query", "'linearizable' or 'stale'"),
    ("GET /v1/snapshot?revision=1", "", "", 400, "unknown-parameter", "takes: consistency"),
    ("PUT /openapi.json", "", "", 405, "method-not-allowed", "GET, HEAD"),
    ("GET /openapi.json?pretty", "", "", 400, "unknown-parameter", "no parameters"),
    ("POST /v1/cluster", "", "{}", 405, "method-not-allowed", "GET, HEAD"),
    ("POST /v1/cluster/members", "", "", 400, "bad-json", "a new member"),
    ("POST /v1/cluster/members?force", "", "{}", 400, "unknown-parameter", "no parameters"),
    ("PUT /v1/cluster/members/x", "", "{\"role\": \"voter\"}", 400, "bad-id", "number"),
    ("PUT /v1/cluster/members/0", "", "{\"role\": \"voter\"}", 400, "bad-id", "id 0"),
    ("PUT /v1/cluster/members/4294967296", "", "{\"role\": \"voter\"}", 400, "bad-id", "number"),
    ("PUT /v1/cluster/members/4", "", "{}", 400, "missing-member", "Say one of"),
    (
        "PUT /v1/cluster/members/4",
        "",
        "{\"role\": \"voter\", \"replaces\": 3}",
        400,
        "contradictory-members",
        "Say one of",
    ),
    ("PUT /v1/cluster/members/4", "", "{\"role\": \"king\"}", 400, "bad-member", "variant"),
    (
        "PUT /v1/cluster/members/4",
        "",
        "{\"peer\": \"nowhere\"}",
        400,
        "bad-member",
        "host and a port",
    ),
    ("DELETE /v1/cluster/members/4?force=maybe", "", "", 400, "bad-query", "'true' or 'false'"),
    ("PUT /v1/cluster/quorums", "", "{\"promise\": 2}", 400, "missing-member", "accept"),
    (
        "PUT /v1/cluster/quorums",
        "",
        "{\"promise\": \"2\", \"accept\": 2}",
        400,
        "bad-member",
        "u32",
    ),
    ("POST /v1/cluster/transfer", "", "{\"to\": 9}", 404, "no-such-member", "id 9"),
    ("POST /v1/cluster/transfer", "", "{\"from\": 1}", 400, "unknown-member", "unknown field"),
    ("POST /v1/cluster/transfer?to=2", "", "", 400, "unknown-parameter", "no parameters"),
];

async fn start() -> (Fake, Server) {
    let fake = Fake::default();
    let limits = Limits { key_bytes_max: 64, value_bytes_max: 16, ..Limits::default() };
    let server = Server::start(fake.clone(), limits).await;
    server.ask("PUT /v1/kv/a", "", "before").await;
    (fake, server)
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_it_is_written() {
    let fake = Fake::default();
    let limits = Limits { key_bytes_max: 64, value_bytes_max: 16, ..Limits::default() };
    let server = Server::start(fake.clone(), limits).await;
    let short = Limits { key_bytes_max: 16, value_bytes_max: 16, ..Limits::default() };
    let strict = Server::start(fake.clone(), short).await;
    server.ask("PUT /v1/kv/a", "", "before").await;
    let (writes, revision) = (fake.writes_seen(), fake.revision());
    for case in TXN {
        strict.assert_refused(case).await;
    }
    for case in [LEASES, OFFICES, OTHERS].into_iter().flatten() {
        server.assert_refused(case).await;
    }
    // A release of what nobody holds is said through the log, so that it stays refused.
    let releases = OFFICES.iter().filter(|case| case.4 == "lock-not-held").count();
    assert_eq!(
        fake.writes_seen(),
        writes + releases as u64,
        "a refused request reached the replica"
    );
    assert_eq!(fake.revision(), revision, "nothing changed");
    assert!(fake.take_changes().is_empty(), "a change of the members reached the replica");
    assert_eq!(fake.value(b"a").unwrap(), b"before");
}

#[tokio::test]
async fn too_many_of_something_are_refused() {
    let (fake, server) = start().await;
    let writes = fake.writes_seen();
    let operations = "{\"op\": \"get\", \"key\": \"a\"},".repeat(1025);
    for branch in ["success", "failure"] {
        let body = format!("{{\"{branch}\": [{}]}}", operations.trim_end_matches(','));
        let answer = server.ask("POST /v1/txn", "", &body).await;
        answer.assert_problem(400, "too-many-operations", "not_applied");
    }
    let compare =
        "{\"key\": \"a\", \"target\": \"mod\", \"op\": \"=\", \"operand\": 1},".repeat(1025);
    let body = format!("{{\"compare\": [{}]}}", compare.trim_end_matches(','));
    server.ask("POST /v1/txn", "", &body).await.assert_problem(
        400,
        "too-many-operations",
        "not_applied",
    );
    let mut ids = "1".to_owned();
    (0..4096).for_each(|_| write!(ids, ",1").unwrap());
    let answer = server.ask("POST /v1/lease/keepalive", "", &format!("{{\"ids\": [{ids}]}}")).await;
    answer.assert_problem(400, "bad-member", "not_applied");
    let large = " ".repeat(200_000);
    let answer = server.ask("POST /v1/lease/keepalive", "", &large).await;
    answer.assert_problem(413, "body-too-large", "not_applied");
    assert_eq!(fake.writes_seen(), writes);
}

#[tokio::test]
async fn bytes_that_are_no_text_are_refused_where_text_must_be() {
    let (fake, server) = start().await;
    let writes = fake.writes_seen();
    let cases = [
        ("POST /v1/txn", "{\"success\": [{\"op\": \"get\", \"key\": \"\u{1}\"}]}", "bad-utf8"),
        ("POST /v1/lease", "{\"ttl\": \"\u{1}s\"}", "bad-utf8"),
        ("POST /v1/lock/a", "{\"ttl\": \"9s\", \"wait\": \"\u{1}\"}", "bad-utf8"),
        ("POST /v1/compact", "{\"revision\u{1}\": 1}", "bad-utf8"),
        ("PUT /v1/cluster/members/4", "{\"peer\": \"\u{1}\"}", "bad-utf8"),
        ("POST /v1/cluster/transfer", "{\"to\u{1}\": 1}", "bad-utf8"),
    ];
    for (line, body, kind) in cases {
        // 0xff is nowhere in UTF-8.
        let mut request = crate::raw::request(line, "", body).into_bytes();
        request.iter_mut().filter(|byte| **byte == 1).for_each(|byte| *byte = 0xff);
        server.call(request).await.assert_problem(400, kind, "not_applied");
    }
    assert_eq!(fake.writes_seen(), writes);
    let mut batch =
        crate::raw::request("POST /v1/batch", "", "{\"op\": \"put\", \"key\": \"\u{1}\"}")
            .into_bytes();
    batch.iter_mut().filter(|byte| **byte == 1).for_each(|byte| *byte = 0xff);
    let answer = server.call(batch).await;
    assert_eq!(
        (answer.status, &answer.json()["problem"]["type"]),
        (200, &"urn:synod:bad-utf8".into())
    );
    assert_eq!(fake.writes_seen(), writes);
}

/// What only the state can tell. The command is in the log, and has changed nothing.
#[tokio::test]
async fn what_does_not_fit_the_state_changes_nothing() {
    let (_, server) = start().await;
    assert_eq!(server.ask("POST /v1/lease", "", "{\"ttl\": \"30s\", \"id\": 7}").await.status, 201);
    // A lease that ended is as one that never was.
    assert_eq!(server.ask("DELETE /v1/lease/7", "", "").await.status, 200);
    for value in ["1", "2"] {
        server.ask("PUT /v1/kv/b", "", value).await;
    }
    assert_eq!(server.ask("POST /v1/compact", "", "{\"revision\": 2}").await.status, 200);
    let put = "{\"success\": [{\"op\": \"put\", \"key\": \"a\", \"value\": \"v\", \"lease\": 7}]}";
    let cases: &[Case] = &[
        ("PUT /v1/kv/a?lease=7", "", "v", 404, "lease-not-found", "no lease 7"),
        ("POST /v1/txn", "", put, 404, "lease-not-found", "no lease 7"),
        ("POST /v1/lock/a", "", "{\"lease\": 7}", 404, "lease-not-found", "no lease 7"),
        ("POST /v1/lease/7/keepalive", "", "", 404, "lease-not-found", "no lease 7"),
        ("DELETE /v1/lease/7", "", "", 404, "lease-not-found", "no lease 7"),
        ("PUT /v1/kv/a", "if-match: \"99\"", "v", 412, "precondition-failed", "revision 1"),
        ("PUT /v1/kv/a", "if-none-match: *", "v", 412, "precondition-failed", "revision 1"),
        ("DELETE /v1/kv/nothing", "", "", 404, "key-not-found", "no such key"),
        ("DELETE /v1/kv/nothing", "if-match: *", "", 412, "precondition-failed", "not exist"),
        ("POST /v1/compact", "", "{\"revision\": 1}", 409, "already-compacted", "is 2"),
        ("POST /v1/compact", "", "{\"revision\": 99}", 400, "future-revision", "newest one is 3"),
        ("GET /v1/kv/a?revision=1", "", "", 410, "compacted", "is 2"),
        ("GET /v1/kv/a?revision=99", "", "", 400, "future-revision", "revision 3"),
        ("GET /v1/kv?revision=1", "", "", 410, "compacted", "is 2"),
        ("GET /v1/watch?from=2&wait=0s", "", "", 410, "compacted", "begin at 3"),
    ];
    let before = server.ask("GET /v1/kv", "", "").await.json();
    for case in cases {
        server.assert_refused(case).await;
    }
    assert_eq!(server.ask("GET /v1/kv", "", "").await.json(), before, "something has changed");
}
