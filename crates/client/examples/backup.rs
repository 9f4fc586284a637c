//! Writes a backup of a cluster to a file.
//!
//! `cargo run -p synod-client --example backup -- http://127.0.0.1:7001 all.synod`

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use synod_client::{Client, ClientOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or("http://127.0.0.1:7001".to_owned());
    let path = arguments.next().unwrap_or("all.synod".to_owned());
    run(url, path.as_ref()).await
}

pub(crate) async fn run(url: String, path: &Path) -> Result<(), Box<dyn Error>> {
    let client = Client::new([url], ClientOptions::default())?;
    // It holds every write that was acknowledged before this call.
    let mut backup = client.backup().await?;
    let mut file = File::create_new(path)?;
    let mut bytes = 0;
    while let Some(piece) = backup.next().await? {
        file.write_all(&piece)?;
        bytes += piece.len();
    }
    file.sync_all()?;
    // A backup that was cut off ends like a whole one: only its content tells.
    println!("{bytes} bytes of {}; check them: synod restore --check", backup.node());
    Ok(())
}
