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

use bytes::{Buf, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::history::{End, Operation, Request};
use super::leases;
use super::load::Load;
use crate::BenchError;

/// Under load somebody writes all the time. A node that is silent for so long is left.
const SILENCE_MAX: Duration = Duration::from_secs(2);
const CONNECT_MAX: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);
/// How long a watch may take to come to the end when all is healed.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than this many of a watch say nothing new.
const FINDINGS_MAX: usize = 5;
/// A line of a stream that is longer is none of ours.
const LINE_BYTES_MAX: usize = 1 << 20;

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

/// What comes over a connection.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Status(u16),
    Event { name: String, id: Option<u64>, data: String },
    End,
}

/// An answer in chunks, as far as it has come.
#[derive(Default)]
struct Body {
    raw: BytesMut,
    is_begun: bool,
    /// Bytes of the chunk that are not here yet, with the line end behind it.
    chunk_left: usize,
    text: BytesMut,
    name: String,
    id: Option<u64>,
    data: String,
}

impl Body {
    /// The next part that is complete.
    fn next(&mut self) -> Result<Option<Told>, String> {
        if !self.is_begun {
            return self.take_head();
        }
        loop {
            while let Some(line) = take_line(&mut self.text)? {
                if let Some(name) = line.strip_prefix("event: ") {
                    self.name = name.to_owned();
                } else if let Some(id) = line.strip_prefix("id: ") {
                    self.id = id.parse().ok();
                } else if let Some(data) = line.strip_prefix("data: ") {
                    self.data = data.to_owned();
                } else if line.is_empty() && !self.name.is_empty() {
                    let (name, data) =
                        (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
                    return Ok(Some(Told::Event { name, id: self.id.take(), data }));
                }
            }
            if self.chunk_left == 0 {
                let Some(size) = take_line(&mut self.raw)? else { return Ok(None) };
                let size = usize::from_str_radix(&size, 16)
                    .map_err(|_| format!("{size:?} is no length of a chunk"))?;
                if size == 0 {
                    return Ok(Some(Told::End));
                }
                self.chunk_left = size + 2;
            }
            if self.raw.is_empty() {
                return Ok(None);
            }
            // The line end behind a chunk is none of its text.
            let length = self.raw.len().min(self.chunk_left);
            let text = length.min(self.chunk_left.saturating_sub(2));
            self.text.extend_from_slice(&self.raw[..text]);
            self.raw.advance(length);
            self.chunk_left -= length;
        }
    }

    fn take_head(&mut self) -> Result<Option<Told>, String> {
        let end = self.raw.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let Some(end) = end else { return Ok(None) };
        let head = self.raw.split_to(end + 4);
        let status = head.get(9..12).and_then(|status| std::str::from_utf8(status).ok());
        let status = status.and_then(|status| status.parse().ok());
        self.is_begun = true;
        status.map(Told::Status).map(Some).ok_or_else(|| "an answer without status".to_owned())
    }
}

fn take_line(text: &mut BytesMut) -> Result<Option<String>, String> {
    let Some(end) = text.iter().position(|byte| *byte == b'\n') else {
        let is_endless = text.len() > LINE_BYTES_MAX;
        return if is_endless { Err("a line without end".to_owned()) } else { Ok(None) };
    };
    let line = text.split_to(end + 1);
    Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()))
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

/// Each change is one that somebody asked for, and what was acknowledged is there.
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
    let mut deletes: BTreeMap<u64, Vec<End>> = BTreeMap::new();
    for one in operations.iter().filter(|one| one.request == Request::Delete) {
        deletes.entry(one.key).or_default().push(one.end);
    }
    for ((key, revision), put) in &told {
        let is_asked = match put {
            Some(number) => writes.get(number).is_some_and(|one| {
                let is_so = one.end == End::Unknown || one.end == End::Stored(*revision);
                one.key == *key && one.writes_value() && is_so
            }),
            None => deletes.get(key).is_some_and(|ends| {
                ends.contains(&End::Unknown) || ends.contains(&End::Deleted(*revision))
            }),
        };
        if !is_asked {
            found.push(format!("key {key} had {put:?} at revision {revision}, nobody asked"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;

    const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
        2c\r\nid: 1\nevent: progress\ndata: {\"revision\":1}\n\n\r\n\
        10\r\nevent: put\ndata:\r\ne\r\n {\"a\":1}\n\nid: \r\n\
        1f\r\n3\nevent: delete\ndata: {\"b\":2}\n\n\r\n0\r\n\r\n";

    fn told(parts: impl Iterator<Item = &'static [u8]>) -> Vec<Told> {
        let mut body = Body::default();
        let mut all = Vec::new();
        for part in parts {
            body.raw.extend_from_slice(part);
            while let Some(told) = body.next().expect("it can be read") {
                let is_end = told == Told::End;
                all.push(told);
                if is_end {
                    return all;
                }
            }
        }
        all
    }

    #[test]
    fn a_stream_is_read_however_it_is_cut() {
        let event = |name: &str, id, data: &str| Told::Event {
            name: name.to_owned(),
            id,
            data: data.to_owned(),
        };
        let expected = [
            Told::Status(200),
            event("progress", Some(1), "{\"revision\":1}"),
            event("put", None, "{\"a\":1}"),
            event("delete", Some(3), "{\"b\":2}"),
            Told::End,
        ];
        for length in 1..=STREAM.len() {
            assert_eq!(told(STREAM.chunks(length)), expected, "parts of {length} bytes");
        }
    }

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
        let mut untold = operations.clone();
        untold.push(operation(5, Request::Put, End::Stored(5)));
        assert!(findings(events, &untold) > 0, "what was acknowledged is not told");
    }
}
