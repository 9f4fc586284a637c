//! What tests of damaged files share: a cluster with small files, and what flips their bytes.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::cluster::{TestCluster, synod};
use super::wait::wait_until;
use super::writers::Writers;

/// Journals of small files of which none is kept for others, and a state that is flushed often.
pub const SMALL: &str = "\n[limits]\nsegment_bytes = 65536\nwrite_buffer_bytes = 1048576\n\
    [timing]\nflush_interval_ms = 100\n[snapshot]\ntail_bytes_max = 0\ntail_ms_max = 0\n\
    keep_for_peers_ms = 0\ndisk_reserve_bytes = 0\n";
/// Everything is read all the time.
pub const SCRUBBED: &str = "[scrub]\ninterval_s = 1\nrate_bytes_per_s = 68719476736\n";

pub fn cluster(settings: &str) -> TestCluster {
    let mut cluster = TestCluster::start(3);
    assert!(cluster.stop().success());
    for id in cluster.ids() {
        let path = cluster.settings_path(id);
        let mut file = File::options().append(true).open(path).expect("settings");
        file.write_all(settings.as_bytes()).expect("written");
        // What was made before is as large as the settings said then.
        fs::remove_dir_all(data(&cluster, id)).expect("removed");
        let config = cluster.settings_path(id).display().to_string();
        assert!(synod(&["init", "--config", &config]).status.success());
    }
    cluster.launch();
    cluster
}

pub fn data(cluster: &TestCluster, id: u32) -> PathBuf {
    cluster.data_dir().join(format!("node-{id}")).join("data")
}

pub fn number(cluster: &TestCluster, id: u32, field: &str) -> u64 {
    cluster.status(id).and_then(|status| status[field].as_u64()).unwrap_or(0)
}

pub fn equal(cluster: &TestCluster, one: u32, other: u32) -> bool {
    let state = |id| {
        let status = cluster.status(id)?;
        let serves = cluster.try_request(id, "GET", "/readyz", &[], b"").ok()?.status == 200;
        serves.then(|| (status["applied_slot"].clone(), status["state_hash"].clone()))
    };
    state(one).is_some() && state(one) == state(other)
}

pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The journal's files that others follow and that hold something, and all but the last of
/// them count as sealed.
pub fn sealed(data: &Path) -> Vec<PathBuf> {
    let mut segments = used(data);
    segments.pop();
    segments
}

/// The file of the journal in data that was written last.
pub fn newest(data: &Path) -> PathBuf {
    used(data).pop().expect("there is always one")
}

/// The files of the journal in data in which anything was written, oldest first.
fn used(data: &Path) -> Vec<PathBuf> {
    let mut segments = files(&data.join("journal"));
    segments.retain(|path| path.extension().is_some_and(|end| end == "seg"));
    segments.retain(|path| fs::read(path).expect("readable").iter().any(|byte| *byte != 0));
    segments
}

/// The state's files of data.
pub fn tables(data: &Path) -> Vec<PathBuf> {
    let is_state =
        |path: &PathBuf| path.strip_prefix(data).is_ok_and(|rest| rest.starts_with("state"));
    let mut tables = files(data);
    tables.retain(|path| is_state(path) || path.to_string_lossy().contains("/state-"));
    tables.retain(|path| path.extension().is_some_and(|end| end == "sst"));
    tables
}

/// Flips bytes anywhere in these files, each as likely as any other.
pub fn flip(paths: &[PathBuf], count: usize, random: &mut fastrand::Rng) {
    let length = |path: &PathBuf| fs::metadata(path).expect("there").len();
    let total: u64 = paths.iter().map(length).sum();
    for _ in 0..count {
        let mut at = random.u64(..total);
        let hit = paths.iter().find(|path| match length(path) {
            bytes if at < bytes => true,
            bytes => {
                at -= bytes;
                false
            }
        });
        let path = hit.expect("some file");
        let mut bytes = fs::read(path).expect("readable");
        let at = usize::try_from(at).expect("small");
        bytes[at] ^= 1 << random.u32(..8);
        fs::write(path, bytes).expect("written");
    }
}

/// Writes until the journals do not go back to the beginning any more.
pub fn fill(cluster: &mut TestCluster, writers: &Writers) {
    writers.during(cluster, &[1, 2, 3, 1], |cluster| {
        wait_until("the journals are cut", || {
            writers.count() > 500
                && cluster.ids().all(|id| number(cluster, id, "truncated_slot") > 0)
        });
    });
}
