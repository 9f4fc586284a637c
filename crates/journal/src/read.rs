//! Reading values back.

use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use synod_paxos::{AcceptedSlot, Slot, Value};
use synod_wire::record::sector::{self, PAYLOAD_BYTES, SECTOR_BYTES, Sector, Seed};
use synod_wire::record::{ClusterId, RECORD_HEADER_BYTES, RecordHeader};

use crate::error::{Damage, During};
use crate::folder::Folder;
use crate::index::{Index, Location};
use crate::recovery::disk_reads;
use crate::{JournalError, OpenError};

/// Consecutive chosen values from the range's start.
pub(crate) fn chosen_values(
    folder: &Folder,
    cluster: ClusterId,
    index: &Index,
    slots: RangeInclusive<Slot>,
    bytes_max: usize,
) -> Result<Vec<Value>, JournalError> {
    let mut reader = ValueReader::new(folder, cluster);
    let (mut values, mut bytes) = (Vec::new(), 0_usize);
    let mut slot = *slots.start();
    while slots.contains(&slot) && bytes < bytes_max {
        let Some(location) = index.find_chosen(slot) else {
            break;
        };
        let value = reader.read(slot, location)?;
        bytes = bytes.saturating_add(value.size_bytes());
        values.push(value);
        slot = slot.next();
    }
    Ok(values)
}

/// What stands above the watermark, with values.
pub(crate) fn open_values(
    folder: &Folder,
    cluster: ClusterId,
    index: &Index,
) -> Result<Vec<AcceptedSlot>, OpenError> {
    let mut reader = ValueReader::new(folder, cluster);
    let read = |entry: crate::index::Entry| {
        let value = reader.read(entry.slot, entry.location).map_err(|error| match error {
            JournalError::Damaged(damage) => OpenError::Damaged(damage),
            JournalError::Io { what, path, source } => OpenError::Io { what, path, source },
            other => unreachable!("reading does not fail by {other}"),
        })?;
        Ok(AcceptedSlot { slot: entry.slot, standing: entry.standing, value })
    };
    index.open().map(read).collect()
}

/// Keeps the last segment open, since neighbours mostly share it.
pub(crate) struct ValueReader<'a> {
    folder: &'a Folder,
    cluster: ClusterId,
    opened: Option<(u32, File)>,
}

impl<'a> ValueReader<'a> {
    pub(crate) fn new(folder: &'a Folder, cluster: ClusterId) -> ValueReader<'a> {
        ValueReader { folder, cluster, opened: None }
    }

    pub(crate) fn read(&mut self, slot: Slot, location: Location) -> Result<Value, JournalError> {
        let number = u64::from(location.segment);
        let file = match self.opened.take() {
            Some((segment, file)) if segment == location.segment => file,
            _ => self.folder.open_segment(number)?,
        };
        let path = self.folder.segment_path(number);
        let first = location.payload_at as usize / PAYLOAD_BYTES;
        let within = location.payload_at as usize % PAYLOAD_BYTES;
        let length = RECORD_HEADER_BYTES + location.body_bytes as usize;
        let mut sectors = vec![0; (within + length).div_ceil(PAYLOAD_BYTES) * SECTOR_BYTES];
        let at = (first * SECTOR_BYTES) as u64;
        let read = file.read_exact_at(&mut sectors, at);
        let read = read.and_then(|()| disk_reads(number, at..at + sectors.len() as u64));
        read.during("read", &path)?;
        self.opened = Some((location.segment, file));

        let damaged = |sector: usize, what| {
            JournalError::Damaged(Damage {
                file: path.clone(),
                offset: (sector * SECTOR_BYTES) as u64,
                what,
                position: None,
                slot: Some(slot),
                ballot: None,
            })
        };
        let seed = Seed::new(self.cluster, number);
        for (at, bytes) in (first..).zip(sectors.chunks_exact(SECTOR_BYTES)) {
            if !matches!(sector::inspect(seed, at as u64, bytes), Sector::Whole { .. }) {
                return Err(damaged(at, "a value that was written is damaged"));
            }
        }
        let payload = Bytes::from(sector::payload(&sectors)).slice(within..within + length);
        let value = RecordHeader::decode(&payload).ok().and_then(|(header, _)| {
            let of_slot = header.slot().is_some_and(|(found, _)| found == slot);
            let value = header.value(payload.slice(RECORD_HEADER_BYTES..)).ok()?;
            value.filter(|_| of_slot)
        });
        value.ok_or_else(|| damaged(first, "another record stands where a value was written"))
    }
}
