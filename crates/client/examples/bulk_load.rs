//! Stores many keys as fast as the cluster takes them, and reads them back, both in little
//! memory.
//!
//! `cargo run -p synod-client --example bulk_load -- http://127.0.0.1:7001 10000`

use std::error::Error;

use synod_client::{BatchOptions, Client, ClientOptions, ListOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or("http://127.0.0.1:7001".to_owned());
    let count: u64 = arguments.next().unwrap_or("10000".to_owned()).parse()?;
    run(url, count).await
}

pub(crate) async fn run(url: String, count: u64) -> Result<(), Box<dyn Error>> {
    let client = Client::new([url], ClientOptions::default())?;

    // Each key is written once, so no line does harm that is sent again after a broken
    // connection.
    let options = BatchOptions { resend: true, ..BatchOptions::default() };
    let (mut lines, mut results) = client.batch(options)?;
    let sending = async move {
        for number in 0..count {
            let key = format!("example/load/{number:010}");
            if lines.put(key.as_bytes(), b"a value").await.is_err() {
                // The results say why.
                break;
            }
        }
        // The batch ends when its lines are dropped.
    };
    let taking = async move {
        let mut stored = 0_u64;
        while let Some(result) = results.next().await {
            result.outcome.map_err(|error| format!("line {}: {error}", result.line))?;
            stored += 1;
        }
        Ok::<_, String>(stored)
    };
    let ((), stored) = tokio::join!(sending, taking);
    println!("{} keys stored", stored?);

    let mut scan = client.scan(ListOptions::prefix("example/load/"))?;
    let revision = scan.revision().await?;
    let mut found = 0_u64;
    while scan.next().await?.is_some() {
        found += 1;
    }
    println!("{found} keys at revision {revision}");
    Ok(())
}
