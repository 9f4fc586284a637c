//! Moves an amount between two accounts, both or neither, whoever else does so meanwhile.
//!
//! `cargo run -p synod-client --example transaction -- http://127.0.0.1:7001`

use std::error::Error;

use synod_client::{
    Client, ClientOptions, Compare, Operation, OperationResult, Relation, Revision, Transaction,
    TransactionOptions,
};

const FROM: &str = "example/account/1";
const TO: &str = "example/account/2";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().nth(1).unwrap_or("http://127.0.0.1:7001".to_owned())).await
}

pub(crate) async fn run(url: String) -> Result<(), Box<dyn Error>> {
    let client = Client::new([url], ClientOptions::default())?;
    let options = TransactionOptions::default();

    // Only where there is nothing yet.
    let open = Transaction::new()
        .when(Compare::absent(FROM))
        .then(Operation::put(FROM, "100"))
        .then(Operation::put(TO, "100"));
    client.transact(&open, &options).await?;

    loop {
        // Both at one revision.
        let look = Transaction::new().then(Operation::get(FROM)).then(Operation::get(TO));
        let seen = client.transact(&look, &options).await?;
        let [(from, from_at), (to, to_at)] = [amount(&seen.results[0])?, amount(&seen.results[1])?];

        let transfer = Transaction::new()
            .when(Compare::mod_revision(FROM, Relation::Equal, from_at))
            .when(Compare::mod_revision(TO, Relation::Equal, to_at))
            .then(Operation::put(FROM, (from - 10).to_string()))
            .then(Operation::put(TO, (to + 10).to_string()));
        let done = client.transact(&transfer, &options).await?;
        if done.succeeded {
            println!("{} and {} at revision {}", from - 10, to + 10, done.revision);
            return Ok(());
        }
        // Somebody else was faster: look again.
    }
}

fn amount(result: &OperationResult) -> Result<(i64, Revision), Box<dyn Error>> {
    let OperationResult::Get { record: Some(record) } = result else {
        return Err("there is no such account".into());
    };
    let value = record.value.as_deref().unwrap_or_default();
    Ok((std::str::from_utf8(value)?.parse()?, record.mod_revision))
}
