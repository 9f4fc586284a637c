//! Random lives of a journal beside a model in memory: what was synced comes back, and
//! of what was not, either the whole group or nothing.

// Test data is small numbers.
#![allow(clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use synod_journal::{ClusterId, Journal, JournalOptions};
use synod_paxos::{AcceptedSlot, Ballot, NodeId, Position, Record, RecordBody, Recovered};
use synod_paxos::{Slot, Standing, Value};

const CLUSTER: ClusterId = ClusterId(5);
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Op {
    Promise,
    Accept {
        offset: u64,
        bytes: usize,
        new_ballot: bool,
    },
    Chosen {
        offset: u64,
        bytes: usize,
    },
    Watermark,
    StartAfter {
        offset: u64,
    },
    Sync,
    Seal,
    Truncate {
        back: u64,
    },
    Reopen,
    /// The machine stops while the group is written: bit n says whether the n-th sector
    /// written made it to the disk.
    Crash {
        written: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let bytes = || prop_oneof![0..40_usize, 0..1500_usize, 4000..9000_usize];
    prop_oneof![
        2 => Just(Op::Promise),
        12 => (0..5_u64, bytes(), any::<bool>())
            .prop_map(|(offset, bytes, new_ballot)| Op::Accept { offset, bytes, new_ballot }),
        4 => (0..5_u64, bytes()).prop_map(|(offset, bytes)| Op::Chosen { offset, bytes }),
        6 => Just(Op::Watermark),
        1 => (0..4_u64).prop_map(|offset| Op::StartAfter { offset }),
        8 => Just(Op::Sync),
        2 => Just(Op::Seal),
        2 => (0..6_u64).prop_map(|back| Op::Truncate { back }),
        2 => Just(Op::Reopen),
        3 => prop_oneof![Just(u64::MAX), any::<u64>()].prop_map(|written| Op::Crash { written }),
    ]
}

/// What a journal must hold.
#[derive(Clone, Debug)]
struct Model {
    promised: Ballot,
    chosen_upto: u64,
    truncated_upto: u64,
    position: u64,
    open: BTreeMap<u64, (Standing, Value)>,
    chosen: BTreeMap<u64, Value>,
}

impl Model {
    fn new() -> Model {
        Model {
            promised: Ballot::ZERO,
            chosen_upto: 0,
            truncated_upto: 0,
            position: 0,
            open: BTreeMap::new(),
            chosen: BTreeMap::new(),
        }
    }

    fn record(&mut self, body: RecordBody) -> Record {
        self.position += 1;
        match &body {
            RecordBody::Promise => {}
            RecordBody::Accepted { slot, ballot, value } => {
                if !matches!(self.open.get(&slot.0), Some((Standing::Chosen, _))) {
                    self.open.insert(slot.0, (Standing::Accepted(*ballot), value.clone()));
                }
            }
            RecordBody::Chosen { slot, value } => {
                self.open.insert(slot.0, (Standing::Chosen, value.clone()));
            }
            RecordBody::StartAfter { slot } => {
                self.truncate(slot.0);
                self.chosen_upto = self.chosen_upto.max(slot.0);
            }
        }
        Record { promised: self.promised, chosen_upto: Slot(self.chosen_upto), body }
    }

    fn truncate(&mut self, upto: u64) {
        self.truncated_upto = self.truncated_upto.max(upto);
        self.open.retain(|slot, _| *slot > upto);
        self.chosen.retain(|slot, _| *slot > upto);
    }

    fn recovered(&self) -> Recovered {
        let open = self.open.iter().map(|(slot, (standing, value))| AcceptedSlot {
            slot: Slot(*slot),
            standing: *standing,
            value: value.clone(),
        });
        Recovered {
            promised: self.promised,
            chosen_upto: Slot(self.chosen_upto),
            truncated_upto: Slot(self.truncated_upto),
            open: open.collect(),
            position: Position(self.position),
        }
    }

    /// The values that can be read back from the first one on.
    fn readable(&self) -> Vec<Value> {
        let open = (self.chosen_upto + 1..).map_while(|slot| match self.open.get(&slot) {
            Some((Standing::Chosen, value)) => Some(value),
            _ => None,
        });
        self.chosen.values().chain(open).cloned().collect()
    }
}

struct World {
    folder: tempfile::TempDir,
    options: JournalOptions,
    journal: Option<Journal>,
    incarnation: u64,
    now: Model,
    durable: Model,
}

impl World {
    fn new(segment_bytes: u64) -> World {
        let memory = Path::new("/dev/shm");
        let folder = memory.is_dir().then(|| tempfile::tempdir_in(memory).ok()).flatten();
        let folder = folder.unwrap_or_else(|| tempfile::tempdir().unwrap());
        let options = JournalOptions { segment_bytes, format: 1 };
        Journal::create(folder.path(), CLUSTER).unwrap();
        let (now, durable) = (Model::new(), Model::new());
        let mut world = World { folder, options, journal: None, incarnation: 0, now, durable };
        world.reopen();
        world
    }

    fn journal(&mut self) -> &mut Journal {
        self.journal.as_mut().unwrap()
    }

    fn append(&mut self, body: RecordBody) {
        let record = self.now.record(body);
        let position = self.journal().append(&[record]).unwrap();
        assert_eq!(position.0, self.now.position);
    }

    fn reopen(&mut self) {
        self.journal = None;
        let opened = Journal::open(self.folder.path(), CLUSTER, &self.options).unwrap();
        assert_eq!(opened.recovered, self.durable.recovered());
        self.incarnation += 1;
        assert_eq!(opened.incarnation, self.incarnation);
        self.journal = Some(opened.journal);
        self.now = self.durable.clone();
        self.check();
    }

    fn sync(&mut self) {
        let position = self.journal().sync().unwrap();
        assert_eq!(position.0, self.now.position);
        self.durable = self.now.clone();
    }

    fn check(&mut self) {
        let first = Slot(self.durable.truncated_upto + 1);
        let expected = self.durable.readable();
        let last = Slot(u64::MAX);
        let values = self.journal().read_chosen(first, last, usize::MAX).unwrap();
        assert_eq!(values, expected);
        let one = self.journal().read_chosen(first, last, 1).unwrap();
        assert_eq!(one, expected[..expected.len().min(1)]);
        let gone = self.journal().read_chosen(first.prior(), last, 1).unwrap();
        assert!(gone.is_empty());
    }

    fn truncate(&mut self, upto: u64) {
        self.journal().truncate(Slot(upto)).unwrap();
        self.durable = self.now.clone();
        let truncated = self.journal().truncated_upto().0;
        assert!(truncated <= upto.max(self.durable.truncated_upto));
        assert!(truncated >= self.durable.truncated_upto);
        self.durable.truncate(truncated);
        self.now = self.durable.clone();
    }

    fn crash(&mut self, written: u64) {
        let before = self.segments();
        self.journal().sync().unwrap();
        self.journal = None;
        let after = self.segments();
        let used = after.iter().rev().find(|(_, bytes)| bytes[..SECTOR] != [0; SECTOR]).unwrap();
        let zeros = vec![0; used.1.len()];
        // Only what the last sync wrote may be missing; a new header was synced before.
        let old = before.get(used.0).filter(|old| old.len() == zeros.len()).unwrap_or(&zeros);
        let changed = (1..used.1.len() / SECTOR).map(|sector| sector * SECTOR);
        let changed = changed.filter(|at| used.1[*at..*at + SECTOR] != old[*at..*at + SECTOR]);
        let file = OpenOptions::new().write(true).open(self.folder.path().join(used.0)).unwrap();
        let mut complete = true;
        for (bit, at) in changed.enumerate() {
            if written & (1 << (bit % 64)) == 0 {
                file.write_all_at(&old[at..at + SECTOR], at as u64).unwrap();
                complete = false;
            }
        }
        if complete {
            self.durable = self.now.clone();
        }
        self.reopen();
    }

    fn segments(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let segments = paths.filter(|path| path.extension().is_some());
        // The helper may still be filling the next one, which nobody looks at.
        let named = segments.map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let mut bytes = std::fs::read(path).unwrap();
            bytes.resize(bytes.len().max(SECTOR), 0);
            (name, bytes)
        });
        named.collect()
    }

    fn run(&mut self, op: Op, number: usize) {
        let value = |bytes| match bytes {
            0 => Value::Noop,
            _ => Value::Batch(Bytes::from(vec![number as u8; bytes])),
        };
        match op {
            Op::Promise => {
                self.now.promised = self.now.promised.next(NodeId(2));
                self.append(RecordBody::Promise);
            }
            Op::Accept { offset, bytes, new_ballot } => {
                let slot = Slot(self.now.chosen_upto + 1 + offset);
                // One ballot has one value in a slot.
                if new_ballot || self.now.open.contains_key(&slot.0) {
                    self.now.promised = self.now.promised.next(NodeId(1));
                }
                let ballot = self.now.promised;
                self.append(RecordBody::Accepted { slot, ballot, value: value(bytes) });
            }
            Op::Chosen { offset, bytes } => {
                let slot = Slot(self.now.chosen_upto + 1 + offset);
                let held = self.now.open.get(&slot.0);
                let settled = held.filter(|(standing, _)| *standing == Standing::Chosen);
                let value = settled.map_or(value(bytes), |(_, value)| value.clone());
                self.append(RecordBody::Chosen { slot, value });
            }
            Op::Watermark => {
                while let Some((_, value)) = self.now.open.remove(&(self.now.chosen_upto + 1)) {
                    self.now.chosen_upto += 1;
                    self.now.chosen.insert(self.now.chosen_upto, value);
                }
                self.append(RecordBody::Promise);
            }
            Op::StartAfter { offset } => {
                let slot = Slot(self.now.chosen_upto + offset);
                self.append(RecordBody::StartAfter { slot });
                self.sync();
            }
            Op::Sync => self.sync(),
            Op::Seal => {
                self.journal().seal().unwrap();
                self.durable = self.now.clone();
            }
            Op::Truncate { back } => self.truncate(self.now.chosen_upto.saturating_sub(back)),
            Op::Reopen => self.reopen(),
            Op::Crash { written } => self.crash(written),
        }
        // Unless records wait that nobody may rely on yet.
        if self.now.position == self.durable.position {
            self.check();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_was_synced_comes_back(
        ops in prop::collection::vec(op(), 1..80),
        segment_bytes in prop_oneof![Just(1536_u64), Just(4096), Just(1 << 16)],
    ) {
        let mut world = World::new(segment_bytes);
        for (number, op) in ops.into_iter().enumerate() {
            world.run(op, number);
        }
        world.sync();
        world.check();
        world.reopen();
    }
}
