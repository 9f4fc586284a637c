//! Stores, reads, compares and removes a key, and reads what was before.
//!
//! `cargo run -p synod-client --example put_get -- http://127.0.0.1:7001`

use std::error::Error;

use synod_client::{Client, ClientError, ClientOptions, Condition, PutOptions, ReadOptions};

const KEY: &[u8] = b"example/greeting";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().nth(1).unwrap_or("http://127.0.0.1:7001".to_owned())).await
}

pub(crate) async fn run(url: String) -> Result<(), Box<dyn Error>> {
    // With the URLs of all nodes the client goes on when some of them are down.
    let client = Client::new([url], ClientOptions::default())?;

    let stored = client.put(KEY, "hello", &PutOptions::default()).await?;
    println!("stored at revision {}, version {}", stored.revision, stored.version);

    let found = client.get(KEY, &ReadOptions::default()).await?.ok_or("there is no such key")?;
    assert_eq!(found.value, "hello");

    // Only if nobody wrote in between.
    let only_if = PutOptions::only_if(Condition::At(found.mod_revision));
    client.put(KEY, "hello again", &only_if).await?;
    match client.put(KEY, "too late", &only_if).await {
        Err(ClientError::ConditionFailed { current }) => println!("it is at {current:?} now"),
        other => return Err(format!("not refused: {other:?}").into()),
    }

    let before = ReadOptions { revision: Some(stored.revision), ..ReadOptions::default() };
    let old = client.get(KEY, &before).await?.ok_or("it was there")?;
    println!("at revision {} it was {:?}", stored.revision, old.value);

    // A name of one's own: whatever goes wrong on the way, asking again under it has effect once.
    let named = PutOptions { idempotency_key: Some(client.new_name()), ..PutOptions::default() };
    let deleted = loop {
        match client.delete(KEY, &named).await {
            Err(ClientError::Ambiguous { attempts: 1.., .. }) => {}
            outcome => break outcome?,
        }
    };
    println!("deleted at revision {:?}", deleted.map(|deleted| deleted.revision));
    Ok(())
}
