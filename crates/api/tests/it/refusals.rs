//! Every request that is refused for what it says: a problem document, and nothing
//! stored.

use crate::fake::Fake;
use crate::raw::{Case, Server};
use synod_api::{Leader, Limits};

const CASES: &[Case] = &[
    // Keys.
    ("PUT /v1/kv/", "", "v", 400, "bad-key", "empty"),
    ("GET /v1/kv/", "", "", 400, "bad-key", "empty"),
    ("PUT /v1/kv/%", "", "v", 400, "bad-key", "byte 0"),
    ("PUT /v1/kv/a%2", "", "v", 400, "bad-key", "byte 1"),
    ("PUT /v1/kv/%zz", "", "v", 400, "bad-key", "hexadecimal"),
    ("PUT /v1/kv/0123456789abcdefg", "", "v", 414, "key-too-long", "17 bytes; at most 16"),
    ("GET /v1/kv/0123456789abcdefg", "", "", 414, "key-too-long", "at most 16"),
    ("DELETE /v1/kv/0123456789abcdef%67", "", "", 414, "key-too-long", "at most 16"),
    // Parameters.
    ("PUT /v1/kv/a?nope=1", "", "v", 400, "unknown-parameter", "takes: lease, ttl, prev, redirect"),
    ("PUT /v1/kv/a?Prev=true", "", "v", 400, "unknown-parameter", "'Prev'"),
    ("PUT /v1/kv/a?prev&prev", "", "v", 400, "doubled-parameter", "'prev' is given twice"),
    ("PUT /v1/kv/a?prev=yes", "", "v", 400, "bad-query", "'true' or 'false'"),
    ("PUT /v1/kv/a?consistency=stale", "", "v", 400, "unknown-parameter", "'consistency'"),
    ("GET /v1/kv/a?revision=-1", "", "", 400, "bad-query", "whole number"),
    ("GET /v1/kv/a?revision=", "", "", 400, "bad-query", "whole number"),
    ("GET /v1/kv/a?revision=1&revision=1", "", "", 400, "doubled-parameter", "twice"),
    ("GET /v1/kv/a?revision=2", "", "", 400, "future-revision", "is at revision 1"),
    (
        "GET /v1/kv/a?revision=0&min_revision=1",
        "",
        "",
        400,
        "contradictory-parameters",
        "below 'min_revision'",
    ),
    (
        "PUT /v1/kv/a?revision=1",
        "",
        "v",
        400,
        "unknown-parameter",
        "takes: lease, ttl, prev, redirect",
    ),
    ("GET /v1/kv/a?consistency=maybe", "", "", 400, "bad-query", "'linearizable' or 'stale'"),
    ("GET /v1/kv/a?min_revision=x", "", "", 400, "bad-query", "whole number"),
    ("GET /v1/kv/a?min_revision=18446744073709551616", "", "", 400, "bad-query", "2^64"),
    ("DELETE /v1/kv/a?all=true", "", "", 400, "unknown-parameter", "'all'"),
    ("GET /v1/kv?nope", "", "", 400, "unknown-parameter", "takes: prefix, start, end"),
    ("GET /v1/kv?revision=x", "", "", 400, "bad-query", "whole number"),
    ("GET /v1/kv?revision=4", "", "", 400, "future-revision", "is at revision 1"),
    ("GET /v1/kv?revision=4&count_only", "", "", 400, "future-revision", "revision 1"),
    ("GET /v1/kv?revision=4", "accept: application/x-ndjson", "", 400, "future-revision", "1"),
    ("DELETE /v1/kv?prefix=a&revision=1", "", "", 400, "unknown-parameter", "takes: prefix, all"),
    ("GET /v1/kv?prefix=a&prefix=b", "", "", 400, "doubled-parameter", "twice"),
    ("GET /v1/kv?prefix=%zz", "", "", 400, "bad-query", "'prefix'"),
    ("GET /v1/kv?prefix=a+b", "", "", 400, "bad-query", "%2B"),
    ("GET /v1/kv?prefix=0123456789abcdefg", "", "", 414, "key-too-long", "'prefix'"),
    ("GET /v1/kv?limit=0", "", "", 400, "bad-query", "from 1 to 1000"),
    ("GET /v1/kv?limit=1001", "", "", 400, "bad-query", "from 1 to 1000"),
    ("GET /v1/kv?limit=-1", "", "", 400, "bad-query", "whole number"),
    ("GET /v1/kv?reverse=maybe", "", "", 400, "bad-query", "'reverse'"),
    ("GET /v1/kv?encoding=hex", "", "", 400, "bad-query", "'text' or 'base64'"),
    ("GET /v1/kv?start=b&end=a", "", "", 400, "contradictory-parameters", "below 'start'"),
    ("GET /v1/kv?prefix=b&end=a", "", "", 400, "contradictory-parameters", "outside 'prefix'"),
    (
        "GET /v1/kv?prefix=b&start=d&keys_only",
        "",
        "",
        400,
        "contradictory-parameters",
        "outside 'prefix'",
    ),
    (
        "GET /v1/kv?start=b&end=a&count_only",
        "",
        "",
        400,
        "contradictory-parameters",
        "below 'start'",
    ),
    (
        "GET /v1/kv?start=b&end=a",
        "accept: application/x-ndjson",
        "",
        400,
        "contradictory-parameters",
        "below",
    ),
    ("GET /v1/kv?count_only&limit=1", "", "", 400, "contradictory-parameters", "'limit'"),
    ("GET /v1/kv?count_only&reverse", "", "", 400, "contradictory-parameters", "'reverse'"),
    ("GET /v1/kv?count_only&keys_only", "", "", 400, "contradictory-parameters", "'keys_only'"),
    (
        "GET /v1/kv?count_only",
        "accept: application/x-ndjson",
        "",
        400,
        "contradictory-parameters",
        "'Accept: ",
    ),
    ("DELETE /v1/kv?start=b&end=a", "", "", 400, "unknown-parameter", "takes: prefix, all"),
    ("DELETE /v1/kv", "", "", 400, "missing-parameter", "all=true"),
    ("DELETE /v1/kv?prefix=", "", "", 400, "missing-parameter", "all=true"),
    ("DELETE /v1/kv?prefix=&all=false", "", "", 400, "missing-parameter", "all=true"),
    ("DELETE /v1/kv?prefix=a&all=true", "", "", 400, "contradictory-parameters", "leave it out"),
    ("DELETE /v1/kv?prefix=a&limit=1", "", "", 400, "unknown-parameter", "'limit'"),
    ("GET /v1/status?verbose", "", "", 400, "unknown-parameter", "no parameters"),
    ("GET /livez?x=1", "", "", 400, "unknown-parameter", "no parameters"),
    // Headers.
    ("PUT /v1/kv/a", "if-match: 1", "v", 400, "bad-header", "double quotes"),
    ("PUT /v1/kv/a", "if-match: \"x\"", "v", 400, "bad-header", "a revision"),
    ("PUT /v1/kv/a", "if-match: W/\"1\"", "v", 400, "bad-header", "strong"),
    ("PUT /v1/kv/a", "if-match: \"1\", \"2\"", "v", 400, "bad-header", "not a list"),
    ("PUT /v1/kv/a", "if-match: \"1\"\nif-match: \"2\"", "v", 400, "doubled-header", "twice"),
    ("PUT /v1/kv/a", "if-none-match: \"1\"", "v", 400, "bad-header", "only '*'"),
    ("PUT /v1/kv/a", "if-none-match: *\nif-match: *", "v", 400, "contradictory-headers", "exclude"),
    ("DELETE /v1/kv/a", "if-none-match: *", "", 400, "bad-header", "nothing to delete"),
    ("DELETE /v1/kv?prefix=a", "if-match: *", "", 400, "bad-header", "for one key"),
    ("GET /v1/kv/a", "if-match: \"1\"", "", 400, "bad-header", "If-None-Match"),
    ("GET /v1/kv/a", "if-none-match: 1", "", 400, "bad-header", "double quotes"),
    ("PUT /v1/kv/a", "synod-timeout: 2", "v", 400, "bad-header", "2s or 500ms"),
    ("PUT /v1/kv/a", "synod-timeout: 61s", "v", 400, "bad-header", "60000ms"),
    ("GET /v1/kv/a", "synod-timeout: 0s", "", 400, "bad-header", "2s or 500ms"),
    ("GET /v1/kv", "synod-timeout: soon", "", 400, "bad-header", "2s or 500ms"),
    ("PUT /v1/kv/a", "synod-timeout: 1s\nsynod-timeout: 1s", "v", 400, "doubled-header", "twice"),
    ("PUT /v1/kv/a", "idempotency-key: a b", "v", 400, "bad-header", "visible ASCII"),
    ("PUT /v1/kv/a", "idempotency-key: \u{e9}", "v", 400, "bad-header", "ASCII"),
    ("DELETE /v1/kv?prefix=a", "idempotency-key:", "", 400, "bad-header", "1 to 255"),
    // Bodies.
    ("PUT /v1/kv/a", "", "0123456789abcdefg", 413, "body-too-large", "16 bytes"),
    ("PUT /v1/kv/a", "content-length: 4294967296", "", 413, "body-too-large", "16 bytes"),
    ("PUT /v1/kv/a", "content-length: 9223372036854775807", "", 413, "body-too-large", "16"),
    // Resources and methods.
    ("POST /v1/kv/a", "", "v", 405, "method-not-allowed", "GET, HEAD, PUT, DELETE"),
    ("PATCH /v1/kv/a", "", "v", 405, "method-not-allowed", "GET, HEAD, PUT, DELETE"),
    ("OPTIONS /v1/kv/a", "", "", 405, "method-not-allowed", "GET, HEAD, PUT, DELETE"),
    ("MADEUP /v1/kv/a", "", "", 405, "method-not-allowed", "GET, HEAD, PUT, DELETE"),
    ("PUT /v1/kv", "", "v", 405, "method-not-allowed", "GET, HEAD, DELETE"),
    ("POST /v1/status", "", "v", 405, "method-not-allowed", "GET, HEAD"),
    ("DELETE /livez", "", "", 405, "method-not-allowed", "GET, HEAD"),
    ("PUT /readyz", "", "", 405, "method-not-allowed", "GET, HEAD"),
    ("POST /metrics", "", "", 405, "method-not-allowed", "GET, HEAD"),
    ("GET /", "", "", 404, "not-found", "/v1/kv/{key}"),
    ("GET /v2/kv/a", "", "", 404, "not-found", "no such resource"),
    ("GET /v1/kvs", "", "", 404, "not-found", "no such resource"),
    ("GET /v1/batch", "", "", 405, "method-not-allowed", "POST"),
    ("POST /v1/batch?prev", "", "{}", 400, "unknown-parameter", "takes: redirect"),
    ("POST /v1/batch", "if-none-match: *", "{}", 400, "bad-header", "not for this call"),
    ("POST /v1/batch", "idempotency-key: a", "{}", 400, "bad-header", "names one write"),
    ("POST /v1/batch", "synod-timeout: 1", "{}", 400, "bad-header", "2s or 500ms"),
    // Compactions.
    ("GET /v1/compact", "", "", 405, "method-not-allowed", "POST"),
    ("POST /v1/compact?revision=1", "", "{}", 400, "unknown-parameter", "takes: redirect"),
    ("POST /v1/compact", "", "", 400, "bad-json", "{\"revision\": N}"),
    ("POST /v1/compact", "", "{}", 400, "missing-member", "missing field"),
    ("POST /v1/compact", "", "{\"revision\": 1}x", 400, "bad-json", "trailing"),
    ("POST /v1/compact", "", "[1]", 400, "bad-member", "an object"),
    ("POST /v1/compact", "", "{\"revision\": -1}", 400, "bad-member", "u64"),
    ("POST /v1/compact", "", "{\"revision\": \"1\"}", 400, "bad-member", "u64"),
    ("POST /v1/compact", "", "{\"revision\": 1, \"now\": true}", 400, "unknown-member", "`now`"),
    ("POST /v1/compact", "", "{\"revision\":1,\"revision\":1}", 400, "doubled-member", "duplicate"),
    ("POST /v1/compact", "if-match: *", "{\"revision\": 1}", 400, "bad-header", "for one key"),
    ("POST /v1/compact", "idempotency-key: a b", "{\"revision\": 1}", 400, "bad-header", "visible"),
    ("OPTIONS *", "", "", 404, "not-found", "no such resource"),
    ("CONNECT synod:80", "", "", 404, "not-found", "no such resource"),
];

#[tokio::test]
async fn what_is_not_understood_is_refused_and_changes_nothing() {
    let fake = Fake::default();
    let limits = Limits { key_bytes_max: 16, value_bytes_max: 16, ..Limits::default() };
    let server = Server::start(fake.clone(), limits).await;
    server.ask("PUT /v1/kv/a", "", "before").await;
    let writes = fake.writes_seen();
    for case in CASES {
        let answer = server.assert_refused(case).await;
        assert_eq!(answer.header("synod-leader"), "1 http://127.0.0.1:7001", "{}", case.0);
    }
    assert_eq!(fake.writes_seen(), writes, "a refused request reached the replica");
    assert_eq!(fake.value(b"a").unwrap(), b"before");
}

#[tokio::test]
async fn a_key_as_long_as_allowed_fits_with_every_byte_encoded() {
    let server = Server::start(Fake::default(), Limits::default()).await;
    let key = "%ff".repeat(4096);
    assert_eq!(server.ask(&format!("PUT /v1/kv/{key}"), "", "v").await.status, 201);
    let list = format!("GET /v1/kv?prefix={key}&start={key}&end={key}%00");
    assert_eq!(server.ask(&list, "", "").await.json()["count"], 1);
    let answer = server.ask(&format!("PUT /v1/kv/{key}%ff"), "", "v").await;
    answer.assert_problem(414, "key-too-long", "not_applied");
}

#[tokio::test]
async fn a_redirect_names_the_leader_and_nobody_else() {
    let fake = Fake::default();
    let server = Server::start(fake.clone(), Limits::default()).await;
    // This node leads: it answers itself.
    assert_eq!(server.ask("PUT /v1/kv/a?redirect", "", "v").await.status, 201);
    fake.set_leader(Some(Leader::new(2, "http://10.0.0.2:7001")));
    for line in ["PUT /v1/kv/a%2f?redirect", "GET /v1/kv/%2e?redirect=true", "GET /v1/kv?redirect"]
    {
        let answer = server.ask(line, "host: elsewhere", "").await;
        let target = line.split_once(' ').unwrap().1;
        assert_eq!(answer.status, 307, "{answer:?}");
        assert_eq!(answer.header("location"), format!("http://10.0.0.2:7001{target}"));
        assert_eq!(answer.header("synod-leader"), "2 http://10.0.0.2:7001");
        assert_eq!(answer.json()["leader"]["id"], 2);
    }
    assert_eq!(server.ask("DELETE /v1/kv?prefix=a&redirect", "", "").await.status, 307);
    assert_eq!(server.ask("GET /v1/kv/a?redirect=false", "", "").await.status, 200);
    fake.set_leader(None);
    let lost = server.ask("PUT /v1/kv/a?redirect", "", "v").await;
    lost.assert_problem(503, "no-leader", "not_applied");
    assert_eq!(lost.header("synod-leader"), "");
}
