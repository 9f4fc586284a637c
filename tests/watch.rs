//! A watch through the deaths of leaders: whoever goes on with the last id at another node
//! sees exactly what happened, once and in order: all that the history of the store shows.
#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::http;
use support::nodes::Nodes;
use support::wait::{wait_for, wait_until};

/// Progress is told often, so that a test knows soon that a watch has everything.
const SETTINGS: &str = "[limits]\nwatch_progress_ms = 200\n";
/// A stream that is silent for so long is given up: progress should have come long before.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What a watch tells of a change: the record of the key from then on; none if it was removed.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    revision: u64,
    key: String,
    record: Option<Record>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Record {
    value: String,
    create_revision: u64,
    mod_revision: u64,
    version: u64,
}

impl Record {
    /// Of an event or an entry of a listing.
    fn of(entry: &Value) -> Self {
        let number = |name: &str| entry[name].as_u64().unwrap_or_else(|| panic!("{name}: {entry}"));
        Self {
            value: entry["value"].as_str().expect("a value").to_owned(),
            create_revision: number("create_revision"),
            mod_revision: number("mod_revision"),
            version: number("version"),
        }
    }
}

fn seen(event: &Value) -> Seen {
    let record = match event["type"].as_str() {
        Some("put") => Some(Record::of(event)),
        Some("delete") => None,
        _ => panic!("no such change: {event}"),
    };
    let key = event["key"].as_str().expect("a key").to_owned();
    Seen { revision: event["revision"].as_u64().expect("a revision"), key, record }
}

/// A write that was acknowledged.
#[derive(Debug)]
enum Done {
    Put { value: String, answer: Value },
    Delete { key: String, answer: Value },
    DeleteRange { prefix: String, answer: Value },
    Transaction { value: String, puts: Vec<String>, answer: Value },
}

/// Clients that write all the time, in every way: again and again to the same keys, so that these
/// come and go and have many versions.
struct Load {
    ends: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<Done>>>,
}

impl Load {
    fn start(nodes: &[SocketAddr]) -> Self {
        let (ends, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..4).map(|writer: usize| {
            let (ends, count, nodes) = (ends.clone(), count.clone(), nodes.to_vec());
            std::thread::spawn(move || {
                let mut done = Vec::new();
                for number in (0_usize..).take_while(|_| !ends.load(Ordering::Relaxed)) {
                    let node = nodes[(writer + number) % nodes.len()];
                    if let Some(write) = write(node, writer, number) {
                        done.push(write);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
                done
            })
        });
        let threads = threads.collect();
        Self { ends, count, threads }
    }

    /// Waits until some more writes were acknowledged.
    fn more(&self) {
        let target = self.count.load(Ordering::Relaxed) + 50;
        wait_until("more writes", || self.count.load(Ordering::Relaxed) >= target);
    }

    fn stop(self) -> Vec<Done> {
        self.ends.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    }
}

/// Writes once; none unless that is acknowledged and changed something. No two writes have the
/// same value.
fn write(node: SocketAddr, writer: usize, number: usize) -> Option<Done> {
    let value = format!("{writer}-{number}");
    let key = format!("{writer}/{}", number % 11);
    let prefix = format!("{writer}/r/");
    let ask = |method: &str, target: &str, body: &str| {
        let answer = http::request(node, method, target, &[], body.as_bytes()).ok()?;
        (answer.status < 300).then(|| answer.json())
    };
    match number % 8 {
        3 => {
            let answer = ask("DELETE", &format!("/v1/kv/{key}"), "")?;
            Some(Done::Delete { key, answer })
        }
        // One is of a key that all of them write, and so not of the writer's own prefix.
        4 | 6 => {
            let puts =
                [format!("{prefix}{}", number % 3), format!("{prefix}x"), "1/all".to_owned()];
            let mut operations: Vec<_> =
                puts.iter().map(|key| json!({"op": "put", "key": key, "value": value})).collect();
            operations.push(json!({"op": "delete", "key": key}));
            let answer = ask("POST", "/v1/txn", &json!({"success": operations}).to_string())?;
            Some(Done::Transaction { value, puts: puts.to_vec(), answer })
        }
        7 => {
            let answer = ask("DELETE", &format!("/v1/kv?prefix={prefix}"), "")?;
            (answer["deleted"] != 0).then_some(Done::DeleteRange { prefix, answer })
        }
        _ => {
            let answer = ask("PUT", &format!("/v1/kv/{key}"), &value)?;
            Some(Done::Put { value, answer })
        }
    }
}

impl Done {
    /// Whether it was told as it was acknowledged, by these events of its revision.
    fn is_told(&self, events: &[Seen]) -> bool {
        let puts = |value: &str| {
            let of_value =
                move |seen: &&Seen| seen.record.as_ref().is_some_and(|r| r.value == value);
            events.iter().filter(of_value).collect::<Vec<_>>()
        };
        match self {
            Self::Put { value, answer } => {
                matches!(puts(value)[..], [Seen { record: Some(record), .. }]
                if events.len() == 1
                    && (answer["version"] == record.version)
                    && (answer["create_revision"] == record.create_revision))
            }
            Self::Delete { key, .. } => {
                matches!(events, [Seen { key: told, record: None, .. }] if told == key)
            }
            Self::DeleteRange { prefix, answer } => {
                answer["deleted"] == events.len()
                    && events
                        .iter()
                        .all(|seen| seen.record.is_none() && seen.key.starts_with(prefix))
            }
            Self::Transaction { value, puts: keys, answer } => {
                let told = puts(value);
                let deleted = answer["results"][keys.len()]["deleted"].as_u64();
                told.iter().all(|seen| keys.contains(&seen.key))
                    && told.len() == keys.len()
                    && deleted == Some((events.len() - told.len()) as u64)
            }
        }
    }

    fn revision(&self) -> u64 {
        let (Self::Put { answer, .. }
        | Self::Delete { answer, .. }
        | Self::DeleteRange { answer, .. }
        | Self::Transaction { answer, .. }) = self;
        answer["revision"].as_u64().expect("a revision")
    }
}

/// Goes through the events and asks the nodes in turn, revision by revision, what the store held
/// then: what is told of each change is what it made of the state before.
fn check_history(nodes: &[SocketAddr], events: &BTreeMap<u64, Vec<Seen>>) {
    let check = |turn: usize| {
        let mut state: BTreeMap<String, Record> = BTreeMap::new();
        for (revision, events) in events {
            for seen in events {
                let before = match &seen.record {
                    Some(record) => state.insert(seen.key.clone(), record.clone()),
                    None => state.remove(&seen.key),
                };
                assert!(seen.record.is_some() || before.is_some(), "it was not there: {seen:?}");
            }
            let node = usize::try_from(*revision).expect("few") % nodes.len();
            if node != turn {
                continue;
            }
            let target = format!("/v1/kv?revision={revision}&limit=1000&consistency=stale");
            let page = http::request(nodes[node], "GET", &target, &[], b"").expect("an answer");
            assert_eq!(page.status, 200, "{}", page.text());
            let page = page.json();
            assert_eq!(page.get("next"), None, "there are more keys");
            let listed = page["entries"].as_array().expect("entries").iter();
            let listed =
                listed.map(|entry| (entry["key"].as_str().expect("a key"), Record::of(entry)));
            let told = state.iter().map(|(key, record)| (key.as_str(), record.clone()));
            let (listed, told): (Vec<_>, Vec<_>) = (listed.collect(), told.collect());
            assert_eq!(told, listed, "after {events:?}");
        }
    };
    std::thread::scope(|threads| {
        (0..nodes.len()).for_each(|turn| drop(threads.spawn(move || check(turn))));
    });
}

/// A stream of events.
struct Stream {
    body: BufReader<Chunked>,
}

/// The bytes of a chunked body.
struct Chunked {
    stream: BufReader<TcpStream>,
    left: usize,
    is_first: bool,
}

impl Read for Chunked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let mut line = String::new();
            if !std::mem::take(&mut self.is_first) {
                self.stream.read_line(&mut line)?;
                line.clear();
            }
            self.stream.read_line(&mut line)?;
            self.left = usize::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
        }
        let room = buffer.len().min(self.left);
        let length = if room == 0 { 0 } else { self.stream.read(&mut buffer[..room])? };
        self.left -= length;
        Ok(length)
    }
}

impl Stream {
    /// Begins behind the last id. An error is a status other than 200, or none.
    fn open(node: SocketAddr, target: &str, last_id: u64) -> io::Result<Result<Self, u16>> {
        let mut stream = TcpStream::connect_timeout(&node, SILENCE_MAX)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        let head =
            format!("GET {target} HTTP/1.1\r\nhost: synod\r\nlast-event-id: {last_id}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut stream = BufReader::new(stream);
        let mut status = None;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let word = line.split(' ').nth(1).and_then(|word| word.parse::<u16>().ok());
            status = status.or(word);
            if line == "\r\n" {
                break;
            }
        }
        Ok(match status {
            Some(200) => {
                Ok(Self { body: BufReader::new(Chunked { stream, left: 0, is_first: true }) })
            }
            status => Err(status.unwrap_or(0)),
        })
    }

    /// The next event: its name, its id and what it tells; none at the end.
    fn next(&mut self) -> io::Result<Option<(String, Option<u64>, Value)>> {
        let (mut name, mut id, mut data) = (String::new(), None, Value::Null);
        loop {
            let mut line = String::new();
            if self.body.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            if let Some(text) = line.strip_prefix("event: ") {
                name = text.trim_end().to_owned();
            } else if let Some(text) = line.strip_prefix("id: ") {
                id = text.trim_end().parse().ok();
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = serde_json::from_str(text)?;
            } else {
                return Ok(Some((name, id, data)));
            }
        }
    }
}

/// A client that follows keys wherever a node serves.
struct Follower {
    /// Up to which revision it has everything.
    reached: Arc<AtomicU64>,
    /// It ends when it has this.
    goal: Arc<AtomicU64>,
    thread: JoinHandle<Vec<Seen>>,
}

impl Follower {
    fn start(
        nodes: Vec<SocketAddr>,
        follow: fn(&[SocketAddr], &AtomicU64, &AtomicU64) -> Vec<Seen>,
    ) -> Self {
        let (reached, goal) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
        let (told, ends) = (Arc::clone(&reached), Arc::clone(&goal));
        let thread = std::thread::spawn(move || follow(&nodes, &told, &ends));
        Self { reached, goal, thread }
    }

    fn finish(self, goal: u64) -> Vec<Seen> {
        self.goal.store(goal, Ordering::Relaxed);
        wait_until("a watch has everything", || self.reached.load(Ordering::Relaxed) >= goal);
        self.thread.join().expect("no panic")
    }
}

fn follow_stream(
    nodes: &[SocketAddr],
    target: &str,
    reached: &AtomicU64,
    goal: &AtomicU64,
) -> Vec<Seen> {
    let (mut all, mut unfinished) = (Vec::new(), Vec::new());
    let mut last_id = 0;
    for node in nodes.iter().cycle() {
        if last_id >= goal.load(Ordering::Relaxed) {
            break;
        }
        unfinished.clear();
        let mut stream = match Stream::open(*node, target, last_id) {
            Ok(Ok(stream)) => stream,
            Ok(Err(status)) => {
                assert!(status == 503, "a revision that is somewhere is nowhere lost: {status}");
                continue;
            }
            Err(_) => continue,
        };
        // Not all on one node: whoever is told something goes on elsewhere now and then.
        let mut left = 300;
        while let Ok(Some((name, id, data))) = stream.next() {
            match name.as_str() {
                "put" | "delete" => unfinished.push(seen(&data)),
                "progress" => assert!(unfinished.is_empty()),
                "dropped" => break,
                _ => panic!("{name}: {data}"),
            }
            if let Some(id) = id {
                assert!(id >= last_id, "{id} after {last_id}");
                last_id = id;
                all.append(&mut unfinished);
                reached.store(id, Ordering::Relaxed);
            }
            left -= 1;
            if left == 0 || last_id >= goal.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    all
}

fn follow_pages(nodes: &[SocketAddr], reached: &AtomicU64, goal: &AtomicU64) -> Vec<Seen> {
    let (mut all, mut next) = (Vec::new(), "1".to_owned());
    for node in nodes.iter().cycle() {
        if reached.load(Ordering::Relaxed) >= goal.load(Ordering::Relaxed) {
            break;
        }
        let target = format!("/v1/watch?from={next}&wait=1s");
        let Ok(answer) = http::request(*node, "GET", &target, &[], b"") else { continue };
        if answer.status != 200 {
            assert_eq!(answer.status, 503, "{}", answer.text());
            continue;
        }
        let page = answer.json();
        all.extend(page["events"].as_array().expect("events").iter().map(seen));
        next = page["next"].as_str().expect("next").to_owned();
        reached.store(page["revision"].as_u64().expect("a revision"), Ordering::Relaxed);
    }
    all
}

/// Kills the node that leads, for certain: it was stopped before, and when it stood still nobody
/// else led and the others followed it.
fn kill_leader(nodes: &mut Nodes, ids: &[u32]) -> u32 {
    let leads = |status: &Value| status["role"] == "leader";
    let (leader, ballot) = wait_for("a leader that the others follow", || {
        let statuses: Vec<_> =
            ids.iter().filter_map(|id| Some((*id, nodes.status(*id)?))).collect();
        let (leader, status) = statuses.iter().rfind(|(_, status)| leads(status))?;
        let ballot = status["ballot"].clone();
        nodes.signal(*leader, Signal::STOP);
        let follows = |id: &u32| {
            let status = nodes.status(*id);
            status.is_some_and(|of| {
                !leads(&of) && of["ballot"] == ballot && of["leader"]["id"] == *leader
            })
        };
        if ids.iter().filter(|id| *id != leader).all(follows) {
            return Some((*leader, ballot));
        }
        nodes.signal(*leader, Signal::CONT);
        None
    });
    nodes.kill(leader);
    let mut others = ids.iter().filter(|id| **id != leader).cycle();
    wait_until("another leads", || {
        let status = others.next().and_then(|id| nodes.status(*id));
        status.is_some_and(|status| leads(&status) && status["ballot"] != ballot)
    });
    leader
}

#[test]
fn a_watch_sees_each_change_once_whichever_leader_dies() {
    let kills = std::env::var("SYNOD_WATCH_KILLS").ok().and_then(|kills| kills.parse().ok());
    let mut nodes = Nodes::three(SETTINGS);
    let ids = [1, 2, 3];
    let all = nodes.clients(&ids);
    let rotated = |by: usize| [&all[by..], &all[..by]].concat();
    let followers = [
        Follower::start(rotated(0), |n, r, g| follow_stream(n, "/v1/watch?from=1", r, g)),
        Follower::start(rotated(1), |n, r, g| follow_stream(n, "/v1/watch?prefix=1/", r, g)),
        Follower::start(rotated(2), follow_pages),
    ];
    let load = Load::start(&all);
    let kills = kills.unwrap_or(20);
    for _ in 0..kills {
        load.more();
        let leader = kill_leader(&mut nodes, &ids);
        load.more();
        nodes.serve(leader);
        load.more();
    }
    let done = load.stop();
    for id in ids {
        wait_until("it is back", || nodes.status(id).is_some());
    }
    nodes.agree(&ids);
    let revision = nodes.status(1).expect("it runs")["revision"].as_u64().expect("a revision");
    let [stream, prefix, pages] = followers.map(|follower| follower.finish(revision));
    // The log, as each node tells it afterwards.
    for node in &all {
        let (reached, goal) = (AtomicU64::new(0), AtomicU64::new(revision));
        let log = follow_stream(&[*node], "/v1/watch", &reached, &goal);
        assert_eq!(log, stream);
    }
    assert_eq!(pages, stream);
    let of_prefix = stream.iter().filter(|seen| seen.key.starts_with("1/"));
    assert_eq!(prefix, of_prefix.cloned().collect::<Vec<_>>());
    assert!(stream.is_sorted_by_key(|seen| seen.revision), "not in order");
    let mut events: BTreeMap<u64, Vec<Seen>> = BTreeMap::new();
    for seen in &stream {
        events.entry(seen.revision).or_default().push(seen.clone());
    }
    assert!(events.keys().copied().eq(1..=revision), "each write is a revision");
    check_history(&all, &events);
    for write in &done {
        assert!(write.is_told(&events[&write.revision()]), "{write:?} was not told as it was done");
    }
    let kinds = [
        done.iter().filter(|done| matches!(done, Done::Put { .. })).count(),
        done.iter().filter(|done| matches!(done, Done::Delete { .. })).count(),
        done.iter().filter(|done| matches!(done, Done::DeleteRange { .. })).count(),
        done.iter().filter(|done| matches!(done, Done::Transaction { .. })).count(),
    ];
    println!(
        "{kills} leaders killed under load: {} writes acknowledged (puts, deletes, range deletes, \
         transactions: {kinds:?}), {revision} revisions, each change told once, in order and as the \
         history has it, to a stream, by pages, and to a stream of a prefix ({} of {} events)",
        done.len(),
        prefix.len(),
        stream.len()
    );
    assert!(kinds.iter().all(|count| *count > 0), "{kinds:?}");
}
