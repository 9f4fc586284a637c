//! A cluster of one's own whose members change and whose disks decay.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use rustix::process::Signal;
use synod_bench::chaos::{ChaosControl, Copied, Order, Quorums, Release, Restored, Sentence, Told};
use synod_bench::failover::{ClusterControl, ControlError};
use synod_bench::{NodeAddress, NodeId};

use super::{OwnCluster, control_error, drift, flip, node_id};
use crate::cluster::{Ending, Place};
use crate::failure::Failure;

/// The command by which another node takes the place of one that must not go on.
const WAY_OUT: &str = "synod member replace";
/// What a node says that wants nothing but to be started again.
const AGAIN: &str = "start it again";
/// What a node says that its peers do not want.
const REFUSED: &str = "the peer refuses this node";
/// What its peers say of one that runs twice.
const TWICE: &str = "two run with copies of it";
/// One that wants it more often than this will not be well by it.
const STARTS_MAX: u32 = 20;
/// As long as one request of a command may take: others may answer meanwhile.
const COMMAND_TIMEOUT_MS: &str = "2000";
const COMMAND_LOG: &str = "command.log";

/// What is known of a node beside its process.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Where its log was when it was started last.
    log_begin: u64,
    /// It may be removed.
    may_leave: bool,
    /// It was removed, and said so.
    has_left: bool,
    /// Its files were touched.
    is_touched: bool,
    /// How often it was started because it asked for that.
    starts: u32,
    /// It ended and asked for another in its place.
    sentence: Option<String>,
    drift: Drift,
}

/// Whether a node's state is that of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Drift {
    #[default]
    None,
    /// It was made another one.
    Parted,
    /// It ended because of that, with these words.
    FoundOut(String),
}

/// A command that is being carried out.
#[derive(Debug)]
pub(super) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl OwnCluster {
    /// Takes notice of the start of a node.
    pub(super) fn note_start(&mut self, id: u32) {
        let length = self.place(id).and_then(|place| fs::metadata(place.log_path()).ok());
        self.known.entry(id).or_default().log_begin = length.map_or(0, |file| file.len());
    }

    /// Whether a node that ended by itself was allowed to. It is started when it wants that.
    pub(super) fn may_end(&mut self, id: u32, ending: &Ending) -> Result<bool, Failure> {
        let words = self.words(id);
        let data = self.place(id).map(Place::data_dir);
        let known = self.known.entry(id).or_default();
        if ending.was_removed() && known.may_leave {
            known.has_left = true;
            return Ok(true);
        }
        match &known.drift {
            Drift::Parted => {
                if let Some(words) = data.and_then(|data| drift::contradiction(&data)) {
                    known.drift = Drift::FoundOut(words);
                    return Ok(true);
                }
            }
            Drift::FoundOut(_) if ending.was_refused() => {
                known.sentence = line_with(&words, &[WAY_OUT]);
                return Ok(known.sentence.is_some());
            }
            Drift::FoundOut(_) | Drift::None => {}
        }
        if !known.is_touched {
            return Ok(false);
        }
        if let Some(words) = line_with(&words, &[WAY_OUT]) {
            known.sentence = Some(words);
            return Ok(true);
        }
        let is_refused = words.contains(TWICE);
        if is_refused && self.twin.is_some() {
            return Ok(true);
        }
        // When the other one is gone its peers may take it again.
        if (words.contains(AGAIN) || is_refused) && known.starts < STARTS_MAX {
            known.starts += 1;
            self.note_start(id);
            self.cluster.start(id)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// What a node printed since it was started last.
    fn words(&self, id: u32) -> String {
        let begin = self.known.get(&id).map_or(0, |known| known.log_begin);
        let mut bytes = Vec::new();
        let read = |place: &Place| {
            let mut log = File::open(place.log_path())?;
            log.seek(SeekFrom::Start(begin))?;
            log.read_to_end(&mut bytes)
        };
        // One that printed nothing has said nothing.
        let _ = self.place(id).map(read);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn place(&self, id: u32) -> Option<&Place> {
        self.cluster.nodes().iter().map(|node| node.place()).find(|place| place.id == id)
    }

    fn place_of(&self, node: NodeId) -> Result<Place, ControlError> {
        let place = self.place(node_id(node)?).cloned();
        place.ok_or_else(|| ControlError(format!("there is no node {node}")))
    }

    /// A node that must be there, and whose files are touched now.
    fn touch(&mut self, node: NodeId) -> Result<Place, ControlError> {
        let id = node_id(node)?;
        // Its process holds the files until it is seen dead.
        self.cluster.wait_for_death(id).map_err(control_error)?;
        self.touch_running(node)
    }

    /// The same of one that may run: it may be refused.
    fn touch_running(&mut self, node: NodeId) -> Result<Place, ControlError> {
        self.known.entry(node_id(node)?).or_default().is_touched = true;
        self.place_of(node)
    }

    fn try_prepare(&mut self) -> Result<NodeId, Failure> {
        let links = self.links.as_ref().context("the nodes have no links")?;
        let place = self.cluster.new_place()?;
        let id = NodeId(u64::from(place.id));
        let proxy = links.add(id, place.peer_addr).context("no port for a new node")?;
        let new = place.id;
        self.cluster.adopt(place, proxy, &self.tables)?;
        // It does not run yet, and nobody has ended it.
        self.killed.insert(new);
        Ok(id)
    }

    fn try_order(&mut self, order: Order) -> Result<(), Failure> {
        let config = |node: NodeId| {
            let place = u32::try_from(node.0).ok().and_then(|id| self.place(id));
            let place = place.with_context(|| format!("there is no node {node}"))?;
            Ok::<_, Failure>(place.settings_path().display().to_string())
        };
        let (words, newcomer) = match order {
            Order::Transfer => (vec!["transfer".to_owned()], None),
            Order::Add(new) => {
                (vec!["member".into(), "add".into(), "--config".into(), config(new)?], Some(new))
            }
            Order::Promote(node) => {
                (vec!["member".into(), "promote".into(), node.to_string()], Some(node))
            }
            Order::Remove(node) => (vec!["member".into(), "remove".into(), node.to_string()], None),
            Order::Replace { old, new } => {
                let (old, config) = (old.to_string(), config(new)?);
                let words = vec!["member".into(), "replace".into(), old, "--config".into(), config];
                (words, Some(new))
            }
            Order::SetQuorums(Quorums { promise, accept }) => {
                let (promise, accept) = (promise.to_string(), accept.to_string());
                let words = ["member", "quorums", "--promise", &promise, "--accept", &accept];
                (words.into_iter().chain(["--force"]).map(str::to_owned).collect(), None)
            }
            Order::Backup(_) => {
                let file = self.backup_file().display().to_string();
                (vec!["backup".into(), file, "--force".into()], None)
            }
        };
        // A backup is asked of one node; all else, of those that can know.
        let is_asked = |node: &NodeAddress| match order {
            Order::Backup(giver) => node.id == giver,
            _ => Some(node.id) != newcomer,
        };
        let asked = OwnCluster::nodes(self).into_iter().filter(is_asked);
        let urls: Vec<String> = asked.map(|node| node.client_url).collect();
        let log = File::create(self.cluster.data_dir().join(COMMAND_LOG))?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command.args(words).args(["--timeout-ms", COMMAND_TIMEOUT_MS, "--endpoints"]);
        command.arg(urls.join(",")).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        self.running = Some(Running(command.spawn().context("cannot start a command")?));
        Ok(())
    }

    fn try_told(&mut self) -> Result<Option<Told>, Failure> {
        let Some(running) = &mut self.running else { return Ok(None) };
        let Some(status) = running.0.try_wait()? else { return Ok(None) };
        self.running = None;
        let log = fs::read(self.cluster.data_dir().join(COMMAND_LOG)).unwrap_or_default();
        let words = String::from_utf8_lossy(&log).trim().to_owned();
        Ok(Some(Told { is_done: status.success(), words }))
    }
}

impl ChaosControl for OwnCluster {
    fn prepare(&mut self) -> Result<NodeId, ControlError> {
        self.try_prepare().map_err(control_error)
    }

    fn order(&mut self, order: Order) -> Result<(), ControlError> {
        self.try_order(order).map_err(control_error)
    }

    fn told(&mut self) -> Result<Option<Told>, ControlError> {
        self.try_told().map_err(control_error)
    }

    fn recall(&mut self) {
        self.running = None;
    }

    fn is_made(&mut self, node: NodeId) -> bool {
        let place = u32::try_from(node.0).ok().and_then(|id| self.place(id));
        place.is_some_and(|place| {
            let data = place.data_dir();
            let is_free =
                || File::open(data.join("LOCK")).is_ok_and(|lock| lock.try_lock().is_ok());
            data.join("identity.json").exists() && is_free()
        })
    }

    fn may_leave(&mut self, node: NodeId) {
        if let Ok(id) = node_id(node) {
            self.known.entry(id).or_default().may_leave = true;
        }
    }

    fn has_left(&mut self, node: NodeId) -> Result<bool, ControlError> {
        self.fallen()?;
        Ok(self.known.get(&node_id(node)?).is_some_and(|known| known.has_left))
    }

    fn forget(&mut self, node: NodeId) -> Result<(), ControlError> {
        let id = node_id(node)?;
        self.cluster
            .wait_for_death(id)
            .and_then(|()| self.cluster.forget(id))
            .map_err(control_error)
    }

    fn release(&mut self, node: NodeId) -> Result<Release, ControlError> {
        Ok(self.release_of(node_id(node)?))
    }

    fn use_release(&mut self, node: NodeId, release: Release) -> Result<(), ControlError> {
        self.try_use_release(node_id(node)?, release).map_err(control_error)
    }

    fn ask_to_end(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.signal(node, Signal::TERM)?;
        // As one that was killed: it is seen dead when it is.
        self.killed.insert(node_id(node)?);
        self.releases.asked.insert(node_id(node)?);
        Ok(())
    }

    fn has_ended(&mut self, node: NodeId) -> Result<bool, ControlError> {
        self.fallen()?;
        let nodes = OwnCluster::nodes(self);
        Ok(nodes.iter().all(|other| other.id != node || other.pid.is_none()))
    }

    fn flip(&mut self, node: NodeId, seed: u64) -> Result<String, ControlError> {
        let place = self.touch(node)?;
        Ok(flip::flip(&place.data_dir(), seed)?)
    }

    fn wipe(&mut self, node: NodeId) -> Result<(), ControlError> {
        let place = self.touch(node)?;
        fs::remove_dir_all(place.data_dir())?;
        // A newcomer's settings name it alone, and of these a new folder would be that of a
        // cluster of one. This operator keeps them current.
        let mut seen: Vec<Place> =
            self.cluster.nodes().iter().map(|node| node.place().clone()).collect();
        for member in &mut seen {
            let proxy = self.links.as_ref();
            let proxy = proxy.and_then(|links| links.proxy(NodeId(u64::from(member.id))));
            member.peer_addr = proxy.unwrap_or(member.peer_addr);
        }
        self.cluster.configure(&place, &seen, &self.tables).map_err(control_error)?;
        // What nobody should do, and somebody will.
        crate::serve::init(&place.settings_path()).map(drop).map_err(control_error)
    }

    fn drift(&mut self, node: NodeId, key: Option<&str>) -> Result<(), ControlError> {
        let id = node_id(node)?;
        self.cluster.wait_for_death(id).map_err(control_error)?;
        let place = self.place_of(node)?;
        drift::drift(&place.data_dir(), key).map_err(control_error)?;
        self.known.entry(id).or_default().drift = Drift::Parted;
        Ok(())
    }

    fn contradicted(&mut self, node: NodeId) -> Result<Option<String>, ControlError> {
        self.fallen()?;
        Ok(match self.known.get(&node_id(node)?).map(|known| &known.drift) {
            Some(Drift::FoundOut(words)) => Some(words.clone()),
            _ => None,
        })
    }

    fn take_over(&mut self, node: NodeId) -> Result<(), ControlError> {
        let place = self.place_of(node)?;
        drift::take_over(&place.data_dir())?;
        let known = self.known.entry(place.id).or_default();
        (known.drift, known.sentence) = (Drift::None, None);
        Ok(())
    }

    fn copied(&mut self, node: NodeId) -> Result<Copied, ControlError> {
        drift::copied(&self.place_of(node)?.data_dir()).map_err(control_error)
    }

    fn keep_copy(&mut self, node: NodeId) -> Result<(), ControlError> {
        self.cluster.wait_for_death(node_id(node)?).map_err(control_error)?;
        let place = self.place_of(node)?;
        copy(&place.data_dir(), &place.folder.join("copy"))
    }

    fn put_back(&mut self, node: NodeId) -> Result<(), ControlError> {
        let place = self.touch(node)?;
        fs::remove_dir_all(place.data_dir())?;
        Ok(fs::rename(place.folder.join("copy"), place.data_dir())?)
    }

    fn sentence(&mut self, node: NodeId) -> Result<Option<Sentence>, ControlError> {
        self.fallen()?;
        let id = node_id(node)?;
        let Some(known) = self.known.get(&id) else { return Ok(None) };
        if let Some(words) = known.sentence.clone() {
            return Ok(Some(Sentence { words, has_ended: true, names_way_out: true }));
        }
        if !known.is_touched {
            return Ok(None);
        }
        // It may be taken again when the other process is gone, or is told the way out then.
        let words = self.words(id);
        let words: String =
            words.split_inclusive('\n').filter(|line| !line.contains(TWICE)).collect();
        let refused =
            line_with(&words, &[REFUSED, WAY_OUT]).or_else(|| line_with(&words, &[REFUSED]));
        Ok(refused.map(|words| {
            let names_way_out = words.contains(WAY_OUT);
            Sentence { words, has_ended: false, names_way_out }
        }))
    }

    fn start_twin(&mut self, node: NodeId) -> Result<(), ControlError> {
        let place = self.touch_running(node)?;
        self.try_start_twin(&place).map_err(control_error)
    }

    fn twin_said(&mut self) -> Result<Option<String>, ControlError> {
        self.try_twin_said().map_err(control_error)
    }

    fn end_twin(&mut self) -> Result<(), ControlError> {
        self.try_end_twin().map_err(control_error)
    }

    fn recover(&mut self, node: NodeId) -> Result<Restored, ControlError> {
        let place = self.place_of(node)?;
        self.try_recover(&place).map_err(control_error)
    }

    fn restore(&mut self) -> Result<Restored, ControlError> {
        self.try_restore().map_err(control_error)
    }

    fn end_restored(&mut self) -> Result<(), ControlError> {
        self.try_end_restored().map_err(control_error)
    }
}

/// The first line that has all these words.
fn line_with(text: &str, words: &[&str]) -> Option<String> {
    let has = |line: &&str| words.iter().all(|word| line.contains(word));
    text.lines().find(has).map(str::to_owned)
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<(), ControlError> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    if copied.success() {
        return Ok(());
    }
    Err(ControlError(format!("cannot copy {}", from.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_all_the_words() {
        let text = "the peer refuses this node: stop one\nthe peer refuses this node: synod member replace";
        assert_eq!(line_with(text, &[REFUSED]).as_deref(), text.lines().next());
        assert_eq!(line_with(text, &[REFUSED, WAY_OUT]).as_deref(), text.lines().nth(1));
        assert_eq!(line_with(text, &[AGAIN]), None);
    }
}
