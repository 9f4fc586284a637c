//! What a start makes of its marks when the journal beside them is another one, or the disk does
//! not say whether they are there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use synod_journal::{Behind, ClusterId, Journal, Shown};
use synod_paxos::{Recovered, Slot};
use synod_storage::snapshot::StateFolders;

use crate::fatal::Fatal;
use crate::filled::{Filled, given_upto};
use crate::folder::{Folder, JOURNAL, REMOVED_FILE};
use crate::identity::Identity;
use crate::marks::{FILLED, REBUILD, SUSPECT, UNREPLACED, WHOLE, doubt_text};
use crate::recover::Survivor;
use crate::recovery::RecoveryError;
use crate::test_node::{put, settings};
use crate::{Node, Settings, StartError, init, inspect, tuning};

/// A node of one whose state is ahead of an older copy of its journal.
struct World {
    folder: tempfile::TempDir,
    settings: Settings,
    lineage: ClusterId,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings(folder.path());
        init(&settings).expect("made");
        let identity = Identity::find(&settings.data_dir).expect("readable").expect("made");
        let world = World { settings, lineage: identity.lineage(), folder };
        world.serve(&["a", "b"]);
        copy(&world.journal(), &world.older());
        world.serve(&["c", "d", "e"]);
        copy(&world.journal(), &world.newer());
        world
    }

    fn serve(&self, keys: &[&str]) {
        let node = Node::start(&self.settings).expect("starts");
        keys.iter().for_each(|key| put(&node, key));
        node.stop().expect("stopped in order");
    }

    fn data(&self) -> &Path {
        &self.settings.data_dir
    }

    fn journal(&self) -> PathBuf {
        self.data().join(JOURNAL)
    }

    fn older(&self) -> PathBuf {
        self.folder.path().join("older")
    }

    fn newer(&self) -> PathBuf {
        self.folder.path().join("newer")
    }

    fn applied(&self) -> Slot {
        Slot(inspect(self.data()).expect("readable").state.expect("a state").applied_slot)
    }

    /// Has this copy be the journal, and looks at it as a node does that gives slots to its state.
    fn put_back(&self, journal: &Path) -> Behind {
        fs::remove_dir_all(self.journal()).expect("removed");
        copy(journal, &self.journal());
        Journal::look_behind_damage(&self.journal(), self.lineage).expect("whole")
    }

    /// As if peers had given the state slots up to `upto`, when the journal was this one.
    fn fill(&self, journal: &Behind, upto: Slot) {
        let filled = Filled::of(&Behind { upto, ..*journal });
        fs::write(self.data().join(FILLED), filled.encode()).expect("written");
    }

    fn refused(&self) -> RecoveryError {
        match Node::start(&self.settings).expect_err("it must not vote") {
            StartError::Recovery(refused) => refused,
            other => panic!("{other}"),
        }
    }

    fn has(&self, mark: &str) -> bool {
        self.data().join(mark).exists()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("made");
    for entry in fs::read_dir(from).expect("readable") {
        let path = entry.expect("readable").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
    }
}

/// The state is ahead of it in any case; but what the later one promised is in it nowhere.
#[test]
fn slots_that_were_given_to_a_state_excuse_no_older_journal() {
    let world = World::new();
    let applied = world.applied();
    let newer = world.put_back(&world.newer());
    let newer_looked_at = world.folder.path().join("looked-at");
    copy(&world.journal(), &newer_looked_at);
    world.fill(&newer, applied);
    world.put_back(&world.older());
    for _ in 0..2 {
        let refused = world.refused();
        assert!(matches!(refused, RecoveryError::JournalOlder { .. }), "{refused}");
        assert!(refused.to_string().contains("position"), "{refused}");
        // Neither when the state is doubted, by whom ever.
        fs::write(world.data().join(REBUILD), doubt_text("a block")).expect("written");
    }
    assert!(world.has(REBUILD) && world.has(FILLED));
    fs::write(world.data().join(REBUILD), b"").expect("written");
    assert!(matches!(world.refused(), RecoveryError::JournalOlder { .. }));
    fs::remove_file(world.data().join(REBUILD)).expect("removed");
    // Whoever only reads the folder is told as well.
    let found = inspect(world.data()).expect("readable");
    assert!(found.damage.iter().any(|text| text.contains(FILLED)), "{found:?}");
    let survivor = Survivor::examine(world.data()).expect("readable");
    let doubts = &survivor.findings().doubts;
    assert!(doubts.iter().any(|doubt| doubt.contains("an older copy")), "{doubts:?}");
    drop(survivor);
    // The journal beside which it was done is none such.
    world.put_back(&newer_looked_at);
    assert_eq!(inspect(world.data()).expect("readable").damage, Vec::<String>::new());
    world.serve(&["f"]);
    assert!(!world.has(FILLED));
}

#[test]
fn a_state_may_be_ahead_as_far_as_it_was_given_slots_and_no_further() {
    let world = World::new();
    let applied = world.applied();
    let journal = world.put_back(&world.older());
    assert!(journal.held < applied);
    world.fill(&journal, Slot(applied.0 - 1));
    let refused = world.refused();
    assert!(matches!(refused, RecoveryError::JournalLost { .. }), "{refused}");
    let journal = world.put_back(&world.older());
    let doubts = || {
        let survivor = Survivor::examine(world.data()).expect("readable");
        survivor.findings().doubts.clone()
    };
    world.fill(&journal, Slot(applied.0 - 1));
    fs::write(world.data().join(REBUILD), b"").expect("written");
    assert!(matches!(world.refused(), RecoveryError::JournalLost { .. }));
    fs::remove_file(world.data().join(REBUILD)).expect("removed");
    assert!(doubts().len() == 1 && doubts()[0].contains("the journal lost"), "{:?}", doubts());
    let journal = world.put_back(&world.older());
    world.fill(&journal, applied);
    assert_eq!(given_upto(world.data(), world.lineage), Ok(applied));
    assert_eq!(doubts(), Vec::<String>::new());
    world.serve(&["f"]);
    assert!(!world.has(FILLED));
}

#[test]
fn a_mark_that_no_node_wrote_is_refused() {
    let world = World::new();
    for content in ["", "the state may be ahead of the journal\n"] {
        fs::write(world.data().join(FILLED), content).expect("written");
        let refused = world.refused();
        assert!(matches!(refused, RecoveryError::FilledUnclear(_)), "{refused}");
        let survivor = Survivor::examine(world.data()).expect("readable");
        let doubts = &survivor.findings().doubts;
        assert!(doubts.iter().any(|doubt| doubt.contains(FILLED)), "{doubts:?}");
    }
}

/// Here the system says of each that there are too many links; of a disk it would be that it can't read.
#[test]
fn what_the_disk_does_not_tell_of_a_mark_is_no_no() {
    let world = World::new();
    let unclear = |name: &str| {
        let path = world.data().join(name);
        symlink(name, &path).expect("made");
        let refused = Node::start(&world.settings).expect_err(name).to_string();
        assert!(refused.contains(&path.display().to_string()), "{name}: {refused}");
        fs::remove_file(path).expect("removed");
    };
    for name in [REMOVED_FILE, REBUILD, SUSPECT, FILLED] {
        unclear(name);
    }
    fs::write(world.data().join(REBUILD), doubt_text("a block")).expect("written");
    unclear(WHOLE);
    world.serve(&["f"]);
}

/// A state that the disk does not find is none that was never there.
#[test]
fn what_the_disk_does_not_tell_of_a_state_is_no_no() {
    let world = World::new();
    let state = world.data().join("state");
    fs::rename(&state, world.folder.path().join("state")).expect("moved");
    symlink("state", &state).expect("made");
    let found = inspect(world.data()).expect("readable");
    assert!(found.damage.iter().any(|text| text.contains("look for")), "{found:?}");
    let refused = Survivor::examine(world.data()).expect_err("unreadable").to_string();
    assert!(refused.contains("look for"), "{refused}");
    fs::write(world.data().join(SUSPECT), b"").expect("written");
    let refused = Node::start(&world.settings).expect_err("unreadable").to_string();
    assert!(refused.contains("look for"), "{refused}");
    fs::write(world.data().join(REBUILD), doubt_text("a block")).expect("written");
    assert!(Node::start(&world.settings).is_err() && world.has(REBUILD));
}

/// The journal has a full file of what came first, begins after slot 1, and goes on in another file.
fn cut(world: &World) {
    let options = tuning::journal_options(&world.settings);
    let mut opened = Journal::open(&world.journal(), world.lineage, &options).expect("opens");
    let record = opened.recovered.start_after(Slot(1)).expect("later");
    opened.journal.append(&[record]).expect("appended");
    opened.journal.begin_next().expect("a file");
}

/// The state is doubted, and goes on since nobody has another one.
fn doubt(world: &World) {
    fs::write(world.data().join(REBUILD), doubt_text("a block")).expect("written");
    // So it is not read before it is taken for damaged.
    fs::write(world.data().join(UNREPLACED), b"1\n").expect("written");
}

/// The slots that the journal shows as chosen.
fn shown(world: &World) -> Vec<u64> {
    let shown = Shown::read(&world.journal(), world.lineage).expect("readable");
    let is_shown = |slot: &u64| !shown.values(Slot(*slot), Slot(*slot), 1).is_empty();
    (1..=world.applied().0).filter(is_shown).collect()
}

fn kept(world: &World) -> usize {
    let files = fs::read_dir(world.journal()).expect("readable");
    let names = files.map(|file| file.expect("readable").file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".kept")).count()
}

fn held(world: &World) -> Recovered {
    Journal::inspect(&world.journal(), world.lineage).expect("whole").recovered
}

/// What the journal knows as chosen by itself needs no mark to be right, and may be missing in the
/// state.
#[test]
fn a_filled_state_that_is_doubted_costs_the_journal_nothing_that_it_knows() {
    let world = World::new();
    cut(&world);
    world.serve(&["f", "g"]);
    doubt(&world);
    let before = held(&world);
    assert_eq!(before.truncated_upto, Slot(1));
    let looked_at = Journal::look_behind_damage(&world.journal(), world.lineage).expect("whole");
    world.fill(&looked_at, before.chosen_upto);
    let all = shown(&world);
    assert!(all.len() > 3, "{all:?}");
    world.serve(&[]);
    assert!(world.has(REBUILD) && !world.has(FILLED));
    assert_eq!((held(&world).truncated_upto, kept(&world)), (Slot(1), 0));
    assert!(shown(&world).starts_with(&all), "{all:?} {:?}", shown(&world));
}

/// In what it does not know it may hold what was never chosen, so it begins behind that.
#[test]
fn what_a_journal_knew_before_a_filled_state_that_is_doubted_is_kept_aside() {
    let world = World::new();
    world.put_back(&world.older());
    cut(&world);
    doubt(&world);
    let (applied, known) = (world.applied(), held(&world).chosen_upto);
    assert!(applied > known, "{applied} {known}");
    let looked_at = Journal::look_behind_damage(&world.journal(), world.lineage).expect("whole");
    world.fill(&looked_at, applied);
    let all = shown(&world);
    assert!(all.contains(&known.0), "{all:?}");
    world.serve(&[]);
    assert!(world.has(REBUILD) && !world.has(FILLED) && kept(&world) > 0);
    assert!(held(&world).truncated_upto >= applied);
    assert!(shown(&world).starts_with(&all), "{all:?} {:?}", shown(&world));
    // Until the state is sound.
    fs::remove_file(world.data().join(REBUILD)).expect("removed");
    world.serve(&["h"]);
    assert_eq!(kept(&world), 0);
}

/// The journal is damaged as well, in a slot that the state has as far as can be read of it.
#[test]
fn a_journal_that_is_mended_beside_a_doubted_state_loses_nothing_that_is_whole() {
    let world = World::new();
    cut(&world);
    world.serve(&["f", "g"]);
    doubt(&world);
    let files = fs::read_dir(world.journal()).expect("readable");
    let files = files.map(|file| file.expect("readable").path());
    let holds = |path: &PathBuf| {
        let bytes = fs::read(path).expect("readable");
        bytes.windows(5).position(|bytes| bytes == b"value")
    };
    // The first one that holds a key is full: another one follows it.
    let (path, at) =
        files.filter_map(|path| Some((path.clone(), holds(&path)?))).min().expect("one");
    let mut bytes = fs::read(&path).expect("readable");
    bytes[at] ^= 1;
    fs::write(&path, bytes).expect("written");
    let all = shown(&world);
    assert!(all.len() > 3, "{all:?}");
    world.serve(&["h"]);
    assert!(world.has(REBUILD) && kept(&world) > 0);
    assert!(shown(&world).starts_with(&all), "{all:?} {:?}", shown(&world));
    assert!(held(&world).truncated_upto > Slot(1));
}

/// What the journal holds of a state that is proven to be damaged nobody else has.
#[test]
fn a_lone_node_with_a_damaged_state_stays_in_doubt_and_makes_it_again() {
    let world = World::new();
    let applied = world.applied();
    let states = StateFolders::new(world.data());
    for file in fs::read_dir(states.current().expect("readable")).expect("readable") {
        let path = file.expect("readable").path();
        if path.extension().is_some_and(|end| end == "sst") {
            let mut bytes = fs::read(&path).expect("readable");
            bytes[4] ^= 1;
            fs::write(&path, bytes).expect("written");
        }
    }
    fs::write(world.data().join(SUSPECT), b"a block\n").expect("written");
    let folder = Folder::open(world.data()).expect("free");
    let identity = Identity::find(world.data()).expect("readable").expect("made");
    let stop = AtomicBool::new(false);
    super::look_at_suspect(&folder, &world.settings, &identity, &stop).expect("it goes on");
    assert!(world.has(REBUILD) && !world.has(SUSPECT));
    assert!(Fatal::of(world.data()).doubts_state());
    drop(folder);
    // What the journal does not know as chosen yet comes before the next one.
    world.serve(&["f"]);
    assert!(!world.has(REBUILD) && world.applied() > applied);
}

/// A state that is put back later finds its place free.
#[test]
fn a_start_without_a_state_makes_none_when_the_journal_does_not_give_it() {
    let world = World::new();
    cut(&world);
    let state = StateFolders::new(world.data()).current().expect("readable");
    fs::rename(&state, world.folder.path().join("elsewhere")).expect("moved");
    let refused = Node::start(&world.settings).expect_err("there is no state");
    assert!(matches!(refused, StartError::Alone { .. }), "{refused}");
    assert!(!state.exists());
    fs::rename(world.folder.path().join("elsewhere"), &state).expect("put back");
    world.serve(&["f"]);
}
