//! Does something while nobody else does.
//!
//! `cargo run -p synod-client --example lock -- http://127.0.0.1:7001`

use std::error::Error;
use std::time::Duration;

use synod_client::{ClaimOptions, Client, ClientOptions, Revision};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().nth(1).unwrap_or("http://127.0.0.1:7001".to_owned())).await
}

pub(crate) async fn run(url: String) -> Result<(), Box<dyn Error>> {
    let client = Client::new([url], ClientOptions::default())?;
    let options = ClaimOptions { ttl: Duration::from_secs(5), wait: None };
    let lock = client.lock(b"example", &options).await?.ok_or("it waits as long as it takes")?;

    // Somebody else does not get it now.
    let at_once = ClaimOptions { wait: Some(Duration::ZERO), ..options };
    assert!(client.lock(b"example", &at_once).await?.is_none());

    tokio::select! {
        () = work(lock.token()) => {}
        lost = lock.lost() => return Err(lost.into()),
    }
    lock.release().await?;
    println!("done");
    Ok(())
}

/// What the lock guards refuses a lower token than it has seen.
async fn work(token: Revision) {
    println!("working with the token {token}");
}
