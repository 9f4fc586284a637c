//! `synod backup` and `synod restore`.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use synod_client::ClientError;
use synod_kv::ANOTHER_CLUSTER_STEP;
use synod_node::{BackupAbout, Settings, check_backup};

use crate::arguments::{Backup, Restore};
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::partial::{Partial, cannot_write};
use crate::progress::Progress;
use crate::serve::founds_by_mistake;
use crate::talk::with_client;

/// Writes a backup of a running cluster to a file.
pub(crate) fn backup(arguments: &Backup) -> Result<(), Failure> {
    let file = &arguments.file;
    let (partial, out) = Partial::create(file, arguments.force)?;
    receive(arguments, out, partial.path())?;
    // What was written is read back: it is of use only if it can be restored.
    let about = check_backup(partial.path(), |_| {});
    let about = about.map_err(|error| Failure::failed(error.to_string()))?;
    partial.publish()?;
    let bytes = fs::metadata(file).map_or(0, |found| found.len());
    if arguments.reach.json {
        return print_json(&Made {
            file: file.display().to_string(),
            bytes,
            backup: Contents::of(&about),
        });
    }
    print(&format!("{}: {bytes} bytes, {}", file.display(), describe(&about)))
}

/// A backup that was made, as JSON.
#[derive(Serialize)]
struct Made<'a> {
    file: String,
    bytes: u64,
    #[serde(flatten)]
    backup: Contents<'a>,
}

/// A backup that was checked, as JSON.
#[derive(Serialize)]
struct Checked<'a> {
    file: String,
    #[serde(flatten)]
    backup: Contents<'a>,
}

/// A node that was made of a backup, as JSON.
#[derive(Serialize)]
struct Restored<'a> {
    node: u32,
    /// In hexadecimal.
    cluster: String,
    data_dir: String,
    /// Its revisions go on above this one.
    revision: u64,
    backup: Contents<'a>,
}

/// What a backup holds, as JSON.
#[derive(Serialize)]
struct Contents<'a> {
    /// The cluster that it is of, in hexadecimal.
    cluster: &'a str,
    /// The node that made it, and the release that this ran.
    node: u32,
    version: &'a str,
    slot: u64,
    revision: u64,
}

impl<'a> Contents<'a> {
    fn of(about: &'a BackupAbout) -> Self {
        let BackupAbout { version, cluster, node, slot, revision, files: _ } = about;
        Contents { cluster, node: *node, version, slot: *slot, revision: *revision }
    }
}

fn receive(arguments: &Backup, mut out: File, path: &Path) -> Result<(), Failure> {
    let mut progress = Progress::new("received");
    let written = with_client(&arguments.reach, |client| async move {
        let mut backup = client.backup().await?;
        while let Some(bytes) = backup.next().await? {
            if let Err(error) = out.write_all(&bytes) {
                return Ok(Err(error));
            }
            progress.add(bytes.len() as u64);
        }
        progress.end();
        Ok::<_, ClientError>(out.sync_all())
    })?;
    Ok(written.with_context(|| cannot_write(path))?)
}

/// Makes the data folder of a node of a new cluster.
pub(crate) fn restore(arguments: &Restore) -> Result<(), Failure> {
    let mut progress = Progress::new("read");
    if arguments.check {
        let file = &arguments.file;
        let about = check_backup(file, |bytes| progress.set(bytes));
        let about = about.map_err(|error| Failure::failed(error.to_string()))?;
        progress.end();
        if arguments.json {
            return print_json(&Checked {
                file: file.display().to_string(),
                backup: Contents::of(&about),
            });
        }
        return print(&format!("{} is whole: {}", file.display(), describe(&about)));
    }
    let Some(config) = &arguments.config else {
        return Err(Failure::usage("say --config, the settings of the node to be made"));
    };
    let settings = Settings::load(config).map_err(|error| Failure::usage(error.to_string()))?;
    if !arguments.alone && founds_by_mistake(&settings) {
        let id = settings.node_id;
        return Err(Failure::failed(format!(
            "the settings name node {id} alone, so this would make a cluster of one beside that of \
             the other nodes, under the same id. Name all members of the new cluster in the \
             settings of each of them. If node {id} is to be a cluster of its own, add --alone"
        )));
    }
    let restored = synod_node::restore(&arguments.file, &settings, |bytes| progress.set(bytes));
    let about = restored.map_err(|error| Failure::failed(error.to_string()))?;
    progress.end();
    let (node, data_dir) = (settings.node_id, settings.data_dir.as_path());
    let cluster = format!("{:032x}", settings.cluster_id());
    let revision = about.revision + ANOTHER_CLUSTER_STEP;
    if arguments.json {
        let backup = Contents::of(&about);
        let data_dir = data_dir.display().to_string();
        return print_json(&Restored { node, cluster, data_dir, revision, backup });
    }
    print(&format!(
        "node {node} of cluster {cluster} is ready to serve from {}, with {}. Its revisions go on \
         above {revision}",
        data_dir.display(),
        describe(&about),
    ))
}

fn describe(about: &BackupAbout) -> String {
    let BackupAbout { cluster, node, slot, revision, version, .. } = about;
    format!(
        "revision {revision} at slot {slot} of cluster {cluster}, made by node {node} (synod {version})"
    )
}
