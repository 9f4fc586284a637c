//! /openapi.json tells the truth of a real cluster: each example of it is answered as it says.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use support::cluster::TestCluster;
use support::http::Response;

/// One operation of the description.
struct Operation<'a> {
    method: String,
    path: &'a str,
    says: &'a Value,
}

impl<'a> Operation<'a> {
    /// All of them, in an order in which most examples make sense: what makes something
    /// before what shows it, and what removes it at the end. Last of all the leader changes,
    /// for the others may not know the new one for a moment.
    fn all(document: &'a Value) -> Vec<Self> {
        let items = document["paths"].as_object().expect("paths");
        let mut all: Vec<Self> = items
            .iter()
            .flat_map(|(path, item)| {
                let item = item.as_object().expect("operations").iter();
                item.map(move |(method, says)| Self { method: method.to_uppercase(), path, says })
            })
            .collect();
        let methods = ["PUT", "POST", "GET", "HEAD", "DELETE"];
        let turn = |one: &Self| methods.iter().position(|method| *method == one.method);
        all.sort_by_key(|one| (one.is("transfer"), turn(one), one.path));
        all
    }

    fn id(&self) -> &'a str {
        self.says["operationId"].as_str().expect("an id")
    }

    fn is(&self, id: &str) -> bool {
        self.id() == id
    }

    /// Path and query, with every example that there is.
    fn target(&self, tokens: &BTreeMap<&str, u64>) -> String {
        let (mut path, mut query) = (self.path.to_owned(), Vec::new());
        for parameter in self.says["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().expect("a name");
            let mut example = parameter["example"].clone();
            if name == "token" && parameter["required"] == true {
                example = tokens.get(self.path).copied().expect("it was taken").into();
            }
            let text = example.to_string();
            let text = text.trim_matches('"');
            match parameter["in"].as_str().expect("a place") {
                "path" => path = path.replace(&format!("{{{name}}}"), text),
                "query" if !example.is_null() => query.push(format!("{name}={text}")),
                _ => assert_ne!(parameter["required"], true, "{}: {name}", self.id()),
            }
        }
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{path}{mark}{}", query.join("&"))
    }

    fn body(&self) -> String {
        let contents = self.says["requestBody"]["content"].as_object();
        match contents.and_then(|contents| contents.values().next()).map(|one| &one["example"]) {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(document) => document.to_string(),
        }
    }

    /// Checks that the description has this answer, with this kind of body.
    fn check(&self, answer: &Response) {
        let place = format!("{} {}: {} {}", self.method, self.path, answer.status, answer.text());
        assert!(answer.status < 500, "{place}");
        let described = &self.says["responses"][answer.status.to_string()];
        assert!(described.is_object(), "the status is not described: {place}");
        if answer.body.is_empty() {
            return;
        }
        let kind = answer.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default();
        assert!(described["content"][kind].is_object(), "{kind} is not described: {place}");
    }
}

/// Asks a node; and the leader, if that one sends the client there.
fn ask(cluster: &TestCluster, id: u32, operation: &Operation<'_>, target: &str) -> Response {
    let body = operation.body();
    let ask = |id| cluster.request(id, &operation.method, target, &[], body.as_bytes());
    let answer = ask(id);
    operation.check(&answer);
    if answer.status != 307 {
        return answer;
    }
    let location = answer.header("location").expect("where to go");
    let says = answer.json();
    assert_eq!(says["location"], location);
    let is_there = |id: &u32| format!("http://{}{target}", cluster.client_addr(*id)) == location;
    let leader = cluster.ids().find(is_there).expect("a node of the cluster");
    assert_eq!(says["leader"]["id"], leader);
    assert_ne!(leader, id, "it sends the client to itself");
    let answer = ask(leader);
    operation.check(&answer);
    answer
}

#[test]
fn each_example_is_answered_as_the_description_says() {
    let cluster = TestCluster::start(3);
    let document = cluster.request(1, "GET", "/openapi.json", &[], b"").json();
    let mut tokens = BTreeMap::new();
    let (mut asked, mut failing) = (0, BTreeSet::new());
    for operation in Operation::all(&document) {
        // Asked at each node, unless nothing more can come of it.
        let nodes = if operation.is("transfer") { 1 } else { 3 };
        let mut went_well = false;
        for id in cluster.ids().take(nodes) {
            let answer = ask(&cluster, id, &operation, &operation.target(&tokens));
            asked += 1;
            went_well |= (200..300).contains(&answer.status);
            if operation.method == "POST" && answer.status == 200 {
                let taken = serde_json::from_slice::<Value>(&answer.body).ok();
                let token = taken.and_then(|taken| taken["token"].as_u64());
                tokens.extend(token.map(|token| (operation.path, token)));
            }
        }
        if !went_well {
            failing.insert(format!("{} {}", operation.method, operation.path));
        }
    }
    assert!(asked > 100, "{asked} calls");
    // What was removed by an example before, and a member that nobody has started.
    let nothing = ["DELETE /v1/kv/{key}", "PUT /v1/cluster/members/{id}"].map(str::to_owned);
    assert_eq!(failing, BTreeSet::from(nothing), "examples that come to nothing at any node");
}
