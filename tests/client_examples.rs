//! The examples of the client library, against a real cluster.
#![allow(dead_code, missing_docs, reason = "each example has a main of its own")]

mod support;

#[path = "../crates/client/examples/backup.rs"]
mod backup;
#[path = "../crates/client/examples/bulk_load.rs"]
mod bulk_load;
#[path = "../crates/client/examples/election.rs"]
mod election;
#[path = "../crates/client/examples/lease.rs"]
mod lease;
#[path = "../crates/client/examples/leases.rs"]
mod leases;
#[path = "../crates/client/examples/lock.rs"]
mod lock;
#[path = "../crates/client/examples/operate.rs"]
mod operate;
#[path = "../crates/client/examples/pages.rs"]
mod pages;
#[path = "../crates/client/examples/put_get.rs"]
mod put_get;
#[path = "../crates/client/examples/transaction.rs"]
mod transaction;
#[path = "../crates/client/examples/watch.rs"]
mod watch;

use support::cluster::{TestCluster, folder, synod};

#[test]
fn every_example_does_what_it_says() {
    let cluster = TestCluster::start(3);
    let folder = folder();
    let file = folder.path().join("all.synod");
    let url = || format!("http://{}", cluster.client_addr(2));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        put_get::run(url()).await.expect("put_get");
        watch::run(url()).await.expect("watch");
        lease::run(url()).await.expect("lease");
        leases::run(url()).await.expect("leases");
        lock::run(url()).await.expect("lock");
        election::run(url()).await.expect("election");
        pages::run(url()).await.expect("pages");
        transaction::run(url()).await.expect("transaction");
        bulk_load::run(url(), 1_000).await.expect("bulk_load");
        let urls = cluster.endpoints();
        let urls = urls.split(',').map(str::to_owned).collect();
        operate::run(urls).await.expect("operate");
        backup::run(url(), &file).await.expect("backup");
    });
    let checked = synod(&["restore", "--check", &file.display().to_string()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn every_example_of_a_file_is_run() {
    let here = std::fs::read_to_string(file!()).expect("this file");
    for entry in std::fs::read_dir("crates/client/examples").expect("a folder") {
        let name = entry.expect("a file").file_name();
        let name = name.to_string_lossy();
        let run = format!("{}::run(", name.trim_end_matches(".rs"));
        assert!(here.contains(&run), "{name} is not run here");
    }
}
