//! A watch through the deaths of leaders: whoever goes on with the last id at another node
//! sees exactly what happened, once and in order.
#![allow(missing_docs)]

mod support;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use support::http;
use support::nodes::{Nodes, Writers};
use support::wait::wait_until;

/// Progress is told often, so that a test knows soon that a watch has everything.
const SETTINGS: &str = "[limits]\nwatch_progress_ms = 200\n";
/// A stream that is silent for so long is given up: progress should have come long before.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What a watch tells of a change: its revision, its key, and whether it was a put.
type Seen = (u64, String, bool);

fn seen(event: &Value) -> Seen {
    let key = event["key"].as_str().expect("a key").to_owned();
    (event["revision"].as_u64().expect("a revision"), key, event["type"] == "put")
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

fn leader(nodes: &Nodes, ids: &[u32]) -> u32 {
    let mut leader = None;
    wait_until("a leader", || {
        let statuses = ids.iter().filter_map(|id| Some((*id, nodes.status(*id)?)));
        leader =
            statuses.filter(|(_, status)| status["role"] == "leader").map(|(id, _)| id).next_back();
        leader.is_some()
    });
    leader.expect("somebody leads")
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
    let writers = Writers::start(all.clone());
    let kills = kills.unwrap_or(20);
    for _ in 0..kills {
        writers.more();
        let leader = leader(&nodes, &ids);
        nodes.kill(leader);
        writers.more();
        nodes.serve(leader);
        writers.more();
    }
    let acknowledged = writers.stop();
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
        assert!(log.iter().map(|seen| seen.0).eq(1..=revision), "each write is a revision");
        assert_eq!(log, stream);
    }
    assert_eq!(pages, stream);
    let of_prefix = stream.iter().filter(|seen| seen.1.starts_with("1/"));
    assert_eq!(prefix, of_prefix.cloned().collect::<Vec<_>>());
    let told: std::collections::BTreeSet<&str> =
        stream.iter().map(|seen| seen.1.as_str()).collect();
    println!(
        "{kills} leaders killed under load: {} writes acknowledged, {revision} revisions, each told \
         once and in order to a stream, by pages, and to a stream of a prefix ({} events)",
        acknowledged.len(),
        prefix.len()
    );
    assert!(acknowledged.iter().all(|key| told.contains(key.as_str())), "a write was not told");
}
