//! A group's records as bytes, in the form of the release that wrote them.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use synod_paxos::{Position, Record, RecordBody, Value};
use synod_wire::record::{RECORD_HEADER_BYTES, RecordError, RecordHeader, RecordKind};

use super::Disk;

/// Every folder of the simulation is of one cluster.
const CLUSTER_TAG: u32 = 1;

/// In which form a process writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Form {
    /// What it writes.
    pub(crate) written: u32,
    /// What it says of that.
    pub(crate) named: u32,
}

/// The records of one group on the disk. What the header of a real segment says of its form, each
/// group says here of its own.
#[derive(Clone, Debug)]
pub(super) struct Written {
    named: u32,
    bytes: Bytes,
}

impl Written {
    pub(super) fn of(records: &[(Position, Record)], form: Form) -> Self {
        let (mut out, mut link) = (BytesMut::new(), 0);
        for (position, record) in records {
            let (header, body) = RecordHeader::of(record, CLUSTER_TAG, *position, link);
            let (bytes, checksum) = header.in_format(form.written).encode();
            out.put_slice(&bytes);
            out.put_slice(&body);
            link = checksum;
        }
        Written { named: form.named, bytes: out.freeze() }
    }

    /// The records, as a program reads them that knows the forms up to `newest`.
    ///
    /// # Errors
    /// When they are not what such a program expects.
    fn read(&self, newest: u32) -> Result<Vec<(Position, Record)>, RecordError> {
        let (mut rest, mut link, mut records) = (self.bytes.clone(), 0, Vec::new());
        while !rest.is_empty() {
            let (header, checksum) = RecordHeader::decode_as_of(newest, &rest)?;
            if header.link != link {
                return Err(RecordError::Field("link"));
            }
            let mut behind = rest.split_off(RECORD_HEADER_BYTES);
            if behind.len() < header.body_bytes as usize {
                return Err(RecordError::Short);
            }
            rest = behind.split_off(header.body_bytes as usize);
            records.push((header.position, record(&header, header.value(behind)?)?));
            link = checksum;
        }
        Ok(records)
    }
}

impl Disk {
    /// The newest form that the journal says it has.
    pub(crate) fn newest_form(&self) -> u32 {
        let written = self.groups.iter().filter_map(|group| group.written.as_ref());
        written.map(|written| written.named).max().unwrap_or(0)
    }

    /// Has every record be what a program reads that knows the forms up to `newest`. Returns
    /// the forms.
    ///
    /// # Errors
    /// When one is nothing that it can read.
    pub(crate) fn read_back(&mut self, newest: u32) -> Result<BTreeSet<u32>, RecordError> {
        let mut forms = BTreeSet::new();
        for group in self.groups.iter_mut().filter(|group| !group.damaged) {
            if let Some(written) = &group.written {
                group.records = written.read(newest)?;
                forms.insert(written.named);
            }
        }
        Ok(forms)
    }
}

fn record(header: &RecordHeader, value: Option<Value>) -> Result<Record, RecordError> {
    let body = match (header.kind, value) {
        (RecordKind::Promise, None) => RecordBody::Promise,
        (RecordKind::StartAfter(slot), None) => RecordBody::StartAfter { slot },
        (RecordKind::Accepted(slot, ballot), Some(value)) => {
            RecordBody::Accepted { slot, ballot, value }
        }
        (RecordKind::Chosen(slot), Some(value)) => RecordBody::Chosen { slot, value },
        _ => return Err(RecordError::Field("value")),
    };
    Ok(Record { promised: header.promised, chosen_upto: header.chosen_upto, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_paxos::{Ballot, NodeId, Slot};

    #[test]
    fn each_release_reads_what_it_knows_and_takes_nothing_else_for_it() {
        let ballot = Ballot { round: 3, node: NodeId(1) };
        let value = Value::Batch(Bytes::from_static(b"commands"));
        let bodies = [
            RecordBody::Promise,
            RecordBody::Accepted { slot: Slot(7), ballot, value: value.clone() },
            RecordBody::Chosen { slot: Slot(8), value: Value::Noop },
            RecordBody::StartAfter { slot: Slot(9) },
        ];
        let record = |body| Record { promised: ballot, chosen_upto: Slot(6), body };
        let records: Vec<_> = (5..).map(Position).zip(bodies.map(record)).collect();
        let of = |written| Written::of(&records, Form { written, named: written });
        for (written, newest) in [(1, 1), (1, 2), (2, 2)] {
            assert_eq!(of(written).read(newest).as_ref(), Ok(&records));
        }
        assert!(of(2).read(1).is_err(), "the older release does not know the field");
    }
}
