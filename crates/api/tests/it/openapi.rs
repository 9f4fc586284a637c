//! The description of the calls says what they do: each is asked for it.

use std::collections::BTreeSet;

use crate::fake::Fake;
use crate::raw::Server;
use crate::raw::description::{DOCUMENT, fits};
use serde_json::{Value, json};
use synod_api::Limits;
use synod_kv::http::ProblemKind;

/// One operation of the description.
#[derive(Clone, Debug)]
struct Operation {
    method: String,
    path: String,
    says: &'static Value,
}

impl Operation {
    fn all() -> Vec<Self> {
        let paths = DOCUMENT["paths"].as_object().unwrap().iter();
        let operations = paths.flat_map(|(path, item)| {
            let item = item.as_object().unwrap().iter();
            item.map(|(method, says)| (path.clone(), method.to_uppercase(), says))
        });
        operations.map(|(path, method, says)| Self { method, path, says }).collect()
    }

    fn id(&self) -> &'static str {
        self.says["operationId"].as_str().unwrap()
    }

    fn parameters(&self, place: &str) -> Vec<&'static Value> {
        let all = self.says["parameters"].as_array().into_iter().flatten();
        all.filter(|parameter| parameter["in"] == place).collect()
    }

    fn names(&self, place: &str) -> BTreeSet<&'static str> {
        self.parameters(place).iter().map(|one| one["name"].as_str().unwrap()).collect()
    }

    /// The target, with the example for what stands in the path, and its query.
    fn target(&self, query: &str) -> String {
        let mut path = self.path.clone();
        for parameter in self.parameters("path") {
            let name = format!("{{{}}}", parameter["name"].as_str().unwrap());
            let example = parameter["example"].to_string();
            path = path.replace(&name, example.trim_matches('"'));
        }
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{path}{mark}{query}")
    }

    fn example_body(&self) -> String {
        let contents = self.says["requestBody"]["content"].as_object();
        match contents.and_then(|contents| contents.values().next()).map(|one| &one["example"]) {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(document) => document.to_string(),
        }
    }

    /// Asks it with its examples, but for what is given here.
    async fn ask(&self, server: &Server, query: &str, headers: &str) -> crate::raw::Answer {
        let line = format!("{} {}", self.method, self.target(query));
        server.ask(&line, headers, &self.example_body()).await
    }
}

/// Operations whose answers a test can wait for.
fn plain() -> impl Iterator<Item = Operation> {
    Operation::all().into_iter().filter(|operation| operation.method != "HEAD")
}

#[tokio::test]
async fn every_resource_is_described_with_its_methods() {
    let routes = synod_api::routes::<Fake>();
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let is_routed = |path: &str| {
        routes.iter().any(|route| match route.split_once("{*") {
            Some((before, _)) => path.starts_with(before),
            None => *route == path,
        })
    };
    paths.keys().for_each(|path| assert!(is_routed(path), "{path} is no resource"));
    for route in routes.iter().filter(|route| **route != "/v1/kv/") {
        let before = route.split("{*").next().unwrap();
        let found = paths
            .keys()
            .any(|path| *route == path || (before != *route && path.starts_with(before)));
        assert!(found, "{route} is not described");
    }
    let server = Server::start(Fake::default(), Limits::default()).await;
    for operation in Operation::all() {
        let answer = server.ask(&format!("MADEUP {}", operation.target("")), "", "").await;
        answer.assert_problem(405, "method-not-allowed", "not_applied");
        let methods: BTreeSet<_> = answer.header("allow").split(", ").collect();
        let described = Operation::all().into_iter().filter(|other| other.path == operation.path);
        let described: Vec<_> = described.map(|other| other.method).collect();
        let described: BTreeSet<_> = described.iter().map(String::as_str).collect();
        assert_eq!(methods, described, "{}", operation.path);
    }
    let lost = server.ask("GET /nowhere", "", "").await.json()["detail"].to_string();
    paths.keys().for_each(|path| assert!(lost.contains(path.as_str()), "{path}: {lost}"));
}

#[tokio::test]
async fn every_parameter_is_described() {
    let server = Server::start(Fake::default(), Limits::default()).await;
    for operation in plain() {
        let answer = operation.ask(&server, "no-such-parameter=1", "").await;
        answer.assert_problem(400, "unknown-parameter", "not_applied");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        let known = detail.split("takes: ").nth(1).unwrap_or("").trim_end_matches('.').to_owned();
        let known: BTreeSet<_> = known.split(", ").filter(|name| !name.is_empty()).collect();
        assert_eq!(known, operation.names("query"), "{} {detail}", operation.id());
    }
}

#[tokio::test]
async fn every_header_is_described() {
    let server = Server::start(Fake::default(), Limits::default()).await;
    let wrong = [
        ("Synod-Timeout", "soon"),
        ("Idempotency-Key", "a b"),
        ("If-Match", "17"),
        ("If-None-Match", "17"),
        ("Last-Event-ID", "none"),
    ];
    for operation in plain().filter(|operation| operation.id() != "describe") {
        for (name, value) in wrong {
            let headers = format!("{name}: {value}");
            let answer = operation.ask(&server, needed(&operation), &headers).await;
            let is_described = operation.names("header").contains(name);
            let is_refused =
                answer.status == 400 && answer.json()["type"] == "urn:synod:bad-header";
            // Conditions are for one key: elsewhere they are refused, whatever they say.
            let is_condition = name.starts_with("If-");
            assert_eq!(
                is_refused,
                is_described || is_condition || (name, operation.id()) == NO_NAME,
                "{} {name}: {answer:?}",
                operation.id()
            );
        }
    }
}

/// A batch is of many writes, and refuses a name for them.
const NO_NAME: (&str, &str) = ("Idempotency-Key", "batch");

/// What a call may change.
async fn everything(server: &Server) -> Vec<Value> {
    let mut all = Vec::new();
    for target in ["/v1/kv?prefix=", "/v1/lease", "/v1/cluster"] {
        let answer = server.ask(&format!("GET {target}"), "", "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        all.push(answer.json());
    }
    all
}

#[tokio::test]
async fn a_condition_is_refused_where_there_is_not_one_key() {
    let server = Server::start(Fake::default(), Limits::default()).await;
    let operations = Operation::all();
    let of = |id: &str| operations.iter().find(|operation| operation.id() == id).unwrap();
    for id in ["putKey", "grantLease"] {
        assert_eq!(of(id).ask(&server, "", "").await.status, 201, "{id}");
    }
    let held = of("takeLock").ask(&server, "", "").await.json();
    let before = everything(&server).await;
    let conditions = [
        "If-Match: *",
        "If-Match: \"1\"",
        "If-Match: \"99\"",
        "If-Match: soon",
        "If-None-Match: *",
        "If-None-Match: \"1\"",
        "If-Match: \"1\"\nIf-Match: \"1\"",
        "If-Match: *\nIf-None-Match: *",
    ];
    let others = operations.iter().filter(|operation| operation.path != "/v1/kv/{key}");
    for operation in others {
        for condition in conditions {
            let takes_it = operation.names("header").contains("If-None-Match");
            if takes_it && !condition.contains("If-Match") {
                continue;
            }
            let query = match operation.id() {
                "deleteKeys" => "prefix=a".to_owned(),
                "letLockGo" | "resign" => format!("token={}", held["token"]),
                "watch" => "wait=0s&from=1".to_owned(),
                _ => String::new(),
            };
            if operation.method == "HEAD" {
                let mut raw = server.connect().await;
                let line = format!("HEAD {}", operation.target(&query));
                raw.send(crate::raw::request(&line, condition, "")).await;
                let answer = raw.answer_to_head().await;
                assert_eq!(answer.status, 400, "{} {condition}: {answer:?}", operation.id());
                continue;
            }
            let answer = operation.ask(&server, &query, condition).await;
            println!("{} {condition}", operation.id());
            answer.assert_problem(400, "bad-header", "not_applied");
            assert_eq!(everything(&server).await, before, "{} {condition}", operation.id());
        }
    }
}

/// A good value for a parameter or a header of the description.
fn good_value(operation: &Operation, parameter: &Value) -> String {
    match parameter["name"].as_str().unwrap() {
        "Synod-Timeout" | "ttl" | "wait" => "2s".to_owned(),
        "If-Match" => "\"1\"".to_owned(),
        "If-None-Match" if operation.method == "PUT" => "*".to_owned(),
        "consistency" => "stale".to_owned(),
        "encoding" => "text".to_owned(),
        _ => "1".to_owned(),
    }
}

#[tokio::test]
async fn no_parameter_may_come_twice() {
    let server = Server::start(Fake::default(), Limits::default()).await;
    let before = everything(&server).await;
    for operation in plain() {
        for parameter in operation.parameters("query") {
            let (name, good) =
                (parameter["name"].as_str().unwrap(), good_value(&operation, parameter));
            for query in [format!("{name}={good}&{name}={good}"), format!("{name}&{name}={good}")] {
                let answer = operation.ask(&server, &query, "").await;
                println!("{} {query}", operation.id());
                answer.assert_problem(400, "doubled-parameter", "not_applied");
            }
        }
    }
    assert_eq!(everything(&server).await, before);
}

/// What must be in the query so that the headers are looked at, and the values of it.
fn needed(operation: &Operation) -> &'static str {
    match operation.id() {
        "deleteKeys" => "prefix=a",
        "letLockGo" | "resign" => "token=1",
        "watch" => "wait=0s&from=1",
        "lookAtLease" => "keys",
        _ => "",
    }
}

#[tokio::test]
async fn no_header_may_come_twice() {
    let server = Server::start(Fake::default(), Limits::default()).await;
    let before = everything(&server).await;
    let mut tried = 0;
    for operation in plain() {
        for parameter in operation.parameters("header") {
            let name = parameter["name"].as_str().unwrap();
            if name == "If-None-Match" && operation.method == "GET" {
                // That is a list, and lines of a list are one list.
                continue;
            }
            let good = good_value(&operation, parameter);
            let headers = format!("{name}: {good}\n{}: {good}", name.to_lowercase());
            let answer = operation.ask(&server, needed(&operation), &headers).await;
            println!("{} {name}", operation.id());
            answer.assert_problem(400, "doubled-header", "not_applied");
            tried += 1;
        }
    }
    assert!(tried > 30, "{tried} headers");
    assert_eq!(everything(&server).await, before);
}

#[tokio::test]
async fn what_is_text_is_utf8() {
    let server = Server::start(Fake::default(), Limits::default()).await;
    let before = everything(&server).await;
    for operation in plain() {
        for parameter in operation.parameters("query") {
            let name = parameter["name"].as_str().unwrap();
            let others =
                needed(&operation).split('&').filter(|pair| pair.split('=').next() != Some(name));
            let others = others.map(|pair| format!("&{pair}")).collect::<String>();
            let query = |value: &str| format!("{name}={value}{others}");
            // Keys are bytes, and so is a bound or a beginning of them. Nothing else has a
            // greatest length.
            if parameter["schema"]["maxLength"].is_u64() {
                let target = query("%ff%FE");
                let answer = operation.ask(&server, &target, "").await;
                let is_fine =
                    answer.status == 200 || answer.json()["type"] == "urn:synod:lease-not-found";
                assert!(
                    is_fine || operation.id() == "watch",
                    "{} {target}: {answer:?}",
                    operation.id()
                );
                continue;
            }
            for value in ["%ff", "1%ff", "%C3%28", "true%ff"] {
                let answer = operation.ask(&server, &query(value), "").await;
                println!("{} {name}={value}", operation.id());
                answer.assert_problem(400, "bad-query", "not_applied");
            }
        }
        for parameter in operation.parameters("header") {
            let name = parameter["name"].as_str().unwrap();
            if operation.id() == "describe" {
                // A tag may have such bytes (RFC 9110, 8.8.3), and this one is not ours.
                continue;
            }
            let line = format!("{} {}", operation.method, operation.target(needed(&operation)));
            let body = operation.example_body();
            let mut bytes = crate::raw::request(&line, &format!("{name}: ?"), &body).into_bytes();
            let mark = format!("{name}: ").len()
                + bytes
                    .windows(name.len() + 2)
                    .position(|part| part == format!("{name}: ").as_bytes())
                    .unwrap();
            bytes[mark] = 0xff;
            let answer = server.call(bytes).await;
            println!("{} {name}", operation.id());
            answer.assert_problem(400, "bad-header", "not_applied");
        }
    }
    assert_eq!(everything(&server).await, before);
}

#[test]
fn every_problem_is_described_with_its_status() {
    let types = DOCUMENT["components"]["schemas"]["ProblemType"]["enum"].as_array().unwrap();
    let mut found = BTreeSet::new();
    for operation in plain() {
        for (status, response) in operation.says["responses"].as_object().unwrap() {
            let content = &response["content"]["application/problem+json"]["schema"];
            let types = content["allOf"][1]["properties"]["type"]["enum"].as_array();
            for kind in types.into_iter().flatten().map(|kind| kind.as_str().unwrap()) {
                let kind = ProblemKind::from_type(kind).expect("a problem that there is");
                assert_eq!(kind.status().to_string(), *status, "{}", operation.id());
                found.insert(kind.as_type());
            }
        }
    }
    // That is the answer of what is no resource.
    found.insert(ProblemKind::NotFound.as_type());
    let all: BTreeSet<_> = ProblemKind::ALL.iter().map(|kind| kind.as_type()).collect();
    assert_eq!(found, all);
    assert_eq!(types.iter().map(|kind| kind.as_str().unwrap()).collect::<BTreeSet<_>>(), all);
}

#[test]
fn bounds_are_those_of_the_node() {
    let limits = Limits {
        key_bytes_max: 17,
        list_entries_max: 19,
        txn_operations_max: 23,
        ..Limits::default()
    };
    let document = synod_api::openapi(&limits);
    let schema = |path: &str, name: &str| {
        let all = document["paths"][path]["get"]["parameters"].as_array().unwrap();
        all.iter().find(|parameter| parameter["name"] == name).unwrap()["schema"].clone()
    };
    assert_eq!(schema("/v1/kv/{key}", "key")["maxLength"], 17);
    assert_eq!(schema("/v1/kv", "end")["maxLength"], 18);
    assert_eq!(schema("/v1/kv", "limit")["maximum"], 19);
    assert_eq!(schema("/v1/kv", "revision")["maximum"], u64::MAX);
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["CompactBody"]["properties"]["revision"]["maximum"], u64::MAX);
    for list in ["compare", "success", "failure"] {
        assert_eq!(schemas["TxnBody"]["properties"][list]["maxItems"], 23, "{list}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(value: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    let target = DOCUMENT.pointer(reference.trim_start_matches('#'));
                    assert!(target.is_some(), "{reference}");
                }
                members.values().for_each(check);
            }
            Value::Array(items) => items.iter().for_each(check),
            _ => {}
        }
    }
    check(&DOCUMENT);
}

/// Every call once, in an order in which the examples make sense.
const STORY: [&str; 34] = [
    "putKey",
    "getKey",
    "listKeys",
    "compact",
    "transact",
    "batch",
    "deleteKey",
    "deleteKeys",
    "watch",
    "grantLease",
    "listLeases",
    "lookAtLease",
    "keepAlive",
    "keepManyAlive",
    "endLease",
    "takeLock",
    "lookAtLock",
    "letLockGo",
    "standForElection",
    "lookAtElection",
    "resign",
    "showCluster",
    "showMembers",
    "addMember",
    "changeMember",
    "removeMember",
    "setQuorums",
    "transfer",
    "status",
    "backUp",
    "livez",
    "readyz",
    "metrics",
    "describe",
];

#[tokio::test]
async fn the_examples_work() {
    let operations: Vec<_> = plain().collect();
    let ids: BTreeSet<_> = operations.iter().map(Operation::id).collect();
    assert_eq!(ids, STORY.into_iter().collect(), "every call is tried");
    let server = Server::start(Fake::default(), Limits::default()).await;
    let mut token = Value::Null;
    for id in STORY {
        let operation = operations.iter().find(|operation| operation.id() == id).unwrap();
        let query = match id {
            "letLockGo" | "resign" => format!("token={token}"),
            "watch" => "wait=0s".to_owned(),
            "deleteKeys" => "prefix=a".to_owned(),
            "deleteKey" => String::new(),
            _ => String::new(),
        };
        let answer = operation.ask(&server, &query, "").await;
        assert!((200..300).contains(&answer.status), "{id}: {answer:?}");
        if matches!(id, "takeLock" | "standForElection") {
            token = answer.json()["token"].clone();
        }
    }
}

#[tokio::test]
async fn the_description_is_served_with_a_tag() {
    let server = Server::start(Fake::default(), Limits::default()).await;
    let first = server.ask("GET /openapi.json", "", "").await;
    assert_eq!((first.status, first.header("content-type")), (200, "application/json"));
    assert_eq!(first.json(), *DOCUMENT);
    assert_eq!(first.json()["openapi"], json!("3.1.0"));
    let tag = first.header("etag");
    for known in [tag.to_owned(), format!("\"x\", W/{tag}"), "*".to_owned()] {
        let again = server.ask("GET /openapi.json", &format!("if-none-match: {known}"), "").await;
        assert_eq!((again.status, again.header("etag"), again.body.len()), (304, tag, 0));
    }
    assert_eq!(server.ask("GET /openapi.json", "if-none-match: \"x\"", "").await.status, 200);
}

#[test]
fn patterns_fit_their_targets_only() {
    assert!(fits("/v1/kv/{key}", "/v1/kv/a/b"));
    assert!(fits("/v1/lease/{id}/keepalive", "/v1/lease/7/keepalive"));
    assert!(!fits("/v1/lease/{id}", "/v1/lease/7/keepalive"));
    assert!(!fits("/v1/lease/{id}", "/v1/lease/keepalive"));
    assert!(!fits("/v1/kv", "/v1/kv/a"));
}
