//! Locks and elections: one at a time, in the order of asking.

use crate::fake::{Fake, Mode};
use crate::raw::{Raw, Server, request};
use bytes::Bytes;
use serde_json::{Value, json};
use synod_api::{Limits, Refused, Replica};
use synod_kv::{
    Command, Condition, LeaseId, LeaseOperation, ListQuery, MemoryMap, Operation, Txn,
    TxnOperation, lease, read,
};
use tokio::time::Instant;

async fn start() -> (Fake, Server) {
    let fake = Fake::default();
    let server = Server::start(fake.clone(), Limits::default()).await;
    (fake, server)
}

async fn lock(server: &Server, body: &str) -> Value {
    let held = server.ask("POST /v1/lock/a/b", "", body).await;
    assert_eq!(held.status, 200, "{held:?}");
    held.json()
}

/// Asks for the lock on a connection of its own, and waits until the claim is there.
async fn wait_for_lock(fake: &Fake, server: &Server, headers: &str, claims: usize) -> Raw {
    let mut raw = server.connect().await;
    let body = "{\"ttl\": \"10s\", \"wait\": \"30s\"}";
    raw.send(request("POST /v1/lock/a/b", headers, body)).await;
    wait_for_claims(fake, claims).await;
    raw
}

fn claims(fake: &Fake) -> usize {
    let all = fake.read(|map| Ok(read::list(map, &ListQuery::prefix(b"_synod/"))?));
    all.unwrap().entries.len()
}

/// Each change of claims is a change of the revision.
async fn wait_for_claims(fake: &Fake, count: usize) {
    loop {
        let seen = fake.revision();
        if claims(fake) == count {
            return;
        }
        let next = synod_kv::Revision(seen.0 + 1);
        fake.wait_revision(next, Instant::now()).await.unwrap();
    }
}

async fn end_lease(fake: &Fake, id: u64) {
    let operation = Operation::Lease(LeaseOperation::Revoke { id: LeaseId(id) });
    let command = Command { idempotency: None, operation };
    fake.write(command, Instant::now()).await.unwrap();
}

#[tokio::test]
async fn a_lock_is_held_let_go_and_held_again_with_a_higher_token() {
    let (_, server) = start().await;
    let free = server.ask("GET /v1/lock/a/b", "", "").await;
    assert_eq!(free.json(), json!({"held": false, "waiters": 0}));
    let first = lock(&server, "{\"ttl\": \"10s\"}").await;
    let lease = LeaseId::AUTOMATIC_FIRST.0;
    assert_eq!(first, json!({"lease": lease, "token": 1, "ttl_ms": 10_000}));
    let held = server.ask("GET /v1/lock/a/b", "", "").await;
    assert_eq!(held.json(), json!({"held": true, "lease": lease, "token": 1, "waiters": 0}));

    let again = server.ask("POST /v1/lock/a/b", "", "{\"ttl\": \"10s\"}").await;
    again.assert_problem(409, "lock-held", "not_applied");
    let look = server.ask("GET /v1/lock/a/b", "", "").await;
    assert_eq!(look.json()["waiters"], 0, "who did not wait has left no claim");
    let leases = server.ask("GET /v1/lease", "", "").await;
    assert_eq!(leases.json()["leases"].as_array().unwrap().len(), 1, "and no lease");
    let other = server.ask("POST /v1/lock/a", "", "{\"ttl\": \"10s\"}").await;
    assert_eq!(other.status, 200, "another lock");

    let wrong = server.ask("DELETE /v1/lock/a/b?token=7", "", "").await;
    wrong.assert_problem(409, "lock-not-held", "not_applied");
    let released = server.ask("DELETE /v1/lock/a/b?token=1", "", "").await;
    assert_eq!((released.status, &released.json()["lease"]), (200, &json!(lease)));
    let twice = server.ask("DELETE /v1/lock/a/b?token=1", "", "").await;
    assert_eq!((twice.status, twice.json()), (200, released.json()), "it was let go");
    let own = format!("GET /v1/lease/{lease}");
    assert_eq!(server.ask(&own, "", "").await.status, 404, "its own lease");
    let second = lock(&server, "{\"ttl\": \"10s\"}").await;
    assert!(second["token"].as_u64() > first["token"].as_u64());
}

/// Who asks again and again, and never waits, writes nothing while it is held.
#[tokio::test]
async fn a_held_lock_that_is_not_waited_for_is_not_claimed() {
    let (fake, server) = start().await;
    let held = lock(&server, "{\"ttl\": \"10s\"}").await;
    server.ask("POST /v1/lease", "", "{\"ttl\": \"10s\", \"id\": 77}").await;
    let (writes, revision) = (fake.writes_seen(), fake.revision());
    for (headers, body) in [
        ("", "{\"ttl\": \"10s\"}"),
        ("", "{\"lease\": 77, \"wait\": \"0s\"}"),
        ("idempotency-key: n1", "{\"lease\": 77}"),
    ] {
        let again = server.ask("POST /v1/lock/a/b", headers, body).await;
        again.assert_problem(409, "lock-held", "not_applied");
        assert_eq!((fake.writes_seen(), fake.revision()), (writes, revision), "{body}");
    }
    // What this node sees may be over: nobody is refused for that.
    fake.set_barriers(Mode::Refuse(Refused::NoLeader));
    let unsure = server.ask("POST /v1/lock/a/b", "", "{\"ttl\": \"10s\"}").await;
    unsure.assert_problem(503, "no-leader", "not_applied");
    fake.set_barriers(Mode::Serve);
    server.ask(&format!("DELETE /v1/lock/a/b?token={}", held["token"]), "", "").await;
    lock(&server, "{\"lease\": 77}").await;
}

/// What was held before costs nothing: only what changed since the last look is looked at.
#[tokio::test]
async fn a_look_at_a_lock_passes_by_no_claims_that_are_over() {
    let (fake, server) = start().await;
    for number in 0..3_000_u64 {
        let key = Bytes::from([b"_synod/lock/a/b\0", format!("{number:016x}").as_bytes()].concat());
        let (condition, want_previous) = (Condition::Always, false);
        let value = Bytes::from_static(b"{}");
        let put = Operation::Put { key: key.clone(), value, condition, want_previous };
        for operation in [put, Operation::Delete { key, condition, want_previous }] {
            let command = Command { idempotency: None, operation };
            fake.write(command, Instant::now()).await.unwrap();
        }
    }
    let look = async || {
        let before = fake.reads();
        let held = server.ask("GET /v1/lock/a/b", "", "").await.json()["held"].clone();
        (held, fake.reads() - before)
    };
    let (held, first) = look().await;
    assert_eq!(held, false);
    assert!(first > 2, "{first}: or there are too few claims to tell");
    assert_eq!(look().await, (json!(false), 1));
    let token = lock(&server, "{\"ttl\": \"10s\"}").await["token"].clone();
    assert_eq!(look().await, (json!(true), 1));
    // So much that a listing is cheaper, which is known beforehand.
    for number in 0..9_000_u64 {
        let (condition, want_previous) = (Condition::Always, false);
        let (key, value) = (Bytes::from(number.to_string()), Bytes::new());
        let operation = Operation::Put { key, value, condition, want_previous };
        let command = Command { idempotency: None, operation };
        fake.write(command, Instant::now()).await.unwrap();
    }
    let (held, again) = look().await;
    assert!(held == true && again.abs_diff(first) <= 1, "{again} of {first}");
    server.ask(&format!("DELETE /v1/lock/a/b?token={token}"), "", "").await;
    // What changed is forgotten.
    let operation = Operation::Compact { revision: fake.revision() };
    fake.write(Command { idempotency: None, operation }, Instant::now()).await.unwrap();
    assert_eq!(look().await.0, false);
}

#[tokio::test]
async fn waiters_are_served_in_their_order_also_when_one_in_between_leaves() {
    let (fake, server) = start().await;
    let first = lock(&server, "{\"ttl\": \"10s\"}").await;
    let mut second = wait_for_lock(&fake, &server, "", 2).await;
    let third = wait_for_lock(&fake, &server, "", 3).await;
    let mut fourth = wait_for_lock(&fake, &server, "", 4).await;
    let look = server.ask("GET /v1/lock/a/b", "", "").await.json();
    assert_eq!((&look["token"], &look["waiters"]), (&first["token"], &json!(3)));
    // A client goes away, and its claim and lease with it.
    drop(third);
    wait_for_claims(&fake, 3).await;
    let token = first["token"].as_u64().unwrap();
    server.ask(&format!("DELETE /v1/lock/a/b?token={token}"), "", "").await;
    let second = second.answer().await.json();
    assert!(second["token"].as_u64() > first["token"].as_u64());
    let look = server.ask("GET /v1/lock/a/b", "", "").await.json();
    assert_eq!((&look["token"], &look["waiters"]), (&second["token"], &json!(1)));
    // The holder dies.
    end_lease(&fake, second["lease"].as_u64().unwrap()).await;
    let fourth = fourth.answer().await.json();
    assert!(fourth["token"].as_u64() > second["token"].as_u64());
    let leases = server.ask("GET /v1/lease", "", "").await.json();
    assert_eq!(leases["leases"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn who_waited_in_vain_is_told_and_leaves_nothing() {
    let (fake, server) = start().await;
    lock(&server, "{\"ttl\": \"10s\"}").await;
    for (headers, wait) in [("", "20ms"), ("synod-timeout: 20ms", "30s")] {
        let body = format!("{{\"ttl\": \"10s\", \"wait\": \"{wait}\"}}");
        let late = server.ask("POST /v1/lock/a/b", headers, &body).await;
        late.assert_problem(409, "lock-held", "not_applied");
        wait_for_claims(&fake, 1).await;
    }
}

/// The answer is lost, and the client asks again with what it has: its name, or the token.
#[tokio::test]
async fn a_release_that_comes_again_gets_its_first_outcome() {
    for header in ["", "idempotency-key: n1"] {
        let (fake, server) = start().await;
        let held = lock(&server, "{\"ttl\": \"10s\"}").await;
        let token = held["token"].as_u64().unwrap();
        let release = format!("DELETE /v1/lock/a/b?token={token}");
        fake.set_next_writes(&[Mode::ServeAndLose]);
        let lost = server.ask(&release, header, "").await;
        lost.assert_problem(503, "outcome-unknown", "unknown");
        // Somebody else has it by now, and keeps it.
        let other = lock(&server, "{\"ttl\": \"10s\"}").await;
        for _ in 0..2 {
            let again = server.ask(&release, header, "").await;
            assert_eq!(again.status, 200, "{again:?}");
            assert_eq!(
                (&again.json()["lease"], &again.json()["token"]),
                (&held["lease"], &held["token"])
            );
            assert_eq!(again.headers.contains_key("synod-idempotency-expires"), !header.is_empty());
        }
        let own = format!("GET /v1/lease/{}", held["lease"]);
        assert_eq!(server.ask(&own, "", "").await.status, 404, "it went with the second attempt");
        let look = server.ask("GET /v1/lock/a/b", "", "").await.json();
        assert_eq!(look["token"], other["token"]);
    }
}

/// Nobody else can have the id of a lease that was made for a lock.
#[tokio::test]
async fn a_release_that_comes_again_ends_no_other_lease() {
    let (_, server) = start().await;
    let first = lock(&server, "{\"ttl\": \"10s\"}").await;
    let release = format!("DELETE /v1/lock/a/b?token={}", first["token"]);
    let released = server.ask(&release, "", "").await;
    assert_eq!(released.status, 200, "{released:?}");
    let grant = json!({"ttl": "10s", "id": first["lease"]}).to_string();
    let chosen = server.ask("POST /v1/lease", "", &grant).await;
    chosen.assert_problem(400, "bad-member", "not_applied");
    let second = lock(&server, "{\"ttl\": \"10s\"}").await;
    let again = server.ask(&release, "", "").await;
    assert_eq!((again.status, again.json()), (200, released.json()));
    let look = server.ask("GET /v1/lock/a/b", "", "").await.json();
    assert_eq!((&look["held"], &look["token"]), (&json!(true), &second["token"]));
    let nothing = server.ask("DELETE /v1/lock/a/b?token=0", "", "").await;
    nothing.assert_problem(400, "bad-query", "not_applied");
}

/// Both ask under one lease, so they have one claim. Nobody can tell whether the node that made it
/// still lives, so it is taken back by whoever gives up, and who still waits gets a new place.
#[tokio::test]
async fn who_only_found_a_claim_takes_it_back_and_who_waits_claims_anew() {
    let (fake, server) = start().await;
    let held = lock(&server, "{\"ttl\": \"10s\"}").await;
    let grant = "{\"ttl\": \"10s\", \"id\": 77}";
    assert_eq!(server.ask("POST /v1/lease", "", grant).await.status, 201);
    let mut waits = server.connect().await;
    let body = "{\"lease\": 77, \"wait\": \"30s\"}";
    waits.send(request("POST /v1/lock/a/b", "", body)).await;
    wait_for_claims(&fake, 2).await;
    let first_place = fake.revision();
    let late = server.ask("POST /v1/lock/a/b", "", "{\"lease\": 77}").await;
    late.assert_problem(409, "lock-held", "not_applied");
    wait_for_claims(&fake, 2).await;
    server.ask(&format!("DELETE /v1/lock/a/b?token={}", held["token"]), "", "").await;
    let got = waits.answer().await;
    assert_eq!(got.status, 200, "{got:?}");
    assert!(got.json()["token"].as_u64() > Some(first_place.0), "{got:?}");
}

const KEY_OF_77: &[u8] = b"_synod/lock/a/b\x00000000000000004d";

/// Puts the claim of lease 77 as the node of a call does.
async fn claim_by_hand(fake: &Fake) {
    let (key, value) = (Bytes::from_static(KEY_OF_77), Bytes::from_static(b"{\"own\":false}"));
    let lease = Some(LeaseId(77));
    let put = TxnOperation::Put { key, value, lease, want_previous: false };
    let txn = Txn { success: vec![put], ..Txn::default() };
    let command = Command { idempotency: None, operation: Operation::Txn(txn) };
    fake.write(command, Instant::now()).await.unwrap();
}

/// The node that made the claim died. Its client asks again elsewhere, and gives up.
#[tokio::test]
async fn a_claim_of_a_node_that_is_gone_does_not_stay_in_the_line() {
    let (fake, server) = start().await;
    let held = lock(&server, "{\"ttl\": \"10s\"}").await;
    server.ask("POST /v1/lease", "", "{\"ttl\": \"10s\", \"id\": 77}").await;
    claim_by_hand(&fake).await;
    let late = server.ask("POST /v1/lock/a/b", "", "{\"lease\": 77}").await;
    late.assert_problem(409, "lock-held", "not_applied");
    assert_eq!(claims(&fake), 1);
    server.ask(&format!("DELETE /v1/lock/a/b?token={}", held["token"]), "", "").await;
    lock(&server, "{\"ttl\": \"10s\"}").await;
}

/// The node of the first attempt hears of nothing while the second one holds the lock and lets it go.
#[tokio::test]
async fn an_attempt_that_hung_does_not_take_what_another_one_let_go() {
    let (fake, server) = start().await;
    let held = lock(&server, "{\"ttl\": \"10s\"}").await;
    server.ask("POST /v1/lease", "", "{\"ttl\": \"10s\", \"id\": 77}").await;
    let mut hangs = server.connect().await;
    hangs.send(request("POST /v1/lock/a/b", "", "{\"lease\": 77, \"wait\": \"30s\"}")).await;
    wait_for_claims(&fake, 2).await;
    // It waits for the next change.
    fake.waiting(1).await;
    // All of it at once, so that the call sees nothing in between.
    claim_by_hand(&fake).await;
    let (condition, want_previous) = (Condition::Always, false);
    for key in [Bytes::copy_from_slice(KEY_OF_77), holder_key(&fake)] {
        let operation = Operation::Delete { key, condition, want_previous };
        let command = Command { idempotency: None, operation };
        fake.write(command, Instant::now()).await.unwrap();
    }
    let ended = hangs.answer().await;
    ended.assert_problem(409, "lock-held", "not_applied");
    assert!(ended.json()["detail"].as_str().unwrap().contains("not held so any more"), "{ended:?}");
    assert_eq!(claims(&fake), 0, "{held}");
}

fn holder_key(fake: &Fake) -> Bytes {
    let all = fake.read(|map| Ok(read::list(map, &ListQuery::prefix(b"_synod/"))?)).unwrap();
    let entries = all.entries.into_iter();
    entries.min_by_key(|entry| entry.record.create_revision).expect("somebody holds").key
}

async fn leases(server: &Server) -> usize {
    let leases = server.ask("GET /v1/lease", "", "").await.json();
    leases["leases"].as_array().unwrap().len()
}

/// A lease that was made for a lock ends with it, also under a name, and with the wait that was in vain.
#[tokio::test]
async fn a_named_lock_that_is_let_go_leaves_no_lease_behind() {
    let (fake, server) = start().await;
    let body = "{\"ttl\": \"10s\", \"wait\": \"20ms\"}";
    let held = server.ask("POST /v1/lock/a/b", "idempotency-key: n1", body).await;
    assert_eq!(held.status, 200, "{held:?}");
    let late = server.ask("POST /v1/lock/a/b", "idempotency-key: n2", body).await;
    late.assert_problem(409, "lock-held", "not_applied");
    assert_eq!((claims(&fake), leases(&server).await), (1, 1));
    let release = format!("DELETE /v1/lock/a/b?token={}", held.json()["token"]);
    assert_eq!(server.ask(&release, "", "").await.status, 200);
    assert_eq!((claims(&fake), leases(&server).await), (0, 0));
    // Asked again under its name it is taken.
    let again = server.ask("POST /v1/lock/a/b", "idempotency-key: n2", body).await;
    assert_eq!((again.status, leases(&server).await), (200, 1), "{again:?}");
}

/// Two attempts under a name: the one that gives up ends their lease when the other one claims anew, is
/// told and counts on it.
#[tokio::test]
async fn an_attempt_that_gives_up_ends_no_lease_of_another_that_holds() {
    let (fake, server) = start().await;
    fake.keep_time();
    let name = "idempotency-key: n1";
    let held = lock(&server, "{\"ttl\": \"10s\"}").await;
    let waits = wait_for_lock(&fake, &server, name, 2).await;
    let id = LeaseId(held["lease"].as_u64().unwrap() + 1);
    let find = |map: &MemoryMap| Ok((lease::epoch(map)?, lease::find(map, id)?));
    let (epoch, shared) = fake.read(find).unwrap();
    let renewals = shared.expect("the lease of who waits").renewals;
    // The client goes. Its claim is withdrawn, and what ends its lease is still on its way.
    let seen = fake.writes_seen();
    fake.set_next_writes(&[Mode::Serve, Mode::Refuse(Refused::Deadline)]);
    drop(waits);
    fake.saw_writes(seen + 2).await;
    assert_eq!((claims(&fake), leases(&server).await), (1, 2));
    server.ask(&format!("DELETE /v1/lock/a/b?token={}", held["token"]), "", "").await;
    let body = "{\"ttl\": \"10s\", \"wait\": \"30s\"}";
    let again = server.ask("POST /v1/lock/a/b", name, body).await;
    assert_eq!((again.status, &again.json()["lease"]), (200, &json!(id.0)), "{again:?}");
    // It comes late.
    let operation = Operation::Lease(LeaseOperation::Expire { id, epoch, renewals });
    fake.write(Command { idempotency: None, operation }, Instant::now()).await.unwrap();
    assert_eq!((claims(&fake), leases(&server).await), (1, 1));
}

/// Nobody knows of a lease that is granted when its client is gone.
#[tokio::test]
async fn a_lease_that_is_granted_to_nobody_is_ended() {
    for line in ["POST /v1/lock/a/b", "PUT /v1/kv/a?ttl=10s"] {
        let (fake, server) = start().await;
        fake.set_writes(Mode::Hang);
        let mut raw = server.connect().await;
        raw.send(request(line, "", "{\"ttl\": \"10s\"}")).await;
        fake.waiting(1).await;
        drop(raw);
        // Until the server has seen that the client is gone.
        loop {
            let metrics = server.ask("GET /metrics", "", "").await.body;
            if String::from_utf8(metrics).unwrap().contains("synod_http_connections 1\n") {
                break;
            }
        }
        fake.set_writes(Mode::Serve);
        fake.saw_writes(2).await;
        while leases(&server).await > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(fake.operations().len(), 2, "{line}: {:?}", fake.operations());
    }
}

/// What can't be let go now may be later.
#[tokio::test]
async fn a_refused_release_is_no_outcome_for_good_unless_the_claim_is_gone() {
    let (fake, server) = start().await;
    let early = server.ask("DELETE /v1/lock/a/b?token=2", "", "").await;
    early.assert_problem(409, "lock-not-held", "not_applied");
    let first = lock(&server, "{\"ttl\": \"10s\"}").await;
    let mut second = wait_for_lock(&fake, &server, "", 2).await;
    let name = "idempotency-key: n1";
    for header in ["", name] {
        let waits = server.ask("DELETE /v1/lock/a/b?token=3", header, "").await;
        waits.assert_problem(409, "lock-not-held", "not_applied");
    }
    end_lease(&fake, first["lease"].as_u64().unwrap()).await;
    let token = second.answer().await.json()["token"].as_u64().unwrap();
    assert_eq!(token, 3, "or the test tried another one");
    let gone = server.ask(&format!("DELETE /v1/lock/a/b?token={}", first["token"]), "", "").await;
    gone.assert_problem(409, "lock-not-held", "not_applied");
    assert_eq!(server.ask("DELETE /v1/lock/a/b?token=3", name, "").await.status, 200);
}

/// The node can't write when a waiter goes, and is asked again until it can.
#[tokio::test]
async fn a_waiter_that_left_leaves_no_claim_though_its_first_withdrawal_failed() {
    for failed in [Mode::Refuse(Refused::NoLeader), Mode::Refuse(Refused::Deadline)] {
        let (fake, server) = start().await;
        lock(&server, "{\"ttl\": \"10s\"}").await;
        let waits = wait_for_lock(&fake, &server, "", 2).await;
        let seen = fake.writes_seen();
        fake.set_next_writes(&[failed, failed]);
        drop(waits);
        let gone = async {
            fake.saw_writes(seen + 3).await;
            wait_for_claims(&fake, 1).await;
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), gone).await.expect("it goes");
    }
}

/// The time to live that the answer says is that of a renewal after the wait.
#[tokio::test]
async fn the_lease_of_what_is_held_is_renewed_for_its_full_time() {
    let (fake, server) = start().await;
    server.ask("POST /v1/lease", "", "{\"ttl\": \"10s\", \"id\": 50}").await;
    let automatic = LeaseId::AUTOMATIC_FIRST.0;
    for (body, id) in [("{\"lease\": 50}", 50), ("{\"ttl\": \"10s\", \"lease\": null}", automatic)]
    {
        let held = server.ask("POST /v1/lock/a", "", body).await;
        assert_eq!(held.json()["ttl_ms"], 10_000, "{held:?}");
        let renewal = LeaseOperation::KeepAlive { ids: vec![LeaseId(id)] };
        assert_eq!(fake.operations().last(), Some(&Operation::Lease(renewal)));
        let token = &held.json()["token"];
        server.ask(&format!("DELETE /v1/lock/a?token={token}"), "", "").await;
    }
}

#[tokio::test]
async fn asking_again_gives_the_same_token() {
    let (fake, server) = start().await;
    server.ask("POST /v1/lease", "", "{\"ttl\": \"10s\", \"id\": 50}").await;
    let first = lock(&server, "{\"lease\": 50}").await;
    assert_eq!(first, lock(&server, "{\"lease\": 50, \"wait\": \"1s\"}").await);
    let token = &first["token"];
    let released = server.ask(&format!("DELETE /v1/lock/a/b?token={token}"), "", "").await;
    assert_eq!(released.status, 200);
    assert_eq!(server.ask("GET /v1/lease/50", "", "").await.status, 200, "the client's lease");

    let name = "idempotency-key: n1";
    let body = "{\"ttl\": \"10s\", \"wait\": \"30s\"}";
    let first = server.ask("POST /v1/lock/a/b", name, body).await.json();
    let second = server.ask("POST /v1/lock/a/b", name, body).await.json();
    assert_eq!(first, second);
    assert_eq!(claims(&fake), 1);
    // Another lock under the same name is another request.
    let other = server.ask("POST /v1/lock/c", name, body).await;
    other.assert_problem(422, "idempotency-mismatch", "not_applied");
    // A waiter that comes back under its name is served, though its first attempt left.
    let name = "idempotency-key: n2";
    let left = wait_for_lock(&fake, &server, name, 2).await;
    drop(left);
    wait_for_claims(&fake, 1).await;
    let mut back = wait_for_lock(&fake, &server, name, 2).await;
    end_lease(&fake, first["lease"].as_u64().unwrap()).await;
    assert_eq!(back.answer().await.status, 200);
}

#[tokio::test]
async fn a_claim_whose_lease_ends_is_lost() {
    let (fake, server) = start().await;
    lock(&server, "{\"ttl\": \"10s\"}").await;
    server.ask("POST /v1/lease", "", "{\"ttl\": \"10s\", \"id\": 50}").await;
    let mut raw = server.connect().await;
    let body = "{\"lease\": 50, \"wait\": \"30s\"}";
    raw.send(request("POST /v1/lock/a/b", "", body)).await;
    wait_for_claims(&fake, 2).await;
    end_lease(&fake, 50).await;
    raw.answer().await.assert_problem(404, "lease-not-found", "not_applied");
    let gone = server.ask("POST /v1/lock/a/b", "", body).await;
    gone.assert_problem(404, "lease-not-found", "not_applied");
}

#[tokio::test]
async fn waiting_calls_are_limited() {
    let fake = Fake::default();
    let limits = Limits { lock_waits_max: 1, ..Limits::default() };
    let server = Server::start(fake.clone(), limits).await;
    lock(&server, "{\"ttl\": \"10s\"}").await;
    let _waits = wait_for_lock(&fake, &server, "", 2).await;
    let more = server.ask("POST /v1/lock/c", "", "{\"ttl\": \"10s\"}").await;
    more.assert_problem(503, "overloaded", "not_applied");
}

#[tokio::test]
async fn what_a_winner_said_under_a_name_is_not_said_again() {
    let (_, server) = start().await;
    let ask = async |name: &str, body: &str| {
        let headers = format!("idempotency-key: {name}");
        server.ask("POST /v1/election/boss", &headers, body).await
    };
    let first = "{\"ttl\": \"10s\", \"value\": \"one\"}";
    let won = ask("a", first).await.json();
    let under = |value: &str| format!("{{\"lease\": {}, \"value\": \"{value}\"}}", won["lease"]);
    assert_eq!(ask("b", &under("two")).await.json()["token"], won["token"]);
    assert_eq!(ask("c", &under("three")).await.status, 200);
    for (name, late) in [("a", first.to_owned()), ("b", under("two")), ("c", under("three"))] {
        assert_eq!(ask(name, &late).await.json(), won, "{name}");
        let look = server.ask("GET /v1/election/boss", "", "").await.json();
        assert_eq!(look["value"], "three", "{name}");
    }
    ask("c", &under("four")).await.assert_problem(422, "idempotency-mismatch", "not_applied");
    // It was let go: under its name it is claimed once more, and said.
    let line = format!("DELETE /v1/election/boss?token={}", won["token"]);
    assert_eq!(server.ask(&line, "", "").await.status, 200);
    let again = ask("a", first).await.json();
    assert!(again["token"].as_u64() > won["token"].as_u64(), "{again}");
    let look = server.ask("GET /v1/election/boss", "", "").await.json();
    assert_eq!(look["value"], "one");
}

async fn shown(server: &Server) -> Value {
    server.ask("GET /v1/election/boss", "", "").await.json()
}

#[tokio::test]
async fn an_election_has_one_winner_who_says_something() {
    let (fake, server) = start().await;
    let ask = |body: &'static str| server.ask("POST /v1/election/boss", "", body);
    let won = ask("{\"ttl\": \"10s\", \"value\": \"node 1\"}").await.json();
    let look = server.ask("GET /v1/election/boss", "", "").await.json();
    assert_eq!((&look["token"], &look["value"]), (&won["token"], &json!("node 1")));
    let lost = ask("{\"ttl\": \"10s\", \"value\": \"node 2\"}").await;
    lost.assert_problem(409, "lock-held", "not_applied");
    // The winner may say something else.
    let body = format!("{{\"lease\": {}, \"value\": \"node 1 again\"}}", won["lease"]);
    let again = server.ask("POST /v1/election/boss", "", &body).await.json();
    assert_eq!(again["token"], won["token"]);
    let look = server.ask("GET /v1/election/boss", "", "").await.json();
    assert_eq!(look["value"], "node 1 again");
    let mut raw = server.connect().await;
    let body = "{\"ttl\": \"10s\", \"wait\": \"30s\", \"value\": \"node 2\"}";
    raw.send(request("POST /v1/election/boss", "", body)).await;
    wait_for_claims(&fake, 2).await;
    let line = format!("DELETE /v1/election/boss?token={}", won["token"]);
    assert_eq!(server.ask(&line, "", "").await.status, 200);
    assert_eq!(raw.answer().await.status, 200);
    let held = shown(&server).await;
    assert_eq!(held["value"], "node 2");
    // What is no text is said and shown in base64; what is, as text.
    for (given, member, value) in [("/w==", "value_base64", "/w=="), ("bm9kZQ==", "value", "node")]
    {
        let body = format!("{{\"lease\": {}, \"value_base64\": \"{given}\"}}", held["lease"]);
        assert_eq!(server.ask("POST /v1/election/boss", "", &body).await.status, 200);
        assert_eq!(shown(&server).await[member], value);
    }
    assert_eq!(server.ask("GET /v1/lock/boss", "", "").await.json()["held"], false);
}
