//! Bytes of a node's files that decay.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// So many at the most.
const FLIPS_MAX: u32 = 100;

/// What is hit.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// The files of the state.
    State,
    /// Those of the journal that others follow.
    Sealed,
    /// The whole journal.
    Journal,
    All,
}

/// Flips single bits in files of this data folder, drawn from the seed. Says how many and where.
pub(super) fn flip(data: &Path, seed: u64) -> io::Result<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let targets = [Target::State, Target::Sealed, Target::Journal, Target::All];
    let target = targets[random.usize(..targets.len())];
    // Few are as likely as many.
    let most = [1, 10, FLIPS_MAX][random.usize(..3)];
    let count = random.u32(1..=most);
    let (state, journal) = (state_files(data)?, segments(data)?);
    let (files, place) = match target {
        Target::State => (state.clone(), "the state"),
        Target::Sealed => (journal[..journal.len().saturating_sub(1)].to_vec(), "full segments"),
        Target::Journal => (journal.clone(), "the journal"),
        Target::All => (Vec::new(), ""),
    };
    let (files, place) = match length(&files)? {
        // There may be nothing yet of what was drawn.
        0 => ([state, journal].concat(), "the journal and the state"),
        _ => (files, place),
    };
    for (path, offsets) in draw(&files, count, &mut random)? {
        let mut bytes = fs::read(&path)?;
        for offset in offsets {
            bytes[offset] ^= 1 << random.u32(..8);
        }
        fs::write(path, bytes)?;
    }
    let bytes = if count == 1 { "byte" } else { "bytes" };
    Ok(format!("{count} {bytes} of {place} flipped"))
}

/// Places in these files, each as likely as any other.
fn draw(
    files: &[PathBuf],
    count: u32,
    random: &mut fastrand::Rng,
) -> io::Result<BTreeMap<PathBuf, Vec<usize>>> {
    let mut drawn: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
    let total = length(files)?;
    if total == 0 {
        return Err(io::Error::other("there is nothing to damage"));
    }
    for _ in 0..count {
        let mut at = random.u64(..total);
        for path in files {
            let bytes = fs::metadata(path)?.len();
            if at < bytes {
                let offset = usize::try_from(at).map_err(io::Error::other)?;
                drawn.entry(path.clone()).or_default().push(offset);
                break;
            }
            at -= bytes;
        }
    }
    Ok(drawn)
}

fn length(files: &[PathBuf]) -> io::Result<u64> {
    files.iter().map(|path| fs::metadata(path).map(|file| file.len())).sum()
}

/// The journal's files that hold something, in their order.
fn segments(data: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in files(&data.join("journal"))? {
        let is_segment = path.extension().is_some_and(|end| end == "seg");
        if is_segment && fs::read(&path)?.iter().any(|byte| *byte != 0) {
            found.push(path);
        }
    }
    Ok(found)
}

fn state_files(data: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("state") && path.is_dir() {
            found.extend(files(&path)?);
        }
    }
    found.sort();
    Ok(found)
}

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_flips_the_same_bits_of_journal_and_state_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let names =
            ["journal/1.seg", "journal/2.seg", "journal/3.seg", "state/1.sst", "identity.json"];
        let write = || {
            for name in names {
                let path = folder.path().join(name);
                fs::create_dir_all(path.parent().expect("a folder")).expect("made");
                // The last segment is one that was made ahead.
                let byte = if name == "journal/3.seg" { 0 } else { 7 };
                fs::write(path, [byte; 4_000]).expect("written");
            }
        };
        let read = || names.map(|name| fs::read(folder.path().join(name)).expect("readable"));
        for seed in 0..50 {
            write();
            let before = read();
            let told = flip(folder.path(), seed).expect("flipped");
            let after = read();
            assert_ne!(before, after, "{told}");
            assert_eq!(before[2..3], after[2..3], "{told}");
            assert_eq!(before[4], after[4], "{told}");
            write();
            assert_eq!(flip(folder.path(), seed).expect("flipped"), told);
            assert_eq!(read(), after);
        }
    }
}
