//! What makes a write have effect once: the client's session, and what it does when time runs
//! out.

use std::time::Duration;

use crate::world::fake::{Fake, Mode, NODE};
use crate::world::{Script, answer, client, compact, serve};
use synod_api::{Leader, Limits, Refused, Replica};
use synod_client::{
    Client, ClientError, ClientOptions, LeaseId, ProblemKind, PutOptions, ReadOptions, Revision,
    WriteOptions,
};
use synod_kv::http::{Effect, Problem};
use tokio::net::TcpListener;

fn revision(fake: &Fake) -> u64 {
    fake.revision().0
}

#[tokio::test]
async fn a_name_of_the_session_is_not_sent_when_the_cluster_may_have_forgotten_it() {
    let fake = Fake::default();
    let client = client(&[&serve(&fake, Limits::default()).await]);
    let name = client.new_name();
    assert!(name.starts_with(client.session()));
    let named = PutOptions { idempotency_key: Some(name.clone()), ..PutOptions::default() };
    fake.set_writes(Mode::ServeAndLose);
    let once = PutOptions { no_retry: true, ..named.clone() };
    assert!(client.put(b"a", "v", &once).await.unwrap_err().outcome_unknown());
    fake.set_writes(Mode::Serve);
    // In time the first outcome comes back; any clone may ask for it.
    let stored = client.clone().put(b"a", "v", &named).await.unwrap();
    assert_eq!((stored.revision, revision(&fake)), (Revision(1), 1));
    let seen = fake.writes_seen();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(601)).await;
    tokio::time::resume();
    let error = client.put(b"a", "v", &named).await.unwrap_err();
    let ClientError::Ambiguous { attempts: 0, idempotency_key, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!((idempotency_key, fake.writes_seen()), (Some(name), seen));
    // Other writes go on, and so do names of the caller's own.
    client.put(b"a", "w", &PutOptions::default()).await.unwrap();
    let mine = PutOptions { idempotency_key: Some("mine".to_owned()), ..PutOptions::default() };
    client.put(b"a", "x", &mine).await.unwrap();
}

/// Every call that takes a name has effect once under it.
#[tokio::test]
async fn a_lost_answer_comes_back_under_the_name_that_was_given() {
    let fake = Fake::default();
    let client = client(&[&serve(&fake, Limits::default()).await]);
    for key in ["a/1", "a/2", "b"] {
        client.put(key.as_bytes(), "v", &PutOptions::default()).await.unwrap();
    }
    let named = |name: &str| WriteOptions {
        idempotency_key: Some(name.to_owned()),
        ..WriteOptions::default()
    };
    let (minute, lease) = (Duration::from_secs(60), LeaseId(7));
    for name in ["prefix", "all", "grant", "revoke", "compact"] {
        let call = async |options: &WriteOptions| match name {
            "prefix" => client.delete_prefix(b"a/", options).await.map(|done| done.deleted == 2),
            "all" => client.delete_all(options).await.map(|done| done.deleted == 1),
            "grant" => {
                client.grant(minute, Some(lease), options).await.map(|done| done.id == lease)
            }
            "revoke" => client.revoke(lease, options).await.map(|done| done.is_some()),
            _ => client.compact(Revision(2), options).await.map(|done| done.oldest == Revision(2)),
        };
        fake.set_writes(Mode::ServeAndLose);
        let error = call(&WriteOptions { no_retry: true, ..named(name) }).await.unwrap_err();
        let ClientError::Ambiguous { idempotency_key, .. } = error else { panic!("{error:?}") };
        assert_eq!(idempotency_key.as_deref(), Some(name));
        fake.set_writes(Mode::Serve);
        let before = revision(&fake);
        assert_eq!(call(&named(name)).await, Ok(true), "{name}");
        assert_eq!(revision(&fake), before, "{name} had effect twice");
    }
}

#[tokio::test]
async fn each_request_of_a_long_range_delete_has_its_own_name_again() {
    let more = answer("200 OK", "", r#"{"revision":7,"deleted":3,"more":true}"#);
    let last = answer("200 OK", "", r#"{"revision":8,"deleted":1}"#);
    let options = WriteOptions { idempotency_key: Some("mine".to_owned()), no_retry: false };
    let server = Script::start(vec![more.clone(), last.clone(), more.clone(), last]).await;
    for _ in 0..2 {
        let removed = client(&[&server.url]).delete_prefix(b"a", &options).await.unwrap();
        assert_eq!(removed.deleted, 4);
    }
    let name = |head: &String| {
        let line = head.lines().find_map(|line| line.strip_prefix("idempotency-key: "));
        line.unwrap_or_default().to_owned()
    };
    let names: Vec<_> = server.heads().iter().map(name).collect();
    assert_eq!(names, ["mine", "mine/2", "mine", "mine/2"]);
    // What may have happened in part tells the name of the whole.
    let server = Script::start(vec![more, Vec::new()]).await;
    let once = WriteOptions { no_retry: true, ..options.clone() };
    let error = client(&[&server.url]).delete_prefix(b"a", &once).await.unwrap_err();
    let ClientError::Ambiguous { idempotency_key, .. } = error else { panic!("{error:?}") };
    assert_eq!(idempotency_key.as_deref(), Some("mine"));
    let long = WriteOptions { idempotency_key: Some("x".repeat(249)), no_retry: false };
    let error = client(&[&server.url]).delete_prefix(b"a", &long).await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid { .. }), "{error:?}");
}

#[tokio::test]
async fn a_retry_ends_when_the_answer_says_that_the_name_expires() {
    let problem = Problem::new(ProblemKind::Overloaded, "No room.", Effect::Unknown);
    let body = serde_json::to_string(&problem).unwrap();
    let at = |seconds| format!("Mon, 23 Nov 2026 01:50:{seconds:02} GMT");
    let headers =
        |expires| format!("date: {}\r\nsynod-idempotency-expires: {}\r\n", at(10), at(expires));
    let stored = answer("200 OK", "", r#"{"revision":7,"create_revision":7,"version":1}"#);
    // Nine minutes are left, or so: it is sent again.
    let left = answer("503 Service Unavailable", &headers(40), &body);
    let server = Script::start(vec![left, stored.clone()]).await;
    let put = client(&[&server.url]).put(b"a", "v", &PutOptions::default()).await.unwrap();
    assert_eq!((put.revision, server.heads().len()), (Revision(7), 2));
    // None is left.
    let over = answer("503 Service Unavailable", &headers(10), &body);
    let server = Script::start(vec![over, stored]).await;
    let error = client(&[&server.url]).put(b"a", "v", &PutOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Ambiguous { attempts: 1, .. }), "{error:?}");
    assert_eq!(server.heads().len(), 1);
}

#[tokio::test]
async fn a_success_that_no_node_gives_is_not_told_as_without_effect() {
    for status in ["202 Accepted", "304 Not Modified", "307 Temporary Redirect"] {
        let server = Script::start(vec![answer(status, "", ""); 4]).await;
        let client = client(&[&server.url]);
        let errors = [
            client.put(b"a", "v", &PutOptions::default()).await.map(drop).unwrap_err(),
            client.delete(b"a", &PutOptions::default()).await.map(drop).unwrap_err(),
            client.delete_prefix(b"a", &WriteOptions::default()).await.map(drop).unwrap_err(),
            client.compact(Revision(7), &WriteOptions::default()).await.map(drop).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, ClientError::Ambiguous { attempts: 1, .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_backup_that_does_not_begin_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let call_timeout = Duration::from_millis(50);
    let options = ClientOptions { call_timeout, ..ClientOptions::default() };
    let error = Client::new([&url], options).unwrap().backup().await.unwrap_err();
    let ClientError::Unreachable { last, .. } = error else { panic!("{error:?}") };
    assert!(last.contains("did not answer"), "{last}");
}

#[tokio::test]
async fn a_revision_that_is_forgotten_is_told_with_the_oldest_one() {
    let fake = Fake::default();
    let client = client(&[&serve(&fake, Limits::default()).await]);
    for value in ["1", "2", "3"] {
        client.put(b"a", value, &PutOptions::default()).await.unwrap();
    }
    compact(&fake, 3).await;
    let options = ReadOptions { revision: Some(Revision(2)), ..ReadOptions::default() };
    let error = client.get(b"a", &options).await.unwrap_err();
    assert_eq!(error, ClientError::Compacted { oldest: Revision(3) });
}

#[tokio::test]
async fn a_change_of_members_or_leader_that_may_have_happened_is_not_told_as_without_effect() {
    let fake = Fake::default();
    let url = serve(&fake, Limits::default()).await;
    fake.set_leader(Some(Leader::new(NODE, &url)));
    let client = client(&[&url]);
    let status = serde_json::to_string(&client.status().await.unwrap()).unwrap();
    for refused in [Refused::Deadline, Refused::Lost] {
        fake.set_writes(Mode::Refuse(refused));
        let transfer = client.transfer(None).await.unwrap_err();
        let remove = client.remove_member(2, false).await.unwrap_err();
        for error in [transfer, remove] {
            assert!(matches!(error, ClientError::Ambiguous { attempts: 1, .. }), "{error:?}");
        }
    }
    // What certainly had no effect is a refusal still.
    fake.set_writes(Mode::Refuse(Refused::NoLeader));
    let error = client.transfer(None).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused(_)), "{error:?}");
    // A success that can't be read, and an answer that does not come.
    for bad in [answer("200 OK", "", "{}"), Vec::new()] {
        let leads = answer("200 OK", "", &status);
        let server = Script::start(vec![leads.clone(), bad.clone(), leads, bad]).await;
        let client = crate::world::client(&[&server.url]);
        let transfer = client.transfer(None).await.unwrap_err();
        let remove = client.remove_member(2, false).await.unwrap_err();
        for error in [transfer, remove] {
            assert!(matches!(error, ClientError::Ambiguous { attempts: 1, .. }), "{error:?}");
        }
        assert_eq!(server.heads().len(), 4);
    }
}
