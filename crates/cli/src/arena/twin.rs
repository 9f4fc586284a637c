//! A second process of a node, on a copy of its folder.

use std::fs;

use anyhow::Context;

use super::OwnCluster;
use crate::cluster::Place;
use crate::failure::Failure;

impl OwnCluster {
    /// Starts it on the copy that was kept of this node's folder. Its settings differ in the ports only.
    pub(super) fn try_start_twin(&mut self, place: &Place) -> Result<(), Failure> {
        let folder = place.folder.join("twin");
        let ports = self.cluster.new_place()?;
        let twin = Place { id: place.id, folder, ..ports };
        fs::create_dir(&twin.folder)
            .with_context(|| format!("cannot create {}", twin.folder.display()))?;
        fs::rename(place.folder.join("copy"), twin.data_dir())
            .context("there is no copy of the node's folder")?;
        let text = fs::read_to_string(place.settings_path())?;
        let listen = |address| format!("listen = \"{address}\"\n");
        let text = text
            .replacen(&listen(place.client_addr), &listen(twin.client_addr), 1)
            .replacen(&listen(place.peer_addr), &listen(twin.peer_addr), 1);
        fs::write(twin.settings_path(), text)?;
        let mut process = self.cluster.process_at(twin);
        process.start()?;
        self.twin = Some(process);
        Ok(())
    }

    /// What it said, if it has ended.
    pub(super) fn try_twin_said(&mut self) -> Result<Option<String>, Failure> {
        let Some(twin) = &mut self.twin else { return Ok(None) };
        twin.reap()?;
        if twin.pid().is_some() {
            return Ok(None);
        }
        let log = fs::read(twin.place().log_path()).unwrap_or_default();
        Ok(Some(String::from_utf8_lossy(&log).into_owned()))
    }

    pub(super) fn try_end_twin(&mut self) -> Result<(), Failure> {
        let Some(mut twin) = self.twin.take() else { return Ok(()) };
        twin.kill()?;
        let folder = &twin.place().folder;
        Ok(fs::remove_dir_all(folder)
            .with_context(|| format!("cannot delete {}", folder.display()))?)
    }
}
