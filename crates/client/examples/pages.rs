//! Reads a listing page by page, all of one revision, and removes what it listed.
//!
//! `cargo run -p synod-client --example pages -- http://127.0.0.1:7001`

use std::error::Error;

use synod_client::{
    Client, ClientOptions, ListOptions, PutOptions, ReadOptions, Revision, WriteOptions,
};

const PREFIX: &[u8] = b"example/pages/";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().nth(1).unwrap_or("http://127.0.0.1:7001".to_owned())).await
}

pub(crate) async fn run(url: String) -> Result<(), Box<dyn Error>> {
    let client = Client::new([url], ClientOptions::default())?;
    for number in 0..25 {
        let key = format!("example/pages/{number:02}");
        client.put(key.as_bytes(), "a value", &PutOptions::default()).await?;
    }

    let first = ListOptions { limit: Some(10), keys_only: true, ..ListOptions::prefix(PREFIX) };
    let (mut next, mut keys) = (Some(first), Vec::new());
    while let Some(options) = next {
        let page = client.list(&options).await?;
        println!("{} keys at revision {}", page.count, page.revision);
        next = options.after(&page);
        keys.extend(page.entries.into_iter().map(|entry| entry.key));
    }
    assert_eq!(keys.len(), 25);

    // Beyond 10,000 keys others may see it half done.
    let removed = client.delete_prefix(PREFIX, &WriteOptions::default()).await?;
    println!("{} keys removed at revision {}", removed.deleted, removed.revision);

    let count = ListOptions { count_only: true, ..ListOptions::prefix(PREFIX) };
    assert_eq!(client.list(&count).await?.count, 0);
    // As it was before that.
    let revision = Some(Revision(removed.revision.0 - 1));
    let read = ReadOptions { revision, ..ReadOptions::default() };
    assert_eq!(client.list(&ListOptions { read, ..count }).await?.count, 25);
    Ok(())
}
