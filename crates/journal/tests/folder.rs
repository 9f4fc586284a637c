//! The folder and its refusals.

// Test data is small numbers.
#![allow(clippy::cast_possible_truncation)]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use synod_journal::{ClusterId, Journal, JournalError, JournalOptions, OpenError};
use synod_paxos::{
    Ballot, Configuration, NodeId, Position, Record, RecordBody, Recovered, Slot, Value,
};

const CLUSTER: ClusterId = ClusterId(77);
const SMALL: JournalOptions = JournalOptions { segment_bytes: 4096, format: 1 };
const BALLOT: Ballot = Ballot { round: 1, node: NodeId(1) };

fn accepted(slot: u64, chosen_upto: u64, bytes: usize) -> Record {
    let value = Value::Batch(Bytes::from(vec![slot as u8; bytes]));
    let body = RecordBody::Accepted { slot: Slot(slot), ballot: BALLOT, value };
    Record { promised: BALLOT, chosen_upto: Slot(chosen_upto), body }
}

fn created() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data/journal");
    Journal::create(&dir, CLUSTER).unwrap();
    (folder, dir)
}

fn open(dir: &Path) -> Journal {
    Journal::open(dir, CLUSTER, &SMALL).unwrap().journal
}

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016}.seg"))
}

#[test]
fn a_new_journal_is_empty_and_counts_its_lives() {
    let (_folder, dir) = created();
    for life in 1..=3 {
        let opened = Journal::open(&dir, CLUSTER, &SMALL).unwrap();
        assert_eq!((opened.recovered, opened.incarnation), (Recovered::empty(), life));
    }
}

#[test]
fn opening_again_and_again_costs_no_disk() {
    let (_folder, dir) = created();
    let mut journal = open(&dir);
    let (files, bytes) = (files(&dir), journal.bytes_on_disk());
    for life in 2..=50 {
        // As an election does at each start.
        if life % 25 == 0 {
            let promised = Ballot { round: life, node: NodeId(1) };
            let body = RecordBody::Promise;
            let record = Record { promised, chosen_upto: Slot::ZERO, body };
            journal.append(&[record]).unwrap();
            journal.sync().unwrap();
        }
        drop(journal);
        let opened = Journal::open(&dir, CLUSTER, &SMALL).unwrap();
        assert_eq!(opened.incarnation, life);
        assert_eq!(opened.recovered.promised.round, life - life % 25);
        journal = opened.journal;
        assert_eq!(journal.bytes_on_disk(), bytes, "life {life}");
    }
    drop(journal);
    assert_eq!(self::files(&dir), files);
}

/// How many segments there are, without the one that is being made ready.
fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap();
    let segments = entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    segments.filter(|bytes| bytes.iter().any(|byte| *byte != 0)).count()
}

#[test]
fn a_footer_that_a_crash_kept_from_being_written_is_written_by_the_next_life() {
    let (_folder, dir) = created();
    drop(open(&dir));
    let (first, second) = (segment(&dir, 1), segment(&dir, 2));
    let mut bytes = std::fs::read(&first).unwrap();
    let footer_at = bytes.len() - 512;
    assert!(bytes[footer_at..].iter().any(|byte| *byte != 0));
    bytes[footer_at..].fill(0);
    std::fs::write(&first, &bytes).unwrap();
    drop(open(&dir));
    // Without the footer the loss of the second segment would go unnoticed.
    std::fs::remove_file(&second).unwrap();
    let refused = Journal::inspect(&dir, CLUSTER);
    assert!(matches!(refused, Err(OpenError::PromiseNotProvable(_))), "{refused:?}");
}

#[test]
fn what_a_crash_left_of_a_file_goes_with_the_next_life() {
    let (_folder, dir) = created();
    let left = dir.join("new");
    std::fs::write(&left, [1; 700]).unwrap();
    Journal::inspect(&dir, CLUSTER).unwrap();
    assert!(left.exists());
    drop(open(&dir));
    assert!(!left.exists());
}

#[test]
fn a_folder_that_is_missing_or_empty_or_taken_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    assert!(matches!(Journal::open(&dir, CLUSTER, &SMALL), Err(OpenError::Missing(_))));
    std::fs::create_dir(&dir).unwrap();
    assert!(matches!(Journal::open(&dir, CLUSTER, &SMALL), Err(OpenError::Missing(_))));
    Journal::create(&dir, CLUSTER).unwrap();
    assert!(matches!(Journal::create(&dir, CLUSTER), Err(OpenError::Exists(_))));
    let other = Journal::open(&dir, ClusterId(78), &SMALL);
    assert!(matches!(other, Err(OpenError::WrongCluster { found: CLUSTER, .. })));
    let journal = open(&dir);
    assert!(matches!(Journal::open(&dir, CLUSTER, &SMALL), Err(OpenError::InUse(_))));
    drop(journal);
    open(&dir);
}

#[test]
fn a_creation_that_was_cut_short_can_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(segment(folder.path(), 1), [0; 1024]).unwrap();
    Journal::create(folder.path(), CLUSTER).unwrap();
    open(folder.path());
}

#[test]
fn only_the_owner_can_read_it() {
    let (_folder, dir) = created();
    let journal = open(&dir);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for entry in std::fs::read_dir(&dir).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    drop(journal);
}

#[test]
fn a_value_larger_than_a_segment_is_kept() {
    let (_folder, dir) = created();
    let mut journal = open(&dir);
    let records = [accepted(1, 0, 100_000), accepted(2, 0, 16 << 20), accepted(3, 3, 1)];
    journal.append(&records).unwrap();
    assert_eq!(journal.sync().unwrap(), Position(3));
    let sizes = |journal: &Journal| -> Vec<usize> {
        let values = journal.read_chosen(Slot(1), Slot(9), usize::MAX).unwrap();
        values.iter().map(Value::size_bytes).collect()
    };
    let written = sizes(&journal);
    assert_eq!(written.len(), 3);
    drop(journal);
    assert_eq!(sizes(&open(&dir)), written);
}

#[test]
fn every_kind_of_value_is_read_back_by_the_life_that_wrote_it_and_the_next() {
    let (_folder, dir) = created();
    let about = Bytes::from_static(b"where they are");
    let members = Configuration::majority([1, 2].map(NodeId).to_vec(), 3).unwrap();
    let members = members.with_about(about).unwrap().numbered(4);
    let batch = Value::Batch(Bytes::from_static(b"commands"));
    let values = [batch, Value::Configuration(Arc::new(members)), Value::Noop];
    let record = |(slot, value): (u64, &Value)| {
        let body = RecordBody::Accepted { slot: Slot(slot), ballot: BALLOT, value: value.clone() };
        Record { promised: BALLOT, chosen_upto: Slot(slot), body }
    };
    let records: Vec<Record> = (1..).zip(&values).map(record).collect();
    let mut journal = open(&dir);
    journal.append(&records).unwrap();
    journal.sync().unwrap();
    assert_eq!(journal.read_chosen(Slot(1), Slot(9), 9999).unwrap(), values);
    drop(journal);
    assert_eq!(open(&dir).read_chosen(Slot(1), Slot(9), 9999).unwrap(), values);
}

#[test]
fn a_value_that_is_too_large_fails_the_journal() {
    let (_folder, dir) = created();
    let mut journal = open(&dir);
    let error = journal.append(&[accepted(1, 0, (16 << 20) + 1)]).unwrap_err();
    assert!(matches!(error, JournalError::ValueTooLarge { .. }), "{error}");
    assert!(matches!(journal.sync(), Err(JournalError::Failed(_))));
}

#[test]
fn truncation_frees_the_disk_and_keeps_what_is_above() {
    let (_folder, dir) = created();
    let mut journal = open(&dir);
    for slot in 1..=200 {
        journal.append(&[accepted(slot, slot - 1, 700)]).unwrap();
        journal.sync().unwrap();
    }
    let full = journal.bytes_on_disk();
    // Slot 200 is not known as chosen, so it stays whatever is asked for.
    journal.truncate(Slot(1_000)).unwrap();
    assert!(journal.bytes_on_disk() <= 3 * 4096 && full > 20 * 4096);
    let first = journal.truncated_upto().next();
    let values = journal.read_chosen(first, Slot(199), usize::MAX).unwrap();
    assert_eq!(values.len() as u64, 199 - first.prior().0);
    assert!(journal.read_chosen(Slot(1), Slot(199), usize::MAX).unwrap().is_empty());
    drop(journal);
    let opened = Journal::open(&dir, CLUSTER, &SMALL).unwrap();
    assert_eq!(opened.recovered.truncated_upto, first.prior());
    assert_eq!(opened.recovered.chosen_upto, Slot(199));
    assert_eq!((opened.recovered.open.len(), opened.recovered.promised), (1, BALLOT));
}

/// Who cuts the journal goes by what it says of its segments: each is dropped when what it
/// holds is not needed, not before, and frees what it said. A restart tells the same.
#[test]
fn a_full_segment_tells_what_it_holds_and_what_dropping_it_frees() {
    let (_folder, dir) = created();
    let mut journal = open(&dir);
    let mut told = Vec::new();
    for slot in 1..=60 {
        journal.append(&[accepted(slot, slot - 1, 700)]).unwrap();
        journal.sync().unwrap();
        let after = told.last().map_or(0, |(number, _)| *number);
        told.extend(journal.filled_segments(after));
    }
    assert!(told.len() > 10);
    drop(journal);
    let mut journal = open(&dir);
    // The open sealed the last group, and that may have filled another.
    let again: Vec<_> = journal.filled_segments(0).collect();
    assert!(again.starts_with(&told), "{again:?} {told:?}");
    assert!(told.windows(2).all(|two| two[0].0 + 1 == two[1].0 && two[0].1.upto <= two[1].1.upto));
    for (number, full) in &told {
        let path = segment(&dir, *number);
        assert_eq!(path.metadata().unwrap().len(), full.bytes);
        if full.upto > Slot::ZERO {
            journal.truncate(full.upto.prior()).unwrap();
            assert!(path.exists(), "a value in it is still needed");
        }
        journal.truncate(full.upto).unwrap();
        assert!(!path.exists());
        assert_eq!(journal.truncated_upto(), full.upto);
    }
}

#[test]
fn nothing_that_is_not_known_as_chosen_is_dropped() {
    let (_folder, dir) = created();
    let mut journal = open(&dir);
    for slot in 1..=50 {
        journal.append(&[accepted(slot, 0, 700)]).unwrap();
        journal.sync().unwrap();
    }
    let full = journal.bytes_on_disk();
    journal.truncate(Slot(40)).unwrap();
    // The first segment never holds anything.
    assert_eq!(journal.bytes_on_disk(), full - 1536);
    assert_eq!(journal.truncated_upto(), Slot::ZERO);
    drop(journal);
    assert_eq!(Journal::open(&dir, CLUSTER, &SMALL).unwrap().recovered.open.len(), 50);
}

#[test]
fn a_segment_of_a_copy_that_went_its_own_way_is_noticed() {
    let (folder, dir) = created();
    let (_other_folder, other) = created();
    for (dir, bytes) in [(&dir, 2500), (&other, 2501)] {
        for life in 1..=2 {
            let mut journal = open(dir);
            journal.append(&[accepted(life, 0, bytes)]).unwrap();
            journal.sync().unwrap();
        }
    }
    std::fs::copy(segment(&other, 2), segment(&dir, 2)).unwrap();
    let refused = Journal::inspect(&dir, CLUSTER);
    let Err(OpenError::Damaged(damage)) = refused else { panic!("{refused:?}") };
    assert_eq!(damage.file, segment(&dir, 2));
    drop(folder);
}

#[test]
fn a_full_disk_or_a_failed_sync_stops_the_journal_for_good() {
    // These refuse a write with "no space left", and a sync with "invalid argument".
    for broken in ["/dev/full", "/dev/null"] {
        let (_folder, dir) = created();
        symlink(broken, segment(&dir, 4)).unwrap();
        let mut journal = open_beside_symlink(&dir);
        let mut slot = 0;
        let error = loop {
            slot += 1;
            journal.append(&[accepted(slot, 0, 700)]).unwrap();
            if let Err(error) = journal.sync() {
                break error;
            }
            assert!(slot < 100, "the third segment never filled up");
        };
        assert!(matches!(error, JournalError::Io { .. }), "{error}");
        let failed = |error| matches!(error, JournalError::Failed(_));
        assert!(failed(journal.append(&[accepted(slot, 0, 1)]).unwrap_err()));
        assert!(failed(journal.sync().unwrap_err()));
        assert!(failed(journal.seal().unwrap_err()));
        assert!(failed(journal.truncate(Slot(1)).unwrap_err()));
        assert!(failed(journal.read_chosen(Slot(1), Slot(1), 1).unwrap_err()));
        drop(journal);
        // What was acknowledged before is there once there is room again.
        std::fs::remove_file(segment(&dir, 4)).unwrap();
        let recovered = Journal::open(&dir, CLUSTER, &SMALL).unwrap().recovered;
        assert_eq!(recovered.open.len() as u64, slot - 1);
    }
}

/// The first life uses segment 2 and has 3 made ready; 4 is the broken one.
fn open_beside_symlink(dir: &Path) -> Journal {
    let target = std::fs::read_link(segment(dir, 4)).unwrap();
    std::fs::remove_file(segment(dir, 4)).unwrap();
    let journal = open(dir);
    symlink(target, segment(dir, 4)).unwrap();
    journal
}

#[test]
#[should_panic(expected = "a promise goes back")]
fn a_promise_never_goes_back() {
    let (_folder, dir) = created();
    let mut journal = open(&dir);
    journal.append(&[accepted(1, 0, 1)]).unwrap();
    let lower = Record { promised: Ballot::ZERO, ..accepted(2, 0, 1) };
    let _ = journal.append(&[lower]);
}

#[test]
#[should_panic(expected = "never recorded")]
fn the_watermark_never_passes_a_slot_that_is_not_recorded() {
    let (_folder, dir) = created();
    let mut journal = open(&dir);
    journal.append(&[accepted(2, 2, 1)]).unwrap();
    let _ = journal.sync();
}
