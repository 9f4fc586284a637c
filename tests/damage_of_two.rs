//! The files of two of three nodes are damaged at once, in different places: of everything
//! there is one good copy somewhere. Nothing wrong is told, nothing acknowledged is lost, and
//! all are well again without a hand.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use rustix::process::Signal;
use support::cluster::TestCluster;
use support::damage::{
    SCRUBBED, SMALL, cluster, data, equal, fill, newest, number, sealed, tables,
};
use support::wait::wait_until;
use support::writers::{Writers, value};

/// Between two bytes that are flipped in a file of the state.
const EVERY_BYTES: usize = 20_000;

/// Journals that keep some files.
fn with_some_files() -> String {
    SMALL
        .replace("tail_bytes_max = 0", "tail_bytes_max = 1048576")
        .replace("tail_ms_max = 0", "tail_ms_max = 3600000")
}

/// Journals that keep everything, and states of which nothing is in a file yet.
fn unflushed() -> String {
    with_some_files()
        .replace("write_buffer_bytes = 1048576", "write_buffer_bytes = 67108864")
        .replace("flush_interval_ms = 100", "flush_interval_ms = 3600000")
        .replace("tail_bytes_max = 1048576", "tail_bytes_max = 1073741824")
}

/// What stands where something else was written.
const LOST: u8 = 0x55;

/// Something is lost in each of these files, once or every so many bytes.
fn rot(paths: &[PathBuf], first: usize, every: usize) {
    assert!(!paths.is_empty(), "nothing is hit");
    for path in paths {
        let mut bytes = fs::read(path).expect("readable");
        assert!(bytes.len() > first, "{} is too short", path.display());
        for at in (first..bytes.len()).step_by(every) {
            bytes[at] = LOST;
        }
        fs::write(path, bytes).expect("written");
    }
}

/// Once in a full file of the journal.
fn rot_journal(paths: &[PathBuf]) {
    rot(paths, 20_000, usize::MAX);
}

/// Of everything in the state's files some is lost; `first` says which.
fn rot_state(cluster: &TestCluster, id: u32, first: usize) {
    rot(&tables(&data(cluster, id)), first, EVERY_BYTES);
}

fn kill(cluster: &mut TestCluster, ids: &[u32]) {
    for id in ids {
        cluster.kill(*id);
    }
}

/// Whoever reads is told what was written, or nothing.
fn tells_nothing_wrong(cluster: &TestCluster, id: u32) {
    for key in 0..200_u64 {
        let target = format!("/v1/kv/{key:08}?consistency=stale");
        if let Ok(found) = cluster.try_request(id, "GET", &target, &[], b"") {
            // Who is behind may not have it yet.
            let is_right = found.status != 200 || found.body == value(key);
            assert!(is_right, "key {key} at node {id}: {}", found.status);
        }
    }
}

/// Starts what ended again, and knows nothing.
fn supervise(cluster: &mut TestCluster, id: u32) {
    if cluster.has_ended(id) {
        cluster.wait_for_end(id);
        cluster.start_by_hand(id);
    }
}

/// Starts all of them, with nobody beside them but a supervisor that starts what ended, and
/// waits until they are well and these words were said.
fn come_back(cluster: &mut TestCluster, writers: &Writers, words: &[(u32, &str)]) {
    for id in 1..=3 {
        cluster.start_by_hand(id);
    }
    writers.during(cluster, &[1], |cluster| {
        wait_until("all serve", || {
            for id in 1..=3 {
                supervise(cluster, id);
                tells_nothing_wrong(cluster, id);
            }
            let is_said = |(id, words): &(u32, &str)| cluster.node_output(*id).contains(words);
            words.iter().all(is_said)
                && (1..=3).all(|id| {
                    let ready = cluster.try_request(id, "GET", "/readyz", &[], b"");
                    ready.is_ok_and(|ready| ready.status == 200)
                        && !data(cluster, id).join("REBUILD").exists()
                })
        });
    });
    are_well(cluster, writers);
}

fn are_well(cluster: &mut TestCluster, writers: &Writers) {
    wait_until("the states are equal", || equal(cluster, 1, 2) && equal(cluster, 1, 3));
    for id in 1..=3 {
        writers.check(cluster, id);
    }
    // The two that were hit can do without the one that was not.
    cluster.kill(1);
    let before = writers.count();
    wait_until("a write with their votes", || {
        writers.write_one(cluster, 2);
        writers.count() > before
    });
    writers.check(cluster, 3);
}

const TOOK_OVER: &str = "took the place of the other one";
const MENDED: &str = "the journal was damaged, and what was hit is in the state";
const FILLED: &str = "the state has all slots that the journal lost";
const LACKS: &str = "the journal is damaged in what the state lacks";

/// The last byte that was written into the newest file of a journal, but for the footer's.
fn written_upto(cluster: &TestCluster, id: u32) -> usize {
    let bytes = fs::read(newest(&data(cluster, id))).expect("readable");
    bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0)
}

/// One bit in the newest file of two journals: behind it nothing else stands, but what follows in the
/// file proves what was promised.
#[test]
fn two_whose_newest_files_are_hit_are_mended_without_a_hand() {
    let mut cluster =
        cluster(&with_some_files().replace("segment_bytes = 65536", "segment_bytes = 4194304"));
    let writers = Writers::default();
    writers.during(&mut cluster, &[1, 2, 3, 1], |cluster| {
        wait_until("much stands in the newest files", || {
            [2, 3].iter().all(|id| written_upto(cluster, *id) > 200_000)
        });
    });
    kill(&mut cluster, &[1, 2, 3]);
    for id in [2, 3] {
        let (path, at) = (newest(&data(&cluster, id)), written_upto(&cluster, id) / 2);
        let mut bytes = fs::read(&path).expect("readable");
        bytes[at] ^= 1;
        fs::write(path, bytes).expect("written");
    }
    come_back(&mut cluster, &writers, &[]);
    for id in [2, 3] {
        let said = cluster.node_output(id);
        assert!(said.contains(MENDED) || said.contains(LACKS), "node {id}: {said}");
    }
}

/// Journals and states of two are hit, and the third is whole.
#[test]
fn two_that_are_hit_everywhere_are_mended_by_the_third() {
    let mut cluster = cluster(&with_some_files());
    let writers = Writers::default();
    writers.during(&mut cluster, &[1, 2, 3, 1], |cluster| {
        wait_until("the journals are cut, and long", || {
            writers.count() > 500
                && cluster.ids().all(|id| number(cluster, id, "truncated_slot") > 0)
        });
    });
    wait_until("the states are equal", || equal(&cluster, 1, 2) && equal(&cluster, 1, 3));
    kill(&mut cluster, &[1, 2, 3]);
    let [two, three] = [2, 3].map(|id| sealed(&data(&cluster, id)));
    rot_journal(&two[..2]);
    rot_journal(&three[3..5]);
    rot_state(&cluster, 2, 1_000);
    rot_state(&cluster, 3, 11_000);
    come_back(&mut cluster, &writers, &[(2, TOOK_OVER), (3, TOOK_OVER)]);
}

/// The third was away for so long that its state helps nobody: what one of the two lost is
/// with the other.
#[test]
fn two_that_are_hit_in_different_places_are_mended_by_each_other() {
    let mut cluster = cluster(&with_some_files());
    let writers = Writers::default();
    for _ in 0..20 {
        writers.write_one(&cluster, 1);
    }
    wait_until("the states are equal", || equal(&cluster, 1, 2) && equal(&cluster, 1, 3));
    let away = number(&cluster, 1, "chosen_slot");
    cluster.kill(1);
    writers.during(&mut cluster, &[2, 3, 2], |cluster| {
        wait_until("the journals are cut, and long", || {
            writers.count() > 500
                && [2, 3].iter().all(|id| number(cluster, *id, "truncated_slot") > away + 1)
        });
    });
    wait_until("the states are equal", || equal(&cluster, 2, 3));
    kill(&mut cluster, &[2, 3]);
    rot_state(&cluster, 2, 1_000);
    rot_journal(&sealed(&data(&cluster, 3))[..4]);
    come_back(&mut cluster, &writers, &[(1, "switched to"), (2, TOOK_OVER), (3, MENDED)]);
}

/// Both lose some of their states' files while they run, and look for damage all the time.
#[test]
fn two_that_are_hit_while_they_run_are_mended_by_the_third() {
    let mut cluster = cluster(&format!("{SMALL}{SCRUBBED}"));
    let writers = Writers::default();
    fill(&mut cluster, &writers);
    assert!(cluster.stop().success());
    for id in 1..=3 {
        cluster.start_by_hand(id);
    }
    writers.during(&mut cluster, &[1], |cluster| {
        wait_until("both are mended", || {
            [(2, 1_000), (3, 11_000)].into_iter().fold(true, |all, (id, first)| {
                // A compaction that meets what was hit ends the process.
                supervise(cluster, id);
                tells_nothing_wrong(cluster, id);
                // What is hit may be gone before it is read.
                let is_mended = cluster.node_output(id).contains(TOOK_OVER);
                let is_known = |mark| data(cluster, id).join(mark).exists();
                if !is_mended && !is_known("REBUILD") && !is_known("SUSPECT") {
                    rot_in_place(cluster, id, first);
                }
                all && is_mended
            })
        });
    });
    are_well(&mut cluster, &writers);
}

/// As a disk would: the files are those that are open. Each may be gone the next moment.
fn rot_in_place(cluster: &TestCluster, id: u32, first: usize) {
    for table in tables(&data(cluster, id)) {
        let Ok(mut bytes) = fs::read(&table) else { continue };
        for at in (first..bytes.len()).step_by(EVERY_BYTES) {
            bytes[at] = LOST;
        }
        if let Ok(mut file) = File::options().write(true).open(&table) {
            let _ = file.write_all(&bytes);
        }
    }
}

/// What is hit in the journals is in no state's file of these nodes.
#[test]
fn two_that_lost_what_their_states_lack_are_mended_by_the_third() {
    let mut cluster = cluster(&unflushed());
    let writers = Writers::default();
    writers.during(&mut cluster, &[1, 2, 3, 1], |_| {
        wait_until("the journals are long", || writers.count() > 500);
    });
    wait_until("the states are equal", || equal(&cluster, 1, 2) && equal(&cluster, 1, 3));
    kill(&mut cluster, &[1, 2, 3]);
    let [two, three] = [2, 3].map(|id| sealed(&data(&cluster, id)));
    rot_journal(&two[..2]);
    rot_journal(&three[4..6]);
    let words = [(2, LACKS), (2, FILLED), (3, LACKS), (3, FILLED)];
    come_back(&mut cluster, &writers, &words);
}

/// What each of two lost only the journal of the other one has, and no state. `hit` damages the
/// journals of both. The third was away from the beginning.
fn only_journals_hold_it(hit: impl Fn(&[PathBuf], &[PathBuf])) -> (TestCluster, Writers) {
    let mut cluster = cluster(&unflushed());
    let writers = Writers::default();
    writers.write_one(&cluster, 1);
    wait_until("the states are equal", || equal(&cluster, 1, 2) && equal(&cluster, 1, 3));
    cluster.kill(1);
    writers.during(&mut cluster, &[2, 3, 2], |_| {
        wait_until("the journals are long", || writers.count() > 500);
    });
    kill(&mut cluster, &[2, 3]);
    let [two, three] = [2, 3].map(|id| sealed(&data(&cluster, id)));
    hit(&two, &three);
    (cluster, writers)
}

/// They give it to each other, slot by slot, while the third is dead; and again when it is there, and
/// knows nothing.
#[test]
fn what_no_state_holds_comes_from_the_journal_of_the_other_one() {
    let (mut cluster, writers) = only_journals_hold_it(|two, three| {
        rot_journal(&two[..2]);
        rot_journal(&three[4..6]);
    });
    for id in [2, 3] {
        cluster.start_by_hand(id);
    }
    // Wherever it dies on the way, it goes on from there.
    wait_until("it knows what it lacks", || cluster.node_output(2).contains(LACKS));
    cluster.kill(2);
    cluster.start_by_hand(2);
    let serves = |cluster: &TestCluster, id| {
        let ready = cluster.try_request(id, "GET", "/readyz", &[], b"");
        ready.is_ok_and(|ready| ready.status == 200)
    };
    wait_until("both serve", || {
        [2, 3].into_iter().fold(true, |all, id| {
            tells_nothing_wrong(&cluster, id);
            all && serves(&cluster, id)
        })
    });
    for id in [2, 3] {
        let said = cluster.node_output(id);
        assert!(said.contains(LACKS) && said.contains(MENDED), "{said}");
        assert!(!data(&cluster, id).join("REBUILD").exists());
        writers.check(&cluster, id);
    }
    assert!([2, 3].iter().any(|id| cluster.node_output(*id).contains(FILLED)));
    cluster.start_by_hand(1);
    writers.during(&mut cluster, &[2], |cluster| {
        wait_until("the third serves", || serves(cluster, 1));
    });
    are_well(&mut cluster, &writers);
}

/// Of some slots no good copy is left among those that can be asked: nothing is put in their
/// place, nothing goes, and nobody is told anything.
#[test]
fn what_both_lost_is_made_up_by_none_and_all_the_rest_is_kept() {
    let (mut cluster, _) = only_journals_hold_it(|two, three| {
        rot(&two[1..3], 600, 512);
        rot(&three[1..3], 600, 512);
    });
    let [two, three] = [2, 3].map(|id| sealed(&data(&cluster, id)));
    let content = |paths: &[PathBuf]| -> Vec<Vec<u8>> {
        paths.iter().map(|path| fs::read(path).expect("it is kept")).collect()
    };
    let before = [content(&two), content(&three)];
    for id in 1..=3 {
        cluster.start_by_hand(id);
    }
    wait_until("both ask the first, whose state helps nobody", || {
        [2, 3].iter().all(|id| {
            let said = cluster.node_output(*id);
            said.contains(LACKS) && said.contains("no snapshot from the peer")
        })
    });
    for id in 1..=3 {
        let ready = cluster.try_request(id, "GET", "/readyz", &[], b"");
        assert!(ready.is_err() || ready.is_ok_and(|ready| ready.status == 503), "node {id}");
    }
    for id in [2, 3] {
        cluster.signal(id, Signal::TERM);
        assert!(cluster.wait_for_end(id).success(), "{}", cluster.node_output(id));
        assert!(data(&cluster, id).join("REBUILD").exists());
    }
    assert!([content(&two), content(&three)] == before, "the journals are what they were");
}
