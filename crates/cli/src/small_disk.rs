//! Small file systems for the nodes' data, which can be filled and freed. They are mounted where only
//! this process and its children see them, so that they go away with the last of these,
//! however that ends.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::cluster::LocalCluster;
use crate::failure::Failure;

/// Room for some minutes of a node's data.
const DISK_BYTES: u64 = 128 << 20;
/// A node makes a new segment of its journal soon, so that it soon notices that there is no room.
/// Without a reserve it comes to writes that fail.
const SETTINGS: &str = "[limits]\nsegment_bytes = 262144\n\n[snapshot]\ndisk_reserve_bytes = 0\n";
const ONLY_ROOT: &str = "only root may mount a small file system";
const BALLAST: &str = "ballast";
/// The ballast grows in steps of this size, and in ever smaller ones to the last block.
const STEP_BYTES: usize = 1 << 20;
const STEP_BYTES_MIN: usize = 512;
/// What the kernel and the storage engine say of a full disk, in lower case.
const FULL: [&str; 2] = ["no space left", "disk full"];

/// The disks of a cluster's nodes.
#[derive(Debug, Default)]
pub(crate) struct Disks {
    /// By node; empty when they have none.
    disks: BTreeMap<u32, Disk>,
    /// Why there are none though there should be.
    pub(crate) lack: Option<String>,
    /// How often a node ended because its disk was full.
    pub(crate) stops: u64,
}

#[derive(Debug)]
struct Disk {
    folder: PathBuf,
    room: Room,
}

/// Whether a node may end for want of space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Room {
    Enough,
    /// It runs on a full disk.
    None,
    /// It ended, and waits for room.
    Wanted,
    /// There is room again, but the node may yet come to what failed before.
    Again,
}

/// What becomes of a node that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It is started when there is room again.
    Waits,
    /// There is room, so it is started now.
    GoesOn,
    /// It should not have ended.
    Fell,
}

/// Why a node has no disk.
#[derive(PartialEq, Eq, Debug)]
enum Trouble {
    /// Nobody can give it one on this machine, or in this role.
    Lack(String),
    /// Something went wrong that should not.
    Failed(String),
}

/// Begins this program anew, in the same process, where nobody else sees what it mounts:
/// so it returns only why that cannot be.
pub(crate) fn mount_for_oneself(argument: &str) -> Result<Infallible, String> {
    if !rustix::process::geteuid().is_root() {
        return Err(ONLY_ROOT.to_owned());
    }
    let alone = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        command
    };
    // Afterwards it would be too late to go on without.
    run(alone().arg("true"))?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let error = alone().arg(program).args(std::env::args_os().skip(1)).arg(argument).exec();
    Err(format!("unshare: {error}"))
}

impl Disks {
    /// Gives each node of a cluster that does not run yet a disk of its own, with the data that
    /// it has. If nobody can mount here, there are none.
    pub(crate) fn mount(cluster: &LocalCluster) -> Result<Disks, Failure> {
        let mut disks = Disks::default();
        for node in cluster.nodes() {
            let place = node.place();
            let image = place.folder.join("disk.img");
            match make(&image).and_then(|()| move_onto(&image, &place.data_dir())) {
                Ok(()) => {}
                // What the first one got is there for all.
                Err(Trouble::Lack(reason)) if disks.disks.is_empty() => {
                    disks.lack = Some(reason);
                    return Ok(disks);
                }
                Err(Trouble::Lack(reason) | Trouble::Failed(reason)) => {
                    return Err(Failure::failed(format!("node {}'s disk: {reason}", place.id)));
                }
            }
            let disk = Disk { folder: place.data_dir(), room: Room::Enough };
            disks.disks.insert(place.id, disk);
        }
        cluster.add_settings(SETTINGS)?;
        Ok(disks)
    }

    /// Leaves not a block.
    pub(crate) fn fill(&mut self, id: u32) -> Result<(), Failure> {
        let disk = self.disk(id)?;
        disk.room = Room::None;
        let path = disk.folder.join(BALLAST);
        fill(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(())
    }

    /// Makes room. Says whether the node has to be started.
    pub(crate) fn free(&mut self, id: u32) -> Result<bool, Failure> {
        let disk = self.disk(id)?;
        let path = disk.folder.join(BALLAST);
        fs::remove_file(&path).with_context(|| format!("cannot delete {}", path.display()))?;
        let has_ended = disk.room == Room::Wanted;
        disk.room = if has_ended { Room::Enough } else { Room::Again };
        Ok(has_ended)
    }

    /// A node was started while there was room.
    pub(crate) fn started(&mut self, id: u32) {
        if let Some(disk) = self.disks.get_mut(&id) {
            disk.room = Room::Enough;
        }
    }

    /// Judges a node that has ended by itself, by its last words.
    pub(crate) fn ended(&mut self, id: u32, words: &str) -> Fate {
        let Some(disk) = self.disks.get_mut(&id) else { return Fate::Fell };
        let words = words.to_lowercase();
        if !FULL.iter().any(|full| words.contains(full)) {
            return Fate::Fell;
        }
        let (room, fate) = match disk.room {
            Room::None => (Room::Wanted, Fate::Waits),
            Room::Again => (Room::Enough, Fate::GoesOn),
            Room::Enough | Room::Wanted => return Fate::Fell,
        };
        disk.room = room;
        self.stops += 1;
        fate
    }

    fn disk(&mut self, id: u32) -> Result<&mut Disk, Failure> {
        let missing = || Failure::failed(format!("node {id} has no disk of its own"));
        self.disks.get_mut(&id).ok_or_else(missing)
    }
}

/// Makes an image of an empty file system. It takes as much of the real disk as is in it.
fn make(image: &Path) -> Result<(), Trouble> {
    // `mkfs` can do this for anybody, so ask first who may mount.
    if !rustix::process::geteuid().is_root() {
        return Err(Trouble::Lack(ONLY_ROOT.to_owned()));
    }
    run(Command::new("mkfs.ext4").arg("-V")).map_err(Trouble::Lack)?;
    let file = File::create(image).and_then(|file| file.set_len(DISK_BYTES));
    let failed = |error| Trouble::Failed(format!("cannot write {}: {error}", image.display()));
    file.map_err(failed)?;
    // Without blocks that are kept for root, who runs the nodes here.
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image)).map_err(Trouble::Failed)
}

/// Mounts the image where `folder` is, and moves what is in the folder onto it.
fn move_onto(image: &Path, folder: &Path) -> Result<(), Trouble> {
    let aside = folder.with_extension("aside");
    let failed = |error: io::Error| Trouble::Failed(format!("{}: {error}", folder.display()));
    fs::rename(folder, &aside).and_then(|()| fs::create_dir(folder)).map_err(failed)?;
    let mounted = run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(folder));
    if let Err(error) = mounted {
        // The node goes on where it was.
        fs::remove_dir(folder).and_then(|()| fs::rename(&aside, folder)).map_err(failed)?;
        return Err(Trouble::Lack(error));
    }
    fs::remove_dir(folder.join("lost+found")).map_err(failed)?;
    run(Command::new("cp").arg("-a").arg(aside.join(".")).arg(folder)).map_err(Trouble::Failed)?;
    fs::remove_dir_all(&aside).map_err(failed)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Appends to a file until there is not a block left.
fn fill(path: &Path) -> io::Result<()> {
    // Were it not mounted any more, this would fill the disk of the machine.
    let folder = path.parent().unwrap_or(path);
    let outside = folder.parent().unwrap_or(folder);
    if fs::metadata(folder)?.dev() == fs::metadata(outside)?.dev() {
        return Err(io::Error::other(format!("{} is no disk of its own", folder.display())));
    }
    let mut file = File::create(path)?;
    let step = vec![0xff; STEP_BYTES];
    let mut bytes = STEP_BYTES;
    while bytes >= STEP_BYTES_MIN {
        // Only with the sync the blocks are really taken.
        match file.write(&step[..bytes]).and_then(|_| file.sync_data()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => bytes /= 2,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Unmounts everything in this folder. What is still open there goes away when it is closed.
pub(crate) fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    // The kernel writes blanks in names as \040; then the name is not found, and the
    // deletion that follows says so.
    for place in places.map(Path::new).filter(|place| place.starts_with(folder)) {
        let _ = run(Command::new("umount").arg("--lazy").arg(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_end_once_for_want_of_space_and_for_nothing_else() {
        let disk = Disk { folder: PathBuf::from("/nowhere"), room: Room::Enough };
        let mut disks = Disks { disks: BTreeMap::from([(1, disk)]), lack: None, stops: 0 };
        let mut ended = |room: Room, words: &str| {
            disks.disks.get_mut(&1).expect("a disk").room = room;
            let fate = disks.ended(1, words);
            (fate, disks.disks[&1].room, disks.stops)
        };
        let words = "writing the journal: No space left on device (os error 28)";
        assert_eq!(ended(Room::Enough, words), (Fate::Fell, Room::Enough, 0));
        assert_eq!(ended(Room::None, "two values in slot 7"), (Fate::Fell, Room::None, 0));
        assert_eq!(ended(Room::None, words), (Fate::Waits, Room::Wanted, 1));
        assert_eq!(ended(Room::Wanted, words), (Fate::Fell, Room::Wanted, 1));
        assert_eq!(ended(Room::Again, words), (Fate::GoesOn, Room::Enough, 2));
        assert_eq!(Disks::default().ended(1, words), Fate::Fell);
    }
}
