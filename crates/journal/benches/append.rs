//! What a durable group costs, beside the bare write and fdatasync of as many bytes:
//! `cargo bench -p synod-journal`. An argument after `--` names the folder to use.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use synod_journal::{ClusterId, Journal, JournalOptions};
use synod_paxos::{Ballot, NodeId, Record, RecordBody, Slot, Value};

const CLUSTER: ClusterId = ClusterId(1);
const GROUPS: u64 = 4_000;
const BALLOT: Ballot = Ballot { round: 1, node: NodeId(1) };

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let folder = folder.unwrap_or_else(|| ".".to_owned());
    println!("value bytes | raw p50 us | raw/s | journal p50 us | p99 us | max us | journal/s");
    for value_bytes in [1 << 10, 8 << 10, 16 << 10, 128 << 10] {
        let dir = tempfile::tempdir_in(&folder).expect("a folder to write to");
        let (mut raw, mut journal) = (Raw::new(&dir.path().join("raw"), value_bytes), Vec::new());
        let mut raw_times = Vec::new();
        let mut subject = Subject::new(&dir.path().join("journal"), value_bytes);
        // In turn, so that what else the machine does hits both alike.
        for slot in 1..=GROUPS {
            raw_times.push(timed(|| raw.write()));
            journal.push(timed(|| subject.write(slot)));
            if slot.is_multiple_of(1_000) {
                subject.journal.truncate(Slot(slot - 500)).expect("a truncation");
            }
        }
        println!(
            "{value_bytes:>11} | {:>10} | {:>5.0} | {:>14} | {:>6} | {:>6} | {:>9.0}",
            percentile(&raw_times, 50).as_micros(),
            rate(&raw_times),
            percentile(&journal, 50).as_micros(),
            percentile(&journal, 99).as_micros(),
            percentile(&journal, 100).as_micros(),
            rate(&journal),
        );
        subject.report_reopening();
    }
}

/// Overwrites a file of zeros piece by piece.
struct Raw {
    file: File,
    data: Vec<u8>,
    length: usize,
    at: usize,
}

impl Raw {
    fn new(path: &Path, bytes: usize) -> Raw {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(path).expect("a file");
        let length = (16 << 20) / bytes * bytes;
        file.write_all_at(&vec![0; length], 0).expect("zeros");
        file.sync_all().expect("a sync");
        Raw { file, data: vec![7; bytes], length, at: 0 }
    }

    fn write(&mut self) {
        self.file.write_all_at(&self.data, self.at as u64).expect("a write");
        self.file.sync_data().expect("a sync");
        self.at = (self.at + self.data.len()) % self.length;
    }
}

/// One record a group, as one client's write would be.
struct Subject {
    dir: PathBuf,
    journal: Journal,
    value: Value,
}

impl Subject {
    fn new(dir: &Path, bytes: usize) -> Subject {
        let options = JournalOptions::default();
        Journal::create(dir, CLUSTER).expect("a new journal");
        let journal = Journal::open(dir, CLUSTER, &options).expect("a journal").journal;
        Subject { dir: dir.to_owned(), journal, value: Value::Batch(Bytes::from(vec![7; bytes])) }
    }

    /// How long a restart takes to read and check everything.
    fn report_reopening(self) {
        let mib = self.journal.bytes_on_disk() >> 20;
        drop(self.journal);
        let start = Instant::now();
        Journal::inspect(&self.dir, CLUSTER).expect("an intact journal");
        println!("{:>11} | checking {mib} MiB took {} ms", "", start.elapsed().as_millis());
    }

    fn write(&mut self, slot: u64) {
        let value = self.value.clone();
        let body = RecordBody::Accepted { slot: Slot(slot), ballot: BALLOT, value };
        let record = Record { promised: BALLOT, chosen_upto: Slot(slot - 1), body };
        self.journal.append(&[record]).expect("room");
        self.journal.sync().expect("a sync");
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) * percent / 100]
}

fn rate(times: &[Duration]) -> f64 {
    times.len() as f64 / times.iter().sum::<Duration>().as_secs_f64()
}
