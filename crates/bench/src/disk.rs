//! What the data of a measured cluster lies on.

use std::io;
use std::path::Path;

/// What file systems in memory call themselves to `statfs`.
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Whether a folder is in memory, where a sync costs nothing.
///
/// # Errors
/// When there is no such folder.
pub fn in_memory(folder: &Path) -> io::Result<bool> {
    Ok(matches!(rustix::fs::statfs(folder)?.f_type, TMPFS_MAGIC | RAMFS_MAGIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_in_memory_and_a_missing_folder_is_an_error() {
        assert!(!in_memory(Path::new("/proc")).unwrap());
        if Path::new("/dev/shm").exists() {
            assert!(in_memory(Path::new("/dev/shm")).unwrap());
        }
        assert!(in_memory(Path::new("/no/such/folder")).is_err());
    }
}
