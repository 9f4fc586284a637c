//! Says how the nodes do, has another one lead, and forgets what was before now.
//!
//! `cargo run -p synod-client --example operate -- http://127.0.0.1:7001 http://127.0.0.1:7002`

use std::error::Error;

use synod_client::{Client, ClientOptions, PutOptions, WriteOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().skip(1).collect()).await
}

/// The leader must be among the nodes at these URLs.
pub(crate) async fn run(urls: Vec<String>) -> Result<(), Box<dyn Error>> {
    let client = Client::new(urls, ClientOptions::default())?;
    for (place, url) in client.endpoints().iter().enumerate() {
        match client.status_of(place).await {
            Ok(status) => println!("{url}: {} at {}", status.role.as_str(), status.revision),
            Err(error) => println!("{url}: {error}"),
        }
    }
    let members = client.members().await?;
    for member in members.members {
        println!("node {} is a {} at {}", member.id, member.role.as_str(), member.client_url);
    }

    let leader = client.transfer(None).await?;
    println!("node {} leads now", leader.id);

    let stored = client.put(b"example/kept", "a value", &PutOptions::default()).await?;
    let compacted = client.compact(stored.revision, &WriteOptions::default()).await?;
    println!("what was before revision {} is forgotten", compacted.oldest);
    Ok(())
}
