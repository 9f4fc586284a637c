//! Lists keys and follows what happens to them from there on.
//!
//! `cargo run -p synod-client --example watch -- http://127.0.0.1:7001`

use std::collections::BTreeMap;
use std::error::Error;

use synod_client::{
    Client, ClientError, ClientOptions, ListOptions, PutOptions, Revision, WatchOptions,
};

const PREFIX: &[u8] = b"example/jobs/";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().nth(1).unwrap_or("http://127.0.0.1:7001".to_owned())).await
}

pub(crate) async fn run(url: String) -> Result<(), Box<dyn Error>> {
    let client = Client::new([url], ClientOptions::default())?;
    client.put(b"example/jobs/1", "todo", &PutOptions::default()).await?;

    // A copy of the keys, as they were at one revision.
    let page = client.list(&ListOptions::prefix(PREFIX)).await?;
    let pairs = page.entries.into_iter().map(|entry| (entry.key, entry.record.value));
    let mut copy: BTreeMap<_, _> = pairs.collect();

    // Every change behind that revision, once and in order, whatever becomes of the nodes.
    let from = Revision(page.revision.0 + 1);
    let mut watch = client.watch(WatchOptions::prefix(PREFIX).from(from)).await?;

    client.put(b"example/jobs/2", "todo", &PutOptions::default()).await?;
    client.put(b"example/jobs/1", "done", &PutOptions::default()).await?;
    let last = client.delete(b"example/jobs/2", &PutOptions::default()).await?;
    let last = last.ok_or("it was there")?.revision;

    while watch.position() < last {
        let changes = match watch.next().await {
            Ok(changes) => changes,
            // Whoever was away for too long lists the keys anew.
            Err(ClientError::Compacted { oldest }) => {
                return Err(format!("from {oldest} on").into());
            }
            Err(error) => return Err(error.into()),
        };
        for event in changes.events {
            println!("{}: {:?} {:?}", changes.revision, event.kind, event.key);
            match event.record {
                Some(record) => copy.insert(event.key, record.value),
                None => copy.remove(&event.key),
            };
        }
    }
    assert_eq!(copy.len(), 1);
    Ok(())
}
