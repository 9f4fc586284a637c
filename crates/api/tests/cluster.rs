//! The calls that change who does what in the cluster.

mod fake;
mod raw;

use fake::{Fake, Mode, NODE, OTHER};
use raw::Server;
use synod_api::{Leader, Limits, Refused};

const URL: &str = "http://127.0.0.1:7001";

async fn led_by(node: u32) -> (Fake, Server) {
    let fake = Fake::default();
    fake.set_leader(Some(Leader::new(node, URL)));
    let server = Server::start(fake.clone(), Limits::default()).await;
    (fake, server)
}

#[tokio::test]
async fn the_leader_gives_its_office_away() {
    let (_fake, server) = led_by(NODE).await;
    for (body, leader) in [("", OTHER), ("{}", OTHER), ("{\"to\": 2}", 2), ("{\"to\": 1}", 1)] {
        let answer = server.ask("POST /v1/cluster/transfer", "", body).await;
        assert_eq!(answer.status, 200, "{body}");
        assert_eq!(answer.json()["id"], leader, "{body}");
        assert_eq!(answer.json()["url"], "http://127.0.0.1:7009");
    }
}

#[tokio::test]
async fn another_node_sends_the_client_to_the_leader() {
    let (fake, server) = led_by(OTHER).await;
    let answer = server.ask("POST /v1/cluster/transfer", "", "{\"to\": 1}").await;
    assert_eq!(answer.status, 307);
    let location = answer.header("location");
    assert_eq!(location, "http://127.0.0.1:7001/v1/cluster/transfer");
    fake.set_leader(None);
    let answer = server.ask("POST /v1/cluster/transfer", "", "").await;
    answer.assert_problem(503, "no-leader", "not_applied");
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_a_successor_that_does_not_come_is_told() {
    let (fake, server) = led_by(NODE).await;
    for (request, body, status, problem) in [
        ("POST /v1/cluster/transfer", "{\"to\": 9}", 404, "no-such-member"),
        ("POST /v1/cluster/transfer", "{\"to\": -1}", 400, "bad-request"),
        ("POST /v1/cluster/transfer", "{\"two\": 2}", 400, "bad-request"),
        ("POST /v1/cluster/transfer", "2", 400, "bad-request"),
        ("POST /v1/cluster/transfer?to=2", "", 400, "bad-query"),
        ("GET /v1/cluster/transfer", "", 405, "method-not-allowed"),
    ] {
        let answer = server.ask(request, "", body).await;
        answer.assert_problem(status, problem, "not_applied");
    }
    let large = format!("{{\"to\": 2{}}}", " ".repeat(5_000));
    let answer = server.ask("POST /v1/cluster/transfer", "", &large).await;
    assert_eq!(answer.status, 413);
    fake.set_writes(Mode::Refuse(Refused::Deadline));
    let answer = server.ask("POST /v1/cluster/transfer", "", "").await;
    answer.assert_problem(503, "not-transferred", "unknown");
}
