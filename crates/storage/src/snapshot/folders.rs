//! Which folder is the state, and how another one becomes it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::During;
use super::file::sync_folder;
use super::{SnapshotError, Verified};
use crate::failpoint;

const STATE: &str = "state";
const ARRIVING: &str = "state.new";
/// What is sent to peers.
const CHECKPOINT: &str = "checkpoint";
/// What is being told to a client that makes a backup.
const BACKUP: &str = "backup";
/// What is being read to find damage.
const SCRUB: &str = "scrub";
/// A state that is damaged, or ends before the journal begins.
const SET_ASIDE: &str = "state.damaged";
const MARK: &str = "INSTALLED";
/// Slots are written with this many digits.
const DIGITS: usize = 20;

/// The states of one data folder.
#[derive(Clone, Debug)]
pub struct StateFolders {
    data: PathBuf,
}

/// A state that was installed just now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Installed {
    /// Where it is.
    pub path: PathBuf,
    /// Everything up to here is in it.
    pub slot: u64,
}

/// A snapshot that bears the mark: what is left is the switch.
#[derive(Debug)]
pub struct Prepared {
    path: PathBuf,
    slot: u64,
}

impl StateFolders {
    /// The states in `data`.
    #[must_use]
    pub fn new(data: impl Into<PathBuf>) -> StateFolders {
        StateFolders { data: data.into() }
    }

    /// The data folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where a snapshot arrives.
    #[must_use]
    pub fn arriving(&self) -> PathBuf {
        self.data.join(ARRIVING)
    }

    /// Where a snapshot for others lies.
    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.data.join(CHECKPOINT)
    }

    /// Where a snapshot for a backup lies.
    #[must_use]
    pub fn backup(&self) -> PathBuf {
        self.data.join(BACKUP)
    }

    /// Where a snapshot lies that is read to find damage.
    #[must_use]
    pub fn scrub(&self) -> PathBuf {
        self.data.join(SCRUB)
    }

    /// Where a state lies that another one is to replace; none when there is no such state.
    ///
    /// # Errors
    /// When the data folder cannot be read.
    pub fn aside(&self) -> Result<Option<PathBuf>, SnapshotError> {
        let found = self.list()?.into_iter().find(|name| own_name(name).is_some());
        Ok(found.map(|name| self.data.join(name)))
    }

    /// Sets the state aside, durably, so that another one can take its place. Does nothing
    /// when one lies aside: then that was done before.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn set_aside(&self) -> Result<(), SnapshotError> {
        if let Some(name) = self.newest()?
            && self.aside()?.is_none()
        {
            // Its name says whose work it is, and is to say so when it is taken back.
            let aside = format!("{SET_ASIDE}{}", &name[STATE.len()..]);
            let current = self.data.join(name);
            fs::rename(&current, self.data.join(aside)).during("rename", &current)?;
        }
        sync_folder(&self.data).syncing(&self.data)
    }

    /// Makes the state that was set aside the state again when nothing took its place. Says
    /// whether it was so.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn take_back(&self) -> Result<bool, SnapshotError> {
        let Some(aside) = self.aside()? else { return Ok(false) };
        if self.newest()?.is_some() {
            return Ok(false);
        }
        let name = aside.file_name().and_then(|name| own_name(name.to_str()?));
        let current = self.data.join(name.expect("it was found by its name"));
        fs::rename(&aside, &current).during("rename", &aside)?;
        sync_folder(&self.data).syncing(&self.data)?;
        Ok(true)
    }

    /// Removes the state that was set aside.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_aside(&self) -> Result<(), SnapshotError> {
        self.aside()?.map_or(Ok(()), |aside| remove(&aside))
    }

    /// Removes what a scrub left.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_scrub(&self) -> Result<(), SnapshotError> {
        remove(&self.scrub())
    }

    /// Removes the checkpoint of a backup.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_backup(&self) -> Result<(), SnapshotError> {
        remove(&self.backup())
    }

    /// The state: the one of the highest slot. It need not exist yet.
    ///
    /// # Errors
    /// When the data folder cannot be read.
    pub fn current(&self) -> Result<PathBuf, SnapshotError> {
        Ok(self.data.join(self.newest()?.as_deref().unwrap_or(STATE)))
    }

    /// The name of the state, if there is one.
    fn newest(&self) -> Result<Option<String>, SnapshotError> {
        let states = self.list()?.into_iter().filter_map(|name| Some((slot_of(&name)?, name)));
        Ok(states.max().map(|(_, name)| name))
    }

    /// Up to this slot the state is the work of another node, which it came from; zero if
    /// it is all this node's own.
    ///
    /// # Errors
    /// When the data folder cannot be read.
    pub fn copied_upto(&self) -> Result<u64, SnapshotError> {
        let slots = self.list()?.into_iter().filter_map(|name| slot_of(&name));
        Ok(slots.max().unwrap_or(0))
    }

    /// What [`StateFolders::clean`] would remove.
    ///
    /// # Errors
    /// When the data folder cannot be read.
    pub fn leftovers(&self) -> Result<Vec<String>, SnapshotError> {
        let current = self.current()?;
        let is_left = |name: &String| {
            let others = [ARRIVING, CHECKPOINT, BACKUP, SCRUB].iter().any(|other| {
                name.strip_prefix(other).is_some_and(|rest| ["", ".tmp"].contains(&rest))
            });
            others || slot_of(name).is_some() && self.data.join(name) != current
        };
        Ok(self.list()?.into_iter().filter(is_left).collect())
    }

    /// Removes all that a crash left: states that are not the state any more, snapshots
    /// that had not arrived, those that were being sent. Answers their names.
    ///
    /// First the data folder is made durable: the last life may have died between its
    /// switch to a state and the sync of that, so that the name which is found here could
    /// be lost in a crash of the machine, when the state before is gone already.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn clean(&self) -> Result<Vec<String>, SnapshotError> {
        sync_folder(&self.data).syncing(&self.data)?;
        self.step("start durable")?;
        let left = self.leftovers()?;
        for name in &left {
            let path = self.data.join(name);
            fs::remove_dir_all(&path).during("remove", &path)?;
        }
        Ok(left)
    }

    /// Puts a state aside that was switched to and never used, so that it counts as one
    /// that did not arrive. The mark shows that no journal knows of it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put_aside(&self, state: &Path) -> Result<(), SnapshotError> {
        self.remove_arriving()?;
        fs::rename(state, self.arriving()).during("rename", state)?;
        sync_folder(&self.data).syncing(&self.data)
    }

    /// Removes what arrived of a snapshot that does not come.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_arriving(&self) -> Result<(), SnapshotError> {
        remove(&self.arriving())
    }

    /// Removes a checkpoint for others that nobody knows of.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_checkpoint(&self) -> Result<(), SnapshotError> {
        remove(&self.checkpoint())
    }

    /// How many bytes the disk has free.
    ///
    /// # Errors
    /// When the disk does not say so.
    pub fn free_bytes(&self) -> Result<u64, SnapshotError> {
        free_bytes(&self.data)
    }

    /// Marks a snapshot as one of which the journal does not know yet, which it tells the
    /// next start once it is the state. All that can be done before the switch is done
    /// here.
    ///
    /// # Errors
    /// When the disk refuses, for want of room perhaps. The snapshot is removed, and the
    /// state is what it was. After [`SnapshotError::Sync`] the node must stop.
    pub fn prepare(&self, verified: Verified) -> Result<Prepared, SnapshotError> {
        let (path, slot) = (verified.path, verified.state.applied_slot);
        match self.write_mark(&path, slot) {
            Ok(()) => Ok(Prepared { path, slot }),
            Err(error) => {
                // The first error is the one to be told; the next start removes it too.
                let _ = fs::remove_dir_all(&path);
                Err(error)
            }
        }
    }

    fn write_mark(&self, arrived: &Path, slot: u64) -> Result<(), SnapshotError> {
        let mark = arrived.join(MARK);
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(&mark).during("make", &mark)?;
        self.step("mark made")?;
        file.write_all(mark_text(slot).as_bytes()).during("write", &mark)?;
        file.sync_all().syncing(&mark)?;
        sync_folder(arrived).syncing(arrived)
    }

    /// Makes a snapshot the state. When this returned it is so durably; when it failed,
    /// the state is the old one or the new one, which the next start finds out.
    ///
    /// # Errors
    /// When the disk refuses. The node must stop: what the state is is open.
    pub fn install(&self, prepared: Prepared) -> Result<Installed, SnapshotError> {
        let Prepared { path: arrived, slot } = prepared;
        self.step("mark written")?;
        let path = self.data.join(format!("{STATE}-{slot:0width$}", width = DIGITS));
        fs::rename(&arrived, &path).during("rename", &arrived)?;
        self.step("switched")?;
        sync_folder(&self.data).syncing(&self.data)?;
        self.step("switch durable")?;
        Ok(Installed { path, slot })
    }

    /// The slot of a state that the journal does not know of yet.
    ///
    /// # Errors
    /// When the mark is damaged or cannot be read.
    pub fn mark(state: &Path) -> Result<Option<u64>, SnapshotError> {
        let mark = state.join(MARK);
        let text = match fs::read(&mark) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.during("read", &mark)?,
        };
        let parsed = std::str::from_utf8(&text).ok().and_then(|text| {
            let slot = text.split(' ').next()?.parse().ok()?;
            (text == mark_text(slot)).then_some(slot)
        });
        let damaged = || SnapshotError::Damaged(format!("{} is damaged", mark.display()));
        parsed.map(Some).ok_or_else(damaged)
    }

    /// The journal knows: the mark goes, durably.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove_mark(&self, state: &Path) -> Result<(), SnapshotError> {
        self.step("journal told")?;
        let mark = state.join(MARK);
        match fs::remove_file(&mark) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            removed => removed.during("remove", &mark)?,
        }
        File::open(state).and_then(|folder| folder.sync_all()).syncing(state)?;
        self.step("mark removed")
    }

    fn step(&self, step: &str) -> Result<(), SnapshotError> {
        failpoint::hit(&self.data, step).during("go on in", &self.data)
    }

    fn list(&self) -> Result<Vec<String>, SnapshotError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.data).during("read", &self.data)? {
            let entry = entry.during("read", &self.data)?;
            names.extend(entry.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }
}

fn remove(folder: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.during("remove", folder),
    }
}

/// How many bytes the disk of this folder has free.
pub(super) fn free_bytes(folder: &Path) -> Result<u64, SnapshotError> {
    let disk = rustix::fs::statvfs(folder).map_err(std::io::Error::from);
    let disk = disk.during("look for room in", folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What stands in the mark: the slot and a checksum, in words.
fn mark_text(slot: u64) -> String {
    format!("{slot} {:08x}\n", crc32c::crc32c(&slot.to_le_bytes()))
}

/// The slot of a state's folder; none for any other name.
fn slot_of(name: &str) -> Option<u64> {
    if name == STATE {
        return Some(0);
    }
    let digits = name.strip_prefix(STATE)?.strip_prefix('-')?;
    let is_slot = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_slot)
}

/// The name of a state that was set aside under this one; none for any other name.
fn own_name(aside: &str) -> Option<String> {
    let name = format!("{STATE}{}", aside.strip_prefix(SET_ASIDE)?);
    slot_of(&name).map(|_| name)
}
