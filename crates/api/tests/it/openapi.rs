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
            // What must be there is there, so that the headers are looked at.
            let query = match operation.id() {
                "deleteKeys" => "prefix=a",
                "letLockGo" | "resign" => "token=1",
                "watch" => "wait=0s&from=1",
                _ => "",
            };
            let answer = operation.ask(&server, query, &format!("{name}: {value}")).await;
            let is_described = operation.names("header").contains(name);
            let is_refused =
                answer.status == 400 && answer.json()["type"] == "urn:synod:bad-header";
            // Conditions are for one key, and names for one write: elsewhere they are refused
            // whatever they say, for somebody means something by them.
            let is_strange = is_refused && !is_described;
            let is_strict = !["Synod-Timeout", "Last-Event-ID"].contains(&name);
            assert!(
                is_refused == is_described || (is_strange && is_strict),
                "{} {name}: {answer:?}",
                operation.id()
            );
        }
    }
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
    let limits = Limits { key_bytes_max: 17, list_entries_max: 19, ..Limits::default() };
    let document = synod_api::openapi(&limits);
    let schema = |path: &str, name: &str| {
        let all = document["paths"][path]["get"]["parameters"].as_array().unwrap();
        all.iter().find(|parameter| parameter["name"] == name).unwrap()["schema"].clone()
    };
    assert_eq!(schema("/v1/kv/{key}", "key")["maxLength"], 17);
    assert_eq!(schema("/v1/kv", "end")["maxLength"], 18);
    assert_eq!(schema("/v1/kv", "limit")["maximum"], 19);
    assert_eq!(schema("/v1/kv", "revision")["maximum"], u64::MAX);
    let revision = &document["components"]["schemas"]["CompactBody"]["properties"]["revision"];
    assert_eq!(revision["maximum"], u64::MAX);
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
