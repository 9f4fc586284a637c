//! A disk that is full or fails stops its node with a clear message; the others
//! go on, and the node comes back when it is started again.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::cluster::{SYNOD, TestCluster};
use support::http;
use support::nodes::{Nodes, succeeds};
use support::skip::{Need, skip};
use support::wait::{wait_for, wait_until};

/// Stops node `id`, lets `prepare` do something to its folder, and keeps the
/// other nodes serving.
fn without_node(cluster: &mut TestCluster, id: u32) -> PathBuf {
    cluster.kill(id);
    let others: Vec<u32> = cluster.ids().filter(|other| *other != id).collect();
    cluster.leader_among(&others);
    cluster.settings_path(id).with_file_name("data")
}

/// Puts values through the other nodes until node `id` has ended.
fn write_until_it_ends(cluster: &mut TestCluster, id: u32, value_bytes: usize) -> String {
    let value = vec![b'v'; value_bytes];
    let mut number = 0;
    let other = cluster.ids().find(|other| *other != id).expect("another node");
    let mut acknowledged = Vec::new();
    wait_for("the node stops", || {
        number += 1;
        let target = format!("/v1/kv/fill/{number:04}");
        let put = cluster.try_request(other, "PUT", &target, &[], &value);
        if put.is_ok_and(|answer| answer.status < 300) {
            acknowledged.push(target);
        }
        cluster.has_ended(id).then_some(())
    });
    let status = cluster.wait_for_end(id);
    assert!(!status.success(), "a node whose disk fails ends with an error");
    assert!(!acknowledged.is_empty(), "the others went on");
    for target in acknowledged.iter().rev().take(20) {
        let read = cluster.request(other, "GET", target, &[], b"");
        assert_eq!(read.body.len(), value_bytes, "{target}");
    }
    cluster.node_output(id)
}

fn comes_back(cluster: &mut TestCluster, id: u32) {
    cluster.start_by_hand(id);
    wait_until_ready(cluster, id);
}

fn wait_until_ready(cluster: &mut TestCluster, id: u32) {
    wait_until("the node is ready", || {
        assert!(!cluster.has_ended(id), "it ended: {}", cluster.node_output(id));
        cluster.try_request(id, "GET", "/readyz", &[], b"").is_ok_and(|r| r.status == 200)
    });
}

/// A small file system of its own; unmounted when dropped.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mount(path: &Path, size: &str) -> Option<Self> {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"])
            .arg(path)
            .stderr(std::process::Stdio::null())
            .status();
        status.is_ok_and(|status| status.success()).then(|| Self { path: path.to_owned() })
    }

    fn used_kib(&self) -> u64 {
        let output = Command::new("df").args(["-k", "--output=used"]).arg(&self.path).output();
        let output = output.expect("df runs").stdout;
        let text = String::from_utf8_lossy(&output).into_owned();
        text.lines().last().and_then(|line| line.trim().parse().ok()).expect("a number")
    }

    fn free_kib(&self) -> u64 {
        let output = Command::new("df").args(["-k", "--output=avail"]).arg(&self.path).output();
        let output = output.expect("df runs").stdout;
        let text = String::from_utf8_lossy(&output).into_owned();
        text.lines().last().and_then(|line| line.trim().parse().ok()).expect("a number")
    }

    fn try_resize(&self, size: &str) -> bool {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,size={size}")])
            .arg(&self.path)
            .stderr(std::process::Stdio::null())
            .status();
        status.expect("mount runs").success()
    }

    fn resize(&self, size: &str) {
        assert!(self.try_resize(size), "{} takes the size {size}", self.path.display());
    }

    /// Leaves room for so much more. The kernel refuses a size below what is used, and
    /// the node may be making its next journal segment between the two calls.
    fn leave_kib(&self, room: u64) {
        wait_until("the disk is made small", || {
            self.try_resize(&format!("{}k", self.used_kib() + room))
        });
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status();
    assert!(status.expect("cp runs").success());
}

#[test]
fn a_full_disk_stops_its_node_and_only_that() {
    let mut cluster = TestCluster::start(3);
    let data = without_node(&mut cluster, 3);
    let aside = data.with_file_name("aside");
    fs::rename(&data, &aside).expect("the data moves");
    fs::create_dir(&data).expect("a folder");
    let Some(disk) = SmallDisk::mount(&data, "1g") else {
        return skip(Need::Mounts, "a small file system can be mounted by root only");
    };
    copy_folder(&aside, &data);
    // What stops a node is a write that fails in spite of the reserve.
    let path = cluster.settings_path(3);
    let settings = fs::read_to_string(&path).expect("settings");
    fs::write(&path, settings + "\n[snapshot]\ndisk_reserve_bytes = 0\n").expect("settings");
    comes_back(&mut cluster, 3);

    // From now on there is room for a few more values.
    disk.leave_kib(1_024);
    let output = write_until_it_ends(&mut cluster, 3, 256 << 10);
    assert!(
        output.contains("No space left") || output.to_lowercase().contains("disk full"),
        "the message names the cause: {output}"
    );
    disk.resize("1g");
    comes_back(&mut cluster, 3);
    drop(cluster);
    drop(disk);
}

/// A file that takes room until it is dropped.
struct Ballast(PathBuf);

impl Ballast {
    /// Leaves `mib` free.
    fn leaving(disk: &SmallDisk, mib: u64) -> Self {
        let file = disk.path.join("ballast");
        let free = disk.free_kib();
        let bytes = free.saturating_sub(mib << 10) << 10;
        fs::write(&file, vec![1_u8; usize::try_from(bytes).expect("a size")]).expect("room");
        Ballast(file)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Puts until the answer is as wanted, and gives the whole of it.
fn put_until(cluster: &TestCluster, id: u32, what: &str, wanted: impl Fn(u16) -> bool) -> String {
    wait_for(what, || {
        let put = cluster.try_request(id, "PUT", "/v1/kv/k", &[], b"v").ok()?;
        wanted(put.status).then(|| put.text())
    })
}

#[test]
fn below_the_reserve_another_leads_and_then_puts_are_refused_until_there_is_room() {
    let mut cluster = TestCluster::start(3);
    let mut disks = Vec::new();
    for id in cluster.ids() {
        let data = without_node(&mut cluster, id);
        let aside = data.with_file_name("aside");
        fs::rename(&data, &aside).expect("the data moves");
        fs::create_dir(&data).expect("a folder");
        let Some(disk) = SmallDisk::mount(&data, "512m") else {
            return skip(Need::Mounts, "a small file system can be mounted by root only");
        };
        copy_folder(&aside, &data);
        let path = cluster.settings_path(id);
        let settings = fs::read_to_string(&path).expect("settings");
        // As much as a start takes, and far more than the load of this test.
        let reserve = "\n[snapshot]\ndisk_reserve_bytes = 134217728\n";
        fs::write(&path, settings + reserve).expect("settings");
        comes_back(&mut cluster, id);
        disks.push(disk);
    }
    let all: Vec<u32> = cluster.ids().collect();

    // A leader with little room gives its office away, and nobody else notices.
    let leader = cluster.leader_among(&all);
    let place = all.iter().position(|id| *id == leader).expect("a node");
    let first = Ballast::leaving(&disks[place], 64);
    wait_until("another leads", || cluster.leader() != leader);
    let (second, third) = (all[(place + 1) % 3], all[(place + 2) % 3]);
    put_until(&cluster, leader, "a put through the node with little room", |status| status < 300);

    // Without a quorum that has room puts are refused by all, and no more than puts.
    let more = Ballast::leaving(&disks[(place + 1) % 3], 64);
    for id in [leader, second, third] {
        let refusal = put_until(&cluster, id, "puts are refused", |status| status == 507);
        assert!(refusal.contains("urn:synod:no-room") && refusal.contains("not_applied"));
    }
    let read = cluster.request(third, "GET", "/v1/kv/k", &[], b"");
    assert_eq!((read.status, read.text().as_str()), (200, "v"));
    assert_eq!(cluster.request(leader, "DELETE", "/v1/kv/k", &[], b"").status, 200);

    // Where a write could fail a node only takes no more values.
    drop(more);
    drop(first);
    put_until(&cluster, leader, "there is room", |status| status < 300);
    let almost_all = Ballast::leaving(&disks[(place + 2) % 3], 8);
    wait_until("it says so", || cluster.node_output(third).contains("takes no more values"));
    put_until(&cluster, second, "the others go on", |status| status < 300);
    put_until(&cluster, third, "it refuses", |status| status == 507);
    assert_eq!(cluster.request(third, "GET", "/readyz", &[], b"").status, 503);
    drop(almost_all);
    put_until(&cluster, third, "it catches up", |status| status < 300);
    for id in all {
        assert!(!cluster.has_ended(id), "no node ended: {}", cluster.node_output(id));
    }
    drop(cluster);
    drop(disks);
}

#[test]
fn a_failed_fsync_stops_its_node_and_only_that() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip(Need::Strace, "strace is not installed");
    }
    let mut cluster = TestCluster::start(3);
    let _data = without_node(&mut cluster, 3);
    let mut command = Command::new("strace");
    // The start itself needs a few; fail one in steady work.
    command.args(["-f", "-qq", "-o", "/dev/null"]);
    command.args(["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=40+"]);
    command.arg(SYNOD).arg("serve").arg("--config").arg(cluster.settings_path(3));
    cluster.start_by_hand_with(3, command);
    wait_until_ready(&mut cluster, 3);
    let output = write_until_it_ends(&mut cluster, 3, 64);
    assert!(output.contains("nput/output error"), "the message names the cause: {output}");
    comes_back(&mut cluster, 3);
}

/// The journal is synced by another call than the folder of a state.
#[test]
fn a_failed_fsync_of_the_state_stops_its_node_and_costs_it_nothing() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip(Need::Strace, "strace is not installed");
    }
    let mut cluster = TestCluster::start(3);
    let data = without_node(&mut cluster, 3);
    let mut settings = fs::read_to_string(cluster.settings_path(3)).expect("settings");
    settings.push_str("\n[timing]\nflush_interval_ms = 100\n");
    fs::write(cluster.settings_path(3), settings).expect("written");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(data.join("state"));
    // The start itself needs some.
    command.args(["-e", "trace=fsync,fdatasync"]);
    command.args(["-e", "inject=fsync,fdatasync:error=EIO:when=8+"]);
    command.arg(SYNOD).arg("serve").arg("--config").arg(cluster.settings_path(3));
    cluster.start_by_hand_with(3, command);
    wait_until_ready(&mut cluster, 3);
    let output = write_until_it_ends(&mut cluster, 3, 64);
    let tells = ["could not be flushed", "cannot be used"].iter().any(|text| output.contains(text));
    assert!(tells && !output.contains("starting again"), "{output}");
    comes_back(&mut cluster, 3);
}

/// What docs/operations.md says for a disk of 64 MiB.
const FOR_64_MIB: &str = "[limits]\nsegment_bytes = 262144\nwrite_buffer_bytes = 1048576\n\
    [snapshot]\ntail_bytes_max = 2097152\ndisk_reserve_bytes = 33554432\n\
    [history]\nkeep_ms = 0\nrevisions_max = 100\n";

/// A request to the node that leads, whichever that is.
fn ask_leader(nodes: &Nodes, method: &str, target: &str, body: &str) -> http::Response {
    wait_for("the leader answers", || {
        nodes.clients(&[1, 2, 3]).into_iter().find_map(|node| {
            let answer = http::request(node, method, target, &[], body.as_bytes()).ok()?;
            (![307, 503].contains(&answer.status)).then_some(answer)
        })
    })
}

#[test]
fn a_disk_of_64_mib_is_filled_and_freed_and_the_members_change_meanwhile() {
    let mut nodes = Nodes::with(FOR_64_MIB);
    let mut disks = Vec::new();
    for id in [1, 2, 3] {
        fs::create_dir(nodes.data(id)).expect("a folder");
        let Some(disk) = SmallDisk::mount(&nodes.data(id), "64m") else {
            return skip(Need::Mounts, "a small file system can be mounted by root only");
        };
        disks.push(disk);
        nodes.init(id, &[1, 2, 3]);
        nodes.serve(id);
    }
    for id in [1, 2, 3] {
        nodes.wait_for_leader(id);
    }
    let mut random = fastrand::Rng::with_seed(64);
    let mut value = || std::iter::repeat_with(|| random.u8(..)).take(32 << 10).collect::<Vec<u8>>();
    let put = |key: &str, value: &[u8]| {
        wait_for("an answer", || {
            let target = format!("/v1/kv/{key}");
            let answer = http::request(nodes.client(1), "PUT", &target, &[], value).ok()?;
            (answer.status != 503).then_some(answer.status)
        })
    };
    for round in 0..2 {
        // What was forgotten in the round before still makes room.
        for n in 0..=64 {
            let taken = || put(&format!("fill/{round}/{n:04}"), &value()) < 300;
            wait_until("65 values of 32 KiB, which is little for 64 MiB", taken);
        }
        let filled = (65..4_096).find(|n| put(&format!("fill/{round}/{n:04}"), &value()) == 507);
        let filled = filled.expect("the disks are full") - 1;
        let newest = format!("/v1/kv/fill/{round}/{filled:04}");
        let read = http::request(nodes.client(2), "GET", &newest, &[], b"").expect("an answer");
        assert_eq!((read.status, read.body.len()), (200, 32 << 10));

        // What may make room goes on: other members, deletes, and compaction.
        let quorums = |promise: &str, accept: &str| {
            nodes.member(1, &["quorums", "--promise", promise, "--accept", accept, "--force"], None)
        };
        succeeds(&quorums("3", "1"));
        succeeds(&quorums("2", "2"));
        let moved = nodes.url(3).replace("127.0.0.1", "localhost");
        for url in [moved, nodes.url(3)] {
            let body = format!("{{\"client_url\": \"{url}\"}}");
            let answer = ask_leader(&nodes, "PUT", "/v1/cluster/members/3", &body);
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let learner = 4 + round;
        nodes.configure(learner, &[learner]);
        succeeds(&nodes.member(1, &["add"], Some(learner)));
        succeeds(&nodes.member(1, &["remove", &learner.to_string()], None));
        // What the journals no longer need may have made some room meanwhile.
        let is_full = |n: &u32| put(&format!("fill/{round}/more/{n:04}"), &value()) == 507;
        (0..4_096).find(is_full).expect("they are still full, or are so again");

        // What is deleted can still be read as it was, so it takes room until it is forgotten.
        let removed = ask_leader(&nodes, "DELETE", "/v1/kv?prefix=fill/", "");
        assert_eq!(removed.status, 200, "{}", removed.text());
        let forget = format!("{{\"revision\": {}}}", removed.json()["revision"]);
        let forgotten = ask_leader(&nodes, "POST", "/v1/compact", &forget);
        assert_eq!(forgotten.status, 200, "{}", forgotten.text());
        wait_until("puts are taken again", || put("again", b"v") < 300);
    }
    nodes.agree(&[1, 2, 3]);
    for id in [1, 2, 3] {
        assert!(!nodes.has_ended(id), "node {id} ended: {}", nodes.log(id));
        nodes.kill(id);
    }
    drop(disks);
}
