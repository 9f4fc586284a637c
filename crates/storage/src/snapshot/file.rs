//! The files of a snapshot, and which of them may be written at all.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::SnapshotError;

/// More files than a state ever has.
pub const FILES_MAX: usize = 100_000;
/// Bytes that are read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// One file of a snapshot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SnapshotFile {
    /// Its name in the folder.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Whether a file of this name belongs to a snapshot. What a peer names is joined to a
/// path, so nothing else is ever written.
pub(crate) fn is_name(name: &str) -> bool {
    let digits = |text: &str| {
        (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    name == "CURRENT"
        || name.strip_suffix(".sst").is_some_and(digits)
        || name.strip_prefix("MANIFEST-").is_some_and(digits)
        || name.strip_prefix("OPTIONS-").is_some_and(digits)
}

/// Checks the list of a snapshot's files, and answers the size of all.
///
/// # Errors
/// When a node would not have made it.
pub(crate) fn check(files: &[SnapshotFile]) -> Result<u64, SnapshotError> {
    let refused = |reason: String| Err(SnapshotError::Refused(reason));
    if files.len() > FILES_MAX {
        return refused(format!("it has {} files", files.len()));
    }
    let mut total = 0_u64;
    for (index, file) in files.iter().enumerate() {
        if !is_name(&file.name) {
            return refused(format!("it has a file named {:?}", file.name));
        }
        if index > 0 && files[index - 1].name >= file.name {
            return refused(format!("{:?} does not stand in order", file.name));
        }
        let Some(sum) = total.checked_add(file.bytes) else {
            return refused("its size has no end".to_owned());
        };
        total = sum;
    }
    let count = |start: &str| files.iter().filter(|file| file.name.starts_with(start)).count();
    if count("CURRENT") != 1 || count("MANIFEST-") != 1 {
        return refused("it needs one file CURRENT and one MANIFEST".to_owned());
    }
    Ok(total)
}

/// The CRC-32C of a whole file.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn checksum(path: &Path) -> io::Result<u32> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut checksum = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(checksum);
        }
        checksum = crc32c::crc32c_append(checksum, &buffer[..count]);
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<SnapshotFile> {
        names.iter().map(|name| SnapshotFile { name: (*name).to_owned(), bytes: 7 }).collect()
    }

    #[test]
    fn only_names_of_a_state_are_taken() {
        for name in ["CURRENT", "000012.sst", "MANIFEST-000004", "OPTIONS-000007"] {
            assert!(is_name(name), "{name}");
        }
        let wrong = [
            "",
            "..",
            "/etc/passwd",
            "../CURRENT",
            "a.sst",
            ".sst",
            "1.sst/..",
            "1/2.sst",
            "LOCK",
            "INSTALLED",
            "000012.log",
            "MANIFEST-",
            "MANIFEST-1\0",
            "current",
            "OPTIONS-1.dbtmp",
            "123456789012345678901.sst",
        ];
        for name in wrong {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn a_list_that_no_node_makes_is_refused() {
        assert_eq!(check(&files(&["1.sst", "CURRENT", "MANIFEST-1"])).expect("fits"), 21);
        for names in [
            &["CURRENT"][..],
            &["MANIFEST-1"],
            &["CURRENT", "CURRENT", "MANIFEST-1"],
            &["CURRENT", "MANIFEST-1", "MANIFEST-2"],
            &["MANIFEST-1", "CURRENT"],
            &["../1.sst", "CURRENT", "MANIFEST-1"],
        ] {
            assert!(matches!(check(&files(names)), Err(SnapshotError::Refused(_))), "{names:?}");
        }
        let mut huge = files(&["CURRENT", "MANIFEST-1"]);
        huge[0].bytes = u64::MAX;
        assert!(matches!(check(&huge), Err(SnapshotError::Refused(_))));
    }
}
