//! Every byte of small journals is flipped, cut away and zeroed. What the journal then
//! answers is compared with what a second, naive reader of the format expects.

// Test data is small numbers.
#![allow(clippy::cast_possible_truncation)]

mod naive;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use naive::{Content, Files, Verdict};
use synod_journal::{ClusterId, Damage, Journal, JournalOptions, OpenError};
use synod_paxos::{Ballot, NodeId, Record, RecordBody, Recovered, Slot, Standing, Value};

const CLUSTER: ClusterId = ClusterId(0x1234_5678_9abc_def0_0fed_cba9_8765_4321);
const OPTIONS: JournalOptions = JournalOptions { segment_bytes: 3072, format: 1 };

fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(round as u32 % 3 + 1) }
}

fn batch(slot: u64, bytes: usize) -> Value {
    Value::Batch(Bytes::from(vec![slot as u8 + 1; bytes]))
}

fn promise(round: u64, chosen: u64) -> Record {
    Record { promised: ballot(round), chosen_upto: Slot(chosen), body: RecordBody::Promise }
}

fn accepted(round: u64, chosen: u64, slot: u64, value: Value) -> Record {
    let body = RecordBody::Accepted { slot: Slot(slot), ballot: ballot(round), value };
    Record { promised: ballot(round), chosen_upto: Slot(chosen), body }
}

fn chosen(round: u64, chosen: u64, slot: u64, value: Value) -> Record {
    let body = RecordBody::Chosen { slot: Slot(slot), value };
    Record { promised: ballot(round), chosen_upto: Slot(chosen), body }
}

fn open(dir: &Path) -> Journal {
    Journal::open(dir, CLUSTER, &OPTIONS).unwrap().journal
}

fn group(journal: &mut Journal, records: &[Record]) {
    journal.append(records).unwrap();
    journal.sync().unwrap();
}

/// A journal of several lives and segments, some dropped, with every kind of record.
fn grow(dir: &Path) {
    Journal::create(dir, CLUSTER).unwrap();
    let mut journal = open(dir);
    group(&mut journal, &[promise(1, 0)]);
    group(&mut journal, &[accepted(1, 0, 1, batch(1, 700)), accepted(1, 0, 2, Value::Noop)]);
    group(&mut journal, &[accepted(1, 1, 3, batch(3, 1200))]);
    journal.seal().unwrap();
    group(&mut journal, &[chosen(1, 4, 4, batch(4, 900))]);
    drop(journal);
    let mut journal = open(dir);
    group(&mut journal, &[accepted(2, 4, 5, batch(5, 10)), promise(3, 4)]);
    group(&mut journal, &[accepted(3, 4, 6, batch(6, 1900)), accepted(3, 4, 7, batch(7, 400))]);
    group(&mut journal, &[accepted(4, 5, 7, batch(77, 401))]);
    journal.truncate(Slot(3)).unwrap();
    group(&mut journal, &[accepted(4, 6, 9, batch(9, 30)), chosen(4, 6, 10, Value::Noop)]);
}

/// A last segment with two sealed groups and one of several sectors that is not.
fn grow_unsealed_end(dir: &Path) {
    grow(dir);
    let mut journal = open(dir);
    group(&mut journal, &[promise(5, 6)]);
    group(&mut journal, &[accepted(5, 6, 8, batch(8, 300)), accepted(5, 7, 11, batch(11, 500))]);
    group(&mut journal, &[accepted(6, 8, 12, batch(12, 600)), accepted(6, 8, 13, batch(13, 300))]);
}

fn grow_sealed_end(dir: &Path) {
    grow_unsealed_end(dir);
    let mut journal = open(dir);
    group(&mut journal, &[accepted(7, 9, 14, batch(14, 900))]);
    journal.seal().unwrap();
}

struct Case {
    _folder: tempfile::TempDir,
    dir: PathBuf,
    files: Files,
    /// As they were written.
    pristine: Files,
}

impl Case {
    fn new(grow: fn(&Path)) -> Case {
        let folder = scratch();
        let dir = folder.path().join("journal");
        grow(&dir);
        let files = read_files(&dir);
        Case { _folder: folder, dir, pristine: files.clone(), files }
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.dir.join(format!("{segment:016}.seg"))
    }

    /// Puts `bytes` in place of a segment, compares the answers, and puts it back.
    fn with(&mut self, segment: u64, bytes: Vec<u8>, what: &str) -> Verdict {
        self.put(segment, &bytes);
        let pristine = self.files.insert(segment, bytes).unwrap();
        let verdict = self.compare(what);
        self.put(segment, &pristine);
        self.files.insert(segment, pristine);
        verdict
    }

    /// Overwrites a segment in place, which is cheaper than to make it anew.
    fn put(&self, segment: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.path(segment)).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    }

    fn compare(&self, what: &str) -> Verdict {
        let expected = naive::read(&self.files, CLUSTER.0);
        let answer = Journal::inspect(&self.dir, CLUSTER);
        let damage_at = |damage: &Damage| {
            let name = damage.file.file_stem().unwrap().to_str().unwrap();
            let segment = name.parse::<u64>().unwrap();
            self.check_record(segment, damage, what);
            (segment, damage.offset)
        };
        match (&expected, &answer) {
            (Verdict::Content(content), Ok(found)) => {
                assert_eq!(found.incarnation, content.incarnation, "{what}");
                assert_eq!(found.torn_tail, content.torn, "{what}");
                assert_same(&found.recovered, content, what);
            }
            (Verdict::Damaged { segment, offset }, Err(OpenError::Damaged(damage)))
            | (
                Verdict::PromiseNotProvable { segment, offset },
                Err(OpenError::PromiseNotProvable(damage)),
            ) => assert_eq!(damage_at(damage), (*segment, *offset), "{what}"),
            (Verdict::Missing, Err(OpenError::Missing(_)))
            | (Verdict::WrongCluster, Err(OpenError::WrongCluster { .. }))
            | (Verdict::Version, Err(OpenError::Version { .. })) => {}
            _ => panic!("{what}: expected {expected:?}, got {answer:?}"),
        }
        expected
    }

    /// The record that is named is the first one that is hit, and there is a name
    /// whenever a later group of the segment repeats it.
    fn check_record(&self, segment: u64, damage: &Damage, what: &str) {
        // A segment that nobody wrote can only be missing.
        let Some(pristine) = self.pristine.get(&segment) else { return };
        let hit = naive::record_hit(pristine, CLUSTER.0, segment, damage.offset);
        // Where more is damaged than an empty group, the record is one of a later group.
        let is_flip = what.starts_with("flip");
        if let Some(position) = damage.position.filter(|_| is_flip || hit.is_some()) {
            assert_eq!(Some(position.0), hit.map(|hit| hit.position), "{what}: {damage}");
        }
        if is_flip && hit.is_some_and(|hit| hit.is_repeated) {
            assert!(damage.position.is_some(), "{what}: {damage}");
        }
    }

    /// Opens a copy of the folder for good, twice, and reads everything back.
    fn open_copy(&self, content: &Content, what: &str) {
        let copy = scratch();
        for (segment, bytes) in &self.files {
            let name = format!("{segment:016}.seg");
            std::fs::write(copy.path().join(name), bytes).unwrap();
        }
        for life in 1..=2 {
            let opened = Journal::open(copy.path(), CLUSTER, &OPTIONS).unwrap();
            assert_eq!(opened.incarnation, content.incarnation + life, "{what}");
            assert_same(&opened.recovered, content, what);
            let first = Slot(content.truncated_upto + 1);
            let last = Slot(u64::MAX);
            let values = opened.journal.read_chosen(first, last, usize::MAX).unwrap();
            let expected: Vec<_> = content.chosen.values().map(value).collect();
            assert_eq!(values[..expected.len()], expected, "{what}");
        }
    }
}

/// A folder in memory where there is one: nothing here depends on a real disk.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let in_memory = memory.is_dir().then(|| tempfile::tempdir_in(memory).ok()).flatten();
    in_memory.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

fn read_files(dir: &Path) -> Files {
    let mut files = Files::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            let number = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
            files.insert(number, std::fs::read(path).unwrap());
        }
    }
    files
}

fn value(bytes: &Option<Vec<u8>>) -> Value {
    bytes.clone().map_or(Value::Noop, |bytes| Value::Batch(Bytes::from(bytes)))
}

fn assert_same(recovered: &Recovered, content: &Content, what: &str) {
    let ballot = |(round, node)| Ballot { round, node: NodeId(node) };
    assert_eq!(recovered.promised, ballot(content.promised), "{what}");
    assert_eq!(recovered.chosen_upto, Slot(content.chosen_upto), "{what}");
    assert_eq!(recovered.truncated_upto, Slot(content.truncated_upto), "{what}");
    assert_eq!(recovered.position.0, content.position, "{what}");
    let found: Vec<_> = recovered
        .open
        .iter()
        .map(|open| (open.slot.0, open.standing, open.value.clone()))
        .collect();
    let standing =
        |at: &Option<_>| at.map_or(Standing::Chosen, |at| Standing::Accepted(ballot(at)));
    let open = content.open.iter().map(|(slot, (at, bytes))| (*slot, standing(at), value(bytes)));
    assert_eq!(found, open.collect::<Vec<_>>(), "{what}");
}

/// Counts of verdicts, so that a test shows that it saw what it is about.
#[derive(Default, Debug)]
struct Seen {
    same: u32,
    torn: u32,
    damaged: u32,
    not_provable: u32,
}

impl Seen {
    fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Content(content) if content.torn => self.torn += 1,
            Verdict::Content(_) => self.same += 1,
            Verdict::Damaged { .. } => self.damaged += 1,
            Verdict::PromiseNotProvable { .. } => self.not_provable += 1,
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn each_case() -> impl Iterator<Item = Case> {
    [grow as fn(&Path), grow_unsealed_end, grow_sealed_end].into_iter().map(Case::new)
}

/// All segments of one journal, and the last one in use of each other journal: what
/// comes before is the same in all of them.
fn each_segment(mut test: impl FnMut(&mut Case, u64, &[u8])) {
    for (number, mut case) in (0..).zip(each_case()) {
        let newest = last_used(&case.files).0;
        for (segment, pristine) in case.files.clone() {
            if number == 1 || segment == newest {
                test(&mut case, segment, &pristine);
            }
        }
    }
}

#[test]
fn flipping_any_byte_gives_what_the_naive_reader_expects() {
    let mut seen = Seen::default();
    each_segment(|case, segment, pristine| {
        assert!(matches!(case.compare("as written"), Verdict::Content(_)));
        for at in 0..pristine.len() {
            let mut bytes = pristine.to_vec();
            bytes[at] ^= 1 << (at % 8);
            seen.add(&case.with(segment, bytes, &format!("flip {at} of {segment}")));
        }
    });
    // A flip never looks like a torn tail.
    assert_eq!(seen.torn, 0);
    assert!(seen.same > 1000 && seen.damaged > 1000 && seen.not_provable > 1000, "{seen:?}");
}

#[test]
fn cutting_at_any_byte_gives_what_the_naive_reader_expects() {
    let mut seen = Seen::default();
    each_segment(|case, segment, pristine| {
        for at in 0..pristine.len() {
            let bytes = pristine[..at].to_vec();
            seen.add(&case.with(segment, bytes, &format!("cut {segment} at {at}")));
        }
    });
    // A segment has its length from the start, so a short file is no torn tail either.
    assert_eq!(seen.torn, 0);
    assert!(seen.damaged > 1000 && seen.not_provable > 1000, "{seen:?}");
}

#[test]
fn a_write_that_ends_at_any_byte_gives_what_the_naive_reader_expects() {
    let mut seen = Seen::default();
    let mut opened = BTreeMap::new();
    each_segment(|case, segment, pristine| {
        for at in 0..pristine.len() {
            let mut bytes = pristine.to_vec();
            bytes[at..].fill(0);
            let what = format!("zeros in {segment} from {at}");
            let verdict = case.with(segment, bytes.clone(), &what);
            seen.add(&verdict);
            if let Verdict::Content(content) = &verdict
                && opened.insert((segment, content.position, content.torn), at).is_none()
            {
                case.files.insert(segment, bytes);
                case.open_copy(content, &what);
                case.files.insert(segment, pristine.to_vec());
            }
        }
    });
    assert!(seen.torn > 0 && seen.same > 0, "{seen:?}");
    assert!(seen.damaged > 0 && seen.not_provable > 0, "{seen:?}");
}

#[test]
fn any_mix_of_written_and_unwritten_sectors_of_the_last_group_is_a_torn_tail() {
    let mut case = Case::new(grow_unsealed_end);
    let (segment, pristine) = last_used(&case.files);
    let kinds: Vec<_> = (0..)
        .zip(pristine.chunks(512))
        .map(|(at, sector)| naive::sector_kind(CLUSTER.0, segment, at, sector))
        .collect();
    let last = kinds.iter().skip(1).flatten().map(|(group, _)| *group).max().unwrap();
    let sectors: Vec<_> =
        (1..kinds.len()).filter(|at| kinds[*at].is_some_and(|(group, _)| group == last)).collect();
    assert!(sectors.len() >= 3);
    for written in 0..1_u32 << sectors.len() {
        let mut bytes = pristine.clone();
        for (bit, sector) in sectors.iter().enumerate() {
            if written & (1 << bit) == 0 {
                bytes[sector * 512..(sector + 1) * 512].fill(0);
            }
        }
        let what = format!("sectors {written:b} of the last group");
        let verdict = case.with(segment, bytes.clone(), &what);
        let Verdict::Content(content) = verdict else { panic!("{what}: {verdict:?}") };
        let complete = written + 1 == 1 << sectors.len();
        assert_eq!(content.torn, written != 0 && !complete);
        assert_eq!(content.promised.0, if complete { 6 } else { 5 });
        case.files.insert(segment, bytes);
        case.open_copy(&content, &what);
        case.files.insert(segment, pristine.clone());
    }
}

#[test]
fn a_sector_in_another_ones_place_is_noticed() {
    for mut case in each_case() {
        let files = case.files.clone();
        for (segment, pristine) in &files {
            for at in 0..pristine.len() / 512 {
                for from in 0..pristine.len() / 512 {
                    let mut bytes = pristine.clone();
                    bytes.copy_within(from * 512..(from + 1) * 512, at * 512);
                    let what = format!("sector {from} of {segment} over {at}");
                    case.with(*segment, bytes, &what);
                }
            }
            for (other, bytes) in files.iter().filter(|(other, _)| *other != segment) {
                let verdict =
                    case.with(*segment, bytes.clone(), &format!("{other} over {segment}"));
                let content = matches!(verdict, Verdict::Content(_));
                let unused = |number: &u64| *number > last_used(&files).0;
                assert!(!content || unused(other) || unused(segment), "{other} over {segment}");
            }
        }
    }
}

#[test]
fn a_lost_segment_is_noticed_unless_it_was_never_used() {
    for mut case in each_case() {
        let newest = last_used(&case.files).0;
        for (segment, pristine) in case.files.clone() {
            std::fs::remove_file(case.path(segment)).unwrap();
            case.files.remove(&segment);
            let verdict = case.compare(&format!("without {segment}"));
            assert_eq!(matches!(verdict, Verdict::Content(_)), segment > newest);
            std::fs::write(case.path(segment), &pristine).unwrap();
            case.files.insert(segment, pristine);
        }
    }
}

#[test]
fn damage_to_an_acknowledged_value_still_tells_its_slot_and_ballot() {
    let case = Case::new(grow_sealed_end);
    // Values are runs of one byte each, so they are found in the files.
    let slots =
        [(4, None), (6, Some(3)), (77, Some(4)), (8, Some(5)), (13, Some(6)), (14, Some(7))];
    let mut found = 0;
    for (segment, pristine) in case.files.clone() {
        for (mark, round) in slots {
            let run = [mark as u8 + 1; 60];
            let Some(at) = pristine.windows(60).position(|window| window == run) else { continue };
            let mut bytes = pristine.clone();
            bytes[at + 30] ^= 0x10;
            case.put(segment, &bytes);
            let answer = Journal::inspect(&case.dir, CLUSTER);
            case.put(segment, &pristine);
            let Err(OpenError::Damaged(damage)) = answer else { panic!("{mark}: {answer:?}") };
            let slot = if mark == 77 { 7 } else { mark };
            // The sector may be shared with the end of the record before.
            let named = damage.slot.unwrap();
            assert!(named == Slot(slot) || named == Slot(slot).prior(), "{mark}: {damage}");
            if named == Slot(slot) {
                assert_eq!(damage.ballot.map(|ballot| ballot.round), round, "{damage}");
            }
            assert!(damage.position.is_some());
            found += 1;
        }
    }
    assert_eq!(found, slots.len());
    case.compare("as written");
}

fn last_used(files: &Files) -> (u64, Vec<u8>) {
    let used = files.iter().rev().find(|(_, bytes)| bytes.iter().any(|byte| *byte != 0));
    let (segment, bytes) = used.unwrap();
    (*segment, bytes.clone())
}
