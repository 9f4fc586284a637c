//! Nodes of a cluster of one's own that are another release of this program.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use synod_bench::chaos::Release;

use super::OwnCluster;
use crate::failure::Failure;

/// The other release, if there is one, and which nodes are it.
#[derive(Debug, Default)]
pub(super) struct Releases {
    other: Option<PathBuf>,
    nodes: BTreeSet<u32>,
    /// Those that were asked to end and must do so in order.
    pub(super) asked: BTreeSet<u32>,
}

/// The program of another release, which was seen to run.
#[derive(Debug)]
pub(crate) struct OtherRelease(PathBuf);

impl OtherRelease {
    /// Finds it where the user says that it is.
    pub(crate) fn find(path: &Path) -> Result<Self, Failure> {
        let refused = |why: String| {
            Failure::usage(format!("--other-release: {} is no other synod: {why}", path.display()))
        };
        let program = path.canonicalize().map_err(|error| refused(error.to_string()))?;
        let mut command = Command::new(&program);
        let asked = command.arg("--version").stdin(Stdio::null()).output();
        let output = asked.map_err(|error| refused(error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || !said.starts_with("synod") {
            return Err(refused(format!("asked for its --version it says {:?}", said.trim())));
        }
        Ok(Self(program))
    }
}

impl OwnCluster {
    /// From now on its nodes may be this release, too.
    pub(crate) fn know(&mut self, OtherRelease(program): OtherRelease) {
        self.releases.other = Some(program);
    }

    pub(super) fn release_of(&self, id: u32) -> Release {
        if self.releases.nodes.contains(&id) { Release::Other } else { Release::Own }
    }

    pub(super) fn try_use_release(&mut self, id: u32, release: Release) -> Result<(), Failure> {
        let Releases { other, nodes, .. } = &mut self.releases;
        let program = match release {
            Release::Own => None,
            Release::Other => Some(other.as_deref().context("there is no other release")?),
        };
        self.cluster.use_binary(id, program)?;
        match release {
            Release::Own => nodes.remove(&id),
            Release::Other => nodes.insert(id),
        };
        Ok(())
    }
}
