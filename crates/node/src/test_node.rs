//! A node of one for tests, and what its folder looks like.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Node, Settings};

/// Every file with its contents and the times of its last changes.
pub(crate) fn image(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64, i64)> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("readable") {
            let path = entry.expect("readable").path();
            let found = fs::metadata(&path).expect("there");
            let times = (found.mtime(), found.mtime_nsec(), found.ctime_nsec());
            let content = if found.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).expect("readable")
            };
            files.insert(path, (content, times.0, times.1, times.2));
        }
    }
    files
}

pub(crate) fn settings(folder: &Path) -> Settings {
    let text = "node_id = 1\ndata_dir = \"data\"\n[cluster]\n\
                id = \"0123456789abcdef0123456789abcdef\"\n\
                [client]\nlisten = \"127.0.0.1:0\"\n[peer]\nlisten = \"127.0.0.1:0\"\n\
                [[members]]\nid = 1\npeer = \"127.0.0.1:1\"\nclient_url = \"http://localhost:1\"\n";
    Settings::parse(text, &folder.join("synod.toml")).expect("good settings")
}

/// Puts a key, waiting for the leader that this needs.
pub(crate) fn put(node: &Node, key: &str) {
    let mut stream = TcpStream::connect(node.client_addr()).expect("it listens");
    let request = format!(
        "PUT /v1/kv/{key} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
         content-length: 5\r\n\r\nvalue"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}
