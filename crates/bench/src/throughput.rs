//! How much a cluster carries: clients in a closed loop (each sends its next
//! request when it has its answer) or, with a rate, on a fixed schedule; what
//! that costs the servers is read from outside.

mod client;
mod options;
mod recorder;
mod result;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::process::ProcessUse;
use crate::{BenchError, NodeAddress, NodeId, Placement, Progress, Protocol, probe};
use client::Load;
pub use options::ThroughputOptions;
pub(crate) use options::seconds;
pub use recorder::TimelinePoint;
pub use result::{NodeUse, OperationResult, ThroughputResult};
use result::{Sample, assemble};

/// How long a cluster that was just started gets.
const START_WAIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Loads a running cluster and measures it.
///
/// # Errors
/// When an option makes no sense, no node leads or one that gets clients is not
/// ready, the generator cannot start,
/// or nothing at all was acknowledged.
pub fn run(
    options: ThroughputOptions,
    nodes: &[NodeAddress],
    progress: &Progress,
) -> Result<ThroughputResult, BenchError> {
    options.check(nodes)?;
    let sockets = nodes.iter().map(NodeAddress::socket).collect::<Result<Arc<[_]>, _>>()?;
    let first = first_node(&options, nodes)?;
    if options.placement == Placement::Spread {
        // A client whose node does not serve yet would go to another for good.
        wait_ready(options.protocol, nodes)?;
    }
    let load = Arc::new(Load::new(options.clone(), sockets, first)?);
    if options.preload() {
        progress.say("storing the keys that will be read");
        client::preload(&load)?;
    }
    progress.begin(options.warm_up.as_secs() + options.duration.as_secs());
    let measured = measure(&options, nodes, &load, progress);
    progress.end();
    let (before, after) = measured?;
    let recording = load.take_recording();
    if recording.is_empty() {
        return Err(BenchError::NothingAcknowledged { errors: recording.errors_summary() });
    }
    Ok(assemble(options, nodes, &recording, &before, &after))
}

/// Runs the load on its own threads and looks at the servers from this one,
/// at the start and the end of the measured time.
fn measure(
    options: &ThroughputOptions,
    nodes: &[NodeAddress],
    load: &Arc<Load>,
    progress: &Progress,
) -> Result<(Sample, Sample), BenchError> {
    let begin = Instant::now() + options.warm_up;
    let end = begin + options.duration;
    load.begin_recording(begin, end);
    let generators = (0..options.threads)
        .map(|index| {
            let load = Arc::clone(load);
            thread::Builder::new()
                .name(format!("load-{index}"))
                .spawn(move || client::generate(&load, index))
        })
        .collect::<Result<Vec<_>, _>>()?;
    wait_until(begin, begin, options, "warming up", progress);
    let before = Sample::take(options.protocol, nodes);
    wait_until(end, begin, options, "measuring", progress);
    let after = Sample::take(options.protocol, nodes);
    load.stop();
    for generator in generators {
        match generator.join() {
            Ok(ended) => ended?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    Ok((before, after))
}

fn wait_until(
    time: Instant,
    begin: Instant,
    options: &ThroughputOptions,
    activity: &'static str,
    progress: &Progress,
) {
    progress.say(activity);
    loop {
        let now = Instant::now();
        let elapsed = (now + options.warm_up).saturating_duration_since(begin);
        progress.step_to(elapsed.as_secs());
        let Some(left) = time.checked_duration_since(now) else {
            return;
        };
        thread::sleep(left.min(Duration::from_millis(500)));
    }
}

/// The node that each client starts with: one for all, or none when they are
/// spread.
fn first_node(
    options: &ThroughputOptions,
    nodes: &[NodeAddress],
) -> Result<Option<usize>, BenchError> {
    let leader = wait_leader(options.protocol, nodes)?;
    let id = match options.placement {
        Placement::Spread => return Ok(None),
        Placement::Node(id) => id,
        Placement::Leader => leader,
    };
    Ok(nodes.iter().position(|node| node.id == id))
}

fn wait_leader(protocol: Protocol, nodes: &[NodeAddress]) -> Result<NodeId, BenchError> {
    let deadline = Instant::now() + START_WAIT;
    loop {
        if let Some(leader) = probe::leader(protocol, nodes, PROBE_TIMEOUT) {
            return Ok(leader.node);
        }
        if Instant::now() > deadline {
            return Err(BenchError::NoLeader { waited_s: START_WAIT.as_secs() });
        }
        thread::sleep(POLL);
    }
}

fn wait_ready(protocol: Protocol, nodes: &[NodeAddress]) -> Result<(), BenchError> {
    let deadline = Instant::now() + START_WAIT;
    for node in nodes {
        while !probe::ready(protocol, node, PROBE_TIMEOUT) {
            if Instant::now() > deadline {
                let waited_s = START_WAIT.as_secs();
                return Err(BenchError::NotReady { node: node.id, waited_s });
            }
            thread::sleep(POLL);
        }
    }
    Ok(())
}

impl Sample {
    fn take(protocol: Protocol, nodes: &[NodeAddress]) -> Self {
        let uses = nodes.iter().map(|node| node.pid.and_then(ProcessUse::of)).collect();
        let generator = ProcessUse::of_self();
        let counters = nodes.iter().map(|node| probe::counters(protocol, node, PROBE_TIMEOUT));
        Self { uses, generator, counters: counters.collect() }
    }
}
