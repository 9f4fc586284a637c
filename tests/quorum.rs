//! Without a quorum a node says so in time, and what it says is true.

mod support;

use std::time::{Duration, Instant};

use support::cluster::TestCluster;
use support::wait::wait_until;

#[test]
fn without_a_quorum_requests_are_refused_inside_their_deadline() {
    let mut cluster = TestCluster::start(3);
    let stored = cluster.request(1, "PUT", "/v1/kv/before", &[], b"kept");
    assert_eq!(stored.status, 201, "{}", stored.text());
    cluster.kill(2);
    cluster.kill(3);

    let hurry = [("synod-timeout", "1s")];
    for (method, target) in [("PUT", "/v1/kv/x"), ("DELETE", "/v1/kv/x"), ("GET", "/v1/kv/before")]
    {
        let begun = Instant::now();
        let refused = cluster.request(1, method, target, &hurry, b"");
        assert_eq!(refused.status, 503, "{method}: {}", refused.text());
        // Generous: the machine may be busy. The client's own patience is 15 s.
        assert!(begun.elapsed() < Duration::from_secs(5), "{method} took too long");
        assert!(refused.header("retry-after").is_some(), "{method} has no Retry-After");
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        let outcome = refused.json()["outcome"].clone();
        assert!(outcome == "not_applied" || outcome == "unknown", "{method}: {outcome}");
    }
    let stale = cluster.request(1, "GET", "/v1/kv/before?consistency=stale", &[], b"");
    assert_eq!((stale.status, stale.text()), (200, "kept".to_owned()));
    wait_until("the node says that it is not ready", || {
        cluster.try_request(1, "GET", "/readyz", &[], b"").is_ok_and(|r| r.status == 503)
    });
    let live = cluster.request(1, "GET", "/livez", &[], b"");
    assert_eq!(live.status, 200, "it is alive all the same");

    cluster.start_by_hand(2);
    wait_until("the cluster serves again", || {
        let put = cluster.try_request(1, "PUT", "/v1/kv/after", &hurry, b"y");
        put.is_ok_and(|answer| answer.status < 300)
    });
    let read = cluster.request(1, "GET", "/v1/kv/before", &[], b"");
    assert_eq!(read.text(), "kept");
}
