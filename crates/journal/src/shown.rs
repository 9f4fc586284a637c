//! What a damaged journal still shows as chosen, slot by slot.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use synod_paxos::{Planted, ShownSlots, Slot, Standing, Value};
use synod_wire::record::{ClusterId, RecordKind};

use crate::folder::Folder;
use crate::index::Location;
use crate::read::ValueReader;
use crate::scan::SegmentScan;
use crate::{OpenError, recovery};

/// The chosen values that can be told for certain from what is whole of a journal, before
/// damage and behind it. Nothing of it is a vote: that a value was chosen stays true whatever else was
/// lost, and that is all that is told.
///
/// Which they are [`ShownSlots`] says, of every record that is known by its header at least.
#[derive(Debug)]
pub struct Shown {
    folder: Folder,
    cluster: ClusterId,
    places: BTreeMap<Slot, Location>,
}

impl Shown {
    /// Reads all of the journal in `dir`, with what was kept aside of it ([`crate::Journal::mend_aside`]),
    /// and changes nothing.
    ///
    /// # Errors
    /// When there is no journal, it is in use or another cluster's or a later release's, or
    /// cannot be read at all. Damage is no error.
    pub fn read(dir: &Path, cluster: ClusterId) -> Result<Shown, OpenError> {
        Shown::of(Folder::open_to_read(dir)?.with_kept(), cluster)
    }

    fn of(folder: Folder, cluster: ClusterId) -> Result<Shown, OpenError> {
        let places = recovery::shown(&folder, cluster)?.into_places();
        Ok(Shown { folder, cluster, places })
    }

    /// [`Shown::read`] for whoever may set `stop` meanwhile: then it ends before the
    /// next file, or the next part of one that the disk cannot read as a whole.
    ///
    /// # Errors
    /// See [`Shown::read`]; and when it was told to stop.
    pub fn read_until(
        dir: &Path,
        cluster: ClusterId,
        stop: Arc<AtomicBool>,
    ) -> Result<Shown, OpenError> {
        let folder = Folder::open_to_read(dir)?.with_kept().until(stop);
        Shown::of(folder, cluster)
    }

    /// The chosen values of the slots from `first` to `last`, consecutive from `first` on, up to
    /// the one with which `bytes_max` is reached, or as far as they are here and whole.
    #[must_use]
    pub fn values(&self, first: Slot, last: Slot, bytes_max: usize) -> Vec<Value> {
        let mut reader = ValueReader::new(&self.folder, self.cluster);
        let (mut values, mut bytes) = (Vec::new(), 0_usize);
        let mut slot = first;
        while slot <= last && bytes < bytes_max {
            let Some(location) = self.places.get(&slot) else { break };
            // A sector that cannot be read and one with other bytes are the same here.
            let Ok(value) = reader.read(slot, *location) else { break };
            bytes = bytes.saturating_add(value.size_bytes());
            values.push(value);
            slot = slot.next();
        }
        values
    }

    /// The first slot after this one that is known as chosen. Its value may be damaged.
    #[must_use]
    pub fn next_after(&self, slot: Slot) -> Option<Slot> {
        self.places.range(slot.next()..).next().map(|(slot, _)| *slot)
    }
}

/// Puts together what runs of known records show.
#[derive(Debug)]
pub(crate) struct Gathering {
    shown: ShownSlots<Location>,
    /// The highest watermark that is told anywhere.
    pub(crate) chosen_upto: Slot,
    /// Above it, what counts most of each slot of which nothing that is lost may count more.
    pub(crate) last: BTreeMap<Slot, (Standing, Location)>,
}

impl Gathering {
    pub(crate) fn new() -> Gathering {
        let shown = ShownSlots::new(Planted::NONE);
        Gathering { shown, chosen_upto: Slot::ZERO, last: BTreeMap::new() }
    }

    /// Everything up to here was chosen, wherever that stands.
    pub(crate) fn told(&mut self, chosen_upto: Slot) {
        if chosen_upto > self.chosen_upto {
            self.chosen_upto = chosen_upto;
            self.last = self.last.split_off(&chosen_upto.next());
        }
    }

    /// What comes next, if anything does, does not follow what was taken last: each slot may have
    /// been accepted anew in between.
    pub(crate) fn interrupt(&mut self) {
        self.shown.interrupt();
        self.last.retain(|_, (standing, _)| *standing == Standing::Chosen);
    }

    pub(crate) fn take(&mut self, segment: u32, scan: &SegmentScan) {
        for group in &scan.groups {
            for record in &group.records {
                let (slot, standing) = match record.header.kind {
                    RecordKind::Accepted(slot, ballot) => (slot, Standing::Accepted(ballot)),
                    RecordKind::Chosen(slot) => (slot, Standing::Chosen),
                    RecordKind::StartAfter(slot) => {
                        self.shown.start_after(slot);
                        continue;
                    }
                    RecordKind::Promise => continue,
                };
                let Ok(payload_at) = u32::try_from(record.payload_at) else { continue };
                let body_bytes = record.header.body_bytes;
                let location = Location { segment, payload_at, body_bytes };
                self.shown.take(slot, standing, location);
                if slot > self.chosen_upto
                    && self.last.get(&slot).is_none_or(|(held, _)| *held <= standing)
                {
                    self.last.insert(slot, (standing, location));
                }
            }
            self.told(group.header.chosen_upto);
            self.shown.pass(group.header.chosen_upto);
        }
    }

    pub(crate) fn into_places(self) -> BTreeMap<Slot, Location> {
        self.shown.into_places()
    }
}
