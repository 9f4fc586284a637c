//! `synod chaos`: a real cluster of one's own, disturbed and checked.

use std::time::Duration;

use synod_bench::Progress;
use synod_bench::chaos::{self, ChaosPlan, Class, Extent, Quorums};

use crate::arena::{OtherRelease, OwnCluster, holder_is_there};
use crate::arguments::{Chaos, FaultClass};
use crate::failure::Failure;
use crate::output::{print, print_json, warn};
use crate::small_disk::mount_for_oneself;

const SMALL: &str = "[limits]\nsegment_bytes = 65536\nwrite_buffer_bytes = 1048576\n\n\
    [timing]\nflush_interval_ms = 100\n\n[snapshot]\ntail_bytes_max = 0\ntail_ms_max = 0\n\
    keep_for_peers_ms = 0\ndisk_reserve_bytes = 0\n\n";
const NOT_FOR_PEERS: &str = "keep_for_peers_ms = 0\n";
const SCRUBBED: &str = "[scrub]\ninterval_s = 1\nrate_bytes_per_s = 68719476736\n";

/// Runs what was asked for. Fails, and leaves the nodes' data, when a check failed.
pub(crate) fn run(arguments: &Chaos) -> Result<(), Failure> {
    let mut plan = plan_of(arguments);
    let other = other_release(arguments, &plan)?;
    if plan.classes.contains(&Class::Disk) && !arguments.own_mounts {
        let Err(reason) = mount_for_oneself("--own-mounts");
        leave_out_disks(&mut plan, &reason);
    }
    let changes = |class: &Class| class.changes_nodes();
    if plan.classes.contains(&Class::Disk) && plan.classes.iter().any(changes) {
        return Err(Failure::usage(
            "--faults-only: new nodes have no disk of their own, so `disk` does not go with \
             `member`, `damage` and `drift`",
        ));
    }
    if plan.quorums.is_some() && plan.classes.iter().any(changes) {
        return Err(Failure::usage(
            "--drawn-quorums: the only copy of a write may lie on one node, so `member`, `damage` \
             and `drift` do not go with it: leave them out with --faults-only",
        ));
    }
    if [Class::Damage, Class::Recover].iter().all(|class| plan.classes.contains(class)) {
        return Err(Failure::usage(
            "--faults-only: a damaged folder is recovered only when an operator says so, so `recover` \
             does not go with `damage`",
        ));
    }
    if [Class::Damage, Class::Drift].iter().all(|class| plan.classes.contains(class)) {
        return Err(Failure::usage(
            "--faults-only: one node may stop by its files when another one has stopped by its state, so \
             `drift` does not go with `damage`",
        ));
    }
    if plan.classes.contains(&Class::Stall) && !holder_is_there() {
        return Err(Failure::usage(
            "--faults-only: `stall` holds the nodes' syncs with strace: install that, or leave the \
             class out",
        ));
    }
    let has_disks = plan.classes.contains(&Class::Disk);
    let (mut cluster, links) =
        OwnCluster::start_linked(arguments.nodes, plan.quorums, has_disks, &tables(&plan))?;
    if let Some(other) = other {
        cluster.know(other);
    }
    if let Some(reason) = cluster.lacks_disks() {
        leave_out_disks(&mut plan, reason);
    }
    let progress = Progress::bar_or_lines();
    let outcome = chaos::run(&plan, &mut cluster, &links, &progress);
    if !outcome.as_ref().is_ok_and(|result| result.passed) {
        cluster.keep();
    }
    let result = outcome?;
    if arguments.json { print_json(&result) } else { print(&result.table()) }?;
    if result.passed { Ok(()) } else { Err(Failure::failed(result.violations.join("\n"))) }
}

/// The other release, if nodes are to be it.
fn other_release(arguments: &Chaos, plan: &ChaosPlan) -> Result<Option<OtherRelease>, Failure> {
    match (plan.classes.contains(&Class::Upgrade), &arguments.other_release) {
        (true, Some(path)) => OtherRelease::find(path).map(Some),
        (true, None) => Err(Failure::usage(
            "--faults-only: `upgrade` needs another release: name its program with --other-release",
        )),
        (false, Some(_)) => Err(Failure::usage(
            "--other-release: no node becomes it, since --faults-only does not name `upgrade`",
        )),
        (false, None) => Ok(None),
    }
}

/// Where nodes come and go and files decay, journals are small and cut early, so that there
/// are full files of both kinds and a new node gets a state; what is damaged is found at once.
fn tables(plan: &ChaosPlan) -> String {
    let mut tables = String::new();
    if plan.classes.contains(&Class::Drift) {
        // One that was dead for a while must not be given a peer's state before it is found out.
        tables.push_str(&SMALL.replace(NOT_FOR_PEERS, ""));
    } else if plan.classes.iter().any(|class| class.changes_nodes()) {
        tables.push_str(SMALL);
    }
    if plan.classes.contains(&Class::Damage) {
        tables.push_str(SCRUBBED);
    }
    tables
}

fn leave_out_disks(plan: &mut ChaosPlan, reason: &str) {
    warn(&format!("full disks are left out: {reason}"));
    plan.classes.retain(|class| *class != Class::Disk);
}

fn plan_of(arguments: &Chaos) -> ChaosPlan {
    let class = |class: &FaultClass| match class {
        FaultClass::Kill => Class::Kill,
        FaultClass::Pause => Class::Pause,
        FaultClass::Partition => Class::Partition,
        FaultClass::Disk => Class::Disk,
        FaultClass::Member => Class::Member,
        FaultClass::Damage => Class::Damage,
        FaultClass::Backup => Class::Backup,
        FaultClass::Recover => Class::Recover,
        FaultClass::Upgrade => Class::Upgrade,
        FaultClass::Drift => Class::Drift,
        FaultClass::Stall => Class::Stall,
    };
    let mut classes = match &arguments.faults_only[..] {
        [] => Class::ANYWHERE.to_vec(),
        only => only.iter().map(class).collect(),
    };
    if arguments.faults_only.is_empty() && arguments.other_release.is_some() {
        classes.push(Class::Upgrade);
    }
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let drawn = || Quorums::drawn(seed, arguments.nodes as usize);
    ChaosPlan {
        clients: arguments.clients as usize,
        extent: match arguments.faults {
            Some(faults) => Extent::Faults(faults),
            None => Extent::Time(Duration::from_secs(arguments.duration_s)),
        },
        seed,
        classes,
        quorums: arguments.drawn_quorums.then(drawn),
        history: arguments.history.clone(),
    }
}
