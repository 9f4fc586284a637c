//! Listing and removing ranges, and what a node says about itself.

use crate::fake::Fake;
use crate::raw::Server;
use serde_json::{Value, json};
use synod_api::Limits;
use synod_kv::{KvOptions, Operation};

async fn start(limits: Limits) -> (Fake, Server) {
    let fake = Fake::default();
    let server = Server::start(fake.clone(), limits).await;
    (fake, server)
}

async fn fill(server: &Server, keys: &[&str]) {
    for key in keys {
        assert_eq!(
            server.ask(&format!("PUT /v1/kv/{key}"), "", &format!("v-{key}")).await.status,
            201
        );
    }
}

fn keys(page: &Value) -> Vec<String> {
    let entries = page["entries"].as_array().cloned().unwrap_or_default();
    entries.iter().map(|entry| entry["key"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended() {
    let (_, server) = start(Limits { list_entries_default: 2, ..Limits::default() }).await;
    fill(&server, &["a", "b%20x/1", "b%20x/2", "b%20x/%ff", "c"]).await;
    for (reverse, expected) in [("", ["b x/1", "b x/2"]), ("&reverse", ["b x/2", "b x/1"])] {
        let mut shown = Vec::new();
        let mut bound = String::new();
        let mut pages = 0;
        loop {
            let target = format!("/v1/kv?prefix=b%20x/&limit=1{reverse}{bound}");
            let answer = server.ask(&format!("GET {target}"), "", "").await;
            assert_eq!((answer.status, answer.header("synod-revision")), (200, "5"));
            let page = answer.json();
            assert_eq!(page["revision"], 5);
            pages += 1;
            shown.extend(page["entries"].as_array().unwrap().clone());
            let Some(next) = page["next"].as_str() else {
                break;
            };
            let name = if reverse.is_empty() { "start" } else { "end" };
            bound = format!("&{name}={next}");
        }
        assert_eq!(pages, 3);
        let text: Vec<&str> = shown.iter().filter_map(|entry| entry["key"].as_str()).collect();
        assert_eq!(text, expected);
        let bytes = shown.iter().find_map(|entry| entry["key_base64"].as_str());
        assert_eq!(bytes, Some("YiB4L/8="));
    }
    let all = server.ask("GET /v1/kv", "", "").await.json();
    assert_eq!((keys(&all).len(), all["next"].as_str()), (2, Some("b%20x/2")));
}

/// Keys come and go between any two pages.
#[tokio::test]
async fn the_next_pages_show_the_revision_of_the_first() {
    let odd = ["k%00", "k%00%00", "k%20%26", "k%22'%5C", "k%25%2B%3D", "k%C3%A9", "k%FF", "k/%23?"];
    for (reverse, encoding) in [(false, "text"), (true, "text"), (false, "base64")] {
        let (_, server) = start(Limits::default()).await;
        let odd = odd.map(|key| key.replace('?', "%3F"));
        fill(&server, &odd.each_ref().map(String::as_str)).await;
        fill(&server, &["j", "l"]).await;
        let whole = server.ask("GET /v1/kv?prefix=k&encoding=base64", "", "").await.json();
        let mut expected = whole["entries"].as_array().unwrap().clone();
        assert_eq!(expected.len(), odd.len());
        if reverse {
            expected.reverse();
        }
        let (mut shown, mut pages) = (Vec::new(), 0);
        let turn = if reverse { "&reverse" } else { "" };
        let mut target = format!("/v1/kv?limit=1&encoding={encoding}{turn}&prefix=k");
        loop {
            let page = server.ask(&format!("GET {target}"), "", "").await.json();
            assert_eq!(page["revision"], 10, "{target}: {page}");
            assert_eq!(page["next"].is_null(), page["next_page"].is_null(), "{page}");
            shown.extend(page["entries"].as_array().unwrap().clone());
            pages += 1;
            let Some(next) = page["next_page"].as_str() else {
                break;
            };
            target = next.to_owned();
            assert!(target.contains("limit=1") && target.contains("prefix=k"), "{target}");
            server.ask(&format!("PUT /v1/kv/k%80{pages}"), "", "new").await;
            server.ask("DELETE /v1/kv/k%FF", "", "").await;
            server.ask("PUT /v1/kv/k%C3%A9", "", "replaced").await;
        }
        assert_eq!(pages, odd.len());
        if encoding == "base64" {
            assert_eq!(shown, expected);
            continue;
        }
        let revisions = |entries: &[Value]| {
            entries.iter().map(|one| one["mod_revision"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(revisions(&shown), revisions(&expected));
    }
}

#[tokio::test]
async fn a_listing_shows_what_was_asked_for() {
    let (_, server) = start(Limits::default()).await;
    fill(&server, &["a", "b", "c"]).await;
    let page = server.ask("GET /v1/kv?start=b&end=c", "", "").await.json();
    assert_eq!(
        page,
        json!({"revision": 3, "count": 1, "entries": [{"key": "b", "value": "v-b",
            "create_revision": 2, "mod_revision": 2, "version": 1}]})
    );
    let bare = server.ask("GET /v1/kv?keys_only", "", "").await.json();
    assert_eq!(keys(&bare), ["a", "b", "c"]);
    assert!(bare["entries"][0].get("value").is_none());
    let count = server.ask("GET /v1/kv?count_only&prefix=", "", "").await.json();
    assert_eq!(count, json!({"revision": 3, "count": 3}));
    let base64 = server.ask("GET /v1/kv?prefix=a&encoding=base64", "", "").await.json();
    assert_eq!(base64["entries"][0]["value_base64"], "di1h");
    let empty = server.ask("GET /v1/kv?start=b&end=b", "", "").await.json();
    assert_eq!(empty["count"], 0);
}

#[tokio::test]
async fn a_count_goes_past_what_one_look_may_see() {
    let (_, server) = start(Limits::default()).await;
    let mut raw = server.connect().await;
    for key in 0..2_500 {
        raw.send(crate::raw::request(&format!("PUT /v1/kv/{key}"), "", "v")).await;
        assert_eq!(raw.answer().await.status, 201);
    }
    let count = server.ask("GET /v1/kv?count_only", "", "").await.json();
    assert_eq!(count, json!({"revision": 2_500, "count": 2_500}));
}

#[tokio::test]
async fn a_stream_shows_all_a_line_each() {
    let limits = Limits { list_entries_max: 2, list_entries_default: 1, ..Limits::default() };
    let (fake, server) = start(limits).await;
    fill(&server, &["a1", "a2", "a3", "a4", "a5", "b"]).await;
    let lines = async |target: &str| {
        let answer = server.ask(&format!("GET {target}"), "accept: application/x-ndjson", "").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "application/x-ndjson");
        assert_eq!(answer.header("synod-revision"), "6");
        let text = String::from_utf8(answer.body).unwrap();
        let key = |line: &str| {
            let entry: Value = serde_json::from_str(line).unwrap();
            entry["key"].as_str().unwrap().to_owned()
        };
        text.lines().map(key).collect::<Vec<_>>()
    };
    assert_eq!(lines("/v1/kv?prefix=a").await, ["a1", "a2", "a3", "a4", "a5"]);
    assert_eq!(lines("/v1/kv?reverse&prefix=a&start=a3").await, ["a5", "a4", "a3"]);
    assert_eq!(lines("/v1/kv?limit=2").await, ["a1", "a2"]);
    assert!(lines("/v1/kv?prefix=x").await.is_empty());
    // A client of HTTP/1.0 gets the lines up to the end of the connection.
    let old = "GET /v1/kv?prefix=b HTTP/1.0\r\naccept: application/x-ndjson\r\n\r\n";
    assert_eq!(server.call(old).await.body.iter().filter(|byte| **byte == b'\n').count(), 1);
    // No more streams at a time than allowed: here, none.
    let none = Server::start(fake, Limits { list_streams_max: 0, ..Limits::default() }).await;
    let refused = none.ask("GET /v1/kv", "accept: application/x-ndjson", "").await;
    refused.assert_problem(503, "overloaded", "not_applied");
}

#[tokio::test]
async fn a_range_is_removed_in_as_many_commands_as_it_takes() {
    let (fake, server) = start(Limits { range_delete_keys_max: 2, ..Limits::default() }).await;
    fill(&server, &["a1", "a2", "a3", "a4", "a5", "b"]).await;
    let seen = fake.writes_seen();
    let answer = server.ask("DELETE /v1/kv?prefix=a", "idempotency-key: range", "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({"revision": 9, "deleted": 5}));
    assert_eq!(answer.header("synod-commands"), "3");
    assert_eq!(fake.writes_seen(), seen + 3);
    fill(&server, &["a9"]).await;
    let retry = server.ask("DELETE /v1/kv?prefix=a", "idempotency-key: range", "").await;
    assert_eq!(retry.json()["deleted"], 5);
    assert!(fake.value(b"a9").is_some(), "a retry must not remove what came later");
    let other = server.ask("DELETE /v1/kv?prefix=b", "idempotency-key: range", "").await;
    other.assert_problem(422, "idempotency-mismatch", "not_applied");
    let all = server.ask("DELETE /v1/kv?all=true", "", "").await;
    assert_eq!((all.status, &all.json()["deleted"]), (200, &json!(2)));
    let nothing = server.ask("DELETE /v1/kv?prefix=&all", "", "").await;
    assert_eq!(nothing.json(), json!({"revision": 11, "deleted": 0}));
}

#[tokio::test]
async fn each_command_of_a_range_begins_behind_the_last_one() {
    let (fake, server) = start(Limits { range_delete_keys_max: 2, ..Limits::default() }).await;
    fill(&server, &["a1", "a2", "a3", "a4", "b"]).await;
    server.ask("DELETE /v1/kv?prefix=a", "", "").await;
    let starts: Vec<_> = fake
        .operations()
        .into_iter()
        .filter_map(|operation| match operation {
            Operation::DeleteRange { start, .. } => Some(start),
            _ => None,
        })
        .collect();
    assert_eq!(starts, ["a", "a2\0", "a4\0"]);
}

#[tokio::test]
async fn a_range_that_was_removed_in_part_is_not_called_untouched() {
    let options = KvOptions { idempotency_records_max: 1, ..KvOptions::default() };
    let fake = Fake::new(options);
    let limits = Limits { range_delete_keys_max: 2, ..Limits::default() };
    let server = Server::start(fake.clone(), limits).await;
    fill(&server, &["a1", "a2", "a3"]).await;
    let answer = server.ask("DELETE /v1/kv?prefix=a", "idempotency-key: range", "").await;
    answer.assert_problem(503, "idempotency-full", "unknown");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("2 keys were removed already."), "{detail}");
    assert!(fake.value(b"a2").is_none() && fake.value(b"a3").is_some());
}

#[tokio::test]
async fn a_named_range_delete_is_remembered_as_a_whole() {
    const MINUTE_MS: u64 = 60_000;
    let (fake, server) = start(Limits { range_delete_keys_max: 2, ..Limits::default() }).await;
    fill(&server, &["a1", "a2", "a3", "a4", "a5"]).await;
    // Three commands, five seconds from each to the next.
    const STEP_MS: u64 = 5_000;
    fake.set_clock(0, STEP_MS);
    let call = async || server.ask("DELETE /v1/kv?prefix=a", "idempotency-key: range", "").await;
    let first = call().await;
    // Of the node's clock, which knows nothing of the minutes that pass in the log.
    let date = |answer: &crate::raw::Answer, name: &str| {
        httpdate::parse_http_date(answer.header(name)).unwrap()
    };
    let expires = |answer: &crate::raw::Answer| date(answer, "synod-idempotency-expires");
    let left = expires(&first).duration_since(date(&first, "date")).unwrap();
    assert!((9 * 60..=10 * 60).contains(&left.as_secs()), "{left:?}");
    // It is kept for one more than it says.
    fake.set_clock(STEP_MS + 11 * MINUTE_MS - 1, 0);
    fill(&server, &["a1", "a2", "a3", "a4"]).await;
    let again = call().await;
    assert_eq!(again.json(), json!({"revision": 8, "deleted": 5}));
    assert!(expires(&again) <= date(&again, "date"), "the first command's time is over");
    assert!(fake.value(b"a1").is_some());
    // The first command is forgotten now and the others are not; they must not
    // answer for the range as it is today.
    fake.set_clock(STEP_MS + 11 * MINUTE_MS, 0);
    assert_eq!(call().await.json()["deleted"], 4);
    assert_eq!(server.ask("GET /v1/kv", "", "").await.json()["count"], 0);
}

/// All its commands count as asked when the whole was, and must not become too late.
#[tokio::test]
async fn a_named_range_delete_ends_before_it_is_too_late_for_its_name() {
    let (fake, server) = start(Limits { range_delete_keys_max: 1, ..Limits::default() }).await;
    fill(&server, &["a1", "a2", "a3", "a4"]).await;
    let now_ms = synod_api::Replica::cluster_time_ms(&fake);
    fake.set_clock(now_ms, 10_000);
    let call = async || server.ask("DELETE /v1/kv?prefix=a", "idempotency-key: range", "").await;
    assert_eq!(call().await.json(), json!({"revision": 6, "deleted": 2, "more": true}));
    assert!(fake.value(b"a3").is_some());
    // What was done answers again, and the rest is done.
    fake.set_clock(now_ms + 30_000, 1_000);
    assert_eq!(call().await.json()["deleted"], 4);
}

#[tokio::test]
async fn a_node_tells_about_itself() {
    let (fake, server) = start(Limits::default()).await;
    let status = server.ask("GET /v1/status", "", "").await;
    assert_eq!((status.status, status.header("content-type")), (200, "application/json"));
    assert_eq!(status.json()["role"], "leader");
    assert_eq!(status.header("synod-leader"), "1 http://127.0.0.1:7001");
    assert_eq!(server.ask("GET /livez", "", "").await.body, b"ok\n");
    assert_eq!(server.ask("GET /readyz", "", "").await.status, 200);
    fake.set_ready(Err("No leader is known.".to_owned()));
    fake.set_leader(None);
    let unready = server.ask("GET /readyz", "", "").await;
    unready.assert_problem(503, "not-ready", "not_applied");
    assert_eq!(unready.json()["detail"], "No leader is known.");
    assert_eq!(server.ask("GET /livez", "", "").await.status, 200);
    let metrics = String::from_utf8(server.ask("GET /metrics", "", "").await.body).unwrap();
    assert!(metrics.starts_with("synod_fake 1\n"), "{metrics}");
    assert!(metrics.contains("synod_http_answers_total{class=\"5xx\"} 1\n"), "{metrics}");
    let mut raw = server.connect().await;
    raw.send(crate::raw::request("HEAD /v1/status", "", "")).await;
    assert_eq!(raw.answer_to_head().await.status, 200);
    raw.send(crate::raw::request("GET /livez", "", "")).await;
    assert_eq!(raw.answer().await.body, b"ok\n");
}
