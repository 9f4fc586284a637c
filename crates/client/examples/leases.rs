//! Keeps the leases of several sessions by calls of its own, many in one.
//!
//! `cargo run -p synod-client --example leases -- http://127.0.0.1:7001`

use std::error::Error;
use std::time::Duration;

use synod_client::{Client, ClientOptions, PutOptions, ReadOptions, WriteOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().nth(1).unwrap_or("http://127.0.0.1:7001".to_owned())).await
}

pub(crate) async fn run(url: String) -> Result<(), Box<dyn Error>> {
    let client = Client::new([url], ClientOptions::default())?;
    let mut sessions = Vec::new();
    for name in ["ann", "bob"] {
        let id = client.grant(Duration::from_secs(30), None, &WriteOptions::default()).await?.id;
        let key = format!("example/sessions/{name}");
        client.put(key.as_bytes(), "here", &PutOptions::under(id)).await?;
        sessions.push(id);
    }

    // Again and again, well within the time that they live. A lease that is over has none.
    let kept = client.keep_alive_all(&sessions).await?;
    for (id, ttl) in sessions.iter().zip(kept) {
        println!("the lease {id} lives for {:?}", ttl.ok_or("it is over")?);
    }

    for id in sessions {
        let lease = client.lease(id, &ReadOptions::default()).await?.ok_or("it is over")?;
        println!("the lease {id} has the keys {:?}", lease.keys);
        let revoked = client.revoke(id, &WriteOptions::default()).await?.ok_or("it is over")?;
        println!("{} keys went with it at revision {}", revoked.deleted, revoked.revision);
        assert_eq!(client.keep_alive(id).await?, None);
    }
    Ok(())
}
