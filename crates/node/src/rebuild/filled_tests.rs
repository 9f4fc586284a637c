//! A file of the journal cannot be read for a while, and the state gets from a peer what the journal
//! lost: then the file reads again, wherever the node died on the way.
//!
//! Node 1 accepted something in some slots of a leader that nobody else followed, missed some
//! slots, and knows none of these as chosen. Node 2 has what was chosen. Node 3 is away.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bytes::Bytes;
use synod_journal::{ClusterId, Journal, JournalOptions, Shown};
use synod_kv::{KvOptions, StateMachine};
use synod_paxos::{Ballot, NodeId, Record, RecordBody, Slot, Value};
use synod_storage::{Store, failpoint};
use tempfile::TempDir;

use super::Rebuild;
use super::asking::patience;
use crate::apply_thread::Applier;
use crate::filled::Filled;
use crate::folder::{Folder, JOURNAL};
use crate::identity::Identity;
use crate::marks::{FILLED, REBUILD};
use crate::recover::Survivor;
use crate::{Node, Settings, StartError, tuning};

const PATIENCE: Duration = Duration::from_secs(60);
/// Up to here node 1 knows all as chosen.
const KNOWN: u64 = 9;
/// Here it holds what was never chosen.
const WRONG: std::ops::RangeInclusive<u64> = 11..=15;
/// And here the damage ends.
const LOST_UPTO: u64 = 20;
const LAST: u64 = 40;

/// To apply it would end the node.
fn never_chosen() -> Value {
    Value::Batch(Bytes::from_static(&[0xff; 700]))
}

struct World {
    folder: TempDir,
    settings: [Settings; 2],
    lineage: ClusterId,
}

fn settings(folder: &Path, ports: &[u16]) -> [Settings; 2] {
    let member = |id: usize| {
        let (peer, client) = (ports[2 * id], ports[2 * id + 1]);
        format!(
            "[[members]]\nid = {}\npeer = \"127.0.0.1:{peer}\"\n\
             client_url = \"http://127.0.0.1:{client}\"\n",
            id + 1
        )
    };
    let members: String = (0..3).map(member).collect();
    [0, 1].map(|index: usize| {
        let text = format!(
            "node_id = {id}\ndata_dir = \"now/{id}\"\n[cluster]\n\
             id = \"00112233445566778899aabbccddeeff\"\n[peer]\nlisten = \"127.0.0.1:{}\"\n\
             [client]\nlisten = \"127.0.0.1:{}\"\n{members}",
            ports[2 * index],
            ports[2 * index + 1],
            id = index + 1,
        );
        Settings::parse(&text, &folder.join("synod.toml")).expect("settings")
    })
}

/// What a node accepted in files of their own: slots, the round of the ballot, and the value.
type Accepted = (std::ops::RangeInclusive<u64>, u64, Value);

impl World {
    /// Both nodes as they are before a file of node 1 is damaged, in the folder `before`.
    fn new() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let bind = |_| TcpListener::bind("127.0.0.1:0").expect("a port");
        let listeners: Vec<TcpListener> = (0..6).map(bind).collect();
        let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
        let settings = settings(folder.path(), &listeners.iter().map(port).collect::<Vec<_>>());
        drop(listeners);
        let identities = settings.each_ref().map(|of| crate::init(of).expect("a fresh folder"));
        let world = World { folder, lineage: identities[0].lineage(), settings };
        world.accept(0, KNOWN, &[(1..=KNOWN + 1, 1, Value::Noop)]);
        // It has a state of that.
        world.start(0).stop().expect("stopped in order");
        world.accept(
            0,
            KNOWN,
            &[
                (WRONG, 2, never_chosen()),
                (18..=LOST_UPTO, 3, Value::Noop),
                (LOST_UPTO + 1..=LAST, 3, Value::Noop),
            ],
        );
        world.accept(1, LAST, &[(1..=LAST, 3, Value::Noop), (LAST + 1..=LAST + 1, 3, Value::Noop)]);
        copy(&world.path("now"), &world.path("before"));
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes what a node accepted while it knew slots up to `known` as chosen.
    fn accept(&self, node: usize, known: u64, accepted: &[Accepted]) {
        let options = JournalOptions { segment_bytes: 4096, format: 1 };
        let dir = self.settings[node].data_dir.join(JOURNAL);
        let mut journal = Journal::open(&dir, self.lineage, &options).expect("opens").journal;
        for (slots, round, value) in accepted {
            journal.begin_next().expect("a file");
            for slot in slots.clone() {
                let promised = Ballot { round: *round, node: NodeId(2 - u32::from(*round == 2)) };
                let (slot, value) = (Slot(slot), value.clone());
                let chosen_upto = Slot(known.min(slot.0 - 1));
                let body = RecordBody::Accepted { slot, ballot: promised, value };
                journal.append(&[Record { promised, chosen_upto, body }]).expect("appended");
                journal.sync().expect("durable");
            }
        }
        journal.seal().expect("sealed");
    }

    /// Everything is as it was before.
    fn reset(&self) {
        fs::remove_dir_all(self.path("now")).expect("removed");
        copy(&self.path("before"), &self.path("now"));
    }

    /// The files of node 1 that hold slots from the wrong ones to the last that is lost.
    fn hit(&self) -> Vec<PathBuf> {
        let dir = self.settings[0].data_dir.join(JOURNAL);
        let entries = fs::read_dir(&dir).expect("a journal");
        let paths = entries.map(|entry| entry.expect("readable").path());
        let is_used = |path: &PathBuf| {
            let used = || fs::read(path).expect("readable").iter().any(|byte| *byte != 0);
            path.extension().is_some_and(|end| end == "seg") && used()
        };
        let mut used: Vec<PathBuf> = paths.filter(is_used).collect();
        used.sort();
        // Files of 4 KiB: the wrong values take two, and those behind the damage at least two.
        let has = |path: &PathBuf, byte: u8| {
            fs::read(path)
                .expect("readable")
                .windows(64)
                .any(|run| run.iter().all(|at| *at == byte))
        };
        let first = used.iter().position(|path| has(path, 0xff)).expect("the wrong values");
        let behind = used.iter().rposition(|path| has(path, 0xff)).expect("one") + 1;
        used[first..=behind].to_vec()
    }

    /// Bytes of these files are wrong; gives what was there.
    fn damage(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let files = self.hit().into_iter().map(|path| {
            let bytes = fs::read(&path).expect("readable");
            let mut wrong = bytes.clone();
            wrong.iter_mut().skip(512).for_each(|byte| *byte ^= 0x55);
            fs::write(&path, wrong).expect("written");
            (path, bytes)
        });
        files.collect()
    }

    fn start(&self, node: usize) -> Node {
        Node::start(&self.settings[node]).expect("it starts")
    }

    fn dies(&self, step: &str) {
        let settings = &self.settings[0];
        failpoint::arm(&settings.data_dir, step);
        let died = Node::start(settings).expect_err(step);
        assert!(died.to_string().contains(step), "{step}: {died}");
    }

    /// Some slots came, and were made durable by chance.
    fn dies_amid(&self) {
        let settings = &self.settings[0];
        let folder = Folder::open(&settings.data_dir).expect("its folder");
        let identity = Identity::open(&folder, settings).expect("its identity");
        let behind = Journal::look_behind_damage(&folder.journal(), self.lineage).expect("read");
        folder.replace(FILLED, &Filled::of(&behind).encode()).expect("marked");
        let path = folder.states().current().expect("a state");
        let store = Store::open(path, &tuning::store_options(settings)).expect("opens");
        let machine = StateMachine::open(store.clone(), KvOptions::default()).expect("whole");
        let mut applier = Applier::new(machine, &identity, 1, Arc::default());
        for slot in applier.applied().0 + 1..=13 {
            applier.apply(Slot(slot), Value::Noop, |_, _| {}).expect("applied");
        }
        applier.commit().expect("committed");
        store.flush().expect("durable");
    }

    /// The journal of node 1 does not take for chosen what never was, nor holds it below the state.
    fn knows_better(&self, step: &str, state_upto: u64) {
        let dir = self.settings[0].data_dir.join(JOURNAL);
        let recovered = Journal::inspect(&dir, self.lineage).expect(step).recovered;
        let (dropped, chosen) = (recovered.truncated_upto, recovered.chosen_upto);
        assert!(dropped.0 >= state_upto, "{step}: {dropped} is dropped, {chosen} chosen");
        let wrong = never_chosen();
        let mut open = recovered.open.iter().filter(|open| open.value == wrong);
        assert!(open.all(|open| open.slot.0 > state_upto), "{step}");
        let shown = Shown::read(&dir, self.lineage).expect(step);
        for slot in WRONG.map(Slot) {
            assert!(!shown.values(slot, slot, 1).contains(&wrong), "{step}: {slot}");
        }
    }

    fn has(&self, mark: &str) -> bool {
        self.settings[0].data_dir.join(mark).exists()
    }

    /// Both serve, with the same state, and nothing is left to do.
    fn is_well(&self, step: &str, two: Node) {
        let one = self.start(0);
        let begun = Instant::now();
        loop {
            let states = [&one, &two].map(state);
            if states[0].0 > LAST && states[0] == states[1] {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{step}: {states:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!self.has(FILLED) && !self.has(REBUILD), "{step}");
        for node in [one, two] {
            node.stop().expect(step);
        }
        self.knows_better(step, 0);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("made");
    fs::set_permissions(to, fs::metadata(from).expect("there").permissions()).expect("private");
    for entry in fs::read_dir(from).expect("readable") {
        let path = entry.expect("readable").path();
        let new = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &new),
            false => drop(fs::copy(&path, &new).expect("copied")),
        }
    }
}

/// How far a node's state is, and its hash.
fn state(node: &Node) -> (u64, String) {
    let mut stream = TcpStream::connect(node.client_addr()).expect("it listens");
    let request = b"GET /v1/status HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    stream.write_all(request).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    let status: serde_json::Value = serde_json::from_str(body).expect("JSON");
    (status["applied_slot"].as_u64().expect("a slot"), status["state_hash"].to_string())
}

/// Node 1 finds the damage, and its next start mends it with what node 2 gives, up to this step.
fn damaged_and_dead_at(world: &World, step: &str) -> Vec<(PathBuf, Vec<u8>)> {
    world.reset();
    let whole = world.damage();
    let found = Node::start(&world.settings[0]).expect_err("damaged");
    assert!(matches!(found, StartError::Rebuild { .. }), "{found}");
    assert!(world.has(REBUILD));
    if step == AMID {
        world.dies_amid();
    } else {
        let two = world.start(1);
        world.dies(step);
        two.stop().expect("stopped in order");
    }
    whole
}

const AMID: &str = "some slots came";
/// The steps, and how far the state is after each.
const STEPS: [(&str, u64); 9] = [
    ("repair begun", 0),
    ("filling begun", 0),
    (AMID, 13),
    ("slots fetched", LOST_UPTO),
    ("SUSPECT gone", LOST_UPTO),
    ("UNREPLACED gone", LOST_UPTO),
    ("REBUILD gone", LOST_UPTO),
    ("state kept", LOST_UPTO),
    ("filling told", LOST_UPTO),
];

#[test]
fn what_a_file_shows_again_counts_for_nothing_that_the_state_has_by_then() {
    let world = World::new();
    for (step, state_upto) in STEPS {
        for (path, bytes) in damaged_and_dead_at(&world, step) {
            // The damage was mended if the journal was opened since then.
            if path.exists() {
                fs::write(path, bytes).expect("written");
            }
        }
        if world.has(FILLED) {
            let survivor = Survivor::examine(&world.settings[0].data_dir).expect(step);
            let doubts = &survivor.findings().doubts;
            assert!(
                !doubts.iter().any(|doubt| doubt.contains("journal lost")),
                "{step}: {doubts:?}"
            );
        }
        // Nobody is asked for anything.
        world.start(0).stop().expect(step);
        assert!(!world.has(FILLED), "{step}");
        world.knows_better(step, state_upto);
        let two = world.start(1);
        world.is_well(step, two);
    }
}

#[test]
fn a_node_that_dies_while_its_state_is_filled_goes_on_with_that() {
    let world = World::new();
    for (step, _) in STEPS {
        damaged_and_dead_at(&world, step);
        let two = world.start(1);
        world.is_well(step, two);
    }
}

#[test]
fn a_node_that_cannot_go_on_asks_as_long_as_ever() {
    let world = World::new();
    let settings = &world.settings[0];
    let folder = Folder::open(&settings.data_dir).expect("its folder");
    let identity = Identity::open(&folder, settings).expect("its identity");
    let stop = AtomicBool::new(false);
    let rebuild = Rebuild { folder: &folder, settings, identity: &identity, stop: &stop };
    let asks = |upto, unreplaced| rebuild.patience(Slot(upto), unreplaced).expect("readable");
    assert_eq!((asks(KNOWN, 2), asks(KNOWN, 0)), (patience(2), patience(0)));
    assert_eq!((asks(KNOWN + 1, 2), asks(KNOWN + 1, 0)), (patience(0), patience(0)));
    assert!(patience(2) < patience(0));
}
