//! Drives a local etcd cluster with the same load and the same kills as Synod,
//! for reference: `cargo run --release -p synod-bench --example etcd -- \
//! throughput|failover CLIENTS REPORT_DIR`, with `$SYNOD_ETCD` or etcd in `$PATH`.

use std::path::Path;

use synod_bench::compare::{ClusterStarter, CompareOptions, EtcdCluster};
use synod_bench::failover::{self, FailoverPlan};
use synod_bench::throughput::{self, ThroughputOptions};
use synod_bench::{Placement, Progress, Protocol, report};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, clients, dir] = &arguments[..] else {
        return Err("usage: etcd throughput|failover CLIENTS REPORT_DIR".into());
    };
    let clients = clients.parse()?;
    let data_dir = std::env::current_dir()?.join("target");
    let mut etcd = EtcdCluster::find(&CompareOptions { data_dir, ..CompareOptions::default() })?;
    let nodes = etcd.start_fresh()?;
    let progress = Progress::bar();
    let page = if what == "throughput" {
        let options = ThroughputOptions {
            protocol: Protocol::Etcd,
            placement: Placement::Leader,
            clients,
            ..ThroughputOptions::default()
        };
        let result = throughput::run(options, &nodes, &progress)?;
        print!("{}", result.table());
        report::write_throughput(Path::new(dir), &result)?
    } else {
        let plan = FailoverPlan { protocol: Protocol::Etcd, clients, ..FailoverPlan::default() };
        let result = failover::run(&plan, &mut etcd, &progress)?;
        print!("{}", result.table());
        report::write_failover(Path::new(dir), &result)?
    };
    println!("{}", page.display());
    Ok(())
}
