//! Whatever happens in between, a client that resumes with its last id sees each change of
//! its keys once and in order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context as Task, Poll, Waker};

use bytes::Bytes;
use proptest::prelude::*;
use synod_kv::http::Encoding;
use synod_kv::read::{ChangePoint, ChangeQuery, ReadError, changes, changes_where};
use synod_kv::{
    Command, KvOptions, MemoryMap, Operation, Revision, ServerId, StateMachine, Txn, TxnOperation,
};

use crate::limits::Limits;
use crate::watch::event::{self, Format};
use crate::watch::follower::{Follower, Turn};
use crate::watch::hub::Hub;
use crate::watch::index::Range;
use crate::watch::queue::Mode;

const NODES: usize = 2;
const CLIENTS: usize = 3;

/// A change as clients see it: its revision, its key, and whether it was a put.
type Seen = (u64, String, bool);

#[derive(Clone, Debug)]
enum Step {
    /// One revision: keys that are put or removed.
    Write(Vec<(u8, bool)>),
    /// Everything before the newest revision but this many is forgotten.
    Compact(u64),
    /// A node applies what was chosen.
    Apply(usize),
    /// The hub of a node hands out a page of about so many bytes and changes.
    HandOut(usize, (usize, usize)),
    /// A client takes what there is, in so many parts of so many bytes.
    Take(usize, (usize, usize)),
    /// A client that heard nothing for long is told how far it is.
    Quiet(usize),
    /// A client's connection breaks, and it goes on at another node.
    Resume(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let keys = prop::collection::vec((0_u8..6, prop::bool::weighted(0.7)), 1..5);
    prop_oneof![
        6 => keys.prop_map(Step::Write),
        1 => (5_u64..20).prop_map(Step::Compact),
        4 => (0..NODES).prop_map(Step::Apply),
        4 => (0..NODES, (1_usize..200, 1_usize..8)).prop_map(|(n, page)| Step::HandOut(n, page)),
        6 => (0..CLIENTS, (1_usize..6, 1_usize..2_000)).prop_map(|(c, take)| Step::Take(c, take)),
        2 => (0..CLIENTS).prop_map(Step::Quiet),
        2 => (0..CLIENTS, 0..NODES).prop_map(|(c, n)| Step::Resume(c, n)),
    ]
}

/// What was chosen, and what it means.
struct Store {
    machine: StateMachine<MemoryMap>,
    sequence: u64,
    exist: BTreeSet<u8>,
    log: Vec<Seen>,
}

fn key(key: u8) -> String {
    // One in two is a prefix of another, and they take more than a page each.
    format!("{}{}", "k".repeat(usize::from(key % 3) * 20 + 1), key / 3)
}

impl Store {
    fn new() -> Self {
        let machine = StateMachine::open(MemoryMap::new(), KvOptions::default()).unwrap();
        Self { machine, sequence: 0, exist: BTreeSet::new(), log: Vec::new() }
    }

    fn apply(&mut self, operation: Operation) {
        self.sequence += 1;
        let id = ServerId { origin: 1, incarnation: 1, sequence: self.sequence };
        let command = Command { idempotency: None, operation };
        self.machine.apply(self.sequence, self.sequence, &[(id, command)]).unwrap();
        self.machine.commit().unwrap();
    }

    fn write(&mut self, changes: &[(u8, bool)]) {
        let mut keys = BTreeSet::new();
        let changes = changes.iter().filter(|(key, _)| keys.insert(*key));
        let revision = self.machine.revision().0 + 1;
        let mut success = Vec::new();
        for (name, is_put) in changes {
            let (text, name) = (key(*name), *name);
            let bytes = Bytes::from(text.clone());
            success.push(match is_put {
                true => TxnOperation::Put {
                    key: bytes,
                    value: Bytes::from_static(b"value"),
                    lease: None,
                    want_previous: false,
                },
                false => TxnOperation::Delete { key: bytes, want_previous: false },
            });
            let changes =
                if *is_put { self.exist.insert(name) || *is_put } else { self.exist.remove(&name) };
            if changes {
                self.log.push((revision, text, *is_put));
            }
        }
        self.apply(Operation::Txn(Txn { success, ..Txn::default() }));
    }
}

/// A client over all its connections.
struct Client {
    range: Range,
    format: Format,
    /// The first revision that it wants to see.
    begin: u64,
    last_id: u64,
    /// Up to its last id.
    seen: Vec<Seen>,
    /// Of a revision whose last event has not come.
    unfinished: Vec<Seen>,
    connection: Follower,
    node: usize,
    /// It has read everything. Much may happen before it says so.
    has_read_all: bool,
}

impl Client {
    /// Reads the text of a stream.
    fn receive(&mut self, text: &[u8]) {
        let text = std::str::from_utf8(text).unwrap();
        for event in text.split_terminator("\n\n") {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            let data: serde_json::Value = serde_json::from_str(field("data: ").unwrap()).unwrap();
            let revision = data["revision"].as_u64().unwrap();
            let kind = field("event: ").unwrap();
            if kind != "progress" {
                assert!(revision > self.last_id, "told twice: {event}");
                let before = &data["previous"];
                assert!(kind == "put" || before.is_object() == self.format.previous, "{event}");
                let key = data["key"].as_str().unwrap().to_owned();
                self.unfinished.push((revision, key, kind == "put"));
            }
            if let Some(id) = field("id: ") {
                let id: u64 = id.parse().unwrap();
                assert!(id >= self.last_id && id == revision, "{event}");
                self.last_id = id;
                let finished = self.unfinished.iter().take_while(|seen| seen.0 <= id).count();
                self.seen.extend(self.unfinished.drain(..finished));
            }
        }
    }

    /// Takes what there is; false when there is nothing more for now.
    fn take(&mut self, map: &MemoryMap, bytes_max: usize) -> Result<bool, ReadError> {
        let mut text = Vec::new();
        if std::mem::take(&mut self.has_read_all) {
            self.connection.join();
        }
        match self.connection.poll_turn(&Task::from_waker(Waker::noop()), bytes_max) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Turn::Stop) => unreachable!("nobody stops"),
            Poll::Ready(Turn::Items(items)) => {
                for item in items {
                    item.event.write(&mut text, self.format, item.is_last);
                }
            }
            Poll::Ready(Turn::Read) => {
                let page = self.connection.read(bytes_max / 10, |query| changes(map, query))?;
                event::write_page(&mut text, &page, self.format);
                self.has_read_all = page.changes.is_empty();
            }
        }
        self.receive(&text);
        Ok(true)
    }
}

struct World {
    store: Store,
    maps: Vec<MemoryMap>,
    hubs: Vec<Arc<Hub>>,
    clients: Vec<Client>,
}

impl World {
    fn new(wishes: Vec<(Range, bool)>, queue_events_max: usize) -> Self {
        let limits = Limits { watch_queue_events_max: queue_events_max, ..Limits::default() };
        let store = Store::new();
        let hubs: Vec<_> = (0..NODES).map(|_| Arc::new(Hub::new(&limits))).collect();
        let maps = vec![store.machine.map().clone(); NODES];
        let client = |(range, previous): (Range, bool)| {
            let at = ChangePoint::at(Revision(1));
            Client {
                connection: Follower::open(&hubs[0], range.clone(), previous, at),
                format: Format { encoding: Encoding::Text, previous },
                range,
                begin: 1,
                last_id: 0,
                seen: Vec::new(),
                unfinished: Vec::new(),
                node: 0,
                has_read_all: false,
            }
        };
        let clients = wishes.into_iter().map(client).collect();
        Self { store, maps, hubs, clients }
    }

    fn hand_out(&self, node: usize, (bytes_max, visits_max): (usize, usize)) -> bool {
        self.hubs[node].hand_out(|query, index| {
            let query = ChangeQuery { bytes_max, visits_max, ..query.clone() };
            changes_where(&self.maps[node], &query, |key| index.has(key))
        })
    }

    /// The connection of a client breaks, and it goes on elsewhere.
    fn resume(&mut self, client: usize, node: usize) {
        let client = &mut self.clients[client];
        // A node that is behind waits until it is there.
        if synod_kv::read::revision(&self.maps[node]).unwrap().0 < client.last_id {
            self.maps[node] = self.store.machine.map().clone();
        }
        client.unfinished.clear();
        client.node = node;
        client.has_read_all = false;
        let at = ChangePoint::at(Revision(client.last_id + 1));
        let (hub, previous) = (&self.hubs[node], client.format.previous);
        client.connection = Follower::open(hub, client.range.clone(), previous, at);
    }

    /// Lets a client take what there is, `parts` times. False when there is nothing more.
    fn take(&mut self, client: usize, (parts, bytes_max): (usize, usize)) -> bool {
        for _ in 0..parts {
            let one = &mut self.clients[client];
            match one.take(&self.maps[one.node], bytes_max) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(ReadError::Compacted { oldest }) => {
                    // It was told so; then it begins anew, at the oldest that there is.
                    assert!(one.last_id + 1 < oldest.0, "nothing was missing");
                    let before = one.last_id;
                    one.seen.retain(|seen| seen.0 <= before);
                    self.check(client);
                    let one = &mut self.clients[client];
                    one.seen.clear();
                    (one.begin, one.last_id) = (oldest.0, oldest.0 - 1);
                    let node = one.node;
                    self.resume(client, node);
                }
                Err(error) => panic!("{error}"),
            }
        }
        true
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Write(changes) => self.store.write(&changes),
            Step::Compact(keep) => {
                let upto = self.store.machine.revision().0.saturating_sub(keep);
                self.store.apply(Operation::Compact { revision: Revision(upto) });
            }
            Step::Apply(node) => self.maps[node] = self.store.machine.map().clone(),
            Step::HandOut(node, page) => drop(self.hand_out(node, page)),
            Step::Take(client, take) => drop(self.take(client, take)),
            Step::Quiet(client) => {
                let client = &mut self.clients[client];
                if let Some(revision) = client.connection.progress() {
                    let mut text = Vec::new();
                    event::write_progress(&mut text, revision);
                    client.receive(&text);
                }
            }
            Step::Resume(client, node) => self.resume(client, node),
        }
    }

    /// What a client saw is what there was, from where it began up to its last id.
    fn check(&self, client: usize) {
        let client = &self.clients[client];
        let within = |key: &str| {
            let Range { start, end } = &client.range;
            *key.as_bytes() >= start[..] && end.as_ref().is_none_or(|end| *key.as_bytes() < end[..])
        };
        let wanted = self.store.log.iter().filter(|(revision, key, _)| {
            (client.begin..=client.last_id).contains(revision) && within(key)
        });
        assert_eq!(client.seen, wanted.cloned().collect::<Vec<_>>());
    }

    /// Everybody gets everything.
    fn finish(&mut self) {
        for node in 0..NODES {
            self.run(Step::Apply(node));
        }
        for client in 0..CLIENTS {
            // Once more after the last time: it may have come to the hub only then.
            let mut idle = 0;
            while idle < 2 {
                let node = self.clients[client].node;
                while self.hand_out(node, (1_000, 100)) {}
                idle = if self.take(client, (100, 100_000)) { 0 } else { idle + 1 };
            }
            self.run(Step::Quiet(client));
            let revision = self.store.machine.revision().0;
            assert_eq!(self.clients[client].last_id, revision.max(self.clients[client].last_id));
            assert!(self.clients[client].last_id >= revision, "it is told how far it is");
            assert!(self.clients[client].unfinished.is_empty());
            self.check(client);
        }
    }
}

fn wish() -> impl Strategy<Value = (Range, bool)> {
    let one = (0_u8..6).prop_map(|name| {
        let start = Bytes::from(key(name));
        let end = Some([&start[..], &[0]].concat().into());
        Range { start, end }
    });
    let some = (0_u8..6, prop::option::of(0_u8..6)).prop_map(|(one, two)| {
        let start = Bytes::from(key(one));
        Range { start, end: two.map(|two| Bytes::from(key(two))) }
    });
    let all = Just(Range { start: Bytes::new(), end: None });
    (prop_oneof![one, some, all], any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_change_is_told_once_and_in_order(
        wishes in prop::collection::vec(wish(), CLIENTS),
        queue_events_max in 0_usize..12,
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut world = World::new(wishes, queue_events_max);
        for step in steps {
            world.run(step);
        }
        world.finish();
    }
}

/// A client of all keys that is handed what happens.
fn live(limits: &Limits) -> World {
    let all = Range { start: Bytes::new(), end: None };
    let mut world = World::new(vec![(all, false); CLIENTS], limits.watch_queue_events_max);
    world.hubs[0] = Arc::new(Hub::new(limits));
    for client in 0..CLIENTS {
        world.resume(client, 0);
        assert!(world.take(client, (1, 100)) && !world.take(client, (1, 100)));
    }
    world
}

#[test]
fn a_client_that_takes_nothing_costs_no_more_than_its_queue() {
    let limits = Limits { watch_queue_events_max: 4, ..Limits::default() };
    let mut world = live(&limits);
    for _ in 0..100 {
        world.run(Step::Write(vec![(1, true)]));
        world.run(Step::Apply(0));
        world.hand_out(0, (10_000, 100));
        assert!(!world.take(0, (10, 10_000)), "one that takes all is up to date");
    }
    let lags =
        |world: &World| world.hubs[0].counters.lags.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(lags(&world), 2, "the others fell behind once");
    assert!(world.hubs[0].held_bytes() < 8 * 1_000, "{}", world.hubs[0].held_bytes());
    world.finish();
    assert_eq!(world.hubs[0].held_bytes(), 0);
    // Who has caught up is handed what happens again.
    world.run(Step::Write(vec![(2, true)]));
    world.run(Step::Apply(0));
    world.hand_out(0, (10_000, 100));
    assert!(world.hubs[0].held_bytes() > 0);
    world.finish();
    assert_eq!(lags(&world), 2);
}

/// A queue takes all events of a revision or none, and the last one that fits fits.
#[test]
fn a_revision_with_more_events_than_a_queue_takes_is_read() {
    for (changes, is_live) in [(4, true), (5, false)] {
        let limits = Limits { watch_queue_events_max: 4, ..Limits::default() };
        let mut world = live(&limits);
        // One that is interested in one of the keys only.
        let start = Bytes::from(key(0));
        let end = Some([&start[..], &[0]].concat().into());
        world.clients[0].range = Range { start, end };
        world.resume(0, 0);
        assert!(world.take(0, (1, 100)) && !world.take(0, (1, 100)));
        world.run(Step::Write((0..changes).map(|key| (key, true)).collect()));
        world.run(Step::Apply(0));
        assert!(!world.hand_out(0, (10_000, 100)));
        let lags = world.hubs[0].counters.lags.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(lags, if is_live { 0 } else { CLIENTS as u64 - 1 }, "{changes} changes");
        let held = world.hubs[0].held_bytes();
        world.take(0, (10, 10_000));
        // What did not fit is not kept for anybody.
        assert_eq!(world.hubs[0].held_bytes() > 0, is_live, "{held} bytes before");
        world.finish();
        assert_eq!(world.hubs[0].held_bytes(), 0);
    }
}

/// Large values and a client that takes none of them: what it leaves to others is most of all
/// that may be held, so they are handed what happens.
#[test]
fn a_client_that_takes_nothing_does_not_take_the_room_of_the_others() {
    let limits =
        Limits { watch_queue_bytes_max: 4_000, watch_held_bytes_max: 40_000, ..Limits::default() };
    let mut world = live(&limits);
    for _ in 0..200 {
        world.run(Step::Write(vec![(1, true)]));
        world.run(Step::Apply(0));
        world.hand_out(0, (10_000, 100));
        assert!(!world.take(0, (10, 10_000)), "one that takes all is up to date");
        assert!(world.hubs[0].held_bytes() < 8_000, "{}", world.hubs[0].held_bytes());
    }
    let lags = world.hubs[0].counters.lags.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(lags, CLIENTS as u64 - 1, "the others fell behind once");
    world.finish();
}

/// An event that is larger than a queue is handed over, if the queue is empty.
#[test]
fn one_event_always_fits() {
    let limits = Limits { watch_queue_bytes_max: 1, ..Limits::default() };
    let mut world = live(&limits);
    for _ in 0..10 {
        world.run(Step::Write(vec![(1, true)]));
        world.run(Step::Apply(0));
        world.hand_out(0, (10_000, 100));
        (0..CLIENTS).for_each(|client| assert!(world.take(client, (1, 1))));
    }
    let lags = world.hubs[0].counters.lags.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(lags, 0);
    world.finish();
}

#[test]
fn all_queues_together_are_bounded() {
    let limits = Limits { watch_held_bytes_max: 10_000, ..Limits::default() };
    let mut world = live(&limits);
    for _ in 0..100 {
        world.run(Step::Write(vec![(1, true)]));
        world.run(Step::Apply(0));
        world.hand_out(0, (10_000, 100));
        assert!(world.hubs[0].held_bytes() <= 10_000);
    }
    world.finish();
}

#[test]
fn a_hub_without_listeners_reads_nothing_and_begins_where_the_next_one_is() {
    let mut world = live(&Limits::default());
    for client in 1..CLIENTS {
        world.resume(client, 1);
    }
    world.resume(0, 1);
    for _ in 0..10 {
        world.run(Step::Write(vec![(1, true)]));
        world.run(Step::Apply(0));
    }
    assert!(!world.hubs[0].hand_out(|_, _| unreachable!("nobody wants to know")));
    world.clients[0].last_id = 10;
    world.clients[0].begin = 11;
    world.resume(0, 0);
    assert!(world.take(0, (1, 100)) && !world.take(0, (1, 100)));
    let mut from = None;
    world.hubs[0].hand_out(|query, _| {
        from = Some(query.from.revision);
        changes(&world.maps[0], query)
    });
    assert_eq!(from, Some(Revision(11)));
}

#[test]
fn a_mode_says_where_it_goes_on() {
    let at = ChangePoint { revision: Revision(3), number: 1 };
    let hub = Arc::new(Hub::new(&Limits::default()));
    let range = Range { start: Bytes::new(), end: None };
    let watch = hub.open(range, false, at);
    assert_eq!(watch.queue().mode, Mode::Behind(at));
    assert!(!hub.join(&watch), "in the midst of a revision nothing can be handed over");
    hub.close(&watch);
    assert_eq!(hub.open_count(), 0);
}
