//! What a data folder holds, for people. Nothing in it is changed, so it can be asked
//! of a folder that must be kept as it is.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use synod_journal::{Journal, OpenError};
use synod_kv::read::{Counter, ListQuery};
use synod_kv::{KvOptions, MapError, State, StateMachine};
use synod_paxos::NodeId;
use synod_storage::Store;
use synod_storage::snapshot::StateFolders;

use crate::bond;
use crate::filled;
use crate::folder::{self, JOURNAL, LOCK_FILE, MARKER_FILE, REMOVED_FILE};
use crate::founding::Founding;
use crate::identity::Identity;
use crate::identity_error::IdentityError;
use crate::marks;
use crate::outlook::{self, Looked, Outlook};
use crate::rebuild;
use crate::recover::configurations_in;
use crate::roster::{Known, Roster};
use crate::unfinished::Unfinished;

/// Records between two looks at a count.
const VISITS: usize = 1 << 20;
/// Characters that are told of a small file.
const WORDS_MAX: usize = 1_000;

/// What a data folder holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Inspection {
    /// The folder.
    pub folder: PathBuf,
    /// A process has the folder, so that only its identity is told: what is being
    /// written looks damaged.
    pub is_running: bool,
    /// Whose it is; none when it holds no node.
    pub identity: Option<InspectedIdentity>,
    /// What was to make a node of it and did not come to its end.
    pub unfinished: Option<Unfinished>,
    /// The journal; none when it can't be read.
    pub journal: Option<InspectedJournal>,
    /// The state; none when it can't be read.
    pub state: Option<InspectedState>,
    /// What says that the node must not start again by itself.
    pub violation: Option<String>,
    /// The other small files by which a life of the node tells the next one, or an operator told
    /// it, what must not be forgotten.
    pub marks: Vec<InspectedMark>,
    /// Whatever else an earlier life left; removed at the next start.
    pub leftovers: Vec<String>,
    /// What is wrong. Every checksum was looked at.
    pub damage: Vec<String>,
    /// What the next start does; none while the node runs, and where there is none.
    pub outlook: Option<Outlook>,
}

/// A small file with a meaning.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct InspectedMark {
    /// Its name.
    pub name: String,
    /// What it says, or the beginning of it; empty when it says nothing.
    pub words: String,
}

/// Whose folder it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct InspectedIdentity {
    /// The cluster's id, in hexadecimal.
    pub cluster: String,
    /// The node's id.
    pub node: u32,
    /// The id of this very folder, in hexadecimal.
    pub store: String,
    /// The slot and the hash of the state that the cluster was restored with, if it was.
    pub restored: Option<(u64, String)>,
    /// The number of the configuration in which the node joined; none when it was there
    /// from the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joined: Option<u64>,
    /// The voters that the cluster was made with.
    pub members: Vec<u32>,
    /// Promises that make a leader.
    pub promise_quorum: usize,
    /// Acceptances that choose a value.
    pub accept_quorum: usize,
    /// How far ahead of the chosen slots a leader may propose.
    pub alpha: u64,
}

/// What the journal holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct InspectedJournal {
    /// How often a node was started from it.
    pub incarnation: u64,
    /// The promise in force, as `round.node`.
    pub promised: String,
    /// It holds nothing at or below this slot.
    pub truncated_slot: u64,
    /// Every slot up to here is known as chosen.
    pub chosen_slot: u64,
    /// The last slot with a value in it.
    pub last_slot: u64,
    /// Slots with a value that is not known as chosen.
    pub open_slots: usize,
    /// The number of its last record.
    pub position: u64,
    /// Its files, those made ready for later included.
    pub files: usize,
    /// Their length.
    pub bytes: u64,
    /// A crash cut off the last group, which nobody was told of.
    pub torn_tail: bool,
}

/// What the state holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct InspectedState {
    /// Its folder.
    pub folder: PathBuf,
    /// Every slot up to here is applied, durably.
    pub applied_slot: u64,
    /// The store's revision.
    pub revision: u64,
    /// A hash over the effects of every slot, in hexadecimal.
    pub hash: String,
    /// Keys that exist.
    pub keys: u64,
    /// Records, old revisions included.
    pub records: u64,
    /// Its files.
    pub files: usize,
    /// Their length.
    pub bytes: u64,
    /// Who votes as of this state; none when it does not tell.
    pub voters: Vec<u32>,
    /// Who learns and does not vote.
    pub learners: Vec<u32>,
    /// It was installed from a snapshot of this slot, and the journal did not say so yet
    /// when the node ended; the next start makes up for it.
    pub installed_slot: Option<u64>,
}

/// Looks at the data folder of a node, and changes nothing in it.
///
/// # Errors
/// When the folder can't be read at all.
pub fn inspect(folder: &Path) -> io::Result<Inspection> {
    fs::read_dir(folder)?;
    let mut found = Inspection {
        folder: folder.to_owned(),
        is_running: is_running(folder)?,
        identity: None,
        unfinished: None,
        journal: None,
        state: None,
        violation: read_text(&folder.join(MARKER_FILE))?,
        marks: Vec::new(),
        leftovers: Vec::new(),
        damage: Vec::new(),
        outlook: None,
    };
    found.look_at_marks();
    match Identity::find(folder) {
        Err(error) => found.damage.push(error.to_string()),
        Ok(None) => {
            found.look_at_unfinished();
            return Ok(found);
        }
        Ok(Some(identity)) => {
            found.identity = Some(describe(&identity));
            if !found.is_running {
                found.look_at_all(&identity);
            }
            return Ok(found);
        }
    }
    if !found.is_running {
        found.look_at_state(None);
    }
    Ok(found)
}

/// Whether a process holds the lock. The lock is asked for and given back.
fn is_running(folder: &Path) -> io::Result<bool> {
    let file = match File::open(folder.join(LOCK_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn read_text(path: &Path) -> io::Result<Option<String>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        content => Ok(Some(String::from_utf8_lossy(&content?).into_owned())),
    }
}

fn describe(identity: &Identity) -> InspectedIdentity {
    let configuration = &identity.configuration;
    InspectedIdentity {
        cluster: format!("{:032x}", identity.cluster),
        node: identity.node.0,
        store: format!("{:032x}", identity.store),
        restored: (identity.founding != Founding::default()).then(|| {
            let Founding { slot, state_hash } = identity.founding;
            (slot.0, format!("{state_hash:016x}"))
        }),
        joined: identity.joined.as_ref().map(synod_paxos::Configuration::number),
        members: configuration.members().iter().map(|member| member.0).collect(),
        promise_quorum: configuration.promise_quorum(),
        accept_quorum: configuration.accept_quorum(),
        alpha: configuration.alpha(),
    }
}

impl Inspection {
    fn look_at_unfinished(&mut self) {
        match Unfinished::find(&self.folder) {
            Ok(unfinished) => self.unfinished = unfinished,
            Err(error) => self.damage.push(error.to_string()),
        }
    }

    fn look_at_marks(&mut self) {
        for name in [REMOVED_FILE].into_iter().chain(marks::ALL) {
            match read_text(&self.folder.join(name)) {
                Ok(None) => {}
                Ok(Some(text)) => {
                    let words = text.trim().chars().take(WORDS_MAX).collect();
                    self.marks.push(InspectedMark { name: name.to_owned(), words });
                }
                Err(error) => self.damage.push(format!("{name} cannot be read: {error}")),
            }
        }
    }

    fn look_at_all(&mut self, identity: &Identity) {
        let looked = Journal::inspect_behind_damage(&self.folder.join(JOURNAL), identity.lineage());
        self.look_at_journal(&looked);
        if let Err(doubt) = filled::given_upto(&self.folder, identity.lineage()) {
            self.damage.push(doubt);
        }
        let before = self.damage.len();
        self.look_at_state(Some(identity));
        let is_state_damaged = self.damage.len() > before;
        let has_peers = !rebuild::known_peers(&self.folder, identity).is_empty();
        let bond = bond::check(&self.folder.join(JOURNAL), identity);
        if matches!(bond, Err(IdentityError::OtherJournal { .. })) {
            self.damage.push("the journal does not belong to this folder".to_owned());
        }
        let way = outlook::way_of(&self.folder, bond, looked, has_peers);
        if outlook::is_misfit(&way) && self.damage.is_empty() {
            self.damage.push("the journal does not go on where the state ends".to_owned());
        }
        self.outlook = Some(Outlook::of(way, is_state_damaged, has_peers));
    }

    fn look_at_journal(&mut self, looked: &Looked) {
        let folder = self.folder.join(JOURNAL);
        let held = match looked {
            Ok((held, None)) => held,
            // What there is to do about it the outlook tells.
            Ok((_, Some(damage)))
            | Err(OpenError::Damaged(damage) | OpenError::PromiseNotProvable(damage)) => {
                self.damage.push(format!("journal damaged: {damage}"));
                return;
            }
            Err(error) => {
                self.damage.push(error.to_string());
                return;
            }
        };
        let (files, bytes) = size(&folder);
        let recovered = &held.recovered;
        let last = recovered.open.last().map_or(recovered.chosen_upto, |open| open.slot);
        self.journal = Some(InspectedJournal {
            incarnation: held.incarnation,
            promised: recovered.promised.to_string(),
            truncated_slot: recovered.truncated_upto.0,
            chosen_slot: recovered.chosen_upto.0,
            last_slot: last.max(recovered.chosen_upto).0,
            open_slots: recovered.open.len(),
            position: recovered.position.0,
            files,
            bytes,
            torn_tail: held.torn_tail,
        });
    }

    fn look_at_state(&mut self, identity: Option<&Identity>) {
        let folders = StateFolders::new(&self.folder);
        let current = match folders.current() {
            Ok(current) => current,
            Err(error) => {
                self.damage.push(error.to_string());
                return;
            }
        };
        match folders.leftovers() {
            Ok(leftovers) => self.leftovers = leftovers,
            Err(error) => self.damage.push(error.to_string()),
        }
        match folder::exists(&current) {
            Ok(true) => {}
            Ok(false) => return, // No node was ever started here.
            Err(error) => {
                self.damage.push(error.to_string());
                return;
            }
        }
        let installed_slot = StateFolders::mark(&current).unwrap_or_else(|error| {
            self.damage.push(error.to_string());
            None
        });
        let store = match Store::open_read_only(&current) {
            Ok(store) => store,
            Err(error) => {
                self.damage.push(error.to_string());
                return;
            }
        };
        let path = current.display();
        let mut checked = |what: &str, result: Result<u64, MapError>| {
            result.unwrap_or_else(|error| {
                self.damage.push(format!("{what} {path}: {error}"));
                0
            })
        };
        let records = checked("the records in", store.verify(|| true));
        let keys = checked("the keys in", count_keys(&store));
        let state = State::load(&store).unwrap_or_else(|error| {
            self.damage.push(format!("the state record in {path}: {error}"));
            State::default()
        });
        let (voters, learners) = identity.map(|of| members(&store, of)).unwrap_or_default();
        let (files, bytes) = size(&current);
        self.state = Some(InspectedState {
            applied_slot: state.applied_slot,
            revision: state.revision.0,
            hash: format!("{:016x}", state.hash()),
            keys,
            records,
            files,
            bytes,
            voters,
            learners,
            installed_slot,
            folder: current,
        });
    }
}

fn count_keys(store: &Store) -> Result<u64, MapError> {
    let mut counter = Counter::new(store, &ListQuery::prefix(b""))?;
    while !counter.go_on(VISITS)? {}
    Ok(counter.page().count)
}

/// Who votes as of the newest configuration in the state, and who does not; nobody when that
/// can't be read.
fn members(store: &Store, identity: &Identity) -> (Vec<u32>, Vec<u32>) {
    let machine = StateMachine::open(store.clone(), KvOptions::default()).ok();
    let found = machine.and_then(|machine| configurations_in(&machine, identity).ok());
    let Some(found) = found else { return (vec![], vec![]) };
    let newest = Roster::new(&found.talked_to(), &Known::default()).newest;
    let members = newest.members().iter();
    let (voters, learners): (Vec<_>, Vec<_>) = members.partition(|node| newest.is_voter(**node));
    let ids = |nodes: Vec<&NodeId>| nodes.iter().map(|node| node.0).collect();
    (ids(voters), ids(learners))
}

/// How many files a folder has and how long they are; none where it can't be read.
fn size(folder: &Path) -> (usize, u64) {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let lengths = entries.filter_map(|entry| entry.metadata().ok()).map(|found| found.len());
    lengths.fold((0, 0), |(files, bytes), length| (files + 1, bytes + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_node::{image, put, settings};
    use crate::{Node, init};

    #[test]
    fn a_folder_is_told_and_not_changed() {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = settings(dir.path());
        let data = &settings.data_dir;
        init(&settings).expect("made");
        let fresh = inspect(data).expect("readable");
        assert_eq!((fresh.state, fresh.damage), (None, vec![]));

        let node = Node::start(&settings).expect("starts");
        let running = inspect(data).expect("readable");
        assert!(running.is_running && running.journal.is_none(), "{running:?}");
        put(&node, "key");
        node.stop().expect("stopped in order");

        fs::write(data.join("VIOLATION"), "it was night").expect("written");
        fs::create_dir(data.join("state.new")).expect("made");
        let before = image(data);
        let found = inspect(data).expect("readable");
        assert!(image(data) == before, "the folder was changed");
        assert!(!found.is_running);
        assert_eq!(found.damage, Vec::<String>::new());
        let journal = found.journal.expect("a journal");
        assert!(journal.incarnation == 1 && journal.last_slot > 0, "{journal:?}");
        let state = found.state.expect("a state");
        assert!(state.applied_slot > 0 && state.keys == 1, "{state:?}");
        assert_eq!(found.violation.as_deref(), Some("it was night"));
        assert_eq!(found.leftovers, ["state.new"]);
    }

    #[test]
    fn every_mark_is_told_and_one_that_cannot_be_believed_is_damage() {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = settings(dir.path());
        let data = &settings.data_dir;
        init(&settings).expect("made");
        Node::start(&settings).expect("starts").stop().expect("stopped in order");
        assert_eq!(inspect(data).expect("readable").marks, []);
        fs::write(data.join("REBUILD"), "found by the node itself: a block\n").expect("written");
        fs::write(data.join("FILLED"), "x".repeat(2_000)).expect("written");
        fs::write(data.join("WHOLE"), "").expect("written");
        let found = inspect(data).expect("readable");
        let told: Vec<&str> = found.marks.iter().map(|mark| mark.name.as_str()).collect();
        assert_eq!(told, ["REBUILD", "WHOLE", "FILLED"]);
        assert_eq!(found.marks[0].words, "found by the node itself: a block");
        assert_eq!(found.marks[2].words.len(), WORDS_MAX);
        assert!(found.damage.len() == 1 && found.damage[0].contains("FILLED"), "{found:?}");
        std::os::unix::fs::symlink("SUSPECT", data.join("SUSPECT")).expect("made");
        let found = inspect(data).expect("readable");
        assert!(found.damage.iter().any(|text| text.contains("SUSPECT")), "{found:?}");
    }

    #[test]
    fn damage_is_told_and_the_rest_with_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = settings(dir.path());
        let data = &settings.data_dir;
        init(&settings).expect("made");
        let node = Node::start(&settings).expect("starts");
        put(&node, "key");
        node.stop().expect("stopped in order");
        let state = data.join("state");
        let entries = fs::read_dir(&state).expect("readable");
        let mut tables = entries.map(|entry| entry.expect("readable").path());
        let table = tables.find(|path| path.extension().is_some_and(|e| e == "sst"));
        let table = table.expect("a table");
        let mut bytes = fs::read(&table).expect("readable");
        bytes[3] ^= 0x40;
        fs::write(&table, bytes).expect("written");
        fs::write(state.join("INSTALLED"), "7 00000000\n").expect("written");
        let found = inspect(data).expect("readable");
        assert!(found.journal.is_some() && found.identity.is_some());
        assert!(found.damage.iter().any(|text| text.contains("INSTALLED")), "{found:?}");
        assert!(found.damage.iter().any(|text| text.contains("the records in")), "{found:?}");
        fs::write(data.join("identity.json"), "{").expect("written");
        let found = inspect(data).expect("readable");
        for words in ["identity.json: ", "synod member replace OLD", "Do not write"] {
            assert!(found.damage[0].contains(words), "{found:?}");
        }
    }
}
