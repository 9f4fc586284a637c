//! Making a node of a new cluster from a backup.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use synod_kv::{APPLIED_KEY, MapError, OrderedMap, WriteSet};
use synod_paxos::Slot;
use synod_storage::snapshot::{Arrival, SnapshotError, SnapshotFile, Verified};
use synod_storage::{Store, StoreError, StoreOptions};
use synod_wire::DecodeError;
use synod_wire::backup::{BLOCK_BYTES_MAX, BlockHead, BlockKind, HEAD_BYTES, MAGIC, Tally};

use crate::backup::BackupAbout;
use crate::folder::{Folder, FolderError};
use crate::founding::Founding;
use crate::identity;
use crate::identity_error::InitError;
use crate::settings::Settings;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file can't be read.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a whole backup.
    #[error("{} is not a whole backup: {reason}. Nothing was changed", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The settings name the cluster that the backup was made of.
    #[error(
        "cluster.id {0} is that of the cluster that the backup was made of: a restored cluster is \
         a new one, so give it a new id (32 hexadecimal digits) in the settings of all its nodes"
    )]
    SameCluster(String),
    /// The data folder can't be made.
    #[error(transparent)]
    Init(#[from] InitError),
    /// The state can't be written, or is damaged in spite of its checksums.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The state can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state can't be read or written.
    #[error("{0}")]
    State(#[from] MapError),
}

impl From<FolderError> for RestoreError {
    fn from(error: FolderError) -> Self {
        RestoreError::Init(error.into())
    }
}

/// Reads a backup from its first to its last byte, and checks all of it. `progress` is
/// told how many bytes were read.
///
/// # Errors
/// When it can't be read or is not whole.
pub fn check_backup(file: &Path, progress: impl FnMut(u64)) -> Result<BackupAbout, RestoreError> {
    let mut about = None;
    Reader::open(file)?.run(progress, |block| {
        match block {
            Block::About(found) => about = Some(found),
            Block::Part { .. } => {}
        }
        Ok(())
    })?;
    Ok(about.expect("a backup begins with it"))
}

/// Makes the data folder of one node of a new cluster. All nodes of the cluster are made
/// from the same backup. It is read twice: nothing is written before all of it is known
/// to be whole.
///
/// # Errors
/// When the backup is not whole, the folder holds anything already, or the disk refuses.
pub fn restore(
    file: &Path,
    settings: &Settings,
    mut progress: impl FnMut(u64),
) -> Result<BackupAbout, RestoreError> {
    let about = check_backup(file, &mut progress)?;
    if about.cluster == format!("{:032x}", settings.cluster_id()) {
        return Err(RestoreError::SameCluster(about.cluster));
    }
    let folder = identity::begin_restore(settings)?;
    let states = folder.states();
    let restored = fill(file, &folder, &about, settings, &mut progress);
    let verified = match restored {
        Ok(verified) => verified,
        Err(error) => {
            folder.step("restore failed")?;
            // The first error is the one to be told.
            let _ = states.remove_arriving();
            return Err(error);
        }
    };
    // Known by the file alone: nodes that are restored from different ones are strangers.
    let state_hash = verified.state().hash();
    let founding = Founding { slot: Slot(about.slot), state_hash };
    states.install(states.prepare(verified)?)?;
    identity::finish(&folder, settings, founding)?;
    Ok(about)
}

/// Writes the files, checks them as a state, and makes it a new cluster's.
fn fill(
    file: &Path,
    folder: &Folder,
    about: &BackupAbout,
    settings: &Settings,
    progress: impl FnMut(u64),
) -> Result<Verified, RestoreError> {
    let files = about.files.iter();
    let files = files.map(|f| SnapshotFile { name: f.name.clone(), bytes: f.bytes }).collect();
    let reserve = settings.snapshot.disk_reserve_bytes;
    let mut arrival = Arrival::begin(&folder.states(), about.slot, files, reserve)?;
    Reader::open(file)?.run(progress, |block| {
        if let Block::Part { file, offset, bytes, is_last, file_checksum } = block {
            arrival.write(file, offset, bytes)?;
            if is_last {
                arrival.finish_file(file, file_checksum)?;
            }
        }
        Ok(())
    })?;
    let verified = arrival.verify(|| true)?;
    // The nodes of the new cluster count their commands from one again, and nothing of
    // the old cluster is still on its way.
    let mut store = Store::open(verified.path(), &StoreOptions::default())?;
    let mut batch = WriteSet::new();
    batch.put(APPLIED_KEY, &verified.state().for_another_cluster()?.record());
    store.write(&batch)?;
    store.flush()?;
    Ok(verified)
}

/// What a backup consists of.
enum Block<'a> {
    About(BackupAbout),
    Part { file: usize, offset: u64, bytes: &'a [u8], is_last: bool, file_checksum: u32 },
}

/// Reads a backup from front to back.
struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    read_bytes: u64,
}

/// Which byte of the files comes next.
#[derive(Default)]
struct Place {
    file: usize,
    offset: u64,
    checksum: u32,
}

impl Reader {
    fn open(path: &Path) -> Result<Reader, RestoreError> {
        let file = File::open(path)
            .map_err(|source| RestoreError::Unreadable { file: path.to_owned(), source })?;
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        Ok(Reader { path: path.to_owned(), file, read_bytes: 0 })
    }

    fn damaged(&self, reason: impl Into<String>) -> RestoreError {
        RestoreError::Damaged { file: self.path.clone(), reason: reason.into() }
    }

    fn bad(&self, error: &DecodeError) -> RestoreError {
        self.damaged(format!("{error} (at byte {})", self.read_bytes))
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), RestoreError> {
        match self.file.read_exact(buffer) {
            Ok(()) => {
                self.read_bytes += buffer.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it was cut off"))
            }
            Err(source) => Err(RestoreError::Unreadable { file: self.path.clone(), source }),
        }
    }

    /// Gives each block to `take`, and returns when the end is there as it must be.
    fn run(
        mut self,
        mut progress: impl FnMut(u64),
        mut take: impl FnMut(Block<'_>) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        let mut magic = [0; MAGIC.len()];
        self.read(&mut magic)?;
        if magic != MAGIC && magic[..MAGIC.len() - 1] == MAGIC[..MAGIC.len() - 1] {
            return Err(self.damaged("it has a form that this release does not know"));
        }
        if magic != MAGIC {
            return Err(self.damaged("it does not begin like one"));
        }
        let (mut tally, mut place) = (Tally::default(), Place::default());
        let mut about: Option<BackupAbout> = None;
        loop {
            let mut encoded = [0; HEAD_BYTES];
            self.read(&mut encoded)?;
            let head = BlockHead::decode(&encoded).map_err(|error| self.bad(&error))?;
            let mut packed = vec![0; head.packed_bytes as usize];
            self.read(&mut packed)?;
            progress(self.read_bytes);
            match (head.kind, &about) {
                (BlockKind::About, None) => {
                    head.check(&packed).map_err(|error| self.bad(&error))?;
                    let found: BackupAbout = serde_json::from_slice(&packed)
                        .map_err(|error| self.damaged(error.to_string()))?;
                    take(Block::About(found.clone()))?;
                    about = Some(found);
                }
                (BlockKind::Part, Some(about)) => {
                    head.check(&packed).map_err(|error| self.bad(&error))?;
                    let bytes = zstd::bulk::decompress(&packed, BLOCK_BYTES_MAX)
                        .map_err(|error| self.damaged(error.to_string()))?;
                    let is_last = self.advance(&mut place, about, &head, &bytes)?;
                    let (file, offset) = (head.file as usize, head.offset);
                    let file_checksum = place.checksum;
                    take(Block::Part { file, offset, bytes: &bytes, is_last, file_checksum })?;
                    if is_last {
                        place = Place { file: file + 1, ..Place::default() };
                    }
                }
                (BlockKind::End, Some(about)) => {
                    if head != tally.end() || place.file != about.files.len() {
                        return Err(self.damaged("blocks are missing"));
                    }
                    let end = self.file.stream_position().ok();
                    let length = self.file.get_ref().metadata().ok().map(|found| found.len());
                    if end != length {
                        return Err(self.damaged("something follows its end"));
                    }
                    return Ok(());
                }
                _ => return Err(self.damaged("its blocks are not in order")),
            }
            tally.add(&encoded);
        }
    }

    /// The bytes must be those that come next. Says whether they end a file.
    fn advance(
        &self,
        place: &mut Place,
        about: &BackupAbout,
        head: &BlockHead,
        bytes: &[u8],
    ) -> Result<bool, RestoreError> {
        let file = about.files.get(place.file);
        let fits = bytes.len() == head.bytes as usize
            && !bytes.is_empty()
            && (head.file as usize, head.offset) == (place.file, place.offset);
        let Some(file) = file.filter(|_| fits) else {
            return Err(self.damaged("its blocks are not in order"));
        };
        place.offset += bytes.len() as u64;
        place.checksum = crc32c::crc32c_append(place.checksum, bytes);
        if place.offset > file.bytes {
            return Err(self.damaged(format!("{} is longer than announced", file.name)));
        }
        Ok(place.offset == file.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bytes::Bytes;
    use synod_kv::{Command, Condition, KvOptions, Operation, ServerId, StateMachine};
    use synod_storage::failpoint::{self, INSTALL_STEPS};
    use synod_storage::snapshot::StateFolders;

    use super::*;
    use crate::{Identity, Joining, Node, Unfinished, backup, init, inspect};

    fn settings(folder: &Path, name: &str) -> Settings {
        let text = format!(
            "node_id = 1\ndata_dir = {name:?}\n[cluster]\nid = \"0123456789abcdef0123456789abcdef\"\n\
             [snapshot]\ndisk_reserve_bytes = 0\n\
             [client]\nlisten = \"127.0.0.1:0\"\n[peer]\nlisten = \"127.0.0.1:0\"\n\
             [[members]]\nid = 1\npeer = \"127.0.0.1:1\"\nclient_url = \"http://localhost:1\"\n"
        );
        Settings::parse(&text, &folder.join("synod.toml")).expect("good settings")
    }

    /// A backup of a state with so many slots.
    fn backup_of(folder: &Path, slots: u64) -> PathBuf {
        let source = folder.join(format!("source-{slots}"));
        fs::create_dir(&source).expect("made");
        let folders = StateFolders::new(&source);
        let store = Store::open(source.join("state"), &StoreOptions::default()).expect("opens");
        let mut machine = StateMachine::open(store, KvOptions::default()).expect("readable");
        for slot in 1..=slots {
            let (key, value) = (Bytes::from(format!("{slot}")), Bytes::from_static(b"value"));
            let condition = Condition::Always;
            let operation = Operation::Put { key, value, condition, want_previous: false };
            let id = ServerId { origin: 1, incarnation: 1, sequence: slot };
            machine.apply(slot, slot, &[(id, Command { idempotency: None, operation })]).unwrap();
        }
        machine.commit().expect("committed");
        let mut bytes = Vec::new();
        backup::write(machine.map(), &folders, (7, 1), &mut bytes).expect("written");
        let file = folder.join(format!("{slots}.synod"));
        fs::write(&file, bytes).expect("written");
        file
    }

    fn identity(settings: &Settings) -> Identity {
        let content = fs::read(settings.data_dir.join(identity::FILE)).expect("an identity");
        Identity::decode(&content).expect("whole")
    }

    /// The data folder of a restore that was killed after its switch.
    fn killed_after_its_switch(file: &Path, dir: &Path) -> PathBuf {
        let settings = settings(dir, "switched");
        failpoint::arm(&settings.data_dir, "switched");
        restore(file, &settings, |_| {}).expect_err("it was killed");
        settings.data_dir
    }

    /// What every other command makes of a restore that was killed.
    fn check_unfinished(settings: &Settings, step: &str) {
        let found = inspect(&settings.data_dir).expect("readable");
        assert_eq!(found.unfinished, Some(Unfinished::Restore), "{step}");
        let started = Node::start(settings).map(drop).expect_err("no node yet").to_string();
        let made = init(settings).expect_err("this is no empty folder").to_string();
        let joining = Joining::begin(settings).expect_err("nor a new one").to_string();
        for text in [started, made, joining] {
            let words = "an unfinished restore: run `synod restore FILE --config ...` again";
            assert!(text.contains(words), "{step}: {text}");
        }
    }

    #[test]
    fn an_interrupted_restore_can_be_run_again_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = backup_of(dir.path(), 5);
        let steps = INSTALL_STEPS[..6].iter().copied();
        for step in steps.chain(["journal made", "identity written"]) {
            let settings = settings(dir.path(), step);
            let data = &settings.data_dir;
            failpoint::arm(data, step);
            // Who is killed clears nothing away.
            failpoint::arm(data, "restore failed");
            restore(&file, &settings, |_| {}).expect_err("it was killed");
            assert!(!failpoint::is_armed(data, step), "{step}");
            if step == "identity written" {
                let again = restore(&file, &settings, |_| {}).expect_err("there is all of it");
                let words = "already holds node 1";
                assert!(again.to_string().contains(words), "{again}");
                assert!(again.to_string().contains("`synod restore` never overwrites"), "{again}");
            } else {
                check_unfinished(&settings, step);
                restore(&file, &settings, |_| {}).expect(step);
            }
            let found = inspect(data).expect("readable");
            assert_eq!((found.unfinished, found.state.map(|state| state.keys)), (None, Some(5)));
            Node::start(&settings).expect("starts").stop().expect("stopped in order");
        }
        // One that failed by itself leaves nothing.
        let settings = settings(dir.path(), "failed");
        failpoint::arm(&settings.data_dir, "file received");
        restore(&file, &settings, |_| {}).expect_err("it failed");
        assert_eq!(inspect(&settings.data_dir).expect("readable").unfinished, None);
        init(&settings).expect("an empty folder");
    }

    #[test]
    fn what_a_node_served_from_is_no_unfinished_restore() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = backup_of(dir.path(), 5);
        let settings = settings(dir.path(), "journal");
        restore(&file, &settings, |_| {}).expect("restored");
        // What a node has served from is never taken for that.
        Node::start(&settings).expect("starts").stop().expect("stopped in order");
        fs::remove_file(settings.data_dir.join(identity::FILE)).expect("removed");
        let before = inspect(&settings.data_dir).expect("readable");
        let error = restore(&file, &settings, |_| {}).expect_err("it lost its identity");
        assert!(error.to_string().contains("is not empty"), "{error}");
        assert_eq!(inspect(&settings.data_dir).expect("readable"), before);
        // Nor while its mark is still there.
        let state = settings.data_dir.join(format!("state-{:020}", 5));
        let other = killed_after_its_switch(&file, dir.path()).join(format!("state-{:020}", 5));
        fs::copy(other.join("INSTALLED"), state.join("INSTALLED")).expect("copied");
        let error = restore(&file, &settings, |_| {}).expect_err("it has voted");
        assert!(error.to_string().contains("is not empty"), "{error}");
    }

    #[test]
    fn clusters_of_different_backups_are_different_clusters() {
        let dir = tempfile::tempdir().expect("a folder");
        let (five, six) = (backup_of(dir.path(), 5), backup_of(dir.path(), 6));
        let made = |file: &Path, name: &str| {
            let settings = settings(dir.path(), name);
            restore(file, &settings, |_| {}).expect("restored");
            identity(&settings)
        };
        let (one, two, other) = (made(&five, "one"), made(&five, "two"), made(&six, "other"));
        assert_eq!((one.cluster, one.lineage()), (other.cluster, two.lineage()));
        assert_ne!(one.lineage(), other.lineage());
        let settings = settings(dir.path(), "fresh");
        let fresh = init(&settings).expect("made");
        assert_eq!(fresh.lineage().0, fresh.cluster);
        assert_ne!(fresh.lineage(), one.lineage());
        assert_eq!(identity(&settings), fresh);
    }
}
