//! What makes a write have effect once: the client's session, and what it does when time runs
//! out.

use std::time::Duration;

use crate::world::fake::{Fake, Mode, NODE};
use crate::world::{Script, answer, client, compact, serve};
use synod_api::{Leader, Limits, Refused, Replica};
use synod_client::{
    Client, ClientError, ClientOptions, ProblemKind, PutOptions, ReadOptions, Revision,
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
            client.delete_prefix(b"a").await.map(drop).unwrap_err(),
            client.compact(Revision(7)).await.map(drop).unwrap_err(),
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
