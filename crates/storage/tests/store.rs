//! The store in a real folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use synod_kv::{
    APPLIED_KEY, Command, Condition, Cursor, KvOptions, ListQuery, MemoryMap, Operation,
    OrderedMap, Revision, ServerId, State, StateMachine, WriteSet, read,
};
use synod_storage::{Store, StoreError, StoreOptions, Told, told_by};

fn small() -> StoreOptions {
    StoreOptions { memtable_bytes: 256 << 10, ..StoreOptions::default() }
}

/// What the disk would hold if the machine crashed now: a copy of the files.
fn crash(path: &Path, name: &str) -> PathBuf {
    let copy = path.with_file_name(name);
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    copy
}

/// Random commands over few keys, with everything that the state machine can do.
struct Commands {
    random: fastrand::Rng,
    sequence: u64,
}

impl Commands {
    fn new(seed: u64) -> Self {
        Commands { random: fastrand::Rng::with_seed(seed), sequence: 0 }
    }

    fn batch(&mut self) -> Vec<(ServerId, Command)> {
        (0..self.random.usize(1..20)).map(|_| self.command()).collect()
    }

    fn command(&mut self) -> (ServerId, Command) {
        self.sequence += 1;
        let id = ServerId { origin: 1, incarnation: 1, sequence: self.sequence };
        let key = self.key();
        let operation = match self.random.u8(..10) {
            0..7 => Operation::Put {
                key,
                value: Bytes::from(vec![self.random.u8(..); self.random.usize(..300)]),
                condition: Condition::Always,
                want_previous: false,
            },
            7..9 => Operation::Delete { key, condition: Condition::Always, want_previous: false },
            _ => Operation::DeleteRange { start: key, end: Some(self.key()), limit: 3 },
        };
        (id, Command { idempotency: None, operation })
    }

    fn key(&mut self) -> Bytes {
        let length = self.random.usize(..4);
        (0..length).map(|_| [0, 1, b'k', 0xff][self.random.usize(..4)]).collect()
    }
}

fn listed(map: &impl OrderedMap, reverse: bool) -> Vec<synod_kv::Entry> {
    let query =
        ListQuery { reverse, limit: usize::MAX, visits_max: usize::MAX, ..ListQuery::prefix(b"") };
    read::list(map, &query).unwrap().entries
}

/// How many entries there are, those that no read needs included.
fn entries(store: &Store) -> usize {
    let mut cursor = store.cursor(&[0], &[0xff]).unwrap();
    cursor.seek(&[0]).unwrap();
    let mut count = 0;
    while cursor.entry().is_some() {
        count += 1;
        cursor.next().unwrap();
    }
    count
}

/// The same reads must give the same from both.
fn assert_same(store: &Store, model: &MemoryMap) {
    let expected = listed(model, false);
    assert_eq!(listed(store, false), expected);
    let mut reversed = listed(store, true);
    reversed.reverse();
    assert_eq!(reversed, expected);
    for entry in &expected {
        assert_eq!(read::get(store, &entry.key).unwrap().as_ref(), Some(&entry.record));
    }
    assert_eq!(State::load(store).unwrap(), State::load(model).unwrap());
}

#[test]
fn the_state_machine_does_the_same_on_a_store_as_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let options = KvOptions { metadata_cache_bytes_max: 1000, ..KvOptions::default() };
    let mut store = StateMachine::open(Store::open(&path, &small()).unwrap(), options.clone());
    let mut model = StateMachine::open(MemoryMap::new(), options.clone()).unwrap();
    let mut commands = Commands::new(1);
    for slot in 1..=1500 {
        let machine = store.as_mut().unwrap();
        let batch = commands.batch();
        let taken = machine.apply(slot, slot, &batch).unwrap();
        assert_eq!(taken, model.apply(slot, slot, &batch).unwrap());
        machine.commit().unwrap();
        model.commit().unwrap();
        if slot % 100 == 0 {
            assert_same(machine.map(), model.map());
        }
        match slot % 500 {
            120 => machine.map().flush().unwrap(),
            240 => machine.map().compact(),
            // A shutdown in good order: nothing is lost.
            360 => {
                machine.map().flush().unwrap();
                drop(store);
                store = StateMachine::open(Store::open(&path, &small()).unwrap(), options.clone());
            }
            _ => {}
        }
    }
    assert_same(store.unwrap().map(), model.map());
}

#[test]
fn a_crash_loses_what_was_not_flushed_and_nothing_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let store = Store::open(&path, &small()).unwrap();
    let mut machine = StateMachine::open(store, KvOptions::default()).unwrap();
    let mut commands = Commands::new(2);
    let mut snapshots = vec![MemoryMap::new()];
    let mut model = StateMachine::open(MemoryMap::new(), KvOptions::default()).unwrap();
    let mut flushed = 0;
    let mut survived = Vec::new();
    for slot in 1..=600 {
        let batch = commands.batch();
        machine.apply(slot, slot, &batch).unwrap();
        model.apply(slot, slot, &batch).unwrap();
        machine.commit().unwrap();
        model.commit().unwrap();
        snapshots.push(model.map().clone());
        if slot % 97 == 0 {
            machine.map().flush().unwrap();
            flushed = slot;
        }
        if slot % 60 == 0 {
            let durable = machine.map().persisted(APPLIED_KEY).unwrap();
            let durable = State::decode(&durable.unwrap_or_default()).unwrap_or_default();
            let copy = crash(&path, &format!("crash-{slot}"));
            let after = Store::open(copy, &small()).unwrap();
            let found = read::applied_slot(&after).unwrap();
            // The memory fills up and flushes between; so it may be more.
            assert!(flushed <= durable.applied_slot && durable.applied_slot <= found);
            assert!(found <= slot);
            assert_same(&after, &snapshots[usize::try_from(found).unwrap()]);
            survived.push(found);
        }
    }
    assert!(survived.iter().zip((60..).step_by(60)).any(|(found, slot)| *found < slot));
}

#[test]
fn only_what_was_flushed_counts_as_persisted() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path().join("state"), &small()).unwrap();
    let put = |store: &mut Store, value: &[u8]| {
        let mut batch = WriteSet::new();
        batch.put(APPLIED_KEY, value);
        store.write(&batch).unwrap();
    };
    assert_eq!(store.persisted(APPLIED_KEY).unwrap(), None);
    put(&mut store, b"1");
    assert_eq!(store.persisted(APPLIED_KEY).unwrap(), None);
    store.flush().unwrap();
    put(&mut store, b"2");
    assert_eq!(store.persisted(APPLIED_KEY).unwrap().as_deref(), Some(b"1".as_slice()));
    assert_eq!(store.get(APPLIED_KEY).unwrap().as_deref(), Some(b"2".as_slice()));
    store.flush().unwrap();
    assert_eq!(store.persisted(APPLIED_KEY).unwrap().as_deref(), Some(b"2".as_slice()));
}

#[test]
fn compaction_drops_what_was_replaced_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("state"), &StoreOptions::default()).unwrap();
    let mut machine = StateMachine::open(store, KvOptions::default()).unwrap();
    let mut commands = Commands::new(3);
    let mut model = StateMachine::open(MemoryMap::new(), KvOptions::default()).unwrap();
    for slot in 1..=1000 {
        let batch = commands.batch();
        machine.apply(slot, slot, &batch).unwrap();
        model.apply(slot, slot, &batch).unwrap();
        machine.commit().unwrap();
        // Two files are too few for the engine to compact them by itself.
        if slot % 400 == 0 {
            machine.map().flush().unwrap();
        }
    }
    // Nothing may go as long as a crash could take the command back.
    let (id, mut command) = commands.command();
    let revision = model.revision();
    command.operation = Operation::Compact { revision };
    let command = [(id, command)];
    machine.apply(1001, 1001, &command).unwrap();
    model.apply(1001, 1001, &command).unwrap();
    machine.commit().unwrap();
    model.commit().unwrap();
    let all = entries(machine.map());
    machine.map().compact();
    assert_eq!(entries(machine.map()), all);
    machine.map().flush().unwrap();
    machine.map().persisted(APPLIED_KEY).unwrap();
    // Newer revisions stay.
    let (id, mut command) = commands.command();
    let key = Bytes::from_static(b"twice");
    for (slot, value) in [(1002, "one"), (1003, "two")] {
        let (key, value) = (key.clone(), Bytes::from(value));
        let condition = Condition::Always;
        command.operation = Operation::Put { key, value, condition, want_previous: false };
        let id = ServerId { sequence: id.sequence + slot - 1002, ..id };
        machine.apply(slot, slot, &[(id, command.clone())]).unwrap();
        model.apply(slot, slot, &[(id, command.clone())]).unwrap();
    }
    machine.commit().unwrap();
    model.commit().unwrap();
    let store = machine.map();
    // The cursor keeps the state that it began in.
    let mut cursor = store.cursor(&[0], &[0xff]).unwrap();
    cursor.seek(&[0]).unwrap();
    let before = entries(store);
    store.compact();
    assert_same(store, model.map());
    // One record a key, and one more of the key that was put twice since; the state, the
    // samples, and the changes of two slots.
    assert_eq!(entries(store), listed(store, false).len() + 1 + 4);
    let at = |revision| read::look_at(store, &key, Revision(revision)).unwrap().record;
    assert_eq!(at(revision.0), None);
    assert_eq!(at(revision.0 + 1).unwrap().value, "one");
    assert_eq!(at(revision.0 + 2).unwrap().value, "two");
    assert!(read::look_at(store, &key, Revision(revision.0 - 1)).is_err());
    assert_eq!(store.tombstones(), 0);
    let mut count = 0;
    while cursor.entry().is_some() {
        count += 1;
        cursor.next().unwrap();
    }
    assert!(before > entries(store), "nothing was replaced or removed");
    assert_eq!(count, before, "the cursor saw {count} entries of {before}");
}

#[test]
fn one_folder_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let store = Store::open(&path, &small()).unwrap();
    let error = Store::open(&path, &small()).unwrap_err();
    assert_eq!(error, StoreError::InUse(path.clone()));
    drop(store);
    Store::open(&path, &small()).unwrap();
}

#[test]
fn the_folder_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    for _ in 0..2 {
        drop(Store::open(&path, &small()).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_file_in_place_of_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    fs::write(&path, b"").unwrap();
    assert!(matches!(Store::open(&path, &small()), Err(StoreError::Unusable { .. })));
    let missing = folder.path().join("missing").join("state");
    assert!(matches!(Store::open(&missing, &small()), Err(StoreError::Unusable { .. })));
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut store = Store::open(&path, &small()).unwrap();
    let mut batch = WriteSet::new();
    batch.put(b"key", b"value");
    store.write(&batch).unwrap();
    store.flush().unwrap();
    drop(store);
    let names: Vec<String> = fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name == "CURRENT" || name.starts_with("MANIFEST") || name.ends_with(".sst"))
        .collect();
    assert!(names.len() >= 3, "{names:?}");
    for name in names {
        for damage in ["remove", "empty", "overwrite"] {
            let copy = crash(&path, &format!("{name}-{damage}"));
            let file = copy.join(&name);
            match damage {
                "remove" => fs::remove_file(&file).unwrap(),
                "empty" => fs::write(&file, b"").unwrap(),
                _ => fs::write(&file, vec![0xa5; 5000]).unwrap(),
            }
            let result = Store::open(&copy, &small()).map(drop);
            assert!(
                matches!(result, Err(StoreError::Damaged { .. })),
                "{name} {damage}: {result:?}"
            );
        }
    }
}

/// The memory of a store that is written faster than flushed is full most of the time.
#[test]
fn a_flush_that_cannot_begin_now_fails_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { memtable_bytes: 64 << 10, ..StoreOptions::default() };
    let store = Store::open(dir.path().join("state"), &options).unwrap();
    let mut writer = store.clone();
    let written = std::thread::spawn(move || {
        for n in 0..1_000_u32 {
            let mut batch = WriteSet::new();
            batch.put(&n.to_be_bytes(), &vec![1; 64 << 10]);
            writer.write(&batch).expect("written");
        }
    });
    let (mut begun, mut put_off) = (0_u64, 0_u64);
    while !written.is_finished() {
        match store.flush_begin().expect("no failure") {
            true => begun += 1,
            false => put_off += 1,
        }
        std::thread::yield_now();
    }
    written.join().expect("every batch was written");
    assert!(begun > 0 && put_off > 0, "{begun} begun, {put_off} put off");
    store.stop_work();
    assert_eq!(store.flush_begin(), Ok(false), "at the end of the node");
    store.check().expect("nothing has failed");
}

#[test]
fn a_failed_flush_stops_all_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut store = Store::open(&path, &small()).unwrap();
    let mut batch = WriteSet::new();
    batch.put(b"key", &[7; 1000]);
    store.write(&batch).unwrap();
    // No new file can be made in a folder that is not there.
    fs::rename(&path, folder.path().join("away")).unwrap();
    // The memory fills up, a flush begins in the background and fails; only then
    // do writes fail.
    let error = (0..100_000).find_map(|_| store.write(&batch).err()).expect("fails");
    assert_eq!(store.write(&batch), Err(error.clone()));
    assert_eq!(store.flush(), Err(error));
}

/// Bytes of every file are flipped, one at a time: it is found, or the state is there as it
/// was (or had been: see below). In a table only the filter does not count: RocksDB goes without a damaged one.
#[test]
fn a_flipped_byte_of_a_table_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let store = Store::open(&path, &small()).unwrap();
    let mut machine = StateMachine::open(store.clone(), KvOptions::default()).unwrap();
    let mut commands = Commands::new(7);
    for slot in 1..=400 {
        machine.apply(slot, slot, &commands.batch()).unwrap();
        machine.commit().unwrap();
        if slot % 150 == 0 {
            store.flush().unwrap();
        }
        if slot == 300 {
            store.compact();
        }
    }
    let scrubbed = folder.path().join("scrub");
    let files = store.checkpoint(&scrubbed).unwrap();
    let names: Vec<_> = files.files().iter().map(|file| file.name.clone()).collect();
    let whole = listed(&Store::open_read_only(&scrubbed).unwrap(), false);
    let mut asked = 0;
    let store = Store::open_to_verify(&scrubbed).unwrap();
    let counted = store.verify_slowly(|bytes| {
        asked += bytes;
        true
    });
    assert_eq!(counted.unwrap(), entries(&store) as u64);
    drop(store);
    let (mut tables, mut unseen) = (0, 0);
    for name in names {
        let is_table = name.ends_with(".sst");
        let path = scrubbed.join(&name);
        let bytes = fs::read(&path).unwrap();
        // The files of a checkpoint are links to the store's.
        fs::remove_file(&path).unwrap();
        let is_list = name.starts_with("MANIFEST") || name == "CURRENT";
        let step = if is_list { 1 } else { bytes.len() / 211 + 1 };
        for at in (0..bytes.len()).step_by(step) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, flipped).unwrap();
            let opened = Store::open_to_verify(&scrubbed);
            match opened.and_then(|store| {
                let damaged = |error: synod_kv::MapError| StoreError::Damaged {
                    path: scrubbed.clone(),
                    reason: error.0,
                };
                store.verify(|| true).map_err(damaged)?;
                Ok((State::load(&store).unwrap().applied_slot, listed(&store, false)))
            }) {
                Ok((slot, found)) => {
                    // A list that seems cut off is one of an earlier flush, whose files may
                    // still be there: the journal brings back what follows.
                    let is_earlier = is_list && slot < 400;
                    assert!(is_earlier || found == whole, "{name} at {at}, slot {slot}");
                    unseen += usize::from(is_table);
                }
                Err(StoreError::Damaged { .. }) => {}
                Err(error) => panic!("{name} at {at}: {error}"),
            }
            tables += usize::from(is_table);
        }
        fs::write(&path, bytes).unwrap();
    }
    assert!(tables > 200 && unseen * 10 < tables, "{unseen} of {tables}");
}

/// A read that meets damage says so in words that are known again.
#[test]
fn a_damaged_block_is_never_read_and_its_error_tells() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut store = Store::open(&path, &small()).unwrap();
    let mut batch = WriteSet::default();
    batch.put(b"key", b"a value that is somewhere in the file");
    store.write(&batch).unwrap();
    store.flush().unwrap();
    drop(store);
    let mut tables = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let table = tables.find(|path| path.extension().is_some_and(|end| end == "sst")).unwrap();
    let mut bytes = fs::read(&table).unwrap();
    let at = bytes.windows(7).position(|seven| seven == b"a value").unwrap();
    bytes[at] ^= 1;
    fs::write(&table, bytes).unwrap();
    let store = Store::open(&path, &small()).unwrap();
    let error = store.get(b"key").unwrap_err();
    assert_eq!(told_by(&error.to_string()), Some(Told::Damage), "{error}");
    assert_eq!(told_by("the state cannot be used: IO error: No space left on device"), None);
}
