//! Leases, locks and elections: what is kept, what is told when it is lost, and what is left
//! behind.

mod world;

use std::time::Duration;

use synod_api::{Limits, Refused};
use synod_client::{
    Attach, ClaimOptions, Client, ClientError, LeaseId, LeaseLost, ListOptions, ProblemKind,
    PutOptions, ReadOptions, Revision,
};
use synod_kv::{LeaseOperation, Operation};
use world::fake::{Fake, Mode};
use world::{Script, answer, client, cutting, serve, write};

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
    let granted = client.grant(minute, Some(LeaseId(7))).await.unwrap();
    assert_eq!((granted.id, granted.ttl), (LeaseId(7), minute));
    let error = client.grant(minute, Some(LeaseId(7))).await.unwrap_err();
    let ClientError::Refused(problem) = error else { panic!("{error:?}") };
    assert_eq!(problem.kind(), Some(ProblemKind::LeaseExists));
    let other = client.grant(Duration::from_millis(1_500), None).await.unwrap().id;

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
    assert_eq!(client.revoke(LeaseId(7)).await.unwrap().unwrap().deleted, 2);
    assert_eq!(client.get(b"a", &ReadOptions::default()).await.unwrap(), None);
    assert_eq!(client.revoke(LeaseId(7)).await.unwrap(), None);
    assert_eq!(client.keep_alive(LeaseId(7)).await.unwrap(), None);
    assert_eq!(client.lease(LeaseId(7), &ReadOptions::default()).await.unwrap(), None);
    let error = client.put(b"a", "v", &under).await.unwrap_err();
    let ClientError::Refused(problem) = error else { panic!("{error:?}") };
    assert_eq!(problem.kind(), Some(ProblemKind::LeaseNotFound));
    for wrong in [client.delete(b"c", &under).await.map(|_| ()).unwrap_err(), {
        let ttl = Duration::from_nanos(1_500_000_001);
        client.grant(ttl, None).await.map(|_| ()).unwrap_err()
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
    assert!(client.lock(b"a/b \xff", &ClaimOptions::default()).await.unwrap().is_none());
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
    client.revoke(lock.lease()).await.unwrap();
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
    assert_eq!((told.token, told.value.as_deref()), (first.token(), Some("10.0.0.7")));
    assert!(client.campaign(b"primary", "10.0.0.8", &options).await.unwrap().is_none());
    assert!(first.proclaim("10.0.0.9").await.unwrap());
    let told = observer.next().await.unwrap().unwrap();
    assert_eq!((told.token, told.value.as_deref()), (first.token(), Some("10.0.0.9")));
    assert_eq!(client.leader_of(b"primary").await.unwrap().unwrap().value, told.value);
    first.resign().await.unwrap();
    assert_eq!(observer.next().await.unwrap(), None);
    let second = client.campaign(b"primary", "", &options).await.unwrap().unwrap();
    assert!(second.token() > told.token);
    assert_eq!(observer.next().await.unwrap().unwrap().value.as_deref(), Some(""));
    assert!(client.depose(b"primary", second.token()).await.unwrap());
    // It is not taken back by who lost it.
    assert!(!second.proclaim("again").await.unwrap());
    assert_eq!(client.leader_of(b"primary").await.unwrap(), None);
    assert_eq!(second.lost().await, LeaseLost::LetGo);
    client.revoke(second.lease()).await.unwrap();
    assert!(!second.proclaim("again").await.unwrap());
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
    let server = Script::start(vec![granted(7), over(), over()]).await;
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
    tokio::time::sleep(SHORT * 2).await;
    fake.set_writes(Mode::Serve);
    first.release().await.unwrap();
    assert!(waiting.await.unwrap().is_held());
}
