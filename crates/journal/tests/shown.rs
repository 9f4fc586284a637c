//! What a damaged journal still shows as chosen: never anything else than what was chosen, and
//! of everything whose record is whole all but what the damage may have changed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use synod_journal::{ClusterId, Journal, JournalOptions, OpenError, Shown};
use synod_paxos::{Ballot, NodeId, Record, RecordBody, Slot, Value};

const CLUSTER: ClusterId = ClusterId(79);
const SMALL: JournalOptions = JournalOptions { segment_bytes: 4096, format: 1 };
const SLOTS: u64 = 40;
/// A slot is known as chosen when this many later ones were accepted.
const BEHIND: u64 = 3;

fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(1) }
}

fn value(slot: u64, round: u64) -> Value {
    let byte = u8::try_from(slot * 4 + round % 4).unwrap();
    Value::Batch(Bytes::from(vec![byte; 300]))
}

/// Each slot is accepted in a ballot that loses; then every third one is accepted again, in the
/// next ballot, and every fifth one is learnt as chosen, both with another value. The rest was right
/// at first. Two records are synced at a time.
fn written(dir: &Path) -> BTreeMap<u64, Value> {
    Journal::create(dir, CLUSTER).unwrap();
    let mut journal = Journal::open(dir, CLUSTER, &SMALL).unwrap().journal;
    let mut truth = BTreeMap::new();
    for slot in 1..=SLOTS + BEHIND {
        let (promised, chosen_upto) = (ballot(2), Slot(slot.saturating_sub(BEHIND + 1)));
        let mut append = |body| {
            journal.append(&[Record { promised, chosen_upto, body }]).unwrap();
        };
        let accepted = |slot, round| RecordBody::Accepted {
            slot: Slot(slot),
            ballot: ballot(round),
            value: value(slot, round),
        };
        append(accepted(slot, 1));
        truth.insert(slot, value(slot, 1));
        if let Some(again) = slot.checked_sub(BEHIND - 1).filter(|slot| *slot > 0) {
            if again % 5 == 0 {
                append(RecordBody::Chosen { slot: Slot(again), value: value(again, 3) });
                truth.insert(again, value(again, 3));
            } else if again % 3 == 0 {
                append(accepted(again, 2));
                truth.insert(again, value(again, 2));
            }
        }
        if slot % 2 == 0 {
            journal.sync().unwrap();
        }
    }
    journal.sync().unwrap();
    journal.seal().unwrap();
    truth
}

/// Which slots are shown. Each of them is what was chosen.
fn shown(dir: &Path, truth: &BTreeMap<u64, Value>) -> Vec<u64> {
    let shown = Shown::read(dir, CLUSTER).unwrap();
    let is_shown = |slot: &u64| {
        let slot = Slot(*slot);
        let found = shown.values(slot, slot, usize::MAX);
        assert!(found.is_empty() || found == [truth[&slot.0].clone()], "{slot}: {found:?}");
        !found.is_empty()
    };
    (1..=SLOTS + BEHIND).filter(is_shown).collect()
}

fn segments(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let segments = entries.filter(|path| path.extension().is_some_and(|end| end == "seg"));
    let read = segments.map(|path| (path.clone(), std::fs::read(path).unwrap()));
    let mut used: Vec<_> = read.filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)).collect();
    used.sort();
    used
}

#[test]
fn a_whole_journal_shows_all_that_it_knows_as_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    let truth = written(&dir);
    let inspected = Journal::inspect(&dir, CLUSTER).unwrap().recovered;
    assert_eq!(inspected.chosen_upto, Slot(SLOTS - 1));
    // The last learnt one is above the watermark.
    let last = (SLOTS..=SLOTS + 1).find(|slot| slot % 5 == 0);
    let known: Vec<u64> = (1..SLOTS).chain(last).collect();
    assert_eq!(shown(&dir, &truth), known);
    let shown = Shown::read(&dir, CLUSTER).unwrap();
    let all: Vec<Value> = (1..SLOTS).map(|slot| truth[&slot].clone()).collect();
    assert_eq!(shown.values(Slot(1), Slot(SLOTS - 1), usize::MAX), all);
    assert_eq!(shown.values(Slot(1), Slot(SLOTS - 1), 400).len(), 2);
    assert!(shown.values(Slot(SLOTS + 9), Slot(u64::MAX), usize::MAX).is_empty());
    assert_eq!((shown.next_after(Slot(3)), shown.next_after(Slot(SLOTS))), (Some(Slot(4)), None));
    // Whoever has it open to write may change it.
    let _open = shown;
    assert!(matches!(Journal::open(&dir, CLUSTER, &SMALL), Err(OpenError::InUse(_))));
}

/// One byte is lost, anywhere: that costs what stood there, and no more than what was not known
/// as chosen yet at that place if it is not known what stood there.
#[test]
fn one_lost_byte_costs_what_it_may_have_changed_and_tells_nothing_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    let truth = written(&dir);
    let all = shown(&dir, &truth).len();
    let mut costs = BTreeMap::new();
    for (path, bytes) in segments(&dir) {
        for at in (0..bytes.len()).step_by(97) {
            let mut lost = bytes.clone();
            lost[at] ^= 0x55;
            std::fs::write(&path, lost).unwrap();
            *costs.entry(all - shown(&dir, &truth).len()).or_insert(0) += 1;
        }
        std::fs::write(&path, bytes).unwrap();
    }
    // A sector may hold parts of two records; a segment's header is all that tells of it.
    assert!(costs[&1] > 20 && costs[&0] > 20, "{costs:?}");
    let most: usize = costs.iter().filter(|(cost, _)| **cost > 4).map(|(_, count)| *count).sum();
    assert!(most * 5 < costs.values().sum(), "{costs:?}");
}

/// Two places at once, so that copies of headers are hit too.
#[test]
fn two_lost_sectors_tell_nothing_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    let truth = written(&dir);
    let mut seed = 79_usize;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (files, mut least) = (segments(&dir), usize::MAX);
    for _ in 0..300 {
        let mut lost = files.clone();
        for _ in 0..2 {
            let (_, bytes) = &mut lost[random(files.len())];
            let at = random(bytes.len() / 512) * 512;
            bytes[at..at + 512].fill(0x55);
        }
        lost.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
        least = least.min(shown(&dir, &truth).len());
    }
    assert!((5..35).contains(&least), "{least}");
}

/// Whoever waits for it may be told to stop meanwhile.
#[test]
fn a_reading_ends_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let truth = written(folder.path());
    let stop = Arc::new(AtomicBool::new(false));
    let whole = Shown::read_until(folder.path(), CLUSTER, Arc::clone(&stop)).unwrap();
    let first = *truth.keys().next().unwrap();
    assert_eq!(whole.values(Slot(first), Slot(first), 1), [truth[&first].clone()]);
    drop(whole);
    stop.store(true, Relaxed);
    let told = Shown::read_until(folder.path(), CLUSTER, stop).unwrap_err();
    assert!(told.to_string().contains("told to stop"), "{told}");
    // Nothing is kept from anybody.
    Journal::open(folder.path(), CLUSTER, &SMALL).unwrap();
}
