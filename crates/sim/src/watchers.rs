//! Who watches: they follow some keys at some node, are cut off, and go on at another one
//! with the last id that they got.
//!
//! What a node tells is what it reads of its list of changes, by the function by which real
//! nodes read; pages are drawn so small that they end within a revision. Which events have an
//! id is decided here, as `crates/api/src/watch` does it; the queues there that save reading
//! are not here.

use fastrand::Rng;
use synod_kv::Revision;
use synod_kv::read::{self, ChangePage, ChangePoint, ChangeQuery, ReadError};
use synod_paxos::NodeId;

use crate::checkers::watches::Told;
use crate::checkers::{Check, Checker, demand};
use crate::coverage::Rare;
use crate::guests::{Ask, Visit};
use crate::mistakes::Mistake;
use crate::words;
use crate::world::World;

/// A watch that its node cannot serve yet looks for another one after so many looks.
const WAITS_MAX: u32 = 20;

/// One who watches.
#[derive(Debug)]
pub(crate) struct Watcher {
    prefix: Vec<u8>,
    /// What it was told; none before it has begun.
    told: Option<Told>,
    place: Option<Place>,
    /// It has asked from where on it will be told.
    is_starting: bool,
}

/// Where it watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    node: NodeId,
    life: u64,
    /// What it is told next.
    at: ChangePoint,
    waits: u32,
}

impl Watcher {
    /// Some begin with the first change, the others with what happens from now on.
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let prefixes: [&[u8]; 6] = [b"", b"k", b"l", b"k\x00", b"k\x01", b"l\x00"];
        let prefix = prefixes[rng.usize(..prefixes.len())].to_vec();
        let told = rng.bool().then(|| Told::behind(&prefix, Revision(0)));
        Watcher { prefix, told, place: None, is_starting: false }
    }

    /// Whether it watches there.
    pub(crate) fn is_at(&self, id: NodeId) -> bool {
        self.place.is_some_and(|place| place.node == id)
    }

    /// Nobody said from where on.
    pub(crate) fn starts_again(&mut self) {
        self.is_starting = false;
    }
}

impl World<'_> {
    /// A watch is told more, loses its node, or connects to another.
    pub(crate) fn watch(&mut self, watcher: usize) -> Check {
        let delay_us = self.guests.rng.u64(20_000..400_000);
        self.visit(delay_us, Visit::Watcher(watcher));
        let Some(place) = self.guests.watchers[watcher].place else {
            return self.connect_watch(watcher);
        };
        let chance = self.guests.rng.u8(..64);
        match self.node(place.node).process(place.life).map(|process| process.paused) {
            None => self.cut_watch(watcher),
            Some(is_paused) if chance < 2 || is_paused && chance < 16 => self.cut_watch(watcher),
            Some(true) => {}
            Some(false) => return self.tell_watch(watcher),
        }
        Ok(())
    }

    fn cut_watch(&mut self, watcher: usize) {
        let watcher = &mut self.guests.watchers[watcher];
        watcher.place = None;
        if let Some(told) = &mut watcher.told {
            if told.is_within() {
                self.coverage.rare(Rare::WatchCutWithin);
            }
            told.cut();
        }
    }

    fn connect_watch(&mut self, watcher: usize) -> Check {
        let Some(id) = self.draw_running() else { return Ok(()) };
        let (life, mistake) = (self.node(id).life, self.node(id).mistake);
        let who = &mut self.guests.watchers[watcher];
        let Some(told) = &who.told else {
            if std::mem::replace(&mut who.is_starting, true) {
                return Ok(());
            }
            let ask = Ask::Start { watcher, floor: self.clients.told() };
            return self.ask_beside(id, ask, None, self.now_us);
        };
        let mut next = Revision(told.last().0 + 1);
        if mistake == Some(Mistake::WatchResumesAtLast) {
            next = told.last().max(Revision(1));
        }
        who.place = Some(Place { node: id, life, at: ChangePoint::at(next), waits: 0 });
        self.coverage.rare(Rare::WatchResumed);
        let last = next.0;
        self.trace.note(
            self.now_us,
            [words::WATCHES, watcher as u64, u64::from(id.0), last],
            || format!("watch {watcher} goes on at {id} from revision {last}"),
        );
        Ok(())
    }

    /// A watch begins where its node is, which knows of everything that was acknowledged.
    pub(crate) fn start_watch(&mut self, watcher: usize, id: NodeId, floor: Revision) -> Check {
        let node = self.node(id);
        let life = node.life;
        let process = node.process.as_ref().expect("it steps");
        let Ok(revision) = read::revision(process.machine.map()) else {
            self.guests.watchers[watcher].starts_again();
            return self.doubt_state(id);
        };
        demand(floor <= revision, Checker::Watches, || {
            format!("a watch begins behind {revision} at {id}, when {floor} was told before")
        })?;
        let who = &mut self.guests.watchers[watcher];
        let at = ChangePoint::at(Revision(revision.0 + 1));
        who.told = Some(Told::behind(&who.prefix, revision));
        who.place = Some(Place { node: id, life, at, waits: 0 });
        Ok(())
    }

    /// A node tells a watch the next page.
    fn tell_watch(&mut self, watcher: usize) -> Check {
        let limits = self.plan.guests.as_ref().expect("there are watches");
        let (bytes_max, visits_max) = (limits.page_bytes_max, limits.visits_max);
        let who = &mut self.guests.watchers[watcher];
        let place = who.place.as_mut().expect("it watches");
        let told = who.told.as_mut().expect("it has begun");
        let node = &self.nodes[place.node.0 as usize - 1];
        let process = node.process.as_ref().expect("it runs");
        let query = ChangeQuery {
            from: place.at,
            want_previous: true,
            bytes_max,
            visits_max,
            ..ChangeQuery::since(place.at.revision)
        };
        let query = match beyond(&who.prefix) {
            Some(end) => query.of_keys(who.prefix.clone().into(), Some(end.into())),
            None => query,
        };
        let page = match read::changes(process.machine.map(), &query) {
            Ok(page) => page,
            Err(ReadError::Map(_)) => {
                let id = place.node;
                return self.doubt_state(id);
            }
            Err(ReadError::Future { .. }) => {
                self.coverage.rare(Rare::WatchAheadOfNode);
                place.waits += 1;
                if place.waits > WAITS_MAX {
                    self.cut_watch(watcher);
                }
                return Ok(());
            }
            Err(ReadError::Compacted { oldest }) => {
                place.at = ChangePoint::at(oldest);
                if node.mistake == Some(Mistake::WatchSkipsCompacted) {
                    return Ok(());
                }
                self.coverage.rare(Rare::WatchCompacted);
                return told.compacted(oldest, &self.checks.story);
            }
        };
        place.at = page.next;
        let mistake = node.mistake;
        self.take_page(watcher, &page, mistake)
    }

    fn take_page(&mut self, watcher: usize, page: &ChangePage, mistake: Option<Mistake>) -> Check {
        let story = &self.checks.story;
        let told = self.guests.watchers[watcher].told.as_mut().expect("it has begun");
        for (at, change) in page.changes.iter().enumerate() {
            told.event(change, story)?;
            let next =
                page.changes.get(at + 1).map_or(page.next.revision, |change| change.revision);
            if next != change.revision || mistake == Some(Mistake::WatchIdTooEarly) {
                told.id(change.revision, story)?;
            }
        }
        let is_through = page.next.revision > page.revision;
        if page.changes.is_empty() && is_through && self.guests.rng.u8(..4) == 0 {
            let mut upto = Revision(page.next.revision.0 - 1);
            if mistake == Some(Mistake::WatchAheadOfState) {
                upto = upto.max(self.clients.told());
            }
            told.id(upto, story)?;
        }
        Ok(())
    }

    /// Every watch is led to the end, at one of the nodes that live; and each of these holds
    /// what the log did.
    pub(crate) fn end_watches(&mut self, living: &[NodeId]) -> Check {
        for id in living {
            if let Some(process) = &self.nodes[id.0 as usize - 1].process {
                self.checks.story.held(id, process.machine.map())?;
            }
        }
        for watcher in 0..self.guests.watchers.len() {
            let node = living[watcher % living.len()];
            let life = self.node(node).life;
            self.cut_watch(watcher);
            let who = &mut self.guests.watchers[watcher];
            let prefix = &who.prefix;
            let told = who.told.get_or_insert_with(|| Told::behind(prefix, Revision(0)));
            let at = ChangePoint::at(Revision(told.last().0 + 1));
            let mut before = Place { node, life, at, waits: 0 };
            who.place = Some(before);
            loop {
                self.tell_watch(watcher)?;
                match self.guests.watchers[watcher].place {
                    Some(place) if place != before => before = place,
                    _ => break,
                }
            }
            let story = &self.checks.story;
            let told = self.guests.watchers[watcher].told.as_mut().expect("it has begun");
            told.id(story.revision(), story)?;
        }
        Ok(())
    }
}

/// The first key beyond those that begin with this; none for "to the end".
fn beyond(prefix: &[u8]) -> Option<Vec<u8>> {
    let (last, before) = prefix.split_last()?;
    Some([before, &[last + 1]].concat())
}
