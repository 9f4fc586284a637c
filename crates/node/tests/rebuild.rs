//! States that are doubted, set aside and replaced, and journals that are damaged where only a
//! peer can help.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use support::{Cluster, request, status, wait_for};
use synod_node::{Node, Settings, StartError};
use synod_storage::{Store, StoreOptions, failpoint};

/// What a node writes into `REBUILD` by itself begins like this.
const DOUBT: &str = "found by the node itself: the state is damaged\n";
/// Segments are small, and none is kept for peers.
const SMALL: &str = "[limits]\nsegment_bytes = 65536\n[snapshot]\ntail_bytes_max = 0\n\
    tail_ms_max = 0\nkeep_for_peers_ms = 0\ndisk_reserve_bytes = 0\n";

fn put(node: &Node, number: u32) {
    let target = format!("/v1/kv/key-{number}");
    let put = request(node.client_addr(), "PUT", &target, &"v".repeat(1_000));
    assert!([200, 201].contains(&put.status), "{put:?}");
}

fn has(node: &Node, count: u32) {
    for number in 0..count {
        let target = format!("/v1/kv/key-{number}");
        wait_for("a read", || {
            let get = request(node.client_addr(), "GET", &target, "");
            // Nobody may lead yet.
            assert!(get.status == 503 || (get.status, get.body.len()) == (200, 1_000), "{get:?}");
            get.status == 200
        });
    }
}

/// Writes until the journal does not go back to the beginning; how many keys that took.
fn fill(node: &Node, others: &[Node]) -> u32 {
    let nodes = || others.iter().chain([node]);
    wait_for("a leader", || nodes().any(Node::is_leader));
    let leader = nodes().find(|node| node.is_leader()).expect("one leads");
    let mut written = 0;
    wait_for("a cut journal", || {
        for _ in 0..20 {
            put(leader, written);
            written += 1;
        }
        status(node, "truncated_slot") != 0
    });
    written
}

fn segments(settings: &Settings) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(settings.data_dir.join("journal")).expect("a journal");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let segments = paths.filter(|path| path.extension().is_some_and(|end| end == "seg"));
    let read = segments.map(|path| (path.clone(), fs::read(path).expect("readable")));
    // Files that are made ready come and go.
    read.filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)).collect()
}

/// Something in the folder of a state by which it is known again.
fn sign(settings: &Settings) -> PathBuf {
    let sign = settings.data_dir.join("state").join("SIGN");
    fs::write(&sign, b"").expect("written");
    sign
}

fn mark(settings: &Settings, name: &str) -> PathBuf {
    settings.data_dir.join(name)
}

fn stopped(node: Node) {
    node.stop().expect("stopped in order");
}

#[test]
fn a_doubted_state_is_read_before_it_goes() {
    let cluster = Cluster::new(1);
    let settings = &cluster.settings[0];
    let node = cluster.start(0);
    wait_for("a leader", || node.is_leader());
    put(&node, 0);
    stopped(node);
    let sign = sign(settings);
    let (rebuild, whole) = (mark(settings, "REBUILD"), mark(settings, "WHOLE"));
    fs::write(&rebuild, DOUBT).expect("written");
    let node = cluster.start(0);
    assert!(sign.exists() && !rebuild.exists() && whole.exists());
    has(&node, 1);
    stopped(node);
    // Once more, and the reading told nothing. The journal has everything.
    fs::write(&rebuild, DOUBT).expect("written");
    let node = cluster.start(0);
    assert!(!sign.exists() && !rebuild.exists() && !whole.exists());
    has(&node, 1);
    stopped(node);
}

#[test]
fn an_operator_who_wants_another_state_gets_it() {
    let cluster = Cluster::new(1);
    let settings = &cluster.settings[0];
    let node = cluster.start(0);
    wait_for("a leader", || node.is_leader());
    put(&node, 0);
    stopped(node);
    let sign = sign(settings);
    fs::write(mark(settings, "REBUILD"), b"").expect("written");
    let node = cluster.start(0);
    assert!(!sign.exists() && !mark(settings, "state.damaged").exists());
    has(&node, 1);
    stopped(node);
}

#[test]
fn what_lies_aside_is_taken_back_when_the_mark_is_gone() {
    let cluster = Cluster::new(1);
    let settings = &cluster.settings[0];
    stopped(cluster.start(0));
    let (sign, aside) = (sign(settings), mark(settings, "state.damaged"));
    fs::rename(mark(settings, "state"), &aside).expect("set aside");
    stopped(cluster.start(0));
    assert!(sign.exists() && !aside.exists());
    // Beside a state it is no more needed.
    fs::create_dir(&aside).expect("made");
    stopped(cluster.start(0));
    assert!(sign.exists() && !aside.exists());
}

/// Nobody has the state that the node would need: all that it has itself must stay.
#[test]
fn nothing_goes_before_another_state_is_there() {
    let cluster = Cluster::with(1, SMALL);
    let settings = &cluster.settings[0];
    let node = cluster.start(0);
    let written = fill(&node, &[]);
    stopped(node);
    let whole = segments(settings);
    assert!(whole.len() > 1, "{}", whole.len());
    let (hit, newest) = (whole.keys().next().expect("one"), whole.keys().last().expect("one"));
    let mut bytes = whole[hit].clone();
    bytes[700] ^= 1;
    fs::write(hit, &bytes).expect("written");
    let sign = sign(settings);
    let rebuild = mark(settings, "REBUILD");
    fs::write(&rebuild, b"").expect("written");
    let refused = Node::start(settings).expect_err("there is nobody to ask");
    assert!(matches!(refused, StartError::NoState { .. }), "{refused}");
    let after = segments(settings);
    assert!(after.keys().eq(whole.keys()), "segments are gone");
    for (path, found) in &after {
        // The newest one says how often it was opened.
        let from = if path == newest { 512 } else { 0 };
        let expected = if path == hit { &bytes } else { &whole[path] };
        assert!(found[from..] == expected[from..], "{}", path.display());
    }
    assert!(sign.exists() && rebuild.exists());
    // As when nobody gave a state and the node had read its own before.
    fs::write(&rebuild, DOUBT).expect("written");
    fs::write(mark(settings, "WHOLE"), b"").expect("written");
    let node = cluster.start(0);
    assert!(sign.exists() && !rebuild.exists() && !hit.exists());
    has(&node, written);
    stopped(node);
}

fn states(of: &Settings) -> Vec<String> {
    let entries = fs::read_dir(&of.data_dir).expect("a folder");
    let names = entries.map(|entry| entry.expect("readable").file_name());
    let names = names.map(|name| name.into_string().expect("plain"));
    names.filter(|name| name.starts_with("state")).collect()
}

fn flip_a_state(of: &Settings) {
    for table in tables(of) {
        let mut bytes = fs::read(&table).expect("readable");
        bytes[20] ^= 1;
        fs::write(table, bytes).expect("written");
    }
}

#[test]
fn a_damaged_state_is_replaced_and_the_wait_for_another_ends_when_it_is_told_to() {
    let cluster = Cluster::with(2, SMALL);
    let settings = &cluster.settings[0];
    let mut nodes = cluster.start_all();
    let other = nodes.pop().expect("two");
    let node = nodes.pop().expect("two");
    let written = fill(&node, std::slice::from_ref(&other));
    let applied = |node| status(node, "applied_slot");
    wait_for("equal states", || applied(&node) == applied(&other));
    stopped(node);
    stopped(other);
    flip_a_state(settings);
    let before = segments(settings);
    let rebuild = mark(settings, "REBUILD");
    fs::write(&rebuild, DOUBT).expect("written");
    // Nobody is there, and it would wait for long.
    let told = AtomicBool::new(true);
    let ended = Node::start_unless(settings, &told).expect_err("it was told to stop");
    assert!(matches!(ended, StartError::Stopped), "{ended}");
    assert!(rebuild.exists() && states(settings) == ["state"]);
    assert!(segments(settings).keys().eq(before.keys()));
    let other = cluster.start(1);
    let node = cluster.start(0);
    assert!(!rebuild.exists());
    let states = states(settings);
    assert!(states.len() == 1 && states[0].starts_with("state-"), "{states:?}");
    wait_for("a leader", || node.is_leader() || other.is_leader());
    has(&node, written);
    stopped(node);
    stopped(other);
}

/// What is known of the last reading is worth no node.
#[test]
fn a_reading_that_cannot_be_noted_ends_nothing() {
    let cluster = Cluster::with(1, "[snapshot]\ndisk_reserve_bytes = 0\n[scrub]\ninterval_s = 1\n");
    let settings = &cluster.settings[0];
    let stuck = settings.data_dir.join("scrub.json.new");
    fs::create_dir(&stuck).expect("made");
    let node = cluster.start(0);
    let finished = || status(&node, "scrub")["finished_at_s"].as_u64();
    wait_for("a reading", || finished().is_some());
    let first = finished();
    wait_for("another", || finished() > first);
    stopped(node);
    assert!(!settings.data_dir.join("scrub.json").exists() && stuck.exists());
}

/// Has the next start die behind this step, as if it were killed there.
fn dies_behind(settings: &Settings, step: &str) {
    failpoint::arm(&settings.data_dir, step);
    let died = Node::start(settings).expect_err(step);
    assert!(died.to_string().contains(step), "{step}: {died}");
    assert!(!failpoint::is_armed(&settings.data_dir, step), "{step}");
}

/// Nothing is left to be done.
fn is_done(settings: &Settings, step: &str) {
    for left in ["REBUILD", "SUSPECT", "DIFFERS", "state.damaged", "state.new"] {
        assert!(!mark(settings, left).exists(), "{step}: {left}");
    }
    assert_eq!(states(settings).len(), 1, "{step}");
}

#[test]
fn a_state_from_a_peer_comes_though_the_node_dies_behind_any_step() {
    let steps = [
        "repair begun",
        "state fetched",
        "state prepared",
        "state set aside",
        "mark written",
        "switched",
        "switch durable",
        "state replaced",
        "DIFFERS gone",
        "SUSPECT gone",
        "WHOLE gone",
        "REBUILD gone",
        "repair ended",
        "journal told",
        "mark removed",
    ];
    let cluster = Cluster::with(2, SMALL);
    let settings = &cluster.settings[0];
    let mut nodes = cluster.start_all();
    let other = nodes.pop().expect("two");
    let mut node = nodes.pop().expect("two");
    let written = fill(&node, std::slice::from_ref(&other));
    for step in steps {
        let applied = |node| status(node, "applied_slot");
        wait_for("equal states", || applied(&node) == applied(&other));
        stopped(node);
        flip_a_state(settings);
        for (name, words) in [("REBUILD", DOUBT), ("SUSPECT", ""), ("DIFFERS", "slot 1\n")] {
            fs::write(mark(settings, name), words).expect("written");
        }
        dies_behind(settings, step);
        node = cluster.start(0);
        is_done(settings, step);
        wait_for("a leader", || node.is_leader() || other.is_leader());
        has(&node, written);
        let told = damage_told(&node, "state");
        assert!(tells(&told, "the state is damaged") && told["mended_at_s"].is_u64(), "{told}");
    }
    stopped(node);
    stopped(other);
}

#[test]
fn a_state_is_kept_or_made_anew_though_the_node_dies_behind_any_step() {
    let made_anew = [
        "repair begun",
        "state set aside",
        "state replaced",
        "DIFFERS gone",
        "SUSPECT gone",
        "WHOLE gone",
        "REBUILD gone",
        "repair ended",
    ];
    let kept = ["repair begun", "SUSPECT gone", "REBUILD gone", "state kept"];
    let cluster = Cluster::new(1);
    let settings = &cluster.settings[0];
    let mut node = cluster.start(0);
    wait_for("a leader", || node.is_leader());
    put(&node, 0);
    let wanted = made_anew.map(|step| (step, ""));
    let doubted = kept.map(|step| (step, DOUBT));
    for (step, words) in wanted.into_iter().chain(doubted) {
        stopped(node);
        let _ = fs::remove_file(mark(settings, "WHOLE"));
        fs::write(mark(settings, "REBUILD"), words).expect("written");
        dies_behind(settings, step);
        node = cluster.start(0);
        is_done(settings, step);
        wait_for("a leader", || node.is_leader());
        has(&node, 1);
    }
    stopped(node);
}

/// The process died while it removed what was set aside: the next start takes back what is left.
#[test]
fn a_state_that_was_removed_in_part_is_made_anew() {
    let cluster = Cluster::new(1);
    let settings = &cluster.settings[0];
    let mut node = cluster.start(0);
    wait_for("a leader", || node.is_leader());
    put(&node, 0);
    let (state, aside) = (mark(settings, "state"), mark(settings, "state.damaged"));
    // In whatever order the folder names its files.
    for gone in [&["CURRENT", ".sst"][..], &["CURRENT"], &["MANIFEST-"], &[".sst"], &[""]] {
        stopped(node);
        fs::rename(&state, &aside).expect("set aside");
        fs::write(mark(settings, "REBUILD"), DOUBT).expect("written");
        let mut removed = 0;
        for file in fs::read_dir(&aside).expect("readable") {
            let file = file.expect("readable").path();
            let name = file.to_string_lossy();
            if gone.iter().any(|part| name.contains(part)) {
                fs::remove_file(&file).expect("removed");
                removed += 1;
            }
        }
        assert!(removed >= gone.len(), "{gone:?}");
        node = cluster.start(0);
        is_done(settings, gone[0]);
        wait_for("a leader", || node.is_leader());
        has(&node, 1);
    }
    stopped(node);
}

#[test]
fn a_replay_of_the_journal_ends_when_it_is_told_to() {
    let cluster = Cluster::new(1);
    let settings = &cluster.settings[0];
    let node = cluster.start(0);
    wait_for("a leader", || node.is_leader());
    // The journal says of the last one only later that it is chosen.
    for number in 0..5 {
        put(&node, number);
    }
    stopped(node);
    // All of it is to be made anew from the journal.
    fs::remove_dir_all(mark(settings, "state")).expect("removed");
    let told = AtomicBool::new(true);
    let ended = Node::start_unless(settings, &told).expect_err("it was told to stop");
    assert!(matches!(ended, StartError::Stopped), "{ended}");
    is_done(settings, "stopped");
    let node = cluster.start(0);
    has(&node, 5);
    stopped(node);
}

/// Small files, and everything is read all the time.
fn scrubbed() -> String {
    format!("{SMALL}[scrub]\ninterval_s = 1\nrate_bytes_per_s = 68719476736\n")
}

fn tables(of: &Settings) -> Vec<PathBuf> {
    let states = states(of);
    let state = states.iter().max().expect("a state");
    let entries = fs::read_dir(of.data_dir.join(state)).expect("a state");
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect()
}

/// In place, as a disk would. A file that the state does not need any more may be gone.
fn put_bytes(path: &Path, bytes: &[u8]) {
    if let Ok(mut file) = File::options().write(true).open(path) {
        file.write_all(bytes).expect("written");
    }
}

/// What a node tells of damage of a part.
fn damage_told(node: &Node, part: &str) -> Value {
    let damage = status(node, "damage");
    let mut damages = damage.as_array().into_iter().flatten();
    damages.find(|damage| damage["part"] == part).cloned().unwrap_or_default()
}

fn tells(damage: &Value, what: &str) -> bool {
    damage["what"].as_str().is_some_and(|told| told.contains(what))
}

/// Keys whose values do not compress, so that most of a file is values.
const NOISE: u32 = 100;

fn noise(number: u32) -> String {
    let mut random = u64::from(number) + 1;
    let word = || {
        // Xorshift: any bits do that are not the same.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        format!("{random:016x}")
    };
    std::iter::repeat_with(word).take(60).collect()
}

/// Nobody else has a state: a node with a damaged block is of more use than none.
#[test]
fn a_damaged_block_that_nobody_can_replace_stops_no_node() {
    let cluster = Cluster::with(1, &scrubbed());
    let settings = &cluster.settings[0];
    let node = cluster.start(0);
    let filled = fill(&node, &[]);
    for number in 0..NOISE {
        let target = format!("/v1/kv/noise-{number}");
        assert_eq!(request(node.client_addr(), "PUT", &target, &noise(number)).status, 201);
    }
    stopped(node);
    let (table, whole) = rot_one_bit(settings);
    // What a node with peers would have found and told is in its folder still.
    let rebuild = mark(settings, "REBUILD");
    fs::write(&rebuild, DOUBT).expect("written");
    fs::write(mark(settings, "SUSPECT"), b"").expect("written");
    let node = cluster.start(0);
    assert!(rebuild.exists() && !mark(settings, "SUSPECT").exists());
    wait_for("it leads", || node.is_leader());
    wait_for("the block is found", || tells(&damage_told(&node, "state"), "Corruption"));
    assert!(damage_told(&node, "state")["mended_at_s"].is_null());
    assert!(rebuild.exists(), "it is doubted no more");
    let slot = |field| status(&node, field).as_u64().expect("a slot");
    let (truncated, durable) = (slot("truncated_slot"), slot("durable_slot"));
    for number in 0..200 {
        // Behind all others, where no block is damaged.
        let target = format!("/v1/kv/zz-{number}");
        let put = request(node.client_addr(), "PUT", &target, &"v".repeat(1_000));
        assert_eq!(put.status, 201, "{put:?}");
    }
    let read = |key: String, value: String| {
        let get = request(node.client_addr(), "GET", &format!("/v1/kv/{key}"), "");
        assert!([200, 500].contains(&get.status), "{get:?}");
        (get.status == 200).then(|| assert_eq!(get.body, value)).is_some()
    };
    // The block holds some of the ones or of the others: nobody knows how many there are.
    let ones = (0..filled).map(|number| (format!("key-{number}"), "v".repeat(1_000)));
    let others = (0..NOISE).map(|number| (format!("noise-{number}"), noise(number)));
    let (told, kept): (Vec<_>, Vec<_>) =
        ones.chain(others).partition(|(key, value)| read(key.clone(), value.clone()));
    assert!(!told.is_empty() && !kept.is_empty(), "{} and {}", told.len(), kept.len());
    // What went into the state meanwhile is not there for sure: the journal keeps it.
    wait_for("what is durable is told", || slot("durable_slot") > durable);
    assert_eq!(slot("truncated_slot"), truncated);
    // What was read to its end without damage is not doubted any more.
    put_bytes(&table, &whole);
    wait_for("the doubt is gone", || !rebuild.exists());
    wait_for("that is told", || damage_told(&node, "state")["mended_at_s"].is_u64());
    wait_for("the journal is cut again", || slot("truncated_slot") > truncated);
    stopped(node);
    assert!(states(settings) == ["state"] && !mark(settings, "WHOLE").exists());
}

/// Flips one bit of the state, of which all is in one file then, that is not soon compacted again:
/// that would end the node. Answers the file, and what was in it.
fn rot_one_bit(settings: &Settings) -> (PathBuf, Vec<u8>) {
    let state = settings.data_dir.join("state");
    Store::open(&state, &StoreOptions::default()).expect("opens").compact();
    let tables = tables(settings);
    let [table] = &tables[..] else { panic!("{tables:?}") };
    let whole = fs::read(table).expect("readable");
    let mut bytes = whole.clone();
    bytes[whole.len() / 3] ^= 1;
    put_bytes(table, &bytes);
    (table.clone(), whole)
}

/// The others would give it a state, when its turn comes. Until then nobody shall wonder.
#[test]
fn damage_that_a_read_meets_is_told_before_the_node_ends() {
    let cluster = Cluster::with(3, SMALL);
    let nodes = cluster.start_all();
    wait_for("a leader", || nodes.iter().any(Node::is_leader));
    let leader = nodes.iter().find(|node| node.is_leader()).expect("one leads");
    for number in 0..NOISE {
        let target = format!("/v1/kv/noise-{number}");
        assert_eq!(request(leader.client_addr(), "PUT", &target, &noise(number)).status, 201);
    }
    let applied = |node| status(node, "applied_slot");
    wait_for("equal states", || nodes.iter().all(|node| applied(node) == applied(leader)));
    nodes.into_iter().for_each(stopped);
    rot_one_bit(&cluster.settings[2]);
    let suspect = mark(&cluster.settings[2], "SUSPECT");
    let nodes = cluster.start_all();
    let hit = &nodes[2];
    wait_for("a leader", || hit.is_leader() || status(hit, "leader").is_object());
    assert!(damage_told(hit, "state").is_null() && !suspect.exists());
    let read = |number| {
        let target = format!("/v1/kv/noise-{number}?consistency=stale");
        request(hit.client_addr(), "GET", &target, "").status
    };
    assert!((0..NOISE).any(|number| read(number) == 500), "nothing is damaged");
    let told = damage_told(hit, "state");
    assert!(tells(&told, "Corruption") && told["mended_at_s"].is_null(), "{told}");
    assert!(told["found_at_s"].is_u64() && suspect.exists(), "{told}");
    nodes.into_iter().for_each(stopped);
}

/// Nobody gave it another state before, and it met the damage again: it does not wait for minutes
/// each time, but less long at first.
#[test]
fn a_node_that_nobody_could_help_does_not_wait_for_long_the_next_time() {
    let cluster = Cluster::with(2, SMALL);
    let settings = &cluster.settings[0];
    let mut nodes = cluster.start_all();
    let other = nodes.pop().expect("two");
    let node = nodes.pop().expect("two");
    fill(&node, std::slice::from_ref(&other));
    stopped(node);
    stopped(other);
    let (rebuild, unreplaced) = (mark(settings, "REBUILD"), mark(settings, "UNREPLACED"));
    fs::write(&rebuild, DOUBT).expect("written");
    // Whole as it is, it is not read again.
    fs::write(&unreplaced, "1\n").expect("written");
    let node = cluster.start(0);
    assert!(rebuild.exists());
    assert_eq!(fs::read_to_string(&unreplaced).expect("readable"), "2\n");
    stopped(node);
    // Another state, and nothing of that is left.
    let other = cluster.start(1);
    let node = cluster.start(0);
    assert!(!rebuild.exists() && !unreplaced.exists());
    stopped(node);
    stopped(other);
}

#[test]
fn a_state_that_was_found_whole_is_read_again_when_years_later_it_is_doubted() {
    let cluster = Cluster::with(1, &scrubbed());
    let whole = mark(&cluster.settings[0], "WHOLE");
    fs::write(&whole, b"").expect("written");
    let node = cluster.start(0);
    wait_for("all was read", || !whole.exists());
    stopped(node);
}

/// A disk that lied lost the end of the journal, and a block of the state: another state would
/// hide that a promise may be gone.
#[test]
fn a_journal_that_lost_its_end_is_told_before_the_state_goes() {
    let cluster = Cluster::with(1, SMALL);
    let settings = &cluster.settings[0];
    let journal = settings.data_dir.join("journal");
    stopped(cluster.start(0));
    let before = segments(settings);
    let node = cluster.start(0);
    wait_for("a leader", || node.is_leader());
    (0..3).for_each(|number| put(&node, number));
    stopped(node);
    fs::remove_dir_all(&journal).expect("removed");
    fs::create_dir(&journal).expect("made");
    for (path, bytes) in &before {
        fs::write(path, bytes).expect("written");
    }
    let sign = sign(settings);
    for reason in ["", DOUBT] {
        fs::write(mark(settings, "REBUILD"), reason).expect("written");
        // A doubt that is none would end before anything is replaced.
        fs::write(mark(settings, "WHOLE"), b"").expect("written");
        let refused = Node::start(settings).expect_err("it must not vote").to_string();
        assert!(refused.contains("the journal lost what it had acknowledged"), "{refused}");
        assert!(sign.exists() && mark(settings, "REBUILD").exists());
    }
}

/// The file that is written: a start would refuse it while nothing follows. Its header, and what
/// was written into it, of which nobody would read anything until it is full.
#[test]
fn a_damaged_newest_file_of_the_journal_costs_no_vote() {
    for at in [20, 600] {
        let cluster = Cluster::with(1, &scrubbed());
        let settings = &cluster.settings[0];
        let node = cluster.start(0);
        let mut written = fill(&node, &[]);
        // A reading may have ended the file just now.
        put(&node, written);
        written += 1;
        let holding = |(_, bytes): &(PathBuf, Vec<u8>)| bytes[at..].iter().any(|byte| *byte != 0);
        let (newest, mut bytes) = segments(settings).into_iter().rfind(holding).expect("one");
        bytes.truncate(at + 1);
        bytes[at] ^= 1;
        put_bytes(&newest, &bytes);
        let told = |node: &Node| damage_told(node, "journal");
        wait_for("it is damage as any other", || tells(&told(&node), "journal is damaged: "));
        assert!(told(&node)["mended_at_s"].is_null());
        stopped(node);
        let node = cluster.start(0);
        assert!(!newest.exists());
        assert!(tells(&told(&node), "journal is damaged: ") && told(&node)["mended_at_s"].is_u64());
        wait_for("a leader", || node.is_leader());
        has(&node, written);
        put(&node, written);
        stopped(node);
    }
}
