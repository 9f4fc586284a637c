//! Says that this process is there, for as long as it is.
//!
//! `cargo run -p synod-client --example lease -- http://127.0.0.1:7001`

use std::error::Error;
use std::time::Duration;

use synod_client::{Client, ClientOptions, PutOptions, ReadOptions};

const KEY: &[u8] = b"example/services/web/1";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().nth(1).unwrap_or("http://127.0.0.1:7001".to_owned())).await
}

pub(crate) async fn run(url: String) -> Result<(), Box<dyn Error>> {
    let client = Client::new([url], ClientOptions::default())?;
    // If this process dies, the key goes five seconds later.
    let keeper = client.grant_kept(Duration::from_secs(5)).await?;
    client.put(KEY, "10.0.0.7:8080", &PutOptions::under(keeper.id())).await?;

    tokio::select! {
        served = serve() => served,
        // Whoever looks for this service does not find it any more: say it anew.
        lost = keeper.lost() => return Err(lost.into()),
    }
    // The key goes with its lease.
    keeper.close().await?;
    assert_eq!(client.get(KEY, &ReadOptions::default()).await?, None);
    println!("served");
    Ok(())
}

/// What this process is for.
async fn serve() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}
