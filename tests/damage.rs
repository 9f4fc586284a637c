//! Files whose bytes are flipped, and a replica whose state is another than the others':
//! nothing wrong is ever told, and the node is well again by itself or by the command that
//! it names.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;

use bytes::Bytes;
use rustix::process::Signal;
use serde_json::Value;
use support::cluster::{TestCluster, synod};
use support::damage::{
    SCRUBBED, SMALL, cluster, data, equal, files, fill, flip, number, sealed, tables,
};
use support::wait::{wait_for, wait_until};
use support::writers::{Writers, value};
use synod_kv::{APPLIED_KEY, OrderedMap, State, WriteSet};
use synod_storage::{Store, StoreOptions};

/// The node that is damaged.
const HIT: u32 = 3;
/// Bytes that are flipped.
const FLIPS: usize = 100;

/// Which bytes are hit, if somebody wants others: `SYNOD_DAMAGE_SEED`.
fn seed() -> u64 {
    std::env::var("SYNOD_DAMAGE_SEED").map_or(1, |seed| seed.parse().expect("a number"))
}

/// The vote of the node that was hit is needed, and its state is asked.
fn is_well(cluster: &mut TestCluster, writers: &Writers) {
    wait_until("the states are equal", || equal(cluster, 1, HIT));
    writers.check(cluster, HIT);
    cluster.kill(2);
    let before = writers.count();
    wait_until("a write with its vote", || {
        writers.write_one(cluster, 1);
        writers.count() > before
    });
    writers.check(cluster, HIT);
}

#[test]
fn a_state_with_flipped_bytes_is_replaced_without_a_hand() {
    let mut cluster = cluster(SMALL);
    let writers = Writers::default();
    fill(&mut cluster, &writers);
    cluster.kill(HIT);
    let hit = data(&cluster, HIT);
    let promised = cluster_promise(&hit);
    let mut random = fastrand::Rng::with_seed(seed());
    let (tables, sealed) = (tables(&hit), sealed(&hit));
    assert!(!tables.is_empty());
    flip(&[tables, sealed].concat(), FLIPS, &mut random);
    writers.during(&mut cluster, &[1, 2], |cluster| {
        cluster.start_by_hand(HIT);
        wait_until("it serves", || {
            // Nobody starts it but a supervisor that knows nothing.
            if cluster.has_ended(HIT) {
                cluster.wait_for_end(HIT);
                cluster.start_by_hand(HIT);
            }
            // Reads find what is damaged.
            for key in 0..200_u64 {
                let target = format!("/v1/kv/{key:08}?consistency=stale");
                if let Ok(found) = cluster.try_request(HIT, "GET", &target, &[], b"") {
                    assert!(found.status != 200 || found.body == value(key), "{key}");
                }
            }
            !hit.join("REBUILD").exists()
                && cluster.node_output(HIT).contains("took the place of the other one")
                && cluster.status(HIT).is_some()
        });
    });
    let damage = damage_of(&cluster, HIT);
    assert!(damage["mended_at_s"].is_u64(), "{damage}");
    is_well(&mut cluster, &writers);
    assert!(cluster_promise_of(&cluster, HIT) >= promised, "a promise was taken back");
    assert!(!hit.join("state.damaged").exists());
}

/// The promise in a folder that nobody uses.
fn cluster_promise(data: &Path) -> (u64, u64) {
    let told = synod(&["inspect", "--json", "--data", &data.display().to_string()]);
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    ballot(told["journal"]["promised"].as_str().expect("a ballot"))
}

fn cluster_promise_of(cluster: &TestCluster, id: u32) -> (u64, u64) {
    ballot(cluster.status(id).expect("a status")["ballot"].as_str().expect("a ballot"))
}

fn ballot(text: &str) -> (u64, u64) {
    let (round, node) = text.split_once('.').expect("round.node");
    (round.parse().expect("a round"), node.parse().expect("a node"))
}

/// What the disk loses under a node that runs is found by reading all of it, and the process
/// mends it while the others serve.
#[test]
fn what_is_lost_under_a_running_node_is_found_and_mended() {
    let mut cluster = cluster(&format!("{SMALL}{SCRUBBED}"));
    let writers = Writers::default();
    fill(&mut cluster, &writers);
    wait_until("everything was read", || {
        cluster.status(HIT).is_some_and(|status| status["scrub"]["finished_at_s"].is_u64())
    });
    let process = cluster.pid(HIT);
    let hit = data(&cluster, HIT);
    wait_until("a table is hit", || {
        // It may be gone the next moment.
        let Some(table) = tables(&hit).into_iter().max() else { return false };
        let Ok(mut bytes) = fs::read(&table) else { return false };
        let middle = bytes.len() / 3;
        bytes[middle] ^= 0x40;
        // In place, as a disk would: the file is the one that is open.
        let Ok(mut file) = File::options().write(true).open(&table) else { return false };
        file.write_all(&bytes).is_ok() && wait_is_told(&cluster, &table)
    });
    // A compaction may meet it first. It can't tell what is wrong, and ends the node.
    let has_ended = cluster.pid(HIT).is_none();
    if has_ended {
        cluster.start_by_hand(HIT);
    }
    wait_until("it was mended", || {
        cluster.node_output(HIT).contains("took the place of the other one")
    });
    wait_until("the next life tells it, and that it is mended", || {
        let damage = damage_of(&cluster, HIT);
        let is_told = |what: &str| what.contains("the state is damaged");
        damage["what"].as_str().is_some_and(is_told) && damage["mended_at_s"].is_u64()
    });
    assert!(has_ended || cluster.pid(HIT) == process, "the process goes on");
    is_well(&mut cluster, &writers);
}

/// What the status of a node says of damage of its state.
fn damage_of(cluster: &TestCluster, id: u32) -> Value {
    let status = cluster.status(id).unwrap_or_default();
    let mut damages = status["damage"].as_array().into_iter().flatten();
    damages.find(|damage| damage["part"] == "state").cloned().unwrap_or_default()
}

/// Whether the damage is told. If the file is gone meanwhile, by a compaction, it never will be.
fn wait_is_told(cluster: &TestCluster, table: &Path) -> bool {
    wait_for("the damage is told, or its file is gone", || {
        let is_told = cluster.node_output(HIT).contains("starting again, to mend")
            || cluster.pid(HIT).is_none();
        (is_told || !table.exists()).then_some(is_told)
    })
}

/// While nobody gives it a state a node ends when it is told to, as any other, and keeps its own.
#[test]
fn a_node_that_waits_for_a_state_heeds_a_signal() {
    let mut cluster = cluster(SMALL);
    let writers = Writers::default();
    fill(&mut cluster, &writers);
    for id in 1..=3 {
        cluster.kill(id);
    }
    let hit = data(&cluster, HIT);
    let before = tables(&hit);
    fs::write(hit.join("REBUILD"), b"").expect("written");
    cluster.start_by_hand(HIT);
    wait_until("it looks for a state", || {
        cluster.node_output(HIT).contains("another takes its place")
    });
    cluster.signal(HIT, Signal::TERM);
    assert!(cluster.wait_for_end(HIT).success(), "{}", cluster.node_output(HIT));
    assert!(hit.join("REBUILD").exists() && tables(&hit) == before);
    for id in 1..=3 {
        cluster.start_by_hand(id);
    }
    is_well(&mut cluster, &writers);
    assert!(!hit.join("REBUILD").exists());
}

/// Bytes of every file may be hit: the node is well again, or says which command puts another
/// one in its place.
#[test]
fn bytes_flipped_anywhere_are_mended_or_the_way_out_is_named() {
    let mut cluster = cluster(SMALL);
    let writers = Writers::default();
    fill(&mut cluster, &writers);
    cluster.kill(HIT);
    let hit = data(&cluster, HIT);
    flip(&files(&hit), FLIPS, &mut fastrand::Rng::with_seed(seed()));
    let replaced = writers.during(&mut cluster, &[1, 2], |cluster| {
        cluster.start_by_hand(HIT);
        wait_for("it serves or gives up", || {
            if cluster.has_ended(HIT) {
                cluster.wait_for_end(HIT);
                if cluster.node_output(HIT).contains("put a new node in its place") {
                    return Some(true);
                }
                cluster.start_by_hand(HIT);
            }
            equal_soon(cluster).then_some(false)
        })
    });
    if !replaced {
        return is_well(&mut cluster, &writers);
    }
    writers.during(&mut cluster, &[1, 2], replace);
    writers.check(&cluster, 4);
}

/// The command that the message names, with a new node beside it.
fn replace(cluster: &mut TestCluster) {
    let text = fs::read_to_string(cluster.settings_path(HIT)).expect("settings");
    let (old, new) = (cluster.client_addr(HIT).port(), cluster.client_addr(4).port());
    let text = text
        .replace("node_id = 3", "node_id = 4")
        .replace("id = 3\n", "id = 4\n")
        .replace("node-3", "node-4")
        .replace(&format!(":{}", old + 10), &format!(":{}", new + 10))
        .replace(&format!(":{old}"), &format!(":{new}"));
    let config = cluster.settings_path(4);
    fs::create_dir_all(config.parent().expect("a folder")).expect("made");
    fs::write(&config, text).expect("written");
    let ask = format!("http://{}", cluster.client_addr(1));
    let replacing = thread::spawn(move || {
        let config = config.display().to_string();
        synod(&["member", "replace", "3", "--config", &config, "--endpoint", &ask])
    });
    let identity = data(cluster, 4).join("identity.json");
    wait_until("a folder for the new node", || identity.exists() || replacing.is_finished());
    cluster.start_by_hand(4);
    let replaced = replacing.join().expect("no panic");
    assert!(replaced.status.success(), "{}", String::from_utf8_lossy(&replaced.stderr));
}

fn equal_soon(cluster: &TestCluster) -> bool {
    let applied = number(cluster, HIT, "applied_slot");
    applied > 0
        && cluster
            .try_request(HIT, "GET", "/readyz", &[], b"")
            .is_ok_and(|ready| ready.status == 200)
}

/// Stops a node and has its state differ, as no disk would tell: what is written there is whole.
fn part(cluster: &mut TestCluster, id: u32) {
    // In order, so that everything is in the files.
    cluster.signal(id, Signal::TERM);
    cluster.wait_for_death(id);
    let path = files(&data(cluster, id))
        .into_iter()
        .find(|path| path.ends_with("CURRENT"))
        .and_then(|path| path.parent().map(Path::to_owned))
        .expect("a state");
    let mut store = Store::open(path, &StoreOptions::default()).expect("a state");
    let record = store.get(APPLIED_KEY).expect("readable").expect("a record");
    let hash = State::decode(&record).expect("whole").hash().to_le_bytes();
    let at = record.windows(8).position(|eight| eight == hash).expect("the hash is in it");
    let mut other = record.to_vec();
    other[at] ^= 1;
    let mut batch = WriteSet::new();
    batch.put(APPLIED_KEY, &Bytes::from(other));
    store.write(&batch).expect("written");
    store.flush().expect("durable");
}

/// One of three has another state: it stops, stays away, and comes back with theirs.
#[test]
fn the_node_that_most_others_contradict_stops_for_good() {
    let mut cluster = cluster("");
    let writers = Writers::default();
    for _ in 0..10 {
        writers.write_one(&cluster, 1);
    }
    wait_until("the states are equal", || equal(&cluster, 1, HIT));
    let hit = data(&cluster, HIT);
    part(&mut cluster, HIT);
    cluster.start_by_hand(HIT);
    let marker = hit.join("VIOLATION");
    writers.during(&mut cluster, &[1, 2, 1], |cluster| {
        let slots = |cluster: &TestCluster| number(cluster, 1, "applied_slot");
        while slots(cluster) < 4_200 && !marker.exists() {
            thread::yield_now();
        }
        assert!(!cluster.wait_for_end(HIT).success());
    });
    let words = fs::read_to_string(&marker).expect("a marker");
    assert!(words.contains("after slot 4096") && words.contains("this one is damaged"), "{words}");
    // The others know that they are right: they would give their state to it.
    for id in [1, 2] {
        wait_until("no doubt is left", || {
            cluster.status(id).is_some_and(|status| status["differs_after_slot"].is_null())
        });
        assert!(!data(&cluster, id).join("DIFFERS").exists());
    }
    cluster.start_by_hand(HIT);
    assert_eq!(cluster.wait_for_end(HIT).code(), Some(1));
    let said = cluster.node_output(HIT);
    for word in ["VIOLATION says", "after slot 4096", "synod member replace", "REBUILD"] {
        assert!(said.contains(word), "{word:?} is missing in {said}");
    }
    fs::rename(&marker, hit.join("REBUILD")).expect("renamed");
    cluster.start_by_hand(HIT);
    is_well(&mut cluster, &writers);
    assert!(!hit.join("REBUILD").exists() && !hit.join("DIFFERS").exists());
}

/// With two nodes nobody knows who is right: both go on, and a restart does not let them
/// forget it. The operator decides.
#[test]
fn of_two_that_differ_both_remember_it() {
    let mut cluster = TestCluster::start(2);
    let writers = Writers::default();
    for _ in 0..10 {
        writers.write_one(&cluster, 1);
    }
    wait_until("the states are equal", || equal(&cluster, 1, 2));
    part(&mut cluster, 2);
    cluster.start_by_hand(2);
    let differs = |cluster: &TestCluster, id| {
        cluster.status(id).is_some_and(|status| status["differs_after_slot"] == 4_096)
    };
    writers.during(&mut cluster, &[1, 2, 1], |cluster| {
        while !(differs(cluster, 1) && differs(cluster, 2)) {
            assert!(number(cluster, 1, "applied_slot") < 12_000, "nothing is told");
            thread::yield_now();
        }
    });
    for id in [1, 2] {
        wait_until("it is on the disk", || data(&cluster, id).join("DIFFERS").exists());
        cluster.kill(id);
        cluster.start_by_hand(id);
        wait_until("it is remembered", || differs(&cluster, id));
    }
    // Node 1 is believed: node 2 takes over what its own journal says, from the beginning.
    cluster.kill(2);
    cluster.kill(1);
    let (one, two) = (data(&cluster, 1), data(&cluster, 2));
    fs::remove_file(one.join("DIFFERS")).expect("removed");
    fs::rename(two.join("DIFFERS"), two.join("REBUILD")).expect("renamed");
    cluster.start_by_hand(1);
    cluster.start_by_hand(2);
    wait_until("the states are equal", || equal(&cluster, 1, 2));
    assert!(
        [1, 2]
            .iter()
            .all(|id| cluster.status(*id).is_some_and(|s| s["differs_after_slot"].is_null()))
    );
}
