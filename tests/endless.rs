//! Load without end on data that do not grow: what the disk holds stays within the bound
//! that docs/operations.md states, on every node, all the time.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use support::cluster::TestCluster;
use support::http;
use support::wait::wait_until;

const MIB: u64 = 1 << 20;
const SEGMENT_BYTES: u64 = 256 << 10;
const TAIL_BYTES: u64 = 2 * MIB;
const BUFFER_BYTES: u64 = MIB;
/// Keys that exist at a time, and the bytes of each.
const KEYS: u64 = 200;
const VALUE_BYTES: u16 = 10_000;
/// Old revisions that are kept; a few more until the leader's node looks.
const REVISIONS: u64 = 200;
/// What is written in all, far more than the bound.
const WRITTEN_BYTES: u64 = 220 * MIB;
const CLIENTS: u64 = 8;

/// As docs/operations.md says it.
fn bound() -> u64 {
    let live = KEYS * u64::from(VALUE_BYTES);
    let history = 2 * REVISIONS * u64::from(VALUE_BYTES);
    TAIL_BYTES + 4 * SEGMENT_BYTES + 3 * (live + history) + 44 * BUFFER_BYTES + 8 * MIB
}

fn cluster() -> TestCluster {
    let mut cluster = TestCluster::start(3);
    assert!(cluster.stop().success());
    let settings = format!(
        "\n[limits]\nsegment_bytes = {SEGMENT_BYTES}\nwrite_buffer_bytes = {BUFFER_BYTES}\n\
         [timing]\nflush_interval_ms = 100\n[snapshot]\ntail_bytes_max = {TAIL_BYTES}\n\
         keep_for_peers_ms = 0\n[history]\nkeep_ms = 0\nrevisions_max = {REVISIONS}\n"
    );
    for id in cluster.ids() {
        let mut file =
            File::options().append(true).open(cluster.settings_path(id)).expect("settings");
        file.write_all(settings.as_bytes()).expect("written");
    }
    cluster.launch();
    cluster
}

/// What the files below a folder take; files may come and go meanwhile.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_below(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Every value is one that does not compress.
fn value(number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    std::iter::repeat_with(|| random.u8(..)).take(VALUE_BYTES.into()).collect()
}

/// Writes until all is written; `step` does the how-manieth step of the load and says what it wrote.
fn load(cluster: &TestCluster, step: impl Fn(&dyn Fn(&str, &str, &[u8]), u64) + Sync) -> u64 {
    let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let steps = WRITTEN_BYTES / u64::from(VALUE_BYTES);
    let mut worst = 0;
    thread::scope(|threads| {
        let clients = (0..CLIENTS).map(|client| {
            let id = u32::try_from(client % 3).expect("small") + 1;
            let address = cluster.client_addr(id);
            let (next, step) = (&next, &step);
            threads.spawn(move || {
                let ask = |method: &str, key: &str, body: &[u8]| {
                    wait_until("an answer", || {
                        let target = format!("/v1/kv/{key}");
                        let answer = http::request(address, method, &target, &[], body);
                        answer.is_ok_and(|answer| answer.status < 300 || answer.status == 404)
                    });
                };
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= steps {
                        return;
                    }
                    step(&ask, number);
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        let watcher = threads.spawn(|| {
            let mut worst = 0;
            while !is_over.load(Relaxed) {
                for id in cluster.ids() {
                    let folder = cluster.settings_path(id).with_file_name("data");
                    worst = worst.max(bytes_below(&folder));
                }
                // As often as it can: a pause would only make it look less often.
                thread::yield_now();
            }
            worst
        });
        // Each of their requests has a deadline of its own.
        let ended: Vec<_> = clients.into_iter().map(thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Relaxed);
        assert!(ended.iter().all(Result::is_ok), "every client came to its end");
        worst = watcher.join().expect("it only looks");
    });
    worst
}

#[test]
fn keys_that_are_overwritten_for_ever_take_no_more_room() {
    let cluster = cluster();
    let worst = load(&cluster, |ask, number| {
        ask("PUT", &format!("{:04}", number % KEYS), &value(number));
    });
    println!("at most {} KiB of {} KiB", worst >> 10, bound() >> 10);
    assert!(worst <= bound(), "{worst} bytes, and {} are promised", bound());
    assert!(bound() < WRITTEN_BYTES / 3, "or the test shows nothing");
}

#[test]
fn a_queue_of_keys_takes_no_more_room() {
    let cluster = cluster();
    let worst = load(&cluster, |ask, number| {
        ask("PUT", &format!("{number:012}"), &value(number));
        if let Some(old) = number.checked_sub(KEYS) {
            ask("DELETE", &format!("{old:012}"), b"");
        }
    });
    println!("at most {} KiB of {} KiB", worst >> 10, bound() >> 10);
    assert!(worst <= bound(), "{worst} bytes, and {} are promised", bound());
}
