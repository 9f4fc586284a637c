//! Where the nodes of a local cluster live: folders, ports, addresses.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::arguments::{BASE_PORT_DEFAULT, ClusterShape};
use crate::failure::Failure;

/// How many nodes a new cluster has unless told otherwise.
pub(crate) const NODES_DEFAULT: u32 = 3;
/// Peers listen this far above the clients' ports.
const PEER_PORT_OFFSET: u16 = 10;
const SHAPE_FILE: &str = "cluster.toml";
const LOCK_FILE: &str = "runner.lock";

/// The folder of a local cluster and its shape. Holds the folder's lock, so two
/// runners never share one.
#[derive(Debug)]
pub(crate) struct Layout {
    data_dir: PathBuf,
    shape: Shape,
    _lock: File,
}

/// What must stay as it is as long as the data lives: the members and their
/// addresses are in the configuration that the nodes agreed on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    nodes: u32,
    base_port: u16,
    cluster_id: String,
}

/// One node's place in the layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// The node's id, from 1.
    pub(crate) id: u32,
    /// Where it serves clients.
    pub(crate) client_addr: SocketAddr,
    /// Where it listens to its peers.
    pub(crate) peer_addr: SocketAddr,
    /// Holds the settings, the log and the data.
    pub(crate) folder: PathBuf,
}

impl Place {
    /// The base URL for clients.
    pub(crate) fn client_url(&self) -> String {
        format!("http://{}", self.client_addr)
    }

    /// The node's settings file.
    pub(crate) fn settings_path(&self) -> PathBuf {
        self.folder.join("synod.toml")
    }

    /// What the node prints.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.folder.join("synod.log")
    }

    /// The node's own data folder.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }
}

/// A layout, and what its nodes need before they can be started.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) layout: Layout,
    /// Whether the nodes still have to be written.
    pub(crate) is_new: bool,
    /// Whether what a cluster left there has to be deleted first.
    pub(crate) is_fresh: bool,
    /// The nodes of the cluster that is to be deleted.
    replaced: Vec<Place>,
}

impl Opened {
    /// Refuses when a port that a node needs is taken, and when a node runs
    /// whose data would be deleted.
    pub(crate) fn check_ports(&self) -> Result<(), Failure> {
        for place in &self.replaced {
            check_ports_of(place).map_err(|failure| {
                Failure::failed(format!(
                    "a node of the cluster that --fresh would delete seems to run: {failure}"
                ))
            })?;
        }
        self.layout.places().iter().try_for_each(check_ports_of)
    }
}

impl Layout {
    /// Takes the folder `data_dir`: a new one gets the shape asked for, a used
    /// one must have it. With `fresh` a used one counts as new, and what a
    /// cluster left there is to be deleted by [`Layout::make_room`].
    pub(crate) fn open(
        data_dir: &Path,
        wanted: &ClusterShape,
        fresh: bool,
    ) -> Result<Opened, Failure> {
        fs::create_dir_all(data_dir)
            .with_context(|| format!("cannot create the data folder {}", data_dir.display()))?;
        let data_dir = data_dir
            .canonicalize()
            .with_context(|| format!("cannot find the data folder {}", data_dir.display()))?;
        let lock = take_lock(&data_dir)?;
        if fresh {
            refuse_foreign_files(&data_dir)?;
            // A shape that cannot be read is no reason to keep it.
            let held = read_shape(&data_dir).ok().flatten();
            let replaced = held.map_or_else(Vec::new, |shape| places(&data_dir, &shape));
            let layout = Self::new(data_dir, wanted, lock);
            return Ok(Opened { layout, is_new: true, is_fresh: true, replaced });
        }
        let replaced = Vec::new();
        if let Some(shape) = read_shape(&data_dir)? {
            refuse_other_shape(&data_dir, &shape, wanted)?;
            let layout = Self { data_dir, shape, _lock: lock };
            return Ok(Opened { layout, is_new: false, is_fresh: false, replaced });
        }
        refuse_leftovers(&data_dir)?;
        let layout = Self::new(data_dir, wanted, lock);
        Ok(Opened { layout, is_new: true, is_fresh: false, replaced })
    }

    fn new(data_dir: PathBuf, wanted: &ClusterShape, lock: File) -> Self {
        let shape = Shape {
            nodes: wanted.nodes.unwrap_or(NODES_DEFAULT),
            base_port: wanted.base_port.unwrap_or(BASE_PORT_DEFAULT),
            cluster_id: format!("{:032x}", fastrand::u128(1..)),
        };
        Self { data_dir, shape, _lock: lock }
    }

    /// Deletes what a cluster left in the folder.
    pub(crate) fn make_room(&self) -> Result<(), Failure> {
        remove_cluster(&self.data_dir)
    }

    /// The folder of the whole cluster, absolute.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The name of the cluster, 32 hexadecimal digits.
    pub(crate) fn cluster_id(&self) -> &str {
        &self.shape.cluster_id
    }

    /// Every node's place, by id.
    pub(crate) fn places(&self) -> Vec<Place> {
        places(&self.data_dir, &self.shape)
    }

    /// The place of one more node, which is not in the shape, on ports of its own.
    pub(crate) fn new_place(&self, id: u32) -> Result<Place, Failure> {
        let base = free_base_port(1)?;
        Ok(place_of(&self.data_dir, id, base + 1))
    }

    /// Writes down the shape: from now on the folder holds a whole cluster. To
    /// be called when every node is written.
    pub(crate) fn keep_shape(&self) -> Result<(), Failure> {
        let text = toml::to_string(&self.shape).context("cannot encode the cluster's shape")?;
        // The nodes' data is durable when they are written; without the shape it
        // would be of no use.
        let content = text.as_bytes();
        replace(&self.data_dir.join(SHAPE_FILE), content, |file| file.sync_all())?;
        File::open(&self.data_dir)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("cannot sync {}", self.data_dir.display()))?;
        Ok(())
    }
}

fn places(data_dir: &Path, shape: &Shape) -> Vec<Place> {
    let place = |id: u32| {
        let port = shape.base_port + u16::try_from(id).expect("at most nine nodes");
        place_of(data_dir, id, port)
    };
    (1..=shape.nodes).map(place).collect()
}

fn place_of(data_dir: &Path, id: u32, port: u16) -> Place {
    Place {
        id,
        client_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        peer_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port + PEER_PORT_OFFSET)),
        folder: data_dir.join(format!("node-{id}")),
    }
}

fn check_ports_of(place: &Place) -> Result<(), Failure> {
    for address in [place.client_addr, place.peer_addr] {
        TcpListener::bind(address).map(drop).map_err(|error| {
            Failure::failed(format!(
                "node {} cannot listen on {address}: {error}.\n\
                 Stop what listens there (ss -ltnp 'sport = :{}' shows it), or start a \
                 new cluster elsewhere with --base-port and --data-dir",
                place.id,
                address.port()
            ))
        })?;
    }
    Ok(())
}

/// A base port at which a new cluster's ports are free now, below those that
/// the system hands out by itself.
pub(crate) fn free_base_port(nodes: u32) -> Result<u16, Failure> {
    const FIRST: u16 = 17_000;
    const LAST: u16 = 31_000;
    let nodes = u16::try_from(nodes).map_err(|_| Failure::usage("too many nodes"))?;
    let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let first = fastrand::u16(FIRST..LAST);
    (first..LAST)
        .chain(FIRST..first)
        .step_by(usize::from(2 * PEER_PORT_OFFSET))
        .find(|base| (1..=nodes).all(|id| free(base + id) && free(base + PEER_PORT_OFFSET + id)))
        .ok_or_else(|| Failure::failed(format!("no free ports between {FIRST} and {LAST}")))
}

/// Writes a file so that a reader sees the old or the new content, never half.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> Result<(), Failure> {
    replace(path, content, |_| Ok(()))
}

fn replace(
    path: &Path,
    content: &[u8],
    finish: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), Failure> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(content)?;
        finish(&file)?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

fn take_lock(data_dir: &Path) -> Result<File, Failure> {
    let path = data_dir.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::failed(format!(
            "{} is in use by a running `synod cluster`: stop that one, or give another --data-dir",
            data_dir.display()
        ))),
        Err(TryLockError::Error(error)) => {
            Err(Failure::failed(format!("cannot lock {}: {error}", path.display())))
        }
    }
}

fn read_shape(data_dir: &Path) -> Result<Option<Shape>, Failure> {
    let path = data_dir.join(SHAPE_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::failed(format!("cannot read {}: {error}", path.display())));
        }
    };
    let shape: Shape = toml::from_str(&text).map_err(|error| {
        Failure::failed(format!("{} is damaged: {}", path.display(), error.message()))
    })?;
    if !(1..=9).contains(&shape.nodes) || shape.base_port > 65_000 {
        return Err(Failure::failed(format!("{} describes no cluster", path.display())));
    }
    Ok(Some(shape))
}

fn refuse_other_shape(data_dir: &Path, held: &Shape, wanted: &ClusterShape) -> Result<(), Failure> {
    let same_nodes = wanted.nodes.is_none_or(|nodes| nodes == held.nodes);
    let same_ports = wanted.base_port.is_none_or(|port| port == held.base_port);
    if same_nodes && same_ports {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{} holds a cluster of {} nodes with base port {}.\n\
         Start it without --nodes and --base-port, give another --data-dir, or delete it with --fresh",
        data_dir.display(),
        held.nodes,
        held.base_port
    )))
}

/// A folder without a shape must be empty.
fn refuse_leftovers(data_dir: &Path) -> Result<(), Failure> {
    refuse_foreign_files(data_dir)?;
    if names_in(data_dir)?.iter().any(|name| name != LOCK_FILE) {
        return Err(Failure::failed(format!(
            "{} holds a cluster whose first start was interrupted: begin again with --fresh",
            data_dir.display()
        )));
    }
    Ok(())
}

/// The folder could be somebody's home: nothing is written or deleted beside
/// files that no cluster made.
fn refuse_foreign_files(data_dir: &Path) -> Result<(), Failure> {
    match names_in(data_dir)?.iter().find(|name| !is_ours(name)) {
        None => Ok(()),
        Some(name) => Err(Failure::usage(format!(
            "{} is not empty and not a cluster's (it has {name:?}): give another --data-dir",
            data_dir.display()
        ))),
    }
}

fn names_in(data_dir: &Path) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for entry in fs::read_dir(data_dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Deletes what a cluster wrote, and nothing else.
fn remove_cluster(data_dir: &Path) -> Result<(), Failure> {
    for entry in fs::read_dir(data_dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == LOCK_FILE {
            continue;
        }
        let path = entry.path();
        let removed = if entry.file_type()?.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| format!("cannot delete {}", path.display()))?;
    }
    Ok(())
}

fn is_ours(name: &str) -> bool {
    let node = name.strip_prefix("node-").is_some_and(|id| id.parse::<u32>().is_ok());
    node || [LOCK_FILE, SHAPE_FILE, "cluster.json", "cluster.new"].contains(&name)
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    const ANY: ClusterShape = ClusterShape { nodes: None, base_port: None };

    /// A process that another test starts has the locks of this one's files too, until it
    /// has become its program.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn open(folder: &Path, shape: &ClusterShape) -> Result<Opened, Failure> {
        open_any(folder, shape, false)
    }

    fn open_any(folder: &Path, shape: &ClusterShape, fresh: bool) -> Result<Opened, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Layout::open(folder, shape, fresh) {
                Err(failure)
                    if failure.to_string().contains("is in use") && Instant::now() < deadline =>
                {
                    thread::yield_now();
                }
                opened => return opened,
            }
        }
    }

    #[test]
    fn a_kept_shape_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let five = ClusterShape { nodes: Some(5), base_port: Some(9_100) };
        let first = open(folder.path(), &five).expect("a new layout");
        assert!(first.is_new);
        first.layout.keep_shape().expect("written");
        let places = first.layout.places();
        drop(first);

        let again = open(folder.path(), &ANY).expect("the same layout");
        assert!(!again.is_new);
        assert_eq!(again.layout.places(), places);
        assert_eq!(places.len(), 5);
        assert_eq!(places[4].client_url(), "http://127.0.0.1:9105");
        assert_eq!(places[4].peer_addr.port(), 9_115);
    }

    #[test]
    fn another_shape_is_refused_and_fresh_makes_room() {
        let folder = tempfile::tempdir().expect("a folder");
        open(folder.path(), &ANY).expect("new").layout.keep_shape().expect("written");
        fs::create_dir(folder.path().join("node-1")).expect("a folder");
        fs::write(folder.path().join("notes.txt"), "mine").expect("a file");

        let five = ClusterShape { nodes: Some(5), base_port: None };
        let refusal = open(folder.path(), &five).expect_err("another shape").to_string();
        assert!(refusal.contains("3 nodes"), "{refusal}");
        assert!(refusal.contains("--fresh"), "{refusal}");

        fs::remove_file(folder.path().join("notes.txt")).expect("removed");
        let fresh = open_any(folder.path(), &five, true).expect("a new layout");
        assert!(fresh.is_new && fresh.is_fresh);
        assert!(folder.path().join("node-1").exists(), "the ports are looked at first");
        fresh.layout.make_room().expect("room");
        assert!(!folder.path().join("node-1").exists());
    }

    #[test]
    fn a_cluster_that_runs_is_not_deleted() {
        let folder = tempfile::tempdir().expect("a folder");
        let base_port = free_base_port(1).expect("free ports");
        let one = ClusterShape { nodes: Some(1), base_port: Some(base_port) };
        open(folder.path(), &one).expect("new").layout.keep_shape().expect("written");
        let _node = TcpListener::bind((Ipv4Addr::LOCALHOST, base_port + 1)).expect("a listener");

        let elsewhere = free_base_port(1).expect("free ports");
        let other = ClusterShape { nodes: Some(1), base_port: Some(elsewhere) };
        let fresh = open_any(folder.path(), &other, true).expect("a new layout");
        let refusal = fresh.check_ports().expect_err("a node runs").to_string();
        assert!(refusal.contains("--fresh would delete"), "{refusal}");
        assert!(refusal.contains(&(base_port + 1).to_string()), "{refusal}");
    }

    #[test]
    fn a_folder_with_other_things_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("notes.txt"), "mine").expect("a file");
        let refusal = open_any(folder.path(), &ANY, true).expect_err("not ours").to_string();
        assert!(refusal.contains("notes.txt"), "{refusal}");
        assert!(folder.path().join("notes.txt").exists());
    }

    #[test]
    fn an_interrupted_first_start_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("node-1")).expect("a folder");
        let refusal = open(folder.path(), &ANY).expect_err("half a cluster").to_string();
        assert!(refusal.contains("interrupted"), "{refusal}");
    }

    #[test]
    fn two_runners_never_share_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let _first = open(folder.path(), &ANY).expect("new");
        let refusal = Layout::open(folder.path(), &ANY, false).expect_err("in use").to_string();
        assert!(refusal.contains("in use"), "{refusal}");
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
        let port = taken.local_addr().expect("an address").port();
        let folder = tempfile::tempdir().expect("a folder");
        let shape = ClusterShape { nodes: Some(1), base_port: Some(port - 1) };
        let opened = open(folder.path(), &shape).expect("new");
        let refusal = opened.check_ports().expect_err("taken").to_string();
        assert!(refusal.contains(&port.to_string()), "{refusal}");
    }
}
