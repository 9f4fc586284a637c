//! Transactions and compactions against the real server over a replica of one.

use std::time::Duration;

use crate::world::fake::{Fake, Mode};
use bytes::Bytes;
use synod_client::{
    Client, ClientError, ClientOptions, Compare, Operation, OperationResult, ProblemKind,
    PutOptions, Relation, Revision, Transaction, TransactionOptions, WriteOptions,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

async fn serve(fake: &Fake) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let limits = synod_api::Limits::default();
    tokio::spawn(synod_api::serve(listener, fake.clone(), limits, std::future::pending()));
    let options = ClientOptions {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        ..ClientOptions::default()
    };
    Client::new([&url], options).unwrap()
}

fn named() -> TransactionOptions {
    TransactionOptions::default()
}

#[tokio::test]
async fn one_branch_is_carried_out_and_its_results_are_typed() {
    let fake = Fake::default();
    let client = serve(&fake).await;
    client.put(b"a", vec![0xff], &PutOptions::default()).await.unwrap();
    let transaction = Transaction::new()
        .when(Compare::value("a", Relation::Equal, vec![0xff]))
        .when(Compare::mod_revision("a", Relation::Less, Revision(2)))
        .when(Compare::create_revision("a", Relation::Equal, Revision(1)))
        .when(Compare::version("a", Relation::NotEqual, 2))
        .when(Compare::lease("a", Relation::Equal, 0))
        .when(Compare::exists("a"))
        .when(Compare::absent("b"))
        .then(Operation::put("a", "new").want_previous())
        .then(Operation::put(vec![0xfe], "x"))
        .then(Operation::get("a"))
        .then(Operation::range("a", None).limit(1).keys_only())
        .then(Operation::delete("b"))
        .otherwise(Operation::delete_all());
    let done = client.transact(&transaction, &named()).await.unwrap();
    assert_eq!((done.revision, done.succeeded, done.attempts), (Revision(2), true, 1));
    let [put, raw, get, range, delete] = &done.results[..] else { panic!("{done:?}") };
    let OperationResult::Put { create_revision, version: 2, previous: Some(old) } = put else {
        panic!("{put:?}")
    };
    assert_eq!((*create_revision, &old.value), (Revision(1), &Some(Bytes::from(vec![0xff]))));
    assert!(matches!(raw, OperationResult::Put { version: 1, previous: None, .. }));
    let OperationResult::Get { record: Some(record) } = get else { panic!("{get:?}") };
    assert_eq!(record.value.as_deref(), Some(b"new".as_slice()));
    let OperationResult::Range { entries, next: Some(next) } = range else { panic!("{range:?}") };
    assert_eq!((entries.len(), &entries[0].record.value), (1, &None));
    assert_eq!(next, &vec![0xfe]);
    assert_eq!(delete, &OperationResult::Delete { existed: false, previous: None });

    // The same again: it does not hold any more.
    let done = client.transact(&transaction, &named()).await.unwrap();
    assert_eq!((done.revision, done.succeeded), (Revision(3), false));
    assert_eq!(done.results, [OperationResult::DeleteRange { deleted: 2, next: None }]);
    let nothing = client.transact(&Transaction::new(), &named()).await.unwrap();
    assert_eq!((nothing.revision, nothing.results.len()), (Revision(3), 0));
}

#[tokio::test]
async fn a_transaction_may_be_written_as_json() {
    let client = serve(&Fake::default()).await;
    let text = r#"{"success": [{"op": "put", "key": "a", "value": "1"}]}"#;
    assert!(client.transact_json(text, &named()).await.unwrap().succeeded);
    let error = client.transact_json("{\"then\": []}", &named()).await.unwrap_err();
    let ClientError::Refused(problem) = error else { panic!("{error:?}") };
    assert_eq!(problem.kind(), Some(ProblemKind::UnknownMember));
}

#[tokio::test]
async fn a_transaction_whose_outcome_was_lost_has_effect_once() {
    let fake = Fake::default();
    let client = serve(&fake).await;
    let create = Transaction::new()
        .when(Compare::absent("a"))
        .then(Operation::put("a", "mine"))
        .otherwise(Operation::get("a"));
    fake.set_writes(Mode::ServeAndLose);
    let task = tokio::spawn({
        let (client, create) = (client.clone(), create.clone());
        async move { client.transact(&create, &named()).await }
    });
    fake.saw_writes(2).await;
    fake.set_writes(Mode::Serve);
    let done = task.await.unwrap().unwrap();
    assert!(done.succeeded && done.attempts >= 2, "{done:?}");
    assert_eq!(synod_api::Replica::revision(&fake), synod_kv::Revision(1));

    fake.set_writes(Mode::ServeAndLose);
    let once = TransactionOptions { no_retry: true, ..named() };
    let error = client.transact(&create, &once).await.unwrap_err();
    assert!(matches!(error, ClientError::Ambiguous { attempts: 1, .. }), "{error:?}");
}

#[tokio::test]
async fn a_refused_transaction_changes_nothing() {
    let fake = Fake::default();
    let client = serve(&fake).await;
    let put = || Operation::put("a", "1");
    let refusals = [
        (Transaction::new().then(put()).then(put()), ProblemKind::WrittenTwice),
        (Transaction::new().then(put().lease(7)), ProblemKind::LeaseNotFound),
        (Transaction::new().then(Operation::get("a").limit(1)), ProblemKind::UnknownMember),
        (Transaction::new().then(Operation::get("")), ProblemKind::BadKey),
        (
            (0..1_025).fold(Transaction::new(), |all, _| all.then(Operation::get("a"))),
            ProblemKind::TooManyOperations,
        ),
    ];
    for (transaction, kind) in refusals {
        let error = client.transact(&transaction, &named()).await.unwrap_err();
        let ClientError::Refused(problem) = error else { panic!("{error:?}") };
        assert_eq!(problem.kind(), Some(kind));
    }
    assert_eq!(fake.value(b"a"), None);
}

#[tokio::test]
async fn an_answer_that_does_not_fit_the_question_leaves_the_outcome_open() {
    let answers = [
        r#"{"revision":1,"succeeded":true,"results":[]}"#,
        r#"{"revision":1,"succeeded":true,"results":[{"op":"delete","deleted":1}]}"#,
        r#"{"revision":1,"succeeded":false,"results":[{"op":"get","record":null}]}"#,
        r#"{"revision":1,"succeeded":true,"results":[{"op":"get","record":{"value_base64":"?","create_revision":1,"mod_revision":1,"version":1}}]}"#,
        "{",
    ];
    for answer in answers {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let length = answer.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{answer}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let client = Client::new([&url], ClientOptions::default()).unwrap();
        let transaction = Transaction::new().then(Operation::get("a"));
        let error = client.transact(&transaction, &named()).await.unwrap_err();
        assert!(error.outcome_unknown(), "{answer}: {error:?}");
    }
}

#[tokio::test]
async fn old_revisions_are_forgotten() {
    let fake = Fake::default();
    let client = serve(&fake).await;
    for value in ["1", "2", "3"] {
        client.put(b"a", value, &PutOptions::default()).await.unwrap();
    }
    let done = client.compact(Revision(2), &WriteOptions::default()).await.unwrap();
    assert_eq!((done.revision, done.oldest), (Revision(3), Revision(2)));
    for (revision, kind) in [(2, ProblemKind::AlreadyCompacted), (9, ProblemKind::FutureRevision)] {
        let error = client.compact(Revision(revision), &WriteOptions::default()).await.unwrap_err();
        let ClientError::Refused(problem) = error else { panic!("{error:?}") };
        assert_eq!(problem.kind(), Some(kind));
    }
}

/// Its answer would take room among the names for nothing.
#[tokio::test]
async fn a_transaction_that_only_reads_has_no_name_and_is_sent_again_all_the_same() {
    let fake = Fake::default();
    let client = serve(&fake).await;
    let reads = Transaction::new()
        .when(Compare::exists("a"))
        .then(Operation::get("a"))
        .otherwise(Operation::range("", None));
    fake.set_next_writes(&[Mode::ServeAndLose]);
    let done = client.transact(&reads, &named()).await.unwrap();
    assert!(!done.succeeded && done.attempts >= 2, "{done:?}");
    assert_eq!(fake.named_writes(), 0);
}
