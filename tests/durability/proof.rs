//! Joins what was written, synced and sent.
//!
//! Nothing that a node says about itself is taken for granted: journal records are decoded
//! from the bytes written, messages from the bytes sent. The node's trace adds the
//! journal position that it meant, which must be durable as well.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use bytes::{Buf, Bytes, BytesMut};
use synod_paxos::{Ballot, Message, Promise, Slot, Standing};
use synod_wire::record::{GroupHeader, RecordHeader, RecordKind, sector};
use synod_wire::{Handshake, PeerMessage, frame, handshake};

use super::strace::{Call, Stop};

/// A group in the journal begins with this, a peer's frame with that.
const GROUP_MAGIC: &[u8] = b"SynG";
const FRAME_MAGIC: &[u8] = b"\x53\xD1";
const CREATED: &[u8] = b"HTTP/1.1 201 ";

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    pub promises: usize,
    pub accepted: usize,
    pub acknowledgements: usize,
    /// Slots that the promises report.
    pub reported: usize,
    /// Segments of the journals that were made meanwhile.
    pub segments: usize,
    /// Messages that left before what they rest on was durable.
    pub early: Vec<String>,
    /// Messages of which nobody can tell.
    pub unproven: Vec<String>,
    /// The least time between a sync and what rested on it.
    pub closest_us: Option<u64>,
}

impl Findings {
    pub fn checked(&self) -> usize {
        self.promises + self.accepted + self.acknowledgements
    }
}

/// One node's journal.
#[derive(Debug, Default)]
struct Journal {
    /// Last position of each group, the promise after it, and when it was durable.
    groups: Vec<(u64, Ballot, Stop)>,
    /// The position before the first of them.
    before: Option<u64>,
    /// Each record that holds a slot's value: its ballot, none for one known as
    /// chosen, and when it was durable.
    slots: BTreeMap<Slot, Vec<(Option<Ballot>, Stop)>>,
}

/// Which calls matter.
pub fn wants(call: &Call) -> bool {
    match call.name.as_str() {
        "pwrite64" => is_journal(call) && call.bytes.starts_with(GROUP_MAGIC),
        "fsync" => is_journal(call) || is_folder(call),
        "fdatasync" => is_journal(call),
        _ if is_naming(call) => call.makes_name && in_node(&call.file),
        _ => call.file.starts_with("socket:") || call.file.ends_with(super::TRACE),
    }
}

fn is_journal(call: &Call) -> bool {
    call.file.ends_with(".seg") && !is_naming(call)
}

fn is_naming(call: &Call) -> bool {
    call.name.starts_with("open") || call.name.starts_with("mkdir")
}

/// Whether a call makes the names in a node's folder durable, or in one above the journal's.
pub fn is_folder(call: &Call) -> bool {
    call.name == "fsync" && in_node(&call.file) && Path::new(&call.file).extension().is_none()
}

fn in_node(path: &str) -> bool {
    path.contains("/node-")
}

/// Holds every message against the journals of a cluster whose quorum is `quorum`.
pub fn check(calls: &[Call], quorum: usize) -> Findings {
    let mut proof = Proof {
        quorum,
        journals: journals(calls),
        trace: HashMap::new(),
        acknowledgements: HashMap::new(),
        findings: Findings { segments: segments_made(calls), ..Findings::default() },
    };
    let mut streams: HashMap<&str, Stream> = HashMap::new();
    for call in calls {
        if call.file.ends_with(super::TRACE) {
            proof.receive_lines(call);
        } else if call.file.starts_with("socket:") {
            let stream = streams.entry(&call.file).or_default();
            proof.receive_send(stream, call);
        }
    }
    proof.findings
}

/// Segments that were made and hold records.
fn segments_made(calls: &[Call]) -> usize {
    let written: BTreeSet<&str> = calls
        .iter()
        .filter(|call| call.name == "pwrite64")
        .map(|call| call.file.as_str())
        .collect();
    let made = |path: &&str| calls.iter().any(|call| is_naming(call) && call.file == *path);
    written.into_iter().filter(made).count()
}

/// What each node's journal held at which time.
fn journals(calls: &[Call]) -> BTreeMap<u32, Journal> {
    let mut journals: BTreeMap<u32, Journal> = BTreeMap::new();
    let names = Names::of(calls);
    // Written and not yet synced, by segment.
    let mut written: HashMap<&str, Vec<&Call>> = HashMap::new();
    for call in calls.iter().filter(|call| is_journal(call)) {
        if call.name == "pwrite64" {
            written.entry(&call.file).or_default().push(call);
        } else if call.result == Some(0) {
            let synced = call.end.expect("a result comes with an end");
            let groups = written.entry(&call.file).or_default();
            // A sync is about what had been written when it began.
            let covered = |group: &mut &Call| group.end.is_some_and(|end| end < call.begin);
            for group in groups.extract_if(.., covered) {
                // What stands in a file without a durable name is lost with the file.
                let durable = synced.max(names.durable(&call.file));
                journals.entry(node_of(&call.file)).or_default().add(group, durable);
            }
        }
    }
    journals
}

/// The names of files and folders that were made in the trace.
struct Names<'a> {
    made: HashMap<&'a Path, Stop>,
    /// Begin and end of each sync of a folder.
    synced: HashMap<&'a Path, Vec<(Stop, Stop)>>,
}

impl<'a> Names<'a> {
    fn of(calls: &'a [Call]) -> Self {
        let mut names = Names { made: HashMap::new(), synced: HashMap::new() };
        for call in calls {
            let path = Path::new(call.file.as_str());
            match call.end {
                Some(end) if is_naming(call) && call.result.is_some_and(|result| result >= 0) => {
                    // A name that is there already stays; so the first one counts.
                    names.made.entry(path).or_insert(end);
                }
                Some(end) if is_folder(call) && call.result == Some(0) => {
                    names.synced.entry(path).or_default().push((call.begin, end));
                }
                _ => {}
            }
        }
        names
    }

    /// When the file's name, and that of each folder above it, was durable.
    fn durable(&self, file: &'a str) -> Stop {
        let levels = Path::new(file).ancestors();
        levels.map(|level| self.level_durable(level)).max().unwrap_or(Stop::BEFORE)
    }

    /// What was there before the trace began counts as durable.
    fn level_durable(&self, level: &Path) -> Stop {
        let Some(made) = self.made.get(level) else { return Stop::BEFORE };
        let syncs = level.parent().and_then(|folder| self.synced.get(folder));
        let mut after = syncs.into_iter().flatten().filter(|(begin, _)| begin > made);
        after.next().map_or(Stop::NEVER, |(_, end)| *end)
    }
}

/// `…/node-2/data/journal/0000000000000001.seg`.
fn node_of(path: &str) -> u32 {
    let folder = path.split('/').find_map(|name| name.strip_prefix("node-"));
    folder.and_then(|id| id.parse().ok()).expect("the folder of a node")
}

impl Journal {
    fn add(&mut self, group: &Call, durable: Stop) {
        assert!(!group.is_cut, "a group of the journal was not recorded whole");
        assert_eq!(group.result, i64::try_from(group.bytes.len()).ok(), "a short write");
        let mut payload = Bytes::from(sector::payload(&group.bytes));
        let header = GroupHeader::decode(&payload).expect("the header of a group");
        self.before.get_or_insert(header.position_before.0);
        // Nothing is read behind a hole, so no group is durable before those in front of it.
        let synced = self.groups.last().map_or(durable, |(.., before)| durable.max(*before));
        let last = header.position_before.0 + u64::from(header.records);
        self.groups.push((last, header.promised, synced));
        payload.advance(header.records_at());
        for _ in 0..header.records {
            let (record, _) = RecordHeader::decode(&payload).expect("the header of a record");
            let ballot = match record.kind {
                RecordKind::Accepted(slot, ballot) => Some((slot, Some(ballot))),
                RecordKind::Chosen(slot) => Some((slot, None)),
                RecordKind::Promise | RecordKind::StartAfter(_) => None,
            };
            if let Some((slot, ballot)) = ballot {
                self.slots.entry(slot).or_default().push((ballot, synced));
            }
            payload.advance(synod_wire::record::RECORD_HEADER_BYTES + record.body_bytes as usize);
        }
    }

    /// When everything up to this position was durable; none for never.
    fn reached(&self, position: u64) -> Option<Option<Stop>> {
        if self.before.is_some_and(|before| position <= before) {
            return Some(None);
        }
        let group = self.groups.partition_point(|(last, ..)| *last < position);
        self.groups.get(group).map(|(.., synced)| Some(*synced))
    }

    /// When a record of this slot that `fits` was durable first.
    fn held(&self, slot: Slot, fits: impl Fn(Option<Ballot>) -> bool) -> Option<Stop> {
        let records = self.slots.get(&slot)?.iter();
        records.filter(|(ballot, _)| fits(*ballot)).map(|(_, synced)| *synced).min()
    }

    /// When this promise, or a higher one, was durable first.
    fn promised(&self, ballot: Ballot) -> Option<Stop> {
        let group = self.groups.partition_point(|(_, promised, _)| *promised < ballot);
        self.groups.get(group).map(|(.., synced)| *synced)
    }
}

/// What was sent over one socket and is not a whole message yet.
#[derive(Debug, Default)]
struct Stream {
    /// Sender and receiver, from the handshake.
    between: Option<(u32, u32)>,
    rest: BytesMut,
    /// When the send with the first byte of the rest began.
    begun: Option<Stop>,
    is_lost: bool,
}

struct Proof {
    quorum: usize,
    journals: BTreeMap<u32, Journal>,
    /// Positions that a message was said to rest on, by the text before them.
    trace: HashMap<String, Vec<Option<u64>>>,
    /// Slot of each revision that was acknowledged.
    acknowledgements: HashMap<u64, Slot>,
    findings: Findings,
}

impl Proof {
    fn receive_lines(&mut self, call: &Call) {
        for line in String::from_utf8_lossy(&call.bytes).lines() {
            if let Some((message, position)) = line.split_once(" position=") {
                let position = position.parse().ok();
                self.trace.entry(message.to_owned()).or_default().push(position);
            } else if let Some((slot, revision)) =
                line.split_once("slot=").and_then(|(_, rest)| rest.split_once(" revision="))
            {
                let (slot, revision) = (slot.parse().map(Slot), revision.parse());
                self.acknowledgements.insert(revision.expect("a revision"), slot.expect("a slot"));
            }
        }
    }

    fn receive_send(&mut self, stream: &mut Stream, call: &Call) {
        if call.result.is_some_and(|result| result <= 0) {
            return;
        }
        if call.bytes.starts_with(CREATED) && stream.between.is_none() {
            return self.receive_created(call);
        }
        let is_peer = stream.between.is_some() || call.bytes.starts_with(FRAME_MAGIC);
        // Of a process that died in it nobody knows; then all of it counts as sent.
        let whole = i64::try_from(call.bytes.len()).expect("bounded");
        let sent = usize::try_from(call.result.unwrap_or(whole)).unwrap_or(0);
        if !is_peer || stream.is_lost {
            return;
        }
        if sent > call.bytes.len() {
            self.findings.unproven.push(format!("{sent} bytes to a peer were not recorded whole"));
            stream.is_lost = true;
            return;
        }
        stream.rest.extend_from_slice(&call.bytes[..sent]);
        let mut begun = *stream.begun.get_or_insert(call.begin);
        while let Some((header, body)) = next_frame(&mut stream.rest) {
            self.receive_frame(stream, header, body, begun);
            // What follows came with this call: the rest before it was less than a frame.
            begun = call.begin;
        }
        stream.begun = (!stream.rest.is_empty()).then_some(begun);
    }

    fn receive_frame(&mut self, stream: &mut Stream, header: frame::Header, body: Bytes, at: Stop) {
        let Some((node, to)) = stream.between else {
            // The first frame is the handshake. Whoever accepts sends nothing more.
            let greeting = handshake::decode(header, body).expect("a handshake");
            stream.between = Some(match greeting {
                Handshake::Hello(hello) => (hello.facts.node.0, hello.to.0),
                Handshake::Welcome(welcome) => (welcome.facts.node.0, 0),
                Handshake::Refusal(_) => (0, 0),
            });
            return;
        };
        let message = frame::decode(header, body).expect("a message between peers");
        match message {
            PeerMessage::Paxos(Message::Promise(promise)) => {
                self.receive_promise(node, to, &promise, at);
            }
            PeerMessage::Paxos(Message::Accepted(accepted)) => {
                self.findings.accepted += 1;
                let (ballot, first, last) = (accepted.ballot, accepted.first, accepted.last);
                let name =
                    format!("node={node} accepted to={to} ballot={ballot} slots={first}..{last}");
                for slot in (first.0..=last.0).map(Slot) {
                    let mut record = self.held_by(node, slot, |found| found == Some(ballot));
                    if record.is_none_or(|record| record >= at)
                        && self.chosen(slot).is_some_and(|chosen| chosen < at)
                    {
                        // A slot that was chosen before stays as it is.
                        record = self.held_by(node, slot, |_| true);
                    }
                    self.judge(&name, &format!("slot {slot}"), record, at);
                }
                self.judge_position(node, &name, at);
            }
            _ => {}
        }
    }

    fn receive_promise(&mut self, node: u32, to: u32, promise: &Promise, at: Stop) {
        self.findings.promises += 1;
        let (ballot, page) = (promise.ballot, promise.page);
        let name = format!("node={node} promise to={to} ballot={ballot} page={page}");
        let promised = self.journals.get(&node).and_then(|own| own.promised(ballot));
        self.judge(&name, "the promise", promised, at);
        for held in &promise.accepted {
            self.findings.reported += 1;
            let slot = held.slot;
            match held.standing {
                Standing::Accepted(ballot) => {
                    let record = self.held_by(node, slot, |found| found == Some(ballot));
                    self.judge(&name, &format!("slot {slot} in ballot {ballot}"), record, at);
                }
                Standing::Chosen => {
                    let record = self.held_by(node, slot, |_| true);
                    self.judge(&name, &format!("slot {slot} in it"), record, at);
                    let chosen = self.chosen(slot);
                    self.judge(&name, &format!("slot {slot} on a quorum"), chosen, at);
                }
            }
        }
        self.judge_position(node, &name, at);
    }

    fn receive_created(&mut self, call: &Call) {
        self.findings.acknowledgements += 1;
        let head = String::from_utf8_lossy(&call.bytes).to_ascii_lowercase();
        let revision = head.lines().find_map(|line| line.strip_prefix("synod-revision: "));
        let revision: Option<u64> = revision.and_then(|text| text.trim().parse().ok());
        let Some(revision) = revision else {
            return self.findings.unproven.push(format!("an answer without revision: {head}"));
        };
        let name = format!("acknowledgement revision={revision}");
        match self.acknowledgements.get(&revision).copied() {
            None => self.findings.unproven.push(format!("{name} left untraced")),
            Some(slot) => {
                let chosen = self.chosen(slot);
                self.judge(&name, &format!("slot {slot} on a quorum"), chosen, call.begin);
            }
        }
    }

    fn held_by(
        &self,
        node: u32,
        slot: Slot,
        fits: impl Fn(Option<Ballot>) -> bool,
    ) -> Option<Stop> {
        self.journals.get(&node).and_then(|journal| journal.held(slot, fits))
    }

    /// When a quorum held the slot durably, accepted in one and the same ballot.
    fn chosen(&self, slot: Slot) -> Option<Stop> {
        let records = self.journals.values().filter_map(|journal| journal.slots.get(&slot));
        let ballots = records.flatten().filter_map(|(ballot, _)| *ballot);
        let of_ballot = |ballot| {
            let held = |journal: &Journal| journal.held(slot, |found| found == Some(ballot));
            let mut held: Vec<Stop> = self.journals.values().filter_map(held).collect();
            held.sort_unstable();
            held.get(self.quorum - 1).copied()
        };
        ballots.filter_map(of_ballot).min()
    }

    /// Every position that the node has named for such a message up to now.
    fn judge_position(&mut self, node: u32, name: &str, at: Stop) {
        let Some(positions) = self.trace.get(name) else {
            return self.findings.unproven.push(format!("{name} left untraced"));
        };
        for position in positions.clone() {
            let journal = &self.journals[&node];
            match position.map(|position| (position, journal.reached(position))) {
                None => self.findings.unproven.push(format!("{name} names no position")),
                Some((_, Some(None))) => {}
                Some((position, reached)) => {
                    let what = format!("position {position}");
                    self.judge(name, &what, reached.flatten(), at);
                }
            }
        }
    }

    /// `durable` is the end of the sync that covers `what`; the message left at `at`.
    fn judge(&mut self, name: &str, what: &str, durable: Option<Stop>, at: Stop) {
        let findings = &mut self.findings;
        match durable {
            Some(durable) if durable.line < at.line => {
                let distance = at.us.saturating_sub(durable.us);
                let closest = findings.closest_us.map_or(distance, |least| least.min(distance));
                findings.closest_us = Some(closest);
            }
            Some(durable) if durable != Stop::NEVER => {
                let us = durable.us.saturating_sub(at.us);
                findings.early.push(format!("{name} left {us} us before {what} was durable"));
            }
            _ => findings.early.push(format!("{name} left, and {what} was never durable")),
        }
    }
}

fn next_frame(rest: &mut BytesMut) -> Option<(frame::Header, Bytes)> {
    if rest.len() < frame::HEADER_BYTES {
        return None;
    }
    let header = frame::Header::decode(rest).expect("the header of a frame");
    if rest.len() < frame::HEADER_BYTES + header.body_bytes() {
        return None;
    }
    rest.advance(frame::HEADER_BYTES);
    Some((header, rest.split_to(header.body_bytes()).freeze()))
}
