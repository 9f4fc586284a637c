//! Every node of a cluster answers every request.

mod support;

use support::cluster::TestCluster;
use support::wait::wait_until;

#[test]
fn each_node_stores_reads_lists_compares_and_deletes() {
    let cluster = TestCluster::start(3);
    for id in cluster.ids() {
        store_read_and_delete(&cluster, id);
    }
    list_what_others_wrote(&cluster);
    for id in cluster.ids() {
        compare_and_set(&cluster, id);
    }
}

fn store_read_and_delete(cluster: &TestCluster, id: u32) {
    let target = format!("/v1/kv/from/{id}");
    let body = format!("value of {id}");
    let created = cluster.request(id, "PUT", &target, &[], body.as_bytes());
    assert_eq!(created.status, 201, "{}", created.text());
    let etag = created.header("etag").expect("an ETag").to_owned();
    let revision = created.header("synod-revision").expect("a revision").to_owned();
    assert_eq!(etag, format!("\"{revision}\""));

    for reader in cluster.ids() {
        let read = cluster.request(reader, "GET", &target, &[], b"");
        assert_eq!((read.status, read.text()), (200, body.clone()), "read at node {reader}");
        assert_eq!(read.header("etag"), Some(etag.as_str()));
        assert_eq!(read.header("synod-version"), Some("1"));
        let unchanged = cluster.request(reader, "GET", &target, &[("if-none-match", &etag)], b"");
        assert_eq!(unchanged.status, 304);
        let head = cluster.request(reader, "HEAD", &target, &[], b"");
        assert_eq!((head.status, head.body.len()), (200, 0));
    }
    let replaced = cluster.request(id, "PUT", &target, &[], b"again");
    assert_eq!(replaced.status, 200, "{}", replaced.text());
    let deleted = cluster.request(id, "DELETE", &target, &[], b"");
    assert_eq!(deleted.status, 200, "{}", deleted.text());
    for reader in cluster.ids() {
        assert_eq!(cluster.request(reader, "GET", &target, &[], b"").status, 404);
    }
    assert_eq!(cluster.request(id, "DELETE", &target, &[], b"").status, 404);
}

fn list_what_others_wrote(cluster: &TestCluster) {
    for id in cluster.ids() {
        let put = cluster.request(id, "PUT", &format!("/v1/kv/list/{id}"), &[], b"x");
        assert_eq!(put.status, 201, "{}", put.text());
    }
    for id in cluster.ids() {
        let page = cluster.request(id, "GET", "/v1/kv?prefix=list/&limit=2", &[], b"");
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        let entries = page["entries"].as_array().expect("a list");
        let keys: Vec<_> = entries.iter().map(|entry| entry["key"].as_str()).collect();
        assert_eq!(keys, [Some("list/1"), Some("list/2")]);
        let next = page["next"].as_str().expect("there is more");
        let target = format!("/v1/kv?prefix=list/&start={next}");
        let last = cluster.request(id, "GET", &target, &[], b"").json();
        assert_eq!(last["entries"][0]["key"], "list/3");
        assert_eq!(last["next"], serde_json::Value::Null);
    }
}

fn compare_and_set(cluster: &TestCluster, id: u32) {
    let target = format!("/v1/kv/register/{id}");
    let once = [("if-none-match", "*")];
    let first = cluster.request(id, "PUT", &target, &once, b"first");
    assert_eq!(first.status, 201, "{}", first.text());
    let etag = first.header("etag").expect("an ETag").to_owned();

    let second = cluster.request(id % 3 + 1, "PUT", &target, &once, b"second");
    assert_eq!(second.status, 412, "{}", second.text());
    assert_eq!(second.header("etag"), Some(etag.as_str()), "the current ETag");
    assert_eq!(second.header("content-type"), Some("application/problem+json"));
    assert_eq!(second.json()["outcome"], "not_applied");

    let swapped = cluster.request(id, "PUT", &target, &[("if-match", &etag)], b"swapped");
    assert_eq!(swapped.status, 200, "{}", swapped.text());
    let stale = cluster.request(id, "DELETE", &target, &[("if-match", &etag)], b"");
    assert_eq!(stale.status, 412, "{}", stale.text());
    let read = cluster.request(id, "GET", &target, &[], b"");
    assert_eq!(read.text(), "swapped");
}

#[test]
fn a_retry_under_the_same_idempotency_key_has_effect_once() {
    let cluster = TestCluster::start(3);
    let named = [("idempotency-key", "order-17")];
    let first = cluster.request(1, "PUT", "/v1/kv/order", &named, b"one");
    assert_eq!(first.status, 201, "{}", first.text());
    let again = cluster.request(2, "PUT", "/v1/kv/order", &named, b"one");
    assert_eq!(again.status, 201, "the first outcome: {}", again.text());
    assert_eq!(again.header("etag"), first.header("etag"));
    let version = cluster.request(3, "GET", "/v1/kv/order", &[], b"");
    assert_eq!(version.header("synod-version"), Some("1"), "it had effect once");
    let other = cluster.request(1, "PUT", "/v1/kv/order", &named, b"two");
    assert_eq!(other.status, 422, "{}", other.text());
}

#[test]
fn a_node_waits_for_the_revision_that_the_reader_has_seen() {
    let cluster = TestCluster::start(3);
    for round in 0..20 {
        let value = format!("{round}");
        let put = cluster.request(1, "PUT", "/v1/kv/mine", &[], value.as_bytes());
        let revision = put.header("synod-revision").expect("a revision").to_owned();
        let target = format!("/v1/kv/mine?consistency=stale&min_revision={revision}");
        for reader in [2, 3] {
            let read = cluster.request(reader, "GET", &target, &[], b"");
            assert_eq!(read.text(), value, "read your writes at node {reader}");
        }
    }
}

#[test]
fn bad_requests_get_a_problem_document_and_store_nothing() {
    let cluster = TestCluster::start(1);
    let long_key = format!("/v1/kv/{}", "k".repeat(4_097));
    let large = vec![b'v'; 5 << 20];
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [u8]);
    let cases: [Case<'_>; 7] = [
        ("PUT", &long_key, &[], b"x"),
        ("PUT", "/v1/kv/bad%zz", &[], b"x"),
        ("PUT", "/v1/kv/", &[], b"x"),
        ("PUT", "/v1/kv/k?colour=red", &[], b"x"),
        ("PUT", "/v1/kv/k", &[("if-match", "yesterday")], b"x"),
        ("PUT", "/v1/kv/k", &[], &large),
        ("PUT", "/v1/kv/k", &[("synod-timeout", "soon")], b"x"),
    ];
    for (method, target, headers, body) in cases {
        // A server may answer and close before it has read all of a large body.
        let Ok(answer) = cluster.try_request(1, method, target, headers, body) else {
            assert!(body.len() > 1 << 20, "{method} {target} was not answered");
            continue;
        };
        let shown: String = target.chars().take(40).collect();
        assert!((400..500).contains(&answer.status), "{shown}: {}", answer.status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{shown}");
        assert_eq!(answer.json()["outcome"], "not_applied", "{shown}");
    }
    let all = cluster.request(1, "GET", "/v1/kv?prefix=&count_only=true", &[], b"");
    assert!(all.text().contains("\"count\":0"), "something was stored: {}", all.text());
    wait_until("the node is still well", || cluster.status(1).is_some());
}
