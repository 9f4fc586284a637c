//! The calls that change who does what in the cluster.

use crate::fake::{Fake, Mode, NODE, OTHER};
use crate::raw::Server;
use synod_api::{ChangeRefused, Leader, Limits, MemberChange, Refused, Wanted};
use synod_kv::http::ProblemKind;

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
    let says = answer.json();
    assert_eq!(says["location"], location);
    assert_eq!(says["leader"]["url"], "http://127.0.0.1:7001");
    let detail = says["detail"].as_str().unwrap();
    assert!(detail.contains("Nothing was done here") && detail.contains("-L"), "{detail}");
    fake.set_leader(None);
    let answer = server.ask("POST /v1/cluster/transfer", "", "").await;
    answer.assert_problem(503, "no-leader", "not_applied");
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_a_successor_that_does_not_come_is_told() {
    let (fake, server) = led_by(NODE).await;
    for (request, body, status, problem) in [
        ("POST /v1/cluster/transfer", "{\"to\": 9}", 404, "no-such-member"),
        ("POST /v1/cluster/transfer", "{\"to\": -1}", 400, "bad-member"),
        ("POST /v1/cluster/transfer", "{\"two\": 2}", 400, "unknown-member"),
        ("POST /v1/cluster/transfer", "2", 400, "bad-member"),
        ("POST /v1/cluster/transfer?to=2", "", 400, "unknown-parameter"),
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

const STORE: &str = "000000000000000000000000000000ff";

fn added() -> String {
    format!(
        "{{\"id\": 4, \"store\": \"{STORE}\", \"peer\": \"h:7014\", \
         \"client_url\": \"http://h:7004/\", \"configuration\": 7}}"
    )
}

#[tokio::test]
async fn each_change_of_the_members_is_understood() {
    let (fake, server) = led_by(NODE).await;
    let (peer, client_url) = ("h:7014".to_owned(), "http://h:7004".to_owned());
    let add =
        Wanted::Add { id: 4, store: 0xFF, peer: peer.clone(), client_url: client_url.clone() };
    let both = Wanted::Move { id: 2, peer: Some(peer), client_url: Some(client_url) };
    let added = added();
    for (request, body, wanted, configuration, force) in [
        ("POST /v1/cluster/members", &*added, add, Some(7), false),
        (
            "PUT /v1/cluster/members/4",
            "{\"role\": \"voter\", \"force\": true}",
            Wanted::Promote { id: 4 },
            None,
            true,
        ),
        (
            "PUT /v1/cluster/members/4",
            "{\"replaces\": 3, \"configuration\": 9}",
            Wanted::Replace { id: 4, old: 3 },
            Some(9),
            false,
        ),
        (
            "PUT /v1/cluster/members/2",
            "{\"peer\": \"h:7014\", \"client_url\": \"http://h:7004/\"}",
            both,
            None,
            false,
        ),
        (
            "DELETE /v1/cluster/members/3?configuration=5&force=true",
            "",
            Wanted::Remove { id: 3 },
            Some(5),
            true,
        ),
        (
            "PUT /v1/cluster/quorums",
            "{\"promise\": 3, \"accept\": 1, \"force\": true}",
            Wanted::Quorums { promise: 3, accept: 1 },
            None,
            true,
        ),
    ] {
        let answer = server.ask(request, "", body).await;
        assert_eq!(answer.status, 200, "{request} {body}");
        assert_eq!(answer.json()["configuration"], 8);
        assert_eq!(fake.take_changes(), [MemberChange { wanted, configuration, force }]);
    }
    for path in ["/v1/cluster", "/v1/cluster/members"] {
        let answer = server.ask(&format!("GET {path}"), "", "").await;
        assert_eq!((answer.status, &answer.json()["configuration"]), (200, &7.into()), "{path}");
    }
}

#[tokio::test]
async fn a_change_that_makes_no_sense_never_gets_to_the_replica() {
    let (fake, server) = led_by(NODE).await;
    let added = added();
    let bad = |from: &str, to: &str| added.replace(from, to);
    for (request, body, status, problem) in [
        ("POST /v1/cluster", added.clone(), 405, "method-not-allowed"),
        ("POST /v1/cluster/members", String::new(), 400, "bad-json"),
        ("POST /v1/cluster/members?force=true", added.clone(), 400, "unknown-parameter"),
        ("POST /v1/cluster/members", bad("\"id\": 4", "\"id\": 0"), 400, "bad-member"),
        ("POST /v1/cluster/members", bad("h:7014", "h"), 400, "bad-member"),
        ("POST /v1/cluster/members", bad("h:7014", "h:0"), 400, "bad-member"),
        ("POST /v1/cluster/members", bad("h:7014", "h :1"), 400, "bad-member"),
        ("POST /v1/cluster/members", bad("http://h", "ftp://h"), 400, "bad-member"),
        ("POST /v1/cluster/members", bad("h:7004/", "h/a"), 400, "bad-member"),
        ("POST /v1/cluster/members", bad(STORE, &"0".repeat(32)), 400, "bad-member"),
        ("POST /v1/cluster/members", bad(STORE, "ff"), 400, "bad-member"),
        (
            "POST /v1/cluster/members",
            bad("h:7014", &format!("{}:1", "h".repeat(300))),
            400,
            "bad-member",
        ),
        ("GET /v1/cluster/members/4", String::new(), 405, "method-not-allowed"),
        ("PUT /v1/cluster/members/four", "{}".to_owned(), 400, "bad-id"),
        ("PUT /v1/cluster/members/4294967297", "{}".to_owned(), 400, "bad-id"),
        ("DELETE /v1/cluster/members/0", String::new(), 400, "bad-id"),
        ("PUT /v1/cluster/members/4", "{}".to_owned(), 400, "missing-member"),
        ("PUT /v1/cluster/members/4", "{\"role\": \"learner\"}".to_owned(), 400, "bad-member"),
        ("PUT /v1/cluster/members/4", "{\"role\": \"king\"}".to_owned(), 400, "bad-member"),
        (
            "PUT /v1/cluster/members/4",
            "{\"role\": \"voter\", \"replaces\": 3}".to_owned(),
            400,
            "contradictory-members",
        ),
        ("PUT /v1/cluster/members/4", "{\"peer\": \"h\"}".to_owned(), 400, "bad-member"),
        ("PUT /v1/cluster/quorums", "{\"promise\": 1}".to_owned(), 400, "missing-member"),
        ("POST /v1/cluster/quorums", String::new(), 405, "method-not-allowed"),
    ] {
        let answer = server.ask(request, "", &body).await;
        answer.assert_problem(status, problem, "not_applied");
    }
    assert_eq!(fake.take_changes(), []);
}

#[tokio::test]
async fn a_change_goes_to_the_leader_and_its_refusal_says_what_is_known() {
    let (fake, server) = led_by(OTHER).await;
    let answer = server.ask("DELETE /v1/cluster/members/3?force=true", "", "").await;
    assert_eq!(answer.status, 307);
    let location = answer.header("location");
    assert_eq!(location, "http://127.0.0.1:7001/v1/cluster/members/3?force=true");
    fake.set_leader(Some(Leader::new(NODE, URL)));
    let (kind, detail) = (ProblemKind::ChangeUnsafe, "Node 4 is 5 slots behind.".to_owned());
    fake.refuse_change(ChangeRefused::Refused { kind, detail });
    let answer = server.ask("DELETE /v1/cluster/members/3", "", "").await;
    answer.assert_problem(409, "change-unsafe", "not_applied");
    for (refused, problem) in [(Refused::Deadline, "timeout"), (Refused::Lost, "outcome-unknown")] {
        fake.refuse_change(ChangeRefused::Replica(refused));
        let answer = server.ask("DELETE /v1/cluster/members/3", "", "").await;
        answer.assert_problem(503, problem, "unknown");
    }
    fake.set_writes(Mode::Hang);
    let answer = server.ask("DELETE /v1/cluster/members/3", "Synod-Timeout: 50ms\r\n", "").await;
    answer.assert_problem(503, "timeout", "unknown");
}
