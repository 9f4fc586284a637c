//! Making a new cluster out of one node's folder, when a majority of its cluster is lost
//! for good.
//!
//! What the node knows as chosen is kept, and what it accepted after that without a hole: which
//! slots these are [`KeptSlots`] says.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use synod_host::configurations_of;
use synod_journal::{OpenError, Remains};
use synod_kv::{APPLIED_KEY, KvOptions, MapError, OrderedMap, State, StateMachine, WriteSet};
use synod_paxos::{Configuration, Configurations, KeptSlots, NodeId, Planted, Slot, Value};
use synod_storage::snapshot::{self, StateFolders, Verified};
use synod_storage::{Store, StoreOptions, failpoint};

use crate::apply_thread::Applier;
use crate::bond;
use crate::filled;
use crate::folder::{self, Folder, JOURNAL, LOCK_FILE, MARKER_FILE, REMOVED_FILE};
use crate::founding::Founding;
use crate::identity::{self, FILE, Identity};
use crate::identity_error::InitError;
use crate::marks::{DIFFERS, REBUILD, WENT_BACK};
use crate::recover_error::RecoverError;
use crate::roster::{Known, Roster};
use crate::shared::Shared;
use crate::snapshot_settings::SnapshotSettings;
use crate::unfinished::{RECOVERING, Unfinished};

/// Between two commits of what is applied.
const COMMIT_BYTES_MAX: usize = 4 << 20;

/// What a survivor's folder has, and what may be missing in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Findings {
    /// The folder.
    pub folder: PathBuf,
    /// Its cluster, in hexadecimal.
    pub cluster: String,
    /// Its node.
    pub node: u32,
    /// Who votes, as far as this node knows.
    pub voters: Vec<u32>,
    /// How far ahead of the chosen slots a leader may propose.
    pub alpha: u64,
    /// Every slot up to here is in the state that was flushed.
    pub applied_slot: u64,
    /// Every slot up to here is known as chosen.
    pub chosen_slot: u64,
    /// The recovered state has every slot up to here. Those above `chosen_slot` may never
    /// have been chosen, or with another value, without this node.
    pub kept_slot: u64,
    /// The first slot that this node does not have: what others acknowledged from here on
    /// is lost.
    pub first_missing_slot: u64,
    /// Slots that this node accepted beyond the first missing one. They are dropped: what
    /// they follow is not known.
    pub dropped_slots: Vec<u64>,
    /// The highest slot that the folder is known to have held.
    pub last_slot: u64,
    /// What is damaged, and any other reason to doubt the folder.
    pub doubts: Vec<String>,
}

/// What was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Made {
    /// The new folder.
    pub folder: PathBuf,
    /// The new cluster's id, in hexadecimal.
    pub cluster: String,
    /// Its only node.
    pub node: u32,
    /// Its alpha, which the settings must repeat.
    pub alpha: u64,
    /// Every slot up to here is in its state.
    pub slot: u64,
    /// The store's revision.
    pub revision: u64,
    /// No node of the old cluster had an id above this one, as far as this folder tells: the new
    /// cluster's other nodes take higher ones.
    pub ids_used_upto: u32,
}

/// A folder that a new cluster can be made of. It is locked and never changed.
#[derive(Debug)]
pub struct Survivor {
    identity: Identity,
    state: PathBuf,
    remains: Option<Remains>,
    findings: Findings,
    _lock: Option<File>,
}

impl Survivor {
    /// Reads a folder whose node does not run, every byte of it.
    ///
    /// # Errors
    /// When the node runs, the folder is none, or its state is lost or damaged.
    pub fn examine(data: &Path) -> Result<Survivor, RecoverError> {
        let lock = lock(data)?;
        let identity = read(&data.join(FILE))?;
        let identity = identity.ok_or_else(|| RecoverError::NoNode(data.to_owned()))?;
        let identity = Identity::decode(&identity).map_err(|reason| {
            RecoverError::Identity(format!(
                "{}: {reason}; recover from another node that is left, or restore a backup",
                data.join(FILE).display()
            ))
        })?;
        let states = StateFolders::new(data);
        // One may lie aside that nothing has replaced yet.
        let (current, aside) = (states.current()?, states.aside()?);
        let state = match (folder::exists(&current)?, &aside) {
            (true, _) => current,
            (false, Some(aside)) => aside.clone(),
            (false, None) => return Err(RecoverError::NeverStarted(data.to_owned())),
        };
        let store = Store::open_read_only(&state)?;
        store.verify(|| true)?;
        let machine = StateMachine::open(store, KvOptions::default())?;
        let applied = Slot(machine.applied_slot());
        let mut doubts = Vec::new();
        if let Some(text) = read(&data.join(MARKER_FILE))? {
            let text = String::from_utf8_lossy(&text).trim().to_owned();
            doubts.push(format!("the node stopped itself for good: {text}"));
        }
        if read(&data.join(REMOVED_FILE))?.is_some() {
            let text = "the node was removed from its cluster, which went on without it";
            doubts.push(text.to_owned());
        }
        for (mark, what) in [
            (DIFFERS, "its state differs from a peer's, and nobody knows which one is right"),
            (REBUILD, "its state was given up for a peer's"),
            (WENT_BACK, "it is older than what the node told its peers, or was in use twice"),
        ] {
            if let Some(text) = read(&data.join(mark))? {
                let text = String::from_utf8_lossy(&text).trim().to_owned();
                doubts.push(format!("{what} ({mark}): {text}"));
            }
        }
        if Some(&state) == aside.as_ref() {
            doubts.push("its state was set aside, and no other one took its place".to_owned());
        }
        let remains = remains(&state, data, &identity, applied, &mut doubts)?;
        let mut findings = findings(data, &identity, applied, remains.as_ref())?;
        let configurations = configurations_in(&machine, &identity)?;
        let voters = configurations.newest().configuration.voters();
        findings.voters = voters.iter().map(|voter| voter.0).collect();
        findings.doubts = doubts;
        Ok(Survivor { identity, state, remains, findings, _lock: lock })
    }

    /// What is there and what may be missing.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Makes the folder of the only node of a new cluster, with an id drawn at random.
    /// Interrupted anywhere, it can be run again. `progress` is told how many bytes of the
    /// state were copied.
    ///
    /// # Errors
    /// When the new folder holds anything, or the disk refuses.
    pub fn recover(
        &self,
        to: &Path,
        node: u32,
        progress: impl FnMut(u64),
    ) -> Result<Made, RecoverError> {
        let alpha = self.identity.configuration.alpha();
        let configuration = Configuration::majority(vec![NodeId(node)], alpha)
            .map_err(|reason| RecoverError::Impossible { node, reason })?;
        let identity = Identity {
            cluster: identity::random_id().map_err(InitError::Random)?,
            // An id that was drawn here is nobody else's.
            founding: Founding::default(),
            node: NodeId(node),
            store: identity::random_id().map_err(InitError::Random)?,
            configuration,
            joined: None,
        };
        self.check_outside(to)?;
        let folder = take(to)?;
        let step = |step| {
            failpoint::hit(folder.path(), step)
                .map_err(|source| RecoverError::Unreadable { path: to.to_owned(), source })
        };
        step("begun")?;
        let states = folder.states();
        let reserve_bytes = SnapshotSettings::default().disk_reserve_bytes;
        let copied = snapshot::copy(&self.state, &states, reserve_bytes, progress)?;
        step("copied")?;
        let ids_used_upto = self.apply(copied.path())?.max(node);
        step("applied")?;
        let verified: Verified = copied.again()?;
        let state = verified.state().clone();
        assert_eq!(state.applied_slot, self.findings.kept_slot, "every slot is applied");
        states.install(states.prepare(verified)?)?;
        step("installed")?;
        identity::create(&folder, &identity)?;
        step("named")?;
        // The identity counts: a crash that brings this file back does no harm.
        let unfinished = to.join(RECOVERING);
        fs::remove_file(&unfinished)
            .map_err(|source| RecoverError::Unreadable { path: unfinished, source })?;
        Ok(Made {
            // For settings, which lie elsewhere.
            folder: std::path::absolute(to).unwrap_or_else(|_| to.to_owned()),
            cluster: format!("{:032x}", identity.cluster),
            node,
            alpha,
            slot: state.applied_slot,
            revision: state.revision.0,
            ids_used_upto,
        })
    }

    /// Applies what is kept of the journal to the copy, and makes it a new cluster's. Answers the
    /// highest id of the old one.
    fn apply(&self, copy: &Path) -> Result<u32, RecoverError> {
        let mut store = Store::open(copy, &StoreOptions::default())?;
        if let Some(remains) = &self.remains {
            let machine = StateMachine::open(store.clone(), KvOptions::default())?;
            let (incarnation, shared) = (remains.incarnation(), Arc::new(Shared::default()));
            let mut applier = Applier::new(machine, &self.identity, incarnation, shared);
            while applier.applied().0 < self.findings.kept_slot {
                let slot = applier.applied().next();
                let value = remains.value(slot)?;
                // It was there when the folder was examined, and nobody changes it.
                let value = value.unwrap_or_else(|| panic!("slot {slot} is gone"));
                applier.apply(slot, value, |_, _| {})?;
                if applier.staged_bytes() >= COMMIT_BYTES_MAX {
                    applier.commit()?;
                }
            }
            applier.commit()?;
        }
        let ids_used_upto = self.ids_used_upto(&store)?;
        let mut batch = WriteSet::new();
        // Others may have told their clients of revisions that are not here.
        batch.put(APPLIED_KEY, &State::load(&store)?.for_another_cluster()?.record());
        store.write(&batch)?;
        store.flush()?;
        store.stop_work();
        Ok(ids_used_upto)
    }

    /// The highest id that a configuration tells, in the state or among the slots that are
    /// dropped.
    fn ids_used_upto(&self, store: &Store) -> Result<u32, RecoverError> {
        let machine = StateMachine::open(store.clone(), KvOptions::default())?;
        let mut found = configurations_in(&machine, &self.identity)?.talked_to();
        for slot in &self.findings.dropped_slots {
            let value = self.remains.as_ref().map(|remains| remains.value(Slot(*slot)));
            if let Some(Value::Configuration(dropped)) = value.transpose()?.flatten() {
                found.push(dropped);
            }
        }
        let used = |one| Roster::new(&[one], &Known::default()).about.ids_used_upto;
        Ok(found.into_iter().map(used).max().unwrap_or(0))
    }

    fn check_outside(&self, to: &Path) -> Result<(), RecoverError> {
        let unreadable =
            |path: &Path, source| Err(RecoverError::Unreadable { path: path.to_owned(), source });
        let absolute = match std::path::absolute(to) {
            Ok(absolute) => absolute,
            Err(source) => return unreadable(to, source),
        };
        // What does not exist yet is made below the last folder that does.
        let existing = absolute.ancestors().find(|level| level.exists()).unwrap_or(Path::new("/"));
        let folder = &self.findings.folder;
        match (existing.canonicalize(), folder.canonicalize()) {
            (Ok(new), Ok(old)) if new.starts_with(&old) => Err(RecoverError::Within(to.to_owned())),
            (Ok(_), Ok(_)) => Ok(()),
            (Err(source), _) => unreadable(existing, source),
            (_, Err(source)) => unreadable(folder, source),
        }
    }
}

/// Who the members are, as a state and the node's beginning tell.
pub(crate) fn configurations_in(
    machine: &StateMachine<Store>,
    identity: &Identity,
) -> Result<Configurations, MapError> {
    let found = configurations_of(machine, &identity.configuration)
        .map_err(|error| MapError(format!("the members in the state: {error}")))?;
    Ok(match &identity.joined {
        Some(joined) => found.joined_in(joined.clone()),
        None => found,
    })
}

/// Holds the node's lock, without changing its file. Where there is none no node runs.
fn lock(data: &Path) -> Result<Option<File>, RecoverError> {
    let unreadable =
        |path: &Path, source| RecoverError::Unreadable { path: path.to_owned(), source };
    fs::read_dir(data).map_err(|source| unreadable(data, source))?;
    let path = data.join(LOCK_FILE);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|source| unreadable(&path, source))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(RecoverError::InUse(data.to_owned())),
        Err(TryLockError::Error(source)) => Err(unreadable(&path, source)),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, RecoverError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RecoverError::Unreadable { path: path.to_owned(), source }),
    }
}

/// Reads the journal. One that is gone or damaged is a doubt; the state may do without it.
fn remains(
    state: &Path,
    data: &Path,
    identity: &Identity,
    applied: Slot,
    doubts: &mut Vec<String>,
) -> Result<Option<Remains>, RecoverError> {
    let journal = data.join(JOURNAL);
    if let Err(error) = bond::check(&journal, identity) {
        doubts.push(format!("the journal may be another node's: {error}"));
    }
    let remains = match Remains::read(&journal, identity.lineage(), applied) {
        Err(OpenError::Missing(path)) => {
            doubts.push(format!("{} holds no journal: only the state is left", path.display()));
            return Ok(None);
        }
        remains => remains?,
    };
    if let Some(damage) = remains.damage() {
        doubts
            .push(format!("the journal is damaged, and counts as far as it is certain: {damage}"));
    }
    // A snapshot may have been installed that the journal does not know of yet.
    let is_installed = StateFolders::mark(state)?.is_some();
    // Or peers gave the state slots that this journal lost.
    let given_upto = filled::given_upto(data, identity.lineage()).unwrap_or_else(|doubt| {
        doubts.push(doubt);
        Slot::ZERO
    });
    let shown_upto = last_in_order(&remains).max(given_upto);
    if remains.damage().is_none() && !is_installed && shown_upto < applied {
        doubts.push(format!(
            "the state ends at slot {applied}, but the journal at slot {}: the journal lost what \
             it had acknowledged",
            last_in_order(&remains)
        ));
    }
    Ok(Some(remains))
}

/// The last slot of the journal up to which it holds everything.
fn last_in_order(remains: &Remains) -> Slot {
    let mut held = remains.chosen_upto();
    for slot in remains.open_slots() {
        if slot == held.next() {
            held = slot;
        }
    }
    held
}

/// What is kept and what is missing, without voters and doubts.
fn findings(
    data: &Path,
    identity: &Identity,
    applied: Slot,
    remains: Option<&Remains>,
) -> Result<Findings, RecoverError> {
    let kept = match remains {
        Some(remains) => {
            let truncated = remains.truncated_upto();
            let known = (truncated, remains.chosen_upto());
            KeptSlots::new(applied, known, remains.open_slots(), Planted::NONE)
                .map_err(|_| RecoverError::StateLost { applied, truncated })?
        }
        None => KeptSlots::of_state(applied),
    };
    let last = remains.map_or(kept.upto, |remains| kept.upto.max(remains.told_upto()));
    Ok(Findings {
        folder: data.to_owned(),
        cluster: format!("{:032x}", identity.cluster),
        node: identity.node.0,
        voters: Vec::new(),
        alpha: identity.configuration.alpha(),
        applied_slot: applied.0,
        chosen_slot: kept.chosen_upto.0,
        kept_slot: kept.upto.0,
        first_missing_slot: kept.first_missing().0,
        dropped_slots: kept.dropped.iter().map(|slot| slot.0).collect(),
        last_slot: last.0,
        doubts: Vec::new(),
    })
}

/// Takes the new folder, in which there is nothing but what an interrupted recovery left.
fn take(to: &Path) -> Result<Folder, RecoverError> {
    let folder = Folder::create(to)?;
    let left = identity::check_free("recover", &folder, Some(Unfinished::Recovery))?;
    if left.is_some() {
        remove_unfinished(to)?;
    }
    let mut found = folder.strangers()?;
    found.retain(|name| name != RECOVERING);
    if folder.journal().exists() {
        found.push(JOURNAL.to_owned());
    }
    if !found.is_empty() {
        return Err(identity::not_empty(&folder, &found).into());
    }
    folder.replace(RECOVERING, b"`synod recover` was interrupted here: run it again\n")?;
    Ok(folder)
}

/// Removes what a recovery makes, and nothing else.
fn remove_unfinished(to: &Path) -> Result<(), RecoverError> {
    let unreadable = |source| RecoverError::Unreadable { path: to.to_owned(), source };
    for entry in fs::read_dir(to).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_ours = name == JOURNAL || name == "state.new" || name.starts_with("state-");
        if is_ours {
            fs::remove_dir_all(&path).map_err(unreadable)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_node::{image, put, settings};
    use crate::{Inspection, Node, init, inspect};

    /// What a node had on its disk when it died with so many keys, most of them not yet
    /// in the files of its state.
    fn remains_of_a_node(dir: &Path, keys: u32) -> PathBuf {
        let settings = settings(dir);
        init(&settings).expect("made");
        let node = Node::start(&settings).expect("starts");
        (0..keys).for_each(|key| put(&node, &format!("key-{key:03}")));
        let copy = dir.join("survivor");
        copy_folder(&settings.data_dir, &copy);
        node.stop().expect("stopped in order");
        copy
    }

    fn copy_folder(from: &Path, to: &Path) {
        fs::create_dir(to).expect("made");
        for entry in fs::read_dir(from).expect("readable") {
            let path = entry.expect("readable").path();
            let copy = to.join(path.file_name().expect("a name"));
            match path.is_dir() {
                true => copy_folder(&path, &copy),
                false => drop(fs::copy(&path, &copy).expect("copied")),
            }
        }
    }

    fn recover(data: &Path, to: &Path) -> Result<Made, RecoverError> {
        Survivor::examine(data)?.recover(to, 1, |_| {})
    }

    fn inspected(folder: &Path) -> Inspection {
        let found = inspect(folder).expect("readable");
        assert_eq!(found.damage, Vec::<String>::new());
        found
    }

    fn keys(folder: &Path) -> u64 {
        inspected(folder).state.expect("a state").keys
    }

    #[test]
    fn a_recovery_that_dies_anywhere_can_be_run_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let survivor = remains_of_a_node(dir.path(), 20);
        let before = image(&survivor);
        assert!(keys(&survivor) < 20, "the state has everything, so nothing is replayed");
        let steps = [
            "begun",
            "copied",
            "applied",
            "installed",
            "journal made",
            "identity written",
            "named",
        ];
        let inner = &failpoint::INSTALL_STEPS[..6];
        for step in steps.iter().chain(inner) {
            let to = dir.path().join(step);
            failpoint::arm(&to, step);
            recover(&survivor, &to).expect_err(step);
            assert!(!failpoint::is_armed(&to, step), "{step} was not hit");
            assert!(image(&survivor) == before, "{step}: the survivor was changed");
            let is_named = ["identity written", "named"].contains(step);
            let left = inspect(&to).expect("readable").unfinished;
            assert_eq!(left, Some(Unfinished::Recovery).filter(|_| !is_named), "{step}");
            if !is_named {
                let folder = Folder::open(&to).expect("free");
                let other = identity::check_free("init", &folder, None).expect_err(step);
                assert!(other.to_string().contains("run `synod recover"), "{other}");
            }
            match recover(&survivor, &to) {
                Ok(made) => {
                    assert_eq!((made.revision, made.ids_used_upto), (20 + (1 << 32), 1), "{step}")
                }
                Err(error) => {
                    assert!(is_named, "{error}");
                    assert!(error.to_string().contains("already holds node 1"), "{error}");
                    assert!(error.to_string().contains("`synod recover` never"), "{error}");
                }
            }
            assert_eq!(keys(&to), 20, "{step}");
            let identity = inspected(&to).identity.expect("an identity");
            let old = inspected(&survivor).identity.expect("an identity");
            assert!(identity.cluster != old.cluster && identity.store != old.store);
        }
    }

    #[test]
    fn a_damaged_journal_counts_up_to_its_damage() {
        let dir = tempfile::tempdir().expect("a folder");
        let survivor = remains_of_a_node(dir.path(), 40);
        let whole = Survivor::examine(&survivor).expect("whole").findings().clone();
        assert!(whole.doubts.is_empty(), "{whole:?}");
        let journal = survivor.join(JOURNAL);
        let segments = fs::read_dir(&journal).expect("readable");
        let segments = segments.map(|entry| entry.expect("readable").path());
        let holds = |path: &PathBuf| {
            let bytes = fs::read(path).expect("readable");
            bytes.windows(7).position(|bytes| bytes == b"key-020")
        };
        let segment = segments.filter(|path| holds(path).is_some()).max().expect("a segment");
        let at = holds(&segment).expect("it is there");
        let mut bytes = fs::read(&segment).expect("readable");
        bytes[at] ^= 0x40;
        fs::write(&segment, bytes).expect("written");

        let damaged = Survivor::examine(&survivor).expect("readable");
        let found = damaged.findings().clone();
        assert!(found.doubts.len() == 1 && found.doubts[0].contains("damaged"), "{found:?}");
        assert!(found.kept_slot < whole.kept_slot, "{found:?}");
        let to = dir.path().join("new");
        damaged.recover(&to, 1, |_| {}).expect("made");
        assert_eq!(keys(&to), 20, "the keys before the damaged one");
    }

    #[test]
    fn folders_of_which_nothing_can_be_made_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let survivor = remains_of_a_node(dir.path(), 3);
        let refused = |data: &Path, to: &Path, words: &str| {
            let error = recover(data, to).expect_err(words).to_string();
            assert!(error.contains(words), "{words:?} is missing in {error:?}");
        };
        let new = dir.path().join("new");
        refused(dir.path(), &new, "holds no node");
        refused(&dir.path().join("nowhere"), &new, "cannot read");
        refused(&survivor, &survivor, "lies in the survivor's folder");
        refused(&survivor, &survivor.join("state/new"), "lies in the survivor's folder");
        let lock = File::open(survivor.join(LOCK_FILE)).expect("there");
        lock.try_lock().expect("free");
        refused(&survivor, &new, "is to be stopped first");
        drop(lock);
        assert!(!new.exists());
        for name in ["holiday.jpg", JOURNAL, "state"] {
            let taken = dir.path().join(format!("with-{name}"));
            drop(Folder::create(&taken).expect("made"));
            fs::create_dir(taken.join(name)).expect("made");
            refused(&survivor, &taken, name);
        }
        let fresh = settings(&dir.path().join("fresh"));
        init(&fresh).expect("made");
        refused(&fresh.data_dir, &new, "never started");
        fs::write(survivor.join(MARKER_FILE), "it was night").expect("written");
        let doubted = Survivor::examine(&survivor).expect("readable");
        assert!(doubted.findings().doubts[0].contains("it was night"));
    }

    #[test]
    fn a_state_that_was_doubted_or_set_aside_is_found_and_the_doubt_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let survivor = remains_of_a_node(dir.path(), 3);
        fs::write(survivor.join(DIFFERS), "slot 9").expect("written");
        fs::write(survivor.join(REBUILD), "a block").expect("written");
        fs::rename(survivor.join("state"), survivor.join("state.damaged")).expect("set aside");
        let found = Survivor::examine(&survivor).expect("readable").findings().clone();
        for (doubt, words) in found.doubts.iter().zip(["slot 9", "a block", "set aside"]) {
            assert!(doubt.contains(words), "{words:?} is missing in {doubt:?}");
        }
        assert_eq!(found.doubts.len(), 3, "{found:?}");
        let to = dir.path().join("new");
        recover(&survivor, &to).expect("made");
        assert_eq!(keys(&to), 3);
    }
}
