//! Leads while it is elected, and follows who else is.
//!
//! `cargo run -p synod-client --example election -- http://127.0.0.1:7001`

use std::error::Error;
use std::time::Duration;

use synod_client::{ClaimOptions, Client, ClientOptions, Holder, Revision};

const OFFICE: &[u8] = b"example";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().nth(1).unwrap_or("http://127.0.0.1:7001".to_owned())).await
}

pub(crate) async fn run(url: String) -> Result<(), Box<dyn Error>> {
    let client = Client::new([url], ClientOptions::default())?;
    // How it is now, and then each change.
    let mut observer = client.observe(OFFICE).await?;
    tell(observer.next().await?.as_ref());

    // Others see where the leader is.
    let options = ClaimOptions { ttl: Duration::from_secs(5), wait: None };
    let office = client.campaign(OFFICE, "10.0.0.7:8080", &options).await?;
    let office = office.ok_or("it waits as long as it takes")?;
    tell(observer.next().await?.as_ref());

    tokio::select! {
        () = lead(office.token()) => {}
        // Another one may lead.
        lost = office.lost() => return Err(lost.into()),
    }
    // It says something else, and stays elected.
    if !office.proclaim("10.0.0.7:9090").await? {
        return Err("somebody else let the office go".into());
    }
    let holder = observer.next().await?.ok_or("it is elected")?;
    assert_eq!(
        (holder.token, holder.value.as_deref()),
        (office.token(), Some(&b"10.0.0.7:9090"[..]))
    );

    office.resign().await?;
    tell(observer.next().await?.as_ref());
    Ok(())
}

/// Whatever the leader does to others refuses a lower token than it has seen.
async fn lead(token: Revision) {
    println!("leading with the token {token}");
}

fn tell(holder: Option<&Holder>) {
    match holder {
        Some(holder) => {
            let value = holder.value.as_deref().unwrap_or_default();
            println!("{} leads", String::from_utf8_lossy(value));
        }
        None => println!("nobody leads"),
    }
}
