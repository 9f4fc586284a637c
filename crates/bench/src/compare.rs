//! The same load on Synod and on etcd in one run: rounds alternate between
//! the two, each on fresh data, so that whatever else the machine does meets
//! both alike. What is compared are medians over the rounds.

mod etcd_cluster;
mod options;
mod result;
mod starter;

use crate::throughput::{self, ThroughputOptions};
use crate::{BenchError, Progress, Protocol};
pub use etcd_cluster::EtcdCluster;
pub use options::CompareOptions;
use result::Collected;
pub use result::{CompareResult, Figures, Row};
pub use starter::ClusterStarter;

/// Measures Synod and, if it is found, etcd.
///
/// # Errors
/// When an option makes no sense or nothing could be measured at all. That etcd
/// is not there is no error, nor that a later round failed: the result says so.
pub fn run(
    options: &CompareOptions,
    synod: &mut dyn ClusterStarter,
    progress: &Progress,
) -> Result<CompareResult, BenchError> {
    if options.clients.is_empty() || options.rounds == 0 {
        return Err(BenchError::option("--clients", "and rounds must not be empty"));
    }
    if (1..options.clients.len()).any(|at| options.clients[..at].contains(&options.clients[at])) {
        return Err(BenchError::option("--clients", "names a number twice"));
    }
    let (mut etcd, skipped) = match EtcdCluster::find(options) {
        Ok(etcd) => (Some(etcd), None),
        Err(reason) => (None, Some(reason)),
    };
    let mut collected = Collected::default();
    let mut ended_early = None;
    'rounds: for round in 1..=options.rounds {
        // Every second round the other store comes first.
        let order = [Protocol::Synod, Protocol::Etcd];
        let order = if round % 2 == 1 { order } else { [order[1], order[0]] };
        for protocol in order {
            let starter: &mut dyn ClusterStarter = match protocol {
                Protocol::Synod => synod,
                Protocol::Etcd => match &mut etcd {
                    Some(etcd) => etcd,
                    None => continue,
                },
            };
            let name = starter.name();
            let say = |what: &str| {
                progress.say(format!("round {round} of {}: {name}: {what}", options.rounds));
            };
            say("starting");
            let measured = measure(options, protocol, starter, &mut collected, &say);
            let stopped = starter.stop_all();
            let Err(error) = measured.and(stopped.map_err(BenchError::from)) else {
                continue;
            };
            if collected.runs.is_empty() {
                return Err(error);
            }
            ended_early = Some(format!("round {round} of {name}: {error}"));
            break 'rounds;
        }
    }
    let peer = etcd.as_ref().map(ClusterStarter::name);
    let mut result = CompareResult::new(options.clone(), synod.name(), peer, skipped, &collected);
    result.ended_early = ended_early;
    Ok(result)
}

fn measure(
    options: &CompareOptions,
    protocol: Protocol,
    starter: &mut dyn ClusterStarter,
    collected: &mut Collected,
    say: &dyn Fn(&str),
) -> Result<(), BenchError> {
    let nodes = starter.start_fresh()?;
    for &clients in &options.clients {
        say(&format!("{clients} clients"));
        let load = ThroughputOptions {
            protocol,
            clients,
            duration: options.duration,
            warm_up: options.warm_up,
            keys: options.keys,
            key_bytes: options.key_bytes,
            value_bytes: options.value_bytes,
            placement: options.placement,
            ..ThroughputOptions::default()
        };
        let result = throughput::run(load, &nodes, &Progress::silent())?;
        collected.runs.push((protocol, clients, result));
    }
    Ok(())
}
