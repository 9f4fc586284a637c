//! What is left of a journal: all of a whole one, and of a damaged one what is certain.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use synod_journal::{ClusterId, Journal, JournalOptions, OpenError, Remains};
use synod_paxos::{Ballot, NodeId, Record, RecordBody, Slot, Value};

const CLUSTER: ClusterId = ClusterId(77);
const SMALL: JournalOptions = JournalOptions { segment_bytes: 4096, format: 1 };
/// Slots in the journal; each is known as chosen two slots later.
const SLOTS: u64 = 20;

fn value(slot: u64) -> Value {
    Value::Batch(Bytes::from(vec![u8::try_from(slot).unwrap(); 600]))
}

/// A journal of several segments.
fn written(dir: &Path) {
    Journal::create(dir, CLUSTER).unwrap();
    let mut journal = Journal::open(dir, CLUSTER, &SMALL).unwrap().journal;
    for slot in 1..=SLOTS {
        let ballot = Ballot { round: 1, node: NodeId(1) };
        let body = RecordBody::Accepted { slot: Slot(slot), ballot, value: value(slot) };
        let chosen_upto = Slot(slot.saturating_sub(2));
        journal.append(&[Record { promised: ballot, chosen_upto, body }]).unwrap();
        journal.sync().unwrap();
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<PathBuf> = entries.filter(|path| path.extension().is_some()).collect();
    segments.sort();
    segments
}

/// The last slot up to which it has every value, each of which must be the right one.
fn last(remains: &Remains, applied: u64) -> u64 {
    let mut last = applied;
    while let Some(found) = remains.value(Slot(last + 1)).unwrap() {
        last += 1;
        assert_eq!(found, value(last));
    }
    last
}

#[test]
fn a_whole_journal_is_there_with_its_open_slots() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    written(&dir);
    std::fs::remove_file(dir.join("LOCK")).unwrap();
    let remains = Remains::read(&dir, CLUSTER, Slot(0)).unwrap();
    assert_eq!((remains.damage(), last(&remains, 0)), (None, SLOTS));
    assert_eq!((remains.chosen_upto(), remains.told_upto()), (Slot(SLOTS - 2), Slot(SLOTS)));
    assert_eq!(remains.open_slots().collect::<Vec<_>>(), [Slot(SLOTS - 1), Slot(SLOTS)]);
    assert!(!dir.join("LOCK").exists(), "nothing is changed");
}

/// A byte of each segment is flipped in turn, wherever it is in use.
#[test]
fn of_a_damaged_journal_what_comes_before_the_damage_is_there_at_least() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    written(&dir);
    let (mut damaged, mut least) = (0, 0);
    for segment in &segments(&dir) {
        let whole = std::fs::read(segment).unwrap();
        for at in (0..whole.len()).step_by(97) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            std::fs::write(segment, &bytes).unwrap();
            let remains = Remains::read(&dir, CLUSTER, Slot(0)).unwrap();
            let found = last(&remains, 0);
            // What was open where the damage begins may be another value by its end.
            assert!(found + 2 >= least, "{found} at {at} of {segment:?}, and {least} before it");
            match remains.damage() {
                None => assert_eq!(found, SLOTS, "nobody noticed {at} of {segment:?}"),
                Some(_) => damaged += 1,
            }
            // Some damage, to a footer for example, hits nothing that is needed.
            least = if found < SLOTS { found.max(least) } else { least };
        }
        std::fs::write(segment, &whole).unwrap();
    }
    assert!(damaged > 20 && least == SLOTS - 1, "{damaged} {least}");
}

/// A journal in which slot 1 was accepted twice, as the values 1 and 99, and slots to 10 too. What
/// it knows as chosen is told where slots 11 to 20 were accepted.
fn written_twice(dir: &Path) -> impl Fn() -> Remains {
    Journal::create(dir, CLUSTER).unwrap();
    let mut journal = Journal::open(dir, CLUSTER, &SMALL).unwrap().journal;
    let mut accept = |slot, round, value, chosen_upto| {
        let ballot = Ballot { round, node: NodeId(1) };
        let body = RecordBody::Accepted { slot: Slot(slot), ballot, value };
        let chosen_upto = Slot(chosen_upto);
        journal.append(&[Record { promised: ballot, chosen_upto, body }]).unwrap();
        journal.sync().unwrap();
    };
    (1..=10).for_each(|slot| accept(slot, 1, value(slot), 0));
    accept(1, 2, value(99), 0);
    (2..=10).for_each(|slot| accept(slot, 2, value(slot), 0));
    (11..=SLOTS).for_each(|slot| accept(slot, 2, value(slot), 10));
    drop(journal);
    let dir = dir.to_owned();
    move || Remains::read(&dir, CLUSTER, Slot(0)).unwrap()
}

/// Flips a byte of the value that stands first of those made of this byte, 100 times.
fn hit(dir: &Path, made_of: u8) {
    let found = |segment: &PathBuf| {
        let bytes = std::fs::read(segment).unwrap();
        bytes.windows(100).position(|window| *window == [made_of; 100])
    };
    let segments = segments(dir);
    let hit = segments.iter().find(|segment| found(segment).is_some()).unwrap();
    let mut bytes = std::fs::read(hit).unwrap();
    bytes[found(hit).unwrap()] ^= 1;
    std::fs::write(hit, bytes).unwrap();
}

/// The record that counts of a slot is damaged: an earlier one must not be taken for it, for it is
/// known that one of them was chosen.
#[test]
fn a_slot_whose_chosen_value_is_lost_ends_what_counts() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    let read = written_twice(&dir);
    assert_eq!(read().value(Slot(1)).unwrap(), Some(value(99)));
    hit(&dir, 99);
    let remains = read();
    assert!(remains.damage().is_some());
    assert_eq!((remains.chosen_upto(), remains.value(Slot(1)).unwrap()), (Slot(0), None));
    assert_eq!((remains.open_slots().count(), remains.told_upto()), (0, Slot(SLOTS)));
}

/// The damage is older than all that counts: what is chosen stands behind it.
#[test]
fn what_is_certain_behind_the_damage_counts() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    let read = written_twice(&dir);
    // The first acceptance of slot 5, which another one replaced.
    hit(&dir, 5);
    let remains = read();
    assert!(remains.damage().is_some());
    assert_eq!(remains.chosen_upto(), Slot(10));
    assert_eq!(remains.value(Slot(1)).unwrap(), Some(value(99)), "not the one before the damage");
    (2..=SLOTS).for_each(|slot| {
        assert_eq!(remains.value(Slot(slot)).unwrap(), Some(value(slot)));
    });
    assert!(remains.open_slots().eq((11..=SLOTS).map(Slot)));
}

/// What nothing says to be chosen counts by the highest ballot that is known.
#[test]
fn an_open_slot_counts_as_it_is_known_last() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    Journal::create(&dir, CLUSTER).unwrap();
    let mut journal = Journal::open(&dir, CLUSTER, &SMALL).unwrap().journal;
    for (slot, round, what) in [(1, 1, 1), (2, 1, 2), (3, 1, 3), (2, 2, 98), (1, 2, 99)] {
        let ballot = Ballot { round, node: NodeId(1) };
        let body = RecordBody::Accepted { slot: Slot(slot), ballot, value: value(what) };
        journal.append(&[Record { promised: ballot, chosen_upto: Slot(0), body }]).unwrap();
        journal.sync().unwrap();
    }
    journal.seal().unwrap();
    drop(journal);
    hit(&dir, 98);
    let remains = Remains::read(&dir, CLUSTER, Slot(0)).unwrap();
    assert!(remains.damage().is_some() && remains.chosen_upto() == Slot(0));
    let found = |slot| remains.value(Slot(slot)).unwrap();
    // The record of slot 2 that counts is known by its header, and its value is lost.
    assert_eq!((found(1), found(2), found(3)), (Some(value(99)), None, Some(value(3))));
}

/// A journal in which slots 1 to 6 were accepted in one ballot and slot 1 and 2 in the next one too, as
/// 99 and 98; nothing is known as chosen. The groups of the second ballot follow each other, and that
/// of slot 7 may follow them.
fn written_anew(dir: &Path, is_followed: bool) {
    Journal::create(dir, CLUSTER).unwrap();
    let options = JournalOptions { segment_bytes: 65_536, format: 1 };
    let mut journal = Journal::open(dir, CLUSTER, &options).unwrap().journal;
    let mut accept = |slot, round, what| {
        let ballot = Ballot { round, node: NodeId(1) };
        let body = RecordBody::Accepted { slot: Slot(slot), ballot, value: value(what) };
        journal.append(&[Record { promised: ballot, chosen_upto: Slot(0), body }]).unwrap();
        journal.sync().unwrap();
    };
    (1..=6).for_each(|slot| accept(slot, 1, slot));
    accept(1, 2, 99);
    accept(2, 2, 98);
    if is_followed {
        accept(7, 2, 7);
        journal.seal().unwrap();
    }
}

/// Flips a byte of each sector of the group whose only value is made of this byte: what stands in
/// front of the value is its beginning. With `values` alone its headers stay whole.
fn lose_group(dir: &Path, made_of: u8, values: bool) {
    let path = segments(dir).into_iter().find(|path| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(100).any(|window| *window == [made_of; 100])
    });
    let path = path.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(100).position(|window| *window == [made_of; 100]).unwrap();
    let (first, last) = (at / 512, (at + 600) / 512);
    (first + usize::from(values)..=last).for_each(|sector| bytes[sector * 512 + 500] ^= 1);
    std::fs::write(path, bytes).unwrap();
}

/// What stands in two groups that follow each other nobody knows if both are lost: the second one
/// repeats the headers of the first. So each slot may have been accepted anew there.
#[test]
fn no_open_slot_counts_that_may_have_been_accepted_anew_in_what_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let found = |name: &str, is_followed, lost: &[(u8, bool)]| -> Vec<u64> {
        let dir = folder.path().join(name);
        written_anew(&dir, is_followed);
        lost.iter().for_each(|(made_of, values)| lose_group(&dir, *made_of, *values));
        let remains = Remains::read(&dir, CLUSTER, Slot(0)).unwrap();
        assert_eq!(remains.damage().is_some(), !lost.is_empty(), "{name}");
        assert_eq!(remains.chosen_upto(), Slot(0), "{name}");
        for slot in remains.open_slots() {
            let expected = [99, 98, 3, 4, 5, 6, 7][usize::try_from(slot.0).unwrap() - 1];
            assert_eq!(remains.value(slot).unwrap(), Some(value(expected)), "{name}: {slot}");
        }
        remains.open_slots().map(|slot| slot.0).collect()
    };
    assert_eq!(found("whole", true, &[]), [1, 2, 3, 4, 5, 6, 7]);
    // The next group tells what stood in one that is lost.
    assert_eq!(found("one", true, &[(99, false)]), [2, 3, 4, 5, 6, 7]);
    assert_eq!(found("two", true, &[(99, false), (98, false)]), [7]);
    // So does the group itself if its headers are whole.
    assert_eq!(found("values", true, &[(99, true), (98, false)]), [3, 4, 5, 6, 7]);
    // Behind the last group nothing tells it.
    assert!(found("end", false, &[(98, false)]).is_empty());
    assert_eq!(found("end-value", false, &[(98, true)]), [1, 3, 4, 5, 6]);
}

/// The file behind the last one that can be read is lost.
#[test]
fn no_open_slot_counts_before_a_file_that_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    written(&dir);
    let files = segments(&dir);
    let is_used = |path: &&PathBuf| std::fs::read(path).unwrap().iter().any(|byte| *byte != 0);
    let newest = files.iter().rfind(is_used).unwrap();
    let mut bytes = std::fs::read(newest).unwrap();
    let open = |what: &str| {
        let remains = Remains::read(&dir, CLUSTER, Slot(0)).unwrap();
        assert!(remains.damage().is_some(), "{what}");
        remains.open_slots().count()
    };
    bytes[0] ^= 1;
    std::fs::write(newest, &bytes).unwrap();
    assert_eq!(open("its header"), 0);
    std::fs::remove_file(newest).unwrap();
    assert_eq!(open("all of it"), 0);
}

#[test]
fn damage_in_what_is_applied_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    written(&dir);
    // The first segment holds nothing, so this is the one with the first slots.
    let second = &segments(&dir)[1];
    let mut bytes = std::fs::read(second).unwrap();
    bytes[700] ^= 1;
    std::fs::write(second, &bytes).unwrap();
    assert!(matches!(Journal::inspect(&dir, CLUSTER), Err(OpenError::Damaged(_))));
    let from = |applied| Remains::read(&dir, CLUSTER, Slot(applied)).unwrap();
    assert_eq!(last(&from(0), 0), 0);
    assert_eq!(last(&from(10), 10), SLOTS);
    assert!(from(0).told_upto() > Slot(10), "as later segments say");
}

#[test]
fn what_is_no_journal_of_ours_or_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    let read = |cluster| Remains::read(&dir, cluster, Slot(0));
    assert!(matches!(read(CLUSTER), Err(OpenError::Missing(_))));
    written(&dir);
    assert!(matches!(read(ClusterId(78)), Err(OpenError::WrongCluster { .. })));
    let journal = Journal::open(&dir, CLUSTER, &SMALL).unwrap().journal;
    assert!(matches!(read(CLUSTER), Err(OpenError::InUse(_))));
    drop(journal);
    read(CLUSTER).unwrap();
}
