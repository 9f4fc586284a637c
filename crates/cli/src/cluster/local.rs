//! A local cluster: its nodes are child processes of this binary. The runner
//! shows it; the benchmarks kill its nodes and bring them back.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Signal;

use super::description::Description;
use super::layout::{Layout, Place, replace_file};
use super::process::{Ending, NodeProcess};
use super::settings;
use super::spawner::Spawner;
use crate::arguments::ClusterShape;
use crate::failure::Failure;

/// How long a node may take to stop cleanly before it is killed.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(10);
const STOP_POLL: Duration = Duration::from_millis(10);

/// The nodes of one local cluster.
#[derive(Debug)]
pub(crate) struct LocalCluster {
    layout: Layout,
    nodes: Vec<NodeProcess>,
    binary: PathBuf,
    spawner: Spawner,
    /// Of all nodes that ever were.
    highest_id: u32,
    description: Freshness,
}

/// Whether cluster.json says how things are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Freshness {
    Current,
    Stale,
    /// Stale, and somebody was told why.
    KnownStale,
}

impl LocalCluster {
    /// Takes the data folder and writes what a new cluster needs; starts nothing.
    pub(crate) fn open(
        data_dir: &Path,
        shape: &ClusterShape,
        fresh: bool,
    ) -> Result<Self, Failure> {
        let init = |settings: &Path| crate::serve::init(settings).map(drop);
        Self::open_with(data_dir, shape, fresh, &init)
    }

    /// The same, where `make` writes each new node's data folder by its settings.
    pub(crate) fn open_with(
        data_dir: &Path,
        shape: &ClusterShape,
        fresh: bool,
        make: &dyn Fn(&Path) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let opened = Layout::open(data_dir, shape, fresh)?;
        opened.check_ports()?;
        if opened.is_fresh {
            opened.layout.make_room()?;
        }
        let layout = opened.layout;
        if opened.is_new {
            write_nodes(&layout, make)?;
            layout.keep_shape()?;
        }
        let binary = std::env::current_exe().context("cannot find this program's own file")?;
        let spawner = Spawner::new().context("cannot start a thread")?;
        let places = layout.places();
        let highest_id = places.iter().map(|place| place.id).max().unwrap_or(0);
        let new = |place| NodeProcess::new(place, binary.clone(), spawner.clone());
        let nodes = places.into_iter().map(new).collect();
        let description = Freshness::Stale;
        Ok(Self { layout, nodes, binary, spawner, highest_id, description })
    }

    /// Has every node be dialled at another address than that at which it listens:
    /// whoever is there can hold up what is sent. To be called before they are started.
    pub(crate) fn reroute(
        &self,
        address: impl Fn(u32) -> Option<SocketAddr>,
    ) -> Result<(), Failure> {
        let mut seen = self.layout.places();
        for peer in &mut seen {
            peer.peer_addr = address(peer.id).unwrap_or(peer.peer_addr);
        }
        for place in self.layout.places() {
            let text = settings::text(self.layout.cluster_id(), &place, &seen);
            replace_file(&place.settings_path(), text.as_bytes())?;
        }
        Ok(())
    }

    /// Adds to every node's settings. To be called before they are started.
    pub(crate) fn add_settings(&self, tables: &str) -> Result<(), Failure> {
        for place in self.layout.places() {
            let path = place.settings_path();
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            replace_file(&path, format!("{text}\n{tables}").as_bytes())?;
        }
        Ok(())
    }

    /// A place for one more node, with an id and ports that no other has.
    pub(crate) fn new_place(&self) -> Result<Place, Failure> {
        let id = self.highest_id + 1;
        let taken: Vec<SocketAddr> = self.nodes.iter().flat_map(addresses_of).collect();
        loop {
            let place = self.layout.new_place(id)?;
            // A node that does not run just now needs its ports again.
            if ![place.client_addr, place.peer_addr].iter().any(|new| taken.contains(new)) {
                return Ok(place);
            }
        }
    }

    /// A process of this program at a place that is no node's own.
    pub(crate) fn process_at(&self, place: Place) -> NodeProcess {
        NodeProcess::new(place, self.binary.clone(), self.spawner.clone())
    }

    /// Takes one more node in, which others dial at `peer`; it has no folder of data yet and
    /// does not run.
    pub(crate) fn adopt(
        &mut self,
        place: Place,
        peer: SocketAddr,
        tables: &str,
    ) -> Result<(), Failure> {
        let seen = Place { peer_addr: peer, ..place.clone() };
        fs::create_dir_all(&place.folder)
            .with_context(|| format!("cannot create {}", place.folder.display()))?;
        self.configure(&place, &[seen], tables)?;
        self.highest_id = place.id;
        let node = NodeProcess::new(place, self.binary.clone(), self.spawner.clone());
        self.nodes.push(node);
        self.describe()
    }

    /// Writes a node's settings, in which these are the members.
    pub(crate) fn configure(
        &self,
        place: &Place,
        members: &[Place],
        tables: &str,
    ) -> Result<(), Failure> {
        let text = settings::text(self.layout.cluster_id(), place, members);
        replace_file(&place.settings_path(), format!("{text}\n{tables}").as_bytes())
    }

    /// Forgets a node that does not run.
    pub(crate) fn forget(&mut self, id: u32) -> Result<(), Failure> {
        if self.node_mut(id)?.pid().is_some() {
            return Err(Failure::failed(format!("node {id} runs")));
        }
        self.nodes.retain(|node| node.place().id != id);
        self.describe()
    }

    /// Has a node be this program from its next start on; none is the one that runs.
    pub(crate) fn use_binary(&mut self, id: u32, binary: Option<&Path>) -> Result<(), Failure> {
        let binary = binary.unwrap_or(&self.binary).to_owned();
        self.node_mut(id)?.use_binary(binary);
        Ok(())
    }

    /// Waits for the end of a node that was sent SIGKILL, or that has ended.
    pub(crate) fn wait_for_death(&mut self, id: u32) -> Result<(), Failure> {
        self.node_mut(id)?.kill()
    }

    /// Starts every node.
    pub(crate) fn start_all(&mut self) -> Result<(), Failure> {
        for node in &mut self.nodes {
            node.start()?;
        }
        self.describe()
    }

    /// Starts a node again. One that was just sent SIGKILL is waited for.
    pub(crate) fn start(&mut self, id: u32) -> Result<(), Failure> {
        let node = self.node_mut(id)?;
        node.kill()?;
        let started = node.start();
        self.describe_if_possible();
        started
    }

    /// Sends a signal to a node that runs.
    pub(crate) fn signal(&self, id: u32, signal: Signal) -> Result<(), Failure> {
        match self.nodes.iter().find(|node| node.place().id == id) {
            Some(node) if node.pid().is_some() => node.signal(signal),
            Some(_) => Err(Failure::failed(format!("node {id} does not run"))),
            None => Err(no_such_node(id)),
        }
    }

    /// All nodes, by id.
    pub(crate) fn nodes(&self) -> &[NodeProcess] {
        &self.nodes
    }

    /// The folder of the whole cluster.
    pub(crate) fn data_dir(&self) -> &Path {
        self.layout.data_dir()
    }

    /// The nodes that ended since the last call, and how.
    pub(crate) fn reap(&mut self) -> Result<Vec<(u32, Ending)>, Failure> {
        let mut ended = Vec::new();
        for node in &mut self.nodes {
            if let Some(ending) = node.reap()? {
                ended.push((node.place().id, ending));
            }
        }
        if !ended.is_empty() {
            self.describe_if_possible();
        }
        Ok(ended)
    }

    /// Writes cluster.json if that did not work before. Gives the reason when
    /// it still does not, but only once.
    pub(crate) fn describe_again(&mut self) -> Option<Failure> {
        if self.description == Freshness::Current {
            return None;
        }
        let failure = self.describe().err()?;
        let known = std::mem::replace(&mut self.description, Freshness::KnownStale);
        (known != Freshness::KnownStale).then_some(failure)
    }

    /// Asks every node to stop; no waiting.
    pub(crate) fn ask_to_stop(&self) -> Result<(), Failure> {
        for node in &self.nodes {
            node.signal(Signal::TERM)?;
            // A paused process acts on the signal only when it runs again.
            node.signal(Signal::CONT)?;
        }
        Ok(())
    }

    /// Kills what still runs; says which nodes that were.
    pub(crate) fn kill_all(&mut self) -> Result<Vec<u32>, Failure> {
        let mut killed = Vec::new();
        for node in &mut self.nodes {
            if node.pid().is_some() {
                node.kill()?;
                killed.push(node.place().id);
            }
        }
        self.describe()?;
        Ok(killed)
    }

    /// Stops every node cleanly, and kills those that take more than ten
    /// seconds; says which these were.
    pub(crate) fn stop_all(&mut self) -> Result<Vec<u32>, Failure> {
        self.ask_to_stop()?;
        let deadline = Instant::now() + STOP_DEADLINE;
        while self.any_runs() && Instant::now() < deadline {
            self.reap()?;
            thread::sleep(STOP_POLL);
        }
        self.kill_all()
    }

    /// Whether a node's process is still there.
    pub(crate) fn any_runs(&self) -> bool {
        self.nodes.iter().any(|node| node.pid().is_some())
    }

    fn node_mut(&mut self, id: u32) -> Result<&mut NodeProcess, Failure> {
        self.nodes.iter_mut().find(|node| node.place().id == id).ok_or_else(|| no_such_node(id))
    }

    fn describe(&mut self) -> Result<(), Failure> {
        Description::of(&self.nodes).write(self.layout.data_dir())?;
        self.description = Freshness::Current;
        Ok(())
    }

    /// A disk that is full must not stop the nodes that could go on.
    fn describe_if_possible(&mut self) {
        if self.describe().is_err() && self.description == Freshness::Current {
            self.description = Freshness::Stale;
        }
    }
}

impl Drop for LocalCluster {
    /// Nothing stays behind, whatever went wrong before.
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // There is nobody left to tell.
            let _ = node.kill();
        }
        // Nobody must take the dead processes' ids for nodes; a folder that is
        // gone says nothing of them anyway.
        let _ = self.describe();
    }
}

fn addresses_of(node: &NodeProcess) -> [SocketAddr; 2] {
    [node.place().client_addr, node.place().peer_addr]
}

fn no_such_node(id: u32) -> Failure {
    Failure::failed(format!("there is no node {id} in this cluster"))
}

/// Writes the settings of every node and has each data folder made.
fn write_nodes(
    layout: &Layout,
    make: &dyn Fn(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let places = layout.places();
    for place in &places {
        let folder = &place.folder;
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let path: PathBuf = place.settings_path();
        fs::write(&path, settings::text(layout.cluster_id(), place, &places))
            .with_context(|| format!("cannot write {}", path.display()))?;
        make(&path)?;
    }
    Ok(())
}
