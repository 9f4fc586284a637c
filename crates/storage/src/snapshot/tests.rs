//! Snapshots in real folders, with a crash at each step.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use synod_kv::{
    Command, Condition, KvOptions, ListQuery, Operation, ServerId, State, StateMachine, read,
};

use super::{Arrival, Checkpoint, SnapshotError, SnapshotFile, StateFolders, Verified};
use crate::{Store, StoreOptions, failpoint};

const CHUNK_BYTES: usize = 10_000;

fn small() -> StoreOptions {
    StoreOptions { memtable_bytes: 64 << 10, ..StoreOptions::default() }
}

fn machine(path: &Path) -> StateMachine<Store> {
    StateMachine::open(Store::open(path, &small()).expect("opens"), KvOptions::default())
        .expect("readable")
}

/// Applies slots up to `upto`, each one a put of its own.
fn apply(machine: &mut StateMachine<Store>, upto: u64) {
    while machine.applied_slot() < upto {
        let slot = machine.applied_slot() + 1;
        let key = Bytes::from(format!("{:05}", slot * 7_919 % 500));
        let value = Bytes::from(vec![u8::try_from(slot % 251).expect("small"); 300]);
        let condition = Condition::Always;
        let operation = Operation::Put { key, value, condition, want_previous: false };
        let id = ServerId { origin: 1, incarnation: 1, sequence: slot };
        let command = Command { idempotency: None, operation };
        machine.apply(slot, slot, &[(id, command)]).expect("applied");
        machine.commit().expect("committed");
    }
}

fn listed(store: &Store) -> Vec<synod_kv::Entry> {
    let query = ListQuery { limit: usize::MAX, visits_max: usize::MAX, ..ListQuery::prefix(b"") };
    read::list(store, &query).expect("readable").entries
}

/// A checkpoint of a state with `slots` slots, made in `folder`.
fn checkpoint(folder: &Path, slots: u64) -> Checkpoint {
    let mut machine = machine(&folder.join("source"));
    apply(&mut machine, slots);
    machine.map().checkpoint(&folder.join(format!("checkpoint-{slots}"))).expect("made")
}

/// Copies it over as two nodes would.
fn receive(source: &mut Checkpoint, folders: &StateFolders) -> Result<Verified, SnapshotError> {
    let (slot, files) = (source.state().applied_slot, source.files().to_vec());
    let mut arrival = Arrival::begin(folders, slot, files.clone(), 0)?;
    for (number, file) in files.iter().enumerate() {
        let mut offset = 0;
        while offset < file.bytes {
            let chunk = source.read(number, offset, CHUNK_BYTES).expect("readable").expect("there");
            arrival.write(number, offset, &chunk)?;
            offset += chunk.len() as u64;
        }
        arrival.finish_file(number, source.checksum(number).expect("readable"))?;
    }
    arrival.verify(|| true)
}

#[test]
fn a_state_goes_from_one_folder_to_another() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut source = checkpoint(dir.path(), 2_000);
    assert_eq!(source.state().applied_slot, 2_000);
    let folders = StateFolders::new(dir.path());
    assert_eq!(folders.current().expect("readable"), dir.path().join("state"));
    let mut old = machine(&folders.current().expect("readable"));
    apply(&mut old, 50);
    let before = listed(old.map());

    let verified = receive(&mut source, &folders).expect("received");
    let prepared = folders.prepare(verified).expect("marked");
    let installed = folders.install(prepared).expect("installed");
    assert_eq!(installed.slot, 2_000);
    assert_eq!(folders.current().expect("readable"), installed.path);
    assert_eq!(StateFolders::mark(&installed.path).expect("readable"), Some(2_000));
    let new = machine(&installed.path);
    let source = machine(&dir.path().join("source"));
    assert_eq!(listed(new.map()), listed(source.map()));
    assert_eq!((new.applied_slot(), new.state_hash()), (2_000, source.state_hash()));

    // Readers of the old one go on until the last is gone.
    let reader = old.map().clone();
    assert_eq!(listed(&reader), before);
    let kept = old.map().clone().remove_if_unused().expect("no error").expect("in use");
    drop(old);
    drop(reader);
    assert!(kept.remove_if_unused().expect("removed").is_none());
    assert!(!dir.path().join("state").exists());
    folders.remove_mark(&installed.path).expect("removed");
    assert_eq!(StateFolders::mark(&installed.path).expect("readable"), None);
}

#[test]
fn a_crash_at_any_step_leaves_the_old_state_or_the_new_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut source = checkpoint(dir.path(), 900);
    for (number, step) in failpoint::INSTALL_STEPS.into_iter().enumerate() {
        if step == "opened" {
            continue; // Of the node, which tests it.
        }
        let data = dir.path().join(format!("node-{number}"));
        fs::create_dir(&data).expect("made");
        let folders = StateFolders::new(&data);
        let mut old = machine(&folders.current().expect("readable"));
        apply(&mut old, 50);
        old.map().flush().expect("flushed");
        let before = listed(old.map());
        drop(old);

        failpoint::arm(&data, step);
        let installed = receive(&mut source, &folders)
            .and_then(|verified| folders.prepare(verified))
            .and_then(|prepared| folders.install(prepared))
            .and_then(|installed| folders.remove_mark(&installed.path));
        installed.expect_err("it crashed");
        assert!(!failpoint::is_armed(&data, step), "{step} was not reached");

        // The next start.
        let state = folders.current().expect("readable");
        let left = folders.clean().expect("cleaned");
        assert!(!left.is_empty(), "{step}");
        let names = fs::read_dir(&data).expect("readable").count();
        assert_eq!(names, 1, "{step}: one state, nothing else");
        let is_new = ["switched", "switch durable", "journal told", "mark removed"].contains(&step);
        let found = machine(&state);
        assert_eq!(found.applied_slot(), if is_new { 900 } else { 50 }, "{step}");
        assert_eq!(listed(found.map()) == before, !is_new, "{step}");
        let mark = StateFolders::mark(&state).expect("readable");
        let is_marked = is_new && step != "mark removed";
        assert_eq!(mark, is_marked.then_some(900), "{step}");
        drop(found);
        // And another try succeeds, with the same slot or a higher one.
        if !is_new {
            let verified = receive(&mut source, &folders).expect("received");
            let prepared = folders.prepare(verified).expect("marked");
            folders.install(prepared).expect("installed");
        }
        assert_eq!(machine(&folders.current().expect("readable")).applied_slot(), 900);
    }
}

#[test]
fn a_damaged_byte_is_found_before_the_switch() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut source = checkpoint(dir.path(), 900);
    let folders = StateFolders::new(dir.path());
    let files = source.files().to_vec();
    // On the way: what was written is not what was sent.
    let mut arrival = Arrival::begin(&folders, 900, files.clone(), 0).expect("begun");
    let checksum = source.checksum(0).expect("readable");
    let mut send = |flip: u8| {
        let mut offset = 0;
        while offset < files[0].bytes {
            let chunk = source.read(0, offset, CHUNK_BYTES).expect("readable");
            let mut chunk = chunk.expect("there");
            chunk[3] ^= if offset == 0 { flip } else { 0 };
            arrival.write(0, offset, &chunk).expect("written");
            offset += chunk.len() as u64;
        }
        arrival.finish_file(0, checksum)
    };
    let damaged = send(1);
    assert!(matches!(damaged, Err(SnapshotError::Damaged(_))), "{damaged:?}");
    // Once more, and right.
    send(0).expect("whole");

    // At the source, before its checksums were made: the blocks' own tell.
    let tables = files.iter().filter(|file| file.name.ends_with(".sst"));
    let table = tables.max_by_key(|file| file.bytes).expect("a table");
    for name in [
        &table.name,
        "CURRENT",
        &files.iter().find(|f| f.name.starts_with("MANIFEST")).expect("one").name,
    ] {
        let mut copy = copied(&dir.path().join("checkpoint-900"), &dir.path().join("rotten"));
        let path = dir.path().join("rotten").join(name);
        let bytes = fs::metadata(&path).expect("there").len();
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("opens");
        let mut byte = [0];
        file.read_exact_at(&mut byte, bytes / 2).expect("read");
        file.write_all_at(&[byte[0] ^ 0x10], bytes / 2).expect("written");
        let received = receive(&mut copy, &folders).map(|verified| verified.state.applied_slot);
        assert!(matches!(received, Err(SnapshotError::Damaged(_))), "{name}: {received:?}");
        copy.remove().expect("removed");
    }
    assert!(!folders.current().expect("readable").exists(), "nothing was switched to");
}

/// A checkpoint with files of its own.
fn copied(from: &Path, to: &Path) -> Checkpoint {
    fs::create_dir(to).expect("made");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
    Checkpoint::open(to).expect("opens")
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let folders = StateFolders::new(dir.path());
    let file = |name: &str, bytes| SnapshotFile { name: name.to_owned(), bytes };
    let files = vec![file("1.sst", 1 << 62), file("CURRENT", 16), file("MANIFEST-1", 100)];
    let error = Arrival::begin(&folders, 7, files, 0).expect_err("no disk is so large");
    assert!(matches!(error, SnapshotError::NoRoom { .. }), "{error}");
    let files = vec![file("CURRENT", 16), file("MANIFEST-1", 100)];
    let error = Arrival::begin(&folders, 7, files.clone(), u64::MAX).expect_err("no reserve");
    assert!(matches!(error, SnapshotError::NoRoom { .. }), "{error}");
    assert!(!folders.arriving().exists());

    let mut arrival = Arrival::begin(&folders, 7, files, 0).expect("begun");
    for (file, offset, bytes) in [(2, 0, 1), (0, 16, 1), (0, 0, 17), (0, u64::MAX, 1)] {
        let error = arrival.write(file, offset, &vec![0; bytes]).expect_err("outside");
        assert!(matches!(error, SnapshotError::Refused(_)), "{error}");
    }
    let error = arrival.verify(|| true).expect_err("it is empty");
    assert!(matches!(error, SnapshotError::Damaged(_)), "{error}");
}

#[test]
fn a_disk_that_fills_meanwhile_ends_an_arrival() {
    let dir = tempfile::tempdir().expect("a folder");
    let folders = StateFolders::new(dir.path());
    let mut source = checkpoint(dir.path(), 100);
    let (files, last) = (source.files().to_vec(), source.files().len() - 1);
    let mut arrival = Arrival::begin(&folders, 100, files.clone(), 0).expect("begun");
    for (number, file) in files.iter().enumerate() {
        let length = usize::try_from(file.bytes).expect("small");
        let bytes = source.read(number, 0, length).expect("readable").expect("there");
        arrival.write(number, 0, &bytes).expect("written");
        let checksum = source.checksum(number).expect("readable");
        arrival.reserve_bytes = u64::MAX;
        let finished = arrival.finish_file(number, checksum);
        if number == last {
            finished.expect("nothing is to come");
            break;
        }
        assert!(matches!(finished, Err(SnapshotError::NoRoom { .. })), "{finished:?}");
        arrival.reserve_bytes = 0;
        arrival.finish_file(number, checksum).expect("there is room again");
    }
    arrival.verify(|| true).expect("whole");
}

/// What can be written and not be synced: the kernel's own device, which refuses that.
#[test]
fn a_file_that_cannot_be_synced_is_no_damage_and_no_refusal() {
    let dir = tempfile::tempdir().expect("a folder");
    let folders = StateFolders::new(dir.path());
    let source = checkpoint(dir.path(), 100);
    let files = source.files().to_vec();
    let mut arrival = Arrival::begin(&folders, 100, files.clone(), 0).expect("begun");
    symlink("/dev/null", folders.arriving().join(&files[0].name)).expect("made");
    arrival.write(0, 0, b"bytes").expect("written");
    let error = arrival.finish_file(0, 0).expect_err("not synced");
    assert!(matches!(error, SnapshotError::Sync { .. }), "{error}");
}

#[test]
fn a_mark_that_cannot_be_written_leaves_the_state_as_it_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let folders = StateFolders::new(dir.path());
    let mut source = checkpoint(dir.path(), 100);
    let verified = receive(&mut source, &folders).expect("received");
    failpoint::arm(dir.path(), "mark made");
    folders.prepare(verified).expect_err("no mark");
    assert!(!folders.arriving().exists());
    assert!(!folders.current().expect("readable").exists());
}

/// The order is what is checked: a machine that crashes here may forget the rename.
#[test]
fn a_start_makes_the_last_switch_durable_before_it_removes_the_old_state() {
    let dir = tempfile::tempdir().expect("a folder");
    let folders = StateFolders::new(dir.path());
    let old = folders.current().expect("readable");
    drop(machine(&old));
    let mut source = checkpoint(dir.path(), 100);
    let verified = receive(&mut source, &folders).expect("received");
    let prepared = folders.prepare(verified).expect("marked");
    failpoint::arm(dir.path(), "switched");
    folders.install(prepared).expect_err("it crashed before the switch was durable");
    failpoint::arm(dir.path(), "start durable");
    folders.clean().expect_err("it crashed again");
    assert!(old.exists());
    folders.clean().expect("cleaned");
    assert!(!old.exists());
}

#[test]
fn a_state_that_was_set_aside_is_taken_back_when_nothing_took_its_place() {
    let data = tempfile::tempdir().expect("a folder");
    let folders = StateFolders::new(data.path());
    assert!(!folders.take_back().expect("nothing is aside"));
    let aside = || folders.aside().expect("listed");
    for (name, copied_upto) in [("state".to_owned(), 0), (format!("state-{:020}", 7), 7)] {
        let state = data.path().join(name);
        fs::create_dir(&state).expect("made");
        fs::write(state.join("CURRENT"), b"it").expect("written");
        folders.set_aside().expect("set aside");
        assert!(aside().is_some() && !folders.current().expect("listed").exists());
        assert!(folders.take_back().expect("taken back"));
        let current = folders.current().expect("listed");
        assert_eq!(fs::read(current.join("CURRENT")).expect("it is the state"), b"it");
        // Whose work it is is not forgotten.
        assert_eq!(folders.copied_upto().expect("listed"), copied_upto);
        // Not in place of another one.
        folders.set_aside().expect("set aside");
        fs::create_dir(&state).expect("made");
        assert!(!folders.take_back().expect("there is one") && aside().is_some());
        folders.set_aside().expect("done before");
        assert!(state.exists());
        fs::remove_dir(&state).expect("removed");
        folders.remove_aside().expect("removed");
        assert!(aside().is_none());
    }
}

#[test]
fn a_snapshot_of_another_slot_than_announced_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut source = checkpoint(dir.path(), 100);
    source.state.applied_slot = 101;
    let error = receive(&mut source, &StateFolders::new(dir.path())).expect_err("another");
    assert!(error.to_string().contains("of slot 100, announced was 101"), "{error}");
}

#[test]
fn checkpoints_made_while_others_write_are_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut machine = machine(&dir.path().join("source"));
    let store = machine.map().clone();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !is_over.load(Relaxed) {
                let next = machine.applied_slot() + 50;
                apply(&mut machine, next);
            }
        });
        let mut last = 0;
        for number in 0..200 {
            let path = dir.path().join(format!("checkpoint-{number}"));
            let made = store.checkpoint(&path).expect("made");
            let opened = Store::open_read_only(&path).expect("opens");
            opened.verify(|| true).expect("whole");
            let state = State::load(&opened).expect("readable");
            assert_eq!(&state, made.state());
            assert!(state.applied_slot >= last);
            last = state.applied_slot;
            // Each slot is one put, so the state and the data must fit each other.
            assert_eq!(state.revision.0, state.applied_slot);
            let newest = listed(&opened).iter().map(|e| e.record.mod_revision.0).max();
            assert_eq!(newest.unwrap_or(0), state.applied_slot);
            drop(opened);
            made.remove().expect("removed");
        }
        is_over.store(true, Relaxed);
        assert!(last > 0, "nothing was written meanwhile");
    });
}
