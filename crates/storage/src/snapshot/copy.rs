//! A copy of a state that nobody writes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use synod_kv::State;

use super::error::During;
use super::file::{self, SnapshotFile};
use super::{Arrival, SnapshotError, StateFolders, Verified};
use crate::Store;

/// Bytes that are copied at once.
const PART_BYTES: usize = 1 << 20;

/// Copies the state in `from`, whose node does not run, to where a snapshot for `to`
/// arrives, and checks every block of the copy. Nothing is changed in `from`, nor does the
/// copy share files with it. `progress` is told how many bytes were copied.
///
/// # Errors
/// When the state is damaged, or the disk refuses.
pub fn copy(
    from: &Path,
    to: &StateFolders,
    reserve_bytes: u64,
    mut progress: impl FnMut(u64),
) -> Result<Verified, SnapshotError> {
    let slot = State::load(&Store::open_read_only(from)?)?.applied_slot;
    let mut arrival = Arrival::begin(to, slot, files(from)?, reserve_bytes)?;
    let (mut copied_bytes, mut part) = (0, vec![0; PART_BYTES]);
    for number in 0..arrival.files().len() {
        let SnapshotFile { name, bytes } = arrival.files()[number].clone();
        let path = from.join(name);
        let file = File::open(&path).during("open", &path)?;
        let (mut offset, mut checksum) = (0, 0);
        while offset < bytes {
            let count = usize::try_from(bytes - offset).unwrap_or(PART_BYTES).min(PART_BYTES);
            let part = &mut part[..count];
            file.read_exact_at(part, offset).during("read", &path)?;
            checksum = crc32c::crc32c_append(checksum, part);
            arrival.write(number, offset, part)?;
            offset += count as u64;
            copied_bytes += count as u64;
            progress(copied_bytes);
        }
        // Also makes an empty file.
        arrival.write(number, offset, &[])?;
        arrival.finish_file(number, checksum)?;
    }
    arrival.verify(|| true)
}

/// The files of the state in their order. Of the lists of files that a crash can leave
/// only the one that counts is taken.
fn files(from: &Path) -> Result<Vec<SnapshotFile>, SnapshotError> {
    let current = from.join("CURRENT");
    let manifest = fs::read_to_string(&current).during("read", &current)?;
    let mut files = Vec::new();
    for entry in fs::read_dir(from).during("read", from)? {
        let entry = entry.during("read", from)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_old_list = name.starts_with("MANIFEST-") && name != manifest.trim_end();
        if file::is_name(&name) && !is_old_list {
            let bytes = entry.metadata().during("look at", &entry.path())?.len();
            files.push(SnapshotFile { name, bytes });
        }
    }
    files.sort();
    Ok(files)
}
