//! Who watches everything beside the load, one for each node: a watch stays with its node until
//! that is silent or ends it, and goes on at the next one with the last id that came.
//!
//! Whatever changes a key makes a revision, and they are counted without a gap. So what a watch
//! of all keys was told must have each revision from the first on, in order and once; and since
//! no two writes of the load are alike, each event must be what somebody asked for at that
//! revision, and nothing that was acknowledged may be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::history::{End, Operation, Request};
use super::leases;
use super::load::Load;
use super::stream::{Body, Told};
use crate::BenchError;

/// Under load somebody writes all the time. A node that is silent for so long is left.
const SILENCE_MAX: Duration = Duration::from_secs(2);
const CONNECT_MAX: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);
/// How long a watch may take to come to the end when all is healed.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than this many of a watch say nothing new.
const FINDINGS_MAX: usize = 5;

/// A change as a watch told it: the number that was put, or that the key was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) revision: u64,
    pub(super) key: String,
    pub(super) put: Option<u64>,
}

/// What one watch was told.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) events: Vec<Event>,
    /// How often it went on at another node, or again at the same.
    pub(super) resumed: u64,
    /// When it was told that a leased key is gone, by the run's clock.
    pub(super) gone_us: BTreeMap<String, u64>,
    pub(super) violations: Vec<String>,
}

/// What the watches of a run saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Watches {
    /// How many there were.
    pub watches: u64,
    /// Changes that each of them was told.
    pub events: u64,
    /// How often one of them went on with its last id.
    pub resumed: u64,
}

/// Up to which revision the watches go; not known before the load has ended.
#[derive(Debug)]
pub(super) struct Goal(AtomicU64);

impl Goal {
    pub(super) fn unknown() -> Arc<Self> {
        Arc::new(Goal(AtomicU64::new(u64::MAX)))
    }

    /// They end when they have this revision.
    pub(super) fn set(&self, revision: u64) {
        self.0.store(revision, Ordering::Relaxed);
    }

    fn get(&self) -> Option<u64> {
        let goal = self.0.load(Ordering::Relaxed);
        (goal != u64::MAX).then_some(goal)
    }
}

/// Watches until the goal is reached.
pub(super) fn follow(load: &Arc<Load>, goal: &Arc<Goal>) -> Result<Vec<Seen>, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let mut watchers = JoinSet::new();
        for number in 0..load.nodes() {
            let (load, goal) = (Arc::clone(load), Arc::clone(goal));
            let watcher = Watcher {
                load,
                goal,
                number,
                last_id: 0,
                since: Vec::new(),
                leased: BTreeSet::new(),
                late_from: None,
                seen: Seen::default(),
            };
            watchers.spawn(watcher.run());
        }
        watchers.join_all().await
    }))
}

struct Watcher {
    load: Arc<Load>,
    goal: Arc<Goal>,
    /// Which node it is with, counted round and round.
    number: usize,
    last_id: u64,
    /// What came after the last id: it comes again after a break.
    since: Vec<Event>,
    /// Leased keys that are there.
    leased: BTreeSet<String>,
    /// When the goal was known.
    late_from: Option<Instant>,
    seen: Seen,
}

impl Watcher {
    async fn run(mut self) -> Seen {
        while !self.is_over() {
            if let Err(why) = self.watch().await {
                self.seen.violations.push(why);
                break;
            }
            self.since.clear();
            self.number += 1;
            self.seen.resumed += 1;
            sleep(PAUSE).await;
        }
        self.seen
    }

    /// Whether it has everything, or waited too long for it.
    fn is_over(&mut self) -> bool {
        let Some(goal) = self.goal.get() else { return false };
        let late_from = *self.late_from.get_or_insert_with(Instant::now);
        if self.last_id >= goal && self.leased.is_empty() {
            return true;
        }
        let is_late = late_from.elapsed() > PATIENCE;
        if is_late {
            let (last_id, left) = (self.last_id, &self.leased);
            self.seen.violations.push(format!(
                "it is at revision {last_id} of {goal} in the end, with the leased keys {left:?}"
            ));
        }
        is_late
    }

    /// Follows one node until that ends it, or the watch is over.
    async fn watch(&mut self) -> Result<(), String> {
        let (node, address) = self.load.node(self.number);
        let stream = timeout(CONNECT_MAX, TcpStream::connect(address)).await;
        let Ok(Ok(mut stream)) = stream else { return Ok(()) };
        let last = match self.last_id {
            0 => String::new(),
            last_id => format!("last-event-id: {last_id}\r\n"),
        };
        let head = format!(
            "GET /v1/watch?from=1 HTTP/1.1\r\nhost: {address}\r\nsynod-timeout: 1s\r\n{last}\r\n"
        );
        if stream.write_all(head.as_bytes()).await.is_err() {
            return Ok(());
        }
        let mut body = Body::default();
        loop {
            body.raw.reserve(16 << 10);
            match timeout(SILENCE_MAX, stream.read_buf(&mut body.raw)).await {
                Ok(Ok(length)) if length > 0 => {}
                _ => return Ok(()),
            }
            while let Some(told) = body.next()? {
                match told {
                    Told::Status(200) => {}
                    // It stops, is overloaded, or has not what others have.
                    Told::Status(503) | Told::End => return Ok(()),
                    Told::Status(status) => return Err(format!("node {node} answers {status}")),
                    Told::Event { name, id, data } => {
                        if name == "dropped" {
                            return Ok(());
                        }
                        self.take(&name, id, &data)?;
                    }
                }
            }
            if self.is_over() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, name: &str, id: Option<u64>, data: &str) -> Result<(), String> {
        let strange = || format!("a watch was told {name} {data}");
        match name {
            "put" | "delete" => {
                let said: Said = serde_json::from_str(data).map_err(|_| strange())?;
                let put = (name == "put").then(|| said.number());
                self.since.push(Event { revision: said.revision, key: said.key, put });
            }
            "progress" => {}
            _ => return Err(strange()),
        }
        let Some(id) = id else { return Ok(()) };
        if id < self.last_id {
            return Err(format!("the id {id} came after {}", self.last_id));
        }
        self.last_id = id;
        let now_us = self.load.now_us();
        for event in self.since.drain(..) {
            if leases::is_leased(&event.key) {
                match event.put {
                    Some(_) => drop(self.leased.insert(event.key.clone())),
                    None => {
                        self.leased.remove(&event.key);
                        self.seen.gone_us.insert(event.key.clone(), now_us);
                    }
                }
            }
            self.seen.events.push(event);
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Said {
    revision: u64,
    key: String,
    #[serde(default)]
    value: String,
}

impl Said {
    /// Nobody writes anything but numbers, and the check will say so.
    fn number(&self) -> u64 {
        self.value.parse().unwrap_or(u64::MAX)
    }
}

/// What the watches of a run were told that cannot be, or were not told.
pub(super) fn check(
    seen: &[Seen],
    operations: &[Operation],
    key_of: impl Fn(&str) -> Option<u64>,
) -> (Watches, Vec<String>) {
    let mut found = Vec::new();
    for (number, one) in seen.iter().enumerate() {
        let mut own: Vec<String> = one.violations.clone();
        own.extend(out_of_order(&one.events));
        own.extend(not_as_asked(&one.events, operations, &key_of));
        own.extend(had_effect_twice(&one.events, operations, &key_of));
        own.truncate(FINDINGS_MAX);
        found.extend(own.into_iter().map(|what| format!("watch {}: {what}", number + 1)));
    }
    for pair in seen.windows(2) {
        let differs = pair[0].events.iter().zip(&pair[1].events).find(|(one, other)| one != other);
        if let Some((one, other)) = differs {
            found.push(format!("two watches were told {one:?} and {other:?}"));
        }
    }
    let resumed = seen.iter().map(|one| one.resumed).sum();
    let events = seen.iter().map(|one| one.events.len() as u64).min().unwrap_or(0);
    (Watches { watches: seen.len() as u64, events, resumed }, found)
}

/// Each revision follows on the one before, and has each key once.
fn out_of_order(events: &[Event]) -> Option<String> {
    let mut keys = BTreeSet::new();
    let mut last = 0;
    for event in events {
        if event.revision == last + 1 {
            (last, keys) = (event.revision, BTreeSet::new());
        }
        if event.revision != last || !keys.insert(&event.key) {
            return Some(format!("{event:?} came after revision {last}"));
        }
    }
    None
}

/// Each put is one that somebody asked for, and what was acknowledged is there.
fn not_as_asked(
    events: &[Event],
    operations: &[Operation],
    key_of: impl Fn(&str) -> Option<u64>,
) -> Vec<String> {
    let known = events.iter().filter_map(|event| Some((key_of(&event.key)?, event)));
    let told: BTreeMap<(u64, u64), Option<u64>> =
        known.map(|(key, event)| ((key, event.revision), event.put)).collect();
    let mut found = Vec::new();
    let writes: BTreeMap<u64, &Operation> =
        operations.iter().map(|operation| (operation.number, operation)).collect();
    for ((key, revision), put) in &told {
        let Some(number) = put else { continue };
        let is_asked = writes.get(number).is_some_and(|one| {
            let is_so = one.end == End::Unknown || one.end == End::Stored(*revision);
            one.key == *key && one.writes_value() && is_so
        });
        if !is_asked {
            found.push(format!("key {key} had {number} at revision {revision}, nobody asked"));
        }
    }
    for one in operations {
        let put = match one.end {
            End::Stored(_) => Some(one.number),
            End::Deleted(_) => None,
            _ => continue,
        };
        let revision = one.acknowledged_at().expect("it was acknowledged");
        if told.get(&(one.key, revision)) != Some(&put) {
            found.push(format!("operation {} at revision {revision} was not told", one.number));
        }
    }
    found
}

/// However often it was sent: each value was put once at most. Deletes do not say whose they are, so
/// those that nobody was told of are counted: no more than there are deletes of which nobody knows.
fn had_effect_twice(
    events: &[Event],
    operations: &[Operation],
    key_of: impl Fn(&str) -> Option<u64>,
) -> Vec<String> {
    let mut found = Vec::new();
    let deletes = operations.iter().filter(|one| one.request == Request::Delete);
    let acknowledged: BTreeSet<(u64, u64)> =
        deletes.clone().filter_map(|one| Some((one.key, one.acknowledged_at()?))).collect();
    let mut unknown: BTreeMap<u64, u64> = BTreeMap::new();
    for one in deletes.filter(|one| one.end == End::Unknown) {
        *unknown.entry(one.key).or_default() += 1;
    }
    let mut puts: BTreeMap<u64, u64> = BTreeMap::new();
    for event in events {
        let Some(key) = key_of(&event.key) else { continue };
        let revision = event.revision;
        match event.put {
            Some(number) => {
                if let Some(before) = puts.insert(number, revision) {
                    found.push(format!(
                        "key {key} had {number} at revisions {before} and {revision}"
                    ));
                }
            }
            None if acknowledged.contains(&(key, revision)) => {}
            None => match unknown.get_mut(&key).filter(|left| **left > 0) {
                Some(left) => *left -= 1,
                None => {
                    found.push(format!("key {key} was deleted at revision {revision} by nobody"))
                }
            },
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;

    fn event(revision: u64, key: &str, put: Option<u64>) -> Event {
        Event { revision, key: key.to_owned(), put }
    }

    fn operation(number: u64, request: Request, end: End) -> Operation {
        let node = NodeId(1);
        let (process, key, called_us, returned_us) = (1, 7, 0, 1);
        Operation { number, process, node, key, request, called_us, returned_us, end }
    }

    /// Two writes, of the second of which nobody was told, a removal, and two leased keys
    /// that go at once.
    fn good() -> (Vec<Event>, Vec<Operation>) {
        let events = vec![
            event(1, "7", Some(1)),
            event(2, "7", Some(2)),
            event(3, "7", None),
            event(4, "a", None),
            event(4, "b", None),
        ];
        let operations = vec![
            operation(1, Request::Put, End::Stored(1)),
            operation(2, Request::Put, End::Unknown),
            operation(3, Request::Delete, End::Deleted(3)),
            operation(4, Request::Put, End::Failed),
        ];
        (events, operations)
    }

    fn findings(events: Vec<Event>, operations: &[Operation]) -> usize {
        let (events, other) = (events, good().0);
        let seen = [events, other].map(|events| Seen { events, ..Seen::default() });
        check(&seen, operations, |key| key.parse().ok()).1.len()
    }

    #[test]
    fn each_change_once_in_order_and_as_asked_is_right() {
        let (events, operations) = good();
        assert_eq!(findings(events, &operations), 0);
    }

    #[test]
    fn what_is_missing_doubled_or_strange_is_found() {
        let (events, operations) = good();
        for at in 0..events.len() {
            let mut without = events.clone();
            without.remove(at);
            let is_last_of_all = at == events.len() - 1;
            // Of the very last one nobody but the goal can know.
            assert_eq!(findings(without, &operations) == 0, is_last_of_all, "without {at}");
            let mut doubled = events.clone();
            doubled.insert(at, events[at].clone());
            assert!(findings(doubled, &operations) > 0, "twice {at}");
        }
        let mut swapped = events.clone();
        swapped.swap(0, 1);
        assert!(findings(swapped, &operations) > 0);
        let mut strange = events.clone();
        strange[1].put = Some(4);
        assert!(findings(strange, &operations) > 0, "what was refused had effect");
        let mut again = events.clone();
        again.push(event(5, "7", Some(2)));
        assert!(findings(again, &operations) > 0, "what nobody was told of was put twice");
        let mut again = events.clone();
        again.push(event(5, "7", None));
        assert!(findings(again.clone(), &operations) > 0, "it was deleted twice");
        let mut unknown = operations.clone();
        unknown.push(operation(5, Request::Delete, End::Unknown));
        assert_eq!(findings(again.clone(), &unknown), 0, "by one of whom nobody knows");
        again.push(event(6, "7", None));
        assert!(findings(again, &unknown) > 0, "that one deleted once");
        let mut untold = operations.clone();
        untold.push(operation(5, Request::Put, End::Stored(5)));
        assert!(findings(events, &untold) > 0, "what was acknowledged is not told");
    }
}
