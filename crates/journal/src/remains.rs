//! What is left of a journal, for whoever makes something new of it.

use std::collections::BTreeMap;
use std::path::Path;

use synod_paxos::{Slot, Value};
use synod_wire::record::ClusterId;

use crate::error::Damage;
use crate::folder::Folder;
use crate::index::{Index, Location};
use crate::read::ValueReader;
use crate::shown::Gathering;
use crate::{JournalError, OpenError, recovery};

/// A journal that is only read, as far as it can be trusted. Nobody may vote from it.
///
/// Of a damaged one every slot counts whose chosen value is certain, before the damage and behind
/// it (see [`crate::Shown`]), up to the first that is not. Acceptances of slots that were not known as
/// chosen count above that only if it says of no such slot that it was chosen: what was
/// accepted there once may not be what was chosen, and then it would be wrong, not merely missing. Nor
/// does one count behind which something is lost of which nothing is known: that may have been a later
/// acceptance of the slot.
#[derive(Debug)]
pub struct Remains {
    folder: Folder,
    cluster: ClusterId,
    truncated_upto: Slot,
    chosen_upto: Slot,
    /// Where the values stand, chosen and open ones.
    places: BTreeMap<Slot, Location>,
    incarnation: u64,
    damage: Option<Damage>,
    told_upto: Slot,
}

/// What [`recovery::remains`] found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) index: Index,
    pub(crate) incarnation: u64,
    pub(crate) damage: Option<Damage>,
    pub(crate) told_upto: Slot,
}

impl Remains {
    /// Reads the journal in `dir` and changes nothing. Damage in segments that hold only
    /// slots up to `applied`, which nobody needs any more, does not matter.
    ///
    /// # Errors
    /// When there is no journal, it is in use or another cluster's, or cannot be read.
    pub fn read(dir: &Path, cluster: ClusterId, applied: Slot) -> Result<Remains, OpenError> {
        let folder = Folder::open_to_read(dir)?;
        let Found { index, incarnation, damage, told_upto } =
            recovery::remains(&folder, cluster, applied)?;
        let truncated_upto = index.truncated_upto();
        let mut remains = Remains {
            folder,
            cluster,
            truncated_upto,
            chosen_upto: index.chosen_upto(),
            places: BTreeMap::new(),
            incarnation,
            damage,
            told_upto,
        };
        if remains.damage.is_some() {
            let shown = recovery::shown(&remains.folder, cluster)?;
            remains.take_shown(&index, shown, applied);
        } else {
            let chosen = slots_from(truncated_upto, index.chosen_upto());
            let chosen = chosen.filter_map(|slot| Some((slot, index.find_chosen(slot)?)));
            let open = index.open().map(|entry| (entry.slot, entry.location));
            remains.places = chosen.chain(open).collect();
        }
        Ok(remains)
    }

    /// Takes what is certain of a damaged journal. Values of slots up to `applied` are not needed.
    fn take_shown(&mut self, index: &Index, shown: Gathering, applied: Slot) {
        let (passed_upto, last, shown) =
            (shown.chosen_upto, shown.last.clone(), shown.into_places());
        let reader = &mut ValueReader::new(&self.folder, self.cluster);
        let mut is_whole = |slot, place| reader.read(slot, place).is_ok();
        // What the beginning knows as chosen is certain, and so is what is shown after it.
        let mut chosen_upto = self.truncated_upto.max(applied);
        loop {
            let slot = chosen_upto.next();
            let place = index.find_chosen(slot).or_else(|| shown.get(&slot).copied());
            let Some(place) = place.filter(|place| is_whole(slot, *place)) else { break };
            self.places.insert(slot, place);
            chosen_upto = slot;
        }
        self.told_upto = self.told_upto.max(passed_upto);
        if let Some((slot, _)) = last.last_key_value() {
            self.told_upto = self.told_upto.max(*slot);
        }
        self.chosen_upto = chosen_upto;
        if passed_upto <= chosen_upto {
            let open = last.into_iter().filter(|(slot, _)| *slot > chosen_upto);
            let open = open.map(|(slot, (_, place))| (slot, place));
            self.places.extend(open.filter(|(slot, place)| is_whole(*slot, *place)));
        }
    }

    /// Why it ends early, if it does.
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// How often the journal was opened.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// It holds nothing at or below this slot.
    #[must_use]
    pub fn truncated_upto(&self) -> Slot {
        self.truncated_upto
    }

    /// Every slot up to here is known as chosen.
    #[must_use]
    pub fn chosen_upto(&self) -> Slot {
        self.chosen_upto
    }

    /// The highest slot that the journal is known to have held, damaged or not: as the
    /// beginnings of its segments say, and what was read. There may be later ones.
    #[must_use]
    pub fn told_upto(&self) -> Slot {
        self.told_upto
    }

    /// The slots above [`Remains::chosen_upto`] that have a value, in their order.
    pub fn open_slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.places.range(self.chosen_upto.next()..).map(|(slot, _)| *slot)
    }

    /// The value of a slot: the chosen one, or the acceptance of the highest ballot; none
    /// when the slot has none here.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn value(&self, slot: Slot) -> Result<Option<Value>, JournalError> {
        let mut reader = ValueReader::new(&self.folder, self.cluster);
        self.places.get(&slot).map(|place| reader.read(slot, *place)).transpose()
    }
}

/// The slots after `after`, up to `last`.
fn slots_from(after: Slot, last: Slot) -> impl Iterator<Item = Slot> {
    (after.0 + 1..=last.0).map(Slot)
}
