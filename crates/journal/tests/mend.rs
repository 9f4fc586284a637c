//! Damage in what is sealed: found while the journal is in use, and mended where the state
//! has what is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use synod_journal::{ClusterId, Journal, JournalOptions, OpenError, Shown};
use synod_paxos::{Ballot, NodeId, Record, RecordBody, Recovered, Slot, Value};

const CLUSTER: ClusterId = ClusterId(78);
const SMALL: JournalOptions = JournalOptions { segment_bytes: 4096, format: 1 };
const ALL: Slot = Slot(u64::MAX);

fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(1) }
}

fn value(slot: u64) -> Value {
    Value::Batch(Bytes::from(vec![u8::try_from(slot).unwrap(); 600]))
}

/// Appends values, each known as chosen two slots later, and a promise that rises.
fn append(journal: &mut Journal, slots: std::ops::RangeInclusive<u64>) {
    append_above(journal, Slot(0), slots);
}

/// The same when slots up to `chosen` are known as chosen already.
fn append_above(journal: &mut Journal, chosen: Slot, slots: std::ops::RangeInclusive<u64>) {
    for slot in slots {
        let round = 1 + slot / 3;
        let body =
            RecordBody::Accepted { slot: Slot(slot), ballot: ballot(round), value: value(slot) };
        let chosen_upto = chosen.max(Slot(slot.saturating_sub(2)));
        let promised = ballot(round);
        journal.append(&[Record { promised, chosen_upto, body }]).unwrap();
        journal.sync().unwrap();
    }
}

fn written(dir: &Path) {
    Journal::create(dir, CLUSTER).unwrap();
    append(&mut Journal::open(dir, CLUSTER, &SMALL).unwrap().journal, 1..=30);
}

fn image(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let segments = entries.filter(|path| path.extension().is_some_and(|end| end == "seg"));
    segments.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn put_back(dir: &Path, image: &BTreeMap<PathBuf, Vec<u8>>) {
    for path in self::image(dir).keys() {
        std::fs::remove_file(path).unwrap();
    }
    for (path, bytes) in image {
        std::fs::write(path, bytes).unwrap();
    }
}

fn is_used(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| *byte != 0)
}

/// What counts of an acceptor beside the slots that the state holds.
fn owed(of: &Recovered) -> (Ballot, Slot, Vec<(Slot, Value)>, u64) {
    let open = of.open.iter().map(|open| (open.slot, open.value.clone()));
    (of.promised, of.chosen_upto, open.collect(), of.position.0)
}

/// The same when all slots up to here are known as chosen: if that is new, a record says so.
fn owed_behind(of: &Recovered, upto: Slot) -> (Ballot, Slot, Vec<(Slot, Value)>, u64) {
    let (promised, chosen_upto, mut open, position) = owed(of);
    open.retain(|(slot, _)| *slot > upto);
    (promised, chosen_upto.max(upto), open, position + u64::from(upto > chosen_upto))
}

/// Bytes of every sealed segment are flipped, one at a time.
#[test]
fn damage_that_is_sealed_is_found_and_mended_and_nothing_owed_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    written(&dir);
    let whole = image(&dir);
    let used: Vec<&PathBuf> = whole.keys().filter(|path| is_used(&whole[*path])).collect();
    assert!(used.len() > 4, "{used:?}");
    let expected = Journal::inspect(&dir, CLUSTER).unwrap().recovered;
    assert_eq!(Journal::mend(&dir, CLUSTER, &SMALL, Slot(0)).unwrap(), None);
    let mut refused = 0;
    for (place, path) in used[..used.len() - 1].iter().enumerate() {
        for at in (0..whole[*path].len()).step_by(331) {
            put_back(&dir, &whole);
            let mut bytes = whole[*path].clone();
            bytes[at] ^= 0x10;
            std::fs::write(path, bytes).unwrap();
            let Err(OpenError::Damaged(_)) = Journal::inspect(&dir, CLUSTER) else {
                assert!(Journal::scrub(&dir, CLUSTER, |_| true).is_ok(), "unused: {path:?} {at}");
                continue;
            };
            assert!(Journal::scrub(&dir, CLUSTER, |_| true).is_err(), "{path:?} at {at}");
            let before = image(&dir);
            // The first file is the empty one that `create` made.
            let upto = if place == 0 {
                Slot(0)
            } else {
                let mended = Journal::mend(&dir, CLUSTER, &SMALL, Slot(0)).unwrap().unwrap();
                let less = Slot(mended.upto.0 - 1);
                assert!(!Journal::mend(&dir, CLUSTER, &SMALL, less).unwrap().unwrap().is_done);
                assert!(!mended.is_done && image(&dir) == before, "{path:?} at {at}");
                mended.upto
            };
            let mended = Journal::mend(&dir, CLUSTER, &SMALL, upto).unwrap().unwrap();
            assert!(mended.is_done && mended.upto == upto);
            assert_eq!(mended.damage.file, **path);
            let mut opened = Journal::open(&dir, CLUSTER, &SMALL).unwrap();
            assert_eq!(owed(&opened.recovered), owed_behind(&expected, upto));
            assert_eq!(opened.recovered.truncated_upto, mended.upto);
            assert!(used[..=place].iter().all(|gone| !gone.exists()));
            let (first, last) = (mended.upto.next(), expected.chosen_upto.max(mended.upto));
            let values = opened.journal.read_chosen(first, last, usize::MAX).unwrap();
            assert_eq!(values, (first.0..=last.0).map(value).collect::<Vec<_>>());
            append(&mut opened.journal, 31..=33);
            refused += 1;
        }
    }
    assert!(refused > 40, "{refused}");
}

/// Before a state that has it is there nothing goes, whatever is asked for how often, and
/// each look is a life that no other one is.
#[test]
fn a_look_behind_damage_drops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    written(&dir);
    let expected = Journal::inspect(&dir, CLUSTER).unwrap();
    let whole = image(&dir);
    let sealed = whole.keys().filter(|path| is_used(&whole[*path])).nth(3).unwrap();
    let mut bytes = whole[sealed].clone();
    bytes[700] ^= 1;
    std::fs::write(sealed, bytes).unwrap();
    let before = image(&dir);
    let newest = whole.iter().rfind(|(_, bytes)| is_used(bytes)).unwrap().0;
    let refused = Journal::mend(&dir, CLUSTER, &SMALL, Slot(0)).unwrap().unwrap();
    for life in 1..=3 {
        let behind = Journal::look_behind_damage(&dir, CLUSTER).unwrap();
        assert_eq!(behind.upto, refused.upto);
        assert_eq!(behind.promised, expected.recovered.promised);
        assert_eq!(behind.position, expected.recovered.position);
        assert_eq!(behind.incarnation, expected.incarnation + life);
        let mut now = image(&dir);
        // But for the life, in the header of the newest one.
        now.get_mut(newest).unwrap()[..512].copy_from_slice(&before[newest][..512]);
        assert!(now == before);
    }
    let mended = Journal::mend(&dir, CLUSTER, &SMALL, refused.upto).unwrap().unwrap();
    assert!(mended.is_done);
    let opened = Journal::open(&dir, CLUSTER, &SMALL).unwrap();
    assert_eq!(owed(&opened.recovered), owed_behind(&expected.recovered, mended.upto));
    assert!(opened.incarnation > expected.incarnation + 3);
}

/// Nothing follows the newest segment. What its own groups leave open is not mended; what they
/// do not, is, and then all that is owed stands.
#[test]
fn what_may_be_owed_is_not_mended() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    written(&dir);
    let expected = Journal::inspect(&dir, CLUSTER).unwrap();
    let whole = image(&dir);
    let newest = whole.iter().rfind(|(_, bytes)| is_used(bytes)).unwrap();
    let (mut refused, mut mended, mut uptos) = (0, 0, BTreeSet::new());
    for at in (0..4096).step_by(7) {
        put_back(&dir, &whole);
        let mut bytes = newest.1.clone();
        bytes[at] ^= 1;
        std::fs::write(newest.0, bytes).unwrap();
        let before = image(&dir);
        let upto = match Journal::mend(&dir, CLUSTER, &SMALL, Slot(0)) {
            Err(OpenError::Damaged(_) | OpenError::PromiseNotProvable(_)) => {
                assert!(image(&dir) == before, "at {at}");
                assert!(Journal::mend(&dir, CLUSTER, &SMALL, ALL).is_err(), "at {at}");
                refused += 1;
                continue;
            }
            // No footer was written yet, so its place is free.
            Ok(None) => {
                assert!((3584..4088).contains(&at), "at {at}");
                let found = Journal::inspect(&dir, CLUSTER).unwrap();
                assert_eq!(owed(&found.recovered), owed(&expected.recovered), "at {at}");
                continue;
            }
            answer => {
                let answer = answer.unwrap().unwrap();
                assert!(!answer.is_done && image(&dir) == before, "at {at}: {answer:?}");
                answer.upto
            }
        };
        let looked = Journal::inspect_behind_damage(&dir, CLUSTER).unwrap().0.recovered;
        let mut as_looked = expected.recovered.clone();
        as_looked.open.retain(|open| open.slot > upto);
        as_looked.chosen_upto = as_looked.chosen_upto.max(upto);
        assert_eq!(owed(&looked), owed(&as_looked), "at {at}");
        if at % 2 == 0 {
            // The state is asked of others first.
            let behind = Journal::look_behind_damage(&dir, CLUSTER).unwrap();
            assert_eq!((behind.upto, behind.held), (upto, Slot(30)));
            assert_eq!(behind.promised, expected.recovered.promised);
            assert_eq!(behind.position, expected.recovered.position);
            assert!(behind.incarnation > expected.incarnation);
            let is_there = |(path, bytes): (&PathBuf, &Vec<u8>)| image(&dir)[path] == *bytes;
            // The next one was made ready, and begins now.
            assert!(before.iter().filter(|(_, bytes)| is_used(bytes)).all(is_there));
        }
        assert!(!Journal::mend(&dir, CLUSTER, &SMALL, Slot(upto.0 - 1)).unwrap().unwrap().is_done);
        let answer = Journal::mend(&dir, CLUSTER, &SMALL, upto).unwrap().unwrap();
        assert!(answer.is_done && answer.damage.file == *newest.0, "at {at}: {answer:?}");
        let mut opened = Journal::open(&dir, CLUSTER, &SMALL).unwrap();
        assert!(opened.incarnation > expected.incarnation);
        assert_eq!(owed(&opened.recovered), owed_behind(&expected.recovered, upto), "at {at}");
        let (first, last) = (upto.next(), expected.recovered.chosen_upto);
        let values = opened.journal.read_chosen(first, last, usize::MAX).unwrap();
        assert_eq!(values, (first.0..=last.0).map(value).collect::<Vec<_>>(), "at {at}");
        append_above(&mut opened.journal, Slot(30), 31..=43);
        drop(opened);
        let again = Journal::inspect(&dir, CLUSTER).unwrap().recovered;
        assert_eq!((again.chosen_upto, again.truncated_upto), (Slot(41), upto), "at {at}");
        uptos.insert(upto);
        mended += 1;
    }
    assert!(refused > 50 && mended > 50 && uptos.len() > 1, "{refused}, {mended}, {uptos:?}");
}

/// Two damaged groups of the newest segment: between them must be a whole one, for it repeats the
/// headers of the first one.
#[test]
fn damage_of_the_newest_file_is_mended_if_its_headers_stand_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    Journal::create(&dir, CLUSTER).unwrap();
    let large = JournalOptions { segment_bytes: 1 << 16, format: 1 };
    let mut journal = Journal::open(&dir, CLUSTER, &large).unwrap().journal;
    append(&mut journal, 1..=12);
    drop(journal);
    let expected = Journal::inspect(&dir, CLUSTER).unwrap().recovered;
    let whole = image(&dir);
    let newest = whole.iter().rfind(|(_, bytes)| is_used(bytes)).unwrap();
    // Each group has two sectors, of which the first one has all headers.
    let mut seen = BTreeMap::new();
    for (one, two) in (1..12).flat_map(|two| (0..two).map(move |one| (one, two))) {
        put_back(&dir, &whole);
        let mut bytes = newest.1.clone();
        for group in [one, two] {
            bytes[512 * (1 + 2 * group) + 40] ^= 4;
        }
        std::fs::write(newest.0, bytes).unwrap();
        let is_mended = match Journal::mend(&dir, CLUSTER, &large, ALL) {
            Ok(answer) => answer.unwrap().is_done,
            Err(OpenError::Damaged(_) | OpenError::PromiseNotProvable(_)) => false,
            Err(error) => panic!("{one} and {two}: {error}"),
        };
        // Nothing repeats the headers of the last one.
        assert_eq!(is_mended, two - one > 1 && two < 11, "{one} and {two}");
        *seen.entry(is_mended).or_insert(0) += 1;
        if is_mended {
            let found = Journal::open(&dir, CLUSTER, &large).unwrap().recovered;
            let upto = Slot(two as u64 + 1);
            assert_eq!(owed(&found), owed_behind(&expected, upto), "{one} and {two}");
        }
    }
    assert!(seen[&true] > 20 && seen[&false] > 10, "{seen:?}");
}

/// A file is filled with zeros long before it is used. Damage of those is none of the journal, unless
/// it bears a mark: then it may be a sector that was to stand elsewhere.
#[test]
fn damage_of_what_was_never_written_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    Journal::create(&dir, CLUSTER).unwrap();
    let large = JournalOptions { segment_bytes: 1 << 14, format: 1 };
    let mut journal = Journal::open(&dir, CLUSTER, &large).unwrap().journal;
    append(&mut journal, 1..=5);
    drop(journal);
    let expected = Journal::inspect(&dir, CLUSTER).unwrap().recovered;
    let whole = image(&dir);
    let (newest, bytes) = whole.iter().rfind(|(_, bytes)| is_used(bytes)).unwrap();
    let unused = (1..).map(|sector| sector * 512).find(|at| !is_used(&bytes[*at..][..512]));
    let (mut passed, mut refused) = (0, 0);
    for at in (unused.unwrap()..bytes.len()).step_by(83) {
        put_back(&dir, &whole);
        let mut bytes = bytes.clone();
        bytes[at] ^= 8;
        std::fs::write(newest, bytes).unwrap();
        // In the first sector it may be what is left of an acknowledged group.
        let is_first = at < unused.unwrap() + 512;
        if is_first || at % 512 >= 504 {
            let refusal = Journal::open(&dir, CLUSTER, &large).unwrap_err();
            assert!(matches!(refusal, OpenError::PromiseNotProvable(_)), "at {at}: {refusal}");
            refused += 1;
            continue;
        }
        for _ in 0..2 {
            let opened = Journal::open(&dir, CLUSTER, &large).unwrap();
            assert_eq!(owed(&opened.recovered), owed(&expected), "at {at}");
        }
        passed += 1;
    }
    assert!(passed > 50 && refused > 6, "{passed}, {refused}");
}

/// The file that is to follow is filled with zeros as well, and is made anew if some of them flip.
/// Nothing of it is taken for a header, or for a sector that was written.
#[test]
fn damage_of_the_file_that_was_made_ready_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    Journal::create(&dir, CLUSTER).unwrap();
    let mut journal = Journal::open(&dir, CLUSTER, &SMALL).unwrap().journal;
    append(&mut journal, 1..=5);
    drop(journal);
    let expected = Journal::inspect(&dir, CLUSTER).unwrap().recovered;
    let mut whole = image(&dir);
    whole.retain(|_, bytes| is_used(bytes));
    let newest = whole.keys().next_back().unwrap();
    let stem = newest.file_stem().unwrap().to_str().unwrap();
    let next = format!("{:0width$}", stem.parse::<u64>().unwrap() + 1, width = stem.len());
    let ready = newest.with_file_name(next).with_extension(newest.extension().unwrap_or_default());
    let (mut passed, mut refused) = (0, 0);
    for at in (3..4096).step_by(83).chain((504..4096).step_by(512)) {
        put_back(&dir, &whole);
        let mut bytes = vec![0; 4096];
        bytes[at] ^= 8;
        std::fs::write(&ready, bytes).unwrap();
        let is_doubtful = at < 512 || at % 512 >= 504;
        let scrubbed = Journal::scrub(&dir, CLUSTER, |_| true);
        assert_eq!(scrubbed.is_err(), is_doubtful, "at {at}: {scrubbed:?}");
        if is_doubtful {
            let refusal = Journal::open(&dir, CLUSTER, &SMALL).unwrap_err();
            assert!(matches!(refusal, OpenError::PromiseNotProvable(_)), "at {at}: {refusal}");
            refused += 1;
            continue;
        }
        for life in 0..2 {
            let mut opened = Journal::open(&dir, CLUSTER, &SMALL).unwrap();
            assert_eq!(owed(&opened.recovered), owed(&expected), "at {at}, life {life}");
            if life == 1 {
                append(&mut opened.journal, 6..=40);
            }
        }
        let longer = Journal::inspect(&dir, CLUSTER).unwrap().recovered;
        assert!(longer.chosen_upto == Slot(38), "at {at}: {longer:?}");
        passed += 1;
    }
    assert!(passed > 30 && refused > 10, "{passed}, {refused}");
}

/// The last slots of the first segment are open still when the next one begins. The state
/// knows that they are chosen.
#[test]
fn open_slots_that_the_state_has_are_mended() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    Journal::create(&dir, CLUSTER).unwrap();
    let mut journal = Journal::open(&dir, CLUSTER, &SMALL).unwrap().journal;
    let mut slot = 0;
    while image(&dir).values().filter(|bytes| is_used(bytes)).count() < 3 {
        slot += 1;
        append(&mut journal, slot..=slot);
    }
    drop(journal);
    let expected = Journal::inspect(&dir, CLUSTER).unwrap().recovered;
    let whole = image(&dir);
    let (sealed, bytes) = whole.iter().nth(1).unwrap();
    let mut bytes = bytes.clone();
    bytes[700] ^= 1;
    std::fs::write(sealed, bytes).unwrap();
    let less = Slot(slot - 2);
    assert!(!Journal::mend(&dir, CLUSTER, &SMALL, less).unwrap().unwrap().is_done);
    let mended = Journal::mend(&dir, CLUSTER, &SMALL, ALL).unwrap().unwrap();
    assert!(mended.is_done && mended.upto > expected.chosen_upto, "{mended:?}");
    let mut opened = Journal::open(&dir, CLUSTER, &SMALL).unwrap();
    assert_eq!(owed(&opened.recovered), owed_behind(&expected, mended.upto));
    assert_eq!(opened.recovered.truncated_upto, mended.upto);
    append(&mut opened.journal, slot + 1..=slot + 9);
    drop(opened);
    let again = Journal::inspect(&dir, CLUSTER).unwrap().recovered;
    assert_eq!(again.chosen_upto, Slot(slot + 7));
}

/// While groups are written a scrub finds nothing wrong, and it ends when it is told to.
#[test]
fn a_journal_in_use_is_scrubbed() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    Journal::create(&dir, CLUSTER).unwrap();
    let mut journal = Journal::open(&dir, CLUSTER, &SMALL).unwrap().journal;
    let mut most = 0;
    for slot in 1..=60 {
        append(&mut journal, slot..=slot);
        if slot == 40 {
            journal.truncate(Slot(20)).unwrap();
        }
        most = most.max(Journal::scrub(&dir, CLUSTER, |_| true).unwrap());
    }
    assert!(most > 5 * 4096, "{most}");
    let mut asked = 0;
    let part = Journal::scrub(&dir, CLUSTER, |_| {
        asked += 1;
        asked < 2
    });
    assert_eq!((part.unwrap(), asked), (2 * 4096, 2));
}

/// The header of the file that is written: nothing follows it, so a start would refuse it. As
/// soon as something does follow, it is damage as any other, and the promise in force stands.
#[test]
fn a_damaged_newest_file_is_mended_when_another_one_was_begun_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    Journal::create(&dir, CLUSTER).unwrap();
    let mut journal = Journal::open(&dir, CLUSTER, &SMALL).unwrap().journal;
    append(&mut journal, 1..=20);
    let whole = image(&dir);
    let (newest, bytes) = whole.iter().rfind(|(_, bytes)| is_used(bytes)).unwrap();
    let mut bytes = bytes.clone();
    bytes[20] ^= 1;
    // In place: it is open.
    let mut file = std::fs::File::options().write(true).open(newest).unwrap();
    std::io::Write::write_all(&mut file, &bytes).unwrap();
    let found = Journal::scrub(&dir, CLUSTER, |_| true).unwrap_err();
    assert!(matches!(found, OpenError::PromiseNotProvable(_)), "{found}");
    journal.begin_next().unwrap();
    let found = Journal::scrub(&dir, CLUSTER, |_| true).unwrap_err();
    assert!(matches!(found, OpenError::Damaged(_)), "{found}");
    append(&mut journal, 21..=22);
    drop(journal);
    let mended = Journal::mend(&dir, CLUSTER, &SMALL, ALL).unwrap().unwrap();
    assert!(mended.is_done && mended.damage.file == *newest);
    let recovered = Journal::open(&dir, CLUSTER, &SMALL).unwrap().recovered;
    assert_eq!(recovered.promised, ballot(1 + 22 / 3));
    assert!(recovered.chosen_upto >= Slot(20), "{}", recovered.chosen_upto);
}

/// The process ended when it had begun a file and written nothing into it. Its first group repeats
/// nothing then if the file before is damaged, and is known by its headers nevertheless.
#[test]
fn the_first_group_behind_damage_is_mended_as_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    Journal::create(&dir, CLUSTER).unwrap();
    let options = JournalOptions { segment_bytes: 1 << 14, format: 1 };
    let mut journal = Journal::open(&dir, CLUSTER, &options).unwrap().journal;
    let promised = ballot(1);
    let append_eight = |journal: &mut Journal, first: u64| {
        let records: Vec<Record> = (first..first + 8)
            .map(|slot| {
                let body =
                    RecordBody::Accepted { slot: Slot(slot), ballot: promised, value: value(1) };
                Record { promised, chosen_upto: Slot(first - 1), body }
            })
            .collect();
        journal.append(&records).unwrap();
        journal.sync().unwrap();
    };
    let used = |dir: &Path| image(dir).into_iter().filter(|(_, bytes)| is_used(bytes)).collect();
    let mut first = 1;
    let mut whole: Vec<(PathBuf, Vec<u8>)> = used(&dir);
    let begun = whole.len();
    while whole.len() == begun {
        append_eight(&mut journal, first);
        first += 8;
        whole = used(&dir);
    }
    drop(journal);
    let (newest, bytes) = whole.pop().unwrap();
    std::fs::write(&newest, [&bytes[..512], &vec![0; bytes.len() - 512]].concat()).unwrap();
    let (sealed, mut bytes) = whole.pop().unwrap();
    bytes[700] ^= 1;
    std::fs::write(&sealed, bytes).unwrap();
    let mended = Journal::mend(&dir, CLUSTER, &options, ALL).unwrap().unwrap();
    assert!(mended.is_done && mended.damage.file == sealed, "{mended:?}");

    let mut journal = Journal::open(&dir, CLUSTER, &options).unwrap().journal;
    append_eight(&mut journal, mended.upto.0 + 1);
    append_eight(&mut journal, mended.upto.0 + 9);
    drop(journal);
    let expected = Journal::inspect(&dir, CLUSTER).unwrap().recovered;
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes[512 + 40] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let again = Journal::mend(&dir, CLUSTER, &options, mended.upto).unwrap().unwrap();
    assert!(again.is_done && again.damage.file == newest, "{again:?}");
    let found = Journal::open(&dir, CLUSTER, &options).unwrap().recovered;
    assert_eq!(owed(&found), owed(&expected));
}

/// What a journal shows to hold, beside a damage that it goes on behind.
#[test]
fn a_look_behind_damage_tells_what_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    written(&dir);
    let behind = Journal::look_behind_damage(&dir, CLUSTER).unwrap();
    assert_eq!((behind.upto, behind.held), (Slot(0), Slot(30)));
    let whole = image(&dir);
    let sealed = whole.keys().filter(|path| is_used(&whole[*path])).nth(3).unwrap();
    let mut bytes = whole[sealed].clone();
    bytes[700] ^= 1;
    std::fs::write(sealed, bytes).unwrap();
    let behind = Journal::look_behind_damage(&dir, CLUSTER).unwrap();
    assert!(behind.upto > Slot(0) && behind.held == Slot(30), "{behind:?}");
}

/// Which of the first slots the journal in `dir` shows, with what was kept aside of it.
fn shown(dir: &Path) -> Vec<u64> {
    let shown = Shown::read(dir, CLUSTER).unwrap();
    let is_shown = |slot: &u64| {
        let found = shown.values(Slot(*slot), Slot(*slot), 1);
        assert!(found.is_empty() || found == [value(*slot)], "{slot}: {found:?}");
        !found.is_empty()
    };
    (1..=30).filter(is_shown).collect()
}

fn kept(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut kept: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "kept")).collect();
    kept.sort();
    kept
}

/// Beside a state that is doubted the files before the damage, and what is whole of the damaged one, are
/// shown as before, and count for nothing else.
#[test]
fn what_is_mended_aside_is_shown_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    written(&dir);
    let expected = Journal::inspect(&dir, CLUSTER).unwrap().recovered;
    let whole = image(&dir);
    let used: Vec<&PathBuf> = whole.keys().filter(|path| is_used(&whole[*path])).collect();
    let damage = |place: usize| {
        let mut bytes = std::fs::read(used[place]).unwrap();
        bytes[700] ^= 1;
        std::fs::write(used[place], bytes).unwrap();
    };
    damage(3);
    let before = shown(&dir);
    assert!(before.len() > 20 && !before.contains(&30), "{before:?}");
    let mended = Journal::mend_aside(&dir, CLUSTER, &SMALL, ALL).unwrap().unwrap();
    assert!(mended.is_done && mended.damage.file == *used[3]);
    assert_eq!((shown(&dir), kept(&dir).len()), (before, 4));
    let opened = Journal::open(&dir, CLUSTER, &SMALL).unwrap();
    assert_eq!(owed(&opened.recovered), owed_behind(&expected, mended.upto));
    assert_eq!(opened.recovered.truncated_upto, mended.upto);
    drop(opened);
    // More is damaged later, and what was kept stays.
    damage(5);
    let before = shown(&dir);
    let mended = Journal::mend_aside(&dir, CLUSTER, &SMALL, ALL).unwrap().unwrap();
    assert!(mended.is_done);
    assert_eq!((shown(&dir), kept(&dir).len()), (before.clone(), 6));
    Journal::scrub(&dir, CLUSTER, |_| true).unwrap();
    // The oldest ones go first.
    let last = kept(&dir)[4..].to_vec();
    assert_eq!(Journal::drop_aside(&dir, 3 * 4096 - 1).unwrap(), 4);
    assert_eq!(kept(&dir), last);
    let fewer = shown(&dir);
    assert!(fewer.len() < before.len() && before.ends_with(&fewer), "{fewer:?}");
    assert_eq!(Journal::drop_aside(&dir, 0).unwrap(), 2);
    assert_eq!(shown(&dir).first(), Some(&mended.upto.next().0));
}

/// The journal is cut at a slot that the state has, and what it held up to there is shown all the same.
#[test]
fn what_is_cut_aside_is_shown_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("journal");
    written(&dir);
    let before = shown(&dir);
    let mut journal = Journal::open(&dir, CLUSTER, &SMALL).unwrap().journal;
    journal.truncate_aside(Slot(20)).unwrap();
    assert!(journal.truncated_upto() > Slot(10));
    drop(journal);
    assert!(kept(&dir).len() > 4);
    assert_eq!(shown(&dir), before);
}
