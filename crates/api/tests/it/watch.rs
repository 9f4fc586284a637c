//! Watches over HTTP: what they answer, refuse, and say at their end.

use crate::fake::{Fake, Mode};
use crate::raw::{Raw, Server, request};
use serde_json::{Value, json};
use std::time::Duration;
use synod_api::{Limits, Refused, Replica};
use synod_kv::{Condition, KvOptions, Operation, Revision};
use tokio::time::{Instant, timeout};

/// A watch whose silence does not last for long.
fn limits() -> Limits {
    Limits { watch_progress_ms: 20, ..Limits::default() }
}

async fn start(limits: Limits) -> (Fake, Server) {
    let fake = Fake::new(KvOptions::default());
    let server = Server::start(fake.clone(), limits).await;
    (fake, server)
}

async fn write(fake: &Fake, operation: Operation) {
    let command = synod_kv::Command { idempotency: None, operation };
    fake.write(command, Instant::now()).await.unwrap();
}

async fn put(fake: &Fake, key: &'static str, value: &str) {
    let (key, value) = (key.into(), value.to_owned().into());
    let condition = Condition::Always;
    write(fake, Operation::Put { key, value, condition, want_previous: false }).await;
}

async fn delete(fake: &Fake, prefix: &'static str) {
    let end = synod_kv::layout::prefix_end(prefix.as_bytes()).map(Into::into);
    write(fake, Operation::DeleteRange { start: prefix.into(), end, limit: 100 }).await;
}

/// The events of a stream.
struct Events {
    raw: Raw,
    text: String,
}

#[derive(Debug)]
struct Event {
    name: String,
    id: Option<u64>,
    data: Value,
}

impl Events {
    async fn open(server: &Server, target: &str, headers: &str) -> Self {
        let mut raw = server.connect().await;
        raw.send(request(&format!("GET {target}"), headers, "")).await;
        let head = raw.head().await;
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(head.header("content-type"), "text/event-stream");
        assert_eq!(head.header("cache-control"), "no-store");
        Self { raw, text: String::new() }
    }

    /// The next event; none at the end of the stream.
    async fn any(&mut self) -> Option<Event> {
        while !self.text.contains("\n\n") {
            let chunk = self.raw.chunk().await?;
            self.text += std::str::from_utf8(&chunk).unwrap();
        }
        let (event, rest) = self.text.split_once("\n\n").unwrap();
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let event = Event {
            name: field("event: ").unwrap().to_owned(),
            id: field("id: ").map(|id| id.parse().unwrap()),
            data: serde_json::from_str(field("data: ").unwrap()).unwrap(),
        };
        self.text = rest.to_owned();
        Some(event)
    }

    /// The next event that is not about progress.
    async fn next(&mut self) -> Event {
        loop {
            let event = self.any().await.expect("the stream goes on");
            if event.name != "progress" {
                return event;
            }
        }
    }

    /// The next change: its id, whether it is a put, and its key.
    async fn change(&mut self) -> (Option<u64>, bool, String) {
        let Event { name, id, data } = self.next().await;
        assert_eq!(data["type"], name);
        (id, name == "put", data["key"].as_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn a_watch_tells_what_happens_from_now_on() {
    let (fake, server) = start(Limits::default()).await;
    put(&fake, "a", "before").await;
    let mut of_key = Events::open(&server, "/v1/watch?key=a&prev", "").await;
    let mut of_prefix = Events::open(&server, "/v1/watch?prefix=a/&encoding=base64", "").await;
    let begin = of_key.any().await.unwrap();
    assert_eq!((begin.name.as_str(), begin.id), ("progress", Some(1)));
    put(&fake, "a", "after").await;
    put(&fake, "b", "nobody watches it").await;
    put(&fake, "a/1", "x").await;
    delete(&fake, "a").await;
    let event = of_key.next().await;
    assert_eq!((event.name.as_str(), event.id), ("put", Some(2)));
    let previous =
        json!({"value": "before", "create_revision": 1, "mod_revision": 1, "version": 1});
    let told = json!({"type": "put", "revision": 2, "key": "a", "value": "after",
        "create_revision": 1, "mod_revision": 2, "version": 2, "previous": previous});
    assert_eq!(event.data, told);
    let event = of_key.next().await;
    assert_eq!((event.name.as_str(), event.id), ("delete", Some(5)));
    assert_eq!(event.data["previous"]["value"], "after");
    let event = of_prefix.next().await;
    assert_eq!((event.data["key_base64"].as_str(), event.id), (Some("YS8x"), Some(4)));
    assert!(event.data.get("previous").is_none());
    let event = of_prefix.next().await;
    let told = json!({"type": "delete", "revision": 5, "key_base64": "YS8x"});
    assert_eq!((event.data, event.id), (told, Some(5)));
}

#[tokio::test]
async fn only_the_last_event_of_a_revision_has_its_id() {
    let (fake, server) = start(Limits::default()).await;
    for key in ["a/1", "a/2", "a/3", "b"] {
        put(&fake, key, "v").await;
    }
    let mut live = Events::open(&server, "/v1/watch?prefix=a", "").await;
    delete(&fake, "").await;
    let mut late = Events::open(&server, "/v1/watch?prefix=a&from=4", "").await;
    for events in [&mut live, &mut late] {
        assert_eq!(events.change().await, (None, false, "a/1".to_owned()));
        assert_eq!(events.change().await, (None, false, "a/2".to_owned()));
        assert_eq!(events.change().await, (Some(5), false, "a/3".to_owned()));
    }
}

#[tokio::test]
async fn a_watch_goes_on_behind_the_last_event_that_was_seen() {
    let (fake, server) = start(Limits::default()).await;
    for value in 0..200 {
        put(&fake, "a", &format!("{value}")).await;
    }
    // The header counts, and not the parameter, which a browser sends again and again.
    let mut events = Events::open(&server, "/v1/watch?from=1", "last-event-id: 150").await;
    let begin = events.any().await.unwrap();
    assert_eq!((begin.name.as_str(), begin.id), ("progress", Some(150)));
    for revision in 151..=200 {
        assert_eq!(events.change().await.0, Some(revision));
    }
    put(&fake, "a", "live").await;
    assert_eq!(events.change().await.0, Some(201));
    // More than a frame, to a client that has not taken the first.
    let long = "x".repeat(30_000);
    for _ in 0..20 {
        put(&fake, "a", &long).await;
    }
    for revision in 202..=221 {
        let event = events.next().await;
        assert_eq!((event.id, event.data["value"].as_str()), (Some(revision), Some(&*long)));
    }
}

#[tokio::test]
async fn a_quiet_watch_tells_how_far_it_is() {
    let (fake, server) = start(limits()).await;
    let mut events = Events::open(&server, "/v1/watch?key=a", "").await;
    put(&fake, "b", "v").await;
    loop {
        let event = events.any().await.unwrap();
        assert_eq!((event.name.as_str(), &event.data["revision"]), ("progress", &json!(event.id)));
        if event.id == Some(1) {
            break;
        }
    }
    put(&fake, "a", "v").await;
    assert_eq!(events.change().await.0, Some(2));
}

#[tokio::test]
async fn an_idle_connection_is_no_reason_to_end_a_watch() {
    let limits = Limits { idle_timeout_ms: 100, watch_progress_ms: 10_000, ..Limits::default() };
    let (fake, server) = start(limits).await;
    let mut events = Events::open(&server, "/v1/watch", "").await;
    for _ in 0..8 {
        assert_eq!(events.any().await.unwrap().name, "progress");
    }
    put(&fake, "a", "v").await;
    assert_eq!(events.change().await.0, Some(1));
}

#[tokio::test]
async fn what_is_forgotten_is_told_at_the_beginning_and_in_midstream() {
    let (fake, server) = start(Limits::default()).await;
    let long = "x".repeat(1_000_000);
    let mut events = Events::open(&server, "/v1/watch?from=1", "").await;
    put(&fake, "a", "v").await;
    assert_eq!(events.change().await.0, Some(1));
    for _ in 1..40 {
        // More than the sockets take, so the watch falls behind.
        put(&fake, "a", &long).await;
    }
    write(&fake, Operation::Compact { revision: Revision(40) }).await;
    let late = server.ask("GET /v1/watch?from=40", "", "").await;
    late.assert_problem(410, "compacted", "not_applied");
    assert_eq!(late.json()["oldest_revision"], 41);
    let late = server.ask("GET /v1/watch?from=40&wait=1s", "", "").await;
    late.assert_problem(410, "compacted", "not_applied");
    let mut last = 1;
    let end = loop {
        let event = events.next().await;
        if event.name != "put" {
            break event;
        }
        last += 1;
        assert_eq!(event.id, Some(last));
    };
    assert_eq!((end.name.as_str(), end.id), ("compacted", None));
    assert_eq!(
        (&end.data["reason"], &end.data["oldest_revision"]),
        (&json!("compacted"), &json!(41))
    );
    assert!(last < 40 && events.any().await.is_none());
    let metrics = String::from_utf8(server.ask("GET /metrics", "", "").await.body).unwrap();
    assert!(metrics.contains("synod_watches_dropped_total 1\n"), "{metrics}");
    assert!(metrics.contains(&format!("synod_watch_events_total {last}\n")), "{metrics}");
}

#[tokio::test]
async fn a_node_that_is_behind_waits_for_the_revision_that_was_seen_elsewhere() {
    let (fake, server) = start(Limits::default()).await;
    put(&fake, "a", "v").await;
    let mut raw = server.connect().await;
    raw.send(request("GET /v1/watch", "last-event-id: 3", "")).await;
    fake.waiting(1).await;
    for _ in 0..3 {
        put(&fake, "a", "v").await;
    }
    assert_eq!(raw.head().await.status, 200);
    let mut events = Events { raw, text: String::new() };
    assert_eq!(events.change().await.0, Some(4));
    // One that is nowhere is refused when time is over.
    let headers = "last-event-id: 1000\nsynod-timeout: 50ms";
    let refused = server.ask("GET /v1/watch", headers, "").await;
    refused.assert_problem(400, "future-revision", "not_applied");
}

#[tokio::test]
async fn a_watch_begins_with_what_is_confirmed_unless_it_goes_on() {
    let (fake, server) = start(Limits::default()).await;
    put(&fake, "a", "v").await;
    fake.set_barriers(Mode::Refuse(Refused::NoLeader));
    let refused = server.ask("GET /v1/watch", "", "").await;
    refused.assert_problem(503, "no-leader", "not_applied");
    // What this node has needs nobody's word.
    let mut events = Events::open(&server, "/v1/watch?from=1", "").await;
    assert_eq!(events.change().await.0, Some(1));
}

#[tokio::test]
async fn a_stopping_node_says_so() {
    let (fake, server) = start(Limits::default()).await;
    let mut events = Events::open(&server, "/v1/watch", "").await;
    put(&fake, "a", "v").await;
    assert_eq!(events.change().await.0, Some(1));
    let address = server.address;
    let waits = tokio::spawn(async move {
        let mut raw = Raw::connect(address).await;
        raw.send(request("GET /v1/watch?key=b&wait=60s", "", "")).await;
        raw.answer().await
    });
    while !metric(&server, "watches").await.eq("2") {
        tokio::task::yield_now().await;
    }
    server.stop.send(()).unwrap();
    let end = events.next().await;
    assert_eq!((end.name.as_str(), &end.data["reason"]), ("dropped", &json!("stopping")));
    assert!(events.any().await.is_none());
    let page = waits.await.unwrap();
    assert_eq!((page.status, page.json()["events"].clone()), (200, json!([])));
    server.task.await.unwrap();
}

async fn metric(server: &Server, name: &str) -> String {
    let page = String::from_utf8(server.ask("GET /metrics", "", "").await.body).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("synod_{name} ")));
    line.unwrap().to_owned()
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_watch() {
    let (fake, server) = start(Limits::default()).await;
    let events = Events::open(&server, "/v1/watch", "").await;
    assert_eq!(metric(&server, "watches").await, "1");
    drop(events);
    while metric(&server, "watches").await != "0" {
        tokio::task::yield_now().await;
    }
    // One that will not ask for anything more has left, too.
    let mut events = Events::open(&server, "/v1/watch", "").await;
    events.raw.finish_sending().await;
    events.raw.rest().await;
    drop(fake);
}

/// What it sent and nobody read hides its end from who reads.
#[tokio::test]
async fn a_client_that_leaves_behind_another_request_ends_its_watch() {
    for is_half in [true, false] {
        let (fake, server) = start(limits()).await;
        let mut raw = server.connect().await;
        raw.send(request("GET /v1/watch", "", "")).await;
        assert_eq!(raw.head().await.status, 200);
        raw.send(request("GET /livez", "", "")).await;
        raw.until("progress").await;
        if is_half {
            raw.finish_sending().await;
        }
        let kept = is_half.then_some(raw);
        let gone = async {
            while metric(&server, "watches").await != "0" {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), gone).await.expect("it goes");
        drop((kept, fake));
    }
}

/// A watch of which the sockets take nothing more, and how many events it had so far.
async fn stuck(fake: &Fake, server: &Server) -> (Raw, u64) {
    let mut raw = server.connect().await;
    raw.send(request("GET /v1/watch?from=1", "", "")).await;
    assert_eq!(raw.head().await.status, 200);
    let value = "x".repeat(8_000);
    let mut told = 0;
    loop {
        for _ in 0..100 {
            put(fake, "a", &value).await;
        }
        let events: u64 = metric(server, "watch_events_total").await.parse().unwrap();
        let sending: u64 = metric(server, "watch_sending_bytes").await.parse().unwrap();
        assert!(sending < 24 * 1024, "{sending} bytes");
        if events == told && sending > 4 * 1024 {
            return (raw, told);
        }
        told = events;
    }
}

/// What one slow client makes its node hold, of values that are small enough not to count.
#[tokio::test]
async fn a_slow_stream_has_little_under_way() {
    let (fake, server) = start(Limits::default()).await;
    let (raw, told) = stuck(&fake, &server).await;
    // It goes on where it stood.
    let mut events = Events { raw, text: String::new() };
    for revision in 1..=told + 10 {
        assert_eq!(events.change().await.0, Some(revision));
    }
}

/// Nothing is missing of what it was told before.
#[tokio::test]
async fn a_client_that_takes_too_little_is_given_up_and_told_why() {
    let (fake, server) = start(Limits { send_stall_ms: 6_000, ..Limits::default() }).await;
    let (raw, _) = stuck(&fake, &server).await;
    while metric(&server, "watches_dropped_total").await != "1" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(metric(&server, "watches").await, "0", "it costs nothing any more");
    let mut events = Events { raw, text: String::new() };
    let mut told = 0;
    let end = loop {
        let event = events.next().await;
        if event.name == "dropped" {
            break event;
        }
        told += 1;
        assert_eq!(event.id, Some(told));
    };
    assert_eq!(end.data["reason"], "slow");
    assert!(events.any().await.is_none());
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_a_watch_is_cut_off_and_counted() {
    let (fake, server) = start(Limits { send_stall_ms: 60, ..Limits::default() }).await;
    let mut raw = server.connect().await;
    raw.send(request("GET /v1/watch?from=1", "", "")).await;
    assert_eq!(raw.head().await.status, 200);
    let value = "x".repeat(8_000);
    while metric(&server, "watches_dropped_total").await != "1" {
        for _ in 0..100 {
            put(&fake, "a", &value).await;
        }
    }
    let left = async |name: &str, value: &str| {
        while metric(&server, name).await != value {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    left("http_connections", "1").await;
    left("watch_sending_bytes", "0").await;
    drop(raw);
}

#[tokio::test]
async fn watches_have_places_of_their_own() {
    let limits = Limits { watches_max: 1, reads_in_flight_max: 1, ..Limits::default() };
    let (fake, server) = start(limits).await;
    let events = Events::open(&server, "/v1/watch", "").await;
    let refused = server.ask("GET /v1/watch", "", "").await;
    refused.assert_problem(503, "overloaded", "not_applied");
    assert_eq!(server.ask("GET /v1/kv?count_only", "", "").await.status, 200);
    drop(events);
    while server.ask("GET /v1/watch?wait=0s", "", "").await.status != 200 {
        tokio::task::yield_now().await;
    }
    drop(fake);
}

#[tokio::test]
async fn a_page_is_answered_as_soon_as_something_happened() {
    let (fake, server) = start(Limits::default()).await;
    put(&fake, "a/1", "v").await;
    put(&fake, "b", "v").await;
    let page = server.ask("GET /v1/watch?prefix=a&from=1&wait=60s", "", "").await;
    assert_eq!((page.status, page.header("synod-revision")), (200, "2"));
    assert_eq!(page.header("cache-control"), "no-store");
    let event = json!({"type": "put", "revision": 1, "key": "a/1", "value": "v",
        "create_revision": 1, "mod_revision": 1, "version": 1});
    assert_eq!(page.json(), json!({"events": [event], "revision": 2, "next": "3"}));
    for (wait, header) in [("10ms", ""), ("60s", "Synod-Timeout: 10ms")] {
        let line = format!("GET /v1/watch?prefix=a&from=3&wait={wait}");
        let empty = timeout(Duration::from_secs(50), server.ask(&line, header, ""));
        let empty = empty.await.expect("an answer in time");
        assert_eq!(empty.json(), json!({"events": [], "revision": 2, "next": "3"}), "{wait}");
    }
    let address = server.address;
    let waits = tokio::spawn(async move {
        let mut raw = Raw::connect(address).await;
        raw.send(request("GET /v1/watch?prefix=a&wait=60s", "", "")).await;
        raw.answer().await
    });
    while metric(&server, "watches").await != "1" {
        tokio::task::yield_now().await;
    }
    put(&fake, "b", "v").await;
    put(&fake, "a/2", "v").await;
    let page = waits.await.unwrap().json();
    assert_eq!((&page["events"][0]["key"], &page["next"]), (&json!("a/2"), &json!("5")));
}

#[tokio::test]
async fn a_revision_of_many_pages_is_told_page_by_page() {
    let limits = Limits { list_bytes_max: 1_000, ..Limits::default() };
    let (fake, server) = start(limits).await;
    let value = "x".repeat(400);
    for key in ["a", "b", "c", "d", "e"] {
        put(&fake, key, &value).await;
    }
    delete(&fake, "").await;
    put(&fake, "a", "v").await;
    let (mut from, mut keys) = ("6".to_owned(), Vec::new());
    let mut parts = 0;
    while from != "8" {
        let page = server.ask(&format!("GET /v1/watch?prev&from={from}&wait=0s"), "", "").await;
        let page = page.json();
        for event in page["events"].as_array().unwrap() {
            keys.push((event["revision"].as_u64().unwrap(), event["key"].clone()));
        }
        parts += 1;
        from = page["next"].as_str().unwrap().to_owned();
    }
    let deleted = ["a", "b", "c", "d", "e"].map(|key| (6, json!(key)));
    assert_eq!(keys, [&deleted[..], &[(7, json!("a"))]].concat());
    assert!(parts > 2);
}

#[tokio::test]
async fn malformed_watches_are_refused() {
    let (_, server) = start(Limits { call_timeout_max_ms: 60_000, ..Limits::default() }).await;
    let queries = [
        "key=",
        "key=a&prefix=b",
        "key=a&start=b",
        "key=a&end=b",
        "key=a&key=b",
        "prefix=a&prefix=a",
        "start=b&end=a",
        "start=b&end=b",
        "prefix=b&end=a",
        "from=0",
        "from=",
        "from=-1",
        "from=1.x",
        "from=1.4294967296",
        "from=18446744073709551616",
        "prev=1",
        "encoding=hex",
        "wait=",
        "wait=1",
        "wait=61s",
        "wait=1m",
        "wait=99999999999999999999s",
        "prefix=a+b",
        "prefix=%zz",
        "limit=1",
        "revision=1",
    ];
    for query in queries {
        let answer = server.ask(&format!("GET /v1/watch?{query}"), "", "").await;
        let kind = match query {
            "key=a&key=b" | "prefix=a&prefix=a" => "doubled-parameter",
            "limit=1" | "revision=1" => "unknown-parameter",
            _ if query.contains("=a&") || query.contains("=b&") => "contradictory-parameters",
            _ => "bad-query",
        };
        answer.assert_problem(400, kind, "not_applied");
    }
    let long = format!("GET /v1/watch?key={}", "x".repeat(5_000));
    server.ask(&long, "", "").await.assert_problem(414, "key-too-long", "not_applied");
    for headers in [
        "last-event-id: x",
        "last-event-id: 18446744073709551615",
        "last-event-id: 1\nlast-event-id: 1",
        "synod-timeout: 0s",
    ] {
        let answer = server.ask("GET /v1/watch", headers, "").await;
        let kind = if headers.contains('\n') { "doubled-header" } else { "bad-header" };
        answer.assert_problem(400, kind, "not_applied");
    }
    for method in ["POST", "PUT", "DELETE"] {
        let answer = server.ask(&format!("{method} /v1/watch"), "", "").await;
        answer.assert_problem(405, "method-not-allowed", "not_applied");
        assert_eq!(answer.header("allow"), "GET");
    }
}

#[tokio::test]
async fn a_watch_whose_state_cannot_be_read_ends() {
    let (fake, server) = start(Limits::default()).await;
    let mut events = Events::open(&server, "/v1/watch", "").await;
    assert_eq!(events.any().await.unwrap().name, "progress");
    fake.break_reads();
    put(&fake, "a", "v").await;
    let end = events.next().await;
    assert_eq!((end.name.as_str(), &end.data["reason"]), ("dropped", &json!("failed")));
    assert!(!end.data.to_string().contains("secret"));
    assert!(events.any().await.is_none());
}

/// Of a revision that was told in part elsewhere this node needs all of it.
#[tokio::test]
async fn a_node_that_is_behind_waits_for_the_revision_of_which_a_part_was_seen_elsewhere() {
    let (fake, server) = start(Limits::default()).await;
    put(&fake, "a", "v").await;
    let mut raw = server.connect().await;
    raw.send(request("GET /v1/watch?from=2.1", "", "")).await;
    let waits = tokio::time::timeout(std::time::Duration::from_secs(20), fake.waiting(1)).await;
    waits.expect("it begins without having it");
    put(&fake, "a", "v").await;
    assert_eq!(raw.head().await.status, 200);
    put(&fake, "a", "v").await;
    let mut events = Events { raw, text: String::new() };
    assert_eq!(events.change().await.0, Some(3));
}
