//! Leases, locks and elections: what is kept, what is told when it is lost, and what is left
//! behind.

use std::time::Duration;

use crate::world::fake::{Fake, Mode};
use crate::world::held::Held;
use crate::world::{Script, answer, client, cutting, serve, write};
use synod_api::{Limits, Refused};
use synod_client::{
    Attach, ClaimOptions, Client, ClientError, ClientOptions, LeaseId, LeaseLost, ListOptions,
    ProblemKind, PutOptions, ReadOptions, Revision, WriteOptions,
};
use synod_kv::{LeaseOperation, Operation};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// So short that a test sees the end of it, and so long that a loaded machine renews it in time.
const SHORT: Duration = Duration::from_secs(2);

async fn start() -> (Fake, Client) {
    let fake = Fake::default();
    let limits = Limits { lease_ttl_ms_min: 1, ..Limits::default() };
    let url = serve(&fake, limits).await;
    let client = client(&[&url]);
    (fake, client)
}

fn count(fake: &Fake, is: impl Fn(&LeaseOperation) -> bool) -> usize {
    let of_lease = |operation: &Operation| match operation {
        Operation::Lease(operation) => is(operation),
        _ => false,
    };
    fake.operations().iter().filter(|operation| of_lease(operation)).count()
}

fn renewals(fake: &Fake) -> usize {
    count(fake, |operation| matches!(operation, LeaseOperation::KeepAlive { .. }))
}

fn revocations(fake: &Fake) -> usize {
    count(fake, |operation| matches!(operation, LeaseOperation::Revoke { .. }))
}

/// Waits for something that writes bring about.
async fn until(fake: &Fake, mut holds: impl FnMut() -> bool) {
    while !holds() {
        let seen = fake.writes_seen();
        if holds() {
            return;
        }
        fake.saw_writes(seen + 1).await;
        tokio::task::yield_now().await;
    }
}

async fn revoke(fake: &Fake, id: LeaseId) {
    write(fake, Operation::Lease(LeaseOperation::Revoke { id })).await;
}

fn wait(wait: Option<Duration>) -> ClaimOptions {
    ClaimOptions { wait, ..ClaimOptions::default() }
}

#[tokio::test]
async fn a_lease_goes_through_its_life_with_its_keys() {
    let (_, client) = start().await;
    let minute = Duration::from_secs(60);
    let granted = client.grant(minute, Some(LeaseId(7)), &WriteOptions::default()).await.unwrap();
    assert_eq!((granted.id, granted.ttl), (LeaseId(7), minute));
    let error = client.grant(minute, Some(LeaseId(7)), &WriteOptions::default()).await.unwrap_err();
    let ClientError::Refused(problem) = error else { panic!("{error:?}") };
    assert_eq!(problem.kind(), Some(ProblemKind::LeaseExists));
    let other = client
        .grant(Duration::from_millis(1_500), None, &WriteOptions::default())
        .await
        .unwrap()
        .id;

    let under = PutOptions::under(LeaseId(7));
    assert_eq!(client.put(b"a", "v", &under).await.unwrap().lease, Some(LeaseId(7)));
    client.put(b"\xff/b", "v", &under).await.unwrap();
    let found = client.get(b"a", &ReadOptions::default()).await.unwrap().unwrap();
    assert_eq!(found.lease, Some(LeaseId(7)));
    let own = PutOptions { attach: Attach::Own { ttl: minute }, ..PutOptions::default() };
    let own = client.put(b"c", "v", &own).await.unwrap().lease.unwrap();
    assert!(own != LeaseId(7) && own != other);
    client.put(b"d", "v", &PutOptions::default()).await.unwrap();
    let page = client.list(&ListOptions::prefix("")).await.unwrap();
    let said: Vec<_> = page.entries.iter().map(|entry| entry.record.lease).collect();
    assert_eq!(said, [Some(LeaseId(7)), Some(own), None, Some(LeaseId(7))]);

    let info = client.lease(LeaseId(7), &ReadOptions::default()).await.unwrap().unwrap();
    assert_eq!((info.ttl, info.is_ending), (minute, false));
    assert_eq!(info.keys, [b"a".as_slice(), b"\xff/b"]);
    let (mut leases, mut from) = (Vec::new(), LeaseId(0));
    loop {
        let page = client.leases(from, 2).await.unwrap();
        leases.extend(page.leases.iter().map(|lease| lease.id));
        let Some(next) = page.next else { break };
        from = next;
    }
    let mut expected = [LeaseId(7), other, own];
    expected.sort();
    assert_eq!(leases, expected);

    assert_eq!(client.keep_alive(LeaseId(7)).await.unwrap(), Some(minute));
    let ids = [own, LeaseId(99), LeaseId(7)];
    let kept = client.keep_alive_all(&ids).await.unwrap();
    assert_eq!(kept, [Some(minute), None, Some(minute)]);
    assert_eq!(
        client.revoke(LeaseId(7), &WriteOptions::default()).await.unwrap().unwrap().deleted,
        2
    );
    assert_eq!(client.get(b"a", &ReadOptions::default()).await.unwrap(), None);
    assert_eq!(client.revoke(LeaseId(7), &WriteOptions::default()).await.unwrap(), None);
    assert_eq!(client.keep_alive(LeaseId(7)).await.unwrap(), None);
    assert_eq!(client.lease(LeaseId(7), &ReadOptions::default()).await.unwrap(), None);
    let error = client.put(b"a", "v", &under).await.unwrap_err();
    let ClientError::Refused(problem) = error else { panic!("{error:?}") };
    assert_eq!(problem.kind(), Some(ProblemKind::LeaseNotFound));
    for wrong in [client.delete(b"c", &under).await.map(|_| ()).unwrap_err(), {
        let ttl = Duration::from_nanos(1_500_000_001);
        client.grant(ttl, None, &WriteOptions::default()).await.map(|_| ()).unwrap_err()
    }] {
        assert!(matches!(wrong, ClientError::Invalid { .. }), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_kept_lease_is_renewed_until_it_is_closed() {
    let (fake, client) = start().await;
    let keeper = client.grant_kept(SHORT).await.unwrap();
    until(&fake, || renewals(&fake) >= 3).await;
    assert!(keeper.is_held());
    let id = keeper.id();
    keeper.close().await.unwrap();
    assert_eq!(client.keep_alive(id).await.unwrap(), None);

    // Dropped it is ended as well, a little later; left it is not, nor is somebody else's.
    let seen = revocations(&fake);
    drop(client.grant_kept(SHORT).await.unwrap());
    until(&fake, || revocations(&fake) == seen + 1).await;
    let left = client.grant_kept(SHORT).await.unwrap();
    let id = left.id();
    left.leave();
    let keeper = client.keep(id).await.unwrap().unwrap();
    let seen = renewals(&fake);
    until(&fake, || renewals(&fake) > seen + 1).await;
    drop(keeper);
    assert!(client.keep_alive(id).await.unwrap().is_some());
    assert!(client.keep(LeaseId(99)).await.unwrap().is_none());
    assert_eq!(revocations(&fake), 2);
}

#[tokio::test]
async fn a_lease_that_is_over_is_told_as_lost() {
    let (fake, client) = start().await;
    let keeper = client.grant_kept(SHORT).await.unwrap();
    revoke(&fake, keeper.id()).await;
    assert_eq!(keeper.lost().await, LeaseLost::Over);
    assert!(!keeper.is_held());
    // There is nothing to end then.
    drop(keeper);
    assert_eq!(revocations(&fake), 1);
}

#[tokio::test]
async fn a_lease_that_nobody_confirms_is_told_as_lost_in_its_time() {
    for mode in [Mode::Refuse(Refused::NoLeader), Mode::Refuse(Refused::Lost), Mode::Hang] {
        let (fake, client) = start().await;
        let before = tokio::time::Instant::now();
        let keeper = client.grant_kept(SHORT).await.unwrap();
        until(&fake, || renewals(&fake) >= 1).await;
        assert!(keeper.is_held() || before.elapsed() > SHORT);
        fake.set_writes(mode);
        let lost = keeper.lost().await;
        assert!(matches!(lost, LeaseLost::Unconfirmed { .. }), "{lost:?}");
        assert!(!keeper.is_held());
        fake.set_writes(Mode::Serve);
        keeper.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_lease_outlives_refusals_that_pass() {
    let (fake, client) = start().await;
    let long = Duration::from_secs(3);
    let keeper = client.grant_kept(long).await.unwrap();
    let seen = fake.writes_seen();
    fake.set_writes(Mode::Refuse(Refused::NoLeader));
    fake.saw_writes(seen + 3).await;
    fake.set_writes(Mode::Serve);
    until(&fake, || renewals(&fake) >= 1).await;
    assert!(keeper.is_held());
}

#[tokio::test]
async fn a_lock_is_held_by_one_at_a_time_with_rising_tokens() {
    let (fake, client) = start().await;
    let first = client.lock(b"a/b \xff", &ClaimOptions::default()).await.unwrap().unwrap();
    assert!(first.is_held());
    let holder = client.lock_holder(b"a/b \xff").await.unwrap().unwrap();
    assert_eq!((holder.token, holder.lease, holder.waiters), (first.token(), first.lease(), 0));
    let writes = fake.writes_seen();
    assert!(client.lock(b"a/b \xff", &ClaimOptions::default()).await.unwrap().is_none());
    assert_eq!(fake.writes_seen(), writes, "nothing was waited for, so nothing was claimed");
    let short = wait(Some(Duration::from_millis(1)));
    assert!(client.lock(b"a/b \xff", &short).await.unwrap().is_none());
    // The lease of the one that was not served is gone, and so is its claim.
    assert_eq!(client.leases(LeaseId(0), 9).await.unwrap().leases.len(), 1);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.lock(b"a/b \xff", &wait(None)).await.unwrap().unwrap() }
    });
    let waits = async {
        loop {
            let holder = client.lock_holder(b"a/b \xff").await.unwrap().unwrap();
            if holder.waiters == 1 {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    waits.await;
    let token = first.token();
    first.release().await.unwrap();
    let second = waiting.await.unwrap();
    assert!(second.token() > token);
    // Dropped it comes free, too.
    let seen = revocations(&fake);
    drop(second);
    until(&fake, || revocations(&fake) > seen).await;
    assert_eq!(client.lock_holder(b"a/b \xff").await.unwrap(), None);
    let error = client.lock(b"", &ClaimOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid { .. }), "{error:?}");
}

#[tokio::test]
async fn a_lock_that_somebody_else_let_go_is_told_as_lost() {
    let (_, client) = start().await;
    let options = ClaimOptions { ttl: SHORT, ..ClaimOptions::default() };
    let lock = client.lock(b"l", &options).await.unwrap().unwrap();
    assert!(!client.unlock(b"l", Revision(lock.token().0 + 1)).await.unwrap());
    assert!(client.unlock(b"l", lock.token()).await.unwrap());
    assert_eq!(lock.lost().await, LeaseLost::LetGo);
    assert!(!lock.is_held());
    let lock = client.lock(b"l", &options).await.unwrap().unwrap();
    client.revoke(lock.lease(), &WriteOptions::default()).await.unwrap();
    assert_eq!(lock.lost().await, LeaseLost::Over);
}

#[tokio::test]
async fn a_lock_whose_answers_are_cut_off_is_taken_once() {
    let fake = Fake::default();
    let node = serve(&fake, Limits::default()).await;
    // Grant, claim and release each lose two answers.
    let (url, _) = cutting(&node, |number| if number % 3 == 2 { usize::MAX } else { 20 }).await;
    let client = client(&[&url]);
    for _ in 0..4 {
        let lock = client.lock(b"l", &ClaimOptions::default()).await.unwrap().unwrap();
        let holder = client.lock_holder(b"l").await.unwrap().unwrap();
        assert_eq!((holder.token, holder.waiters), (lock.token(), 0));
        lock.release().await.unwrap();
        assert_eq!(client.leases(LeaseId(0), 9).await.unwrap().leases, []);
    }
}

#[tokio::test]
async fn an_election_is_won_observed_and_laid_down() {
    let (_, client) = start().await;
    let mut observer = client.observe(b"primary").await.unwrap();
    assert_eq!(observer.next().await.unwrap(), None);
    let options = ClaimOptions { ttl: SHORT, ..ClaimOptions::default() };
    let first = client.campaign(b"primary", "10.0.0.7", &options).await.unwrap().unwrap();
    let told = observer.next().await.unwrap().unwrap();
    assert_eq!((told.token, told.value.as_deref()), (first.token(), Some(&b"10.0.0.7"[..])));
    assert!(client.campaign(b"primary", "10.0.0.8", &options).await.unwrap().is_none());
    assert!(first.proclaim("10.0.0.9").await.unwrap());
    let told = observer.next().await.unwrap().unwrap();
    assert_eq!((told.token, told.value.as_deref()), (first.token(), Some(&b"10.0.0.9"[..])));
    assert_eq!(client.leader_of(b"primary").await.unwrap().unwrap().value, told.value);
    first.resign().await.unwrap();
    assert_eq!(observer.next().await.unwrap(), None);
    let second = client.campaign(b"primary", "", &options).await.unwrap().unwrap();
    assert!(second.token() > told.token);
    assert_eq!(observer.next().await.unwrap().unwrap().value.as_deref(), Some(&b""[..]));
    assert!(client.depose(b"primary", second.token()).await.unwrap());
    // It is not taken back by who lost it.
    assert!(!second.proclaim("again").await.unwrap());
    assert_eq!(client.leader_of(b"primary").await.unwrap(), None);
    assert_eq!(second.lost().await, LeaseLost::LetGo);
    client.revoke(second.lease(), &WriteOptions::default()).await.unwrap();
    assert!(!second.proclaim("again").await.unwrap());
}

/// Between two waits of a few milliseconds, as `select!` makes them in a loop in which something else
/// happens all the time, a node that takes longer to answer is not asked anew.
#[tokio::test]
async fn an_observer_gets_on_though_each_wait_is_short() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut held = Held::default();
    let of_node = held.clone();
    tokio::spawn(async move {
        loop {
            let (mut node, _) = listener.accept().await.unwrap();
            let held = of_node.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let length = node.read(&mut request).await.unwrap_or(0);
                let is_watch = request[..length].starts_with(b"GET /v1/watch");
                if is_watch {
                    node.write_all(BEGINS.as_bytes()).await.unwrap();
                    return std::future::pending::<()>().await;
                }
                held.until_let_go().await;
                let free = answer("200 OK", "", r#"{"held":false,"waiters":0}"#);
                let _ = node.write_all(&free).await;
            });
        }
    });
    let mut observer = client(&[&url]).observe(b"primary").await.unwrap();
    for _ in 0..10_000 {
        let step = Duration::from_millis(1);
        if let Ok(told) = tokio::time::timeout(step, observer.next()).await {
            return assert_eq!(told.unwrap(), None);
        }
        held.was_awaited();
    }
    panic!("it does not get on");
}

const BEGINS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n\
                      id: 4\nevent: progress\ndata: {\"revision\":4}\n\n";

/// A lease that is not renewed while a test runs, and the office that is held under it.
fn elected() -> Vec<Vec<u8>> {
    let free = answer("200 OK", "", r#"{"held":false,"waiters":0}"#);
    let granted = answer("201 Created", "", r#"{"id":7,"ttl_ms":600000,"revision":1}"#);
    vec![free, granted, answer("200 OK", "", HELD)]
}

const HELD: &str = r#"{"lease":7,"token":5,"ttl_ms":600000}"#;

/// The names of the requests that say something.
fn names(server: &Script) -> Vec<String> {
    let name = |head: &String| {
        let line = head.lines().find(|line| line.starts_with("idempotency-key: "));
        line.map(|line| line.trim_start_matches("idempotency-key: ").to_owned())
    };
    let says = |head: &&String| head.starts_with("post /v1/election/");
    server.heads().iter().filter(says).map(|head| name(head).expect("a name")).collect()
}

#[tokio::test]
async fn what_is_said_again_because_its_answer_was_lost_has_the_same_name() {
    let mut answers = elected();
    answers.extend([Vec::new(), answer("200 OK", "", HELD), answer("200 OK", "", HELD)]);
    let server = Script::start(answers).await;
    let client = client(&[&server.url]);
    let office = client.campaign(b"e", "a", &ClaimOptions::default()).await.unwrap().unwrap();
    assert!(office.proclaim("b").await.unwrap());
    assert!(office.proclaim("c").await.unwrap());
    let names = names(&server);
    let [won, lost, again, next] = &names[..] else { panic!("{names:?}") };
    assert_eq!(lost, again);
    assert!(won != lost && next != lost && won != next, "{names:?}");
}

#[tokio::test]
async fn what_may_still_be_said_is_settled_before_anything_else_is_said() {
    let mut answers = elected();
    answers.extend([Vec::new(), Vec::new()]);
    answers.extend([answer("200 OK", "", HELD), answer("200 OK", "", HELD)]);
    let server = Script::start(answers).await;
    let options = ClientOptions { retries_saved_max: 0, ..ClientOptions::default() };
    let client = Client::new([&server.url], options).unwrap();
    let office = client.campaign(b"e", "a", &ClaimOptions::default()).await.unwrap().unwrap();
    for _ in 0..2 {
        // The second time it is still about the first.
        let error = office.proclaim("b").await.unwrap_err();
        assert!(matches!(error, ClientError::Ambiguous { attempts: 1, .. }), "{error:?}");
    }
    assert!(office.proclaim("c").await.unwrap());
    let names = names(&server);
    let [_, first, second, settled, said] = &names[..] else { panic!("{names:?}") };
    assert!(first == second && second == settled && said != first, "{names:?}");
}

#[tokio::test]
async fn a_word_that_comes_late_does_not_take_the_place_of_a_later_one() {
    let fake = Fake::default();
    let node = serve(&fake, Limits::default()).await;
    let client = client(&[&node]);
    let office = client.campaign(b"e", "first", &ClaimOptions::default()).await.unwrap().unwrap();
    // A node that passes requests on twice: the second time when something else was said.
    let say = |name: &'static str, value: &'static str| {
        let (node, lease) = (node.trim_start_matches("http://").to_owned(), office.lease());
        async move {
            let body = format!(r#"{{"lease":{lease},"value":"{value}"}}"#);
            let length = body.len();
            let head = "POST /v1/election/e HTTP/1.1\r\nhost: x\r\nconnection: close";
            let request = format!(
                "{head}\r\nidempotency-key: {name}\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            let mut stream = TcpStream::connect(&node).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    };
    say("once", "second").await;
    assert!(office.proclaim("third").await.unwrap());
    say("once", "second").await;
    let said = || async { client.leader_of(b"e").await.unwrap().unwrap().value };
    assert_eq!(said().await.as_deref(), Some(&b"third"[..]));
    say("twice", "fourth").await;
    assert_eq!(said().await.as_deref(), Some(&b"fourth"[..]));
    assert!(office.proclaim(b"\xff\0").await.unwrap());
    assert_eq!(said().await.as_deref(), Some(&b"\xff\0"[..]));
}

#[tokio::test]
async fn pages_that_do_not_lead_on_are_not_asked_for_for_ever() {
    let lease = |next: &str| {
        let body = format!(
            r#"{{"id":7,"ttl_ms":1000,"granted_ms":1,"keys":[{{"key":"a"}}],"next":"{next}"}}"#
        );
        answer("200 OK", "", &body)
    };
    let is_garbled =
        |error: &ClientError| matches!(error, ClientError::Unreachable { attempts: 1, .. });
    for pages in [vec![lease("b"), lease("b")], vec![lease("b"), lease("a")], vec![lease("")]] {
        let count = pages.len();
        let server = Script::start(pages).await;
        let client = client(&[&server.url]);
        let error = client.lease(LeaseId(7), &ReadOptions::default()).await.unwrap_err();
        assert!(is_garbled(&error) && server.heads().len() == count, "{error:?}");
    }
    let page = r#"{"leases":[{"id":7,"ttl_ms":1000,"granted_ms":1}],"next":7}"#;
    let server = Script::start(vec![answer("200 OK", "", page), answer("200 OK", "", page)]).await;
    let client = client(&[&server.url]);
    assert_eq!(client.leases(LeaseId(3), 9).await.unwrap().next, Some(LeaseId(7)));
    let error = client.leases(LeaseId(7), 9).await.unwrap_err();
    assert!(is_garbled(&error), "{error:?}");

    let start = ListOptions { start: Some("b".into()), ..ListOptions::default() };
    let end = ListOptions { end: Some("b".into()), reverse: true, ..ListOptions::default() };
    for options in [start, end] {
        let page = answer("200 OK", "", r#"{"revision":9,"count":0,"entries":[],"next":"b"}"#);
        let server = Script::start(vec![page]).await;
        let error = crate::world::client(&[&server.url]).list(&options).await.unwrap_err();
        assert!(is_garbled(&error), "{error:?}");
    }
    // Nor are keys deleted for ever that are not there.
    let none = || answer("200 OK", "", r#"{"revision":9,"deleted":0,"more":true}"#);
    let server = Script::start((0..99).map(|_| none()).collect()).await;
    let error = crate::world::client(&[&server.url])
        .delete_all(&WriteOptions::default())
        .await
        .unwrap_err();
    assert!(is_garbled(&error) && server.heads().len() < 99, "{error:?}");
}

#[tokio::test]
async fn a_lock_is_renewed_though_nobody_says_who_holds_it() {
    let (fake, client) = start().await;
    let options = ClaimOptions { ttl: SHORT, ..ClaimOptions::default() };
    let lock = client.lock(b"l", &options).await.unwrap().unwrap();
    // Reads hang from now on, which is no sign that the lock is lost, nor a reason to wait.
    fake.set_barriers(Mode::Hang);
    let seen = renewals(&fake);
    until(&fake, || renewals(&fake) > seen + 2).await;
    assert!(lock.is_held());
}

#[tokio::test]
async fn a_claim_whose_lease_ends_during_the_wait_is_made_under_another() {
    let granted =
        |id: u64| answer("200 OK", "", &format!(r#"{{"id":{id},"ttl_ms":10000,"revision":1}}"#));
    let gone = synod_kv::http::Problem::new(
        ProblemKind::LeaseNotFound,
        "There is no lease 7.",
        synod_kv::http::Effect::NotApplied,
    );
    let gone = serde_json::to_string(&gone).unwrap();
    let over = || answer("404 Not Found", "", &gone);
    let held = answer("200 OK", "", r#"{"lease":8,"token":5,"ttl_ms":10000}"#);
    let server = Script::start(vec![granted(7), over(), over(), granted(8), held]).await;
    let lock = client(&[&server.url]).lock(b"l", &wait(None)).await.unwrap().unwrap();
    assert_eq!((lock.lease(), lock.token()), (LeaseId(8), Revision(5)));
    // When the wait is over, it says so.
    let free = answer("200 OK", "", r#"{"held":false,"waiters":0}"#);
    let server = Script::start(vec![free, granted(7), over(), over()]).await;
    let error = client(&[&server.url]).lock(b"l", &ClaimOptions::default()).await.unwrap_err();
    let ClientError::Refused(problem) = error else { panic!("{error:?}") };
    assert_eq!(problem.kind(), Some(ProblemKind::LeaseNotFound));
}

#[tokio::test]
async fn a_lock_is_not_won_under_a_lease_that_nobody_confirmed() {
    let (fake, client) = start().await;
    let first = client.lock(b"l", &ClaimOptions::default()).await.unwrap().unwrap();
    let waiting = tokio::spawn({
        let client = client.clone();
        let options = ClaimOptions { ttl: SHORT, wait: None };
        async move { client.lock(b"l", &options).await.unwrap().unwrap() }
    });
    while client.lock_holder(b"l").await.unwrap().unwrap().waiters == 0 {
        tokio::task::yield_now().await;
    }
    // Longer than it takes to lose the lease of the one that waits, not that of the holder.
    fake.set_writes(Mode::Refuse(Refused::NoLeader));
    let seen = fake.writes_seen();
    tokio::time::pause();
    tokio::time::advance(SHORT * 2).await;
    tokio::time::resume();
    fake.saw_writes(seen + 1).await;
    fake.set_writes(Mode::Serve);
    first.release().await.unwrap();
    assert!(waiting.await.unwrap().is_held());
}
