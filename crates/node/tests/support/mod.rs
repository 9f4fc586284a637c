//! Nodes of a cluster in temporary folders, and just enough HTTP to talk to them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use synod_node::{Node, Settings, init};

const CLUSTER: &str = "00112233445566778899aabbccddeeff";

/// The longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster's folder and the settings of its nodes.
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    pub(crate) settings: Vec<Settings>,
}

impl Cluster {
    /// Chooses ports and makes the data folders.
    #[allow(dead_code, reason = "each test file uses its own part")]
    pub(crate) fn new(size: u32) -> Cluster {
        Cluster::with(size, "")
    }

    /// With more settings for all of them.
    pub(crate) fn with(size: u32, more: &str) -> Cluster {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = free_ports(2 * size as usize);
        let mut members = String::new();
        for (id, ports) in (1..=size).zip(ports.chunks(2)) {
            members += &format!(
                "[[members]]\nid = {id}\npeer = \"127.0.0.1:{}\"\n\
                 client_url = \"http://127.0.0.1:{}\"\n",
                ports[0], ports[1]
            );
        }
        let settings = (1..=size).zip(ports.chunks(2)).map(|(id, ports)| {
            let text = format!(
                "node_id = {id}\ndata_dir = \"node-{id}\"\n[cluster]\nid = \"{CLUSTER}\"\n\
                 [peer]\nlisten = \"127.0.0.1:{}\"\n[client]\nlisten = \"127.0.0.1:{}\"\n\
                 [timing]\nflush_interval_ms = 100\n{more}\n{members}",
                ports[0], ports[1]
            );
            Settings::parse(&text, &folder.path().join("synod.toml")).expect("good settings")
        });
        let settings: Vec<Settings> = settings.collect();
        for settings in &settings {
            init(settings).expect("a fresh folder");
        }
        Cluster { folder, settings }
    }

    #[allow(dead_code, reason = "each test file uses its own part")]
    /// Where something can be put that is no node's.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        Path::join(self.folder.path(), name)
    }

    pub(crate) fn start(&self, index: usize) -> Node {
        Node::start(&self.settings[index]).expect("the node starts")
    }

    #[allow(dead_code, reason = "each test file uses its own part")]
    pub(crate) fn start_all(&self) -> Vec<Node> {
        (0..self.settings.len()).map(|index| self.start(index)).collect()
    }
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Vec<u16> {
    let bind = |_| TcpListener::bind("127.0.0.1:0").expect("a port");
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("bound").port()).collect()
}

/// Waits until `done` says so.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An answer.
#[derive(Debug)]
#[allow(dead_code, reason = "each test file uses its own part")]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// One request on a connection of its own.
pub(crate) fn request(to: SocketAddr, method: &str, target: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(to).expect("the node listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let length = body.len();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer {
        status: status.expect("a status"),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

/// A field of a node's status.
pub(crate) fn status(of: &Node, field: &str) -> serde_json::Value {
    let answer = request(of.client_addr(), "GET", "/v1/status", "");
    let body: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    body[field].clone()
}
