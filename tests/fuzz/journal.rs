//! What a node finds in its journal: the headers one by one, and whole folders. The
//! disk's checksums would refuse nearly every change of a byte (that they do is shown
//! in crates/journal/tests/every_byte.rs), so they are mostly made right here.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use synod_journal::{ClusterId, Journal, JournalOptions};
use synod_paxos::{Ballot, NodeId, Position, Record, RecordBody, Slot, Value};
use synod_wire::record::sector::{PAYLOAD_BYTES, SECTOR_BYTES, Seed};
use synod_wire::record::{
    GROUP_HEADER_BYTES, GroupBuilder, GroupHeader, GroupPlace, PreviousEnd, RECORD_HEADER_BYTES,
    RecordHeader, SegmentFooter, SegmentHeader,
};

use crate::engine::{Answer, Fuzz};
use crate::memory::within;

const CLUSTER: ClusterId = ClusterId(0x1234_5678_9abc_def0_0fed_cba9_8765_4321);
const SEGMENT_BYTES: usize = 3072;
/// What a segment begins with, and by which an input is cut into segments.
const MAGIC: &[u8] = b"SynodSeg";

fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(2) }
}

fn records() -> Vec<Record> {
    let value = Value::Batch(Bytes::from_static(b"some commands"));
    let bodies = [
        RecordBody::Promise,
        RecordBody::Accepted { slot: Slot(2), ballot: ballot(3), value: value.clone() },
        RecordBody::Accepted { slot: Slot(3), ballot: ballot(3), value: Value::Noop },
        RecordBody::Chosen { slot: Slot(2), value },
        RecordBody::StartAfter { slot: Slot(6) },
    ];
    let record = |body| Record { promised: ballot(7), chosen_upto: Slot(1), body };
    bodies.map(record).into()
}

/// Replaces the last four bytes by the checksum of those before.
fn seal(bytes: &mut [u8]) {
    let (fields, checksum) = bytes.split_last_chunk_mut().expect("longer than its checksum");
    *checksum = crc32c::crc32c(fields).to_le_bytes();
}

fn seal_sector(segment: u64, sector: u64, bytes: &mut [u8]) {
    let (covered, checksum) = bytes.split_last_chunk_mut().expect("a sector");
    let cluster = crc32c::crc32c(&CLUSTER.0.to_le_bytes());
    let seed = crc32c::crc32c_append(cluster, &segment.to_le_bytes());
    let place = crc32c::crc32c_append(seed, &sector.to_le_bytes());
    *checksum = crc32c::crc32c_append(place, covered).to_le_bytes();
}

fn group_header() -> GroupHeader {
    GroupHeader {
        number: 1,
        payload_bytes: 0,
        records: 0,
        copies: 0,
        position_before: Position(0),
        link: 0,
        promised: ballot(7),
        chosen_upto: Slot(1),
        truncated_upto: Slot(0),
        oldest_segment: 1,
    }
}

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        format: 1,
        cluster: CLUSTER,
        number: 2,
        file_bytes: SEGMENT_BYTES as u64,
        incarnation: 4,
        promised: ballot(5),
        chosen_upto: Slot(7),
        truncated_upto: Slot(8),
        oldest_segment: 9,
        highest_slot_before: Slot(10),
        previous: PreviousEnd { sectors: 11, position: Position(12), link: 13, last_records: 14 },
    }
}

/// The headers of the format, each behind the number of its kind.
fn headers() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut builder = GroupBuilder::default();
    builder.begin(&[]);
    for record in records() {
        let (header, _) = RecordHeader::of(&record, CLUSTER.tag(), Position(11), 12);
        all.push([&[0], &header.encode().0[..]].concat());
        builder.push(&record, CLUSTER.tag(), Position(11), 12);
    }
    all.push([&[1], &segment_header().encode()[..]].concat());
    let place = GroupPlace { seed: Seed::new(CLUSTER, 2), first_sector: 1, number: 1 };
    let group = builder.finish(place, group_header());
    all.push([&[2], &group[..GROUP_HEADER_BYTES]].concat());
    let footer = SegmentFooter { next: 3, sectors: 4 }.encode(place.seed, 5);
    all.push([&[3], &footer[..]].concat());
    all
}

/// A header with a right checksum is refused, or is the only one of its meaning.
#[test]
fn record() {
    let fuzz = Fuzz { name: "record", valid: headers(), words: &[], bytes_max: 600 };
    fuzz.run(|input| {
        let kind = input.first().map_or(0, |kind| kind % 4);
        let length = [RECORD_HEADER_BYTES, SECTOR_BYTES, GROUP_HEADER_BYTES, SECTOR_BYTES];
        let length = length[usize::from(kind)];
        let mut bytes = input.get(1..).unwrap_or_default().to_vec();
        bytes.truncate(length);
        if bytes.len() == length {
            match kind {
                3 => seal_sector(2, 5, &mut bytes),
                _ => seal(&mut bytes),
            }
        }
        match kind {
            0 => {
                let decoded = within(1, || RecordHeader::decode(&bytes));
                if let Ok((header, checksum)) = decoded {
                    let (again, same) = header.encode();
                    assert_eq!((&again[..], same), (&bytes[..], checksum), "another header");
                }
                Answer::of(&decoded, format!("{:?}", decoded.map(|(header, _)| header.value)))
            }
            1 => {
                let decoded = within(1, || SegmentHeader::decode(&bytes));
                if let Ok(header) = decoded {
                    assert_eq!(header.encode()[..], bytes[..], "another header");
                }
                Answer::of(&decoded, "segment")
            }
            2 => {
                let decoded = within(1, || GroupHeader::decode(&bytes));
                if let Ok(header) = decoded {
                    assert!(header.records_at() as u64 <= header.payload_bytes);
                }
                Answer::of(&decoded, "group")
            }
            _ => {
                let seed = Seed::new(CLUSTER, 2);
                let decoded = within(1, || SegmentFooter::decode(seed, 5, &bytes));
                if let Ok(Some(footer)) = decoded {
                    assert_eq!(footer.encode(seed, 5), bytes, "another footer");
                }
                Answer::of(&decoded, "footer")
            }
        }
    });
}

/// A folder on a disk in memory where there is one.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(folder).expect("a folder")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).expect("a folder");
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    files
}

/// Journals of one to four segments, one behind the other in one input. Its first byte
/// says which checksums are made right.
fn folders() -> Vec<Vec<u8>> {
    let folder = scratch();
    let dir = folder.path().join("journal");
    let options = JournalOptions { segment_bytes: SEGMENT_BYTES as u64, format: 1 };
    Journal::create(&dir, CLUSTER).expect("made");
    let mut all = Vec::new();
    let mut slot = 0;
    for life in 1..=3 {
        let mut journal = Journal::open(&dir, CLUSTER, &options).expect("whole").journal;
        for bytes in [10, 900, 300, 1_100] {
            slot += 1;
            let value = Value::Batch(Bytes::from(vec![0xB0 | life; bytes]));
            let record =
                |body| Record { promised: ballot(life.into()), chosen_upto: Slot(slot - 1), body };
            let accepted =
                RecordBody::Accepted { slot: Slot(slot), ballot: ballot(life.into()), value };
            let records = [record(accepted), record(RecordBody::Promise)];
            journal.append(&records).expect("appended");
            journal.sync().expect("synced");
            let segments = files(&dir).into_iter().map(|file| fs::read(file).expect("a segment"));
            let segments: Vec<_> = segments.filter(|bytes| bytes.starts_with(MAGIC)).collect();
            all.extend([1, 3, 7].map(|flags| [vec![flags], segments.concat()].concat()));
        }
    }
    all
}

/// Makes the checksums right of what looks like a segment: of its sectors with flag 1,
/// of headers and values with 2, and the links from record to record with 4. `link` is
/// that of the last record before.
fn seal_segment(flags: u8, number: u64, bytes: &mut [u8], link: &mut u32) {
    if flags & 4 != 0
        && number > 1
        && let Some(place) = bytes.get_mut(112..116)
    {
        place.copy_from_slice(&link.to_le_bytes());
    }
    let sectors = bytes.len() / SECTOR_BYTES;
    let mut start = 1;
    while flags & 2 != 0 && start < sectors {
        let is_first = |at: usize| bytes[at * SECTOR_BYTES + PAYLOAD_BYTES + 3] & 0x80 != 0;
        let is_zero =
            |at: usize| bytes[at * SECTOR_BYTES..][..SECTOR_BYTES].iter().all(|b| *b == 0);
        if !bytes[start * SECTOR_BYTES..].starts_with(b"SynG") {
            start += 1;
            continue;
        }
        let end = (start + 1..sectors).find(|at| is_first(*at) || is_zero(*at)).unwrap_or(sectors);
        seal_group(&mut bytes[start * SECTOR_BYTES..end * SECTOR_BYTES], flags, link);
        start = end;
    }
    for (at, sector) in (0..).zip(bytes.chunks_exact_mut(SECTOR_BYTES)) {
        if at == 0 {
            seal(sector);
        } else if sector.iter().any(|byte| *byte != 0) {
            seal_sector(number, at, sector);
        }
    }
}

fn seal_group(sectors: &mut [u8], flags: u8, link: &mut u32) {
    let mut payload: Vec<u8> =
        sectors.chunks(SECTOR_BYTES).flat_map(|sector| &sector[..PAYLOAD_BYTES]).copied().collect();
    let word = |payload: &[u8], at: usize| {
        payload.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes(*bytes.first_chunk().unwrap()))
    };
    let put = |payload: &mut [u8], place: Range<usize>, value: u32| {
        payload[place].copy_from_slice(&value.to_le_bytes());
    };
    if flags & 4 != 0 {
        put(&mut payload, 32..36, *link);
    }
    seal(&mut payload[..GROUP_HEADER_BYTES]);
    let (records, copies) = (word(&payload, 16), word(&payload, 20));
    let mut at = GROUP_HEADER_BYTES.saturating_add(copies as usize * RECORD_HEADER_BYTES);
    for _ in 0..records {
        let body_at = at + RECORD_HEADER_BYTES;
        if body_at > payload.len() {
            break;
        }
        let body_end = body_at + word(&payload, at + 56) as usize;
        if let Some(body) = payload.get(body_at..body_end) {
            let checksum = crc32c::crc32c(body);
            put(&mut payload, at + 60..at + 64, checksum);
        }
        if flags & 4 != 0 {
            put(&mut payload, at + 64..at + 68, *link);
        }
        seal(&mut payload[at..body_at]);
        *link = word(&payload, body_at - 4);
        at = body_end;
    }
    for (sector, payload) in sectors.chunks_mut(SECTOR_BYTES).zip(payload.chunks(PAYLOAD_BYTES)) {
        sector[..PAYLOAD_BYTES].copy_from_slice(payload);
    }
}

/// Cuts an input before each segment's beginning.
fn segments(bytes: &mut [u8]) -> Vec<&mut [u8]> {
    let mut places: Vec<usize> =
        (1..bytes.len()).filter(|at| bytes[*at..].starts_with(MAGIC)).collect();
    let mut rest = bytes;
    let mut all = Vec::new();
    while let Some(place) = places.pop() {
        let (before, segment) = rest.split_at_mut(place);
        all.push(segment);
        rest = before;
    }
    all.push(rest);
    all.reverse();
    all
}

/// A folder is read or refused. What was read can be served from: opened, written to,
/// and read again as the same and a record more.
#[test]
fn journal() {
    let folder = scratch();
    let dir = folder.path().join("journal");
    fs::create_dir(&dir).expect("made");
    let fuzz = Fuzz {
        name: "journal",
        valid: folders(),
        words: &[b"SynR", b"SynG", MAGIC],
        bytes_max: 32 << 10,
    };
    fuzz.run(|input| {
        let Some((flags, bytes)) = input.split_first() else {
            return Answer { accepted: false, words: "empty".to_owned() };
        };
        files(&dir).into_iter().for_each(|file| fs::remove_file(file).expect("removed"));
        let mut link = 0;
        let mut bytes = bytes.to_vec();
        for (number, segment) in (1..).zip(segments(&mut bytes)) {
            if flags & 1 != 0 && segment.len() >= SECTOR_BYTES {
                seal_segment(*flags, number, segment, &mut link);
            }
            fs::write(dir.join(format!("{number:016}.seg")), segment).expect("written");
        }
        let read = within((80 << 10) + 4 * input.len(), || Journal::inspect(&dir, CLUSTER));
        if let Ok(before) = &read {
            serve_from(&dir, before.recovered.position, before.recovered.promised);
        }
        let words = read.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let what = words.rsplit(':').next().unwrap_or_default().to_owned();
        Answer { accepted: read.is_ok(), words: what }
    });
}

fn serve_from(dir: &Path, position: Position, promised: Ballot) {
    let options = JournalOptions { segment_bytes: SEGMENT_BYTES as u64, format: 1 };
    let Ok(mut opened) = Journal::open(dir, CLUSTER, &options) else { return };
    assert_eq!(opened.recovered.position, position);
    let chosen_upto = opened.recovered.chosen_upto;
    let record = Record { promised, chosen_upto, body: RecordBody::Promise };
    opened.journal.append(&[record]).expect("appended");
    opened.journal.sync().expect("synced");
    drop(opened);
    let after = Journal::inspect(dir, CLUSTER).expect("a journal that was written to is whole");
    assert_eq!(after.recovered.position.0, position.0 + 1);
    assert_eq!(after.recovered.promised, promised);
}
