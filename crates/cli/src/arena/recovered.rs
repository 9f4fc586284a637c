//! Another cluster, made of what one node has, as if all others were lost for good.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use serde_json::Value;
use synod_bench::NodeId;
use synod_bench::chaos::Restored;
use synod_kv::ANOTHER_CLUSTER_STEP;

use super::restored::SMALL;
use super::{OwnCluster, addresses};
use crate::arguments::ClusterShape;
use crate::cluster::{LocalCluster, Place};
use crate::failure::Failure;

/// Its only node is the survivor.
const NODES: u32 = 1;

impl OwnCluster {
    /// Starts a cluster with nothing but the copy that was kept of this node's folder, by the command
    /// that an operator uses.
    pub(super) fn try_recover(&mut self, survivor: &Place) -> Result<Restored, Failure> {
        let (copy, folder) = (survivor.folder.join("copy"), self.restored_folder()?);
        let shape =
            ClusterShape { nodes: Some(NODES), base_port: Some(self.other_base_port(NODES)?) };
        let report = folder.with_extension("json");
        let make = |settings: &Path| {
            let told = recover(&copy, &settings.with_file_name("data"))?;
            fs::write(&report, told.to_string())?;
            name_cluster(settings, &told)
        };
        let mut cluster = LocalCluster::open_with(&folder, &shape, true, &make)?;
        cluster.start_all()?;
        let nodes = addresses(&cluster);
        self.restored = Some(cluster);
        let told = serde_json::from_slice(&fs::read(&report)?).context("it told no JSON")?;
        let (slot, begins_at) = judge(&told)?;
        fs::remove_file(&report)?;
        fs::remove_dir_all(&copy).with_context(|| format!("cannot delete {}", copy.display()))?;
        let giver = NodeId(u64::from(survivor.id));
        let revision = begins_at - ANOTHER_CLUSTER_STEP;
        Ok(Restored { giver, slot, revision, begins_at, nodes })
    }
}

fn recover(survivor: &Path, to: &Path) -> Result<Value, Failure> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command.arg("recover").arg("--data").arg(survivor).arg("--to").arg(to);
    command.args(["--node-id", "1", "--yes-lose-slots", "--json"]).stdin(Stdio::null());
    let output = command.output().context("cannot start a command")?;
    if !output.status.success() {
        return Err(Failure::failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(serde_json::from_slice(&output.stdout).context("it told no JSON")?)
}

/// Puts the id of the new cluster into the settings of its node.
fn name_cluster(settings: &Path, told: &Value) -> Result<(), Failure> {
    let id = told["made"]["cluster"].as_str().context("it tells no cluster")?;
    let text = fs::read_to_string(settings)?;
    let line =
        text.lines().find(|line| line.starts_with("id = \"")).context("settings lack an id")?;
    Ok(fs::write(settings, text.replacen(line, &format!("id = \"{id}\""), 1) + SMALL)?)
}

/// Its last slot and the revision at which it begins, if what is told of the folder fits: everything
/// that is kept was made, and the first slot behind it is told as missing.
fn judge(told: &Value) -> Result<(u64, u64), Failure> {
    let (found, made) = (&told["found"], &told["made"]);
    let number = |of: &Value, name: &str| {
        of[name].as_u64().with_context(|| format!("it tells no {name}: {told}"))
    };
    let (kept, missing) = (number(found, "kept_slot")?, number(found, "first_missing_slot")?);
    let (slot, chosen) = (number(made, "slot")?, number(found, "chosen_slot")?);
    if slot != kept || missing != kept + 1 || chosen > kept {
        return Err(Failure::failed(format!("what it tells of slots does not fit: {told}")));
    }
    Ok((slot, number(made, "revision")?))
}
