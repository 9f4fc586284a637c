//! Making a backup: a checkpoint as one stream, packed and checksummed.

use std::fs;
use std::io;
use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use synod_storage::Store;
use synod_storage::snapshot::{SnapshotError, SnapshotFile, StateFolders};
use synod_wire::backup::{BLOCK_BYTES_MAX, BlockHead, BlockKind, MAGIC, Tally};

/// More packs little better and takes much longer.
const LEVEL: i32 = 1;

/// What a backup is of: its first block, as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupAbout {
    /// The release that made it.
    pub version: String,
    /// The cluster, in hexadecimal.
    pub cluster: String,
    /// The node that made it.
    pub node: u32,
    /// Every slot up to here is in it.
    pub slot: u64,
    /// The store's revision.
    pub revision: u64,
    /// The files, in order.
    pub files: Vec<BackupFile>,
}

/// A file of a backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupFile {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("cannot read the checkpoint: {0}")]
    Io(#[from] io::Error),
    #[error("the state differs from a peer's: one of the two is damaged")]
    Differs,
}

/// Gives the parts of a backup of the state as it is now to `send`, in their order,
/// until that says that nobody wants more.
///
/// # Errors
/// When the disk refuses; what was sent then has no end.
pub(crate) fn write(
    store: &Store,
    folders: &StateFolders,
    (cluster, node): (u128, u32),
    mut send: impl FnMut(Bytes) -> bool,
) -> Result<(), BackupError> {
    let path = folders.backup();
    remove(&path)?;
    let checkpoint = store.checkpoint(&path)?;
    let about = BackupAbout {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: format!("{cluster:032x}"),
        node,
        slot: checkpoint.state().applied_slot,
        revision: checkpoint.state().revision.0,
        files: checkpoint.files().iter().map(BackupFile::from).collect(),
    };
    let about = serde_json::to_vec(&about).expect("plain fields");
    let mut tally = Tally::default();
    let head = block(BlockKind::About, 0, 0, about.len(), &about);
    let mut goes_on = send(Bytes::from_static(&MAGIC)) && send(seal(&mut tally, head, &about));
    for (number, file) in checkpoint.files().iter().enumerate() {
        let number = u32::try_from(number).expect("few files");
        let mut offset = 0;
        while goes_on && offset < file.bytes {
            let part = checkpoint.read(number as usize, offset, BLOCK_BYTES_MAX)?;
            let part = part.ok_or_else(|| io::Error::other("a file became shorter"))?;
            let packed = zstd::bulk::compress(&part, LEVEL)?;
            let head = block(BlockKind::Part, number, offset, part.len(), &packed);
            goes_on = send(seal(&mut tally, head, &packed));
            offset += part.len() as u64;
        }
    }
    if goes_on {
        send(Bytes::copy_from_slice(&tally.end().encode()));
    }
    Ok(checkpoint.remove()?)
}

fn block(kind: BlockKind, file: u32, offset: u64, bytes: usize, packed: &[u8]) -> BlockHead {
    let length = |bytes: usize| u32::try_from(bytes).expect("a block is small");
    let (bytes, packed_bytes) = (length(bytes), length(packed.len()));
    let checksum = crc32c::crc32c(packed);
    BlockHead { kind, file, offset, bytes, packed_bytes, checksum }
}

fn seal(tally: &mut Tally, head: BlockHead, packed: &[u8]) -> Bytes {
    let head = head.encode();
    tally.add(&head);
    let mut out = Vec::with_capacity(head.len() + packed.len());
    out.extend_from_slice(&head);
    out.extend_from_slice(packed);
    Bytes::from(out)
}

/// What a backup left that was not made to its end.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

impl From<&SnapshotFile> for BackupFile {
    fn from(file: &SnapshotFile) -> Self {
        BackupFile { name: file.name.clone(), bytes: file.bytes }
    }
}
