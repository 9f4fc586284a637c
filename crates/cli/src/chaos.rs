//! `synod chaos`: a real cluster of one's own, disturbed and checked.

use std::time::Duration;

use synod_bench::Progress;
use synod_bench::chaos::{self, ChaosPlan, Class, Extent};

use crate::arena::OwnCluster;
use crate::arguments::{Chaos, FaultClass};
use crate::failure::Failure;
use crate::output::{print, print_json, warn};
use crate::small_disk::mount_for_oneself;

/// Runs what was asked for. Fails, and leaves the nodes' data, when a check failed.
pub(crate) fn run(arguments: &Chaos) -> Result<(), Failure> {
    let mut plan = plan_of(arguments);
    if plan.classes.contains(&Class::Disk) && !arguments.own_mounts {
        let Err(reason) = mount_for_oneself("--own-mounts");
        leave_out_disks(&mut plan, &reason);
    }
    let (mut cluster, links) =
        OwnCluster::start_linked(arguments.nodes, plan.classes.contains(&Class::Disk))?;
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
    };
    ChaosPlan {
        clients: arguments.clients as usize,
        extent: match arguments.faults {
            Some(faults) => Extent::Faults(faults),
            None => Extent::Time(Duration::from_secs(arguments.duration_s)),
        },
        seed: arguments.seed.unwrap_or_else(|| fastrand::u64(..)),
        classes: match &arguments.faults_only[..] {
            [] => Class::ANYWHERE.to_vec(),
            only => only.iter().map(class).collect(),
        },
        history: arguments.history.clone(),
    }
}
