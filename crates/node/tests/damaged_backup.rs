//! Backups of a state that a disk damaged: none of them is whole, and the node says why.

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use support::{Cluster, request, status, wait_for};
use synod_node::{Node, Settings, check_backup};

/// What a client gets, which may be cut off.
fn take_backup(node: &Node) -> Vec<u8> {
    let mut stream = TcpStream::connect(node.client_addr()).expect("it listens");
    // The older protocol: the answer comes as it is, until the connection ends.
    write!(stream, "GET /v1/snapshot HTTP/1.0\r\nhost: test\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    // A cut connection is an error or the end, as the system likes.
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&answer));
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
    answer.split_off(head + 4)
}

fn tables(of: &Settings) -> Vec<PathBuf> {
    let files = fs::read_dir(of.data_dir.join("state")).expect("readable");
    let paths = files.map(|file| file.expect("readable").path());
    paths.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect()
}

/// In place, as a disk would: links to the file have it, too.
fn flip(file: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(file).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("written");
}

#[test]
fn a_damaged_state_gives_no_whole_backup() {
    let mut cluster = Cluster::with(1, "[snapshot]\ndisk_reserve_bytes = 0\n");
    // What is flushed before is all that there is: nothing is compacted.
    cluster.settings[0].timing.flush_interval_ms = 3_600_000;
    let settings = &cluster.settings[0];
    let node = cluster.start(0);
    wait_for("a leader", || node.is_leader());
    let mut random = 1_u64;
    for key in 0..40 {
        let value = |_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b' ' + u8::try_from(random >> 58).expect("six bits"))
        };
        let value: String = (0..100_000).map(value).collect();
        let put = request(node.client_addr(), "PUT", &format!("/v1/kv/key-{key}"), &value);
        assert_eq!(put.status, 201, "{put:?}");
    }
    let file = cluster.path("backup");
    fs::write(&file, take_backup(&node)).expect("written");
    check_backup(&file, |_| {}).expect("whole");
    let checkpoint = settings.data_dir.join("backup");
    wait_for("the checkpoint to go", || !checkpoint.exists());

    let [table] = tables(settings).try_into().expect("one file");
    flip(&table, fs::metadata(&table).expect("there").len() / 2);
    fs::write(&file, take_backup(&node)).expect("written");
    let cut = check_backup(&file, |_| {}).expect_err("it says not that it is whole");
    assert!(cut.to_string().contains("cut off"), "{cut}");
    assert!(!checkpoint.exists());
    wait_for("the damage to be told", || status(&node, "damage")[0]["part"] == "state");

    let refused = request(node.client_addr(), "GET", "/v1/snapshot", "");
    assert!(refused.status == 503 && refused.body.contains("found damaged"), "{refused:?}");
    node.stop().expect("stopped in order");
}
