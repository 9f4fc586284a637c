#[path = "../tests/fake/mod.rs"]
mod fake;
use std::time::Duration;
use synod_bench::*;
use synod_bench::throughput::ThroughputOptions;
use synod_bench::failover::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    if a[1] == "serve" {
        let c = fake::FakeCluster::start(1, fake::Fault::None);
        println!("{}", c.addresses()[0].client_url);
        loop { std::thread::sleep(Duration::from_secs(1)); }
    } else if a[1] == "load" {
        let nodes = vec![NodeAddress { id: NodeId(1), pid: None, client_url: a[2].clone() }];
        for (clients, rate) in [(1, None), (64, None), (256, None), (64, Some(5000.0))] {
            let r = throughput::run(ThroughputOptions { clients, rate_per_s: rate, duration: Duration::from_secs(3), warm_up: Duration::from_secs(1), ..Default::default() }, &nodes, &Progress::silent()).unwrap();
            println!("{clients} {rate:?}: {:.0}/s p50 {} p99 {} generator {:.1} us", r.writes.per_s, r.writes.latency.p50_us, r.writes.latency.p99_us, r.generator_cpu_us_per_operation.unwrap());
        }
    } else {
        let mut c = fake::FakeCluster::start(3, fake::Fault::None);
        let how = if a[1] == "stop" { How::Stop } else { How::Kill };
        let r = failover::run(&FailoverPlan { kills: 5, clients: 16, how, ..Default::default() }, &mut c, &Progress::bar()).unwrap();
        print!("{}", r.table());
        report::write_failover(std::path::Path::new(&a[2]), &r).unwrap();
    }
}
