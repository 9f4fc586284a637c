//! Reading a journal for what it shows as chosen, damaged as it may be.

use std::collections::BTreeMap;

use synod_paxos::Slot;
use synod_wire::record::{ClusterId, SegmentHeader};

use super::Reader;
use crate::OpenError;
use crate::folder::Folder;
use crate::index::Location;
use crate::scan::Segment;
use crate::shown::Gathering;

/// Finds the values that are known as chosen in the journal in `folder`, damaged as it may be.
/// Changes nothing.
pub(crate) fn shown(
    folder: &Folder,
    cluster: ClusterId,
) -> Result<BTreeMap<Slot, Location>, OpenError> {
    Reader { folder, cluster }.shown()
}

impl Reader<'_> {
    /// The places of all values that what is whole of the journal shows as chosen.
    fn shown(&self) -> Result<BTreeMap<Slot, Location>, OpenError> {
        let mut gathering = Gathering::new();
        let (mut end, mut ahead) = (None, None);
        for number in self.folder.segment_numbers()? {
            let read = match ahead.take() {
                Some(read) => Some(read),
                None => self.if_whole(number)?,
            };
            let Some((header, bytes)) = read else { continue };
            let next = self.if_whole(number + 1)?;
            let first_copies = || {
                let (header, bytes) = next.as_ref()?;
                Segment::new(bytes, *header).first_copies()
            };
            let next_header = next.as_ref().map(|(header, _)| header);
            let segment = u32::try_from(number).expect("the folder lists no others");
            for known in Segment::new(&bytes, header).scan_known(next_header, first_copies) {
                if end != Some(known.after) {
                    gathering.interrupt();
                }
                gathering.take(segment, &known.scan);
                end = Some(known.end());
            }
            ahead = next;
        }
        Ok(gathering.into_places())
    }

    /// A segment whose header is whole; none when it is not, or there is no such segment.
    fn if_whole(&self, number: u64) -> Result<Option<(SegmentHeader, Vec<u8>)>, OpenError> {
        if !self.folder.segment_path(number).exists() {
            return Ok(None);
        }
        let read = self.header(number, true).and_then(|header| {
            let bytes = self.read(&header, true)?;
            Ok((header, bytes))
        });
        match read {
            Ok(read) => Ok(Some(read)),
            Err(OpenError::Damaged(_) | OpenError::PromiseNotProvable(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
