//! States that become others with checksums that are right, as no disk would tell.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use synod_bench::chaos::Copied;
use synod_kv::{APPLIED_KEY, MapError, OrderedMap, State, WriteSet, layout, read};
use synod_storage::snapshot::StateFolders;
use synod_storage::{Store, StoreOptions};

use crate::failure::Failure;

/// By this a node that stopped for good does not start again.
const VIOLATION: &str = "VIOLATION";
/// By this a node takes over a peer's state at its next start.
const REBUILD: &str = "REBUILD";
/// Up to the slot in it what came from another node was found right.
const FOUND_RIGHT: &str = "FOUND_RIGHT";
/// What a node says whose state is not that of most voters.
const CONTRADICTED: [&str; 2] = ["that of most voters", "this one is damaged"];

/// Changes the running hash in a dead node's data folder, and the value of this key if one is named.
pub(super) fn drift(data: &Path, key: Option<&str>) -> Result<(), Failure> {
    let path = StateFolders::new(data).current().context("there is no state")?;
    let mut store = Store::open(path, &StoreOptions::default()).context("a state does not open")?;
    let record = store.get(APPLIED_KEY).map_err(failed)?.context("the state has nothing yet")?;
    let state = State::decode(&record).map_err(failed)?;
    let mut batch = WriteSet::new();
    let hash = state.hash().to_le_bytes();
    let at = record.windows(hash.len()).position(|bytes| bytes == hash);
    batch.put(APPLIED_KEY, &flipped(&record, at.context("the state has no hash")?));
    if let Some(key) = key {
        let look = read::look(&store, key.as_bytes(), state.revision).map_err(failed)?;
        let revision = look.record.context("the state has no such key")?.mod_revision;
        let mut place = Vec::new();
        layout::write_data_key(&mut place, key.as_bytes(), revision);
        let record = store.get(&place).map_err(failed)?.context("the key has no record")?;
        // The value stands at the end.
        batch.put(&place, &flipped(&record, record.len() - 1));
    }
    store.write(&batch).map_err(failed)?;
    store.flush().map_err(failed)
}

/// Why a node stopped for good, if it did because most voters have another state.
pub(super) fn contradiction(data: &Path) -> Option<String> {
    let words = fs::read_to_string(data.join(VIOLATION)).ok()?;
    CONTRADICTED.iter().all(|part| words.contains(part)).then_some(words)
}

/// Does what the words of such a node say.
pub(super) fn take_over(data: &Path) -> io::Result<()> {
    fs::rename(data.join(VIOLATION), data.join(REBUILD))
}

/// How much of the state in this folder came from another node.
pub(super) fn copied(data: &Path) -> Result<Copied, Failure> {
    let upto = StateFolders::new(data).copied_upto().context("there is no state")?;
    let found = fs::read_to_string(data.join(FOUND_RIGHT)).unwrap_or_default();
    let found = found.lines().next().and_then(|line| line.strip_prefix("slot ")?.parse().ok());
    Ok(Copied { upto, is_found_right: upto <= found.unwrap_or(0) })
}

fn flipped(record: &[u8], at: usize) -> Bytes {
    let mut other = record.to_vec();
    other[at] ^= 1;
    Bytes::from(other)
}

fn failed(MapError(why): MapError) -> Failure {
    Failure::failed(why)
}

#[cfg(test)]
mod tests {
    use synod_kv::{Command, Condition, KvOptions, Operation, ServerId, StateMachine};

    use super::*;

    #[test]
    fn a_state_that_drifted_can_be_read_and_is_another_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let open = || Store::open(&state, &StoreOptions::default()).expect("a state");
        let mut machine = StateMachine::open(open(), KvOptions::default()).expect("a machine");
        let put = Operation::Put {
            key: Bytes::from_static(b"a key"),
            value: Bytes::from_static(b"right"),
            condition: Condition::Always,
            want_previous: false,
        };
        let put = Command { operation: put, idempotency: None };
        let id = ServerId { origin: 1, incarnation: 1, sequence: 1 };
        machine.apply(1, 7, &[(id, put)]).expect("applied");
        machine.commit().expect("committed");
        machine.map().flush().expect("durable");
        let before = State::load(machine.map()).expect("a record");
        drop(machine);
        let seen = || {
            let store = open();
            let look = read::look(&store, b"a key", before.revision).expect("readable");
            (State::load(&store).expect("whole"), look.record.expect("the key").value)
        };
        drift(folder.path(), None).expect("drifted");
        let (after, value) = seen();
        assert_ne!(after.hash(), before.hash());
        assert_eq!((after.applied_slot, after.revision), (before.applied_slot, before.revision));
        assert_eq!(value.as_ref(), b"right");
        drift(folder.path(), Some("a key")).expect("drifted");
        assert_eq!(seen().1.as_ref(), b"righu");
        assert!(drift(folder.path(), Some("none")).is_err());
        assert_eq!(open().verify(|| true).map(|_| ()), Ok(()), "every checksum is right");
    }

    #[test]
    fn what_came_from_another_node_counts_when_it_was_found_right() {
        let folder = tempfile::tempdir().expect("a folder");
        let (data, state) = (folder.path(), |upto, is_found_right| Copied { upto, is_found_right });
        let seen = || copied(data).expect("readable");
        assert_eq!(seen(), state(0, true));
        let name = format!("state-{:020}", 7);
        fs::create_dir(data.join(name)).expect("made");
        assert_eq!(seen(), state(7, false));
        for (text, is_right) in [("slot 6\n", false), ("slot 7\n", true), ("", false)] {
            fs::write(data.join(FOUND_RIGHT), text).expect("written");
            assert_eq!(seen(), state(7, is_right), "{text:?}");
        }
    }
}
