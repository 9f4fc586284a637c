//! What a durable group costs, beside the bare write and fdatasync of as many bytes:
//! `cargo bench -p synod-journal`. An argument names the folder to use.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use synod_journal::{ClusterId, Journal, JournalOptions};
use synod_paxos::{Ballot, NodeId, Record, RecordBody, Slot, Value};

const GROUPS: u64 = 4_000;
const BALLOT: Ballot = Ballot { round: 1, node: NodeId(1) };

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let folder = folder.unwrap_or_else(|| ".".to_owned());
    println!("value bytes | raw p50 us | raw/s | journal p50 us | p99 us | max us | journal/s");
    for value_bytes in [1 << 10, 16 << 10, 128 << 10] {
        let dir = tempfile::tempdir_in(&folder).expect("a folder to write to");
        let raw = raw(&dir.path().join("raw"), value_bytes);
        let journal = journal(&dir.path().join("journal"), value_bytes);
        println!(
            "{value_bytes:>11} | {:>10} | {:>5.0} | {:>14} | {:>6} | {:>6} | {:>9.0}",
            percentile(&raw, 50).as_micros(),
            rate(&raw),
            percentile(&journal, 50).as_micros(),
            percentile(&journal, 99).as_micros(),
            percentile(&journal, 100).as_micros(),
            rate(&journal),
        );
    }
}

/// Overwrites a file of zeros piece by piece.
fn raw(path: &Path, bytes: usize) -> Vec<Duration> {
    let file: File =
        OpenOptions::new().read(true).write(true).create_new(true).open(path).expect("a file");
    let length = (16 << 20) / bytes * bytes;
    file.write_all_at(&vec![0; length], 0).expect("zeros");
    file.sync_all().expect("a sync");
    let data = vec![7; bytes];
    let mut at = 0;
    let once = |_| {
        let start = Instant::now();
        file.write_all_at(&data, at as u64).expect("a write");
        file.sync_data().expect("a sync");
        at = (at + bytes) % length;
        start.elapsed()
    };
    (0..GROUPS).map(once).collect()
}

fn journal(dir: &Path, bytes: usize) -> Vec<Duration> {
    let (cluster, options) = (ClusterId(1), JournalOptions::default());
    Journal::create(dir, cluster, &options).expect("a new journal");
    let mut journal = Journal::open(dir, cluster, &options).expect("a journal").journal;
    let value = Value::Batch(Bytes::from(vec![7; bytes]));
    let once = |slot: u64| {
        let body = RecordBody::Accepted { slot: Slot(slot), ballot: BALLOT, value: value.clone() };
        let record = Record { promised: BALLOT, chosen_upto: Slot(slot - 1), body };
        let start = Instant::now();
        journal.append(&[record]).expect("room");
        journal.sync().expect("a sync");
        let took = start.elapsed();
        if slot.is_multiple_of(1_000) {
            journal.truncate(Slot(slot - 500)).expect("a truncation");
        }
        took
    };
    (1..=GROUPS).map(once).collect()
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) * percent / 100]
}

fn rate(times: &[Duration]) -> f64 {
    times.len() as f64 / times.iter().sum::<Duration>().as_secs_f64()
}
