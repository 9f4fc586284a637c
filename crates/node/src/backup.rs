//! Making a backup: a checkpoint as one stream, packed and checksummed. It
//! has no end unless all of the checkpoint can be read.

use std::io;
use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use synod_storage::Store;
use synod_storage::snapshot::{Checkpoint, SnapshotError, SnapshotFile, StateFolders};
use synod_wire::backup::{BLOCK_BYTES_MAX, BlockHead, BlockKind, MAGIC, Tally};

use crate::scrub::{bytes_read, damage_in};

/// "Input/output error".
const EIO: i32 = 5;
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
    #[error("something of the state was found damaged: take a backup of another node")]
    Doubted,
}

impl BackupError {
    /// The damage that it tells of, if it does.
    pub(crate) fn damage(&self) -> Option<String> {
        match self {
            Self::Snapshot(error) => damage_in(error),
            // What the disk cannot read is lost.
            Self::Io(error) if error.raw_os_error() == Some(EIO) => {
                Some(format!("the state is damaged: {error}"))
            }
            Self::Io(_) | Self::Differs | Self::Doubted => None,
        }
    }
}

/// What there is to do with a part of a backup.
pub(crate) trait Taker {
    /// Says whether it is wanted, and more.
    fn send(&mut self, part: Bytes) -> bool;

    /// So many bytes of the checkpoint's files were read to check them. May take its time, and
    /// says whether the backup is still wanted.
    fn checked(&mut self, bytes: u64) -> bool;
}

/// Gives the parts of a backup of the state as it is now to `to`, in their order, until that says
/// that nobody wants more. What says that it is whole goes last, when all of it was read from the
/// disk and no checksum was wrong. The checkpoint is gone afterwards.
///
/// # Errors
/// When the state is damaged or the disk refuses; what was sent then has no end.
pub(crate) fn write(
    store: &Store,
    folders: &StateFolders,
    origin: (u128, u32),
    to: &mut impl Taker,
) -> Result<(), BackupError> {
    folders.remove_backup()?;
    let written = store
        .checkpoint(&folders.backup())
        .map_err(BackupError::from)
        .and_then(|checkpoint| write_checked(&checkpoint, &folders.backup(), origin, to));
    // It keeps files that the state does not need any more.
    let removed = folders.remove_backup();
    written.and(removed.map_err(BackupError::from))
}

/// Sends as much as was checked, so that whoever takes it never waits for long.
fn write_checked(
    checkpoint: &Checkpoint,
    path: &Path,
    origin: (u128, u32),
    to: &mut impl Taker,
) -> Result<(), BackupError> {
    let mut parts = Parts::new(checkpoint);
    let about = parts.about(origin);
    let mut goes_on = to.send(Bytes::from_static(&MAGIC)) && to.send(about);
    let verified = Store::open_to_verify(path).map_err(SnapshotError::from)?;
    let (mut checked, mut failed) = (0, None);
    let mut before = bytes_read();
    let read = verified.verify_slowly(|of_records| {
        // As in the scrub: what was read of the files counts, where the system tells it.
        let of_files = bytes_read().zip(before).map(|(now, before)| now.saturating_sub(before));
        let of_files = of_files.unwrap_or(of_records as u64);
        checked += of_files;
        goes_on = goes_on && to.checked(of_files);
        while goes_on && parts.sent_bytes < checked {
            match parts.next() {
                Ok(Some(part)) => goes_on = to.send(part),
                Ok(None) => break,
                Err(error) => (goes_on, failed) = (false, Some(error)),
            }
        }
        // Without what was read to be sent.
        before = bytes_read();
        goes_on
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    if goes_on {
        read.map_err(SnapshotError::from)?;
    }
    while goes_on && let Some(part) = parts.next()? {
        goes_on = to.send(part);
    }
    if goes_on {
        to.send(parts.end());
    }
    Ok(())
}

/// The blocks of a backup, one after the other.
struct Parts<'a> {
    checkpoint: &'a Checkpoint,
    tally: Tally,
    file: usize,
    offset: u64,
    /// Of the files, before they were packed.
    sent_bytes: u64,
}

impl<'a> Parts<'a> {
    fn new(checkpoint: &'a Checkpoint) -> Parts<'a> {
        Parts { checkpoint, tally: Tally::default(), file: 0, offset: 0, sent_bytes: 0 }
    }

    fn about(&mut self, (cluster, node): (u128, u32)) -> Bytes {
        let about = BackupAbout {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: format!("{cluster:032x}"),
            node,
            slot: self.checkpoint.state().applied_slot,
            revision: self.checkpoint.state().revision.0,
            files: self.checkpoint.files().iter().map(BackupFile::from).collect(),
        };
        let about = serde_json::to_vec(&about).expect("plain fields");
        let head = block(BlockKind::About, 0, 0, about.len(), &about);
        seal(&mut self.tally, head, &about)
    }

    /// None behind the last one.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let files = self.checkpoint.files();
        while files.get(self.file).is_some_and(|file| self.offset >= file.bytes) {
            (self.file, self.offset) = (self.file + 1, 0);
        }
        if self.file >= files.len() {
            return Ok(None);
        }
        let part = self.checkpoint.read(self.file, self.offset, BLOCK_BYTES_MAX)?;
        let part = part.ok_or_else(|| io::Error::other("a file became shorter"))?;
        let packed = zstd::bulk::compress(&part, LEVEL)?;
        let number = u32::try_from(self.file).expect("few files");
        let head = block(BlockKind::Part, number, self.offset, part.len(), &packed);
        self.offset += part.len() as u64;
        self.sent_bytes += part.len() as u64;
        Ok(Some(seal(&mut self.tally, head, &packed)))
    }

    fn end(&self) -> Bytes {
        Bytes::copy_from_slice(&self.tally.end().encode())
    }
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

impl From<&SnapshotFile> for BackupFile {
    fn from(file: &SnapshotFile) -> Self {
        BackupFile { name: file.name.clone(), bytes: file.bytes }
    }
}

#[cfg(test)]
impl Taker for Vec<u8> {
    fn send(&mut self, part: Bytes) -> bool {
        self.extend_from_slice(&part);
        true
    }

    fn checked(&mut self, _bytes: u64) -> bool {
        true
    }
}
